/**
 * The owner of one channel or opening: a serial queue in front of the pure machine. Takes an input, steps, carries out
 * the actions in order; the answer to a question is stepped at once, before the rest of its actions and before anything
 * that waits. Whatever goes wrong ends the ownership: memory never goes on where it differs from the rows.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import type { Action, Outcome, StoreStep } from "bolt/dualopen/actions.ts";
import type { HsmRequestType, Input } from "bolt/dualopen/inputs.ts";
import { fromRows, newOpening, onGarbage, step } from "bolt/dualopen/machine.ts";
import { attemptOf, currentAttempt, type Step, weSigned } from "bolt/dualopen/step.ts";
import type { Attempt, DualOpenState, EndReason, SavedChannel, Setup } from "bolt/dualopen/types.ts";
import { unreachable } from "bolt/result.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { errorMessage, txAbortMessage } from "bolt/wire/error_text.ts";
import { decodeMessage } from "bolt/wire/messages.ts";
import type { ServiceClient } from "common/grpc/client.ts";
import { ArcusError, Code, unavailable } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type Lightningd, TestFundingTxResponse_Verdict } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import type { Attachment } from "subd/attachment.ts";
import { type Fence, type Place, savePlace, SupersededError } from "subd/fence.ts";
import type { Assigned, Ended, Held, SubdOwner } from "subd/owner.ts";
import type { NodeFacts } from "subd/owners.ts";
import { type HsmAnswer, Signer } from "./hsm.ts";
import { patiently } from "common/grpc/patience.ts";
import { readPlan } from "./plans.ts";
import { readPolicy } from "./policy.ts";
import {
  dropOpening,
  dropRbf,
  loadChainFacts,
  loadChannel,
  loadClosing,
  loadOpening,
  saveAttempt,
  type SavedAttempt,
  saveLock,
  saveOpen,
  saveStep,
} from "./store.ts";

/** Bytes of randomness that a negotiation's serial ids come from. */
const ENTROPY_LENGTH = 32;
/** What a peer is told when the cause is ours alone. */
const OUR_FAULT = "internal error";
const CANNOT_FUND = "cannot take part in this funding transaction now";

/** What an owner needs of its process. */
export interface OwnerHost {
  readonly sql: Sql;
  readonly hsmd: ServiceClient<typeof Hsmd>;
  readonly lightningd: ServiceClient<typeof Lightningd>;
  readonly log: Logger;
  readonly instance: string;
  randomBytes(length: number): Uint8Array;
  /** Calls back after this time; answers how to prevent that. */
  timer(ms: number, callback: () => void): () => void;
  /** A store changed what lightningd should look at; `opening`: the one that became this channel, else 0. */
  changed(owner: Owner, opening: bigint): void;
  /** An RBF came to nothing; the channel is kept. */
  rbfEnded(owner: Owner, opening: bigint, detail: string): void;
  /** The owner let go. Called once, last. */
  ended(owner: Owner, how: Ended): void;
}

/** What waits in front of the machine. */
type Queued =
  /** After loading: what the rows ask for before any frame. */
  | { readonly type: "begin" }
  | { readonly type: "attach"; readonly attachment: Attachment }
  | {
    readonly type: "frame";
    readonly attachment: Attachment;
    readonly inSeq: bigint;
    readonly data: Uint8Array;
  }
  | { readonly type: "gone"; readonly attachment: Attachment }
  | { readonly type: "look"; readonly height: number }
  | { readonly type: "input"; readonly input: Input }
  /** A command: inputs that are made when its turn comes. */
  | { readonly type: "command"; readonly run: (state: DualOpenState) => Step }
  | { readonly type: "timeout" };

/** What a command waits for; undefined: not yet. */
export type Watch<T> = (event: OwnerEvent, owner: Owner) => T | undefined;

/** What commands look at. */
export type OwnerEvent =
  | { readonly type: "outcome"; readonly outcome: Outcome }
  /** The connection is gone; the channel, if there is one, waits in its rows. */
  | { readonly type: "peer_gone" };

interface Waiter {
  offer(event: OwnerEvent): void;
  reject(error: unknown): void;
}

/** Loaded rows, and the machine on them. */
interface Loaded {
  readonly assigned: Assigned;
  readonly state: DualOpenState;
  readonly place: Place;
  readonly fence: Fence | null;
  readonly attemptIds: ReadonlyMap<number, bigint>;
  readonly localAlias: bigint;
  readonly features: { readonly local: Uint8Array; readonly remote: Uint8Array };
  readonly signer: Signer;
  readonly stopped: AbortController;
  readonly openTimeoutMs: number;
}

/** Loads what was assigned. Throws SupersededError, RowError, ArcusError. */
export async function loadOwner(host: OwnerHost, assigned: Assigned, node: NodeFacts): Promise<Owner> {
  const stopped = new AbortController();
  const { epoch } = assigned;
  const { policy, openTimeoutMs } = readPolicy(node.welcome);
  const common = {
    nodeIds: { local: node.nodeId, remote: assigned.peerId },
    chainHash: node.chainHash,
    policy,
    shutdownScript: assigned.shutdownScript,
  };
  if (assigned.channel !== 0n) {
    const rows = await loadChannel(host.sql, assigned.channel, epoch);
    const signer = new Signer(host.hsmd, { ...rows, epoch }, stopped.signal);
    const { channel } = rows;
    const setup: Setup = {
      ...common,
      features: {
        local: node.features,
        remote: assigned.peerFeatures.length > 0 ? assigned.peerFeatures : rows.features.remote,
      },
      localKeys: channel.params.local,
      localAlias: rows.localAlias,
    };
    const facts = await loadChainFacts(host.sql, assigned.channel, assigned.height);
    return new Owner(host, {
      ...rows,
      assigned,
      state: fromRows(setup, channel, facts),
      features: setup.features,
      signer,
      stopped,
      openTimeoutMs,
    });
  }
  const row = await loadOpening(host.sql, assigned.opening, epoch);
  const signer = new Signer(host.hsmd, { ...row, epoch }, stopped.signal);
  const localAlias = new DataView(host.randomBytes(8).buffer).getBigUint64(0);
  const setup: Setup = {
    ...common,
    features: { local: node.features, remote: assigned.peerFeatures },
    localKeys: await signer.keys(),
    localAlias,
  };
  const facts = await loadChainFacts(host.sql, null, assigned.height);
  return new Owner(host, {
    assigned,
    state: newOpening(setup, row.temporaryChannelId, facts),
    place: {
      generation: row.generation,
      inSeq: 0n,
      outSeq: 0n,
      reestablishSent: false,
      reestablishReceived: false,
    },
    fence: null,
    attemptIds: new Map(),
    localAlias,
    features: setup.features,
    signer,
    stopped,
    openTimeoutMs,
  });
}

/** One owner. Everything happens in its queue, one after the other. */
export class Owner implements SubdOwner {
  readonly peerId: Uint8Array;
  readonly epoch: bigint;
  readonly #host: OwnerHost;
  /** What connectd must present, and which connection it may speak for. */
  #token: Uint8Array;
  #generation: bigint;
  #log: Logger;
  readonly #signer: Signer;
  readonly #stopped: AbortController;
  readonly #localAlias: bigint;
  readonly #features: Loaded["features"];
  readonly #openTimeoutMs: number;
  readonly #queue: Queued[] = [{ type: "begin" }];
  readonly #waiters = new Set<Waiter>();
  readonly #attempts: Map<number, bigint>;
  #state: DualOpenState;
  #place: Place;
  #fence: Fence | null;
  /** channels.channel and openings.opening; kept when their rows are gone, for the last word about them. */
  #channel: bigint;
  #opening: bigint;
  readonly #assignedOpening: bigint;
  #rowsLeft = true;
  #attachment: Attachment | null = null;
  #attached = Promise.withResolvers<void>();
  #running = false;
  #over = false;
  #cancelTimer: (() => void) | null = null;

  constructor(host: OwnerHost, loaded: Loaded) {
    const { assigned } = loaded;
    this.#host = host;
    this.peerId = assigned.peerId;
    this.epoch = assigned.epoch;
    this.#token = assigned.token;
    this.#generation = assigned.generation;
    this.#channel = assigned.channel;
    this.#opening = assigned.opening;
    this.#assignedOpening = assigned.opening;
    this.#state = loaded.state;
    this.#place = loaded.place;
    this.#fence = loaded.fence;
    this.#attempts = new Map(loaded.attemptIds);
    this.#localAlias = loaded.localAlias;
    this.#features = loaded.features;
    this.#signer = loaded.signer;
    this.#stopped = loaded.stopped;
    this.#openTimeoutMs = loaded.openTimeoutMs;
    this.#attached.promise.catch(() => {});
    this.#log = this.#logFor(this.channelId);
  }

  #logFor(channelId: Uint8Array): Logger {
    return this.#host.log.child({ peer: bytesToHex(this.peerId), channel: bytesToHex(channelId) });
  }

  /** 32 bytes that lightningd drew for the next attachment; empty for none. */
  get token(): Uint8Array {
    return this.#token;
  }

  /** The connection that it was assigned for. */
  get generation(): bigint {
    return this.#generation;
  }

  /** The same epoch again: nothing but the attachment may differ. */
  assignedAgain({ token, generation }: Pick<Assigned, "token" | "generation">): void {
    this.#token = token;
    this.#generation = generation;
  }

  /** The machine's state, for listings and answers. */
  get state(): DualOpenState {
    return this.#state;
  }

  /** channels.channel; 0 while unsaved. */
  get channel(): bigint {
    return this.#channel;
  }

  /** openings.opening of a first open or of an RBF under negotiation; 0 for none. */
  get opening(): bigint {
    return this.#opening;
  }

  /** The opening that lightningd knows this owner by, also once it became a channel. */
  get knownOpening(): bigint {
    return this.#opening !== 0n ? this.#opening : this.#assignedOpening;
  }

  get channelId(): Uint8Array {
    return this.#state.channelId;
  }

  /** Nothing is owned any more. */
  get over(): boolean {
    return this.#over;
  }

  /** What a hello says of it; undefined once its rows are gone. */
  held(): Held | undefined {
    if (!this.#rowsLeft || this.#over) return undefined;
    return {
      channel: this.#channel,
      opening: this.#channel === 0n ? this.#opening : 0n,
      epoch: this.epoch,
      version: this.#fence?.version ?? 0n,
      peerId: this.peerId,
      channelId: this.channelId,
      generation: this.generation,
    };
  }

  /** Begins: what the rows ask for, then whatever is queued. */
  start(): void {
    void this.#run();
  }

  /** connectd's stream; what was attached before is over. */
  attach(attachment: Attachment): void {
    this.#push({ type: "attach", attachment });
  }

  /** A frame of the peer. */
  frame(attachment: Attachment, inSeq: bigint, data: Uint8Array): void {
    this.#push({ type: "frame", attachment, inSeq, data });
  }

  /** The connection or its stream is gone. */
  gone(attachment: Attachment): void {
    this.#push({ type: "gone", attachment });
  }

  /** Chain facts may have changed. */
  lookAgain(height: number): void {
    this.#push({ type: "look", height });
  }

  /**
   * Puts a command into the queue and waits until `watch` gives something. Rejects with the failure of the machine, or
   * when the owner lets go.
   */
  command<T>(run: (state: DualOpenState) => Step, watch: Watch<T>, signal: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const settle = (finish: () => void) => {
      this.#waiters.delete(waiter);
      signal.removeEventListener("abort", onAbort);
      finish();
    };
    const waiter: Waiter = {
      offer: (event) => {
        let value: T | undefined;
        try {
          value = watch(event, this);
        } catch (error) {
          return settle(() => reject(error));
        }
        if (value !== undefined) settle(() => resolve(value));
      },
      reject: (error) => settle(() => reject(error)),
    };
    const onAbort = () => waiter.reject(unavailable("CANCELLED", "the caller stopped waiting"));
    if (this.#over) return Promise.reject(unavailable("RELEASED", "this owner let go"));
    this.#push({
      type: "command",
      run: (state) => {
        if (signal.aborted) return { state, actions: [] };
        this.#waiters.add(waiter);
        try {
          return run(state);
        } catch (error) {
          // A command that cannot start is the caller's failure, not the owner's.
          waiter.reject(error);
          return { state, actions: [] };
        }
      },
    });
    signal.addEventListener("abort", onAbort);
    return promise;
  }

  /** Resolves when connectd is attached; rejects when the owner lets go first. */
  attached(): Promise<void> {
    return this.#attached.promise;
  }

  /** An RBF's opening, which lightningd wrote for a command. */
  adoptRbf(opening: bigint): void {
    this.#opening = opening;
  }

  /** Ends an RBF's negotiation; the channel goes on. */
  abortRbf(reason: string): void {
    this.#push({
      type: "command",
      run: (state) =>
        state.negotiation === null ? { state, actions: [] } : step(state, { type: "abort", reason }),
    });
  }

  /** The opening of an RBF: its negotiation is aborted, the channel stays. */
  withdrawPart(): boolean {
    if (this.#channel === 0n) return false;
    this.abortRbf("the replacement was given up");
    return true;
  }

  /** Lets go at once and says nothing more to the peer: withdrawn, replaced by a newer assignment, or draining. */
  stop(how: Ended | null): void {
    if (this.#over) return;
    this.#attachment?.fenced();
    this.#end(how);
  }

  #push(item: Queued): void {
    if (this.#over) return;
    this.#queue.push(item);
    if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      for (let item = this.#queue.shift(); item !== undefined && !this.#over; item = this.#queue.shift()) {
        await this.#handle(item);
      }
    } catch (error) {
      await this.#failed(error);
    } finally {
      this.#running = false;
    }
  }

  async #handle(item: Queued): Promise<void> {
    switch (item.type) {
      case "begin":
        return await this.#begin();
      case "attach":
        return await this.#attach(item.attachment);
      case "frame":
        return await this.#frame(item.attachment, item.inSeq, item.data);
      case "gone":
        return await this.#gone(item.attachment);
      case "look": {
        const facts = await loadChainFacts(this.#host.sql, this.#fence?.channel ?? null, item.height);
        await this.#input({ type: "chain", facts });
        return await this.#close();
      }
      case "input":
        return await this.#input(item.input);
      case "command":
        return await this.#perform(item.run(this.#state));
      case "timeout":
        this.#cancelTimer = null;
        return await this.#input({ type: "timeout" });
      default:
        return unreachable(item);
    }
  }

  /** The pending request of a lock is repeated before any frame; everything else is asked again by channel_reestablish. */
  async #begin(): Promise<void> {
    const { channel } = this.#state;
    if (channel === null || channel.errorText !== null) return;
    if (channel.lockedAttempt === null) {
      await this.#input({ type: "chain", facts: this.#state.chain });
      return await this.#close();
    }
    const attempt = attemptOf(channel, channel.lockedAttempt);
    await this.#perform({ state: this.#state, actions: [{ type: "lock_funding", attempt }] });
  }

  /** A close that was decided before lock-in: shutdown is said once both have signed the funding transaction (item 34). */
  async #close(): Promise<void> {
    const { channel } = this.#state;
    if (this.#over || this.#fence === null || channel === null) return;
    if (channel.state !== "DUALOPEND_AWAITING_LOCKIN" || channel.shutdownSent !== null) return;
    const closing = await loadClosing(this.#host.sql, this.#fence.channel);
    this.#mustOwn();
    if (closing === undefined) return;
    await this.#input({
      type: "start_shutdown",
      ...(closing.script === null ? {} : { script: closing.script }),
    });
  }

  async #attach(attachment: Attachment): Promise<void> {
    if (attachment.over) return;
    if (this.#attachment !== null) await this.#gone(this.#attachment);
    if (this.#over) return attachment.fenced();
    const sameConnection = this.#place.generation === attachment.generation;
    if (sameConnection && this.#place.reestablishSent) {
      // One channel_reestablish a connection: the peer would not understand a second one.
      return attachment.fail([], "the owner changed within a connection", true);
    }
    if (sameConnection) attachment.goOnFrom(this.#place.outSeq);
    this.#attachment = attachment;
    this.#place = {
      generation: attachment.generation,
      inSeq: sameConnection ? this.#place.inSeq : 0n,
      outSeq: attachment.outSeq,
      reestablishSent: this.#fence !== null,
      reestablishReceived: false,
    };
    if (this.#fence !== null) this.#fence = await savePlace(this.#host.sql, this.#fence, this.#place);
    this.#mustOwn();
    await this.#input({ type: "connected" });
    this.#attached.resolve();
  }

  async #frame(attachment: Attachment, inSeq: bigint, data: Uint8Array): Promise<void> {
    if (attachment !== this.#attachment || attachment.over) return;
    attachment.taken(inSeq);
    this.#place = { ...this.#place, inSeq };
    const decoded = decodeMessage(data);
    if (!decoded.ok) {
      await this.#perform(onGarbage(this.#state, decoded.error.reason));
    } else if (decoded.value.type === "unknown") {
      if (decoded.value.even) {
        await this.#perform(onGarbage(this.#state, `unknown message ${decoded.value.id}`));
      }
    } else {
      if (decoded.value.type === "channel_reestablish") {
        this.#place = { ...this.#place, reestablishReceived: true };
        // A fact of this connection: whoever takes over on it, and whoever asks, must know.
        if (this.#fence !== null) this.#fence = await savePlace(this.#host.sql, this.#fence, this.#place);
      }
      const entropy = this.#host.randomBytes(ENTROPY_LENGTH);
      await this.#input({ type: "message", message: decoded.value, entropy });
    }
    // What it changed is committed; what it did not change (an interactive session) ends with this process anyway.
    attachment.durable(inSeq);
  }

  async #gone(attachment: Attachment): Promise<void> {
    attachment.closed();
    if (attachment !== this.#attachment) return;
    this.#attachment = null;
    this.#attached = Promise.withResolvers();
    this.#attached.promise.catch(() => {});
    await this.#input({ type: "disconnected" });
    this.#offer({ type: "peer_gone" });
  }

  async #input(input: Input): Promise<void> {
    await this.#perform(step(this.#state, input));
  }

  async #perform(next: Step): Promise<void> {
    this.#state = next.state;
    for (const action of next.actions) {
      this.#mustOwn();
      await this.#carryOut(action);
      if (this.#over) return;
    }
    this.#mustOwn();
    this.#watchTime(false);
  }

  /** After every wait: a newer assignment may have taken over meanwhile. */
  #mustOwn(): void {
    if (this.#over) throw new SupersededError("another owner took over");
  }

  async #carryOut(action: Action): Promise<void> {
    switch (action.type) {
      case "store":
        return await this.#store(action.step);
      case "send":
        return this.#attachment?.send(action.message);
      case "rekey":
        this.#log = this.#logFor(action.channelId);
        return this.#attachment?.rekey(action.channelId);
      case "plan_open":
        return await this.#planOpen(action);
      case "plan_rbf":
        return await this.#planRbf(action);
      case "check_confirmed": {
        const confirmed = await this.#confirmed(action.outpoints);
        const results = action.outpoints.map((outpoint, i) => ({
          outpoint,
          confirmed: confirmed[i] === true,
        }));
        return await this.#input({ type: "confirmed_result", results });
      }
      case "sign_remote_commitment":
        return await this.#ask(
          "sign_remote_commitment",
          action.attempt,
          (channel, attempt) => this.#signer.signRemoteCommitment(channel, attempt),
          (seq, signature) => ({ type: "remote_commitment_signed", seq, signature }),
        );
      case "check_local_commitment":
        return await this.#ask(
          "check_local_commitment",
          action.attempt,
          (channel, attempt) => this.#signer.checkLocalCommitment(channel, attempt, action.signature),
          (seq) => ({ type: "local_commitment_checked", seq, signature: action.signature }),
        );
      case "sign_funding":
        return await this.#ask(
          "sign_funding",
          action.attempt,
          (channel, attempt) => this.#signer.signFunding(channel, attempt),
          (seq, signed) => ({
            type: "funding_signed",
            seq,
            witnesses: new Map([...action.userWitnesses ?? [], ...signed]),
          }),
        );
      case "lock_funding":
        return await this.#ask(
          "lock_funding",
          action.attempt,
          (_, attempt) => this.#signer.lockFunding(attempt),
          (seq) => ({ type: "funding_locked", seq }),
        );
      case "test_funding": {
        const { signal } = this.#stopped;
        const { verdict, detail } = await patiently(
          () => this.#host.lightningd.testFundingTx({ tx: action.tested.completeTx }, { signal }),
          signal,
        );
        const { seq, tested } = action;
        return await this.#input({
          type: "funding_tested",
          seq,
          verdict: verdictOf(verdict),
          detail,
          tested,
        });
      }
      case "broadcast":
        return this.#unwaited(
          this.#host.lightningd.broadcastAttempt({ channel: this.#channel, txid: action.txid }),
          "broadcast",
        );
      case "progress":
        this.#watchTime(true);
        if (this.#opening !== 0n) {
          const { epoch } = this;
          this.#unwaited(
            this.#host.lightningd.openingProgress({ opening: this.#opening, epoch }),
            "progress",
          );
        }
        return;
      case "outcome":
        return this.#offer({ type: "outcome", outcome: action.outcome });
      case "log":
        return this.#log[action.level]({}, action.text);
      case "hang_up":
        this.#log.warn({ reason: action.reason }, "hanging up");
        this.#attachment?.fail(action.messages, action.reason, true);
        if (this.#attachment !== null) this.#queue.unshift({ type: "gone", attachment: this.#attachment });
        return;
      case "end":
        return this.#letGo(action.reason);
      default:
        return unreachable(action);
    }
  }

  /** Asks hsmd about an attempt that is still what it was when the step was made, and steps its answer at once. */
  async #ask<T>(
    request: HsmRequestType,
    about: Attempt,
    ask: (channel: SavedChannel, attempt: Attempt) => Promise<HsmAnswer<T>>,
    answer: (seq: number, value: T) => Input,
  ): Promise<void> {
    const { channel } = this.#state;
    const attempt = channel?.attempts.find((a) => a.seq === about.seq);
    // An earlier answer of the same step ended it: hsmd is never asked for what is not committed.
    if (channel === null || attempt === undefined) return;
    if (attempt.aborted && request !== "lock_funding") return;
    const { seq } = about;
    const answered = await ask(channel, about);
    this.#mustOwn();
    await this.#input(
      answered.ok
        ? answer(seq, answered.value)
        : { type: "hsm_refused", request, seq, refusal: answered.refusal },
    );
  }

  async #planOpen(action: Extract<Action, { type: "plan_open" }>): Promise<void> {
    await this.#plan(async () => {
      const { plan } = await this.#host.lightningd.planContribution({
        opening: this.#opening,
        epoch: this.epoch,
        theirFundingSat: action.theirFunding,
        fundingFeeratePerkw: action.feerate,
        channelType: action.channelType,
        requireConfirmedInputs: action.requireConfirmedInputs,
        locktime: action.locktime,
      }, { signal: this.#stopped.signal });
      return plan;
    });
  }

  async #planRbf(action: Extract<Action, { type: "plan_rbf" }>): Promise<void> {
    await this.#plan(async () => {
      const { opening, plan } = await this.#host.lightningd.startRemoteRbf({
        channel: this.#channel,
        epoch: this.epoch,
        generation: this.#place.generation,
        theirFundingSat: action.theirFunding,
        feeratePerkw: action.feerate,
        requireConfirmedInputs: action.requireConfirmedInputs,
        locktime: action.locktime,
      }, { signal: this.#stopped.signal });
      this.#opening = opening;
      return plan;
    });
  }

  async #plan(ask: () => Promise<Parameters<typeof readPlan>[0]>): Promise<void> {
    let input: Input;
    try {
      input = {
        type: "plan_result",
        plan: await this.readPlan(await patiently(ask, this.#stopped.signal)),
      };
    } catch (error) {
      if (!(error instanceof ArcusError)) throw error;
      if (error.reason === "EPOCH_STALE") throw new SupersededError(error.message, { cause: error });
      this.#log.warn({ reason: error.reason, detail: error.message }, "no plan for our part");
      const said = error.code === Code.FAILED_PRECONDITION || error.code === Code.INVALID_ARGUMENT ||
        error.code === Code.RESOURCE_EXHAUSTED;
      input = { type: "plan_refused", reason: said ? error.message : CANNOT_FUND };
    }
    this.#mustOwn();
    await this.#input(input);
  }

  /** A plan of lightningd's as the machine takes it. */
  readPlan(message: Parameters<typeof readPlan>[0]): ReturnType<typeof readPlan> {
    return readPlan(message, (outpoints) => this.#confirmed(outpoints));
  }

  async #confirmed(outpoints: readonly OutPoint[]): Promise<readonly boolean[]> {
    const { signal } = this.#stopped;
    const { confirmed } = await patiently(
      () => this.#host.lightningd.checkConfirmed({ outpoints: [...outpoints] }, { signal }),
      signal,
    );
    return confirmed;
  }

  async #store(step: StoreStep): Promise<void> {
    const { sql } = this.#host;
    this.#place = { ...this.#place, outSeq: this.#attachment?.outSeq ?? this.#place.outSeq };
    const place = this.#place;
    switch (step.type) {
      case "save_open": {
        const opening = this.#opening;
        const saved = await saveOpen(sql, { opening, epoch: this.epoch }, {
          channel: step.channel,
          features: this.#features,
          localAlias: this.#localAlias,
          place: { ...place, reestablishSent: false, reestablishReceived: false },
        });
        this.#channel = saved.fence.channel;
        this.#opening = 0n;
        return this.#savedAttempt(step.channel.attempts[0], saved, opening);
      }
      case "save_attempt": {
        const fence = this.#fenceOrThrow();
        const { params } = this.#savedChannel();
        const opening = this.#opening;
        const { attempt, state } = step;
        const saved = await saveAttempt(sql, fence, opening, { attempt, state, params, place });
        this.#opening = 0n;
        return this.#savedAttempt(attempt, saved, opening);
      }
      case "drop_opening":
        return await this.#dropOpening();
      case "forget_channel":
        await saveStep(sql, this.#fenceOrThrow(), step, place);
        this.#fence = null;
        this.#rowsLeft = false;
        return this.#mustOwn();
      case "lock": {
        const { params, attempts } = this.#savedChannel();
        const attempt = attempts.find((a) => a.seq === step.seq);
        const attemptId = this.#attempts.get(step.seq);
        if (attempt === undefined || attemptId === undefined) {
          throw new SupersededError("no row of the attempt");
        }
        const lock = { attempt, attemptId, params, state: step.state, place };
        return this.#stored(await saveLock(sql, this.#fenceOrThrow(), lock));
      }
      case "save_remote_commitment_signature":
      case "save_tx_signatures":
      case "abort_attempt":
      case "save_remote_ready":
      case "save_shutdown":
      case "save_state":
      case "fail_channel":
        return this.#stored(await saveStep(sql, this.#fenceOrThrow(), step, place));
      default:
        return unreachable(step);
    }
  }

  #savedAttempt(attempt: Attempt | undefined, saved: SavedAttempt, opening: bigint): void {
    if (attempt !== undefined) this.#attempts.set(attempt.seq, saved.attemptId);
    this.#stored(saved.fence, opening);
  }

  #stored(fence: Fence, opening = 0n): void {
    this.#fence = fence;
    this.#mustOwn();
    this.#host.changed(this, opening);
  }

  async #dropOpening(): Promise<void> {
    const { sql } = this.#host;
    const opening = this.#opening;
    if (this.#fence === null) {
      await dropOpening(sql, opening, this.epoch);
      this.#rowsLeft = false;
      return this.#mustOwn();
    }
    await dropRbf(sql, this.#fence);
    this.#opening = 0n;
    this.#mustOwn();
    if (opening !== 0n) this.#host.rbfEnded(this, opening, "the negotiation came to nothing");
  }

  #fenceOrThrow(): Fence {
    if (this.#fence === null) throw new SupersededError("no row of this channel");
    return this.#fence;
  }

  #savedChannel(): SavedChannel {
    const { channel } = this.#state;
    if (channel === null) throw new SupersededError("no channel");
    return channel;
  }

  /** An opening, a negotiation, an abort without its echo, and signatures that are outstanding must move within the policy's time. */
  #watchTime(moved: boolean): void {
    const { negotiation, awaitingAbortEcho, channel, link } = this.#state;
    const attempt = channel === null ? undefined : currentAttempt(channel);
    const signing = attempt !== undefined && !weSigned(attempt) && link.type === "up";
    const unsaved = channel === null && link.type !== "down";
    const watched = !this.#over && (negotiation !== null || awaitingAbortEcho || unsaved || signing);
    if (this.#cancelTimer !== null && (!watched || moved)) {
      this.#cancelTimer();
      this.#cancelTimer = null;
    }
    if (watched && this.#cancelTimer === null) {
      this.#cancelTimer = this.#host.timer(this.#openTimeoutMs, () => this.#push({ type: "timeout" }));
    }
  }

  #offer(event: OwnerEvent): void {
    for (const waiter of [...this.#waiters]) waiter.offer(event);
  }

  #unwaited(call: Promise<unknown>, what: string): void {
    call.catch((error) => {
      if (!this.#over) this.#log.debug({ err: error }, `${what}: lightningd did not answer`);
    });
  }

  #letGo(reason: EndReason): void {
    const detail = "detail" in reason ? reason.detail : "";
    // The frame that led here is used up: a successor must not get it again.
    if (this.#place.inSeq > 0n) this.#attachment?.durable(this.#place.inSeq);
    this.#attachment?.finished(reason.type);
    this.#end({ type: "released", reason: RELEASED[reason.type], detail });
  }

  #end(how: Ended | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#stopped.abort();
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#attachment?.closed();
    // A stream that waits its turn would never be answered.
    for (const item of this.#queue) if (item.type === "attach") item.attachment.fenced();
    this.#queue.length = 0;
    const error = unavailable(
      "RELEASED",
      how === null ? "this owner let go" : `this owner let go: ${how.detail}`,
    );
    this.#attached.reject(error);
    for (const waiter of [...this.#waiters]) waiter.reject(error);
    if (how !== null) this.#host.ended(this, how);
  }

  async #failed(error: unknown): Promise<void> {
    if (this.#over) return;
    if (error instanceof SupersededError) {
      this.#log.warn({ detail: error.message }, "superseded");
      this.#attachment?.fenced();
      return this.#end({ type: "superseded", detail: error.message });
    }
    this.#log.error({ err: error }, "letting go");
    if (this.#fence !== null || !this.#rowsLeft) {
      this.#attachment?.fail([], OUR_FAULT, this.#fence !== null);
      return this.#end({ type: "released", reason: Released_Reason.PEER_GONE, detail: OUR_FAULT });
    }
    await this.#failOpening();
  }

  /** An open that failed by our own fault: gone with its row, and the peer hears of it. */
  async #failOpening(): Promise<void> {
    try {
      await dropOpening(this.#host.sql, this.#opening, this.epoch);
    } catch (error) {
      this.#log.warn({ err: error }, "the opening's row was not dropped");
      this.#attachment?.fenced();
      return this.#end({ type: "superseded", detail: OUR_FAULT });
    }
    if (this.#over) return;
    const { channelId, temporaryChannelId } = this.#state;
    const temporary = temporaryChannelId !== null && bytesToHex(temporaryChannelId) === bytesToHex(channelId);
    const message = temporary ? errorMessage(channelId, OUR_FAULT) : txAbortMessage(channelId, OUR_FAULT);
    this.#attachment?.fail([message], OUR_FAULT, false);
    this.#end({ type: "released", reason: Released_Reason.OPEN_FAILED, detail: OUR_FAULT });
  }
}

const RELEASED: Readonly<Record<EndReason["type"], Released_Reason>> = {
  open_failed: Released_Reason.OPEN_FAILED,
  locked: Released_Reason.LOCKED,
  peer_gone: Released_Reason.PEER_GONE,
  channel_failed: Released_Reason.CHANNEL_FAILED,
};

function verdictOf(verdict: TestFundingTxResponse_Verdict): "accepted" | "invalid" | "not_now" {
  switch (verdict) {
    case TestFundingTxResponse_Verdict.ACCEPTED:
      return "accepted";
    case TestFundingTxResponse_Verdict.INVALID:
      return "invalid";
    case TestFundingTxResponse_Verdict.NOT_NOW:
      return "not_now";
    default:
      throw new ArcusError({ code: Code.INTERNAL, reason: "UNKNOWN_ENUM_VALUE", message: "verdict" });
  }
}
