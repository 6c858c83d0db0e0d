/** What the closing machine asks of hsmd, as hsmd's requests. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { POINT_LENGTH } from "bolt/crypto/ecc.ts";
import { ecc } from "bolt/crypto/ecc.ts";
import type { ClosingChannel } from "bolt/closing/types.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { Sat } from "bolt/units.ts";
import { type Channel, openBidi, type ServiceClient } from "common/grpc/client.ts";
import { ArcusError, Code, unavailable } from "common/grpc/errors.ts";
import { patiently } from "common/grpc/patience.ts";
import {
  type ChannelTermsSchema,
  type CommitmentContentSchema,
  type CommitmentStepResult,
  Hsmd,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { SupersededError } from "subd/fence.ts";

/** How long one step may take. */
const STEP_MS = 10_000;
/** hsmd answers a step with the number that it was asked with; there is one at a time here. */
const STEP_ID = 1n;

/** The channel as hsmd knows it. */
export interface HsmChannel {
  readonly ref: {
    readonly channelKeyId: Uint8Array;
    readonly paymentKeyIndex: number;
    readonly epoch: bigint;
  };
  readonly terms: MessageInitShape<typeof ChannelTermsSchema>;
  readonly funding: ClosingChannel["funding"];
  readonly capacity: Sat;
  /** Our newest verified commitment; it has no HTLC. */
  readonly local: MessageInitShape<typeof CommitmentContentSchema>;
}

/** What hsmd shall sign. */
export interface ClosingRequest {
  readonly tx: Uint8Array;
  readonly localOutput: number | null;
  /** Of our output; undefined where a person named the destination. */
  readonly key: { readonly change: boolean; readonly index: number } | undefined;
  readonly maxFee: Sat;
  readonly theirs: Uint8Array | null;
}

/** An answer, or why there is none. */
export type HsmAnswer<T> = { readonly ok: true; readonly value: T } | {
  readonly ok: false;
  readonly reason: string;
};

/** hsmd for one owner. Every method throws SupersededError for a stale epoch, and ArcusError when hsmd stays away. */
export class Signer {
  constructor(
    private readonly hsmd: ServiceClient<typeof Hsmd>,
    private readonly channel: Channel,
    private readonly hsm: HsmChannel,
    /** Aborted when the owner lets go. */
    private readonly signal: AbortSignal,
  ) {}

  /** Our signature on a close; the peer's, if given, is verified first. */
  signClosing(request: ClosingRequest): Promise<HsmAnswer<Uint8Array>> {
    const { ref, terms, funding, capacity, local } = this.hsm;
    return this.#answered(async () => {
      const { signature } = await this.hsmd.signClosing({
        channel: ref,
        terms,
        outpoint: funding,
        capacitySat: capacity,
        local,
        tx: request.tx,
        maxFeeSat: request.maxFee,
        remoteSignature: request.theirs ?? new Uint8Array(),
        ...(request.localOutput === null ? {} : { localOutput: request.localOutput }),
        ...(request.key === undefined || request.localOutput === null ? {} : { key: request.key }),
      }, { signal: this.signal });
      return signature;
    });
  }

  /** Our last revocation, which hsmd released before. */
  repeatRevocation(): Promise<HsmAnswer<{ readonly secret: Uint8Array; readonly nextPoint: Uint8Array }>> {
    return this.#answered(async () => {
      const result = await this.#step();
      if (result.refusal !== "") {
        throw new ArcusError({
          code: Code.FAILED_PRECONDITION,
          reason: result.refusal,
          message: result.detail,
        });
      }
      return { secret: result.perCommitmentSecret, nextPoint: result.nextPerCommitmentPoint };
    });
  }

  #step(): Promise<CommitmentStepResult> {
    const { ref, terms, funding, capacity } = this.hsm;
    return new Promise((resolve, reject) => {
      const stream = openBidi(this.channel, Hsmd.method.commitmentSteps, { waitForReady: true });
      const end = (settle: () => void) => {
        clearTimeout(timer);
        this.signal.removeEventListener("abort", onAbort);
        settle();
        stream.cancel();
      };
      const onAbort = () => end(() => reject(unavailable("RELEASED", "this owner let go")));
      const timer = setTimeout(
        () => end(() => reject(unavailable("HSMD_AWAY", "no answer in time"))),
        STEP_MS,
      );
      this.signal.addEventListener("abort", onAbort);
      stream.onMessage(({ results }) => {
        const result = results.find(({ stepId }) => stepId === STEP_ID);
        if (result !== undefined) end(() => resolve(result));
      });
      stream.onEnd((error) => end(() => reject(error ?? unavailable("HSMD_AWAY", "the stream ended"))));
      stream.write({
        steps: [{
          stepId: STEP_ID,
          channel: ref,
          terms,
          outpoints: [{ outpoint: funding, capacitySat: capacity }],
          revoke: true,
        }],
      });
    });
  }

  /** Whether a secret is that of our commitment with this number. */
  async isOurSecret(number: bigint, secret: Uint8Array): Promise<boolean> {
    if (!ecc().isPrivate(secret)) return false;
    const { channelKeyId } = this.hsm.ref;
    const answer = await this.#answered(async () => {
      const { point } = await this.hsmd.getPerCommitmentPoint({ channelKeyId, number }, {
        signal: this.signal,
      });
      return point;
    });
    // hsmd knows no such number: then it is none of ours.
    if (!answer.ok) return false;
    return answer.value.length === POINT_LENGTH && sameBytes(answer.value, ecc().pointFromSecret(secret));
  }

  /** A refusal is an answer; what will pass is asked again for a while. */
  async #answered<T>(ask: () => Promise<T>): Promise<HsmAnswer<T>> {
    try {
      return { ok: true, value: await patiently(ask, this.signal) };
    } catch (error) {
      if (!(error instanceof ArcusError)) throw error;
      if (error.reason === "EPOCH_STALE") {
        throw new SupersededError("hsmd has a newer epoch", { cause: error });
      }
      const isRefusal = error.code === Code.FAILED_PRECONDITION || error.code === Code.INVALID_ARGUMENT;
      if (!isRefusal) throw error;
      return { ok: false, reason: error.reason };
    }
  }
}
