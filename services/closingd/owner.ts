/**
 * The owner of one channel that is being closed: a serial queue in front of the pure machine. Takes an input, steps, carries
 * out the actions in order; the answer to a question is stepped at once. Whatever goes wrong ends the ownership: memory
 * never goes on where it differs from the rows.
 */
import type { ClosingAction, ClosingInput, ClosingStep } from "bolt/closing/actions.ts";
import { type FeePlan, parseFeeStep } from "bolt/closing/fees.ts";
import { fromRows, planFor, statusOf, step } from "bolt/closing/machine.ts";
import type { ClosingForms, ClosingMachine } from "bolt/closing/types.ts";
import { unreachable } from "bolt/result.ts";
import { feerate } from "bolt/units.ts";
import { decodeMessage } from "bolt/wire/messages.ts";
import type { Channel, ServiceClient } from "common/grpc/client.ts";
import { patiently } from "common/grpc/patience.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import {
  ChannelOwner,
  type Connected,
  frameInput,
  type FrameItem,
  shutdownForms,
} from "subd/channel_owner.ts";
import type { Assigned, Ended } from "subd/owner.ts";
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

type WalletKey = { readonly change: boolean; readonly index: number } | undefined;

/** What nobody asked lightningd for yet. */
const NO_RATES = { min: feerate(0), ideal: feerate(0), max: feerate(0) };

/** Loads what was assigned. Throws SupersededError, RowError. */
export async function loadOwner(host: OwnerHost, assigned: Assigned, node: NodeFacts): Promise<Owner> {
  const rows = await loadChannel(host.sql, assigned.channel, assigned.epoch);
  const theirs = assigned.peerFeatures.length > 0 ? assigned.peerFeatures : rows.features.remote;
  return new Owner(host, assigned, rows, shutdownForms(node.features, theirs));
}

/** One owner. Everything happens in its queue, one after the other. */
export class Owner extends ChannelOwner {
  readonly #host: OwnerHost;
  readonly #signer: Signer;
  #state: ClosingMachine;
  /** Of our shutdown script, as lightningd says. */
  #key: WalletKey;

  constructor(host: OwnerHost, assigned: Assigned, rows: LoadedChannel, forms: ClosingForms) {
    super(assigned, { ...host, ...rows, channelId: rows.channel.channelId });
    this.#host = host;
    this.#state = fromRows(rows.channel, forms, planFor(rows.channel, forms, NO_RATES));
    const { channelKeyId, paymentKeyIndex, terms, local } = rows;
    const { funding, capacity } = rows.channel;
    const ref = { channelKeyId, paymentKeyIndex, epoch: this.epoch };
    this.#signer = new Signer(
      host.hsmd,
      host.hsmdChannel,
      { ref, terms, funding, capacity, local },
      this.stopped.signal,
    );
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

  /** Fee rates and decisions are read at each connection; what the chain says ends the ownership by itself. */
  lookAgain(): void {}

  protected override onEnded(how: Ended): void {
    this.#host.ended(this, how);
  }

  protected override async handleNext(): Promise<void> {
    const item = this.queue.shift();
    if (item === undefined) return;
    switch (item.type) {
      case "attach":
        return await this.attachTo(item.attachment);
      case "frame":
        return await this.#frame(item);
      case "gone":
        return await this.detach(item.attachment);
      default:
        return unreachable(item);
    }
  }

  protected override async onConnected(how: Connected): Promise<void> {
    const plan = await this.#plan();
    this.mustOwn();
    await this.#input({ ...how, plan });
  }

  protected override async onDisconnected(): Promise<void> {
    await this.#input({ type: "disconnected" });
    // A complete close waits for nobody: closingd is called again by a peer that does not know of it.
    if (this.#state.channel.signed.length > 0) this.giveUp("closed, and the peer is gone");
  }

  /** What a close may cost now, and where our money goes. */
  async #plan(): Promise<FeePlan> {
    const { channel, epoch } = this;
    const { lightningd } = this.#host;
    const { signal } = this.stopped;
    const plan = await patiently(() => lightningd.planClosing({ channel, epoch }, { signal }), signal);
    this.#key = plan.change === undefined || plan.keyIndex === undefined
      ? undefined
      : { change: plan.change, index: plan.keyIndex };
    const rates = {
      min: feerate(plan.minFeeratePerkw),
      ideal: feerate(plan.feeratePerkw),
      max: feerate(plan.maxFeeratePerkw),
    };
    return planFor(this.#state.channel, this.#state.forms, rates, parseFeeStep(plan.feeStep));
  }

  async #frame({ attachment, inSeq, data }: FrameItem): Promise<void> {
    if (attachment !== this.attachment || attachment.over) return;
    attachment.taken(inSeq);
    this.place = { ...this.place, inSeq };
    const input = frameInput(decodeMessage(data));
    if (input?.type === "message" && input.message.type === "channel_reestablish") {
      await this.reestablishCame();
    }
    if (input !== null) await this.#input(input);
    attachment.durable(inSeq);
  }

  async #input(input: ClosingInput): Promise<void> {
    await this.#perform(step(this.#state, input));
  }

  async #perform(next: ClosingStep): Promise<void> {
    this.#state = next.state;
    for (const action of next.actions) {
      this.mustOwn();
      await this.#carryOut(action);
      if (this.over) return;
    }
  }

  async #carryOut(action: ClosingAction): Promise<void> {
    switch (action.type) {
      case "store": {
        this.place = { ...this.place, outSeq: this.attachment?.outSeq ?? this.place.outSeq };
        const { funding } = this.#state.channel;
        this.fence = await saveStep(this.#host.sql, this.fence, action.step, this.place, funding);
        this.mustOwn();
        if (action.step.type === "save_close") this.#host.closed.inc();
        return this.#host.changed(this);
      }
      case "send":
        return this.attachment?.send(action.message);
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
        return this.hangUp(action.messages, action.reason);
      case "log":
        return this.log[action.level]({}, action.text);
      case "end":
        return this.handOver(
          action.how === "closed" ? Released_Reason.CLOSED : Released_Reason.CHANNEL_FAILED,
          action.reason,
          this.place.inSeq,
        );
      default:
        return unreachable(action);
    }
  }

  async #answered(input: ClosingInput): Promise<void> {
    this.mustOwn();
    await this.#input(input);
  }
}
