import assert from "node:assert/strict";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { waitFor } from "common/testing/wait.ts";
import { FaultAction } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Direction } from "gen/arcus/types/v1/types_pb.ts";
import type { Limits } from "../../services/connectd/limits.ts";
import { RawPeer } from "../lib/raw_peer.ts";
import { type FakeAttachment, TestNode } from "./harness.ts";
import { abort, complete, id, test, textOf } from "./messages.ts";

type Rule = Parameters<TestNode["face"]["setFaults"]>[0]["rules"];

/** A peer that is silent so long is given up, unless a fault wants it to look alive. */
const IMPATIENT = { pingAfterSilence: 100, pongTimeout: 100 };

/** A node with rules set, a peer, and an owner of channel 1. */
async function withFaults(
  rules: Rule & object,
  work: (node: TestNode, peer: RawPeer, owner: FakeAttachment) => Promise<void>,
  limits: Partial<Limits> = {},
): Promise<void> {
  await using node = await TestNode.start({ limits });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const owner = await node.attached(live, id(1), 1n);
  await node.face.setFaults({ rules });
  await work(node, peer, owner);
}

test("fault: - closes before the message is sent", () =>
  withFaults([{ action: FaultAction.CLOSE_BEFORE, message: "tx_complete" }], async (node, peer, owner) => {
    owner.send(1n, [abort(id(1), "before"), complete(id(1)), abort(id(1), "after")]);
    assert.equal(textOf(await peer.next()), "before");
    await peer.closed();
    assert.equal(peer.unread.length, 0);
    const { pending, fired } = await node.face.listFaults({});
    assert.deepEqual([pending.length, fired.length], [0, 1]);
    await node.lightningd.event("peerDisconnected");
  }));

test("fault: + closes after the message was sent", () =>
  withFaults([{ action: FaultAction.CLOSE_AFTER, message: "tx_complete" }], async (_node, peer, owner) => {
    owner.send(1n, [abort(id(1), "before"), complete(id(1)), abort(id(1), "after")]);
    assert.equal(textOf(await peer.next()), "before");
    assert.deepEqual(await peer.next(), complete(id(1)));
    await peer.closed();
    assert.equal(peer.unread.length, 0);
  }));

test("fault: = only counts, and the next rule follows", () =>
  withFaults([
    { action: FaultAction.NOTHING, message: "tx_complete", nth: 2 },
    { action: FaultAction.CLOSE_BEFORE, message: "tx_complete" },
  ], async (node, peer, owner) => {
    owner.send(1n, [complete(id(1)), complete(id(1))]);
    await owner.written(2n);
    assert.equal((await node.face.listFaults({})).pending.length, 1);
    owner.send(3n, [complete(id(1))]);
    await peer.closed();
    assert.equal(peer.unread.length, 2);
  }));

test("fault: $ drops the message and carries on", () =>
  withFaults([{ action: FaultAction.DROP, message: "tx_complete" }], async (_node, peer, owner) => {
    owner.send(1n, [abort(id(1), "before"), complete(id(1)), abort(id(1), "after")]);
    assert.equal(textOf(await peer.next()), "before");
    assert.equal(textOf(await peer.next()), "after");
    assert.deepEqual(await peer.beforePong(), []);
  }));

test("fault: x sends, then neither reads nor writes, and does not close", () =>
  withFaults([{ action: FaultAction.FREEZE_AFTER, message: "tx_complete" }], async (node, peer, owner) => {
    owner.send(1n, [complete(id(1)), abort(id(1), "after")]);
    assert.deepEqual(await peer.next(), complete(id(1)));
    await assert.rejects(peer.beforePong(500), /not within/);
    await peer.sendBytes(abort(id(1), "unread"));
    assert.equal(peer.ended, false);
    assert.equal((await node.face.listPeers({})).peers.length, 1);
    assert.equal(owner.said.items.some((item) => item.case === "frame"), false);
  }, IMPATIENT));

test("fault: 0 swallows both ways from this message on, and does not close", () =>
  withFaults([{ action: FaultAction.BLACKHOLE, message: "tx_complete" }], async (node, peer, owner) => {
    owner.send(1n, [abort(id(1), "before"), complete(id(1)), abort(id(1), "after")]);
    assert.equal(textOf(await peer.next()), "before");
    // The owner believes that all is written, and the peer's words vanish.
    await owner.written(3n);
    await peer.sendBytes(abort(id(1), "into the void"));
    await assert.rejects(peer.beforePong(500), /not within/);
    assert.equal(peer.ended, false);
    assert.equal((await node.face.listPeers({})).peers.length, 1);
    assert.equal(owner.said.items.some((item) => item.case === "frame"), false);
  }, IMPATIENT));

test("fault: < closes after a message was received and handed on", () =>
  withFaults(
    [{ action: FaultAction.CLOSE_ON_RECEIVE, message: "tx_complete" }],
    async (_node, peer, owner) => {
      await peer.sendBytes(complete(id(1)));
      await owner.frame(1n);
      await peer.closed();
    },
  ));

test("fault: incoming messages are closed before, dropped and delayed too", async () => {
  const incoming = Direction.INCOMING;
  await withFaults([
    { action: FaultAction.DROP, message: "tx_complete", direction: incoming },
    { action: FaultAction.DELAY, message: "tx_complete", direction: incoming, delayMs: 200 },
    { action: FaultAction.CLOSE_BEFORE, message: "tx_complete", direction: incoming },
  ], async (_node, peer, owner) => {
    await peer.sendBytes(complete(id(1)));
    await peer.sendBytes(abort(id(1), "past the drop"));
    assert.equal(textOf((await owner.frame(1n)).data), "past the drop");
    const since = performance.now();
    await peer.sendBytes(complete(id(1)));
    await owner.frame(2n);
    assert.ok(performance.now() - since >= 190);
    await peer.sendBytes(complete(id(1)));
    await peer.closed();
    await owner.peerGone();
    assert.equal(owner.said.items.some((item) => item.case === "frame"), false);
  });
});

test("fault: delay holds a sent message, and those behind it keep their order", () =>
  withFaults(
    [{ action: FaultAction.DELAY, message: "tx_complete", delayMs: 200 }],
    async (_node, peer, owner) => {
      const since = performance.now();
      owner.send(1n, [abort(id(1), "before"), complete(id(1)), abort(id(1), "after")]);
      assert.equal(textOf(await peer.next()), "before");
      assert.deepEqual(await peer.next(), complete(id(1)));
      assert.ok(performance.now() - since >= 190);
      assert.equal(textOf(await peer.next()), "after");
    },
  ));

test("fault: rules count the nth match on one channel, and only the head is compared", () =>
  withFaults([
    { action: FaultAction.DROP, message: "tx_complete", nth: 2, channelId: id(2) },
    { action: FaultAction.DROP, message: "tx_abort" },
  ], async (node, peer, owner) => {
    const other = await node.attached(await node.peer(peer.nodeId), id(2), 1n);
    owner.send(1n, [complete(id(1)), complete(id(1)), abort(id(1), "not dropped: not the head")]);
    await owner.written(3n);
    other.send(1n, [complete(id(2)), complete(id(2)), complete(id(2)), abort(id(2), "dropped")]);
    await other.written(4n);
    const got = await peer.beforePong();
    assert.deepEqual(got.map((message) => [message[1], message[2]]), [
      [70, 1],
      [70, 1],
      [74, 1],
      [70, 2],
      [70, 2],
    ]);
  }));

test("fault: init itself can be cut, and a rule outlives the connection", async () => {
  await using node = await TestNode.start();
  await node.face.setFaults({
    rules: [
      { action: FaultAction.CLOSE_BEFORE, message: "WIRE_INIT" },
      { action: FaultAction.CLOSE_AFTER, message: "init" },
      { action: FaultAction.CLOSE_ON_RECEIVE, message: "init" },
    ],
  });
  await assert.rejects(RawPeer.connect(node.address, node.nodeId), /ended/);
  await using cut = await RawPeer.connect(node.address, node.nodeId);
  await cut.closed();
  // Ours may not have left when theirs closes.
  await using third = await RawPeer.connect(node.address, node.nodeId, { awaitInit: false });
  await third.closed();
  assert.equal((await node.face.listFaults({})).fired.length, 3);
  await using fourth = await RawPeer.connect(node.address, node.nodeId);
  await node.peer(fourth.nodeId);
});

test("fault: refused outside of developer mode, and for what cannot be meant", async () => {
  const is = (code: Code, reason: string) => (error: unknown) =>
    error instanceof ArcusError && error.code === code && error.reason === reason;
  await using node = await TestNode.start({ developer: false });
  const notHere = is(Code.FAILED_PRECONDITION, "NOT_DEVELOPER");
  await assert.rejects(node.face.setFaults({ rules: [] }), notHere);
  await assert.rejects(node.face.listFaults({}), notHere);
  await using dev = await TestNode.start();
  const bad = async (rule: (Rule & object)[number], reason: string) =>
    await assert.rejects(dev.face.setFaults({ rules: [rule] }), is(Code.INVALID_ARGUMENT, reason));
  await bad({ message: "init" }, "UNKNOWN_ENUM_VALUE");
  await bad({ action: 99 as FaultAction, message: "init" }, "UNKNOWN_ENUM_VALUE");
  await bad({ action: FaultAction.DROP, message: "no_such_message" }, "BAD_FAULT");
  await bad({ action: FaultAction.DROP, message: "init", channelId: new Uint8Array(3) }, "BAD_LENGTH");
  await bad({ action: FaultAction.DELAY, message: "init", delayMs: 3_600_000 }, "BAD_FAULT");
});

test("the face shows what connectd holds", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  await node.attached(await node.peer(peer.nodeId), id(1), 7n);
  const info = await node.face.getInfo({});
  assert.deepEqual(info.nodeId, node.nodeId);
  assert.deepEqual([info.peers, info.attachments, info.developer], [1, 1, true]);
  assert.deepEqual(info.bindings, [...node.connectd.bindings]);
  const { peers } = await node.face.listPeers({ peerId: peer.nodeId });
  assert.equal(peers[0]?.attachments[0]?.epoch, 7n);
  await assert.rejects(node.face.listPeers({ peerId: new Uint8Array(5) }));
  await peer.close();
  await waitFor(async () => (await node.face.getInfo({})).peers === 0, { what: "the peer's end" });
});
