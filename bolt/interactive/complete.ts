/** Building the agreed transaction and judging it as a whole (BOLT 2, tx_complete). */
import { err, ok, type Result } from "bolt/result.ts";
import { findFundingOutput } from "bolt/tx/funding.ts";
import { compareBytes, makeTransaction, sameOutPoint, txidOf } from "bolt/tx/transaction.ts";
import { MAX_STANDARD_TX_WEIGHT } from "bolt/tx/weights.ts";
import { isSat, type Sat, sat } from "bolt/units.ts";
import type { InteractiveFailure } from "bolt/interactive/failures.ts";
import { leastPeerFee, ownFee, sideWeight } from "bolt/interactive/fees.ts";
import { MAX_INPUTS, MAX_OUTPUTS } from "bolt/interactive/limits.ts";
import type {
  CompletedTx,
  KeptParams,
  PerSide,
  SessionInput,
  SessionOutput,
  Side,
} from "bolt/interactive/types.ts";

/** The side that initiated a session with these parameters. */
export function initiatorOf(params: Pick<KeptParams, "role">): Side {
  return params.role === "initiator" ? "local" : "remote";
}

/** Sum of amounts, unchecked: may exceed all bitcoin. */
export function total(amounts: readonly Sat[]): bigint {
  return amounts.reduce<bigint>((sum, amount) => sum + amount, 0n);
}

function bySerialId(a: { readonly serialId: bigint }, b: { readonly serialId: bigint }): number {
  return a.serialId < b.serialId ? -1 : a.serialId > b.serialId ? 1 : 0;
}

/** What a side takes in and puts out, besides the funding output. */
function flow(
  side: Side,
  inputs: readonly SessionInput[],
  outputs: readonly SessionOutput[],
  funding: SessionOutput,
) {
  return {
    in: total(inputs.filter((input) => input.side === side).map((input) => input.amount)),
    out: total(
      outputs.filter((output) => output.side === side && output !== funding).map((output) => output.amount),
    ),
  };
}

/** The side whose signatures come first: its inputs are worth less, or as much and its node id is the lesser one. */
function firstSigner(totals: PerSide<bigint>, nodeIds: PerSide<Uint8Array>): Side {
  if (totals.local !== totals.remote) return totals.local < totals.remote ? "local" : "remote";
  return compareBytes(nodeIds.local, nodeIds.remote) < 0 ? "local" : "remote";
}

/** The index of the one output that pays the funding script with the agreed amount. */
function findFunding(
  params: KeptParams,
  outputs: readonly SessionOutput[],
): Result<number, InteractiveFailure> {
  const expected = sat(params.contributions.local + params.contributions.remote);
  const found = findFundingOutput(outputs, params.fundingScript, expected);
  if (found.ok) return found;
  switch (found.error.type) {
    case "no_funding_output":
      return err({ type: "funding_output_missing" });
    case "several_funding_outputs":
      // With two, the peer could sign one commitment on each.
      return err({ type: "funding_output_duplicate" });
    case "wrong_funding_amount":
      return err({ type: "funding_output_amount", amount: found.error.amount, expected });
  }
}

/** What a replacement must do to the attempts before it (BOLT 2, RBF); undefined if it does. */
function checkReplaces(
  params: KeptParams,
  inputs: readonly SessionInput[],
  fee: Sat,
): InteractiveFailure | undefined {
  for (const [attempt, previous] of params.previousAttempts.entries()) {
    const spent = [...previous.inputs.local, ...previous.inputs.remote];
    // Otherwise both could be mined, and one of them be a channel that nobody watches.
    if (!inputs.some((input) => spent.some((outpoint) => sameOutPoint(outpoint, input.outpoint)))) {
      return { type: "does_not_replace", attempt };
    }
  }
  const last = params.previousAttempts.at(-1);
  if (last !== undefined && fee < last.fee) return { type: "fee_below_previous", fee, previous: last.fee };
  return undefined;
}

/** Builds the transaction of everything that both sides added, if it keeps every rule. */
export function completeTransaction(
  params: KeptParams,
  inputs: readonly SessionInput[],
  outputs: readonly SessionOutput[],
): Result<CompletedTx, InteractiveFailure> {
  if (inputs.length > MAX_INPUTS) return err({ type: "too_many_inputs" });
  if (outputs.length > MAX_OUTPUTS) return err({ type: "too_many_outputs" });
  const sortedInputs = inputs.toSorted(bySerialId);
  const sortedOutputs = outputs.toSorted(bySerialId);
  const found = findFunding(params, sortedOutputs);
  if (!found.ok) return found;
  const funding = sortedOutputs[found.value]!;

  const local = flow("local", inputs, outputs, funding);
  const remote = flow("remote", inputs, outputs, funding);
  if (!isSat(local.in + remote.in) || !isSat(local.out + remote.out + funding.amount)) {
    return err({ type: "total_overflow" });
  }
  const localFee = local.in - local.out - params.contributions.local;
  const remoteFee = remote.in - remote.out - params.contributions.remote;
  if (remoteFee < 0n) return err({ type: "peer_inputs_insufficient", missing: sat(-remoteFee) });

  const initiator = initiatorOf(params);
  const share = (side: Side) => ({
    initiator: side === initiator,
    inputs: inputs.filter((input) => input.side === side),
    outputs: outputs.filter((output) => output.side === side),
  });
  const remoteWeight = sideWeight(share("remote"));
  const weight = sideWeight(share("local")) + remoteWeight;
  if (weight > MAX_STANDARD_TX_WEIGHT) return err({ type: "weight_too_large", weight });
  const leastRemote = leastPeerFee(params.feerate, remoteWeight);
  if (remoteFee < leastRemote) {
    return err({ type: "peer_fee_too_low", fee: sat(remoteFee), minimum: leastRemote });
  }
  const leastLocal = ownFee(params.feerate, share("local"));
  if (localFee < leastLocal) {
    return err({ type: "own_inputs_insufficient", missing: sat(leastLocal - localFee) });
  }
  const fees = { local: sat(localFee), remote: sat(remoteFee) };
  const failure = checkReplaces(params, inputs, sat(fees.local + fees.remote));
  if (failure !== undefined) return err(failure);

  const tx = makeTransaction({ locktime: params.locktime, inputs: sortedInputs, outputs: sortedOutputs });
  return ok({
    channelId: params.channelId,
    initiator,
    feerate: params.feerate,
    locktime: params.locktime,
    unsignedTx: tx.toBuffer(),
    txid: txidOf(tx),
    inputs: sortedInputs,
    outputs: sortedOutputs.map((output) => output === funding ? { ...output, side: "shared" } : output),
    fundingOutputIndex: found.value,
    contributions: params.contributions,
    fees,
    signsFirst: firstSigner({ local: local.in, remote: remote.in }, params.nodeIds),
  });
}
