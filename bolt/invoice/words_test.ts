import assert from "node:assert/strict";
import fc from "fast-check";
import { bech32 } from "@scure/base";
import {
  bitSetToWords,
  bytesToWords,
  padWords,
  uintToWords,
  wordCount,
  wordsToBitSet,
  wordsToBytes,
  wordsToUint,
} from "bolt/invoice/words.ts";

const bytes = fc.uint8Array({ maxLength: 70 });

Deno.test("bytes as words and back, as the bech32 library has them", () => {
  fc.assert(fc.property(bytes, (given) => {
    const words = bytesToWords(given);
    assert.deepEqual([...words], bech32.toWords(given));
    assert.equal(words.length, wordCount(given.length));
    assert.deepEqual(wordsToBytes(words), given);
  }));
});

Deno.test("padding that is not zero, or a whole word, is no bytes", () => {
  assert.deepEqual(wordsToBytes(Uint8Array.of(31, 28)), Uint8Array.of(255));
  for (let rest = 1; rest < 4; rest++) assert.equal(wordsToBytes(Uint8Array.of(31, 28 + rest)), null);
  assert.equal(wordsToBytes(Uint8Array.of(0)), null);
  assert.equal(wordsToBytes(Uint8Array.of(31, 28, 0)), null);
  assert.deepEqual(wordsToBytes(new Uint8Array()), new Uint8Array());
});

Deno.test("signed data is filled up at its end, a bit set at its front", () => {
  assert.deepEqual(padWords(Uint8Array.of(1)), Uint8Array.of(0b00001_000));
  assert.deepEqual(padWords(Uint8Array.of(31, 1)), Uint8Array.of(0b11111_000, 0b01_000000));
  assert.deepEqual(wordsToBitSet(Uint8Array.of(1)), Uint8Array.of(1));
  assert.deepEqual(wordsToBitSet(Uint8Array.of(16, 1)), Uint8Array.of(2, 1));
});

Deno.test("bit sets lose their leading zeros and nothing else", () => {
  fc.assert(fc.property(bytes, (given) => {
    const words = bitSetToWords(given);
    assert.notEqual(words[0], 0);
    const number = (set: Uint8Array) => set.reduce((value, byte) => value * 256n + BigInt(byte), 0n);
    assert.equal(number(wordsToBitSet(words)), number(given));
  }));
});

Deno.test("numbers in the fewest words", () => {
  fc.assert(fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (value) => {
    const words = uintToWords(value);
    assert.equal(wordsToUint(words), value);
    assert.ok(words.length === 1 || words[0] !== 0);
  }));
  assert.deepEqual(uintToWords(0n), Uint8Array.of(0));
  assert.deepEqual(uintToWords(60n), Uint8Array.of(1, 28));
  assert.deepEqual(uintToWords(60n, 3), Uint8Array.of(0, 1, 28));
  assert.equal(wordsToUint(new Uint8Array()), 0n);
  assert.equal(wordsToUint(Uint8Array.of(16, ...new Uint8Array(12))), null);
  assert.equal(wordsToUint(new Uint8Array(1000).fill(31)), null);
});
