import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { arbRoute, arbSecret } from "bolt/onion/arbitraries.ts";
import { type CreatedOnion, createOnion, type OnionHop } from "bolt/onion/create.ts";
import { applyStream, onionKey } from "bolt/onion/keys.ts";
import {
  decodeOnionPacket,
  encodeOnionPacket,
  HOP_PAYLOADS_LENGTH,
  type OnionPacket,
  packetHmac,
} from "bolt/onion/packet.ts";
import { onionReplayKey, peelOnion } from "bolt/onion/peel.ts";
import { ONION_PACKET_LENGTH } from "bolt/wire/messages.ts";
import vector from "tests/data/bolt04/onion.json" with { type: "json" };

const arbData = fc.uint8Array({ minLength: 32, maxLength: 32 });
const secret = new Uint8Array(32).fill(0x45);
const associatedData = new Uint8Array(32).fill(0x42);

function make(sessionKey: Uint8Array, hops: readonly OnionHop[], data: Uint8Array): CreatedOnion {
  const made = createOnion({ sessionKey, hops, associatedData: data });
  assert.ok(made.ok, "no onion was made");
  return made.value;
}

function sharedSecret(nodeKey: Uint8Array, packet: OnionPacket): Uint8Array {
  const shared = ecc().ecdh(nodeKey, packet.public_key);
  assert.ok(shared !== null);
  return shared;
}

function decode(bytes: Uint8Array): OnionPacket {
  const packet = decodeOnionPacket(bytes);
  assert.ok(packet.ok);
  return packet.value;
}

/** A packet with a good HMAC for the node of `secret` that unwraps to `content` and then zeros. */
function packetWith(content: readonly number[]): { packet: OnionPacket; sharedSecret: Uint8Array } {
  const public_key = ecc().pointFromSecret(new Uint8Array(32).fill(0x41));
  const shared = ecc().ecdh(secret, public_key)!;
  const hop_payloads = new Uint8Array(HOP_PAYLOADS_LENGTH);
  hop_payloads.set(content);
  applyStream(onionKey("rho", shared), hop_payloads);
  const hmac = packetHmac(shared, hop_payloads, associatedData);
  return { packet: { version: 0, public_key, hop_payloads, hmac }, sharedSecret: shared };
}

Deno.test("BOLT 4, onion test vector: every hop finds its payload, and the last one that it is the last", () => {
  let packet: OnionPacket | null = decode(hexToBytes(vector.onion));
  for (const hop of vector.hops) {
    assert.ok(packet !== null, "the route ended early");
    const shared = sharedSecret(hexToBytes(hop.private_key), packet);
    const peeled = peelOnion({
      packet,
      sharedSecret: shared,
      associatedData: hexToBytes(vector.associated_data),
    });
    assert.ok(peeled.ok);
    assert.equal(bytesToHex(peeled.value.payload), hop.payload);
    packet = peeled.value.next;
  }
  assert.equal(packet, null);
});

Deno.test("what an origin packs for 1 to 20 hops, each of them unpacks", () => {
  fc.assert(
    fc.property(arbRoute(20), arbSecret, arbData, (hops, sessionKey, data) => {
      const onion = make(sessionKey, hops, data);
      let packet: OnionPacket | null = onion.packet;
      for (const [i, hop] of hops.entries()) {
        assert.ok(packet !== null);
        const received = decode(encodeOnionPacket(packet));
        const shared = sharedSecret(hop.secret, received);
        assert.deepEqual(shared, onion.sharedSecrets[i]);
        const peeled = peelOnion({ packet: received, sharedSecret: shared, associatedData: data });
        assert.ok(peeled.ok);
        assert.deepEqual(Uint8Array.from(peeled.value.payload), hop.payload);
        packet = peeled.value.next;
      }
      assert.equal(packet, null);
    }),
    { numRuns: 40 },
  );
});

Deno.test("one flipped bit anywhere in an onion fails it", () => {
  const bytes = hexToBytes(vector.onion);
  const nodeKey = hexToBytes(vector.hops[0]!.private_key);
  const data = hexToBytes(vector.associated_data);
  fc.assert(
    fc.property(fc.nat(ONION_PACKET_LENGTH * 8 - 1), (bit) => {
      const flipped = bytes.slice();
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      const packet = decodeOnionPacket(flipped);
      if (!packet.ok) {
        assert.equal(packet.error.type, bit < 8 ? "invalid_onion_version" : "invalid_onion_key");
        assert.ok(bit < 34 * 8, "only version and key are judged before the HMAC");
        return;
      }
      const shared = sharedSecret(nodeKey, packet.value);
      assert.deepEqual(peelOnion({ packet: packet.value, sharedSecret: shared, associatedData: data }), {
        ok: false,
        error: { type: "invalid_onion_hmac", failure_code: 0xc005, sha256_of_onion: sha256(flipped) },
      });
    }),
    { numRuns: 300 },
  );
});

Deno.test("an onion is bound to its associated data and to its node", () => {
  const packet = decode(hexToBytes(vector.onion));
  const shared = sharedSecret(hexToBytes(vector.hops[0]!.private_key), packet);
  const other = sharedSecret(hexToBytes(vector.hops[1]!.private_key), packet);
  const data = hexToBytes(vector.associated_data);
  const wrong = [
    { packet, sharedSecret: shared, associatedData: data.slice(1) },
    { packet, sharedSecret: shared, associatedData: new Uint8Array(0) },
    { packet, sharedSecret: other, associatedData: data },
  ];
  for (const params of wrong) {
    const peeled = peelOnion(params);
    assert.ok(!peeled.ok);
    assert.equal(peeled.error.type, "invalid_onion_hmac");
  }
  const later = peelOnion({ packet: { ...packet, version: 1 }, sharedSecret: shared, associatedData: data });
  assert.ok(!later.ok);
  assert.equal(later.error.type, "invalid_onion_version");
});

for (
  const [name, length] of [
    ["0, the legacy form", [0]],
    ["1, reserved", [1]],
    ["252 in the long form", [0xfd, 0, 252]],
    ["past the packet", [0xfd, 0xff, 0xff]],
    ["so that the HMAC is past the packet", [0xfd, 1266 >> 8, 1266 & 0xff]],
    ["of four bytes", [0xfe, 0, 0, 0, 9]],
    ["of eight bytes", [0xff, 0, 0, 0, 0, 0, 0, 0, 9]],
    ["of 2^32", [0xff, 0, 0, 0, 1, 0, 0, 0, 0]],
  ] as const
) {
  Deno.test(`a payload whose length is ${name} is invalid_onion_payload`, () => {
    const peeled = peelOnion({ ...packetWith(length), associatedData });
    assert.deepEqual(peeled, {
      ok: false,
      error: { type: "invalid_onion_payload", tlv_type: 0n, offset: 0 },
    });
  });
}

Deno.test("the longest payload is one that leaves its HMAC in the packet", () => {
  const peeled = peelOnion({ ...packetWith([0xfd, 1265 >> 8, 1265 & 0xff]), associatedData });
  assert.ok(peeled.ok);
  assert.equal(peeled.value.payload.length, 1265);
});

Deno.test("whatever an origin packs, peeling it gives a payload or a named fault", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: HOP_PAYLOADS_LENGTH }), (content) => {
    const peeled = peelOnion({ ...packetWith([...content]), associatedData });
    if (peeled.ok) assert.ok(peeled.value.payload.length >= 2);
    else assert.equal(peeled.error.type, "invalid_onion_payload");
  }));
});

Deno.test("the replay key is the onion's own", () => {
  const packet = decode(hexToBytes(vector.onion));
  const shared = sharedSecret(secret, packet);
  const key = onionReplayKey(packet, shared);
  assert.equal(key.length, 32);
  assert.deepEqual(onionReplayKey(decode(encodeOnionPacket(packet)), shared.slice()), key);
  const flipped = packet.hmac.slice();
  flipped[31]! ^= 1;
  assert.notDeepEqual(onionReplayKey({ ...packet, hmac: flipped }, shared), key);
  assert.notDeepEqual(onionReplayKey(packet, sharedSecret(new Uint8Array(32).fill(1), packet)), key);
});
