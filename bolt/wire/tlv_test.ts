import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import vectors from "tests/data/bolt01/tlv.json" with { type: "json" };
import assert from "node:assert/strict";
import fc from "fast-check";
import { point, scid, struct, tu32, tu64, u16, u64 } from "./codec.ts";
import { formatShortChannelId } from "./short_channel_id.ts";
import { decodeTlvStream, encodeTlvStream, tlv, tlvNamespace } from "./tlv.ts";

/** The two example namespaces of BOLT 1, appendix B. */
const n1 = tlvNamespace({
  tlv1: tlv(1, struct({ amount_msat: tu64 })),
  tlv2: tlv(2, struct({ scid })),
  tlv3: tlv(3, struct({ node_id: point, amount_msat_1: u64, amount_msat_2: u64 })),
  tlv4: tlv(254, struct({ cltv_delta: u16 })),
});
const n2 = tlvNamespace({
  tlv1: tlv(0, struct({ amount_msat: tu64 })),
  tlv2: tlv(11, struct({ cltv_expiry: tu32 })),
});

function decode(namespace: string, bytes: Uint8Array) {
  return namespace === "n1" ? n1.decode(bytes) : n2.decode(bytes);
}

/** Decoded records with each value as the text that the vectors have. */
function asText(records: object): Record<string, Record<string, string>> {
  const text: Record<string, Record<string, string>> = {};
  for (const [name, fields] of Object.entries(records)) {
    if (name === "unknown_tlvs") continue;
    text[name] = {};
    for (const [field, value] of Object.entries<unknown>(fields)) {
      text[name][field] = value instanceof Uint8Array
        ? bytesToHex(value)
        : field === "scid" && typeof value === "bigint"
        ? formatShortChannelId(value as Parameters<typeof formatShortChannelId>[0])
        : String(value);
    }
  }
  return text;
}

Deno.test("BOLT 1 appendix B: streams that decode, and encode back", () => {
  for (const { namespace, hex, records, unknown } of vectors.valid) {
    const bytes = hexToBytes(hex);
    const result = decode(namespace, bytes);
    assert.ok(result.ok, hex);
    assert.deepEqual(asText(result.value), records, hex);
    assert.equal(result.value.unknown_tlvs?.length ?? 0, unknown ? 1 : 0, hex);
  }
});

Deno.test("BOLT 1 appendix B: streams that are refused, each for its reason", () => {
  for (const { namespace, hex, fault } of vectors.refuse) {
    const result = decode(namespace, hexToBytes(hex));
    assert.equal(result.ok ? "ok" : result.error.type, fault, `${namespace} ${hex}`);
  }
});

Deno.test("BOLT 1 appendix B: a bad stream after a good one is refused, a higher good one is not", () => {
  for (const { namespace, hex } of vectors.valid) {
    for (const bad of vectors.refuse.filter((r) => r.namespace === namespace)) {
      const joined = concatBytes(hexToBytes(hex), hexToBytes(bad.hex));
      assert.equal(decode(namespace, joined).ok, false, `${namespace} ${hex} ${bad.hex}`);
    }
    for (const next of vectors.valid.filter((r) => r.namespace === namespace)) {
      const [low, high] = [hexToBytes(hex), hexToBytes(next.hex)].map(firstType);
      const rising = low === undefined || high === undefined || low < high;
      const joined = concatBytes(hexToBytes(hex), hexToBytes(next.hex));
      assert.equal(decode(namespace, joined).ok, rising, `${namespace} ${hex} ${next.hex}`);
    }
  }
});

function firstType(stream: Uint8Array): bigint | undefined {
  const records = decodeTlvStream(stream, () => true);
  return records.ok ? records.value[0]?.type : undefined;
}

Deno.test("what decodes encodes back to the same bytes, unknown odd records included", () => {
  for (const { namespace, hex } of vectors.valid) {
    const bytes = concatBytes(hexToBytes(hex), hexToBytes("ffffffffffffffffff0201aa"));
    const one = n1.decode(bytes);
    const two = n2.decode(bytes);
    const again = namespace === "n1" ? one.ok && n1.encode(one.value) : two.ok && n2.encode(two.value);
    assert.deepEqual(again, bytes);
  }
});

Deno.test("raw records round-trip; garbage is a failure or has one form", () => {
  const record = fc.record({
    type: fc.bigInt(0n, (1n << 64n) - 1n),
    value: fc.uint8Array({ maxLength: 300 }),
  }, {
    noNullPrototype: true,
  });
  fc.assert(fc.property(fc.uniqueArray(record, { selector: (r) => r.type }), (records) => {
    const sorted = records.toSorted((a, b) => (a.type < b.type ? -1 : 1));
    assert.deepEqual(decodeTlvStream(encodeTlvStream(sorted), () => true), { ok: true, value: sorted });
  }));
  fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
    const result = n1.decode(bytes);
    if (result.ok) assert.deepEqual(n1.encode(result.value), bytes);
  }));
});

Deno.test("a length far beyond the stream is refused before anything is allocated", () => {
  const result = decodeTlvStream(hexToBytes("01ffffffffffffffffff"), () => true);
  assert.equal(result.ok ? "ok" : result.error.type, "truncated");
});

Deno.test("our own bad streams are refused", () => {
  const value = new Uint8Array();
  assert.throws(() => encodeTlvStream([{ type: 3n, value }, { type: 3n, value }]), RangeError);
  assert.throws(() => n1.encode({ unknown_tlvs: [{ type: 3n, value }] }), RangeError);
  assert.throws(() => n1.encode({ unknown_tlvs: [{ type: 4n, value }] }), RangeError);
  assert.throws(() => n1.encode({ unknown_tlvs: [{ type: 5n, value }, { type: 5n, value }] }), RangeError);
  assert.throws(() => n1.encode({ tlv4: { cltv_delta: 65536 } }), {
    name: "RangeError",
    message: /tlv4: cltv_delta/,
  });
  assert.throws(() => tlvNamespace({ b: tlv(2, u16), a: tlv(1, u16) }), RangeError);
});
