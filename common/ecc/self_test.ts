/** What a curve provider must answer before it is trusted with money. */
import type { CurveProvider } from "common/ecc/provider.ts";

/** RFC 6979: secret 1, SHA-256 of "Satoshi Nakamoto"; a figure that many implementations share. */
const ECDSA_SECRET = hex("0000000000000000000000000000000000000000000000000000000000000001");
const ECDSA_HASH = hex("a0dc65ffca799873cbea0ac274015b9526505daaaed385155425f7337704883e");
const ECDSA_SIGNATURE = hex(
  "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8" +
    "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
);
const GENERATOR = hex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798");
/** BIP 340, test vector 0. */
const SCHNORR_SECRET = hex("0000000000000000000000000000000000000000000000000000000000000003");
const SCHNORR_HASH = new Uint8Array(32);
const SCHNORR_SIGNATURE = hex(
  "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215" +
    "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0",
);
const N = hex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
/** Secrets of the comparison with the other provider; plain, since nothing is kept with them. */
const SAMPLE_SECRETS = [
  hex("1111111111111111111111111111111111111111111111111111111111111111"),
  hex("7f00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff01"),
  hex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140"),
];

function hex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  copy[copy.length - 1] = (copy[copy.length - 1] ?? 0) ^ 1;
  return copy;
}

/** Bytes, flags and `null` in a form that compares. */
function show(value: unknown): string {
  return JSON.stringify(value, (_key, item) => item instanceof Uint8Array ? Array.from(item) : item);
}

/** n - s: the other, high s of the same signature. */
function highS(signature: Uint8Array): Uint8Array {
  const out = signature.slice();
  let borrow = 0;
  for (let i = 31; i >= 0; i--) {
    const difference = (N[i] ?? 0) - (signature[32 + i] ?? 0) - borrow;
    out[32 + i] = difference & 0xff;
    borrow = difference < 0 ? 1 : 0;
  }
  return out;
}

/** Every operation on one secret, the answers in order. */
function answers(curve: CurveProvider, secret: Uint8Array): readonly unknown[] {
  const point = curve.pointFromSecret(secret);
  const other = curve.pointFromSecret(SCHNORR_SECRET);
  const hash = curve.ecdh(secret, other) ?? ECDSA_HASH;
  const signature = curve.signEcdsa(hash, secret);
  const recoverable = curve.signRecoverable(hash, secret);
  const schnorr = curve.signSchnorr(hash, secret);
  const xOnly = point.slice(1);
  return [
    point,
    hash,
    signature,
    recoverable,
    schnorr,
    curve.recover(hash, recoverable.signature, recoverable.recoveryId),
    curve.recover(hash, recoverable.signature, 4),
    curve.verifyEcdsa(hash, signature, point),
    curve.verifyEcdsa(hash, highS(signature), point),
    curve.verifyEcdsa(flipped(hash), signature, point),
    curve.verifySchnorr(hash, schnorr, xOnly),
    curve.verifySchnorr(hash, flipped(schnorr), xOnly),
    curve.pointAdd(point, other),
    curve.pointAddScalar(point, hash),
    curve.pointMul(point, hash),
    curve.privateAdd(secret, hash),
    curve.privateMul(secret, hash),
    curve.privateNegate(secret),
    curve.xOnlyPointAddTweak(xOnly, hash),
    curve.isPoint(point),
    curve.isXOnlyPoint(xOnly),
    curve.isPrivate(secret),
  ];
}

/** The questions whose answer must be "no". */
function refusals(curve: CurveProvider): readonly unknown[] {
  const zero = new Uint8Array(32);
  const uncompressed = new Uint8Array(65);
  uncompressed[0] = 4;
  return [
    curve.isPrivate(zero),
    curve.isPrivate(N),
    curve.isPrivate(new Uint8Array(31).fill(1)),
    curve.isPoint(new Uint8Array(33)),
    curve.isPoint(uncompressed),
    curve.isXOnlyPoint(zero),
    curve.pointMul(GENERATOR, zero) !== null,
    curve.pointAddScalar(GENERATOR, N) !== null,
    curve.ecdh(zero, GENERATOR) !== null,
    curve.ecdh(ECDSA_SECRET, new Uint8Array(33)) !== null,
    curve.verifyEcdsa(ECDSA_HASH, ECDSA_SIGNATURE, GENERATOR.slice(1)),
    curve.verifyEcdsa(ECDSA_HASH, new Uint8Array(64), GENERATOR),
  ];
}

/**
 * Holds a provider against fixed figures and against another provider. Returns what went wrong, or null if all is well;
 * a provider that throws has failed.
 */
export function selfTest(curve: CurveProvider, oracle: CurveProvider): string | null {
  try {
    const fixed: readonly (readonly [string, unknown, unknown])[] = [
      ["public key", curve.pointFromSecret(ECDSA_SECRET), GENERATOR],
      ["RFC 6979 signature", curve.signEcdsa(ECDSA_HASH, ECDSA_SECRET), ECDSA_SIGNATURE],
      ["ECDSA verification", curve.verifyEcdsa(ECDSA_HASH, ECDSA_SIGNATURE, GENERATOR), true],
      ["BIP 340 signature", curve.signSchnorr(SCHNORR_HASH, SCHNORR_SECRET), SCHNORR_SIGNATURE],
    ];
    for (const [what, got, expected] of fixed) {
      if (show(got) !== show(expected)) return `wrong ${what}`;
    }
    const no = refusals(curve).indexOf(true);
    if (no !== -1) return `accepted bad argument ${no}`;
    for (const secret of SAMPLE_SECRETS) {
      if (show(answers(curve, secret)) !== show(answers(oracle, secret))) {
        return `differs from ${oracle.name}`;
      }
    }
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : "threw something";
  }
}
