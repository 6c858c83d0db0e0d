/** The flow of peers against stand-ins for connectd, subds and hsmd, on real rows. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { bytesToHex } from "@noble/hashes/utils.js";
import { printableText } from "bolt/wire/error_text.ts";
import type { Message } from "bolt/wire/messages.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import { AttachmentEnded_Reason as Ended } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Released_Reason as Let } from "gen/arcus/subd/v1/subd_pb.ts";
import { LeadershipLostError } from "../leader.ts";
import { MessageType } from "./spoke.ts";
import {
  confirmAttempt,
  GIVEUP_BLOCKS,
  OPENS_PER_MINUTE,
  peerKey,
  saveAttempt,
  saveChannel,
  type StandInConnectd,
  TEST_HEIGHT,
  TestRoom,
  UNSIGNED_GIVEUP_BLOCKS,
} from "./testing.ts";

const postgres = await usePostgres();

function flowTest(name: string, work: (room: TestRoom) => Promise<void>): void {
  Deno.test(name, async () => {
    await using room = await TestRoom.start(postgres);
    await work(room);
    assert.deepEqual(room.fatal, []);
  });
}

/** What an error says. */
function textOf(message: Message): string | undefined {
  return message.type === "error" ? printableText(message.data) : undefined;
}

const id32 = () => new Uint8Array(randomBytes(32));

/** Counts of rows that an open leaves. */
async function openings(room: TestRoom): Promise<number> {
  const [row] = await room.sql<{ n: number }[]>`SELECT count(*)::int AS n FROM openings`;
  return row!.n;
}

/** A peer opens a channel as far as dualopend being attached. */
async function peerOpens(room: TestRoom, connectd: StandInConnectd, peer: Uint8Array, generation: bigint) {
  const temporaryId = id32();
  const spokeId = connectd.spoke(peer, generation, temporaryId, MessageType.openChannel2);
  const order = await connectd.inbox.next("peerConnectSubd");
  assert.equal(order.spokeId, spokeId);
  assert.deepEqual(order.channelId, temporaryId);
  connectd.started(peer, generation, temporaryId, order.epoch);
  const [row] = await room.sql<{ opening: bigint }[]>`
    SELECT opening FROM openings WHERE temporary_channel_id = ${temporaryId}`;
  return { temporaryId, epoch: order.epoch, opening: row!.opening };
}

/** Waits for something that later messages of the peer are queued behind. */
async function settled(connectd: StandInConnectd, peer: Uint8Array, generation: bigint): Promise<void> {
  const spokeId = connectd.spoke(peer, generation, id32(), MessageType.txAbort);
  assert.equal((await connectd.inbox.next("spokeDrop")).spokeId, spokeId);
}

flowTest("generations rise, and a new connection closes the old row", async (room) => {
  const connectd = room.connectd();
  await connectd.hello();
  const [peer, other] = [peerKey(), peerKey()];
  const first = await connectd.peer(peer);
  const second = await connectd.peer(other);
  const third = await connectd.peer(peer, { replaced: first });
  assert.ok(first < second && second < third);
  const rows = await room.sql<{ generation: bigint }[]>`
    SELECT generation FROM connections WHERE disconnected_at IS NULL ORDER BY generation`;
  assert.deepEqual(rows.map((row) => row.generation), [second, third]);
  connectd.gone(peer, third);
  await waitFor(async () => (await room.room.listPeers(peer)).length === 0, { what: "the peer's end" });
});

flowTest("at peer_connected every live channel has its subd started and connected", async (room) => {
  const peer = peerKey();
  const opening = await saveChannel(room.sql, peer);
  const normal = await saveChannel(room.sql, peer, { state: "CHANNELD_NORMAL" });
  const failed = await saveChannel(room.sql, peer, { errorText: "bad signature" });
  const connectd = room.connectd();
  await connectd.hello();
  const dualopend = await room.subd("dualopend").hello();
  const channeld = await room.subd("channeld").hello();
  const generation = await connectd.peer(peer);
  const orders = [await connectd.inbox.next("peerConnectSubd"), await connectd.inbox.next("peerConnectSubd")];
  for (const [channel, subd] of [[opening, dualopend], [normal, channeld]] as const) {
    const order = orders.find((candidate) =>
      bytesToHex(candidate.channelId) === bytesToHex(channel.channelId)
    );
    const [assign] = subd.assigns;
    assert.ok(order !== undefined && assign !== undefined);
    assert.equal(order.epoch, 2n);
    assert.equal(order.generation, generation);
    assert.equal(order.subdInstance, subd.instance);
    assert.equal(order.address, `unix:/subd/${subd.instance}`);
    assert.deepEqual(
      [assign.channel, assign.epoch, assign.generation, assign.token],
      [channel.channel, 2n, generation, order.token],
    );
    assert.equal(order.token.length, 32);
    assert.equal(room.hsmdMemory.epochs.get(bytesToHex(channel.channelKeyId)), 2n);
    const [row] = await room.sql<{ owner_epoch: bigint; owner_instance: string }[]>`
      SELECT owner_epoch, owner_instance FROM channels WHERE channel = ${channel.channel}`;
    assert.deepEqual({ ...row }, { owner_epoch: 2n, owner_instance: subd.instance });
  }
  // A failed one has no owner: its error is repeated to a peer that goes on with it.
  connectd.spoke(peer, generation, failed.channelId, MessageType.channelReestablish);
  const final = await connectd.finalMessages();
  assert.deepEqual(final.channelId, failed.channelId);
  assert.deepEqual(final.messages.map((message) => message.type), ["error"]);
  assert.equal(final.hangUp, false);
});

flowTest("an epoch that hsmd knows is passed, whatever the row says", async (room) => {
  const peer = peerKey();
  const channel = await saveChannel(room.sql, peer, { epoch: 3n });
  room.hsmdMemory.epochs.set(bytesToHex(channel.channelKeyId), 40n);
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend").hello();
  await connectd.peer(peer);
  const order = await connectd.inbox.next("peerConnectSubd");
  assert.equal(order.epoch, 41n);
});

flowTest("a peer that opens gets dualopend, and its limits", async (room) => {
  const connectd = room.connectd();
  await connectd.hello();
  const dualopend = await room.subd("dualopend").hello();
  const peer = peerKey();
  const generation = await connectd.peer(peer);
  const epochs = new Set<bigint>();
  for (let i = 0; i < 3; i++) epochs.add((await peerOpens(room, connectd, peer, generation)).epoch);
  assert.equal(epochs.size, 3, "no two opens of a peer share an epoch");
  assert.equal(dualopend.assigns.length, 3);
  const refused = connectd.spoke(peer, generation, id32(), MessageType.openChannel2);
  const final = await connectd.finalMessages();
  assert.equal(final.spokeId, refused);
  assert.deepEqual(final.messages.map((message) => message.type), ["error"]);
  assert.equal(final.hangUp, false);
  assert.equal(await openings(room), 3);
});

flowTest("the rate of a peer's opens outlives its connections, and is no other peer's", async (room) => {
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend").hello();
  const [peer, other] = [peerKey(), peerKey()];
  for (let i = 0; i < OPENS_PER_MINUTE; i++) {
    const generation = await connectd.peer(peer);
    await peerOpens(room, connectd, peer, generation);
    connectd.gone(peer, generation);
  }
  const generation = await connectd.peer(peer);
  const refused = connectd.spoke(peer, generation, id32(), MessageType.openChannel2);
  const { spokeId, messages } = await connectd.finalMessages();
  assert.equal(spokeId, refused);
  assert.deepEqual(messages.map(textOf), ["too many opens in a short time"]);
  await peerOpens(room, connectd, other, await connectd.peer(other));
});

flowTest("a temporary id that another channel has is refused", async (room) => {
  const channel = await saveChannel(room.sql, peerKey());
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend").hello();
  const peer = peerKey();
  const generation = await connectd.peer(peer);
  connectd.spoke(peer, generation, channel.channelId, MessageType.openChannel2);
  const final = await connectd.finalMessages();
  assert.deepEqual(final.messages.map((message) => message.type), ["error"]);
  assert.equal(await openings(room), 0);
});

flowTest("an open without a fee rate is refused", async (room) => {
  room.feerateKnown = false;
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend").hello();
  const peer = peerKey();
  const generation = await connectd.peer(peer);
  connectd.spoke(peer, generation, id32(), MessageType.openChannel2);
  assert.deepEqual((await connectd.finalMessages()).messages.map((message) => message.type), ["error"]);
});

flowTest(
  "an unsaved open dies with its connection, and leaves no row and no reserved input",
  async (room) => {
    const connectd = room.connectd();
    await connectd.hello();
    const dualopend = await room.subd("dualopend").hello();
    const peer = peerKey();
    const generation = await connectd.peer(peer);
    const { opening, epoch } = await peerOpens(room, connectd, peer, generation);
    await room.sql`INSERT INTO reservations (txid, vout, purpose, opening)
    VALUES (${randomBytes(32)}, 0, 'opening', ${opening})`;
    connectd.gone(peer, generation);
    const withdrawn = await dualopend.inbox.next("withdraw");
    assert.deepEqual([withdrawn.opening, withdrawn.epoch], [opening, epoch]);
    assert.equal(await openings(room), 0);
    const [row] = await room.sql<{ n: number }[]>`SELECT count(*)::int AS n FROM reservations`;
    assert.equal(row!.n, 0);
  },
);

for (const final of [false, true]) {
  const when = final ? "after accept_channel2: tx_abort" : "before accept_channel2: error";
  flowTest(`an unsaved open whose subd died, ${when}, and no hang-up`, async (room) => {
    const connectd = room.connectd();
    await connectd.hello();
    await room.subd("dualopend").hello();
    const peer = peerKey();
    const generation = await connectd.peer(peer);
    const { temporaryId, epoch } = await peerOpens(room, connectd, peer, generation);
    const channelId = final ? id32() : temporaryId;
    connectd.ended(peer, generation, channelId, epoch, Ended.SUBD_LOST);
    const said = await connectd.finalMessages();
    assert.deepEqual(said.channelId, channelId);
    assert.deepEqual(said.messages.map((message) => message.type), [final ? "tx_abort" : "error"]);
    assert.equal(said.hangUp, false);
    assert.equal(await openings(room), 0);
    // What was under way is stale, and costs nothing.
    connectd.spoke(peer, generation, channelId, MessageType.txComplete);
    await connectd.inbox.next("spokeDrop");
    assert.equal(connectd.inbox.count("disconnect"), 0);
  });
}

flowTest("a saved channel whose subd died costs one drained hang-up and a new connection", async (room) => {
  const peer = peerKey();
  const channel = await saveChannel(room.sql, peer);
  const connectd = room.connectd();
  await connectd.hello();
  const dualopend = await room.subd("dualopend").hello();
  const generation = await connectd.peer(peer);
  const { epoch } = await connectd.inbox.next("peerConnectSubd");
  connectd.started(peer, generation, channel.channelId, epoch);
  connectd.ended(peer, generation, channel.channelId, epoch, Ended.SUBD_LOST);
  const hangUp = await connectd.inbox.next("disconnect");
  assert.equal(hangUp.generation, generation);
  // Nobody is attached a second time on this connection.
  connectd.spoke(peer, generation, channel.channelId, MessageType.channelReestablish);
  connectd.gone(peer, generation);
  const connect = await connectd.inbox.next("connect");
  assert.deepEqual(connect.addresses, ["127.0.0.1:19735"]);
  const next = await connectd.peer(peer);
  const order = await connectd.inbox.next("peerConnectSubd");
  assert.ok(order.epoch > epoch && order.generation === next);
  assert.equal(connectd.inbox.count("peerConnectSubd"), 2);
  assert.equal(connectd.inbox.count("disconnect"), 1);
  assert.equal(dualopend.assigns.length, 2);
});

flowTest("a subd that cannot be dialled is not a reason to hang up: another one is tried", async (room) => {
  const peer = peerKey();
  const channel = await saveChannel(room.sql, peer);
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend", "first").hello();
  const generation = await connectd.peer(peer);
  const order = await connectd.inbox.next("peerConnectSubd");
  await room.subd("dualopend", "second").hello();
  connectd.ended(peer, generation, channel.channelId, order.epoch, Ended.SUBD_LOST);
  const again = await connectd.inbox.next("peerConnectSubd");
  assert.deepEqual([order.subdInstance, again.subdInstance], ["first", "second"]);
  assert.equal(again.epoch, order.epoch + 1n);
  assert.equal(connectd.inbox.count("disconnect"), 0);
});

flowTest("lock-in: what connectd holds goes to channeld, with a higher epoch", async (room) => {
  const peer = peerKey();
  const connectd = room.connectd();
  await connectd.hello();
  const dualopend = await room.subd("dualopend").hello();
  const channeld = await room.subd("channeld").hello();
  const generation = await connectd.peer(peer);
  const { temporaryId, opening, epoch } = await peerOpens(room, connectd, peer, generation);
  // dualopend saves the channel under its epoch, and the opening's row goes.
  const [key] = await room.sql<{ channel_key_id: Uint8Array }[]>`
    DELETE FROM openings WHERE opening = ${opening} RETURNING channel_key_id`;
  const saved = await saveChannel(room.sql, peer, {
    epoch,
    instance: dualopend.instance,
    generation,
    temporaryChannelId: temporaryId,
    channelKeyId: key!.channel_key_id,
  });
  dualopend.say({ case: "channelChanged", value: { channel: saved.channel, opening, epoch, version: 1n } });
  assert.equal((await connectd.inbox.next("setImportant")).important, true);
  await room.sql`UPDATE channels SET state = 'CHANNELD_NORMAL', locked_attempt = ${saved.attempt},
    channel_ready_received = true, remote_next_point = ${peerKey()} WHERE channel = ${saved.channel}`;
  dualopend.say({ case: "released", value: { channel: saved.channel, opening, epoch, reason: Let.LOCKED } });
  // A frame of the peer's in between waits for the successor.
  const spokeId = connectd.spoke(peer, generation, saved.channelId, 128);
  await waitFor(
    () => connectd.inbox.count("spokeWait") === 1 || connectd.inbox.count("peerConnectSubd") === 2,
    {
      what: "an answer to the spoke",
    },
  );
  connectd.ended(peer, generation, saved.channelId, epoch, Ended.FINISHED);
  const order = await connectd.inbox.next("peerConnectSubd");
  assert.equal(order.subdInstance, channeld.instance);
  assert.equal(order.epoch, epoch + 1n);
  assert.deepEqual(order.channelId, saved.channelId);
  assert.equal(channeld.assigns[0]?.channel, saved.channel);
  assert.equal(connectd.inbox.count("disconnect"), 0);
  const [listed] = await room.room.listPeerChannels(peer);
  assert.deepEqual([listed?.state, listed?.owner], ["CHANNELD_NORMAL", "channeld"]);
  assert.ok(spokeId > 0n);
});

flowTest("a message of an older generation is dropped", async (room) => {
  const connectd = room.connectd();
  await connectd.hello();
  await room.subd("dualopend").hello();
  const peer = peerKey();
  const old = await connectd.peer(peer);
  const fresh = await connectd.peer(peer, { replaced: old });
  connectd.spoke(peer, old, id32(), MessageType.openChannel2);
  connectd.ended(peer, old, id32(), 1n, Ended.SUBD_LOST);
  connectd.gone(peer, old, 1n);
  await settled(connectd, peer, fresh);
  assert.equal(await openings(room), 0);
  assert.equal((await room.room.listPeers(peer))[0]?.connection?.generation, fresh);
});

flowTest("who speaks before a subd is there waits, and is connected when one comes", async (room) => {
  const peer = peerKey();
  const channel = await saveChannel(room.sql, peer);
  const connectd = room.connectd();
  await connectd.hello();
  const generation = await connectd.peer(peer);
  const spokeId = connectd.spoke(peer, generation, channel.channelId, MessageType.channelReestablish);
  assert.equal((await connectd.inbox.next("spokeWait")).spokeId, spokeId);
  await room.subd("dualopend").hello();
  assert.deepEqual((await connectd.inbox.next("peerConnectSubd")).channelId, channel.channelId);
});

flowTest("a restarted lightningd keeps peers and owners, and answers what was unanswered", async (room) => {
  const peer = peerKey();
  const channel = await saveChannel(room.sql, peer);
  const before = room.connectd("connectd");
  await before.hello();
  await room.subd("dualopend", "subd").hello();
  const generation = await before.peer(peer);
  const { epoch } = await before.inbox.next("peerConnectSubd");
  before.started(peer, generation, channel.channelId, epoch);
  await settled(before, peer, generation);
  await room.end();

  await room.begin();
  const connectd = room.connectd("connectd");
  const subd = await room.subd("dualopend", "subd").hello([{ channel: channel.channel, epoch }]);
  // Blocks may have come meanwhile.
  assert.equal((await subd.inbox.next("lookAgain")).channel, channel.channel);
  const live = {
    peer: { peerId: peer, connection: 1n, remoteAddr: "127.0.0.1:19735" },
    generation,
    attachments: [{ channelId: channel.channelId, epoch, subdInstance: "subd" }],
  };
  const stranger = id32();
  await connectd.hello([live], [{
    peerId: peer,
    generation,
    spokeId: 77n,
    messageType: MessageType.channelReestablish,
    channelId: stranger,
  }]);
  const final = await connectd.finalMessages();
  assert.deepEqual([final.spokeId, final.messages.map((message) => message.type)], [77n, ["error"]]);
  assert.equal(connectd.inbox.count("peerConnectSubd"), 0);
  assert.equal(connectd.inbox.count("disconnect"), 0);
  assert.equal(subd.assigns.length, 0);
  const [row] = await room.sql<{ owner_epoch: bigint }[]>`SELECT owner_epoch FROM channels`;
  assert.equal(row?.owner_epoch, epoch);
});

flowTest(
  "a lightningd that died between COMMIT and telling assigns again, above what was committed",
  async (room) => {
    const peer = peerKey();
    await saveChannel(room.sql, peer, { epoch: 9n, instance: "subd" });
    const before = room.connectd("connectd");
    await before.hello();
    const generation = await before.peer(peer);
    await room.end();
    await room.begin();
    const connectd = room.connectd("connectd");
    await room.subd("dualopend", "subd").hello();
    await connectd.hello([{
      peer: { peerId: peer, connection: 1n, remoteAddr: "127.0.0.1:19735" },
      generation,
    }]);
    const order = await connectd.inbox.next("peerConnectSubd");
    assert.deepEqual([order.generation, order.epoch > 9n], [generation, true]);
  },
);

flowTest("a channel that lost its subd while lightningd was away gets a new connection", async (room) => {
  const peer = peerKey();
  const before = room.connectd("connectd");
  await before.hello();
  const generation = await before.peer(peer);
  // It was attached on this connection: its row says so.
  await saveChannel(room.sql, peer, { generation });
  await room.end();
  await room.begin();
  const connectd = room.connectd("connectd");
  await room.subd("dualopend").hello();
  await connectd.hello([{
    peer: { peerId: peer, connection: 1n, remoteAddr: "127.0.0.1:19735" },
    generation,
  }]);
  assert.equal((await connectd.inbox.next("disconnect")).generation, generation);
  assert.equal(connectd.inbox.count("peerConnectSubd"), 0);
});

flowTest("a subd is told to let go of what it holds under an old epoch", async (room) => {
  const channel = await saveChannel(room.sql, peerKey(), { epoch: 5n });
  const subd = await room.subd("dualopend").hello([{ channel: channel.channel, epoch: 4n }]);
  const withdraw = await subd.inbox.next("withdraw");
  assert.deepEqual([withdraw.channel, withdraw.epoch], [channel.channel, 4n]);
});

flowTest(
  "a block: owners look again, and a sibling that confirms after the lock raises the alarm",
  async (room) => {
    const peer = peerKey();
    const channel = await saveChannel(room.sql, peer, { state: "CHANNELD_NORMAL" });
    const connectd = room.connectd();
    await connectd.hello();
    const channeld = await room.subd("channeld").hello();
    const generation = await connectd.peer(peer);
    const { epoch } = await connectd.inbox.next("peerConnectSubd");
    connectd.started(peer, generation, channel.channelId, epoch);
    for (const tell of room.tips) tell(201, [channel.channel]);
    const look = await channeld.inbox.next("lookAgain");
    assert.deepEqual([look.channel, look.height], [channel.channel, 201]);

    const sibling = await saveAttempt(room.sql, channel.channel, 1);
    await confirmAttempt(room.sql, sibling);
    for (const tell of room.tips) tell(202, [channel.channel]);
    const withdraw = await channeld.inbox.next("withdraw");
    assert.deepEqual([withdraw.channel, withdraw.epoch], [channel.channel, epoch]);
    const said = await connectd.finalMessages();
    assert.deepEqual(said.messages.map((message) => message.type), ["error"]);
    const [row] = await room.sql<{ error_text: string; owner_epoch: bigint }[]>`
    SELECT error_text, owner_epoch FROM channels`;
    assert.match(row!.error_text, /another funding attempt/);
    assert.equal(row!.owner_epoch, epoch + 1n);
    // Funds follow the chain all the same.
    const [listed] = await room.room.listPeerChannels(peer);
    assert.equal(listed?.funding?.attempt, sibling);
  },
);

flowTest(
  "a channel whose attempts were all double-spent deep is forgotten, not a block earlier",
  async (room) => {
    const channel = await saveChannel(room.sql, peerKey());
    const outpoint = randomBytes(32);
    await room.sql`INSERT INTO attempt_inputs (attempt, serial_id, side, txid, vout, amount_sat)
    VALUES (${channel.attempt}, 0, 'local', ${outpoint}, 0, 1000)`;
    await room.sql`INSERT INTO blocks (height, hash, prev_hash) VALUES (200, ${randomBytes(32)}, ${
      randomBytes(32)
    })`;
    await room.sql`INSERT INTO spends (txid, vout, spending_txid, height)
    VALUES (${outpoint}, 0, ${randomBytes(32)}, 200)`;
    const count = async () => (await room.sql`SELECT FROM channels`).length;
    for (const tell of room.tips) tell(298, [channel.channel]);
    for (const tell of room.tips) tell(299, [channel.channel]);
    await waitFor(async () => await count() === 0, { what: "the channel's end" });
  },
);

flowTest("an attempt that is not double-spent keeps its channel", async (room) => {
  const channel = await saveChannel(room.sql, peerKey());
  const outpoint = randomBytes(32);
  await room.sql`INSERT INTO attempt_inputs (attempt, serial_id, side, txid, vout, amount_sat)
    VALUES (${channel.attempt}, 0, 'local', ${outpoint}, 0, 1000)`;
  await room.sql`INSERT INTO blocks (height, hash, prev_hash) VALUES (200, ${randomBytes(32)}, ${
    randomBytes(32)
  })`;
  await room.sql`INSERT INTO spends (txid, vout, spending_txid, height)
    VALUES (${outpoint}, 0, ${randomBytes(32)}, 200)`;
  await saveAttempt(room.sql, channel.channel, 1);
  // Of a channel of ours: one that a peer opened would be given up by now.
  await room.sql`UPDATE channels SET opener = 'local'`;
  for (const tell of room.tips) tell(400, [channel.channel]);
  await room.room.blocksHandled();
  assert.equal((await room.sql`SELECT FROM channels`).length, 1);
});

flowTest(
  "a peer's open that never confirms: forgotten without coins of ours, else failed and double-spent",
  async (room) => {
    const empty = await saveChannel(room.sql, peerKey());
    const filled = await saveChannel(room.sql, peerKey());
    await room.sql`INSERT INTO attempt_inputs (attempt, serial_id, side, txid, vout, amount_sat)
    VALUES (${filled.attempt}, 0, 'local', ${randomBytes(32)}, 0, 1000)`;
    for (const tell of room.tips) tell(TEST_HEIGHT + GIVEUP_BLOCKS - 1, []);
    for (const tell of room.tips) tell(TEST_HEIGHT + GIVEUP_BLOCKS, []);
    await waitFor(() => room.doubleSpent.length > 0, { what: "the double-spend" });
    assert.deepEqual(room.doubleSpent, [filled.channel]);
    const rows = await room.sql<{ channel: bigint; error_text: string; owner_epoch: bigint }[]>`
    SELECT channel, error_text, owner_epoch FROM channels`;
    assert.equal(rows.length, 1);
    assert.match(rows[0]!.error_text, /did not confirm in 50 blocks/);
    assert.ok(rows[0]!.channel !== empty.channel && rows[0]!.owner_epoch === 2n);
  },
);

flowTest(
  "what we have not signed is forgotten in time, whoever opened it, with what it reserved",
  async (room) => {
    const unsigned = await saveChannel(room.sql, peerKey());
    const ours = await saveChannel(room.sql, peerKey());
    const replaced = await saveChannel(room.sql, peerKey());
    const confirmed = await saveChannel(room.sql, peerKey());
    await saveAttempt(room.sql, replaced.channel, 1);
    await room.sql`UPDATE channels SET opener = 'local' WHERE channel = ${ours.channel}`;
    await room.sql`
    UPDATE funding_attempts SET local_tx_signatures = NULL, complete_tx = NULL
    WHERE channel <> ${replaced.channel} OR seq = 1`;
    for (const { channel } of [unsigned, ours, replaced, confirmed]) {
      await room.sql`
      INSERT INTO reservations (txid, vout, purpose, channel) VALUES (${
        randomBytes(32)
      }, 0, 'attempt', ${channel})`;
    }
    await confirmAttempt(room.sql, confirmed.attempt);
    const left = async () =>
      (await room.sql<{ channel: bigint }[]>`SELECT channel FROM channels ORDER BY channel`).map((row) =>
        row.channel
      );
    for (const tell of room.tips) tell(TEST_HEIGHT + UNSIGNED_GIVEUP_BLOCKS - 1, []);
    await room.room.blocksHandled();
    assert.equal((await left()).length, 4);
    for (const tell of room.tips) tell(TEST_HEIGHT + UNSIGNED_GIVEUP_BLOCKS, []);
    await room.room.blocksHandled();
    assert.deepEqual(await left(), [replaced.channel, confirmed.channel]);
    assert.equal((await room.sql`SELECT FROM reservations`).length, 2);
  },
);

flowTest("fundchannel: an opening row, dualopend attached, and nothing left when it fails", async (room) => {
  const connectd = room.connectd();
  await connectd.hello();
  const dualopend = await room.subd("dualopend").hello();
  const peer = peerKey();
  const generation = await connectd.peer(peer);
  const open = room.room.openChannel({
    peerId: peer,
    announce: false,
    funds: { type: "own", amount: 100_000n as never },
    runToCompletion: true,
  });
  const order = await connectd.inbox.next("peerConnectSubd");
  assert.equal(await openings(room), 1);
  assert.equal(dualopend.assigns[0]?.opening !== 0n, true);
  connectd.ended(peer, generation, order.channelId, order.epoch, Ended.SUBD_LOST);
  await assert.rejects(open, /could not be connected/);
  assert.equal(await openings(room), 0);
});

flowTest("opens that cannot be: unknown peer, announced", async (room) => {
  const request = {
    peerId: peerKey(),
    announce: false,
    funds: { type: "own", amount: "all" },
    runToCompletion: true,
  } as const;
  await assert.rejects(room.room.openChannel(request), { clnCode: 306 });
  await assert.rejects(room.room.openChannel({ ...request, announce: true }), { clnCode: -32602 });
  await assert.rejects(room.room.bumpChannel(id32(), request), { clnCode: 311 });
  await assert.rejects(room.room.connect(peerKey(), []), { clnCode: 400 });
});

flowTest("connect, ping and disconnect are answered by connectd's results", async (room) => {
  const connectd = room.connectd();
  await connectd.hello();
  const peer = peerKey();
  const connecting = room.room.connect(peer, ["127.0.0.1:1"]);
  const { requestId } = await connectd.inbox.next("connect");
  connectd.stream.write({
    message: { case: "connectResult", value: { requestId, error: "refused", clnCode: 401 } },
  });
  await assert.rejects(connecting, { clnCode: 401 });
  const generation = await connectd.peer(peer);
  assert.equal((await room.room.connect(peer, [])).generation, generation);
  const pinging = room.room.ping(peer, 10, 128);
  const ping = await connectd.inbox.next("ping");
  connectd.stream.write({
    message: { case: "pingResult", value: { requestId: ping.requestId, totalLength: 132 } },
  });
  assert.equal(await pinging, 132);
  const leaving = room.room.disconnect(peer, false);
  const { requestId: last } = await connectd.inbox.next("disconnect");
  connectd.stream.write({ message: { case: "disconnectResult", value: { requestId: last } } });
  await leaving;
});

Deno.test("a lightningd that was replaced writes nothing any more", async () => {
  await using room = await TestRoom.start(postgres);
  const connectd = room.connectd();
  await connectd.hello();
  await room.sql`UPDATE leader SET epoch = epoch + 1, instance = 'another'`;
  connectd.connect(peerKey());
  await waitFor(() => room.fatal.length > 0, { what: "the end of the replaced one" });
  assert.ok(room.fatal[0] instanceof LeadershipLostError);
  assert.equal((await room.sql`SELECT FROM connections`).length, 0);
});
