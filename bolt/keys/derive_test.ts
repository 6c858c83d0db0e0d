import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import {
  type Basepoints,
  deriveCommitmentKeys,
  type DeriveError,
  derivePrivkey,
  derivePubkey,
  deriveRevocationPrivkey,
  deriveRevocationPubkey,
  isSecretOfPoint,
} from "bolt/keys/derive.ts";
import type { Result } from "bolt/result.ts";
import vectors from "tests/data/bolt03/appendix_e_key_derivation.json" with { type: "json" };

const secrets = fc.uint8Array({ minLength: 32, maxLength: 32 }).filter((bytes) => ecc().isPrivate(bytes));
const RUNS = { numRuns: 15 };

function value(result: Result<Uint8Array, DeriveError>): Uint8Array {
  assert.ok(result.ok, "derivation failed");
  return result.value;
}

Deno.test("BOLT 3 appendix E: the four derivations", () => {
  const { derived } = vectors;
  const basepoint = hexToBytes(vectors.base_point);
  const point = hexToBytes(vectors.per_commitment_point);
  const basepointSecret = hexToBytes(vectors.base_secret);
  const pointSecret = hexToBytes(vectors.per_commitment_secret);
  assert.equal(bytesToHex(ecc().pointFromSecret(basepointSecret)), vectors.base_point);
  assert.equal(bytesToHex(ecc().pointFromSecret(pointSecret)), vectors.per_commitment_point);
  assert.equal(bytesToHex(value(derivePubkey(basepoint, point))), derived.localpubkey);
  assert.equal(bytesToHex(value(derivePrivkey(basepointSecret, point))), derived.localprivkey);
  assert.equal(bytesToHex(value(deriveRevocationPubkey(basepoint, point))), derived.revocationpubkey);
  assert.equal(
    bytesToHex(value(deriveRevocationPrivkey(basepointSecret, pointSecret))),
    derived.revocationprivkey,
  );
});

Deno.test("a derived secret is the secret of the derived key", () => {
  fc.assert(
    fc.property(secrets, secrets, (basepointSecret, pointSecret) => {
      const basepoint = ecc().pointFromSecret(basepointSecret);
      const point = ecc().pointFromSecret(pointSecret);
      assert.deepEqual(
        ecc().pointFromSecret(value(derivePrivkey(basepointSecret, point))),
        value(derivePubkey(basepoint, point)),
      );
      assert.deepEqual(
        ecc().pointFromSecret(value(deriveRevocationPrivkey(basepointSecret, pointSecret))),
        value(deriveRevocationPubkey(basepoint, point)),
      );
    }),
    RUNS,
  );
});

Deno.test("what a peer sends wrong is a named failure", () => {
  const good = hexToBytes(vectors.base_point);
  const secret = hexToBytes(vectors.base_secret);
  const offCurve = good.slice();
  offCurve[0] = 0x04;
  const badBasepoint = { type: "invalid_point", which: "basepoint" };
  const badPoint = { type: "invalid_point", which: "per_commitment_point" };
  for (const bad of [offCurve, new Uint8Array(33), new Uint8Array(0), new Uint8Array(65)]) {
    for (const derive of [derivePubkey, deriveRevocationPubkey]) {
      assert.deepEqual(derive(bad, good), { ok: false, error: badBasepoint });
      assert.deepEqual(derive(good, bad), { ok: false, error: badPoint });
    }
    assert.deepEqual(derivePrivkey(secret, bad), { ok: false, error: badPoint });
  }
  const error = { type: "invalid_secret", which: "per_commitment_secret" };
  for (const bad of [new Uint8Array(32), new Uint8Array(32).fill(0xff), new Uint8Array(31).fill(1)]) {
    assert.deepEqual(deriveRevocationPrivkey(secret, bad), { ok: false, error });
  }
});

Deno.test("a revealed secret is held against its point", () => {
  const secret = hexToBytes(vectors.per_commitment_secret);
  const point = hexToBytes(vectors.per_commitment_point);
  assert.equal(isSecretOfPoint(secret, point), true);
  assert.equal(isSecretOfPoint(secret, hexToBytes(vectors.base_point)), false);
  assert.equal(isSecretOfPoint(secret, point.subarray(0, 32)), false);
  assert.equal(isSecretOfPoint(new Uint8Array(32), point), false);
  assert.equal(isSecretOfPoint(secret.subarray(1), point), false);
});

Deno.test("the keys of a commitment name each side's basepoint", () => {
  const side = (n: number): Basepoints => {
    const point = (k: number) => ecc().pointFromSecret(new Uint8Array(32).fill(n + k));
    return {
      revocationBasepoint: point(1),
      paymentBasepoint: point(2),
      delayedPaymentBasepoint: point(3),
      htlcBasepoint: point(4),
    };
  };
  const owner = side(10);
  const other = side(20);
  const perCommitmentPoint = ecc().pointFromSecret(new Uint8Array(32).fill(7));
  const keys = deriveCommitmentKeys(owner, other, perCommitmentPoint);
  assert.deepEqual(keys, {
    ok: true,
    value: {
      perCommitmentPoint,
      revocationPubkey: value(deriveRevocationPubkey(other.revocationBasepoint, perCommitmentPoint)),
      ownerDelayedPubkey: value(derivePubkey(owner.delayedPaymentBasepoint, perCommitmentPoint)),
      ownerHtlcPubkey: value(derivePubkey(owner.htlcBasepoint, perCommitmentPoint)),
      otherHtlcPubkey: value(derivePubkey(other.htlcBasepoint, perCommitmentPoint)),
      otherPaymentPubkey: other.paymentBasepoint,
    },
  });
  const broken = { ...other, paymentBasepoint: new Uint8Array(33) };
  assert.equal(deriveCommitmentKeys(owner, broken, perCommitmentPoint).ok, false);
});
