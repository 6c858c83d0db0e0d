import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import { testFactor, testKeys, testSide } from "bolt/tx/arbitraries.ts";
import { buildCommitment, type Commitment } from "bolt/tx/commitment.ts";
import { htlcTransaction, htlcTransactions, htlcWitness } from "bolt/tx/htlc.ts";
import { type CommitmentFormat, p2wsh } from "bolt/tx/scripts.ts";
import { htlcSighash, htlcSighashType } from "bolt/tx/sighash.ts";
import { htlcSuccessWeight, htlcTimeoutWeight } from "bolt/tx/weights.ts";

const ALICE = testSide(1);
const BOB = testSide(2);
const FORMATS: readonly CommitmentFormat[] = ["anchors", "static_remotekey"];

/** One HTLC offered and one received, each of `amount` sat. */
function commitment(format: CommitmentFormat, amount: bigint, rate: number): Commitment {
  const htlcs = (["offered", "received"] as const).map((direction, id) => ({
    id: BigInt(id),
    direction,
    amount: msat(amount * 1000n),
    paymentHash: new Uint8Array(32).fill(id),
    cltvExpiry: 700,
  }));
  const built = buildCommitment({
    format,
    funding: {
      outpoint: { txid: new Uint8Array(32).fill(7), vout: 0 },
      amount: sat(1_000_000),
      ownerPubkey: ALICE.fundingPubkey,
      otherPubkey: BOB.fundingPubkey,
    },
    commitmentNumber: 1n,
    obscuringFactor: testFactor(ALICE, BOB),
    keys: testKeys(ALICE, BOB),
    toSelfDelay: 144,
    dustLimit: sat(354),
    feerate: feerate(rate),
    ownerIsOpener: true,
    ownerBalance: msat(1_000_000_000n - 2n * amount * 1000n),
    otherBalance: msat(0),
    htlcs,
  });
  assert(built.ok);
  return built.value;
}

for (const format of FORMATS) {
  Deno.test(`second stages of a ${format} commitment weigh at most what BOLT 3 expects, and close to it`, () => {
    const built = htlcTransactions(commitment(format, 10_000n, 1000));
    assert(built.ok);
    assert.deepEqual(built.value.map((htlc) => htlc.kind).sort(), ["success", "timeout"]);
    for (const htlc of built.value) {
      const sign = (signer: "owner" | "other") =>
        ecc().signEcdsa(htlcSighash(htlc.tx, htlc.spends, format, signer), ALICE.fundingSecret);
      const preimage = htlc.kind === "success" ? new Uint8Array(32) : null;
      const witness = htlcWitness(htlc, format, { owner: sign("owner"), other: sign("other") }, preimage);
      const tx = htlc.tx.clone();
      tx.setWitness(0, [...witness]);
      const expected = htlc.kind === "success" ? htlcSuccessWeight(format) : htlcTimeoutWeight(format);
      // BOLT 3 counts signatures of 73 bytes; ours have 71 or 72.
      assert(tx.weight() <= expected && tx.weight() >= expected - 8, `${tx.weight()} of ${expected}`);
    }
  });
}

Deno.test("an HTLC has an output iff what is left after its second stage's fee reaches the dust limit", () => {
  const rows = [
    ["static_remotekey", 354n + 663n, ["offered"]],
    ["static_remotekey", 354n + 662n, []],
    ["static_remotekey", 354n + 703n, ["offered", "received"]],
    ["static_remotekey", 354n + 702n, ["offered"]],
    ["anchors", 354n, ["offered", "received"]],
    ["anchors", 353n, []],
  ] as const;
  for (const [format, amount, untrimmed] of rows) {
    const { htlcOutputs } = commitment(format, amount, 1000);
    assert.deepEqual(htlcOutputs.map((output) => output.htlc.direction).sort(), untrimmed);
  }
});

Deno.test("the second stage pays like to_local, waits a block with anchors, and pays its fee only without", () => {
  for (const format of FORMATS) {
    const from = commitment(format, 10_000n, 1000);
    const toLocal = from.outputs.find((output) => output.role.type === "to_local")!;
    const all = htlcTransactions(from);
    assert(all.ok);
    for (const { tx, amount, outputScript, kind } of all.value) {
      assert.equal(bytesToHex(tx.outs[0]!.script), bytesToHex(toLocal.script));
      assert.deepEqual(p2wsh(outputScript), toLocal.script);
      assert.equal(tx.ins[0]!.sequence, format === "anchors" ? 1 : 0);
      const fee = format === "anchors" ? 0n : kind === "timeout" ? 663n : 703n;
      assert.equal(amount, 10_000n - fee);
    }
  }
});

Deno.test("only the other side's signature on an anchors HTLC leaves room for more inputs and outputs", () => {
  assert.equal(htlcSighashType("anchors", "other"), 0x83);
  assert.equal(htlcSighashType("anchors", "owner"), 0x01);
  assert.equal(htlcSighashType("static_remotekey", "other"), 0x01);
  assert.equal(htlcSighashType("static_remotekey", "owner"), 0x01);
  const from = commitment("anchors", 10_000n, 1000);
  const built = htlcTransaction(from, from.htlcOutputs[0]!);
  assert(built.ok);
  const { tx, spends } = built.value;
  const grown = tx.clone();
  grown.addInput(new Uint8Array(32), 5);
  grown.addOutput(Uint8Array.of(0x51), 1n);
  const hash = (of: typeof tx, signer: "owner" | "other") =>
    bytesToHex(htlcSighash(of, spends, "anchors", signer));
  assert.equal(hash(grown, "other"), hash(tx, "other"));
  assert.notEqual(hash(grown, "owner"), hash(tx, "owner"));
});

Deno.test("an HTLC that does not cover its second stage's fee is named", () => {
  const from = commitment("static_remotekey", 2000n, 1000);
  const output = { ...from.htlcOutputs[0]!, amount: sat(1) };
  assert.deepEqual(htlcTransaction(from, output), {
    ok: false,
    error: { type: "htlc_below_fee", id: output.htlc.id },
  });
});
