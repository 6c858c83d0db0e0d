import assert from "node:assert/strict";
import { createProgress, PLAIN_INTERVAL_MS, withStep } from "./progress.ts";

function printer(tty: boolean) {
  const state = { text: "", time: 0 };
  const progress = createProgress({
    tty,
    write: (text) => state.text += text,
    now: () => state.time,
    columns: () => 20,
  });
  return { state, progress };
}

Deno.test("without a terminal: a title, a line in every interval, an end", () => {
  const { state, progress } = printer(false);
  const step = progress.step("building");
  step.update("early", 0.1);
  state.time = PLAIN_INTERVAL_MS;
  step.update("file.o", 0.42);
  step.update("file2.o", 0.43);
  state.time = 12_500;
  step.done("ok");
  step.done("twice");
  assert.equal(state.text, "… building\n… building: 42 % file.o (10 s)\n✓ building: ok (12.5 s)\n");
});

Deno.test("on a terminal the running step stays the last line and never wraps", () => {
  const { state, progress } = printer(true);
  const step = progress.step("a title longer than the terminal is wide");
  progress.info("meanwhile");
  state.time = 1_000;
  step.update("", 0.5);
  step.fail();
  const rows = state.text.replaceAll("\r\x1b[2K", "\n").split("\n").filter((row) => row.startsWith("…"));
  assert.ok(rows.length >= 3);
  for (const row of rows) assert.ok(row.length < 20, row);
  assert.ok(state.text.includes("\r\x1b[2Kmeanwhile\n\r\x1b[2K… a title"));
  assert.ok(state.text.endsWith("✗ a title longer than the terminal is wide (1.0 s)\n"));
});

Deno.test("withStep ends its step either way", async () => {
  const { state, progress } = printer(false);
  assert.equal(await withStep(progress, "good", () => Promise.resolve(1)), 1);
  await assert.rejects(withStep(progress, "bad", () => Promise.reject(new Error("no"))), /no/);
  assert.equal(state.text, "… good\n✓ good (0.0 s)\n… bad\n✗ bad (0.0 s)\n");
});
