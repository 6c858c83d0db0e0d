import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import vectors from "tests/data/bolt01/signed_integers.json" with { type: "json" };
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { decodeAll, type Reader } from "./reader.ts";
import { encodeAll } from "./writer.ts";

function fault(hex: string, read: (reader: Reader) => unknown): string {
  const result = decodeAll(hexToBytes(hex), read);
  return result.ok ? "ok" : result.error.type;
}

Deno.test("BOLT 1 appendix D: signed integers", () => {
  const read: Record<string, (reader: Reader) => number | bigint> = {
    s8: (r) => r.s8(),
    s16: (r) => r.s16(),
    s32: (r) => r.s32(),
    s64: (r) => r.s64(),
  };
  for (const { type, value, hex } of vectors.cases) {
    const decode = read[type];
    assert.ok(decode !== undefined);
    const result = decodeAll(hexToBytes(hex), decode);
    assert.equal(result.ok && BigInt(result.value), BigInt(value));
    const encoded = encodeAll((w) => {
      if (type === "s8") w.s8(Number(value));
      else if (type === "s16") w.s16(Number(value));
      else if (type === "s32") w.s32(Number(value));
      else w.s64(BigInt(value));
    });
    assert.equal(bytesToHex(encoded), hex);
  }
});

Deno.test("every read beyond the end is a named failure", () => {
  const reads: ((reader: Reader) => unknown)[] = [
    (r) => r.u8(),
    (r) => r.u16(),
    (r) => r.u32(),
    (r) => r.u64(),
    (r) => r.s8(),
    (r) => r.s16(),
    (r) => r.s32(),
    (r) => r.s64(),
    (r) => r.bytes(1),
    (r) => r.sub(1),
    (r) => r.point(),
    (r) => r.signature(),
    (r) => r.hash(),
    (r) => r.bytes16(),
  ];
  for (const read of reads) assert.equal(fault("", read), "truncated", String(read));
  assert.equal(fault("0003aabb", (r) => r.bytes16()), "truncated");
  assert.equal(fault("aabb", (r) => r.u8()), "trailing_bytes");
});

Deno.test("a failure names its field and never its bytes", () => {
  const result = decodeAll(new Uint8Array(33), (r) => {
    r.field = "funding_pubkey";
    return r.point();
  });
  assert.deepEqual(result, {
    ok: false,
    error: { type: "bad_value", reason: "funding_pubkey: not a compressed public key" },
  });
});

Deno.test("truncated integers are minimal, bounded, and round-trip", () => {
  assert.deepEqual(decodeAll(new Uint8Array(), (r) => r.tu64()), { ok: true, value: 0n });
  assert.equal(fault("00", (r) => r.tu16()), "not_canonical");
  assert.equal(fault("0001", (r) => r.tu32()), "not_canonical");
  assert.equal(fault("010000", (r) => r.tu16()), "trailing_bytes");
  assert.equal(fault("0100000000", (r) => r.tu32()), "trailing_bytes");
  assert.equal(fault("010000000000000000", (r) => r.tu64()), "trailing_bytes");
  fc.assert(fc.property(fc.bigInt(0n, (1n << 64n) - 1n), (value) => {
    assert.deepEqual(decodeAll(encodeAll((w) => w.tu64(value)), (r) => r.tu64()), { ok: true, value });
  }));
  fc.assert(fc.property(fc.nat(0xffff), (value) => {
    assert.deepEqual(decodeAll(encodeAll((w) => w.tu16(value)), (r) => r.tu16()), { ok: true, value });
    assert.deepEqual(decodeAll(encodeAll((w) => w.tu32(value)), (r) => r.tu32()), { ok: true, value });
  }));
});

Deno.test("fields are copies, even of a Buffer", () => {
  const buffer = Buffer.from([0xff, 1, 2, 3]).subarray(1);
  const result = decodeAll(buffer, (r) => r.rest());
  buffer[0] = 9;
  assert.ok(result.ok);
  assert.deepEqual(result.value, Uint8Array.of(1, 2, 3));
});

Deno.test("a defect in a decoder is not taken for the peer's fault", () => {
  assert.throws(() =>
    decodeAll(new Uint8Array(), () => {
      throw new TypeError("defect");
    }), TypeError);
});

Deno.test("the writer refuses what does not fit", () => {
  const refused: (() => Uint8Array)[] = [
    () => encodeAll((w) => w.u8(256)),
    () => encodeAll((w) => w.u8(-1)),
    () => encodeAll((w) => w.u16(65536)),
    () => encodeAll((w) => w.u16(1.5)),
    () => encodeAll((w) => w.u16(NaN)),
    () => encodeAll((w) => w.u32(2 ** 32)),
    () => encodeAll((w) => w.u64(-1n)),
    () => encodeAll((w) => w.u64(1n << 64n)),
    () => encodeAll((w) => w.s8(128)),
    () => encodeAll((w) => w.s16(-32769)),
    () => encodeAll((w) => w.s32(2 ** 31)),
    () => encodeAll((w) => w.s64(1n << 63n)),
    () => encodeAll((w) => w.tu16(65536)),
    () => encodeAll((w) => w.tu32(-1)),
    () => encodeAll((w) => w.tu64(1n << 64n)),
    () => encodeAll((w) => w.bytes(new Uint8Array(3), 4)),
    () => encodeAll((w) => w.hash(new Uint8Array(31))),
    () => encodeAll((w) => w.signature(new Uint8Array(65))),
    () => encodeAll((w) => w.point(new Uint8Array(33))),
    () => encodeAll((w) => w.bytes16(new Uint8Array(65536))),
  ];
  for (const write of refused) assert.throws(write, RangeError, String(write));
});

Deno.test("the writer grows past its first buffer", () => {
  const long = Uint8Array.from({ length: 1000 }, (_, i) => i & 0xff);
  const written = encodeAll((w) => {
    for (const byte of long) w.u8(byte);
    w.bytes16(long);
  });
  assert.deepEqual(written, Uint8Array.of(...long, 0x03, 0xe8, ...long));
});
