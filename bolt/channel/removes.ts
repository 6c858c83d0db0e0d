/** HTLCs that are removed, by the peer and by us (BOLT 2, removing an HTLC; items 12 to 14). */
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import { unreachable } from "bolt/result.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type {
  Message,
  UpdateFailHtlc,
  UpdateFailMalformedHtlc,
  UpdateFulfillHtlc,
} from "bolt/wire/messages.ts";
import type { Draft } from "./draft.ts";
import { type Htlc, htlcKey, type HtlcRemoval } from "./types.ts";

/** Set in a failure_code that goes by update_fail_malformed_htlc (BOLT 4). */
const BADONION = 0x8000;
const HOLD_TIMES_LENGTH = 80;
/** Length of attribution_data. */
export const ATTRIBUTION_LENGTH = 920;
const MAX_MESSAGE_LENGTH = 65_535;
/** Of update_fail_htlc without its reason: type, channel_id, id, length; then type and length of the TLV. */
const FAIL_OVERHEAD = 2 + 32 + 8 + 2;
const ATTRIBUTION_OVERHEAD = 1 + 3;

/** A removal that the peer says. */
export type PeerRemoval = UpdateFulfillHtlc | UpdateFailHtlc | UpdateFailMalformedHtlc;

function removalOf(message: PeerRemoval): HtlcRemoval {
  switch (message.type) {
    case "update_fulfill_htlc":
      return { type: "fulfill", preimage: message.payment_preimage, attribution: attributionOf(message) };
    case "update_fail_htlc":
      return { type: "fail", reason: message.reason, attribution: attributionOf(message) };
    case "update_fail_malformed_htlc":
      return { type: "malformed", code: message.failure_code, sha256OfOnion: message.sha256_of_onion };
    default:
      return unreachable(message);
  }
}

function attributionOf({ attribution_data: data }: UpdateFulfillHtlc | UpdateFailHtlc): Uint8Array | null {
  return data === undefined ? null : concatBytes(data.htlc_hold_times, data.truncated_hmacs);
}

/** The peer removes an HTLC of ours: only one that both sides are irrevocably committed to. */
export function onRemove(d: Draft, message: PeerRemoval): void {
  const htlc = d.htlcs.get(htlcKey(true, message.id));
  if (htlc === undefined) return d.fail(`${message.type}: no HTLC ${message.id}`);
  if (htlc.state !== "SENT_ADD_ACK_REVOCATION") {
    return d.fail(`${message.type}: HTLC ${message.id} is in state ${htlc.state}`);
  }
  const removal = removalOf(message);
  if (removal.type === "fulfill" && !sameBytes(sha256(removal.preimage), htlc.paymentHash)) {
    return d.fail(`update_fulfill_htlc ${message.id}: not the preimage`);
  }
  if (removal.type === "malformed" && (removal.code & BADONION) === 0) {
    return d.fail(`update_fail_malformed_htlc ${message.id}: failure_code without BADONION`);
  }
  const known = htlc.removal?.type === "fulfill";
  if (known && removal.type !== "fulfill") {
    d.log("warn", `HTLC ${htlc.id}: failed after its preimage was told`);
  }
  const next: Htlc = { ...htlc, state: "RCVD_REMOVE_HTLC", removal };
  for (const figures of d.figures) figures.removes(next);
  d.removeUncommitted(next);
  // A preimage is true whatever comes of this connection: it is told at once, and once.
  if (removal.type === "fulfill" && !known && htlc.origin !== null) {
    d.early.push({ type: "outgoing_resolved", origin: htlc.origin, id: htlc.id, removal });
  }
}

/** lightningd's decision on an incoming HTLC. The same again changes nothing; another one comes too late. */
export function onSettle(d: Draft, id: bigint, removal: HtlcRemoval): void {
  const htlc = d.htlcs.get(htlcKey(false, id));
  if (htlc === undefined) return d.log("info", `settlement of HTLC ${id}, which is gone`);
  if (htlc.removal !== null) {
    if (htlc.removal.type !== removal.type) {
      d.log("warn", `HTLC ${id} is removed by ${htlc.removal.type} already, not by ${removal.type}`);
    }
    return;
  }
  if (htlc.state !== "RCVD_ADD_ACK_REVOCATION") {
    return d.log("error", `settlement of HTLC ${id} in state ${htlc.state}`);
  }
  if (removal.type === "fulfill" && !sameBytes(sha256(removal.preimage), htlc.paymentHash)) {
    return d.log("error", `settlement of HTLC ${id}: not the preimage`);
  }
  if (removal.type === "fail" && FAIL_OVERHEAD + removal.reason.length > MAX_MESSAGE_LENGTH) {
    return d.log("error", `settlement of HTLC ${id}: the reason is too long for a message`);
  }
  if (removal.type === "malformed" && (removal.code & BADONION) === 0) {
    return d.log("error", `settlement of HTLC ${id}: failure_code without BADONION`);
  }
  const next: Htlc = { ...htlc, state: "SENT_REMOVE_HTLC", removal };
  for (const figures of d.figures) figures.removes(next);
  d.put(next);
}

/** What says a removal of ours. */
export function removalMessage(channelId: Uint8Array, htlc: Htlc): Message {
  const { id, removal } = htlc;
  if (removal === null) throw new RangeError("an HTLC that is not removed");
  switch (removal.type) {
    case "fulfill":
      return {
        type: "update_fulfill_htlc",
        channel_id: channelId,
        id,
        payment_preimage: removal.preimage,
        ...attribution(removal.attribution),
      };
    case "fail": {
      const room = MAX_MESSAGE_LENGTH - FAIL_OVERHEAD - removal.reason.length;
      return {
        type: "update_fail_htlc",
        channel_id: channelId,
        id,
        reason: removal.reason,
        ...(room < ATTRIBUTION_OVERHEAD + ATTRIBUTION_LENGTH ? {} : attribution(removal.attribution)),
      };
    }
    case "malformed":
      return {
        type: "update_fail_malformed_htlc",
        channel_id: channelId,
        id,
        sha256_of_onion: removal.sha256OfOnion,
        failure_code: removal.code,
      };
    default:
      return unreachable(removal);
  }
}

function attribution(
  data: Uint8Array | null,
): { attribution_data?: { htlc_hold_times: Uint8Array; truncated_hmacs: Uint8Array } } {
  if (data === null || data.length !== ATTRIBUTION_LENGTH) return {};
  return {
    attribution_data: {
      htlc_hold_times: data.slice(0, HOLD_TIMES_LENGTH),
      truncated_hmacs: data.slice(HOLD_TIMES_LENGTH),
    },
  };
}
