/** Stand-ins for tests of payments/: nodes with engine and rows of their own, and a channeld that says what a test wants, over real gRPC. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { decodeOnionPacket, encodeOnionPacket } from "bolt/onion/packet.ts";
import { peelOnion } from "bolt/onion/peel.ts";
import { invoiceSighash } from "bolt/invoice/fields.ts";
import { feerate, FEERATE_FLOOR, height } from "bolt/units.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { type Channel, dial, openBidi } from "common/grpc/client.ts";
import { type ArcusServer, createServer } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger } from "common/log.ts";
import { type Database, openDatabase, type Sql } from "common/pg/client.ts";
import { migrate } from "common/pg/migrate.ts";
import type { TestDatabase, TestPostgres } from "common/testing/database.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";
import {
  type HtlcCommands,
  type HtlcReportSchema,
  type HtlcReportsSchema,
  Htlcs,
  type NodeLevel,
  type OfferHtlc,
  type SettleHtlc,
} from "gen/arcus/channeld/v1/htlcs_pb.ts";
import { ChannelParamsSchema, FundingAttemptSchema } from "gen/arcus/store/v1/store_pb.ts";
import { takeLeadership } from "../leader.ts";
import type { Leader } from "../ports.ts";
import { BATCH_SETTINGS } from "./invoice_store.ts";
import { PaymentRoom, type PaymentRoomOptions } from "./payments.ts";

const SCHEMA = new URL("../../../schema", import.meta.url).pathname;
/** Where every chain stands. */
export const TEST_HEIGHT = 200;
/** Of the options. */
export const CLTV_FINAL = 18;

/** What a channeld says of a channel. */
export type Report = MessageInitShape<typeof HtlcReportSchema>["report"];

/** A node: its key, its rows, and one engine after another over them. */
export class TestNode implements AsyncDisposable {
  readonly key = randomBytes(32);
  readonly nodeId = ecc().pointFromSecret(this.key);
  readonly chainHash = chainHash("regtest");
  readonly databaseId = Uint8Array.from(randomBytes(16));
  /** What would have ended the process. */
  readonly fatal: unknown[] = [];
  height = TEST_HEIGHT;
  /** Calls of hsmd, and invoices in them. */
  readonly signed = { calls: 0, invoices: 0 };
  room!: PaymentRoom;
  leader!: Leader;
  #server: ArcusServer | undefined;
  #address = "";
  #channels: Channel[] = [];
  #runs = 0;

  private constructor(
    readonly database: Database,
    private readonly steps: Database,
    private readonly fresh: TestDatabase,
    private readonly folder: Awaited<ReturnType<typeof tempFolder>>,
    private readonly changes: Partial<PaymentRoomOptions>,
  ) {}

  get sql(): Sql {
    return this.database.sql;
  }

  static async start(postgres: TestPostgres, changes: Partial<PaymentRoomOptions> = {}): Promise<TestNode> {
    const fresh = await postgres.freshDatabase();
    const connection = { url: fresh.url, applicationName: "test" };
    await migrate({ ...connection, directory: SCHEMA });
    const database = await openDatabase({ ...connection, max: 4 });
    const steps = await openDatabase({ ...connection, max: 4, settings: BATCH_SETTINGS });
    const node = new TestNode(database, steps, fresh, await tempFolder(), changes);
    await node.begin();
    return node;
  }

  /** An engine takes leadership and serves: the first one, or one that was started again. */
  async begin(): Promise<void> {
    const log = createLogger({ sink: () => {} });
    this.leader = await takeLeadership(this.sql, `run-${++this.#runs}`);
    const rate = feerate(1_000);
    const fatal = this.fatal;
    this.room = new PaymentRoom({
      sql: this.sql,
      steps: this.steps.sql,
      leader: this.leader,
      node: { nodeId: this.nodeId, chainHash: this.chainHash, databaseId: this.databaseId },
      network: "regtest",
      hsmd: {
        signInvoices: async ({ invoices = [] }) => {
          this.signed.calls++;
          this.signed.invoices += invoices.length;
          return {
            $typeName: "arcus.hsmd.v1.SignInvoicesResponse",
            signatures: invoices.map(({ hrp = "", data = new Uint8Array() }) => {
              const { signature, recoveryId } = ecc().signRecoverable(invoiceSighash(hrp, data), this.key);
              return Uint8Array.of(...signature, recoveryId);
            }),
          };
        },
      },
      chain: {
        height: () => height(this.height),
        onTip: () => {},
        feerates: async () => ({
          opening: rate,
          commitment: rate,
          minAcceptable: FEERATE_FLOOR,
          maxAcceptable: feerate(10_000),
          floor: FEERATE_FLOOR,
          estimates: [],
        }),
      },
      features: nodeFeatures(),
      log,
      cltvFinal: CLTV_FINAL,
      onFatal: (error) => fatal.push(error),
      ...this.changes,
    });
    await this.room.start();
    this.#server = createServer({ services: this.room.services, log });
    this.#address = await this.#server.listen(`unix:${join(this.folder.path, `l${this.#runs}`)}`);
  }

  /** The engine dies; rows stay. */
  end(): void {
    this.room.stop();
    for (const channel of this.#channels) channel.close();
    this.#channels = [];
    this.#server?.closeAfterClients();
    this.#server = undefined;
  }

  /** The engine dies and another one takes over. */
  async restart(): Promise<void> {
    this.end();
    await this.begin();
  }

  /** A connection to this engine, closed with it. */
  dial(): Channel {
    const channel = dial(this.#address);
    this.#channels.push(channel);
    return channel;
  }

  /** Rows of a channel that can be used. */
  async channel(
    peerId: Uint8Array,
    more: { readonly minimumMsat?: bigint; readonly maxHtlcs?: number } = {},
  ): Promise<bigint> {
    const { sql } = this;
    const party = { htlcMinimumMsat: more.minimumMsat ?? 0n, maxAcceptedHtlcs: more.maxHtlcs ?? 483 };
    const params = toBinary(
      ChannelParamsSchema,
      create(ChannelParamsSchema, { version: 1, local: party, remote: party }),
    );
    const [row] = await sql<{ channel: bigint }[]>`
      INSERT INTO channels (peer_id, channel_id, temporary_channel_id, opener, state, owner_epoch, owner_instance,
        channel_key_id, payment_key_index, params, generation, local_alias, created_height)
      VALUES (${peerId}, ${randomBytes(32)}, ${
      randomBytes(32)
    }, 'local', 'DUALOPEND_AWAITING_LOCKIN', 1, 'test',
        ${randomBytes(32)}, 1, ${params}, 0, ${
      String(randomBytes(8).readBigUInt64BE())
    }, 100) RETURNING channel`;
    const { channel } = row!;
    const detail = toBinary(FundingAttemptSchema, create(FundingAttemptSchema, { version: 1 }));
    const [attempt] = await sql<{ attempt: bigint }[]>`
      INSERT INTO funding_attempts (channel, seq, initiator, txid, output_index, funding_script, local_contribution_sat,
        remote_contribution_sat, capacity_sat, feerate_perkw, fee_sat, locktime, detail, created_height)
      VALUES (${channel}, 0, 'local', ${randomBytes(32)}, 0, ${
      randomBytes(34)
    }, 50000, 50000, 100000, 1000, 500, 0,
        ${detail}, 100) RETURNING attempt`;
    await sql`
      UPDATE channels SET state = 'CHANNELD_NORMAL', locked_attempt = ${attempt!.attempt},
        channel_ready_received = true, remote_next_point = ${this.nodeId} WHERE channel = ${channel}`;
    await sql`INSERT INTO blocks VALUES (150, ${randomBytes(32)}, ${randomBytes(32)}) ON CONFLICT DO NOTHING`;
    await sql`
      INSERT INTO attempt_confirmations (attempt, height, tx_index, matches)
      VALUES (${attempt!.attempt}, 150, ${Number(channel)}, true)`;
    return channel;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.end();
    await this.steps.close();
    await this.database.close();
    await this.fresh.drop();
    await this.folder[Symbol.asyncDispose]();
  }
}

/** An HTLC as a test offers it to a node. */
export interface IncomingInit {
  readonly id: bigint;
  readonly htlc: bigint;
  readonly amountMsat: bigint;
  readonly cltvExpiry: number;
  readonly paymentHash: Uint8Array;
  readonly payload: Uint8Array;
  readonly sharedSecret: Uint8Array;
  readonly nextOnion?: Uint8Array;
}

/** A channeld that a test speaks for: what it was told is listed, and nothing is answered by itself. */
export class StandInChanneld {
  readonly instance = bytesToHex(randomBytes(4));
  readonly offers: { readonly channel: bigint; readonly offer: OfferHtlc }[] = [];
  readonly settles: { readonly channel: bigint; readonly settle: SettleHtlc }[] = [];
  node: NodeLevel | undefined;
  welcomed = false;
  ended = false;
  /** Called for each command, so that a test can be a whole network. */
  onOffer: ((channel: bigint, offer: OfferHtlc) => void) | undefined;
  onSettle: ((channel: bigint, settle: SettleHtlc) => void) | undefined;
  #stream: BidiStream<HtlcCommands, MessageInitShape<typeof HtlcReportsSchema>>;
  readonly #channel: Channel;
  #taken = 0;
  #settled = 0;

  constructor(readonly lightningd: TestNode) {
    this.#channel = lightningd.dial();
    this.#stream = openBidi(this.#channel, Htlcs.method.exchange, { waitForReady: true });
    this.#stream.onMessage(({ hello, commands }) => {
      if (hello !== undefined) this.welcomed = true;
      for (const { channel, command } of commands) {
        if (command.case === "node") this.node = command.value;
        if (command.case === "offer") {
          this.offers.push({ channel, offer: command.value });
          this.onOffer?.(channel, command.value);
        }
        if (command.case === "settle") {
          this.settles.push({ channel, settle: command.value });
          this.onSettle?.(channel, command.value);
        }
      }
    });
    this.#stream.onEnd(() => this.ended = true);
  }

  /** Says hello, and waits for the welcome. */
  async hello(changes: { readonly daemon?: string; readonly databaseId?: Uint8Array } = {}): Promise<void> {
    this.#stream.write({
      hello: { daemon: "channeld", contractVersion: 1, instance: this.instance, ...changes },
    });
    await waitFor(() => this.welcomed || this.ended, { what: "the welcome" });
  }

  /** Says several things in one message. */
  say(...reports: readonly { readonly channel: bigint; readonly epoch?: bigint; readonly report: Report }[]) {
    this.#stream.write({
      reports: reports.map(({ channel, epoch, report }) =>
        ({ channel, epoch: epoch ?? 1n, report }) as never
      ),
    });
  }

  /** Everything of a channel: usable with so much, nothing under way but what is given. */
  sync(
    channel: bigint,
    spendableMsat: bigint,
    more: { readonly reports?: readonly Report[]; readonly epoch?: bigint; readonly paused?: string } = {},
  ): void {
    const epoch = more.epoch ?? 1n;
    this.say(
      {
        channel,
        epoch,
        report: levelOf(spendableMsat, more.paused === undefined ? {} : { paused: more.paused }),
      },
      ...(more.reports ?? []).map((report) => ({ channel, epoch, report })),
      { channel, epoch, report: { case: "synced", value: {} } },
    );
  }

  /** The next offer that was not taken yet. */
  async nextOffer(): Promise<{ readonly channel: bigint; readonly offer: OfferHtlc }> {
    await waitFor(() => this.offers.length > this.#taken, { what: "an offer" });
    return this.offers[this.#taken++]!;
  }

  /** The next settlement that was not taken yet. */
  async nextSettle(): Promise<SettleHtlc> {
    await waitFor(() => this.settles.length > this.#settled, { what: "a settlement" });
    return this.settles[this.#settled++]!.settle;
  }

  /** The stream ends, as when the replica dies. */
  close(): void {
    this.#stream.cancel();
  }
}

/** A level. */
export function levelOf(
  spendableMsat: bigint,
  more: { readonly paused?: string; readonly state?: string; readonly htlcsOut?: number } = {},
): Report {
  return {
    case: "level",
    value: {
      state: "CHANNELD_NORMAL",
      paused: "",
      spendableMsat,
      receivableMsat: 1_000_000_000n,
      toUsMsat: spendableMsat,
      feeratePerkw: 1_000,
      ...more,
    },
  };
}

/** What channeld makes of an onion that comes to a node. */
export function peelFor(node: TestNode, onion: Uint8Array, paymentHash: Uint8Array) {
  const packet = decodeOnionPacket(onion);
  if (!packet.ok) throw new Error(packet.error.type);
  const sharedSecret = ecc().ecdh(node.key, packet.value.public_key)!;
  const peeled = peelOnion({ packet: packet.value, sharedSecret, associatedData: paymentHash });
  if (!peeled.ok) throw new Error(peeled.error.type);
  const { payload, next } = peeled.value;
  return {
    payload,
    sharedSecret,
    ...(next === null ? {} : { nextOnion: encodeOnionPacket(next) }),
  };
}

/** Two nodes' channelds joined: what one is told to offer comes in at the other. Everything is answered at once. */
export class Wire {
  readonly #htlcs = new Map<string, { readonly origin: bigint; readonly channel: bigint }>();
  #next = 1n;
  /** HTLCs that pass; more are held back until `release`. */
  hold = false;
  readonly #held: (() => void)[] = [];

  constructor(
    private readonly from: StandInChanneld,
    private readonly to: StandInChanneld,
    /** The same channel's number at the other node. */
    private readonly other: ReadonlyMap<bigint, bigint>,
  ) {
    from.onOffer = (channel, offer) => this.#pass(() => this.#offer(channel, offer));
    to.onSettle = (channel, settle) => this.#settle(channel, settle);
  }

  release(): void {
    this.hold = false;
    for (const pass of this.#held.splice(0)) pass();
  }

  #pass(work: () => void): void {
    if (this.hold) this.#held.push(work);
    else work();
  }

  #offer(channel: bigint, offer: OfferHtlc): void {
    const id = this.#next++;
    const there = this.other.get(channel);
    if (there === undefined) throw new Error("no such channel there");
    this.#htlcs.set(`${there}/${id}`, { origin: offer.origin, channel });
    this.from.say({ channel, report: { case: "offered", value: { origin: offer.origin, id } } });
    const { paymentHash, amountMsat, cltvExpiry } = offer;
    this.to.say({
      channel: there,
      report: {
        case: "incoming",
        value: {
          id,
          htlc: id,
          amountMsat,
          cltvExpiry,
          paymentHash,
          ...peelFor(this.to.lightningd, offer.onion, paymentHash),
        },
      },
    });
  }

  #settle(channel: bigint, { id, settlement }: SettleHtlc): void {
    const key = `${channel}/${id}`;
    const htlc = this.#htlcs.get(key);
    if (htlc === undefined) return;
    this.#htlcs.delete(key);
    const { origin } = htlc;
    if (settlement.case === "preimage") {
      this.from.say({
        channel: htlc.channel,
        report: {
          case: "resolved",
          value: { origin, id, outcome: { case: "preimage", value: settlement.value } },
        },
      });
    } else if (settlement.case === "fail") {
      this.from.say({
        channel: htlc.channel,
        report: {
          case: "resolved",
          value: {
            origin,
            id,
            outcome: { case: "failed", value: { reason: settlement.value.reason } },
            attributionData: settlement.value.attributionData,
          },
        },
      });
    }
    this.to.say({ channel, report: { case: "incomingResolved", value: { id, htlc: id } } });
  }
}
