/** The daemons of a node: where their code is, what each may do, and the order in which they start. */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Folder of the project. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

/** Every daemon, in the order of starting: each needs only those before it to become ready. */
export const DAEMON_NAMES = ["hsmd", "lightningd", "connectd", "dualopend", "channeld", "closingd"] as const;
/** A daemon's name. */
export type DaemonName = typeof DAEMON_NAMES[number];

/** Daemons that have a database role of their own. connectd and hsmd have no database access. */
export const DATABASE_DAEMONS = ["lightningd", "dualopend", "channeld", "closingd"] as const;
/** A daemon with a database role. */
export type DatabaseDaemon = typeof DATABASE_DAEMONS[number];

/** The Postgres role of a daemon; made by the migrations. */
export const roleOf = (daemon: DatabaseDaemon): string => `arcus_${daemon}`;

/** The entry point of a daemon's process. */
export function entryOf(daemon: DaemonName): string {
  return join(ROOT, "services", daemon, "main.ts");
}

/** What a daemon's process may do. */
export interface Grants {
  /** The node's folder: sockets, configuration. */
  readonly nodeDir: string;
  /** hsmd's own folder. */
  readonly hsmdDir: string;
  /** Every daemon's unix socket. */
  readonly sockets: Readonly<Record<DaemonName, string>>;
  /** Socket of the API's JSON-RPC. */
  readonly rpcFile: string;
  /** libsecp256k1, when it is used. */
  readonly secp256k1: string | undefined;
  /** host:port of Postgres. */
  readonly postgres: string;
}

/** Deno's permission flags of a daemon: as narrow as its job allows. */
export function permissionFlags(daemon: DaemonName, grants: Grants): string[] {
  const { nodeDir, hsmdDir, secp256k1 } = grants;
  const own = daemon === "hsmd" ? [nodeDir, hsmdDir] : [nodeDir];
  const isFile = secp256k1?.includes("/") === true;
  return [
    "--no-prompt",
    `--allow-read=${[ROOT, ...own, ...(isFile ? [dirname(secp256k1)] : [])].join(",")}`,
    `--allow-write=${own.join(",")}`,
    "--allow-env",
    "--allow-sys",
    ...networkFlags(daemon, grants),
    // Pointers need all of it: a path would not do.
    ...(secp256k1 === undefined ? [] : ["--allow-ffi"]),
  ];
}

function networkFlags(daemon: DaemonName, { sockets, rpcFile, postgres }: Grants): string[] {
  const unix = (names: readonly DaemonName[]) => names.map((name) => `unix:${sockets[name]}`);
  const allow = (targets: readonly string[]) => [`--allow-net=${targets.join(",")}`];
  switch (daemon) {
    case "hsmd":
      // Nothing but its own door.
      return allow(unix(["hsmd"]));
    case "connectd":
      // Peers are anywhere.
      return ["--allow-net"];
    case "lightningd":
      // bitcoind, Postgres, the API's port.
      return allow([...unix(DAEMON_NAMES), `unix:${rpcFile}`, "127.0.0.1", postgres]);
    case "dualopend":
    case "channeld":
    case "closingd":
      return allow([...unix(["hsmd", "lightningd", daemon]), postgres]);
  }
}
