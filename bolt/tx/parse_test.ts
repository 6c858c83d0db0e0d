import assert from "node:assert/strict";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import fc from "fast-check";
import { MAX_SAT } from "bolt/units.ts";
import { MAX_PREVTX_LENGTH, parseTransaction } from "bolt/tx/parse.ts";
import { txidToDisplay } from "bolt/tx/transaction.ts";
import funding from "tests/data/bolt03/appendix_b_funding.json" with { type: "json" };
import dual from "tests/data/bolt03/appendix_g_dual_funding.json" with { type: "json" };

const WITNESS_TX = hexToBytes(dual.parentTx);

function stripped(): Uint8Array {
  const tx = Transaction.fromBuffer(WITNESS_TX);
  tx.stripWitnesses();
  return tx.toBuffer();
}

function failure(bytes: Uint8Array, limit?: number): string {
  const parsed = limit === undefined ? parseTransaction(bytes) : parseTransaction(bytes, limit);
  assert(!parsed.ok);
  return parsed.error.type;
}

/** One input and the given outputs, without any check of amounts. */
function rawTx(amounts: readonly bigint[]): Uint8Array {
  const head = hexToBytes("0200000001" + "11".repeat(32) + "00000000" + "00" + "ffffffff");
  const outs = amounts.map((amount) => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, amount), true);
    return concatBytes(bytes, Uint8Array.of(1, 0x51));
  });
  return concatBytes(head, Uint8Array.of(amounts.length), ...outs, new Uint8Array(4));
}

Deno.test("a transaction with witness and without has one txid", () => {
  const full = parseTransaction(WITNESS_TX);
  const bare = parseTransaction(stripped());
  assert(full.ok && bare.ok);
  assert.deepEqual(full.value.txid, bare.value.txid);
  assert.equal(full.value.hasWitness, true);
  assert.equal(bare.value.hasWitness, false);
  assert.deepEqual(full.value.outputs, bare.value.outputs);
  assert.equal(full.value.outputs[2]!.amount, 250_000_000n);
  assert.equal(full.value.inputs[0]!.witness.length, 2);
  assert.equal(bare.value.inputs[0]!.witness.length, 0);
  assert.equal(full.value.weight, bare.value.weight + (WITNESS_TX.length - stripped().length));
});

Deno.test("BOLT 3 appendix B: txids and amounts of the funding transaction and of the coinbase that it spends", () => {
  const coinbase = parseTransaction(hexToBytes(funding.inputTx));
  const tx = parseTransaction(hexToBytes(funding.tx));
  assert(coinbase.ok && tx.ok);
  assert.equal(coinbase.value.isCoinbase, true);
  assert.equal(txidToDisplay(coinbase.value.txid), funding.inputTxid);
  assert.equal(coinbase.value.outputs[0]!.amount, BigInt(funding.inputSat));
  assert.equal(tx.value.isCoinbase, false);
  assert.equal(txidToDisplay(tx.value.txid), funding.txid);
  assert.deepEqual(tx.value.inputs[0]!.outpoint, { txid: coinbase.value.txid, vout: 0 });
  assert.equal(tx.value.outputs[1]!.amount, BigInt(funding.changeSat));
});

Deno.test("trailing bytes are refused, and so is every truncation", () => {
  for (const good of [WITNESS_TX, stripped()]) {
    assert.equal(parseTransaction(good).ok, true);
    assert.equal(failure(concatBytes(good, Uint8Array.of(0))), "malformed");
    for (let length = 0; length < good.length; length++) {
      assert.equal(parseTransaction(good.slice(0, length)).ok, false);
    }
  }
});

Deno.test("a padded CompactSize number is refused: the bytes would not be those that were hashed", () => {
  const hex = bytesToHex(stripped());
  const padded = hexToBytes(hex.slice(0, 8) + "fd0100" + hex.slice(10));
  assert.doesNotThrow(() => Transaction.fromBuffer(padded));
  assert.equal(failure(padded), "malformed");
});

Deno.test("no inputs, no outputs, superfluous witness, unknown flag", () => {
  assert.equal(failure(hexToBytes("02000000" + "00" + "00" + "00000000")), "no_inputs");
  assert.equal(failure(rawTx([])), "no_outputs");
  const bare = bytesToHex(stripped());
  const body = bare.slice(8, -8);
  assert.equal(failure(hexToBytes(`${bare.slice(0, 8)}0001${body}00${bare.slice(-8)}`)), "malformed");
  const unknownFlag = bytesToHex(WITNESS_TX).replace(/^020000000001/, "020000000002");
  assert.equal(parseTransaction(hexToBytes(unknownFlag)).ok, false);
});

Deno.test("amounts beyond all bitcoin are refused, one alone or in sum", () => {
  assert.equal(parseTransaction(rawTx([MAX_SAT])).ok, true);
  assert.equal(parseTransaction(rawTx([0n])).ok, true);
  for (const bad of [MAX_SAT + 1n, -1n, 1n << 63n, (1n << 64n) - 1n]) {
    assert.deepEqual(parseTransaction(rawTx([5n, bad])), {
      ok: false,
      error: { type: "bad_amount", index: 1 },
    });
  }
  assert.deepEqual(parseTransaction(rawTx([MAX_SAT, 1n])), {
    ok: false,
    error: { type: "bad_amount", index: 1 },
  });
});

Deno.test("counts that the bytes cannot hold cost nothing", () => {
  const huge = "ffffffffffffffffff";
  for (const hex of [`02000000${huge}`, `020000000001${huge}`, `02000000fe00000001${"00".repeat(1000)}`]) {
    assert.equal(failure(hexToBytes(hex)), "malformed");
  }
});

Deno.test("the limit on length is exact", () => {
  assert.equal(failure(new Uint8Array(MAX_PREVTX_LENGTH + 1)), "too_long");
  assert.notEqual(failure(new Uint8Array(MAX_PREVTX_LENGTH)), "too_long");
  assert.equal(failure(WITNESS_TX, WITNESS_TX.length - 1), "too_long");
  assert.equal(parseTransaction(WITNESS_TX, WITNESS_TX.length).ok, true);
});

Deno.test("property: garbage never throws", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
    parseTransaction(bytes);
    parseTransaction(concatBytes(WITNESS_TX.slice(0, 60), bytes));
  }));
});

Deno.test("property: what parses is exactly the bytes that its txid stands for, also after a changed byte", () => {
  const index = fc.nat(WITNESS_TX.length - 1);
  fc.assert(fc.property(index, fc.integer({ min: 1, max: 255 }), (at, flip) => {
    const bytes = WITNESS_TX.slice();
    bytes[at]! ^= flip;
    const parsed = parseTransaction(bytes);
    if (!parsed.ok) return;
    const tx = Transaction.fromBuffer(bytes);
    assert.deepEqual(tx.toBuffer(), bytes);
    assert.deepEqual(parsed.value.txid, tx.getHash(false));
    assert.equal(parsed.value.outputs.length, tx.outs.length);
  }));
});
