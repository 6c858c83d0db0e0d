import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { opcodes, script as bscript, Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { MAX_SAT, sat } from "bolt/units.ts";
import { findFundingOutput, fundingOutput, fundingScriptPubkey } from "bolt/tx/funding.ts";
import { fundingScript, hash160, p2wpkh, p2wpkhScriptCode } from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem } from "bolt/tx/signature.ts";
import { makeTransaction, txidFromDisplay, txidOf, txidToDisplay } from "bolt/tx/transaction.ts";
import vector from "tests/data/bolt03/appendix_b_funding.json" with { type: "json" };

const LOCAL = hexToBytes(vector.localFundingPubkey);
const REMOTE = hexToBytes(vector.remoteFundingPubkey);

Deno.test("BOLT 3 appendix B: the funding transaction, its script and its output", () => {
  const secret = hexToBytes(vector.inputPrivkey);
  const pubkey = ecc().pointFromSecret(secret);
  const funding = fundingOutput({
    openerPubkey: LOCAL,
    accepterPubkey: REMOTE,
    openerFunding: sat(vector.fundingSat),
    accepterFunding: sat(0),
  });
  assert(funding.ok);
  const tx = makeTransaction({
    locktime: 0,
    inputs: [{
      outpoint: { txid: txidFromDisplay(vector.inputTxid), vout: vector.inputIndex },
      sequence: 0xffffffff,
    }],
    outputs: [funding.value, { amount: sat(vector.changeSat), script: p2wpkh(pubkey) }],
  });
  const spent = p2wpkhScriptCode(hash160(pubkey));
  assert.equal(bytesToHex(Transaction.fromHex(vector.inputTx).outs[0]!.script), bytesToHex(spent));
  const signature = ecc().signEcdsa(tx.hashForSignature(0, spent, Transaction.SIGHASH_ALL), secret);
  tx.setInputScript(0, bscript.compile([ecdsaWitnessItem(signature, Transaction.SIGHASH_ALL), pubkey]));
  assert.equal(bytesToHex(fundingScript(LOCAL, REMOTE)), vector.fundingScript);
  assert.equal(tx.toHex(), vector.tx);
  assert.equal(txidToDisplay(txidOf(tx)), vector.txid);
  const found = findFundingOutput(
    [funding.value],
    fundingScriptPubkey(REMOTE, LOCAL),
    sat(vector.fundingSat),
  );
  assert.deepEqual(found, { ok: true, value: vector.fundingIndex });
});

Deno.test("the funding script does not depend on the order of the keys", () => {
  assert.deepEqual(fundingScript(LOCAL, REMOTE), fundingScript(REMOTE, LOCAL));
});

Deno.test("contributions beyond all bitcoin make no funding output", () => {
  const result = fundingOutput({
    openerPubkey: LOCAL,
    accepterPubkey: REMOTE,
    openerFunding: sat(MAX_SAT),
    accepterFunding: sat(1),
  });
  assert.deepEqual(result, { ok: false, error: { type: "funding_amount_too_large" } });
});

Deno.test("findFundingOutput wants exactly one output with the script, and the exact amount", () => {
  const script = fundingScriptPubkey(LOCAL, REMOTE);
  const amount = sat(100_000);
  const other = { amount, script: Uint8Array.of(opcodes.OP_1!) };
  const good = { amount, script };
  assert.deepEqual(findFundingOutput([other, good], script, amount), { ok: true, value: 1 });
  assert.deepEqual(findFundingOutput([other], script, amount), {
    ok: false,
    error: { type: "no_funding_output" },
  });
  assert.deepEqual(findFundingOutput([], script, amount), {
    ok: false,
    error: { type: "no_funding_output" },
  });
  assert.deepEqual(findFundingOutput([good, other, good], script, amount), {
    ok: false,
    error: { type: "several_funding_outputs", indexes: [0, 2] },
  });
  for (const wrong of [99_999n, 100_001n]) {
    assert.deepEqual(findFundingOutput([{ amount: wrong, script }], script, amount), {
      ok: false,
      error: { type: "wrong_funding_amount", index: 0, amount: wrong },
    });
  }
});
