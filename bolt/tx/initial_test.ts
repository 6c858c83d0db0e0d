import assert from "node:assert/strict";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { feerate, MAX_SAT, sat } from "bolt/units.ts";
import { arbitraryTxid, testFactor, testKeys, testSide } from "bolt/tx/arbitraries.ts";
import {
  channelReserve,
  checkInitialFunds,
  initialCommitments,
  type InitialFailure,
  type InitialSide,
  type InitialSpec,
} from "bolt/tx/initial.ts";
import { commitmentSighash } from "bolt/tx/sighash.ts";

const ALICE = testSide(1);
const BOB = testSide(2);

function side(
  who: "alice" | "bob",
  parts: { funding: number; toSelfDelay?: number; dustLimit?: number },
): InitialSide {
  const [own, other] = who === "alice" ? [ALICE, BOB] : [BOB, ALICE];
  return {
    funding: sat(parts.funding),
    fundingPubkey: own.fundingPubkey,
    keys: testKeys(own, other),
    toSelfDelay: parts.toSelfDelay ?? 144,
    dustLimit: sat(parts.dustLimit ?? 354),
  };
}

function spec(alice: InitialSide, bob: InitialSide, change: Partial<InitialSpec> = {}): InitialSpec {
  return {
    format: "anchors",
    outpoint: { txid: new Uint8Array(32).fill(9), vout: 0 },
    opener: "local",
    feerate: feerate(1000),
    obscuringFactor: testFactor(ALICE, BOB),
    local: alice,
    remote: bob,
    ...change,
  };
}

function mirrored(of: InitialSpec): InitialSpec {
  return {
    ...of,
    opener: of.opener === "local" ? "remote" : "local",
    local: of.remote,
    remote: of.local,
  };
}

function failure(of: InitialSpec): InitialFailure {
  const result = initialCommitments(of);
  assert(!result.ok);
  return result.error;
}

const arbitrarySpec = fc.record({
  format: fc.constantFrom("anchors" as const, "static_remotekey" as const),
  txid: arbitraryTxid,
  vout: fc.nat(0xffff),
  opener: fc.constantFrom("local" as const, "remote" as const),
  rate: fc.integer({ min: 253, max: 20_000 }),
  alice: fc.record({
    funding: fc.oneof(fc.nat(5000), fc.nat(100_000_000)),
    toSelfDelay: fc.nat(2016),
    dustLimit: fc.integer({ min: 354, max: 5000 }),
  }),
  bob: fc.record({
    funding: fc.oneof(fc.nat(5000), fc.nat(100_000_000)),
    toSelfDelay: fc.nat(2016),
    dustLimit: fc.integer({ min: 354, max: 5000 }),
  }),
}).map((r) =>
  spec(side("alice", r.alice), side("bob", r.bob), {
    format: r.format,
    outpoint: { txid: r.txid, vout: r.vout },
    opener: r.opener,
    feerate: feerate(r.rate),
  })
);

Deno.test("property: both sides compute the same two transactions, or the same failure", () => {
  let tried = 0;
  fc.assert(fc.property(arbitrarySpec, (ours) => {
    const here = initialCommitments(ours);
    const there = initialCommitments(mirrored(ours));
    assert.equal(here.ok, there.ok);
    if (!here.ok || !there.ok) {
      assert(!here.ok && !there.ok);
      assert.equal(here.error.type, there.error.type);
      return;
    }
    tried++;
    assert.equal(here.value.local.tx.toHex(), there.value.remote.tx.toHex());
    assert.equal(here.value.remote.tx.toHex(), there.value.local.tx.toHex());
    assert.deepEqual(here.value.local.outputs, there.value.remote.outputs);
  }));
  assert(tried > 15, `only ${tried} specs gave commitments`);
});

Deno.test("property: outputs and fee are the sum of the contributions", () => {
  fc.assert(fc.property(arbitrarySpec, (ours) => {
    const result = initialCommitments(ours);
    if (!result.ok) return;
    for (const { outputs, fee } of [result.value.local, result.value.remote]) {
      const sum = outputs.reduce<bigint>((total, output) => total + output.amount, fee);
      assert.equal(sum, ours.local.funding + ours.remote.funding);
    }
  }));
});

Deno.test("each side's own money waits for the delay that the other side asked for", () => {
  const result = initialCommitments(
    spec(
      side("alice", { funding: 50_000, toSelfDelay: 100 }),
      side("bob", { funding: 50_000, toSelfDelay: 200 }),
    ),
  );
  assert(result.ok);
  assert.equal(result.value.local.spec.toSelfDelay, 200);
  assert.equal(result.value.remote.spec.toSelfDelay, 100);
});

Deno.test("the peer's signature on our commitment is good, and only for that outpoint", () => {
  const ours = spec(side("alice", { funding: 50_000 }), side("bob", { funding: 70_000 }));
  const here = initialCommitments(ours);
  const there = initialCommitments(mirrored(ours));
  assert(here.ok && there.ok);
  const signature = ecc().signEcdsa(commitmentSighash(there.value.remote), BOB.fundingSecret);
  const good = (hash: Uint8Array) => ecc().verifyEcdsa(hash, signature, BOB.fundingPubkey);
  assert.equal(good(commitmentSighash(here.value.local)), true);
  assert.equal(good(commitmentSighash(here.value.remote)), false);
  const elsewhere = initialCommitments({ ...ours, outpoint: { ...ours.outpoint, vout: 1 } });
  assert(elsewhere.ok);
  assert.equal(good(commitmentSighash(elsewhere.value.local)), false);
});

Deno.test("the opener must cover the fee and both anchors exactly", () => {
  const bob = side("bob", { funding: 100_000 });
  const needed = 1124 + 660;
  assert.equal(initialCommitments(spec(side("alice", { funding: needed }), bob)).ok, true);
  assert.deepEqual(failure(spec(side("alice", { funding: needed - 1 }), bob)), {
    type: "opener_cannot_pay_fee",
    needed: BigInt(needed),
    funding: BigInt(needed - 1),
  });
  const asAccepter = spec(side("alice", { funding: 0 }), bob, { opener: "remote" });
  assert.equal(initialCommitments(asAccepter).ok, true);
});

Deno.test("one side must have more than its reserve", () => {
  const needed = 1124 + 660;
  const bob = side("bob", { funding: 0 });
  assert.deepEqual(failure(spec(side("alice", { funding: needed + 354 }), bob)), {
    type: "both_below_reserve",
  });
  assert.equal(initialCommitments(spec(side("alice", { funding: needed + 355 }), bob)).ok, true);
  const rich = side("bob", { funding: 355 });
  assert.equal(checkInitialFunds(spec(side("alice", { funding: needed }), rich)).ok, true);
  const poor = side("bob", { funding: 354 });
  assert.deepEqual(failure(spec(side("alice", { funding: needed }), poor)), { type: "both_below_reserve" });
});

Deno.test("a commitment that would be all dust to its owner is named, with the owner", () => {
  const alice = side("alice", { funding: 1124 + 660 + 400 });
  const bob = side("bob", { funding: 0, dustLimit: 5000 });
  const swapped = side("alice", { funding: 1124 + 660 + 400, dustLimit: 5000 });
  assert.equal(failure(spec(alice, bob)).type, "both_below_reserve");
  assert.deepEqual(failure(spec(swapped, side("bob", { funding: 0 }))), {
    type: "commitment_failed",
    owner: "local",
    failure: { type: "no_outputs" },
  });
});

Deno.test("contributions beyond all bitcoin are refused", () => {
  const half = Number(MAX_SAT / 2n);
  const alice = side("alice", { funding: half });
  assert.equal(checkInitialFunds(spec(alice, side("bob", { funding: half }))).ok, true);
  assert.deepEqual(failure(spec(alice, side("bob", { funding: half + 1 }))), {
    type: "funding_amount_too_large",
  });
});

Deno.test("the reserve is 1 % rounded down, but at least the other side's dust limit", () => {
  assert.equal(channelReserve(sat(1_000_099), sat(354)), 10_000n);
  assert.equal(channelReserve(sat(35_400), sat(354)), 354n);
  assert.equal(channelReserve(sat(35_500), sat(354)), 355n);
  assert.equal(channelReserve(sat(54_600), sat(546)), 546n);
  assert.equal(channelReserve(sat(1000), sat(546)), 546n);
});
