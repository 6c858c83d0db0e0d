/** Which coins of ours go into a funding transaction. Pure. */
import { err, ok, type Result } from "bolt/result.ts";
import { ownFee } from "bolt/interactive/fees.ts";
import { MAX_INPUTS } from "bolt/interactive/limits.ts";
import { type OutPoint, sameOutPoint } from "bolt/tx/transaction.ts";
import { feeCeil, type FeeratePerKw, type Sat, sat } from "bolt/units.ts";
import { inputWeight } from "bolt/tx/weights.ts";
import {
  byAmount,
  type Coin,
  type Demand,
  FUNDING_WITNESS_WEIGHT,
  P2TR_SCRIPT_LENGTH,
  select,
  type Selection,
  type SelectionFailure,
  settle,
} from "./select.ts";

/**
 * Least change in a funding transaction: both sides' dust limits bound our outputs, and the peer's is not known yet.
 * No common implementation announces more than this.
 */
export const FUNDING_CHANGE_LEAST = sat(546);
/** Any script of the funding output's length. */
const FUNDING_SCRIPT = new Uint8Array(34);
const CHANGE_SCRIPT = new Uint8Array(P2TR_SCRIPT_LENGTH);

/** What is planned for. */
export interface FundingRequest {
  readonly role: "initiator" | "accepter";
  readonly feerate: FeeratePerKw;
  readonly amount: Sat | "all";
  readonly maxInputs?: number;
}

/** What our part costs: exactly what `bolt/interactive` will count. */
export function fundingDemand(request: FundingRequest): Demand {
  const initiator = request.role === "initiator";
  const { feerate } = request;
  return {
    feerate,
    amount: request.amount,
    fee: (inputs, change) =>
      ownFee(feerate, {
        initiator,
        inputs: Array.from({ length: inputs }, () => ({ witnessWeight: FUNDING_WITNESS_WEIGHT })),
        outputs: [
          ...(initiator ? [{ script: FUNDING_SCRIPT }] : []),
          ...(change ? [{ script: CHANGE_SCRIPT }] : []),
        ],
      }),
    dust: FUNDING_CHANGE_LEAST,
    inputFee: feeCeil(feerate, inputWeight(FUNDING_WITNESS_WEIGHT)),
    maxInputs: Math.min(MAX_INPUTS, request.maxInputs ?? MAX_INPUTS),
  };
}

/**
 * Coins that an RBF must spend again: all of the newest attempt that had coins of ours, and one of each earlier attempt
 * that shares none with them. So whichever attempt confirms, the others cannot (BOLT 2, tx_init_rbf).
 */
export function mustSpend<C extends Coin>(
  attempts: readonly { readonly ourInputs: readonly OutPoint[] }[],
  coins: readonly C[],
): Result<readonly C[], { readonly type: "lost_input"; readonly attempt: number }> {
  const find = (outpoint: OutPoint) => coins.find((coin) => sameOutPoint(coin.outpoint, outpoint));
  const must: C[] = [];
  for (const [index, attempt] of [...attempts.entries()].reverse()) {
    if (attempt.ourInputs.length === 0) continue;
    const shared = attempt.ourInputs.some((input) => must.some((coin) => sameOutPoint(coin.outpoint, input)));
    if (shared) continue;
    const candidates = attempt.ourInputs.map(find).filter((coin) => coin !== undefined).sort(byAmount);
    const [largest] = candidates;
    if (largest === undefined) return err({ type: "lost_input", attempt: index });
    must.push(...(must.length === 0 ? candidates : [largest]));
  }
  return ok(must);
}

/** Plans an amount that must be met. */
export function planAmount<C extends Coin>(
  must: readonly C[],
  pool: readonly C[],
  request: FundingRequest,
): Result<Selection<C>, SelectionFailure> {
  return select(must, pool, fundingDemand(request));
}

/** Plans with exactly these coins. */
export function planExactly<C extends Coin>(
  coins: readonly C[],
  request: FundingRequest,
): Result<Selection<C>, SelectionFailure> {
  return settle(coins, fundingDemand(request));
}

/** The most that coins can put in after fees, with at most so many inputs. */
export function mostAvailable(
  must: readonly Coin[],
  pool: readonly Coin[],
  request: Omit<FundingRequest, "amount">,
): Sat {
  const all = planAmount(must, pool.toSorted(byAmount), { ...request, amount: "all" });
  return all.ok ? all.value.amount : sat(0);
}
