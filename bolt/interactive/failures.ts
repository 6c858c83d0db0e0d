/** Why an interactive transaction session, or a plan for one, fails: each rule of BOLT 2 by name. */
import type { FeeratePerKw, Sat } from "bolt/units.ts";

/** Why our own part cannot be negotiated: a mistake of the caller, never told to the peer in detail. */
export type PlanFailure =
  /** Contributions or totals beyond all bitcoin. */
  | { readonly type: "plan_amount_overflow" }
  /** The funding output would be below the dust limit. */
  | { readonly type: "plan_funding_below_dust" }
  /** BOLT 2, tx_init_rbf: our fee rate must rise enough over the last attempt. */
  | { readonly type: "plan_feerate_too_low"; readonly minimum: FeeratePerKw }
  /** Not one serial id per item, repeated, of the wrong parity, or beyond u64. */
  | { readonly type: "plan_bad_serial_ids" }
  | { readonly type: "plan_bad_prevtx"; readonly index: number }
  /** The message would not fit into a Lightning message. */
  | { readonly type: "plan_prevtx_too_large"; readonly index: number }
  /** `vout`, amount or script do not agree with `prevtx`. */
  | { readonly type: "plan_input_mismatch"; readonly index: number }
  | { readonly type: "plan_input_not_segwit"; readonly index: number }
  | { readonly type: "plan_bad_sequence"; readonly index: number }
  | { readonly type: "plan_duplicate_input"; readonly index: number }
  /** The peer set require_confirmed_inputs (BOLT 2, tx_add_input). */
  | { readonly type: "plan_unconfirmed_input"; readonly index: number }
  /** An output of an earlier attempt of the same channel cannot fund its replacement. */
  | { readonly type: "plan_spends_previous_attempt"; readonly index: number }
  | { readonly type: "plan_output_below_dust"; readonly index: number }
  | { readonly type: "plan_output_script"; readonly index: number }
  | { readonly type: "plan_too_many_items" }
  /** Our inputs do not pay our contribution, outputs and share of the fee. */
  | { readonly type: "plan_insufficient"; readonly missing: Sat }
  /** BOLT 2, RBF: none of our inputs spends what we spent in that attempt. */
  | { readonly type: "plan_misses_attempt"; readonly attempt: number }
  /** A removal of something that we have not added. */
  | { readonly type: "plan_unknown_serial_id" }
  /** The initiator's funding output stays. */
  | { readonly type: "plan_removes_funding_output" }
  /** A `move` after the negotiation. */
  | { readonly type: "plan_too_late" };

/** Why a session ends without a transaction: the rule of BOLT 2 that was broken. */
export type InteractiveFailure =
  /** Message for another channel. */
  | { readonly type: "wrong_channel" }
  /** Turn taking: the peer speaks before we, the initiator, have. */
  | { readonly type: "out_of_turn" }
  /** A message after both said tx_complete. */
  | { readonly type: "session_over" }
  /** tx_add_input, sequence must signal replaceability. */
  | { readonly type: "non_replaceable_sequence"; readonly serialId: bigint }
  /** serial_id: even from the initiator, odd from the other. */
  | { readonly type: "serial_id_parity"; readonly serialId: bigint }
  /** tx_add_*: serial_id already used for an input, or for an output. */
  | { readonly type: "duplicate_serial_id"; readonly serialId: bigint }
  /** tx_add_input without `prevtx`. */
  | { readonly type: "prevtx_missing"; readonly serialId: bigint }
  /** tx_add_input: `prevtx` is no transaction, or something follows it. */
  | { readonly type: "prevtx_invalid"; readonly serialId: bigint }
  /** tx_add_input: `prevtx_vout` names no output. */
  | { readonly type: "prevtx_vout_out_of_range"; readonly serialId: bigint }
  /** tx_add_input: a spent amount that cannot exist. */
  | { readonly type: "prevtx_amount_impossible"; readonly serialId: bigint }
  /** tx_add_input: a spend whose txid could be changed by its signature. */
  | { readonly type: "input_not_segwit"; readonly serialId: bigint }
  /** tx_add_input: the same outpoint twice, whosever. */
  | { readonly type: "duplicate_input"; readonly serialId: bigint }
  /** tx_add_input: spends an output of the attempt that it must replace, so it could never be mined with it replaced. */
  | { readonly type: "spends_previous_attempt"; readonly serialId: bigint }
  /** tx_add_input: shared inputs exist in splices only. */
  | { readonly type: "shared_input_refused"; readonly serialId: bigint }
  | { readonly type: "too_many_tx_add_input" }
  | { readonly type: "too_many_tx_add_output" }
  /** tx_add_output: below the dust limit that we announced. */
  | { readonly type: "output_below_dust"; readonly serialId: bigint }
  /** tx_add_output: more than all bitcoin. */
  | { readonly type: "output_above_max_money"; readonly serialId: bigint }
  /** tx_add_output: a script that we do not take. */
  | { readonly type: "output_script_refused"; readonly serialId: bigint }
  /** tx_remove_input: not a present input of the sender. */
  | { readonly type: "unknown_input_serial_id"; readonly serialId: bigint }
  /** tx_remove_output: not a present output of the sender. */
  | { readonly type: "unknown_output_serial_id"; readonly serialId: bigint }
  /** tx_complete: more than 252 inputs. */
  | { readonly type: "too_many_inputs" }
  /** tx_complete: more than 252 outputs. */
  | { readonly type: "too_many_outputs" }
  /** tx_complete: nodes would not relay it. */
  | { readonly type: "weight_too_large"; readonly weight: number }
  /** tx_complete: no output pays the funding script. */
  | { readonly type: "funding_output_missing" }
  /** tx_complete: several outputs pay the funding script. */
  | { readonly type: "funding_output_duplicate" }
  /** tx_complete: the funding output is not the sum of both contributions. */
  | { readonly type: "funding_output_amount"; readonly amount: bigint; readonly expected: Sat }
  /** tx_complete: totals beyond all bitcoin. */
  | { readonly type: "total_overflow" }
  /** tx_complete: the peer's inputs do not cover its outputs and contribution. */
  | { readonly type: "peer_inputs_insufficient"; readonly missing: Sat }
  /** tx_complete: the peer does not pay the fee of what it added (and, as initiator, of the common parts). */
  | { readonly type: "peer_fee_too_low"; readonly fee: Sat; readonly minimum: Sat }
  /** tx_complete: after moves of ours our own part does not pay for itself. */
  | { readonly type: "own_inputs_insufficient"; readonly missing: Sat }
  /** RBF: an earlier attempt could be mined as well. */
  | { readonly type: "does_not_replace"; readonly attempt: number }
  /** RBF: the total fee went down. */
  | { readonly type: "fee_below_previous"; readonly fee: Sat; readonly previous: Sat }
  /** tx_complete: we demanded confirmed inputs and one is not (or is unknown, or spent). */
  | { readonly type: "unconfirmed_input"; readonly serialId: bigint };

/** Who has to answer for a failure. */
export function failureBlame(failure: InteractiveFailure): "peer" | "us" {
  return failure.type === "own_inputs_insufficient" ? "us" : "peer";
}

/** The `data` of the tx_abort that says why (BOLT 2, tx_abort): printable ASCII, and nothing that the peer chose but numbers. */
export function abortText(failure: InteractiveFailure): string {
  switch (failure.type) {
    case "wrong_channel":
      return "message of another channel";
    case "out_of_turn":
      return "not your turn";
    case "session_over":
      return "the transaction is already complete";
    case "non_replaceable_sequence":
      return `input ${failure.serialId}: sequence must be at most 0xfffffffd`;
    case "serial_id_parity":
      return `serial_id ${failure.serialId} has the wrong parity`;
    case "duplicate_serial_id":
      return `serial_id ${failure.serialId} is already used`;
    case "prevtx_missing":
      return `input ${failure.serialId}: prevtx is missing`;
    case "prevtx_invalid":
      return `input ${failure.serialId}: prevtx is not a transaction`;
    case "prevtx_vout_out_of_range":
      return `input ${failure.serialId}: prevtx has no such output`;
    case "prevtx_amount_impossible":
      return `input ${failure.serialId}: the spent amount cannot exist`;
    case "input_not_segwit":
      return `input ${failure.serialId}: not a native segwit output`;
    case "duplicate_input":
      return `input ${failure.serialId}: the output is already spent in this transaction`;
    case "spends_previous_attempt":
      return `input ${failure.serialId}: spends a transaction that is being replaced`;
    case "shared_input_refused":
      return `input ${failure.serialId}: there is no shared input to spend`;
    case "too_many_tx_add_input":
      return "too many tx_add_input";
    case "too_many_tx_add_output":
      return "too many tx_add_output";
    case "output_below_dust":
      return `output ${failure.serialId}: below the dust limit`;
    case "output_above_max_money":
      return `output ${failure.serialId}: more than 21000000 BTC`;
    case "output_script_refused":
      return `output ${failure.serialId}: script is not P2WPKH, P2WSH or P2TR`;
    case "unknown_input_serial_id":
      return `no input ${failure.serialId} of yours to remove`;
    case "unknown_output_serial_id":
      return `no output ${failure.serialId} of yours to remove`;
    case "too_many_inputs":
      return "more than 252 inputs";
    case "too_many_outputs":
      return "more than 252 outputs";
    case "weight_too_large":
      return `transaction weight ${failure.weight} is not relayed`;
    case "funding_output_missing":
      return "the funding output is missing";
    case "funding_output_duplicate":
      return "more than one funding output";
    case "funding_output_amount":
      return `the funding output has ${failure.amount} sat instead of ${failure.expected} sat`;
    case "total_overflow":
      return "amounts add up to more than 21000000 BTC";
    case "peer_inputs_insufficient":
      return `your inputs are ${failure.missing} sat short of your outputs and contribution`;
    case "peer_fee_too_low":
      return `your inputs leave a fee of ${failure.fee} sat instead of ${failure.minimum} sat`;
    case "own_inputs_insufficient":
      return "our own funding fell short";
    case "does_not_replace":
      return "an earlier attempt would not be double-spent";
    case "fee_below_previous":
      return `total fee of ${failure.fee} sat is less than the earlier ${failure.previous} sat`;
    case "unconfirmed_input":
      return `input ${failure.serialId} is not confirmed`;
  }
}
