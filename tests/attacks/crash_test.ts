/**
 * A hostile peer and a node whose dualopend is killed in the midst, with separate processes: what the peer gets wrong
 * leaves nothing also then, and what the node has signed is kept.
 */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { until } from "tools/node/commands.ts";
import { bothNormal } from "../lib/channels.ts";
import { fakeCoin } from "../lib/hostile_coins.ts";
import type { Agreed, HostilePeer } from "../lib/hostile_peer.ts";
import { channelRows } from "../lib/rows.ts";
import { attack, refuses, useVictim, type Victim } from "./victim.ts";

const victim: Victim = await useVictim({ stock: ["p2tr"] }, { layout: "processes" });
/** More than any coin of the node: it signs first then. */
const RICH_SAT = 50_000_000n;

/** Up to the node's commitment_signed. */
async function constructed(peer: HostilePeer, sat = RICH_SAT): Promise<Agreed> {
  const accept = await peer.openTo();
  assert.ok(accept.funding_satoshis > 0n, "the node puts coins in");
  const agreed = await peer.construct({ coins: [fakeCoin("p2wpkh", sat)] });
  await peer.expect("commitment_signed");
  return agreed;
}

/** kill -9, and a new process. The node hangs up on whoever had a channel there, once. */
async function killDualopend(): Promise<void> {
  await victim.node.restart("dualopend");
}

/** A new connection, and the node's channel_reestablish. */
async function resumed(peer: HostilePeer) {
  await peer.raw.closed();
  await peer.reconnect();
  return await peer.expect("channel_reestablish");
}

attack(
  "a bad first commitment_signed leaves nothing, also when dualopend is killed before it comes",
  async () => {
    await using peer = await victim.connect();
    const agreed = await constructed(peer);
    await killDualopend();
    const { next_funding } = await resumed(peer);
    assert.deepEqual(next_funding, { next_funding_txid: agreed.txid, retransmit_flags: 1 });
    await peer.sayReestablish({ next_funding: { next_funding_txid: agreed.txid, retransmit_flags: 0 } });
    await peer.sayCommitment(agreed, { signature: peer.commitmentSignature(agreed, { wrong: true }) });
    await refuses(peer, { type: "tx_abort", text: /not good/ });
    await victim.nothingLeft();
  },
);

attack(
  "a bad first commitment_signed leaves nothing, also when dualopend is killed the moment it is sent",
  async () => {
    await using peer = await victim.connect();
    const agreed = await constructed(peer);
    const bad = { signature: peer.commitmentSignature(agreed, { wrong: true }) };
    await Promise.all([peer.sayCommitment(agreed, bad), victim.node.daemon("dualopend").kill()]);
    await victim.node.start();
    const gone = async () => await channelRows(victim.node, bytesToHex(peer.channelId)) === undefined;
    if (!await gone()) {
      await resumed(peer);
      await peer.sayReestablish({ next_funding: { next_funding_txid: agreed.txid, retransmit_flags: 0 } });
      await peer.sayCommitment(agreed, bad);
      await refuses(peer, { type: "tx_abort", text: /not good/ });
    }
    await until("it is forgotten", gone);
    await victim.nothingLeft();
  },
);

attack(
  "wrong tx_signatures leave nothing, also when dualopend is killed between them and commitment_signed",
  async () => {
    await using peer = await victim.connect();
    const agreed = await constructed(peer, 1_000_000n);
    assert.ok(peer.signsFirst);
    await peer.sayCommitment(agreed);
    await until(
      "the commitment is stored",
      async () =>
        (await channelRows(victim.node, bytesToHex(peer.channelId)))?.state === "DUALOPEND_OPEN_COMMITTED",
    );
    await killDualopend();
    const { next_funding } = await resumed(peer);
    assert.deepEqual(next_funding, { next_funding_txid: agreed.txid, retransmit_flags: 0 });
    await peer.sayReestablish({ next_funding: { next_funding_txid: agreed.txid, retransmit_flags: 0 } });
    await peer.saySignatures(agreed, { witnesses: [new Uint8Array(3)] });
    await refuses(peer, { type: "tx_abort", text: /malformed/ });
    await victim.nothingLeft();
  },
);

attack(
  "a construction that dualopend's death ends gets tx_abort, no hang-up, and leaves nothing",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    await peer.sayInput(fakeCoin());
    await peer.theirTurn();
    await killDualopend();
    const { type } = await peer.verdict();
    assert.equal(type, "tx_abort");
    await peer.abort("acknowledged");
    await victim.nothingLeft();
    assert.equal(peer.raw.ended, false);
  },
);

attack(
  "tx_abort after the node's tx_signatures forgets nothing, also when dualopend is killed then; the open completes",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    const coin = { ...victim.coin() };
    const agreed = await peer.construct({ coins: [coin] });
    await peer.commit(agreed);
    await peer.saySignatures(agreed);
    await peer.expect("tx_signatures");
    await peer.abort();
    await killDualopend();
    await resumed(peer);
    await peer.sayReestablish();
    const rows = await until("the channel is complete", async () => {
      const found = await channelRows(victim.node, bytesToHex(peer.channelId));
      return found?.attempts[0]?.complete === true && found;
    });
    assert.equal(rows.errorText, null);
    assert.equal(rows.attempts[0]?.aborted, false);
  },
);

attack(
  "a crashing dualopend: the honest peer's channels stay whole, and the one that waited locks in",
  async () => {
    await victim.chain.mine(1);
    await bothNormal(victim.world, victim.waiting);
    await bothNormal(victim.world, victim.usable);
  },
);
