/** A connectd on real sockets, and stand-ins for the daemons around it: lightningd's Control, subds, hsmd's ECDH. */
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { type Channel, client, dial, type ServiceClient } from "common/grpc/client.ts";
import { unavailable } from "common/grpc/errors.ts";
import { type ArcusServer, createServer, implement } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger, type Logger } from "common/log.ts";
import { waitFor } from "common/testing/wait.ts";
import {
  Connectd,
  type ConnectRequestSchema,
  type ConnectResponseSchema,
  Control,
  type PeerConnected,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import {
  type AttachHello,
  type AttachRequestSchema,
  type AttachResponseSchema,
  Subd,
} from "gen/arcus/subd/v1/subd_pb.ts";
import type { Limits } from "../../services/connectd/limits.ts";
import { type RunningConnectd, start } from "../../services/connectd/start.ts";
import { randomSecret } from "../lib/raw_peer.ts";

/** Every event of these tests comes within a fraction of this. */
export const DEADLINE_MS = 10_000;
/** Regtest's, or any: both sides of a test have the same. */
export const CHAIN_HASH = new Uint8Array(32).fill(6);

type Event = MessageShape<typeof ConnectRequestSchema>["message"];
type EventCase = Exclude<Event["case"], undefined>;
type EventOf<C extends EventCase> = Extract<Event, { case: C }>["value"];
type Command = Exclude<MessageInitShape<typeof ConnectResponseSchema>["message"], undefined>;
type ControlStream = BidiStream<
  MessageShape<typeof ConnectRequestSchema>,
  MessageInitShape<typeof ConnectResponseSchema>
>;
type AttachStream = BidiStream<
  MessageShape<typeof AttachRequestSchema>,
  MessageInitShape<typeof AttachResponseSchema>
>;
type SubdSays = Exclude<MessageInitShape<typeof AttachResponseSchema>["message"], undefined>;

/** Items that come, and whoever waits for one. */
export class Inbox<T> {
  readonly items: T[] = [];

  push(item: T): void {
    this.items.push(item);
  }

  /** Takes the first item that matches; the others stay. */
  take<U extends T>(what: string, matches: (item: T) => item is U): Promise<U>;
  take(what: string, matches: (item: T) => boolean): Promise<T>;
  take(what: string, matches: (item: T) => boolean): Promise<T> {
    return waitFor(() => {
      const index = this.items.findIndex(matches);
      if (index < 0) return undefined;
      return this.items.splice(index, 1);
    }, { what, deadline: DEADLINE_MS }).then(([item]) => item as T);
  }
}

/** Answers connectd's hello, keeps what it says, and gives commands when a test says so. */
export class FakeLightningd {
  readonly events = new Inbox<Event>();
  /** Every hello, oldest first. */
  readonly hellos: EventOf<"hello">[] = [];
  leaderEpoch = 1n;
  /** Whether peers are accepted as they come. */
  accepting = true;
  important: { peerId: Uint8Array; addresses: string[]; important: boolean }[] = [];
  /** False: Control answers UNAVAILABLE, as if nobody were there. */
  present = true;
  #stream: ControlStream | undefined;
  #generation = 0n;

  constructor(readonly nodeId: Uint8Array) {}

  service() {
    return implement(Control, {
      connect: { open: (stream: ControlStream) => this.#open(stream) },
    });
  }

  /** Whether connectd is there. */
  get connected(): boolean {
    return this.#stream !== undefined;
  }

  /** A command. */
  say(message: Command): void {
    if (this.#stream === undefined) throw new Error("connectd is not there");
    this.#stream.write({ message });
  }

  /** A command without content, as one of a newer build looks here. */
  sayNothing(): void {
    this.#stream?.write({});
  }

  /** The next event of a kind that matches. */
  async event<C extends EventCase>(
    kind: C,
    matches: (value: EventOf<C>) => boolean = () => true,
  ): Promise<EventOf<C>> {
    // Extract on a generic key is beyond inference; the case was compared.
    const is = (event: Event) => event.case === kind && matches(event.value as EventOf<C>);
    const found = await this.events.take(`${kind} from connectd`, is);
    return found.value as EventOf<C>;
  }

  /** The stream breaks, as when lightningd is killed. */
  die(): void {
    this.present = false;
    this.#stream?.cancel();
    this.#stream = undefined;
  }

  accept(peer: PeerConnected): bigint {
    const generation = ++this.#generation;
    this.say({
      case: "peerAccepted",
      value: { peerId: peer.peerId, connection: peer.connection, generation },
    });
    return generation;
  }

  #open(stream: ControlStream): void {
    if (!this.present) return stream.end(unavailable("AWAY", "nobody is here"));
    this.#stream = stream;
    stream.onMessage(({ message }) => this.#received(stream, message));
    stream.onEnd(() => {
      if (this.#stream === stream) this.#stream = undefined;
      stream.end();
    });
  }

  #received(stream: ControlStream, message: Event): void {
    if (message.case === "hello") {
      this.hellos.push(message.value);
      stream.write({
        message: {
          case: "welcome",
          value: {
            hello: {
              daemon: "lightningd",
              build: "test",
              contractVersion: 1,
              instance: "test",
              nodeId: this.nodeId,
              chainHash: CHAIN_HASH,
              databaseId: new Uint8Array(16).fill(1),
              leaderEpoch: this.leaderEpoch,
            },
            features: nodeFeatures().toBytes(),
            important: this.important,
          },
        },
      });
    }
    this.events.push(message);
    if (!this.accepting) return;
    const peer = message.case === "peerConnected"
      ? message.value
      : message.case === "peerReconnected"
      ? message.value.peer
      : undefined;
    if (peer !== undefined) this.accept(peer);
  }
}

/** One stream that connectd opened to a subd. */
export class FakeAttachment {
  readonly said = new Inbox<MessageShape<typeof AttachRequestSchema>["message"]>();
  ended = false;

  constructor(readonly hello: AttachHello, readonly stream: AttachStream) {}

  say(message: SubdSays): void {
    this.stream.write({ message });
  }

  /** Frames to the peer. */
  send(firstOutSeq: bigint, data: Uint8Array[], contiguous = false): void {
    this.say({ case: "frames", value: { firstOutSeq, data, contiguous } });
  }

  taken(inSeq: bigint): void {
    this.say({ case: "taken", value: { inSeq } });
  }

  durable(inSeq: bigint): void {
    this.say({ case: "durable", value: { inSeq } });
  }

  /** The frame with this number. */
  async frame(inSeq: bigint) {
    const found = await this.said.take(
      `frame ${inSeq} of ${bytesToHex(this.hello.channelId)}`,
      (message) => message.case === "frame" && message.value.inSeq === inSeq,
    );
    if (found.case !== "frame") throw new Error("not a frame");
    return found.value;
  }

  /** Waits until connectd says that it wrote this far. */
  async written(outSeq: bigint): Promise<void> {
    await this.said.take(
      `written ${outSeq}`,
      (message) => message.case === "written" && message.value.outSeq >= outSeq,
    );
  }

  async peerGone(): Promise<void> {
    await this.said.take("peer_gone", (message) => message.case === "peerGone");
  }

  /** Waits for the end of the stream. */
  async over(): Promise<void> {
    await waitFor(() => this.ended, { what: "the end of an attachment", deadline: DEADLINE_MS });
  }
}

/** Accepts attachments and keeps their frames; takes nothing by itself. */
export class FakeSubd {
  readonly attachments = new Inbox<FakeAttachment>();
  /** Whether attachments are accepted at once. */
  accepting = true;
  /** Whether streams end by themselves once the peer is gone. */
  endsWithPeer = true;
  address = "";

  service() {
    return implement(Subd, { attach: { open: (stream: AttachStream) => this.#open(stream) } });
  }

  /** The next stream for a channel, or for any. */
  attachment(channelId?: Uint8Array): Promise<FakeAttachment> {
    const hex = channelId === undefined ? undefined : bytesToHex(channelId);
    return this.attachments.take(
      "an attachment",
      ({ hello }) => hex === undefined || bytesToHex(hello.channelId) === hex,
    );
  }

  #open(stream: AttachStream): void {
    let attachment: FakeAttachment | undefined;
    stream.onMessage(({ message }) => {
      if (message.case !== "attach") {
        attachment?.said.push(message);
        if (message.case === "peerGone" && this.endsWithPeer) stream.end();
        return;
      }
      attachment = new FakeAttachment(message.value, stream);
      if (this.accepting) {
        attachment.say({ case: "attached", value: { subdInstance: "subd", epoch: message.value.epoch } });
      }
      this.attachments.push(attachment);
    });
    stream.onEnd((error) => {
      if (attachment !== undefined) attachment.ended = true;
      if (error === undefined) stream.end();
    });
  }
}

/** One node's worth of stand-ins around a real connectd. */
export class TestNode {
  readonly lightningd: FakeLightningd;
  readonly subd = new FakeSubd();
  readonly log: string[];
  connectd!: RunningConnectd;
  face!: ServiceClient<typeof Connectd>;
  /** Whether hsmd answers the ECDH. */
  hsmdPresent = true;
  /** Whether its answers are cut short. */
  shortSecrets = false;
  readonly nodeId: Uint8Array;
  #servers: ArcusServer[] = [];
  #faceChannel!: Channel;

  private constructor(secret: Uint8Array, log: string[]) {
    this.nodeId = ecc().pointFromSecret(secret);
    this.lightningd = new FakeLightningd(this.nodeId);
    this.log = log;
  }

  /** Starts everything and waits for the first welcome. */
  static async start(options: TestNodeOptions = {}): Promise<TestNode> {
    const secret = options.secret ?? randomSecret();
    const lines: string[] = [];
    const log = options.log ?? createLogger({ level: "debug", sink: (line) => lines.push(line) });
    const node = new TestNode(secret, lines);
    options.prepare?.(node);
    const hsmd = implement(Hsmd, {
      ecdh({ point }) {
        if (!node.hsmdPresent) throw unavailable("AWAY", "hsmd is away");
        const shared = ecc().ecdh(secret, point);
        if (shared === null) throw new Error("no point");
        return { secret: node.shortSecrets ? shared.slice(1) : shared };
      },
    });
    const serve = async (service: ReturnType<typeof implement>) => {
      const server = createServer({ services: [service], log });
      node.#servers.push(server);
      return await server.listen("127.0.0.1:0");
    };
    const hsmdAddress = await serve(hsmd);
    const lightningdAddress = await serve(node.lightningd.service());
    node.subd.address = await serve(node.subd.service());
    node.connectd = await start({
      lightningdAddress,
      hsmdAddress,
      listen: "127.0.0.1:0",
      bind: options.bind ?? ["127.0.0.1:0"],
      log,
      developer: options.developer ?? true,
      fastReconnect: true,
      limits: { tick: 20, ...options.limits },
    });
    node.#faceChannel = dial(node.connectd.grpcAddress);
    node.face = client(Connectd, node.#faceChannel);
    await node.lightningd.event("hello");
    await waitFor(async () => (await node.face.getInfo({})).lightningdConnected, {
      what: "the welcome",
      deadline: DEADLINE_MS,
    });
    return node;
  }

  /** "127.0.0.1:port" of the first binding. */
  get address(): string {
    const [first] = this.connectd.bindings;
    if (first === undefined) throw new Error("no binding");
    return first;
  }

  /** Tells connectd to attach our subd. */
  attach(
    peer: { readonly peerId: Uint8Array; readonly generation: bigint },
    channelId: Uint8Array,
    epoch: bigint,
    spokeId = 0n,
    address = this.subd.address,
  ): void {
    const { peerId, generation } = peer;
    const token = new Uint8Array(32).fill(9);
    this.lightningd.say({
      case: "peerConnectSubd",
      value: { peerId, generation, channelId, epoch, address, token, subdInstance: "subd", spokeId },
    });
  }

  /** Attaches, and waits for the stream. */
  async attached(
    peer: { readonly peerId: Uint8Array; readonly generation: bigint },
    channelId: Uint8Array,
    epoch: bigint,
    spokeId = 0n,
  ): Promise<FakeAttachment> {
    this.attach(peer, channelId, epoch, spokeId);
    const attachment = await this.subd.attachment(channelId);
    await this.lightningd.event(
      "attachmentStarted",
      (event) => event.epoch === epoch && bytesToHex(event.channelId) === bytesToHex(channelId),
    );
    return attachment;
  }

  /** Waits for a peer to connect and be accepted. */
  async peer(peerId: Uint8Array): Promise<{ readonly peerId: Uint8Array; readonly generation: bigint }> {
    const hex = bytesToHex(peerId);
    return await waitFor(async () => {
      const { peers } = await this.face.listPeers({ peerId });
      const found = peers.find(({ peer }) => peer !== undefined && bytesToHex(peer.peerId) === hex);
      return found !== undefined && found.generation > 0n
        ? { peerId, generation: found.generation }
        : undefined;
    }, { what: `peer ${hex}`, deadline: DEADLINE_MS });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connectd.stop();
    this.#faceChannel.close();
    // Every client of these servers is closed by now.
    for (const server of [...this.#servers, this.connectd.server]) server.closeAfterClients();
  }
}

/** What a test sets. */
export interface TestNodeOptions {
  readonly secret?: Uint8Array;
  readonly limits?: Partial<Limits>;
  readonly developer?: boolean;
  readonly bind?: readonly string[];
  readonly log?: Logger;
  /** Before connectd starts. */
  readonly prepare?: (node: TestNode) => void;
}
