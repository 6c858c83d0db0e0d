/**
 * The shapes of the dual-open machine: one channel, from its first message until both channel_ready.
 *
 * All plain data. What the rows hold is {@link SavedChannel}; everything else dies with the process, and the machine
 * goes on from the rows alone.
 */
import type { CompletedTx, PerSide, PlannedInput, SessionState, Side } from "bolt/interactive/types.ts";
import type { OutPoint, TxOutput } from "bolt/tx/transaction.ts";
import type { BlockHeight, FeeratePerKw, Msat, Sat } from "bolt/units.ts";
import type { Message, OpenChannel2, TxInitRbf } from "bolt/wire/messages.ts";

/** States of a channel before channeld has it, with Core Lightning's names. DUALOPEND_OPEN_INIT has no row. */
export type ChannelState =
  | "DUALOPEND_OPEN_INIT"
  | "DUALOPEND_OPEN_COMMIT_READY"
  | "DUALOPEND_OPEN_COMMITTED"
  | "DUALOPEND_AWAITING_LOCKIN"
  | "CHANNELD_NORMAL";

/** Public keys of one side, as `open_channel2` and `accept_channel2` carry them. */
export interface PartyKeys {
  readonly fundingPubkey: Uint8Array;
  readonly revocationBasepoint: Uint8Array;
  readonly paymentBasepoint: Uint8Array;
  readonly delayedPaymentBasepoint: Uint8Array;
  readonly htlcBasepoint: Uint8Array;
  readonly firstPerCommitmentPoint: Uint8Array;
  readonly secondPerCommitmentPoint: Uint8Array;
}

/** What one side fixed for good. */
export interface PartyParams extends PartyKeys {
  readonly dustLimit: Sat;
  readonly maxHtlcValueInFlight: Msat;
  readonly htlcMinimum: Msat;
  /** Blocks that this side asks the other one to wait. */
  readonly toSelfDelay: number;
  readonly maxAcceptedHtlcs: number;
  /** null: not negotiated; empty: negotiated, none fixed. */
  readonly upfrontShutdownScript: Uint8Array | null;
}

/** What both fixed for good. */
export interface ChannelParams {
  readonly local: PartyParams;
  readonly remote: PartyParams;
  /** Bytes of `channel_type`. */
  readonly channelType: Uint8Array;
  readonly commitmentFeerate: FeeratePerKw;
  /** Confirmations that we wait for: our own wish, or the accepter's `minimum_depth` if that is more. */
  readonly minimumDepth: number;
}

/** Node-wide policy, the same for every replica. */
export interface Policy {
  readonly fundingConfirms: number;
  readonly dustLimit: Sat;
  readonly maxDustLimit: Sat;
  readonly maxHtlcValueInFlight: Msat;
  readonly htlcMinimum: Msat;
  readonly toSelfDelay: number;
  readonly maxToSelfDelay: number;
  readonly maxAcceptedHtlcs: number;
  readonly minCapacity: Sat;
  readonly largeChannels: boolean;
  readonly maxRemoteRbfAttempts: number;
  readonly remoteRbfMinBlocks: number;
  /** The peer's inputs must be confirmed, also where it opens or replaces. */
  readonly requireConfirmedInputs: boolean;
}

/** What the owner is told before anything happens. Constant while it owns the channel. */
export interface Setup {
  readonly nodeIds: PerSide<Uint8Array>;
  /** Feature bits of both inits. */
  readonly features: PerSide<Uint8Array>;
  readonly chainHash: Uint8Array;
  readonly policy: Policy;
  /** Our keys of this channel, from hsmd. */
  readonly localKeys: PartyKeys;
  /** Where our money goes at a cooperative close, in `shutdown`. */
  readonly shutdownScript: Uint8Array;
  /** What is fixed upfront; absent or empty for nothing, so that a person may name another destination at the close. */
  readonly upfrontShutdownScript?: Uint8Array;
  readonly localAlias: bigint;
}

/** A key of our wallet. */
export interface WalletKeyPath {
  readonly change: boolean;
  readonly index: number;
}

/** Our part of a funding transaction, as lightningd planned and reserved it. */
export interface Plan {
  readonly contribution: Sat;
  /** `key` is absent for an input that the user signs. */
  readonly inputs: readonly (PlannedInput & { readonly outpoint: OutPoint; readonly key?: WalletKeyPath })[];
  /** `key` is absent for an output that the user named. */
  readonly outputs: readonly (TxOutput & { readonly key?: WalletKeyPath })[];
  /** The most that we pay in fees; hsmd holds us to it. */
  readonly maxFee: Sat;
}

/** Which of a transaction's inputs and outputs are our wallet's, by index. */
export interface WalletPart {
  readonly inputs: readonly { readonly index: number; readonly key: WalletKeyPath }[];
  readonly change: readonly { readonly index: number; readonly key: WalletKeyPath }[];
  /** Outputs to others that the user named. */
  readonly destinations: readonly number[];
  /** Inputs that the user signs. */
  readonly userInputs: readonly number[];
}

/** One signed (or about to be signed) funding transaction: a row. */
export interface Attempt {
  readonly seq: number;
  readonly initiator: Side;
  readonly tx: CompletedTx;
  readonly reserves: PerSide<Sat>;
  readonly wallet: WalletPart;
  readonly maxFee: Sat;
  /** Nothing of ours is signed before the user says so. */
  readonly awaitUserSignature: boolean;
  readonly createdHeight: BlockHeight;
  /** The peer's signature on our commitment 0, once hsmd found it good. */
  readonly remoteCommitmentSignature: Uint8Array | null;
  /** Our witnesses in the order of our inputs' serial ids; not null: `tx_signatures` counts as sent. */
  readonly localTxSignatures: readonly Uint8Array[] | null;
  readonly remoteTxSignatures: readonly Uint8Array[] | null;
  /** The signed transaction; not null exactly when both sides' witnesses are here. */
  readonly completeTx: Uint8Array | null;
  readonly aborted: boolean;
}

/** What the rows of a saved channel hold. */
export interface SavedChannel {
  readonly channelId: Uint8Array;
  /** Who opened: pays the commitment fee and the anchors, whoever starts an RBF. */
  readonly opener: Side;
  readonly state: ChannelState;
  readonly params: ChannelParams;
  /** By rising seq; never empty. */
  readonly attempts: readonly Attempt[];
  /** seq of the locked attempt; not null: our `channel_ready` counts as sent. */
  readonly lockedAttempt: number | null;
  /** What the peer's `channel_ready` said; not null: received. */
  readonly remoteReady:
    | { readonly secondPerCommitmentPoint: Uint8Array; readonly alias: bigint | null }
    | null;
  readonly shutdownSent: Uint8Array | null;
  readonly shutdownReceived: Uint8Array | null;
  /** Why the channel failed; repeated to the peer at every reconnect. */
  readonly errorText: string | null;
}

/** What the chain says, as lightningd's rows have it. A level: each one replaces the last. */
export interface ChainFacts {
  readonly height: BlockHeight;
  readonly confirmed: readonly {
    readonly seq: number;
    readonly height: BlockHeight;
    readonly coinbase: boolean;
    /** Outpoint, script and amount on the chain are those negotiated. */
    readonly matches: boolean;
  }[];
}

/** Who drives our side of a negotiation. */
export type Drive =
  /** To the end without asking: an accepter, or `fundchannel`. */
  | "automatic"
  /** Waits for `update` before tx_complete and for `sign` before tx_signatures: `openchannel_init`. */
  | "manual";

/** A negotiation without an attempt row. */
export type Negotiation =
  /** We sent open_channel2. */
  | {
    readonly type: "awaiting_accept_channel2";
    readonly open: OpenChannel2;
    readonly plan: Plan;
    readonly drive: Drive;
    readonly entropy: Uint8Array;
  }
  /** The peer sent open_channel2; lightningd plans our part. */
  | { readonly type: "planning_open"; readonly open: OpenChannel2; readonly entropy: Uint8Array }
  /** We sent tx_init_rbf. */
  | {
    readonly type: "awaiting_tx_ack_rbf";
    readonly init: TxInitRbf;
    readonly plan: Plan;
    readonly drive: Drive;
    readonly entropy: Uint8Array;
  }
  /** The peer sent tx_init_rbf; lightningd plans our part. */
  | { readonly type: "planning_rbf"; readonly init: TxInitRbf; readonly entropy: Uint8Array }
  /** Inputs and outputs are exchanged. */
  | {
    readonly type: "constructing";
    readonly params: ChannelParams;
    readonly plan: Plan;
    readonly drive: Drive;
    readonly session: SessionState;
    /** A peer's message that waits for `update`. */
    readonly held: Message | null;
  };

/** How the connection stands. */
export type Link =
  | { readonly type: "down" }
  /** For a saved channel nothing but `channel_reestablish` passes until both were exchanged. */
  | { readonly type: "reestablishing" }
  /** Both were exchanged, and hsmd is asked for the commitment_signed that the peer wants before all else. */
  | { readonly type: "resuming" }
  | { readonly type: "up" };

/** Why an owner lets go. */
export type EndReason =
  | { readonly type: "open_failed"; readonly detail: string }
  | { readonly type: "locked" }
  | { readonly type: "peer_gone" }
  | { readonly type: "channel_failed"; readonly detail: string };

/** The state of the machine. */
export interface DualOpenState {
  readonly setup: Setup;
  readonly opener: Side;
  /** The final id once both basepoints are known, the temporary one before. */
  readonly channelId: Uint8Array;
  readonly temporaryChannelId: Uint8Array | null;
  readonly link: Link;
  readonly channel: SavedChannel | null;
  readonly negotiation: Negotiation | null;
  readonly chain: ChainFacts;
  /** We sent tx_abort: everything of that session is discarded until the peer's echo. */
  readonly awaitingAbortEcho: boolean;
  /** Wrong tx_signatures of the peer so far, on this connection (bounded work). */
  readonly badTxSignatures: number;
  readonly ended: EndReason | null;
}
