import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import { payments } from "bitcoinjs-lib";
import fc from "fast-check";
import { testSide } from "bolt/tx/arbitraries.ts";
import {
  dustLimit,
  isStandardShutdownScript,
  isWitnessProgram,
  MIN_DUST_LIMIT,
  offeredHtlcScript,
  p2tr,
  p2wpkh,
  p2wsh,
  receivedHtlcScript,
  scriptKind,
  toRemoteAnchorsScript,
  witnessProgram,
} from "bolt/tx/scripts.ts";

const PUBKEY = testSide(1).fundingPubkey;
const X_ONLY = PUBKEY.slice(1);
const NONE = { anysegwit: false, simpleClose: false };
const ANYSEGWIT = { anysegwit: true, simpleClose: false };
const SIMPLE_CLOSE = { anysegwit: false, simpleClose: true };

function program(opcode: number, length: number): Uint8Array {
  return concatBytes(Uint8Array.of(opcode, length), new Uint8Array(length).fill(3));
}

const P2PKH = payments.p2pkh({ pubkey: PUBKEY }).output!;
const P2SH = payments.p2sh({ redeem: { output: p2wpkh(PUBKEY) } }).output!;
const P2PK = concatBytes(Uint8Array.of(33), PUBKEY, Uint8Array.of(0xac));

Deno.test("output scripts are those of the bitcoin library", () => {
  assert.deepEqual(p2wpkh(PUBKEY), payments.p2wpkh({ pubkey: PUBKEY }).output);
  assert.deepEqual(p2wsh(P2PK), payments.p2wsh({ redeem: { output: P2PK } }).output);
  assert.deepEqual(p2tr(X_ONLY), payments.p2tr({ pubkey: X_ONLY }).output);
  assert.throws(() => p2tr(PUBKEY), RangeError);
});

Deno.test("witness programs have a version of 0 to 16 and one direct push of 2 to 40 bytes", () => {
  for (const [opcode, version] of [[0x00, 0], [0x51, 1], [0x60, 16]] as const) {
    for (const length of [2, 20, 32, 40]) {
      const script = program(opcode, length);
      assert.deepEqual(witnessProgram(script), { version, program: script.slice(2) });
    }
    for (const length of [0, 1, 41, 75]) assert.equal(isWitnessProgram(program(opcode, length)), false);
    assert.equal(isWitnessProgram(program(opcode, 32).slice(0, -1)), false);
    assert.equal(isWitnessProgram(concatBytes(program(opcode, 32), Uint8Array.of(0))), false);
  }
  for (const opcode of [0x01, 0x4f, 0x50, 0x61, 0x6a]) {
    assert.equal(isWitnessProgram(program(opcode, 32)), false);
  }
  const pushdata = concatBytes(Uint8Array.of(0x00, 0x4c, 0x20), new Uint8Array(32));
  for (const script of [P2PKH, P2SH, P2PK, pushdata, new Uint8Array(0), Uint8Array.of(0)]) {
    assert.equal(isWitnessProgram(script), false);
  }
});

Deno.test("kinds of scripts, with their dust limits of BOLT 3", () => {
  const rows = [
    [p2wpkh(PUBKEY), "p2wpkh", 294n],
    [p2wsh(P2PK), "p2wsh", 330n],
    [p2tr(X_ONLY), "p2tr", 330n],
    [program(0x51, 40), "other_witness", 354n],
    [program(0x52, 32), "other_witness", 354n],
    [P2PKH, "p2pkh", 546n],
    [P2SH, "p2sh", 540n],
    [Uint8Array.of(0x6a, 2, 1, 1), "op_return", 0n],
    [program(0x00, 31), "other", 546n],
    [P2PK, "other", 546n],
    [new Uint8Array(0), "other", 546n],
  ] as const;
  for (const [script, kind, dust] of rows) {
    assert.equal(scriptKind(script), kind);
    assert.equal(dustLimit(script), dust);
  }
  assert.equal(MIN_DUST_LIMIT, 354n);
});

Deno.test("shutdown scripts: P2WPKH and P2WSH always, later versions with anysegwit, never old ones", () => {
  for (const script of [p2wpkh(PUBKEY), p2wsh(P2PK)]) {
    assert.equal(isStandardShutdownScript(script, NONE), true);
  }
  for (const script of [p2tr(X_ONLY), program(0x51, 2), program(0x60, 40)]) {
    assert.equal(isStandardShutdownScript(script, NONE), false);
    assert.equal(isStandardShutdownScript(script, SIMPLE_CLOSE), false);
    assert.equal(isStandardShutdownScript(script, ANYSEGWIT), true);
  }
  for (const script of [P2PKH, P2SH, P2PK, program(0x00, 31), program(0x51, 41), new Uint8Array(0)]) {
    assert.equal(isStandardShutdownScript(script, { anysegwit: true, simpleClose: true }), false);
  }
});

Deno.test("OP_RETURN shutdown scripts push 6 to 80 bytes, each length in its only form", () => {
  const direct = (length: number) => concatBytes(Uint8Array.of(0x6a, length), new Uint8Array(length));
  const pushdata1 = (length: number) =>
    concatBytes(Uint8Array.of(0x6a, 0x4c, length), new Uint8Array(length));
  const allowed = (script: Uint8Array) => isStandardShutdownScript(script, SIMPLE_CLOSE);
  for (const length of [6, 7, 74, 75]) assert.equal(allowed(direct(length)), true);
  for (const length of [76, 77, 79, 80]) assert.equal(allowed(pushdata1(length)), true);
  for (const length of [0, 1, 5]) assert.equal(allowed(direct(length)), false);
  for (const length of [6, 75, 81, 255]) assert.equal(allowed(pushdata1(length)), false);
  for (const good of [direct(6), direct(75), pushdata1(76), pushdata1(80)]) {
    assert.equal(isStandardShutdownScript(good, ANYSEGWIT), false);
    assert.equal(allowed(concatBytes(good, Uint8Array.of(0))), false);
    assert.equal(allowed(good.slice(0, -1)), false);
  }
  assert.equal(allowed(Uint8Array.of(0x6a)), false);
  assert.equal(allowed(Uint8Array.of(0x6a, 0x4c)), false);
});

Deno.test("anchors add one block of delay to HTLC scripts, before the last OP_ENDIF, and nothing else", () => {
  const keys = { revocationPubkey: PUBKEY, ownerHtlcPubkey: PUBKEY, otherHtlcPubkey: PUBKEY };
  const hash = sha256(new Uint8Array(32));
  const pairs = [
    [offeredHtlcScript("static_remotekey", keys, hash), offeredHtlcScript("anchors", keys, hash)],
    [receivedHtlcScript("static_remotekey", keys, hash, 17), receivedHtlcScript("anchors", keys, hash, 17)],
  ] as const;
  for (const [legacy, anchors] of pairs) {
    assert.equal(bytesToHex(anchors), bytesToHex(legacy).replace(/68$/, "51b27568"));
  }
});

Deno.test("an expiry of 0 to 16 is pushed by its opcode", () => {
  const keys = { revocationPubkey: PUBKEY, ownerHtlcPubkey: PUBKEY, otherHtlcPubkey: PUBKEY };
  for (const [expiry, push] of [[0, "00"], [1, "51"], [16, "60"], [17, "0111"], [128, "028000"]] as const) {
    const script = bytesToHex(receivedHtlcScript("static_remotekey", keys, new Uint8Array(32), expiry));
    assert(script.endsWith(`75${push}b175ac6868`), script);
  }
});

Deno.test("to_remote with anchors needs the payment key and one confirmation", () => {
  assert.equal(bytesToHex(toRemoteAnchorsScript(PUBKEY)), `21${bytesToHex(PUBKEY)}ad51b2`);
});

Deno.test("property: any bytes have a kind, and what stands as a witness kind is a witness program", () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 45 }),
    fc.tuple(fc.constantFrom(0, 0x51, 0x60, 0x61), fc.nat(42)).map(([opcode, length]) =>
      program(opcode, length)
    ),
  );
  fc.assert(fc.property(bytes, (script) => {
    const isWitnessKind = ["p2wpkh", "p2wsh", "p2tr", "other_witness"].includes(scriptKind(script));
    // Version 0 with another length than 20 or 32 is a witness program that nobody can spend.
    const spendable = script[0] !== 0 || script.length === 22 || script.length === 34;
    assert.equal(isWitnessKind, isWitnessProgram(script) && spendable);
  }));
});
