import assert from "node:assert/strict";
import { join } from "node:path";
import { BitcoinRpcError } from "./bitcoin_rpc.ts";
import { processExists } from "./child.ts";
import { killParentOf, untilNothingIsLeft } from "./fixtures/killed_parent.ts";
import { type RegtestNode, startBitcoind } from "./regtest.ts";

async function withNode(work: (node: RegtestNode) => Promise<void>): Promise<void> {
  const node = await startBitcoind();
  try {
    await work(node);
  } finally {
    await node.stop();
  }
}

const transactionsOf = async (node: RegtestNode, block: string) =>
  (await node.rpc<{ tx: string[] }>("getblock", [block])).tx.slice(1);
const mempoolOf = (node: RegtestNode) => node.rpc<string[]>("getrawmempool");

Deno.test("two nodes at once, each on its own chain, and nothing left behind", async () => {
  const nodes = await Promise.all([startBitcoind(), startBitcoind()]);
  const pids = nodes.map((node) => node.pid);
  try {
    await nodes[0].mine(3);
    assert.deepEqual(await Promise.all(nodes.map((node) => node.height())), [3, 0]);
    assert.equal(new Set(nodes.flatMap((node) => [node.rpcPort, node.p2pPort])).size, 4);
    const index = await nodes[0].rpc<{ txindex?: { synced: boolean } }>("getindexinfo");
    assert.ok(index.txindex !== undefined);
  } finally {
    await Promise.all(nodes.map((node) => node.stop()));
  }
  assert.deepEqual(pids.filter(processExists), []);
  for (const node of nodes) await assert.rejects(Deno.stat(node.dir), Deno.errors.NotFound);
});

Deno.test("an error of bitcoind keeps its number, a stranger is refused", () =>
  withNode(async (node) => {
    await assert.rejects(
      node.rpc("getblockhash", [1_000]),
      (error) => error instanceof BitcoinRpcError && error.code === -8 && error.method === "getblockhash",
    );
    const response = await fetch(node.rpcUrl, { method: "POST", body: "{}" });
    await response.body?.cancel();
    assert.equal(response.status, 401);
  }));

Deno.test("fund pays exact amounts, callers at once get different coins", () =>
  withNode(async (node) => {
    const txids = await Promise.all(
      [1n, 2n, 3n].map((n) => node.pay([{ address: ADDRESS, sat: 100_000n + n }])),
    );
    assert.equal(new Set(txids).size, 3);
    const [block] = await node.mine(1);
    assert.deepEqual((await transactionsOf(node, block ?? "")).sort(), txids.sort());
    const txid = await node.fund([{ address: ADDRESS, sat: 5_000n }, { address: ADDRESS, sat: 6_000n }]);
    const tx = await node.rpc<{ vout: { value: number }[]; confirmations: number }>("getrawtransaction", [
      txid,
      1,
    ]);
    assert.deepEqual(tx.vout.slice(0, 2).map(({ value }) => value), [0.00005, 0.00006]);
    assert.equal(tx.confirmations, 1);
  }));

Deno.test("the lesser-fee conflict of a mempool transaction can be mined", () =>
  withNode(async (node) => {
    const coin = await node.takeCoin();
    const [lesser, greater] = [500n, 5_000n].map((fee) => node.purse.spend(coin, [], fee));
    const lesserTxid = await node.rpc<string>("sendrawtransaction", [lesser]);
    const greaterTxid = await node.rpc<string>("sendrawtransaction", [greater]);
    assert.deepEqual(await mempoolOf(node), [greaterTxid]);
    const block = await node.mineWith([lesser ?? ""]);
    assert.deepEqual(await transactionsOf(node, block), [lesserTxid]);
    assert.deepEqual(await mempoolOf(node), []);
  }));

Deno.test("a reorg to a sibling: the confirmed one goes, its conflict is mined instead", () =>
  withNode(async (node) => {
    const coin = await node.takeCoin();
    const [one, sibling] = [500n, 5_000n].map((fee) => node.purse.spend(coin, [], fee)) as [string, string];
    const first = await node.mineWith([one]);
    const height = await node.height();
    await node.rpc("invalidateblock", [first]);
    assert.equal((await mempoolOf(node)).length, 1);
    const second = await node.mineWith([sibling]);
    assert.equal(await node.height(), height);
    assert.equal((await transactionsOf(node, second)).length, 1);
    assert.notDeepEqual(await transactionsOf(node, second), await transactionsOf(node, first));
    assert.deepEqual(await mempoolOf(node), []);
  }));

Deno.test("reorg replaces blocks by other ones and gives their transactions back to the mempool", () =>
  withNode(async (node) => {
    const txid = await node.fund([{ address: ADDRESS, sat: 5_000n }]);
    await node.mine(2);
    const height = await node.height();
    const old = await node.rpc<string>("getbestblockhash");
    const hashes = await node.reorg(3);
    assert.equal(hashes.length, 4);
    assert.equal(await node.height(), height + 1);
    assert.ok(!hashes.includes(old));
    assert.deepEqual(await mempoolOf(node), [txid]);
    await node.mineEmpty(1);
    assert.deepEqual(await mempoolOf(node), [txid]);
    await assert.rejects(node.reorg(height + 3), RangeError);
  }));

Deno.test("prioritise changes what the miner takes for a fee", () =>
  withNode(async (node) => {
    const txid = await node.pay([{ address: ADDRESS, sat: 5_000n }], 1_000n);
    await node.prioritise(txid, -1_000n);
    const entry = await node.rpc<{ fees: { base: number; modified: number } }>("getmempoolentry", [txid]);
    assert.equal(entry.fees.base, 0.00001);
    assert.equal(entry.fees.modified, 0);
  }));

Deno.test("kill and restart keep ports and password, a named directory stays", async () => {
  const dir = await Deno.makeTempDir({ prefix: "arcus-regtest-test-" });
  try {
    const node = await startBitcoind({ dir: join(dir, "node") });
    try {
      const { pid, rpcUrl } = node;
      await node.kill();
      assert.equal(processExists(pid), false);
      await node.restart();
      assert.notEqual(node.pid, pid);
      assert.equal(node.rpcUrl, rpcUrl);
      await node.mine(2);
      await node.restart();
      assert.equal(await node.height(), 2);
    } finally {
      await node.stop();
    }
    const again = await startBitcoind({ dir: join(dir, "node") });
    try {
      assert.equal(await again.height(), 2);
    } finally {
      await again.stop();
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a setting that bitcoind does not know is reported with its words", async () => {
  await assert.rejects(startBitcoind({ extra: ["dbcache=notanumber", "proxy=not:a:proxy"] }), /proxy/);
});

Deno.test("a parent killed with SIGKILL leaves no bitcoind and no directory", async () => {
  await untilNothingIsLeft(await killParentOf("bitcoind", "SIGKILL"));
});

/** The P2WSH address of OP_TRUE: anyone's. */
const ADDRESS = "bcrt1qft5p2uhsdcdc3l2ua4ap5qqfg4pjaqlp250x7us7a8qqhrxrxfsqseac85";
