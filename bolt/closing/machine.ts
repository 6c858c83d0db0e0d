/**
 * A cooperative close as a pure machine: from the moment on which both have said shutdown and nothing is left in flight.
 * Every connection begins with channel_reestablish and shutdown, and negotiates anew (BOLT 2, channel close).
 */
import { unreachable } from "bolt/result.ts";
import { isStandardShutdownScript } from "bolt/tx/scripts.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { printableText } from "bolt/wire/error_text.ts";
import type { Message, Shutdown } from "bolt/wire/messages.ts";
import type { ClosingInput, ClosingStep } from "./actions.ts";
import { type ClosingRates, type FeePlan, feePlan, type FeeStep } from "./fees.ts";
import * as legacy from "./legacy.ts";
import { onReestablish, onRevocation, onSecretChecked, reestablishOf } from "./reestablish.ts";
import * as simple from "./simple.ts";
import { abort, andThen, fail, FRESH, hangUp, protest, send, to } from "./step.ts";
import { closingBalances, closingWeight } from "./tx.ts";
import type { ClosingChannel, ClosingForms, ClosingMachine } from "./types.ts";

/** Our plan at some rates: with option_simple_close each pays for its own offer, else the opener pays. */
export function planFor(
  channel: ClosingChannel,
  forms: ClosingForms,
  rates: ClosingRates,
  step?: FeeStep,
): FeePlan {
  const payer = forms.simpleClose ? "local" : channel.opener;
  return feePlan(rates, closingWeight(channel), payer, closingBalances(channel)[payer], step);
}

/** An owner of a channel that is being closed, from its rows. */
export function fromRows(channel: ClosingChannel, forms: ClosingForms, plan: FeePlan): ClosingMachine {
  return {
    channel,
    forms,
    plan,
    link: "down",
    shutdownSeen: false,
    abortSaid: false,
    ...FRESH,
    ended: null,
  };
}

/** What it waits for, in one line. */
export function statusOf(state: ClosingMachine): string {
  if (state.ended !== null) return state.ended;
  if (state.link === "down") return "waits for the peer";
  if (state.link === "reestablishing") return "waits for channel_reestablish";
  if (!state.shutdownSeen) return "waits for shutdown";
  if (state.forms.simpleClose) {
    const { offer, settled, answered } = state.simple;
    const ours = offer === null
      ? "nothing of ours is offered"
      : settled
      ? "ours is signed"
      : "ours is offered";
    return `${ours}, ${answered} of the peer's are signed`;
  }
  const { sent, received } = state.negotiation;
  if (sent === null && received === null) return "waits for the first closing_signed";
  return `we offered ${sent?.fee ?? "nothing"}, the peer ${received ?? "nothing"}`;
}

/** Lets something happen. Never throws at what a peer says. */
export function step(state: ClosingMachine, input: ClosingInput): ClosingStep {
  if (state.ended !== null) return to(state);
  switch (input.type) {
    case "connected":
      return to(
        {
          ...state,
          plan: input.plan,
          link: "reestablishing",
          shutdownSeen: false,
          abortSaid: false,
          ...FRESH,
        },
        send(reestablishOf(state.channel)),
      );
    case "taken_over":
      return takenOver(state, input.plan, input.lost);
    case "disconnected":
      return to({ ...state, ...FRESH, link: "down", shutdownSeen: false });
    case "message":
      return onMessage(state, input.message);
    case "garbage":
      return protest(state, `malformed message: ${input.reason}`);
    case "signed":
      return onSigned(state, input.signature);
    case "refused":
      return onRefused(state, input.reason);
    case "revocation":
      return state.pending?.type === "revocation"
        ? onRevocation(state, input.secret, input.nextPoint)
        : to(state);
    case "secret_checked":
      return state.pending?.type === "stale" ? onSecretChecked(state, input.ours) : to(state);
    default:
      return unreachable(input);
  }
}

function takenOver(state: ClosingMachine, plan: FeePlan, lost: boolean): ClosingStep {
  const next: ClosingMachine = { ...state, plan, link: "up", shutdownSeen: true };
  // Nobody knows which of its words: a new connection brings them again.
  if (lost) return hangUp(next, "the owner of this channel changed");
  return begin(next);
}

/** Our first word of a negotiation, if it is ours. */
function begin(state: ClosingMachine): ClosingStep {
  return state.forms.simpleClose ? simple.begin(state) : legacy.begin(state);
}

function onSigned(state: ClosingMachine, signature: Uint8Array): ClosingStep {
  switch (state.pending?.type) {
    case "offer":
      return legacy.onOfferSigned(state, state.pending, signature);
    case "agree":
      return legacy.onAgreed(state, state.pending, signature);
    case "complete":
      return simple.onOfferSigned(state, state.pending, signature);
    case "answer":
    case "settle":
      // Our own offer may have had to wait for this.
      return andThen(
        simple.onCloseSigned(state, state.pending, signature),
        (s) => s.ended === null ? begin(s) : to(s),
      );
    default:
      return to(state);
  }
}

/** A rule of hsmd's stands against it: nothing that the peer could mend. */
function onRefused(state: ClosingMachine, reason: string): ClosingStep {
  const { pending } = state;
  if (pending === null) return to(state);
  const next: ClosingMachine = { ...state, pending: null };
  // The machine found its signature good before: this is hsmd's word against it, and hsmd's counts.
  return fail(next, `this close cannot be signed (${reason})`, true);
}

function onMessage(state: ClosingMachine, message: Message): ClosingStep {
  if (message.type === "error") {
    return fail(state, `peer sent error: ${printableText(message.data)}`, false);
  }
  if (message.type === "warning") {
    const text = `warning from peer: ${printableText(message.data)}`;
    return to(state, { type: "log", level: "warn", text });
  }
  if (state.link === "down") return to(state);
  if (message.type === "channel_reestablish") return onReestablish(state, message);
  if (state.link === "reestablishing") return hangUp(state, `${message.type} before channel_reestablish`);
  switch (message.type) {
    case "shutdown":
      return onShutdown(state, message);
    case "closing_signed":
      if (state.forms.simpleClose) {
        return fail(state, "closing_signed although option_simple_close is negotiated", true);
      }
      if (!state.shutdownSeen) return hangUp(state, "closing_signed before shutdown");
      return legacy.onClosingSigned(state, message);
    case "closing_complete":
    case "closing_sig":
      if (!state.forms.simpleClose) {
        return fail(state, `${message.type} although option_simple_close is not negotiated`, true);
      }
      if (!state.shutdownSeen) return hangUp(state, `${message.type} before shutdown`);
      return message.type === "closing_complete"
        ? simple.onClosingComplete(state, message)
        : simple.onClosingSig(state, message);
    case "channel_ready":
    case "tx_signatures":
    case "announcement_signatures":
      // Late ones: this channel has what they bring.
      return to(state);
    case "tx_abort":
      // The echo of ours: two that echo each other's echoes would never end.
      if (state.abortSaid) return to({ ...state, abortSaid: false });
      return abort(state);
    case "tx_init_rbf":
      return abort(state);
    default:
      return hangUp(state, `${message.type} in a channel that is being closed`);
  }
}

/** The peer's shutdown again: it starts the negotiation of this connection (item 32). */
function onShutdown(state: ClosingMachine, message: Shutdown): ClosingStep {
  const { channel, forms } = state;
  const script = message.scriptpubkey;
  const upfront = channel.remoteUpfrontShutdownScript;
  if (upfront !== null && upfront.length > 0 && !sameBytes(upfront, script)) {
    return hangUp(state, "scriptpubkey is not the upfront_shutdown_script");
  }
  if (!isStandardShutdownScript(script, forms)) {
    return hangUp(state, "scriptpubkey is not of an accepted form");
  }
  if (sameBytes(script, channel.shutdownReceived)) {
    return state.shutdownSeen ? to(state) : begin({ ...state, shutdownSeen: true });
  }
  if (!forms.simpleClose || state.shutdownSeen) return hangUp(state, "scriptpubkey changed");
  const next: ClosingMachine = {
    ...state,
    shutdownSeen: true,
    channel: { ...channel, shutdownReceived: script },
  };
  return andThen(to(next, { type: "store", step: { type: "save_remote_script", script } }), begin);
}
