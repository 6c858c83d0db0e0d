/** Numbers of the tagged fields, and what both directions share (BOLT 11, tagged fields). */

import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import { featureBit, Features } from "bolt/wire/features.ts";
import type { FieldLetter } from "bolt/invoice/types.ts";
import { parsePrefix } from "bolt/invoice/prefix.ts";
import { padWords, wordCount } from "bolt/invoice/words.ts";

/** The number of each field: its letter's value in bech32. */
export const TAG: Readonly<Record<FieldLetter, number>> = {
  p: 1,
  r: 3,
  9: 5,
  x: 6,
  f: 9,
  d: 13,
  s: 16,
  n: 19,
  h: 23,
  c: 24,
  m: 27,
};

/** Above every word. */
const WORD_LIMIT = 32;
/** Words of the timestamp: 35 bits. */
export const TIMESTAMP_WORDS = 7;
/** Words of a field's length. */
export const LENGTH_WORDS = 2;
/** The most words that a field's length can say. */
export const MAX_FIELD_WORDS = 1023;
/** Words of the signature and its recovery id, which fill them without a rest. */
export const SIGNATURE_WORDS = wordCount(64 + 1);
/** Words of `p`, `s` and `h`. */
export const HASH_WORDS = wordCount(32);
/** Words of `n`. */
export const POINT_WORDS = wordCount(33);
/** Bytes of one hop of `r`. */
export const HOP_LENGTH = 33 + 8 + 4 + 4 + 2;

/** What a payer here can do; an invoice that requires more is refused. Features that BOLT 9 assumes are not listed. */
export const UNDERSTOOD_INVOICE_FEATURES: Features = Features.of(
  featureBit("basic_mpp") + 1,
  featureBit("option_payment_metadata") + 1,
);

/**
 * Whether this can be what an invoice's signature covers: a signer asks before it signs, so that its key cannot be made
 * to sign anything else.
 */
export function isUnsignedInvoice(hrp: string, words: Uint8Array): boolean {
  return parsePrefix(hrp).ok && words.length >= TIMESTAMP_WORDS && words.every((word) => word < WORD_LIMIT);
}

/**
 * The hash that the payee signs: the human-readable part and the data before the signature, filled up to whole bytes
 * (BOLT 11, data part). A signer computes it itself, of what {@link isUnsignedInvoice} finds good.
 */
export function invoiceSighash(hrp: string, words: Uint8Array): Uint8Array {
  return sha256(concatBytes(new TextEncoder().encode(hrp), padWords(words)));
}
