/** The working copy of a step: what a batch changes, and what it leads to. Never leaves the step that made it. */
import type { Side } from "bolt/interactive/types.ts";
import { errorMessage, txAbortMessage, warningMessage } from "bolt/wire/error_text.ts";
import type { Message } from "bolt/wire/messages.ts";
import { Figures } from "./figures.ts";
import type { Transitions } from "./htlc_state.ts";
import type {
  ActiveCommitment,
  ChannelAction,
  ChannelCommitments,
  ChannelMachine,
  FeeUpdate,
  Htlc,
  LockedChannel,
  Offer,
} from "./types.ts";

/** A state whose fields are replaced; what they hold is not changed. */
export type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** The channel fails for good: stored, then said. */
export interface Failure {
  readonly text: string;
  /** Tell the peer (it told us otherwise). */
  readonly say: boolean;
  readonly dataLoss: boolean;
}

/** What an origin is mapped to while its offer waits in the queue: no HTLC's key. */
export const QUEUED = -1n;

/** See the file's head. */
export class Draft {
  readonly before: ChannelMachine;
  readonly m: Mutable<ChannelMachine>;
  /** Needs no COMMIT of this step. */
  readonly early: ChannelAction[] = [];
  /** Made true by the COMMIT of this step. */
  readonly late: ChannelAction[] = [];
  /** After everything else: hang_up, shutdown_complete, end. */
  readonly last: ChannelAction[] = [];
  readonly added = new Set<bigint>();
  readonly changed = new Set<bigint>();
  readonly removed: Htlc[] = [];
  /** Keys of incoming HTLCs whose onions this step commits. */
  readonly ecdh: bigint[] = [];
  /** HTLCs that became irrevocably committed. */
  readonly arrived: bigint[] = [];
  /** The peer's commitment_signed came in this batch. */
  received = false;
  /** The peer's first closing message waits. */
  closingSpoken = false;
  failure: Failure | null = null;
  #ownHtlcs: Map<bigint, Htlc> | null = null;
  #ownOrigins: Map<bigint, bigint> | null = null;
  #ownQueue: Offer[] | null = null;
  #ownUncommitted: { adds: bigint[]; removes: bigint[] } | null = null;
  #figures: readonly Figures[] | null = null;

  constructor(before: ChannelMachine) {
    this.before = before;
    this.m = { ...before };
  }

  get channel(): LockedChannel {
    return this.m.channel;
  }

  set(changes: Partial<LockedChannel>): void {
    this.m.channel = { ...this.m.channel, ...changes };
  }

  get commitments(): ChannelCommitments {
    return this.m.channel.commitments;
  }

  setCommitments(changes: Partial<ChannelCommitments>): void {
    this.set({ commitments: { ...this.commitments, ...changes } });
    this.#figures = null;
  }

  /** The first of the list: numbers are the same on every one. */
  get first(): ActiveCommitment {
    const [first] = this.commitments.active;
    if (first === undefined) throw new RangeError("a locked channel has a commitment");
    return first;
  }

  get opener(): Side {
    return this.channel.opener;
  }

  get htlcs(): ReadonlyMap<bigint, Htlc> {
    return this.m.htlcs;
  }

  #own(): Map<bigint, Htlc> {
    if (this.#ownHtlcs === null) {
      this.#ownHtlcs = new Map(this.m.htlcs);
      this.m.htlcs = this.#ownHtlcs;
    }
    return this.#ownHtlcs;
  }

  put(htlc: Htlc): void {
    this.#own().set(htlc.key, htlc);
  }

  drop(key: bigint): void {
    this.#own().delete(key);
  }

  #origins(): Map<bigint, bigint> {
    if (this.#ownOrigins === null) {
      this.#ownOrigins = new Map(this.m.origins);
      this.m.origins = this.#ownOrigins;
    }
    return this.#ownOrigins;
  }

  setOrigin(origin: bigint, key: bigint): void {
    this.#origins().set(origin, key);
  }

  dropOrigin(origin: bigint): void {
    this.#origins().delete(origin);
  }

  enqueue(offer: Offer): void {
    this.setOrigin(offer.origin, QUEUED);
    if (this.#ownQueue === null) {
      this.#ownQueue = [...this.m.queue];
      this.m.queue = this.#ownQueue;
    }
    this.#ownQueue.push(offer);
  }

  /** Empties the queue; the caller says what became of each. */
  takeQueue(): readonly Offer[] {
    const queue = this.m.queue;
    for (const { origin } of queue) this.dropOrigin(origin);
    this.m.queue = [];
    this.#ownQueue = null;
    return queue;
  }

  #uncommitted(): { adds: bigint[]; removes: bigint[] } {
    if (this.#ownUncommitted === null) {
      const { adds, removes } = this.m.uncommitted;
      this.#ownUncommitted = { adds: [...adds], removes: [...removes] };
      this.m.uncommitted = this.#ownUncommitted;
    }
    return this.#ownUncommitted;
  }

  /** Remembers a new HTLC of the peer. */
  addUncommitted(htlc: Htlc): void {
    this.put(htlc);
    this.#uncommitted().adds.push(htlc.key);
  }

  /** Remembers that the peer removes an HTLC of ours. */
  removeUncommitted(htlc: Htlc): void {
    this.put(htlc);
    this.#uncommitted().removes.push(htlc.key);
  }

  clearUncommitted(): void {
    this.m.uncommitted = { adds: [], removes: [] };
    this.#ownUncommitted = null;
  }

  /** Moves every HTLC and fee rate that an event concerns. Calls back with each HTLC in its new state. */
  transition(transitions: Transitions, each?: (htlc: Htlc) => void): void {
    for (const htlc of this.m.htlcs.values()) {
      const state = transitions[htlc.state];
      if (state === undefined) continue;
      const next = { ...htlc, state };
      // An entry that is there already keeps its place: the walk goes on undisturbed.
      this.put(next);
      this.changed.add(htlc.key);
      each?.(next);
    }
    let fees: FeeUpdate[] | null = null;
    for (const [i, fee] of this.commitments.fees.entries()) {
      const state = transitions[fee.state];
      if (state === undefined) continue;
      fees ??= [...this.commitments.fees];
      fees[i] = { ...fee, state };
    }
    this.setCommitments({ fees: fees ?? this.commitments.fees });
  }

  /** Both next commitments on each funding output, as of now, an offer that waits included. */
  get figures(): readonly Figures[] {
    if (this.#figures === null) {
      const { fees, active } = this.commitments;
      this.#figures = active.map((each) => new Figures(this.channel, each, fees, this.m.htlcs.values()));
      for (const offer of this.m.queue) {
        for (const each of this.#figures) each.adds({ offered: true, amount: offer.amount });
      }
    }
    return this.#figures;
  }

  /** Figures do not follow by themselves when HTLCs or the queue change in bulk. */
  forgetFigures(): void {
    this.#figures = null;
  }

  log(level: "info" | "warn" | "error", text: string): void {
    this.late.push({ type: "log", level, text });
  }

  send(...messages: readonly Message[]): void {
    if (messages.length > 0) this.early.push({ type: "send", messages });
  }

  /** Says that something is wrong; nothing changes. */
  protest(text: string): void {
    this.log("warn", text);
    if (this.m.link !== "down") this.send(warningMessage(this.channel.channelId, text));
  }

  /** Ends a negotiation that is none of this channel any more. */
  abort(text: string): void {
    this.m.abortSaid = true;
    this.send(txAbortMessage(this.channel.channelId, text));
  }

  /** The peer broke the rules of a connection, not those that money depends on. What it did not commit to is forgotten. */
  hangUp(text: string): void {
    this.last.push({
      type: "hang_up",
      messages: [warningMessage(this.channel.channelId, text)],
      reason: text,
    });
    this.m.link = "down";
  }

  /** Fails the channel for good. The rest of the batch is not looked at. */
  fail(text: string, more: { readonly say?: boolean; readonly dataLoss?: boolean } = {}): void {
    if (this.failure !== null) return;
    this.failure = { text, say: more.say ?? true, dataLoss: more.dataLoss ?? false };
  }

  /** The `error` that goes with a failure. */
  errorOf(failure: Failure): Message {
    return errorMessage(this.channel.channelId, failure.text);
  }
}
