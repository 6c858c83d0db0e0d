import assert from "node:assert/strict";
import fc from "fast-check";
import { feerate, sat } from "bolt/units.ts";
import { ownFee } from "bolt/interactive/fees.ts";
import { planContribution } from "bolt/interactive/plan.ts";
import { createSession, stepSession } from "bolt/interactive/session.ts";
import {
  addInput,
  addOutput,
  CHANNEL_ID,
  coin,
  type CoinKind,
  coinScript,
  COMPLETE,
  converse,
  feed,
  FUNDING_SCRIPT,
  NODE_IDS,
  received,
  session,
  sessionParams,
} from "bolt/interactive/testing.ts";
import type {
  CompletedTx,
  InteractiveMessage,
  PlannedInput,
  SessionInputEvent,
  SessionState,
  Side,
} from "bolt/interactive/types.ts";

const KINDS = ["p2wpkh", "p2tr", "p2wsh"] as const;
const kinds = fc.constantFrom<CoinKind>(...KINDS);
/** Two sides' coins have different seeds. */
const coins = (from: number) =>
  fc.array(fc.tuple(kinds, fc.bigInt({ min: 1_000n, max: 500_000n })), { maxLength: 5 })
    .map((list) => list.map(([kind, amount], i) => coin(from + i, amount, kind)));

const SETUP = fc.record({
  initiatorCoins: coins(0),
  accepterCoins: coins(1000),
  rate: fc.integer({ min: 253, max: 20_000 }),
  initiatorShare: fc.integer({ min: 0, max: 100 }),
  accepterShare: fc.integer({ min: 0, max: 100 }),
  confirmed: fc.boolean(),
  seed: fc.integer({ min: 0, max: 255 }),
});
type Setup = typeof SETUP extends fc.Arbitrary<infer T> ? T : never;

function sum(inputs: readonly PlannedInput[]): bigint {
  return inputs.reduce((total, input) => total + input.amount, 0n);
}

/** Both sides' sessions, or null when the coins do not suffice. */
function sessions(setup: Setup): { initiator: SessionState; accepter: SessionState } | null {
  const { initiatorCoins, accepterCoins } = setup;
  const contributions = {
    initiator: sat((sum(initiatorCoins) * BigInt(setup.initiatorShare)) / 100n),
    accepter: sat((sum(accepterCoins) * BigInt(setup.accepterShare)) / 100n),
  };
  const states: SessionState[] = [];
  for (const role of ["initiator", "accepter"] as const) {
    const other = role === "initiator" ? "accepter" : "initiator";
    const plan = planContribution({
      role,
      feerate: feerate(setup.rate),
      contribution: contributions[role],
      fundingScript: FUNDING_SCRIPT,
      utxos: role === "initiator" ? initiatorCoins : accepterCoins,
      changeScript: coinScript(KINDS[setup.seed % 3]!, 2000),
      dustLimit: sat(354),
    });
    if (!plan.ok) return null;
    const created = createSession(sessionParams({
      role,
      nodeIds: role === "initiator" ? NODE_IDS : { local: NODE_IDS.remote, remote: NODE_IDS.local },
      feerate: feerate(setup.rate),
      contributions: { local: contributions[role], remote: contributions[other] },
      requireConfirmedInputs: { byUs: setup.confirmed, byThem: setup.confirmed },
      inputs: plan.value.inputs,
      outputs: plan.value.outputs,
      serialIds: { type: "seed", seed: Uint8Array.of(setup.seed) },
    }));
    if (!created.ok) return null;
    states.push(created.value);
  }
  const [initiator, accepter] = states;
  assert(initiator !== undefined && accepter !== undefined);
  return { initiator, accepter };
}

const mirrored: Readonly<Record<Side, Side>> = { local: "remote", remote: "local" };

/** Both sides see the same transaction, each from its side; and it is one that pays. */
function assertAgree(a: CompletedTx, b: CompletedTx): void {
  assert.deepEqual(a.unsignedTx, b.unsignedTx);
  assert.deepEqual(a.txid, b.txid);
  assert.equal(a.fundingOutputIndex, b.fundingOutputIndex);
  assert.equal(a.signsFirst, mirrored[b.signsFirst]);
  assert.equal(a.initiator, mirrored[b.initiator]);
  assert.deepEqual({ local: a.fees.remote, remote: a.fees.local }, b.fees);
  assert.deepEqual(a.inputs.map((input) => input.side), b.inputs.map((input) => mirrored[input.side]));
  const spent = a.inputs.reduce((total, input) => total + input.amount, 0n);
  const paid = a.outputs.reduce((total, output) => total + output.amount, 0n);
  assert.equal(spent, paid + a.fees.local + a.fees.remote);
  for (const tx of [a, b]) {
    const outputs = tx.outputs.filter((output) =>
      output.side === "local" || (output.side === "shared" && tx.initiator === "local")
    );
    const inputs = tx.inputs.filter((input) => input.side === "local");
    const least = ownFee(tx.feerate, { initiator: tx.initiator === "local", inputs, outputs });
    assert(tx.fees.local >= least, "each side pays for what it added");
  }
}

Deno.test("two honest sessions always complete, with one transaction and enough fees of both", () => {
  let completed = 0;
  fc.assert(
    fc.property(SETUP, (setup) => {
      const pair = sessions(setup);
      if (pair === null) return;
      const outcome = converse(pair.initiator, pair.accepter);
      assert.equal(outcome.initiator.phase, "completed");
      assert.equal(outcome.accepter.phase, "completed");
      assert(outcome.initiator.completed !== null && outcome.accepter.completed !== null);
      assertAgree(outcome.initiator.completed, outcome.accepter.completed);
      const count = pair.initiator.queue.length + pair.accepter.queue.length;
      const { inputs, outputs } = outcome.initiator.completed;
      assert.equal(inputs.length + outputs.length, count, "everything planned is in it");
      completed++;
    }),
    { numRuns: 150 },
  );
  assert(completed > 30, `only ${completed} of the runs had enough coins`);
});

/** A change of somebody's part at some turn: what to do, and with which coin or item. */
const DISTURBANCE = fc.record({
  turn: fc.integer({ min: 0, max: 12 }),
  what: fc.constantFrom(
    "add_input" as const,
    "add_output" as const,
    "remove_input" as const,
    "remove_output" as const,
  ),
  which: fc.integer({ min: 0, max: 7 }),
  amount: fc.bigInt({ min: 300n, max: 50_000n }),
});

Deno.test("with parts that change all the time both end with one transaction, or without one", () => {
  const ends = { agreed: 0, failed: 0 };
  fc.assert(
    fc.property(SETUP, fc.array(DISTURBANCE, { maxLength: 8 }), (setup, disturbances) => {
      const pair = sessions(setup);
      if (pair === null) return;
      const outcome = converse(
        pair.initiator,
        pair.accepter,
        (who, state, turn) =>
          disturbances.filter((d) => d.turn === turn).map((d): SessionInputEvent => {
            const parity = who === "initiator" ? 0n : 1n;
            const serialId = BigInt(2 * d.which + 100) + parity;
            const mine = (d.what === "remove_input" ? state.inputs : state.outputs)
              .filter((item) => item.side === "local");
            const present = mine[d.which % Math.max(1, mine.length)]?.serialId ?? serialId;
            switch (d.what) {
              case "add_input":
                return {
                  type: "move",
                  move: { type: "add_input", serialId, input: coin(3000 + d.which, d.amount) },
                };
              case "add_output": {
                const output = { amount: sat(d.amount), script: coinScript("p2wpkh", d.which) };
                return { type: "move", move: { type: "add_output", serialId, output } };
              }
              case "remove_input":
              case "remove_output":
                return { type: "move", move: { type: d.what, serialId: present } };
            }
          }),
      );
      const { initiator, accepter } = outcome;
      if (initiator.phase === "completed" && accepter.phase === "completed") {
        assert(initiator.completed !== null && accepter.completed !== null);
        assertAgree(initiator.completed, accepter.completed);
        ends.agreed++;
        return;
      }
      // Who did not fail hears it by tx_abort; it must not be waiting for anything else.
      assert([initiator.phase, accepter.phase].includes("failed"));
      ends.failed++;
    }),
    { numRuns: 300 },
  );
  assert(ends.agreed > 20 && ends.failed > 20, JSON.stringify(ends));
});

/** Bytes that are sometimes a transaction, whole or damaged. */
const prevtx = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.tuple(
    fc.constantFrom(...[1, 2, 3].map((i) => coin(i, 300_000n).prevtx)),
    fc.nat(),
    fc.integer({ min: 0, max: 255 }),
  )
    .map(([bytes, at, value]) => bytes.with(at % bytes.length, value)),
  fc.constantFrom(...[1, 2, 3].map((i) => coin(i, 300_000n).prevtx)),
);
const serialId = fc.oneof(fc.bigInt({ min: 0n, max: 8n }), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }));
const channelId = fc.oneof({ weight: 20, arbitrary: fc.constant(CHANNEL_ID) }, {
  weight: 1,
  arbitrary: fc.uint8Array({ minLength: 32, maxLength: 32 }),
});
const u32 = fc.oneof(fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 0xffff_ffff }));
const script = fc.oneof(
  fc.uint8Array({ maxLength: 45 }),
  fc.constantFrom(FUNDING_SCRIPT, coinScript("p2wpkh", 1), coinScript("p2tr", 1)),
);
const MESSAGE: fc.Arbitrary<InteractiveMessage> = fc.oneof(
  fc.record({
    type: fc.constant("tx_add_input" as const),
    channel_id: channelId,
    serial_id: serialId,
    prevtx,
    prevtx_vout: u32,
    sequence: u32,
  }),
  fc.record({
    type: fc.constant("tx_add_input" as const),
    channel_id: channelId,
    serial_id: serialId,
    prevtx,
    prevtx_vout: u32,
    sequence: u32,
    shared_input_txid: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  }),
  fc.record({
    type: fc.constant("tx_add_output" as const),
    channel_id: channelId,
    serial_id: serialId,
    sats: fc.oneof(fc.bigInt({ min: 0n, max: 300_000n }), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })),
    script,
  }),
  fc.record({
    type: fc.constantFrom("tx_remove_input" as const, "tx_remove_output" as const),
    channel_id: channelId,
    serial_id: serialId,
  }),
  fc.record({ type: fc.constant("tx_complete" as const), channel_id: channelId }),
);

Deno.test("whatever a peer says, a step yields one answer or one named failure, and never throws", () => {
  const events = fc.array(
    fc.oneof(
      { weight: 10, arbitrary: MESSAGE.map(received) },
      { weight: 1, arbitrary: fc.constant<SessionInputEvent>({ type: "start" }) },
      { weight: 1, arbitrary: fc.constant<SessionInputEvent>({ type: "confirmed", results: [] }) },
    ),
    { maxLength: 30 },
  );
  fc.assert(
    fc.property(fc.constantFrom("initiator" as const, "accepter" as const), events, (role, list) => {
      let state = role === "accepter" ? session() : session({
        role,
        contributions: { local: sat(200_000), remote: sat(0) },
        inputs: [coin(5, 300_000n)],
      });
      for (const event of list) {
        const before = structuredClone(state);
        const step = stepSession(state, event);
        assert.deepEqual(state, before, "a state is never changed in place");
        const copy = stepSession(structuredClone(before), event);
        assert.deepEqual(copy, step, "the same step from a stored state");
        const sent = step.actions.filter((action) => action.type === "send");
        const failed = step.actions.filter((action) => action.type === "fail");
        assert(sent.length <= 1 && failed.length <= 1 && sent.length + failed.length <= 1);
        assert.equal(step.state.phase === "failed" && state.phase !== "failed", failed.length === 1);
        for (const { abort } of failed) assert.match(abort, /^[\x20-\x7e]+$/);
        state = step.state;
      }
    }),
    { numRuns: 400 },
  );
});

Deno.test("a peer that shaves any satoshi off its fee is refused", () => {
  // The peer is the initiator; its exact share of 609 weight.
  fc.assert(fc.property(
    fc.integer({ min: 253, max: 20_000 }),
    fc.bigInt({ min: 0n, max: 5_000n }),
    (rate, shaved) => {
      const due = (609n * BigInt(rate)) / 1000n;
      if (shaved > due) return;
      const messages = [
        addInput(0n, coin(1, 300_000n)),
        addOutput(2n, 100_000n - due + shaved, coinScript("p2wpkh", 2)),
        addOutput(4n, 200_000n, FUNDING_SCRIPT),
        COMPLETE,
      ];
      const { state } = feed(session({ feerate: feerate(rate) }), messages.map(received));
      assert.equal(state.phase, shaved === 0n ? "completed" : "failed");
    },
  ));
});
