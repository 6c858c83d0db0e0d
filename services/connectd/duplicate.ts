/** Which of two connections of the same peer lives. */
import { bytesToHex } from "@noble/hashes/utils.js";

/** Two connections this close to each other may be one dialled by each side at the same time. */
export const MUTUAL_WINDOW_MS = 5_000;

/** Who dialled a connection. */
export type Dialled = "us" | "them";

/**
 * The new connection wins: the peer knows best that its old one is dead. Only when both sides dialled at the same time
 * "the new one" is a different one on each side, and both would be closed; then both sides keep the one that the lower
 * node id dialled.
 */
export function newConnectionWins(input: {
  readonly localId: Uint8Array;
  readonly peerId: Uint8Array;
  readonly oldDialled: Dialled;
  readonly newDialled: Dialled;
  /** Milliseconds between their ends of init. */
  readonly apart: number;
}): boolean {
  if (input.oldDialled === input.newDialled || input.apart > MUTUAL_WINDOW_MS) return true;
  const weAreLower = bytesToHex(input.localId) < bytesToHex(input.peerId);
  return input.newDialled === (weAreLower ? "us" : "them");
}
