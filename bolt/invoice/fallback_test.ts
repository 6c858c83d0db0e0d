import assert from "node:assert/strict";
import { address, networks } from "bitcoinjs-lib";
import "bolt/crypto/ecc.ts";
import { fallbackOfScript, fallbackScript, isFallback } from "bolt/invoice/fallback.ts";

const ADDRESSES: readonly (readonly [address: string, version: number])[] = [
  ["1RustyRX2oai4EYYDpQGWvEL62BBGqN9T", 17],
  ["3EktnHQD7RiAE6uzMj2ZifT9YgRrkSgzQX", 18],
  ["bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", 0],
  ["bc1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qccfmv3", 0],
  ["bc1pptdvg0d2nj99568qn6ssdy4cygnwuxgw2ukmnwgwz7jpqjz2kszse2s3lm", 1],
];

Deno.test("the addresses of BOLT 11's examples, as fallbacks and back", () => {
  for (const [text, version] of ADDRESSES) {
    const fallback = fallbackOfScript(address.toOutputScript(text, networks.bitcoin));
    assert.equal(fallback?.version, version, text);
    assert.equal(address.fromOutputScript(fallbackScript(fallback), networks.bitcoin), text);
  }
});

Deno.test("later witness versions are fallbacks, programs without a meaning are none", () => {
  for (let version = 2; version <= 16; version++) {
    const fallback = { version, program: new Uint8Array(version === 2 ? 2 : 40).fill(7) };
    assert.deepEqual(fallbackOfScript(fallbackScript(fallback)), fallback);
  }
  for (
    const [version, length] of [
      [0, 0],
      [0, 21],
      [0, 40],
      // Anyone can spend it (BIP 341: only 32 bytes have rules).
      [1, 2],
      [1, 33],
      [2, 1],
      [16, 41],
      [17, 32],
      [18, 19],
      [19, 20],
      [-1, 20],
      [0.5, 20],
    ] as const
  ) {
    const fallback = { version, program: new Uint8Array(length) };
    assert.equal(isFallback(fallback), false, `${version}: ${length}`);
    assert.throws(() => fallbackScript(fallback), RangeError);
  }
  for (const script of [[], [0x6a, 1, 1], [0x51, 2, 1, 1], [0x00, 2, 1, 1]]) {
    assert.equal(fallbackOfScript(Uint8Array.from(script)), null);
  }
});
