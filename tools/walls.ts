/**
 * The import walls of docs/architecture.md: which folder may import which. Run by `deno task check`.
 *
 * - `bolt/` is pure: only crypto and bitcoin libraries, and itself.
 * - `common/` knows no Lightning: no `bolt/`, no service, no contract but the ones every gRPC server has.
 * - `subd/` is what every subd stands on: `bolt/`, `common/`, `gen/`.
 * - A service imports `bolt/`, `common/`, `subd/`, `gen/` and itself, never another service.
 * - The command line imports `common/` and `gen/` only: it is a client like any other.
 */
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** Where an import points: a folder of ours, or a package. */
type Target = { readonly kind: "file"; readonly path: string } | {
  readonly kind: "package";
  readonly name: string;
};

/** Why an import may not be. */
export interface Breach {
  readonly file: string;
  readonly specifier: string;
  readonly rule: string;
}

const PURE_PACKAGES = [
  "@noble/",
  "@scure/",
  "bitcoinjs-lib",
  "node:crypto",
];
const TEST_PACKAGES = ["fast-check", "node:assert/strict", "node:buffer"];
const FOLDERS = ["bolt/", "common/", "gen/", "subd/", "tools/", "tests/"];
const IMPORT =
  /(?:^|\n)\s*(?:import|export)\b[^;'"]*?from\s*["']([^"']+)["']|(?:^|\n)\s*import\s*["']([^"']+)["']|\bimport\(\s*["']([^"']+)["']\s*\)/g;

function target(file: string, specifier: string): Target {
  if (specifier.startsWith(".")) {
    return { kind: "file", path: relative(ROOT, resolve(ROOT, dirname(file), specifier)) };
  }
  const folder = FOLDERS.find((f) => specifier.startsWith(f));
  return folder === undefined ? { kind: "package", name: specifier } : { kind: "file", path: specifier };
}

const isTest = (file: string) =>
  file.endsWith("_test.ts") || file.includes("/testing/") || file.endsWith("/testing.ts") ||
  file.endsWith("/arbitraries.ts");

/** Judges one import of one file; undefined if it may be. */
export function judge(file: string, specifier: string): string | undefined {
  const to = target(file, specifier);
  if (file.startsWith("bolt/")) {
    if (to.kind === "package") {
      const allowed = isTest(file) ? [...PURE_PACKAGES, ...TEST_PACKAGES] : PURE_PACKAGES;
      return allowed.some((p) => to.name.startsWith(p))
        ? undefined
        : "bolt/ imports only crypto and bitcoin libraries";
    }
    return to.path.startsWith("bolt/") || (isTest(file) && to.path.startsWith("tests/data/"))
      ? undefined
      : "bolt/ imports nothing of ours but bolt/";
  }
  if (to.kind === "package") return undefined;
  const inside = (...folders: string[]) => folders.some((f) => to.path.startsWith(f));
  if (file.startsWith("common/")) {
    if (inside("common/", "gen/google/", "gen/grpc/", "gen/arcus/testing/", "gen/arcus/options/")) {
      return undefined;
    }
    return isTest(file) && inside("tools/parts/", "tools/progress.ts", "gen/")
      ? undefined
      : "common/ knows no Lightning and no service";
  }
  const service = /^services\/([^/]+)\//.exec(file)?.[1];
  if (service !== undefined) {
    if (inside("bolt/", "common/", "gen/", "subd/", `services/${service}/`)) return undefined;
    return isTest(file) && inside("tools/", "tests/lib/", "tests/data/")
      ? undefined
      : "a service imports bolt/, common/, gen/ and itself, never another service";
  }
  if (file.startsWith("subd/")) {
    return inside("bolt/", "common/", "gen/", "subd/")
      ? undefined
      : "subd/ imports bolt/, common/, gen/ and itself";
  }
  if (file.startsWith("cli/")) {
    if (inside("cli/", "common/", "gen/")) return undefined;
    return isTest(file) && inside("tools/", "tests/")
      ? undefined
      : "the command line is a client: common/ and gen/ only";
  }
  return undefined;
}

/** Every import of a source text. */
export function importsOf(source: string): string[] {
  return [...source.matchAll(IMPORT)].map((m) => (m[1] ?? m[2] ?? m[3])!);
}

async function* sources(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(join(ROOT, folder))) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* sources(path);
    else if (path.endsWith(".ts")) yield path;
  }
}

/** All breaches in the tree. */
export async function breaches(): Promise<Breach[]> {
  const found: Breach[] = [];
  for (const folder of ["bolt", "common", "subd", "services", "cli"]) {
    for await (const file of sources(folder)) {
      for (const specifier of importsOf(await Deno.readTextFile(join(ROOT, file)))) {
        const rule = judge(file, specifier);
        if (rule !== undefined) found.push({ file, specifier, rule });
      }
    }
  }
  return found;
}

if (import.meta.main) {
  const found = await breaches();
  for (const { file, specifier, rule } of found) console.error(`${file}: imports ${specifier}: ${rule}`);
  if (found.length > 0) Deno.exit(1);
  console.log("import walls hold");
}
