import assert from "node:assert/strict";
import { attribute, createErrorPacket } from "bolt/onion/error_packet.ts";
import { FAILURE_CODES } from "bolt/onion/failure_codes.ts";
import type { MessageType } from "bolt/wire/messages.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import { autoFulfill, type ChannelNode, HEIGHT, type Locked, lockedChannel } from "./harness.ts";

const postgres = await usePostgres();

/**
 * Servers and clients share this process, and a client that hears a server shut down may kill it: so servers stay open until
 * the file ends, and the sanitizers would call that a leak.
 */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

const ALICE = 120_000_000n;
const BOB = 60_000_000n;

test("a payment each way: told, settled, moved to history, to the msat on both sides", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const there = bob.invoice(1n, 1_000_000n);
  const back = alice.invoice(1n, 400_000n);
  alice.offer(there);
  const incoming = await bob.heard("incoming");
  assert.deepEqual(incoming.paymentHash, there.paymentHash);
  assert.equal(incoming.amountMsat, there.amountMsat);
  assert.deepEqual(incoming.sharedSecret, there.sharedSecret);
  assert.equal(incoming.nextOnion.length, 0);
  bob.fulfill(incoming.id, there.preimage);
  const resolved = await alice.heard("resolved");
  assert.deepEqual(resolved.outcome, { case: "preimage", value: there.preimage });
  await bob.heard("incomingResolved", ({ htlc }) => htlc === incoming.htlc);
  using _ = { [Symbol.dispose]: autoFulfill(alice, [back]) };
  bob.offer(back);
  await bob.heard("resolved", ({ origin }) => origin === back.origin);
  assert.deepEqual(await pair.settled(2), { alice: ALICE - 600_000n, bob: BOB + 600_000n });
  assert.deepEqual(alice.told("offered").map(({ origin, id, refusal }) => [origin, id, refusal]), [[
    1n,
    0n,
    "",
  ]]);
});

test("a crowd of payments both ways at once: a few steps, exact balances, every frame durable", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const count = 25;
  const there = Array.from({ length: count }, (_, i) => bob.invoice(BigInt(i + 1), 1_000_000n));
  const back = Array.from({ length: count }, (_, i) => alice.invoice(BigInt(i + 1), 400_000n));
  using _a = { [Symbol.dispose]: autoFulfill(alice, back) };
  using _b = { [Symbol.dispose]: autoFulfill(bob, there) };
  const before = await versions(pair);
  alice.offer(...there);
  bob.offer(...back);
  const moved = BigInt(count) * 600_000n;
  assert.deepEqual(await pair.settled(2 * count), { alice: ALICE - moved, bob: BOB + moved });
  for (const [node, payments] of [[alice, there], [bob, back]] as const) {
    assert.equal(new Set(node.told("resolved").map(({ origin }) => origin)).size, payments.length);
  }
  const after = await versions(pair);
  // One statement a step, whatever its size: far fewer than payments.
  for (const i of [0, 1] as const) {
    assert.ok(after[i]! - before[i]! < BigInt(count), `${after[i]! - before[i]!} steps`);
  }
  for (const end of [pair.wire.a, pair.wire.b]) {
    await waitFor(() => end.durable === end.given, { what: "every frame is durable" });
  }
});

test("a failed payment: told once its removal is irrevocable, and only the payer reads why", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const payment = bob.invoice(1n, 1_000_000n);
  alice.offer(payment);
  const { id, sharedSecret } = await bob.heard("incoming");
  const failure = {
    type: "incorrect_or_unknown_payment_details",
    htlc_msat: 1_000_000n,
    height: HEIGHT,
  } as const;
  bob.fail(id, createErrorPacket(sharedSecret, failure));
  const { outcome } = await alice.heard("resolved");
  assert.equal(outcome.case, "failed");
  // The row was past before it was told.
  assert.equal((await alice.rows()).live.length, 0);
  assert(outcome.case === "failed");
  const read = attribute(outcome.value.reason, [payment.sharedSecret]);
  assert.deepEqual(read.type === "attributed" && read.failure, failure);
  assert.deepEqual(await pair.settled(1), { alice: ALICE, bob: BOB });
});

test("an onion that cannot be peeled is answered by channeld itself, and nobody is told of it", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const version = { ...bob.invoice(1n, 1_000_000n) };
  const bad = (change: (onion: Uint8Array) => void, origin: bigint) => {
    const payment = bob.invoice(origin, 1_000_000n);
    change(payment.onion);
    return payment;
  };
  version.onion[0] = 1;
  alice.offer(
    version,
    bad((onion) => onion.fill(0, 1, 34), 2n),
    bad((onion) => onion[1000]! ^= 1, 3n),
  );
  await pair.settled(3);
  assert.deepEqual(bob.told("incoming"), []);
  const codes = new Map(
    alice.told("resolved").map(({ origin, outcome }) => [
      origin,
      outcome.case === "malformed" ? outcome.value.failureCode : outcome.case,
    ]),
  );
  assert.deepEqual(
    [1n, 2n, 3n].map((origin) => codes.get(origin)),
    [
      FAILURE_CODES.invalid_onion_version,
      FAILURE_CODES.invalid_onion_key,
      FAILURE_CODES.invalid_onion_hmac,
    ],
  );
});

test("an onion that comes a second time is refused, also by a channeld that started since", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const payment = bob.invoice(1n, 1_000_000n);
  alice.offer(payment);
  const first = await bob.heard("incoming");
  const replay = async (origin: bigint) => {
    alice.offer({ ...payment, origin });
    const { outcome } = await alice.heard("resolved", (resolved) => resolved.origin === origin);
    assert.equal(outcome.case === "malformed" && outcome.value.failureCode, FAILURE_CODES.invalid_onion_hmac);
  };
  await replay(2n);
  await bob.stop();
  await bob.start();
  await pair.connect();
  await pair.usable();
  await replay(3n);
  // The first one stands: told again, it can be taken.
  const again = await bob.heard("incoming", () => bob.told("incoming").length > 1);
  assert.equal(again.htlc, first.htlc);
  assert.deepEqual(new Set(bob.told("incoming").map(({ htlc }) => htlc)), new Set([first.htlc]));
  bob.fulfill(first.id, payment.preimage);
  assert.deepEqual(await pair.settled(3), { alice: ALICE - 1_000_000n, bob: BOB + 1_000_000n });
});

/** Messages of one payment from alice to bob, by who says them. */
const MESSAGES: readonly (readonly ["alice" | "bob", MessageType])[] = [
  ["alice", "update_add_htlc"],
  ["alice", "commitment_signed"],
  ["bob", "revoke_and_ack"],
  ["bob", "commitment_signed"],
  ["alice", "revoke_and_ack"],
  ["bob", "update_fulfill_htlc"],
];

for (const restart of [false, true]) {
  const what = restart ? "both channelds start again" : "the peers reconnect";
  test(`cut before and after each message of a payment, then ${what}: it completes, once`, async () => {
    await using pair = await lockedChannel(postgres.server);
    const { alice, bob } = pair;
    let [origin, paid] = [0n, 0n];
    for (const verdict of ["cut_before", "cut_after"] as const) {
      for (const [who, type] of MESSAGES) {
        const payment = bob.invoice(++origin, 1_000_000n);
        using _ = { [Symbol.dispose]: autoFulfill(bob, [payment]) };
        let armed = true;
        await pair.connect((from, said) => {
          if (!armed || from.base.name !== who || said !== type) return "pass";
          armed = false;
          return verdict;
        });
        await pair.usable();
        alice.offer(payment);
        await pair.wire.over();
        if (restart) {
          await Promise.all([alice.stop(), bob.stop()]);
          await Promise.all([alice.start(), bob.start()]);
        }
        await pair.connect();
        await pair.usable();
        // lightningd tells what it wants again; it is the same offer.
        alice.offer(payment);
        const { outcome } = await alice.heard("resolved", (resolved) => resolved.origin === origin);
        assert.equal(outcome.case, "preimage", `${verdict} ${type}`);
        paid += 1_000_000n;
        assert.deepEqual(
          await pair.settled(Number(origin)),
          { alice: ALICE - paid, bob: BOB + paid },
          `${verdict} ${type}`,
        );
      }
    }
  });
}

test("hsmd goes away in the middle of payments and comes back: the same steps are asked again", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const payments = Array.from({ length: 12 }, (_, i) => bob.invoice(BigInt(i + 1), 1_000_000n));
  using _ = { [Symbol.dispose]: autoFulfill(bob, payments) };
  for (const [i, payment] of payments.entries()) {
    alice.offer(payment);
    const node = i % 2 === 0 ? alice : bob;
    node.hsmd.cut(true);
    await new Promise((resolve) => setTimeout(resolve, 20));
    node.hsmd.restore();
  }
  const moved = 12_000_000n;
  assert.deepEqual(await pair.settled(12), { alice: ALICE - moved, bob: BOB + moved });
});

test("channeld ends between its COMMIT and hsmd's answer: the next one asks first, and the payment completes", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  const payment = bob.invoice(1n, 1_000_000n);
  using _ = { [Symbol.dispose]: autoFulfill(bob, [payment]) };
  /** Its statement is committed, hsmd says nothing: then it ends. */
  const endPending = async (node: ChannelNode) => {
    await waitFor(async () => (await node.rows()).live.length === 1, { what: "the step is stored" });
    await node.stop();
    node.hsmd.cut();
    await node.start();
  };
  await pair.connect();
  await pair.usable();
  alice.hsmd.hold();
  alice.offer(payment);
  await endPending(alice);
  bob.hsmd.hold();
  await pair.connect();
  await endPending(bob);
  await pair.connect();
  await pair.usable();
  alice.offer(payment);
  assert.deepEqual(await pair.settled(1), { alice: ALICE - 1_000_000n, bob: BOB + 1_000_000n });
});

test("the database goes away in the middle of payments: the process ends, the next one goes on", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  const payments = Array.from({ length: 4 }, (_, i) => bob.invoice(BigInt(i + 1), 1_000_000n));
  using _ = { [Symbol.dispose]: autoFulfill(bob, payments) };
  for (const [i, payment] of payments.entries()) {
    await pair.connect();
    await pair.usable();
    const node = i % 2 === 0 ? alice : bob;
    const fatal = node.fatal.length;
    alice.offer(payment);
    await node.sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND application_name LIKE 'channeld%'`;
    await waitFor(() => node.fatal.length > fatal, { what: "the loss is fatal" });
    await node.stop();
    await node.start();
  }
  await pair.connect();
  await pair.usable();
  alice.offer(...payments);
  assert.deepEqual(await pair.settled(4), { alice: ALICE - 4_000_000n, bob: BOB + 4_000_000n });
});

test("lightningd's stream is new: everything that is not over is told again, then Synced", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const [done, open] = [bob.invoice(1n, 1_000_000n), bob.invoice(2n, 2_000_000n)];
  alice.offer(done, open);
  const incoming = await waitFor(() => bob.told("incoming").length === 2 && bob.told("incoming"), {
    what: "both arrive",
  });
  bob.fulfill(incoming.find(({ amountMsat }) => amountMsat === 1_000_000n)!.id, done.preimage);
  await alice.heard("resolved");
  await waitFor(async () => (await alice.rows()).past === 1, { what: "one is past" });
  for (const node of [alice, bob]) {
    node.reports.length = 0;
    node.dropHtlcs();
    await node.heard("synced");
  }
  assert.deepEqual(alice.told("offered").map(({ origin }) => origin), [2n]);
  assert.equal(alice.told("level")[0]?.htlcsOut, 1);
  assert.deepEqual(bob.told("incoming").map(({ amountMsat }) => amountMsat), [2_000_000n]);
  // What is over is answered when it is asked for again.
  alice.offer(done, open);
  const { outcome } = await alice.heard("resolved", ({ origin }) => origin === 1n);
  assert.deepEqual(outcome, { case: "preimage", value: done.preimage });
  const { htlcs } = await alice.call((channeld) => channeld.listHtlcs({}));
  assert.deepEqual(htlcs.map(({ origin, amountMsat }) => [origin, amountMsat]), [[2n, 2_000_000n]]);
});

test("an offer that was said to the owner before this one is dropped: lightningd takes it for lost", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const [lost, mine] = [bob.invoice(1n, 1_000_000n), bob.invoice(2n, 2_000_000n)];
  alice.offer({ ...lost, epoch: alice.epoch - 1n }, { ...mine, epoch: alice.epoch });
  assert.equal((await bob.heard("incoming")).amountMsat, mine.amountMsat);
  assert.deepEqual(alice.told("offered").map(({ origin }) => origin), [2n]);
});

test("a settlement that no row holds yet is told again as open: lightningd must not forget its decision", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const payment = bob.invoice(1n, 1_000_000n);
  alice.offer(payment);
  const { id, htlc } = await bob.heard("incoming");
  pair.wire.cut();
  await pair.wire.over();
  const settling = async () => {
    const { htlcs } = await bob.call((channeld) => channeld.listHtlcs({}));
    return htlcs[0]?.state;
  };
  bob.fulfill(id, payment.preimage);
  await waitFor(async () => (await settling()) === "SENT_REMOVE_HTLC", { what: "bob settles in memory" });
  bob.reports.length = 0;
  bob.dropHtlcs();
  await bob.heard("synced");
  assert.deepEqual(bob.told("incoming").map((told) => told.htlc), [htlc]);
  // And this is why: the next channeld knows nothing of it.
  await bob.stop();
  bob.reports.length = 0;
  await bob.start();
  await pair.connect();
  await bob.heard("synced");
  assert.deepEqual(new Set(bob.told("incoming").map((told) => told.htlc)), new Set([htlc]));
  bob.fulfill(id, payment.preimage);
  assert.deepEqual(await pair.settled(1), { alice: ALICE - 1_000_000n, bob: BOB + 1_000_000n });
});

test("a step whose epoch was raised writes nothing, says nothing, and is reported", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  await alice.sql`UPDATE channels SET owner_epoch = owner_epoch + 1`;
  const before = await fence(alice);
  alice.offer(bob.invoice(1n, 1_000_000n));
  await waitFor(() => alice.said.some((message) => message.case === "superseded"), { what: "superseded" });
  assert.deepEqual(await fence(alice), before);
  assert.equal((await alice.rows()).live.length, 0);
  assert.equal(pair.wire.a.sent.includes("update_add_htlc"), false);
});

test("a person closes: shutdown waits for the HTLC, then both hand over to closingd", async () => {
  await using pair = await lockedChannel(postgres.server);
  const { alice, bob } = pair;
  await pair.connect();
  await pair.usable();
  const payment = bob.invoice(1n, 1_000_000n);
  alice.offer(payment);
  const { id } = await bob.heard("incoming");
  await alice.sql`INSERT INTO closings (channel) VALUES (${alice.channel})`;
  alice.lookAgain();
  await waitFor(() => pair.wire.b.sent.includes("shutdown"), { what: "bob's shutdown" });
  bob.fulfill(id, payment.preimage);
  for (const node of [alice, bob]) {
    await node.released(Released_Reason.SHUTDOWN_COMPLETE);
    const [row] = await node.sql<{ state: string }[]>`SELECT state FROM channels`;
    assert.equal(row?.state, "CLOSINGD_SIGEXCHANGE");
    assert.deepEqual(await node.rows(), { live: [], past: 1 });
  }
  await pair.wire.over();
  for (const end of [pair.wire.a, pair.wire.b]) assert.equal(end.durable, end.given);
});

async function fence(node: ChannelNode) {
  const [row] = await node.sql<{ version: bigint; owner_epoch: bigint }[]>`
    SELECT version, owner_epoch FROM channels`;
  return { version: row!.version, epoch: row!.owner_epoch };
}

/** How many steps each has stored. */
async function versions({ alice, bob }: Locked): Promise<readonly bigint[]> {
  return [(await fence(alice)).version, (await fence(bob)).version];
}
