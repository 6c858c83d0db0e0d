import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { createOnion, type CreateOnionFault, hopPayloadSize, type OnionHop } from "bolt/onion/create.ts";
import { encodeOnionPacket, MAX_ONION_HOPS } from "bolt/onion/packet.ts";
import blinded from "tests/data/bolt04/blinded_payment_onion.json" with { type: "json" };
import plain from "tests/data/bolt04/onion.json" with { type: "json" };

const sessionKey = new Uint8Array(32).fill(0x41);
const associatedData = new Uint8Array(32).fill(0x42);
const pubkey = ecc().pointFromSecret(new Uint8Array(32).fill(0x43));

function hop(payloadLength: number): OnionHop {
  return { pubkey, payload: new Uint8Array(payloadLength) };
}

function refusal(hops: readonly OnionHop[], key = sessionKey): CreateOnionFault {
  const made = createOnion({ sessionKey: key, hops, associatedData });
  assert.ok(!made.ok, "an onion was made");
  return made.error;
}

for (
  const [name, vector] of [["onion", plain], ["blinded payment", {
    ...blinded,
    onion: blinded.hops[0]!.onion,
  }]] as const
) {
  Deno.test(`BOLT 4, ${name} test vector: the packet`, () => {
    const made = createOnion({
      sessionKey: hexToBytes(vector.session_key),
      hops: vector.hops.map((h) => ({ pubkey: hexToBytes(h.pubkey), payload: hexToBytes(h.payload) })),
      associatedData: hexToBytes(vector.associated_data),
    });
    assert.ok(made.ok);
    assert.equal(bytesToHex(encodeOnionPacket(made.value.packet)), vector.onion);
  });
}

Deno.test("a payload takes its length, itself and an HMAC", () => {
  assert.equal(hopPayloadSize(2), 35);
  assert.equal(hopPayloadSize(252), 285);
  assert.equal(hopPayloadSize(253), 288);
});

Deno.test("payloads may fill the packet to the last byte, and not one more", () => {
  assert.ok(createOnion({ sessionKey, hops: [hop(1300 - 35)], associatedData }).ok);
  assert.deepEqual(refusal([hop(1300 - 34)]), { type: "payloads_too_long", bytes: 1301, max: 1300 });
  assert.ok(createOnion({ sessionKey, hops: [hop(600), hop(1300 - 635 - 35)], associatedData }).ok);
  assert.equal(refusal([hop(600), hop(1300 - 635 - 34)]).type, "payloads_too_long");
});

Deno.test("as many hops as there can be, and not one more", () => {
  assert.ok(createOnion({ sessionKey, hops: Array(MAX_ONION_HOPS).fill(hop(15)), associatedData }).ok);
  assert.deepEqual(refusal(Array(MAX_ONION_HOPS + 1).fill(hop(2))), {
    type: "too_many_hops",
    hops: 28,
    max: 27,
  });
  assert.deepEqual(refusal([]), { type: "no_hops" });
});

Deno.test("reserved lengths, bad keys and bad session keys are named", () => {
  assert.deepEqual(refusal([hop(9), hop(1)]), { type: "payload_too_short", hop: 1 });
  assert.deepEqual(refusal([hop(9), hop(0)]), { type: "payload_too_short", hop: 1 });
  const notAPoint = { pubkey: new Uint8Array(33), payload: new Uint8Array(9) };
  assert.deepEqual(refusal([hop(9), hop(9), notAPoint]), { type: "bad_pubkey", hop: 2 });
  assert.deepEqual(refusal([hop(9)], new Uint8Array(32)), { type: "bad_session_key" });
  assert.deepEqual(refusal([hop(9)], new Uint8Array(31).fill(1)), { type: "bad_session_key" });
});
