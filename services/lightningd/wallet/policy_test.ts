import assert from "node:assert/strict";
import fc from "fast-check";
import { sat } from "bolt/units.ts";
import { type FunderPolicy, type FunderRefusal, ourFunding } from "./policy.ts";

const POLICY: FunderPolicy = {
  policy: "fixed",
  mod: 0n,
  minTheirFunding: sat(0),
  maxTheirFunding: sat(10_000),
  perChannelMin: sat(0),
  perChannelMax: sat(10_000),
  reserveTank: sat(0),
  fuzzPercent: 0,
  fundProbability: 100,
};
const SURE = { probability: 0.99, fuzz: 0.5 };

interface Row {
  readonly name: string;
  readonly their: number;
  readonly available: number;
  readonly channelMax: number;
  readonly policy: Partial<FunderPolicy>;
  readonly ours: number;
  readonly refusal?: FunderRefusal;
}

// The amounts are those that Core Lightning's funder gives in the same situations.
const ROWS: readonly Row[] = [
  {
    name: "fixed",
    their: 5_000,
    available: 100_000,
    channelMax: 11_000,
    policy: { mod: 1_111n },
    ours: 1_111,
  },
  {
    name: "match 0 %",
    their: 5_000,
    available: 500,
    channelMax: 11_000,
    policy: { policy: "match", perChannelMin: sat(1_000) },
    ours: 0,
    refusal: "per_channel_min",
  },
  {
    name: "match 100 %",
    their: 5_000,
    available: 6_000,
    channelMax: 11_000,
    policy: { policy: "match", mod: 100n, perChannelMin: sat(1_000) },
    ours: 5_000,
  },
  {
    name: "match 200 %",
    their: 2_500,
    available: 6_000,
    channelMax: 11_000,
    policy: { policy: "match", mod: 200n, perChannelMin: sat(1_000) },
    ours: 5_000,
  },
  {
    name: "available 0 %",
    their: 2_500,
    available: 5_000,
    channelMax: 11_000,
    policy: { policy: "available", perChannelMin: sat(1_000) },
    ours: 0,
    refusal: "per_channel_min",
  },
  {
    name: "available 50 %",
    their: 2_500,
    available: 3_000,
    channelMax: 11_000,
    policy: { policy: "available", mod: 50n, perChannelMin: sat(1_000) },
    ours: 1_500,
  },
  {
    name: "available 100 %",
    their: 2_500,
    available: 5_000,
    channelMax: 11_000,
    policy: { policy: "available", mod: 100n, perChannelMin: sat(1_000) },
    ours: 5_000,
  },
  {
    name: "above the most per channel",
    their: 5_000,
    available: 5_000,
    channelMax: 11_000,
    policy: { mod: 1_011n, perChannelMin: sat(100), perChannelMax: sat(900) },
    ours: 900,
  },
  {
    name: "more than the channel has room for",
    their: 5_000,
    available: 5_000,
    channelMax: 5_500,
    policy: { mod: 1_002n },
    ours: 500,
  },
  {
    name: "more than there is",
    their: 5_000,
    available: 500,
    channelMax: 10_000,
    policy: { mod: 1_001n },
    ours: 500,
  },
  {
    name: "they put in too little",
    their: 5_000,
    available: 1_000,
    channelMax: 10_000,
    policy: { mod: 999n, minTheirFunding: sat(5_001) },
    ours: 0,
    refusal: "min_their_funding",
  },
  {
    name: "they put in too much",
    their: 5_001,
    available: 5_000,
    channelMax: 10_000,
    policy: { mod: 998n, maxTheirFunding: sat(500) },
    ours: 0,
    refusal: "max_their_funding",
  },
  {
    name: "what the reserve tank leaves",
    their: 5_000,
    available: 1_000,
    channelMax: 10_000,
    policy: { mod: 997n, reserveTank: sat(100) },
    ours: 900,
  },
  {
    name: "the reserve tank takes all",
    their: 5_000,
    available: 999,
    channelMax: 10_000,
    policy: { mod: 996n, reserveTank: sat(1_000) },
    ours: 0,
    refusal: "reserve_tank",
  },
  {
    name: "no room in the channel",
    their: 5_000,
    available: 5_000,
    channelMax: 5_000,
    policy: { mod: 995n },
    ours: 0,
    refusal: "no_channel_space",
  },
  {
    name: "below the least per channel",
    their: 5_000,
    available: 5_000,
    channelMax: 11_000,
    policy: { mod: 988n, perChannelMin: sat(989) },
    ours: 0,
    refusal: "per_channel_min",
  },
  {
    // test_funder_options: available 100 %, 10,000 sat at most per channel, 3,000 sat in the tank.
    name: "all the options at once",
    their: 1_000_000,
    available: 9_990_000,
    channelMax: 16_777_215,
    policy: {
      policy: "available",
      mod: 100n,
      minTheirFunding: sat(100),
      maxTheirFunding: sat(2_000_000),
      perChannelMin: sat(8_000),
      perChannelMax: sat(10_000),
      reserveTank: sat(3_000),
    },
    ours: 10_000,
  },
];

for (const row of ROWS) {
  Deno.test(`funder: ${row.name}`, () => {
    const { amount, refusal } = ourFunding({ ...POLICY, ...row.policy }, {
      theirFunding: sat(row.their),
      available: sat(row.available),
      channelMax: sat(row.channelMax),
      dice: SURE,
    });
    assert.equal(amount, BigInt(row.ours));
    assert.equal(refusal, row.refusal);
  });
}

Deno.test("funder: the default puts in nothing", () => {
  const { amount } = ourFunding({ ...POLICY, perChannelMin: sat(10_000), minTheirFunding: sat(10_000) }, {
    theirFunding: sat(9_999),
    available: sat(50_000),
    channelMax: sat(100_000),
    dice: SURE,
  });
  assert.equal(amount, 0n);
});

Deno.test("funder: the probability decides by its dice", () => {
  const chance = (probability: number, fundProbability: number) =>
    ourFunding({ ...POLICY, mod: 1_000n, fundProbability }, {
      theirFunding: sat(5_000),
      available: sat(100_000),
      channelMax: sat(11_000),
      dice: { probability, fuzz: 0.5 },
    }).amount;
  assert.equal(chance(0.099, 10), 1_000n);
  assert.equal(chance(0.1, 10), 0n);
  assert.equal(chance(0, 0), 0n);
  assert.equal(chance(0.999, 100), 1_000n);
});

Deno.test("funder: whatever the dice and options, every bound holds", () => {
  const percent = fc.integer({ min: 0, max: 100 });
  const amount = fc.bigInt({ min: 0n, max: 1_000_000n }).map((value) => sat(value));
  const dice = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  fc.assert(fc.property(
    fc.constantFrom("match" as const, "available" as const, "fixed" as const),
    fc.bigInt({ min: 0n, max: 200n }),
    fc.record({
      their: amount,
      available: amount,
      max: amount,
      tank: amount,
      least: amount,
      most: amount,
      fuzz: percent,
    }),
    dice,
    dice,
    (policy, mod, of, probability, fuzz) => {
      const { amount } = ourFunding({
        ...POLICY,
        policy,
        mod: policy === "fixed" ? mod * 1_000n : mod,
        maxTheirFunding: sat(1_000_000),
        perChannelMin: of.least,
        perChannelMax: of.most,
        reserveTank: of.tank,
        fuzzPercent: of.fuzz,
      }, {
        theirFunding: of.their,
        available: of.available,
        channelMax: of.max,
        dice: { probability, fuzz },
      });
      if (amount === 0n) return;
      assert.ok(amount >= of.least && amount <= of.most);
      assert.ok(amount + of.tank <= of.available);
      assert.ok(amount + of.their <= of.max);
    },
  ));
});

Deno.test("funder: fuzz reaches both ends of its range, and no further", () => {
  const of = (fuzz: number) =>
    ourFunding({ ...POLICY, mod: 1_000n, fuzzPercent: 5 }, {
      theirFunding: sat(5_000),
      available: sat(100_000),
      channelMax: sat(11_000),
      dice: { probability: 0, fuzz },
    }).amount;
  assert.equal(of(0), 950n);
  assert.equal(of(0.5), 1_000n);
  assert.equal(of(0.999999), 1_050n);
});
