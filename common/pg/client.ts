/**
 * Postgres for daemons: a pool for single statements, and `transaction` for the rare work that needs several.
 *
 * postgres.js 3.4.9 throws past every handler when a backend dies inside `sql.begin` or `sql.reserve`, and a pool whose error is
 * swallowed hangs. Plain queries reject as they should. So the pool refuses both, a step is one statement, and a transaction has a
 * connection of its own that is thrown away.
 */
import { connect, type Socket } from "node:net";
import postgres from "postgres";

/** A tagged-template client; int8 is bigint, numeric is string, bytea is bytes. */
export type Sql = postgres.Sql<{ bigint: bigint }>;

/** Connections of one daemon's pool. */
export const DEFAULT_POOL = 8;
/** How long one statement may take. */
export const DEFAULT_STATEMENT_TIMEOUT_MS = 30_000;
/** How long opening waits for a database that does not answer yet. */
export const DEFAULT_CONNECT_MS = 10_000;
/** Between attempts to connect. */
const RETRY_MS = 100;
/** How long statements under way may take at closing, seconds. */
const CLOSE_SECONDS = 5;

/** The connection to Postgres is gone. For an owner of state this is fatal: what was under way has an unknown outcome. */
export class DatabaseLostError extends Error {
  override readonly name = "DatabaseLostError";

  constructor(message: string, readonly outcomeUnknown: boolean, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
  }
}

/** Settings of a connection. */
export interface ConnectionOptions {
  /** postgres:// URL; a secret, never logged. */
  readonly url: string;
  /** Shown in pg_stat_activity: the daemon's name. */
  readonly applicationName: string;
  readonly statementTimeoutMs?: number;
  /** The schema that holds the node; default: the role's search path. */
  readonly schema?: string;
  /** Settings of Postgres for these connections, by name. */
  readonly settings?: Readonly<Record<string, string>>;
}

/** Settings of a pool. */
export interface DatabaseOptions extends ConnectionOptions {
  /** Connections at most. */
  readonly max?: number;
  readonly connectMs?: number;
  /**
   * Called once, as soon as any connection is lost, also an idle one. A daemon that owns state exits here. Without it the pool
   * reconnects, and statements that were under way reject.
   */
  readonly onLost?: () => void;
}

/** An open pool. */
export interface Database {
  readonly sql: Sql;
  /**
   * Calls `onNotify` for each NOTIFY. `onSubscribed` is called at first and again after each reconnection: notifications in
   * between are lost, so read the rows again there. Resolves to a function that stops listening.
   */
  listen(
    channel: string,
    onNotify: (payload: string) => void,
    onSubscribed: () => void,
  ): Promise<() => Promise<void>>;
  /** Waits for statements under way, and closes. */
  close(): Promise<void>;
}

type Options = postgres.Options<{ bigint: postgres.PostgresType<bigint> }>;

function settings(options: ConnectionOptions): Options {
  return {
    types: { bigint: postgres.BigInt },
    // A connection that closes was lost, never retired.
    idle_timeout: 0,
    max_lifetime: null,
    connect_timeout: DEFAULT_CONNECT_MS / 1000,
    onnotice: () => {},
    connection: {
      application_name: options.applicationName,
      statement_timeout: options.statementTimeoutMs ?? DEFAULT_STATEMENT_TIMEOUT_MS,
      ...options.settings,
      ...(options.schema === undefined ? {} : { search_path: options.schema }),
    },
  };
}

function refuse(what: string): () => never {
  return () => {
    throw new Error(`${what} is not safe on a pool: write one statement, or use transaction()`);
  };
}

/** Resolves with the first answer; rejects with the last error once `ms` have passed. */
async function answering(sql: Sql, ms: number): Promise<void> {
  const end = performance.now() + ms;
  for (;;) {
    try {
      await sql`select 1`;
      return;
    } catch (error) {
      if (performance.now() >= end || !isConnectionError(error)) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** Refused, reset, or a server that is starting up or shutting down; a wrong password or database name is not one. */
function isConnectionError(error: unknown): boolean {
  const code = codeOf(error);
  return code === "ECONNREFUSED" || code === "ENOENT" || code === "ECONNRESET" || code === "57P03" ||
    code === "57P01" || code === "CONNECTION_CLOSED" || code === "CONNECT_TIMEOUT";
}

/** The SQLSTATE of a Postgres error, or the code of a connection error; undefined for anything else. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/** Opens a pool and waits until the database answers. */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  let watching = false;
  const sql: Sql = postgres(options.url, {
    ...settings(options),
    max: options.max ?? DEFAULT_POOL,
    onclose: () => {
      if (!watching) return;
      watching = false;
      options.onLost?.();
    },
  });
  Object.assign(sql, { begin: refuse("sql.begin"), reserve: refuse("sql.reserve") });
  try {
    await answering(sql, options.connectMs ?? DEFAULT_CONNECT_MS);
  } catch (error) {
    await sql.end({ timeout: 0 });
    throw error;
  }
  watching = options.onLost !== undefined;
  return {
    sql,
    async listen(channel, onNotify, onSubscribed) {
      const { unlisten } = await sql.listen(channel, onNotify, onSubscribed);
      return unlisten;
    },
    async close() {
      watching = false;
      await sql.end({ timeout: CLOSE_SECONDS });
    },
  };
}

/** A socket that is connected, as postgres.js wants one from its `socket` option. */
function connected(options: { path?: string | false; host: string[]; port: number[] }): Promise<Socket> {
  const [host = "localhost", port = 5432] = [options.host[0], options.port[0]];
  const socket = typeof options.path === "string" ? connect(options.path) : connect(port, host);
  // Where postgres.js looks for the name that a certificate must carry.
  Object.assign(socket, { host, port });
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.removeListener("error", reject);
      socket.setNoDelay(true);
      resolve(socket);
    });
  });
}

/** Settings of a transaction. */
export interface TransactionOptions extends ConnectionOptions {
  /** Default: read committed. */
  readonly isolation?: "read committed" | "repeatable read" | "serializable";
}

/**
 * Runs `work` in one transaction on a connection of its own, and closes that. What `work` throws rolls back and is thrown on. If the
 * connection dies the promise rejects with `DatabaseLostError`, whatever `work` is waiting for; `outcomeUnknown` says that it died
 * during COMMIT.
 */
export async function transaction<T>(
  options: TransactionOptions,
  work: (sql: Sql) => Promise<T>,
): Promise<T> {
  const lost = Promise.withResolvers<never>();
  lost.promise.catch(() => {});
  let dead = false;
  let committing = false;
  let finished = false;
  const die = (cause?: unknown): DatabaseLostError => {
    const error = new DatabaseLostError("the connection was lost inside a transaction", committing, cause);
    if (!finished && !dead) lost.reject(error);
    dead = true;
    return error;
  };
  let used = false;
  const base: Options = {
    ...settings(options),
    max: 1,
    fetch_types: false,
    onclose: () => void die(),
  };
  // postgres.js reconnects by itself, and would run the rest of the work outside the transaction: there is one socket, ever.
  const oneSocket = {
    socket: (parsed: { path?: string | false; host: string[]; port: number[] }) => {
      if (used) return Promise.reject(die());
      used = true;
      return connected(parsed);
    },
  };
  const sql: Sql = postgres(options.url, { ...base, ...oneSocket });
  Object.assign(sql, { begin: refuse("sql.begin"), reserve: refuse("sql.reserve") });
  const guarded: Sql = new Proxy(sql, {
    apply(target, self, args) {
      if (dead || finished) throw die();
      return Reflect.apply(target, self, args);
    },
  });
  const run = async (): Promise<T> => {
    await sql.unsafe(`begin isolation level ${options.isolation ?? "read committed"}`);
    let value: T;
    try {
      value = await work(guarded);
    } catch (error) {
      if (!dead) await sql.unsafe("rollback").catch(() => {});
      throw error;
    }
    committing = true;
    const answer = await sql.unsafe("commit").catch((error) => {
      // A deferred constraint or a serialization failure is an answer; a lost connection is not.
      if (isConnectionError(error)) throw die(error);
      throw error;
    });
    // Postgres answers COMMIT of a transaction with a failed statement with a polite ROLLBACK.
    if (answer.command !== "COMMIT") {
      throw new Error("rolled back: a statement failed and its error was swallowed");
    }
    return value;
  };
  try {
    return await Promise.race([run(), lost.promise]);
  } finally {
    finished = true;
    await sql.end({ timeout: 0 });
  }
}
