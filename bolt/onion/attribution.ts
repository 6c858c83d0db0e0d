/**
 * Attribution data: how long each hop held an HTLC, and HMACs by which the origin finds who made an error unreadable
 * (BOLT 4, Returning Errors and Hold times for successful payments).
 *
 * A hop does not know its place in the route, so it adds an HMAC for every place that it may have: `hmac_x_y` is the
 * one of the node `x` hops away from the reader, in case that node is `y` hops away from the end. Block `x` holds those
 * of one node, from the largest `y` down to 0, and is one shorter than the block before.
 */
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { applyStream, onionKey, sameInConstantTime } from "bolt/onion/keys.ts";

/** Hops that attribution data has room for. */
export const MAX_ATTRIBUTED_HOPS = 20;
/** What a hold time counts in. */
export const HOLD_TIME_UNIT_MS = 100;

const HOLD_TIME_LENGTH = 4;
const HMAC_LENGTH = 4;
const HOLD_TIMES_LENGTH = MAX_ATTRIBUTED_HOPS * HOLD_TIME_LENGTH;
const HMACS_LENGTH = (MAX_ATTRIBUTED_HOPS * (MAX_ATTRIBUTED_HOPS + 1) / 2) * HMAC_LENGTH;
const ATTRIBUTION_LENGTH = HOLD_TIMES_LENGTH + HMACS_LENGTH;
const MAX_HOLD_TIME = 0xffff_ffff;
const NO_PACKET = new Uint8Array(0);

/** `attribution_data` as `update_fail_htlc` and `update_fulfill_htlc` carry it. */
export interface AttributionData {
  /** 80 bytes: 20 u32, in units of 100 ms. */
  readonly htlc_hold_times: Uint8Array;
  /** 840 bytes: 210 HMACs of 4. */
  readonly truncated_hmacs: Uint8Array;
}

/** A hold time for the wire, rounded down. What no u32 can hold is the largest one; less than nothing is none. */
export function holdTime(milliseconds: number): number {
  const units = Math.floor(milliseconds / HOLD_TIME_UNIT_MS);
  return units > 0 ? Math.min(units, MAX_HOLD_TIME) : 0;
}

/**
 * What a hop sends back: the data that came from downstream (none if it is the one that fails or fulfils, or if the
 * next node sent none) with its own hold time and HMACs before them. `packet` is the error as it came, before our
 * stream, or as made here; nothing for a fulfilled HTLC. Throws RangeError for a hold time that is no u32.
 */
export function addAttribution(
  sharedSecret: Uint8Array,
  holdTime: number,
  packet: Uint8Array = NO_PACKET,
  downstream?: AttributionData,
): AttributionData {
  if (!Number.isInteger(holdTime) || holdTime < 0 || holdTime > MAX_HOLD_TIME) {
    throw new RangeError(`not a hold time: ${holdTime}`);
  }
  const data = new Uint8Array(ATTRIBUTION_LENGTH);
  if (downstream !== undefined) shiftInto(data, join(downstream));
  new DataView(data.buffer).setUint32(0, holdTime);

  // Every HMAC covers the packet and what the one before covers of the hold times: hash those once.
  const common = hmac.create(sha256, onionKey("um", sharedSecret)).update(packet);
  for (let y = 0; y < MAX_ATTRIBUTED_HOPS; y++) {
    common.update(data.subarray(y * HOLD_TIME_LENGTH, (y + 1) * HOLD_TIME_LENGTH));
    const code = common.clone().update(downstreamHmacs(data, y)).digest();
    data.set(code.subarray(0, HMAC_LENGTH), hmacOffset(0, y));
  }
  applyStream(onionKey("ammagext", sharedSecret), data);
  return split(data);
}

/** Reads attribution data hop by hop, from the first hop on. */
export class AttributionReader {
  #data: Uint8Array;
  readonly #positions: number;
  #hop = 0;

  /** Takes the data that the first hop sent, and how many hops the route has. */
  constructor(attribution: AttributionData, hops: number) {
    this.#data = join(attribution);
    this.#positions = Math.min(hops, MAX_ATTRIBUTED_HOPS);
  }

  /**
   * The hold time that the next hop reports; null if its HMAC does not fit, or there is no room for it. `packet` is the
   * error before that hop's stream, nothing for a fulfilled HTLC. Past the end of the route it works as hard as before.
   */
  next(sharedSecret: Uint8Array, packet: Uint8Array = NO_PACKET): number | null {
    // How far the route goes on. A hop that failed the HTLC itself has made the HMACs for what it never saw over zeros.
    const left = this.#positions - 1 - this.#hop++;
    const y = Math.max(0, left);
    const data = this.#data;
    applyStream(onionKey("ammagext", sharedSecret), data);
    const code = hmac.create(sha256, onionKey("um", sharedSecret)).update(packet)
      .update(data.subarray(0, (y + 1) * HOLD_TIME_LENGTH)).update(downstreamHmacs(data, y)).digest();
    const at = hmacOffset(0, y);
    const good = sameInConstantTime(code.subarray(0, HMAC_LENGTH), data.subarray(at, at + HMAC_LENGTH));
    const reported = new DataView(data.buffer).getUint32(0);
    this.#data = unshift(data);
    return good && left >= 0 ? reported : null;
  }
}

/**
 * The hold times that the hops of a fulfilled payment report, from the first hop on, as far as their HMACs are good: it
 * ends before the first hop that does not take part.
 */
export function fulfilledHoldTimes(
  attribution: AttributionData,
  sharedSecrets: readonly Uint8Array[],
): readonly number[] {
  const reader = new AttributionReader(attribution, sharedSecrets.length);
  const times: number[] = [];
  for (const secret of sharedSecrets) {
    const time = reader.next(secret);
    if (time === null) break;
    times.push(time);
  }
  return times;
}

/** Where `hmac_x_y` begins. */
function hmacOffset(x: number, y: number): number {
  const before = x * MAX_ATTRIBUTED_HOPS - x * (x - 1) / 2;
  return HOLD_TIMES_LENGTH + (before + MAX_ATTRIBUTED_HOPS - 1 - x - y) * HMAC_LENGTH;
}

/** The `y` HMACs behind ours that ours covers: each further node is one nearer to the end. */
function downstreamHmacs(data: Uint8Array, y: number): Uint8Array {
  const hmacs = new Uint8Array(y * HMAC_LENGTH);
  for (let x = 1; x <= y; x++) {
    const at = hmacOffset(x, y - x);
    hmacs.set(data.subarray(at, at + HMAC_LENGTH), (x - 1) * HMAC_LENGTH);
  }
  return hmacs;
}

/** Every node is one further away: its HMAC for the longest route is dropped, and so is the last node. */
function shiftInto(target: Uint8Array, data: Uint8Array): void {
  target.set(data.subarray(0, HOLD_TIMES_LENGTH - HOLD_TIME_LENGTH), HOLD_TIME_LENGTH);
  for (let x = 1; x < MAX_ATTRIBUTED_HOPS; x++) {
    const longest = MAX_ATTRIBUTED_HOPS - 1 - x;
    const from = hmacOffset(x - 1, longest);
    target.set(data.subarray(from, from + (longest + 1) * HMAC_LENGTH), hmacOffset(x, longest));
  }
}

/** The other way round, for the origin; what was dropped stays zero and is not looked at. */
function unshift(data: Uint8Array): Uint8Array {
  const target = new Uint8Array(ATTRIBUTION_LENGTH);
  target.set(data.subarray(HOLD_TIME_LENGTH, HOLD_TIMES_LENGTH));
  for (let x = 1; x < MAX_ATTRIBUTED_HOPS; x++) {
    const longest = MAX_ATTRIBUTED_HOPS - 1 - x;
    const from = hmacOffset(x, longest);
    target.set(data.subarray(from, from + (longest + 1) * HMAC_LENGTH), hmacOffset(x - 1, longest));
  }
  return target;
}

function join({ htlc_hold_times, truncated_hmacs }: AttributionData): Uint8Array {
  if (htlc_hold_times.length !== HOLD_TIMES_LENGTH || truncated_hmacs.length !== HMACS_LENGTH) {
    throw new RangeError("attribution data has 920 bytes");
  }
  const data = new Uint8Array(ATTRIBUTION_LENGTH);
  data.set(htlc_hold_times);
  data.set(truncated_hmacs, HOLD_TIMES_LENGTH);
  return data;
}

function split(data: Uint8Array): AttributionData {
  return {
    htlc_hold_times: data.subarray(0, HOLD_TIMES_LENGTH),
    truncated_hmacs: data.subarray(HOLD_TIMES_LENGTH),
  };
}
