import assert from "node:assert/strict";
import fc from "fast-check";
import { hexToBytes } from "@noble/hashes/utils.js";
import {
  MAX_COMMITMENT_NUMBER,
  obscureCommitmentNumber,
  obscuringFactor,
  revealCommitmentNumber,
} from "bolt/keys/commitment_number.ts";

const numbers = fc.bigInt({ min: 0n, max: MAX_COMMITMENT_NUMBER });

Deno.test("BOLT 3 appendix C: obscuring factor, locktime and sequence of commitment 42", () => {
  const factor = obscuringFactor(
    hexToBytes("034f355bdcb7cc0af728ef3cceb9615d90684bb5b2ca5f859ab0f0b704075871aa"),
    hexToBytes("032c0b7cf95324a07d05398b240174dc0c2be444d96b159aa6c7f7b1e668680991"),
  );
  assert.equal(factor, 0x2bb038521914n);
  assert.deepEqual(obscureCommitmentNumber(42n, factor), { locktime: 0x2052193e, sequence: 0x802bb038 });
});

Deno.test("a commitment number comes back from the fields that hide it", () => {
  fc.assert(fc.property(numbers, numbers, (number, factor) => {
    const fields = obscureCommitmentNumber(number, factor);
    assert.equal(fields.locktime >>> 24, 0x20);
    assert.equal(fields.sequence >>> 24, 0x80);
    assert.equal(revealCommitmentNumber(fields, factor), number);
  }));
});

Deno.test("fields without the marks are no commitment", () => {
  assert.equal(revealCommitmentNumber({ locktime: 0x1f000000, sequence: 0x80000000 }, 0n), null);
  assert.equal(revealCommitmentNumber({ locktime: 0x20000000, sequence: 0xfffffffd }, 0n), null);
  assert.equal(revealCommitmentNumber({ locktime: 0x1_2000_0000, sequence: 0x80000000 }, 0n), null);
});

Deno.test("numbers of more than 48 bits throw", () => {
  for (const bad of [-1n, MAX_COMMITMENT_NUMBER + 1n]) {
    assert.throws(() => obscureCommitmentNumber(bad, 0n), RangeError);
    assert.throws(() => obscureCommitmentNumber(0n, bad), RangeError);
  }
});
