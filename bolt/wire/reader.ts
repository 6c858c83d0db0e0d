import type { Result } from "bolt/result.ts";
import { catchFault, type DecodeFault, raise } from "./fault.ts";

/** Length of a compressed public key. */
export const POINT_LENGTH = 33;
/** Length of a compact signature, r then s. */
export const SIGNATURE_LENGTH = 64;
/** Length of a SHA256, a txid, a channel id, a chain hash. */
export const HASH_LENGTH = 32;

/**
 * Reads big-endian fields from the front of bytes (BOLT 1, fundamental types).
 *
 * Every method checks that its bytes are there before it reads or allocates, and raises a fault if not: run it inside
 * {@link decodeAll} or `catchFault`. Byte fields are copies, so they neither pin nor follow the caller's buffer.
 */
export class Reader {
  /** Name of the field that is being read; it leads every reason. */
  field = "";
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  /** Reads `bytes` from their start. */
  constructor(bytes: Uint8Array) {
    // A node Buffer is a Uint8Array whose slice() does not copy: take a plain view of it.
    this.#bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** How many bytes are left. */
  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  /** Stops with a value that cannot be. */
  bad(reason: string): never {
    return raise({ type: "bad_value", reason: this.#named(reason) });
  }

  /** Stops with a number that is not in its shortest form. */
  notCanonical(reason: string): never {
    return raise({ type: "not_canonical", reason: this.#named(reason) });
  }

  /** Puts the name of the current field before a reason. */
  #named(reason: string): string {
    return this.field === "" ? reason : `${this.field}: ${reason}`;
  }

  /** Takes `length` bytes; answers where they begin. */
  #take(length: number): number {
    if (length > this.remaining) {
      raise({ type: "truncated", reason: this.#named(`needs ${length} bytes, ${this.remaining} left`) });
    }
    const start = this.#offset;
    this.#offset += length;
    return start;
  }

  /** Stops unless everything was read. */
  end(): void {
    if (this.remaining > 0) {
      raise({ type: "trailing_bytes", reason: this.#named(`${this.remaining} bytes too many`) });
    }
  }

  /** `length` bytes, as a copy. */
  bytes(length: number): Uint8Array {
    const start = this.#take(length);
    return this.#bytes.slice(start, start + length);
  }

  /** All that is left, as a copy. */
  rest(): Uint8Array {
    return this.bytes(this.remaining);
  }

  /** A reader over the next `length` bytes, which are taken from this one; it keeps the field's name. */
  sub(length: number): Reader {
    const start = this.#take(length);
    const reader = new Reader(this.#bytes.subarray(start, start + length));
    reader.field = this.field;
    return reader;
  }

  /** One unsigned byte. */
  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  /** Two bytes, unsigned. */
  u16(): number {
    return this.#view.getUint16(this.#take(2));
  }

  /** Four bytes, unsigned. */
  u32(): number {
    return this.#view.getUint32(this.#take(4));
  }

  /** Eight bytes, unsigned. */
  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8));
  }

  /** One byte, two's complement. */
  s8(): number {
    return this.#view.getInt8(this.#take(1));
  }

  /** Two bytes, two's complement. */
  s16(): number {
    return this.#view.getInt16(this.#take(2));
  }

  /** Four bytes, two's complement. */
  s32(): number {
    return this.#view.getInt32(this.#take(4));
  }

  /** Eight bytes, two's complement. */
  s64(): bigint {
    return this.#view.getBigInt64(this.#take(8));
  }

  /** Truncated u16: all that is left, without leading zero bytes (BOLT 1). */
  tu16(): number {
    return Number(this.#truncated(2));
  }

  /** Truncated u32: all that is left, without leading zero bytes (BOLT 1). */
  tu32(): number {
    return Number(this.#truncated(4));
  }

  /** Truncated u64: all that is left, without leading zero bytes (BOLT 1). */
  tu64(): bigint {
    return this.#truncated(8);
  }

  #truncated(max: number): bigint {
    const length = this.remaining;
    if (length > max) {
      raise({ type: "trailing_bytes", reason: this.#named(`${length} bytes in an integer of ${max}`) });
    }
    let value = 0n;
    for (let i = 0; i < length; i++) {
      const byte = this.u8();
      if (i === 0 && byte === 0) this.notCanonical("integer with a leading zero byte");
      value = (value << 8n) | BigInt(byte);
    }
    return value;
  }

  /** A compressed public key by its shape: 33 bytes that begin with 02 or 03. Whether it is on the curve is for its user to check. */
  point(): Uint8Array {
    const bytes = this.bytes(POINT_LENGTH);
    if (bytes[0] !== 2 && bytes[0] !== 3) this.bad("not a compressed public key");
    return bytes;
  }

  /** A compact signature, 64 bytes; neither its range nor low S is checked here. */
  signature(): Uint8Array {
    return this.bytes(SIGNATURE_LENGTH);
  }

  /** A SHA256, a txid in the order of its bytes in a transaction, a channel id. */
  hash(): Uint8Array {
    return this.bytes(HASH_LENGTH);
  }

  /** Bytes behind their u16 length. */
  bytes16(): Uint8Array {
    return this.bytes(this.u16());
  }
}

/** Runs `read` over the whole of `bytes`; a fault, or bytes left over, is a failure. */
export function decodeAll<T>(bytes: Uint8Array, read: (reader: Reader) => T): Result<T, DecodeFault> {
  return catchFault(() => {
    const reader = new Reader(bytes);
    const value = read(reader);
    reader.end();
    return value;
  });
}
