import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import type { Sat } from "bolt/units.ts";

/** Length of a transaction id in bytes. */
export const TXID_LENGTH = 32;
/** nVersion of every transaction that BOLT 2 and BOLT 3 define. */
export const TX_VERSION = 2;

/**
 * Names an output. `txid` is in the byte order in which it is hashed and in which BOLT messages carry it;
 * block explorers and RPCs show it reversed ({@link txidToDisplay}).
 */
export interface OutPoint {
  readonly txid: Uint8Array;
  readonly vout: number;
}

/** An output: amount and scriptPubKey. */
export interface TxOutput {
  readonly amount: Sat;
  readonly script: Uint8Array;
}

/** An input without signature. */
export interface TxInput {
  readonly outpoint: OutPoint;
  readonly sequence: number;
}

/** Makes an unsigned version 2 transaction with the inputs and outputs in the given order. */
export function makeTransaction(
  parts: {
    readonly locktime: number;
    readonly inputs: readonly TxInput[];
    readonly outputs: readonly TxOutput[];
  },
): Transaction {
  const tx = new Transaction();
  tx.version = TX_VERSION;
  tx.locktime = parts.locktime;
  for (const { outpoint, sequence } of parts.inputs) tx.addInput(outpoint.txid, outpoint.vout, sequence);
  for (const { amount, script } of parts.outputs) tx.addOutput(script, amount);
  return tx;
}

/** A transaction's id in hashing (and BOLT wire) order. */
export function txidOf(tx: Transaction): Uint8Array {
  return tx.getHash(false);
}

/** A txid as RPCs and people write it: reversed, in hex. */
export function txidToDisplay(txid: Uint8Array): string {
  return bytesToHex(Uint8Array.from(txid).reverse());
}

/** A txid in hashing order from the form in which RPCs and people write it. Throws unless 32 bytes of hex. */
export function txidFromDisplay(display: string): Uint8Array {
  const bytes = hexToBytes(display);
  if (bytes.length !== TXID_LENGTH) throw new RangeError("a txid has 32 bytes");
  return bytes.reverse();
}

/** Whether two outpoints are the same. */
export function sameOutPoint(a: OutPoint, b: OutPoint): boolean {
  return a.vout === b.vout && sameBytes(a.txid, b.txid);
}

/** Whether two byte strings are equal. Not for secrets: its time depends on the content. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Lexicographic order of byte strings; a prefix comes first. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length);
  for (let i = 0; i < shared; i++) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}
