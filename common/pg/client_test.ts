import assert from "node:assert/strict";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import { codeOf, DatabaseLostError, openDatabase, type Sql, transaction } from "common/pg/client.ts";

const postgres = await usePostgres({ own: true });

/** Ends every other session of this database, as an administrator or a failover would. */
async function killOthers(url: string, condition = "true"): Promise<number> {
  return await transaction({ url, applicationName: "killer" }, async (sql) => {
    const rows = await sql.unsafe(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend' and ${condition}`,
    );
    return rows.length;
  });
}

/** A database with one table, and its settings. */
async function prepared() {
  const database = await postgres.freshDatabase();
  const options = { url: database.url, applicationName: "victim" };
  await transaction(options, async (sql) => {
    await sql`create table facts (id bigint primary key, text text not null)`;
  });
  return { options, [Symbol.asyncDispose]: () => database.drop() };
}

async function facts(options: { url: string; applicationName: string }): Promise<bigint[]> {
  return await transaction(options, async (sql) => {
    const rows = await sql<{ id: bigint }[]>`select id from facts order by id`;
    return rows.map((row) => row.id);
  });
}

Deno.test("pg: int8 is bigint, numeric is text, bytea is bytes, each with its whole range", async () => {
  await using database = await postgres.freshDatabase();
  const { sql, close } = await openDatabase({ url: database.url, applicationName: "types" });
  const [row] = await sql<{ big: bigint; wide: string; bytes: Uint8Array }[]>`
    select ${9223372036854775807n}::bigint as big, ${String(18446744073709551615n)}::numeric(20) as wide,
      ${new Uint8Array([0, 255])}::bytea as bytes`;
  assert.equal(row?.big, 9223372036854775807n);
  assert.equal(row?.wide, "18446744073709551615");
  assert.deepEqual(new Uint8Array(row?.bytes ?? []), new Uint8Array([0, 255]));
  const [name] = await sql`select current_setting('application_name') as name`;
  assert.equal(name?.name, "types");
  await close();
});

Deno.test("pg: the pool refuses what is not safe on it", async () => {
  await using database = await postgres.freshDatabase();
  const { sql, close } = await openDatabase({ url: database.url, applicationName: "refuse" });
  assert.throws(() => sql.begin(async () => {}), /not safe/);
  assert.throws(() => sql.reserve(), /not safe/);
  await close();
});

Deno.test("pg: a statement that takes too long is cancelled", async () => {
  await using database = await postgres.freshDatabase();
  const { sql, close } = await openDatabase({
    url: database.url,
    applicationName: "slow",
    statementTimeoutMs: 50,
  });
  await assert.rejects(sql`select pg_sleep(10)`, (error) => codeOf(error) === "57014");
  await close();
});

Deno.test("pg: a transaction commits as a whole, and rolls back as a whole", async () => {
  await using database = await prepared();
  const { options } = database;
  await transaction(options, async (sql) => {
    await sql`insert into facts values (1, 'a')`;
    await sql`insert into facts values (2, 'b')`;
  });
  await assert.rejects(
    transaction(options, async (sql) => {
      await sql`insert into facts values (3, 'c')`;
      throw new Error("no");
    }),
    /no/,
  );
  await assert.rejects(
    transaction(options, async (sql) => {
      await sql`insert into facts values (4, 'd')`;
      await sql`insert into facts values (1, 'again')`;
    }),
    (error) => codeOf(error) === "23505",
  );
  // An error that the work swallowed has aborted the transaction all the same: COMMIT must not pass for success.
  await assert.rejects(
    transaction(options, async (sql) => {
      await sql`insert into facts values (5, 'e')`;
      await sql`insert into facts values (1, 'again')`.catch(() => {});
    }),
    /rolled back: a statement failed/,
  );
  assert.deepEqual(await facts(options), [1n, 2n]);
});

Deno.test("pg: a backend that dies between the statements of a transaction loses all of it", async () => {
  await using database = await prepared();
  const { options } = database;
  await assert.rejects(
    transaction(options, async (sql) => {
      await sql`insert into facts values (1, 'a')`;
      assert.equal(await killOthers(options.url, "application_name = 'victim'"), 1);
      // A client that reconnects would commit this on its own.
      await sql`insert into facts values (2, 'b')`.catch(() => {});
      await sql`insert into facts values (3, 'c')`.catch(() => {});
    }),
    (error) => error instanceof DatabaseLostError && !error.outcomeUnknown || codeOf(error) === "57P01",
  );
  assert.deepEqual(await facts(options), []);
});

Deno.test("pg: a backend that dies during statements of a transaction rejects, whatever the work waits for", async () => {
  await using database = await prepared();
  const { options } = database;
  const started = Promise.withResolvers<void>();
  const work = transaction(options, async (sql) => {
    await sql`insert into facts values (1, 'a')`;
    const sleeping = sql`select pg_sleep(60)`.catch(() => {});
    const queued = Array.from(
      { length: 5 },
      (_, id) => sql`insert into facts values (${id + 10}, 'q')`.catch(() => {}),
    );
    started.resolve();
    await Promise.all([sleeping, ...queued]);
    await new Promise(() => {});
  });
  const failed = assert.rejects(work, DatabaseLostError);
  await started.promise;
  await waitFor(
    () => killOthers(options.url, "query like '%pg_sleep(60)%' and state = 'active'").then((n) => n > 0),
    {
      what: "the sleeping statement",
    },
  );
  await failed;
  assert.deepEqual(await facts(options), []);
});

Deno.test("pg: a backend that dies during COMMIT leaves an unknown outcome, and says so", async () => {
  await using database = await prepared();
  const { options } = database;
  await transaction(options, async (sql) => {
    await sql`create function linger() returns trigger language plpgsql as
      'begin perform pg_sleep(60); return null; end'`;
    await sql`create constraint trigger linger after insert on facts deferrable initially deferred
      for each row execute function linger()`;
  });
  const work = transaction(options, async (sql) => {
    await sql`insert into facts values (1, 'a')`;
  });
  const failed = assert.rejects(work, (error) => error instanceof DatabaseLostError && error.outcomeUnknown);
  await waitFor(() => killOthers(options.url, "query = 'commit' and state = 'active'").then((n) => n > 0), {
    what: "the lingering COMMIT",
  });
  await failed;
});

Deno.test("pg: a killed backend rejects its statement, is told once, and the pool recovers", async () => {
  await using database = await prepared();
  const { options } = database;
  let lost = 0;
  const { sql, close } = await openDatabase({
    ...options,
    applicationName: "pool",
    max: 3,
    onLost: () => void lost++,
  });
  const sleeping = assert.rejects(sql`select pg_sleep(60)`);
  await waitFor(
    () => killOthers(options.url, "query like '%pg_sleep(60)%' and state = 'active'").then((n) => n > 0),
    {
      what: "the sleeping statement",
    },
  );
  await sleeping;
  await waitFor(() => lost > 0, { what: "onLost" });
  for (let id = 0; id < 20; id++) {
    await waitFor(() => sql`insert into facts values (${id}, 'x')`.then(() => true, () => false), {
      what: "a recovered pool",
    });
  }
  assert.equal(lost, 1);
  await close();
});

Deno.test("pg: the loss of an idle connection is noticed without a statement", async () => {
  await using database = await prepared();
  const { options } = database;
  const lost = Promise.withResolvers<void>();
  const { close } = await openDatabase({ ...options, applicationName: "idle", onLost: lost.resolve });
  await killOthers(options.url, "application_name = 'idle'");
  await waitFor(lost.promise, { what: "onLost" });
  await close();
});

Deno.test("pg: closing is no loss", async () => {
  await using database = await prepared();
  let lost = 0;
  const opened = await openDatabase({ ...database.options, onLost: () => void lost++ });
  const slow = opened.sql`select pg_sleep(0.1), 7 as seven`;
  const rows = slow.then((result) => result[0]?.seven);
  await opened.close();
  assert.equal(await rows, 7);
  assert.equal(lost, 0);
});

Deno.test("pg: notifications arrive, and a killed listener subscribes again and says so", async () => {
  await using database = await prepared();
  const { options } = database;
  const { sql, listen, close } = await openDatabase({ ...options, applicationName: "listener" });
  const heard: string[] = [];
  let subscribed = 0;
  const stop = await listen("wake", (payload) => void heard.push(payload), () => void subscribed++);
  await sql`select pg_notify('wake', 'one')`;
  await waitFor(() => heard.length === 1, { what: "the first notification" });
  assert.equal(subscribed, 1);
  await waitFor(() => killOthers(options.url, "query ilike 'listen%'").then((n) => n > 0), {
    what: "the listener",
  });
  await waitFor(() => subscribed === 2, { what: "a new subscription" });
  await sql`select pg_notify('wake', 'two')`;
  await waitFor(() => heard.length === 2, { what: "the second notification" });
  assert.deepEqual(heard, ["one", "two"]);
  await stop();
  await close();
});

Deno.test("pg: schemas keep nodes apart", async () => {
  await using database = await postgres.freshDatabase();
  const make = async (schema: string): Promise<{ sql: Sql; close: () => Promise<void> }> => {
    await transaction({ url: database.url, applicationName: "make" }, async (sql) => {
      await sql`create schema ${sql(schema)}`;
    });
    const opened = await openDatabase({ url: database.url, applicationName: schema, schema });
    await opened.sql`create table mine (who text)`;
    await opened.sql`insert into mine values (${schema})`;
    return opened;
  };
  const [alice, bob] = [await make("alice"), await make("bob")];
  assert.deepEqual([...await alice.sql`select who from mine`], [{ who: "alice" }]);
  assert.deepEqual([...await bob.sql`select who from mine`], [{ who: "bob" }]);
  await alice.close();
  await bob.close();
});

Deno.test("pg: a wrong password fails at once; a server that is down is waited for", async () => {
  await using database = await prepared();
  const wrong = new URL(database.options.url);
  wrong.password = "wrong";
  await assert.rejects(
    openDatabase({ url: wrong.href, applicationName: "wrong" }),
    (error) => codeOf(error) === "28P01" && !String(error).includes("wrong@"),
  );
  await postgres.server.kill();
  await assert.rejects(openDatabase({ ...database.options, connectMs: 300 }));
  await assert.rejects(transaction(database.options, async () => {}));
  const opening = openDatabase(database.options);
  await postgres.server.restart();
  await (await opening).close();
});
