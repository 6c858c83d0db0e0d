/**
 * The owner of one channel: a serial queue in front of the pure machine. Takes an input, steps, carries out the actions
 * in order. Whatever goes wrong ends the ownership: memory never goes on where it differs from the rows.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { fromRows, paused, step } from "bolt/channel/before/machine.ts";
import type { ChannelAction, ChannelInput, ChannelMachine, ChannelStep } from "bolt/channel/before/types.ts";
import { unreachable } from "bolt/result.ts";
import { Features, isNegotiated } from "bolt/wire/features.ts";
import { decodeMessage } from "bolt/wire/messages.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import type { Attachment } from "subd/attachment.ts";
import { type Fence, type Place, savePlace, SupersededError } from "subd/fence.ts";
import type { Assigned, Ended, Held, SubdOwner } from "subd/owner.ts";
import type { NodeFacts } from "subd/owners.ts";
import { loadChannel, loadOnChain, saveStep } from "./store.ts";

/** What an owner needs of its process. */
export interface OwnerHost {
  readonly sql: Sql;
  readonly log: Logger;
  /** A store changed what lightningd should look at. */
  changed(owner: Owner): void;
  /** The owner let go. Called once, last. */
  ended(owner: Owner, how: Ended): void;
}

/** What waits in front of the machine. */
type Queued =
  | { readonly type: "attach"; readonly attachment: Attachment }
  | {
    readonly type: "frame";
    readonly attachment: Attachment;
    readonly inSeq: bigint;
    readonly data: Uint8Array;
  }
  | { readonly type: "gone"; readonly attachment: Attachment }
  | { readonly type: "look" };

/** Loads what was assigned. Throws SupersededError, RowError. */
export async function loadOwner(host: OwnerHost, assigned: Assigned, node: NodeFacts): Promise<Owner> {
  const rows = await loadChannel(host.sql, assigned.channel, assigned.epoch);
  const upfront = rows.localUpfrontShutdownScript;
  const localShutdownScript = upfront !== null && upfront.length > 0 ? upfront : assigned.shutdownScript;
  const theirs = assigned.peerFeatures.length > 0 ? assigned.peerFeatures : rows.features.remote;
  const [ours, remote] = [Features.parse(node.features), Features.parse(theirs)];
  const both = (name: Parameters<typeof isNegotiated>[2]) =>
    ours.ok && remote.ok && isNegotiated(ours.value, remote.value, name);
  const forms = { anysegwit: both("option_shutdown_anysegwit"), simpleClose: both("option_simple_close") };
  const machine = fromRows({ ...rows.channel, localShutdownScript }, forms, rows.onChain);
  return new Owner(host, assigned, machine, rows.fence, rows.place);
}

/** One owner. Everything happens in its queue, one after the other. */
export class Owner implements SubdOwner {
  readonly peerId: Uint8Array;
  readonly epoch: bigint;
  token: Uint8Array;
  generation: bigint;
  readonly channel: bigint;
  readonly opening = 0n;
  readonly knownOpening = 0n;

  readonly #host: OwnerHost;
  readonly #log: Logger;
  readonly #queue: Queued[] = [{ type: "look" }];
  #state: ChannelMachine;
  #fence: Fence;
  #place: Place;
  #attachment: Attachment | null = null;
  #running = false;
  #over = false;

  constructor(host: OwnerHost, assigned: Assigned, state: ChannelMachine, fence: Fence, place: Place) {
    this.#host = host;
    this.peerId = assigned.peerId;
    this.epoch = assigned.epoch;
    this.token = assigned.token;
    this.generation = assigned.generation;
    this.channel = assigned.channel;
    this.#state = state;
    this.#fence = fence;
    this.#place = place;
    this.#log = host.log.child({ peer: bytesToHex(this.peerId), channel: bytesToHex(this.channelId) });
  }

  get channelId(): Uint8Array {
    return this.#state.channel.channelId;
  }

  get version(): bigint {
    return this.#fence.version;
  }

  /** Why no update may be made now; empty when the channel is usable. */
  get paused(): string {
    return paused(this.#state) ?? "";
  }

  get connected(): boolean {
    return this.#attachment !== null;
  }

  get reestablished(): boolean {
    return this.#state.link === "up";
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
    this.#push({ type: "attach", attachment });
  }

  frame(attachment: Attachment, inSeq: bigint, data: Uint8Array): void {
    this.#push({ type: "frame", attachment, inSeq, data });
  }

  gone(attachment: Attachment): void {
    this.#push({ type: "gone", attachment });
  }

  lookAgain(): void {
    this.#push({ type: "look" });
  }

  stop(how: Ended | null): void {
    if (this.#over) return;
    this.#attachment?.fenced();
    this.#end(how);
  }

  #push(item: Queued): void {
    if (this.#over) return;
    this.#queue.push(item);
    if (!this.#running) void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    try {
      for (let item = this.#queue.shift(); item !== undefined && !this.#over; item = this.#queue.shift()) {
        await this.#handle(item);
      }
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#running = false;
    }
  }

  async #handle(item: Queued): Promise<void> {
    switch (item.type) {
      case "attach":
        return await this.#attach(item.attachment);
      case "frame":
        return await this.#frame(item.attachment, item.inSeq, item.data);
      case "gone":
        return await this.#gone(item.attachment);
      case "look":
        return await this.#input({ type: "chain", onChain: await loadOnChain(this.#host.sql, this.channel) });
      default:
        return unreachable(item);
    }
  }

  async #attach(attachment: Attachment): Promise<void> {
    if (attachment.over) return;
    if (this.#attachment !== null) await this.#gone(this.#attachment);
    if (this.#over) return attachment.fenced();
    const sameConnection = this.#place.generation === attachment.generation;
    // The higher epoch cut dualopend's stream off: what of it had not reached the socket is gone, and its numbers are free.
    const lost = sameConnection && attachment.outSeq < this.#place.outSeq;
    this.#attachment = attachment;
    const { reestablishSent, reestablishReceived } = this.#place;
    // At lock-in the channel is taken over within a connection on which dualopend had it running already, whether it was
    // opened there (nothing to reestablish) or reestablished: one channel_reestablish a connection.
    const taken = sameConnection && reestablishSent === reestablishReceived;
    if (sameConnection && !taken) return attachment.fail([], "the owner changed within a connection", true);
    this.#place = {
      generation: attachment.generation,
      inSeq: sameConnection ? this.#place.inSeq : 0n,
      outSeq: attachment.outSeq,
      reestablishSent: !taken || reestablishSent,
      reestablishReceived: taken && reestablishReceived,
    };
    this.#fence = await savePlace(this.#host.sql, this.#fence, this.#place);
    this.#mustOwn();
    await this.#input(taken ? { type: "taken_over", lost } : { type: "connected" });
  }

  async #frame(attachment: Attachment, inSeq: bigint, data: Uint8Array): Promise<void> {
    if (attachment !== this.#attachment || attachment.over) return;
    attachment.taken(inSeq);
    this.#place = { ...this.#place, inSeq };
    const decoded = decodeMessage(data);
    if (!decoded.ok) {
      await this.#input({ type: "garbage", reason: decoded.error.reason });
    } else if (decoded.value.type === "unknown") {
      if (decoded.value.even) {
        await this.#input({ type: "garbage", reason: `unknown message ${decoded.value.id}` });
      }
    } else {
      if (decoded.value.type === "channel_reestablish") {
        this.#place = { ...this.#place, reestablishReceived: true };
        this.#fence = await savePlace(this.#host.sql, this.#fence, this.#place);
      }
      await this.#input({ type: "message", message: decoded.value });
    }
    attachment.durable(inSeq);
  }

  async #gone(attachment: Attachment): Promise<void> {
    attachment.closed();
    if (attachment !== this.#attachment) return;
    this.#attachment = null;
    await this.#input({ type: "disconnected" });
  }

  async #input(input: ChannelInput): Promise<void> {
    const before = this.paused;
    await this.#perform(step(this.#state, input));
    if (!this.#over && this.paused !== before) this.#host.changed(this);
  }

  async #perform(next: ChannelStep): Promise<void> {
    this.#state = next.state;
    for (const action of next.actions) {
      this.#mustOwn();
      await this.#carryOut(action);
      if (this.#over) return;
    }
  }

  /** After every wait: a newer assignment may have taken over meanwhile. */
  #mustOwn(): void {
    if (this.#over) throw new SupersededError("another owner took over");
  }

  async #carryOut(action: ChannelAction): Promise<void> {
    switch (action.type) {
      case "store":
        this.#place = { ...this.#place, outSeq: this.#attachment?.outSeq ?? this.#place.outSeq };
        this.#fence = await saveStep(this.#host.sql, this.#fence, action.step, this.#place);
        this.#mustOwn();
        return this.#host.changed(this);
      case "send":
        return this.#attachment?.send(action.message);
      case "hang_up":
        this.#log.warn({ reason: action.reason }, "hanging up");
        this.#attachment?.fail(action.messages, action.reason, true);
        if (this.#attachment !== null) this.#queue.unshift({ type: "gone", attachment: this.#attachment });
        return;
      case "log":
        return this.#log[action.level]({}, action.text);
      case "end":
        if (this.#place.inSeq > 0n) this.#attachment?.durable(this.#place.inSeq);
        this.#attachment?.finished(action.reason);
        return this.#end({ type: "released", reason: Released_Reason.CHANNEL_FAILED, detail: action.reason });
      default:
        return unreachable(action);
    }
  }

  #end(how: Ended | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#attachment?.closed();
    // A stream that waits its turn would never be answered.
    for (const item of this.#queue) if (item.type === "attach") item.attachment.fenced();
    this.#queue.length = 0;
    if (how !== null) this.#host.ended(this, how);
  }

  #failed(error: unknown): void {
    if (this.#over) return;
    if (error instanceof SupersededError) {
      this.#log.warn({ detail: error.message }, "superseded");
      this.#attachment?.fenced();
      return this.#end({ type: "superseded", detail: error.message });
    }
    this.#log.error({ err: error }, "letting go");
    this.#attachment?.fail([], "internal error", true);
    this.#end({ type: "released", reason: Released_Reason.PEER_GONE, detail: "internal error" });
  }
}
