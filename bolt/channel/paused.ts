import type { ChannelMachine } from "./types.ts";

/** Why no HTLC may be added now; undefined when the channel is usable. */
export function paused(
  state: Pick<ChannelMachine, "channel" | "onChain" | "link" | "shutdownWanted">,
): string | undefined {
  const { channel, onChain } = state;
  if (channel.errorText !== null) return "the channel has failed";
  if (onChain.type === "sibling_confirmed") return "another funding transaction confirmed";
  if (onChain.type === "undone") return "the funding transaction is no longer confirmed";
  if (channel.state !== "CHANNELD_NORMAL" || state.shutdownWanted !== null) {
    return "the channel is shutting down";
  }
  if (state.link !== "up") return "the peer is not connected";
  return undefined;
}
