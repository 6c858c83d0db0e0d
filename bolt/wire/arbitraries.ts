/** Random valid messages, for tests only. */

import fc from "fast-check";
import { type Message, type MessageOf, type MessageType, ONION_PACKET_LENGTH } from "./messages.ts";
import { type ShortChannelId, shortChannelId } from "./short_channel_id.ts";
import type { TlvRecord } from "./tlv.ts";

type OptionalKeys<M> = { [K in keyof M]-?: undefined extends M[K] ? K : never }[keyof M];
type Required<M> = { readonly [K in Exclude<keyof M, OptionalKeys<M> | "type">]: fc.Arbitrary<M[K]> };
type Optional<M> = {
  readonly [K in Exclude<OptionalKeys<M>, "unknown_tlvs">]-?: fc.Arbitrary<Exclude<M[K], undefined>>;
};

/** Longest byte string behind a u16 length that is generated: enough to cross every form of length. */
const MAX_BYTES = 300;
/** Lowest type of an unknown record; above every record that any message knows. */
const FIRST_UNKNOWN_TLV = 1000;

/** A u8. */
export const arbU8: fc.Arbitrary<number> = fc.nat(0xff);
/** A u16. */
export const arbU16: fc.Arbitrary<number> = fc.nat(0xffff);
/** A u32. */
export const arbU32: fc.Arbitrary<number> = fc.integer({ min: 0, max: 0xffff_ffff });
/** A u64. */
export const arbU64: fc.Arbitrary<bigint> = fc.bigInt(0n, (1n << 64n) - 1n);
/** An s64. */
export const arbS64: fc.Arbitrary<bigint> = fc.bigInt(-(1n << 63n), (1n << 63n) - 1n);
/** 32 bytes. */
export const arbHash: fc.Arbitrary<Uint8Array> = exactly(32);
/** 64 bytes. */
export const arbSignature: fc.Arbitrary<Uint8Array> = exactly(64);
/** 33 bytes in the shape of a public key, most of them on no curve. */
export const arbPoint: fc.Arbitrary<Uint8Array> = fc.tuple(fc.constantFrom(2, 3), exactly(32))
  .map(([first, x]) => Uint8Array.of(first, ...x));
/** A byte string of any length up to a few hundred. */
export const arbBytes: fc.Arbitrary<Uint8Array> = fc.uint8Array({ maxLength: MAX_BYTES });
/** A short channel id. */
export const arbScid: fc.Arbitrary<ShortChannelId> = arbU64.map(shortChannelId);

const unknownTlvs: fc.Arbitrary<readonly TlvRecord[]> = fc.uniqueArray(
  fc.record({
    type: fc.bigInt(BigInt(FIRST_UNKNOWN_TLV), (1n << 64n) - 1n).map((type) => type | 1n),
    value: arbBytes,
  }, { noNullPrototype: true }),
  { minLength: 1, maxLength: 3, selector: (record) => record.type },
).map((records) => records.sort((a, b) => (a.type < b.type ? -1 : 1)));

function exactly(length: number): fc.Arbitrary<Uint8Array> {
  return fc.uint8Array({ minLength: length, maxLength: length });
}

function object<T extends object>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  const requiredKeys = Object.keys(model) as (keyof T)[];
  return fc.record<T, keyof T>(model, { requiredKeys, noNullPrototype: true }) as fc.Arbitrary<T>;
}

function message<T extends MessageType>(
  type: T,
  required: Required<MessageOf<T>>,
  optional: Optional<MessageOf<T>>,
): fc.Arbitrary<MessageOf<T>> {
  const model: Record<string, fc.Arbitrary<unknown>> = {
    type: fc.constant(type),
    ...required,
    ...optional,
    unknown_tlvs: unknownTlvs,
  };
  const requiredKeys = ["type", ...Object.keys(required)];
  // The parameters are exactly the properties of the message, which a string-keyed record cannot say.
  return fc.record(model, { requiredKeys, noNullPrototype: true }) as unknown as fc.Arbitrary<MessageOf<T>>;
}

const channel_id = arbHash;
const require_confirmed_inputs = fc.constant<true>(true);
const attribution_data = object({ htlc_hold_times: exactly(80), truncated_hmacs: exactly(840) });
const basepoints = {
  funding_pubkey: arbPoint,
  revocation_basepoint: arbPoint,
  payment_basepoint: arbPoint,
  delayed_payment_basepoint: arbPoint,
  htlc_basepoint: arbPoint,
  first_per_commitment_point: arbPoint,
};
const limits = {
  dust_limit_satoshis: arbU64,
  max_htlc_value_in_flight_msat: arbU64,
  htlc_minimum_msat: arbU64,
  to_self_delay: arbU16,
  max_accepted_htlcs: arbU16,
};
const typeAndScript = { upfront_shutdown_script: arbBytes, channel_type: arbBytes };
const closing = {
  channel_id,
  closer_scriptpubkey: arbBytes,
  closee_scriptpubkey: arbBytes,
  fee_satoshis: arbU64,
  locktime: arbU32,
};
const closingTlvs = {
  closer_output_only: arbSignature,
  closee_output_only: arbSignature,
  closer_and_closee_outputs: arbSignature,
};

/** Random messages of each name. */
export const arbMessages: { readonly [T in MessageType]: fc.Arbitrary<MessageOf<T>> } = {
  warning: message("warning", { channel_id, data: arbBytes }, {}),
  stfu: message("stfu", { channel_id, initiator: arbU8 }, {}),
  peer_storage: message("peer_storage", { blob: arbBytes }, {}),
  peer_storage_retrieval: message("peer_storage_retrieval", { blob: arbBytes }, {}),
  init: message("init", { globalfeatures: arbBytes, features: arbBytes }, {
    networks: fc.array(arbHash, { maxLength: 4 }),
    remote_addr: arbBytes,
  }),
  error: message("error", { channel_id, data: arbBytes }, {}),
  ping: message("ping", { num_pong_bytes: arbU16, ignored: arbBytes }, {}),
  pong: message("pong", { ignored: arbBytes }, {}),
  open_channel: message("open_channel", {
    chain_hash: arbHash,
    temporary_channel_id: arbHash,
    funding_satoshis: arbU64,
    push_msat: arbU64,
    channel_reserve_satoshis: arbU64,
    feerate_per_kw: arbU32,
    channel_flags: arbU8,
    ...limits,
    ...basepoints,
  }, typeAndScript),
  accept_channel: message("accept_channel", {
    temporary_channel_id: arbHash,
    channel_reserve_satoshis: arbU64,
    minimum_depth: arbU32,
    ...limits,
    ...basepoints,
  }, typeAndScript),
  funding_created: message("funding_created", {
    temporary_channel_id: arbHash,
    funding_txid: arbHash,
    funding_output_index: arbU16,
    signature: arbSignature,
  }, {}),
  funding_signed: message("funding_signed", { channel_id, signature: arbSignature }, {}),
  channel_ready: message("channel_ready", { channel_id, second_per_commitment_point: arbPoint }, {
    short_channel_id: arbScid,
  }),
  shutdown: message("shutdown", { channel_id, scriptpubkey: arbBytes }, {}),
  closing_signed: message("closing_signed", { channel_id, fee_satoshis: arbU64, signature: arbSignature }, {
    fee_range: object({ min_fee_satoshis: arbU64, max_fee_satoshis: arbU64 }),
  }),
  closing_complete: message("closing_complete", closing, closingTlvs),
  closing_sig: message("closing_sig", closing, closingTlvs),
  open_channel2: message("open_channel2", {
    chain_hash: arbHash,
    temporary_channel_id: arbHash,
    funding_feerate_perkw: arbU32,
    commitment_feerate_perkw: arbU32,
    funding_satoshis: arbU64,
    locktime: arbU32,
    second_per_commitment_point: arbPoint,
    channel_flags: arbU8,
    ...limits,
    ...basepoints,
  }, { ...typeAndScript, require_confirmed_inputs }),
  accept_channel2: message("accept_channel2", {
    temporary_channel_id: arbHash,
    funding_satoshis: arbU64,
    minimum_depth: arbU32,
    second_per_commitment_point: arbPoint,
    ...limits,
    ...basepoints,
  }, { ...typeAndScript, require_confirmed_inputs }),
  tx_add_input: message("tx_add_input", {
    channel_id,
    serial_id: arbU64,
    prevtx: arbBytes,
    prevtx_vout: arbU32,
    sequence: arbU32,
  }, { shared_input_txid: arbHash }),
  tx_add_output: message(
    "tx_add_output",
    { channel_id, serial_id: arbU64, sats: arbU64, script: arbBytes },
    {},
  ),
  tx_remove_input: message("tx_remove_input", { channel_id, serial_id: arbU64 }, {}),
  tx_remove_output: message("tx_remove_output", { channel_id, serial_id: arbU64 }, {}),
  tx_complete: message("tx_complete", { channel_id }, {}),
  tx_signatures: message("tx_signatures", {
    channel_id,
    txid: arbHash,
    witnesses: fc.array(arbBytes, { maxLength: 4 }),
  }, { shared_input_signature: arbSignature }),
  tx_init_rbf: message("tx_init_rbf", { channel_id, locktime: arbU32, feerate: arbU32 }, {
    funding_output_contribution: arbS64,
    require_confirmed_inputs,
  }),
  tx_ack_rbf: message("tx_ack_rbf", { channel_id }, {
    funding_output_contribution: arbS64,
    require_confirmed_inputs,
  }),
  tx_abort: message("tx_abort", { channel_id, data: arbBytes }, {}),
  splice_locked: message("splice_locked", { channel_id, splice_txid: arbHash }, {}),
  splice_init: message("splice_init", {
    channel_id,
    funding_contribution_satoshis: arbS64,
    funding_feerate_perkw: arbU32,
    locktime: arbU32,
    funding_pubkey: arbPoint,
  }, { require_confirmed_inputs }),
  splice_ack: message("splice_ack", {
    channel_id,
    funding_contribution_satoshis: arbS64,
    funding_pubkey: arbPoint,
  }, { require_confirmed_inputs }),
  start_batch: message("start_batch", { channel_id, batch_size: arbU16 }, { message_type: arbU16 }),
  update_add_htlc: message("update_add_htlc", {
    channel_id,
    id: arbU64,
    amount_msat: arbU64,
    payment_hash: arbHash,
    cltv_expiry: arbU32,
    onion_routing_packet: exactly(ONION_PACKET_LENGTH),
  }, { blinded_path: arbPoint }),
  update_fulfill_htlc: message("update_fulfill_htlc", { channel_id, id: arbU64, payment_preimage: arbHash }, {
    attribution_data,
  }),
  update_fail_htlc: message("update_fail_htlc", { channel_id, id: arbU64, reason: arbBytes }, {
    attribution_data,
  }),
  commitment_signed: message("commitment_signed", {
    channel_id,
    signature: arbSignature,
    htlc_signature: fc.array(arbSignature, { maxLength: 5 }),
  }, { funding_txid: arbHash }),
  revoke_and_ack: message("revoke_and_ack", {
    channel_id,
    per_commitment_secret: arbHash,
    next_per_commitment_point: arbPoint,
  }, {}),
  update_fee: message("update_fee", { channel_id, feerate_per_kw: arbU32 }, {}),
  update_fail_malformed_htlc: message("update_fail_malformed_htlc", {
    channel_id,
    id: arbU64,
    sha256_of_onion: arbHash,
    failure_code: arbU16,
  }, {}),
  channel_reestablish: message("channel_reestablish", {
    channel_id,
    next_commitment_number: arbU64,
    next_revocation_number: arbU64,
    your_last_per_commitment_secret: arbHash,
    my_current_per_commitment_point: arbPoint,
  }, {
    next_funding: object({ next_funding_txid: arbHash, retransmit_flags: arbU8 }),
    my_current_funding_locked: object({ my_current_funding_locked_txid: arbHash, retransmit_flags: arbU8 }),
  }),
  channel_announcement: message("channel_announcement", {
    node_signature_1: arbSignature,
    node_signature_2: arbSignature,
    bitcoin_signature_1: arbSignature,
    bitcoin_signature_2: arbSignature,
    features: arbBytes,
    chain_hash: arbHash,
    short_channel_id: arbScid,
    node_id_1: arbPoint,
    node_id_2: arbPoint,
    bitcoin_key_1: arbPoint,
    bitcoin_key_2: arbPoint,
  }, {}),
  node_announcement: message("node_announcement", {
    signature: arbSignature,
    features: arbBytes,
    timestamp: arbU32,
    node_id: arbPoint,
    rgb_color: exactly(3),
    alias: exactly(32),
    addresses: arbBytes,
  }, {}),
  channel_update: message("channel_update", {
    signature: arbSignature,
    chain_hash: arbHash,
    short_channel_id: arbScid,
    timestamp: arbU32,
    message_flags: arbU8,
    channel_flags: arbU8,
    cltv_expiry_delta: arbU16,
    htlc_minimum_msat: arbU64,
    fee_base_msat: arbU32,
    fee_proportional_millionths: arbU32,
    htlc_maximum_msat: arbU64,
  }, {}),
  announcement_signatures: message("announcement_signatures", {
    channel_id,
    short_channel_id: arbScid,
    node_signature: arbSignature,
    bitcoin_signature: arbSignature,
  }, {}),
  query_short_channel_ids: message("query_short_channel_ids", {
    chain_hash: arbHash,
    encoded_short_ids: arbBytes,
  }, {
    query_flags: object({ encoding_type: arbU8, encoded_query_flags: arbBytes }),
  }),
  reply_short_channel_ids_end: message("reply_short_channel_ids_end", {
    chain_hash: arbHash,
    full_information: arbU8,
  }, {}),
  query_channel_range: message("query_channel_range", {
    chain_hash: arbHash,
    first_blocknum: arbU32,
    number_of_blocks: arbU32,
  }, { query_option: arbU64 }),
  reply_channel_range: message("reply_channel_range", {
    chain_hash: arbHash,
    first_blocknum: arbU32,
    number_of_blocks: arbU32,
    sync_complete: arbU8,
    encoded_short_ids: arbBytes,
  }, {
    timestamps_tlv: object({ encoding_type: arbU8, encoded_timestamps: arbBytes }),
    checksums_tlv: fc.array(object({ checksum_node_id_1: arbU32, checksum_node_id_2: arbU32 }), {
      maxLength: 5,
    }),
  }),
  gossip_timestamp_filter: message("gossip_timestamp_filter", {
    chain_hash: arbHash,
    first_timestamp: arbU32,
    timestamp_range: arbU32,
  }, {}),
};

/** Any random message. */
export const arbMessage: fc.Arbitrary<Message> = fc.oneof(...Object.values(arbMessages));
