/** The machine's questions to hsmd, and hsmd's answers as the machine knows them. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { concatBytes } from "@noble/hashes/utils.js";
import type { CommitmentContent, HsmdAnswer, HsmdRequest } from "bolt/channel/types.ts";
import type { ServiceClient } from "common/grpc/client.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { patiently } from "common/grpc/patience.ts";
import type {
  CommitmentContentSchema,
  CommitmentStepResult,
  Hsmd,
  OutpointStepSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { SupersededError } from "subd/fence.ts";
import type { StepAsker, StepRequest, StepSigner, Terms } from "./signer.ts";

/** The channel as hsmd knows it. */
export interface HsmChannel {
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly epoch: bigint;
}

function content(commitment: CommitmentContent): MessageInitShape<typeof CommitmentContentSchema> {
  const { htlcs } = commitment;
  return {
    number: commitment.number,
    toLocalMsat: commitment.toLocal,
    toRemoteMsat: commitment.toRemote,
    feeratePerkw: commitment.feerate,
    htlcIds: htlcs.map((htlc) => htlc.id),
    htlcOffered: htlcs.map((htlc) => htlc.offered),
    htlcAmountMsat: htlcs.map((htlc) => htlc.amount),
    htlcPaymentHashes: concatBytes(...htlcs.map((htlc) => htlc.paymentHash)),
    htlcCltvExpiry: htlcs.map((htlc) => htlc.cltvExpiry),
  };
}

function stepOf(channel: HsmChannel, { outpoints, revoke, ecdhPoints }: HsmdRequest): StepRequest {
  return {
    channel,
    outpoints: outpoints.map((
      { funding, capacity, verify, sign },
    ): MessageInitShape<typeof OutpointStepSchema> => ({
      outpoint: funding,
      capacitySat: capacity,
      ...(verify === null ? {} : {
        verify: content(verify.content),
        remoteSignature: verify.remoteSignature,
        remoteHtlcSignatures: verify.htlcSignatures,
      }),
      ...(sign === null ? {} : {
        sign: content(sign.content),
        remotePerCommitmentPoint: sign.perCommitmentPoint,
      }),
    })),
    revoke,
    ecdhPoints: [...ecdhPoints],
  };
}

const present = (bytes: Uint8Array): Uint8Array | null => bytes.length === 0 ? null : bytes;

/** Whom an owner asks: hsmd, for its channel and epoch, until it lets go. */
export class Questioner implements StepAsker {
  constructor(
    private readonly signer: StepSigner,
    private readonly hsmd: ServiceClient<typeof Hsmd>,
    private readonly channel: HsmChannel,
    readonly terms: Terms,
    readonly signal: AbortSignal,
  ) {}

  /** hsmd's answer, however long it is away. SupersededError for an epoch that it does not serve any more. */
  async ask(request: HsmdRequest): Promise<HsmdAnswer> {
    const points = await Promise.all(request.pointNumbers.map((number) => this.#point(number)));
    if (request.outpoints.length === 0) {
      const { ecdhPoints } = request;
      return {
        type: "answered",
        outpoints: [],
        perCommitmentSecret: null,
        nextPerCommitmentPoint: null,
        sharedSecrets: ecdhPoints.length === 0 ? [] : await this.#ecdh(ecdhPoints),
        points,
      };
    }
    const result = await this.signer.ask(this, stepOf(this.channel, request));
    return answerOf(request, result, points);
  }

  async #ecdh(points: readonly Uint8Array[]): Promise<readonly Uint8Array[]> {
    const { secrets } = await patiently(
      () => this.hsmd.ecdhMany({ points: [...points] }, { signal: this.signal }),
      this.signal,
    );
    return secrets;
  }

  async #point(number: bigint): Promise<Uint8Array | null> {
    const { channelKeyId } = this.channel;
    try {
      const { point } = await patiently(
        () => this.hsmd.getPerCommitmentPoint({ channelKeyId, number }, { signal: this.signal }),
        this.signal,
      );
      return point;
    } catch (error) {
      const refused = error instanceof ArcusError &&
        (error.code === Code.FAILED_PRECONDITION || error.code === Code.INVALID_ARGUMENT);
      if (!refused) throw error;
      return null;
    }
  }
}

function answerOf(
  request: HsmdRequest,
  result: CommitmentStepResult,
  points: readonly (Uint8Array | null)[],
): HsmdAnswer {
  const { refusal, detail } = result;
  if (refusal === "EPOCH_STALE") throw new SupersededError("hsmd has a newer epoch");
  if (refusal !== "") return { type: "refused", reason: refusal, detail };
  const whole = result.outpoints.length === request.outpoints.length &&
    result.sharedSecrets.length === request.ecdhPoints.length;
  if (!whole) {
    throw new ArcusError({
      code: Code.INTERNAL,
      reason: "INCOMPLETE",
      message: "an answer without all its parts",
    });
  }
  return {
    type: "answered",
    outpoints: result.outpoints,
    perCommitmentSecret: present(result.perCommitmentSecret),
    nextPerCommitmentPoint: present(result.nextPerCommitmentPoint),
    sharedSecrets: result.sharedSecrets,
    points,
  };
}
