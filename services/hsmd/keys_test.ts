import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { HDKey } from "@scure/bip32";
import { mnemonicToSeedSync } from "@scure/bip39";
import { payments } from "bitcoinjs-lib";
import fc from "fast-check";
import { invoiceSighash } from "bolt/invoice/fields.ts";
import { derivePrivkey, derivePubkey, isSecretOfPoint } from "bolt/keys/derive.ts";
import { KeyTree, PAYMENT_KEYS, paymentKeyIndex } from "./keys.ts";

const VECTORS = JSON.parse(
  readFileSync(new URL("../../tests/data/arcus/keys.json", import.meta.url), "utf8"),
);
const SEED = mnemonicToSeedSync(VECTORS.mnemonic);
const TREE = new KeyTree(SEED, "regtest");

function hexPair(pair: { readonly secret: Uint8Array; readonly point: Uint8Array }) {
  return { secret: bytesToHex(pair.secret), point: bytesToHex(pair.point) };
}

Deno.test("BIP 86: account key, first and second address, first change address", () => {
  const tree = new KeyTree(SEED, "bitcoin");
  assert.equal(
    tree.walletXpub,
    "xpub6BgBgsespWvERF3LHQu6CnqdvfEvtMcQjYrcRzx53QJjSxarj2afYWcLteoGVky7D3UKDP9QyrLprQ3VCECoY49yfdDEHGCtMMj92pReUsQ",
  );
  const shown = (change: boolean, index: number) => {
    const { internalKey, script } = tree.wallet({ change, index });
    return [bytesToHex(internalKey), payments.p2tr({ output: script }).address];
  };
  assert.deepEqual(shown(false, 0), [
    "cc8a4bc64d897bddc5fbc2f670f7a8ba0b386779106cf1223c6fc5d7cd6fc115",
    "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr",
  ]);
  assert.deepEqual(shown(false, 1), [
    "83dfe85a3151d2517290da461fe2815591ef69f2b18a2ce63f01697a8b313145",
    "bc1p4qhjn9zdvkux4e44uhx8tc55attvtyu358kutcqkudyccelu0was9fqzwh",
  ]);
  assert.deepEqual(shown(true, 0), [
    "399f1b2f4393f29a18c937859c5dd8a77350103157eb880f02e8c08214277cef",
    "bc1p3qkhfews2uk44qtvauqyr2ttdsw7svhkl9nkm9s9c3x4ax5h60wqwruhk7",
  ]);
});

Deno.test("docs/keys.md: the wallet's keys of our own vectors", () => {
  assert.equal(bytesToHex(SEED), VECTORS.seed);
  for (const network of ["bitcoin", "regtest"] as const) {
    const tree = new KeyTree(SEED, network);
    assert.equal(tree.walletXpub, VECTORS.wallet[network].xpub);
    for (const key of VECTORS.wallet[network].keys) {
      const { internalKey, script } = tree.wallet(key);
      assert.deepEqual([bytesToHex(internalKey), bytesToHex(script)], [key.internal_key, key.script]);
    }
  }
});

Deno.test("wallet keys are those that a BIP 32 library derives from the extended public key", () => {
  const account = HDKey.fromExtendedKey(TREE.walletXpub, { private: 0x04358394, public: 0x043587cf });
  fc.assert(
    fc.property(fc.boolean(), fc.integer({ min: 0, max: 0x7fffffff }), (change, index) => {
      const expected = account.deriveChild(change ? 1 : 0).deriveChild(index).publicKey;
      assert.deepEqual(TREE.wallet({ change, index }).internalKey, expected?.slice(1));
    }),
    { numRuns: 20 },
  );
});

Deno.test("docs/keys.md: node key and keys of purposes of our own vectors", () => {
  assert.equal(bytesToHex(TREE.nodeId), VECTORS.node_id);
  for (const name of ["rune", "invoice", "backup"] as const) {
    assert.deepEqual(hexPair(TREE.purpose(name)), VECTORS.purposes[name]);
  }
});

Deno.test("docs/keys.md: payment keys of our own vectors come from the seed alone", () => {
  for (const { index, ...pair } of VECTORS.payment) assert.deepEqual(hexPair(TREE.payment(index)), pair);
});

Deno.test("docs/keys.md: channel keys of our own vectors", () => {
  for (const vector of VECTORS.channels) {
    const channel = TREE.channel(hexToBytes(vector.channel_key_id));
    const { publicKeys } = channel;
    assert.deepEqual({
      channel_key_id: vector.channel_key_id,
      payment_key_index: channel.paymentKeyIndex,
      funding_secret: bytesToHex(channel.fundingSecret),
      funding_pubkey: bytesToHex(publicKeys.fundingPubkey),
      htlc_secret: bytesToHex(channel.htlcSecret),
      revocation_basepoint: bytesToHex(publicKeys.revocationBasepoint),
      payment_basepoint: bytesToHex(publicKeys.paymentBasepoint),
      delayed_payment_basepoint: bytesToHex(publicKeys.delayedPaymentBasepoint),
      htlc_basepoint: bytesToHex(publicKeys.htlcBasepoint),
      per_commitment_points: Object.fromEntries(
        Object.keys(vector.per_commitment_points).map((number) => [
          number,
          bytesToHex(channel.perCommitmentPoint(BigInt(number))),
        ]),
      ),
      per_commitment_secrets: Object.fromEntries(
        Object.keys(vector.per_commitment_secrets).map((number) => [
          number,
          bytesToHex(channel.perCommitmentSecret(BigInt(number))),
        ]),
      ),
      htlc_keys: Object.fromEntries(
        Object.keys(vector.htlc_keys).map((number) => {
          const point = channel.perCommitmentPoint(BigInt(number));
          const secret = derivePrivkey(channel.htlcSecret, point);
          const pubkey = derivePubkey(publicKeys.htlcBasepoint, point);
          assert(secret.ok && pubkey.ok);
          return [number, hexPair({ secret: secret.value, point: pubkey.value })];
        }),
      ),
    }, vector);
  }
});

Deno.test("per-commitment secrets are BOLT 3's in any order of numbers", () => {
  const one = TREE.channel(new Uint8Array(32).fill(1));
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.bigInt(0n, 600n), fc.bigInt(0n, (1n << 48n) - 1n)), {
        minLength: 1,
        maxLength: 20,
      }),
      (numbers) => {
        for (const number of numbers) {
          // A tree of its own walks all the way down.
          const fresh = TREE.channel(new Uint8Array(32).fill(1));
          assert.deepEqual(one.perCommitmentSecret(number), fresh.perCommitmentSecret(number));
          assert(isSecretOfPoint(one.perCommitmentSecret(number), one.perCommitmentPoint(number)));
        }
      },
    ),
    { numRuns: 5 },
  );
});

Deno.test("docs/keys.md: invoices are signed by the node key, without randomness", () => {
  for (const { hrp, data, hash, signature } of VECTORS.invoices) {
    const sighash = invoiceSighash(hrp, hexToBytes(data));
    assert.equal(bytesToHex(sighash), hash);
    const signed = TREE.signWithNodeKey(sighash);
    assert.equal(bytesToHex(Uint8Array.of(...signed.signature, signed.recoveryId)), signature);
  }
});

Deno.test("every channel's payment basepoint is one of the 1000", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (id) => {
      const index = paymentKeyIndex(id);
      assert(index >= 0 && index < PAYMENT_KEYS);
      assert.deepEqual(TREE.channel(id).publicKeys.paymentBasepoint, TREE.payment(index).point);
    }),
    { numRuns: 10 },
  );
});

Deno.test("key indexes and lengths out of range are refused", () => {
  assert.throws(() => TREE.payment(PAYMENT_KEYS), RangeError);
  assert.throws(() => TREE.payment(-1), RangeError);
  assert.throws(() => TREE.wallet({ change: false, index: 0x80000000 }), RangeError);
  assert.throws(() => TREE.channel(new Uint8Array(31)), RangeError);
  assert.throws(() => new KeyTree(new Uint8Array(32), "regtest"), RangeError);
});
