/**
 * All peer messages of BOLT 1, 2 and 7 as one discriminated union.
 *
 * Fields and TLV records stand side by side under their BOLT names; a TLV record is an optional property named as the
 * record is (`channel_type`, `next_funding`), and is either its one value or an object of its fields. Lengths and counts
 * are not fields. u64 is bigint, smaller integers are number, byte strings are copies. Amounts are as the peer sent
 * them: make them `Sat` or `Msat` only after checking. Keys are checked by shape only, signatures not at all.
 */

import { err, ok, type Result } from "bolt/result.ts";
import { catchFault, type DecodeFault } from "./fault.ts";
import * as channel from "./messages/channel.ts";
import { type MessageDefinition, type MessageOfDefinition } from "./messages/define.ts";
import * as gossip from "./messages/gossip.ts";
import * as interactive from "./messages/interactive.ts";
import * as openingV1 from "./messages/opening_v1.ts";
import * as openingV2 from "./messages/opening_v2.ts";
import * as setup from "./messages/setup.ts";
import * as splicing from "./messages/splicing.ts";
import { HASH_LENGTH, Reader } from "./reader.ts";
import { Writer } from "./writer.ts";

export type * from "./messages/channel.ts";
export type * from "./messages/gossip.ts";
export type * from "./messages/interactive.ts";
export type * from "./messages/opening_v1.ts";
export type * from "./messages/opening_v2.ts";
export type * from "./messages/setup.ts";
export type * from "./messages/splicing.ts";
export { ONION_PACKET_LENGTH } from "./messages/channel.ts";

/** Longest message, its number included: a BOLT 8 frame carries a u16 length. */
export const MAX_MESSAGE_LENGTH = 65_535;

/** Every message that we can read and write, by rising number. */
const DEFINITIONS = [
  setup.warning,
  splicing.stfu,
  setup.peerStorage,
  setup.peerStorageRetrieval,
  setup.init,
  setup.error,
  setup.ping,
  setup.pong,
  openingV1.openChannel,
  openingV1.acceptChannel,
  openingV1.fundingCreated,
  openingV1.fundingSigned,
  channel.channelReady,
  channel.shutdown,
  channel.closingSigned,
  channel.closingComplete,
  channel.closingSig,
  openingV2.openChannel2,
  openingV2.acceptChannel2,
  interactive.txAddInput,
  interactive.txAddOutput,
  interactive.txRemoveInput,
  interactive.txRemoveOutput,
  interactive.txComplete,
  interactive.txSignatures,
  interactive.txInitRbf,
  interactive.txAckRbf,
  interactive.txAbort,
  splicing.spliceLocked,
  splicing.spliceInit,
  splicing.spliceAck,
  splicing.startBatch,
  channel.updateAddHtlc,
  channel.updateFulfillHtlc,
  channel.updateFailHtlc,
  channel.commitmentSigned,
  channel.revokeAndAck,
  channel.updateFee,
  channel.updateFailMalformedHtlc,
  channel.channelReestablish,
  gossip.channelAnnouncement,
  gossip.nodeAnnouncement,
  gossip.channelUpdate,
  channel.announcementSignatures,
  gossip.queryShortChannelIds,
  gossip.replyShortChannelIdsEnd,
  gossip.queryChannelRange,
  gossip.replyChannelRange,
  gossip.gossipTimestampFilter,
] as const;

/** Any message that we can read and write. */
export type Message = MessageOfDefinition<(typeof DEFINITIONS)[number]>;
/** BOLT's name of a message. */
export type MessageType = Message["type"];
/** The message of a name: `MessageOf<"tx_abort">`. */
export type MessageOf<T extends MessageType> = Extract<Message, { readonly type: T }>;

/** A well-formed message whose number we do not know: an even one closes the connection, an odd one is ignored (BOLT 1). */
export interface UnknownMessage {
  readonly type: "unknown";
  /** Its number. */
  readonly id: number;
  /** Whether the number is even. */
  readonly even: boolean;
  /** What follows the number. */
  readonly payload: Uint8Array;
}

/** Why bytes are not a message. */
export type WireError = DecodeFault & {
  /** Number of the message, when there was one. */
  readonly message_id: number | undefined;
  /** Name of the message, when its number is known. */
  readonly message_type: MessageType | undefined;
};

const BY_ID = new Map<number, MessageDefinition<Message>>(DEFINITIONS.map((d) => [d.id, d]));
const BY_TYPE = new Map<string, MessageDefinition<Message>>(DEFINITIONS.map((d) => [d.type, d]));

/** The bytes of a message, its number first. Throws RangeError for a value that does not fit or beyond {@link MAX_MESSAGE_LENGTH}. */
export function encodeMessage(message: Message): Uint8Array {
  const definition = BY_TYPE.get(message.type);
  if (definition === undefined) throw new RangeError(`no such message: ${message.type}`);
  const writer = new Writer();
  writer.u16(definition.id);
  definition.write(writer, message);
  if (writer.length > MAX_MESSAGE_LENGTH) {
    throw new RangeError(`${message.type} of ${writer.length} bytes is longer than ${MAX_MESSAGE_LENGTH}`);
  }
  return writer.finish();
}

/** Reads a message, its number first. Never throws for what a peer sent. */
export function decodeMessage(bytes: Uint8Array): Result<Message | UnknownMessage, WireError> {
  const id = messageTypeOf(bytes);
  if (id === undefined) {
    return err({
      type: "truncated",
      reason: "no message type",
      message_id: undefined,
      message_type: undefined,
    });
  }
  const definition = BY_ID.get(id);
  if (bytes.length > MAX_MESSAGE_LENGTH) {
    const reason = `${bytes.length} bytes are longer than any message`;
    return err({ type: "too_long", reason, message_id: id, message_type: definition?.type });
  }
  const reader = new Reader(bytes);
  reader.u16();
  if (definition === undefined) {
    return ok({ type: "unknown", id, even: id % 2 === 0, payload: reader.rest() });
  }
  reader.field = definition.type;
  const result = catchFault(() => definition.read(reader));
  return result.ok ? result : err({ ...result.error, message_id: id, message_type: definition.type });
}

/** The number of a message; undefined when there are no two bytes. */
export function messageTypeOf(bytes: Uint8Array): number | undefined {
  const [high, low] = bytes;
  return high === undefined || low === undefined ? undefined : high * 256 + low;
}

/** BOLT's name of a number, or undefined. */
export function messageName(id: number): MessageType | undefined {
  return BY_ID.get(id)?.type;
}

/** BOLT's number of a name. */
export function messageId(type: MessageType): number {
  const definition = BY_TYPE.get(type);
  if (definition === undefined) throw new RangeError(`no such message: ${type}`);
  return definition.id;
}

/** The channel that a message names. */
export interface MessageChannelId {
  /** 32 bytes; all zero in an error or warning means every channel. */
  readonly channel_id: Uint8Array;
  /** Whether the message calls it temporary. An error or warning may name a temporary id without saying so. */
  readonly temporary: boolean;
}

/** The channel that a message names, without decoding the rest; undefined when it names none or is cut off before. */
export function channelIdOf(bytes: Uint8Array): MessageChannelId | undefined {
  const id = messageTypeOf(bytes);
  const field = id === undefined ? undefined : BY_ID.get(id)?.channelId;
  if (field === undefined || bytes.length < field.offset + HASH_LENGTH) return undefined;
  const channel_id = Uint8Array.prototype.slice.call(bytes, field.offset, field.offset + HASH_LENGTH);
  return { channel_id: new Uint8Array(channel_id), temporary: field.temporary };
}

/** Whether messages of this number belong to one channel. Not so error and warning, which may be for all. */
export function isChannelMessage(id: number): boolean {
  const definition = BY_ID.get(id);
  return definition?.channelId !== undefined && definition.type !== "error" && definition.type !== "warning";
}
