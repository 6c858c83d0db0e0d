/** Taking our layer off an onion (BOLT 4, Onion Decryption). */
import { sha256 } from "@noble/hashes/sha2.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { MIN_PAYLOAD_LENGTH } from "bolt/onion/create.ts";
import { applyStream, ONION_KEY_LENGTH, onionKey, sameInConstantTime } from "bolt/onion/keys.ts";
import {
  blindingFactor,
  encodeOnionPacket,
  HOP_PAYLOADS_LENGTH,
  type MalformedOnion,
  malformedOnion,
  ONION_VERSION,
  type OnionPacket,
  packetHmac,
} from "bolt/onion/packet.ts";
import { err, ok, type Result } from "bolt/result.ts";

const TWO_BYTE_LENGTH = 0xfd;
const FOUR_BYTE_LENGTH = 0xfe;
const SHORT_LENGTH_SIZE = 1;
const LONG_LENGTH_SIZE = 3;

/** A packet and the secret that we share with its origin. */
export interface PeelOnionParams {
  /** As {@link decodeOnionPacket} gave it. */
  readonly packet: OnionPacket;
  /** SHA256 of the compressed point `node key * public_key`: what the signer's ECDH gives. */
  readonly sharedSecret: Uint8Array;
  /** What the packet commits to besides: the payment hash. */
  readonly associatedData: Uint8Array;
}

/** Our part of an onion. Its bytes are views of one buffer that belongs to it alone. */
export interface PeeledOnion {
  /** The TLV stream for us, without its length; at least two bytes. */
  readonly payload: Uint8Array;
  /** For the next node; null when we are the last. */
  readonly next: OnionPacket | null;
}

/** What its origin packed for us makes no sense: the HTLC fails with an error packet, since the secret is good. */
export interface InvalidOnionPayload {
  /** BOLT's name of the failure. */
  readonly type: "invalid_onion_payload";
  /** The TLV record that is wrong; 0 when it is none in particular. */
  readonly tlv_type: bigint;
  /** Where that record begins in the payload. */
  readonly offset: number;
}

/**
 * Why an onion could not be peeled: a {@link MalformedOnion} goes back by `update_fail_malformed_htlc`, an
 * {@link InvalidOnionPayload} is a failure message for `createErrorPacket`.
 */
export type OnionFault = MalformedOnion | InvalidOnionPayload;

/** Peels a packet. Throws RangeError for a secret that is not 32 bytes, or a packet that `decodeOnionPacket` never gave. */
export function peelOnion(params: PeelOnionParams): Result<PeeledOnion, OnionFault> {
  const { packet, sharedSecret, associatedData } = params;
  if (packet.version !== ONION_VERSION) return malformed("invalid_onion_version", packet);
  const expected = packetHmac(sharedSecret, packet.hop_payloads, associatedData);
  if (!sameInConstantTime(expected, packet.hmac)) return malformed("invalid_onion_hmac", packet);

  const unwrapped = new Uint8Array(2 * HOP_PAYLOADS_LENGTH);
  unwrapped.set(packet.hop_payloads);
  applyStream(onionKey("rho", sharedSecret), unwrapped);
  const place = findPayload(unwrapped);
  if (place === null) return err({ type: "invalid_onion_payload", tlv_type: 0n, offset: 0 });
  const { start, end } = place;
  const after = end + ONION_KEY_LENGTH;
  const payload = unwrapped.subarray(start, end);
  const hmac = unwrapped.subarray(end, after);
  if (hmac.every((byte) => byte === 0)) return ok({ payload, next: null });

  const public_key = ecc().pointMul(packet.public_key, blindingFactor(packet.public_key, sharedSecret));
  if (public_key === null) return malformed("invalid_onion_key", packet);
  const hop_payloads = unwrapped.subarray(after, after + HOP_PAYLOADS_LENGTH);
  return ok({ payload, next: { version: ONION_VERSION, public_key, hop_payloads, hmac } });
}

/**
 * What names an onion that was seen before: a digest of its HMAC and our shared secret. An onion comes once; a second
 * one with this key is a replay, made to see where the payment goes (BOLT 4, Onion Decryption).
 */
export function onionReplayKey(packet: OnionPacket, sharedSecret: Uint8Array): Uint8Array {
  return sha256.create().update(packet.hmac).update(sharedSecret).digest();
}

function malformed(type: MalformedOnion["type"], packet: OnionPacket): Result<never, MalformedOnion> {
  return err(malformedOnion(type, encodeOnionPacket(packet)));
}

/**
 * Where the payload is; null for a length that is reserved, not in its shortest form, or past what came: the zeros
 * that we added must not be read as a payload or HMAC.
 */
function findPayload(unwrapped: Uint8Array): { start: number; end: number } | null {
  const first = unwrapped[0]!;
  if (first >= FOUR_BYTE_LENGTH) return null;
  const long = first === TWO_BYTE_LENGTH;
  const length = long ? (unwrapped[1]! << 8) | unwrapped[2]! : first;
  if (length < MIN_PAYLOAD_LENGTH || (long && length < TWO_BYTE_LENGTH)) return null;
  const start = long ? LONG_LENGTH_SIZE : SHORT_LENGTH_SIZE;
  const end = start + length;
  return end + ONION_KEY_LENGTH > HOP_PAYLOADS_LENGTH ? null : { start, end };
}
