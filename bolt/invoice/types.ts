/** Invoices (BOLT 11) as values, and what can be wrong with one. */

import type { Features } from "bolt/wire/features.ts";
import type { ShortChannelId } from "bolt/wire/short_channel_id.ts";
import type { Msat } from "bolt/units.ts";

/**
 * Longest invoice that is read or written: the most that any QR code holds. BOLT 11 sets no limit, and without one a
 * stranger's text would decide how much work it is.
 */
export const MAX_INVOICE_LENGTH = 7089;
/** Expiry of an invoice without an `x` field, in seconds (BOLT 11, tagged fields). */
export const DEFAULT_EXPIRY_SECONDS = 3600n;
/** What a payer adds to the last hop without a `c` field (BOLT 11, tagged fields). */
export const DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA = 18;
/** Bytes of a signature, r and s. */
export const INVOICE_SIGNATURE_LENGTH = 64;
/** Greatest recovery id (BOLT 11, data part). */
export const MAX_RECOVERY_ID = 3;
/** Last second that the 35 bits of a timestamp can say. */
export const MAX_TIMESTAMP = (1n << 35n) - 1n;

/** The networks that an invoice's prefix can name; all the testnets share one. */
export type InvoiceNetwork = "bitcoin" | "testnet" | "signet" | "regtest" | "simnet";

/** One channel on the way from a public node to the payee (BOLT 11, `r`). */
export interface RouteHop {
  /** The node at which the channel starts: 33 bytes, a point. */
  readonly pubkey: Uint8Array;
  readonly shortChannelId: ShortChannelId;
  /** u32. */
  readonly feeBaseMsat: number;
  /** u32. */
  readonly feeProportionalMillionths: number;
  /** u16. */
  readonly cltvExpiryDelta: number;
}

/** Where to pay on chain instead (BOLT 11, `f`). */
export interface Fallback {
  /** 0 to 16: a witness program's version; 17: P2PKH; 18: P2SH. */
  readonly version: number;
  /** The witness program, or the 20 bytes of the hash. */
  readonly program: Uint8Array;
}

/** A field that the reader skipped: of an unknown type, of a wrong length, or one more of a kind that counts once. */
export interface UnknownField {
  /** 0 to 31. */
  readonly tag: number;
  /** The data, a value of 0 to 31 in each byte. */
  readonly words: Uint8Array;
}

/** A decoded invoice whose signature is good. */
export interface Invoice {
  readonly network: InvoiceNetwork;
  /** Null when the payer chooses. */
  readonly amountMsat: Msat | null;
  /** Seconds since 1970. */
  readonly timestamp: bigint;
  /** 32 bytes. */
  readonly paymentHash: Uint8Array;
  /** 32 bytes. */
  readonly paymentSecret: Uint8Array;
  /** What is paid for; text of a stranger. Exactly one of this and `descriptionHash` is not null. */
  readonly description: string | null;
  /** SHA-256 of a text that the payer gets elsewhere. */
  readonly descriptionHash: Uint8Array | null;
  /** The node that is paid: `n` if given, else the key of the signature. 33 bytes, a point. */
  readonly payee: Uint8Array;
  /** Seconds from `timestamp`, a u64; {@link DEFAULT_EXPIRY_SECONDS} when not given. */
  readonly expirySeconds: bigint;
  /** A u32; {@link DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA} when not given. */
  readonly minFinalCltvExpiryDelta: number;
  /** The most wanted first. */
  readonly fallbacks: readonly Fallback[];
  /** Each a way of one or more hops, in the order of the payment. */
  readonly routeHints: readonly (readonly RouteHop[])[];
  readonly features: Features;
  /** What the payer must hand back as `payment_metadata`. */
  readonly metadata: Uint8Array | null;
  /** 64 bytes. */
  readonly signature: Uint8Array;
  /** 0 to 3. */
  readonly recoveryId: number;
  /** What was skipped, in its order. */
  readonly unknownFields: readonly UnknownField[];
}

/** What an invoice says before it is signed. */
export interface InvoiceFields {
  readonly network: InvoiceNetwork;
  /** Null: the payer chooses. */
  readonly amountMsat: Msat | null;
  /** Seconds since 1970, at most {@link MAX_TIMESTAMP}. */
  readonly timestamp: bigint;
  /** 32 bytes. */
  readonly paymentHash: Uint8Array;
  /** 32 bytes. */
  readonly paymentSecret: Uint8Array;
  /** At most 639 bytes of UTF-8; exactly one of this and `descriptionHash` is given. */
  readonly description: string | null;
  /** 32 bytes. */
  readonly descriptionHash: Uint8Array | null;
  /** Written when given, a u64; else the reader takes the default. */
  readonly expirySeconds?: bigint;
  /** Written when given, a u32; else the reader takes the default. */
  readonly minFinalCltvExpiryDelta?: number;
  readonly fallbacks?: readonly Fallback[];
  readonly routeHints?: readonly (readonly RouteHop[])[];
  readonly features?: Features;
  /** At most 639 bytes. */
  readonly metadata?: Uint8Array;
  /** Writes an `n` field; else the payer recovers the key, which is shorter. */
  readonly payee?: Uint8Array;
}

/** The letter of a tagged field that this code knows. */
export type FieldLetter = "p" | "s" | "d" | "m" | "n" | "h" | "x" | "c" | "f" | "r" | "9";

/** What is wrong with an invoice. `reason` holds nothing of the text and may be printed. */
export type InvoiceFault =
  /** Longer than {@link MAX_INVOICE_LENGTH}. */
  | { readonly type: "too_long"; readonly reason: string }
  /** A strange character, mixed case, no separator, or a wrong checksum. */
  | { readonly type: "bad_bech32"; readonly reason: string }
  /** Not an invoice, or one of a network that has no name here. */
  | { readonly type: "unknown_prefix"; readonly reason: string }
  /** Not a number, an unknown multiplier, no whole msat, zero, or more than all bitcoin. */
  | { readonly type: "bad_amount"; readonly reason: string }
  /** A time before 1970 or beyond 35 bits. */
  | { readonly type: "bad_timestamp"; readonly reason: string }
  /** Too short, or a field goes beyond the end. */
  | { readonly type: "truncated"; readonly reason: string }
  /** Bits that only fill up a field are not zero, or too many. */
  | { readonly type: "bad_padding"; readonly reason: string; readonly field: FieldLetter }
  /** `x`, `c` or `9` begins with a zero that says nothing. */
  | { readonly type: "not_minimal"; readonly reason: string; readonly field: FieldLetter }
  /** The content cannot be what the field stands for. */
  | { readonly type: "bad_field"; readonly reason: string; readonly field: FieldLetter }
  /** A field that must be there is not, or not in its right length. */
  | { readonly type: "missing_field"; readonly reason: string; readonly field: FieldLetter }
  /** Both `d` and `h`. */
  | { readonly type: "two_descriptions"; readonly reason: string }
  /** Features that must be understood and are not. */
  | { readonly type: "unknown_features"; readonly reason: string; readonly bits: readonly number[] }
  /** A feature without one that belongs to it. */
  | { readonly type: "missing_dependency"; readonly reason: string }
  /** It recovers no key, or is not that of the `n` field. */
  | { readonly type: "bad_signature"; readonly reason: string };

/** The second from which an invoice must not be paid any more. */
export function invoiceExpiresAt(invoice: Pick<Invoice, "timestamp" | "expirySeconds">): bigint {
  return invoice.timestamp + invoice.expirySeconds;
}
