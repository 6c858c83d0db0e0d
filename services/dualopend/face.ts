/** The gRPC face: what connectd calls (arcus.subd.v1.Subd), and what lightningd and people call (Dualopend). */
import type { Input } from "bolt/dualopen/inputs.ts";
import { step } from "bolt/dualopen/machine.ts";
import { attemptOf, currentAttempt, type Step, weSigned } from "bolt/dualopen/step.ts";
import type { DualOpenState } from "bolt/dualopen/types.ts";
import { feerate } from "bolt/units.ts";
import { requireBytes } from "common/grpc/check.ts";
import { ArcusError, Code, failedPrecondition, invalidArgument, unavailable } from "common/grpc/errors.ts";
import { type CallContext, implement, type ImplementedService } from "common/grpc/server.ts";
import type { Logger } from "common/log.ts";
import {
  type BumpRequest,
  Dualopend,
  type NegotiationResponseSchema,
  type OpenInitRequest,
  type SignResponseSchema,
} from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import { subdFace } from "subd/face.ts";
import type { Owners } from "subd/owners.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { negotiationResponse, stateName, stepName } from "./negotiation.ts";
import type { Owner, OwnerEvent, Watch } from "./owner.ts";
import { pause } from "common/grpc/patience.ts";

/** How long OpenInit waits for connectd's stream, which lightningd asked for just before. */
export const ATTACH_WAIT_MS = 10_000;
/** Longest witness stack that a user may give: what tx_signatures can carry. */
const MAX_WITNESS_LENGTH = 0xffff;
const ENTROPY_LENGTH = 32;

/** Core Lightning's error codes for what fails here. */
const ClnCode = {
  generic: -1,
  nothingToCancel: 307,
  cancelNotSafe: 308,
  psbtInvalid: 309,
  unknownChannel: 311,
  stateInvalid: 312,
} as const;

type Negotiation = MessageInitShape<typeof NegotiationResponseSchema>;
type Signed = MessageInitShape<typeof SignResponseSchema>;

/** What the face needs. */
export interface FaceOptions {
  readonly owners: Owners<Owner>;
  readonly instance: string;
  readonly log: Logger;
  randomBytes(length: number): Uint8Array;
}

/** Both services. */
export function faces(options: FaceOptions): ImplementedService[] {
  return [subdFace(options), dualopendFace(options)];
}

// Commands -------------------------------------------------------------------------------------------------------

function failure(detail: string, clnCode: number = ClnCode.generic): ArcusError {
  return new ArcusError({
    code: Code.ABORTED,
    reason: "NEGOTIATION_FAILED",
    message: detail,
    clnCode,
    retryable: false,
  });
}

/** What no outcome of a command tells: the connection ended first. */
function whenGone(event: OwnerEvent): void {
  if (event.type === "peer_gone") {
    throw unavailable("PEER_GONE", "the peer disconnected; a channel that is saved goes on when it is back");
  }
}

function failed(event: OwnerEvent): void {
  if (event.type === "outcome" && event.outcome.type === "failed") {
    const { detail, byPeer } = event.outcome;
    throw failure(byPeer ? `the peer ended it: ${detail}` : detail);
  }
}

/** Until the peer waits for us, or the peer's commitment is secured. */
const untilOurTurn: Watch<Negotiation> = (event, owner) => {
  failed(event);
  whenGone(event);
  if (event.type !== "outcome") return undefined;
  const { type } = event.outcome;
  return type === "constructing" || type === "commitments_secured" ? negotiationResponse(owner) : undefined;
};

/** Until everything is signed by both. */
const untilComplete: Watch<Negotiation> = (event, owner) => {
  failed(event);
  whenGone(event);
  const complete = event.type === "outcome" && event.outcome.type === "signed" && event.outcome.complete;
  return complete ? negotiationResponse(owner) : undefined;
};

/** Until our signatures are committed as sent, and complete if the peer is there to complete them. */
const untilSigned: Watch<Signed> = (event, { state }) => {
  failed(event);
  const { channel } = state;
  if (channel === null) return undefined;
  const signed = (seq: number): Signed => {
    const { tx, completeTx } = attemptOf(channel, seq);
    return { tx: completeTx ?? tx.unsignedTx, txid: tx.txid, complete: completeTx !== null };
  };
  if (event.type === "peer_gone") {
    const attempt = currentAttempt(channel);
    if (attempt !== undefined && weSigned(attempt)) return signed(attempt.seq);
    throw unavailable("PEER_GONE", "the peer disconnected");
  }
  const { outcome } = event;
  if (outcome.type !== "signed") return undefined;
  return outcome.complete || state.link.type !== "up" ? signed(outcome.seq) : undefined;
};

const untilAborted: Watch<{ channelCanceled: boolean; reason: string }> = (event, { state }) => {
  if (event.type !== "outcome" || event.outcome.type !== "failed") return undefined;
  return { channelCanceled: state.channel === null, reason: event.outcome.detail };
};

/** Steps an input. */
function inputStep(input: Input): (state: DualOpenState) => Step {
  return (state) => step(state, input);
}

function checked<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError) throw invalidArgument("OUT_OF_RANGE", error.message);
    throw error;
  }
}

function dualopendFace(options: FaceOptions): ImplementedService {
  const { owners } = options;

  const owned = (
    which: { readonly channel?: bigint; readonly opening?: bigint; readonly channelId?: Uint8Array },
    epoch: bigint,
  ): Owner => {
    const { channel = 0n, opening = 0n, channelId } = which;
    const owner = owners.find({ channel, opening }) ??
      (channelId === undefined || channelId.length === 0 ? undefined : owners.findById(channelId));
    if (owner === undefined || owner.epoch !== epoch) {
      throw failedPrecondition("EPOCH_STALE", "this replica does not own it", {
        clnCode: ClnCode.unknownChannel,
      });
    }
    return owner;
  };

  const attached = async (owner: Owner, { signal }: CallContext): Promise<void> => {
    const stop = new AbortController();
    const timer = AbortSignal.any([signal, stop.signal]);
    const late = pause(ATTACH_WAIT_MS, timer).then(() => {
      if (!stop.signal.aborted) throw unavailable("NOT_ATTACHED", "connectd did not connect this channel");
    });
    late.catch(() => {});
    try {
      await Promise.race([owner.attached(), late]);
    } finally {
      stop.abort();
    }
  };

  const openInit = async (request: OpenInitRequest, context: CallContext): Promise<Negotiation> => {
    const owner = owned({ opening: request.opening }, request.epoch);
    const plan = await owner.readPlan(request.plan);
    await attached(owner, context);
    const input: Input = checked(() => ({
      type: "start_open",
      plan,
      fundingFeerate: feerate(request.fundingFeeratePerkw),
      commitmentFeerate: feerate(request.commitmentFeeratePerkw),
      locktime: request.locktime,
      channelType: request.channelType,
      requireConfirmedInputs: request.requireConfirmedInputs,
      drive: request.runToCompletion ? "automatic" : "manual",
      entropy: options.randomBytes(ENTROPY_LENGTH),
    }));
    const run = (state: DualOpenState): Step => {
      if (state.negotiation !== null || state.channel !== null) {
        throw failedPrecondition("ALREADY_STARTED", "this opening was started", {
          clnCode: ClnCode.stateInvalid,
        });
      }
      const setup = { ...state.setup, upfrontShutdownScript: request.upfrontShutdownScript };
      return step({ ...state, setup }, input);
    };
    return await owner.command(
      run,
      request.runToCompletion ? untilComplete : untilOurTurn,
      context.signal,
    );
  };

  const bump = async (request: BumpRequest, context: CallContext): Promise<Negotiation> => {
    const owner = owned({ channel: request.channel }, request.epoch);
    const plan = await owner.readPlan(request.plan);
    const input: Input = checked(() => ({
      type: "start_rbf",
      plan,
      feerate: feerate(request.feeratePerkw),
      locktime: request.locktime,
      requireConfirmedInputs: request.requireConfirmedInputs,
      drive: request.runToCompletion ? "automatic" : "manual",
      entropy: options.randomBytes(ENTROPY_LENGTH),
    }));
    const run = (state: DualOpenState): Step => {
      if (state.negotiation !== null) {
        // Its own opening stays; lightningd drops the one that it just made.
        throw failedPrecondition("NEGOTIATION_OPEN", "another negotiation is open", {
          clnCode: ClnCode.stateInvalid,
        });
      }
      owner.adoptRbf(request.opening);
      return step(state, input);
    };
    return await owner.command(
      run,
      request.runToCompletion ? untilComplete : untilOurTurn,
      context.signal,
    );
  };

  return implement(Dualopend, {
    openInit,
    bump,
    async update(request, { signal }) {
      const owner = owned(request, request.epoch);
      const plan = await owner.readPlan(request.plan);
      return await owner.command(inputStep({ type: "update", plan }), untilOurTurn, signal);
    },
    async sign(request, { signal }) {
      const owner = owned(request, request.epoch);
      const witnesses = new Map<number, Uint8Array>();
      for (const [index, witness] of Object.entries(request.witnesses)) {
        if (witness.length === 0 || witness.length > MAX_WITNESS_LENGTH) {
          throw invalidArgument("BAD_WITNESS", `the witness of input ${index} cannot be sent`, {
            clnCode: ClnCode.psbtInvalid,
          });
        }
        witnesses.set(Number(index), witness);
      }
      return await owner.command(inputStep({ type: "sign", witnesses }), untilSigned, signal);
    },
    async abort(request, { signal }) {
      const owner = owned(request, request.epoch);
      const run = (state: DualOpenState): Step => {
        const attempt = state.channel === null ? undefined : currentAttempt(state.channel);
        if (state.negotiation === null && (attempt === undefined || weSigned(attempt))) {
          throw failedPrecondition("NOT_ABORTABLE", "nothing is left that could be aborted", {
            clnCode: attempt === undefined ? ClnCode.nothingToCancel : ClnCode.cancelNotSafe,
          });
        }
        return step(state, { type: "abort", reason: request.reason || "aborted by the user" });
      };
      return await owner.command(run, untilAborted, signal);
    },
    listNegotiations: () => ({
      negotiations: owners.all().map((owner) => ({
        channel: owner.channel,
        opening: owner.opening,
        epoch: owner.epoch,
        channelId: requireBytes(owner.channelId, 32, "channel_id"),
        peerId: owner.peerId,
        state: stateName(owner.state),
        step: stepName(owner.state),
        attempts: owner.state.channel?.attempts.length ?? 0,
      })),
    }),
  });
}
