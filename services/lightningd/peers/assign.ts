/**
 * Who owns a channel (design: one owner, fenced three times). In this order: COMMIT a higher epoch with the owner's
 * instance, register it with hsmd, tell the subd, tell connectd. Dying in between costs nothing: whoever comes next finds
 * a row whose owner nobody attached, and begins again with a still higher epoch.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { Logger } from "common/log.ts";
import type { ChannelMemory } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { AssignResult } from "gen/arcus/subd/v1/subd_pb.ts";
import type { HsmdClient } from "../node.ts";
import type { Live, LivePeer, Owner, Subd } from "./live.ts";
import { behindHsmd } from "./numbers.ts";
import { type ChannelRow, type OpeningRow, ownerOf, type PeerStore } from "./store.ts";

/** How long a subd may take to say that it took an assignment. */
export const ASSIGN_MS = 10_000;
/** How long hsmd may take to register epochs. */
const REGISTER_MS = 10_000;
/** hsmd knew a higher epoch so often: then something is wrong that a higher one does not cure. */
const MAX_EPOCH_ROUNDS = 3;
const TOKEN_LENGTH = 32;

/** What shall be assigned. */
export type Assignable =
  | { readonly type: "channel"; readonly row: ChannelRow }
  | { readonly type: "opening"; readonly row: OpeningRow };

/** What became of it. */
export type Assigned =
  | { readonly type: "assigned"; readonly owner: Owner }
  /** Try again: no subd, hsmd away, the row moved meanwhile. */
  | { readonly type: "later"; readonly detail: string }
  /** Trying again does not help: hsmd refuses this channel. */
  | { readonly type: "impossible"; readonly detail: string };

/** Settings of {@link Assigner}. */
export interface AssignerOptions {
  readonly live: Live;
  readonly store: PeerStore;
  readonly hsmd: HsmdClient;
  readonly log: Logger;
  readonly height: () => number;
  /** Where our money goes at a cooperative close. `fresh`: an address of this channel's own. */
  readonly shutdownScript: (fresh: boolean) => Promise<Uint8Array>;
}

interface Job {
  readonly what: Assignable;
  readonly subd: Subd;
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly channelId: Uint8Array;
  seenEpoch: bigint;
  epoch: bigint;
  failure: Exclude<Assigned, { type: "assigned" }> | undefined;
}

function later(detail: string): Assigned & { readonly type: "later" } {
  return { type: "later", detail };
}

/** Assigns channels and openings. */
export class Assigner {
  /** Epochs that hsmd had and rows perhaps have not, by channel_key_id. */
  readonly #hsmdEpochs = new Map<string, bigint>();
  readonly #pending = new Map<
    bigint,
    { readonly instance: string; readonly resolve: (error: string) => void }
  >();
  #nextId = 0n;

  constructor(private readonly options: AssignerOptions) {}

  /** Reads what hsmd has registered, at start and whenever it was bound again. */
  async learnEpochs(): Promise<void> {
    const { channels } = await this.options.hsmd.listEpochs({}, { waitForReady: true });
    for (const channel of channels) this.#learn(channel);
  }

  /** A subd's answer. */
  assignResult(result: AssignResult): void {
    this.#pending.get(result.assignId)?.resolve(result.error);
  }

  /** What it was asked will not be answered. */
  subdDown(subd: Subd): void {
    for (const { instance, resolve } of this.#pending.values()) {
      if (instance === subd.instance) resolve("its stream ended");
    }
  }

  /**
   * Assigns to the least loaded live subds and tells connectd, all for one connection. Answers in order; every
   * `peer_connect_subd` carries `spokeId`, if there is only one thing to assign.
   */
  async assign(peer: LivePeer, things: readonly Assignable[], spokeId = 0n): Promise<Assigned[]> {
    const jobs: (Job | Assigned)[] = things.map((what) => this.#job(peer, what));
    const ready = () => jobs.filter((job): job is Job => "subd" in job && job.failure === undefined);
    const scripts = await this.#scripts(ready());
    await this.#take(ready());
    await this.#register(ready());
    return await Promise.all(jobs.map(async (job) => {
      if (!("subd" in job)) return job;
      if (job.failure !== undefined) return job.failure;
      return await this.#tell(peer, job, scripts, spokeId);
    }));
  }

  #job(peer: LivePeer, what: Assignable): Job | Assigned {
    const kind = what.type === "opening" ? "dualopend" : ownerOf(what.row.state);
    if (kind === undefined) return later(`nobody owns a channel in this state`);
    const { live } = this.options;
    const former = live.subds.get(what.row.owner_instance);
    const again = former?.kind === kind && !peer.refused.has(former.instance) ? former : undefined;
    const subd = again ?? live.pick(kind, peer.refused);
    if (subd === undefined) return later(`no ${kind} is there`);
    const { channel_key_id, payment_key_index } = what.row;
    const channelId = what.type === "opening" ? what.row.temporary_channel_id : what.row.channel_id;
    if (channel_key_id === null || payment_key_index === null || channelId === null) {
      return { type: "impossible", detail: "a replacement goes with its channel" };
    }
    return {
      what,
      subd,
      channelKeyId: Uint8Array.from(channel_key_id),
      paymentKeyIndex: payment_key_index,
      channelId: Uint8Array.from(channelId),
      seenEpoch: what.row.owner_epoch,
      epoch: 0n,
      failure: undefined,
    };
  }

  async #scripts(jobs: readonly Job[]): Promise<{ readonly own: Map<Job, Uint8Array> }> {
    const own = new Map<Job, Uint8Array>();
    for (const job of jobs) own.set(job, await this.options.shutdownScript(job.what.type === "opening"));
    return { own };
  }

  async #take(jobs: readonly Job[]): Promise<void> {
    const { store } = this.options;
    await Promise.all(jobs.map(async (job) => {
      const known = this.#hsmdEpochs.get(bytesToHex(job.channelKeyId)) ?? 0n;
      const { what, subd } = job;
      if (what.type === "opening") {
        const epoch = await store.takeOpening(
          what.row.opening,
          job.seenEpoch,
          known,
          subd.instance,
        );
        if (epoch === undefined) job.failure = later("the opening is gone");
        else job.epoch = epoch;
      } else {
        const taken = await store.takeChannel(
          what.row.channel,
          job.seenEpoch,
          known,
          subd.instance,
          subd.kind,
        );
        if (taken === undefined) job.failure = later("the channel changed hands");
        else job.epoch = taken.epoch;
        if (taken !== undefined && ownerOf(taken.state) !== subd.kind) {
          job.failure = later("the channel changed its state");
        }
      }
      job.seenEpoch = job.epoch;
    }));
  }

  /** Registers with hsmd, in one list; where it knows a higher epoch, once more above that. */
  async #register(jobs: readonly Job[]): Promise<void> {
    let open = jobs.filter((job) => job.failure === undefined);
    for (let round = 0; open.length > 0; round++) {
      let answers: ChannelMemory[];
      try {
        const channels = open.map(({ channelKeyId, paymentKeyIndex, epoch }) => ({
          channelKeyId,
          paymentKeyIndex,
          epoch,
        }));
        answers =
          (await this.options.hsmd.registerEpochs({ channels }, { deadlineMs: REGISTER_MS })).channels;
      } catch (error) {
        this.options.log.warn({ err: error }, "hsmd does not register owners");
        for (const job of open) job.failure = later("hsmd does not answer");
        return;
      }
      const again: Job[] = [];
      for (const [index, job] of open.entries()) {
        const memory = answers[index];
        if (memory === undefined || !sameBytes(memory.channelKeyId, job.channelKeyId)) {
          job.failure = later("hsmd answered for another channel");
          continue;
        }
        if (memory.refused) {
          this.#learn(memory);
          if (memory.refusal === "EPOCH_STALE" && round < MAX_EPOCH_ROUNDS) again.push(job);
          else job.failure = { type: "impossible", detail: `hsmd refuses this channel: ${memory.refusal}` };
        } else if (job.what.type === "channel") {
          const disagreement = await this.#compare(job.what.row, memory);
          if (disagreement !== undefined) job.failure = { type: "impossible", detail: disagreement };
        }
      }
      await this.#take(again);
      open = again.filter((job) => job.failure === undefined);
    }
  }

  /** Why this channel must stop: rows that are behind hsmd's memory were restored from an older state. */
  async #compare(row: ChannelRow, memory: ChannelMemory): Promise<string | undefined> {
    if (memory.frozen) return "hsmd signed our own commitment for broadcast";
    const attempts = await this.options.store.attempts([row.channel]);
    const known = (outpoint: { readonly txid: Uint8Array; readonly vout: number } | undefined) =>
      attempts.some((a) =>
        outpoint !== undefined && sameBytes(a.txid, outpoint.txid) && a.output_index === outpoint.vout
      );
    if (memory.outpoints.some(({ outpoint }) => !known(outpoint))) {
      return "hsmd signed for a funding transaction that the database does not have";
    }
    if (memory.locked !== undefined && !known(memory.locked)) {
      return "hsmd is locked to a funding transaction that the database does not have";
    }
    const locked = attempts.find((a) => a.attempt === row.locked_attempt);
    // A lock is committed before hsmd hears of it: that step may have been cut off, and its owner repeats it.
    if (locked !== undefined && memory.locked !== undefined && !sameBytes(memory.locked.txid, locked.txid)) {
      return "the database is locked to another funding transaction than hsmd";
    }
    // Read after the epoch was raised and registered: a former owner changes neither any more.
    return behindHsmd(await this.options.store.commitments(row.channel), memory);
  }

  #learn(memory: ChannelMemory): void {
    const key = bytesToHex(memory.channelKeyId);
    if (memory.epoch > (this.#hsmdEpochs.get(key) ?? 0n)) this.#hsmdEpochs.set(key, memory.epoch);
  }

  async #tell(
    peer: LivePeer,
    job: Job,
    scripts: { readonly own: Map<Job, Uint8Array> },
    spokeId: bigint,
  ): Promise<Assigned> {
    const { live, log } = this.options;
    const { what, subd, epoch } = job;
    const id = what.type === "channel" ? what.row.channel : what.row.opening;
    const token = crypto.getRandomValues(new Uint8Array(TOKEN_LENGTH));
    const owner: Owner = {
      type: what.type,
      id,
      kind: subd.kind,
      instance: subd.instance,
      epoch,
      peer: peer.hex,
      generation: peer.generation,
      channelId: job.channelId,
      token,
      attached: false,
      leaving: false,
    };
    live.setOwner(owner);
    const named = what.type === "channel" ? { channel: id } : { opening: id };
    const error = await this.#ask(subd, {
      ...named,
      epoch,
      peerId: peer.peerId,
      generation: peer.generation,
      channelId: job.channelId,
      token,
      peerFeatures: peer.features,
      height: this.options.height(),
      shutdownScript: scripts.own.get(job) ?? new Uint8Array(),
    });
    if (error !== "") {
      live.dropOwner(owner);
      log.warn(
        { peer: peer.hex, channel: bytesToHex(job.channelId), subd: subd.instance, error },
        "an assignment failed",
      );
      return later(`${subd.kind}: ${error}`);
    }
    if (live.current(peer.peerId, peer.generation) !== peer) {
      live.dropOwner(owner);
      subd.send({ message: { case: "withdraw", value: { ...named, epoch } } });
      return later("the peer is gone");
    }
    this.connect(peer, owner, spokeId);
    return { type: "assigned", owner };
  }

  /** Tells connectd to attach an owner; the same again is idempotent. */
  connect(peer: LivePeer, owner: Owner, spokeId: bigint): void {
    const { live } = this.options;
    const address = live.subds.get(owner.instance)?.address;
    live.toPeer(peer, {
      message: {
        case: "peerConnectSubd",
        value: {
          peerId: peer.peerId,
          generation: peer.generation,
          channelId: owner.channelId,
          epoch: owner.epoch,
          address: address ?? "",
          token: owner.token,
          subdInstance: owner.instance,
          spokeId,
        },
      },
    });
  }

  #ask(subd: Subd, assignment: AssignFields): Promise<string> {
    // It may have gone while its epoch was raised, and whoever is gone answers nothing.
    if (this.options.live.subds.get(subd.instance) !== subd) return Promise.resolve("it is gone");
    const assignId = ++this.#nextId;
    return new Promise((resolve) => {
      const timer = setTimeout(() => settle("no answer in time"), ASSIGN_MS);
      const settle = (error: string) => {
        clearTimeout(timer);
        this.#pending.delete(assignId);
        resolve(error);
      };
      this.#pending.set(assignId, { instance: subd.instance, resolve: settle });
      subd.send({ message: { case: "assign", value: { assignId, ...assignment } } });
    });
  }
}

interface AssignFields {
  readonly channel?: bigint;
  readonly opening?: bigint;
  readonly epoch: bigint;
  readonly peerId: Uint8Array;
  readonly generation: bigint;
  readonly channelId: Uint8Array;
  readonly token: Uint8Array;
  readonly peerFeatures: Uint8Array;
  readonly height: number;
  readonly shutdownScript: Uint8Array;
}
