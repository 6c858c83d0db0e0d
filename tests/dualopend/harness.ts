/**
 * Two real dualopends, each with its own hsmd and database. Stand-ins play what is around them: a lightningd that assigns
 * and plans, and a connectd that carries the frames of one channel between the two and can be cut at any of them.
 */
import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { planContribution } from "bolt/interactive/plan.ts";
import { temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";
import { p2wsh } from "bolt/tx/scripts.ts";
import { txidOf } from "bolt/tx/transaction.ts";
import { feerate, sat, weight } from "bolt/units.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { messageName, type MessageType, messageTypeOf } from "bolt/wire/messages.ts";
import { type Channel, client, dial, openBidi, type ServiceClient } from "common/grpc/client.ts";
import { alreadyExists } from "common/grpc/errors.ts";
import { type ArcusServer, createServer, implement } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger, type Logger } from "common/log.ts";
import { type Database, openDatabase, type Sql } from "common/pg/client.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";
import { Dualopend } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import {
  Lightningd,
  type PlanSchema,
  TestFundingTxResponse_Verdict,
} from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import {
  type AttachHelloSchema,
  type AttachRequestSchema,
  type AttachResponse,
  type RegisterRequest,
  type RegisterResponseSchema,
  Registry,
  Released_Reason,
  Subd,
  type SubdHello,
} from "gen/arcus/subd/v1/subd_pb.ts";
import { type RunningDualopend, start as startDualopend } from "../../services/dualopend/start.ts";
import { type RunningHsmd, start as startHsmd } from "../../services/hsmd/start.ts";
import { createNodeDatabase, type NodeDatabase } from "tools/node/database.ts";
import type { PostgresServer } from "tools/parts/mod.ts";

/** A coin of every wallet here, sat. */
const COIN = 100_000n;
/** Height at which every test begins. */
const HEIGHT = 100;
const FEATURES = nodeFeatures().toBytes();
const CHAIN = chainHash("regtest");
/** Confirmations that both want. */
export const DEPTH = 1;
/** Fee rate of first opens. */
export const FEERATE = 1000;

type Plan = MessageInitShape<typeof PlanSchema>;
type RegistryStream = BidiStream<RegisterRequest, MessageInitShape<typeof RegisterResponseSchema>>;

type SaidMessage = Extract<RegisterRequest["message"], { case: string }>;
/** What dualopend tells lightningd, by its case. */
type Said = { readonly [M in SaidMessage as M["case"]]: M["value"] };

/** A timer that fires only when a test says so. */
export class ManualTimer {
  readonly #armed = new Set<() => void>();

  get armed(): number {
    return this.#armed.size;
  }

  readonly arm = (_ms: number, callback: () => void): () => void => {
    this.#armed.add(callback);
    return () => void this.#armed.delete(callback);
  };

  fire(): void {
    const [...due] = this.#armed;
    this.#armed.clear();
    for (const callback of due) callback();
  }
}

/** Who may attach, and for what. */
export interface Assignment {
  readonly epoch: bigint;
  readonly generation: bigint;
  readonly token: Uint8Array;
  readonly channelId: Uint8Array;
}

/** A node: real dualopend, hsmd and database; a lightningd that does what the test says. */
export class TestNode {
  readonly log: Logger;
  readonly said: RegisterRequest["message"][] = [];
  readonly broadcast: string[] = [];
  readonly hellos: SubdHello[] = [];
  /** What it brings to opens and replacements of the peer. */
  contribution: bigint;
  verdict = TestFundingTxResponse_Verdict.ACCEPTED;
  opening = 0n;
  keyId: Uint8Array = new Uint8Array();
  paymentKeyIndex = 0;
  #registry: RegistryStream | undefined;
  #dualopend: RunningDualopend | undefined;
  #assignId = 0n;
  #nextCoin = 0;
  readonly #coins = new Map<number, { readonly raw: Uint8Array; readonly txid: Uint8Array }>();
  readonly #stack = new AsyncDisposableStack();

  private constructor(
    readonly name: string,
    readonly database: NodeDatabase,
    readonly sql: Sql,
    readonly hsmd: ServiceClient<typeof Hsmd>,
    readonly hsmdAddress: string,
    readonly nodeId: Uint8Array,
    readonly timer: ManualTimer,
    contribution: bigint,
  ) {
    this.log = createLogger({ level: "broken", fields: { daemon: name } });
    this.contribution = contribution;
  }

  static async make(server: PostgresServer, name: string, contribution: bigint): Promise<TestNode> {
    const stack = new AsyncDisposableStack();
    const database = await createNodeDatabase(server);
    stack.defer(() => server.dropDatabase(database.name));
    const pool: Database = await openDatabase({ url: database.url, applicationName: "test" });
    stack.defer(() => pool.close());
    const folder = await tempFolder();
    stack.use(folder);
    const running: RunningHsmd = await startHsmd({
      directory: folder.path,
      network: "regtest",
      addresses: ["127.0.0.1:0"],
      log: createLogger({ level: "broken" }),
      instance: `hsmd-${name}`,
      onFatal: (error) => assert.fail(error),
    });
    stack.defer(() => running.close());
    const channel = dial(running.addresses[0]!);
    stack.defer(() => channel.close());
    const hsmd = client(Hsmd, channel);
    const databaseId = crypto.getRandomValues(new Uint8Array(16));
    const { info } = await hsmd.bindDatabase({ databaseId });
    assert(info !== undefined);
    await pool.sql`
      INSERT INTO node (node_id, chain_hash, database_id, hsmd_memory_id)
      VALUES (${info.nodeId}, ${CHAIN}, ${databaseId}, ${info.memoryId})`;
    const hash = new Uint8Array(32).fill(1);
    await pool.sql`INSERT INTO blocks VALUES (${HEIGHT}, ${hash}, ${new Uint8Array(32)})`;
    const node = new TestNode(
      name,
      database,
      pool.sql,
      hsmd,
      running.addresses[0]!,
      info.nodeId,
      new ManualTimer(),
      contribution,
    );
    node.#stack.use(stack);
    await node.#serveLightningd(databaseId);
    return node;
  }

  #lightningdAddress = "";

  async #serveLightningd(databaseId: Uint8Array): Promise<void> {
    const registry = implement(Registry, {
      register: {
        open: (stream) => {
          stream.onMessage(({ message }) => {
            this.said.push(message);
            if (message.case !== "hello") return;
            this.#registry = stream;
            this.hellos.push(message.value);
            stream.write(this.#welcome(databaseId));
          });
          stream.onEnd(() => stream.end());
        },
      },
    });
    const lightningd = implement(Lightningd, {
      planContribution: async ({ opening, fundingFeeratePerkw }) => ({
        plan: await this.plan(opening, "accepter", fundingFeeratePerkw),
      }),
      startRemoteRbf: async ({ channel, epoch, generation, feeratePerkw }) => {
        const opening = await this.rbfOpening(channel, epoch, generation, "remote");
        return { opening, plan: await this.plan(opening, "accepter", feeratePerkw, channel) };
      },
      checkConfirmed: ({ outpoints }) => ({ confirmed: outpoints.map(() => true) }),
      testFundingTx: () => ({ verdict: this.verdict, detail: "test" }),
      broadcastAttempt: ({ txid }) => {
        this.broadcast.push(bytesToHex(txid));
        return { detail: "" };
      },
      openingProgress: () => ({}),
    });
    const server: ArcusServer = createServer({ services: [registry, lightningd], log: this.log });
    this.#lightningdAddress = await server.listen("127.0.0.1:0");
  }

  #welcome(databaseId: Uint8Array): MessageInitShape<typeof RegisterResponseSchema> {
    return {
      message: {
        case: "welcome",
        value: {
          hello: {
            daemon: "lightningd",
            instance: "stand-in",
            contractVersion: 1,
            nodeId: this.nodeId,
            chainHash: CHAIN,
            databaseId,
            leaderEpoch: 1n,
          },
          policy: {
            fundingConfirms: DEPTH,
            dustLimitSat: 354n,
            maxHtlcValueInFlightMsat: 100_000_000n,
            htlcMinimumMsat: 1n,
            toSelfDelay: 144,
            maxToSelfDelay: 2016,
            maxAcceptedHtlcs: 30,
            minCapacitySat: 10_000n,
            maxDustLimitSat: 5000n,
            largeChannels: true,
            maxRemoteRbfAttempts: 10,
            remoteRbfMinBlocks: 0,
            openTimeoutMs: 60_000,
          },
        },
      },
    };
  }

  /** Ends the Registry stream, as a lightningd that restarts does. */
  dropRegistry(): void {
    this.#registry?.end();
    this.#registry = undefined;
  }

  /** Starts dualopend; it says hello. */
  async start(): Promise<void> {
    const hellos = this.hellos.length;
    this.#dualopend = await startDualopend({
      network: "regtest",
      listen: "127.0.0.1:0",
      lightningdAddress: this.#lightningdAddress,
      hsmdAddress: this.hsmdAddress,
      databaseUrl: this.database.roles.dualopend,
      log: this.log,
      instance: `dualopend-${this.name}-${hellos}`,
      onFatal: (reason) => assert.fail(reason),
      // Its reconnects wait for real; only an open's timeout (the policy's) is in the test's hands.
      timer: (ms, callback) => {
        if (ms >= 60_000) return this.timer.arm(ms, callback);
        const timer = setTimeout(callback, ms);
        return () => clearTimeout(timer);
      },
    });
    await waitFor(() => this.hellos.length > hellos && this.#dualopend?.registered(), {
      what: `${this.name}: dualopend is welcomed`,
    });
  }

  /** Ends dualopend as it is: nothing of what it was about to do is done. */
  async stop(): Promise<void> {
    const running = this.#dualopend;
    if (running === undefined) return;
    this.#dualopend = undefined;
    await running.stop();
  }

  get address(): string {
    assert(this.#dualopend !== undefined, `${this.name} has no dualopend`);
    return this.#dualopend.address;
  }

  /** Calls dualopend's own face. */
  async call<T>(work: (dualopend: ServiceClient<typeof Dualopend>) => Promise<T>): Promise<T> {
    const channel = dial(this.address);
    try {
      return await work(client(Dualopend, channel));
    } finally {
      channel.close();
    }
  }

  /** A plan of this node's one coin, reserved for the opening. */
  async plan(
    opening: bigint,
    role: "initiator" | "accepter",
    rate: number,
    channel?: bigint,
  ): Promise<Plan> {
    if (this.contribution === 0n) return { contributionSat: 0n, maxFeeSat: 0n };
    const { scripts } = await this.hsmd.deriveWalletKeys({ change: false, firstIndex: 0, count: 8 });
    const changeKeys = await this.hsmd.deriveWalletKeys({ change: true, firstIndex: 0, count: 1 });
    // A replacement spends the same coins again, and one more for the higher fee.
    const indexes = channel === undefined ? [this.#nextCoin++, this.#nextCoin++] : [...this.#coins.keys()];
    const coins = indexes.map((index) => {
      const script = scripts[index]!;
      const known = this.#coins.get(index);
      if (known !== undefined) return { index, script, ...known };
      const tx = new Transaction();
      tx.version = 2;
      tx.addInput(crypto.getRandomValues(new Uint8Array(32)), 0);
      tx.addOutput(script, COIN);
      const coin = { raw: new Uint8Array(tx.toBuffer()), txid: txidOf(tx) };
      this.#coins.set(index, coin);
      return { index, script, ...coin };
    });
    const planned = planContribution({
      role,
      feerate: feerate(rate),
      contribution: sat(this.contribution),
      fundingScript: p2wsh(Uint8Array.of(0x51)),
      utxos: coins.map(({ raw, script }) => ({
        prevtx: raw,
        vout: 0,
        amount: sat(COIN),
        script,
        witnessWeight: weight(66),
        confirmed: true,
      })),
      changeScript: changeKeys.scripts[0]!,
      dustLimit: sat(354),
    });
    assert(planned.ok, "a plan that does not work");
    for (const { txid } of coins) {
      await this.sql`
        INSERT INTO reservations (txid, vout, purpose, opening) VALUES (${txid}, 0, 'opening', ${opening})
        ON CONFLICT DO NOTHING`;
    }
    return {
      contributionSat: this.contribution,
      maxFeeSat: planned.value.fee,
      inputs: planned.value.inputs.map((input, i) => ({
        outpoint: { txid: coins[i]!.txid, vout: 0 },
        amountSat: input.amount,
        script: input.script,
        prevtx: input.prevtx,
        sequence: input.sequence,
        witnessWeight: input.witnessWeight,
        change: false,
        keyIndex: coins[i]!.index,
      })),
      outputs: planned.value.outputs.map(({ amount, script }) => ({
        amountSat: amount,
        script,
        change: true,
        keyIndex: 0,
      })),
    };
  }

  /** The row of an RBF's negotiation. */
  async rbfOpening(
    channel: bigint,
    epoch: bigint,
    generation: bigint,
    initiator: "local" | "remote",
  ): Promise<bigint> {
    const [row] = await this.sql<{ opening: bigint }[]>`
      INSERT INTO openings (peer_id, generation, channel, initiator, owner_epoch, owner_instance)
      SELECT peer_id, ${generation}, channel, ${initiator}, owner_epoch, 'stand-in' FROM channels
      WHERE channel = ${channel} AND owner_epoch = ${epoch}
      ON CONFLICT DO NOTHING RETURNING opening`;
    if (row === undefined) throw alreadyExists("NEGOTIATION_OPEN", "one negotiation a channel");
    return row.opening;
  }

  /** Draws keys for an open of ours; answers the revocation basepoint. */
  async drawKeys(peerId: Uint8Array): Promise<Uint8Array> {
    const { channelKeyId, paymentKeyIndex, keys } = await this.hsmd.newChannel({ peerId });
    this.keyId = channelKeyId;
    this.paymentKeyIndex = paymentKeyIndex;
    assert(keys !== undefined);
    return keys.revocationBasepoint;
  }

  /** Writes the row of a first open, and assigns it. */
  async assignOpening(
    peer: TestNode,
    initiator: "local" | "remote",
    temporaryChannelId: Uint8Array,
    generation: bigint,
  ): Promise<Assignment> {
    const epoch = 1n;
    const [row] = await this.sql<{ opening: bigint }[]>`
      INSERT INTO openings (peer_id, generation, initiator, owner_epoch, owner_instance, temporary_channel_id,
        channel_key_id, payment_key_index)
      VALUES (${peer.nodeId}, ${generation}, ${initiator}, ${epoch}, 'stand-in', ${temporaryChannelId}, ${this.keyId},
        ${this.paymentKeyIndex})
      RETURNING opening`;
    this.opening = row!.opening;
    return await this.assign(
      peer,
      { channel: 0n, opening: this.opening },
      epoch,
      generation,
      temporaryChannelId,
    );
  }

  /** Raises the epoch of the node's one channel, and assigns it for a connection. */
  async assignChannel(peer: TestNode, generation: bigint): Promise<Assignment> {
    const [row] = await this.sql<{ channel: bigint; owner_epoch: bigint; channel_id: Uint8Array }[]>`
      UPDATE channels SET owner_epoch = owner_epoch + 1 RETURNING channel, owner_epoch, channel_id`;
    assert(row !== undefined, `${this.name} has no channel`);
    await this.sql`DELETE FROM openings WHERE channel = ${row.channel}`;
    const id = { channel: row.channel, opening: 0n };
    return await this.assign(peer, id, row.owner_epoch, generation, new Uint8Array(row.channel_id));
  }

  /** Registers the epoch with hsmd, and says Assign. */
  async assign(
    peer: TestNode,
    which: { readonly channel: bigint; readonly opening: bigint },
    epoch: bigint,
    generation: bigint,
    channelId: Uint8Array,
  ): Promise<Assignment> {
    const { keyId: channelKeyId, paymentKeyIndex } = this;
    await this.hsmd.registerEpochs({ channels: [{ channelKeyId, paymentKeyIndex, epoch }] });
    const token = crypto.getRandomValues(new Uint8Array(32));
    const assignId = ++this.#assignId;
    const { scripts } = await this.hsmd.deriveWalletKeys({ change: false, firstIndex: 50, count: 1 });
    this.#registry!.write({
      message: {
        case: "assign",
        value: {
          assignId,
          ...which,
          epoch,
          peerId: peer.nodeId,
          generation,
          channelId,
          token,
          peerFeatures: FEATURES,
          height: HEIGHT,
          shutdownScript: scripts[0]!,
        },
      },
    });
    const error = await this.heard("assignResult", (result) => result.assignId === assignId);
    assert.equal(error.error, "");
    return { epoch, generation, token, channelId };
  }

  /** Says Withdraw of an opening. */
  withdraw(opening: bigint, epoch: bigint): void {
    this.#registry!.write({ message: { case: "withdraw", value: { channel: 0n, opening, epoch } } });
  }

  /** Tells dualopend to look at the chain rows. */
  lookAgain(height: number): void {
    this.#registry!.write({ message: { case: "lookAgain", value: { channel: 0n, height } } });
  }

  /** Waits for something that dualopend tells lightningd. */
  async heard<C extends keyof Said>(
    which: C,
    matches: (value: Said[C]) => boolean = () => true,
  ): Promise<Said[C]> {
    // The case and its value are one pair in the generated union.
    const value = ({ message }: { message: RegisterRequest["message"] }) => message.value as Said[C];
    const found = await waitFor(
      () => this.said.find((message) => message.case === which && matches(value({ message }))),
      { what: `${this.name} says ${which}` },
    );
    return value({ message: found });
  }

  /** Waits until it released for this reason. */
  released(reason: Released_Reason) {
    return this.heard("released", (released) => released.reason === reason);
  }

  /** Puts an attempt into a block, as lightningd's chain code does. */
  async mine(txid: Uint8Array, height = HEIGHT + 1): Promise<void> {
    const hash = crypto.getRandomValues(new Uint8Array(32));
    await this.sql`
      INSERT INTO blocks VALUES (${height}, ${hash}, ${new Uint8Array(32)}) ON CONFLICT DO NOTHING`;
    await this.sql`
      INSERT INTO attempt_confirmations (attempt, height, tx_index, matches)
      SELECT attempt, ${height}, 1, true FROM funding_attempts WHERE txid = ${txid}`;
    this.lookAgain(height);
  }

  /** The row of its one channel. */
  async channelRow() {
    const [row] = await this.sql<{
      channel: bigint;
      state: string;
      owner_epoch: bigint;
      locked_attempt: bigint | null;
      commitments: Uint8Array | null;
      channel_id: Uint8Array;
      channel_key_id: Uint8Array;
      payment_key_index: number;
      generation: bigint;
      reestablish_sent: boolean;
      reestablish_received: boolean;
      error_text: string | null;
      shutdown_sent: Uint8Array | null;
    }[]>`SELECT * FROM channels`;
    return row;
  }

  /** Its attempts, by seq. */
  async attempts() {
    return await this.sql<{
      attempt: bigint;
      seq: number;
      txid: Uint8Array;
      complete_tx: Uint8Array | null;
      aborted: boolean;
      local_contribution_sat: bigint;
      remote_contribution_sat: bigint;
    }[]>`SELECT * FROM funding_attempts ORDER BY seq`;
  }

  /** How many rows are left of anything unsaved. */
  async leftovers(): Promise<number> {
    const [row] = await this.sql<{ n: bigint }[]>`
      SELECT (SELECT count(*) FROM openings) + (SELECT count(*) FROM reservations WHERE purpose = 'opening') AS n`;
    return Number(row!.n);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.#stack.disposeAsync();
  }
}

type AttachStream = BidiStream<AttachResponse, MessageInitShape<typeof AttachRequestSchema>>;

/** One end of a wire: what connectd keeps of one attachment. */
export class End {
  readonly sent: (MessageType | undefined)[] = [];
  readonly ended = Promise.withResolvers<{ readonly reason: string | undefined }>();
  readonly said: AttachResponse["message"][] = [];
  attached = false;
  taken = 0n;
  durable = 0n;
  peer: End | undefined;
  #inSeq = 0n;
  #outSeq = 0n;
  #waiting: Uint8Array[] = [];
  readonly #channel: Channel;
  readonly stream: AttachStream;

  constructor(
    readonly node: TestNode,
    hello: MessageInitShape<typeof AttachHelloSchema>,
    private readonly wire: Pick<Wire, "onFrame" | "cut">,
  ) {
    this.#channel = dial(node.address);
    this.stream = openBidi(this.#channel, Subd.method.attach);
    this.stream.onMessage(({ message }) => this.#received(message));
    this.stream.onEnd((error) => {
      this.attached = false;
      this.#channel.close();
      this.ended.resolve({ reason: error?.reason });
    });
    this.stream.write({ message: { case: "attach", value: hello } });
  }

  /** A frame for this node. */
  deliver(data: Uint8Array): void {
    if (!this.attached) return void this.#waiting.push(data);
    this.#inSeq++;
    this.stream.write({ message: { case: "frame", value: { inSeq: this.#inSeq, data, replayed: false } } });
  }

  #received(message: AttachResponse["message"]): void {
    this.said.push(message);
    switch (message.case) {
      case "attached": {
        this.attached = true;
        const waiting = this.#waiting;
        this.#waiting = [];
        for (const data of waiting) this.deliver(data);
        return;
      }
      case "frames": {
        assert.equal(message.value.firstOutSeq, this.#outSeq + 1n, "a gap in what goes out");
        for (const data of message.value.data) {
          this.#outSeq++;
          this.#out(data);
        }
        return;
      }
      case "fail":
        for (const data of message.value.messages) this.#out(data);
        return this.stream.end();
      case "finished":
        return this.stream.end();
      case "taken":
        this.taken = message.value.inSeq;
        return;
      case "durable":
        this.durable = message.value.inSeq;
        return;
    }
  }

  #out(data: Uint8Array): void {
    const type = messageName(messageTypeOf(data)!);
    this.sent.push(type);
    const verdict = this.wire.onFrame(this.node, type);
    if (verdict === "cut_before") return this.wire.cut();
    this.peer?.deliver(data);
    if (verdict === "cut_after") this.wire.cut();
  }

  gone(): void {
    if (!this.stream.closed) {
      this.stream.write({ message: { case: "peerGone", value: { reason: "cut" } } });
      this.stream.end();
    }
  }
}

/** The connection between two nodes, as far as one channel goes. */
export class Wire {
  onFrame: (from: TestNode, type: MessageType | undefined) => "pass" | "cut_before" | "cut_after" = () =>
    "pass";
  readonly ends: { readonly a: End; readonly b: End };
  isCut = false;

  constructor(
    a: { readonly node: TestNode; readonly assignment: Assignment },
    b: { readonly node: TestNode; readonly assignment: Assignment },
    onFrame?: Wire["onFrame"],
  ) {
    if (onFrame !== undefined) this.onFrame = onFrame;
    const hooks = {
      onFrame: (from: TestNode, type: MessageType | undefined) =>
        this.isCut ? "pass" : this.onFrame(from, type),
      cut: () => this.cut(),
    } as const;
    this.ends = {
      a: new End(a.node, helloOf(b.node, a.assignment), hooks),
      b: new End(b.node, helloOf(a.node, b.assignment), hooks),
    };
    this.ends.a.peer = this.ends.b;
    this.ends.b.peer = this.ends.a;
  }

  /** The connection breaks: what is on its way is lost. */
  cut(): void {
    if (this.isCut) return;
    this.isCut = true;
    this.ends.a.peer = undefined;
    this.ends.b.peer = undefined;
    this.ends.a.gone();
    this.ends.b.gone();
  }

  /** Waits until both streams are over. */
  async over(): Promise<void> {
    await waitFor(Promise.all([this.ends.a.ended.promise, this.ends.b.ended.promise]), {
      what: "both attachments end",
    });
  }
}

/** The first message of an attachment. */
export function helloOf(peer: TestNode, assignment: Assignment): MessageInitShape<typeof AttachHelloSchema> {
  return {
    peerId: peer.nodeId,
    generation: assignment.generation,
    channelId: assignment.channelId,
    epoch: assignment.epoch,
    token: assignment.token,
    writtenOutSeq: 0n,
    nextInSeq: 1n,
    connectdInstance: "stand-in",
  };
}

/** Two nodes with dualopends that are welcomed. */
export async function twoNodes(
  server: PostgresServer,
  contributions: { readonly alice: bigint; readonly bob: bigint } = { alice: 120_000n, bob: 60_000n },
) {
  const stack = new AsyncDisposableStack();
  const [alice, bob] = await Promise.all([
    TestNode.make(server, "alice", contributions.alice),
    TestNode.make(server, "bob", contributions.bob),
  ]);
  stack.use(alice);
  stack.use(bob);
  await Promise.all([alice.start(), bob.start()]);
  let generation = 0n;
  let wire: Wire | undefined;
  stack.defer(async () => {
    wire?.cut();
    await wire?.over();
  });
  const pair = {
    alice,
    bob,
    get wire(): Wire {
      assert(wire !== undefined);
      return wire;
    },
    /** Rows and attachments of a new open by alice; nothing is said yet. */
    async prepare(onFrame?: Wire["onFrame"]): Promise<Assignment> {
      generation++;
      const basepoint = await alice.drawKeys(bob.nodeId);
      await bob.drawKeys(alice.nodeId);
      const temporary = temporaryChannelIdV2(basepoint);
      const a = await alice.assignOpening(bob, "local", temporary, generation);
      const b = await bob.assignOpening(alice, "remote", temporary, generation);
      wire = new Wire({ node: alice, assignment: a }, { node: bob, assignment: b }, onFrame);
      return a;
    },
    /** alice's openchannel_init or fundchannel. */
    async openInit(assignment: Assignment, runToCompletion: boolean) {
      const plan = await alice.plan(alice.opening, "initiator", FEERATE);
      return await alice.call((dualopend) =>
        dualopend.openInit({
          opening: alice.opening,
          epoch: assignment.epoch,
          plan,
          fundingFeeratePerkw: FEERATE,
          commitmentFeeratePerkw: 253,
          locktime: HEIGHT,
          channelType: encodeChannelType(ANCHORS_STATIC_REMOTEKEY),
          runToCompletion,
        })
      );
    },
    /** A connection for the saved channel, with new epochs on both sides. */
    async reconnect(onFrame?: Wire["onFrame"]): Promise<{ readonly a: Assignment; readonly b: Assignment }> {
      generation++;
      const a = await alice.assignChannel(bob, generation);
      const b = await bob.assignChannel(alice, generation);
      wire = new Wire({ node: alice, assignment: a }, { node: bob, assignment: b }, onFrame);
      return { a, b };
    },
    /** Waits until both have the newest attempt complete, and the same. */
    async complete(count = 1) {
      const done = async (node: TestNode) => {
        const rows = await node.attempts();
        return rows.length === count && rows.every((row) => row.complete_tx !== null) ? rows : undefined;
      };
      const ours = await waitFor(() => done(alice), { what: "alice's attempts are complete" });
      const theirs = await waitFor(() => done(bob), { what: "bob's attempts are complete" });
      assert.deepEqual(ours.map((row) => row.complete_tx), theirs.map((row) => row.complete_tx));
      return ours;
    },
    async [Symbol.asyncDispose]() {
      await stack.disposeAsync();
    },
  };
  return pair;
}
