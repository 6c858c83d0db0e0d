/**
 * The verdict on every `peer_spoke`: a peer said something for a channel that nobody is attached to. Exactly one answer
 * each, never silence, and never one that costs the peer's other channels (design: the flow; BOLT 2 items in comments).
 */
import { unreachable } from "bolt/result.ts";

/** Numbers of the messages that the verdict depends on (BOLT 1, 2). */
export const MessageType = {
  warning: 1,
  error: 17,
  openChannel: 32,
  openChannel2: 64,
  txAddInput: 66,
  txAddOutput: 67,
  txRemoveInput: 68,
  txRemoveOutput: 69,
  txComplete: 70,
  txSignatures: 71,
  txInitRbf: 72,
  txAckRbf: 73,
  txAbort: 74,
  commitmentSigned: 132,
  channelReestablish: 136,
} as const;

/** What a peer may still send of a negotiation that is over here (stale frames; BOLT 2 items 36, 60). */
const OF_A_NEGOTIATION: readonly number[] = [
  MessageType.txAddInput,
  MessageType.txAddOutput,
  MessageType.txRemoveInput,
  MessageType.txRemoveOutput,
  MessageType.txComplete,
  MessageType.txSignatures,
  MessageType.txInitRbf,
  MessageType.txAckRbf,
  MessageType.commitmentSigned,
];

/** Bounds of opens that peers start: each costs memory, a key of hsmd's and coins that may be reserved. */
export interface OpenLimits {
  /** Channels of one peer that are not locked in, opens included. */
  readonly perPeer: number;
  /** Opens without a row in `channels`, of all peers. */
  readonly inAll: number;
  /**
   * Opens that one peer may start in {@link OPEN_RATE_WINDOW_MS}, on however many connections: each draws a key that hsmd
   * remembers for ever.
   */
  readonly perWindow: number;
}
/** See {@link OpenLimits}. */
export const OPEN_RATE_WINDOW_MS = 60_000;
/** Opens under negotiation that lightningd serves in all. */
export const DEFAULT_MAX_OPENS = 100;

/** Who has the channel now. */
export type OwnerState =
  /** Nobody. */
  | "none"
  /** A subd has it for this connection, attached or about to be. */
  | "live"
  /** It is on its way out; a successor follows. */
  | "leaving"
  /** It was attached on this connection, and ended: a second channel_reestablish on one connection is never sent. */
  | "parked";

/** Everything that a verdict depends on. */
export interface Situation {
  readonly messageType: number;
  /** The saved channel of this peer that the id names. */
  readonly channel:
    | {
      readonly state: string;
      /** dualopend's or channeld's. */
      readonly live: boolean;
      readonly errorText: string | null;
      readonly owner: OwnerState;
    }
    | null;
  /** The unsaved open of this peer on this connection that the id names. */
  readonly opening: { readonly owner: OwnerState } | null;
  /** The id was aborted by us on this connection: what still comes for it is stale. */
  readonly recentlyAborted: boolean;
  /** For an open: the id is any live channel's, temporary or final (item 2). */
  readonly idTaken: boolean;
  /** For an open: what is there already. */
  readonly opens: { readonly ofPeer: number; readonly inAll: number; readonly lately: number };
  readonly limits: OpenLimits;
  /** Whether the peer has any other live channel or open with us. */
  readonly hasOthers: boolean;
  /** This node takes no new opens: it is stopping. */
  readonly draining: boolean;
  /** Both inits have option_dual_fund. */
  readonly dualFund: boolean;
  readonly feerateKnown: boolean;
  /** An opening daemon is registered. */
  readonly canOpen: boolean;
}

/** A message of lightningd's own. */
export interface FinalMessage {
  readonly type: "error" | "warning" | "tx_abort";
  readonly text: string;
}

/** The answer to a spoke. */
export type Verdict =
  /** The owner is there: say peer_connect_subd again, with this spoke's number. */
  | { readonly type: "attach" }
  /** Give the saved channel to a subd. */
  | { readonly type: "assign" }
  /** A new open: an opening row, and dualopend. */
  | { readonly type: "open" }
  /** These messages (perhaps none), and whether to hang up, drained. */
  | { readonly type: "final"; readonly messages: readonly FinalMessage[]; readonly hangUp: boolean }
  /** A successor follows. */
  | { readonly type: "wait" }
  /** Forget it: only for a channel that we do not have. */
  | { readonly type: "drop" };

const DROP: Verdict = { type: "drop" };

function say(type: FinalMessage["type"], text: string, hangUp = false): Verdict {
  return { type: "final", messages: [{ type, text }], hangUp };
}

/** The one answer to a spoke. */
export function decide(situation: Situation): Verdict {
  if (situation.channel !== null) return known(situation, situation.channel);
  if (isOpen(situation.messageType)) {
    return situation.opening === null ? open(situation) : say("error", "this temporary channel id is in use");
  }
  if (situation.opening !== null) return byOwner(situation.opening.owner, { type: "wait" });
  return unknown(situation);
}

function isOpen(messageType: number): boolean {
  return messageType === MessageType.openChannel2 || messageType === MessageType.openChannel;
}

function known(situation: Situation, channel: NonNullable<Situation["channel"]>): Verdict {
  // An error for that id would fail the real channel at the peer.
  if (isOpen(situation.messageType)) return say("warning", "this channel id is in use");
  if (channel.errorText !== null || !channel.live) {
    // An error is repeated to whom a reestablish shows that it did not arrive, and to nobody else: two nodes that both
    // failed a channel would send errors to each other for ever, and some hang up, with all other channels, at each.
    if (situation.messageType !== MessageType.channelReestablish) {
      return { type: "final", messages: [], hangUp: false };
    }
    return say("error", channel.errorText ?? `channel in state ${channel.state}`);
  }
  return byOwner(channel.owner, { type: "assign" }, situation.hasOthers);
}

function byOwner(owner: OwnerState, none: Verdict, hasOthers = true): Verdict {
  switch (owner) {
    case "none":
      return none;
    case "live":
      return { type: "attach" };
    case "leaving":
      return { type: "wait" };
    case "parked":
      return say("warning", "this channel goes on with the next connection", !hasOthers);
    default:
      return unreachable(owner);
  }
}

function open(situation: Situation): Verdict {
  const { messageType, dualFund, idTaken, opens, limits } = situation;
  if (messageType === MessageType.openChannel) {
    // Item 1: with option_dual_fund negotiated, a version 1 open must fail.
    return say(
      "error",
      dualFund ? "option_dual_fund is negotiated: use open_channel2" : "only open_channel2 is served",
    );
  }
  if (!dualFund) return say("error", "open_channel2 without option_dual_fund");
  // Item 2. Not even the error may name an id that a live channel of somebody has; it names the peer's own word for it.
  if (idTaken) return say("error", "this temporary channel id is in use");
  if (situation.draining) return say("error", "this node is stopping");
  if (!situation.feerateKnown) return say("error", "no fee rate is known yet");
  if (opens.ofPeer >= limits.perPeer) return say("error", "too many channels of yours are not locked in yet");
  if (opens.inAll >= limits.inAll) return say("error", "too many opens at once");
  if (opens.lately >= limits.perWindow) return say("error", "too many opens in a short time");
  if (!situation.canOpen) return say("error", "opens are not served at the moment");
  return { type: "open" };
}

function unknown(situation: Situation): Verdict {
  const { messageType } = situation;
  // An abort of what is not there is the echo of ours; an error is never answered by an error.
  if (messageType === MessageType.txAbort || messageType === MessageType.error) return DROP;
  if (messageType === MessageType.warning || situation.recentlyAborted) return DROP;
  if (messageType === MessageType.channelReestablish) return say("error", "unknown channel");
  // The peer had not heard yet that it is over: no reason to fail anything.
  if (OF_A_NEGOTIATION.includes(messageType)) return say("warning", "no such negotiation");
  return say("error", "unknown channel", !situation.hasOthers);
}
