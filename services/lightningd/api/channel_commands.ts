/** Channels: listing, opening, replacing the funding, aborting, forgetting. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Transaction } from "bitcoinjs-lib";
import { sameBytes, txidOf } from "bolt/tx/transaction.ts";
import { formatShortChannelId, type ShortChannelId } from "bolt/wire/short_channel_id.ts";
import { notFound } from "common/grpc/errors.ts";
import type { FeeratePerKw } from "bolt/units.ts";
import type { NegotiationResponse } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import type {
  FundchannelRequest,
  FundchannelResponseSchema,
  OpenchannelInitRequest,
} from "gen/cln/node_pb.ts";
import type { Feerate } from "gen/cln/primitives_pb.ts";
import type { ChannelInfo } from "../ports.ts";
import { scriptOf } from "../wallet/address.ts";
import { chooseFeerate } from "../wallet/feerate.ts";
import { readPsbt } from "../wallet/psbt.ts";
import type { Handlers } from "./handlers.ts";
import { toChannel, trafficOf } from "./list_channels.ts";
import type { ApiParts } from "./parts.ts";
import { negotiationPsbt, witnessesOf } from "./psbt.ts";
import { invalidParams } from "./refusals.ts";
import {
  flipTxid,
  given,
  readChannelId,
  readChannelType,
  readFeerate,
  readNodeId,
  readOutpoints,
  readSat,
  readSatOrAll,
  readShortChannelId,
  scidOf,
  toChannelType,
} from "./values.ts";

/** CLN: a channel id that is not known. */
const UNKNOWN_CHANNEL = 311;

/** What both ways of opening share, and what neither can do here. */
type OpenTerms = Pick<FundchannelRequest, "channelType" | "closeTo" | "requestAmt" | "announce"> & {
  readonly compactLease?: string | Uint8Array | undefined;
};

function refuseUnsupported(request: OpenTerms): void {
  if (request.announce === true) {
    throw invalidParams(
      "announce",
      "channels of this node are not announced: there is no gossip yet (say announce=false)",
    );
  }
  if (request.requestAmt !== undefined && request.requestAmt.msat > 0n) {
    throw invalidParams("request_amt", "leased liquidity is not supported");
  }
  if (request.compactLease !== undefined && request.compactLease.length > 0) {
    throw invalidParams("compact_lease", "leased liquidity is not supported");
  }
}

function refuseSingleFunding(request: FundchannelRequest): void {
  if (request.pushMsat !== undefined && request.pushMsat.msat > 0n) {
    throw invalidParams("push_msat", "nothing is pushed in a channel that both sides fund");
  }
  if (request.mindepth !== undefined) {
    throw invalidParams("mindepth", "the peer names the depth of a channel that both sides fund");
  }
  if (request.reserve !== undefined) {
    throw invalidParams("reserve", "the reserve of a channel that both sides fund is one percent of it");
  }
}

function txidShown(tx: Uint8Array): Uint8Array {
  return flipTxid(txidOf(Transaction.fromBuffer(tx)));
}

function toFundchannel(
  opened: NegotiationResponse,
): MessageInitShape<typeof FundchannelResponseSchema> {
  // Without the peer's witnesses, which are stored when they come, the transaction has the same id.
  const tx = opened.completeTx.length > 0 ? opened.completeTx : opened.tx;
  return {
    tx,
    txid: txidShown(tx),
    outnum: opened.fundingOutputIndex,
    channelId: opened.channelId,
    ...toChannelType(opened.channelType),
    ...(opened.closeTo.length > 0 ? { closeTo: opened.closeTo } : {}),
  };
}

/** What openchannel_init, _bump and _update all answer. */
function toNegotiation(response: NegotiationResponse) {
  return {
    channelId: response.channelId,
    psbt: negotiationPsbt(response.tx, response.prevouts),
    commitmentsSecured: response.commitmentsSecured,
    requiresConfirmedInputs: response.requiresConfirmedInputs,
    ...toChannelType(response.channelType),
  };
}

/** Whether a short channel id means this channel: the real one, or an alias of either side. */
function hasShortId(channel: ChannelInfo, id: ShortChannelId): boolean {
  return scidOf(channel) === formatShortChannelId(id) || channel.localAlias === id ||
    channel.remoteAlias === id;
}

function hasId(channel: ChannelInfo, id: Uint8Array): boolean {
  const own = channel.channelId ?? channel.temporaryChannelId;
  return own !== undefined && sameBytes(own, id);
}

/** The commands about channels. */
export function channelCommands(parts: ApiParts): Handlers<
  | "listPeerChannels"
  | "fundChannel"
  | "openChannelInit"
  | "openChannelUpdate"
  | "openChannelSigned"
  | "openChannelBump"
  | "openChannelAbort"
  | "openChannelGiveup"
  | "devForgetChannel"
> {
  const { peers, chain, network } = parts;

  const rateOf = async (parameter: string, rate: Feerate | undefined): Promise<FeeratePerKw | undefined> => {
    const choice = readFeerate(parameter, rate);
    return choice === undefined ? undefined : chooseFeerate(choice, await chain.feerates());
  };

  /** What both ways of opening say about the channel. */
  const termsOf = (request: FundchannelRequest | OpenchannelInitRequest) => {
    refuseUnsupported(request);
    return {
      peerId: readNodeId("id", request.id),
      announce: false,
      ...given({
        closeTo: request.closeTo === undefined ? undefined : scriptOf(request.closeTo, network),
        channelType: readChannelType("channel_type", request.channelType),
      }),
    };
  };

  /** The channels that the parameters name. */
  const select = async (request: {
    readonly id?: Uint8Array | undefined;
    readonly channelId?: Uint8Array | undefined;
    readonly shortChannelId?: string | undefined;
  }): Promise<ChannelInfo[]> => {
    const peer = request.id === undefined ? undefined : readNodeId("id", request.id);
    const id = request.channelId === undefined ? undefined : readChannelId("channel_id", request.channelId);
    const shortId = request.shortChannelId === undefined
      ? undefined
      : readShortChannelId("short_channel_id", request.shortChannelId);
    const found = await peers.listPeerChannels(peer);
    return found.filter((channel) =>
      (id === undefined || hasId(channel, id)) && (shortId === undefined || hasShortId(channel, shortId))
    );
  };

  return {
    async listPeerChannels(request) {
      if (request.id !== undefined && request.shortChannelId !== undefined) {
        throw invalidParams("short_channel_id", "can't be given together with id");
      }
      const channels = await select(request);
      const traffic = await trafficOf(parts.payments, channels);
      return {
        channels: channels.map((channel) =>
          toChannel(
            channel,
            parts.nodeId,
            channel.channel === undefined ? undefined : traffic.get(channel.channel),
          )
        ),
      };
    },

    async fundChannel(request) {
      refuseSingleFunding(request);
      const terms = termsOf(request);
      const opened = await peers.openChannel({
        ...terms,
        funds: {
          type: "own",
          amount: readSatOrAll("amount", request.amount),
          ...given({
            utxos: request.utxos.length === 0 ? undefined : readOutpoints("utxos", request.utxos),
            minconf: request.minconf,
          }),
        },
        runToCompletion: true,
        ...given({ feerate: await rateOf("feerate", request.feerate) }),
      });
      return toFundchannel(opened);
    },

    async openChannelInit(request) {
      const terms = termsOf(request);
      readPsbt(request.initialpsbt);
      const opened = await peers.openChannel({
        ...terms,
        funds: { type: "psbt", psbt: request.initialpsbt, amount: readSat("amount", request.amount) },
        runToCompletion: false,
        ...given({
          feerate: await rateOf("funding_feerate", request.fundingFeerate),
          commitmentFeerate: await rateOf("commitment_feerate", request.commitmentFeerate),
        }),
      });
      return toNegotiation(opened);
    },

    async openChannelUpdate(request) {
      readPsbt(request.psbt);
      const updated = await peers.updateOpen(readChannelId("channel_id", request.channelId), request.psbt);
      return {
        ...toNegotiation(updated),
        fundingOutnum: updated.fundingOutputIndex,
        ...(updated.closeTo.length > 0 ? { closeTo: updated.closeTo } : {}),
      };
    },

    async openChannelSigned(request) {
      const channelId = readChannelId("channel_id", request.channelId);
      const { tx, txid } = await peers.signOpen(channelId, witnessesOf(request.signedPsbt));
      return { channelId, tx, txid: flipTxid(txid) };
    },

    async openChannelBump(request) {
      readPsbt(request.initialpsbt);
      const bumped = await peers.bumpChannel(readChannelId("channel_id", request.channelId), {
        funds: { type: "psbt", psbt: request.initialpsbt, amount: readSat("amount", request.amount) },
        runToCompletion: false,
        ...given({ feerate: await rateOf("funding_feerate", request.fundingFeerate) }),
      });
      return toNegotiation(bumped);
    },

    async openChannelAbort(request) {
      const channelId = readChannelId("channel_id", request.channelId);
      const { channelCanceled, reason } = await peers.abortOpen(channelId);
      return { channelId, channelCanceled, reason };
    },

    async openChannelGiveup(request) {
      const channelId = readChannelId("channel_id", request.channelId);
      return { channelId, txid: flipTxid(await peers.giveUpOpen(channelId)) };
    },

    async devForgetChannel(request) {
      const channels = await select(request);
      const [channel, second] = channels;
      if (channel === undefined) {
        throw notFound("UNKNOWN_CHANNEL", "no such channel", { clnCode: UNKNOWN_CHANNEL });
      }
      if (second !== undefined) {
        throw invalidParams(
          "channel_id",
          "the peer has several channels: say which by channel_id or short_channel_id",
        );
      }
      const outputs = channel.attempts.map(({ txid, outputIndex }) => ({ txid, vout: outputIndex }));
      const unspent = await chain.confirmedUnspent(outputs);
      const id = channel.channelId ?? channel.temporaryChannelId;
      const { forced, fundingTxid } = await peers.forgetChannel({
        peerId: channel.peerId,
        force: request.force ?? false,
        ...given({ channelId: id }),
      });
      return {
        forced,
        fundingUnspent: unspent.includes(true),
        ...(fundingTxid === undefined ? {} : { fundingTxid: flipTxid(fundingTxid) }),
      };
    },
  };
}
