/** What happens to the closing machine, and what its driver does. */
import type { Message } from "bolt/wire/messages.ts";
import type { Sat } from "bolt/units.ts";
import type { FeePlan } from "./fees.ts";
import type { ClosingMachine, SignedClose } from "./types.ts";

/** What can happen. Answers to questions come before anything else that waits. */
export type ClosingInput =
  /** A new connection. */
  | { readonly type: "connected"; readonly plan: FeePlan }
  /** A connection on which the shutdown was agreed. `lost`: the former owner's last words did not all reach the socket. */
  | { readonly type: "taken_over"; readonly plan: FeePlan; readonly lost: boolean }
  | { readonly type: "disconnected" }
  | { readonly type: "message"; readonly message: Message }
  /** A frame of this channel that is no Lightning message. */
  | { readonly type: "garbage"; readonly reason: string }
  /** hsmd signed; the peer's signature, where there was one, is good. */
  | { readonly type: "signed"; readonly signature: Uint8Array }
  /** hsmd did not. */
  | { readonly type: "refused"; readonly reason: string }
  | { readonly type: "revocation"; readonly secret: Uint8Array; readonly nextPoint: Uint8Array }
  /** Whether a secret is that of our commitment with this number. */
  | { readonly type: "secret_checked"; readonly ours: boolean };

/** One durable step, fenced by owner epoch and version. */
export type ClosingStore =
  /** Complete, with the state CLOSINGD_COMPLETE. The same one again changes nothing. */
  | {
    readonly type: "save_close";
    readonly close: SignedClose;
    /** The peer's script by now; null: as it was. */
    readonly remoteScript: Uint8Array | null;
  }
  /** option_simple_close: the peer's shutdown of a new connection names another script. */
  | { readonly type: "save_remote_script"; readonly script: Uint8Array }
  /** `dataLoss`: the peer proved that our state is old. */
  | { readonly type: "fail_channel"; readonly errorText: string; readonly dataLoss: boolean };

/** How an ownership ends. */
export type ClosingEnd =
  /** A close that both signed is stored. */
  | "closed"
  | "failed";

/** What to do, in order. A store that changes no row ends the ownership. */
export type ClosingAction =
  | { readonly type: "store"; readonly step: ClosingStore }
  | { readonly type: "send"; readonly message: Message }
  /** hsmd: sign this transaction; `theirs`: only if the peer's signature is good. Answered by signed or refused. */
  | {
    readonly type: "sign";
    /** Unsigned. */
    readonly tx: Uint8Array;
    readonly localOutput: number | null;
    /** What of our balance the fee may take. */
    readonly maxFee: Sat;
    readonly theirs: Uint8Array | null;
  }
  /** hsmd: our last revocation again. Answered by revocation or refused. */
  | { readonly type: "repeat_revocation" }
  /** hsmd: is this the secret of our commitment with this number? Answered by secret_checked. */
  | { readonly type: "check_secret"; readonly number: bigint; readonly secret: Uint8Array }
  /** Say these and ask lightningd to hang up. */
  | { readonly type: "hang_up"; readonly messages: readonly Message[]; readonly reason: string }
  | { readonly type: "log"; readonly level: "info" | "warn" | "error"; readonly text: string }
  | { readonly type: "end"; readonly how: ClosingEnd; readonly reason: string };

/** A step: the new state, and what to do. */
export interface ClosingStep {
  readonly state: ClosingMachine;
  readonly actions: readonly ClosingAction[];
}
