/** The symmetric half of BOLT 8: ChaCha20-Poly1305 (RFC 8439) and HKDF-SHA256 (RFC 5869). */
import { createCipheriv, createDecipheriv } from "node:crypto";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";

/** Bytes of a key. */
export const KEY_LENGTH = 32;
/** Bytes of a nonce. */
export const NONCE_LENGTH = 12;
/** Bytes of the authentication tag behind every ciphertext. */
export const TAG_LENGTH = 16;
const ALGORITHM = "chacha20-poly1305";
const OPTIONS = { authTagLength: TAG_LENGTH } as const;
const COUNTER_OFFSET = 4;
const NO_INFO = new Uint8Array(0);

/** Associated data where there is none. */
export const NO_AD: Uint8Array = new Uint8Array(0);

/** A message counter as nonce (BOLT 8): 32 zero bits, then 64 bits little-endian. */
export function counterNonce(counter: number): Uint8Array {
  if (!Number.isSafeInteger(counter) || counter < 0) {
    throw new RangeError(`not a message counter: ${counter}`);
  }
  const nonce = new Uint8Array(NONCE_LENGTH);
  new DataView(nonce.buffer).setBigUint64(COUNTER_OFFSET, BigInt(counter), true);
  return nonce;
}

function requireKey(key: Uint8Array, nonce: Uint8Array): void {
  if (key.length !== KEY_LENGTH) throw new RangeError("a key has 32 bytes");
  if (nonce.length !== NONCE_LENGTH) throw new RangeError("a nonce has 12 bytes");
}

/** Ciphertext and tag. Throws RangeError for a malformed key or nonce. */
export function seal(key: Uint8Array, nonce: Uint8Array, ad: Uint8Array, plaintext: Uint8Array): Uint8Array {
  requireKey(key, nonce);
  const cipher = createCipheriv(ALGORITHM, key, nonce, OPTIONS);
  cipher.setAAD(ad, { plaintextLength: plaintext.length });
  const out = new Uint8Array(plaintext.length + TAG_LENGTH);
  out.set(cipher.update(plaintext));
  cipher.final();
  out.set(cipher.getAuthTag(), plaintext.length);
  return out;
}

/**
 * The plaintext, or null if the tag does not fit key, nonce, associated data and ciphertext. Throws RangeError for a
 * malformed key or nonce: both are ours.
 */
export function open(
  key: Uint8Array,
  nonce: Uint8Array,
  ad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  requireKey(key, nonce);
  const length = sealed.length - TAG_LENGTH;
  if (length < 0) return null;
  const decipher = createDecipheriv(ALGORITHM, key, nonce, OPTIONS);
  decipher.setAAD(ad, { plaintextLength: length });
  decipher.setAuthTag(sealed.subarray(length));
  const plaintext = Uint8Array.from(decipher.update(sealed.subarray(0, length)));
  try {
    decipher.final();
  } catch {
    return null;
  }
  return plaintext;
}

/** HKDF-SHA256 with empty info and 64 bytes out, in halves: BOLT 8's `HKDF(salt, ikm)`. */
export function hkdf2(salt: Uint8Array, ikm: Uint8Array): readonly [Uint8Array, Uint8Array] {
  const out = hkdf(sha256, ikm, salt, NO_INFO, 2 * KEY_LENGTH);
  return [out.slice(0, KEY_LENGTH), out.slice(KEY_LENGTH)];
}
