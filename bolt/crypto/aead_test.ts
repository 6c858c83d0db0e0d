import assert from "node:assert/strict";
import fc from "fast-check";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { counterNonce, hkdf2, open, seal, TAG_LENGTH } from "bolt/crypto/aead.ts";

const keys = fc.uint8Array({ minLength: 32, maxLength: 32 });
const nonces = fc.uint8Array({ minLength: 12, maxLength: 12 });
const texts = fc.uint8Array({ maxLength: 3000 });

Deno.test("seal and open agree with @noble/ciphers", () => {
  fc.assert(fc.property(keys, nonces, texts, texts, (key, nonce, ad, text) => {
    const sealed = seal(key, nonce, ad, text);
    assert.deepEqual(sealed, chacha20poly1305(key, nonce, ad).encrypt(text));
    assert.deepEqual(open(key, nonce, ad, sealed), text);
  }));
});

Deno.test("a flipped bit in ciphertext, tag or associated data opens nothing", () => {
  fc.assert(
    fc.property(keys, nonces, fc.uint8Array({ minLength: 1 }), texts, fc.nat(), (key, nonce, ad, text, n) => {
      const sealed = seal(key, nonce, ad, text);
      const flip = (bytes: Uint8Array): Uint8Array => {
        const copy = bytes.slice();
        const bit = n % (copy.length * 8);
        copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        return copy;
      };
      assert.equal(open(key, nonce, ad, flip(sealed)), null);
      assert.equal(open(key, nonce, flip(ad), sealed), null);
      assert.equal(open(key, flip(nonce), ad, sealed), null);
    }),
  );
});

Deno.test("what is shorter than a tag opens nothing", () => {
  for (let length = 0; length < TAG_LENGTH; length++) {
    assert.equal(open(new Uint8Array(32), counterNonce(0), new Uint8Array(0), new Uint8Array(length)), null);
  }
});

Deno.test("BOLT 8: the counter is little-endian behind 32 zero bits", () => {
  assert.equal(bytesToHex(counterNonce(0)), "000000000000000000000000");
  assert.equal(bytesToHex(counterNonce(0x0102)), "000000000201000000000000");
  for (const bad of [-1, 0.5, 2 ** 53]) assert.throws(() => counterNonce(bad), RangeError);
});

Deno.test("BOLT 8: HKDF of the first rotation", () => {
  const [chainingKey, key] = hkdf2(
    hexToBytes("919219dbb2920afa8db80f9a51787a840bcf111ed8d588caf9ab4be716e42b01"),
    hexToBytes("969ab31b4d288cedf6218839b27a3e2140827047f2c0f01bf5c04435d43511a9"),
  );
  assert.equal(bytesToHex(chainingKey), "cc2c6e467efc8067720c2d09c139d1f77731893aad1defa14f9bf3c48d3f1d31");
  assert.equal(bytesToHex(key), "3fbdc101abd1132ca3a0ae34a669d8d9ba69a587e0bb4ddd59524541cf4813d8");
});

Deno.test("a malformed key or nonce of ours throws", () => {
  const empty = new Uint8Array(0);
  assert.throws(() => seal(new Uint8Array(31), counterNonce(0), empty, empty), RangeError);
  assert.throws(() => open(new Uint8Array(32), new Uint8Array(11), empty, new Uint8Array(16)), RangeError);
});
