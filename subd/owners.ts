/** Everything that a replica owns, and how it comes and goes. */
import { sameBytes } from "bolt/tx/transaction.ts";
import type { Logger } from "common/log.ts";
import type { SubdWelcome } from "gen/arcus/subd/v1/subd_pb.ts";
import { SupersededError } from "./fence.ts";
import type { Assigned, Ended, Held, SubdOwner } from "./owner.ts";

/** Which node this is, as lightningd's welcome and the node row say. */
export interface NodeFacts {
  readonly nodeId: Uint8Array;
  readonly chainHash: Uint8Array;
  /** Feature bits that we offer. */
  readonly features: Uint8Array;
  readonly welcome: SubdWelcome;
}

/** The owners of this replica. */
export class Owners<O extends SubdOwner> {
  readonly #owners = new Set<O>();
  /** Assignments of one channel follow each other. */
  readonly #loading = new Map<string, Promise<unknown>>();
  #draining = false;

  /** `load` throws SupersededError when the epoch does not own the rows. */
  constructor(
    private readonly load: (assigned: Assigned, node: NodeFacts) => Promise<O>,
    private readonly log: Logger,
    /** Told how many there are, whenever that changes. */
    private readonly onCount: (count: number) => void = () => {},
  ) {}

  /** Takes a channel or an opening. Answers why not, empty on success. */
  async assign(assigned: Assigned, node: NodeFacts): Promise<string> {
    const key = assigned.channel !== 0n ? `channel ${assigned.channel}` : `opening ${assigned.opening}`;
    const before = this.#loading.get(key) ?? Promise.resolve();
    const mine = before.then(() => this.#assign(assigned, node, key));
    this.#loading.set(key, mine);
    try {
      return await mine;
    } finally {
      if (this.#loading.get(key) === mine) this.#loading.delete(key);
    }
  }

  async #assign(assigned: Assigned, node: NodeFacts, key: string): Promise<string> {
    if (this.#draining) return "DRAINING: this replica is leaving";
    const held = this.find(assigned);
    if (held !== undefined && assigned.epoch < held.epoch) return `EPOCH_STALE: ${key} is at ${held.epoch}`;
    if (held !== undefined && assigned.epoch === held.epoch) {
      held.assignedAgain(assigned);
      return "";
    }
    if (held !== undefined) {
      this.remove(held);
      held.stop(null);
    }
    try {
      const owner = await this.load(assigned, node);
      this.#owners.add(owner);
      this.onCount(this.#owners.size);
      owner.start();
      return "";
    } catch (error) {
      this.log.warn({ err: error, assigned: key }, "an assignment was not taken");
      const reason = error instanceof SupersededError ? "EPOCH_STALE" : "NOT_LOADED";
      return `${reason}: ${error instanceof Error ? error.message : "unknown"}`;
    }
  }

  /** An owner let go by itself. */
  remove(owner: O): void {
    this.#owners.delete(owner);
    this.onCount(this.#owners.size);
  }

  /** Lets go, sending nothing more. A higher epoch than the one named is not withdrawn. */
  withdraw(which: { readonly channel: bigint; readonly opening: bigint; readonly epoch: bigint }): void {
    const owner = this.find(which);
    if (owner === undefined || owner.epoch > which.epoch) return;
    if (which.channel === 0n && owner.withdrawPart(which.opening)) return;
    this.remove(owner);
    owner.stop(null);
  }

  /** The owner of a channel (0: every one) reads its chain facts again. */
  lookAgain(channel: bigint, height: number): void {
    for (const owner of this.#owners) {
      if (channel === 0n || owner.channel === channel) owner.lookAgain(height);
    }
  }

  /** Gives everything back. */
  drain(how: Ended): void {
    this.#draining = true;
    for (const owner of [...this.#owners]) owner.stop(how);
  }

  /** By channel, else by opening. */
  find(which: { readonly channel: bigint; readonly opening: bigint }): O | undefined {
    return this.#first((owner) =>
      which.channel !== 0n
        ? owner.channel === which.channel
        : which.opening !== 0n && owner.opening === which.opening
    );
  }

  /** By the channel id that connectd and users know. */
  findById(channelId: Uint8Array): O | undefined {
    return this.#first((owner) => sameBytes(owner.channelId, channelId));
  }

  /** By the token that lightningd drew for this attachment; an empty one is nobody's. */
  findByToken(token: Uint8Array): O | undefined {
    if (token.length === 0) return undefined;
    return this.#first((owner) => sameBytes(owner.token, token));
  }

  #first(matches: (owner: O) => boolean): O | undefined {
    for (const owner of this.#owners) if (matches(owner)) return owner;
    return undefined;
  }

  /** Every owner. */
  all(): readonly O[] {
    return [...this.#owners];
  }

  /** For hellos and listings. */
  held(): Held[] {
    return [...this.#owners].flatMap((owner) => {
      const held = owner.held();
      return held === undefined ? [] : [held];
    });
  }
}
