/** Payments over several channels to one peer. */
import assert from "node:assert/strict";
import { hexToBytes } from "@noble/hashes/utils.js";
import { openChannel } from "tools/node/commands.ts";
import { bothNormal, fundedAndConnected, OPEN_PERKW, untilInMempool } from "../lib/channels.ts";
import { setFaults } from "../lib/faults.ts";
import { balancesOf, failureOf, forgottenInvoice, makeInvoice, nothingLost, pay } from "../lib/payments.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

const CHANNEL_SAT = 60_000n;
/** More than one channel carries, less than both. */
const MSAT = 90_000_001n;

async function twoChannels(world: World): Promise<string[]> {
  const { alice, bob, chain } = world;
  await fundedAndConnected(world);
  const ids = [];
  for (let count = 0; count < 2; count++) {
    const candidate = await openChannel(alice, bob, { sat: CHANNEL_SAT, perkw: OPEN_PERKW });
    await untilInMempool(world, candidate.txid);
    await chain.mine(1);
    await bothNormal(world, candidate);
    ids.push(candidate.channelId);
  }
  return ids;
}

const AT_ONCE = { options: { "max-opens-per-peer": "10" } };

Deno.test("a payment that is too large for one channel goes over two, in parts, and is paid once", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    const ids = await twoChannels(world);
    const before = await balancesOf(world, ids);
    const invoice = await makeInvoice(bob, MSAT);
    const paid = await pay(alice, invoice.bolt11);
    assert.ok(paid.parts >= 2, `${paid.parts} parts`);
    assert.equal(paid.amountSentMsat?.msat, MSAT);
    const { fromAlice } = await nothingLost(world, ids, before);
    assert.deepEqual(fromAlice, { complete: 1, failed: 0, msat: MSAT });
  }, AT_ONCE));

Deno.test("parts whose connection breaks: all arrive, or none", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    const ids = await twoChannels(world);
    const before = await balancesOf(world, ids);
    const invoice = await makeInvoice(bob, MSAT);
    await setFaults(
      alice,
      { action: "close_after", message: "commitment_signed" },
      { action: "close_before", message: "revoke_and_ack" },
    );
    await pay(alice, invoice.bolt11);
    const { fromAlice } = await nothingLost(world, ids, before);
    assert.deepEqual(fromAlice, { complete: 1, failed: 0, msat: MSAT });
  }, AT_ONCE));

Deno.test("parts that the payee refuses all come back", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    const ids = await twoChannels(world);
    const before = await balancesOf(world, ids);
    const { bolt11 } = await forgottenInvoice(bob, MSAT);
    assert.equal((await failureOf(pay(alice, bolt11))).clnCode, 203);
    const { fromAlice } = await nothingLost(world, ids, before);
    assert.equal(fromAlice.complete, 0);
  }, AT_ONCE));

Deno.test("more than all channels carry: no part is sent, and the caller is told", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    const ids = await twoChannels(world);
    const before = await balancesOf(world, ids);
    const { bolt11 } = await makeInvoice(bob, 200_000_000n);
    const failure = await failureOf(pay(alice, bolt11, 2));
    assert.ok([205, 210].includes(failure.clnCode ?? 0), `${failure.clnCode}: ${failure.message}`);
    const { fromAlice } = await nothingLost(world, ids, before);
    assert.equal(fromAlice.complete, 0);
    const { channels } = await alice.rpc.listPeerChannels({ id: hexToBytes(bob.id) });
    assert.ok(channels.every(({ htlcs }) => htlcs.length === 0));
  }, AT_ONCE));
