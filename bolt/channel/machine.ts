/** A channel after lock-in as a pure machine. */
import type {
  ChannelAction,
  ChannelInput,
  ChannelMachine,
  ChannelPolicy,
  ChannelStep,
  FundingOnChain,
  Htlc,
  LockedChannel,
  ShutdownForms,
} from "./types.ts";

/** What an owner starts from. */
export interface ChannelSetup {
  readonly channel: LockedChannel;
  /** Every row of `htlcs`, in any order. */
  readonly htlcs: readonly Htlc[];
  readonly forms: ShutdownForms;
  readonly policy: ChannelPolicy;
  readonly onChain: FundingOnChain;
}

/**
 * An owner of a locked channel, from its rows. The first action is a question to hsmd where something is pending: the
 * driver asks it before it feeds anything.
 */
export function fromRows(_setup: ChannelSetup): ChannelStep {
  throw new Error("not there yet");
}

/** Lets everything happen that waits, in order. Never throws at what a peer says. */
export function step(_state: ChannelMachine, _inputs: readonly ChannelInput[]): ChannelStep {
  throw new Error("not there yet");
}

/**
 * What a new stream to lightningd is told of a channel: where every outgoing HTLC stands, every incoming one that waits
 * for a decision, the level.
 */
export function standing(_state: ChannelMachine): readonly ChannelAction[] {
  throw new Error("not there yet");
}

/** Why no update may be made now; undefined when the channel is usable. */
export function paused(_state: ChannelMachine): string | undefined {
  throw new Error("not there yet");
}
