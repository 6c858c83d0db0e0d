/** The opener's update_fee that crosses a shutdown. */
import type { ChannelMachine } from "./types.ts";

/**
 * All that is left is the opener's last fee, which we revoked for and did not sign. Core Lightning's opener raises it as it
 * answers a shutdown, takes our revoke_and_ack for the end and begins the closing, to which a commitment_signed is an
 * offence; others wait for that signature. So the peer has some time to begin (`closing_spoken`), then it is signed
 * (`closing_awaited`). What each side gets of the close is the same with either fee.
 */
export function awaitsClosing({ channel, htlcs, queue, closingAwaited }: ChannelMachine): boolean {
  const { commitments: { fees }, shutdownSent, opener } = channel;
  return !closingAwaited && shutdownSent !== null && opener === "remote" && htlcs.size === 0 &&
    queue.length === 0 && fees.length > 0 && fees.every(({ state }) => state === "SENT_ADD_REVOCATION");
}
