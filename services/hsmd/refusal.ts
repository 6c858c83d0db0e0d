/** The named failures of hsmd, as the contract lists them. */

/** Why hsmd does not do what it is asked. */
export type RefusalReason =
  | "EPOCH_STALE"
  | "CONTENT_CONFLICT"
  | "REVOKED"
  | "NOT_MIRRORED"
  | "BALANCE_MISMATCH"
  | "FEE_TOO_HIGH"
  | "BAD_SIGNATURE"
  | "ZERO_OUTPOINT"
  | "UNKNOWN_CHANNEL"
  | "NOT_LOCKED"
  | "MEMORY_LOST"
  | "MEMORY_ROLLED_BACK"
  | "INPUT_BOUND"
  | "UNNAMED_OUTPUT"
  | "FROZEN"
  | "MALLEABLE_INPUT"
  | "FOREIGN_DATABASE"
  /** A step of a channel whose terms this run of hsmd was not told. */
  | "TERMS_UNKNOWN"
  /** The request itself is malformed. */
  | "BAD_REQUEST"
  /** No database was bound in this run. */
  | "NOT_BOUND";

/** A refusal; nothing was remembered and nothing signed. The message is for people and holds no secret. */
export interface Refusal {
  readonly reason: RefusalReason;
  readonly message: string;
}

/** Makes a refusal. */
export function refusal(reason: RefusalReason, message: string): Refusal {
  return { reason, message };
}
