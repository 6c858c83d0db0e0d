import { err, ok, type Result } from "bolt/result.ts";
import { isSat, type Sat } from "bolt/units.ts";
import { fundingScript, p2wsh } from "bolt/tx/scripts.ts";
import { sameBytes, type TxOutput } from "bolt/tx/transaction.ts";

/** Why two contributions make no funding output. */
export type FundingOutputFailure = { readonly type: "funding_amount_too_large" };

/** Why a transaction does not fund the channel. */
export type FindFundingFailure =
  | { readonly type: "no_funding_output" }
  | { readonly type: "several_funding_outputs"; readonly indexes: readonly number[] }
  | { readonly type: "wrong_funding_amount"; readonly index: number; readonly amount: bigint };

/** scriptPubKey of the funding output of two funding keys, in any order (BOLT 3). */
export function fundingScriptPubkey(a: Uint8Array, b: Uint8Array): Uint8Array {
  return p2wsh(fundingScript(a, b));
}

/** The funding output of a dual-funded channel: the sum of both contributions (BOLT 2, accept_channel2). */
export function fundingOutput(parts: {
  readonly openerPubkey: Uint8Array;
  readonly accepterPubkey: Uint8Array;
  readonly openerFunding: Sat;
  readonly accepterFunding: Sat;
}): Result<TxOutput, FundingOutputFailure> {
  const amount = parts.openerFunding + parts.accepterFunding;
  if (!isSat(amount)) return err({ type: "funding_amount_too_large" });
  return ok({ amount, script: fundingScriptPubkey(parts.openerPubkey, parts.accepterPubkey) });
}

/**
 * The index of the one output that has the funding script, and exactly the funding amount. Any second output with that
 * script is refused too: the peer could let the chain confirm one and sign for the other.
 */
export function findFundingOutput(
  outputs: readonly { readonly amount: bigint; readonly script: Uint8Array }[],
  script: Uint8Array,
  amount: Sat,
): Result<number, FindFundingFailure> {
  const indexes = outputs.flatMap((output, index) => sameBytes(output.script, script) ? [index] : []);
  const [index] = indexes;
  if (index === undefined) return err({ type: "no_funding_output" });
  if (indexes.length > 1) return err({ type: "several_funding_outputs", indexes });
  const found = outputs[index]!;
  if (found.amount !== amount) return err({ type: "wrong_funding_amount", index, amount: found.amount });
  return ok(index);
}
