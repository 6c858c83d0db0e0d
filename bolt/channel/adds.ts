/** HTLCs that are added: ours wait for the next commitment_signed, the peer's for its own (BOLT 2, update_add_htlc). */
import type { UpdateAddHtlc } from "bolt/wire/messages.ts";
import { msat } from "bolt/units.ts";
import { type Draft, QUEUED } from "./draft.ts";
import {
  checkReceive,
  checkSend,
  dustExposure,
  limitsOf,
  LOCKTIME_THRESHOLD,
  MAX_CLTV_AHEAD,
} from "./limits.ts";
import { paused } from "./paused.ts";
import { type ChannelAction, type Htlc, htlcKey, type IncomingRefusal, type Offer } from "./types.ts";

/** Where the point stands in an onion packet: after its version. */
const ONION_POINT_START = 1;
const ONION_POINT_END = 34;

/** Why an offer cannot be taken: a failure of BOLT 4, and what is meant. */
export interface OfferRefusal {
  readonly reason: string;
  readonly detail: string;
}

/** lightningd's offer. One that is known already is answered with what became of it. */
export function onOffer(d: Draft, offer: Offer): void {
  const known = d.m.origins.get(offer.origin);
  if (known === QUEUED) return;
  const htlc = known === undefined ? undefined : d.htlcs.get(known);
  if (htlc !== undefined) {
    // Part of a committed step, or of this one.
    d.late.push(...standingOf(htlc));
    return;
  }
  const refusal = refusalOf(d, offer);
  if (refusal !== null) {
    d.early.push({ type: "refused", origin: offer.origin, ...refusal });
    return;
  }
  for (const figures of d.figures) figures.adds({ offered: true, amount: offer.amount });
  d.enqueue({
    origin: offer.origin,
    amount: offer.amount,
    paymentHash: offer.paymentHash,
    cltvExpiry: offer.cltvExpiry,
    onion: offer.onion,
  });
}

/** What is said of an HTLC of ours that lives. */
export function standingOf(htlc: Htlc): readonly ChannelAction[] {
  const { origin, id, removal } = htlc;
  if (!htlc.offered || origin === null) return [];
  const offered: ChannelAction = { type: "offered", origin, id };
  return removal?.type === "fulfill"
    ? [offered, { type: "outgoing_resolved", origin, id, removal }]
    : [offered];
}

/** Whether an offer can be taken now; the figures hold what was taken before it. */
export function refusalOf(d: Draft, offer: Offer): OfferRefusal | null {
  const temporary = (detail: string) => ({ reason: "temporary_channel_failure", detail });
  const why = paused(d.m);
  if (why !== undefined) return temporary(why);
  const { node } = d.m;
  if (node === null) return temporary("the height is not known yet");
  const expiry = offer.cltvExpiry;
  if (expiry <= node.height) return { reason: "expiry_too_soon", detail: `height is ${node.height}` };
  if (expiry >= LOCKTIME_THRESHOLD || expiry > node.height + MAX_CLTV_AHEAD) {
    return { reason: "expiry_too_far", detail: `height is ${node.height}` };
  }
  for (const [i, of] of limitsOf(d.m).entries()) {
    const figures = d.figures[i];
    const failure = figures === undefined ? null : checkSend(of, figures, "local", offer.amount);
    if (failure === "amount is below htlc_minimum_msat" || failure === "amount is zero") {
      return { reason: "amount_below_minimum", detail: failure };
    }
    if (failure !== null) return temporary(failure);
  }
  return null;
}

/** The peer's update_add_htlc (items 1 to 7). */
export function onAdd(d: Draft, message: UpdateAddHtlc): void {
  const { channel } = d;
  if (channel.state === "CLOSINGD_SIGEXCHANGE") {
    return d.fail("update_add_htlc after the shutdown was complete");
  }
  if (channel.shutdownReceived !== null) return d.fail("update_add_htlc after shutdown");
  const expected = d.commitments.remoteNextHtlcId + BigInt(d.m.uncommitted.adds.length);
  if (message.id !== expected) return d.fail(`update_add_htlc id ${message.id}: the next one is ${expected}`);
  if (message.cltv_expiry >= LOCKTIME_THRESHOLD) return d.fail("cltv_expiry is not a block height");
  for (const [i, of] of limitsOf(d.m).entries()) {
    const figures = d.figures[i];
    if (figures === undefined) continue;
    const good = checkReceive(of, figures, message.amount_msat);
    if (!good.ok) return d.fail(`update_add_htlc ${message.id}: ${good.error}`);
  }
  const amount = msat(message.amount_msat);
  for (const figures of d.figures) figures.adds({ offered: false, amount });
  d.addUncommitted({
    key: htlcKey(false, message.id),
    offered: false,
    id: message.id,
    state: "RCVD_ADD_HTLC",
    amount,
    paymentHash: message.payment_hash,
    cltvExpiry: message.cltv_expiry,
    origin: null,
    onion: message.onion_routing_packet,
    removal: null,
    sharedSecret: null,
    blinded: message.blinded_path !== undefined,
  });
}

/** The point of an onion. Whether it is one is hsmd's to say. */
export function onionPoint(htlc: Htlc): Uint8Array {
  return htlc.onion === null ? new Uint8Array(0) : htlc.onion.slice(ONION_POINT_START, ONION_POINT_END);
}

/** Tells of the HTLCs that became irrevocably committed in this batch, and which of them we fail ourselves. */
export function tellArrived(d: Draft): void {
  if (d.arrived.length === 0) return;
  const judge = dustJudge(d);
  for (const key of d.arrived) {
    const htlc = d.htlcs.get(key);
    if (htlc === undefined) continue;
    d.late.push({ type: "incoming", htlc, refusal: refusalOfIncoming(d, htlc) ?? judge(htlc) });
  }
}

function refusalOfIncoming(d: Draft, htlc: Htlc): IncomingRefusal | null {
  if (htlc.blinded) return "invalid_onion_blinding";
  if (d.channel.shutdownSent !== null) return "permanent_channel_failure";
  const { node } = d.m;
  if (node !== null && htlc.cltvExpiry > node.height + MAX_CLTV_AHEAD) return "expiry_too_far";
  return null;
}

/**
 * Whether an HTLC that arrived can be kept within the dust exposure, one after the other: those before count, those after
 * do not (CVE-2021-41591; a refused one stays exposed until it is removed, so it counts too).
 */
function dustJudge(d: Draft): (htlc: Htlc) => IncomingRefusal | null {
  const rooms = limitsOf(d.m).flatMap((of, i) => {
    const figures = d.figures[i];
    return figures === undefined ? [] : (["local", "remote"] as const).map((owner) => {
      let left: bigint = of.policy.maxDustExposure;
      left -= dustExposure(of, figures, owner, { untrimmed: 0, dust: 0n });
      for (const key of d.arrived) {
        const htlc = d.htlcs.get(key);
        if (htlc !== undefined && figures.trims(owner, htlc)) left += htlc.amount;
      }
      return { figures, owner, left };
    });
  });
  return (htlc) => {
    let refused = false;
    for (const room of rooms) {
      if (room.figures.trims(room.owner, htlc)) room.left -= htlc.amount;
      if (room.left < 0n) refused = true;
    }
    return refused ? "temporary_channel_failure" : null;
  };
}
