import assert from "node:assert/strict";
import { concatBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { feerate, msat, sat } from "bolt/units.ts";
import { arbitrarySpec, TEST_SPEC } from "bolt/tx/arbitraries.ts";
import { buildCommitment, type CommitmentHtlc, type CommitmentSpec } from "bolt/tx/commitment.ts";
import { htlcTransactions } from "bolt/tx/htlc.ts";
import { type HtlcColumns, leanCommitment } from "bolt/tx/lean_commitment.ts";
import { commitmentSighash, htlcSighash } from "bolt/tx/sighash.ts";

function columns(htlcs: readonly CommitmentHtlc[]): HtlcColumns {
  return {
    ids: htlcs.map(({ id }) => id),
    offered: htlcs.map(({ direction }) => direction === "offered"),
    amounts: htlcs.map(({ amount }) => amount),
    paymentHashes: concatBytes(...htlcs.map(({ paymentHash }) => paymentHash)),
    cltvExpiries: htlcs.map(({ cltvExpiry }) => cltvExpiry),
  };
}

/** What the oracle says, in the lean builder's shape. */
function expected(spec: CommitmentSpec) {
  const built = buildCommitment(spec);
  if (!built.ok) return built;
  const htlcs = htlcTransactions(built.value);
  assert(htlcs.ok);
  return {
    ok: true as const,
    value: {
      txid: built.value.txid,
      sighash: commitmentSighash(built.value),
      htlcs: htlcs.value.map(({ tx, spends }) => ({
        column: spec.htlcs.indexOf(spends.htlc),
        index: spends.index,
        sighash: new Uint8Array(htlcSighash(tx, spends, spec.format, "other")),
      })),
    },
  };
}

function assertAgrees(spec: CommitmentSpec): boolean {
  const oracle = expected(spec);
  assert.deepEqual(leanCommitment({ ...spec, htlcs: columns(spec.htlcs) }), oracle);
  return oracle.ok;
}

Deno.test("property: the lean builder agrees with transactions that are really built", () => {
  let good = 0;
  fc.assert(
    fc.property(arbitrarySpec, (spec) => {
      if (assertAgrees(spec)) good++;
    }),
    { numRuns: 400 },
  );
  assert(good > 200, `only ${good} specs gave a commitment`);
});

const HASH = new Uint8Array(32).fill(9);
function many(count: number, of: (i: number) => Partial<CommitmentHtlc>): CommitmentSpec {
  const htlcs = Array.from({ length: count }, (_, i): CommitmentHtlc => ({
    id: BigInt(i),
    direction: i % 2 === 0 ? "offered" : "received",
    amount: msat(1_000_000 + 1000 * i),
    paymentHash: HASH,
    cltvExpiry: 500 + i,
    ...of(i),
  }));
  const sum = htlcs.reduce((total, { amount }) => total + amount, 0n);
  return {
    ...TEST_SPEC,
    funding: { ...TEST_SPEC.funding, amount: sat(2_000_000_000n) },
    ownerBalance: msat(2_000_000_000_000n - sum),
    otherBalance: msat(0),
    htlcs,
  };
}

Deno.test("the lean builder agrees on 966 HTLCs: a count of outputs of three bytes", () => {
  assert(assertAgrees(many(966, () => ({}))));
});

Deno.test("the lean builder agrees on HTLCs that differ in id or expiry only, in any order of the columns", () => {
  const alike = many(40, (i) => ({
    id: BigInt(100 - i),
    amount: msat(5_000_999),
    cltvExpiry: 500 + (i * 7) % 3,
  }));
  assert(assertAgrees(alike));
  assert(assertAgrees({ ...alike, format: "static_remotekey" }));
  assert(assertAgrees({ ...alike, htlcs: alike.htlcs.toReversed() }));
});

Deno.test("the lean builder pushes every length of number as scripts do", () => {
  const expiries = [0, 1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 8_388_607, 8_388_608];
  expiries.push(16_777_216, 499_999_999);
  assert(assertAgrees(many(2 * expiries.length, (i) => ({ cltvExpiry: expiries[i >> 1]! }))));
  for (const toSelfDelay of [0, 1, 16, 17, 127, 128, 255, 256, 32_767, 32_768, 65_535]) {
    assert(assertAgrees({ ...many(2, () => ({})), toSelfDelay }));
  }
});

Deno.test("the lean builder takes amounts beyond 2^32 sat", () => {
  const huge = 2_000_000_000_000_000n;
  const [first, ...rest] = many(3, () => ({})).htlcs;
  const htlcs = [{ ...first!, amount: msat(huge * 500n + 123n) }, ...rest];
  const sum = htlcs.reduce((total, { amount }) => total + amount, 0n);
  assert(assertAgrees({
    ...TEST_SPEC,
    funding: { ...TEST_SPEC.funding, amount: sat(huge) },
    ownerBalance: msat(huge * 1000n - sum),
    otherBalance: msat(0),
    htlcs,
  }));
});

Deno.test("the lean builder refuses what the oracle refuses, by the same name", () => {
  const spec = many(2, () => ({}));
  const bad: readonly Partial<CommitmentSpec>[] = [
    { commitmentNumber: 1n << 48n },
    { obscuringFactor: -1n },
    { toSelfDelay: 65_536 },
    { keys: { ...spec.keys, otherHtlcPubkey: new Uint8Array(32) } },
    { keys: { ...spec.keys, otherPaymentPubkey: new Uint8Array(0) } },
    { funding: { ...spec.funding, outpoint: { txid: new Uint8Array(31), vout: 0 } } },
    { funding: { ...spec.funding, outpoint: { txid: new Uint8Array(32), vout: -1 } } },
    { ownerBalance: msat(0) },
    { otherBalance: msat(1) },
    { htlcs: [{ ...spec.htlcs[0]!, cltvExpiry: 500_000_000 }, spec.htlcs[1]!] },
    { dustLimit: sat(3_000_000_000n) },
    {
      funding: { ...spec.funding, amount: sat(500) },
      ownerBalance: msat(0),
      otherBalance: msat(500_000),
      htlcs: [],
    },
  ];
  const names = bad.map((change) => {
    const result = expected({ ...spec, ...change });
    assert(!result.ok);
    assertAgrees({ ...spec, ...change });
    return result.error.type;
  });
  assert.deepEqual([...new Set(names)].sort(), [
    "amounts_differ_from_funding",
    "bad_commitment_number",
    "bad_funding_outpoint",
    "bad_htlc",
    "bad_key",
    "bad_to_self_delay",
    "no_outputs",
    "outputs_exceed_funding",
  ]);
});

Deno.test("columns of different lengths are refused", () => {
  const spec = many(2, () => ({}));
  const good = columns(spec.htlcs);
  const bad: readonly Partial<HtlcColumns>[] = [
    { amounts: good.amounts.slice(1) },
    { offered: [true] },
    { cltvExpiries: [] },
    { paymentHashes: good.paymentHashes.subarray(1) },
    { amounts: [good.amounts[0]! + good.amounts[1]! + 1n, -1n] },
  ];
  for (const change of bad) {
    const result = leanCommitment({ ...spec, feerate: feerate(253), htlcs: { ...good, ...change } });
    assert(!result.ok);
    assert.equal(result.error.type, "bad_htlc");
  }
});
