import assert from "node:assert/strict";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";
import { applyStream, onionKey, onionStream, sameInConstantTime } from "bolt/onion/keys.ts";

const secret = new Uint8Array(32).fill(7);

Deno.test("a key is the secret's HMAC under the name of its type, however often it is made", () => {
  for (const type of ["rho", "mu", "um", "pad", "ammag", "ammagext", "blinded_node_id"] as const) {
    const expected = hmac(sha256, utf8ToBytes(type), secret);
    assert.deepEqual(onionKey(type, secret), expected);
    assert.deepEqual(onionKey(type, secret), expected);
  }
  assert.throws(() => onionKey("rho", new Uint8Array(31)), RangeError);
  assert.throws(() => onionKey("rho", new Uint8Array(33)), RangeError);
});

Deno.test("a stream is its own undoing, at any length and place in a buffer", () => {
  for (const length of [0, 1, 63, 64, 65, 1300]) {
    const buffer = new Uint8Array(length + 1).fill(9);
    const view = buffer.subarray(1);
    applyStream(secret, view);
    const stream = onionStream(secret, length);
    assert.deepEqual(view.map((byte, i) => byte ^ stream[i]!), new Uint8Array(length).fill(9));
    assert.equal(buffer[0], 9);
    applyStream(secret, view);
    assert.deepEqual(buffer, new Uint8Array(length + 1).fill(9));
  }
});

Deno.test("bytes are the same only if all are", () => {
  assert.equal(sameInConstantTime(secret, secret.slice()), true);
  for (let i = 0; i < 32; i++) {
    const other = secret.slice();
    other[i]! ^= 0x80;
    assert.equal(sameInConstantTime(secret, other), false);
  }
  assert.equal(sameInConstantTime(secret, secret.subarray(1)), false);
});
