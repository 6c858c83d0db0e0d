/** peers/ put together, and what the API sees of it. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { Sat } from "bolt/units.ts";
import { Features, nodeFeatures } from "bolt/wire/features.ts";
import { failedPrecondition, notFound } from "common/grpc/errors.ts";
import type { ImplementedService } from "common/grpc/server.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import { type Closed, ClosingRoom } from "../closing/room.ts";
import { type ClosedRow, ClosingStore, type Decision } from "../closing/store.ts";
import type { HsmdClient, NodeIdentity } from "../node.ts";
import type {
  AttemptInfo,
  Chain,
  ChannelInfo,
  FirstOpenRequest,
  ForgetRequest,
  Leader,
  OpenRequest,
  PeerInfo,
  Peers,
  Wallet,
  WalletApi,
} from "../ports.ts";
import { Assigner } from "./assign.ts";
import { attemptInfo, channelInfo, fundingOf, openingInfo } from "./channels.ts";
import { Connections, LIGHTNINGD_ERROR } from "./connections.ts";
import { controlService } from "./control.ts";
import { Flow } from "./flow.ts";
import { lightningdService } from "../face.ts";
import { Live, type LivePeer } from "./live.ts";
import { FundCode, Opens } from "./openings.ts";
import { type Policy, registryService } from "./registry.ts";
import { DEFAULT_MAX_OPENS } from "./spoke.ts";
import { type ChannelRow, ownerOf, PeerStore } from "./store.ts";

/** Confirmations after which a transaction is not expected to be undone any more. */
export const DEEP = 100;

/** Settings of {@link PeerRoom}. */
export interface PeerRoomOptions {
  readonly sql: Sql;
  readonly leader: Leader;
  readonly node: NodeIdentity;
  readonly hsmd: HsmdClient;
  readonly chain: Chain;
  readonly wallet: Wallet & Pick<WalletApi, "doubleSpendAttempts">;
  readonly log: Logger;
  readonly policy: Policy;
  /** Channels of one peer that are not locked in yet. */
  readonly maxOpensPerPeer: number;
  /** Opens that one peer may start in a minute. */
  readonly maxOpensPerMinute: number;
  readonly maxCapacity: Sat | undefined;
  readonly openTimeoutMs: number;
  /** Blocks without a confirmation after which a channel that a peer opened is given up. */
  readonly fundingGiveupBlocks: number;
  /** Blocks after which a channel that nobody of us signed is forgotten, whoever opened it. */
  readonly unsignedGiveupBlocks: number;
  readonly tls: TlsFiles | undefined;
  /** Features for our init. */
  readonly features?: Features;
  /** What must end this process. */
  readonly onFatal: (error: unknown) => void;
}

/** Connections, owners and opens. */
export class PeerRoom implements Peers {
  /** What lightningd serves to connectd and the subds. */
  readonly services: readonly ImplementedService[];
  readonly #live = new Live();
  readonly #store: PeerStore;
  readonly #assigner: Assigner;
  readonly #flow: Flow;
  readonly #opens: Opens;
  readonly #connections: Connections;
  readonly #closingStore: ClosingStore;
  readonly #closing: ClosingRoom;
  #shutdownScript: Promise<Uint8Array> | undefined;
  #tip: Promise<void> = Promise.resolve();

  constructor(private readonly options: PeerRoomOptions) {
    const { sql, leader, node, hsmd, chain, wallet, log } = options;
    const live = this.#live;
    const features = options.features ?? nodeFeatures();
    const store = this.#store = new PeerStore(sql, leader);
    const newScript = async () => (await wallet.newAddress()).script;
    const remembered = () =>
      newScript().catch((error) => {
        // A failure is not remembered: hsmd may be back at the next try.
        this.#shutdownScript = undefined;
        throw error;
      });
    const assigner = this.#assigner = new Assigner({
      live,
      store,
      hsmd,
      log,
      height: () => chain.height(),
      shutdownScript: (fresh) => fresh ? newScript() : this.#shutdownScript ??= remembered(),
    });
    const flow = this.#flow = new Flow({
      live,
      store,
      assigner,
      hsmd,
      log,
      height: () => chain.height(),
      features,
      limits: {
        perPeer: options.maxOpensPerPeer,
        inAll: DEFAULT_MAX_OPENS,
        perWindow: options.maxOpensPerMinute,
      },
      feerateKnown: () => chain.feerates().then(() => true, () => false),
      scanNewAttempts: () => chain.scanNewAttempts(),
      reconcileWallet: () => wallet.reconcile(),
      onChannelChanged: (channel) => this.#closing.changed(channel),
      onError: options.onFatal,
    });
    this.#closingStore = new ClosingStore(sql, leader);
    const closing = this.#closing = new ClosingRoom({
      store: this.#closingStore,
      hsmd,
      chain,
      log,
      taken: (channel, text) => flow.taken(channel, text),
      lookAgain: (channel) => flow.lookAgain(channel),
      onFatal: options.onFatal,
    });
    this.#opens = new Opens({
      live,
      store,
      flow,
      assigner,
      hsmd,
      chain,
      wallet,
      log,
      features,
      maxCapacity: options.maxCapacity,
      openTimeoutMs: options.openTimeoutMs,
      tls: options.tls,
    });
    const connections = this.#connections = new Connections(live, store);
    this.services = [
      controlService({
        live,
        node,
        leader,
        log,
        features: features.toBytes(),
        important: (instance) => flow.important(instance),
        events: {
          replicaUp: (replica, hello) => flow.replicaUp(replica, hello),
          replicaDown: (replica) => {
            connections.replicaDown(replica);
            flow.replicaDown(replica);
          },
          peerConnected: (replica, peer) => flow.peerConnected(replica, peer),
          peerDisconnected: (replica, peer) => flow.peerDisconnected(replica, peer),
          peerSpoke: (replica, spoke) => flow.peerSpoke(replica, spoke),
          attachmentStarted: (started) => flow.attachmentStarted(started),
          attachmentEnded: (ended) => flow.attachmentEnded(ended),
          connectResult: (result) => connections.result(result),
          disconnectResult: (result) => connections.result(result),
          pingResult: (result) => connections.result(result),
        },
      }),
      registryService({ live, node, leader, log, policy: options.policy, events: flow }),
      lightningdService({ store, chain, wallet, closing, log }),
    ];
  }

  /** Before the faces listen: what hsmd knows, and reservations that nobody holds. */
  async start(): Promise<void> {
    await this.#assigner.learnEpochs();
    await this.options.wallet.reconcile();
    this.#flow.start();
    this.#opens.start(this.options.onFatal);
    const { chain } = this.options;
    chain.onTip((height, channels) => this.#queueTip(height, channels));
    // Blocks that came while we were away.
    this.#queueTip(chain.height(), []);
    this.#closing.start();
  }

  #queueTip(height: number, channels: readonly bigint[]): void {
    this.#tip = this.#tip.then(() => this.#onTip(height, channels)).catch(this.options.onFatal);
  }

  /** Resolves when every block that was told so far is acted on. */
  blocksHandled(): Promise<void> {
    return this.#tip;
  }

  /** Takes no new opens. */
  drain(): void {
    this.#flow.drain();
  }

  async stop(): Promise<void> {
    this.#opens.stop();
    await this.#tip;
    await this.#closing.stop();
    await this.#flow.stop();
  }

  /** hsmd came back and is bound. */
  async hsmdBound(): Promise<void> {
    await this.#assigner.learnEpochs();
    this.#flow.tendAll();
  }

  bindings(): readonly string[] {
    return [...new Set([...this.#live.replicas.values()].flatMap((replica) => replica.bindings))];
  }

  async listPeers(peerId?: Uint8Array): Promise<PeerInfo[]> {
    const rows = await this.#store.listChannels(peerId);
    const openings = (await this.#store.openings(peerId)).filter((opening) => opening.channel === null);
    const counts = new Map<string, number>();
    for (const { peer_id } of [...rows, ...openings]) {
      const hex = bytesToHex(peer_id);
      counts.set(hex, (counts.get(hex) ?? 0) + 1);
    }
    const wanted = peerId === undefined ? undefined : bytesToHex(peerId);
    const ids = new Set([...this.#live.peers.keys(), ...counts.keys()]);
    return [...ids].filter((hex) => wanted === undefined || hex === wanted).map((hex) => {
      const peer = this.#live.peers.get(hex);
      const found = peer?.peerId ?? rows.find((row) => bytesToHex(row.peer_id) === hex)?.peer_id ??
        openings.find((row) => bytesToHex(row.peer_id) === hex)?.peer_id ?? new Uint8Array();
      return {
        peerId: Uint8Array.from(found),
        connected: peer !== undefined,
        channels: counts.get(hex) ?? 0,
        ...(peer === undefined ? {} : { connection: connectionOf(peer) }),
      };
    });
  }

  async listPeerChannels(peerId?: Uint8Array): Promise<ChannelInfo[]> {
    const rows = await this.#store.listChannels(peerId);
    const openings = await this.#store.openings(peerId);
    const attempts = new Map<bigint, AttemptInfo[]>();
    for (const row of await this.#store.attempts(rows.map(({ channel }) => channel))) {
      const of = attempts.get(row.channel) ?? [];
      of.push(attemptInfo(row));
      attempts.set(row.channel, of);
    }
    const saved = rows.map((row) =>
      channelInfo(row, attempts.get(row.channel) ?? [], {
        ...this.#around(row.peer_id),
        owner: this.#live.owner("channel", row.channel)?.kind,
        opening: openings.find((opening) => opening.channel === row.channel)?.opening,
      })
    );
    const unsaved = openings.filter((opening) => opening.channel === null).map((opening) =>
      openingInfo(opening, {
        ...this.#around(opening.peer_id),
        owner: this.#live.owner("opening", opening.opening)?.kind,
        opening: opening.opening,
      }, this.#opens.channelIdOf(opening.opening))
    );
    return [...saved, ...unsaved];
  }

  async connect(peerId: Uint8Array, addresses: readonly string[]) {
    return connectionOf(await this.#connections.connect(peerId, addresses));
  }

  async disconnect(peerId: Uint8Array, force: boolean): Promise<void> {
    const peer = this.#connected(peerId);
    const rows = await this.#store.channels({ peerId });
    const busy = rows.find((row) => ownerOf(row.state) !== undefined && row.error_text === null);
    if (busy !== undefined && !force) {
      throw failedPrecondition("HAS_CHANNELS", `peer has (at least one) channel in state ${busy.state}`, {
        clnCode: LIGHTNINGD_ERROR,
      });
    }
    await this.#connections.disconnect(peer);
  }

  async ping(peerId: Uint8Array, length: number, pongBytes: number): Promise<number> {
    return await this.#connections.ping(this.#connected(peerId), length, pongBytes);
  }

  openChannel(request: FirstOpenRequest) {
    return this.#opens.open(request);
  }

  bumpChannel(channelId: Uint8Array, request: OpenRequest) {
    return this.#opens.bump(channelId, request);
  }

  updateOpen(channelId: Uint8Array, psbt: string) {
    return this.#opens.update(channelId, psbt);
  }

  signOpen(channelId: Uint8Array, witnesses: ReadonlyMap<number, Uint8Array>) {
    return this.#opens.sign(channelId, witnesses);
  }

  abortOpen(channelId: Uint8Array) {
    return this.#opens.abort(channelId);
  }

  closeChannel(decision: Decision): Promise<Closed> {
    return this.#closing.close(decision);
  }

  listClosedChannels(peerId?: Uint8Array): Promise<ClosedRow[]> {
    return this.#closingStore.closed(peerId);
  }

  async giveUpOpen(channelId: Uint8Array): Promise<Uint8Array> {
    const { fundingGiveupBlocks: blocks, chain, wallet } = this.options;
    const row = await this.#store.channelById(channelId);
    if (row === undefined) {
      throw notFound("UNKNOWN_CHANNEL", "no such channel", { clnCode: FundCode.unknownChannel });
    }
    const [stuck] = await this.#store.stuck(chain.height(), blocks, row.channel);
    if (stuck?.signed_inputs !== true) {
      throw failedPrecondition(
        "NOT_STUCK",
        stuck === undefined
          ? `it confirmed, is younger than ${blocks} blocks, or is given up already`
          : "no signed funding transaction has a coin of ours",
        { clnCode: FundCode.stateInvalid },
      );
    }
    // First nobody may sign a further attempt, which would spend the same coins.
    await this.#flow.fail(row, stuckFor(blocks));
    return await wallet.doubleSpendAttempts(row.channel);
  }

  async forgetChannel(request: ForgetRequest): Promise<{ forced: boolean; fundingTxid?: Uint8Array }> {
    const { peerId, channelId, force } = request;
    const rows = (await this.#store.channels({ peerId }))
      .filter((row) => channelId === undefined || sameBytes(row.channel_id, channelId));
    const [row, another] = rows;
    if (row === undefined) {
      throw notFound("UNKNOWN_CHANNEL", "no such channel with that peer", {
        clnCode: FundCode.unknownChannel,
      });
    }
    if (another !== undefined) {
      throw failedPrecondition("SEVERAL_CHANNELS", "several channels with that peer: name one", {
        clnCode: LIGHTNINGD_ERROR,
      });
    }
    const attempts = (await this.#store.attempts([row.channel])).map(attemptInfo);
    const funding = fundingOf(attempts);
    // What the chain has, or may have yet, is not forgotten by accident.
    const mayConfirm = attempts.some((attempt) => attempt.localSigned || attempt.confirmed !== undefined);
    if (mayConfirm && !force) {
      throw failedPrecondition("MAY_CONFIRM", "its funding transaction may confirm: use force", {
        clnCode: LIGHTNINGD_ERROR,
      });
    }
    await this.#flow.forget(row);
    return { forced: mayConfirm, ...(funding === undefined ? {} : { fundingTxid: funding.txid }) };
  }

  #connected(peerId: Uint8Array): LivePeer {
    const peer = this.#live.peer(peerId);
    if (peer === undefined) {
      throw failedPrecondition("NOT_CONNECTED", "peer not connected", { clnCode: LIGHTNINGD_ERROR });
    }
    return peer;
  }

  #around(peerId: Uint8Array) {
    const peer = this.#live.peer(peerId);
    return { peerConnected: peer !== undefined, generation: peer?.generation };
  }

  /** A block came or went: owners look again, a sibling that confirmed after the lock raises the alarm. */
  async #onTip(height: number, channels: readonly bigint[]): Promise<void> {
    await this.#closing.moved();
    await this.#flow.chainMoved(height, channels);
    for (const row of await this.#store.lockedElsewhere()) {
      await this.#flow.fail(row, "another funding attempt confirmed than the one that is locked");
    }
    for (const row of await this.#store.forgetDoubleSpent(height, DEEP)) {
      this.options.log.warn(
        { peer: bytesToHex(row.peer_id), channel: bytesToHex(row.channel_id) },
        "every funding attempt of this channel was double-spent deep in the chain: it is forgotten",
      );
      await this.#flow.forgotten(row);
    }
    await this.#forgetUnsigned(height);
    await this.#giveUp(height);
  }

  /**
   * A peer that goes away between commitment_signed and tx_signatures would hold our coins for ever. BOLT 2 lets us forget
   * what we have not signed; dualopend's own time runs only while the peer is there, and starts again at each connection.
   */
  async #forgetUnsigned(tip: number): Promise<void> {
    for (const row of await this.#store.unsigned(tip, this.options.unsignedGiveupBlocks)) {
      if (!await this.#flow.forgetAsSeen(row)) continue;
      this.options.log.info(
        { peer: bytesToHex(row.peer_id), channel: bytesToHex(row.channel_id) },
        "the funding transaction of this channel was not signed in time: it is forgotten",
      );
    }
  }

  /**
   * A peer that opens and never lets the transaction confirm would hold our coins and a place for ever. Nothing of ours
   * signed: forgotten (BOLT 2). Otherwise the channel fails, and our coins are spent back to us.
   */
  async #giveUp(tip: number): Promise<void> {
    const { fundingGiveupBlocks: blocks, log, wallet } = this.options;
    for (const row of await this.#store.stuck(tip, blocks)) {
      const channel = bytesToHex(row.channel_id);
      const text = stuckFor(blocks);
      log.warn({ peer: bytesToHex(row.peer_id), channel }, `given up: ${text}`);
      if (!row.signed_inputs) {
        await this.#flow.forgetAsSeen(row);
        continue;
      }
      await this.#flow.fail(row, text);
      try {
        await wallet.doubleSpendAttempts(row.channel);
      } catch (error) {
        log.warn({ err: error, channel }, "our coins in it are not free yet; again at the next block");
      }
    }
  }
}

/** What the peer of a channel hears whose funding transaction does not confirm. */
function stuckFor(blocks: number): string {
  return `the funding transaction did not confirm in ${blocks} blocks`;
}

function connectionOf(peer: LivePeer): NonNullable<PeerInfo["connection"]> {
  return {
    generation: peer.generation,
    direction: peer.direction,
    remoteAddr: peer.remoteAddr,
    features: peer.features,
  };
}

/** The row of a channel, for those that hold only its listing. */
export type { ChannelRow };
