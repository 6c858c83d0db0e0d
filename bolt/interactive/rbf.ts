/** What a replacement of a funding transaction must satisfy before its session starts (BOLT 2, tx_init_rbf). */
import { err, ok, type Result } from "bolt/result.ts";
import { feerate, type FeeratePerKw, isSat, type Sat, sat } from "bolt/units.ts";

/** A fee rate must rise by this fraction. */
const RISE_NUMERATOR = 25;
const RISE_DENOMINATOR = 24;
/** And by as many sat/kw: at low rates 25/24 is less than nodes relay; some peers demand both. */
const LEAST_RISE = 25;
const MAX_FEERATE = 0xffff_ffff;

/** Why a proposed replacement is answered with tx_abort. */
export type RbfFailure =
  /** Less than floor(last × 25/24). */
  | { readonly type: "rbf_feerate_too_low"; readonly minimum: FeeratePerKw }
  /** A contribution below zero: nothing can be taken out of a channel that does not exist yet. */
  | { readonly type: "rbf_contribution_negative" }
  /** More than all bitcoin. */
  | { readonly type: "rbf_contribution_too_large" };

/** The lowest fee rate that we accept of a peer that replaces an attempt of this fee rate. */
export function leastPeerRbfFeerate(last: FeeratePerKw): FeeratePerKw {
  return feerate(Math.min(MAX_FEERATE, Math.floor((last * RISE_NUMERATOR) / RISE_DENOMINATOR)));
}

/** The lowest fee rate that we propose to replace an attempt of this fee rate: every peer takes it. */
export function leastOwnRbfFeerate(last: FeeratePerKw): FeeratePerKw {
  return feerate(Math.min(MAX_FEERATE, Math.max(leastPeerRbfFeerate(last), last + LEAST_RISE)));
}

/** Whether the fee rate of a received tx_init_rbf is high enough. */
export function checkRbfFeerate(last: FeeratePerKw, next: FeeratePerKw): Result<FeeratePerKw, RbfFailure> {
  const minimum = leastPeerRbfFeerate(last);
  return next >= minimum ? ok(next) : err({ type: "rbf_feerate_too_low", minimum });
}

/** The contribution in tx_init_rbf or tx_ack_rbf: s64, absent is zero. */
export function checkRbfContribution(contribution: bigint | undefined): Result<Sat, RbfFailure> {
  if (contribution === undefined) return ok(sat(0));
  if (contribution < 0n) return err({ type: "rbf_contribution_negative" });
  return isSat(contribution) ? ok(contribution) : err({ type: "rbf_contribution_too_large" });
}

/** The text of the tx_abort that refuses a replacement: printable ASCII. */
export function rbfAbortText(failure: RbfFailure): string {
  switch (failure.type) {
    case "rbf_feerate_too_low":
      return `feerate must be at least ${failure.minimum} sat/kw`;
    case "rbf_contribution_negative":
      return "a contribution must not be negative";
    case "rbf_contribution_too_large":
      return "a contribution must not exceed 21000000 BTC";
  }
}
