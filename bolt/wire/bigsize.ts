import type { Result } from "bolt/result.ts";
import type { DecodeFault } from "./fault.ts";
import { decodeAll, type Reader } from "./reader.ts";
import { encodeAll, type Writer } from "./writer.ts";

const TWO_BYTES = 0xfd;
const FOUR_BYTES = 0xfe;
const EIGHT_BYTES = 0xff;
const MAX_U64 = 0xffff_ffff_ffff_ffffn;

/** Reads a bigsize, 1 to 9 bytes; one that a shorter form could hold is a fault (BOLT 1). */
export function readBigSize(reader: Reader): bigint {
  const first = reader.u8();
  if (first < TWO_BYTES) return BigInt(first);
  const [value, min] = first === TWO_BYTES
    ? [BigInt(reader.u16()), 0xfdn]
    : first === FOUR_BYTES
    ? [BigInt(reader.u32()), 0x1_0000n]
    : [reader.u64(), 0x1_0000_0000n];
  if (value < min) reader.notCanonical("bigsize is not in its shortest form");
  return value;
}

/** Appends a bigsize in its only form. Throws RangeError outside u64. */
export function writeBigSize(writer: Writer, value: bigint): void {
  if (typeof value !== "bigint" || value < 0n || value > MAX_U64) {
    throw new RangeError(`not a bigsize: ${value}`);
  }
  if (value < 0xfdn) {
    writer.u8(Number(value));
  } else if (value < 0x1_0000n) {
    writer.u8(TWO_BYTES);
    writer.u16(Number(value));
  } else if (value < 0x1_0000_0000n) {
    writer.u8(FOUR_BYTES);
    writer.u32(Number(value));
  } else {
    writer.u8(EIGHT_BYTES);
    writer.u64(value);
  }
}

/** Decodes bytes that are one bigsize and nothing else. */
export function decodeBigSize(bytes: Uint8Array): Result<bigint, DecodeFault> {
  return decodeAll(bytes, readBigSize);
}

/** The bytes of a bigsize. Throws RangeError outside u64. */
export function encodeBigSize(value: bigint): Uint8Array {
  return encodeAll((writer) => writeBigSize(writer, value));
}
