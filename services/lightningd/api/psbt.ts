/** PSBTs (BIP 174, version 0) at the edge: what an open shows of its transaction, and the witnesses that a user brings. */
import { Psbt, Transaction } from "bitcoinjs-lib";
import type { PrevTxOut } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import { readPsbt } from "../wallet/psbt.ts";

/** The PSBT of a transaction under negotiation, in base64. */
export function negotiationPsbt(unsigned: Uint8Array, prevouts: readonly PrevTxOut[]): string {
  const tx = Transaction.fromBuffer(unsigned);
  if (tx.ins.length !== prevouts.length) {
    throw new Error("a transaction without an output for each of its inputs");
  }
  const psbt = new Psbt();
  psbt.setVersion(tx.version);
  psbt.setLocktime(tx.locktime);
  tx.ins.forEach(({ hash, index, sequence }, at) => {
    const prevout = prevouts[at];
    if (prevout === undefined) throw new Error("unreachable");
    psbt.addInput({
      hash,
      index,
      sequence,
      witnessUtxo: { script: prevout.script, value: prevout.amountSat },
    });
  });
  for (const { script, value } of tx.outs) psbt.addOutput({ script, value });
  return psbt.toBase64();
}

/**
 * The witnesses that a PSBT holds, by input, as the wire of Bitcoin has them. Inputs that are signed but not finalized are
 * finalized where that can be done.
 */
export function witnessesOf(text: string): Map<number, Uint8Array> {
  const psbt = readPsbt(text);
  const witnesses = new Map<number, Uint8Array>();
  psbt.data.inputs.forEach((input, index) => {
    const signed = input.tapKeySig !== undefined || (input.partialSig?.length ?? 0) > 0;
    if (input.finalScriptWitness === undefined && signed) {
      try {
        psbt.finalizeInput(index);
      } catch {
        // Not signed to the end: the open says which witness it misses.
      }
    }
    const witness = psbt.data.inputs[index]?.finalScriptWitness;
    if (witness !== undefined) witnesses.set(index, Uint8Array.from(witness));
  });
  return witnesses;
}
