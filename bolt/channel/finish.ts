/** The end of a batch: at most one store and one question to hsmd come of all that happened in it. */
import type { Message } from "bolt/wire/messages.ts";
import { onionPoint, tellArrived } from "./adds.ts";
import { dropPending, maySign, revokeOurs, signTheirs } from "./commit.ts";
import type { Draft, Failure } from "./draft.ts";
import { levelOf, sameLevel } from "./level.ts";
import { canClose, refuseQueue, sayShutdown } from "./shutdown.ts";
import type {
  ChannelAction,
  ChannelStep,
  ChannelStore,
  CommitmentContent,
  CommitmentFigures,
  HsmdQuestion,
  HsmdRequest,
  Htlc,
  OutpointRequest,
} from "./types.ts";

/** Ends a batch. */
export function finish(d: Draft): ChannelStep {
  if (d.failure !== null) return failed(d, d.failure);
  if (d.m.ended !== null) return ended(d);
  const asked = d.m.asked === null;
  if (asked && d.received) revokeOurs(d);
  const updates = asked && maySign(d) ? signTheirs(d) : null;
  if (d.failure !== null) return failed(d, d.failure);
  const shutdown = asked ? sayShutdown(d) : [];
  tellArrived(d);
  const signs = updates !== null;
  const step = d.received || signs ? question(d, signs, updates ?? [], shutdown) : null;
  if (step !== null) d.m.asked = step;
  else if (shutdown.length > 0) d.late.push({ type: "send", messages: shutdown });
  completeShutdown(d);
  const store = storeOf(d);
  tellLevel(d);
  return assemble(d, store);
}

/** What hsmd is asked: to verify and revoke what the peer signed, to sign what is the peer's next, the onions' points. */
function question(
  d: Draft,
  signs: boolean,
  updates: readonly Message[],
  after: readonly Message[],
): HsmdQuestion {
  const outpoints = d.commitments.active.map((each): OutpointRequest => ({
    funding: each.funding,
    capacity: each.capacity,
    verify: d.received && each.pendingLocal !== null
      ? {
        content: contentOf(d.htlcs, each.pendingLocal),
        remoteSignature: each.pendingLocal.remoteSignature,
        htlcSignatures: each.pendingLocal.htlcSignatures,
      }
      : null,
    sign: signs && each.nextRemote !== null
      ? {
        content: contentOf(d.htlcs, each.nextRemote),
        perCommitmentPoint: each.nextRemote.perCommitmentPoint,
      }
      : null,
  }));
  const onions = d.ecdh.flatMap((key) => d.htlcs.get(key) ?? []);
  const request: HsmdRequest = {
    outpoints,
    revoke: d.received,
    ecdhPoints: onions.map(onionPoint),
    pointNumbers: [],
  };
  return { request, ecdh: d.ecdh, then: { type: "committed", updates, after } };
}

/** A commitment with its HTLCs. */
export function contentOf(
  htlcs: ReadonlyMap<bigint, Htlc>,
  { number, toLocal, toRemote, feerate, htlcs: keys }: CommitmentFigures,
): CommitmentContent {
  return { number, toLocal, toRemote, feerate, htlcs: keys.flatMap((key) => htlcs.get(key) ?? []) };
}

function completeShutdown(d: Draft): void {
  if (d.m.asked !== null || d.m.link !== "up" || !canClose(d) || d.m.shutdownTold) return;
  d.set({ state: "CLOSINGD_SIGEXCHANGE" });
  d.m.shutdownTold = true;
  d.last.push({ type: "shutdown_complete" });
}

/** The one store of a step; null when no row changes. */
function storeOf(d: Draft, more: { readonly dataLoss: boolean } = { dataLoss: false }): ChannelStore | null {
  const [was, is] = [d.before.channel, d.channel];
  const commitments = was.commitments === is.commitments ? null : is.commitments;
  const stateChanged = was.state !== is.state;
  const other = stateChanged || was.remoteAlias !== is.remoteAlias || was.shutdownSent !== is.shutdownSent ||
    was.shutdownReceived !== is.shutdownReceived || was.errorText !== is.errorText;
  if (commitments === null && !other) return null;
  const added: Htlc[] = [];
  const changed: Htlc[] = [];
  for (const key of d.added) {
    const htlc = d.htlcs.get(key);
    if (htlc !== undefined) added.push(htlc);
  }
  for (const key of d.changed) {
    const htlc = d.htlcs.get(key);
    if (htlc !== undefined && !d.added.has(key)) changed.push(htlc);
  }
  const removed = d.m.gone.length === 0 ? d.removed : [...d.m.gone, ...d.removed];
  d.m.gone = [];
  const changedOr = <T>(before: T, now: T): T | null => (before === now ? null : now);
  return {
    state: is.state,
    commitments: is.commitments,
    added,
    changed,
    removed,
    remoteAlias: changedOr(was.remoteAlias, is.remoteAlias),
    shutdownSent: changedOr(was.shutdownSent, is.shutdownSent),
    shutdownReceived: changedOr(was.shutdownReceived, is.shutdownReceived),
    errorText: changedOr(was.errorText, is.errorText),
    dataLoss: more.dataLoss,
  };
}

function tellLevel(d: Draft): void {
  const level = levelOf(d);
  if (d.m.level !== null && sameLevel(d.m.level, level)) return;
  d.m.level = level;
  d.late.push({ type: "level", level });
}

function assemble(d: Draft, store: ChannelStore | null): ChannelStep {
  const actions: ChannelAction[] = [...d.early];
  if (store !== null) actions.push({ type: "store", ...store });
  actions.push(...d.late);
  actions.push(...d.last);
  if (d.m.asked !== null && d.m.asked !== d.before.asked) {
    actions.push({ type: "ask_hsmd", request: d.m.asked.request });
  }
  return { state: d.m, actions };
}

/** The machine let go: whatever the rest of the batch said. */
function ended(d: Draft): ChannelStep {
  refuseAll(d);
  return assemble(d, null);
}

/**
 * The channel fails: stored, then said. A commitment_signed of the same batch, and what a refused step would have signed,
 * are dropped with it; a revocation of the same batch stays.
 */
function failed(d: Draft, failure: Failure): ChannelStep {
  const { text, say, dataLoss } = failure;
  if (d.received) d.setCommitments({ active: dropPending(d.commitments.active, false) });
  for (const key of d.added) d.drop(key);
  d.m.asked = null;
  d.m.ended = text;
  refuseAll(d);
  d.set({ errorText: text, dataLoss: d.channel.dataLoss || dataLoss });
  d.late.push({ type: "log", level: "error", text });
  if (say && d.m.link !== "down") d.late.push({ type: "send", messages: [d.errorOf(failure)] });
  d.last.push({ type: "end", reason: text });
  const store = storeOf(d, { dataLoss });
  tellLevel(d);
  return assemble(d, store);
}

/** Offers that no step will ever take. */
function refuseAll(d: Draft): void {
  refuseQueue(d, "the channel has failed");
  for (const input of d.m.waiting) {
    if (input.type !== "offer") continue;
    const { origin } = input;
    d.late.push({
      type: "refused",
      origin,
      reason: "temporary_channel_failure",
      detail: "the channel has failed",
    });
  }
  d.m.waiting = [];
}
