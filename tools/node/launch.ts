/** Starts a whole node, as six processes or as one, and gives what a program needs to talk to it. */
import { join } from "node:path";
import { bytesToHex } from "@noble/hashes/utils.js";
import { type Channel, client, dial, type ServiceClient } from "common/grpc/client.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { type Database, openDatabase, type Sql } from "common/pg/client.ts";
import { Channeld } from "gen/arcus/channeld/v1/channeld_pb.ts";
import { Closingd } from "gen/arcus/closingd/v1/closingd_pb.ts";
import { Connectd } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Dualopend } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { Node } from "gen/cln/node_pb.ts";
import { DAEMON_NAMES, type DaemonName, entryOf, permissionFlags, ROOT } from "./daemons.ts";
import type { NodeDatabase } from "./database.ts";
import { LogBook } from "./log_book.ts";
import { NodeProcess } from "./process.ts";

/** Six processes, or one with all daemons in it. */
export type Layout = "processes" | "one";

/** How to reach bitcoind. */
export interface BitcoindAddress {
  readonly rpcPort: number;
  readonly rpcUser: string;
  readonly rpcPassword: string;
}

/** What a node is started with. */
export interface NodeOptions {
  /** Short; its alias too. */
  readonly name: string;
  /** Its files; made if it is not there. The path must be short enough for unix sockets. */
  readonly dir: string;
  readonly database: NodeDatabase;
  readonly bitcoind: BitcoindAddress;
  readonly layout: Layout;
  /** Options by name, for whichever daemons read them; above the launcher's own. */
  readonly options?: Readonly<Record<string, string>>;
  /** libsecp256k1, as `findSecp256k1` gives it. */
  readonly secp256k1?: string | undefined;
  readonly logLevel?: "trace" | "debug" | "info";
  /** The folder is removed when the process that started the node dies without doing so. */
  readonly temporary?: boolean;
}

/** Name of the JSON-RPC socket, Core Lightning's. */
const RPC_FILE = "lightning-rpc";
/** Daemons that register with lightningd. */
const SUBDS: readonly DaemonName[] = ["dualopend", "channeld", "closingd"];
/** What a path of a unix socket may have at most on every system that we know. */
const MAX_SOCKET_PATH = 103;
/** How soon a new block is seen, ms: a program that watches does not want to wait. */
const BLOCK_POLL_MS = "100";
/** A node is up within this time after its processes serve, or has failed. */
const NODE_READY_MS = 30_000;
const POLL_MS = 20;

/** Variables of this process that a daemon may need; everything else would be taken for configuration. */
const PASSED_VARIABLES = [
  "PATH",
  "HOME",
  "TMPDIR",
  "DENO_DIR",
  "XDG_CACHE_HOME",
  "LD_LIBRARY_PATH",
  "NO_COLOR",
];

/** Starts a node and waits until it is ready for peers and commands. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const node = new RunningNode(options);
  try {
    await node.start();
    return node;
  } catch (error) {
    await node.kill();
    throw error;
  }
}

/** A node that was started. */
export class RunningNode {
  readonly name: string;
  readonly dir: string;
  readonly layout: Layout;
  readonly logs = new LogBook();
  readonly #processes: ReadonlyMap<DaemonName, NodeProcess>;
  readonly #channels = new Map<DaemonName, Channel>();
  #database: Database | undefined;
  #id = "";
  #address: string | undefined;
  #api: Channel | undefined;

  constructor(readonly options: NodeOptions) {
    this.name = options.name;
    this.dir = options.dir;
    this.layout = options.layout;
    for (const daemon of DAEMON_NAMES) {
      const path = this.socketPath(daemon);
      if (path.length > MAX_SOCKET_PATH) throw new Error(`${path}: too long for a unix socket`);
    }
    this.#processes = options.layout === "one" ? this.#oneProcess() : this.#processEach();
  }

  /** 33 bytes, hex. */
  get id(): string {
    return this.#id;
  }

  /** Where peers reach it, host:port. The same after restarts. */
  get address(): string {
    if (this.#address === undefined) throw new Error(`${this.name} does not listen yet`);
    return this.#address;
  }

  /** The public API. */
  get rpc(): ServiceClient<typeof Node> {
    if (this.#api === undefined) throw new Error(`${this.name} serves no API yet`);
    return client(Node, this.#api);
  }

  /** host:port of the public API. The same after restarts. */
  get apiAddress(): string | undefined {
    return this.#api?.address;
  }

  /** Socket of the public API as JSON-RPC. */
  get rpcFile(): string {
    return join(this.dir, RPC_FILE);
  }

  /** connectd's own face: what it holds, fault injection. */
  get connectd(): ServiceClient<typeof Connectd> {
    return client(Connectd, this.channel("connectd"));
  }

  /** dualopend's own face. */
  get dualopend(): ServiceClient<typeof Dualopend> {
    return client(Dualopend, this.channel("dualopend"));
  }

  /** channeld's own face. */
  get channeld(): ServiceClient<typeof Channeld> {
    return client(Channeld, this.channel("channeld"));
  }

  /** closingd's own face. */
  get closingd(): ServiceClient<typeof Closingd> {
    return client(Closingd, this.channel("closingd"));
  }

  /** lightningd's face for the other daemons. */
  get lightningd(): ServiceClient<typeof Lightningd> {
    return client(Lightningd, this.channel("lightningd"));
  }

  /** Its database, as the owner. */
  get sql(): Sql {
    if (this.#database === undefined) throw new Error(`${this.name} has no database yet`);
    return this.#database.sql;
  }

  /** The process of a daemon; with one process for all, that one. */
  daemon(name: DaemonName): NodeProcess {
    const found = this.#processes.get(name);
    if (found === undefined) throw new Error(`no daemon ${name}`);
    return found;
  }

  /** The distinct processes, in the order of starting. */
  get processes(): NodeProcess[] {
    return [...new Set(this.#processes.values())];
  }

  /** gRPC target of a daemon. */
  target(daemon: DaemonName): string {
    return `unix:${this.socketPath(daemon)}`;
  }

  /** A connection to a daemon; it comes back by itself after a restart of that daemon. */
  channel(daemon: DaemonName): Channel {
    let channel = this.#channels.get(daemon);
    if (channel === undefined) {
      channel = dial(this.target(daemon));
      this.#channels.set(daemon, channel);
    }
    return channel;
  }

  /** File of a daemon's socket. */
  socketPath(daemon: DaemonName): string {
    return join(this.dir, `${daemon}.sock`);
  }

  /** Where the process of a daemon logs. */
  logFile(daemon: DaemonName): string {
    return this.daemon(daemon).plan.logFile;
  }

  /** Starts what does not run, and waits until the node is ready for peers and commands. */
  async start(): Promise<void> {
    await Deno.mkdir(join(this.dir, "logs"), { recursive: true, mode: 0o700 });
    this.#database ??= await openDatabase({
      url: this.options.database.url,
      applicationName: `${this.name}-looker`,
      max: 2,
    });
    for (const daemon of DAEMON_NAMES) await this.#writeConfiguration(daemon);
    const starting = this.processes.filter((process) => !process.running);
    const mark = this.logs.next;
    for (const process of starting) process.spawn();
    await Promise.all(starting.map((process) => process.untilReady()));
    if (starting.includes(this.daemon("lightningd"))) await this.#findApi(mark);
    await this.untilReady();
    await this.#untilSubdsRegistered(starting, mark);
  }

  /** Learns where the API is, at its first start; from then on it is there. */
  async #findApi(mark: number): Promise<void> {
    const line = await this.logs.wait("the API is served", {
      daemon: "lightningd",
      since: mark,
      deadlineMs: NODE_READY_MS,
    });
    const address = line.fields["grpc"];
    if (typeof address !== "string") throw new Error(`${this.name} does not say where its API is`);
    if (this.#api?.address === address) return;
    this.#api?.close();
    this.#api = dial(address);
    await this.#writeConfiguration("lightningd");
  }

  /** A subd that starts, or all when lightningd does, must have been heard by lightningd. */
  async #untilSubdsRegistered(starting: readonly NodeProcess[], mark: number): Promise<void> {
    const lightningdStarts = starting.includes(this.daemon("lightningd"));
    for (const daemon of SUBDS) {
      if (!lightningdStarts && !starting.includes(this.daemon(daemon))) continue;
      await this.logs.wait(
        (line) => line.msg === "subd said hello" && line.fields["kind"] === daemon,
        { daemon: "lightningd", since: mark, deadlineMs: NODE_READY_MS },
      );
    }
  }

  /** Kills a daemon, starts it again, and waits until the others have it back. */
  async restart(daemon: DaemonName): Promise<void> {
    await this.daemon(daemon).kill();
    await this.start();
  }

  /** Waits until connectd and lightningd have found each other and the node's address is known. */
  async untilReady(): Promise<void> {
    const deadline = performance.now() + NODE_READY_MS;
    for (;;) {
      const info = await this.connectd.getInfo({}, { waitForReady: true, deadlineMs: NODE_READY_MS }).catch(
        (error) => {
          // The connection to a predecessor that was killed may end under this call.
          if (error instanceof ArcusError && error.code === Code.UNAVAILABLE) return undefined;
          throw error;
        },
      );
      const address = info?.bindings[0];
      if (info?.lightningdConnected === true && address !== undefined) {
        this.#id = bytesToHex(info.nodeId);
        this.#address = address;
        // The port stays, so that peers find the node again.
        await this.#writeConfiguration("connectd");
        return;
      }
      if (performance.now() > deadline) {
        throw new Error(`${this.name} is not ready after ${NODE_READY_MS / 1000} s:\n${this.logs.tail()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Waits for a line of its daemons' logs; see {@link LogBook.wait}. */
  waitForLog: LogBook["wait"] = (match, where) => this.logs.wait(match, where);

  /** Drains and ends every process, what was started last first. */
  async stop(): Promise<void> {
    for (const process of this.processes.reverse()) await process.stop();
    await this.#close();
  }

  /** SIGKILL of every process, and closes this program's connections. */
  async kill(): Promise<void> {
    await Promise.all(this.processes.map((process) => process.kill()));
    await this.#close();
  }

  async #close(): Promise<void> {
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
    this.#api?.close();
    this.#api = undefined;
    await this.#database?.close();
    this.#database = undefined;
  }

  get #hsmdDir(): string {
    return join(this.dir, "hsmd");
  }

  get #sockets(): Record<DaemonName, string> {
    return {
      hsmd: this.socketPath("hsmd"),
      lightningd: this.socketPath("lightningd"),
      connectd: this.socketPath("connectd"),
      dualopend: this.socketPath("dualopend"),
      channeld: this.socketPath("channeld"),
      closingd: this.socketPath("closingd"),
    };
  }

  #configurationPath(daemon: DaemonName): string {
    return join(this.dir, `${daemon}.conf`);
  }

  /** Options of one daemon: a file that only its owner reads, since it holds passwords. */
  async #writeConfiguration(daemon: DaemonName): Promise<void> {
    const { options, database, bitcoind, name } = this.options;
    const others = (names: readonly DaemonName[]) =>
      Object.fromEntries(names.map((other) => [`${other}-address`, this.target(other)]));
    const common = {
      "network": "regtest",
      "lightning-dir": this.dir,
      "log-level": this.options.logLevel ?? "debug",
      "developer": "true",
      "listen": this.target(daemon),
    };
    const own: Record<DaemonName, Record<string, string>> = {
      hsmd: { "hsmd-dir": this.#hsmdDir },
      lightningd: {
        ...others(["hsmd"]),
        "alias": name,
        "grpc-port": this.#api === undefined ? "0" : this.#api.address.replace(/^.*:/, ""),
        "rpc-file": RPC_FILE,
        "bitcoin-rpcport": String(bitcoind.rpcPort),
        "bitcoin-rpcuser": bitcoind.rpcUser,
        "bitcoin-rpcpassword": bitcoind.rpcPassword,
        "bitcoin-poll-interval": BLOCK_POLL_MS,
        "database-url": database.roles.lightningd,
      },
      connectd: {
        ...others(["hsmd", "lightningd"]),
        "bind-addr": this.#address ?? "127.0.0.1:0",
        "dev-fast-reconnect": "true",
      },
      dualopend: { ...others(["hsmd", "lightningd"]), "database-url": database.roles.dualopend },
      channeld: { ...others(["hsmd", "lightningd"]), "database-url": database.roles.channeld },
      closingd: { ...others(["hsmd", "lightningd"]), "database-url": database.roles.closingd },
    };
    const lines = Object.entries({ ...common, ...own[daemon], ...options }).map(([key, value]) =>
      `${key}=${value}\n`
    );
    await Deno.writeTextFile(this.#configurationPath(daemon), lines.join(""), { mode: 0o600 });
  }

  get #environment(): Record<string, string> {
    const env: Record<string, string> = {};
    for (const name of PASSED_VARIABLES) {
      const value = Deno.env.get(name);
      if (value !== undefined) env[name] = value;
    }
    if (this.options.secp256k1 !== undefined) env["ARCUS_SECP256K1_LIB"] = this.options.secp256k1;
    return env;
  }

  /** What every process of a node has in common. */
  #plan(name: DaemonName | "node") {
    return {
      name,
      env: this.#environment,
      cwd: ROOT,
      logFile: join(this.dir, "logs", `${name}.log`),
      logs: this.logs,
      ...(this.options.temporary === true ? { removeDirOnOrphan: this.dir } : {}),
    };
  }

  #processEach(): Map<DaemonName, NodeProcess> {
    const processes = new Map<DaemonName, NodeProcess>();
    for (const daemon of DAEMON_NAMES) {
      const flags = permissionFlags(daemon, {
        nodeDir: this.dir,
        hsmdDir: this.#hsmdDir,
        sockets: this.#sockets,
        rpcFile: this.rpcFile,
        secp256k1: this.options.secp256k1,
        postgres: new URL(this.options.database.url).host,
      });
      processes.set(
        daemon,
        new NodeProcess({
          ...this.#plan(daemon),
          args: () => [
            ...RUN,
            ...flags,
            entryOf(daemon),
            "--conf",
            this.#configurationPath(daemon),
          ],
          ready: () => this.channel(daemon).ready(NODE_READY_MS),
        }),
      );
    }
    return processes;
  }

  #oneProcess(): Map<DaemonName, NodeProcess> {
    const process = new NodeProcess({
      ...this.#plan("node"),
      args: () => [...RUN, "-A", join(ROOT, "tools", "node", "one_process.ts"), this.dir],
      ready: async () => {
        await Promise.all(DAEMON_NAMES.map((daemon) => this.channel(daemon).ready(NODE_READY_MS)));
      },
    });
    return new Map(DAEMON_NAMES.map((daemon) => [daemon, process]));
  }
}

/** Types were checked before; the lock file is not to be written by a daemon. */
const RUN = ["run", "--no-check", "--frozen", "--config", join(ROOT, "deno.json")];
