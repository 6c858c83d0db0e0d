import assert from "node:assert/strict";
import { awaited, showWaiting } from "./waiting.ts";

Deno.test("what is waited for, by the command", () => {
  assert.equal(awaited("pay", { bolt11: "lnbc1" }, true), "the payment to arrive");
  assert.equal(awaited("waitinvoice", { label: "tea" }, false), "the invoice to be paid: tea");
  assert.equal(awaited("waitinvoice", ["tea"], false), "the invoice to be paid");
  assert.equal(awaited("waitsendpay", { payment_hash: "00" }, false), "the payment to arrive: 00");
  assert.equal(awaited("close", { id: "1x2x3" }, false), "the peer to close the channel: 1x2x3");
  assert.equal(awaited("fundchannel", {}, true), "fundchannel");
  assert.equal(awaited("getinfo", {}, false), undefined);
  assert.equal(awaited("constructor", {}, false), undefined);
  // One line, whatever the label says.
  const long = awaited("waitinvoice", { label: `\r\x1b[2J${"x".repeat(200)}` }, false) ?? "";
  assert.match(long, /^the invoice to be paid: \?\?\[2Jx+\.\.\.$/);
  assert.ok(long.length < 72);
});

Deno.test("a terminal shows what and how long, and is left with a clean line", async () => {
  const seen = Promise.withResolvers<string>();
  let last = "";
  const stop = showWaiting("tea", {
    isTerminal: true,
    write(text) {
      last = text;
      seen.resolve(text);
    },
  });
  // deno-lint-ignore no-control-regex
  assert.match(await seen.promise, /^\r[|/\\-] waiting for tea, 0 s\x1b\[K$/);
  stop();
  assert.equal(last, "\r\x1b[K");
});

Deno.test("where nobody looks, nothing is written, and no timer runs", () => {
  showWaiting("tea", { isTerminal: false, write: (text) => assert.fail(text) })();
  // Never stopped: a timer that was left behind would fail this test.
  showWaiting("tea", { isTerminal: false, write: (text) => assert.fail(text) });
});
