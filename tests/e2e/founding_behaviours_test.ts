/**
 * The founding behaviours: what Core Lightning's architecture could do and its daemons did not, or did wrong. Each is one
 * test with its letter, on a real chain and a real database.
 */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import type { Message } from "bolt/wire/messages.ts";
import { ArcusError } from "common/grpc/errors.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import {
  bumpChannel,
  channelOf,
  connect,
  isConnected,
  openChannel,
  psbtFor,
  until,
  untilConnected,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import {
  assertBalances,
  bothNormal,
  fundedAndConnected,
  normalChannel,
  OPEN_PERKW,
  OPEN_SAT,
  openedChannel,
} from "../lib/channels.ts";
import { setFaults, untilFaultsFired } from "../lib/faults.ts";
import { HostilePeer } from "../lib/hostile_peer.ts";
import { channelRows, generationOf, NO_ROWS, openRows } from "../lib/rows.ts";
import { useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** A founding behaviour: with separate processes, and with each node as one process, where a killed daemon is a killed node. */
function behaviour(name: string, work: (world: World) => Promise<void>): void {
  Deno.test(name, () => worlds.withWorld(work, { layout: "processes" }));
  Deno.test(`${name} [one process]`, () => worlds.withWorld(work, { layout: "one" }));
}

/** Channel ids that connectd has attached to a subd for a peer. */
async function attached(node: RunningNode, peer: RunningNode): Promise<string[]> {
  const { peers } = await node.connectd.listPeers({ peerId: hexToBytes(peer.id) });
  return peers.flatMap((each) => each.attachments.map(({ channelId }) => bytesToHex(channelId))).sort();
}

behaviour(
  "(a) at peer_connected every fitting channel's subd is started and connected, though the peer says nothing",
  async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    const usable = await normalChannel(world);
    const waiting = await openedChannel(world);
    const both = [usable.channelId, waiting.channelId].sort();
    // From its first word on, bob is not heard.
    await setFaults(bob, { action: "blackhole", message: "channel_reestablish" });
    const mark = alice.logs.next;
    await alice.rpc.disconnect({ id: hexToBytes(bob.id), force: true });
    await alice.waitForLog("peer accepted", { since: mark, daemon: "lightningd" });
    await until(
      "both channels attached",
      async () => (await attached(alice, bob)).join() === both.join(),
      5_000,
    );
    await untilFaultsFired(bob);
    assert.deepEqual(await attached(alice, bob), both);
  },
);

/** What the peer says of a channel that nobody knows, and what it must hear. */
const SPOKEN: readonly {
  readonly message: Message;
  readonly answer: "error" | "warning";
  readonly text: RegExp;
}[] = [
  {
    message: {
      type: "channel_reestablish",
      channel_id: new Uint8Array(32).fill(1),
      next_commitment_number: 1n,
      next_revocation_number: 0n,
      your_last_per_commitment_secret: new Uint8Array(32),
      my_current_per_commitment_point: ecc().pointFromSecret(new Uint8Array(32).fill(9)),
    },
    answer: "error",
    text: /unknown channel/,
  },
  {
    message: {
      type: "tx_init_rbf",
      channel_id: new Uint8Array(32).fill(2),
      locktime: 0,
      feerate: 1_000,
    },
    answer: "warning",
    text: /no such negotiation/,
  },
];

behaviour(
  "(b) a peer that speaks on a channel nobody knows gets an opening daemon if it opens, else a final message, never silence",
  async ({ alice }) => {
    await using peer = await HostilePeer.connect(alice);
    for (const { message, answer, text } of SPOKEN) {
      await peer.send(message);
      const verdict = await peer.verdict();
      assert.equal(verdict.type, answer, message.type);
      assert.match(verdict.text, text);
    }
    // The same connection, and a channel that nobody knew a moment ago: it opens.
    await peer.openTo();
    const { negotiations } = await alice.dualopend.listNegotiations({});
    assert.equal(negotiations.length, 1);
    assert.equal(negotiations[0]?.state, "DUALOPEND_OPEN_INIT");
  },
);

behaviour("(c) where connectd must hang up, what was said before is drained", async ({ alice }) => {
  await using peer = await HostilePeer.connect(alice);
  // shutdown is no word for a channel that is not there, and this peer has nothing else with us.
  await peer.send({
    type: "shutdown",
    channel_id: new Uint8Array(32).fill(3),
    scriptpubkey: new Uint8Array(22).fill(4),
  });
  const verdict = await peer.verdict();
  assert.equal(verdict.type, "error");
  assert.match(verdict.text, /unknown channel/);
  await peer.raw.closed();
  await alice.waitForLog((line) => line.msg === "peer disconnected" && line.fields["drained"] === true, {
    daemon: "connectd",
  });
});

behaviour("(c) connectd keeps the peer and its connection through a failed open", async (world) => {
  const { alice, bob } = world;
  await fundedAndConnected(world);
  const generations = [await generationOf(alice, bob), await generationOf(bob, alice)];
  // bob wants more than this.
  await assert.rejects(openChannel(alice, bob, { sat: 5_000n, perkw: OPEN_PERKW }), ArcusError);
  assert.deepEqual([await generationOf(alice, bob), await generationOf(bob, alice)], generations);
  await until(
    "nothing left of it",
    async () =>
      JSON.stringify([await openRows(alice), await openRows(bob)]) === JSON.stringify([NO_ROWS, NO_ROWS]),
  );
  await normalChannel(world);
  assert.deepEqual([await generationOf(alice, bob), await generationOf(bob, alice)], generations);
});

behaviour(
  "(d) the funding txid becomes the mined candidate's while the peer is offline and while dualopend is dead",
  async (world) => {
    const { alice, bob, chain } = world;
    await fundedAndConnected(world);
    const first = await openedChannel(world);
    const second = await bumpChannel(alice, first.channelId, { sat: OPEN_SAT + 100_000n, perkw: 3_000 });
    const fundingTxid = async () =>
      bytesToHex((await channelOf(alice, first.channelId))?.fundingTxid ?? new Uint8Array());
    assert.equal(await fundingTxid(), second.txid);

    for (const process of bob.processes) await process.kill();
    if (alice.layout === "processes") await alice.daemon("dualopend").kill();
    await chain.mineWith([first.tx]);
    await until("alice's funding txid is the mined one", async () => await fundingTxid() === first.txid);
    assert.equal(await isConnected(alice, bob), false);

    await alice.start();
    await bob.start();
    await bothNormal(world, first);
    await assertBalances(world, first.channelId, { alice: OPEN_SAT, bob: OPEN_SAT });
  },
);

behaviour(
  "(e) an unsaved channel dies with its connection and leaves no row and no reserved input",
  async (world) => {
    const { alice, bob } = world;
    await fundedAndConnected(world);
    await alice.rpc.openChannelInit({
      id: hexToBytes(bob.id),
      amount: { msat: OPEN_SAT * 1000n },
      initialpsbt: await psbtFor(alice, { sat: OPEN_SAT, perkw: OPEN_PERKW }),
      fundingFeerate: { style: { case: "perkw", value: OPEN_PERKW } },
    });
    for (const node of [alice, bob]) assert.equal((await openRows(node)).openings, 1, node.name);
    await alice.rpc.disconnect({ id: hexToBytes(bob.id), force: true });
    for (const node of [alice, bob]) {
      await until(
        `nothing left at ${node.name}`,
        async () => JSON.stringify(await openRows(node)) === JSON.stringify(NO_ROWS),
      );
    }
  },
);

behaviour("(e) a saved channel is kept and reconnected, by itself", async (world) => {
  const { alice, bob, chain } = world;
  await fundedAndConnected(world);
  const candidate = await openedChannel(world);
  const before = await generationOf(alice, bob);
  await alice.daemon("connectd").kill();
  await untilGone(bob, alice);
  await alice.start();
  await untilConnected(alice, bob);
  assert.notEqual(await generationOf(alice, bob), before);
  await chain.mine(1);
  await bothNormal(world, candidate);
});

async function untilGone(node: RunningNode, peer: RunningNode): Promise<void> {
  await until(`${peer.name} gone from ${node.name}`, async () => !await isConnected(node, peer));
}

behaviour("(f) a lesser-fee candidate is mined: amounts and balances follow it", async (world) => {
  const { alice, bob, chain } = world;
  await fundedAndConnected(world);
  const first = await openedChannel(world);
  const second = await bumpChannel(alice, first.channelId, { sat: OPEN_SAT + 200_000n, perkw: 3_000 });
  assert.notEqual(second.txid, first.txid);
  await chain.mineWith([first.tx]);
  await bothNormal(world, first);
  await assertBalances(world, first.channelId, { alice: OPEN_SAT, bob: OPEN_SAT });
  for (const node of [alice, bob]) {
    assert.equal((await channelRows(node, first.channelId))?.locked, first.txid, node.name);
  }
});

behaviour(
  "(f) a candidate is mined while a replacement is half negotiated: amounts and balances follow it",
  async (world) => {
    const { alice, chain } = world;
    await fundedAndConnected(world);
    const first = await openedChannel(world);
    // bob's tx_complete never arrives: the replacement stays half negotiated.
    await setFaults(alice, { action: "drop", message: "tx_complete", direction: "in" });
    const bump = bumpChannel(alice, first.channelId, { sat: OPEN_SAT + 200_000n, perkw: 3_000 });
    const ended = assert.rejects(bump);
    await untilFaultsFired(alice);
    await chain.mineWith([first.tx]);
    await bothNormal(world, first);
    await ended;
    await assertBalances(world, first.channelId, { alice: OPEN_SAT, bob: OPEN_SAT });
  },
);

/** Messages of the open that alice sends last before her dualopend dies, and what becomes of the channel. */
const DEATHS = [
  { before: "open_channel2", saved: false },
  { before: "tx_add_input", saved: false },
  { before: "tx_complete", saved: false },
  { before: "commitment_signed", saved: true },
  { before: "tx_signatures", saved: true },
] as const;

for (const { before, saved } of DEATHS) {
  behaviour(
    `(g) dualopend, killed where its ${before} got lost, restarts from the rows and ${
      saved ? "reestablishes" : "forgets"
    }`,
    async (world) => {
      const { alice, bob, chain } = world;
      await fundedAndConnected(world);
      // Of a saved channel nothing more may get through: a peer that hears the next message instead would object.
      await setFaults(alice, { action: saved ? "blackhole" : "drop", message: before });
      const opening = openChannel(alice, bob, { sat: OPEN_SAT, perkw: OPEN_PERKW }).catch((error) => error);
      await untilFaultsFired(alice);
      await alice.daemon("dualopend").kill();
      await opening;
      await alice.start();
      if (!saved) {
        for (const node of [alice, bob]) {
          await until(
            `nothing left at ${node.name}`,
            async () => JSON.stringify(await openRows(node)) === JSON.stringify(NO_ROWS),
          );
        }
        // With one process the connection died too, and nothing calls for another.
        if (alice.layout === "one") await connect(alice, bob);
        await untilConnected(alice, bob);
        await untilSynced(chain, alice, bob);
        await normalChannel(world);
        return;
      }
      const channelId = await until("the channel on both sides", async () => {
        const [row] = await alice.sql<{ id: Uint8Array }[]>`SELECT channel_id AS id FROM channels`;
        return row === undefined ? undefined : bytesToHex(row.id);
      });
      const awaiting = await untilState(alice, channelId, ChannelState.DualopendAwaitingLockin);
      await untilState(bob, channelId, ChannelState.DualopendAwaitingLockin);
      await chain.mine(1);
      await bothNormal(world, {
        channelId,
        txid: bytesToHex(awaiting.fundingTxid ?? new Uint8Array()),
        tx: "",
      });
    },
  );
}
