/** What a payload asks of the hop that it came to (BOLT 4, `payload` format, the reader). */
import { HOP_PAYLOAD_TYPES, type HopPayload, type HopPayloadRecord } from "bolt/onion/payload.ts";
import type { InvalidOnionPayload } from "bolt/onion/peel.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { type BlockHeight, height, MAX_SAT, type Msat, msat } from "bolt/units.ts";
import type { ShortChannelId } from "bolt/wire/short_channel_id.ts";

/** A height from here on would be a time (BOLT 2, update_add_htlc). */
const MAX_HEIGHT = 499_999_999;

/** What to do with an HTLC, as far as its onion says; whether the HTLC itself fits is not looked at here. */
export type HopInstructions =
  /** Pass it on. */
  | {
    readonly type: "forward";
    readonly amt_to_forward: Msat;
    readonly outgoing_cltv_value: BlockHeight;
    readonly short_channel_id: ShortChannelId;
  }
  /** It is for us. */
  | {
    readonly type: "receive";
    readonly amt_to_forward: Msat;
    readonly outgoing_cltv_value: BlockHeight;
    /** Of the whole payment; `amt_to_forward` if the origin did not say. */
    readonly total_msat: Msat;
    readonly payment_secret?: Uint8Array;
    readonly payment_metadata?: Uint8Array;
    readonly keysend_preimage?: Uint8Array;
  }
  /** It is within a blinded route: what to do is in `encrypted_recipient_data`. Errors are `invalid_onion_blinding`. */
  | {
    readonly type: "blinded";
    readonly encrypted_recipient_data: Uint8Array;
    /** From the payload when the route begins here; otherwise `update_add_htlc` had it. */
    readonly current_path_key?: Uint8Array;
  };

/** Where the payload was found. */
export interface PayloadPlace {
  /** Whether the onion has no next hop. */
  readonly last: boolean;
  /** Whether `update_add_htlc` had a `path_key`. */
  readonly withPathKey: boolean;
}

/** Reads the instructions; a fault names the record that is missing or wrong. */
export function readInstructions(
  payload: HopPayload,
  place: PayloadPlace,
): Result<HopInstructions, InvalidOnionPayload> {
  const { encrypted_recipient_data, current_path_key, payment_data } = payload;
  if (encrypted_recipient_data !== undefined) {
    // Exactly one of the two: another key could make us read data that were made for another place in the route.
    if (place.withPathKey === (current_path_key !== undefined)) return invalid("current_path_key");
    return ok({
      type: "blinded",
      encrypted_recipient_data,
      ...(current_path_key === undefined ? {} : { current_path_key }),
    });
  }
  if (place.withPathKey) return invalid("encrypted_recipient_data");
  if (current_path_key !== undefined) return invalid("current_path_key");

  const amount = payload.amt_to_forward;
  if (amount === undefined || !isMsat(amount)) return invalid("amt_to_forward");
  const cltv = payload.outgoing_cltv_value;
  if (cltv === undefined || cltv > MAX_HEIGHT) return invalid("outgoing_cltv_value");
  const common = { amt_to_forward: msat(amount), outgoing_cltv_value: height(cltv) };
  if (!place.last) {
    const { short_channel_id } = payload;
    if (short_channel_id === undefined) return invalid("short_channel_id");
    return ok({ type: "forward", ...common, short_channel_id });
  }
  if (payment_data !== undefined && !isMsat(payment_data.total_msat)) return invalid("payment_data");
  const { payment_metadata, keysend_preimage } = payload;
  return ok({
    type: "receive",
    ...common,
    total_msat: payment_data === undefined ? common.amt_to_forward : msat(payment_data.total_msat),
    ...(payment_data === undefined ? {} : { payment_secret: payment_data.payment_secret }),
    ...(payment_metadata === undefined ? {} : { payment_metadata }),
    ...(keysend_preimage === undefined ? {} : { keysend_preimage }),
  });
}

function isMsat(value: bigint): boolean {
  return value <= MAX_SAT * 1000n;
}

function invalid(record: HopPayloadRecord): Result<never, InvalidOnionPayload> {
  return err({ type: "invalid_onion_payload", tlv_type: HOP_PAYLOAD_TYPES[record], offset: 0 });
}
