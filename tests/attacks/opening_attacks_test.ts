/**
 * The attacks on opening channels that other nodes suffered or fixed, 1 to 12 of the project's list, each by its number
 * and source. Splices are not served yet.
 */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { p2wsh } from "bolt/tx/scripts.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import type { Message } from "bolt/wire/messages.ts";
import { until, untilSynced } from "tools/node/commands.ts";
import { fakeCoin, type HostileCoin } from "../lib/hostile_coins.ts";
import { type Agreed, HostilePeer } from "../lib/hostile_peer.ts";
import { randomSecret } from "../lib/raw_peer.ts";
import { channelRows, openRows } from "../lib/rows.ts";
import { attack, refuses, staysSilent, useVictim } from "./victim.ts";

const MAX_OPENS = 3;
/** Blocks before a block's own coin may be spent. */
const COINBASE_MATURITY = 100;
const MAX_OPENS_PER_MINUTE = 8;
/** Coins of the node that one peer's opens may hold, and all peers'. */
const MAX_INPUTS_OF_PEER = 2;
const MAX_INPUTS = 10;
const victim = await useVictim({
  coins: 16,
  stock: ["p2tr", "p2tr", "p2tr", "p2tr", "p2tr", "p2tr", "p2wpkh"],
}, {
  alice: {
    "max-opens-per-peer": String(MAX_OPENS),
    "max-opens-per-minute": String(MAX_OPENS_PER_MINUTE),
    "funder-max-inputs-per-peer": String(MAX_INPUTS_OF_PEER),
    "funder-max-inputs": String(MAX_INPUTS),
  },
});
const RICH_SAT = 50_000_000n;

attack(
  "attack 1, fake channels (morehouse 2023-08; LDK #4851, #4081): one peer's opens are bounded, also when it signs and never funds",
  async () => {
    await using peer = await victim.connect();
    const opens = [peer, peer.sibling(), peer.sibling()];
    for (const open of opens) await open.openTo();
    const more = peer.sibling();
    const { temporary_channel_id } = await more.sayOpen();
    await refuses(more, { type: "error", text: /too many/ }, temporary_channel_id);
    // A signed one, whose inputs do not exist, counts as well, on every later connection.
    const agreed = await opens[0]!.construct();
    await opens[0]!.commit(agreed);
    await opens[0]!.sign(agreed);
    await peer.reconnect();
    await peer.expect("channel_reestablish");
    await peer.sayReestablish();
    const later = [peer.sibling(), peer.sibling()];
    for (const open of later) await open.openTo();
    const last = peer.sibling();
    const refused = await last.sayOpen();
    await refuses(last, { type: "error", text: /too many/ }, refused.temporary_channel_id);
    // Others are served meanwhile.
    await using other = await victim.connect();
    await other.openTo();
  },
);

attack(
  "attack 1, opens that are begun and left: one peer's are bounded in a minute, however often it connects",
  async () => {
    const before = await openRows(victim.node);
    await using peer = await victim.connect();
    for (let opens = 0; opens < MAX_OPENS_PER_MINUTE; opens++) {
      await peer.sibling().openTo();
      await peer.reconnect();
    }
    const more = peer.sibling();
    const { temporary_channel_id } = await more.sayOpen();
    await refuses(more, { type: "error", text: /too many opens in a short time/ }, temporary_channel_id);
    await staysSilent(peer);
    await victim.nothingLeft(before);
    // Others are served meanwhile.
    await using other = await victim.connect();
    await other.openTo();
  },
);

attack(
  "attack 2, the race between an open and what is done at connecting (morehouse 2024-01): opens that come with init are served, one daemon each",
  async () => {
    await victim.nothingLeftOpen();
    const secrets = Array.from({ length: 8 }, () => randomSecret());
    const peers = await Promise.all(secrets.map((secret) => victim.connect({ secret, awaitInit: false })));
    try {
      await Promise.all(peers.map(async (peer) => {
        const { temporary_channel_id } = await peer.sayOpen();
        await peer.expect("init");
        assert.deepEqual((await peer.expect("accept_channel2")).temporary_channel_id, temporary_channel_id);
      }));
      assert.equal((await openRows(victim.node)).openings, peers.length);
    } finally {
      await Promise.all(peers.map((peer) => peer.close()));
    }
    await victim.nothingLeftOpen();
  },
);

attack(
  "attack 3, an all-zero funding_txid (CLN 26.04): funding_created and commitment_signed with it crash nothing",
  async () => {
    const before = await openRows(victim.node);
    await using peer = await victim.connect();
    await peer.openTo();
    const agreed = await peer.construct();
    await peer.expect("commitment_signed");
    await peer.sayCommitment(agreed, { funding_txid: new Uint8Array(32) });
    await refuses(peer, { type: "warning", text: /unknown funding transaction/ });
    const unknown = crypto.getRandomValues(new Uint8Array(32));
    await peer.send({
      type: "funding_created",
      temporary_channel_id: unknown,
      funding_txid: new Uint8Array(32),
      funding_output_index: 0,
      signature: new Uint8Array(64),
    });
    await refuses(peer, { type: "error", text: /unknown channel/ }, unknown);
    await peer.abort();
    await peer.expect("tx_abort");
    await victim.nothingLeft(before);
  },
);

attack(
  "attack 4, colliding ids (CLN #9318; eclair #3337, #3324; LDK #2809): a temporary id in use, and basepoints that are used twice",
  async () => {
    const before = await openRows(victim.node);
    await using peer = await victim.connect();
    await peer.sayOpen();
    await peer.send(peer.openMessage());
    const said = [await peer.hear(), await peer.hear()];
    // No error: it would name the open that is good.
    assert.deepEqual(said.map(({ type }) => type).sort(), ["accept_channel2", "warning"]);
    // The same basepoints from another peer give another channel, not that one.
    await using thief = await victim.connect();
    const open = thief.openMessage(peer.openMessage());
    await thief.send(open);
    const answer = await thief.hear();
    if (answer.type === "accept_channel2") {
      const [accept] = said.filter((message) => message.type === "accept_channel2");
      assert.ok(accept?.type === "accept_channel2");
      assert.notDeepEqual(
        answer.revocation_basepoint,
        accept.revocation_basepoint,
        "a key of its own for each",
      );
    } else assert.equal(answer.type, "error");
    await peer.close();
    await thief.close();
    await victim.nothingLeft(before);
  },
);

attack(
  "attack 5, absurd fee rates that overflow (CLN #9225): whatever is asked for, the node pays nothing for it",
  async () => {
    const before = await openRows(victim.node);
    for (const funding_feerate_perkw of [0, 1, 100_000_000, 0xffff_ffff]) {
      await using peer = await victim.connect();
      await peer.sayOpen({ funding_feerate_perkw });
      const answer = await peer.hear();
      if (answer.type === "accept_channel2") {
        assert.ok(
          answer.funding_satoshis === 0n || funding_feerate_perkw <= 1,
          "nothing is put in at an absurd fee rate",
        );
      } else assert.equal(answer.type, "error");
      await peer.close();
      await victim.nothingLeft(before);
    }
  },
);

/** The newest block's own coin, which anybody may spend once it is mature. */
async function youngCoin(): Promise<HostileCoin> {
  const [hash] = await victim.chain.mine(1);
  const block = await victim.chain.rpc<{ tx: { hex: string }[] }>("getblock", [hash, 2]);
  const coinbase = Transaction.fromHex(block.tx[0]!.hex);
  coinbase.stripWitnesses();
  return {
    kind: "p2wsh",
    secret: randomSecret(),
    prevtx: coinbase.toBuffer(),
    outpoint: { txid: coinbase.getHash(), vout: 0 },
    amount: coinbase.outs[0]!.value,
    script: coinbase.outs[0]!.script,
  };
}

async function isInMempool({ tx }: Agreed): Promise<boolean> {
  return (await victim.chain.rpc<string[]>("getrawmempool")).includes(tx.getId());
}

attack(
  "attack 6, opens without what makes them safe (LDK #2808, #1924): no channel_type is refused, an immature coinbase is never broadcast",
  async () => {
    const before = await openRows(victim.node);
    {
      await using peer = await victim.connect();
      const { channel_type: _, ...open } = peer.openMessage();
      await peer.send(open);
      await refuses(peer, { type: "error", text: /channel_type/ }, open.temporary_channel_id);
      await victim.nothingLeft(before);
    }
    const young = await youngCoin();
    await using peer = await victim.connect();
    await peer.openTo();
    const agreed = await peer.construct({ coins: [young] });
    await peer.commit(agreed);
    // It may be good one day, so it is nobody's fault; it is only nothing that a mempool takes now.
    await peer.sign(agreed);
    await staysSilent(peer);
    assert.equal(await isInMempool(agreed), false);
    const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
    assert.equal(rows?.locked, null);
  },
);

for (
  const [what, output, text] of [
    [
      "smaller",
      (peer: HostilePeer) => [{ sats: peer.fundingSat - 1_000n, script: peer.fundingScript }],
      /instead of/,
    ],
    ["missing", () => [{ sats: 250_000n, script: p2wsh(Uint8Array.of(0x51)) }], /missing/],
    [
      "elsewhere",
      (peer: HostilePeer) => [{ sats: peer.fundingSat, script: p2wsh(Uint8Array.of(0x52)) }],
      /missing/,
    ],
  ] as const
) {
  attack(
    `attack 7, a funding output that is ${what} (CVE-2019-12998, -12999, -13000): no channel, a clear error, nothing is broadcast`,
    async () => {
      const before = await openRows(victim.node);
      await using peer = await victim.connect();
      await peer.openTo();
      await peer.constructUntilComplete({ coins: [victim.coin()], outputs: output(peer) });
      await refuses(peer, { type: "tx_abort", text });
      await staysSilent(peer);
      await victim.nothingLeft(before);
      const mempool = await victim.chain.rpc<string[]>("getrawmempool");
      assert.equal(mempool.includes(peer.agreed().tx.getId()), false);
    },
  );
}

attack(
  "attack 8, announcement_signatures that come early (LDK #2439): the connection may go, the channel stays unannounced and whole",
  async () => {
    await using peer = await victim.connect();
    const agreed = await peer.fullOpen([victim.coin()]);
    await peer.send({
      type: "announcement_signatures",
      channel_id: peer.channelId,
      short_channel_id: 1n as never,
      node_signature: new Uint8Array(64),
      bitcoin_signature: new Uint8Array(64),
    });
    const { type } = await peer.verdict();
    assert.equal(type, "warning");
    const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
    assert.equal(rows?.errorText, null);
    assert.equal(rows.attempts[0]?.txid, agreed.tx.getId());
  },
);

attack(
  "attack 9, a live channel's funding output as an input of another open (LDK #4905): the node signs nothing for it",
  async () => {
    await using peer = await victim.connect();
    const first = await peer.fullOpen([victim.coin()]);
    const before = await openRows(victim.node);
    const second = peer.sibling();
    await second.openTo();
    const tx = first.tx.clone();
    tx.stripWitnesses();
    const shared: HostileCoin = {
      ...fakeCoin("p2wsh"),
      prevtx: tx.toBuffer(),
      outpoint: { txid: first.txid, vout: first.fundingIndex },
      amount: peer.fundingSat,
      script: peer.fundingScript,
    };
    // Named as shared, it is refused at once.
    const { prevtx: _, ...named } = second.inputMessage(shared, { shared_input_txid: first.txid });
    await second.send({ ...named, prevtx: new Uint8Array() });
    await refuses(second, { type: "tx_abort", text: /no shared input/ });
    await victim.nothingLeft(before);
    // As a prevtx it is the peer's own input, to be signed by the peer alone: which it cannot.
    const third = peer.sibling();
    await third.openTo();
    const coins = [shared];
    await third.constructUntilComplete({
      coins,
      outputs: [{ sats: third.fundingSat, script: third.fundingScript }],
    });
    const answer = await third.hear();
    if (answer.type === "commitment_signed") {
      const agreed = third.agreed();
      await third.sayCommitment(agreed);
      await third.saySignatures(agreed, {
        witnesses: [
          encodeWitness([new Uint8Array(), new Uint8Array(71), new Uint8Array(71), new Uint8Array(71)]),
        ],
      });
      const { type } = await third.verdict();
      assert.equal(type, "tx_abort");
      await third.abort("acknowledged");
    } else {
      assert.equal(answer.type, "tx_abort");
      await third.abort("acknowledged");
    }
    await victim.nothingLeft(before);
  },
);

attack(
  "attack 11, lying and malleable prevtx (delvingbitcoin 497): amounts come from the transaction that its hash vouches for, with or without witnesses",
  async () => {
    const before = await openRows(victim.node);
    const coin = victim.coin("p2wpkh");
    {
      await using peer = await victim.connect();
      await peer.openTo();
      const lied = coin.prevtx.slice();
      // The first output's amount: made larger, it is another transaction.
      const at = 4 + 1 + 36 + 1 + 4 + 1;
      lied[at] = lied[at]! ^ 0xff;
      await peer.sayInput(coin, { prevtx: lied });
      await peer.theirTurn();
      const parsed = Transaction.fromBuffer(lied);
      assert.notDeepEqual(parsed.getHash(), coin.outpoint.txid);
      await peer.abort();
      await peer.expect("tx_abort");
      await victim.nothingLeft(before);
    }
    await using peer = await victim.connect();
    await peer.openTo();
    const txid = bytesToHex(coin.outpoint.txid.slice().reverse());
    const serialized = await victim.chain.rpc<string>("getrawtransaction", [txid]);
    const whole = Transaction.fromHex(serialized);
    assert.ok(whole.hasWitnesses());
    const agreed = await peer.construct({ coins: [{ ...coin, prevtx: whole.toBuffer() }] });
    const { funding_txid } = await peer.expect("commitment_signed");
    assert.deepEqual(funding_txid, agreed.txid, "both have the same outpoint");
    await peer.abort();
    await peer.expect("tx_abort");
    await victim.nothingLeft(before);
  },
);

/** Where an open stands. */
const STEPS: readonly (readonly [string, (peer: HostilePeer) => Promise<unknown>])[] = [
  ["after open_channel2", (peer) => peer.openTo()],
  ["after an input", async (peer) => {
    await peer.openTo();
    await peer.sayInput(fakeCoin());
    await peer.theirTurn();
  }],
  ["after tx_complete", async (peer) => {
    await peer.openTo();
    await peer.construct();
    await peer.expect("commitment_signed");
  }],
  ["after commitment_signed", async (peer) => {
    await peer.openTo();
    const agreed = await peer.construct();
    assert.ok(peer.signsFirst, "the node has a coin in it, and waits for our signatures");
    await peer.commit(agreed);
  }],
];

/** What nobody expects there. */
const UNEXPECTED: readonly (readonly [string, (peer: HostilePeer) => Message])[] = [
  ["open_channel2 on the final id", (peer) => peer.openMessage({ temporary_channel_id: peer.channelId })],
  ["accept_channel2", (peer) => ({ ...peer.accept!, temporary_channel_id: peer.channelId })],
  ["tx_remove_output", (peer) => ({ type: "tx_remove_output", channel_id: peer.channelId, serial_id: 77n })],
  ["tx_init_rbf", (peer) => peer.rbfMessage()],
  ["tx_ack_rbf", (peer) => ({ type: "tx_ack_rbf", channel_id: peer.channelId })],
  ["tx_signatures", (peer) => ({
    type: "tx_signatures",
    channel_id: peer.channelId,
    txid: new Uint8Array(32),
    witnesses: [],
  })],
  ["commitment_signed", (peer) => ({
    type: "commitment_signed",
    channel_id: peer.channelId,
    signature: new Uint8Array(64),
    htlc_signature: [],
    funding_txid: new Uint8Array(32).fill(6),
  })],
  ["channel_reestablish", (peer) => ({
    type: "channel_reestablish",
    channel_id: peer.channelId,
    next_commitment_number: 1n,
    next_revocation_number: 0n,
    your_last_per_commitment_secret: new Uint8Array(32),
    my_current_per_commitment_point: peer.keys.firstPerCommitmentPoint,
  })],
  ["channel_ready", (peer) => ({
    type: "channel_ready",
    channel_id: peer.channelId,
    second_per_commitment_point: peer.keys.secondPerCommitmentPoint,
  })],
  ["shutdown", (peer) => ({
    type: "shutdown",
    channel_id: peer.channelId,
    scriptpubkey: p2wsh(Uint8Array.of(0x51)),
  })],
  ["stfu", (peer) => ({ type: "stfu", channel_id: peer.channelId, initiator: 1 })],
  ["error", (peer) => ({ type: "error", channel_id: peer.channelId, data: new Uint8Array() })],
  ["tx_abort", (peer) => ({ type: "tx_abort", channel_id: peer.channelId, data: new Uint8Array() })],
];

for (const [when, step] of STEPS) {
  attack(
    `attack 12, unexpected messages, aborts and reconnects (CLN #8945, #6273, #8864), ${when}: no daemon dies, nothing is left`,
    async () => {
      const before = await openRows(victim.node);
      for (const [what, message] of UNEXPECTED) {
        await using peer = await victim.connect();
        await step(peer);
        await peer.send(message(peer));
        // tx_abort, a warning, sometimes an ended connection: whatever it is, one abort ends the open for good.
        await peer.abort(`after ${what}`).catch(() => {});
        await until(
          `nothing left after ${what}`,
          async () => {
            if (peer.raw.ended) {
              await peer.reconnect();
              if (await channelRows(victim.node, bytesToHex(peer.channelId)) !== undefined) {
                await peer.abort();
              }
            }
            return JSON.stringify(await openRows(victim.node)) === JSON.stringify(before);
          },
        );
      }
      await victim.unharmed();
    },
  );
}

attack(
  "attack 12, a reconnect at every step: what is not signed by the node is forgotten or aborted, what is signed is kept",
  async () => {
    for (const [when, step] of STEPS) {
      const before = await openRows(victim.node);
      await using peer = await victim.connect();
      await step(peer);
      await peer.reconnect();
      const saved = when === "after tx_complete" || when === "after commitment_signed";
      if (saved) {
        const { next_funding } = await peer.expect("channel_reestablish");
        assert.ok(next_funding, when);
        await peer.abort();
      }
      await victim.nothingLeft(before);
    }
  },
);

attack(
  "attack 10, liquidity griefing (delvingbitcoin 264): withheld tx_signatures and inputs that never were hold only so many coins of the node",
  async () => {
    const held = async () => {
      const [row] = await victim.node.sql<{ n: number }[]>`
      SELECT count(*)::int AS n FROM attempt_inputs i JOIN funding_attempts a USING (attempt)
      JOIN channels c USING (channel)
      WHERE i.side = 'local' AND c.state <> 'CHANNELD_NORMAL' AND NOT a.aborted`;
      return row?.n ?? 0;
    };
    const ownOpens = 1;
    const peers: HostilePeer[] = [];
    try {
      for (let i = 0; i < 4; i++) {
        const peer = await victim.connect();
        peers.push(peer);
        for (const open of [peer, peer.sibling(), peer.sibling()]) {
          await open.openTo();
          const agreed = await open.construct({ coins: [fakeCoin("p2wpkh", RICH_SAT)] });
          await open.commit(agreed);
          // The node signs first where it has less in it, and never hears of our signatures.
          await open.expect("tx_signatures");
        }
        const inputs = await victim.node.sql<{ n: number }[]>`
        SELECT count(*)::int AS n FROM attempt_inputs i JOIN funding_attempts a USING (attempt)
        JOIN channels c USING (channel) WHERE i.side = 'local' AND c.peer_id = ${peer.raw.nodeId}`;
        assert.ok(inputs[0]!.n <= MAX_INPUTS_OF_PEER, `${inputs[0]!.n} coins held by one peer`);
      }
      assert.ok(await held() <= MAX_INPUTS + ownOpens, `${await held()} coins are held`);
    } finally {
      for (const peer of peers) await peer.close();
    }
  },
);

attack(
  "attack 6, a funding transaction that spends a young coinbase (rule 70): broadcast and locked in once a hundred blocks made it good, no block earlier",
  async () => {
    const young = await youngCoin();
    await using peer = await victim.connect();
    const agreed = await peer.fullOpen([young]);
    await victim.chain.mine(COINBASE_MATURITY - 2);
    await untilSynced(victim.chain, victim.node);
    await staysSilent(peer);
    assert.equal(await isInMempool(agreed), false);
    await victim.chain.mine(1);
    await until("the node sends it again", () => isInMempool(agreed));
    await victim.chain.mine(1);
    await peer.expect("channel_ready");
    const rows = await channelRows(victim.node, bytesToHex(peer.channelId));
    assert.equal(rows?.locked, agreed.tx.getId());
  },
);

attack("opening attacks: the honest peer's channels noticed nothing of all that", async () => {
  await victim.nothingLeftOpen();
  await until("every process lives", async () => victim.node.processes.every(({ running }) => running));
  await victim.locksIn();
});
