/** What a hop is told by its part of an onion (BOLT 4, `payload` format). */
import { readBigSize } from "bolt/wire/bigsize.ts";
import { bytes, type Codec, point, rest, scid, struct, tu32, tu64, writeNamed } from "bolt/wire/codec.ts";
import { catchFault } from "bolt/wire/fault.ts";
import { Reader } from "bolt/wire/reader.ts";
import { encodeTlvStream, tlv, type TlvRecord, type TlvValues } from "bolt/wire/tlv.ts";
import { encodeAll } from "bolt/wire/writer.ts";
import type { InvalidOnionPayload } from "bolt/onion/peel.ts";
import { err, ok, type Result } from "bolt/result.ts";

const HASH_LENGTH = 32;

/** Records by their BOLT names, in rising order. */
const RECORDS = {
  /** msat */
  amt_to_forward: tlv(2, tu64),
  /** height */
  outgoing_cltv_value: tlv(4, tu32),
  /** The channel to the next node. */
  short_channel_id: tlv(6, scid),
  /** For the last node; total_msat is the whole payment's. */
  payment_data: tlv(8, struct({ payment_secret: bytes(HASH_LENGTH), total_msat: tu64 })),
  /** For a node in a blinded route. */
  encrypted_recipient_data: tlv(10, rest),
  /** For the node that a blinded route begins at. */
  current_path_key: tlv(12, point),
  /** As the invoice had it. */
  payment_metadata: tlv(16, rest),
  /** msat of the whole payment, for the last node of a blinded route */
  total_amount_msat: tlv(18, tu64),
  /** A payment without an invoice: whoever is the last node may take it with this preimage (bLIP 3). */
  keysend_preimage: tlv(5_482_373_484, bytes(HASH_LENGTH)),
} as const;

/** A record of a payload that has a name. */
export type HopPayloadRecord = keyof typeof RECORDS;

/** The numbers of the records, for {@link InvalidOnionPayload}. */
export const HOP_PAYLOAD_TYPES: Readonly<Record<HopPayloadRecord, bigint>> = {
  amt_to_forward: RECORDS.amt_to_forward.type,
  outgoing_cltv_value: RECORDS.outgoing_cltv_value.type,
  short_channel_id: RECORDS.short_channel_id.type,
  payment_data: RECORDS.payment_data.type,
  encrypted_recipient_data: RECORDS.encrypted_recipient_data.type,
  current_path_key: RECORDS.current_path_key.type,
  payment_metadata: RECORDS.payment_metadata.type,
  total_amount_msat: RECORDS.total_amount_msat.type,
  keysend_preimage: RECORDS.keysend_preimage.type,
};

/**
 * A payload: each known record by its BOLT name, the rest raw. Amounts are as they came, possibly beyond all bitcoin.
 */
export type HopPayload = TlvValues<typeof RECORDS>;

const BY_TYPE: ReadonlyMap<bigint, { readonly name: string; readonly codec: Codec<unknown> }> = new Map(
  Object.entries(RECORDS).map(([name, { type, codec }]) => [type, { name, codec }]),
);

/**
 * Reads a payload. A fault names the record and where it begins, as `invalid_onion_payload` tells the origin: types
 * that do not strictly rise, an even type that is neither known nor `accepted`, a value that does not fit its record,
 * a number that is not in its shortest form. Records without a name are kept in `unknown_tlvs`.
 */
export function decodeHopPayload(
  payload: Uint8Array,
  accepted: (type: bigint) => boolean = () => false,
): Result<HopPayload, InvalidOnionPayload> {
  // What is being read, for the fault that ends it.
  let tlv_type = 0n;
  let offset = 0;
  const values: Record<string, unknown> = {};
  const unknown: TlvRecord[] = [];
  const read = catchFault(() => {
    const reader = new Reader(payload);
    let last = -1n;
    while (reader.remaining > 0) {
      offset = payload.length - reader.remaining;
      tlv_type = 0n;
      const type = readBigSize(reader);
      tlv_type = type;
      const record = BY_TYPE.get(type);
      if (type <= last) reader.bad("out of order");
      if (record === undefined && (type & 1n) === 0n && !accepted(type)) reader.bad("even and not known");
      last = type;
      const length = readBigSize(reader);
      // Before it becomes a number: the length is the origin's word.
      if (length > BigInt(reader.remaining)) reader.bad("past the end");
      const value = reader.sub(Number(length));
      if (record === undefined) {
        unknown.push({ type, value: value.rest() });
      } else {
        values[record.name] = record.codec.read(value);
        value.end();
      }
    }
  });
  if (!read.ok) return err({ type: "invalid_onion_payload", tlv_type, offset });
  if (unknown.length > 0) values["unknown_tlvs"] = unknown;
  // Every name was read with its own codec.
  return ok(values as HopPayload);
}

/**
 * The bytes of a payload, without their length. `unknown_tlvs` may hold records of any type without a name, even ones
 * too: what the recipient makes of them is between it and the user. Throws RangeError for values that do not fit.
 */
export function encodeHopPayload(payload: HopPayload): Uint8Array {
  const records: TlvRecord[] = [];
  const byName: Readonly<Record<string, unknown>> = payload;
  for (const [type, { name, codec }] of BY_TYPE) {
    const value = byName[name];
    if (value !== undefined) {
      records.push({
        type,
        value: encodeAll((w) => writeNamed(w, name, codec, value)),
      });
    }
  }
  for (const record of payload.unknown_tlvs ?? []) {
    if (BY_TYPE.has(record.type)) throw new RangeError(`TLV ${record.type} is known by name`);
    records.push(record);
  }
  return encodeTlvStream(records.sort((a, b) => (a.type < b.type ? -1 : a.type > b.type ? 1 : 0)));
}
