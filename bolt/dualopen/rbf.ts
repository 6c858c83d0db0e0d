/** Replacing a funding transaction by fee before it confirms (BOLT 2, tx_init_rbf and tx_ack_rbf). */
import {
  checkRbfContribution,
  checkRbfFeerate,
  leastOwnRbfFeerate,
  rbfAbortText,
} from "bolt/interactive/rbf.ts";
import { feerate, type Sat, signedSat } from "bolt/units.ts";
import type { TxAckRbf, TxInitRbf } from "bolt/wire/messages.ts";
import { abort, refuse } from "./abort.ts";
import { beginConstruction } from "./construct.ts";
import type { StartRbf } from "./inputs.ts";
import { andThen, currentAttempt, protest, send, type Step, to, weSigned } from "./step.ts";
import { checkFunds } from "./terms.ts";
import type { Attempt, DualOpenState, Plan } from "./types.ts";

/** Why no replacement may start now; undefined if one may (item 64, and what our rows know). */
export function rbfHindrance(state: DualOpenState): string | undefined {
  const { channel } = state;
  if (channel === null) return "there is nothing to replace";
  if (channel.errorText !== null) return "the channel has failed";
  if (channel.lockedAttempt !== null || channel.remoteReady !== null) return "channel_ready was exchanged";
  if (channel.shutdownSent !== null || channel.shutdownReceived !== null) {
    return "the channel is shutting down";
  }
  if (state.chain.confirmed.length > 0) return "the funding transaction is confirmed";
  if (state.negotiation !== null) return "another negotiation is open";
  const attempt = currentAttempt(channel);
  if (attempt === undefined || attempt.completeTx === null) {
    return "the last funding transaction is not signed yet";
  }
  return undefined;
}

/** The replacement's parameters are the channel's. */
function contributionsOf(state: DualOpenState, local: Sat, remote: Sat) {
  const { params, opener } = state.channel!;
  return checkFunds(state.setup, opener, params, { local, remote });
}

/** Sends tx_init_rbf. The plan is reserved already; a hindrance is the command's failure, not the peer's business. */
export function startRbf(state: DualOpenState, input: StartRbf): Step {
  const last = state.channel === null ? undefined : currentAttempt(state.channel);
  const minimum = last === undefined ? undefined : leastOwnRbfFeerate(last.tx.feerate);
  const hindrance = rbfHindrance(state) ??
    (state.link.type === "up" ? undefined : "the peer is not connected") ??
    (state.awaitingAbortEcho ? "an abort is not acknowledged yet" : undefined) ??
    (minimum !== undefined && input.feerate < minimum
      ? `feerate must be at least ${minimum} sat/kw`
      : undefined);
  if (hindrance !== undefined) {
    return to(
      state,
      { type: "store", step: { type: "drop_opening" } },
      { type: "outcome", outcome: { type: "failed", detail: hindrance, byPeer: false } },
    );
  }
  const init: TxInitRbf = {
    type: "tx_init_rbf",
    channel_id: state.channelId,
    locktime: input.locktime,
    feerate: input.feerate,
    funding_output_contribution: signedSat(input.plan.contribution),
    ...(input.requireConfirmedInputs || state.setup.policy.requireConfirmedInputs
      ? { require_confirmed_inputs: true }
      : {}),
  };
  return to(
    {
      ...state,
      negotiation: {
        type: "awaiting_tx_ack_rbf",
        init,
        plan: input.plan,
        drive: input.drive,
        entropy: input.entropy,
      },
    },
    send(init),
    { type: "progress" },
  );
}

function remoteAttempts(state: DualOpenState): Attempt[] {
  return state.channel!.attempts.filter((attempt) => attempt.seq > 0 && attempt.initiator === "remote");
}

/** Why the peer's replacement comes too often: fake inputs make replacing free for it (eclair #2596). */
function tooOften(state: DualOpenState): string | undefined {
  const { maxRemoteRbfAttempts, remoteRbfMinBlocks } = state.setup.policy;
  const attempts = remoteAttempts(state);
  if (attempts.length >= maxRemoteRbfAttempts) return `no more than ${maxRemoteRbfAttempts} replacements`;
  const last = attempts.at(-1);
  if (last !== undefined && state.chain.height < last.createdHeight + remoteRbfMinBlocks) {
    return `wait ${remoteRbfMinBlocks} blocks between replacements`;
  }
  return undefined;
}

/** The peer wants to replace: judged, then lightningd plans our part (items 62 to 68). */
export function onTxInitRbf(state: DualOpenState, init: TxInitRbf, entropy: Uint8Array): Step {
  // Crossing proposals: both are refused, since neither side can know whose came first.
  if (state.negotiation !== null) return abort(state, "another negotiation is open");
  const hindrance = rbfHindrance(state) ?? tooOften(state);
  if (hindrance !== undefined) {
    const { channel } = state;
    const attempt = channel === null || channel.lockedAttempt !== null ? undefined : currentAttempt(channel);
    // The peer takes our tx_abort for one of the attempt that is being signed, so it must be that here too.
    const unsigned = attempt !== undefined && !weSigned(attempt);
    return unsigned ? abort(state, hindrance) : refuse(state, hindrance);
  }
  const last = currentAttempt(state.channel!)!;
  const rate = checkRbfFeerate(last.tx.feerate, feerate(init.feerate));
  if (!rate.ok) return refuse(state, rbfAbortText(rate.error));
  const theirs = checkRbfContribution(init.funding_output_contribution);
  if (!theirs.ok) return refuse(state, rbfAbortText(theirs.error));
  return to({ ...state, negotiation: { type: "planning_rbf", init, entropy } }, {
    type: "plan_rbf",
    theirFunding: theirs.value,
    feerate: rate.value,
    requireConfirmedInputs: init.require_confirmed_inputs !== undefined,
    locktime: init.locktime,
  });
}

/** Our part of the peer's replacement is planned and reserved: tx_ack_rbf, and the peer begins. */
export function ackRbf(state: DualOpenState, init: TxInitRbf, entropy: Uint8Array, plan: Plan): Step {
  const theirs = checkRbfContribution(init.funding_output_contribution);
  if (!theirs.ok) return abort(state, rbfAbortText(theirs.error));
  const funds = contributionsOf(state, plan.contribution, theirs.value);
  if (!funds.ok) return abort(state, funds.error.text);
  const confirmedInputs = state.setup.policy.requireConfirmedInputs;
  const ack: TxAckRbf = {
    type: "tx_ack_rbf",
    channel_id: state.channelId,
    funding_output_contribution: signedSat(plan.contribution),
    ...(confirmedInputs ? { require_confirmed_inputs: true } : {}),
  };
  return andThen(to(state, send(ack), { type: "progress" }), (s) =>
    beginConstruction(s, {
      role: "accepter",
      params: s.channel!.params,
      plan,
      contributions: { local: plan.contribution, remote: theirs.value },
      feerate: feerate(init.feerate),
      locktime: init.locktime,
      requireConfirmedInputs: { byUs: confirmedInputs, byThem: init.require_confirmed_inputs !== undefined },
      drive: "automatic",
      entropy,
    }));
}

/** The peer agrees to our replacement. */
export function onTxAckRbf(state: DualOpenState, ack: TxAckRbf): Step {
  const { negotiation } = state;
  if (negotiation?.type !== "awaiting_tx_ack_rbf") return protest(state, "tx_ack_rbf was not expected");
  const { init, plan, drive, entropy } = negotiation;
  const theirs = checkRbfContribution(ack.funding_output_contribution);
  if (!theirs.ok) return abort(state, rbfAbortText(theirs.error));
  const funds = contributionsOf(state, plan.contribution, theirs.value);
  if (!funds.ok) return abort(state, funds.error.text);
  return andThen(to(state, { type: "progress" }), (s) =>
    beginConstruction(s, {
      role: "initiator",
      params: s.channel!.params,
      plan,
      contributions: { local: plan.contribution, remote: theirs.value },
      feerate: feerate(init.feerate),
      locktime: init.locktime,
      requireConfirmedInputs: {
        byUs: init.require_confirmed_inputs !== undefined,
        byThem: ack.require_confirmed_inputs !== undefined,
      },
      drive,
      entropy,
    }));
}
