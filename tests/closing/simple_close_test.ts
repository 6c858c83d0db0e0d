/**
 * option_simple_close between two nodes on real parts: each offers a close that it pays for, and signs the other one; either is
 * mined. The connection breaks before and after every message.
 */
import assert from "node:assert/strict";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { spendable, until, untilSynced } from "tools/node/commands.ts";
import { fundedAndConnected, normalChannel, OPEN_SAT } from "../lib/channels.ts";
import { close, CloseType, decoded, untilClosing } from "../lib/closing.ts";
import { cutsAt, generationsOf, nameOfCut, reconnected, recordMessages } from "../lib/cuts.ts";
import { setFaults, untilFaultsFired } from "../lib/faults.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();
const CAPACITY = 2n * OPEN_SAT;

async function settled(world: World, channelId: string, before: readonly bigint[]): Promise<void> {
  const { alice, bob, chain } = world;
  for (const node of [alice, bob]) {
    await untilClosing(node, channelId, ChannelState.ClosingdComplete, ChannelState.Onchain);
  }
  await chain.mine(1);
  await untilSynced(chain, alice, bob);
  for (const node of [alice, bob]) await untilClosing(node, channelId, ChannelState.Onchain);
  const after = await Promise.all([alice, bob].map(spendable));
  const gained = after.map((sat, i) => sat - before[i]!);
  const fee = CAPACITY - gained.reduce((sum, sat) => sum + sat, 0n);
  assert(fee > 0n && fee < 5_000n, `a fee of ${fee} sat`);
}

Deno.test("simple close: both offer, one is mined", async (t) => {
  await worlds.withWorld(async (world) => {
    await fundedAndConnected(world, 16);
    const { alice, bob } = world;
    const { channelId } = await normalChannel(world);
    const before = await Promise.all([alice, bob].map(spendable));
    const said = await recordMessages(world, async () => {
      const closed = await close(alice, channelId);
      assert.equal(closed.itemType, CloseType.MUTUAL);
      const tx = await decoded(world, closed.txs[0]!);
      assert.equal(tx.vin[0]!.sequence, 0xffff_fffd);
      // There are two, and the mempool takes whichever came first.
      await until(
        "a close is in the mempool",
        async () => (await world.chain.rpc<string[]>("getrawmempool")).length > 0,
      );
      await untilClosing(bob, channelId, ChannelState.ClosingdComplete);
    });
    await settled(world, channelId, before);
    assert.equal(said.filter(({ message }) => message === "closing_complete").length, 2);
    assert.equal(said.filter(({ message }) => message === "closing_sig").length, 2);
    for (const cut of cutsAt(said)) {
      await t.step(nameOfCut(cut), async () => {
        const { channelId } = await normalChannel(world);
        const before = await Promise.all([alice, bob].map(spendable));
        const generations = await generationsOf(world);
        await setFaults(world[cut.from], { action: cut.action, message: cut.message });
        const closing = close(alice, channelId);
        closing.catch(() => {});
        await untilFaultsFired(world[cut.from]);
        await reconnected(world, generations);
        assert.equal((await closing).itemType, CloseType.MUTUAL);
        await settled(world, channelId, before);
      });
    }
  }, { options: { "log-level": "trace", "simple-close": "true" } });
});
