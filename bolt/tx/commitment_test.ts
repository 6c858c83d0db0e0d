import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import { arbitrarySpec, TEST_OTHER, TEST_OWNER, TEST_SPEC } from "bolt/tx/arbitraries.ts";
import {
  buildCommitment,
  type Commitment,
  type CommitmentFailure,
  type CommitmentHtlc,
  type CommitmentSpec,
  commitmentWitness,
} from "bolt/tx/commitment.ts";
import { htlcTransactions } from "bolt/tx/htlc.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";
import { commitmentSighash } from "bolt/tx/sighash.ts";
import { compareBytes } from "bolt/tx/transaction.ts";
import { commitmentWeight } from "bolt/tx/weights.ts";

const FORMATS: readonly CommitmentFormat[] = ["anchors", "static_remotekey"];
const ALICE = TEST_OWNER;
const BOB = TEST_OTHER;
const SPEC = TEST_SPEC;

function built(spec: CommitmentSpec): Commitment {
  const result = buildCommitment(spec);
  assert(result.ok);
  return result.value;
}

function failure(change: Partial<CommitmentSpec>): CommitmentFailure {
  const result = buildCommitment({ ...SPEC, ...change });
  assert(!result.ok);
  return result.error;
}

function htlc(change: Partial<CommitmentHtlc>): CommitmentHtlc {
  return {
    id: 0n,
    direction: "offered",
    amount: msat(0),
    paymentHash: new Uint8Array(32),
    cltvExpiry: 500,
    ...change,
  };
}

function amounts(commitment: Commitment): Record<string, bigint> {
  return Object.fromEntries(commitment.outputs.map((output) => [output.role.type, output.amount]));
}

Deno.test("property: outputs and fee are the funding amount, whatever is trimmed", () => {
  let tried = 0;
  fc.assert(fc.property(arbitrarySpec, (spec) => {
    const result = buildCommitment(spec);
    if (!result.ok) {
      assert(["no_outputs", "outputs_exceed_funding"].includes(result.error.type), result.error.type);
      return;
    }
    tried++;
    const { outputs, fee, tx, trimmed, htlcOutputs } = result.value;
    const sum = outputs.reduce<bigint>((total, output) => total + output.amount, fee);
    assert.equal(sum, spec.funding.amount);
    assert.deepEqual(
      tx.outs.map(({ value, script }) => ({ value, script })),
      outputs.map(({ amount, script }) => ({ value: amount, script })),
    );
    assert.equal(trimmed.length + htlcOutputs.length, spec.htlcs.length);
  }));
  assert(tried > 50, `only ${tried} specs gave a commitment`);
});

Deno.test("property: no output but an anchor is below the owner's dust limit", () => {
  fc.assert(fc.property(arbitrarySpec, (spec) => {
    const result = buildCommitment(spec);
    if (!result.ok) return;
    for (const { role, amount } of result.value.outputs) {
      const isAnchor = role.type === "owner_anchor" || role.type === "other_anchor";
      assert(isAnchor ? amount === 330n : amount >= spec.dustLimit);
    }
  }));
});

Deno.test("property: outputs stand by amount, script and expiry, and HTLC outputs at their index", () => {
  fc.assert(fc.property(arbitrarySpec, (spec) => {
    const result = buildCommitment(spec);
    if (!result.ok) return;
    const { outputs, htlcOutputs } = result.value;
    for (const [i, next] of outputs.slice(1).entries()) {
      const before = outputs[i]!;
      assert(before.amount <= next.amount);
      if (before.amount !== next.amount) continue;
      const order = compareBytes(before.script, next.script);
      assert(order <= 0);
      if (order === 0 && before.role.type === "htlc" && next.role.type === "htlc") {
        assert(before.role.htlc.cltvExpiry <= next.role.htlc.cltvExpiry);
      }
    }
    for (const { htlc, index, amount } of htlcOutputs) {
      const output = outputs[index]!;
      assert.deepEqual(output.role, { type: "htlc", htlc });
      assert.equal(output.amount, amount);
    }
  }));
});

Deno.test("property: the order in which HTLCs are listed does not matter", () => {
  fc.assert(fc.property(arbitrarySpec, (spec) => {
    const one = buildCommitment(spec);
    const other = buildCommitment({ ...spec, htlcs: spec.htlcs.toReversed() });
    assert.equal(one.ok, other.ok);
    if (!one.ok || !other.ok) return;
    assert.deepEqual(one.value.txid, other.value.txid);
    assert.deepEqual(one.value.htlcOutputs, other.value.htlcOutputs);
  }));
});

Deno.test("property: every untrimmed HTLC has a second stage, whose output is not dust", () => {
  fc.assert(fc.property(arbitrarySpec, (spec) => {
    const result = buildCommitment(spec);
    if (!result.ok) return;
    const all = htlcTransactions(result.value);
    assert(all.ok);
    for (const { tx, amount, kind, spends } of all.value) {
      assert(amount >= spec.dustLimit);
      assert.equal(tx.outs[0]!.value, amount);
      assert.equal(tx.locktime, kind === "timeout" ? spends.htlc.cltvExpiry : 0);
      assert.deepEqual(tx.ins[0]!.hash, result.value.txid);
      assert.equal(tx.ins[0]!.index, spends.index);
    }
  }));
});

for (const format of FORMATS) {
  Deno.test(`the weight of a signed ${format} commitment is at most what BOLT 3 expects, and close to it`, () => {
    const htlcs = [0n, 1n, 2n].map((id) =>
      htlc({ id, amount: msat(10_000_000), direction: id === 1n ? "received" : "offered" })
    );
    const commitment = built({ ...SPEC, format, ownerBalance: msat(570_000_000), htlcs });
    const hash = commitmentSighash(commitment);
    const witness = commitmentWitness(commitment, {
      owner: ecc().signEcdsa(hash, ALICE.fundingSecret),
      other: ecc().signEcdsa(hash, BOB.fundingSecret),
    });
    const tx = commitment.tx.clone();
    tx.setWitness(0, [...witness]);
    const expected = commitmentWeight(format, 3);
    // Below by at most: both signatures 2 bytes shorter, and an output count of one byte where BOLT 3 allows for three.
    assert(tx.weight() <= expected && tx.weight() >= expected - 12, `${tx.weight()} of ${expected}`);
  });
}

Deno.test("the opener pays the fee and both anchors, owner or not", () => {
  const rate = feerate(10_000);
  const cost = 11_240n + 660n;
  const byOwner = built({ ...SPEC, feerate: rate });
  assert.deepEqual(amounts(byOwner), {
    owner_anchor: 330n,
    other_anchor: 330n,
    to_local: 600_000n - cost,
    to_remote: 400_000n,
  });
  assert.equal(byOwner.fee, 11_240n);
  const byOther = built({ ...SPEC, feerate: rate, ownerIsOpener: false });
  assert.equal(amounts(byOther)["to_local"], 600_000n);
  assert.equal(amounts(byOther)["to_remote"], 400_000n - cost);
});

Deno.test("an anchor stands iff its main output or an HTLC does", () => {
  const oneSided = { ownerBalance: msat(1_000_000_000), otherBalance: msat(0) };
  assert.deepEqual(Object.keys(amounts(built({ ...SPEC, ...oneSided }))).sort(), [
    "owner_anchor",
    "to_local",
  ]);
  const withHtlc = built({
    ...SPEC,
    ownerBalance: msat(990_000_000),
    otherBalance: msat(0),
    htlcs: [htlc({ amount: msat(10_000_000) })],
  });
  assert.deepEqual(Object.keys(amounts(withHtlc)).sort(), [
    "htlc",
    "other_anchor",
    "owner_anchor",
    "to_local",
  ]);
  const none = built({ ...SPEC, format: "static_remotekey" });
  assert.deepEqual(Object.keys(amounts(none)).sort(), ["to_local", "to_remote"]);
});

Deno.test("a main output at the dust limit stands, below it goes to the fee", () => {
  for (const [amount, stands] of [[354_000n, true], [353_999n, false]] as const) {
    const commitment = built({
      ...SPEC,
      ownerBalance: msat(1_000_000_000n - amount),
      otherBalance: msat(amount),
    });
    assert.equal(amounts(commitment)["to_remote"] === 354n, stands);
    assert.equal(amounts(commitment)["other_anchor"] === 330n, stands);
  }
});

Deno.test("offers alike in hash and amount stand by expiry, then by id", () => {
  const twins = [
    htlc({ id: 3n, amount: msat(5_000_000), cltvExpiry: 506 }),
    htlc({ id: 9n, amount: msat(5_000_000), cltvExpiry: 505 }),
    htlc({ id: 2n, amount: msat(5_000_000), cltvExpiry: 506 }),
  ];
  const commitment = built({ ...SPEC, ownerBalance: msat(585_000_000), htlcs: twins });
  assert.deepEqual(commitment.htlcOutputs.map((output) => output.htlc.id), [9n, 2n, 3n]);
});

Deno.test("money that appears or vanishes is refused", () => {
  assert.deepEqual(failure({ ownerBalance: msat(600_000_001) }), {
    type: "amounts_differ_from_funding",
    sumMsat: 1_000_000_001n,
  });
  assert.equal(failure({ ownerBalance: msat(599_999_999) }).type, "amounts_differ_from_funding");
  assert.equal(failure({ htlcs: [htlc({ amount: msat(1) })] }).type, "amounts_differ_from_funding");
});

Deno.test("an opener that cannot pay for the anchors makes no transaction that is worth more than the funding", () => {
  assert.deepEqual(failure({ ownerBalance: msat(0), otherBalance: msat(1_000_000_000) }), {
    type: "outputs_exceed_funding",
  });
});

Deno.test("a commitment without outputs is refused", () => {
  assert.deepEqual(failure({ dustLimit: sat(2_000_000) }), { type: "no_outputs" });
});

Deno.test("values outside of their range are named", () => {
  const tooMuch = 1n << 48n;
  assert.equal(failure({ commitmentNumber: tooMuch }).type, "bad_commitment_number");
  assert.equal(failure({ commitmentNumber: -1n }).type, "bad_commitment_number");
  assert.equal(failure({ obscuringFactor: tooMuch }).type, "bad_commitment_number");
  for (const delay of [-1, 0x1_0000, 1.5]) {
    assert.equal(failure({ toSelfDelay: delay }).type, "bad_to_self_delay");
  }
  const { funding } = SPEC;
  assert.equal(failure({ funding: { ...funding, otherPubkey: new Uint8Array(32) } }).type, "bad_key");
  assert.equal(failure({ keys: { ...SPEC.keys, ownerHtlcPubkey: new Uint8Array(0) } }).type, "bad_key");
  for (
    const outpoint of [{ txid: new Uint8Array(31), vout: 0 }, { txid: new Uint8Array(32), vout: 2 ** 32 }]
  ) {
    assert.equal(failure({ funding: { ...funding, outpoint } }).type, "bad_funding_outpoint");
  }
  const badHtlcs = [
    htlc({ id: 4n, cltvExpiry: 500_000_000 }),
    htlc({ id: 4n, paymentHash: new Uint8Array(31) }),
  ];
  for (const bad of badHtlcs) assert.deepEqual(failure({ htlcs: [bad] }), { type: "bad_htlc", id: 4n });
});

Deno.test("building leaves the spec as it was", () => {
  const before = bytesToHex(SPEC.funding.outpoint.txid);
  const commitment = built(SPEC);
  commitment.tx.ins[0]!.sequence = 0;
  assert.equal(bytesToHex(SPEC.funding.outpoint.txid), before);
  assert.notEqual(built(SPEC).tx.ins[0]!.sequence, 0);
});
