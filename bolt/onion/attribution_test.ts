import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import {
  addAttribution,
  type AttributionData,
  fulfilledHoldTimes,
  holdTime,
} from "bolt/onion/attribution.ts";
import vector from "tests/data/bolt04/attribution_data.json" with { type: "json" };

const arbSecrets = fc.uniqueArray(fc.uint8Array({ minLength: 32, maxLength: 32 }), {
  minLength: 1,
  maxLength: 27,
  selector: bytesToHex,
});
const arbHoldTimes = fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { minLength: 27, maxLength: 27 });

function hex({ htlc_hold_times, truncated_hmacs }: AttributionData): string {
  return bytesToHex(htlc_hold_times) + bytesToHex(truncated_hmacs);
}

function fulfil(secrets: readonly Uint8Array[], times: readonly number[]): AttributionData {
  let data: AttributionData | undefined;
  for (let hop = secrets.length - 1; hop >= 0; hop--) {
    data = addAttribution(secrets[hop]!, times[hop]!, undefined, data);
  }
  assert.ok(data !== undefined);
  return data;
}

Deno.test("BOLT 4, Returning success: attribution data at every hop", () => {
  const secrets = vector.failure.steps.map((step) => hexToBytes(step.shared_secret));
  let data: AttributionData | undefined;
  for (const [i, step] of vector.success.steps.entries()) {
    data = addAttribution(secrets[i]!, step.hold_time, undefined, data);
    assert.equal(hex(data), step.attribution_data, `hop ${step.hop}`);
  }
  assert.ok(data !== undefined);
  assert.deepEqual(fulfilledHoldTimes(data, secrets.reverse()), [5, 4, 3, 2, 1]);
});

Deno.test("the hold times of a fulfilled payment come back, of the first 20 hops", () => {
  fc.assert(
    fc.property(arbSecrets, arbHoldTimes, (secrets, times) => {
      assert.deepEqual(
        fulfilledHoldTimes(fulfil(secrets, times), secrets),
        times.slice(0, Math.min(secrets.length, 20)),
      );
    }),
    { numRuns: 60 },
  );
});

Deno.test("what a hop changes of what came from behind it is seen at the next one", () => {
  const secrets = Array.from({ length: 6 }, (_, i) => new Uint8Array(32).fill(i + 1));
  const times = [10, 11, 12, 13, 14, 15];
  fc.assert(fc.property(fc.nat(5), fc.nat(3), (tamperer, byte) => {
    let data: AttributionData | undefined;
    for (let hop = 5; hop >= 0; hop--) {
      if (hop === tamperer && data !== undefined) data.htlc_hold_times[byte]! ^= 1;
      data = addAttribution(secrets[hop]!, times[hop]!, undefined, data);
    }
    assert.ok(data !== undefined);
    assert.deepEqual(fulfilledHoldTimes(data, secrets), times.slice(0, tamperer + 1));
  }));
});

Deno.test("a hop cannot change its own report either, and garbage reports nothing", () => {
  const secrets = Array.from({ length: 3 }, (_, i) => new Uint8Array(32).fill(i + 1));
  const data = fulfil(secrets, [7, 8, 9]);
  data.htlc_hold_times[3]! ^= 1;
  assert.deepEqual(fulfilledHoldTimes(data, secrets), []);
  const zeros = { htlc_hold_times: new Uint8Array(80), truncated_hmacs: new Uint8Array(840) };
  assert.deepEqual(fulfilledHoldTimes(zeros, secrets), []);
});

Deno.test("data of another length, and hold times that are no u32, are defects of the caller", () => {
  const secret = new Uint8Array(32).fill(1);
  const short = { htlc_hold_times: new Uint8Array(79), truncated_hmacs: new Uint8Array(840) };
  assert.throws(() => addAttribution(secret, 0, undefined, short), RangeError);
  for (const bad of [-1, 0.5, 2 ** 32, NaN]) assert.throws(() => addAttribution(secret, bad), RangeError);
});

Deno.test("hold times count tenths of a second, rounded down", () => {
  assert.equal(holdTime(0), 0);
  assert.equal(holdTime(99), 0);
  assert.equal(holdTime(100), 1);
  assert.equal(holdTime(399.9), 3);
  assert.equal(holdTime(-5), 0);
  assert.equal(holdTime(NaN), 0);
  assert.equal(holdTime(Infinity), 0xffff_ffff);
});
