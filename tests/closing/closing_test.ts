/** Closing a channel of two nodes on real parts: together, alone, and through whatever comes between. */
import assert from "node:assert/strict";
import { hexToBytes } from "@noble/hashes/utils.js";
import { address as addresses, networks } from "bitcoinjs-lib";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { connect, spendable, until, untilConnected, untilSynced } from "tools/node/commands.ts";
import { CLOSE_DEPTH } from "../../services/lightningd/closing/room.ts";
import {
  fundedAndConnected,
  normalChannel,
  OPEN_SAT,
  openedChannel,
  untilInMempool,
} from "../lib/channels.ts";
import {
  assertClosedByBoth,
  close,
  CloseType,
  decoded,
  storedClose,
  txidOf,
  untilClosing,
} from "../lib/closing.ts";
import { setFaults, untilFaultsFired } from "../lib/faults.ts";
import { makeInvoice, pay, payNew, untilSettled } from "../lib/payments.ts";
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();
const CAPACITY = 2n * OPEN_SAT;
/** Of a payment whose HTLC is an output. */
const PAID_MSAT = 50_000_000n;

for (const layout of ["one", "processes"] as const) {
  Deno.test(`both close a channel, and after ${CLOSE_DEPTH} blocks it is history: layout ${layout}`, async () => {
    await worlds.withWorld(async (world) => {
      const { alice, bob, chain } = world;
      await fundedAndConnected(world);
      const { channelId } = await normalChannel(world);
      const before = await Promise.all([alice, bob].map(spendable));
      const closed = await close(alice, channelId);
      assert.equal(closed.itemType, CloseType.MUTUAL);
      assert.equal(txidOf(closed), await storedClose(bob, channelId));
      const tx = await decoded(world, closed.txs[0]!);
      assert.equal(tx.version, 2);
      assert.equal(tx.locktime, 0);
      assert.equal(tx.vin[0]!.sequence, 0xffff_ffff);
      const fee = await assertClosedByBoth(world, channelId, CAPACITY, before);
      assert(fee > 0n && fee < 5_000n, `a fee of ${fee} sat`);
      // The peer said nothing wrong: they are still connected.
      await untilConnected(alice, bob);

      await chain.mine(CLOSE_DEPTH - 1);
      await untilSynced(chain, alice, bob);
      for (const node of [alice, bob]) {
        await until(`${node.name} has it in listclosedchannels`, async () => {
          const { closedchannels } = await node.rpc.listClosedChannels({});
          return closedchannels.length === 1;
        });
        const { closedchannels: [channel] } = await node.rpc.listClosedChannels({});
        assert.equal(channel!.totalMsat!.msat, CAPACITY * 1000n);
        assert.equal(channel!.finalToUsMsat!.msat, OPEN_SAT * 1000n);
        assert.equal(channel!.lastCommitmentFeeMsat!.msat, fee * 1000n);
        assert.deepEqual((await node.rpc.listPeerChannels({})).channels, []);
      }
    }, { layout });
  });
}

Deno.test("close to an address of somebody else's pays there", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const destination = addresses.toBech32(new Uint8Array(20).fill(7), 0, networks.regtest.bech32);
    const closed = await close(bob, channelId, { destination });
    assert.equal(closed.itemType, CloseType.MUTUAL);
    const tx = await decoded(world, closed.txs[0]!);
    const paid = tx.vout.map((out) =>
      (out as unknown as { scriptPubKey: { address: string } }).scriptPubKey.address
    );
    assert(paid.includes(destination));
    await untilInMempool(world, txidOf(closed));
    await storedClose(alice, channelId);
  });
});

Deno.test("close while the peer is away: alone once the time is over, and never again used", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    await bob.stop();
    const closed = await close(alice, channelId, { timeout: 1 });
    assert.equal(closed.itemType, CloseType.UNILATERAL);
    const txid = txidOf(closed);
    await untilInMempool(world, txid);
    await untilClosing(alice, channelId, ChannelState.AwaitingUnilateral);
    // A restart sends the same again: it is signed anew, never stored.
    await alice.stop();
    await alice.start();
    const again = await close(alice, channelId, { timeout: 1 });
    assert.equal(txidOf(again), txid);

    await bob.start();
    await connect(alice, bob);
    await chain.mine(1);
    await untilSynced(chain, alice, bob);
    for (const node of [alice, bob]) await untilClosing(node, channelId, ChannelState.FundingSpendSeen);
    const [end] = await bob.sql<{ kind: string }[]>`SELECT kind FROM channel_ends`;
    assert.equal(end?.kind, "unilateral");
  });
});

Deno.test("unilateraltimeout survives a restart of lightningd", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    await bob.stop();
    const waiting = close(alice, channelId, { timeout: 3 }).catch(() => {});
    await until("the decision is a row", async () => (await alice.sql`SELECT FROM closings`).length === 1);
    await alice.kill();
    await waiting;
    await alice.start();
    await untilClosing(alice, channelId, ChannelState.AwaitingUnilateral);
    const txid = txidOf(await close(alice, channelId, { timeout: 1 }));
    await untilInMempool(world, txid);
  });
});

Deno.test("test_you_forgot_closed_channel: who lost the last closing_signed is answered with the same close", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const before = await Promise.all([alice, bob].map(spendable));
    await setFaults(bob, { action: "close_before", message: "closing_signed" });
    const closing = close(alice, channelId);
    await untilFaultsFired(bob);
    assert.equal(
      await untilClosing(bob, channelId, ChannelState.ClosingdComplete),
      ChannelState.ClosingdComplete,
    );
    const first = await storedClose(bob, channelId);
    await connect(alice, bob);
    const closed = await closing;
    assert.equal(txidOf(closed), first);
    await assertClosedByBoth(world, channelId, CAPACITY, before);
  });
});

Deno.test("shutdown before lock-in closes on the attempt that locks (test_shutdown_awaiting_lockin)", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const { channelId } = await openedChannel(world);
    const before = await Promise.all([alice, bob].map(spendable));
    const closing = close(alice, channelId);
    await until("bob has alice's shutdown", async () => {
      const [row] = await bob.sql<{ shutdown_received: Uint8Array | null }[]>`
        SELECT shutdown_received FROM channels WHERE channel_id = ${hexToBytes(channelId)}`;
      return row?.shutdown_received !== null && row?.shutdown_received !== undefined;
    });
    await chain.mine(1);
    const closed = await closing;
    assert.equal(closed.itemType, CloseType.MUTUAL);
    await assertClosedByBoth(world, channelId, CAPACITY, before);
  });
});

Deno.test("a reorg takes a close back, and a block brings it again", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const txid = txidOf(await close(alice, channelId));
    await storedClose(bob, channelId);
    await untilInMempool(world, txid);
    await chain.mine(1);
    for (const node of [alice, bob]) await untilClosing(node, channelId, ChannelState.Onchain);
    await chain.reorg(1);
    for (const node of [alice, bob]) await untilClosing(node, channelId, ChannelState.ClosingdComplete);
    await untilInMempool(world, txid);
    await chain.mine(1);
    for (const node of [alice, bob]) await untilClosing(node, channelId, ChannelState.Onchain);
  });
});

Deno.test("a channel whose state is known to be old is never broadcast", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    await bob.stop();
    await alice.sql`UPDATE channels SET data_loss = true, error_text = 'test'`;
    await assert.rejects(close(alice, channelId, { timeout: 1 }), /our state of this channel is old/);
    // Also where the decision is there already.
    await alice.sql`INSERT INTO closings (channel, deadline) SELECT channel, now() FROM channels`;
    await alice.kill();
    await alice.start();
    await until("its deadline is over", async () => {
      const [row] = await alice.sql<{ over: boolean }[]>`SELECT deadline < now() AS over FROM closings`;
      return row?.over;
    });
    const [row] = await alice.sql<{ state: string }[]>`SELECT state FROM channels`;
    assert.equal(row?.state, "CHANNELD_NORMAL");
    assert.deepEqual(await world.chain.rpc("getrawmempool"), []);
  });
});

Deno.test("close: what cannot be is refused with Core Lightning's codes", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    await assert.rejects(close(alice, bob.id), /no channel that can be closed/);
    await assert.rejects(close(alice, "00"), /should be a node id or a channel id/);
    const { channelId } = await normalChannel(world);
    const refused: readonly [Parameters<typeof alice.rpc.close>[0], RegExp][] = [
      [{ id: channelId, feeNegotiationStep: "200%" }, /fee_negotiation_step/],
      [{ id: channelId, wrongFunding: { txid: new Uint8Array(32), outnum: 0 } }, /wrong_funding/],
      [{ id: channelId, destination: "nonsense" }, /address/],
      [{ id: channelId, feerange: [{ style: { case: "slow", value: true } }] }, /feerange/],
    ];
    for (const [request, reason] of refused) await assert.rejects(alice.rpc.close(request), reason);
    assert.equal((await alice.sql`SELECT FROM closings`).length, 0);
  });
});

Deno.test("our own commitment goes to the chain with the HTLC that is in it", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    const invoice = await makeInvoice(bob, PAID_MSAT);
    await setFaults(bob, { action: "blackhole", message: "update_fulfill_htlc" });
    const paying = pay(alice, invoice.bolt11).catch(() => {});
    await untilFaultsFired(bob);
    await bob.stop();
    const closed = await close(alice, channelId, { timeout: 1 });
    assert.equal(closed.itemType, CloseType.UNILATERAL);
    await untilInMempool(world, txidOf(closed));
    const tx = await decoded(world, closed.txs[0]!);
    // Both anchors, to_local, to_remote, and the HTLC.
    assert.equal(tx.vout.length, 5);
    assert(tx.vout.some(({ value }) => BigInt(Math.round(value * 1e8)) === PAID_MSAT / 1000n));
    const [frozen] = await alice.sql<{ state: string; error: string }[]>`
      SELECT state, error_text AS error FROM channels`;
    assert.equal(frozen?.state, "AWAITING_UNILATERAL");
    assert.match(frozen.error, /Forcibly closed/);
    await chain.mine(1);
    await untilClosing(alice, channelId, ChannelState.FundingSpendSeen);
    await alice.kill();
    await paying;
  });
});

Deno.test("a channel that was used closes for what is whose, also when the connection breaks in between", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const { channelId } = await normalChannel(world);
    for (let i = 0; i < 3; i++) await payNew(alice, bob, PAID_MSAT);
    await payNew(bob, alice, PAID_MSAT);
    await untilSettled(alice, bob);
    const before = await Promise.all([alice, bob].map(spendable));
    await setFaults(bob, { action: "close_after", message: "shutdown" });
    const closing = close(alice, channelId);
    await untilFaultsFired(bob);
    await connect(alice, bob);
    const closed = await closing;
    assert.equal(closed.itemType, CloseType.MUTUAL);
    const fee = await assertClosedByBoth(world, channelId, CAPACITY, before);
    const moved = 2n * PAID_MSAT / 1000n;
    const after = await Promise.all([alice, bob].map(spendable));
    assert.deepEqual(after.map((sat, i) => sat - before[i]!), [OPEN_SAT - moved - fee, OPEN_SAT + moved]);
  });
});
