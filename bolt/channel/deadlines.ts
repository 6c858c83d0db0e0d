/** When an HTLC has to be settled on chain, and so the channel fails (BOLT 2, HTLC timeout; item 11). */
import { ON_LOCAL, ON_REMOTE } from "./htlc_state.ts";
import type { Draft } from "./draft.ts";

/** Blocks past its expiry that an HTLC of ours may stay: the peer may be a block or two behind. */
export const OFFERED_GRACE = 2;
/** Blocks before its expiry at which an HTLC that we have the preimage of must be claimed. */
export const FULFILL_DEADLINE = 18;

/** Fails the channel when an HTLC's deadline is over. */
export function checkDeadlines(d: Draft): void {
  const { node } = d.m;
  if (node === null || d.channel.errorText !== null) return;
  for (const htlc of d.htlcs.values()) {
    if (ON_LOCAL[htlc.state] === "out" && ON_REMOTE[htlc.state] === "out") continue;
    if (htlc.offered) {
      if (node.height > htlc.cltvExpiry + OFFERED_GRACE) {
        return d.fail(`HTLC ${htlc.id} of ours expired at ${htlc.cltvExpiry}`);
      }
    } else if (htlc.removal?.type === "fulfill" && node.height + FULFILL_DEADLINE >= htlc.cltvExpiry) {
      return d.fail(`HTLC ${htlc.id} is fulfilled, and expires at ${htlc.cltvExpiry}`);
    }
  }
}
