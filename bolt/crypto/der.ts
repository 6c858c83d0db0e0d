/** ECDSA signatures as Bitcoin scripts carry them: DER (BIP 66) with a sighash byte, and the compact form. */
import { concatBytes } from "@noble/hashes/utils.js";
import { SIGNATURE_LENGTH } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** Most bytes of a DER signature without its sighash byte. */
export const MAX_DER_LENGTH = 72;
const MIN_DER_LENGTH = 8;
const SCALAR_LENGTH = 32;
const SEQUENCE_TAG = 0x30;
const INTEGER_TAG = 0x02;
const SIGN_BIT = 0x80;

/** Why bytes are no strict DER signature. */
export type DerError =
  | { readonly type: "bad_length"; readonly length: number }
  | { readonly type: "bad_encoding"; readonly what: string }
  /** r or s is zero or has more than 256 bits: strict DER, but no signature. */
  | { readonly type: "bad_scalar"; readonly which: "r" | "s" };

/** A signature from a witness and the sighash type that it was made for. */
export interface SignatureWithSighash {
  /** 64 bytes, compact. Its s may still be high: `verifyEcdsa` refuses that. */
  readonly signature: Uint8Array;
  readonly sighash: number;
}

/** A scalar as minimal DER integer. */
function derInteger(scalar: Uint8Array): Uint8Array {
  let start = 0;
  while (start < scalar.length - 1 && scalar[start] === 0) start++;
  const digits = scalar.subarray(start);
  const padding = (digits[0] ?? 0) & SIGN_BIT ? 1 : 0;
  return concatBytes(
    Uint8Array.of(INTEGER_TAG, padding + digits.length),
    new Uint8Array(padding),
    digits,
  );
}

/** Strict DER of a compact signature. Throws RangeError unless it has 64 bytes. */
export function toDer(signature: Uint8Array): Uint8Array {
  if (signature.length !== SIGNATURE_LENGTH) throw new RangeError("a compact signature has 64 bytes");
  const r = derInteger(signature.subarray(0, SCALAR_LENGTH));
  const s = derInteger(signature.subarray(SCALAR_LENGTH));
  return concatBytes(Uint8Array.of(SEQUENCE_TAG, r.length + s.length), r, s);
}

/** DER and the sighash byte: what a witness holds. Throws RangeError unless 64 bytes and one byte. */
export function toDerWithSighash(signature: Uint8Array, sighash: number): Uint8Array {
  if (!Number.isInteger(sighash) || sighash < 0 || sighash > 0xff) {
    throw new RangeError(`not a sighash type: ${sighash}`);
  }
  return concatBytes(toDer(signature), Uint8Array.of(sighash));
}

/** The digits of an integer at an offset, and the offset behind it. */
function readInteger(
  der: Uint8Array,
  offset: number,
  which: "r" | "s",
): Result<{ readonly digits: Uint8Array; readonly next: number }, DerError> {
  if (der[offset] !== INTEGER_TAG) return err({ type: "bad_encoding", what: `${which} is no integer` });
  const length = der[offset + 1] ?? 0;
  const start = offset + 2;
  const digits = der.subarray(start, start + length);
  if (length === 0 || digits.length !== length) {
    return err({ type: "bad_encoding", what: `${which} has a wrong length` });
  }
  const [first = 0, second = 0] = digits;
  if (first & SIGN_BIT) return err({ type: "bad_encoding", what: `${which} is negative` });
  if (first === 0 && length > 1 && !(second & SIGN_BIT)) {
    return err({ type: "bad_encoding", what: `${which} is padded` });
  }
  return ok({ digits: first === 0 ? digits.subarray(1) : digits, next: start + length });
}

/**
 * The compact form of a strict DER signature (BIP 66: no other encoding of the same numbers is taken). Whether the
 * numbers are below the curve's order, and s low, is left to the verification.
 */
export function parseDer(der: Uint8Array): Result<Uint8Array, DerError> {
  if (der.length < MIN_DER_LENGTH || der.length > MAX_DER_LENGTH) {
    return err({ type: "bad_length", length: der.length });
  }
  if (der[0] !== SEQUENCE_TAG) return err({ type: "bad_encoding", what: "no sequence" });
  if (der[1] !== der.length - 2) return err({ type: "bad_encoding", what: "sequence has a wrong length" });
  const r = readInteger(der, 2, "r");
  if (!r.ok) return r;
  const s = readInteger(der, r.value.next, "s");
  if (!s.ok) return s;
  if (s.value.next !== der.length) return err({ type: "bad_encoding", what: "bytes behind s" });
  const signature = new Uint8Array(SIGNATURE_LENGTH);
  for (
    const [which, { digits }, end] of [["r", r.value, SCALAR_LENGTH], [
      "s",
      s.value,
      SIGNATURE_LENGTH,
    ]] as const
  ) {
    if (digits.length === 0 || digits.length > SCALAR_LENGTH) return err({ type: "bad_scalar", which });
    signature.set(digits, end - digits.length);
  }
  return ok(signature);
}

/** A peer's ECDSA witness element: strict DER and one sighash byte, which the caller compares with what it allows. */
export function parseDerWithSighash(bytes: Uint8Array): Result<SignatureWithSighash, DerError> {
  const sighash = bytes[bytes.length - 1];
  if (sighash === undefined) return err({ type: "bad_length", length: 0 });
  const parsed = parseDer(bytes.subarray(0, -1));
  return parsed.ok ? ok({ signature: parsed.value, sighash }) : parsed;
}
