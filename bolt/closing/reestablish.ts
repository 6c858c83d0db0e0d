/** channel_reestablish of a channel that is being closed (BOLT 2, message retransmission; operation items 23 to 32). */
import { sameBytes } from "bolt/tx/transaction.ts";
import type { ChannelReestablish, Shutdown } from "bolt/wire/messages.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import type { ClosingAction, ClosingStep } from "./actions.ts";
import { abort, fail, FRESH, protest, send, to } from "./step.ts";
import type { ClosingChannel, ClosingMachine } from "./types.ts";

/** Before any revocation nobody knows a secret. */
const NO_SECRET = new Uint8Array(32);

/** Our channel_reestablish. */
export function reestablishOf(channel: ClosingChannel): ChannelReestablish {
  return {
    type: "channel_reestablish",
    channel_id: channel.channelId,
    next_commitment_number: channel.localNumber + 1n,
    next_revocation_number: channel.remoteNumber,
    your_last_per_commitment_secret: channel.lastRemoteSecret ?? NO_SECRET,
    my_current_per_commitment_point: channel.localCurrentPoint,
    my_current_funding_locked: { my_current_funding_locked_txid: channel.funding.txid, retransmit_flags: 0 },
  };
}

/** Our shutdown, the same one every time. */
export function shutdownOf(channel: ClosingChannel): Shutdown {
  return { type: "shutdown", channel_id: channel.channelId, scriptpubkey: channel.shutdownSent };
}

/** The peer's channel_reestablish. */
export function onReestablish(state: ClosingMachine, message: ChannelReestablish): ClosingStep {
  if (state.link !== "reestablishing") return protest(state, "channel_reestablish was not expected");
  const { channel } = state;
  const { next_commitment_number: next, next_revocation_number: revoked } = message;
  const secret = message.your_last_per_commitment_secret;
  if (revoked > channel.localNumber || next > channel.remoteNumber + 1n) {
    // Ahead of us. Only the secret proves it (attack 25: a lie would make us give up our own commitment).
    if (revoked <= channel.localNumber || revoked === 0n || sameBytes(secret, NO_SECRET)) {
      return fail(state, "the numbers of channel_reestablish are ahead without proof", true);
    }
    return to({ ...state, pending: { type: "stale", secret } }, {
      type: "check_secret",
      number: revoked - 1n,
      secret,
    });
  }
  // It revoked everything before the shutdown was complete, so it has had every commitment_signed of ours.
  if (next !== channel.remoteNumber + 1n) {
    return fail(state, `next_commitment_number must be ${channel.remoteNumber + 1n}`, true);
  }
  const { state: known, actions: lost } = message.next_funding === undefined ? to(state) : abort(state);
  if (revoked === channel.localNumber) return reestablished(known, message, lost);
  if (revoked + 1n === channel.localNumber) {
    // Our last revoke_and_ack did not arrive. Its secret comes from hsmd, which releases it again.
    return to(
      { ...known, pending: { type: "revocation" } },
      ...lost,
      { type: "repeat_revocation" },
    );
  }
  return fail(state, `next_revocation_number must be ${channel.localNumber}`, true);
}

/** Whether the peer knows more than our rows. */
export function onSecretChecked(state: ClosingMachine, ours: boolean): ClosingStep {
  const next: ClosingMachine = { ...state, pending: null };
  return ours
    ? fail(next, "our state of this channel is old: please broadcast your commitment", true, true)
    : fail(next, "your_last_per_commitment_secret is not ours", true);
}

/** hsmd gave our last revocation again. */
export function onRevocation(state: ClosingMachine, secret: Uint8Array, nextPoint: Uint8Array): ClosingStep {
  return up({ ...state, pending: null }, [
    send({
      type: "revoke_and_ack",
      channel_id: state.channel.channelId,
      per_commitment_secret: secret,
      next_per_commitment_point: nextPoint,
    }),
  ]);
}

function reestablished(
  state: ClosingMachine,
  message: ChannelReestablish,
  before: readonly ClosingAction[],
): ClosingStep {
  const { channel } = state;
  const actions = [...before];
  // Both still at number 1: the peer may have missed our channel_ready.
  if (message.next_commitment_number === 1n && channel.localNumber === 0n) {
    actions.push(send({
      type: "channel_ready",
      channel_id: channel.channelId,
      second_per_commitment_point: channel.localNextPoint,
      short_channel_id: shortChannelId(channel.localAlias),
    }));
  }
  return up(state, actions);
}

/** shutdown is repeated on every connection, and the negotiation starts again (item 32). */
function up(state: ClosingMachine, actions: readonly ClosingAction[]): ClosingStep {
  return to(
    { ...state, ...FRESH, link: "up", shutdownSeen: false },
    ...actions,
    send(shutdownOf(state.channel)),
  );
}
