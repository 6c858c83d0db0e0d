import assert from "node:assert/strict";
import { feerate } from "bolt/units.ts";
import { deriveFeerates, estimateFor, type FeerateConfig, fromBtcPerKvb } from "./feerates.ts";

const CONFIG: FeerateConfig = {
  network: "signet",
  fallback: feerate(1_000),
  commitFeePercent: 100,
  minFeerate: feerate(253),
  ignoreLimits: false,
};
const FLOOR = feerate(253);
const estimate = (blockcount: number, rate: number) => ({ blockcount, feerate: feerate(rate) });
const ALL = [estimate(2, 8_000), estimate(6, 4_000), estimate(12, 2_000), estimate(100, 600)];

Deno.test("bitcoind's BTC/kvB become sat/kw, rounded up, and bounded", () => {
  assert.equal(fromBtcPerKvb(0.00001), 250);
  assert.equal(fromBtcPerKvb(0.00001012), 253);
  assert.equal(fromBtcPerKvb(0.00001013), 254);
  assert.equal(fromBtcPerKvb(1), 1_000_000);
});

Deno.test("regtest has a fallback; elsewhere there is no rate without an estimate", () => {
  assert.equal(deriveFeerates([], FLOOR, CONFIG), undefined);
  const rates = deriveFeerates([], FLOOR, { ...CONFIG, network: "regtest" });
  assert.ok(rates !== undefined);
  assert.equal(rates.opening, 1_000);
  assert.equal(rates.commitment, 1_000);
  assert.equal(rates.minAcceptable, 500);
  assert.equal(rates.maxAcceptable, 10_000);
  assert.deepEqual(rates.estimates, []);
});

Deno.test("rates follow from the estimates", () => {
  const rates = deriveFeerates(ALL, FLOOR, CONFIG);
  assert.ok(rates !== undefined);
  assert.equal(rates.opening, 2_000);
  // The slow estimate, raised to what still gets into mempools.
  assert.equal(rates.commitment, 1_250);
  assert.equal(rates.minAcceptable, 300);
  assert.equal(rates.maxAcceptable, 80_000);
  assert.equal(deriveFeerates(ALL, FLOOR, { ...CONFIG, commitFeePercent: 200 })?.commitment, 2_500);
  assert.equal(deriveFeerates(ALL, FLOOR, { ...CONFIG, maxFeerate: feerate(9_000) })?.maxAcceptable, 9_000);
});

Deno.test("nothing is below bitcoind's floor, nothing of a peer below min-feerate", () => {
  const low = [estimate(12, 260)];
  const rates = deriveFeerates(low, feerate(1_000), CONFIG);
  assert.equal(rates?.opening, 1_000);
  assert.equal(rates?.minAcceptable, 1_000);
  assert.equal(rates?.estimates[0]?.feerate, 1_000);
  assert.equal(deriveFeerates(low, FLOOR, { ...CONFIG, minFeerate: feerate(700) })?.minAcceptable, 700);
});

Deno.test("forced rates replace estimates; ignored limits accept everything", () => {
  const forced = deriveFeerates([], FLOOR, { ...CONFIG, network: "regtest", forced: [5_000, 4_000] });
  assert.equal(forced?.opening, 5_000);
  assert.equal(forced?.commitment, 4_000);
  const open = deriveFeerates(ALL, FLOOR, { ...CONFIG, ignoreLimits: true });
  assert.equal(open?.minAcceptable, 1);
  assert.equal(open?.maxAcceptable, 1_000_000);
});

Deno.test("a target without an estimate gets the nearest faster one, else the fastest there is", () => {
  assert.equal(estimateFor(ALL, 50), 2_000);
  assert.equal(estimateFor(ALL, 1), 8_000);
  assert.equal(estimateFor([], 6), undefined);
});
