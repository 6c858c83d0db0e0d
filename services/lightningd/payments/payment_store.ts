/** Rows of our payments and their parts. What the engine does many times a second takes a list and is one statement. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { bytesList, numberList, textList } from "common/pg/lists.ts";
import type { Sql } from "common/pg/client.ts";
import { fence, requireLeadership } from "../leader.ts";
import { CHANNELD_STATES } from "../peers/store.ts";
import type { Leader } from "../ports.ts";

/** Who makes the parts: the engine, or a caller one by one. */
export type PaymentKind = "pay" | "sendpay";

/** What a payment is for. */
export interface PaymentFacts {
  readonly kind: PaymentKind;
  readonly paymentHash: Uint8Array;
  /** CLN's group; absent: the next one of this hash. */
  readonly groupid?: bigint;
  readonly destination?: Uint8Array;
  /** What arrives when it is complete. */
  readonly amountMsat: bigint;
  /** total_msat of each part. */
  readonly totalMsat: bigint;
  readonly paymentSecret?: Uint8Array;
  readonly metadata?: Uint8Array;
  readonly keysendPreimage?: Uint8Array;
  /** More records for the destination, as a TLV stream. */
  readonly extraTlvs?: Uint8Array;
  readonly finalCltv: number;
  /** It may have several parts. */
  readonly mpp: boolean;
  readonly bolt11?: string;
  readonly label?: string;
  readonly description?: string;
  readonly deadline: Date;
}

/** A part that is to be sent. */
export interface NewPart {
  readonly partid: bigint;
  readonly channel: bigint;
  readonly amountMsat: bigint;
  readonly sentMsat: bigint;
  readonly cltvExpiry: number;
  /** Node ids of the hops, one after the other. */
  readonly hops: Uint8Array;
  readonly sessionKey: Uint8Array;
}

/** Parts of one payment that are stored together; without `payment` the payment is new. */
export interface Start {
  readonly facts: PaymentFacts;
  readonly payment?: bigint;
  readonly parts: readonly NewPart[];
}

/** A stored payment with the numbers of its new parts, in order; undefined: one with this hash has not failed. */
export interface Started {
  readonly payment: bigint;
  readonly groupid: bigint;
  readonly createdAt: Date;
  readonly parts: readonly bigint[];
}

/** Why a part failed. */
export interface PartFailure {
  /** CLN's code. */
  readonly code: number;
  /** BOLT's name of the failure, or a reason of ours. */
  readonly name: string;
  readonly text: string;
  /** 0: ourselves; n: the n-th node of the route. */
  readonly erringIndex?: number;
  readonly failcode?: number;
  readonly rawMessage?: Uint8Array;
  /** As it came, when it could not be read. */
  readonly errorOnion?: Uint8Array;
}

/** How a payment ended. */
export type Ending =
  | {
    readonly type: "complete";
    readonly preimage: Uint8Array;
    readonly sentMsat: bigint;
    readonly parts: number;
  }
  | { readonly type: "failed"; readonly code: number; readonly text: string };

/** What became of a part, and with it of its payment. */
export interface Resolution {
  readonly payment: bigint;
  readonly part?: {
    readonly part: bigint;
    readonly preimage?: Uint8Array;
    readonly failure?: PartFailure;
  };
  readonly ending?: Ending;
  /** It goes on, and no part of it is under way. */
  readonly idle?: boolean;
  /** It may be among the idle ones. */
  readonly idled?: boolean;
}

/** A part under way. */
export interface LivePartRow extends NewPart {
  readonly part: bigint;
  readonly payment: bigint;
  readonly createdAt: Date;
}

/** A payment as its rows have it. */
export interface PaymentRow extends PaymentFacts {
  readonly payment: bigint;
  readonly groupid: bigint;
  readonly createdAt: Date;
  readonly ending?:
    | {
      readonly type: "complete";
      readonly preimage: Uint8Array;
      readonly sentMsat: bigint;
      readonly parts: number;
      readonly completedAt: Date;
      readonly updated: bigint;
    }
    | { readonly type: "failed"; readonly code: number; readonly text: string; readonly failedAt: Date };
}

/** A part as its rows have it, under way or resolved, with its payment. */
export interface PartRow extends LivePartRow {
  readonly of: PaymentRow;
  readonly resolved?: {
    readonly at: Date;
    readonly preimage?: Uint8Array;
    readonly failure?: PartFailure;
  };
}

/** What channeld's rows know of an HTLC that we offered. */
export interface OriginRow {
  readonly origin: bigint;
  /** Gone for good. */
  readonly gone: boolean;
  readonly preimage?: Uint8Array;
  readonly failure?: Uint8Array;
  readonly malformedCode?: number;
}

/** Which payments, and where a page of them begins. */
export interface PaymentQuery {
  readonly paymentHash?: Uint8Array;
  readonly status?: "pending" | "complete" | "failed";
  readonly index?: "created" | "updated";
  readonly start?: bigint;
  readonly limit?: number;
}

interface RawPayment {
  readonly payment: bigint;
  readonly payment_hash: Uint8Array;
  readonly groupid: bigint;
  readonly kind: PaymentKind;
  readonly destination: Uint8Array | null;
  readonly amount_msat: bigint;
  readonly total_msat: bigint;
  readonly payment_secret: Uint8Array | null;
  readonly metadata: Uint8Array | null;
  readonly extra_tlvs: Uint8Array | null;
  readonly keysend_preimage: Uint8Array | null;
  readonly final_cltv: number;
  readonly mpp: boolean;
  readonly bolt11: string | null;
  readonly label: string | null;
  readonly description: string | null;
  readonly created_at: Date;
  readonly deadline: Date;
  readonly failed: boolean;
  readonly failed_at: Date | null;
  readonly error_code: number | null;
  readonly error_text: string | null;
  readonly result_updated: bigint | null;
  readonly result_preimage: Uint8Array | null;
  readonly result_sent: bigint | null;
  readonly result_parts: number | null;
  readonly completed_at: Date | null;
}

interface RawPart {
  readonly part: bigint;
  readonly payment: bigint;
  readonly partid: bigint;
  readonly channel: bigint;
  readonly part_amount: bigint;
  readonly sent_msat: bigint;
  readonly cltv_expiry: number;
  readonly hops: Uint8Array;
  readonly session_key: Uint8Array;
  readonly part_created_at: Date;
}

interface RawHistory {
  readonly part: bigint;
  readonly partid: bigint;
  readonly channel: bigint;
  readonly part_amount: bigint;
  readonly sent_msat: bigint;
  readonly part_created_at: Date;
  readonly resolved_at: Date | null;
  readonly preimage: Uint8Array | null;
  readonly part_code: number | null;
  readonly erring_index: number | null;
  readonly failcode: number | null;
  readonly raw_message: Uint8Array | null;
  readonly error_onion: Uint8Array | null;
  readonly part_text: string | null;
}

const NO_LIMIT = (1n << 63n) - 1n;
const bytes = (value: Uint8Array): Uint8Array => Uint8Array.from(value);

function endingOf(raw: RawPayment): { readonly ending?: NonNullable<PaymentRow["ending"]> } {
  if (raw.result_preimage !== null && raw.completed_at !== null && raw.result_updated !== null) {
    return {
      ending: {
        type: "complete",
        preimage: bytes(raw.result_preimage),
        sentMsat: raw.result_sent ?? 0n,
        parts: raw.result_parts ?? 0,
        completedAt: raw.completed_at,
        updated: raw.result_updated,
      },
    };
  }
  if (raw.failed_at === null) return {};
  return {
    ending: {
      type: "failed",
      code: raw.error_code ?? 0,
      text: raw.error_text ?? "",
      failedAt: raw.failed_at,
    },
  };
}

function paymentOf(raw: RawPayment): PaymentRow {
  return {
    payment: raw.payment,
    paymentHash: bytes(raw.payment_hash),
    groupid: raw.groupid,
    kind: raw.kind,
    amountMsat: raw.amount_msat,
    totalMsat: raw.total_msat,
    finalCltv: raw.final_cltv,
    mpp: raw.mpp,
    createdAt: raw.created_at,
    deadline: raw.deadline,
    ...(raw.destination === null ? {} : { destination: bytes(raw.destination) }),
    ...(raw.payment_secret === null ? {} : { paymentSecret: bytes(raw.payment_secret) }),
    ...(raw.metadata === null ? {} : { metadata: bytes(raw.metadata) }),
    ...(raw.extra_tlvs === null ? {} : { extraTlvs: bytes(raw.extra_tlvs) }),
    ...(raw.keysend_preimage === null ? {} : { keysendPreimage: bytes(raw.keysend_preimage) }),
    ...(raw.bolt11 === null ? {} : { bolt11: raw.bolt11 }),
    ...(raw.label === null ? {} : { label: raw.label }),
    ...(raw.description === null ? {} : { description: raw.description }),
    ...endingOf(raw),
  };
}

function livePartOf(raw: RawPart): LivePartRow {
  return {
    part: raw.part,
    payment: raw.payment,
    partid: raw.partid,
    channel: raw.channel,
    amountMsat: raw.part_amount,
    sentMsat: raw.sent_msat,
    cltvExpiry: raw.cltv_expiry,
    hops: bytes(raw.hops),
    sessionKey: bytes(raw.session_key),
    createdAt: raw.part_created_at,
  };
}

function failureOf(raw: RawHistory): PartFailure | undefined {
  if (raw.part_code === null) return undefined;
  return {
    code: raw.part_code,
    name: "",
    text: raw.part_text ?? "",
    ...(raw.erring_index === null ? {} : { erringIndex: raw.erring_index }),
    ...(raw.failcode === null ? {} : { failcode: raw.failcode }),
    ...(raw.raw_message === null ? {} : { rawMessage: bytes(raw.raw_message) }),
    ...(raw.error_onion === null ? {} : { errorOnion: bytes(raw.error_onion) }),
  };
}

function partOf(raw: RawHistory & RawPayment): PartRow {
  const failure = failureOf(raw);
  return {
    part: raw.part,
    payment: raw.payment,
    partid: raw.partid,
    channel: raw.channel,
    amountMsat: raw.part_amount,
    sentMsat: raw.sent_msat,
    cltvExpiry: 0,
    hops: new Uint8Array(),
    sessionKey: new Uint8Array(),
    createdAt: raw.part_created_at,
    of: paymentOf(raw),
    ...(raw.resolved_at === null ? {} : {
      resolved: {
        at: raw.resolved_at,
        ...(raw.preimage === null ? {} : { preimage: bytes(raw.preimage) }),
        ...(failure === undefined ? {} : { failure }),
      },
    }),
  };
}

/** SQL of payments. */
export class PaymentStore {
  /** `steps`: connections for what is done many times a second (BATCH_SETTINGS). */
  constructor(
    private readonly sql: Sql,
    private readonly leader: Leader,
    private readonly steps: Sql = sql,
  ) {}

  /**
   * Stores parts, and new payments with them. One statement; a new payment whose hash has another attempt that has not
   * failed is left out with its parts, and answers undefined.
   */
  async start(starts: readonly Start[]): Promise<(Started | undefined)[]> {
    const { steps: sql, leader } = this;
    const fresh = starts.filter(({ payment }) => payment === undefined).map(({ facts }) => facts);
    const old = starts.filter(({ payment }) => payment !== undefined);
    const parts = starts.flatMap(({ facts, parts }) =>
      parts.map((part) => ({ ...part, hash: facts.paymentHash }))
    );
    const rows = await sql<
      {
        payment: bigint;
        payment_hash: Uint8Array;
        groupid: bigint;
        created_at: Date;
        part: bigint;
        partid: bigint;
      }[]
    >`
      WITH ${fence(sql, leader)},
      made AS (
        INSERT INTO payments (payment_hash, groupid, kind, destination, amount_msat, total_msat, payment_secret,
          metadata, extra_tlvs, keysend_preimage, final_cltv, mpp, bolt11, label, description, deadline)
        SELECT x.hash,
          coalesce(x.groupid,
            (SELECT max(p.groupid) FROM payments p WHERE p.payment_hash = x.hash AND p.failed) + 1, 1),
          x.kind, x.destination, x.amount, x.total, x.secret, x.metadata, x.extra, x.keysend, x.cltv, x.mpp,
          x.bolt11, x.label, x.description, to_timestamp(x.deadline::double precision / 1000)
        FROM fence, unnest(
          ${bytesList(fresh.map((f) => f.paymentHash))}::bytea[],
          ${numberList(fresh.map((f) => f.groupid))}::bigint[],
          ${textList(fresh.map((f) => f.kind))}::text[],
          ${bytesList(fresh.map((f) => f.destination))}::bytea[],
          ${numberList(fresh.map((f) => f.amountMsat))}::bigint[],
          ${numberList(fresh.map((f) => f.totalMsat))}::bigint[],
          ${bytesList(fresh.map((f) => f.paymentSecret))}::bytea[],
          ${bytesList(fresh.map((f) => f.metadata))}::bytea[],
          ${bytesList(fresh.map((f) => f.extraTlvs))}::bytea[],
          ${bytesList(fresh.map((f) => f.keysendPreimage))}::bytea[],
          ${numberList(fresh.map((f) => f.finalCltv))}::integer[],
          ${numberList(fresh.map((f) => f.mpp))}::boolean[],
          ${textList(fresh.map((f) => f.bolt11))}::text[],
          ${textList(fresh.map((f) => f.label))}::text[],
          ${textList(fresh.map((f) => f.description))}::text[],
          ${numberList(fresh.map((f) => f.deadline.getTime()))}::bigint[]
        ) WITH ORDINALITY AS x(hash, groupid, kind, destination, amount, total, secret, metadata, extra, keysend, cltv,
          mpp, bolt11, label, description, deadline, nr)
        ORDER BY x.nr
        ON CONFLICT DO NOTHING RETURNING payment, payment_hash, groupid, created_at
      ),
      target AS (
        SELECT payment, payment_hash, groupid, created_at FROM made
        UNION ALL
        SELECT p.payment, p.payment_hash, p.groupid, p.created_at
        FROM fence, unnest(${
      numberList([...new Set(old.map(({ payment }) => payment))])
    }::bigint[]) AS x(payment)
        JOIN payments p ON p.payment = x.payment AND NOT p.failed
      ),
      begun AS (
        INSERT INTO live_parts (payment, partid, channel, amount_msat, sent_msat, cltv_expiry, hops, session_key)
        SELECT t.payment, x.partid, x.channel, x.amount, x.sent, x.cltv, x.hops, x.key
        FROM unnest(
          ${bytesList(parts.map((p) => p.hash))}::bytea[],
          ${numberList(parts.map((p) => p.partid))}::bigint[],
          ${numberList(parts.map((p) => p.channel))}::bigint[],
          ${numberList(parts.map((p) => p.amountMsat))}::bigint[],
          ${numberList(parts.map((p) => p.sentMsat))}::bigint[],
          ${numberList(parts.map((p) => p.cltvExpiry))}::integer[],
          ${bytesList(parts.map((p) => p.hops))}::bytea[],
          ${bytesList(parts.map((p) => p.sessionKey))}::bytea[]
        ) WITH ORDINALITY AS x(hash, partid, channel, amount, sent, cltv, hops, key, nr)
        JOIN target t ON t.payment_hash = x.hash
        ORDER BY x.nr
        RETURNING part, payment, partid
      ),
      busy AS (
        DELETE FROM idle_payments i USING fence,
          unnest(${numberList(old.map(({ payment }) => payment))}::bigint[]) AS x(payment)
        WHERE i.payment = x.payment
      )
      SELECT t.payment, t.payment_hash, t.groupid, t.created_at, b.part, b.partid
      FROM begun b JOIN target t USING (payment)`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    const byHash = new Map<string, typeof rows[number][]>();
    for (const row of rows) {
      const key = bytesToHex(row.payment_hash);
      const of = byHash.get(key);
      if (of === undefined) byHash.set(key, [row]);
      else of.push(row);
    }
    return starts.map(({ facts, parts }) => {
      const of = byHash.get(bytesToHex(facts.paymentHash));
      const [first] = of ?? [];
      if (of === undefined || first === undefined) return undefined;
      return {
        payment: first.payment,
        groupid: first.groupid,
        createdAt: first.created_at,
        parts: parts.map(({ partid }) => of.find((row) => row.partid === partid)!.part),
      };
    });
  }

  /** Moves parts to the history and ends payments, in one statement. Preimages are durable once it has answered. */
  async resolve(resolutions: readonly Resolution[]): Promise<void[]> {
    const { steps: sql, leader } = this;
    const parts = resolutions.flatMap(({ part }) => part ?? []);
    const complete = resolutions.flatMap(({ payment, ending }) =>
      ending?.type === "complete" ? [{ payment, ...ending }] : []
    );
    const failed = resolutions.flatMap(({ payment, ending }) =>
      ending?.type === "failed" ? [{ payment, ...ending }] : []
    );
    const idle = resolutions.filter((resolution) => resolution.idle === true);
    const ended = resolutions.filter(({ ending, part, idled }) =>
      ending !== undefined && (part === undefined || idled === true)
    );
    const [row] = await sql<{ fenced: boolean }[]>`
      WITH ${fence(sql, leader)},
      gone AS (
        DELETE FROM live_parts l USING fence, unnest(
          ${numberList(parts.map((p) => p.part))}::bigint[],
          ${bytesList(parts.map((p) => p.preimage))}::bytea[],
          ${numberList(parts.map((p) => p.failure?.code))}::integer[],
          ${numberList(parts.map((p) => p.failure?.erringIndex))}::integer[],
          ${numberList(parts.map((p) => p.failure?.failcode))}::integer[],
          ${bytesList(parts.map((p) => p.failure?.rawMessage))}::bytea[],
          ${bytesList(parts.map((p) => p.failure?.errorOnion))}::bytea[],
          ${textList(parts.map((p) => p.failure?.text))}::text[]
        ) AS x(part, preimage, code, erring, failcode, raw, onion, text)
        WHERE l.part = x.part
        RETURNING l.part, l.payment, l.partid, l.channel, l.amount_msat, l.sent_msat, l.created_at,
          x.preimage, x.code, x.erring, x.failcode, x.raw, x.onion, x.text
      ),
      kept AS (
        INSERT INTO part_history (part, payment, partid, channel, amount_msat, sent_msat, created_at, preimage,
          error_code, erring_index, failcode, raw_message, error_onion, error_text)
        SELECT * FROM gone
      ),
      complete AS (
        INSERT INTO payment_results (payment, preimage, sent_msat, parts)
        SELECT x.payment, x.preimage, x.sent, x.parts FROM fence, unnest(
          ${numberList(complete.map((c) => c.payment))}::bigint[],
          ${bytesList(complete.map((c) => c.preimage))}::bytea[],
          ${numberList(complete.map((c) => c.sentMsat))}::bigint[],
          ${numberList(complete.map((c) => c.parts))}::integer[]) AS x(payment, preimage, sent, parts)
        ON CONFLICT (payment) DO NOTHING
      ),
      failed AS (
        UPDATE payments p SET failed = true, failed_at = now(), error_code = x.code, error_text = x.text
        FROM fence, unnest(
          ${numberList(failed.map((f) => f.payment))}::bigint[],
          ${numberList(failed.map((f) => f.code))}::integer[],
          ${textList(failed.map((f) => f.text))}::text[]) AS x(payment, code, text)
        WHERE p.payment = x.payment AND NOT p.failed
          AND NOT EXISTS (SELECT FROM payment_results r WHERE r.payment = p.payment)
      ),
      idle AS (
        INSERT INTO idle_payments (payment)
        SELECT x.payment FROM fence, unnest(${
      numberList(idle.map(({ payment }) => payment))
    }::bigint[]) AS x(payment)
        ON CONFLICT DO NOTHING
      ),
      busy AS (
        DELETE FROM idle_payments i USING fence,
          unnest(${numberList(ended.map(({ payment }) => payment))}::bigint[]) AS x(payment)
        WHERE i.payment = x.payment
      )
      SELECT EXISTS (SELECT FROM fence) AS fenced`;
    if (row?.fenced !== true) await requireLeadership(sql, leader);
    return resolutions.map(() => undefined);
  }

  /** Every payment that is not settled, with its parts under way: all that a new engine must know. */
  async live(): Promise<{ readonly payments: PaymentRow[]; readonly parts: LivePartRow[] }> {
    // Not by a planner that thinks little of the live tables and scans the history for them.
    const { steps: sql } = this;
    const parts = await sql<RawPart[]>`
      SELECT part, payment, partid, channel, amount_msat AS part_amount, sent_msat, cltv_expiry, hops, session_key,
        created_at AS part_created_at
      FROM live_parts ORDER BY part`;
    const payments = await sql<RawPayment[]>`
      WITH under AS MATERIALIZED (SELECT payment FROM live_parts UNION SELECT payment FROM idle_payments)
      ${this.#select()} JOIN under ON under.payment = p.payment`;
    return { parts: parts.map(livePartOf), payments: payments.map(paymentOf) };
  }

  /** The attempts of these hashes that have not failed, in their order. */
  async unfailed(hashes: readonly Uint8Array[]): Promise<(PaymentRow | undefined)[]> {
    const rows = await this.steps<RawPayment[]>`
      ${this.#select()} JOIN unnest(${bytesList(hashes)}::bytea[]) AS x(hash) ON p.payment_hash = x.hash
      WHERE NOT p.failed`;
    const found = new Map(rows.map((row) => [bytesToHex(row.payment_hash), paymentOf(row)]));
    return hashes.map((hash) => found.get(bytesToHex(hash)));
  }

  /** What channeld's rows know of parts: under way, gone, or, absent here, never made. */
  async origins(parts: readonly bigint[]): Promise<OriginRow[]> {
    const rows = await this.steps<
      {
        origin: bigint;
        gone: boolean;
        preimage: Uint8Array | null;
        failure: Uint8Array | null;
        malformed_code: number | null;
      }[]
    >`
      WITH x AS (SELECT part FROM unnest(${numberList(parts)}::bigint[]) AS y(part))
      SELECT origin, false AS gone, preimage, failure, malformed_code FROM htlcs JOIN x ON origin = part
      UNION ALL
      SELECT origin, true AS gone, preimage, failure, malformed_code FROM htlc_history JOIN x ON origin = part`;
    return rows.map(({ origin, gone, preimage, failure, malformed_code }) => ({
      origin,
      gone,
      ...(preimage === null ? {} : { preimage: bytes(preimage) }),
      ...(failure === null ? {} : { failure: bytes(failure) }),
      ...(malformed_code === null ? {} : { malformedCode: malformed_code }),
    }));
  }

  /** Which of these channels channeld has no more to do with, and never will: no row of theirs in `htlcs` is new from here on. */
  async over(channels: readonly bigint[]): Promise<ReadonlySet<bigint>> {
    const rows = await this.steps<{ channel: bigint }[]>`
      SELECT x.channel FROM unnest(${numberList(channels)}::bigint[]) AS x(channel)
      LEFT JOIN channels c ON c.channel = x.channel
      WHERE c.channel IS NULL OR c.error_text IS NOT NULL
        OR c.state <> ALL(${textList(CHANNELD_STATES)}::text[])`;
    return new Set(rows.map(({ channel }) => channel));
  }

  /** Payments by hash or as a page. `updated`: complete ones, by when. */
  async list(query: PaymentQuery): Promise<PaymentRow[]> {
    const { paymentHash, status, index, start = 0n, limit } = query;
    const sql = this.#forPage(query);
    const most = limit === undefined ? NO_LIMIT : BigInt(limit);
    const which = paymentHash === undefined ? sql`true` : sql`p.payment_hash = ${paymentHash}`;
    const from = index === "updated" ? sql`r.updated >= ${start}` : sql`p.payment >= ${start}`;
    const order = index === "updated" ? sql`r.updated` : sql`p.payment`;
    const rows = await sql<RawPayment[]>`
      ${this.#select()} WHERE ${which} AND ${from} AND ${
      this.#status(status)
    } ORDER BY ${order} LIMIT ${most}`;
    return rows.map(paymentOf);
  }

  /** Parts by hash or as a page; created_index is `part`. */
  async listParts(query: PaymentQuery): Promise<PartRow[]> {
    const { paymentHash, status, start = 0n, limit } = query;
    const sql = this.#forPage(query);
    const most = limit === undefined ? NO_LIMIT : BigInt(limit);
    const which = paymentHash === undefined ? sql`true` : sql`p.payment_hash = ${paymentHash}`;
    const live = sql`
      SELECT l.part, l.payment, l.partid, l.channel, l.amount_msat AS part_amount, l.sent_msat,
        l.created_at AS part_created_at, NULL::timestamptz AS resolved_at, NULL::bytea AS preimage,
        NULL::integer AS part_code, NULL::integer AS erring_index, NULL::integer AS failcode, NULL::bytea AS raw_message,
        NULL::bytea AS error_onion, NULL::text AS part_text
      FROM live_parts l`;
    const history = sql`
      SELECT h.part, h.payment, h.partid, h.channel, h.amount_msat AS part_amount, h.sent_msat,
        h.created_at AS part_created_at, h.resolved_at, h.preimage, h.error_code AS part_code, h.erring_index, h.failcode,
        h.raw_message, h.error_onion, h.error_text AS part_text
      FROM part_history h`;
    const wanted = status === undefined
      ? sql`true`
      : status === "pending"
      ? sql`q.resolved_at IS NULL`
      : status === "complete"
      ? sql`q.preimage IS NOT NULL`
      : sql`q.resolved_at IS NOT NULL AND q.preimage IS NULL`;
    // Each side gives a page by its own key: the history is never sorted as a whole.
    const page = (one: typeof live, key: typeof live) =>
      paymentHash !== undefined
        ? sql`${one} WHERE payment IN (SELECT payment FROM payments WHERE payment_hash = ${paymentHash} AND failed
            UNION ALL SELECT payment FROM payments WHERE payment_hash = ${paymentHash} AND NOT failed)`
        : status === undefined
        ? sql`${one} WHERE ${key} >= ${start} ORDER BY ${key} LIMIT ${most}`
        : sql`${one} WHERE ${key} >= ${start}`;
    const rows = await sql<(RawHistory & RawPayment)[]>`
      SELECT * FROM ((${page(live, sql`l.part`)}) UNION ALL (${page(history, sql`h.part`)})) AS q
      JOIN (${this.#select()} WHERE ${which}) AS p USING (payment)
      WHERE ${wanted} AND q.part >= ${start} ORDER BY q.part LIMIT ${most}`;
    return rows.map(partOf);
  }

  /** How many parts of these payments are under way, failed, done. */
  async partCounts(payments: readonly bigint[]): Promise<Map<bigint, number>> {
    const rows = await this.sql<{ payment: bigint; count: bigint }[]>`
      SELECT payment, count(*) AS count FROM (
        SELECT payment FROM live_parts WHERE payment = ANY(${numberList(payments)}::bigint[])
        UNION ALL
        SELECT payment FROM part_history WHERE payment = ANY(${numberList(payments)}::bigint[])
          AND preimage IS NOT NULL) AS q
      GROUP BY payment`;
    return new Map(rows.map(({ payment, count }) => [payment, Number(count)]));
  }

  /** A page is found by its index; only a whole list is worth a scan. */
  #forPage({ paymentHash, limit }: PaymentQuery): Sql {
    return paymentHash === undefined && limit === undefined ? this.sql : this.steps;
  }

  #select() {
    return this.sql`
      SELECT p.*, r.updated AS result_updated, r.preimage AS result_preimage, r.sent_msat AS result_sent,
        r.parts AS result_parts, r.completed_at
      FROM payments p LEFT JOIN payment_results r ON r.payment = p.payment`;
  }

  #status(status: PaymentQuery["status"]) {
    const { sql } = this;
    switch (status) {
      case undefined:
        return sql`true`;
      case "pending":
        return sql`NOT p.failed AND r.payment IS NULL`;
      case "complete":
        return sql`r.payment IS NOT NULL`;
      case "failed":
        return sql`p.failed`;
    }
  }
}
