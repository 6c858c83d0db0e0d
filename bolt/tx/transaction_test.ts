import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { sat } from "bolt/units.ts";
import { arbitraryTxid } from "bolt/tx/arbitraries.ts";
import {
  compareBytes,
  makeTransaction,
  sameBytes,
  sameOutPoint,
  txidFromDisplay,
  txidOf,
  txidToDisplay,
} from "bolt/tx/transaction.ts";

Deno.test("property: a txid is shown reversed and read back", () => {
  fc.assert(fc.property(arbitraryTxid, (txid) => {
    const before = bytesToHex(txid);
    assert.equal(txidToDisplay(txid).slice(0, 2), before.slice(-2));
    assert.deepEqual(txidFromDisplay(txidToDisplay(txid)), txid);
    assert.equal(bytesToHex(txid), before, "the argument stays as it was");
  }));
  assert.throws(() => txidFromDisplay("00"), RangeError);
});

Deno.test("txidOf shows what other software shows", () => {
  const tx = makeTransaction({
    locktime: 3,
    inputs: [{ outpoint: { txid: new Uint8Array(32).fill(1), vout: 2 }, sequence: 0xfffffffd }],
    outputs: [{ amount: sat(5), script: Uint8Array.of(0x51) }],
  });
  assert.equal(tx.version, 2);
  assert.equal(txidToDisplay(txidOf(tx)), tx.getId());
});

Deno.test("property: byte strings are ordered as their hex is", () => {
  const bytes = fc.uint8Array({ maxLength: 4 });
  fc.assert(fc.property(bytes, bytes, (a, b) => {
    const [x, y] = [bytesToHex(a), bytesToHex(b)];
    assert.equal(Math.sign(compareBytes(a, b)), x < y ? -1 : x > y ? 1 : 0);
    assert.equal(sameBytes(a, b), x === y);
    assert.equal(sameBytes(a, a.slice()), true);
    assert(compareBytes(a, concatBytes(a, Uint8Array.of(0))) < 0);
  }));
});

Deno.test("outpoints differ by txid or by index", () => {
  const a = { txid: new Uint8Array(32), vout: 0 };
  assert.equal(sameOutPoint(a, { txid: new Uint8Array(32), vout: 0 }), true);
  assert.equal(sameOutPoint(a, { ...a, vout: 1 }), false);
  assert.equal(sameOutPoint(a, { ...a, txid: new Uint8Array(32).fill(1) }), false);
});

Deno.test("txidToDisplay leaves its argument alone, a Buffer too: the slice of one is no copy", () => {
  const txid = Buffer.from(new Uint8Array(32).map((_, i) => i));
  const display = txidToDisplay(txid);
  assert.equal(txidToDisplay(txid), display);
  assert.equal(txid[0], 0);
});
