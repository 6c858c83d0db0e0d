import { dirname, join, resolve } from "node:path";
import { type Progress, type Step, withStep } from "tools/progress.ts";
import { cacheDir, installOnce, isDirectory, removeDir, waitForFormerBuilder } from "./cache.ts";
import { isExecutable, runGuarded, spawnGuarded, whichProgram } from "./child.ts";
import { BITCOIN_ARCHIVE_VERSION, downloadBitcoin } from "./archive.ts";
import { bitcoinSource, SOURCE_CRATE_VERSION } from "./source.ts";
import { prepareToolchain, type Toolchain } from "./toolchain.ts";

/** A bitcoind that runs on this machine. */
export interface Bitcoind {
  bitcoind: string;
  /** Not every installation has it. */
  bitcoinCli?: string;
  /** The first line of `bitcoind --version`. */
  version: string;
  source: "environment" | "path" | "cache" | "archive" | "built";
}

/** An older bitcoind on PATH is passed over: TRUC, package relay and ephemeral anchors came with this one. */
export const MINIMUM_MAJOR_VERSION = 28;

const BUILT = `bitcoind-built-${SOURCE_CRATE_VERSION}-${Deno.build.target}`;
const FROM_ARCHIVE = `bitcoind-${BITCOIN_ARCHIVE_VERSION}-${Deno.build.target}`;

/**
 * Finds a bitcoind, or gets one: named by ARCUS_BITCOIND, on PATH, in the user cache, from the official archive
 * (checked by its hash), or built from source (minutes, once a machine). Throws an error for people.
 */
export async function findBitcoind(progress: Progress): Promise<Bitcoind> {
  const named = Deno.env.get("ARCUS_BITCOIND");
  if (named !== undefined && named !== "") {
    const found = await inspect(named, "environment");
    if (found === undefined) {
      throw new Error(`ARCUS_BITCOIND names '${named}', which does not run as bitcoind`);
    }
    return found;
  }
  const onPath = whichProgram("bitcoind");
  if (onPath !== undefined) {
    const found = await inspect(onPath, "path");
    if (found !== undefined && majorVersion(found.version) >= MINIMUM_MAJOR_VERSION) return found;
    progress.info(`${onPath} is passed over: ${found?.version ?? "it does not run"}`);
  }
  for (const name of [BUILT, FROM_ARCHIVE]) {
    const found = await inspect(join(cacheDir(), name, "bin", "bitcoind"), "cache");
    if (found !== undefined) return found;
  }
  return await archived(progress) ?? await built(progress);
}

/** The major version in the first line of `bitcoind --version`; 0 if it names none. */
export function majorVersion(versionLine: string): number {
  return Number(/\bv?(\d+)\.\d+/.exec(versionLine)?.[1] ?? 0);
}

async function archived(progress: Progress): Promise<Bitcoind | undefined> {
  try {
    const dir = await installOnce(FROM_ARCHIVE, progress, (into) => downloadBitcoin(into, progress), {
      valid: runs,
    });
    return await inspect(join(dir, "bin", "bitcoind"), "archive");
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    progress.info(`the official bitcoind cannot be had (${why}): it is built from source`);
    return undefined;
  }
}

async function built(progress: Progress): Promise<Bitcoind> {
  const dir = await installOnce(BUILT, progress, (into) => buildBitcoind(into, progress), { valid: runs });
  const found = await inspect(join(dir, "bin", "bitcoind"), "built");
  if (found === undefined) throw new Error(`the bitcoind that was built in ${dir} does not run`);
  return found;
}

async function runs(dir: string): Promise<boolean> {
  return await inspect(join(dir, "bin", "bitcoind"), "cache") !== undefined;
}

/** Undefined if this is no bitcoind that runs here. */
async function inspect(path: string, source: Bitcoind["source"]): Promise<Bitcoind | undefined> {
  const program = whichProgram(path);
  if (program === undefined) return undefined;
  const bitcoind = resolve(program);
  const { code, output } = await runGuarded({ cmd: bitcoind, args: ["--version"] });
  const version = output.split("\n")[0] ?? "";
  if (code !== 0 || !/bitcoin/i.test(version)) return undefined;
  const beside = join(dirname(bitcoind), "bitcoin-cli");
  const bitcoinCli = isExecutable(beside) ? beside : whichProgram("bitcoin-cli");
  return { bitcoind, version, source, ...(bitcoinCli === undefined ? {} : { bitcoinCli }) };
}

const CMAKE_OPTIONS = [
  "-DCMAKE_BUILD_TYPE=Release",
  "-DENABLE_WALLET=OFF",
  "-DENABLE_IPC=OFF",
  "-DWITH_EMBEDDED_ASMAP=OFF",
  "-DWITH_ZMQ=OFF",
  "-DBUILD_TESTS=OFF",
  "-DBUILD_BENCH=OFF",
  "-DBUILD_GUI=OFF",
  "-DBUILD_TX=OFF",
  "-DBUILD_UTIL=OFF",
  "-DBUILD_WALLET_TOOL=OFF",
];

async function buildBitcoind(into: string, progress: Progress): Promise<void> {
  const toolchain = await prepareToolchain({ boost: true }, progress);
  const source = await bitcoinSource(progress);
  // Kept when a build is interrupted, so that the next one goes on where it was.
  const work = join(cacheDir(), `build-${BUILT}`);
  const resumed = await isDirectory(work);
  try {
    await compile(source, work, toolchain, progress);
  } catch (error) {
    if (!resumed) throw error;
    progress.info("the interrupted build cannot go on: starting over");
    await removeDir(work);
    await compile(source, work, toolchain, progress);
  }
  await Deno.mkdir(join(into, "bin"));
  for (const name of ["bitcoind", "bitcoin-cli"]) {
    await Deno.copyFile(join(work, "bin", name), join(into, "bin", name));
    await Deno.chmod(join(into, "bin", name), 0o755);
  }
  await removeDir(work);
}

async function compile(
  source: string,
  work: string,
  toolchain: Toolchain,
  progress: Progress,
): Promise<void> {
  await Deno.mkdir(work, { recursive: true });
  const pidFile = join(work, "builder.pid");
  await waitForFormerBuilder(pidFile);
  await withStep(progress, "configuring bitcoind", async () => {
    const prefix = toolchain.boostPrefix === undefined
      ? []
      : [`-DCMAKE_PREFIX_PATH=${toolchain.boostPrefix}`];
    const args = ["-S", source, "-B", work, "-G", toolchain.generator, ...CMAKE_OPTIONS, ...prefix];
    await runTool("cmake", args, pidFile);
  });
  const title =
    `building bitcoind with ${toolchain.jobs} compilers (once a machine, about 5 minutes on two cores)`;
  await withStep(progress, title, async (step) => {
    // Not through cmake: asked to end, cmake would wait for the build, and its compilers would outlive it.
    const tool = toolchain.generator === "Ninja" ? "ninja" : "make";
    await runTool(tool, ["-C", work, `-j${toolchain.jobs}`, "bitcoind", "bitcoin-cli"], pidFile, step);
  });
}

/** How many last lines of a failed build are shown. */
const SHOWN_LINES = 40;

async function runTool(tool: string, args: readonly string[], pidFile: string, step?: Step): Promise<void> {
  const lines: string[] = [];
  // Somebody is likely to work on this machine while it compiles.
  const nice = whichProgram("nice");
  const child = spawnGuarded({
    cmd: nice ?? tool,
    args: nice === undefined ? args : ["-n", "5", tool, ...args],
    onLine(line) {
      lines.push(line);
      if (lines.length > SHOWN_LINES) lines.shift();
      const fraction = buildFraction(line);
      if (fraction !== undefined) step?.update("", fraction);
    },
  });
  await Deno.writeTextFile(pidFile, String(child.pid));
  const { code } = await child.exited;
  if (code !== 0) throw new Error(`${tool} ended with status ${code}:\n${lines.join("\n")}`);
}

/** How far a build is by a line of ninja (`[12/297] ...`) or of make (`[  4%] ...`); undefined for another line. */
export function buildFraction(line: string): number | undefined {
  const ninja = /^\[(\d+)\/(\d+)\]/.exec(line);
  if (ninja !== null) return Number(ninja[1]) / Number(ninja[2]);
  const make = /^\[\s*(\d+)%\]/.exec(line);
  return make === null ? undefined : Number(make[1]) / 100;
}
