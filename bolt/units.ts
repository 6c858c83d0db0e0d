/**
 * Money, heights and fee rates as branded types: a bare number never stands for an amount.
 *
 * Every constructor is a check at the door; it throws a RangeError, so use the `safe*` sibling (or check first)
 * for values that come from a peer.
 */

declare const brand: unique symbol;
/** A `T` that only the constructor of its unit makes. */
export type Brand<T, B extends string> = T & { readonly [brand]: B };

/** Satoshis, 0 to {@link MAX_SAT}. */
export type Sat = Brand<bigint, "Sat">;
/** Millisatoshis, 0 to 1000 × {@link MAX_SAT}. */
export type Msat = Brand<bigint, "Msat">;
/** A difference of two amounts in satoshis; may be negative. */
export type SignedSat = Brand<bigint, "SignedSat">;
/** Satoshis per 1,000 weight units (`sat/kw`), a u32. */
export type FeeratePerKw = Brand<number, "FeeratePerKw">;
/** Height of a block in the best chain. */
export type BlockHeight = Brand<number, "BlockHeight">;
/** Weight units of BIP 141. */
export type Weight = Brand<number, "Weight">;

/** All bitcoin there will ever be, in satoshis: no amount from the wire may exceed it. */
export const MAX_SAT = 2_100_000_000_000_000n;
/** The smallest fee rate that Bitcoin Core relays by default, 1 sat/vbyte rounded up to whole sat/kw. */
export const FEERATE_FLOOR = 253 as FeeratePerKw;
const MAX_U32 = 0xffff_ffff;
const LOCKTIME_THRESHOLD = 500_000_000;

/** Satoshis from a bigint or safe integer. Throws RangeError outside 0 to {@link MAX_SAT}. */
export function sat(value: bigint | number): Sat {
  const v = BigInt(value);
  if (v < 0n || v > MAX_SAT) throw new RangeError(`not an amount in sat: ${v}`);
  return v as Sat;
}

/** Whether a value read from the wire is an amount of satoshis at all. */
export function isSat(value: bigint): value is Sat {
  return value >= 0n && value <= MAX_SAT;
}

/** Millisatoshis. Throws RangeError outside 0 to 1000 × {@link MAX_SAT}. */
export function msat(value: bigint | number): Msat {
  const v = BigInt(value);
  if (v < 0n || v > MAX_SAT * 1000n) throw new RangeError(`not an amount in msat: ${v}`);
  return v as Msat;
}

/** A signed difference in satoshis. Throws RangeError beyond ± {@link MAX_SAT}. */
export function signedSat(value: bigint | number): SignedSat {
  const v = BigInt(value);
  if (v < -MAX_SAT || v > MAX_SAT) throw new RangeError(`not a difference in sat: ${v}`);
  return v as SignedSat;
}

/** Sum of amounts in satoshis; throws RangeError above {@link MAX_SAT}. */
export function addSat(...amounts: readonly Sat[]): Sat {
  return sat(amounts.reduce<bigint>((sum, a) => sum + a, 0n));
}

/** `a - b`; throws RangeError if b is greater. */
export function subSat(a: Sat, b: Sat): Sat {
  return sat(a - b);
}

/** Satoshis as millisatoshis. */
export function toMsat(amount: Sat): Msat {
  return msat(amount * 1000n);
}

/** Millisatoshis as whole satoshis, rounded down (BOLT 3: outputs are rounded down). */
export function floorSat(amount: Msat): Sat {
  return sat(amount / 1000n);
}

/** A fee rate in sat/kw. Throws RangeError unless a u32. */
export function feerate(value: number): FeeratePerKw {
  if (!Number.isInteger(value) || value < 0 || value > MAX_U32) {
    throw new RangeError(`not a feerate: ${value}`);
  }
  return value as FeeratePerKw;
}

/** A block height. Throws RangeError unless 0 to 499,999,999 (above, a locktime is a time). */
export function height(value: number): BlockHeight {
  if (!Number.isInteger(value) || value < 0 || value >= LOCKTIME_THRESHOLD) {
    throw new RangeError(`not a block height: ${value}`);
  }
  return value as BlockHeight;
}

/** Weight units. Throws RangeError unless a non-negative integer. */
export function weight(value: number): Weight {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not a weight: ${value}`);
  return value as Weight;
}

/** Fee of a transaction of a weight at a fee rate, rounded up (BOLT 3 appendix G: 395 weight at 253 is 100 sat). */
export function feeCeil(rate: FeeratePerKw, w: Weight): Sat {
  return sat((BigInt(rate) * BigInt(w) + 999n) / 1000n);
}

/** Fee rounded down, as BOLT 3 has it for commitment transactions. */
export function feeFloor(rate: FeeratePerKw, w: Weight): Sat {
  return sat((BigInt(rate) * BigInt(w)) / 1000n);
}
