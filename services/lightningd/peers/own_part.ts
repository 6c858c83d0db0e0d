/** What of a PSBT that the user hands back is ours: an open shows the whole transaction, and takes our part of it. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { Psbt, Transaction } from "bitcoinjs-lib";
import type { NegotiationResponse } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import type { Plan } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { readPsbt, unsignedTx } from "../wallet/psbt.ts";

/** What the user was shown last. */
export type Shown = Pick<NegotiationResponse, "tx" | "prevouts" | "fundingOutputIndex">;

const outpointKey = (hash: Uint8Array, index: number): string => `${bytesToHex(hash)}:${index}`;
const outputKey = (script: Uint8Array, value: bigint): string => `${bytesToHex(script)}:${value}`;

/** Takes one of `key` out of a multiset; false if there is none. */
function takeOne(counts: Map<string, number>, key: string): boolean {
  const count = counts.get(key) ?? 0;
  if (count === 0) return false;
  counts.set(key, count - 1);
  return true;
}

function countsOf(keys: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  return counts;
}

/**
 * The PSBT without the peer's inputs and outputs and without the funding output; "" when the transaction is the one that
 * was shown, so that nothing changes. Throws INVALID_ARGUMENT for what is no PSBT.
 */
export function ownPart(text: string, shown: Shown, plan: Plan): string {
  const psbt = readPsbt(text);
  const tx = unsignedTx(psbt);
  const before = Transaction.fromBuffer(shown.tx);
  const inputs = (t: Transaction) => t.ins.map(({ hash, index }) => outpointKey(hash, index)).sort().join();
  const outputs = (t: Transaction) =>
    t.outs.map(({ script, value }) => outputKey(script, value)).sort().join();
  if (inputs(tx) === inputs(before) && outputs(tx) === outputs(before)) return "";

  const theirInputs = new Set(
    before.ins.filter((_, i) => shown.prevouts[i]?.local === false).map(({ hash, index }) =>
      outpointKey(hash, index)
    ),
  );
  const ourOutputs = countsOf(plan.outputs.map(({ script, amountSat }) => outputKey(script, amountSat)));
  const notOurs = countsOf(
    before.outs.filter(({ script, value }, i) =>
      i === shown.fundingOutputIndex || !takeOne(ourOutputs, outputKey(script, value))
    ).map(({ script, value }) => outputKey(script, value)),
  );
  const prevtxs = new Map(
    plan.inputs.map(({ outpoint, prevtx }) => [
      outpointKey(outpoint?.txid ?? new Uint8Array(), outpoint?.vout ?? 0),
      prevtx,
    ]),
  );
  const own = new Psbt();
  own.setVersion(tx.version);
  own.setLocktime(tx.locktime);
  tx.ins.forEach(({ hash, index, sequence }, i) => {
    const key = outpointKey(hash, index);
    if (theirInputs.has(key)) return;
    const { witnessUtxo, nonWitnessUtxo = prevtxs.get(key) } = psbt.data.inputs[i] ?? {};
    own.addInput({
      hash,
      index,
      sequence,
      ...(witnessUtxo === undefined ? {} : { witnessUtxo }),
      ...(nonWitnessUtxo === undefined ? {} : { nonWitnessUtxo }),
    });
  });
  for (const { script, value } of tx.outs) {
    if (!takeOne(notOurs, outputKey(script, value))) own.addOutput({ script, value });
  }
  return own.toBase64();
}
