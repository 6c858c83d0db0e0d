import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { bytesToHex } from "@noble/hashes/utils.js";
import { address as addresses, networks, Transaction } from "bitcoinjs-lib";
import { waitFor } from "common/testing/wait.ts";
import { txidFromDisplay, txidOf, txidToDisplay } from "bolt/tx/transaction.ts";
import { insertAttempt, insertChannel, randomScript, type TestNode, useChain } from "../wallet/testing.ts";
import { type BitcoindRpc, RpcMixedUp } from "./bitcoind.ts";

const { bitcoind, node } = await useChain();
await bitcoind.mine(1);

async function tipHash(): Promise<string> {
  return await bitcoind.rpc<string>("getbestblockhash");
}

async function rowHash(of: TestNode): Promise<string> {
  const [row] = await of.database.sql<{ hash: Uint8Array }[]>`
    select hash from blocks order by height desc limit 1`;
  return row === undefined ? "none" : txidToDisplay(row.hash);
}

/** A transaction from the purse to a script, not sent. */
async function payScript(script: Uint8Array, sat: bigint) {
  const coin = await bitcoind.takeCoin(sat + 10_000n);
  const address = addresses.fromOutputScript(script, networks.regtest);
  const tx = Transaction.fromHex(bitcoind.purse.spend(coin, [{ address, sat }], 1_000n));
  return { coin, tx, txid: txidOf(tx), raw: tx.toBuffer() };
}

async function confirmation(of: TestNode, attempt: bigint) {
  const [row] = await of.database.sql<{ height: number; matches: boolean; coinbase: boolean }[]>`
    select height, matches, coinbase from attempt_confirmations where attempt = ${attempt}`;
  return row;
}

Deno.test("an empty database begins at the tip, and follows each block by itself", async () => {
  await using one = await node();
  const first = await bitcoind.height();
  assert.equal(one.chain.height(), first);
  const rows = await one.database.sql`select height from blocks`;
  assert.deepEqual(rows.map((row) => row.height), [first]);
  const moved: number[] = [];
  one.chain.onTip((height) => moved.push(height));
  const started = performance.now();
  await bitcoind.mineEmpty(1);
  await waitFor(() => one.chain.height() === first + 1, { what: "the block in the rows" });
  const ms = performance.now() - started;
  // Without a long poll it would be seen after seconds only.
  assert.ok(ms < 2_000, `seen after ${ms} ms`);
  await bitcoind.mineEmpty(40);
  await waitFor(() => one.chain.height() === first + 41, { what: "forty blocks" });
  assert.equal(await rowHash(one), await tipHash());
  assert.equal(moved.at(-1), first + 41);
  assert.deepEqual(one.fatal, []);
});

Deno.test("a rescan begins at its height and finds deposits that were there before", async () => {
  const height = await bitcoind.height();
  await bitcoind.mineEmpty(3);
  await using one = await node({ rescan: height });
  const rows = await one.database.sql`select height from blocks order by height`;
  assert.deepEqual(rows.map((row) => row.height), [height, height + 1, height + 2, height + 3]);
});

Deno.test("reorgs of one block and of many are followed, while running and while stopped", async () => {
  await using one = await node();
  for (const depth of [1, 5, 90]) {
    await bitcoind.mineEmpty(depth);
    await one.synced();
    await bitcoind.reorg(depth);
    await one.synced();
    assert.equal(await rowHash(one), await tipHash());
  }
  // Deeper than the first row: the rows begin anew.
  await one.chain.close();
  await bitcoind.reorg(await bitcoind.height() - 5);
  await one.restart();
  assert.equal(await rowHash(one), await tipHash());
  const [row] = await one.database.sql<{ broken: bigint }[]>`
    select count(*) as broken from blocks b join blocks p on p.height = b.height - 1 where b.prev_hash <> p.hash`;
  assert.equal(row?.broken, 0n);
});

Deno.test("a block that was invalidated is undone at once, though the chain is shorter then", async () => {
  await using one = await node();
  await bitcoind.mineEmpty(2);
  await one.synced();
  const height = one.chain.height();
  await bitcoind.rpc("invalidateblock", [await tipHash()]);
  await one.synced();
  assert.equal(one.chain.height(), height - 1);
  await bitcoind.mineWith([(await payScript(randomScript(), 20_000n)).tx.toHex()]);
  await one.synced();
  assert.equal(await rowHash(one), await tipHash());
});

Deno.test("a bitcoind that has not seen our tip undoes nothing, and is warned of", async () => {
  const best = await tipHash();
  const height = await bitcoind.height();
  let behind = false;
  const wrapRpc = (rpc: BitcoindRpc): BitcoindRpc => ({
    ...rpc,
    batch: (...args) => rpc.batch(...args),
    call: async (method, params, options) => {
      if (!behind) return await rpc.call(method, params, options);
      // As a restored bitcoind that stands five blocks before, and knows no later one.
      const lower = await rpc.call("getblockhash", [height - 5]);
      if (method === "getbestblockhash") return lower;
      if (method === "getblockheader" && Array.isArray(params) && params[0] !== lower) {
        return await rpc.call("getblockheader", ["00".repeat(32)]);
      }
      if (method === "waitfornewblock") return await new Promise((resolve) => setTimeout(resolve, 20));
      return await rpc.call(method, params, options);
    },
  });
  await using one = await node({ wrapRpc });
  behind = true;
  await one.chain.sync();
  assert.equal(one.chain.height(), height);
  assert.match(one.chain.warning() ?? "", /behind/);
  behind = false;
  await one.chain.sync();
  assert.equal(one.chain.warning(), undefined);
  assert.equal(await rowHash(one), best);
});

Deno.test("answers that belong to other questions are refused: nothing of them is stored", async () => {
  const wrong = await bitcoind.rpc<string>("getblock", [await bitcoind.rpc("getblockhash", [1]), 0]);
  let mixed = false;
  const wrapRpc = (rpc: BitcoindRpc): BitcoindRpc => ({
    batch: (...args) => rpc.batch(...args),
    call: (method, params, options) =>
      mixed && method === "getblock" ? Promise.resolve(wrong) : rpc.call(method, params, options),
  });
  await using one = await node({ wrapRpc });
  const before = one.chain.height();
  mixed = true;
  await bitcoind.mineEmpty(1);
  await assert.rejects(one.chain.sync(), RpcMixedUp);
  assert.equal(one.chain.height(), before);
  mixed = false;
  await one.synced();
  assert.equal(await rowHash(one), await tipHash());
});

Deno.test("an attempt's confirmation is stored with exact script and amount, told, undone and redone by a reorg", async () => {
  await using one = await node();
  const channel = await insertChannel(one, { opener: "local" });
  const script = randomScript();
  const pay = await payScript(script, 500_000n);
  const attempt = await insertAttempt(one, channel, {
    txid: pay.txid,
    fundingScript: script,
    capacity: 500_000n,
    createdHeight: one.chain.height(),
    inputs: [{
      side: "remote",
      txid: txidFromDisplay(pay.coin.txid),
      vout: pay.coin.vout,
      amount: pay.coin.sat,
    }],
  });
  const told: bigint[][] = [];
  one.chain.onTip((_height, channels) => told.push([...channels]));
  await bitcoind.mineWith([pay.tx.toHex()]);
  await one.synced();
  const height = one.chain.height();
  assert.deepEqual({ ...await confirmation(one, attempt) }, { height, matches: true, coinbase: false });
  assert.ok(told.some((channels) => channels.includes(channel)));
  const [spend] = await one.database.sql<{ spending_txid: Uint8Array }[]>`
    select spending_txid from spends where txid = ${txidFromDisplay(pay.coin.txid)} and vout = ${
    BigInt(pay.coin.vout)
  }`;
  assert.equal(bytesToHex(spend?.spending_txid ?? new Uint8Array()), bytesToHex(pay.txid));

  // Deeper by a block: told again.
  told.length = 0;
  await bitcoind.mineEmpty(1);
  await one.synced();
  assert.ok(told.some((channels) => channels.includes(channel)));

  // Undone by a reorg, with the spend; and back in another block.
  told.length = 0;
  await bitcoind.reorg(2);
  await one.synced();
  assert.equal(await confirmation(one, attempt), undefined);
  const spends = await one.database.sql`select 1 from spends`;
  assert.equal(spends.length, 0);
  assert.ok(told.some((channels) => channels.includes(channel)));
  await bitcoind.mineWith([pay.tx.toHex()]);
  await one.synced();
  assert.equal((await confirmation(one, attempt))?.height, one.chain.height());
});

Deno.test("an attempt whose output is not what was negotiated is confirmed, and does not match", async () => {
  await using one = await node();
  const script = randomScript();
  const wrongs = [
    { fundingScript: randomScript(), capacity: 100_000n, outputIndex: 0 },
    { fundingScript: script, capacity: 100_001n, outputIndex: 0 },
    { fundingScript: script, capacity: 99_999n, outputIndex: 0 },
    { fundingScript: script, capacity: 100_000n, outputIndex: 1 },
    { fundingScript: script, capacity: 100_000n, outputIndex: 7 },
  ];
  const attempts: bigint[] = [];
  for (const wrong of wrongs) {
    const pay = await payScript(script, 100_000n);
    const channel = await insertChannel(one, { opener: "remote" });
    attempts.push(
      await insertAttempt(one, channel, {
        ...wrong,
        txid: pay.txid,
        createdHeight: one.chain.height(),
        inputs: [],
      }),
    );
    await bitcoind.mineWith([pay.tx.toHex()]);
  }
  await one.synced();
  for (const attempt of attempts) assert.equal((await confirmation(one, attempt))?.matches, false);
});

Deno.test("an attempt that was mined before its row existed is found by the scan from its height", async () => {
  await using one = await node();
  const createdHeight = one.chain.height();
  const script = randomScript();
  const pay = await payScript(script, 300_000n);
  await bitcoind.mineWith([pay.tx.toHex()]);
  await bitcoind.mineEmpty(2);
  await one.synced();
  // A peer who funds alone can have it mined before our row is there.
  const channel = await insertChannel(one, { opener: "remote" });
  const attempt = await insertAttempt(one, channel, {
    txid: pay.txid,
    fundingScript: script,
    capacity: 300_000n,
    createdHeight,
    inputs: [{
      side: "remote",
      txid: txidFromDisplay(pay.coin.txid),
      vout: pay.coin.vout,
      amount: pay.coin.sat,
    }],
  });
  const told: bigint[] = [];
  one.chain.onTip((_height, channels) => told.push(...channels));
  await one.chain.scanNewAttempts();
  assert.deepEqual({ ...await confirmation(one, attempt) }, {
    height: createdHeight + 1,
    matches: true,
    coinbase: false,
  });
  assert.deepEqual(told, [channel]);
  const scans = await one.database.sql<{ scanned_to: number }[]>`select scanned_to from attempt_scans`;
  assert.deepEqual(scans.map((row) => row.scanned_to), [createdHeight + 3]);

  // The channel is forgotten: its facts go, and the next block finds nothing to write for it.
  await one.database.sql`delete from channels where channel = ${channel}`;
  await bitcoind.mineEmpty(1);
  await one.synced();
  assert.equal(await confirmation(one, attempt), undefined);
});

Deno.test("a replaced lightningd writes no block: the epoch fences it", async () => {
  await using one = await node();
  const before = one.chain.height();
  await one.database.sql`update leader set epoch = 2`;
  await bitcoind.mineEmpty(1);
  await waitFor(() => one.fatal.length > 0, { what: "the old leader giving up" });
  assert.deepEqual(one.fatal, ["another lightningd leads"]);
  const rows = await one.database.sql`select 1 from blocks where height > ${before}`;
  assert.equal(rows.length, 0);
  await one.database.sql`update leader set epoch = 1`;
});

Deno.test("complete attempts and stored transactions are sent again at start and at each block", async () => {
  await using one = await node();
  const channel = await insertChannel(one, { opener: "local" });
  const script = randomScript();
  const pay = await payScript(script, 400_000n);
  const input = {
    side: "remote" as const,
    txid: txidFromDisplay(pay.coin.txid),
    vout: pay.coin.vout,
    amount: pay.coin.sat,
  };
  await insertAttempt(one, channel, {
    txid: pay.txid,
    fundingScript: script,
    capacity: 400_000n,
    createdHeight: one.chain.height(),
    inputs: [input],
    complete: pay.raw,
  });
  const inMempool = async (txid: Uint8Array) =>
    (await bitcoind.rpc<string[]>("getrawmempool")).includes(txidToDisplay(txid));
  assert.equal(await inMempool(pay.txid), false);
  await bitcoind.mineEmpty(1);
  await waitFor(() => inMempool(pay.txid), { what: "the attempt in the mempool" });

  // A second attempt that pays more: the newest is sent, the older one is left alone.
  const richer = Transaction.fromHex(
    bitcoind.purse.spend(pay.coin, [{
      address: addresses.fromOutputScript(script, networks.regtest),
      sat: 400_000n,
    }], 20_000n),
  );
  await insertAttempt(one, channel, {
    txid: txidOf(richer),
    fundingScript: script,
    capacity: 400_000n,
    createdHeight: one.chain.height(),
    inputs: [input],
    complete: richer.toBuffer(),
  });
  await one.restart();
  await waitFor(() => inMempool(txidOf(richer)), { what: "the newest attempt in the mempool" });
  assert.equal(await inMempool(pay.txid), false);

  // The lesser one is mined: the other one is not sent any more.
  await bitcoind.mineWith([pay.tx.toHex()]);
  await one.synced();
  assert.equal(await inMempool(txidOf(richer)), false);
});

Deno.test("confirmed and unspent: only what is in a block and not spent there", async () => {
  await using one = await node();
  const first = await payScript(randomScript(), 50_000n);
  await bitcoind.rpc("sendrawtransaction", [first.tx.toHex()]);
  const coin = { txid: txidFromDisplay(first.coin.txid), vout: first.coin.vout };
  const out = { txid: first.txid, vout: 0 };
  const unknown = { txid: new Uint8Array(randomBytes(32)), vout: 0 };
  assert.deepEqual(await one.chain.confirmedUnspent([out, coin, unknown]), [false, true, false]);
  await bitcoind.mine(1);
  assert.deepEqual(await one.chain.confirmedUnspent([out, coin, { ...out, vout: 9 }]), [true, false, false]);
  assert.deepEqual(await one.chain.confirmedUnspent([]), []);
});

Deno.test("a lost bitcoind is waited for", async () => {
  await using one = await node();
  const restarting = bitcoind.restart();
  await waitFor(() => bitcoind.height().then(() => false, () => true), { what: "bitcoind being away" });
  const syncing = one.chain.sync();
  await restarting;
  await syncing;
  await bitcoind.mineEmpty(1);
  await waitFor(async () => await rowHash(one) === await tipHash(), { what: "the block after the restart" });
  assert.deepEqual(one.fatal, []);
});
