/** What people ask of connectd: connect, disconnect, ping. Each request has a number, and ends by answer, loss or time. */
import { failedPrecondition, notFound, unavailable } from "common/grpc/errors.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import type { ConnectResult, DisconnectResult, PingResult } from "gen/arcus/connectd/v1/connectd_pb.ts";
import type { Live, LivePeer, Replica } from "./live.ts";
import { type PeerStore } from "./store.ts";

/** CLN's codes of `connect`. */
export const ConnectCode = {
  noKnownAddress: 400,
  allAddressesFailed: 401,
  disconnectedDuring: 402,
} as const;
/** CLN's code of what has none of its own. */
export const LIGHTNINGD_ERROR = -1;

/** connectd tries every address with its own timeout; this is the end of all patience. */
const CONNECT_MS = 120_000;
const DISCONNECT_MS = 30_000;
const PING_MS = 60_000;
/** Longest padding and longest pong that a ping may ask for, so that both fit a message. */
export const MAX_PING_BYTES = 65_531;

interface Pending {
  readonly instance: string;
  readonly resolve: (result: ConnectResult | DisconnectResult | PingResult) => void;
  readonly reject: (error: ArcusError) => void;
}

/** The requests under way. */
export class Connections {
  readonly #pending = new Map<bigint, Pending>();
  #nextId = 0n;

  constructor(private readonly live: Live, private readonly store: PeerStore) {}

  /** An answer of connectd's; unknown numbers are orders that nobody waits for. */
  result(result: ConnectResult | DisconnectResult | PingResult): void {
    this.#pending.get(result.requestId)?.resolve(result);
  }

  /** What it was asked will not be answered. */
  replicaDown(replica: Replica): void {
    for (const { instance, reject } of this.#pending.values()) {
      if (instance === replica.instance) reject(unavailable("CONNECTD_LOST", "connectd went away"));
    }
  }

  /** See `Peers.connect`. */
  async connect(peerId: Uint8Array, addresses: readonly string[]): Promise<LivePeer> {
    const there = this.live.peer(peerId);
    if (there !== undefined && there.closing === false) return there;
    const known = addresses.length > 0 ? [...addresses] : await this.store.addresses(peerId);
    if (known.length === 0) {
      throw notFound("NO_ADDRESS", "no address is known for this peer", {
        clnCode: ConnectCode.noKnownAddress,
      });
    }
    const result = await this.#ask<ConnectResult>(
      this.#pick(),
      CONNECT_MS,
      (replica, requestId) =>
        replica.send({ message: { case: "connect", value: { requestId, peerId, addresses: known } } }),
    );
    if (result.error !== "") {
      throw new ArcusError({
        code: Code.UNAVAILABLE,
        reason: "CONNECT_FAILED",
        message: result.error,
        clnCode: result.clnCode === 0 ? ConnectCode.allAddressesFailed : result.clnCode,
      });
    }
    const peer = this.live.peer(peerId);
    if (peer === undefined) {
      throw unavailable("DISCONNECTED", "the peer went away", { clnCode: ConnectCode.disconnectedDuring });
    }
    return peer;
  }

  /** See `Peers.disconnect`. */
  async disconnect(peer: LivePeer): Promise<void> {
    const { peerId, generation } = peer;
    const result = await this.#ask<DisconnectResult>(
      this.#holder(peer),
      DISCONNECT_MS,
      (replica, requestId) =>
        replica.send({
          message: { case: "disconnect", value: { requestId, peerId, generation, reason: "disconnect" } },
        }),
    );
    if (result.error !== "") {
      throw failedPrecondition("NOT_CONNECTED", result.error, { clnCode: LIGHTNINGD_ERROR });
    }
  }

  /** See `Peers.ping`. */
  async ping(peer: LivePeer, length: number, numPongBytes: number): Promise<number> {
    const { peerId, generation } = peer;
    const result = await this.#ask<PingResult>(
      this.#holder(peer),
      PING_MS,
      (replica, requestId) =>
        replica.send({
          message: { case: "ping", value: { requestId, peerId, generation, length, numPongBytes } },
        }),
    );
    if (result.error !== "") throw unavailable("PING_FAILED", result.error, { clnCode: LIGHTNINGD_ERROR });
    return result.totalLength;
  }

  #pick(): Replica {
    const load = new Map<string, number>();
    for (const { instance } of this.live.peers.values()) load.set(instance, (load.get(instance) ?? 0) + 1);
    const [replica] = [...this.live.replicas.values()]
      .sort((a, b) => (load.get(a.instance) ?? 0) - (load.get(b.instance) ?? 0));
    if (replica === undefined) throw unavailable("NO_CONNECTD", "connectd is not there");
    return replica;
  }

  #holder(peer: LivePeer): Replica {
    const replica = this.live.replicas.get(peer.instance);
    if (replica === undefined) throw unavailable("NO_CONNECTD", "connectd is not there");
    return replica;
  }

  #ask<R extends ConnectResult | DisconnectResult | PingResult>(
    replica: Replica,
    ms: number,
    send: (replica: Replica, requestId: bigint) => void,
  ): Promise<R> {
    const requestId = ++this.#nextId;
    return new Promise<R>((resolve, reject) => {
      const timer = setTimeout(
        () => end(() => reject(unavailable("TIMEOUT", "connectd did not answer in time"))),
        ms,
      );
      const end = (settle: () => void) => {
        clearTimeout(timer);
        this.#pending.delete(requestId);
        settle();
      };
      this.#pending.set(requestId, {
        instance: replica.instance,
        // Numbers are ours, and each kind of request has its own kind of answer.
        resolve: (result) => end(() => resolve(result as R)),
        reject: (error) => end(() => reject(error)),
      });
      send(replica, requestId);
    });
  }
}
