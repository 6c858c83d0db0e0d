/** Closing channels, and those that are closed. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { fromBinary } from "@bufbuild/protobuf";
import { Transaction } from "bitcoinjs-lib";
import { parseFeeStep } from "bolt/closing/fees.ts";
import { isStandardShutdownScript } from "bolt/tx/scripts.ts";
import { sameBytes, txidOf } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import { Features, isNegotiated, nodeFeatures } from "bolt/wire/features.ts";
import { formatShortChannelId, packShortChannelId, parseShortChannelId } from "bolt/wire/short_channel_id.ts";
import { notFound } from "common/grpc/errors.ts";
import { hexToBytes } from "@noble/hashes/utils.js";
import { ChannelParamsSchema, CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";
import {
  CloseResponse_CloseType as CloseType,
  ListclosedchannelsClosedchannels_ListclosedchannelsClosedchannelsCloseCause as CloseCause,
  type ListclosedchannelsClosedchannelsSchema,
} from "gen/cln/node_pb.ts";
import { ChannelSide, type Feerate } from "gen/cln/primitives_pb.ts";
import type { ClosedRow } from "../closing/store.ts";
import type { ChannelInfo } from "../ports.ts";
import { scriptOf } from "../wallet/address.ts";
import { chooseFeerate } from "../wallet/feerate.ts";
import type { Handlers } from "./handlers.ts";
import type { ApiParts } from "./parts.ts";
import { invalidParams } from "./refusals.ts";
import {
  aliasText,
  flipTxid,
  given,
  readFeerate,
  readNodeId,
  scidOf,
  toAmount,
  toChannelType,
} from "./values.ts";

/** CLN: two days. */
const DEFAULT_TIMEOUT_S = 172_800;
/** CLN: a channel id that is not known. */
const UNKNOWN_CHANNEL = 311;
const NODE_ID_HEX = 66;
const CHANNEL_ID_HEX = 64;
/** States without a signature of ours that the peer could use: the open is given up. */
const UNOPENED: readonly string[] = ["DUALOPEND_OPEN_INIT", "DUALOPEND_OPEN_COMMIT_READY"];
/** Closed by both, or nothing to close any more. */
const OVER: readonly string[] = ["ONCHAIN", "FUNDING_SPEND_SEEN", "CLOSED"];

/** The channels that `id` may mean: all of a peer, or the one with that channel id, short channel id or alias. */
function named(channels: readonly ChannelInfo[], id: string): readonly ChannelInfo[] {
  if (/^[0-9a-f]+$/i.test(id)) {
    const bytes = id.length === NODE_ID_HEX || id.length === CHANNEL_ID_HEX ? hexToBytes(id) : undefined;
    if (bytes === undefined) throw invalidParams("id", "should be a node id or a channel id");
    if (id.length === NODE_ID_HEX) return channels.filter(({ peerId }) => sameBytes(peerId, bytes));
    return channels.filter(({ channelId, temporaryChannelId }) =>
      [channelId, temporaryChannelId].some((each) => each !== undefined && sameBytes(each, bytes))
    );
  }
  const scid = parseShortChannelId(id);
  if (scid === undefined) {
    throw invalidParams("id", "should be a node id, a channel id or a short channel id");
  }
  return channels.filter((channel) =>
    scidOf(channel) === formatShortChannelId(scid) || channel.localAlias === scid ||
    channel.remoteAlias === scid
  );
}

/** The commands about the end of channels. */
export function closingCommands(parts: ApiParts): Handlers<"close" | "listClosedChannels"> {
  const { peers, chain, network } = parts;

  const select = async (id: string): Promise<ChannelInfo> => {
    const found = named(await peers.listPeerChannels(), id).filter(({ state }) => !OVER.includes(state));
    const [channel, another] = found;
    if (channel === undefined) {
      throw notFound("UNKNOWN_CHANNEL", "no channel that can be closed has this id", {
        clnCode: UNKNOWN_CHANNEL,
      });
    }
    if (another !== undefined) {
      throw invalidParams("id", "the peer has several channels: name one by its channel id");
    }
    return channel;
  };

  const readRange = async (range: readonly Feerate[]): Promise<{ min: number; max: number } | null> => {
    if (range.length === 0) return null;
    const [low, high] = range.map((rate) => readFeerate("feerange", rate));
    if (range.length !== 2 || low === undefined || high === undefined) {
      throw invalidParams("feerange", "should be the least and the greatest fee rate");
    }
    const rates = await chain.feerates();
    const [min, max] = [chooseFeerate(low, rates), chooseFeerate(high, rates)];
    if (min > max) throw invalidParams("feerange", "the least is above the greatest");
    return { min, max };
  };

  const readDestination = (channel: ChannelInfo, destination: string | undefined): Uint8Array | null => {
    if (destination === undefined) return null;
    const script = scriptOf(destination, network);
    const [ours, theirs] = [
      nodeFeatures(),
      Features.parse(channel.params?.remote?.features ?? new Uint8Array()),
    ];
    const both = (name: Parameters<typeof isNegotiated>[2]) =>
      theirs.ok && isNegotiated(ours, theirs.value, name);
    const forms = { anysegwit: both("option_shutdown_anysegwit"), simpleClose: both("option_simple_close") };
    if (!isStandardShutdownScript(script, forms)) {
      throw invalidParams("destination", "the peer does not take an address of this kind");
    }
    const upfront = channel.params?.local?.upfrontShutdownScript;
    const fixed = channel.shutdownSent ?? (upfront?.length ? upfront : undefined);
    if (fixed !== undefined && !sameBytes(fixed, script)) {
      throw invalidParams("destination", "another address was fixed for this channel");
    }
    return script;
  };

  return {
    async close(request) {
      if (request.wrongFunding !== undefined) {
        throw invalidParams("wrong_funding", "wrong_funding feature not negotiated");
      }
      const feeStep = request.feeNegotiationStep ?? "50%";
      if (parseFeeStep(feeStep) === undefined) {
        throw invalidParams("fee_negotiation_step", "should be 1% to 100%, or an amount in satoshi");
      }
      const channel = await select(request.id);
      const rates = await readRange(request.feerange);
      const script = readDestination(channel, request.destination);
      if (channel.channel === undefined || UNOPENED.includes(channel.state)) {
        const id = channel.channelId ?? channel.temporaryChannelId;
        if (id === undefined) {
          throw notFound("UNKNOWN_CHANNEL", "the open has no id yet", { clnCode: UNKNOWN_CHANNEL });
        }
        await peers.abortOpen(id);
        return { itemType: CloseType.UNOPENED };
      }
      const seconds = request.unilateraltimeout ?? DEFAULT_TIMEOUT_S;
      const { type, txs } = await peers.closeChannel({
        channel: channel.channel,
        script,
        rates,
        feeStep,
        timeout: seconds === 0 ? null : seconds,
      });
      return {
        itemType: type === "mutual" ? CloseType.MUTUAL : CloseType.UNILATERAL,
        txs: [...txs],
        txids: txs.map((tx) => flipTxid(txidOf(Transaction.fromBuffer(tx)))),
      };
    },

    async listClosedChannels(request) {
      const peer = request.id === undefined ? undefined : readNodeId("id", request.id);
      return { closedchannels: (await peers.listClosedChannels(peer)).map(toClosed) };
    },
  };
}

function causeOf(row: ClosedRow): { readonly closer: ChannelSide; readonly cause: CloseCause } {
  if (row.requested) return { closer: ChannelSide.LOCAL, cause: CloseCause.USER };
  if (row.error_text !== null) return { closer: ChannelSide.LOCAL, cause: CloseCause.PROTOCOL };
  return { closer: ChannelSide.REMOTE, cause: row.by_peer ? CloseCause.REMOTE : CloseCause.ONCHAIN };
}

function toClosed(row: ClosedRow): MessageInitShape<typeof ListclosedchannelsClosedchannelsSchema> {
  const params = fromBinary(ChannelParamsSchema, Uint8Array.from(row.params));
  const [last] = row.commitments === null
    ? []
    : fromBinary(CommitmentsSchema, Uint8Array.from(row.commitments)).active;
  const toUs = { msat: last?.local?.toLocalMsat ?? last?.toLocalMsat ?? row.local_contribution_sat * 1000n };
  const { closer, cause } = causeOf(row);
  const alias = given({
    local: aliasText(row.local_alias),
    remote: row.remote_alias === null ? undefined : aliasText(row.remote_alias),
  });
  return {
    peerId: Uint8Array.from(row.peer_id),
    channelId: Uint8Array.from(row.channel_id),
    ...(row.height === null || row.tx_index === null ? {} : {
      shortChannelId: formatShortChannelId(
        packShortChannelId({ block: row.height, tx: row.tx_index, output: row.output_index }),
      ),
    }),
    alias,
    opener: row.opener === "local" ? ChannelSide.LOCAL : ChannelSide.REMOTE,
    closer,
    // Channels are not announced yet.
    private: true,
    ...toChannelType(params.channelType),
    totalLocalCommitments: (last?.local?.number ?? last?.localNumber ?? 0n) + 1n,
    totalRemoteCommitments: (last?.remote?.number ?? last?.remoteNumber ?? 0n) + 1n,
    totalHtlcsSent: row.htlcs_sent,
    fundingTxid: flipTxid(Uint8Array.from(row.funding_txid)),
    fundingOutnum: row.output_index,
    totalMsat: toAmount(sat(row.capacity_sat)),
    finalToUsMsat: toUs,
    minToUsMsat: toUs,
    maxToUsMsat: toUs,
    lastCommitmentTxid: flipTxid(Uint8Array.from(row.end_txid)),
    ...(row.fee_sat === null ? {} : { lastCommitmentFeeMsat: toAmount(sat(row.fee_sat)) }),
    closeCause: cause,
  };
}
