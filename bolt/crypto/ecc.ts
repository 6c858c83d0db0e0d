/** The curve as the protocol needs it: one interface, a provider chosen once at start. */
import { initEccLib } from "bitcoinjs-lib";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";

/** Bytes of a private key, scalar or message hash. */
export const SECRET_LENGTH = 32;
/** Bytes of a compressed point, the only form that BOLT knows. */
export const POINT_LENGTH = 33;
/** Bytes of an x-only key (BIP 340). */
export const X_ONLY_LENGTH = 32;
/** Bytes of a compact ECDSA or of a Schnorr signature. */
export const SIGNATURE_LENGTH = 64;

/** An ECDSA signature that names its key. */
export interface RecoverableSignature {
  /** 64 bytes: r and s, s in the lower half. */
  readonly signature: Uint8Array;
  /** 0 to 3. */
  readonly recoveryId: number;
}

/** An x-only key and whether the point behind it has an odd y. */
export interface TweakedXOnly {
  readonly parity: 0 | 1;
  readonly xOnlyPubkey: Uint8Array;
}

/**
 * secp256k1. Points are 33 bytes (compressed), secrets, scalars and hashes 32, signatures 64 (compact).
 *
 * No method throws for a bad point, scalar, signature or recovery id: these come from peers and give `null` or
 * `false`. `pointFromSecret` and the signing methods throw a RangeError when *our* secret or hash is malformed, since
 * that is a defect of the caller: test a secret that a peer revealed with `isPrivate` first. No error text ever holds a
 * secret. Signatures are deterministic (RFC 6979 without extra entropy and without low-R grinding, BIP 340 with zero
 * auxiliary data): the same content gives the same bytes, on every provider.
 */
export interface Ecc {
  /** What is logged: "noble" or the library's file name. */
  readonly name: string;
  /** Whether these are 33 bytes of a compressed point on the curve. */
  isPoint(bytes: Uint8Array): boolean;
  /** Whether these are 32 bytes of a number from 1 to n - 1. */
  isPrivate(bytes: Uint8Array): boolean;
  /** Whether these are the x coordinate of a point (BIP 340). */
  isXOnlyPoint(bytes: Uint8Array): boolean;
  /** `secret * G`. Throws RangeError unless `isPrivate(secret)`. */
  pointFromSecret(secret: Uint8Array): Uint8Array;
  /** SHA-256 of the compressed `secret * point` (BOLT 8); null for a bad point or secret. */
  ecdh(secret: Uint8Array, point: Uint8Array): Uint8Array | null;
  /** `a + b`; null for a bad point or the point at infinity. */
  pointAdd(a: Uint8Array, b: Uint8Array): Uint8Array | null;
  /** `point + scalar * G`, scalar from 0 to n - 1; null for a bad argument or the point at infinity. */
  pointAddScalar(point: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  /** `scalar * point`, scalar from 1 to n - 1; null for a bad argument. */
  pointMul(point: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  /** `secret + scalar`, scalar from 0 to n - 1; null for a bad argument or a sum of zero. */
  privateAdd(secret: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  /** `secret * scalar`, scalar from 1 to n - 1; null for a bad argument. */
  privateMul(secret: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  /** `n - secret`; null for a bad secret. */
  privateNegate(secret: Uint8Array): Uint8Array | null;
  /** ECDSA with a low s. Throws RangeError for a bad secret or hash. */
  signEcdsa(hash: Uint8Array, secret: Uint8Array): Uint8Array;
  /** Whether the signature is good; false for a high s, a bad key or a wrong length. */
  verifyEcdsa(hash: Uint8Array, signature: Uint8Array, point: Uint8Array): boolean;
  /** ECDSA with a low s and the id that recovers the key. Throws RangeError for a bad secret or hash. */
  signRecoverable(hash: Uint8Array, secret: Uint8Array): RecoverableSignature;
  /** The key that made a signature; null if there is none. */
  recover(hash: Uint8Array, signature: Uint8Array, recoveryId: number): Uint8Array | null;
  /** BIP 340 over a hash. Throws RangeError for a bad secret or hash. */
  signSchnorr(hash: Uint8Array, secret: Uint8Array): Uint8Array;
  /** Whether a BIP 340 signature over a hash is good. */
  verifySchnorr(hash: Uint8Array, signature: Uint8Array, xOnly: Uint8Array): boolean;
  /** BIP 341: the even point of `xOnly`, plus `tweak * G`; null for a bad argument or the point at infinity. */
  xOnlyPointAddTweak(xOnly: Uint8Array, tweak: Uint8Array): TweakedXOnly | null;
}

let active: Ecc = nobleEcc;
initEccLib(active);

/** The active provider; noble unless `useEcc` was called. Importing this module also serves bitcoinjs-lib's taproot. */
export function ecc(): Ecc {
  return active;
}

/** Makes a provider the active one, for bitcoinjs-lib too. Throws if bitcoinjs-lib's own check of it fails. */
export function useEcc(provider: Ecc): void {
  initEccLib(provider);
  active = provider;
}
