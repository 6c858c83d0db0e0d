/** Messages about the connection itself (BOLT 1). */

import { bytes16, hash, listRest, rest, u16 } from "bolt/wire/codec.ts";
import { tlv } from "bolt/wire/tlv.ts";
import { defineMessage, type MessageOfDefinition } from "./define.ts";

/** BOLT 1, warning. */
export const warning = defineMessage("warning", 1, {
  /** All zero: every channel of the connection. */
  channel_id: hash,
  data: bytes16,
});

/** BOLT 1, peer_storage: a blob that the sender wants back after a loss. */
export const peerStorage = defineMessage("peer_storage", 7, { blob: bytes16 });

/** BOLT 1, peer_storage_retrieval: the last blob that we were given. */
export const peerStorageRetrieval = defineMessage("peer_storage_retrieval", 9, { blob: bytes16 });

/** BOLT 1, init. */
export const init = defineMessage("init", 16, {
  /** Empty from us; a receiver takes both vectors together. */
  globalfeatures: bytes16,
  features: bytes16,
}, {
  /** Chain hashes of the networks that the sender cares about. */
  networks: tlv(1, listRest(hash)),
  /** The address at which the sender sees the receiver, as an address descriptor (BOLT 7). */
  remote_addr: tlv(3, rest),
});

/** BOLT 1, error. */
export const error = defineMessage("error", 17, {
  /** All zero: every channel of the connection. */
  channel_id: hash,
  data: bytes16,
});

/** BOLT 1, ping. */
export const ping = defineMessage("ping", 18, {
  /** Length of the wanted answer; from 65532 on none is sent. */
  num_pong_bytes: u16,
  ignored: bytes16,
});

/** BOLT 1, pong. */
export const pong = defineMessage("pong", 19, { ignored: bytes16 });

/** BOLT 1, warning: something is wrong, channels go on. */
export type Warning = MessageOfDefinition<typeof warning>;
/** BOLT 1, peer_storage. */
export type PeerStorage = MessageOfDefinition<typeof peerStorage>;
/** BOLT 1, peer_storage_retrieval. */
export type PeerStorageRetrieval = MessageOfDefinition<typeof peerStorageRetrieval>;
/** BOLT 1, init. */
export type Init = MessageOfDefinition<typeof init>;
/** BOLT 1, error: the channel fails. */
export type ErrorMessage = MessageOfDefinition<typeof error>;
/** BOLT 1, ping. */
export type Ping = MessageOfDefinition<typeof ping>;
/** BOLT 1, pong. */
export type Pong = MessageOfDefinition<typeof pong>;
