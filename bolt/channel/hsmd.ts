/** hsmd's answers: what was pending becomes true and is said, or the channel fails. */
import { onionPoint, standingOf } from "./adds.ts";
import { dropPending } from "./commit.ts";
import type { Draft } from "./draft.ts";
import { contentOf } from "./finish.ts";
import { commitMessages, onReestablishAnswer, revokeMessage } from "./reestablish.ts";
import type { HsmdAnswer, HsmdQuestion, HsmdRequest, Htlc } from "./types.ts";

const SIGNATURE_LENGTH = 64;
const SECRET_LENGTH = 32;
const POINT_LENGTH = 33;

/** The answer to the open question. */
export function onHsmd(d: Draft, answer: HsmdAnswer): void {
  const question = d.m.asked;
  if (question === null) throw new RangeError("hsmd was not asked");
  d.m.asked = null;
  if (answer.type === "refused") return onRefused(d, question, answer);
  const wrong = misfit(question.request, answer);
  if (wrong !== null) return letGo(d, `hsmd's answer does not fit: ${wrong}`);
  takeSecrets(d, question, answer);
  const { then } = question;
  if (then.type === "reestablish") return onReestablishAnswer(d, then.message, answer);
  const revoked = promote(d, question.request, answer);
  const signed = question.request.outpoints.some(({ sign }) => sign !== null);
  if (signed) d.m.signatures = answer.outpoints;
  if (then.type === "restored") return tellRestored(d);
  if (d.m.link !== "up") return;
  d.send(
    ...(revoked && d.m.revocation !== null ? [revokeMessage(d.channel, d.m.revocation)] : []),
    ...then.updates,
    ...(signed ? commitMessages(d.channel, answer.outpoints) : []),
    ...then.after,
  );
}

/** What answers do not have is a defect of ours, never of a peer. */
function misfit(request: HsmdRequest, answer: Extract<HsmdAnswer, { type: "answered" }>): string | null {
  if (answer.outpoints.length !== request.outpoints.length) return "number of outpoints";
  for (const [i, { sign }] of request.outpoints.entries()) {
    const { signature, htlcSignatures } = answer.outpoints[i]!;
    if (sign === null) continue;
    if (signature.length !== SIGNATURE_LENGTH || htlcSignatures.length % SIGNATURE_LENGTH !== 0) {
      return "length of signatures";
    }
  }
  if (request.revoke) {
    if (answer.perCommitmentSecret?.length !== SECRET_LENGTH) return "no secret";
    if (answer.nextPerCommitmentPoint?.length !== POINT_LENGTH) return "no next point";
  }
  if (answer.sharedSecrets.length !== request.ecdhPoints.length) return "number of shared secrets";
  if (answer.points.length !== request.pointNumbers.length) return "number of points";
  return null;
}

/**
 * A bad signature: the peer's commitment is dropped, what would have been signed with it too, and the channel fails. Any
 * other refusal (a stale epoch, a memory that does not match) is no fault of the peer: nothing changes, somebody looks.
 */
function onRefused(
  d: Draft,
  { request, then }: HsmdQuestion,
  { reason, detail }: Extract<HsmdAnswer, { type: "refused" }>,
): void {
  const pending = d.commitments.active.some(({ pendingLocal }) => pendingLocal !== null);
  if (reason !== "BAD_SIGNATURE" || !pending) return letGo(d, `hsmd refused: ${reason}: ${detail}`);
  // After a restart nobody knows whether nextRemote was signed and said before: the peer may broadcast it, so it stays.
  const signed = then.type === "committed" && request.outpoints.some(({ sign }) => sign !== null);
  d.setCommitments({ active: dropPending(d.commitments.active, signed) });
  d.fail("commitment_signed: bad signature");
}

function letGo(d: Draft, reason: string): void {
  d.log("error", reason);
  d.m.ended = reason;
  d.last.push({ type: "end", reason });
}

function takeSecrets(
  d: Draft,
  { ecdh }: HsmdQuestion,
  { sharedSecrets }: Extract<HsmdAnswer, { type: "answered" }>,
): void {
  for (const [i, key] of ecdh.entries()) {
    const htlc = d.htlcs.get(key);
    const sharedSecret = sharedSecrets[i];
    if (htlc !== undefined && sharedSecret !== undefined) d.put({ ...htlc, sharedSecret });
  }
}

/** What hsmd verified is our newest commitment; what it removed for good is gone. Whether it revoked. */
function promote(
  d: Draft,
  { revoke }: HsmdRequest,
  answer: Extract<HsmdAnswer, { type: "answered" }>,
): boolean {
  const { active, localNextPoint } = d.commitments;
  const { perCommitmentSecret: secret, nextPerCommitmentPoint: nextPoint } = answer;
  if (!revoke || secret === null || nextPoint === null) return false;
  d.setCommitments({
    active: active.map((each) => ({ ...each, local: each.pendingLocal ?? each.local, pendingLocal: null })),
    localCurrentPoint: localNextPoint,
    localNextPoint: nextPoint,
  });
  d.m.revocation = { secret, nextPoint };
  dropGone(d);
  return true;
}

/** Incoming HTLCs whose removal is irrevocable. Their rows leave with the next store. */
function dropGone(d: Draft): void {
  const gone: Htlc[] = [];
  for (const htlc of d.htlcs.values()) if (htlc.state === "SENT_REMOVE_ACK_REVOCATION") gone.push(htlc);
  if (gone.length === 0) return;
  for (const htlc of gone) {
    d.drop(htlc.key);
    d.late.push({ type: "incoming_resolved", htlc });
  }
  d.m.gone = [...d.m.gone, ...gone];
}

/** After a load: the question that the rows leave open, or what can be told without one. */
export function restore(d: Draft): void {
  const { active } = d.commitments;
  const pending = active.some(({ pendingLocal }) => pendingLocal !== null);
  const signed = active.some(({ nextRemote }) => nextRemote !== null);
  const ecdh: Htlc[] = [];
  for (const htlc of d.htlcs.values()) if (needsSecret(htlc)) ecdh.push(htlc);
  if (d.channel.errorText !== null || (!pending && !signed && ecdh.length === 0)) return tellRestored(d);
  const request: HsmdRequest = {
    outpoints: pending || signed
      ? active.map((each) => ({
        funding: each.funding,
        capacity: each.capacity,
        verify: each.pendingLocal === null ? null : {
          content: contentOf(d.htlcs, each.pendingLocal),
          remoteSignature: each.pendingLocal.remoteSignature,
          htlcSignatures: each.pendingLocal.htlcSignatures,
        },
        sign: each.nextRemote === null ? null : {
          content: contentOf(d.htlcs, each.nextRemote),
          perCommitmentPoint: each.nextRemote.perCommitmentPoint,
        },
      }))
      : [],
    revoke: pending,
    ecdhPoints: ecdh.map(onionPoint),
    pointNumbers: [],
  };
  d.m.asked = { request, ecdh: ecdh.map(({ key }) => key), then: { type: "restored" } };
}

/** Incoming, not decided on: its onion has to be peeled. */
function needsSecret(htlc: Htlc): boolean {
  return !htlc.offered && htlc.removal === null && htlc.sharedSecret === null && htlc.onion !== null;
}

/** Where everything stands, once hsmd has told what the rows left open. */
function tellRestored(d: Draft): void {
  if (d.commitments.active.every(({ pendingLocal }) => pendingLocal === null)) dropGone(d);
  d.late.push(...standingActions(d.htlcs));
}

/** Outgoing HTLCs where they stand, and incoming ones that wait for a decision. */
export function standingActions(htlcs: ReadonlyMap<bigint, Htlc>): Draft["late"] {
  const actions: Draft["late"] = [];
  for (const htlc of htlcs.values()) {
    if (htlc.offered) actions.push(...standingOf(htlc));
    else if (
      htlc.state === "RCVD_ADD_ACK_REVOCATION" && htlc.removal === null && htlc.sharedSecret !== null
    ) {
      actions.push({ type: "incoming", htlc, refusal: null });
    }
  }
  return actions;
}
