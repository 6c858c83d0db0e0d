/** The shortest whole story, in both layouts. */
import assert from "node:assert/strict";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { channelOf, openStepByStep } from "tools/node/commands.ts";
import {
  assertBalances,
  bothNormal,
  fundedAndConnected,
  normalChannel,
  OPEN_PERKW,
  OPEN_SAT,
  untilInMempool,
} from "../lib/channels.ts";
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();

for (const layout of ["processes", "one"] as const) {
  Deno.test(`two nodes fund a channel and use it: layout ${layout}`, () =>
    worlds.withWorld(async (world) => {
      await fundedAndConnected(world);
      const candidate = await normalChannel(world);
      await assertBalances(world, candidate.channelId, { alice: OPEN_SAT, bob: OPEN_SAT });
      const channel = await channelOf(world.alice, candidate.channelId);
      assert.equal(channel?.state, ChannelState.ChanneldNormal);
      assert.equal(channel.owner, "channeld");
    }, { layout }));
}

Deno.test("openchannel_init, _update and _signed give the same channel", () =>
  worlds.withWorld(async (world) => {
    await fundedAndConnected(world);
    const candidate = await openStepByStep(world.alice, world.bob, { sat: OPEN_SAT, perkw: OPEN_PERKW });
    await untilInMempool(world, candidate.txid);
    await world.chain.mine(1);
    await bothNormal(world, candidate);
    await assertBalances(world, candidate.channelId, { alice: OPEN_SAT, bob: OPEN_SAT });
  }));
