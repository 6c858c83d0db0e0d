/** Channel establishment version 1 (BOLT 2). Amounts are raw u64 from the wire: check them before use. */

import { hash, point, rest, signature, u16, u32, u64, u8 } from "bolt/wire/codec.ts";
import { tlv } from "bolt/wire/tlv.ts";
import { defineMessage, type MessageOfDefinition } from "./define.ts";

/** BOLT 2, open_channel. */
export const openChannel = defineMessage("open_channel", 32, {
  chain_hash: hash,
  temporary_channel_id: hash,
  /** sat */
  funding_satoshis: u64,
  /** msat */
  push_msat: u64,
  /** sat */
  dust_limit_satoshis: u64,
  /** msat */
  max_htlc_value_in_flight_msat: u64,
  /** sat */
  channel_reserve_satoshis: u64,
  /** msat */
  htlc_minimum_msat: u64,
  /** sat/kw */
  feerate_per_kw: u32,
  /** blocks */
  to_self_delay: u16,
  max_accepted_htlcs: u16,
  funding_pubkey: point,
  revocation_basepoint: point,
  payment_basepoint: point,
  delayed_payment_basepoint: point,
  htlc_basepoint: point,
  first_per_commitment_point: point,
  /** Bit 0: announce the channel. */
  channel_flags: u8,
}, {
  upfront_shutdown_script: tlv(0, rest),
  /** Feature bits, see `parseChannelType`. */
  channel_type: tlv(1, rest),
});

/** BOLT 2, accept_channel. */
export const acceptChannel = defineMessage("accept_channel", 33, {
  temporary_channel_id: hash,
  /** sat */
  dust_limit_satoshis: u64,
  /** msat */
  max_htlc_value_in_flight_msat: u64,
  /** sat */
  channel_reserve_satoshis: u64,
  /** msat */
  htlc_minimum_msat: u64,
  /** blocks */
  minimum_depth: u32,
  /** blocks */
  to_self_delay: u16,
  max_accepted_htlcs: u16,
  funding_pubkey: point,
  revocation_basepoint: point,
  payment_basepoint: point,
  delayed_payment_basepoint: point,
  htlc_basepoint: point,
  first_per_commitment_point: point,
}, {
  upfront_shutdown_script: tlv(0, rest),
  /** Feature bits, see `parseChannelType`. */
  channel_type: tlv(1, rest),
});

/** BOLT 2, funding_created. */
export const fundingCreated = defineMessage("funding_created", 34, {
  temporary_channel_id: hash,
  funding_txid: hash,
  funding_output_index: u16,
  signature,
});

/** BOLT 2, funding_signed. */
export const fundingSigned = defineMessage("funding_signed", 35, { channel_id: hash, signature });

/** BOLT 2, open_channel. */
export type OpenChannel = MessageOfDefinition<typeof openChannel>;
/** BOLT 2, accept_channel. */
export type AcceptChannel = MessageOfDefinition<typeof acceptChannel>;
/** BOLT 2, funding_created. */
export type FundingCreated = MessageOfDefinition<typeof fundingCreated>;
/** BOLT 2, funding_signed. */
export type FundingSigned = MessageOfDefinition<typeof fundingSigned>;
