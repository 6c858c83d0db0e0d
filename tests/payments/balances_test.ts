/** Payments both ways over one channel, and every millisatoshi accounted for. */
import assert from "node:assert/strict";
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
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();

const PAYMENTS_EACH_WAY = 200;
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

Deno.test("200 payments each way, concurrently: balances exact to the msat on both sides", () =>
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
