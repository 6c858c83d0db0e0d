import assert from "node:assert/strict";
import fc from "fast-check";
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { script } from "bitcoinjs-lib";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";
import {
  type DerError,
  MAX_DER_LENGTH,
  parseDer,
  parseDerWithSighash,
  toDer,
  toDerWithSighash,
} from "bolt/crypto/der.ts";

const SIGHASH_ALL = 1;
const secrets = fc.uint8Array({ minLength: 32, maxLength: 32 }).filter((bytes) => nobleEcc.isPrivate(bytes));
const hashes = fc.uint8Array({ minLength: 32, maxLength: 32 });

/** A scalar with some leading zero bytes, the rest random and not zero. */
const scalars = fc.tuple(fc.nat(31), fc.uint8Array({ minLength: 32, maxLength: 32 })).map(
  ([zeros, bytes]) => {
    const scalar = bytes.slice();
    scalar.fill(0, 0, zeros);
    scalar[31] = (scalar[31] ?? 0) | 1;
    return scalar;
  },
);

function bad(hex: string): DerError {
  const result = parseDer(hexToBytes(hex));
  assert.ok(!result.ok, `took ${hex}`);
  return result.error;
}

Deno.test("DER is that of @noble/curves and of bitcoinjs-lib, and comes back", () => {
  fc.assert(
    fc.property(secrets, hashes, (secret, hash) => {
      const signature = nobleEcc.signEcdsa(hash, secret);
      const der = toDer(signature);
      assert.equal(bytesToHex(der), secp256k1.Signature.fromBytes(signature).toHex("der"));
      assert.deepEqual(parseDer(der), { ok: true, value: signature });
      const element = toDerWithSighash(signature, SIGHASH_ALL);
      assert.deepEqual(element, Uint8Array.from(script.signature.encode(signature, SIGHASH_ALL)));
      assert.deepEqual(parseDerWithSighash(element), {
        ok: true,
        value: { signature, sighash: SIGHASH_ALL },
      });
    }),
    { numRuns: 20 },
  );
});

Deno.test("short and high scalars come back, and bitcoinjs-lib agrees", () => {
  fc.assert(fc.property(scalars, scalars, (r, s) => {
    const signature = concatBytes(r, s);
    const der = toDer(signature);
    assert.ok(der.length <= MAX_DER_LENGTH);
    assert.deepEqual(parseDer(der), { ok: true, value: signature });
    assert.deepEqual(
      Uint8Array.from(script.signature.decode(concatBytes(der, Uint8Array.of(1))).signature),
      signature,
    );
  }));
});

Deno.test("only the strict encoding is taken: each deviation is named", () => {
  assert.deepEqual(parseDer(hexToBytes("3006020101020101")).ok, true);
  const encoding = (what: string): DerError => ({ type: "bad_encoding", what });
  assert.deepEqual(bad(""), { type: "bad_length", length: 0 });
  assert.deepEqual(bad("30050201010201"), { type: "bad_length", length: 7 });
  assert.deepEqual(bad("30" + "47" + "00".repeat(71)), { type: "bad_length", length: 73 });
  assert.deepEqual(bad("3106020101020101"), encoding("no sequence"));
  assert.deepEqual(bad("3007020101020101"), encoding("sequence has a wrong length"));
  assert.deepEqual(bad("3006030101020101"), encoding("r is no integer"));
  assert.deepEqual(bad("3006020101030101"), encoding("s is no integer"));
  assert.deepEqual(bad("3006020002020101"), encoding("r has a wrong length"));
  assert.deepEqual(bad("3006027f01020101"), encoding("r has a wrong length"));
  assert.deepEqual(bad("3006020101020201"), encoding("s has a wrong length"));
  assert.deepEqual(bad("3006020181020101"), encoding("r is negative"));
  assert.deepEqual(bad("3006020101020181"), encoding("s is negative"));
  assert.deepEqual(bad("300702020001020101"), encoding("r is padded"));
  assert.deepEqual(bad("300702010102020001"), encoding("s is padded"));
  assert.deepEqual(bad("300702010102010100"), encoding("bytes behind s"));
  assert.deepEqual(bad("3006020100020101"), { type: "bad_scalar", which: "r" });
  assert.deepEqual(bad("3006020101020100"), { type: "bad_scalar", which: "s" });
  assert.deepEqual(bad("3026" + "0221" + "01".repeat(33) + "020101"), { type: "bad_scalar", which: "r" });
  assert.deepEqual(parseDerWithSighash(new Uint8Array(0)), {
    ok: false,
    error: { type: "bad_length", length: 0 },
  });
});

Deno.test("garbage never throws, and what is taken has one encoding only", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
    const result = parseDer(bytes);
    if (result.ok) assert.deepEqual(toDer(result.value), bytes);
  }));
  const start = toDer(nobleEcc.signEcdsa(new Uint8Array(32).fill(5), new Uint8Array(32).fill(6)));
  fc.assert(
    fc.property(fc.nat(start.length - 1), fc.nat(255), (at, byte) => {
      const mutated = start.slice();
      mutated[at] = byte;
      const result = parseDer(mutated);
      if (result.ok) assert.deepEqual(toDer(result.value), mutated);
    }),
    { numRuns: 500 },
  );
});

Deno.test("a malformed signature or sighash of ours throws", () => {
  assert.throws(() => toDer(new Uint8Array(63)), RangeError);
  for (const sighash of [-1, 256, 0.5]) {
    assert.throws(() => toDerWithSighash(new Uint8Array(64), sighash), RangeError);
  }
});
