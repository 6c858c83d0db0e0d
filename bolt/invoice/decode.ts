/** Reads invoices (BOLT 11). */

import { bech32 } from "@scure/base";
import { ecc } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { checkPeerFeatures, Features } from "bolt/wire/features.ts";
import { decodeAll, type Reader } from "bolt/wire/reader.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import { FALLBACK_P2SH, isFallback } from "bolt/invoice/fallback.ts";
import {
  HASH_WORDS,
  HOP_LENGTH,
  invoiceSighash,
  LENGTH_WORDS,
  POINT_WORDS,
  SIGNATURE_WORDS,
  TAG,
  TIMESTAMP_WORDS,
  UNDERSTOOD_INVOICE_FEATURES,
} from "bolt/invoice/fields.ts";
import { parsePrefix } from "bolt/invoice/prefix.ts";
import {
  DEFAULT_EXPIRY_SECONDS,
  DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA,
  type Fallback,
  type FieldLetter,
  type Invoice,
  INVOICE_SIGNATURE_LENGTH,
  type InvoiceFault,
  MAX_INVOICE_LENGTH,
  MAX_RECOVERY_ID,
  type RouteHop,
  type UnknownField,
} from "bolt/invoice/types.ts";
import { padWords, wordsToBitSet, wordsToBytes, wordsToUint } from "bolt/invoice/words.ts";

const MAX_U32 = 0xffff_ffffn;
/** Keeps a byte order mark: the text is what was signed. */
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What the tagged fields said so far. */
interface Draft {
  paymentHash?: Uint8Array;
  paymentSecret?: Uint8Array;
  description?: string;
  descriptionHash?: Uint8Array;
  metadata?: Uint8Array;
  payee?: Uint8Array;
  expirySeconds?: bigint;
  minFinalCltvExpiryDelta?: number;
  features?: Features;
  readonly fallbacks: Fallback[];
  readonly routeHints: (readonly RouteHop[])[];
  readonly unknownFields: UnknownField[];
}

/** Takes a field into the draft; `false` leaves it among the unknown ones. */
type FieldReader = (words: Uint8Array, draft: Draft) => boolean | InvoiceFault;

function badPadding(field: FieldLetter): InvoiceFault {
  return { type: "bad_padding", field, reason: `field ${field}: the padding is not zero` };
}

function badField(field: FieldLetter, what: string): InvoiceFault {
  return { type: "bad_field", field, reason: `field ${field}: ${what}` };
}

/** A field that is bytes; of another length than `length`, if given, it is skipped. */
function bytesField(
  field: FieldLetter,
  length: number | undefined,
  take: (bytes: Uint8Array, draft: Draft) => boolean | InvoiceFault,
): FieldReader {
  return (words, draft) => {
    if (length !== undefined && words.length !== length) return false;
    const bytes = wordsToBytes(words);
    return bytes === null ? badPadding(field) : take(bytes, draft);
  };
}

/** A number; one zero may stand for zero, any other zero in front says nothing (BOLT 11: not minimal). */
function uintField(field: "x" | "c", max: bigint, take: (value: bigint, draft: Draft) => void): FieldReader {
  return (words, draft) => {
    if (words.length > 1 && words[0] === 0) {
      return { type: "not_minimal", field, reason: `field ${field}: leading zeros` };
    }
    const value = wordsToUint(words);
    if (value === null || value > max) return badField(field, "the number is too large");
    take(value, draft);
    return true;
  };
}

function readDescription(bytes: Uint8Array, draft: Draft): true | InvoiceFault {
  try {
    draft.description = UTF8.decode(bytes);
    return true;
  } catch {
    return badField("d", "not UTF-8");
  }
}

function readHop(reader: Reader): RouteHop {
  return {
    pubkey: reader.point(),
    shortChannelId: shortChannelId(reader.u64()),
    feeBaseMsat: reader.u32(),
    feeProportionalMillionths: reader.u32(),
    cltvExpiryDelta: reader.u16(),
  };
}

function readHint(bytes: Uint8Array, draft: Draft): true | InvoiceFault {
  if (bytes.length === 0 || bytes.length % HOP_LENGTH !== 0) return badField("r", "not a list of hops");
  const hops = decodeAll(bytes, (reader) => {
    const list: RouteHop[] = [];
    while (reader.remaining > 0) list.push(readHop(reader));
    return list;
  });
  if (!hops.ok) return badField("r", hops.error.reason);
  if (!hops.value.every((hop) => ecc().isPoint(hop.pubkey))) return badField("r", "a node id is not a point");
  draft.routeHints.push(hops.value);
  return true;
}

/** A fallback that nobody could pay to is skipped, as one of an unknown version is: the invoice can still be paid. */
function readFallback(words: Uint8Array, draft: Draft): boolean {
  const version = words[0];
  if (version === undefined || version > FALLBACK_P2SH) return false;
  const program = wordsToBytes(words.subarray(1));
  if (program === null || !isFallback({ version, program })) return false;
  draft.fallbacks.push({ version, program });
  return true;
}

function readFeatures(words: Uint8Array, draft: Draft): true | InvoiceFault {
  if (words[0] === 0) return { type: "not_minimal", field: "9", reason: "field 9: leading zeros" };
  const features = Features.parse(wordsToBitSet(words));
  if (!features.ok) return badField("9", features.error.reason);
  draft.features = features.value;
  return true;
}

/** Fields that count once: the first that is taken (BOLT 11 lets a reader prefer it). */
const SINGLE = new Map<number, { readonly key: keyof Draft; readonly read: FieldReader }>([
  [TAG.p, {
    key: "paymentHash",
    read: bytesField("p", HASH_WORDS, (bytes, draft) => {
      draft.paymentHash = bytes;
      return true;
    }),
  }],
  [TAG.s, {
    key: "paymentSecret",
    read: bytesField("s", HASH_WORDS, (bytes, draft) => {
      draft.paymentSecret = bytes;
      return true;
    }),
  }],
  [TAG.h, {
    key: "descriptionHash",
    read: bytesField("h", HASH_WORDS, (bytes, draft) => {
      draft.descriptionHash = bytes;
      return true;
    }),
  }],
  [TAG.n, {
    key: "payee",
    read: bytesField("n", POINT_WORDS, (bytes, draft) => {
      if (!ecc().isPoint(bytes)) return badField("n", "not a point");
      draft.payee = bytes;
      return true;
    }),
  }],
  [TAG.d, { key: "description", read: bytesField("d", undefined, readDescription) }],
  [TAG.m, {
    key: "metadata",
    read: bytesField("m", undefined, (bytes, draft) => {
      draft.metadata = bytes;
      return true;
    }),
  }],
  [TAG.x, {
    key: "expirySeconds",
    read: uintField("x", (1n << 64n) - 1n, (value, draft) => {
      draft.expirySeconds = value;
    }),
  }],
  [TAG.c, {
    key: "minFinalCltvExpiryDelta",
    read: uintField("c", MAX_U32, (value, draft) => {
      draft.minFinalCltvExpiryDelta = Number(value);
    }),
  }],
  [TAG[9], { key: "features", read: readFeatures }],
]);
/** Fields of which there may be several, the most wanted first. */
const REPEATED = new Map<number, FieldReader>([
  [TAG.f, readFallback],
  [TAG.r, bytesField("r", undefined, readHint)],
]);

function readField(tag: number, words: Uint8Array, draft: Draft): boolean | InvoiceFault {
  const single = SINGLE.get(tag);
  if (single !== undefined) return draft[single.key] === undefined ? single.read(words, draft) : false;
  return REPEATED.get(tag)?.(words, draft) ?? false;
}

/** The tagged fields: a type, a length and so many words, until nothing is left. */
function readFields(words: Uint8Array): Result<Draft, InvoiceFault> {
  const draft: Draft = { fallbacks: [], routeHints: [], unknownFields: [] };
  for (let at = 0; at < words.length;) {
    const begin = at + 1 + LENGTH_WORDS;
    const [tag, high, low] = words.subarray(at, begin);
    if (tag === undefined || high === undefined || low === undefined) {
      return err({ type: "truncated", reason: "the last field has no length" });
    }
    const end = begin + high * 32 + low;
    if (end > words.length) return err({ type: "truncated", reason: "a field goes beyond the end" });
    const data = words.slice(begin, end);
    const taken = readField(tag, data, draft);
    if (typeof taken === "object") return err(taken);
    if (!taken) draft.unknownFields.push({ tag, words: data });
    at = end;
  }
  return ok(draft);
}

/** The key that signed: that of `n`, with a low s only, or else the recovered one, whose s may be high (BOLT 11). */
function signer(
  hash: Uint8Array,
  signature: Uint8Array,
  recoveryId: number,
  payee: Uint8Array | undefined,
): Result<Uint8Array, InvoiceFault> {
  const bad = (reason: string) => err({ type: "bad_signature", reason } as const);
  if (recoveryId > MAX_RECOVERY_ID) return bad("the recovery id is not 0 to 3");
  if (payee === undefined) {
    const key = ecc().recover(hash, signature, recoveryId);
    return key === null ? bad("the signature recovers no key") : ok(key);
  }
  return ecc().verifyEcdsa(hash, signature, payee)
    ? ok(payee)
    : bad("the signature is not one of field n with a low s");
}

function checkFeatures(features: Features, understood: Features): InvoiceFault | null {
  const checked = checkPeerFeatures(understood, features);
  if (checked.ok) return null;
  const { error } = checked;
  if (error.type === "required_by_peer") {
    return { type: "unknown_features", bits: error.bits, reason: error.reason };
  }
  return { type: "missing_dependency", reason: error.reason };
}

function missing(field: FieldLetter, what: string): Result<never, InvoiceFault> {
  return err({ type: "missing_field", field, reason: `no ${what} (field ${field})` });
}

/**
 * Reads an invoice, in lower or upper case, and checks its signature (BOLT 11, the requirements of a reader). Fields of
 * unknown type, of a wrong length, and repetitions of what counts once are skipped. Never throws.
 *
 * `understood` are the features that the payer has: even bits beyond them, and beyond what BOLT 9 assumes of everyone,
 * are refused. Whether it has expired, and whether its network is ours, is the caller's to ask. A `lightning:` in front
 * is no part of it: see `stripLightningUri`.
 */
export function decodeInvoice(
  text: string,
  understood: Features = UNDERSTOOD_INVOICE_FEATURES,
): Result<Invoice, InvoiceFault> {
  if (text.length > MAX_INVOICE_LENGTH) {
    return err({ type: "too_long", reason: `longer than ${MAX_INVOICE_LENGTH} characters` });
  }
  const parts = bech32.decodeUnsafe(text, MAX_INVOICE_LENGTH);
  if (parts === undefined) {
    const reason = "not bech32: a wrong checksum, mixed case, or a character that cannot be";
    return err({ type: "bad_bech32", reason });
  }
  const prefix = parsePrefix(parts.prefix);
  if (!prefix.ok) return prefix;

  const words = Uint8Array.from(parts.words);
  if (words.length < TIMESTAMP_WORDS + SIGNATURE_WORDS) {
    return err({ type: "truncated", reason: "too short for a time and a signature" });
  }
  const signed = words.subarray(0, words.length - SIGNATURE_WORDS);
  const draft = readFields(signed.subarray(TIMESTAMP_WORDS));
  if (!draft.ok) return draft;
  const { paymentHash, paymentSecret, description, descriptionHash, features = Features.NONE } = draft.value;
  if (paymentHash === undefined) return missing("p", "payment hash");
  if (paymentSecret === undefined) return missing("s", "payment secret");
  if (description === undefined && descriptionHash === undefined) {
    return missing("d", "description, nor its hash");
  }
  if (description !== undefined && descriptionHash !== undefined) {
    return err({ type: "two_descriptions", reason: "both a description and the hash of one" });
  }
  const unable = checkFeatures(features, understood);
  if (unable !== null) return err(unable);

  const seal = padWords(words.subarray(signed.length));
  const signature = seal.slice(0, INVOICE_SIGNATURE_LENGTH);
  const recoveryId = seal[INVOICE_SIGNATURE_LENGTH] ?? MAX_RECOVERY_ID + 1;
  const payee = signer(invoiceSighash(parts.prefix, signed), signature, recoveryId, draft.value.payee);
  if (!payee.ok) return payee;

  return ok({
    ...prefix.value,
    timestamp: wordsToUint(words.subarray(0, TIMESTAMP_WORDS)) ?? 0n,
    paymentHash,
    paymentSecret,
    description: description ?? null,
    descriptionHash: descriptionHash ?? null,
    payee: payee.value,
    expirySeconds: draft.value.expirySeconds ?? DEFAULT_EXPIRY_SECONDS,
    minFinalCltvExpiryDelta: draft.value.minFinalCltvExpiryDelta ?? DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA,
    fallbacks: draft.value.fallbacks,
    routeHints: draft.value.routeHints,
    features,
    metadata: draft.value.metadata ?? null,
    signature,
    recoveryId,
    unknownFields: draft.value.unknownFields,
  });
}
