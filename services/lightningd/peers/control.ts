/** The server side of connectd's Control streams: hello first, then each message in order to whom it concerns. */
import { requireEnum } from "common/grpc/check.ts";
import { invalidArgument } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import type { Logger } from "common/log.ts";
import {
  type AttachmentEnded,
  AttachmentEnded_ReasonSchema,
  type AttachmentStarted,
  type ConnectdHello,
  type ConnectRequest,
  type ConnectResult,
  Control,
  type DisconnectResult,
  type PeerConnected,
  type PeerDisconnected,
  type PeerSpoke,
  type PingResult,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import type { NodeIdentity } from "../node.ts";
import type { Leader } from "../ports.ts";
import { checkHello, ourHello } from "./hello.ts";
import type { Live, Replica } from "./live.ts";

/** Whom the messages concern. */
export interface ControlEvents {
  /** The replica is welcomed; these are all its peers and unanswered spokes. */
  replicaUp(replica: Replica, hello: ConnectdHello): void;
  replicaDown(replica: Replica): void;
  peerConnected(replica: Replica, peer: PeerConnected): void;
  peerDisconnected(replica: Replica, peer: PeerDisconnected): void;
  peerSpoke(replica: Replica, spoke: PeerSpoke): void;
  attachmentStarted(attachment: AttachmentStarted): void;
  attachmentEnded(attachment: AttachmentEnded): void;
  connectResult(result: ConnectResult): void;
  disconnectResult(result: DisconnectResult): void;
  pingResult(result: PingResult): void;
}

/** Settings of {@link controlService}. */
export interface ControlOptions {
  readonly live: Live;
  readonly node: NodeIdentity;
  readonly leader: Leader;
  readonly log: Logger;
  /** Features for our init. */
  readonly features: Uint8Array;
  /** Peers that this connectd shall keep connected; part of the welcome. */
  readonly important: (
    instance: string,
  ) => Promise<readonly { readonly peerId: Uint8Array; readonly addresses: readonly string[] }[]>;
  readonly events: ControlEvents;
}

/** arcus.connectd.v1.Control. */
export function controlService(options: ControlOptions): ImplementedService {
  const { live, log, events } = options;
  return implement(Control, {
    connect: {
      open(stream) {
        let replica: Replica | undefined;
        let over = false;
        const end = (error?: unknown) => {
          over = true;
          stream.end(error);
        };
        const welcome = async (hello: ConnectdHello) => {
          const { instance } = checkHello(hello.hello, options.node);
          const mine: Replica = {
            instance,
            grpcAddress: hello.grpcAddress,
            bindings: hello.bindings,
            send: (message) => void stream.write(message),
            end,
          };
          const important = await options.important(instance);
          if (over) return;
          // The same instance on a second stream: the first one is dead, only not noticed yet.
          live.replicas.get(instance)?.end();
          live.replicas.set(instance, mine);
          replica = mine;
          mine.send({
            message: {
              case: "welcome",
              value: {
                hello: ourHello(options.node, options.leader),
                features: options.features,
                important: important.map((peer) => ({
                  peerId: peer.peerId,
                  addresses: [...peer.addresses],
                  important: true,
                })),
              },
            },
          });
          log.info({ connectd: instance, peers: hello.peers.length }, "connectd said hello");
          events.replicaUp(mine, hello);
        };
        stream.onMessage(({ message }) => {
          if (over) return;
          try {
            if (replica === undefined) {
              if (message.case !== "hello") {
                throw invalidArgument("NO_HELLO", "the first message must be a hello");
              }
              // Nothing else is said before the welcome.
              stream.pause();
              welcome(message.value).then(() => stream.resume(), end);
              return;
            }
            dispatch(events, replica, message);
          } catch (error) {
            log.error({ err: error }, "a Control stream is ended");
            end(error);
          }
        });
        stream.onEnd(() => {
          over = true;
          stream.end();
          if (replica === undefined || live.replicas.get(replica.instance) !== replica) return;
          live.replicas.delete(replica.instance);
          log.warn({ connectd: replica.instance }, "connectd's stream ended");
          events.replicaDown(replica);
        });
      },
    },
  });
}

type Message = ConnectRequest["message"];

function dispatch(events: ControlEvents, replica: Replica, message: Message): void {
  switch (message.case) {
    case "hello":
      throw invalidArgument("SECOND_HELLO", "a second hello on one stream");
    case "peerConnected":
      return events.peerConnected(replica, message.value);
    case "peerReconnected": {
      const { peer } = message.value;
      if (peer === undefined) throw invalidArgument("MISSING_FIELD", "peer_reconnected: peer is missing");
      // Taking the new connection ends the old one, whichever it was.
      return events.peerConnected(replica, peer);
    }
    case "peerDisconnected":
      return events.peerDisconnected(replica, message.value);
    case "peerSpoke":
      return events.peerSpoke(replica, message.value);
    case "attachmentStarted":
      return events.attachmentStarted(message.value);
    case "attachmentEnded":
      requireEnum(AttachmentEnded_ReasonSchema, message.value.reason, "attachment_ended.reason");
      return events.attachmentEnded(message.value);
    case "connectResult":
      return events.connectResult(message.value);
    case "disconnectResult":
      return events.disconnectResult(message.value);
    case "pingResult":
      return events.pingResult(message.value);
    case undefined:
      throw invalidArgument("UNSET_ONEOF", "a message that this build does not know");
  }
}
