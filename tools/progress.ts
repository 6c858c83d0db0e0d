/** One long step that is under way. Exactly one of `done` and `fail` ends it. */
export interface Step {
  /** Says how far the step is: a short text, or a fraction from 0 to 1, or both. May be called often. */
  update(text: string, fraction?: number): void;
  /** Ends the step well. */
  done(note?: string): void;
  /** Ends the step badly. */
  fail(note?: string): void;
}

/** Where programs say what they are doing to the person who started them. */
export interface Progress {
  /** Begins a step; its title is shown at once. */
  step(title: string): Step;
  /** Shows one line. */
  info(line: string): void;
}

/** How `createProgress` writes. */
export interface ProgressOptions {
  /** Takes the text, escape sequences and line ends included. Default: standard error. */
  write?: (text: string) => void;
  /** Whether one line may be written over again. Default: whether standard error is a terminal. */
  tty?: boolean;
  /** Columns of the terminal, used to cut lines that would wrap. Default: asked from the terminal. */
  columns?: () => number;
  /** Milliseconds, from any fixed start. Default: `performance.now`. */
  now?: () => number;
}

/** Without a terminal a step under way writes at most one line in this time. */
export const PLAIN_INTERVAL_MS = 10_000;
/** On a terminal a step is drawn at most this often. */
export const TTY_INTERVAL_MS = 100;
const DEFAULT_COLUMNS = 100;
const ERASE_LINE = "\r\x1b[2K";

/** A printer that shows nothing: for tests and for output that a program reads. */
export const quietProgress: Progress = {
  step: () => ({ update: () => {}, done: () => {}, fail: () => {} }),
  info: () => {},
};

/**
 * A printer for people. On a terminal a running step owns the last line and is redrawn there; elsewhere (a CI log)
 * a step writes its title, then a line every {@link PLAIN_INTERVAL_MS} while it is updated, then its end.
 */
export function createProgress(options: ProgressOptions = {}): Progress {
  const write = options.write ?? writeToStderr;
  const tty = options.tty ?? Deno.stderr.isTerminal();
  const columns = options.columns ?? terminalColumns;
  const now = options.now ?? (() => performance.now());
  let live: string | undefined;

  const draw = (text: string) => {
    live = text;
    write(ERASE_LINE + text.slice(0, Math.max(1, columns() - 1)));
  };
  const line = (text: string) => {
    if (live === undefined) return write(`${text}\n`);
    write(`${ERASE_LINE}${text}\n`);
    draw(live);
  };
  const endLive = () => {
    if (live !== undefined) write(ERASE_LINE);
    live = undefined;
  };

  return {
    info: line,
    step(title) {
      const start = now();
      let shown = start;
      let open = true;
      if (tty) draw(`… ${title}`);
      else line(`… ${title}`);
      const end = (mark: string, note?: string) => {
        if (!open) return;
        open = false;
        endLive();
        const seconds = (now() - start) / 1000;
        line(`${mark} ${title}${note === undefined ? "" : `: ${note}`} (${seconds.toFixed(1)} s)`);
      };
      return {
        update(text, fraction) {
          if (!open || now() - shown < (tty ? TTY_INTERVAL_MS : PLAIN_INTERVAL_MS)) return;
          shown = now();
          const percent = fraction === undefined ? "" : ` ${Math.floor(clamp(fraction) * 100)} %`;
          const state = `… ${title}:${percent} ${text}`.trimEnd();
          if (tty) draw(state);
          else line(`${state} (${Math.round((shown - start) / 1000)} s)`);
        },
        done: (note) => end("✓", note),
        fail: (note) => end("✗", note),
      };
    },
  };
}

/** Runs `work` as one step: ended well when it resolves, badly when it throws (the error goes on). */
export async function withStep<T>(
  progress: Progress,
  title: string,
  work: (step: Step) => Promise<T>,
): Promise<T> {
  const step = progress.step(title);
  try {
    const value = await work(step);
    step.done();
    return value;
  } catch (error) {
    step.fail();
    throw error;
  }
}

function clamp(fraction: number): number {
  return Math.min(1, Math.max(0, fraction));
}

function terminalColumns(): number {
  try {
    return Deno.consoleSize().columns;
  } catch {
    return DEFAULT_COLUMNS;
  }
}

const encoder = new TextEncoder();

function writeToStderr(text: string): void {
  let bytes = encoder.encode(text);
  while (bytes.length > 0) bytes = bytes.subarray(Deno.stderr.writeSync(bytes));
}
