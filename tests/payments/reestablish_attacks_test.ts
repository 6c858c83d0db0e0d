/**
 * False and honest channel_reestablish on a channel in use (BOLT 2, Message Retransmission), and what a peer may take back
 * by losing its connection. Nobody is made to believe that it lost data by a claim without a proof.
 */
import assert from "node:assert/strict";
import { type HostileChannel } from "../lib/hostile_channel.ts";
import { randomSecret } from "../lib/raw_peer.ts";
import { attack, useVictim } from "../attacks/victim.ts";
import { failed, htlcRows, nodeOffers, untilRows, usable, verdictOf, works } from "./hostile.ts";

const CHANNELS = 20;

const victim = await useVictim({
  coins: 6,
  stock: Array.from({ length: CHANNELS }, () => "p2tr" as const),
}, { alice: { "max-opens-per-peer": "10" } });

/** A channel with some history, on a new connection, where the node has said its channel_reestablish. */
async function comingBack(): Promise<HostileChannel> {
  const channel = await usable(victim);
  await works(victim, channel);
  await untilRows(victim, channel, { live: 0, over: 1 });
  await channel.peer.reconnect();
  await channel.peer.raw.expect("channel_reestablish");
  return channel;
}

type Reestablish = Parameters<HostileChannel["sayReestablish"]>[0];

const FALSE_CLAIMS: readonly (readonly [string, (channel: HostileChannel) => NonNullable<Reestablish>])[] = [
  ["next_commitment_number 0", () => ({ next_commitment_number: 0n })],
  ["next_commitment_number far ahead", ({ peerNumber }) => ({ next_commitment_number: peerNumber + 10n })],
  ["next_commitment_number 2^64 - 1", () => ({ next_commitment_number: (1n << 64n) - 1n })],
  ["next_commitment_number that is revoked", () => ({ next_commitment_number: 1n })],
  [
    "next_revocation_number ahead, with a secret of its own making",
    ({ nodeNumber }) => ({
      next_revocation_number: nodeNumber + 5n,
      your_last_per_commitment_secret: randomSecret(),
    }),
  ],
  [
    "next_revocation_number ahead, with the last secret that it has",
    ({ nodeNumber }) => ({ next_revocation_number: nodeNumber + 5n }),
  ],
  ["next_revocation_number 2^64 - 1", () => ({ next_revocation_number: (1n << 64n) - 1n })],
  ["a wrong secret", () => ({ your_last_per_commitment_secret: randomSecret() })],
  ["no secret", () => ({ your_last_per_commitment_secret: new Uint8Array(32) })],
  [
    "next_revocation_number 0 and no secret",
    () => ({ next_revocation_number: 0n, your_last_per_commitment_secret: new Uint8Array(32) }),
  ],
];

for (const [name, changes] of FALSE_CLAIMS) {
  attack(
    `channel_reestablish with ${name}: the channel fails, and the node does not believe that it lost data`,
    async () => {
      const channel = await comingBack();
      await using _peer = channel.peer;
      const rows = await htlcRows(victim, channel);
      await channel.sayReestablish(changes(channel));
      await failed(victim, channel, /./, rows);
      const [row] = await victim.node.sql<{ dataLoss: boolean }[]>`
      SELECT data_loss AS "dataLoss" FROM channels WHERE channel_id = ${channel.channelId}`;
      assert.equal(row?.dataLoss, false, "nothing was proved");
    },
  );
}

attack("an honest channel_reestablish, again and again: the channel goes on", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  for (let round = 0; round < 3; round++) {
    await works(victim, channel);
    const theirs = await channel.reconnect();
    assert.equal(theirs.next_commitment_number, channel.nodeNumber + 1n);
    assert.equal(theirs.next_revocation_number, channel.peerNumber);
  }
  await works(victim, channel);
});

attack("update_add_htlc before channel_reestablish: not taken, nothing is stored", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await peer.reconnect();
  await peer.raw.expect("channel_reestablish");
  await peer.send(await channel.addMessage());
  await verdictOf(peer);
  assert.deepEqual(await htlcRows(victim, channel), { live: 0, over: 0 });
  await victim.unharmed();
});

attack(
  "a lost revoke_and_ack and commitment_signed are said again in their order, with the same signatures",
  async () => {
    const channel = await usable(victim);
    await using peer = channel.peer;
    await channel.add();
    await channel.sign();
    const revoke = await channel.expect("revoke_and_ack");
    const signed = await channel.expect("commitment_signed");
    // As if neither had come.
    await peer.reconnect();
    await peer.raw.expect("channel_reestablish");
    await channel.sayReestablish({
      next_commitment_number: 1n,
      next_revocation_number: 0n,
      your_last_per_commitment_secret: new Uint8Array(32),
    });
    const again = [];
    while (again.length < 2) {
      const message = await peer.hear();
      if (message.type !== "channel_ready") again.push(message);
    }
    assert.deepEqual(again, [revoke, signed]);
    await channel.revoke();
    await channel.bookUntilClean();
    await works(victim, channel);
  },
);

attack(
  "a peer that fulfils after a reconnection, without saying that it did before: the payment is complete",
  async () => {
    const channel = await usable(victim);
    await using peer = channel.peer;
    const offer = await nodeOffers(victim, channel);
    const fulfilment = {
      type: "update_fulfill_htlc",
      channel_id: channel.channelId,
      id: offer.id,
      payment_preimage: offer.preimage,
    } as const;
    // Told, not signed: rolled back by the reconnection, but the preimage is known.
    await peer.send(fulfilment);
    const { paymentPreimage } = await victim.node.rpc.waitSendPay({
      paymentHash: offer.paymentHash,
      timeout: 10,
    });
    assert.equal(paymentPreimage?.toHex(), offer.preimage.toHex());
    await channel.reconnect();
    await channel.sayUpdate(fulfilment);
    await channel.bookUntilClean();
    await works(victim, channel);
  },
);

attack("a peer that fails an HTLC after it told the preimage: the payment stays complete", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  const offer = await nodeOffers(victim, channel);
  await peer.send({
    type: "update_fulfill_htlc",
    channel_id: channel.channelId,
    id: offer.id,
    payment_preimage: offer.preimage,
  });
  await victim.node.rpc.waitSendPay({ paymentHash: offer.paymentHash, timeout: 10 });
  await channel.reconnect();
  await channel.sayUpdate({
    type: "update_fail_htlc",
    channel_id: channel.channelId,
    id: offer.id,
    reason: new Uint8Array(292),
  });
  await channel.bookUntilClean();
  const { payments } = await victim.node.rpc.listSendPays({ paymentHash: offer.paymentHash });
  assert.equal(payments[0]?.paymentPreimage?.toHex(), offer.preimage.toHex(), "never 'failed'");
  await works(victim, channel);
});
