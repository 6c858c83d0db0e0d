/** Replacing the funding transaction by fee, with contributions that change. */
import assert from "node:assert/strict";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { attemptsOf, bumpChannel, isConnected, openChannel, until, untilState } from "tools/node/commands.ts";
import {
  assertBalances,
  bothNormal,
  fundedAndConnected,
  OPEN_PERKW,
  OPEN_SAT,
  untilInMempool,
} from "../lib/channels.ts";
import { channelRows } from "../lib/rows.ts";
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();

/** bob adds half of what alice does. */
const HALF = { "funder-policy": "match", "funder-policy-mod": "50" };

Deno.test(
  "both fund with unequal amounts, replace twice with changed contributions, and the first attempt is mined while one side is stopped",
  () =>
    worlds.withWorld(async (world) => {
      const { alice, bob, chain } = world;
      await fundedAndConnected(world);
      const first = await openChannel(alice, bob, { sat: OPEN_SAT, perkw: OPEN_PERKW });
      const second = await bumpChannel(alice, first.channelId, { sat: 600_000n, perkw: 2_000 });
      const third = await bumpChannel(alice, first.channelId, { sat: 300_000n, perkw: 4_000 });
      for (const node of [alice, bob]) {
        const channel = await untilState(node, first.channelId, ChannelState.DualopendAwaitingLockin);
        assert.deepEqual(
          attemptsOf(channel).map(({ txid, totalSat }) => ({ txid, totalSat })),
          [
            { txid: first.txid, totalSat: 600_000n },
            { txid: second.txid, totalSat: 900_000n },
            { txid: third.txid, totalSat: 450_000n },
          ],
          node.name,
        );
      }
      await untilInMempool(world, third.txid);
      const mempool = await chain.rpc<string[]>("getrawmempool");
      assert.ok(mempool.includes(third.txid));
      assert.ok(!mempool.includes(first.txid) && !mempool.includes(second.txid));

      for (const process of bob.processes) await process.kill();
      await until("alice alone", async () => !await isConnected(alice, bob));
      await chain.mineWith([first.tx]);
      await bob.start();
      await bothNormal(world, first);
      await assertBalances(world, first.channelId, { alice: OPEN_SAT, bob: OPEN_SAT / 2n });
      for (const node of [alice, bob]) {
        assert.equal((await channelRows(node, first.channelId))?.locked, first.txid, node.name);
      }
    }, { layout: "processes", bob: HALF }),
);
