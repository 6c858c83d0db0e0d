/**
 * Each daemon that a close needs is killed with -9 while the close is negotiated, on separate processes, and started again.
 * Both then have the same close, whatever was said and stored before.
 */
import assert from "node:assert/strict";
import { hexToBytes } from "@noble/hashes/utils.js";
import { spendable, untilSynced } from "tools/node/commands.ts";
import type { DaemonName } from "tools/node/daemons.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { fundedAndConnected, normalChannel, OPEN_SAT } from "../lib/channels.ts";
import { assertClosedByBoth, close, storedClose } from "../lib/closing.ts";
import { generationsOf, reconnected } from "../lib/cuts.ts";
import { setFaults, untilFaultsFired } from "../lib/faults.ts";
import { logsOf, useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();
const CAPACITY = 2n * OPEN_SAT;
const DAEMONS: readonly DaemonName[] = ["closingd", "channeld", "lightningd", "hsmd", "connectd"];

/** Who loses which word, and whose daemon dies. */
const POINTS = [
  { speaker: "alice", message: "shutdown" },
  { speaker: "alice", message: "closing_signed" },
  { speaker: "bob", message: "closing_signed" },
] as const;

/** Starts what was killed, and connects the two anew: what the blackhole swallowed is not said again on this connection. */
async function recovered(world: World, killed: RunningNode): Promise<void> {
  const { alice, bob, chain } = world;
  await killed.start();
  await untilSynced(chain, alice, bob);
  for (const node of [alice, bob]) await setFaults(node);
  const before = await generationsOf(world);
  await alice.rpc.disconnect({ id: hexToBytes(bob.id), force: true }).catch(() => {});
  await reconnected(world, before);
}

for (const daemon of DAEMONS) {
  Deno.test(`${daemon} is killed while a close is negotiated`, async (t) => {
    await worlds.withWorld(async (world) => {
      await fundedAndConnected(world, 4);
      for (const { speaker, message } of POINTS) {
        await t.step(`${speaker}'s ${message} is lost, and ${speaker}'s ${daemon} dies`, async () => {
          const { alice, bob } = world;
          const { channelId } = await normalChannel(world);
          const before = await Promise.all([alice, bob].map(spendable));
          const victim = world[speaker];
          await setFaults(victim, { action: "blackhole", message });
          const closing = close(alice, channelId).catch(() => {});
          await untilFaultsFired(victim);
          await victim.daemon(daemon).kill();
          await recovered(world, victim).catch((error) => {
            throw new Error(`${error.message}\n${logsOf([alice, bob])}`, { cause: error });
          });
          const fee = await assertClosedByBoth(world, channelId, CAPACITY, before);
          assert(fee > 0n && fee < 5_000n, `a fee of ${fee} sat`);
          await closing;
          await storedClose(alice, channelId);
        });
      }
    }, { layout: "processes" });
  });
}
