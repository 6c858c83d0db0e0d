/**
 * What owners of a saved channel have in common: a serial queue, the place on the connection, the attachment, and the ways
 * to let go. The machine, and what it asks for, are the daemon's own. Whatever goes wrong ends the ownership: memory never
 * goes on where it differs from the rows.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { Features, isNegotiated } from "bolt/wire/features.ts";
import { decodeMessage, type Message } from "bolt/wire/messages.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import type { Attachment } from "./attachment.ts";
import { type Fence, type Place, savePlace, SupersededError } from "./fence.ts";
import type { Assigned, Ended, Held, SubdOwner } from "./owner.ts";

/** What the peer is told when the cause is ours alone. */
const OUR_FAULT = "internal error";

/** A frame of the peer that waits. */
export interface FrameItem {
  readonly type: "frame";
  readonly attachment: Attachment;
  readonly inSeq: bigint;
  readonly data: Uint8Array;
}

/** What waits in front of every owner. */
export type Arrived =
  | FrameItem
  | { readonly type: "attach"; readonly attachment: Attachment }
  | { readonly type: "gone"; readonly attachment: Attachment };

/** What a machine is told of a new connection. */
export type Connected =
  | { readonly type: "connected" }
  /**
   * A connection on which the channel was running already under its last daemon, whether it was opened there or
   * reestablished: one channel_reestablish a connection. `lost`: last words of that daemon did not reach the socket.
   */
  | { readonly type: "taken_over"; readonly lost: boolean };

/** What a frame is to a machine; null for what is ignored (BOLT 1: unknown messages of odd type). */
export type FrameInput =
  | { readonly type: "message"; readonly message: Message }
  /** No Lightning message, or one of even type that nobody knows. */
  | { readonly type: "garbage"; readonly reason: string };

/** A decoded frame as an input. */
export function frameInput(decoded: ReturnType<typeof decodeMessage>): FrameInput | null {
  if (!decoded.ok) return { type: "garbage", reason: decoded.error.reason };
  const message = decoded.value;
  if (message.type !== "unknown") return { type: "message", message };
  return message.even ? { type: "garbage", reason: `unknown message ${message.id}` } : null;
}

/** Which forms of `shutdown` scripts both sides speak: the peer's init says so, or the one at the open while it is away. */
export function shutdownForms(
  ours: Uint8Array,
  theirs: Uint8Array,
): { readonly anysegwit: boolean; readonly simpleClose: boolean } {
  const [local, remote] = [Features.parse(ours), Features.parse(theirs)];
  const both = (name: Parameters<typeof isNegotiated>[2]) =>
    local.ok && remote.ok && isNegotiated(local.value, remote.value, name);
  return { anysegwit: both("option_shutdown_anysegwit"), simpleClose: both("option_simple_close") };
}

/** What the base needs besides what was assigned. */
export interface ChannelOwnerBase {
  readonly sql: Sql;
  readonly log: Logger;
  readonly channelId: Uint8Array;
  readonly fence: Fence;
  readonly place: Place;
}

/** An owner of a saved channel. `Own`: what else waits in its queue. */
export abstract class ChannelOwner<Own extends { readonly type: string } = never> implements SubdOwner {
  readonly peerId: Uint8Array;
  readonly epoch: bigint;
  token: Uint8Array;
  generation: bigint;
  readonly channel: bigint;
  readonly channelId: Uint8Array;
  readonly opening = 0n;
  readonly knownOpening = 0n;

  protected readonly log: Logger;
  /** Aborted when it lets go. */
  protected readonly stopped = new AbortController();
  protected readonly queue: (Arrived | Own)[] = [];
  protected fence: Fence;
  protected place: Place;
  protected attachment: Attachment | null = null;
  readonly #sql: Sql;
  #running = false;
  #over = false;

  constructor(assigned: Assigned, base: ChannelOwnerBase) {
    this.peerId = assigned.peerId;
    this.epoch = assigned.epoch;
    this.token = assigned.token;
    this.generation = assigned.generation;
    this.channel = assigned.channel;
    this.channelId = base.channelId;
    this.fence = base.fence;
    this.place = base.place;
    this.#sql = base.sql;
    this.log = base.log.child({ peer: bytesToHex(this.peerId), channel: bytesToHex(this.channelId) });
  }

  /** Handles the head of the queue, or more of it at once. */
  protected abstract handleNext(): Promise<void>;
  /** connectd is attached, and the row says so. */
  protected abstract onConnected(how: Connected): Promise<void>;
  /** The connection is gone. */
  protected abstract onDisconnected(): Promise<void>;
  /** Last of all: whoever holds owners forgets this one. */
  protected abstract onEnded(how: Ended): void;
  abstract lookAgain(height: number): void;

  get version(): bigint {
    return this.fence.version;
  }

  get connected(): boolean {
    return this.attachment !== null;
  }

  /** Nothing is owned any more. */
  protected get over(): boolean {
    return this.#over;
  }

  held(): Held | undefined {
    if (this.#over) return undefined;
    const { channel, opening, epoch, version, peerId, channelId, generation } = this;
    return { channel, opening, epoch, version, peerId, channelId, generation };
  }

  assignedAgain({ token, generation }: Pick<Assigned, "token" | "generation">): void {
    this.token = token;
    this.generation = generation;
  }

  withdrawPart(): boolean {
    return false;
  }

  start(): void {
    void this.#run();
  }

  attach(attachment: Attachment): void {
    this.push({ type: "attach", attachment });
  }

  frame(attachment: Attachment, inSeq: bigint, data: Uint8Array): void {
    this.push({ type: "frame", attachment, inSeq, data });
  }

  gone(attachment: Attachment): void {
    this.push({ type: "gone", attachment });
  }

  stop(how: Ended | null): void {
    if (this.#over) return;
    this.attachment?.fenced();
    this.end(how);
  }

  protected push(item: Arrived | Own): void {
    if (this.#over) return;
    this.queue.push(item);
    if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.queue.length > 0 && !this.#over) await this.handleNext();
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#running = false;
    }
  }

  /** After every wait: a newer assignment may have taken over meanwhile. */
  protected mustOwn(): void {
    if (this.#over) throw new SupersededError("another owner took over");
  }

  protected async attachTo(attachment: Attachment): Promise<void> {
    if (attachment.over) return;
    if (this.attachment !== null) await this.detach(this.attachment);
    if (this.#over) return attachment.fenced();
    const { generation, outSeq, reestablishSent, reestablishReceived } = this.place;
    const sameConnection = generation === attachment.generation;
    // The higher epoch cut the last daemon's stream off: what of it had not reached the socket is gone, and its numbers are free.
    const lost = sameConnection && attachment.outSeq < outSeq;
    this.attachment = attachment;
    const taken = sameConnection && reestablishSent === reestablishReceived;
    if (sameConnection && !taken) return attachment.fail([], "the owner changed within a connection", true);
    await this.savePlace({
      generation: attachment.generation,
      inSeq: sameConnection ? this.place.inSeq : 0n,
      outSeq: attachment.outSeq,
      reestablishSent: !taken || reestablishSent,
      reestablishReceived: taken && reestablishReceived,
    });
    await this.onConnected(taken ? { type: "taken_over", lost } : { type: "connected" });
  }

  protected async detach(attachment: Attachment): Promise<void> {
    attachment.closed();
    if (attachment !== this.attachment) return;
    this.attachment = null;
    await this.onDisconnected();
  }

  protected async savePlace(place: Place): Promise<void> {
    this.place = place;
    this.fence = await savePlace(this.#sql, this.fence, place);
    this.mustOwn();
  }

  /** The peer's channel_reestablish is a fact of this connection: whoever takes over on it, and whoever asks, must know. */
  protected async reestablishCame(): Promise<void> {
    if (this.place.reestablishReceived) return;
    await this.savePlace({ ...this.place, reestablishReceived: true });
  }

  /** These are the last words of this connection. */
  protected hangUp(messages: readonly Message[], reason: string): void {
    this.log.warn({ reason }, "hanging up");
    this.attachment?.fail(messages, reason, true);
    if (this.attachment !== null) this.queue.unshift({ type: "gone", attachment: this.attachment });
  }

  /** Nothing is left to do here. Frames up to `inSeq` are used up; later ones are the successor's. */
  protected handOver(reason: Released_Reason, detail: string, inSeq: bigint): void {
    if (inSeq > 0n) this.attachment?.durable(inSeq);
    this.attachment?.finished(detail);
    this.end({ type: "released", reason, detail });
  }

  /** It cannot go on here: a fresh connection brings an owner that reads the rows. */
  protected giveUp(detail: string): void {
    this.attachment?.fail([], OUR_FAULT, true);
    this.end({ type: "released", reason: Released_Reason.PEER_GONE, detail });
  }

  protected end(how: Ended | null): void {
    if (this.#over) return;
    this.#over = true;
    this.stopped.abort();
    this.attachment?.closed();
    // A stream that waits its turn would never be answered.
    for (const item of this.queue) if (isAttach(item)) item.attachment.fenced();
    this.queue.length = 0;
    if (how !== null) this.onEnded(how);
  }

  #failed(error: unknown): void {
    if (this.#over) return;
    if (error instanceof SupersededError) {
      this.log.warn({ detail: error.message }, "superseded");
      this.attachment?.fenced();
      return this.end({ type: "superseded", detail: error.message });
    }
    this.log.error({ err: error }, "letting go");
    this.giveUp(OUR_FAULT);
  }
}

function isAttach(item: { readonly type: string }): item is Extract<Arrived, { type: "attach" }> {
  return item.type === "attach";
}
