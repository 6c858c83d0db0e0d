import assert from "node:assert/strict";
import { address as addresses, networks } from "bitcoinjs-lib";
import fc from "fast-check";
import { ArcusError } from "common/grpc/errors.ts";
import { feerate } from "bolt/units.ts";
import { p2trAddress, scriptOf } from "./address.ts";
import { chooseFeerate, parseFeerate } from "./feerate.ts";
import { readPsbt } from "./psbt.ts";

Deno.test("P2TR addresses: first receiving address of BIP 86's test vector, on each network's prefix", () => {
  const program = "a60869f0dbcf1dc659c9cecbaf8050135ea9e8cdc487053f1dc6880949dc684c";
  const script = Uint8Array.fromHex(`5120${program}`);
  // BIP 86 gives it for mainnet (bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr).
  assert.match(
    p2trAddress(script, "regtest"),
    /^bcrt1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxq[a-z0-9]{6}$/,
  );
  for (const network of ["regtest", "signet", "testnet", "testnet4"]) {
    assert.deepEqual(scriptOf(p2trAddress(script, network), network), script);
  }
});

Deno.test("addresses of every kind are read, those of other networks and broken ones refused", () => {
  const hash20 = new Uint8Array(20).fill(7);
  const hash32 = new Uint8Array(32).fill(9);
  const { bech32 } = networks.regtest;
  const good: [string, string][] = [
    [addresses.toBech32(hash20, 0, bech32), `0014${hash20.toHex()}`],
    [addresses.toBech32(hash32, 0, bech32), `0020${hash32.toHex()}`],
    [addresses.toBech32(hash32, 1, bech32), `5120${hash32.toHex()}`],
    [addresses.toBech32(new Uint8Array(2), 16, bech32), "60020000"],
    [addresses.toBase58Check(hash20, networks.regtest.pubKeyHash), `76a914${hash20.toHex()}88ac`],
    [addresses.toBase58Check(hash20, networks.regtest.scriptHash), `a914${hash20.toHex()}87`],
  ];
  for (const [text, script] of good) assert.equal(scriptOf(text, "regtest").toHex(), script);
  const bad = [
    "",
    "bcrt1",
    addresses.toBech32(hash32, 1, "bc"),
    addresses.toBech32(hash32, 1, "tb"),
    addresses.toBech32(hash20, 1, bech32),
    addresses.toBase58Check(hash20, networks.bitcoin.pubKeyHash),
    `${addresses.toBech32(hash32, 1, bech32).slice(0, -1)}q`,
  ];
  for (const text of bad) {
    assert.throws(
      () => scriptOf(text, "regtest"),
      (error) => error instanceof ArcusError && error.clnCode === -32602,
      text,
    );
  }
});

Deno.test("garbage as address or PSBT is refused by name", () => {
  fc.assert(fc.property(fc.oneof(fc.string(), fc.base64String()), (text) => {
    assert.throws(() => scriptOf(text, "regtest"), ArcusError);
    assert.throws(() => readPsbt(text), ArcusError);
  }));
});

const RATES = {
  opening: feerate(2_000),
  commitment: feerate(1_500),
  minAcceptable: feerate(253),
  maxAcceptable: feerate(40_000),
  floor: feerate(253),
  estimates: [
    { blockcount: 2, feerate: feerate(4_000) },
    { blockcount: 6, feerate: feerate(3_000) },
    { blockcount: 12, feerate: feerate(2_000) },
    { blockcount: 100, feerate: feerate(500) },
  ],
};

Deno.test("fee rates as people write them", () => {
  const rate = (text: string) => chooseFeerate(parseFeerate(text), RATES);
  assert.equal(rate("slow"), 500);
  assert.equal(rate("normal"), 2_000);
  assert.equal(rate("urgent"), 3_000);
  assert.equal(rate("opening"), 2_000);
  assert.equal(rate("minimum"), 253);
  assert.equal(rate("2blocks"), 4_000);
  assert.equal(rate("50blocks"), 2_000);
  assert.equal(rate("1blocks"), 4_000);
  assert.equal(rate("253perkw"), 253);
  // Raised to what bitcoind relays.
  assert.equal(rate("1perkw"), 253);
  assert.equal(rate("1000perkb"), 253);
  assert.equal(rate("4001perkb"), 1_001);
  // Without a unit: per kB.
  assert.equal(rate("8000"), 2_000);
  for (const bad of ["", "fast", "-1", "0", "0perkw", "1.5perkw", "1e9", "99999999999", "41000perkw"]) {
    assert.throws(() => rate(bad), (error) => error instanceof ArcusError && error.clnCode === -32602, bad);
  }
});

Deno.test("without estimates a name means the opening rate", () => {
  const rates = { ...RATES, estimates: [] };
  assert.equal(chooseFeerate(parseFeerate("urgent"), rates), RATES.opening);
});
