import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { address as addresses, networks, Transaction } from "bitcoinjs-lib";
import { ArcusError } from "common/grpc/errors.ts";
import { waitFor } from "common/testing/wait.ts";
import { txidOf, txidToDisplay } from "bolt/tx/transaction.ts";
import { feeCeil, sat } from "bolt/units.ts";
import { transactionWeight } from "./select.ts";
import {
  insertAttempt,
  insertChannel,
  randomScript,
  TEST_FEERATE,
  type TestNode,
  useChain,
} from "./testing.ts";

const { bitcoind, node } = await useChain();
await bitcoind.mine(1);

/** An address of nobody. */
function elsewhere(): string {
  return addresses.fromOutputScript(randomScript(), networks.regtest);
}

/** Confirmed coins of these amounts; answers the txids. */
async function deposit(of: TestNode, ...amounts: bigint[]): Promise<string[]> {
  const txids: string[] = [];
  for (const sat of amounts) {
    const { address } = await of.wallet.newAddress();
    txids.push(await bitcoind.pay([{ address, sat }]));
  }
  await bitcoind.mine(1);
  await of.synced();
  return txids;
}

async function listed(of: TestNode): Promise<{ amount: number; status: string; reserved: string }[]> {
  return (await of.wallet.listFunds()).map((one) => ({
    amount: Number(one.amount),
    status: one.status,
    reserved: one.reserved?.purpose ?? "",
  })).sort((a, b) => a.amount - b.amount);
}

function rejects(work: Promise<unknown>, clnCode: number, text: RegExp): Promise<void> {
  return assert.rejects(
    work,
    (error) => error instanceof ArcusError && error.clnCode === clnCode && text.test(error.message),
  );
}

async function mempool(): Promise<string[]> {
  return await bitcoind.rpc<string[]>("getrawmempool");
}

Deno.test("addresses are new each time, and survive a restart", async () => {
  await using one = await node();
  const first = await one.wallet.newAddress();
  const second = await one.wallet.newAddress();
  await one.restart();
  const third = await one.wallet.newAddress();
  assert.equal(new Set([first.address, second.address, third.address]).size, 3);
  assert.match(first.address, /^bcrt1p/);
  const rows = await one.database.sql<
    { key_index: bigint }[]
  >`select key_index from wallet_keys order by key_index`;
  assert.deepEqual(rows.map((row) => row.key_index), [0n, 1n, 2n]);
  const known = await bitcoind.rpc<{ isvalid: boolean; scriptPubKey: string }>("validateaddress", [
    first.address,
  ]);
  assert.equal(known.isvalid, true);
  assert.equal(known.scriptPubKey, first.script.toHex());
});

Deno.test("a deposit is seen with its whole transaction, undone and seen again by a reorg", async () => {
  await using one = await node();
  const [txid] = await deposit(one, 1_000_000n);
  assert.ok(txid !== undefined);
  const [output] = await one.wallet.listFunds();
  assert.equal(output?.status, "confirmed");
  assert.equal(output.blockheight, one.chain.height());
  assert.equal(txidToDisplay(output.outpoint.txid), txid);
  const [stored] = await one.wallet.listTransactions();
  assert.equal(txidToDisplay(txidOf(Transaction.fromBuffer(stored?.raw ?? new Uint8Array()))), txid);
  assert.equal(stored?.blockheight, one.chain.height());

  await bitcoind.reorg(1);
  await one.synced();
  assert.deepEqual(await listed(one), [{ amount: 1_000_000, status: "unconfirmed", reserved: "" }]);
  // Nobody else's unconfirmed coin is spent.
  await rejects(
    one.wallet.withdraw({ destination: elsewhere(), amount: sat(10_000), minconf: 0 }),
    301,
    /missing/,
  );
  await bitcoind.mine(1);
  await one.synced();
  assert.deepEqual(await listed(one), [{ amount: 1_000_000, status: "confirmed", reserved: "" }]);
});

Deno.test("a deposit that is double-spent after a reorg is gone", async () => {
  await using one = await node();
  const { address } = await one.wallet.newAddress();
  const coin = await bitcoind.takeCoin();
  const pay = bitcoind.purse.spend(coin, [{ address, sat: 700_000n }], 1_000n);
  await bitcoind.mineWith([pay]);
  await one.synced();
  assert.equal((await listed(one)).length, 1);
  await bitcoind.reorg(1);
  await one.synced();
  await bitcoind.mineWith([bitcoind.purse.spend(coin, [{ address: elsewhere(), sat: 700_000n }], 9_000n)]);
  await one.synced();
  assert.deepEqual(await listed(one), []);
  // Until that is undone too.
  await bitcoind.reorg(1);
  await one.synced();
  assert.deepEqual(await listed(one), [{ amount: 700_000, status: "unconfirmed", reserved: "" }]);
});

Deno.test("coins of a block's own reward are not spent before they are mature", async () => {
  await using one = await node();
  const { address } = await one.wallet.newAddress();
  await bitcoind.mine(1, address);
  await one.synced();
  assert.deepEqual((await listed(one)).map((coin) => coin.status), ["immature"]);
  await rejects(one.wallet.withdraw({ destination: elsewhere(), amount: sat(10_000) }), 301, /missing/);
  await bitcoind.mineEmpty(99);
  await one.synced();
  assert.deepEqual((await listed(one)).map((coin) => coin.status), ["confirmed"]);
  await one.wallet.withdraw({ destination: elsewhere(), amount: sat(10_000) });
});

Deno.test("withdraw pays exactly, keeps the change, and follows the transaction into its block", async () => {
  await using one = await node();
  await deposit(one, 400_000n, 600_000n);
  const destination = elsewhere();
  const { tx, txid } = await one.wallet.withdraw({ destination, amount: sat(500_000) });
  const parsed = Transaction.fromBuffer(tx);
  const fee = feeCeil(TEST_FEERATE, transactionWeight(1, [34, 34]));
  assert.deepEqual(parsed.outs.map((out) => BigInt(out.value)), [500_000n, 600_000n - 500_000n - fee]);
  // hsmd's signatures have 64 bytes: the weight that was paid for is the real one.
  assert.equal(parsed.weight(), transactionWeight(1, [34, 34]));
  assert.ok((await mempool()).includes(txidToDisplay(txid)));
  const change = Number(100_000n - fee);
  assert.deepEqual(await listed(one), [
    { amount: change, status: "unconfirmed", reserved: "" },
    { amount: 400_000, status: "confirmed", reserved: "" },
  ]);
  // Our own change may be spent before it confirms, if asked for.
  await rejects(one.wallet.withdraw({ destination, amount: sat(450_000) }), 301, /missing/);
  const second = await one.wallet.withdraw({ destination, amount: "all", minconf: 0 });
  assert.equal(Transaction.fromBuffer(second.tx).ins.length, 2);
  await bitcoind.mine(1);
  await one.synced();
  assert.deepEqual(await listed(one), []);
  const spent = await one.wallet.listFunds({ spent: true });
  assert.deepEqual(spent.map((coin) => coin.status), ["spent", "spent", "spent"]);
});

Deno.test("withdraw refuses dust, what cannot be afforded, and coins that are not ours to take", async () => {
  await using one = await node();
  const [txid] = await deposit(one, 100_000n);
  assert.ok(txid !== undefined);
  const destination = elsewhere();
  await rejects(one.wallet.withdraw({ destination, amount: sat(329) }), 302, /dust/);
  await rejects(one.wallet.withdraw({ destination, amount: sat(99_900) }), 301, /missing/);
  await rejects(one.wallet.withdraw({ destination: "nonsense", amount: sat(50_000) }), -32602, /address/);
  const unknown = { txid: new Uint8Array(32).fill(3), vout: 0 };
  await rejects(one.wallet.withdraw({ destination, amount: "all", utxos: [unknown] }), -32602, /no output/);
  const [coin] = await one.wallet.listFunds();
  assert.ok(coin !== undefined);
  const twice = [coin.outpoint, coin.outpoint];
  await rejects(one.wallet.withdraw({ destination, amount: "all", utxos: twice }), -32602, /twice/);
  assert.deepEqual(await listed(one), [{ amount: 100_000, status: "confirmed", reserved: "" }]);
  assert.deepEqual(await one.database.sql`select 1 from reservations`.then((rows) => rows.length), 0);
});

Deno.test("a refusal of hsmd's or of bitcoind's leaves nothing behind", async () => {
  await using one = await node();
  await deposit(one, 100_000n);
  one.signer.refuse = true;
  await assert.rejects(
    one.wallet.withdraw({ destination: elsewhere(), amount: sat(50_000) }),
    /refused by the test/,
  );
  one.signer.refuse = false;
  assert.deepEqual(await listed(one), [{ amount: 100_000, status: "confirmed", reserved: "" }]);
  // bitcoind has the coin spent by another transaction of ours that the rows do not know: a conflict without a rise.
  const first = await one.wallet.withdraw({ destination: elsewhere(), amount: sat(50_000) });
  const { sql } = one.database;
  await sql`delete from reservations`;
  await sql`delete from wallet_outputs where txid = ${first.txid}`;
  await sql`delete from wallet_txs where txid = ${first.txid}`;
  await rejects(
    one.wallet.withdraw({ destination: elsewhere(), amount: sat(50_000) }),
    303,
    /bitcoind refuses/,
  );
  assert.deepEqual(await listed(one), [{ amount: 100_000, status: "confirmed", reserved: "" }]);
});

Deno.test("killed before the signature: the withdrawal is forgotten and its coin free", async () => {
  await using one = await node();
  await deposit(one, 100_000n);
  // The object is thrown away while hsmd has not answered: its rows stay.
  const never = Promise.withResolvers<never>();
  one.signer.gate = never.promise;
  const lost = one.wallet.withdraw({ destination: elsewhere(), amount: sat(50_000) });
  await waitFor(async () => (await listed(one))[0]?.reserved === "withdraw", { what: "the reservation" });
  const [row] = await one.database.sql<
    { broadcast: boolean }[]
  >`select broadcast from wallet_txs where kind = 'withdraw'`;
  assert.equal(row?.broadcast, false);
  // Killed: the successor has no object of the predecessor.
  await using successor = await takeOver(one);
  assert.deepEqual(await listed(successor), [{ amount: 100_000, status: "confirmed", reserved: "" }]);
  const rows = await one.database.sql`select 1 from wallet_txs where kind = 'withdraw'`;
  assert.equal(rows.length, 0);
  // The predecessor wakes up: its row is gone, so nothing is sent.
  never.reject(new ArcusError({ code: 10, reason: "KILLED", message: "killed" }));
  await assert.rejects(lost, /killed/);
});

Deno.test("killed before sending: the signed withdrawal is sent by the successor, until it is mined", async () => {
  await using one = await node();
  await deposit(one, 100_000n);
  const { txid, tx } = await one.wallet.withdraw({ destination: elsewhere(), amount: sat(50_000) });
  // bitcoind forgets it, as if it had never been sent: it comes back with an empty mempool.
  await bitcoind.restart();
  await one.chain.sync();
  assert.equal((await mempool()).includes(txidToDisplay(txid)), false);
  await one.restart();
  assert.ok((await mempool()).includes(txidToDisplay(txid)));
  assert.deepEqual((await listed(one)).map((coin) => coin.status), ["unconfirmed"]);
  await bitcoind.mine(1);
  await one.synced();
  assert.deepEqual((await listed(one)).map((coin) => coin.status), ["confirmed"]);
  assert.equal(Transaction.fromBuffer(tx).getId(), txidToDisplay(txid));
});

Deno.test("an evicted withdrawal is sent again at each block; its conflict confirmed, it is dead with its change", async () => {
  await using one = await node();
  await deposit(one, 100_000n, 30_000n);
  const { txid } = await one.wallet.withdraw({ destination: elsewhere(), amount: sat(50_000) });
  const [used] = (await one.wallet.listFunds({ spent: true })).filter((coin) => coin.status === "spent");
  assert.ok(used !== undefined);
  // Somebody with the same keys (a restored copy) spends the coin elsewhere.
  const conflict = await rival(one, used.outpoint, used.amount);
  await bitcoind.mineWith([conflict.toHex()]);
  await one.synced();
  assert.deepEqual(await listed(one), [{ amount: 30_000, status: "confirmed", reserved: "" }]);
  assert.equal((await mempool()).includes(txidToDisplay(txid)), false);
  // Reserved until the conflict is deep, in case it is undone.
  const held = async () => (await one.database.sql`select 1 from reservations`).length;
  await bitcoind.mineEmpty(98);
  await one.synced();
  assert.equal(await held(), 1);
  await bitcoind.mineEmpty(1);
  await one.synced();
  assert.equal(await held(), 0);
  // The conflict undone by a deep reorg: it lives again, and is sent.
  await bitcoind.reorg(100);
  await one.synced();
  assert.ok((await mempool()).includes(txidToDisplay(txid)));
  assert.deepEqual((await listed(one)).map((coin) => coin.status), ["confirmed", "unconfirmed"]);
});

Deno.test("reservations of a user: 72 blocks, extended, taken back, over by height; and never of another purpose", async () => {
  await using one = await node();
  await deposit(one, 100_000n);
  const tip = one.chain.height();
  const funded = await one.wallet.fundPsbt({
    amount: sat(50_000),
    feerate: { type: "perkw", rate: 1_000 },
    startweight: 1_000,
  });
  assert.deepEqual(funded.reservations.map((change) => change.reservedToBlock), [tip + 72]);
  await rejects(one.wallet.withdraw({ destination: elsewhere(), amount: sat(10_000) }), 301, /missing/);
  await rejects(one.wallet.reserveInputs({ psbt: funded.psbt }), -32602, /already reserved/);
  const extended = await one.wallet.reserveInputs({ psbt: funded.psbt, exclusive: false, reserve: 10 });
  assert.deepEqual(extended.map((change) => [change.wasReserved, change.reservedToBlock]), [[
    true,
    tip + 82,
  ]]);
  const less = await one.wallet.unreserveInputs({ psbt: funded.psbt, reserve: 80 });
  assert.deepEqual(less.map((change) => [change.reserved, change.reservedToBlock]), [[true, tip + 2]]);
  await bitcoind.mineEmpty(1);
  await one.synced();
  assert.equal((await listed(one))[0]?.reserved, "user");
  await bitcoind.mineEmpty(1);
  await one.synced();
  assert.equal((await listed(one))[0]?.reserved, "");
  await one.wallet.reserveInputs({ psbt: funded.psbt });
  const freed = await one.wallet.unreserveInputs({ psbt: funded.psbt });
  assert.deepEqual(freed.map((change) => change.reserved), [false]);

  // An attempt's input is not the user's to take.
  const channel = await insertChannel(one, { opener: "local" });
  const [coin] = await one.wallet.listFunds();
  assert.ok(coin !== undefined);
  await one.database.sql`
    insert into reservations (txid, vout, purpose, channel)
    values (${coin.outpoint.txid}, ${BigInt(coin.outpoint.vout)}, 'attempt', ${channel})`;
  await insertAttempt(one, channel, {
    txid: new Uint8Array(randomBytes(32)),
    fundingScript: randomScript(),
    capacity: 50_000n,
    createdHeight: one.chain.height(),
    inputs: [{ side: "local", ...coin.outpoint, amount: coin.amount }],
  });
  await rejects(one.wallet.reserveInputs({ psbt: funded.psbt, exclusive: false }), -32602, /attempt/);
  await rejects(one.wallet.unreserveInputs({ psbt: funded.psbt }), -32602, /open/);
  await rejects(one.wallet.signPsbt({ psbt: funded.psbt }), 312, /openchannel_signed/);
  await rejects(one.wallet.sendPsbt(funded.psbt), 312, /open/);
  const again = {
    amount: sat(1_000),
    feerate: { type: "named", name: "slow" },
    startweight: 0,
    utxos: [coin.outpoint],
  } as const;
  await rejects(one.wallet.utxoPsbt(again), -32602, /reserved/);
  // For a replacement of the attempt it may be named; it stays the attempt's.
  const bump = await one.wallet.utxoPsbt({ ...again, reservedok: true });
  assert.deepEqual(bump.reservations.map((change) => change.reservedToBlock), [undefined]);
  assert.equal((await listed(one))[0]?.reserved, "attempt");
  await rejects(one.wallet.signPsbt({ psbt: bump.psbt }), 312, /openchannel_signed/);
});

Deno.test("fundpsbt, addpsbtoutput, signpsbt, sendpsbt: a payment by hand", async () => {
  await using one = await node();
  await deposit(one, 200_000n);
  const destination = elsewhere();
  // Common fields with one input and two outputs counted, and the output.
  const startweight = 42 + 4 * 43;
  const funded = await one.wallet.fundPsbt({
    amount: sat(50_000),
    feerate: { type: "perkw", rate: 1_000 },
    startweight,
    excessAsChange: true,
  });
  assert.equal(funded.excess, 0n);
  assert.equal(funded.changeOutnum, 0);
  assert.equal(funded.estimatedFinalWeight, startweight + 230 + 172);
  const added = await one.wallet.addPsbtOutput({ amount: sat(50_000), psbt: funded.psbt, destination });
  assert.deepEqual([added.outnum, added.estimatedAddedWeight], [1, 172]);
  await rejects(one.wallet.sendPsbt(added.psbt), -32602, /not fully signed/);
  const signed = await one.wallet.signPsbt({ psbt: added.psbt });
  const sent = await one.wallet.sendPsbt(signed);
  const tx = Transaction.fromBuffer(sent.tx);
  assert.equal(tx.weight(), funded.estimatedFinalWeight);
  assert.equal(tx.outs.reduce((sum, out) => sum + BigInt(out.value), 0n), 200_000n - 616n);
  assert.ok((await mempool()).includes(txidToDisplay(sent.txid)));
  // Sent again: the same.
  const again = await one.wallet.sendPsbt(signed);
  assert.deepEqual([again.tx.toHex(), again.txid.toHex()], [sent.tx.toHex(), sent.txid.toHex()]);
  await bitcoind.mine(1);
  await one.synced();
  assert.deepEqual((await listed(one)).map((coin) => coin.amount), [200_000 - 616 - 50_000]);
});

Deno.test("signpsbt signs what is reserved and ours only, and leaves a funding attempt to openchannel_signed", async () => {
  await using one = await node();
  await deposit(one, 200_000n);
  const funded = await one.wallet.fundPsbt({
    amount: "all",
    feerate: { type: "perkw", rate: 1_000 },
    startweight: 500,
    reserve: 0,
  });
  assert.equal(funded.excess, 200_000n - 730n);
  const out = await one.wallet.addPsbtOutput({
    amount: sat(150_000),
    psbt: funded.psbt,
    destination: elsewhere(),
  });
  await rejects(one.wallet.signPsbt({ psbt: out.psbt }), -32602, /not reserved/);
  await one.wallet.reserveInputs({ psbt: out.psbt });
  await rejects(one.wallet.signPsbt({ psbt: out.psbt, signonly: [1] }), -32602, /signonly/);
  const empty = await one.wallet.addPsbtOutput({ amount: sat(1_000) });
  await rejects(one.wallet.signPsbt({ psbt: empty.psbt }), -32602, /ours/);

  const channel = await insertChannel(one, { opener: "local" });
  const [coin] = await one.wallet.listFunds();
  const { Psbt } = await import("bitcoinjs-lib");
  const txid = txidOf(Transaction.fromBuffer(Psbt.fromBase64(out.psbt).data.getTransaction()));
  assert.ok(coin !== undefined);
  await insertAttempt(one, channel, {
    txid,
    fundingScript: randomScript(),
    capacity: 150_000n,
    createdHeight: one.chain.height(),
    inputs: [{ side: "local", ...coin.outpoint, amount: coin.amount }],
  });
  assert.equal(await one.wallet.signPsbt({ psbt: out.psbt }), out.psbt);
  await rejects(one.wallet.sendPsbt(out.psbt), 312, /openchannel_signed/);
});

Deno.test("a PSBT that lies about what its foreign input spends is refused", async () => {
  await using one = await node();
  await deposit(one, 200_000n);
  const funded = await one.wallet.fundPsbt({
    amount: sat(50_000),
    feerate: { type: "perkw", rate: 1_000 },
    startweight: 500,
  });
  const { Psbt } = await import("bitcoinjs-lib");
  const psbt = Psbt.fromBase64(funded.psbt);
  psbt.addInput({ hash: new Uint8Array(32).fill(5), index: 0 });
  await rejects(one.wallet.signPsbt({ psbt: psbt.toBase64() }), -32602, /is not said/);
});

Deno.test("a replaced lightningd's wallet writes nothing", async () => {
  await using one = await node();
  await deposit(one, 100_000n);
  await one.database.sql`update leader set epoch = 2`;
  await assert.rejects(one.wallet.newAddress(), /another lightningd/);
  await assert.rejects(
    one.wallet.fundPsbt({ amount: sat(1_000), feerate: { type: "named", name: "slow" }, startweight: 0 }),
    /another lightningd/,
  );
  await assert.rejects(
    one.wallet.withdraw({ destination: elsewhere(), amount: "all" }),
    /another lightningd/,
  );
  await assert.rejects(one.wallet.reconcile(), /another lightningd/);
  const rows = await one.database.sql`select 1 from reservations`;
  assert.equal(rows.length, 0);
  await one.database.sql`update leader set epoch = 1`;
});

/** A second wallet object on the same rows, as a lightningd that was started after a kill. */
async function takeOver(of: TestNode): Promise<TestNode> {
  const { createWallet } = await import("./wallet.ts");
  const { createLogger } = await import("common/log.ts");
  const { NO_FUNDER } = await import("./testing.ts");
  const wallet = createWallet({
    database: { url: of.url, applicationName: "lightningd-successor" },
    sql: of.database.sql,
    chain: of.chain,
    signer: of.signer,
    leader: of.leader,
    log: createLogger({ sink: () => {} }),
    config: {
      network: "regtest",
      funder: NO_FUNDER,
      maxInputsPerPeer: 4,
      maxInputsInAll: 20,
      maxFundingFee: sat(100_000),
    },
  });
  await wallet.reconcile();
  return Object.create(of, {
    wallet: { value: wallet },
    [Symbol.asyncDispose]: { value: () => Promise.resolve() },
  });
}

/** Another transaction that spends a coin of ours, signed by the same keys. */
async function rival(of: TestNode, outpoint: { txid: Uint8Array; vout: number }, amount: bigint) {
  const [row] = await of.database.sql<{ change: boolean; key_index: bigint; script: Uint8Array }[]>`
    select o.change, o.key_index, k.script from wallet_outputs o
    join wallet_keys k on k.change = o.change and k.key_index = o.key_index
    where o.txid = ${outpoint.txid} and o.vout = ${BigInt(outpoint.vout)}`;
  assert.ok(row !== undefined);
  const tx = new Transaction();
  tx.version = 2;
  tx.addInput(outpoint.txid, outpoint.vout, 0xfffffffd);
  tx.addOutput(randomScript(), amount - 5_000n);
  const { signatures } = await of.signer.signWalletInputs({
    tx: tx.toBuffer(),
    prevouts: [{ amountSat: amount, script: row.script }],
    inputs: { 0: { change: row.change, index: Number(row.key_index) } },
    destinations: [0],
    maxFeeSat: 5_000n,
  });
  tx.setWitness(0, [signatures[0] ?? new Uint8Array()]);
  return tx;
}
