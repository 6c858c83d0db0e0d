/**
 * The shapes of a channel after lock-in: what the rows hold, what can happen, what is to be done.
 *
 * One step takes everything that waits ({@link ChannelInput}s, in order) and gives a new state and the actions, in the
 * order in which they are carried out: what was learnt and needs no COMMIT, at most one {@link ChannelStore}, what the
 * COMMIT made true, at most one {@link HsmdRequest}, last. While that question is open the machine is fed its answer and
 * nothing else. Amounts and HTLCs of a commitment are told from our side, whoever holds it: `toLocal` is ours.
 */
import type { PerSide, Side } from "bolt/interactive/types.ts";
import type { ShachainStore } from "bolt/keys/shachain.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import type { BlockHeight, FeeratePerKw, Msat, Sat } from "bolt/units.ts";
import type { Message } from "bolt/wire/messages.ts";

/** States of a channel that channeld owns, with Core Lightning's names. */
export type ChannelState =
  | "CHANNELD_AWAITING_LOCKIN"
  | "CHANNELD_NORMAL"
  | "CHANNELD_SHUTTING_DOWN"
  /** Clean: no HTLC, nothing owed, both shutdowns seen. Only reestablish and shutdown are spoken. */
  | "CLOSINGD_SIGEXCHANGE";

/**
 * Where an HTLC stands, with Core Lightning's names: who said last what. An HTLC of ours begins with SENT_ADD_HTLC, one
 * of the peer with RCVD_ADD_HTLC; it is irrevocably committed from SENT_ADD_ACK_REVOCATION or RCVD_ADD_ACK_REVOCATION on.
 */
export type HtlcState =
  | "SENT_ADD_HTLC"
  | "SENT_ADD_COMMIT"
  | "RCVD_ADD_REVOCATION"
  | "RCVD_ADD_ACK_COMMIT"
  | "SENT_ADD_ACK_REVOCATION"
  | "RCVD_REMOVE_HTLC"
  | "RCVD_REMOVE_COMMIT"
  | "SENT_REMOVE_REVOCATION"
  | "SENT_REMOVE_ACK_COMMIT"
  | "RCVD_REMOVE_ACK_REVOCATION"
  | "RCVD_ADD_HTLC"
  | "RCVD_ADD_COMMIT"
  | "SENT_ADD_REVOCATION"
  | "SENT_ADD_ACK_COMMIT"
  | "RCVD_ADD_ACK_REVOCATION"
  | "SENT_REMOVE_HTLC"
  | "SENT_REMOVE_COMMIT"
  | "RCVD_REMOVE_REVOCATION"
  | "RCVD_REMOVE_ACK_COMMIT"
  | "SENT_REMOVE_ACK_REVOCATION";

/** How an HTLC is removed. `attribution` is the 920 bytes of `attribution_data`, or null. */
export type HtlcRemoval =
  | { readonly type: "fulfill"; readonly preimage: Uint8Array; readonly attribution: Uint8Array | null }
  | { readonly type: "fail"; readonly reason: Uint8Array; readonly attribution: Uint8Array | null }
  | { readonly type: "malformed"; readonly code: number; readonly sha256OfOnion: Uint8Array };

/** A live HTLC: a row of `htlcs`. */
export interface Htlc {
  /** {@link htlcKey}: id * 2 + (1 if we offered it). */
  readonly key: bigint;
  /** We offered it. */
  readonly offered: boolean;
  readonly id: bigint;
  readonly state: HtlcState;
  readonly amount: Msat;
  readonly paymentHash: Uint8Array;
  readonly cltvExpiry: number;
  /** The payment part that asked for it; null for the peer's. */
  readonly origin: bigint | null;
  /**
   * 1,366 bytes; null when nobody needs them: rows are loaded with onions of SENT_ADD_COMMIT and of incoming HTLCs
   * before SENT_REMOVE_HTLC.
   */
  readonly onion: Uint8Array | null;
  /** How it is to be removed, or was; a preimage stays once known, also where the peer's removal was rolled back. */
  readonly removal: HtlcRemoval | null;
  /** Incoming: SHA256 of the ECDH of the onion's point, once hsmd gave it; empty for a point that is none. Never stored. */
  readonly sharedSecret: Uint8Array | null;
  /** Incoming: it came with `blinded_path`, which we do not speak. Never stored. */
  readonly blinded: boolean;
}

/** What every commitment holds (from our side, before fee and anchors). */
export interface CommitmentFigures {
  readonly number: bigint;
  readonly toLocal: Msat;
  readonly toRemote: Msat;
  readonly feerate: FeeratePerKw;
  /** {@link htlcKey}s. */
  readonly htlcs: readonly bigint[];
}

/** Our commitment with the peer's signatures (arcus.store.v1.LocalCommitment). */
export interface LocalCommitment extends CommitmentFigures {
  readonly remoteSignature: Uint8Array;
  /** 64 bytes for each untrimmed HTLC, in the order of the outputs. */
  readonly htlcSignatures: Uint8Array;
}

/** The peer's commitment (arcus.store.v1.RemoteCommitment). */
export interface RemoteCommitment extends CommitmentFigures {
  readonly perCommitmentPoint: Uint8Array;
}

/** The commitments on one live funding outpoint (arcus.store.v1.Commitment, version 2). */
export interface ActiveCommitment {
  /** funding_attempts.attempt. */
  readonly attempt: bigint;
  readonly funding: OutPoint;
  readonly capacity: Sat;
  /** What each side must keep: the attempt's local_reserve_sat and remote_reserve_sat. */
  readonly reserves: PerSide<Sat>;
  /** Our newest one that hsmd verified. */
  readonly local: LocalCommitment;
  /** The peer signed it and hsmd has not said so. */
  readonly pendingLocal: LocalCommitment | null;
  /** The peer's newest one that it did not revoke. */
  readonly remote: RemoteCommitment;
  /** Signed by us, or about to be: its predecessor is not revoked yet. */
  readonly nextRemote: RemoteCommitment | null;
}

/** A fee rate on its way through the commitments (arcus.store.v1.FeeUpdate). */
export interface FeeUpdate {
  readonly feerate: FeeratePerKw;
  /** As an HTLC's addition. */
  readonly state: HtlcState;
}

/**
 * channels.commitments (arcus.store.v1.Commitments, version 2). Of version 1: `local.remoteSignature` is its
 * remote_signature, `remote.perCommitmentPoint` the peer's first point, `remoteNextPoint` what its channel_ready said, our
 * two points the first and the second, ids 0, `shachain` empty.
 */
export interface ChannelCommitments {
  /** One for each live funding outpoint; never empty. */
  readonly active: readonly ActiveCommitment[];
  readonly localNextHtlcId: bigint;
  readonly remoteNextHtlcId: bigint;
  /** Our point of local.number. */
  readonly localCurrentPoint: Uint8Array;
  /** Our point of local.number + 1. */
  readonly localNextPoint: Uint8Array;
  /** The newest point that the peer told: nextRemote's while there is one, else of remote.number + 1. */
  readonly remoteNextPoint: Uint8Array;
  /** Our last revoke_and_ack left after our last commitment_signed. */
  readonly revokedLast: boolean;
  readonly fees: readonly FeeUpdate[];
  readonly shachain: ShachainStore;
}

/** What one side allows the other one, and its dust limit (from open_channel2 and accept_channel2). */
export interface SideLimits {
  readonly dustLimit: Sat;
  readonly maxHtlcValueInFlight: Msat;
  readonly htlcMinimum: Msat;
  readonly maxAcceptedHtlcs: number;
}

/** What the rows of a locked channel hold. */
export interface LockedChannel {
  readonly channelId: Uint8Array;
  readonly opener: Side;
  readonly state: ChannelState;
  readonly format: CommitmentFormat;
  readonly limits: PerSide<SideLimits>;
  readonly commitments: ChannelCommitments;
  /** Our witnesses of the locked funding transaction: a peer that missed them asks again. */
  readonly localTxSignatures: readonly Uint8Array[];
  readonly localAlias: bigint;
  readonly remoteAlias: bigint | null;
  readonly shutdownSent: Uint8Array | null;
  readonly shutdownReceived: Uint8Array | null;
  /** Fixed at the open; null or empty: free. */
  readonly remoteUpfrontShutdownScript: Uint8Array | null;
  /** Ours, unless `start_shutdown` brings another one. */
  readonly localShutdownScript: Uint8Array;
  readonly errorText: string | null;
  /** channels.data_loss: the peer proved that our rows are old. Our commitment is never broadcast. */
  readonly dataLoss: boolean;
}

/** Which forms of `shutdown` scripts both sides speak. */
export interface ShutdownForms {
  readonly anysegwit: boolean;
  readonly simpleClose: boolean;
}

/** What the node's options say of every channel. */
export interface ChannelPolicy {
  /** Most that may be lost to miners on either commitment: trimmed HTLCs, and its fee above the node's maxFeerate. */
  readonly maxDustExposure: Msat;
}

/** Level of the node (arcus.channeld.v1.NodeLevel). Before the first one no offer is taken and no fee rate is judged. */
export interface NodeFacts {
  readonly height: BlockHeight;
  /** What we aim at where we opened. */
  readonly feerate: FeeratePerKw;
  /** Bounds of what the peer's update_fee may say. */
  readonly minFeerate: FeeratePerKw;
  readonly maxFeerate: FeeratePerKw;
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

/** A part of a payment that lightningd asks us to send. */
export interface Offer {
  /** Unique in the database. The driver asks htlc_history first for an origin that may be older than this process. */
  readonly origin: bigint;
  readonly amount: Msat;
  readonly paymentHash: Uint8Array;
  readonly cltvExpiry: number;
  /** 1,366 bytes. */
  readonly onion: Uint8Array;
}

/** What can happen. */
export type ChannelInput =
  | { readonly type: "connected" }
  /**
   * A connection on which the channel was running already: another owner had it until now, dualopend at lock-in or an
   * earlier process. `lost`: its last words were cut off before they reached the socket. Once a commitment_signed was
   * said on the channel only channel_reestablish can tell what is missing, so the machine hangs up.
   */
  | { readonly type: "taken_over"; readonly lost: boolean }
  | { readonly type: "disconnected" }
  | { readonly type: "message"; readonly message: Message }
  /** A frame of this channel that is no Lightning message. */
  | { readonly type: "garbage"; readonly reason: string }
  | { readonly type: "chain"; readonly onChain: FundingOnChain }
  | { readonly type: "start_shutdown"; readonly script?: Uint8Array }
  | ({ readonly type: "offer" } & Offer)
  | { readonly type: "settle"; readonly id: bigint; readonly removal: HtlcRemoval }
  | ({ readonly type: "node" } & NodeFacts)
  /** The peer's first closing message waits for closingd. Only while {@link awaitsClosing}. */
  | { readonly type: "closing_spoken" }
  /** The driver's patience with a peer that may begin the closing is over. */
  | { readonly type: "closing_awaited" }
  | { readonly type: "hsmd"; readonly answer: HsmdAnswer };

/** Everything that the one statement of a step writes, fenced. What is null stays as it is. */
export interface ChannelStore {
  readonly state: ChannelState;
  readonly commitments: ChannelCommitments | null;
  /** New rows of `htlcs` and `htlc_onions`. Their onion is there. */
  readonly added: readonly Htlc[];
  /** Rows whose state or removal changed, by {@link Htlc.key}. */
  readonly changed: readonly Htlc[];
  /** Rows that move to `htlc_history`. */
  readonly removed: readonly Htlc[];
  readonly remoteAlias: bigint | null;
  readonly shutdownSent: Uint8Array | null;
  readonly shutdownReceived: Uint8Array | null;
  readonly errorText: string | null;
  /** Goes with errorText; only ever set, never taken back. */
  readonly dataLoss: boolean;
}

/** What hsmd is asked (arcus.hsmd.v1.CommitmentStep). Everything in it is committed. */
export interface HsmdRequest {
  /** Empty: only the ECDH or points are asked for. */
  readonly outpoints: readonly OutpointRequest[];
  /** Release the secret of the commitment before the verified ones. */
  readonly revoke: boolean;
  readonly ecdhPoints: readonly Uint8Array[];
  /** Numbers of our per-commitment points (GetPerCommitmentPoint): reestablish's proofs are held against them. Mostly none. */
  readonly pointNumbers: readonly bigint[];
}

/** arcus.hsmd.v1.OutpointStep. */
export interface OutpointRequest {
  readonly funding: OutPoint;
  readonly capacity: Sat;
  readonly verify: {
    readonly content: CommitmentContent;
    readonly remoteSignature: Uint8Array;
    readonly htlcSignatures: Uint8Array;
  } | null;
  readonly sign: {
    readonly content: CommitmentContent;
    readonly perCommitmentPoint: Uint8Array;
  } | null;
}

/** arcus.hsmd.v1.CommitmentContent. */
export interface CommitmentContent {
  readonly number: bigint;
  readonly toLocal: Msat;
  readonly toRemote: Msat;
  readonly feerate: FeeratePerKw;
  readonly htlcs: readonly Htlc[];
}

/** What hsmd says: arcus.hsmd.v1.CommitmentStepResult. A transport error is no answer: the driver lets go and reloads. */
export type HsmdAnswer =
  | {
    readonly type: "answered";
    /** As the request's; where nothing was to be signed the signature is empty. */
    readonly outpoints: readonly OutpointSignatures[];
    /** With `revoke`. */
    readonly perCommitmentSecret: Uint8Array | null;
    readonly nextPerCommitmentPoint: Uint8Array | null;
    /** As `ecdhPoints`; empty for a point that is none. */
    readonly sharedSecrets: readonly Uint8Array[];
    /** As `pointNumbers`; null where hsmd does not tell. */
    readonly points: readonly (Uint8Array | null)[];
  }
  /** BAD_SIGNATURE fails the channel; any other refusal stops it here and changes nothing. */
  | { readonly type: "refused"; readonly reason: string; readonly detail: string };

/** arcus.hsmd.v1.OutpointSignatures. */
export interface OutpointSignatures {
  readonly signature: Uint8Array;
  readonly htlcSignatures: Uint8Array;
}

/** Why we fail an incoming HTLC ourselves: a failure of BOLT 4. */
export type IncomingRefusal =
  | "expiry_too_far"
  | "temporary_channel_failure"
  | "permanent_channel_failure"
  | "invalid_onion_blinding";

/** What the channel can do now (arcus.channeld.v1.ChannelLevel). */
export interface ChannelLevel {
  readonly state: ChannelState;
  /** Why no update may be made now; empty when usable. */
  readonly paused: string;
  readonly spendable: Msat;
  readonly receivable: Msat;
  readonly toUs: Msat;
  readonly feerate: FeeratePerKw;
  readonly htlcsOut: number;
  readonly htlcsIn: number;
}

/** What to do, in order. */
export type ChannelAction =
  /** A store that changes no row ends the ownership. */
  | ({ readonly type: "store" } & ChannelStore)
  /** Always the last action of a step. Answered by the input `hsmd`. */
  | { readonly type: "ask_hsmd"; readonly request: HsmdRequest }
  /** One after the other, nothing between them. */
  | { readonly type: "send"; readonly messages: readonly Message[] }
  /** The offer has an id and is part of a committed step; an `outgoing_resolved` follows for certain. */
  | { readonly type: "offered"; readonly origin: bigint; readonly id: bigint }
  /** The offer was never part of a step and never will be. `reason` is a failure's name of BOLT 4. */
  | { readonly type: "refused"; readonly origin: bigint; readonly reason: string; readonly detail: string }
  /**
   * Irrevocably committed on both sides. With a refusal it is for the driver to fail (an `invalid_onion_blinding` as
   * malformed), else to peel and to tell. Its `sharedSecret` is there.
   */
  | { readonly type: "incoming"; readonly htlc: Htlc; readonly refusal: IncomingRefusal | null }
  /** A preimage at once (then never again in this process), a failure once its removal is irrevocable. */
  | {
    readonly type: "outgoing_resolved";
    readonly origin: bigint;
    readonly id: bigint;
    readonly removal: HtlcRemoval;
  }
  /** Gone for good, removed as we said. */
  | { readonly type: "incoming_resolved"; readonly htlc: Htlc }
  | { readonly type: "level"; readonly level: ChannelLevel }
  | { readonly type: "hang_up"; readonly messages: readonly Message[]; readonly reason: string }
  | { readonly type: "log"; readonly level: "info" | "warn" | "error"; readonly text: string }
  /** Clean, stored as CLOSINGD_SIGEXCHANGE, reestablished on this connection: the closing can be negotiated. */
  | { readonly type: "shutdown_complete" }
  /** The channel failed (its error text is stored) or cannot go on here: let go. */
  | { readonly type: "end"; readonly reason: string };

/** What the machine knows beside the rows. For the driver: opaque, except `link`, `ended` and `asked`. */
export interface ChannelMachine {
  /** As the rows will be after this step's store; the HTLCs are in `htlcs`. */
  readonly channel: LockedChannel;
  /** By {@link htlcKey}. */
  readonly htlcs: ReadonlyMap<bigint, Htlc>;
  /** Keys of live offers by their origin. */
  readonly origins: ReadonlyMap<bigint, bigint>;
  /** Taken, part of no step yet. */
  readonly queue: readonly Offer[];
  /** What the peer said since its last commitment_signed, and forgets with the connection: HTLCs by key. */
  readonly uncommitted: { readonly adds: readonly bigint[]; readonly removes: readonly bigint[] };
  /** Incoming HTLCs that are gone for good, whose rows leave with the next store. */
  readonly gone: readonly Htlc[];
  readonly forms: ShutdownForms;
  readonly policy: ChannelPolicy;
  readonly node: NodeFacts | null;
  readonly link: ChannelLink;
  readonly onChain: FundingOnChain;
  /** hsmd owes an answer: only the input `hsmd` may be fed. */
  readonly asked: HsmdQuestion | null;
  /** The rest of a batch that has to wait for that answer; the machine takes it up by itself. */
  readonly waiting: readonly ChannelInput[];
  /** Our signatures on nextRemote of each active commitment, for sending them again. */
  readonly signatures: readonly OutpointSignatures[] | null;
  /** What our last revoke_and_ack said, for sending it again. */
  readonly revocation: { readonly secret: Uint8Array; readonly nextPoint: Uint8Array } | null;
  /** Script of a shutdown of ours that waits until it may be said. */
  readonly shutdownWanted: Uint8Array | null;
  /** commitment_signed messages that still belong to a start_batch. */
  readonly batchLeft: number;
  /** Our last tx_abort of this connection was answered by none of the peer's yet: its next one is that, and needs no echo. */
  readonly abortSaid: boolean;
  /** `shutdown_complete` was said on this connection. */
  readonly shutdownTold: boolean;
  /** On this connection the peer had its time to begin the closing without our signature on its last fee. */
  readonly closingAwaited: boolean;
  readonly level: ChannelLevel | null;
  readonly ended: string | null;
}

/** An open question to hsmd, and what follows its answer. */
export interface HsmdQuestion {
  readonly request: HsmdRequest;
  /** Keys of the incoming HTLCs that `ecdhPoints` belong to. */
  readonly ecdh: readonly bigint[];
  /** What waits for it. */
  readonly then: AfterHsmd;
}

/** What an answer of hsmd leads to. */
export type AfterHsmd =
  /** Said after a restart, before any frame: nothing is sent, but the signatures are known again. */
  | { readonly type: "restored" }
  /** A step: revoke_and_ack if the request revokes, then our updates and commitment_signed if it signs, then these. */
  | { readonly type: "committed"; readonly updates: readonly Message[]; readonly after: readonly Message[] }
  /** Points or the last secret, for what the peer's channel_reestablish claims. */
  | { readonly type: "reestablish"; readonly message: Extract<Message, { type: "channel_reestablish" }> };

/** A step: the new state, and what to do. */
export interface ChannelStep {
  readonly state: ChannelMachine;
  readonly actions: readonly ChannelAction[];
}

/** What names an HTLC in a commitment. */
export function htlcKey(offered: boolean, id: bigint): bigint {
  return id * 2n + (offered ? 1n : 0n);
}
