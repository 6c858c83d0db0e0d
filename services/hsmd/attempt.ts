/** A funding attempt as hsmd recomputes it: from terms, amounts and transaction to both commitments. Pure. */
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import { type Basepoints, deriveCommitmentKeys } from "bolt/keys/derive.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { commitmentSighash } from "bolt/tx/sighash.ts";
import { findFundingOutput, fundingScriptPubkey } from "bolt/tx/funding.ts";
import { initialCommitments } from "bolt/tx/initial.ts";
import { type ParsedTransaction, parseTransaction } from "bolt/tx/parse.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { feerate, isSat, type Sat, sat } from "bolt/units.ts";
import { parseChannelType } from "bolt/wire/channel_type.ts";
import type { AttemptTerms, ChannelTerms } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { ChannelKeyTree } from "./keys.ts";
import { type Refusal, refusal } from "./refusal.ts";
import { isZeroOutpoint } from "./rules.ts";

/** Highest commitment fee rate that is signed for: above it a first commitment is a gift to miners (sat/kw). */
export const MAX_COMMITMENT_FEERATE = 100_000;
/** Highest dust limit that is signed for: below it our whole balance would be left to miners. */
export const MAX_DUST_LIMIT = sat(20_000);
/** Longest unsigned transaction that is looked at: 252 inputs and 252 outputs fit many times. */
export const MAX_UNSIGNED_TX_LENGTH = 100_000;
const MAX_U16 = 0xffff;

/** An attempt, recomputed. */
export interface BuiltAttempt {
  readonly tx: ParsedTransaction;
  /** The funding outpoint. */
  readonly outpoint: OutPoint;
  /** Sighash of our commitment 0, which the peer signs. */
  readonly localSighash: Uint8Array;
  /** Sighash of the peer's commitment 0, which we sign. */
  readonly remoteSighash: Uint8Array;
  readonly localContribution: Sat;
}

function refuse(reason: Refusal["reason"], message: string): { readonly ok: false; readonly error: Refusal } {
  return err(refusal(reason, message));
}

function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

function lengthed(bytes: Uint8Array): Uint8Array {
  return concatBytes(u64(BigInt(bytes.length)), bytes);
}

/** Digest of everything in the terms, in a form that no change of a contract changes. */
export function termsDigest(terms: ChannelTerms): Uint8Array {
  return sha256(concatBytes(
    utf8ToBytes("arcus/v1/terms"),
    Uint8Array.of(terms.localIsOpener ? 1 : 0),
    lengthed(terms.channelType),
    lengthed(terms.remoteFundingPubkey),
    lengthed(terms.remoteRevocationBasepoint),
    lengthed(terms.remotePaymentBasepoint),
    lengthed(terms.remoteDelayedPaymentBasepoint),
    lengthed(terms.remoteHtlcBasepoint),
    lengthed(terms.remoteFirstPerCommitmentPoint),
    u64(BigInt(terms.localToSelfDelay)),
    u64(BigInt(terms.remoteToSelfDelay)),
    u64(terms.localDustLimitSat),
    u64(terms.remoteDustLimitSat),
    u64(BigInt(terms.commitmentFeeratePerkw)),
  ));
}

/** Parses a transaction that carries no signature yet. */
export function parseUnsigned(bytes: Uint8Array): Result<ParsedTransaction, Refusal> {
  const parsed = parseTransaction(bytes, MAX_UNSIGNED_TX_LENGTH);
  if (!parsed.ok) return refuse("BAD_REQUEST", `no transaction: ${parsed.error.type}`);
  const { inputs, hasWitness } = parsed.value;
  if (hasWitness || inputs.some((input) => input.scriptSig.length > 0)) {
    return refuse("BAD_REQUEST", "the transaction carries signatures or scripts");
  }
  const seen = new Set<string>();
  for (const { outpoint } of inputs) {
    if (isZeroOutpoint(outpoint)) return refuse("ZERO_OUTPOINT", "an input's txid is all zeros");
    const key = `${outpoint.txid.toString()}:${outpoint.vout}`;
    if (seen.has(key)) return refuse("BAD_REQUEST", "two inputs spend the same output");
    seen.add(key);
  }
  return parsed;
}

/** Checks what never changes of a channel: keys on the curve, a type that we speak, bounded fees and dust. */
export function checkTerms(terms: ChannelTerms): Result<null, Refusal> {
  const type = parseChannelType(terms.channelType);
  if (!type.ok) return refuse("BAD_REQUEST", `terms.channel_type: ${type.error.reason}`);
  const points = [
    terms.remoteFundingPubkey,
    terms.remoteRevocationBasepoint,
    terms.remotePaymentBasepoint,
    terms.remoteDelayedPaymentBasepoint,
    terms.remoteHtlcBasepoint,
    terms.remoteFirstPerCommitmentPoint,
  ];
  if (!points.every((point) => ecc().isPoint(point))) {
    return refuse("BAD_REQUEST", "terms: a remote key is no compressed point");
  }
  if (terms.localToSelfDelay > MAX_U16 || terms.remoteToSelfDelay > MAX_U16) {
    return refuse("BAD_REQUEST", "terms: a to_self_delay is no u16");
  }
  if (terms.commitmentFeeratePerkw > MAX_COMMITMENT_FEERATE) {
    return refuse("FEE_TOO_HIGH", `commitment fee rate above ${MAX_COMMITMENT_FEERATE} sat/kw`);
  }
  if (terms.localDustLimitSat > MAX_DUST_LIMIT || terms.remoteDustLimitSat > MAX_DUST_LIMIT) {
    return refuse("FEE_TOO_HIGH", `a dust limit above ${MAX_DUST_LIMIT} sat leaves our balance to miners`);
  }
  return ok(null);
}

/** The peer's basepoints. */
export function remoteBasepoints(terms: ChannelTerms): Basepoints {
  return {
    revocationBasepoint: terms.remoteRevocationBasepoint,
    paymentBasepoint: terms.remotePaymentBasepoint,
    delayedPaymentBasepoint: terms.remoteDelayedPaymentBasepoint,
    htlcBasepoint: terms.remoteHtlcBasepoint,
  };
}

/**
 * Recomputes an attempt. Checks that the funding output has exactly the script of both funding keys and the sum of both
 * contributions at exactly the named index, and no second one has that script (BOLT 2, the accepter's check; CVE-2019-12998
 * and its kin), then builds commitment 0 of both sides on it.
 */
export function buildAttempt(
  keys: ChannelKeyTree,
  terms: ChannelTerms,
  attempt: AttemptTerms,
): Result<BuiltAttempt, Refusal> {
  const good = checkTerms(terms);
  if (!good.ok) return good;
  const parsed = parseUnsigned(attempt.fundingTx);
  if (!parsed.ok) return parsed;
  const tx = parsed.value;
  const { localContributionSat: local, remoteContributionSat: remote } = attempt;
  const { localDustLimitSat: localDust, remoteDustLimitSat: remoteDust } = terms;
  const total = local + remote;
  if (!isSat(local) || !isSat(remote) || !isSat(total) || !isSat(localDust) || !isSat(remoteDust)) {
    return refuse("BAD_REQUEST", "an amount is more than all bitcoin");
  }
  const ours = keys.publicKeys;
  const script = fundingScriptPubkey(ours.fundingPubkey, terms.remoteFundingPubkey);
  const found = findFundingOutput(tx.outputs, script, total);
  if (!found.ok) return refuse("BALANCE_MISMATCH", `funding transaction: ${found.error.type}`);
  if (found.value !== attempt.outputIndex) {
    return refuse(
      "BALANCE_MISMATCH",
      `the funding output is at index ${found.value}, not ${attempt.outputIndex}`,
    );
  }
  const outpoint = { txid: tx.txid, vout: found.value };

  const theirs = remoteBasepoints(terms);
  const localKeys = deriveCommitmentKeys(ours, theirs, keys.perCommitmentPoint(0n));
  const remoteKeys = deriveCommitmentKeys(theirs, ours, terms.remoteFirstPerCommitmentPoint);
  if (!localKeys.ok || !remoteKeys.ok) {
    return refuse("BAD_REQUEST", "terms: the remote keys give no commitment keys");
  }
  const [openerPayment, accepterPayment] = terms.localIsOpener
    ? [ours.paymentBasepoint, theirs.paymentBasepoint]
    : [theirs.paymentBasepoint, ours.paymentBasepoint];
  const commitments = initialCommitments({
    format: "anchors",
    outpoint,
    opener: terms.localIsOpener ? "local" : "remote",
    feerate: feerate(terms.commitmentFeeratePerkw),
    obscuringFactor: obscuringFactor(openerPayment, accepterPayment),
    // A side's `toSelfDelay` is the one that it sent: it holds for the other side's to_local.
    local: {
      funding: local,
      fundingPubkey: ours.fundingPubkey,
      keys: localKeys.value,
      toSelfDelay: terms.remoteToSelfDelay,
      dustLimit: localDust,
    },
    remote: {
      funding: remote,
      fundingPubkey: terms.remoteFundingPubkey,
      keys: remoteKeys.value,
      toSelfDelay: terms.localToSelfDelay,
      dustLimit: remoteDust,
    },
  });
  if (!commitments.ok) return refuse("BALANCE_MISMATCH", `no first commitments: ${commitments.error.type}`);
  return ok({
    tx,
    outpoint,
    localSighash: commitmentSighash(commitments.value.local),
    remoteSighash: commitmentSighash(commitments.value.remote),
    localContribution: local,
  });
}
