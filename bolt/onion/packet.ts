/** The onion packet of a payment (BOLT 4, Packet Structure). */
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { ecc, POINT_LENGTH } from "bolt/crypto/ecc.ts";
import { ONION_KEY_LENGTH, onionKey } from "bolt/onion/keys.ts";
import { FAILURE_CODES } from "bolt/onion/failure_codes.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { ONION_PACKET_LENGTH } from "bolt/wire/messages.ts";

/** The only version there is. */
export const ONION_VERSION = 0;
/** Length of `hop_payloads`. */
export const HOP_PAYLOADS_LENGTH = 1300;
/**
 * Hops that an onion may have: as many as fit with the smallest payloads that forward anything. An origin goes this
 * often over an error, too, however short the route (BOLT 4, Origin node).
 */
export const MAX_ONION_HOPS = 27;

const KEY_OFFSET = 1;
const PAYLOADS_OFFSET = KEY_OFFSET + POINT_LENGTH;
const HMAC_OFFSET = PAYLOADS_OFFSET + HOP_PAYLOADS_LENGTH;

/** `onion_packet`, with BOLT's names. */
export interface OnionPacket {
  /** {@link ONION_VERSION} */
  readonly version: number;
  /** 33 bytes: what the node that peels it makes its shared secret with. */
  readonly public_key: Uint8Array;
  /** {@link HOP_PAYLOADS_LENGTH} bytes. */
  readonly hop_payloads: Uint8Array;
  /** 32 bytes. */
  readonly hmac: Uint8Array;
}

/** Why an onion cannot be read by the node it came to, in a way that its origin must hear of from our peer. */
export interface MalformedOnion {
  /** BOLT's name of the code. */
  readonly type: "invalid_onion_version" | "invalid_onion_hmac" | "invalid_onion_key";
  /** With BADONION set. */
  readonly failure_code: number;
  /** SHA256 of the 1366 bytes as they came. */
  readonly sha256_of_onion: Uint8Array;
}

/** The failure for `update_fail_malformed_htlc`. */
export function malformedOnion(type: MalformedOnion["type"], onion: Uint8Array): MalformedOnion {
  return { type, failure_code: FAILURE_CODES[type], sha256_of_onion: sha256(onion) };
}

/**
 * Reads a packet, and checks what can be before there is a shared secret: version and key. The packet's fields are
 * views of `onion`, not copies: do not change it. A length that no packet has counts as a version that we do not know.
 */
export function decodeOnionPacket(onion: Uint8Array): Result<OnionPacket, MalformedOnion> {
  const version = onion[0];
  if (onion.length !== ONION_PACKET_LENGTH || version !== ONION_VERSION) {
    return err(malformedOnion("invalid_onion_version", onion));
  }
  const public_key = onion.subarray(KEY_OFFSET, PAYLOADS_OFFSET);
  if (!ecc().isPoint(public_key)) return err(malformedOnion("invalid_onion_key", onion));
  return ok({
    version,
    public_key,
    hop_payloads: onion.subarray(PAYLOADS_OFFSET, HMAC_OFFSET),
    hmac: onion.subarray(HMAC_OFFSET),
  });
}

/** The 1366 bytes of a packet. Throws RangeError for fields of another length. */
export function encodeOnionPacket(packet: OnionPacket): Uint8Array {
  if (!hasPacketLengths(packet)) throw new RangeError("not the fields of an onion packet");
  const onion = new Uint8Array(ONION_PACKET_LENGTH);
  onion[0] = packet.version;
  onion.set(packet.public_key, KEY_OFFSET);
  onion.set(packet.hop_payloads, PAYLOADS_OFFSET);
  onion.set(packet.hmac, HMAC_OFFSET);
  return onion;
}

function hasPacketLengths({ public_key, hop_payloads, hmac }: OnionPacket): boolean {
  return public_key.length === POINT_LENGTH && hop_payloads.length === HOP_PAYLOADS_LENGTH &&
    hmac.length === ONION_KEY_LENGTH;
}

/** HMAC of a packet under a shared secret's `mu` key: over the payloads and what the packet commits to besides. */
export function packetHmac(
  sharedSecret: Uint8Array,
  hopPayloads: Uint8Array,
  associatedData: Uint8Array,
): Uint8Array {
  return hmac.create(sha256, onionKey("mu", sharedSecret)).update(hopPayloads).update(associatedData)
    .digest();
}

/** SHA256 of a key and the shared secret that it made: the next hop's key is this times the key. */
export function blindingFactor(publicKey: Uint8Array, sharedSecret: Uint8Array): Uint8Array {
  return sha256.create().update(publicKey).update(sharedSecret).digest();
}
