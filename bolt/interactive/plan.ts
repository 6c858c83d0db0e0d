/** What it costs to take part in a funding transaction, and what comes back (BOLT 3, appendix G). */
import { err, ok, type Result } from "bolt/result.ts";
import type { TxOutput } from "bolt/tx/transaction.ts";
import { type FeeratePerKw, isSat, type Sat, sat } from "bolt/units.ts";
import { total } from "bolt/interactive/complete.ts";
import { ownFee } from "bolt/interactive/fees.ts";
import { MAX_SEQUENCE } from "bolt/interactive/limits.ts";
import type { PlannedInput, SessionParams } from "bolt/interactive/types.ts";

/** What a contribution is planned from. */
export interface PlanRequest {
  readonly role: SessionParams["role"];
  readonly feerate: FeeratePerKw;
  /** What goes into the channel; the accepter may put in nothing. */
  readonly contribution: Sat;
  /** For its length only: any P2WSH script does while the peer's key is not known. */
  readonly fundingScript: Uint8Array;
  /** All of them are spent. */
  readonly utxos: readonly Omit<PlannedInput, "sequence">[];
  readonly changeScript: Uint8Array;
  /** The higher of both sides' dust limits. */
  readonly dustLimit: Sat;
}

/** Our part of a session, and its price. */
export interface ContributionPlan {
  readonly inputs: readonly PlannedInput[];
  /** The change, or nothing. */
  readonly outputs: readonly TxOutput[];
  /** What we pay: exact with change, else with what was too little for change. */
  readonly fee: Sat;
}

/** Why no plan is possible. */
export type ContributionFailure =
  /** The outputs fall short by this much. */
  | { readonly type: "insufficient"; readonly missing: Sat }
  /** Amounts that add up to more than all bitcoin. */
  | { readonly type: "amount_overflow" };

/** The inputs and change for a contribution: pays the exact fee of our share, and no output below the dust limit. */
export function planContribution(request: PlanRequest): Result<ContributionPlan, ContributionFailure> {
  const { feerate, contribution, utxos, changeScript } = request;
  const initiator = request.role === "initiator";
  const paid = total(utxos.map((utxo) => utxo.amount));
  if (!isSat(paid)) return err({ type: "amount_overflow" });
  const funding = initiator ? [{ script: request.fundingScript }] : [];
  const leastFee = ownFee(feerate, { initiator, inputs: utxos, outputs: funding });
  const rest = paid - contribution;
  if (rest < leastFee) {
    const missing = leastFee - rest;
    return isSat(missing) ? err({ type: "insufficient", missing }) : err({ type: "amount_overflow" });
  }
  const inputs = utxos.map((utxo) => ({ ...utxo, sequence: MAX_SEQUENCE }));
  const feeWithChange = ownFee(feerate, {
    initiator,
    inputs: utxos,
    outputs: [...funding, { script: changeScript }],
  });
  const change = rest - feeWithChange;
  if (change < request.dustLimit) return ok({ inputs, outputs: [], fee: sat(rest) });
  return ok({ inputs, outputs: [{ amount: sat(change), script: changeScript }], fee: feeWithChange });
}
