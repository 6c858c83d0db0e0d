/** What a channel can do now. */
import { msat } from "bolt/units.ts";
import type { Draft } from "./draft.ts";
import { largestSend, limitsOf } from "./limits.ts";
import { paused } from "./paused.ts";
import type { ChannelLevel } from "./types.ts";

/** The level of a channel. What it can send and receive is told also while it is paused. */
export function levelOf(d: Draft): ChannelLevel {
  const { channel } = d;
  let [spendable, receivable] = [0n, 0n];
  for (const [i, of] of limitsOf(d.m).entries()) {
    const figures = d.figures[i];
    if (figures === undefined) continue;
    const [out, back] = [largestSend(of, figures, "local"), largestSend(of, figures, "remote")];
    spendable = i === 0 || out < spendable ? out : spendable;
    receivable = i === 0 || back < receivable ? back : receivable;
  }
  let htlcsOut = d.m.queue.length;
  for (const { offered } of d.htlcs.values()) if (offered) htlcsOut++;
  return {
    state: channel.state,
    paused: paused(d.m) ?? "",
    spendable: msat(spendable),
    receivable: msat(receivable),
    toUs: d.first.local.toLocal,
    feerate: d.first.local.feerate,
    htlcsOut,
    htlcsIn: d.htlcs.size + d.m.queue.length - htlcsOut,
  };
}

/** Whether two levels say the same. */
export function sameLevel(a: ChannelLevel, b: ChannelLevel): boolean {
  return a.state === b.state && a.paused === b.paused && a.spendable === b.spendable &&
    a.receivable === b.receivable && a.toUs === b.toUs && a.feerate === b.feerate &&
    a.htlcsOut === b.htlcsOut && a.htlcsIn === b.htlcsIn;
}
