/** channel_reestablish before lock-in: what must be said again follows from the rows alone (BOLT 2, message retransmission). */
import { sameBytes } from "bolt/tx/transaction.ts";
import { errorMessage, txAbortMessage } from "bolt/wire/error_text.ts";
import type { ChannelReestablish, CommitmentSigned } from "bolt/wire/messages.ts";
import { failChannel } from "./abort.ts";
import { advance, channelReadyOf, finish, shutdownOf } from "./lockin.ts";
import { signIfOurTurn, txSignaturesOf } from "./sign.ts";
import { andThen, attemptOf, currentAttempt, protest, send, type Step, to, weSigned } from "./step.ts";
import type { Attempt, DualOpenState } from "./types.ts";

/** Before any revocation nobody knows a secret. */
const NO_SECRET = new Uint8Array(32);
/** next_funding, retransmit_flags: commitment_signed is wanted. */
export const RETRANSMIT_COMMITMENT_SIGNED = 1;

/** The attempt whose signatures are outstanding: our commitment_signed may have left, the peer's tx_signatures is not here (item 71). */
function outstanding(state: DualOpenState): Attempt | undefined {
  const { channel } = state;
  if (channel === null || channel.lockedAttempt !== null) return undefined;
  const attempt = currentAttempt(channel);
  return attempt?.remoteTxSignatures === null ? attempt : undefined;
}

/** A connection for a saved channel begins with channel_reestablish. */
export function onConnected(state: DualOpenState): Step {
  if (state.channel === null) return to({ ...state, link: { type: "up" } });
  const { channel, setup } = state;
  if (channel.errorText !== null) {
    // A failed channel says why at every connection, and nothing else (BOLT 2, message retransmission).
    return to({ ...state, link: { type: "down" } }, send(errorMessage(state.channelId, channel.errorText)));
  }
  const attempt = outstanding(state);
  const locked = channel.lockedAttempt === null ? undefined : attemptOf(channel, channel.lockedAttempt);
  const message: ChannelReestablish = {
    type: "channel_reestablish",
    channel_id: state.channelId,
    next_commitment_number: 1n,
    next_revocation_number: 0n,
    your_last_per_commitment_secret: NO_SECRET,
    my_current_per_commitment_point: setup.localKeys.firstPerCommitmentPoint,
    ...(attempt === undefined ? {} : {
      next_funding: {
        next_funding_txid: attempt.tx.txid,
        retransmit_flags: attempt.remoteCommitmentSignature === null ? RETRANSMIT_COMMITMENT_SIGNED : 0,
      },
    }),
    ...(locked === undefined ? {} : {
      my_current_funding_locked: { my_current_funding_locked_txid: locked.tx.txid, retransmit_flags: 0 },
    }),
  };
  return to(
    { ...state, link: { type: "reestablishing" }, badTxSignatures: 0, awaitingAbortEcho: false },
    send(message),
  );
}

/** The peer's channel_reestablish (items 72 to 76). */
export function onReestablish(state: DualOpenState, message: ChannelReestablish): Step {
  if (state.link.type !== "reestablishing") return protest(state, "channel_reestablish was not expected");
  // No commitment but number 0 exists: whoever counts further lost its mind, or we lost our rows.
  if (message.next_commitment_number !== 1n) {
    return failChannel(state, "next_commitment_number must be 1", true);
  }
  if (message.next_revocation_number !== 0n) {
    return failChannel(state, "next_revocation_number must be 0", true);
  }
  const ours = outstanding(state);
  const theirs = message.next_funding;
  if (ours !== undefined && theirs !== undefined && !sameBytes(ours.tx.txid, theirs.next_funding_txid)) {
    return failChannel(state, "next_funding_txid is not the transaction that we are signing", true);
  }
  return theirs === undefined ? resume(state) : retransmit(state, theirs);
}

function retransmit(state: DualOpenState, wanted: NonNullable<ChannelReestablish["next_funding"]>): Step {
  const attempt = currentAttempt(state.channel!);
  if (attempt === undefined || !sameBytes(attempt.tx.txid, wanted.next_funding_txid)) {
    // Not ours, or one that we aborted: its abort got lost with the connection (item 74).
    const unknown = to(
      { ...state, awaitingAbortEcho: true },
      send(txAbortMessage(state.channelId, "unknown next_funding_txid")),
    );
    return andThen(unknown, resume);
  }
  if ((wanted.retransmit_flags & RETRANSMIT_COMMITMENT_SIGNED) !== 0) {
    // commitment_signed comes first (item 76): the rest waits for hsmd's answer.
    return to({ ...state, link: { type: "resuming" } }, { type: "sign_remote_commitment", attempt });
  }
  return andThen(resumeSignatures(state, attempt), resume);
}

/** Our tx_signatures, again or when it is our turn. */
function resumeSignatures(state: DualOpenState, attempt: Attempt): Step {
  return weSigned(attempt)
    ? to(state, send(txSignaturesOf(state, attempt)))
    : signIfOurTurn(state, attempt.seq);
}

/** hsmd signed the peer's commitment 0: it is sent, and whatever had to wait for it follows. */
export function onRemoteCommitmentSigned(state: DualOpenState, seq: number, signature: Uint8Array): Step {
  const attempt = state.channel?.attempts.find((a) => a.seq === seq);
  if (attempt === undefined || attempt.aborted || state.link.type === "down") return to(state);
  const message: CommitmentSigned = {
    type: "commitment_signed",
    channel_id: state.channelId,
    signature,
    htlc_signature: [],
    funding_txid: attempt.tx.txid,
  };
  const sent = to(state, send(message), { type: "progress" });
  if (state.link.type !== "resuming") return sent;
  return andThen(andThen(sent, (s) => resumeSignatures(s, attempt)), resume);
}

/** The connection is as good as new: what was said before and may be lost is said again, then what the chain allows. */
export function resume(state: DualOpenState): Step {
  const up: DualOpenState = { ...state, link: { type: "up" } };
  return andThen(afterReestablish(up), (s) => s.ended === null ? advance(s) : to(s));
}

/** What was said before and may have been lost: channel_ready, shutdown. */
function afterReestablish(state: DualOpenState): Step {
  const { channel } = state;
  if (channel === null) return to(state);
  const ready = channel.lockedAttempt === null ? to(state) : to(state, send(channelReadyOf(state)));
  const shut = channel.shutdownSent === null
    ? ready
    : andThen(ready, (s) => to(s, send(shutdownOf(s, channel.shutdownSent!))));
  return andThen(shut, finish);
}
