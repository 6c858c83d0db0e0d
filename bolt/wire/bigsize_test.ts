import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import vectors from "tests/data/bolt01/bigsize.json" with { type: "json" };
import assert from "node:assert/strict";
import fc from "fast-check";
import { decodeBigSize, encodeBigSize } from "./bigsize.ts";

Deno.test("BOLT 1 appendix A: bigsizes that decode", () => {
  for (const { name, hex, value } of vectors.decode) {
    assert.deepEqual(decodeBigSize(hexToBytes(hex)), { ok: true, value: BigInt(value) }, name);
  }
});

Deno.test("BOLT 1 appendix A: bigsizes that encode", () => {
  for (const { name, hex, value } of vectors.encode) {
    assert.equal(bytesToHex(encodeBigSize(BigInt(value))), hex, name);
  }
});

Deno.test("BOLT 1 appendix A: bigsizes that are refused", () => {
  for (const { name, hex, fault } of vectors.refuse) {
    const result = decodeBigSize(hexToBytes(hex));
    assert.equal(result.ok ? "ok" : result.error.type, fault, name);
  }
});

Deno.test("every u64 round-trips as a bigsize, nothing beyond is written", () => {
  fc.assert(fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (value) => {
    assert.deepEqual(decodeBigSize(encodeBigSize(value)), { ok: true, value });
  }));
  assert.throws(() => encodeBigSize(-1n), RangeError);
  assert.throws(() => encodeBigSize(1n << 64n), RangeError);
});

Deno.test("a bigsize has one form only: what decodes is what would be encoded", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 0, maxLength: 10 }),
      fc.constantFrom(0, 253, 254, 255),
      (tail, head) => {
        const bytes = Uint8Array.of(head, ...tail);
        const result = decodeBigSize(bytes);
        if (result.ok) assert.deepEqual(encodeBigSize(result.value), bytes);
      },
    ),
  );
});
