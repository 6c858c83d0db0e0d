/** Weights of BOLT 3 transactions: the figures that both sides must compute alike, since fees follow from them. */

import {
  addSat,
  feeCeil,
  feeFloor,
  type FeeratePerKw,
  type Sat,
  sat,
  type Weight,
  weight,
} from "bolt/units.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";

/** Weight units of a byte outside of a witness. */
export const WITNESS_SCALE = 4;
/** Amount of each anchor output (BOLT 3). */
export const ANCHOR_AMOUNT = sat(330);
/** Most weight a transaction that nodes relay can have; an interactive transaction above it is refused (BOLT 2). */
export const MAX_STANDARD_TX_WEIGHT = weight(400_000);

const COMMITMENT_WEIGHT: Readonly<Record<CommitmentFormat, number>> = {
  static_remotekey: 724,
  anchors: 1124,
};
const HTLC_OUTPUT_WEIGHT = 172;
const HTLC_TIMEOUT_WEIGHT: Readonly<Record<CommitmentFormat, number>> = {
  static_remotekey: 663,
  anchors: 666,
};
const HTLC_SUCCESS_WEIGHT: Readonly<Record<CommitmentFormat, number>> = {
  static_remotekey: 703,
  anchors: 706,
};

/** Version, locktime, one byte each for the counts of inputs and outputs; marker and flag of the witness. */
const COMMON_FIELDS_WEIGHT = WITNESS_SCALE * (4 + 4 + 1 + 1) + 2;
/** Outpoint, empty scriptSig with its length, sequence. */
const INPUT_BASE_BYTES = 32 + 4 + 1 + 4;
/** Least weight that is counted for the witness of an input (BOLT 3, fees of dual funding). */
export const MIN_WITNESS_WEIGHT = 107;
/** A P2WSH scriptPubKey's length: version, push, hash. */
const P2WSH_SCRIPT_LENGTH = 34;

/** Expected weight of a commitment transaction with this many untrimmed HTLCs (BOLT 3, fee calculation). */
export function commitmentWeight(format: CommitmentFormat, untrimmedHtlcs: number): Weight {
  return weight(COMMITMENT_WEIGHT[format] + HTLC_OUTPUT_WEIGHT * untrimmedHtlcs);
}

/** Base fee of a commitment transaction, rounded down; the anchors are not in it. */
export function commitmentFee(format: CommitmentFormat, rate: FeeratePerKw, untrimmedHtlcs: number): Sat {
  return feeFloor(rate, commitmentWeight(format, untrimmedHtlcs));
}

/** What the opener pays for both anchors, whether or not both are present (BOLT 3). */
export function anchorsCost(format: CommitmentFormat): Sat {
  return format === "anchors" ? addSat(ANCHOR_AMOUNT, ANCHOR_AMOUNT) : sat(0);
}

/** Expected weight of an HTLC-timeout transaction (BOLT 3). */
export function htlcTimeoutWeight(format: CommitmentFormat): Weight {
  return weight(HTLC_TIMEOUT_WEIGHT[format]);
}

/** Expected weight of an HTLC-success transaction (BOLT 3). */
export function htlcSuccessWeight(format: CommitmentFormat): Weight {
  return weight(HTLC_SUCCESS_WEIGHT[format]);
}

/** Fee that an HTLC transaction carries itself; zero with anchors, whose fee comes from inputs added later. */
export function htlcTransactionFee(
  format: CommitmentFormat,
  rate: FeeratePerKw,
  kind: "timeout" | "success",
): Sat {
  if (format === "anchors") return sat(0);
  return feeFloor(rate, kind === "timeout" ? htlcTimeoutWeight(format) : htlcSuccessWeight(format));
}

/** Bytes of a CompactSize number. */
export function compactSizeLength(value: number): number {
  if (value < 0xfd) return 1;
  if (value <= 0xffff) return 3;
  return value <= 0xffff_ffff ? 5 : 9;
}

/** Weight of the fields of an interactive transaction that belong to nobody; its initiator pays for them (BOLT 2). */
export function commonFieldsWeight(): Weight {
  return weight(COMMON_FIELDS_WEIGHT);
}

/**
 * Weight of an input of an interactive transaction. `witnessWeight` is its witness in bytes, the stack's count and the
 * lengths included, when known: less than {@link MIN_WITNESS_WEIGHT} counts as that.
 */
export function inputWeight(witnessWeight: number = MIN_WITNESS_WEIGHT): Weight {
  return weight(WITNESS_SCALE * INPUT_BASE_BYTES + Math.max(MIN_WITNESS_WEIGHT, witnessWeight));
}

/** Weight of an output with a scriptPubKey of this length. */
export function outputWeight(scriptLength: number): Weight {
  return weight(WITNESS_SCALE * (8 + compactSizeLength(scriptLength) + scriptLength));
}

/** Weight of a P2WSH funding output. */
export function fundingOutputWeight(): Weight {
  return outputWeight(P2WSH_SCRIPT_LENGTH);
}

/** What one side put into an interactive transaction. */
export interface Contribution {
  /** Whether this side is the initiator, who pays for the common fields too. */
  readonly initiator: boolean;
  /** Weight of each input's witness; an absent entry counts as {@link MIN_WITNESS_WEIGHT}. */
  readonly inputs: readonly { readonly witnessWeight?: number }[];
  /** Outputs that this side added; the initiator's include the funding output. */
  readonly outputs: readonly { readonly script: Uint8Array }[];
}

/** Weight that a side pays for (BOLT 3, fees of dual funding; appendix G: 609 for the opener, 395 for the accepter). */
export function contributionWeight(contribution: Contribution): Weight {
  const inputs = contribution.inputs.reduce((sum, input) => sum + inputWeight(input.witnessWeight), 0);
  const outputs = contribution.outputs.reduce((sum, output) => sum + outputWeight(output.script.length), 0);
  return weight((contribution.initiator ? COMMON_FIELDS_WEIGHT : 0) + inputs + outputs);
}

/** Fee that a side pays for its {@link contributionWeight}, rounded up. */
export function contributionFee(contribution: Contribution, rate: FeeratePerKw): Sat {
  return feeCeil(rate, contributionWeight(contribution));
}
