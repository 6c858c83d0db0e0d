import assert from "node:assert/strict";
import { hexToBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { p2wsh } from "bolt/tx/scripts.ts";
import { feerate, MAX_SAT, sat, weight } from "bolt/units.ts";
import { planContribution, type PlanRequest } from "bolt/interactive/plan.ts";
import { createSession } from "bolt/interactive/session.ts";
import { coin, coinScript, FUNDING_SCRIPT, parsed, sessionParams } from "bolt/interactive/testing.ts";
import type { PlannedInput } from "bolt/interactive/types.ts";
import vector from "tests/data/bolt03/appendix_g_dual_funding.json" with { type: "json" };

const CHANGE = coinScript("p2wpkh", 50);

function request(changes: Partial<PlanRequest>): PlanRequest {
  return {
    role: "initiator",
    feerate: feerate(253),
    contribution: sat(200_000),
    fundingScript: FUNDING_SCRIPT,
    utxos: [coin(1, 300_000n)],
    changeScript: CHANGE,
    dustLimit: sat(354),
    ...changes,
  };
}

Deno.test("BOLT 3 appendix G: opener 609 weight and 155 sat, accepter 395 weight and 100 sat", () => {
  const prevtx = hexToBytes(vector.parentTx);
  const outputs = parsed(prevtx).outputs;
  for (const role of ["initiator", "accepter"] as const) {
    const side = role === "initiator" ? vector.opener : vector.accepter;
    const utxos = side.inputs.map(({ vout }): Omit<PlannedInput, "sequence"> => ({
      prevtx,
      vout,
      amount: outputs[vout]!.amount,
      script: outputs[vout]!.script,
      witnessWeight: weight(side.witness.length / 2),
      confirmed: true,
    }));
    const plan = planContribution(request({
      role,
      contribution: sat(side.fundingSat),
      utxos,
      fundingScript: p2wsh(hexToBytes(vector.fundingScript)),
      changeScript: hexToBytes(side.outputs[0]!.script),
    }));
    assert(plan.ok);
    assert.equal(plan.value.fee, BigInt(side.feeSat));
    assert.equal(plan.value.outputs.length, 1);
    assert.equal(plan.value.outputs[0]!.amount, BigInt(side.outputs[0]!.sat));
    assert.equal(plan.value.inputs[0]!.sequence, side.inputs[0]!.sequence);
  }
});

Deno.test("change at the dust limit is kept, below it goes to the fee", () => {
  // 609 weight at 253 sat/kw with change, 485 without: 155 and 123 sat.
  const at = (amount: bigint) => planContribution(request({ utxos: [coin(1, amount)] }));
  const kept = at(200_000n + 155n + 354n);
  assert(kept.ok && kept.value.fee === 155n && kept.value.outputs[0]?.amount === 354n);
  const dropped = at(200_000n + 155n + 353n);
  assert(dropped.ok && dropped.value.fee === 155n + 353n && dropped.value.outputs.length === 0);
  const exact = at(200_000n + 123n);
  assert(exact.ok && exact.value.fee === 123n && exact.value.outputs.length === 0);
  const short = at(200_000n + 122n);
  assert(!short.ok);
  assert.deepEqual(short.error, { type: "insufficient", missing: 1n });
});

Deno.test("an accepter without coins contributes nothing and pays nothing", () => {
  const plan = planContribution(request({ role: "accepter", contribution: sat(0), utxos: [] }));
  assert.deepEqual(plan, { ok: true, value: { inputs: [], outputs: [], fee: 0n } });
  const initiator = planContribution(request({ contribution: sat(0), utxos: [] }));
  // Common fields and funding output: 214 weight.
  assert(!initiator.ok);
  assert.deepEqual(initiator.error, { type: "insufficient", missing: 55n });
});

Deno.test("impossible sums are refused", () => {
  const coins = [coin(1, MAX_SAT), coin(2, 1n)];
  const sum = planContribution(request({ utxos: coins }));
  assert(!sum.ok && sum.error.type === "amount_overflow");
  const missing = planContribution(request({ contribution: sat(MAX_SAT), utxos: [] }));
  assert(!missing.ok && missing.error.type === "amount_overflow");
});

Deno.test("whatever is planned a session takes, and one satoshi less it does not", () => {
  const amounts = fc.array(fc.bigInt({ min: 300n, max: 1_000_000n }), { maxLength: 6 });
  fc.assert(fc.property(
    amounts,
    fc.bigInt({ min: 354n, max: 2_000_000n }),
    fc.integer({ min: 253, max: 50_000 }),
    fc.constantFrom("initiator" as const, "accepter" as const),
    fc.integer({ min: 0, max: 500 }),
    (values, contribution, rate, role, witness) => {
      const utxos = values.map((amount, i) => ({ ...coin(i, amount), witnessWeight: weight(witness) }));
      const asked = request({ role, feerate: feerate(rate), contribution: sat(contribution), utxos });
      const plan = planContribution(asked);
      const paid = values.reduce((sum, amount) => sum + amount, 0n);
      if (!plan.ok) {
        assert(plan.error.type === "insufficient");
        // Exactly that much more is enough.
        const first = values[0];
        if (first === undefined) return;
        const more = [coin(0, first + plan.error.missing), ...utxos.slice(1)]
          .map((utxo) => ({ ...utxo, witnessWeight: weight(witness) }));
        assert(planContribution({ ...asked, utxos: more }).ok);
        const less = [coin(0, first + plan.error.missing - 1n), ...utxos.slice(1)]
          .map((utxo) => ({ ...utxo, witnessWeight: weight(witness) }));
        assert(!planContribution({ ...asked, utxos: less }).ok);
        return;
      }
      const { inputs, outputs, fee } = plan.value;
      const change = outputs.reduce((sum, output) => sum + output.amount, 0n);
      assert.equal(paid, contribution + change + fee);
      assert(outputs.every((output) => output.amount >= asked.dustLimit));
      const params = sessionParams({
        role,
        feerate: feerate(rate),
        contributions: { local: sat(contribution), remote: sat(0) },
        inputs,
        outputs,
      });
      assert(createSession(params).ok);
      const greedy = outputs.map((output) => ({ ...output, amount: sat(output.amount + 1n) }));
      if (greedy.length > 0) assert(!createSession({ ...params, outputs: greedy }).ok);
    },
  ));
});
