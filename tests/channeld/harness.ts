/**
 * Two real channelds, each with its own hsmd and database, on a channel that real dualopends opened and locked. Stand-ins
 * play what is around them: a lightningd that assigns, offers and settles, and a connectd that carries the frames of the
 * channel between the two and can be cut at any of them.
 */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { sha256 } from "@noble/hashes/sha2.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { ecc, useEcc } from "bolt/crypto/ecc.ts";
import { createOnion } from "bolt/onion/create.ts";
import { encodeOnionPacket } from "bolt/onion/packet.ts";
import { encodeHopPayload } from "bolt/onion/payload.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { messageName, type MessageType, messageTypeOf } from "bolt/wire/messages.ts";
import { chooseEcc } from "common/ecc/choose.ts";
import { type Channel, client, dial, openBidi, type ServiceClient } from "common/grpc/client.ts";
import { createServer, implement } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger } from "common/log.ts";
import { createMetrics, type Metrics } from "common/metrics.ts";
import { waitFor } from "common/testing/wait.ts";
import { Channeld } from "gen/arcus/channeld/v1/channeld_pb.ts";
import {
  type HtlcCommandsSchema,
  type HtlcReport,
  type HtlcReports,
  Htlcs,
} from "gen/arcus/channeld/v1/htlcs_pb.ts";
import {
  type AttachRequestSchema,
  type AttachResponse,
  type RegisterRequest,
  type RegisterResponseSchema,
  Registry,
  Released_Reason,
  Subd,
} from "gen/arcus/subd/v1/subd_pb.ts";
import type { PostgresServer } from "tools/parts/mod.ts";
import { type RunningChanneld, start as startChanneld } from "../../services/channeld/start.ts";
import { type TestNode, twoNodes } from "../dualopend/harness.ts";
import { Relay } from "./relay.ts";

const FEATURES = nodeFeatures().toBytes();
const CHAIN = chainHash("regtest");
/** Height that the stand-ins tell. */
export const HEIGHT = 101;
/** Fee rate that the stand-ins aim at, sat/kw: the channel's own. */
const FEERATE = 253;

useEcc(chooseEcc({ fallback: ecc() }).provider);

type Command = NonNullable<MessageInitShape<typeof HtlcCommandsSchema>["commands"]>[number]["command"];
type ReportCase = Extract<HtlcReport["report"], { case: string }>;
/** What channeld tells, by its case. */
type Told = { readonly [R in ReportCase as R["case"]]: R["value"] };

/** A payment that one node can send and the other one can take. */
export interface TestPayment {
  readonly origin: bigint;
  readonly amountMsat: bigint;
  readonly preimage: Uint8Array;
  readonly paymentHash: Uint8Array;
  readonly onion: Uint8Array;
  /** Reads the errors that come back. */
  readonly sharedSecret: Uint8Array;
}

const random = (length: number): Uint8Array => crypto.getRandomValues(new Uint8Array(length));

/** A node: real channeld, hsmd and database; a lightningd that says what the test says. */
export class ChannelNode {
  readonly reports: HtlcReport[] = [];
  readonly said: RegisterRequest["message"][] = [];
  readonly fatal: string[] = [];
  metrics: Metrics = createMetrics();
  epoch = 0n;
  channel = 0n;
  #registry: BidiStream<RegisterRequest, MessageInitShape<typeof RegisterResponseSchema>> | undefined;
  #htlcs: BidiStream<HtlcReports, MessageInitShape<typeof HtlcCommandsSchema>> | undefined;
  #channeld: RunningChanneld | undefined;
  #lightningd = "";
  #assignId = 0n;
  #starts = 0;

  private constructor(readonly base: TestNode, readonly hsmd: Relay) {}

  static async make(base: TestNode): Promise<ChannelNode> {
    const node = new ChannelNode(base, await Relay.to(base.hsmdAddress));
    node.channel = (await base.channelRow())!.channel;
    await node.#serve();
    return node;
  }

  get nodeId(): Uint8Array {
    return this.base.nodeId;
  }

  get sql() {
    return this.base.sql;
  }

  get address(): string {
    assert(this.#channeld !== undefined, `${this.base.name} has no channeld`);
    return this.#channeld.address;
  }

  async #serve(): Promise<void> {
    const [row] = await this.sql<{ database_id: Uint8Array }[]>`SELECT database_id FROM node`;
    const hello = {
      daemon: "lightningd",
      instance: "stand-in",
      contractVersion: 1,
      nodeId: this.nodeId,
      chainHash: CHAIN,
      databaseId: new Uint8Array(row!.database_id),
      leaderEpoch: 1n,
    };
    const policy = { maxDustHtlcExposureMsat: 50_000_000n };
    const registry = implement(Registry, {
      register: {
        open: (stream) => {
          stream.onMessage(({ message }) => {
            this.said.push(message);
            if (message.case !== "hello") return;
            this.#registry = stream;
            stream.write({ message: { case: "welcome", value: { hello, policy } } });
          });
          stream.onEnd(() => stream.end());
        },
      },
    });
    const htlcs = implement(Htlcs, {
      exchange: {
        open: (stream) => {
          stream.onMessage(({ hello: theirs, reports }) => {
            this.reports.push(...reports);
            if (theirs === undefined) return;
            this.#htlcs = stream;
            stream.write({ hello });
            this.node();
          });
          stream.onEnd(() => stream.end());
        },
      },
    });
    const server = createServer({ services: [registry, htlcs], log: createLogger({ level: "broken" }) });
    this.#lightningd = await server.listen("127.0.0.1:0");
  }

  /** Starts channeld; it says hello. */
  async start(): Promise<void> {
    const hellos = () => this.said.filter((message) => message.case === "hello").length;
    const before = hellos();
    this.metrics = createMetrics();
    const channeld = await startChanneld({
      network: "regtest",
      listen: "127.0.0.1:0",
      lightningdAddress: this.#lightningd,
      hsmdAddress: this.hsmd.address,
      databaseUrl: this.base.database.roles.channeld,
      databasePool: 4,
      log: createLogger({ level: "broken", fields: { daemon: this.base.name } }),
      metrics: this.metrics,
      instance: `channeld-${this.base.name}-${++this.#starts}`,
      onFatal: (reason) => this.fatal.push(reason),
    });
    this.#channeld = channeld;
    await waitFor(() => hellos() > before && channeld.registered(), {
      what: `${this.base.name}: channeld is welcomed`,
    });
  }

  /** Ends channeld as it is: nothing of what it was about to do is done. */
  async stop(): Promise<void> {
    const running = this.#channeld;
    this.#channeld = undefined;
    await running?.stop();
  }

  /** Raises the epoch, registers it with hsmd, and says Assign. Answers the token. */
  async assign(peer: ChannelNode, generation: bigint): Promise<Uint8Array> {
    const { base } = this;
    const [row] = await this.sql<{ owner_epoch: bigint; channel_id: Uint8Array }[]>`
      UPDATE channels SET owner_epoch = owner_epoch + 1, owner_daemon = 'channeld'
      RETURNING owner_epoch, channel_id`;
    const epoch = row!.owner_epoch;
    this.epoch = epoch;
    const { keyId: channelKeyId, paymentKeyIndex } = base;
    await base.hsmd.registerEpochs({ channels: [{ channelKeyId, paymentKeyIndex, epoch }] });
    const token = random(32);
    const assignId = ++this.#assignId;
    const { scripts } = await base.hsmd.deriveWalletKeys({ change: false, firstIndex: 50, count: 1 });
    this.#registry!.write({
      message: {
        case: "assign",
        value: {
          assignId,
          channel: this.channel,
          epoch,
          peerId: peer.nodeId,
          generation,
          channelId: new Uint8Array(row!.channel_id),
          token,
          peerFeatures: FEATURES,
          height: HEIGHT,
          shutdownScript: scripts[0]!,
        },
      },
    });
    const result = await waitFor(() => {
      const found = this.said.find((message) =>
        message.case === "assignResult" && message.value.assignId === assignId
      );
      return found?.case === "assignResult" ? found.value : undefined;
    }, { what: `${base.name} answers an assignment` });
    assert.equal(result.error, "");
    return token;
  }

  /** Waits until it released for this reason. */
  async released(reason: Released_Reason): Promise<void> {
    await waitFor(
      () => this.said.some((message) => message.case === "released" && message.value.reason === reason),
      { what: `${this.base.name} releases for ${Released_Reason[reason]}` },
    );
  }

  /** Tells channeld to read its rows. */
  lookAgain(): void {
    this.#registry!.write({
      message: { case: "lookAgain", value: { channel: this.channel, height: HEIGHT } },
    });
  }

  /** Ends the stream of HTLCs, as a lightningd that restarts does. */
  dropHtlcs(): void {
    this.#htlcs?.end();
    this.#htlcs = undefined;
  }

  #command(channel: bigint, command: Command): void {
    this.#htlcs?.write({ commands: [{ channel, ...(command === undefined ? {} : { command }) }] });
  }

  /** Tells the node's level. */
  node(): void {
    const rates = { feeratePerkw: FEERATE, minFeeratePerkw: FEERATE, maxFeeratePerkw: 100_000 };
    this.#command(0n, { case: "node", value: { height: HEIGHT, ...rates } });
  }

  /** A payment for this node, of which the payer only has the onion. */
  invoice(origin: bigint, amountMsat: bigint): TestPayment {
    const preimage = random(32);
    const paymentHash = sha256(preimage);
    const payload = encodeHopPayload({
      amt_to_forward: amountMsat,
      outgoing_cltv_value: HEIGHT + 20,
      payment_data: { payment_secret: random(32), total_msat: amountMsat },
    });
    const onion = createOnion({
      sessionKey: random(32),
      hops: [{ pubkey: this.nodeId, payload }],
      associatedData: paymentHash,
    });
    assert(onion.ok);
    return {
      origin,
      amountMsat,
      preimage,
      paymentHash,
      onion: encodeOnionPacket(onion.value.packet),
      sharedSecret: onion.value.sharedSecrets[0]!,
    };
  }

  /** Says OfferHtlc of these. */
  offer(...payments: readonly (TestPayment & { readonly epoch?: bigint })[]): void {
    this.#htlcs?.write({
      commands: payments.map(({ origin, amountMsat, paymentHash, onion, epoch = 0n }) => ({
        channel: this.channel,
        command: {
          case: "offer",
          value: { origin, amountMsat, paymentHash, cltvExpiry: HEIGHT + 20, onion, epoch },
        },
      })),
    });
  }

  /** Says SettleHtlc with this preimage. */
  fulfill(id: bigint, preimage: Uint8Array): void {
    this.#command(this.channel, {
      case: "settle",
      value: { id, settlement: { case: "preimage", value: preimage } },
    });
  }

  /** Says SettleHtlc with this encrypted error. */
  fail(id: bigint, reason: Uint8Array): void {
    this.#command(this.channel, {
      case: "settle",
      value: { id, settlement: { case: "fail", value: { reason } } },
    });
  }

  /** What it told of one kind, by the owner of now or an earlier one. */
  told<C extends keyof Told>(which: C): Told[C][] {
    // The case and its value are one pair in the generated union.
    return this.reports.filter(({ report }) => report.case === which).map(({ report }) =>
      report.value as Told[C]
    );
  }

  /** Waits for a report. */
  heard<C extends keyof Told>(which: C, matches: (value: Told[C]) => boolean = () => true): Promise<Told[C]> {
    return waitFor(() => this.told(which).find(matches), { what: `${this.base.name} tells ${which}` });
  }

  /** Calls channeld's own face. */
  async call<T>(work: (channeld: ServiceClient<typeof Channeld>) => Promise<T>): Promise<T> {
    const channel = dial(this.address);
    try {
      return await work(client(Channeld, channel));
    } finally {
      channel.close();
    }
  }

  /** Live rows, and how many are past. */
  async rows() {
    const live = await this.sql<{ offered: boolean; id: bigint; state: string }[]>`
      SELECT offered, id, state FROM htlcs ORDER BY htlc`;
    const [past] = await this.sql<{ n: bigint }[]>`SELECT count(*) AS n FROM htlc_history`;
    return { live: live.map((row) => ({ ...row })), past: Number(past!.n) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.hsmd.close();
  }
}

/** What the wire does with a frame. */
export type Verdict = "pass" | "cut_before" | "cut_after";
type AttachStream = BidiStream<AttachResponse, MessageInitShape<typeof AttachRequestSchema>>;

/** One end of a wire: what connectd keeps of one attachment. */
class End {
  readonly sent: (MessageType | undefined)[] = [];
  readonly ended = Promise.withResolvers<void>();
  peer: End | undefined;
  durable = 0n;
  given = 0n;
  writes = 0;
  #attached = false;
  #outSeq = 0n;
  #waiting: Uint8Array[] = [];
  readonly #channel: Channel;
  readonly #stream: AttachStream;

  constructor(
    readonly node: ChannelNode,
    peer: ChannelNode,
    token: Uint8Array,
    generation: bigint,
    channelId: Uint8Array,
    private readonly wire: {
      onFrame(from: ChannelNode, type: MessageType | undefined): Verdict;
      cut(): void;
    },
  ) {
    this.#channel = dial(node.address);
    this.#stream = openBidi(this.#channel, Subd.method.attach);
    this.#stream.onMessage(({ message }) => this.#received(message));
    this.#stream.onEnd(() => {
      this.#attached = false;
      this.#channel.close();
      this.ended.resolve();
    });
    this.#stream.write({
      message: {
        case: "attach",
        value: {
          peerId: peer.nodeId,
          generation,
          channelId,
          epoch: node.epoch,
          token,
          writtenOutSeq: 0n,
          nextInSeq: 1n,
          connectdInstance: "stand-in",
        },
      },
    });
  }

  /** A frame for this node. */
  deliver(data: Uint8Array): void {
    if (!this.#attached) return void this.#waiting.push(data);
    const inSeq = ++this.given;
    this.#stream.write({ message: { case: "frame", value: { inSeq, data, replayed: false } } });
  }

  #received(message: AttachResponse["message"]): void {
    switch (message.case) {
      case "attached": {
        this.#attached = true;
        const waiting = this.#waiting;
        this.#waiting = [];
        for (const data of waiting) this.deliver(data);
        return;
      }
      case "frames":
        assert.equal(message.value.firstOutSeq, this.#outSeq + 1n, "a gap in what goes out");
        this.writes++;
        for (const data of message.value.data) {
          this.#outSeq++;
          this.#out(data);
        }
        return;
      case "fail":
        for (const data of message.value.messages) this.#out(data);
        this.#stream.end();
        return this.wire.cut();
      case "finished":
        return this.#stream.end();
      case "durable":
        assert.ok(message.value.inSeq > this.durable && message.value.inSeq <= this.given, "durable");
        this.durable = message.value.inSeq;
        return;
    }
  }

  #out(data: Uint8Array): void {
    if (this.peer === undefined) return;
    const type = messageName(messageTypeOf(data)!);
    this.sent.push(type);
    const verdict = this.wire.onFrame(this.node, type);
    if (verdict === "cut_before") return this.wire.cut();
    this.peer.deliver(data);
    if (verdict === "cut_after") this.wire.cut();
  }

  gone(): void {
    if (this.#stream.closed) return;
    this.#stream.write({ message: { case: "peerGone", value: { reason: "cut" } } });
    this.#stream.end();
  }
}

/** The connection between two nodes, as far as the channel goes. */
export class Wire {
  readonly a: End;
  readonly b: End;
  isCut = false;

  constructor(
    ends: readonly [ChannelNode, ChannelNode],
    tokens: readonly [Uint8Array, Uint8Array],
    generation: bigint,
    channelId: Uint8Array,
    onFrame: (from: ChannelNode, type: MessageType | undefined) => Verdict,
  ) {
    const hooks = {
      onFrame: (from: ChannelNode, type: MessageType | undefined): Verdict =>
        this.isCut ? "pass" : onFrame(from, type),
      cut: () => this.cut(),
    };
    const [a, b] = ends;
    this.a = new End(a, b, tokens[0], generation, channelId, hooks);
    this.b = new End(b, a, tokens[1], generation, channelId, hooks);
    this.a.peer = this.b;
    this.b.peer = this.a;
  }

  /** The connection breaks: what is on its way is lost. */
  cut(): void {
    if (this.isCut) return;
    this.isCut = true;
    for (const end of [this.a, this.b]) {
      end.peer = undefined;
      end.gone();
    }
  }

  /** Waits until both streams are over. */
  async over(): Promise<void> {
    await waitFor(Promise.all([this.a.ended.promise, this.b.ended.promise]), {
      what: "both attachments end",
    });
  }
}

/** Two nodes on one locked channel (120,000 sat of alice, 60,000 of bob), their channelds welcomed. */
export async function lockedChannel(server: PostgresServer) {
  const stack = new AsyncDisposableStack();
  const opening = stack.use(await twoNodes(server));
  await opening.openInit(await opening.prepare(), true);
  const [attempt] = await opening.complete();
  for (const node of [opening.alice, opening.bob]) await node.mine(attempt!.txid);
  for (const node of [opening.alice, opening.bob]) {
    await node.released(Released_Reason.LOCKED);
    await node.stop();
  }
  const alice = stack.use(await ChannelNode.make(opening.alice));
  const bob = stack.use(await ChannelNode.make(opening.bob));
  await Promise.all([alice.start(), bob.start()]);
  const { channel_id: id, generation: last } = (await opening.alice.channelRow())!;
  const channelId = new Uint8Array(id);
  let generation = last;
  let wire: Wire | undefined;
  stack.defer(() => wire?.cut());
  return {
    alice,
    bob,
    channelId,
    get wire(): Wire {
      assert(wire !== undefined);
      return wire;
    },
    /** A new connection, with new epochs on both sides. */
    async connect(onFrame: (from: ChannelNode, type: MessageType | undefined) => Verdict = () => "pass") {
      wire?.cut();
      generation++;
      const tokens = [await alice.assign(bob, generation), await bob.assign(alice, generation)] as const;
      wire = new Wire([alice, bob], tokens, generation, channelId, onFrame);
    },
    /** Waits until both sides say that the channel is usable. */
    async usable() {
      for (const node of [alice, bob]) {
        await waitFor(async () => {
          const { channels } = await node.call((channeld) => channeld.listChannels({}));
          return channels[0]?.reestablished === true && channels[0].paused === "";
        }, { what: `${node.base.name}: the channel is usable` });
      }
    },
    /** Waits until no HTLC is left on either side, and answers what is whose, msat. */
    async settled(past: number): Promise<{ readonly alice: bigint; readonly bob: bigint }> {
      for (const node of [alice, bob]) {
        let seen = "";
        await waitFor(async () => {
          const rows = await node.rows();
          seen = `${rows.past} past, ${
            rows.live.map((row) => `${row.offered ? "our" : "their"} ${row.id} ${row.state}`)
          }`;
          return rows.live.length === 0 && rows.past === past;
        }, { what: `${node.base.name}: ${past} HTLCs are past` }).catch((error) => {
          throw new Error(`${error instanceof Error ? error.message : error}; ${seen}`);
        });
      }
      const balances = await Promise.all([alice, bob].map(async (node) => {
        const { channels } = await node.call((channeld) => channeld.listChannels({}));
        return channels[0]?.toUsMsat ?? 0n;
      }));
      return { alice: balances[0]!, bob: balances[1]! };
    },
    async [Symbol.asyncDispose]() {
      await stack.disposeAsync();
    },
  };
}

/** A channel in use. */
export type Locked = Awaited<ReturnType<typeof lockedChannel>>;

/** Whatever comes in for `node` with one of these hashes is fulfilled, again whenever it is told again. */
export function autoFulfill(node: ChannelNode, payments: readonly TestPayment[]): () => void {
  const preimages = new Map(payments.map(({ paymentHash, preimage }) => [bytesToHex(paymentHash), preimage]));
  let at = 0;
  const timer = setInterval(() => {
    for (; at < node.reports.length; at++) {
      const report = node.reports[at]?.report;
      if (report?.case !== "incoming") continue;
      const preimage = preimages.get(bytesToHex(report.value.paymentHash));
      if (preimage !== undefined) node.fulfill(report.value.id, preimage);
    }
  }, 1);
  return () => clearInterval(timer);
}
