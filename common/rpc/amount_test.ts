import assert from "node:assert/strict";
import fc from "fast-check";
import { formatMsat, MAX_MSAT, parseMsat } from "common/rpc/amount.ts";

Deno.test("amounts with units are millisatoshi", () => {
  assert.equal(parseMsat("100000sat", false), 100_000_000n);
  assert.equal(parseMsat("0.001btc", false), 100_000_000n);
  assert.equal(parseMsat("100000000msat", true), 100_000_000n);
  assert.equal(parseMsat("1btc", true), 100_000_000_000n);
  assert.equal(parseMsat("0.00000000001btc", true), 1n);
  assert.equal(parseMsat("21000000btc", false), MAX_MSAT);
});

Deno.test("a bare number is satoshi or millisatoshi, as the parameter has it", () => {
  assert.equal(parseMsat("7", true), 7_000n);
  assert.equal(parseMsat("7", false), 7n);
});

Deno.test("what is no amount is refused", () => {
  const bad = [
    "",
    "-1",
    "1.5",
    "1.5sat",
    "1.5msat",
    "1 sat",
    "1SAT",
    "sat",
    "0x10",
    "1e8",
    ".5btc",
    "5.btc",
    "all",
  ];
  for (const text of [...bad, "0.000000000001btc", "21000001btc", "2100000000000001sat", "9".repeat(30)]) {
    assert.equal(parseMsat(text, true), undefined, text);
  }
});

Deno.test("every amount reads back from each unit that can hold it", () => {
  fc.assert(fc.property(fc.bigInt(0n, MAX_MSAT), (msat) => {
    assert.equal(parseMsat(`${msat}msat`, true), msat);
    assert.equal(parseMsat(`${msat}`, false), msat);
    const btc = `${msat / 100_000_000_000n}.${(msat % 100_000_000_000n).toString().padStart(11, "0")}btc`;
    assert.equal(parseMsat(btc, false), msat);
  }));
});

Deno.test("amounts for people have thousands and no rounding", () => {
  assert.equal(formatMsat(0n), "0 sat");
  assert.equal(formatMsat(1_234_567_000n), "1,234,567 sat");
  assert.equal(formatMsat(1_001n), "1.001 sat");
});
