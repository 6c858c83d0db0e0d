import { HASH_LENGTH, POINT_LENGTH, SIGNATURE_LENGTH } from "./reader.ts";

const INITIAL_CAPACITY = 256;
const MAX_U64 = 0xffff_ffff_ffff_ffffn;
const MAX_U16 = 0xffff;

/**
 * Appends big-endian fields to a growing buffer (BOLT 1, fundamental types).
 *
 * What it is given comes from this node, so a value that does not fit is a defect here: every method throws RangeError.
 */
export class Writer {
  #buffer = new Uint8Array(INITIAL_CAPACITY);
  #view = new DataView(this.#buffer.buffer);
  #length = 0;

  /** How many bytes were written. */
  get length(): number {
    return this.#length;
  }

  /** Everything written so far, as a copy. */
  finish(): Uint8Array {
    return this.#buffer.slice(0, this.#length);
  }

  /** Makes room for `length` bytes; answers where they begin. */
  #grow(length: number): number {
    const start = this.#length;
    const end = start + length;
    if (end > this.#buffer.length) {
      const larger = new Uint8Array(Math.max(end, this.#buffer.length * 2));
      larger.set(this.#buffer.subarray(0, start));
      this.#buffer = larger;
      this.#view = new DataView(larger.buffer);
    }
    this.#length = end;
    return start;
  }

  /** Bytes as they are; with `length`, exactly so many. */
  bytes(value: Uint8Array, length?: number): void {
    if (!(value instanceof Uint8Array)) throw new RangeError("not bytes");
    if (length !== undefined && value.length !== length) {
      throw new RangeError(`${value.length} bytes instead of ${length}`);
    }
    const start = this.#grow(value.length);
    this.#buffer.set(value, start);
  }

  /** One unsigned byte. */
  u8(value: number): void {
    integer(value, 0, 0xff);
    const at = this.#grow(1);
    this.#view.setUint8(at, value);
  }

  /** Two bytes, unsigned. */
  u16(value: number): void {
    integer(value, 0, MAX_U16);
    const at = this.#grow(2);
    this.#view.setUint16(at, value);
  }

  /** Four bytes, unsigned. */
  u32(value: number): void {
    integer(value, 0, 0xffff_ffff);
    const at = this.#grow(4);
    this.#view.setUint32(at, value);
  }

  /** Eight bytes, unsigned. */
  u64(value: bigint): void {
    bigInteger(value, 0n, MAX_U64);
    const at = this.#grow(8);
    this.#view.setBigUint64(at, value);
  }

  /** One byte, two's complement. */
  s8(value: number): void {
    integer(value, -0x80, 0x7f);
    const at = this.#grow(1);
    this.#view.setInt8(at, value);
  }

  /** Two bytes, two's complement. */
  s16(value: number): void {
    integer(value, -0x8000, 0x7fff);
    const at = this.#grow(2);
    this.#view.setInt16(at, value);
  }

  /** Four bytes, two's complement. */
  s32(value: number): void {
    integer(value, -0x8000_0000, 0x7fff_ffff);
    const at = this.#grow(4);
    this.#view.setInt32(at, value);
  }

  /** Eight bytes, two's complement. */
  s64(value: bigint): void {
    bigInteger(value, -(1n << 63n), (1n << 63n) - 1n);
    const at = this.#grow(8);
    this.#view.setBigInt64(at, value);
  }

  /** Truncated u16: without leading zero bytes, so zero is no byte at all. */
  tu16(value: number): void {
    integer(value, 0, MAX_U16);
    this.#truncated(BigInt(value));
  }

  /** Truncated u32. */
  tu32(value: number): void {
    integer(value, 0, 0xffff_ffff);
    this.#truncated(BigInt(value));
  }

  /** Truncated u64. */
  tu64(value: bigint): void {
    bigInteger(value, 0n, MAX_U64);
    this.#truncated(value);
  }

  #truncated(value: bigint): void {
    let length = 0;
    for (let rest = value; rest > 0n; rest >>= 8n) length++;
    for (let i = length - 1; i >= 0; i--) this.u8(Number((value >> BigInt(8 * i)) & 0xffn));
  }

  /** A compressed public key; only its shape is checked. */
  point(value: Uint8Array): void {
    if (value[0] !== 2 && value[0] !== 3) throw new RangeError("not a compressed public key");
    this.bytes(value, POINT_LENGTH);
  }

  /** A compact signature. */
  signature(value: Uint8Array): void {
    this.bytes(value, SIGNATURE_LENGTH);
  }

  /** A SHA256, a txid, a channel id. */
  hash(value: Uint8Array): void {
    this.bytes(value, HASH_LENGTH);
  }

  /** Bytes behind their u16 length. */
  bytes16(value: Uint8Array): void {
    if (value.length > MAX_U16) throw new RangeError(`${value.length} bytes do not fit a u16 length`);
    this.u16(value.length);
    this.bytes(value);
  }
}

function integer(value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw new RangeError(`not an integer from ${min} to ${max}: ${value}`);
  }
}

function bigInteger(value: bigint, min: bigint, max: bigint): void {
  if (typeof value !== "bigint" || value < min || value > max) {
    throw new RangeError(`not a bigint from ${min} to ${max}: ${value}`);
  }
}

/** The bytes that `write` appends. */
export function encodeAll(write: (writer: Writer) => void): Uint8Array {
  const writer = new Writer();
  write(writer);
  return writer.finish();
}
