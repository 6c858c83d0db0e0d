import assert from "node:assert/strict";
import { signedSat } from "bolt/units.ts";
import { type Name, World } from "./testing/simulator.ts";

/** Delivers until a node has the first attempt in its rows. */
function untilSaved(world: World, name: Name): void {
  for (let i = 0; i < 100 && world.nodes[name].rows === null; i++) {
    world.deliver("bob") || world.deliver("alice");
  }
  assert.notEqual(world.nodes[name].rows, null);
}

function initRbf(world: World, to: Name): void {
  const { rows } = world.nodes[to];
  world.feed(to, {
    type: "message",
    message: {
      type: "tx_init_rbf",
      channel_id: rows!.channelId,
      locktime: 0,
      feerate: 5_000,
      funding_output_contribution: signedSat(100_000n),
    },
    entropy: world.entropy(),
  });
}

Deno.test("tx_init_rbf while the first attempt is not signed: tx_abort, which takes that attempt back here as it does there", () => {
  // bob brings nothing and signs first, so alice cannot have signed.
  const world = new World({ alice: 120_000, bob: 0 });
  world.open();
  untilSaved(world, "bob");
  assert.equal(world.nodes.bob.rows!.attempts[0]!.localTxSignatures, null);
  initRbf(world, "bob");
  assert.equal(world.nodes.bob.sent.at(-1), "tx_abort");
  assert.equal(world.nodes.bob.rows, null);
  world.settle();
  assert.equal(world.nodes.alice.rows, null, "the opener forgot it too");
});

Deno.test("tx_init_rbf after the last attempt is signed on our side only: tx_abort, and the attempt stays", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  // Whoever signs first has said tx_signatures and hears no answer.
  world.onSend = (from, { type }) =>
    type === "tx_signatures" && from === other(first) ? "cut_before" : "pass";
  const first: Name = signer(world);
  for (let i = 0; i < 100 && !world.nodes[first].sent.includes("tx_signatures"); i++) {
    world.deliver("bob") || world.deliver("alice");
  }
  const before = world.nodes[first].rows;
  assert.notEqual(before!.attempts[0]!.localTxSignatures, null);
  assert.equal(before!.attempts[0]!.completeTx, null);
  initRbf(world, first);
  assert.equal(world.nodes[first].sent.at(-1), "tx_abort");
  assert.deepEqual(world.nodes[first].rows, before);
});

function other(name: Name): Name {
  return name === "alice" ? "bob" : "alice";
}

/** Who sends tx_signatures first, found out in a world of its own. */
function signer(like: World): Name {
  const world = new World({
    alice: Number(like.nodes.alice.contribution),
    bob: Number(like.nodes.bob.contribution),
  });
  let found: Name | undefined;
  world.onSend = (from, { type }) => {
    if (type === "tx_signatures") found ??= from;
    return "pass";
  };
  world.open();
  world.settle();
  assert.ok(found);
  return found;
}
