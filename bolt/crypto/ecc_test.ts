import assert from "node:assert/strict";
import { payments } from "bitcoinjs-lib";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { type Ecc, ecc, useEcc } from "bolt/crypto/ecc.ts";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";

const ONE = hexToBytes("00".repeat(31) + "01");
const N_MINUS_1 = hexToBytes("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140");
const N = hexToBytes("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
const G = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const MINUS_G = "03" + G.slice(2);

function hex(bytes: Uint8Array | null): string | null {
  return bytes === null ? null : bytesToHex(bytes);
}

Deno.test("RFC 6979 without extra entropy: the figure that other implementations share", () => {
  const hash = hexToBytes("a0dc65ffca799873cbea0ac274015b9526505daaaed385155425f7337704883e");
  const expected = "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8" +
    "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5";
  assert.equal(bytesToHex(nobleEcc.signEcdsa(hash, ONE)), expected);
  assert.equal(nobleEcc.verifyEcdsa(hash, hexToBytes(expected), hexToBytes(G)), true);
});

Deno.test("BIP 340, vector 0: zero auxiliary data", () => {
  const secret = hexToBytes("00".repeat(31) + "03");
  const hash = new Uint8Array(32);
  const expected = "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215" +
    "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0";
  assert.equal(bytesToHex(nobleEcc.signSchnorr(hash, secret)), expected);
  const xOnly = nobleEcc.pointFromSecret(secret).slice(1);
  assert.equal(nobleEcc.verifySchnorr(hash, hexToBytes(expected), xOnly), true);
});

Deno.test("BOLT 8: the shared secret of act one, from both sides", () => {
  const ephemeral = new Uint8Array(32).fill(0x12);
  const remote = new Uint8Array(32).fill(0x21);
  const expected = "1e2fb3c8fe8fb9f262f649f64d26ecf0f2c0a805a767cf02dc2d77a6ef1fdcc3";
  assert.equal(hex(nobleEcc.ecdh(ephemeral, nobleEcc.pointFromSecret(remote))), expected);
  assert.equal(hex(nobleEcc.ecdh(remote, nobleEcc.pointFromSecret(ephemeral))), expected);
});

Deno.test("arithmetic at the borders of the group", () => {
  const g = hexToBytes(G);
  const minusG = hexToBytes(MINUS_G);
  assert.equal(hex(nobleEcc.pointFromSecret(N_MINUS_1)), MINUS_G);
  assert.equal(nobleEcc.pointAdd(g, minusG), null);
  assert.equal(nobleEcc.pointAddScalar(minusG, ONE), null);
  assert.equal(hex(nobleEcc.pointAddScalar(g, new Uint8Array(32))), G);
  assert.equal(hex(nobleEcc.pointMul(g, N_MINUS_1)), MINUS_G);
  assert.equal(nobleEcc.pointMul(g, new Uint8Array(32)), null);
  assert.equal(nobleEcc.pointMul(g, N), null);
  assert.equal(nobleEcc.privateAdd(N_MINUS_1, ONE), null);
  assert.equal(hex(nobleEcc.privateAdd(ONE, new Uint8Array(32))), bytesToHex(ONE));
  assert.equal(nobleEcc.privateMul(ONE, new Uint8Array(32)), null);
  assert.equal(hex(nobleEcc.privateMul(N_MINUS_1, N_MINUS_1)), bytesToHex(ONE));
  assert.equal(hex(nobleEcc.privateNegate(ONE)), bytesToHex(N_MINUS_1));
  for (const bad of [new Uint8Array(32), N, new Uint8Array(31).fill(1), new Uint8Array(33).fill(1)]) {
    assert.equal(nobleEcc.isPrivate(bad), false);
    assert.throws(() => nobleEcc.pointFromSecret(bad), RangeError);
    assert.throws(() => nobleEcc.signEcdsa(ONE, bad), RangeError);
  }
});

Deno.test("only compressed points are points", () => {
  const uncompressed = hexToBytes(
    "04" + G.slice(2) + "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
  );
  assert.equal(nobleEcc.isPoint(hexToBytes(G)), true);
  assert.equal(nobleEcc.isPoint(uncompressed), false);
  assert.equal(nobleEcc.isPoint(hexToBytes("06" + G.slice(2))), false);
  assert.equal(nobleEcc.verifyEcdsa(ONE, nobleEcc.signEcdsa(ONE, ONE), uncompressed), false);
});

Deno.test("the active provider serves bitcoinjs-lib: BIP 86's first address", () => {
  const internalPubkey = hexToBytes("cc8a4bc64d897bddc5fbc2f670f7a8ba0b386779106cf1223c6fc5d7cd6fc115");
  assert.equal(ecc().name, "noble");
  assert.equal(
    payments.p2tr({ internalPubkey }).address,
    "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr",
  );
});

Deno.test("a provider that bitcoinjs-lib refuses does not become the active one", () => {
  const broken: Ecc = { ...nobleEcc, name: "broken", isXOnlyPoint: () => true };
  assert.throws(() => useEcc(broken));
  assert.equal(ecc().name, "noble");
  const other: Ecc = { ...nobleEcc, name: "other" };
  useEcc(other);
  assert.equal(ecc(), other);
  useEcc(nobleEcc);
});
