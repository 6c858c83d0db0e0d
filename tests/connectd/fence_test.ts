import assert from "node:assert/strict";
import { waitFor } from "common/testing/wait.ts";
import { AttachmentEnded_Reason } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { RawPeer } from "../lib/raw_peer.ts";
import { TestNode } from "./harness.ts";
import { abort, big, id, test, textOf } from "./messages.ts";

/** More than any socket buffer between two ends takes, in pieces. */
const STALL_BYTES = 16 * 1024 * 1024;
const PIECE = 60_000;

test("fence: a higher epoch cuts the old owner, and nothing of it that waits leaves", async () => {
  await using node = await TestNode.start({
    limits: { maxQueuedBytesPerChannel: 2 * STALL_BYTES, maxQueuedBytesPerPeer: 2 * STALL_BYTES },
  });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const old = await node.attached(live, id(1), 1n);
  peer.pauseReading();
  const count = Math.floor(STALL_BYTES / PIECE);
  for (let i = 1; i <= count; i++) old.send(BigInt(i), [big(id(1), PIECE, 1)]);
  // Some are in the socket, the rest waits in connectd.
  await old.written(1n);
  const fresh = await node.attached(live, id(1), 2n);
  await old.over();
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.reason, AttachmentEnded_Reason.SUPERSEDED);
  const written = fresh.hello.writtenOutSeq;
  assert.ok(written >= 1n && written < BigInt(count), `${written} of ${count}`);
  fresh.send(written + 1n, [abort(id(1), "of epoch 2")]);
  peer.resumeReading();
  let ofTheOld = 0n;
  for (let text = "";; ofTheOld++) {
    text = textOf(await peer.next());
    if (text === "of epoch 2") break;
  }
  assert.equal(ofTheOld, written);
  assert.deepEqual(await peer.beforePong(), []);
});

test("fence: an equal epoch changes nothing, a lower one is refused", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const owner = await node.attached(live, id(1), 5n);
  node.attach(live, id(1), 5n);
  node.attach(live, id(1), 4n);
  const refused = await node.lightningd.event("attachmentEnded");
  assert.equal(refused.reason, AttachmentEnded_Reason.REFUSED);
  assert.equal(refused.epoch, 4n);
  assert.equal(node.subd.attachments.items.length, 0);
  owner.send(1n, [abort(id(1), "still the owner")]);
  assert.equal(textOf(await peer.next()), "still the owner");
  // The epoch outlives its owner.
  owner.stream.cancel();
  await node.lightningd.event(
    "attachmentEnded",
    (event) => event.reason === AttachmentEnded_Reason.SUBD_LOST,
  );
  node.attach(live, id(1), 4n);
  assert.equal((await node.lightningd.event("attachmentEnded")).reason, AttachmentEnded_Reason.REFUSED);
});

test("fence: a number that was written is dropped, a gap hangs up", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const owner = await node.attached(live, id(1), 1n);
  owner.send(1n, [abort(id(1), "1"), abort(id(1), "2")]);
  await owner.written(2n);
  owner.send(1n, [abort(id(1), "1 again"), abort(id(1), "2 again"), abort(id(1), "3")]);
  await owner.written(3n);
  for (const text of ["1", "2", "3"]) assert.equal(textOf(await peer.next()), text);
  owner.send(5n, [abort(id(1), "5")]);
  assert.equal(await peer.closed(), "closed");
  const gone = await node.lightningd.event("peerDisconnected");
  assert.match(gone.reason, /gap/);
});

test("fence: frames that are not durable are replayed to the successor, from the right numbers", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const first = await node.attached(live, id(1), 1n);
  for (let i = 1; i <= 5; i++) await peer.sendBytes(abort(id(1), String(i)));
  await first.frame(5n);
  first.durable(2n);
  first.taken(4n);
  first.send(1n, [abort(id(1), "answer")]);
  await first.written(1n);
  first.say({ case: "finished", value: { reason: "handover" } });
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.reason, AttachmentEnded_Reason.FINISHED);
  assert.equal(ended.framesHeld, 3);
  const spoke = await node.lightningd.event("peerSpoke");
  const second = await node.attached(live, id(1), 2n, spoke.spokeId);
  assert.equal(second.hello.nextInSeq, 3n);
  assert.equal(second.hello.writtenOutSeq, 1n);
  for (const inSeq of [3n, 4n, 5n]) {
    const frame = await second.frame(inSeq);
    assert.equal(textOf(frame.data), String(inSeq));
    assert.equal(frame.replayed, true);
  }
  await peer.sendBytes(abort(id(1), "6"));
  assert.equal((await second.frame(6n)).replayed, false);
});

test("fence: a rekeyed channel is found under both ids, and no other channel's frames are", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const [temporary, final, other] = [id(1), id(2), id(3)];
  const owner = await node.attached(live, temporary, 1n);
  const stranger = await node.attached(live, other, 1n);
  // The peer may use the final id before our owner named it.
  await peer.sendBytes(abort(final, "early"));
  const spoke = await node.lightningd.event("peerSpoke");
  owner.say({ case: "rekey", value: { channelId: final } });
  assert.equal(textOf((await owner.frame(1n)).data), "early");
  // The spoke was settled by the rekey: its answer does no harm.
  node.lightningd.say({
    case: "peerFinalMsg",
    value: {
      ...live,
      spokeId: spoke.spokeId,
      channelId: final,
      messages: [abort(final, "no")],
      hangUp: true,
    },
  });
  await peer.sendBytes(abort(temporary, "old id"));
  await peer.sendBytes(abort(final, "new id"));
  assert.equal(textOf((await owner.frame(2n)).data), "old id");
  assert.equal(textOf((await owner.frame(3n)).data), "new id");
  assert.deepEqual(await peer.beforePong(), []);
  // An owner that claims another channel's id loses its attachment, and that channel goes on.
  owner.say({ case: "rekey", value: { channelId: other } });
  const lost = await node.lightningd.event("attachmentEnded");
  assert.equal(lost.reason, AttachmentEnded_Reason.SUBD_LOST);
  await peer.sendBytes(abort(other, "mine"));
  assert.equal(textOf((await stranger.frame(1n)).data), "mine");
});

test("fence: one peer's channel id does not reach another peer's channel", async () => {
  await using node = await TestNode.start();
  await using good = await RawPeer.connect(node.address, node.nodeId);
  await using evil = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(good.nodeId);
  await node.peer(evil.nodeId);
  const owner = await node.attached(live, id(1), 1n);
  await evil.sendBytes(abort(id(1), "stolen"));
  const spoke = await node.lightningd.event("peerSpoke");
  assert.deepEqual(spoke.peerId, evil.nodeId);
  await good.sendBytes(abort(id(1), "mine"));
  assert.equal(textOf((await owner.frame(1n)).data), "mine");
});

test("fence: contiguous frames leave back to back while other channels write", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const one = await node.attached(live, id(1), 1n);
  const two = await node.attached(live, id(2), 1n);
  const size = 20;
  for (let batch = 0; batch < 20; batch++) {
    const frames = Array.from({ length: size }, (_, i) => abort(id(1), `${batch}/${i}`));
    one.send(BigInt(batch * size + 1), frames, true);
    two.send(BigInt(batch * size + 1), frames.map((_, i) => abort(id(2), `${batch}/${i}`)));
  }
  const seen = { 1: 0, 2: 0 };
  for (let left = 2 * 20 * size; left > 0;) {
    const message = await peer.next();
    left--;
    if (message[2] === 2) {
      seen[2]++;
      continue;
    }
    const batch = Math.floor(seen[1] / size);
    for (let i = 0;; i++) {
      assert.equal(seen[1]++, batch * size + i);
      if (i === size - 1) break;
      left--;
      const next = await peer.next();
      assert.equal(next[2], 1, "a frame of another channel inside a batch");
      assert.equal(textOf(next), `${batch}/${i + 1}`);
    }
  }
  assert.deepEqual(seen, { 1: 400, 2: 400 });
});

test("fence: an attachment that fails says its last messages and asks for a hang-up, which lightningd decides", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const owner = await node.attached(live, id(1), 1n);
  owner.say({
    case: "fail",
    value: { messages: [abort(id(1), "failed")], reason: "bad peer", wantHangUp: true },
  });
  assert.equal(textOf(await peer.next()), "failed");
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.wantHangUp, true);
  assert.equal(ended.detail, "bad peer");
  assert.deepEqual(await peer.beforePong(), []);
});

test("flow: a channel whose subd takes nothing delays no other channel and no pong", async () => {
  await using node = await TestNode.start({ limits: { creditFrames: 4 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const slow = await node.attached(live, id(1), 1n);
  const quick = await node.attached(live, id(2), 1n);
  for (let i = 1; i <= 200; i++) await peer.sendBytes(abort(id(1), String(i)));
  await peer.sendBytes(abort(id(2), "quick"));
  assert.equal(textOf((await quick.frame(1n)).data), "quick");
  assert.deepEqual(await peer.beforePong(), []);
  await slow.frame(4n);
  assert.equal(slow.said.items.some((item) => item.case === "frame" && item.value.inSeq > 4n), false);
  // Each taken frame gives credit for one more.
  slow.taken(3n);
  await slow.frame(7n);
  assert.equal(slow.said.items.some((item) => item.case === "frame" && item.value.inSeq > 7n), false);
});

test("flow: a peer that floods one channel is hung up on, at the limit", async () => {
  await using node = await TestNode.start({ limits: { maxHeldFramesPerChannel: 100, creditFrames: 10 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  await node.attached(live, id(1), 1n);
  for (let i = 1; i <= 101; i++) await peer.sendBytes(abort(id(1), String(i)));
  await peer.closed();
  const gone = await node.lightningd.event("peerDisconnected");
  assert.match(gone.reason, /too much unread/);
});

test("flow: beyond the peer's cap it is not read until there is room, then everything comes in order", async () => {
  await using node = await TestNode.start({ limits: { maxHeldBytesPerPeer: 200_000, maxReadPause: 60_000 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const one = await node.attached(live, id(1), 1n);
  for (let i = 1; i <= 5; i++) await peer.sendBytes(big(id(1), PIECE, i));
  const pong = peer.beforePong();
  await one.frame(4n);
  assert.equal(one.said.items.some((item) => item.case === "frame" && item.value.inSeq === 5n), false);
  one.durable(4n);
  assert.equal((await one.frame(5n)).data[40], 5);
  assert.deepEqual(await pong, []);
});

test("flow: a cap that is not relieved in time ends the connection", async () => {
  await using node = await TestNode.start({ limits: { maxHeldBytesPerPeer: 100_000, maxReadPause: 200 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  await node.attached(live, id(1), 1n);
  for (let i = 1; i <= 4; i++) await peer.sendBytes(big(id(1), PIECE, i)).catch(() => {});
  const gone = await node.lightningd.event("peerDisconnected");
  assert.match(gone.reason, /not taken in time/);
});

test("flow: too many spokes stop the reading, answers let it go on", async () => {
  await using node = await TestNode.start({ limits: { maxUnansweredSpokes: 3 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  await node.peer(peer.nodeId);
  for (let i = 1; i <= 5; i++) await peer.sendBytes(abort(id(i), "who"));
  const spokes = [];
  for (let i = 1; i <= 3; i++) spokes.push(await node.lightningd.event("peerSpoke"));
  const pong = peer.beforePong();
  for (const { spokeId } of spokes) node.lightningd.say({ case: "spokeDrop", value: { spokeId } });
  await node.lightningd.event("peerSpoke");
  await node.lightningd.event("peerSpoke");
  await pong;
});

test("flow: a subd is held back while the peer does not read", async () => {
  await using node = await TestNode.start({ limits: { maxQueuedBytesPerChannel: 500_000 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const owner = await node.attached(live, id(1), 1n);
  peer.pauseReading();
  const count = Math.floor(2 * STALL_BYTES / PIECE);
  let sent = 0;
  const more = () => {
    while (sent < count) {
      sent++;
      const room = owner.stream.write({
        message: {
          case: "frames",
          value: { firstOutSeq: BigInt(sent), data: [big(id(1), PIECE)], contiguous: false },
        },
      });
      if (!room) return;
    }
  };
  owner.stream.onDrain(more);
  more();
  // It comes to a stop well before everything is through.
  let [before, still] = [-1, 0];
  await waitFor(() => {
    still = sent === before ? still + 1 : 0;
    before = sent;
    return still === 30;
  }, { what: "the subd's writes to stall" });
  assert.ok(sent < count, `${sent} of ${count} went through`);
  peer.resumeReading();
  for (let i = 1; i <= count; i++) await peer.next();
  assert.equal(sent, count);
});

test("flow: a peer that does not read cannot hold a disconnect up, nor the end of connectd", async () => {
  await using node = await TestNode.start({
    limits: {
      drainWrites: 200,
      maxQueuedBytesPerChannel: 2 * STALL_BYTES,
      maxQueuedBytesPerPeer: 2 * STALL_BYTES,
    },
  });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const owner = await node.attached(live, id(1), 1n);
  peer.pauseReading();
  const count = Math.floor(STALL_BYTES / PIECE);
  for (let i = 1; i <= count; i++) owner.send(BigInt(i), [big(id(1), PIECE)]);
  await owner.written(1n);
  node.lightningd.say({ case: "disconnect", value: { requestId: 1n, ...live, reason: "test" } });
  const gone = await node.lightningd.event("peerDisconnected");
  assert.equal(gone.drained, false);
  assert.equal((await node.lightningd.event("disconnectResult")).error, "");
});
