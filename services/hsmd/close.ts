/** What a cooperative close must be for hsmd to sign it. Pure. */
import { Transaction } from "bitcoinjs-lib";
import { err, ok, type Result } from "bolt/result.ts";
import { fundingScript } from "bolt/tx/scripts.ts";
import { witnessV0Sighash } from "bolt/tx/sighash.ts";
import { type OutPoint, sameBytes, sameOutPoint } from "bolt/tx/transaction.ts";
import { WITNESS_SCALE } from "bolt/tx/weights.ts";
import { feeCeil, feerate, floorSat, msat, type Sat, weight } from "bolt/units.ts";
import type { CommitmentContent } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { MAX_COMMITMENT_FEERATE, parseUnsigned } from "./attempt.ts";
import type { ChannelBasis } from "./commitment.ts";
import { type Refusal, refusal } from "./refusal.ts";

/** One output a side. */
const MAX_OUTPUTS = 2;
/** Weight of the two signatures and the script of a funding output, at most. */
const FUNDING_WITNESS_WEIGHT = 224;

/** A close as the caller wants it signed. */
export interface CloseClaim {
  /** Unsigned. */
  readonly tx: Uint8Array;
  readonly outpoint: OutPoint;
  readonly capacity: Sat;
  /** Our newest commitment. */
  readonly local: CommitmentContent;
  /** Index of the output that pays us; null: ours is dust. */
  readonly localOutput: number | null;
  /** What we pay at most. */
  readonly maxFee: bigint;
  /** Whether a script is our wallet's, or was named. */
  readonly isOurs: (script: Uint8Array) => boolean;
}

function refuse(reason: Refusal["reason"], message: string): { readonly ok: false; readonly error: Refusal } {
  return err(refusal(reason, message));
}

/** Checks a close; answers the hash that both funding keys sign. */
export function checkClose(basis: ChannelBasis, claim: CloseClaim): Result<Uint8Array, Refusal> {
  const { outpoint, capacity, local, localOutput } = claim;
  const parsed = parseUnsigned(claim.tx);
  if (!parsed.ok) return parsed;
  const { inputs, outputs } = parsed.value;
  const [input] = inputs;
  if (inputs.length !== 1 || input === undefined || !sameOutPoint(input.outpoint, outpoint)) {
    return refuse("BAD_REQUEST", "a close spends the funding output and nothing else");
  }
  if (outputs.length > MAX_OUTPUTS) return refuse("UNNAMED_OUTPUT", "a close pays two sides at most");
  if (local.htlcIds.length > 0) {
    return refuse("BALANCE_MISMATCH", "an HTLC is still there: its amount is in no output of a close");
  }
  const paid = outputs.reduce((sum, { amount }) => sum + amount, 0n);
  if (paid > capacity) return refuse("BALANCE_MISMATCH", "the outputs are worth more than the channel");
  const highest = feeCeil(
    feerate(MAX_COMMITMENT_FEERATE),
    weight(WITNESS_SCALE * claim.tx.length + FUNDING_WITNESS_WEIGHT),
  );
  const maxFee = claim.maxFee < highest ? claim.maxFee : highest;
  const least = floorSat(msat(local.toLocalMsat)) - maxFee;
  if (localOutput === null) {
    const { localDustLimitSat: ours, remoteDustLimitSat: theirs } = basis.terms;
    // A peer leaves out what is dust by its own measure.
    const dust = ours > theirs ? ours : theirs;
    if (least >= dust) return refuse("BALANCE_MISMATCH", "no output pays us, and ours is no dust");
  } else {
    const output = outputs[localOutput];
    if (output === undefined) return refuse("BAD_REQUEST", `local_output: no output ${localOutput}`);
    if (!claim.isOurs(output.script)) {
      return refuse("UNNAMED_OUTPUT", "our output is neither our wallet's nor named by NameDestinations");
    }
    if (output.amount < least) {
      return refuse("FEE_TOO_HIGH", `we would get ${output.amount} sat, at least ${least} are ours`);
    }
  }
  const script = fundingScript(basis.keys.publicKeys.fundingPubkey, basis.terms.remoteFundingPubkey);
  return ok(witnessV0Sighash(Transaction.fromBuffer(claim.tx), 0, script, capacity));
}

/** Whether one of the named outputs has a script. Its amount is not known when a close is named. */
export function isNamedScript(
  named: readonly { readonly script: Uint8Array }[],
  script: Uint8Array,
): boolean {
  return named.some((output) => sameBytes(output.script, script));
}
