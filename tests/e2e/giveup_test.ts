/** Channels whose funding transaction never comes: how long a node keeps them, and how it gets its coins back. */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { spendable, until, untilSynced } from "tools/node/commands.ts";
import { fundedAndConnected } from "../lib/channels.ts";
import { HostilePeer } from "../lib/hostile_peer.ts";
import { channelRows, NO_ROWS, openRows } from "../lib/rows.ts";
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();

/** Blocks after which alice gives up. */
const GIVEUP = 3;

Deno.test("a saved channel that nobody signed and whose peer stays away is forgotten, and its coins are free", () =>
  worlds.withWorld(async (world) => {
    const { alice, chain } = world;
    await fundedAndConnected(world);
    const wallet = await spendable(alice);
    await using peer = await HostilePeer.connect(alice);
    // It brings less than alice, so its tx_signatures would be the first.
    await peer.openTo();
    await peer.commit(await peer.construct());
    assert.ok(peer.signsFirst);
    const id = bytesToHex(peer.channelId);
    await until("the channel is saved", async () => (await channelRows(alice, id))?.attempts.length === 1);
    await peer.close();
    await chain.mine(GIVEUP - 1);
    await untilSynced(chain, alice);
    const rows = await channelRows(alice, id);
    assert.deepEqual(rows?.attempts.map(({ localSigned }) => localSigned), [false]);
    assert.ok((await openRows(alice)).reservations > 0 && await spendable(alice) < wallet);
    await chain.mine(1);
    await until("the channel is forgotten", async () => await channelRows(alice, id) === undefined);
    await until("its coins are free", async () => await spendable(alice) === wallet);
    assert.deepEqual(await openRows(alice), NO_ROWS);
    // Should it come back after all, it hears that there is nothing to go on with.
    await peer.reconnect();
    await peer.sayReestablish();
    const { text, channelId } = await peer.verdict();
    assert.match(text, /unknown channel/);
    assert.equal(channelId, id);
  }, { alice: { "unsigned-giveup-blocks": String(GIVEUP) } }));
