/** What a close may cost, and how two sides find one figure (BOLT 2, closing_signed). */
import type { Side } from "bolt/interactive/types.ts";
import { feeCeil, type FeeratePerKw, type Sat, sat, type Weight } from "bolt/units.ts";

/** Fees that a side agrees to, sat; both ends included. */
export interface FeeRange {
  readonly min: Sat;
  readonly max: Sat;
}

/** How far a counter-offer goes where the peer gives no range. */
export type FeeStep =
  /** Of the gap, 1 to 100. */
  | { readonly type: "percent"; readonly percent: number }
  | { readonly type: "sat"; readonly amount: Sat };

/** What we agree to, and what we would like. */
export interface FeePlan {
  readonly range: FeeRange;
  readonly ideal: Sat;
  readonly step: FeeStep;
}

/** Fee rates from lightningd or a person. */
export interface ClosingRates {
  readonly min: FeeratePerKw;
  readonly ideal: FeeratePerKw;
  readonly max: FeeratePerKw;
}

/** Half of the gap, as Core Lightning does. */
export const DEFAULT_STEP: FeeStep = { type: "percent", percent: 50 };

function clamp(value: bigint, min: bigint, max: bigint): Sat {
  return sat(value < min ? min : value > max ? max : value);
}

/**
 * Our plan for a transaction of this weight. What its payer has bounds everything; where that is the peer, more than we need
 * costs us nothing, and only the lower end is ours to hold.
 */
export function feePlan(
  rates: ClosingRates,
  weight: Weight,
  payer: Side,
  payerBalance: Sat,
  step: FeeStep = DEFAULT_STEP,
): FeePlan {
  const max = payer === "local" ? clamp(feeCeil(rates.max, weight), 0n, payerBalance) : payerBalance;
  const min = clamp(feeCeil(rates.min, weight), 0n, max);
  return { range: { min, max }, ideal: clamp(feeCeil(rates.ideal, weight), min, max), step };
}

/** Whether a fee is in a range. */
export function inRange(fee: Sat, range: FeeRange): boolean {
  return fee >= range.min && fee <= range.max;
}

/** What both agree to; null when there is nothing. */
export function overlapOf(a: FeeRange, b: FeeRange): FeeRange | null {
  const min = a.min > b.min ? a.min : b.min;
  const max = a.max < b.max ? a.max : b.max;
  return min <= max ? { min, max } : null;
}

/** The fee in a range that is nearest to what we would like. */
export function nearest(ideal: Sat, range: FeeRange): Sat {
  return clamp(ideal, range.min, range.max);
}

/** Whether a fee lies between two others and is neither. */
export function strictlyBetween(fee: Sat, a: Sat, b: Sat): boolean {
  return a < b ? fee > a && fee < b : fee < a && fee > b;
}

/** Our next offer between our last one and the peer's: a step towards it, within our range; null when there is none. */
export function counterOffer(ours: Sat, theirs: Sat, plan: FeePlan): Sat | null {
  const gap = theirs > ours ? theirs - ours : ours - theirs;
  const wanted = plan.step.type === "sat" ? plan.step.amount : (gap * BigInt(plan.step.percent)) / 100n;
  const least = wanted > 0n ? wanted : 1n;
  const step = least < gap ? least : gap - 1n;
  if (step < 1n) return null;
  const offer = nearest(sat(theirs > ours ? ours + step : ours - step), plan.range);
  return strictlyBetween(offer, ours, theirs) ? offer : null;
}

/** Reads `fee_negotiation_step`: "50%" or an amount; undefined for what is neither. */
export function parseFeeStep(text: string): FeeStep | undefined {
  const match = /^(\d{1,15})(%|sat)?$/.exec(text.trim());
  if (match === null) return undefined;
  const value = Number(match[1]);
  if (match[2] !== "%") return value > 0 ? { type: "sat", amount: sat(value) } : undefined;
  return value >= 1 && value <= 100 ? { type: "percent", percent: value } : undefined;
}
