/** What the driver of the dual-open machine does, in order. A store that changes no row ends the ownership. */
import type { OutPoint } from "bolt/tx/transaction.ts";
import type { FeeratePerKw, Sat } from "bolt/units.ts";
import type { Message } from "bolt/wire/messages.ts";
import type { Tested } from "./inputs.ts";
import type { Attempt, ChannelState, EndReason, SavedChannel } from "./types.ts";

/** One durable step: each is one statement, fenced by owner epoch and version. */
export type StoreStep =
  /** The first row of a channel and its attempt, from the opening's row. Fails on any conflict. */
  | { readonly type: "save_open"; readonly channel: SavedChannel }
  /** An RBF's attempt, from the opening's row. */
  | { readonly type: "save_attempt"; readonly attempt: Attempt; readonly state: ChannelState }
  | {
    readonly type: "save_remote_commitment_signature";
    readonly seq: number;
    readonly signature: Uint8Array;
    readonly state: ChannelState;
  }
  /** Witnesses of either side or both; `completeTx` exactly when both are known then. */
  | {
    readonly type: "save_tx_signatures";
    readonly seq: number;
    readonly local: readonly Uint8Array[] | null;
    readonly remote: readonly Uint8Array[] | null;
    readonly completeTx: Uint8Array | null;
    readonly state: ChannelState;
  }
  /** `state`: where the channel is without it. */
  | { readonly type: "abort_attempt"; readonly seq: number; readonly state: ChannelState }
  /** A channel for which nothing of ours was signed. */
  | { readonly type: "forget_channel" }
  /** Our channel_ready as sent: locks. */
  | { readonly type: "lock"; readonly seq: number; readonly state: ChannelState }
  | {
    readonly type: "save_remote_ready";
    readonly secondPerCommitmentPoint: Uint8Array;
    readonly alias: bigint | null;
    readonly state: ChannelState;
  }
  | { readonly type: "save_shutdown"; readonly sent: Uint8Array | null; readonly received: Uint8Array | null }
  | { readonly type: "save_state"; readonly state: ChannelState }
  | { readonly type: "fail_channel"; readonly errorText: string }
  /** A negotiation that came to nothing: its row and what it reserved. */
  | { readonly type: "drop_opening" };

/** An outcome that a waiting command (openchannel_init, _update, _signed, _bump, fundchannel) looks at. */
export type Outcome =
  /** Our items are out; the peer waits for ours (`drive: "manual"`). */
  | { readonly type: "constructing" }
  | { readonly type: "commitments_secured"; readonly seq: number }
  | { readonly type: "signed"; readonly seq: number; readonly complete: boolean }
  | { readonly type: "failed"; readonly detail: string; readonly byPeer: boolean };

/** What to do. */
export type Action =
  | { readonly type: "store"; readonly step: StoreStep }
  | { readonly type: "send"; readonly message: Message }
  /** The channel is now known by its final id. */
  | { readonly type: "rekey"; readonly channelId: Uint8Array }
  /** Ask lightningd for our part of the peer's open; answered by plan_result or plan_refused. */
  | {
    readonly type: "plan_open";
    readonly theirFunding: Sat;
    readonly feerate: FeeratePerKw;
    readonly channelType: Uint8Array;
    readonly requireConfirmedInputs: boolean;
    readonly locktime: number;
  }
  /** The same for the peer's RBF; makes the opening row. */
  | {
    readonly type: "plan_rbf";
    readonly theirFunding: Sat;
    readonly feerate: FeeratePerKw;
    readonly requireConfirmedInputs: boolean;
    readonly locktime: number;
  }
  | { readonly type: "check_confirmed"; readonly outpoints: readonly OutPoint[] }
  /** hsmd: sign the peer's commitment 0; answered by remote_commitment_signed. */
  | { readonly type: "sign_remote_commitment"; readonly attempt: Attempt }
  /** hsmd: is the peer's signature on our commitment 0 good; answered by local_commitment_checked. */
  | { readonly type: "check_local_commitment"; readonly attempt: Attempt; readonly signature: Uint8Array }
  /** hsmd: check everything and sign our wallet's inputs; answered by funding_signed. */
  | {
    readonly type: "sign_funding";
    readonly attempt: Attempt;
    /** Witnesses of the user's own inputs, by index: handed back with hsmd's. */
    readonly userWitnesses?: ReadonlyMap<number, Uint8Array>;
  }
  /** hsmd: only this outpoint from now on; answered by funding_locked. */
  | { readonly type: "lock_funding"; readonly attempt: Attempt }
  /** lightningd: testmempoolaccept; answered by funding_tested. */
  | { readonly type: "test_funding"; readonly seq: number; readonly tested: Tested }
  /** lightningd: broadcast now and until deep. Its result is not waited for. */
  | { readonly type: "broadcast"; readonly txid: Uint8Array }
  /** The negotiation moved: its timeout starts again. */
  | { readonly type: "progress" }
  | { readonly type: "outcome"; readonly outcome: Outcome }
  | { readonly type: "log"; readonly level: "info" | "warn"; readonly text: string }
  /** Say these to the peer and end the attachment; ask lightningd to hang up. */
  | { readonly type: "hang_up"; readonly messages: readonly Message[]; readonly reason: string }
  /** Let go of the channel. */
  | { readonly type: "end"; readonly reason: EndReason };
