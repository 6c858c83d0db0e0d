import assert from "node:assert/strict";
import { concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { Transaction } from "bitcoinjs-lib";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { testSide } from "bolt/tx/arbitraries.ts";
import { fundingScript, p2tr, p2wpkh, p2wsh } from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem } from "bolt/tx/signature.ts";
import {
  checkWitness,
  decodeWitness,
  encodeWitness,
  MAX_WITNESS_LENGTH,
  type WitnessFailure,
  witnessLength,
} from "bolt/tx/witness.ts";

const ALICE = testSide(1);
const BOB = testSide(2);
const P2WPKH = p2wpkh(ALICE.fundingPubkey);
const MULTISIG = fundingScript(ALICE.fundingPubkey, BOB.fundingPubkey);
const P2WSH = p2wsh(MULTISIG);
const P2TR = p2tr(ALICE.fundingPubkey.slice(1));
const BAD_FLAGS = [0x00, 0x02, 0x03, 0x81, 0x82, 0x83];
const CONTROL = concatBytes(Uint8Array.of(0xc0), new Uint8Array(32));

function ecdsa(flag: number): Uint8Array {
  const item = ecdsaWitnessItem(ecc().signEcdsa(sha256(new Uint8Array(1)), ALICE.fundingSecret), 0x01);
  item[item.length - 1] = flag;
  return item;
}

function schnorr(flag?: number): Uint8Array {
  const signature = ecc().signSchnorr(sha256(new Uint8Array(1)), ALICE.fundingSecret);
  return flag === undefined ? signature : concatBytes(signature, Uint8Array.of(flag));
}

function failure(script: Uint8Array, stack: readonly Uint8Array[]): WitnessFailure | null {
  const result = checkWitness(script, stack);
  return result.ok ? null : result.error;
}

const arbitraryStack = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 });

Deno.test("property: a witness survives encoding and decoding", () => {
  fc.assert(fc.property(arbitraryStack, (stack) => {
    const bytes = encodeWitness(stack);
    assert.equal(bytes.length, witnessLength(stack));
    assert.deepEqual(decodeWitness(bytes), { ok: true, value: stack });
  }));
});

Deno.test("property: a witness is encoded as in a transaction", () => {
  fc.assert(fc.property(arbitraryStack, (stack) => {
    fc.pre(stack.length > 0);
    const tx = new Transaction();
    tx.addInput(new Uint8Array(32), 0);
    tx.setWitness(0, [...stack]);
    assert.deepEqual(tx.toBuffer().slice(-4 - witnessLength(stack), -4), encodeWitness(stack));
  }));
});

Deno.test("property: what decodes from any bytes encodes to the same bytes", () => {
  const bytes = fc.oneof(fc.uint8Array({ maxLength: 200 }), arbitraryStack.map(encodeWitness));
  fc.assert(fc.property(bytes, fc.nat(255), (bytes, at) => {
    for (const variant of [bytes, bytes.slice(0, at), concatBytes(bytes, Uint8Array.of(at))]) {
      const decoded = decodeWitness(variant);
      if (decoded.ok) assert.deepEqual(encodeWitness(decoded.value), variant);
    }
  }));
});

Deno.test("witness bytes: truncated, trailing, padded and too long are named", () => {
  const type = (hex: string) => {
    const decoded = decodeWitness(hexToBytes(hex));
    return decoded.ok ? "ok" : decoded.error.type;
  };
  assert.equal(type(""), "truncated");
  assert.equal(type("00"), "ok");
  assert.equal(type("0000"), "trailing_bytes");
  assert.equal(type("01"), "truncated");
  assert.equal(type("0100"), "ok");
  assert.equal(type("010201"), "truncated");
  assert.equal(type("01010107"), "trailing_bytes");
  assert.equal(type("fd0100" + "00"), "not_minimal");
  assert.equal(type("fe0000ffff"), "truncated");
  assert.equal(type("fe00ff000000"), "not_minimal");
  assert.equal(type("ff00000000000000" + "00"), "not_minimal");
  assert.equal(type("ffffffffffffffffff"), "truncated");
  assert.equal(type("01ffffffffffffffffff00"), "truncated");
  assert.equal(type("01fd00"), "truncated");
  assert.deepEqual(decodeWitness(new Uint8Array(MAX_WITNESS_LENGTH + 1)), {
    ok: false,
    error: { type: "too_long", length: MAX_WITNESS_LENGTH + 1 },
  });
  const longest = new Uint8Array(MAX_WITNESS_LENGTH - 4);
  assert.equal(encodeWitness([longest]).length, MAX_WITNESS_LENGTH);
  assert.equal(decodeWitness(encodeWitness([longest])).ok, true);
});

Deno.test("an empty witness is refused for every script", () => {
  for (const script of [P2WPKH, P2WSH, P2TR, hexToBytes("51024e73")]) {
    assert.deepEqual(failure(script, []), { type: "empty_witness" });
  }
});

Deno.test("P2WPKH: a SIGHASH_ALL signature and a compressed key", () => {
  const key = ALICE.fundingPubkey;
  assert.equal(failure(P2WPKH, [ecdsa(0x01), key]), null);
  for (const flag of BAD_FLAGS) {
    assert.deepEqual(failure(P2WPKH, [ecdsa(flag), key]), { type: "not_sighash_all", item: 0, flag });
  }
  const wrong = [[ecdsa(1)], [ecdsa(1), key, key], [ecdsa(1), new Uint8Array(65)]];
  for (const stack of wrong) assert.equal(failure(P2WPKH, stack)?.type, "non_standard_witness");
  for (const item of [new Uint8Array(0), ecdsa(1).slice(0, -1), new Uint8Array(64), schnorr(1)]) {
    assert.deepEqual(failure(P2WPKH, [item, key]), { type: "malformed_signature", item: 0 });
  }
});

Deno.test("P2WSH: every signature SIGHASH_ALL, whatever stands around it", () => {
  const empty = new Uint8Array(0);
  assert.equal(failure(P2WSH, [empty, ecdsa(1), ecdsa(1), MULTISIG]), null);
  assert.equal(failure(P2WSH, [sha256(empty), MULTISIG]), null);
  assert.equal(failure(P2WSH, [MULTISIG]), null);
  for (const flag of BAD_FLAGS) {
    const stack = [empty, ecdsa(1), ecdsa(flag), MULTISIG];
    assert.deepEqual(failure(P2WSH, stack), { type: "not_sighash_all", item: 2, flag });
  }
});

Deno.test("P2WSH: the limits of what nodes relay", () => {
  const item = (length: number) => new Uint8Array(length);
  const type = (stack: readonly Uint8Array[]) => failure(P2WSH, stack)?.type ?? "ok";
  assert.equal(type([item(80), item(3600)]), "ok");
  assert.equal(type([item(81), item(3600)]), "non_standard_witness");
  assert.equal(type([item(80), item(3601)]), "non_standard_witness");
  assert.equal(type([...Array.from({ length: 100 }, () => item(1)), item(1)]), "ok");
  assert.equal(type([...Array.from({ length: 101 }, () => item(1)), item(1)]), "non_standard_witness");
});

Deno.test("P2TR key path: 64 bytes, or 65 with SIGHASH_ALL", () => {
  assert.equal(failure(P2TR, [schnorr()]), null);
  assert.equal(failure(P2TR, [schnorr(0x01)]), null);
  for (const flag of BAD_FLAGS) {
    assert.deepEqual(failure(P2TR, [schnorr(flag)]), { type: "not_sighash_all", item: 0, flag });
  }
  for (const length of [0, 1, 63, 66]) {
    assert.deepEqual(failure(P2TR, [new Uint8Array(length)]), { type: "malformed_signature", item: 0 });
  }
});

Deno.test("P2TR script path: tapscript of a standard form, its signatures SIGHASH_ALL, no annex", () => {
  const script = new Uint8Array(10_000);
  const type = (stack: readonly Uint8Array[]) => failure(P2TR, stack)?.type ?? "ok";
  assert.equal(type([schnorr(), script, CONTROL]), "ok");
  assert.equal(type([schnorr(1), schnorr(), script, CONTROL]), "ok");
  for (const flag of BAD_FLAGS.slice(1)) {
    assert.deepEqual(failure(P2TR, [schnorr(), schnorr(flag), script, CONTROL]), {
      type: "not_sighash_all",
      item: 1,
      flag,
    });
  }
  assert.equal(type([schnorr(), Uint8Array.of(0x50)]), "non_standard_witness");
  assert.equal(type([schnorr(), script, CONTROL, Uint8Array.of(0x50, 1)]), "non_standard_witness");
  assert.equal(type([new Uint8Array(81), script, CONTROL]), "non_standard_witness");
  assert.equal(type([script, CONTROL.slice(0, -1)]), "non_standard_witness");
  assert.equal(type([script, concatBytes(CONTROL, new Uint8Array(31))]), "non_standard_witness");
  assert.equal(type([script, concatBytes(CONTROL, new Uint8Array(32))]), "ok");
  assert.equal(type([script, concatBytes(CONTROL, new Uint8Array(32 * 129))]), "non_standard_witness");
  assert.equal(type([script, concatBytes(Uint8Array.of(0xc2), CONTROL.slice(1))]), "non_standard_witness");
});

Deno.test("no witness is standard for a script that is not P2WPKH, P2WSH or P2TR", () => {
  for (
    const hex of ["51024e73", "5220" + "11".repeat(32), "76a914" + "00".repeat(20) + "88ac", "6a0101", ""]
  ) {
    assert.equal(failure(hexToBytes(hex), [schnorr()])?.type, "non_standard_witness");
  }
});

Deno.test("property: any witness of any script gives an answer", () => {
  const script = fc.constantFrom(P2WPKH, P2WSH, P2TR, new Uint8Array(0));
  const item = fc.oneof(
    fc.uint8Array({ maxLength: 90 }),
    fc.uint8Array({ minLength: 6, maxLength: 73 }).map((bytes) => {
      bytes.set([0x30, bytes.length - 3, 0x02]);
      return bytes;
    }),
  );
  fc.assert(fc.property(script, fc.array(item, { maxLength: 5 }), (script, stack) => {
    const good = checkWitness(script, stack).ok;
    if (stack.length === 0 || script.length === 0) assert.equal(good, false);
    if (good && script === P2WPKH) assert.equal(stack.length, 2);
    // Neither a signature nor a control block is in these stacks.
    if (script === P2WPKH || script === P2TR) assert(!good || stack.some((item) => item.length >= 33));
  }));
});
