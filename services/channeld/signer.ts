/**
 * hsmd for every channel of this replica: one CommitmentSteps stream, the steps of several owners in one message. A step
 * that has no answer when the stream is lost is asked again on the next one: it names the same content, so the answer is
 * the same.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Channel, openBidi } from "common/grpc/client.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import {
  type ChannelTermsSchema,
  type CommitmentStepResult,
  type CommitmentStepSchema,
  type CommitmentStepsRequestSchema,
  type CommitmentStepsResponse,
  Hsmd,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { BatchStream } from "subd/batch_stream.ts";

/** Before a step that hsmd could not take yet (it waits to be bound) is asked again. */
const AGAIN_MS = 100;

type StepInit = MessageInitShape<typeof CommitmentStepSchema>;
/** What the commitments of a channel depend on and never change. */
export type Terms = MessageInitShape<typeof ChannelTermsSchema>;
/** A step, without what the stream adds. */
export type StepRequest = Omit<StepInit, "$typeName" | "stepId" | "terms">;

interface Waiting {
  readonly request: StepRequest;
  readonly asker: StepAsker;
  readonly resolve: (result: CommitmentStepResult) => void;
}

/** Who asks: one owner. Its terms go with its first step on each stream. */
export interface StepAsker {
  readonly terms: Terms;
  readonly signal: AbortSignal;
}

/** What the signer needs. */
export interface SignerOptions {
  readonly hsmd: Channel;
  readonly log: Logger;
  readonly timer: (ms: number, callback: () => void) => () => void;
}

/** Bytes of one HTLC in a commitment: its columns, and the peer's signature or ours. */
const HTLC_BYTES = 160;

/** A step with all HTLCs that a channel can have is 300 kB, and its answer has their signatures. */
function weigh({ outpoints }: StepInit): number {
  let htlcs = 0;
  for (const { verify, sign } of outpoints ?? []) {
    htlcs += (verify?.htlcIds?.length ?? 0) + (sign?.htlcIds?.length ?? 0);
  }
  return htlcs * HTLC_BYTES;
}

/** The client of CommitmentSteps. */
export class StepSigner {
  readonly #stream: BatchStream<StepInit, CommitmentStepsResponse, CommitmentStepsSent>;
  readonly #waiting = new Map<bigint, Waiting>();
  /** Whose terms this stream has. */
  #told = new WeakSet<StepAsker>();
  #lastId = 0n;

  constructor(private readonly options: SignerOptions) {
    this.#stream = new BatchStream({
      name: "hsmd",
      log: options.log,
      timer: options.timer,
      open: () => openBidi(options.hsmd, Hsmd.method.commitmentSteps, { waitForReady: true }),
      batch: (steps) => ({ steps }),
      weigh,
      opened: () => {
        this.#told = new WeakSet();
        for (const stepId of this.#waiting.keys()) this.#say(stepId);
      },
      received: ({ results }) => {
        for (const result of results) this.#answered(result);
      },
    });
  }

  /** Opens the stream. */
  start(): void {
    this.#stream.start();
  }

  /** Ends it: what was asked is never answered. */
  stop(): void {
    this.#stream.stop();
    this.#waiting.clear();
  }

  /** Asks until hsmd answers. Rejects CANCELLED when the asker lets go first. */
  ask(asker: StepAsker, request: StepRequest): Promise<CommitmentStepResult> {
    const { signal } = asker;
    const stepId = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const abandoned = () => {
        this.#waiting.delete(stepId);
        reject(new ArcusError({ code: Code.CANCELLED, reason: "CANCELLED", message: "the owner let go" }));
      };
      if (signal.aborted) return abandoned();
      signal.addEventListener("abort", abandoned, { once: true });
      const done = (result: CommitmentStepResult) => {
        signal.removeEventListener("abort", abandoned);
        resolve(result);
      };
      this.#waiting.set(stepId, { request, asker, resolve: done });
      this.#say(stepId);
    });
  }

  #say(stepId: bigint): void {
    const waiting = this.#waiting.get(stepId);
    if (waiting === undefined) return;
    const { request, asker } = waiting;
    const known = this.#told.has(asker);
    if (!known) this.#told.add(asker);
    this.#stream.push({ ...request, stepId, ...(known ? {} : { terms: asker.terms }) });
  }

  #answered(result: CommitmentStepResult): void {
    const waiting = this.#waiting.get(result.stepId);
    if (waiting === undefined) return;
    switch (result.refusal) {
      case "TERMS_UNKNOWN":
        this.#told.delete(waiting.asker);
        return this.#say(result.stepId);
      case "NOT_BOUND":
        this.options.timer(AGAIN_MS, () => this.#say(result.stepId));
        return;
    }
    this.#waiting.delete(result.stepId);
    waiting.resolve(result);
  }
}

type CommitmentStepsSent = MessageInitShape<typeof CommitmentStepsRequestSchema>;
