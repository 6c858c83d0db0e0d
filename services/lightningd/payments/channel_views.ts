/** Channels as their owners tell them: what each can send now. All of it is levels; nothing here is stored. */
import { bytesToHex } from "@noble/hashes/utils.js";
import type { ChannelLevel } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import type { Carrier } from "./split.ts";

/** What the rows say of a channel and never changes while it lives. */
export interface ChannelFacts {
  readonly channel: bigint;
  readonly channelId: Uint8Array;
  readonly peerId: Uint8Array;
  readonly ownerEpoch: bigint;
  /** Of the confirmed funding output. */
  readonly shortChannelId?: bigint;
  readonly localAlias: bigint;
  readonly remoteAlias?: bigint;
  /** Smallest HTLC that the peer takes. */
  readonly remoteMinimumMsat: bigint;
  /** HTLCs of ours that the peer takes at once. */
  readonly remoteMaxHtlcs: number;
}

/** A channel of which its owner told something. */
export class ChannelView {
  level: ChannelLevel | undefined;
  /** Everything was told on the present stream. */
  synced = false;
  /** Offers that were not answered yet: no level counts them. */
  readonly unanswered = new Map<bigint, bigint>();
  #reserved = 0n;
  #reservations = 0;
  #offered = 0n;

  constructor(public facts: ChannelFacts) {}

  /** Takes room for a part whose row is still being written. */
  reserve(amountMsat: bigint): void {
    this.#reserved += amountMsat;
    this.#reservations++;
  }

  release(amountMsat: bigint): void {
    this.#reserved -= amountMsat;
    this.#reservations--;
  }

  /** An offer is on its way to the owner. */
  offer(part: bigint, amountMsat: bigint): void {
    this.unanswered.set(part, amountMsat);
    this.#offered += amountMsat;
  }

  /** The owner has answered it, one way or another. */
  answered(part: bigint): void {
    const amount = this.unanswered.get(part);
    if (amount === undefined) return;
    this.unanswered.delete(part);
    this.#offered -= amount;
  }

  /** Can send, as far as the owner said. */
  get usable(): boolean {
    return this.synced && this.level !== undefined && this.level.state === "CHANNELD_NORMAL" &&
      this.level.paused === "";
  }

  /** What one more HTLC may have. */
  get availableMsat(): bigint {
    if (!this.usable || this.level === undefined) return 0n;
    const slots = this.facts.remoteMaxHtlcs - this.level.htlcsOut - this.unanswered.size - this.#reservations;
    if (slots <= 0) return 0n;
    const left = this.level.spendableMsat - this.#offered - this.#reserved;
    return left > 0n ? left : 0n;
  }

  /** Something of ours is under way in it, so it may have more room later. */
  get busy(): boolean {
    return this.unanswered.size > 0 || this.#reservations > 0 || (this.level?.htlcsOut ?? 0) > 0;
  }

  carrier(): Carrier {
    return {
      channel: this.facts.channel,
      availableMsat: this.availableMsat,
      minimumMsat: this.facts.remoteMinimumMsat,
    };
  }
}

/** All of them. */
export class ChannelViews {
  readonly #channels = new Map<bigint, ChannelView>();
  readonly #byPeer = new Map<string, Set<ChannelView>>();

  get(channel: bigint): ChannelView | undefined {
    return this.#channels.get(channel);
  }

  all(): Iterable<ChannelView> {
    return this.#channels.values();
  }

  of(peer: string): Iterable<ChannelView> {
    return this.#byPeer.get(peer) ?? [];
  }

  /** Its owner begins to tell. */
  began(facts: ChannelFacts): ChannelView {
    let view = this.#channels.get(facts.channel);
    if (view === undefined) {
      view = new ChannelView(facts);
      this.#channels.set(facts.channel, view);
      const peer = bytesToHex(facts.peerId);
      const of = this.#byPeer.get(peer);
      if (of === undefined) this.#byPeer.set(peer, new Set([view]));
      else of.add(view);
    }
    view.facts = facts;
    view.level = undefined;
    view.synced = false;
    return view;
  }

  /** Its owner is gone: nothing can be said of it until the next one begins. */
  lost(channel: bigint): void {
    const view = this.#channels.get(channel);
    if (view !== undefined) view.synced = false;
  }
}
