/** How steps are served: in rounds, in order, one write for all that wait. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { ArcusError } from "common/grpc/errors.ts";
import {
  CommitmentStepSchema,
  type CommitmentStepsRequest,
  CommitmentStepsRequestSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { BegunStep } from "./hsm.ts";
import { StepLoop, type Stepper, type StepStream } from "./step_loop.ts";
import {
  bind,
  LockedChannel,
  mirrored,
  openChannel,
  openHsm,
  temporaryDirectory,
  type TestContent,
  type TestStep,
} from "./testing.ts";
import { join } from "node:path";

type Sent = Parameters<StepStream["write"]>[0];

/** The serving end of a stream whose other end is the test. */
class Stream implements StepStream {
  readonly answered: bigint[] = [];
  readonly refusals: string[] = [];
  readonly ended = Promise.withResolvers<unknown>();
  readonly peer = "test";
  closed = false;
  paused = false;
  /** Answers that it takes before it is full. */
  room = Infinity;
  #message: (message: CommitmentStepsRequest) => void = () => {};
  #drain: () => void = () => {};
  #end: (error: ArcusError | undefined) => void = () => {};
  readonly #over = new AbortController();
  readonly #waiting: { readonly count: number; readonly resolve: () => void }[] = [];

  get signal(): AbortSignal {
    return this.#over.signal;
  }

  write(message: Sent): boolean {
    if (this.closed) return false;
    for (const { stepId, refusal } of message.results ?? []) {
      this.answered.push(stepId ?? 0n);
      this.refusals.push(refusal ?? "");
    }
    while (this.#waiting[0] !== undefined && this.answered.length >= this.#waiting[0].count) {
      this.#waiting.shift()!.resolve();
    }
    return --this.room > 0;
  }

  onDrain(listener: () => void): void {
    this.#drain = listener;
  }

  onMessage(listener: (message: CommitmentStepsRequest) => void): void {
    this.#message = listener;
  }

  onEnd(listener: (error: ArcusError | undefined) => void): void {
    this.#end = listener;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  end(error?: unknown): void {
    if (this.closed) return;
    this.closed = true;
    this.#over.abort();
    this.ended.resolve(error);
  }

  cancel(): void {
    this.end(new Error("cancelled"));
  }

  ask(...steps: TestStep[]): void {
    this.#message(create(CommitmentStepsRequestSchema, {
      steps: steps.map((step) => create(CommitmentStepSchema, step)),
    }));
  }

  drain(): void {
    this.room = Infinity;
    this.#drain();
  }

  halfClose(): void {
    this.#end(undefined);
  }

  count(count: number): Promise<void> {
    if (this.answered.length >= count) return Promise.resolve();
    return new Promise((resolve) => void this.#waiting.push({ count, resolve }));
  }
}

const NEVER = new AbortController().signal;

/** A stepper that takes a while for each step, and notes what it was asked. */
function stepper(change: Partial<Stepper> = {}) {
  const begun: bigint[] = [];
  return {
    begun,
    beginStep({ stepId }: { readonly stepId: bigint }): BegunStep {
      begun.push(stepId);
      const until = performance.now() + 0.5;
      while (performance.now() < until);
      return { refusal: null, finish: () => ({ stepId }) };
    },
    settled: () => Promise.resolve(),
    ...change,
  };
}

function step(stepId: bigint): TestStep {
  return { stepId, channel: { channelKeyId: new Uint8Array(32), paymentKeyIndex: 0, epoch: 1n } };
}

const ids = (count: number) => Array.from({ length: count }, (_, i) => BigInt(i));

Deno.test("a long queue is served in rounds: others get their turn, and the order stays", async () => {
  const loop = new StepLoop(stepper());
  const stream = new Stream();
  loop.serve(stream, NEVER);
  stream.ask(...ids(300).map(step));
  let turns = 0;
  let counting = true;
  const count = () => {
    turns++;
    if (counting) setTimeout(count, 0);
  };
  count();
  await stream.count(300);
  counting = false;
  assert.deepEqual(stream.answered, ids(300));
  // 300 steps of half a millisecond, at most ten milliseconds a round.
  assert(turns >= 5, `${turns} turns`);
});

Deno.test("two streams share the rounds; each gets its own answers in its own order", async () => {
  const loop = new StepLoop(stepper());
  const [one, two] = [new Stream(), new Stream()];
  loop.serve(one, NEVER);
  loop.serve(two, NEVER);
  for (const id of ids(40)) {
    one.ask(step(id));
    two.ask(step(id), step(id + 1000n));
  }
  await Promise.all([one.count(40), two.count(80)]);
  assert.deepEqual(one.answered, ids(40));
  assert.deepEqual(two.answered, ids(40).flatMap((id) => [id, id + 1000n]));
});

Deno.test("a caller that does not read its answers is not read either, until it does", async () => {
  const loop = new StepLoop(stepper());
  const stream = new Stream();
  stream.room = 1;
  loop.serve(stream, NEVER);
  stream.ask(step(1n));
  await stream.count(1);
  assert.equal(stream.paused, true);
  stream.drain();
  assert.equal(stream.paused, false);
  stream.ask(step(2n));
  await stream.count(2);
});

Deno.test("too many waiting steps stop the reading; it goes on when they are served", async () => {
  const loop = new StepLoop({
    ...stepper(),
    beginStep: ({ stepId }) => ({ refusal: null, finish: () => ({ stepId }) }),
  });
  const stream = new Stream();
  loop.serve(stream, NEVER);
  stream.ask(...ids(5000).map(step));
  assert.equal(stream.paused, true);
  await stream.count(5000);
  assert.deepEqual(stream.answered, ids(5000));
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(stream.paused, false);
});

Deno.test("a defect ends the stream that it showed on, and no other", async () => {
  const defect = new Error("defect");
  const inner = stepper();
  const loop = new StepLoop({
    ...inner,
    beginStep(asked) {
      if (asked.stepId === 13n) throw defect;
      if (asked.stepId === 14n) {
        return {
          refusal: null,
          finish: () => {
            throw defect;
          },
        };
      }
      return inner.beginStep(asked);
    },
  });
  const [good, bad, worse] = [new Stream(), new Stream(), new Stream()];
  for (const stream of [good, bad, worse]) loop.serve(stream, NEVER);
  bad.ask(step(12n), step(13n), step(12n));
  worse.ask(step(14n));
  good.ask(step(1n), step(2n));
  await good.count(2);
  assert.equal(await bad.ended.promise, defect);
  assert.equal(await worse.ended.promise, defect);
  assert.deepEqual([bad.answered, good.answered, good.closed], [[], [1n, 2n], false]);
  good.ask(step(3n));
  await good.count(3);
});

Deno.test("what is not durable is never answered: the streams end", async () => {
  const lost = new Error("the disk is gone");
  const loop = new StepLoop(stepper({ settled: () => Promise.reject(lost) }));
  const stream = new Stream();
  loop.serve(stream, NEVER);
  stream.ask(step(1n));
  assert.equal(await stream.ended.promise, lost);
  assert.deepEqual(stream.answered, []);
});

Deno.test("the last answers go out before the stream ends: by the caller's half, by a drain", async () => {
  const draining = new AbortController();
  const loop = new StepLoop(stepper());
  const [half, drained, idle, late] = [new Stream(), new Stream(), new Stream(), new Stream()];
  loop.serve(half, NEVER);
  loop.serve(drained, draining.signal);
  loop.serve(idle, draining.signal);
  half.ask(...ids(5).map(step));
  drained.ask(...ids(5).map(step));
  half.halfClose();
  draining.abort();
  drained.ask(step(99n));
  assert.equal(await half.ended.promise, undefined);
  for (const stream of [drained, idle]) {
    const error = await stream.ended.promise;
    assert(error instanceof ArcusError);
    assert.equal(error.reason, "DRAINING");
  }
  assert.deepEqual([half.answered, drained.answered, idle.answered], [ids(5), ids(5), []]);
  loop.serve(late, draining.signal);
  assert(await late.ended.promise instanceof ArcusError);
});

Deno.test("the steps of many channels cost one write", async () => {
  await using directory = await temporaryDirectory();
  await using a = await openHsm(join(directory.path, "a"));
  await using b = await openHsm(join(directory.path, "b"));
  await bind(a.hsm);
  await bind(b.hsm);
  const content: TestContent = { number: 1n, toRemoteMsat: 400_000_000n, feerate: 2500, htlcs: [] };
  const steps: TestStep[] = [];
  for (let i = 0; i < 8; i++) {
    const pair = await openChannel(a, b);
    const channel = await LockedChannel.open(pair, {
      opener: 600_000n,
      accepter: 400_000n,
      openerCoin: `a${i}`,
      accepterCoin: `b${i}`,
    });
    const signatures = await channel.sign(pair.accepter, mirrored(content, channel.capacitySat));
    const parts = { ...channel.verifying(content, signatures), ...channel.signing(pair.opener, content) };
    steps.push({ ...channel.step(pair.opener, parts, true), stepId: BigInt(i) });
  }
  const loop = new StepLoop(a.hsm, () => {}, Infinity);
  const stream = new Stream();
  loop.serve(stream, NEVER);
  const { frames } = a.file;
  const { highWater } = a.file.memory;
  stream.ask(...steps);
  await stream.count(8);
  assert.deepEqual([stream.answered, stream.refusals], [ids(8), Array(8).fill("")]);
  assert.equal(a.file.durableHighWater, highWater + 16n);
  assert.equal(a.file.frames - frames, 1);
});
