/** Commands of lightningd as the machine's inputs, and the machine's words as reports. */
import type { ChannelInput, ChannelLevel, Htlc, HtlcRemoval, NodeFacts } from "bolt/channel/types.ts";
import { ONION_PACKET_LENGTH } from "bolt/wire/messages.ts";
import { unreachable } from "bolt/result.ts";
import { feerate, height, MAX_SAT, msat } from "bolt/units.ts";
import { requireBytes, requireCase } from "common/grpc/check.ts";
import { invalidArgument } from "common/grpc/errors.ts";
import { sha256 } from "@noble/hashes/sha2.js";
import type { NodeLevel, OfferHtlc, SettleHtlc } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import type { Peeled } from "./onions.ts";
import type { Report } from "./htlc_stream.ts";

const HASH_LENGTH = 32;
const ATTRIBUTION_LENGTH = 920;
const MAX_MSAT = MAX_SAT * 1000n;

/** A report without its channel and epoch. */
export type Said = NonNullable<Report["report"]>;

/** An offer, checked. Throws INVALID_ARGUMENT: lightningd is at fault then. */
export function offerInput(offer: OfferHtlc): Extract<ChannelInput, { type: "offer" }> {
  if (offer.origin === 0n) throw invalidArgument("NO_ORIGIN", "an offer needs an origin");
  if (offer.amountMsat > MAX_MSAT) throw invalidArgument("BAD_AMOUNT", `${offer.amountMsat} msat`);
  return {
    type: "offer",
    origin: offer.origin,
    amount: msat(offer.amountMsat),
    paymentHash: requireBytes(offer.paymentHash, HASH_LENGTH, "payment_hash"),
    cltvExpiry: height(offer.cltvExpiry),
    onion: requireBytes(offer.onion, ONION_PACKET_LENGTH, "onion"),
  };
}

/** A settlement, checked; `onionOf` is the onion of that incoming HTLC, if it is known. Throws INVALID_ARGUMENT. */
export function settleInput(
  { id, settlement }: SettleHtlc,
  onionOf: (id: bigint) => Uint8Array | null,
): Extract<ChannelInput, { type: "settle" }> {
  return { type: "settle", id, removal: removalOf(requireCase(settlement, "settlement"), () => onionOf(id)) };
}

function removalOf(
  settlement: Extract<SettleHtlc["settlement"], { case: string }>,
  onion: () => Uint8Array | null,
): HtlcRemoval {
  switch (settlement.case) {
    case "preimage": {
      const preimage = requireBytes(settlement.value, HASH_LENGTH, "preimage");
      return { type: "fulfill", preimage, attribution: null };
    }
    case "fail": {
      const { reason, attributionData } = settlement.value;
      const attribution = attributionData.length === 0
        ? null
        : requireBytes(attributionData, ATTRIBUTION_LENGTH, "attribution_data");
      return { type: "fail", reason, attribution };
    }
    case "malformedCode":
      return {
        type: "malformed",
        code: settlement.value,
        sha256OfOnion: sha256(onion() ?? new Uint8Array()),
      };
    default:
      return unreachable(settlement);
  }
}

/** The node's level, checked. Throws INVALID_ARGUMENT. */
export function nodeFacts(level: NodeLevel): NodeFacts {
  const { feeratePerkw, minFeeratePerkw, maxFeeratePerkw } = level;
  if (minFeeratePerkw > maxFeeratePerkw) throw invalidArgument("BAD_FEERATES", "bounds the wrong way round");
  return {
    height: height(level.height),
    feerate: feerate(feeratePerkw),
    minFeerate: feerate(minFeeratePerkw),
    maxFeerate: feerate(maxFeeratePerkw),
  };
}

/** ChannelLevel. */
export function levelSaid(level: ChannelLevel): Said {
  return {
    case: "level",
    value: {
      state: level.state,
      paused: level.paused,
      spendableMsat: level.spendable,
      receivableMsat: level.receivable,
      toUsMsat: level.toUs,
      feeratePerkw: level.feerate,
      htlcsOut: level.htlcsOut,
      htlcsIn: level.htlcsIn,
    },
  };
}

/** IncomingHtlc. */
export function incomingSaid(row: bigint, htlc: Htlc, peeled: Extract<Peeled, { type: "ours" }>): Said {
  return {
    case: "incoming",
    value: {
      id: htlc.id,
      htlc: row,
      amountMsat: htlc.amount,
      cltvExpiry: htlc.cltvExpiry,
      paymentHash: htlc.paymentHash,
      payload: peeled.payload,
      nextOnion: peeled.nextOnion,
      sharedSecret: peeled.sharedSecret,
    },
  };
}

/** OutgoingResolved. */
export function resolvedSaid(
  { origin, id, removal }: { readonly origin: bigint; readonly id: bigint; readonly removal: HtlcRemoval },
): Said {
  const named = { origin, id };
  switch (removal.type) {
    case "fulfill":
      return {
        case: "resolved",
        value: { ...named, outcome: { case: "preimage", value: removal.preimage }, ...attribution(removal) },
      };
    case "fail":
      return {
        case: "resolved",
        value: {
          ...named,
          outcome: { case: "failed", value: { reason: removal.reason } },
          ...attribution(removal),
        },
      };
    case "malformed":
      return {
        case: "resolved",
        value: {
          ...named,
          outcome: {
            case: "malformed",
            value: { failureCode: removal.code, sha256OfOnion: removal.sha256OfOnion },
          },
        },
      };
    default:
      return unreachable(removal);
  }
}

function attribution(removal: { readonly attribution: Uint8Array | null }) {
  return removal.attribution === null ? {} : { attributionData: removal.attribution };
}
