/**
 * Incoming HTLCs: each is matched with an invoice, those of one payment are collected, and what shall become of them is stored before
 * channeld hears of it. All that is here can be told again: held HTLCs by channeld, decisions by their rows.
 */
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import { createAttributableError, createErrorPacket } from "bolt/onion/error_packet.ts";
import type { FailureMessage } from "bolt/onion/failure.ts";
import { holdTime } from "bolt/onion/attribution.ts";
import type { Logger } from "common/log.ts";
import type { IncomingHtlc, IncomingResolved } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import {
  checkPart,
  type CommittedHtlc,
  judgeSet,
  type PaymentPart,
  readPart,
  unknownDetails,
} from "./accept.ts";
import { Batcher } from "./batch.ts";
import type { Command } from "./htlc_streams.ts";
import type { Decision, InvoiceRow, InvoiceStore, NewInvoice, Settlement } from "./invoice_store.ts";

/** Invoices that are kept at hand so that paying them needs no question to the database; the rest is read. */
const MAX_CACHED = 50_000;
const MS = 1_000;

/** An HTLC that waits for the rest of its payment. */
interface Held {
  readonly channel: bigint;
  readonly wire: IncomingHtlc;
  readonly htlc: CommittedHtlc;
  readonly part: PaymentPart;
  readonly since: number;
}

/** The parts of one payment, as far as they came. */
interface HtlcSet {
  readonly invoice: InvoiceRow;
  readonly parts: Map<bigint, Held>;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** Settings of {@link Incoming}. */
export interface IncomingOptions {
  readonly store: InvoiceStore;
  readonly log: Logger;
  readonly height: () => number;
  /** Seconds since 1970. */
  readonly now: () => bigint;
  readonly send: (channel: bigint, command: Command) => boolean;
  /** How long the rest of a payment may take (BOLT 4: at least 60 s). */
  readonly mppTimeoutMs: number;
  /** Least blocks that a payment without an invoice must leave. */
  readonly cltvFinal: number;
  /** Failures carry attribution data. */
  readonly attribution: boolean;
  readonly onPaid: (invoice: InvoiceRow) => void;
  readonly onFatal: (error: unknown) => void;
}

/** Everything about incoming HTLCs. */
export class Incoming {
  /** Decisions in their rows, by htlcs.htlc. */
  readonly #decided = new Map<bigint, Decision>();
  /** HTLCs that are being decided or held. */
  readonly #open = new Map<bigint, { readonly channel: bigint; readonly set?: string }>();
  readonly #sets = new Map<string, HtlcSet>();
  /** Unpaid invoices of this run by hash. */
  readonly #cache = new Map<string, InvoiceRow>();
  /** HTLCs that were told since their owner began to tell, by channel. */
  readonly #told = new Map<bigint, Set<bigint>>();
  /** Invoices whose payment is being stored. */
  readonly #settling = new Set<bigint>();
  readonly #lookups: Batcher<Uint8Array, InvoiceRow | undefined>;
  readonly settlements: Batcher<
    Settlement,
    { readonly payIndex: bigint; readonly paidAt: Date } | null | undefined
  >;
  readonly #forget: Batcher<bigint, void>;
  readonly inserts: Batcher<NewInvoice, Awaited<ReturnType<InvoiceStore["insert"]>>[number]>;
  #stopped = false;

  constructor(private readonly options: IncomingOptions) {
    const { store } = options;
    this.#lookups = new Batcher((hashes) => store.byHash(hashes));
    this.settlements = new Batcher((list) => store.settle(list));
    this.#forget = new Batcher((htlcs) => store.forgetDecisions(htlcs));
    this.inserts = new Batcher((invoices) => store.insert(invoices));
  }

  /** Reads what was decided and is not done yet: as many as there are live HTLCs. */
  async start(): Promise<void> {
    for (const decision of await this.options.store.decisions()) this.#decided.set(decision.htlc, decision);
  }

  /** Forgets timers. Nothing here needs an end: all of it is told again. */
  stop(): void {
    this.#stopped = true;
    for (const { timer } of this.#sets.values()) clearTimeout(timer);
  }

  /** A new invoice, so that its payment finds it without a question. */
  remember(invoice: InvoiceRow): void {
    if (this.#cache.size >= MAX_CACHED) {
      const oldest = this.#cache.keys().next();
      if (oldest.done !== true) this.#cache.delete(oldest.value);
    }
    this.#cache.set(bytesToHex(invoice.paymentHash), invoice);
  }

  /** An invoice was deleted or changed. Its payment, should parts be here, is refused. */
  forgetInvoice(paymentHash: Uint8Array): void {
    const key = bytesToHex(paymentHash);
    this.#cache.delete(key);
    const set = this.#sets.get(key);
    if (set !== undefined) this.#refuseSet(key, set, null);
  }

  began(channel: bigint): void {
    this.#told.set(channel, new Set());
  }

  incoming(channel: bigint, wire: IncomingHtlc): void {
    const { htlc } = wire;
    this.#told.get(channel)?.add(htlc);
    const decision = this.#decided.get(htlc);
    if (decision !== undefined) return this.#tell(decision);
    if (this.#open.has(htlc)) return;
    this.#open.set(htlc, { channel });
    const committed: CommittedHtlc = {
      amountMsat: wire.amountMsat,
      cltvExpiry: wire.cltvExpiry,
      paymentHash: wire.paymentHash,
      payload: wire.payload,
      forward: wire.nextOnion.length > 0,
    };
    const since = performance.now();
    const part = readPart(committed, this.options.height());
    if (!part.ok) return this.#fail([{ channel, wire, since }], part.error);
    const held: Held = { channel, wire, htlc: committed, part: part.value, since };
    const cached = this.#cache.get(bytesToHex(wire.paymentHash));
    if (cached !== undefined) return this.#match(held, cached);
    this.#lookups.submit(wire.paymentHash).then((invoice) =>
      invoice === undefined && part.value.keysendPreimage !== undefined
        ? this.#spontaneous(held, part.value.keysendPreimage)
        : this.#match(held, invoice)
    ).catch(this.options.onFatal);
  }

  incomingResolved(_channel: bigint, { htlc }: IncomingResolved): void {
    this.#gone(htlc);
  }

  /** What was not told by now is gone. */
  synced(channel: bigint): void {
    const told = this.#told.get(channel);
    this.#told.delete(channel);
    if (told === undefined) return;
    const untold = new Set<bigint>();
    for (const map of [this.#open, this.#decided]) {
      for (const [htlc, of] of map) if (of.channel === channel && !told.has(htlc)) untold.add(htlc);
    }
    if (untold.size === 0) return;
    // A decision that is forgotten too early would be made anew, and not the same: only the rows' word counts.
    this.options.store.live([...untold]).then((live) => {
      for (const htlc of untold) if (!live.has(htlc)) this.#gone(htlc);
    }).catch(this.options.onFatal);
  }

  /** Held and decided HTLCs, for tests and metrics. */
  counts(): { readonly open: number; readonly decided: number; readonly sets: number } {
    return { open: this.#open.size, decided: this.#decided.size, sets: this.#sets.size };
  }

  #gone(htlc: bigint): void {
    const key = this.#open.get(htlc)?.set;
    this.#open.delete(htlc);
    const set = key === undefined ? undefined : this.#sets.get(key);
    if (key !== undefined && set?.parts.delete(htlc) === true && set.parts.size === 0) {
      this.#dropSet(key, set);
    }
    if (this.#decided.delete(htlc)) this.#forget.submit(htlc).catch(this.options.onFatal);
  }

  #match(held: Held, invoice: InvoiceRow | undefined): void {
    const { height, now } = this.options;
    // It may be gone, or decided, by now.
    if (!this.#open.has(held.wire.htlc)) return;
    const fault = checkPart(held.htlc, held.part, invoice, height(), now());
    if (fault !== null || invoice === undefined || this.#settling.has(invoice.invoice)) {
      return this.#fail([held], fault ?? unknownDetails(held.htlc.amountMsat, height()));
    }
    this.#collect(held, invoice);
  }

  #collect(held: Held, invoice: InvoiceRow): void {
    const key = bytesToHex(invoice.paymentHash);
    let set = this.#sets.get(key);
    if (set === undefined) {
      set = { invoice, parts: new Map(), timer: undefined };
      this.#sets.set(key, set);
    }
    set.parts.set(held.wire.htlc, held);
    this.#open.set(held.wire.htlc, { channel: held.channel, set: key });
    const parts = [...set.parts.values()];
    const sum = parts.reduce((total, { htlc }) => total + htlc.amountMsat, 0n);
    const verdict = judgeSet(sum, parts.map(({ part }) => part.totalMsat));
    switch (verdict.type) {
      case "wait":
        set.timer ??= this.#timeout(key, set);
        return;
      case "refuse":
        return this.#refuseSet(key, set, null);
      case "complete":
        this.#dropSet(key, set);
        this.#settle(set.invoice, parts, sum);
    }
  }

  #timeout(key: string, set: HtlcSet): ReturnType<typeof setTimeout> {
    return setTimeout(() => {
      if (!this.#stopped && this.#sets.get(key) === set) this.#refuseSet(key, set, { type: "mpp_timeout" });
    }, this.options.mppTimeoutMs);
  }

  #dropSet(key: string, set: HtlcSet): void {
    clearTimeout(set.timer);
    this.#sets.delete(key);
  }

  #refuseSet(key: string, set: HtlcSet, failure: FailureMessage | null): void {
    this.#dropSet(key, set);
    this.#fail([...set.parts.values()], failure);
  }

  /** A payment without an invoice: it gets a row of its own, and is then as any other. */
  async #spontaneous(held: Held, preimage: Uint8Array): Promise<void> {
    const { height, now, cltvFinal, store } = this.options;
    const { paymentHash, amountMsat } = held.htlc;
    const fresh: NewInvoice = {
      label: `keysend-${bytesToHex(paymentHash)}`,
      paymentHash,
      preimage,
      description: "keysend",
      minFinalCltv: cltvFinal,
      // What is never asked for does not expire.
      expiresAt: now(),
    };
    const fault = checkPart(held.htlc, held.part, { ...fresh }, height(), now());
    if (fault !== null || held.part.paymentSecret !== undefined) {
      return this.#fail([held], fault ?? unknownDetails(amountMsat, height()));
    }
    const stored = await this.inserts.submit(fresh);
    if (stored.type === "stored") return this.#match(held, { ...fresh, invoice: stored.invoice });
    const [invoice] = await store.byHash([paymentHash]);
    this.#match(held, invoice);
  }

  #settle(invoice: InvoiceRow, parts: readonly Held[], receivedMsat: bigint): void {
    const { preimage } = invoice;
    const decisions = parts.map(({ channel, wire }): Decision => ({
      htlc: wire.htlc,
      channel,
      id: wire.id,
      outcome: { type: "settle", preimage },
    }));
    this.#settling.add(invoice.invoice);
    this.settlements.submit({ paid: { invoice: invoice.invoice, receivedMsat }, decisions }).then((paid) => {
      this.#settling.delete(invoice.invoice);
      this.#cache.delete(bytesToHex(invoice.paymentHash));
      // It was deleted in between.
      if (paid === undefined || paid === null) return this.#fail(parts, null);
      for (const decision of decisions) this.#decide(decision);
      this.options.onPaid({ ...invoice, paid: { ...paid, receivedMsat } });
    }).catch(this.options.onFatal);
  }

  /** Fails HTLCs; without a failure each with the one that says nothing. */
  #fail(
    parts: readonly { readonly channel: bigint; readonly wire: IncomingHtlc; readonly since: number }[],
    failure: FailureMessage | null,
  ): void {
    const height = this.options.height();
    const decisions = parts.map(({ channel, wire, since }): Decision => ({
      htlc: wire.htlc,
      channel,
      id: wire.id,
      outcome: {
        type: "fail",
        ...this.#errorOf(wire, failure ?? unknownDetails(wire.amountMsat, height), since),
      },
    }));
    this.settlements.submit({ decisions }).then(() => {
      for (const decision of decisions) this.#decide(decision);
    }).catch(this.options.onFatal);
  }

  #errorOf(wire: IncomingHtlc, failure: FailureMessage, since: number) {
    if (!this.options.attribution) return { reason: createErrorPacket(wire.sharedSecret, failure) };
    const held = holdTime(performance.now() - since);
    const { reason, attribution_data: data } = createAttributableError(wire.sharedSecret, failure, held);
    if (data === undefined) return { reason };
    return { reason, attribution: concatBytes(data.htlc_hold_times, data.truncated_hmacs) };
  }

  /** A decision is in its row. */
  #decide(decision: Decision): void {
    // Its HTLC may have gone meanwhile.
    if (!this.#open.delete(decision.htlc)) {
      this.#forget.submit(decision.htlc).catch(this.options.onFatal);
      return;
    }
    this.#decided.set(decision.htlc, decision);
    this.#tell(decision);
  }

  #tell({ channel, id, outcome }: Decision): void {
    this.options.send(channel, {
      case: "settle",
      value: {
        id,
        settlement: outcome.type === "settle" ? { case: "preimage", value: outcome.preimage } : {
          case: "fail",
          value: { reason: outcome.reason, attributionData: outcome.attribution ?? new Uint8Array() },
        },
      },
    });
  }
}

/** Milliseconds as whole seconds. */
export function secondsOf(milliseconds: number): bigint {
  return BigInt(Math.floor(milliseconds / MS));
}
