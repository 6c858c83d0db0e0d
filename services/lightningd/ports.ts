/**
 * The rooms of lightningd and what each offers the others: `chain/` (bitcoind, blocks, fee rates), `wallet/` (coins,
 * reservations, plans), `peers/` (connectd and subds, assignment, opens), `api/` (cln.Node over these).
 *
 * Everything that must survive is in rows; these objects hold only connections and waiters. All methods that change
 * something answer after COMMIT, fenced by the leader epoch, and throw `Failure` (common/grpc/errors.ts) with CLN's code.
 */
import type { BlockHeight, FeeratePerKw, Sat } from "bolt/units.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import type { NegotiationResponse, SignResponse } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import type { Plan } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import type { ChannelParams } from "gen/arcus/store/v1/store_pb.ts";
import type { Closed } from "./closing/room.ts";
import type { ClosedRow, Decision } from "./closing/store.ts";

/** The active lightningd's fence: every write names the epoch. */
export interface Leader {
  readonly epoch: bigint;
  readonly instance: string;
}

/** Fee rates of now, in sat/kw. */
export interface Feerates {
  readonly opening: FeeratePerKw;
  readonly commitment: FeeratePerKw;
  readonly minAcceptable: FeeratePerKw;
  readonly maxAcceptable: FeeratePerKw;
  readonly floor: FeeratePerKw;
  /** estimatesmartfee's answers by target, for `feerates`; empty when it has none. */
  readonly estimates: readonly { readonly blockcount: number; readonly feerate: FeeratePerKw }[];
}

/** chain/: follows bitcoind's best chain into rows. */
export interface Chain {
  /** Tip that our rows have. */
  height(): BlockHeight;
  /** Whether bitcoind is still syncing, or behind its headers; for getinfo's warning. */
  warning(): string | undefined;
  /** Throws Failure FEERATE_UNKNOWN while there is none (never on regtest). */
  feerates(): Promise<Feerates>;
  /** Called after each COMMIT that moved the tip, with the channels whose facts changed (confirmed, undone, deeper). */
  onTip(listener: (height: BlockHeight, channels: readonly bigint[]) => void): void;
  /** gettxout without the mempool: confirmed and unspent. */
  confirmedUnspent(outpoints: readonly OutPoint[]): Promise<boolean[]>;
  /** A transaction of a block of our rows; undefined when a reorg took that block away. */
  confirmedTransaction(txid: Uint8Array, height: number): Promise<Uint8Array | undefined>;
  testmempoolaccept(tx: Uint8Array): Promise<{ verdict: "accepted" | "invalid" | "not_now"; detail: string }>;
  /** Sends now; the rows' transactions are sent again at start and at each block until deep. Empty: taken or known. */
  broadcast(tx: Uint8Array): Promise<string>;
  /** Looks for attempts whose rows are younger than blocks that may hold them. After a `channel_changed`; cheap. */
  scanNewAttempts(): Promise<void>;
}

/** Who a reservation is for. */
export type ReservationOwner =
  | { readonly type: "opening"; readonly opening: bigint }
  | { readonly type: "user"; readonly untilHeight: BlockHeight };

/** wallet/: coins of ours and plans for them. */
export interface Wallet {
  newAddress(): Promise<{ readonly address: string; readonly script: Uint8Array }>;
  /**
   * Plans our own open or RBF: selects and reserves for the opening in one transaction. `amount` "all" spends
   * everything. An RBF (`channel`) keeps at least one input of every earlier attempt. CLN code 301 when short of funds.
   */
  planOwnFunding(request: {
    readonly opening: bigint;
    readonly channel?: bigint;
    readonly amount: Sat | "all";
    readonly feerate: FeeratePerKw;
    readonly utxos?: readonly OutPoint[];
    readonly minconf?: number;
  }): Promise<Plan>;
  /** The same from a user's PSBT (openchannel_init, _bump, _update): its inputs and outputs, ours marked with their keys. */
  planFromPsbt(
    request: {
      readonly opening: bigint;
      readonly psbt: string;
      readonly amount: Sat;
      readonly feerate: FeeratePerKw;
    },
  ): Promise<Plan>;
  /** The accepter's policy (funder-*): contribution 0 is an answer. Idempotent for the opening. */
  planAccept(request: {
    readonly opening: bigint;
    readonly channel?: bigint;
    readonly theirFunding: Sat;
    readonly feerate: FeeratePerKw;
    readonly requireConfirmed: boolean;
  }): Promise<Plan>;
  /** Deletes reservations whose holder is gone (orphans), at start and after releases. */
  reconcile(): Promise<void>;
}

/** An output of the wallet. */
export interface WalletOutput {
  readonly outpoint: OutPoint;
  readonly amount: Sat;
  readonly script: Uint8Array;
  readonly address: string;
  readonly change: boolean;
  readonly keyIndex: number;
  readonly status: "unconfirmed" | "confirmed" | "immature" | "spent";
  /** Of its transaction, while confirmed. */
  readonly blockheight?: BlockHeight;
  /** Whose it is for now. */
  readonly reserved?: {
    readonly purpose: "opening" | "attempt" | "withdraw" | "user";
    readonly untilHeight?: BlockHeight;
  };
}

/** A fee rate as CLN's commands take it. A bare number is sat/kvB. */
export type FeerateChoice =
  | { readonly type: "named"; readonly name: "opening" | "slow" | "normal" | "urgent" | "minimum" }
  | { readonly type: "blocks"; readonly blocks: number }
  | { readonly type: "perkw"; readonly rate: number }
  | { readonly type: "perkb"; readonly rate: number };

/** What reserveinputs and unreserveinputs answer for each output of ours. */
export interface ReservationChange {
  readonly outpoint: OutPoint;
  readonly wasReserved: boolean;
  readonly reserved: boolean;
  readonly reservedToBlock?: BlockHeight;
}

/** What fundpsbt and utxopsbt answer. */
export interface FundedPsbt {
  /** Base64. */
  readonly psbt: string;
  readonly feerate: FeeratePerKw;
  readonly estimatedFinalWeight: number;
  readonly excess: Sat;
  readonly changeOutnum?: number;
  readonly reservations: readonly ReservationChange[];
}

/** A transaction that the wallet stores. */
export interface WalletTransaction {
  readonly txid: Uint8Array;
  readonly raw: Uint8Array;
  readonly blockheight?: BlockHeight;
  readonly txIndex?: number;
}

/** The wallet for people: what the API's commands stand on. `feerate` defaults to `opening`. */
export interface WalletApi extends Wallet {
  /** Outputs of ours, spent ones only when asked for. */
  listFunds(options?: { readonly spent?: boolean }): Promise<WalletOutput[]>;
  /** Stored before it is sent. 301 cannot afford, 302 dust, 303 refused by bitcoind. */
  withdraw(request: {
    readonly destination: string;
    readonly amount: Sat | "all";
    readonly feerate?: FeerateChoice;
    readonly minconf?: number;
    readonly utxos?: readonly OutPoint[];
  }): Promise<{ readonly tx: Uint8Array; readonly txid: Uint8Array; readonly psbt: string }>;
  fundPsbt(request: {
    readonly amount: Sat | "all";
    readonly feerate: FeerateChoice;
    readonly startweight: number;
    readonly minconf?: number;
    /** Blocks; 0: not reserved. Default 72. */
    readonly reserve?: number;
    readonly locktime?: number;
    readonly minWitnessWeight?: number;
    readonly excessAsChange?: boolean;
  }): Promise<FundedPsbt>;
  utxoPsbt(request: {
    readonly amount: Sat | "all";
    readonly feerate: FeerateChoice;
    readonly startweight: number;
    readonly utxos: readonly OutPoint[];
    readonly reserve?: number;
    readonly reservedok?: boolean;
    readonly locktime?: number;
    readonly minWitnessWeight?: number;
    readonly excessAsChange?: boolean;
  }): Promise<FundedPsbt>;
  /** Adds an output: to `destination`, else to a new address of ours. Without `psbt` a new one. */
  addPsbtOutput(request: {
    readonly amount: Sat;
    readonly psbt?: string;
    readonly locktime?: number;
    readonly destination?: string;
  }): Promise<{ readonly psbt: string; readonly estimatedAddedWeight: number; readonly outnum: number }>;
  reserveInputs(request: {
    readonly psbt: string;
    /** Default true: an output that is reserved fails the call; else its reservation is extended. */
    readonly exclusive?: boolean;
    readonly reserve?: number;
  }): Promise<ReservationChange[]>;
  unreserveInputs(
    request: { readonly psbt: string; readonly reserve?: number },
  ): Promise<ReservationChange[]>;
  /** `signonly`: input numbers; then each must be ours. */
  signPsbt(request: { readonly psbt: string; readonly signonly?: readonly number[] }): Promise<string>;
  /** Finalizes, stores, sends. 303 when bitcoind refuses it. */
  sendPsbt(psbt: string): Promise<{ readonly tx: Uint8Array; readonly txid: Uint8Array }>;
  /** Every stored transaction. */
  listTransactions(): Promise<WalletTransaction[]>;
  /**
   * Spends an input of each attempt of a channel back to us, when none confirmed in FUNDING_GIVEUP_BLOCKS blocks and
   * the channel is not locked. Answers the transaction's id.
   */
  doubleSpendAttempts(channel: bigint): Promise<Uint8Array>;
}

/** A peer that is connected, or that we have channels with. */
export interface PeerInfo {
  readonly peerId: Uint8Array;
  readonly connected: boolean;
  /** Channels and opens with it. */
  readonly channels: number;
  /** Of the live connection; absent while there is none. */
  readonly connection?: {
    readonly generation: bigint;
    readonly direction: "in" | "out";
    /** "host:port" as connectd saw it. */
    readonly remoteAddr: string;
    /** The peer's init features. */
    readonly features: Uint8Array;
  };
}

/** One funding attempt of a channel, as its row has it. */
export interface AttemptInfo {
  readonly attempt: bigint;
  readonly seq: number;
  readonly initiator: "local" | "remote";
  /** In the order of the wire. */
  readonly txid: Uint8Array;
  readonly outputIndex: number;
  readonly fundingScript: Uint8Array;
  readonly localContribution: Sat;
  readonly remoteContribution: Sat;
  readonly capacity: Sat;
  readonly feerate: FeeratePerKw;
  readonly fee: Sat;
  /** The unsigned transaction, from the row's detail. */
  readonly tx: Uint8Array;
  readonly createdHeight: BlockHeight;
  /** Reserves that the sides must keep, sat. */
  readonly localReserve: Sat;
  readonly remoteReserve: Sat;
  /** The peer's signature on our commitment is stored. */
  readonly committed: boolean;
  /** Our tx_signatures are stored as sent. */
  readonly localSigned: boolean;
  readonly remoteSigned: boolean;
  /** The signed transaction, when both sides' witnesses are here. */
  readonly completeTx?: Uint8Array;
  readonly aborted: boolean;
  readonly confirmed?: { readonly height: BlockHeight; readonly txIndex: number; readonly matches: boolean };
}

/** A saved channel, or an open without a row in `channels` yet. */
export interface ChannelInfo {
  /** `channels.channel`; absent for an open that is not saved. */
  readonly channel?: bigint;
  /** `openings.opening`: the open, or the RBF under negotiation. */
  readonly opening?: bigint;
  readonly peerId: Uint8Array;
  readonly peerConnected: boolean;
  /** CLN's name; DUALOPEND_OPEN_INIT for an open that is not saved. */
  readonly state: string;
  /** The final id; absent before it is known. */
  readonly channelId?: Uint8Array;
  readonly temporaryChannelId?: Uint8Array;
  readonly opener: "local" | "remote";
  /** "dualopend" or "channeld" while a live one has it. */
  readonly owner?: string;
  readonly params?: ChannelParams;
  /** By rising seq; empty for an open that is not saved. */
  readonly attempts: readonly AttemptInfo[];
  /** The attempt that funds the channel now: the confirmed one, else the newest complete one, else the newest. */
  readonly funding?: AttemptInfo;
  readonly lockedAttempt?: bigint;
  /** Of the confirmed funding output. */
  readonly shortChannelId?: {
    readonly height: BlockHeight;
    readonly txIndex: number;
    readonly outputIndex: number;
  };
  readonly localAlias?: bigint;
  readonly remoteAlias?: bigint;
  readonly channelReadyReceived: boolean;
  readonly reestablished: boolean;
  readonly shutdownSent?: Uint8Array;
  readonly shutdownReceived?: Uint8Array;
  /** Why the channel failed. */
  readonly errorText?: string;
  /** One line a person reads: what it waits for. */
  readonly status: readonly string[];
  readonly createdAt: Date;
  readonly stateChangedAt: Date;
}

/** An open or an RBF of ours. */
export interface OpenRequest {
  /** Coins of ours that we choose, or a PSBT of the user's with inputs and outputs but without the funding output. */
  readonly funds:
    | {
      readonly type: "own";
      readonly amount: Sat | "all";
      readonly utxos?: readonly OutPoint[];
      readonly minconf?: number;
    }
    | { readonly type: "psbt"; readonly psbt: string; readonly amount: Sat };
  /** Of the funding transaction; default: the chain's opening rate (an RBF: the least that is allowed). */
  readonly feerate?: FeeratePerKw;
  /** To the end without openchannel_update and _signed (fundchannel). */
  readonly runToCompletion: boolean;
  readonly requireConfirmedInputs?: boolean;
}

/** A first open. */
export interface FirstOpenRequest extends OpenRequest {
  readonly peerId: Uint8Array;
  readonly announce: boolean;
  readonly commitmentFeerate?: FeeratePerKw;
  /** scriptPubKey of `close_to`. */
  readonly closeTo?: Uint8Array;
  /** Bytes of a channel_type; default: anchors with static remote keys. */
  readonly channelType?: Uint8Array;
}

/** Which channel of whom dev-forget-channel means. */
export interface ForgetRequest {
  readonly peerId: Uint8Array;
  readonly channelId?: Uint8Array;
  /** Also one whose funding transaction may still confirm. */
  readonly force: boolean;
}

/** peers/: connections, channels and opens, for the API. Failures are ArcusErrors with CLN's codes. */
export interface Peers {
  /** Peers that are connected or have channels with us, or only this one. */
  listPeers(peerId?: Uint8Array): Promise<PeerInfo[]>;
  listPeerChannels(peerId?: Uint8Array): Promise<ChannelInfo[]>;
  /** Where peers reach us, as connectd said. */
  bindings(): readonly string[];
  /**
   * Connects, or answers at once for a peer that is connected. Without addresses: those known from earlier.
   * 400 no known address, 401 all addresses failed, 402 disconnected during the handshake.
   */
  connect(peerId: Uint8Array, addresses: readonly string[]): Promise<NonNullable<PeerInfo["connection"]>>;
  /** Drained. Refused with channels unless `force`. */
  disconnect(peerId: Uint8Array, force: boolean): Promise<void>;
  /** Answers the length of the whole pong; 0 when none was asked for. */
  ping(peerId: Uint8Array, length: number, pongBytes: number): Promise<number>;
  /**
   * fundchannel, openchannel_init. 300 too large, 301 cannot afford, 304 still syncing, 305 not connected, 306 unknown
   * peer, 310 no dual funding, 312 wrong state. The psbt is the caller's to build from the answer's tx and prevouts.
   */
  openChannel(request: FirstOpenRequest): Promise<NegotiationResponse>;
  /** openchannel_bump: an RBF of ours. 311 unknown channel, 312 wrong state. */
  bumpChannel(channelId: Uint8Array, request: OpenRequest): Promise<NegotiationResponse>;
  /**
   * openchannel_update. An empty psbt: nothing changes, go on (what the API passes when the user hands back what it was
   * given). Otherwise a PSBT as openchannel_init takes it: the complete new inputs and outputs of ours.
   */
  updateOpen(channelId: Uint8Array, psbt: string): Promise<NegotiationResponse>;
  /** openchannel_signed: witnesses (wire form) of the user's own inputs, by index of the transaction. */
  signOpen(channelId: Uint8Array, witnesses: ReadonlyMap<number, Uint8Array>): Promise<SignResponse>;
  /** openchannel_abort. 312 after our signatures are sent. */
  abortOpen(channelId: Uint8Array): Promise<{ readonly channelCanceled: boolean; readonly reason: string }>;
  /**
   * openchannel_giveup: fails a channel none of whose attempts confirmed in funding-giveup-blocks blocks, and spends our
   * coins in them back to us. Answers that transaction's id. 301 cannot afford, 311 unknown channel, 312 not stuck.
   */
  giveUpOpen(channelId: Uint8Array): Promise<Uint8Array>;
  /**
   * close: decides, and waits until both signed a close or our own commitment was sent. Rejects when the channel cannot be
   * closed by us.
   */
  closeChannel(decision: Decision): Promise<Closed>;
  /** Channels whose close is deep. */
  listClosedChannels(peerId?: Uint8Array): Promise<ClosedRow[]>;
  /** dev-forget-channel: deletes the rows. Answers whether it was forced, and the funding txid if there was one. */
  forgetChannel(
    request: ForgetRequest,
  ): Promise<{ readonly forced: boolean; readonly fundingTxid?: Uint8Array }>;
}
