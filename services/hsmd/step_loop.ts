/**
 * Commitment steps of all streams, in the order in which they came. Each round takes what waits, decides and remembers
 * it, signs while the disk writes, and answers when that is durable: one fsync for all.
 */
import { setImmediate } from "node:timers";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { unavailable } from "common/grpc/errors.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type {
  CommitmentStep,
  CommitmentStepResultSchema,
  CommitmentStepsRequest,
  CommitmentStepsResponseSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { BegunStep } from "./hsm.ts";

/** How long one round may keep the other calls of this process waiting, milliseconds. */
const ROUND_MS = 10;
/** Steps that wait before their streams are read no further. */
const MAX_WAITING = 4096;

/** Steps come in, results go out. */
export type StepStream = BidiStream<
  CommitmentStepsRequest,
  MessageInitShape<typeof CommitmentStepsResponseSchema>
>;

/** What the loop needs of hsmd. */
export interface Stepper {
  /** Decides and remembers. */
  beginStep(step: CommitmentStep): BegunStep;
  /** Resolves when all that was begun until now is durable; in the order of the calls. */
  settled(): Promise<void>;
}

interface Caller {
  readonly stream: StepStream;
  /** Steps that have no answer yet. */
  open: number;
  /** Its answers pile up. */
  full: boolean;
  /** Not read further. */
  paused: boolean;
  /** Ends the stream once everything is answered; null: it goes on. */
  last: (() => void) | null;
}

type StepResult = MessageInitShape<typeof CommitmentStepResultSchema>;

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Serves the streams of CommitmentSteps. */
export class StepLoop {
  #waiting: { readonly caller: Caller; readonly step: CommitmentStep }[] = [];
  readonly #paused = new Set<Caller>();
  #running = false;

  constructor(
    private readonly stepper: Stepper,
    /** Told of every step: "OK", or why it was refused. */
    private readonly observe: (outcome: string) => void = () => {},
    private readonly roundMs: number = ROUND_MS,
  ) {}

  /** Takes a stream over. It ends when the caller's half does, or, once `draining` is aborted, when nothing is open. */
  serve(stream: StepStream, draining: AbortSignal): void {
    const caller: Caller = { stream, open: 0, full: false, paused: false, last: null };
    const finish = (last: () => void): void => {
      caller.last ??= last;
      if (caller.open === 0) caller.last();
    };
    const leave = () => finish(() => stream.end(unavailable("DRAINING", "hsmd is going away")));
    stream.onDrain(() => {
      caller.full = false;
      this.#flow(caller);
    });
    stream.onMessage(({ steps }) => this.#take(caller, steps));
    stream.onEnd((error) => {
      draining.removeEventListener("abort", leave);
      this.#paused.delete(caller);
      if (error === undefined) finish(() => stream.end());
    });
    if (draining.aborted) leave();
    else draining.addEventListener("abort", leave, { once: true });
  }

  #take(caller: Caller, steps: readonly CommitmentStep[]): void {
    if (caller.last !== null || steps.length === 0) return;
    caller.open += steps.length;
    for (const step of steps) this.#waiting.push({ caller, step });
    this.#flow(caller);
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  /** Reads a stream, or does not, as there is room. */
  #flow(caller: Caller): void {
    const paused = caller.full || this.#waiting.length > MAX_WAITING;
    if (paused === caller.paused) return;
    caller.paused = paused;
    if (paused) {
      this.#paused.add(caller);
      caller.stream.pause();
    } else {
      this.#paused.delete(caller);
      caller.stream.resume();
    }
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      // Everything that came in during this turn of the event loop belongs to one round.
      await nextTurn();
      await this.#round();
      for (const caller of [...this.#paused]) this.#flow(caller);
    }
    this.#running = false;
  }

  async #round(): Promise<void> {
    const begun: { readonly caller: Caller; readonly step: BegunStep }[] = [];
    const until = performance.now() + this.roundMs;
    const waiting = this.#waiting;
    let taken = 0;
    while (taken < waiting.length && (taken === 0 || performance.now() < until)) {
      const { caller, step } = waiting[taken++]!;
      guarded(caller, () => begun.push({ caller, step: this.stepper.beginStep(step) }));
    }
    this.#waiting = waiting.slice(taken);
    const durable = this.stepper.settled();
    durable.catch(() => {});
    // The write begins; the curve works meanwhile.
    await Promise.resolve();
    const answers = new Map<Caller, StepResult[]>();
    for (const { caller, step } of begun) {
      guarded(caller, () => {
        const result = step.finish();
        const results = answers.get(caller);
        if (results === undefined) answers.set(caller, [result]);
        else results.push(result);
      });
      this.observe(step.refusal ?? "OK");
    }
    durable.then(
      () => this.#answer(answers),
      (error) => {
        for (const { stream } of answers.keys()) stream.end(error);
      },
    );
  }

  #answer(answers: ReadonlyMap<Caller, StepResult[]>): void {
    for (const [caller, results] of answers) {
      caller.open -= results.length;
      caller.full = !caller.stream.write({ results }) && !caller.stream.closed;
      this.#flow(caller);
      if (caller.open === 0) caller.last?.();
    }
  }
}

/** A defect ends the stream that it showed on, and no other. */
function guarded(caller: Caller, code: () => void): void {
  if (caller.stream.closed) return;
  try {
    code();
  } catch (error) {
    caller.stream.end(error);
  }
}
