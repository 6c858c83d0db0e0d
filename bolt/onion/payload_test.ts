import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { arbBytes, arbHash, arbPoint, arbScid, arbU32, arbU64 } from "bolt/wire/arbitraries.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import type { TlvRecord } from "bolt/wire/tlv.ts";
import {
  decodeHopPayload,
  encodeHopPayload,
  HOP_PAYLOAD_TYPES,
  type HopPayload,
  type HopPayloadRecord,
} from "bolt/onion/payload.ts";
import blinded from "tests/data/bolt04/blinded_payment_onion.json" with { type: "json" };
import plain from "tests/data/bolt04/onion.json" with { type: "json" };

const NAMED = new Set(Object.values(HOP_PAYLOAD_TYPES));
const unknownTlvs: fc.Arbitrary<readonly TlvRecord[]> = fc.uniqueArray(
  fc.record({
    type: fc.bigInt(0n, (1n << 64n) - 1n).filter((type) => !NAMED.has(type)),
    value: arbBytes,
  }, { noNullPrototype: true }),
  { minLength: 1, maxLength: 3, selector: (record) => record.type },
).map((records) => records.sort((a, b) => (a.type < b.type ? -1 : 1)));

const arbPayload: fc.Arbitrary<HopPayload> = fc.record({
  amt_to_forward: arbU64,
  outgoing_cltv_value: arbU32,
  short_channel_id: arbScid,
  payment_data: fc.record({ payment_secret: arbHash, total_msat: arbU64 }, { noNullPrototype: true }),
  encrypted_recipient_data: arbBytes,
  current_path_key: arbPoint,
  payment_metadata: arbBytes,
  total_amount_msat: arbU64,
  keysend_preimage: arbHash,
  unknown_tlvs: unknownTlvs,
}, { requiredKeys: [], noNullPrototype: true });

function decode(hex: string, accepted?: (type: bigint) => boolean): HopPayload {
  const payload = decodeHopPayload(hexToBytes(hex), accepted);
  assert.ok(payload.ok);
  return payload.value;
}

Deno.test("BOLT 4, onion test vectors: the payloads, read and written back", () => {
  assert.deepEqual(decode(plain.hops[0]!.payload), {
    amt_to_forward: 15000n,
    outgoing_cltv_value: 1500,
    short_channel_id: shortChannelId(1n),
  });
  const last = decode(plain.hops[4]!.payload);
  assert.equal(last.amt_to_forward, 10000n);
  assert.equal(last.payment_data?.total_msat, 10000n);
  assert.equal(
    bytesToHex(last.payment_data.payment_secret),
    "24a33562c54507a9334e79f0dc4f17d407e6d7c61f0e2f3d0d38599502f61704",
  );
  assert.deepEqual(last.unknown_tlvs, [{ type: 301n, value: new Uint8Array(224).fill(0x2a) }]);
  const eve = decode(blinded.hops[4]!.payload);
  assert.equal(eve.amt_to_forward, 100000n);
  assert.equal(eve.total_amount_msat, 150000n);
  assert.equal(eve.outgoing_cltv_value, 749000);
  assert.equal(eve.encrypted_recipient_data?.length, 79);
  for (const hop of [...plain.hops, ...blinded.hops]) {
    assert.equal(bytesToHex(encodeHopPayload(decode(hop.payload))), hop.payload);
  }
});

Deno.test("what is written is read back", () => {
  fc.assert(fc.property(arbPayload, (payload) => {
    assert.deepEqual(decodeHopPayload(encodeHopPayload(payload), () => true), { ok: true, value: payload });
  }));
});

Deno.test("each record at its number", () => {
  const numbers: Record<HopPayloadRecord, bigint> = {
    amt_to_forward: 2n,
    outgoing_cltv_value: 4n,
    short_channel_id: 6n,
    payment_data: 8n,
    encrypted_recipient_data: 10n,
    current_path_key: 12n,
    payment_metadata: 16n,
    total_amount_msat: 18n,
    keysend_preimage: 5482373484n,
  };
  assert.deepEqual(HOP_PAYLOAD_TYPES, numbers);
  const preimage = "77".repeat(32);
  assert.equal(
    bytesToHex(encodeHopPayload({ keysend_preimage: hexToBytes(preimage) })),
    `ff0000000146c6616c20${preimage}`,
  );
});

for (
  const [name, hex, tlv_type, offset] of [
    ["an even record that nobody knows", "020101" + "0e00", 14n, 3],
    ["a record twice", "020101" + "020101", 2n, 3],
    ["records out of order", "040101" + "020101", 2n, 3],
    ["an amount with a leading zero", "02020001", 2n, 0],
    ["an amount of nine bytes", "0209010101010101010101", 2n, 0],
    ["a height of five bytes", "020101" + "04050101010101", 4n, 3],
    ["a short channel id of seven bytes", "0607" + "00".repeat(7), 6n, 0],
    ["a short channel id of nine bytes", "0609" + "00".repeat(9), 6n, 0],
    ["payment data without a whole secret", "081f" + "00".repeat(31), 8n, 0],
    ["a total with a leading zero", "0822" + "11".repeat(32) + "0001", 8n, 0],
    ["a path key that is none", "020101" + "0c21" + "05".repeat(33), 12n, 3],
    ["a preimage of 31 bytes", "020101" + "ff0000000146c6616c1f" + "77".repeat(31), 5482373484n, 3],
    ["a value past the end", "020101" + "040501", 4n, 3],
    ["a value of 2^64 - 1 bytes", "10ffffffffffffffffff", 16n, 0],
    ["a record without a length", "020101" + "04", 4n, 3],
    ["a length that is not in its shortest form", "02fd000101", 2n, 0],
    ["a type that is not in its shortest form", "020101" + "fd000401", 0n, 3],
    ["a type that is cut", "020101" + "fd01", 0n, 3],
  ] as const
) {
  Deno.test(`${name} is invalid_onion_payload at its place`, () => {
    assert.deepEqual(decodeHopPayload(hexToBytes(hex)), {
      ok: false,
      error: { type: "invalid_onion_payload", tlv_type, offset },
    });
  });
}

Deno.test("an even record without a name is kept where it is accepted, an odd one always", () => {
  const expected = {
    unknown_tlvs: [{ type: 14n, value: Uint8Array.of(1) }, { type: 15n, value: Uint8Array.of() }],
  };
  assert.deepEqual(decode("0e0101" + "0f00", (type) => type === 14n), expected);
  assert.equal(decodeHopPayload(hexToBytes("0e0101" + "0f00")).ok, false);
  assert.deepEqual(decode("0f00"), { unknown_tlvs: [{ type: 15n, value: Uint8Array.of() }] });
});

Deno.test("garbage is read or named, never thrown at", () => {
  const valid = arbPayload.map(encodeHopPayload);
  const mangled = fc.tuple(valid, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 })).map(
    ([bytes, changes]) => {
      if (bytes.length > 0) { for (const [at, value] of changes) bytes[at % bytes.length] = value; }
      return bytes;
    },
  );
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 1300 }), mangled), (bytes) => {
      const payload = decodeHopPayload(bytes);
      if (payload.ok) assert.deepEqual(encodeHopPayload(payload.value), bytes);
      else assert.ok(payload.error.offset < bytes.length);
    }),
    { numRuns: 1000 },
  );
});

Deno.test("a payload of ours that cannot be written is a defect", () => {
  assert.throws(() => encodeHopPayload({ amt_to_forward: -1n }), RangeError);
  assert.throws(() => encodeHopPayload({ keysend_preimage: new Uint8Array(31) }), RangeError);
  assert.throws(
    () => encodeHopPayload({ unknown_tlvs: [{ type: 2n, value: new Uint8Array(0) }] }),
    RangeError,
  );
  const twice = { type: 15n, value: new Uint8Array(0) };
  assert.throws(() => encodeHopPayload({ unknown_tlvs: [twice, twice] }), RangeError);
});
