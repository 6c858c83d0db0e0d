/** arcus.subd.v1.Subd, the same for every subd: connectd's streams find their owners by token. */
import { sameBytes } from "bolt/tx/transaction.ts";
import { requireCase } from "common/grpc/check.ts";
import { failedPrecondition, invalidArgument, permissionDenied } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import type { Logger } from "common/log.ts";
import { type AttachHello, Subd } from "gen/arcus/subd/v1/subd_pb.ts";
import { Attachment, type AttachStream } from "./attachment.ts";
import type { SubdOwner } from "./owner.ts";
import type { Owners } from "./owners.ts";

/** What the face needs. */
export interface SubdFaceOptions<O extends SubdOwner> {
  readonly owners: Owners<O>;
  readonly instance: string;
  readonly log: Logger;
}

/** Only the token, generation and epoch that lightningd told. */
function accept<O extends SubdOwner>(
  options: SubdFaceOptions<O>,
  stream: AttachStream,
  hello: AttachHello,
): [O, Attachment] {
  const { owners, instance } = options;
  const owner = owners.findByToken(hello.token);
  if (owner === undefined || !sameBytes(hello.peerId, owner.peerId)) {
    throw permissionDenied("WRONG_TOKEN", "no channel of this replica has this token");
  }
  if (hello.epoch !== owner.epoch) throw failedPrecondition("EPOCH_STALE", `this owner has ${owner.epoch}`);
  if (hello.generation !== owner.generation) {
    throw failedPrecondition("GENERATION_STALE", `this owner was told ${owner.generation}`);
  }
  const attachment = new Attachment(stream, hello);
  attachment.attached(instance, owner.epoch);
  owner.attach(attachment);
  return [owner, attachment];
}

/** The service. */
export function subdFace<O extends SubdOwner>(options: SubdFaceOptions<O>): ImplementedService {
  return implement(Subd, {
    attach: {
      open(stream) {
        let held: [O, Attachment] | undefined;
        stream.onMessage((request) => {
          try {
            const message = requireCase(request.message, "message");
            if (held === undefined) {
              if (message.case !== "attach") {
                throw invalidArgument("NO_HELLO", "the first message must be attach");
              }
              held = accept(options, stream, message.value);
              return;
            }
            const [owner, attachment] = held;
            switch (message.case) {
              case "attach":
                throw invalidArgument("SECOND_HELLO", "attach is the first message only");
              case "frame": {
                const { inSeq, data } = message.value;
                if (!attachment.inOrder(inSeq)) throw invalidArgument("FRAME_GAP", `frame ${inSeq}`);
                return owner.frame(attachment, inSeq, data);
              }
              case "written":
                return;
              case "peerGone":
                return owner.gone(attachment);
            }
          } catch (error) {
            options.log.warn({ err: error }, "an attachment is refused");
            stream.end(error);
            held?.[0].gone(held[1]);
          }
        });
        stream.onEnd(() => {
          held?.[0].gone(held[1]);
          if (held === undefined || held[1].over) stream.end();
        });
      },
    },
    listHeld: () => ({ instance: options.instance, channels: options.owners.held() }),
  });
}
