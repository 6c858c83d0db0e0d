/** Errors on their way back to a payment's origin (BOLT 4, Returning Errors). */
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { addAttribution, type AttributionData, AttributionReader } from "bolt/onion/attribution.ts";
import { decodeFailure, encodeFailure, type FailureMessage } from "bolt/onion/failure.ts";
import { applyStream, ONION_KEY_LENGTH, onionKey, sameInConstantTime } from "bolt/onion/keys.ts";
import { MAX_ONION_HOPS } from "bolt/onion/packet.ts";
import { MAX_MESSAGE_LENGTH } from "bolt/wire/messages.ts";

/** Length that a failure message and its padding have at least, so that its length does not tell which it is. */
export const MIN_FAILURE_LENGTH = 256;
/** Longest error that `update_fail_htlc` can carry: all but its number, channel, id and length. */
export const MAX_REASON_LENGTH = MAX_MESSAGE_LENGTH - (2 + 32 + 8 + 2);
/** Longest error that it can carry with attribution data: another record of 920 bytes, its number and length. */
export const MAX_REASON_WITH_ATTRIBUTION = MAX_REASON_LENGTH - (1 + 3 + 920);

const LENGTH_SIZE = 2;
/** What the loop of an origin goes on with when the route has ended (BOLT 4: constant keys hide its length). */
const NO_HOP = new Uint8Array(ONION_KEY_LENGTH);

/** What `update_fail_htlc` carries. */
export interface ReturnedError {
  readonly reason: Uint8Array;
  /** Absent when it would make the message too long. */
  readonly attribution_data?: AttributionData;
}

/** What an origin learns from an error. */
export type Attribution =
  /** A hop said so, and no other could have. */
  | {
    readonly type: "attributed";
    /** Index of the hop that failed the HTLC. */
    readonly hop: number;
    /** Null when it is too short to have one. */
    readonly failureCode: number | null;
    /** Null when that hop's message does not fit its code, or is cut. */
    readonly failure: FailureMessage | null;
    /** The failure message as it came. */
    readonly raw: Uint8Array;
    /** What the hops from the first on report, in units of 100 ms, as far as they take part. */
    readonly holdTimes: readonly number[];
  }
  /** No hop is the author: some node on the way changed the error, or made it of nothing. */
  | {
    readonly type: "unreadable";
    /**
     * The first hop whose part of the attribution data is not good (the last one if all are): it did that, or the node
     * before it, or it just takes no part in attribution. Null without attribution data.
     */
    readonly blamedHop: number | null;
    readonly holdTimes: readonly number[];
  };

/**
 * The error for a failure of our own, as `update_fail_htlc` carries it. The padding makes the message
 * `paddedLength` long, which all nodes expect to be {@link MIN_FAILURE_LENGTH}. Throws RangeError for a failure that
 * no message can carry.
 */
export function createErrorPacket(
  sharedSecret: Uint8Array,
  failure: FailureMessage,
  paddedLength: number = MIN_FAILURE_LENGTH,
): Uint8Array {
  const packet = plainErrorPacket(sharedSecret, failure, paddedLength);
  applyStream(onionKey("ammag", sharedSecret), packet);
  return packet;
}

/** An error of downstream as we pass it on. It may be of any length, and its content is none of our business. */
export function obfuscate(sharedSecret: Uint8Array, packet: Uint8Array): Uint8Array {
  const obfuscated = packet.slice();
  applyStream(onionKey("ammag", sharedSecret), obfuscated);
  return obfuscated;
}

/** {@link createErrorPacket} with attribution data (option_attribution_data); not for an HTLC that came with a path key. */
export function createAttributableError(
  sharedSecret: Uint8Array,
  failure: FailureMessage,
  holdTime: number,
  paddedLength: number = MIN_FAILURE_LENGTH,
): ReturnedError {
  return withAttribution(
    sharedSecret,
    holdTime,
    plainErrorPacket(sharedSecret, failure, paddedLength),
    undefined,
  );
}

/** {@link obfuscate} with attribution data: that of downstream, or new if there was none, with ours before it. */
export function relayAttributableError(
  sharedSecret: Uint8Array,
  received: { readonly reason: Uint8Array; readonly attribution_data?: AttributionData | undefined },
  holdTime: number,
): ReturnedError {
  return withAttribution(sharedSecret, holdTime, received.reason.slice(), received.attribution_data);
}

/**
 * Reads an error at its origin: `sharedSecrets` are the route's, in the order of {@link createOnion}. Always does the
 * work of the longest route, and goes on when the author was found, so that a hop that fails the same route again and
 * again cannot time where it stands in it.
 */
export function attribute(
  packet: Uint8Array,
  sharedSecrets: readonly Uint8Array[],
  attributionData?: AttributionData,
): Attribution {
  const hops = sharedSecrets.length;
  const reader = attributionData === undefined ? null : new AttributionReader(attributionData, hops);
  const holdTimes: number[] = [];
  let attributable = true;
  let found: { readonly hop: number; readonly content: Uint8Array } | null = null;
  const current = packet.slice();
  for (let hop = 0; hop < Math.max(hops, MAX_ONION_HOPS); hop++) {
    const secret = sharedSecrets[hop] ?? NO_HOP;
    applyStream(onionKey("ammag", secret), current);
    const time = reader?.next(secret, current) ?? null;
    if (time === null) attributable = false;
    if (attributable && time !== null) holdTimes.push(time);
    const content = current.subarray(ONION_KEY_LENGTH);
    const expected = hmac(sha256, onionKey("um", secret), content);
    // The keys behind the route are known to all: an error made with them has no author.
    if (sameInConstantTime(expected, current.subarray(0, ONION_KEY_LENGTH)) && hop < hops) {
      found ??= { hop, content: content.slice() };
    }
  }
  if (found === null) {
    const blamedHop = reader === null || hops === 0 ? null : Math.min(holdTimes.length, hops - 1);
    return { type: "unreadable", blamedHop, holdTimes };
  }
  const raw = failureOf(found.content);
  const failure = decodeFailure(raw);
  return {
    type: "attributed",
    hop: found.hop,
    failureCode: raw.length < LENGTH_SIZE ? null : (raw[0]! << 8) | raw[1]!,
    failure: failure.ok ? failure.value : null,
    raw,
    holdTimes,
  };
}

/** HMAC, length, failure, length, padding; before any stream. */
function plainErrorPacket(
  sharedSecret: Uint8Array,
  failure: FailureMessage,
  paddedLength: number,
): Uint8Array {
  const message = encodeFailure(failure);
  const padding = Math.max(0, paddedLength - message.length);
  const length = ONION_KEY_LENGTH + LENGTH_SIZE + message.length + LENGTH_SIZE + padding;
  if (length > MAX_REASON_LENGTH) throw new RangeError(`an error of ${length} bytes fits no message`);
  const packet = new Uint8Array(length);
  const view = new DataView(packet.buffer);
  view.setUint16(ONION_KEY_LENGTH, message.length);
  packet.set(message, ONION_KEY_LENGTH + LENGTH_SIZE);
  view.setUint16(ONION_KEY_LENGTH + LENGTH_SIZE + message.length, padding);
  packet.set(hmac(sha256, onionKey("um", sharedSecret), packet.subarray(ONION_KEY_LENGTH)));
  return packet;
}

/** Takes over `packet`. */
function withAttribution(
  sharedSecret: Uint8Array,
  holdTime: number,
  packet: Uint8Array,
  downstream: AttributionData | undefined,
): ReturnedError {
  const attribution_data = packet.length > MAX_REASON_WITH_ATTRIBUTION
    ? undefined
    : addAttribution(sharedSecret, holdTime, packet, downstream);
  applyStream(onionKey("ammag", sharedSecret), packet);
  return attribution_data === undefined ? { reason: packet } : { reason: packet, attribution_data };
}

/** The failure message of an error without its HMAC; nothing if its length is past the end. */
function failureOf(content: Uint8Array): Uint8Array {
  if (content.length < LENGTH_SIZE) return new Uint8Array(0);
  const end = LENGTH_SIZE + ((content[0]! << 8) | content[1]!);
  return end > content.length ? new Uint8Array(0) : content.slice(LENGTH_SIZE, end);
}
