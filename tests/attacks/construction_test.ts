/**
 * What a node refuses while a funding transaction is built (BOLT 2, interactive transaction construction), seen from the
 * peer, in both roles: always one tx_abort that says why, the connection is kept, and no row and no reserved coin is left.
 */
import assert from "node:assert/strict";
import { p2tr, p2wpkh, p2wsh } from "bolt/tx/scripts.ts";
import type { Message } from "bolt/wire/messages.ts";
import { fakeCoin } from "../lib/hostile_coins.ts";
import type { HostilePeer } from "../lib/hostile_peer.ts";
import { attack, refuses, staysSilent, useVictim } from "./victim.ts";

const victim = await useVictim();
const MAX_MONEY = 2_100_000_000_000_000n;
const HASH20 = new Uint8Array(20).fill(5);
const P2PKH = Uint8Array.of(0x76, 0xa9, 20, ...HASH20, 0x88, 0xac);
const P2SH = Uint8Array.of(0xa9, 20, ...HASH20, 0x87);
const OP_RETURN = Uint8Array.of(0x6a, 4, 1, 2, 3, 4);
const PUSH_41 = Uint8Array.of(0x51, 41, ...new Uint8Array(41));
const PUSH_1 = Uint8Array.of(0x51, 1, 7);
const WALLET_SCRIPT = p2wsh(Uint8Array.of(0x51));
/** The received tx_add_input that is one too many. */
const ADDS_REFUSED_AT = 4096;
const TURNS_AHEAD = 32;
const MAX_ITEMS = 252;

/** What every input is counted with at least (BOLT 3). */
const LEAST_WITNESS = 107;

type Attack = (peer: HostilePeer) => Promise<void>;

function input(changes: Parameters<HostilePeer["sayInput"]>[1]): Attack {
  return (peer) => peer.sayInput(fakeCoin(), changes);
}

function spending(script: Uint8Array): Attack {
  return (peer) => peer.sayInput(fakeCoin("p2wpkh", undefined, { script }));
}

function output(sats: bigint, script: Uint8Array = WALLET_SCRIPT, changes = {}): Attack {
  return (peer) => peer.sayOutput(sats, script, changes);
}

/** The whole construction with these outputs; the answer follows the last tx_complete. */
function finished(
  outputs: (peer: HostilePeer) => { sats: bigint; script: Uint8Array }[],
  coins = [fakeCoin()],
): Attack {
  return (peer) => peer.constructUntilComplete({ coins, outputs: outputs(peer) });
}

const funding = (peer: HostilePeer) => ({ sats: peer.fundingSat, script: peer.fundingScript });

/** Rule, what the peer does after accept_channel2, and the text of the tx_abort. */
const AS_OPENER: readonly (readonly [string, Attack, RegExp])[] = [
  ["19: sequence 0xfffffffe", input({ sequence: 0xffff_fffe }), /sequence/],
  ["19: sequence 0xffffffff", input({ sequence: 0xffff_ffff }), /sequence/],
  ["20: odd serial_id of an input by the initiator", input({ serial_id: 7n }), /parity/],
  ["20: odd serial_id 2^64-1", input({ serial_id: 0xffff_ffff_ffff_ffffn }), /parity/],
  ["21: serial_id of an input used twice", async (peer) => {
    await peer.sayInput(fakeCoin(), { serial_id: 4n });
    await peer.theirTurn();
    await peer.sayInput(fakeCoin(), { serial_id: 4n });
  }, /already used/],
  ["22: prevtx is noise", input({ prevtx: new Uint8Array(100).fill(0xee) }), /not a transaction/],
  ["22: prevtx is cut off", input({ prevtx: fakeCoin().prevtx.slice(0, -1) }), /not a transaction/],
  [
    "22: prevtx has a byte too many",
    input({ prevtx: Uint8Array.of(...fakeCoin().prevtx, 0) }),
    /not a transaction/,
  ],
  [
    "22: prevtx announces 2^64 inputs",
    input({
      prevtx: Uint8Array.of(2, 0, 0, 0, ...new Uint8Array(9).fill(0xff)),
    }),
    /not a transaction/,
  ],
  ["23: prevtx_vout out of range", input({ prevtx_vout: 1 }), /no such output/],
  ["23: prevtx_vout 2^32-1", input({ prevtx_vout: 0xffff_ffff }), /no such output/],
  ["24: P2PKH is spent", spending(P2PKH), /not a native segwit/],
  ["24: P2SH, perhaps wrapped segwit, is spent", spending(P2SH), /not a native segwit/],
  ["24: a bare script is spent", spending(Uint8Array.of(0x51)), /not a native segwit/],
  ["24: an empty script is spent", spending(new Uint8Array()), /not a native segwit/],
  ["24: a program of 41 bytes is spent", spending(PUSH_41), /not a native segwit/],
  ["24: a program of 1 byte is spent", spending(PUSH_1), /not a native segwit/],
  ["25: the same output twice", async (peer) => {
    const coin = fakeCoin();
    await peer.sayInput(coin);
    await peer.theirTurn();
    await peer.sayInput(coin);
  }, /already spent/],
  ["25: an output that the node has put in", async (peer) => {
    await peer.sayInput(fakeCoin());
    const theirs = await peer.expect("tx_add_input");
    await peer.sayInput(fakeCoin(), { prevtx: theirs.prevtx, prevtx_vout: theirs.prevtx_vout });
  }, /already spent/],
  ["27: no prevtx", input({ prevtx: new Uint8Array() }), /prevtx is missing/],
  [
    "27: shared_input_txid outside of a splice",
    input({
      prevtx: new Uint8Array(),
      shared_input_txid: new Uint8Array(32).fill(1),
    }),
    /no shared input/,
  ],
  [
    "28: shared_input_txid beside a prevtx",
    input({ shared_input_txid: new Uint8Array(32).fill(1) }),
    /no shared input/,
  ],
  ["11: an input of more than all bitcoin", (peer) => {
    return peer.send(peer.inputMessage(fakeCoin(), { prevtx: prevtxWithAmount(0xffff_ffff_ffff_ffffn) }));
  }, /cannot exist/],
  ["31: an OP_RETURN output", output(1_000n, OP_RETURN), /script/],
  ["31: a P2PKH output", output(1_000n, P2PKH), /script/],
  ["31: an output with an empty script", output(1_000n, new Uint8Array()), /script/],
  ["32: an output of 353 sat", output(353n), /below the dust limit/],
  ["32: an output of 0 sat", output(0n), /below the dust limit/],
  ["32: an output of MAX_MONEY + 1", output(MAX_MONEY + 1n), /more than 21000000 BTC/],
  ["32: an output of 2^63 sat", output(1n << 63n), /more than 21000000 BTC/],
  ["32: an output of 2^64 - 1 sat", output(0xffff_ffff_ffff_ffffn), /more than 21000000 BTC/],
  ["33: odd serial_id of an output", output(1_000n, WALLET_SCRIPT, { serial_id: 9n }), /parity/],
  ["33: serial_id of an output used twice", async (peer) => {
    await peer.sayOutput(1_000n, WALLET_SCRIPT, { serial_id: 4n });
    await peer.theirTurn();
    await peer.sayOutput(1_000n, WALLET_SCRIPT, { serial_id: 4n });
  }, /already used/],
  [
    "34: an input that was never added is removed",
    (peer) => peer.send({ type: "tx_remove_input", channel_id: peer.channelId, serial_id: 4n }),
    /to remove/,
  ],
  [
    "34: an output that was never added is removed",
    (peer) => peer.send({ type: "tx_remove_output", channel_id: peer.channelId, serial_id: 4n }),
    /to remove/,
  ],
  ["34: an input is removed twice", async (peer) => {
    await peer.sayInput(fakeCoin(), { serial_id: 4n });
    await peer.theirTurn();
    const remove = { type: "tx_remove_input", channel_id: peer.channelId, serial_id: 4n } as const;
    await peer.send(remove);
    await peer.theirTurn();
    await peer.send(remove);
  }, /to remove/],
  ["34: the node's input is removed", async (peer) => {
    await peer.sayInput(fakeCoin());
    const theirs = await peer.expect("tx_add_input");
    await peer.send({ type: "tx_remove_input", channel_id: peer.channelId, serial_id: theirs.serial_id });
  }, /parity|to remove/],
  [
    "39: inputs that do not cover the contribution",
    finished((peer) => [funding(peer)], [fakeCoin("p2wpkh", 150_000n)]),
    /short of/,
  ],
  [
    "39: change that was never put in",
    finished((peer) => [funding(peer), { sats: 900_000n, script: WALLET_SCRIPT }]),
    /short of/,
  ],
  [
    "40: a fee below the agreed rate",
    finished((peer) => [funding(peer), { sats: 799_900n, script: WALLET_SCRIPT }]),
    /leave a fee of 100 sat/,
  ],
  [
    "41: the initiator leaves the common fields to others",
    finished((peer) => [funding(peer)], [fakeCoin("p2wpkh", 200_300n)]),
    /leave a fee of 300 sat/,
  ],
  [
    "42: no funding output at all",
    finished(() => [{ sats: 300_000n, script: WALLET_SCRIPT }]),
    /funding output is missing/,
  ],
  [
    "42: the funding output goes to another script",
    finished((peer) => [{ sats: peer.fundingSat, script: p2wsh(Uint8Array.of(0x52)) }]),
    /funding output is missing/,
  ],
  [
    "42: the funding output is smaller than negotiated",
    finished((peer) => [{ ...funding(peer), sats: peer.fundingSat - 1n }]),
    /instead of/,
  ],
  [
    "42: the funding output is larger than negotiated",
    finished((peer) => [{ ...funding(peer), sats: peer.fundingSat + 1n }]),
    /instead of/,
  ],
  [
    "42: the funding output holds only the opener's part",
    finished((peer) => [{ ...funding(peer), sats: peer.session.mine }]),
    /instead of/,
  ],
  [
    "42: two funding outputs",
    finished((peer) => [funding(peer), funding(peer)], [fakeCoin("p2wpkh", 5_000_000n)]),
    /more than one funding output/,
  ],
  [
    "45: amounts that add up to more than there is",
    finished(
      (peer) => [funding(peer)],
      [fakeCoin("p2wpkh", MAX_MONEY), fakeCoin("p2wpkh", MAX_MONEY)],
    ),
    /more than 21000000 BTC/,
  ],
];

function prevtxWithAmount(amount: bigint): Uint8Array {
  const { prevtx } = fakeCoin("p2wpkh", MAX_MONEY);
  const old = new Uint8Array(8);
  new DataView(old.buffer).setBigUint64(0, MAX_MONEY, true);
  const at = prevtx.findIndex((_, i) => old.every((byte, j) => prevtx[i + j] === byte));
  const changed = prevtx.slice();
  new DataView(changed.buffer).setBigUint64(at, amount, true);
  return changed;
}

async function aborted(peer: HostilePeer, text: RegExp): Promise<void> {
  await refuses(peer, { type: "tx_abort", text });
  await staysSilent(peer);
  await victim.nothingLeft();
}

for (const [name, act, text] of AS_OPENER) {
  attack(`construction as initiator, rule ${name}`, async () => {
    await using peer = await victim.connect();
    const accept = await peer.openTo();
    assert.ok(accept.funding_satoshis > 0n, "the node puts coins in");
    await act(peer);
    await aborted(peer, text);
  });
}

attack("construction, rule 26: the 4096th tx_add_input is one too many, removed ones count", async () => {
  await using peer = await victim.connect();
  await peer.openTo();
  const coin = fakeCoin();
  let turns = 0;
  const send = async (message: Message) => {
    await peer.send(message);
    // Said without waiting for each answer, yet never further ahead than buffers are for.
    if (++turns > TURNS_AHEAD) await peer.theirTurn();
  };
  for (let i = 1; i < ADDS_REFUSED_AT; i++) {
    const message = peer.inputMessage(coin);
    await send(message);
    await send({ type: "tx_remove_input", channel_id: peer.channelId, serial_id: message.serial_id });
  }
  for (let i = 0; i < Math.min(turns, TURNS_AHEAD); i++) await peer.theirTurn();
  await peer.send(peer.inputMessage(coin));
  await aborted(peer, /too many tx_add_input/);
});

attack("construction, rule 37: more than 252 inputs", async () => {
  await using peer = await victim.connect();
  await peer.openTo();
  const coins = Array.from({ length: MAX_ITEMS + 1 }, () => fakeCoin("p2wsh"));
  await peer.constructUntilComplete({ coins });
  await aborted(peer, /more than 252 inputs/);
});

attack("construction, rule 37: more than 252 outputs", async () => {
  await using peer = await victim.connect();
  await peer.openTo();
  const outputs = Array.from({ length: MAX_ITEMS }, () => ({ sats: 1_000n, script: WALLET_SCRIPT }));
  await peer.constructUntilComplete({
    coins: [fakeCoin("p2wpkh", 5_000_000n)],
    outputs: [funding(peer), ...outputs],
  });
  await aborted(peer, /more than 252 outputs/);
});

attack(
  "construction, rule 38: as many inputs and outputs as there may be are far from 400000 weight units, and are built",
  async () => {
    await using peer = await victim.connect();
    const { dust_limit_satoshis: sats } = await peer.openTo();
    // Room for what the node adds. No message carries witnesses for more than 65535 weight units besides.
    const many = MAX_ITEMS - 8;
    const coins = Array.from({ length: many }, () => fakeCoin("p2wsh"));
    const outputs = Array.from({ length: many - 1 }, () => ({ sats, script: WALLET_SCRIPT }));
    const agreed = await peer.construct({ coins, outputs: [funding(peer), ...outputs] });
    const { funding_txid } = await peer.expect("commitment_signed");
    assert.deepEqual(funding_txid, agreed.txid, "both built the same transaction");
    const weight = agreed.tx.weight() + LEAST_WITNESS * agreed.tx.ins.length;
    assert.ok(weight > 100_000 && weight + 65_535 < 400_000, `${weight} weight units`);
    await peer.abort();
    await peer.expect("tx_abort");
    await victim.nothingLeft();
  },
);

attack(
  "construction, rules 31 and 34: P2WPKH, P2WSH and P2TR outputs are taken, and a removed output may be spent again",
  async () => {
    await using peer = await victim.connect();
    const { dust_limit_satoshis: sats } = await peer.openTo();
    const coin = fakeCoin("p2tr");
    await peer.send(peer.inputMessage(coin, { serial_id: 4n }));
    await peer.theirTurn();
    await peer.send({ type: "tx_remove_input", channel_id: peer.channelId, serial_id: 4n });
    await peer.theirTurn();
    const scripts = [p2wpkh(new Uint8Array(33).fill(2)), WALLET_SCRIPT, p2tr(new Uint8Array(32).fill(2))];
    await peer.construct({
      coins: [coin],
      outputs: [funding(peer), ...scripts.map((script) => ({ sats, script }))],
    });
    const { funding_txid } = await peer.expect("commitment_signed");
    assert.deepEqual(funding_txid, peer.agreed().txid, "both built the same transaction");
    await peer.abort();
    await peer.expect("tx_abort");
    await victim.nothingLeft();
  },
);

/** Rule, what the accepter puts in, what it does in its first turn, text. */
const AS_ACCEPTER: readonly (readonly [string, bigint, Attack, RegExp])[] = [
  ["20: even serial_id by the accepter", 0n, input({ serial_id: 8n }), /parity/],
  ["25: the node's own output is added again", 0n, async (peer) => {
    const [theirs] = peer.session.inputs;
    assert.ok(theirs && peer.lastInput);
    const { prevtx, prevtx_vout } = peer.lastInput;
    await peer.sayInput(fakeCoin(), { prevtx, prevtx_vout });
  }, /already spent/],
  [
    "39: a contribution without any input",
    100_000n,
    (peer) => peer.constructFrom({ coins: [], outputs: [] }),
    /short of/,
  ],
  [
    "40: an accepter that pays no fee",
    100_000n,
    (peer) => peer.constructFrom({ coins: [fakeCoin("p2wpkh", 100_000n)], outputs: [] }),
    /leave a fee of 0 sat/,
  ],
  ["42: an accepter that adds a second funding output", 100_000n, (peer) =>
    peer.constructFrom({
      coins: [fakeCoin("p2wpkh", 5_000_000n)],
      outputs: [{ sats: peer.fundingSat, script: peer.fundingScript }],
    }), /more than one funding output/],
];

for (const [name, contribution, act, text] of AS_ACCEPTER) {
  attack(`construction as accepter, rule ${name}`, async () => {
    await using peer = await victim.connect();
    const { opened } = await victim.opensTo(peer);
    await peer.sayAccept({}, contribution);
    await peer.theirTurn();
    await act(peer);
    await aborted(peer, text);
    assert.match((await opened).message, text);
  });
}

attack("construction: the honest peer's channels noticed nothing of all that", () => victim.locksIn());
