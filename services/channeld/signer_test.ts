import assert from "node:assert/strict";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { dial } from "common/grpc/client.ts";
import { type ArcusServer, createServer, implement } from "common/grpc/server.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger } from "common/log.ts";
import { waitFor } from "common/testing/wait.ts";
import {
  type CommitmentStep,
  type CommitmentStepsRequest,
  type CommitmentStepsResponseSchema,
  Hsmd,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type StepAsker, StepSigner } from "./signer.ts";

const log = createLogger({ level: "broken" });
type Stream = BidiStream<CommitmentStepsRequest, MessageInitShape<typeof CommitmentStepsResponseSchema>>;

/** An hsmd that answers what the test says; it stays until the file ends, like every server of a test. */
class Stand {
  readonly streams: Stream[] = [];
  readonly batches: CommitmentStep[][] = [];
  readonly server: ArcusServer;

  constructor() {
    const hsmd = implement(Hsmd, {
      commitmentSteps: {
        open: (stream) => {
          this.streams.push(stream);
          stream.onMessage(({ steps }) => this.batches.push(steps));
          stream.onEnd(() => stream.end());
        },
      },
    });
    this.server = createServer({ services: [hsmd], log });
  }

  get steps(): CommitmentStep[] {
    return this.batches.flat();
  }

  answer(stepId: bigint, refusal = ""): void {
    this.streams.at(-1)?.write({ results: [{ stepId, refusal }] });
  }

  async step(count: number): Promise<CommitmentStep> {
    await waitFor(() => this.steps.length >= count, { what: `step ${count}` });
    return this.steps[count - 1]!;
  }
}

/** Servers and clients share this process: see tests/channeld. */
function test(name: string, fn: (stand: Stand, signer: StepSigner) => Promise<void>): void {
  Deno.test({
    name,
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const stand = new Stand();
      const hsmd = dial(await stand.server.listen("127.0.0.1:0"));
      const timer = (ms: number, callback: () => void) => {
        const id = setTimeout(callback, ms);
        return () => clearTimeout(id);
      };
      const signer = new StepSigner({ hsmd, log, timer });
      signer.start();
      try {
        await fn(stand, signer);
      } finally {
        signer.stop();
        hsmd.close();
      }
    },
  });
}

function asker(name: number): StepAsker & { readonly abort: AbortController } {
  const abort = new AbortController();
  return { terms: { channelType: Uint8Array.of(name) }, signal: abort.signal, abort };
}

const request = { outpoints: [], revoke: true };

test(
  "steps of several owners leave in one message; terms go with the first step of each",
  async (stand, signer) => {
    const [one, two] = [asker(1), asker(2)];
    const answers = [one, two, one].map((who) => signer.ask(who, request));
    await stand.step(3);
    assert.equal(stand.batches.length, 1);
    assert.deepEqual(stand.steps.map(({ terms }) => terms?.channelType[0]), [1, 2, undefined]);
    // Answers may overtake each other.
    for (const { stepId } of [...stand.steps].reverse()) stand.answer(stepId);
    const ids = (await Promise.all(answers)).map(({ stepId }) => stepId);
    assert.deepEqual(ids, stand.steps.map(({ stepId }) => stepId));
  },
);

test(
  "an hsmd that does not know the terms is told them, and one that is not bound yet is asked again",
  async (stand, signer) => {
    const who = asker(1);
    const first = signer.ask(who, request);
    stand.answer((await stand.step(1)).stepId);
    await first;
    const second = signer.ask(who, request);
    const step = await stand.step(2);
    assert.equal(step.terms, undefined);
    stand.answer(step.stepId, "TERMS_UNKNOWN");
    const again = await stand.step(3);
    assert.deepEqual([again.stepId, again.terms?.channelType[0]], [step.stepId, 1]);
    stand.answer(again.stepId, "NOT_BOUND");
    assert.equal((await stand.step(4)).stepId, step.stepId);
    stand.answer(step.stepId);
    assert.equal((await second).refusal, "");
  },
);

test(
  "a stream that is lost is opened again, and what has no answer is asked again with its terms",
  async (stand, signer) => {
    const [one, two] = [asker(1), asker(2)];
    const [first, second] = [signer.ask(one, request), signer.ask(two, request)];
    const { stepId } = await stand.step(2);
    stand.answer((await stand.step(1)).stepId);
    await first;
    stand.streams[0]!.end();
    const again = await stand.step(3);
    assert.deepEqual([again.stepId, again.terms?.channelType[0], stand.streams.length], [stepId, 2, 2]);
    stand.answer(stepId);
    assert.equal((await second).stepId, stepId);
  },
);

test("an owner that lets go hears no answer, and its step is not asked again", async (stand, signer) => {
  const [one, two] = [asker(1), asker(2)];
  const answer = signer.ask(one, request);
  await stand.step(1);
  one.abort.abort();
  await assert.rejects(answer, /let go/);
  await assert.rejects(signer.ask(one, request), /let go/);
  stand.streams[0]!.end();
  await waitFor(() => stand.streams.length === 2, { what: "a new stream" });
  const other = signer.ask(two, request);
  const step = await stand.step(2);
  assert.equal(step.terms?.channelType[0], 2);
  stand.answer(step.stepId);
  await other;
});
