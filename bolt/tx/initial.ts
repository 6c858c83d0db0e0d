import type { CommitmentKeys } from "bolt/keys/derive.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { type FeeratePerKw, isSat, type Sat, sat, toMsat } from "bolt/units.ts";
import { buildCommitment, type Commitment, type CommitmentFailure } from "bolt/tx/commitment.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { anchorsCost, commitmentFee } from "bolt/tx/weights.ts";

const RESERVE_DIVISOR = 100n;

/** What one side brings to the first commitments. */
export interface InitialSide {
  /** What this side put into the funding output: its balance before fee and anchors. */
  readonly funding: Sat;
  readonly fundingPubkey: Uint8Array;
  /** The keys of the commitment that this side owns, from its per-commitment point 0. */
  readonly keys: Omit<CommitmentKeys, "perCommitmentPoint">;
  /** Blocks that this side asks the *other* one to wait: the `to_self_delay` that it sent. */
  readonly toSelfDelay: number;
  /** The `dust_limit_satoshis` that it sent. */
  readonly dustLimit: Sat;
}

/** What both first commitments follow from. */
export interface InitialSpec {
  readonly format: CommitmentFormat;
  readonly outpoint: OutPoint;
  /** The channel's opener, fixed at its creation whoever starts an RBF: it pays the fee and both anchors. */
  readonly opener: "local" | "remote";
  readonly feerate: FeeratePerKw;
  readonly obscuringFactor: bigint;
  readonly local: InitialSide;
  readonly remote: InitialSide;
}

/** Commitment number 0 of both sides, without signatures. */
export interface InitialCommitments {
  /** Ours, which the peer signs. */
  readonly local: Commitment;
  /** The peer's, which we sign. */
  readonly remote: Commitment;
}

/** Why contributions make no channel (BOLT 2, open_channel: both contributions count). */
export type InitialFundsFailure =
  | { readonly type: "funding_amount_too_large" }
  | { readonly type: "opener_cannot_pay_fee"; readonly needed: Sat; readonly funding: Sat }
  /** Neither side would have more than its reserve: no one could ever pay, nor lose anything by cheating. */
  | { readonly type: "both_below_reserve" };

/** Why there are no first commitments. */
export type InitialFailure =
  | InitialFundsFailure
  | {
    readonly type: "commitment_failed";
    readonly owner: "local" | "remote";
    readonly failure: CommitmentFailure;
  };

/**
 * Reserve that a side of a dual-funded channel must keep: 1 % of the channel, rounded down, but not below the dust limit
 * that the *other* side sent (BOLT 2, channel establishment v2; read as eclair does where the text is ambiguous).
 */
export function channelReserve(total: Sat, otherDustLimit: Sat): Sat {
  const share = total / RESERVE_DIVISOR;
  return share > otherDustLimit ? sat(share) : otherDustLimit;
}

/** Whether both contributions, with the opener paying fee and anchors, make a channel at all (BOLT 2, open_channel). */
export function checkInitialFunds(
  spec: Pick<InitialSpec, "format" | "opener" | "feerate"> & {
    readonly local: Pick<InitialSide, "funding" | "dustLimit">;
    readonly remote: Pick<InitialSide, "funding" | "dustLimit">;
  },
): Result<{ readonly total: Sat }, InitialFundsFailure> {
  const total = spec.local.funding + spec.remote.funding;
  if (!isSat(total)) return err({ type: "funding_amount_too_large" });
  const [opener, accepter] = spec.opener === "local" ? [spec.local, spec.remote] : [spec.remote, spec.local];
  const needed = sat(commitmentFee(spec.format, spec.feerate, 0) + anchorsCost(spec.format));
  if (opener.funding < needed) return err({ type: "opener_cannot_pay_fee", needed, funding: opener.funding });
  const openerKeeps = opener.funding - needed;
  if (
    openerKeeps <= channelReserve(total, accepter.dustLimit) &&
    accepter.funding <= channelReserve(total, opener.dustLimit)
  ) return err({ type: "both_below_reserve" });
  return ok({ total });
}

/**
 * Commitment 0 of both sides from the contributions (BOLT 2, dual funding: there is no push; the balances are the
 * contributions). The peer computes the same two transactions with local and remote exchanged.
 */
export function initialCommitments(spec: InitialSpec): Result<InitialCommitments, InitialFailure> {
  const funds = checkInitialFunds(spec);
  if (!funds.ok) return funds;
  const { total } = funds.value;
  const local = commitmentZero(spec, "local", total);
  if (!local.ok) return err({ type: "commitment_failed", owner: "local", failure: local.error });
  const remote = commitmentZero(spec, "remote", total);
  if (!remote.ok) return err({ type: "commitment_failed", owner: "remote", failure: remote.error });
  return ok({ local: local.value, remote: remote.value });
}

function commitmentZero(
  spec: InitialSpec,
  owner: "local" | "remote",
  amount: Sat,
): Result<Commitment, CommitmentFailure> {
  const [own, other] = owner === "local" ? [spec.local, spec.remote] : [spec.remote, spec.local];
  return buildCommitment({
    format: spec.format,
    funding: {
      outpoint: spec.outpoint,
      amount,
      ownerPubkey: own.fundingPubkey,
      otherPubkey: other.fundingPubkey,
    },
    commitmentNumber: 0n,
    obscuringFactor: spec.obscuringFactor,
    keys: own.keys,
    toSelfDelay: other.toSelfDelay,
    dustLimit: own.dustLimit,
    feerate: spec.feerate,
    ownerIsOpener: spec.opener === owner,
    ownerBalance: toMsat(own.funding),
    otherBalance: toMsat(other.funding),
    htlcs: [],
  });
}
