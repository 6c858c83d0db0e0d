import assert from "node:assert/strict";
import { OpenRate } from "./open_rate.ts";

Deno.test("opens count within the window, each peer's on their own", () => {
  const rate = new OpenRate(100);
  rate.note("a", 0);
  rate.note("a", 50);
  rate.note("b", 60);
  assert.equal(rate.lately("a", 99), 2);
  assert.equal(rate.lately("a", 100), 1);
  assert.equal(rate.lately("a", 150), 0);
  assert.equal(rate.lately("b", 150), 1);
  assert.equal(rate.lately("c", 150), 0);
});

Deno.test("peers that were silent for a window are forgotten, and beyond the bound the one silent longest", () => {
  const rate = new OpenRate(100, 2);
  rate.note("a", 0);
  rate.note("b", 10);
  rate.note("a", 20);
  rate.note("c", 30);
  assert.deepEqual([rate.size, rate.lately("b", 30), rate.lately("a", 30)], [2, 0, 2]);
  rate.note("d", 200);
  assert.equal(rate.size, 1);
});
