import assert from "node:assert/strict";
import fc from "fast-check";
import { MAX_SAT, msat } from "bolt/units.ts";
import { formatPrefix, invoiceNetwork, parsePrefix } from "bolt/invoice/prefix.ts";
import type { InvoiceNetwork } from "bolt/invoice/types.ts";

const NETWORKS: readonly InvoiceNetwork[] = ["bitcoin", "testnet", "signet", "regtest", "simnet"];

function amountOf(text: string): bigint | null {
  const parsed = parsePrefix(text);
  assert.ok(parsed.ok, text);
  return parsed.value.amountMsat;
}

Deno.test("networks by their prefix; the longer one is not the shorter with an amount", () => {
  for (
    const [text, network] of [
      ["lnbc", "bitcoin"],
      ["lntb", "testnet"],
      ["lntbs", "signet"],
      ["lnbcrt", "regtest"],
      ["lnsb", "simnet"],
    ]
  ) {
    for (const amount of ["", "1m"]) {
      const parsed = parsePrefix(`${text}${amount}`);
      assert.ok(parsed.ok && parsed.value.network === network, text);
    }
  }
  assert.equal(invoiceNetwork("testnet4"), "testnet");
  assert.equal(invoiceNetwork("regtest"), "regtest");
  for (const bad of ["", "ln", "bc", "bc1", "xlnbc", "lnxx1m", "LNBC", "lnbcx", "lno", "lnbcm", "ln1bc"]) {
    const parsed = parsePrefix(bad);
    assert.ok(!parsed.ok && parsed.error.type === "unknown_prefix", bad);
  }
});

Deno.test("amounts: multipliers, also one that is not the largest", () => {
  assert.equal(amountOf("lnbc"), null);
  assert.equal(amountOf("lnbc1"), 100_000_000_000n);
  assert.equal(amountOf("lnbc25m"), 2_500_000_000n);
  assert.equal(amountOf("lnbc2500u"), 250_000_000n);
  assert.equal(amountOf("lnbc1000n"), 100_000n);
  assert.equal(amountOf("lnbc9678785340p"), 967_878_534n);
  assert.equal(amountOf("lnbc10p"), 1n);
  assert.equal(amountOf("lnbc21000000"), MAX_SAT * 1000n);
  for (
    const bad of [
      "0",
      "00",
      "01",
      "0m",
      "01m",
      "1k",
      "1mm",
      "-1",
      "+1",
      "1.5m",
      "1 m",
      " 1",
      "1e3",
      "5p",
      "11p",
      "21000001",
      "21000000001m",
      "21000000000000000010p",
      "9".repeat(30),
      "9".repeat(7000),
      "１",
    ]
  ) {
    const parsed = parsePrefix(`lnbc${bad}`);
    assert.ok(!parsed.ok && parsed.error.type === "bad_amount", bad.slice(0, 30));
  }
});

Deno.test("amounts are written in the shortest form", () => {
  for (
    const [amount, text] of [
      [1n, "lnbc10p"],
      [100n, "lnbc1n"],
      [110n, "lnbc1100p"],
      [100_000n, "lnbc1u"],
      [150_000n, "lnbc1500n"],
      [2_500_000_000n, "lnbc25m"],
      [100_000_000_000n, "lnbc1"],
    ] as const
  ) {
    assert.deepEqual(formatPrefix({ network: "bitcoin", amountMsat: msat(amount) }), {
      ok: true,
      value: text,
    });
  }
  const nothing = formatPrefix({ network: "bitcoin", amountMsat: msat(0n) });
  assert.ok(!nothing.ok && nothing.error.type === "bad_amount");
});

Deno.test("what is written is read again", () => {
  const amounts = fc.option(fc.bigInt(1n, MAX_SAT * 1000n).map(msat));
  fc.assert(fc.property(fc.constantFrom(...NETWORKS), amounts, (network, amountMsat) => {
    const written = formatPrefix({ network, amountMsat });
    assert.ok(written.ok);
    assert.deepEqual(parsePrefix(written.value), { ok: true, value: { network, amountMsat } });
  }));
});
