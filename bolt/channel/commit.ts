/** Commitment rounds: the peer's commitment_signed and revoke_and_ack, and ours at the end of a batch (BOLT 2; items 15 to 19). */
import { concatBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import type { Side } from "bolt/interactive/types.ts";
import { isSecretOfPoint } from "bolt/keys/derive.ts";
import { insertSecret, shachainIndex } from "bolt/keys/shachain.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { anchorsCost } from "bolt/tx/weights.ts";
import { msat } from "bolt/units.ts";
import type { CommitmentSigned, Message, RevokeAndAck, StartBatch } from "bolt/wire/messages.ts";
import { refusalOf } from "./adds.ts";
import type { Draft } from "./draft.ts";
import { wantedFeerate } from "./fees.ts";
import { balanceOf, commitmentCost, MSAT, type NextFigures } from "./figures.ts";
import {
  ON_LOCAL,
  ON_REMOTE,
  OUR_COMMIT,
  OUR_REVOKE,
  THEIR_COMMIT,
  THEIR_REVOKE,
  waitsForOurCommit,
} from "./htlc_state.ts";
import { awaitsClosing } from "./last_fee.ts";
import { removalMessage } from "./removes.ts";
import {
  type ActiveCommitment,
  type Htlc,
  htlcKey,
  type LocalCommitment,
  type RemoteCommitment,
} from "./types.ts";

/** Most commitments that a start_batch can announce: one for each live funding output (BOLT 2 with splices). */
export const MAX_BATCH = 20;

/** What start_batch announces: with one funding output the commitment_signed that follow are looked at one by one. */
export function onStartBatch(d: Draft, { batch_size: size }: StartBatch): void {
  if (d.m.batchLeft > 0) return d.hangUp("start_batch within a batch");
  if (size < 1 || size > MAX_BATCH) return d.hangUp(`start_batch of ${size} messages`);
  d.m.batchLeft = size;
}

/** The peer's commitment_signed. Whether its signatures are good is hsmd's to say. */
export function onCommitmentSigned(d: Draft, message: CommitmentSigned): void {
  const inBatch = d.m.batchLeft > 0;
  if (inBatch) d.m.batchLeft--;
  const { active } = d.commitments;
  const txid = message.funding_txid;
  if (txid !== undefined && !active.some(({ funding }) => sameBytes(funding.txid, txid))) {
    // A batch may name funding outputs that we have seen replaced.
    return inBatch ? undefined : d.fail("commitment_signed for another funding output");
  }
  if (active.length !== 1) return d.fail("commitment_signed for one of several funding outputs");
  if (d.received || active.some(({ pendingLocal }) => pendingLocal !== null)) {
    return d.fail("commitment_signed before our revoke_and_ack");
  }
  const pending: LocalCommitment[] = [];
  for (const [i, each] of active.entries()) {
    const figures = d.figures[i];
    if (figures === undefined) continue;
    const next = figures.local;
    if (message.htlc_signature.length !== next.untrimmed) {
      return d.fail(
        `commitment_signed with ${message.htlc_signature.length} HTLC signatures instead of ${next.untrimmed}`,
      );
    }
    if (!paysAnchors(d, next)) return d.fail("commitment_signed: the opener cannot pay for the anchors");
    if (!hasOutput(d, "local", next)) return d.fail("commitment_signed: our commitment would have no output");
    pending.push({
      ...contentOf(next, each.local.number + 1n),
      htlcs: [],
      remoteSignature: message.signature,
      htlcSignatures: concatBytes(...message.htlc_signature),
    });
  }
  for (const key of d.m.uncommitted.adds) {
    d.added.add(key);
    d.ecdh.push(key);
  }
  const remoteNextHtlcId = d.commitments.remoteNextHtlcId + BigInt(d.m.uncommitted.adds.length);
  d.clearUncommitted();
  d.transition(THEIR_COMMIT);
  const htlcs = keysOn(d, ON_LOCAL);
  d.setCommitments({
    active: active.map((each, i) => ({ ...each, pendingLocal: { ...pending[i]!, htlcs } })),
    remoteNextHtlcId,
  });
  d.received = true;
}

/** Whether a commitment can be built at all: outputs never exceed the funding (BOLT 3). */
function paysAnchors(d: Draft, next: NextFigures): boolean {
  return balanceOf(next, d.opener) >= anchorsCost(d.channel.format) * MSAT;
}

/**
 * Whether a commitment of `owner` has an output: all of it may be dust, or the opener's fee. A transaction without one is
 * none, and hsmd would refuse it again after every restart.
 */
function hasOutput(d: Draft, owner: Side, next: NextFigures): boolean {
  if (next.untrimmed > 0) return true;
  const { format, limits } = d.channel;
  const cost = commitmentCost(format, next.feerate, 0);
  return (["local", "remote"] as const).some((side) => {
    const balance = balanceOf(next, side) / MSAT;
    return (side === d.opener ? balance - cost : balance) >= limits[owner].dustLimit;
  });
}

function contentOf(
  next: NextFigures,
  number: bigint,
): Pick<LocalCommitment, "number" | "toLocal" | "toRemote" | "feerate"> {
  return { number, toLocal: msat(next.toLocal), toRemote: msat(next.toRemote), feerate: next.feerate };
}

function keysOn(d: Draft, places: typeof ON_LOCAL): bigint[] {
  const keys: bigint[] = [];
  for (const htlc of d.htlcs.values()) {
    const place = places[htlc.state];
    if (place === "in" || place === "leaving") keys.push(htlc.key);
  }
  return keys;
}

/** The peer's revoke_and_ack: the secret must be the one of its commitment, and fit all before it (items 17 and 18). */
export function onRevokeAndAck(d: Draft, message: RevokeAndAck): void {
  const { active, shachain } = d.commitments;
  const number = d.first.remote.number;
  const next = active.flatMap(({ nextRemote }) => (nextRemote === null ? [] : [nextRemote]));
  if (next.length !== active.length) return d.fail("revoke_and_ack was not expected");
  const secret = message.per_commitment_secret;
  if (!isSecretOfPoint(secret, d.first.remote.perCommitmentPoint)) {
    return d.fail("revoke_and_ack: not the secret of the commitment's point");
  }
  if (!ecc().isPoint(message.next_per_commitment_point)) {
    return d.fail("revoke_and_ack: next_per_commitment_point is no point");
  }
  const inserted = insertSecret(shachain, shachainIndex(number), secret);
  if (!inserted.ok) return d.fail(`revoke_and_ack: ${inserted.error.type}`);
  d.transition(THEIR_REVOKE, (htlc) => {
    if (htlc.state === "RCVD_ADD_ACK_REVOCATION") d.arrived.push(htlc.key);
    if (htlc.state === "RCVD_REMOVE_ACK_REVOCATION") outgoingGone(d, htlc);
  });
  d.setCommitments({
    active: active.map((each, i) => ({ ...each, remote: next[i]!, nextRemote: null })),
    remoteNextPoint: message.next_per_commitment_point,
    shachain: inserted.value,
    fees: d.commitments.fees.filter(({ state }) => state !== "RCVD_ADD_ACK_REVOCATION"),
  });
  d.m.signatures = null;
}

function outgoingGone(d: Draft, htlc: Htlc): void {
  d.drop(htlc.key);
  d.changed.delete(htlc.key);
  d.removed.push(htlc);
  const { origin, id, removal } = htlc;
  if (origin === null) return;
  d.dropOrigin(origin);
  // A preimage was told when it came.
  if (removal !== null && removal.type !== "fulfill") {
    d.late.push({ type: "outgoing_resolved", origin, id, removal });
  }
}

/** Our side of the peer's commitment_signed: from here on it counts as revoked for, and hsmd is asked to do so. */
export function revokeOurs(d: Draft): void {
  d.transition(OUR_REVOKE);
  d.setCommitments({
    fees: d.commitments.fees.filter(({ state }) => state !== "SENT_ADD_ACK_REVOCATION"),
    revokedLast: true,
  });
}

/** Whether the peer's commitment lacks something that both know, or that we want to say. */
export function hasChanges(d: Draft): boolean {
  for (const htlc of d.htlcs.values()) if (waitsForOurCommit(htlc.state)) return true;
  return d.m.queue.length > 0 || d.commitments.fees.some(({ state }) => waitsForOurCommit(state));
}

/** Whether a commitment_signed of ours may leave now. */
export function maySign(d: Draft): boolean {
  return d.m.link === "up" && d.m.onChain.type === "confirmed" && d.channel.errorText === null &&
    !awaitsClosing(d.m) &&
    d.commitments.active.every(({ nextRemote }) => nextRemote === null);
}

/** Signs the peer's next commitment over everything that waits. Gives what is said before it; null: nothing to sign. */
export function signTheirs(d: Draft): readonly Message[] | null {
  const rate = wantedFeerate(d);
  if (rate !== null) {
    d.setCommitments({ fees: [...d.commitments.fees, { feerate: rate, state: "SENT_ADD_HTLC" }] });
  }
  if (d.figures.some((figures) => !paysAnchors(d, figures.remote))) {
    d.fail("the opener cannot pay for the anchors any more");
    return null;
  }
  if (d.figures.some((figures) => !hasOutput(d, "remote", figures.remote))) {
    d.fail("the peer's commitment would have no output");
    return null;
  }
  takeOffers(d);
  if (!hasChanges(d)) return null;
  const updates = updatesIn(d, "HTLC");
  const next: RemoteCommitment[] = [];
  for (const [i, each] of d.commitments.active.entries()) {
    const figures = d.figures[i];
    if (figures === undefined) continue;
    next.push({
      ...contentOf(figures.remote, each.remote.number + 1n),
      htlcs: [],
      perCommitmentPoint: d.commitments.remoteNextPoint,
    });
  }
  d.transition(OUR_COMMIT);
  const htlcs = keysOn(d, ON_REMOTE);
  d.setCommitments({
    active: d.commitments.active.map((each, i) => ({ ...each, nextRemote: { ...next[i]!, htlcs } })),
    revokedLast: false,
  });
  return updates;
}

/** Offers that waited get their ids, unless what happened meanwhile leaves no room for them. */
function takeOffers(d: Draft): void {
  if (d.m.queue.length === 0) return;
  const queue = d.takeQueue();
  d.forgetFigures();
  let id = d.commitments.localNextHtlcId;
  const taken: Htlc[] = [];
  for (const offer of queue) {
    const refusal = refusalOf(d, offer);
    if (refusal !== null) {
      d.early.push({ type: "refused", origin: offer.origin, ...refusal });
      continue;
    }
    for (const figures of d.figures) figures.adds({ offered: true, amount: offer.amount });
    taken.push({
      ...offer,
      key: htlcKey(true, id),
      offered: true,
      id,
      state: "SENT_ADD_HTLC",
      removal: null,
      sharedSecret: null,
      blinded: false,
    });
    id++;
  }
  for (const htlc of taken) {
    d.put(htlc);
    d.added.add(htlc.key);
    if (htlc.origin !== null) {
      d.setOrigin(htlc.origin, htlc.key);
      d.late.push({ type: "offered", origin: htlc.origin, id: htlc.id });
    }
  }
  d.setCommitments({ localNextHtlcId: id });
}

/**
 * Updates of ours in a state: said before the commitment_signed that covers them, the first time and again. Removals
 * first and additions last: whatever order they were decided in, no prefix of it needs more room than all of them.
 */
export function updatesIn(d: Draft, stage: "HTLC" | "COMMIT"): readonly Message[] {
  const channelId = d.channel.channelId;
  const removes: Htlc[] = [];
  const adds: Htlc[] = [];
  for (const htlc of d.htlcs.values()) {
    if (htlc.state === `SENT_REMOVE_${stage}`) removes.push(htlc);
    if (htlc.state === `SENT_ADD_${stage}`) adds.push(htlc);
  }
  const byId = (a: Htlc, b: Htlc) => (a.id < b.id ? -1 : 1);
  const fees = d.commitments.fees.filter(({ state }) => state === `SENT_ADD_${stage}`);
  return [
    ...removes.sort(byId).map((htlc) => removalMessage(channelId, htlc)),
    ...fees.map(({ feerate }): Message => ({
      type: "update_fee",
      channel_id: channelId,
      feerate_per_kw: feerate,
    })),
    ...adds.sort(byId).map((htlc) => addMessage(channelId, htlc)),
  ];
}

function addMessage(channelId: Uint8Array, htlc: Htlc): Message {
  if (htlc.onion === null) throw new RangeError("an offer that is to be said without its onion");
  return {
    type: "update_add_htlc",
    channel_id: channelId,
    id: htlc.id,
    amount_msat: htlc.amount,
    payment_hash: htlc.paymentHash,
    cltv_expiry: htlc.cltvExpiry,
    onion_routing_packet: htlc.onion,
  };
}

/** Drops what only an unverified or unsigned commitment of a step would have brought. */
export function dropPending(active: readonly ActiveCommitment[], signed: boolean): ActiveCommitment[] {
  return active.map((each) => ({
    ...each,
    pendingLocal: null,
    nextRemote: signed ? null : each.nextRemote,
  }));
}
