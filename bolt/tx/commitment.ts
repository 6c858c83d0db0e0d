import type { Transaction } from "bitcoinjs-lib";
import type { CommitmentKeys } from "bolt/keys/derive.ts";
import { MAX_COMMITMENT_NUMBER, obscureCommitmentNumber } from "bolt/keys/commitment_number.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { type FeeratePerKw, floorSat, isSat, type Msat, type Sat, sat } from "bolt/units.ts";
import {
  anchorScript,
  type CommitmentFormat,
  fundingScript,
  offeredHtlcScript,
  p2wpkh,
  p2wsh,
  receivedHtlcScript,
  toLocalScript,
  toRemoteAnchorsScript,
} from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem, SIGHASH_ALL } from "bolt/tx/signature.ts";
import { compareBytes, makeTransaction, type OutPoint, txidOf } from "bolt/tx/transaction.ts";
import { ANCHOR_AMOUNT, anchorsCost, commitmentFee, htlcTransactionFee } from "bolt/tx/weights.ts";

const MAX_DELAY = 0xffff;
const MAX_CLTV_EXPIRY = 499_999_999;
const MAX_VOUT = 0xffff_ffff;
const HASH_LENGTH = 32;
const POINT_LENGTH = 33;

/** An HTLC as the owner of a commitment sees it. */
export interface CommitmentHtlc {
  readonly id: bigint;
  /** `offered` by the owner of this commitment, or `received` by it. */
  readonly direction: "offered" | "received";
  readonly amount: Msat;
  /** 32 bytes. */
  readonly paymentHash: Uint8Array;
  /** A block height. */
  readonly cltvExpiry: number;
}

/**
 * All that a commitment transaction follows from (BOLT 3). The owner is the side that may broadcast it; BOLT 3 calls it
 * local and the other one remote, also when we compute the other side's commitment.
 */
export interface CommitmentSpec {
  readonly format: CommitmentFormat;
  readonly funding: {
    readonly outpoint: OutPoint;
    readonly amount: Sat;
    readonly ownerPubkey: Uint8Array;
    readonly otherPubkey: Uint8Array;
  };
  /** 0 for the first commitment; 48 bits. */
  readonly commitmentNumber: bigint;
  /** From both payment basepoints, the channel opener's first. */
  readonly obscuringFactor: bigint;
  readonly keys: Omit<CommitmentKeys, "perCommitmentPoint">;
  /** Blocks that the owner waits for its own money: the `to_self_delay` that the other side sent. */
  readonly toSelfDelay: number;
  /** The `dust_limit_satoshis` that the owner sent. */
  readonly dustLimit: Sat;
  readonly feerate: FeeratePerKw;
  /** Whether the owner opened the channel: the opener pays the fee and both anchors. */
  readonly ownerIsOpener: boolean;
  /** Balances before fee and anchors; with the HTLCs they sum to exactly the funding amount. */
  readonly ownerBalance: Msat;
  readonly otherBalance: Msat;
  readonly htlcs: readonly CommitmentHtlc[];
}

/** What an output of a commitment is for. */
export type CommitmentRole =
  | { readonly type: "to_local" }
  | { readonly type: "to_remote" }
  | { readonly type: "owner_anchor" }
  | { readonly type: "other_anchor" }
  | { readonly type: "htlc"; readonly htlc: CommitmentHtlc };

/** An output of a commitment; its index is its place in {@link Commitment.outputs}. */
export interface CommitmentOutput {
  readonly role: CommitmentRole;
  readonly amount: Sat;
  /** scriptPubKey. */
  readonly script: Uint8Array;
  /** What `script` is the hash of; null for to_remote without anchors, which is P2WPKH. */
  readonly witnessScript: Uint8Array | null;
}

/** An untrimmed HTLC and where it stands. */
export interface HtlcOutput {
  readonly htlc: CommitmentHtlc;
  readonly index: number;
  readonly amount: Sat;
  readonly witnessScript: Uint8Array;
}

/** A commitment transaction without signatures. */
export interface Commitment {
  readonly spec: CommitmentSpec;
  readonly tx: Transaction;
  readonly txid: Uint8Array;
  /** In the order of the transaction. */
  readonly outputs: readonly CommitmentOutput[];
  /** Untrimmed HTLCs in the order of their outputs: the order of signatures in `commitment_signed`. */
  readonly htlcOutputs: readonly HtlcOutput[];
  /** HTLCs too small for an output: their amount goes to the miners. */
  readonly trimmed: readonly CommitmentHtlc[];
  /** Fee as computed from the feerate, before trimming and rounding. */
  readonly baseFee: Sat;
  /** What the miners really get: funding amount less all outputs. */
  readonly fee: Sat;
  /** Witness script of the funding output that it spends. */
  readonly fundingScript: Uint8Array;
}

/** Why a spec gives no commitment. Each names a value that was not checked where it came in. */
export type CommitmentFailure =
  | { readonly type: "bad_commitment_number" }
  | { readonly type: "bad_to_self_delay" }
  | { readonly type: "bad_key" }
  | { readonly type: "bad_funding_outpoint" }
  | { readonly type: "bad_htlc"; readonly id: bigint }
  /** Balances and HTLCs do not sum to the funding amount: money would appear or vanish. */
  | { readonly type: "amounts_differ_from_funding"; readonly sumMsat: bigint }
  /** The opener's balance does not even cover the anchors: outputs would be worth more than the funding. */
  | { readonly type: "outputs_exceed_funding" }
  /** Everything is trimmed: no valid transaction has no outputs. */
  | { readonly type: "no_outputs" };

/**
 * Builds a commitment transaction (BOLT 3, commitment transaction): trims by the owner's dust limit, takes the fee and
 * the anchors from the opener as far as its balance goes, orders outputs by BIP 69 and CLTV.
 */
export function buildCommitment(spec: CommitmentSpec): Result<Commitment, CommitmentFailure> {
  const bad = checkSpec(spec);
  if (bad !== null) return err(bad);
  const untrimmed = spec.htlcs.filter((htlc) => !isTrimmed(spec, htlc));
  const trimmed = spec.htlcs.filter((htlc) => isTrimmed(spec, htlc));
  const baseFee = commitmentFee(spec.format, spec.feerate, untrimmed.length);
  const outputs = sortOutputs([
    ...mainOutputs(spec, untrimmed.length, baseFee),
    ...untrimmed.map((htlc) => htlcOutput(spec, htlc)),
  ]);
  if (outputs.length === 0) return err({ type: "no_outputs" });
  const fee = outputs.reduce<bigint>((left, output) => left - output.amount, spec.funding.amount);
  if (!isSat(fee)) return err({ type: "outputs_exceed_funding" });

  const { locktime, sequence } = obscureCommitmentNumber(spec.commitmentNumber, spec.obscuringFactor);
  const tx = makeTransaction({ locktime, inputs: [{ outpoint: spec.funding.outpoint, sequence }], outputs });
  return ok({
    spec,
    tx,
    txid: txidOf(tx),
    outputs,
    htlcOutputs: outputs.flatMap((output, index) =>
      output.role.type === "htlc"
        ? [{ htlc: output.role.htlc, index, amount: output.amount, witnessScript: output.witnessScript! }]
        : []
    ),
    trimmed,
    baseFee,
    fee,
    fundingScript: fundingScript(spec.funding.ownerPubkey, spec.funding.otherPubkey),
  });
}

/** Whether an HTLC gets no output: after the fee of the transaction that spends it, it is dust (BOLT 3, trimmed outputs). */
export function isTrimmed(
  spec: Pick<CommitmentSpec, "format" | "feerate" | "dustLimit">,
  htlc: Pick<CommitmentHtlc, "direction" | "amount">,
): boolean {
  const kind = htlc.direction === "offered" ? "timeout" : "success";
  return floorSat(htlc.amount) < spec.dustLimit + htlcTransactionFee(spec.format, spec.feerate, kind);
}

function checkSpec(spec: CommitmentSpec): CommitmentFailure | null {
  const { commitmentNumber: number, obscuringFactor: factor, toSelfDelay: delay, funding, keys } = spec;
  if (number < 0n || number > MAX_COMMITMENT_NUMBER || factor < 0n || factor > MAX_COMMITMENT_NUMBER) {
    return { type: "bad_commitment_number" };
  }
  if (!Number.isInteger(delay) || delay < 0 || delay > MAX_DELAY) return { type: "bad_to_self_delay" };
  const points = [
    funding.ownerPubkey,
    funding.otherPubkey,
    keys.revocationPubkey,
    keys.ownerDelayedPubkey,
    keys.ownerHtlcPubkey,
    keys.otherHtlcPubkey,
    keys.otherPaymentPubkey,
  ];
  if (points.some((point) => point.length !== POINT_LENGTH)) return { type: "bad_key" };
  const { txid, vout } = funding.outpoint;
  if (txid.length !== HASH_LENGTH || !Number.isInteger(vout) || vout < 0 || vout > MAX_VOUT) {
    return { type: "bad_funding_outpoint" };
  }
  for (const htlc of spec.htlcs) {
    const { cltvExpiry, paymentHash, id } = htlc;
    const goodExpiry = Number.isInteger(cltvExpiry) && cltvExpiry >= 0 && cltvExpiry <= MAX_CLTV_EXPIRY;
    if (!goodExpiry || paymentHash.length !== HASH_LENGTH) return { type: "bad_htlc", id };
  }
  const sumMsat = spec.htlcs.reduce<bigint>(
    (sum, htlc) => sum + htlc.amount,
    spec.ownerBalance + spec.otherBalance,
  );
  if (sumMsat !== funding.amount * 1000n) return { type: "amounts_differ_from_funding", sumMsat };
  return null;
}

/** Balances of owner and other side in whole satoshis after the opener has paid; the opener's not below zero. */
function balancesAfterFee(spec: CommitmentSpec, baseFee: Sat): { owner: Sat; other: Sat } {
  const cost = baseFee + anchorsCost(spec.format);
  const less = (balance: Sat) => sat(balance > cost ? balance - cost : 0n);
  const owner = floorSat(spec.ownerBalance);
  const other = floorSat(spec.otherBalance);
  return spec.ownerIsOpener ? { owner: less(owner), other } : { owner, other: less(other) };
}

function mainOutputs(spec: CommitmentSpec, untrimmedHtlcs: number, baseFee: Sat): CommitmentOutput[] {
  const { owner, other } = balancesAfterFee(spec, baseFee);
  const outputs: CommitmentOutput[] = [];
  const hasOwner = owner >= spec.dustLimit;
  const hasOther = other >= spec.dustLimit;
  if (hasOwner) {
    const script = toLocalScript(spec.keys.revocationPubkey, spec.keys.ownerDelayedPubkey, spec.toSelfDelay);
    outputs.push(witnessOutput({ type: "to_local" }, owner, script));
  }
  if (hasOther) {
    outputs.push(toRemoteOutput(spec, other));
  }
  if (spec.format === "anchors") {
    if (hasOwner || untrimmedHtlcs > 0) {
      outputs.push(
        witnessOutput({ type: "owner_anchor" }, ANCHOR_AMOUNT, anchorScript(spec.funding.ownerPubkey)),
      );
    }
    if (hasOther || untrimmedHtlcs > 0) {
      outputs.push(
        witnessOutput({ type: "other_anchor" }, ANCHOR_AMOUNT, anchorScript(spec.funding.otherPubkey)),
      );
    }
  }
  return outputs;
}

function toRemoteOutput(spec: CommitmentSpec, amount: Sat): CommitmentOutput {
  const pubkey = spec.keys.otherPaymentPubkey;
  if (spec.format === "anchors") {
    return witnessOutput({ type: "to_remote" }, amount, toRemoteAnchorsScript(pubkey));
  }
  return { role: { type: "to_remote" }, amount, script: p2wpkh(pubkey), witnessScript: null };
}

function htlcOutput(spec: CommitmentSpec, htlc: CommitmentHtlc): CommitmentOutput {
  const script = htlc.direction === "offered"
    ? offeredHtlcScript(spec.format, spec.keys, htlc.paymentHash)
    : receivedHtlcScript(spec.format, spec.keys, htlc.paymentHash, htlc.cltvExpiry);
  return witnessOutput({ type: "htlc", htlc }, floorSat(htlc.amount), script);
}

function witnessOutput(role: CommitmentRole, amount: Sat, witnessScript: Uint8Array): CommitmentOutput {
  return { role, amount, script: p2wsh(witnessScript), witnessScript };
}

/** BIP 69, then CLTV (BOLT 3), then HTLC id: offers alike in hash and amount differ only in what their signature covers. */
function sortOutputs(outputs: readonly CommitmentOutput[]): CommitmentOutput[] {
  return [...outputs].sort((a, b) => {
    if (a.amount !== b.amount) return a.amount < b.amount ? -1 : 1;
    const byScript = compareBytes(a.script, b.script);
    if (byScript !== 0 || a.role.type !== "htlc" || b.role.type !== "htlc") return byScript;
    const byExpiry = a.role.htlc.cltvExpiry - b.role.htlc.cltvExpiry;
    if (byExpiry !== 0) return byExpiry;
    return a.role.htlc.id < b.role.htlc.id ? -1 : 1;
  });
}

/**
 * Witness that spends the funding output: empty item for CHECKMULTISIG, both signatures (64 bytes each, SIGHASH_ALL) in
 * the order of their keys, the script (BOLT 3, commitment transaction inputs).
 */
export function commitmentWitness(
  commitment: Commitment,
  signatures: { readonly owner: Uint8Array; readonly other: Uint8Array },
): readonly Uint8Array[] {
  const { ownerPubkey, otherPubkey } = commitment.spec.funding;
  const owner = ecdsaWitnessItem(signatures.owner, SIGHASH_ALL);
  const other = ecdsaWitnessItem(signatures.other, SIGHASH_ALL);
  const ordered = compareBytes(ownerPubkey, otherPubkey) <= 0 ? [owner, other] : [other, owner];
  return [new Uint8Array(0), ...ordered, commitment.fundingScript];
}
