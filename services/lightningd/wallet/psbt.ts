/** PSBTs of people: reading, making, finalizing. Base64, version 0. */
import { Psbt, Transaction } from "bitcoinjs-lib";
import { ArcusError, invalidArgument } from "common/grpc/errors.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import { type OutPoint, sameBytes, sameOutPoint, txidOf } from "bolt/tx/transaction.ts";
import { isSat, type Sat } from "bolt/units.ts";
import { INVALID_PARAMS } from "./address.ts";

/** The longest PSBT that is read: more than any standard transaction with all its previous ones needs. */
const MAX_PSBT_LENGTH = 16 * 1024 * 1024;
const TX_VERSION = 2;
/** The highest sequence that signals replaceability. */
export const REPLACEABLE_SEQUENCE = 0xffff_fffd;

/** A previous output. */
export interface PrevOut {
  readonly amount: Sat;
  readonly script: Uint8Array;
}

/** A coin of ours for a PSBT. */
export interface PsbtCoin {
  readonly outpoint: OutPoint;
  readonly amount: Sat;
  readonly script: Uint8Array;
  /** The full transaction that made it. */
  readonly prevtx: Uint8Array;
}

/** A failure with CLN's -32602. */
export function badPsbt(message: string, cause?: unknown): ArcusError {
  return invalidArgument("BAD_PSBT", message, { clnCode: INVALID_PARAMS, cause });
}

/** Reads a PSBT. Throws INVALID_ARGUMENT for anything that is none. */
export function readPsbt(base64: string): Psbt {
  if (base64.length > MAX_PSBT_LENGTH) throw badPsbt("the PSBT is too long");
  try {
    const bytes = Uint8Array.fromBase64(base64.trim());
    return readWithoutInputs(bytes) ?? Psbt.fromBuffer(bytes);
  } catch (error) {
    throw badPsbt("not a version 0 PSBT in base64", error);
  }
}

/** Magic, length and type of the first key (the unsigned transaction), as every version 0 PSBT begins. */
const PSBT_START = Uint8Array.fromHex("70736274ff0100");

/**
 * A PSBT without inputs, as addpsbtoutput makes it: its transaction begins like one with witnesses (no inputs look like
 * BIP 144's marker), so bitcoinjs-lib cannot read it. Undefined for any other.
 */
function readWithoutInputs(bytes: Uint8Array): Psbt | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = PSBT_START.length;
  const compactSize = () => {
    const first = view.getUint8(at++);
    if (first < 0xfd) return first;
    if (first !== 0xfd) throw new RangeError("too long");
    at += 2;
    return view.getUint16(at - 2, true);
  };
  if (!sameBytes(bytes.slice(0, at), PSBT_START)) return undefined;
  const end = compactSize() + at;
  const version = view.getInt32(at, true);
  at += 4;
  if (compactSize() !== 0) return undefined;
  const psbt = new Psbt();
  psbt.setVersion(version);
  for (let left = compactSize(); left > 0; left--) {
    const value = view.getBigUint64(at, true);
    at += 8;
    const length = compactSize();
    psbt.addOutput({ script: bytes.slice(at, at + length), value });
    at += length;
  }
  psbt.setLocktime(view.getUint32(at, true));
  if (at + 4 !== end) throw new RangeError("the transaction is longer or shorter than it says");
  return psbt;
}

/** The unsigned transaction inside. */
export function unsignedTx(psbt: Psbt): Transaction {
  const tx = new Transaction();
  tx.version = psbt.version;
  tx.locktime = psbt.locktime;
  for (const { hash, index, sequence } of psbt.txInputs) tx.addInput(hash, index, sequence);
  for (const { script, value } of psbt.txOutputs) tx.addOutput(script, value);
  return tx;
}

/** Outpoints of the inputs, in order. */
export function outpointsOf(tx: Transaction): OutPoint[] {
  return tx.ins.map((input) => ({ txid: input.hash, vout: input.index }));
}

/** Makes a PSBT with inputs of ours and outputs. */
export function makePsbt(
  coins: readonly PsbtCoin[],
  outputs: readonly { readonly script: Uint8Array; readonly amount: Sat }[],
  locktime: number,
): Psbt {
  const psbt = new Psbt();
  psbt.setVersion(TX_VERSION);
  psbt.setLocktime(locktime);
  for (const coin of coins) addCoin(psbt, coin);
  for (const { script, amount } of outputs) psbt.addOutput({ script, value: amount });
  return psbt;
}

function addCoin(psbt: Psbt, coin: PsbtCoin): void {
  psbt.addInput({
    hash: coin.outpoint.txid,
    index: coin.outpoint.vout,
    sequence: REPLACEABLE_SEQUENCE,
    witnessUtxo: { script: coin.script, value: coin.amount },
    nonWitnessUtxo: coin.prevtx,
  });
}

/**
 * What an input spends, as the PSBT says: the full previous transaction, whose hash the input names, else the output
 * alone (BIP 174; a signature over another amount is worth nothing).
 */
export function psbtPrevOut(psbt: Psbt, index: number, outpoint: OutPoint): PrevOut | undefined {
  const input = psbt.data.inputs[index];
  const raw = input?.nonWitnessUtxo;
  if (raw !== undefined) {
    const tx = Transaction.fromBuffer(raw);
    if (!sameOutPoint({ txid: txidOf(tx), vout: outpoint.vout }, outpoint)) {
      throw badPsbt(`input ${index}: its previous transaction is another one`);
    }
    const output = tx.outs[outpoint.vout];
    const value = output === undefined ? -1n : BigInt(output.value);
    if (output === undefined || !isSat(value)) {
      throw badPsbt(`input ${index}: its previous transaction has no such output`);
    }
    return { amount: value, script: output.script };
  }
  const utxo = input?.witnessUtxo;
  if (utxo === undefined) return undefined;
  const value = BigInt(utxo.value);
  if (!isSat(value)) throw badPsbt(`input ${index}: an absurd amount`);
  return { amount: value, script: utxo.script };
}

/** Puts the witness of a key path spend into an input: complete, so final. */
export function putSignature(psbt: Psbt, index: number, signature: Uint8Array): void {
  const input = psbt.data.inputs[index];
  if (input === undefined || input.finalScriptWitness !== undefined) return;
  psbt.updateInput(index, { finalScriptWitness: encodeWitness([signature]) });
}

/** The signed transaction. Throws INVALID_ARGUMENT when a signature is missing. */
export function finalize(psbt: Psbt): Transaction {
  for (const [index, input] of psbt.data.inputs.entries()) {
    if (input.finalScriptWitness !== undefined || input.finalScriptSig !== undefined) continue;
    try {
      // A key path signature is its whole witness.
      if (input.tapKeySig !== undefined) putSignature(psbt, index, input.tapKeySig);
      else psbt.finalizeInput(index);
    } catch (error) {
      throw badPsbt(`input ${index} is not fully signed`, error);
    }
  }
  try {
    return psbt.extractTransaction(true);
  } catch (error) {
    throw badPsbt("the PSBT is not fully signed", error);
  }
}
