import assert from "node:assert/strict";
import fc from "fast-check";
import { arbMessage } from "bolt/wire/arbitraries.ts";
import { p2wsh } from "bolt/tx/scripts.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import type { ChannelReestablish, Message } from "bolt/wire/messages.ts";
import { fromRows, paused, step } from "./machine.ts";
import type { ChannelAction, ChannelInput, ChannelMachine, LockedChannel } from "./types.ts";

const CHANNEL_ID = new Uint8Array(32).fill(7);
const FUNDING = { txid: new Uint8Array(32).fill(8), vout: 1 };
const point = (n: number) => Uint8Array.of(2, ...new Uint8Array(32).fill(n));

function locked(changes: Partial<LockedChannel> = {}): LockedChannel {
  return {
    channelId: CHANNEL_ID,
    opener: "local",
    state: "CHANNELD_NORMAL",
    active: [{
      seq: 0,
      funding: FUNDING,
      capacity: sat(100_000),
      localNumber: 0n,
      remoteNumber: 0n,
      toLocal: msat(60_000_000),
      toRemote: msat(40_000_000),
      feerate: feerate(253),
    }],
    localTxSignatures: [Uint8Array.of(0)],
    localNextPoint: point(1),
    remoteNextPoint: point(2),
    localCurrentPoint: point(3),
    localAlias: 77n,
    remoteAlias: null,
    shutdownSent: null,
    shutdownReceived: null,
    remoteUpfrontShutdownScript: null,
    localShutdownScript: p2wsh(Uint8Array.of(0x51)),
    errorText: null,
    ...changes,
  };
}

const FORMS = { anysegwit: true, simpleClose: false };

function run(
  state: ChannelMachine,
  ...inputs: ChannelInput[]
): { state: ChannelMachine; actions: ChannelAction[] } {
  const actions: ChannelAction[] = [];
  let current = state;
  for (const input of inputs) {
    const next = step(structuredClone(current), input);
    current = next.state;
    actions.push(...next.actions);
  }
  return { state: current, actions };
}

const says = (message: Message): ChannelInput => ({ type: "message", message });
const sent = (actions: readonly ChannelAction[]) =>
  actions.flatMap((a) => a.type === "send" ? [a.message.type] : []);

function reestablish(changes: Partial<ChannelReestablish> = {}): ChannelReestablish {
  return {
    type: "channel_reestablish",
    channel_id: CHANNEL_ID,
    next_commitment_number: 1n,
    next_revocation_number: 0n,
    your_last_per_commitment_secret: new Uint8Array(32),
    my_current_per_commitment_point: point(9),
    ...changes,
  };
}

function fresh(changes: Partial<LockedChannel> = {}): ChannelMachine {
  return fromRows(locked(changes), FORMS, { type: "confirmed" });
}

Deno.test("a connection begins with channel_reestablish, then channel_ready again, and the channel is usable", () => {
  const { state, actions } = run(fresh(), { type: "connected" }, says(reestablish()));
  assert.deepEqual(sent(actions), ["channel_reestablish", "channel_ready"]);
  assert.equal(paused(state), undefined);
});

Deno.test("at lock-in the channel goes on where dualopend left it: no second channel_reestablish", () => {
  const { state, actions } = run(fresh(), { type: "taken_over", lost: false });
  assert.deepEqual(actions, []);
  assert.equal(paused(state), undefined);
});

Deno.test("what dualopend said last and did not reach the socket is said again", () => {
  const { actions } = run(fresh({ shutdownSent: p2wsh(Uint8Array.of(0x51)) }), {
    type: "taken_over",
    lost: true,
  });
  assert.deepEqual(sent(actions), ["channel_ready", "shutdown"]);
});

Deno.test("nothing passes before channel_reestablish", () => {
  const { actions } = run(
    fresh(),
    { type: "connected" },
    says({ type: "shutdown", channel_id: CHANNEL_ID, scriptpubkey: p2wsh(Uint8Array.of(0x51)) }),
  );
  assert.equal(actions.at(-1)?.type, "hang_up");
});

Deno.test("a peer that counts otherwise fails the channel: stored before it is said", () => {
  for (
    const wrong of [{ next_commitment_number: 0n }, { next_commitment_number: 2n }, {
      next_revocation_number: 1n,
    }]
  ) {
    const { state, actions } = run(fresh(), { type: "connected" }, says(reestablish(wrong)));
    assert.deepEqual(actions.slice(1).map((a) => a.type), ["store", "send", "end"]);
    assert.notEqual(state.channel.errorText, null);
  }
});

Deno.test("a peer that missed our tx_signatures gets them again; an unknown transaction gets tx_abort", () => {
  const next_funding = { next_funding_txid: FUNDING.txid, retransmit_flags: 0 };
  const known = run(fresh(), { type: "connected" }, says(reestablish({ next_funding })));
  assert.deepEqual(sent(known.actions), ["channel_reestablish", "tx_signatures", "channel_ready"]);
  const other = { next_funding_txid: new Uint8Array(32).fill(1), retransmit_flags: 0 };
  const unknown = run(fresh(), { type: "connected" }, says(reestablish({ next_funding: other })));
  assert.deepEqual(sent(unknown.actions), ["channel_reestablish", "tx_abort", "channel_ready"]);
});

Deno.test("a reorg pauses, the confirmation's return ends the pause, a sibling freezes", () => {
  const up = run(fresh(), { type: "connected" }, says(reestablish())).state;
  const undone = run(up, { type: "chain", onChain: { type: "undone" } }).state;
  assert.match(paused(undone)!, /no longer confirmed/);
  assert.equal(paused(run(undone, { type: "chain", onChain: { type: "confirmed" } }).state), undefined);
  const frozen = run(up, { type: "chain", onChain: { type: "sibling_confirmed", seq: 1 } });
  assert.equal(frozen.state.channel.errorText, "another funding transaction than the locked one confirmed");
  assert.deepEqual(sent(frozen.actions), ["error"]);
});

Deno.test("shutdown is stored, answered once, and repeated after a reconnect", () => {
  const script = p2wsh(Uint8Array.of(0x52));
  const shutdown: Message = { type: "shutdown", channel_id: CHANNEL_ID, scriptpubkey: script };
  const first = run(fresh(), { type: "connected" }, says(reestablish()), says(shutdown), says(shutdown));
  assert.deepEqual(sent(first.actions), ["channel_reestablish", "channel_ready", "shutdown"]);
  assert.equal(first.state.channel.state, "CHANNELD_SHUTTING_DOWN");
  const again = run(first.state, { type: "disconnected" }, { type: "connected" }, says(reestablish()));
  assert.deepEqual(sent(again.actions), ["channel_reestablish", "channel_ready", "shutdown"]);
});

Deno.test("shutdown to another script than the upfront one, or to a strange one, is refused", () => {
  const upfront = p2wsh(Uint8Array.of(0x53));
  const other: Message = {
    type: "shutdown",
    channel_id: CHANNEL_ID,
    scriptpubkey: p2wsh(Uint8Array.of(0x52)),
  };
  const start: ChannelInput[] = [{ type: "connected" }, says(reestablish())];
  const fixed = run(fresh({ remoteUpfrontShutdownScript: upfront }), ...start, says(other));
  assert.equal(fixed.actions.at(-1)?.type, "hang_up");
  const strange: Message = { type: "shutdown", channel_id: CHANNEL_ID, scriptpubkey: Uint8Array.of(0x51) };
  assert.equal(run(fresh(), ...start, says(strange)).state.channel.shutdownReceived, null);
});

Deno.test("a repeated channel_ready is ignored, with a new alias it is stored", () => {
  const ready: Message = {
    type: "channel_ready",
    channel_id: CHANNEL_ID,
    second_per_commitment_point: point(2),
  };
  const up = run(fresh(), { type: "connected" }, says(reestablish())).state;
  assert.deepEqual(run(up, says(ready)).actions, []);
  const changed = run(up, says({ ...ready, second_per_commitment_point: point(5) }));
  assert.deepEqual(sent(changed.actions), ["warning"]);
});

Deno.test("no message makes it throw, and nothing is said that is not stored", () => {
  fc.assert(fc.property(fc.array(arbMessage, { maxLength: 8 }), fc.boolean(), (messages, first) => {
    const inputs: ChannelInput[] = [
      { type: "connected" },
      ...(first ? [says(reestablish())] : []),
      ...messages.map(says),
    ];
    const { state, actions } = run(fresh(), ...inputs);
    const failed = actions.findIndex((a) => a.type === "send" && a.message.type === "error");
    if (failed >= 0) assert.equal(actions[failed - 1]?.type, "store");
    assert.equal(state.ended !== null, state.channel.errorText !== null);
  }));
});
