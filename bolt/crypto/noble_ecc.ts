/** The curve by `@noble/curves`: the default provider, and the oracle that every other one is held against. */
import { schnorr, secp256k1 } from "@noble/curves/secp256k1.js";
import { sha256 } from "@noble/hashes/sha2.js";
import type { Ecc, TweakedXOnly } from "bolt/crypto/ecc.ts";

const Point = secp256k1.Point;
const { Fn } = Point;
const SECRET = 32;
const POINT = 33;
const X_ONLY = 32;
const SIGNATURE = 64;
const MAX_RECOVERY_ID = 3;
const EVEN = 0x02;
const ODD = 0x03;
const ZERO_AUX = new Uint8Array(32);
const ECDSA_OPTIONS = { prehash: false, lowS: true, extraEntropy: false } as const;

type CurvePoint = ReturnType<typeof Point.fromBytes>;

function parsePoint(bytes: Uint8Array): CurvePoint | null {
  if (bytes.length !== POINT) return null;
  try {
    return Point.fromBytes(bytes);
  } catch {
    return null;
  }
}

function liftX(xOnly: Uint8Array): CurvePoint | null {
  if (xOnly.length !== X_ONLY) return null;
  const bytes = new Uint8Array(POINT);
  bytes[0] = EVEN;
  bytes.set(xOnly, 1);
  return parsePoint(bytes);
}

/** A scalar from 0 to n - 1, or null. */
function parseScalar(bytes: Uint8Array): bigint | null {
  if (bytes.length !== SECRET) return null;
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return value < Fn.ORDER ? value : null;
}

function parseSecret(bytes: Uint8Array): bigint | null {
  const value = parseScalar(bytes);
  return value === 0n ? null : value;
}

function serialize(point: CurvePoint): Uint8Array | null {
  return point.is0() ? null : point.toBytes(true);
}

function addScalar(point: CurvePoint, scalar: bigint): CurvePoint {
  return scalar === 0n ? point : point.add(Point.BASE.multiply(scalar));
}

/** Never names the value: it may be a secret. */
function requireSigning(hash: Uint8Array, secret: Uint8Array): void {
  if (hash.length !== SECRET) throw new RangeError("hash to sign is not 32 bytes");
  if (parseSecret(secret) === null) throw new RangeError("not a private key");
}

/** The provider in pure TypeScript. */
export const nobleEcc: Ecc = {
  name: "noble",

  isPoint: (bytes) => parsePoint(bytes) !== null,
  isPrivate: (bytes) => parseSecret(bytes) !== null,
  isXOnlyPoint: (bytes) => liftX(bytes) !== null,

  pointFromSecret(secret) {
    if (parseSecret(secret) === null) throw new RangeError("not a private key");
    return secp256k1.getPublicKey(secret, true);
  },

  ecdh(secret, point) {
    const p = parsePoint(point);
    const s = parseSecret(secret);
    return p === null || s === null ? null : sha256(p.multiply(s).toBytes(true));
  },

  pointAdd(a, b) {
    const p = parsePoint(a);
    const q = parsePoint(b);
    return p === null || q === null ? null : serialize(p.add(q));
  },

  pointAddScalar(point, scalar) {
    const p = parsePoint(point);
    const t = parseScalar(scalar);
    return p === null || t === null ? null : serialize(addScalar(p, t));
  },

  pointMul(point, scalar) {
    const p = parsePoint(point);
    const t = parseSecret(scalar);
    return p === null || t === null ? null : serialize(p.multiply(t));
  },

  privateAdd(secret, scalar) {
    const s = parseSecret(secret);
    const t = parseScalar(scalar);
    if (s === null || t === null) return null;
    const sum = Fn.add(s, t);
    return sum === 0n ? null : Fn.toBytes(sum);
  },

  privateMul(secret, scalar) {
    const s = parseSecret(secret);
    const t = parseSecret(scalar);
    return s === null || t === null ? null : Fn.toBytes(Fn.mul(s, t));
  },

  privateNegate(secret) {
    const s = parseSecret(secret);
    return s === null ? null : Fn.toBytes(Fn.neg(s));
  },

  signEcdsa(hash, secret) {
    requireSigning(hash, secret);
    return secp256k1.sign(hash, secret, { ...ECDSA_OPTIONS, format: "compact" });
  },

  verifyEcdsa(hash, signature, point) {
    if (hash.length !== SECRET || signature.length !== SIGNATURE || point.length !== POINT) return false;
    try {
      return secp256k1.verify(signature, hash, point, { prehash: false, lowS: true, format: "compact" });
    } catch {
      return false;
    }
  },

  signRecoverable(hash, secret) {
    requireSigning(hash, secret);
    const bytes = secp256k1.sign(hash, secret, { ...ECDSA_OPTIONS, format: "recovered" });
    return { signature: bytes.slice(1), recoveryId: bytes[0] ?? 0 };
  },

  recover(hash, signature, recoveryId) {
    if (hash.length !== SECRET || signature.length !== SIGNATURE) return null;
    if (!Number.isInteger(recoveryId) || recoveryId < 0 || recoveryId > MAX_RECOVERY_ID) return null;
    const bytes = new Uint8Array(1 + SIGNATURE);
    bytes[0] = recoveryId;
    bytes.set(signature, 1);
    try {
      return secp256k1.recoverPublicKey(bytes, hash, { prehash: false });
    } catch {
      return null;
    }
  },

  signSchnorr(hash, secret) {
    requireSigning(hash, secret);
    return schnorr.sign(hash, secret, ZERO_AUX);
  },

  verifySchnorr(hash, signature, xOnly) {
    if (hash.length !== SECRET || signature.length !== SIGNATURE || xOnly.length !== X_ONLY) return false;
    return schnorr.verify(signature, hash, xOnly);
  },

  xOnlyPointAddTweak(xOnly, tweak): TweakedXOnly | null {
    const p = liftX(xOnly);
    const t = parseScalar(tweak);
    if (p === null || t === null) return null;
    const bytes = serialize(addScalar(p, t));
    return bytes === null ? null : { parity: bytes[0] === ODD ? 1 : 0, xOnlyPubkey: bytes.slice(1) };
  },
};
