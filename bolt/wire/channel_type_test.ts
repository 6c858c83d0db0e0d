import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import assert from "node:assert/strict";
import fc from "fast-check";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType, parseChannelType } from "./channel_type.ts";
import { Features } from "./features.ts";

function outcome(bytes: Uint8Array): string {
  const result = parseChannelType(bytes);
  return result.ok ? "ok" : result.error.type;
}

Deno.test("the common type is bits 12 and 22", () => {
  assert.equal(bytesToHex(encodeChannelType(ANCHORS_STATIC_REMOTEKEY)), "401000");
});

Deno.test("each variant round-trips", () => {
  for (const scidAlias of [false, true]) {
    for (const zeroconf of [false, true]) {
      const type = { scidAlias, zeroconf };
      assert.deepEqual(parseChannelType(encodeChannelType(type)), { ok: true, value: type });
    }
  }
  const all = Features.parse(encodeChannelType({ scidAlias: true, zeroconf: true }));
  assert.deepEqual(all.ok && all.value.bits(), [12, 22, 46, 50]);
});

Deno.test("what is not in its shortest form, or not a type of ours, is refused", () => {
  assert.equal(outcome(new Uint8Array()), "channel_type_not_minimal");
  assert.equal(outcome(hexToBytes("00401000")), "channel_type_not_minimal");
  for (
    const bits of [[12], [22], [12, 20], [13, 23], [12, 22, 63], [12, 22, 47], [12, 22, 40], [12, 22, 600]]
  ) {
    assert.equal(outcome(Features.of(...bits).toBytes()), "channel_type_unsupported", bits.join());
  }
  assert.equal(outcome(new Uint8Array(60_000).fill(0xff)), "channel_type_unsupported");
});

Deno.test("whatever is accepted is what we would write", () => {
  const near = fc.subarray([12, 22, 46, 50, 13, 60]).map((bits) => Features.of(...bits).toBytes());
  fc.assert(fc.property(fc.oneof(near, fc.uint8Array({ maxLength: 40 })), (bytes) => {
    const result = parseChannelType(bytes);
    if (result.ok) assert.deepEqual(encodeChannelType(result.value), bytes);
  }));
});
