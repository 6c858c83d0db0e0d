/**
 * What a node refuses of replacements (BOLT 2, tx_init_rbf) and of channel_reestablish before lock-in, seen from the peer.
 * Whatever is refused, the channel and its earlier attempts stay as they were.
 */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { p2wsh } from "bolt/tx/scripts.ts";
import { signedSat } from "bolt/units.ts";
import { encodeMessage, type Message, type MessageOf, ONION_PACKET_LENGTH } from "bolt/wire/messages.ts";
import { psbtFor, until } from "tools/node/commands.ts";
import { fakeCoin, type HostileCoin } from "../lib/hostile_coins.ts";
import { type Agreed, HOSTILE_SAT, HostilePeer } from "../lib/hostile_peer.ts";
import { type ChannelRows, channelRows } from "../lib/rows.ts";
import { attack, refuses, staysSilent, useVictim } from "./victim.ts";

const MAX_ATTEMPTS = 2;
const TESTS_WITH_CHANNELS = 50;
const victim = await useVictim({
  coins: 6,
  stock: Array.from({ length: TESTS_WITH_CHANNELS }, () => "p2tr" as const),
}, {
  alice: { "max-rbf-attempts": String(MAX_ATTEMPTS), "funder-policy": "fixed", "funder-policy-mod": "0" },
});

/** A signed channel that waits for its confirmation. The node puts nothing in. */
interface Opened {
  readonly peer: HostilePeer;
  readonly coin: HostileCoin;
  readonly agreed: Agreed;
}

async function opened(): Promise<Opened> {
  const peer = await victim.connect();
  const coin = victim.coin();
  const agreed = await peer.fullOpen([coin]);
  await until("the channel is signed", async () => (await rowsOf(peer)).attempts[0]?.complete);
  return { peer, coin, agreed };
}

async function rowsOf(peer: HostilePeer): Promise<ChannelRows> {
  const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
  assert.ok(rows, "the channel is there");
  return rows;
}

/** The channel is as it was after its open, and still listens: a good replacement is answered. */
async function intact({ peer }: Opened): Promise<void> {
  const rows = await rowsOf(peer);
  assert.equal(rows.state, "DUALOPEND_AWAITING_LOCKIN");
  assert.equal(rows.errorText, null);
  assert.equal(rows.attempts.filter(({ aborted }) => !aborted).length, 1);
  await peer.replace();
  await peer.abort();
  await peer.expect("tx_abort");
  await victim.nothingLeftOpen();
}

type Init = Partial<MessageOf<"tx_init_rbf">>;

const BAD_INITS: readonly (readonly [string, Init, RegExp])[] = [
  ["62: the same fee rate", { feerate: 1_000 }, /feerate/],
  ["62: 25/24 of the last one, less one", { feerate: 1_040 }, /feerate/],
  ["62: fee rate 0", { feerate: 0 }, /feerate/],
  ["65: a negative contribution", { funding_output_contribution: signedSat(-1n) }, /contribution/],
  [
    "65: the least contribution there is",
    { funding_output_contribution: -(1n << 63n) as never },
    /contribution/,
  ],
  ["65: more than all bitcoin", { funding_output_contribution: (1n << 62n) as never }, /./],
  ["12: a channel smaller than we take", { funding_output_contribution: signedSat(2_000n) }, /smaller|needs/],
];

for (const [name, changes, text] of BAD_INITS) {
  attack(`tx_init_rbf, rule ${name}: tx_abort, and the channel stays`, async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await peer.send(peer.rbfMessage(changes));
    await refuses(peer, { type: "tx_abort", text });
    await staysSilent(peer);
    await intact(channel);
  });
}

attack("tx_init_rbf before the first transaction is signed", async () => {
  await using peer = await victim.connect();
  await peer.openTo();
  await peer.send(peer.rbfMessage());
  const { type } = await peer.verdict();
  assert.equal(type, "tx_abort");
  await peer.abort();
  await victim.nothingLeftOpen();
});

attack(
  "tx_init_rbf while a replacement is under construction (rule 60): tx_abort, and the channel stays",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await peer.replace();
    await peer.sayInput(channel.coin);
    await peer.theirTurn();
    await peer.send(peer.rbfMessage({ feerate: 5_000 }));
    await refuses(peer, { type: "tx_abort", text: /another negotiation is open/ });
    await staysSilent(peer);
    await intact(channel);
  },
);

/** The node begins a replacement; its command's failure is in `bump`. */
async function nodeBumps(peer: HostilePeer): Promise<{ readonly bump: Promise<Error> }> {
  const wanted = { sat: 300_000n, perkw: 3_000 };
  const bump = (async () => {
    await victim.node.rpc.openChannelBump({
      channelId: peer.channelId,
      amount: { msat: wanted.sat * 1000n },
      initialpsbt: await psbtFor(victim.node, wanted),
      fundingFeerate: { style: { case: "perkw", value: wanted.perkw } },
    });
  })().then(
    () => assert.fail("the replacement came to an end"),
    (error: unknown) => error instanceof Error ? error : assert.fail(String(error)),
  );
  await Promise.race([peer.expect("tx_init_rbf"), bump.then((error) => Promise.reject(error))]);
  return { bump };
}

for (
  const [name, contribution, text] of [
    ["negative", signedSat(-1n), /contribution/],
    ["beyond all bitcoin", (1n << 62n) as never, /./],
  ] as const
) {
  attack(
    `tx_ack_rbf, rule 65: a contribution that is ${name}: tx_abort, the command fails, the channel stays`,
    async () => {
      const channel = await opened();
      await using peer = channel.peer;
      const { bump } = await nodeBumps(peer);
      await peer.send({
        type: "tx_ack_rbf",
        channel_id: peer.channelId,
        funding_output_contribution: contribution,
      });
      await refuses(peer, { type: "tx_abort", text });
      assert.match((await bump).message, text);
      await intact(channel);
    },
  );
}

attack(
  "tx_init_rbf of the node that is answered by tx_abort (rule 68): echoed, the command fails with the peer's words",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    const { bump } = await nodeBumps(peer);
    await peer.abort("not now");
    await peer.expect("tx_abort");
    assert.match((await bump).message, /not now/);
    await intact(channel);
  },
);

attack(
  "tx_init_rbf that crosses the node's own: tx_abort both ways, the channel and the earlier attempt stay",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    const { bump } = await nodeBumps(peer);
    await peer.send(peer.rbfMessage());
    await refuses(peer, { type: "tx_abort", text: /another negotiation is open/ });
    await bump;
    await staysSilent(peer);
    await intact(channel);
  },
);

attack("tx_ack_rbf that nobody asked for gets an answer and changes nothing", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  await peer.send({ type: "tx_ack_rbf", channel_id: peer.channelId });
  await refuses(peer, { type: "warning", text: /tx_ack_rbf/ });
  await intact(channel);
});

/** A replacement that is refused at its last tx_complete. */
const BAD_REPLACEMENTS: readonly (readonly [
  string,
  (channel: Opened) => { coins: HostileCoin[]; outputs?: { sats: bigint; script: Uint8Array }[] },
  RegExp,
])[] = [
  [
    "66 (attack 13): it spends no input of the earlier attempt",
    () => ({ coins: [fakeCoin()] }),
    /would not be double-spent/,
  ],
  ["67: its whole fee is less than before", ({ peer, coin }) => ({
    coins: [coin],
    outputs: [
      { sats: peer.fundingSat, script: peer.fundingScript },
      { sats: coin.amount - peer.fundingSat - 2_500n, script: p2wsh(Uint8Array.of(0x51)) },
    ],
  }), /less than the earlier/],
  ["42 (attack 7): its funding output is smaller than negotiated", ({ peer, coin }) => ({
    coins: [coin],
    outputs: [{ sats: peer.fundingSat - 10_000n, script: peer.fundingScript }],
  }), /instead of/],
  ["42 (attack 7): its funding output is elsewhere", ({ peer, coin }) => ({
    coins: [coin],
    outputs: [{ sats: peer.fundingSat, script: p2wsh(Uint8Array.of(0x53)) }],
  }), /funding output is missing/],
];

for (const [name, construction, text] of BAD_REPLACEMENTS) {
  attack(`a replacement, rule ${name}: tx_abort, and the channel stays`, async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await peer.replace();
    await peer.constructUntilComplete(construction(channel));
    await refuses(peer, { type: "tx_abort", text });
    await staysSilent(peer);
    await intact(channel);
  });
}

attack("a replacement that spends the earlier funding transaction itself: tx_abort", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  await peer.replace();
  const { tx } = channel.agreed;
  const change = channel.agreed.session.outputs.findIndex(({ mine }) => mine);
  tx.stripWitnesses();
  await peer.send(peer.inputMessage(channel.coin, { prevtx: tx.toBuffer(), prevtx_vout: change }));
  await refuses(peer, { type: "tx_abort", text: /being replaced/ });
  await intact(channel);
});

attack(
  "a replacement with a bad commitment_signed is marked aborted; a late one for it is ignored (rule 60), the channel stays",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await peer.replace();
    const agreed = await peer.construct({ coins: [channel.coin], outputs: richerFee(channel) });
    await peer.expect("commitment_signed");
    await peer.sayCommitment(agreed, { signature: new Uint8Array(64).fill(1) });
    await refuses(peer, { type: "tx_abort", text: /not good/ });
    await peer.sayCommitment(agreed);
    await staysSilent(peer);
    const { attempts } = await rowsOf(peer);
    assert.deepEqual(attempts.map(({ aborted }) => aborted), [false, true]);
    await intact(channel);
  },
);

/** The outputs of a replacement that pays more than the first attempt did. */
function richerFee({ peer, coin }: Opened, feeSat = 8_000n) {
  return [
    { sats: peer.fundingSat, script: peer.fundingScript },
    { sats: coin.amount - peer.fundingSat - feeSat, script: coin.script },
  ];
}

attack(
  "replacements are bounded (attack 13, eclair #2596): beyond max-rbf-attempts they get tx_abort",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    for (let i = 1; i <= MAX_ATTEMPTS; i++) {
      await peer.replace({ feerate: 1_000 + 1_000 * i });
      const agreed = await peer.construct({
        coins: [channel.coin],
        outputs: richerFee(channel, 3_000n + 3_000n * BigInt(i)),
      });
      await peer.commit(agreed);
      await peer.sign(agreed);
    }
    await peer.send(peer.rbfMessage({ feerate: 9_000 }));
    await refuses(peer, { type: "tx_abort", text: /no more than 2 replacements/ });
    const { attempts } = await rowsOf(peer);
    assert.equal(attempts.length, MAX_ATTEMPTS + 1);
  },
);

attack("tx_init_rbf after the peer's channel_ready (rule 64): tx_abort, and the channel stays", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  await peer.sayReady();
  await peer.send(peer.rbfMessage());
  await refuses(peer, { type: "tx_abort", text: /channel_ready/ });
  assert.equal((await rowsOf(peer)).locked, null);
});

attack("tx_init_rbf after shutdown: tx_abort, and the channel stays", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  await peer.send({
    type: "shutdown",
    channel_id: peer.channelId,
    scriptpubkey: p2wsh(Uint8Array.of(0x51)),
  });
  await peer.expect("shutdown");
  await peer.send(peer.rbfMessage());
  await refuses(peer, { type: "tx_abort", text: /shutting down/ });
  assert.equal((await rowsOf(peer)).errorText, null);
});

/** Both signed, and a new connection begins: the node's channel_reestablish is heard. */
async function reconnected(channel: Opened): Promise<MessageOf<"channel_reestablish">> {
  await channel.peer.reconnect();
  return await channel.peer.expect("channel_reestablish");
}

attack("channel_reestablish, rule 71: without anything outstanding it names no next_funding", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  const { next_funding, next_commitment_number, next_revocation_number } = await reconnected(channel);
  assert.deepEqual([next_funding, next_commitment_number, next_revocation_number], [undefined, 1n, 0n]);
  await peer.sayReestablish();
  await intact(channel);
});

const BAD_REESTABLISH: readonly (readonly [string, Partial<MessageOf<"channel_reestablish">>, RegExp])[] = [
  ["75: next_commitment_number 0", { next_commitment_number: 0n }, /next_commitment_number/],
  ["75: next_commitment_number 2", { next_commitment_number: 2n }, /next_commitment_number/],
  [
    "75: next_commitment_number 2^64 - 1",
    { next_commitment_number: 0xffff_ffff_ffff_ffffn },
    /next_commitment_number/,
  ],
  ["75: next_revocation_number 1", { next_revocation_number: 1n }, /next_revocation_number/],
];

for (const [name, changes, text] of BAD_REESTABLISH) {
  attack(`channel_reestablish, rule ${name}: an error, stored and repeated`, async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await reconnected(channel);
    await peer.sayReestablish(changes);
    await refuses(peer, { type: "error", text });
    assert.match((await rowsOf(peer)).errorText ?? "", text);
    await peer.reconnect();
    await peer.sayReestablish();
    await refuses(peer, { type: "error", text });
  });
}

/** channel_reestablish as BOLT 2 has it, with one more record at its end. */
function reestablishWith(peer: HostilePeer, type: number, length: number): Uint8Array {
  const record = [type, length, ...new Uint8Array(length).fill(7)];
  return Uint8Array.of(...encodeMessage(peer.reestablishMessage()), ...record);
}

for (
  const [name, type, length] of [
    ["0 with a txid, as eclair's experimental splices have it", 0, 32],
    ["1 with a txid and no flags, the form before BOLT 2 had flags", 1, 32],
    ["2, even and of nobody", 2, 1],
  ] as const
) {
  attack(
    `channel_reestablish, rule 77: record ${name}: a warning, and the right message is still heard`,
    async () => {
      const channel = await opened();
      await using peer = channel.peer;
      await reconnected(channel);
      await peer.raw.sendBytes(reestablishWith(peer, type, length));
      await refuses(peer, { type: "warning", text: /malformed/ });
      await staysSilent(peer);
      await peer.sayReestablish();
      await intact(channel);
    },
  );
}

attack("channel_reestablish, rule 77: a record 3, odd, is not looked at", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  await reconnected(channel);
  await peer.raw.sendBytes(reestablishWith(peer, 3, 32));
  await intact(channel);
});

/** What a channel says only in use. */
const UPDATES: readonly ((channel_id: Uint8Array) => Message)[] = [
  (channel_id) => ({
    type: "update_add_htlc",
    channel_id,
    id: 0n,
    amount_msat: 1_000_000n,
    payment_hash: new Uint8Array(32).fill(3),
    cltv_expiry: 500,
    onion_routing_packet: new Uint8Array(ONION_PACKET_LENGTH),
  }),
  (channel_id) => ({
    type: "update_fulfill_htlc",
    channel_id,
    id: 0n,
    payment_preimage: new Uint8Array(32).fill(3),
  }),
  (channel_id) => ({ type: "update_fail_htlc", channel_id, id: 0n, reason: new Uint8Array(292) }),
  (channel_id) => ({ type: "update_fee", channel_id, feerate_per_kw: 2_000 }),
  (channel_id) => ({
    type: "revoke_and_ack",
    channel_id,
    per_commitment_secret: new Uint8Array(32).fill(3),
    next_per_commitment_point: hexToBytes(victim.node.id),
  }),
];

for (const update of UPDATES) {
  const { type } = update(new Uint8Array(32));
  attack(`${type} before lock-in: a warning and a hang-up, and the next connection is good`, async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await peer.send(update(peer.channelId));
    await refuses(peer, { type: "warning", text: /before the channel is locked in/ });
    await peer.raw.closed();
    await reconnected(channel);
    await peer.sayReestablish();
    await intact(channel);
  });
}

attack(
  "channel_reestablish, rule 74: an unknown next_funding_txid gets tx_abort, and the channel stays",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await reconnected(channel);
    await peer.sayReestablish({
      next_funding: { next_funding_txid: new Uint8Array(32).fill(8), retransmit_flags: 0 },
    });
    await refuses(peer, { type: "tx_abort", text: /unknown next_funding_txid/ });
    await intact(channel);
  },
);

attack(
  "channel_reestablish, rules 71 to 74: commitments are sent again as asked, and another txid while one is outstanding fails",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    const agreed = await peer.construct({ coins: [victim.coin()] });
    const { signature } = await peer.expect("commitment_signed");
    await peer.reconnect();
    const { next_funding } = await peer.expect("channel_reestablish");
    assert.deepEqual(next_funding, { next_funding_txid: agreed.txid, retransmit_flags: 1 });
    await peer.sayReestablish({ next_funding: { next_funding_txid: agreed.txid, retransmit_flags: 1 } });
    assert.deepEqual((await peer.expect("commitment_signed")).signature, signature, "byte for byte");
    await peer.sayCommitment(agreed);
    await peer.expect("tx_signatures");
    await peer.reconnect();
    assert.equal((await peer.expect("channel_reestablish")).next_funding?.retransmit_flags, 0);
    await peer.sayReestablish({
      next_funding: { next_funding_txid: new Uint8Array(32).fill(8), retransmit_flags: 0 },
    });
    await refuses(peer, { type: "error", text: /next_funding_txid/ });
  },
);

attack(
  "channel_reestablish, rule 60: a peer that forgot an open which the node has not signed lets it be forgotten",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    await peer.construct();
    await peer.expect("commitment_signed");
    await peer.reconnect();
    await peer.expect("channel_reestablish");
    await peer.send({
      type: "error",
      channel_id: peer.channelId,
      data: new TextEncoder().encode("unknown channel"),
    });
    await until(
      "it is forgotten",
      async () => await channelRows(victim.node, bytesToHex(peer.channelId)) === undefined,
    );
    await victim.nothingLeftOpen();
  },
);

for (
  const [name, say] of [
    ["tx_init_rbf", (peer: HostilePeer) => peer.send(peer.rbfMessage())],
    ["channel_ready", (peer: HostilePeer) => peer.sayReady()],
    ["tx_complete", (peer: HostilePeer) => peer.send({ type: "tx_complete", channel_id: peer.channelId })],
    [
      "shutdown",
      (peer: HostilePeer) =>
        peer.send({ type: "shutdown", channel_id: peer.channelId, scriptpubkey: p2wsh(Uint8Array.of(0x51)) }),
    ],
  ] as const
) {
  attack(
    `${name} before channel_reestablish: a warning and a hang-up, and the next connection is good`,
    async () => {
      const channel = await opened();
      await using peer = channel.peer;
      await reconnected(channel);
      await say(peer);
      await refuses(peer, { type: "warning", text: /before channel_reestablish/ });
      await peer.raw.closed();
      await reconnected(channel);
      await peer.sayReestablish();
      await intact(channel);
    },
  );
}

attack("a second channel_reestablish on one connection gets a warning and changes nothing", async () => {
  const channel = await opened();
  await using peer = channel.peer;
  await reconnected(channel);
  await peer.sayReestablish();
  await peer.sayReestablish({ next_commitment_number: 7n });
  await refuses(peer, { type: "warning", text: /channel_reestablish/ });
  await intact(channel);
});

attack("another peer cannot speak for a channel that is not its own", async () => {
  const channel = await opened();
  await using owner = channel.peer;
  await using thief = await victim.connect();
  await thief.send({ type: "tx_abort", channel_id: owner.channelId, data: new Uint8Array() });
  await thief.send({ type: "error", channel_id: owner.channelId, data: new Uint8Array() });
  thief.channelId = owner.channelId;
  await thief.sayReestablish({ next_commitment_number: 0n });
  await refuses(thief, { type: "error", text: /unknown channel/ });
  await thief.send(thief.rbfMessage());
  await thief.verdict();
  await intact(channel);
});

attack(
  "tx_init_rbf that comes when an attempt is confirmed: tx_abort, and the channel locks in with that attempt",
  async () => {
    const channel = await opened();
    await using peer = channel.peer;
    await until("it can be mined", async () => {
      const mempool = await victim.chain.rpc<string[]>("getrawmempool");
      return mempool.includes(channel.agreed.tx.getId());
    });
    await victim.chain.mine(1);
    await peer.expect("channel_ready");
    await peer.send(peer.rbfMessage({ funding_output_contribution: signedSat(HOSTILE_SAT) }));
    await refuses(peer, { type: "tx_abort", text: /channel_ready|confirmed/ });
    await peer.sayReady();
    await until("the channel is in use", async () => (await rowsOf(peer)).state === "CHANNELD_NORMAL");
    assert.equal((await rowsOf(peer)).locked, channel.agreed.tx.getId());
  },
);

attack("replacing: the honest peer's channels noticed nothing of all that", () => victim.locksIn());
