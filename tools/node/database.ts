/** The database of a node: migrated, with a URL for each daemon's role. */
import { join } from "node:path";
import { migrate } from "common/pg/migrate.ts";
import type { PostgresServer } from "tools/parts/mod.ts";
import { DATABASE_DAEMONS, type DatabaseDaemon, roleOf, ROOT } from "./daemons.ts";

/** Folder of the migrations. */
export const SCHEMA_DIR = join(ROOT, "schema");

/** A migrated database. */
export interface NodeDatabase {
  /** As the owner, who may do everything. */
  readonly url: string;
  readonly name: string;
  /** As each daemon. */
  readonly roles: Readonly<Record<DatabaseDaemon, string>>;
}

const nameOf = (url: string): string => new URL(url).pathname.slice(1);

/** URLs of the daemons' roles for a migrated database. */
async function rolesOf(server: PostgresServer, name: string): Promise<NodeDatabase["roles"]> {
  const roles: Partial<Record<DatabaseDaemon, string>> = {};
  for (const daemon of DATABASE_DAEMONS) roles[daemon] = await server.roleUrlFor(name, roleOf(daemon));
  const { lightningd, dualopend, channeld, closingd } = roles;
  const complete = lightningd !== undefined && dualopend !== undefined && channeld !== undefined;
  if (!complete || closingd === undefined) throw new Error("a daemon without a database role");
  return { lightningd, dualopend, channeld, closingd };
}

/** Makes a database and migrates it, or copies a migrated `template`. */
export async function createNodeDatabase(server: PostgresServer, template?: string): Promise<NodeDatabase> {
  const url = await server.createDatabase(template === undefined ? {} : { template });
  if (template === undefined) await migrateNode(url);
  const name = nameOf(url);
  return { url, name, roles: await rolesOf(server, name) };
}

/** Opens a database that exists, or makes it; migrates it either way. */
export async function openNodeDatabase(server: PostgresServer, name: string): Promise<NodeDatabase> {
  const url = server.urlFor(name);
  try {
    await migrateNode(url);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === UNKNOWN_DATABASE)) throw error;
    await server.createDatabase({ name });
    await migrateNode(url);
  }
  return { url, name, roles: await rolesOf(server, name) };
}

/** Runs the migrations of `schema/`. */
export async function migrateNode(url: string): Promise<void> {
  await migrate({ url, applicationName: "migrate", directory: SCHEMA_DIR });
}

/** Postgres: invalid_catalog_name. */
const UNKNOWN_DATABASE = "3D000";
