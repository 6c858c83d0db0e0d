/** open_channel2 and accept_channel2, both roles (BOLT 2, channel establishment v2). */
import { channelIdV2, temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { feerate, type FeeratePerKw, type Sat } from "bolt/units.ts";
import { errorMessage } from "bolt/wire/error_text.ts";
import type { AcceptChannel2, OpenChannel2 } from "bolt/wire/messages.ts";
import { abort } from "./abort.ts";
import type { Action } from "./actions.ts";
import { beginConstruction } from "./construct.ts";
import type { StartOpen } from "./inputs.ts";
import { andThen, end, protest, send, type Step, to } from "./step.ts";
import {
  checkAcceptChannel2,
  type CheckedOpen,
  checkFunds,
  checkOpenChannel2,
  localParams,
  partyFields,
} from "./terms.ts";
import type { ChannelParams, DualOpenState, Plan } from "./types.ts";

/** Refuses an open before it has a final id: an error for its temporary one, and the owner lets go. */
function refuseOpen(state: DualOpenState, text: string): Step {
  const said: Action[] = [
    { type: "store", step: { type: "drop_opening" } },
    { type: "outcome", outcome: { type: "failed", detail: text, byPeer: false } },
    send(errorMessage(state.channelId, text)),
  ];
  return andThen(
    to({ ...state, negotiation: null }, ...said),
    (s) => end(s, { type: "open_failed", detail: text }),
  );
}

/** Sends open_channel2. The wallet's plan is reserved already. */
export function startOpen(state: DualOpenState, input: StartOpen): Step {
  const { setup } = state;
  const local = localParams(setup);
  const confirmedInputs = input.requireConfirmedInputs || setup.policy.requireConfirmedInputs;
  const open: OpenChannel2 = {
    type: "open_channel2",
    chain_hash: setup.chainHash,
    temporary_channel_id: temporaryChannelIdV2(local.revocationBasepoint),
    funding_feerate_perkw: input.fundingFeerate,
    commitment_feerate_perkw: input.commitmentFeerate,
    funding_satoshis: input.plan.contribution,
    ...partyFields(local),
    locktime: input.locktime,
    channel_flags: 0,
    channel_type: input.channelType,
    ...(confirmedInputs ? { require_confirmed_inputs: true } : {}),
  };
  return to(
    {
      ...state,
      opener: "local",
      channelId: open.temporary_channel_id,
      temporaryChannelId: open.temporary_channel_id,
      link: { type: "up" },
      negotiation: {
        type: "awaiting_accept_channel2",
        open,
        plan: input.plan,
        drive: input.drive,
        entropy: input.entropy,
      },
    },
    send(open),
    { type: "progress" },
  );
}

/** A peer's open_channel2: judged, then lightningd plans our part (items 1 to 18, as receiver). */
export function onOpenChannel2(state: DualOpenState, open: OpenChannel2, entropy: Uint8Array): Step {
  if (state.channel !== null || state.negotiation !== null) {
    return protest(state, "open_channel2 for a channel that exists");
  }
  const begun: DualOpenState = {
    ...state,
    opener: "remote",
    channelId: open.temporary_channel_id,
    temporaryChannelId: open.temporary_channel_id,
    link: { type: "up" },
  };
  const checked = checkOpenChannel2(state.setup, open);
  if (!checked.ok) return refuseOpen(begun, checked.error.text);
  const { theirFunding, fundingFeerate, channelType, requireConfirmedInputs } = checked.value;
  return to({ ...begun, negotiation: { type: "planning_open", open, entropy } }, {
    type: "plan_open",
    theirFunding,
    feerate: fundingFeerate,
    channelType,
    requireConfirmedInputs,
    locktime: open.locktime,
  });
}

/** What both sides fixed, as the accepter has it. */
function acceptedParams(state: DualOpenState, checked: CheckedOpen): ChannelParams {
  return {
    local: localParams(state.setup),
    remote: checked.remote,
    channelType: checked.channelType,
    commitmentFeerate: checked.commitmentFeerate,
    minimumDepth: state.setup.policy.fundingConfirms,
  };
}

/** Our part is planned and reserved: accept_channel2, and the final id from here on. */
export function acceptOpen(state: DualOpenState, open: OpenChannel2, entropy: Uint8Array, plan: Plan): Step {
  const checked = checkOpenChannel2(state.setup, open);
  if (!checked.ok) return refuseOpen(state, checked.error.text);
  const params = acceptedParams(state, checked.value);
  const contributions = { local: plan.contribution, remote: checked.value.theirFunding };
  const funds = checkFunds(state.setup, "remote", params, contributions);
  if (!funds.ok) return refuseOpen(state, funds.error.text);
  // An echo of our own basepoint would make a channel id that the peer chose (eclair #3337).
  if (sameBytes(params.remote.revocationBasepoint, params.local.revocationBasepoint)) {
    return refuseOpen(state, "revocation_basepoint is ours");
  }
  const accept: AcceptChannel2 = {
    type: "accept_channel2",
    temporary_channel_id: open.temporary_channel_id,
    funding_satoshis: plan.contribution,
    ...partyFields(params.local),
    minimum_depth: params.minimumDepth,
    channel_type: params.channelType,
    ...(state.setup.policy.requireConfirmedInputs ? { require_confirmed_inputs: true } : {}),
  };
  const channelId = channelIdV2(params.local.revocationBasepoint, params.remote.revocationBasepoint);
  // The new id is known before the peer can use it: it answers accept_channel2 at once.
  const accepted = to({ ...state, channelId }, { type: "rekey", channelId }, send(accept), {
    type: "progress",
  });
  return andThen(accepted, (s) =>
    beginConstruction(s, {
      role: "accepter",
      params,
      plan,
      contributions,
      feerate: checked.value.fundingFeerate,
      locktime: open.locktime,
      requireConfirmedInputs: {
        byUs: state.setup.policy.requireConfirmedInputs,
        byThem: checked.value.requireConfirmedInputs,
      },
      drive: "automatic",
      entropy,
    }));
}

/** The answer to our open_channel2: judged, and we begin to construct (items 3, 5, 7 to 16). */
export function onAcceptChannel2(state: DualOpenState, accept: AcceptChannel2): Step {
  const { negotiation } = state;
  if (negotiation?.type !== "awaiting_accept_channel2") {
    return protest(state, "accept_channel2 was not expected");
  }
  const { open, plan, drive, entropy } = negotiation;
  const checked = checkAcceptChannel2(state.setup, open, accept);
  if (!checked.ok) return abort(state, checked.error.text);
  const { remote, theirFunding, minimumDepth, requireConfirmedInputs } = checked.value;
  const params: ChannelParams = {
    local: localParams(state.setup),
    remote,
    channelType: accept.channel_type!,
    commitmentFeerate: feerate(open.commitment_feerate_perkw),
    minimumDepth: Math.max(minimumDepth, state.setup.policy.fundingConfirms),
  };
  const channelId = channelIdV2(params.local.revocationBasepoint, remote.revocationBasepoint);
  const contributions: { local: Sat; remote: Sat } = { local: plan.contribution, remote: theirFunding };
  const funds = checkFunds(state.setup, "local", params, contributions);
  const known = to({ ...state, channelId }, { type: "rekey", channelId }, { type: "progress" });
  return andThen(known, (s) => {
    if (!funds.ok) return abort(s, funds.error.text);
    return beginConstruction(s, {
      role: "initiator",
      params,
      plan,
      contributions,
      feerate: open.funding_feerate_perkw as FeeratePerKw,
      locktime: open.locktime,
      requireConfirmedInputs: {
        byUs: open.require_confirmed_inputs !== undefined,
        byThem: requireConfirmedInputs,
      },
      drive,
      entropy,
    });
  });
}
