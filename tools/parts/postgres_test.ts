import assert from "node:assert/strict";
import { join } from "node:path";
import postgres from "postgres";
import { quietProgress } from "tools/progress.ts";
import { processExists } from "./child.ts";
import { killParentOf, untilNothingIsLeft } from "./fixtures/killed_parent.ts";
import { MAX_CONNECTIONS, type PostgresServer, startPostgres } from "./postgres.ts";
import { findPostgres } from "./postgres_binaries.ts";
import { unprivilegedUser } from "./unprivileged.ts";

async function withServer(work: (server: PostgresServer) => Promise<void>): Promise<void> {
  const server = await startPostgres({ url: null });
  try {
    await work(server);
  } finally {
    await server.stop();
  }
}

async function query<T extends postgres.Row>(url: string, text: string): Promise<T[]> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    return await sql.unsafe<T[]>(text);
  } finally {
    await sql.end();
  }
}

const databaseOf = (url: string) => new URL(url).pathname.slice(1);

Deno.test("two servers at once, durable, and nothing left behind", async () => {
  const servers = await Promise.all([startPostgres({ url: null }), startPostgres({ url: null })]);
  try {
    for (const server of servers) {
      const names = ["fsync", "synchronous_commit", "full_page_writes", "max_connections"];
      const list = names.map((name) => `current_setting('${name}') AS ${name}`).join(", ");
      const [row] = await query(server.urlFor("postgres"), `SELECT ${list}`);
      assert.deepEqual({ ...row }, {
        fsync: "on",
        synchronous_commit: "on",
        full_page_writes: "on",
        max_connections: String(MAX_CONNECTIONS),
      });
    }
    assert.notEqual(servers[0].urlFor("postgres"), servers[1].urlFor("postgres"));
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
  for (const server of servers) {
    assert.equal(server.pid, undefined);
    await assert.rejects(Deno.stat(server.dir ?? ""), Deno.errors.NotFound);
  }
});

Deno.test("databases of one server do not see each other; a template is copied; dropping removes", () =>
  withServer(async (server) => {
    const [one, other] = await Promise.all([server.createDatabase(), server.createDatabase()]);
    await query(one, "CREATE TABLE things (x int)");
    await query(one, "INSERT INTO things VALUES (7)");
    await assert.rejects(query(other, "SELECT x FROM things"), /does not exist/);
    const copy = await server.createDatabase({ name: "copied", template: databaseOf(one) });
    assert.equal(databaseOf(copy), "copied");
    assert.deepEqual((await query(copy, "SELECT x FROM things")).map(({ x }) => x), [7]);
    await server.dropDatabase("copied");
    await assert.rejects(query(copy, "SELECT 1"), /does not exist/);
    await server.dropDatabase("copied");
  }));

Deno.test("a name that is no plain name is refused", () =>
  withServer(async (server) => {
    for (const name of ["", "a b", 'a"b', "A", "1a", "a".repeat(64)]) {
      await assert.rejects(server.createDatabase({ name }), RangeError);
    }
  }));

Deno.test("nobody enters without the password; a role enters with its own", () =>
  withServer(async (server) => {
    const url = await server.createDatabase();
    await query(url, "CREATE ROLE reader NOLOGIN");
    const wrong = new URL(url);
    wrong.password = "wrong";
    await assert.rejects(query(wrong.href, "SELECT 1"), /password authentication failed/);
    const roleUrls = await Promise.all([1, 2, 3].map(() => server.roleUrlFor(databaseOf(url), "reader")));
    assert.equal(new Set(roleUrls).size, 1);
    const [row] = await query(roleUrls[0] ?? "", "SELECT current_user AS who");
    assert.equal(row?.who, "reader");
  }));

Deno.test("what was committed outlives SIGKILL, on the same port", () =>
  withServer(async (server) => {
    const url = await server.createDatabase();
    await query(url, "CREATE TABLE things AS SELECT 7 AS x");
    const pid = server.pid ?? 0;
    await server.kill();
    assert.equal(processExists(pid), false);
    await server.restart();
    assert.deepEqual((await query(url, "SELECT x FROM things")).map(({ x }) => x), [7]);
    await server.restart();
    assert.deepEqual((await query(url, "SELECT x FROM things")).map(({ x }) => x), [7]);
  }));

Deno.test("a named directory is used again, with its password", async () => {
  const dir = await Deno.makeTempDir({ dir: "/tmp", prefix: "arcus-postgres-test-" });
  await Deno.chmod(dir, 0o755);
  try {
    const urls: string[] = [];
    for (let round = 0; round < 2; round++) {
      const server = await startPostgres({ url: null, dir: join(dir, "server") });
      try {
        if (round === 0) await server.createDatabase({ name: "kept" });
        urls.push(server.urlFor("kept"));
        await query(server.urlFor("kept"), "SELECT 1");
      } finally {
        await server.stop();
      }
    }
    assert.equal(new Set(urls.map((url) => new URL(url).password)).size, 1);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("a server of the environment: databases are made in it and dropped at the end", () =>
  withServer(async (own) => {
    const server = await startPostgres({ url: own.urlFor("postgres") });
    assert.equal(server.source, "environment");
    assert.equal(server.version, own.version);
    const url = await server.createDatabase();
    await query(url, "SELECT 1");
    await assert.rejects(server.kill());
    await server.stop();
    await assert.rejects(query(url, "SELECT 1"), /does not exist/);
    await query(own.urlFor("postgres"), "SELECT 1");
  }));

Deno.test("a server of the environment that is not there is a clear error without its password", async () => {
  await assert.rejects(
    startPostgres({ url: "postgres://somebody:secret@127.0.0.1:1/postgres" }),
    (error) =>
      error instanceof Error && /ARCUS_DATABASE_URL/.test(error.message) && !/secret/.test(error.message),
  );
});

Deno.test("the server of the npm package runs too", async () => {
  const binaries = await findPostgres(unprivilegedUser(), quietProgress, EMBEDDED_MAJOR);
  const server = await startPostgres({ url: null, binaries });
  try {
    const [row] = await query(await server.createDatabase(), "SELECT current_setting('fsync') AS fsync");
    assert.equal(row?.fsync, "on");
    assert.ok(server.version.startsWith(`${EMBEDDED_MAJOR}.`));
  } finally {
    await server.stop();
  }
});

Deno.test("a parent killed with SIGKILL leaves no Postgres and no directory", async () => {
  await untilNothingIsLeft(await killParentOf("postgres", "SIGKILL"));
});

const EMBEDDED_MAJOR = 18;
