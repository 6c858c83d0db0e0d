/** What an incoming HTLC's onion says to us, and how we refuse it where it says nothing good. */
import { sha256 } from "@noble/hashes/sha2.js";
import type { Htlc, HtlcRemoval, IncomingRefusal } from "bolt/channel/types.ts";
import { createErrorPacket } from "bolt/onion/error_packet.ts";
import type { FailureMessage } from "bolt/onion/failure.ts";
import { FAILURE_CODES } from "bolt/onion/failure_codes.ts";
import {
  decodeOnionPacket,
  encodeOnionPacket,
  type MalformedOnion,
  malformedOnion,
} from "bolt/onion/packet.ts";
import { onionReplayKey, peelOnion } from "bolt/onion/peel.ts";
import { unreachable } from "bolt/result.ts";

/** What becomes of an incoming HTLC that is irrevocably committed. */
export type Peeled =
  /** lightningd decides, unless the onion was seen before. */
  | {
    readonly type: "ours";
    /** Of our hop, without its length. */
    readonly payload: Uint8Array;
    /** The next hop's packet; empty for none. */
    readonly nextOnion: Uint8Array;
    readonly sharedSecret: Uint8Array;
    /** onionReplayKey. */
    readonly key: Uint8Array;
  }
  /** It is removed so, without asking anyone. */
  | { readonly type: "refused"; readonly removal: HtlcRemoval };

function malformed({ failure_code, sha256_of_onion }: MalformedOnion): Peeled {
  return {
    type: "refused",
    removal: { type: "malformed", code: failure_code, sha256OfOnion: sha256_of_onion },
  };
}

function failed(sharedSecret: Uint8Array, failure: FailureMessage): Peeled {
  const reason = createErrorPacket(sharedSecret, failure);
  return { type: "refused", removal: { type: "fail", reason, attribution: null } };
}

/** Peels the onion of an HTLC that is irrevocably committed. Throws RangeError unless its onion and secret are there. */
export function peelIncoming(htlc: Htlc, refusal: IncomingRefusal | null): Peeled {
  const { onion, sharedSecret, paymentHash } = htlc;
  if (onion === null || sharedSecret === null) {
    throw new RangeError(`HTLC ${htlc.id} has no onion, or no shared secret`);
  }
  if (refusal === "invalid_onion_blinding") return refusedBlinding(onion);
  const packet = decodeOnionPacket(onion);
  if (!packet.ok) return malformed(packet.error);
  // hsmd found that the key is no point.
  if (sharedSecret.length === 0) return malformed(malformedOnion("invalid_onion_key", onion));
  if (refusal !== null) return failed(sharedSecret, failureOf(refusal));
  const peeled = peelOnion({ packet: packet.value, sharedSecret, associatedData: paymentHash });
  if (!peeled.ok) {
    return peeled.error.type === "invalid_onion_payload"
      ? failed(sharedSecret, peeled.error)
      : malformed(peeled.error);
  }
  const { payload, next } = peeled.value;
  return {
    type: "ours",
    payload,
    nextOnion: next === null ? new Uint8Array() : encodeOnionPacket(next),
    sharedSecret,
    key: onionReplayKey(packet.value, sharedSecret),
  };
}

/** An onion that came before: whoever sends it again looks for where a payment went (BOLT 4, Onion Decryption). */
export function replayed(htlc: Htlc): HtlcRemoval {
  const { failure_code, sha256_of_onion } = malformedOnion(
    "invalid_onion_hmac",
    htlc.onion ?? new Uint8Array(),
  );
  return { type: "malformed", code: failure_code, sha256OfOnion: sha256_of_onion };
}

function refusedBlinding(onion: Uint8Array): Peeled {
  const code = FAILURE_CODES.invalid_onion_blinding;
  return { type: "refused", removal: { type: "malformed", code, sha256OfOnion: sha256(onion) } };
}

function failureOf(refusal: Exclude<IncomingRefusal, "invalid_onion_blinding">): FailureMessage {
  switch (refusal) {
    case "expiry_too_far":
    case "permanent_channel_failure":
      return { type: refusal };
    case "temporary_channel_failure":
      return { type: refusal, channel_update: new Uint8Array() };
    default:
      return unreachable(refusal);
  }
}
