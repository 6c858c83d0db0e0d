/** Databases of tests: on the server named by ARCUS_TEST_DATABASE_URL, else on one that is started for the test file. */
import { type PostgresServer, startPostgres } from "tools/parts/postgres.ts";

/** A database of its own for one test. */
export interface TestDatabase extends AsyncDisposable {
  readonly url: string;
  readonly name: string;
  /** Drops it, with whoever is connected. */
  drop(): Promise<void>;
}

/** A server for the tests of one file. */
export interface TestPostgres {
  readonly server: PostgresServer;
  /** Makes an empty database. `await using` drops it. */
  freshDatabase(): Promise<TestDatabase>;
}

/**
 * Call at the top of a test file: `const postgres = await usePostgres()`. The server is stopped after the file's last test. With
 * `own`, never somebody else's server: for tests that kill it.
 */
export async function usePostgres(options: { readonly own?: boolean } = {}): Promise<TestPostgres> {
  const named = Deno.env.get("ARCUS_TEST_DATABASE_URL") ?? Deno.env.get("ARCUS_DATABASE_URL");
  const server = await startPostgres({ url: options.own || named === undefined ? null : named });
  Deno.test.afterAll(() => server.stop());
  return {
    server,
    async freshDatabase() {
      const url = await server.createDatabase();
      const name = new URL(url).pathname.slice(1);
      const drop = () => server.dropDatabase(name);
      return { url, name, drop, [Symbol.asyncDispose]: drop };
    },
  };
}
