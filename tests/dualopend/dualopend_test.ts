import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { fromBinary } from "@bufbuild/protobuf";
import type { MessageType } from "bolt/wire/messages.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import { CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import { TestFundingTxResponse_Verdict } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { End, FEERATE, helloOf, type TestNode, twoNodes, type Wire } from "./harness.ts";

const postgres = await usePostgres();

/**
 * Servers and clients share this process, and a client that hears a server shut down may kill it: so servers stay open until
 * the file ends, and the sanitizers would call that a leak.
 */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

type Nodes = Awaited<ReturnType<typeof twoNodes>>;

/** Mines an attempt at both and waits until both are CHANNELD_NORMAL and let go. */
async function lockIn(nodes: Nodes, txid: Uint8Array): Promise<void> {
  for (const node of [nodes.alice, nodes.bob]) await node.mine(txid);
  for (const node of [nodes.alice, nodes.bob]) {
    await node.released(Released_Reason.LOCKED);
    const row = await node.channelRow();
    assert.equal(row?.state, "CHANNELD_NORMAL");
    const attempt = (await node.attempts()).find((each) => each.attempt === row.locked_attempt);
    assert.deepEqual(attempt?.txid, txid);
    const [commitment] = fromBinary(CommitmentsSchema, row.commitments!).active;
    assert.equal(commitment?.toLocalMsat, attempt!.local_contribution_sat * 1000n);
    assert.equal(commitment?.toRemoteMsat, attempt!.remote_contribution_sat * 1000n);
    assert.equal(commitment?.attempt, attempt!.attempt);
  }
}

/** A replacement by one side, as lightningd starts it. */
async function bump(node: TestNode, contribution: bigint, feerate: number, runToCompletion = true) {
  node.contribution = contribution;
  const row = await node.channelRow();
  const opening = await node.rbfOpening(row!.channel, row!.owner_epoch, row!.generation, "local");
  const plan = await node.plan(opening, "initiator", feerate, row!.channel);
  return await node.call((dualopend) =>
    dualopend.bump({
      channel: row!.channel,
      opening,
      epoch: row!.owner_epoch,
      plan,
      feeratePerkw: feerate,
      locktime: 100,
      runToCompletion,
    })
  );
}

async function rejected(work: Promise<unknown>): Promise<ArcusError> {
  try {
    await work;
  } catch (error) {
    assert(error instanceof ArcusError);
    return error;
  }
  return assert.fail("it should have failed");
}

test("both fund, both sign, one is mined, both are CHANNELD_NORMAL and handed over", async () => {
  await using nodes = await twoNodes(postgres.server);
  const opened = await nodes.openInit(await nodes.prepare(), true);
  const [attempt] = await nodes.complete();
  assert.deepEqual(new Uint8Array(attempt!.complete_tx!), opened.completeTx);
  assert.equal(opened.theirFundingSat, 60_000n);
  assert.equal(opened.prevouts.filter((prevout) => prevout.local).length, 2);
  for (const node of [nodes.alice, nodes.bob]) {
    assert.equal((await node.channelRow())?.state, "DUALOPEND_AWAITING_LOCKIN");
    assert.equal(await node.leftovers(), 0);
    await waitFor(() => node.broadcast.length === 1, { what: "the broadcast" });
  }
  const { wire } = nodes;
  await lockIn(nodes, attempt!.txid);
  await wire.over();
  for (const end of [wire.ends.a, wire.ends.b]) {
    // Every frame is used up: channeld gets none of them again.
    assert.equal(end.durable, end.taken);
    assert.equal(end.said.at(-1)?.case, "finished");
    assert.equal(end.said.filter(({ case: kind }) => kind === "rekey").length, 1);
  }
});

test("an accepter that brings nothing", async () => {
  await using nodes = await twoNodes(postgres.server, { alice: 120_000n, bob: 0n });
  await nodes.openInit(await nodes.prepare(), true);
  const [attempt] = await nodes.complete();
  assert.equal(attempt!.remote_contribution_sat, 0n);
  await lockIn(nodes, attempt!.txid);
});

/** With 0 the peer signs first, so its witnesses wait in the row for the user's; else the node ids decide. */
for (const brings of [60_000n, 0n]) {
  test(`openchannel_init, _update, _signed, the peer brings ${brings}: nothing of ours is signed before the user says so`, async () => {
    await using nodes = await twoNodes(postgres.server, { alice: 120_000n, bob: brings });
    const { alice } = nodes;
    const assignment = await nodes.prepare();
    const begun = await nodes.openInit(assignment, false);
    assert.equal(begun.commitmentsSecured, false);
    assert.ok(begun.tx.length > 0);
    const plan = await alice.plan(alice.opening, "initiator", FEERATE, 0n);
    const updated = await alice.call((dualopend) =>
      dualopend.update({ channelId: begun.channelId, opening: alice.opening, epoch: assignment.epoch, plan })
    );
    assert.equal(updated.commitmentsSecured, true);
    assert.deepEqual(updated.tx, begun.tx);
    const row = await alice.channelRow();
    assert.equal(row?.state, "DUALOPEND_OPEN_COMMITTED");
    assert.equal(nodes.wire.ends.a.sent.includes("tx_signatures"), false);
    const { negotiations } = await alice.call((dualopend) => dualopend.listNegotiations({}));
    assert.equal(negotiations[0]?.step, "awaiting openchannel_signed");
    const signed = await alice.call((dualopend) =>
      dualopend.sign({ channel: updated.channel, epoch: assignment.epoch })
    );
    assert.equal(signed.complete, true);
    const [attempt] = await nodes.complete();
    assert.deepEqual(signed.tx, new Uint8Array(attempt!.complete_tx!));
  });
}

test("two replacements, one by either side; an earlier attempt is mined and funds the channel", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  await nodes.openInit(assignment, true);
  const [first] = await nodes.complete();
  await bump(alice, 100_000n, 1500);
  await nodes.complete(2);
  await bump(bob, 70_000n, 2000);
  const attempts = await nodes.complete(3);
  assert.deepEqual(attempts.map((each) => each.local_contribution_sat), [120_000n, 100_000n, 100_000n]);
  assert.deepEqual(attempts.map((each) => each.remote_contribution_sat), [60_000n, 60_000n, 70_000n]);
  for (const node of [alice, bob]) assert.equal(await node.leftovers(), 0);
  // One that is too cheap is refused by us, before the peer hears of it.
  const error = await rejected(bump(alice, 100_000n, 2001));
  assert.match(error.message, /feerate must be at least/);
  await alice.released(Released_Reason.RBF_FAILED);
  assert.equal(await alice.leftovers(), 0);
  await lockIn(nodes, first!.txid);
});

/** hsmd locks one of a channel's attempts behind the back of its owner. */
async function lockBehind(node: TestNode, txid: Uint8Array): Promise<void> {
  const row = (await node.channelRow())!;
  const [attempt] = await node.sql<{ output_index: number }[]>`
    SELECT output_index FROM funding_attempts WHERE txid = ${txid}`;
  await node.hsmd.lockFunding({
    channel: {
      channelKeyId: row.channel_key_id,
      paymentKeyIndex: row.payment_key_index,
      epoch: row.owner_epoch,
    },
    outpoint: { txid, vout: attempt!.output_index },
  });
}

test("hsmd refuses a lock that is stored: the channel fails with its error, and channel_ready is never said", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  await nodes.complete();
  await bump(alice, 100_000n, 1500);
  const [first, second] = await nodes.complete(2);
  await lockBehind(alice, second!.txid);
  await alice.mine(first!.txid);
  await alice.released(Released_Reason.CHANNEL_FAILED);
  const failed = await alice.channelRow();
  assert.equal(failed?.error_text, "our signer refuses to lock the funding transaction: CONTENT_CONFLICT");
  assert.equal(failed?.locked_attempt, first!.attempt);
  assert.equal(nodes.wire.ends.a.sent.includes("channel_ready"), false);
  await bob.released(Released_Reason.CHANNEL_FAILED);
  assert.match((await bob.channelRow())?.error_text ?? "", /peer sent error: our signer refuses/);
});

/** Messages around which an open with funds of both is cut; what happens then by BOLT 2. */
const CUTS: readonly (readonly ["alice" | "bob", MessageType, "cut_before" | "cut_after"])[] = [
  ["alice", "commitment_signed", "cut_before"],
  ["alice", "commitment_signed", "cut_after"],
  ["bob", "commitment_signed", "cut_before"],
  ["bob", "commitment_signed", "cut_after"],
  ["alice", "tx_signatures", "cut_before"],
  ["alice", "tx_signatures", "cut_after"],
  ["bob", "tx_signatures", "cut_before"],
  ["bob", "tx_signatures", "cut_after"],
];

/** Whether both still know the channel once everything has settled. */
async function bothSaved({ alice, bob }: Nodes): Promise<boolean> {
  return await alice.channelRow() !== undefined && await bob.channelRow() !== undefined;
}

for (const [who, type, how] of CUTS) {
  const place = `${how === "cut_before" ? "before" : "after"} ${who}'s ${type}`;
  test(`the connection breaks ${place}, dualopends start again: the open goes on from the rows`, async () => {
    await using nodes = await twoNodes(postgres.server);
    const cut: Wire["onFrame"] = (from, sent) => from === nodes[who] && sent === type ? how : "pass";
    const assignment = await nodes.prepare(cut);
    const command = nodes.openInit(assignment, true).then(() => undefined, (error) => error);
    await waitFor(() => nodes.wire.isCut, { what: "the cut" });
    await nodes.wire.over();
    await command;
    await nodes.alice.stop();
    await nodes.bob.stop();
    await nodes.alice.start();
    await nodes.bob.start();
    // Whoever saw both tx_complete has saved it; only the one whom the last tx_complete may not have reached has not.
    if (!(await bothSaved(nodes))) {
      for (const node of [nodes.alice, nodes.bob]) assert.equal(await node.leftovers(), 0);
      assert.equal(`${type} ${how}`, "commitment_signed cut_before");
      return;
    }
    await nodes.reconnect();
    const { a, b } = nodes.wire.ends;
    await waitFor(() => a.sent.length > 0 && b.sent.length > 0, { what: "both speak" });
    assert.deepEqual([a.sent[0], b.sent[0]], ["channel_reestablish", "channel_reestablish"]);
    const [attempt] = await nodes.complete();
    await lockIn(nodes, attempt!.txid);
    for (const node of [nodes.alice, nodes.bob]) {
      const row = await node.channelRow();
      assert.equal(row?.generation, 2n);
      assert.deepEqual([row?.reestablish_sent, row?.reestablish_received], [true, true]);
    }
  });
}

test("mined while one side's dualopend is dead: it locks from its rows, and both meet in channel_ready", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  const [attempt] = await nodes.complete();
  nodes.wire.cut();
  await nodes.wire.over();
  await bob.stop();
  await alice.mine(attempt!.txid);
  await waitFor(async () => (await alice.channelRow())?.locked_attempt !== null, { what: "alice's lock" });
  await bob.start();
  await bob.mine(attempt!.txid);
  await nodes.reconnect();
  for (const node of [alice, bob]) await node.released(Released_Reason.LOCKED);
  for (const node of [alice, bob]) assert.equal((await node.channelRow())?.state, "CHANNELD_NORMAL");
});

test("a superseded owner sends nothing", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice } = nodes;
  const raise = { done: false };
  // bob's commitment_signed makes alice store it; by then the channel is another owner's.
  const assignment = await nodes.prepare((from, type) => {
    if (from === nodes.bob && type === "commitment_signed" && !raise.done) {
      raise.done = true;
      void alice.sql`UPDATE channels SET owner_epoch = owner_epoch + 1`.execute().then(() =>
        nodes.wire.ends.a.deliver(held!)
      );
      return "pass";
    }
    return "pass";
  });
  let held: Uint8Array | undefined;
  const { a } = nodes.wire.ends;
  const deliver = a.deliver.bind(a);
  a.deliver = (data) => {
    // commitment_signed (132) waits until the epoch is raised.
    if (data[0] === 0 && data[1] === 132 && held === undefined) held = data;
    else deliver(data);
  };
  const error = await rejected(nodes.openInit(assignment, true));
  assert.equal(error.code, Code.UNAVAILABLE);
  const superseded = await alice.heard("superseded");
  assert.equal(superseded.channel, (await alice.channelRow())?.channel);
  assert.equal((await a.ended.promise).reason, "EPOCH_STALE");
  assert.equal(a.sent.at(-1), "commitment_signed");
  assert.equal((await alice.channelRow())?.state, "DUALOPEND_OPEN_COMMIT_READY");
  const listed = await alice.call((dualopend) => dualopend.listNegotiations({}));
  assert.deepEqual(listed.negotiations, []);
});

test("hsmd serves a newer epoch: the owner lets go and sends nothing", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice } = nodes;
  const assignment = await nodes.prepare();
  const { keyId: channelKeyId, paymentKeyIndex } = alice;
  await alice.hsmd.registerEpochs({ channels: [{ channelKeyId, paymentKeyIndex, epoch: 5n }] });
  await rejected(nodes.openInit(assignment, true));
  await alice.heard("superseded");
  assert.equal(nodes.wire.ends.a.sent.includes("commitment_signed"), false);
});

test("an attachment needs the token, the generation and the epoch that lightningd told", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  const good = helloOf(bob, assignment);
  const wire: Pick<Wire, "onFrame" | "cut"> = { onFrame: () => "pass", cut: () => {} };
  const wrong = [
    [{ ...good, token: new Uint8Array(32) }, "WRONG_TOKEN"],
    [{ ...good, token: new Uint8Array() }, "WRONG_TOKEN"],
    [{ ...good, peerId: alice.nodeId }, "WRONG_TOKEN"],
    [{ ...good, epoch: assignment.epoch + 1n }, "EPOCH_STALE"],
    [{ ...good, epoch: 0n }, "EPOCH_STALE"],
    [{ ...good, generation: assignment.generation + 1n }, "GENERATION_STALE"],
  ] as const;
  for (const [hello, reason] of wrong) {
    const end = new End(alice, hello, wire);
    assert.equal((await waitFor(end.ended.promise, { what: reason })).reason, reason);
    assert.equal(end.attached, false);
  }
  // What was attached rightly does not notice.
  await nodes.openInit(assignment, true);
  await nodes.complete();
});

test("commands name the epoch", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice } = nodes;
  const assignment = await nodes.prepare();
  const error = await rejected(nodes.openInit({ ...assignment, epoch: 2n }, true));
  assert.deepEqual([error.code, error.reason], [Code.FAILED_PRECONDITION, "EPOCH_STALE"]);
  const abort = await rejected(
    alice.call((d) => d.abort({ opening: alice.opening + 1n, epoch: assignment.epoch })),
  );
  assert.equal(abort.reason, "EPOCH_STALE");
});

test("an unsaved open dies with its connection: no row, no reservation, a failed command", async () => {
  await using nodes = await twoNodes(postgres.server);
  const assignment = await nodes.prepare((_, type) => type === "tx_add_input" ? "cut_after" : "pass");
  const error = await rejected(nodes.openInit(assignment, true));
  assert.match(error.message, /disconnected/);
  for (const node of [nodes.alice, nodes.bob]) {
    await node.released(Released_Reason.OPEN_FAILED);
    assert.equal(await node.leftovers(), 0);
    assert.equal(await node.channelRow(), undefined);
  }
});

test("a user aborts before signing: tx_abort is echoed, nothing is left, the connection stays", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  const begun = await nodes.openInit(assignment, false);
  const { channelId } = begun;
  const aborted = await alice.call((dualopend) =>
    dualopend.abort({ channelId, opening: alice.opening, epoch: assignment.epoch, reason: "changed my mind" })
  );
  assert.deepEqual([aborted.channelCanceled, aborted.reason], [true, "changed my mind"]);
  for (const node of [alice, bob]) {
    await node.released(Released_Reason.OPEN_FAILED);
    assert.equal(await node.leftovers(), 0);
  }
  await nodes.wire.over();
  assert.equal(nodes.wire.ends.b.sent.at(-1), "tx_abort");
  assert.equal(nodes.wire.ends.a.said.some(({ case: kind }) => kind === "fail"), false);
});

test("a silent peer: the policy's time ends the open", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  await nodes.openInit(assignment, false);
  await waitFor(() => bob.timer.armed === 1, { what: "bob's timer" });
  bob.timer.fire();
  await bob.heard("released", (released) => released.detail !== "");
  assert.equal(await bob.leftovers(), 0);
  await alice.released(Released_Reason.OPEN_FAILED);
  assert.equal(await alice.leftovers(), 0);
  for (const node of [alice, bob]) assert.equal(node.timer.armed, 0);
});

test("bitcoind finds the complete transaction invalid: who signs second forgets it, who signed first keeps it", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  alice.verdict = TestFundingTxResponse_Verdict.INVALID;
  bob.verdict = TestFundingTxResponse_Verdict.INVALID;
  const command = rejected(nodes.openInit(await nodes.prepare(), true));
  const { a, b } = nodes.wire.ends;
  const aborted = (end: End) => end.sent.includes("tx_abort");
  await waitFor(() => aborted(a) && aborted(b), { what: "tx_abort and its echo" });
  const [first, second] = a.sent.includes("tx_signatures") ? [a, b] : [b, a];
  assert.equal(first.sent.filter((type) => type === "tx_signatures").length, 1);
  assert.equal(second.sent.includes("tx_signatures"), false);
  await second.node.released(Released_Reason.OPEN_FAILED);
  assert.equal(await second.node.channelRow(), undefined);
  nodes.wire.cut();
  await command;
  const [kept] = await first.node.attempts();
  assert.deepEqual([kept?.complete_tx, kept?.aborted], [null, false]);
});

test("garbage in a negotiation ends it and nothing else", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  await nodes.openInit(assignment, false);
  // tx_complete (70) that stops in the middle of its channel id.
  nodes.wire.ends.b.deliver(Uint8Array.of(0, 70, 1, 2, 3));
  await waitFor(() => nodes.wire.ends.b.sent.includes("tx_abort"), { what: "bob's tx_abort" });
  for (const node of [alice, bob]) {
    await node.released(Released_Reason.OPEN_FAILED);
    assert.equal(await node.leftovers(), 0);
  }
});

test("lightningd goes and comes back: what is held is kept, and told in the next hello", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice } = nodes;
  const assignment = await nodes.prepare();
  await nodes.openInit(assignment, true);
  const [attempt] = await nodes.complete();
  const hellos = alice.hellos.length;
  alice.dropRegistry();
  await waitFor(() => alice.hellos.length > hellos, { what: "another hello" });
  const hello = alice.hellos.at(-1)!;
  const row = await alice.channelRow();
  assert.deepEqual(
    hello.held.map(({ channel, opening, epoch, generation }) => [channel, opening, epoch, generation]),
    [
      [row!.channel, 0n, assignment.epoch, assignment.generation],
    ],
  );
  assert.deepEqual(hello.hello?.nodeId, alice.nodeId);
  await lockIn(nodes, attempt!.txid);
});

test("an owner that is replaced within a connection asks to hang up instead of a second channel_reestablish", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  await nodes.complete();
  nodes.wire.cut();
  await nodes.wire.over();
  await nodes.reconnect();
  await waitFor(() => nodes.wire.ends.a.sent.includes("channel_reestablish"), { what: "reestablish" });
  const again = await alice.assignChannel(bob, 2n);
  const end = new End(alice, helloOf(bob, again), { onFrame: () => "pass", cut: () => {} });
  await waitFor(end.ended.promise, { what: "the end of the second attachment" });
  const fail = end.said.at(-1);
  assert(fail?.case === "fail");
  assert.equal(fail.value.wantHangUp, true);
  assert.deepEqual(end.sent, []);
});

test("a failed channel repeats its error at the next connection, and nothing else", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  await nodes.complete();
  nodes.wire.cut();
  await nodes.wire.over();
  await alice.sql`UPDATE channels SET error_text = 'it is over', version = version + 1`;
  await nodes.reconnect();
  await nodes.bob.released(Released_Reason.CHANNEL_FAILED);
  assert.match((await nodes.bob.channelRow())?.error_text ?? "", /it is over/);
  assert.deepEqual(nodes.wire.ends.a.sent, ["error"]);
});

test("lightningd gives a replacement up: tx_abort, the channel and its attempt stay, another one works", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  await nodes.complete();
  const begun = await bump(alice, 110_000n, 1500, false);
  assert.notEqual(begun.opening, 0n);
  alice.withdraw(begun.opening, (await alice.channelRow())!.owner_epoch);
  await alice.released(Released_Reason.RBF_FAILED);
  await bob.released(Released_Reason.RBF_FAILED);
  await waitFor(() => nodes.wire.ends.b.sent.at(-1) === "tx_abort", { what: "the echo" });
  for (const node of [alice, bob]) {
    assert.equal(await node.leftovers(), 0);
    assert.equal((await node.channelRow())?.state, "DUALOPEND_AWAITING_LOCKIN");
  }
  await bump(alice, 110_000n, 1500);
  const [, second] = await nodes.complete(2);
  await lockIn(nodes, second!.txid);
});

test("the connection breaks inside a replacement: its negotiation is gone, the channel goes on", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  const [first] = await nodes.complete();
  nodes.wire.onFrame = (_, type) => type === "tx_ack_rbf" ? "cut_after" : "pass";
  const error = await rejected(bump(alice, 110_000n, 1500));
  assert.match(error.message, /disconnected/);
  for (const node of [alice, bob]) {
    await node.released(Released_Reason.RBF_FAILED);
    assert.equal(await node.leftovers(), 0);
  }
  await nodes.wire.over();
  await nodes.reconnect();
  await waitFor(() => nodes.wire.ends.b.durable >= 1n, { what: "reestablish" });
  await lockIn(nodes, first!.txid);
});

test("a replacement is cut at each signature, dualopends start again: it goes on, or the first attempt stays", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  await nodes.complete();
  let rate = 1500;
  for (const type of ["commitment_signed", "tx_signatures"] as const) {
    for (const who of [alice, bob]) {
      const before = (await alice.attempts()).length;
      nodes.wire.onFrame = (from, sent) => from === who && sent === type ? "cut_after" : "pass";
      const command = bump(alice, 110_000n, rate).then(() => undefined, (error) => error);
      await waitFor(() => nodes.wire.isCut, { what: "the cut" });
      await nodes.wire.over();
      await command;
      for (const node of [alice, bob]) {
        await node.stop();
        await node.start();
      }
      await nodes.reconnect();
      await nodes.complete(before + 1);
      rate += 500;
    }
  }
  const attempts = await nodes.complete(5);
  await lockIn(nodes, attempts[2]!.txid);
});

test("mined while a replacement is half negotiated: it is aborted, and the mined attempt funds the channel", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  const [first] = await nodes.complete();
  await bump(alice, 110_000n, 1500, false);
  await lockIn(nodes, first!.txid);
  for (const node of [alice, bob]) {
    assert.equal((await node.attempts()).length, 1);
    assert.equal(await node.leftovers(), 0);
  }
});

/** Numbers of messages (BOLT 2). */
const [CHANNEL_READY, TX_ABORT, COMMITMENT_SIGNED] = [36, 74, 132];

/** A message of this number for a channel, with this after the channel id. */
function frame(type: number, channelId: Uint8Array, rest: Uint8Array): Uint8Array {
  return Uint8Array.of(type >> 8, type & 0xff, ...channelId, ...rest);
}

test("a bad first commitment_signed: tx_abort, and neither side keeps a row or an input", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  const { a, b } = nodes.wire.ends;
  // Both put in as much, so the lesser node id signs first: that side must see the bad signature before it signs.
  const first = bytesToHex(alice.nodeId) < bytesToHex(bob.nodeId) ? a : b;
  const deliver = first.deliver.bind(first);
  first.deliver = (data) => {
    const bad = data.slice();
    // A byte in the middle of the signature, behind type and channel id.
    if (data[1] === COMMITMENT_SIGNED && data[0] === 0) bad[60]! ^= 1;
    deliver(bad);
  };
  const error = await rejected(nodes.openInit(assignment, true));
  assert.match(error.message, /signature of commitment_signed/);
  for (const node of [alice, bob]) {
    await node.released(Released_Reason.OPEN_FAILED);
    assert.equal(await node.channelRow(), undefined);
    const [row] = await node.sql<{ n: bigint }[]>`SELECT count(*) AS n FROM reservations`;
    assert.equal(row!.n, 0n);
  }
  assert.equal(first.sent.includes("tx_abort"), true);
});

test("tx_abort after our tx_signatures is echoed and forgets nothing; an early channel_ready locks nothing", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  await nodes.openInit(await nodes.prepare(), true);
  const [attempt] = await nodes.complete();
  const { a } = nodes.wire.ends;
  a.peer = undefined;
  const { channel_id: channelId } = (await alice.channelRow())!;
  nodes.wire.ends.a.deliver(frame(TX_ABORT, channelId, Uint8Array.of(0, 2, 104, 105)));
  await waitFor(() => a.sent.at(-1) === "tx_abort", { what: "the echo" });
  assert.equal((await alice.attempts())[0]?.aborted, false);
  const { keys } = await bob.hsmd.getChannelKeys({
    channelKeyId: bob.keyId,
    paymentKeyIndex: bob.paymentKeyIndex,
  });
  const before = a.durable;
  a.deliver(frame(CHANNEL_READY, channelId, keys!.secondPerCommitmentPoint));
  await waitFor(() => a.durable > before, { what: "channel_ready is stored" });
  const row = await alice.channelRow();
  assert.deepEqual([row?.state, row?.locked_attempt], ["DUALOPEND_AWAITING_LOCKIN", null]);
  const error = await rejected(bump(alice, 110_000n, 1500));
  assert.match(error.message, /channel_ready was exchanged/);
  await alice.mine(attempt!.txid);
  await alice.released(Released_Reason.LOCKED);
});

/** Makes every write of this kind fail until it is undone, as a full disk would. */
async function breakWrites(
  node: TestNode,
  table: "channels" | "funding_attempts",
  kind: "INSERT" | "UPDATE",
) {
  await node.sql.unsafe(`
    CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
    CREATE TRIGGER broken BEFORE ${kind} ON ${table} EXECUTE FUNCTION broken()`);
  return () => node.sql.unsafe(`DROP FUNCTION broken CASCADE`);
}

test("our database fails at the first row: the peer hears tx_abort, nothing is left on either side", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  await breakWrites(bob, "channels", "INSERT");
  await rejected(nodes.openInit(assignment, true));
  for (const node of [alice, bob]) {
    await node.released(Released_Reason.OPEN_FAILED);
    assert.equal(await node.channelRow(), undefined);
    assert.equal(await node.leftovers(), 0);
  }
  assert.equal(nodes.wire.ends.b.sent.includes("commitment_signed"), false);
  assert.equal(nodes.wire.ends.b.sent.at(-1), "tx_abort");
});

test("our database fails at a saved channel: the owner lets go and says nothing; the next one goes on", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { alice, bob } = nodes;
  const assignment = await nodes.prepare();
  const repair = await breakWrites(bob, "funding_attempts", "UPDATE");
  const command = nodes.openInit(assignment, true).then(() => undefined, (error) => error);
  await bob.released(Released_Reason.PEER_GONE);
  await waitFor(nodes.wire.ends.b.ended.promise, { what: "the end of bob's attachment" });
  const last = nodes.wire.ends.b.said.at(-1);
  assert(last?.case === "fail");
  assert.deepEqual([last.value.messages.length, last.value.wantHangUp], [0, true]);
  assert.equal(nodes.wire.ends.b.sent.includes("tx_signatures"), false);
  nodes.wire.cut();
  await nodes.wire.over();
  assert.ok(await command instanceof ArcusError);
  await repair();
  await nodes.reconnect();
  const [attempt] = await nodes.complete();
  assert.equal(attempt!.aborted, false);
  assert.notEqual(await alice.channelRow(), undefined);
});

test("a frame that is missing ends the attachment", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { bob } = nodes;
  await nodes.prepare();
  const { b } = nodes.wire.ends;
  await waitFor(() => b.attached, { what: "bob is attached" });
  b.stream.write({
    message: { case: "frame", value: { inSeq: 2n, data: Uint8Array.of(0, 64), replayed: false } },
  });
  assert.equal((await waitFor(b.ended.promise, { what: "the end" })).reason, "FRAME_GAP");
  await bob.released(Released_Reason.OPEN_FAILED);
  assert.equal(await bob.leftovers(), 0);
});

test("an open_channel2 that cannot be read: error, and the opening is gone", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { bob } = nodes;
  const { channelId } = await nodes.prepare();
  const { b } = nodes.wire.ends;
  b.peer = undefined;
  // open_channel2 (64) that ends after its temporary channel id.
  b.deliver(frame(64, channelId, new Uint8Array(3)));
  await bob.released(Released_Reason.OPEN_FAILED);
  await waitFor(b.ended.promise, { what: "the end" });
  assert.deepEqual(b.sent, ["error"]);
  assert.equal(await bob.leftovers(), 0);
});

test("a peer that never opens: the policy's time ends the opening", async () => {
  await using nodes = await twoNodes(postgres.server);
  const { bob } = nodes;
  await nodes.prepare();
  await waitFor(() => nodes.wire.ends.b.attached && bob.timer.armed === 1, { what: "bob's timer" });
  bob.timer.fire();
  await bob.released(Released_Reason.OPEN_FAILED);
  assert.equal(await bob.leftovers(), 0);
});
