import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { hexToBytes } from "@noble/hashes/utils.js";
import { feerate, MAX_SAT, sat, weight } from "bolt/units.ts";
import { abortText, failureBlame, type InteractiveFailure } from "bolt/interactive/failures.ts";
import { stepSession } from "bolt/interactive/session.ts";
import {
  addInput,
  addOutput,
  CHANNEL_ID,
  coin,
  coinScript,
  COMPLETE,
  feed,
  FUNDING_SCRIPT,
  parsed,
  prevtxOf,
  received,
  session,
} from "bolt/interactive/testing.ts";
import type {
  InteractiveMessage,
  PlannedInput,
  PreviousAttempt,
  SessionInputEvent,
  SessionState,
} from "bolt/interactive/types.ts";

const COIN = coin(1, 300_000n);
const CHANGE = coinScript("p2wpkh", 50);
/** An initiator's weight with one P2WPKH input, change and funding output is 609, so at 1,000 sat/kw 609 sat. */
const EXACT_CHANGE = 300_000n - 200_000n - 609n;
const FUNDING = addOutput(4n, 200_000n, FUNDING_SCRIPT);
/** What a good initiator says to an accepter that adds nothing. */
const GOOD: readonly InteractiveMessage[] = [
  addInput(0n, COIN),
  addOutput(2n, EXACT_CHANGE, CHANGE),
  FUNDING,
  COMPLETE,
];
const P2PKH = Uint8Array.of(0x76, 0xa9, 20, ...new Uint8Array(20), 0x88, 0xac);
const OP_RETURN = Uint8Array.of(0x6a, 4, 1, 2, 3, 4);

interface Scenario {
  readonly state: SessionState;
  /** Only the last of them may fail. */
  readonly events: readonly SessionInputEvent[];
}

/** Against an accepter with nothing of its own. */
function accepter(...messages: InteractiveMessage[]): Scenario {
  return { state: session(), events: messages.map(received) };
}

/** A coin of this script in place of P2WPKH. */
function spending(seed: number, amount: bigint, script: Uint8Array): PlannedInput {
  return { ...coin(seed, amount), prevtx: prevtxOf(seed, [{ amount, script }]), script };
}

function attempt(changes: Partial<PreviousAttempt> = {}): PreviousAttempt {
  return {
    txid: sha256(Uint8Array.of(99)),
    fee: sat(100),
    feerate: feerate(500),
    inputs: { local: [], remote: [{ txid: parsed(COIN.prevtx).txid, vout: 0 }] },
    ...changes,
  };
}

/** Adds and removes the same thing until the limit is near, then adds once more. */
function endless(add: InteractiveMessage, remove: InteractiveMessage): Scenario {
  const rounds = Array.from({ length: 4095 }, () => [add, remove]).flat();
  return accepter(...rounds, add);
}

/** One transaction with many outputs, each an input. */
function manyInputs(count: number): InteractiveMessage[] {
  const amount = 10_000n;
  const prevtx = prevtxOf(200, Array.from({ length: count }, () => ({ amount, script: CHANGE })));
  return Array.from({ length: count }, (_, i) => addInput(BigInt(2 * i), { ...COIN, prevtx, vout: i }));
}

const overflowing = (() => {
  // The builder refuses such an amount, so it is written into the bytes of a good transaction.
  const prevtx = prevtxOf(3, [{ amount: MAX_SAT, script: CHANGE }]);
  const view = new DataView(prevtx.buffer, prevtx.byteOffset);
  const at = prevtx.length - 4 - CHANGE.length - 1 - 8;
  assert.equal(view.getBigUint64(at, true), MAX_SAT);
  view.setBigUint64(at, MAX_SAT + 1n, true);
  return prevtx;
})();

const ownCoin = coin(20, 60_000n);
/** An accepter with a coin, 50,000 sat to contribute, and serial ids 1 (the coin) and 3 (the change). */
function contributor(): SessionState {
  return session({
    contributions: { local: sat(50_000), remote: sat(200_000) },
    inputs: [ownCoin],
    outputs: [{ amount: sat(9_000), script: CHANGE }],
    serialIds: { type: "given", ids: [1n, 3n] },
  });
}

const SCENARIOS: Readonly<Record<InteractiveFailure["type"], readonly Scenario[]>> = {
  wrong_channel: [
    accepter({ ...addInput(0n, COIN), channel_id: sha256(CHANNEL_ID) }),
    accepter(...GOOD.slice(0, 3), { type: "tx_complete", channel_id: sha256(CHANNEL_ID) }),
  ],
  out_of_turn: [{
    state: session({
      role: "initiator",
      contributions: { local: sat(200_000), remote: sat(0) },
      inputs: [COIN],
    }),
    events: [received(COMPLETE)],
  }],
  session_over: [
    accepter(...GOOD, COMPLETE),
    accepter(...GOOD, addInput(6n, coin(2, 1000n))),
    {
      state: session({ requireConfirmedInputs: { byUs: true, byThem: false } }),
      events: [...GOOD, addOutput(6n, 1000n, CHANGE)].map(received),
    },
  ],
  non_replaceable_sequence: [
    accepter(addInput(0n, COIN, { sequence: 0xffff_fffe })),
    accepter(addInput(0n, COIN, { sequence: 0xffff_ffff })),
  ],
  serial_id_parity: [
    accepter(addInput(1n, COIN)),
    accepter(addOutput(0xffff_ffff_ffff_ffffn, 1000n, CHANGE)),
    accepter({ type: "tx_remove_input", channel_id: CHANNEL_ID, serial_id: 1n }),
    accepter({ type: "tx_remove_output", channel_id: CHANNEL_ID, serial_id: 3n }),
    {
      state: session({
        role: "initiator",
        contributions: { local: sat(200_000), remote: sat(0) },
        inputs: [COIN],
      }),
      events: [{ type: "start" }, received(addInput(2n, coin(2, 1000n)))],
    },
  ],
  duplicate_serial_id: [
    accepter(addInput(0n, COIN), addInput(0n, coin(2, 1000n))),
    accepter(addOutput(2n, 1000n, CHANGE), addOutput(2n, 1001n, CHANGE)),
  ],
  prevtx_missing: [accepter(addInput(0n, COIN, { prevtx: new Uint8Array() }))],
  prevtx_invalid: [
    accepter(addInput(0n, COIN, { prevtx: Uint8Array.of(...COIN.prevtx, 0) })),
    accepter(addInput(0n, COIN, { prevtx: COIN.prevtx.slice(0, -1) })),
    accepter(addInput(0n, COIN, { prevtx: Uint8Array.of(0xff) })),
  ],
  prevtx_vout_out_of_range: [
    accepter(addInput(0n, COIN, { prevtx_vout: 1 })),
    accepter(addInput(0n, COIN, { prevtx_vout: 0xffff_ffff })),
  ],
  prevtx_amount_impossible: [accepter(addInput(0n, COIN, { prevtx: overflowing }))],
  input_not_segwit: [
    accepter(addInput(0n, spending(4, 300_000n, P2PKH))),
    // A P2SH output may wrap a witness program: its signature would still change the txid.
    accepter(addInput(0n, spending(5, 300_000n, Uint8Array.of(0xa9, 20, ...new Uint8Array(20), 0x87)))),
    accepter(addInput(0n, spending(6, 300_000n, Uint8Array.of(0x51)))),
    accepter(addInput(0n, spending(7, 300_000n, Uint8Array.of(0x00, 20, ...new Uint8Array(21))))),
    accepter(addInput(0n, spending(8, 300_000n, Uint8Array.of(0x51, 41, ...new Uint8Array(41))))),
  ],
  duplicate_input: [
    accepter(addInput(0n, COIN), addInput(2n, COIN)),
    // Ours, before and after we added it.
    { state: contributor(), events: [received(addInput(0n, ownCoin))] },
    { state: contributor(), events: [received(addInput(0n, COIN)), received(addInput(2n, ownCoin))] },
  ],
  spends_previous_attempt: [{
    state: session({ previousAttempts: [attempt({ txid: parsed(coin(2, 9_000n).prevtx).txid })] }),
    events: [received(addInput(0n, coin(2, 9_000n)))],
  }],
  shared_input_refused: [
    accepter(addInput(0n, COIN, { prevtx: new Uint8Array(), shared_input_txid: sha256(CHANNEL_ID) })),
    accepter(addInput(0n, COIN, { shared_input_txid: parsed(COIN.prevtx).txid })),
  ],
  too_many_tx_add_input: [
    endless(addInput(0n, COIN), { type: "tx_remove_input", channel_id: CHANNEL_ID, serial_id: 0n }),
  ],
  too_many_tx_add_output: [
    endless(addOutput(0n, 1000n, CHANGE), {
      type: "tx_remove_output",
      channel_id: CHANNEL_ID,
      serial_id: 0n,
    }),
  ],
  output_below_dust: [accepter(addOutput(2n, 353n, CHANGE)), accepter(addOutput(2n, 0n, CHANGE))],
  output_above_max_money: [
    accepter(addOutput(2n, MAX_SAT + 1n, CHANGE)),
    accepter(addOutput(2n, 1n << 63n, CHANGE)),
    accepter(addOutput(2n, (1n << 64n) - 1n, CHANGE)),
  ],
  output_script_refused: [
    accepter(addOutput(2n, 1000n, P2PKH)),
    accepter(addOutput(2n, 1000n, OP_RETURN)),
    accepter(addOutput(2n, 1000n, new Uint8Array())),
    accepter(addOutput(2n, 1000n, Uint8Array.of(0, 21, ...new Uint8Array(21)))),
  ],
  unknown_input_serial_id: [
    accepter({ type: "tx_remove_input", channel_id: CHANNEL_ID, serial_id: 0n }),
    accepter(
      addInput(0n, COIN),
      { type: "tx_remove_input", channel_id: CHANNEL_ID, serial_id: 0n },
      { type: "tx_remove_input", channel_id: CHANNEL_ID, serial_id: 0n },
    ),
    // An output's id does not name an input.
    accepter(addOutput(2n, 1000n, CHANGE), {
      type: "tx_remove_input",
      channel_id: CHANNEL_ID,
      serial_id: 2n,
    }),
  ],
  unknown_output_serial_id: [
    accepter(addInput(2n, COIN), { type: "tx_remove_output", channel_id: CHANNEL_ID, serial_id: 2n }),
  ],
  too_many_inputs: [accepter(...manyInputs(253), FUNDING, COMPLETE)],
  too_many_outputs: [
    accepter(
      addInput(0n, coin(2, 1_000_000n)),
      FUNDING,
      ...Array.from({ length: 252 }, (_, i) => addOutput(BigInt(2 * i + 6), 400n, CHANGE)),
      COMPLETE,
    ),
  ],
  weight_too_large: [{
    state: session({
      role: "initiator",
      feerate: feerate(253),
      contributions: { local: sat(200_000), remote: sat(0) },
      inputs: [{ ...coin(9, 400_000n), witnessWeight: weight(400_000) }],
    }),
    events: [{ type: "start" }, received(COMPLETE), received(COMPLETE)],
  }],
  funding_output_missing: [
    accepter(GOOD[0]!, GOOD[1]!, COMPLETE),
    accepter(...GOOD.slice(0, 3), {
      type: "tx_remove_output",
      channel_id: CHANNEL_ID,
      serial_id: 4n,
    }, COMPLETE),
  ],
  funding_output_duplicate: [
    accepter(addInput(0n, coin(2, 900_000n)), FUNDING, { ...FUNDING, serial_id: 6n }, COMPLETE),
    accepter(addInput(0n, coin(2, 900_000n)), FUNDING, addOutput(6n, 400n, FUNDING_SCRIPT), COMPLETE),
  ],
  funding_output_amount: [
    accepter(GOOD[0]!, GOOD[1]!, { ...FUNDING, sats: 199_999n }, COMPLETE),
    accepter(GOOD[0]!, { ...FUNDING, sats: 200_001n }, COMPLETE),
  ],
  total_overflow: [
    accepter(addInput(0n, coin(2, MAX_SAT)), addInput(2n, coin(3, MAX_SAT)), FUNDING, COMPLETE),
    accepter(addInput(0n, COIN), addOutput(2n, MAX_SAT, CHANGE), FUNDING, COMPLETE),
  ],
  peer_inputs_insufficient: [
    accepter(addInput(0n, coin(2, 199_999n)), FUNDING, COMPLETE),
    accepter(FUNDING, COMPLETE),
    accepter(GOOD[0]!, addOutput(2n, 100_001n, CHANGE), FUNDING, COMPLETE),
    {
      // The accepter promised 50,000 sat and adds nothing.
      state: session({
        role: "initiator",
        contributions: { local: sat(200_000), remote: sat(50_000) },
        inputs: [COIN],
      }),
      events: [{ type: "start" }, received(COMPLETE), received(COMPLETE)],
    },
  ],
  peer_fee_too_low: [
    accepter(GOOD[0]!, addOutput(2n, EXACT_CHANGE + 1n, CHANGE), FUNDING, COMPLETE),
    accepter(addInput(0n, coin(2, 200_000n)), FUNDING, COMPLETE),
    {
      // An accepter's input and change weigh 395.
      state: session({
        role: "initiator",
        contributions: { local: sat(200_000), remote: sat(0) },
        inputs: [COIN],
      }),
      events: [
        { type: "start" },
        received(addInput(1n, coin(2, 10_000n))),
        received(addOutput(3n, 10_000n - 394n, CHANGE)),
        received(COMPLETE),
      ],
    },
  ],
  own_inputs_insufficient: [{
    state: contributor(),
    events: [
      received(GOOD[0]!),
      received(GOOD[1]!),
      { type: "move", move: { type: "remove_input", serialId: 1n } },
      received({ ...FUNDING, sats: 250_000n }),
      received(COMPLETE),
    ],
  }],
  does_not_replace: [{
    state: session({
      previousAttempts: [attempt({ inputs: { local: [], remote: [{ txid: CHANNEL_ID, vout: 0 }] } })],
    }),
    events: GOOD.map(received),
  }, {
    // Replaces the last attempt, not the one before.
    state: session({
      previousAttempts: [
        attempt({ feerate: feerate(253), inputs: { local: [{ txid: CHANNEL_ID, vout: 1 }], remote: [] } }),
        attempt(),
      ],
    }),
    events: GOOD.map(received),
  }],
  fee_below_previous: [{
    state: session({ previousAttempts: [attempt({ fee: sat(610) })] }),
    events: GOOD.map(received),
  }],
  unconfirmed_input: [
    {
      state: session({ requireConfirmedInputs: { byUs: true, byThem: false } }),
      events: [...GOOD.map(received), { type: "confirmed", results: [] }],
    },
    {
      state: session({ requireConfirmedInputs: { byUs: true, byThem: false } }),
      events: [...GOOD.map(received), {
        type: "confirmed",
        results: [{ outpoint: { txid: parsed(COIN.prevtx).txid, vout: 0 }, confirmed: false }],
      }],
    },
    {
      state: session({ requireConfirmedInputs: { byUs: true, byThem: false } }),
      events: [...GOOD.map(received), {
        type: "confirmed",
        results: [{ outpoint: { txid: CHANNEL_ID, vout: 0 }, confirmed: true }],
      }],
    },
  ],
};

for (const [type, scenarios] of Object.entries(SCENARIOS)) {
  Deno.test(`interactive session fails: ${type}`, () => {
    for (const { state, events } of scenarios) {
      const run = feed(state, events);
      const failures = run.actions.map((actions) => actions.filter((action) => action.type === "fail"));
      assert.deepEqual(failures.slice(0, -1).flat(), []);
      const [failure] = failures.at(-1)!;
      assert(failure !== undefined);
      assert.equal(failure.failure.type, type);
      assert.equal(run.actions.at(-1)!.length, 1, "nothing else is done, nothing is sent");
      assert.equal(run.state.phase, "failed");
      assert.match(failure.abort, /^[\x20-\x7e]+$/);
      assert.equal(failure.abort, abortText(failure.failure));
      assert.equal(failureBlame(failure.failure), type === "own_inputs_insufficient" ? "us" : "peer");
      // What was on the way stays without an answer, whatever it is.
      for (const message of GOOD) {
        const after = stepSession(run.state, received(message));
        assert.deepEqual(after, { state: run.state, actions: [] });
      }
    }
  });
}

Deno.test("the limits themselves are still good", () => {
  const [add] = manyInputs(1);
  const remove: InteractiveMessage = { type: "tx_remove_input", channel_id: CHANNEL_ID, serial_id: 0n };
  const rounds = Array.from({ length: 4094 }, () => [received(add!), received(remove)]).flat();
  const limited = feed(session(), [...rounds, ...GOOD.map(received)]);
  assert.equal(limited.state.phase, "completed");
  assert.equal(limited.state.addInputsReceived, 4095);

  const inputs = manyInputs(252);
  const outputs = Array.from({ length: 251 }, (_, i) => addOutput(BigInt(2 * i + 6), 354n, CHANGE));
  const full = feed(session(), [...inputs, ...outputs, FUNDING, COMPLETE].map(received));
  assert.equal(full.state.phase, "completed");
  assert.equal(full.state.completed?.inputs.length, 252);
  assert.equal(full.state.completed?.outputs.length, 252);

  const highest = addInput(0n, COIN, { sequence: 0xffff_fffd });
  const accepted = feed(session(), [highest, ...GOOD.slice(1)].map(received));
  assert.equal(accepted.state.phase, "completed");
  const sameFee = session({ previousAttempts: [attempt({ fee: sat(609) })] });
  assert.equal(feed(sameFee, GOOD.map(received)).state.phase, "completed");
  const maxMoney = feed(session(), [received(addOutput(2n, MAX_SAT, CHANGE))]);
  assert.equal(maxMoney.state.phase, "negotiating");
});

Deno.test("outputs to P2WPKH, P2WSH, P2TR and later witness versions are taken", () => {
  const scripts = [
    coinScript("p2wpkh", 1),
    coinScript("p2wsh", 1),
    coinScript("p2tr", 1),
    hexToBytes("51024e73"),
    Uint8Array.of(0x60, 40, ...new Uint8Array(40)),
  ];
  for (const script of scripts) {
    const { state } = feed(session(), [received(addOutput(2n, 354n, script))]);
    assert.equal(state.phase, "negotiating");
    assert.equal(state.outputs.length, 1);
  }
});

Deno.test("a peer that rounds its fee down is one satoshi short and still taken", () => {
  // 609 weight at 253 sat/kw is 154.077 sat: 155 by appendix G, 154 rounded down.
  const at = (fee: bigint) =>
    feed(
      session({ feerate: feerate(253) }),
      [GOOD[0]!, addOutput(2n, 100_000n - fee, CHANGE), FUNDING, COMPLETE].map(received),
    ).state.phase;
  assert.equal(at(154n), "completed");
  assert.equal(at(153n), "failed");
});
