import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { toBinary } from "@bufbuild/protobuf";
import { Psbt, Transaction } from "bitcoinjs-lib";
import { ArcusError } from "common/grpc/errors.ts";
import { type Plan, PlanSchema } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { txidOf, txidToDisplay } from "bolt/tx/transaction.ts";
import { feerate, type Sat, sat } from "bolt/units.ts";
import type { FunderPolicy } from "./policy.ts";
import {
  insertAttempt,
  insertChannel,
  insertOpening,
  NO_FUNDER,
  randomScript,
  type TestNode,
  useChain,
} from "./testing.ts";

const { bitcoind, node } = await useChain();
await bitcoind.mine(1);

const RATE = feerate(1_000);
const MATCH: FunderPolicy = { ...NO_FUNDER, policy: "match", mod: 100n };

async function deposit(of: TestNode, ...amounts: bigint[]): Promise<void> {
  for (const sat of amounts) {
    const { address } = await of.wallet.newAddress();
    await bitcoind.pay([{ address, sat }]);
  }
  await bitcoind.mine(1);
  await of.synced();
}

function encoded(plan: Plan): string {
  return toBinary(PlanSchema, plan).toHex();
}

function inputs(plan: Plan): bigint[] {
  return plan.inputs.map((input) => input.amountSat).sort((a, b) => Number(a - b));
}

/** inputs = contribution + change + fee, and max_fee_sat is that fee. */
function assertExact(plan: Plan): void {
  const paid = plan.inputs.reduce((sum, input) => sum + input.amountSat, 0n);
  const change = plan.outputs.reduce((sum, output) => sum + output.amountSat, 0n);
  assert.equal(paid, plan.contributionSat + change + plan.maxFeeSat);
  for (const input of plan.inputs) {
    const prevtx = Transaction.fromBuffer(input.prevtx);
    assert.equal(txidOf(prevtx).toHex(), input.outpoint?.txid.toHex());
    const out = prevtx.outs[input.outpoint?.vout ?? -1];
    assert.equal(BigInt(out?.value ?? 0), input.amountSat);
    assert.equal(out?.script.toHex(), input.script.toHex());
    assert.equal(input.sequence, 0xfffffffd);
  }
}

async function reservations(of: TestNode): Promise<string[]> {
  const rows = await of.database.sql<{ purpose: string; amount_sat: bigint }[]>`
    select r.purpose, o.amount_sat from reservations r join wallet_outputs o using (txid, vout) order by o.amount_sat`;
  return rows.map((row) => `${row.purpose} ${row.amount_sat}`);
}

function rejects(work: Promise<unknown>, clnCode: number, text: RegExp): Promise<void> {
  return assert.rejects(
    work,
    (error) => error instanceof ArcusError && error.clnCode === clnCode && text.test(error.message),
  );
}

/** An attempt with the inputs of a plan, as dualopend stores it when the opening ends well. */
async function attemptOf(
  of: TestNode,
  channel: bigint,
  plan: Plan,
  opening: bigint,
  more: { readonly complete?: boolean; readonly aborted?: boolean } = {},
): Promise<Transaction> {
  const tx = new Transaction();
  tx.version = 2;
  for (const input of plan.inputs) {
    tx.addInput(input.outpoint?.txid ?? new Uint8Array(), input.outpoint?.vout ?? 0);
  }
  const script = randomScript();
  tx.addOutput(script, plan.contributionSat + 1n);
  await insertAttempt(of, channel, {
    txid: txidOf(tx),
    fundingScript: script,
    capacity: plan.contributionSat + 1n,
    createdHeight: of.chain.height(),
    inputs: plan.inputs.map((input) => ({
      side: "local",
      txid: input.outpoint?.txid ?? new Uint8Array(),
      vout: input.outpoint?.vout ?? 0,
      amount: input.amountSat,
    })),
    aborted: more.aborted ?? false,
    ...(more.complete ? { complete: tx.toBuffer() } : {}),
  }, opening);
  return tx;
}

Deno.test("our own open: exact, reserved in the same transaction, the same plan when asked again", async () => {
  await using one = await node();
  await deposit(one, 300_000n, 150_000n);
  const opening = await insertOpening(one, { initiator: "local" });
  const request = { opening, amount: sat(100_000), feerate: RATE };
  const plan = await one.wallet.planOwnFunding(request);
  assertExact(plan);
  assert.deepEqual(inputs(plan), [150_000n]);
  assert.equal(plan.inputs[0]?.witnessWeight, 67);
  // Common fields, an input of at least 107, the funding output and change (BOLT 3 appendix G).
  assert.equal(plan.maxFeeSat, 42n + 271n + 172n + 172n);
  assert.deepEqual(await reservations(one), ["opening 150000"]);
  await one.restart();
  assert.equal(encoded(await one.wallet.planOwnFunding(request)), encoded(plan));
  // Gone with its opening.
  await one.database.sql`delete from openings where opening = ${opening}`;
  assert.deepEqual(await reservations(one), []);
  await rejects(one.wallet.planOwnFunding(request), 312, /ended/);
});

Deno.test("our own open: all, named coins, short of funds, two at once", async () => {
  await using one = await node();
  await deposit(one, 300_000n, 150_000n);
  const open = () => insertOpening(one, { initiator: "local" });
  const all = await open();
  const everything = await one.wallet.planOwnFunding({ opening: all, amount: "all", feerate: RATE });
  assertExact(everything);
  assert.equal(everything.outputs.length, 0);
  assert.equal(everything.contributionSat, 450_000n - (42n + 2n * 271n + 172n));
  const second = await open();
  await rejects(
    one.wallet.planOwnFunding({ opening: second, amount: sat(20_000), feerate: RATE }),
    301,
    /missing/,
  );
  await one.database.sql`delete from openings where opening = ${all}`;
  const [coin] = (await one.wallet.listFunds()).filter((coin) => coin.amount === 300_000n);
  assert.ok(coin !== undefined);
  const named = await one.wallet.planOwnFunding({
    opening: second,
    amount: sat(20_000),
    feerate: RATE,
    utxos: [coin.outpoint],
  });
  assert.deepEqual(inputs(named), [300_000n]);
  const third = await open();
  await rejects(
    one.wallet.planOwnFunding({ opening: third, amount: sat(20_000), feerate: RATE, utxos: [coin.outpoint] }),
    -32602,
    /reserved/,
  );
  // Two at once never share a coin.
  const fourth = await open();
  const both = await Promise.allSettled(
    [third, fourth].map((opening) =>
      one.wallet.planOwnFunding({ opening, amount: sat(100_000), feerate: RATE })
    ),
  );
  assert.deepEqual(both.map((result) => result.status).sort(), ["fulfilled", "rejected"]);
});

Deno.test("a fee above max-funding-fee-sat is refused for our open, and means nothing for a peer's", async () => {
  await using one = await node({ config: { maxFundingFee: sat(600), funder: MATCH } });
  await deposit(one, 300_000n);
  const ours = await insertOpening(one, { initiator: "local" });
  await rejects(
    one.wallet.planOwnFunding({ opening: ours, amount: sat(100_000), feerate: RATE }),
    301,
    /max-funding-fee/,
  );
  const theirs = await insertOpening(one, { initiator: "remote" });
  const plan = await one.wallet.planAccept({
    opening: theirs,
    theirFunding: sat(100_000),
    feerate: feerate(5_000),
    requireConfirmed: false,
  });
  assert.deepEqual([plan.contributionSat, plan.inputs.length, plan.maxFeeSat], [0n, 0, 0n]);
});

Deno.test("a peer's open: the policy's amount, exact, idempotent; nothing when nothing fits", async () => {
  await using one = await node({ config: { funder: MATCH } });
  const accept = async (theirFunding: Sat) => {
    const opening = await insertOpening(one, { initiator: "remote" });
    const request = { opening, theirFunding, feerate: RATE, requireConfirmed: true };
    const plan = await one.wallet.planAccept(request);
    assert.equal(encoded(await one.wallet.planAccept(request)), encoded(plan));
    assertExact(plan);
    return plan;
  };
  assert.equal((await accept(sat(100_000))).contributionSat, 0n);
  await deposit(one, 100_000n, 50_000n);
  const plan = await accept(sat(60_000));
  assert.equal(plan.contributionSat, 60_000n);
  // An accepter pays for its input and its change only: 271 and 172.
  assert.equal(plan.maxFeeSat, 443n);
  assert.deepEqual(inputs(plan), [100_000n]);
  // What is left puts in less than asked for: all it has.
  const rest = await accept(sat(90_000));
  assert.equal(rest.contributionSat, 50_000n - 271n);
  assert.equal(rest.outputs.length, 0);
  assert.equal((await accept(sat(90_000))).contributionSat, 0n);
  // Unconfirmed coins are never put in.
  const { address } = await one.wallet.newAddress();
  await bitcoind.pay([{ address, sat: 500_000n }]);
  assert.equal((await accept(sat(90_000))).contributionSat, 0n);
});

Deno.test("coins in peers' opens are capped for a peer and in all; a cap is no reason to refuse the open", async () => {
  await using one = await node({ config: { funder: MATCH, maxInputsPerPeer: 2, maxInputsInAll: 3 } });
  await deposit(one, 20_000n, 20_000n, 20_000n, 20_000n, 20_000n, 20_000n);
  const accept = async (peer: Uint8Array, theirFunding: number) => {
    const opening = await insertOpening(one, { initiator: "remote", peer });
    const plan = await one.wallet.planAccept({
      opening,
      theirFunding: sat(theirFunding),
      feerate: RATE,
      requireConfirmed: false,
    });
    return { opening, plan };
  };
  const [mallory, bob] = [new Uint8Array(randomBytes(33)), new Uint8Array(randomBytes(33))];
  const first = await accept(mallory, 100_000);
  assert.equal(first.plan.inputs.length, 2);
  assert.equal((await accept(mallory, 15_000)).plan.inputs.length, 0);
  assert.equal((await accept(bob, 100_000)).plan.inputs.length, 1);
  assert.equal((await accept(bob, 15_000)).plan.inputs.length, 0);
  // An opening's coins become its channel's, and count on; confirmed, they no longer do.
  const channel = await insertChannel(one, { opener: "remote", peer: mallory });
  await attemptOf(one, channel, first.plan, first.opening);
  assert.equal((await accept(mallory, 15_000)).plan.inputs.length, 0);
  await one.database.sql`
    insert into attempt_confirmations (attempt, height, tx_index, matches)
    select attempt, ${one.chain.height()}, 1, true from funding_attempts where channel = ${channel}`;
  assert.equal((await accept(mallory, 15_000)).plan.inputs.length, 1);
});

Deno.test("a replacement spends an input of every earlier attempt again, whoever starts it, and may change its amount", async () => {
  await using one = await node({ config: { funder: MATCH } });
  await deposit(one, 60_000n, 80_000n, 200_000n);
  const first = await insertOpening(one, { initiator: "remote" });
  const plan = await one.wallet.planAccept({
    opening: first,
    theirFunding: sat(50_000),
    feerate: RATE,
    requireConfirmed: false,
  });
  assert.deepEqual(inputs(plan), [60_000n]);
  const channel = await insertChannel(one, { opener: "remote" });
  await attemptOf(one, channel, plan, first, { complete: false });
  assert.deepEqual(await reservations(one), ["attempt 60000"]);

  const replace = async (theirFunding: number, rate: number) => {
    const opening = await insertOpening(one, { initiator: "remote", channel });
    const next = await one.wallet.planAccept({
      opening,
      channel,
      theirFunding: sat(theirFunding),
      feerate: feerate(rate),
      requireConfirmed: false,
    });
    assertExact(next);
    return { opening, next };
  };
  // More: the earlier coin and another one.
  const more = await replace(120_000, 1_100);
  assert.equal(more.next.contributionSat, 120_000n);
  assert.deepEqual(inputs(more.next), [60_000n, 80_000n]);
  assert.deepEqual(await reservations(one), ["attempt 60000", "opening 80000"]);
  await attemptOf(one, channel, more.next, more.opening);
  assert.deepEqual(await reservations(one), ["attempt 60000", "attempt 80000"]);

  // Less: all of the newest attempt's.
  const less = await replace(20_000, 1_200);
  assert.equal(less.next.contributionSat, 20_000n);
  assert.deepEqual(inputs(less.next), [60_000n, 80_000n]);
  await one.database.sql`delete from openings where opening = ${less.opening}`;
  await one.wallet.reconcile();
  assert.deepEqual(await reservations(one), ["attempt 60000", "attempt 80000"]);

  // Nothing: the policy finds their funding too small.
  const nothing = await replace(9_000, 1_200);
  assert.deepEqual([nothing.next.contributionSat, nothing.next.inputs.length], [0n, 0]);
  await one.database.sql`delete from openings where opening = ${nothing.opening}`;

  // Ours, with coins that leave the earlier ones out.
  const ours = await insertOpening(one, { initiator: "local", channel });
  const [big] = (await one.wallet.listFunds()).filter((coin) => coin.amount === 200_000n);
  assert.ok(big !== undefined);
  await rejects(
    one.wallet.planOwnFunding({
      opening: ours,
      amount: sat(50_000),
      feerate: feerate(1_300),
      utxos: [big.outpoint],
    }),
    -32602,
    /again/,
  );
  const own = await one.wallet.planOwnFunding({
    opening: ours,
    amount: sat(130_000),
    feerate: feerate(1_300),
  });
  assert.deepEqual(inputs(own), [60_000n, 80_000n]);
});

Deno.test("an aborted attempt's coins are free; a signed one's only when a conflict is deep", async () => {
  await using one = await node();
  await deposit(one, 60_000n, 70_000n);
  const channel = await insertChannel(one, { opener: "local" });
  const start = async (amount: bigint, more: { complete?: boolean; aborted?: boolean }) => {
    const opening = await insertOpening(one, { initiator: "local" });
    const plan = await one.wallet.planOwnFunding({ opening, amount: sat(amount), feerate: RATE });
    return await attemptOf(one, channel, plan, opening, more);
  };
  await start(65_000n, { aborted: true });
  assert.deepEqual(await reservations(one), ["attempt 70000"]);
  await one.wallet.reconcile();
  assert.deepEqual(await reservations(one), []);

  // Signed by us: a conflict that is mined frees it only when it is deep.
  const tx = await start(50_000n, { complete: true });
  await one.wallet.reconcile();
  assert.deepEqual(await reservations(one), ["attempt 60000"]);
  const input = tx.ins[0];
  assert.ok(input !== undefined);
  const stranger = new Uint8Array(randomBytes(32));
  await one.database.sql`
    insert into attempt_inputs (attempt, serial_id, side, txid, vout, amount_sat)
    select max(attempt), '99', 'remote', ${stranger}, 0, 1 from funding_attempts`;
  await one.database.sql`
    insert into spends (txid, vout, spending_txid, height)
    values (${stranger}, 0, ${new Uint8Array(randomBytes(32))}, ${one.chain.height()})`;
  await bitcoind.mineEmpty(98);
  await one.synced();
  assert.deepEqual(await reservations(one), ["attempt 60000"]);
  await bitcoind.mineEmpty(1);
  await one.synced();
  assert.deepEqual(await reservations(one), []);
});

Deno.test("a user's PSBT as plan: coins of ours marked, the fee checked, reservations taken over", async () => {
  await using one = await node();
  await deposit(one, 200_000n);
  const opening = await insertOpening(one, { initiator: "local" });
  const fund = await one.wallet.fundPsbt({
    amount: sat(100_000),
    feerate: { type: "perkw", rate: 1_000 },
    startweight: 42 + 172 + 41,
    excessAsChange: true,
  });
  assert.deepEqual(await reservations(one), ["user 200000"]);
  const request = { opening, psbt: fund.psbt, amount: sat(100_000), feerate: RATE };
  const plan = await one.wallet.planFromPsbt(request);
  assertExact(plan);
  assert.equal(plan.contributionSat, 100_000n);
  assert.deepEqual([plan.inputs[0]?.change, plan.inputs[0]?.keyIndex], [false, 0]);
  assert.deepEqual([plan.outputs[0]?.change, plan.outputs[0]?.keyIndex], [true, 0]);
  assert.deepEqual(await reservations(one), ["opening 200000"]);
  await rejects(one.wallet.signPsbt({ psbt: fund.psbt }), 312, /openchannel_signed/);
  // openchannel_update brings it again.
  assert.equal(encoded(await one.wallet.planFromPsbt(request)), encoded(plan));
  await rejects(one.wallet.planFromPsbt({ ...request, amount: sat(100_001) }), 309, /fees/);
  await rejects(one.wallet.planFromPsbt({ ...request, feerate: feerate(2_000) }), 309, /needs/);
  await rejects(one.wallet.planFromPsbt({ ...request, psbt: "cHNidP8=" }), -32602, /PSBT/);

  // A foreign input needs its previous transaction, and must be segwit.
  const foreign = Psbt.fromBase64(fund.psbt);
  const [coin] = await one.wallet.listFunds();
  assert.ok(coin !== undefined);
  const purse = await bitcoind.takeCoin(10_000n);
  foreign.addInput({ hash: purse.txid, index: purse.vout });
  await rejects(
    one.wallet.planFromPsbt({ ...request, psbt: foreign.toBase64() }),
    309,
    /previous transaction/,
  );
  foreign.updateInput(1, {
    nonWitnessUtxo: Uint8Array.fromHex(await bitcoind.rpc<string>("getrawtransaction", [purse.txid])),
  });
  foreign.addOutput({ script: randomScript(), value: purse.sat - 5_000n });
  const mixed = await one.wallet.planFromPsbt({ ...request, psbt: foreign.toBase64() });
  assertExact(mixed);
  assert.equal(mixed.inputs[1]?.change, undefined);
  assert.equal(mixed.outputs[1]?.keyIndex, undefined);
});

Deno.test("an attempt that stays unconfirmed may be double-spent by us after the named number of blocks, and only then", async () => {
  await using one = await node({ config: { fundingGiveupBlocks: 3 } });
  await deposit(one, 100_000n);
  const opening = await insertOpening(one, { initiator: "local" });
  const plan = await one.wallet.planOwnFunding({ opening, amount: sat(50_000), feerate: RATE });
  const channel = await insertChannel(one, { opener: "local" });
  await attemptOf(one, channel, plan, opening);
  await rejects(one.wallet.doubleSpendAttempts(channel), 312, /unconfirmed for 0 of 3/);
  await rejects(one.wallet.doubleSpendAttempts(channel + 1n), 311, /no such channel/);
  await bitcoind.mineEmpty(3);
  await one.synced();
  const txid = await one.wallet.doubleSpendAttempts(channel);
  assert.deepEqual(await reservations(one), ["withdraw 100000"]);
  const tx = Transaction.fromHex(await bitcoind.rpc<string>("getrawtransaction", [txidToDisplay(txid)]));
  const fee = 100_000n - BigInt(tx.outs[0]?.value ?? 0);
  // The attempt's 1000 sat, and a relay step for its own weight more.
  assert.ok(fee >= 1_000n + 112n, `${fee}`);
  await bitcoind.mine(1);
  await one.synced();
  const confirmed = (await one.wallet.listFunds()).filter((coin) => coin.status === "confirmed");
  assert.deepEqual(confirmed.map((coin) => coin.amount), [100_000n - fee]);
});
