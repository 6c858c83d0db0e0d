import { join } from "node:path";
import { type Progress, withStep } from "tools/progress.ts";
import { cacheDir, installOnce, withFileLock } from "./cache.ts";
import { runGuarded, whichProgram } from "./child.ts";

/** What {@link prepareToolchain} found or installed. */
export interface Toolchain {
  generator: "Ninja" | "Unix Makefiles";
  /** Where cmake finds the Boost headers, when they are not the system's. */
  boostPrefix?: string;
  /** How many compilers may run at once. */
  jobs: number;
}

/** A compiler of Bitcoin Core's larger files takes about this much memory. */
const BYTES_PER_COMPILER = 1.5 * 1024 ** 3;

interface Requirement {
  what: string;
  debian: string;
  present: () => boolean | Promise<boolean>;
}

const anyOf = (...names: string[]) => () => names.some((name) => whichProgram(name) !== undefined);
const CARGO: Requirement = { what: "cargo", debian: "cargo", present: anyOf("cargo") };
const CMAKE: Requirement = { what: "cmake", debian: "cmake", present: anyOf("cmake") };
const COMPILER: Requirement = {
  what: "a C++ compiler",
  debian: "g++",
  present: () => anyOf("c++", "g++", "clang++")() && anyOf("cc", "gcc", "clang")(),
};
const NINJA: Requirement = { what: "ninja", debian: "ninja-build", present: anyOf("ninja") };
const MAKE: Requirement = {
  what: "ninja or make",
  debian: "ninja-build",
  present: anyOf("ninja", "make"),
};
const BOOST: Requirement = { what: "the Boost headers", debian: "libboost-dev", present: hasBoost };

/**
 * Sees to it that C and C++ can be built here. Missing parts are installed with apt-get as root; as another user
 * only the Boost headers can be helped (unpacked into the cache). Throws an error that says what to install.
 */
export async function prepareToolchain(needs: { boost: boolean }, progress: Progress): Promise<Toolchain> {
  return await withFileLock(join(cacheDir(), "toolchain.lock"), progress, async () => {
    const wanted = [CARGO, CMAKE, COMPILER, NINJA, ...(needs.boost ? [BOOST] : [])];
    const missing = await absent(wanted);
    if (missing.length > 0 && Deno.uid() === 0 && whichProgram("apt-get") !== undefined) {
      await aptInstall(missing.map((requirement) => requirement.debian), progress);
    }
    const boostPrefix = needs.boost && !await hasBoost() ? await unpackBoost(progress) : undefined;
    const stillMissing = await absent([CARGO, CMAKE, COMPILER, MAKE]);
    if (needs.boost && boostPrefix === undefined && !await hasBoost()) stillMissing.push(BOOST);
    if (stillMissing.length > 0) throw new Error(missingText(stillMissing));
    return {
      generator: await NINJA.present() ? "Ninja" : "Unix Makefiles",
      ...(boostPrefix === undefined ? {} : { boostPrefix }),
      jobs: compilerJobs(navigator.hardwareConcurrency, Deno.systemMemoryInfo().available),
    };
  });
}

/** How many compilers may run at once on a machine with so many processors and so many free bytes. */
export function compilerJobs(processors: number, freeBytes: number): number {
  return Math.max(1, Math.min(processors, Math.floor(freeBytes / BYTES_PER_COMPILER)));
}

async function absent(requirements: readonly Requirement[]): Promise<Requirement[]> {
  const found = await Promise.all(requirements.map((requirement) => requirement.present()));
  return requirements.filter((_, index) => found[index] !== true);
}

function missingText(missing: readonly Requirement[]): string {
  return `bitcoind must be built here, and this is missing: ${missing.map((it) => it.what).join(", ")}. ` +
    `On Debian or Ubuntu: apt-get install ${missing.map((it) => it.debian).join(" ")}. ` +
    "Or name a bitcoind that you have in ARCUS_BITCOIND.";
}

async function hasBoost(): Promise<boolean> {
  const compiler = ["c++", "g++", "clang++"].map((name) => whichProgram(name)).find((path) =>
    path !== undefined
  );
  if (compiler === undefined) return false;
  const dir = await Deno.makeTempDir({ prefix: "arcus-boost-" });
  try {
    const file = join(dir, "probe.cpp");
    await Deno.writeTextFile(file, "#include <boost/multi_index_container.hpp>\n");
    return (await runGuarded({ cmd: compiler, args: ["-fsyntax-only", file] })).code === 0;
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

const APT_ENV = { DEBIAN_FRONTEND: "noninteractive" };
const APT_WAIT = ["-o", "DPkg::Lock::Timeout=300"];

/** Tries twice, the second time after an update of the lists. What is still missing then is the caller's to see. */
async function aptInstall(packages: readonly string[], progress: Progress): Promise<void> {
  const install = ["install", "-y", "--no-install-recommends", ...packages];
  await withStep(progress, `installing ${packages.join(", ")} (apt-get)`, async () => {
    if ((await apt([...APT_WAIT, ...install])).code === 0) return;
    await apt([...APT_WAIT, "update"]);
    await apt([...APT_WAIT, ...install]);
  });
}

function apt(args: readonly string[], cwd?: string) {
  return runGuarded({ cmd: "apt-get", args, env: APT_ENV, ...(cwd === undefined ? {} : { cwd }) });
}

/** Boost's headers from Debian's package, unpacked into the cache; undefined where that does not work. */
async function unpackBoost(progress: Progress): Promise<string | undefined> {
  if (["apt-get", "apt-cache", "dpkg-deb"].some((name) => whichProgram(name) === undefined)) return undefined;
  try {
    const dir = await installOnce(
      `boost-headers-${Deno.build.target}`,
      progress,
      (into) =>
        withStep(progress, "unpacking the Boost headers (apt-get download)", async () => {
          const work = join(into, "work");
          const state = ["lists/partial", "cache/archives/partial"].map((name) => join(work, name));
          for (const path of state) await Deno.mkdir(path, { recursive: true });
          const own = [
            "-o",
            `Dir::State::lists=${join(work, "lists")}`,
            "-o",
            `Dir::Cache=${join(work, "cache")}`,
          ];
          const updated = await apt([...own, "update"], work);
          if (updated.code !== 0) throw new Error(updated.output);
          const depends = await runGuarded({ cmd: "apt-cache", args: [...own, "depends", "libboost-dev"] });
          const versioned = /Depends:\s*(libboost[0-9.]+-dev)/.exec(depends.output)?.[1];
          if (versioned === undefined) throw new Error("no Boost package in the lists");
          const loaded = await apt([...own, "download", versioned], work);
          if (loaded.code !== 0) throw new Error(loaded.output);
          for await (const { name } of Deno.readDir(work)) {
            if (!name.endsWith(".deb")) continue;
            const unpacked = await runGuarded({ cmd: "dpkg-deb", args: ["-x", join(work, name), into] });
            if (unpacked.code !== 0) throw new Error(unpacked.output);
          }
          await Deno.remove(work, { recursive: true });
        }),
    );
    return join(dir, "usr");
  } catch {
    return undefined;
  }
}
