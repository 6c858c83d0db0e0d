/**
 * The rooms of lightningd and what each offers the others: `chain/` (bitcoind, blocks, fee rates), `wallet/` (coins,
 * reservations, plans), `peers/` (connectd and subds, assignment, opens), `api/` (cln.Node over these).
 *
 * Everything that must survive is in rows; these objects hold only connections and waiters. All methods that change
 * something answer after COMMIT, fenced by the leader epoch, and throw `Failure` (common/grpc/errors.ts) with CLN's code.
 */
import type { BlockHeight, FeeratePerKw, Sat } from "bolt/units.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import type { Plan } from "gen/arcus/lightningd/v1/lightningd_pb.ts";

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
  testmempoolaccept(tx: Uint8Array): Promise<{ verdict: "accepted" | "invalid" | "not_now"; detail: string }>;
  /** Sends now; the rows' transactions are sent again at start and at each block until deep. Empty: taken or known. */
  broadcast(tx: Uint8Array): Promise<string>;
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
  planFromPsbt(request: { readonly opening: bigint; readonly psbt: string; readonly amount: Sat; readonly feerate: FeeratePerKw }): Promise<Plan>;
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
