/**
 * Our payments: rows first, then offers; parts that fail are tried again over other channels until the deadline; one final, honest end.
 *
 * What is here is rebuilt from rows at start: payments with parts under way and those between two tries. What became of a part is
 * learnt from its channel's owner, or, once the owner has told all that there is, from channeld's rows: a part that is in neither
 * was never made. A payment is complete with the first preimage, and failed only when no part of it is under way.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { createOnion, type OnionHop } from "bolt/onion/create.ts";
import { sameInConstantTime } from "bolt/onion/keys.ts";
import { encodeOnionPacket } from "bolt/onion/packet.ts";
import { encodeHopPayload } from "bolt/onion/payload.ts";
import { decodeTlvStream } from "./tlvs.ts";
import type { ArcusError } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import type { OfferResult, OutgoingResolved } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import { Batcher } from "./batch.ts";
import type { ChannelView, ChannelViews } from "./channel_views.ts";
import { PayCode, payRefusal } from "./codes.ts";
import type { Command } from "./htlc_streams.ts";
import { isFinal, localFailure, readFailure, readMalformed } from "./outcome.ts";
import type {
  Ending,
  LivePartRow,
  NewPart,
  PartFailure,
  PaymentFacts,
  PaymentRow,
  PaymentStore,
  Resolution,
  Start,
  Started,
} from "./payment_store.ts";
import { cut } from "./split.ts";

const PRIVATE_KEY_LENGTH = 32;
/** The payee may be a block ahead of us. */
const BLOCKS_AHEAD = 1;
/** Random blocks on top, so that an expiry does not tell where a route ends. */
const MAX_SHADOW_BLOCKS = 3;
/** Before the same channel is tried again for a payment; doubled at each failure. */
const FIRST_PAUSE_MS = 25;
const MAX_PAUSE_MS = 1_000;
const MAX_DOUBLINGS = 6;
/** How often parts are looked for whose channel has no owner any more who could tell what became of them. */
const SWEEP_MS = 5_000;
/** Longest time that a timer takes. */
const MAX_TIMER_MS = 0x7fff_ffff;
/** Payments in a row that find no room before the others behind them are left for the next time. */
const MAX_MISSES = 16;

/** A payment that was made. */
export interface Paid {
  readonly paymentHash: Uint8Array;
  readonly preimage: Uint8Array;
  readonly destination?: Uint8Array;
  readonly createdAt: Date;
  readonly amountMsat: bigint;
  readonly sentMsat: bigint;
  readonly parts: number;
  readonly failedParts: number;
}

/** How a part ended. */
export type PartEnd =
  | { readonly type: "complete"; readonly preimage: Uint8Array }
  | { readonly type: "failed"; readonly failure: PartFailure };

/** One hop of a route that a caller made. */
export interface RouteStep {
  readonly pubkey: Uint8Array;
  /** Of the channel to it. */
  readonly shortChannelId: bigint;
  readonly amountMsat: bigint;
  /** Blocks from the next one on. */
  readonly delay: number;
}

/** A part under way. */
interface LivePart extends NewPart {
  readonly part: bigint;
  readonly payment: Payment;
  readonly createdAt: Date;
  /** Its owner's present stream was not told of it, or did not tell it yet. */
  unsure: boolean;
  /** Called once when the owner has taken it (undefined) or it is over. */
  onAnswer: ((end: PartEnd | undefined) => void) | undefined;
}

/** A payment under way. */
interface Payment {
  readonly key: string;
  readonly facts: PaymentFacts;
  readonly peer: string;
  payment: bigint | undefined;
  /** Resolves when its row has been written. */
  first: Promise<void> | undefined;
  groupid: bigint;
  createdAt: Date;
  readonly parts: Map<bigint, LivePart>;
  nextPartid: bigint;
  readonly exclude: ReadonlySet<bigint>;
  /** Channels that failed it, and until when they are left alone. */
  readonly avoid: Map<bigint, number>;
  /** Statements that start parts of it. */
  storing: number;
  /** A row among the idle ones may be there. */
  idled: boolean;
  /** Parts of sendpay whose rows are being written, by partid. */
  readonly starting: Map<bigint, Promise<unknown>>;
  failedParts: number;
  doneParts: number;
  doneMsat: bigint;
  /** The destination's final word. */
  refusal: PartFailure | undefined;
  last: PartFailure | undefined;
  /** Decided; in its row once `finished` resolves. */
  ending: Ending | undefined;
  /** Whether rows were asked for an earlier attempt, and for channels. */
  checked: boolean;
  timer: ReturnType<typeof setTimeout> | undefined;
  readonly finished: PromiseWithResolvers<Paid>;
}

/** Settings of {@link Payer}. */
export interface PayerOptions {
  readonly store: PaymentStore;
  readonly views: ChannelViews;
  readonly log: Logger;
  readonly height: () => number;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly send: (channel: bigint, command: Command) => boolean;
  /** Whether rows have a channel with this peer that could carry payments, now or soon. */
  readonly hasChannel: (peerId: Uint8Array) => Promise<boolean>;
  readonly onFatal: (error: unknown) => void;
}

/** Everything about outgoing payments. */
export class Payer {
  readonly #payments = new Map<string, Payment>();
  readonly #parts = new Map<bigint, LivePart>();
  readonly #waiting = new Map<string, Set<Payment>>();
  readonly #dirty = new Set<string>();
  /** Callers of waitsendpay, by hash and partid. */
  readonly #partWaiters = new Map<string, Set<(groupid: bigint, end: PartEnd) => void>>();
  /** How often each channel's owner began to tell. */
  readonly #rounds = new Map<bigint, number>();
  readonly starts: Batcher<Start, Started | undefined>;
  readonly resolutions: Batcher<Resolution, void>;
  readonly #lookups: Batcher<Uint8Array, PaymentRow | undefined>;
  #sweeper: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  constructor(private readonly options: PayerOptions) {
    const { store } = options;
    this.starts = new Batcher((starts) =>
      store.start(starts).catch((error) => {
        // Whether it is stored is not known: only a new start, from the rows, knows what is under way.
        options.onFatal(error);
        throw error;
      })
    );
    this.resolutions = new Batcher((resolutions) => store.resolve(resolutions));
    this.#lookups = new Batcher((hashes) => store.unfailed(hashes));
  }

  /** Takes over what is under way in the rows. */
  async start(): Promise<void> {
    const { payments, parts } = await this.options.store.live();
    const byId = new Map<bigint, Payment>();
    for (const row of payments) {
      if (row.ending?.type === "failed") continue;
      const payment = this.#make(row);
      payment.payment = row.payment;
      payment.groupid = row.groupid;
      payment.createdAt = row.createdAt;
      payment.checked = true;
      payment.idled = true;
      if (row.ending !== undefined) {
        payment.ending = row.ending;
        payment.finished.resolve(paidOf(row, row.ending));
      }
      byId.set(row.payment, payment);
    }
    for (const part of parts) {
      const payment = byId.get(part.payment);
      if (payment === undefined) {
        this.options.log.error({ part: part.part }, "a part under way has no payment that is");
        continue;
      }
      this.#adopt(payment, part);
    }
    // What is missing of a payment is sent once its channels are back.
    for (const payment of byId.values()) this.#advance(payment);
    await this.#sweep();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#sweeper);
    for (const { timer } of this.#payments.values()) clearTimeout(timer);
  }

  /** Payments under way, for tests and metrics. */
  get pending(): number {
    return this.#payments.size;
  }

  // ------------------------------------------------------------------------------------------------------- callers

  /**
   * Pays, and answers when the preimage is stored. The same hash while a payment is under way joins it; one that is paid is answered with
   * what was paid. Rejects with CLN's codes.
   */
  async pay(facts: PaymentFacts, exclude: ReadonlySet<bigint> = new Set()): Promise<Paid> {
    const key = bytesToHex(facts.paymentHash);
    for (let other = this.#payments.get(key); other !== undefined; other = this.#payments.get(key)) {
      if (other.facts.kind === "sendpay" && other.ending?.type !== "complete") {
        throw payRefusal(PayCode.inProgress, "IN_PROGRESS", "a sendpay of this hash is under way");
      }
      if (other.ending?.type !== "failed") {
        requireSame(other.facts, facts);
        return await other.finished.promise;
      }
      // Until its end is stored no other attempt may begin.
      await other.finished.promise.catch(() => {});
    }
    const payment = this.#make(facts, exclude);
    this.#advance(payment);
    return await payment.finished.promise;
  }

  /** Sends one part along a route of the caller's, its first hop one of our channels. Answers once the channel has taken it. */
  async sendpay(
    facts: PaymentFacts,
    route: readonly RouteStep[],
    partid: bigint,
  ): Promise<{ part?: LivePartRow; payment: PaymentRow }> {
    const key = bytesToHex(facts.paymentHash);
    let payment = this.#payments.get(key);
    for (;;) {
      const starting = payment?.starting.get(partid);
      if (payment?.ending?.type === "failed") await payment.finished.promise.catch(() => {});
      // The same part again: what becomes of it is the answer to both.
      else if (starting !== undefined) await starting.catch(() => {});
      else break;
      payment = this.#payments.get(key);
    }
    if (payment !== undefined) {
      if (payment.ending !== undefined) {
        requireSame(payment.facts, facts);
        await payment.finished.promise;
        return { payment: await this.#rowOf(facts.paymentHash) };
      }
      const otherGroup = facts.groupid !== undefined && payment.payment !== undefined &&
        facts.groupid !== payment.groupid;
      if (payment.facts.kind === "pay" || otherGroup || !sameTerms(payment.facts, facts)) {
        throw payRefusal(PayCode.inProgress, "IN_PROGRESS", "another attempt for this hash is under way");
      }
      const part = payment.parts.get(partid);
      if (part !== undefined) return { part: rowOfPart(part), payment: rowOfPayment(payment) };
    }
    const view = this.#firstHop(route);
    const built = this.#buildRoute(facts, route, partid, view);
    payment ??= this.#make(facts);
    const { starting } = payment;
    const begun = this.#begin(payment, [built]);
    starting.set(partid, begun);
    const [part] = await begun.finally(() => starting.delete(partid));
    if (part === undefined) {
      const row = await this.#rowOf(facts.paymentHash);
      requireSame(row, facts);
      return { payment: row };
    }
    // Once the owner has taken it, it is in channeld's rows, and whatever dies it goes on.
    const end = await new Promise<PartEnd | undefined>((resolve) => part.onAnswer = resolve);
    if (end?.type === "failed" && end.failure.erringIndex === 0) {
      throw payRefusal(end.failure.code, "NOT_SENT", end.failure.text, failureDetails(end.failure));
    }
    return { part: rowOfPart(part), payment: rowOfPayment(payment) };
  }

  /**
   * Calls back once a part of this hash and number ends, if it is under way in memory or begins later. Answers how to stop listening.
   */
  onPartEnd(
    paymentHash: Uint8Array,
    partid: bigint,
    listener: (groupid: bigint, end: PartEnd) => void,
  ): () => void {
    const key = `${bytesToHex(paymentHash)}/${partid}`;
    const of = this.#partWaiters.get(key) ?? new Set();
    this.#partWaiters.set(key, of);
    of.add(listener);
    return () => {
      of.delete(listener);
      if (of.size === 0 && this.#partWaiters.get(key) === of) this.#partWaiters.delete(key);
    };
  }

  // ------------------------------------------------------------------------------------------------------- channels

  began(channel: bigint): void {
    this.#rounds.set(channel, (this.#rounds.get(channel) ?? 0) + 1);
    for (const part of this.#parts.values()) if (part.channel === channel) part.unsure = true;
  }

  /** Something about the channel changed: payments that wait for its peer look again at the next `flushed`. */
  changed(view: ChannelView): void {
    if (this.#waiting.size > 0) this.#dirty.add(bytesToHex(view.facts.peerId));
  }

  flushed(): void {
    if (this.#dirty.size === 0) return;
    for (const peer of this.#dirty) {
      let misses = 0;
      for (const payment of this.#waiting.get(peer) ?? []) {
        if (misses >= MAX_MISSES) break;
        if (!this.#advance(payment)) misses++;
      }
    }
    this.#dirty.clear();
  }

  offered(result: OfferResult): void {
    const part = this.#parts.get(result.origin);
    if (part === undefined) return;
    part.unsure = false;
    this.options.views.get(part.channel)?.answered(part.part);
    if (result.refusal === "") {
      part.onAnswer?.(undefined);
      return;
    }
    this.#ended(part, { type: "failed", failure: localFailure(result.refusal, result.detail) });
  }

  resolved(outcome: OutgoingResolved): void {
    const part = this.#parts.get(outcome.origin);
    if (part === undefined) return;
    part.unsure = false;
    const { case: type, value } = outcome.outcome;
    switch (type) {
      case "preimage":
        return this.#preimage(part, value);
      case "failed":
        return this.#ended(part, {
          type: "failed",
          failure: readFailure(value.reason, outcome.attributionData, part.sessionKey, part.hops),
        });
      case "malformed":
        return this.#ended(part, {
          type: "failed",
          failure: readMalformed(value.failureCode, value.sha256OfOnion),
        });
      case undefined:
        this.options.log.error(
          { part: part.part },
          "an HTLC is resolved in a way that this build does not know",
        );
    }
  }

  /** The owner told everything: parts that it did not tell are in channeld's rows, or were never made. */
  synced(channel: bigint): void {
    const unsure = [...this.#parts.values()].filter((part) => part.channel === channel && part.unsure);
    if (unsure.length === 0) return;
    const round = this.#rounds.get(channel);
    this.options.store.origins(unsure.map(({ part }) => part)).then((rows) => {
      // The owner began again: its next `synced` asks again.
      if (this.#rounds.get(channel) !== round) return;
      const byOrigin = new Map(rows.map((row) => [row.origin, row]));
      for (const part of unsure) {
        if (!part.unsure || this.#parts.get(part.part) !== part) continue;
        const row = byOrigin.get(part.part);
        if (row?.preimage !== undefined) this.#preimage(part, row.preimage);
        else if (row?.gone === false) {
          part.unsure = false;
          this.options.views.get(channel)?.answered(part.part);
          part.onAnswer?.(undefined);
        } else this.#ended(part, { type: "failed", failure: failureOfRow(part, row) });
      }
    }).catch(this.options.onFatal);
  }

  /** Parts of channels that failed or are closing: nobody will tell of them, but their rows change no more where they are missing or over. */
  async #sweep(): Promise<void> {
    const channels = new Set([...this.#parts.values()].map(({ channel }) => channel));
    // First the channels, then the parts: what is in no row by then never will be.
    const over = channels.size === 0 ? channels : await this.options.store.over([...channels]);
    const parts = [...this.#parts.values()].filter(({ channel }) => over.has(channel));
    const rows = parts.length === 0 ? [] : await this.options.store.origins(parts.map(({ part }) => part));
    if (this.#stopped) return;
    const byOrigin = new Map(rows.map((row) => [row.origin, row]));
    for (const part of parts) {
      if (this.#parts.get(part.part) !== part) continue;
      const row = byOrigin.get(part.part);
      if (row?.preimage !== undefined) this.#preimage(part, row.preimage);
      else if (row?.gone !== false) this.#ended(part, { type: "failed", failure: failureOfRow(part, row) });
    }
    this.#sweeper = setTimeout(() => this.#sweep().catch(this.options.onFatal), SWEEP_MS);
  }

  // ------------------------------------------------------------------------------------------------------- payments

  #make(facts: PaymentFacts, exclude: ReadonlySet<bigint> = new Set()): Payment {
    const payment: Payment = {
      key: bytesToHex(facts.paymentHash),
      facts,
      peer: facts.destination === undefined ? "" : bytesToHex(facts.destination),
      payment: undefined,
      first: undefined,
      groupid: facts.groupid ?? 1n,
      createdAt: new Date(this.options.now()),
      parts: new Map(),
      nextPartid: 0n,
      exclude,
      avoid: new Map(),
      storing: 0,
      idled: false,
      starting: new Map(),
      failedParts: 0,
      doneParts: 0,
      doneMsat: 0n,
      refusal: undefined,
      last: undefined,
      ending: undefined,
      checked: false,
      timer: undefined,
      finished: Promise.withResolvers(),
    };
    // Nobody may be waiting (after a restart, for sendpay).
    payment.finished.promise.catch(() => {});
    this.#payments.set(payment.key, payment);
    return payment;
  }

  #adopt(payment: Payment, row: LivePartRow): LivePart {
    const part: LivePart = { ...row, payment, unsure: true, onAnswer: undefined };
    payment.parts.set(part.partid, part);
    this.#parts.set(part.part, part);
    if (part.partid >= payment.nextPartid) payment.nextPartid = part.partid + 1n;
    return part;
  }

  /** Sends what is not under way yet, or waits for room. False: there is none. */
  #advance(payment: Payment): boolean {
    const { facts } = payment;
    if (this.#stopped || payment.ending !== undefined || payment.storing > 0) return true;
    if (facts.kind === "sendpay") {
      if (payment.parts.size === 0) this.#failNow(payment);
      return true;
    }
    let left = facts.amountMsat;
    for (const { amountMsat } of payment.parts.values()) left -= amountMsat;
    if (left <= 0n) {
      this.#unwait(payment);
      return true;
    }
    const now = this.options.now();
    if (payment.refusal !== undefined || now >= facts.deadline.getTime()) {
      this.#unwait(payment);
      if (payment.parts.size === 0) this.#failNow(payment);
      return true;
    }
    const carriers = [];
    for (const view of this.options.views.of(payment.peer)) {
      const { channel } = view.facts;
      if (payment.exclude.has(channel) || (payment.avoid.get(channel) ?? 0) > now) continue;
      carriers.push(view.carrier());
    }
    const cuts = facts.mpp || payment.parts.size === 0 ? cut(left, carriers, facts.mpp) : null;
    if (cuts === null) {
      this.#wait(payment, left);
      return false;
    }
    this.#unwait(payment);
    if (payment.nextPartid === 0n && cuts.length > 1) payment.nextPartid = 1n;
    let built: Built[];
    try {
      built = cuts.map(({ channel, amountMsat }) => this.#build(payment, channel, amountMsat));
    } catch (error) {
      // No onion can be made for what the caller wants in it: that is found out before it has a row.
      if (payment.payment !== undefined || payment.parts.size > 0) throw error;
      this.#drop(payment, error);
      return true;
    }
    this.#begin(payment, built).catch((error) => {
      if (!this.#stopped) this.options.onFatal(error);
    });
    return true;
  }

  #build(payment: Payment, channel: bigint, amountMsat: bigint): Built {
    const { facts } = payment;
    const { destination } = facts;
    if (destination === undefined) throw new Error("a payment to nobody");
    const shadow = crypto.getRandomValues(new Uint8Array(1))[0]! % MAX_SHADOW_BLOCKS;
    const cltvExpiry = this.options.height() + BLOCKS_AHEAD + facts.finalCltv + shadow;
    const sessionKey = newSessionKey();
    const hop = { pubkey: destination, payload: finalPayload(facts, amountMsat, cltvExpiry) };
    return {
      part: {
        partid: payment.nextPartid++,
        channel,
        amountMsat,
        sentMsat: amountMsat,
        cltvExpiry,
        hops: destination,
        sessionKey,
      },
      onion: onionOf(sessionKey, [hop], facts.paymentHash),
    };
  }

  /** Stores parts and offers them. Empty: another attempt for this hash has not failed, and this one is over. */
  async #begin(payment: Payment, built: readonly Built[]): Promise<LivePart[]> {
    const { views, send } = this.options;
    const parts = built.map(({ part }) => part);
    for (const { channel, sentMsat } of parts) views.get(channel)?.reserve(sentMsat);
    payment.storing++;
    // A second part must not make a second row: it waits for the number of the first one's.
    const before = payment.payment === undefined ? payment.first : undefined;
    const starting = (before ?? Promise.resolve()).then(() =>
      this.starts.submit({
        facts: payment.facts,
        parts,
        ...(payment.payment === undefined ? {} : { payment: payment.payment }),
      })
    );
    payment.first ??= starting.then((started) => {
      payment.payment ??= started?.payment;
    });
    const started = await starting.finally(() => {
      payment.storing--;
      for (const { channel, sentMsat } of parts) views.get(channel)?.release(sentMsat);
    });
    if (started === undefined) {
      await this.#conflict(payment);
      return [];
    }
    payment.payment = started.payment;
    payment.groupid = started.groupid;
    payment.createdAt = started.createdAt;
    return built.map(({ part, onion }, index) => {
      const live = this.#adopt(payment, {
        ...part,
        part: started.parts[index]!,
        payment: started.payment,
        createdAt: started.createdAt,
      });
      const view = views.get(part.channel);
      // While the owner still tells what there is, its `synced` would not count this one: it is tried again then.
      if (view?.synced === true) {
        view.offer(live.part, part.sentMsat);
        live.unsure = !send(part.channel, {
          case: "offer",
          value: {
            origin: live.part,
            amountMsat: part.sentMsat,
            paymentHash: payment.facts.paymentHash,
            cltvExpiry: part.cltvExpiry,
            onion,
            epoch: view.facts.ownerEpoch,
          },
        });
      }
      return live;
    });
  }

  /** A row of an earlier attempt stands in the way. */
  async #conflict(payment: Payment): Promise<void> {
    const [row] = await Promise.all([this.#lookups.submit(payment.facts.paymentHash)]);
    if (row === undefined) {
      if (payment.facts.kind === "pay") this.#advance(payment);
      else this.#drop(payment, payRefusal(PayCode.unspecified, "RACE", "another attempt failed just now"));
      return;
    }
    this.#known(payment, row);
  }

  /** An earlier attempt is complete, or under way where this process cannot see it. */
  #known(payment: Payment, row: PaymentRow): void {
    const { ending } = row;
    if (ending?.type !== "complete") {
      this.#drop(
        payment,
        payRefusal(PayCode.inProgress, "IN_PROGRESS", "another attempt for this hash is under way"),
      );
      return;
    }
    try {
      requireSame(row, payment.facts);
    } catch (error) {
      this.#drop(payment, error);
      return;
    }
    this.#forget(payment);
    payment.finished.resolve(paidOf(row, ending));
  }

  /** Ends a payment that has no row. */
  #drop(payment: Payment, error: unknown): void {
    this.#forget(payment);
    payment.finished.reject(error);
  }

  #forget(payment: Payment): void {
    this.#unwait(payment);
    if (this.#payments.get(payment.key) === payment) this.#payments.delete(payment.key);
  }

  #wait(payment: Payment, left: bigint): void {
    const of = this.#waiting.get(payment.peer) ?? new Set();
    this.#waiting.set(payment.peer, of);
    of.add(payment);
    const now = this.options.now();
    const pauses = [...payment.avoid.values()].filter((until) => until > now);
    const wake = Math.min(payment.facts.deadline.getTime(), ...pauses);
    clearTimeout(payment.timer);
    payment.timer = setTimeout(() => this.#advance(payment), Math.min(Math.max(1, wake - now), MAX_TIMER_MS));
    if (!payment.checked) {
      payment.checked = true;
      this.#check(payment).catch(this.options.onFatal);
      return;
    }
    if (this.#hopeless(payment, left)) this.#failNow(payment, PayCode.routeNotFound);
  }

  #unwait(payment: Payment): void {
    clearTimeout(payment.timer);
    const of = this.#waiting.get(payment.peer);
    if (of?.delete(payment) === true && of.size === 0) this.#waiting.delete(payment.peer);
  }

  /** Before a payment waits: was it paid before, and is there anything to wait for? */
  async #check(payment: Payment): Promise<void> {
    const { destination, paymentHash } = payment.facts;
    const row = payment.payment === undefined ? await this.#lookups.submit(paymentHash) : undefined;
    if (payment.ending !== undefined || payment.storing > 0 || payment.parts.size > 0) return;
    if (row !== undefined) return this.#known(payment, row);
    const known = [...this.options.views.of(payment.peer)].length > 0;
    const exists = known || (destination !== undefined && await this.options.hasChannel(destination));
    if (payment.ending !== undefined || payment.storing > 0 || payment.parts.size > 0) return;
    if (!exists) this.#failNow(payment, PayCode.routeNotFound);
    else this.#advance(payment);
  }

  /** No channel can get enough room by itself: nothing is under way in any, and all that they have is too little. */
  #hopeless(payment: Payment, left: bigint): boolean {
    if (payment.parts.size > 0) return false;
    let sum = 0n;
    let seen = 0;
    for (const view of this.options.views.of(payment.peer)) {
      if (payment.exclude.has(view.facts.channel)) continue;
      if (view.level === undefined || view.busy) return false;
      seen++;
      if (view.facts.remoteMinimumMsat > left) continue;
      const { spendableMsat } = view.level;
      sum = payment.facts.mpp ? sum + spendableMsat : spendableMsat > sum ? spendableMsat : sum;
    }
    // Without any view its rows said that there is a channel, whose owner will come.
    return seen > 0 && sum < left;
  }

  /** No part is under way: the payment fails for good. */
  #failNow(payment: Payment, code?: number): void {
    if (payment.ending !== undefined || payment.parts.size > 0 || payment.storing > 0) return;
    const ending = this.#failedEnding(payment, code);
    payment.ending = ending;
    this.#unwait(payment);
    if (payment.payment === undefined) return this.#drop(payment, this.#errorOf(payment, ending));
    this.resolutions.submit({ payment: payment.payment, ending }).then(() => this.#finish(payment, ending))
      .catch(this.options.onFatal);
  }

  #failedEnding(payment: Payment, code?: number): Extract<Ending, { type: "failed" }> {
    const { refusal, last } = payment;
    if (refusal !== undefined) return { type: "failed", code: refusal.code, text: refusal.text };
    if (payment.facts.kind === "sendpay" && last !== undefined) {
      return { type: "failed", code: last.code, text: last.text };
    }
    if (code === PayCode.routeNotFound) {
      const why = last === undefined ? "no channel with the destination has enough to send" : last.text;
      return { type: "failed", code, text: why };
    }
    const after = last === undefined ? "no channel had room for it" : `the last try: ${last.text}`;
    return { type: "failed", code: PayCode.stoppedRetrying, text: `time is over; ${after}` };
  }

  #errorOf(payment: Payment, ending: Extract<Ending, { type: "failed" }>): ArcusError {
    const failure = payment.refusal ?? payment.last;
    return payRefusal(ending.code, "PAYMENT_FAILED", ending.text, {
      payment_hash: payment.key,
      ...(failure === undefined ? {} : failureDetails(failure)),
    });
  }

  #preimage(part: LivePart, preimage: Uint8Array): void {
    if (!sameInConstantTime(sha256(preimage), part.payment.facts.paymentHash)) {
      this.options.log.error({ part: part.part }, "channeld told a preimage of another hash");
      return;
    }
    this.#ended(part, { type: "complete", preimage });
  }

  /** A part is over: its row moves, and with it the payment's end, if this is it. */
  #ended(part: LivePart, end: PartEnd): void {
    const { payment } = part;
    part.onAnswer?.(end);
    this.#parts.delete(part.part);
    if (payment.parts.get(part.partid) === part) payment.parts.delete(part.partid);
    const view = this.options.views.get(part.channel);
    view?.answered(part.part);
    if (view !== undefined) this.changed(view);
    const before = payment.ending;
    if (end.type === "complete") {
      payment.doneParts++;
      payment.doneMsat += part.sentMsat;
      payment.ending ??= this.#completeEnding(payment, end.preimage);
    } else {
      payment.failedParts++;
      payment.last = end.failure;
      if (isFinal(end.failure)) payment.refusal ??= end.failure;
      const pause = FIRST_PAUSE_MS * 2 ** Math.min(payment.failedParts - 1, MAX_DOUBLINGS);
      payment.avoid.set(part.channel, this.options.now() + Math.min(pause, MAX_PAUSE_MS));
      if (before === undefined && this.#isOver(payment)) payment.ending = this.#failedEnding(payment);
    }
    const ending = payment.ending === before ? undefined : payment.ending;
    // Also while others are being stored: should that never be done, only this row knows of the payment.
    const idle = payment.ending === undefined && payment.parts.size === 0;
    payment.idled ||= idle;
    const id = payment.payment;
    if (id === undefined) throw new Error("a part without a payment");
    this.resolutions.submit({
      payment: id,
      part: {
        part: part.part,
        ...(end.type === "complete" ? { preimage: end.preimage } : { failure: end.failure }),
      },
      ...(ending === undefined ? {} : { ending }),
      idle,
      idled: payment.idled,
    }).then(() => {
      this.#tellPart(part, end);
      if (ending !== undefined) this.#finish(payment, ending);
      else if (payment.ending === undefined) this.#advance(payment);
      else if (payment.parts.size === 0) this.#forget(payment);
    }).catch(this.options.onFatal);
  }

  #completeEnding(payment: Payment, preimage: Uint8Array): Ending {
    let sentMsat = payment.doneMsat;
    for (const part of payment.parts.values()) sentMsat += part.sentMsat;
    return { type: "complete", preimage, sentMsat, parts: payment.doneParts + payment.parts.size };
  }

  /** Nothing is under way, and nothing will be tried again. */
  #isOver(payment: Payment): boolean {
    if (payment.parts.size > 0 || payment.storing > 0) return false;
    return payment.facts.kind === "sendpay" || payment.refusal !== undefined ||
      this.options.now() >= payment.facts.deadline.getTime();
  }

  #tellPart(part: LivePart, end: PartEnd): void {
    const key = `${part.payment.key}/${part.partid}`;
    for (const listener of [...this.#partWaiters.get(key) ?? []]) listener(part.payment.groupid, end);
  }

  /** The end is in its row. */
  #finish(payment: Payment, ending: Ending): void {
    const { facts } = payment;
    this.#unwait(payment);
    if (payment.parts.size === 0) this.#forget(payment);
    if (ending.type === "failed") {
      payment.finished.reject(this.#errorOf(payment, ending));
      return;
    }
    payment.finished.resolve({
      paymentHash: facts.paymentHash,
      preimage: ending.preimage,
      createdAt: payment.createdAt,
      amountMsat: facts.amountMsat,
      sentMsat: ending.sentMsat,
      parts: ending.parts,
      failedParts: payment.failedParts,
      ...(facts.destination === undefined ? {} : { destination: facts.destination }),
    });
  }

  // ---------------------------------------------------------------------------------------------------------- routes

  #firstHop(route: readonly RouteStep[]): ChannelView {
    const [first] = route;
    if (first === undefined) throw payRefusal(PayCode.routeNotFound, "NO_ROUTE", "the route is empty");
    const peer = bytesToHex(first.pubkey);
    const view = [...this.options.views.of(peer)].find(({ facts }) =>
      facts.shortChannelId === first.shortChannelId || facts.localAlias === first.shortChannelId ||
      facts.remoteAlias === first.shortChannelId
    );
    if (view?.usable !== true) {
      const failure = localFailure("unknown_next_peer", "the first channel is not ours, or not usable now");
      throw payRefusal(PayCode.tryOtherRoute, "NO_FIRST_CHANNEL", failure.text, failureDetails(failure));
    }
    return view;
  }

  #buildRoute(
    facts: PaymentFacts,
    route: readonly RouteStep[],
    partid: bigint,
    view: ChannelView,
  ): Built {
    const base = this.options.height() + BLOCKS_AHEAD;
    const sessionKey = newSessionKey();
    const [first, last] = [route[0]!, route.at(-1)!];
    const hops = route.map(({ pubkey }, index): OnionHop => {
      const next = route[index + 1];
      if (next === undefined) {
        return { pubkey, payload: finalPayload(facts, last.amountMsat, base + last.delay) };
      }
      return {
        pubkey,
        payload: encodeHopPayload({
          amt_to_forward: next.amountMsat,
          outgoing_cltv_value: base + next.delay,
          short_channel_id: next.shortChannelId as never,
        }),
      };
    });
    return {
      part: {
        partid,
        channel: view.facts.channel,
        amountMsat: last.amountMsat,
        sentMsat: first.amountMsat,
        cltvExpiry: base + first.delay,
        hops: concatBytes(...route.map(({ pubkey }) => pubkey)),
        sessionKey,
      },
      onion: onionOf(sessionKey, hops, facts.paymentHash),
    };
  }

  async #rowOf(paymentHash: Uint8Array): Promise<PaymentRow> {
    const row = await this.#lookups.submit(paymentHash);
    if (row === undefined) {
      throw payRefusal(PayCode.noSuchPayment, "NO_PAYMENT", "there is no such payment any more");
    }
    return row;
  }
}

function paidOf(row: PaymentRow, ending: Extract<Ending, { type: "complete" }>): Paid {
  return {
    paymentHash: row.paymentHash,
    preimage: ending.preimage,
    createdAt: row.createdAt,
    amountMsat: row.amountMsat,
    sentMsat: ending.sentMsat,
    parts: ending.parts,
    failedParts: 0,
    ...(row.destination === undefined ? {} : { destination: row.destination }),
  };
}

/** A part and its packet, which only its offer needs. */
interface Built {
  readonly part: NewPart;
  readonly onion: Uint8Array;
}

function newSessionKey(): Uint8Array {
  for (;;) {
    const key = crypto.getRandomValues(new Uint8Array(PRIVATE_KEY_LENGTH));
    if (ecc().isPrivate(key)) return key;
  }
}

function finalPayload(facts: PaymentFacts, amountMsat: bigint, cltv: number): Uint8Array {
  const { paymentSecret, metadata, keysendPreimage, extraTlvs, totalMsat } = facts;
  return encodeHopPayload({
    amt_to_forward: amountMsat,
    outgoing_cltv_value: cltv,
    ...(paymentSecret === undefined
      ? {}
      : { payment_data: { payment_secret: paymentSecret, total_msat: totalMsat } }),
    ...(metadata === undefined ? {} : { payment_metadata: metadata }),
    ...(keysendPreimage === undefined ? {} : { keysend_preimage: keysendPreimage }),
    ...(extraTlvs === undefined ? {} : { unknown_tlvs: decodeTlvStream(extraTlvs) }),
  });
}

function onionOf(sessionKey: Uint8Array, hops: readonly OnionHop[], paymentHash: Uint8Array): Uint8Array {
  const onion = createOnion({ sessionKey, hops, associatedData: paymentHash });
  if (!onion.ok) {
    throw payRefusal(PayCode.routeNotFound, "NO_ONION", `no onion for this route: ${onion.error.type}`);
  }
  return encodeOnionPacket(onion.value.packet);
}

/** CLN's fields of an error. */
export function failureDetails(failure: PartFailure): Record<string, string> {
  const { erringIndex, failcode, rawMessage, errorOnion, name } = failure;
  return {
    ...(erringIndex === undefined ? {} : { erring_index: String(erringIndex) }),
    ...(failcode === undefined ? {} : { failcode: String(failcode), failcodename: name }),
    ...(rawMessage === undefined ? {} : { raw_message: bytesToHex(rawMessage) }),
    ...(errorOnion === undefined ? {} : { onionreply: bytesToHex(errorOnion) }),
  };
}

function sameTerms(before: PaymentFacts, now: PaymentFacts): boolean {
  const sameNode = before.destination === undefined || now.destination === undefined ||
    bytesToHex(before.destination) === bytesToHex(now.destination);
  return sameNode && before.totalMsat === now.totalMsat;
}

/** 201 unless both pay the same amount to the same node. */
function requireSame(before: PaymentFacts, now: PaymentFacts): void {
  if (sameTerms(before, now)) return;
  throw payRefusal(
    PayCode.rhashAlreadyUsed,
    "HASH_USED",
    `this hash is paid with another amount (${before.totalMsat}msat) or to another node`,
  );
}

function failureOfRow(part: LivePart, row: { failure?: Uint8Array; malformedCode?: number } | undefined) {
  if (row?.failure !== undefined) {
    return readFailure(row.failure, new Uint8Array(), part.sessionKey, part.hops);
  }
  if (row?.malformedCode !== undefined) return readMalformed(row.malformedCode, new Uint8Array());
  return localFailure("temporary_channel_failure", "it was never sent: the channel's owner was replaced");
}

function rowOfPart(part: LivePart): LivePartRow {
  const { payment, unsure: _, onAnswer: _unused, ...row } = part;
  return { ...row, payment: payment.payment ?? 0n };
}

function rowOfPayment(payment: Payment): PaymentRow {
  const { facts, createdAt, groupid } = payment;
  return { ...facts, payment: payment.payment ?? 0n, groupid, createdAt };
}
