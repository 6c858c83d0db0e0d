/** The shapes of an interactive transaction session (BOLT 2). All plain data: structuredClone keeps them. */
import type {
  TxAddInput,
  TxAddOutput,
  TxComplete,
  TxRemoveInput,
  TxRemoveOutput,
} from "bolt/wire/messages.ts";
import type { OutPoint, TxOutput } from "bolt/tx/transaction.ts";
import type { InteractiveFailure, PlanFailure } from "bolt/interactive/failures.ts";
import type { FeeratePerKw, Sat, Weight } from "bolt/units.ts";

/** Whose: ours or the peer's. */
export type Side = "local" | "remote";

/** One value per side. */
export interface PerSide<T> {
  readonly local: T;
  readonly remote: T;
}

/** An unspent output that is, or may become, an input of ours. */
export interface PlannedInput {
  /** The whole transaction that made it, serialized; the peer takes amount and script from there only. */
  readonly prevtx: Uint8Array;
  readonly vout: number;
  /** At most 0xfffffffd. */
  readonly sequence: number;
  /** What `prevtx` says of the output; compared with it when the session is made. */
  readonly amount: Sat;
  readonly script: Uint8Array;
  /** Weight of the witness that we will give, its item count included. */
  readonly witnessWeight: Weight;
  /** Whether it is in a block, as far as we know (BOLT 2, require_confirmed_inputs). */
  readonly confirmed: boolean;
}

/** An earlier signed funding transaction of the channel, which a new one must replace (BOLT 2, tx_init_rbf). */
export interface PreviousAttempt {
  readonly txid: Uint8Array;
  /** Fees of both sides. */
  readonly fee: Sat;
  /** The agreed fee rate. */
  readonly feerate: FeeratePerKw;
  readonly inputs: PerSide<readonly OutPoint[]>;
}

/** Serial ids of our items: given in the order inputs, outputs, funding output; or derived from a secret seed. */
export type SerialIds =
  | { readonly type: "given"; readonly ids: readonly bigint[] }
  | { readonly type: "seed"; readonly seed: Uint8Array };

/** What a session is about. */
export interface SessionParams {
  /** The sender of `open_channel2` or `tx_init_rbf` is the initiator. */
  readonly role: "initiator" | "accepter";
  readonly channelId: Uint8Array;
  /** For the order of signatures when both put in the same. */
  readonly nodeIds: PerSide<Uint8Array>;
  readonly locktime: number;
  readonly feerate: FeeratePerKw;
  /** `dust_limit_satoshis` that each side announced: ours bounds the peer's outputs, both bound ours. */
  readonly dustLimits: PerSide<Sat>;
  /** What each side adds to the funding output. */
  readonly contributions: PerSide<Sat>;
  readonly fundingScript: Uint8Array;
  /** Who demands that the other side's inputs are confirmed. */
  readonly requireConfirmedInputs: { readonly byUs: boolean; readonly byThem: boolean };
  /** Every earlier attempt that could still confirm, oldest first; empty for a first open. */
  readonly previousAttempts: readonly PreviousAttempt[];
  readonly inputs: readonly PlannedInput[];
  /** Ours besides the funding output: change, above all. */
  readonly outputs: readonly TxOutput[];
  readonly serialIds: SerialIds;
}

/** An input in the transaction under construction. */
export interface SessionInput {
  readonly serialId: bigint;
  readonly side: Side;
  readonly outpoint: OutPoint;
  readonly amount: Sat;
  readonly script: Uint8Array;
  readonly sequence: number;
  /** What its owner must pay for at least: our real witness, or the least that the peer's script allows. */
  readonly witnessWeight: Weight;
}

/** An output in the transaction under construction. */
export interface SessionOutput {
  readonly serialId: bigint;
  readonly side: Side;
  readonly amount: Sat;
  readonly script: Uint8Array;
}

/** A change to our part of the transaction. */
export type Move =
  | { readonly type: "add_input"; readonly serialId: bigint; readonly input: PlannedInput }
  | { readonly type: "add_output"; readonly serialId: bigint; readonly output: TxOutput }
  | { readonly type: "remove_input"; readonly serialId: bigint }
  | { readonly type: "remove_output"; readonly serialId: bigint };

/** Something that we still have to say: checked, the outpoint of an input looked up. */
export type QueuedMove =
  | (Extract<Move, { type: "add_input" }> & { readonly outpoint: OutPoint })
  | Exclude<Move, { type: "add_input" }>;

/** The parameters that outlive `createSession`. */
export type KeptParams = Omit<SessionParams, "inputs" | "outputs" | "serialIds">;

/**
 * Where a session stands. `created`: an initiator that has not spoken; `negotiating`: the peer's turn;
 * `checking_confirmed`: both said tx_complete, the chain is being asked; the last two are final.
 */
export type Phase = "created" | "negotiating" | "checking_confirmed" | "completed" | "failed";

/** The state of a session. */
export interface SessionState {
  readonly params: KeptParams;
  readonly phase: Phase;
  /** What we have yet to send, in order. */
  readonly queue: readonly QueuedMove[];
  /** In the order in which they were added, both sides'. */
  readonly inputs: readonly SessionInput[];
  readonly outputs: readonly SessionOutput[];
  /** Whether the last message that we sent was tx_complete. */
  readonly sentComplete: boolean;
  /** Received tx_add_input, removed ones included. */
  readonly addInputsReceived: number;
  /** Received tx_add_output, removed ones included. */
  readonly addOutputsReceived: number;
  /** The built transaction, from `checking_confirmed` on. */
  readonly completed: CompletedTx | null;
}

/** A message of the negotiation. */
export type InteractiveMessage = TxAddInput | TxAddOutput | TxRemoveInput | TxRemoveOutput | TxComplete;

/** What the chain says of an outpoint that we asked about; unknown or spent counts as unconfirmed. */
export interface ConfirmedResult {
  readonly outpoint: OutPoint;
  readonly confirmed: boolean;
}

/** What can happen to a session. */
export type SessionInputEvent =
  /** The initiator speaks first. */
  | { readonly type: "start" }
  | { readonly type: "message"; readonly message: InteractiveMessage }
  /** Changes our part while the negotiation lasts; goes out at our next turn, unless the peer's tx_complete ends it. */
  | { readonly type: "move"; readonly move: Move }
  | { readonly type: "confirmed"; readonly results: readonly ConfirmedResult[] };

/** What the caller must do, in order. */
export type SessionAction =
  | { readonly type: "send"; readonly message: InteractiveMessage }
  /** Ask the chain whether these inputs of the peer are confirmed and unspent; answer with `confirmed`. */
  | { readonly type: "check_confirmed"; readonly outpoints: readonly OutPoint[] }
  | { readonly type: "complete"; readonly tx: CompletedTx }
  /** The session is over: say `tx_abort` with this text. */
  | { readonly type: "fail"; readonly failure: InteractiveFailure; readonly abort: string }
  /** A `move` that cannot be carried out; nothing changed. */
  | { readonly type: "move_refused"; readonly failure: PlanFailure };

/** An input of the built transaction, in its order. */
export type CompletedInput = SessionInput;

/** An output of the built transaction; the funding output belongs to both. */
export interface CompletedOutput {
  readonly serialId: bigint;
  readonly side: Side | "shared";
  readonly amount: Sat;
  readonly script: Uint8Array;
}

/** The transaction that both sides agreed on, unsigned. */
export interface CompletedTx {
  readonly channelId: Uint8Array;
  /** Who initiated, so who pays the common fields and the funding output. */
  readonly initiator: Side;
  readonly feerate: FeeratePerKw;
  readonly locktime: number;
  /** Serialized, without witnesses. */
  readonly unsignedTx: Uint8Array;
  /** In the byte order of the wire. */
  readonly txid: Uint8Array;
  readonly inputs: readonly CompletedInput[];
  readonly outputs: readonly CompletedOutput[];
  readonly fundingOutputIndex: number;
  readonly contributions: PerSide<Sat>;
  readonly fees: PerSide<Sat>;
  /** Who sends tx_signatures first (BOLT 2): the side whose inputs are worth less; on a tie the lesser node id. */
  readonly signsFirst: Side;
}
