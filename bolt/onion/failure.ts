/** What a node says of a payment that it fails (BOLT 4, Failure Messages). */
import {
  bigsize,
  bytes16,
  type Fields,
  hash,
  readFields,
  u16,
  u32,
  u64,
  type ValuesOf,
  writeFields,
} from "bolt/wire/codec.ts";
import { catchFault, type DecodeFault } from "bolt/wire/fault.ts";
import { Reader } from "bolt/wire/reader.ts";
import { encodeAll } from "bolt/wire/writer.ts";
import { BADONION, FAILURE_CODES, type FailureName } from "bolt/onion/failure_codes.ts";
import type { Result } from "bolt/result.ts";

const NO_FIELDS = {};
const sha256OfOnion = { sha256_of_onion: hash };
/** `channel_update` is raw: an origin must not take it for gossip (BOLT 4, Receiving Failure Codes). May be empty. */
const channelUpdate = { channel_update: bytes16 };
/** msat of the HTLC */
const htlcMsat = { htlc_msat: u64 };
/** A height. */
const cltvExpiry = { cltv_expiry: u32 };

const FAILURE_FIELDS = {
  temporary_node_failure: NO_FIELDS,
  permanent_node_failure: NO_FIELDS,
  required_node_feature_missing: NO_FIELDS,
  invalid_onion_version: sha256OfOnion,
  invalid_onion_hmac: sha256OfOnion,
  invalid_onion_key: sha256OfOnion,
  temporary_channel_failure: channelUpdate,
  permanent_channel_failure: NO_FIELDS,
  required_channel_feature_missing: NO_FIELDS,
  unknown_next_peer: NO_FIELDS,
  amount_below_minimum: { ...htlcMsat, ...channelUpdate },
  fee_insufficient: { ...htlcMsat, ...channelUpdate },
  incorrect_cltv_expiry: { ...cltvExpiry, ...channelUpdate },
  expiry_too_soon: channelUpdate,
  incorrect_or_unknown_payment_details: { ...htlcMsat, height: u32 },
  final_incorrect_cltv_expiry: cltvExpiry,
  final_incorrect_htlc_amount: { incoming_htlc_amt: u64 },
  channel_disabled: { disabled_flags: u16, ...channelUpdate },
  expiry_too_far: NO_FIELDS,
  /** BOLT's field is named `type`. */
  invalid_onion_payload: { tlv_type: bigsize, offset: u16 },
  mpp_timeout: NO_FIELDS,
  invalid_onion_blinding: sha256OfOnion,
} as const satisfies Readonly<Record<FailureName, Fields>>;

type Flat<T> = { readonly [K in keyof T]: T[K] };

/** A failure that BOLT 4 names, with its fields under their BOLT names. */
export type KnownFailure = {
  [N in FailureName]: Flat<{ readonly type: N } & ValuesOf<(typeof FAILURE_FIELDS)[N]>>;
}[FailureName];

/** A failure with a code that we do not know. */
export interface UnknownFailure {
  readonly type: "unknown_failure";
  /** u16; its flags say how bad it is. */
  readonly failure_code: number;
  /** All that follows the code. */
  readonly data: Uint8Array;
}

/** A failure message. */
export type FailureMessage = KnownFailure | UnknownFailure;

const NAMES = new Map(
  Object.entries(FAILURE_CODES).map(([name, code]) => [code as number, name as FailureName]),
);

/** The code of a failure. */
export function failureCode(failure: FailureMessage): number {
  return failure.type === "unknown_failure" ? failure.failure_code : FAILURE_CODES[failure.type];
}

/** The bytes of a failure message. Throws RangeError for values that do not fit. */
export function encodeFailure(failure: FailureMessage): Uint8Array {
  return encodeAll((writer) => {
    writer.u16(failureCode(failure));
    if (failure.type === "unknown_failure") writer.bytes(failure.data);
    else writeFields<Fields>(writer, FAILURE_FIELDS[failure.type], { ...failure });
  });
}

/**
 * Reads a failure message. Bytes behind the fields that we know are ignored, as an origin must (BOLT 4, Receiving
 * Failure Codes). `invalid_onion_payload` may say no more than that; its fields are 0 then.
 */
export function decodeFailure(bytes: Uint8Array): Result<FailureMessage, DecodeFault> {
  return catchFault(() => {
    const reader = new Reader(bytes);
    reader.field = "failure_code";
    const failure_code = reader.u16();
    const type = NAMES.get(failure_code);
    if (type === undefined) return { type: "unknown_failure", failure_code, data: reader.rest() };
    if (type === "invalid_onion_payload" && reader.remaining === 0) {
      return { type, tlv_type: 0n, offset: 0 };
    }
    reader.field = type;
    // The fields of exactly this name were read, which a lookup by a union of names cannot say.
    return { type, ...readFields<Fields>(reader, FAILURE_FIELDS[type]) } as unknown as KnownFailure;
  });
}

/**
 * The failure that we pass back for a peer that answered `update_fail_malformed_htlc`: we wrap it ourselves, since that
 * peer could not. Null without BADONION, which no such message may lack (BOLT 2: fail the channel).
 */
export function failureOfMalformed(
  message: { readonly failure_code: number; readonly sha256_of_onion: Uint8Array },
): FailureMessage | null {
  const { failure_code, sha256_of_onion } = message;
  if ((failure_code & BADONION) === 0) return null;
  switch (failure_code) {
    case FAILURE_CODES.invalid_onion_version:
      return { type: "invalid_onion_version", sha256_of_onion };
    case FAILURE_CODES.invalid_onion_hmac:
      return { type: "invalid_onion_hmac", sha256_of_onion };
    case FAILURE_CODES.invalid_onion_key:
      return { type: "invalid_onion_key", sha256_of_onion };
    case FAILURE_CODES.invalid_onion_blinding:
      return { type: "invalid_onion_blinding", sha256_of_onion };
    default:
      return { type: "unknown_failure", failure_code, data: sha256_of_onion };
  }
}
