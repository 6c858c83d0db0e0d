/** What our part of a transaction is worth, and the signatures on our inputs. Pure. */
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";
import type { ParsedTransaction } from "bolt/tx/parse.ts";
import { isWitnessProgram } from "bolt/tx/scripts.ts";
import { type OutPoint, sameBytes, type TxOutput } from "bolt/tx/transaction.ts";
import { MIN_WITNESS_WEIGHT, WITNESS_SCALE } from "bolt/tx/weights.ts";
import { feeCeil, feerate, isSat, weight } from "bolt/units.ts";
import { type KeyTree, MAX_WALLET_INDEX, type WalletKeyPair, type WalletPath } from "./keys.ts";
import { type Refusal, refusal } from "./refusal.ts";

/** Highest fee rate that hsmd pays whatever its caller allows (sat/kw). */
export const MAX_FUNDING_FEERATE = 250_000;

/** An input of ours and its key. */
export interface OwnInput {
  readonly index: number;
  readonly outpoint: OutPoint;
  readonly key: WalletKeyPair;
}

/** What the caller says of a transaction. Indexes are those of the transaction. */
export interface SpendClaim {
  readonly tx: ParsedTransaction;
  /** Previous output of every input, in order. */
  readonly prevouts: readonly { readonly amount: bigint; readonly script: Uint8Array }[];
  readonly inputs: readonly (readonly [index: number, key: WalletPath])[];
  readonly change: readonly (readonly [index: number, key: WalletPath])[];
  /** Outputs to others that count as meant. */
  readonly destinations: readonly number[];
}

/** A claim that holds. */
export interface Spend {
  readonly inputs: readonly OwnInput[];
  readonly destinations: readonly TxOutput[];
  /** Our inputs less our change less the destinations; negative when others pay for us. */
  readonly spent: bigint;
}

function refuse(reason: Refusal["reason"], message: string): { readonly ok: false; readonly error: Refusal } {
  return err(refusal(reason, message));
}

function isPath(path: WalletPath): boolean {
  return Number.isInteger(path.index) && path.index >= 0 && path.index <= MAX_WALLET_INDEX;
}

/** Checks that the inputs and the change are really ours, by their keys, and counts. */
export function checkSpend(keys: KeyTree, claim: SpendClaim): Result<Spend, Refusal> {
  const { tx, prevouts, change, destinations } = claim;
  if (prevouts.length !== tx.inputs.length) {
    return refuse("BAD_REQUEST", "prevouts must be those of every input, in order");
  }
  if (!prevouts.every(({ amount }) => isSat(amount))) {
    return refuse("BAD_REQUEST", "a prevout's amount is absurd");
  }
  let spent = 0n;
  const inputs: OwnInput[] = [];
  for (const [index, path] of claim.inputs) {
    const input = tx.inputs[index];
    const prevout = prevouts[index];
    if (input === undefined || prevout === undefined || !isPath(path)) {
      return refuse("BAD_REQUEST", `inputs: no input ${index} with such a key`);
    }
    const key = keys.wallet(path);
    if (!sameBytes(key.script, prevout.script)) {
      return refuse("BAD_REQUEST", `input ${index} does not spend an output of the key that is named for it`);
    }
    inputs.push({ index, outpoint: input.outpoint, key });
    spent += prevout.amount;
  }
  const counted = new Set<number>();
  for (const [index, path] of change) {
    const output = tx.outputs[index];
    if (output === undefined || !isPath(path)) {
      return refuse("BAD_REQUEST", `change: no output ${index} with such a key`);
    }
    if (!sameBytes(keys.wallet(path).script, output.script)) {
      return refuse(
        "UNNAMED_OUTPUT",
        `output ${index} is not ours: its script is not that of the key named for it`,
      );
    }
    counted.add(index);
    spent -= output.amount;
  }
  const paid: TxOutput[] = [];
  for (const index of destinations) {
    const output = tx.outputs[index];
    if (output === undefined || counted.has(index)) {
      return refuse("BAD_REQUEST", `destinations: no output ${index}, or counted twice`);
    }
    counted.add(index);
    paid.push(output);
    spent -= output.amount;
  }
  return ok({ inputs, destinations: paid, spent });
}

/** Refuses a fee above the caller's bound, or above what any sane fee rate gives for the whole transaction. */
export function checkFee(tx: ParsedTransaction, fee: bigint, maxFee: bigint): Result<null, Refusal> {
  const full = weight(tx.weight + tx.inputs.length * MIN_WITNESS_WEIGHT + WITNESS_SCALE);
  const cap = feeCeil(feerate(MAX_FUNDING_FEERATE), full);
  if (fee > maxFee) return refuse("FEE_TOO_HIGH", `we would pay ${fee} sat, allowed are ${maxFee}`);
  if (fee > cap) return refuse("FEE_TOO_HIGH", `we would pay ${fee} sat, more than any sane fee rate gives`);
  return ok(null);
}

/** Refuses a funding transaction whose txid others could still change: commitment 0 would hang in the air. */
export function checkMalleability(prevouts: SpendClaim["prevouts"]): Result<null, Refusal> {
  const bad = prevouts.findIndex(({ script }) => !isWitnessProgram(script));
  return bad === -1 ? ok(null) : refuse("MALLEABLE_INPUT", `input ${bad} does not spend a witness program`);
}

/** `all` appends SIGHASH_ALL (65 bytes), `default` is SIGHASH_DEFAULT (64 bytes); both cover the same (BIP 341). */
export type TaprootSighash = "all" | "default";

/** Key-path signature of one of our inputs (BIP 341). It covers every prevout: one that was lied about makes it void. */
export function signInput(
  tx: Transaction,
  prevouts: SpendClaim["prevouts"],
  input: OwnInput,
  sighash: TaprootSighash,
): Uint8Array {
  const type = sighash === "all" ? Transaction.SIGHASH_ALL : Transaction.SIGHASH_DEFAULT;
  const hash = tx.hashForWitnessV1(
    input.index,
    prevouts.map(({ script }) => script),
    prevouts.map(({ amount }) => amount),
    type,
  );
  const signature = ecc().signSchnorr(hash, input.key.secret);
  return sighash === "all" ? Uint8Array.of(...signature, type) : signature;
}
