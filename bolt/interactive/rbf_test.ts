import assert from "node:assert/strict";
import fc from "fast-check";
import { feerate, MAX_SAT } from "bolt/units.ts";
import {
  checkRbfContribution,
  checkRbfFeerate,
  leastOwnRbfFeerate,
  leastPeerRbfFeerate,
  rbfAbortText,
} from "bolt/interactive/rbf.ts";

Deno.test("the least fee rates of a replacement", () => {
  assert.equal(leastPeerRbfFeerate(feerate(253)), 263);
  assert.equal(leastOwnRbfFeerate(feerate(253)), 278);
  assert.equal(leastPeerRbfFeerate(feerate(2400)), 2500);
  assert.equal(leastOwnRbfFeerate(feerate(2400)), 2500);
  // Where both rules meet: 25/24 of 600 is 625.
  assert.equal(leastOwnRbfFeerate(feerate(600)), 625);
  assert.equal(leastOwnRbfFeerate(feerate(624)), 650);
  assert.equal(leastOwnRbfFeerate(feerate(0)), 25);
  assert.equal(leastOwnRbfFeerate(feerate(0xffff_ffff)), 0xffff_ffff);
});

Deno.test("a peer's fee rate just below and at the limit", () => {
  const low = checkRbfFeerate(feerate(1000), feerate(1040));
  assert(!low.ok && low.error.type === "rbf_feerate_too_low" && low.error.minimum === 1041);
  assert.deepEqual(checkRbfFeerate(feerate(1000), feerate(1041)), { ok: true, value: 1041 });
  assert.match(rbfAbortText(low.error), /^[\x20-\x7e]+$/);
});

Deno.test("what we propose every peer accepts", () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), (last) => {
    const own = leastOwnRbfFeerate(feerate(last));
    assert(checkRbfFeerate(feerate(last), own).ok);
  }));
});

Deno.test("the contribution of a replacement", () => {
  assert.deepEqual(checkRbfContribution(undefined), { ok: true, value: 0n });
  assert.deepEqual(checkRbfContribution(0n), { ok: true, value: 0n });
  assert.deepEqual(checkRbfContribution(MAX_SAT), { ok: true, value: MAX_SAT });
  for (const value of [-1n, -(1n << 63n)]) {
    const negative = checkRbfContribution(value);
    assert(!negative.ok && negative.error.type === "rbf_contribution_negative");
    assert.match(rbfAbortText(negative.error), /^[\x20-\x7e]+$/);
  }
  for (const value of [MAX_SAT + 1n, (1n << 63n) - 1n]) {
    const large = checkRbfContribution(value);
    assert(!large.ok && large.error.type === "rbf_contribution_too_large");
    assert.match(rbfAbortText(large.error), /^[\x20-\x7e]+$/);
  }
});
