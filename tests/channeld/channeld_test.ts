import assert from "node:assert/strict";
import { usePostgres } from "common/testing/database.ts";
import { autoFulfill, lockedChannel } from "./harness.ts";

const postgres = await usePostgres();

/**
 * Servers and clients share this process, and a client that hears a server shut down may kill it: so servers stay open until
 * the file ends, and the sanitizers would call that a leak.
 */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

const ALICE = 120_000_000n;
const BOB = 60_000_000n;

test("a payment each way: told, settled, moved to history, to the msat on both sides", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const there = bob.invoice(1n, 1_000_000n);
  const back = alice.invoice(1n, 400_000n);
  alice.offer(there);
  const incoming = await bob.heard("incoming");
  assert.deepEqual(incoming.paymentHash, there.paymentHash);
  assert.equal(incoming.amountMsat, there.amountMsat);
  assert.deepEqual(incoming.sharedSecret, there.sharedSecret);
  assert.equal(incoming.nextOnion.length, 0);
  bob.fulfill(incoming.id, there.preimage);
  const resolved = await alice.heard("resolved");
  assert.deepEqual(resolved.outcome, { case: "preimage", value: there.preimage });
  await bob.heard("incomingResolved", ({ htlc }) => htlc === incoming.htlc);
  using _ = { [Symbol.dispose]: autoFulfill(alice, [back]) };
  bob.offer(back);
  await bob.heard("resolved", ({ origin }) => origin === back.origin);
  assert.deepEqual(await pair.settled(2), { alice: ALICE - 600_000n, bob: BOB + 600_000n });
  assert.deepEqual(alice.told("offered").map(({ origin, id, refusal }) => [origin, id, refusal]), [[
    1n,
    0n,
    "",
  ]]);
});
