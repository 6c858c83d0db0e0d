/** What a secp256k1 provider can do, by shape alone. */

/** An ECDSA signature that names its key: 64 compact bytes and 0 to 3. */
export interface ProviderRecoverableSignature {
  readonly signature: Uint8Array;
  readonly recoveryId: number;
}

/** An x-only key and whether the point behind it has an odd y. */
export interface ProviderTweakedXOnly {
  readonly parity: 0 | 1;
  readonly xOnlyPubkey: Uint8Array;
}

/**
 * secp256k1 over compressed points (33 bytes), secrets, scalars and hashes (32) and compact signatures (64). The same
 * shape as the interface that the callers' own code declares; the compiler compares them where a provider is plugged
 * in. Bad points, scalars and signatures give `null` or `false`; `pointFromSecret` and the signing methods throw a
 * RangeError for a malformed secret or hash. Signatures are deterministic (RFC 6979 without extra entropy, low s; BIP
 * 340 with zero auxiliary data).
 */
export interface CurveProvider {
  readonly name: string;
  isPoint(bytes: Uint8Array): boolean;
  isPrivate(bytes: Uint8Array): boolean;
  isXOnlyPoint(bytes: Uint8Array): boolean;
  pointFromSecret(secret: Uint8Array): Uint8Array;
  ecdh(secret: Uint8Array, point: Uint8Array): Uint8Array | null;
  pointAdd(a: Uint8Array, b: Uint8Array): Uint8Array | null;
  pointAddScalar(point: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  pointMul(point: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  privateAdd(secret: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  privateMul(secret: Uint8Array, scalar: Uint8Array): Uint8Array | null;
  privateNegate(secret: Uint8Array): Uint8Array | null;
  signEcdsa(hash: Uint8Array, secret: Uint8Array): Uint8Array;
  verifyEcdsa(hash: Uint8Array, signature: Uint8Array, point: Uint8Array): boolean;
  signRecoverable(hash: Uint8Array, secret: Uint8Array): ProviderRecoverableSignature;
  recover(hash: Uint8Array, signature: Uint8Array, recoveryId: number): Uint8Array | null;
  signSchnorr(hash: Uint8Array, secret: Uint8Array): Uint8Array;
  verifySchnorr(hash: Uint8Array, signature: Uint8Array, xOnly: Uint8Array): boolean;
  xOnlyPointAddTweak(xOnly: Uint8Array, tweak: Uint8Array): ProviderTweakedXOnly | null;
}
