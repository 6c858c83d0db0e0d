/** payments/ put together: invoices, incoming and outgoing payments over the channelds' HTLC streams. */
import { fromBinary } from "@bufbuild/protobuf";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { decodeInvoice } from "bolt/invoice/decode.ts";
import { type Invoice, invoiceExpiresAt, type InvoiceNetwork } from "bolt/invoice/types.ts";
import { stripLightningUri } from "bolt/invoice/uri.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { Network } from "bolt/wire/chain_hash.ts";
import { MAX_SAT } from "bolt/units.ts";
import { featureBit, type FeatureName, Features, hasFeature } from "bolt/wire/features.ts";
import { packShortChannelId } from "bolt/wire/short_channel_id.ts";
import type { TlvRecord } from "bolt/wire/tlv.ts";
import { invalidArgument } from "common/grpc/errors.ts";
import type { ImplementedService } from "common/grpc/server.ts";
import type { Logger } from "common/log.ts";
import { numberList } from "common/pg/lists.ts";
import type { Sql } from "common/pg/client.ts";
import { ChannelParamsSchema } from "gen/arcus/store/v1/store_pb.ts";
import { fence } from "../leader.ts";
import type { HsmdClient, NodeIdentity } from "../node.ts";
import type { Chain, Leader } from "../ports.ts";
import { Batcher } from "./batch.ts";
import { type ChannelFacts, type ChannelView, ChannelViews } from "./channel_views.ts";
import { PayCode, payRefusal } from "./codes.ts";
import { type HtlcEvents, HtlcStreams } from "./htlc_streams.ts";
import { Incoming, secondsOf } from "./incoming.ts";
import { Invoices } from "./invoices.ts";
import { InvoiceStore } from "./invoice_store.ts";
import { type Paid, type PartEnd, Payer, type RouteStep } from "./payer.ts";
import { type PartRow, type PaymentFacts, type PaymentRow, PaymentStore } from "./payment_store.ts";
import { encodeTlvs } from "./tlvs.ts";

const MS = 1_000;
const PREIMAGE_LENGTH = 32;
/** Payments may be tried again for so long (CLN's retry_for). */
export const DEFAULT_RETRY_SECONDS = 60;
/** Seconds until an invoice expires that says nothing else (CLN: a week). */
export const DEFAULT_INVOICE_EXPIRY = 604_800n;
/** BOLT 4: the rest of a payment may take at least 60 s. */
export const MPP_TIMEOUT_MS = 60_000;
/** Longest time that a timer takes. */
const MAX_TIMER_MS = 0x7fff_ffff;
const INVALID_PARAMS = -32602;
/** All bitcoin. */
const MAX_MSAT = MAX_SAT * 1_000n;
/** Largest number of a row. */
const MAX_NUMBER = (1n << 63n) - 1n;
/** Blocks of an HTLC that we send, at most; the option of a caller may ask for less. */
const MAX_DELAY = 2016;

const NETWORK_NAMES: Readonly<Record<Network, InvoiceNetwork>> = {
  bitcoin: "bitcoin",
  testnet: "testnet",
  testnet4: "testnet",
  signet: "signet",
  regtest: "regtest",
};

/** What an invoice of ours says of us: what a payer must have, and what it may use. */
export function invoiceFeatures(node: Features): Features {
  const required: readonly FeatureName[] = ["var_onion_optin", "payment_secret"];
  const offered: readonly FeatureName[] = ["basic_mpp", "option_attribution_data"];
  return Features.of(
    ...required.map(featureBit),
    ...offered.filter((name) => hasFeature(node, name)).map((name) => featureBit(name) + 1),
  );
}

/** A call of pay. */
export interface PayRequest {
  readonly bolt11: string;
  readonly amountMsat?: bigint;
  readonly label?: string;
  readonly description?: string;
  readonly retrySeconds?: number;
  readonly maxDelay?: number;
  /** Pay only so much: others pay the rest. */
  readonly partialMsat?: bigint;
  /** Short channel ids and node ids in hex. */
  readonly exclude?: readonly (bigint | string)[];
}

/** A call of keysend. */
export interface KeysendRequest {
  readonly destination: Uint8Array;
  readonly amountMsat: bigint;
  readonly label?: string;
  readonly retrySeconds?: number;
  readonly extraTlvs?: readonly TlvRecord[];
}

/** A call of sendpay. */
export interface SendpayRequest {
  readonly route: readonly RouteStep[];
  readonly paymentHash: Uint8Array;
  readonly amountMsat?: bigint;
  readonly paymentSecret?: Uint8Array;
  readonly metadata?: Uint8Array;
  readonly partid?: bigint;
  readonly groupid?: bigint;
  readonly bolt11?: string;
  readonly label?: string;
  readonly description?: string;
}

/** Settings of {@link PaymentRoom}. */
export interface PaymentRoomOptions {
  readonly sql: Sql;
  /** Connections for batches, with BATCH_SETTINGS; default: `sql`. */
  readonly steps?: Sql;
  readonly leader: Leader;
  readonly node: NodeIdentity;
  readonly network: Network;
  readonly hsmd: Pick<HsmdClient, "signInvoices">;
  readonly chain: Pick<Chain, "height" | "feerates" | "onTip">;
  readonly features: Features;
  readonly log: Logger;
  /** Least blocks that a payment to us must leave (option cltv-final). */
  readonly cltvFinal: number;
  /** Least fee rate that a peer's update_fee may have, sat/kw (option min-feerate); default: the protocol's floor. */
  readonly minFeerate?: number;
  readonly mppTimeoutMs?: number;
  /** Milliseconds since 1970; invoices only. */
  readonly now?: () => number;
  readonly onFatal: (error: unknown) => void;
}

/** Terms of setchannel. */
export interface ChannelTerms {
  readonly feeBaseMsat?: bigint;
  readonly feePpm?: bigint;
  readonly htlcMinMsat?: bigint;
  readonly htlcMaxMsat?: bigint;
  readonly ignoreFeeLimits?: boolean;
}

/** An HTLC as rows have it. */
export interface HtlcRow {
  readonly htlc: bigint;
  readonly channel: bigint;
  readonly offered: boolean;
  readonly id: bigint;
  /** CLN's name; the last state for one that is gone. */
  readonly state: string;
  readonly amountMsat: bigint;
  readonly paymentHash: Uint8Array;
  readonly cltvExpiry: number;
}

/** Sums over a channel's HTLCs. */
export interface ChannelTotals {
  readonly inOffered: number;
  readonly inOfferedMsat: bigint;
  readonly inFulfilled: number;
  readonly inFulfilledMsat: bigint;
  readonly outOffered: number;
  readonly outOfferedMsat: bigint;
  readonly outFulfilled: number;
  readonly outFulfilledMsat: bigint;
}

interface FactsRow {
  readonly channel: bigint;
  readonly channel_id: Uint8Array;
  readonly peer_id: Uint8Array;
  readonly owner_epoch: bigint;
  readonly local_alias: string;
  readonly remote_alias: string | null;
  readonly params: Uint8Array;
  readonly output_index: number | null;
  readonly height: number | null;
  readonly tx_index: number | null;
}

/** Invoices and payments of a node. */
export class PaymentRoom {
  /** arcus.channeld.v1.Htlcs. */
  readonly services: readonly ImplementedService[];
  readonly invoices: Invoices;
  readonly views = new ChannelViews();
  readonly #streams: HtlcStreams;
  readonly #incoming: Incoming;
  readonly #payer: Payer;
  readonly #payments: PaymentStore;
  readonly #facts = new Map<bigint, ChannelFacts>();
  readonly #factsRead: Batcher<bigint, ChannelFacts | undefined>;
  readonly #now: () => number;
  #stopped = false;

  constructor(private readonly options: PaymentRoomOptions) {
    const { sql, leader, node, log, chain, features, cltvFinal, onFatal } = options;
    const now = this.#now = options.now ?? Date.now;
    const seconds = () => secondsOf(now());
    const invoices = new InvoiceStore(sql, leader, options.steps);
    this.#payments = new PaymentStore(sql, leader, options.steps);
    this.#factsRead = new Batcher((channels) => this.#readFacts(channels));
    const send = (channel: bigint, command: Parameters<HtlcStreams["send"]>[1]) =>
      this.#streams.send(channel, command);
    const failed = (error: unknown) => {
      if (!this.#stopped) onFatal(error);
    };
    this.#incoming = new Incoming({
      store: invoices,
      log,
      height: () => chain.height(),
      now: seconds,
      send,
      mppTimeoutMs: options.mppTimeoutMs ?? MPP_TIMEOUT_MS,
      cltvFinal,
      attribution: hasFeature(features, "option_attribution_data"),
      onPaid: (invoice) => this.invoices.paid(invoice),
      onFatal: failed,
    });
    this.invoices = new Invoices({
      store: invoices,
      incoming: this.#incoming,
      hsmd: options.hsmd,
      network: NETWORK_NAMES[options.network],
      features: invoiceFeatures(features),
      defaultExpiry: DEFAULT_INVOICE_EXPIRY,
      cltvFinal,
      now: seconds,
    });
    this.#payer = new Payer({
      store: this.#payments,
      views: this.views,
      log,
      height: () => chain.height(),
      now,
      send,
      hasChannel: (peerId) => this.#hasChannel(peerId),
      onFatal: failed,
    });
    this.#streams = new HtlcStreams({
      node,
      leader,
      log,
      events: this.#events(),
      epochOf: async (channel) => {
        const facts = await this.#factsRead.submit(channel);
        if (facts !== undefined) this.#facts.set(channel, facts);
        return facts?.ownerEpoch;
      },
      onFatal: failed,
    });
    this.services = [this.#streams.service];
  }

  /** Before the faces listen: takes over what is live in the rows. History is not read. */
  async start(): Promise<void> {
    const { chain } = this.options;
    await Promise.all([this.#incoming.start(), this.#payer.start()]);
    await this.#tip();
    chain.onTip(() => {
      this.#tip().catch((error) =>
        this.options.log.warn({ err: error }, "channels were not told of a block")
      );
    });
  }

  stop(): void {
    this.#stopped = true;
    this.#incoming.stop();
    this.#payer.stop();
  }

  /** Statements and items so far, by what they are for. */
  batches(): Readonly<Record<string, { readonly runs: number; readonly items: number }>> {
    const of = ({ runs, items }: Batcher<never, never>) => ({ runs, items });
    const { inserts, settlements } = this.#incoming;
    const { starts, resolutions } = this.#payer;
    return {
      invoices: of(inserts as never),
      settlements: of(settlements as never),
      starts: of(starts as never),
      resolutions: of(resolutions as never),
    };
  }

  // ---------------------------------------------------------------------------------------------------------- paying

  /** Reads an invoice. INVALID_PARAMS for what is none, or is for another network. */
  decode(text: string): Invoice {
    const decoded = decodeInvoice(stripLightningUri(text));
    if (!decoded.ok) {
      throw invalidArgument("BAD_INVOICE", `Invalid bolt11: ${decoded.error.reason}`, {
        clnCode: INVALID_PARAMS,
      });
    }
    return decoded.value;
  }

  /** Pays an invoice over our channels with its payee. */
  async pay(request: PayRequest): Promise<Paid> {
    const invoice = this.decode(request.bolt11);
    const { facts, exclude } = this.#factsOf(invoice, request);
    return await this.#payer.pay(facts, exclude);
  }

  /** Pays a node that gave no invoice. */
  async keysend(request: KeysendRequest): Promise<Paid> {
    const { destination, amountMsat, label, retrySeconds, extraTlvs } = request;
    requireText({ label });
    if (amountMsat <= 0n || amountMsat > MAX_MSAT) throw wrong("amount_msat", "is no amount to pay");
    if (sameBytes(destination, this.options.node.nodeId)) throw selfPayment();
    const preimage = crypto.getRandomValues(new Uint8Array(PREIMAGE_LENGTH));
    return await this.#payer.pay({
      kind: "pay",
      paymentHash: sha256(preimage),
      destination,
      amountMsat,
      totalMsat: amountMsat,
      keysendPreimage: preimage,
      finalCltv: this.options.cltvFinal,
      mpp: false,
      deadline: this.#deadline(retrySeconds),
      ...(extraTlvs === undefined || extraTlvs.length === 0 ? {} : { extraTlvs: encodeTlvs(extraTlvs) }),
      ...(label === undefined ? {} : { label }),
    });
  }

  /** Sends one part along a route. */
  async sendpay(request: SendpayRequest) {
    const { route, paymentHash, partid = 0n, groupid, paymentSecret, metadata, bolt11, label, description } =
      request;
    requireText({ bolt11, label, description });
    for (const [name, number] of Object.entries({ partid, groupid: groupid ?? 0n })) {
      if (number < 0n || number > MAX_NUMBER) throw wrong(name, "is too large");
    }
    const [first, last] = [route[0], route.at(-1)];
    if (first === undefined || last === undefined) {
      throw payRefusal(PayCode.routeNotFound, "NO_ROUTE", "the route is empty");
    }
    if (route.some(({ delay }) => delay > MAX_DELAY)) {
      throw invalidArgument("INVALID_PARAMS", `route: a delay is more than ${MAX_DELAY} blocks`, {
        clnCode: INVALID_PARAMS,
      });
    }
    if (first.amountMsat < last.amountMsat) throw wrong("route", "more arrives than is sent");
    const amountMsat = request.amountMsat ?? last.amountMsat;
    if (partid !== 0n && request.amountMsat === undefined) {
      throw invalidArgument("INVALID_PARAMS", "amount_msat: must be given with partid", {
        clnCode: INVALID_PARAMS,
      });
    }
    return await this.#payer.sendpay(
      {
        kind: "sendpay",
        paymentHash,
        destination: last.pubkey,
        amountMsat,
        totalMsat: amountMsat,
        finalCltv: last.delay,
        mpp: partid !== 0n,
        deadline: new Date(this.#now()),
        ...(groupid === undefined ? {} : { groupid }),
        ...(paymentSecret === undefined ? {} : { paymentSecret }),
        ...(metadata === undefined ? {} : { metadata }),
        ...(bolt11 === undefined ? {} : { bolt11 }),
        ...(label === undefined ? {} : { label }),
        ...(description === undefined ? {} : { description }),
      },
      route,
      partid,
    );
  }

  /** Resolves with a part's rows once it has ended. 208 when there is none, 200 when time is over. */
  async waitSendpay(
    paymentHash: Uint8Array,
    partid: bigint,
    groupid?: bigint,
    timeoutSeconds?: number,
  ): Promise<PartRow> {
    const { promise, resolve, reject } = Promise.withResolvers<PartEnd>();
    promise.catch(() => {});
    const find = async () => {
      const rows = await this.#payments.listParts({ paymentHash });
      return rows.findLast((row) =>
        row.partid === partid && (groupid === undefined || row.of.groupid === groupid)
      );
    };
    const forget = this.#payer.onPartEnd(paymentHash, partid, (group, end) => {
      if (groupid === undefined || group === groupid) resolve(end);
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      // After the listener is there: nothing is missed in between.
      const row = await find();
      if (row === undefined) {
        throw payRefusal(PayCode.noSuchPayment, "NO_PAYMENT", "Never attempted payment part");
      }
      if (row.resolved !== undefined) return row;
      if (timeoutSeconds !== undefined) {
        timer = setTimeout(
          () => reject(payRefusal(PayCode.inProgress, "TIMED_OUT", "Timed out while waiting")),
          Math.min(timeoutSeconds * MS, MAX_TIMER_MS),
        );
      }
      await promise;
      const ended = await find();
      if (ended === undefined) throw payRefusal(PayCode.noSuchPayment, "NO_PAYMENT", "the payment is gone");
      return ended;
    } finally {
      clearTimeout(timer);
      forget();
    }
  }

  listPayments(query: Parameters<PaymentStore["list"]>[0]): Promise<PaymentRow[]> {
    return this.#payments.list(query);
  }

  listParts(query: Parameters<PaymentStore["listParts"]>[0]): Promise<PartRow[]> {
    return this.#payments.listParts(query);
  }

  partCounts(payments: readonly bigint[]): Promise<Map<bigint, number>> {
    return this.#payments.partCounts(payments);
  }

  // -------------------------------------------------------------------------------------------------------- channels

  /** What all our channels may receive together now. */
  receivableMsat(): bigint {
    let sum = 0n;
    for (const view of this.views.all()) if (view.usable) sum += view.level?.receivableMsat ?? 0n;
    return sum;
  }

  /** HTLCs of a channel or of all, those under way and, unless `live`, those that are gone. By htlcs.htlc. */
  async listHtlcs(
    query: {
      readonly channels?: readonly bigint[];
      readonly start?: bigint;
      readonly limit?: number;
      readonly live?: boolean;
    },
  ): Promise<HtlcRow[]> {
    const { sql } = this.options;
    const { channels, start = 0n, limit, live = false } = query;
    const most = limit === undefined ? (1n << 62n) : BigInt(limit);
    const which = channels === undefined ? sql`true` : sql`channel = ANY(${numberList(channels)}::bigint[])`;
    const history = live ? sql`` : sql`
      UNION ALL (
        SELECT htlc, channel, offered, id,
          CASE WHEN offered THEN 'RCVD_REMOVE_ACK_REVOCATION' ELSE 'SENT_REMOVE_ACK_REVOCATION' END AS state,
          amount_msat, payment_hash, cltv_expiry
        FROM htlc_history WHERE htlc >= ${start} AND ${which} ORDER BY htlc LIMIT ${most})`;
    const rows = await sql<
      {
        htlc: bigint;
        channel: bigint;
        offered: boolean;
        id: bigint;
        state: string;
        amount_msat: bigint;
        payment_hash: Uint8Array;
        cltv_expiry: number;
      }[]
    >`
      SELECT * FROM (
        (SELECT htlc, channel, offered, id, state, amount_msat, payment_hash, cltv_expiry
          FROM htlcs WHERE htlc >= ${start} AND ${which} ORDER BY htlc LIMIT ${most})
        ${history}
      ) AS found ORDER BY htlc LIMIT ${most}`;
    return rows.map((row) => ({
      htlc: row.htlc,
      channel: row.channel,
      offered: row.offered,
      id: row.id,
      state: row.state,
      amountMsat: row.amount_msat,
      paymentHash: Uint8Array.from(row.payment_hash),
      cltvExpiry: row.cltv_expiry,
    }));
  }

  /** Sums over all HTLCs that channels ever had. Reads their history: for people, not for hot paths. */
  async totals(channels: readonly bigint[]): Promise<Map<bigint, ChannelTotals>> {
    const { sql } = this.options;
    const rows = await sql<
      {
        channel: bigint;
        offered: boolean;
        count: bigint;
        sum: string;
        done: bigint;
        done_sum: string;
      }[]
    >`
      SELECT channel, offered, count(*) AS count, coalesce(sum(amount_msat), 0)::text AS sum,
        count(preimage) AS done,
        coalesce(sum(amount_msat) FILTER (WHERE preimage IS NOT NULL), 0)::text AS done_sum
      FROM (
        SELECT channel, offered, amount_msat, preimage FROM htlcs WHERE channel = ANY(${
      numberList(channels)
    }::bigint[])
        UNION ALL
        SELECT channel, offered, amount_msat, preimage FROM htlc_history WHERE channel = ANY(${
      numberList(channels)
    }::bigint[])
      ) AS h GROUP BY channel, offered`;
    const found = new Map<bigint, ChannelTotals>();
    for (const channel of channels) {
      const side = (offered: boolean) =>
        rows.find((row) => row.channel === channel && row.offered === offered);
      const [out, into] = [side(true), side(false)];
      found.set(channel, {
        inOffered: Number(into?.count ?? 0n),
        inOfferedMsat: BigInt(into?.sum ?? 0),
        inFulfilled: Number(into?.done ?? 0n),
        inFulfilledMsat: BigInt(into?.done_sum ?? 0),
        outOffered: Number(out?.count ?? 0n),
        outOfferedMsat: BigInt(out?.sum ?? 0),
        outFulfilled: Number(out?.done ?? 0n),
        outFulfilledMsat: BigInt(out?.done_sum ?? 0),
      });
    }
    return found;
  }

  /** Stores terms of a channel, keeping those that are not given; answers all. */
  async setTerms(channel: bigint, terms: ChannelTerms): Promise<ChannelTerms> {
    const { sql, leader } = this.options;
    const rows = await sql<
      {
        fee_base_msat: bigint | null;
        fee_ppm: bigint | null;
        htlc_min_msat: bigint | null;
        htlc_max_msat: bigint | null;
        ignore_fee_limits: boolean | null;
      }[]
    >`
      WITH ${fence(sql, leader)}
      INSERT INTO channel_terms AS t (channel, fee_base_msat, fee_ppm, htlc_min_msat, htlc_max_msat, ignore_fee_limits)
      SELECT ${channel}, ${terms.feeBaseMsat ?? null}::bigint, ${terms.feePpm ?? null}::bigint,
        ${terms.htlcMinMsat ?? null}::bigint, ${terms.htlcMaxMsat ?? null}::bigint,
        ${terms.ignoreFeeLimits ?? null}::boolean FROM fence
      ON CONFLICT (channel) DO UPDATE SET
        fee_base_msat = coalesce(EXCLUDED.fee_base_msat, t.fee_base_msat),
        fee_ppm = coalesce(EXCLUDED.fee_ppm, t.fee_ppm),
        htlc_min_msat = coalesce(EXCLUDED.htlc_min_msat, t.htlc_min_msat),
        htlc_max_msat = coalesce(EXCLUDED.htlc_max_msat, t.htlc_max_msat),
        ignore_fee_limits = coalesce(EXCLUDED.ignore_fee_limits, t.ignore_fee_limits)
      RETURNING fee_base_msat, fee_ppm, htlc_min_msat, htlc_max_msat, ignore_fee_limits`;
    const [row] = rows;
    if (row === undefined) throw new Error("the terms were not stored: this lightningd leads no more");
    return {
      ...(row.fee_base_msat === null ? {} : { feeBaseMsat: row.fee_base_msat }),
      ...(row.fee_ppm === null ? {} : { feePpm: row.fee_ppm }),
      ...(row.htlc_min_msat === null ? {} : { htlcMinMsat: row.htlc_min_msat }),
      ...(row.htlc_max_msat === null ? {} : { htlcMaxMsat: row.htlc_max_msat }),
      ...(row.ignore_fee_limits === null ? {} : { ignoreFeeLimits: row.ignore_fee_limits }),
    };
  }

  // --------------------------------------------------------------------------------------------------------- private

  #events(): HtlcEvents {
    const changed = (channel: bigint): ChannelView | undefined => {
      const view = this.views.get(channel);
      if (view !== undefined) this.#payer.changed(view);
      return view;
    };
    return {
      began: (channel) => {
        const facts = this.#facts.get(channel);
        if (facts === undefined) throw new Error("a channel began without facts");
        this.views.began(facts);
        this.#incoming.began(channel);
        this.#payer.began(channel);
      },
      level: (channel, level) => {
        const view = changed(channel);
        if (view !== undefined) view.level = level;
      },
      offered: (_channel, result) => this.#payer.offered(result),
      incoming: (channel, htlc) => this.#incoming.incoming(channel, htlc),
      resolved: (_channel, outcome) => this.#payer.resolved(outcome),
      incomingResolved: (channel, resolved) => this.#incoming.incomingResolved(channel, resolved),
      synced: (channel) => {
        const view = changed(channel);
        if (view !== undefined) view.synced = true;
        this.#incoming.synced(channel);
        this.#payer.synced(channel);
      },
      lost: (channel) => this.views.lost(channel),
      flushed: () => this.#payer.flushed(),
    };
  }

  #factsOf(invoice: Invoice, request: PayRequest): { facts: PaymentFacts; exclude: ReadonlySet<bigint> } {
    const { label, description, retrySeconds, partialMsat, maxDelay } = request;
    requireText({ label, description });
    if (invoice.network !== NETWORK_NAMES[this.options.network]) {
      throw wrong("bolt11", `Invalid bolt11: chain ${invoice.network} is not ours`);
    }
    if (sameBytes(invoice.payee, this.options.node.nodeId)) throw selfPayment();
    if (invoiceExpiresAt(invoice) <= secondsOf(this.#now())) {
      throw payRefusal(PayCode.invoiceExpired, "EXPIRED", "Invoice expired");
    }
    if (invoice.amountMsat !== null && request.amountMsat !== undefined) {
      throw wrong("amount_msat", "parameter unnecessary: the invoice has an amount");
    }
    const totalMsat = invoice.amountMsat ?? request.amountMsat;
    if (totalMsat === undefined || totalMsat <= 0n) {
      throw wrong("amount_msat", "parameter required: the invoice has no amount");
    }
    if (totalMsat > MAX_MSAT) throw wrong("amount_msat", "is no amount to pay");
    if (invoice.descriptionHash !== null && description !== undefined) {
      if (!sameBytes(sha256(new TextEncoder().encode(description)), invoice.descriptionHash)) {
        throw wrong("description", "does not match the hash in the invoice");
      }
    }
    if (partialMsat !== undefined && (partialMsat <= 0n || partialMsat > totalMsat)) {
      throw wrong("partial_msat", "must be more than nothing and at most the whole");
    }
    if (invoice.minFinalCltvExpiryDelta > Math.min(maxDelay ?? MAX_DELAY, MAX_DELAY)) {
      throw payRefusal(
        PayCode.routeTooExpensive,
        "TOO_LONG",
        `the destination asks for ${invoice.minFinalCltvExpiryDelta} blocks: more than maxdelay`,
      );
    }
    const mpp = hasFeature(invoice.features, "basic_mpp");
    if (partialMsat !== undefined && partialMsat < totalMsat && !mpp) {
      throw wrong("partial_msat", "the destination takes no payment in parts");
    }
    const excluded = new Set(request.exclude ?? []);
    const destination = bytesToHex(invoice.payee);
    if (excluded.has(destination)) {
      throw payRefusal(PayCode.routeNotFound, "EXCLUDED", "the destination itself is excluded");
    }
    const exclude = new Set<bigint>();
    for (const { facts } of this.views.of(destination)) {
      const names = [facts.shortChannelId, facts.localAlias, facts.remoteAlias];
      if (names.some((name) => name !== undefined && excluded.has(name))) exclude.add(facts.channel);
    }
    const text = invoice.description ?? description;
    return {
      exclude,
      facts: {
        kind: "pay",
        paymentHash: invoice.paymentHash,
        destination: invoice.payee,
        amountMsat: partialMsat ?? totalMsat,
        totalMsat,
        paymentSecret: invoice.paymentSecret,
        finalCltv: invoice.minFinalCltvExpiryDelta,
        mpp,
        bolt11: stripLightningUri(request.bolt11),
        deadline: this.#deadline(retrySeconds),
        ...(invoice.metadata === null ? {} : { metadata: invoice.metadata }),
        ...(label === undefined ? {} : { label }),
        // The payee's text may have what no row can hold.
        ...(text === undefined ? {} : { description: text.replaceAll("\0", "\ufffd") }),
      },
    };
  }

  #deadline(retrySeconds: number | undefined): Date {
    return new Date(this.#now() + (retrySeconds ?? DEFAULT_RETRY_SECONDS) * MS);
  }

  async #tip(): Promise<void> {
    const { chain } = this.options;
    const height = chain.height();
    const rates = await chain.feerates().catch(() => undefined);
    // 0: unknown. The least rate is no share of our estimate: two nodes' estimates differ, and a commitment with anchors
    // that pays too little is bumped by its child, while refusing the opener's rate would fail the channel.
    this.#streams.setNode({
      height,
      feeratePerkw: rates?.commitment ?? 0,
      minFeeratePerkw: rates === undefined ? 0 : Math.min(this.options.minFeerate ?? 0, rates.maxAcceptable),
      maxFeeratePerkw: rates?.maxAcceptable ?? 0,
    });
  }

  async #hasChannel(peerId: Uint8Array): Promise<boolean> {
    const rows = await this.options.sql`
      SELECT FROM channels WHERE peer_id = ${peerId} AND state = 'CHANNELD_NORMAL' AND error_text IS NULL LIMIT 1`;
    return rows.length > 0;
  }

  async #readFacts(channels: readonly bigint[]): Promise<(ChannelFacts | undefined)[]> {
    const rows = await this.options.sql<FactsRow[]>`
      SELECT c.channel, c.channel_id, c.peer_id, c.owner_epoch, c.local_alias, c.remote_alias, c.params, a.output_index,
        f.height, f.tx_index
      FROM channels c LEFT JOIN funding_attempts a ON a.attempt = c.locked_attempt
      LEFT JOIN attempt_confirmations f ON f.attempt = c.locked_attempt
      WHERE c.channel = ANY(${numberList(channels)}::bigint[])`;
    const found = new Map(rows.map((row) => [row.channel, factsOfRow(row)]));
    return channels.map((channel) => found.get(channel));
  }
}

function factsOfRow(row: FactsRow): ChannelFacts {
  const { remote } = fromBinary(ChannelParamsSchema, row.params);
  const place = row.height === null || row.tx_index === null || row.output_index === null
    ? undefined
    : packShortChannelId({ block: row.height, tx: row.tx_index, output: row.output_index });
  return {
    channel: row.channel,
    channelId: Uint8Array.from(row.channel_id),
    peerId: Uint8Array.from(row.peer_id),
    ownerEpoch: row.owner_epoch,
    localAlias: BigInt(row.local_alias),
    remoteMinimumMsat: remote?.htlcMinimumMsat ?? 0n,
    remoteMaxHtlcs: remote?.maxAcceptedHtlcs ?? 0,
    ...(place === undefined ? {} : { shortChannelId: place }),
    ...(row.remote_alias === null ? {} : { remoteAlias: BigInt(row.remote_alias) }),
  };
}

function wrong(parameter: string, message: string) {
  return invalidArgument("INVALID_PARAMS", `${parameter}: ${message}`, {
    clnCode: INVALID_PARAMS,
    details: { parameter },
  });
}

/** Refuses texts that Postgres cannot hold: one of them would fail the whole batch. */
function requireText(texts: Readonly<Record<string, string | undefined>>): void {
  for (const [name, text] of Object.entries(texts)) {
    if (text?.includes("\0") === true) throw wrong(name, "has a NUL in it");
  }
}

function selfPayment() {
  return payRefusal(
    PayCode.routeNotFound,
    "SELF_PAYMENT",
    "the destination is this node itself: a payment to oneself is not made",
  );
}
