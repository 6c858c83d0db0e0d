/** Judging tx_signatures, and putting both sides' witnesses together (BOLT 2, tx_signatures). */
import { Transaction } from "bitcoinjs-lib";
import { parseDerWithSighash } from "bolt/crypto/der.ts";
import { ecc } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";
import {
  buildInteractive,
  type BuildInteractiveFailure,
  withWitnesses,
  type WitnessesFailure,
} from "bolt/tx/build_interactive.ts";
import { hash160, p2wpkhScriptCode, scriptKind, witnessProgram } from "bolt/tx/scripts.ts";
import { SIGHASH_ALL } from "bolt/tx/signature.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { MAX_STANDARD_TX_WEIGHT } from "bolt/tx/weights.ts";
import {
  checkWitness,
  decodeWitness,
  type DecodeWitnessFailure,
  type WitnessFailure,
  witnessLength,
} from "bolt/tx/witness.ts";
import { feerate as asFeerate, type FeeratePerKw, type Sat, sat, type Weight, weight } from "bolt/units.ts";
import type { TxSignatures } from "bolt/wire/messages.ts";
import { leastPeerFee, leastWitnessWeight, sideWeight } from "bolt/interactive/fees.ts";
import type { CompletedTx, SessionInput, Side } from "bolt/interactive/types.ts";

/** Bytes of a BIP 340 signature without a flag. */
const SCHNORR_LENGTH = 64;

/** The items of a witness. */
export type WitnessStack = readonly Uint8Array[];

/** Why a tx_signatures is refused. */
export type SignaturesFailure =
  | { readonly type: "signatures_wrong_channel" }
  /** For another transaction than the agreed one. */
  | { readonly type: "signatures_wrong_txid" }
  /** Not one witness for each input that the sender added. */
  | { readonly type: "witness_count"; readonly expected: number; readonly count: number }
  /** Not a witness as a transaction serializes it. */
  | {
    readonly type: "witness_malformed";
    readonly serialId: bigint;
    readonly reason: DecodeWitnessFailure["type"];
  }
  /** Empty, not standard, or with a signature flag other than SIGHASH_ALL. */
  | { readonly type: "witness_refused"; readonly serialId: bigint; readonly reason: WitnessFailure["type"] }
  /** A signature that is not good for this transaction. */
  | { readonly type: "witness_bad_signature"; readonly serialId: bigint }
  /** The witnesses make the transaction too heavy to be relayed. */
  | { readonly type: "witness_weight_too_large"; readonly weight: number }
  /**
   * The witnesses are so heavy that the sender's share falls below the agreed fee rate. Whoever has sent its own
   * signatures already keeps the attempt, and may double-spend it.
   */
  | { readonly type: "witness_feerate_too_low"; readonly fee: Sat; readonly minimum: Sat };

/** Good witnesses. */
export interface CheckedSignatures {
  /** In the order of serial ids, as {@link finalizeTx} takes them. */
  readonly witnesses: readonly WitnessStack[];
  /** Whether a script is yet to be run: the node's consensus engine must see the complete transaction. */
  readonly needsConsensusCheck: boolean;
}

/** A side's inputs by rising serial id: the order of its witnesses. */
function inputsOf(completed: CompletedTx, side: Side): readonly SessionInput[] {
  return completed.inputs.filter((input) => input.side === side);
}

/** Checks a side's tx_signatures against the agreed transaction: form, flags, key spends and what the weight costs. */
export function checkTxSignatures(
  completed: CompletedTx,
  side: Side,
  message: TxSignatures,
): Result<CheckedSignatures, SignaturesFailure> {
  if (!sameBytes(message.channel_id, completed.channelId)) return err({ type: "signatures_wrong_channel" });
  if (!sameBytes(message.txid, completed.txid)) return err({ type: "signatures_wrong_txid" });
  const inputs = inputsOf(completed, side);
  if (message.witnesses.length !== inputs.length) {
    return err({ type: "witness_count", expected: inputs.length, count: message.witnesses.length });
  }
  const witnesses: WitnessStack[] = [];
  for (const [i, { serialId, script }] of inputs.entries()) {
    const decoded = decodeWitness(message.witnesses[i]!);
    if (!decoded.ok) return err({ type: "witness_malformed", serialId, reason: decoded.error.type });
    const checked = checkWitness(script, decoded.value);
    if (!checked.ok) return err({ type: "witness_refused", serialId, reason: checked.error.type });
    witnesses.push(decoded.value);
  }
  // Before the costly part: nobody pays for signatures that would be too heavy anyway.
  const failure = weightFailure(completed, side, inputs, witnesses);
  if (failure !== undefined) return err(failure);

  const tx = Transaction.fromBuffer(completed.unsignedTx);
  let needsConsensusCheck = false;
  for (const [i, input] of inputs.entries()) {
    const verdict = verifyKeySpend(completed, tx, input, witnesses[i]!);
    if (verdict === "bad") return err({ type: "witness_bad_signature", serialId: input.serialId });
    if (verdict === "script") needsConsensusCheck = true;
  }
  return ok({ witnesses, needsConsensusCheck });
}

/** Whether a spend is by a key alone: P2WPKH, or P2TR by its key path. */
function isKeySpend(input: SessionInput, stack: WitnessStack): boolean {
  const kind = scriptKind(input.script);
  return kind === "p2wpkh" || (kind === "p2tr" && stack.length === 1);
}

function weightFailure(
  completed: CompletedTx,
  side: Side,
  inputs: readonly SessionInput[],
  witnesses: readonly WitnessStack[],
): SignaturesFailure | undefined {
  const initiator = completed.initiator;
  const outputsOf = (owner: Side) =>
    completed.outputs.filter((o) => o.side === owner || (o.side === "shared" && owner === initiator));
  const charged = sideWeight({
    initiator: side === initiator,
    // One byte more or less of an ECDSA signature is luck, so a key spend always counts the same.
    inputs: inputs.map((input, i) => ({
      witnessWeight: isKeySpend(input, witnesses[i]!)
        ? leastWitnessWeight(input.script)
        : witnessLength(witnesses[i]!),
    })),
    outputs: outputsOf(side),
  });
  const other: Side = side === "local" ? "remote" : "local";
  const whole = charged +
    sideWeight({
      initiator: other === initiator,
      inputs: inputsOf(completed, other),
      outputs: outputsOf(other),
    });
  if (whole > MAX_STANDARD_TX_WEIGHT) return { type: "witness_weight_too_large", weight: whole };
  const minimum = leastPeerFee(completed.feerate, charged);
  const fee = completed.fees[side];
  return fee < minimum ? { type: "witness_feerate_too_low", fee, minimum } : undefined;
}

/** Verifies what one signature decides; `script` where a script must be run. */
function verifyKeySpend(
  completed: CompletedTx,
  tx: Transaction,
  input: SessionInput,
  stack: WitnessStack,
): "good" | "bad" | "script" {
  const program = witnessProgram(input.script)?.program;
  const [signature, pubkey] = stack;
  if (program === undefined || signature === undefined || !isKeySpend(input, stack)) return "script";
  const index = completed.inputs.findIndex((other) => other.serialId === input.serialId);
  if (scriptKind(input.script) === "p2tr") {
    const hash = tx.hashForWitnessV1(
      index,
      completed.inputs.map((other) => other.script),
      completed.inputs.map((other) => other.amount),
      signature.length === SCHNORR_LENGTH ? Transaction.SIGHASH_DEFAULT : SIGHASH_ALL,
    );
    return ecc().verifySchnorr(hash, signature.slice(0, SCHNORR_LENGTH), program) ? "good" : "bad";
  }
  const der = parseDerWithSighash(signature);
  if (!der.ok || pubkey === undefined || !sameBytes(hash160(pubkey), program)) return "bad";
  const hash = tx.hashForWitnessV0(index, p2wpkhScriptCode(program), input.amount, SIGHASH_ALL);
  return ecc().verifyEcdsa(hash, der.value.signature, pubkey) ? "good" : "bad";
}

/** The complete transaction. */
export interface FinalizedTx {
  readonly tx: Uint8Array;
  /** In the byte order of the wire; the agreed one, since witnesses are not in it. */
  readonly txid: Uint8Array;
  readonly weight: Weight;
  /** Rounded down. */
  readonly feerate: FeeratePerKw;
}

/** Why witnesses do not make the transaction complete: a mistake of the caller. */
export type FinalizeFailure =
  | { readonly type: "finalize_witness_count"; readonly side: Side }
  /** A CompletedTx that no session made. */
  | {
    readonly type: "finalize_corrupt_transaction";
    readonly reason: BuildInteractiveFailure["type"] | WitnessesFailure["type"] | "txid";
  };

/** The transaction with both sides' witnesses, each by rising serial id. No signature is verified here. */
export function finalizeTx(
  completed: CompletedTx,
  ourWitnesses: readonly WitnessStack[],
  theirWitnesses: readonly WitnessStack[],
): Result<FinalizedTx, FinalizeFailure> {
  const funding = completed.outputs[completed.fundingOutputIndex];
  if (funding === undefined) {
    return err({ type: "finalize_corrupt_transaction", reason: "no_funding_output" });
  }
  const built = buildInteractive({ ...completed, funding });
  if (!built.ok) return err({ type: "finalize_corrupt_transaction", reason: built.error.type });
  if (!sameBytes(built.value.txid, completed.txid)) {
    return err({ type: "finalize_corrupt_transaction", reason: "txid" });
  }
  const named: { serialId: bigint; stack: WitnessStack }[] = [];
  for (const [side, stacks] of [["local", ourWitnesses], ["remote", theirWitnesses]] as const) {
    const inputs = inputsOf(completed, side);
    if (inputs.length !== stacks.length) return err({ type: "finalize_witness_count", side });
    named.push(...inputs.map(({ serialId }, i) => ({ serialId, stack: stacks[i]! })));
  }
  const tx = withWitnesses(built.value, named);
  if (!tx.ok) return err({ type: "finalize_corrupt_transaction", reason: tx.error.type });
  const w = weight(tx.value.weight());
  const fee = sat(completed.fees.local + completed.fees.remote);
  return ok({
    tx: tx.value.toBuffer(),
    txid: completed.txid,
    weight: w,
    feerate: asFeerate(Math.min(0xffff_ffff, Number((fee * 1000n) / BigInt(w)))),
  });
}

/** The text that tells the peer what is wrong with its tx_signatures: printable ASCII. */
export function signaturesFailureText(failure: SignaturesFailure): string {
  switch (failure.type) {
    case "signatures_wrong_channel":
      return "tx_signatures of another channel";
    case "signatures_wrong_txid":
      return "tx_signatures of another transaction";
    case "witness_count":
      return `tx_signatures has ${failure.count} witnesses instead of ${failure.expected}`;
    case "witness_malformed":
      return `witness of input ${failure.serialId} is malformed: ${failure.reason}`;
    case "witness_refused":
      return `witness of input ${failure.serialId} is refused: ${failure.reason}`;
    case "witness_bad_signature":
      return `signature of input ${failure.serialId} is not good`;
    case "witness_weight_too_large":
      return `transaction weight ${failure.weight} is not relayed`;
    case "witness_feerate_too_low":
      return `with these witnesses ${failure.minimum} sat of fee are due, not ${failure.fee} sat`;
  }
}
