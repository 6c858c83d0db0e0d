/** A long history costs nothing but space: neither start nor payments read it. */
import assert from "node:assert/strict";
import { textList } from "common/pg/lists.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import { StandInChanneld, TestNode, Wire } from "./testing.ts";

const postgres = await usePostgres();
const MUCH = 1_000_000_000n;
const SETTLED = 20_000;
/** What grows for ever. */
const HISTORY = [
  "invoices",
  "invoice_payments",
  "payments",
  "payment_results",
  "part_history",
  "htlc_history",
];

/** Rows of so many settled payments, never analysed. */
async function fill(node: TestNode): Promise<void> {
  const { sql } = node;
  await sql`
    INSERT INTO invoices (label, payment_hash, preimage, payment_secret, amount_msat, min_final_cltv, expires_at)
    SELECT 'old-' || n, sha256(('i' || n)::bytea), sha256(('p' || n)::bytea), sha256(('s' || n)::bytea), 1000, 18, now()
    FROM generate_series(1, ${SETTLED}) AS n`;
  await sql`INSERT INTO invoice_payments (invoice, received_msat) SELECT invoice, 1000 FROM invoices`;
  await sql`
    INSERT INTO payments (payment_hash, groupid, kind, amount_msat, total_msat, final_cltv, mpp, deadline)
    SELECT sha256(('o' || n)::bytea), 1, 'pay', 1000, 1000, 18, true, now() FROM generate_series(1, ${SETTLED}) AS n`;
  await sql`
    INSERT INTO payment_results (payment, preimage, sent_msat, parts)
    SELECT payment, sha256('x'), 1000, 1 FROM payments`;
  await sql`
    INSERT INTO part_history (part, payment, partid, channel, amount_msat, sent_msat, created_at)
    SELECT 1000000000 + payment, payment, 0, 1, 1000, 1000, now() FROM payments`;
  await sql`
    INSERT INTO htlc_history (htlc, channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, created_at)
    SELECT 1000000000 + payment, 1, true, payment, 1000, payment_hash, 300, 1000000000 + payment, now() FROM payments`;
}

/** Rows of history that were read by scans, so far. */
async function scanned(node: TestNode): Promise<bigint> {
  await node.sql`SELECT pg_stat_force_next_flush()`;
  await node.sql`SELECT pg_stat_clear_snapshot()`;
  const [row] = await node.sql<{ read: bigint }[]>`
    SELECT coalesce(sum(seq_tup_read), 0)::bigint AS read FROM pg_stat_user_tables
    WHERE relname = ANY(${textList(HISTORY)}::text[])`;
  return row!.read;
}

Deno.test({
  name: "with thousands of settled payments, nothing on the way of a payment or of a start scans them",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using payer = await TestNode.start(postgres);
    await using payee = await TestNode.start(postgres);
    await Promise.all([fill(payer), fill(payee)]);
    const here = await payer.channel(payee.nodeId);
    const there = await payee.channel(payer.nodeId);
    const round = async (name: string) => {
      const [a, b] = [new StandInChanneld(payer), new StandInChanneld(payee)];
      await Promise.all([a.hello(), b.hello()]);
      new Wire(a, b, new Map([[here, there]]));
      a.sync(here, MUCH);
      b.sync(there, 0n);
      await waitFor(() => payer.room.views.get(here)?.usable, { what: "a channel that can be used" });
      for (let turn = 0; turn < 2; turn++) {
        const invoices = await Promise.all(
          [1, 2, 3].map((n) =>
            payee.room.invoices.create({ amountMsat: 1_000n, label: `${name} ${turn} ${n}`, description: "" })
          ),
        );
        await Promise.all(invoices.map(({ bolt11 }) => payer.room.pay({ bolt11 })));
        await payer.room.pay({ bolt11: invoices[0]!.bolt11 });
      }
    };
    // Statistics are told at most once a second: what was filled in is told before it is counted.
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    const before = [await scanned(payer), await scanned(payee)];
    await round("one");
    await Promise.all([payer.restart(), payee.restart()]);
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    await round("two");
    await payer.room.listPayments({ index: "created", start: 5n, limit: 10 });
    await payer.room.listPayments({ index: "updated", start: 5n, limit: 10 });
    await payer.room.listParts({ index: "created", start: 5n, limit: 10 });
    await payee.room.invoices.list({ index: "created", start: 5n, limit: 10 });
    await payee.room.invoices.list({ index: "updated", start: 5n, limit: 10 });
    await payer.room.listHtlcs({ start: 5n, limit: 10 });
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    await Promise.all([payer.restart(), payee.restart()]);
    const after = [await scanned(payer), await scanned(payee)];
    // A page by index may begin a scan and stop after a few rows; a whole table is thousands.
    after.forEach((read, i) =>
      assert.ok(read - before[i]! < BigInt(SETTLED), `${read - before[i]!} rows scanned`)
    );
  },
});
