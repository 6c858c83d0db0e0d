/** `deno task migrate`: brings the database of ARCUS_DATABASE_URL to this build's schema. Safe to run again, and by several at once. */
import { join } from "node:path";
import { migrate } from "common/pg/migrate.ts";
import { ROOT } from "tools/node/daemons.ts";

async function run(): Promise<number> {
  const url = Deno.env.get("ARCUS_DATABASE_URL");
  if (url === undefined || url === "") {
    console.error("ARCUS_DATABASE_URL names no database");
    return 2;
  }
  const { applied, version } = await migrate({
    url,
    applicationName: "migrate",
    directory: join(ROOT, "schema"),
  });
  console.log(applied.length === 0 ? `at version ${version} already` : `migrated to version ${version}`);
  return 0;
}

if (import.meta.main) Deno.exit(await run());
