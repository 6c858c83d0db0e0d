import assert from "node:assert/strict";
import { percentile, rounded } from "./figures.ts";

Deno.test("percentiles of a sorted list", () => {
  const sorted = Array.from({ length: 100 }, (_, index) => index);
  assert.equal(percentile(sorted, 0.5), 50);
  assert.equal(percentile(sorted, 0.99), 99);
  assert.equal(percentile([7], 0.99), 7);
  assert.equal(percentile([], 0.5), NaN);
});

Deno.test("numbers are rounded wherever they are", () => {
  assert.deepEqual(rounded({ a: 1.23456, b: { c: [2.999] }, d: "x" }), { a: 1.23, b: { c: [3] }, d: "x" });
});
