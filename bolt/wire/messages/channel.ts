/** A channel in use: lock-in, HTLCs, commitments, reestablish, closing (BOLT 2; announcement_signatures is BOLT 7). */

import {
  bytes,
  bytes16,
  hash,
  list16,
  point,
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

/** Length of an onion packet for payments (BOLT 4). */
export const ONION_PACKET_LENGTH = 1366;
/** Hops that attribution data has room for (BOLT 4). */
const ATTRIBUTION_HOPS = 20;
const HOLD_TIMES_LENGTH = ATTRIBUTION_HOPS * 4;
const TRUNCATED_HMACS_LENGTH = (ATTRIBUTION_HOPS * (ATTRIBUTION_HOPS + 1) / 2) * 4;

const attributionData = struct({
  /** 20 u32, in units of 100 ms */
  htlc_hold_times: bytes(HOLD_TIMES_LENGTH),
  /** 210 HMACs of 4 bytes */
  truncated_hmacs: bytes(TRUNCATED_HMACS_LENGTH),
});

/** BOLT 2, channel_ready. */
export const channelReady = defineMessage("channel_ready", 36, {
  channel_id: hash,
  second_per_commitment_point: point,
}, {
  /** An alias by which the receiver may route to the sender. */
  short_channel_id: tlv(1, scid),
});

/** BOLT 2, shutdown. */
export const shutdown = defineMessage("shutdown", 38, { channel_id: hash, scriptpubkey: bytes16 });

/** BOLT 2, closing_signed. */
export const closingSigned = defineMessage("closing_signed", 39, {
  channel_id: hash,
  /** sat */
  fee_satoshis: u64,
  signature,
}, {
  /** sat, both ends included */
  fee_range: tlv(1, struct({ min_fee_satoshis: u64, max_fee_satoshis: u64 })),
});

const closingFields = {
  channel_id: hash,
  closer_scriptpubkey: bytes16,
  closee_scriptpubkey: bytes16,
  /** sat */
  fee_satoshis: u64,
  locktime: u32,
};
const closingTlvs = {
  closer_output_only: tlv(1, signature),
  closee_output_only: tlv(2, signature),
  closer_and_closee_outputs: tlv(3, signature),
};

/** BOLT 2, closing_complete. */
export const closingComplete = defineMessage("closing_complete", 40, closingFields, closingTlvs);

/** BOLT 2, closing_sig. */
export const closingSig = defineMessage("closing_sig", 41, closingFields, closingTlvs);

/** BOLT 2, update_add_htlc. */
export const updateAddHtlc = defineMessage("update_add_htlc", 128, {
  channel_id: hash,
  id: u64,
  /** msat */
  amount_msat: u64,
  payment_hash: hash,
  /** height */
  cltv_expiry: u32,
  onion_routing_packet: bytes(ONION_PACKET_LENGTH),
}, {
  /** The `path_key` of a blinded route (BOLT 4). */
  blinded_path: tlv(0, point),
});

/** BOLT 2, update_fulfill_htlc. */
export const updateFulfillHtlc = defineMessage("update_fulfill_htlc", 130, {
  channel_id: hash,
  id: u64,
  payment_preimage: hash,
}, { attribution_data: tlv(1, attributionData) });

/** BOLT 2, update_fail_htlc. */
export const updateFailHtlc = defineMessage("update_fail_htlc", 131, {
  channel_id: hash,
  id: u64,
  reason: bytes16,
}, { attribution_data: tlv(1, attributionData) });

/** BOLT 2, commitment_signed. */
export const commitmentSigned = defineMessage("commitment_signed", 132, {
  channel_id: hash,
  signature,
  /** One an HTLC output, in the order of the outputs. */
  htlc_signature: list16(signature),
}, {
  /** txid of the funding transaction that the signed commitment spends. */
  funding_txid: tlv(1, hash),
});

/** BOLT 2, revoke_and_ack. */
export const revokeAndAck = defineMessage("revoke_and_ack", 133, {
  channel_id: hash,
  per_commitment_secret: hash,
  next_per_commitment_point: point,
});

/** BOLT 2, update_fee. */
export const updateFee = defineMessage("update_fee", 134, {
  channel_id: hash,
  /** sat/kw */
  feerate_per_kw: u32,
});

/** BOLT 2, update_fail_malformed_htlc. */
export const updateFailMalformedHtlc = defineMessage("update_fail_malformed_htlc", 135, {
  channel_id: hash,
  id: u64,
  sha256_of_onion: hash,
  failure_code: u16,
});

/** BOLT 2, channel_reestablish. */
export const channelReestablish = defineMessage("channel_reestablish", 136, {
  channel_id: hash,
  next_commitment_number: u64,
  next_revocation_number: u64,
  your_last_per_commitment_secret: hash,
  my_current_per_commitment_point: point,
}, {
  /** The interactive transaction whose signatures are outstanding; flag bit 0 asks for commitment_signed. */
  next_funding: tlv(1, struct({ next_funding_txid: hash, retransmit_flags: u8 })),
  /** The last funding transaction that the sender locked; flag bit 0 asks for announcement_signatures. */
  my_current_funding_locked: tlv(5, struct({ my_current_funding_locked_txid: hash, retransmit_flags: u8 })),
});

/** BOLT 7, announcement_signatures. */
export const announcementSignatures = defineMessage("announcement_signatures", 259, {
  channel_id: hash,
  short_channel_id: scid,
  node_signature: signature,
  bitcoin_signature: signature,
});

/** BOLT 2, channel_ready. */
export type ChannelReady = MessageOfDefinition<typeof channelReady>;
/** BOLT 2, shutdown. */
export type Shutdown = MessageOfDefinition<typeof shutdown>;
/** BOLT 2, closing_signed. */
export type ClosingSigned = MessageOfDefinition<typeof closingSigned>;
/** BOLT 2, closing_complete. */
export type ClosingComplete = MessageOfDefinition<typeof closingComplete>;
/** BOLT 2, closing_sig. */
export type ClosingSig = MessageOfDefinition<typeof closingSig>;
/** BOLT 2, update_add_htlc. */
export type UpdateAddHtlc = MessageOfDefinition<typeof updateAddHtlc>;
/** BOLT 2, update_fulfill_htlc. */
export type UpdateFulfillHtlc = MessageOfDefinition<typeof updateFulfillHtlc>;
/** BOLT 2, update_fail_htlc. */
export type UpdateFailHtlc = MessageOfDefinition<typeof updateFailHtlc>;
/** BOLT 2, commitment_signed. */
export type CommitmentSigned = MessageOfDefinition<typeof commitmentSigned>;
/** BOLT 2, revoke_and_ack. */
export type RevokeAndAck = MessageOfDefinition<typeof revokeAndAck>;
/** BOLT 2, update_fee. */
export type UpdateFee = MessageOfDefinition<typeof updateFee>;
/** BOLT 2, update_fail_malformed_htlc. */
export type UpdateFailMalformedHtlc = MessageOfDefinition<typeof updateFailMalformedHtlc>;
/** BOLT 2, channel_reestablish. */
export type ChannelReestablish = MessageOfDefinition<typeof channelReestablish>;
/** BOLT 7, announcement_signatures. */
export type AnnouncementSignatures = MessageOfDefinition<typeof announcementSignatures>;
