import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import fc from "fast-check";
import type { Message, MessageType } from "bolt/wire/messages.ts";
import { feerate, height, sat } from "bolt/units.ts";
import { commitmentsOf } from "./testing/pure_hsm.ts";
import { type Name, World } from "./testing/simulator.ts";
import type { Attempt, SavedChannel } from "./types.ts";

const NAMES = ["alice", "bob"] as const;
/** Whatever depth the policies ask for. */
const ENOUGH_BLOCKS = 10;

function txids(rows: SavedChannel | null): string[] {
  return (rows?.attempts ?? []).filter((a) => !a.aborted).map((a) => bytesToHex(a.tx.txid));
}

/** Both have the same channel: same attempts, complete, mirrored amounts and commitments. */
function assertAgree(world: World): void {
  const [a, b] = [world.nodes.alice.rows, world.nodes.bob.rows];
  assert(a !== null && b !== null);
  assert.deepEqual(txids(a), txids(b));
  for (const attempt of a.attempts.filter((x) => !x.aborted)) {
    const mirrored: Attempt = b.attempts.find((x) => bytesToHex(x.tx.txid) === bytesToHex(attempt.tx.txid))!;
    assert.equal(attempt.tx.contributions.local, mirrored.tx.contributions.remote);
    assert.equal(attempt.tx.contributions.remote, mirrored.tx.contributions.local);
    assert.equal(
      bytesToHex(commitmentsOf(a, attempt).local.txid),
      bytesToHex(commitmentsOf(b, mirrored).remote.txid),
    );
    assert.equal(
      bytesToHex(commitmentsOf(a, attempt).remote.txid),
      bytesToHex(commitmentsOf(b, mirrored).local.txid),
    );
  }
}

function assertNormal(world: World, txid: string): void {
  for (const name of NAMES) {
    const rows = world.nodes[name].rows!;
    assert.equal(rows.state, "CHANNELD_NORMAL", `${name} after mining`);
    const locked = rows.attempts.find((x) => x.seq === rows.lockedAttempt)!;
    assert.equal(bytesToHex(locked.tx.txid), txid);
  }
}

/** Heals every fault: reconnects until both are silent and connected. */
function heal(world: World): void {
  world.crashIn = undefined;
  world.onSend = () => "pass";
  world.settle();
  world.disconnect();
  for (let i = 0; i < 3; i++) {
    world.connect();
    world.settle();
    if (world.connected) return;
  }
}

Deno.test("both fund, one is mined, both reach CHANNELD_NORMAL", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  assertAgree(world);
  const [txid] = txids(world.nodes.alice.rows);
  assert.equal(world.mempool.size, 1);
  assert.equal(world.nodes.bob.rows!.state, "DUALOPEND_AWAITING_LOCKIN");
  world.mine(txid!);
  world.settle();
  assertNormal(world, txid!);
});

Deno.test("hsmd refuses a stored lock for good: the channel fails, and says so instead of channel_ready", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  world.lockRefusal = "CONTENT_CONFLICT";
  const said: string[] = [];
  world.onSend = (from, { type }) => {
    if (from === "alice") said.push(type);
    return "pass";
  };
  world.mine(txids(world.nodes.alice.rows)[0]!);
  world.settle();
  assert.match(world.nodes.alice.rows!.errorText ?? "", /refuses to lock .*CONTENT_CONFLICT/);
  assert.match(world.nodes.bob.rows!.errorText ?? "", /peer sent error/);
  assert.deepEqual(said, ["error"]);
});

Deno.test("a block that comes between both channel_reestablish locks, and the channel is handed over after the second", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  const [txid] = txids(world.nodes.alice.rows);
  world.mined = { txid: txid!, height: world.height };
  world.height = height(world.height + ENOUGH_BLOCKS);
  const look = (name: Name) => {
    world.feed(name, { type: "chain", facts: world.facts(world.nodes[name]) });
  };
  look("alice");
  world.settle();
  assert.ok(world.nodes.bob.rows!.remoteReady !== null && world.nodes.bob.rows!.lockedAttempt === null);
  world.disconnect();
  world.connect();
  look("bob");
  const { lockedAttempt, state } = world.nodes.bob.rows!;
  assert.deepEqual([lockedAttempt, state], [0, "DUALOPEND_AWAITING_LOCKIN"]);
  world.settle();
  assertNormal(world, txid!);
});

Deno.test("an accepter that brings nothing signs first and gets its channel", () => {
  const world = new World({ alice: 120_000, bob: 0 });
  world.open();
  world.settle();
  assertAgree(world);
  const order = (name: Name) => world.nodes[name].sent.filter((type) => type === "tx_signatures").length;
  assert.equal(order("alice"), 1);
  assert.equal(order("bob"), 1);
});

Deno.test("two replacements with changed contributions; the first attempt is mined while one side is away", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open(1000);
  world.settle();
  world.nodes.alice.contribution = sat(100_000);
  world.bump("alice", 1500);
  world.settle();
  world.nodes.bob.contribution = sat(70_000);
  world.bump("bob", 2000);
  world.settle();
  assertAgree(world);
  assert.equal(world.nodes.alice.rows!.attempts.length, 3);
  assert.deepEqual(world.nodes.alice.rows!.attempts.map((a) => a.tx.contributions.local), [
    120_000n,
    100_000n,
    100_000n,
  ]);
  assert.deepEqual(world.nodes.alice.rows!.attempts.map((a) => a.tx.contributions.remote), [
    60_000n,
    60_000n,
    70_000n,
  ]);
  const [first] = txids(world.nodes.alice.rows);
  world.crash("bob");
  world.mine(first!);
  world.connect();
  world.settle();
  assertNormal(world, first!);
  for (const name of NAMES) assert.equal(world.nodes[name].rows!.lockedAttempt, 0);
});

Deno.test("an early channel_ready of the peer locks nothing and ends replacing", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  world.feed("alice", {
    type: "message",
    message: {
      type: "channel_ready",
      channel_id: world.nodes.alice.rows!.channelId,
      second_per_commitment_point: world.nodes.bob.hsm.keys.secondPerCommitmentPoint,
    },
    entropy: world.entropy(),
  });
  assert.equal(world.nodes.alice.rows!.lockedAttempt, null);
  assert.equal(world.nodes.alice.rows!.state, "DUALOPEND_AWAITING_LOCKIN");
  world.bump("alice", 2000);
  assert.deepEqual(world.nodes.alice.outcomes.at(-1), {
    type: "failed",
    detail: "channel_ready was exchanged",
    byPeer: false,
  });
  world.bump("bob", 2000);
  world.settle();
  assert.equal(world.nodes.bob.rows!.attempts.length, 1);
});

Deno.test("crossing tx_init_rbf: both get tx_abort, the attempt and the channel stay", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  world.bump("alice", 1500);
  world.bump("bob", 1500);
  world.settle();
  for (const name of NAMES) {
    assert.equal(world.nodes[name].rows!.attempts.length, 1);
    assert.equal(world.nodes[name].state!.negotiation, null);
    assert.equal(world.nodes[name].state!.awaitingAbortEcho, false);
    assert(world.nodes[name].sent.includes("tx_abort"));
  }
  world.bump("alice", 1500);
  world.settle();
  assertAgree(world);
  assert.equal(world.nodes.bob.rows!.attempts.length, 2);
});

Deno.test("a replacement half negotiated when an attempt confirms is aborted, and the channel locks", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  const [txid] = txids(world.nodes.alice.rows);
  world.bump("alice", 1500);
  for (let i = 0; i < 3; i++) {
    world.deliver("bob");
    world.deliver("alice");
  }
  world.mine(txid!);
  world.settle();
  assertNormal(world, txid!);
});

Deno.test("tx_abort after our tx_signatures is echoed and forgets nothing", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  const before = world.nodes.alice.rows;
  world.feed("alice", {
    type: "message",
    message: { type: "tx_abort", channel_id: before!.channelId, data: new Uint8Array(0) },
    entropy: world.entropy(),
  });
  assert.equal(world.nodes.alice.sent.at(-1), "tx_abort");
  assert.deepEqual(world.nodes.alice.rows, before);
});

Deno.test("a bad first commitment_signed leaves nothing", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  for (let i = 0; i < 100 && world.nodes.alice.rows === null; i++) {
    world.deliver("bob") || world.deliver("alice");
  }
  const { channelId, attempts } = world.nodes.alice.rows!;
  world.feed("alice", {
    type: "message",
    message: {
      type: "commitment_signed",
      channel_id: channelId,
      signature: new Uint8Array(64).fill(1),
      htlc_signature: [],
      funding_txid: attempts[0]!.tx.txid,
    },
    entropy: world.entropy(),
  });
  assert.equal(world.nodes.alice.rows, null);
  world.settle();
  assert.equal(world.nodes.bob.rows, null);
  assert.equal(world.mempool.size, 0);
});

/** Every message of an open and of a replacement, in order, by who sends it. */
function script(): { readonly from: Name; readonly type: MessageType; readonly nth: number }[] {
  const world = new World({ alice: 120_000, bob: 60_000 });
  const said: { from: Name; type: MessageType; nth: number }[] = [];
  world.onSend = (from, { type }: Message) => {
    said.push({ from, type, nth: said.filter((s) => s.from === from && s.type === type).length });
    return "pass";
  };
  world.open(1000);
  world.settle();
  world.bump("alice", 1500);
  world.settle();
  return said;
}

Deno.test("disconnect before and after every message of an open and of a replacement", async (t) => {
  for (const { from, type, nth } of script()) {
    for (const where of ["cut_before", "cut_after"] as const) {
      await t.step(`${from} ${type} #${nth} ${where}`, () => {
        const world = new World({ alice: 120_000, bob: 60_000 });
        let seen = 0;
        let cut = false;
        world.onSend = (sender, message) => {
          if (cut || sender !== from || message.type !== type || seen++ !== nth) return "pass";
          cut = true;
          return where;
        };
        world.open(1000);
        world.settle();
        if (world.connected) {
          world.bump("alice", 1500);
          world.settle();
        }
        assert(cut, "the message was sent");
        heal(world);
        const { alice, bob } = world.nodes;
        if (alice.rows === null) {
          return void assert.equal(bob.rows, null, "forgotten by one, kept by the other");
        }
        assertAgree(world);
        assert(
          alice.rows.attempts.every((a) => a.aborted || a.completeTx !== null),
          "an attempt is left half signed",
        );
        const txid = txids(alice.rows).at(-1)!;
        world.mine(txid);
        world.settle();
        assertNormal(world, txid);
      });
    }
  }
});

/** A schedule: what happens next, drawn by number. */
const schedule = fc.array(fc.nat({ max: 99 }), { minLength: 20, maxLength: 120 });

Deno.test("two machines through a pipe that disconnects and nodes that crash: they agree, or neither has a channel", () => {
  fc.assert(
    fc.property(schedule, fc.nat({ max: 12 }), (steps, crashAfter) => {
      const world = new World({ alice: 120_000, bob: 60_000 });
      let rate = 1000;
      world.open(rate);
      for (const n of steps) {
        if (n < 40) world.deliver("alice");
        else if (n < 80) world.deliver("bob");
        else if (n < 84) world.disconnect();
        else if (n < 91) world.connect();
        else if (n < 93) world.crashIn = { name: "alice", actions: crashAfter };
        else if (n < 95) world.crashIn = { name: "bob", actions: crashAfter };
        else if (n < 98 && world.connected) world.bump(n < 97 ? "alice" : "bob", rate += 300);
        else if (n === 98) world.nodes.bob.contribution = sat(50_000 + n * 100);
      }
      heal(world);
      const { alice, bob } = world.nodes;
      if (alice.rows === null || bob.rows === null) {
        assert.equal(alice.rows, null);
        assert.equal(bob.rows, null);
        assert.equal(world.mempool.size, 0, "a funding transaction that nobody knows");
        return;
      }
      assertAgree(world);
      const live = txids(alice.rows);
      assert(alice.rows.attempts.filter((a) => !a.aborted).every((a) => a.completeTx !== null));
      const choice = live[steps[0]! % live.length]!;
      world.mine(choice);
      world.settle();
      heal(world);
      assertNormal(world, choice);
    }),
    { numRuns: Number(Deno.env.get("ARCUS_PROPERTY_RUNS") ?? 300) },
  );
});

Deno.test("a fee rate that rises too little is refused on both sides", () => {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open(1000);
  world.settle();
  world.bump("alice", feerate(1010));
  const outcome = world.nodes.alice.outcomes.at(-1);
  assert(outcome?.type === "failed" && outcome.detail.startsWith("feerate must be at least"));
});

Deno.test("require-confirmed-inputs: asked of the peer in both roles, and an unconfirmed input ends the attempt", () => {
  const demanding = () => {
    const world = new World({ alice: 120_000, bob: 60_000 });
    const { setup } = world.nodes.bob;
    Object.assign(setup, { policy: { ...setup.policy, requireConfirmedInputs: true } });
    const asked: string[] = [];
    world.onSend = (from, message) => {
      if ("require_confirmed_inputs" in message) asked.push(`${from} ${message.type}`);
      return "pass";
    };
    return { world, asked };
  };
  const { world, asked } = demanding();
  world.open(1000);
  world.settle();
  world.bump("alice", 1500);
  world.settle();
  world.bump("bob", 2000);
  world.settle();
  assertAgree(world);
  assert.equal(world.nodes.bob.rows!.attempts.length, 3);
  assert.deepEqual(asked, ["bob accept_channel2", "bob tx_ack_rbf", "bob tx_init_rbf"]);

  const unconfirmed = demanding().world;
  unconfirmed.confirmed = false;
  unconfirmed.open(1000);
  unconfirmed.settle();
  assert.equal(unconfirmed.nodes.alice.rows, null);
  assert.equal(unconfirmed.nodes.bob.rows, null);
  assert(unconfirmed.nodes.bob.sent.includes("tx_abort"));
});
