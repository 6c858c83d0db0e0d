import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { blindedOnionKey } from "bolt/onion/blinding.ts";
import { decodeOnionPacket, encodeOnionPacket } from "bolt/onion/packet.ts";
import { peelOnion } from "bolt/onion/peel.ts";
import vector from "tests/data/bolt04/blinded_payment_onion.json" with { type: "json" };

/** The introduction node gets its path key in the payload, and its onion is made for its real id. */
const INTRODUCTION = 1;

for (const [i, hop] of vector.hops.entries()) {
  Deno.test(`BOLT 4, blinded payment test vector: hop ${i} finds its payload and the next onion`, () => {
    const packet = decodeOnionPacket(hexToBytes(hop.onion));
    assert.ok(packet.ok);
    const nodeKey = hexToBytes(hop.private_key);
    let key: Uint8Array | null = packet.value.public_key;
    if (i > INTRODUCTION) {
      const blindingSecret = ecc().ecdh(nodeKey, hexToBytes(hop.path_key!));
      assert.ok(blindingSecret !== null);
      key = blindedOnionKey(key, blindingSecret);
    }
    assert.ok(key !== null);
    const sharedSecret = ecc().ecdh(nodeKey, key);
    assert.ok(sharedSecret !== null);
    const peeled = peelOnion({
      packet: packet.value,
      sharedSecret,
      associatedData: hexToBytes(vector.associated_data),
    });
    assert.ok(peeled.ok);
    assert.equal(bytesToHex(peeled.value.payload), hop.payload);
    const next = vector.hops[i + 1]?.onion ?? null;
    assert.equal(peeled.value.next && bytesToHex(encodeOnionPacket(peeled.value.next)), next);
  });
}

Deno.test("a key that is no point is not tweaked", () => {
  assert.equal(blindedOnionKey(new Uint8Array(33), new Uint8Array(32).fill(1)), null);
});
