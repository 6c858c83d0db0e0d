/** Pairs of read and write for the fields that messages are made of (BOLT 1, fundamental types). */

import { readBigSize, writeBigSize } from "./bigsize.ts";
import { HASH_LENGTH, POINT_LENGTH, type Reader, SIGNATURE_LENGTH } from "./reader.ts";
import { type ShortChannelId, shortChannelId } from "./short_channel_id.ts";
import type { Writer } from "./writer.ts";

/** How one field is read from and written to the wire. */
export interface Codec<T> {
  /** Bytes that it always takes; undefined when that depends on the value. */
  readonly size: number | undefined;
  /** Reads it; raises a fault. */
  read(reader: Reader): T;
  /** Appends it; throws RangeError for a value that does not fit. */
  write(writer: Writer, value: T): void;
}

/** The value that a codec reads. */
export type ValueOf<C> = C extends Codec<infer T> ? T : never;

/** Named codecs in the order of the wire. */
export type Fields = Readonly<Record<string, Codec<unknown>>>;

/** The object that {@link Fields} describe. */
export type ValuesOf<F extends Fields> = { readonly [K in keyof F]: ValueOf<F[K]> };

/** u8. */
export const u8: Codec<number> = { size: 1, read: (r) => r.u8(), write: (w, v) => w.u8(v) };
/** u16. */
export const u16: Codec<number> = { size: 2, read: (r) => r.u16(), write: (w, v) => w.u16(v) };
/** u32. */
export const u32: Codec<number> = { size: 4, read: (r) => r.u32(), write: (w, v) => w.u32(v) };
/** u64, unchecked: an amount from the wire may be beyond all bitcoin. */
export const u64: Codec<bigint> = { size: 8, read: (r) => r.u64(), write: (w, v) => w.u64(v) };
/** s64. */
export const s64: Codec<bigint> = { size: 8, read: (r) => r.s64(), write: (w, v) => w.s64(v) };
/** Truncated u16, which must be the last of its TLV record. */
export const tu16: Codec<number> = { size: undefined, read: (r) => r.tu16(), write: (w, v) => w.tu16(v) };
/** Truncated u32, which must be the last of its TLV record. */
export const tu32: Codec<number> = { size: undefined, read: (r) => r.tu32(), write: (w, v) => w.tu32(v) };
/** Truncated u64, which must be the last of its TLV record. */
export const tu64: Codec<bigint> = { size: undefined, read: (r) => r.tu64(), write: (w, v) => w.tu64(v) };
/** bigsize. */
export const bigsize: Codec<bigint> = { size: undefined, read: readBigSize, write: writeBigSize };
/** A compressed public key, 33 bytes by shape. */
export const point: Codec<Uint8Array> = {
  size: POINT_LENGTH,
  read: (r) => r.point(),
  write: (w, v) => w.point(v),
};
/** A compact signature, 64 bytes. */
export const signature: Codec<Uint8Array> = bytes(SIGNATURE_LENGTH);
/** 32 bytes: a SHA256, a txid in the order of its bytes in a transaction (not the reversed one that people read), a channel id. */
export const hash: Codec<Uint8Array> = bytes(HASH_LENGTH);
/** A short channel id or alias. */
export const scid: Codec<ShortChannelId> = {
  size: 8,
  read: (r) => shortChannelId(r.u64()),
  write: (w, v) => w.u64(v),
};
/** Bytes behind their u16 length. */
export const bytes16: Codec<Uint8Array> = {
  size: undefined,
  read: (r) => r.bytes16(),
  write: (w, v) => w.bytes16(v),
};
/** All bytes that are left of the TLV record. */
export const rest: Codec<Uint8Array> = {
  size: undefined,
  read: (r) => r.rest(),
  write: (w, v) => w.bytes(v),
};
/** No bytes: that the record is there says it all. */
export const empty: Codec<true> = { size: 0, read: () => true, write: () => undefined };

/** Exactly `length` bytes. */
export function bytes(length: number): Codec<Uint8Array> {
  return { size: length, read: (r) => r.bytes(length), write: (w, v) => w.bytes(v, length) };
}

/** Items behind their u16 count. */
export function list16<T>(item: Codec<T>): Codec<readonly T[]> {
  return {
    size: undefined,
    read: (r) => {
      const count = r.u16();
      // The count is the peer's word: refuse one that the bytes cannot hold before looping over it.
      if (item.size !== undefined && item.size * count > r.remaining) {
        r.bad(`${count} items in ${r.remaining} bytes`);
      }
      const items: T[] = [];
      for (let i = 0; i < count; i++) items.push(item.read(r));
      return items;
    },
    write: (w, v) => {
      w.u16(v.length);
      for (const value of v) item.write(w, value);
    },
  };
}

/** Items of a fixed size until the TLV record ends. Throws RangeError for a codec without one. */
export function listRest<T>(item: Codec<T>): Codec<readonly T[]> {
  const { size } = item;
  if (size === undefined || size === 0) throw new RangeError("items need a fixed size");
  return {
    size: undefined,
    read: (r) => {
      if (r.remaining % size !== 0) r.bad(`${r.remaining} bytes are not a multiple of ${size}`);
      const items: T[] = [];
      while (r.remaining > 0) items.push(item.read(r));
      return items;
    },
    write: (w, v) => {
      for (const value of v) item.write(w, value);
    },
  };
}

/** Fields one after the other, as one value. */
export function struct<F extends Fields>(fields: F): Codec<ValuesOf<F>> {
  let size: number | undefined = 0;
  for (const codec of Object.values(fields)) {
    size = size === undefined || codec.size === undefined ? undefined : size + codec.size;
  }
  return { size, read: (r) => readFields(r, fields), write: (w, v) => writeFields(w, fields, v) };
}

/** Reads fields in their order into one object. */
export function readFields<F extends Fields>(reader: Reader, fields: F): ValuesOf<F> {
  const values: Record<string, unknown> = {};
  const outer = reader.field;
  for (const [name, codec] of Object.entries(fields)) {
    reader.field = outer === "" ? name : `${outer}.${name}`;
    values[name] = codec.read(reader);
  }
  reader.field = outer;
  // The loop has read every name of F with F's own codec.
  return values as ValuesOf<F>;
}

/** Appends the fields of an object in their order. Throws RangeError that names the field. */
export function writeFields<F extends Fields>(writer: Writer, fields: F, values: ValuesOf<F>): void {
  for (const [name, codec] of Object.entries(fields)) {
    writeNamed(writer, name, codec, values[name]);
  }
}

/** Appends one field. Throws RangeError that names it. */
export function writeNamed(writer: Writer, name: string, codec: Codec<unknown>, value: unknown): void {
  if (value === undefined) throw new RangeError(`${name} is missing`);
  try {
    codec.write(writer, value);
  } catch (e) {
    throw e instanceof RangeError ? new RangeError(`${name}: ${e.message}`) : e;
  }
}
