/** BOLT 3, Per-commitment Secret Requirements: secrets from a seed, and the peer's secrets in 49 slots. */
import { sha256 } from "@noble/hashes/sha2.js";
import { err, ok, type Result } from "bolt/result.ts";

/** Index of the first secret (commitment number 0); each next one counts down. */
export const FIRST_SHACHAIN_INDEX = (1n << 48n) - 1n;
/** Slots that hold every secret ever received: one for each number of trailing zero bits, 0 to 48. */
export const SHACHAIN_SLOTS = 49;
const INDEX_BITS = 48;
const SECRET_LENGTH = 32;

/** One stored secret and the index that it belongs to. */
export interface ShachainEntry {
  readonly index: bigint;
  readonly secret: Uint8Array;
}

/**
 * The peer's revealed secrets. `slots[b]` is the last secret whose index ends in exactly `b` zero bits (slot 48: index
 * 0). Plain data: copy it to and from rows as it is. Empty: {@link emptyShachain}.
 */
export interface ShachainStore {
  readonly slots: readonly (ShachainEntry | null)[];
}

/** Why a peer's secret was not taken. */
export type ShachainInsertError =
  | { readonly type: "bad_index"; readonly index: bigint }
  | { readonly type: "bad_secret_length"; readonly length: number }
  /** The next index is always one less than the last: another one would overwrite a slot out of turn. */
  | { readonly type: "out_of_order"; readonly expected: bigint | null; readonly got: bigint }
  /** The peer's secret does not lead to one that it revealed earlier: it cheats or lost its seed. */
  | { readonly type: "inconsistent_secret"; readonly index: bigint; readonly conflictsWith: bigint };

/** Why a secret is not to be had. */
export type ShachainLookupError =
  | { readonly type: "bad_index"; readonly index: bigint }
  | { readonly type: "not_revealed"; readonly index: bigint };

function isIndex(index: bigint): boolean {
  return index >= 0n && index <= FIRST_SHACHAIN_INDEX;
}

/** Index of the secret for a commitment number. Throws RangeError unless the number has at most 48 bits. */
export function shachainIndex(commitmentNumber: bigint): bigint {
  if (!isIndex(commitmentNumber)) throw new RangeError(`not a commitment number: ${commitmentNumber}`);
  return FIRST_SHACHAIN_INDEX - commitmentNumber;
}

/** Walks from a secret whose lower `bits` index bits are zero to the secret of `index`, highest bit first. */
function deriveFrom(base: Uint8Array, bits: number, index: bigint): Uint8Array {
  let secret = base.slice();
  for (let bit = bits - 1; bit >= 0; bit--) {
    if (((index >> BigInt(bit)) & 1n) === 0n) continue;
    const byte = bit >> 3;
    secret[byte] = (secret[byte] ?? 0) ^ (1 << (bit & 7));
    secret = sha256(secret);
  }
  return secret;
}

/**
 * The per-commitment secret of an index from our seed. Throws RangeError for a seed that is not 32 bytes or an index
 * of more than 48 bits: both are ours.
 */
export function generateFromSeed(seed: Uint8Array, index: bigint): Uint8Array {
  if (seed.length !== SECRET_LENGTH) throw new RangeError("a shachain seed has 32 bytes");
  if (!isIndex(index)) throw new RangeError(`not a shachain index: ${index}`);
  return deriveFrom(seed, INDEX_BITS, index);
}

/** A store before the first secret. */
export function emptyShachain(): ShachainStore {
  return { slots: new Array<ShachainEntry | null>(SHACHAIN_SLOTS).fill(null) };
}

/** Trailing zero bits of an index, at most 48. */
function slotOf(index: bigint): number {
  let slot = 0;
  while (slot < INDEX_BITS && ((index >> BigInt(slot)) & 1n) === 0n) slot++;
  return slot;
}

/** Index of the secret that {@link insertSecret} takes next; null when all 2^48 are in. */
export function nextShachainIndex(store: ShachainStore): bigint | null {
  let lowest: bigint | null = null;
  for (const entry of store.slots) {
    if (entry !== null && (lowest === null || entry.index < lowest)) lowest = entry.index;
  }
  if (lowest === null) return FIRST_SHACHAIN_INDEX;
  return lowest === 0n ? null : lowest - 1n;
}

/**
 * Takes the secret that a peer revealed with `revoke_and_ack`. Secrets come in order, from 2^48 - 1 down. The secret
 * must lead to every one in a lower slot (BOLT 3, Efficient Per-commitment Secret Storage); otherwise nothing changes.
 * The caller has already checked that the secret belongs to the commitment's per-commitment point.
 */
export function insertSecret(
  store: ShachainStore,
  index: bigint,
  secret: Uint8Array,
): Result<ShachainStore, ShachainInsertError> {
  if (!isIndex(index)) return err({ type: "bad_index", index });
  if (secret.length !== SECRET_LENGTH) return err({ type: "bad_secret_length", length: secret.length });
  const expected = nextShachainIndex(store);
  if (index !== expected) return err({ type: "out_of_order", expected, got: index });
  const slot = slotOf(index);
  for (const entry of store.slots.slice(0, slot)) {
    if (entry === null) continue;
    if (!sameBytes(deriveFrom(secret, slot, entry.index), entry.secret)) {
      return err({ type: "inconsistent_secret", index, conflictsWith: entry.index });
    }
  }
  const slots = store.slots.slice();
  slots[slot] = { index, secret: secret.slice() };
  return ok({ slots });
}

/** The secret of any index that was revealed. */
export function lookupSecret(store: ShachainStore, index: bigint): Result<Uint8Array, ShachainLookupError> {
  if (!isIndex(index)) return err({ type: "bad_index", index });
  for (const [slot, entry] of store.slots.entries()) {
    if (entry !== null && entry.index >> BigInt(slot) === index >> BigInt(slot)) {
      return ok(deriveFrom(entry.secret, slot, index));
    }
  }
  return err({ type: "not_revealed", index });
}

/** These are secrets that both sides know by now: no constant time needed. */
function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
