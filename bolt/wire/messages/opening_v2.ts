/** Channel establishment version 2 (BOLT 2). Amounts are raw u64 from the wire: check them before use. */

import { empty, hash, point, rest, u16, u32, u64, u8 } from "bolt/wire/codec.ts";
import { tlv } from "bolt/wire/tlv.ts";
import { defineMessage, type MessageOfDefinition } from "./define.ts";

/** BOLT 2, open_channel2. */
export const openChannel2 = defineMessage("open_channel2", 64, {
  chain_hash: hash,
  temporary_channel_id: hash,
  /** sat/kw of the funding transaction */
  funding_feerate_perkw: u32,
  /** sat/kw of the commitment transactions */
  commitment_feerate_perkw: u32,
  /** sat that the opener puts in */
  funding_satoshis: u64,
  /** sat */
  dust_limit_satoshis: u64,
  /** msat */
  max_htlc_value_in_flight_msat: u64,
  /** msat */
  htlc_minimum_msat: u64,
  /** blocks */
  to_self_delay: u16,
  max_accepted_htlcs: u16,
  /** nLockTime of the funding transaction */
  locktime: u32,
  funding_pubkey: point,
  revocation_basepoint: point,
  payment_basepoint: point,
  delayed_payment_basepoint: point,
  htlc_basepoint: point,
  first_per_commitment_point: point,
  second_per_commitment_point: point,
  /** Bit 0: announce the channel. */
  channel_flags: u8,
}, {
  upfront_shutdown_script: tlv(0, rest),
  /** Feature bits, see `parseChannelType`. */
  channel_type: tlv(1, rest),
  require_confirmed_inputs: tlv(2, empty),
});

/** BOLT 2, accept_channel2. */
export const acceptChannel2 = defineMessage("accept_channel2", 65, {
  temporary_channel_id: hash,
  /** sat that the accepter puts in */
  funding_satoshis: u64,
  /** sat */
  dust_limit_satoshis: u64,
  /** msat */
  max_htlc_value_in_flight_msat: u64,
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
  second_per_commitment_point: point,
}, {
  upfront_shutdown_script: tlv(0, rest),
  /** Feature bits, see `parseChannelType`. */
  channel_type: tlv(1, rest),
  require_confirmed_inputs: tlv(2, empty),
});

/** BOLT 2, open_channel2. */
export type OpenChannel2 = MessageOfDefinition<typeof openChannel2>;
/** BOLT 2, accept_channel2. */
export type AcceptChannel2 = MessageOfDefinition<typeof acceptChannel2>;
