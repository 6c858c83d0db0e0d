import assert from "node:assert/strict";
import fc from "fast-check";
import { p2wpkh } from "bolt/tx/scripts.ts";
import { msat } from "bolt/units.ts";
import type { Message } from "bolt/wire/messages.ts";
import { MAX_REMOTE_OFFERS } from "./simple.ts";
import {
  assertValidClose,
  type Name,
  NAMES,
  paidTo,
  pointOf,
  rates,
  txidsOf,
  World,
} from "./testing/simulator.ts";

const FORMS = { anysegwit: true, simpleClose: true };

/** Each has a close, and every one that is stored anywhere is good. */
function assertClosedSimply(world: World): void {
  for (const node of NAMES.map((name) => world.nodes[name])) {
    assert.equal(node.rows.errorText, null, `${node.name}: ${node.log.join("; ")}`);
    assert(node.signed.length > 0, `${node.name} has no close: ${node.log.join("; ")}`);
    for (const close of node.signed) {
      assert.equal(assertValidClose(node.rows, close).ins[0]!.sequence, 0xffff_fffd);
    }
  }
}

Deno.test("simple close: each pays for its own offer, and both hold both (BOLT 2, closing_complete)", () => {
  const world = new World({
    forms: FORMS,
    rates: { alice: rates(253, 1000, 4000), bob: rates(253, 2000, 4000) },
  });
  world.takeOver();
  world.settle();
  assertClosedSimply(world);
  const { alice, bob } = world.nodes;
  assert.deepEqual(alice.sent.toSorted(), ["closing_complete", "closing_sig"]);
  assert.deepEqual(txidsOf(alice).toSorted(), txidsOf(bob).toSorted());
  assert.equal(alice.signed.length, 2);
  for (const close of alice.signed) {
    const tx = assertValidClose(alice.rows, close);
    const [a, b] = [paidTo(tx, alice.rows.shutdownSent)!, paidTo(tx, bob.rows.shutdownSent)!];
    assert(
      (a === 600_000n - close.fee && b === 400_000n) || (a === 600_000n && b === 400_000n - close.fee),
    );
  }
  assert.equal(alice.machine, null);
});

Deno.test("simple close: who has less gives (2) or (3), who has not gives (1) and (3); dust is cut off", () => {
  const both = ["closer_and_closee_outputs", "closer_output_only"];
  const cases: readonly [toBob: bigint, alice: string[], bob: string[]][] = [
    [400_000_000n, both, ["closer_and_closee_outputs"]],
    // bob's output is dust, and cannot pay a fee.
    [200_000n, ["closer_output_only"], []],
    [600_000_500n, both, both],
  ];
  for (const [toBob, alice, bob] of cases) {
    const world = new World({ forms: FORMS, toBob });
    const seen: Record<Name, string[]> = { alice: [], bob: [] };
    world.onSend = (from, message) => {
      if (message.type === "closing_complete") {
        seen[from] = Object.keys(message).filter((key) => key.includes("_output"));
      }
      return message;
    };
    world.takeOver();
    world.settle();
    assertClosedSimply(world);
    assert.deepEqual(seen.alice.toSorted(), alice);
    assert.deepEqual(seen.bob.toSorted(), bob);
  }
});

Deno.test("simple close: what BOLT 2 forbids is refused", () => {
  const complete = (change: (m: Message & { type: "closing_complete" }) => Message) => (m: Message) =>
    m.type === "closing_complete" ? change(m) : m;
  const sig = (change: (m: Message & { type: "closing_sig" }) => Message) => (m: Message) =>
    m.type === "closing_sig" ? change(m) : m;
  const cases: readonly [(message: Message) => Message, RegExp][] = [
    [complete((m) => ({ ...m, fee_satoshis: 2n ** 64n - 1n })), /more than the closer has/],
    [complete((m) => ({ ...m, fee_satoshis: m.fee_satoshis + 1n })), /signature of closing_complete/],
    [complete((m) => ({ ...m, locktime: 5 })), /signature of closing_complete/],
    [complete((m) => ({ ...m, closee_scriptpubkey: p2wpkh(pointOf("x")) })), /closee_scriptpubkey/],
    [complete((m) => ({ ...m, closer_scriptpubkey: new Uint8Array(2) })), /accepted form/],
    [
      complete(({ closer_and_closee_outputs: _, ...rest }) => rest as Message),
      /lacks the signature/,
    ],
    [sig((m) => ({ ...m, fee_satoshis: m.fee_satoshis + 1n })), /not for our closing_complete/],
    [sig((m) => ({ ...m, locktime: 5 })), /not for our closing_complete/],
    [sig((m) => ({ ...m, closer_output_only: m.closer_and_closee_outputs! })), /must have one signature/],
    [
      sig(({ closer_and_closee_outputs: signature, ...rest }) =>
        ({ ...rest, closee_output_only: signature! }) as Message
      ),
      /did not offer/,
    ],
    [
      sig((m) => ({ ...m, closer_and_closee_outputs: new Uint8Array(64).fill(1) })),
      /signature of closing_sig/,
    ],
  ];
  for (const [change, expected] of cases) {
    const world = new World({ forms: FORMS });
    // alice hears it of bob; what she says herself is right.
    world.onSend = (from, message) => from === "bob" ? change(message) : message;
    world.takeOver();
    world.settle();
    const { log, rows } = world.nodes.alice;
    assert.match([...log, rows.errorText].join("; "), expected);
  }
});

Deno.test("simple close: the wrong family of messages fails the channel (item 52)", () => {
  for (const simpleClose of [true, false]) {
    const world = new World({ forms: { anysegwit: true, simpleClose } });
    const other = new World({ forms: { anysegwit: true, simpleClose: !simpleClose } });
    let foreign: Message | undefined;
    other.onSend = (from, message) => {
      if (from === "bob" && message.type.startsWith("closing_")) foreign = message;
      return message;
    };
    other.takeOver();
    other.settle();
    world.takeOver();
    world.feed("alice", { type: "message", message: foreign! });
    assert.match(world.nodes.alice.rows.errorText ?? "", /option_simple_close is/);
  }
});

Deno.test("simple close: the peer's new script is adopted with its next shutdown; an OP_RETURN is paid nothing", () => {
  const world = new World({ forms: FORMS });
  const script = Uint8Array.of(0x6a, 8, 1, 2, 3, 4, 5, 6, 7, 8);
  const { alice, bob } = world.nodes;
  bob.rows = { ...bob.rows, shutdownSent: script };
  world.connect();
  world.settle();
  assertClosedSimply(world);
  assert.deepEqual(alice.rows.shutdownReceived, script);
  for (const close of alice.signed) {
    const tx = assertValidClose(alice.rows, close);
    assert.equal(paidTo(tx, script), 0n);
  }
});

Deno.test("simple close: closing_complete again and again is bounded (attack 13)", () => {
  const world = new World({ forms: FORMS });
  let complete: Message | undefined;
  world.onSend = (from, message) => {
    if (from === "bob" && message.type === "closing_complete") complete = message;
    return message;
  };
  world.takeOver();
  // alice's own offer is never answered, so that she stays.
  world.pipe.bob.length = 0;
  let said = 0;
  for (; world.connected && said <= 2 * MAX_REMOTE_OFFERS; said++) {
    world.feed("alice", { type: "message", message: complete! });
  }
  assert.equal(said, MAX_REMOTE_OFFERS + 1);
  assert.equal(world.nodes.alice.signed.length, MAX_REMOTE_OFFERS);
});

Deno.test("property: a simple close through a disconnecting, crashing pipe leaves both with a valid one", () => {
  const who = fc.constantFrom<Name>("alice", "bob");
  const event = fc.oneof(
    { weight: 8, arbitrary: who.map((name) => ({ type: "deliver", name }) as const) },
    { weight: 1, arbitrary: fc.constant({ type: "disconnect" } as const) },
    { weight: 3, arbitrary: fc.constant({ type: "connect" } as const) },
    {
      weight: 2,
      arbitrary: fc.record({ type: fc.constant("crash" as const), name: who, actions: fc.nat(6) }),
    },
  );
  fc.assert(
    fc.property(
      fc.bigInt({ min: 30_000_000n, max: 2_000_000_000n }),
      fc.bigInt({ min: 0n, max: 2_000_000_000n }),
      fc.boolean(),
      fc.array(event, { maxLength: 40 }),
      (toAlice, toBob, taken, events) => {
        const world = new World({ forms: FORMS, toAlice: msat(toAlice), toBob: msat(toBob) });
        if (taken) world.takeOver();
        for (const each of events) {
          if (each.type === "deliver") world.deliver(each.name);
          else if (each.type === "disconnect") world.disconnect();
          else if (each.type === "connect") world.connect();
          else world.crashIn = { name: each.name, actions: each.actions };
        }
        world.crashIn = undefined;
        for (let i = 0; i < 5; i++) {
          world.settle();
          if (NAMES.every((name) => world.nodes[name].signed.length > 0)) break;
          world.disconnect();
          world.connect();
        }
        assertClosedSimply(world);
      },
    ),
    { numRuns: 200 },
  );
});
