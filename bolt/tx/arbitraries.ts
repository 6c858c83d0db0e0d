/** Generators for property tests of transactions. */

import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import { type Basepoints, type CommitmentKeys, deriveCommitmentKeys } from "bolt/keys/derive.ts";

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
