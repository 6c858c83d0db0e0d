import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import {
  emptyShachain,
  FIRST_SHACHAIN_INDEX,
  generateFromSeed,
  insertSecret,
  lookupSecret,
  nextShachainIndex,
  SHACHAIN_SLOTS,
  shachainIndex,
  type ShachainStore,
} from "bolt/keys/shachain.ts";
import generation from "tests/data/bolt03/appendix_d_generation.json" with { type: "json" };
import storage from "tests/data/bolt03/appendix_d_storage.json" with { type: "json" };

const seeds = fc.uint8Array({ minLength: 32, maxLength: 32 });

function filled(seed: Uint8Array, count: number): ShachainStore {
  let store = emptyShachain();
  for (let n = 0; n < count; n++) {
    const index = shachainIndex(BigInt(n));
    const next = insertSecret(store, index, generateFromSeed(seed, index));
    assert.ok(next.ok, `secret ${n} was refused`);
    store = next.value;
  }
  return store;
}

for (const vector of generation.cases) {
  Deno.test(`BOLT 3 appendix D: ${vector.name}`, () => {
    const secret = generateFromSeed(hexToBytes(vector.seed), BigInt(vector.index));
    assert.equal(bytesToHex(secret), vector.secret);
  });
}

for (const vector of storage.cases) {
  Deno.test(`BOLT 3 appendix D: ${vector.name}`, () => {
    let store = emptyShachain();
    for (const step of vector.inserts) {
      const result = insertSecret(store, BigInt(step.index), hexToBytes(step.secret));
      assert.equal(result.ok, step.accepted, `insert of ${step.index}`);
      if (result.ok) store = result.value;
      else assert.equal(result.error.type, "inconsistent_secret");
    }
  });
}

Deno.test("every inserted secret is found again, none beyond", () => {
  fc.assert(
    fc.property(seeds, fc.integer({ min: 1, max: 80 }), (seed, count) => {
      const store = filled(seed, count);
      assert.equal(store.slots.length, SHACHAIN_SLOTS);
      for (let n = 0; n < count; n++) {
        const index = shachainIndex(BigInt(n));
        assert.deepEqual(lookupSecret(store, index), { ok: true, value: generateFromSeed(seed, index) });
      }
      const index = shachainIndex(BigInt(count));
      assert.equal(nextShachainIndex(store), index);
      assert.deepEqual(lookupSecret(store, index), { ok: false, error: { type: "not_revealed", index } });
    }),
    { numRuns: 20 },
  );
});

Deno.test("a secret out of turn, of a wrong length or index is refused and the store stays", () => {
  const seed = new Uint8Array(32).fill(9);
  const store = filled(seed, 5);
  const before = structuredClone(store);
  const expected = shachainIndex(5n);
  for (const got of [expected + 1n, expected - 1n, FIRST_SHACHAIN_INDEX, 0n]) {
    assert.deepEqual(insertSecret(store, got, generateFromSeed(seed, got)), {
      ok: false,
      error: { type: "out_of_order", expected, got },
    });
  }
  assert.deepEqual(insertSecret(store, expected, new Uint8Array(31)), {
    ok: false,
    error: { type: "bad_secret_length", length: 31 },
  });
  for (const index of [-1n, FIRST_SHACHAIN_INDEX + 1n]) {
    assert.deepEqual(insertSecret(store, index, seed), { ok: false, error: { type: "bad_index", index } });
    assert.deepEqual(lookupSecret(store, index), { ok: false, error: { type: "bad_index", index } });
  }
  assert.deepEqual(store, before);
});

Deno.test("a flipped bit in a secret is found out when its subtree's root arrives", () => {
  fc.assert(
    fc.property(seeds, fc.nat(255), fc.integer({ min: 0, max: 6 }), (seed, bit, bad) => {
      let store = emptyShachain();
      let refused = false;
      for (let n = 0; n < 8 && !refused; n++) {
        const index = shachainIndex(BigInt(n));
        const secret = generateFromSeed(seed, index);
        if (n === bad) secret[bit >> 3] = (secret[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        const next = insertSecret(store, index, secret);
        if (next.ok) store = next.value;
        else refused = true;
      }
      assert.ok(refused, "a false secret stayed undetected");
    }),
    { numRuns: 50 },
  );
});

Deno.test("the last secrets: index 0 is the seed itself and ends the chain", () => {
  const seed = new Uint8Array(32).fill(3);
  assert.deepEqual(generateFromSeed(seed, 0n), seed);
  const one = generateFromSeed(seed, 1n);
  const slots = emptyShachain().slots.slice();
  slots[0] = { index: 1n, secret: one };
  const full = insertSecret({ slots }, 0n, seed);
  assert.ok(full.ok);
  assert.equal(nextShachainIndex(full.value), null);
  assert.deepEqual(lookupSecret(full.value, 123_456n), { ok: true, value: generateFromSeed(seed, 123_456n) });
  assert.deepEqual(insertSecret(full.value, 0n, seed), {
    ok: false,
    error: { type: "out_of_order", expected: null, got: 0n },
  });
});

Deno.test("our own malformed seed, index or number throws", () => {
  assert.throws(() => generateFromSeed(new Uint8Array(31), 0n), RangeError);
  assert.throws(() => generateFromSeed(new Uint8Array(32), -1n), RangeError);
  assert.throws(() => shachainIndex(FIRST_SHACHAIN_INDEX + 1n), RangeError);
});
