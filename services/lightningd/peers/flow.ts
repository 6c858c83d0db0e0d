/**
 * The flow of peers (design: the flow): what happens when a connection, a subd, a spoke, a block or a row changes.
 *
 * Everything here is driven by levels: `tend` compares a peer's rows with who has them and does the first missing step.
 * Work of one peer runs in order; a message of an older generation is dropped, never asserted.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { unreachable } from "bolt/result.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { errorMessage, txAbortMessage, warningMessage } from "bolt/wire/error_text.ts";
import { Features, isNegotiated } from "bolt/wire/features.ts";
import { encodeMessage } from "bolt/wire/messages.ts";
import type { Logger } from "common/log.ts";
import {
  type AttachmentEnded,
  AttachmentEnded_Reason,
  type AttachmentStarted,
  type ConnectdHello,
  type LivePeer as HeldPeer,
  type PeerConnected,
  type PeerDisconnected,
  type PeerSpoke,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import {
  type AssignResult,
  type ChannelChanged,
  type Released,
  Released_Reason,
  type SubdHello,
  type Superseded,
} from "gen/arcus/subd/v1/subd_pb.ts";
import { Direction } from "gen/arcus/types/v1/types_pb.ts";
import type { HsmdClient } from "../node.ts";
import type { Assigned, Assigner } from "./assign.ts";
import { begunKey, type Live, type LivePeer, type Owner, ownerKey, type Replica, type Subd } from "./live.ts";
import { OpenRate } from "./open_rate.ts";
import { Serial } from "./serial.ts";
import {
  decide,
  type FinalMessage,
  MessageType,
  OPEN_RATE_WINDOW_MS,
  type OpenLimits,
  type OwnerState,
} from "./spoke.ts";
import {
  type ChannelRow,
  type DroppedOpening,
  isLive,
  type OpeningRow,
  ownerOf,
  type PeerStore,
} from "./store.ts";

/** A connectd whose stream is away for so long has lost its peers. */
export const CONNECTD_LOST_MS = 10_000;
/** Between two tries of what could not be done at once. */
export const RETRY_MS = 1_000;
/** An owner that said that it let go, and whose attachment does not end: the successor follows all the same. */
export const HANDOVER_MS = 5_000;
/** Aborted ids that are remembered of one connection. */
const MAX_ABORTED = 1_000;

/** Settings of {@link Flow}. */
export interface FlowOptions {
  readonly live: Live;
  readonly store: PeerStore;
  readonly assigner: Assigner;
  readonly hsmd: HsmdClient;
  readonly log: Logger;
  readonly height: () => number;
  /** Our init features. */
  readonly features: Features;
  readonly limits: OpenLimits;
  readonly feerateKnown: () => Promise<boolean>;
  /** The chain looks for attempts that are younger than blocks which may hold them. */
  readonly scanNewAttempts: () => Promise<void>;
  /** Reservations whose holder is gone are released. */
  readonly reconcileWallet: () => Promise<void>;
  /** The rows of a saved channel changed: a close may be complete, or have failed. */
  readonly onChannelChanged: (channel: bigint) => void;
  /** What must end this process: the leadership or the database is gone. */
  readonly onError: (error: unknown) => void;
}

/** The flow. */
export class Flow {
  readonly #serial: Serial;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #retries = new Set<string>();
  readonly #openRate = new OpenRate(OPEN_RATE_WINDOW_MS);
  /** Who waits for an attachment to start. */
  readonly #started = new Map<string, Set<(started: boolean) => void>>();
  /** Peers that a connectd keeps connected, and which one. */
  readonly #important = new Map<string, string>();
  /** Where connectds listened, those that are gone included. */
  readonly #bindings = new Map<string, readonly string[]>();
  #draining = false;
  #stopped = false;

  constructor(private readonly options: FlowOptions) {
    this.#serial = new Serial((error, key) => {
      if (this.#stopped) return;
      options.log.error({ err: error, peer: key }, "work for a peer failed");
      options.onError(error);
      // What is still missing is found in the rows: hsmd, say, may be back by then.
      const peer = options.live.peers.get(key);
      if (peer !== undefined) this.#retry(peer);
    });
  }

  /** After the faces listen: connections whose connectd never comes back are closed. */
  start(): void {
    this.#after(CONNECTD_LOST_MS, () => this.#closeLost());
  }

  /** Takes no new opens. */
  drain(): void {
    this.#draining = true;
  }

  /** Ends timers and waits for what is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const key of this.#started.keys()) this.#wake(key, false);
    await this.#serial.idle();
  }

  /** Runs in order with everything else of this peer. */
  withPeer<T>(peerId: Uint8Array, work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      void this.#serial.run(bytesToHex(peerId), () => work().then(resolve, reject));
    });
  }

  /** Waits until connectd says that the attachment of this owner started. False: it ended, or nothing came in time. */
  attached(owner: Owner, ms: number): Promise<boolean> {
    if (owner.attached) return Promise.resolve(true);
    const key = ownerKey(owner.type, owner.id);
    const waiting = this.#started.get(key) ?? new Set();
    this.#started.set(key, waiting);
    return new Promise((resolve) => {
      const settle = (started: boolean) => {
        clearTimeout(timer);
        this.#timers.delete(timer);
        waiting.delete(settle);
        if (waiting.size === 0 && this.#started.get(key) === waiting) this.#started.delete(key);
        resolve(started);
      };
      const timer = setTimeout(() => settle(false), ms);
      this.#timers.add(timer);
      waiting.add(settle);
    });
  }

  #wake(key: string, started: boolean): void {
    for (const settle of [...this.#started.get(key) ?? []]) settle(started);
    this.#started.delete(key);
  }

  // ---------------------------------------------------------------------------------------------- connectd's events

  /** Peers that a new connectd shall keep connected: those that no other one has. */
  async important(instance: string) {
    const { live, store } = this.options;
    const all = await store.importantPeers();
    const mine = all.filter(({ peerId }) => {
      const hex = bytesToHex(peerId);
      const there = live.peers.get(hex)?.instance ?? this.#important.get(hex);
      return there === undefined || there === instance || !live.replicas.has(there);
    });
    for (const { peerId } of mine) this.#important.set(bytesToHex(peerId), instance);
    return mine;
  }

  /** A connectd said hello: its lists are complete. */
  replicaUp(replica: Replica, hello: ConnectdHello): void {
    const { live, log } = this.options;
    void this.#serial.run(`connectd:${replica.instance}`, async () => {
      await this.#closeReplaced(replica);
      const listed = new Set(hello.peers.map(({ peer }) => bytesToHex(peer?.peerId ?? new Uint8Array())));
      for (const row of await this.options.store.liveConnections()) {
        const hex = bytesToHex(row.peer_id);
        if (row.connectd_instance !== replica.instance || listed.has(hex)) continue;
        await this.#serial.run(hex, () => this.#gone(hex, row.generation));
      }
    });
    for (const held of hello.peers) {
      const { peer } = held;
      if (peer === undefined) continue;
      if (held.generation === 0n) this.peerConnected(replica, peer);
      else void this.#serial.run(bytesToHex(peer.peerId), () => this.#readopt(replica, held, peer));
    }
    for (const spoke of hello.unanswered) this.peerSpoke(replica, spoke);
    log.debug({ connectd: replica.instance, replicas: live.replicas.size }, "connectd's lists are taken");
  }

  /** Its stream ended; connectd itself may live. */
  replicaDown(_replica: Replica): void {
    this.#after(CONNECTD_LOST_MS, () => this.#closeLost());
  }

  /** A new connection, or the same peer again. */
  peerConnected(replica: Replica, message: PeerConnected): void {
    void this.#serial.run(bytesToHex(message.peerId), async () => {
      const { store, live, log } = this.options;
      const hex = bytesToHex(message.peerId);
      const incoming = message.direction !== Direction.OUTGOING;
      const { generation, dropped } = await store.acceptConnection({
        peerId: message.peerId,
        instance: replica.instance,
        connection: message.connection,
        incoming,
        remoteAddr: message.remoteAddr,
        features: message.features,
      });
      const old = live.peers.get(hex);
      if (old !== undefined && old.generation !== generation) {
        if (old.instance !== replica.instance) {
          live.toPeer(old, {
            message: { case: "closePeer", value: { peerId: old.peerId, generation: old.generation } },
          });
        }
        this.#forgetConnection(old);
      }
      this.#withdraw(dropped);
      const peer = this.#livePeer(replica, message, generation);
      live.peers.set(hex, peer);
      live.toPeer(peer, {
        message: {
          case: "peerAccepted",
          value: { peerId: peer.peerId, connection: peer.connection, generation },
        },
      });
      log.info({ peer: hex, generation, direction: peer.direction }, "peer accepted");
      await this.#tend(peer);
      if (!incoming) await store.rememberAddress(message.peerId, message.remoteAddr);
    });
  }

  /** A connection ended. */
  peerDisconnected(replica: Replica, message: PeerDisconnected): void {
    void this.#serial.run(bytesToHex(message.peerId), async () => {
      const hex = bytesToHex(message.peerId);
      const peer = this.options.live.peers.get(hex);
      // Before it heard its generation, connectd names only its own number.
      const same = peer !== undefined && peer.instance === replica.instance &&
        peer.connection === message.connection;
      if (!same) {
        if (message.generation !== 0n) {
          this.#withdraw(await this.options.store.closeConnection(message.generation));
        }
        return;
      }
      this.options.log.info(
        { peer: hex, generation: peer.generation, reason: message.reason },
        "peer disconnected",
      );
      await this.#gone(hex, peer.generation);
    });
  }

  /** A message that nobody was attached for. */
  peerSpoke(_replica: Replica, spoke: PeerSpoke): void {
    void this.#serial.run(bytesToHex(spoke.peerId), async () => {
      const peer = this.options.live.current(spoke.peerId, spoke.generation);
      if (peer !== undefined) await this.#answer(peer, spoke);
    });
  }

  /** A subd accepted the stream. */
  attachmentStarted(started: AttachmentStarted): void {
    void this.#serial.run(bytesToHex(started.peerId), async () => {
      const peer = this.options.live.current(started.peerId, started.generation);
      const owner = peer === undefined
        ? undefined
        : this.#ownerByEpoch(peer, started.epoch, started.channelId);
      if (peer === undefined || owner === undefined) return;
      owner.attached = true;
      if (owner.type === "channel") peer.begun.add(begunKey(owner.id, owner.kind));
      this.#wake(ownerKey(owner.type, owner.id), true);
    });
  }

  /** An attachment ended, or could not be made. */
  attachmentEnded(ended: AttachmentEnded): void {
    void this.#serial.run(bytesToHex(ended.peerId), async () => {
      const peer = this.options.live.current(ended.peerId, ended.generation);
      if (peer !== undefined) await this.#ended(peer, ended);
    });
  }

  // -------------------------------------------------------------------------------------------------- subds' events

  /** A subd said hello: what it holds under an old epoch is withdrawn, and who waits for a subd gets it. */
  subdUp(subd: Subd, hello: SubdHello): void {
    void this.#serial.run(`subd:${subd.instance}`, async () => {
      const { store } = this.options;
      const rows = await store.channels({
        ids: hello.held.map((held) => held.channel).filter((id) => id !== 0n),
      });
      const openings = hello.held.some((held) => held.channel === 0n) ? await store.openings() : [];
      for (const held of hello.held) {
        const { channel, opening, epoch } = held;
        const row = channel !== 0n
          ? rows.find((candidate) => candidate.channel === channel)
          : openings.find((candidate) => candidate.opening === opening);
        if (row?.owner_epoch !== epoch) {
          subd.send({ message: { case: "withdraw", value: { channel, opening, epoch } } });
        } else if (channel !== 0n) {
          // Blocks may have come while it could not hear of them.
          const height = this.options.height();
          subd.send({ message: { case: "lookAgain", value: { channel, height } } });
        }
      }
    });
    this.tendAll();
  }

  /** Its stream ended; its channels and attachments may live, and connectd tells when they do not. */
  subdDown(subd: Subd): void {
    this.options.assigner.subdDown(subd);
  }

  assignResult(_subd: Subd, result: AssignResult): void {
    this.options.assigner.assignResult(result);
  }

  /** An owner's rows changed. */
  channelChanged(subd: Subd, changed: ChannelChanged): void {
    const { live } = this.options;
    this.options.scanNewAttempts().catch((error) =>
      this.options.log.warn({ err: error }, "attempts are scanned later")
    );
    if (changed.channel !== 0n) this.options.onChannelChanged(changed.channel);
    const owner = live.owner("channel", changed.channel) ?? live.owner("opening", changed.opening);
    if (owner === undefined || owner.instance !== subd.instance || owner.epoch !== changed.epoch) return;
    this.#queueTend(owner.peer);
  }

  /** An owner let go. */
  released(_subd: Subd, released: Released): void {
    const { live } = this.options;
    if (released.channel !== 0n) this.options.onChannelChanged(released.channel);
    const owner = released.channel !== 0n
      ? live.owner("channel", released.channel) ?? live.owner("opening", released.opening)
      : live.owner("opening", released.opening);
    if (owner === undefined || owner.epoch !== released.epoch) return;
    void this.#serial.run(owner.peer, () => this.#released(owner, released));
  }

  /** hsmd or the database refused an owner's epoch. */
  superseded(_subd: Subd, superseded: Superseded): void {
    const { live, log } = this.options;
    const owner = superseded.channel !== 0n
      ? live.owner("channel", superseded.channel)
      : live.owner("opening", superseded.opening);
    if (owner === undefined || owner.epoch !== superseded.epoch) return;
    log.warn({ peer: owner.peer, epoch: owner.epoch, detail: superseded.detail }, "an owner was superseded");
    void this.#serial.run(owner.peer, async () => {
      const peer = live.peers.get(owner.peer);
      live.dropOwner(owner);
      await this.options.assigner.learnEpochs();
      if (peer === undefined || peer.generation !== owner.generation) return;
      if (owner.type === "opening") {
        await this.#dropOpening(peer, owner.id, owner.channelId, "the open lost its owner");
      } else if (owner.attached) this.#bounce(peer, "the owner of a channel was superseded");
      else await this.#tend(peer);
    });
  }

  // ----------------------------------------------------------------------------------------------------- the chain

  /** Facts of these channels changed: owners look again, and a live peer's channel without an owner gets one. */
  async chainMoved(height: number, channels: readonly bigint[]): Promise<void> {
    const { live, store } = this.options;
    for (const channel of channels) {
      const owner = live.owner("channel", channel);
      const subd = owner === undefined ? undefined : live.subds.get(owner.instance);
      subd?.send({ message: { case: "lookAgain", value: { channel, height } } });
    }
    if (channels.length === 0) return;
    for (const row of await store.channels({ ids: channels })) {
      if (live.owner("channel", row.channel) === undefined) this.#queueTend(bytesToHex(row.peer_id));
    }
  }

  /** A channel is failed by lightningd: its owner is gone, the peer hears why. */
  async fail(row: ChannelRow, text: string): Promise<void> {
    const { live, store, log } = this.options;
    if (!await store.failChannel(row.channel, text)) return;
    log.error({ channel: bytesToHex(row.channel_id), text }, "channel failed");
    const owner = live.owner("channel", row.channel);
    if (owner !== undefined) this.#withdrawOwner(owner);
    const peer = live.peer(row.peer_id);
    if (peer !== undefined) this.#say(peer, row.channel_id, [{ type: "error", text }], 0n, false);
  }

  /** A decision about a channel is in the rows: its owner reads them again. */
  lookAgain(channel: bigint): void {
    const { live } = this.options;
    const owner = live.owner("channel", channel);
    const subd = owner === undefined ? undefined : live.subds.get(owner.instance);
    subd?.send({ message: { case: "lookAgain", value: { channel, height: this.options.height() } } });
  }

  /** The rows of a channel were taken from its owner: it lets go. The peer hears `text`, if there is any. */
  async taken(channel: bigint, text: string | null): Promise<void> {
    const { live, store } = this.options;
    const owner = live.owner("channel", channel);
    if (owner !== undefined) this.#withdrawOwner(owner);
    const [row] = await store.channels({ ids: [channel] });
    const peer = row === undefined ? undefined : live.peer(row.peer_id);
    if (row === undefined || peer === undefined) return;
    if (text !== null) this.#say(peer, row.channel_id, [{ type: "error", text }], 0n, false);
    this.#queueTend(peer.hex);
  }

  /** Deletes a channel at a person's word. */
  async forget(row: ChannelRow): Promise<void> {
    await this.options.store.forgetChannel(row.channel);
    await this.forgotten(row);
  }

  /** Deletes a channel that is still as it was read; false when its owner was faster: then it is looked at again later. */
  async forgetAsSeen(row: ChannelRow): Promise<boolean> {
    if (!await this.options.store.forgetChannel(row.channel, row)) return false;
    await this.forgotten(row);
    return true;
  }

  /** A channel's rows are gone: so is its owner, and the peer hears it. */
  async forgotten(row: Pick<ChannelRow, "channel" | "channel_id" | "peer_id">): Promise<void> {
    const { live } = this.options;
    const owner = live.owner("channel", row.channel);
    if (owner !== undefined) this.#withdrawOwner(owner);
    await this.options.reconcileWallet();
    const peer = live.peer(row.peer_id);
    if (peer === undefined) return;
    this.#say(peer, row.channel_id, [{ type: "error", text: "this channel is forgotten" }], 0n, false);
    this.#queueTend(peer.hex);
  }

  /** hsmd or a subd came back: whatever waits is tried again. */
  tendAll(): void {
    for (const hex of this.options.live.peers.keys()) this.#queueTend(hex);
  }

  /** An opening is over: its row, its owner, and what the peer is told. */
  async abortOpening(opening: OpeningRow, text: string): Promise<void> {
    const { live, store } = this.options;
    const owner = live.owner("opening", opening.opening);
    if (opening.channel !== null) {
      await store.dropOpening(opening.opening, opening.owner_epoch);
      const holder = live.owner("channel", opening.channel);
      const subd = holder === undefined ? undefined : live.subds.get(holder.instance);
      subd?.send({
        message: { case: "withdraw", value: { opening: opening.opening, epoch: opening.owner_epoch } },
      });
      return;
    }
    const peer = live.current(opening.peer_id, opening.generation);
    if (owner !== undefined) this.#withdrawOwner(owner);
    const id = owner?.channelId ?? opening.temporary_channel_id;
    if (peer === undefined || id === null) await store.dropOpening(opening.opening);
    else await this.#dropOpening(peer, opening.opening, id, text);
  }

  // ------------------------------------------------------------------------------------------------------ the peer

  #livePeer(replica: Replica, message: PeerConnected, generation: bigint): LivePeer {
    return {
      peerId: message.peerId,
      hex: bytesToHex(message.peerId),
      generation,
      connection: message.connection,
      instance: replica.instance,
      direction: message.direction === Direction.OUTGOING ? "out" : "in",
      remoteAddr: message.remoteAddr,
      features: message.features,
      begun: new Set(),
      refused: new Set(),
      aborted: new Set(),
      waiting: new Map(),
      closing: false,
    };
  }

  /** A connection that lived through a restart of ours: owners are who connectd says, where our rows agree. */
  async #readopt(replica: Replica, held: HeldPeer, message: PeerConnected): Promise<void> {
    const { live, store } = this.options;
    const hex = bytesToHex(message.peerId);
    const known = live.peers.get(hex);
    if (known !== undefined && known.generation > held.generation) {
      replica.send({
        message: { case: "closePeer", value: { peerId: message.peerId, generation: held.generation } },
      });
      return;
    }
    // Our row may have been closed while connectd was away; the generation stays what connectd knows.
    await store.acceptConnection({
      peerId: message.peerId,
      instance: replica.instance,
      connection: message.connection,
      incoming: message.direction !== Direction.OUTGOING,
      remoteAddr: message.remoteAddr,
      features: message.features,
    });
    const peer = this.#livePeer(replica, message, held.generation);
    for (const id of known?.aborted ?? []) peer.aborted.add(id);
    for (const key of known?.begun ?? []) peer.begun.add(key);
    live.peers.set(hex, peer);
    const rows = await store.channels({ peerId: message.peerId });
    const openings = await store.openings(message.peerId);
    const owners = [...live.owners.values()].filter((owner) => owner.peer === hex);
    const kept = new Set<Owner>();
    for (const attachment of held.attachments) {
      const row = rows.find((candidate) => sameBytes(candidate.channel_id, attachment.channelId));
      const opening = row === undefined
        ? openings.find((candidate) =>
          candidate.channel === null && candidate.owner_epoch === attachment.epoch
        )
        : undefined;
      const of = row ?? opening;
      const same = of?.owner_epoch === attachment.epoch && of.owner_instance === attachment.subdInstance;
      if (of === undefined || !same) continue;
      const kind = this.#kindOf(attachment.subdInstance, row?.state);
      if (kind === undefined) continue;
      const type = row !== undefined ? "channel" : "opening";
      const id = row !== undefined ? row.channel : opening?.opening ?? 0n;
      const before = live.owner(type, id);
      const owner: Owner = before !== undefined && before.epoch === attachment.epoch ? before : {
        type,
        id,
        kind,
        instance: attachment.subdInstance,
        epoch: attachment.epoch,
        peer: hex,
        generation: held.generation,
        channelId: attachment.channelId,
        token: new Uint8Array(),
        attached: true,
        leaving: false,
      };
      owner.attached = true;
      live.setOwner(owner);
      kept.add(owner);
      if (type === "channel") peer.begun.add(begunKey(id, kind));
    }
    for (const owner of owners) if (!kept.has(owner)) live.dropOwner(owner);
    // What has an owner in its rows and no attachment lost its subd while we were away.
    let lost = false;
    for (const row of rows) {
      if (row.generation !== held.generation || live.owner("channel", row.channel) !== undefined) continue;
      const kind = ownerOf(row.state);
      if (kind === undefined || row.error_text !== null || !isLive(row.state)) continue;
      // dualopend let go at lock-in while we were away: its successor only has to be called.
      if (kind !== row.owner_daemon) continue;
      peer.begun.add(begunKey(row.channel, kind));
      lost = true;
    }
    for (const opening of openings) {
      if (opening.channel !== null || live.owner("opening", opening.opening) !== undefined) continue;
      await this.#dropOpening(
        peer,
        opening.opening,
        opening.temporary_channel_id ?? new Uint8Array(),
        "interrupted",
      );
    }
    if (lost) this.#bounce(peer, "the subd of a channel was lost");
    else await this.#tend(peer);
  }

  /** Of a registered subd its own word; of one that is not, what the channel's state says. */
  #kindOf(instance: string, state: string | undefined) {
    return this.options.live.subds.get(instance)?.kind ??
      (state === undefined ? "dualopend" as const : ownerOf(state));
  }

  async #gone(hex: string, generation: bigint): Promise<void> {
    const { live, store } = this.options;
    this.#withdraw(await store.closeConnection(generation));
    const peer = live.peers.get(hex);
    if (peer === undefined || peer.generation !== generation) return;
    this.#forgetConnection(peer);
    live.peers.delete(hex);
    await this.options.reconcileWallet();
    if (peer.closing !== "bounce") return;
    const addresses = await this.#addressesOf(peer);
    if (addresses.length === 0) return;
    live.toPeer(peer, {
      message: { case: "connect", value: { requestId: 0n, peerId: peer.peerId, addresses } },
    });
  }

  async #addressesOf(peer: LivePeer): Promise<string[]> {
    const known = await this.options.store.addresses(peer.peerId);
    return peer.direction === "out" && !known.includes(peer.remoteAddr) ? [peer.remoteAddr, ...known] : known;
  }

  /** Nobody owns anything for that connection any more; subds hear of its end from connectd. */
  #forgetConnection(peer: LivePeer): void {
    for (const owner of [...this.options.live.owners.values()]) {
      if (owner.peer !== peer.hex || owner.generation !== peer.generation) continue;
      this.#wake(ownerKey(owner.type, owner.id), false);
      this.options.live.dropOwner(owner);
    }
  }

  /** Openings whose rows are gone: whoever held them lets go. */
  #withdraw(dropped: readonly DroppedOpening[]): void {
    for (const { opening, channel, owner_epoch: epoch, owner_instance } of dropped) {
      if (channel !== null) continue;
      const subd = this.options.live.subds.get(owner_instance);
      subd?.send({ message: { case: "withdraw", value: { opening, epoch } } });
    }
  }

  #withdrawOwner(owner: Owner): void {
    const { live } = this.options;
    const named = owner.type === "channel" ? { channel: owner.id } : { opening: owner.id };
    live.subds.get(owner.instance)?.send({
      message: { case: "withdraw", value: { ...named, epoch: owner.epoch } },
    });
    this.#wake(ownerKey(owner.type, owner.id), false);
    live.dropOwner(owner);
  }

  // ------------------------------------------------------------------------------------------------------- tending

  #queueTend(hex: string): void {
    void this.#serial.run(hex, async () => {
      const peer = this.options.live.peers.get(hex);
      if (peer !== undefined) await this.#tend(peer);
    });
  }

  /** Who owns this row for the connection, going by what subds and connectd said. */
  #ownerOfRow(peer: LivePeer, row: ChannelRow): Owner | undefined {
    const { live } = this.options;
    const owner = live.owner("channel", row.channel);
    if (owner !== undefined) return owner;
    // An open that was saved keeps its owner and its epoch.
    const opener = [...live.owners.values()].find((candidate) =>
      candidate.type === "opening" && candidate.peer === peer.hex && candidate.epoch === row.owner_epoch &&
      candidate.instance === row.owner_instance && sameBytes(candidate.channelId, row.temporary_channel_id)
    );
    if (opener === undefined) return undefined;
    live.dropOwner(opener);
    const saved: Owner = {
      ...opener,
      type: "channel",
      id: row.channel,
      channelId: Uint8Array.from(row.channel_id),
    };
    live.setOwner(saved);
    if (saved.attached) peer.begun.add(begunKey(row.channel, saved.kind));
    return saved;
  }

  #ownerState(peer: LivePeer, row: ChannelRow): OwnerState {
    const kind = ownerOf(row.state);
    const owner = this.#ownerOfRow(peer, row);
    if (kind === undefined) return "none";
    if (owner === undefined || owner.generation !== peer.generation || owner.epoch !== row.owner_epoch) {
      return peer.begun.has(begunKey(row.channel, kind)) ? "parked" : "none";
    }
    if (owner.kind === kind && !owner.leaving) return "live";
    // The former owner is still attached: its last frames go out first, then its successor follows.
    return owner.attached ? "leaving" : "none";
  }

  /** Gives every live channel of the peer that nobody has to a subd, and answers who waited for it. */
  async #tend(peer: LivePeer): Promise<void> {
    const { live, store, assigner } = this.options;
    if (this.#stopped || live.peers.get(peer.hex) !== peer || peer.closing !== false) return;
    const rows = await store.channels({ peerId: peer.peerId });
    const alive = rows.filter((row) => row.error_text === null && isLive(row.state));
    const ownerless = alive.filter((row) => this.#ownerState(peer, row) === "none");
    const results = await assigner.assign(peer, ownerless.map((row) => ({ type: "channel", row })));
    results.forEach((result, index) => this.#assigned(peer, ownerless[index]!, result));
    this.#keepImportant(peer, alive.length > 0, await this.#addressesOf(peer));
    for (const spoke of [...peer.waiting.values()]) await this.#answer(peer, spoke);
  }

  #assigned(peer: LivePeer, row: ChannelRow, result: Assigned): void {
    switch (result.type) {
      case "assigned":
        return;
      case "later":
        this.options.log.debug(
          { peer: peer.hex, channel: row.channel, detail: result.detail },
          "not assigned yet",
        );
        return this.#retry(peer);
      case "impossible":
        peer.begun.add(begunKey(row.channel, ownerOf(row.state) ?? "dualopend"));
        this.options.log.error(
          { peer: peer.hex, channel: bytesToHex(row.channel_id), detail: result.detail },
          "this channel is stopped: nobody may sign for it",
        );
        return;
      default:
        return unreachable(result);
    }
  }

  #retry(peer: LivePeer): void {
    if (this.#retries.has(peer.hex)) return;
    this.#retries.add(peer.hex);
    this.#after(RETRY_MS, () => {
      this.#retries.delete(peer.hex);
      this.#queueTend(peer.hex);
    });
  }

  #keepImportant(peer: LivePeer, important: boolean, addresses: readonly string[]): void {
    if ((this.#important.get(peer.hex) === peer.instance) === important) return;
    if (important) this.#important.set(peer.hex, peer.instance);
    else this.#important.delete(peer.hex);
    this.options.live.toPeer(peer, {
      message: { case: "setImportant", value: { peerId: peer.peerId, addresses: [...addresses], important } },
    });
  }

  /** A drained hang-up and a new connection: until takeover under a live one exists (a saved channel lost its subd). */
  #bounce(peer: LivePeer, reason: string): void {
    if (peer.closing !== false) return;
    peer.closing = "bounce";
    this.options.log.warn({ peer: peer.hex, reason }, "the connection is made anew");
    this.options.live.toPeer(peer, {
      message: {
        case: "disconnect",
        value: { requestId: 0n, peerId: peer.peerId, generation: peer.generation, reason },
      },
    });
  }

  // ---------------------------------------------------------------------------------------------------- attachments

  #ownerByEpoch(peer: LivePeer, epoch: bigint, channelId: Uint8Array): Owner | undefined {
    const mine = [...this.options.live.owners.values()].filter((owner) =>
      owner.peer === peer.hex && owner.epoch === epoch && owner.generation === peer.generation
    );
    // No two openings of a peer share an epoch, so an opening whose channel has its final id by now is found too.
    return mine.find((owner) => sameBytes(owner.channelId, channelId)) ??
      mine.find((owner) => owner.type === "opening");
  }

  async #ended(peer: LivePeer, ended: AttachmentEnded): Promise<void> {
    const { live, store, log } = this.options;
    const rows = await store.channels({ peerId: peer.peerId });
    const row = rows.find((candidate) => sameBytes(candidate.channel_id, ended.channelId));
    if (row !== undefined) this.#ownerOfRow(peer, row);
    const owner = this.#ownerByEpoch(peer, ended.epoch, ended.channelId);
    log.debug(
      {
        peer: peer.hex,
        channel: ended.channelId,
        epoch: ended.epoch,
        reason: ended.reason,
        detail: ended.detail,
      },
      "an attachment ended",
    );
    switch (ended.reason) {
      case AttachmentEnded_Reason.SUPERSEDED:
      case AttachmentEnded_Reason.PEER_GONE:
        // Whoever superseded it is known; the peer's end is told by itself.
        return;
      case AttachmentEnded_Reason.REFUSED:
        if (owner === undefined) return;
        log.warn({ peer: peer.hex, detail: ended.detail }, "connectd refused an attachment");
        return this.#withdrawOwner(owner);
      case AttachmentEnded_Reason.FINISHED:
      case AttachmentEnded_Reason.SUBD_LOST:
        break;
      case AttachmentEnded_Reason.UNSPECIFIED:
        return;
      default:
        return unreachable(ended.reason);
    }
    const lost = ended.reason === AttachmentEnded_Reason.SUBD_LOST;
    if (owner !== undefined) {
      this.#wake(ownerKey(owner.type, owner.id), false);
      live.dropOwner(owner);
    }
    if (row !== undefined) return await this.#channelEnded(peer, row, owner, ended, rows, lost);
    await this.#openingEnded(peer, owner, ended, lost);
  }

  async #channelEnded(
    peer: LivePeer,
    row: ChannelRow,
    owner: Owner | undefined,
    ended: AttachmentEnded,
    rows: readonly ChannelRow[],
    lost: boolean,
  ): Promise<void> {
    if (row.owner_epoch !== ended.epoch || owner === undefined) return await this.#tend(peer);
    const successor = ownerOf(row.state);
    if (row.error_text !== null || successor === undefined) return;
    // A handover: what connectd holds goes to the next owner. Of a complete close there is none to call.
    if (successor !== owner.kind || !isLive(row.state)) return await this.#tend(peer);
    if (!owner.attached) {
      peer.refused.add(owner.instance);
      return this.#retry(peer);
    }
    peer.begun.add(begunKey(row.channel, owner.kind));
    const others = await this.#hasOthers(peer, row.channel, rows);
    if (lost || !others) {
      return this.#bounce(
        peer,
        lost ? "the subd of a channel was lost" : "a channel asks for a new connection",
      );
    }
    // Hanging up would cost the others; this one waits for the next connection.
    for (const spoke of [...peer.waiting.values()]) await this.#answer(peer, spoke);
  }

  /** An open that was not saved: gone with its subd. The peer hears it, and keeps its connection. */
  async #openingEnded(
    peer: LivePeer,
    owner: Owner | undefined,
    ended: AttachmentEnded,
    lost: boolean,
  ): Promise<void> {
    const openings = await this.options.store.openings(peer.peerId);
    const row = openings.find((candidate) =>
      candidate.channel === null && candidate.owner_epoch === ended.epoch &&
      candidate.generation === peer.generation
    );
    if (row !== undefined) await this.options.store.dropOpening(row.opening, ended.epoch);
    await this.options.reconcileWallet();
    if (lost && (row !== undefined || owner !== undefined)) {
      const temporary = row?.temporary_channel_id ?? owner?.channelId;
      this.#abort(peer, ended.channelId, temporary, "the open was interrupted");
    }
    for (const spoke of [...peer.waiting.values()]) await this.#answer(peer, spoke);
  }

  /** Ends an opening by our own will. `id` is its temporary id, or the one connectd last named. */
  async #dropOpening(peer: LivePeer, opening: bigint, id: Uint8Array, text: string): Promise<void> {
    await this.options.store.dropOpening(opening);
    await this.options.reconcileWallet();
    this.#abort(peer, id, id, text);
  }

  /** BOLT 2: before accept_channel2 an `error` for the temporary id, afterwards tx_abort. */
  #abort(peer: LivePeer, id: Uint8Array, temporary: Uint8Array | null | undefined, text: string): void {
    const hasTemporaryId = temporary !== null && temporary !== undefined && sameBytes(temporary, id);
    if (peer.aborted.size < MAX_ABORTED) peer.aborted.add(bytesToHex(id));
    this.#say(peer, id, [{ type: hasTemporaryId ? "error" : "tx_abort", text }], 0n, false);
  }

  async #released(owner: Owner, released: Released): Promise<void> {
    const { live, store } = this.options;
    const peer = live.peers.get(owner.peer);
    const here = peer !== undefined && peer.generation === owner.generation ? peer : undefined;
    switch (released.reason) {
      case Released_Reason.OPEN_FAILED:
        await store.dropOpening(released.opening, released.epoch);
        await this.options.reconcileWallet();
        live.dropOwner(owner);
        this.#wake(ownerKey(owner.type, owner.id), false);
        if (here !== undefined) await this.#tend(here);
        return;
      case Released_Reason.RBF_FAILED:
        if (released.opening !== 0n) await store.dropOpening(released.opening, released.epoch);
        await this.options.reconcileWallet();
        return;
      case Released_Reason.LOCKED:
      case Released_Reason.SHUTDOWN_COMPLETE:
        owner.leaving = true;
        if (here === undefined) return live.dropOwner(owner);
        if (!owner.attached) {
          live.dropOwner(owner);
          return await this.#tend(here);
        }
        // connectd says when its last frames are out.
        return this.#after(HANDOVER_MS, () => {
          if (live.owners.get(ownerKey(owner.type, owner.id)) !== owner) return;
          live.dropOwner(owner);
          this.#queueTend(owner.peer);
        });
      case Released_Reason.PEER_GONE:
      case Released_Reason.CHANNEL_FAILED:
      case Released_Reason.CLOSED:
        // Attached owners end with their attachment, which tells the rest.
        if (!owner.attached) live.dropOwner(owner);
        return;
      case Released_Reason.DRAINING:
        if (here === undefined || !owner.attached) {
          live.dropOwner(owner);
          here?.refused.add(owner.instance);
          if (here !== undefined) await this.#tend(here);
          return;
        }
        return this.#bounce(here, "a subd is draining");
      case Released_Reason.UNSPECIFIED:
        return;
      default:
        return unreachable(released.reason);
    }
  }

  // -------------------------------------------------------------------------------------------------------- spokes

  async #hasOthers(
    peer: LivePeer,
    channel: bigint | undefined,
    rows: readonly ChannelRow[],
  ): Promise<boolean> {
    const alive = rows.some((row) => row.channel !== channel && row.error_text === null && isLive(row.state));
    return alive ||
      (await this.options.store.openings(peer.peerId)).some((opening) => opening.channel === null);
  }

  async #answer(peer: LivePeer, spoke: PeerSpoke): Promise<void> {
    const { live, store, limits } = this.options;
    const rows = await store.channels({ peerId: peer.peerId });
    const row = rows.find((candidate) => sameBytes(candidate.channel_id, spoke.channelId));
    const openings = await store.openings(peer.peerId);
    const opening = openings.find((candidate) =>
      candidate.channel === null && candidate.generation === peer.generation &&
      candidate.temporary_channel_id !== null && sameBytes(candidate.temporary_channel_id, spoke.channelId)
    );
    const openingOwner = opening === undefined ? undefined : live.owner("opening", opening.opening);
    const counts = await store.openCounts(peer.peerId, spoke.channelId);
    const features = Features.parse(peer.features);
    const verdict = decide({
      messageType: spoke.messageType,
      channel: row === undefined ? null : {
        state: row.state,
        live: this.#isServed(peer, row, spoke.messageType),
        errorText: row.error_text,
        owner: this.#ownerState(peer, row),
      },
      opening: opening === undefined
        ? null
        : { owner: openingOwner === undefined ? "none" : openingOwner.leaving ? "leaving" : "live" },
      recentlyAborted: peer.aborted.has(bytesToHex(spoke.channelId)),
      idTaken: counts.idTaken,
      opens: {
        ofPeer: counts.ofPeer,
        inAll: counts.inAll,
        lately: this.#openRate.lately(peer.hex, performance.now()),
      },
      limits,
      hasOthers: await this.#hasOthers(peer, row?.channel, rows),
      draining: this.#draining,
      dualFund: features.ok && isNegotiated(this.options.features, features.value, "option_dual_fund"),
      feerateKnown: spoke.messageType !== MessageType.openChannel2 || await this.options.feerateKnown(),
      canOpen: live.pick("dualopend") !== undefined,
    });
    if (verdict.type !== "wait") peer.waiting.delete(spoke.spokeId);
    this.options.log.debug(
      { peer: peer.hex, channel: spoke.channelId, message: spoke.messageType, verdict: verdict.type },
      "the peer spoke",
    );
    switch (verdict.type) {
      case "attach": {
        const owner = row === undefined ? openingOwner : live.owner("channel", row.channel);
        if (owner !== undefined) this.options.assigner.connect(peer, owner, spoke.spokeId);
        else this.#wait(peer, spoke);
        return;
      }
      case "assign": {
        if (row === undefined) return;
        const [result] = await this.options.assigner.assign(peer, [{ type: "channel", row }], spoke.spokeId);
        if (result === undefined) return;
        this.#assigned(peer, row, result);
        if (result.type === "later") this.#wait(peer, spoke);
        if (result.type === "impossible") {
          const text = "this channel cannot go on at the moment";
          this.#say(peer, spoke.channelId, [{ type: "warning", text }], spoke.spokeId, false);
        }
        return;
      }
      case "open":
        return await this.#open(peer, spoke);
      case "final":
        // A channel that waits for the next connection gets it.
        if (verdict.hangUp && row !== undefined && peer.closing === false) peer.closing = "bounce";
        return this.#say(peer, spoke.channelId, verdict.messages, spoke.spokeId, verdict.hangUp);
      case "wait":
        return this.#wait(peer, spoke);
      case "drop":
        live.toPeer(peer, { message: { case: "spokeDrop", value: { spokeId: spoke.spokeId } } });
        return;
      default:
        return unreachable(verdict);
    }
  }

  /**
   * Whether somebody speaks for a channel. A complete close has closingd only for a peer that does not know of it
   * (test_you_forgot_closed_channel): it begins with channel_reestablish, and whatever follows is its negotiation's.
   */
  #isServed(peer: LivePeer, row: ChannelRow, messageType: number): boolean {
    if (isLive(row.state)) return true;
    if (ownerOf(row.state) === undefined) return false;
    return messageType === MessageType.channelReestablish || this.#ownerState(peer, row) === "live";
  }

  #wait(peer: LivePeer, spoke: PeerSpoke): void {
    if (peer.waiting.has(spoke.spokeId)) return;
    peer.waiting.set(spoke.spokeId, spoke);
    this.options.live.toPeer(peer, { message: { case: "spokeWait", value: { spokeId: spoke.spokeId } } });
  }

  /** The peer opens a channel: keys, an opening row, and dualopend. */
  async #open(peer: LivePeer, spoke: PeerSpoke): Promise<void> {
    const { hsmd, store, limits, log } = this.options;
    this.#openRate.note(peer.hex, performance.now());
    const refuse = (text: string) =>
      this.#say(peer, spoke.channelId, [{ type: "error", text }], spoke.spokeId, false);
    let keys;
    try {
      keys = await hsmd.newChannel({ peerId: peer.peerId });
    } catch (error) {
      log.warn({ err: error, peer: peer.hex }, "no keys for an open");
      return refuse("opens are not served at the moment");
    }
    const row = await store.insertOpening({
      peerId: peer.peerId,
      generation: peer.generation,
      initiator: "remote",
      temporaryChannelId: spoke.channelId,
      channelKeyId: keys.channelKeyId,
      paymentKeyIndex: keys.paymentKeyIndex,
      maxOfPeer: limits.perPeer,
      maxInAll: limits.inAll,
    });
    if (row === undefined) return refuse("too many opens at once");
    const [result] = await this.options.assigner.assign(peer, [{ type: "opening", row }], spoke.spokeId);
    if (result?.type === "assigned") return;
    await store.dropOpening(row.opening);
    log.warn({ peer: peer.hex, detail: result?.detail }, "an open has no owner");
    refuse("opens are not served at the moment");
  }

  /** Final messages of lightningd's own. */
  #say(
    peer: LivePeer,
    channelId: Uint8Array,
    messages: readonly FinalMessage[],
    spokeId: bigint,
    hangUp: boolean,
  ): void {
    if (hangUp && peer.closing === false) peer.closing = "closing";
    this.options.live.toPeer(peer, {
      message: {
        case: "peerFinalMsg",
        value: {
          peerId: peer.peerId,
          generation: peer.generation,
          spokeId,
          channelId,
          messages: messages.map((message) => encodeFinal(message, channelId)),
          hangUp,
        },
      },
    });
  }

  // -------------------------------------------------------------------------------------------------------- timers

  #after(ms: number, work: () => void | Promise<void>): void {
    if (this.#stopped) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      Promise.resolve(work()).catch(this.options.onError);
    }, ms);
    this.#timers.add(timer);
  }

  /** Connections of a connectd that a new one replaced: both cannot listen on one address. */
  async #closeReplaced(replica: Replica): Promise<void> {
    const { live, store } = this.options;
    const rows = await store.liveConnections();
    const others = new Set(rows.map((row) => row.connectd_instance));
    others.delete(replica.instance);
    const alone = live.replicas.size === 1;
    for (const row of rows) {
      if (!others.has(row.connectd_instance) || live.replicas.has(row.connectd_instance)) continue;
      const known = this.#bindings.get(row.connectd_instance);
      const replaced = known !== undefined && known.some((binding) => replica.bindings.includes(binding));
      if (!replaced || !alone) continue;
      const hex = bytesToHex(row.peer_id);
      await this.#serial.run(hex, () => this.#gone(hex, row.generation));
    }
    this.#bindings.set(replica.instance, replica.bindings);
  }

  /** Connections of connectds that did not come back in time. */
  async #closeLost(): Promise<void> {
    const { live, store, log } = this.options;
    for (const row of await store.liveConnections()) {
      if (live.replicas.has(row.connectd_instance)) continue;
      const hex = bytesToHex(row.peer_id);
      log.warn(
        { peer: hex, connectd: row.connectd_instance },
        "its connectd is gone, and so is the connection",
      );
      await this.#serial.run(hex, () => this.#gone(hex, row.generation));
    }
  }
}

function encodeFinal(message: FinalMessage, channelId: Uint8Array): Uint8Array {
  switch (message.type) {
    case "error":
      return encodeMessage(errorMessage(channelId, message.text));
    case "warning":
      return encodeMessage(warningMessage(channelId, message.text));
    case "tx_abort":
      return encodeMessage(txAbortMessage(channelId, message.text));
    default:
      return unreachable(message.type);
  }
}
