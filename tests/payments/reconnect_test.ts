/**
 * Counterparts of tests that Core Lightning's users know by name: what was said and lost is said again, in the same order,
 * after a reconnection, after a restart, and from stored rows.
 */
import assert from "node:assert/strict";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { ListinvoicesInvoices_ListinvoicesInvoicesStatus as InvoiceStatus } from "gen/cln/node_pb.ts";
import {
  channelOf,
  isConnected,
  until,
  untilConnected,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { fundedAndConnected, normalChannel } from "../lib/channels.ts";
import { reestablished } from "../lib/cuts.ts";
import { type Fault, setFaults, untilFaultsFired } from "../lib/faults.ts";
import {
  balancesOf,
  makeInvoice,
  MANY_SLOTS,
  nothingLost,
  pay,
  PAY_DEADLINE_MS,
  payNew,
  untilSettled,
} from "../lib/payments.ts";
import { channelRows } from "../lib/rows.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

const MSAT = 1_000_000n;

/** '-': before, '+': after. */
const before = (message: string): Fault => ({ action: "close_before", message });
const after = (message: string): Fault => ({ action: "close_after", message });

/** Dials whenever the connection is gone, until the work is done: the daemons would wait for longer and longer. */
async function dialling<T>({ alice, bob }: World, work: Promise<T>): Promise<T> {
  const over = work.then(() => true);
  over.catch(() => {});
  await until("it is done", async () => {
    if (await Promise.race([over, Promise.resolve(false)])) return true;
    if (!await isConnected(alice, bob)) {
      await alice.rpc.connectPeer({ id: `${bob.id}@${bob.address}` }).catch(() => {});
    }
    return false;
  }, PAY_DEADLINE_MS);
  return await work;
}

/** A payment from alice while `node`'s connection breaks at each of these, one after the other: it is paid all the same. */
async function paysThrough(world: World, side: "alice" | "bob", faults: readonly Fault[]): Promise<void> {
  const { alice, bob } = world;
  await fundedAndConnected(world);
  const { channelId } = await normalChannel(world);
  const opening = await balancesOf(world, [channelId]);
  // Each breaks a connection of its own: a reconnection does not say the same message a second time by chance.
  for (const fault of faults) {
    await setFaults(world[side], fault);
    const invoice = await makeInvoice(bob, MSAT);
    const { paymentPreimage } = await dialling(world, pay(alice, invoice.bolt11));
    // Some come after the preimage is known.
    await dialling(world, untilFaultsFired(world[side]));
    const { invoices } = await bob.rpc.listInvoices({ label: invoice.label });
    assert.equal(invoices[0]?.status, InvoiceStatus.PAID);
    assert.deepEqual(invoices[0]?.paymentPreimage, paymentPreimage);
    await untilConnected(alice, bob);
    await nothingLost(world, [channelId], opening);
  }
  // All of them in one payment: every reconnection is interrupted by the next.
  await setFaults(world[side], ...faults.map((fault): Fault => ({ ...fault, nth: 1 })));
  await dialling(world, payNew(alice, bob, MSAT));
  await dialling(world, untilFaultsFired(world[side]));
  await untilConnected(alice, bob);
  await nothingLost(world, [channelId], opening);
}

Deno.test("test_reconnect_sender_add1: the connection breaks at the sender's update_add_htlc", () =>
  worlds.withWorld((world) =>
    paysThrough(world, "alice", [before("update_add_htlc"), after("update_add_htlc")])
  ));

Deno.test(
  "test_reconnect_sender_add: the connection breaks at the sender's commitment_signed and revoke_and_ack",
  () =>
    worlds.withWorld((world) =>
      paysThrough(world, "alice", [
        before("commitment_signed"),
        after("commitment_signed"),
        before("revoke_and_ack"),
        after("revoke_and_ack"),
      ])
    ),
);

Deno.test(
  "test_reconnect_receiver_add: the connection breaks at the receiver's commitment_signed and revoke_and_ack",
  () =>
    worlds.withWorld((world) =>
      paysThrough(world, "bob", [
        before("commitment_signed"),
        after("commitment_signed"),
        before("revoke_and_ack"),
        after("revoke_and_ack"),
      ])
    ),
);

Deno.test(
  "test_reconnect_receiver_fulfill: the connection breaks at every message of the receiver from update_fulfill_htlc on",
  () =>
    worlds.withWorld((world) =>
      paysThrough(world, "bob", [
        before("update_fulfill_htlc"),
        after("update_fulfill_htlc"),
        { action: "close_before", message: "commitment_signed", nth: 2 },
        { action: "close_after", message: "commitment_signed", nth: 2 },
        { action: "close_before", message: "revoke_and_ack", nth: 2 },
        { action: "close_after", message: "revoke_and_ack", nth: 2 },
      ])
    ),
);

/** Ids and hashes of the HTLCs that a node offered, in the order of their ids, history included. */
async function offersOf(node: RunningNode): Promise<{ readonly id: bigint; readonly hash: string }[]> {
  const rows = await node.sql<{ id: bigint; hash: Uint8Array }[]>`
    SELECT id, payment_hash AS hash FROM htlcs WHERE offered
    UNION ALL SELECT id, payment_hash FROM htlc_history WHERE offered ORDER BY id`;
  return rows.map(({ id, hash }) => ({ id, hash: bytesToHex(hash) }));
}

/** The same as the receiver has them. */
async function incomingOf(node: RunningNode): Promise<{ readonly id: bigint; readonly hash: string }[]> {
  const rows = await node.sql<{ id: bigint; hash: Uint8Array }[]>`
    SELECT id, payment_hash AS hash FROM htlcs WHERE NOT offered
    UNION ALL SELECT id, payment_hash FROM htlc_history WHERE NOT offered ORDER BY id`;
  return rows.map(({ id, hash }) => ({ id, hash: bytesToHex(hash) }));
}

Deno.test("test_htlc_retransmit_order: many lost update_add_htlc are said again in their order", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    const payments = 10;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const opening = await balancesOf(world, [channelId]);
    const invoices = await Promise.all(Array.from({ length: payments }, () => makeInvoice(bob, MSAT)));
    // Everything that alice says from the first add on is lost, while more payments pile up behind it.
    await setFaults(alice, { action: "blackhole", message: "update_add_htlc" });
    const paying = Promise.all(invoices.map(({ bolt11 }) => pay(alice, bolt11)));
    await Promise.race([
      paying,
      until("all are offered or wait for the round under way", async () => {
        const [row] = await alice.sql<{ parts: number }[]>`SELECT count(*)::int AS parts FROM live_parts`;
        return row?.parts === payments;
      }),
    ]);
    const first = await until("the first round is stored", async () => {
      const offers = await offersOf(alice);
      return offers.length > 0 && offers;
    });
    assert.deepEqual(await incomingOf(bob), [], "nothing of it arrived");
    await setFaults(alice);
    await alice.rpc.disconnect({ id: bytesOf(bob.id), force: true });
    await paying;
    const offers = await offersOf(alice);
    assert.deepEqual(offers.map(({ id }) => id), offers.map((_, index) => BigInt(index)));
    assert.deepEqual(offers.slice(0, first.length), first, "what was stored kept its ids");
    assert.deepEqual(await incomingOf(bob), offers, "both sides have the same ids");
    await nothingLost(world, [channelId], opening);
  }, { options: MANY_SLOTS }));

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.fromHex(hex);
}

Deno.test("test_restart_multi_htlc_rexmit: a restarted node says its HTLCs again in their order", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const opening = await balancesOf(world, [channelId]);
    await payNew(alice, bob, MSAT);
    await untilSettled(alice, bob);
    const old = (await offersOf(alice)).length;
    const invoices = await Promise.all(Array.from({ length: 3 }, () => makeInvoice(bob, MSAT)));
    await setFaults(alice, { action: "blackhole", message: "update_add_htlc" });
    const answers = invoices.map(({ bolt11 }) => pay(alice, bolt11).catch(() => undefined));
    const stored = await until("HTLCs are stored", async () => {
      const offers = (await offersOf(alice)).slice(old);
      return offers.length > 0 && offers;
    });
    for (const process of alice.processes) await process.kill();
    await Promise.all(answers);
    await alice.start();
    await untilConnected(alice, bob);
    // The payments go on by themselves.
    for (const { label } of invoices) {
      await until(`${label} is paid`, async () => {
        const { invoices: [found] } = await bob.rpc.listInvoices({ label });
        return found?.status === InvoiceStatus.PAID;
      });
    }
    await nothingLost(world, [channelId], opening);
    const offers = (await offersOf(alice)).slice(old);
    assert.deepEqual(offers.slice(0, stored.length), stored, "with the ids that they had");
    assert.deepEqual((await incomingOf(bob)).slice(old), offers);
  }));

Deno.test("test_channel_persistence: a node killed in the midst of an HTLC knows all of it afterwards", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const opening = await balancesOf(world, [channelId]);
    await payNew(alice, bob, MSAT);
    await untilSettled(alice, bob);
    // bob's answer is lost: the HTLC is stored on both sides, irrevocable on neither.
    await setFaults(bob, { action: "blackhole", message: "commitment_signed" });
    const invoice = await makeInvoice(bob, MSAT);
    const paying = pay(alice, invoice.bolt11);
    await until("bob has the HTLC", async () => {
      const rows = await bob.sql`SELECT 1 FROM htlcs WHERE NOT offered`;
      return rows.length === 1;
    });
    for (const process of bob.processes) await process.kill();
    await bob.start();
    await paying;
    await nothingLost(world, [channelId], opening);
    // And both ways, after the other one was restarted too.
    for (const process of alice.processes) await process.kill();
    await alice.start();
    await untilConnected(alice, bob);
    await reestablished(world, channelId);
    await payNew(alice, bob, MSAT);
    await payNew(bob, alice, MSAT);
    const { fromAlice, fromBob } = await nothingLost(world, [channelId], opening);
    assert.deepEqual([fromAlice.complete, fromBob.complete], [3, 1]);
    await untilState(bob, channelId, ChannelState.ChanneldNormal);
  }));

/** A copy of all that a stopped node has: its database, and hsmd's memory if asked for. */
async function snapshot(node: RunningNode, dir: string): Promise<() => Promise<void>> {
  const { database } = node.options;
  const url = await worlds.postgres.createDatabase({ template: database.name });
  const copy = new URL(url).pathname.slice(1);
  const memory = join(dir, `${node.name}-hsmd`);
  await cp(join(node.dir, "hsmd"), memory, { recursive: true });
  return async () => {
    await worlds.postgres.dropDatabase(database.name);
    await worlds.postgres.createDatabase({ name: database.name, template: copy });
    await worlds.postgres.dropDatabase(copy);
    await rm(join(node.dir, "hsmd"), { recursive: true });
    await cp(memory, join(node.dir, "hsmd"), { recursive: true });
  };
}

Deno.test(
  "test_dataloss_protection: a node restored from an old copy of everything learns it from its peer, and does not broadcast",
  () =>
    worlds.withWorld(async (world) => {
      const { alice, bob, chain } = world;
      await fundedAndConnected(world);
      const { channelId } = await normalChannel(world);
      await payNew(alice, bob, MSAT);
      await untilSettled(alice, bob);
      await bob.kill();
      const restore = await snapshot(bob, world.dir);
      await bob.start();
      await untilConnected(alice, bob);
      await reestablished(world, channelId);
      await payNew(alice, bob, MSAT);
      await untilSettled(alice, bob);
      await bob.kill();
      await restore();
      await bob.start();
      const rows = await until("bob knows that his rows are old", async () => {
        const found = await channelRows(bob, channelId);
        return found?.errorText !== null && found;
      });
      assert.ok(rows?.errorText, "the channel failed");
      const [lost] = await bob.sql<{ dataLoss: boolean }[]>`
        SELECT data_loss AS "dataLoss" FROM channels WHERE channel_id = ${bytesOf(channelId)}`;
      assert.equal(lost?.dataLoss, true, "and bob knows why");
      // bob's commitment is revoked: neither the error nor the next block makes him broadcast it.
      await chain.mine(1);
      await untilSynced(chain, alice, bob);
      const channel = await channelOf(bob, channelId);
      const unspent = await chain.rpc<unknown>("gettxout", [
        bytesToHex(channel?.fundingTxid ?? new Uint8Array()),
        channel?.fundingOutnum ?? 0,
      ]);
      assert.ok(unspent, "the funding output is unspent, in the chain and in the mempool");
    }),
);
