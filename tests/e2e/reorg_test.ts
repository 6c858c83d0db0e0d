/** Blocks that are undone after the channel was locked in. A reorg never unlocks: the channel pauses, or freezes. */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import {
  bumpChannel,
  type Candidate,
  channelOf,
  until,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { assertBalances, bothNormal, fundedAndConnected, OPEN_SAT, openedChannel } from "../lib/channels.ts";
import { channelRows } from "../lib/rows.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** Why channeld would make no update now; "" when it would. Undefined while it does not hold the channel. */
async function pausedAt(node: RunningNode, channelId: string): Promise<string | undefined> {
  const { channels } = await node.channeld.listChannels({});
  return channels.find((channel) => bytesToHex(channel.channelId) === channelId)?.paused;
}

async function untilPaused({ alice, bob }: World, candidate: Candidate, why: RegExp | ""): Promise<void> {
  for (const node of [alice, bob]) {
    await until(`${node.name} ${why === "" ? "usable" : `paused: ${why}`}`, async () => {
      const paused = await pausedAt(node, candidate.channelId);
      return paused !== undefined && (why === "" ? paused === "" : why.test(paused));
    });
  }
}

/** A channel whose candidate is in the newest block, alone: a reorg of one block undoes just that. */
async function lockedIn(world: World, candidate: Candidate): Promise<void> {
  await world.chain.mineWith([candidate.tx]);
  await bothNormal(world, candidate);
  await untilPaused(world, candidate, "");
}

async function scidOf(node: RunningNode, { channelId }: Candidate): Promise<string | undefined> {
  return (await channelOf(node, channelId))?.shortChannelId;
}

Deno.test("a reorg after CHANNELD_NORMAL pauses the channel, and back on the same attempt it goes on", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const candidate = await openedChannel(world);
    await lockedIn(world, candidate);
    const before = await scidOf(alice, candidate);
    await chain.reorg(1);
    await untilSynced(chain, alice, bob);
    await untilPaused(world, candidate, /no longer confirmed/);
    for (const node of [alice, bob]) {
      assert.equal((await channelRows(node, candidate.channelId))?.locked, candidate.txid);
      assert.equal((await channelRows(node, candidate.channelId))?.state, "CHANNELD_NORMAL");
    }
    await chain.mineWith([candidate.tx]);
    await untilPaused(world, candidate, "");
    await bothNormal(world, candidate);
    await assertBalances(world, candidate.channelId, { alice: OPEN_SAT, bob: OPEN_SAT });
    const after = await scidOf(alice, candidate);
    assert.notEqual(after, before, "the short channel id follows the block");
    assert.equal(await scidOf(bob, candidate), after);
  }));

Deno.test("a reorg after CHANNELD_NORMAL to a sibling freezes the channel, and nothing is relocked", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const first = await openedChannel(world);
    const second = await bumpChannel(alice, first.channelId, { sat: OPEN_SAT + 100_000n, perkw: 3_000 });
    for (const node of [alice, bob]) {
      await untilState(node, first.channelId, ChannelState.DualopendAwaitingLockin);
    }
    await lockedIn(world, first);
    await chain.reorg(1);
    await untilSynced(chain, alice, bob);
    await untilPaused(world, first, /no longer confirmed/);
    await chain.mineWith([second.tx]);
    for (const node of [alice, bob]) {
      const row = await until(`${node.name} freezes`, async () => {
        const rows = await channelRows(node, first.channelId);
        return rows?.errorText !== null && rows;
      });
      assert.match(row?.errorText ?? "", /another funding/);
      assert.equal(row?.locked, first.txid, node.name);
    }
  }));

Deno.test("a reorg before the lock takes the confirmation back, and the other candidate may fund the channel", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const first = await openedChannel(world);
    const second = await bumpChannel(alice, first.channelId, { sat: OPEN_SAT + 100_000n, perkw: 3_000 });
    await chain.mineWith([first.tx]);
    await untilSynced(chain, alice, bob);
    await chain.reorg(1);
    await untilSynced(chain, alice, bob);
    // Two blocks are needed here: nothing was locked on the first candidate.
    for (const node of [alice, bob]) {
      assert.equal((await channelRows(node, first.channelId))?.locked, null, node.name);
    }
    await chain.mineWith([second.tx]);
    await chain.mineEmpty(1);
    await bothNormal(world, second);
    await assertBalances(world, first.channelId, { alice: OPEN_SAT + 100_000n, bob: OPEN_SAT + 100_000n });
  }, { options: { "funding-confirms": "2" } }));
