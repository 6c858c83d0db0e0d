import assert from "node:assert/strict";
import fc from "fast-check";
import { feerate, msat, sat } from "bolt/units.ts";
import { type Name, preimageOf, Simulator, WORLD, type World } from "./testing/simulator.ts";

type Op =
  | { readonly type: "turn"; readonly who: Name; readonly count: number }
  | { readonly type: "offer"; readonly who: Name; readonly amount: bigint; readonly hash: number }
  | { readonly type: "settle"; readonly who: Name; readonly pick: number; readonly good: boolean }
  | { readonly type: "fee"; readonly rate: number }
  | { readonly type: "cut" }
  | { readonly type: "connect"; readonly turns: number }
  | { readonly type: "crash"; readonly who: Name }
  | { readonly type: "fuse"; readonly who: Name; readonly left: number };

const arbName = fc.constantFrom<Name>("alice", "bob");
/** Some are dust on one side only, some on both, some larger than anything that can be sent. */
const arbAmount = fc.oneof(
  fc.bigInt(1n, 400_000n),
  fc.bigInt(1n, 400_000n),
  fc.bigInt(300_000n, 700_000n),
  fc.bigInt(1n, 5_000_000n),
  fc.bigInt(300_000n, 700_000n),
  fc.bigInt(1n, 300_000_000n),
  fc.bigInt(1n, 5_000_000n),
  fc.bigInt(0n, 6_000_000_000n),
);
const arbOp: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 40,
    arbitrary: fc.record({
      type: fc.constant("turn" as const),
      who: arbName,
      count: fc.constantFrom(0, 1, 1, 2, 3, 12),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({
      type: fc.constant("offer" as const),
      who: arbName,
      amount: arbAmount,
      hash: fc.nat(5),
    }),
  },
  {
    weight: 14,
    arbitrary: fc.record({
      type: fc.constant("settle" as const),
      who: arbName,
      pick: fc.nat(30),
      good: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ type: fc.constant("fee" as const), rate: fc.integer({ min: 253, max: 20_000 }) }),
  },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("cut" as const) }) },
  { weight: 8, arbitrary: fc.record({ type: fc.constant("connect" as const), turns: fc.nat(6) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("crash" as const), who: arbName }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("fuse" as const), who: arbName, left: fc.nat(12) }) },
);

const arbWorld: fc.Arbitrary<World> = fc.record({
  opener: arbName,
  alice: fc.constantFrom(0n, 1_000_000n, 50_000_000n, 5_000_000_000n, 9_999_000_000n),
  accepted: fc.constantFrom(2, 5, 30),
  inFlight: fc.constantFrom(20_000_000n, 600_000_000n),
  dustA: fc.constantFrom(354n, 546n, 1000n),
  dustB: fc.constantFrom(354n, 546n, 1000n),
  exposure: fc.constantFrom(1_000_000n, 5_000_000_000n),
}).map(({ opener, alice, accepted, inFlight, dustA, dustB, exposure }) => {
  const total = 10_000_000_000n;
  // The opener has at least what it must pay for.
  const least = 10_000_000n;
  const bounded = opener === "alice"
    ? (alice < least ? least : alice)
    : (total - alice < least ? total - least : alice);
  const limits = (dust: bigint) => ({
    dustLimit: sat(dust),
    maxHtlcValueInFlight: msat(inFlight),
    htlcMinimum: msat(1),
    maxAcceptedHtlcs: accepted,
  });
  return {
    ...WORLD,
    opener,
    balances: { alice: bounded, bob: total - bounded },
    limits: { alice: limits(dustA), bob: limits(dustB) },
    maxDustExposure: exposure,
  };
});

function apply(sim: Simulator, op: Op): void {
  switch (op.type) {
    case "turn":
      // Mostly hsmd answers before anything else happens.
      sim.turn(op.who, op.count);
      if (op.count % 4 !== 0) sim.turn(op.who, 0);
      return;
    case "offer":
      sim.offer(op.who, op.amount, op.hash);
      return;
    case "settle":
      return settleOne(sim, op.who, op.pick, op.good);
    case "fee":
      for (const node of Object.values(sim.nodes)) {
        node.node = { ...node.node, feerate: feerate(op.rate) };
        node.inbox.push({ type: "node", ...node.node });
      }
      return;
    case "cut":
      return sim.cut();
    case "connect":
      sim.connect();
      for (let i = 0; i < op.turns; i++) sim.turn(i % 2 === 0 ? "alice" : "bob", 12);
      return;
    case "crash":
      return sim.nodes[op.who].crash();
    case "fuse":
      sim.nodes[op.who].fuse = op.left;
      return;
  }
}

function settleOne(sim: Simulator, who: Name, pick: number, good: boolean): void {
  const node = sim.nodes[who];
  const open = [...node.incoming.values()].filter(({ id }) => !node.decisions.has(id));
  const htlc = open[pick % Math.max(1, open.length)];
  if (htlc === undefined) return;
  const known = [0, 1, 2, 3, 4, 5].map(preimageOf).find(({ hash }) =>
    hash.every((b, i) => b === htlc.paymentHash[i])
  );
  sim.settle(who, htlc.id, good && known !== undefined ? known.preimage : null);
}

function rest(sim: Simulator): void {
  for (const node of Object.values(sim.nodes)) node.fuse = null;
  sim.connect();
  sim.quiesce();
  sim.connect();
  sim.quiesce();
}

/** Thousands, when somebody asks for them. */
const RUNS = Number(Deno.env.get("CHANNEL_RUNS") ?? 100);
const arbOps = fc.array(arbOp, { minLength: 1, maxLength: 200, size: "max" });

function start(world: World, seed: number): Simulator {
  const sim = new Simulator(world, seed);
  sim.checkPurity = seed % 8 === 0;
  sim.connect();
  sim.quiesce();
  return sim;
}

function settleAll(sim: Simulator): void {
  for (const who of ["alice", "bob"] as const) {
    for (let i = 0; i < 40; i++) settleOne(sim, who, i, i % 2 === 0);
  }
  rest(sim);
}

Deno.test("two machines through a disconnecting, crashing pipe always end agreeing", () => {
  const seen: Record<string, number> = {};
  const count = (what: string, by = 1) => void (seen[what] = (seen[what] ?? 0) + by);
  fc.assert(
    fc.property(arbWorld, fc.nat(), arbOps, (world, seed, ops) => {
      const sim = start(world, seed);
      for (const op of ops) apply(sim, op);
      rest(sim);
      sim.checkRest();
      settleAll(sim);
      sim.checkRest();
      for (const node of Object.values(sim.nodes)) {
        assert.equal(node.machine?.htlcs.size, 0, "everything was settled");
        count("crashes", node.crashes);
        for (const { state } of node.parts.values()) count(state);
      }
      for (const why of sim.refusals) count(why);
      for (const line of sim.said) count(line);
    }),
    { numRuns: RUNS },
  );
  // What never happened was not tested.
  for (
    const what of [
      "crashes",
      "fulfilled",
      "failed",
      "the peer is not connected",
      "amount exceeds the balance above the reserve and the fee",
      "max_htlc_value_in_flight_msat is reached",
      "again: revoke_and_ack",
      "again: commitment_signed",
      "again: both",
      "update_fee",
    ]
  ) assert(seen[what] !== undefined, `no run had: ${what}`);
  if (Deno.env.has("CHANNEL_RUNS")) console.log(seen);
});

Deno.test("a shutdown in the middle of everything ends clean on both sides", () => {
  fc.assert(
    fc.property(arbWorld, fc.nat(), arbOps, arbOps, arbName, (world, seed, before, after, who) => {
      const sim = start(world, seed);
      for (const op of before.slice(0, 80)) apply(sim, op);
      sim.nodes[who].wantsShutdown = true;
      sim.nodes[who].inbox.push({ type: "start_shutdown" });
      for (const op of after.slice(0, 80)) apply(sim, op);
      rest(sim);
      sim.checkRest();
      settleAll(sim);
      settleAll(sim);
      sim.checkRest();
      for (const node of Object.values(sim.nodes)) {
        assert.equal(node.rows.state, "CLOSINGD_SIGEXCHANGE");
        assert(node.completed);
        assert.equal(node.machine?.htlcs.size, 0);
        assert.deepEqual([...node.htlcRows.values()], [], "no row of an HTLC is left");
        assert.equal(node.rows.commitments.active[0]?.pendingLocal, null, "the rows hold what is verified");
      }
    }),
    { numRuns: Math.ceil(RUNS / 3) },
  );
});
