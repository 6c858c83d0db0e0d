import assert from "node:assert/strict";
import { closingLine, parseSummary } from "./test.ts";

Deno.test("the summary of a test run is read as it is", () => {
  const output = "noise 3 passed\n\nok | 68 passed (12 steps) | 0 failed | 2 ignored (4s)\n\n";
  assert.deepEqual(parseSummary(output), { passed: 68, failed: 0, ignored: 2 });
  assert.deepEqual(parseSummary("FAILED | 1 passed | 3 failed (1s)"), { passed: 1, failed: 3, ignored: 0 });
  assert.equal(parseSummary("error: nothing to test"), undefined);
});

Deno.test("the closing line counts", () => {
  assert.equal(closingLine({ passed: 5, failed: 0, ignored: 0 }), "5 passed, 0 failed");
  assert.equal(closingLine({ passed: 5, failed: 1, ignored: 2 }), "5 passed, 1 failed, 2 skipped");
});
