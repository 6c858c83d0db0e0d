/** What lightningd holds in memory: streams, live peers, owners. All of it can be told again; nothing here is a decision. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { ConnectResponseSchema, PeerSpoke } from "gen/arcus/connectd/v1/connectd_pb.ts";
import type { RegisterResponseSchema } from "gen/arcus/subd/v1/subd_pb.ts";
import type { SubdKind } from "./store.ts";

/** What goes to a connectd. */
export type ToConnectd = MessageInitShape<typeof ConnectResponseSchema>;
/** What goes to a subd. */
export type ToSubd = MessageInitShape<typeof RegisterResponseSchema>;

/** A connectd whose Control stream is up. */
export interface Replica {
  readonly instance: string;
  readonly grpcAddress: string;
  readonly bindings: readonly string[];
  send(message: ToConnectd): void;
  /** Ends the stream; connectd begins anew. */
  end(error?: unknown): void;
}

/** A subd whose Registry stream is up. */
export interface Subd {
  readonly instance: string;
  readonly kind: SubdKind;
  readonly address: string;
  /** 0: no limit of its own. */
  readonly capacity: number;
  send(message: ToSubd): void;
  end(error?: unknown): void;
}

/** A live connection with a peer. */
export interface LivePeer {
  readonly peerId: Uint8Array;
  readonly hex: string;
  readonly generation: bigint;
  /** connectd's own number of it. */
  readonly connection: bigint;
  readonly instance: string;
  readonly direction: "in" | "out";
  readonly remoteAddr: string;
  readonly features: Uint8Array;
  /**
   * Channels, each with the kind of its owner, that were attached on this connection (see {@link begunKey}): none of
   * them gets a second channel_reestablish on it.
   */
  readonly begun: Set<string>;
  /** Subds that connectd could not attach: not the first choice for this peer. */
  readonly refused: Set<string>;
  /** Channel ids that we aborted by a final message: what still comes for them is stale. */
  readonly aborted: Set<string>;
  /** Spokes that were told to wait. */
  readonly waiting: Map<bigint, PeerSpoke>;
  /** It was told to hang up; "bounce": and shall be connected again at once. */
  closing: false | "closing" | "bounce";
}

/** What `begun` holds. */
export function begunKey(channel: bigint, kind: SubdKind): string {
  return `${channel}/${kind}`;
}

/** Who has a channel or an opening. */
export interface Owner {
  readonly type: "channel" | "opening";
  /** `channels.channel` or `openings.opening`. */
  readonly id: bigint;
  readonly kind: SubdKind;
  readonly instance: string;
  readonly epoch: bigint;
  readonly peer: string;
  /** The connection that it was assigned for. */
  readonly generation: bigint;
  /** By which connectd was told to attach. */
  readonly channelId: Uint8Array;
  readonly token: Uint8Array;
  /** Whether connectd said that the attachment started. */
  attached: boolean;
  /** It let go, or connectd said that its attachment ended in good order: a successor follows. */
  leaving: boolean;
}

/** The key of an owner. */
export function ownerKey(type: Owner["type"], id: bigint): string {
  return `${type}:${id}`;
}

/** All of it. */
export class Live {
  readonly replicas = new Map<string, Replica>();
  readonly subds = new Map<string, Subd>();
  readonly peers = new Map<string, LivePeer>();
  readonly owners = new Map<string, Owner>();

  peer(peerId: Uint8Array): LivePeer | undefined {
    return this.peers.get(bytesToHex(peerId));
  }

  /** The live connection under exactly this generation; older ones are nobody's any more. */
  current(peerId: Uint8Array, generation: bigint): LivePeer | undefined {
    const peer = this.peer(peerId);
    return peer?.generation === generation ? peer : undefined;
  }

  owner(type: Owner["type"], id: bigint): Owner | undefined {
    return this.owners.get(ownerKey(type, id));
  }

  setOwner(owner: Owner): void {
    this.owners.set(ownerKey(owner.type, owner.id), owner);
  }

  /** Forgets an owner, if it is still this one. */
  dropOwner(owner: Owner): void {
    const key = ownerKey(owner.type, owner.id);
    if (this.owners.get(key) === owner) this.owners.delete(key);
  }

  /** Says something to the connectd that has the peer. False when it is away: its next hello lists what is. */
  toPeer(peer: LivePeer, message: ToConnectd): boolean {
    const replica = this.replicas.get(peer.instance);
    replica?.send(message);
    return replica !== undefined;
  }

  /** The least loaded live subd of a kind; one of `avoid` only if there is no other. */
  pick(kind: SubdKind, avoid: ReadonlySet<string> = new Set()): Subd | undefined {
    const load = new Map<string, number>();
    for (const { instance } of this.owners.values()) load.set(instance, (load.get(instance) ?? 0) + 1);
    const candidates = [...this.subds.values()]
      .filter((subd) => subd.kind === kind)
      .filter((subd) => subd.capacity === 0 || (load.get(subd.instance) ?? 0) < subd.capacity)
      .sort((a, b) =>
        Number(avoid.has(a.instance)) - Number(avoid.has(b.instance)) ||
        (load.get(a.instance) ?? 0) - (load.get(b.instance) ?? 0)
      );
    return candidates[0];
  }
}
