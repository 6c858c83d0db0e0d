/**
 * `deno task bench:history`: whether a long past slows the present. Two nodes pay each other; then both get the rows of many
 * settled payments, are started again, and pay once more. Start time and payment rate before and after, as one table.
 *
 *     deno task bench:history                        1,000,000 settled payments
 *     deno task bench:history --payments 100000 --json
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import type { Sql } from "common/pg/client.ts";
import { until, untilState } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { findSecp256k1, startBitcoind, startPostgres } from "tools/parts/mod.ts";
import { createProgress, type Progress, type Step } from "tools/progress.ts";
import { rounded } from "./figures.ts";
import { type Pair, startPair } from "./layout.ts";
import { runLoad } from "./load.ts";
import { payerOf } from "./payer.ts";

const PAYMENTS = 1_000_000;
const WORKERS = 100;
const SECONDS = 15;
const MSAT = 1_000_000n;
const MAX_PAYMENTS = 100_000;
/** Rows of one INSERT: a step of the progress. */
const CHUNK = 50_000;
/** Keys of rows that never were: above any that a sequence of the run draws. */
const FIRST_KEY = 1_000_000_000n;
/** A load is measured so often, and the best counts: neighbours only make it worse. */
const ROUNDS = 3;

/** Start of a node's processes until the channel is usable, and the rate. */
interface Measured {
  readonly start_ms: number;
  readonly payments_per_second: number;
  readonly p50_ms: number;
  readonly p99_ms: number;
}

async function fillChunk(sql: Sql, from: number, to: number): Promise<void> {
  await sql`
    WITH made AS (
      INSERT INTO invoices (label, payment_hash, preimage, payment_secret, amount_msat, min_final_cltv, expires_at)
      SELECT 'old-' || n, sha256(('i' || n)::bytea), sha256(('p' || n)::bytea), sha256(('s' || n)::bytea), 1000, 18,
        now() FROM generate_series(${from}::integer, ${to}::integer) AS n RETURNING invoice
    ) INSERT INTO invoice_payments (invoice, received_msat) SELECT invoice, 1000 FROM made`;
  await sql`
    WITH made AS (
      INSERT INTO payments (payment_hash, groupid, kind, amount_msat, total_msat, final_cltv, mpp, deadline)
      SELECT sha256(('o' || n)::bytea), 1, 'pay', 1000, 1000, 18, true, now()
      FROM generate_series(${from}::integer, ${to}::integer) AS n RETURNING payment, payment_hash
    ), results AS (
      INSERT INTO payment_results (payment, preimage, sent_msat, parts) SELECT payment, sha256('x'), 1000, 1 FROM made
    ), parts AS (
      INSERT INTO part_history (part, payment, partid, channel, amount_msat, sent_msat, created_at, preimage)
      SELECT ${FIRST_KEY}::bigint + payment, payment, 0, 1, 1000, 1000, now(), sha256('x') FROM made
    ) INSERT INTO htlc_history (htlc, channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, preimage,
        created_at)
      SELECT ${FIRST_KEY}::bigint + payment, 0, true, payment, 1000, payment_hash, 300, ${FIRST_KEY}::bigint + payment,
        sha256('x'), now() FROM made`;
}

async function fill(nodes: readonly RunningNode[], payments: number, step: Step): Promise<void> {
  for (let from = 1; from <= payments; from += CHUNK) {
    const to = Math.min(payments, from + CHUNK - 1);
    await Promise.all(nodes.map(({ sql }) => fillChunk(sql, from, to)));
    step.update(`${to} of ${payments}`, to / payments);
  }
}

/** Kills both nodes, starts them again one after the other, and waits until the channel can pay. */
async function restart({ alice, bob, channelId }: Pair): Promise<number> {
  await Promise.all([alice.kill(), bob.kill()]);
  await bob.start();
  const from = performance.now();
  await alice.start();
  const took = performance.now() - from;
  for (const node of [alice, bob]) await untilState(node, channelId, ChannelState.ChanneldNormal);
  await until("the channel is usable", async () => {
    const { channels } = await alice.channeld.listChannels({});
    return channels.some(({ paused, reestablished }) => reestablished && paused === "");
  });
  return took;
}

async function measure(pair: Pair, title: string, progress: Progress): Promise<Measured> {
  const step = progress.step(title);
  const starts = [await restart(pair), await restart(pair)];
  const payer = payerOf("stream", pair.alice, pair.bob);
  try {
    let best: Awaited<ReturnType<typeof runLoad>> | undefined;
    for (let round = 0; round < ROUNDS; round++) {
      const result = await runLoad(
        { payer, workers: WORKERS, msat: MSAT, seconds: SECONDS, payments: MAX_PAYMENTS },
        (done) => step.update(`round ${round + 1} of ${ROUNDS}: ${done} payments`),
      );
      if (result.payments === 0) throw new Error(`no payment succeeded: ${result.failure}`);
      if (best === undefined || result.payments / result.seconds > best.payments / best.seconds) {
        best = result;
      }
    }
    if (best === undefined) throw new Error("nothing was measured");
    const rate = best.payments / best.seconds;
    step.done(`start ${Math.min(...starts).toFixed(0)} ms, ${rate.toFixed(0)} payments/s`);
    return {
      start_ms: Math.min(...starts),
      payments_per_second: rate,
      p50_ms: best.p50,
      p99_ms: best.p99,
    };
  } catch (error) {
    step.fail();
    throw error;
  } finally {
    payer.close();
  }
}

async function main(payments: number, json: boolean): Promise<void> {
  const progress = createProgress();
  const dir = await mkdtemp(join(tmpdir(), "arcus-"));
  const library = await findSecp256k1(progress);
  const postgres = await startPostgres({ progress });
  const chain = await startBitcoind({ progress });
  let pair: Pair | undefined;
  try {
    await chain.mine(1);
    pair = await startPair({ chain, postgres, secp256k1: library?.library, dir }, "processes");
    const before = await measure(pair, "with a short past", progress);
    const step = progress.step(`rows of ${payments} settled payments in both nodes`);
    await fill([pair.alice, pair.bob], payments, step);
    step.done();
    const after = await measure(pair, "with a long past", progress);
    const ratios = {
      start: after.start_ms / before.start_ms,
      payments_per_second: after.payments_per_second / before.payments_per_second,
    };
    if (json) {
      return console.log(JSON.stringify(rounded({ settled_payments: payments, before, after, ratios })));
    }
    console.log(`\n${"".padEnd(22)}${"before".padStart(10)}${"after".padStart(10)}${"ratio".padStart(8)}`);
    for (const key of ["start_ms", "payments_per_second", "p50_ms", "p99_ms"] as const) {
      const [a, b] = [before[key], after[key]];
      console.log(
        `${key.padEnd(22)}${a.toFixed(1).padStart(10)}${b.toFixed(1).padStart(10)}${
          (b / a).toFixed(2).padStart(8)
        }`,
      );
    }
  } finally {
    await pair?.stop();
    await chain.stop();
    await postgres.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      payments: { type: "string", default: String(PAYMENTS) },
      json: { type: "boolean", default: false },
    },
  });
  const payments = Number(values.payments);
  if (!Number.isInteger(payments) || payments < 1) {
    console.error(`--payments ${values.payments}: a number from 1`);
    Deno.exit(2);
  }
  try {
    await main(payments, values.json);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
  Deno.exit(0);
}
