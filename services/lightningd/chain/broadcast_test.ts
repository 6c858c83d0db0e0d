import assert from "node:assert/strict";
import { address as addresses, networks, Transaction } from "bitcoinjs-lib";
import { startBitcoind } from "tools/parts/mod.ts";
import { txidFromDisplay } from "bolt/tx/transaction.ts";
import { createRpc } from "./bitcoind.ts";
import { classifyReject, send, testAccept } from "./broadcast.ts";

const bitcoind = await startBitcoind();
Deno.test.afterAll(() => bitcoind.stop());
const rpc = createRpc({
  url: bitcoind.rpcUrl,
  auth: { type: "password", user: bitcoind.rpcUser, password: bitcoind.rpcPassword },
});
const OP_TRUE = Uint8Array.of(0x51);
const SINK = addresses.toOutputScript(bitcoind.purse.address, networks.regtest);

interface Shape {
  readonly fee?: bigint;
  readonly version?: number;
  readonly locktime?: number;
  readonly witness?: Uint8Array[];
  readonly script?: Uint8Array;
  readonly amount?: bigint;
  readonly input?: { txid: string; vout: number; sat: bigint };
}

/** A spend of the purse, wrong in the ways that a test names. */
async function spend(shape: Shape): Promise<Transaction> {
  const coin = shape.input ?? await bitcoind.takeCoin();
  const tx = new Transaction();
  tx.version = shape.version ?? 2;
  tx.locktime = shape.locktime ?? 0;
  tx.addInput(txidFromDisplay(coin.txid), coin.vout, 0xfffffffd);
  tx.setWitness(0, shape.witness ?? [OP_TRUE]);
  tx.addOutput(SINK, coin.sat - (shape.fee ?? 1_000n) - (shape.amount ?? 20_000n));
  tx.addOutput(shape.script ?? SINK, shape.amount ?? 20_000n);
  return tx;
}

async function verdict(shape: Shape) {
  return await testAccept(rpc, (await spend(shape)).toBuffer());
}

Deno.test("a good transaction is accepted", async () => {
  assert.deepEqual(await verdict({}), { verdict: "accepted", detail: "" });
});

Deno.test("a script that fails, or a form that nobody relays, is the maker's fault", async () => {
  const shapes: Shape[] = [
    { witness: [Uint8Array.of(0x52)] },
    { witness: [] },
    { witness: [new Uint8Array(20), OP_TRUE] },
    { version: 9 },
    { amount: 100n },
    { script: Uint8Array.of(0x51, 0x51) },
  ];
  for (const shape of shapes) {
    const { verdict: said, detail } = await verdict(shape);
    assert.equal(said, "invalid", detail);
    assert.notEqual(detail, "");
  }
});

Deno.test("a low fee, a missing input, a locktime, a conflict: not now, and nobody's fault", async () => {
  const coin = await bitcoind.takeCoin();
  const first = await spend({ input: coin, fee: 10_000n });
  assert.deepEqual(await send(rpc, first.toBuffer()), { type: "sent" });
  const shapes: Shape[] = [
    { fee: 1n },
    { input: { txid: "11".repeat(32), vout: 0, sat: 1_000_000n } },
    { locktime: 400_000_000 },
    // Conflicts with the one in the mempool and pays less.
    { input: coin, fee: 500n },
  ];
  for (const shape of shapes) {
    const { verdict: said, detail } = await verdict(shape);
    assert.equal(said, "not_now", detail);
    assert.notEqual(detail, "");
  }
  // Known already.
  assert.equal((await testAccept(rpc, first.toBuffer())).verdict, "not_now");
});

Deno.test("bytes that are no transaction are invalid", async () => {
  assert.equal((await testAccept(rpc, Uint8Array.of(1, 2, 3))).verdict, "invalid");
});

Deno.test("sending again is success, in the mempool and in a block, also when all its outputs are unspent", async () => {
  const tx = await spend({});
  assert.deepEqual(await send(rpc, tx.toBuffer()), { type: "sent" });
  assert.deepEqual(await send(rpc, tx.toBuffer()), { type: "sent" });
  await bitcoind.mine(1);
  assert.deepEqual(await send(rpc, tx.toBuffer()), { type: "sent" });
});

Deno.test("a refusal is named, and no reason to lose it", async () => {
  const result = await send(rpc, (await spend({ fee: 1n })).toBuffer());
  assert.equal(result.type, "refused");
  assert.match(result.type === "refused" ? result.detail : "", /fee/);
});

Deno.test("reasons of several versions of bitcoind are sorted alike", () => {
  const invalid = [
    "mandatory-script-verify-flag-failed (Invalid Schnorr signature)",
    "non-mandatory-script-verify-flag (Witness requires empty scriptSig)",
    "mempool-script-verify-flag-failed (Signature must be zero)",
    "block-script-verify-flag-failed (Invalid Schnorr signature)",
    "scriptpubkey",
    "dust",
    "dust, tx with dust output must be 0-fee",
    "version",
    "tx-size",
    "bad-witness-nonstandard",
    "bad-txns-nonstandard-inputs",
  ];
  const notNow = [
    "min relay fee not met, 1 < 110",
    "mempool min fee not met",
    "insufficient fee, rejecting replacement",
    "missing-inputs",
    "bad-txns-inputs-missingorspent",
    "txn-mempool-conflict",
    "txn-already-in-mempool",
    "non-final",
    "non-BIP68-final",
    "too-long-mempool-chain",
    "bad-txns-premature-spend-of-coinbase",
    "max-fee-exceeded",
    "",
  ];
  for (const reason of invalid) assert.equal(classifyReject(reason), "invalid", reason);
  for (const reason of notNow) assert.equal(classifyReject(reason), "not_now", reason);
});
