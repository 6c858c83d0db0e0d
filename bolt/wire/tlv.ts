/** TLV streams (BOLT 1, type-length-value format). */

import type { Result } from "bolt/result.ts";
import { readBigSize, writeBigSize } from "./bigsize.ts";
import { type Codec, type ValueOf, writeNamed } from "./codec.ts";
import { type DecodeFault, raise } from "./fault.ts";
import { decodeAll, Reader } from "./reader.ts";
import { encodeAll, Writer } from "./writer.ts";

/** One record as it stands in a stream. */
export interface TlvRecord {
  /** Its type; odd ones may be ignored. */
  readonly type: bigint;
  /** Its raw value. */
  readonly value: Uint8Array;
}

/** A record that we understand: its type and what its value holds. */
export interface TlvField<T> {
  /** Its type. */
  readonly type: bigint;
  /** What its value holds; it must take the whole value. */
  readonly codec: Codec<T>;
}

/** Named records of one namespace. */
export type TlvFields = Readonly<Record<string, TlvField<unknown>>>;

/** What was read of a stream: each known record by its name, and unknown odd ones raw. */
export type TlvValues<T extends TlvFields> =
  & { readonly [K in keyof T]?: (T[K] extends TlvField<infer V> ? V : never) | undefined }
  & {
    /** Odd records that we do not understand, in rising order; written back as they are. Absent when there are none. */
    readonly unknown_tlvs?: readonly TlvRecord[] | undefined;
  };

/** A namespace of TLV records. */
export interface TlvNamespace<T extends TlvFields> {
  /** Reads the stream that the rest of `reader` is; raises a fault. */
  read(reader: Reader): TlvValues<T>;
  /** Appends a stream in rising order. Throws RangeError for values that do not fit. */
  write(writer: Writer, values: TlvValues<T>): void;
  /** Decodes a whole stream. */
  decode(bytes: Uint8Array): Result<TlvValues<T>, DecodeFault>;
  /** Encodes a whole stream. Throws RangeError. */
  encode(values: TlvValues<T>): Uint8Array;
}

/** A record that we understand. */
export function tlv<C extends Codec<unknown>>(type: number, codec: C): TlvField<ValueOf<C>>;
export function tlv<T>(type: number, codec: Codec<T>): TlvField<T> {
  return { type: BigInt(type), codec };
}

/** Builds a namespace from its records. Throws RangeError unless they are given in rising order of type. */
export function tlvNamespace<T extends TlvFields>(fields: T): TlvNamespace<T> {
  const known = Object.entries(fields).map(([name, field]) => ({ name, ...field }));
  known.forEach((field, i) => {
    const before = known[i - 1];
    if (before !== undefined && before.type >= field.type) {
      throw new RangeError(`${field.name} is out of order`);
    }
  });
  const byType = new Map(known.map((field) => [field.type, field]));

  const read = (reader: Reader): TlvValues<T> => {
    const values: Record<string, unknown> = {};
    const unknown: TlvRecord[] = [];
    for (const record of readTlvRecords(reader, (type) => byType.has(type))) {
      const field = byType.get(record.type);
      if (field === undefined) {
        unknown.push(record);
      } else {
        const inner = new Reader(record.value);
        inner.field = reader.field === "" ? field.name : `${reader.field}.${field.name}`;
        values[field.name] = field.codec.read(inner);
        inner.end();
      }
    }
    if (unknown.length > 0) values["unknown_tlvs"] = unknown;
    // Every name was read with its own codec.
    return values as TlvValues<T>;
  };

  const write = (writer: Writer, values: TlvValues<T>): void => {
    const records: TlvRecord[] = [];
    const byName: Readonly<Record<string, unknown>> = values;
    for (const { name, type, codec } of known) {
      const value = byName[name];
      if (value !== undefined) {
        records.push({
          type,
          value: encodeAll((w) => writeNamed(w, name, codec, value)),
        });
      }
    }
    for (const record of values.unknown_tlvs ?? []) {
      if (byType.has(record.type)) throw new RangeError(`TLV ${record.type} is known by name`);
      if (isEven(record.type)) throw new RangeError(`TLV ${record.type} is even and not known`);
      records.push(record);
    }
    writeTlvRecords(writer, records.sort((a, b) => (a.type < b.type ? -1 : a.type > b.type ? 1 : 0)));
  };

  return {
    read,
    write,
    decode: (bytes) => decodeAll(bytes, read),
    encode: (values) => encodeAll((writer) => write(writer, values)),
  };
}

/**
 * Reads records until `reader` ends, and raises a fault for types that do not strictly rise, for one that is even and
 * not `isKnown`, and for a length beyond the end.
 */
export function readTlvRecords(reader: Reader, isKnown: (type: bigint) => boolean): TlvRecord[] {
  const records: TlvRecord[] = [];
  const outer = reader.field;
  let last = -1n;
  while (reader.remaining > 0) {
    reader.field = outer === "" ? "tlv" : `${outer}.tlv`;
    const type = readBigSize(reader);
    if (type <= last) {
      raise({ type: "tlv_order", tlv_type: type, reason: `TLV ${type} after TLV ${last}` });
    }
    if (isEven(type) && !isKnown(type)) {
      raise({ type: "tlv_unknown_even", tlv_type: type, reason: `unknown even TLV ${type}` });
    }
    const length = readBigSize(reader);
    if (length > BigInt(reader.remaining)) {
      raise({ type: "truncated", reason: `TLV ${type} says ${length} bytes, ${reader.remaining} left` });
    }
    records.push({ type, value: reader.bytes(Number(length)) });
    last = type;
  }
  reader.field = outer;
  return records;
}

/** Appends records as given. Throws RangeError unless their types strictly rise. */
export function writeTlvRecords(writer: Writer, records: readonly TlvRecord[]): void {
  let last = -1n;
  for (const { type, value } of records) {
    if (type <= last) throw new RangeError(`TLV ${type} after TLV ${last}`);
    writeBigSize(writer, type);
    writeBigSize(writer, BigInt(value.length));
    writer.bytes(value);
    last = type;
  }
}

/** Decodes a whole stream into raw records. */
export function decodeTlvStream(
  bytes: Uint8Array,
  isKnown: (type: bigint) => boolean,
): Result<TlvRecord[], DecodeFault> {
  return decodeAll(bytes, (reader) => readTlvRecords(reader, isKnown));
}

/** The bytes of raw records. Throws RangeError unless their types strictly rise. */
export function encodeTlvStream(records: readonly TlvRecord[]): Uint8Array {
  const writer = new Writer();
  writeTlvRecords(writer, records);
  return writer.finish();
}

function isEven(type: bigint): boolean {
  return (type & 1n) === 0n;
}
