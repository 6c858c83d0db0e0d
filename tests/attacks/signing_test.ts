/**
 * What a node refuses of first commitments and tx_signatures (BOLT 2), seen from the peer. Before the node's own
 * tx_signatures are out a mistake costs the attempt and nothing else; afterwards nothing is forgotten any more.
 */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { p2wsh } from "bolt/tx/scripts.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import type { MessageOf } from "bolt/wire/messages.ts";
import { until } from "tools/node/commands.ts";
import { type CoinKind, fakeCoin, type HostileCoin, witnessFor } from "../lib/hostile_coins.ts";
import { type Agreed, HOSTILE_SAT, type HostilePeer } from "../lib/hostile_peer.ts";
import { channelRows, openRows } from "../lib/rows.ts";
import { attack, refuses, staysSilent, useVictim } from "./victim.ts";

/** Channels with coins of the node in them that these tests leave behind, and some more. */
const COINS = 16;
const victim = await useVictim({
  coins: COINS,
  stock: ["p2wsh", "p2wsh", "p2wpkh", "p2tr", "p2tr", "p2tr", "p2tr"],
});

/** More than any coin of the node: it signs first then. */
const RICH_SAT = 50_000_000n;
const SIGHASH = { all: 1, none: 2, single: 3, allAnyoneCanPay: 0x81 } as const;

/** An open up to both tx_complete; the node's commitment_signed is heard. */
async function constructed(peer: HostilePeer, coins: readonly HostileCoin[] = [fakeCoin()]): Promise<Agreed> {
  const accept = await peer.openTo();
  assert.ok(accept.funding_satoshis > 0n, "the node puts coins in");
  const agreed = await peer.construct({ coins });
  const theirs = await peer.expect("commitment_signed");
  assert.deepEqual(theirs.funding_txid, agreed.txid, "both built the same transaction");
  return agreed;
}

type Change = (agreed: Agreed, peer: HostilePeer) => Partial<MessageOf<"commitment_signed">>;

/** A commitment_signed that is worth nothing. */
const BAD_COMMITMENTS: readonly (readonly [string, Change, RegExp])[] = [
  ["46: with an HTLC signature", (agreed, peer) => ({
    htlc_signature: [peer.commitmentSignature(agreed)],
  }), /has no HTLC/],
  ["47: for another transaction", (agreed, peer) => ({
    signature: peer.commitmentSignature(agreed, { wrong: true }),
  }), /not good/],
  ["47: with a high S", (agreed, peer) => ({
    signature: peer.commitmentSignature(agreed, { high: true }),
  }), /not good/],
  ["47: of zeros", () => ({ signature: new Uint8Array(64) }), /not good/],
  ["47: of ones", () => ({ signature: new Uint8Array(64).fill(0xff) }), /not good/],
];

for (const [name, change, text] of BAD_COMMITMENTS) {
  attack(
    `commitment_signed, rule ${name}: nothing is left, and no signature of the node's coins left it`,
    async () => {
      await using peer = await victim.connect();
      // The node signs first: a good commitment would make its tx_signatures follow at once.
      const agreed = await constructed(peer, [fakeCoin("p2wpkh", RICH_SAT)]);
      await peer.sayCommitment(agreed, change(agreed, peer));
      await refuses(peer, { type: "tx_abort", text });
      await staysSilent(peer);
      await victim.nothingLeft();
    },
  );
}

attack(
  "commitment_signed, rule 46: for an unknown funding_txid gets a warning, and the right one goes on",
  async () => {
    await using peer = await victim.connect();
    const agreed = await constructed(peer, [fakeCoin("p2wpkh", RICH_SAT)]);
    await peer.sayCommitment(agreed, { funding_txid: new Uint8Array(32).fill(3) });
    await refuses(peer, { type: "warning", text: /unknown funding transaction/ });
    await peer.sayCommitment(agreed, { signature: peer.commitmentSignature(agreed, { wrong: true }) });
    await refuses(peer, { type: "tx_abort", text: /not good/ });
    await victim.nothingLeft();
  },
);

attack(
  "commitment_signed of a construction that is not complete gets an answer and changes nothing",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    await peer.sayInput(fakeCoin());
    await peer.theirTurn();
    await peer.send({
      type: "commitment_signed",
      channel_id: peer.channelId,
      signature: new Uint8Array(64).fill(1),
      htlc_signature: [],
    });
    await refuses(peer, { type: "warning", text: /commitment_signed/ });
    await peer.abort();
    await peer.expect("tx_abort");
    await victim.nothingLeft();
  },
);

/** Both commitments are exchanged, and it is this peer who signs first. */
async function committed(peer: HostilePeer, coins?: readonly HostileCoin[]): Promise<Agreed> {
  const agreed = await constructed(peer, coins);
  assert.ok(peer.signsFirst, "this peer's coins are worth less");
  await peer.sayCommitment(agreed);
  await staysSilent(peer);
  return agreed;
}

type Signatures = (agreed: Agreed, peer: HostilePeer) => Partial<MessageOf<"tx_signatures">>;

function spent(agreed: Agreed): { readonly index: number; readonly coin: HostileCoin } {
  const index = agreed.session.inputs.findIndex(({ coin }) => coin !== null);
  return { index, coin: agreed.session.inputs[index]!.coin! };
}

function stack(agreed: Agreed, flag: number = SIGHASH.all): Uint8Array[] {
  const { index, coin } = spent(agreed);
  return witnessFor(coin, agreed.tx, index, agreed.session.inputs, { flag });
}

const witnesses = (make: (agreed: Agreed) => Uint8Array): Signatures => (agreed) => ({
  witnesses: [make(agreed)],
});

const BAD_SIGNATURES: readonly (readonly [string, CoinKind, Signatures, RegExp])[] = [
  ["51: another txid", "p2wpkh", () => ({ txid: new Uint8Array(32).fill(4) }), /another transaction/],
  ["52: no witness", "p2wpkh", () => ({ witnesses: [] }), /0 witnesses instead of 1/],
  ["52: one witness too many", "p2wpkh", (agreed, peer) => ({
    witnesses: [...peer.witnesses(agreed), ...peer.witnesses(agreed)],
  }), /2 witnesses instead of 1/],
  ["52: 30,000 witnesses", "p2wpkh", () => ({
    witnesses: Array.from({ length: 30_000 }, () => new Uint8Array()),
  }), /30000 witnesses instead of 1/],
  ["53: an empty witness", "p2wpkh", witnesses(() => encodeWitness([])), /refused|malformed/],
  [
    "53: items that are empty",
    "p2wpkh",
    witnesses(() => encodeWitness([new Uint8Array(), new Uint8Array()])),
    /witness/,
  ],
  [
    "53: three items for P2WPKH",
    "p2wpkh",
    witnesses((agreed) => encodeWitness([...stack(agreed), Uint8Array.of(1)])),
    /refused/,
  ],
  [
    "53: SIGHASH_NONE",
    "p2wpkh",
    witnesses((agreed) => encodeWitness(stack(agreed, SIGHASH.none))),
    /refused/,
  ],
  [
    "53: SIGHASH_SINGLE",
    "p2wpkh",
    witnesses((agreed) => encodeWitness(stack(agreed, SIGHASH.single))),
    /refused/,
  ],
  [
    "53: SIGHASH_ALL with ANYONECANPAY",
    "p2wpkh",
    witnesses((agreed) => encodeWitness(stack(agreed, SIGHASH.allAnyoneCanPay))),
    /refused/,
  ],
  [
    "53: P2TR with SIGHASH_NONE",
    "p2tr",
    witnesses((agreed) => encodeWitness(stack(agreed, SIGHASH.none))),
    /refused/,
  ],
  [
    "53: P2TR with a written SIGHASH_DEFAULT",
    "p2tr",
    witnesses((agreed) => encodeWitness([Uint8Array.of(...stack(agreed, 0)[0]!, 0)])),
    /refused/,
  ],
  ["54: no bytes at all", "p2wpkh", witnesses(() => new Uint8Array()), /malformed/],
  [
    "54: a byte behind the last item",
    "p2wpkh",
    witnesses((agreed) => Uint8Array.of(...encodeWitness(stack(agreed)), 0)),
    /malformed/,
  ],
  [
    "54: an item that is longer than the witness",
    "p2wpkh",
    witnesses(() => Uint8Array.of(1, 0xfe, 0xff, 0xff, 0xff, 0x7f)),
    /malformed/,
  ],
  ["54: 2^64 - 1 items", "p2wpkh", witnesses(() => new Uint8Array(9).fill(0xff)), /malformed/],
  [
    "54: a signature of another message, P2WPKH",
    "p2wpkh",
    witnesses((agreed) => {
      const { coin } = spent(agreed);
      const other = agreed.tx.clone();
      other.locktime = 1;
      return encodeWitness(witnessFor(coin, other, spent(agreed).index, agreed.session.inputs));
    }),
    /not good/,
  ],
  [
    "54: a signature of another message, P2TR",
    "p2tr",
    witnesses(() => encodeWitness([Uint8Array.of(...new Uint8Array(64).fill(7), 1)])),
    /not good|refused/,
  ],
  [
    "54: another script than the one that is paid",
    "p2wsh",
    witnesses(() => encodeWitness([Uint8Array.of(0x52)])),
    /./,
  ],
];

for (const [name, kind, change, text] of BAD_SIGNATURES) {
  attack(`tx_signatures, rule ${name}: aborted, nothing is left`, async () => {
    await using peer = await victim.connect();
    const agreed = await committed(peer, [realCoin(kind)]);
    await peer.saySignatures(agreed, change(agreed, peer));
    await refuses(peer, { type: "tx_abort", text });
    await staysSilent(peer);
    await victim.nothingLeft();
  });
}

/** A coin that bitcoind knows where only its script engine can tell; one that nobody knows where a signature decides. */
function realCoin(kind: CoinKind): HostileCoin {
  return kind === "p2wsh" ? victim.coin(kind) : fakeCoin(kind);
}

attack("tx_signatures, rule 52: the witnesses in another order than that of serial ids", async () => {
  await using peer = await victim.connect();
  const agreed = await committed(peer, [fakeCoin("p2tr"), fakeCoin("p2tr")]);
  await peer.saySignatures(agreed, { witnesses: peer.witnesses(agreed).reverse() });
  await refuses(peer, { type: "tx_abort", text: /not good/ });
  await victim.nothingLeft();
});

attack("tx_signatures, rule 49: before commitment_signed", async () => {
  await using peer = await victim.connect();
  const agreed = await constructed(peer);
  await peer.saySignatures(agreed);
  await refuses(peer, { type: "tx_abort", text: /before commitment_signed/ });
  await victim.nothingLeft();
});

attack("tx_signatures, rule 56: witnesses that blow the transaction up below its fee rate", async () => {
  await using peer = await victim.connect();
  const pushes = Array.from({ length: 6 }, () => [0x4d, 0x08, 0x02, ...new Uint8Array(520), 0x75]).flat();
  const script = Uint8Array.of(...pushes, 0x51);
  const agreed = await committed(peer, [fakeCoin("p2wsh", undefined, { script: p2wsh(script) })]);
  await peer.saySignatures(agreed, { witnesses: [encodeWitness([script])] });
  await refuses(peer, { type: "tx_abort", text: /fee are due/ });
  await victim.nothingLeft();
});

attack("tx_signatures without a transaction, and without a channel, get an answer", async () => {
  await using peer = await victim.connect();
  await peer.openTo();
  await peer.send({
    type: "tx_signatures",
    channel_id: peer.channelId,
    txid: new Uint8Array(32),
    witnesses: [],
  });
  await refuses(peer, { type: "warning", text: /tx_signatures/ });
  await peer.abort();
  await peer.expect("tx_abort");
  await victim.nothingLeft();
});

attack("messages of a construction that is complete get an answer and change nothing (rule 36)", async () => {
  await using peer = await victim.connect();
  const agreed = await committed(peer);
  await peer.sayComplete();
  await refuses(peer, { type: "warning", text: /tx_complete/ });
  await peer.send(peer.inputMessage(fakeCoin()));
  await refuses(peer, { type: "warning", text: /tx_add_input/ });
  await peer.saySignatures(agreed, { witnesses: [] });
  await refuses(peer, { type: "tx_abort", text: /witnesses/ });
  await victim.nothingLeft();
});

attack(
  "tx_abort, rules 58 and 60: echoed exactly once before signatures, an echo is not echoed, the open is forgotten",
  async () => {
    await using peer = await victim.connect();
    await committed(peer);
    await peer.abort("\u001b[31m");
    await peer.expect("tx_abort");
    await victim.nothingLeft();
    await peer.abort();
    await staysSilent(peer);
  },
);

attack("tx_abort instead of an answer to every message of an open leaves nothing", async () => {
  const points: ((peer: HostilePeer) => Promise<void>)[] = [
    async (peer) => void await peer.openTo(),
    async (peer) => {
      await peer.openTo();
      await peer.sayInput(fakeCoin());
      await peer.theirTurn();
    },
    async (peer) => void await constructed(peer),
    async (peer) => void await committed(peer),
  ];
  for (const [index, point] of points.entries()) {
    await using peer = await victim.connect();
    await point(peer);
    await peer.abort(`at point ${index}`);
    await peer.expect("tx_abort");
    await staysSilent(peer);
    await victim.nothingLeft();
  }
});

for (const kind of ["p2tr", "p2wpkh", "p2wsh"] as const) {
  for (const flag of kind === "p2tr" ? [0, SIGHASH.all] : [SIGHASH.all]) {
    const what = flag === 0 ? "64-byte key path signature" : "signature with SIGHASH_ALL";
    attack(
      `tx_signatures: a ${kind} input with a ${what} is taken, and the transaction is broadcast`,
      async () => {
        await using peer = await victim.connect();
        const agreed = await peer.fullOpen([victim.coin(kind)], {}, { flag });
        await until("the funding transaction in the mempool", async () => {
          const mempool = await victim.chain.rpc<string[]>("getrawmempool");
          return mempool.includes(agreed.tx.getId());
        });
        const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
        assert.equal(rows?.state, "DUALOPEND_AWAITING_LOCKIN");
        const [theirs] = rows.attempts;
        assert.ok(theirs?.complete && theirs.localSigned);
      },
    );
  }
}

/** The node has sent its tx_signatures, this peer has not. */
async function nodeSigned(peer: HostilePeer, coin = fakeCoin("p2wpkh", RICH_SAT)): Promise<Agreed> {
  const agreed = await constructed(peer, [coin]);
  assert.equal(peer.signsFirst, false);
  await peer.sayCommitment(agreed);
  await peer.expect("tx_signatures");
  return agreed;
}

attack("tx_abort, rule 59: after the node's tx_signatures it is echoed and forgets nothing", async () => {
  await using peer = await victim.connect();
  const agreed = await nodeSigned(peer);
  const before = await openRows(victim.node);
  await peer.abort();
  await peer.expect("tx_abort");
  await staysSilent(peer);
  assert.deepEqual(await openRows(victim.node), before);
  const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
  assert.deepEqual(rows?.attempts, [
    { txid: agreed.tx.getId(), complete: false, localSigned: true, aborted: false },
  ]);
  // What was agreed still goes on, also on the next connection.
  await peer.reconnect();
  const { next_funding } = await peer.expect("channel_reestablish");
  assert.deepEqual(next_funding?.next_funding_txid, agreed.txid);
});

attack(
  "tx_signatures, rule 57: wrong ones after the node's own are bounded work: warnings, then a hang-up, and nothing is forgotten",
  async () => {
    await using peer = await victim.connect();
    const agreed = await nodeSigned(peer);
    for (let i = 0; i < 2; i++) {
      await peer.saySignatures(agreed, { witnesses: [new Uint8Array(5)] });
      await refuses(peer, { type: "warning", text: /malformed/ });
    }
    await peer.saySignatures(agreed, { witnesses: [new Uint8Array(5)] });
    await refuses(peer, { type: "warning", text: /malformed/ });
    await peer.raw.closed();
    const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
    assert.ok(rows?.attempts[0]?.localSigned);
  },
);

attack(
  "channel_ready before tx_signatures locks nothing and ends the connection; after them it is stored and locks nothing",
  async () => {
    await using early = await victim.connect();
    await committed(early);
    await early.sayReady();
    await refuses(early, { type: "warning", text: /channel_ready before tx_signatures/ });
    await early.raw.closed();
    const unsigned = await channelRows(victim.node, bytesToHex(early.channelId));
    assert.equal(unsigned?.locked, null);

    await using peer = await victim.connect();
    await peer.fullOpen([victim.coin()]);
    await peer.sayReady();
    await staysSilent(peer);
    const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
    assert.equal(rows?.locked, null);
    assert.equal(rows?.state, "DUALOPEND_AWAITING_LOCKIN");
    await peer.sayReady({ second_per_commitment_point: peer.keys.firstPerCommitmentPoint });
    await staysSilent(peer);
  },
);

attack("channel_ready with another point than the open named is refused, rule 17", async () => {
  await using peer = await victim.connect();
  await peer.fullOpen([victim.coin()]);
  await peer.sayReady({ second_per_commitment_point: peer.keys.firstPerCommitmentPoint });
  await refuses(peer, { type: "warning", text: /second_per_commitment_point/ });
  await peer.raw.closed();
});

/** The node opens; both commitments are due. */
async function nodeOpened(peer: HostilePeer, coins: readonly HostileCoin[] = [fakeCoin()]) {
  const { opened } = await victim.opensTo(peer);
  await peer.sayAccept({}, HOSTILE_SAT);
  const agreed = await peer.construct({ coins });
  await peer.expect("commitment_signed");
  return { opened, agreed };
}

for (const [name, change, text] of BAD_COMMITMENTS) {
  attack(
    `commitment_signed of an accepter, rule ${name}: fundchannel fails, and nothing is left`,
    async () => {
      await using peer = await victim.connect();
      const { opened, agreed } = await nodeOpened(peer, [fakeCoin("p2wpkh", RICH_SAT)]);
      assert.equal(peer.signsFirst, false);
      await peer.sayCommitment(agreed, change(agreed, peer));
      await refuses(peer, { type: "tx_abort", text });
      assert.match((await opened).message, text);
      await staysSilent(peer);
      await victim.nothingLeft();
    },
  );
}

attack("tx_signatures of an accepter with another txid: fundchannel fails, and nothing is left", async () => {
  await using peer = await victim.connect();
  const { opened, agreed } = await nodeOpened(peer);
  assert.ok(peer.signsFirst);
  await peer.sayCommitment(agreed);
  await peer.saySignatures(agreed, { txid: new Uint8Array(32).fill(4) });
  await refuses(peer, { type: "tx_abort", text: /another transaction/ });
  assert.match((await opened).message, /another transaction/);
  await victim.nothingLeft();
});

attack(
  "tx_abort of an accepter at every point: fundchannel fails with its words, printable ones only, and nothing is left",
  async () => {
    const points: ((peer: HostilePeer) => Promise<void>)[] = [
      async (peer) => void await peer.sayAccept({}, HOSTILE_SAT),
      async (peer) => {
        await peer.sayAccept({}, HOSTILE_SAT);
        await peer.theirTurn();
        await peer.sayInput(fakeCoin());
      },
      async (peer) => {
        await peer.sayAccept({}, HOSTILE_SAT);
        await peer.construct();
        await peer.expect("commitment_signed");
      },
    ];
    for (const point of points) {
      for (
        const [text, shown] of [["no coins left", /no coins left/], ["\u001b[2J", /not printable/]] as const
      ) {
        await using peer = await victim.connect();
        const { opened } = await victim.opensTo(peer);
        await point(peer);
        await peer.send({
          type: "tx_abort",
          channel_id: peer.channelId,
          data: new TextEncoder().encode(text),
        });
        assert.match((await opened).message, shown);
        await victim.nothingLeft();
      }
    }
  },
);

attack("an accepter that answers open_channel2 with an error: fundchannel fails with its words", async () => {
  await using peer = await victim.connect();
  const { opened } = await victim.opensTo(peer);
  await peer.send({
    type: "error",
    channel_id: peer.channelId,
    data: new TextEncoder().encode("you are too small"),
  });
  assert.match((await opened).message, /you are too small/);
  await staysSilent(peer);
  await victim.nothingLeft();
});

attack("signing: the honest peer's channels noticed nothing of all that", () => victim.locksIn());
