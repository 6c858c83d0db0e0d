import assert from "node:assert/strict";
import fc from "fast-check";
import {
  allChannels,
  errorMessage,
  isAllChannels,
  MAX_TEXT_LENGTH,
  printableText,
  textData,
  txAbortMessage,
  warningMessage,
} from "./error_text.ts";
import { decodeMessage, encodeMessage } from "./messages.ts";

const ascii = (text: string) => new TextEncoder().encode(text);

Deno.test("only printable ASCII is printed: no escape sequence, no second line", () => {
  assert.equal(printableText(ascii("bad funding_pubkey ~")), "bad funding_pubkey ~");
  assert.equal(printableText(new Uint8Array()), "");
  for (const byte of [0, 9, 10, 27, 31, 127, 128, 255]) {
    assert.equal(printableText(Uint8Array.of(65, byte)), "<2 bytes that are not printable>");
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 2000 }), (data) => {
    assert.match(printableText(data), /^[\x20-\x7e]*$/);
  }));
});

Deno.test("what is printed and what is sent is bounded", () => {
  assert.ok(printableText(new Uint8Array(65_000).fill(65)).length < MAX_TEXT_LENGTH + 30);
  assert.equal(textData("A".repeat(65_000)).length, MAX_TEXT_LENGTH);
});

Deno.test("our texts can always be printed by the other side", () => {
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 60 }), (text) => {
    const data = textData(text);
    assert.ok(data.every((byte) => byte >= 32 && byte <= 126));
  }));
  assert.equal(printableText(textData("a\nb\u{1f600}")), "a?b?");
});

Deno.test("error, warning and tx_abort carry their text over the wire", () => {
  const channel = new Uint8Array(32).fill(7);
  for (const build of [errorMessage, warningMessage, txAbortMessage]) {
    const message = build(channel, "no such channel");
    const decoded = decodeMessage(encodeMessage(message));
    assert.deepEqual(decoded, { ok: true, value: message });
    assert.equal(printableText(message.data), "no such channel");
  }
});

Deno.test("the all-zero id is every channel", () => {
  assert.equal(isAllChannels(allChannels()), true);
  assert.equal(isAllChannels(new Uint8Array(32).fill(1)), false);
  assert.equal(isAllChannels(new Uint8Array(31)), false);
});
