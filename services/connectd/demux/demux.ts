/**
 * The fence: what one connection's channels may read and write, and through whom. A machine without I/O, clock or
 * randomness; it changes in place and answers each call with what is to be done, in order.
 *
 * There is one per connection, so a channel is always looked up by (peer, channel id): a peer never reaches another's.
 * Frames of a channel are held from their arrival until its owner says `durable`. While nobody is attached, a frame
 * that no owner took is asked about (a spoke); silence past the deadline ends the connection, since skipping a frame and
 * carrying on would leave the two sides with different histories.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { MAX_MESSAGE_LENGTH, messageId } from "bolt/wire/messages.ts";
import { HELD_FRAME_OVERHEAD, type Limits } from "../limits.ts";

/** Before the first owner, and of lightningd's own messages. */
const NO_EPOCH = -1n;
/** A message has at least its type. */
const MIN_MESSAGE_LENGTH = 2;

/** Names one attachment; the driver keeps the stream under it. */
export type AttachmentId = number;

/** What gives a channel its final id (BOLT 2): the peer may use that at once, before our side has worked it out. */
const ACCEPT_CHANNEL2 = messageId("accept_channel2");

/** Why an attachment ended; as in the contract. */
export type EndReason = "finished" | "subd_lost" | "superseded" | "refused" | "peer_gone";

/** lightningd's order to attach. */
export interface AttachOrder {
  /** 32 bytes. */
  readonly channelId: Uint8Array;
  readonly epoch: bigint;
  readonly address: string;
  readonly token: Uint8Array;
  readonly subdInstance: string;
  /** 0 for none. */
  readonly spokeId: bigint;
}

/** What a subd is told first. */
export interface AttachStart {
  readonly attachment: AttachmentId;
  readonly order: AttachOrder;
  readonly writtenOutSeq: bigint;
  readonly nextInSeq: bigint;
}

/** A message that nobody is there for. */
export interface Spoke {
  readonly spokeId: bigint;
  readonly messageType: number;
  readonly channelId: Uint8Array;
  /** Printable text of an error message. */
  readonly error: string;
}

/** What the driver does, in order. */
export type DemuxAction =
  | { readonly type: "dial"; readonly start: AttachStart }
  /** Give the stream up at once; what it still says is ignored. */
  | { readonly type: "cut"; readonly attachment: AttachmentId }
  | {
    readonly type: "deliver";
    readonly attachment: AttachmentId;
    readonly inSeq: bigint;
    readonly data: Uint8Array;
    readonly replayed: boolean;
  }
  /** The subd's stream ends now: nothing more is said on either side. */
  | { readonly type: "finish"; readonly attachment: AttachmentId }
  /** Tell the subd that the connection is gone or draining. */
  | { readonly type: "peer_gone"; readonly attachment: AttachmentId; readonly reason: string }
  | { readonly type: "written"; readonly attachment: AttachmentId; readonly outSeq: bigint }
  | { readonly type: "started"; readonly channelId: Uint8Array; readonly epoch: bigint }
  | {
    readonly type: "ended";
    readonly channelId: Uint8Array;
    readonly epoch: bigint;
    readonly reason: EndReason;
    readonly detail: string;
    readonly framesHeld: number;
    readonly wantHangUp: boolean;
  }
  | { readonly type: "spoke"; readonly spoke: Spoke }
  /** There is something to write. */
  | { readonly type: "writable" }
  /** Drain and close: this connection cannot be carried on correctly. */
  | { readonly type: "hang_up"; readonly reason: string };

/** Frames that leave together. */
export interface OutGroup {
  readonly channel: ChannelKey;
  readonly frames: readonly Uint8Array[];
  /** 0 for messages of lightningd's own. */
  readonly lastOutSeq: bigint;
  readonly epoch: bigint;
}

/** Names a channel of this connection inside connectd, whatever its id is by now. */
export type ChannelKey = number;

/** One row of a listing. */
export interface AttachmentRow {
  readonly channelId: Uint8Array;
  readonly epoch: bigint;
  readonly subdInstance: string;
}

interface Held {
  readonly inSeq: bigint;
  readonly data: Uint8Array;
  readonly messageType: number;
  readonly error: string;
  /** Whether it was ever given to a subd. */
  delivered: boolean;
}

interface Queued {
  readonly frames: Uint8Array[];
  readonly bytes: number;
  readonly lastOutSeq: bigint;
  readonly epoch: bigint;
}

interface Attachment {
  readonly id: AttachmentId;
  readonly epoch: bigint;
  readonly subdInstance: string;
  /** Whether the subd has accepted. */
  attached: boolean;
  /** Highest in_seq given to it. */
  sent: bigint;
  /** Highest in_seq that it took. */
  taken: bigint;
  /** Whether it was told that the peer is gone. */
  toldGone: boolean;
}

interface OpenSpoke {
  readonly id: bigint;
  deadline: number;
}

interface Channel {
  readonly key: ChannelKey;
  /** Its ids on this connection; the last one is current, the others are aliases. */
  readonly ids: Uint8Array[];
  /** Highest epoch heard of. */
  epoch: bigint;
  attachment: Attachment | undefined;
  /** Frames that are not durable, by rising in_seq. */
  held: Held[];
  heldBytes: number;
  nextInSeq: bigint;
  /** Highest in_seq that any owner took: what is beyond it asks for one. */
  takenInSeq: bigint;
  out: Queued[];
  outBytes: number;
  /** Highest out_seq handed to the socket. */
  writtenOutSeq: bigint;
  /** Highest out_seq accepted from an owner. */
  queuedOutSeq: bigint;
  spoke: OpenSpoke | undefined;
}

/** Bounds that a demux keeps. */
export type DemuxLimits = Pick<
  Limits,
  | "maxHeldFramesPerChannel"
  | "maxHeldBytesPerChannel"
  | "maxChannelsPerConnection"
  | "maxIdsPerChannel"
  | "creditFrames"
  | "maxContiguousFrames"
  | "spokeDeadline"
  | "spokeWaitDeadline"
>;

/** Numbers that are unique in this connectd, not only in one connection. */
export interface Numbers {
  nextSpokeId(): bigint;
  nextAttachment(): AttachmentId;
}

/** The channels of one connection. */
export class Demux {
  readonly #channels = new Map<ChannelKey, Channel>();
  readonly #byId = new Map<string, Channel>();
  readonly #byAttachment = new Map<AttachmentId, Channel>();
  readonly #bySpoke = new Map<bigint, Channel>();
  /** Channels with something to write, in turn. */
  readonly #turns = new Set<Channel>();
  /** Unknown ids that are not asked about yet: an open may be about to take that name. */
  readonly #unnamed = new Set<Channel>();
  #nextKey = 1;
  #heldBytes = 0;
  #queuedBytes = 0;
  #draining = false;

  constructor(private readonly limits: DemuxLimits, private readonly numbers: Numbers) {}

  /** What held frames cost, bytes. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Bytes that wait for the socket. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Spokes without an answer, those told to wait included. */
  get openSpokes(): number {
    return this.#bySpoke.size;
  }

  /** Attachments that live. */
  get attachmentCount(): number {
    return this.#byAttachment.size;
  }

  /** Whether anything waits for the socket. */
  get writable(): boolean {
    return this.#turns.size > 0;
  }

  /** Unwritten bytes of the channel that an attachment serves. */
  queuedBytesOf(attachment: AttachmentId): number {
    return this.#byAttachment.get(attachment)?.outBytes ?? 0;
  }

  /** Live attachments. */
  attachments(): AttachmentRow[] {
    return [...this.#byAttachment.values()].flatMap((channel) => {
      const { attachment } = channel;
      if (attachment === undefined) return [];
      return [{
        channelId: currentId(channel),
        epoch: attachment.epoch,
        subdInstance: attachment.subdInstance,
      }];
    });
  }

  /** Unanswered spokes, as they are told to a new lightningd; their time starts again. */
  restateSpokes(now: number): Spoke[] {
    return [...this.#bySpoke].flatMap(([spokeId, channel]) => {
      if (channel.spoke === undefined) return [];
      channel.spoke.deadline = now + this.limits.spokeDeadline;
      return [spokeOf(channel, spokeId)];
    });
  }

  /** A message of the peer's for a channel. `now` is the clock of spokes. */
  frame(
    input: {
      readonly channelId: Uint8Array;
      readonly messageType: number;
      readonly data: Uint8Array;
      readonly error: string;
      readonly soft: boolean;
    },
    now: number,
  ): DemuxAction[] {
    if (this.#draining) return [];
    let channel = this.#byId.get(bytesToHex(input.channelId));
    if (input.soft && channel?.attachment === undefined) return [];
    if (channel === undefined) {
      if (this.#channels.size >= this.limits.maxChannelsPerConnection) {
        return [{ type: "hang_up", reason: "too many channels on one connection" }];
      }
      channel = this.#newChannel(input.channelId);
    }
    const held: Held = {
      inSeq: channel.nextInSeq++,
      data: input.data,
      messageType: input.messageType,
      error: input.error,
      delivered: false,
    };
    this.#hold(channel, held);
    if (
      channel.held.length > this.limits.maxHeldFramesPerChannel ||
      channel.heldBytes > this.limits.maxHeldBytesPerChannel
    ) {
      return [{ type: "hang_up", reason: `too much unread of channel ${bytesToHex(currentId(channel))}` }];
    }
    return channel.attachment === undefined ? this.#ask(channel, now) : this.#deliver(channel);
  }

  /** lightningd's `peer_connect_subd` for this connection's generation. */
  attach(order: AttachOrder): DemuxAction[] {
    const { channelId, epoch } = order;
    const refused = (detail: string): DemuxAction[] => [
      { type: "ended", channelId, epoch, reason: "refused", detail, framesHeld: 0, wantHangUp: false },
    ];
    if (this.#draining) return refused("the connection is draining");
    const asked = order.spokeId === 0n ? undefined : this.#bySpoke.get(order.spokeId);
    let channel = asked ?? this.#byId.get(bytesToHex(channelId));
    if (asked !== undefined && this.#byId.get(bytesToHex(channelId)) !== asked) {
      return refused(`spoke ${order.spokeId} is of another channel`);
    }
    if (channel !== undefined && epoch < channel.epoch) {
      return refused(`epoch ${epoch} is older than ${channel.epoch}`);
    }
    if (channel === undefined) {
      if (this.#channels.size >= this.limits.maxChannelsPerConnection) {
        return refused("too many channels on one connection");
      }
      channel = this.#newChannel(channelId);
    }
    this.#answered(channel);
    if (channel.attachment !== undefined && channel.attachment.epoch === epoch) return [];
    const actions = this.#cut(channel, epoch);
    channel.epoch = epoch;
    const first = channel.held[0]?.inSeq ?? channel.nextInSeq;
    const attachment: Attachment = {
      id: this.numbers.nextAttachment(),
      epoch,
      subdInstance: order.subdInstance,
      attached: false,
      sent: first - 1n,
      taken: first - 1n,
      toldGone: false,
    };
    channel.attachment = attachment;
    this.#byAttachment.set(attachment.id, channel);
    actions.push({
      type: "dial",
      start: {
        attachment: attachment.id,
        order: { ...order, channelId: currentId(channel) },
        writtenOutSeq: channel.writtenOutSeq,
        nextInSeq: first,
      },
    });
    return actions;
  }

  /** The subd accepted the stream. */
  attached(id: AttachmentId): DemuxAction[] {
    const channel = this.#byAttachment.get(id);
    const attachment = channel?.attachment;
    if (channel === undefined || attachment === undefined || attachment.attached) return [];
    attachment.attached = true;
    return [
      { type: "started", channelId: currentId(channel), epoch: attachment.epoch },
      ...this.#deliver(channel),
    ];
  }

  /** Frames that a subd wants written. A number that was taken before is dropped; a gap ends the connection. */
  outbound(
    id: AttachmentId,
    firstOutSeq: bigint,
    data: readonly Uint8Array[],
    contiguous: boolean,
    now: number,
  ): DemuxAction[] {
    const channel = this.#byAttachment.get(id);
    if (channel === undefined || channel.attachment === undefined) return [];
    if (!channel.attachment.attached) return this.#lose(channel, "frames before attached", now);
    if (contiguous && data.length > this.limits.maxContiguousFrames) {
      return this.#lose(channel, `${data.length} frames back to back`, now);
    }
    if (!data.every(isMessage)) return this.#lose(channel, "a frame that is no message", now);
    if (firstOutSeq > channel.queuedOutSeq + 1n || firstOutSeq < 1n) {
      const detail = `out_seq ${firstOutSeq} follows ${channel.queuedOutSeq}`;
      return [...this.#lose(channel, detail, now), {
        type: "hang_up",
        reason: `a gap in a channel: ${detail}`,
      }];
    }
    const skip = Number(bigMin(channel.queuedOutSeq + 1n - firstOutSeq, BigInt(data.length)));
    const fresh = data.slice(skip);
    if (fresh.length === 0) return [];
    if (contiguous) {
      channel.queuedOutSeq += BigInt(fresh.length);
      this.#queue(channel, fresh, channel.queuedOutSeq, channel.epoch);
    } else {
      for (const frame of fresh) this.#queue(channel, [frame], ++channel.queuedOutSeq, channel.epoch);
    }
    return [{ type: "writable" }];
  }

  /** The subd took frames up to this one: it may have as many more. */
  taken(id: AttachmentId, inSeq: bigint, now: number): DemuxAction[] {
    const channel = this.#byAttachment.get(id);
    const attachment = channel?.attachment;
    if (channel === undefined || attachment === undefined) return [];
    if (inSeq > attachment.sent) {
      return this.#lose(channel, `took ${inSeq} of ${attachment.sent} frames`, now);
    }
    if (inSeq > attachment.taken) attachment.taken = inSeq;
    if (inSeq > channel.takenInSeq) channel.takenInSeq = inSeq;
    return this.#deliver(channel);
  }

  /** What used the frames up to this one is committed: they are forgotten. */
  durable(id: AttachmentId, inSeq: bigint, now: number): DemuxAction[] {
    const actions = this.taken(id, inSeq, now);
    const channel = this.#byAttachment.get(id);
    if (channel !== undefined) this.#forget(channel, inSeq);
    return [...actions, ...this.#askUnnamed(now)];
  }

  /** The channel is known by another id from now on; the old one stays an alias. */
  rekey(id: AttachmentId, channelId: Uint8Array, now: number): DemuxAction[] {
    const channel = this.#byAttachment.get(id);
    if (channel === undefined) return [];
    const hex = bytesToHex(channelId);
    const there = this.#byId.get(hex);
    if (there === channel) return [];
    if (there !== undefined && there.epoch !== NO_EPOCH) {
      // Two owners, one id: nobody may read the other's frames.
      return this.#lose(channel, `channel id ${hex} belongs to another channel`, now);
    }
    if (channel.ids.length >= this.limits.maxIdsPerChannel) {
      return this.#lose(channel, "too many channel ids", now);
    }
    if (there !== undefined) this.#adopt(channel, there);
    channel.ids.push(channelId.slice());
    this.#byId.set(hex, channel);
    return this.#deliver(channel);
  }

  /** The subd said that it is done: what it did not make durable waits for a successor. */
  finished(id: AttachmentId, detail: string, now: number): DemuxAction[] {
    const channel = this.#byAttachment.get(id);
    if (channel === undefined) return [];
    return [{ type: "finish", attachment: id }, ...this.#end(channel, "finished", detail, now)];
  }

  /** The attachment failed: its last messages are written, then it is over. */
  fail(
    id: AttachmentId,
    failure: {
      readonly messages: readonly Uint8Array[];
      readonly reason: string;
      readonly wantHangUp: boolean;
    },
    now: number,
  ): DemuxAction[] {
    const { messages, reason, wantHangUp } = failure;
    const channel = this.#byAttachment.get(id);
    if (channel === undefined) return [];
    for (const message of messages.filter(isMessage)) this.#queue(channel, [message], 0n, channel.epoch);
    return [
      { type: "finish", attachment: id },
      ...writableIf(messages.length > 0),
      ...this.#end(channel, "finished", reason, now, wantHangUp),
    ];
  }

  /**
   * The stream broke or could not be made. What it asked to write before is still written: no newer owner is known. One
   * that was told that the peer is gone has only done as it was told.
   */
  lost(id: AttachmentId, detail: string, now: number): DemuxAction[] {
    const channel = this.#byAttachment.get(id);
    if (channel === undefined) return [];
    return this.#end(channel, channel.attachment?.toldGone === true ? "peer_gone" : "subd_lost", detail, now);
  }

  /**
   * lightningd's `peer_final_msg`. As the answer to a spoke it ends what is held of that channel; for a spoke that was
   * settled otherwise (a subd is attached by now) it says nothing.
   */
  finalMessages(spokeId: bigint, channelId: Uint8Array, messages: readonly Uint8Array[]): DemuxAction[] {
    const asked = spokeId === 0n ? undefined : this.#bySpoke.get(spokeId);
    if (spokeId !== 0n && asked === undefined) return [];
    const known = asked ?? this.#byId.get(bytesToHex(channelId));
    const channel = known ?? this.#newChannel(channelId);
    for (const message of messages.filter(isMessage)) this.#queue(channel, [message], 0n, NO_EPOCH);
    if (asked !== undefined) this.#answered(channel);
    if (channel.attachment === undefined && channel.spoke === undefined) {
      this.#forget(channel, channel.nextInSeq);
    }
    this.#tidy(channel);
    return writableIf(messages.length > 0);
  }

  /** lightningd knows that a successor is coming. */
  spokeWait(spokeId: bigint, now: number): boolean {
    const spoke = this.#bySpoke.get(spokeId)?.spoke;
    if (spoke === undefined) return false;
    spoke.deadline = now + this.limits.spokeWaitDeadline;
    return true;
  }

  /**
   * lightningd does not have that channel: the message that it was asked about is forgotten. What came behind it may be
   * another matter (an open, a channel_reestablish after the echo of an abort), so it is asked about anew.
   */
  spokeDrop(spokeId: bigint, now: number): DemuxAction[] {
    const channel = this.#bySpoke.get(spokeId);
    if (channel === undefined) return [];
    this.#answered(channel);
    this.#forget(channel, untaken(channel)?.inSeq ?? channel.nextInSeq);
    const asked = this.#ask(channel, now);
    this.#tidy(channel);
    return asked;
  }

  /** Whether a spoke of this connection waits under this number. */
  hasSpoke(spokeId: bigint): boolean {
    return this.#bySpoke.has(spokeId);
  }

  /** Looks at the deadlines of spokes. */
  tick(now: number): DemuxAction[] {
    for (const [spokeId, channel] of this.#bySpoke) {
      if (channel.spoke !== undefined && now >= channel.spoke.deadline) {
        const reason = `no answer to spoke ${spokeId} of channel ${bytesToHex(currentId(channel))}`;
        return [{ type: "hang_up", reason }];
      }
    }
    return [];
  }

  /** Takes the next frames for the socket, channels in turn. From here on they count as written. */
  nextGroup(): OutGroup | undefined {
    const channel = this.#turns.values().next().value;
    if (channel === undefined) return undefined;
    this.#turns.delete(channel);
    const group = channel.out.shift();
    if (group === undefined) return this.nextGroup();
    channel.outBytes -= group.bytes;
    this.#queuedBytes -= group.bytes;
    if (group.lastOutSeq > channel.writtenOutSeq) channel.writtenOutSeq = group.lastOutSeq;
    if (channel.out.length > 0) this.#turns.add(channel);
    else this.#tidy(channel);
    return { channel: channel.key, frames: group.frames, lastOutSeq: group.lastOutSeq, epoch: group.epoch };
  }

  /** The socket took a group: its owner is told. */
  groupWritten(group: OutGroup): DemuxAction[] {
    const attachment = this.#channels.get(group.channel)?.attachment;
    if (group.lastOutSeq === 0n || attachment === undefined || attachment.epoch !== group.epoch) return [];
    return [{ type: "written", attachment: attachment.id, outSeq: group.lastOutSeq }];
  }

  /** Nothing of the peer's is taken any more; subds are told and may still write. */
  drain(reason: string): DemuxAction[] {
    this.#draining = true;
    this.#bySpoke.clear();
    this.#unnamed.clear();
    const actions: DemuxAction[] = [];
    for (const channel of this.#channels.values()) {
      channel.spoke = undefined;
      const { attachment } = channel;
      if (attachment === undefined || attachment.toldGone) continue;
      attachment.toldGone = true;
      actions.push({ type: "peer_gone", attachment: attachment.id, reason });
    }
    return actions;
  }

  /** The connection is over. */
  gone(reason: string): DemuxAction[] {
    const actions = this.drain(reason);
    for (const channel of [...this.#byAttachment.values()]) {
      if (channel.attachment !== undefined) {
        actions.push({ type: "finish", attachment: channel.attachment.id });
      }
      actions.push(...this.#end(channel, "peer_gone", reason, 0));
    }
    this.#channels.clear();
    this.#byId.clear();
    this.#turns.clear();
    this.#heldBytes = 0;
    this.#queuedBytes = 0;
    return actions;
  }

  #newChannel(channelId: Uint8Array): Channel {
    const channel: Channel = {
      key: this.#nextKey++,
      ids: [channelId.slice()],
      epoch: NO_EPOCH,
      attachment: undefined,
      held: [],
      heldBytes: 0,
      nextInSeq: 1n,
      takenInSeq: 0n,
      out: [],
      outBytes: 0,
      writtenOutSeq: 0n,
      queuedOutSeq: 0n,
      spoke: undefined,
    };
    this.#channels.set(channel.key, channel);
    this.#byId.set(bytesToHex(channelId), channel);
    return channel;
  }

  /** Forgets a channel that no owner ever had: ids that a peer invents cost nothing in the long run. */
  #tidy(channel: Channel): void {
    const idle = channel.epoch === NO_EPOCH && channel.held.length === 0 && channel.out.length === 0;
    if (!idle || channel.spoke !== undefined) return;
    this.#channels.delete(channel.key);
    this.#unnamed.delete(channel);
    for (const id of channel.ids) this.#byId.delete(bytesToHex(id));
  }

  #hold(channel: Channel, held: Held): void {
    channel.held.push(held);
    const cost = held.data.length + HELD_FRAME_OVERHEAD;
    channel.heldBytes += cost;
    this.#heldBytes += cost;
  }

  #forget(channel: Channel, upTo: bigint): void {
    let count = 0;
    let bytes = 0;
    for (const held of channel.held) {
      if (held.inSeq > upTo) break;
      count++;
      bytes += held.data.length + HELD_FRAME_OVERHEAD;
    }
    if (count === 0) return;
    channel.held.splice(0, count);
    channel.heldBytes -= bytes;
    this.#heldBytes -= bytes;
  }

  /** Says that the peer spoke, unless that was said or nothing is there that no owner took. */
  #ask(channel: Channel, now: number): DemuxAction[] {
    if (this.#draining || channel.spoke !== undefined || untaken(channel) === undefined) return [];
    if (channel.epoch === NO_EPOCH && this.#naming()) {
      this.#unnamed.add(channel);
      return [];
    }
    const id = this.numbers.nextSpokeId();
    channel.spoke = { id, deadline: now + this.limits.spokeDeadline };
    this.#bySpoke.set(id, channel);
    return [{ type: "spoke", spoke: spokeOf(channel, id) }];
  }

  /** Whether an owner has an accept_channel2 before it: `rekey` follows, or nothing, before that frame is durable. */
  #naming(): boolean {
    return [...this.#byAttachment.values()].some(({ held }) =>
      held.some(({ messageType }) => messageType === ACCEPT_CHANNEL2)
    );
  }

  /** Asks about the ids that no open took as its name. */
  #askUnnamed(now: number): DemuxAction[] {
    if (this.#unnamed.size === 0 || this.#naming()) return [];
    const waiting = [...this.#unnamed];
    this.#unnamed.clear();
    return waiting.flatMap((channel) => channel.attachment === undefined ? this.#ask(channel, now) : []);
  }

  #answered(channel: Channel): void {
    if (channel.spoke === undefined) return;
    this.#bySpoke.delete(channel.spoke.id);
    channel.spoke = undefined;
  }

  #deliver(channel: Channel): DemuxAction[] {
    const { attachment } = channel;
    if (attachment === undefined || !attachment.attached || attachment.toldGone) return [];
    const actions: DemuxAction[] = [];
    const base = channel.held[0]?.inSeq;
    if (base === undefined) return actions;
    const credit = BigInt(this.limits.creditFrames);
    for (let index = Number(bigMax(attachment.sent + 1n - base, 0n)); index < channel.held.length; index++) {
      const held = channel.held[index];
      if (held === undefined || attachment.sent - attachment.taken >= credit) break;
      actions.push({
        type: "deliver",
        attachment: attachment.id,
        inSeq: held.inSeq,
        data: held.data,
        replayed: held.delivered,
      });
      held.delivered = true;
      attachment.sent = held.inSeq;
    }
    return actions;
  }

  #queue(channel: Channel, frames: Uint8Array[], lastOutSeq: bigint, epoch: bigint): void {
    let bytes = 0;
    for (const frame of frames) bytes += frame.length;
    channel.out.push({ frames, bytes, lastOutSeq, epoch });
    channel.outBytes += bytes;
    this.#queuedBytes += bytes;
    this.#turns.add(channel);
  }

  /** Ends an older owner: its stream is cut and what of it is not handed to the socket is discarded. */
  #cut(channel: Channel, newEpoch: bigint): DemuxAction[] {
    const actions: DemuxAction[] = [];
    const old = channel.attachment;
    if (newEpoch > channel.epoch) this.#discard(channel);
    if (old === undefined) return actions;
    this.#byAttachment.delete(old.id);
    channel.attachment = undefined;
    actions.push({ type: "cut", attachment: old.id });
    actions.push({
      type: "ended",
      channelId: currentId(channel),
      epoch: old.epoch,
      reason: "superseded",
      detail: `epoch ${newEpoch} follows`,
      framesHeld: channel.held.length,
      wantHangUp: false,
    });
    return actions;
  }

  /** Discards what an owner queued; lightningd's own messages belong to no epoch and stay. */
  #discard(channel: Channel): void {
    this.#queuedBytes -= channel.outBytes;
    channel.out = channel.out.filter((queued) => queued.epoch === NO_EPOCH);
    channel.outBytes = channel.out.reduce((sum, queued) => sum + queued.bytes, 0);
    this.#queuedBytes += channel.outBytes;
    channel.queuedOutSeq = channel.writtenOutSeq;
    if (channel.out.length === 0) this.#turns.delete(channel);
  }

  /** A subd that breaks the contract: its stream is cut. */
  #lose(channel: Channel, detail: string, now: number): DemuxAction[] {
    const id = channel.attachment?.id;
    const cut: DemuxAction[] = id === undefined ? [] : [{ type: "cut", attachment: id }];
    return [...cut, ...this.#end(channel, "subd_lost", detail, now)];
  }

  #end(
    channel: Channel,
    reason: EndReason,
    detail: string,
    now: number,
    wantHangUp = false,
  ): DemuxAction[] {
    const { attachment } = channel;
    if (attachment === undefined) return [];
    this.#byAttachment.delete(attachment.id);
    channel.attachment = undefined;
    const framesHeld = channel.held.length;
    return [
      {
        type: "ended",
        channelId: currentId(channel),
        epoch: attachment.epoch,
        reason,
        detail,
        framesHeld,
        wantHangUp,
      },
      ...this.#ask(channel, now),
      ...this.#askUnnamed(now),
    ];
  }

  /** Takes over what arrived under a channel's new id before its owner had named it. */
  #adopt(channel: Channel, other: Channel): void {
    this.#answered(other);
    const { held } = other;
    other.held = [];
    this.#heldBytes -= other.heldBytes;
    other.heldBytes = 0;
    for (const { frames, lastOutSeq, epoch } of other.out) this.#queue(channel, frames, lastOutSeq, epoch);
    this.#queuedBytes -= other.outBytes;
    other.out = [];
    other.outBytes = 0;
    this.#turns.delete(other);
    this.#tidy(other);
    for (const frame of held) this.#hold(channel, { ...frame, inSeq: channel.nextInSeq++ });
  }
}

/** Whether these bytes can be a Lightning message. */
function isMessage(bytes: Uint8Array): boolean {
  return bytes.length >= MIN_MESSAGE_LENGTH && bytes.length <= MAX_MESSAGE_LENGTH;
}

/** The first frame that no owner took. */
function untaken(channel: Channel): Held | undefined {
  return channel.held.find((held) => held.inSeq > channel.takenInSeq);
}

function currentId(channel: Channel): Uint8Array {
  const id = channel.ids.at(-1);
  if (id === undefined) throw new Error("a channel without an id");
  return id;
}

function spokeOf(channel: Channel, spokeId: bigint): Spoke {
  const first = untaken(channel);
  return {
    spokeId,
    messageType: first?.messageType ?? 0,
    channelId: currentId(channel),
    error: first?.error ?? "",
  };
}

function writableIf(condition: boolean): DemuxAction[] {
  return condition ? [{ type: "writable" }] : [];
}

function bigMin(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function bigMax(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
