import { TextLineStream } from "./lines.ts";

/** How a child ended: an exit code, or the signal that ended it (then `code` is 128 + its number). */
export interface ChildExit {
  code: number;
  signal: Deno.Signal | null;
}

/** What to start. */
export interface GuardedOptions {
  /** The program: a path, or a name found on PATH. */
  cmd: string;
  args?: readonly string[];
  /** Added to (and before) this process' environment. */
  env?: Record<string, string>;
  /** Use `env` alone. */
  clearEnv?: boolean;
  cwd?: string;
  /** Standard output and error are appended to this file. */
  logFile?: string;
  /** Gets every line of standard output and error. With `logFile` too, both happen. */
  onLine?: (line: string, stream: "stdout" | "stderr") => void;
  /** The signal that asks this child to end in good order. Default SIGTERM. */
  stopSignal?: "SIGTERM" | "SIGINT" | "SIGQUIT";
  /** How long an asked child may take before it is killed. */
  graceMs?: number;
  /** Removed with its content once the child is gone, if the parent died without doing so. */
  removeDirOnOrphan?: string;
  /** Run as this user (the parent must be root). */
  uid?: number;
  gid?: number;
}

/** A child that cannot outlive its parent. */
export interface GuardedChild {
  /** The process id of the program itself, not of a wrapper: what it is killed by. */
  readonly pid: number;
  /** Resolves when the program has ended and its output was delivered. Never rejects. */
  readonly exited: Promise<ChildExit>;
  /** Sends a signal; does nothing if the child has ended. */
  kill(signal: Deno.Signal): void;
  /** Asks the child to end (its `stopSignal`), kills it after the grace, and waits for its end. */
  stop(graceMs?: number): Promise<ChildExit>;
}

/** A child that was asked to end is killed after this time. */
export const DEFAULT_GRACE_MS = 10_000;

/**
 * The shell becomes the program (`exec`), so that the program has the process id, exit status and signals that the
 * parent sees. Before that it leaves a watcher behind which holds the other end of the parent's pipe: a line means
 * that the child has ended and there is nothing to do, end of file means that the parent is dead, in whatever way.
 * The watcher is a grandchild, so the program never reaps a process it does not know. It is in the program's process
 * group, so the group's number stays taken until the watcher, last of all, ends what is left of the group.
 */
const GUARDIAN = `
sig=$1; ticks=$2; log=$3; orphan=$4; shift 4
exec 3<&0
( (
  trap '' INT HUP TERM QUIT
  if read -r word <&3; then exit 0; fi
  alive() {
    kill -0 $$ || return 1
    [ -r /proc/$$/stat ] || return 0
    read -r _ _ state _ </proc/$$/stat
    [ "$state" != Z ]
  }
  kill -s "$sig" $$
  while [ "$ticks" -gt 0 ] && alive; do sleep 0.1; ticks=$((ticks - 1)); done
  kill -s KILL $$
  if [ -n "$orphan" ]; then rm -rf -- "$orphan"; fi
  kill -s KILL -- -$$
) >/dev/null 2>&1 & )
exec 3<&- </dev/null
if [ -n "$log" ]; then exec >>"$log" 2>&1; fi
exec "$@"
`;

const live = new Set<GuardedChild>();

/**
 * Starts a program that ends when this process ends, even by SIGKILL. It runs in a session of its own: Ctrl-C at the
 * terminal reaches only the parent, which decides the order in which things end (see {@link endOnSignals}).
 * Throws if the program cannot be found; a program that fails later shows in `exited`.
 */
export function spawnGuarded(options: GuardedOptions): GuardedChild {
  const stopSignal = options.stopSignal ?? "SIGTERM";
  const graceMs = options.graceMs ?? DEFAULT_GRACE_MS;
  const piped = options.onLine !== undefined;
  const process = new Deno.Command("/bin/sh", {
    args: [
      "-c",
      GUARDIAN,
      "guardian",
      stopSignal.slice("SIG".length),
      String(Math.ceil(graceMs / 100)),
      piped ? "" : options.logFile ?? "",
      options.removeDirOnOrphan ?? "",
      findProgram(options.cmd, options.env?.PATH),
      ...(options.args ?? []),
    ],
    stdin: "piped",
    stdout: piped ? "piped" : "null",
    stderr: piped ? "piped" : "null",
    detached: true,
    ...(options.env === undefined ? {} : { env: options.env }),
    ...(options.clearEnv === undefined ? {} : { clearEnv: options.clearEnv }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  }).spawn();

  let ended = false;
  const finish = async (): Promise<ChildExit> => {
    const output = piped
      ? deliverLines(process, options.onLine ?? (() => {}), options.logFile)
      : Promise.resolve();
    const status = await process.status;
    ended = true;
    killGroup(process.pid);
    await dismiss(process.stdin);
    await output;
    live.delete(child);
    return { code: status.code, signal: status.signal };
  };
  const kill = (signal: Deno.Signal) => {
    if (ended) return;
    try {
      process.kill(signal);
    } catch {
      // It ended between the check and the call.
    }
  };
  const child: GuardedChild = {
    pid: process.pid,
    get exited() {
      return exited;
    },
    kill,
    async stop(stopGraceMs = graceMs) {
      kill(stopSignal);
      const timer = setTimeout(() => kill("SIGKILL"), stopGraceMs);
      const exit = await exited;
      clearTimeout(timer);
      return exit;
    },
  };
  live.add(child);
  const exited = finish();
  return child;
}

/** Stops every guarded child that still runs, the newest first (what started later may need what started earlier). */
export async function stopAllChildren(): Promise<void> {
  for (const child of [...live].reverse()) await child.stop();
}

/**
 * On SIGINT, SIGTERM or SIGHUP: runs `before`, stops all children, exits with 128 + the signal's number. A second
 * signal exits at once (the children then end by themselves). Returns a function that takes the handlers away.
 */
export function endOnSignals(before: () => Promise<void> = () => Promise.resolve()): () => void {
  const numbers = { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 } as const;
  let ending = false;
  const handlers = (Object.keys(numbers) as (keyof typeof numbers)[]).map((signal) => {
    const handler = () => {
      if (ending) Deno.exit(128 + numbers[signal]);
      ending = true;
      before().catch(() => {}).then(stopAllChildren).finally(() => Deno.exit(128 + numbers[signal]));
    };
    Deno.addSignalListener(signal, handler);
    return () => Deno.removeSignalListener(signal, handler);
  });
  return () => handlers.forEach((remove) => remove());
}

/** The result of a program that ran to its end. */
export interface RunResult extends ChildExit {
  /** Standard output and error together, the last {@link RUN_OUTPUT_LINES} lines. */
  output: string;
}

/** How many last lines of a program's output {@link runGuarded} keeps. */
export const RUN_OUTPUT_LINES = 200;

/** Runs a program to its end, guarded; gives its last lines. Does not throw on a non-zero exit. */
export async function runGuarded(options: GuardedOptions): Promise<RunResult> {
  const lines: string[] = [];
  const child = spawnGuarded({
    ...options,
    onLine: (line, stream) => {
      lines.push(line);
      if (lines.length > RUN_OUTPUT_LINES) lines.shift();
      options.onLine?.(line, stream);
    },
  });
  const exit = await child.exited;
  return { ...exit, output: lines.join("\n") };
}

/** The path of a program, by PATH like a shell would; undefined if there is none. */
export function whichProgram(name: string, path = Deno.env.get("PATH") ?? ""): string | undefined {
  const candidates = name.includes("/")
    ? [name]
    : path.split(":").filter((dir) => dir !== "").map((dir) => `${dir}/${name}`);
  return candidates.find(isExecutable);
}

/** Whether `path` is a file that somebody may execute. */
export function isExecutable(path: string): boolean {
  try {
    const info = Deno.statSync(path);
    return info.isFile && ((info.mode ?? 0) & 0o111) !== 0;
  } catch {
    return false;
  }
}

/** Whether a process with this id exists (a zombie counts as gone where /proc tells). */
export function processExists(pid: number): boolean {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3) !== "Z";
  } catch {
    return new Deno.Command("/bin/sh", {
      args: ["-c", 'kill -0 "$1"', "sh", String(pid)],
      stdout: "null",
      stderr: "null",
    }).outputSync().success;
  }
}

function findProgram(cmd: string, path?: string): string {
  const found = path === undefined ? whichProgram(cmd) : whichProgram(cmd, path);
  if (found === undefined) throw new Error(`there is no program '${cmd}'`);
  return found;
}

async function deliverLines(
  process: Deno.ChildProcess,
  onLine: NonNullable<GuardedOptions["onLine"]>,
  logFile: string | undefined,
): Promise<void> {
  const log = logFile === undefined ? undefined : await Deno.open(logFile, { append: true, create: true });
  const encoder = new TextEncoder();
  const deliver = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>, name: "stdout" | "stderr") => {
    for await (const line of stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())) {
      if (log !== undefined) await log.write(encoder.encode(`${line}\n`));
      try {
        onLine(line, name);
      } catch (error) {
        // The caller's fault, and shown as such; the child must not hang on a pipe that nobody reads.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  };
  try {
    await Promise.all([deliver(process.stdout, "stdout"), deliver(process.stderr, "stderr")]);
  } finally {
    log?.close();
  }
}

/** Ends what the program itself started and left behind (and its watcher, which has nothing left to do). */
function killGroup(leader: number): void {
  try {
    Deno.kill(-leader, "SIGKILL");
  } catch {
    // The group is empty.
  }
}

/** Tells the watcher that the child has ended, so that it kills nobody who got the number after it. */
async function dismiss(stdin: WritableStream<Uint8Array>): Promise<void> {
  try {
    const writer = stdin.getWriter();
    await writer.write(new TextEncoder().encode("ended\n"));
    await writer.close();
  } catch {
    // The watcher is already gone (it was killed with the child's group).
  }
}
