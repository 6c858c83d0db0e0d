/**
 * A channel after lock-in as a pure machine: reestablish, repeated channel_ready, shutdown, what the chain undoes.
 * Payments are not spoken yet; the commitments are a list from the start (one now, more with splices).
 */
import { unreachable } from "bolt/result.ts";
import { isStandardShutdownScript } from "bolt/tx/scripts.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { errorMessage, printableText, txAbortMessage, warningMessage } from "bolt/wire/error_text.ts";
import type { ChannelReady, ChannelReestablish, Message, Shutdown } from "bolt/wire/messages.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import type {
  ActiveCommitment,
  ChannelAction,
  ChannelInput,
  ChannelMachine,
  ChannelStep,
  FundingOnChain,
  LockedChannel,
  ShutdownForms,
} from "./types.ts";

/** Before any revocation nobody knows a secret. */
const NO_SECRET = new Uint8Array(32);

function to(state: ChannelMachine, ...actions: readonly ChannelAction[]): ChannelStep {
  return { state, actions };
}

function andThen(step: ChannelStep, next: (state: ChannelMachine) => ChannelStep): ChannelStep {
  const second = next(step.state);
  return { state: second.state, actions: [...step.actions, ...second.actions] };
}

function send(message: Message): ChannelAction {
  return { type: "send", message };
}

/** An owner of a locked channel, from its rows. */
export function fromRows(
  channel: LockedChannel,
  forms: ShutdownForms,
  onChain: FundingOnChain,
): ChannelMachine {
  return { channel, forms, link: "down", onChain, ended: null };
}

/** Why no update may be made now; undefined when the channel is usable. */
export function paused(state: ChannelMachine): string | undefined {
  if (state.channel.errorText !== null) return "the channel has failed";
  if (state.onChain.type === "sibling_confirmed") return "another funding transaction confirmed";
  if (state.onChain.type === "undone") return "the funding transaction is no longer confirmed";
  if (state.link !== "up") return "the peer is not connected";
  if (state.channel.state !== "CHANNELD_NORMAL") return "the channel is shutting down";
  return undefined;
}

/** Lets something happen. Never throws at what a peer says. */
export function step(state: ChannelMachine, input: ChannelInput): ChannelStep {
  if (state.ended !== null) return to(state);
  switch (input.type) {
    case "connected":
      return onConnected(state);
    case "taken_over":
      return input.lost ? repeatLast({ ...state, link: "up" }) : to({ ...state, link: "up" });
    case "disconnected":
      return to({ ...state, link: "down" });
    case "message":
      return onMessage(state, input.message);
    case "garbage":
      return protest(state, `malformed message: ${input.reason}`);
    case "chain":
      return onChain(state, input.onChain);
    case "start_shutdown":
      return state.channel.shutdownSent === null ? sayShutdown(state, null) : to(state);
    default:
      return unreachable(input);
  }
}

/** The commitment on the locked funding output: the first of the list. */
function current(channel: LockedChannel): ActiveCommitment {
  const [commitment] = channel.active;
  if (commitment === undefined) throw new RangeError("a locked channel has a commitment");
  return commitment;
}

/** channel_reestablish opens every connection (BOLT 2, message retransmission). */
function onConnected(state: ChannelMachine): ChannelStep {
  const { channel } = state;
  const { localNumber, remoteNumber, funding } = current(channel);
  const message: ChannelReestablish = {
    type: "channel_reestablish",
    channel_id: channel.channelId,
    next_commitment_number: localNumber + 1n,
    next_revocation_number: remoteNumber,
    your_last_per_commitment_secret: NO_SECRET,
    my_current_per_commitment_point: channel.localCurrentPoint,
    my_current_funding_locked: { my_current_funding_locked_txid: funding.txid, retransmit_flags: 0 },
  };
  return to({ ...state, link: "reestablishing" }, send(message));
}

function onMessage(state: ChannelMachine, message: Message): ChannelStep {
  if (message.type === "error") {
    return fail(state, `peer sent error: ${printableText(message.data)}`, false);
  }
  if (message.type === "warning") {
    return to(state, {
      type: "log",
      level: "warn",
      text: `warning from peer: ${printableText(message.data)}`,
    });
  }
  if (state.link === "down") return to(state);
  if (state.link === "reestablishing" && message.type !== "channel_reestablish") {
    return hangUp(state, `${message.type} before channel_reestablish`);
  }
  switch (message.type) {
    case "channel_reestablish":
      return onReestablish(state, message);
    case "channel_ready":
      return onChannelReady(state, message);
    case "shutdown":
      return onShutdown(state, message);
    case "tx_signatures":
      // Late ones of the open: the chain has the transaction (item 57).
      return to(state);
    case "tx_abort":
      return to(state, send(txAbortMessage(state.channel.channelId, "acknowledged")));
    case "tx_init_rbf":
      return to(state, send(txAbortMessage(state.channel.channelId, "the channel is locked in")));
    default:
      return hangUp(state, `${message.type} is not supported yet`);
  }
}

/** The peer's channel_reestablish (operation items 23 to 32). */
function onReestablish(state: ChannelMachine, message: ChannelReestablish): ChannelStep {
  if (state.link !== "reestablishing") return protest(state, "channel_reestablish was not expected");
  const { channel } = state;
  const { localNumber, remoteNumber, funding } = current(channel);
  if (message.next_commitment_number !== remoteNumber + 1n) {
    return fail(state, `next_commitment_number must be ${remoteNumber + 1n}`, true);
  }
  if (message.next_revocation_number !== localNumber) {
    return fail(state, `next_revocation_number must be ${localNumber}`, true);
  }
  const actions: ChannelAction[] = [];
  const wanted = message.next_funding?.next_funding_txid;
  if (wanted !== undefined) {
    // A peer that missed our tx_signatures of the funding transaction gets them again; any other is unknown.
    actions.push(
      sameBytes(wanted, funding.txid)
        ? send({
          type: "tx_signatures",
          channel_id: channel.channelId,
          txid: funding.txid,
          witnesses: [...channel.localTxSignatures],
        })
        : send(txAbortMessage(channel.channelId, "unknown next_funding_txid")),
    );
  }
  // Both still at number 1: the peer may have missed our channel_ready (item 75).
  if (message.next_commitment_number === 1n && localNumber === 0n) {
    actions.push(send(channelReadyOf(channel)));
  }
  if (channel.shutdownSent !== null) actions.push(send(shutdownOf(channel, channel.shutdownSent)));
  return to({ ...state, link: "up" }, ...actions);
}

/** What dualopend can have said last: the peer may wait for it. Both may be repeated (BOLT 2, message retransmission). */
function repeatLast(state: ChannelMachine): ChannelStep {
  const { channel } = state;
  return to(
    state,
    send(channelReadyOf(channel)),
    ...(channel.shutdownSent === null ? [] : [send(shutdownOf(channel, channel.shutdownSent))]),
  );
}

function channelReadyOf(channel: LockedChannel): ChannelReady {
  return {
    type: "channel_ready",
    channel_id: channel.channelId,
    second_per_commitment_point: channel.localNextPoint,
    short_channel_id: shortChannelId(channel.localAlias),
  };
}

/** A repeated channel_ready changes nothing, except that it may bring a new alias. */
function onChannelReady(state: ChannelMachine, message: ChannelReady): ChannelStep {
  const { channel } = state;
  if (!sameBytes(message.second_per_commitment_point, channel.remoteNextPoint)) {
    return protest(state, "second_per_commitment_point changed");
  }
  const alias = message.short_channel_id;
  if (alias === undefined || alias === channel.remoteAlias) return to(state);
  return to(
    { ...state, channel: { ...channel, remoteAlias: alias } },
    { type: "store", step: { type: "save_remote_alias", alias } },
  );
}

/** shutdown: stored and answered; the fee negotiation is closingd's. */
function onShutdown(state: ChannelMachine, message: Shutdown): ChannelStep {
  const script = message.scriptpubkey;
  const upfront = state.channel.remoteUpfrontShutdownScript;
  if (upfront !== null && upfront.length > 0 && !sameBytes(upfront, script)) {
    return hangUp(state, "scriptpubkey is not the upfront_shutdown_script");
  }
  if (!isStandardShutdownScript(script, state.forms)) {
    return protest(state, "scriptpubkey is not of an accepted form");
  }
  const before = state.channel.shutdownReceived;
  if (before !== null && sameBytes(before, script)) return to(state);
  return sayShutdown(state, script);
}

function sayShutdown(state: ChannelMachine, received: Uint8Array | null): ChannelStep {
  const { channel } = state;
  const sent = channel.shutdownSent ?? channel.localShutdownScript;
  const next: LockedChannel = {
    ...channel,
    state: "CHANNELD_SHUTTING_DOWN",
    shutdownSent: sent,
    shutdownReceived: received ?? channel.shutdownReceived,
  };
  return to(
    { ...state, channel: next },
    {
      type: "store",
      step: { type: "save_shutdown", sent, received: next.shutdownReceived, state: "CHANNELD_SHUTTING_DOWN" },
    },
    ...(channel.shutdownSent === null && state.link === "up" ? [send(shutdownOf(channel, sent))] : []),
  );
}

function shutdownOf(channel: LockedChannel, script: Uint8Array): Shutdown {
  return { type: "shutdown", channel_id: channel.channelId, scriptpubkey: script };
}

/** What the chain says now. A reorg never unlocks; it pauses. A sibling's confirmation freezes the channel. */
function onChain(state: ChannelMachine, facts: FundingOnChain): ChannelStep {
  const next = { ...state, onChain: facts };
  switch (facts.type) {
    case "confirmed":
      return to(next);
    case "undone":
      return to(next, { type: "log", level: "warn", text: "the funding transaction is no longer confirmed" });
    case "sibling_confirmed":
      return andThen(
        to(next, {
          type: "log",
          level: "error",
          text: `attempt ${facts.seq} confirmed after another one was locked`,
        }),
        (s) => fail(s, "another funding transaction than the locked one confirmed", true),
      );
    default:
      return unreachable(facts);
  }
}

function protest(state: ChannelMachine, text: string): ChannelStep {
  return to(state, { type: "log", level: "warn", text }, send(warningMessage(state.channel.channelId, text)));
}

function hangUp(state: ChannelMachine, text: string): ChannelStep {
  return to(state, {
    type: "hang_up",
    messages: [warningMessage(state.channel.channelId, text)],
    reason: text,
  });
}

/** Fails the channel for good: stored first, then said. */
function fail(state: ChannelMachine, text: string, say: boolean): ChannelStep {
  return to(
    { ...state, channel: { ...state.channel, errorText: text }, ended: text },
    { type: "store", step: { type: "fail_channel", errorText: text } },
    ...(say && state.link !== "down" ? [send(errorMessage(state.channel.channelId, text))] : []),
    { type: "end", reason: text },
  );
}
