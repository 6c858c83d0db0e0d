/** What the rooms of a subd know of an owner: the one who holds a channel (or an opening) under an epoch. */
import type { HeldChannel, Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import type { Attachment } from "./attachment.ts";

/** What lightningd assigned, checked. */
export interface Assigned {
  /** channels.channel; 0 for an opening. */
  readonly channel: bigint;
  /** openings.opening; 0 for a channel. */
  readonly opening: bigint;
  readonly epoch: bigint;
  readonly peerId: Uint8Array;
  readonly generation: bigint;
  readonly channelId: Uint8Array;
  /** Empty when the peer is away. */
  readonly token: Uint8Array;
  /** Empty when the peer is away. */
  readonly peerFeatures: Uint8Array;
  readonly height: number;
  readonly shutdownScript: Uint8Array;
}

/** How an ownership ended. */
export type Ended =
  | { readonly type: "released"; readonly reason: Released_Reason; readonly detail: string }
  | { readonly type: "superseded"; readonly detail: string };

/** What a hello or a listing says of a held channel. */
export type Held = Omit<HeldChannel, "$typeName">;

/** An owner, as connectd's streams and lightningd's assignments meet it. */
export interface SubdOwner {
  readonly peerId: Uint8Array;
  readonly epoch: bigint;
  /** What connectd must present, and which connection it may speak for. */
  readonly token: Uint8Array;
  readonly generation: bigint;
  readonly channel: bigint;
  readonly opening: bigint;
  /** The opening that lightningd knows it by: also the one that its channel came from; 0 for none. */
  readonly knownOpening: bigint;
  readonly channelId: Uint8Array;
  /** Undefined once its rows are gone. */
  held(): Held | undefined;
  /** lightningd assigned it again with the same epoch: a new connection. */
  assignedAgain(assigned: Pick<Assigned, "token" | "generation">): void;
  /** lightningd withdraws only a part of it (an RBF's opening); false: there is no such part. */
  withdrawPart(opening: bigint): boolean;
  /** Begins: what the rows ask for, then whatever is queued. */
  start(): void;
  /** connectd's stream; what was attached before is over. */
  attach(attachment: Attachment): void;
  /** A frame of the peer. */
  frame(attachment: Attachment, inSeq: bigint, data: Uint8Array): void;
  /** The connection or its stream is gone. */
  gone(attachment: Attachment): void;
  /** Chain facts may have changed. */
  lookAgain(height: number): void;
  /** Lets go at once and says nothing more to the peer: withdrawn, replaced by a newer assignment, or draining. */
  stop(how: Ended | null): void;
}
