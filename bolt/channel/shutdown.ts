/** shutdown, both ways, and when it is complete (BOLT 2, closing initiation; items 34 to 38). */
import { isStandardShutdownScript } from "bolt/tx/scripts.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { Message, Shutdown } from "bolt/wire/messages.ts";
import { hasChanges } from "./commit.ts";
import type { Draft } from "./draft.ts";
import { awaitsClosing } from "./last_fee.ts";

/** The peer's shutdown: stored, and answered as soon as ours may be said. */
export function onShutdown(d: Draft, message: Shutdown): void {
  const { channel } = d;
  const script = message.scriptpubkey;
  const upfront = channel.remoteUpfrontShutdownScript;
  if (upfront !== null && upfront.length > 0 && !sameBytes(upfront, script)) {
    return d.hangUp("scriptpubkey is not the upfront_shutdown_script");
  }
  if (!isStandardShutdownScript(script, d.m.forms)) {
    return d.protest("scriptpubkey is not of an accepted form");
  }
  const uncommittedFee = d.commitments.fees.some(({ state }) => state === "RCVD_ADD_HTLC");
  if (d.m.uncommitted.adds.length > 0 || uncommittedFee) {
    return d.hangUp("shutdown with updates that no commitment_signed covers");
  }
  const before = channel.shutdownReceived;
  if (before === null || !sameBytes(before, script)) {
    d.set({ shutdownReceived: script, state: shuttingDown(d) });
  }
  wantShutdown(d);
}

/** A person wants the channel closed; `script` where our money goes, if it is not to go where it would anyway. */
export function onStartShutdown(d: Draft, script: Uint8Array | undefined): void {
  if (d.channel.shutdownSent !== null) return;
  wantShutdown(d, script);
}

function shuttingDown(d: Draft): "CHANNELD_SHUTTING_DOWN" | "CLOSINGD_SIGEXCHANGE" {
  return d.channel.state === "CLOSINGD_SIGEXCHANGE" ? "CLOSINGD_SIGEXCHANGE" : "CHANNELD_SHUTTING_DOWN";
}

/** Nothing is offered from now on; what waits is refused. */
function wantShutdown(d: Draft, script?: Uint8Array): void {
  if (d.channel.shutdownSent !== null || d.m.shutdownWanted !== null) return;
  d.m.shutdownWanted = script ?? d.channel.localShutdownScript;
  refuseQueue(d, "the channel is shutting down");
}

/** Refuses the offers that were never part of a step. */
export function refuseQueue(d: Draft, detail: string): void {
  if (d.m.queue.length === 0) return;
  for (const { origin } of d.takeQueue()) {
    d.early.push({ type: "refused", origin, reason: "temporary_channel_failure", detail });
  }
  d.forgetFigures();
}

/**
 * At the end of a batch, after what waits was signed: ours is said unless something is still pending on the peer's
 * commitment (item 34). Gives the message, which leaves after the step's commitment_signed.
 */
export function sayShutdown(d: Draft): readonly Message[] {
  const wanted = d.m.shutdownWanted;
  // Stored as sent when it is sent: on a connection that is taken over nothing else would repeat it.
  if (wanted === null || d.m.link !== "up" || d.channel.errorText !== null || hasChanges(d)) return [];
  d.m.shutdownWanted = null;
  d.set({ shutdownSent: wanted, state: shuttingDown(d) });
  return [shutdownMessage(d.channel.channelId, wanted)];
}

/** Our shutdown. */
export function shutdownMessage(channelId: Uint8Array, script: Uint8Array): Shutdown {
  return { type: "shutdown", channel_id: channelId, scriptpubkey: script };
}

/** Whether the closing can begin now: clean, or the peer begins it over its last fee. */
export function canClose(d: Draft): boolean {
  if (isClean(d)) return true;
  return d.closingSpoken && awaitsClosing(d.m) && d.channel.shutdownReceived !== null &&
    d.commitments.active.every(({ pendingLocal, nextRemote }) =>
      pendingLocal === null && nextRemote === null
    );
}

/** Clean on both sides: no HTLC, not even dust, no fee on its way, no revocation owed (item 38). */
function isClean(d: Draft): boolean {
  const { commitments, shutdownSent, shutdownReceived } = d.channel;
  return shutdownSent !== null && shutdownReceived !== null && commitments.fees.length === 0 &&
    d.htlcs.size === 0 && d.m.queue.length === 0 &&
    commitments.active.every(({ pendingLocal, nextRemote }) => pendingLocal === null && nextRemote === null);
}
