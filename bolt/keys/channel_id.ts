/** BOLT 2, channel_id: how each kind of open names its channel. */
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import { POINT_LENGTH } from "bolt/crypto/ecc.ts";

/** Bytes of a channel id, and of a transaction id. */
export const CHANNEL_ID_LENGTH = 32;
const MAX_OUTPUT_INDEX = 0xffff;
const UNKNOWN_BASEPOINT = new Uint8Array(POINT_LENGTH);

function requireBasepoint(bytes: Uint8Array): void {
  if (bytes.length !== POINT_LENGTH) throw new RangeError("a revocation basepoint has 33 bytes");
}

/** Whether `a` sorts before `b`, byte by byte. Both have the same length. */
function lesser(a: Uint8Array, b: Uint8Array): boolean {
  for (const [i, byte] of a.entries()) {
    const difference = byte - (b[i] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}

/**
 * `channel_id` of a version 2 channel: SHA-256 of the lesser and the greater revocation basepoint, so both sides get
 * the same. Throws RangeError unless both have 33 bytes.
 */
export function channelIdV2(oneBasepoint: Uint8Array, otherBasepoint: Uint8Array): Uint8Array {
  requireBasepoint(oneBasepoint);
  requireBasepoint(otherBasepoint);
  return sha256(
    lesser(oneBasepoint, otherBasepoint)
      ? concatBytes(oneBasepoint, otherBasepoint)
      : concatBytes(otherBasepoint, oneBasepoint),
  );
}

/**
 * `temporary_channel_id` of `open_channel2`: the other basepoint is not known yet and counts as 33 zero bytes. Throws
 * RangeError unless the opener's basepoint has 33 bytes.
 */
export function temporaryChannelIdV2(openerBasepoint: Uint8Array): Uint8Array {
  requireBasepoint(openerBasepoint);
  return sha256(concatBytes(UNKNOWN_BASEPOINT, openerBasepoint));
}

/**
 * `channel_id` of a version 1 channel: the funding txid (in the byte order of a serialized outpoint) with the output
 * index XORed into its last two bytes. Throws RangeError for another length, or an index above 65535.
 */
export function channelIdV1(fundingTxid: Uint8Array, outputIndex: number): Uint8Array {
  if (fundingTxid.length !== CHANNEL_ID_LENGTH) throw new RangeError("a txid has 32 bytes");
  if (!Number.isInteger(outputIndex) || outputIndex < 0 || outputIndex > MAX_OUTPUT_INDEX) {
    throw new RangeError(`not a funding output index: ${outputIndex}`);
  }
  const id = fundingTxid.slice();
  const view = new DataView(id.buffer, id.byteOffset, id.byteLength);
  view.setUint16(CHANNEL_ID_LENGTH - 2, view.getUint16(CHANNEL_ID_LENGTH - 2) ^ outputIndex);
  return id;
}
