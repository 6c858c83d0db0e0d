/** The server side of the subds' Registry streams. */
import { requireEnum } from "common/grpc/check.ts";
import { invalidArgument } from "common/grpc/errors.ts";
import { implement, type ImplementedService } from "common/grpc/server.ts";
import type { Logger } from "common/log.ts";
import {
  type AssignResult,
  type ChannelChanged,
  type NodePolicySchema,
  type RegisterRequest,
  Registry,
  type Released,
  Released_ReasonSchema,
  type SubdHello,
  type Superseded,
} from "gen/arcus/subd/v1/subd_pb.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { NodeIdentity } from "../node.ts";
import type { Leader } from "../ports.ts";
import { checkHello, ourHello } from "./hello.ts";
import type { Live, Subd } from "./live.ts";
import type { SubdKind } from "./store.ts";

/** Node-wide policy as subds are told. */
export type Policy = MessageInitShape<typeof NodePolicySchema>;

/** Whom the messages concern. */
export interface RegistryEvents {
  /** The subd is welcomed; `hello.held` is all that it has. */
  subdUp(subd: Subd, hello: SubdHello): void;
  subdDown(subd: Subd): void;
  assignResult(subd: Subd, result: AssignResult): void;
  channelChanged(subd: Subd, changed: ChannelChanged): void;
  released(subd: Subd, released: Released): void;
  superseded(subd: Subd, superseded: Superseded): void;
}

/** Settings of {@link registryService}. */
export interface RegistryOptions {
  readonly live: Live;
  readonly node: NodeIdentity;
  readonly leader: Leader;
  readonly log: Logger;
  readonly policy: Policy;
  readonly events: RegistryEvents;
}

function kindOf(daemon: string): SubdKind {
  if (daemon === "dualopend" || daemon === "channeld" || daemon === "closingd") return daemon;
  throw invalidArgument("UNKNOWN_DAEMON", `no channels for a daemon named ${daemon}`);
}

/** arcus.subd.v1.Registry. */
export function registryService(options: RegistryOptions): ImplementedService {
  const { live, log, events } = options;
  return implement(Registry, {
    register: {
      open(stream) {
        let subd: Subd | undefined;
        let over = false;
        const end = (error?: unknown) => {
          over = true;
          stream.end(error);
        };
        const welcome = (hello: SubdHello): Subd => {
          const { instance, daemon } = checkHello(hello.hello, options.node);
          const mine: Subd = {
            instance,
            kind: kindOf(daemon),
            address: hello.grpcAddress,
            capacity: hello.capacity,
            send: (message) => void stream.write(message),
            end,
          };
          live.subds.get(instance)?.end();
          live.subds.set(instance, mine);
          mine.send({
            message: {
              case: "welcome",
              value: { hello: ourHello(options.node, options.leader), policy: options.policy },
            },
          });
          log.info({ subd: instance, kind: mine.kind, held: hello.held.length }, "subd said hello");
          return mine;
        };
        stream.onMessage(({ message }) => {
          if (over) return;
          try {
            if (subd !== undefined) return dispatch(events, subd, message);
            if (message.case !== "hello") {
              throw invalidArgument("NO_HELLO", "the first message must be a hello");
            }
            subd = welcome(message.value);
            events.subdUp(subd, message.value);
          } catch (error) {
            log.error({ err: error }, "a Registry stream is ended");
            end(error);
          }
        });
        stream.onEnd(() => {
          over = true;
          stream.end();
          if (subd === undefined || live.subds.get(subd.instance) !== subd) return;
          live.subds.delete(subd.instance);
          log.warn({ subd: subd.instance, kind: subd.kind }, "a subd's stream ended");
          events.subdDown(subd);
        });
      },
    },
  });
}

function dispatch(events: RegistryEvents, subd: Subd, message: RegisterRequest["message"]): void {
  switch (message.case) {
    case "hello":
      throw invalidArgument("SECOND_HELLO", "a second hello on one stream");
    case "assignResult":
      return events.assignResult(subd, message.value);
    case "channelChanged":
      return events.channelChanged(subd, message.value);
    case "released":
      requireEnum(Released_ReasonSchema, message.value.reason, "released.reason");
      return events.released(subd, message.value);
    case "superseded":
      return events.superseded(subd, message.value);
    case undefined:
      throw invalidArgument("UNSET_ONEOF", "a message that this build does not know");
  }
}
