/** Plans of lightningd as the machine knows them. */
import type { Plan, WalletKeyPath } from "bolt/dualopen/types.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { sat, weight } from "bolt/units.ts";
import { requireBytes, requireField } from "common/grpc/check.ts";
import { invalidArgument } from "common/grpc/errors.ts";
import type { Plan as PlanMessage } from "gen/arcus/lightningd/v1/lightningd_pb.ts";

const TXID_LENGTH = 32;

/** Answers, in order, which of our planned inputs are in a block. */
export type ConfirmedInputs = (outpoints: readonly OutPoint[]) => Promise<readonly boolean[]>;

function keyOf(
  item: { readonly change?: boolean | undefined; readonly keyIndex?: number | undefined },
): WalletKeyPath | undefined {
  const { change, keyIndex } = item;
  if (change === undefined && keyIndex === undefined) return undefined;
  return { change: requireField(change, "change"), index: requireField(keyIndex, "key_index") };
}

/** The plan, with what the chain says of its inputs (a peer may demand confirmed ones). Throws ArcusError. */
export async function readPlan(
  message: PlanMessage | undefined,
  confirmedInputs: ConfirmedInputs,
): Promise<Plan> {
  const plan = requireField(message, "plan");
  const outpoints = plan.inputs.map((input): OutPoint => {
    const outpoint = requireField(input.outpoint, "plan.inputs.outpoint");
    return {
      txid: requireBytes(outpoint.txid, TXID_LENGTH, "plan.inputs.outpoint.txid"),
      vout: outpoint.vout,
    };
  });
  const confirmed = outpoints.length === 0 ? [] : await confirmedInputs(outpoints);
  try {
    return {
      contribution: sat(plan.contributionSat),
      maxFee: sat(plan.maxFeeSat),
      inputs: plan.inputs.map((input, index) => {
        const outpoint = requireField(outpoints[index], "plan.inputs.outpoint");
        const key = keyOf(input);
        return {
          prevtx: input.prevtx,
          vout: outpoint.vout,
          sequence: input.sequence,
          amount: sat(input.amountSat),
          script: input.script,
          witnessWeight: weight(input.witnessWeight),
          confirmed: confirmed[index] === true,
          outpoint,
          ...(key === undefined ? {} : { key }),
        };
      }),
      outputs: plan.outputs.map((output) => {
        const key = keyOf(output);
        return {
          amount: sat(output.amountSat),
          script: output.script,
          ...(key === undefined ? {} : { key }),
        };
      }),
    };
  } catch (error) {
    if (error instanceof RangeError) throw invalidArgument("BAD_PLAN", error.message);
    throw error;
  }
}
