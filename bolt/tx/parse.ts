import { Transaction } from "bitcoinjs-lib";
import { err, ok, type Result } from "bolt/result.ts";
import { isSat, MAX_SAT, type Weight, weight } from "bolt/units.ts";
import { type OutPoint, sameBytes, txidOf, type TxOutput } from "bolt/tx/transaction.ts";

/** Longest `prevtx` that fits a message beside the fields of `tx_add_input`: 65535 less 2+32+8+2+4+4 bytes. */
export const MAX_PREVTX_LENGTH = 65_483;

/** An input as parsed. */
export interface ParsedInput {
  readonly outpoint: OutPoint;
  readonly sequence: number;
  readonly scriptSig: Uint8Array;
  /** Empty without witness. */
  readonly witness: readonly Uint8Array[];
}

/** A transaction from outside, checked for its form only: no signature was verified. */
export interface ParsedTransaction {
  /** Hash without witness, so the same for both serializations. In hashing order. */
  readonly txid: Uint8Array;
  readonly version: number;
  readonly locktime: number;
  readonly inputs: readonly ParsedInput[];
  readonly outputs: readonly TxOutput[];
  readonly hasWitness: boolean;
  readonly isCoinbase: boolean;
  readonly weight: Weight;
}

/** Why bytes are no transaction. */
export type ParseTransactionFailure =
  | { readonly type: "too_long"; readonly length: number; readonly limit: number }
  /** Cut short, longer than the transaction, or not in its only serialization. */
  | { readonly type: "malformed" }
  | { readonly type: "no_inputs" }
  | { readonly type: "no_outputs" }
  /** An output, or all together, hold more than all bitcoin. */
  | { readonly type: "bad_amount"; readonly index: number };

/**
 * Parses a serialized transaction, with or without witness, strictly: no trailing bytes, shortest CompactSize numbers.
 * `limit` bounds its length in bytes; the work is linear in it.
 */
export function parseTransaction(
  bytes: Uint8Array,
  limit: number = MAX_PREVTX_LENGTH,
): Result<ParsedTransaction, ParseTransactionFailure> {
  if (bytes.length > limit) return err({ type: "too_long", length: bytes.length, limit });
  const tx = deserialize(bytes);
  if (tx === null) return err({ type: "malformed" });
  if (tx.ins.length === 0) return err({ type: "no_inputs" });
  if (tx.outs.length === 0) return err({ type: "no_outputs" });
  const outputs: TxOutput[] = [];
  let sum = 0n;
  for (const [index, { value, script }] of tx.outs.entries()) {
    sum += value;
    if (!isSat(value) || sum > MAX_SAT) return err({ type: "bad_amount", index });
    outputs.push({ amount: value, script });
  }
  return ok({
    txid: txidOf(tx),
    version: tx.version,
    locktime: tx.locktime,
    inputs: tx.ins.map(({ hash, index, sequence, script, witness }) => ({
      outpoint: { txid: hash, vout: index },
      sequence,
      scriptSig: script,
      witness,
    })),
    outputs,
    hasWitness: tx.hasWitnesses(),
    isCoinbase: tx.isCoinbase(),
    weight: weight(tx.weight()),
  });
}

/** The library's parser throws at garbage and accepts padded CompactSize numbers: writing back must give the same bytes. */
function deserialize(bytes: Uint8Array): Transaction | null {
  try {
    const tx = Transaction.fromBuffer(bytes);
    return sameBytes(tx.toBuffer(), bytes) ? tx : null;
  } catch {
    return null;
  }
}
