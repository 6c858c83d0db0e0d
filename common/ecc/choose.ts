/** Finds the fastest curve provider that passes its self-test. */
import { join } from "node:path";
import { openSecp256k1 } from "common/ecc/ffi.ts";
import type { CurveProvider } from "common/ecc/provider.ts";
import { selfTest } from "common/ecc/self_test.ts";

/** Names a libsecp256k1 file, before all others. */
export const LIBRARY_VARIABLE = "ARCUS_SECP256K1_LIB";
/** Names that the system's loader knows, newest ABI first. */
const SONAMES = ["libsecp256k1.so.6", "libsecp256k1.so.5", "libsecp256k1.so.2", "libsecp256k1.so.1"] as const;
const CACHED_FILE = "libsecp256k1.so";
/** Directories below the cache's root that are searched: `name/lib/file`, and one more. */
const CACHE_DEPTH = 4;
const MAX_CACHE_ENTRIES = 2_000;
const SEED_LENGTH = 32;

/** How {@link chooseEcc} looks. */
export interface ChooseEccOptions {
  /** Used when no library passes; also the oracle of the self-test. */
  readonly fallback: CurveProvider;
  /** Told of every candidate that was there but not taken. */
  readonly log?: (message: string) => void;
  /** Environment; default: the process's, as far as it may be read. */
  readonly env?: (name: string) => string | undefined;
  /** Libraries to try in order, instead of those that the environment, the cache and the system have. */
  readonly candidates?: readonly string[];
}

/** What was taken, and a line for the log that says so. */
export interface ChosenEcc {
  readonly provider: CurveProvider;
  readonly description: string;
}

/** An environment variable, if it may be read without asking the person at the terminal. */
function processEnv(name: string): string | undefined {
  const permission = Deno.permissions.querySync({ name: "env", variable: name });
  return permission.state === "granted" ? Deno.env.get(name) : undefined;
}

function mayLoadLibraries(): boolean {
  return Deno.permissions.querySync({ name: "ffi" }).state === "granted";
}

/** Files of the wanted name below a directory; hidden entries are unfinished installations. */
function findCached(root: string): string[] {
  if (Deno.permissions.querySync({ name: "read", path: root }).state !== "granted") return [];
  const found: string[] = [];
  let budget = MAX_CACHE_ENTRIES;
  const walk = (directory: string, depth: number): void => {
    let entries: Deno.DirEntry[];
    try {
      entries = [...Deno.readDirSync(directory)].sort((a, b) => a.name < b.name ? -1 : 1);
    } catch {
      return;
    }
    for (const entry of entries) {
      if (entry.name.startsWith(".") || budget-- <= 0) continue;
      const path = join(directory, entry.name);
      if (entry.name === CACHED_FILE && !entry.isDirectory) found.push(path);
      else if (entry.isDirectory && depth < CACHE_DEPTH) walk(path, depth + 1);
    }
  };
  walk(root, 1);
  return found;
}

/** The libraries that may be there, best first: named by the environment, in the user's cache, known to the system. */
export function libraryCandidates(env: (name: string) => string | undefined = processEnv): string[] {
  const named = env(LIBRARY_VARIABLE);
  const home = env("HOME");
  const cache = env("XDG_CACHE_HOME") ?? (home === undefined ? undefined : join(home, ".cache"));
  return [
    ...(named === undefined || named === "" ? [] : [named]),
    ...(cache === undefined || cache === "" ? [] : findCached(join(cache, "arcus"))),
    ...SONAMES,
  ];
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : "does not load";
}

/** A soname that this system does not have: the usual case, not worth a line. */
function isAbsent(library: string, message: string): boolean {
  return !library.includes("/") && message.includes("No such file");
}

/**
 * Tries libsecp256k1 by {@link libraryCandidates}, each held against the fallback by a self-test, else takes the
 * fallback. Blinds the library's context with fresh randomness. Never throws and never asks for a permission: without
 * `--allow-ffi` the fallback is taken. The caller logs `description`.
 */
export function chooseEcc(options: ChooseEccOptions): ChosenEcc {
  const { fallback, log = () => {} } = options;
  if (!mayLoadLibraries()) {
    return { provider: fallback, description: `${fallback.name} (no permission to load libsecp256k1)` };
  }
  for (const library of options.candidates ?? libraryCandidates(options.env)) {
    try {
      const provider = openSecp256k1(library, crypto.getRandomValues(new Uint8Array(SEED_LENGTH)), fallback);
      const failure = selfTest(provider, fallback);
      if (failure === null) {
        const without = provider.ownRecovery ? "" : `; keys are recovered by ${fallback.name}`;
        return { provider, description: `libsecp256k1 (${library}${without})` };
      }
      provider.close();
      log(`${library} failed its self-test: ${failure}`);
    } catch (error) {
      const message = reason(error);
      if (!isAbsent(library, message)) log(`${library} not used: ${message}`);
    }
  }
  return { provider: fallback, description: `${fallback.name} (no libsecp256k1 found)` };
}
