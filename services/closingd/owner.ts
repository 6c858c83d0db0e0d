/**
 * The owner of one channel that is being closed: a serial queue in front of the pure machine. Takes an input, steps, carries
 * out the actions in order; the answer to a question is stepped at once. Whatever goes wrong ends the ownership: memory
 * never goes on where it differs from the rows.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import type { ClosingAction, ClosingInput, ClosingStep } from "bolt/closing/actions.ts";
import { DEFAULT_STEP, type FeePlan, feePlan, parseFeeStep } from "bolt/closing/fees.ts";
import { fromRows, statusOf, step } from "bolt/closing/machine.ts";
import { closingBalances, closingWeight } from "bolt/closing/tx.ts";
import type { ClosingChannel, ClosingForms, ClosingMachine } from "bolt/closing/types.ts";
import { unreachable } from "bolt/result.ts";
import { feerate } from "bolt/units.ts";
import { Features, isNegotiated } from "bolt/wire/features.ts";
import { decodeMessage } from "bolt/wire/messages.ts";
import type { Channel, ServiceClient } from "common/grpc/client.ts";
import { patiently } from "common/grpc/patience.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import type { Attachment } from "subd/attachment.ts";
import { type Fence, type Place, savePlace, SupersededError } from "subd/fence.ts";
import type { Assigned, Ended, Held, SubdOwner } from "subd/owner.ts";
import type { NodeFacts } from "subd/owners.ts";
import { Signer } from "./hsm.ts";
import { loadChannel, type LoadedChannel, saveStep } from "./store.ts";

/** What an owner needs of its process. */
export interface OwnerHost {
  readonly sql: Sql;
  readonly hsmd: ServiceClient<typeof Hsmd>;
  readonly hsmdChannel: Channel;
  readonly lightningd: ServiceClient<typeof Lightningd>;
  readonly log: Logger;
  /** Closes that both signed. */
  readonly closed: { inc(): void };
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
  | { readonly type: "gone"; readonly attachment: Attachment };

type WalletKey = { readonly change: boolean; readonly index: number } | undefined;

/** What nobody asked lightningd for yet. */
const NO_RATES = { min: feerate(0), ideal: feerate(0), max: feerate(0) };

/** Loads what was assigned. Throws SupersededError, RowError. */
export async function loadOwner(host: OwnerHost, assigned: Assigned, node: NodeFacts): Promise<Owner> {
  const rows = await loadChannel(host.sql, assigned.channel, assigned.epoch);
  const theirs = assigned.peerFeatures.length > 0 ? assigned.peerFeatures : rows.features.remote;
  const [ours, remote] = [Features.parse(node.features), Features.parse(theirs)];
  const both = (name: Parameters<typeof isNegotiated>[2]) =>
    ours.ok && remote.ok && isNegotiated(ours.value, remote.value, name);
  const forms = { anysegwit: both("option_shutdown_anysegwit"), simpleClose: both("option_simple_close") };
  return new Owner(host, assigned, rows, forms);
}

/** Our plan at some rates. */
function planAt(channel: ClosingChannel, rates: typeof NO_RATES, step = DEFAULT_STEP): FeePlan {
  const { opener } = channel;
  return feePlan(rates, closingWeight(channel), opener, closingBalances(channel)[opener], step);
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
  readonly #signer: Signer;
  readonly #stopped = new AbortController();
  readonly #queue: Queued[] = [];
  #state: ClosingMachine;
  #fence: Fence;
  #place: Place;
  #attachment: Attachment | null = null;
  /** Of our shutdown script, as lightningd says. */
  #key: WalletKey;
  #running = false;
  #over = false;

  constructor(host: OwnerHost, assigned: Assigned, rows: LoadedChannel, forms: ClosingForms) {
    this.#host = host;
    this.peerId = assigned.peerId;
    this.epoch = assigned.epoch;
    this.token = assigned.token;
    this.generation = assigned.generation;
    this.channel = assigned.channel;
    this.#state = fromRows(rows.channel, forms, planAt(rows.channel, NO_RATES));
    this.#fence = rows.fence;
    this.#place = rows.place;
    this.#log = host.log.child({ peer: bytesToHex(this.peerId), channel: bytesToHex(this.channelId) });
    const { channelKeyId, paymentKeyIndex, terms, local } = rows;
    const { funding, capacity } = rows.channel;
    const ref = { channelKeyId, paymentKeyIndex, epoch: this.epoch };
    this.#signer = new Signer(
      host.hsmd,
      host.hsmdChannel,
      { ref, terms, funding, capacity, local },
      this.#stopped.signal,
    );
  }

  get channelId(): Uint8Array {
    return this.#state.channel.channelId;
  }

  get version(): bigint {
    return this.#fence.version;
  }

  get connected(): boolean {
    return this.#attachment !== null;
  }

  get reestablished(): boolean {
    return this.#state.link === "up";
  }

  /** For people who ask. */
  progress() {
    const { negotiation, channel } = this.#state;
    return {
      status: statusOf(this.#state),
      localFeeSat: negotiation.sent?.fee ?? 0n,
      remoteFeeSat: negotiation.received ?? 0n,
      complete: channel.signed.length > 0,
    };
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

  /** Fee rates and decisions are read at each connection; what the chain says ends the ownership by itself. */
  lookAgain(): void {}

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
      default:
        return unreachable(item);
    }
  }

  async #attach(attachment: Attachment): Promise<void> {
    if (attachment.over) return;
    if (this.#attachment !== null) await this.#gone(this.#attachment);
    if (this.#over) return attachment.fenced();
    const { reestablishSent, reestablishReceived } = this.#place;
    const sameConnection = this.#place.generation === attachment.generation;
    // channeld let go once everything of it was out; a number that connectd does not have was cut off.
    const lost = sameConnection && attachment.outSeq < this.#place.outSeq;
    this.#attachment = attachment;
    // The shutdown was agreed on this connection: one channel_reestablish a connection, and it was before that.
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
    const plan = await this.#plan();
    this.#mustOwn();
    await this.#input(taken ? { type: "taken_over", plan, lost } : { type: "connected", plan });
  }

  /** What a close may cost now, and where our money goes. */
  async #plan(): Promise<FeePlan> {
    const { channel, epoch } = this;
    const { lightningd } = this.#host;
    const { signal } = this.#stopped;
    const plan = await patiently(() => lightningd.planClosing({ channel, epoch }, { signal }), signal);
    this.#key = plan.change === undefined || plan.keyIndex === undefined
      ? undefined
      : { change: plan.change, index: plan.keyIndex };
    const rates = {
      min: feerate(plan.minFeeratePerkw),
      ideal: feerate(plan.feeratePerkw),
      max: feerate(plan.maxFeeratePerkw),
    };
    return planAt(this.#state.channel, rates, parseFeeStep(plan.feeStep) ?? DEFAULT_STEP);
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
        this.#mustOwn();
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

  async #input(input: ClosingInput): Promise<void> {
    await this.#perform(step(this.#state, input));
  }

  async #perform(next: ClosingStep): Promise<void> {
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

  async #carryOut(action: ClosingAction): Promise<void> {
    switch (action.type) {
      case "store": {
        this.#place = { ...this.#place, outSeq: this.#attachment?.outSeq ?? this.#place.outSeq };
        const { funding } = this.#state.channel;
        this.#fence = await saveStep(this.#host.sql, this.#fence, action.step, this.#place, funding);
        this.#mustOwn();
        if (action.step.type === "save_close") this.#host.closed.inc();
        return this.#host.changed(this);
      }
      case "send":
        return this.#attachment?.send(action.message);
      case "sign": {
        const answer = await this.#signer.signClosing({ ...action, key: this.#key });
        return await this.#answered(
          answer.ok
            ? { type: "signed", signature: answer.value }
            : { type: "refused", reason: answer.reason },
        );
      }
      case "repeat_revocation": {
        const answer = await this.#signer.repeatRevocation();
        return await this.#answered(
          answer.ok ? { type: "revocation", ...answer.value } : { type: "refused", reason: answer.reason },
        );
      }
      case "check_secret": {
        const ours = await this.#signer.isOurSecret(action.number, action.secret);
        return await this.#answered({ type: "secret_checked", ours });
      }
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
        return this.#end({
          type: "released",
          reason: action.how === "closed" ? Released_Reason.CLOSED : Released_Reason.CHANNEL_FAILED,
          detail: action.reason,
        });
      default:
        return unreachable(action);
    }
  }

  async #answered(input: ClosingInput): Promise<void> {
    this.#mustOwn();
    await this.#input(input);
  }

  #end(how: Ended | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#stopped.abort();
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
