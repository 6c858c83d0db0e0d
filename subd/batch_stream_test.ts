import assert from "node:assert/strict";
import type { BidiStream } from "common/grpc/stream.ts";
import { createLogger } from "common/log.ts";
import { BatchStream } from "./batch_stream.ts";

/** What a stream was given to write, and a way to hold it back. */
function written(weight: number) {
  const batches: number[][] = [];
  const stream: BidiStream<never, number[]> = {
    write: (items) => {
      batches.push(items);
      return true;
    },
    onDrain: () => {},
    onMessage: () => {},
    onEnd: () => {},
    pause: () => {},
    resume: () => {},
    end: () => {},
    cancel: () => {},
    closed: false,
    signal: new AbortController().signal,
    peer: "unknown",
  };
  const sent = new BatchStream<number, never, number[]>({
    name: "test",
    log: createLogger({ level: "broken" }),
    timer: () => () => {},
    open: () => stream,
    batch: (items) => items,
    weigh: () => weight,
    opened: () => {},
    received: () => {},
  });
  sent.start();
  return { sent, batches };
}

Deno.test("what is said at once goes out in messages that are neither too many items nor too many bytes", async () => {
  const counts = async (weight: number, items: number) => {
    const { sent, batches } = written(weight);
    for (let i = 0; i < items; i++) sent.push(i);
    await Promise.resolve();
    assert.deepEqual(batches.flat(), Array.from({ length: items }, (_, i) => i));
    sent.stop();
    return batches.map(({ length }) => length);
  };
  assert.deepEqual(await counts(0, 513), [512, 1]);
  // 483 failures, each as long as a Lightning message: more than gRPC takes in one.
  const failures = await counts(65_000, 483);
  assert(failures.every((count) => count * 65_000 <= 4 * 1024 * 1024));
  // What is too large alone is said alone.
  assert.deepEqual(await counts(5 * 1024 * 1024, 2), [1, 1]);
});
