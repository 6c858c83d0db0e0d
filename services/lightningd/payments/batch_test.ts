import assert from "node:assert/strict";
import { Batcher } from "./batch.ts";

Deno.test("what comes while a batch is under way goes together in the next one, in order", async () => {
  const batches: number[][] = [];
  const gates: (() => void)[] = [];
  const batcher = new Batcher<number, number>(async (items) => {
    batches.push([...items]);
    await new Promise<void>((resolve) => gates.push(resolve));
    return items.map((item) => item * 10);
  });
  const first = [batcher.submit(1), batcher.submit(2)];
  await Promise.resolve();
  const later = [batcher.submit(3), batcher.submit(4), batcher.submit(5)];
  assert.deepEqual(batches, [[1, 2]]);
  gates.shift()?.();
  assert.deepEqual(await Promise.all(first), [10, 20]);
  await Promise.resolve();
  gates.shift()?.();
  assert.deepEqual(await Promise.all(later), [30, 40, 50]);
  assert.deepEqual(batches, [[1, 2], [3, 4, 5]]);
});

Deno.test("a batch has at most so many items, and a failure is that batch's alone", async () => {
  const sizes: number[] = [];
  const batcher = new Batcher<number, number>(async (items) => {
    sizes.push(items.length);
    if (items.includes(1)) throw new Error("no");
    return items;
  }, 2);
  const results = await Promise.allSettled([1, 2, 3, 4, 5].map((item) => batcher.submit(item)));
  assert.deepEqual(results.map(({ status }) => status), [
    "rejected",
    "rejected",
    "fulfilled",
    "fulfilled",
    "fulfilled",
  ]);
  assert.deepEqual(sizes, [2, 2, 1]);
});

Deno.test("exclusive work runs between batches", async () => {
  const log: string[] = [];
  const batcher = new Batcher<string, string>(async (items) => {
    log.push(`begin ${items}`);
    await Promise.resolve();
    log.push(`end ${items}`);
    return items;
  });
  const one = batcher.submit("a");
  await Promise.resolve();
  const alone = batcher.exclusive(async () => {
    log.push("alone");
    await Promise.resolve();
    log.push("alone ends");
  });
  const two = batcher.submit("b");
  await Promise.all([one, alone, two]);
  assert.deepEqual(log, ["begin a", "end a", "alone", "alone ends", "begin b", "end b"]);
});
