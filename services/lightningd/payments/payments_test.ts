/** Two engines and the channels between them: what one pays the other gets. */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ArcusError } from "common/grpc/errors.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import { StandInChanneld, TestNode, Wire } from "./testing.ts";

const postgres = await usePostgres();
const QUIET = { sanitizeOps: false, sanitizeResources: false };
const MILLION = 1_000_000_000n;

/** Two nodes with channels that have these amounts, msat, and a wire between them. */
async function pair(amounts: readonly bigint[], changes: Parameters<typeof TestNode.start>[1] = {}) {
  const payer = await TestNode.start(postgres, changes);
  const payee = await TestNode.start(postgres, changes);
  const ours: bigint[] = [];
  const theirs: bigint[] = [];
  for (let i = 0; i < amounts.length; i++) {
    ours.push(await payer.channel(payee.nodeId));
    theirs.push(await payee.channel(payer.nodeId));
  }
  const connect = async () => {
    const [a, b] = [new StandInChanneld(payer), new StandInChanneld(payee)];
    await Promise.all([a.hello(), b.hello()]);
    const wire = new Wire(a, b, new Map(ours.map((channel, i) => [channel, theirs[i]!])));
    ours.forEach((channel, i) => a.sync(channel, amounts[i]!));
    theirs.forEach((channel) => b.sync(channel, 0n));
    const usable = () => [...payer.room.views.all()].filter((view) => view.usable).length === ours.length;
    await waitFor(usable, { what: "channels that can be used" });
    return { a, b, wire };
  };
  return {
    payer,
    payee,
    ours,
    theirs,
    connect,
    async [Symbol.asyncDispose]() {
      await payer[Symbol.asyncDispose]();
      await payee[Symbol.asyncDispose]();
      assert.deepEqual([...payer.fatal, ...payee.fatal], []);
    },
  };
}

async function refusal(promise: Promise<unknown>): Promise<ArcusError> {
  const error = await promise.then(() => undefined, (reason) => reason);
  assert.ok(error instanceof ArcusError, String(error));
  return error;
}

async function count(node: TestNode, table: string): Promise<number> {
  const [row] = await node.sql<{ count: bigint }[]>`SELECT count(*) AS count FROM ${node.sql(table)}`;
  return Number(row!.count);
}

Deno.test({
  name: "an invoice is paid: preimage, rows on both sides, and nothing left that is live",
  ...QUIET,
  async fn() {
    await using nodes = await pair([MILLION]);
    await nodes.connect();
    const { payer, payee } = nodes;
    const invoice = await payee.room.invoices.create({ amountMsat: 5_000n, label: "a", description: "tea" });
    const waiting = payee.room.invoices.wait("a");
    const any = payee.room.invoices.waitAny(0n);
    const paid = await payer.room.pay({ bolt11: invoice.bolt11 });
    assert.deepEqual(sha256(paid.preimage), invoice.paymentHash);
    assert.equal(paid.amountMsat, 5_000n);
    assert.equal(paid.sentMsat, 5_000n);
    assert.equal(paid.parts, 1);
    const row = await waiting;
    assert.equal(row.paid?.receivedMsat, 5_000n);
    assert.equal((await any).label, "a");
    await waitFor(async () => await count(payee, "htlc_decisions") === 0, { what: "decisions forgotten" });
    assert.equal(await count(payer, "live_parts"), 0);
    assert.equal(await count(payer, "part_history"), 1);
    assert.equal(payer.room.batches().starts!.runs, 1);
    // Paid once: the same again is answered from the row.
    const again = await payer.room.pay({ bolt11: invoice.bolt11 });
    assert.deepEqual(again.preimage, paid.preimage);
    assert.equal(await count(payer, "payments"), 1);
    const other = await refusal(payer.room.pay({ bolt11: invoice.bolt11, amountMsat: 1n }));
    assert.equal(other.clnCode, -32602);
  },
});

Deno.test({
  name: "many at once go in few statements, and each is paid once",
  ...QUIET,
  async fn() {
    await using nodes = await pair([MILLION]);
    await nodes.connect();
    const { payer, payee } = nodes;
    const numbers = Array.from({ length: 200 }, (_, i) => i);
    const invoices = await Promise.all(
      numbers.map((i) => payee.room.invoices.create({ amountMsat: 1_000n, label: `n${i}`, description: "" })),
    );
    assert.ok(payee.signed.calls < 10, `${payee.signed.calls} calls of hsmd`);
    assert.equal(new Set(invoices.map(({ createdIndex }) => createdIndex)).size, 200);
    const paid = await Promise.all(invoices.map(({ bolt11 }) => payer.room.pay({ bolt11 })));
    paid.forEach(({ preimage }, i) => assert.deepEqual(sha256(preimage), invoices[i]!.paymentHash));
    for (const room of [payer.room, payee.room]) {
      for (const [name, { runs }] of Object.entries(room.batches())) assert.ok(runs < 60, `${name}: ${runs}`);
    }
    assert.equal(await count(payee, "invoice_payments"), 200);
    assert.equal(await count(payer, "payment_results"), 200);
  },
});

Deno.test({
  name: "two pays of one invoice at the same time are one payment",
  ...QUIET,
  async fn() {
    await using nodes = await pair([MILLION]);
    const { a } = await nodes.connect();
    const { payer, payee } = nodes;
    const { bolt11 } = await payee.room.invoices.create({ amountMsat: 7_000n, label: "x", description: "" });
    const all = await Promise.all([1, 2, 3].map(() => payer.room.pay({ bolt11 })));
    assert.equal(new Set(all.map(({ preimage }) => bytesToHex(preimage))).size, 1);
    assert.equal(a.offers.length, 1);
  },
});

Deno.test({
  name: "a payment that no channel has room for goes in several parts",
  ...QUIET,
  async fn() {
    await using nodes = await pair([30_000n, 20_000n, 10_000n]);
    const { a } = await nodes.connect();
    const { payer, payee } = nodes;
    const invoice = await payee.room.invoices.create({ amountMsat: 45_000n, label: "m", description: "" });
    const paid = await payer.room.pay({ bolt11: invoice.bolt11 });
    assert.equal(paid.parts, 2);
    assert.equal(paid.sentMsat, 45_000n);
    assert.deepEqual(a.offers.map(({ offer }) => offer.amountMsat).sort(), [15_000n, 30_000n]);
    const [row] = await payee.room.invoices.list({ label: "m" });
    assert.equal(row?.paid?.receivedMsat, 45_000n);
    const parts = await payer.room.listParts({ paymentHash: invoice.paymentHash });
    assert.deepEqual(parts.map(({ partid }) => partid), [1n, 2n]);
    const [listed] = await payer.room.listPayments({ paymentHash: invoice.paymentHash });
    assert.equal(listed?.ending?.type, "complete");
  },
});

Deno.test({
  name: "more than all channels have fails at once, and nothing was sent",
  ...QUIET,
  async fn() {
    await using nodes = await pair([30_000n, 20_000n]);
    const { a } = await nodes.connect();
    const { payer, payee } = nodes;
    const { bolt11 } = await payee.room.invoices.create({ amountMsat: 50_001n, label: "m", description: "" });
    assert.equal((await refusal(payer.room.pay({ bolt11 }))).clnCode, 205);
    assert.equal(a.offers.length, 0);
    assert.equal(await count(payer, "payments"), 0);
    // To somebody whom we have no channel with.
    await using stranger = await TestNode.start(postgres);
    const other = await stranger.room.invoices.create({ amountMsat: 1_000n, label: "s", description: "" });
    assert.equal((await refusal(payer.room.pay({ bolt11: other.bolt11 }))).clnCode, 205);
    // To ourselves.
    const own = await payer.room.invoices.create({ amountMsat: 1_000n, label: "s", description: "" });
    const self = await refusal(payer.room.pay({ bolt11: own.bolt11 }));
    assert.equal(self.clnCode, 205);
    assert.equal(self.reason, "SELF_PAYMENT");
  },
});

Deno.test({
  name: "the destination's last word fails a payment with 203 and says what it was",
  ...QUIET,
  async fn() {
    await using nodes = await pair([MILLION]);
    await nodes.connect();
    const { payer, payee } = nodes;
    const { bolt11, paymentHash } = await payee.room.invoices.create({
      amountMsat: 3_000n,
      label: "gone",
      description: "",
    });
    await payee.room.invoices.remove("gone", "unpaid");
    const error = await refusal(payer.room.pay({ bolt11 }));
    assert.equal(error.clnCode, 203);
    assert.equal(error.details["failcodename"], "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS");
    assert.equal(error.details["erring_index"], "1");
    const [row] = await payer.room.listPayments({ paymentHash });
    assert.equal(row?.ending?.type, "failed");
    // Another attempt is allowed, and gets a group of its own.
    assert.equal((await refusal(payer.room.pay({ bolt11 }))).clnCode, 203);
    const rows = await payer.room.listPayments({ paymentHash });
    assert.deepEqual(rows.map(({ groupid }) => groupid), [1n, 2n]);
  },
});

Deno.test({
  name: "a payment without an invoice makes one, once",
  ...QUIET,
  async fn() {
    await using nodes = await pair([MILLION]);
    await nodes.connect();
    const { payer, payee } = nodes;
    const paid = await payer.room.keysend({
      destination: payee.nodeId,
      amountMsat: 9_000n,
      extraTlvs: [{ type: 133_773_311n, value: Uint8Array.of(1, 2, 3) }],
    });
    const [row] = await payee.room.invoices.list({ paymentHash: paid.paymentHash });
    assert.ok(row?.label.startsWith("keysend-"));
    assert.equal(row.paid?.receivedMsat, 9_000n);
    assert.deepEqual(row.preimage, paid.preimage);
  },
});

Deno.test({
  name: "labels and preimages are unique, deleting asks for the status, and waiting ends with the invoice",
  ...QUIET,
  async fn() {
    await using node = await TestNode.start(postgres);
    const { invoices } = node.room;
    const preimage = new Uint8Array(32).fill(7);
    await invoices.create({ amountMsat: 1n, label: "one", description: "", preimage });
    assert.equal((await refusal(invoices.create({ label: "one", description: "" }))).clnCode, 900);
    assert.equal((await refusal(invoices.create({ label: "two", description: "", preimage }))).clnCode, 901);
    const both = await Promise.allSettled(
      ["t", "t"].map((label) => invoices.create({ label, description: "" })),
    );
    assert.deepEqual(both.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
    assert.equal((await refusal(invoices.remove("one", "paid"))).clnCode, 906);
    assert.equal((await refusal(invoices.remove("none", "paid"))).clnCode, 905);
    const waiting = refusal(invoices.wait("one"));
    await invoices.remove("one", "unpaid");
    assert.equal((await waiting).clnCode, 905);
    await invoices.create({ label: "short", description: "", expirySeconds: 1n });
    assert.equal((await refusal(invoices.wait("short"))).clnCode, 903);
    assert.equal((await refusal(invoices.waitAny(0n, 0n))).clnCode, 904);
    const page = await invoices.list({ index: "created", start: 0n, limit: 1 });
    assert.equal(page.length, 1);
    assert.equal((await invoices.list({ index: "updated" })).length, 0);
  },
});
