/**
 * Streams to subds: one Attach call per channel and connection. Connections to subds are shared by address. What a
 * stream says goes to the fence of its connection; what is to be said comes from there.
 */
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { type Channel, dial, openBidi } from "common/grpc/client.ts";
import type { ArcusError } from "common/grpc/errors.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Logger } from "common/log.ts";
import { type AttachRequestSchema, type AttachResponseSchema, Subd } from "gen/arcus/subd/v1/subd_pb.ts";
import type { ControlClock } from "./clock.ts";
import type { AttachmentId, AttachStart, Demux, DemuxAction } from "./demux/demux.ts";
import type { Limits } from "./limits.ts";

/** Connections to subds that are kept although nothing is attached through them. */
const MAX_IDLE_CHANNELS = 16;
const CHANNEL_ID_LENGTH = 32;

type Stream = BidiStream<
  MessageShape<typeof AttachResponseSchema>,
  MessageInitShape<typeof AttachRequestSchema>
>;

/** What an attachment needs of its connection. */
export interface AttachOwner {
  readonly peerId: Uint8Array;
  readonly generation: bigint;
  readonly demux: Demux;
  perform(actions: readonly DemuxAction[]): void;
}

interface Entry {
  readonly id: AttachmentId;
  readonly owner: AttachOwner;
  readonly stream: Stream;
  readonly address: string;
  readonly epoch: bigint;
  /** When it must be attached, or ended after its last word; undefined while it may live. */
  deadline: number | undefined;
  /** Whether the fence still listens to it. */
  live: boolean;
  paused: boolean;
}

interface Shared {
  readonly channel: Channel;
  users: number;
}

/** Settings of {@link Attachments}. */
export interface AttachmentsOptions {
  readonly limits: Limits;
  readonly log: Logger;
  readonly clock: ControlClock;
  readonly instance: string;
  readonly now: () => number;
  readonly tls: TlsFiles | undefined;
}

/** All streams to subds of this connectd. */
export class Attachments {
  readonly #entries = new Map<AttachmentId, Entry>();
  readonly #channels = new Map<string, Shared>();

  constructor(private readonly options: AttachmentsOptions) {}

  /** Streams that are open, those that end included. */
  get size(): number {
    return this.#entries.size;
  }

  /** Dials the subd and presents the token. */
  open(owner: AttachOwner, start: AttachStart): void {
    const { order } = start;
    const shared = this.#channel(order.address);
    if (shared === undefined) {
      // A step later, as every other failure to attach.
      queueMicrotask(() =>
        owner.perform(owner.demux.lost(start.attachment, "not an address", this.options.clock.read()))
      );
      return;
    }
    shared.users++;
    const stream: Stream = openBidi(shared.channel, Subd.method.attach);
    const entry: Entry = {
      id: start.attachment,
      owner,
      stream,
      address: order.address,
      epoch: order.epoch,
      deadline: this.options.now() + this.options.limits.attachTimeout,
      live: true,
      paused: false,
    };
    this.#entries.set(entry.id, entry);
    stream.onMessage((message) => this.#received(entry, message));
    stream.onEnd((error) => this.#ended(entry, error));
    stream.write({
      message: {
        case: "attach",
        value: {
          peerId: owner.peerId,
          generation: owner.generation,
          channelId: order.channelId,
          epoch: order.epoch,
          token: order.token,
          writtenOutSeq: start.writtenOutSeq,
          nextInSeq: start.nextInSeq,
          connectdInstance: this.options.instance,
        },
      },
    });
  }

  /** Hands a frame over. The subd's credit bounds what waits in the stream. */
  deliver(
    id: AttachmentId,
    frame: { readonly inSeq: bigint; readonly data: Uint8Array; readonly replayed: boolean },
  ): void {
    const { inSeq, data, replayed } = frame;
    this.#write(id, { message: { case: "frame", value: { inSeq, data, replayed } } });
  }

  /** Tells what is in the socket, and reads on if the subd was held back. */
  written(id: AttachmentId, outSeq: bigint, demux: Demux): void {
    this.#write(id, { message: { case: "written", value: { outSeq } } });
    const entry = this.#entries.get(id);
    if (entry?.paused === true && !this.#full(id, demux)) {
      entry.paused = false;
      entry.stream.resume();
    }
  }

  /** Says that the connection is gone or draining; the subd may still write, and then ends the stream. */
  peerGone(id: AttachmentId, reason: string): void {
    this.#write(id, { message: { case: "peerGone", value: { reason } } });
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.deadline = this.options.now() + this.options.limits.drainSubds;
  }

  /** Nothing more is said on either side: the stream ends in good order. */
  finish(id: AttachmentId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.live = false;
    entry.deadline = this.options.now() + this.options.limits.drainSubds;
    entry.stream.end();
    if (entry.paused) entry.stream.resume();
  }

  /** Gives a stream up at once. */
  cut(id: AttachmentId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    entry.live = false;
    entry.stream.cancel();
  }

  /** Looks at the deadlines. */
  tick(): void {
    const now = this.options.now();
    for (const entry of [...this.#entries.values()]) {
      if (entry.deadline === undefined || now < entry.deadline) continue;
      if (entry.live) this.#lose(entry, "no answer in time");
      else entry.stream.cancel();
    }
  }

  /** Cancels every stream and closes every connection. */
  stop(): void {
    for (const entry of [...this.#entries.values()]) this.cut(entry.id);
    this.#entries.clear();
    for (const shared of this.#channels.values()) shared.channel.close();
    this.#channels.clear();
  }

  #write(id: AttachmentId, message: MessageInitShape<typeof AttachRequestSchema>): void {
    this.#entries.get(id)?.stream.write(message);
  }

  #full(id: AttachmentId, demux: Demux): boolean {
    const { maxQueuedBytesPerChannel, maxQueuedBytesPerPeer } = this.options.limits;
    return demux.queuedBytesOf(id) > maxQueuedBytesPerChannel || demux.queuedBytes > maxQueuedBytesPerPeer;
  }

  #received(entry: Entry, response: MessageShape<typeof AttachResponseSchema>): void {
    if (!entry.live) return;
    const { id, owner } = entry;
    const { demux } = owner;
    const now = this.options.clock.read();
    const { message } = response;
    switch (message.case) {
      case "attached":
        if (message.value.epoch !== entry.epoch) return this.#lose(entry, "attached with another epoch");
        entry.deadline = undefined;
        return owner.perform(demux.attached(id));
      case "frames": {
        const { firstOutSeq, data, contiguous } = message.value;
        owner.perform(demux.outbound(id, firstOutSeq, data, contiguous, now));
        if (entry.live && this.#full(id, demux)) {
          entry.paused = true;
          entry.stream.pause();
        }
        return;
      }
      case "taken":
        return owner.perform(demux.taken(id, message.value.inSeq, now));
      case "durable":
        return owner.perform(demux.durable(id, message.value.inSeq, now));
      case "rekey":
        if (message.value.channelId.length !== CHANNEL_ID_LENGTH) {
          return this.#lose(entry, "a channel id has 32 bytes");
        }
        return owner.perform(demux.rekey(id, message.value.channelId, now));
      case "finished":
        return owner.perform(demux.finished(id, message.value.reason, now));
      case "fail":
        return owner.perform(demux.fail(id, message.value, now));
      case undefined:
        return this.#lose(entry, "a message that this build does not know");
    }
  }

  #lose(entry: Entry, detail: string): void {
    if (!entry.live) return;
    entry.live = false;
    entry.stream.cancel();
    entry.owner.perform(entry.owner.demux.lost(entry.id, detail, this.options.clock.read()));
  }

  #ended(entry: Entry, error: ArcusError | undefined): void {
    this.#entries.delete(entry.id);
    // Only a connection that is gone may be closed: GOAWAY could kill a subd that lives.
    this.#release(entry.address, error?.reason === "UNAVAILABLE");
    if (!entry.live) return;
    entry.live = false;
    const detail = error === undefined ? "the subd ended the stream" : `${error.reason}: ${error.message}`;
    this.options.log.info({ peer: bytesToHex(entry.owner.peerId), detail }, "an attachment ended");
    entry.owner.perform(entry.owner.demux.lost(entry.id, detail, this.options.clock.read()));
  }

  /** The connection to an address; undefined for what is none. */
  #channel(address: string): Shared | undefined {
    const known = this.#channels.get(address);
    if (known !== undefined) return known;
    const { tls } = this.options;
    try {
      const shared: Shared = { channel: dial(address, tls === undefined ? {} : { tls }), users: 0 };
      this.#channels.set(address, shared);
      return shared;
    } catch (error) {
      this.options.log.error({ err: error, address }, "a subd's address that cannot be dialled");
      return undefined;
    }
  }

  /** One user less. A connection that just broke, or one too many, is not kept: its subd may never come back. */
  #release(address: string, broken: boolean): void {
    const shared = this.#channels.get(address);
    if (shared === undefined) return;
    shared.users--;
    if (shared.users > 0) return;
    const idle = [...this.#channels.values()].filter((other) => other.users === 0).length;
    if (!broken && idle <= MAX_IDLE_CHANNELS) return;
    this.#channels.delete(address);
    shared.channel.close();
  }
}
