/** An opener's update_fee that crosses a shutdown. */
import assert from "node:assert/strict";
import { ecc } from "bolt/crypto/ecc.ts";
import { awaitsClosing } from "./last_fee.ts";
import { after, CHANNEL_ID, idle, machineOf, sent, the } from "./testing/hostile.ts";
import type { ChannelMachine, HsmdAnswer } from "./types.ts";

const SCRIPT = new Uint8Array([0, 20, ...new Uint8Array(20).fill(9)]);

/** hsmd found the peer's signatures good and releases our secret; `signs`: it signed too. */
const answered = (signs: boolean): HsmdAnswer => ({
  type: "answered",
  outpoints: [{ signature: new Uint8Array(signs ? 64 : 0), htlcSignatures: new Uint8Array(0) }],
  perCommitmentSecret: signs ? null : new Uint8Array(32).fill(1),
  nextPerCommitmentPoint: signs ? null : ecc().pointFromSecret(new Uint8Array(32).fill(2)),
  sharedSecrets: [],
  points: [],
});

/** Alice opened. Bob says shutdown; her answer comes with a new fee rate, signed. Bob's last step is his revoke_and_ack. */
function crossed(): { readonly bob: ChannelMachine; readonly said: readonly string[] } {
  const idleBob = machineOf(idle(), "bob");
  const first = after(idleBob, { type: "start_shutdown" });
  assert.deepEqual(sent(first.actions), ["shutdown"]);
  const feerate_per_kw = (idleBob.level?.feerate ?? 0) + 5;
  const second = after(
    first.state,
    { type: "update_fee", channel_id: CHANNEL_ID, feerate_per_kw },
    { type: "commitment_signed", channel_id: CHANNEL_ID, signature: new Uint8Array(64), htlc_signature: [] },
    { type: "shutdown", channel_id: CHANNEL_ID, scriptpubkey: SCRIPT },
  );
  assert.equal(the(second.actions, "ask_hsmd").request.outpoints[0]?.sign, null);
  const third = after(second.state, { type: "hsmd", answer: answered(false) });
  return { bob: third.state, said: sent(third.actions) };
}

Deno.test("a fee-only change that crosses our shutdown is revoked for and not signed at once", () => {
  const { bob, said } = crossed();
  assert.deepEqual(said, ["revoke_and_ack"]);
  assert(awaitsClosing(bob));
  assert.deepEqual(after(bob).actions, []);
});

Deno.test("the peer begins the closing over its last fee: stored, then handed over", () => {
  const { actions } = after(crossed().bob, { type: "closing_spoken" });
  const store = the(actions, "store");
  assert.equal(store.state, "CLOSINGD_SIGEXCHANGE");
  assert.deepEqual([sent(actions), actions.at(-1)?.type], [[], "shutdown_complete"]);
});

Deno.test("a peer that waits for our signature gets it when patience ends", () => {
  const { state, actions } = after(crossed().bob, { type: "closing_awaited" });
  assert.notEqual(the(actions, "ask_hsmd").request.outpoints[0]?.sign, null);
  const signed = after(state, { type: "hsmd", answer: answered(true) });
  assert.deepEqual(sent(signed.actions), ["commitment_signed"]);
  assert(!awaitsClosing(signed.state));
});

Deno.test("a new connection has a patience of its own", () => {
  const { state } = after(crossed().bob, { type: "closing_awaited" });
  const gone = after(after(state, { type: "hsmd", answer: answered(true) }).state, { type: "disconnected" });
  assert.equal(gone.state.closingAwaited, false);
});

Deno.test("a closing message that is not due begins nothing", () => {
  assert.deepEqual(after(machineOf(idle(), "bob"), { type: "closing_spoken" }).actions, []);
});
