/** What an HTLC may be: limits of both sides, reserve, the opener's fee, dust exposure (BOLT 2, adding an HTLC). */
import type { Side } from "bolt/interactive/types.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { type Msat, msat } from "bolt/units.ts";
import { htlcTransactionFee } from "bolt/tx/weights.ts";
import { commitmentFee } from "bolt/tx/weights.ts";
import { feerate as asFeerate, type FeeratePerKw } from "bolt/units.ts";
import { balanceOf, commitmentCost, type Figures, MSAT, otherSide } from "./figures.ts";
import type { ActiveCommitment, ChannelMachine, ChannelPolicy, LockedChannel, NodeFacts } from "./types.ts";

/** The opener can still pay when the fee rate has doubled (BOLT 2: it should, or the channel gets stuck). */
const FEERATE_BUFFER = 2;
/** HTLCs beyond the new one that the opener can still pay for. */
const HTLC_BUFFER = 1;
/** Heights are below, times above (BIP 65). */
export const LOCKTIME_THRESHOLD = 500_000_000;
/** Blocks that an HTLC may lie ahead: more locks money for too long (attack 24). */
export const MAX_CLTV_AHEAD = 2016;
const MAX_U32 = 0xffff_ffff;

/** What the limits follow from, for one funding output. */
export interface LimitsOf {
  readonly channel: LockedChannel;
  readonly active: ActiveCommitment;
  readonly policy: ChannelPolicy;
  readonly node: NodeFacts | null;
}

/** Why an HTLC cannot be added now. */
export type AddFailure =
  | "amount is zero"
  | "amount is below htlc_minimum_msat"
  | "max_accepted_htlcs is reached"
  | "max_htlc_value_in_flight_msat is reached"
  | "amount exceeds the balance above the reserve and the fee"
  | "the opener could not pay the fee"
  | "dust exposure is too high";

/** What trimmed HTLCs and a fee above all reason would cost on a commitment of `owner`, msat (CVE-2021-41591 and after). */
export function dustExposure(
  of: LimitsOf,
  figures: Figures,
  owner: Side,
  more: { readonly untrimmed: number; readonly dust: bigint },
  rate: FeeratePerKw = figures.worst.feerate,
): bigint {
  const { format } = of.channel;
  const ceiling = of.node?.maxFeerate;
  const excess = ceiling === undefined || rate <= ceiling ? 0 : rate - ceiling;
  const fee = excess === 0
    ? 0n
    : commitmentFee(format, asFeerate(excess), figures.worst.untrimmed[owner] + more.untrimmed);
  return figures.worst.dust[owner] + more.dust + fee * MSAT;
}

function buffered(rate: FeeratePerKw): FeeratePerKw {
  return asFeerate(Math.min(MAX_U32, rate * FEERATE_BUFFER));
}

/**
 * What `sender` keeps back of its balance when it adds an HTLC that has an output on the commitments of `outputs` (and
 * none on the others), msat; null: its peer, who opened, could not pay for that output. Both commitments count, and every
 * live HTLC on either.
 */
function keeps(
  of: LimitsOf,
  figures: Figures,
  sender: Side,
  outputs: Readonly<Record<Side, boolean>>,
): bigint | null {
  const { channel, active } = of;
  const { format, opener } = channel;
  const reserve = active.reserves[sender] * MSAT;
  const more = (owner: Side) => (outputs[owner] ? 1 : 0);
  if (opener === sender) {
    const rate = buffered(figures.worst.feerate);
    const cost = (owner: Side) =>
      commitmentCost(format, rate, figures.worst.untrimmed[owner] + more(owner) + HTLC_BUFFER);
    const [local, remote] = [cost("local"), cost("remote")];
    return reserve + (local > remote ? local : remote) * MSAT;
  }
  const openerReserve = active.reserves[opener] * MSAT;
  for (const owner of ["local", "remote"] as const) {
    if (!outputs[owner]) continue;
    const cost = commitmentCost(format, figures.worst.feerate, figures.worst.untrimmed[owner] + more(owner)) *
      MSAT;
    const [a, b] = [balanceOf(figures.local, opener), balanceOf(figures.remote, opener)];
    if ((a < b ? a : b) < openerReserve + cost) return null;
  }
  return reserve;
}

/** Which commitments an HTLC of this sender and amount has an output on. */
function outputsOf(figures: Figures, sender: Side, amount: bigint): Record<Side, boolean> {
  const htlc = { offered: sender === "local", amount: amount as Msat };
  return { local: !figures.trims("local", htlc), remote: !figures.trims("remote", htlc) };
}

/** Whether `sender` may add an HTLC by the rules that we keep ourselves. `sender` remote: what we think of the peer. */
export function checkSend(of: LimitsOf, figures: Figures, sender: Side, amount: Msat): AddFailure | null {
  const receiver = otherSide(sender);
  const limits = of.channel.limits[receiver];
  if (amount === 0n) return "amount is zero";
  if (amount < limits.htlcMinimum) return "amount is below htlc_minimum_msat";
  // The commitment that the receiver's limits are about is the receiver's own.
  const next = figures[receiver];
  if (next.count[sender] + 1 > limits.maxAcceptedHtlcs) return "max_accepted_htlcs is reached";
  if (next.sum[sender] + amount > limits.maxHtlcValueInFlight) {
    return "max_htlc_value_in_flight_msat is reached";
  }
  const outputs = outputsOf(figures, sender, amount);
  const kept = keeps(of, figures, sender, outputs);
  if (kept === null) return "the opener could not pay the fee";
  if (amount > balanceOf(next, sender) - kept) {
    return "amount exceeds the balance above the reserve and the fee";
  }
  for (const owner of ["local", "remote"] as const) {
    const more = outputs[owner] ? { untrimmed: 1, dust: 0n } : { untrimmed: 0, dust: amount };
    if (dustExposure(of, figures, owner, more) > of.policy.maxDustExposure) {
      return "dust exposure is too high";
    }
  }
  return null;
}

/** Whether the peer's update_add_htlc keeps the rules that BOLT 2 makes the receiver check. */
export function checkReceive(of: LimitsOf, figures: Figures, amount: bigint): Result<Msat, AddFailure> {
  const { channel, active } = of;
  const limits = channel.limits.local;
  if (amount === 0n) return err("amount is zero");
  if (amount < limits.htlcMinimum) return err("amount is below htlc_minimum_msat");
  const next = figures.local;
  if (next.count.remote + 1 > limits.maxAcceptedHtlcs) return err("max_accepted_htlcs is reached");
  if (next.sum.remote + amount > limits.maxHtlcValueInFlight) {
    return err("max_htlc_value_in_flight_msat is reached");
  }
  let kept = active.reserves.remote * MSAT;
  // The balance bounds the amount, which makes it one in range.
  if (amount > next.toRemote - kept) return err("amount exceeds the balance above the reserve and the fee");
  if (channel.opener === "remote") {
    const more = figures.trims("local", { offered: false, amount: msat(amount) }, next.feerate) ? 0 : 1;
    kept += commitmentCost(channel.format, next.feerate, next.untrimmed + more) * MSAT;
    if (amount > next.toRemote - kept) return err("amount exceeds the balance above the reserve and the fee");
  }
  return ok(msat(amount));
}

/**
 * The largest amount that {@link checkSend} lets `sender` add now, 0 if none. It tries the three kinds of HTLC apart:
 * trimmed on both commitments, on one, on none.
 */
export function largestSend(of: LimitsOf, figures: Figures, sender: Side): Msat {
  const receiver = otherSide(sender);
  const { channel, policy } = of;
  const limits = channel.limits[receiver];
  const next = figures[receiver];
  if (next.count[sender] + 1 > limits.maxAcceptedHtlcs) return msat(0);
  const inFlight = limits.maxHtlcValueInFlight - next.sum[sender];
  // Amounts from which on an HTLC has an output.
  const from = (owner: Side) => {
    const kind = sender === owner ? "timeout" : "success";
    const fee = htlcTransactionFee(channel.format, figures.worst.feerate, kind);
    return (channel.limits[owner].dustLimit + fee) * MSAT;
  };
  const [local, remote] = [from("local"), from("remote")];
  const [low, high] = local < remote ? [local, remote] : [remote, local];
  const ranges: readonly { readonly least: bigint; readonly most: bigint | null }[] = [
    { least: high, most: null },
    { least: low, most: high - 1n },
    { least: 1n, most: low - 1n },
  ];
  for (const { least, most } of ranges) {
    if (most !== null && most < least) continue;
    const outputs = { local: least >= local, remote: least >= remote };
    const kept = keeps(of, figures, sender, outputs);
    if (kept === null) continue;
    const bounds = [balanceOf(next, sender) - kept, inFlight];
    if (most !== null) bounds.push(most);
    for (const owner of ["local", "remote"] as const) {
      const more = { untrimmed: outputs[owner] ? 1 : 0, dust: 0n };
      const room = policy.maxDustExposure - dustExposure(of, figures, owner, more);
      // A trimmed one is exposed itself; one with an output only adds to the fee.
      if (!outputs[owner]) bounds.push(room);
      else if (room < 0n) bounds.push(0n);
    }
    const amount = bounds.reduce((a, b) => (a < b ? a : b));
    if (amount >= least && amount >= limits.htlcMinimum) return msat(amount);
  }
  return msat(0);
}

/** The limits of each funding output of a machine. */
export function limitsOf(state: Pick<ChannelMachine, "channel" | "policy" | "node">): readonly LimitsOf[] {
  const { channel, policy, node } = state;
  return channel.commitments.active.map((active) => ({ channel, active, policy, node }));
}
