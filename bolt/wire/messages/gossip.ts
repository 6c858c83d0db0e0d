/** Gossip and its queries (BOLT 7). What a signature covers is the raw message, not what is decoded here. */

import {
  bigsize,
  bytes,
  bytes16,
  hash,
  listRest,
  point,
  rest,
  scid,
  signature,
  struct,
  u16,
  u32,
  u64,
  u8,
} from "bolt/wire/codec.ts";
import { tlv } from "bolt/wire/tlv.ts";
import { defineMessage, type MessageOfDefinition } from "./define.ts";

/** BOLT 7, channel_announcement. */
export const channelAnnouncement = defineMessage("channel_announcement", 256, {
  node_signature_1: signature,
  node_signature_2: signature,
  bitcoin_signature_1: signature,
  bitcoin_signature_2: signature,
  features: bytes16,
  chain_hash: hash,
  short_channel_id: scid,
  node_id_1: point,
  node_id_2: point,
  bitcoin_key_1: point,
  bitcoin_key_2: point,
});

/** BOLT 7, node_announcement. */
export const nodeAnnouncement = defineMessage("node_announcement", 257, {
  signature,
  features: bytes16,
  /** seconds since 1970 */
  timestamp: u32,
  node_id: point,
  rgb_color: bytes(3),
  /** UTF-8 padded with zero bytes; not to be trusted when shown */
  alias: bytes(32),
  /** Address descriptors one after the other, undecoded. */
  addresses: bytes16,
});

/** BOLT 7, channel_update. */
export const channelUpdate = defineMessage("channel_update", 258, {
  signature,
  chain_hash: hash,
  short_channel_id: scid,
  /** seconds since 1970 */
  timestamp: u32,
  message_flags: u8,
  /** Bit 0: direction; bit 1: disabled. */
  channel_flags: u8,
  /** blocks */
  cltv_expiry_delta: u16,
  /** msat */
  htlc_minimum_msat: u64,
  /** msat */
  fee_base_msat: u32,
  fee_proportional_millionths: u32,
  /** msat */
  htlc_maximum_msat: u64,
});

/** BOLT 7, query_short_channel_ids. */
export const queryShortChannelIds = defineMessage("query_short_channel_ids", 261, {
  chain_hash: hash,
  /** First byte: encoding. */
  encoded_short_ids: bytes16,
}, { query_flags: tlv(1, struct({ encoding_type: u8, encoded_query_flags: rest })) });

/** BOLT 7, reply_short_channel_ids_end. */
export const replyShortChannelIdsEnd = defineMessage("reply_short_channel_ids_end", 262, {
  chain_hash: hash,
  full_information: u8,
});

/** BOLT 7, query_channel_range. */
export const queryChannelRange = defineMessage("query_channel_range", 263, {
  chain_hash: hash,
  first_blocknum: u32,
  number_of_blocks: u32,
}, {
  /** `query_option_flags`: bit 0 wants timestamps, bit 1 checksums. */
  query_option: tlv(1, bigsize),
});

/** BOLT 7, reply_channel_range. */
export const replyChannelRange = defineMessage("reply_channel_range", 264, {
  chain_hash: hash,
  first_blocknum: u32,
  number_of_blocks: u32,
  sync_complete: u8,
  /** First byte: encoding. */
  encoded_short_ids: bytes16,
}, {
  timestamps_tlv: tlv(1, struct({ encoding_type: u8, encoded_timestamps: rest })),
  checksums_tlv: tlv(3, listRest(struct({ checksum_node_id_1: u32, checksum_node_id_2: u32 }))),
});

/** BOLT 7, gossip_timestamp_filter. */
export const gossipTimestampFilter = defineMessage("gossip_timestamp_filter", 265, {
  chain_hash: hash,
  /** seconds since 1970 */
  first_timestamp: u32,
  /** seconds */
  timestamp_range: u32,
});

/** BOLT 7, channel_announcement. */
export type ChannelAnnouncement = MessageOfDefinition<typeof channelAnnouncement>;
/** BOLT 7, node_announcement. */
export type NodeAnnouncement = MessageOfDefinition<typeof nodeAnnouncement>;
/** BOLT 7, channel_update. */
export type ChannelUpdate = MessageOfDefinition<typeof channelUpdate>;
/** BOLT 7, query_short_channel_ids. */
export type QueryShortChannelIds = MessageOfDefinition<typeof queryShortChannelIds>;
/** BOLT 7, reply_short_channel_ids_end. */
export type ReplyShortChannelIdsEnd = MessageOfDefinition<typeof replyShortChannelIdsEnd>;
/** BOLT 7, query_channel_range. */
export type QueryChannelRange = MessageOfDefinition<typeof queryChannelRange>;
/** BOLT 7, reply_channel_range. */
export type ReplyChannelRange = MessageOfDefinition<typeof replyChannelRange>;
/** BOLT 7, gossip_timestamp_filter. */
export type GossipTimestampFilter = MessageOfDefinition<typeof gossipTimestampFilter>;
