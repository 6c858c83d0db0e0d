/**
 * Each daemon is killed with -9 at five named points of a channel's opening, on separate processes, and started again. The
 * open then completes, or both sides have forgotten it, as BOLT 2 says; and the node works as before.
 */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import {
  bumpChannel,
  channelOf,
  connect,
  isConnected,
  openChannel,
  until,
  untilConnected,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import { DAEMON_NAMES, type DaemonName } from "tools/node/daemons.ts";
import {
  bothNormal,
  fundedAndConnected,
  OPEN_PERKW,
  OPEN_SAT,
  openedChannel,
  untilInMempool,
} from "../lib/channels.ts";
import { setFaults, untilFaultsFired } from "../lib/faults.ts";
import { generationOf } from "../lib/rows.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** Starts what was killed, and waits until the two are connected again, if they have a reason to be; else connects them. */
async function recovered({ alice, bob, chain }: World): Promise<void> {
  await alice.start();
  await untilSynced(chain, alice, bob);
  const channels = async () => (await alice.rpc.listPeerChannels({ id: hexToBytes(bob.id) })).channels.length;
  if (await channels() === 0 && !await isConnected(alice, bob)) await connect(alice, bob);
  await untilConnected(alice, bob);
  await untilConnected(bob, alice);
}

/** The channel of an open that was interrupted; undefined when both have forgotten it. */
async function whatBecame({ alice, bob }: World): Promise<string | undefined> {
  return await until("both sides agree that there is a channel, or none", async () => {
    const [ours, theirs] = await Promise.all([alice, bob].map(async (node) => {
      const { channels } = await node.rpc.listPeerChannels({});
      return channels.map(({ state, channelId }) =>
        `${ChannelState[state]} ${bytesToHex(channelId ?? new Uint8Array())}`
      ).join();
    }));
    if (ours !== theirs) return undefined;
    if (ours === "") return { channelId: undefined };
    const [state, channelId] = ours?.split(" ") ?? [];
    return state === "DualopendAwaitingLockin" && { channelId };
  }, 60_000).then(({ channelId }) => channelId);
}

/** The open of a point, cut off from the peer at one of alice's messages and then interrupted by a kill; then it completes or is begun anew, and ends in CHANNELD_NORMAL. */
async function interruptedOpen(world: World, daemon: DaemonName, lost: string): Promise<void> {
  const { alice, bob, chain } = world;
  await fundedAndConnected(world);
  await setFaults(alice, { action: "blackhole", message: lost });
  const opening = openChannel(alice, bob, { sat: OPEN_SAT, perkw: OPEN_PERKW }).catch((error) => error);
  await untilFaultsFired(alice);
  await alice.daemon(daemon).kill();
  await setFaultsIfThere(world);
  await recovered(world);
  // What a killed daemon did not end is stuck for as long as the peer waits: begin anew.
  await hangUp(world);
  await opening;
  await recovered(world);
  const channelId = await whatBecame(world);
  const saved = lost === "commitment_signed" || lost === "tx_signatures";
  if (!saved) assert.equal(channelId, undefined, "an open that was not saved is forgotten");
  const candidate = channelId === undefined
    ? await openedChannel(world)
    : { channelId, txid: await fundingOf(world, channelId), tx: "" };
  await untilInMempool(world, candidate.txid);
  await chain.mine(1);
  await bothNormal(world, candidate);
}

async function fundingOf({ alice }: World, channelId: string): Promise<string> {
  return bytesToHex((await channelOf(alice, channelId))?.fundingTxid ?? new Uint8Array());
}

/** Ends the connection that is there, which may hear nothing any more. */
async function hangUp({ alice, bob }: World): Promise<void> {
  const before = await generationOf(alice, bob);
  if (before === undefined) return;
  await alice.rpc.disconnect({ id: hexToBytes(bob.id), force: true }).catch(() => {});
  await until("the old connection is gone", async () => await generationOf(alice, bob) !== before);
}

async function setFaultsIfThere({ alice }: World): Promise<void> {
  if (alice.daemon("connectd").running) await setFaults(alice);
}

/** Named points of a channel's opening, each with what alice does there and what must follow. */
const POINTS: Readonly<Record<string, (world: World, daemon: DaemonName) => Promise<void>>> = {
  "while the transaction is negotiated": (world, daemon) => interruptedOpen(world, daemon, "tx_add_output"),
  "when our commitment_signed is stored and lost": (world, daemon) =>
    interruptedOpen(world, daemon, "commitment_signed"),
  "when our tx_signatures is stored and lost": (world, daemon) =>
    interruptedOpen(world, daemon, "tx_signatures"),
  "while a replacement is negotiated": async (world, daemon) => {
    const { alice, chain } = world;
    await fundedAndConnected(world);
    const first = await openedChannel(world);
    await setFaults(alice, { action: "blackhole", message: "tx_complete" });
    const bump = bumpChannel(alice, first.channelId, { sat: OPEN_SAT + 100_000n, perkw: 3_000 }).catch(
      (error) => error,
    );
    await untilFaultsFired(alice);
    await alice.daemon(daemon).kill();
    await setFaultsIfThere(world);
    await recovered(world);
    await hangUp(world);
    await bump;
    await recovered(world);
    await chain.mineWith([first.tx]);
    await bothNormal(world, first);
  },
  "when the channel is locked in": async (world, daemon) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const candidate = await openedChannel(world);
    await setFaults(alice, { action: "blackhole", message: "channel_ready" });
    await chain.mine(1);
    await untilFaultsFired(alice);
    await alice.daemon(daemon).kill();
    await setFaultsIfThere(world);
    await recovered(world);
    await hangUp(world);
    await recovered(world);
    await bothNormal(world, candidate);
    for (const node of [alice, bob]) {
      await until(
        `${node.name}'s channeld has it`,
        async () => (await node.channeld.listChannels({})).channels.some((channel) => channel.paused === ""),
      );
      await untilState(node, candidate.channelId, ChannelState.ChanneldNormal);
    }
  },
};

for (const daemon of DAEMON_NAMES) {
  for (const [point, work] of Object.entries(POINTS)) {
    Deno.test(`${daemon} is killed ${point}`, () =>
      worlds.withWorld((world) => work(world, daemon), { layout: "processes" }));
  }
}
