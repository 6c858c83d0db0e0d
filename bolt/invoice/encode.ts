/** Writes invoices (BOLT 11). */

import { bech32 } from "@scure/base";
import { concatBytes } from "@noble/hashes/utils.js";
import type { RecoverableSignature } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { encodeAll } from "bolt/wire/writer.ts";
import { isFallback } from "bolt/invoice/fallback.ts";
import {
  HASH_WORDS,
  invoiceSighash,
  LENGTH_WORDS,
  MAX_FIELD_WORDS,
  POINT_WORDS,
  SIGNATURE_WORDS,
  TAG,
  TIMESTAMP_WORDS,
} from "bolt/invoice/fields.ts";
import { formatPrefix } from "bolt/invoice/prefix.ts";
import {
  type FieldLetter,
  INVOICE_SIGNATURE_LENGTH,
  type InvoiceFault,
  type InvoiceFields,
  MAX_INVOICE_LENGTH,
  MAX_RECOVERY_ID,
  MAX_TIMESTAMP,
  type RouteHop,
} from "bolt/invoice/types.ts";
import { bitSetToWords, bytesToWords, uintToWords } from "bolt/invoice/words.ts";

const MAX_U32 = 0xffff_ffff;
const MAX_U64 = (1n << 64n) - 1n;
/** "1" and the checksum. */
const BECH32_EXTRA = 1 + 6;

/** An invoice that waits for its signature. */
export interface UnsignedInvoice {
  /** The human-readable part. */
  readonly hrp: string;
  /** The data before the signature, a value of 0 to 31 in each byte. */
  readonly words: Uint8Array;
  /** The 32 bytes to sign: `invoiceSighash(hrp, words)`. */
  readonly sighash: Uint8Array;
}

/** A field: its type, its length, its words. */
type Field = readonly [letter: FieldLetter, words: Uint8Array];

function badField(field: FieldLetter, what: string): InvoiceFault {
  return { type: "bad_field", field, reason: `field ${field}: ${what}` };
}

/** The words of a hop list. Throws RangeError for what no channel has. */
function hintWords(hops: readonly RouteHop[]): Uint8Array {
  return bytesToWords(encodeAll((writer) => {
    for (const hop of hops) {
      writer.point(hop.pubkey);
      writer.u64(hop.shortChannelId);
      writer.u32(hop.feeBaseMsat);
      writer.u32(hop.feeProportionalMillionths);
      writer.u16(hop.cltvExpiryDelta);
    }
  }));
}

/** The fields in the order in which they are written: what a reader must have first. */
function fieldsOf(invoice: InvoiceFields): Field[] {
  const fields: Field[] = [
    ["s", bytesToWords(invoice.paymentSecret)],
    ["p", bytesToWords(invoice.paymentHash)],
  ];
  const { description, descriptionHash, metadata, expirySeconds, minFinalCltvExpiryDelta, payee } = invoice;
  if (description !== null) fields.push(["d", bytesToWords(new TextEncoder().encode(description))]);
  if (descriptionHash !== null) fields.push(["h", bytesToWords(descriptionHash)]);
  if (metadata !== undefined) fields.push(["m", bytesToWords(metadata)]);
  if (expirySeconds !== undefined) fields.push(["x", uintToWords(expirySeconds)]);
  if (minFinalCltvExpiryDelta !== undefined) {
    fields.push(["c", uintToWords(BigInt(minFinalCltvExpiryDelta))]);
  }
  for (const { version, program } of invoice.fallbacks ?? []) {
    fields.push(["f", concatBytes(Uint8Array.of(version), bytesToWords(program))]);
  }
  for (const hops of invoice.routeHints ?? []) fields.push(["r", hintWords(hops)]);
  if (payee !== undefined) fields.push(["n", bytesToWords(payee)]);
  // A bit set without a bit is left out (BOLT 11, the requirements of a writer).
  const features = bitSetToWords(invoice.features?.toBytes() ?? new Uint8Array());
  if (features.length > 0) fields.push(["9", features]);
  return fields;
}

/** What must hold before anything is written. */
function faultOf(invoice: InvoiceFields): InvoiceFault | null {
  const { description, descriptionHash, expirySeconds = 0n, minFinalCltvExpiryDelta = 0 } = invoice;
  if (invoice.timestamp < 0n || invoice.timestamp > MAX_TIMESTAMP) {
    return { type: "bad_timestamp", reason: "the time is not one of 35 bits" };
  }
  if (description === null && descriptionHash === null) {
    return { type: "missing_field", field: "d", reason: "no description, nor its hash" };
  }
  if (description !== null && descriptionHash !== null) {
    return { type: "two_descriptions", reason: "both a description and the hash of one" };
  }
  if (description !== null && !description.isWellFormed()) return badField("d", "not a text of Unicode");
  if (expirySeconds < 0n || expirySeconds > MAX_U64) return badField("x", "not a u64");
  if (
    !Number.isInteger(minFinalCltvExpiryDelta) || minFinalCltvExpiryDelta < 0 ||
    minFinalCltvExpiryDelta > MAX_U32
  ) return badField("c", "not a u32");
  if (invoice.fallbacks?.every(isFallback) === false) return badField("f", "not an address");
  if (invoice.routeHints?.some((hops) => hops.length === 0) === true) return badField("r", "no hop");
  return null;
}

/** The words that a field must have, whatever it says; undefined: any. */
const FIXED_WORDS: ReadonlyMap<FieldLetter, number> = new Map([
  ["p", HASH_WORDS],
  ["s", HASH_WORDS],
  ["h", HASH_WORDS],
  ["n", POINT_WORDS],
]);

/** Type, length and words of every field behind the time. */
function joinFields(timestamp: bigint, fields: readonly Field[]): Result<Uint8Array, InvoiceFault> {
  const parts = [uintToWords(timestamp, TIMESTAMP_WORDS)];
  for (const [letter, words] of fields) {
    const fixed = FIXED_WORDS.get(letter);
    if (fixed !== undefined && fixed !== words.length) return err(badField(letter, "a wrong length"));
    if (words.length > MAX_FIELD_WORDS) return err(badField(letter, "too long"));
    parts.push(Uint8Array.of(TAG[letter]), uintToWords(BigInt(words.length), LENGTH_WORDS), words);
  }
  return ok(concatBytes(...parts));
}

/**
 * Lays out an invoice for its signer (BOLT 11, the requirements of a writer). The amount is written in its shortest
 * form, `9` only with a bit in it, and nothing that is not given. Fails, with the names that the reader uses, for a text
 * or list that does not fit. Throws RangeError for a route hint whose numbers or key cannot be.
 */
export function unsignedInvoice(invoice: InvoiceFields): Result<UnsignedInvoice, InvoiceFault> {
  const fault = faultOf(invoice);
  if (fault !== null) return err(fault);
  const hrp = formatPrefix(invoice);
  if (!hrp.ok) return hrp;
  const words = joinFields(invoice.timestamp, fieldsOf(invoice));
  if (!words.ok) return words;
  const length = hrp.value.length + words.value.length + SIGNATURE_WORDS + BECH32_EXTRA;
  if (length > MAX_INVOICE_LENGTH) {
    return err({ type: "too_long", reason: `longer than ${MAX_INVOICE_LENGTH} characters` });
  }
  return ok({
    hrp: hrp.value,
    words: words.value,
    sighash: invoiceSighash(hrp.value, words.value),
  });
}

/**
 * The text of an invoice, in lower case. The signature is over `sighash`; whose it is, is not checked here. Throws
 * RangeError for a signature that is not 64 bytes or a recovery id that is not 0 to 3.
 */
export function signedInvoice(
  { hrp, words }: Pick<UnsignedInvoice, "hrp" | "words">,
  { signature, recoveryId }: RecoverableSignature,
): string {
  if (signature.length !== INVOICE_SIGNATURE_LENGTH) throw new RangeError("a signature has 64 bytes");
  if (!Number.isInteger(recoveryId) || recoveryId < 0 || recoveryId > MAX_RECOVERY_ID) {
    throw new RangeError(`not a recovery id: ${recoveryId}`);
  }
  const seal = bytesToWords(concatBytes(signature, Uint8Array.of(recoveryId)));
  return bech32.encode(hrp, concatBytes(words, seal), MAX_INVOICE_LENGTH);
}
