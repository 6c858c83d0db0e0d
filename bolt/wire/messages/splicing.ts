/** Quiescence and splicing (BOLT 2). */

import { empty, hash, point, s64, u16, u32, u8 } from "bolt/wire/codec.ts";
import { tlv } from "bolt/wire/tlv.ts";
import { defineMessage, type MessageOfDefinition } from "./define.ts";

/** BOLT 2, stfu. */
export const stfu = defineMessage("stfu", 2, {
  channel_id: hash,
  /** 1 when the sender asks, 0 when it answers. */
  initiator: u8,
});

/** BOLT 2, splice_locked. */
export const spliceLocked = defineMessage("splice_locked", 77, { channel_id: hash, splice_txid: hash });

/** BOLT 2, splice_init. */
export const spliceInit = defineMessage("splice_init", 80, {
  channel_id: hash,
  /** sat that the sender adds, negative when it takes out */
  funding_contribution_satoshis: s64,
  /** sat/kw */
  funding_feerate_perkw: u32,
  locktime: u32,
  funding_pubkey: point,
}, { require_confirmed_inputs: tlv(2, empty) });

/** BOLT 2, splice_ack. */
export const spliceAck = defineMessage("splice_ack", 81, {
  channel_id: hash,
  /** sat that the sender adds, negative when it takes out */
  funding_contribution_satoshis: s64,
  funding_pubkey: point,
}, { require_confirmed_inputs: tlv(2, empty) });

/** BOLT 2, start_batch: the next messages of this channel belong together. */
export const startBatch = defineMessage("start_batch", 127, {
  channel_id: hash,
  /** How many messages follow. */
  batch_size: u16,
}, {
  /** Number of the messages that follow. */
  message_type: tlv(1, u16),
});

/** BOLT 2, stfu. */
export type Stfu = MessageOfDefinition<typeof stfu>;
/** BOLT 2, splice_locked. */
export type SpliceLocked = MessageOfDefinition<typeof spliceLocked>;
/** BOLT 2, splice_init. */
export type SpliceInit = MessageOfDefinition<typeof spliceInit>;
/** BOLT 2, splice_ack. */
export type SpliceAck = MessageOfDefinition<typeof spliceAck>;
/** BOLT 2, start_batch. */
export type StartBatch = MessageOfDefinition<typeof startBatch>;
