import { Transaction } from "bitcoinjs-lib";
import { toDerWithSighash } from "bolt/crypto/der.ts";

/** SIGHASH_ALL. */
export const SIGHASH_ALL = Transaction.SIGHASH_ALL;
/** SIGHASH_SINGLE | SIGHASH_ANYONECANPAY: the other side's signature on HTLC transactions with anchors (BOLT 3). */
export const SIGHASH_SINGLE_ANYONECANPAY = Transaction.SIGHASH_SINGLE | Transaction.SIGHASH_ANYONECANPAY;

/** A 64 byte compact ECDSA signature as it stands in a witness: DER and the sighash flag. */
export function ecdsaWitnessItem(signature: Uint8Array, sighashType: number): Uint8Array {
  return toDerWithSighash(signature, sighashType);
}
