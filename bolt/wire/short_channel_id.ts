import type { Brand } from "bolt/units.ts";

/**
 * Where a funding output stands in the chain, or an alias of the same form (BOLT 7): block height in the upper 3 bytes,
 * index of the transaction in the next 3, index of the output in the last 2. Every u64 is one.
 */
export type ShortChannelId = Brand<bigint, "ShortChannelId">;

/** The three parts of a {@link ShortChannelId}. */
export interface ShortChannelIdParts {
  /** Height of the block, u24. */
  readonly block: number;
  /** Index of the transaction in the block, u24. */
  readonly tx: number;
  /** Index of the output in the transaction, u16. */
  readonly output: number;
}

const MAX_U64 = 0xffff_ffff_ffff_ffffn;
const MAX_U24 = 0xff_ffff;
const MAX_U16 = 0xffff;
const TEXT = /^(0|[1-9]\d{0,7})x(0|[1-9]\d{0,7})x(0|[1-9]\d{0,4})$/;

/** A u64 as a short channel id. Throws RangeError outside u64. */
export function shortChannelId(value: bigint): ShortChannelId {
  if (value < 0n || value > MAX_U64) throw new RangeError(`not a short channel id: ${value}`);
  return value as ShortChannelId;
}

/** Puts the parts together. Throws RangeError when one does not fit. */
export function packShortChannelId(parts: ShortChannelIdParts): ShortChannelId {
  const { block, tx, output } = parts;
  if (!isUint(block, MAX_U24) || !isUint(tx, MAX_U24) || !isUint(output, MAX_U16)) {
    throw new RangeError(`not the parts of a short channel id: ${block}x${tx}x${output}`);
  }
  return shortChannelId((BigInt(block) << 40n) | (BigInt(tx) << 16n) | BigInt(output));
}

/** Takes a short channel id apart. */
export function unpackShortChannelId(id: ShortChannelId): ShortChannelIdParts {
  return {
    block: Number(id >> 40n),
    tx: Number((id >> 16n) & 0xff_ffffn),
    output: Number(id & 0xffffn),
  };
}

/** The text that people read, `block x tx x output`: `123x1x0`. */
export function formatShortChannelId(id: ShortChannelId): string {
  const { block, tx, output } = unpackShortChannelId(id);
  return `${block}x${tx}x${output}`;
}

/** Reads `123x1x0`; undefined when it is anything else, leading zeros included. */
export function parseShortChannelId(text: string): ShortChannelId | undefined {
  const match = TEXT.exec(text);
  if (match === null) return undefined;
  const parts = { block: Number(match[1]), tx: Number(match[2]), output: Number(match[3]) };
  if (parts.block > MAX_U24 || parts.tx > MAX_U24 || parts.output > MAX_U16) return undefined;
  return packShortChannelId(parts);
}

function isUint(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}
