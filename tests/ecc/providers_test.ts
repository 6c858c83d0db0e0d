/** Every curve provider against `@noble/curves`, at the borders and on garbage, and how one is chosen. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { type Ecc, ecc, useEcc } from "bolt/crypto/ecc.ts";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";
import { deriveRevocationPrivkey, deriveRevocationPubkey } from "bolt/keys/derive.ts";
import {
  type HandshakeAction,
  type HandshakeInput,
  type HandshakeState,
  startInitiator,
  startResponder,
  stepHandshake,
} from "bolt/noise/handshake.ts";
import { chooseEcc, libraryCandidates } from "common/ecc/choose.ts";
import { openSecp256k1 } from "common/ecc/ffi.ts";
import type { CurveProvider } from "common/ecc/provider.ts";
import { selfTest } from "common/ecc/self_test.ts";

const SEED = new Uint8Array(32).fill(0x5a);
const N = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const P = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2fn;

/** One side of a handshake. */
interface End {
  readonly secret: Uint8Array;
  state: HandshakeState;
}

/** A library that loads here, or null. */
function findLibrary(): string | null {
  for (const candidate of libraryCandidates()) {
    try {
      openSecp256k1(candidate, SEED).close();
      return candidate;
    } catch {
      continue;
    }
  }
  return null;
}

const library = findLibrary();
if (library === null) console.log("skipped: tests of libsecp256k1, which is not on this machine");

/** A test with the library loaded, told as ignored where there is none. */
function withLibrary(name: string, run: (provider: CurveProvider, library: string) => void): void {
  Deno.test({
    name: library === null ? `${name} (skipped: no libsecp256k1)` : `${name} (${library})`,
    ignore: library === null,
    fn: () => {
      assert.ok(library !== null);
      const provider = openSecp256k1(library, SEED);
      try {
        run(provider, library);
      } finally {
        provider.close();
      }
    },
  });
}

function scalarBytes(value: bigint): Uint8Array {
  return hexToBytes(value.toString(16).padStart(64, "0"));
}

/** Embeds bytes in a longer buffer: a provider must respect where a view begins. */
function asView(bytes: Uint8Array): Uint8Array {
  const wide = new Uint8Array(bytes.length + 12).fill(0xa5);
  wide.set(bytes, 5);
  return wide.subarray(5, 5 + bytes.length);
}

const words = fc.uint8Array({ minLength: 32, maxLength: 32 });
const borders = fc.constantFrom(0n, 1n, 2n, N - 2n, N - 1n, N, N + 1n, P - 1n, P, (1n << 256n) - 1n).map(
  scalarBytes,
);
const garbage = fc.uint8Array({ maxLength: 70 });
const scalars = fc.oneof({ weight: 6, arbitrary: words }, { weight: 3, arbitrary: borders }, {
  weight: 1,
  arbitrary: garbage,
}).map(asView);
const secrets = words.filter((bytes) => nobleEcc.isPrivate(bytes));
const validPoints = secrets.map((secret) => nobleEcc.pointFromSecret(secret));
const maybePoints = fc.tuple(fc.constantFrom(0, 2, 3, 4, 5, 6, 7), fc.oneof(words, borders)).map((
  [prefix, x],
) => Uint8Array.of(prefix, ...x));
const points = fc.oneof({ weight: 6, arbitrary: validPoints }, { weight: 3, arbitrary: maybePoints }, {
  weight: 1,
  arbitrary: garbage,
}).map(asView);
const signatures = fc.oneof(fc.uint8Array({ minLength: 64, maxLength: 64 }), garbage).map(asView);
const RUNS = { numRuns: 120 };

/** A call's answer as text; a throw is an answer too. */
function outcome(call: () => unknown): string {
  try {
    return JSON.stringify(call(), (_key, value) => value instanceof Uint8Array ? bytesToHex(value) : value);
  } catch (error) {
    assert.ok(error instanceof RangeError, String(error));
    return `RangeError: ${error.message}`;
  }
}

function same(provider: Ecc, call: (curve: Ecc) => unknown): void {
  assert.equal(outcome(() => call(provider)), outcome(() => call(nobleEcc)));
}

withLibrary("point and scalar arithmetic equals noble's", (provider) => {
  fc.assert(
    fc.property(points, points, scalars, scalars, (a, b, s, t) => {
      same(provider, (c) => [c.isPoint(a), c.isPrivate(s), c.isXOnlyPoint(s)]);
      same(provider, (c) => c.pointFromSecret(s));
      same(provider, (c) => c.ecdh(s, a));
      same(provider, (c) => [c.pointAdd(a, b), c.pointAdd(a, a)]);
      same(provider, (c) => c.pointAddScalar(a, s));
      same(provider, (c) => c.pointMul(a, s));
      same(provider, (c) => [c.privateAdd(s, t), c.privateMul(s, t), c.privateNegate(s)]);
      same(provider, (c) => c.xOnlyPointAddTweak(s, t));
    }),
    RUNS,
  );
});

withLibrary("sums that vanish are null on both", (provider) => {
  fc.assert(
    fc.property(secrets, (secret) => {
      const negated = nobleEcc.privateNegate(secret);
      assert.ok(negated !== null);
      const point = nobleEcc.pointFromSecret(secret);
      for (const curve of [nobleEcc, provider]) {
        assert.equal(curve.privateAdd(secret, negated), null);
        assert.equal(curve.pointAddScalar(point, negated), null);
        assert.equal(curve.pointAdd(point, curve.pointFromSecret(negated)), null);
      }
    }),
    { numRuns: 20 },
  );
});

withLibrary("signatures are noble's, byte for byte", (provider) => {
  fc.assert(
    fc.property(scalars, scalars, (hash, secret) => {
      same(provider, (c) => c.signEcdsa(hash, secret));
      same(provider, (c) => c.signRecoverable(hash, secret));
      same(provider, (c) => c.signSchnorr(hash, secret));
    }),
    RUNS,
  );
});

withLibrary("verification and recovery of good, altered and random signatures equal noble's", (provider) => {
  fc.assert(
    fc.property(words, secrets, signatures, points, fc.nat(511), (hash, secret, random, otherPoint, bit) => {
      const point = asView(nobleEcc.pointFromSecret(secret));
      const xOnly = point.subarray(1);
      const ecdsa = nobleEcc.signRecoverable(hash, secret);
      const schnorr = nobleEcc.signSchnorr(hash, secret);
      assert.equal(provider.verifyEcdsa(hash, ecdsa.signature, point), true);
      assert.equal(provider.verifySchnorr(hash, schnorr, xOnly), true);
      assert.deepEqual(provider.recover(hash, ecdsa.signature, ecdsa.recoveryId), point.slice());
      const flip = (signature: Uint8Array): Uint8Array => {
        const copy = signature.slice();
        copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        return copy;
      };
      const high = ecdsa.signature.slice();
      const negated = nobleEcc.privateNegate(ecdsa.signature.slice(32));
      assert.ok(negated !== null);
      high.set(negated, 32);
      for (const curve of [nobleEcc, provider]) {
        assert.equal(curve.verifyEcdsa(hash, high, point), false, "a high s was taken");
        assert.equal(curve.verifyEcdsa(hash, flip(ecdsa.signature), point), false);
        assert.equal(curve.verifySchnorr(hash, flip(schnorr), xOnly), false);
      }
      same(provider, (c) => c.verifyEcdsa(hash, ecdsa.signature, otherPoint));
      same(provider, (c) => c.verifyEcdsa(hash, random, point));
      same(provider, (c) => c.verifySchnorr(hash, random, xOnly));
      for (const id of [-1, 0, 1, 2, 3, 4, 0.5, NaN]) {
        same(provider, (c) => c.recover(hash, ecdsa.signature, id));
        same(provider, (c) => c.recover(hash, high, id));
        same(provider, (c) => c.recover(hash, random, id));
      }
    }),
    { numRuns: 30 },
  );
});

withLibrary("what a provider returns is the caller's own: the next call does not change it", (provider) => {
  const secret = SEED.slice();
  const first = provider.pointFromSecret(secret);
  const kept = first.slice();
  const signature = provider.signEcdsa(SEED, secret);
  const keptSignature = signature.slice();
  const negated = provider.privateNegate(secret);
  const keptNegated = negated?.slice();
  provider.pointFromSecret(scalarBytes(7n));
  provider.signEcdsa(scalarBytes(9n), scalarBytes(8n));
  provider.privateNegate(scalarBytes(3n));
  assert.deepEqual(first, kept);
  assert.deepEqual(signature, keptSignature);
  assert.deepEqual(negated, keptNegated);
  assert.deepEqual(secret, SEED, "the caller's secret was changed");
});

withLibrary("no error names a secret", (provider) => {
  const wrong = scalarBytes(N + 0xdeadbeefn);
  for (const curve of [nobleEcc, provider]) {
    for (const call of [() => curve.pointFromSecret(wrong), () => curve.signEcdsa(SEED, wrong)]) {
      assert.throws(call, (error) => error instanceof RangeError && error.message === "not a private key");
    }
  }
});

withLibrary("a closed provider refuses instead of jumping into freed memory", (_provider, file) => {
  const other = openSecp256k1(file, SEED);
  other.close();
  other.close();
  assert.throws(() => other.pointFromSecret(SEED), /closed/);
  assert.throws(() => other.isPoint(new Uint8Array(33)), /closed/);
  assert.throws(() => other.recover(SEED, new Uint8Array(64), 0), /closed/);
  assert.throws(() => openSecp256k1(file, new Uint8Array(31)), RangeError);
});

withLibrary("it serves bitcoinjs-lib and the derivations as the active provider", (provider) => {
  const derive = (): unknown => {
    const point = nobleEcc.pointFromSecret(SEED);
    return [deriveRevocationPubkey(point, point), deriveRevocationPrivkey(SEED, scalarBytes(77n))];
  };
  const expected = derive();
  try {
    useEcc(provider);
    assert.deepEqual(derive(), expected);
  } finally {
    useEcc(nobleEcc);
  }
});

withLibrary("chooseEcc takes the first library that passes, and says which", (_provider, file) => {
  const lines: string[] = [];
  const chosen = chooseEcc({
    fallback: nobleEcc,
    log: (line) => lines.push(line),
    candidates: ["libarcus-is-not-there.so.9", "/dev/null", file],
  });
  try {
    assert.equal(chosen.description, `libsecp256k1 (${file})`);
    assert.equal(chosen.provider.name, file);
    assert.equal(lines.length, 1, "an absent soname is not worth a line, a broken file is");
    assert.match(lines[0] ?? "", /^\/dev\/null not used: /);
  } finally {
    if ("close" in chosen.provider && typeof chosen.provider.close === "function") chosen.provider.close();
  }
});

/** A copy of a library that has no symbol of these names. */
async function withoutSymbols(file: string, names: readonly string[], to: string): Promise<void> {
  const bytes = await Deno.readFile(file);
  const text = new TextDecoder("latin1").decode(bytes);
  for (const name of names) {
    for (let at = text.indexOf(`${name}\0`); at !== -1; at = text.indexOf(`${name}\0`, at + 1)) {
      bytes[at] = "x".charCodeAt(0);
    }
  }
  await Deno.writeFile(to, bytes);
}

Deno.test({
  name: "a library without the recovery module serves everything else",
  ignore: library === null || !library.includes("/"),
  async fn() {
    assert.ok(library !== null);
    const folder = await Deno.makeTempDir();
    try {
      const file = `${folder}/libsecp256k1.so`;
      await withoutSymbols(library, ["secp256k1_ecdsa_recover", "secp256k1_ecdsa_sign_recoverable"], file);
      assert.throws(() => openSecp256k1(file, SEED), /recovery module/);
      const chosen = chooseEcc({ fallback: nobleEcc, candidates: [file] });
      assert.equal(chosen.description, `libsecp256k1 (${file}; keys are recovered by noble)`);
      const { provider } = chosen;
      const made = provider.signRecoverable(SEED, scalarBytes(5n));
      assert.deepEqual(made, nobleEcc.signRecoverable(SEED, scalarBytes(5n)));
      assert.deepEqual(
        provider.recover(SEED, made.signature, made.recoveryId),
        provider.pointFromSecret(scalarBytes(5n)),
      );
      if ("close" in provider && typeof provider.close === "function") provider.close();
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

withLibrary("a BOLT 8 handshake says the same bytes on both providers", (provider) => {
  const [caller, called] = [scalarBytes(11n), scalarBytes(12n)];
  const run = (): readonly HandshakeAction[] => {
    const remoteStatic = ecc().pointFromSecret(called);
    const start = startInitiator({
      localStatic: ecc().pointFromSecret(caller),
      remoteStatic,
      ephemeralSecret: scalarBytes(13n),
    });
    assert.ok(start.ok);
    const ends: readonly [End, End] = [
      { secret: caller, state: start.value.state },
      { secret: called, state: startResponder({ localStatic: remoteStatic, ephemeralSecret: SEED }).state },
    ];
    const seen: HandshakeAction[] = [];
    const carryOut = (at: 0 | 1, actions: readonly HandshakeAction[]): void => {
      for (const action of actions) {
        seen.push(action);
        if (action.type === "send") input(at === 0 ? 1 : 0, { type: "bytes", bytes: action.bytes });
        if (action.type !== "ecdh") continue;
        const secret = ecc().ecdh(ends[at].secret, action.point);
        assert.ok(secret !== null);
        input(at, { type: "ecdh_result", secret });
      }
    };
    const input = (at: 0 | 1, what: HandshakeInput): void => {
      const step = stepHandshake(ends[at].state, what);
      ends[at].state = step.state;
      carryOut(at, step.actions);
    };
    carryOut(0, start.value.actions);
    return seen;
  };
  const expected = run();
  assert.equal(expected.filter((action) => action.type === "done").length, 2);
  try {
    useEcc(provider);
    assert.deepEqual(run(), expected);
  } finally {
    useEcc(nobleEcc);
  }
});

Deno.test({
  name: "chooseEcc asks for no permission: without ffi it falls back",
  permissions: { ffi: false },
  fn: () => {
    const chosen = chooseEcc({ fallback: nobleEcc });
    assert.equal(chosen.provider, nobleEcc);
    assert.equal(chosen.description, "noble (no permission to load libsecp256k1)");
  },
});

Deno.test("chooseEcc falls back when no library loads", () => {
  const chosen = chooseEcc({ fallback: nobleEcc, candidates: ["libarcus-is-not-there.so.9"] });
  assert.equal(chosen.provider, nobleEcc);
  assert.equal(chosen.description, "noble (no libsecp256k1 found)");
});

Deno.test("candidates: the named file, then the cache's finished ones, then the system's", async () => {
  const root = await Deno.makeTempDir();
  try {
    const arcus = `${root}/arcus`;
    for (const dir of ["secp256k1-0.7/lib", ".secp256k1-unfinished/lib", "a/b/c/d/e/f"]) {
      await Deno.mkdir(`${arcus}/${dir}`, { recursive: true });
      await Deno.writeTextFile(`${arcus}/${dir}/libsecp256k1.so`, "");
    }
    const env = new Map([["ARCUS_SECP256K1_LIB", "/named.so"], ["XDG_CACHE_HOME", root], [
      "HOME",
      "/nowhere",
    ]]);
    const found = libraryCandidates((name) => env.get(name));
    assert.deepEqual(found.slice(0, 3), [
      "/named.so",
      `${arcus}/secp256k1-0.7/lib/libsecp256k1.so`,
      "libsecp256k1.so.6",
    ]);
    assert.deepEqual(libraryCandidates(() => undefined)[0], "libsecp256k1.so.6");
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});

Deno.test("the self-test finds every kind of wrong provider", () => {
  assert.equal(selfTest(nobleEcc, nobleEcc), null);
  const flip = (bytes: Uint8Array): Uint8Array =>
    bytes.map((byte, i) => i === bytes.length - 1 ? byte ^ 1 : byte);
  const wrong: readonly Partial<Ecc>[] = [
    { isPoint: () => true },
    { isPrivate: () => true },
    { isXOnlyPoint: () => true },
    { isXOnlyPoint: () => false },
    { pointFromSecret: (s) => flip(nobleEcc.pointFromSecret(s)) },
    { ecdh: (_s, p) => p.slice(1) },
    { pointAdd: (a) => a },
    { pointAddScalar: (a) => a },
    { pointMul: (a) => a },
    { privateAdd: (a) => a },
    { privateMul: (a) => a },
    { privateNegate: (a) => a },
    { signEcdsa: (h, s) => flip(nobleEcc.signEcdsa(h, s)) },
    { verifyEcdsa: () => true },
    { verifyEcdsa: () => false },
    { signRecoverable: (h, s) => ({ ...nobleEcc.signRecoverable(h, s), recoveryId: 3 }) },
    { recover: () => null },
    { signSchnorr: (h, s) => nobleEcc.signEcdsa(h, s) },
    { verifySchnorr: () => true },
    { xOnlyPointAddTweak: () => null },
    {
      signSchnorr: () => {
        throw new Error("symbol missing");
      },
    },
  ];
  for (const part of wrong) {
    const failure = selfTest({ ...nobleEcc, ...part }, nobleEcc);
    assert.notEqual(failure, null, `not found: ${Object.keys(part).join()}`);
  }
});
