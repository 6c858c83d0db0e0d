import { type Fields, readFields, type ValuesOf, writeFields } from "bolt/wire/codec.ts";
import type { Reader } from "bolt/wire/reader.ts";
import { type TlvFields, tlvNamespace, type TlvValues } from "bolt/wire/tlv.ts";
import type { Writer } from "bolt/wire/writer.ts";

/** Shows an intersection as one object type. */
type Flat<T> = { readonly [K in keyof T]: T[K] };

/** Where a message names its channel. */
export interface ChannelIdField {
  /** First byte of the id, counted from the message's type. */
  readonly offset: number;
  /** Whether it is a `temporary_channel_id`. */
  readonly temporary: boolean;
}

/** The value of a message with these fields and TLV records: each under its BOLT name, TLV records optional. */
export type Defined<N extends string, F extends Fields, T extends TlvFields> = Flat<
  { readonly type: N } & ValuesOf<F> & TlvValues<T>
>;

/** One message: its number, its name, and how it is read and written (without the two bytes of its number). */
export interface MessageDefinition<M extends { readonly type: string }> {
  /** BOLT's number. */
  readonly id: number;
  /** BOLT's name. */
  readonly type: M["type"];
  /** Where it names its channel, when it does. */
  readonly channelId: ChannelIdField | undefined;
  /** Reads it to the end of `reader`; raises a fault. */
  read(reader: Reader): M;
  /** Appends it. Throws RangeError for values that do not fit. */
  write(writer: Writer, message: M): void;
}

/** The message that a definition describes. */
export type MessageOfDefinition<D> = D extends MessageDefinition<infer M> ? M : never;

/** Length of a message's number. */
export const MESSAGE_TYPE_LENGTH = 2;

/**
 * Defines a message: its fixed fields in the order of the wire, then its TLV records in rising order. A message without
 * records of its own still takes the extension that any message may carry (BOLT 1).
 */
export function defineMessage<
  const N extends string,
  F extends Fields,
  T extends TlvFields = Record<never, never>,
>(type: N, id: number, fields: F, tlvs?: T): MessageDefinition<Defined<N, F, T>> {
  const namespace = tlvNamespace<TlvFields>(tlvs ?? {});
  return {
    id,
    // F is generic, so the compiler allows for a field named "type"; none may be.
    type: type as Defined<N, F, T>["type"],
    channelId: channelIdField(fields),
    read(reader) {
      const message = { type, ...readFields(reader, fields), ...namespace.read(reader) };
      // F and T are generic here, so the compiler cannot see that these two spreads are what Defined adds up to.
      return message as unknown as Defined<N, F, T>;
    },
    write(writer, message) {
      const values = message as unknown as ValuesOf<F> & TlvValues<TlvFields>;
      writeFields(writer, fields, values);
      namespace.write(writer, values);
    },
  };
}

/** Finds the channel's id, as long as only fields of a fixed size stand before it. */
function channelIdField(fields: Fields): ChannelIdField | undefined {
  let offset = MESSAGE_TYPE_LENGTH;
  for (const [name, codec] of Object.entries(fields)) {
    if (name === "channel_id") return { offset, temporary: false };
    if (name === "temporary_channel_id") return { offset, temporary: true };
    if (codec.size === undefined) return undefined;
    offset += codec.size;
  }
  return undefined;
}
