/** Invoices: made and signed in batches, listed, waited for. */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { type UnsignedInvoice, unsignedInvoice } from "bolt/invoice/encode.ts";
import { signedInvoice } from "bolt/invoice/encode.ts";
import type { Fallback, InvoiceFields, InvoiceNetwork } from "bolt/invoice/types.ts";
import { MAX_SAT, msat } from "bolt/units.ts";
import type { Features } from "bolt/wire/features.ts";
import { internal, invalidArgument } from "common/grpc/errors.ts";
import type { HsmdClient } from "../node.ts";
import { Batcher } from "./batch.ts";
import { InvoiceCode, invoiceRefusal } from "./codes.ts";
import type { Incoming } from "./incoming.ts";
import type { InvoiceQuery, InvoiceRow, InvoiceStore } from "./invoice_store.ts";

const SECRET_LENGTH = 32;
const SIGNATURE_LENGTH = 64;
const INVALID_PARAMS = -32602;
/** Bytes of a label at most: an index holds no more of it. */
const MAX_LABEL = 2_000;
/** Seconds until an invoice expires at most: farther on there are no dates. */
const MAX_EXPIRY = 1n << 40n;
/** Invoices that hsmd signs in one call. */
const MAX_SIGNED = 200;
/** Longest time that a timer takes. */
const MAX_TIMER_MS = 0x7fff_ffff;
const MS = 1_000;

/** What an invoice shall say. */
export interface InvoiceRequest {
  /** Absent: any. */
  readonly amountMsat?: bigint;
  readonly label: string;
  readonly description: string;
  readonly descriptionHashOnly?: boolean;
  readonly expirySeconds?: bigint;
  readonly minFinalCltv?: number;
  readonly preimage?: Uint8Array;
  readonly fallbacks?: readonly Fallback[];
}

/** An invoice that is stored, so that it can be paid. */
export interface CreatedInvoice {
  readonly bolt11: string;
  readonly paymentHash: Uint8Array;
  readonly paymentSecret: Uint8Array;
  readonly expiresAt: bigint;
  readonly createdIndex: bigint;
}

/** CLN's status of an invoice. */
export type InvoiceStatus = "unpaid" | "paid" | "expired";

/** Status of an invoice at a time, seconds since 1970. */
export function statusOf(invoice: Pick<InvoiceRow, "paid" | "expiresAt">, now: bigint): InvoiceStatus {
  if (invoice.paid !== undefined) return "paid";
  return invoice.expiresAt <= now ? "expired" : "unpaid";
}

/** Settings of {@link Invoices}. */
export interface InvoicesOptions {
  readonly store: InvoiceStore;
  readonly incoming: Incoming;
  readonly hsmd: Pick<HsmdClient, "signInvoices">;
  readonly network: InvoiceNetwork;
  readonly features: Features;
  readonly defaultExpiry: bigint;
  readonly cltvFinal: number;
  /** Seconds since 1970. */
  readonly now: () => bigint;
}

interface Waiter {
  settle(invoice: InvoiceRow): void;
  /** It was deleted. */
  gone(): void;
}

/** Everything about our invoices but their payment. */
export class Invoices {
  readonly #signatures: Batcher<UnsignedInvoice, Uint8Array>;
  readonly #waiters = new Map<string, Set<Waiter>>();
  readonly #anyWaiters = new Set<() => void>();

  constructor(private readonly options: InvoicesOptions) {
    this.#signatures = new Batcher(async (unsigned) => {
      const { signatures } = await options.hsmd.signInvoices({
        invoices: unsigned.map(({ hrp, words }) => ({ hrp, data: words })),
      });
      return signatures;
    }, MAX_SIGNED);
  }

  /** Makes an invoice. 900 for a label that exists, 901 for a preimage that exists. */
  async create(request: InvoiceRequest): Promise<CreatedInvoice> {
    requireStorable(request);
    const { store: _, incoming, now, ...options } = this.options;
    const preimage = request.preimage ?? crypto.getRandomValues(new Uint8Array(SECRET_LENGTH));
    const paymentHash = sha256(preimage);
    const paymentSecret = crypto.getRandomValues(new Uint8Array(SECRET_LENGTH));
    const expirySeconds = request.expirySeconds ?? options.defaultExpiry;
    const minFinalCltv = request.minFinalCltv ?? options.cltvFinal;
    const timestamp = now();
    const fields: InvoiceFields = {
      network: options.network,
      amountMsat: request.amountMsat === undefined ? null : msat(request.amountMsat),
      timestamp,
      paymentHash,
      paymentSecret,
      description: request.descriptionHashOnly === true ? null : request.description,
      descriptionHash: request.descriptionHashOnly === true
        ? sha256(new TextEncoder().encode(request.description))
        : null,
      expirySeconds,
      minFinalCltvExpiryDelta: minFinalCltv,
      features: options.features,
      ...(request.fallbacks === undefined ? {} : { fallbacks: request.fallbacks }),
    };
    const unsigned = unsignedInvoice(fields);
    if (!unsigned.ok) {
      throw invalidArgument("BAD_INVOICE", unsigned.error.reason, { clnCode: INVALID_PARAMS });
    }
    const seal = await this.#signatures.submit(unsigned.value);
    if (seal.length !== SIGNATURE_LENGTH + 1) throw internal("BAD_SIGNATURE", "hsmd gave no signature");
    const bolt11 = signedInvoice(unsigned.value, {
      signature: seal.subarray(0, SIGNATURE_LENGTH),
      recoveryId: seal[SIGNATURE_LENGTH]!,
    });
    const expiresAt = timestamp + expirySeconds;
    const fresh = {
      label: request.label,
      paymentHash,
      preimage,
      paymentSecret,
      description: request.description,
      bolt11,
      minFinalCltv,
      expiresAt,
      ...(request.amountMsat === undefined ? {} : { amountMsat: request.amountMsat }),
    };
    const stored = await incoming.inserts.submit(fresh);
    switch (stored.type) {
      case "label_exists":
        throw invoiceRefusal(
          InvoiceCode.labelAlreadyExists,
          "LABEL_EXISTS",
          "there is an invoice with this label",
        );
      case "hash_exists":
        throw invoiceRefusal(
          InvoiceCode.preimageAlreadyExists,
          "PREIMAGE_EXISTS",
          "there is an invoice with this preimage",
        );
      case "stored":
        incoming.remember({ ...fresh, invoice: stored.invoice });
        return { bolt11, paymentHash, paymentSecret, expiresAt, createdIndex: stored.invoice };
    }
  }

  list(query: InvoiceQuery): Promise<InvoiceRow[]> {
    return this.options.store.list(query);
  }

  /** Deletes an invoice that has this status. 905 unknown, 906 another status. */
  async remove(label: string, status: InvoiceStatus): Promise<InvoiceRow> {
    const { store, incoming, now } = this.options;
    const wrong = (row: InvoiceRow) =>
      invoiceRefusal(
        InvoiceCode.statusUnexpected,
        "OTHER_STATUS",
        `Invoice status is ${statusOf(row, now())} not ${status}`,
        { current_status: statusOf(row, now()), expected_status: status },
      );
    const [row] = await store.list({ label });
    if (row === undefined) throw unknownInvoice();
    if (statusOf(row, now()) !== status) throw wrong(row);
    // Between batches of settlements: what is being paid is not deleted under it.
    const deletion = await incoming.settlements.exclusive(() =>
      store.remove(label, { paid: status === "paid" })
    );
    switch (deletion.type) {
      case "unknown":
        throw unknownInvoice();
      case "status":
        throw wrong((await store.list({ label }))[0] ?? row);
      case "deleted":
        incoming.forgetInvoice(row.paymentHash);
        for (const waiter of [...this.#waiters.get(label) ?? []]) waiter.gone();
        return row;
    }
  }

  /** Drops only the description. 908 when there is none. */
  async removeDescription(label: string, status: InvoiceStatus): Promise<InvoiceRow> {
    const { store, now } = this.options;
    const [row] = await store.list({ label });
    if (row === undefined) throw unknownInvoice();
    if (statusOf(row, now()) !== status) {
      throw invoiceRefusal(InvoiceCode.statusUnexpected, "OTHER_STATUS", "the invoice has another status");
    }
    if (!await store.removeDescription(label)) {
      throw invoiceRefusal(InvoiceCode.noDescription, "NO_DESCRIPTION", "the invoice has no description");
    }
    const { description: _, ...rest } = row;
    return rest;
  }

  /** Resolves when it is paid. 903 when it expires, 905 when there is none or it is deleted. */
  async wait(label: string, signal?: AbortSignal): Promise<InvoiceRow> {
    const { store, now } = this.options;
    const { promise, resolve, reject } = Promise.withResolvers<InvoiceRow>();
    promise.catch(() => {});
    const waiter: Waiter = { settle: resolve, gone: () => reject(unknownInvoice()) };
    const of = this.#waiters.get(label) ?? new Set();
    this.#waiters.set(label, of);
    of.add(waiter);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const abort = () => reject(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      // After the listener is there: nothing is missed in between.
      const [row] = await store.list({ label });
      if (row === undefined) throw unknownInvoice();
      if (row.paid !== undefined) return row;
      const expire = () => {
        const left = Number(row.expiresAt - now()) * MS;
        if (left > 0) timer = setTimeout(expire, Math.min(left, MAX_TIMER_MS));
        else {
          reject(
            invoiceRefusal(InvoiceCode.expiredDuringWait, "EXPIRED", "the invoice expired", {
              label,
              payment_hash: bytesToHex(row.paymentHash),
            }),
          );
        }
      };
      expire();
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      of.delete(waiter);
      if (of.size === 0 && this.#waiters.get(label) === of) this.#waiters.delete(label);
    }
  }

  /** Resolves with the first invoice that was paid after `lastPayIndex`. 904 when none was in time. */
  async waitAny(lastPayIndex: bigint, timeoutSeconds?: bigint): Promise<InvoiceRow> {
    const { promise, resolve, reject } = Promise.withResolvers<InvoiceRow>();
    promise.catch(() => {});
    let timer: ReturnType<typeof setTimeout> | undefined;
    // Of those paid together the first one is the answer, whichever is told first.
    const listener = () => {
      this.options.store.paidAfter(lastPayIndex).then((row) => row === undefined || resolve(row), reject);
    };
    this.#anyWaiters.add(listener);
    try {
      const row = await this.options.store.paidAfter(lastPayIndex);
      if (row !== undefined) return row;
      if (timeoutSeconds !== undefined) {
        const late = () =>
          reject(
            invoiceRefusal(InvoiceCode.waitTimedOut, "TIMED_OUT", "Timed out while waiting for invoice"),
          );
        timer = setTimeout(late, Math.min(Number(timeoutSeconds) * MS, MAX_TIMER_MS));
      }
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#anyWaiters.delete(listener);
    }
  }

  /** An invoice is paid, durably. */
  paid(invoice: InvoiceRow): void {
    for (const waiter of [...this.#waiters.get(invoice.label) ?? []]) waiter.settle(invoice);
    for (const listener of [...this.#anyWaiters]) listener();
  }
}

/** Refuses what no row can hold: it would fail the invoices that are stored along with it. */
function requireStorable({ label, description, amountMsat, expirySeconds }: InvoiceRequest): void {
  const wrong = (parameter: string, message: string) =>
    invalidArgument("INVALID_PARAMS", `${parameter}: ${message}`, {
      clnCode: INVALID_PARAMS,
      details: { parameter },
    });
  if (label.includes("\0") || new TextEncoder().encode(label).length > MAX_LABEL) {
    throw wrong("label", `should have at most ${MAX_LABEL} bytes and no NUL`);
  }
  if (description.includes("\0")) throw wrong("description", "has a NUL in it");
  if (amountMsat !== undefined && (amountMsat <= 0n || amountMsat > MAX_SAT * 1_000n)) {
    throw wrong("amount_msat", "is no amount to pay");
  }
  if (expirySeconds !== undefined && (expirySeconds <= 0n || expirySeconds > MAX_EXPIRY)) {
    throw wrong("expiry", "is no time that an invoice can have");
  }
}

function unknownInvoice() {
  return invoiceRefusal(InvoiceCode.notFound, "NO_INVOICE", "there is no such invoice");
}
