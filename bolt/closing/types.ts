/** The shapes of a cooperative close. All plain data. */
import type { PerSide, Side } from "bolt/interactive/types.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import type { Msat, Sat } from "bolt/units.ts";
import type { FeePlan, FeeRange } from "./fees.ts";

/** A close that both signed, as its row has it. */
export interface SignedClose {
  readonly txid: Uint8Array;
  /** Complete, with its witness. */
  readonly tx: Uint8Array;
  readonly fee: Sat;
  /** What we get; 0 without an output of ours. */
  readonly local: Sat;
}

/** What the rows of a channel that is being closed hold. Neither commitment has an HTLC, and nothing is owed. */
export interface ClosingChannel {
  readonly channelId: Uint8Array;
  readonly opener: Side;
  readonly funding: OutPoint;
  readonly capacity: Sat;
  readonly fundingPubkeys: PerSide<Uint8Array>;
  /** Numbers of the newest commitments. */
  readonly localNumber: bigint;
  readonly remoteNumber: bigint;
  /** Before fee and anchors. */
  readonly toLocal: Msat;
  readonly toRemote: Msat;
  /** `dust_limit_satoshis` that each side named. */
  readonly dustLimits: PerSide<Sat>;
  /** Our points of `localNumber` and of the number after it. */
  readonly localCurrentPoint: Uint8Array;
  readonly localNextPoint: Uint8Array;
  readonly localAlias: bigint;
  /** The peer's secret of `remoteNumber - 1`; null before its first revocation. */
  readonly lastRemoteSecret: Uint8Array | null;
  readonly shutdownSent: Uint8Array;
  readonly shutdownReceived: Uint8Array;
  readonly remoteUpfrontShutdownScript: Uint8Array | null;
  /** Closes that both signed, the oldest first. */
  readonly signed: readonly Pick<SignedClose, "txid" | "fee">[];
  readonly errorText: string | null;
}

/** What both `init`s say about closing. */
export interface ClosingForms {
  readonly anysegwit: boolean;
  readonly simpleClose: boolean;
}

/** Where the connection stands. */
export type ClosingLink = "down" | "reestablishing" | "up";

/** What was said in `closing_signed` on this connection: a new one begins anew. */
export interface Negotiation {
  /** Our last fee, and the range that went with it. */
  readonly sent: { readonly fee: Sat; readonly range: FeeRange } | null;
  readonly received: Sat | null;
  readonly rounds: number;
}

/** Which outputs a signature of option_simple_close is for, by the name of its TLV. */
export type SignatureName = "closer_output_only" | "closee_output_only" | "closer_and_closee_outputs";

/** What was said with option_simple_close on this connection. */
export interface SimpleClose {
  /** Our closing_complete. */
  readonly offer: {
    readonly fee: Sat;
    readonly locktime: number;
    readonly names: readonly SignatureName[];
  } | null;
  /** The peer's closing_sig came. */
  readonly settled: boolean;
  /** Of the peer's closing_complete. */
  readonly answered: number;
}

/** A question whose answer is the next input. */
export type Pending =
  /** option_simple_close: hsmd signs the forms of our offer, one after the other. */
  | {
    readonly type: "complete";
    readonly fee: Sat;
    readonly locktime: number;
    readonly names: readonly SignatureName[];
    readonly signatures: { readonly [N in SignatureName]?: Uint8Array };
  }
  /** option_simple_close: hsmd signs the peer's offer ("answer"), or ours with the peer's signature ("settle"). */
  | {
    readonly type: "answer" | "settle";
    readonly fee: Sat;
    readonly locktime: number;
    readonly name: SignatureName;
    readonly theirs: Uint8Array;
  }
  /** hsmd signs an offer of ours. */
  | { readonly type: "offer"; readonly fee: Sat; readonly range: FeeRange }
  /** hsmd signs what the peer signed; then it is complete. `answer`: the peer waits for our signature on it. */
  | {
    readonly type: "agree";
    readonly fee: Sat;
    readonly range: FeeRange;
    readonly variant: Variant;
    readonly theirs: Uint8Array;
    readonly answer: boolean;
  }
  /** hsmd gives our last revocation again. */
  | { readonly type: "revocation" }
  /** hsmd says which point belongs to a number: whether the peer's claim that we are stale is proved. */
  | { readonly type: "stale"; readonly secret: Uint8Array };

/** Which outputs a closing transaction has. */
export type Variant = PerSide<boolean>;

/** The state of the machine. */
export interface ClosingMachine {
  readonly channel: ClosingChannel;
  readonly forms: ClosingForms;
  /** What we agree to; from lightningd, at each connection. */
  readonly plan: FeePlan;
  readonly link: ClosingLink;
  /** The peer said shutdown, on this connection if it is a new one. */
  readonly shutdownSeen: boolean;
  /** Our last tx_abort of this connection was answered by none of the peer's yet: its next one is that, and needs no echo. */
  readonly abortSaid: boolean;
  readonly negotiation: Negotiation;
  readonly simple: SimpleClose;
  readonly pending: Pending | null;
  readonly ended: string | null;
}
