import assert from "node:assert/strict";
import fc from "fast-check";
import { planContribution } from "bolt/interactive/plan.ts";
import { feeCeil, feerate, type Sat, sat } from "bolt/units.ts";
import { fundingDemand, mostAvailable, mustSpend, planAmount } from "./planner.ts";
import {
  type Coin,
  FUNDING_WITNESS_WEIGHT,
  OWN_WITNESS_WEIGHT,
  ownInputWeight,
  P2TR_DUST,
  paymentDemand,
  select,
  settle,
  transactionWeight,
} from "./select.ts";

function coin(amount: bigint | number, n = 0): Coin {
  const txid = new Uint8Array(32);
  new DataView(txid.buffer).setUint32(0, n);
  return { outpoint: { txid, vout: n }, amount: sat(amount) };
}

const arbitraryCoins = fc.array(fc.bigInt({ min: 330n, max: 5_000_000n }), { maxLength: 12 })
  .map((amounts) => amounts.map((amount, n) => coin(amount, n)));
const arbitraryRate = fc.integer({ min: 253, max: 50_000 }).map(feerate);
const arbitraryAmount = fc.bigInt({ min: 330n, max: 10_000_000n }).map((amount) => sat(amount));

function total(coins: readonly Coin[]): bigint {
  return coins.reduce<bigint>((sum, one) => sum + one.amount, 0n);
}

Deno.test("weights of a P2TR spend: 230 an input, 1 in 1 out 444 (BIP 141 and 341 by hand)", () => {
  // 4 * (36 + 1 + 4) + count 1 + length 1 + signature 64.
  assert.equal(ownInputWeight(), 230);
  assert.equal(OWN_WITNESS_WEIGHT, 66);
  // 4 * (4 + 1 + 1 + 4) + 2 + 230 + 4 * (8 + 1 + 34).
  assert.equal(transactionWeight(1, [34]), 444);
  assert.equal(transactionWeight(2, [34, 22]), 444 + 230 + 4 * 31);
  // From 253 inputs the count takes three bytes.
  assert.equal(transactionWeight(253, [34]) - transactionWeight(252, [34]), 230 + 8);
});

Deno.test("a payment is exact: inputs = amount + change + fee, never below the fee rate, never dust", () => {
  fc.assert(fc.property(arbitraryCoins, arbitraryRate, arbitraryAmount, (coins, rate, amount) => {
    const demand = paymentDemand({ feerate: rate, amount, scriptLength: 34, dust: sat(330) });
    const result = select([], coins, demand);
    if (!result.ok) {
      assert.equal(result.error.type, "insufficient");
      // Truly: not even all coins that are worth their input suffice.
      const worthy = coins.filter((one) => one.amount > demand.inputFee);
      assert.ok(total(worthy) < amount + demand.fee(worthy.length, false));
      return;
    }
    const { coins: used, change, fee } = result.value;
    assert.equal(total(used), amount + change + fee);
    const scripts = change > 0n ? [34, 34] : [34];
    const needed = feeCeil(rate, transactionWeight(used.length, scripts));
    assert.ok(fee >= needed);
    if (change > 0n) {
      assert.equal(fee, needed);
      assert.ok(change >= P2TR_DUST);
    } else {
      // No more is given away than a change output would have cost, and dust.
      assert.ok(fee < feeCeil(rate, transactionWeight(used.length, [34, 34])) + P2TR_DUST);
    }
    assert.equal(new Set(used).size, used.length);
  }));
});

Deno.test("all: every coin that is worth its input, and nothing is left", () => {
  fc.assert(fc.property(arbitraryCoins, arbitraryRate, (coins, rate) => {
    const demand = paymentDemand({ feerate: rate, amount: "all", scriptLength: 34, dust: sat(330) });
    const result = select([], coins, demand);
    const worthy = coins.filter((one) => one.amount > demand.inputFee);
    if (!result.ok) {
      const rest = total(worthy) - demand.fee(worthy.length, false);
      assert.ok(rest < 330n);
      return;
    }
    assert.equal(result.value.change, 0n);
    assert.equal(result.value.coins.length, worthy.length);
    assert.equal(result.value.amount + result.value.fee, total(worthy));
  }));
});

Deno.test("the same coins in another order give the same selection", () => {
  fc.assert(fc.property(
    arbitraryCoins.chain((coins) =>
      fc.tuple(
        fc.constant(coins),
        fc.shuffledSubarray([...coins], { minLength: coins.length, maxLength: coins.length }),
      )
    ),
    arbitraryRate,
    arbitraryAmount,
    ([coins, shuffled], rate, amount) => {
      const demand = paymentDemand({ feerate: rate, amount, scriptLength: 22, dust: sat(294) });
      assert.deepEqual(select([], coins, demand), select([], shuffled, demand));
    },
  ));
});

Deno.test("the smallest coin that suffices alone is taken, else the largest", () => {
  const coins = [coin(10_000, 1), coin(90_000, 2), coin(50_000, 3), coin(60_000, 4)];
  const demand = (amount: Sat) =>
    paymentDemand({ feerate: feerate(253), amount, scriptLength: 34, dust: sat(330) });
  const amounts = (amount: number) => {
    const result = select([], coins, demand(sat(amount)));
    return result.ok ? result.value.coins.map((one) => Number(one.amount)) : result.error.type;
  };
  assert.deepEqual(amounts(40_000), [50_000]);
  assert.deepEqual(amounts(55_000), [60_000]);
  assert.deepEqual(amounts(100_000), [90_000, 60_000]);
  assert.deepEqual(amounts(300_000), "insufficient");
});

Deno.test("more inputs than a standard transaction holds are refused", () => {
  const many = Array.from({ length: 2_000 }, (_, n) => coin(1_000, n));
  const demand = paymentDemand({
    feerate: feerate(253),
    amount: sat(1_800_000),
    scriptLength: 34,
    dust: sat(330),
  });
  const result = select([], many, demand);
  assert.equal(result.ok ? "ok" : result.error.type, "too_many_inputs");
  assert.equal(settle(many, demand).ok, false);
});

Deno.test("a funding plan costs exactly what the interactive session counts", () => {
  fc.assert(fc.property(
    arbitraryCoins,
    arbitraryRate,
    arbitraryAmount,
    fc.constantFrom("initiator", "accepter"),
    (coins, rate, amount, role) => {
      const plan = planAmount([], coins, { role, feerate: rate, amount });
      if (!plan.ok) return;
      const script = new Uint8Array(34);
      const counted = planContribution({
        role,
        feerate: rate,
        contribution: amount,
        fundingScript: script,
        changeScript: script,
        dustLimit: sat(546),
        utxos: plan.value.coins.map((one) => ({
          prevtx: new Uint8Array(),
          vout: one.outpoint.vout,
          amount: one.amount,
          script,
          witnessWeight: FUNDING_WITNESS_WEIGHT,
          confirmed: true,
        })),
      });
      assert.ok(counted.ok);
      assert.equal(counted.value.fee, plan.value.fee);
      assert.equal(counted.value.outputs[0]?.amount ?? 0n, plan.value.change);
      assert.equal(total(plan.value.coins), amount + plan.value.change + plan.value.fee);
    },
  ));
});

Deno.test("what is called available can be put in, to the last satoshi", () => {
  fc.assert(
    fc.property(arbitraryCoins, arbitraryRate, fc.integer({ min: 1, max: 6 }), (coins, rate, maxInputs) => {
      const request = { role: "accepter" as const, feerate: rate, maxInputs };
      const available = mostAvailable([], coins, request);
      if (available === 0n) return;
      const plan = planAmount([], coins, { ...request, amount: available });
      assert.ok(plan.ok);
      assert.ok(plan.value.coins.length <= maxInputs);
      assert.equal(planAmount([], coins, { ...request, amount: sat(available + 1n) }).ok, false);
    }),
  );
});

Deno.test("a replacement spends again an input of every earlier attempt", () => {
  const arbitraryAttempts = fc.array(
    fc.record({
      ourInputs: fc.uniqueArray(fc.integer({ min: 0, max: 11 }), { maxLength: 4 })
        .map((numbers) => numbers.map((n) => coin(0, n).outpoint)),
    }),
    { maxLength: 6 },
  );
  fc.assert(
    fc.property(
      arbitraryAttempts,
      fc.uniqueArray(fc.integer({ min: 0, max: 11 }), { maxLength: 12 }),
      (attempts, there) => {
        const coins = there.map((n) => coin(1_000 + n, n));
        const must = mustSpend(attempts, coins);
        const has = (n: number) => there.includes(n);
        const lost = attempts.some((one) =>
          one.ourInputs.length > 0 && !one.ourInputs.some((input) => has(input.vout))
        );
        assert.equal(must.ok, !lost);
        if (!must.ok) return;
        for (const one of attempts) {
          if (one.ourInputs.length === 0) continue;
          assert.ok(
            must.value.some((chosen) => one.ourInputs.some((input) => input.vout === chosen.outpoint.vout)),
          );
        }
        assert.equal(new Set(must.value).size, must.value.length);
      },
    ),
  );
});

Deno.test("coins that must be spent are spent also when others would do, and come first", () => {
  const demand = fundingDemand({ role: "accepter", feerate: feerate(253), amount: sat(50_000) });
  const result = select([coin(1_000, 1)], [coin(100_000, 2), coin(60_000, 3)], demand);
  assert.ok(result.ok);
  assert.deepEqual(result.value.coins.map((one) => Number(one.amount)), [1_000, 60_000]);
});
