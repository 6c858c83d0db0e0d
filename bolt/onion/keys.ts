/** Keys and streams that an onion's shared secrets give (BOLT 4, Key Generation and Pseudo Random Byte Stream). */
import { chacha20 } from "@noble/ciphers/chacha.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";

/** Length of a shared secret, a key, an HMAC. */
export const ONION_KEY_LENGTH = 32;
const NONCE_LENGTH = 12;
/** Every key makes one stream only, so the nonce is fixed (BOLT 4). */
const NONCE = new Uint8Array(NONCE_LENGTH);

const keyed = (name: string) => hmac.create(sha256, utf8ToBytes(name));
/** An HMAC under the key type's name, ready to be cloned: half of the work of a key. */
const KEY_TYPES = {
  /** Stream over the hop payloads. */
  rho: keyed("rho"),
  /** HMAC of the packet. */
  mu: keyed("mu"),
  /** HMACs of errors and attribution data. */
  um: keyed("um"),
  /** The bytes that an origin fills the packet with at first. */
  pad: keyed("pad"),
  /** Stream over errors. */
  ammag: keyed("ammag"),
  /** Stream over attribution data. */
  ammagext: keyed("ammagext"),
  /** What a node in a blinded route multiplies its key or the onion's by (BOLT 4, Route Blinding). */
  blinded_node_id: keyed("blinded_node_id"),
} as const;

/** What a key is for. */
export type OnionKeyType = keyof typeof KEY_TYPES;

/** The key of a type. Throws RangeError unless the secret has 32 bytes. */
export function onionKey(type: OnionKeyType, secret: Uint8Array): Uint8Array {
  if (secret.length !== ONION_KEY_LENGTH) throw new RangeError("a shared secret has 32 bytes");
  return KEY_TYPES[type].clone().update(secret).digest();
}

/** The first `length` bytes of a key's stream. */
export function onionStream(key: Uint8Array, length: number): Uint8Array {
  const stream = new Uint8Array(length);
  return chacha20(key, NONCE, stream, stream);
}

/** XORs bytes with a key's stream, where they are. */
export function applyStream(key: Uint8Array, bytes: Uint8Array): void {
  chacha20(key, NONCE, bytes, bytes);
}

/** Whether two byte strings of one length are the same, in a time that does not depend on where they differ. */
export function sameInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  // Both indices are below the common length.
  for (let i = 0; i < a.length; i++) difference |= a[i]! ^ b[i]!;
  return difference === 0;
}
