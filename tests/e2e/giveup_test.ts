/** Channels whose funding transaction never comes: how long a node keeps them, and how it gets its coins back. */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { client, dial } from "common/grpc/client.ts";
import { Operator } from "gen/arcus/lightningd/v1/operator_pb.ts";
import {
  bumpChannel,
  type Candidate,
  openChannel,
  spendable,
  until,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import type { RunningNode } from "tools/node/launch.ts";
import {
  fundedAndConnected,
  OPEN_PERKW,
  OPEN_SAT,
  openedChannel,
  untilInMempool,
  WALLET_SAT,
} from "../lib/channels.ts";
import { HostilePeer } from "../lib/hostile_peer.ts";
import { channelRows, NO_ROWS, openRows } from "../lib/rows.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** Blocks after which alice gives up. */
const GIVEUP = 3;
/** Confirmations after which a double-spend is taken for final. */
const DEEP = 100;
/** More than the replacement of any transaction here costs. */
const MOST_FEE_SAT = 20_000n;

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
    // Should it come back after all, it hears that there is nothing to go on with: told at once, or as its answer.
    await peer.reconnect();
    await peer.sayReestablish();
    const { text, channelId } = await peer.verdict();
    assert.match(text, /unknown channel|this channel is forgotten/);
    assert.equal(channelId, id);
  }, { alice: { "unsigned-giveup-blocks": String(GIVEUP) } }));

/** alice's double-spend is in the mempool, and nothing else. */
async function untilSpentBack({ chain }: World, attempts: readonly Candidate[]): Promise<string> {
  const txid = await until("the double-spend in the place of all attempts", async () => {
    const pool = await chain.rpc<string[]>("getrawmempool");
    return pool.length === 1 && !attempts.some((each) => each.txid === pool[0]) && pool[0];
  });
  return txid;
}

/** alice has her coins at once; the channel, failed, is kept until no reorg can bring an attempt back. */
async function comesBack({ alice, bob, chain }: World, { channelId }: Candidate): Promise<void> {
  const failed = await channelRows(alice, channelId);
  assert.match(failed?.errorText ?? "", /did not confirm in 3 blocks/);
  assert.ok((await openRows(alice)).reservations > 0, "as long as another transaction may win");
  await chain.mine(1);
  await untilSynced(chain, alice, bob);
  await until("alice's coins", async () => await spendable(alice) > WALLET_SAT * 2n - MOST_FEE_SAT);
  await chain.mine(DEEP - 2);
  await untilSynced(chain, alice, bob);
  for (const node of [alice, bob]) {
    assert.equal((await channelRows(node, channelId))?.locked, null, `${node.name} keeps the channel`);
  }
  await chain.mine(1);
  for (const node of [alice, bob]) {
    await until(`${node.name} forgets`, async () => await channelRows(node, channelId) === undefined);
    await until(
      `${node.name} reserves nothing`,
      async () => JSON.stringify(await openRows(node)) === JSON.stringify(NO_ROWS),
    );
  }
  assert.ok(await spendable(alice) > WALLET_SAT * 2n - MOST_FEE_SAT);
  assert.equal(await spendable(bob), WALLET_SAT * 2n);
}

const gaveUp = { alice: { "funding-giveup-blocks": String(GIVEUP) } };

Deno.test("a peer's open that stays unconfirmed is double-spent, and forgotten when that is deep", () =>
  worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const first = await openChannel(bob, alice, { sat: OPEN_SAT, perkw: OPEN_PERKW });
    await untilState(alice, first.channelId, ChannelState.DualopendAwaitingLockin);
    const second = await bumpChannel(bob, first.channelId, { sat: OPEN_SAT, perkw: 2 * OPEN_PERKW });
    await untilInMempool(world, second.txid);
    await chain.mineEmpty(GIVEUP - 1);
    await untilSynced(chain, alice);
    assert.equal((await channelRows(alice, first.channelId))?.errorText, null);
    await chain.mineEmpty(1);
    await untilSpentBack(world, [first, second]);
    await comesBack(world, first);
  }, gaveUp));

/** openchannel_giveup, as anybody calls it. */
async function giveUp(node: RunningNode, { channelId }: Candidate) {
  assert.ok(node.apiAddress !== undefined);
  const channel = dial(node.apiAddress);
  try {
    return await client(Operator, channel).openChannelGiveup({ channelId: hexToBytes(channelId) });
  } finally {
    channel.close();
  }
}

Deno.test("openchannel_giveup: an open of ours that stays unconfirmed is double-spent when we say so", () =>
  worlds.withWorld(async (world) => {
    const { alice, chain } = world;
    await fundedAndConnected(world);
    const candidate = await openedChannel(world);
    await chain.mineEmpty(GIVEUP - 1);
    await untilSynced(chain, alice);
    await assert.rejects(giveUp(alice, candidate), { clnCode: 312 });
    await chain.mineEmpty(1);
    await untilSynced(chain, alice);
    // Nobody does it for us: more coins of ours might go into another attempt.
    assert.equal((await channelRows(alice, candidate.channelId))?.errorText, null);
    const { txid } = await giveUp(alice, candidate);
    assert.equal(await untilSpentBack(world, [candidate]), bytesToHex(txid));
    await assert.rejects(giveUp(alice, candidate), { clnCode: 312 });
    await assert.rejects(giveUp(alice, { ...candidate, channelId: "11".repeat(32) }), { clnCode: 311 });
    await comesBack(world, candidate);
  }, gaveUp));

Deno.test("a funding transaction that confirms before its double-spend keeps its channel", () =>
  worlds.withWorld(async (world) => {
    const { alice, chain } = world;
    await fundedAndConnected(world);
    const candidate = await openedChannel(world);
    await chain.mineEmpty(GIVEUP);
    await untilSynced(chain, alice);
    await giveUp(alice, candidate);
    await untilSpentBack(world, [candidate]);
    await chain.mineWith([candidate.tx]);
    await chain.mineEmpty(DEEP);
    await untilSynced(chain, alice);
    const rows = await channelRows(alice, candidate.channelId);
    assert.match(rows?.errorText ?? "", /did not confirm/);
    assert.equal(rows?.attempts.length, 1);
  }, gaveUp));
