/** listpeerchannels: one channel as the contract shows it. Only what is known is filled in. */
import type { Message, MessageInitShape } from "@bufbuild/protobuf";
import { leastOwnRbfFeerate } from "bolt/interactive/rbf.ts";
import { compareBytes } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import { featureName, Features } from "bolt/wire/features.ts";
import type { PartyParams } from "gen/arcus/store/v1/store_pb.ts";
import type {
  ListpeerchannelsChannelsInflightSchema,
  ListpeerchannelsChannelsSchema,
} from "gen/cln/node_pb.ts";
import { ListpeerchannelsChannelsHtlcs_ListpeerchannelsChannelsHtlcsDirection as Direction } from "gen/cln/node_pb.ts";
import { ChannelSide } from "gen/cln/primitives_pb.ts";
import type { ChannelLevel } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import type { ChannelTotals, HtlcRow, PaymentRoom } from "../payments/payments.ts";
import type { AttemptInfo, ChannelInfo } from "../ports.ts";
import { aliasText, flipTxid, given, htlcState, scidOf, toAmount, toChannelType, toState } from "./values.ts";

/** sat/kvB of one sat/kw. */
const PERKB = 4;

type ChannelInit = Exclude<MessageInitShape<typeof ListpeerchannelsChannelsSchema>, Message>;

const perkw = (attempt: AttemptInfo): string => `${attempt.feerate}perkw`;
const msat = (amount: bigint): { msat: bigint } => ({ msat: amount });

function toInflight(attempt: AttemptInfo): MessageInitShape<typeof ListpeerchannelsChannelsInflightSchema> {
  return {
    fundingTxid: flipTxid(attempt.txid),
    fundingOutnum: attempt.outputIndex,
    feerate: perkw(attempt),
    totalFundingMsat: toAmount(attempt.capacity),
    ourFundingMsat: toAmount(attempt.localContribution),
  };
}

/** Of the attempts: fee rates, and the list while any of them may still become the channel. */
function attemptsPart({ attempts, lockedAttempt }: ChannelInfo): ChannelInit {
  const live = attempts.filter(({ aborted }) => !aborted);
  const [first, last] = [live[0], live.at(-1)];
  if (lockedAttempt !== undefined || first === undefined || last === undefined) return {};
  return {
    initialFeerate: perkw(first),
    lastFeerate: perkw(last),
    nextFeerate: `${leastOwnRbfFeerate(last.feerate)}perkw`,
    inflight: live.map(toInflight),
  };
}

/** Of the attempt that funds the channel. */
function fundingPart(funding: AttemptInfo | undefined): ChannelInit {
  if (funding === undefined) return {};
  return {
    fundingTxid: flipTxid(funding.txid),
    fundingOutnum: funding.outputIndex,
    funding: {
      localFundsMsat: toAmount(funding.localContribution),
      remoteFundsMsat: toAmount(funding.remoteContribution),
    },
    // No payment is possible yet: each side has what it put in.
    toUsMsat: toAmount(funding.localContribution),
    totalMsat: toAmount(funding.capacity),
    ourReserveMsat: toAmount(funding.localReserve),
    theirReserveMsat: toAmount(funding.remoteReserve),
  };
}

function limitsPart(local: PartyParams | undefined, remote: PartyParams | undefined): ChannelInit {
  return {
    ...(local === undefined ? {} : {
      dustLimitMsat: toAmount(sat(local.dustLimitSat)),
      ourMaxHtlcValueInFlightMsat: msat(local.maxHtlcValueInFlightMsat),
      minimumHtlcInMsat: msat(local.htlcMinimumMsat),
      maxAcceptedHtlcs: local.maxAcceptedHtlcs,
      // The delay that a party asks is the one that the other waits.
      theirToSelfDelay: local.toSelfDelay,
      ...(local.upfrontShutdownScript?.length ? { closeTo: local.upfrontShutdownScript } : {}),
    }),
    ...(remote === undefined ? {} : {
      theirMaxHtlcValueInFlightMsat: msat(remote.maxHtlcValueInFlightMsat),
      minimumHtlcOutMsat: msat(remote.htlcMinimumMsat),
      ourToSelfDelay: remote.toSelfDelay,
    }),
  };
}

function paramsPart({ params }: ChannelInfo): ChannelInit {
  if (params === undefined) return {};
  const bits = Features.parse(params.channelType);
  const rate = params.commitmentFeeratePerkw;
  return {
    ...toChannelType(params.channelType),
    feerate: { perkw: rate, perkb: rate * PERKB },
    features: bits.ok ? bits.value.bits().map((bit) => featureName(bit) ?? `unknown_${bit}`) : [],
    ...limitsPart(params.local, params.remote),
  };
}

/** What goes through a channel. */
export interface Traffic {
  /** What its owner said last; absent before it said anything. */
  readonly level: ChannelLevel | undefined;
  readonly htlcs: readonly HtlcRow[];
  readonly totals: ChannelTotals | undefined;
}

/** The traffic of channels, from their owners and rows. */
export async function trafficOf(
  payments: PaymentRoom,
  channels: readonly ChannelInfo[],
): Promise<Map<bigint, Traffic>> {
  const ids = channels.flatMap(({ channel, lockedAttempt }) =>
    channel === undefined || lockedAttempt === undefined ? [] : [channel]
  );
  if (ids.length === 0) return new Map();
  const [htlcs, totals] = await Promise.all([
    payments.listHtlcs({ channels: ids, live: true }),
    payments.totals(ids),
  ]);
  return new Map(ids.map((id) => [id, {
    level: payments.views.get(id)?.level,
    htlcs: htlcs.filter(({ channel }) => channel === id),
    totals: totals.get(id),
  }]));
}

function trafficPart({ level, htlcs, totals }: Traffic): ChannelInit {
  return {
    ...(level === undefined ? {} : {
      toUsMsat: msat(level.toUsMsat),
      spendableMsat: msat(level.spendableMsat),
      receivableMsat: msat(level.receivableMsat),
    }),
    ...(level === undefined || level.feeratePerkw === 0 ? {} : {
      feerate: { perkw: level.feeratePerkw, perkb: level.feeratePerkw * PERKB },
    }),
    htlcs: htlcs.map((htlc) => ({
      direction: htlc.offered ? Direction.OUT : Direction.IN,
      id: htlc.id,
      amountMsat: msat(htlc.amountMsat),
      expiry: htlc.cltvExpiry,
      paymentHash: htlc.paymentHash,
      state: htlcState(htlc),
    })),
    ...(totals === undefined ? {} : {
      inPaymentsOffered: BigInt(totals.inOffered),
      inOfferedMsat: msat(totals.inOfferedMsat),
      inPaymentsFulfilled: BigInt(totals.inFulfilled),
      inFulfilledMsat: msat(totals.inFulfilledMsat),
      outPaymentsOffered: BigInt(totals.outOffered),
      outOfferedMsat: msat(totals.outOfferedMsat),
      outPaymentsFulfilled: BigInt(totals.outFulfilled),
      outFulfilledMsat: msat(totals.outFulfilledMsat),
    }),
  };
}

/** A channel of ours, seen from this node. */
export function toChannel(channel: ChannelInfo, nodeId: Uint8Array, traffic?: Traffic): ChannelInit {
  const side = channel.opener === "local" ? ChannelSide.LOCAL : ChannelSide.REMOTE;
  const alias = given({ local: aliasText(channel.localAlias), remote: aliasText(channel.remoteAlias) });
  return {
    peerId: channel.peerId,
    peerConnected: channel.peerConnected,
    state: toState(channel.state),
    opener: side,
    // Channels are not announced yet.
    private: true,
    reestablished: channel.reestablished,
    direction: compareBytes(nodeId, channel.peerId) < 0 ? 0 : 1,
    status: [...channel.status, ...(channel.errorText === undefined ? [] : [channel.errorText])],
    ...given({
      channelId: channel.channelId ?? channel.temporaryChannelId,
      owner: channel.owner,
      shortChannelId: scidOf(channel),
    }),
    ...(Object.keys(alias).length === 0 ? {} : { alias }),
    ...fundingPart(channel.funding),
    ...attemptsPart(channel),
    ...paramsPart(channel),
    ...(traffic === undefined ? {} : trafficPart(traffic)),
  };
}
