import assert from "node:assert/strict";
import { preimageOf, Simulator, WORLD } from "./testing/simulator.ts";

Deno.test("a payment: offered, committed, settled, gone", () => {
  const sim = new Simulator(WORLD, 1);
  sim.checkPurity = true;
  sim.connect();
  sim.quiesce();
  const origin = sim.offer("alice", 1_000_000n, 1);
  sim.quiesce();
  const { alice, bob } = sim.nodes;
  assert.equal(alice.parts.get(origin)?.state, "offered");
  const [htlc] = bob.incoming.values();
  assert(htlc !== undefined);
  sim.settle("bob", htlc.id, preimageOf(1).preimage);
  sim.quiesce();
  assert.equal(alice.parts.get(origin)?.state, "fulfilled");
  assert.equal(bob.incoming.size, 0);
  sim.checkRest();
  assert.equal(alice.rows.commitments.active[0]?.local.toLocal, 4_999_000_000n);
});
