/** The gRPC face: what connectd calls (arcus.subd.v1.Subd), and what people ask (arcus.closingd.v1.Closingd). */
import { implement, type ImplementedService } from "common/grpc/server.ts";
import { Closingd } from "gen/arcus/closingd/v1/closingd_pb.ts";
import { subdFace, type SubdFaceOptions } from "subd/face.ts";
import type { Owner } from "./owner.ts";

/** Both services. */
export function faces(options: SubdFaceOptions<Owner>): ImplementedService[] {
  return [subdFace(options), closingdFace(options)];
}

function closingdFace({ owners }: SubdFaceOptions<Owner>): ImplementedService {
  return implement(Closingd, {
    listClosings: () => ({
      channels: owners.all().map((owner) => ({
        channel: owner.channel,
        channelId: owner.channelId,
        peerId: owner.peerId,
        epoch: owner.epoch,
        version: owner.version,
        connected: owner.connected,
        reestablished: owner.reestablished,
        ...owner.progress(),
      })),
    }),
  });
}
