import assert from "node:assert/strict";
import { chainHash } from "./chain_hash.ts";
import { Features, MAX_FEATURE_BYTES, nodeFeatures } from "./features.ts";
import { buildInit, checkPeerInit, type InitContent } from "./init.ts";
import { decodeMessage, encodeMessage, type Init } from "./messages.ts";

const ours: InitContent = { features: nodeFeatures(), chains: [chainHash("regtest")] };

function init(more: Partial<Init>): Init {
  return { type: "init", globalfeatures: new Uint8Array(), features: new Uint8Array(), ...more };
}

function outcome(peer: Init): string {
  const result = checkPeerInit(ours, peer);
  return result.ok ? "ok" : result.error.type;
}

Deno.test("our init goes over the wire, and two of us get along", () => {
  const remoteAddr = Uint8Array.of(1, 127, 0, 0, 1, 0x26, 0x07);
  const decoded = decodeMessage(encodeMessage(buildInit({ ...ours, remoteAddr })));
  assert.ok(decoded.ok && decoded.value.type === "init");
  assert.equal(decoded.value.globalfeatures.length, 0);
  assert.deepEqual(decoded.value.networks, [chainHash("regtest")]);
  const result = checkPeerInit(ours, decoded.value);
  assert.ok(result.ok);
  assert.deepEqual(result.value.features.bits(), nodeFeatures().bits());
  assert.deepEqual(result.value.remoteAddr, remoteAddr);
  assert.equal("remote_addr" in buildInit(ours), false);
});

Deno.test("a peer that names networks must name ours", () => {
  assert.equal(outcome(init({})), "ok");
  assert.equal(outcome(init({ networks: [chainHash("bitcoin"), chainHash("regtest")] })), "ok");
  assert.equal(outcome(init({ networks: [chainHash("bitcoin")] })), "no_common_chain");
  assert.equal(outcome(init({ networks: [] })), "no_common_chain");
});

Deno.test("both vectors count", () => {
  assert.equal(outcome(init({ globalfeatures: Features.of(2022).toBytes() })), "required_by_peer");
  assert.equal(outcome(init({ features: Features.of(2022).toBytes() })), "required_by_peer");
  const split = init({ globalfeatures: Features.of(47).toBytes(), features: Features.of(51).toBytes() });
  const result = checkPeerInit(ours, split);
  assert.ok(result.ok);
  assert.deepEqual(result.value.features.bits(), [47, 51]);
});

Deno.test("a vector of 64 kB is refused", () => {
  const long = new Uint8Array(60_000);
  assert.equal(outcome(init({ features: long })), "features_too_long");
  assert.equal(outcome(init({ globalfeatures: long })), "features_too_long");
  assert.equal(outcome(init({ features: new Uint8Array(MAX_FEATURE_BYTES) })), "ok");
});
