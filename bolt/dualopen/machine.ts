/**
 * The dual-open machine (BOLT 2, channel establishment v2): one channel from its first message until both
 * channel_ready. `(state, input) -> { state, actions }`, and nothing else.
 *
 * Its driver carries out the actions in order. A question (`plan_open`, `check_confirmed`, every request to hsmd,
 * `test_funding`) is the last action that matters until its answer came back as an input, before anything else.
 */
import { unreachable } from "bolt/result.ts";
import { printableText } from "bolt/wire/error_text.ts";
import type { Message } from "bolt/wire/messages.ts";
import { abort, failChannel, isFresh, onError, onTxAbort } from "./abort.ts";
import { onConfirmedResult, onInteractiveMessage, onUpdate } from "./construct.ts";
import type { Input } from "./inputs.ts";
import { onChain, onChannelReady, onFundingLocked, onShutdown, startShutdown } from "./lockin.ts";
import { acceptOpen, onAcceptChannel2, onOpenChannel2, startOpen } from "./open.ts";
import { ackRbf, onTxAckRbf, onTxInitRbf, startRbf } from "./rbf.ts";
import { onConnected, onReestablish, onRemoteCommitmentSigned, resume } from "./reestablish.ts";
import {
  onCommitmentSigned,
  onFundingSigned,
  onFundingTested,
  onHsmRefused,
  onLocalCommitmentChecked,
  onSign,
  onTxSignatures,
} from "./sign.ts";
import { andThen, end, hangUp, protest, type Step, to } from "./step.ts";
import type { ChainFacts, DualOpenState, SavedChannel, Setup } from "./types.ts";

/** An owner of a first open, before its first message. */
export function newOpening(setup: Setup, temporaryChannelId: Uint8Array, chain: ChainFacts): DualOpenState {
  return {
    setup,
    opener: "remote",
    channelId: temporaryChannelId,
    temporaryChannelId,
    link: { type: "up" },
    channel: null,
    negotiation: null,
    chain,
    awaitingAbortEcho: false,
    badTxSignatures: 0,
    ended: null,
  };
}

/** An owner of a saved channel, from its rows. */
export function fromRows(setup: Setup, channel: SavedChannel, chain: ChainFacts): DualOpenState {
  return {
    setup,
    opener: channel.opener,
    channelId: channel.channelId,
    temporaryChannelId: null,
    link: { type: "down" },
    channel,
    negotiation: null,
    chain,
    awaitingAbortEcho: false,
    badTxSignatures: 0,
    ended: null,
  };
}

/** Lets something happen. Never throws at what a peer says. After the end nothing happens any more. */
export function step(state: DualOpenState, input: Input): Step {
  if (state.ended !== null) return to(state);
  switch (input.type) {
    case "start_open":
      return startOpen(state, input);
    case "start_rbf":
      return startRbf(state, input);
    case "update":
      return onUpdate(state, input.plan);
    case "sign":
      return onSign(state, input.witnesses);
    case "abort":
      return abort(state, input.reason);
    case "timeout":
      return onTimeout(state);
    case "start_shutdown":
      return startShutdown(state, input.script);
    case "connected":
      return onConnected(state);
    case "disconnected":
      return onDisconnected(state);
    case "message":
      return onMessage(state, input.message, input.entropy);
    case "chain":
      return onChain(state, input.facts);
    case "plan_result": {
      const { negotiation } = state;
      if (negotiation?.type === "planning_open") {
        return acceptOpen(state, negotiation.open, negotiation.entropy, input.plan);
      }
      if (negotiation?.type === "planning_rbf") {
        return ackRbf(state, negotiation.init, negotiation.entropy, input.plan);
      }
      return to(state);
    }
    case "plan_refused":
      return abort(state, input.reason);
    case "confirmed_result":
      return onConfirmedResult(state, input.results);
    case "remote_commitment_signed":
      return onRemoteCommitmentSigned(state, input.seq, input.signature);
    case "local_commitment_checked":
      return onLocalCommitmentChecked(state, input.seq, input.signature);
    case "funding_signed":
      return onFundingSigned(state, input.seq, input.witnesses);
    case "funding_locked":
      return onFundingLocked(state, input.seq);
    case "hsm_refused": {
      const refused = onHsmRefused(state, input.request, input.seq, input.refusal);
      return state.link.type === "resuming"
        ? andThen(refused, (s) => s.ended === null ? resume(s) : to(s))
        : refused;
    }
    case "funding_tested":
      return onFundingTested(state, input.seq, input.verdict, input.detail, input.tested);
    default:
      return unreachable(input);
  }
}

/** An unsaved negotiation dies with its connection; a saved channel waits in its rows. */
function onDisconnected(state: DualOpenState): Step {
  const dropped: Step = state.negotiation === null && !isFresh(state) ? to(state) : to(
    { ...state, negotiation: null },
    { type: "store", step: { type: "drop_opening" } },
    { type: "outcome", outcome: { type: "failed", detail: "the peer disconnected", byPeer: true } },
  );
  return andThen(dropped, (s) => {
    const down: DualOpenState = { ...s, link: { type: "down" }, awaitingAbortEcho: false };
    return down.channel === null
      ? end(down, { type: "open_failed", detail: "the peer disconnected" })
      : to(down);
  });
}

/** Nothing moved for the policy's time: a negotiation is aborted, a lost echo is no longer waited for. */
function onTimeout(state: DualOpenState): Step {
  if (state.awaitingAbortEcho) {
    const settled = { ...state, awaitingAbortEcho: false };
    return settled.channel === null && settled.negotiation === null
      ? end(settled, { type: "open_failed", detail: "aborted" })
      : to(settled);
  }
  return abort(state, "no progress for too long");
}

/** Messages that belong to a session that we aborted are discarded until the echo (BOLT 2, tx_abort). */
function discarded(state: DualOpenState, message: Message): boolean {
  switch (message.type) {
    case "tx_add_input":
    case "tx_add_output":
    case "tx_remove_input":
    case "tx_remove_output":
    case "tx_complete":
    case "tx_ack_rbf":
    case "tx_signatures":
    case "commitment_signed":
      return state.awaitingAbortEcho;
    default:
      return false;
  }
}

function onMessage(state: DualOpenState, message: Message, entropy: Uint8Array): Step {
  if (discarded(state, message) || (state.channel !== null && state.channel.errorText !== null)) {
    return to(state);
  }
  if (message.type === "error") return onError(state, message);
  if (message.type === "warning") {
    return to(state, {
      type: "log",
      level: "warn",
      text: `warning from peer: ${printableText(message.data)}`,
    });
  }
  if (state.link.type === "reestablishing" && message.type !== "channel_reestablish") {
    return message.type === "tx_abort"
      ? onTxAbort(state, message)
      : hangUp(state, `${message.type} before channel_reestablish`);
  }
  if (state.link.type === "down") return to(state);
  switch (message.type) {
    case "open_channel2":
      return onOpenChannel2(state, message, entropy);
    case "accept_channel2":
      return onAcceptChannel2(state, message);
    case "tx_add_input":
    case "tx_add_output":
    case "tx_remove_input":
    case "tx_remove_output":
    case "tx_complete":
      return onInteractiveMessage(state, message);
    case "commitment_signed":
      return onCommitmentSigned(state, message);
    case "tx_signatures":
      return onTxSignatures(state, message);
    case "tx_init_rbf":
      return onTxInitRbf(state, message, entropy);
    case "tx_ack_rbf":
      return onTxAckRbf(state, message);
    case "tx_abort":
      return onTxAbort(state, message);
    case "channel_reestablish":
      return onReestablish(state, message);
    case "channel_ready":
      return onChannelReady(state, message);
    case "shutdown":
      return onShutdown(state, message);
    default:
      // Updates before lock-in, a version 1 open on this id, gossip: nothing that this channel could do now.
      return hangUp(state, `${message.type} was not expected before the channel is locked in`);
  }
}

/** A frame of this channel that is no Lightning message. */
export function onGarbage(state: DualOpenState, reason: string): Step {
  if (state.ended !== null) return to(state);
  const text = `malformed message: ${reason}`;
  if (state.negotiation !== null) return abort(state, text);
  return state.channel === null ? failChannel(state, text, true) : protest(state, text);
}
