import assert from "node:assert/strict";
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import { Features } from "bolt/wire/features.ts";
import { decodeMessage, encodeMessage } from "bolt/wire/messages.ts";
import { waitFor } from "common/testing/wait.ts";
import { AttachmentEnded_Reason } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { defaultInit, dialAddress, RawListener, RawPeer } from "../lib/raw_peer.ts";
import { TestNode } from "./harness.ts";
import { abort, complete, id, test, textOf } from "./messages.ts";

test("two nodes connect, and frames of a channel flow both ways", async () => {
  await using alice = await TestNode.start();
  await using bob = await TestNode.start();
  alice.lightningd.say({
    case: "connect",
    value: { requestId: 1n, peerId: bob.nodeId, addresses: ["127.0.0.1:1", bob.address] },
  });
  const result = await alice.lightningd.event("connectResult");
  assert.equal(result.error, "");
  const onAlice = { peerId: bob.nodeId, generation: result.generation };
  const onBob = await bob.peer(alice.nodeId);
  const fromAlice = await alice.attached(onAlice, id(1), 1n);
  fromAlice.send(1n, [abort(id(1), "hello")]);
  const spoke = await bob.lightningd.event("peerSpoke");
  assert.equal(spoke.messageType, 74);
  assert.equal(bytesToHex(spoke.channelId), bytesToHex(id(1)));
  const fromBob = await bob.attached(onBob, id(1), 1n, spoke.spokeId);
  const frame = await fromBob.frame(1n);
  assert.equal(textOf(frame.data), "hello");
  fromBob.durable(1n);
  fromBob.send(1n, [complete(id(1)), complete(id(1))]);
  assert.deepEqual((await fromAlice.frame(2n)).data, complete(id(1)));
  await fromBob.written(2n);
});

test("thousands of messages cross the key rotation", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const attachment = await node.attached(live, id(1), 1n);
  const count = 1_500;
  for (let i = 1; i <= count; i++) peer.sendBytes(abort(id(1), String(i)));
  for (let i = 1; i <= count; i++) {
    assert.equal(textOf((await attachment.frame(BigInt(i))).data), String(i));
    attachment.durable(BigInt(i));
    attachment.send(BigInt(i), [abort(id(1), `back ${i}`)]);
  }
  for (let i = 1; i <= count; i++) assert.equal(textOf(await peer.next()), `back ${i}`);
});

test("a peer is read only after lightningd accepted it", async () => {
  await using node = await TestNode.start();
  node.lightningd.accepting = false;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const connected = await node.lightningd.event("peerConnected");
  await peer.sendBytes(abort(id(2), "early"));
  const [live] = (await node.face.listPeers({})).peers;
  assert.equal(live?.generation, 0n);
  const generation = node.lightningd.accept(connected);
  // The connection's only spoke comes under the generation: nothing was read before.
  const spoke = await node.lightningd.event("peerSpoke");
  assert.equal(spoke.generation, generation);
  node.lightningd.say({
    case: "peerFinalMsg",
    value: {
      peerId: peer.nodeId,
      generation,
      spokeId: spoke.spokeId,
      channelId: spoke.channelId,
      messages: [abort(id(2), "unknown channel")],
      hangUp: false,
    },
  });
  assert.equal(textOf(await peer.next()), "unknown channel");
  assert.deepEqual(await peer.beforePong(), []);
});

test("a final message that hangs up is written before the connection ends", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  await peer.sendBytes(complete(id(3)));
  const spoke = await node.lightningd.event("peerSpoke");
  const { peerId, generation, spokeId, channelId } = spoke;
  node.lightningd.say({
    case: "peerFinalMsg",
    value: { peerId, generation, spokeId, channelId, messages: [abort(id(3), "farewell")], hangUp: true },
  });
  assert.equal(textOf(await peer.next()), "farewell");
  assert.equal(await peer.closed(), "closed");
  const gone = await node.lightningd.event("peerDisconnected");
  assert.equal(gone.drained, true);
});

test("an unanswered spoke ends in a drained hang-up", async () => {
  await using node = await TestNode.start({ limits: { spokeDeadline: 200 } });
  node.subd.endsWithPeer = false;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const other = await node.attached(live, id(7), 1n);
  await peer.sendBytes(complete(id(4)));
  await node.lightningd.event("peerSpoke");
  await other.peerGone();
  // The other channel's subd still gets its last word out.
  other.send(1n, [abort(id(7), "flushed")]);
  other.say({ case: "finished", value: { reason: "peer gone" } });
  assert.equal(textOf(await peer.next()), "flushed");
  assert.equal(await peer.closed(), "closed");
  const gone = await node.lightningd.event("peerDisconnected");
  assert.match(gone.reason, /no answer to spoke/);
  assert.equal(gone.drained, true);
});

test("spoke_wait holds on, spoke_drop forgets", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  await peer.sendBytes(abort(id(5), "one"));
  const waiting = await node.lightningd.event("peerSpoke");
  node.lightningd.say({ case: "spokeWait", value: { spokeId: waiting.spokeId } });
  await peer.sendBytes(abort(id(5), "two"));
  await peer.sendBytes(abort(id(6), "dropped"));
  const dropped = await node.lightningd.event("peerSpoke", (spoke) => spoke.spokeId !== waiting.spokeId);
  node.lightningd.say({ case: "spokeDrop", value: { spokeId: dropped.spokeId } });
  const attachment = await node.attached(live, id(5), 1n, waiting.spokeId);
  assert.equal(textOf((await attachment.frame(1n)).data), "one");
  assert.equal(textOf((await attachment.frame(2n)).data), "two");
  // What follows on the dropped channel is a spoke of its own.
  await peer.sendBytes(abort(id(6), "again"));
  const again = await node.lightningd.event("peerSpoke");
  assert.notEqual(again.spokeId, dropped.spokeId);
  const late = await node.attached(live, id(6), 1n, again.spokeId);
  assert.equal(textOf((await late.frame(1n)).data), "again");
});

test("the end of lightningd's stream keeps peers, attachments and spokes, and stops the clock of spokes", async () => {
  await using node = await TestNode.start({ limits: { spokeDeadline: 300 } });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const attachment = await node.attached(live, id(1), 3n);
  node.lightningd.die();
  await waitFor(async () => !(await node.face.getInfo({})).lightningdConnected, { what: "lightningd away" });
  // Frames still flow, and a spoke waits far beyond its deadline.
  await peer.sendBytes(abort(id(1), "to the subd"));
  assert.equal(textOf((await attachment.frame(1n)).data), "to the subd");
  await peer.sendBytes(abort(id(2), "to nobody"));
  assert.deepEqual(await peer.beforePong(), []);
  const since = performance.now();
  await waitFor(() => performance.now() - since > 700, { what: "twice the deadline" });
  assert.deepEqual(await peer.beforePong(), []);
  node.lightningd.leaderEpoch = 2n;
  node.lightningd.present = true;
  const hello = await waitFor(() => node.lightningd.hellos[1], { what: "a second hello" });
  assert.equal(hello.peers.length, 1);
  assert.equal(hello.peers[0]?.generation, live.generation);
  assert.deepEqual(
    hello.peers[0]?.attachments.map(({ channelId, epoch }) => [bytesToHex(channelId), epoch]),
    [[bytesToHex(id(1)), 3n]],
  );
  const [spoke] = hello.unanswered;
  assert.equal(bytesToHex(spoke?.channelId ?? id(0)), bytesToHex(id(2)));
  const successor = await node.attached(live, id(2), 1n, spoke?.spokeId ?? 0n);
  assert.equal(textOf((await successor.frame(1n)).data), "to nobody");
});

test("a lightningd with a lower leader epoch is not obeyed", async () => {
  await using node = await TestNode.start({ prepare: (it) => it.lightningd.leaderEpoch = 5n });
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  await node.peer(peer.nodeId);
  node.lightningd.leaderEpoch = 4n;
  node.lightningd.die();
  node.lightningd.present = true;
  await waitFor(() => node.lightningd.hellos.length >= 3, { what: "attempts with the old leader" });
  assert.equal((await node.face.getInfo({})).leaderEpoch, 5n);
  assert.equal((await node.face.getInfo({})).lightningdConnected, false);
  node.lightningd.leaderEpoch = 6n;
  await waitFor(async () => (await node.face.getInfo({})).leaderEpoch === 6n, { what: "the new leader" });
});

test("a subd that dies costs its attachment only, and says so", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const dying = await node.attached(live, id(1), 1n);
  const living = await node.attached(live, id(2), 1n);
  await peer.sendBytes(abort(id(1), "untaken"));
  await dying.frame(1n);
  dying.stream.cancel();
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.reason, AttachmentEnded_Reason.SUBD_LOST);
  assert.equal(ended.framesHeld, 1);
  const spoke = await node.lightningd.event("peerSpoke");
  await peer.sendBytes(abort(id(2), "fine"));
  assert.equal(textOf((await living.frame(1n)).data), "fine");
  const successor = await node.attached(live, id(1), 2n, spoke.spokeId);
  const replayed = await successor.frame(1n);
  assert.equal(replayed.replayed, true);
  assert.equal(textOf(replayed.data), "untaken");
});

test("a subd that is not there is reported, not waited for", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  node.attach(live, id(1), 1n, 0n, "127.0.0.1:1");
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.reason, AttachmentEnded_Reason.SUBD_LOST);
  node.attach({ ...live, generation: live.generation + 1n }, id(1), 2n);
  const stale = await node.lightningd.event("attachmentEnded");
  assert.equal(stale.reason, AttachmentEnded_Reason.REFUSED);
  assert.deepEqual(await peer.beforePong(), []);
});

test("disconnect drains, and the answer comes after the end", async () => {
  await using node = await TestNode.start();
  node.subd.endsWithPeer = false;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const attachment = await node.attached(live, id(1), 1n);
  node.lightningd.say({ case: "disconnect", value: { requestId: 8n, ...live, reason: "test" } });
  await attachment.peerGone();
  attachment.send(1n, [abort(id(1), "last")]);
  attachment.stream.end();
  assert.equal(textOf(await peer.next()), "last");
  assert.equal(await peer.closed(), "closed");
  // The subd did as it was told: nothing was lost, and nothing has to be made anew.
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.reason, AttachmentEnded_Reason.PEER_GONE);
  const gone = await node.lightningd.event("peerDisconnected");
  assert.equal(gone.drained, true);
  assert.equal((await node.lightningd.event("disconnectResult")).error, "");
  node.lightningd.say({ case: "disconnect", value: { requestId: 9n, ...live, reason: "test" } });
  assert.match((await node.lightningd.event("disconnectResult")).error, /not connected/);
});

test("a subd that does not flush cannot hold a disconnect up", async () => {
  await using node = await TestNode.start({ limits: { drainSubds: 200 } });
  node.subd.endsWithPeer = false;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  await node.attached(live, id(1), 1n);
  node.lightningd.say({ case: "disconnect", value: { requestId: 8n, ...live, reason: "test" } });
  const gone = await node.lightningd.event("peerDisconnected");
  assert.equal(gone.drained, false);
});

test("a second connection of a peer replaces the first at once", async () => {
  await using node = await TestNode.start();
  await using first = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(first.nodeId);
  const attachment = await node.attached(live, id(1), 1n);
  await using second = await RawPeer.connect(node.address, node.nodeId, { secret: first.secret });
  const again = await node.lightningd.event("peerReconnected");
  assert.equal(again.replacedGeneration, live.generation);
  await first.closed();
  await attachment.peerGone();
  const renewed = await waitFor(async () => {
    const peer = await node.peer(first.nodeId);
    return peer.generation > live.generation ? peer : undefined;
  }, { what: "the new generation" });
  // Orders for the old generation are refused, those for the new one are obeyed.
  node.attach(live, id(1), 2n);
  const refused = await node.lightningd.event(
    "attachmentEnded",
    (event) => event.reason === AttachmentEnded_Reason.REFUSED,
  );
  assert.equal(refused.generation, live.generation);
  const fresh = await node.attached(renewed, id(1), 2n);
  fresh.send(1n, [abort(id(1), "new")]);
  assert.equal(textOf(await second.next()), "new");
});

test("nodes that dial each other at the same moment end connected", async () => {
  await using alice = await TestNode.start();
  await using bob = await TestNode.start();
  for (const [one, other] of [[alice, bob], [bob, alice]] as const) {
    one.lightningd.say({
      case: "connect",
      value: { requestId: 1n, peerId: other.nodeId, addresses: [other.address] },
    });
  }
  assert.equal((await alice.lightningd.event("connectResult")).error, "");
  assert.equal((await bob.lightningd.event("connectResult")).error, "");
  // Once both have settled on it, a frame crosses: it is one and the same connection.
  const attachment = await waitFor(async () => {
    const live = await alice.peer(bob.nodeId);
    alice.attach(live, id(1), 1n);
    const found = await alice.subd.attachment(id(1));
    found.send(1n, [abort(id(1), "met")]);
    return found;
  }, { what: "an attachment" });
  await attachment.written(1n);
  const spoke = await bob.lightningd.event("peerSpoke");
  assert.equal(spoke.messageType, 74);
});

test("an important peer is dialled, and dialled again when it is lost", async () => {
  using listener = new RawListener();
  await using node = await TestNode.start();
  node.lightningd.say({
    case: "setImportant",
    value: { peerId: listener.nodeId, addresses: [listener.address], important: true },
  });
  await (await listener.accept()).close();
  await (await listener.accept()).close();
  await using third = await listener.accept();
  const live = await node.peer(third.nodeId);
  node.lightningd.say({
    case: "setImportant",
    value: { peerId: listener.nodeId, addresses: [], important: false },
  });
  node.lightningd.say({ case: "disconnect", value: { requestId: 1n, ...live, reason: "test" } });
  await third.closed();
  await node.lightningd.event("disconnectResult");
  assert.deepEqual((await node.face.listPeers({})).peers, []);
});

test("lightningd's list of important peers is taken from the welcome", async () => {
  using listener = new RawListener();
  const important = [{ peerId: listener.nodeId, addresses: [listener.address], important: true }];
  await using _node = await TestNode.start({ prepare: (it) => it.lightningd.important = important });
  await using peer = await listener.accept();
  assert.notEqual(peer.init, undefined);
});

test("connect fails with CLN's codes", async () => {
  using listener = new RawListener();
  await using node = await TestNode.start({ limits: { handshakeTimeout: 300 } });
  const peerId = listener.nodeId;
  node.lightningd.say({ case: "connect", value: { requestId: 1n, peerId, addresses: ["127.0.0.1:1"] } });
  const refused = await node.lightningd.event("connectResult");
  assert.equal(refused.clnCode, 401);
  assert.match(refused.error, /127\.0\.0\.1:1: connection refused/);
  node.lightningd.say({ case: "connect", value: { requestId: 2n, peerId, addresses: [listener.address] } });
  const socket = await listener.acceptRaw();
  const silent = await node.lightningd.event("connectResult");
  assert.equal(silent.clnCode, 402);
  assert.match(silent.error, /too long/);
  socket.close();
  node.lightningd.say({ case: "connect", value: { requestId: 3n, peerId, addresses: ["not an address"] } });
  assert.equal((await node.lightningd.event("connectResult")).clnCode, 401);
});

test("without hsmd the handshake fails and connectd lives", async () => {
  await using node = await TestNode.start();
  node.hsmdPresent = false;
  await assert.rejects(RawPeer.connect(node.address, node.nodeId));
  node.hsmdPresent = true;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  await node.peer(peer.nodeId);
});

test("IPv6 is listened on and dialled", async () => {
  await using node = await TestNode.start({ bind: ["127.0.0.1:0", "[::1]:0"] });
  const v6 = node.connectd.bindings[1] ?? "";
  assert.match(v6, /^\[::1\]:\d+$/);
  await using peer = await RawPeer.connect(v6, node.nodeId);
  const connected = await node.lightningd.event("peerConnected");
  assert.equal(bytesToHex(connected.peerId), bytesToHex(peer.nodeId));
  assert.match(connected.remoteAddr, /^\[::1\]:\d+$/);
});

test("garbage before the handshake, in it and after it closes that connection only", async () => {
  await using node = await TestNode.start();
  await using good = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(good.nodeId);
  const attachment = await node.attached(live, id(1), 1n);
  for (const length of [1, 50, 200, 60_000]) {
    const conn = await dialAddress(node.address);
    await conn.write(crypto.getRandomValues(new Uint8Array(length))).catch(() => 0);
    // A single byte may be the beginning of an act: that one hangs up itself.
    if (length > 1) { while (await conn.read(new Uint8Array(100)).catch(() => null) !== null); }
    conn.close();
  }
  await using bad = await RawPeer.connect(node.address, node.nodeId);
  await bad.sendRaw(new Uint8Array(4_000).fill(7));
  await bad.closed();
  const gone = await node.lightningd.event("peerDisconnected");
  assert.match(gone.reason, /decrypt/);
  await good.sendBytes(abort(id(1), "still here"));
  assert.equal(textOf((await attachment.frame(1n)).data), "still here");
});

test("unknown even types are warned about and closed, unknown odd ones and gossip are ignored", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  await node.peer(peer.nodeId);
  const typed = (type: number, length: number) =>
    concatBytes(Uint8Array.of(type >> 8, type & 0xff), new Uint8Array(length));
  await peer.sendBytes(typed(40_001, 10));
  await peer.sendBytes(typed(513, 1_400));
  await peer.sendBytes(typed(256, 3));
  await peer.sendBytes(typed(265, 40));
  await peer.sendBytes(encodeMessage({ type: "peer_storage", blob: new Uint8Array(5) }));
  assert.deepEqual(await peer.beforePong(), []);
  await peer.sendBytes(typed(40_000, 10));
  const warning = decodeMessage(await peer.next());
  assert.ok(warning.ok && warning.value.type === "warning");
  assert.match(new TextDecoder().decode(warning.value.data), /unknown message type 40000/);
  await peer.closed();
});

test("malformed messages are warned about and closed", async () => {
  await using node = await TestNode.start();
  const bad = [
    Uint8Array.of(0),
    new Uint8Array(0),
    Uint8Array.of(0, 18, 0),
    Uint8Array.of(0, 70, 1, 2, 3),
    Uint8Array.of(0, 17, 1),
    Uint8Array.of(0, 19, 0, 9, 1),
  ];
  for (const message of bad) {
    await using peer = await RawPeer.connect(node.address, node.nodeId);
    await node.peer(peer.nodeId);
    await peer.sendBytes(message);
    const warning = await peer.expect("warning");
    assert.ok(warning.data.length > 0);
    await peer.closed();
  }
  await using good = await RawPeer.connect(node.address, node.nodeId);
  await node.peer(good.nodeId);
});

test("init: required unknown features, foreign chains and anything else first are refused", async () => {
  await using node = await TestNode.start();
  const refused = async (
    options: Parameters<typeof RawPeer.connect>[2],
    text: RegExp,
    first?: Uint8Array,
  ) => {
    await using peer = await RawPeer.connect(node.address, node.nodeId, options);
    if (first !== undefined) await peer.sendBytes(first);
    assert.match(new TextDecoder().decode((await peer.skipTo("warning")).data), text);
    await peer.closed();
  };
  await refused({ init: defaultInit(Features.of(200)) }, /200/);
  await refused({ init: { ...defaultInit(), networks: [id(99)] } }, /network/);
  await refused({ init: false }, /first message must be init/, complete(id(1)));
  assert.deepEqual((await node.face.listPeers({})).peers, []);
});

test("ping and pong both ways; none for 65532; lightningd's pings are answered with the length", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  await peer.send({ type: "ping", num_pong_bytes: 65_532, ignored: new Uint8Array(3) });
  await peer.send({ type: "ping", num_pong_bytes: 65_531, ignored: new Uint8Array() });
  const pong = await peer.expect("pong");
  assert.equal(pong.ignored.length, 65_531);
  const ask = (requestId: bigint, length: number, numPongBytes: number) =>
    node.lightningd.say({ case: "ping", value: { requestId, ...live, length, numPongBytes } });
  ask(1n, 20, 100);
  assert.equal((await node.lightningd.event("pingResult")).totalLength, 104);
  ask(2n, 20, 65_532);
  assert.equal((await node.lightningd.event("pingResult")).totalLength, 0);
  ask(3n, 65_530, 1);
  assert.match((await node.lightningd.event("pingResult")).error, /padding/);
});

test("a silent peer is pinged and then given up", async () => {
  await using node = await TestNode.start({ limits: { pingAfterSilence: 100, pongTimeout: 150 } });
  await using polite = await RawPeer.connect(node.address, node.nodeId);
  await using silent = await RawPeer.connect(node.address, node.nodeId, { pong: false });
  await silent.expect("ping");
  await silent.closed();
  const gone = await node.lightningd.event("peerDisconnected");
  assert.equal(bytesToHex(gone.peerId), bytesToHex(silent.nodeId));
  assert.match(gone.reason, /ping/);
  assert.equal(polite.ended, false);
});

test("an error for all channels ends the connection, one for a channel goes to its subd", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  const attachment = await node.attached(live, id(1), 1n);
  const data = new TextEncoder().encode("no \u001b[31m way");
  await peer.send({ type: "warning", channel_id: id(0), data });
  await peer.send({ type: "warning", channel_id: id(9), data });
  await peer.send({ type: "warning", channel_id: id(1), data });
  await peer.send({ type: "error", channel_id: id(1), data });
  assert.equal((await attachment.frame(1n)).data[1], 1);
  assert.equal((await attachment.frame(2n)).data[1], 17);
  await peer.send({ type: "error", channel_id: id(2), data: new TextEncoder().encode("unknown") });
  const spoke = await node.lightningd.event("peerSpoke");
  assert.equal(spoke.messageType, 17);
  assert.equal(spoke.error, "unknown");
  await peer.send({ type: "error", channel_id: id(0), data: new TextEncoder().encode("all of them") });
  const gone = await node.lightningd.event("peerDisconnected");
  assert.match(gone.reason, /all channels: all of them/);
});

test("limits: half-open handshakes, connections in all and per address", async () => {
  await using node = await TestNode.start({
    limits: { maxHalfOpen: 2, handshakeTimeout: 300, maxConnectionsPerIp: 4 },
  });
  const closedByThem = async (conn: Deno.TcpConn) => {
    const end = await conn.read(new Uint8Array(10)).catch(() => null);
    conn.close();
    return end === null;
  };
  const [one, two, three] = [
    await dialAddress(node.address),
    await dialAddress(node.address),
    await dialAddress(node.address),
  ];
  // The third is over the limit and closed at once, the others when their time is up.
  for (const conn of [three, one, two]) assert.equal(await closedByThem(conn), true);
  const peers: RawPeer[] = [];
  for (let i = 0; i < 4; i++) {
    peers.push(await waitFor(RawPeer.connect(node.address, node.nodeId), { what: "a peer" }));
  }
  await assert.rejects(RawPeer.connect(node.address, node.nodeId));
  for (const peer of peers) await peer.close();
});

test("two nodes that both keep each other connected settle on one connection, again and again", async () => {
  await using alice = await TestNode.start();
  await using bob = await TestNode.start();
  for (const [one, other] of [[alice, bob], [bob, alice]] as const) {
    one.lightningd.say({
      case: "setImportant",
      value: { peerId: other.nodeId, addresses: [other.address], important: true },
    });
  }
  for (let round = 1; round <= 8; round++) {
    // A message that crosses and is answered proves that both mean the same connection.
    const [onAlice, onBob] = await waitFor(async () => {
      const [a, b] = [await alice.peer(bob.nodeId), await bob.peer(alice.nodeId)];
      alice.lightningd.say({
        case: "ping",
        value: { requestId: BigInt(round), ...a, length: 1, numPongBytes: round },
      });
      const pinged = await alice.lightningd.event("pingResult");
      return pinged.error === "" ? [a, b] as const : undefined;
    }, { what: `a connection in round ${round}` });
    const [one, live] = round % 2 === 0 ? [alice, onAlice] : [bob, onBob];
    const before = (await alice.peer(bob.nodeId)).generation;
    one.lightningd.say({ case: "disconnect", value: { requestId: BigInt(round), ...live, reason: "again" } });
    await waitFor(async () => (await alice.peer(bob.nodeId)).generation > before, {
      what: "a new connection",
    });
  }
});

test("a wrong answer of hsmd, an impossible address and a wrong epoch cost only what they belong to", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  node.shortSecrets = true;
  await assert.rejects(RawPeer.connect(node.address, node.nodeId));
  for (const address of ["", "nonsense://x", "unix:relative", ":"]) {
    node.attach(live, id(1), 1n, 0n, address);
    const ended = await node.lightningd.event("attachmentEnded");
    assert.equal(ended.reason, AttachmentEnded_Reason.SUBD_LOST);
  }
  node.subd.accepting = false;
  node.attach(live, id(1), 2n);
  const attachment = await node.subd.attachment(id(1));
  attachment.say({ case: "attached", value: { subdInstance: "subd", epoch: 1n } });
  assert.match((await node.lightningd.event("attachmentEnded")).detail, /another epoch/);
  node.attach(live, id(1), 3n);
  const silent = await node.subd.attachment(id(1));
  silent.stream.write({});
  assert.match((await node.lightningd.event("attachmentEnded")).detail, /does not know/);
  assert.deepEqual(await peer.beforePong(), []);
});

test("a subd that does not answer an attachment is given up", async () => {
  await using node = await TestNode.start({ limits: { attachTimeout: 200 } });
  node.subd.accepting = false;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  node.attach(await node.peer(peer.nodeId), id(1), 1n);
  const ended = await node.lightningd.event("attachmentEnded");
  assert.equal(ended.reason, AttachmentEnded_Reason.SUBD_LOST);
  assert.match(ended.detail, /no answer/);
});

test("close_peer closes without draining, and only that generation", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  node.lightningd.say({ case: "closePeer", value: { ...live, generation: live.generation + 1n } });
  assert.deepEqual(await peer.beforePong(), []);
  node.lightningd.say({ case: "closePeer", value: live });
  await peer.closed();
  assert.equal((await node.lightningd.event("peerDisconnected")).drained, false);
});

test("a command that this build does not know ends the stream, which begins anew with everything listed", async () => {
  await using node = await TestNode.start();
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const live = await node.peer(peer.nodeId);
  node.lightningd.sayNothing();
  const hello = await waitFor(() => node.lightningd.hellos[1], { what: "a second hello" });
  assert.equal(hello.peers[0]?.generation, live.generation);
  assert.deepEqual(await peer.beforePong(), []);
});
