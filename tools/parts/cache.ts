import { basename, dirname, join } from "node:path";
import type { Progress } from "tools/progress.ts";
import { processExists } from "./child.ts";

/** Where built and downloaded parts are kept: $XDG_CACHE_HOME/arcus, else ~/.cache/arcus. Created if missing. */
export function cacheDir(): string {
  const home = Deno.env.get("HOME");
  const base = Deno.env.get("XDG_CACHE_HOME") ?? (home === undefined ? undefined : join(home, ".cache"));
  if (base === undefined) throw new Error("neither XDG_CACHE_HOME nor HOME is set: no place for a cache");
  const dir = join(base, "arcus");
  Deno.mkdirSync(dir, { recursive: true });
  return dir;
}

/**
 * Runs `work` while no other process, nor another caller in this one, runs under the same `lockFile`. The operating
 * system gives the lock back when the holder dies, however it dies. The file stays: removing it would let two hold
 * "the" lock.
 */
export async function withFileLock<T>(
  lockFile: string,
  progress: Progress,
  work: () => Promise<T>,
): Promise<T> {
  const file = await Deno.open(lockFile, { create: true, write: true });
  try {
    if (!await file.tryLock(true)) {
      const step = progress.step(`waiting for another run (${basename(lockFile)})`);
      await file.lock(true);
      step.done();
    }
    return await work();
  } finally {
    file.close();
  }
}

/**
 * Gives the directory `name` of the cache, filled exactly once by `build`, whoever asks at the same time. `build`
 * fills a directory that nobody else sees; it becomes `name` by one rename when `build` resolves, so a directory of
 * that name is always complete. `valid` may refuse what is there (made for another machine), which builds anew.
 */
export async function installOnce(
  name: string,
  progress: Progress,
  build: (into: string) => Promise<void>,
  options: { root?: string; valid?: (dir: string) => Promise<boolean> } = {},
): Promise<string> {
  const valid = options.valid ?? isDirectory;
  const target = join(options.root ?? cacheDir(), name);
  if (await isDirectory(target) && await valid(target)) return target;
  await Deno.mkdir(dirname(target), { recursive: true });
  return withFileLock(`${target}.lock`, progress, async () => {
    if (await isDirectory(target) && await valid(target)) return target;
    const prefix = `.${basename(target)}-`;
    await removeLeftovers(dirname(target), prefix);
    const fresh = await Deno.makeTempDir({ dir: dirname(target), prefix });
    try {
      await Deno.chmod(fresh, 0o755);
      await build(fresh);
      await removeDir(target);
      await Deno.rename(fresh, target);
    } catch (error) {
      await removeDir(fresh);
      throw error;
    }
    return target;
  });
}

/** What builders that were killed had half filled; their lock is ours now. */
async function removeLeftovers(dir: string, prefix: string): Promise<void> {
  for await (const { name } of Deno.readDir(dir)) {
    if (name.startsWith(prefix)) await removeDir(join(dir, name));
  }
}

/** A former builder that still exists after this time is taken for a stranger with the same process id. */
export const FORMER_BUILDER_DEADLINE_MS = 15_000;

/**
 * A builder that was killed gives its lock back a moment before its compiler is dead. Its process id is left in
 * `pidFile`: waits until that process is gone, or {@link FORMER_BUILDER_DEADLINE_MS}.
 */
export async function waitForFormerBuilder(pidFile: string): Promise<void> {
  const text = await Deno.readTextFile(pidFile).catch(() => "");
  const pid = Number.parseInt(text, 10);
  if (!Number.isSafeInteger(pid) || pid <= 1) return;
  const deadline = performance.now() + FORMER_BUILDER_DEADLINE_MS;
  while (processExists(pid) && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Whether `path` is a directory. */
export async function isDirectory(path: string): Promise<boolean> {
  return await Deno.stat(path).then((info) => info.isDirectory, () => false);
}

/** Removes a directory with its content; it need not exist. */
export async function removeDir(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}
