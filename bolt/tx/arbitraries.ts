/** Generators for property tests of transactions. */

import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import { type Basepoints, type CommitmentKeys, deriveCommitmentKeys } from "bolt/keys/derive.ts";
import type { CommitmentSpec } from "bolt/tx/commitment.ts";
import { feerate, msat, sat } from "bolt/units.ts";

/** One side's keys, made from a number. */
export interface TestSide {
  readonly fundingSecret: Uint8Array;
  readonly fundingPubkey: Uint8Array;
  readonly basepoints: Basepoints;
  readonly firstPoint: Uint8Array;
}

function testSecret(seed: number, purpose: number): Uint8Array {
  return sha256(Uint8Array.of(seed, purpose));
}

/** Keys of a side; the same for the same seed (a byte). */
export function testSide(seed: number): TestSide {
  const point = (purpose: number) => ecc().pointFromSecret(testSecret(seed, purpose));
  return {
    fundingSecret: testSecret(seed, 0),
    fundingPubkey: point(0),
    basepoints: {
      revocationBasepoint: point(1),
      paymentBasepoint: point(2),
      delayedPaymentBasepoint: point(3),
      htlcBasepoint: point(4),
    },
    firstPoint: point(5),
  };
}

/** Keys of the commitment that `owner` holds. */
export function testKeys(owner: TestSide, other: TestSide): CommitmentKeys {
  const keys = deriveCommitmentKeys(owner.basepoints, other.basepoints, owner.firstPoint);
  if (!keys.ok) throw new Error(keys.error.type);
  return keys.value;
}

/** The obscuring factor of a channel that `opener` opened. */
export function testFactor(opener: TestSide, accepter: TestSide): bigint {
  return obscuringFactor(opener.basepoints.paymentBasepoint, accepter.basepoints.paymentBasepoint);
}

/** A txid. */
export const arbitraryTxid: fc.Arbitrary<Uint8Array> = fc.uint8Array({ minLength: 32, maxLength: 32 });

/** Hash of a payment, from few enough that HTLCs share one now and then. */
export const arbitraryPaymentHash: fc.Arbitrary<Uint8Array> = fc.nat(3).map((n) =>
  sha256(concatBytes(Uint8Array.of(n)))
);

/** Whose commitment {@link TEST_SPEC} is, and who opened. */
export const TEST_OWNER = testSide(1);
/** The other side of it. */
export const TEST_OTHER = testSide(2);

/** A commitment of {@link TEST_OWNER} with anchors and without HTLCs. */
export const TEST_SPEC: CommitmentSpec = {
  format: "anchors",
  funding: {
    outpoint: { txid: new Uint8Array(32).fill(7), vout: 1 },
    amount: sat(1_000_000),
    ownerPubkey: TEST_OWNER.fundingPubkey,
    otherPubkey: TEST_OTHER.fundingPubkey,
  },
  commitmentNumber: 5n,
  obscuringFactor: testFactor(TEST_OWNER, TEST_OTHER),
  keys: testKeys(TEST_OWNER, TEST_OTHER),
  toSelfDelay: 144,
  dustLimit: sat(354),
  feerate: feerate(253),
  ownerIsOpener: true,
  ownerBalance: msat(600_000_000),
  otherBalance: msat(400_000_000),
  htlcs: [],
};

const arbitraryHtlc = fc.record({
  direction: fc.constantFrom("offered" as const, "received" as const),
  amount: fc.oneof(fc.bigInt(1n, 3_000_000n), fc.bigInt(1n, 50_000_000n)).map((amount) => msat(amount)),
  paymentHash: arbitraryPaymentHash,
  cltvExpiry: fc.integer({ min: 0, max: 700_000 }),
});

/** A spec of either format whose balances and HTLCs sum to the funding amount. */
export const arbitrarySpec: fc.Arbitrary<CommitmentSpec> = fc.record({
  format: fc.constantFrom("anchors" as const, "static_remotekey" as const),
  txid: arbitraryTxid,
  vout: fc.nat(0xffff_ffff),
  number: fc.bigInt(0n, (1n << 48n) - 1n),
  dustLimit: fc.integer({ min: 354, max: 5000 }),
  rate: fc.oneof(fc.integer({ min: 253, max: 5000 }), fc.integer({ min: 0, max: 500_000 })),
  delay: fc.nat(0xffff),
  ownerIsOpener: fc.boolean(),
  owner: fc.bigInt(0n, 500_000_000n),
  other: fc.bigInt(0n, 500_000_000n),
  htlcs: fc.array(arbitraryHtlc, { maxLength: 12 }),
}).map((r) => {
  const htlcs = r.htlcs.map((htlc, i) => ({ ...htlc, id: BigInt(i) }));
  const sum = htlcs.reduce<bigint>((total, htlc) => total + htlc.amount, r.owner + r.other);
  const amount = (sum + 999n) / 1000n;
  return {
    ...TEST_SPEC,
    format: r.format,
    funding: { ...TEST_SPEC.funding, outpoint: { txid: r.txid, vout: r.vout }, amount: sat(amount) },
    commitmentNumber: r.number,
    toSelfDelay: r.delay,
    dustLimit: sat(r.dustLimit),
    feerate: feerate(r.rate),
    ownerIsOpener: r.ownerIsOpener,
    ownerBalance: msat(r.owner + amount * 1000n - sum),
    otherBalance: msat(r.other),
    htlcs,
  };
});
