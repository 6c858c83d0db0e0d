/** The gRPC face: what connectd calls (arcus.subd.v1.Subd), and what people ask (arcus.channeld.v1.Channeld). */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Htlc } from "bolt/channel/types.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import {
  Channeld,
  type ListChannelsResponse_ChannelSchema,
  type ListHtlcsResponse_HtlcSchema,
} from "gen/arcus/channeld/v1/channeld_pb.ts";
import { subdFace, type SubdFaceOptions } from "subd/face.ts";
import type { Owner } from "./owner.ts";

/** Both services. */
export function faces(options: SubdFaceOptions<Owner>): ImplementedService[] {
  return [subdFace(options), channeldFace(options)];
}

function channeldFace({ owners }: SubdFaceOptions<Owner>): ImplementedService {
  return implement(Channeld, {
    listChannels: () => ({ channels: owners.all().map(channelOf) }),
    listHtlcs: ({ channel }) => ({
      htlcs: owners.all().filter((owner) => channel === 0n || owner.channel === channel)
        .flatMap((owner) => owner.htlcs.map((htlc) => htlcOf(owner, htlc)))
        .sort((a, b) => Number(a.htlc - b.htlc)),
    }),
  });
}

function channelOf(owner: Owner): MessageInitShape<typeof ListChannelsResponse_ChannelSchema> {
  const { level } = owner;
  return {
    channel: owner.channel,
    channelId: owner.channelId,
    peerId: owner.peerId,
    epoch: owner.epoch,
    version: owner.version,
    connected: owner.connected,
    reestablished: owner.reestablished,
    paused: owner.paused,
    state: owner.state,
    ...(level === null ? {} : {
      spendableMsat: level.spendable,
      receivableMsat: level.receivable,
      toUsMsat: level.toUs,
      feeratePerkw: level.feerate,
      htlcsOut: level.htlcsOut,
      htlcsIn: level.htlcsIn,
    }),
  };
}

function htlcOf(owner: Owner, htlc: Htlc) {
  return {
    channel: owner.channel,
    htlc: owner.rowKey(htlc),
    offered: htlc.offered,
    id: htlc.id,
    state: htlc.state,
    amountMsat: htlc.amount,
    paymentHash: htlc.paymentHash,
    cltvExpiry: htlc.cltvExpiry,
    origin: htlc.origin ?? 0n,
    removal: htlc.removal?.type ?? "",
  } satisfies MessageInitShape<typeof ListHtlcsResponse_HtlcSchema>;
}
