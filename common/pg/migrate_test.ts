import assert from "node:assert/strict";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { transaction } from "common/pg/client.ts";
import { migrate, readMigrations } from "common/pg/migrate.ts";
import { usePostgres } from "common/testing/database.ts";
import { tempFolder } from "common/testing/temp.ts";

const postgres = await usePostgres();

/** A fresh database, and a folder with two migrations. */
async function prepared() {
  const database = await postgres.freshDatabase();
  const folder = await tempFolder();
  const put = (name: string, text: string) => writeFile(join(folder.path, name), text);
  await put(
    "0001_channels.sql",
    "create table channels (id bigint primary key);\ncreate index on channels (id);",
  );
  await put("0002_seed.sql", "insert into channels values (1); insert into channels values (2);");
  const options = { url: database.url, applicationName: "migrate", directory: folder.path };
  const count = (schema = "public") =>
    transaction(options, async (sql) => {
      const [row] = await sql<{ count: bigint }[]>`select count(*) from ${sql(schema)}.channels`;
      return row?.count;
    });
  return {
    options,
    put,
    count,
    folder: folder.path,
    async [Symbol.asyncDispose]() {
      await folder[Symbol.asyncDispose]();
      await database.drop();
    },
  };
}

Deno.test("migrate: applies in order, once", async () => {
  await using migrations = await prepared();
  const { options, put, count } = migrations;
  assert.deepEqual(await migrate(options), { applied: [1, 2], version: 2 });
  assert.deepEqual(await migrate(options), { applied: [], version: 2 });
  await put("0003_more.sql", "insert into channels values (3);");
  assert.deepEqual(await migrate(options), { applied: [3], version: 3 });
  assert.equal(await count(), 3n);
});

Deno.test("migrate: of many runners at once one applies", async () => {
  await using migrations = await prepared();
  const { options, count } = migrations;
  const results = await Promise.all(Array.from({ length: 6 }, () => migrate(options)));
  assert.deepEqual(results.map((result) => result.applied.length).sort(), [0, 0, 0, 0, 0, 2]);
  assert.equal(await count(), 2n);
});

Deno.test("migrate: an edited or renamed file is refused and changes nothing", async () => {
  await using migrations = await prepared();
  const { options, put, count, folder } = migrations;
  await migrate(options);
  await put("0003_more.sql", "insert into channels values (3);");
  await put("0002_seed.sql", "insert into channels values (7);");
  await assert.rejects(migrate(options), /migration 2 \(seed\) was edited/);
  await put("0002_seed.sql", "insert into channels values (1); insert into channels values (2);");
  await rename(join(folder, "0002_seed.sql"), join(folder, "0002_corn.sql"));
  await assert.rejects(migrate(options), /migration 2 \(seed\) was edited or renamed/);
  assert.equal(await count(), 2n);
});

Deno.test("migrate: a failing statement takes back the whole run", async () => {
  await using migrations = await prepared();
  const { options, put } = migrations;
  await put("0003_wrong.sql", "insert into channels values (3); insert into nowhere values (1);");
  await assert.rejects(migrate(options), /nowhere/);
  await transaction(options, async (sql) => {
    const [row] =
      await sql`select to_regclass('channels') as channels, to_regclass('migrations') as migrations`;
    assert.deepEqual({ ...row }, { channels: null, migrations: null });
  });
});

Deno.test("migrate: a database that a newer build migrated is left alone", async () => {
  await using migrations = await prepared();
  const { options, put, folder } = migrations;
  await put("0003_more.sql", "insert into channels values (3);");
  await migrate(options);
  await rename(join(folder, "0003_more.sql"), join(folder, "later"));
  assert.deepEqual(await migrate(options), { applied: [], version: 3 });
});

Deno.test("migrate: each schema has its own history", async () => {
  await using migrations = await prepared();
  const { options, count } = migrations;
  assert.deepEqual((await migrate({ ...options, schema: "alice" })).applied, [1, 2]);
  assert.deepEqual((await migrate({ ...options, schema: "bob" })).applied, [1, 2]);
  assert.equal(await count("alice"), 2n);
  assert.equal(await count("bob"), 2n);
});

Deno.test("migrate: file names in sequence, and no transactions of their own", async () => {
  await using folder = await tempFolder();
  const put = (name: string, text: string) => writeFile(join(folder.path, name), text);
  await put("0002_late.sql", "select 1;");
  await assert.rejects(readMigrations(folder.path), /expected version 1/);
  await put(
    "0001_function.sql",
    "create function f() returns int language plpgsql as $$\nbegin\n return 1;\nend $$;",
  );
  await put("README.md", "not a migration");
  assert.deepEqual((await readMigrations(folder.path)).map(({ version, name }) => [version, name]), [
    [1, "function"],
    [2, "late"],
  ]);
  await put("0003_own.sql", "select 1;\n  COMMIT;\nselect 2;");
  await assert.rejects(readMigrations(folder.path), /0003_own.sql: BEGIN, COMMIT/);
  await put("0003_own.sql", "select 1;");
  await put("4_short.sql", "select 1;");
  await assert.rejects(readMigrations(folder.path), /4_short.sql: a migration is called/);
});
