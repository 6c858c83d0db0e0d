/**
 * Migrates the database and gives each daemon's role its password.
 *
 *     deno run ... deploy/migrate.ts OWNER_URL_FILE [ROLE_URL_FILE...]
 *
 * Each file holds a postgres:// URL. Run again, it changes nothing but passwords that were changed.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { migrate } from "common/pg/migrate.ts";
import { transaction } from "common/pg/client.ts";

const SCHEMA = fileURLToPath(new URL("../schema", import.meta.url));

const [owner, ...roles] = Deno.args.map((path) => readFileSync(path, "utf8").trim());
if (owner === undefined) throw new Error("needs the file with the owner's URL");
const settings = { url: owner, applicationName: "migrate" };
const { applied, version } = await migrate({ ...settings, directory: SCHEMA });
await transaction(settings, async (sql) => {
  for (const role of roles.map((url) => new URL(url))) {
    const [name, password] = [role.username, role.password].map(decodeURIComponent);
    if (!name || !password) throw new Error("a role's URL without a name or a password");
    const [row] = await sql<{ command: string }[]>`
      select format('alter role %I login password %L', ${name}::text, ${password}::text) as command`;
    if (row !== undefined) await sql.unsafe(row.command);
  }
});
console.log(
  `schema version ${version}, ${applied.length} migrations applied, ${roles.length} roles may log in`,
);
