/** Which coins pay, and what they cost. Pure, deterministic, exact to the satoshi. */
import { err, ok, type Result } from "bolt/result.ts";
import { compareBytes, type OutPoint } from "bolt/tx/transaction.ts";
import { compactSizeLength, MAX_STANDARD_TX_WEIGHT, outputWeight, WITNESS_SCALE } from "bolt/tx/weights.ts";
import { feeCeil, type FeeratePerKw, isSat, type Sat, sat, type Weight, weight } from "bolt/units.ts";

/** Witness of a key path spend in a transaction of ours alone: count, length, 64 byte signature (SIGHASH_DEFAULT). */
export const OWN_WITNESS_WEIGHT = weight(66);
/** Witness of a key path spend in a funding transaction: there our signatures carry the byte of SIGHASH_ALL. */
export const FUNDING_WITNESS_WEIGHT = weight(67);
/** Least amount of a P2TR output that nodes relay. */
export const P2TR_DUST = sat(330);
/** Length of a P2TR scriptPubKey. */
export const P2TR_SCRIPT_LENGTH = 34;
/** Version, locktime; marker and flag. The counts come on top. */
const CORE_BYTES = 8;
const SEGWIT_MARKER_WEIGHT = 2;
/** Outpoint, empty scriptSig with its length, sequence. */
const INPUT_BYTES = 41;

/** A coin as selection sees it. */
export interface Coin {
  readonly outpoint: OutPoint;
  readonly amount: Sat;
}

/** Weight of an input of ours. */
export function ownInputWeight(witness: Weight = OWN_WITNESS_WEIGHT): Weight {
  return weight(WITNESS_SCALE * INPUT_BYTES + witness);
}

/** Weight of a transaction of ours with outputs of these lengths of script. */
export function transactionWeight(inputs: number, scripts: readonly number[]): Weight {
  const core = CORE_BYTES + compactSizeLength(inputs) + compactSizeLength(scripts.length);
  const outputs = scripts.reduce((sum, length) => sum + outputWeight(length), 0);
  return weight(WITNESS_SCALE * core + SEGWIT_MARKER_WEIGHT + inputs * ownInputWeight() + outputs);
}

/** What a selection must pay for. */
export interface Demand {
  readonly feerate: FeeratePerKw;
  /** The one amount, or everything that the coins hold after the fee. */
  readonly amount: Sat | "all";
  /** Fee of a transaction with so many inputs of ours, and change or none. */
  readonly fee: (inputs: number, change: boolean) => Sat;
  /** Change below it becomes fee. */
  readonly dust: Sat;
  /** Cost of one input at the fee rate: a coin that is not worth more is left alone. */
  readonly inputFee: Sat;
  readonly maxInputs: number;
}

/** A selection: `inputs = amount + change + fee`, exactly. */
export interface Selection<C extends Coin> {
  readonly coins: readonly C[];
  readonly amount: Sat;
  /** 0: none. */
  readonly change: Sat;
  readonly fee: Sat;
}

/** Why there is no selection. */
export type SelectionFailure =
  /** With every coin it falls short by this much. */
  | { readonly type: "insufficient"; readonly missing: Sat }
  /** What would be left for `all` is less than an output may hold. */
  | { readonly type: "dust" }
  /** It would take more inputs than allowed. */
  | { readonly type: "too_many_inputs" };

/** What a given set of coins pays. */
export function settle<C extends Coin>(
  coins: readonly C[],
  demand: Demand,
): Result<Selection<C>, SelectionFailure> {
  if (coins.length > demand.maxInputs) return err({ type: "too_many_inputs" });
  const total = coins.reduce<bigint>((sum, coin) => sum + coin.amount, 0n);
  const least = demand.fee(coins.length, false);
  if (demand.amount === "all") {
    const rest = total - least;
    if (rest < demand.dust) return err(rest < 0n ? insufficient(-rest) : { type: "dust" });
    return ok({ coins, amount: sat(rest), change: sat(0), fee: least });
  }
  const rest = total - demand.amount;
  if (rest < least) return err(insufficient(least - rest));
  const withChange = demand.fee(coins.length, true);
  const change = rest - withChange;
  if (change < demand.dust) return ok({ coins, amount: demand.amount, change: sat(0), fee: sat(rest) });
  return ok({ coins, amount: demand.amount, change: sat(change), fee: withChange });
}

function insufficient(missing: bigint): SelectionFailure {
  return { type: "insufficient", missing: isSat(missing) ? missing : sat(0) };
}

/** Larger first; equal ones by outpoint, so that the same coins give the same selection. */
export function byAmount(a: Coin, b: Coin): number {
  if (a.amount !== b.amount) return a.amount > b.amount ? -1 : 1;
  return compareBytes(a.outpoint.txid, b.outpoint.txid) || a.outpoint.vout - b.outpoint.vout;
}

/**
 * Chooses from `pool` on top of `must`. One coin if one suffices, the smallest of them; else the largest ones. `all`
 * takes every coin that is worth its input.
 */
export function select<C extends Coin>(
  must: readonly C[],
  pool: readonly C[],
  demand: Demand,
): Result<Selection<C>, SelectionFailure> {
  const worthy = pool.filter((coin) => coin.amount > demand.inputFee).sort(byAmount);
  if (demand.amount === "all") {
    return settle([...must, ...worthy.slice(0, Math.max(0, demand.maxInputs - must.length))], demand);
  }
  if (must.length > 0) {
    const alone = settle(must, demand);
    if (alone.ok) return alone;
  }
  for (const coin of worthy.toReversed()) {
    const one = settle([...must, coin], demand);
    if (one.ok) return one;
    if (one.error.type === "too_many_inputs") return one;
  }
  let taken: C[] = [...must];
  let last: Result<Selection<C>, SelectionFailure> = settle(taken, demand);
  for (const coin of worthy) {
    taken = [...taken, coin];
    last = settle(taken, demand);
    if (last.ok || last.error.type === "too_many_inputs") return last;
  }
  return last;
}

/** The demand of a transaction of our own: these outputs, and change to a P2TR script. */
export function paymentDemand(request: {
  readonly feerate: FeeratePerKw;
  readonly amount: Sat | "all";
  /** Length of the destination's script. */
  readonly scriptLength: number;
  /** Least amount of the destination's output. */
  readonly dust: Sat;
}): Demand {
  const { feerate, amount, scriptLength } = request;
  const scripts = (change: boolean) => change ? [scriptLength, P2TR_SCRIPT_LENGTH] : [scriptLength];
  const spare = MAX_STANDARD_TX_WEIGHT - transactionWeight(0, scripts(true)) - 2 * WITNESS_SCALE;
  return {
    feerate,
    amount,
    fee: (inputs, change) => feeCeil(feerate, transactionWeight(inputs, scripts(change))),
    dust: amount === "all" ? request.dust : P2TR_DUST,
    inputFee: feeCeil(feerate, ownInputWeight()),
    maxInputs: Math.floor(spare / ownInputWeight()),
  };
}
