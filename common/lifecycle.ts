/** Start, drain and end of a process that runs one daemon, or all of them. */
import { beginLeaving } from "common/grpc/leaving.ts";
import type { Logger } from "common/log.ts";

/** The version of this build. */
export const VERSION = "0.1.0";

/** What every hello and `getinfo` say about the build. */
export interface BuildInfo {
  readonly version: string;
  /** The commit it was built from, when the builder said so in ARCUS_BUILD_COMMIT. */
  readonly commit: string;
  readonly deno: string;
}

/** How a process ends. */
export const ExitCode = {
  ok: 0,
  /** An invariant broke, an error nobody handled, the database was lost. A supervisor restarts. */
  fatal: 1,
  /** The configuration or the command line is wrong. Restarting does not help. */
  config: 2,
  /** Work was cut off because draining took too long. */
  drainTimeout: 3,
  /** A second signal came while draining. */
  interrupted: 130,
} as const;
/** One of the ways in which a process ends. */
export type ExitCode = typeof ExitCode[keyof typeof ExitCode];

/** How long one step of stopping may take. */
export const DEFAULT_STEP_MS = 15_000;

/** What this build is. */
export function buildInfo(): BuildInfo {
  return {
    version: VERSION,
    commit: Deno.env.get("ARCUS_BUILD_COMMIT") ?? "unknown",
    deno: Deno.version.deno,
  };
}

/** Names one run of one daemon: random at every start, so that an assignment is never taken for an earlier run's. */
export function newInstanceId(): string {
  return crypto.getRandomValues(new Uint8Array(16)).toHex();
}

/** The life of a process. */
export interface Lifecycle {
  /** Aborted when stopping begins: loops end, nothing new starts. */
  readonly stopping: AbortSignal;
  /**
   * Registers a step of stopping. Steps run one after the other, the last registered first, so what was started last stops first.
   * A step that takes longer than `ms` is left behind, and the process ends with `drainTimeout`.
   */
  onStop(name: string, step: () => Promise<void>, ms?: number): void;
  /** Stops in order, then ends the process. Called again it waits for the first. */
  stop(reason: string): Promise<void>;
  /** Ends the process at once, with a line that says why. For what must not go on: a lost database, a broken invariant. */
  fatal(reason: string, error?: unknown): never;
  /** Installs the handlers of SIGTERM, SIGINT, uncaught errors and unhandled rejections. Returns their removal. */
  install(): () => void;
}

/** Settings of a lifecycle. */
export interface LifecycleOptions {
  readonly log: Logger;
  /** Ends the process; replaced in tests. */
  readonly exit?: (code: ExitCode) => never;
}

interface Step {
  readonly name: string;
  readonly run: () => Promise<void>;
  readonly ms: number;
}

/** Runs one step; false when it failed or took too long. */
async function runStep(step: Step, log: Logger): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`took longer than ${step.ms} ms`)), step.ms);
  });
  try {
    await Promise.race([step.run(), late]);
    return true;
  } catch (error) {
    log.error({ err: error, step: step.name }, "stopping: a step failed");
    return false;
  } finally {
    clearTimeout(timer);
  }
}

/** Makes the lifecycle of this process. */
export function createLifecycle({ log, exit = Deno.exit }: LifecycleOptions): Lifecycle {
  const steps: Step[] = [];
  const controller = new AbortController();
  let stopped: Promise<void> | undefined;
  let installed = false;

  const leave = (code: ExitCode): never => {
    log.flush();
    return exit(code);
  };

  const fatal = (reason: string, error?: unknown): never => {
    log.error({ err: error, reason }, "fatal");
    return leave(ExitCode.fatal);
  };

  const runAll = async (reason: string): Promise<void> => {
    log.info({ reason }, "stopping");
    if (installed) beginLeaving();
    controller.abort();
    let clean = true;
    for (let step = steps.pop(); step !== undefined; step = steps.pop()) {
      clean = await runStep(step, log) && clean;
    }
    log.info({ clean }, "stopped");
    leave(clean ? ExitCode.ok : ExitCode.drainTimeout);
  };

  const stop = (reason: string): Promise<void> => stopped ??= runAll(reason);

  return {
    stopping: controller.signal,
    onStop: (name, run, ms = DEFAULT_STEP_MS) => void steps.push({ name, run, ms }),
    stop,
    fatal,
    install() {
      installed = true;
      const onSignal = (name: string) => () => {
        if (stopped !== undefined) {
          log.warn({ signal: name }, "second signal: leaving at once");
          leave(ExitCode.interrupted);
        }
        void stop(name);
      };
      const [onTerm, onInt] = [onSignal("SIGTERM"), onSignal("SIGINT")];
      const onRejection = (event: PromiseRejectionEvent) => {
        event.preventDefault();
        fatal("unhandled rejection", event.reason);
      };
      const onError = (event: ErrorEvent) => {
        event.preventDefault();
        fatal("uncaught error", event.error);
      };
      Deno.addSignalListener("SIGTERM", onTerm);
      Deno.addSignalListener("SIGINT", onInt);
      globalThis.addEventListener("unhandledrejection", onRejection);
      globalThis.addEventListener("error", onError);
      return () => {
        Deno.removeSignalListener("SIGTERM", onTerm);
        Deno.removeSignalListener("SIGINT", onInt);
        globalThis.removeEventListener("unhandledrejection", onRejection);
        globalThis.removeEventListener("error", onError);
      };
    },
  };
}
