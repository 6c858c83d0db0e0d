/** Rows of invoices and of decisions on incoming HTLCs. Every method takes a list and is one statement. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { bytesList, numberList, textList } from "common/pg/lists.ts";
import type { Sql } from "common/pg/client.ts";
import { fence, requireLeadership } from "../leader.ts";
import type { Leader } from "../ports.ts";

/** An invoice that is to be stored. */
export interface NewInvoice {
  readonly label: string;
  readonly paymentHash: Uint8Array;
  readonly preimage: Uint8Array;
  /** Absent: a payment without an invoice. */
  readonly paymentSecret?: Uint8Array;
  readonly amountMsat?: bigint;
  readonly description?: string;
  readonly bolt11?: string;
  readonly minFinalCltv: number;
  /** Seconds since 1970. */
  readonly expiresAt: bigint;
}

/** What became of a new invoice: stored under a number, or one with its label or hash exists. */
export type StoredInvoice =
  | { readonly type: "stored"; readonly invoice: bigint }
  | { readonly type: "label_exists" }
  | { readonly type: "hash_exists" };

/** An invoice as its rows have it. */
export interface InvoiceRow extends NewInvoice {
  /** created_index */
  readonly invoice: bigint;
  readonly paid?: {
    /** pay_index and updated_index */
    readonly payIndex: bigint;
    readonly receivedMsat: bigint;
    readonly paidAt: Date;
  };
}

/** What shall become of an incoming HTLC. */
export interface Decision {
  /** htlcs.htlc */
  readonly htlc: bigint;
  readonly channel: bigint;
  readonly id: bigint;
  readonly outcome:
    | { readonly type: "settle"; readonly preimage: Uint8Array }
    | { readonly type: "fail"; readonly reason: Uint8Array; readonly attribution?: Uint8Array };
}

/** Decisions that are stored together: those of one payment that we take, or failures. */
export interface Settlement {
  /** Becomes paid; the decisions count only if it does. */
  readonly paid?: { readonly invoice: bigint; readonly receivedMsat: bigint };
  readonly decisions: readonly Decision[];
}

/** The row that a settlement made. */
export interface PaidRow {
  readonly payIndex: bigint;
  readonly paidAt: Date;
}

interface RawInvoice {
  readonly invoice: bigint;
  readonly label: string;
  readonly payment_hash: Uint8Array;
  readonly preimage: Uint8Array;
  readonly payment_secret: Uint8Array | null;
  readonly amount_msat: bigint | null;
  readonly description: string | null;
  readonly bolt11: string | null;
  readonly min_final_cltv: number;
  readonly expires_at: Date;
  readonly pay_index: bigint | null;
  readonly received_msat: bigint | null;
  readonly paid_at: Date | null;
}

interface RawDecision {
  readonly htlc: bigint;
  readonly channel: bigint;
  readonly id: bigint;
  readonly preimage: Uint8Array | null;
  readonly failure: Uint8Array | null;
  readonly attribution: Uint8Array | null;
}

/** Which invoices, and where a page of them begins. */
export interface InvoiceQuery {
  readonly label?: string;
  readonly paymentHash?: Uint8Array;
  /** Of the page; without it by created_index. */
  readonly index?: "created" | "updated";
  readonly start?: bigint;
  readonly limit?: number;
}

/** How an invoice was not deleted. */
export type Deletion = { readonly type: "deleted" | "status" | "unknown"; readonly row?: InvoiceRow };

/**
 * Settings of the connections that carry batches. Every row is found by its key; a planner that knows nothing of a fresh table
 * would scan it instead, and plan each batch anew.
 */
export const BATCH_SETTINGS: Readonly<Record<string, string>> = {
  plan_cache_mode: "force_generic_plan",
  enable_seqscan: "off",
  enable_mergejoin: "off",
  // A plan with what is "off" looks so dear that Postgres would compile it, for a second each time.
  jit: "off",
};

const MS = 1_000;
const NO_LIMIT = (1n << 63n) - 1n;

const seconds = (date: Date): bigint => BigInt(Math.floor(date.getTime() / MS));
const bytes = (value: Uint8Array): Uint8Array => Uint8Array.from(value);

function rowOf(raw: RawInvoice): InvoiceRow {
  return {
    invoice: raw.invoice,
    label: raw.label,
    paymentHash: bytes(raw.payment_hash),
    preimage: bytes(raw.preimage),
    minFinalCltv: raw.min_final_cltv,
    expiresAt: seconds(raw.expires_at),
    ...(raw.payment_secret === null ? {} : { paymentSecret: bytes(raw.payment_secret) }),
    ...(raw.amount_msat === null ? {} : { amountMsat: raw.amount_msat }),
    ...(raw.description === null ? {} : { description: raw.description }),
    ...(raw.bolt11 === null ? {} : { bolt11: raw.bolt11 }),
    ...(raw.pay_index === null || raw.received_msat === null || raw.paid_at === null ? {} : {
      paid: { payIndex: raw.pay_index, receivedMsat: raw.received_msat, paidAt: raw.paid_at },
    }),
  };
}

/** SQL of invoices. */
export class InvoiceStore {
  /** `steps`: connections with {@link BATCH_SETTINGS}, for what is done many times a second. */
  constructor(
    private readonly sql: Sql,
    private readonly leader: Leader,
    private readonly steps: Sql = sql,
  ) {}

  /** Stores new invoices, all but those whose label or hash exists. */
  async insert(invoices: readonly NewInvoice[]): Promise<StoredInvoice[]> {
    const { steps: sql, leader } = this;
    const rows = await sql<{ invoice: bigint; payment_hash: Uint8Array; label: string }[]>`
      WITH ${fence(sql, leader)}
      INSERT INTO invoices (label, payment_hash, preimage, payment_secret, amount_msat, description, bolt11,
        min_final_cltv, expires_at)
      SELECT x.label, x.hash, x.preimage, x.secret, x.amount, x.description, x.bolt11, x.cltv,
        to_timestamp(x.expires)
      FROM fence, unnest(
        ${textList(invoices.map((i) => i.label))}::text[],
        ${bytesList(invoices.map((i) => i.paymentHash))}::bytea[],
        ${bytesList(invoices.map((i) => i.preimage))}::bytea[],
        ${bytesList(invoices.map((i) => i.paymentSecret))}::bytea[],
        ${numberList(invoices.map((i) => i.amountMsat))}::bigint[],
        ${textList(invoices.map((i) => i.description))}::text[],
        ${textList(invoices.map((i) => i.bolt11))}::text[],
        ${numberList(invoices.map((i) => i.minFinalCltv))}::integer[],
        ${numberList(invoices.map((i) => i.expiresAt))}::bigint[]
      ) WITH ORDINALITY AS x(label, hash, preimage, secret, amount, description, bolt11, cltv, expires, nr)
      ORDER BY x.nr
      ON CONFLICT DO NOTHING RETURNING invoice, payment_hash, label`;
    const stored = new Map(rows.map((row) => [bytesToHex(row.payment_hash), row]));
    if (stored.size === invoices.length) {
      return invoices.map((i) => ({
        type: "stored",
        invoice: stored.get(bytesToHex(i.paymentHash))!.invoice,
      }));
    }
    if (rows.length === 0) await requireLeadership(sql, leader);
    const labels = new Set(
      (await sql<{ label: string }[]>`
        SELECT label FROM invoices WHERE label = ANY(${textList(invoices.map((i) => i.label))}::text[])`)
        .map(({ label }) => label),
    );
    // The same hash twice in one batch: only one of them is the row.
    return invoices.map((i): StoredInvoice => {
      const row = stored.get(bytesToHex(i.paymentHash));
      if (row?.label === i.label) {
        stored.delete(bytesToHex(i.paymentHash));
        return { type: "stored", invoice: row.invoice };
      }
      return { type: labels.has(i.label) ? "label_exists" : "hash_exists" };
    });
  }

  /** The invoices of these hashes, in their order. */
  async byHash(hashes: readonly Uint8Array[]): Promise<(InvoiceRow | undefined)[]> {
    const rows = await this.steps<RawInvoice[]>`
      SELECT i.*, p.pay_index, p.received_msat, p.paid_at
      FROM unnest(${bytesList(hashes)}::bytea[]) AS x(hash)
      JOIN invoices i ON i.payment_hash = x.hash LEFT JOIN invoice_payments p ON p.invoice = i.invoice`;
    const found = new Map(rows.map((row) => [bytesToHex(row.payment_hash), rowOf(row)]));
    return hashes.map((hash) => found.get(bytesToHex(hash)));
  }

  /**
   * Marks invoices as paid and stores decisions. An entry without `paid` answers null. One whose invoice is gone or was
   * paid before answers undefined, and none of its decisions is stored.
   */
  async settle(settlements: readonly Settlement[]): Promise<(PaidRow | null | undefined)[]> {
    const { steps: sql, leader } = this;
    const paid = settlements.flatMap((settlement) => settlement.paid ?? []);
    const decisions = settlements.flatMap(({ paid, decisions }) =>
      decisions.map((decision) => ({ ...decision, invoice: paid?.invoice }))
    );
    const fails = decisions.map(({ outcome }) => outcome.type === "fail" ? outcome : undefined);
    const rows = await sql<{ pay_index: bigint | null; invoice: bigint; paid_at: Date }[]>`
      WITH ${fence(sql, leader)},
      paid AS (
        INSERT INTO invoice_payments (invoice, received_msat)
        SELECT x.invoice, x.received FROM fence, unnest(
          ${numberList(paid.map((p) => p.invoice))}::bigint[],
          ${numberList(paid.map((p) => p.receivedMsat))}::bigint[]) WITH ORDINALITY
          AS x(invoice, received, nr)
        WHERE EXISTS (SELECT FROM invoices i WHERE i.invoice = x.invoice)
        ORDER BY x.nr
        ON CONFLICT (invoice) DO NOTHING
        RETURNING pay_index, invoice, paid_at
      ),
      decided AS (
        INSERT INTO htlc_decisions (htlc, channel, id, preimage, failure, attribution)
        SELECT x.htlc, x.channel, x.id, x.preimage, x.failure, x.attribution FROM fence, unnest(
          ${numberList(decisions.map((d) => d.htlc))}::bigint[],
          ${numberList(decisions.map((d) => d.channel))}::bigint[],
          ${numberList(decisions.map((d) => d.id))}::bigint[],
          ${
      bytesList(decisions.map(({ outcome }) => outcome.type === "settle" ? outcome.preimage : null))
    }::bytea[],
          ${bytesList(fails.map((fail) => fail?.reason))}::bytea[],
          ${bytesList(fails.map((fail) => fail?.attribution))}::bytea[],
          ${numberList(decisions.map((d) => d.invoice))}::bigint[]
        ) AS x(htlc, channel, id, preimage, failure, attribution, invoice)
        WHERE x.invoice IS NULL OR EXISTS (SELECT FROM paid WHERE paid.invoice = x.invoice)
        ON CONFLICT (htlc) DO NOTHING
      )
      SELECT pay_index, invoice, paid_at FROM paid UNION ALL SELECT NULL, NULL, NULL FROM fence`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    const done = new Map(rows.map((row) => [row.invoice, row]));
    return settlements.map(({ paid }) => {
      if (paid === undefined) return null;
      const row = done.get(paid.invoice);
      return row === undefined || row.pay_index === null
        ? undefined
        : { payIndex: row.pay_index, paidAt: row.paid_at };
    });
  }

  /** Every decision whose HTLC may still be there. */
  async decisions(): Promise<Decision[]> {
    const rows = await this.sql<RawDecision[]>`
      SELECT htlc, channel, id, preimage, failure, attribution FROM htlc_decisions ORDER BY htlc`;
    return rows.map(({ htlc, channel, id, preimage, failure, attribution }) => ({
      htlc,
      channel,
      id,
      outcome: preimage === null
        ? {
          type: "fail",
          reason: bytes(failure ?? new Uint8Array()),
          ...(attribution === null ? {} : { attribution: bytes(attribution) }),
        }
        : { type: "settle", preimage: bytes(preimage) },
    }));
  }

  /** Which of these HTLCs channeld's rows still have. */
  async live(htlcs: readonly bigint[]): Promise<ReadonlySet<bigint>> {
    const rows = await this.steps<{ htlc: bigint }[]>`
      SELECT h.htlc FROM unnest(${numberList(htlcs)}::bigint[]) AS x(htlc) JOIN htlcs h ON h.htlc = x.htlc`;
    return new Set(rows.map(({ htlc }) => htlc));
  }

  /** Forgets decisions whose HTLCs are gone. */
  async forgetDecisions(htlcs: readonly bigint[]): Promise<void[]> {
    const { steps: sql, leader } = this;
    await sql`
      WITH ${fence(sql, leader)}
      DELETE FROM htlc_decisions d USING fence, unnest(${numberList(htlcs)}::bigint[]) AS x(htlc)
      WHERE d.htlc = x.htlc AND NOT EXISTS (SELECT FROM htlcs h WHERE h.htlc = x.htlc)`;
    return htlcs.map(() => undefined);
  }

  /** Invoices by a key or as a page. */
  async list(query: InvoiceQuery): Promise<InvoiceRow[]> {
    const { label, paymentHash, index, start = 0n, limit } = query;
    // A key or a page is found by its index; only a whole list is worth a scan.
    const whole = label === undefined && paymentHash === undefined && limit === undefined;
    const sql = whole ? this.sql : this.steps;
    const most = limit === undefined ? NO_LIMIT : BigInt(limit);
    const where = label !== undefined
      ? sql`i.label = ${label}`
      : paymentHash !== undefined
      ? sql`i.payment_hash = ${paymentHash}`
      : index === "updated"
      ? sql`p.pay_index >= ${start}`
      : sql`i.invoice >= ${start}`;
    const order = index === "updated" ? sql`p.pay_index` : sql`i.invoice`;
    const rows = await sql<RawInvoice[]>`
      SELECT i.*, p.pay_index, p.received_msat, p.paid_at
      FROM invoices i LEFT JOIN invoice_payments p ON p.invoice = i.invoice
      WHERE ${where} ORDER BY ${order} LIMIT ${most}`;
    return rows.map(rowOf);
  }

  /** The first invoice that was paid after this one. */
  async paidAfter(payIndex: bigint): Promise<InvoiceRow | undefined> {
    const [row] = await this.steps<RawInvoice[]>`
      SELECT i.*, p.pay_index, p.received_msat, p.paid_at
      FROM invoice_payments p JOIN invoices i ON i.invoice = p.invoice
      WHERE p.pay_index > ${payIndex} ORDER BY p.pay_index LIMIT 1`;
    return row === undefined ? undefined : rowOf(row);
  }

  /** Deletes an invoice that is paid, or is not; which it is, is decided in the statement. */
  async remove(label: string, wanted: { readonly paid: boolean }): Promise<Deletion> {
    const { sql, leader } = this;
    const [row] = await this.list({ label });
    if (row === undefined) return { type: "unknown" };
    if ((row.paid !== undefined) !== wanted.paid) return { type: "status", row };
    const gone = await sql`
      WITH ${fence(sql, leader)},
      gone AS (
        DELETE FROM invoices i USING fence WHERE i.invoice = ${row.invoice}
          AND EXISTS (SELECT FROM invoice_payments p WHERE p.invoice = i.invoice) = ${wanted.paid}
        RETURNING i.invoice
      ),
      unpaid AS (DELETE FROM invoice_payments p USING gone WHERE p.invoice = gone.invoice)
      SELECT invoice FROM gone`;
    if (gone.length > 0) return { type: "deleted", row };
    await requireLeadership(sql, leader);
    return { type: "status", row };
  }

  /** Drops the description, for good. False: there is none, or no such invoice. */
  async removeDescription(label: string): Promise<boolean> {
    const { sql, leader } = this;
    const rows = await sql`
      WITH ${fence(sql, leader)}
      UPDATE invoices i SET description = NULL FROM fence
      WHERE i.label = ${label} AND i.description IS NOT NULL RETURNING i.invoice`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    return rows.length > 0;
  }
}
