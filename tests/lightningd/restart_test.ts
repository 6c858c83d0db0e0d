/** lightningd ends by kill -9 and comes back: connectd, dualopend and channeld outlive it with all that they hold. */
import assert from "node:assert/strict";
import { client } from "common/grpc/client.ts";
import { Channeld } from "gen/arcus/channeld/v1/channeld_pb.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { channelOf, openStepByStep, until, untilState } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import {
  bothNormal,
  fundedAndConnected,
  normalChannel,
  OPEN_PERKW,
  OPEN_SAT,
  openedChannel,
} from "../lib/channels.ts";
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();

/** The generations and attachments that connectd holds. */
async function held(node: RunningNode) {
  const { peers } = await node.connectd.listPeers({});
  return peers.map(({ generation, attachments }) => ({
    generation,
    attachments: attachments.map(({ epoch, subdInstance }) => ({ epoch, subdInstance })),
  }));
}

Deno.test("a killed lightningd drops no peer, and moves no channel that is in use", () =>
  worlds.withWorld(async (world) => {
    await fundedAndConnected(world);
    const candidate = await normalChannel(world);
    const channeld = await until("channeld has it", async () => {
      const { channels } = await client(Channeld, world.alice.channel("channeld")).listChannels({});
      return channels.find((channel) => channel.connected);
    });
    const before = await held(world.alice);
    assert.equal(before[0]?.attachments[0]?.epoch, channeld.epoch);
    await world.alice.restart("lightningd");
    const channel = await until("its owner is known again", async () => {
      const found = await channelOf(world.alice, candidate.channelId);
      return found?.owner === "channeld" && found.peerConnected === true ? found : undefined;
    });
    assert.equal(channel.state, ChannelState.ChanneldNormal);
    assert.deepEqual(await held(world.alice), before);
  }, { layout: "processes" }));

Deno.test("a channel whose block comes while lightningd is dead locks in once it is back", () =>
  worlds.withWorld(async (world) => {
    await fundedAndConnected(world);
    const candidate = await openedChannel(world);
    const before = await held(world.alice);
    await world.alice.daemon("lightningd").kill();
    await world.chain.mine(1);
    await untilState(world.bob, candidate.channelId, ChannelState.DualopendAwaitingLockin);
    await world.alice.start();
    await bothNormal(world, candidate);
    assert.equal((await held(world.alice))[0]?.generation, before[0]?.generation, "the same connection");
  }, { layout: "processes" }));

Deno.test("an open outlives the accepter's lightningd", () =>
  worlds.withWorld(async (world) => {
    await fundedAndConnected(world);
    const candidate = await openStepByStep(world.alice, world.bob, { sat: OPEN_SAT, perkw: OPEN_PERKW });
    await world.bob.restart("lightningd");
    await world.chain.mine(1);
    await bothNormal(world, candidate);
  }, { layout: "processes" }));
