import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { Metadata, status } from "@grpc/grpc-js";
import fc from "fast-check";
import { ArcusError, fromStatus, notFound, toArcusError, toStatus, unavailable } from "common/grpc/errors.ts";

const CODES = Object.values(status).filter((code) =>
  typeof code === "number" && code !== status.OK
) as status[];
const TEXT = fc.string({ unit: "binary", maxLength: 200 });
const KEY = fc.stringMatching(/^[a-z][a-z0-9_]{0,20}$/).filter((key) =>
  !["cln_code", "channel", "retryable"].includes(key)
);

const ERROR = fc.record({
  code: fc.constantFrom(...CODES),
  reason: fc.stringMatching(/^[A-Z][A-Z0-9_]{0,30}$/),
  message: TEXT,
  clnCode: fc.option(fc.integer(), { nil: undefined }),
  channel: fc.option(fc.stringMatching(/^[0-9a-f]{64}$/), { nil: undefined }),
  retryable: fc.boolean(),
  details: fc.dictionary(KEY, TEXT, { maxKeys: 8, noNullPrototype: true }),
});

Deno.test("errors: every error survives the way over a status", () => {
  fc.assert(fc.property(ERROR, (init) => {
    const error = new ArcusError(init);
    const back = fromStatus(toStatus(error));
    assert.deepEqual(
      { ...back, message: back.message },
      { ...error, message: error.message },
    );
  }));
});

Deno.test("errors: long and ill-formed texts are cut, never refused", () => {
  const state = toStatus(notFound("X", "\ud800".repeat(100_000), { details: { a: "b".repeat(100_000) } }));
  assert.doesNotThrow(() => encodeURI(state.details));
  const size = (state.metadata.get("grpc-status-details-bin")[0] ?? "").length;
  assert(size < 6 * 1024 && state.details.length <= 1024, `${size} bytes`);
});

Deno.test("errors: garbage where the details should be is ignored", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
    const metadata = new Metadata();
    metadata.set("grpc-status-details-bin", Buffer.from(bytes));
    const error = fromStatus({ code: status.ABORTED, details: "text", metadata });
    assert.equal(error.code, status.ABORTED);
    assert.equal(error.message, "text");
  }));
});

Deno.test("errors: only what is unavailable is retryable by itself", () => {
  assert.equal(unavailable("DOWN", "down").retryable, true);
  assert.equal(notFound("NO", "no").retryable, false);
  assert.equal(fromStatus({ code: status.UNAVAILABLE }).retryable, true);
});

Deno.test("errors: anything thrown becomes one, with nothing of it in the text", () => {
  for (const thrown of [new Error("secret"), "secret", undefined, { secret: 1 }]) {
    const error = toArcusError(thrown);
    assert.equal(error.code, status.INTERNAL);
    assert(!error.message.includes("secret"));
    assert(!JSON.stringify(toStatus(thrown)).includes("secret"));
  }
  const mine = notFound("NO", "no");
  assert.equal(toArcusError(mine), mine);
});
