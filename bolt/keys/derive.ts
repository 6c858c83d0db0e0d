/** BOLT 3, Key Derivation: the keys of one commitment transaction from basepoints and a per-commitment point. */
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** Why no key came out. A peer can cause the first two, the third only by breaking SHA-256. */
export type DeriveError =
  | { readonly type: "invalid_point"; readonly which: "basepoint" | "per_commitment_point" }
  | { readonly type: "invalid_secret"; readonly which: "basepoint_secret" | "per_commitment_secret" }
  | { readonly type: "degenerate_key" };

/** Basepoints of one side, as `open_channel2` and `accept_channel2` carry them. */
export interface Basepoints {
  readonly revocationBasepoint: Uint8Array;
  readonly paymentBasepoint: Uint8Array;
  readonly delayedPaymentBasepoint: Uint8Array;
  readonly htlcBasepoint: Uint8Array;
}

/**
 * The keys of one commitment transaction. "Owner" holds and may broadcast that transaction; BOLT 3 calls the owner
 * "local" and the other side "remote", whoever computes.
 */
export interface CommitmentKeys {
  readonly perCommitmentPoint: Uint8Array;
  /** `revocationpubkey`: who knows its secret takes everything that the owner delayed. */
  readonly revocationPubkey: Uint8Array;
  /** `local_delayedpubkey` of the owner's `to_local`. */
  readonly ownerDelayedPubkey: Uint8Array;
  /** `local_htlcpubkey`. */
  readonly ownerHtlcPubkey: Uint8Array;
  /** `remote_htlcpubkey`. */
  readonly otherHtlcPubkey: Uint8Array;
  /** `remotepubkey`: the other side's payment_basepoint as it is (option_static_remotekey). */
  readonly otherPaymentPubkey: Uint8Array;
}

function checkPoints(basepoint: Uint8Array, perCommitmentPoint: Uint8Array): DeriveError | null {
  if (!ecc().isPoint(basepoint)) return { type: "invalid_point", which: "basepoint" };
  if (!ecc().isPoint(perCommitmentPoint)) return { type: "invalid_point", which: "per_commitment_point" };
  return null;
}

function found(key: Uint8Array | null): Result<Uint8Array, DeriveError> {
  return key === null ? err({ type: "degenerate_key" }) : ok(key);
}

/** `basepoint + SHA256(per_commitment_point || basepoint) * G`: delayed and HTLC keys. */
export function derivePubkey(
  basepoint: Uint8Array,
  perCommitmentPoint: Uint8Array,
): Result<Uint8Array, DeriveError> {
  const bad = checkPoints(basepoint, perCommitmentPoint);
  return bad === null ? tweakBasepoint(basepoint, perCommitmentPoint) : err(bad);
}

/** {@link derivePubkey} for a per-commitment point that was found to be one. */
function tweakBasepoint(
  basepoint: Uint8Array,
  perCommitmentPoint: Uint8Array,
): Result<Uint8Array, DeriveError> {
  const key = ecc().pointAddScalar(basepoint, sha256(concatBytes(perCommitmentPoint, basepoint)));
  if (key === null && !ecc().isPoint(basepoint)) return err({ type: "invalid_point", which: "basepoint" });
  return found(key);
}

/** The secret of {@link derivePubkey}'s key, for the side that knows the basepoint's secret. */
export function derivePrivkey(
  basepointSecret: Uint8Array,
  perCommitmentPoint: Uint8Array,
): Result<Uint8Array, DeriveError> {
  if (!ecc().isPrivate(basepointSecret)) return err({ type: "invalid_secret", which: "basepoint_secret" });
  if (!ecc().isPoint(perCommitmentPoint)) {
    return err({ type: "invalid_point", which: "per_commitment_point" });
  }
  const basepoint = ecc().pointFromSecret(basepointSecret);
  return found(ecc().privateAdd(basepointSecret, sha256(concatBytes(perCommitmentPoint, basepoint))));
}

/**
 * The revocation key of a commitment: the punisher's revocation basepoint blended with the owner's per-commitment
 * point, so that neither side alone knows its secret while the commitment is valid.
 */
export function deriveRevocationPubkey(
  revocationBasepoint: Uint8Array,
  perCommitmentPoint: Uint8Array,
): Result<Uint8Array, DeriveError> {
  const bad = checkPoints(revocationBasepoint, perCommitmentPoint);
  if (bad !== null) return err(bad);
  const left = ecc().pointMul(
    revocationBasepoint,
    sha256(concatBytes(revocationBasepoint, perCommitmentPoint)),
  );
  const right = ecc().pointMul(
    perCommitmentPoint,
    sha256(concatBytes(perCommitmentPoint, revocationBasepoint)),
  );
  return found(left === null || right === null ? null : ecc().pointAdd(left, right));
}

/**
 * The secret of {@link deriveRevocationPubkey}'s key, once the owner has revealed its per-commitment secret.
 * `perCommitmentSecret` is the peer's word: a number that is no private key is a named failure.
 */
export function deriveRevocationPrivkey(
  revocationBasepointSecret: Uint8Array,
  perCommitmentSecret: Uint8Array,
): Result<Uint8Array, DeriveError> {
  if (!ecc().isPrivate(revocationBasepointSecret)) {
    return err({ type: "invalid_secret", which: "basepoint_secret" });
  }
  if (!ecc().isPrivate(perCommitmentSecret)) {
    return err({ type: "invalid_secret", which: "per_commitment_secret" });
  }
  const basepoint = ecc().pointFromSecret(revocationBasepointSecret);
  const point = ecc().pointFromSecret(perCommitmentSecret);
  const left = ecc().privateMul(revocationBasepointSecret, sha256(concatBytes(basepoint, point)));
  const right = ecc().privateMul(perCommitmentSecret, sha256(concatBytes(point, basepoint)));
  return found(left === null || right === null ? null : ecc().privateAdd(left, right));
}

/**
 * Whether a secret that a peer revealed is the one behind the per-commitment point it gave earlier (BOLT 2,
 * `revoke_and_ack`); false for a number that is no private key.
 */
export function isSecretOfPoint(secret: Uint8Array, point: Uint8Array): boolean {
  if (!ecc().isPrivate(secret)) return false;
  const derived = ecc().pointFromSecret(secret);
  return derived.length === point.length && derived.every((byte, i) => byte === point[i]);
}

/** Every key of the commitment transaction that `owner` holds. */
export function deriveCommitmentKeys(
  owner: Basepoints,
  other: Basepoints,
  perCommitmentPoint: Uint8Array,
): Result<CommitmentKeys, DeriveError> {
  if (!ecc().isPoint(other.paymentBasepoint)) return err({ type: "invalid_point", which: "basepoint" });
  const revocation = deriveRevocationPubkey(other.revocationBasepoint, perCommitmentPoint);
  if (!revocation.ok) return revocation;
  const delayed = tweakBasepoint(owner.delayedPaymentBasepoint, perCommitmentPoint);
  if (!delayed.ok) return delayed;
  const ownerHtlc = tweakBasepoint(owner.htlcBasepoint, perCommitmentPoint);
  if (!ownerHtlc.ok) return ownerHtlc;
  const otherHtlc = tweakBasepoint(other.htlcBasepoint, perCommitmentPoint);
  if (!otherHtlc.ok) return otherHtlc;
  return ok({
    perCommitmentPoint,
    revocationPubkey: revocation.value,
    ownerDelayedPubkey: delayed.value,
    ownerHtlcPubkey: ownerHtlc.value,
    otherHtlcPubkey: otherHtlc.value,
    otherPaymentPubkey: other.paymentBasepoint,
  });
}
