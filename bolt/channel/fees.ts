/** update_fee: only the opener's, within bounds, and affordable (BOLT 2, updating fees; attacks 18 and 26). */
import type { UpdateFee } from "bolt/wire/messages.ts";
import { feerate as asFeerate, FEERATE_FLOOR, type FeeratePerKw } from "bolt/units.ts";
import type { Draft } from "./draft.ts";
import { balanceOf, commitmentCost, type Figures, MSAT } from "./figures.ts";
import { dustExposure, limitsOf } from "./limits.ts";
import { paused } from "./paused.ts";

/** No commitment has a higher rate than this, whatever the bounds say: hsmd signs none. */
export const MAX_COMMITMENT_FEERATE = asFeerate(100_000);
/** A change smaller than this part of the rate is not worth a commitment round. */
const WORTHWHILE = 10;

/** The rate that the newest update leads to. */
export function newestFeerate(d: Draft): FeeratePerKw {
  const last = d.commitments.fees.at(-1);
  return last === undefined ? d.first.local.feerate : last.feerate;
}

/** The peer's update_fee (item 20). It counts from its next commitment_signed on. */
export function onUpdateFee(d: Draft, message: UpdateFee): void {
  const { channel } = d;
  if (channel.opener !== "remote") return d.fail("update_fee is the opener's");
  if (channel.state === "CLOSINGD_SIGEXCHANGE") return d.fail("update_fee after the shutdown was complete");
  const rate = message.feerate_per_kw;
  const now = newestFeerate(d);
  const least = Math.max(FEERATE_FLOOR, d.m.node?.minFeerate ?? 0);
  const most = Math.min(MAX_COMMITMENT_FEERATE, d.m.node?.maxFeerate ?? MAX_COMMITMENT_FEERATE);
  // What is out of bounds may still come nearer to them.
  if (rate < least && rate < now) return d.fail(`update_fee: ${rate} is below ${least}`);
  if (rate > most && rate > now) return d.fail(`update_fee: ${rate} is above ${most}`);
  const feerate = asFeerate(rate);
  for (const [i, of] of limitsOf(d.m).entries()) {
    const figures = d.figures[i];
    if (figures === undefined) continue;
    const cost = commitmentCost(channel.format, feerate, figures.local.untrimmed) * MSAT;
    if (figures.local.toRemote < cost) return d.fail(`update_fee: the opener cannot afford ${rate}`);
    if (rate > now && tooDusty(of, figures, feerate)) {
      return d.fail(`update_fee: ${rate} makes the dust exposure too high`);
    }
  }
  // A newer one replaces one that no commitment_signed covered: the list stays short whatever a peer says.
  const fees = d.commitments.fees.filter((fee) => fee.state !== "RCVD_ADD_HTLC");
  d.setCommitments({ fees: [...fees, { feerate, state: "RCVD_ADD_HTLC" }] });
}

function tooDusty(of: ReturnType<typeof limitsOf>[number], figures: Figures, rate: FeeratePerKw): boolean {
  return (["local", "remote"] as const).some((owner) =>
    dustExposure(of, figures, owner, { untrimmed: 0, dust: 0n }, rate) > of.policy.maxDustExposure
  );
}

/**
 * The rate that we, as the opener, should ask for now; null: none. Only between two rounds, and only what we can afford
 * on both commitments with everything that is on its way.
 */
export function wantedFeerate(d: Draft): FeeratePerKw | null {
  const { node } = d.m;
  const { channel } = d;
  if (channel.opener !== "local" || node === null || d.commitments.fees.length > 0) return null;
  if (paused(d.m) !== undefined) return null;
  const now = d.first.local.feerate;
  const wanted = asFeerate(Math.min(Math.max(node.feerate, FEERATE_FLOOR), MAX_COMMITMENT_FEERATE));
  if (Math.abs(wanted - now) * WORTHWHILE < now) return null;
  if (wanted < now) return wanted;
  for (const [i, of] of limitsOf(d.m).entries()) {
    const figures = d.figures[i];
    if (figures === undefined) continue;
    const { local, remote } = figures.worst.untrimmed;
    const cost = commitmentCost(channel.format, wanted, Math.max(local, remote)) * MSAT;
    const reserve = of.active.reserves.local * MSAT;
    const balances = [balanceOf(figures.local, "local"), balanceOf(figures.remote, "local")];
    if (balances.some((balance) => balance < reserve + cost)) return null;
    if (tooDusty(of, figures, wanted)) return null;
  }
  return wanted;
}
