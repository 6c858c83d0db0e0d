import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { createBase58check } from "@scure/base";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { feerate, type Sat, sat } from "bolt/units.ts";
import {
  buildInteractive,
  type InteractiveInput,
  type InteractiveOutput,
  withWitnesses,
} from "bolt/tx/build_interactive.ts";
import { fundingScriptPubkey } from "bolt/tx/funding.ts";
import { parseTransaction } from "bolt/tx/parse.ts";
import { fundingScript, hash160, p2wpkh, p2wpkhScriptCode } from "bolt/tx/scripts.ts";
import { witnessV0Sighash } from "bolt/tx/sighash.ts";
import { ecdsaWitnessItem, SIGHASH_ALL } from "bolt/tx/signature.ts";
import { txidToDisplay } from "bolt/tx/transaction.ts";
import { contributionFee, contributionWeight } from "bolt/tx/weights.ts";
import { checkWitness, decodeWitness, encodeWitness } from "bolt/tx/witness.ts";
import vector from "tests/data/bolt03/appendix_g_dual_funding.json" with { type: "json" };

const [FIRST_KEY, SECOND_KEY] = vector.fundingPubkeys.map(hexToBytes) as [Uint8Array, Uint8Array];
const PARENT = (() => {
  const parsed = parseTransaction(hexToBytes(vector.parentTx));
  assert(parsed.ok);
  return parsed.value;
})();
const FUNDING = {
  script: fundingScriptPubkey(FIRST_KEY, SECOND_KEY),
  amount: sat(vector.opener.fundingSat + vector.accepter.fundingSat),
};

type Side = typeof vector.opener | typeof vector.accepter;

function inputs(side: Side): InteractiveInput[] {
  return side.inputs.map(({ serialId, vout, sequence }) => ({
    serialId: BigInt(serialId),
    outpoint: { txid: PARENT.txid, vout },
    sequence,
  }));
}

function outputs(side: Side): InteractiveOutput[] {
  return side.outputs.map((output) => ({
    serialId: BigInt(output.serialId),
    amount: sat(output.sat),
    script: hexToBytes(output.script),
  }));
}

function build() {
  const built = buildInteractive({
    locktime: vector.locktime,
    inputs: [...inputs(vector.opener), ...inputs(vector.accepter)],
    outputs: [...outputs(vector.opener), ...outputs(vector.accepter)],
    funding: FUNDING,
  });
  assert(built.ok);
  return built.value;
}

function witness(side: Side): readonly Uint8Array[] {
  const stack = decodeWitness(hexToBytes(side.witness));
  assert(stack.ok);
  assert.equal(bytesToHex(encodeWitness(stack.value)), side.witness);
  return stack.value;
}

Deno.test("BOLT 3 appendix G: the unsigned transaction, its id and its funding output", () => {
  const built = build();
  assert.equal(bytesToHex(fundingScript(FIRST_KEY, SECOND_KEY)), vector.fundingScript);
  assert.equal(built.tx.toHex(), vector.unsignedTx);
  assert.equal(txidToDisplay(built.txid), vector.txid);
  assert.deepEqual(built.inputs.map((input) => input.serialId), [11n, 20n]);
  assert.deepEqual(built.outputs.map((output) => output.serialId), [30n, 33n, 44n]);
  assert.equal(built.fundingIndex, 2);
});

for (const [initiator, side] of [[true, vector.opener], [false, vector.accepter]] as const) {
  Deno.test(`BOLT 3 appendix G: weight and fee of the ${initiator ? "initiator" : "contributor"}`, () => {
    const contribution = { initiator, inputs: side.inputs.map(() => ({})), outputs: outputs(side) };
    assert.equal(contributionWeight(contribution), side.weight);
    assert.equal(contributionFee(contribution, feerate(vector.feeratePerKw)), BigInt(side.feeSat));
    const received = side.inputs.reduce((sum, { vout }) => sum + PARENT.outputs[vout]!.amount, 0n);
    const change = side.outputs.filter((output) => output.script !== bytesToHex(FUNDING.script));
    const spent = change.reduce((sum, output) => sum + BigInt(output.sat), BigInt(side.fundingSat));
    assert.equal(received - spent, BigInt(side.feeSat));
  });
}

Deno.test("BOLT 3 appendix G: the witnesses of both tx_signatures complete the transaction", () => {
  const built = build();
  const signed = withWitnesses(built, [
    { serialId: 20n, stack: witness(vector.opener) },
    { serialId: 11n, stack: witness(vector.accepter) },
  ]);
  assert(signed.ok);
  assert.equal(signed.value.toHex(), vector.signedTx);
  assert.equal(built.tx.toHex(), vector.unsignedTx, "the unsigned transaction stays as it was");
  for (const side of [vector.opener, vector.accepter]) {
    const { script } = PARENT.outputs[side.inputs[0]!.vout]!;
    assert.deepEqual(checkWitness(script, witness(side)), { ok: true, value: null });
  }
});

Deno.test("BOLT 3 appendix G: the accepter's signature", () => {
  const built = build();
  const [{ privkeyWif, pubkey, vout }] = vector.accepter.inputs as [typeof vector.accepter.inputs[0]];
  const secret = createBase58check(sha256).decode(privkeyWif).slice(1, 33);
  const spent = PARENT.outputs[vout]!;
  assert.deepEqual(spent.script, p2wpkh(hexToBytes(pubkey)));
  const hash = witnessV0Sighash(built.tx, 0, p2wpkhScriptCode(hash160(hexToBytes(pubkey))), spent.amount);
  const item = ecdsaWitnessItem(ecc().signEcdsa(hash, secret), SIGHASH_ALL);
  assert.deepEqual([item, hexToBytes(pubkey)], witness(vector.accepter));
});

Deno.test("withWitnesses wants a witness for each input and none besides", () => {
  const built = build();
  const opener = { serialId: 20n, stack: witness(vector.opener) };
  const accepter = { serialId: 11n, stack: witness(vector.accepter) };
  assert.deepEqual(withWitnesses(built, [opener]), {
    ok: false,
    error: { type: "missing_witness", serialId: 11n },
  });
  assert.deepEqual(withWitnesses(built, [opener, accepter, { ...opener, serialId: 30n }]), {
    ok: false,
    error: { type: "unknown_input", serialId: 30n },
  });
});

Deno.test("no funding transaction without inputs, with a repeated serial id or a wrong funding output", () => {
  const session = {
    locktime: 0,
    inputs: inputs(vector.opener),
    outputs: outputs(vector.opener),
    funding: FUNDING,
  };
  const failure = (change: Partial<typeof session>) => {
    const built = buildInteractive({ ...session, ...change });
    assert(!built.ok);
    return built.error;
  };
  assert.deepEqual(failure({ inputs: [] }), { type: "no_inputs" });
  assert.deepEqual(failure({ inputs: [...session.inputs, ...session.inputs] }), {
    type: "duplicate_serial_id",
    of: "input",
    serialId: 20n,
  });
  assert.deepEqual(failure({ outputs: [...session.outputs, session.outputs[0]!] }), {
    type: "duplicate_serial_id",
    of: "output",
    serialId: 30n,
  });
  assert.deepEqual(failure({ outputs: outputs(vector.accepter) }), { type: "no_funding_output" });
  assert.equal(failure({ funding: { ...FUNDING, amount: sat(399_999_999) } }).type, "wrong_funding_amount");
});

Deno.test("property: the transaction does not depend on the order in which both sides added", () => {
  const item = fc.record({ serialId: fc.bigInt(0n, (1n << 64n) - 1n), n: fc.nat(1000) });
  const items = fc.uniqueArray(item, { minLength: 1, maxLength: 8, selector: (i) => i.serialId });
  fc.assert(fc.property(
    items.chain((list) => fc.tuple(fc.constant(list), fc.shuffledSubarray(list, { minLength: list.length }))),
    fc.bigInt(0n, (1n << 64n) - 1n),
    ([one, other], fundingId) => {
      fc.pre(one.every((i) => i.serialId !== fundingId));
      const make = (list: typeof one) =>
        buildInteractive({
          locktime: 7,
          inputs: list.map(({ serialId, n }) => ({
            serialId,
            outpoint: { txid: PARENT.txid, vout: n },
            sequence: 0xfffffffd,
          })),
          outputs: [
            ...list.map(({ serialId, n }) => ({
              serialId,
              amount: sat(n) as Sat,
              script: Uint8Array.of(0x51),
            })),
            { serialId: fundingId, ...FUNDING },
          ],
          funding: FUNDING,
        });
      const [a, b] = [make(one), make(other)];
      assert(a.ok && b.ok);
      assert.equal(a.value.tx.toHex(), b.value.tx.toHex());
      assert.deepEqual(a.value.tx.outs[a.value.fundingIndex]!.script, FUNDING.script);
    },
  ));
});
