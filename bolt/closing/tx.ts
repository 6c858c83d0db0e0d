/** Closing transactions (BOLT 3): one input, what each side has, less the fee from whoever pays it. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import type { PerSide, Side } from "bolt/interactive/types.ts";
import { compareBytes, makeTransaction, sameBytes, txidOf, type TxOutput } from "bolt/tx/transaction.ts";
import { dustLimit, fundingScript, scriptKind } from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem, SIGHASH_ALL } from "bolt/tx/signature.ts";
import { witnessV0Sighash } from "bolt/tx/sighash.ts";
import { outputWeight, WITNESS_SCALE } from "bolt/tx/weights.ts";
import { floorSat, type Sat, sat, type Weight, weight } from "bolt/units.ts";
import type { ClosingChannel, SignedClose, Variant } from "./types.ts";

/** nSequence of the legacy form: final. */
const LEGACY_SEQUENCE = 0xffff_ffff;
/** nSequence with option_simple_close: a closer may replace what it offered. */
export const SIMPLE_SEQUENCE = 0xffff_fffd;
/** Version, counts of inputs and outputs, the input with its empty scriptSig, locktime. */
const BASE_WEIGHT = WITNESS_SCALE * (4 + 1 + 41 + 1 + 4);
/** Marker and flag; count, the empty item, two signatures of 72 bytes, the 2-of-2 script of 71, each with its length. */
const WITNESS_WEIGHT = 2 + 1 + 1 + 2 * (1 + 72) + 1 + 71;

/** What a closing transaction is made of. */
export type ClosingTerms = Pick<
  ClosingChannel,
  | "opener"
  | "funding"
  | "capacity"
  | "fundingPubkeys"
  | "toLocal"
  | "toRemote"
  | "dustLimits"
  | "shutdownSent"
  | "shutdownReceived"
>;

/** One form of the transaction. */
export interface ClosingTx {
  readonly tx: Transaction;
  /** Index of the output that pays us; null without one. */
  readonly localOutput: number | null;
  /** What we get of it. */
  readonly local: Sat;
  /** The hash that both funding keys sign. */
  readonly sighash: Uint8Array;
}

/** How a form differs from the legacy one. */
export interface ClosingForm {
  readonly payer: Side;
  readonly sequence: number;
  readonly locktime: number;
}

/** What is whose before the fee, rounded down to whole satoshis. */
export function closingBalances(terms: Pick<ClosingTerms, "toLocal" | "toRemote">): PerSide<Sat> {
  return { local: floorSat(terms.toLocal), remote: floorSat(terms.toRemote) };
}

/** Where each side's money goes. */
function scriptsOf(terms: ClosingTerms): PerSide<Uint8Array> {
  return { local: terms.shutdownSent, remote: terms.shutdownReceived };
}

/** Expected weight of a close with both outputs; what fee rates are applied to. */
export function closingWeight(terms: ClosingTerms): Weight {
  const outputs = outputWeight(terms.shutdownSent.length) + outputWeight(terms.shutdownReceived.length);
  return weight(BASE_WEIGHT + WITNESS_WEIGHT + outputs);
}

/** The 2-of-2 script that the funding output pays to. */
function witnessScript(terms: ClosingTerms): Uint8Array {
  return fundingScript(terms.fundingPubkeys.local, terms.fundingPubkeys.remote);
}

/** What each side gets at a fee; null when who pays it cannot. */
export function closingAmounts(terms: ClosingTerms, payer: Side, fee: Sat): PerSide<Sat> | null {
  const balances = closingBalances(terms);
  if (fee > balances[payer]) return null;
  return { ...balances, [payer]: sat(balances[payer] - fee) };
}

/** A closing transaction with these outputs; null when the payer cannot pay, or nothing is left. */
export function closingTx(
  terms: ClosingTerms,
  fee: Sat,
  variant: Variant,
  form: ClosingForm = { payer: terms.opener, sequence: LEGACY_SEQUENCE, locktime: 0 },
): ClosingTx | null {
  const amounts = closingAmounts(terms, form.payer, fee);
  if (amounts === null) return null;
  const scripts = scriptsOf(terms);
  const sides: Side[] = (["local", "remote"] as const).filter((side) => variant[side]);
  const outputs = sides.map((side): TxOutput & { side: Side } => ({
    side,
    // What is paid to nobody goes to the miner.
    amount: scriptKind(scripts[side]) === "op_return" ? sat(0) : amounts[side],
    script: scripts[side],
  }));
  if (outputs.length === 0) return null;
  // BIP 69; of two equal outputs it does not matter which is whose.
  outputs.sort((a, b) =>
    a.amount === b.amount ? compareBytes(a.script, b.script) : a.amount < b.amount ? -1 : 1
  );
  const tx = makeTransaction({
    locktime: form.locktime,
    inputs: [{ outpoint: terms.funding, sequence: form.sequence }],
    outputs,
  });
  const index = outputs.findIndex((output) => output.side === "local");
  return {
    tx,
    localOutput: index === -1 ? null : index,
    local: outputs[index]?.amount ?? sat(0),
    sighash: witnessV0Sighash(tx, 0, witnessScript(terms), terms.capacity),
  };
}

/** The outputs of an offer: none below the offering side's dust limit, and none of nothing (BOLT 3, closing). */
export function offeredVariant(terms: ClosingTerms, by: Side, fee: Sat): Variant {
  const amounts = closingAmounts(terms, terms.opener, fee);
  const limit = terms.dustLimits[by];
  const keeps = (side: Side) => amounts !== null && amounts[side] >= limit && amounts[side] > 0n;
  return { local: keeps("local"), remote: keeps("remote") };
}

/** Outputs that a peer may have signed for: it may leave out its own, and measures dust by its limit or by ours. */
function possibleVariants(terms: ClosingTerms, fee: Sat): Variant[] {
  const theirs = offeredVariant(terms, "remote", fee);
  const ours = offeredVariant(terms, "local", fee);
  const all = [theirs, { ...theirs, remote: false }, ours, { ...ours, remote: false }, {
    local: true,
    remote: true,
  }];
  return all.filter((variant, i) =>
    all.findIndex((other) => other.local === variant.local && other.remote === variant.remote) === i
  );
}

/** Which transaction a peer's signature is good for. */
export type SignedVariant =
  | { readonly type: "signed"; readonly variant: Variant; readonly tx: ClosingTx }
  /** Good for a transaction that nobody relays: an output is dust by its script (BOLT 2: the channel fails). */
  | { readonly type: "dust" }
  /** Good for none, or its s is high. */
  | { readonly type: "bad_signature" };

/** Whether the peer's signature is good for this transaction; false for a high s. */
export function isGoodSignature(terms: ClosingTerms, tx: ClosingTx, signature: Uint8Array): boolean {
  return ecc().verifyEcdsa(tx.sighash, signature, terms.fundingPubkeys.remote);
}

/** Finds the transaction that the peer signed at this fee. */
export function findSigned(terms: ClosingTerms, fee: Sat, signature: Uint8Array): SignedVariant {
  for (const variant of possibleVariants(terms, fee)) {
    const tx = closingTx(terms, fee, variant);
    if (tx === null || !isGoodSignature(terms, tx, signature)) continue;
    const dust = tx.tx.outs.some(({ script, value }) => value < dustLimit(script));
    return dust ? { type: "dust" } : { type: "signed", variant, tx };
  }
  return { type: "bad_signature" };
}

/** The complete transaction. */
export function completeClose(
  terms: ClosingTerms,
  fee: Sat,
  { tx, local }: ClosingTx,
  signatures: PerSide<Uint8Array>,
): SignedClose {
  const { local: ours, remote: theirs } = terms.fundingPubkeys;
  const order: readonly Side[] = compareBytes(ours, theirs) <= 0 ? ["local", "remote"] : ["remote", "local"];
  const complete = tx.clone();
  complete.setWitness(0, [
    new Uint8Array(),
    ...order.map((side) => ecdsaWitnessItem(signatures[side], SIGHASH_ALL)),
    witnessScript(terms),
  ]);
  return { txid: txidOf(complete), tx: complete.toBuffer(), fee, local };
}

/** How a transaction that spends a funding output looks. */
export type SpendKind = "mutual" | "unilateral" | "unknown";

/** First byte of a commitment's nSequence, and of its locktime (BOLT 3). */
const COMMITMENT_SEQUENCE = 0x80;
const COMMITMENT_LOCKTIME = 0x20;

/**
 * Sorts what spends a funding output: by its form, and a cooperative close also by where it pays, since both sides' scripts
 * are known then.
 */
export function classifySpend(
  raw: Uint8Array,
  funding: { readonly txid: Uint8Array; readonly vout: number },
  scripts: readonly (Uint8Array | null)[],
): SpendKind {
  let tx: Transaction;
  try {
    tx = Transaction.fromBuffer(raw);
  } catch {
    return "unknown";
  }
  const [input] = tx.ins;
  if (input === undefined || tx.ins.length !== 1 || input.index !== funding.vout) return "unknown";
  if (!sameBytes(input.hash, funding.txid)) return "unknown";
  if (input.sequence >>> 24 === COMMITMENT_SEQUENCE && tx.locktime >>> 24 === COMMITMENT_LOCKTIME) {
    return "unilateral";
  }
  if (input.sequence !== LEGACY_SEQUENCE && input.sequence !== SIMPLE_SEQUENCE) return "unknown";
  const known = new Set(scripts.flatMap((script) => script === null ? [] : [bytesToHex(script)]));
  return tx.outs.every(({ script }) => known.has(bytesToHex(script))) ? "mutual" : "unknown";
}
