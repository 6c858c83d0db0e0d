/**
 * `deno task bench`: how many payments two nodes settle over one channel, each node as one process per daemon and again as
 * one process, on durable Postgres. Everything runs on this machine, over loopback, and ends by itself.
 *
 *     deno task bench                         both layouts, a table
 *     deno task bench --json                  one JSON object on standard output, progress on standard error
 *     deno task bench --layout one --seconds 5
 *     deno task bench --call unary            a gRPC call each, instead of the stream
 */
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Layout } from "tools/node/launch.ts";
import { findSecp256k1, startBitcoind, startPostgres } from "tools/parts/mod.ts";
import { createProgress, type Progress } from "tools/progress.ts";
import { type Figures, rounded } from "./figures.ts";
import { type BenchParts, type Pair, startPair } from "./layout.ts";
import { type LoadResult, runLoad } from "./load.ts";
import { type Call, CALLS, payerOf } from "./payer.ts";

const WORKERS = 100;
const SECONDS = 15;
const WARM_SECONDS = 5;
const ALONE_PAYMENTS = 300;
const MAX_PAYMENTS = 100_000;
const MSAT = 1000n;
/** 1 sat is dust: no output, no HTLC signature. 1,000 sat has both. */
const AMOUNTS_SAT = [1n, 1000n];
const LAYOUTS: readonly Layout[] = ["processes", "one"];
const GIB = 2 ** 30;

const HELP =
  `deno task bench [--json] [--layout processes|one|both] [--workers N] [--seconds N] [--sat N]... [--call stream|unary]

Two nodes, one channel, durable Postgres: payments a second, latency, and what each daemon uses.

  --json       one JSON object on standard output
  --layout     each node as a process per daemon, as one process, or first one and then the other (default: both)
  --workers    how many make an invoice and pay it at once (default: ${WORKERS})
  --seconds    how long each load lasts (default: ${SECONDS})
  --sat        amount of a payment; may be repeated (default: ${AMOUNTS_SAT.join(" and ")})
  --call       one stream a worker pool, or one gRPC call each (default: stream)`;

interface Options {
  readonly json: boolean;
  readonly layouts: readonly Layout[];
  readonly workers: number;
  readonly seconds: number;
  readonly amounts: readonly bigint[];
  readonly call: Call;
}

class UsageError extends Error {}

function count(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new UsageError(`--${name} ${text}: a number from 1`);
  return value;
}

function optionsOf(args: string[]): Options | null {
  const { values } = parseArgs({
    args,
    options: {
      json: { type: "boolean", default: false },
      layout: { type: "string", default: "both" },
      workers: { type: "string", default: String(WORKERS) },
      seconds: { type: "string", default: String(SECONDS) },
      sat: { type: "string", multiple: true, default: AMOUNTS_SAT.map(String) },
      call: { type: "string", default: "stream" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) return null;
  const layouts = values.layout === "both" ? LAYOUTS : LAYOUTS.filter((each) => each === values.layout);
  if (layouts.length === 0) throw new UsageError(`--layout ${values.layout}: processes, one or both`);
  const call = CALLS.find((each) => each === values.call);
  if (call === undefined) throw new UsageError(`--call ${values.call}: ${CALLS.join(" or ")}`);
  return {
    json: values.json,
    layouts,
    workers: count("workers", values.workers),
    seconds: count("seconds", values.seconds),
    amounts: values.sat.map((text) => BigInt(count("sat", text))),
    call,
  };
}

/** What one layout did. */
interface LayoutFigures {
  readonly layout: Layout;
  readonly loads: readonly Figures[];
  readonly single_p50_ms: number;
  readonly single_p99_ms: number;
  readonly rss_mb: Readonly<Record<string, number>>;
}

async function measured(
  pair: Pair,
  load: () => Promise<LoadResult>,
): Promise<{ readonly result: LoadResult; readonly figures: Omit<Figures, "sat" | "workers"> }> {
  const before = { usage: pair.usage(), counts: await pair.counts() };
  const result = await load();
  if (result.payments === 0) throw new Error(`no payment succeeded: ${result.failure}`);
  const after = { usage: pair.usage(), counts: await pair.counts() };
  const each = (value: number) => value / result.payments;
  const cpu: Record<string, number> = {};
  const rss: Record<string, number> = {};
  for (const [name, { cpuMs, rssMb }] of after.usage) {
    cpu[name] = each(cpuMs - (before.usage.get(name)?.cpuMs ?? 0));
    rss[name] = rssMb;
  }
  const statements = each(after.counts.statements - before.counts.statements);
  return {
    result,
    figures: {
      payments: result.payments,
      failed: result.failed,
      payments_per_second: result.payments / result.seconds,
      p50_ms: result.p50,
      p99_ms: result.p99,
      db_round_trips_per_payment: statements,
      statements_per_payment: statements,
      messages_per_payment: each(after.counts.messages - before.counts.messages),
      cpu_ms_per_payment: cpu,
      rss_mb: rss,
    },
  };
}

async function benchLayout(
  parts: BenchParts,
  layout: Layout,
  options: Options,
  progress: Progress,
): Promise<LayoutFigures> {
  const { workers, seconds, amounts, call } = options;
  const opening = progress.step(`${layout}: two nodes open a channel`);
  const pair = await startPair(parts, layout).catch((error) => {
    opening.fail();
    throw error;
  });
  opening.done();
  const payer = payerOf(call, pair.alice, pair.bob);
  const run = async (title: string, load: Omit<Parameters<typeof runLoad>[0], "payer">) => {
    const step = progress.step(`${layout}: ${title}`);
    try {
      const { result, figures } = await measured(
        pair,
        () => runLoad({ payer, ...load }, (done) => step.update(`${done} payments`)),
      );
      step.done(
        `${result.payments} payments, ${figures.payments_per_second.toFixed(0)}/s, p50 ${
          result.p50.toFixed(1)
        } ms, p99 ${result.p99.toFixed(1)} ms${
          result.failed === 0 ? "" : `, ${result.failed} failed: ${result.failure}`
        }`,
      );
      return figures;
    } catch (error) {
      step.fail();
      throw error;
    }
  };
  try {
    const base = { workers, seconds, payments: MAX_PAYMENTS };
    await run("warming up", { ...base, seconds: Math.min(seconds, WARM_SECONDS), msat: MSAT });
    const loads: Figures[] = [];
    for (const sat of amounts) {
      const figures = await run(`${workers} workers, ${sat} sat`, { ...base, msat: sat * MSAT });
      loads.push({ sat: Number(sat), workers, ...figures });
    }
    const single = await run("one worker alone, 1,000 sat", {
      workers: 1,
      seconds,
      payments: ALONE_PAYMENTS,
      msat: 1000n * MSAT,
    });
    return {
      layout,
      loads,
      single_p50_ms: single.p50_ms,
      single_p99_ms: single.p99_ms,
      rss_mb: single.rss_mb,
    };
  } finally {
    payer.close();
    await pair.stop();
  }
}

function machine(postgresVersion: string, postgresSource: string, secp256k1: string | undefined) {
  const [cpu] = cpus();
  return {
    cpu: cpu?.model ?? "unknown",
    cores: cpus().length,
    memory_gib: totalmem() / GIB,
    system: `${Deno.build.os} ${release()}`,
    deno: Deno.version.deno,
    postgres: `${postgresVersion} (${postgresSource}), synchronous_commit on, fsync on`,
    secp256k1: secp256k1 === undefined ? "noble" : "libsecp256k1",
  };
}

/** What people read. */
function table(layouts: readonly LayoutFigures[]): string {
  const lines: string[] = [];
  const row = (cells: readonly (string | number)[], widths: readonly number[]) =>
    cells.map((cell, index) => String(cell).padStart(widths[index] ?? 0)).join("  ");
  const widths = [10, 6, 8, 11, 8, 8, 11, 12, 12];
  lines.push(
    row(
      ["layout", "sat", "workers", "payments/s", "p50 ms", "p99 ms", "statements", "messages", "CPU ms"],
      widths,
    ),
  );
  for (const { layout, loads, single_p50_ms, single_p99_ms } of layouts) {
    for (const load of loads) {
      const cpu = Object.values(load.cpu_ms_per_payment).reduce((sum, each) => sum + each, 0);
      lines.push(row([
        layout,
        load.sat,
        load.workers,
        load.payments_per_second.toFixed(1),
        load.p50_ms.toFixed(1),
        load.p99_ms.toFixed(1),
        load.statements_per_payment.toFixed(2),
        load.messages_per_payment.toFixed(2),
        cpu.toFixed(2),
      ], widths));
    }
    lines.push(row([layout, 1000, 1, "", single_p50_ms.toFixed(1), single_p99_ms.toFixed(1)], widths));
  }
  for (const { layout, loads, rss_mb } of layouts) {
    lines.push(
      "",
      `${layout}: CPU ms a payment, by process (${
        loads.map(({ sat }) => `${sat} sat`).join(", ")
      }); memory, MiB`,
    );
    for (const [name, rss] of Object.entries(rss_mb)) {
      const cpu = loads.map((load) => (load.cpu_ms_per_payment[name] ?? 0).toFixed(3).padStart(8)).join("");
      lines.push(`  ${name.padEnd(20)}${cpu}  ${rss.toFixed(0).padStart(6)}`);
    }
  }
  return lines.join("\n");
}

async function main(options: Options): Promise<void> {
  const progress = createProgress();
  const dir = await mkdtemp(join(tmpdir(), "arcus-"));
  const library = await findSecp256k1(progress);
  const postgres = await startPostgres({ progress });
  const chain = await startBitcoind({ progress });
  try {
    await chain.mine(1);
    const parts: BenchParts = { chain, postgres, secp256k1: library?.library, dir };
    const layouts: LayoutFigures[] = [];
    for (const layout of options.layouts) layouts.push(await benchLayout(parts, layout, options, progress));
    const about = machine(postgres.version, postgres.source, library?.library);
    if (options.json) {
      console.log(
        JSON.stringify(rounded({ machine: about, call: options.call, workers: options.workers, layouts })),
      );
      return;
    }
    for (const [name, value] of Object.entries(rounded(about))) console.log(`${name.padEnd(12)}${value}`);
    console.log(`\n${table(layouts)}`);
  } finally {
    await chain.stop();
    await postgres.stop();
    await rm(dir, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  try {
    const options = optionsOf(Deno.args);
    if (options === null) console.log(HELP);
    else await main(options);
  } catch (error) {
    if (error instanceof UsageError || error instanceof TypeError && "code" in error) {
      console.error(`${error.message}\n\n${HELP}`);
      Deno.exit(2);
    }
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
  Deno.exit(0);
}
