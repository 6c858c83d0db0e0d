/** The daemons of a node: where their code is, what each may do, and the order in which they start. */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Folder of the project. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

/** Every daemon, in the order of starting: each needs only those before it to become ready. */
export const DAEMON_NAMES = ["hsmd", "lightningd", "connectd", "dualopend", "channeld"] as const;
/** A daemon's name. */
export type DaemonName = typeof DAEMON_NAMES[number];

/** Daemons that have a database role of their own. connectd and hsmd have no database access. */
export const DATABASE_DAEMONS = ["lightningd", "dualopend", "channeld"] as const;
/** A daemon with a database role. */
export type DatabaseDaemon = typeof DATABASE_DAEMONS[number];

/** The Postgres role of a daemon; made by the migrations. */
export const roleOf = (daemon: DatabaseDaemon): string => `arcus_${daemon}`;

/** The entry point of a daemon's process. */
export const entryOf = (daemon: DaemonName): string => join(ROOT, "services", daemon, "main.ts");

/** What a daemon's process may do. */
export interface Grants {
  /** The node's folder: sockets, configuration. */
  readonly nodeDir: string;
  /** hsmd's own folder. */
  readonly hsmdDir: string;
  /** libsecp256k1, when it is used. */
  readonly secp256k1: string | undefined;
  /** host:port of what else the daemon connects to or listens on; "127.0.0.1" alone: any port. */
  readonly network: readonly string[];
}

/** Deno's permission flags of a daemon: as narrow as its job allows. */
export function permissionFlags(daemon: DaemonName, grants: Grants): string[] {
  const { nodeDir, hsmdDir, secp256k1 } = grants;
  const own = daemon === "hsmd" ? [nodeDir, hsmdDir] : [nodeDir];
  // The library is found by its name in the loader's folders unless it is a file.
  const library = secp256k1 === undefined
    ? []
    : [secp256k1.includes("/") ? `--allow-ffi=${secp256k1}` : "--allow-ffi"];
  const libraryDir = secp256k1?.includes("/") ? [dirname(secp256k1)] : [];
  const net = daemon === "hsmd" ? [] : daemon === "connectd" ? ["--allow-net"] : [
    `--allow-net=${["127.0.0.1", "localhost", ...grants.network].join(",")}`,
  ];
  return [
    "--no-prompt",
    `--allow-read=${[ROOT, ...own, ...libraryDir].join(",")}`,
    `--allow-write=${own.join(",")}`,
    "--allow-env",
    "--allow-sys",
    ...net,
    ...library,
  ];
}
