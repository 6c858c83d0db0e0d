/**
 * closing_complete and closing_sig (BOLT 2, closing negotiation with option_simple_close; operation items 44 to 52). Each side
 * offers a transaction whose fee it pays alone; the other signs it. Any of them may be mined.
 */
import { isSat, type Sat, sat } from "bolt/units.ts";
import type { Side } from "bolt/interactive/types.ts";
import { dustLimit, isStandardShutdownScript, scriptKind } from "bolt/tx/scripts.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { ClosingComplete, ClosingSig } from "bolt/wire/messages.ts";
import type { ClosingAction, ClosingStep } from "./actions.ts";
import { nearest } from "./fees.ts";
import { fail, hangUp, send, to } from "./step.ts";
import {
  closingAmounts,
  closingBalances,
  type ClosingForm,
  type ClosingTx,
  closingTx,
  completeClose,
  isGoodSignature,
  SIMPLE_SEQUENCE,
} from "./tx.ts";
import type { ClosingChannel, ClosingMachine, Pending, SignatureName, Variant } from "./types.ts";

/** closing_complete of the peer that are answered on one connection: each costs a signature and a row (attack 13). */
export const MAX_REMOTE_OFFERS = 10;

const NAMES: readonly SignatureName[] = [
  "closer_output_only",
  "closee_output_only",
  "closer_and_closee_outputs",
];

function otherOf(side: Side): Side {
  return side === "local" ? "remote" : "local";
}

/** The outputs of a signature. */
function variantOf(name: SignatureName, closer: Side): Variant {
  const closee = otherOf(closer);
  const has = (side: Side) =>
    name === "closer_and_closee_outputs" || side === (name === "closer_output_only" ? closer : closee);
  return { local: has("local"), remote: has("remote") };
}

function formOf(closer: Side, locktime: number): ClosingForm {
  return { payer: closer, sequence: SIMPLE_SEQUENCE, locktime };
}

function scriptOf(channel: ClosingChannel, side: Side): Uint8Array {
  return side === "local" ? channel.shutdownSent : channel.shutdownReceived;
}

/** Whether a side's output would be too small to be relayed; an OP_RETURN has nothing in it and never is. */
function isDust(channel: ClosingChannel, side: Side, closer: Side, fee: Sat): boolean {
  const script = scriptOf(channel, side);
  if (scriptKind(script) === "op_return") return false;
  const amounts = closingAmounts(channel, closer, fee);
  return amounts === null || amounts[side] === 0n || amounts[side] < dustLimit(script);
}

/** Which signatures a closer gives (items 45 and 46): who has less cannot cut off the other's output, and the reverse. */
export function offeredNames(channel: ClosingChannel, closer: Side, fee: Sat): readonly SignatureName[] {
  const [ours, theirs] = closer === "local"
    ? [channel.toLocal, channel.toRemote]
    : [channel.toRemote, channel.toLocal];
  const closee = otherOf(closer);
  if (ours < theirs) {
    return isDust(channel, closer, closer, fee) ? ["closee_output_only"] : ["closer_and_closee_outputs"];
  }
  return isDust(channel, closee, closer, fee)
    ? ["closer_output_only"]
    : ["closer_output_only", "closer_and_closee_outputs"];
}

function sign(tx: ClosingTx, maxFee: Sat, theirs: Uint8Array | null): ClosingAction {
  return { type: "sign", tx: tx.tx.toBuffer(), localOutput: tx.localOutput, maxFee, theirs };
}

/** Our own offer: once a connection, if what is ours can pay for it. */
export function begin(state: ClosingMachine): ClosingStep {
  const { channel, plan, simple, pending } = state;
  if (simple.offer !== null || pending !== null) return to(state);
  const fee = nearest(plan.ideal, plan.range);
  if (fee > closingBalances(channel).local || isDust(channel, "local", "local", fee)) return to(state);
  const names = offeredNames(channel, "local", fee);
  return nextSignature(state, { type: "complete", fee, locktime: 0, names, signatures: {} });
}

type Offering = Pending & { readonly type: "complete" };

function nextSignature(state: ClosingMachine, offering: Offering): ClosingStep {
  const { channel } = state;
  const { fee, locktime, names, signatures } = offering;
  const name = names.find((each) => signatures[each] === undefined);
  if (name === undefined) {
    return to(
      { ...state, pending: null, simple: { ...state.simple, offer: { fee, locktime, names } } },
      send({
        type: "closing_complete",
        channel_id: channel.channelId,
        closer_scriptpubkey: channel.shutdownSent,
        closee_scriptpubkey: channel.shutdownReceived,
        fee_satoshis: fee,
        locktime,
        ...signatures,
      }),
    );
  }
  const tx = closingTx(channel, fee, variantOf(name, "local"), formOf("local", locktime));
  if (tx === null) return fail(state, "nothing is left to be paid out by a close", true);
  return to({ ...state, pending: offering }, sign(tx, state.plan.range.max, null));
}

/** hsmd signed one form of our offer. */
export function onOfferSigned(state: ClosingMachine, offering: Offering, signature: Uint8Array): ClosingStep {
  const name = offering.names.find((each) => offering.signatures[each] === undefined);
  if (name === undefined) return to({ ...state, pending: null });
  return nextSignature(state, { ...offering, signatures: { ...offering.signatures, [name]: signature } });
}

/** The peer's offer: its fee is its own, so that there is nothing to negotiate. */
export function onClosingComplete(state: ClosingMachine, message: ClosingComplete): ClosingStep {
  const { channel, forms, simple } = state;
  const fee = message.fee_satoshis;
  if (!isSat(fee) || fee > closingBalances(channel).remote) {
    return fail(state, "fee_satoshis is more than the closer has", true);
  }
  if (!sameBytes(message.closee_scriptpubkey, channel.shutdownSent)) {
    return hangUp(state, "closee_scriptpubkey is not the one of our shutdown");
  }
  const script = message.closer_scriptpubkey;
  const upfront = channel.remoteUpfrontShutdownScript;
  if (upfront !== null && upfront.length > 0 && !sameBytes(upfront, script)) {
    return hangUp(state, "closer_scriptpubkey is not the upfront_shutdown_script");
  }
  if (!isStandardShutdownScript(script, forms)) {
    return hangUp(state, "closer_scriptpubkey is not of an accepted form");
  }
  if (simple.answered >= MAX_REMOTE_OFFERS) return hangUp(state, "closing_complete too often");
  const adopted: ClosingChannel = { ...channel, shutdownReceived: script };
  const name = pick(adopted, message, fee);
  const theirs = name === undefined ? undefined : message[name];
  if (name === undefined || theirs === undefined) {
    return fail(state, "closing_complete lacks the signature that we need", true);
  }
  const tx = closingTx(adopted, fee, variantOf(name, "remote"), formOf("remote", message.locktime));
  if (tx === null) return fail(state, "closing_complete leaves nothing to be paid out", true);
  if (!isGoodSignature(adopted, tx, theirs)) {
    return fail(state, "signature of closing_complete is not good", true);
  }
  if (tx.tx.outs.some(({ script: to, value }) => value < dustLimit(to))) {
    return fail(state, "an output of the closing transaction is dust", true);
  }
  return to(
    {
      ...state,
      channel: adopted,
      pending: { type: "answer", fee, locktime: message.locktime, name, theirs },
    },
    sign(tx, sat(0), theirs),
  );
}

/** Which of the closer's signatures we use (item 48). */
function pick(channel: ClosingChannel, message: ClosingComplete, fee: Sat): SignatureName | undefined {
  if (isDust(channel, "local", "remote", fee)) return "closer_output_only";
  return (["closer_and_closee_outputs", "closee_output_only"] as const).find((name) =>
    message[name] !== undefined
  );
}

/** The peer signed our offer: it is complete. */
export function onClosingSig(state: ClosingMachine, message: ClosingSig): ClosingStep {
  const { channel, simple } = state;
  const { offer } = simple;
  if (offer === null || simple.settled) {
    return hangUp(state, "closing_sig without a closing_complete of ours");
  }
  const same = sameBytes(message.closer_scriptpubkey, channel.shutdownSent) &&
    sameBytes(message.closee_scriptpubkey, channel.shutdownReceived) &&
    message.fee_satoshis === offer.fee && message.locktime === offer.locktime;
  if (!same) return fail(state, "closing_sig is not for our closing_complete", true);
  const [name, another] = NAMES.filter((each) => message[each] !== undefined);
  if (name === undefined || another !== undefined) {
    return fail(state, "closing_sig must have one signature", true);
  }
  if (!offer.names.includes(name)) {
    return fail(state, "closing_sig has a signature that we did not offer", true);
  }
  const theirs = message[name]!;
  const tx = closingTx(channel, offer.fee, variantOf(name, "local"), formOf("local", offer.locktime));
  if (tx === null || !isGoodSignature(channel, tx, theirs)) {
    return fail(state, "signature of closing_sig is not good", true);
  }
  return to(
    { ...state, pending: { type: "settle", fee: offer.fee, locktime: offer.locktime, name, theirs } },
    sign(tx, state.plan.range.max, theirs),
  );
}

/** hsmd signed the peer's offer, or ours once more: stored complete, and only then answered. */
export function onCloseSigned(
  state: ClosingMachine,
  pending: Pending & { readonly type: "answer" | "settle" },
  signature: Uint8Array,
): ClosingStep {
  const { channel, simple } = state;
  const { fee, locktime, name, theirs } = pending;
  const closer = pending.type === "answer" ? "remote" : "local";
  const tx = closingTx(channel, fee, variantOf(name, closer), formOf(closer, locktime));
  if (tx === null) throw new RangeError("a transaction that was signed can be made");
  const close = completeClose(channel, fee, tx, { local: signature, remote: theirs });
  const next: ClosingMachine = {
    ...state,
    pending: null,
    channel: { ...channel, signed: [...channel.signed, close] },
    simple: pending.type === "answer"
      ? { ...simple, answered: simple.answered + 1 }
      : { ...simple, settled: true },
  };
  const reason = pending.type === "answer"
    ? `the peer closes for a fee of ${fee} sat`
    : `our close for a fee of ${fee} sat is signed by both`;
  const actions: ClosingAction[] = [
    { type: "store", step: { type: "save_close", close, remoteScript: channel.shutdownReceived } },
    ...(pending.type === "answer"
      ? [send({
        type: "closing_sig",
        channel_id: channel.channelId,
        closer_scriptpubkey: channel.shutdownReceived,
        closee_scriptpubkey: channel.shutdownSent,
        fee_satoshis: fee,
        locktime,
        [name]: signature,
      })]
      : []),
    { type: "log", level: "info", text: reason },
  ];
  const { offer, settled, answered } = next.simple;
  const over = answered > 0 && (offer === null || settled);
  return over
    ? to({ ...next, ended: reason }, ...actions, { type: "end", how: "closed", reason })
    : to(next, ...actions);
}
