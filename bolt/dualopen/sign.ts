/** First commitments and tx_signatures (BOLT 2, commitment_signed of an interactive transaction; tx_signatures). */
import { checkTxSignatures, finalizeTx, signaturesFailureText } from "bolt/interactive/signatures.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { decodeWitness } from "bolt/tx/witness.ts";
import type { CommitmentSigned, TxSignatures } from "bolt/wire/messages.ts";
import { abort, failChannel } from "./abort.ts";
import type { Action } from "./actions.ts";
import type { HsmRefusal, HsmRequestType, Tested } from "./inputs.ts";
import {
  andThen,
  attemptOf,
  currentAttempt,
  hangUp,
  protest,
  send,
  stateAfter,
  type Step,
  to,
  weSigned,
  withAttempt,
} from "./step.ts";
import type { Attempt, DualOpenState, SavedChannel } from "./types.ts";

/** Wrong tx_signatures on one connection before we hang up: checking them costs work (eclair #3328). */
export const MAX_BAD_TX_SIGNATURES = 3;

/** The peer's commitment_signed: nothing counts before hsmd found it good (items 46 and 47). */
export function onCommitmentSigned(state: DualOpenState, message: CommitmentSigned): Step {
  const { channel } = state;
  if (channel === null) return protest(state, "commitment_signed without a transaction");
  const attempt = currentAttempt(channel);
  if (message.funding_txid !== undefined && !(attempt && sameBytes(message.funding_txid, attempt.tx.txid))) {
    // One for an aborted attempt may still have been on its way (item 60, LDK #4751).
    const known = channel.attempts.some((a) => sameBytes(a.tx.txid, message.funding_txid!));
    return known ? to(state) : protest(state, "commitment_signed for an unknown funding transaction");
  }
  if (attempt === undefined || state.negotiation !== null) {
    return protest(state, "commitment_signed was not expected");
  }
  if (attempt.remoteCommitmentSignature !== null) {
    // Sent again after a reconnect; the good one is stored, so another one changes nothing.
    return to(state);
  }
  if (message.htlc_signature.length > 0) return abort(state, "a first commitment has no HTLC");
  return to(state, { type: "check_local_commitment", attempt, signature: message.signature });
}

/** hsmd found the peer's signature on our commitment 0 good: stored, then it is our turn if we sign first. */
export function onLocalCommitmentChecked(state: DualOpenState, seq: number, signature: Uint8Array): Step {
  const { channel } = state;
  const attempt = channel?.attempts.find((a) => a.seq === seq);
  if (channel === null || attempt === undefined || attempt.aborted) return to(state);
  const signed: SavedChannel = withAttempt(channel, seq, { remoteCommitmentSignature: signature });
  const next = stateAfter(signed, signed.attempts);
  const stored = to(
    { ...state, channel: { ...signed, state: next } },
    { type: "store", step: { type: "save_remote_commitment_signature", seq, signature, state: next } },
    { type: "outcome", outcome: { type: "commitments_secured", seq } },
    { type: "progress" },
  );
  return andThen(stored, (s) => signIfOurTurn(s, seq));
}

/**
 * Asks hsmd for our witnesses when it is our turn: the peer's commitment is stored, and we sign first or have the peer's
 * witnesses (items 49 and 50). With a user who signs we wait for `sign`.
 */
export function signIfOurTurn(state: DualOpenState, seq: number): Step {
  const attempt = attemptOf(state.channel!, seq);
  const ready = attempt.remoteCommitmentSignature !== null && !weSigned(attempt) && !attempt.aborted;
  const turn = attempt.tx.signsFirst === "local" || attempt.remoteTxSignatures !== null;
  if (!ready || !turn || attempt.awaitUserSignature) return to(state);
  return to(state, { type: "sign_funding", attempt });
}

/** openchannel_signed. The user's own witnesses come with it; our wallet's come from hsmd. */
export function onSign(state: DualOpenState, witnesses: ReadonlyMap<number, Uint8Array>): Step {
  const attempt = state.channel === null ? undefined : currentAttempt(state.channel);
  const refuse = (detail: string) =>
    to(state, { type: "outcome", outcome: { type: "failed", detail, byPeer: false } } as const);
  if (attempt === undefined || attempt.remoteCommitmentSignature === null) {
    return refuse("the peer's commitment is not secured yet");
  }
  if (weSigned(attempt)) {
    return to(state, {
      type: "outcome",
      outcome: { type: "signed", seq: attempt.seq, complete: attempt.completeTx !== null },
    });
  }
  if (attempt.wallet.userInputs.some((index) => !witnesses.has(index))) {
    return refuse("a witness is missing for an input that is not the wallet's");
  }
  return to(state, { type: "sign_funding", attempt, userWitnesses: witnesses });
}

/** hsmd checked the attempt and signed our inputs. */
export function onFundingSigned(
  state: DualOpenState,
  seq: number,
  witnesses: ReadonlyMap<number, Uint8Array>,
): Step {
  const attempt = state.channel?.attempts.find((a) => a.seq === seq);
  if (attempt === undefined || attempt.aborted || weSigned(attempt)) return to(state);
  const local = ownWitnesses(attempt, witnesses);
  if (local === undefined) {
    return to(state, { type: "log", level: "warn", text: "a witness of ours is missing" });
  }
  if (attempt.remoteTxSignatures !== null) {
    return testComplete(state, attempt, local, attempt.remoteTxSignatures);
  }
  return storeSignatures(state, seq, { local, remote: null, completeTx: null });
}

function ownWitnesses(
  attempt: Attempt,
  witnesses: ReadonlyMap<number, Uint8Array>,
): Uint8Array[] | undefined {
  const own: Uint8Array[] = [];
  for (const [index, input] of attempt.tx.inputs.entries()) {
    if (input.side !== "local") continue;
    const witness = witnesses.get(index);
    if (witness === undefined) return undefined;
    own.push(witness);
  }
  return own;
}

/** Stores what is new of both sides' witnesses, then sends ours if they are, and broadcasts what is complete. */
function storeSignatures(
  state: DualOpenState,
  seq: number,
  signatures: {
    readonly local: readonly Uint8Array[] | null;
    readonly remote: readonly Uint8Array[] | null;
    readonly completeTx: Uint8Array | null;
  },
): Step {
  const before = attemptOf(state.channel!, seq);
  const changed = withAttempt(state.channel!, seq, {
    localTxSignatures: signatures.local ?? before.localTxSignatures,
    remoteTxSignatures: signatures.remote ?? before.remoteTxSignatures,
    completeTx: signatures.completeTx ?? before.completeTx,
  });
  const next = stateAfter(changed, changed.attempts);
  const after = attemptOf(changed, seq);
  const sendOurs = signatures.local !== null && !weSigned(before) && state.link.type === "up";
  const actions: Action[] = [{
    type: "store",
    step: { type: "save_tx_signatures", seq, ...signatures, state: next },
  }];
  if (sendOurs) actions.push(send(txSignaturesOf(state, after)));
  if (signatures.completeTx !== null) actions.push({ type: "broadcast", txid: after.tx.txid });
  if (weSigned(after)) {
    actions.push({ type: "outcome", outcome: { type: "signed", seq, complete: after.completeTx !== null } });
  }
  return to({ ...state, channel: { ...changed, state: next } }, ...actions, { type: "progress" });
}

/** Our tx_signatures, byte for byte the same at every repetition. */
export function txSignaturesOf(state: DualOpenState, attempt: Attempt): TxSignatures {
  return {
    type: "tx_signatures",
    channel_id: state.channelId,
    txid: attempt.tx.txid,
    witnesses: [...(attempt.localTxSignatures ?? [])],
  };
}

function stacks(witnesses: readonly Uint8Array[]): (readonly Uint8Array[])[] | undefined {
  const decoded = witnesses.map(decodeWitness);
  return decoded.every((d) => d.ok) ? decoded.map((d) => d.value) : undefined;
}

/** The whole transaction, before anything of it is stored, in front of bitcoind's consensus engine (item 54). */
function testComplete(
  state: DualOpenState,
  attempt: Attempt,
  local: readonly Uint8Array[],
  remote: readonly Uint8Array[],
): Step {
  const [ours, theirs] = [stacks(local), stacks(remote)];
  const final = ours && theirs ? finalizeTx(attempt.tx, ours, theirs) : undefined;
  if (final === undefined || !final.ok) {
    return wrongSignatures(state, attempt, "witnesses do not fit the transaction");
  }
  return to(state, {
    type: "test_funding",
    seq: attempt.seq,
    tested: { local, remote, completeTx: final.value.tx },
  });
}

/** The peer's tx_signatures (items 49 to 57). */
export function onTxSignatures(state: DualOpenState, message: TxSignatures): Step {
  const { channel } = state;
  const attempt = channel === null ? undefined : currentAttempt(channel);
  if (channel === null || attempt === undefined || state.negotiation !== null) {
    return protest(state, "tx_signatures was not expected");
  }
  // After channel_ready they are late and needless (item 57).
  if (channel.lockedAttempt !== null || channel.remoteReady !== null) return to(state);
  if (!sameBytes(message.txid, attempt.tx.txid)) {
    return channel.attempts.some((a) => sameBytes(a.tx.txid, message.txid))
      ? to(state)
      : wrongSignatures(state, attempt, "tx_signatures for another transaction");
  }
  if (attempt.remoteCommitmentSignature === null) {
    // Funds would be locked without a way out for us (item 49).
    return wrongSignatures(state, attempt, "tx_signatures before commitment_signed");
  }
  if (attempt.remoteTxSignatures !== null) return to(state);
  const checked = checkTxSignatures(attempt.tx, "remote", message);
  if (!checked.ok) return wrongSignatures(state, attempt, signaturesFailureText(checked.error));
  const remote = message.witnesses;
  if (attempt.localTxSignatures !== null) {
    return testComplete(state, attempt, attempt.localTxSignatures, remote);
  }
  if (attempt.awaitUserSignature) {
    return storeSignatures(state, attempt.seq, { local: null, remote, completeTx: null });
  }
  const known = withAttempt(channel, attempt.seq, { remoteTxSignatures: remote });
  // Held in memory only until our own witnesses complete the transaction: then all of it is stored in one step.
  return to({ ...state, channel: known }, { type: "sign_funding", attempt: attemptOf(known, attempt.seq) });
}

/** bitcoind's word on the complete transaction. Only a failing script or standardness is the peer's fault. */
export function onFundingTested(
  state: DualOpenState,
  seq: number,
  verdict: "accepted" | "invalid" | "not_now",
  detail: string,
  tested: Tested,
): Step {
  const attempt = state.channel?.attempts.find((a) => a.seq === seq);
  if (attempt === undefined || attempt.aborted || attempt.completeTx !== null) return to(state);
  if (verdict === "invalid") {
    const without = { ...state, channel: withAttempt(state.channel!, seq, { remoteTxSignatures: null }) };
    return wrongSignatures(
      without,
      attemptOf(without.channel, seq),
      `the funding transaction is not valid: ${detail}`,
    );
  }
  return storeSignatures(state, seq, {
    local: weSigned(attempt) ? null : tested.local,
    remote: tested.remote,
    completeTx: tested.completeTx,
  });
}

/**
 * Wrong tx_signatures. Before ours are sent the attempt is aborted; afterwards the peer can broadcast it, so it is
 * kept, and only the work is bounded.
 */
function wrongSignatures(state: DualOpenState, attempt: Attempt, text: string): Step {
  if (!weSigned(attempt)) return abort(state, text);
  const counted: DualOpenState = { ...state, badTxSignatures: state.badTxSignatures + 1 };
  return counted.badTxSignatures >= MAX_BAD_TX_SIGNATURES ? hangUp(counted, text) : protest(counted, text);
}

/** hsmd refused. A bad signature is the peer's fault; anything else is ours, and costs the attempt if it still can. */
export function onHsmRefused(
  state: DualOpenState,
  request: HsmRequestType,
  seq: number,
  refusal: HsmRefusal,
): Step {
  const text = refusal.type === "bad_signature"
    ? "the signature of commitment_signed is not good"
    : "the funding transaction is refused";
  const logged = to(state, {
    type: "log",
    level: "warn",
    text: `hsmd refused ${request} for attempt ${seq}: ${
      refusal.type === "refused" ? refusal.reason : refusal.type
    }`,
  });
  if (request === "lock_funding") return andThen(logged, (s) => lockRefused(s, seq, refusal));
  const attempt = state.channel?.attempts.find((a) => a.seq === seq);
  if (attempt === undefined || attempt.aborted || weSigned(attempt)) return logged;
  return andThen(logged, (s) => abort(s, text));
}

/**
 * The lock is stored and hsmd knows better: nobody can ever sign number 1 for that outpoint, and no other attempt may be
 * locked. The channel fails where people and the peer see it, before channel_ready is said.
 */
function lockRefused(state: DualOpenState, seq: number, refusal: HsmRefusal): Step {
  const { channel } = state;
  if (channel === null || channel.lockedAttempt !== seq || channel.errorText !== null) return to(state);
  const reason = refusal.type === "refused" ? refusal.reason : refusal.type;
  return failChannel(state, `our signer refuses to lock the funding transaction: ${reason}`, true);
}
