/**
 * A channel after lock-in as a pure machine: HTLCs, commitments, fees, reestablish, shutdown, what the chain undoes. A
 * step takes a whole batch; how each input is handled stands in the file of its subject.
 */
import { unreachable } from "bolt/result.ts";
import { printableText } from "bolt/wire/error_text.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { ChannelReady, Message } from "bolt/wire/messages.ts";
import { onAdd, onOffer } from "./adds.ts";
import { onCommitmentSigned, onRevokeAndAck, onStartBatch } from "./commit.ts";
import { checkDeadlines } from "./deadlines.ts";
import { Draft } from "./draft.ts";
import { onUpdateFee } from "./fees.ts";
import { finish } from "./finish.ts";
import { onHsmd, restore, standingActions } from "./hsmd.ts";
import { disconnect, onConnected, onReestablish, onTakenOver } from "./reestablish.ts";
import { onRemove, onSettle } from "./removes.ts";
import { onShutdown, onStartShutdown } from "./shutdown.ts";
import type {
  ChannelAction,
  ChannelInput,
  ChannelMachine,
  ChannelPolicy,
  ChannelStep,
  FundingOnChain,
  Htlc,
  LockedChannel,
  ShutdownForms,
} from "./types.ts";

export { paused } from "./paused.ts";

/** Of an offer that waits: it gets its id with the step that signs it. */
const NO_ID = 0n;

/** What an owner starts from. */
export interface ChannelSetup {
  readonly channel: LockedChannel;
  /** Every row of `htlcs`, in any order. */
  readonly htlcs: readonly Htlc[];
  readonly forms: ShutdownForms;
  readonly policy: ChannelPolicy;
  readonly onChain: FundingOnChain;
}

/**
 * An owner of a locked channel, from its rows. Where something is pending the first action is the question to hsmd, which
 * the driver asks before it feeds anything; what stands where is told once it is answered. Throws RangeError for rows that
 * contradict themselves.
 */
export function fromRows(setup: ChannelSetup): ChannelStep {
  const { channel, forms, policy, onChain } = setup;
  if (channel.commitments.active.length === 0) throw new RangeError("a locked channel has a commitment");
  const htlcs = new Map(setup.htlcs.map((htlc) => [htlc.key, htlc]));
  const origins = new Map<bigint, bigint>();
  for (const { origin, key } of setup.htlcs) if (origin !== null) origins.set(origin, key);
  for (const { local, pendingLocal, remote, nextRemote } of channel.commitments.active) {
    for (const commitment of [local, pendingLocal, remote, nextRemote]) {
      for (const key of commitment?.htlcs ?? []) {
        if (!htlcs.has(key)) {
          throw new RangeError(`HTLC ${key} of commitment ${commitment?.number} has no row`);
        }
      }
    }
  }
  const d = new Draft({
    channel,
    htlcs,
    origins,
    queue: [],
    uncommitted: { adds: [], removes: [] },
    gone: [],
    forms,
    policy,
    node: null,
    link: "down",
    onChain,
    asked: null,
    waiting: [],
    signatures: null,
    revocation: null,
    shutdownWanted: null,
    batchLeft: 0,
    abortSaid: false,
    shutdownTold: false,
    closingAwaited: false,
    level: null,
    ended: null,
  });
  restore(d);
  return finish(d);
}

/**
 * Lets everything happen that waits, in order. Never throws at what a peer says; throws RangeError when a driver feeds
 * something else while hsmd owes an answer, or an answer that nobody asked for.
 */
export function step(state: ChannelMachine, inputs: readonly ChannelInput[]): ChannelStep {
  if (state.asked !== null && inputs[0]?.type !== "hsmd") throw new RangeError("hsmd owes an answer");
  const d = new Draft(state);
  let left = inputs;
  while (left.length > 0) left = run(d, left);
  return finish(d);
}

/** Handles inputs until hsmd's answer brings back what waited for it. Gives what is left. */
function run(d: Draft, inputs: readonly ChannelInput[]): readonly ChannelInput[] {
  for (const [i, input] of inputs.entries()) {
    if (d.m.ended !== null || d.failure !== null) {
      if (input.type === "offer") refuseDead(d, input.origin);
      continue;
    }
    if (mustWait(d, input)) {
      d.m.waiting = inputs.slice(i);
      return [];
    }
    handle(d, input);
    if (input.type === "hsmd") {
      const { waiting } = d.m;
      d.m.waiting = [];
      return [...waiting, ...inputs.slice(i + 1)];
    }
  }
  return [];
}

/** Nothing goes past an open question; a new connection begins only with commitments that hsmd verified. */
function mustWait(d: Draft, input: ChannelInput): boolean {
  if (input.type === "hsmd") return false;
  return d.m.asked !== null || (d.received && input.type === "connected");
}

function refuseDead(d: Draft, origin: bigint): void {
  if (d.m.origins.has(origin)) return;
  d.late.push({
    type: "refused",
    origin,
    reason: "temporary_channel_failure",
    detail: "the channel has failed",
  });
}

function handle(d: Draft, input: ChannelInput): void {
  switch (input.type) {
    case "connected":
      return onConnected(d);
    case "taken_over":
      return onTakenOver(d, input.lost);
    case "disconnected":
      return disconnect(d);
    case "message":
      return onMessage(d, input.message);
    case "garbage":
      return d.m.link === "down" ? undefined : d.hangUp(`malformed message: ${input.reason}`);
    case "chain":
      return onChain(d, input.onChain);
    case "start_shutdown":
      return onStartShutdown(d, input.script);
    case "offer":
      return onOffer(d, input);
    case "settle":
      return onSettle(d, input.id, input.removal);
    case "node": {
      const { height, feerate, minFeerate, maxFeerate } = input;
      d.m.node = { height, feerate, minFeerate, maxFeerate };
      d.forgetFigures();
      return checkDeadlines(d);
    }
    case "closing_spoken":
      d.closingSpoken = true;
      return;
    case "closing_awaited":
      d.m.closingAwaited = true;
      return;
    case "hsmd":
      return onHsmd(d, input.answer);
    default:
      return unreachable(input);
  }
}

function onMessage(d: Draft, message: Message): void {
  if (d.m.link === "down" || d.channel.errorText !== null) return;
  if (message.type === "error") {
    return d.fail(`peer sent error: ${printableText(message.data)}`, { say: false });
  }
  if (message.type === "warning") return d.log("warn", `warning from peer: ${printableText(message.data)}`);
  if (d.m.link === "reestablishing" && message.type !== "channel_reestablish") {
    return d.hangUp(`${message.type} before channel_reestablish`);
  }
  switch (message.type) {
    case "channel_reestablish":
      return onReestablish(d, message);
    case "channel_ready":
      return onChannelReady(d, message);
    case "update_add_htlc":
      return onAdd(d, message);
    case "update_fulfill_htlc":
    case "update_fail_htlc":
    case "update_fail_malformed_htlc":
      return onRemove(d, message);
    case "update_fee":
      return onUpdateFee(d, message);
    case "start_batch":
      return onStartBatch(d, message);
    case "commitment_signed":
      return onCommitmentSigned(d, message);
    case "revoke_and_ack":
      return onRevokeAndAck(d, message);
    case "shutdown":
      return onShutdown(d, message);
    case "tx_signatures":
      // Late ones of the open: the chain has the transaction (section 3, item 57).
      return;
    case "tx_abort":
      if (!d.m.abortSaid) return d.abort("acknowledged");
      // The echo of ours: two that echo each other's echoes would never end.
      d.m.abortSaid = false;
      return;
    case "tx_init_rbf":
      return d.abort("the channel is locked in");
    default:
      return d.hangUp(`${message.type} is not supported yet`);
  }
}

/** A repeated channel_ready changes nothing, except that it may bring a new alias (item 32). */
function onChannelReady(d: Draft, message: ChannelReady): void {
  const { remoteNextPoint } = d.commitments;
  const { remote, nextRemote } = d.first;
  // Only before number 1 is signed is the newest point the second one.
  const fresh = remote.number === 0n && nextRemote === null;
  if (fresh && !sameBytes(message.second_per_commitment_point, remoteNextPoint)) {
    return d.protest("second_per_commitment_point changed");
  }
  const alias = message.short_channel_id;
  if (alias !== undefined && alias !== d.channel.remoteAlias) d.set({ remoteAlias: alias });
}

/** What the chain says now. A reorg never unlocks; it pauses. A sibling's confirmation freezes the channel. */
function onChain(d: Draft, facts: FundingOnChain): void {
  d.m.onChain = facts;
  switch (facts.type) {
    case "confirmed":
      return;
    case "undone":
      return d.log("warn", "the funding transaction is no longer confirmed");
    case "sibling_confirmed":
      d.log("error", `attempt ${facts.seq} confirmed after another one was locked`);
      return d.fail("another funding transaction than the locked one confirmed");
    default:
      return unreachable(facts);
  }
}

/**
 * What a new stream to lightningd is told of a channel: where every outgoing HTLC stands, offers that wait among them (a
 * refusal may follow), every incoming one that waits for a decision, the level. Incoming ones that the machine refused, and whose failure is on its way from the driver, may
 * be among them; the first settlement counts.
 */
export function standing(state: ChannelMachine): readonly ChannelAction[] {
  const actions: ChannelAction[] = [...standingActions(state.htlcs)];
  // An offer that waits for the peer's revoke_and_ack may still be made: unsaid, it would be taken for lost and made twice.
  for (const { origin } of state.queue) actions.push({ type: "offered", origin, id: NO_ID });
  if (state.level !== null) actions.push({ type: "level", level: state.level });
  return actions;
}
