/** A step of the dual-open machine and the small pieces that its rules share. */
import { fundingScriptPubkey } from "bolt/tx/funding.ts";
import { txAbortMessage, warningMessage } from "bolt/wire/error_text.ts";
import type { Message } from "bolt/wire/messages.ts";
import type { Action } from "./actions.ts";
import type {
  Attempt,
  ChannelParams,
  ChannelState,
  DualOpenState,
  EndReason,
  SavedChannel,
} from "./types.ts";

/** What a step yields: the new state, and what to do in this order. */
export interface Step {
  readonly state: DualOpenState;
  readonly actions: readonly Action[];
}

/** A step to this state with these actions. */
export function to(state: DualOpenState, ...actions: readonly Action[]): Step {
  return { state, actions };
}

/** `next` carried out on the state of `step`; its actions follow. */
export function andThen(step: Step, next: (state: DualOpenState) => Step): Step {
  const second = next(step.state);
  return { state: second.state, actions: [...step.actions, ...second.actions] };
}

/** Sends a message. */
export function send(message: Message): Action {
  return { type: "send", message };
}

/** A message that the peer should not have sent: said as a warning, logged, and the channel goes on as it was. */
export function protest(state: DualOpenState, text: string): Step {
  return to(
    state,
    { type: "log", level: "warn", text },
    send(warningMessage(state.channelId, text)),
  );
}

/** The peer broke the protocol of a saved channel in a way that nothing of ours depends on: warn and hang up. */
export function hangUp(state: DualOpenState, text: string): Step {
  return to(state, { type: "hang_up", messages: [warningMessage(state.channelId, text)], reason: text });
}

/** The machine lets go. */
export function end(state: DualOpenState, reason: EndReason): Step {
  return to({ ...state, ended: reason }, { type: "end", reason });
}

/** The attempt that signatures are exchanged for: the newest one that was not aborted. */
export function currentAttempt(channel: SavedChannel): Attempt | undefined {
  return channel.attempts.findLast((attempt) => !attempt.aborted);
}

/** An attempt by its seq. Every seq in a store or an answer comes from a row, so it is there. */
export function attemptOf(channel: SavedChannel, seq: number): Attempt {
  const attempt = channel.attempts.find((a) => a.seq === seq);
  if (attempt === undefined) throw new RangeError(`no attempt ${seq}`);
  return attempt;
}

/** The channel with one attempt changed, and its state. */
export function withAttempt(
  channel: SavedChannel,
  seq: number,
  change: Partial<Attempt>,
  state: ChannelState = channel.state,
): SavedChannel {
  return {
    ...channel,
    state,
    attempts: channel.attempts.map((a) => a.seq === seq ? { ...a, ...change } : a),
  };
}

/** Where a channel is by its attempts: an earlier complete one outweighs a newer one that is still being signed. */
export function stateByAttempts(attempts: readonly Attempt[]): ChannelState {
  const live = attempts.filter((a) => !a.aborted);
  if (live.some((a) => a.completeTx !== null)) return "DUALOPEND_AWAITING_LOCKIN";
  if (live.some((a) => a.remoteCommitmentSignature !== null)) return "DUALOPEND_OPEN_COMMITTED";
  return "DUALOPEND_OPEN_COMMIT_READY";
}

/** The state that a saved channel takes with these attempts; what is locked stays so. */
export function stateAfter(channel: SavedChannel, attempts: readonly Attempt[]): ChannelState {
  return channel.lockedAttempt !== null ? channel.state : stateByAttempts(attempts);
}

/** scriptPubKey of the funding output: the same for every attempt of a channel. */
export function fundingScriptOf(params: ChannelParams): Uint8Array {
  return fundingScriptPubkey(params.local.fundingPubkey, params.remote.fundingPubkey);
}

/** Whether our tx_signatures for the attempt count as sent: from then on it can be mined and is never forgotten. */
export function weSigned(attempt: Attempt): boolean {
  return attempt.localTxSignatures !== null;
}

/** tx_abort, after which everything of the session is discarded until the echo (BOLT 2, tx_abort). */
export function sayAbort(state: DualOpenState, text: string): Step {
  return to({ ...state, awaitingAbortEcho: true }, send(txAbortMessage(state.channelId, text)));
}
