import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { feerate, MAX_SAT, sat, weight } from "bolt/units.ts";
import type { PlanFailure } from "bolt/interactive/failures.ts";
import { createSession, stepSession } from "bolt/interactive/session.ts";
import {
  CHANNEL_ID,
  coin,
  coinScript,
  COMPLETE,
  feed,
  FUNDING_SCRIPT,
  parsed,
  prevtxOf,
  received,
  sessionParams,
} from "bolt/interactive/testing.ts";
import type { Move, SessionInputEvent, SessionParams } from "bolt/interactive/types.ts";

const COIN = coin(1, 300_000n);
const CHANGE = coinScript("p2wpkh", 50);
const P2PKH = Uint8Array.of(0x76, 0xa9, 20, ...new Uint8Array(20), 0x88, 0xac);
/** An initiator who pays 609 sat for a channel of 200,000. */
const GOOD: Partial<SessionParams> = {
  role: "initiator",
  contributions: { local: sat(200_000), remote: sat(0) },
  inputs: [COIN],
  outputs: [{ amount: sat(99_391), script: CHANGE }],
  serialIds: { type: "given", ids: [0n, 2n, 4n] },
};
const ATTEMPT = {
  txid: sha256(Uint8Array.of(99)),
  fee: sat(100),
  feerate: feerate(960),
  inputs: { local: [{ txid: parsed(COIN.prevtx).txid, vout: 0 }], remote: [] },
};

/** What is refused: parameters, or a move after some events. */
type Scenario =
  | { readonly params: Partial<SessionParams> }
  | { readonly move: Move; readonly before?: readonly SessionInputEvent[] };

const replaced = (index: number, input: Partial<typeof COIN>): Scenario => ({
  params: { inputs: [COIN, coin(2, 5_000n)].map((good, i) => i === index ? { ...good, ...input } : good) },
});

const SCENARIOS: Readonly<Record<PlanFailure["type"], readonly Scenario[]>> = {
  plan_amount_overflow: [
    { params: { contributions: { local: sat(MAX_SAT), remote: sat(1) } } },
    { params: { inputs: [COIN, coin(2, MAX_SAT)] } },
    { params: { outputs: [{ amount: sat(MAX_SAT), script: CHANGE }] } },
  ],
  plan_funding_below_dust: [{ params: { contributions: { local: sat(200), remote: sat(153) } } }, {
    params: {
      contributions: { local: sat(1000), remote: sat(0) },
      dustLimits: { local: sat(354), remote: sat(1001) },
    },
  }],
  plan_feerate_too_low: [
    { params: { previousAttempts: [{ ...ATTEMPT, feerate: feerate(961) }] } },
    // 1,000 is 25/24 of 960, but only 24 above 976.
    { params: { previousAttempts: [{ ...ATTEMPT, feerate: feerate(976) }] } },
  ],
  plan_bad_serial_ids: [
    { params: { serialIds: { type: "given", ids: [0n, 2n] } } },
    { params: { serialIds: { type: "given", ids: [0n, 2n, 2n] } } },
    { params: { serialIds: { type: "given", ids: [0n, 1n, 2n] } } },
    { params: { serialIds: { type: "given", ids: [0n, 2n, 1n << 64n] } } },
    { params: { serialIds: { type: "given", ids: [0n, 2n, -2n] } } },
    { move: { type: "add_input", serialId: 0n, input: coin(2, 5_000n) } },
    { move: { type: "add_output", serialId: 2n, output: { amount: sat(1000), script: CHANGE } } },
    { move: { type: "add_output", serialId: 7n, output: { amount: sat(1000), script: CHANGE } } },
  ],
  plan_bad_prevtx: [replaced(1, { prevtx: Uint8Array.of(1, 2, 3) })],
  plan_prevtx_too_large: [replaced(1, { prevtx: new Uint8Array(65_484) })],
  plan_input_mismatch: [
    replaced(1, { vout: 1 }),
    replaced(1, { amount: sat(5_001) }),
    replaced(1, { script: CHANGE }),
    { move: { type: "add_input", serialId: 6n, input: { ...COIN, amount: sat(1) } } },
  ],
  plan_input_not_segwit: [
    replaced(1, { script: P2PKH, prevtx: prevtxOf(2, [{ amount: 5_000n, script: P2PKH }]) }),
  ],
  plan_bad_sequence: [
    replaced(1, { sequence: 0xffff_fffe }),
    replaced(1, { sequence: -1 }),
    replaced(1, { sequence: 0.5 }),
  ],
  plan_duplicate_input: [
    { params: { inputs: [COIN, COIN] } },
    { move: { type: "add_input", serialId: 6n, input: COIN } },
    { move: { type: "add_input", serialId: 6n, input: COIN }, before: [{ type: "start" }] },
  ],
  plan_unconfirmed_input: [{
    params: {
      requireConfirmedInputs: { byUs: false, byThem: true },
      inputs: [{ ...COIN, confirmed: false }],
    },
  }],
  plan_spends_previous_attempt: [{
    params: { previousAttempts: [{ ...ATTEMPT, txid: parsed(COIN.prevtx).txid }] },
  }],
  plan_output_below_dust: [
    { params: { outputs: [{ amount: sat(353), script: CHANGE }] } },
    {
      params: {
        dustLimits: { local: sat(354), remote: sat(600) },
        outputs: [{ amount: sat(599), script: CHANGE }],
      },
    },
    { move: { type: "add_output", serialId: 6n, output: { amount: sat(353), script: CHANGE } } },
  ],
  plan_output_script: [
    { params: { outputs: [{ amount: sat(1000), script: P2PKH }] } },
    { params: { outputs: [{ amount: sat(1000), script: FUNDING_SCRIPT }] } },
  ],
  plan_too_many_items: [
    { params: { inputs: Array.from({ length: 253 }, () => COIN) } },
    { params: { outputs: Array.from({ length: 252 }, () => ({ amount: sat(354), script: CHANGE })) } },
  ],
  plan_insufficient: [
    { params: { outputs: [{ amount: sat(99_392), script: CHANGE }] } },
    { params: { feerate: feerate(1002) } },
    { params: { inputs: [{ ...COIN, witnessWeight: weight(108) }] } },
    { params: { contributions: { local: sat(200_001), remote: sat(0) } } },
    { params: { inputs: [] } },
  ],
  plan_misses_attempt: [{
    params: {
      previousAttempts: [
        { ...ATTEMPT, inputs: { local: [{ txid: CHANNEL_ID, vout: 0 }], remote: ATTEMPT.inputs.local } },
        ATTEMPT,
      ],
    },
  }],
  plan_unknown_serial_id: [
    { move: { type: "remove_input", serialId: 2n } },
    { move: { type: "remove_output", serialId: 0n } },
  ],
  plan_removes_funding_output: [
    { move: { type: "remove_output", serialId: 4n } },
    {
      move: { type: "remove_output", serialId: 4n },
      before: [{ type: "start" }, received(COMPLETE), received(COMPLETE)],
    },
  ],
  plan_too_late: [{
    move: { type: "remove_input", serialId: 0n },
    before: [{ type: "start" }, received(COMPLETE), received(COMPLETE), received(COMPLETE)],
  }],
};

/** The given serial ids fit only the unchanged plan; scenarios about other things derive theirs. */
function withIds(changes: Partial<SessionParams>): SessionParams {
  const derived = changes.inputs !== undefined || changes.outputs !== undefined;
  const serialIds = derived ? { type: "seed", seed: Uint8Array.of(5) } as const : GOOD.serialIds!;
  return sessionParams({ ...GOOD, serialIds, ...changes });
}

Deno.test("the plan that the scenarios spoil is good", () => {
  assert(createSession(sessionParams(GOOD)).ok);
  assert(createSession(sessionParams({ ...GOOD, previousAttempts: [ATTEMPT] })).ok);
});

for (const [type, scenarios] of Object.entries(SCENARIOS)) {
  Deno.test(`own part refused: ${type}`, () => {
    for (const [i, scenario] of scenarios.entries()) {
      if ("params" in scenario) {
        const created = createSession(withIds(scenario.params));
        assert(!created.ok, `scenario ${i}`);
        assert.equal(created.error.type, type, `scenario ${i}`);
        continue;
      }
      const good = createSession(sessionParams(GOOD));
      assert(good.ok);
      const { state } = feed(good.value, scenario.before ?? []);
      assert.notEqual(state.phase, "failed");
      const step = stepSession(state, { type: "move", move: scenario.move });
      assert.equal(step.state, state, "nothing changed");
      const [action] = step.actions;
      assert(action?.type === "move_refused" && step.actions.length === 1, `scenario ${i}`);
      assert.equal(action.failure.type, type, `scenario ${i}`);
    }
  });
}
