/** What open_channel2 and accept_channel2 say, judged (BOLT 2, channel establishment v2), and our own side of them. */
import { ecc } from "bolt/crypto/ecc.ts";
import type { Side } from "bolt/interactive/types.ts";
import { temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { checkInitialFunds } from "bolt/tx/initial.ts";
import { isStandardShutdownScript, MIN_DUST_LIMIT } from "bolt/tx/scripts.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import {
  feerate,
  FEERATE_FLOOR,
  type FeeratePerKw,
  isSat,
  MAX_SAT,
  msat,
  type Sat,
  sat,
} from "bolt/units.ts";
import { parseChannelType } from "bolt/wire/channel_type.ts";
import { Features, hasFeature } from "bolt/wire/features.ts";
import type { AcceptChannel2, OpenChannel2 } from "bolt/wire/messages.ts";
import type { ChannelParams, PartyParams, Policy, Setup } from "./types.ts";

/** HTLCs that one side may have open: more would make a commitment too heavy to be relayed (BOLT 2). */
export const MAX_ACCEPTED_HTLCS = 483;
/** Below this many satoshis no option_support_large_channel is needed (BOLT 2). */
export const LARGE_CHANNEL = 1n << 24n;
/** The lowest commitment fee rate: below it a commitment would not even be relayed. */
export const MIN_COMMITMENT_FEERATE = FEERATE_FLOOR;
/** A commitment fee rate beyond this is an attack or a defect, never a market: 1,000 sat/vbyte. */
export const MAX_COMMITMENT_FEERATE = feerate(250_000);
/** A peer that wants more confirmations than this would keep our money in limbo. */
export const MAX_MINIMUM_DEPTH = 144;
/** channel_flags, bit 0. */
const ANNOUNCE_CHANNEL = 1;
const MAX_MSAT = MAX_SAT * 1000n;

/** Why a peer's terms are refused; the text of the error that says so. Only numbers of the peer's, never its bytes. */
export type TermsFailure = { readonly type: "terms_refused"; readonly rule: string; readonly text: string };

function refuse(rule: string, text: string): Result<never, TermsFailure> {
  return err({ type: "terms_refused", rule, text });
}

type PartyFields = Pick<
  AcceptChannel2,
  | "dust_limit_satoshis"
  | "max_htlc_value_in_flight_msat"
  | "htlc_minimum_msat"
  | "to_self_delay"
  | "max_accepted_htlcs"
  | "funding_pubkey"
  | "revocation_basepoint"
  | "payment_basepoint"
  | "delayed_payment_basepoint"
  | "htlc_basepoint"
  | "first_per_commitment_point"
  | "second_per_commitment_point"
  | "upfront_shutdown_script"
>;

/** Whether both inits have a feature. */
export function negotiated(setup: Setup, name: Parameters<typeof hasFeature>[1]): boolean {
  const [ours, theirs] = [Features.parse(setup.features.local), Features.parse(setup.features.remote)];
  return ours.ok && theirs.ok && hasFeature(ours.value, name) && hasFeature(theirs.value, name);
}

/** Whether a script may stand in `shutdown` or be fixed upfront, with this peer (BOLT 2, shutdown). */
export function acceptableShutdownScript(setup: Setup, script: Uint8Array): boolean {
  return isStandardShutdownScript(script, {
    anysegwit: negotiated(setup, "option_shutdown_anysegwit"),
    simpleClose: negotiated(setup, "option_simple_close"),
  });
}

/** The fields that both messages have (items 7 to 9 and 16). */
function checkParty(setup: Setup, m: PartyFields): Result<PartyParams, TermsFailure> {
  const { policy } = setup;
  const points = [
    m.funding_pubkey,
    m.revocation_basepoint,
    m.payment_basepoint,
    m.delayed_payment_basepoint,
    m.htlc_basepoint,
    m.first_per_commitment_point,
    m.second_per_commitment_point,
  ];
  if (!points.every((point) => ecc().isPoint(point))) return refuse("points", "a key is not a valid point");
  if (m.to_self_delay > policy.maxToSelfDelay) {
    return refuse(
      "to_self_delay",
      `to_self_delay ${m.to_self_delay} is larger than ${policy.maxToSelfDelay}`,
    );
  }
  if (m.max_accepted_htlcs === 0 || m.max_accepted_htlcs > MAX_ACCEPTED_HTLCS) {
    return refuse(
      "max_accepted_htlcs",
      `max_accepted_htlcs ${m.max_accepted_htlcs} is not 1 to ${MAX_ACCEPTED_HTLCS}`,
    );
  }
  if (m.dust_limit_satoshis < MIN_DUST_LIMIT || m.dust_limit_satoshis > policy.maxDustLimit) {
    return refuse(
      "dust_limit_satoshis",
      `dust_limit_satoshis ${m.dust_limit_satoshis} is not ${MIN_DUST_LIMIT} to ${policy.maxDustLimit}`,
    );
  }
  const upfront = negotiated(setup, "option_upfront_shutdown_script");
  // BOLT 2 asks for an empty one, but Core Lightning leaves it out: both bind the peer to nothing.
  const script = upfront ? m.upfront_shutdown_script ?? new Uint8Array() : null;
  if (script !== null && script.length > 0 && !acceptableShutdownScript(setup, script)) {
    return refuse("upfront_shutdown_script", "upfront_shutdown_script is not of an accepted form");
  }
  // A huge htlc_minimum or in-flight limit is capped, not refused: nothing of ours depends on more.
  const cap = (value: bigint) => msat(value > MAX_MSAT ? MAX_MSAT : value);
  return ok({
    fundingPubkey: m.funding_pubkey,
    revocationBasepoint: m.revocation_basepoint,
    paymentBasepoint: m.payment_basepoint,
    delayedPaymentBasepoint: m.delayed_payment_basepoint,
    htlcBasepoint: m.htlc_basepoint,
    firstPerCommitmentPoint: m.first_per_commitment_point,
    secondPerCommitmentPoint: m.second_per_commitment_point,
    dustLimit: sat(m.dust_limit_satoshis),
    maxHtlcValueInFlight: cap(m.max_htlc_value_in_flight_msat),
    htlcMinimum: cap(m.htlc_minimum_msat),
    toSelfDelay: m.to_self_delay,
    maxAcceptedHtlcs: m.max_accepted_htlcs,
    upfrontShutdownScript: script,
  });
}

/** Only the one type that every node speaks, plain or with an alias; zero-conf needs trust that nobody has yet (item 5). */
function checkChannelType(setup: Setup, bytes: Uint8Array | undefined): Result<Uint8Array, TermsFailure> {
  if (bytes === undefined) return refuse("channel_type", "channel_type is missing");
  const parsed = parseChannelType(bytes);
  if (!parsed.ok) return refuse("channel_type", parsed.error.reason);
  if (parsed.value.zeroconf) return refuse("channel_type", "option_zeroconf is not accepted");
  if (parsed.value.scidAlias && !negotiated(setup, "option_scid_alias")) {
    return refuse("channel_type", "option_scid_alias was not negotiated");
  }
  return ok(bytes);
}

/** A funding amount, or the sum of both, as far as one side's word goes (item 12). */
function checkAmount(setup: Setup, amount: bigint): Result<Sat, TermsFailure> {
  if (!isSat(amount)) return refuse("funding_satoshis", "funding_satoshis is more than all bitcoin");
  const large = setup.policy.largeChannels && negotiated(setup, "option_support_large_channel");
  if (amount >= LARGE_CHANNEL && !large) {
    return refuse("funding_satoshis", `${amount} sat needs option_support_large_channel`);
  }
  return ok(amount);
}

/** A judged open_channel2. */
export interface CheckedOpen {
  readonly remote: PartyParams;
  readonly theirFunding: Sat;
  readonly fundingFeerate: FeeratePerKw;
  readonly commitmentFeerate: FeeratePerKw;
  readonly channelType: Uint8Array;
  readonly requireConfirmedInputs: boolean;
}

/** Judges a received open_channel2 (items 2, 4 to 9, 12, 14, 16, 18; lock-step amounts come with {@link checkFunds}). */
export function checkOpenChannel2(setup: Setup, m: OpenChannel2): Result<CheckedOpen, TermsFailure> {
  if (!sameBytes(m.chain_hash, setup.chainHash)) return refuse("chain_hash", "unknown chain");
  if (!sameBytes(m.temporary_channel_id, temporaryChannelIdV2(m.revocation_basepoint))) {
    return refuse("temporary_channel_id", "temporary_channel_id is not derived from revocation_basepoint");
  }
  const channelType = checkChannelType(setup, m.channel_type);
  if (!channelType.ok) return channelType;
  if ((m.channel_flags & ANNOUNCE_CHANNEL) !== 0) {
    return refuse("channel_flags", "announced channels are not supported yet");
  }
  const amount = checkAmount(setup, m.funding_satoshis);
  if (!amount.ok) return amount;
  const { commitment_feerate_perkw: rate } = m;
  if (rate < MIN_COMMITMENT_FEERATE || rate > MAX_COMMITMENT_FEERATE) {
    return refuse("commitment_feerate_perkw", `commitment feerate ${rate} is not accepted`);
  }
  const remote = checkParty(setup, m);
  if (!remote.ok) return remote;
  return ok({
    remote: remote.value,
    theirFunding: amount.value,
    fundingFeerate: feerate(m.funding_feerate_perkw),
    commitmentFeerate: feerate(rate),
    channelType: channelType.value,
    requireConfirmedInputs: m.require_confirmed_inputs !== undefined,
  });
}

/** A judged accept_channel2. */
export interface CheckedAccept {
  readonly remote: PartyParams;
  readonly theirFunding: Sat;
  readonly minimumDepth: number;
  readonly requireConfirmedInputs: boolean;
}

/** Judges the accept_channel2 that answers our open (items 2, 5, 7 to 9, 12, 14 to 16). */
export function checkAcceptChannel2(
  setup: Setup,
  open: OpenChannel2,
  m: AcceptChannel2,
): Result<CheckedAccept, TermsFailure> {
  if (!sameBytes(m.temporary_channel_id, open.temporary_channel_id)) {
    return refuse("temporary_channel_id", "accept_channel2 of another open");
  }
  if (m.channel_type === undefined || !sameBytes(m.channel_type, open.channel_type!)) {
    return refuse("channel_type", "channel_type is not the one that was proposed");
  }
  const total = checkAmount(setup, open.funding_satoshis + m.funding_satoshis);
  if (!total.ok) return total;
  // 0 is for zero-conf only; without that type we wait anyway.
  if (m.minimum_depth > MAX_MINIMUM_DEPTH) {
    return refuse("minimum_depth", `minimum_depth ${m.minimum_depth} is larger than ${MAX_MINIMUM_DEPTH}`);
  }
  const remote = checkParty(setup, m);
  if (!remote.ok) return remote;
  if (sameBytes(m.revocation_basepoint, open.revocation_basepoint)) {
    return refuse("revocation_basepoint", "revocation_basepoint is ours");
  }
  return ok({
    remote: remote.value,
    theirFunding: sat(m.funding_satoshis),
    minimumDepth: m.minimum_depth,
    requireConfirmedInputs: m.require_confirmed_inputs !== undefined,
  });
}

/** Whether both contributions make a channel (items 11 and 12): capacity, fee and anchors, reserves. */
export function checkFunds(
  setup: Setup,
  opener: Side,
  params: Pick<ChannelParams, "commitmentFeerate"> & {
    readonly local: Pick<PartyParams, "dustLimit">;
    readonly remote: Pick<PartyParams, "dustLimit">;
  },
  contributions: { readonly local: Sat; readonly remote: Sat },
): Result<Sat, TermsFailure> {
  const total = checkAmount(setup, contributions.local + contributions.remote);
  if (!total.ok) return total;
  if (total.value < setup.policy.minCapacity) {
    return refuse(
      "min_capacity",
      `a channel of ${total.value} sat is smaller than ${setup.policy.minCapacity}`,
    );
  }
  const funds = checkInitialFunds({
    format: "anchors",
    opener,
    feerate: params.commitmentFeerate,
    local: { funding: contributions.local, dustLimit: params.local.dustLimit },
    remote: { funding: contributions.remote, dustLimit: params.remote.dustLimit },
  });
  if (funds.ok) return ok(total.value);
  switch (funds.error.type) {
    case "funding_amount_too_large":
      return refuse("funding_satoshis", "both contributions are more than all bitcoin");
    case "opener_cannot_pay_fee":
      return refuse("funding_satoshis", `the opener needs ${funds.error.needed} sat for fee and anchors`);
    case "both_below_reserve":
      return refuse("funding_satoshis", "neither side would have more than its reserve");
  }
}

/** Our side's parameters, from policy and hsmd's keys. */
export function localParams(setup: Setup, policy: Policy = setup.policy): PartyParams {
  return {
    ...setup.localKeys,
    dustLimit: policy.dustLimit,
    maxHtlcValueInFlight: policy.maxHtlcValueInFlight,
    htlcMinimum: policy.htlcMinimum,
    toSelfDelay: policy.toSelfDelay,
    maxAcceptedHtlcs: policy.maxAcceptedHtlcs,
    upfrontShutdownScript: negotiated(setup, "option_upfront_shutdown_script")
      ? setup.upfrontShutdownScript ?? new Uint8Array()
      : null,
  };
}

/** The fields of open_channel2 and accept_channel2 that say our parameters. */
export function partyFields(params: PartyParams) {
  return {
    dust_limit_satoshis: params.dustLimit,
    max_htlc_value_in_flight_msat: params.maxHtlcValueInFlight,
    htlc_minimum_msat: params.htlcMinimum,
    to_self_delay: params.toSelfDelay,
    max_accepted_htlcs: params.maxAcceptedHtlcs,
    funding_pubkey: params.fundingPubkey,
    revocation_basepoint: params.revocationBasepoint,
    payment_basepoint: params.paymentBasepoint,
    delayed_payment_basepoint: params.delayedPaymentBasepoint,
    htlc_basepoint: params.htlcBasepoint,
    first_per_commitment_point: params.firstPerCommitmentPoint,
    second_per_commitment_point: params.secondPerCommitmentPoint,
    ...(params.upfrontShutdownScript === null
      ? {}
      : { upfront_shutdown_script: params.upfrontShutdownScript }),
  };
}
