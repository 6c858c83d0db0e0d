import { hexToBytes } from "@noble/hashes/utils.js";
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  checkPeerFeatures,
  FEATURES,
  Features,
  hasFeature,
  isNegotiated,
  MAX_FEATURE_BYTES,
  nodeFeatures,
} from "./features.ts";

/** Bit vectors as four implementations send them: even ASSUMED bits, some offer what we do not know. */
const PEERS = {
  eclair: [0, 5, 7, 8, 11, 12, 14, 17, 19, 23, 25, 27, 29, 35, 37, 39, 44, 47, 49, 61, 63],
  lnd: [0, 5, 7, 8, 12, 14, 17, 19, 23, 25, 27, 31, 45, 2023],
  ldk: [0, 5, 7, 8, 12, 14, 17, 19, 23, 25, 27, 35, 39, 43, 44, 47, 51, 55, 63],
  "core lightning": [0, 5, 7, 8, 11, 12, 14, 17, 19, 23, 25, 27, 29, 35, 39, 43, 44, 47, 51, 55, 63],
};

function fails(theirs: Features, ours = nodeFeatures()): string {
  const result = checkPeerFeatures(ours, theirs);
  return result.ok ? "ok" : result.error.type;
}

Deno.test("bits stand where BOLT 9 has them: bit 0 is the lowest of the last byte", () => {
  assert.equal(Features.of(0).toHex(), "01");
  assert.equal(Features.of(8).toHex(), "0100");
  assert.equal(Features.of(12, 22).toHex(), "401000");
  assert.equal(Features.of().toHex(), "");
  assert.equal(Features.NONE.equals(Features.of()), true);
});

Deno.test("any set of bits round-trips, in its shortest form, whatever zeros lead", () => {
  const bits = fc.uniqueArray(fc.nat(MAX_FEATURE_BYTES * 8 - 17), { maxLength: 40 });
  fc.assert(fc.property(bits, fc.nat(2), (bits, zeros) => {
    const features = Features.of(...bits);
    assert.deepEqual(features.bits(), bits.toSorted((a, b) => a - b));
    const padded = Uint8Array.of(...new Uint8Array(zeros), ...features.toBytes());
    const parsed = Features.parse(padded);
    assert.ok(parsed.ok && parsed.value.equals(features));
    assert.notEqual(features.toBytes()[0], 0);
  }));
});

Deno.test("a set is immutable", () => {
  const source = Uint8Array.of(1);
  const parsed = Features.parse(source);
  assert.ok(parsed.ok);
  source[0] = 0xff;
  parsed.value.toBytes()[0] = 0xff;
  assert.equal(parsed.value.toHex(), "01");
});

Deno.test("a vector beyond the bound is refused", () => {
  assert.equal(Features.parse(new Uint8Array(MAX_FEATURE_BYTES)).ok, true);
  const result = Features.parse(new Uint8Array(MAX_FEATURE_BYTES + 1));
  assert.equal(result.ok ? "ok" : result.error.type, "features_too_long");
  assert.throws(() => Features.of(MAX_FEATURE_BYTES * 8), RangeError);
  assert.throws(() => Features.of(-1), RangeError);
});

Deno.test("this node offers what works now, and the ASSUMED bits", () => {
  assert.deepEqual(nodeFeatures().bits(), [0, 5, 8, 12, 14, 17, 19, 23, 27, 29, 45, 47]);
  assert.deepEqual(nodeFeatures({ scidAlias: false }).bits(), [0, 5, 8, 12, 14, 17, 19, 23, 27, 29, 45]);
});

Deno.test("either bit of a pair is the feature; an ASSUMED one always holds", () => {
  assert.equal(hasFeature(Features.of(28), "option_dual_fund"), true);
  assert.equal(hasFeature(Features.of(29), "option_dual_fund"), true);
  assert.equal(hasFeature(Features.of(30), "option_dual_fund"), false);
  assert.equal(isNegotiated(nodeFeatures(), Features.of(28), "option_dual_fund"), true);
  assert.equal(isNegotiated(nodeFeatures(), Features.NONE, "option_dual_fund"), false);
  assert.equal(isNegotiated(nodeFeatures(), Features.of(63), "option_splice"), false);
  assert.equal(isNegotiated(Features.NONE, Features.NONE, "option_channel_type"), true);
});

Deno.test("other nodes are taken as they are, and take us", () => {
  for (const [name, bits] of Object.entries(PEERS)) {
    assert.equal(fails(Features.of(...bits)), "ok", name);
    assert.equal(fails(nodeFeatures(), Features.of(...bits)), "ok", name);
  }
});

Deno.test("a peer's even ASSUMED bits never end it, nor does their absence", () => {
  assert.equal(fails(Features.of(0, 8, 12, 14, 44)), "ok");
  assert.equal(fails(Features.of(0, 8, 12, 14, 44), Features.NONE), "ok");
  assert.equal(fails(Features.NONE), "ok");
});

Deno.test("an even bit that is unknown, or known and not offered, ends it", () => {
  assert.equal(fails(Features.of(20)), "required_by_peer");
  assert.equal(fails(Features.of(62)), "required_by_peer");
  assert.equal(fails(Features.of(2022)), "required_by_peer");
  assert.equal(fails(Features.of(2023, 21, 63)), "ok");
  assert.equal(fails(Features.of(28, 22, 18)), "ok");
});

Deno.test("a feature without what it depends on ends it", () => {
  assert.equal(fails(Features.of(51)), "missing_dependency");
  assert.equal(fails(Features.of(51, 47)), "ok");
  assert.equal(fails(Features.of(61)), "missing_dependency");
  assert.equal(fails(Features.of(61, 26)), "ok");
});

Deno.test("what we would require is asked of a peer", () => {
  assert.equal(fails(Features.NONE, Features.of(28)), "required_by_us");
  assert.equal(fails(Features.of(29), Features.of(28)), "ok");
});

Deno.test("the table is sound: even bits, rising, dependencies that exist", () => {
  const names: readonly string[] = FEATURES.map((row) => row.name);
  let last = -2;
  for (const { bit, dependencies } of FEATURES) {
    assert.equal(bit % 2, 0);
    assert.ok(bit > last);
    last = bit;
    for (const dependency of dependencies) assert.ok(names.includes(dependency));
  }
});

Deno.test("garbage never throws", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
    const parsed = Features.parse(bytes);
    assert.ok(parsed.ok);
    checkPeerFeatures(nodeFeatures(), parsed.value);
  }));
  assert.ok(Features.parse(hexToBytes("ff".repeat(MAX_FEATURE_BYTES))).ok);
});
