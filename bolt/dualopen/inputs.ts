/** What can happen to the dual-open machine. */
import type { ConfirmedResult } from "bolt/interactive/types.ts";
import type { FeeratePerKw } from "bolt/units.ts";
import type { Message } from "bolt/wire/messages.ts";
import type { ChainFacts, Drive, Plan } from "./types.ts";

/** An open that we start. */
export interface StartOpen {
  readonly type: "start_open";
  readonly plan: Plan;
  readonly fundingFeerate: FeeratePerKw;
  readonly commitmentFeerate: FeeratePerKw;
  readonly locktime: number;
  readonly channelType: Uint8Array;
  readonly requireConfirmedInputs: boolean;
  readonly drive: Drive;
  /** 32 random bytes for serial ids. */
  readonly entropy: Uint8Array;
}

/** A replacement that we start. */
export interface StartRbf {
  readonly type: "start_rbf";
  readonly plan: Plan;
  readonly feerate: FeeratePerKw;
  readonly locktime: number;
  readonly requireConfirmedInputs: boolean;
  readonly drive: Drive;
  readonly entropy: Uint8Array;
}

/** Why hsmd did not do what it was asked. */
export type HsmRefusal =
  /** The peer's signature is wrong or high-S. */
  | { readonly type: "bad_signature" }
  /** Any other refusal: a rule of hsmd's. Ours to explain, not the peer's fault. */
  | { readonly type: "refused"; readonly reason: string };

/** What happens. Answers to questions (`…_result`) come before anything else that waits. */
export type Input =
  | StartOpen
  | StartRbf
  /** openchannel_update: the complete new plan. */
  | { readonly type: "update"; readonly plan: Plan }
  /** openchannel_signed: witnesses of the user's own inputs, by index of the transaction. */
  | { readonly type: "sign"; readonly witnesses: ReadonlyMap<number, Uint8Array> }
  | { readonly type: "abort"; readonly reason: string }
  /** Without progress for too long. */
  | { readonly type: "timeout" }
  /** The cooperative close begins: no further RBF. */
  | {
    readonly type: "start_shutdown";
    /** Where our money goes, if not where it would anyway; it counts only where no script was fixed at the open. */
    readonly script?: Uint8Array;
  }
  /** The peer is attached. `entropy`: 32 random bytes for whatever this connection brings. */
  | { readonly type: "connected" }
  | { readonly type: "disconnected" }
  /** `entropy`: 32 random bytes, for serial ids if this message begins a negotiation. */
  | { readonly type: "message"; readonly message: Message; readonly entropy: Uint8Array }
  | { readonly type: "chain"; readonly facts: ChainFacts }
  | { readonly type: "plan_result"; readonly plan: Plan }
  | { readonly type: "plan_refused"; readonly reason: string }
  | { readonly type: "confirmed_result"; readonly results: readonly ConfirmedResult[] }
  | { readonly type: "remote_commitment_signed"; readonly seq: number; readonly signature: Uint8Array }
  | { readonly type: "local_commitment_checked"; readonly seq: number; readonly signature: Uint8Array }
  /** Witnesses of our wallet's inputs, by index of the transaction. */
  | {
    readonly type: "funding_signed";
    readonly seq: number;
    readonly witnesses: ReadonlyMap<number, Uint8Array>;
  }
  /** hsmd took the lock that the rows hold; also after a reload, before any frame. */
  | { readonly type: "funding_locked"; readonly seq: number }
  | {
    readonly type: "hsm_refused";
    readonly request: HsmRequestType;
    readonly seq: number;
    readonly refusal: HsmRefusal;
  }
  | {
    readonly type: "funding_tested";
    readonly seq: number;
    readonly verdict: "accepted" | "invalid" | "not_now";
    readonly detail: string;
    readonly tested: Tested;
  };

/** What was tested, handed back with the verdict: nothing of it is stored before. */
export interface Tested {
  readonly local: readonly Uint8Array[];
  readonly remote: readonly Uint8Array[];
  readonly completeTx: Uint8Array;
}

/** Requests to hsmd that can be refused. */
export type HsmRequestType =
  | "sign_remote_commitment"
  | "check_local_commitment"
  | "sign_funding"
  | "lock_funding";
