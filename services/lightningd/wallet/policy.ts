/** What we put into channels that others open: Core Lightning's funder. Pure; the dice are thrown by the caller. */
import { isSat, type Sat, sat } from "bolt/units.ts";

/** The funder-* options. */
export interface FunderPolicy {
  /** `match`: a percentage of theirs; `available`: a percentage of our coins; `fixed`: an amount. */
  readonly policy: "match" | "available" | "fixed";
  /** The percentage, or the satoshi. */
  readonly mod: bigint;
  readonly minTheirFunding: Sat;
  readonly maxTheirFunding?: Sat;
  readonly perChannelMin: Sat;
  readonly perChannelMax?: Sat;
  readonly reserveTank: Sat;
  /** Percent. */
  readonly fuzzPercent: number;
  /** Percent. */
  readonly fundProbability: number;
}

/** Most coins of ours that unconfirmed opens of one peer may hold. */
export const MAX_INPUTS_PER_PEER = 4;
/** The same for all peers. */
export const MAX_INPUTS_IN_ALL = 20;

/** An open that asks for a contribution. */
export interface FunderRequest {
  readonly theirFunding: Sat;
  /** What our coins can put in after fees. */
  readonly available: Sat;
  /** Largest capacity of a channel. */
  readonly channelMax: Sat;
  /** Two throws in [0, 1): whether, and how far off. */
  readonly dice: { readonly probability: number; readonly fuzz: number };
}

/** Why nothing is put in. */
export type FunderRefusal =
  | "fund_probability"
  | "no_channel_space"
  | "reserve_tank"
  | "min_their_funding"
  | "max_their_funding"
  | "per_channel_min";

/** The amount that the policy wants; with 0, why. */
export function ourFunding(
  policy: FunderPolicy,
  request: FunderRequest,
): { readonly amount: Sat; readonly refusal?: FunderRefusal } {
  const { theirFunding, available, channelMax, dice } = request;
  const refuse = (refusal: FunderRefusal) => ({ amount: sat(0), refusal });
  if (dice.probability * 100 >= policy.fundProbability) return refuse("fund_probability");
  const space = channelMax - theirFunding;
  if (space <= 0n) return refuse("no_channel_space");
  const spendable = available - policy.reserveTank;
  if (spendable <= 0n) return refuse("reserve_tank");
  if (theirFunding < policy.minTheirFunding) return refuse("min_their_funding");
  if (policy.maxTheirFunding !== undefined && theirFunding > policy.maxTheirFunding) {
    return refuse("max_their_funding");
  }
  const wanted = fuzzed(base(policy, theirFunding, available), policy.fuzzPercent, dice.fuzz);
  const bounds = [space, spendable, ...(policy.perChannelMax === undefined ? [] : [policy.perChannelMax])];
  const amount = bounds.reduce((least, bound) => bound < least ? bound : least, wanted);
  if (amount < policy.perChannelMin) return refuse("per_channel_min");
  return { amount: isSat(amount) ? amount : sat(0) };
}

function base(policy: FunderPolicy, theirFunding: bigint, available: bigint): bigint {
  switch (policy.policy) {
    case "match":
      return (theirFunding * policy.mod) / 100n;
    case "available":
      return (available * policy.mod) / 100n;
    case "fixed":
      return policy.mod;
  }
}

/** Off by up to `percent`, either way. */
function fuzzed(amount: bigint, percent: number, throwOf: number): bigint {
  const reach = (amount * BigInt(percent)) / 100n;
  const offset = BigInt(Math.floor(throwOf * Number(2n * reach + 1n))) - reach;
  return amount + offset;
}
