/** Payments both ways over one channel, and every millisatoshi accounted for. */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { RunningNode } from "tools/node/launch.ts";
import { fundedAndConnected, normalChannel } from "../lib/channels.ts";
import {
  balancesOf,
  flowBetween,
  makeInvoice,
  MANY_SLOTS,
  nothingLost,
  pay,
  payNew,
  underWay,
} from "../lib/payments.ts";
import { assertClosedByBoth, close, CloseType } from "../lib/closing.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

const PAYMENTS_EACH_WAY = 200;
const MSAT_PER_SAT = 1_000n;
const SAT_PER_COIN = 100_000_000;
/** How many each side has under way at a time. */
const BATCH = 25;
/** Dust, an HTLC with an output, odd millisatoshis below and above a whole one, and one that is trimmed on neither side. */
const AMOUNTS_MSAT = [
  1_000n,
  1_000_000n,
  1n,
  999n,
  1_001n,
  1_000_001n,
  353_999n,
  354_000n,
  546_123n,
  777_777n,
];

const amountOf = (index: number): bigint => AMOUNTS_MSAT[index % AMOUNTS_MSAT.length] ?? 1n;

/** Every output that a wallet counts is in the chain's own set of unspent outputs, with just that amount. */
async function walletOnChain({ chain }: World, node: RunningNode): Promise<bigint> {
  const { outputs } = await node.rpc.listFunds({});
  let sum = 0n;
  for (const { txid, output, amountMsat } of outputs) {
    const found = await chain.rpc<{ value: number } | null>("gettxout", [bytesToHex(txid), output]);
    assert.ok(found, `${node.name}'s output is unspent`);
    const sat = BigInt(Math.round(found.value * SAT_PER_COIN));
    assert.equal(amountMsat?.msat, sat * MSAT_PER_SAT);
    sum += sat;
  }
  return sum;
}

/** Closes together; what each wallet gets is what the channel said was theirs, to the satoshi. The opener pays the fee. */
async function closeAndCompare(world: World, channelId: string, opener: "alice" | "bob"): Promise<void> {
  const { alice, bob } = world;
  const { total, ...last } = await balancesOf(world, [channelId]);
  const before = [await walletOnChain(world, alice), await walletOnChain(world, bob)] as const;
  const closed = await close(alice, channelId);
  assert.equal(closed.itemType, CloseType.MUTUAL);
  const left = await assertClosedByBoth(world, channelId, total / MSAT_PER_SAT, before);
  const gained = {
    alice: await walletOnChain(world, alice) - before[0],
    bob: await walletOnChain(world, bob) - before[1],
  };
  // A fraction of a satoshi has no output (BOLT 3): it goes to the miners beside the fee.
  const owed = { alice: last.alice / MSAT_PER_SAT, bob: last.bob / MSAT_PER_SAT };
  const fee = left - (total / MSAT_PER_SAT - owed.alice - owed.bob);
  assert.ok(fee > 0n);
  assert.deepEqual(gained, { ...owed, [opener]: owed[opener] - fee });
}

Deno.test("200 payments each way, concurrently: balances exact to the msat on both sides, and then on the chain", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const before = await balancesOf(world, [channelId]);
    for (let done = 0; done < PAYMENTS_EACH_WAY; done += BATCH) {
      await Promise.all(
        Array.from({ length: BATCH }, (_, index) => {
          const amount = amountOf(done + index);
          return [payNew(alice, bob, amount), payNew(bob, alice, amount + 1n)];
        }).flat(),
      );
    }
    const flows = await nothingLost(world, [channelId], before);
    const sent = Array.from({ length: PAYMENTS_EACH_WAY }, (_, index) => amountOf(index))
      .reduce((sum, each) => sum + each, 0n);
    const each = { complete: PAYMENTS_EACH_WAY, failed: 0 };
    assert.deepEqual(flows, {
      fromAlice: { ...each, msat: sent },
      fromBob: { ...each, msat: sent + BigInt(PAYMENTS_EACH_WAY) },
    });
    await closeAndCompare(world, channelId, "alice");
  }, { options: MANY_SLOTS }));

Deno.test("a payment is complete on both sides when pay answers, and the channel is clean soon after", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const before = await balancesOf(world, [channelId]);
    const { bolt11 } = await makeInvoice(bob, 1_000_001n);
    await pay(alice, bolt11);
    assert.equal((await flowBetween(alice, bob)).complete, 1);
    await nothingLost(world, [channelId], before);
    assert.equal(await underWay(alice), "");
  }));

Deno.test("more payments at once than the channel has slots: all arrive, nothing is lost", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const before = await balancesOf(world, [channelId]);
    const payments = 40;
    await Promise.all(Array.from({ length: payments }, () => payNew(alice, bob, 1_000_000n)));
    const { fromAlice } = await nothingLost(world, [channelId], before);
    assert.equal(fromAlice.complete, payments);
  }, { options: { "max-concurrent-htlcs": "6" } }));

Deno.test("everything that is spendable goes over and comes back: the reserve stays, and nothing gets stuck", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const before = await balancesOf(world, [channelId]);
    for (const [payer, payee] of [[alice, bob], [bob, alice], [alice, bob]] as const) {
      const { channels } = await payer.rpc.listPeerChannels({});
      const spendable = channels[0]?.spendableMsat?.msat ?? 0n;
      assert.ok(spendable > 0n, `${payer.name} has something to spend`);
      await payNew(payer, payee, spendable);
      await nothingLost(world, [channelId], before);
    }
  }));
