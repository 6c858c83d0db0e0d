/** What the machine asks of hsmd, as hsmd's requests, and its refusals as the machine knows them. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { HsmRefusal } from "bolt/dualopen/inputs.ts";
import type { Attempt, PartyKeys, SavedChannel } from "bolt/dualopen/types.ts";
import { ArcusError, Code, unavailable } from "common/grpc/errors.ts";
import type { ServiceClient } from "common/grpc/client.ts";
import type { AttemptTermsSchema, Hsmd, SignFundingAttemptRequestSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { patiently } from "common/grpc/patience.ts";
import { SupersededError } from "subd/fence.ts";
import { channelTerms } from "subd/terms.ts";

/** Why hsmd refuses whatever it is asked: a person or a restart lifts that, so it is no channel's fault. */
const OF_ALL_CHANNELS: ReadonlySet<string> = new Set([
  "MEMORY_LOST",
  "MEMORY_ROLLED_BACK",
  "NOT_BOUND",
  "FOREIGN_DATABASE",
]);

/** The channel as hsmd knows it. */
export interface HsmChannel {
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly epoch: bigint;
}

/** hsmd's answer, or why it refused. */
export type HsmAnswer<T> = { readonly ok: true; readonly value: T } | {
  readonly ok: false;
  readonly refusal: HsmRefusal;
};

/** One attempt (AttemptTerms). */
export function attemptTerms({ tx }: Attempt): MessageInitShape<typeof AttemptTermsSchema> {
  return {
    fundingTx: tx.unsignedTx,
    outputIndex: tx.fundingOutputIndex,
    localContributionSat: tx.contributions.local,
    remoteContributionSat: tx.contributions.remote,
  };
}

/** Everything of an attempt that hsmd checks before it signs. */
export function fundingRequest(
  hsm: HsmChannel,
  channel: Pick<SavedChannel, "opener" | "params">,
  attempt: Attempt,
  remoteSignature: Uint8Array,
  signInputs: boolean,
): MessageInitShape<typeof SignFundingAttemptRequestSchema> {
  const { tx, wallet } = attempt;
  const keys = (entries: typeof wallet.inputs) =>
    Object.fromEntries(
      entries.map(({ index, key }) => [index, { change: key.change, index: key.index }]),
    );
  return {
    channel: hsm,
    terms: channelTerms(channel),
    attempt: attemptTerms(attempt),
    remoteSignature,
    signInputs,
    prevouts: tx.inputs.map(({ amount, script }) => ({ amountSat: amount, script })),
    inputs: keys(wallet.inputs),
    change: keys(wallet.change),
    destinations: [...wallet.destinations],
    maxFeeSat: attempt.maxFee,
  };
}

/** hsmd for one owner. Every method throws SupersededError for a stale epoch, and ArcusError when hsmd stays away. */
export class Signer {
  constructor(
    private readonly hsmd: ServiceClient<typeof Hsmd>,
    private readonly hsm: HsmChannel,
    /** Aborted when the owner lets go. */
    private readonly signal: AbortSignal,
  ) {}

  /** Our public keys of the channel. */
  async keys(): Promise<PartyKeys> {
    const { channelKeyId, paymentKeyIndex } = this.hsm;
    const { keys } = await this.#patiently(() =>
      this.hsmd.getChannelKeys({ channelKeyId, paymentKeyIndex }, { signal: this.signal })
    );
    if (keys === undefined) {
      throw new ArcusError({ code: Code.INTERNAL, reason: "NO_KEYS", message: "no keys" });
    }
    return {
      fundingPubkey: keys.fundingPubkey,
      revocationBasepoint: keys.revocationBasepoint,
      paymentBasepoint: keys.paymentBasepoint,
      delayedPaymentBasepoint: keys.delayedPaymentBasepoint,
      htlcBasepoint: keys.htlcBasepoint,
      firstPerCommitmentPoint: keys.firstPerCommitmentPoint,
      secondPerCommitmentPoint: keys.secondPerCommitmentPoint,
    };
  }

  /** The signature on the peer's commitment 0, the same at every repetition. */
  signRemoteCommitment(channel: SavedChannel, attempt: Attempt): Promise<HsmAnswer<Uint8Array>> {
    return this.#answered(async () => {
      const { signature } = await this.hsmd.signRemoteCommitment0({
        channel: this.hsm,
        terms: channelTerms(channel),
        attempt: attemptTerms(attempt),
      }, { signal: this.signal });
      return signature;
    });
  }

  /** Whether the peer's signature on our commitment 0 is good. */
  checkLocalCommitment(
    channel: SavedChannel,
    attempt: Attempt,
    signature: Uint8Array,
  ): Promise<HsmAnswer<true>> {
    return this.#answered(async () => {
      const request = fundingRequest(this.hsm, channel, attempt, signature, false);
      await this.hsmd.signFundingAttempt(request, { signal: this.signal });
      return true as const;
    });
  }

  /** Witnesses of our wallet's inputs, by index. */
  signFunding(channel: SavedChannel, attempt: Attempt): Promise<HsmAnswer<ReadonlyMap<number, Uint8Array>>> {
    return this.#answered(async () => {
      const { remoteCommitmentSignature } = attempt;
      if (remoteCommitmentSignature === null) throw new RangeError("no commitment of the peer is stored");
      const request = fundingRequest(this.hsm, channel, attempt, remoteCommitmentSignature, true);
      const { witnesses } = await this.hsmd.signFundingAttempt(request, { signal: this.signal });
      return new Map(Object.entries(witnesses).map(([index, witness]) => [Number(index), witness]));
    });
  }

  /**
   * Only this attempt's outpoint from now on. An hsmd that refuses whatever it is asked says nothing about this channel:
   * that throws UNAVAILABLE, and the next owner asks again.
   */
  async lockFunding({ tx }: Attempt): Promise<HsmAnswer<true>> {
    const answer = await this.#answered(async () => {
      const outpoint = { txid: tx.txid, vout: tx.fundingOutputIndex };
      await this.hsmd.lockFunding({ channel: this.hsm, outpoint }, { signal: this.signal });
      return true as const;
    });
    if (!answer.ok && answer.refusal.type === "refused" && OF_ALL_CHANNELS.has(answer.refusal.reason)) {
      throw unavailable("HSMD_DISTRUSTED", `hsmd signs nothing now: ${answer.refusal.reason}`);
    }
    return answer;
  }

  async #answered<T>(ask: () => Promise<T>): Promise<HsmAnswer<T>> {
    try {
      return { ok: true, value: await this.#patiently(ask) };
    } catch (error) {
      if (!(error instanceof ArcusError)) throw error;
      const isRefusal = error.code === Code.FAILED_PRECONDITION || error.code === Code.INVALID_ARGUMENT;
      if (!isRefusal) throw error;
      return {
        ok: false,
        refusal: error.reason === "BAD_SIGNATURE"
          ? { type: "bad_signature" }
          : { type: "refused", reason: error.reason },
      };
    }
  }

  /** hsmd restarts, and is bound again: a request that has no answer yet is repeated for a while. */
  async #patiently<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await patiently(ask, this.signal);
    } catch (error) {
      if (error instanceof ArcusError && error.reason === "EPOCH_STALE") {
        throw new SupersededError("hsmd has a newer epoch", { cause: error });
      }
      throw error;
    }
  }
}
