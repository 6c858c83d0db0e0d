/**
 * `deno task test`: gets the real parts (bitcoind, Postgres, libsecp256k1) onto the machine, runs every test against
 * them, and ends with the true count. Arguments are passed on to `deno test`; `--full` also runs on separate processes
 * what is otherwise run in the one-process layout.
 */
import { findBitcoind, findSecp256k1, startPostgres } from "./parts/mod.ts";
import { createProgress } from "./progress.ts";

/** The counts of a run of `deno test`. */
export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly ignored: number;
}

/** Reads the summary of `deno test`, e.g. "ok | 68 passed (12 steps) | 0 failed | 2 ignored (4s)". */
export function parseSummary(output: string): Counts | undefined {
  const line = output.split("\n").findLast((l) => /\d+ passed.*\d+ failed/.test(l));
  if (line === undefined) return undefined;
  const number = (word: string) => Number(new RegExp(`(\\d+) ${word}`).exec(line)?.[1] ?? 0);
  return { passed: number("passed"), failed: number("failed"), ignored: number("ignored") };
}

/** The last line: what CI reads. */
export function closingLine({ passed, failed, ignored }: Counts): string {
  return `${passed} passed, ${failed} failed${ignored > 0 ? `, ${ignored} skipped` : ""}`;
}

async function run(): Promise<number> {
  const progress = createProgress();
  const full = Deno.args.includes("--full");
  const paths = Deno.args.filter((arg) => arg !== "--full");
  const bitcoind = await findBitcoind(progress);
  const library = await findSecp256k1(progress);
  const postgres = await startPostgres();
  try {
    const command = new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", "--quiet", "--parallel", ...(paths.length > 0 ? paths : ["."])],
      env: {
        NO_COLOR: "1",
        ARCUS_BITCOIND: bitcoind.bitcoind,
        ...(library === undefined ? {} : { ARCUS_SECP256K1_LIB: library.library }),
        ARCUS_TEST_DATABASE_URL: postgres.urlFor("postgres"),
        ...(full ? { ARCUS_TEST_FULL: "1" } : {}),
      },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    });
    const child = command.spawn();
    let tail = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      await Deno.stdout.write(new TextEncoder().encode(chunk));
      tail = (tail + chunk).slice(-4000);
    }
    const { code } = await child.status;
    const counts = parseSummary(tail);
    await postgres.stop();
    if (counts === undefined) {
      console.log("0 passed, 1 failed");
      return code === 0 ? 1 : code;
    }
    console.log(closingLine(counts));
    return code;
  } finally {
    await postgres.stop();
  }
}

if (import.meta.main) Deno.exit(await run());
