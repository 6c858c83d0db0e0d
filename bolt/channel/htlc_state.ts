/** What the four messages of a commitment round do to an HTLC, and on which commitment it is meanwhile. */
import type { HtlcState } from "./types.ts";

/** One event's effect on every state; a state that is not named stays. */
export type Transitions = Readonly<Partial<Record<HtlcState, HtlcState>>>;

/** The peer's commitment_signed: what it said and what it acknowledged enters or leaves our commitment. */
export const THEIR_COMMIT: Transitions = {
  RCVD_ADD_HTLC: "RCVD_ADD_COMMIT",
  RCVD_ADD_REVOCATION: "RCVD_ADD_ACK_COMMIT",
  RCVD_REMOVE_HTLC: "RCVD_REMOVE_COMMIT",
  RCVD_REMOVE_REVOCATION: "RCVD_REMOVE_ACK_COMMIT",
};

/** Our revoke_and_ack. */
export const OUR_REVOKE: Transitions = {
  RCVD_ADD_COMMIT: "SENT_ADD_REVOCATION",
  RCVD_ADD_ACK_COMMIT: "SENT_ADD_ACK_REVOCATION",
  RCVD_REMOVE_COMMIT: "SENT_REMOVE_REVOCATION",
  RCVD_REMOVE_ACK_COMMIT: "SENT_REMOVE_ACK_REVOCATION",
};

/** Our commitment_signed. */
export const OUR_COMMIT: Transitions = {
  SENT_ADD_HTLC: "SENT_ADD_COMMIT",
  SENT_ADD_REVOCATION: "SENT_ADD_ACK_COMMIT",
  SENT_REMOVE_HTLC: "SENT_REMOVE_COMMIT",
  SENT_REMOVE_REVOCATION: "SENT_REMOVE_ACK_COMMIT",
};

/** The peer's revoke_and_ack. */
export const THEIR_REVOKE: Transitions = {
  SENT_ADD_COMMIT: "RCVD_ADD_REVOCATION",
  SENT_ADD_ACK_COMMIT: "RCVD_ADD_ACK_REVOCATION",
  SENT_REMOVE_COMMIT: "RCVD_REMOVE_REVOCATION",
  SENT_REMOVE_ACK_COMMIT: "RCVD_REMOVE_ACK_REVOCATION",
};

/** An HTLC on the newest commitment of one side, and on the next one of that side if it were signed now. */
export type Place =
  /** On neither. */
  | "out"
  /** On both. */
  | "in"
  /** Only on the next one. */
  | "entering"
  /** Only on the newest one. */
  | "leaving";

/** On our own commitments. */
export const ON_LOCAL: Readonly<Record<HtlcState, Place>> = {
  SENT_ADD_HTLC: "out",
  SENT_ADD_COMMIT: "out",
  RCVD_ADD_REVOCATION: "entering",
  RCVD_ADD_ACK_COMMIT: "in",
  SENT_ADD_ACK_REVOCATION: "in",
  RCVD_REMOVE_HTLC: "leaving",
  RCVD_REMOVE_COMMIT: "out",
  SENT_REMOVE_REVOCATION: "out",
  SENT_REMOVE_ACK_COMMIT: "out",
  RCVD_REMOVE_ACK_REVOCATION: "out",
  RCVD_ADD_HTLC: "entering",
  RCVD_ADD_COMMIT: "in",
  SENT_ADD_REVOCATION: "in",
  SENT_ADD_ACK_COMMIT: "in",
  RCVD_ADD_ACK_REVOCATION: "in",
  SENT_REMOVE_HTLC: "in",
  SENT_REMOVE_COMMIT: "in",
  RCVD_REMOVE_REVOCATION: "leaving",
  RCVD_REMOVE_ACK_COMMIT: "out",
  SENT_REMOVE_ACK_REVOCATION: "out",
};

/** On the peer's commitments. */
export const ON_REMOTE: Readonly<Record<HtlcState, Place>> = {
  SENT_ADD_HTLC: "entering",
  SENT_ADD_COMMIT: "in",
  RCVD_ADD_REVOCATION: "in",
  RCVD_ADD_ACK_COMMIT: "in",
  SENT_ADD_ACK_REVOCATION: "in",
  RCVD_REMOVE_HTLC: "in",
  RCVD_REMOVE_COMMIT: "in",
  SENT_REMOVE_REVOCATION: "leaving",
  SENT_REMOVE_ACK_COMMIT: "out",
  RCVD_REMOVE_ACK_REVOCATION: "out",
  RCVD_ADD_HTLC: "out",
  RCVD_ADD_COMMIT: "out",
  SENT_ADD_REVOCATION: "entering",
  SENT_ADD_ACK_COMMIT: "in",
  RCVD_ADD_ACK_REVOCATION: "in",
  SENT_REMOVE_HTLC: "leaving",
  SENT_REMOVE_COMMIT: "out",
  RCVD_REMOVE_REVOCATION: "out",
  RCVD_REMOVE_ACK_COMMIT: "out",
  SENT_REMOVE_ACK_REVOCATION: "out",
};

/** Whether our next commitment_signed would change the peer's commitment by this state. */
export function waitsForOurCommit(state: HtlcState): boolean {
  return OUR_COMMIT[state] !== undefined;
}
