/** Everything that one connectd holds: its connections by peer, what lightningd orders, and what lightningd is told. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { Features } from "bolt/wire/features.ts";
import { failedPrecondition } from "common/grpc/errors.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { buildInfo } from "common/lifecycle.ts";
import type { Logger } from "common/log.ts";
import type { Metrics } from "common/metrics.ts";
import {
  AttachmentEnded_Reason,
  type ConnectdWelcome,
  type ConnectPeer,
  type DisconnectPeer,
  type PeerAccepted,
  type PeerConnectSubd,
  type PeerFinalMsg,
  type PingPeer,
  type SetImportant,
} from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Direction } from "gen/arcus/types/v1/types_pb.ts";
import { addressGroup } from "./address.ts";
import { Attachments } from "./attach.ts";
import type { ControlClock } from "./clock.ts";
import {
  type AttachmentEnd,
  Connection,
  type ConnectionEvents,
  type Identity,
  type Surroundings,
} from "./connection.ts";
import type { FromLightningd, NodeIdentity, ToLightningd } from "./control.ts";
import type { EndReason, Spoke } from "./demux/demux.ts";
import { Dialler, type DialOutcome, DISCONNECTED_DURING_HANDSHAKE } from "./dial.ts";
import { newConnectionWins } from "./duplicate.ts";
import type { Faults } from "./faults.ts";
import type { Limits } from "./limits.ts";
import { newTraffic, type Shown, showOn } from "./traffic.ts";

/** Version of the contracts that this build speaks. */
export const CONTRACT_VERSION = 1;
const NODE_ID_LENGTH = 33;
const CHANNEL_ID_LENGTH = 32;

/** Settings of {@link Hub}. */
export interface HubOptions {
  readonly limits: Limits;
  readonly log: Logger;
  readonly clock: ControlClock;
  readonly instance: string;
  readonly faults: Faults | undefined;
  readonly fastReconnect: boolean;
  readonly tls: TlsFiles | undefined;
  readonly now: () => number;
  readonly ecdh: (point: Uint8Array) => Promise<Uint8Array>;
  readonly metrics: Metrics | undefined;
  readonly send: (message: ToLightningd) => void;
}

/** The live connections and what moves them. */
export class Hub implements ConnectionEvents {
  readonly attachments: Attachments;
  readonly dialler: Dialler;
  /** Every connection, those that still shake hands included. */
  readonly #all = new Set<Connection>();
  /** Connections whose init is done, by node id. */
  readonly #peers = new Map<string, Connection>();
  readonly #perIp = new Map<string, number>();
  /** Outgoing connections that somebody waits for. */
  readonly #dialling = new Map<Connection, (result: Connection | string) => void>();
  readonly #accepts = new Map<Connection, ((generation: bigint) => void)[]>();
  readonly #disconnects = new Map<Connection, bigint[]>();
  readonly #around: Surroundings;
  #identity: Identity | undefined;
  #halfOpen = 0;
  #connectionNumber = 0n;
  #spokeId = 0n;
  #attachment = 0;
  #heldBytes = 0;
  readonly #traffic = newTraffic();
  readonly #show: (now: Shown) => void;
  #stopping = false;

  constructor(private readonly options: HubOptions) {
    const { limits, log, clock, now } = options;
    this.attachments = new Attachments({ ...options });
    this.#show = options.metrics === undefined ? () => {} : showOn(options.metrics, this.#traffic);
    this.#around = {
      limits,
      log,
      clock,
      now,
      attachments: this.attachments,
      faults: options.faults,
      events: this,
      totalHeld: () => this.#heldBytes,
      traffic: this.#traffic,
      ecdh: options.ecdh,
      numbers: {
        nextSpokeId: () => ++this.#spokeId,
        nextAttachment: () => ++this.#attachment,
      },
    };
    this.dialler = new Dialler({
      limits,
      log,
      fast: options.fastReconnect,
      now,
      live: (peer) => {
        const connection = this.#peers.get(peer);
        return connection?.ending === true ? undefined : connection;
      },
      handshake: (conn, peerId) => this.#dialled(conn, peerId),
    });
  }

  /** Peers whose init is done. */
  get peerCount(): number {
    return this.#peers.size;
  }

  /** Live attachments of all peers. */
  get attachmentCount(): number {
    let count = 0;
    for (const connection of this.#peers.values()) count += connection.demux.attachmentCount;
    return count;
  }

  /** Every live peer, or one of them. */
  listPeers(peerId?: Uint8Array) {
    const wanted = peerId === undefined ? undefined : bytesToHex(peerId);
    return [...this.#peers]
      .filter(([peer]) => wanted === undefined || peer === wanted)
      .map(([, connection]) => livePeer(connection));
  }

  /** The first message of a Control stream: all that we hold. */
  hello(identity: NodeIdentity | undefined, bindings: string[], grpcAddress: string): ToLightningd {
    const unanswered = [...this.#peers.values()].flatMap((connection) =>
      connection.demux.restateSpokes(this.options.clock.read()).map((spoke) =>
        spokeMessage(connection, spoke)
      )
    );
    return {
      message: {
        case: "hello",
        value: {
          hello: {
            daemon: "connectd",
            build: buildInfo().version,
            contractVersion: CONTRACT_VERSION,
            instance: this.options.instance,
            nodeId: identity?.nodeId ?? new Uint8Array(),
            chainHash: identity?.chainHash ?? new Uint8Array(),
            databaseId: identity?.databaseId ?? new Uint8Array(),
            leaderEpoch: 0n,
          },
          bindings,
          grpcAddress,
          peers: this.listPeers(),
          unanswered,
        },
      },
    };
  }

  /** lightningd is there: who we are, what we offer, whom to keep connected. */
  welcomed(welcome: ConnectdWelcome, node: NodeIdentity): void {
    const features = Features.parse(welcome.features);
    if (!features.ok) throw new Error(features.error.reason);
    if (!ecc().isPoint(node.nodeId)) throw new Error("the node id is not a public key");
    this.#identity = {
      nodeId: node.nodeId,
      init: { features: features.value, chains: [node.chainHash] },
    };
    this.dialler.setAllImportant(welcome.important);
  }

  /** A peer dialled us. */
  take(conn: Deno.TcpConn): void {
    const identity = this.#identity;
    const ip = addressGroup(conn.remoteAddr.hostname);
    if (identity === undefined || this.#stopping || !this.#mayAccept(ip)) return conn.close();
    this.#perIp.set(ip, (this.#perIp.get(ip) ?? 0) + 1);
    this.#halfOpen++;
    const connection = Connection.accepted(conn, this.#around, identity, ++this.#connectionNumber);
    this.#all.add(connection);
    connection.over.then(() => {
      const left = (this.#perIp.get(ip) ?? 1) - 1;
      if (left === 0) this.#perIp.delete(ip);
      else this.#perIp.set(ip, left);
    });
  }

  /** One command of lightningd's. Throws for one that this build does not know. */
  command(message: FromLightningd): void {
    switch (message.case) {
      case "peerAccepted":
        return this.#accepted(message.value);
      case "peerConnectSubd":
        return this.#connectSubd(message.value);
      case "peerFinalMsg":
        return this.#finalMessages(message.value);
      case "spokeWait": {
        const { spokeId } = message.value;
        this.#withSpoke(spokeId)?.demux.spokeWait(spokeId, this.options.clock.read());
        return;
      }
      case "spokeDrop": {
        const { spokeId } = message.value;
        const connection = this.#withSpoke(spokeId);
        connection?.perform(connection.demux.spokeDrop(spokeId, this.options.clock.read()));
        return;
      }
      case "connect":
        return this.#connect(message.value);
      case "setImportant":
        return this.#setImportant(message.value);
      case "disconnect":
        return this.#disconnect(message.value);
      case "ping":
        return this.#ping(message.value);
      case "closePeer":
        this.#find(message.value.peerId, message.value.generation)?.abort(
          "another connection of this peer is newer",
        );
        return;
      case "welcome":
        throw new Error("a second welcome on one stream");
      case undefined:
        throw new Error("a command that this build does not know");
    }
  }

  /** Looks at every deadline. */
  tick(): void {
    this.#heldBytes = 0;
    for (const connection of this.#all) this.#heldBytes += connection.demux.heldBytes;
    for (const connection of [...this.#all]) connection.tick();
    this.attachments.tick();
    this.#show({
      peers: this.#peers.size,
      attachments: this.attachments.size,
      heldBytes: this.#heldBytes,
    });
  }

  /** Ends everything: no more dialling, every peer drained, every stream closed. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.dialler.stop();
    const all = [...this.#all];
    for (const connection of all) {
      if (connection.connectedAt === undefined) connection.abort("stopping");
      else connection.hangUp("stopping");
    }
    await Promise.all(all.map((connection) => connection.over));
    this.attachments.stop();
  }

  // ConnectionEvents

  connected(connection: Connection): void {
    if (connection.direction === "them") this.#halfOpen--;
    const identity = this.#identity;
    const peer = bytesToHex(connection.peerId);
    const old = this.#peers.get(peer);
    if (identity !== undefined && old !== undefined && !old.ending) {
      const wins = newConnectionWins({
        localId: identity.nodeId,
        peerId: connection.peerId,
        oldDialled: old.direction,
        newDialled: connection.direction,
        apart: (connection.connectedAt ?? 0) - (old.connectedAt ?? 0),
      });
      if (!wins) {
        this.#settleDial(connection, old);
        return connection.abort("both sides dialled; the other connection is kept");
      }
    }
    this.#peers.set(peer, connection);
    const peerMessage = connectedMessage(connection);
    if (old === undefined) {
      this.options.send({ message: { case: "peerConnected", value: peerMessage } });
    } else {
      old.abort("the peer connected again");
      const replacedGeneration = old.generation;
      this.options.send({
        message: { case: "peerReconnected", value: { peer: peerMessage, replacedGeneration } },
      });
    }
    this.options.log.info(
      { peer, connection: connection.number, remote: connection.remoteAddr, dialled: connection.direction },
      "peer connected",
    );
    this.dialler.peerUp(peer);
    this.#settleDial(connection, connection);
  }

  spoke(connection: Connection, spoke: Spoke): void {
    this.options.send({ message: { case: "peerSpoke", value: spokeMessage(connection, spoke) } });
  }

  started(connection: Connection, channelId: Uint8Array, epoch: bigint): void {
    const { peerId, generation } = connection;
    this.options.send({
      message: { case: "attachmentStarted", value: { peerId, generation, channelId, epoch } },
    });
  }

  ended(connection: Connection, end: AttachmentEnd): void {
    this.#sendEnded(connection.peerId, connection.generation, end);
  }

  ponged(_connection: Connection, requestId: bigint, totalLength: number): void {
    this.options.send({ message: { case: "pingResult", value: { requestId, error: "", totalLength } } });
  }

  pingFailed(_connection: Connection, requestId: bigint, error: string): void {
    this.options.send({ message: { case: "pingResult", value: { requestId, error, totalLength: 0 } } });
  }

  closed(connection: Connection, reason: string, drained: boolean): void {
    this.#all.delete(connection);
    const { connectedAt, peerId, generation } = connection;
    if (connectedAt === undefined && connection.direction === "them") this.#halfOpen--;
    this.#settleDial(connection, reason);
    for (const wake of this.#accepts.get(connection) ?? []) wake(0n);
    this.#accepts.delete(connection);
    const peer = bytesToHex(peerId);
    if (this.#peers.get(peer) === connection) {
      this.#peers.delete(peer);
      this.options.log.info({ peer, connection: connection.number, reason, drained }, "peer disconnected");
      this.options.send({
        message: {
          case: "peerDisconnected",
          value: { peerId, connection: connection.number, generation, reason, drained },
        },
      });
      this.dialler.peerDown(peer, this.options.now() - (connectedAt ?? 0));
    } else if (connectedAt === undefined) {
      this.options.log.debug({ remote: connection.remoteAddr, reason }, "a connection ended before init");
    }
    for (const requestId of this.#disconnects.get(connection) ?? []) {
      this.options.send({ message: { case: "disconnectResult", value: { requestId, error: "" } } });
    }
    this.#disconnects.delete(connection);
  }

  #mayAccept(ip: string): boolean {
    const { maxConnections, maxConnectionsPerIp, maxHalfOpen } = this.options.limits;
    return this.#all.size < maxConnections && this.#halfOpen < maxHalfOpen &&
      (this.#perIp.get(ip) ?? 0) < maxConnectionsPerIp;
  }

  #dialled(conn: Deno.TcpConn, peerId: Uint8Array): Promise<Connection | string> {
    const identity = this.#identity;
    if (identity === undefined || this.#stopping) {
      conn.close();
      return Promise.resolve("stopping");
    }
    const connection = Connection.dialled(conn, this.#around, identity, ++this.#connectionNumber, peerId);
    if (connection === undefined) {
      conn.close();
      return Promise.resolve("the node id is not a public key");
    }
    this.#all.add(connection);
    return new Promise((resolve) => this.#dialling.set(connection, resolve));
  }

  #settleDial(connection: Connection, result: Connection | string): void {
    this.#dialling.get(connection)?.(result);
    this.#dialling.delete(connection);
  }

  /** The live connection under exactly this generation. */
  #find(peerId: Uint8Array, generation: bigint): Connection | undefined {
    const connection = this.#peers.get(bytesToHex(peerId));
    return connection !== undefined && generation !== 0n && connection.generation === generation
      ? connection
      : undefined;
  }

  #withSpoke(spokeId: bigint): Connection | undefined {
    return [...this.#peers.values()].find((connection) => connection.demux.hasSpoke(spokeId));
  }

  #accepted({ peerId, connection: number, generation }: PeerAccepted): void {
    const connection = this.#peers.get(bytesToHex(peerId));
    if (connection === undefined || connection.number !== number || generation === 0n) return;
    if (!connection.accept(generation)) {
      this.options.log.warn(
        { peer: bytesToHex(peerId), generation, accepted: connection.generation },
        "another generation of a connection that has one is ignored",
      );
      return;
    }
    for (const wake of this.#accepts.get(connection) ?? []) wake(generation);
    this.#accepts.delete(connection);
  }

  #connectSubd(order: PeerConnectSubd): void {
    const { peerId, generation, channelId, epoch } = order;
    const connection = this.#find(peerId, generation);
    if (connection === undefined || channelId.length !== CHANNEL_ID_LENGTH) {
      const detail = connection === undefined ? "no such generation" : "a channel id has 32 bytes";
      return this.#sendEnded(peerId, generation, {
        channelId,
        epoch,
        reason: "refused",
        detail,
        framesHeld: 0,
        wantHangUp: false,
      });
    }
    connection.perform(connection.demux.attach(order));
  }

  #finalMessages(order: PeerFinalMsg): void {
    const connection = this.#find(order.peerId, order.generation);
    if (connection === undefined || order.channelId.length !== CHANNEL_ID_LENGTH) return;
    // A spoke that was settled otherwise has a subd by now: neither its messages nor a hang-up are meant any more.
    if (order.spokeId !== 0n && !connection.demux.hasSpoke(order.spokeId)) return;
    connection.perform(connection.demux.finalMessages(order.spokeId, order.channelId, order.messages));
    if (order.hangUp) connection.hangUp("lightningd has a last word for this peer");
  }

  #connect({ requestId, peerId, addresses }: ConnectPeer): void {
    if (peerId.length !== NODE_ID_LENGTH) {
      const outcome = {
        type: "failed",
        code: DISCONNECTED_DURING_HANDSHAKE,
        error: "not a node id",
      } as const;
      return this.#connectResult(requestId, outcome, 0n);
    }
    this.dialler.connect(peerId, addresses).then(async (outcome) => {
      if (outcome.type === "failed") return this.#connectResult(requestId, outcome, 0n);
      const generation = await this.#generationOf(outcome.connection);
      if (generation !== 0n) return this.#connectResult(requestId, outcome, generation);
      const error = "the connection ended before it was accepted";
      this.#connectResult(requestId, { type: "failed", code: DISCONNECTED_DURING_HANDSHAKE, error }, 0n);
    });
  }

  /** lightningd's generation of a connection, waited for; 0 if it ends first. */
  #generationOf(connection: Connection): Promise<bigint> {
    if (connection.generation !== 0n) return Promise.resolve(connection.generation);
    if (!this.#all.has(connection)) return Promise.resolve(0n);
    return new Promise((resolve) => {
      const waiting = this.#accepts.get(connection) ?? [];
      waiting.push(resolve);
      this.#accepts.set(connection, waiting);
    });
  }

  #connectResult(requestId: bigint, outcome: DialOutcome, generation: bigint): void {
    const value = outcome.type === "connected"
      ? { requestId, error: "", clnCode: 0, peer: connectedMessage(outcome.connection), generation }
      : { requestId, error: outcome.error, clnCode: outcome.code, generation };
    this.options.send({ message: { case: "connectResult", value } });
  }

  #setImportant({ peerId, addresses, important }: SetImportant): void {
    if (peerId.length === NODE_ID_LENGTH) this.dialler.setImportant(peerId, addresses, important);
  }

  #disconnect({ requestId, peerId, generation, reason }: DisconnectPeer): void {
    const connection = this.#find(peerId, generation);
    if (connection === undefined) {
      const value = { requestId, error: "not connected under that generation" };
      return this.options.send({ message: { case: "disconnectResult", value } });
    }
    const waiting = this.#disconnects.get(connection) ?? [];
    waiting.push(requestId);
    this.#disconnects.set(connection, waiting);
    connection.hangUp(reason);
  }

  #ping({ requestId, peerId, generation, length, numPongBytes }: PingPeer): void {
    const connection = this.#find(peerId, generation);
    if (connection === undefined) {
      const value = { requestId, error: "not connected under that generation", totalLength: 0 };
      return this.options.send({ message: { case: "pingResult", value } });
    }
    connection.ping(requestId, length, numPongBytes);
  }

  #sendEnded(peerId: Uint8Array, generation: bigint, end: AttachmentEnd): void {
    const { channelId, epoch, detail, framesHeld, wantHangUp } = end;
    const reason = endReason(end.reason);
    const value = { peerId, generation, channelId, epoch, reason, detail, framesHeld, wantHangUp };
    this.options.send({ message: { case: "attachmentEnded", value } });
  }
}

/** The fault rules, or a refusal outside of developer mode. */
export function requireFaults(faults: Faults | undefined): Faults {
  if (faults === undefined) {
    throw failedPrecondition("NOT_DEVELOPER", "fault injection needs developer mode (option `developer`)");
  }
  return faults;
}

function connectedMessage(connection: Connection) {
  return {
    peerId: connection.peerId,
    connection: connection.number,
    direction: connection.direction === "us" ? Direction.OUTGOING : Direction.INCOMING,
    remoteAddr: connection.remoteAddr,
    features: connection.features,
  };
}

function livePeer(connection: Connection) {
  return {
    peer: connectedMessage(connection),
    generation: connection.generation,
    attachments: connection.demux.attachments(),
  };
}

function spokeMessage(connection: Connection, spoke: Spoke) {
  return { peerId: connection.peerId, generation: connection.generation, ...spoke };
}

function endReason(reason: EndReason): AttachmentEnded_Reason {
  switch (reason) {
    case "finished":
      return AttachmentEnded_Reason.FINISHED;
    case "subd_lost":
      return AttachmentEnded_Reason.SUBD_LOST;
    case "superseded":
      return AttachmentEnded_Reason.SUPERSEDED;
    case "refused":
      return AttachmentEnded_Reason.REFUSED;
    case "peer_gone":
      return AttachmentEnded_Reason.PEER_GONE;
  }
}
