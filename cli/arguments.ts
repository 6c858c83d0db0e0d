/** The command line taken apart: options of the program, the command, its parameters. */
import { parseArgs } from "node:util";
import { DEFAULT_LIGHTNING_DIR, DEFAULT_RPC_FILE } from "./places.ts";

/** How the answer is written. */
export type Style = "auto" | "json" | "raw" | "human" | "flat";

/** Where lightningd is called. */
export type Place =
  | { readonly type: "unix"; readonly lightningDir: string; readonly rpcFile: string }
  | { readonly type: "grpc"; readonly address: string };

/** What the user wants. */
export type Arguments =
  | { readonly type: "help"; readonly command: string | undefined }
  | { readonly type: "version" }
  | {
    readonly type: "call";
    readonly place: Place;
    readonly style: Style;
    readonly timeoutMs: number | undefined;
    readonly command: string;
    readonly words: readonly string[];
  };

/** The command line is wrong. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

const MS = 1_000;
const OPTIONS = {
  "lightning-dir": { type: "string", short: "l" },
  "rpc-file": { type: "string", short: "r" },
  "grpc": { type: "string" },
  "timeout": { type: "string" },
  "json": { type: "boolean", short: "J" },
  "raw": { type: "boolean", short: "R" },
  "human-readable": { type: "boolean", short: "H" },
  "flat": { type: "boolean", short: "F" },
  "help": { type: "boolean", short: "h" },
  "version": { type: "boolean", short: "V" },
} as const;

/** Options of the program, for help. */
export const OPTION_HELP: readonly (readonly [string, string])[] = [
  ["-l, --lightning-dir PATH", `Folder of the node. Default ${DEFAULT_LIGHTNING_DIR} [ARCUS_LIGHTNING_DIR]`],
  [
    "-r, --rpc-file PATH",
    `Its socket, in that folder unless absolute. Default ${DEFAULT_RPC_FILE} [ARCUS_RPC_FILE]`,
  ],
  ["--grpc ADDRESS", "Call over gRPC at host:port or unix:/path instead of the socket."],
  [
    "--timeout SECONDS",
    "Give up after so long. Default: never over the socket; over gRPC 60, slow commands 900.",
  ],
  ["-J, --json", "JSON, one member a line: the default where the output is not a terminal."],
  ["-R, --raw", "JSON in one line."],
  ["-H, --human-readable", "Tables and lines for people: the default on a terminal where there is a table."],
  ["-F, --flat", "One NAME=VALUE a line."],
  ["-h, --help", "This help, or that of a command."],
  ["-V, --version", "Version of the program."],
];

/** The words of the program itself: options stop at the first word that is none, so a command's words may begin with '-'. */
function split(args: readonly string[]): { readonly own: string[]; readonly rest: string[] } {
  const valued = Object.entries(OPTIONS)
    .filter(([, { type }]) => type === "string")
    .flatMap(([name, option]) => "short" in option ? [`--${name}`, `-${option.short}`] : [`--${name}`]);
  let at = 0;
  while (at < args.length && args[at]?.startsWith("-") && args[at] !== "-") {
    if (args[at] === "--") return { own: args.slice(0, at), rest: args.slice(at + 1) };
    at += valued.includes(args[at] ?? "") ? 2 : 1;
  }
  return { own: args.slice(0, at), rest: args.slice(at) };
}

function parseOwn(own: string[]) {
  try {
    return parseArgs({ args: own, options: OPTIONS, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function styleOf(values: ReturnType<typeof parseOwn>): Style {
  const chosen = (["json", "raw", "human-readable", "flat"] as const).filter((name) => values[name] === true);
  if (chosen.length > 1) throw new UsageError(`--${chosen[0]} and --${chosen[1]} exclude each other`);
  const [style] = chosen;
  return style === undefined ? "auto" : style === "human-readable" ? "human" : style;
}

function timeoutOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,6}$/.test(text) || Number(text) === 0) throw new UsageError("--timeout: a number of seconds");
  return Number(text) * MS;
}

/** Takes the arguments apart. Throws {@link UsageError}. */
export function parseArguments(args: readonly string[], env: Readonly<Record<string, string>>): Arguments {
  const { own, rest } = split(args);
  const values = parseOwn(own);
  const [command, ...words] = rest;
  if (values.version === true) return { type: "version" };
  if (values.help === true || command === undefined) {
    if (values.help === true || args.length === 0) return { type: "help", command };
    throw new UsageError("which command? See --help");
  }
  if (command === "help") return { type: "help", command: words[0] };
  if (words.includes("--help") || words.includes("-h")) return { type: "help", command };
  const grpc = values.grpc;
  if (grpc !== undefined && (values["rpc-file"] !== undefined || values["lightning-dir"] !== undefined)) {
    throw new UsageError("--grpc excludes --lightning-dir and --rpc-file");
  }
  const place: Place = grpc !== undefined ? { type: "grpc", address: grpc } : {
    type: "unix",
    lightningDir: values["lightning-dir"] ?? env.ARCUS_LIGHTNING_DIR ?? DEFAULT_LIGHTNING_DIR,
    rpcFile: values["rpc-file"] ?? env.ARCUS_RPC_FILE ?? DEFAULT_RPC_FILE,
  };
  return {
    type: "call",
    place,
    style: styleOf(values),
    timeoutMs: timeoutOf(values.timeout),
    command,
    words,
  };
}
