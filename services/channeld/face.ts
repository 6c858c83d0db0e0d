/** The gRPC face: what connectd calls (arcus.subd.v1.Subd), and what people ask (arcus.channeld.v1.Channeld). */
import { implement, type ImplementedService } from "common/grpc/server.ts";
import { Channeld } from "gen/arcus/channeld/v1/channeld_pb.ts";
import { subdFace, type SubdFaceOptions } from "subd/face.ts";
import type { Owner } from "./owner.ts";

/** Both services. */
export function faces(options: SubdFaceOptions<Owner>): ImplementedService[] {
  return [subdFace(options), channeldFace(options)];
}

function channeldFace({ owners }: SubdFaceOptions<Owner>): ImplementedService {
  return implement(Channeld, {
    listChannels: () => ({
      channels: owners.all().map((owner) => ({
        channel: owner.channel,
        channelId: owner.channelId,
        peerId: owner.peerId,
        epoch: owner.epoch,
        version: owner.version,
        connected: owner.connected,
        reestablished: owner.reestablished,
        paused: owner.paused,
      })),
    }),
  });
}
