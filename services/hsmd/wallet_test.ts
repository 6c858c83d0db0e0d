/** Withdrawals, sends and users' PSBTs: SignWalletInputs. */
import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { makeTransaction, type TxOutput } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import { SignWalletInputsRequestSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { WalletPath } from "./keys.ts";
import { fakeOutpoint, openHsm, reasonOf, temporaryDirectory, type TestHsm } from "./testing.ts";

const STRANGER = Uint8Array.fromHex(`0014${"11".repeat(20)}`);
const PATH: WalletPath = { change: false, index: 7 };
const CHANGE: WalletPath = { change: true, index: 0 };

function transaction(outputs: readonly TxOutput[], coins: readonly string[] = ["coin"]): Uint8Array {
  const inputs = coins.map((coin) => ({ outpoint: fakeOutpoint(coin), sequence: 0xfffffffd }));
  return new Uint8Array(makeTransaction({ locktime: 0, inputs, outputs }).toBuffer());
}

/** One coin of 100,000 sat: 60,000 to a stranger, 39,000 change. */
function withdrawal({ keys }: TestHsm) {
  const inputs: Record<number, WalletPath> = { 0: PATH };
  const change: Record<number, WalletPath> = { 1: CHANGE };
  return {
    tx: transaction([{ amount: sat(60_000), script: STRANGER }, {
      amount: sat(39_000),
      script: keys.wallet(CHANGE).script,
    }]),
    prevouts: [{ amountSat: 100_000n, script: keys.wallet(PATH).script }],
    inputs,
    change,
    destinations: [0],
    maxFeeSat: 1000n,
  };
}

async function sign({ hsm }: TestHsm, request: MessageInitShape<typeof SignWalletInputsRequestSchema>) {
  return (await hsm.signWalletInputs(create(SignWalletInputsRequestSchema, request))).signatures;
}

function test(name: string, body: (hsmd: TestHsm) => Promise<void>): void {
  Deno.test(name, async () => {
    await using directory = await temporaryDirectory();
    await using hsmd = await openHsm(directory.path);
    await body(hsmd);
  });
}

test("a withdrawal is signed with SIGHASH_DEFAULT, or SIGHASH_ALL where asked, and both are good", async (hsmd) => {
  const request = withdrawal(hsmd);
  const tx = Transaction.fromBuffer(request.tx);
  const hash = (type: number) =>
    tx.hashForWitnessV1(
      0,
      request.prevouts.map((p) => p.script),
      request.prevouts.map((p) => p.amountSat),
      type,
    );
  const outputKey = request.prevouts[0]!.script.slice(2);
  const plain = (await sign(hsmd, request))[0]!;
  assert.equal(plain.length, 64);
  assert(ecc().verifySchnorr(hash(Transaction.SIGHASH_DEFAULT), plain, outputKey));
  const all = (await sign(hsmd, { ...request, sighashAll: [0] }))[0]!;
  assert.deepEqual([all.length, all[64]], [65, Transaction.SIGHASH_ALL]);
  assert(ecc().verifySchnorr(hash(Transaction.SIGHASH_ALL), all.slice(0, 64), outputKey));
  assert.deepEqual((await sign(hsmd, request))[0], plain);
});

test("an output that is neither ours nor named is refused", async (hsmd) => {
  const request = withdrawal(hsmd);
  assert.equal(await reasonOf(sign(hsmd, { ...request, destinations: [] })), "UNNAMED_OUTPUT");
  assert.equal(await reasonOf(sign(hsmd, { ...request, change: {} })), "UNNAMED_OUTPUT");
  assert.equal(await reasonOf(sign(hsmd, { ...request, change: { 0: PATH, 1: CHANGE } })), "UNNAMED_OUTPUT");
  assert.equal(await reasonOf(sign(hsmd, { ...request, destinations: [0, 1] })), "BAD_REQUEST");
  assert.equal(await reasonOf(sign(hsmd, { ...request, destinations: [0, 2] })), "BAD_REQUEST");
});

test("the fee is bounded by the caller, and by sanity whatever the caller says", async (hsmd) => {
  const request = withdrawal(hsmd);
  assert.equal(await reasonOf(sign(hsmd, { ...request, maxFeeSat: 999n })), "FEE_TOO_HIGH");
  const prevouts = [{ ...request.prevouts[0]!, amountSat: 100_000_000n }];
  assert.equal(await reasonOf(sign(hsmd, { ...request, prevouts, maxFeeSat: 1n << 63n })), "FEE_TOO_HIGH");
});

test("inputs of others need the caller's word, and stay unsigned", async (hsmd) => {
  const { keys } = hsmd;
  const request = {
    ...withdrawal(hsmd),
    tx: transaction([{ amount: sat(60_000), script: STRANGER }, {
      amount: sat(39_000),
      script: keys.wallet(CHANGE).script,
    }], ["coin", "other"]),
    prevouts: [...withdrawal(hsmd).prevouts, { amountSat: 1n, script: STRANGER }],
  };
  assert.equal(await reasonOf(sign(hsmd, request)), "BAD_REQUEST");
  assert.deepEqual(Object.keys(await sign(hsmd, { ...request, foreignInputs: true })), ["0"]);
});

test("what is no unsigned transaction, or not its prevouts, is refused", async (hsmd) => {
  const request = withdrawal(hsmd);
  const signed = Transaction.fromBuffer(request.tx);
  signed.setWitness(0, [new Uint8Array(64)]);
  const scripted = Transaction.fromBuffer(request.tx);
  scripted.setInputScript(0, Uint8Array.of(0x51));
  const refused = async (change: object, reason = "BAD_REQUEST") =>
    assert.equal(await reasonOf(sign(hsmd, { ...request, ...change })), reason);
  await refused({ tx: new Uint8Array(0) });
  await refused({ tx: new Uint8Array(200_000) });
  await refused({ tx: new Uint8Array(signed.toBuffer()) });
  await refused({ tx: new Uint8Array(scripted.toBuffer()) });
  await refused({ tx: Uint8Array.of(...request.tx, 0) });
  await refused({ prevouts: [] });
  await refused({ prevouts: [{ ...request.prevouts[0]!, amountSat: 1n << 63n }] });
  await refused({ inputs: { 0: CHANGE } });
  await refused({ inputs: { 1: PATH } });
  await refused({ inputs: { 0: { change: false, index: 0x80000000 } } });
  const outputs = signed.outs.map(({ value, script }) => ({ amount: sat(value), script }));
  await refused({
    tx: transaction(outputs, ["coin", "coin"]),
    prevouts: [...request.prevouts, ...request.prevouts],
    inputs: { 0: PATH, 1: PATH },
  });
});
