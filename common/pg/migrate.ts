/** Migrations: `NNNN_name.sql` files, applied in order, each once, all pending ones in one transaction. */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type ConnectionOptions, type Sql, transaction } from "common/pg/client.ts";

/** Serializes runners, whatever schema they migrate: "arcus" in ASCII. */
const LOCK_KEY = 0x6172637573n;
/** A migration may rewrite a table. */
const MIGRATION_TIMEOUT_MS = 10 * 60_000;
const FILE_NAME = /^(\d{4})_([a-z0-9_]+)\.sql$/;
/** The runner's transaction is the only one; plpgsql's BEGIN has no semicolon. */
const OWN_TRANSACTION = /^\s*(begin|commit|rollback)(\s+(transaction|work))?\s*;/im;

/** A migration file. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly text: string;
  /** SHA-256 of the text, hex. */
  readonly sha256: string;
}

/** What a run did. */
export interface MigrationResult {
  /** Versions applied by this run. */
  readonly applied: readonly number[];
  /** The highest version in the database afterwards; above the files' own when a newer build migrated before. */
  readonly version: number;
}

/** Settings of a run. */
export interface MigrateOptions extends ConnectionOptions {
  /** Folder of the files. */
  readonly directory: string;
}

/** Reads a folder. Throws on a name that does not fit, a version twice or missing, or a file with transactions of its own. */
export async function readMigrations(directory: string): Promise<Migration[]> {
  const migrations: Migration[] = [];
  for (const file of (await readdir(directory)).sort()) {
    if (!file.endsWith(".sql")) continue;
    const match = FILE_NAME.exec(file);
    if (match === null || match[1] === undefined || match[2] === undefined) {
      throw new Error(`${file}: a migration is called NNNN_name.sql`);
    }
    const version = Number(match[1]);
    if (version !== migrations.length + 1) {
      throw new Error(`${file}: expected version ${migrations.length + 1}`);
    }
    const text = await readFile(join(directory, file), "utf8");
    if (OWN_TRANSACTION.test(text)) {
      throw new Error(`${file}: BEGIN, COMMIT and ROLLBACK belong to the runner`);
    }
    migrations.push({
      version,
      name: match[2],
      text,
      sha256: createHash("sha256").update(text).digest("hex"),
    });
  }
  return migrations;
}

async function appliedSoFar(sql: Sql): Promise<Map<number, { name: string; sha256: string }>> {
  await sql`
    create table if not exists migrations (
      version integer primary key,
      name text not null,
      sha256 text not null,
      applied_at timestamptz not null default now()
    )`;
  const rows = await sql<{ version: number; name: string; sha256: string }[]>`
    select version, name, sha256 from migrations order by version`;
  return new Map(rows.map((row) => [row.version, row]));
}

/**
 * Applies what is missing. Several runners at once are safe: one applies, the others find nothing to do. Throws, and changes
 * nothing, when a file that was applied has been edited or renamed, or when a statement fails.
 */
export async function migrate(options: MigrateOptions): Promise<MigrationResult> {
  const migrations = await readMigrations(options.directory);
  const settings = { ...options, statementTimeoutMs: options.statementTimeoutMs ?? MIGRATION_TIMEOUT_MS };
  return await transaction(settings, async (sql) => {
    await sql`select pg_advisory_xact_lock(${LOCK_KEY})`;
    if (options.schema !== undefined) await sql`create schema if not exists ${sql(options.schema)}`;
    const known = await appliedSoFar(sql);
    const applied: number[] = [];
    for (const { version, name, text, sha256 } of migrations) {
      const earlier = known.get(version);
      if (earlier !== undefined) {
        if (earlier.sha256 !== sha256 || earlier.name !== name) {
          throw new Error(
            `migration ${version} (${earlier.name}) was edited or renamed after it was applied`,
          );
        }
        continue;
      }
      if ([...known.keys()].some((other) => other > version)) {
        throw new Error(`migration ${version} (${name}) is older than what the database has`);
      }
      await sql.unsafe(text).simple();
      await sql`insert into migrations (version, name, sha256) values (${version}, ${name}, ${sha256})`;
      applied.push(version);
    }
    return { applied, version: Math.max(0, ...known.keys(), ...applied) };
  });
}
