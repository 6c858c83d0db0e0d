import assert from "node:assert/strict";
import fc from "fast-check";
import {
  formatShortChannelId,
  packShortChannelId,
  parseShortChannelId,
  shortChannelId,
  unpackShortChannelId,
} from "./short_channel_id.ts";

Deno.test("a short channel id is 3 bytes of height, 3 of transaction, 2 of output", () => {
  const id = packShortChannelId({ block: 539268, tx: 845, output: 1 });
  assert.equal(id, 0x083a8400034d0001n);
  assert.equal(formatShortChannelId(id), "539268x845x1");
});

Deno.test("every u64 round-trips through parts and text", () => {
  fc.assert(fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (value) => {
    const id = shortChannelId(value);
    assert.equal(packShortChannelId(unpackShortChannelId(id)), id);
    assert.equal(parseShortChannelId(formatShortChannelId(id)), id);
  }));
});

Deno.test("parts and texts that do not fit are refused", () => {
  assert.throws(() => shortChannelId(-1n), RangeError);
  assert.throws(() => shortChannelId(1n << 64n), RangeError);
  assert.throws(() => packShortChannelId({ block: 1 << 24, tx: 0, output: 0 }), RangeError);
  assert.throws(() => packShortChannelId({ block: 0, tx: -1, output: 0 }), RangeError);
  assert.throws(() => packShortChannelId({ block: 0, tx: 0, output: 65536 }), RangeError);
  for (
    const text of [
      "",
      "1x2",
      "1x2x3x4",
      "01x2x3",
      "1x2x-3",
      "16777216x0x0",
      "0x16777216x0",
      "0x0x65536",
      "1:2:3",
    ]
  ) {
    assert.equal(parseShortChannelId(text), undefined, text);
  }
});
