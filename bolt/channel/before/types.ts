/** The shapes of a channel after lock-in. All plain data; what the rows hold is {@link LockedChannel}. */
import type { Side } from "bolt/interactive/types.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import type { FeeratePerKw, Msat, Sat } from "bolt/units.ts";
import type { Message } from "bolt/wire/messages.ts";

/** States of a channel that channeld owns, with Core Lightning's names. */
export type OpenState = "CHANNELD_AWAITING_LOCKIN" | "CHANNELD_NORMAL" | "CHANNELD_SHUTTING_DOWN";

/** Both newest commitments on one funding output; one per live outpoint. */
export interface ActiveCommitment {
  /** funding_attempts.seq. */
  readonly seq: number;
  readonly funding: OutPoint;
  readonly capacity: Sat;
  /** Numbers of the newest commitments. */
  readonly localNumber: bigint;
  readonly remoteNumber: bigint;
  readonly toLocal: Msat;
  readonly toRemote: Msat;
  readonly feerate: FeeratePerKw;
}

/** What the rows of a locked channel hold. */
export interface LockedChannel {
  readonly channelId: Uint8Array;
  readonly opener: Side;
  readonly state: OpenState;
  readonly active: readonly ActiveCommitment[];
  /** Our witnesses of the locked funding transaction: a peer that missed them asks again. */
  readonly localTxSignatures: readonly Uint8Array[];
  /** Our and the peer's points for commitment number 1. */
  readonly localNextPoint: Uint8Array;
  readonly remoteNextPoint: Uint8Array;
  /** Our point for commitment number 0. */
  readonly localCurrentPoint: Uint8Array;
  readonly localAlias: bigint;
  readonly remoteAlias: bigint | null;
  readonly shutdownSent: Uint8Array | null;
  readonly shutdownReceived: Uint8Array | null;
  /** Fixed at the open; null or empty: free. */
  readonly remoteUpfrontShutdownScript: Uint8Array | null;
  readonly localShutdownScript: Uint8Array;
  readonly errorText: string | null;
}

/** Which forms of `shutdown` scripts both sides speak. */
export interface ShutdownForms {
  readonly anysegwit: boolean;
  readonly simpleClose: boolean;
}

/** What the chain says of the locked funding output. A level. */
export type FundingOnChain =
  | { readonly type: "confirmed" }
  /** A reorg took the confirmation back: no update and no signature until it returns. */
  | { readonly type: "undone" }
  /** Another attempt of the channel confirmed after the lock: our money is in an output that nobody locked. */
  | { readonly type: "sibling_confirmed"; readonly seq: number };

/** How the connection stands. */
export type ChannelLink = "down" | "reestablishing" | "up";

/** The state of the machine. */
export interface ChannelMachine {
  readonly channel: LockedChannel;
  readonly forms: ShutdownForms;
  readonly link: ChannelLink;
  readonly onChain: FundingOnChain;
  readonly ended: string | null;
}

/** What can happen. */
export type ChannelInput =
  | { readonly type: "connected" }
  /**
   * A connection on which the channel was running already: dualopend handed it over at lock-in. `lost`: its last words
   * were cut off before they reached the socket.
   */
  | { readonly type: "taken_over"; readonly lost: boolean }
  | { readonly type: "disconnected" }
  | { readonly type: "message"; readonly message: Message }
  /** A frame of this channel that is no Lightning message. */
  | { readonly type: "garbage"; readonly reason: string }
  | { readonly type: "chain"; readonly onChain: FundingOnChain }
  | { readonly type: "start_shutdown" };

/** One durable step, fenced by owner epoch and version. */
export type ChannelStore =
  | { readonly type: "save_remote_alias"; readonly alias: bigint }
  | {
    readonly type: "save_shutdown";
    readonly sent: Uint8Array | null;
    readonly received: Uint8Array | null;
    readonly state: OpenState;
  }
  | { readonly type: "fail_channel"; readonly errorText: string };

/** What to do, in order. A store that changes no row ends the ownership. */
export type ChannelAction =
  | { readonly type: "store"; readonly step: ChannelStore }
  | { readonly type: "send"; readonly message: Message }
  | { readonly type: "hang_up"; readonly messages: readonly Message[]; readonly reason: string }
  | { readonly type: "log"; readonly level: "info" | "warn" | "error"; readonly text: string }
  | { readonly type: "end"; readonly reason: string };

/** A step: the new state, and what to do. */
export interface ChannelStep {
  readonly state: ChannelMachine;
  readonly actions: readonly ChannelAction[];
}
