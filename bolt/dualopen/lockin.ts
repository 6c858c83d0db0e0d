/** From a confirmed funding output to a channel in use (BOLT 2, channel_ready). */
import { sameBytes } from "bolt/tx/transaction.ts";
import type { ChannelReady, Shutdown } from "bolt/wire/messages.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import { abort, failChannel } from "./abort.ts";
import { andThen, attemptOf, end, hangUp, protest, send, type Step, to, weSigned } from "./step.ts";
import { acceptableShutdownScript } from "./terms.ts";
import type { Attempt, ChainFacts, DualOpenState } from "./types.ts";

/** Confirmations before a coinbase output can be spent, so before it funds a channel (item 70). */
export const COINBASE_DEPTH = 100;

/** What the chain says now. Levels, not edges: this is asked again at every step that could matter. */
export function onChain(state: DualOpenState, facts: ChainFacts): Step {
  return advance({ ...state, chain: facts });
}

/** Does what the chain and the rows allow: ends a replacement when an attempt is confirmed, locks at depth. */
export function advance(state: DualOpenState): Step {
  const { channel, chain } = state;
  if (channel === null || channel.errorText !== null || state.ended !== null) return to(state);
  const [confirmed] = chain.confirmed;
  if (confirmed === undefined) return to(state);
  if (state.negotiation !== null) {
    return andThen(abort(state, "the funding transaction is confirmed"), advance);
  }
  const attempt = attemptOf(channel, confirmed.seq);
  if (channel.lockedAttempt !== null) return to(state);
  if (!confirmed.matches) {
    // CVE-2019-12998 and its kin: a funding output that was never checked on chain.
    return failChannel(state, "the confirmed funding output is not the negotiated one", true);
  }
  if (attempt.remoteCommitmentSignature === null) return withoutCommitment(state, attempt);
  const depth = chain.height - confirmed.height + 1;
  const wanted = Math.max(channel.params.minimumDepth, confirmed.coinbase ? COINBASE_DEPTH : 1);
  if (depth < wanted) return to(state);
  // Stored, then hsmd takes no number above 0 for anything else, and only then our word: a crash between them repeats
  // the same lock, whatever the chain did meanwhile.
  const next = "DUALOPEND_AWAITING_LOCKIN";
  return to(
    { ...state, channel: { ...channel, lockedAttempt: attempt.seq, state: next } },
    { type: "store", step: { type: "lock", seq: attempt.seq, state: next } },
    { type: "lock_funding", attempt },
  );
}

/** An attempt confirmed for which we never got a commitment. Having no input in it we lose nothing; with one, it waits for a person. */
function withoutCommitment(state: DualOpenState, attempt: Attempt): Step {
  const ours = attempt.tx.inputs.some((input) => input.side === "local");
  const text = "an attempt confirmed whose commitment we never received";
  if (ours || weSigned(attempt)) return to(state, { type: "log", level: "warn", text });
  return failChannel(state, text, true);
}

/** hsmd serves only this outpoint now: our channel_ready, which is the lock. */
export function onFundingLocked(state: DualOpenState, seq: number): Step {
  const { channel } = state;
  if (channel === null || channel.lockedAttempt !== seq || channel.errorText !== null) return to(state);
  const said = state.link.type === "up" ? to(state, send(channelReadyOf(state))) : to(state);
  return andThen(said, finish);
}

/** Our channel_ready. */
export function channelReadyOf(state: DualOpenState): ChannelReady {
  return {
    type: "channel_ready",
    channel_id: state.channelId,
    second_per_commitment_point: state.setup.localKeys.secondPerCommitmentPoint,
    short_channel_id: shortChannelId(state.setup.localAlias),
  };
}

/** The peer's channel_ready: stored, and it ends replacing, but it locks nothing here (a peer may say it early). */
export function onChannelReady(state: DualOpenState, message: ChannelReady): Step {
  const { channel } = state;
  if (channel === null) return protest(state, "channel_ready without a channel");
  if (!channel.attempts.some(weSigned)) return hangUp(state, "channel_ready before tx_signatures");
  if (channel.remoteReady !== null) return to(state);
  const point = message.second_per_commitment_point;
  if (!sameBytes(point, channel.params.remote.secondPerCommitmentPoint)) {
    // The point was fixed when the channel was opened (item 17).
    return hangUp(state, "second_per_commitment_point is not the one of the open");
  }
  const ended = state.negotiation === null ? to(state) : abort(state, "channel_ready ends the replacement");
  return andThen(ended, (s) => {
    const remoteReady = { secondPerCommitmentPoint: point, alias: message.short_channel_id ?? null };
    const stored = to(
      { ...s, channel: { ...channel, remoteReady } },
      { type: "store", step: { type: "save_remote_ready", ...remoteReady, state: channel.state } },
    );
    return andThen(stored, finish);
  });
}

/**
 * Both said channel_ready: the channel is usable, and channeld's. Not between our channel_reestablish and the end of what
 * the peer's asks for: nobody could take over there, since neither is said twice on one connection.
 */
export function finish(state: DualOpenState): Step {
  const { channel, link } = state;
  if (link.type === "reestablishing" || link.type === "resuming") return to(state);
  if (channel === null || channel.lockedAttempt === null || channel.remoteReady === null) return to(state);
  const stored = to(
    { ...state, channel: { ...channel, state: "CHANNELD_NORMAL" } },
    { type: "store", step: { type: "save_state", state: "CHANNELD_NORMAL" } },
  );
  return andThen(stored, (s) => end(s, { type: "locked" }));
}

/** shutdown before lock-in: stored and answered, no replacement follows; the closing waits for the lock. */
export function onShutdown(state: DualOpenState, message: Shutdown): Step {
  const { channel } = state;
  if (channel === null || !channel.attempts.some((a) => a.remoteCommitmentSignature !== null)) {
    return protest(state, "shutdown before commitment_signed");
  }
  const script = message.scriptpubkey;
  const upfront = channel.params.remote.upfrontShutdownScript;
  if (upfront !== null && upfront.length > 0 && !sameBytes(upfront, script)) {
    return hangUp(state, "scriptpubkey is not the upfront_shutdown_script");
  }
  if (!acceptableShutdownScript(state.setup, script)) {
    return protest(state, "scriptpubkey is not of an accepted form");
  }
  const ended = state.negotiation === null ? to(state) : abort(state, "shutdown ends the replacement");
  return andThen(ended, (s) => sayShutdown(s, script));
}

/** Our shutdown, unless it was said, and the peer's where it came. */
function sayShutdown(state: DualOpenState, received: Uint8Array | null, script?: Uint8Array): Step {
  const channel = state.channel!;
  const sent = channel.shutdownSent ?? ownShutdownScript(state, script);
  return to(
    {
      ...state,
      channel: { ...channel, shutdownSent: sent, shutdownReceived: received ?? channel.shutdownReceived },
    },
    { type: "store", step: { type: "save_shutdown", sent, received: received ?? channel.shutdownReceived } },
    ...(channel.shutdownSent === null && state.link.type === "up" ? [send(shutdownOf(state, sent))] : []),
  );
}

function ownShutdownScript(state: DualOpenState, script = state.setup.shutdownScript): Uint8Array {
  const upfront = state.channel?.params.local.upfrontShutdownScript ?? null;
  return upfront !== null && upfront.length > 0 ? upfront : script;
}

/** A shutdown of ours. */
export function shutdownOf(state: DualOpenState, script: Uint8Array): Shutdown {
  return { type: "shutdown", channel_id: state.channelId, scriptpubkey: script };
}

/** The user closes before lock-in. */
export function startShutdown(state: DualOpenState, script?: Uint8Array): Step {
  if (state.channel === null) return abort(state, "closed before it was signed");
  if (state.channel.shutdownSent !== null) return to(state);
  const ended = state.negotiation === null ? to(state) : abort(state, "shutdown ends the replacement");
  return andThen(ended, (s) => s.channel === null ? to(s) : sayShutdown(s, null, script));
}
