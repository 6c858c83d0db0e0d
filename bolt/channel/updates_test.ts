/** Items 1 to 20 of normal operation: what a peer's updates may be, and what becomes of them. */
import assert from "node:assert/strict";
import { height, msat, sat } from "bolt/units.ts";
import type { Message } from "bolt/wire/messages.ts";
import { fromRows, standing } from "./machine.ts";
import {
  addMessage,
  after,
  CHANNEL_ID,
  committed,
  failsWith,
  idle,
  machineOf,
  noise,
  sent,
  the,
} from "./testing/hostile.ts";
import { failure, NODE, onionOf, preimageOf, WORLD } from "./testing/simulator.ts";

const fee = (rate: number): Message => ({ type: "update_fee", channel_id: CHANNEL_ID, feerate_per_kw: rate });
const fulfill = (id: bigint, n: number): Message => ({
  type: "update_fulfill_htlc",
  channel_id: CHANNEL_ID,
  id,
  payment_preimage: preimageOf(n).preimage,
});

Deno.test("item 1: an amount of zero, or below our htlc_minimum_msat, fails the channel", () => {
  const limits = { ...WORLD.limits.alice, htlcMinimum: msat(1000) };
  const alice = machineOf(idle({ limits: { alice: limits, bob: WORLD.limits.bob } }), "alice");
  failsWith(alice, /amount is zero/, addMessage(0n, { amount_msat: 0n }));
  failsWith(alice, /below htlc_minimum_msat/, addMessage(0n, { amount_msat: 999n }));
  assert.deepEqual(sent(after(alice, addMessage(0n, { amount_msat: 1000n })).actions), []);
});

Deno.test("items 1 and 5: amounts of 2^63 and of 2^64 - 1 are compared, not computed with", () => {
  const alice = machineOf(idle(), "alice");
  for (const amount_msat of [1n << 63n, (1n << 64n) - 1n]) {
    failsWith(alice, /max_htlc_value_in_flight_msat/, addMessage(0n, { amount_msat }));
  }
  const free = { ...WORLD.limits.alice, maxHtlcValueInFlight: msat(2_100_000_000_000_000_000n) };
  const open = machineOf(idle({ limits: { alice: free, bob: WORLD.limits.bob } }), "alice");
  failsWith(open, /exceeds the balance/, addMessage(0n, { amount_msat: 1n << 60n }));
});

Deno.test("item 2: an expiry that is a time fails the channel, one too far away is committed and then failed", () => {
  const sim = idle();
  failsWith(machineOf(sim, "alice"), /not a block height/, addMessage(0n, { cltv_expiry: 500_000_000 }));
  // Bob's node is 100 blocks ahead of ours, and so may offer more.
  const { bob, alice } = sim.nodes;
  bob.node = { ...NODE, height: height(1100) };
  bob.inbox.push({ type: "node", ...bob.node });
  const origin = sim.offer("bob", 1_000_000n, 1, { cltvExpiry: 1000 + 2017 });
  sim.quiesce();
  const removal = alice.decisions.get(0n);
  assert(removal?.type === "fail");
  assert.equal(new TextDecoder().decode(removal.reason), "expiry_too_far");
  assert.equal(bob.parts.get(origin)?.state, "failed");
});

Deno.test("item 3: the peer keeps our max_accepted_htlcs and max_htlc_value_in_flight_msat", () => {
  const limits = { ...WORLD.limits.alice, maxAcceptedHtlcs: 2, maxHtlcValueInFlight: msat(2_500_000) };
  const sim = idle({ limits: { alice: limits, bob: WORLD.limits.bob } });
  const alice = machineOf(sim, "alice");
  const two = [addMessage(0n), addMessage(1n)];
  failsWith(alice, /max_accepted_htlcs/, ...two, addMessage(2n, { amount_msat: 1n }));
  failsWith(alice, /max_htlc_value_in_flight/, addMessage(0n), addMessage(1n, { amount_msat: 1_500_001n }));
  // What is on its way to be removed counts until its removal is acknowledged.
  committed(sim, "bob");
  committed(sim, "bob");
  const full = machineOf(sim, "alice");
  const { state } = after(full, { type: "settle", id: 0n, removal: failure("no") });
  assert(state.asked !== null);
  failsWith(full, /max_accepted_htlcs/, addMessage(2n));
});

Deno.test("item 4: ids count from 0 without a gap or a repetition", () => {
  const sim = idle();
  const alice = machineOf(sim, "alice");
  failsWith(alice, /the next one is 0/, addMessage(1n));
  failsWith(alice, /the next one is 1/, addMessage(0n), addMessage(0n));
  failsWith(alice, /the next one is 0/, addMessage((1n << 64n) - 1n));
  // After a connection without a commitment_signed the same id comes again, with whatever content.
  const { state } = after(alice, addMessage(0n), { type: "disconnected" });
  assert.equal(state.htlcs.size, 0);
  assert.deepEqual(state.uncommitted, { adds: [], removes: [] });
  committed(sim, "bob");
  failsWith(machineOf(sim, "alice"), /the next one is 1/, addMessage(0n));
});

Deno.test("item 5: the peer keeps its reserve, and the fee if it opened", () => {
  const total = 10_000_000_000n;
  // Bob has 1,000,000 sat: 100,000 of them are his reserve.
  const balances = { alice: total - 1_000_000_000n, bob: 1_000_000_000n };
  const limits = { ...WORLD.limits.alice, maxHtlcValueInFlight: msat(total) };
  const both = { alice: limits, bob: limits };
  const accepter = machineOf(idle({ balances, limits: both }), "alice");
  const ask = (amount_msat: bigint) => addMessage(0n, { amount_msat });
  assert.equal(after(accepter, ask(900_000_000n)).state.ended, null);
  failsWith(accepter, /exceeds the balance/, ask(900_000_001n));
  const opener = machineOf(idle({ balances, limits: both, opener: "bob" }), "alice");
  // 1,124 and 172 weight units at 1,000 sat/kw, and two anchors.
  const cost = (1124n + 172n + 660n) * 1000n;
  assert.equal(after(opener, ask(900_000_000n - cost)).state.ended, null);
  failsWith(opener, /exceeds the balance/, ask(900_000_001n - cost));
});

Deno.test("item 5: as the opener we keep the fee at twice the rate and for one HTLC more", () => {
  const total = 10_000_000_000n;
  const balances = { alice: 1_000_000_000n, bob: total - 1_000_000_000n };
  const limits = { ...WORLD.limits.alice, maxHtlcValueInFlight: msat(total) };
  const sim = idle({ balances, limits: { alice: limits, bob: limits } });
  const most = 900_000_000n - ((1124n + 2n * 172n) * 2n + 660n) * 1000n;
  assert.equal(machineOf(sim, "alice").level?.spendable, most);
  const [over, just] = [sim.offer("alice", most + 1n, 1), sim.offer("alice", most, 1)];
  sim.quiesce();
  assert.equal(sim.nodes.alice.parts.get(over)?.state, "refused");
  assert.equal(sim.nodes.alice.parts.get(just)?.state, "offered");
});

Deno.test("item 5: an HTLC that would need an output is not offered to an opener that cannot pay for it", () => {
  const balances = { alice: 9_989_100_000n, bob: 10_900_000n };
  const reserves = { alice: 100_000n, bob: 9_000n };
  const sim = idle({ balances, reserves, opener: "bob" });
  // 10,900 sat less the reserve pay for 1,124 weight units and the anchors, not for 172 more.
  const rich = sim.offer("alice", 1_000_000n, 1);
  const dust = sim.offer("alice", 353_999n, 1);
  sim.quiesce();
  assert.equal(sim.nodes.alice.parts.get(rich)?.state, "refused");
  assert.deepEqual(sim.refusals, ["the opener could not pay the fee"]);
  assert.equal(sim.nodes.alice.parts.get(dust)?.state, "offered");
});

Deno.test("item 6: several HTLCs with one hash are committed and settled each for itself", () => {
  const sim = idle();
  const ids = [1, 2, 3].map(() => committed(sim, "alice"));
  sim.settle("bob", ids[1]!, preimageOf(1).preimage);
  sim.settle("bob", ids[0]!, null);
  sim.quiesce();
  assert.deepEqual([...sim.nodes.alice.parts.values()].map(({ state }) => state), [
    "failed",
    "fulfilled",
    "offered",
  ]);
  sim.checkRest();
});

Deno.test("item 7: dust beyond the exposure is not sent, and the peer's is committed and failed back", () => {
  const sim = idle({ maxDustExposure: 700_000n });
  const dust = [1, 2, 3].map(() => sim.offer("alice", 300_000n, 1));
  sim.quiesce();
  const { alice, bob } = sim.nodes;
  assert.deepEqual(dust.map((origin) => alice.parts.get(origin)?.state), ["offered", "offered", "refused"]);
  // A peer without that rule, in the other direction: two are kept, the third is failed back.
  const other = idle();
  other.nodes.alice.policyDust = 700_000n;
  other.nodes.alice.crash();
  other.connect();
  other.quiesce();
  for (const n of [1, 2, 3]) other.offer("bob", 300_000n, n);
  other.quiesce();
  assert.deepEqual([...other.nodes.alice.incoming.keys()], [0n, 1n]);
  const removal = other.nodes.alice.decisions.get(2n);
  assert(removal?.type === "fail");
  assert.equal(new TextDecoder().decode(removal.reason), "temporary_channel_failure");
  assert.equal(bob.failed, null);
});

Deno.test("item 9: an HTLC of a blinded route is committed, and refused as malformed", () => {
  const sim = idle();
  const { alice } = sim.nodes;
  const before = machineOf(sim, "alice");
  const add = addMessage(0n, { blinded_path: sim.nodes.bob.hsm.point(0n) });
  assert.equal([...after(before, add).state.htlcs.values()][0]?.blinded, true);
  assert.equal(alice.failed, null);
});

Deno.test("item 11: an offer past its expiry, and a fulfilled HTLC near its own, fail the channel", () => {
  const sim = idle();
  committed(sim, "alice");
  committed(sim, "bob");
  const alice = machineOf(sim, "alice");
  const at = (h: number) => ({ type: "node" as const, ...NODE, height: height(h) });
  assert.equal(after(alice, at(1042)).state.ended, null);
  failsWith(alice, /expired at 1040/, at(1043));
  const preimage = preimageOf(1).preimage;
  const settle = {
    type: "settle" as const,
    id: 0n,
    removal: { type: "fulfill" as const, preimage, attribution: null },
  };
  assert.equal(after(alice, settle, at(1021)).state.ended, null);
  failsWith(alice, /is fulfilled, and expires at 1040/, settle, at(1022));
});

Deno.test("item 12: only what both are committed to is removed, by the right preimage, once", () => {
  const sim = idle();
  const id = committed(sim, "alice");
  const alice = machineOf(sim, "alice");
  failsWith(alice, /no HTLC 7/, fulfill(7n, 1));
  failsWith(alice, /not the preimage/, fulfill(id, 2));
  failsWith(alice, /RCVD_REMOVE_HTLC/, fulfill(id, 1), fulfill(id, 1));
  // Its own HTLC is not the peer's to remove.
  failsWith(alice, /no HTLC 1/, addMessage(0n), addMessage(1n), fulfill(1n, 1));
  const malformed = (failure_code: number): Message => ({
    type: "update_fail_malformed_htlc",
    channel_id: CHANNEL_ID,
    id,
    sha256_of_onion: noise("onion"),
    failure_code,
  });
  failsWith(alice, /without BADONION/, malformed(0x4000));
  assert.equal(after(alice, malformed(0xc005)).state.ended, null);
  // Offered, but not yet committed by both.
  sim.offer("alice", 1_000_000n, 1);
  sim.turn("alice", 0);
  sim.turn("alice", 0);
  failsWith(machineOf(sim, "alice"), /SENT_ADD_COMMIT/, fulfill(id + 1n, 1));
});

Deno.test("item 13: a preimage is told at once and once, a failure when it is irrevocable", () => {
  const sim = idle();
  const [first, second] = [committed(sim, "alice"), committed(sim, "alice")];
  const alice = machineOf(sim, "alice");
  const told = after(alice, fulfill(first, 1));
  assert.equal(the(told.actions, "outgoing_resolved").removal.type, "fulfill");
  assert(!told.actions.some(({ type }) => type === "store"), "it waits for no COMMIT");
  // The connection is lost, the peer says it again.
  const again = after(told.state, { type: "disconnected" });
  assert.equal(again.state.htlcs.get(first * 2n + 1n)?.state, "SENT_ADD_ACK_REVOCATION");
  const up = { ...again.state, link: "up" as const };
  assert(!after(up, fulfill(first, 1)).actions.some(({ type }) => type === "outgoing_resolved"));
  const fail: Message = {
    type: "update_fail_htlc",
    channel_id: CHANNEL_ID,
    id: second,
    reason: noise("x"),
  };
  assert(!after(alice, fail).actions.some(({ type }) => type === "outgoing_resolved"));
  assert.equal(
    after(after(alice, fail).state, { type: "disconnected" }).state.htlcs.get(second * 2n + 1n)?.removal,
    null,
    "a failure that nobody committed to is forgotten",
  );
});

Deno.test("a settlement is idempotent; another one comes too late; a wrong one is not taken", () => {
  const sim = idle();
  const id = committed(sim, "bob");
  const alice = machineOf(sim, "alice");
  const preimage = preimageOf(1).preimage;
  const good = {
    type: "settle" as const,
    id,
    removal: { type: "fulfill" as const, preimage, attribution: null },
  };
  const bad = { ...good, removal: { ...good.removal, preimage: preimageOf(2).preimage } };
  const fails = { ...good, removal: failure("late") };
  assert.equal(after(alice, bad).state.asked, null);
  const { state, actions } = after(alice, good, good, fails, fails);
  assert.equal(state.htlcs.get(id * 2n)?.removal?.type, "fulfill");
  assert.deepEqual(the(actions, "ask_hsmd").request.revoke, false);
  assert.equal(the(actions, "store").changed[0]?.state, "SENT_REMOVE_COMMIT");
  assert.equal(after(alice, { ...good, id: 99n }).state.asked, null);
});

Deno.test("an offer is idempotent: the same origin gets one HTLC, whatever became of it", () => {
  const sim = idle();
  const { alice } = sim.nodes;
  const offer = {
    type: "offer" as const,
    origin: 77n,
    amount: msat(1_000_000),
    paymentHash: preimageOf(1).hash,
    cltvExpiry: 1040,
    onion: onionOf(1),
  };
  alice.parts.set(77n, { offer, state: "asked" });
  const first = after(machineOf(sim, "alice"), offer, offer);
  assert.equal(the(first.actions, "store").added.length, 1);
  assert.equal(the(first.actions, "offered").id, 0n);
  // It waits behind a commitment that is not revoked yet.
  alice.inbox.push(offer);
  sim.turn("alice", 0);
  sim.turn("alice", 0);
  const waiting = after(machineOf(sim, "alice"), { ...offer, origin: 78n }, { ...offer, origin: 78n });
  assert.equal(waiting.state.queue.length, 1);
  assert(!waiting.actions.some(({ type }) => type === "offered"));
  // A new stream hears of it: it may still be made.
  const told = standing(waiting.state).filter((action) => action.type === "offered");
  assert.deepEqual(told.map(({ origin }) => origin), [77n, 78n]);
  const refused = after(waiting.state, { type: "disconnected" });
  assert.equal(the(refused.actions, "refused").origin, 78n);
  assert.equal(refused.state.queue.length, 0);
  sim.quiesce();
  const again = after(machineOf(sim, "alice"), offer);
  assert.equal(the(again.actions, "offered").id, 0n);
  assert(!again.actions.some(({ type }) => type === "store"));
  assert.deepEqual(standing(machineOf(sim, "alice")).map(({ type }) => type), ["offered", "level"]);
});

Deno.test("an offer is refused with BOLT 4's names while nothing can be offered", () => {
  const sim = idle();
  const { alice } = sim.nodes;
  const why = (changes: Parameters<typeof sim.offer>[3], amount = 1_000_000n) => {
    sim.offer("alice", amount, 1, changes);
    const offer = alice.inbox.pop()!;
    return the(after(machineOf(sim, "alice"), offer).actions, "refused").reason;
  };
  assert.equal(why({ cltvExpiry: 1000 }), "expiry_too_soon");
  assert.equal(why({ cltvExpiry: 3017 }), "expiry_too_far");
  assert.equal(why({}, 0n), "amount_below_minimum");
  assert.equal(why({}, 5_000_000_000n), "temporary_channel_failure");
});

Deno.test("item 20: update_fee is the opener's, within bounds, and affordable", () => {
  const alice = machineOf(idle(), "alice");
  failsWith(alice, /the opener's/, fee(1000));
  const bob = machineOf(idle(), "bob");
  failsWith(bob, /252 is below 253/, fee(252));
  failsWith(bob, /0 is below 253/, fee(0));
  failsWith(bob, /50001 is above 50000/, fee(50_001));
  failsWith(bob, /4294967295 is above/, fee(0xffff_ffff));
  assert.equal(after(bob, fee(50_000)).state.ended, null);
  const poor = machineOf(idle({ balances: { alice: 10_000_000n, bob: 9_990_000_000n } }), "bob");
  assert.equal(after(poor, fee(8000)).state.ended, null);
  failsWith(poor, /cannot afford 9000/, fee(9000));
  // Nothing but the newest is remembered of those that no commitment_signed covers.
  const many = after(bob, ...Array.from({ length: 100 }, (_, i) => fee(1000 + i)));
  assert.deepEqual(many.state.channel.commitments.fees, [{ feerate: 1099, state: "RCVD_ADD_HTLC" }]);
  assert.deepEqual(after(many.state, { type: "disconnected" }).state.channel.commitments.fees, []);
});

Deno.test("a fee that leaves no output fails the channel, before hsmd is asked what it can never sign", () => {
  const small = { balances: { alice: 12_000_000n, bob: 0n } };
  const signed: Message = {
    type: "commitment_signed",
    channel_id: CHANNEL_ID,
    signature: new Uint8Array(64).fill(1),
    htlc_signature: [],
  };
  const bob = machineOf(idle(small), "bob");
  failsWith(bob, /no output/, fee(10_000), signed);
  assert.equal(after(bob, fee(9_000), signed).state.ended, null);
  // Ours has one, by a lower dust limit than the peer's.
  const limits = { alice: { ...WORLD.limits.alice, dustLimit: sat(1_000) }, bob: WORLD.limits.bob };
  failsWith(machineOf(idle({ ...small, limits }), "bob"), /no output/, fee(9_400), signed);
});

Deno.test("item 20: a rate out of bounds may come nearer to them (attack 18: never further)", () => {
  const sim = idle();
  const { bob } = sim.nodes;
  bob.inbox.push({ type: "node", ...NODE, minFeerate: 2000 as typeof NODE.minFeerate });
  sim.quiesce();
  const state = machineOf(sim, "bob");
  assert.equal(after(state, fee(1500)).state.ended, null);
  failsWith(state, /999 is below 2000/, fee(999));
});

Deno.test("as the opener we follow the node's rate: a change worth a round, and only what we can pay", () => {
  const sim = idle();
  const { alice, bob } = sim.nodes;
  const aim = (rate: number) => {
    alice.inbox.push({ type: "node", ...NODE, feerate: rate as typeof NODE.feerate });
    sim.quiesce();
    return [machineOf(sim, "alice").channel.commitments.active[0]?.local.feerate, bob.failed];
  };
  assert.deepEqual(aim(1099), [1000, null]);
  assert.deepEqual(aim(1100), [1100, null]);
  assert.deepEqual(aim(100), [253, null]);
  sim.checkRest();
  const poor = idle({ balances: { alice: 110_000_000n, bob: 9_890_000_000n } });
  poor.nodes.alice.inbox.push({ type: "node", ...NODE, feerate: 40_000 as typeof NODE.feerate });
  poor.quiesce();
  assert.equal(machineOf(poor, "alice").channel.commitments.active[0]?.local.feerate, 1000);
});

Deno.test("what can be sent and received is told from the same rules that offers are checked by", () => {
  const sim = idle({
    limits: {
      alice: { ...WORLD.limits.alice, maxHtlcValueInFlight: msat(3_000_000) },
      bob: WORLD.limits.bob,
    },
  });
  const { level } = machineOf(sim, "alice");
  assert.equal(level?.receivable, 3_000_000n);
  assert.equal(level?.spendable, 600_000_000n);
  assert.equal(level?.toUs, 5_000_000_000n);
  assert.equal(level?.paused, "");
  assert.equal(machineOf(sim, "bob").level?.spendable, 3_000_000n);
});

Deno.test("rows that name an HTLC which is not there are not gone on with", () => {
  const sim = idle();
  committed(sim, "alice");
  const { rows } = sim.nodes.alice;
  assert.throws(
    () =>
      fromRows({
        channel: rows,
        htlcs: [],
        forms: { anysegwit: true, simpleClose: false },
        policy: { maxDustExposure: msat(1) },
        onChain: { type: "confirmed" },
      }),
    /has no row/,
  );
});
