import assert from "node:assert/strict";
import { payments } from "bitcoinjs-lib";
import fc from "fast-check";
import { feerate, sat } from "bolt/units.ts";
import { testSide } from "bolt/tx/arbitraries.ts";
import { p2wpkh } from "bolt/tx/scripts.ts";
import { makeTransaction } from "bolt/tx/transaction.ts";
import {
  anchorsCost,
  commitmentFee,
  commitmentWeight,
  commonFieldsWeight,
  compactSizeLength,
  contributionFee,
  contributionWeight,
  fundingOutputWeight,
  htlcSuccessWeight,
  htlcTimeoutWeight,
  htlcTransactionFee,
  inputWeight,
  MIN_WITNESS_WEIGHT,
  outputWeight,
} from "bolt/tx/weights.ts";
import { witnessLength } from "bolt/tx/witness.ts";

const SCRIPT = p2wpkh(testSide(1).fundingPubkey);

Deno.test("commitment weights and fees of BOLT 3", () => {
  assert.equal(commitmentWeight("anchors", 0), 1124);
  assert.equal(commitmentWeight("static_remotekey", 0), 724);
  assert.equal(commitmentWeight("anchors", 483), 1124 + 172 * 483);
  assert.equal(commitmentFee("static_remotekey", feerate(15_000), 0), 10_860n);
  assert.equal(commitmentFee("anchors", feerate(253), 0), 284n, "284.372 rounded down");
  assert.equal(anchorsCost("anchors"), 660n);
  assert.equal(anchorsCost("static_remotekey"), 0n);
});

Deno.test("HTLC transactions pay their own fee only without anchors", () => {
  assert.equal(htlcTimeoutWeight("static_remotekey"), 663);
  assert.equal(htlcSuccessWeight("static_remotekey"), 703);
  assert.equal(htlcTimeoutWeight("anchors"), 666);
  assert.equal(htlcSuccessWeight("anchors"), 706);
  assert.equal(htlcTransactionFee("static_remotekey", feerate(253), "timeout"), 167n);
  assert.equal(htlcTransactionFee("static_remotekey", feerate(253), "success"), 177n);
  assert.equal(htlcTransactionFee("anchors", feerate(50_000), "timeout"), 0n);
  assert.equal(htlcTransactionFee("anchors", feerate(50_000), "success"), 0n);
});

Deno.test("weights of an interactive transaction's parts", () => {
  assert.equal(commonFieldsWeight(), 42);
  assert.equal(inputWeight(), 271);
  assert.equal(inputWeight(MIN_WITNESS_WEIGHT - 1), 271, "a shorter witness counts as the minimum");
  assert.equal(inputWeight(MIN_WITNESS_WEIGHT + 1), 272);
  assert.equal(outputWeight(22), 124);
  assert.equal(fundingOutputWeight(), 172);
  for (
    const [value, length] of [[0, 1], [252, 1], [253, 3], [65_535, 3], [65_536, 5], [2 ** 32, 9]] as const
  ) {
    assert.equal(compactSizeLength(value), length);
  }
});

Deno.test("fees of contributions are rounded up", () => {
  const nothing = { initiator: false, inputs: [], outputs: [] };
  assert.equal(contributionFee(nothing, feerate(1000)), 0n);
  const output = { ...nothing, outputs: [{ script: SCRIPT }] };
  assert.equal(contributionFee(output, feerate(1000)), 124n);
  assert.equal(contributionFee(output, feerate(1001)), 125n);
});

Deno.test("property: the initiator's and the contributor's weights are that of the whole signed transaction", () => {
  const witness = fc.array(fc.uint8Array({ minLength: 107, maxLength: 300 }), { minLength: 1, maxLength: 3 });
  const side = fc.record({
    witnesses: fc.array(witness, { minLength: 1, maxLength: 5 }),
    scripts: fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 5 }),
  });
  fc.assert(fc.property(side, side, (opener, accepter) => {
    const witnesses = [...opener.witnesses, ...accepter.witnesses];
    const tx = makeTransaction({
      locktime: 0,
      inputs: witnesses.map((_, vout) => ({ outpoint: { txid: new Uint8Array(32), vout }, sequence: 0 })),
      outputs: [...opener.scripts, ...accepter.scripts].map((script) => ({ amount: sat(1), script })),
    });
    for (const [index, stack] of witnesses.entries()) tx.setWitness(index, [...stack]);
    const weightOf = (part: typeof opener, initiator: boolean) =>
      contributionWeight({
        initiator,
        inputs: part.witnesses.map((stack) => ({ witnessWeight: witnessLength(stack) })),
        outputs: part.scripts.map((script) => ({ script })),
      });
    assert.equal(weightOf(opener, true) + weightOf(accepter, false), tx.weight());
  }));
});

Deno.test("a P2WPKH witness is about the least that is counted", () => {
  const { fundingPubkey } = testSide(1);
  assert.deepEqual(payments.p2wpkh({ pubkey: fundingPubkey }).output, SCRIPT);
  const length = witnessLength([new Uint8Array(71), fundingPubkey]);
  assert.equal(length, MIN_WITNESS_WEIGHT);
});
