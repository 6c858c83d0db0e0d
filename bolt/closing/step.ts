/** What the parts of the closing machine share: building steps, failing, hanging up. */
import { errorMessage, txAbortMessage, warningMessage } from "bolt/wire/error_text.ts";
import type { Message } from "bolt/wire/messages.ts";
import type { ClosingAction, ClosingStep } from "./actions.ts";
import type { ClosingMachine, Negotiation, SimpleClose } from "./types.ts";

/** Nothing was said yet. */
export const NOTHING_SAID: Negotiation = { sent: null, received: null, rounds: 0 };
/** The same with option_simple_close. */
export const NOTHING_OFFERED: SimpleClose = { offer: null, settled: false, answered: 0 };
/** How a connection begins. */
export const FRESH = { negotiation: NOTHING_SAID, simple: NOTHING_OFFERED, pending: null } as const;

/** A step. */
export function to(state: ClosingMachine, ...actions: readonly ClosingAction[]): ClosingStep {
  return { state, actions };
}

/** One step after another. */
export function andThen(step: ClosingStep, next: (state: ClosingMachine) => ClosingStep): ClosingStep {
  const second = next(step.state);
  return { state: second.state, actions: [...step.actions, ...second.actions] };
}

/** Says something to the peer. */
export function send(message: Message): ClosingAction {
  return { type: "send", message };
}

/** Ends a negotiation that is none of this channel any more. */
export function abort(state: ClosingMachine): ClosingStep {
  const { channelId } = state.channel;
  return to({ ...state, abortSaid: true }, send(txAbortMessage(channelId, "the channel is being closed")));
}

/** Says what is wrong, and goes on. */
export function protest(state: ClosingMachine, text: string): ClosingStep {
  return to(
    state,
    { type: "log", level: "warn", text },
    send(warningMessage(state.channel.channelId, text)),
  );
}

/** Says what is wrong; the next connection begins anew. */
export function hangUp(state: ClosingMachine, text: string): ClosingStep {
  return to({ ...state, ...FRESH, link: "down" }, {
    type: "hang_up",
    messages: [warningMessage(state.channel.channelId, text)],
    reason: text,
  });
}

/**
 * Fails the channel for good: stored first, then said. Where a close that both signed is stored nothing can fail any more:
 * it goes to the chain whatever this peer says.
 */
export function fail(state: ClosingMachine, text: string, say: boolean, dataLoss = false): ClosingStep {
  if (state.channel.signed.length > 0) {
    return to(
      { ...state, ended: text },
      { type: "log", level: "warn", text },
      ...(say && state.link !== "down" ? [send(warningMessage(state.channel.channelId, text))] : []),
      { type: "end", how: "closed", reason: text },
    );
  }
  return to(
    { ...state, channel: { ...state.channel, errorText: text }, ended: text },
    { type: "store", step: { type: "fail_channel", errorText: text, dataLoss } },
    ...(say && state.link !== "down" ? [send(errorMessage(state.channel.channelId, text))] : []),
    { type: "end", how: "failed", reason: text },
  );
}
