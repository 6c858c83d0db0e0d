/** channel_reestablish: what each side missed is said again, and what proves that one lost its data (items 23 to 32). */
import { isSecretOfPoint } from "bolt/keys/derive.ts";
import { lookupSecret, shachainIndex } from "bolt/keys/shachain.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { ChannelReady, ChannelReestablish, CommitmentSigned, Message } from "bolt/wire/messages.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import { updatesIn } from "./commit.ts";
import type { Draft } from "./draft.ts";
import { contentOf } from "./finish.ts";
import { refuseQueue, shutdownMessage } from "./shutdown.ts";
import type { HsmdAnswer, HsmdRequest, LockedChannel, OutpointSignatures } from "./types.ts";

/** Before any revocation nobody knows a secret. */
const NO_SECRET = new Uint8Array(32);

/** channel_reestablish opens every connection, unless the channel has failed: then its error does. */
export function onConnected(d: Draft): void {
  disconnect(d);
  const { channel } = d;
  d.m.link = "reestablishing";
  if (channel.errorText !== null) {
    return d.send(d.errorOf({ text: channel.errorText, say: true, dataLoss: channel.dataLoss }));
  }
  const { local, remote, funding } = d.first;
  d.send({
    type: "channel_reestablish",
    channel_id: channel.channelId,
    next_commitment_number: local.number + 1n,
    next_revocation_number: remote.number,
    your_last_per_commitment_secret: lastSecret(d),
    my_current_per_commitment_point: d.commitments.localCurrentPoint,
    my_current_funding_locked: { my_current_funding_locked_txid: funding.txid, retransmit_flags: 0 },
  });
}

function lastSecret(d: Draft): Uint8Array {
  const { number } = d.first.remote;
  if (number === 0n) return NO_SECRET;
  const secret = lookupSecret(d.commitments.shachain, shachainIndex(number - 1n));
  if (!secret.ok) throw new RangeError(`the secret of commitment ${number - 1n} is not in the rows`);
  return secret.value;
}

/** The connection is gone, and with it what the peer said without a commitment_signed (item 30). A preimage stays. */
export function disconnect(d: Draft): void {
  d.m.link = "down";
  d.m.batchLeft = 0;
  d.m.abortSaid = false;
  d.m.shutdownTold = false;
  d.m.closingAwaited = false;
  const { adds, removes } = d.m.uncommitted;
  for (const key of adds) d.drop(key);
  for (const key of removes) {
    const htlc = d.htlcs.get(key);
    if (htlc === undefined) continue;
    const removal = htlc.removal?.type === "fulfill" ? htlc.removal : null;
    d.put({ ...htlc, state: "SENT_ADD_ACK_REVOCATION", removal });
  }
  if (adds.length > 0 || removes.length > 0) {
    d.clearUncommitted();
    d.forgetFigures();
  }
  const { fees } = d.commitments;
  if (fees.some(({ state }) => state === "RCVD_ADD_HTLC")) {
    d.setCommitments({ fees: fees.filter(({ state }) => state !== "RCVD_ADD_HTLC") });
  }
  refuseQueue(d, "the peer is not connected");
}

/**
 * A connection that another owner had. Before the first commitment_signed all that can be missing may be said twice
 * (`lost`: the last words did not reach the peer). Later a revoke_and_ack or commitment_signed too few or too many costs
 * the channel, and only channel_reestablish tells which: the connection begins anew.
 */
export function onTakenOver(d: Draft, lost: boolean): void {
  const { channel } = d;
  const { local, remote, nextRemote } = d.first;
  d.m.link = "up";
  if (local.number > 0n || remote.number > 0n || nextRemote !== null) {
    return d.hangUp("the owner changed within a connection");
  }
  if (!lost) return;
  d.send(channelReadyOf(channel));
  if (channel.shutdownSent !== null) d.send(shutdownMessage(channel.channelId, channel.shutdownSent));
}

/** Our channel_ready, again. Only before number 1 is our next point the second one. */
export function channelReadyOf(channel: LockedChannel): ChannelReady {
  return {
    type: "channel_ready",
    channel_id: channel.channelId,
    second_per_commitment_point: channel.commitments.localNextPoint,
    short_channel_id: shortChannelId(channel.localAlias),
  };
}

/** What hsmd must tell before a channel_reestablish can be judged and answered; null: nothing. */
function needed(d: Draft, message: ChannelReestablish): HsmdRequest | null {
  const number = d.first.local.number;
  const claimed = message.next_revocation_number;
  const pointNumbers: bigint[] = [];
  if (claimed > 0n && !isLastRevoked(d, claimed - 1n) && knownPoint(d, claimed - 1n) === null) {
    pointNumbers.push(claimed - 1n);
  }
  const again = claimed + 1n === number && d.m.revocation === null;
  if (pointNumbers.length === 0 && !again) return null;
  return {
    outpoints: again
      ? d.commitments.active.map(({ funding, capacity, local }) => ({
        funding,
        capacity,
        verify: {
          content: contentOf(d.htlcs, local),
          remoteSignature: local.remoteSignature,
          htlcSignatures: local.htlcSignatures,
        },
        sign: null,
      }))
      : [],
    revoke: again,
    ecdhPoints: [],
    pointNumbers,
  };
}

/** Whether that secret is the last one that we told in this process. */
function isLastRevoked(d: Draft, number: bigint): boolean {
  return d.m.revocation !== null && number + 1n === d.first.local.number;
}

function knownPoint(d: Draft, number: bigint): Uint8Array | null {
  const current = d.first.local.number;
  if (number === current) return d.commitments.localCurrentPoint;
  if (number === current + 1n) return d.commitments.localNextPoint;
  return null;
}

/** Largest number that a commitment can have, and one more: what a `next_` counter can say. */
const MAX_COUNTER = 1n << 48n;

/** The peer's channel_reestablish. */
export function onReestablish(d: Draft, message: ChannelReestablish): void {
  if (d.m.link !== "reestablishing") return d.protest("channel_reestablish was not expected");
  if (message.next_commitment_number > MAX_COUNTER || message.next_revocation_number > MAX_COUNTER) {
    return d.fail("channel_reestablish: a counter has more than 48 bits");
  }
  if (message.next_commitment_number === 0n) return d.fail("next_commitment_number must not be 0");
  const request = needed(d, message);
  if (request === null) return judge(d, message, []);
  d.m.asked = { request, ecdh: [], then: { type: "reestablish", message } };
}

/** hsmd told what was needed. The connection may have gone meanwhile: the next one asks again. */
export function onReestablishAnswer(
  d: Draft,
  message: ChannelReestablish,
  answer: Extract<HsmdAnswer, { type: "answered" }>,
): void {
  if (answer.perCommitmentSecret !== null && answer.nextPerCommitmentPoint !== null) {
    d.m.revocation = { secret: answer.perCommitmentSecret, nextPoint: answer.nextPerCommitmentPoint };
  }
  if (d.m.link === "reestablishing") judge(d, message, answer.points);
}

function judge(d: Draft, message: ChannelReestablish, points: readonly (Uint8Array | null)[]): void {
  const { channel } = d;
  const { local, remote, nextRemote } = d.first;
  const revoked = message.next_revocation_number;
  const secret = message.your_last_per_commitment_secret;
  if (revoked === 0n) {
    if (!sameBytes(secret, NO_SECRET)) {
      return d.fail("your_last_per_commitment_secret is not zero before any revocation");
    }
  } else {
    const proven = isOurSecret(d, revoked - 1n, secret, points);
    if (revoked > local.number) {
      // Only a secret of ours proves that our rows are old; a mere claim must not freeze our money (attack 25).
      if (proven) {
        return d.fail("the peer proved that we lost data: please close the channel", { dataLoss: true });
      }
      return d.fail(`next_revocation_number is ${revoked} without proof, we are at ${local.number}`);
    }
    if (!proven) return d.fail("your_last_per_commitment_secret is wrong");
  }
  if (revoked !== local.number && revoked + 1n !== local.number) {
    return d.fail(`next_revocation_number is ${revoked}, we are at ${local.number}`);
  }
  const wanted = message.next_commitment_number;
  const newest = nextRemote?.number ?? remote.number;
  const signAgain = nextRemote !== null && wanted === nextRemote.number;
  if (wanted !== newest + 1n && !signAgain) {
    return d.fail(`next_commitment_number is ${wanted}, we are at ${newest}`);
  }
  const revokeAgain = revoked + 1n === local.number;
  const { revocation, signatures } = d.m;
  if (revokeAgain && revocation === null) throw new RangeError("the last secret was not asked for");
  if (signAgain && signatures === null) throw new RangeError("signatures were not asked for");

  answerNextFunding(d, message);
  // Both still at number 1: the peer may have missed our channel_ready (section 3, item 75).
  if (wanted === 1n && local.number === 0n) d.send(channelReadyOf(channel));
  const revoke: Message[] = revokeAgain && revocation !== null ? [revokeMessage(channel, revocation)] : [];
  const commit: Message[] = signAgain && signatures !== null
    ? [...updatesIn(d, "COMMIT"), ...commitMessages(channel, signatures)]
    : [];
  d.send(...(d.commitments.revokedLast ? [...commit, ...revoke] : [...revoke, ...commit]));
  if (channel.shutdownSent !== null) d.send(shutdownMessage(channel.channelId, channel.shutdownSent));
  d.m.link = "up";
}

/** Whether a secret is the one of our commitment with this number. `points`: hsmd's answer. */
function isOurSecret(
  d: Draft,
  number: bigint,
  secret: Uint8Array,
  points: readonly (Uint8Array | null)[],
): boolean {
  const { revocation } = d.m;
  if (revocation !== null && isLastRevoked(d, number)) return sameBytes(secret, revocation.secret);
  const point = knownPoint(d, number) ?? points[0] ?? null;
  return point !== null && isSecretOfPoint(secret, point);
}

/** A peer that missed our tx_signatures of the funding transaction gets them again; any other is unknown. */
function answerNextFunding(d: Draft, message: ChannelReestablish): void {
  const wanted = message.next_funding?.next_funding_txid;
  if (wanted === undefined) return;
  const { channelId, localTxSignatures } = d.channel;
  const { txid } = d.first.funding;
  if (!sameBytes(wanted, txid)) return d.abort("unknown next_funding_txid");
  d.send({ type: "tx_signatures", channel_id: channelId, txid, witnesses: [...localTxSignatures] });
}

/** revoke_and_ack of ours. */
export function revokeMessage(
  channel: LockedChannel,
  revocation: { readonly secret: Uint8Array; readonly nextPoint: Uint8Array },
): Message {
  return {
    type: "revoke_and_ack",
    channel_id: channel.channelId,
    per_commitment_secret: revocation.secret,
    next_per_commitment_point: revocation.nextPoint,
  };
}

const SIGNATURE_LENGTH = 64;

/** commitment_signed of ours, one for each funding output. */
export function commitMessages(
  channel: LockedChannel,
  signatures: readonly OutpointSignatures[],
): readonly CommitmentSigned[] {
  return signatures.map(({ signature, htlcSignatures }): CommitmentSigned => {
    const each: Uint8Array[] = [];
    for (let at = 0; at < htlcSignatures.length; at += SIGNATURE_LENGTH) {
      each.push(htlcSignatures.subarray(at, at + SIGNATURE_LENGTH));
    }
    return {
      type: "commitment_signed",
      channel_id: channel.channelId,
      signature,
      htlc_signature: each,
    };
  });
}
