/** Interactive transaction construction (BOLT 2). */

import { bytes16, empty, hash, list16, s64, signature, u32, u64 } from "bolt/wire/codec.ts";
import { tlv } from "bolt/wire/tlv.ts";
import { defineMessage, type MessageOfDefinition } from "./define.ts";

/** BOLT 2, tx_add_input. */
export const txAddInput = defineMessage("tx_add_input", 66, {
  channel_id: hash,
  /** Even from the initiator, odd from the other side. */
  serial_id: u64,
  /** The whole transaction that is spent from; empty for the shared input of a splice. */
  prevtx: bytes16,
  prevtx_vout: u32,
  sequence: u32,
}, {
  /** txid of the channel's funding transaction, for the shared input of a splice. */
  shared_input_txid: tlv(0, hash),
});

/** BOLT 2, tx_add_output. */
export const txAddOutput = defineMessage("tx_add_output", 67, {
  channel_id: hash,
  serial_id: u64,
  /** sat, unchecked */
  sats: u64,
  /** scriptPubKey */
  script: bytes16,
});

/** BOLT 2, tx_remove_input. */
export const txRemoveInput = defineMessage("tx_remove_input", 68, { channel_id: hash, serial_id: u64 });

/** BOLT 2, tx_remove_output. */
export const txRemoveOutput = defineMessage("tx_remove_output", 69, { channel_id: hash, serial_id: u64 });

/** BOLT 2, tx_complete. */
export const txComplete = defineMessage("tx_complete", 70, { channel_id: hash });

/** BOLT 2, tx_signatures. */
export const txSignatures = defineMessage("tx_signatures", 71, {
  channel_id: hash,
  txid: hash,
  /** One a sender's input, by rising serial_id: the input's witness as it is serialized in a transaction, undecoded. */
  witnesses: list16(bytes16),
}, {
  /** Signature of the sender for the shared input of a splice. */
  shared_input_signature: tlv(0, signature),
});

/** BOLT 2, tx_init_rbf. */
export const txInitRbf = defineMessage("tx_init_rbf", 72, {
  channel_id: hash,
  locktime: u32,
  /** sat/kw */
  feerate: u32,
}, {
  /** sat that the sender puts in; absent means 0 */
  funding_output_contribution: tlv(0, s64),
  require_confirmed_inputs: tlv(2, empty),
});

/** BOLT 2, tx_ack_rbf. */
export const txAckRbf = defineMessage("tx_ack_rbf", 73, { channel_id: hash }, {
  /** sat that the sender puts in; absent means 0 */
  funding_output_contribution: tlv(0, s64),
  require_confirmed_inputs: tlv(2, empty),
});

/** BOLT 2, tx_abort. */
export const txAbort = defineMessage("tx_abort", 74, { channel_id: hash, data: bytes16 });

/** BOLT 2, tx_add_input. */
export type TxAddInput = MessageOfDefinition<typeof txAddInput>;
/** BOLT 2, tx_add_output. */
export type TxAddOutput = MessageOfDefinition<typeof txAddOutput>;
/** BOLT 2, tx_remove_input. */
export type TxRemoveInput = MessageOfDefinition<typeof txRemoveInput>;
/** BOLT 2, tx_remove_output. */
export type TxRemoveOutput = MessageOfDefinition<typeof txRemoveOutput>;
/** BOLT 2, tx_complete. */
export type TxComplete = MessageOfDefinition<typeof txComplete>;
/** BOLT 2, tx_signatures. */
export type TxSignatures = MessageOfDefinition<typeof txSignatures>;
/** BOLT 2, tx_init_rbf. */
export type TxInitRbf = MessageOfDefinition<typeof txInitRbf>;
/** BOLT 2, tx_ack_rbf. */
export type TxAckRbf = MessageOfDefinition<typeof txAckRbf>;
/** BOLT 2, tx_abort. */
export type TxAbort = MessageOfDefinition<typeof txAbort>;
