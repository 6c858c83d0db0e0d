import assert from "node:assert/strict";
import fc from "fast-check";
import { type Carrier, cut } from "./split.ts";

const carrier = (channel: bigint, availableMsat: bigint, minimumMsat = 0n): Carrier => ({
  channel,
  availableMsat,
  minimumMsat,
});

Deno.test("one part where one channel has room, otherwise several, the largest first", () => {
  const carriers = [carrier(1n, 500n), carrier(2n, 2_000n), carrier(3n, 800n)];
  assert.deepEqual(cut(700n, carriers, true), [{ channel: 2n, amountMsat: 700n }]);
  assert.deepEqual(cut(2_100n, carriers, true), [
    { channel: 2n, amountMsat: 2_000n },
    { channel: 3n, amountMsat: 100n },
  ]);
  assert.equal(cut(2_100n, carriers, false), null);
  assert.equal(cut(3_301n, carriers, true), null);
});

Deno.test("a rest below a channel's minimum is filled up from the part before", () => {
  assert.deepEqual(cut(1_010n, [carrier(1n, 1_000n), carrier(2n, 900n, 100n)], true), [
    { channel: 1n, amountMsat: 910n },
    { channel: 2n, amountMsat: 100n },
  ]);
  assert.equal(cut(1_010n, [carrier(1n, 1_000n, 990n), carrier(2n, 900n, 100n)], true), null);
});

Deno.test("a cut adds up, and no part is more than its channel has or less than it takes", () => {
  const amounts = fc.bigInt({ min: 1n, max: 5_000n });
  const carriers = fc.uniqueArray(
    fc.record({
      channel: fc.bigInt({ min: 1n, max: 20n }),
      availableMsat: fc.bigInt({ min: 0n, max: 2_000n }),
      minimumMsat: fc.bigInt({ min: 0n, max: 300n }),
    }),
    { selector: ({ channel }) => channel, maxLength: 8 },
  );
  let found = 0;
  fc.assert(fc.property(amounts, carriers, fc.boolean(), (amount, list, several) => {
    const parts = cut(amount, list, several);
    if (parts === null) {
      assert.ok(!list.some((c) => c.availableMsat >= amount && c.minimumMsat <= amount));
      return;
    }
    found++;
    assert.equal(parts.reduce((sum, { amountMsat }) => sum + amountMsat, 0n), amount);
    assert.equal(new Set(parts.map(({ channel }) => channel)).size, parts.length);
    if (!several) assert.equal(parts.length, 1);
    for (const { channel, amountMsat } of parts) {
      const of = list.find((c) => c.channel === channel)!;
      assert.ok(amountMsat > 0n && amountMsat <= of.availableMsat && amountMsat >= of.minimumMsat);
    }
  }));
  assert.ok(found > 0);
});
