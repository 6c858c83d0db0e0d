/**
 * The curve by libsecp256k1 through Deno's FFI.
 *
 * The library aborts the whole process when an argument breaks its contract (a NULL, a recovery id of 4), so nothing
 * reaches it whose length and range were not checked here. Arguments are copied into buffers of fixed size that live
 * as long as the provider; those that held a secret are wiped before a method returns.
 */
import type { CurveProvider, ProviderTweakedXOnly } from "common/ecc/provider.ts";

const SYMBOLS = {
  secp256k1_context_create: { parameters: ["u32"], result: "pointer" },
  secp256k1_context_destroy: { parameters: ["pointer"], result: "void" },
  secp256k1_context_randomize: { parameters: ["pointer", "buffer"], result: "i32" },
  secp256k1_ec_seckey_verify: { parameters: ["pointer", "buffer"], result: "i32" },
  secp256k1_ec_seckey_negate: { parameters: ["pointer", "buffer"], result: "i32" },
  secp256k1_ec_seckey_tweak_add: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_ec_seckey_tweak_mul: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_ec_pubkey_parse: { parameters: ["pointer", "buffer", "buffer", "usize"], result: "i32" },
  secp256k1_ec_pubkey_serialize: {
    parameters: ["pointer", "buffer", "buffer", "buffer", "u32"],
    result: "i32",
  },
  secp256k1_ec_pubkey_create: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_ec_pubkey_combine: { parameters: ["pointer", "buffer", "buffer", "usize"], result: "i32" },
  secp256k1_ec_pubkey_tweak_add: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_ec_pubkey_tweak_mul: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_ecdh: {
    parameters: ["pointer", "buffer", "buffer", "buffer", "pointer", "pointer"],
    result: "i32",
  },
  secp256k1_ecdsa_sign: {
    parameters: ["pointer", "buffer", "buffer", "buffer", "pointer", "pointer"],
    result: "i32",
  },
  secp256k1_ecdsa_verify: { parameters: ["pointer", "buffer", "buffer", "buffer"], result: "i32" },
  secp256k1_ecdsa_signature_parse_compact: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_ecdsa_signature_serialize_compact: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  // The recovery module is built in only when asked for.
  secp256k1_ecdsa_sign_recoverable: {
    parameters: ["pointer", "buffer", "buffer", "buffer", "pointer", "pointer"],
    result: "i32",
    optional: true,
  },
  secp256k1_ecdsa_recover: {
    parameters: ["pointer", "buffer", "buffer", "buffer"],
    result: "i32",
    optional: true,
  },
  secp256k1_ecdsa_recoverable_signature_parse_compact: {
    parameters: ["pointer", "buffer", "buffer", "i32"],
    result: "i32",
    optional: true,
  },
  secp256k1_ecdsa_recoverable_signature_serialize_compact: {
    parameters: ["pointer", "buffer", "buffer", "buffer"],
    result: "i32",
    optional: true,
  },
  secp256k1_keypair_create: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_schnorrsig_sign32: {
    parameters: ["pointer", "buffer", "buffer", "buffer", "buffer"],
    result: "i32",
  },
  secp256k1_schnorrsig_verify: {
    parameters: ["pointer", "buffer", "buffer", "usize", "buffer"],
    result: "i32",
  },
  secp256k1_xonly_pubkey_parse: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
  secp256k1_xonly_pubkey_tweak_add: { parameters: ["pointer", "buffer", "buffer", "buffer"], result: "i32" },
} as const;

/** SIGN and VERIFY: ignored by today's versions, needed by old ones. */
const CONTEXT_FLAGS = 0x0301;
const COMPRESSED = 0x0102;
const SCALAR = 32;
const POINT = 33;
const SIGNATURE = 64;
/** Sizes of the library's opaque structures, part of its ABI. */
const OPAQUE_KEY = 64;
const OPAQUE_SIGNATURE = 64;
const OPAQUE_RECOVERABLE = 65;
const OPAQUE_KEYPAIR = 96;
const MAX_RECOVERY_ID = 3;
const ODD = 0x03;

/** What stands in for a library's recovery module. */
export type Recovery = Pick<CurveProvider, "signRecoverable" | "recover">;

/** A provider that holds a loaded library. */
export interface FfiProvider extends CurveProvider {
  /** Whether the library itself makes and reads signatures that name their key. */
  readonly ownRecovery: boolean;
  /** Frees the context and unloads the library; no method may be called afterwards. */
  close(): void;
}

/**
 * Loads the library and makes a provider with a context of its own, blinded with `seed` (32 random bytes, against side
 * channels; copied and wiped here, the caller's bytes stay). `recovery` serves where the library was built without that
 * module. Throws an Error if the library does not load, lacks a symbol (ecdh, extrakeys and schnorrsig are needed, and
 * recovery if `recovery` is not given), or refuses the context. Needs the `ffi` permission.
 */
export function openSecp256k1(library: string, seed: Uint8Array, recovery?: Recovery): FfiProvider {
  if (seed.length !== SCALAR) throw new RangeError("the blinding seed has 32 bytes");
  const lib = Deno.dlopen(library, SYMBOLS);
  const C = lib.symbols;
  const context = C.secp256k1_context_create(CONTEXT_FLAGS);

  const secret = new Uint8Array(SCALAR);
  const scalar = new Uint8Array(SCALAR);
  const hash = new Uint8Array(SCALAR);
  const signature = new Uint8Array(SIGNATURE);
  const serialized = new Uint8Array(POINT);
  const keys = new Uint8Array(2 * OPAQUE_KEY);
  const keyA = keys.subarray(0, OPAQUE_KEY);
  const keyB = keys.subarray(OPAQUE_KEY);
  const keyPointers = new BigUint64Array(2);
  const opaqueSignature = new Uint8Array(OPAQUE_SIGNATURE);
  const recoverable = new Uint8Array(OPAQUE_RECOVERABLE);
  const keypair = new Uint8Array(OPAQUE_KEYPAIR);
  const zeroAux = new Uint8Array(SCALAR);
  const outLength = new BigUint64Array(1);
  const outId = new Int32Array(1);
  let closed = false;

  function close(): void {
    if (closed) return;
    closed = true;
    if (context !== null) C.secp256k1_context_destroy(context);
    lib.close();
  }

  /** A call into an unloaded library would be a jump into freed memory. */
  function requireOpen(): void {
    if (closed) throw new Error("libsecp256k1: provider was closed");
  }

  /** The library reports a defect that no argument can cause. */
  function must(code: number, step: string): void {
    if (code !== 1) throw new Error(`libsecp256k1: ${step} failed`);
  }

  function loadKey(bytes: Uint8Array, key: Uint8Array<ArrayBuffer>): boolean {
    requireOpen();
    if (bytes.length !== POINT) return false;
    serialized.set(bytes);
    return C.secp256k1_ec_pubkey_parse(context, key, serialized, BigInt(POINT)) === 1;
  }

  function loadXOnly(bytes: Uint8Array, key: Uint8Array<ArrayBuffer>): boolean {
    requireOpen();
    if (bytes.length !== SCALAR) return false;
    serialized.set(bytes);
    return C.secp256k1_xonly_pubkey_parse(context, key, serialized) === 1;
  }

  /** Copies a secret in and says whether it is one; the caller wipes it. */
  function loadSecret(bytes: Uint8Array): boolean {
    requireOpen();
    if (bytes.length !== SCALAR) return false;
    secret.set(bytes);
    return C.secp256k1_ec_seckey_verify(context, secret) === 1;
  }

  function loadScalar(bytes: Uint8Array): boolean {
    if (bytes.length !== SCALAR) return false;
    scalar.set(bytes);
    return true;
  }

  function loadHash(bytes: Uint8Array): boolean {
    requireOpen();
    if (bytes.length !== SCALAR) return false;
    hash.set(bytes);
    return true;
  }

  function serializeKey(key: Uint8Array<ArrayBuffer>): Uint8Array {
    const out = new Uint8Array(POINT);
    outLength[0] = BigInt(POINT);
    must(C.secp256k1_ec_pubkey_serialize(context, out, outLength, key, COMPRESSED), "ec_pubkey_serialize");
    if (outLength[0] !== BigInt(POINT)) {
      throw new Error("libsecp256k1: ec_pubkey_serialize wrote another length");
    }
    return out;
  }

  function wipe(): void {
    secret.fill(0);
    scalar.fill(0);
    keypair.fill(0);
  }

  /** Runs a step that handles secrets, and wipes them however it ends. */
  function wiping<T>(step: () => T): T {
    try {
      return step();
    } finally {
      wipe();
    }
  }

  function requireSigning(message: Uint8Array, key: Uint8Array): void {
    if (!loadHash(message)) throw new RangeError("hash to sign is not 32 bytes");
    if (!loadSecret(key)) throw new RangeError("not a private key");
  }

  /** The new secret that an in-place operation left in `secret`, or null. */
  function takeSecret(code: number): Uint8Array | null {
    return code === 1 ? secret.slice() : null;
  }

  /** The recovery module, or null if the library lacks it. */
  function ownRecovery(): Recovery | null {
    const sign = C.secp256k1_ecdsa_sign_recoverable;
    const recover = C.secp256k1_ecdsa_recover;
    const parse = C.secp256k1_ecdsa_recoverable_signature_parse_compact;
    const serialize = C.secp256k1_ecdsa_recoverable_signature_serialize_compact;
    if (sign === null || recover === null || parse === null || serialize === null) return null;
    return {
      signRecoverable: (message, bytes) =>
        wiping(() => {
          requireSigning(message, bytes);
          must(sign(context, recoverable, hash, secret, null, null), "ecdsa_sign_recoverable");
          const out = new Uint8Array(SIGNATURE);
          must(
            serialize(context, out, outId, recoverable),
            "ecdsa_recoverable_signature_serialize_compact",
          );
          return { signature: out, recoveryId: outId[0] ?? 0 };
        }),

      recover(message, bytes, recoveryId) {
        if (bytes.length !== SIGNATURE || !loadHash(message)) return null;
        if (!Number.isInteger(recoveryId) || recoveryId < 0 || recoveryId > MAX_RECOVERY_ID) return null;
        signature.set(bytes);
        const parsed = parse(context, recoverable, signature, recoveryId);
        if (parsed !== 1 || recover(context, keyA, recoverable, hash) !== 1) return null;
        return serializeKey(keyA);
      },
    };
  }

  const own = ownRecovery();
  const makers = own ?? recovery;
  if (makers === undefined) {
    close();
    throw new Error("libsecp256k1: built without the recovery module");
  }

  const provider: FfiProvider = {
    name: library,
    close,

    isPoint: (bytes) => loadKey(bytes, keyA),
    isPrivate: (bytes) => wiping(() => loadSecret(bytes)),
    isXOnlyPoint: (bytes) => loadXOnly(bytes, keyA),

    pointFromSecret: (bytes) =>
      wiping(() => {
        if (!loadSecret(bytes)) throw new RangeError("not a private key");
        must(C.secp256k1_ec_pubkey_create(context, keyA, secret), "ec_pubkey_create");
        return serializeKey(keyA);
      }),

    ecdh: (bytes, point) =>
      wiping(() => {
        if (!loadKey(point, keyA) || !loadSecret(bytes)) return null;
        const out = new Uint8Array(SCALAR);
        must(C.secp256k1_ecdh(context, out, keyA, secret, null, null), "ecdh");
        return out;
      }),

    pointAdd(a, b) {
      if (!loadKey(a, keyA) || !loadKey(b, keyB)) return null;
      const sum = new Uint8Array(OPAQUE_KEY);
      return C.secp256k1_ec_pubkey_combine(context, sum, keyPointers, 2n) === 1 ? serializeKey(sum) : null;
    },

    pointAddScalar: (point, tweak) =>
      wiping(() => {
        if (!loadKey(point, keyA) || !loadScalar(tweak)) return null;
        return C.secp256k1_ec_pubkey_tweak_add(context, keyA, scalar) === 1 ? serializeKey(keyA) : null;
      }),

    pointMul: (point, tweak) =>
      wiping(() => {
        if (!loadKey(point, keyA) || !loadScalar(tweak)) return null;
        return C.secp256k1_ec_pubkey_tweak_mul(context, keyA, scalar) === 1 ? serializeKey(keyA) : null;
      }),

    privateAdd: (bytes, tweak) =>
      wiping(() => {
        if (!loadSecret(bytes) || !loadScalar(tweak)) return null;
        return takeSecret(C.secp256k1_ec_seckey_tweak_add(context, secret, scalar));
      }),

    privateMul: (bytes, tweak) =>
      wiping(() => {
        if (!loadSecret(bytes) || !loadScalar(tweak)) return null;
        return takeSecret(C.secp256k1_ec_seckey_tweak_mul(context, secret, scalar));
      }),

    privateNegate: (bytes) =>
      wiping(() => {
        if (!loadSecret(bytes)) return null;
        return takeSecret(C.secp256k1_ec_seckey_negate(context, secret));
      }),

    signEcdsa: (message, bytes) =>
      wiping(() => {
        requireSigning(message, bytes);
        must(C.secp256k1_ecdsa_sign(context, opaqueSignature, hash, secret, null, null), "ecdsa_sign");
        const out = new Uint8Array(SIGNATURE);
        must(
          C.secp256k1_ecdsa_signature_serialize_compact(context, out, opaqueSignature),
          "ecdsa_signature_serialize_compact",
        );
        return out;
      }),

    verifyEcdsa(message, bytes, point) {
      if (bytes.length !== SIGNATURE || !loadHash(message) || !loadKey(point, keyA)) return false;
      signature.set(bytes);
      if (C.secp256k1_ecdsa_signature_parse_compact(context, opaqueSignature, signature) !== 1) return false;
      return C.secp256k1_ecdsa_verify(context, opaqueSignature, hash, keyA) === 1;
    },

    ownRecovery: own !== null,
    signRecoverable: makers.signRecoverable,
    recover: makers.recover,

    signSchnorr: (message, bytes) =>
      wiping(() => {
        requireSigning(message, bytes);
        must(C.secp256k1_keypair_create(context, keypair, secret), "keypair_create");
        const out = new Uint8Array(SIGNATURE);
        must(C.secp256k1_schnorrsig_sign32(context, out, hash, keypair, zeroAux), "schnorrsig_sign32");
        return out;
      }),

    verifySchnorr(message, bytes, xOnly) {
      if (bytes.length !== SIGNATURE || !loadHash(message) || !loadXOnly(xOnly, keyA)) return false;
      signature.set(bytes);
      return C.secp256k1_schnorrsig_verify(context, signature, hash, BigInt(SCALAR), keyA) === 1;
    },

    xOnlyPointAddTweak: (xOnly, tweak): ProviderTweakedXOnly | null =>
      wiping(() => {
        if (!loadXOnly(xOnly, keyA) || !loadScalar(tweak)) return null;
        if (C.secp256k1_xonly_pubkey_tweak_add(context, keyB, keyA, scalar) !== 1) return null;
        const out = serializeKey(keyB);
        return { parity: out[0] === ODD ? 1 : 0, xOnlyPubkey: out.slice(1) };
      }),
  };

  try {
    if (context === null) throw new Error("libsecp256k1: no context");
    const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(keys));
    keyPointers[0] = address;
    keyPointers[1] = address + BigInt(OPAQUE_KEY);
    secret.set(seed);
    must(C.secp256k1_context_randomize(context, secret), "context_randomize");
    wipe();
  } catch (error) {
    close();
    throw error;
  }
  return provider;
}
