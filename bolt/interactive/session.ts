/**
 * An interactive transaction session (BOLT 2, interactive transaction construction) as a pure machine: both sides add
 * and remove inputs and outputs in turns until each says tx_complete right after the other.
 *
 * `createSession` judges our own part; `stepSession` takes what happens and says what to do. The peer's part is judged
 * message by message, and as a whole before our last tx_complete leaves.
 */
import { err, ok, type Result } from "bolt/result.ts";
import { parseTransaction } from "bolt/tx/parse.ts";
import { isWitnessProgram } from "bolt/tx/scripts.ts";
import { type OutPoint, sameBytes, sameOutPoint, type TxOutput } from "bolt/tx/transaction.ts";
import { isSat, sat } from "bolt/units.ts";
import { completeTransaction, initiatorOf, total } from "bolt/interactive/complete.ts";
import { abortText, type InteractiveFailure, type PlanFailure } from "bolt/interactive/failures.ts";
import { leastWitnessWeight, ownFee, ownWitnessWeight } from "bolt/interactive/fees.ts";
import { ADD_MESSAGES_REFUSED_AT, MAX_INPUTS, MAX_OUTPUTS, MAX_SEQUENCE } from "bolt/interactive/limits.ts";
import { acceptableOutputScript } from "bolt/interactive/output_scripts.ts";
import { checkPlannedInput, checkPlannedOutput, ownDustLimit } from "bolt/interactive/plan_checks.ts";
import { leastOwnRbfFeerate, leastPeerRbfFeerate } from "bolt/interactive/rbf.ts";
import { ownSerialIds, serialIdIsInitiators } from "bolt/interactive/serial_ids.ts";
import type {
  ConfirmedResult,
  InteractiveMessage,
  KeptParams,
  Move,
  PlannedInput,
  QueuedMove,
  SessionAction,
  SessionInput,
  SessionInputEvent,
  SessionOutput,
  SessionParams,
  SessionState,
} from "bolt/interactive/types.ts";
import type { TxAddInput, TxAddOutput } from "bolt/wire/messages.ts";

/** What a step yields. */
export interface Step {
  readonly state: SessionState;
  readonly actions: readonly SessionAction[];
}

/**
 * A session that is ready to speak or to listen, or why our own part cannot be negotiated. The initiator's funding
 * output is added here. An initiator's session waits for `start`, an accepter's for the first message.
 */
export function createSession(params: SessionParams): Result<SessionState, PlanFailure> {
  const { inputs, outputs, serialIds, ...kept } = params;
  const initiator = params.role === "initiator";
  const fundingAmount = params.contributions.local + params.contributions.remote;
  if (!isSat(fundingAmount)) return err({ type: "plan_amount_overflow" });
  if (fundingAmount < ownDustLimit(kept)) return err({ type: "plan_funding_below_dust" });
  const last = params.previousAttempts.at(-1);
  if (last !== undefined) {
    const minimum = initiator ? leastOwnRbfFeerate(last.feerate) : leastPeerRbfFeerate(last.feerate);
    if (params.feerate < minimum) return err({ type: "plan_feerate_too_low", minimum });
  }
  const outputCount = outputs.length + (initiator ? 1 : 0);
  if (inputs.length > MAX_INPUTS || outputCount > MAX_OUTPUTS) return err({ type: "plan_too_many_items" });
  const ids = ownSerialIds(serialIds, params.role, inputs.length + outputCount);
  if (!ids.ok) return ids;

  const queue: QueuedMove[] = [];
  const outpoints: OutPoint[] = [];
  for (const [index, input] of inputs.entries()) {
    const outpoint = checkPlannedInput(kept, input, index);
    if (!outpoint.ok) return outpoint;
    if (outpoints.some((other) => sameOutPoint(other, outpoint.value))) {
      return err({ type: "plan_duplicate_input", index });
    }
    outpoints.push(outpoint.value);
    queue.push({ type: "add_input", serialId: ids.value[index]!, input, outpoint: outpoint.value });
  }
  for (const [index, output] of outputs.entries()) {
    const failure = checkPlannedOutput(kept, output, index);
    if (failure !== undefined) return err(failure);
    queue.push({ type: "add_output", serialId: ids.value[inputs.length + index]!, output });
  }
  const funding = { amount: fundingAmount, script: params.fundingScript };
  if (initiator) queue.push({ type: "add_output", serialId: ids.value.at(-1)!, output: funding });

  const failure = checkPlanPays(params, initiator ? [...outputs, funding] : outputs) ??
    checkPlanReplaces(kept, outpoints);
  if (failure !== undefined) return err(failure);
  return ok({
    params: kept,
    phase: initiator ? "created" : "negotiating",
    queue,
    inputs: [],
    outputs: [],
    sentComplete: false,
    addInputsReceived: 0,
    addOutputsReceived: 0,
    completed: null,
  });
}

/** Whether our inputs cover our contribution, outputs and fee. `outputs` with the funding output if it is ours to add. */
function checkPlanPays(
  params: SessionParams,
  outputs: readonly TxOutput[],
): PlanFailure | undefined {
  const paid = total(params.inputs.map((input) => input.amount));
  const out = total(params.outputs.map((output) => output.amount)) + params.contributions.local;
  if (!isSat(paid) || !isSat(out)) return { type: "plan_amount_overflow" };
  const fee = ownFee(params.feerate, {
    initiator: params.role === "initiator",
    inputs: params.inputs,
    outputs,
  });
  return paid < out + fee ? { type: "plan_insufficient", missing: sat(out + fee - paid) } : undefined;
}

/** Whether our inputs double-spend each attempt that we had inputs in; a side without inputs leaves that to the other. */
function checkPlanReplaces(params: KeptParams, outpoints: readonly OutPoint[]): PlanFailure | undefined {
  if (outpoints.length === 0) return undefined;
  const attempt = params.previousAttempts.findIndex(({ inputs }) =>
    inputs.local.length > 0 && !inputs.local.some((spent) => outpoints.some((o) => sameOutPoint(o, spent)))
  );
  return attempt < 0 ? undefined : { type: "plan_misses_attempt", attempt };
}

/** Lets something happen to a session. Never throws at what a peer says; a finished session stays as it is. */
export function stepSession(state: SessionState, event: SessionInputEvent): Step {
  switch (event.type) {
    case "start":
      return state.phase === "created" ? speak(state, false) : { state, actions: [] };
    case "message":
      return receive(state, event.message);
    case "move":
      return plan(state, event.move);
    case "confirmed":
      return confirmed(state, event.results);
  }
}

function fail(state: SessionState, failure: InteractiveFailure): Step {
  return {
    state: { ...state, phase: "failed", queue: [], completed: null },
    actions: [{ type: "fail", failure, abort: abortText(failure) }],
  };
}

/** Our turn: the next of our moves, or tx_complete. */
function speak(state: SessionState, peerComplete: boolean): Step {
  const channel_id = state.params.channelId;
  const [move, ...queue] = state.queue;
  if (move === undefined) {
    const message: InteractiveMessage = { type: "tx_complete", channel_id };
    const next: SessionState = { ...state, phase: "negotiating", sentComplete: true };
    return peerComplete ? finish(next, [{ type: "send", message }]) : {
      state: next,
      actions: [{ type: "send", message }],
    };
  }
  const next: SessionState = { ...state, phase: "negotiating", queue, sentComplete: false };
  const send = (changed: SessionState, message: InteractiveMessage): Step => ({
    state: changed,
    actions: [{ type: "send", message }],
  });
  const serial_id = move.serialId;
  switch (move.type) {
    case "add_input": {
      const { prevtx, vout, sequence } = move.input;
      return send({ ...next, inputs: [...state.inputs, ownInput(serial_id, move.input, move.outpoint)] }, {
        type: "tx_add_input",
        channel_id,
        serial_id,
        prevtx,
        prevtx_vout: vout,
        sequence,
      });
    }
    case "add_output": {
      const { amount, script } = move.output;
      const output: SessionOutput = { serialId: serial_id, side: "local", amount, script };
      return send({ ...next, outputs: [...state.outputs, output] }, {
        type: "tx_add_output",
        channel_id,
        serial_id,
        sats: amount,
        script,
      });
    }
    case "remove_input":
      return send({ ...next, inputs: without(state.inputs, "local", serial_id) }, {
        type: "tx_remove_input",
        channel_id,
        serial_id,
      });
    case "remove_output":
      return send({ ...next, outputs: without(state.outputs, "local", serial_id) }, {
        type: "tx_remove_output",
        channel_id,
        serial_id,
      });
  }
}

function ownInput(serialId: bigint, input: PlannedInput, outpoint: OutPoint): SessionInput {
  const { amount, script, sequence, witnessWeight } = input;
  return {
    serialId,
    side: "local",
    outpoint,
    amount,
    script,
    sequence,
    witnessWeight: ownWitnessWeight(witnessWeight),
  };
}

function without<T extends SessionInput | SessionOutput>(
  items: readonly T[],
  side: T["side"],
  id: bigint,
): T[] {
  return items.filter((item) => item.side !== side || item.serialId !== id);
}

function has(
  items: readonly (SessionInput | SessionOutput)[],
  side: SessionInput["side"],
  id: bigint,
): boolean {
  return items.some((item) => item.side === side && item.serialId === id);
}

/** The peer's turn. */
function receive(state: SessionState, message: InteractiveMessage): Step {
  switch (state.phase) {
    case "failed":
      // What was under way when our tx_abort left.
      return { state, actions: [] };
    case "created":
      return fail(state, { type: "out_of_turn" });
    case "checking_confirmed":
    case "completed":
      return fail(state, { type: "session_over" });
    case "negotiating":
      break;
  }
  if (!sameBytes(message.channel_id, state.params.channelId)) return fail(state, { type: "wrong_channel" });
  if (message.type === "tx_complete") return state.sentComplete ? finish(state, []) : speak(state, true);
  const serialId = message.serial_id;
  if (serialIdIsInitiators(serialId) !== (initiatorOf(state.params) === "remote")) {
    return fail(state, { type: "serial_id_parity", serialId });
  }
  switch (message.type) {
    case "tx_add_input": {
      const count = state.addInputsReceived + 1;
      const input = checkAddInput(state, message, count);
      if (!input.ok) return fail(state, input.error);
      return speak({ ...state, inputs: [...state.inputs, input.value], addInputsReceived: count }, false);
    }
    case "tx_add_output": {
      const count = state.addOutputsReceived + 1;
      const output = checkAddOutput(state, message, count);
      if (!output.ok) return fail(state, output.error);
      return speak({ ...state, outputs: [...state.outputs, output.value], addOutputsReceived: count }, false);
    }
    case "tx_remove_input":
      if (!has(state.inputs, "remote", serialId)) {
        return fail(state, { type: "unknown_input_serial_id", serialId });
      }
      return speak({ ...state, inputs: without(state.inputs, "remote", serialId) }, false);
    case "tx_remove_output":
      if (!has(state.outputs, "remote", serialId)) {
        return fail(state, { type: "unknown_output_serial_id", serialId });
      }
      return speak({ ...state, outputs: without(state.outputs, "remote", serialId) }, false);
  }
}

/** BOLT 2, tx_add_input: the receiver's rules. Amount and script come from `prevtx` alone, which its hash vouches for. */
function checkAddInput(
  state: SessionState,
  message: TxAddInput,
  count: number,
): Result<SessionInput, InteractiveFailure> {
  const serialId = message.serial_id;
  if (count >= ADD_MESSAGES_REFUSED_AT) return err({ type: "too_many_tx_add_input" });
  if (has(state.inputs, "remote", serialId)) return err({ type: "duplicate_serial_id", serialId });
  if (message.shared_input_txid !== undefined) return err({ type: "shared_input_refused", serialId });
  if (message.prevtx.length === 0) return err({ type: "prevtx_missing", serialId });
  if (message.sequence > MAX_SEQUENCE) return err({ type: "non_replaceable_sequence", serialId });
  const prevtx = parseTransaction(message.prevtx);
  if (!prevtx.ok) {
    return err({
      type: prevtx.error.type === "bad_amount" ? "prevtx_amount_impossible" : "prevtx_invalid",
      serialId,
    });
  }
  const output = prevtx.value.outputs[message.prevtx_vout];
  if (output === undefined) return err({ type: "prevtx_vout_out_of_range", serialId });
  const { amount } = output;
  // A copy: the parser's script may be a view that would keep the whole prevtx in memory and in the stored state.
  const script = output.script.slice();
  if (!isWitnessProgram(script)) return err({ type: "input_not_segwit", serialId });
  const outpoint = { txid: prevtx.value.txid, vout: message.prevtx_vout };
  // An outpoint that we are about to add counts as ours: it cannot be the peer's.
  if (usesOutpoint(state, outpoint)) return err({ type: "duplicate_input", serialId });
  if (state.params.previousAttempts.some((attempt) => sameBytes(attempt.txid, outpoint.txid))) {
    return err({ type: "spends_previous_attempt", serialId });
  }
  return ok({
    serialId,
    side: "remote",
    outpoint,
    amount,
    script,
    sequence: message.sequence,
    witnessWeight: leastWitnessWeight(script),
  });
}

/** Whether an outpoint is in the transaction or about to be put in by us. */
function usesOutpoint(state: SessionState, outpoint: OutPoint): boolean {
  return state.inputs.some((input) => sameOutPoint(input.outpoint, outpoint)) ||
    state.queue.some((move) => move.type === "add_input" && sameOutPoint(move.outpoint, outpoint));
}

/** BOLT 2, tx_add_output: the receiver's rules. */
function checkAddOutput(
  state: SessionState,
  message: TxAddOutput,
  count: number,
): Result<SessionOutput, InteractiveFailure> {
  const { serial_id: serialId, sats, script } = message;
  if (count >= ADD_MESSAGES_REFUSED_AT) return err({ type: "too_many_tx_add_output" });
  if (has(state.outputs, "remote", serialId)) return err({ type: "duplicate_serial_id", serialId });
  if (!isSat(sats)) return err({ type: "output_above_max_money", serialId });
  if (sats < state.params.dustLimits.local) return err({ type: "output_below_dust", serialId });
  if (!acceptableOutputScript(script)) return err({ type: "output_script_refused", serialId });
  return ok({ serialId, side: "remote", amount: sats, script });
}

/** Both said tx_complete: judges the whole. `before` is what is to be sent only if it is good. */
function finish(state: SessionState, before: readonly SessionAction[]): Step {
  const built = completeTransaction(state.params, state.inputs, state.outputs);
  if (!built.ok) return fail(state, built.error);
  const completed = built.value;
  const outpoints = completed.inputs.filter((input) => input.side === "remote").map((input) =>
    input.outpoint
  );
  if (state.params.requireConfirmedInputs.byUs && outpoints.length > 0) {
    return {
      state: { ...state, phase: "checking_confirmed", completed },
      actions: [...before, { type: "check_confirmed", outpoints }],
    };
  }
  return {
    state: { ...state, phase: "completed", completed },
    actions: [...before, { type: "complete", tx: completed }],
  };
}

/** The chain's answer; an outpoint that it says nothing of is not confirmed. */
function confirmed(state: SessionState, results: readonly ConfirmedResult[]): Step {
  if (state.phase !== "checking_confirmed" || state.completed === null) return { state, actions: [] };
  const missing = state.completed.inputs.find((input) =>
    input.side === "remote" &&
    !results.some((result) => result.confirmed && sameOutPoint(result.outpoint, input.outpoint))
  );
  if (missing !== undefined) return fail(state, { type: "unconfirmed_input", serialId: missing.serialId });
  return {
    state: { ...state, phase: "completed" },
    actions: [{ type: "complete", tx: state.completed }],
  };
}

/** A change of our part: checked now, said at our next turn. */
function plan(state: SessionState, move: Move): Step {
  const checked = checkMove(state, move);
  if (!checked.ok) return { state, actions: [{ type: "move_refused", failure: checked.error }] };
  return { state: { ...state, queue: [...state.queue, checked.value] }, actions: [] };
}

/** Our items as they will be when the queue is said. */
function planned(state: SessionState, kind: "input" | "output"): Set<bigint> {
  const present: readonly (SessionInput | SessionOutput)[] = kind === "input" ? state.inputs : state.outputs;
  const ids = new Set(present.filter((item) => item.side === "local").map((item) => item.serialId));
  for (const move of state.queue) {
    if (move.type === `add_${kind}`) ids.add(move.serialId);
    if (move.type === `remove_${kind}`) ids.delete(move.serialId);
  }
  return ids;
}

function checkMove(state: SessionState, move: Move): Result<QueuedMove, PlanFailure> {
  const { params } = state;
  if (state.phase !== "created" && state.phase !== "negotiating") return err({ type: "plan_too_late" });
  switch (move.type) {
    case "add_input": {
      const ids = ownSerialIds({ type: "given", ids: [move.serialId] }, params.role, 1);
      if (!ids.ok || planned(state, "input").has(move.serialId)) return err({ type: "plan_bad_serial_ids" });
      const outpoint = checkPlannedInput(params, move.input, 0);
      if (!outpoint.ok) return outpoint;
      if (usesOutpoint(state, outpoint.value)) return err({ type: "plan_duplicate_input", index: 0 });
      return ok({ ...move, outpoint: outpoint.value });
    }
    case "add_output": {
      const ids = ownSerialIds({ type: "given", ids: [move.serialId] }, params.role, 1);
      if (!ids.ok || planned(state, "output").has(move.serialId)) return err({ type: "plan_bad_serial_ids" });
      const failure = checkPlannedOutput(params, move.output, 0);
      return failure === undefined ? ok(move) : err(failure);
    }
    case "remove_input":
      return planned(state, "input").has(move.serialId) ? ok(move) : err({ type: "plan_unknown_serial_id" });
    case "remove_output": {
      if (!planned(state, "output").has(move.serialId)) return err({ type: "plan_unknown_serial_id" });
      const queued = state.queue.filter((m) => m.type === "add_output").map((m) => ({
        id: m.serialId,
        ...m.output,
      }));
      const present = state.outputs.filter((o) => o.side === "local").map((o) => ({ id: o.serialId, ...o }));
      const target = [...queued, ...present].find((output) => output.id === move.serialId);
      return target !== undefined && sameBytes(target.script, params.fundingScript)
        ? err({ type: "plan_removes_funding_output" })
        : ok(move);
    }
  }
}
