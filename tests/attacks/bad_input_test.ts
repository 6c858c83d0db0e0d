/**
 * Malformed, oversized, out-of-order and unknown messages of a peer. Each gets what BOLT 1 and 2 name, or, about one
 * channel, an answer for that channel alone; no process dies, no other channel of the same or of another peer notices,
 * and nothing is stored half.
 */
import assert from "node:assert/strict";
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import { encodeMessage, type Message, messageId, type MessageType } from "bolt/wire/messages.ts";
import { until } from "tools/node/commands.ts";
import { fakeCoin } from "../lib/hostile_coins.ts";
import { HostilePeer } from "../lib/hostile_peer.ts";
import { defaultInit, dialAddress, randomSecret } from "../lib/raw_peer.ts";
import { channelRows } from "../lib/rows.ts";
import { attack, refuses, staysSilent, useVictim } from "./victim.ts";

const victim = await useVictim({ coins: 6, stock: ["p2tr", "p2tr"] });
const MAX_MESSAGE = 65_535;
const UNKNOWN_EVEN = 32_768;
const UNKNOWN_ODD = 32_769;

/** A message type and what follows it, whatever that is. */
function raw(type: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return concatBytes(Uint8Array.of(type >> 8, type & 0xff), ...parts);
}

async function closesWithWarning(peer: HostilePeer, text: RegExp): Promise<void> {
  await refuses(peer, { type: "warning", text }, new Uint8Array(32));
  await peer.raw.closed();
  await victim.nothingLeft();
}

/** What breaks the transport or BOLT 1 itself: a warning for the whole connection, which ends. */
const ENDS: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ["a message of no bytes", new Uint8Array(), /without a type/],
  ["a message of one byte", Uint8Array.of(0), /without a type/],
  ["an unknown even type", raw(UNKNOWN_EVEN), /unknown message type 32768/],
  [
    "an unknown even type of the largest size",
    raw(UNKNOWN_EVEN, new Uint8Array(MAX_MESSAGE - 2)),
    /unknown message type/,
  ],
  ["an unknown even type below custom ones", raw(1000, new Uint8Array(40)), /unknown message type 1000/],
  ["a ping that is cut off", raw(messageId("ping"), Uint8Array.of(0)), /bad ping/],
  [
    "a ping that announces more than it has",
    raw(messageId("ping"), Uint8Array.of(0, 1, 0xff, 0xff)),
    /bad ping/,
  ],
  ["a pong that is cut off", raw(messageId("pong"), Uint8Array.of(1)), /bad pong/],
  ["an error that is cut off", raw(messageId("error"), new Uint8Array(20)), /bad error/],
  [
    "an error that announces more than it has",
    raw(messageId("error"), new Uint8Array(32), Uint8Array.of(0xff, 0xff)),
    /bad error/,
  ],
  [
    "a channel message that ends in its channel id",
    raw(messageId("tx_complete"), new Uint8Array(31)),
    /without a channel id/,
  ],
  [
    "open_channel2 that ends in its channel id",
    raw(messageId("open_channel2"), new Uint8Array(60)),
    /without a channel id/,
  ],
];

for (const [name, bytes, text] of ENDS) {
  attack(`${name}: a warning, and the connection ends`, async () => {
    await using peer = await victim.connect();
    await peer.raw.sendBytes(bytes);
    await closesWithWarning(peer, text);
  });
}

for (const type of ["open_channel2", "channel_reestablish", "ping", "tx_complete"] as const) {
  attack(`${type} before init: a warning, and the connection ends`, async () => {
    await using peer = await victim.connect({ init: false });
    await peer.raw.sendBytes(raw(messageId(type), new Uint8Array(500)));
    await closesWithWarning(peer, /must be init/);
  });
}

attack("an init that is cut off, or shares no chain: a warning, and the connection ends", async () => {
  for (
    const [init, text] of [
      [raw(messageId("init"), Uint8Array.of(0, 9, 1)), /bad init/],
      [encodeMessage({ ...defaultInit(), networks: [new Uint8Array(32).fill(5)] }), /no common network/],
      [encodeMessage({ ...defaultInit(), features: Uint8Array.of(0x40, ...new Uint8Array(20)) }), /feature/],
    ] as const
  ) {
    await using peer = await victim.connect({ init: false });
    await peer.raw.sendBytes(init);
    await closesWithWarning(peer, text);
  }
});

attack("bytes that do not decrypt end the connection; so does silence in place of a handshake", async () => {
  await using peer = await victim.connect();
  await peer.raw.sendRaw(new Uint8Array(1_000).fill(7));
  await peer.raw.closed();
  const socket = await dialAddress(victim.node.address);
  await socket.write(new Uint8Array(50).fill(0xff));
  assert.equal(await socket.read(new Uint8Array(100)), null, "no answer to a bad act one");
  socket.close();
});

/** What a peer may say without anything to answer. */
const IGNORED: readonly (readonly [string, Uint8Array])[] = [
  ["an unknown odd type", raw(UNKNOWN_ODD)],
  ["an unknown odd type of the largest size", raw(UNKNOWN_ODD, new Uint8Array(MAX_MESSAGE - 2))],
  ["a second init", encodeMessage(defaultInit())],
  ["a pong that nobody asked for", raw(messageId("pong"), Uint8Array.of(0, 0))],
  ["a ping that wants no pong", raw(messageId("ping"), Uint8Array.of(0xff, 0xff, 0, 0))],
  ["a warning for all channels", raw(messageId("warning"), new Uint8Array(32), Uint8Array.of(0, 1, 65))],
  ["gossip that is noise", raw(messageId("channel_announcement"), new Uint8Array(500).fill(3))],
  [
    "a warning for an unknown channel",
    raw(messageId("warning"), new Uint8Array(32).fill(1), Uint8Array.of(0, 0)),
  ],
  [
    "an error for an unknown channel",
    raw(messageId("error"), new Uint8Array(32).fill(1), Uint8Array.of(0, 0)),
  ],
  [
    "tx_abort for an unknown channel",
    raw(messageId("tx_abort"), new Uint8Array(32).fill(1), Uint8Array.of(0, 0)),
  ],
];

for (const [name, bytes] of IGNORED) {
  attack(`${name} is ignored`, async () => {
    await using peer = await victim.connect();
    await peer.raw.sendBytes(bytes);
    await staysSilent(peer);
    // The peer is as welcome as before.
    await peer.openTo();
    await peer.abort();
    await peer.expect("tx_abort");
    await victim.nothingLeft();
  });
}

attack(
  "an error for all channels ends the connection, and nothing is stored of a peer without channels",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    await peer.send({ type: "error", channel_id: new Uint8Array(32), data: new Uint8Array() });
    await peer.raw.closed();
    await victim.nothingLeft();
  },
);

const BODY = new Uint8Array(200).fill(2);
const NEGOTIATION: readonly MessageType[] = [
  "tx_add_input",
  "tx_add_output",
  "tx_remove_input",
  "tx_remove_output",
  "tx_complete",
  "tx_signatures",
  "tx_init_rbf",
  "tx_ack_rbf",
  "commitment_signed",
];
const OTHERS: readonly MessageType[] = [
  "accept_channel",
  "funding_created",
  "funding_signed",
  "accept_channel2",
  "channel_ready",
  "shutdown",
  "closing_signed",
  "closing_complete",
  "closing_sig",
  "stfu",
  "splice_init",
  "splice_ack",
  "splice_locked",
  "update_add_htlc",
  "update_fulfill_htlc",
  "update_fail_htlc",
  "update_fail_malformed_htlc",
  "update_fee",
  "revoke_and_ack",
  "start_batch",
  "announcement_signatures",
];

for (const type of NEGOTIATION) {
  attack(
    `${type} for an unknown channel, well formed or not: a warning for that channel (rule 36)`,
    async () => {
      const id = crypto.getRandomValues(new Uint8Array(32));
      for (const rest of [new Uint8Array(), BODY]) {
        await using peer = await victim.connect();
        await peer.raw.sendBytes(raw(messageId(type), id, rest));
        await refuses(peer, { type: "warning", text: /no such negotiation/ }, id);
        await staysSilent(peer);
      }
      await victim.nothingLeft();
    },
  );
}

for (const type of OTHERS) {
  attack(`${type} for an unknown channel, well formed or not: an error for that channel`, async () => {
    const id = crypto.getRandomValues(new Uint8Array(32));
    for (const rest of [new Uint8Array(), BODY]) {
      await using peer = await victim.connect();
      await peer.raw.sendBytes(raw(messageId(type), id, rest));
      await refuses(peer, { type: "error", text: /unknown channel/ }, id);
    }
    await victim.nothingLeft();
  });
}

attack(
  "open_channel2 that is cut off behind its temporary id, at every length: an error for that id",
  async () => {
    await using peer = await victim.connect();
    const whole = encodeMessage(peer.openMessage());
    for (const length of [66, 67, 100, 150, 200, 250, 300, 345, 346, whole.length - 1]) {
      await using stranger = await victim.connect();
      await stranger.raw.sendBytes(whole.slice(0, length));
      const verdict = await stranger.verdict();
      assert.equal(verdict.type, "error");
      assert.equal(verdict.channelId, bytesToHex(peer.openMessage().temporary_channel_id));
      await staysSilent(stranger);
    }
    await victim.nothingLeft();
  },
);

attack("open_channel2 of the largest size: the unknown odd record in it is skipped", async () => {
  await using peer = await victim.connect();
  const open = encodeMessage(peer.openMessage());
  const rest = MAX_MESSAGE - open.length - 4;
  await peer.sayOpen();
  await peer.expect("accept_channel2");
  await using other = await victim.connect();
  const own = other.openMessage();
  const bytes = concatBytes(
    encodeMessage(own),
    Uint8Array.of(101, 0xfd, rest >> 8, rest & 0xff),
    new Uint8Array(rest),
  );
  assert.equal(bytes.length, MAX_MESSAGE);
  await other.raw.sendBytes(bytes);
  await other.expect("accept_channel2");
  await other.close();
  await peer.close();
  await victim.nothingLeft();
});

/** What is malformed in the midst of a construction: tx_abort, and nothing of it is left. */
const MALFORMED: readonly (readonly [string, (channelId: Uint8Array) => Uint8Array])[] = [
  ["tx_add_input that is cut off", (id) => raw(messageId("tx_add_input"), id, new Uint8Array(9))],
  [
    "tx_add_input whose prevtx is longer than the message",
    (id) =>
      raw(messageId("tx_add_input"), id, new Uint8Array(8), Uint8Array.of(0xff, 0xff), new Uint8Array(10)),
  ],
  [
    "tx_add_input of the largest size",
    (id) =>
      raw(
        messageId("tx_add_input"),
        id,
        new Uint8Array(8),
        Uint8Array.of(0xff, 0xcb),
        new Uint8Array(65_483),
        new Uint8Array(8),
      ),
  ],
  ["tx_add_output that is cut off", (id) => raw(messageId("tx_add_output"), id, new Uint8Array(10))],
  ["tx_remove_input without serial_id", (id) => raw(messageId("tx_remove_input"), id)],
  [
    "tx_complete with an unknown even record",
    (id) => raw(messageId("tx_complete"), id, Uint8Array.of(100, 0)),
  ],
  [
    "tx_signatures that announces 65535 witnesses",
    (id) => raw(messageId("tx_signatures"), id, new Uint8Array(32), Uint8Array.of(0xff, 0xff)),
  ],
  ["commitment_signed that is cut off", (id) => raw(messageId("commitment_signed"), id, new Uint8Array(63))],
];

for (const [name, bytes] of MALFORMED) {
  attack(`${name}, while a transaction is built: tx_abort`, async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    await peer.raw.sendBytes(bytes(peer.channelId));
    await refuses(peer, { type: "tx_abort", text: /./ });
    await staysSilent(peer);
    await victim.nothingLeft();
  });
}

/** Messages of other times in a channel's life, said while it waits for its confirmation. */
const OUT_OF_ORDER: readonly MessageType[] = [
  "update_add_htlc",
  "update_fee",
  "revoke_and_ack",
  "stfu",
  "splice_init",
  "splice_ack",
  "splice_locked",
  "closing_signed",
  "funding_created",
  "funding_signed",
  "accept_channel2",
  "tx_complete",
  "tx_add_output",
];

attack(
  "out-of-order and malformed messages on a signed channel never fail it, nor the same peer's other open",
  async () => {
    await using peer = await victim.connect();
    const agreed = await peer.fullOpen([victim.coin()]);
    const channelId = bytesToHex(peer.channelId);
    const before = await until("it is signed", async () => {
      const rows = await channelRows(victim.node, channelId);
      return rows?.attempts[0]?.complete === true && rows;
    });
    for (const type of OUT_OF_ORDER) {
      await peer.raw.sendBytes(raw(messageId(type), peer.channelId, BODY));
      const { type: answer } = await peer.verdict();
      assert.ok(answer !== "error", `${type}: ${answer}`);
      // A hang-up costs a connection, never the channel; one that is kept costs nothing.
      await peer.raw.beforePong().catch(() => {});
      if (peer.raw.ended) await again(peer);
      const rows = await channelRows(victim.node, channelId);
      assert.deepEqual({ ...rows, epoch: 0n }, { ...before, epoch: 0n }, type);
    }
    // Beside it the same peer does all kinds of wrong on ids of its own.
    for (const type of [...NEGOTIATION, ...OTHERS]) {
      await peer.raw.sendBytes(raw(messageId(type), crypto.getRandomValues(new Uint8Array(32)), BODY));
      await peer.verdict();
    }
    const other = peer.sibling();
    await other.openTo();
    await other.sayInput(fakeCoin(), { serial_id: 1n });
    await refuses(other, { type: "tx_abort", text: /parity/ });
    assert.equal(peer.raw.ended, false, "one connection for all of it");
    await peer.replace({ feerate: 4_000 });
    await peer.abort();
    await peer.expect("tx_abort");
    const rows = await channelRows(victim.node, channelId);
    assert.equal(rows?.attempts[0]?.txid, agreed.tx.getId());
    assert.equal(rows?.errorText, null);
  },
);

async function again(peer: HostilePeer): Promise<void> {
  await peer.reconnect();
  await peer.expect("channel_reestablish");
  await peer.sayReestablish();
}

attack(
  "a flood of messages for ids that nobody knows ends with that connection and costs nobody else",
  async () => {
    await using peer = await victim.connect({ deadlineMs: 30_000 });
    const sent = (async () => {
      for (let i = 0; i < 20_000 && !peer.raw.ended; i++) {
        const channel_id = crypto.getRandomValues(new Uint8Array(32));
        const message: Message = { type: "tx_complete", channel_id };
        await peer.send(message);
      }
    })().catch(() => {});
    await victim.unharmed();
    await Promise.race([sent, peer.raw.closed(30_000)]);
    await peer.close();
    await sent;
    await victim.unharmed();
  },
);

attack("fifty connections that end in the midst of a message leave nothing", async () => {
  const secret = randomSecret();
  for (let i = 0; i < 50; i++) {
    const peer = await victim.connect({ secret, awaitInit: false });
    await peer.raw.sendRaw(new Uint8Array(i));
    await peer.close();
  }
  await victim.nothingLeftOpen();
  await victim.unharmed();
});

attack("bad input: the honest peer's channels noticed nothing of all that", () => victim.locksIn());
