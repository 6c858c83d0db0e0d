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

/** Hold times and HMACs are words of four bytes, and moved as such. */
const WORD = 4;
const HOLD_TIMES_LENGTH = MAX_ATTRIBUTED_HOPS * WORD;
const HMACS_LENGTH = (MAX_ATTRIBUTED_HOPS * (MAX_ATTRIBUTED_HOPS + 1) / 2) * WORD;
const ATTRIBUTION_LENGTH = HOLD_TIMES_LENGTH + HMACS_LENGTH;
const WORDS = ATTRIBUTION_LENGTH / WORD;
const MAX_HOLD_TIME = 0xffff_ffff;
const NO_PACKET = new Uint8Array(0);

/** By `y`: the words of the `y` HMACs that `hmac_0_y` covers. Each further node is one nearer to the end. */
const DOWNSTREAM: readonly (readonly number[])[] = Array.from(
  { length: MAX_ATTRIBUTED_HOPS },
  (_, y) => Array.from({ length: y }, (_, k) => hmacWord(k + 1, y - (k + 1))),
);
/**
 * By word: which word of the data from downstream stands there once every node is one further away; -1 for our own.
 * Each node's HMAC for the longest route has no place any more, and the last node none at all.
 */
const SHIFTED: readonly number[] = shifted();

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
  const words = new Uint32Array(data.buffer);
  if (downstream !== undefined) {
    const received = new Uint32Array(join(downstream).buffer);
    for (let i = 0; i < WORDS; i++) if (SHIFTED[i]! >= 0) words[i] = received[SHIFTED[i]!]!;
  }
  new DataView(data.buffer).setUint32(0, holdTime);

  // Every HMAC covers the packet and what the one before covers of the hold times: hash those once.
  const common = hmac.create(sha256, onionKey("um", sharedSecret)).update(packet);
  for (let y = 0; y < MAX_ATTRIBUTED_HOPS; y++) {
    common.update(data.subarray(y * WORD, (y + 1) * WORD));
    const code = common.clone().update(downstreamHmacs(words, y)).digest();
    data.set(code.subarray(0, WORD), hmacWord(0, y) * WORD);
  }
  applyStream(onionKey("ammagext", sharedSecret), data);
  return split(data);
}

/** Reads attribution data hop by hop, from the first hop on. */
export class AttributionReader {
  #data: Uint8Array<ArrayBuffer>;
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
    const words = new Uint32Array(data.buffer);
    applyStream(onionKey("ammagext", sharedSecret), data);
    const code = hmac.create(sha256, onionKey("um", sharedSecret)).update(packet)
      .update(data.subarray(0, (y + 1) * WORD)).update(downstreamHmacs(words, y)).digest();
    const at = hmacWord(0, y) * WORD;
    const good = sameInConstantTime(code.subarray(0, WORD), data.subarray(at, at + WORD));
    const reported = new DataView(data.buffer).getUint32(0);
    this.#data = unshift(words);
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

/** Which word `hmac_x_y` is. */
function hmacWord(x: number, y: number): number {
  const before = x * MAX_ATTRIBUTED_HOPS - x * (x - 1) / 2;
  return MAX_ATTRIBUTED_HOPS + before + (MAX_ATTRIBUTED_HOPS - 1 - x - y);
}

function shifted(): number[] {
  const from = Array.from({ length: WORDS }, () => -1);
  for (let x = 1; x < MAX_ATTRIBUTED_HOPS; x++) {
    from[x] = x - 1;
    for (let y = 0; y < MAX_ATTRIBUTED_HOPS - x; y++) from[hmacWord(x, y)] = hmacWord(x - 1, y);
  }
  return from;
}

function downstreamHmacs(words: Uint32Array, y: number): Uint8Array {
  const hmacs = new Uint32Array(y);
  for (const [i, word] of DOWNSTREAM[y]!.entries()) hmacs[i] = words[word]!;
  return new Uint8Array(hmacs.buffer);
}

/** The data as the next hop sent them; what was dropped on the way stays zero and is not looked at. */
function unshift(words: Uint32Array): Uint8Array<ArrayBuffer> {
  const before = new Uint32Array(WORDS);
  for (let i = 0; i < WORDS; i++) if (SHIFTED[i]! >= 0) before[SHIFTED[i]!] = words[i]!;
  return new Uint8Array(before.buffer);
}

/** A copy: aligned, and ours to change. */
function join({ htlc_hold_times, truncated_hmacs }: AttributionData): Uint8Array<ArrayBuffer> {
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
