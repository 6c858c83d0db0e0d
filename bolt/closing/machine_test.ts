import assert from "node:assert/strict";
import fc from "fast-check";
import { fundingScript, p2wpkh } from "bolt/tx/scripts.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import type { ClosingSigned, Message } from "bolt/wire/messages.ts";
import { ecc } from "bolt/crypto/ecc.ts";
import { MAX_ROUNDS } from "./legacy.ts";
import { closingTx, closingWeight, offeredVariant } from "./tx.ts";
import {
  assertValidClose,
  type Name,
  NAMES,
  paidTo,
  pointOf,
  rates,
  secretOf,
  txidsOf,
  World,
} from "./testing/simulator.ts";

/** Both hold the same close, and nothing failed. */
function assertClosed(world: World): void {
  const { alice, bob } = world.nodes;
  for (const node of [alice, bob]) {
    assert.equal(node.rows.errorText, null, `${node.name}: ${node.log.join("; ")}`);
    assert(node.signed.length > 0, `${node.name} has no close: ${node.log.join("; ")}`);
    for (const close of node.signed) assertValidClose(node.rows, close);
  }
  assert.equal(txidsOf(alice).at(-1), txidsOf(bob).at(-1));
}

/** What bob says as a closing_signed at a fee, signed for the transaction that an honest node would make. */
function closingSigned(world: World, from: Name, fee: bigint, range?: [bigint, bigint]): ClosingSigned {
  const { rows } = world.nodes[from];
  const tx = closingTx(rows, sat(fee), offeredVariant(rows, "local", sat(fee)))!;
  return {
    type: "closing_signed",
    channel_id: rows.channelId,
    fee_satoshis: fee,
    signature: ecc().signEcdsa(tx.sighash, secretOf(`funding ${from}`)),
    ...(range === undefined ? {} : { fee_range: { min_fee_satoshis: range[0], max_fee_satoshis: range[1] } }),
  };
}

/** alice (or bob) alone, taken over; what the other one says is the test's. */
function alone(name: Name, options: ConstructorParameters<typeof World>[0] = {}): World {
  const world = new World(options);
  world.connected = true;
  const node = world.nodes[name];
  world.load(node);
  world.feed(name, { type: "taken_over", plan: node.machine!.plan, lost: false });
  return world;
}

function lastFee(world: World, name: Name): bigint | undefined {
  return world.nodes[name].machine?.negotiation.sent?.fee;
}

Deno.test("closing: the funder speaks first, one answer, one transaction (BOLT 2, closing_signed)", () => {
  const world = new World();
  world.takeOver();
  world.settle();
  assertClosed(world);
  const { alice, bob } = world.nodes;
  assert.deepEqual(alice.sent, ["closing_signed"]);
  assert.deepEqual(bob.sent, ["closing_signed"]);
  const tx = assertValidClose(alice.rows, alice.signed[0]!);
  assert.equal(tx.locktime, 0);
  assert.equal(tx.ins[0]!.sequence, 0xffff_ffff);
  const fee = alice.signed[0]!.fee;
  assert.equal(fee, BigInt(Math.ceil(closingWeight(alice.rows) * 1000 / 1000)));
  assert.equal(paidTo(tx, alice.rows.shutdownSent), 600_000n - fee);
  assert.equal(paidTo(tx, bob.rows.shutdownSent), 400_000n);
});

Deno.test("closing: the accepter's fee lies in both ranges, and the funder repeats it", () => {
  const world = new World({ rates: { alice: rates(300, 500, 4000), bob: rates(1000, 2000, 2000) } });
  world.takeOver();
  world.settle();
  assertClosed(world);
  assert.deepEqual(world.nodes.alice.sent, ["closing_signed", "closing_signed"]);
});

Deno.test("closing: ranges without anything in common are a warning, and the next connection tries again", () => {
  const world = new World({ rates: { alice: rates(253, 300, 400), bob: rates(1000, 2000, 2000) } });
  world.takeOver();
  world.settle();
  const { alice, bob } = world.nodes;
  assert.equal(bob.signed.length + alice.signed.length, 0);
  assert(bob.log.includes("fee_range has nothing in common with ours"));
  assert.equal(bob.rows.errorText, null);
  alice.rates = rates(253, 1200, 2000);
  world.connect();
  world.settle();
  assertClosed(world);
});

Deno.test("closing: fees that BOLT 2 forbids fail the channel", () => {
  const cases: readonly [string, (world: World) => Message, Name, RegExp][] = [
    ["above both ranges", (w) => closingSigned(w, "bob", 9_000n, [1n, 10_000n]), "alice", /not in both/],
    [
      "more than the payer has",
      (w) => ({ ...closingSigned(w, "bob", 700n), fee_satoshis: 600_001n }),
      "alice",
      /more than/,
    ],
    [
      "2^64 - 1",
      (w) => ({ ...closingSigned(w, "bob", 700n), fee_satoshis: 2n ** 64n - 1n }),
      "alice",
      /more than/,
    ],
    [
      "a signature of nothing",
      (w) => ({ ...closingSigned(w, "bob", 700n), signature: new Uint8Array(64).fill(1) }),
      "alice",
      /signature/,
    ],
    [
      "a signature for another fee",
      (w) => ({ ...closingSigned(w, "bob", 700n), fee_satoshis: 701n }),
      "alice",
      /signature/,
    ],
    [
      "a high s",
      (w) => {
        const message = closingSigned(w, "bob", 700n);
        const n = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
        const s = BigInt(`0x${message.signature.slice(32).toHex()}`);
        const high = (n - s).toString(16).padStart(64, "0");
        return { ...message, signature: Uint8Array.fromHex(message.signature.slice(0, 32).toHex() + high) };
      },
      "alice",
      /signature/,
    ],
  ];
  for (const [name, message, to, expected] of cases) {
    const world = alone(to);
    world.feed(to, { type: "message", message: message(world) });
    assert.match(world.nodes[to].rows.errorText ?? "", expected, name);
    assert.equal(world.nodes[to].signed.length, 0);
  }
});

Deno.test("closing: a funder that changes its fee after our answer fails", () => {
  const world = alone("bob", { rates: { alice: rates(253, 1000, 4000), bob: rates(1000, 2000, 2000) } });
  world.feed("bob", { type: "message", message: closingSigned(world, "alice", 300n, [300n, 4000n]) });
  assert.notEqual(lastFee(world, "bob"), undefined);
  world.feed("bob", { type: "message", message: closingSigned(world, "alice", 310n, [300n, 4000n]) });
  assert.match(world.nodes.bob.rows.errorText ?? "", /not what we proposed/);
});

Deno.test("closing: without ranges the fees meet step by step", () => {
  // alice's peer speaks no fee_range and moves a little each time.
  const world = alone("alice", { rates: { alice: rates(600, 3000, 3000), bob: rates(1, 1, 1) } });
  let theirs = 100n;
  let last: bigint | undefined;
  let offers = 0;
  for (let round = 0; round < 40 && world.nodes.alice.machine !== null; round++) {
    const ours = lastFee(world, "alice")!;
    if (last !== undefined) assert(ours < last, "our offers go down");
    last = ours;
    offers++;
    theirs += 130n;
    world.feed("alice", { type: "message", message: closingSigned(world, "bob", theirs) });
  }
  assert(offers > 2, `${offers} offers`);
  assert.equal(world.nodes.alice.signed.length, 1);
  assertValidClose(world.nodes.alice.rows, world.nodes.alice.signed[0]!);
});

Deno.test("closing: a fee that is not strictly between the last two is a warning", () => {
  const world = alone("alice", { rates: { alice: rates(900, 1000, 1000), bob: rates(1, 1, 1) } });
  world.feed("alice", { type: "message", message: closingSigned(world, "bob", 200n) });
  world.feed("alice", { type: "message", message: closingSigned(world, "bob", 150n) });
  assert(world.nodes.alice.log.includes("fee_satoshis is not between the last two fees"));
  assert.equal(world.nodes.alice.rows.errorText, null);
});

Deno.test("closing: rounds without a range are bounded (attack 13)", () => {
  const world = alone("alice", {
    toAlice: 2_000_000_000_000n,
    rates: { alice: rates(900_000, 1_000_000, 1_000_000), bob: rates(1, 1, 1) },
  });
  let rounds = 0;
  for (let fee = 1n; world.nodes.alice.machine !== null && world.connected; fee++) {
    world.feed("alice", { type: "message", message: closingSigned(world, "bob", fee) });
    rounds++;
  }
  assert(rounds <= MAX_ROUNDS + 1, `${rounds} rounds`);
  assert(
    /no agreement/.test(world.nodes.alice.rows.errorText ?? "") ||
      world.nodes.alice.log.some((line) => line.startsWith("no closing fee is left")),
  );
});

Deno.test("closing: dust of either side is left out, and both ways of leaving it out are accepted", () => {
  // bob's 500 sat are dust for alice (546), not for bob (354).
  for (const includes of [true, false]) {
    const world = alone("alice", { toBob: 500_000n, dust: { alice: 546n, bob: 354n } });
    const { rows } = world.nodes.alice;
    const fee = sat(lastFee(world, "alice")!);
    const tx = closingTx(rows, fee, { local: true, remote: includes })!;
    world.feed("alice", {
      type: "message",
      message: {
        type: "closing_signed",
        channel_id: rows.channelId,
        fee_satoshis: fee,
        signature: ecc().signEcdsa(tx.sighash, secretOf("funding bob")),
      },
    });
    assert.equal(world.nodes.alice.signed.length, 1);
    const close = assertValidClose(rows, world.nodes.alice.signed[0]!);
    assert.equal(close.outs.length, includes ? 2 : 1);
  }
});

Deno.test("closing: an output below the dust limit of its script fails the channel", () => {
  const world = alone("alice", { toBob: 200_000n, dust: { alice: 546n, bob: 1n } });
  const { rows } = world.nodes.alice;
  const fee = sat(lastFee(world, "alice")!);
  const tx = closingTx(rows, fee, { local: true, remote: true })!;
  const signature = ecc().signEcdsa(tx.sighash, secretOf("funding bob"));
  const message: ClosingSigned = {
    type: "closing_signed",
    channel_id: rows.channelId,
    fee_satoshis: fee,
    signature,
  };
  world.feed("alice", { type: "message", message });
  assert.match(world.nodes.alice.rows.errorText ?? "", /dust/);
});

Deno.test("closing: a lost revoke_and_ack comes again before shutdown", () => {
  const world = new World();
  const { bob } = world.nodes;
  // bob's last revocation never reached alice: she is one behind.
  world.nodes.alice.rows = {
    ...world.nodes.alice.rows,
    remoteNumber: 6n,
    lastRemoteSecret: secretOf("bob 5"),
  };
  world.connect();
  world.deliver("bob");
  assert.deepEqual(bob.sent, ["channel_reestablish", "revoke_and_ack", "shutdown"]);
});

Deno.test("closing: a peer that proves that we are stale makes us wait for its commitment, a liar does not", () => {
  for (const honest of [true, false]) {
    const world = new World();
    const { alice } = world.nodes;
    world.connect();
    world.pipe.alice.length = 0;
    world.feed("alice", {
      type: "message",
      message: {
        type: "channel_reestablish",
        channel_id: alice.rows.channelId,
        next_commitment_number: 20n,
        next_revocation_number: 19n,
        your_last_per_commitment_secret: honest ? secretOf("alice 18") : secretOf("a lie"),
        my_current_per_commitment_point: pointOf("bob 19"),
      },
    });
    assert.match(alice.rows.errorText ?? "", honest ? /is old/ : /not ours/);
  }
});

Deno.test("closing: strange words before, in and after the negotiation never throw and never close wrongly", () => {
  const { channelId } = new World().nodes.alice.rows;
  const words: Message[] = [
    { type: "warning", channel_id: channelId, data: new Uint8Array() },
    { type: "tx_abort", channel_id: channelId, data: new Uint8Array() },
    { type: "update_fee", channel_id: channelId, feerate_per_kw: 1 },
    { type: "shutdown", channel_id: channelId, scriptpubkey: p2wpkh(pointOf("elsewhere")) },
    { type: "shutdown", channel_id: channelId, scriptpubkey: new Uint8Array(3) },
    { type: "channel_ready", channel_id: channelId, second_per_commitment_point: pointOf("x") },
  ];
  for (const message of words) {
    for (const taken of [true, false]) {
      const world = new World();
      if (taken) world.takeOver();
      else world.connect();
      world.feed("alice", { type: "message", message });
      world.settle();
      for (let i = 0; i < 3 && world.nodes.alice.signed.length === 0; i++) {
        world.disconnect();
        world.connect();
        world.settle();
      }
      assertClosed(world);
    }
  }
});

Deno.test("closing: tx_abort is echoed, the echo of ours is not: two nodes would never stop", () => {
  const world = alone("alice");
  const { sent, rows } = world.nodes.alice;
  const aborts = () => sent.filter((type) => type === "tx_abort").length;
  const said: Message = { type: "tx_abort", channel_id: rows.channelId, data: new Uint8Array() };
  world.feed("alice", { type: "message", message: said });
  assert.equal(aborts(), 1);
  world.feed("alice", { type: "message", message: said });
  assert.equal(aborts(), 1);
});

Deno.test("test_you_forgot_closed_channel: who lost the last word is answered with the same close", () => {
  const world = new World();
  world.takeOver();
  const { alice, bob } = world.nodes;
  world.deliver("bob");
  assert.equal(bob.signed.length, 1);
  world.disconnect();
  assert.equal(alice.signed.length, 0);
  // Fee rates moved meanwhile: bob still answers with the one that is signed.
  bob.rates = rates(253, 3000, 4000);
  alice.rates = rates(253, 900, 4000);
  world.connect();
  world.settle();
  assertClosed(world);
  assert.deepEqual(txidsOf(alice), txidsOf(bob).slice(-1));
  assert.equal(new Set(txidsOf(bob)).size, 1);
});

Deno.test("property: through a disconnecting, crashing pipe both end with the same valid close", () => {
  const balance = fc.bigInt({ min: 30_000_000n, max: 2_000_000_000n });
  const rate = fc.record({
    min: fc.integer({ min: 253, max: 900 }),
    ideal: fc.integer({ min: 253, max: 5000 }),
  });
  const event = fc.oneof(
    {
      weight: 8,
      arbitrary: fc.constantFrom<Name>("alice", "bob").map((name) => ({ type: "deliver", name }) as const),
    },
    { weight: 1, arbitrary: fc.constant({ type: "disconnect" } as const) },
    { weight: 3, arbitrary: fc.constant({ type: "connect" } as const) },
    {
      weight: 2,
      arbitrary: fc.record({
        type: fc.constant("crash" as const),
        name: fc.constantFrom<Name>("alice", "bob"),
        actions: fc.nat(4),
      }),
    },
  );
  fc.assert(
    fc.property(
      balance,
      fc.oneof(balance, fc.bigInt({ min: 0n, max: 1_000_000n })),
      rate,
      rate,
      fc.boolean(),
      fc.array(event, { maxLength: 40 }),
      (toAlice, toBob, a, b, taken, events) => {
        const world = new World({
          toAlice: msat(toAlice),
          toBob: msat(toBob),
          rates: { alice: rates(a.min, a.ideal, 5000), bob: rates(b.min, b.ideal, 5000) },
        });
        if (taken) world.takeOver();
        for (const each of events) {
          switch (each.type) {
            case "deliver":
              world.deliver(each.name);
              break;
            case "disconnect":
              world.disconnect();
              break;
            case "connect":
              world.connect();
              break;
            case "crash":
              world.crashIn = { name: each.name, actions: each.actions };
              break;
          }
        }
        world.crashIn = undefined;
        for (let i = 0; i < 4; i++) {
          world.settle();
          if (NAMES.every((name) => world.nodes[name].signed.length > 0)) break;
          world.disconnect();
          world.connect();
        }
        assertClosed(world);
        const total = world.nodes.alice.rows.capacity;
        const close = assertValidClose(world.nodes.alice.rows, world.nodes.alice.signed.at(-1)!);
        const out = close.outs.reduce((sum, { value }) => sum + value, 0n);
        assert(out <= total && total - out <= 5000n * 2n, `${total - out} sat of fee`);
      },
    ),
    { numRuns: 300 },
  );
});

Deno.test("closing: the expected weight is not below the real one", () => {
  const world = new World();
  world.takeOver();
  world.settle();
  const { rows, signed } = world.nodes.alice;
  const real = assertValidClose(rows, signed[0]!).weight();
  assert(
    closingWeight(rows) >= real && closingWeight(rows) - real <= 4,
    `${closingWeight(rows)} for ${real}`,
  );
  assert.equal(fundingScript(rows.fundingPubkeys.local, rows.fundingPubkeys.remote).length, 71);
  assert.equal(feerate(253), 253);
});
