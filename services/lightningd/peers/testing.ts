/** Stand-ins for tests of peers/: a connectd, subds and an hsmd that say what a test wants, over real gRPC and Postgres. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { feerate, FEERATE_FLOOR, height } from "bolt/units.ts";
import { decodeMessage, type Message } from "bolt/wire/messages.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { type Channel, client, dial, openBidi } from "common/grpc/client.ts";
import { type ArcusServer, createServer, implement } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger } from "common/log.ts";
import { type Database, openDatabase, type Sql } from "common/pg/client.ts";
import { migrate } from "common/pg/migrate.ts";
import type { TestPostgres } from "common/testing/database.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";
import {
  type AttachmentEnded_Reason,
  type ConnectRequestSchema,
  type ConnectResponse,
  Control,
  type LivePeerSchema,
  type PeerSpokeSchema,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type Plan, PlanSchema } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { ChannelParamsSchema, FundingAttemptSchema } from "gen/arcus/store/v1/store_pb.ts";
import {
  type Assign,
  type RegisterRequestSchema,
  type RegisterResponse,
  Registry,
} from "gen/arcus/subd/v1/subd_pb.ts";
import { Direction } from "gen/arcus/types/v1/types_pb.ts";
import { takeLeadership } from "../leader.ts";
import { openNode } from "../node.ts";
import type { Chain, Leader, Wallet } from "../ports.ts";
import { PeerRoom } from "./peers.ts";

const SCHEMA = new URL("../../../schema", import.meta.url).pathname;
/** Blocks after which it forgets a channel that it has not signed. */
export const UNSIGNED_GIVEUP_BLOCKS = 10;
/** The height at which every stand-in chain stands. */
export const TEST_HEIGHT = 200;

/** Opens that one peer may start in a minute. */
export const OPENS_PER_MINUTE = 4;
/** Blocks after which a stand-in lightningd gives a peer's open up. */
export const GIVEUP_BLOCKS = 50;

type Case<M extends { message: { case: string | undefined } }> = Exclude<M["message"]["case"], undefined>;
type Value<M extends { message: { case: string | undefined; value?: unknown } }, C> = Extract<
  M["message"],
  { case: C }
>["value"];

/** Messages that arrived, in order; each is taken once. */
class Inbox<M extends { message: { case: string | undefined; value?: unknown } }> {
  readonly all: M["message"][] = [];
  #taken = 0;

  push(message: M["message"]): void {
    this.all.push(message);
  }

  /** The next message of this kind that was not taken yet; those before it are passed over. */
  async next<C extends Case<M>>(kind: C): Promise<Value<M, C>> {
    const index = await waitFor(() => {
      const at = this.all.findIndex((message, i) => i >= this.#taken && message.case === kind);
      return at === -1 ? false : at + 1;
    }, { what: `a message ${kind}`, deadline: 10_000 });
    this.#taken = index;
    return this.all[index - 1]!.value as Value<M, C>;
  }

  /** How many of this kind ever came. */
  count(kind: Case<M>): number {
    return this.all.filter((message) => message.case === kind).length;
  }
}

/** A connectd that a test speaks for. */
export class StandInConnectd {
  readonly inbox = new Inbox<ConnectResponse>();
  readonly stream: BidiStream<ConnectResponse, MessageInitShape<typeof ConnectRequestSchema>>;
  #connection = 0n;
  #spoke = 0n;

  constructor(channel: Channel, readonly instance: string = bytesToHex(randomBytes(4))) {
    this.stream = openBidi(channel, Control.method.connect, { waitForReady: true });
    this.stream.onMessage(({ message }) => this.inbox.push(message));
    this.stream.onEnd(() => {});
  }

  /** Says hello, and waits for the welcome. */
  async hello(
    peers: MessageInitShape<typeof LivePeerSchema>[] = [],
    unanswered: MessageInitShape<typeof PeerSpokeSchema>[] = [],
    bindings: string[] = ["127.0.0.1:9735"],
  ) {
    this.#send({
      case: "hello",
      value: {
        hello: { daemon: "connectd", contractVersion: 1, instance: this.instance },
        bindings,
        grpcAddress: "unix:/nowhere",
        peers,
        unanswered,
      },
    });
    return await this.inbox.next("welcome");
  }

  /** A peer connected; answers its generation. */
  async peer(peerId: Uint8Array, more: { readonly replaced?: bigint } = {}): Promise<bigint> {
    this.connect(peerId, more);
    return (await this.inbox.next("peerAccepted")).generation;
  }

  /** The same without waiting. */
  connect(peerId: Uint8Array, more: { readonly replaced?: bigint } = {}): void {
    const peer = {
      peerId,
      connection: ++this.#connection,
      direction: Direction.OUTGOING,
      remoteAddr: "127.0.0.1:19735",
      features: nodeFeatures().toBytes(),
    };
    if (more.replaced === undefined) this.#send({ case: "peerConnected", value: peer });
    else this.#send({ case: "peerReconnected", value: { peer, replacedGeneration: more.replaced } });
  }

  /** The number of the last connection. */
  get connection(): bigint {
    return this.#connection;
  }

  gone(peerId: Uint8Array, generation: bigint, connection = this.#connection): void {
    this.#send({
      case: "peerDisconnected",
      value: { peerId, connection, generation, reason: "test", drained: true },
    });
  }

  /** The peer said something on a channel that nobody is attached for; answers the spoke's number. */
  spoke(peerId: Uint8Array, generation: bigint, channelId: Uint8Array, messageType: number): bigint {
    const spokeId = ++this.#spoke;
    this.#send({ case: "peerSpoke", value: { peerId, generation, spokeId, messageType, channelId } });
    return spokeId;
  }

  started(peerId: Uint8Array, generation: bigint, channelId: Uint8Array, epoch: bigint): void {
    this.#send({ case: "attachmentStarted", value: { peerId, generation, channelId, epoch } });
  }

  ended(
    peerId: Uint8Array,
    generation: bigint,
    channelId: Uint8Array,
    epoch: bigint,
    reason: AttachmentEnded_Reason,
  ): void {
    this.#send({ case: "attachmentEnded", value: { peerId, generation, channelId, epoch, reason } });
  }

  /** The messages of the next peer_final_msg, decoded. */
  async finalMessages(): Promise<
    { messages: Message[]; hangUp: boolean; spokeId: bigint; channelId: Uint8Array }
  > {
    const { messages, hangUp, spokeId, channelId } = await this.inbox.next("peerFinalMsg");
    return { messages: messages.map(decoded), hangUp, spokeId, channelId };
  }

  #send(message: NonNullable<MessageInitShape<typeof ConnectRequestSchema>["message"]>): void {
    this.stream.write({ message });
  }
}

function decoded(bytes: Uint8Array): Message {
  const result = decodeMessage(bytes);
  if (!result.ok || result.value.type === "unknown") throw new Error("not a message of ours");
  return result.value;
}

/** A subd that a test speaks for; it takes every assignment. */
export class StandInSubd {
  readonly inbox = new Inbox<RegisterResponse>();
  readonly stream: BidiStream<RegisterResponse, MessageInitShape<typeof RegisterRequestSchema>>;
  /** What is answered to an assignment; not empty: a refusal. */
  answer = "";

  constructor(
    channel: Channel,
    readonly kind: "dualopend" | "channeld",
    readonly instance: string = bytesToHex(randomBytes(4)),
  ) {
    this.stream = openBidi(channel, Registry.method.register, { waitForReady: true });
    this.stream.onMessage(({ message }) => {
      this.inbox.push(message);
      if (message.case !== "assign") return;
      const { assignId } = message.value;
      this.stream.write({ message: { case: "assignResult", value: { assignId, error: this.answer } } });
    });
    this.stream.onEnd(() => {});
  }

  async hello(held: { channel: bigint; epoch: bigint }[] = []): Promise<this> {
    this.stream.write({
      message: {
        case: "hello",
        value: {
          hello: { daemon: this.kind, contractVersion: 1, instance: this.instance },
          grpcAddress: `unix:/subd/${this.instance}`,
          held,
        },
      },
    });
    await this.inbox.next("welcome");
    return this;
  }

  /** Assignments so far. */
  get assigns(): Assign[] {
    return this.inbox.all.flatMap((message) => message.case === "assign" ? [message.value] : []);
  }

  say(message: NonNullable<MessageInitShape<typeof RegisterRequestSchema>["message"]>): void {
    this.stream.write({ message });
  }
}

/** What the stand-in hsmd remembers, for a test to look at and to change. */
export interface HsmdMemory {
  readonly epochs: Map<string, bigint>;
  bound: boolean;
}

/** One lightningd's peers/ on a database of its own. */
export class TestRoom implements AsyncDisposable {
  readonly hsmdMemory: HsmdMemory = { epochs: new Map(), bound: false };
  /** What would have ended the process. */
  readonly fatal: unknown[] = [];
  /** Listeners of the stand-in chain. */
  readonly tips: ((tip: number, channels: readonly bigint[]) => void)[] = [];
  /** Channels whose attempts the stand-in wallet was told to double-spend. */
  readonly doubleSpent: bigint[] = [];
  /** Whether the stand-in chain knows a fee rate. */
  feerateKnown = true;
  room!: PeerRoom;
  leader!: Leader;
  readonly #closing: (() => unknown)[] = [];
  #channels: Channel[] = [];
  #server: ArcusServer | undefined;
  #address = "";
  #runs = 0;

  private constructor(
    private readonly folder: string,
    readonly database: Database,
    private readonly hsmdAddress: string,
  ) {}

  get sql(): Sql {
    return this.database.sql;
  }

  static async start(postgres: TestPostgres): Promise<TestRoom> {
    const folder = await tempFolder();
    const fresh = await postgres.freshDatabase();
    const connection = { url: fresh.url, applicationName: "lightningd-test" };
    await migrate({ ...connection, directory: SCHEMA });
    const database = await openDatabase({ ...connection, max: 4 });
    const hsmdAddress = `unix:${join(folder.path, "hsmd")}`;
    const test = new TestRoom(folder.path, database, hsmdAddress);
    const hsmd = createServer({ services: [test.#hsmd()], log: createLogger({ sink: () => {} }) });
    await hsmd.listen(hsmdAddress);
    test.#closing.push(
      () => folder[Symbol.asyncDispose](),
      () => fresh.drop(),
      () => database.close(),
      () => hsmd.closeAfterClients(),
    );
    await test.begin();
    return test;
  }

  /** A lightningd takes leadership and serves: the first one, or one that was started again. */
  async begin(): Promise<void> {
    const log = createLogger({ sink: () => {} });
    const leader = this.leader = await takeLeadership(this.sql, `run-${++this.#runs}`);
    const channel = dial(this.hsmdAddress);
    const hsmd = client(Hsmd, channel);
    const node = await openNode(this.sql, leader, hsmd, "regtest", log);
    this.room = new PeerRoom({
      sql: this.sql,
      leader,
      node,
      hsmd,
      chain: this.#chain(),
      wallet: {
        ...TEST_WALLET,
        doubleSpendAttempts: (channel) => {
          this.doubleSpent.push(channel);
          return Promise.resolve(new Uint8Array(32));
        },
      },
      log,
      policy: { fundingConfirms: 1 },
      maxOpensPerPeer: 3,
      maxOpensPerMinute: OPENS_PER_MINUTE,
      maxCapacity: undefined,
      openTimeoutMs: 60_000,
      fundingGiveupBlocks: GIVEUP_BLOCKS,
      unsignedGiveupBlocks: UNSIGNED_GIVEUP_BLOCKS,
      tls: undefined,
      onFatal: (error) => this.fatal.push(error),
    });
    await this.room.start();
    // What a test writes piecemeal is not to be found by the look at the first block.
    await this.room.blocksHandled();
    this.#server = createServer({ services: this.room.services, log });
    this.#address = await this.#server.listen(`unix:${join(this.folder, `l${this.#runs}`)}`);
    this.#channels = [channel];
  }

  /** Ends this lightningd; its rows stay. */
  async end(): Promise<void> {
    await this.room.stop();
    for (const channel of this.#channels) channel.close();
    this.#channels = [];
    this.#server?.closeAfterClients();
    this.tips.length = 0;
  }

  connectd(instance?: string): StandInConnectd {
    return new StandInConnectd(this.dial(), instance);
  }

  subd(kind: "dualopend" | "channeld", instance?: string): StandInSubd {
    return new StandInSubd(this.dial(), kind, instance);
  }

  /** A connection to this lightningd, closed with it. */
  dial(): Channel {
    const channel = dial(this.#address);
    this.#channels.push(channel);
    return channel;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    for (const close of this.#closing.reverse()) await close();
  }

  #chain(): Chain {
    const rate = feerate(1_000);
    return {
      height: () => height(TEST_HEIGHT),
      warning: () => undefined,
      feerates: () =>
        this.feerateKnown
          ? Promise.resolve({
            opening: rate,
            commitment: rate,
            minAcceptable: FEERATE_FLOOR,
            maxAcceptable: feerate(10_000),
            floor: FEERATE_FLOOR,
            estimates: [],
          })
          : Promise.reject(new Error("unknown")),
      onTip: (listener) => void this.tips.push((tip, channels) => listener(height(tip), channels)),
      confirmedTransaction: () => Promise.resolve(undefined),
      confirmedUnspent: (outpoints) => Promise.resolve(outpoints.map(() => true)),
      testmempoolaccept: () => Promise.resolve({ verdict: "accepted", detail: "" }),
      broadcast: () => Promise.resolve(""),
      scanNewAttempts: () => Promise.resolve(),
    };
  }

  #hsmd() {
    const { epochs } = this.hsmdMemory;
    const nodeId = peerKey();
    const info = () => ({
      nodeId,
      memoryId: new Uint8Array(16).fill(7),
      chainHash: chainHash("regtest"),
      instance: "hsmd-test",
      highWater: BigInt(epochs.size),
      bound: this.hsmdMemory.bound,
      trusted: true,
    });
    return implement(Hsmd, {
      getInfo: info,
      bindDatabase: () => {
        this.hsmdMemory.bound = true;
        return { info: info() };
      },
      newChannel: () => ({
        channelKeyId: randomBytes(32),
        paymentKeyIndex: 1,
        keys: { revocationBasepoint: peerKey() },
      }),
      registerEpochs: ({ channels }) => ({
        channels: channels.map(({ channelKeyId, epoch }) => {
          const key = bytesToHex(channelKeyId);
          const known = epochs.get(key) ?? 0n;
          const refused = epoch < known;
          if (!refused) epochs.set(key, epoch);
          return {
            channelKeyId,
            epoch: refused ? known : epoch,
            refused,
            refusal: refused ? "EPOCH_STALE" : "",
          };
        }),
      }),
      listEpochs: () => ({ channels: [] }),
      nameDestinations: () => ({}),
    });
  }
}

const EMPTY_PLAN: Plan = create(PlanSchema, {});

/** A wallet without coins. */
const TEST_WALLET: Wallet = {
  newAddress: () =>
    Promise.resolve({ address: "bcrt1p", script: new Uint8Array([0x51, 0x20, ...new Uint8Array(32)]) }),
  planOwnFunding: () => Promise.resolve(EMPTY_PLAN),
  planFromPsbt: () => Promise.resolve(EMPTY_PLAN),
  planAccept: () => Promise.resolve(EMPTY_PLAN),
  reconcile: () => Promise.resolve(),
};

/** 33 bytes that look like a node id or a basepoint. */
export function peerKey(): Uint8Array {
  return new Uint8Array([2, ...randomBytes(32)]);
}

/** A saved channel. */
export interface SavedChannel {
  readonly channel: bigint;
  readonly channelId: Uint8Array;
  readonly attempt: bigint;
  readonly channelKeyId: Uint8Array;
}

/** Writes the rows of a saved channel with one complete attempt, as dualopend would have. */
export async function saveChannel(
  sql: Sql,
  peerId: Uint8Array,
  more: {
    readonly state?: string;
    readonly generation?: bigint;
    readonly epoch?: bigint;
    readonly instance?: string;
    readonly errorText?: string;
    readonly temporaryChannelId?: Uint8Array;
    readonly channelKeyId?: Uint8Array;
  } = {},
): Promise<SavedChannel> {
  const state = more.state ?? "DUALOPEND_AWAITING_LOCKIN";
  const channelId = randomBytes(32);
  const channelKeyId = more.channelKeyId ?? randomBytes(32);
  const [row] = await sql<{ channel: bigint }[]>`
    INSERT INTO channels (peer_id, channel_id, temporary_channel_id, opener, state, owner_epoch, owner_instance,
      channel_key_id, payment_key_index, params, generation, local_alias, error_text, created_height)
    VALUES (${peerId}, ${channelId}, ${more.temporaryChannelId ?? randomBytes(32)}, 'remote',
      'DUALOPEND_AWAITING_LOCKIN', ${more.epoch ?? 1n}, ${more.instance ?? "former"}, ${channelKeyId}, 1,
      ${toBinary(ChannelParamsSchema, create(ChannelParamsSchema, { version: 1 }))}, ${more.generation ?? 0n},
      ${String(randomBytes(8).readBigUInt64BE())}, ${
    more.errorText ?? null
  }, ${TEST_HEIGHT}) RETURNING channel`;
  const attempt = await saveAttempt(sql, row!.channel, 0);
  if (state.startsWith("CHANNELD")) {
    await sql`
      UPDATE channels SET state = ${state}, locked_attempt = ${attempt}, channel_ready_received = true,
        remote_next_point = ${peerKey()} WHERE channel = ${row!.channel}`;
  }
  return { channel: row!.channel, channelId: Uint8Array.from(channelId), attempt, channelKeyId };
}

/** Writes one complete attempt of a channel. */
export async function saveAttempt(sql: Sql, channel: bigint, seq: number): Promise<bigint> {
  const detail = toBinary(FundingAttemptSchema, create(FundingAttemptSchema, { version: 1 }));
  const [row] = await sql<{ attempt: bigint }[]>`
    INSERT INTO funding_attempts (channel, seq, initiator, txid, output_index, funding_script, local_contribution_sat,
      remote_contribution_sat, capacity_sat, feerate_perkw, fee_sat, locktime, detail, created_height,
      remote_commitment_signature, local_tx_signatures, remote_tx_signatures, complete_tx)
    VALUES (${channel}, ${seq}, 'remote', ${randomBytes(32)}, 0, ${randomBytes(34)}, 40000, 60000, 100000,
      ${1000 + seq * 100}, 500, 0, ${detail}, ${TEST_HEIGHT}, ${randomBytes(64)}, ${randomBytes(4)}, ${
    randomBytes(4)
  },
      ${randomBytes(200)}) RETURNING attempt`;
  return row!.attempt;
}

/** Confirms an attempt in a block of its own. */
export async function confirmAttempt(sql: Sql, attempt: bigint, at: number = TEST_HEIGHT): Promise<void> {
  await sql`INSERT INTO blocks (height, hash, prev_hash) VALUES (${at}, ${randomBytes(32)}, ${
    randomBytes(32)
  })
    ON CONFLICT DO NOTHING`;
  await sql`INSERT INTO attempt_confirmations (attempt, height, tx_index, matches) VALUES (${attempt}, ${at}, 1, true)`;
}
