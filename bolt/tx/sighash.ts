/** What is signed (BIP 143) for the transactions of BOLT 3. */

import type { Transaction } from "bitcoinjs-lib";
import type { Sat } from "bolt/units.ts";
import type { Commitment, HtlcOutput } from "bolt/tx/commitment.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";
import { SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY } from "bolt/tx/signature.ts";

/** 32 byte hash that both funding keys sign to make a commitment valid (SIGHASH_ALL). */
export function commitmentSighash(commitment: Commitment): Uint8Array {
  const { tx, fundingScript, spec } = commitment;
  return tx.hashForWitnessV0(0, fundingScript, spec.funding.amount, SIGHASH_ALL);
}

/** Flag of the signature on an HTLC transaction: the owner signs all, the other side leaves room for fees (anchors). */
export function htlcSighashType(format: CommitmentFormat, signer: "owner" | "other"): number {
  return format === "anchors" && signer === "other" ? SIGHASH_SINGLE_ANYONECANPAY : SIGHASH_ALL;
}

/**
 * 32 byte hash that a side signs on an HTLC transaction. With anchors the owner signs `tx` as it is broadcast: with
 * the inputs and outputs that pay its fee.
 */
export function htlcSighash(
  tx: Transaction,
  output: HtlcOutput,
  format: CommitmentFormat,
  signer: "owner" | "other",
): Uint8Array {
  return tx.hashForWitnessV0(0, output.witnessScript, output.amount, htlcSighashType(format, signer));
}

/** 32 byte hash of a P2WSH or P2WPKH input: `scriptCode` is the witness script, or the P2WPKH script code. */
export function witnessV0Sighash(
  tx: Transaction,
  input: number,
  scriptCode: Uint8Array,
  amount: Sat,
): Uint8Array {
  return tx.hashForWitnessV0(input, scriptCode, amount, SIGHASH_ALL);
}
