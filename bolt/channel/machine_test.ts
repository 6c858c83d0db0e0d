/** Commitment rounds, hsmd's answers, channel_reestablish, shutdown, what the chain says; and any message at all. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex } from "@noble/hashes/utils.js";
import { p2wsh } from "bolt/tx/scripts.ts";
import { feerate, msat } from "bolt/units.ts";
import { arbMessage } from "bolt/wire/arbitraries.ts";
import type { ChannelReestablish, Message } from "bolt/wire/messages.ts";
import { fromRows, paused, step } from "./machine.ts";
import {
  addMessage,
  after,
  CHANNEL_ID,
  committed,
  failsWith,
  idle,
  machineOf,
  noise,
  says,
  sent,
  the,
} from "./testing/hostile.ts";
import { failure, flipped, type Name, NODE, preimageOf, type Simulator } from "./testing/simulator.ts";
import type { ChannelInput, ChannelMachine } from "./types.ts";

const SCRIPT = p2wsh(Uint8Array.of(0x52));
const shutdown = (scriptpubkey = SCRIPT): Message => ({
  type: "shutdown",
  channel_id: CHANNEL_ID,
  scriptpubkey,
});
const signed = (htlcs = 0): Message => ({
  type: "commitment_signed",
  channel_id: CHANNEL_ID,
  signature: new Uint8Array(64).fill(1),
  htlc_signature: Array.from({ length: htlcs }, () => new Uint8Array(64).fill(2)),
});

/** Answers what a node asked hsmd. */
function answered(sim: Simulator, name: Name, state: ChannelMachine) {
  assert(state.asked !== null);
  return step(state, [{ type: "hsmd", answer: sim.nodes[name].hsm.answer(state.asked.request) }]);
}

/** A node's machine as a connection begins, and what an honest peer would say there. */
function returning(sim: Simulator, name: Name): { state: ChannelMachine; honest: ChannelReestablish } {
  sim.cut();
  sim.quiesce();
  const other = name === "alice" ? "bob" : "alice";
  const hello = after(machineOf(sim, other), { type: "connected" });
  const [message] = the(hello.actions, "send").messages;
  assert(message?.type === "channel_reestablish");
  const { state, actions } = after(machineOf(sim, name), { type: "connected" });
  assert.deepEqual(sent(actions), ["channel_reestablish"]);
  return { state, honest: message };
}

/** Fails once hsmd has told what the claim is held against. */
function failsAfterHsmd(sim: Simulator, name: Name, state: ChannelMachine, text: RegExp, message: Message) {
  const first = after(state, message);
  if (first.state.asked === null) return failsWith(state, text, message);
  const next = answered(sim, name, first.state);
  const store = the(next.actions, "store");
  assert.match(store.errorText ?? "", text);
  assert.deepEqual(sent(next.actions), ["error"]);
  return next.actions;
}

Deno.test("one batch makes one store and one question: revoke and sign go together", () => {
  const sim = idle();
  const id = committed(sim, "bob");
  sim.offer("bob", 2_000_000n, 2);
  sim.turn("bob", 0);
  sim.turn("bob", 0);
  const frames = sim.pipe.alice.length;
  assert.equal(frames, 2, "update_add_htlc and commitment_signed");
  const { alice } = sim.nodes;
  alice.inbox.push({ type: "settle", id, removal: failure("no") });
  sim.offer("alice", 3_000_000n, 3);
  sim.turn("alice", 10);
  const { question } = alice;
  assert(question !== null);
  assert.equal(question.request.revoke, true);
  assert.equal(question.request.ecdhPoints.length, 1);
  const [outpoint] = question.request.outpoints;
  assert.deepEqual([outpoint?.verify?.content.htlcs.length, outpoint?.sign?.content.htlcs.length], [2, 2]);
  const { state, actions } = answered(sim, "alice", machineOf(sim, "alice"));
  assert.deepEqual(sent(actions), [
    "revoke_and_ack",
    "update_fail_htlc",
    "update_add_htlc",
    "commitment_signed",
  ]);
  assert.equal(state.asked, null);
});

Deno.test("item 15: nothing is signed without a change, and nothing before the last one is revoked", () => {
  const sim = idle();
  assert.deepEqual(
    after(machineOf(sim, "alice"), { type: "chain", onChain: { type: "confirmed" } }).actions,
    [],
  );
  sim.offer("alice", 1_000_000n, 1);
  sim.turn("alice", 0);
  sim.turn("alice", 0);
  sim.offer("alice", 1_000_000n, 2);
  sim.turn("alice", 0);
  assert.equal(sim.nodes.alice.question, null);
  assert.equal(machineOf(sim, "alice").queue.length, 1);
  sim.quiesce();
  sim.checkRest();
});

Deno.test("item 16: a commitment_signed with too few or too many HTLC signatures fails the channel", () => {
  const alice = machineOf(idle(), "alice");
  failsWith(alice, /1 HTLC signatures instead of 0/, signed(1));
  failsWith(alice, /0 HTLC signatures instead of 1/, addMessage(0n), signed(0));
  failsWith(alice, /1 HTLC signatures instead of 0/, addMessage(0n, { amount_msat: 353_999n }), signed(1));
  failsWith(alice, /before our revoke_and_ack/, addMessage(0n), signed(1), signed(1));
  const other = { ...signed(0), funding_txid: noise("other") } as Message;
  failsWith(alice, /another funding output/, other);
});

Deno.test("item 16: a bad signature drops what is pending, and the channel fails with the verified commitment", () => {
  const sim = idle();
  committed(sim, "bob");
  const { alice } = sim.nodes;
  sim.offer("bob", 1_000_000n, 2);
  sim.turn("bob", 0);
  sim.turn("bob", 0);
  const last = sim.pipe.alice.pop()!;
  // The first byte of its signature, behind type and channel_id.
  last[34] = (last[34] ?? 0) ^ 1;
  sim.pipe.alice.push(last);
  const before = alice.rows.commitments.active[0]?.local;
  sim.turn("alice", 10);
  assert.notEqual(alice.rows.commitments.active[0]?.pendingLocal, null);
  sim.turn("alice", 10);
  const [active] = alice.rows.commitments.active;
  assert.match(alice.rows.errorText ?? "", /bad signature/);
  assert.equal(active?.pendingLocal, null);
  assert.deepEqual(active?.local, before);
  assert.equal(alice.hsm.released, before?.number, "nothing was revoked");
  assert.deepEqual(flipped(flipped(last)), last);
});

Deno.test("item 16: a bad signature that nobody heard of before a crash is found out by the next owner", () => {
  const sim = idle();
  const { alice } = sim.nodes;
  const { state } = after(machineOf(sim, "alice"), addMessage(0n), signed(1));
  const setup = {
    channel: state.channel,
    htlcs: [...state.htlcs.values()],
    forms: state.forms,
    policy: state.policy,
    onChain: state.onChain,
  };
  const loaded = fromRows(setup);
  const request = the(loaded.actions, "ask_hsmd").request;
  assert.equal(request.revoke, true);
  assert.deepEqual(alice.hsm.answer(request).type, "refused");
  const { actions, state: next } = step(loaded.state, [{ type: "hsmd", answer: alice.hsm.answer(request) }]);
  assert.match(the(actions, "store").errorText ?? "", /bad signature/);
  assert.equal(next.channel.commitments.active[0]?.pendingLocal, null);
  assert.equal(the(actions, "end").reason, "commitment_signed: bad signature");
});

Deno.test("what was signed and said before a bad signature stays in the rows: the peer may broadcast it", () => {
  const sim = idle();
  sim.offer("alice", 1_000_000n, 1);
  sim.turn("alice", 0);
  sim.turn("alice", 0);
  const { state } = after(machineOf(sim, "alice"), signed(0));
  const [active] = state.channel.commitments.active;
  assert(active !== undefined && active.nextRemote !== null && active.pendingLocal !== null);
  const live = answered(sim, "alice", state);
  const loaded = fromRows({
    channel: state.channel,
    htlcs: [...state.htlcs.values()],
    forms: state.forms,
    policy: state.policy,
    onChain: state.onChain,
  });
  const again = answered(sim, "alice", loaded.state);
  for (const { actions } of [live, again]) {
    const store = the(actions, "store");
    assert.match(store.errorText ?? "", /bad signature/);
    const [left] = store.commitments?.active ?? [];
    assert.equal(left?.pendingLocal, null);
    assert.deepEqual(left?.nextRemote, active.nextRemote);
  }
});

Deno.test("any other refusal of hsmd stops here and changes nothing: the channel does not fail", () => {
  const sim = idle();
  const { state } = after(machineOf(sim, "alice"), addMessage(0n), signed(1));
  const answer = { type: "refused" as const, reason: "CONTENT_CONFLICT", detail: "" };
  const { actions, state: next } = step(state, [{ type: "hsmd", answer }]);
  assert.deepEqual(actions.map(({ type }) => type), ["log", "end"]);
  assert.equal(next.channel.errorText, null);
});

Deno.test("while hsmd owes an answer nothing else is taken", () => {
  const { state } = after(machineOf(idle(), "alice"), addMessage(0n), signed(1));
  assert.throws(() => step(state, [{ type: "disconnected" }]), RangeError);
  assert.throws(() =>
    step(machineOf(idle(), "alice"), [{
      type: "hsmd",
      answer: { type: "refused", reason: "", detail: "" },
    }]), RangeError);
});

Deno.test("item 18: a secret that is not the one of the last point fails the channel, one out of turn too", () => {
  const sim = idle();
  const revoke = (secret: Uint8Array, point: Uint8Array): Message => ({
    type: "revoke_and_ack",
    channel_id: CHANNEL_ID,
    per_commitment_secret: secret,
    next_per_commitment_point: point,
  });
  const { bob } = sim.nodes;
  const good = revoke(bob.hsm.secret(0n), bob.hsm.point(2n));
  failsWith(machineOf(sim, "alice"), /was not expected/, good);
  sim.offer("alice", 1_000_000n, 1);
  sim.turn("alice", 0);
  sim.turn("alice", 0);
  const alice = machineOf(sim, "alice");
  failsWith(alice, /not the secret/, revoke(bob.hsm.secret(1n), bob.hsm.point(2n)));
  failsWith(alice, /not the secret/, revoke(new Uint8Array(32), bob.hsm.point(2n)));
  failsWith(
    alice,
    /is no point/,
    revoke(bob.hsm.secret(0n), Uint8Array.of(2, ...new Uint8Array(32).fill(0xff))),
  );
  const { state, actions } = after(alice, good);
  assert.equal(state.channel.commitments.active[0]?.remote.number, 1n);
  assert.equal(the(actions, "store").commitments?.shachain.slots.filter((slot) => slot !== null).length, 1);
  failsWith(state, /was not expected/, good);
});

Deno.test("a revocation of the batch that fails the channel is kept: it may be needed for a penalty", () => {
  const sim = idle();
  sim.offer("alice", 1_000_000n, 1);
  sim.turn("alice", 0);
  sim.turn("alice", 0);
  const { bob } = sim.nodes;
  const good: Message = {
    type: "revoke_and_ack",
    channel_id: CHANNEL_ID,
    per_commitment_secret: bob.hsm.secret(0n),
    next_per_commitment_point: bob.hsm.point(2n),
  };
  const actions = failsWith(
    machineOf(sim, "alice"),
    /amount is zero/,
    good,
    addMessage(0n, { amount_msat: 0n }),
  );
  assert.equal(the(actions, "store").commitments?.active[0]?.remote.number, 1n);
});

Deno.test("start_batch: a size that can be is tolerated, any other hangs up", () => {
  const alice = machineOf(idle(), "alice");
  const batch = (batch_size: number): Message => ({
    type: "start_batch",
    channel_id: CHANNEL_ID,
    batch_size,
  });
  for (const size of [0, 21, 65_535]) {
    assert.equal(the(after(alice, batch(size)).actions, "hang_up").reason, `start_batch of ${size} messages`);
  }
  const other = { ...signed(0), funding_txid: noise("an old one") } as Message;
  const { state, actions } = after(alice, addMessage(0n), batch(2), other, signed(1));
  assert.equal(state.ended, null);
  assert.equal(the(actions, "ask_hsmd").request.revoke, true);
});

Deno.test("items 25 and 26: what was lost is said again, in the order in which it was said", () => {
  // Both offer at once; alice's revoke_and_ack for bob's comes after her commitment_signed.
  const sim = idle();
  sim.offer("alice", 1_000_000n, 1);
  sim.offer("bob", 2_000_000n, 2);
  for (const name of ["alice", "bob", "alice", "bob"] as const) sim.turn(name, 0);
  const first = sim.pipe.bob.map((frame) => bytesToHex(frame).slice(0, 400));
  sim.turn("alice", 10);
  sim.turn("alice", 10);
  const revoke = sim.pipe.bob.slice(first.length).map((frame) => bytesToHex(frame).slice(0, 400));
  assert.equal(machineOf(sim, "alice").channel.commitments.revokedLast, true);
  // Bob heard nothing of it.
  sim.cut();
  sim.connect();
  for (let i = 0; i < 3; i++) sim.turn("bob", 0);
  for (let i = 0; i < 5; i++) sim.turn("alice", 1);
  const again = sim.pipe.bob.map((frame) => bytesToHex(frame).slice(0, 400));
  assert.deepEqual(again.slice(-3), [...first, ...revoke], "byte for byte");
  sim.quiesce();
  sim.checkRest();
});

Deno.test("items 25 and 26: revoke_and_ack before commitment_signed, also from a process that only has the rows", () => {
  for (const crash of [false, true]) {
    const sim = idle();
    const { alice } = sim.nodes;
    sim.offer("bob", 2_000_000n, 2);
    sim.turn("bob", 0);
    sim.turn("bob", 0);
    sim.turn("alice", 10);
    sim.turn("alice", 10);
    const said = sim.pipe.bob.map((frame) => bytesToHex(frame).slice(0, 400));
    assert.equal(said.length, 2);
    if (crash) alice.crash();
    else sim.cut();
    sim.connect();
    for (let i = 0; i < 3; i++) sim.turn("bob", 0);
    for (let i = 0; i < 6; i++) sim.turn("alice", 1);
    const again = sim.pipe.bob.map((frame) => bytesToHex(frame).slice(0, 400));
    assert.deepEqual(again.slice(-2), said, "byte for byte");
    sim.quiesce();
    sim.checkRest();
  }
});

Deno.test("our own updates that no commitment_signed covered are not said again, but made again", () => {
  const sim = idle();
  sim.offer("alice", 1_000_000n, 1);
  // It crashes before the store: nobody knows of the HTLC.
  sim.nodes.alice.fuse = 0;
  sim.turn("alice", 0);
  assert.equal(sim.nodes.alice.crashes, 1);
  assert.equal(sim.nodes.alice.htlcRows.size, 0);
  sim.connect();
  sim.quiesce();
  sim.checkRest();
});

Deno.test("items 24 to 27: false counters and secrets fail the channel, and nobody believes that data was lost", () => {
  const sim = idle();
  committed(sim, "alice");
  committed(sim, "bob");
  const { state, honest } = returning(sim, "alice");
  const wrong: readonly (readonly [RegExp, Partial<ChannelReestablish>])[] = [
    [/must not be 0/, { next_commitment_number: 0n }],
    [/48 bits/, { next_commitment_number: (1n << 64n) - 1n }],
    [/48 bits/, { next_revocation_number: (1n << 64n) - 1n }],
    [/next_commitment_number is/, { next_commitment_number: honest.next_commitment_number - 1n }],
    [/next_commitment_number is/, { next_commitment_number: honest.next_commitment_number + 1n }],
    [/secret is wrong/, { next_revocation_number: honest.next_revocation_number - 1n }],
    [/without proof/, { next_revocation_number: honest.next_revocation_number + 1n }],
    [/without proof/, { next_revocation_number: 1n << 47n }],
    [/not zero before/, { next_revocation_number: 0n }],
    [/we are at/, { next_revocation_number: 0n, your_last_per_commitment_secret: new Uint8Array(32) }],
    [/secret is wrong/, { your_last_per_commitment_secret: noise("secret") }],
    [/secret is wrong/, { your_last_per_commitment_secret: new Uint8Array(32) }],
    [/secret is wrong/, { your_last_per_commitment_secret: new Uint8Array(32).fill(0xff) }],
  ];
  for (const [text, changes] of wrong) {
    const actions = failsAfterHsmd(sim, "alice", state, text, { ...honest, ...changes });
    assert.equal(the(actions, "store").dataLoss, false);
  }
  const fine = after(state, honest);
  assert.equal(fine.state.link, "up");
  assert.deepEqual(sent(fine.actions), []);
});

Deno.test("item 28: a peer that proves that our rows are old: stored, said, and never broadcast", () => {
  const sim = idle();
  const old = sim.nodes.alice.rows;
  for (let i = 0; i < 3; i++) {
    sim.settle("bob", committed(sim, "alice"), preimageOf(1).preimage);
    sim.quiesce();
  }
  const { honest } = returning(sim, "alice");
  const loaded = fromRows({
    channel: old,
    htlcs: [],
    forms: { anysegwit: true, simpleClose: false },
    policy: { maxDustExposure: msat(50_000_000) },
    onChain: { type: "confirmed" },
  });
  assert(loaded.actions.every(({ type }) => type !== "ask_hsmd"));
  const up = after(loaded.state, { type: "connected" });
  assert(honest.next_revocation_number > 1n);
  const actions = failsAfterHsmd(sim, "alice", up.state, /proved that we lost data/, honest);
  assert.equal(the(actions, "store").dataLoss, true);
  // The next connection gets the error, and nothing else is listened to.
  const failed = fromRows({
    channel: { ...old, errorText: "lost", dataLoss: true },
    htlcs: [],
    forms: { anysegwit: true, simpleClose: false },
    policy: { maxDustExposure: msat(50_000_000) },
    onChain: { type: "confirmed" },
  });
  const again = after(failed.state, { type: "connected" }, honest, addMessage(0n), shutdown());
  assert.deepEqual(sent(again.actions), ["error"]);
});

Deno.test("item 23: nothing passes before channel_reestablish, and a second one changes nothing", () => {
  const sim = idle();
  const { state, honest } = returning(sim, "alice");
  assert.equal(
    the(after(state, shutdown()).actions, "hang_up").reason,
    "shutdown before channel_reestablish",
  );
  const up = after(state, honest);
  assert.deepEqual(sent(up.actions), ["channel_ready"]);
  assert.deepEqual(sent(after(up.state, honest).actions), ["warning"]);
});

Deno.test("item 31: tx_signatures that were missed are said again, for another transaction tx_abort", () => {
  const { state, honest } = returning(idle(), "alice");
  const asks = (next_funding_txid: Uint8Array) =>
    sent(after(state, { ...honest, next_funding: { next_funding_txid, retransmit_flags: 0 } }).actions);
  assert.deepEqual(asks(new Uint8Array(32).fill(8)), ["tx_signatures", "channel_ready"]);
  assert.deepEqual(asks(noise("other")), ["tx_abort", "channel_ready"]);
});

Deno.test("item 32: a redundant channel_ready is ignored, also after many commitments; a new alias is stored", () => {
  const sim = idle();
  const ready = (second_per_commitment_point: Uint8Array, more = {}): Message => ({
    type: "channel_ready",
    channel_id: CHANNEL_ID,
    second_per_commitment_point,
    ...more,
  });
  const { bob } = sim.nodes;
  const alice = machineOf(sim, "alice");
  assert.deepEqual(after(alice, ready(bob.hsm.point(1n))).actions, []);
  assert.deepEqual(sent(after(alice, ready(bob.hsm.point(5n))).actions), ["warning"]);
  committed(sim, "alice");
  const used = machineOf(sim, "alice");
  assert.deepEqual(after(used, ready(bob.hsm.point(1n))).actions, []);
  const { actions } = after(used, ready(bob.hsm.point(1n), { short_channel_id: 9n }));
  assert.equal(the(actions, "store").remoteAlias, 9n);
});

Deno.test("at lock-in the channel goes on where dualopend left it, and says again what did not reach the socket", () => {
  const { state } = after(machineOf(idle(), "alice"), { type: "disconnected" });
  const taken = after(state, { type: "taken_over", lost: false });
  assert.deepEqual([sent(taken.actions), taken.state.link], [[], "up"]);
  assert.deepEqual(sent(after(state, { type: "taken_over", lost: true }).actions), ["channel_ready"]);
});

Deno.test("an owner that changes within a connection, once commitments moved: only channel_reestablish tells", () => {
  const first = idle();
  const { state: signing } = after(machineOf(first, "alice"), {
    type: "node",
    ...NODE,
    feerate: feerate(3000),
  });
  const early = answered(first, "alice", signing).state;
  const sim = idle();
  committed(sim, "bob");
  for (const used of [early, machineOf(sim, "alice"), machineOf(sim, "bob")]) {
    const { state } = after(used, { type: "disconnected" });
    for (const lost of [false, true]) {
      const { actions, state: next } = after(state, { type: "taken_over", lost });
      assert.equal(the(actions, "hang_up").reason, "the owner changed within a connection");
      assert.deepEqual([sent(actions), next.link, next.ended], [[], "down", null]);
    }
  }
});

Deno.test("item 34: shutdown waits for what is pending on the peer's commitment", () => {
  const sim = idle();
  const id = committed(sim, "bob");
  const { alice, bob } = sim.nodes;
  // Alone: at once, and stored before it is said.
  const alone = after(machineOf(sim, "alice"), { type: "start_shutdown" });
  assert.deepEqual(
    alone.actions.filter(({ type }) => type === "store" || type === "send").map(({ type }) => type),
    [
      "store",
      "send",
    ],
  );
  assert.deepEqual(sent(alone.actions), ["shutdown"]);
  // With a removal that is signed in the same step: behind its commitment_signed.
  alice.inbox.push({ type: "settle", id, removal: failure("no") }, { type: "start_shutdown" });
  sim.turn("alice", 0);
  const { actions } = answered(sim, "alice", machineOf(sim, "alice"));
  assert.deepEqual(sent(actions), ["update_fail_htlc", "commitment_signed", "shutdown"]);
  sim.quiesce();
  assert.deepEqual([alice.rows.state, bob.rows.state], ["CLOSINGD_SIGEXCHANGE", "CLOSINGD_SIGEXCHANGE"]);
});

Deno.test("item 35: no offer after shutdown, the peer's late additions are failed, its later ones are an offence", () => {
  const sim = idle();
  const { alice, bob } = sim.nodes;
  const wants = after(machineOf(sim, "alice"), { type: "start_shutdown" });
  assert.equal(paused(wants.state), "the channel is shutting down");
  const { hash } = preimageOf(1);
  const offer: ChannelInput = {
    type: "offer",
    origin: 1n,
    amount: msat(1),
    paymentHash: hash,
    cltvExpiry: 1040,
    onion: new Uint8Array(1366),
  };
  assert.equal(the(after(wants.state, offer).actions, "refused").detail, "the channel is shutting down");
  // Bob's offer and alice's shutdown cross.
  const origin = sim.offer("bob", 1_000_000n, 1);
  alice.inbox.push({ type: "start_shutdown" });
  sim.turn("bob", 0);
  sim.turn("alice", 0);
  sim.quiesce();
  const removal = alice.decisions.get(0n);
  assert(removal?.type === "fail");
  assert.equal(new TextDecoder().decode(removal.reason), "permanent_channel_failure");
  assert.equal(bob.parts.get(origin)?.state, "failed");
  assert(alice.completed && bob.completed);
  const other = machineOf(idle(), "alice");
  failsWith(other, /after shutdown/, shutdown(), addMessage(0n));
});

Deno.test("items 34 and 36: shutdown over uncommitted updates, or to a script that is none", () => {
  const alice = machineOf(idle(), "alice");
  assert.match(
    the(after(alice, addMessage(0n), shutdown()).actions, "hang_up").reason,
    /no commitment_signed/,
  );
  const strange = after(alice, shutdown(Uint8Array.of(0x51)));
  assert.deepEqual([sent(strange.actions), strange.state.channel.shutdownReceived], [["warning"], null]);
});

Deno.test("item 37: shutdown to another script than the upfront one hangs up", () => {
  const alice = machineOf(idle(), "alice");
  const upfront = {
    ...alice,
    channel: { ...alice.channel, remoteUpfrontShutdownScript: p2wsh(Uint8Array.of(1)) },
  };
  assert.match(the(after(upfront, shutdown()).actions, "hang_up").reason, /upfront/);
  const fixed = { ...alice, channel: { ...alice.channel, remoteUpfrontShutdownScript: SCRIPT } };
  assert.deepEqual(sent(after(fixed, shutdown(), shutdown()).actions), ["shutdown"]);
});

Deno.test("item 38: the closing begins when nothing is left: stored, then told; a reconnect says shutdown again", () => {
  const sim = idle();
  const { alice, bob } = sim.nodes;
  const id = committed(sim, "alice");
  alice.inbox.push({ type: "start_shutdown" });
  sim.quiesce();
  assert.deepEqual([alice.completed, bob.completed], [false, false]);
  sim.cut();
  sim.connect();
  sim.quiesce();
  sim.settle("bob", id, preimageOf(1).preimage);
  sim.quiesce();
  assert.deepEqual([alice.completed, bob.completed], [true, true]);
  assert.equal(alice.htlcRows.size, 0);
  const { state, honest } = returning(sim, "alice");
  const again = after(state, honest);
  assert.deepEqual(sent(again.actions), ["shutdown"]);
  the(again.actions, "shutdown_complete");
  failsWith(again.state, /after the shutdown was complete/, addMessage(0n));
});

Deno.test("attack 26: update_fee after the shutdown is complete fails the channel", () => {
  const sim = idle();
  sim.nodes.alice.inbox.push({ type: "start_shutdown" });
  sim.quiesce();
  failsWith(machineOf(sim, "bob"), /after the shutdown was complete/, {
    type: "update_fee",
    channel_id: CHANNEL_ID,
    feerate_per_kw: 2000,
  });
});

Deno.test("a reorg pauses: no offer, no signature, but a revocation; the confirmation's return goes on", () => {
  const sim = idle();
  const { alice } = sim.nodes;
  alice.inbox.push({ type: "chain", onChain: { type: "undone" } });
  const origin = sim.offer("bob", 1_000_000n, 1);
  sim.quiesce();
  assert.equal(machineOf(sim, "alice").level?.paused, "the funding transaction is no longer confirmed");
  assert.equal(machineOf(sim, "alice").channel.commitments.active[0]?.local.number, 1n);
  assert.equal(machineOf(sim, "alice").channel.commitments.active[0]?.remote.number, 0n);
  alice.inbox.push({ type: "chain", onChain: { type: "confirmed" } });
  sim.quiesce();
  assert.equal(sim.nodes.bob.parts.get(origin)?.state, "offered");
  assert.equal(alice.incoming.size, 1);
  sim.checkRest();
});

Deno.test("tx_abort is echoed, the echo of ours is not: two nodes would never stop", () => {
  const abort: Message = { type: "tx_abort", channel_id: CHANNEL_ID, data: new Uint8Array() };
  const rbf: Message = {
    type: "tx_init_rbf",
    channel_id: CHANNEL_ID,
    locktime: 0,
    feerate: 1000,
  };
  const sim = idle();
  const refused = after(machineOf(sim, "alice"), rbf);
  assert.deepEqual(sent(refused.actions), ["tx_abort"]);
  assert.deepEqual(sent(after(refused.state, abort).actions), []);
  const echoed = after(machineOf(sim, "alice"), abort);
  assert.deepEqual(sent(echoed.actions), ["tx_abort"]);
  // A peer that echoes an echo is not answered for ever either.
  const silent = after(echoed.state, abort);
  assert.deepEqual(sent(silent.actions), []);
  assert.deepEqual(sent(after(silent.state, rbf).actions), ["tx_abort"]);
});

Deno.test("a sibling of the funding transaction freezes the channel", () => {
  const alice = machineOf(idle(), "alice");
  failsWith(alice, /another funding transaction/, {
    type: "chain",
    onChain: { type: "sibling_confirmed", seq: 1 },
  });
});

Deno.test("a peer's error fails the channel without an answer, a warning does not", () => {
  const alice = machineOf(idle(), "alice");
  const data = new TextEncoder().encode("no");
  const failed = after(alice, { type: "error", channel_id: CHANNEL_ID, data });
  assert.deepEqual(sent(failed.actions), []);
  assert.equal(the(failed.actions, "store").errorText, "peer sent error: no");
  assert.equal(after(alice, { type: "warning", channel_id: CHANNEL_ID, data }).state.ended, null);
});

Deno.test("no message makes it throw, and no error is said that is not stored", () => {
  const starts = [idle(), idle(), idle()];
  committed(starts[1]!, "alice");
  committed(starts[2]!, "bob");
  starts[2]!.nodes.alice.inbox.push({ type: "start_shutdown" });
  starts[2]!.quiesce();
  const states = starts.flatMap((sim) => [machineOf(sim, "alice"), machineOf(sim, "bob")]);
  const down = states.map((state) => after(state, { type: "disconnected" }, { type: "connected" }).state);
  fc.assert(
    fc.property(
      fc.constantFrom(...states, ...down),
      fc.array(arbMessage, { maxLength: 8 }),
      (state, messages) => {
        const { actions, state: next } = step(state, messages.map(says));
        const store = actions.findIndex(({ type }) => type === "store");
        const error = actions.findIndex(({ type, ...rest }) =>
          type === "send" && JSON.stringify(rest, plain).includes('"error"')
        );
        if (error >= 0) assert(store >= 0 && store < error);
        assert.equal(next.ended !== null, next.channel.errorText !== null);
      },
    ),
    { numRuns: 500 },
  );
});

function plain(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}
