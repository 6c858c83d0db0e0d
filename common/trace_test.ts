import assert from "node:assert/strict";
import {
  childTrace,
  currentTrace,
  formatTraceparent,
  newTrace,
  parseTraceparent,
  runWithTrace,
} from "common/trace.ts";

Deno.test("trace: a traceparent round-trips, and a child keeps the trace", () => {
  const trace = newTrace();
  assert.deepEqual(parseTraceparent(formatTraceparent(trace)), trace);
  const child = childTrace(trace);
  assert.equal(child.traceId, trace.traceId);
  assert.notEqual(child.spanId, trace.spanId);
  assert.equal(parseTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")?.sampled, false);
});

Deno.test("trace: malformed ones are ignored, a later version is read", () => {
  const [id, span] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
  for (
    const bad of [
      "",
      "garbage",
      `ff-${id}-${span}-01`,
      `00-${"0".repeat(32)}-${span}-01`,
      `00-${id}-${"0".repeat(16)}-01`,
      `00-${id.toUpperCase()}-${span}-01`,
      `00-${id}-${span}-01-more`,
      `00-${id}-${span}`,
    ]
  ) {
    assert.equal(parseTraceparent(bad), undefined, bad);
  }
  assert.equal(parseTraceparent(`cc-${id}-${span}-01-more`)?.traceId, id);
});

Deno.test("trace: it follows what is awaited, and nothing else", async () => {
  const [one, two] = [newTrace(), newTrace()];
  const seen = await Promise.all([one, two].map((trace) =>
    runWithTrace(trace, async () => {
      await Promise.resolve();
      return currentTrace();
    })
  ));
  assert.deepEqual(seen, [one, two]);
  assert.equal(currentTrace(), undefined);
});
