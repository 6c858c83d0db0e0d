/**
 * test_closing_negotiation_reconnect: the connection breaks before and after every message of a close, whoever says it, and
 * comes back. Then both have the same close. The rows come from a recorded run, so that no message is missing; more rows break
 * the new connection once more, while the close starts again.
 */
import assert from "node:assert/strict";
import { connect, spendable } from "tools/node/commands.ts";
import { fundedAndConnected, normalChannel, OPEN_SAT } from "../lib/channels.ts";
import { assertClosedByBoth, close, CloseType } from "../lib/closing.ts";
import { type Cut, cutsAt, nameOfCut, recordMessages } from "../lib/cuts.ts";
import { setFaults, untilFaultsFired } from "../lib/faults.ts";
import { FULL, useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();
const CAPACITY = 2n * OPEN_SAT;
/** What a close of a new channel says on its first connection, and what it says again on the next. */
const SHUTDOWN = "shutdown";
const AGAIN = ["channel_reestablish", "shutdown", "closing_signed"] as const;

const nodeOf = (world: World, { from }: Cut) => world[from];

/** A close of a new channel through breaks of the connection. */
async function closeThrough(world: World, cut: Cut, again?: Cut): Promise<void> {
  const { alice, bob } = world;
  const { channelId } = await normalChannel(world);
  const before = await Promise.all([alice, bob].map(spendable));
  await setFaults(nodeOf(world, cut), { action: cut.action, message: cut.message });
  const closing = close(alice, channelId);
  closing.catch(() => {});
  await untilFaultsFired(nodeOf(world, cut));
  if (again !== undefined) {
    await setFaults(nodeOf(world, again), { action: again.action, message: again.message });
    await connect(alice, bob);
    await untilFaultsFired(nodeOf(world, again));
  }
  await connect(alice, bob);
  const closed = await closing;
  assert.equal(closed.itemType, CloseType.MUTUAL);
  const fee = await assertClosedByBoth(world, channelId, CAPACITY, before);
  assert(fee > 0n && fee < 5_000n, `a fee of ${fee} sat`);
}

Deno.test("test_closing_negotiation_reconnect: breaks before and after every message of a close", async (t) => {
  await worlds.withWorld(async (world) => {
    await fundedAndConnected(world, FULL ? 24 : 16);
    const { alice, bob } = world;
    const { channelId } = await normalChannel(world);
    const before = await Promise.all([alice, bob].map(spendable));
    const said = await recordMessages(world, () => close(alice, channelId));
    await assertClosedByBoth(world, channelId, CAPACITY, before);
    assert.deepEqual(
      said.map(({ from, message }) => `${from} ${message}`),
      ["alice shutdown", "bob shutdown", "alice closing_signed", "bob closing_signed"],
    );
    for (const cut of cutsAt(said)) {
      await t.step(nameOfCut(cut), () => closeThrough(world, cut));
    }
    const first: Cut = { from: "bob", message: SHUTDOWN, nth: 1, action: "close_after" };
    for (const message of AGAIN) {
      for (const from of ["alice", "bob"] as const) {
        const again: Cut = { from, message, nth: 1, action: "close_before" };
        await t.step(
          `${nameOfCut(first)}, then ${nameOfCut(again)}`,
          () => closeThrough(world, first, again),
        );
      }
    }
  }, { options: { "log-level": "trace" } });
});
