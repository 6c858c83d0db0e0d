/** Whether an incoming HTLC is taken (BOLT 4, the final node; BOLT 2 for heights). Pure: the engine does what it says. */
import { sha256 } from "@noble/hashes/sha2.js";
import { sameInConstantTime } from "bolt/onion/keys.ts";
import type { FailureMessage } from "bolt/onion/failure.ts";
import { readInstructions } from "bolt/onion/instructions.ts";
import { decodeHopPayload, HOP_PAYLOAD_TYPES } from "bolt/onion/payload.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** Blocks that an HTLC may be locked for; farther ones are failed (BOLT 4, expiry_too_far). */
export const MAX_EXPIRY_BLOCKS = 2016;
/** A payer may give up to so many times what was asked. */
const MAX_OVERPAY = 2n;

/** An HTLC that is irrevocably committed. */
export interface CommittedHtlc {
  readonly amountMsat: bigint;
  readonly cltvExpiry: number;
  readonly paymentHash: Uint8Array;
  readonly payload: Uint8Array;
  /** There is a packet for a next hop. */
  readonly forward: boolean;
}

/** What its payer says of it. */
export interface PaymentPart {
  readonly totalMsat: bigint;
  readonly paymentSecret?: Uint8Array;
  /** The payment brings its preimage along. */
  readonly keysendPreimage?: Uint8Array;
}

/** What of an invoice decides. */
export interface Receivable {
  /** Absent: a payment without an invoice. */
  readonly paymentSecret?: Uint8Array;
  readonly amountMsat?: bigint;
  readonly minFinalCltv: number;
  readonly expiresAt: bigint;
  readonly paid?: unknown;
}

/** The one answer to all that an onlooker could learn from: nobody can probe which hashes we know. */
export function unknownDetails(amountMsat: bigint, height: number): FailureMessage {
  return { type: "incorrect_or_unknown_payment_details", htlc_msat: amountMsat, height };
}

/** Reads what the onion asks, and whether the HTLC keeps to it. An error is the failure to answer with. */
export function readPart(htlc: CommittedHtlc, height: number): Result<PaymentPart, FailureMessage> {
  const payload = decodeHopPayload(htlc.payload);
  if (!payload.ok) return err(payload.error);
  const read = readInstructions(payload.value, { last: !htlc.forward, withPathKey: false });
  if (!read.ok) return err(read.error);
  const asked = read.value;
  switch (asked.type) {
    case "forward":
      // Nothing is forwarded yet, so no next peer is known.
      return err({ type: "unknown_next_peer" });
    case "blinded":
      // Without option_route_blinding the record is an unknown even one.
      return err({
        type: "invalid_onion_payload",
        tlv_type: HOP_PAYLOAD_TYPES.encrypted_recipient_data,
        offset: 0,
      });
    case "receive":
  }
  if (payload.value.short_channel_id !== undefined) return err({ type: "unknown_next_peer" });
  if (htlc.cltvExpiry > height + MAX_EXPIRY_BLOCKS) return err({ type: "expiry_too_far" });
  if (htlc.amountMsat < asked.amt_to_forward) {
    return err({ type: "final_incorrect_htlc_amount", incoming_htlc_amt: htlc.amountMsat });
  }
  if (htlc.cltvExpiry < asked.outgoing_cltv_value) {
    return err({ type: "final_incorrect_cltv_expiry", cltv_expiry: htlc.cltvExpiry });
  }
  const { keysend_preimage: preimage, payment_secret: secret, total_msat: total } = asked;
  if (asked.amt_to_forward === 0n || total === 0n) return err(unknownDetails(htlc.amountMsat, height));
  if (preimage !== undefined && !sameInConstantTime(sha256(preimage), htlc.paymentHash)) {
    return err(unknownDetails(htlc.amountMsat, height));
  }
  return ok({
    totalMsat: total,
    ...(secret === undefined ? {} : { paymentSecret: secret }),
    ...(preimage === undefined ? {} : { keysendPreimage: preimage }),
  });
}

/** Whether a part may count towards an invoice. `now` in seconds. Null: it may. */
export function checkPart(
  htlc: CommittedHtlc,
  part: PaymentPart,
  invoice: Receivable | undefined,
  height: number,
  now: bigint,
): FailureMessage | null {
  const no = unknownDetails(htlc.amountMsat, height);
  if (invoice === undefined || invoice.paid !== undefined) return no;
  if (invoice.paymentSecret === undefined) {
    // A payment without an invoice is one HTLC that brings its preimage; a secret or a greater total is a mix of kinds.
    if (part.keysendPreimage === undefined || part.totalMsat > htlc.amountMsat) return no;
  } else {
    if (part.paymentSecret === undefined) return no;
    if (!sameInConstantTime(part.paymentSecret, invoice.paymentSecret)) return no;
    if (invoice.expiresAt <= now) return no;
  }
  if (htlc.cltvExpiry < height + invoice.minFinalCltv) return no;
  const { amountMsat: asked } = invoice;
  if (asked !== undefined && (part.totalMsat < asked || part.totalMsat > asked * MAX_OVERPAY)) return no;
  return null;
}

/** How a set of parts stands. */
export type SetVerdict =
  | { readonly type: "wait" }
  | { readonly type: "complete" }
  /** All of its parts fail. */
  | { readonly type: "refuse" };

/** Whether the parts of one payment are complete. `sum` is of the HTLCs, `totals` what each of them says. */
export function judgeSet(sum: bigint, totals: readonly bigint[]): SetVerdict {
  const [total, ...others] = totals;
  if (total === undefined) return { type: "wait" };
  if (others.some((other) => other !== total)) return { type: "refuse" };
  if (sum < total) return { type: "wait" };
  return sum > total * MAX_OVERPAY ? { type: "refuse" } : { type: "complete" };
}
