/** closing_signed (BOLT 2, closing negotiation without option_simple_close; operation items 39 to 43). */
import { isSat, type Sat, sat } from "bolt/units.ts";
import type { ClosingSigned } from "bolt/wire/messages.ts";
import type { ClosingAction, ClosingStep } from "./actions.ts";
import {
  counterOffer,
  type FeePlan,
  type FeeRange,
  inRange,
  nearest,
  overlapOf,
  strictlyBetween,
} from "./fees.ts";
import { andThen, fail, hangUp, send, to } from "./step.ts";
import {
  closingBalances,
  type ClosingTx,
  closingTx,
  completeClose,
  findSigned,
  offeredVariant,
  type SignedVariant,
} from "./tx.ts";
import type { ClosingMachine, Pending } from "./types.ts";

/** Offers of ours on one connection: a peer without a range could go on for ever (attack 13). */
export const MAX_ROUNDS = 32;

/** We opened: we pay, and speak first. */
function isFunder(state: ClosingMachine): boolean {
  return state.channel.opener === "local";
}

/** What we would like; where a close is signed already, the same again, so that there is only one. */
function idealOf({ channel, plan }: ClosingMachine): Sat {
  return channel.signed.at(-1)?.fee ?? plan.ideal;
}

/** What we agree to; a fee that we once signed is part of it. */
function rangeOf({ channel, plan }: ClosingMachine): FeeRange {
  const signed = channel.signed.at(-1)?.fee;
  if (signed === undefined) return plan.range;
  return {
    min: signed < plan.range.min ? signed : plan.range.min,
    max: signed > plan.range.max ? signed : plan.range.max,
  };
}

function planOf(state: ClosingMachine): FeePlan {
  return { ...state.plan, range: rangeOf(state), ideal: idealOf(state) };
}

/** The most that a fee may take of what is ours. */
function maxFeeOf(state: ClosingMachine): Sat {
  return isFunder(state) ? rangeOf(state).max : sat(0);
}

function signAction(state: ClosingMachine, tx: ClosingTx, theirs: Uint8Array | null): ClosingAction {
  return {
    type: "sign",
    tx: tx.tx.toBuffer(),
    localOutput: tx.localOutput,
    maxFee: maxFeeOf(state),
    theirs,
  };
}

/** The funder's first offer. */
export function begin(state: ClosingMachine): ClosingStep {
  if (!isFunder(state) || state.pending !== null || state.negotiation.sent !== null) return to(state);
  return offer(state, nearest(idealOf(state), rangeOf(state)));
}

function offer(state: ClosingMachine, fee: Sat): ClosingStep {
  const tx = closingTx(state.channel, fee, offeredVariant(state.channel, "local", fee));
  if (tx === null) return fail(state, "nothing is left to be paid out by a close", true);
  return to(
    { ...state, pending: { type: "offer", fee, range: rangeOf(state) } },
    signAction(state, tx, null),
  );
}

/** The peer's offer. */
export function onClosingSigned(state: ClosingMachine, message: ClosingSigned): ClosingStep {
  const { channel, negotiation } = state;
  const fee = message.fee_satoshis;
  if (!isSat(fee) || fee > closingBalances(channel)[channel.opener]) {
    return fail(state, "fee_satoshis is more than its payer has", true);
  }
  const found = findSigned(channel, fee, message.signature);
  switch (found.type) {
    case "bad_signature":
      return fail(state, "signature of closing_signed is not good", true);
    case "dust":
      return fail(state, "an output of the closing transaction is dust", true);
    case "signed":
      break;
  }
  const next: ClosingMachine = { ...state, negotiation: { ...negotiation, received: fee } };
  const sent = negotiation.sent?.fee;
  if (fee === sent) return agree(next, fee, found, message.signature, false);
  const theirs = message.fee_range;
  if (theirs === undefined) return withoutRange(state, next, fee, found, message.signature);
  if (!isSat(theirs.min_fee_satoshis) || !isSat(theirs.max_fee_satoshis)) {
    return hangUp(next, "fee_range is no amount of bitcoin");
  }
  const both = overlapOf(rangeOf(state), { min: theirs.min_fee_satoshis, max: theirs.max_fee_satoshis });
  if (both === null) return hangUp(next, "fee_range has nothing in common with ours");
  if (isFunder(state)) {
    if (!inRange(fee, both)) return fail(next, "fee_satoshis is not in both fee_ranges", true);
    return agree(next, fee, found, message.signature, true);
  }
  if (sent !== undefined) return fail(next, "fee_satoshis is not what we proposed", true);
  const ours = nearest(idealOf(state), both);
  return ours === fee ? agree(next, fee, found, message.signature, true) : offer(next, ours);
}

/** A peer of the time before ranges: step by step towards each other. */
function withoutRange(
  before: ClosingMachine,
  state: ClosingMachine,
  fee: Sat,
  found: SignedVariant & { readonly type: "signed" },
  signature: Uint8Array,
): ClosingStep {
  const { sent, received } = before.negotiation;
  if (inRange(fee, rangeOf(state))) return agree(state, fee, found, signature, true);
  if (sent !== null && received !== null && !strictlyBetween(fee, sent.fee, received)) {
    return hangUp(state, "fee_satoshis is not between the last two fees");
  }
  if (state.negotiation.rounds >= MAX_ROUNDS) {
    return fail(state, `no agreement on the closing fee in ${MAX_ROUNDS} rounds`, true);
  }
  const plan = planOf(state);
  const next = sent === null ? nearest(plan.ideal, plan.range) : counterOffer(sent.fee, fee, plan);
  return next === null ? hangUp(state, "no closing fee is left between yours and ours") : offer(state, next);
}

/** We take the peer's fee. Its signature goes to hsmd, which verifies it once more and signs the same transaction. */
function agree(
  state: ClosingMachine,
  fee: Sat,
  found: SignedVariant & { readonly type: "signed" },
  theirs: Uint8Array,
  answer: boolean,
): ClosingStep {
  const pending: Pending = {
    type: "agree",
    fee,
    range: rangeOf(state),
    variant: found.variant,
    theirs,
    answer,
  };
  return to({ ...state, pending }, signAction(state, found.tx, theirs));
}

/** hsmd signed an offer: it leaves. */
export function onOfferSigned(
  state: ClosingMachine,
  pending: Pending & { readonly type: "offer" },
  signature: Uint8Array,
): ClosingStep {
  const { negotiation } = state;
  const { fee, range } = pending;
  return to(
    {
      ...state,
      pending: null,
      negotiation: { ...negotiation, sent: { fee, range }, rounds: negotiation.rounds + 1 },
    },
    send(closingSigned(state, fee, range, signature)),
  );
}

/** hsmd signed what the peer signed: stored complete, and only then said. */
export function onAgreed(
  state: ClosingMachine,
  pending: Pending & { readonly type: "agree" },
  signature: Uint8Array,
): ClosingStep {
  const { channel } = state;
  const { fee, range, variant, theirs, answer } = pending;
  const tx = closingTx(channel, fee, variant);
  if (tx === null) throw new RangeError("a transaction that was signed can be made");
  const close = completeClose(channel, fee, tx, { local: signature, remote: theirs });
  const reason = `both agree on a fee of ${fee} sat`;
  return andThen(
    to(
      { ...state, pending: null, channel: { ...channel, signed: [...channel.signed, close] } },
      { type: "store", step: { type: "save_close", close, remoteScript: null } },
      ...(answer ? [send(closingSigned(state, fee, range, signature))] : []),
      { type: "log", level: "info", text: reason },
    ),
    (s) => to({ ...s, ended: reason }, { type: "end", how: "closed", reason }),
  );
}

function closingSigned(
  state: ClosingMachine,
  fee: Sat,
  range: FeeRange,
  signature: Uint8Array,
): ClosingSigned {
  return {
    type: "closing_signed",
    channel_id: state.channel.channelId,
    fee_satoshis: fee,
    signature,
    fee_range: { min_fee_satoshis: range.min, max_fee_satoshis: range.max },
  };
}
