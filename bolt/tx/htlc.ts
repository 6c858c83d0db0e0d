import type { Transaction } from "bitcoinjs-lib";
import { err, ok, type Result } from "bolt/result.ts";
import { isSat, type Sat } from "bolt/units.ts";
import type { Commitment, HtlcOutput } from "bolt/tx/commitment.ts";
import { type CommitmentFormat, p2wsh, toLocalScript } from "bolt/tx/scripts.ts";
import { htlcSighashType } from "bolt/tx/sighash.ts";
import { ecdsaWitnessItem } from "bolt/tx/signature.ts";
import { makeTransaction } from "bolt/tx/transaction.ts";
import { htlcTransactionFee } from "bolt/tx/weights.ts";

/** An HTLC-timeout or HTLC-success transaction of a commitment's owner, without signatures (BOLT 3). */
export interface HtlcTransaction {
  /** `timeout` takes back an offered HTLC, `success` claims a received one with its preimage. */
  readonly kind: "timeout" | "success";
  readonly tx: Transaction;
  /** The commitment's output that it spends. */
  readonly spends: HtlcOutput;
  /** What its only output holds. */
  readonly amount: Sat;
  /** Witness script of its output: like to_local. */
  readonly outputScript: Uint8Array;
}

/** Why there is no HTLC transaction: the output is not of this commitment (an untrimmed HTLC always covers its fee). */
export type HtlcTransactionFailure = { readonly type: "htlc_below_fee"; readonly id: bigint };

/** The second-stage transaction of one HTLC output of a commitment. */
export function htlcTransaction(
  commitment: Commitment,
  output: HtlcOutput,
): Result<HtlcTransaction, HtlcTransactionFailure> {
  const { format, feerate, keys, toSelfDelay } = commitment.spec;
  const { htlc } = output;
  const kind = htlc.direction === "offered" ? "timeout" : "success";
  const amount = output.amount - htlcTransactionFee(format, feerate, kind);
  if (!isSat(amount)) return err({ type: "htlc_below_fee", id: htlc.id });
  const outputScript = toLocalScript(keys.revocationPubkey, keys.ownerDelayedPubkey, toSelfDelay);
  const tx = makeTransaction({
    locktime: kind === "timeout" ? htlc.cltvExpiry : 0,
    inputs: [{
      outpoint: { txid: commitment.txid, vout: output.index },
      sequence: format === "anchors" ? 1 : 0,
    }],
    outputs: [{ amount, script: p2wsh(outputScript) }],
  });
  return ok({ kind, tx, spends: output, amount, outputScript });
}

/** All second-stage transactions of a commitment, in the order of signatures in `commitment_signed` (BOLT 2). */
export function htlcTransactions(
  commitment: Commitment,
): Result<readonly HtlcTransaction[], HtlcTransactionFailure> {
  const all: HtlcTransaction[] = [];
  for (const output of commitment.htlcOutputs) {
    const built = htlcTransaction(commitment, output);
    if (!built.ok) return built;
    all.push(built.value);
  }
  return ok(all);
}

/**
 * Witness of an HTLC transaction from both HTLC signatures (64 bytes each): `preimage` for success, null for timeout
 * (BOLT 3, HTLC-timeout and HTLC-success transactions).
 */
export function htlcWitness(
  htlc: HtlcTransaction,
  format: CommitmentFormat,
  signatures: { readonly owner: Uint8Array; readonly other: Uint8Array },
  preimage: Uint8Array | null,
): readonly Uint8Array[] {
  return [
    new Uint8Array(0),
    ecdsaWitnessItem(signatures.other, htlcSighashType(format, "other")),
    ecdsaWitnessItem(signatures.owner, htlcSighashType(format, "owner")),
    preimage ?? new Uint8Array(0),
    htlc.spends.witnessScript,
  ];
}
