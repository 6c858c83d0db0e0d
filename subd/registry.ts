/**
 * The stream to lightningd: hello with everything that is held at every (re)start, then assignments. While lightningd is
 * away everything is kept as it is. Only the highest leader epoch ever seen is obeyed.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { sameBytes } from "bolt/tx/transaction.ts";
import { type Channel, openBidi } from "common/grpc/client.ts";
import { requireBytes, requireCase, requireField } from "common/grpc/check.ts";
import type { ArcusError } from "common/grpc/errors.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { VERSION } from "common/lifecycle.ts";
import type { Logger } from "common/log.ts";
import {
  type Assign,
  type RegisterRequestSchema,
  type RegisterResponse,
  Registry as RegistryService,
  type Released_Reason,
  type SubdWelcome,
} from "gen/arcus/subd/v1/subd_pb.ts";
import type { Hello, HelloSchema } from "gen/arcus/types/v1/types_pb.ts";
import type { NodeRow } from "./fence.ts";
import type { Assigned, Ended, SubdOwner } from "./owner.ts";
import type { NodeFacts, Owners } from "./owners.ts";

/** Version of the contracts that this build speaks. */
export const CONTRACT_VERSION = 1;
/** Between two attempts to reach lightningd. */
const RETRY_MS = 200;
const TOKEN_LENGTH = 32;
const NODE_ID_LENGTH = 33;
const ID_LENGTH = 32;

type Stream = BidiStream<RegisterResponse, MessageInitShape<typeof RegisterRequestSchema>>;

/** What the registry client needs. */
export interface RegistryOptions {
  /** "dualopend", "channeld". */
  readonly daemon: string;
  readonly channel: Channel;
  readonly log: Logger;
  readonly instance: string;
  /** Channels that this replica takes; 0: no limit of its own. */
  readonly capacity: number;
  /** Feature bits that the node offers. */
  readonly features: Uint8Array;
  /** What this process was started for; compared with lightningd's. */
  readonly chainHash: Uint8Array;
  loadNode(): Promise<NodeRow | undefined>;
  /** Another node's database or lightningd: the process must end. */
  onStranger(detail: string): void;
  /** lightningd is the one to obey, until the next welcome. */
  onWelcome(node: NodeFacts): void;
  timer(ms: number, callback: () => void): () => void;
}

function readAssign(assign: Assign): Assigned {
  return {
    channel: assign.channel,
    opening: assign.opening,
    epoch: assign.epoch,
    peerId: requireBytes(assign.peerId, NODE_ID_LENGTH, "peer_id"),
    generation: assign.generation,
    channelId: requireBytes(assign.channelId, ID_LENGTH, "channel_id"),
    token: assign.token.length === 0 ? assign.token : requireBytes(assign.token, TOKEN_LENGTH, "token"),
    peerFeatures: assign.peerFeatures,
    height: assign.height,
    shutdownScript: assign.shutdownScript,
  };
}

/** The client of lightningd's Registry. */
export class RegistryClient<O extends SubdOwner> {
  #owners: Owners<O> | null = null;
  /** Where others reach this replica. */
  #address = "";
  #stream: Stream | null = null;
  #node: NodeFacts | null = null;
  #databaseId: Uint8Array = new Uint8Array();
  #leaderEpoch = 0n;
  #stopped = false;
  #cancelRetry: (() => void) | null = null;

  constructor(private readonly options: RegistryOptions) {}

  /** Whether lightningd welcomed this replica, and the stream stands. */
  get registered(): boolean {
    return this.#stream !== null && this.#node !== null;
  }

  /** Connects, and again whenever the stream breaks. */
  start(owners: Owners<O>, address: string): void {
    this.#owners = owners;
    this.#address = address;
    this.#connect();
  }

  /** Says no more. */
  stop(): void {
    this.#stopped = true;
    this.#cancelRetry?.();
    this.#stream?.end();
    this.#stream = null;
  }

  /** A store changed what lightningd should look at; `opening`: the one that became this channel, else 0. */
  changed(owner: O, opening: bigint): void {
    const held = owner.held();
    if (held === undefined) return;
    const { channel, epoch, version } = held;
    this.#write({ message: { case: "channelChanged", value: { channel, opening, epoch, version } } });
  }

  /** The owner let go. */
  ended(owner: O, how: Ended): void {
    if (how.type === "released") return this.released(owner, owner.knownOpening, how.reason, how.detail);
    const { channel, knownOpening: opening, epoch } = owner;
    this.#write({ message: { case: "superseded", value: { channel, opening, epoch, detail: how.detail } } });
  }

  /** Something of the owner's is given back. */
  released(owner: O, opening: bigint, reason: Released_Reason, detail: string): void {
    const { channel, epoch } = owner;
    this.#write({ message: { case: "released", value: { channel, opening, epoch, reason, detail } } });
  }

  #write(message: MessageInitShape<typeof RegisterRequestSchema>): void {
    this.#stream?.write(message);
  }

  #connect(): void {
    if (this.#stopped) return;
    const { channel, log } = this.options;
    const stream: Stream = openBidi(channel, RegistryService.method.register, { waitForReady: true });
    this.#stream = stream;
    /** Only after the welcome is checked. */
    const welcomed = Promise.withResolvers<NodeFacts>();
    welcomed.promise.catch(() => {});
    stream.onMessage((response) => {
      this.#received(stream, response, welcomed).catch((error) => {
        log.error({ err: error }, "lightningd said what this build does not take");
        stream.cancel();
      });
    });
    stream.onEnd((error) => {
      welcomed.reject(new Error("the stream ended before the welcome"));
      this.#lost(stream, error);
    });
    stream.write(this.#register());
  }

  #lost(stream: Stream, error: ArcusError | undefined): void {
    if (this.#stream !== stream) return;
    this.#stream = null;
    if (this.#stopped) return;
    this.options.log.warn({ reason: error?.reason }, "lightningd is away; everything held is kept");
    this.#cancelRetry = this.options.timer(RETRY_MS, () => this.#connect());
  }

  /** Who this replica is, for the first message of a stream. */
  hello(): MessageInitShape<typeof HelloSchema> {
    const { daemon, instance, chainHash } = this.options;
    return {
      daemon,
      build: VERSION,
      contractVersion: CONTRACT_VERSION,
      instance,
      nodeId: this.#node?.nodeId ?? new Uint8Array(),
      chainHash,
      databaseId: this.#databaseId,
      leaderEpoch: 0n,
    };
  }

  /** Whether a hello on another stream is of the lightningd that is obeyed. */
  obeys(hello: Hello): boolean {
    return this.#node !== null && hello.leaderEpoch >= this.#leaderEpoch &&
      sameBytes(hello.databaseId, this.#databaseId);
  }

  #register(): MessageInitShape<typeof RegisterRequestSchema> {
    return {
      message: {
        case: "hello",
        value: {
          hello: this.hello(),
          grpcAddress: this.#address,
          held: this.#owners?.held() ?? [],
          capacity: this.options.capacity,
        },
      },
    };
  }

  async #received(
    stream: Stream,
    response: RegisterResponse,
    welcomed: PromiseWithResolvers<NodeFacts>,
  ): Promise<void> {
    const message = requireCase(response.message, "message");
    if (message.case === "welcome") {
      const node = await this.#welcome(message.value);
      if (node === undefined) return stream.cancel();
      welcomed.resolve(node);
      return this.options.onWelcome(node);
    }
    const node = await welcomed.promise.catch(() => undefined);
    const owners = this.#owners;
    // A stream that is over, or whose leader was followed by another one, says nothing that counts.
    if (node === undefined || owners === null || this.#stream !== stream) return;
    switch (message.case) {
      case "assign": {
        const { assignId } = message.value;
        const error = await owners.assign(readAssign(message.value), node);
        stream.write({ message: { case: "assignResult", value: { assignId, error } } });
        return;
      }
      case "withdraw":
        return owners.withdraw(message.value);
      case "lookAgain":
        return owners.lookAgain(message.value.channel, message.value.height);
    }
  }

  /** Compares who lightningd is with who we are. Undefined: not to be obeyed. */
  async #welcome(welcome: SubdWelcome): Promise<NodeFacts | undefined> {
    const hello = requireField(welcome.hello, "hello");
    requireField(welcome.policy, "policy");
    if (hello.leaderEpoch < this.#leaderEpoch) {
      this.options.log.warn({ leader: hello.leaderEpoch }, "an older lightningd is not obeyed");
      return undefined;
    }
    const row = await this.options.loadNode();
    if (row === undefined) throw new Error("the database has no node row yet");
    const same = sameBytes(hello.nodeId, row.nodeId) && sameBytes(hello.databaseId, row.databaseId) &&
      sameBytes(hello.chainHash, row.chainHash) && sameBytes(row.chainHash, this.options.chainHash);
    if (!same) {
      this.options.onStranger(`lightningd is of node ${bytesToHex(hello.nodeId)}, or on another chain`);
      return undefined;
    }
    this.#leaderEpoch = hello.leaderEpoch;
    this.#databaseId = row.databaseId;
    this.#node = {
      nodeId: row.nodeId,
      chainHash: row.chainHash,
      features: this.options.features,
      welcome,
    };
    return this.#node;
  }
}
