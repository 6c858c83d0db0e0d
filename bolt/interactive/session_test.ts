import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { p2wsh } from "bolt/tx/scripts.ts";
import { txidToDisplay } from "bolt/tx/transaction.ts";
import { decodeWitness } from "bolt/tx/witness.ts";
import { feerate, sat, weight } from "bolt/units.ts";
import { encodeMessage } from "bolt/wire/messages.ts";
import { planContribution } from "bolt/interactive/plan.ts";
import { createSession } from "bolt/interactive/session.ts";
import { checkTxSignatures, finalizeTx } from "bolt/interactive/signatures.ts";
import {
  addInput,
  addOutput,
  CHANNEL_ID,
  coin,
  coinScript,
  COMPLETE,
  converse,
  feed,
  FUNDING_SCRIPT,
  NODE_IDS,
  parsed,
  prevtxOf,
  received,
  session,
  sessionParams,
} from "bolt/interactive/testing.ts";
import type { SessionParams } from "bolt/interactive/types.ts";
import vector from "tests/data/bolt03/appendix_g_dual_funding.json" with { type: "json" };

const CHANGE = coinScript("p2wpkh", 50);

/** The names of what a feed did, step by step. */
function said(actions: ReturnType<typeof feed>["actions"]): string[][] {
  return actions.map((step) => step.map((a) => a.type === "send" ? a.message.type : a.type));
}

/** Parameters of appendix G for one side. */
function appendixG(role: SessionParams["role"]): SessionParams {
  const ours = role === "initiator" ? vector.opener : vector.accepter;
  const theirs = role === "initiator" ? vector.accepter : vector.opener;
  const prevtx = hexToBytes(vector.parentTx);
  const fundingScript = p2wsh(hexToBytes(vector.fundingScript));
  const changes = ours.outputs.filter((output) => output.script !== bytesToHex(fundingScript));
  const fundings = ours.outputs.filter((output) => output.script === bytesToHex(fundingScript));
  return sessionParams({
    role,
    nodeIds: role === "initiator" ? NODE_IDS : { local: NODE_IDS.remote, remote: NODE_IDS.local },
    locktime: vector.locktime,
    feerate: feerate(vector.feeratePerKw),
    contributions: { local: sat(ours.fundingSat), remote: sat(theirs.fundingSat) },
    fundingScript,
    inputs: ours.inputs.map(({ vout, sequence }) => {
      const { amount, script } = parsed(prevtx).outputs[vout]!;
      return { prevtx, vout, sequence, amount, script, witnessWeight: weight(0), confirmed: true };
    }),
    outputs: changes.map((output) => ({ amount: sat(output.sat), script: hexToBytes(output.script) })),
    serialIds: {
      type: "given",
      ids: [...ours.inputs, ...changes, ...fundings].map((item) => BigInt(item.serialId)),
    },
  });
}

Deno.test("BOLT 3 appendix G: two sessions build, sign and finish the published transaction", () => {
  const opener = createSession(appendixG("initiator"));
  const accepter = createSession(appendixG("accepter"));
  assert(opener.ok && accepter.ok);
  const outcome = converse(opener.value, accepter.value);
  for (const [state, side] of [[outcome.initiator, "local"], [outcome.accepter, "remote"]] as const) {
    const tx = state.completed;
    assert(tx !== null && state.phase === "completed");
    assert.equal(bytesToHex(tx.unsignedTx), vector.unsignedTx);
    assert.equal(txidToDisplay(tx.txid), vector.txid);
    assert.equal(tx.fundingOutputIndex, 2);
    assert.equal(tx.initiator, side);
    // Both put in as much: the lesser node id, the opener's here, signs first.
    assert.equal(tx.signsFirst, side);
    const openerSide = side === "local" ? "local" : "remote";
    const accepterSide = side === "local" ? "remote" : "local";
    assert.equal(tx.fees[openerSide], BigInt(vector.opener.feeSat));
    assert.equal(tx.fees[accepterSide], BigInt(vector.accepter.feeSat));
    assert.deepEqual(tx.inputs.map((input) => input.serialId), [11n, 20n]);
    assert.deepEqual(tx.outputs.map((output) => output.serialId), [30n, 33n, 44n]);
    assert.deepEqual(tx.outputs.map((output) => output.side), [openerSide, accepterSide, "shared"]);

    const witnesses = {
      [openerSide]: hexToBytes(vector.opener.witness),
      [accepterSide]: hexToBytes(vector.accepter.witness),
    } as Record<"local" | "remote", Uint8Array>;
    for (const signer of ["local", "remote"] as const) {
      const checked = checkTxSignatures(tx, signer, {
        type: "tx_signatures",
        channel_id: CHANNEL_ID,
        txid: tx.txid,
        witnesses: [witnesses[signer]],
      });
      assert(checked.ok, checked.ok ? "" : checked.error.type);
      assert.equal(checked.value.needsConsensusCheck, signer === openerSide, "only the opener's is a script");
    }
    const stack = (witness: Uint8Array) => {
      const decoded = decodeWitness(witness);
      assert(decoded.ok);
      return [decoded.value];
    };
    const final = finalizeTx(tx, stack(witnesses.local), stack(witnesses.remote));
    assert(final.ok);
    assert.equal(bytesToHex(final.value.tx), vector.signedTx);
    assert(final.value.feerate >= vector.feeratePerKw);
  }
});

Deno.test("turns: the initiator speaks first, every message gets one answer, tx_complete must follow tx_complete", () => {
  const initiator = session({
    role: "initiator",
    contributions: { local: sat(200_000), remote: sat(0) },
    inputs: [coin(1, 300_000n)],
    outputs: [{ amount: sat(99_391), script: CHANGE }],
    serialIds: { type: "given", ids: [0n, 2n, 4n] },
  });
  const late = addOutput(3n, 1_000n, CHANGE);
  const { actions, state } = feed(initiator, [
    { type: "start" },
    received(COMPLETE),
    received(COMPLETE),
    received(addInput(1n, coin(2, 3_000n))),
    received(late),
    received({ type: "tx_remove_output", channel_id: CHANNEL_ID, serial_id: 3n }),
    received(COMPLETE),
  ]);
  assert.deepEqual(said(actions), [
    ["tx_add_input"],
    ["tx_add_output"],
    ["tx_add_output"],
    // Ours is said, but the peer's last was no tx_complete.
    ["tx_complete"],
    ["tx_complete"],
    ["tx_complete"],
    ["complete"],
  ]);
  assert.equal(state.completed?.inputs.length, 2);
  assert.equal(state.completed?.outputs.length, 2);
  assert.equal(state.completed?.fees.remote, 3_000n);
});

Deno.test("a start for an accepter, or a second one, does nothing", () => {
  const accepter = session();
  assert.deepEqual(feed(accepter, [{ type: "start" }]).actions, [[]]);
  const initiator = session({
    role: "initiator",
    contributions: { local: sat(200_000), remote: sat(0) },
    inputs: [coin(1, 300_000n)],
  });
  assert.deepEqual(said(feed(initiator, [{ type: "start" }, { type: "start" }]).actions), [
    ["tx_add_input"],
    [],
  ]);
});

Deno.test("an accepter says tx_complete only when the whole is good", () => {
  const bad = feed(session(), [received(addOutput(0n, 200_000n, FUNDING_SCRIPT)), received(COMPLETE)]);
  assert.deepEqual(said(bad.actions), [["tx_complete"], ["fail"]]);
  const small = [addInput(0n, coin(1, 200_485n)), addOutput(2n, 200_000n, FUNDING_SCRIPT), COMPLETE];
  const good = feed(session(), small.map(received));
  assert.deepEqual(said(good.actions), [["tx_complete"], ["tx_complete"], ["complete"]]);
});

Deno.test("confirmed inputs: asked of the chain once both are complete, only for the peer's", () => {
  const mine = coin(2, 60_000n);
  const params = {
    requireConfirmedInputs: { byUs: true, byThem: false },
    contributions: { local: sat(50_000), remote: sat(200_000) },
    inputs: [mine],
  };
  const theirs = coin(1, 300_000n);
  const messages = [addInput(0n, theirs), addOutput(2n, 250_000n, FUNDING_SCRIPT), COMPLETE, COMPLETE];
  const asked = feed(session(params), messages.map(received));
  assert.deepEqual(said(asked.actions), [["tx_add_input"], ["tx_complete"], ["check_confirmed"], ["fail"]]);
  const waiting = feed(session(params), messages.slice(0, 3).map(received));
  const ask = waiting.actions.at(-1)![0];
  const outpoint = { txid: parsed(theirs.prevtx).txid, vout: 0 };
  assert.deepEqual(ask, { type: "check_confirmed", outpoints: [outpoint] });
  assert.equal(waiting.state.phase, "checking_confirmed");
  const done = feed(waiting.state, [{ type: "confirmed", results: [{ outpoint, confirmed: true }] }]);
  assert.deepEqual(said(done.actions), [["complete"]]);
  // Nobody waits for the answer any more.
  assert.deepEqual(feed(done.state, [{ type: "confirmed", results: [] }]).actions, [[]]);
  // Without inputs of the peer there is nothing to ask.
  const alone = feed(
    session({
      role: "initiator",
      requireConfirmedInputs: { byUs: true, byThem: false },
      contributions: { local: sat(200_000), remote: sat(0) },
      inputs: [theirs],
    }),
    [{ type: "start" }, received(COMPLETE), received(COMPLETE)],
  );
  assert.deepEqual(said(alone.actions), [["tx_add_input"], ["tx_add_output"], ["tx_complete", "complete"]]);
});

Deno.test("a replaced coin: removed by a move, another added, and the removed outpoint may come back", () => {
  const first = coin(1, 300_000n);
  const second = coin(2, 310_000n);
  const initiator = session({
    role: "initiator",
    contributions: { local: sat(200_000), remote: sat(0) },
    inputs: [first],
    serialIds: { type: "given", ids: [0n, 2n] },
  });
  const run = feed(initiator, [
    { type: "start" },
    { type: "move", move: { type: "remove_input", serialId: 0n } },
    { type: "move", move: { type: "add_input", serialId: 0n, input: second } },
    received(COMPLETE),
    received(COMPLETE),
    received(COMPLETE),
    { type: "move", move: { type: "add_input", serialId: 4n, input: first } },
    received(addInput(1n, coin(3, 1_000n))),
    received(COMPLETE),
  ]);
  assert.deepEqual(said(run.actions), [
    ["tx_add_input"],
    [],
    [],
    ["tx_add_output"],
    ["tx_remove_input"],
    ["tx_add_input"],
    [],
    ["tx_add_input"],
    ["tx_complete", "complete"],
  ]);
  const amounts = run.state.completed?.inputs.map((input) => input.amount);
  assert.deepEqual(amounts, [310_000n, 1_000n, 300_000n]);
});

Deno.test("RBF: a replacement that shares inputs with every attempt and pays more is complete", () => {
  const ours = coin(2, 60_000n);
  const theirs = coin(1, 300_000n);
  const attempt = (rate: number, fee: bigint, tag: number) => ({
    txid: new Uint8Array(32).fill(tag),
    feerate: feerate(rate),
    fee: sat(fee),
    inputs: {
      local: [{ txid: parsed(ours.prevtx).txid, vout: 0 }],
      remote: [{ txid: parsed(theirs.prevtx).txid, vout: 0 }],
    },
  });
  const previousAttempts = [attempt(253, 255n, 1), attempt(300, 300n, 2)];
  // The peer initiates and drops its old coin: ours alone double-spends, and that is enough.
  const state = session({
    previousAttempts,
    contributions: { local: sat(50_000), remote: sat(100_000) },
    inputs: [ours],
    outputs: [{ amount: sat(9_605), script: CHANGE }],
  });
  const run = feed(
    state,
    [addInput(0n, coin(3, 100_485n)), addOutput(2n, 150_000n, FUNDING_SCRIPT), COMPLETE].map(received),
  );
  assert.deepEqual(said(run.actions).at(-1), ["tx_complete", "complete"]);
  assert.equal(run.state.completed?.fees.local, 395n);
  assert.equal(run.state.completed?.fees.remote, 485n);
});

Deno.test("who signs first follows the inputs' worth, not the contributions", () => {
  const run = (theirs: bigint, ids: typeof NODE_IDS) => {
    const plan = planContribution({
      role: "accepter",
      feerate: feerate(1000),
      contribution: sat(1_000),
      fundingScript: FUNDING_SCRIPT,
      utxos: [coin(2, 300_000n)],
      changeScript: CHANGE,
      dustLimit: sat(354),
    });
    assert(plan.ok);
    const { state } = feed(
      session({
        nodeIds: ids,
        contributions: { local: sat(1_000), remote: sat(200_000) },
        inputs: plan.value.inputs,
        outputs: plan.value.outputs,
      }),
      [addInput(0n, coin(1, theirs)), addOutput(2n, 201_000n, FUNDING_SCRIPT), COMPLETE].map(
        received,
      ),
    );
    return state.completed?.signsFirst;
  };
  const swapped = { local: NODE_IDS.remote, remote: NODE_IDS.local };
  assert.equal(run(299_999n, NODE_IDS), "remote");
  assert.equal(run(300_001n, swapped), "local");
  assert.equal(run(300_000n, NODE_IDS), "local");
  assert.equal(run(300_000n, swapped), "remote");
});

Deno.test("derived serial ids have the role's parity, differ, and depend on the seed alone", () => {
  const many = Array.from({ length: 50 }, (_, i) => coin(i, 20_000n));
  const ids = (role: SessionParams["role"], seed: number) =>
    session({
      role,
      contributions: { local: sat(200_000), remote: sat(0) },
      inputs: many,
      serialIds: { type: "seed", seed: Uint8Array.of(seed) },
    }).queue.map((move) => move.serialId);
  const even = ids("initiator", 1);
  assert.equal(even.length, 51);
  assert.equal(new Set(even).size, 51);
  assert(even.every((id) => id % 2n === 0n && id < 1n << 64n));
  assert(ids("accepter", 1).every((id) => id % 2n === 1n));
  assert.deepEqual(ids("initiator", 1), even);
  assert.notDeepEqual(ids("initiator", 2), even);
});

Deno.test("the state keeps no prevtx of the peer, and no view into one", () => {
  const script = coinScript("p2wpkh", 1);
  const { state } = feed(session(), [received(addInput(0n, coin(1, 300_000n)))]);
  const [input] = state.inputs;
  assert(input !== undefined);
  assert.deepEqual(input.script, script);
  assert.equal(input.script.buffer.byteLength, script.length);
  assert.equal(input.outpoint.txid.buffer.byteLength, 32);
});

Deno.test("an input whose prevtx just fits goes out in the longest message there is", () => {
  const script = coinScript("p2wpkh", 1);
  const base = prevtxOf(1, [{ amount: 300_000n, script }, { amount: 0n, script: new Uint8Array(60_000) }]);
  const filler = new Uint8Array(60_000 + 65_483 - base.length);
  const prevtx = prevtxOf(1, [{ amount: 300_000n, script }, { amount: 0n, script: filler }]);
  assert.equal(prevtx.length, 65_483);
  const { actions } = feed(
    session({
      role: "initiator",
      contributions: { local: sat(200_000), remote: sat(0) },
      inputs: [{ ...coin(1, 300_000n), prevtx }],
    }),
    [{ type: "start" }],
  );
  const [action] = actions.flat();
  assert(action?.type === "send");
  assert.equal(encodeMessage(action.message).length, 65_535);
});
