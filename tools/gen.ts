/**
 * Generates `gen/` from `proto/`.
 *
 *     deno task gen          lint the contracts, write gen/
 *     deno task gen:check    lint, generate beside, fail if gen/ differs
 *     deno task gen:breaking [REF]   fail if a contract changed incompatibly since a commit (default: HEAD)
 */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** 1.75.0 lacks a platform package, and `deno install` fails on it. */
const BUF = "npm:@bufbuild/buf@1.74.0/buf";
/** Its lock pins buf and the plugin; the daemons' own lock and node_modules stay free of them. */
const CONFIG = "tools/codegen/deno.json";
const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Runs buf from its npm package, which carries the binary: nothing is fetched at run time but that package. */
async function buf(...args: string[]): Promise<void> {
  const path = `${dirname(Deno.execPath())}${delimiter}${Deno.env.get("PATH") ?? ""}`;
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", "--config", CONFIG, BUF, ...args],
    cwd: ROOT,
    env: { PATH: path },
    stdout: "inherit",
    stderr: "inherit",
  }).spawn().status;
  if (code !== 0) {
    console.error(`buf ${args[0]} failed`);
    Deno.exit(code);
  }
}

/** The files under `folder`, as relative path to text. */
async function tree(folder: string): Promise<Map<string, string>> {
  const files = new Map<string, string>();
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    files.set(path.slice(folder.length + 1), await readFile(path, "utf8"));
  }
  return files;
}

/** The paths that are not the same in both trees. */
function differences(left: Map<string, string>, right: Map<string, string>): string[] {
  const paths = new Set([...left.keys(), ...right.keys()]);
  return [...paths].filter((path) => left.get(path) !== right.get(path)).sort();
}

/**
 * Generates into a temporary folder and compares. With `write`, only the files that differ are replaced, so whoever
 * reads gen/ meanwhile never finds it empty.
 */
async function generate(write: boolean): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "arcus-gen-"));
  try {
    await buf("generate", "-o", folder);
    const fresh = await tree(join(folder, "gen"));
    const stale = differences(fresh, await tree(join(ROOT, "gen")));
    for (const path of stale) {
      const target = join(ROOT, "gen", path);
      const text = fresh.get(path);
      if (!write) {
        console.error(`differs: gen/${path}`);
      } else if (text === undefined) {
        await rm(target);
        console.log(`removed gen/${path}`);
      } else {
        await mkdir(dirname(target), { recursive: true });
        await writeFile(target, text);
        console.log(`wrote gen/${path}`);
      }
    }
    if (stale.length === 0) console.log("gen/ matches proto/");
    else if (!write) {
      console.error("run: deno task gen");
      Deno.exitCode = 1;
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const [mode, against = "HEAD"] = Deno.args;
switch (mode) {
  case undefined:
    await buf("lint");
    await generate(true);
    break;
  case "check":
    await buf("lint");
    await generate(false);
    break;
  case "breaking":
    await buf("breaking", "--against", `.git#ref=${against}`);
    break;
  default:
    console.error("usage: gen.ts [check | breaking [commit]]");
    Deno.exit(2);
}
