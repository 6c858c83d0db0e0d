/** One process of a node: a daemon, or all of them together. It can be killed and started again. */
import { type ChildExit, type GuardedChild, spawnGuarded } from "tools/parts/mod.ts";
import type { DaemonName } from "./daemons.ts";
import type { LogBook } from "./log_book.ts";

/** How a process is started, each time anew. */
export interface ProcessPlan {
  readonly name: DaemonName | "node";
  /** Arguments of deno. */
  readonly args: () => readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly logFile: string;
  readonly logs: LogBook;
  /** Removed when the process that started this one dies without doing so. */
  readonly removeDirOnOrphan?: string;
  /** Resolves when it serves; aborted when the process ends before that. */
  readonly ready: (signal: AbortSignal) => Promise<void>;
}

/** A process that serves within this time after its start, or has failed. */
export const PROCESS_START_MS = 30_000;
/** Draining peers and calls takes at most this long. */
export const STOP_GRACE_MS = 15_000;

/** A process of a node. */
export class NodeProcess {
  #child: GuardedChild | undefined;

  constructor(readonly plan: ProcessPlan) {}

  /** The process id; undefined while it does not run. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get running(): boolean {
    return this.#child !== undefined;
  }

  /** Resolves with how the process that runs now ended. */
  get exited(): Promise<ChildExit> {
    return this.#running().exited;
  }

  /** Starts it, without waiting for more than the process. */
  spawn(): void {
    if (this.#child !== undefined) throw new Error(`${this.plan.name} runs already`);
    const { name, args, env, cwd, logFile, logs, removeDirOnOrphan } = this.plan;
    const child = spawnGuarded({
      cmd: Deno.execPath(),
      args: args(),
      env: { ...env },
      clearEnv: true,
      cwd,
      logFile,
      onLine: (line) => logs.add(name, line),
      graceMs: STOP_GRACE_MS,
      ...(removeDirOnOrphan === undefined ? {} : { removeDirOnOrphan }),
    });
    this.#child = child;
    child.exited.then((exit) => {
      if (this.#child === child) this.#child = undefined;
      logs.add(name, JSON.stringify({ level: "info", daemon: name, msg: "process ended", ...exit }));
    });
  }

  /** Waits until it serves. Throws with its last words when it ends before that, or takes too long. */
  async untilReady(): Promise<void> {
    const { name, logs } = this.plan;
    const child = this.#running();
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const failed = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`${name} did not serve in ${PROCESS_START_MS / 1000} s:\n${logs.tail()}`)),
        PROCESS_START_MS,
      );
      child.exited.then(({ code, signal }) =>
        reject(new Error(`${name} ended at its start (${signal ?? `status ${code}`}):\n${logs.tail()}`))
      );
    });
    try {
      await Promise.race([this.plan.ready(abort.signal), failed]);
    } finally {
      abort.abort();
      clearTimeout(timer);
    }
  }

  /** Starts it and waits until it serves. */
  async start(): Promise<void> {
    this.spawn();
    await this.untilReady();
  }

  /** Sends a signal and waits for the end of the process. Default SIGKILL: no drain, no goodbye. */
  async kill(signal: Deno.Signal = "SIGKILL"): Promise<ChildExit | undefined> {
    const child = this.#child;
    if (child === undefined) return undefined;
    child.kill(signal);
    return await child.exited;
  }

  /** Stops the process where it is, alive but deaf (SIGSTOP). */
  freeze(): void {
    this.#running().kill("SIGSTOP");
  }

  /** Goes on after `freeze`. */
  thaw(): void {
    this.#running().kill("SIGCONT");
  }

  /** Asks it to drain and end; kills it after the grace. */
  async stop(graceMs: number = STOP_GRACE_MS): Promise<ChildExit | undefined> {
    return await this.#child?.stop(graceMs);
  }

  /** Kills it, if it runs, and starts it again. */
  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  #running(): GuardedChild {
    if (this.#child === undefined) throw new Error(`${this.plan.name} does not run`);
    return this.#child;
  }
}
