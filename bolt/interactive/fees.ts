/** Who pays how much of the fee (BOLT 2, tx_complete; BOLT 3 appendix G). */
import { scriptKind } from "bolt/tx/scripts.ts";
import {
  commonFieldsWeight,
  contributionWeight,
  inputWeight,
  MIN_WITNESS_WEIGHT,
  outputWeight,
} from "bolt/tx/weights.ts";
import { feeCeil, feeFloor, type FeeratePerKw, type Sat, type Weight, weight } from "bolt/units.ts";
import { P2TR_KEY_PATH_WITNESS } from "bolt/interactive/limits.ts";

/** What we pay for an input's witness: at least what BOLT 3 counts for every input. */
export function ownWitnessWeight(witness: Weight): Weight {
  return weight(Math.max(MIN_WITNESS_WEIGHT, witness));
}

/** The least witness that a peer must pay for, by the script that it spends; the real one is not known yet. */
export function leastWitnessWeight(script: Uint8Array): Weight {
  return weight(scriptKind(script) === "p2tr" ? P2TR_KEY_PATH_WITNESS : MIN_WITNESS_WEIGHT);
}

/** Weight of an input whose witness weighs exactly this. */
export function exactInputWeight(witness: number): number {
  return inputWeight() - MIN_WITNESS_WEIGHT + witness;
}

/** The share of a side in the weight: what it added, the funding output and common fields if it is the initiator. */
export interface SharedWeight {
  readonly initiator: boolean;
  readonly inputs: readonly { readonly witnessWeight: number }[];
  /** The initiator's include the funding output. */
  readonly outputs: readonly { readonly script: Uint8Array }[];
}

/** Weight of a side's share with exactly the given witnesses. */
export function sideWeight(side: SharedWeight): Weight {
  return weight(
    (side.initiator ? commonFieldsWeight() : 0) +
      side.inputs.reduce((sum, input) => sum + exactInputWeight(input.witnessWeight), 0) +
      side.outputs.reduce((sum, output) => sum + outputWeight(output.script.length), 0),
  );
}

/** The fee that we pay for our share: exact, rounded up, at least 107 for each witness. */
export function ownFee(rate: FeeratePerKw, side: SharedWeight): Sat {
  return feeCeil(rate, contributionWeight(side));
}

/**
 * The fee that a peer must pay at least for a share of this weight. Rounded down: some nodes round so, where BOLT 3
 * appendix G rounds up, and one satoshi is no reason to lose a channel.
 */
export function leastPeerFee(rate: FeeratePerKw, w: Weight): Sat {
  return feeFloor(rate, w);
}
