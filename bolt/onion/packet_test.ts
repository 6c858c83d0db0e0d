import assert from "node:assert/strict";
import fc from "fast-check";
import { sha256 } from "@noble/hashes/sha2.js";
import { hexToBytes } from "@noble/hashes/utils.js";
import { decodeOnionPacket, encodeOnionPacket, HOP_PAYLOADS_LENGTH } from "bolt/onion/packet.ts";
import { ONION_PACKET_LENGTH } from "bolt/wire/messages.ts";
import vector from "tests/data/bolt04/onion.json" with { type: "json" };

const onion = hexToBytes(vector.onion);

Deno.test("BOLT 4, onion test vector: read and written back", () => {
  const packet = decodeOnionPacket(onion);
  assert.ok(packet.ok);
  assert.equal(packet.value.hop_payloads.length, HOP_PAYLOADS_LENGTH);
  assert.deepEqual(encodeOnionPacket(packet.value), onion);
});

Deno.test("a version that is not 0 is invalid_onion_version, over the bytes as they came", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 255 }), (version) => {
    const bytes = onion.slice();
    bytes[0] = version;
    assert.deepEqual(decodeOnionPacket(bytes), {
      ok: false,
      error: { type: "invalid_onion_version", failure_code: 0xc004, sha256_of_onion: sha256(bytes) },
    });
  }));
});

Deno.test("a key that is no point is invalid_onion_key", () => {
  const onNoCurve = new Uint8Array(33).fill(0xff);
  onNoCurve[0] = 2;
  for (const key of [new Uint8Array(33), onNoCurve, onion.slice(1, 34).fill(4, 0, 1)]) {
    const bytes = onion.slice();
    bytes.set(key, 1);
    assert.deepEqual(decodeOnionPacket(bytes), {
      ok: false,
      error: { type: "invalid_onion_key", failure_code: 0xc006, sha256_of_onion: sha256(bytes) },
    });
  }
});

Deno.test("any other bytes are read or named, never thrown at", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 2 * ONION_PACKET_LENGTH }), (bytes) => {
    const packet = decodeOnionPacket(bytes);
    assert.equal(packet.ok && bytes.length !== ONION_PACKET_LENGTH, false);
  }));
  assert.equal(decodeOnionPacket(onion.subarray(1)).ok, false);
  assert.equal(decodeOnionPacket(new Uint8Array([...onion, 0])).ok, false);
});

Deno.test("only whole packets are written", () => {
  const packet = decodeOnionPacket(onion);
  assert.ok(packet.ok);
  const short = { ...packet.value, hop_payloads: new Uint8Array(HOP_PAYLOADS_LENGTH - 1) };
  assert.throws(() => encodeOnionPacket(short), RangeError);
});
