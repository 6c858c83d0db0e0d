/** Ending a negotiation, or an attempt that we have not signed (BOLT 2, tx_abort). */
import { sameBytes } from "bolt/tx/transaction.ts";
import { errorMessage, printableText, txAbortMessage } from "bolt/wire/error_text.ts";
import type { ErrorMessage, TxAbort } from "bolt/wire/messages.ts";
import type { Action } from "./actions.ts";
import {
  andThen,
  currentAttempt,
  end,
  sayAbort,
  send,
  stateByAttempts,
  type Step,
  to,
  weSigned,
} from "./step.ts";
import type { DualOpenState } from "./types.ts";

function failed(detail: string, byPeer: boolean): Action {
  return { type: "outcome", outcome: { type: "failed", detail, byPeer } };
}

/**
 * Takes back what is not signed by us: a negotiation, or the newest attempt. Stored before a word of it is said. A first
 * open is gone with it; an RBF leaves the channel and its earlier attempts as they were.
 */
function takeBack(state: DualOpenState, detail: string, byPeer: boolean): Step | undefined {
  if (state.negotiation !== null || isFresh(state)) {
    return to(
      { ...state, negotiation: null },
      { type: "store", step: { type: "drop_opening" } },
      failed(detail, byPeer),
    );
  }
  const { channel } = state;
  const attempt = channel === null ? undefined : currentAttempt(channel);
  if (channel === null || attempt === undefined || weSigned(attempt) || channel.lockedAttempt !== null) {
    return undefined;
  }
  if (!channel.attempts.some(weSigned)) {
    return to(
      { ...state, channel: null },
      { type: "store", step: { type: "forget_channel" } },
      failed(detail, byPeer),
    );
  }
  const attempts = channel.attempts.map((a) => a.seq === attempt.seq ? { ...a, aborted: true } : a);
  const next = stateByAttempts(attempts);
  return to(
    { ...state, channel: { ...channel, attempts, state: next } },
    { type: "store", step: { type: "abort_attempt", seq: attempt.seq, state: next } },
    failed(detail, byPeer),
  );
}

/** Whether this is an opening before its first message: its row is there, and nothing else. */
export function isFresh(state: DualOpenState): boolean {
  return nothingLeft(state) && !state.awaitingAbortEcho;
}

/** The failure of a command that waits for the peer's tx_signatures; nothing when no attempt waits for them. */
function failedIfIncomplete({ channel }: DualOpenState, detail: string): Action[] {
  const attempt = channel === null ? undefined : currentAttempt(channel);
  return attempt === undefined || attempt.completeTx !== null ? [] : [failed(detail, true)];
}

/** Whether the final channel id is not known to both yet. */
function hasTemporaryId(state: DualOpenState): boolean {
  return state.temporaryChannelId !== null && sameBytes(state.channelId, state.temporaryChannelId);
}

/** Whether nothing is left that an owner could own. */
function nothingLeft(state: DualOpenState): boolean {
  return state.channel === null && state.negotiation === null;
}

/**
 * Aborts what goes on, by tx_abort with this text. Where our tx_signatures are sent already nothing is aborted any more
 * (BOLT 2): the text is only logged. A first open whose peer does not know the final channel id yet gets an `error`
 * instead (BOLT 2: before accept_channel2 there is no tx_abort).
 */
export function abort(state: DualOpenState, text: string): Step {
  const temporary = hasTemporaryId(state);
  const back = takeBack(state, text, false);
  if (back === undefined) return to(state, { type: "log", level: "warn", text });
  if (state.link.type === "down") {
    return nothingLeft(back.state)
      ? andThen(back, (s) => end(s, { type: "open_failed", detail: text }))
      : back;
  }
  if (temporary) {
    return andThen(
      andThen(back, (s) => to(s, send(errorMessage(state.channelId, text)))),
      (s) => end(s, { type: "open_failed", detail: text }),
    );
  }
  // With nothing left we still wait for the echo, so that it meets somebody who knows what it is.
  return andThen(back, (s) => sayAbort(s, text));
}

/** Refuses a request of the peer (a tx_init_rbf) by tx_abort; nothing of ours ends. */
export function refuse(state: DualOpenState, text: string): Step {
  return andThen(
    to(state, { type: "log", level: "info", text: `refused: ${text}` }),
    (s) => sayAbort(s, text),
  );
}

/** A received tx_abort: the echo of ours, or the peer's own, which is echoed exactly once. */
export function onTxAbort(state: DualOpenState, message: TxAbort): Step {
  const detail = printableText(message.data);
  if (state.awaitingAbortEcho) {
    const settled = { ...state, awaitingAbortEcho: false };
    return nothingLeft(settled) ? end(settled, { type: "open_failed", detail: "aborted" }) : to(settled);
  }
  const echo = send(txAbortMessage(state.channelId, "acknowledged"));
  // Our signatures are out: nothing is forgotten (item 59), yet whoever waits for the peer's has its answer.
  const kept = to(
    state,
    { type: "log", level: "info", text: `tx_abort: ${detail}` },
    ...failedIfIncomplete(state, detail),
  );
  const back = takeBack(state, detail, true) ?? kept;
  const echoed: Step = andThen(back, (s) => to(s, echo));
  return nothingLeft(echoed.state) ? andThen(echoed, (s) => end(s, { type: "open_failed", detail })) : echoed;
}

/**
 * An `error` for this channel. What is not signed by us is forgotten; a channel that can be mined is kept and failed:
 * the peer will not go on with it.
 */
export function onError(state: DualOpenState, message: ErrorMessage): Step {
  const detail = printableText(message.data);
  const back = takeBack(state, detail, true);
  if (back !== undefined && nothingLeft(back.state)) {
    return andThen(back, (s) => end(s, { type: "open_failed", detail }));
  }
  return andThen(back ?? to(state), (s) => failChannel(s, `peer sent error: ${detail}`, false));
}

/** Fails a saved channel for good: stored first, repeated at every reconnect. `say`: tell the peer now. */
export function failChannel(state: DualOpenState, text: string, say: boolean): Step {
  const { channel } = state;
  if (channel === null) return abort(state, text);
  const failedChannel = { ...channel, errorText: text };
  return andThen(
    to(
      { ...state, channel: failedChannel, negotiation: null },
      ...(state.negotiation === null ? [] : [{ type: "store", step: { type: "drop_opening" } } as const]),
      { type: "store", step: { type: "fail_channel", errorText: text } },
      failed(text, !say),
      ...(say && state.link.type !== "down" ? [send(errorMessage(state.channelId, text))] : []),
    ),
    (s) => end(s, { type: "channel_failed", detail: text }),
  );
}
