import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { decodeMessage, encodeMessage, type Message } from "bolt/wire/messages.ts";
import { RawPeer } from "../lib/raw_peer.ts";
import { TestNode } from "./harness.ts";

/** grpc-js keeps timers and sockets of its own for a while after the last client closed. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `connectd: ${name}`, fn, sanitizeOps: false, sanitizeResources: false });
}

function id(byte: number): Uint8Array {
  return new Uint8Array(32).fill(byte);
}

/** A small message of a channel that a test can tell from others. */
function complete(channelId: Uint8Array): Uint8Array {
  return encodeMessage({ type: "tx_complete", channel_id: channelId });
}

function abort(channelId: Uint8Array, text: string): Message {
  return { type: "tx_abort", channel_id: channelId, data: new TextEncoder().encode(text) };
}

test("two nodes connect, and frames of a channel flow both ways", async () => {
  await using alice = await TestNode.start();
  await using bob = await TestNode.start();
  alice.lightningd.say({
    case: "connect",
    value: { requestId: 1n, peerId: bob.nodeId, addresses: ["127.0.0.1:1", bob.address] },
  });
  const result = await alice.lightningd.event("connectResult");
  assert.equal(result.error, "");
  assert.ok(result.generation > 0n);
  const onAlice = { peerId: bob.nodeId, generation: result.generation };
  const onBob = await bob.peer(alice.nodeId);
  const fromAlice = await alice.attached(onAlice, id(1), 1n);
  fromAlice.send(1n, [encodeMessage(abort(id(1), "hello"))]);
  const spoke = await bob.lightningd.event("peerSpoke");
  assert.equal(spoke.messageType, 74);
  assert.equal(bytesToHex(spoke.channelId), bytesToHex(id(1)));
  const fromBob = await bob.attached(onBob, id(1), 1n, spoke.spokeId);
  const frame = await fromBob.frame(1n);
  assert.deepEqual(frame.data, encodeMessage(abort(id(1), "hello")));
  fromBob.durable(1n);
  fromBob.send(1n, [complete(id(1)), complete(id(1))]);
  assert.deepEqual((await fromAlice.frame(2n)).data, complete(id(1)));
  await fromBob.written(2n);
});

test("a raw peer is read only after lightningd accepted it", async () => {
  await using node = await TestNode.start();
  node.lightningd.accepting = false;
  await using peer = await RawPeer.connect(node.address, node.nodeId);
  const connected = await node.lightningd.event("peerConnected");
  await peer.send(abort(id(2), "early"));
  const [live] = (await node.face.listPeers({})).peers;
  assert.equal(live?.generation, 0n);
  node.lightningd.accept(connected);
  const spoke = await node.lightningd.event("peerSpoke");
  assert.equal(spoke.generation, 1n);
  node.lightningd.say({
    case: "peerFinalMsg",
    value: {
      peerId: peer.nodeId,
      generation: 1n,
      spokeId: spoke.spokeId,
      channelId: spoke.channelId,
      messages: [encodeMessage(abort(id(2), "unknown channel"))],
      hangUp: false,
    },
  });
  const answer = decodeMessage(await peer.next());
  assert.ok(answer.ok && answer.value.type === "tx_abort");
  assert.deepEqual(await peer.beforePong(), []);
});
