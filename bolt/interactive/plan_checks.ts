/** Checks of our own part before a word of it is said. */
import { err, ok, type Result } from "bolt/result.ts";
import { isWitnessProgram } from "bolt/tx/scripts.ts";
import { parseTransaction } from "bolt/tx/parse.ts";
import { type OutPoint, sameBytes, type TxOutput } from "bolt/tx/transaction.ts";
import type { PlanFailure } from "bolt/interactive/failures.ts";
import { MAX_SEQUENCE } from "bolt/interactive/limits.ts";
import { acceptableOutputScript } from "bolt/interactive/output_scripts.ts";
import type { KeptParams, PlannedInput } from "bolt/interactive/types.ts";
import type { Sat } from "bolt/units.ts";

/** The limit that bounds our outputs: both sides' relay rules must take them. */
export function ownDustLimit(params: KeptParams): Sat {
  const { local, remote } = params.dustLimits;
  return local > remote ? local : remote;
}

/** Whether an input may be offered to the peer; yields its outpoint. `index` is for the failure only. */
export function checkPlannedInput(
  params: KeptParams,
  input: PlannedInput,
  index: number,
): Result<OutPoint, PlanFailure> {
  const parsed = parseTransaction(input.prevtx);
  if (!parsed.ok) {
    return err({
      type: parsed.error.type === "too_long" ? "plan_prevtx_too_large" : "plan_bad_prevtx",
      index,
    });
  }
  const prevtx = parsed.value;
  const output = prevtx.outputs[input.vout];
  if (output === undefined || output.amount !== input.amount || !sameBytes(output.script, input.script)) {
    return err({ type: "plan_input_mismatch", index });
  }
  if (!isWitnessProgram(output.script)) return err({ type: "plan_input_not_segwit", index });
  if (!Number.isInteger(input.sequence) || input.sequence < 0 || input.sequence > MAX_SEQUENCE) {
    return err({ type: "plan_bad_sequence", index });
  }
  if (params.requireConfirmedInputs.byThem && !input.confirmed) {
    return err({ type: "plan_unconfirmed_input", index });
  }
  if (params.previousAttempts.some((attempt) => sameBytes(attempt.txid, prevtx.txid))) {
    return err({ type: "plan_spends_previous_attempt", index });
  }
  return ok({ txid: prevtx.txid, vout: input.vout });
}

/** Whether an output of ours is one that every peer takes; undefined if so. */
export function checkPlannedOutput(
  params: KeptParams,
  output: TxOutput,
  index: number,
): PlanFailure | undefined {
  if (output.amount < ownDustLimit(params)) return { type: "plan_output_below_dust", index };
  if (!acceptableOutputScript(output.script) || sameBytes(output.script, params.fundingScript)) {
    return { type: "plan_output_script", index };
  }
  return undefined;
}
