/** BOLT 3, Commitment Transaction: the obscured commitment number in locktime and sequence. */
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";

/** Highest commitment number: 48 bits. */
export const MAX_COMMITMENT_NUMBER = (1n << 48n) - 1n;
const OBSCURING_BYTES = 6;
const LOW_BITS = 24n;
const LOW_MASK = (1n << LOW_BITS) - 1n;
/** Upper byte of the locktime: a time in the past, so that it never delays the transaction. */
const LOCKTIME_MARK = 0x20;
/** Upper byte of the sequence: relative locktime off. */
const SEQUENCE_MARK = 0x80;
const MARK_SHIFT = 0x0100_0000;

/** The two fields of a commitment transaction that carry its number. */
export interface ObscuredFields {
  /** nLockTime, a u32. */
  readonly locktime: number;
  /** nSequence of the only input, a u32. */
  readonly sequence: number;
}

function requireNumber(value: bigint): void {
  if (value < 0n || value > MAX_COMMITMENT_NUMBER) throw new RangeError(`not a commitment number: ${value}`);
}

/**
 * Lower 48 bits of SHA-256 of both payment basepoints, the channel opener's first (for a version 2 channel the sender
 * of `open_channel2`, whoever starts an RBF).
 */
export function obscuringFactor(
  openerPaymentBasepoint: Uint8Array,
  accepterPaymentBasepoint: Uint8Array,
): bigint {
  const digest = sha256(concatBytes(openerPaymentBasepoint, accepterPaymentBasepoint));
  let factor = 0n;
  for (const byte of digest.subarray(digest.length - OBSCURING_BYTES)) factor = (factor << 8n) | BigInt(byte);
  return factor;
}

/** Locktime and sequence of a commitment. Throws RangeError unless both arguments have at most 48 bits. */
export function obscureCommitmentNumber(commitmentNumber: bigint, factor: bigint): ObscuredFields {
  requireNumber(commitmentNumber);
  requireNumber(factor);
  const obscured = commitmentNumber ^ factor;
  return {
    locktime: LOCKTIME_MARK * MARK_SHIFT + Number(obscured & LOW_MASK),
    sequence: SEQUENCE_MARK * MARK_SHIFT + Number(obscured >> LOW_BITS),
  };
}

/** The commitment number of a transaction seen on chain; null if its fields lack the marks of a commitment. */
export function revealCommitmentNumber(fields: ObscuredFields, factor: bigint): bigint | null {
  requireNumber(factor);
  const locktime = BigInt(fields.locktime);
  const sequence = BigInt(fields.sequence);
  if (locktime >> LOW_BITS !== BigInt(LOCKTIME_MARK) || sequence >> LOW_BITS !== BigInt(SEQUENCE_MARK)) {
    return null;
  }
  return (((sequence & LOW_MASK) << LOW_BITS) | (locktime & LOW_MASK)) ^ factor;
}
