import type { Transaction } from "bitcoinjs-lib";
import { err, ok, type Result } from "bolt/result.ts";
import type { Sat } from "bolt/units.ts";
import { type FindFundingFailure, findFundingOutput } from "bolt/tx/funding.ts";
import { makeTransaction, txidOf, type TxInput, type TxOutput } from "bolt/tx/transaction.ts";

/** An input that stands when both sides are complete. */
export interface InteractiveInput extends TxInput {
  /** u64. */
  readonly serialId: bigint;
}

/** An output that stands when both sides are complete. */
export interface InteractiveOutput extends TxOutput {
  /** u64. */
  readonly serialId: bigint;
}

/** The funding transaction that both sides arrive at, without witnesses. */
export interface InteractiveTransaction {
  readonly tx: Transaction;
  /** In hashing order. */
  readonly txid: Uint8Array;
  /** Index of the channel's output. */
  readonly fundingIndex: number;
  /** In the order of the transaction, which is that of serial ids. */
  readonly inputs: readonly InteractiveInput[];
  readonly outputs: readonly InteractiveOutput[];
}

/** Why no funding transaction came out. */
export type BuildInteractiveFailure =
  | FindFundingFailure
  | { readonly type: "no_inputs" }
  | { readonly type: "duplicate_serial_id"; readonly of: "input" | "output"; readonly serialId: bigint };

/** Why witnesses do not complete a transaction. */
export type WitnessesFailure =
  | { readonly type: "missing_witness"; readonly serialId: bigint }
  | { readonly type: "unknown_input"; readonly serialId: bigint };

/**
 * The transaction of a completed interactive session: version 2, inputs and outputs each by rising serial id, sequences
 * as sent (BOLT 2, interactive-tx), with exactly one funding output of the exact amount.
 */
export function buildInteractive(session: {
  readonly locktime: number;
  readonly inputs: readonly InteractiveInput[];
  readonly outputs: readonly InteractiveOutput[];
  readonly funding: { readonly script: Uint8Array; readonly amount: Sat };
}): Result<InteractiveTransaction, BuildInteractiveFailure> {
  if (session.inputs.length === 0) return err({ type: "no_inputs" });
  const inputs = bySerialId(session.inputs);
  const outputs = bySerialId(session.outputs);
  const twiceIn = duplicate(inputs);
  if (twiceIn !== null) return err({ type: "duplicate_serial_id", of: "input", serialId: twiceIn });
  const twiceOut = duplicate(outputs);
  if (twiceOut !== null) return err({ type: "duplicate_serial_id", of: "output", serialId: twiceOut });
  const found = findFundingOutput(outputs, session.funding.script, session.funding.amount);
  if (!found.ok) return found;
  const tx = makeTransaction({ locktime: session.locktime, inputs, outputs });
  return ok({ tx, txid: txidOf(tx), fundingIndex: found.value, inputs, outputs });
}

/** The complete transaction from the witness stacks of all inputs, both sides', each named by its serial id. */
export function withWitnesses(
  built: InteractiveTransaction,
  witnesses: readonly { readonly serialId: bigint; readonly stack: readonly Uint8Array[] }[],
): Result<Transaction, WitnessesFailure> {
  const left = new Map(witnesses.map(({ serialId, stack }) => [serialId, stack]));
  const tx = built.tx.clone();
  for (const [index, { serialId }] of built.inputs.entries()) {
    const stack = left.get(serialId);
    if (stack === undefined) return err({ type: "missing_witness", serialId });
    left.delete(serialId);
    tx.setWitness(index, [...stack]);
  }
  const [unknown] = left.keys();
  return unknown === undefined ? ok(tx) : err({ type: "unknown_input", serialId: unknown });
}

function bySerialId<T extends { readonly serialId: bigint }>(items: readonly T[]): readonly T[] {
  return [...items].sort((a, b) => a.serialId < b.serialId ? -1 : a.serialId > b.serialId ? 1 : 0);
}

/** The first serial id that occurs twice in a sorted list. */
function duplicate(sorted: readonly { readonly serialId: bigint }[]): bigint | null {
  const twice = sorted.find((item, i) => item.serialId === sorted[i + 1]?.serialId);
  return twice?.serialId ?? null;
}
