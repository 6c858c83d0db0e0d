/**
 * The owner of one channel: a serial loop around the pure machine. Everything that waits is taken at once, stepped as one
 * batch, and its actions are carried out in order: one statement, one question to hsmd, one write to connectd. While
 * hsmd is asked, what comes in waits and makes the next batch. Whatever goes wrong ends the ownership: memory never goes
 * on where it differs from the rows.
 */
import { setImmediate } from "node:timers";
import { bytesToHex } from "@noble/hashes/utils.js";
import { awaitsClosing } from "bolt/channel/last_fee.ts";
import { type ChannelSetup, fromRows, paused, standing, step } from "bolt/channel/machine.ts";
import {
  type ChannelAction,
  type ChannelInput,
  type ChannelLevel,
  type ChannelMachine,
  type ChannelState,
  type ChannelStep,
  type ChannelStore,
  type HsmdRequest,
  type Htlc,
  htlcKey,
} from "bolt/channel/types.ts";
import { unreachable } from "bolt/result.ts";
import { msat } from "bolt/units.ts";
import { decodeMessage, type Message } from "bolt/wire/messages.ts";
import type { ServiceClient } from "common/grpc/client.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import { type Arrived, ChannelOwner, type Connected, frameInput, shutdownForms } from "subd/channel_owner.ts";
import type { Assigned, Ended } from "subd/owner.ts";
import { RowError } from "subd/rows.ts";
import type { NodeFacts } from "subd/owners.ts";
import { channelTerms } from "subd/terms.ts";
import { incomingSaid, levelSaid, resolvedSaid, type Said } from "./htlc_messages.ts";
import type { ChanneldMetrics } from "./metrics.ts";
import { type Peeled, peelIncoming, replayed } from "./onions.ts";
import { Questioner } from "./question.ts";
import type { StepSigner } from "./signer.ts";
import {
  type Decisions,
  loadChannel,
  loadDecisions,
  type LoadedChannel,
  loadMissed,
  loadOnChain,
  loadOnionKeys,
  loadPastOffers,
  type OnionKey,
  type PastOffer,
  saveStep,
} from "./store.ts";

/** Most inputs of one step: what waits longer makes the next one. */
const MAX_BATCH = 512;
/** Frames that may be taken before connectd hears of it; what is durable is taken too. */
const UNTOLD_FRAMES = 16n;
/** Where lightningd's policy names none: what dust may put at risk, msat. */
const DEFAULT_DUST_EXPOSURE = 50_000_000n;

/** How long the peer may take to begin the closing over its last fee. */
const CLOSING_PATIENCE_MS = 2_000;

/** Messages that the peer's next commitment_signed covers: until then they are in no row. */
const UPDATES: ReadonlySet<string> = new Set<Message["type"]>([
  "update_add_htlc",
  "update_fulfill_htlc",
  "update_fail_htlc",
  "update_fail_malformed_htlc",
  "update_fee",
]);
/** closingd's messages: what was said before them may hand the channel over, and then they are its frames. */
const CLOSING: ReadonlySet<string> = new Set<Message["type"]>([
  "closing_signed",
  "closing_complete",
  "closing_sig",
]);

/** What an owner needs of its process. */
export interface OwnerHost {
  readonly sql: Sql;
  /** Connections with the settings of steps. */
  readonly steps: Sql;
  readonly hsmd: ServiceClient<typeof Hsmd>;
  readonly signer: StepSigner;
  readonly metrics: ChanneldMetrics;
  readonly log: Logger;
  /** The newest level of the node; null before the first one. */
  readonly node: Extract<ChannelInput, { type: "node" }> | null;
  /** Which stream of HTLCs this is; another one has another number. */
  readonly round: number;
  /** Tells lightningd, on the stream of HTLCs. */
  report(owner: Owner, said: Said): void;
  /** A store changed what lightningd should look at. */
  changed(owner: Owner): void;
  /** The owner let go. Called once, last. */
  ended(owner: Owner, how: Ended): void;
}

/** What waits in front of the machine besides what connectd brings. */
type Own =
  | { readonly type: "begin" }
  | { readonly type: "look" }
  /** lightningd's stream is new. */
  | { readonly type: "tell"; readonly round: number }
  | { readonly type: "input"; readonly input: ChannelInput };

/** An onion that lightningd is told of, and whose it is. */
interface Onion extends OnionKey {
  readonly of: Htlc;
}

/** Loads what was assigned. Throws SupersededError, RowError. */
export async function loadOwner(host: OwnerHost, assigned: Assigned, node: NodeFacts): Promise<Owner> {
  const rows = await loadChannel(host.steps, assigned.channel, assigned.epoch);
  const upfront = rows.localUpfrontShutdownScript;
  const localShutdownScript = upfront !== null && upfront.length > 0 ? upfront : assigned.shutdownScript;
  const theirs = assigned.peerFeatures.length > 0 ? assigned.peerFeatures : rows.features.remote;
  const exposure = node.welcome.policy?.maxDustHtlcExposureMsat ?? 0n;
  return new Owner(host, assigned, rows, {
    channel: { ...rows.channel, localShutdownScript },
    htlcs: rows.htlcs,
    forms: shutdownForms(node.features, theirs),
    policy: { maxDustExposure: msat(exposure === 0n ? DEFAULT_DUST_EXPOSURE : exposure) },
    onChain: rows.onChain,
  });
}

/** One owner. Everything happens in its loop, one after the other. */
export class Owner extends ChannelOwner<Own> {
  readonly #host: OwnerHost;
  readonly #questioner: Questioner;
  readonly #first: ChannelStep;
  readonly #decided: Decisions;
  #state: ChannelMachine;

  /** Last frame that was taken out of the queue, and the last one that connectd heard of. */
  #taken = 0n;
  #told = 0n;
  /** First of the peer's updates that no commitment_signed covers; null: none. */
  #uncovered: bigint | null = null;

  /** htlcs.htlc by key of the HTLC. */
  readonly #rowKeys: Map<bigint, bigint>;
  /** Incoming HTLCs that were peeled and are not over, by key. */
  readonly #peeled = new Map<bigint, Peeled>();
  /** Rows that the step under way moved to history, by key of the HTLC. */
  #removedRows: ReadonlyMap<bigint, bigint> = new Map();
  #highestOrigin: bigint;
  #storedState: ChannelState;
  #patience: ReturnType<typeof setTimeout> | null = null;

  constructor(host: OwnerHost, assigned: Assigned, rows: LoadedChannel, setup: ChannelSetup) {
    super(assigned, { ...host, ...rows, channelId: setup.channel.channelId });
    this.#host = host;
    this.#first = fromRows(setup);
    this.#state = this.#first.state;
    this.#decided = rows.decisions;
    this.#rowKeys = new Map(rows.rowKeys);
    this.#highestOrigin = rows.highestOrigin;
    this.#storedState = rows.channel.state;
    const { channelKeyId, paymentKeyIndex } = rows;
    this.#questioner = new Questioner(
      host.signer,
      host.hsmd,
      { channelKeyId, paymentKeyIndex, epoch: assigned.epoch },
      channelTerms({ opener: setup.channel.opener, params: rows.params }),
      this.stopped.signal,
    );
    this.queue.push({ type: "begin" });
  }

  /** CLN's name of the channel's state. */
  get state(): ChannelState {
    return this.#state.channel.state;
  }

  /** Why no update may be made now; empty when the channel is usable. */
  get paused(): string {
    return paused(this.#state) ?? "";
  }

  get reestablished(): boolean {
    return this.#state.link === "up";
  }

  /** What the channel can do now, as lightningd was told last. */
  get level(): ChannelLevel | null {
    return this.#state.level;
  }

  /** Live HTLCs. */
  get htlcs(): readonly Htlc[] {
    return [...this.#state.htlcs.values()];
  }

  /** htlcs.htlc of a live HTLC; 0 before its row is there. */
  rowKey(htlc: Htlc): bigint {
    return this.#rowKeys.get(htlc.key) ?? 0n;
  }

  /** The onion of an incoming HTLC, while it is kept. */
  onionOf(id: bigint): Uint8Array | null {
    return this.#state.htlcs.get(htlcKey(false, id))?.onion ?? null;
  }

  lookAgain(): void {
    this.push({ type: "look" });
  }

  /** lightningd's stream is new: it is told everything that is not over. */
  tell(): void {
    this.push({ type: "tell", round: this.#host.round });
  }

  /** What lightningd asks for or says. */
  command(input: Extract<ChannelInput, { type: "offer" | "settle" | "node" }>): void {
    this.push({ type: "input", input });
  }

  protected override onEnded(how: Ended): void {
    this.#host.ended(this, how);
  }

  // The loop --------------------------------------------------------------------------------------------------------

  protected override async handleNext(): Promise<void> {
    const [item] = this.queue;
    if (item === undefined) return;
    if (item.type === "frame" || item.type === "input") {
      await everythingRead();
      if (!this.over) await this.#batch();
    } else {
      this.queue.shift();
      await this.#handle(item);
    }
  }

  async #handle(item: Exclude<Arrived | Own, { type: "frame" | "input" }>): Promise<void> {
    switch (item.type) {
      case "begin":
        return await this.#begin();
      case "attach":
        return await this.attachTo(item.attachment);
      case "gone":
        return await this.detach(item.attachment);
      case "look":
        return await this.#look();
      case "tell":
        // Of a stream that is gone: offers that came on it may stand behind this, and the next stream's telling behind them.
        return item.round === this.#host.round ? await this.#tell() : undefined;
      default:
        return unreachable(item);
    }
  }

  /** What is pending is asked again before anything is fed. */
  async #begin(): Promise<void> {
    await this.#perform(this.#first);
    if (this.over) return;
    const { node } = this.#host;
    await this.#feed([
      ...(node === null ? [] : [node]),
      { type: "chain", onChain: this.#state.onChain },
      ...this.#decisions(this.#decided),
    ]);
    if (!this.over) await this.#tell();
  }

  async #look(): Promise<void> {
    const [onChain, decisions] = await Promise.all([
      loadOnChain(this.#host.sql, this.channel),
      loadDecisions(this.#host.sql, this.channel),
    ]);
    this.mustOwn();
    await this.#feed([{ type: "chain", onChain }, ...this.#decisions(decisions)]);
  }

  /** A level: only what was not done yet is an input. */
  #decisions({ closing }: Decisions): readonly ChannelInput[] {
    if (closing === null || this.#state.channel.shutdownSent !== null) return [];
    return [{ type: "start_shutdown", ...(closing.script === null ? {} : { script: closing.script }) }];
  }

  protected override async onConnected(how: Connected): Promise<void> {
    [this.#taken, this.#told, this.#uncovered] = [this.place.inSeq, this.place.inSeq, null];
    await this.#feed([how]);
  }

  protected override async onDisconnected(): Promise<void> {
    this.#uncovered = null;
    await this.#feed([{ type: "disconnected" }]);
  }

  /** Everything that waits, up to what must be handled by itself. */
  async #batch(): Promise<void> {
    const inputs: ChannelInput[] = [];
    let [used, reestablished] = [0, false];
    for (const item of this.queue) {
      if (item.type !== "frame" && item.type !== "input") break;
      if (inputs.length >= MAX_BATCH) break;
      if (item.type === "input") {
        inputs.push(item.input);
      } else if (item.attachment === this.attachment && !item.attachment.over) {
        const decoded = decodeMessage(item.data);
        const type = decoded.ok ? decoded.value.type : "";
        if (CLOSING.has(type)) {
          if (inputs.length > 0) break;
          if (awaitsClosing(this.#state)) {
            // It begins the closing: then this frame is closingd's.
            await this.#feed([{ type: "closing_spoken" }]);
            if (this.over) return;
          }
        }
        this.#taken = item.inSeq;
        if (UPDATES.has(type)) this.#uncovered ??= item.inSeq;
        if (type === "commitment_signed") this.#uncovered = null;
        reestablished ||= type === "channel_reestablish";
        const input = frameInput(decoded);
        if (input !== null) inputs.push(input);
      }
      used++;
    }
    this.queue.splice(0, used);
    // Credit for the peer's next frames, before anything waits.
    if (this.#taken - this.#told >= UNTOLD_FRAMES) {
      this.#told = this.#taken;
      this.attachment?.taken(this.#taken);
    }
    if (reestablished) await this.reestablishCame();
    await this.#feed(await this.#newOffers(inputs));
    this.#acknowledge();
  }

  /** Offers that are over already are answered from history, the others are left. */
  async #newOffers(inputs: readonly ChannelInput[]): Promise<readonly ChannelInput[]> {
    const offers = inputs.filter((input) => input.type === "offer");
    const doubtful = offers.filter(({ origin }) =>
      origin <= this.#highestOrigin && !this.#state.origins.has(origin)
    );
    for (const { origin } of offers) if (origin > this.#highestOrigin) this.#highestOrigin = origin;
    if (doubtful.length === 0) return inputs;
    const past = await loadPastOffers(this.#host.steps, doubtful.map(({ origin }) => origin));
    this.mustOwn();
    for (const offer of past) this.#resolvedOffer(offer);
    const over = new Set(past.map(({ origin }) => origin));
    return inputs.filter((input) => input.type !== "offer" || !over.has(input.origin));
  }

  #resolvedOffer(offer: PastOffer): void {
    this.#report({ case: "offered", value: { origin: offer.origin, id: offer.id } });
    this.#report(resolvedSaid(offer));
  }

  /** Last frame whose effect is in the rows once the step that took it is committed. */
  get #durable(): bigint {
    return this.#uncovered === null ? this.#taken : this.#uncovered - 1n;
  }

  /** What the frames so far changed is committed: connectd may forget them. */
  #acknowledge(): void {
    const durable = this.#durable;
    if (durable <= this.place.inSeq) return;
    this.place = { ...this.place, inSeq: durable };
    if (durable > this.#told) this.#told = durable;
    this.attachment?.durable(durable);
  }

  async #feed(inputs: readonly ChannelInput[]): Promise<void> {
    if (inputs.length === 0) return;
    const before = this.paused;
    await this.#perform(step(this.#state, inputs));
    if (!this.over && this.paused !== before) this.#host.changed(this);
  }

  /** A step and, if it asked hsmd, what follows the answer, until nothing is asked any more. */
  async #perform(first: ChannelStep): Promise<void> {
    for (let next = first;;) {
      this.#state = next.state;
      const request = await this.#carryOut(next.actions);
      if (this.over) return;
      if (request === null) return this.#awaitClosing();
      const stop = this.#host.metrics.hsmd.startTimer();
      const answer = await this.#questioner.ask(request);
      stop();
      this.mustOwn();
      next = step(this.#state, [{ type: "hsmd", answer }]);
    }
  }

  /** Only patience: whenever it ends, nothing but the order of messages changes. */
  #awaitClosing(): void {
    if (awaitsClosing(this.#state) === (this.#patience !== null)) return;
    if (this.#patience !== null) clearTimeout(this.#patience);
    this.#patience = null;
    if (!awaitsClosing(this.#state)) return;
    const timer = setTimeout(() => {
      this.#patience = null;
      this.push({ type: "input", input: { type: "closing_awaited" } });
    }, CLOSING_PATIENCE_MS);
    this.#patience = timer;
    this.stopped.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  }

  // Actions ---------------------------------------------------------------------------------------------------------

  /** In order. Answers what hsmd is to be asked. */
  async #carryOut(actions: readonly ChannelAction[]): Promise<HsmdRequest | null> {
    this.mustOwn();
    const stores = actions.some(({ type }) => type === "store");
    const onions = this.#peel(actions);
    if (!stores && onions.length > 0) await this.#recall(onions);
    let frames: Message[] = [];
    const flush = () => {
      this.attachment?.sendAll(frames);
      frames = [];
    };
    for (const action of actions) {
      switch (action.type) {
        case "send":
          if (action.messages[0]?.type !== "start_batch") {
            frames.push(...action.messages);
            break;
          }
          flush();
          this.attachment?.sendAll(action.messages, true);
          break;
        case "store":
          flush();
          await this.#store(action, onions);
          break;
        case "ask_hsmd":
          flush();
          return action.request;
        case "hang_up":
          flush();
          this.hangUp(action.messages, action.reason);
          break;
        case "end":
          flush();
          this.#letGo(action.reason);
          return null;
        case "shutdown_complete":
          flush();
          this.handOver(Released_Reason.SHUTDOWN_COMPLETE, "both are ready to close", this.#taken);
          return null;
        case "offered":
          this.#report({ case: "offered", value: { origin: action.origin, id: action.id } });
          break;
        case "refused": {
          const { origin, reason: refusal, detail } = action;
          this.#report({ case: "offered", value: { origin, refusal, detail } });
          break;
        }
        case "incoming":
          this.#incoming(action.htlc);
          break;
        case "outgoing_resolved":
          this.#report(resolvedSaid(action));
          break;
        case "incoming_resolved":
          this.#incomingResolved(action.htlc);
          break;
        case "level":
          this.#report(levelSaid(action.level));
          break;
        case "log":
          this.log[action.level]({}, action.text);
          break;
        default:
          return unreachable(action);
      }
    }
    flush();
    return null;
  }

  #report(said: Said): void {
    this.#host.report(this, said);
  }

  /** One statement, with the keys of the onions that its commit makes irrevocable. */
  async #store(store: ChannelStore, onions: readonly Onion[]): Promise<void> {
    const { metrics, steps } = this.#host;
    const outSeq = this.attachment?.outSeq ?? this.place.outSeq;
    const stop = metrics.store.startTimer();
    const { fence, added, fresh } = await saveStep(steps, {
      fence: this.fence,
      place: { ...this.place, inSeq: this.#durable, outSeq },
      store,
      onionKeys: onions,
      rowKeys: this.#rowKeys,
    });
    stop();
    this.fence = fence;
    this.place = { ...this.place, outSeq };
    this.#removedRows = new Map(store.removed.map((htlc) => [htlc.key, this.rowKey(htlc)]));
    for (const { key } of store.removed) {
      this.#rowKeys.delete(key);
      this.#peeled.delete(key);
    }
    store.added.forEach(({ key }, i) => this.#rowKeys.set(key, added[i] ?? 0n));
    const known = new Set(fresh);
    for (const onion of onions) if (!known.has(onion.htlc)) this.#replayed(onion);
    this.mustOwn();
    this.#acknowledge();
    metrics.settled.inc(store.removed.length);
    const { errorText, remoteAlias, shutdownSent, shutdownReceived } = store;
    const seen = [errorText, remoteAlias, shutdownSent, shutdownReceived].some((column) => column !== null);
    if (seen || store.state !== this.#storedState) this.#host.changed(this);
    this.#storedState = store.state;
  }

  // HTLCs -----------------------------------------------------------------------------------------------------------

  /** Peels the onions of what is irrevocably committed; answers those that lightningd is told of, unless seen before. */
  #peel(actions: readonly ChannelAction[]): readonly Onion[] {
    const onions: Onion[] = [];
    for (const action of actions) {
      if (action.type !== "incoming" || this.#peeled.has(action.htlc.key)) continue;
      const { htlc, refusal } = action;
      const peeled = peelIncoming(htlc, refusal);
      this.#peeled.set(htlc.key, peeled);
      const row = this.#rowKeys.get(htlc.key);
      if (row === undefined) throw new RowError(`htlcs: no row of the peer's ${htlc.id}`);
      if (peeled.type === "ours") {
        onions.push({ key: peeled.key, htlc: row, cltvExpiry: htlc.cltvExpiry, of: htlc });
      }
    }
    return onions;
  }

  /** After a restart: whose onions were these when they were seen first? */
  async #recall(onions: readonly Onion[]): Promise<void> {
    const owners = await loadOnionKeys(this.#host.steps, onions.map(({ key }) => key));
    this.mustOwn();
    for (const onion of onions) {
      const first = owners.get(bytesToHex(onion.key));
      if (first !== undefined && first !== onion.htlc) this.#replayed(onion);
    }
  }

  #replayed({ of: htlc }: Onion): void {
    this.log.warn({ htlc: htlc.id }, "an onion that was seen before is refused");
    this.#peeled.set(htlc.key, { type: "refused", removal: replayed(htlc) });
  }

  #incoming(htlc: Htlc): void {
    const peeled = this.#peeled.get(htlc.key);
    if (peeled === undefined) throw new RangeError(`HTLC ${htlc.id} was not peeled`);
    if (peeled.type === "ours") {
      return this.#report(incomingSaid(this.rowKey(htlc), htlc, peeled));
    }
    const { removal } = peeled;
    this.queue.push({ type: "input", input: { type: "settle", id: htlc.id, removal } });
  }

  #incomingResolved({ id, key }: Htlc): void {
    const htlc = this.#removedRows.get(key);
    if (htlc !== undefined) this.#report({ case: "incomingResolved", value: { id, htlc } });
  }

  /** Everything that is not over, and what ended while lightningd was away. */
  async #tell(): Promise<void> {
    const { round } = this.#host;
    const actions = [...standing(this.#state)];
    for (const htlc of this.#state.htlcs.values()) {
      // A settlement that is in no row yet is not done: lightningd must not forget what it decided.
      if (htlc.state === "SENT_REMOVE_HTLC") actions.push({ type: "incoming", htlc, refusal: null });
    }
    await this.#carryOut(actions);
    const missed = await loadMissed(this.#host.steps, this.channel);
    this.mustOwn();
    for (const offer of missed.outgoing) this.#resolvedOffer(offer);
    for (const incoming of missed.incoming) this.#report({ case: "incomingResolved", value: incoming });
    // On a new stream "synced" would say that nothing was: it is told everything anew.
    if (this.#host.round === round) this.#report({ case: "synced", value: {} });
  }

  /** The channel failed and says so in its row, or it cannot go on here. */
  #letGo(reason: string): void {
    if (this.#state.channel.errorText !== null) {
      return this.handOver(Released_Reason.CHANNEL_FAILED, reason, this.#taken);
    }
    this.log.error({ reason }, "letting go");
    this.giveUp(reason);
  }
}

/** What one read of a socket brought comes in one by one: a revoke_and_ack must not cost a statement of its own. */
function everythingRead(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
