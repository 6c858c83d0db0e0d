/** What the daemons of a node logged, and waiting for a line of it. */
import type { DaemonName } from "./daemons.ts";

/** One line of a daemon's log. */
export interface LogLine {
  readonly daemon: DaemonName | "node";
  /** Counts all lines of the node, from 0. */
  readonly index: number;
  readonly level: string;
  readonly msg: string;
  /** All fields of a structured line; of any other output only `msg`. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** Which line is meant: a daemon and a text or pattern in the message, or any condition. */
export type LogMatch = RegExp | string | ((line: LogLine) => boolean);

/** Where and how long to look. */
export interface LogWait {
  /** Only lines of this index and later: see {@link LogBook.next}. Default 0. */
  readonly since?: number;
  readonly daemon?: DaemonName;
  readonly deadlineMs?: number;
}

/** How long a line is waited for. */
export const LOG_DEADLINE_MS = 20_000;
/** Lines that are kept; a test that runs longer looks at the log file. */
const MAX_LINES = 100_000;
const SHOWN_LINES = 25;

function matches(match: LogMatch, line: LogLine): boolean {
  if (typeof match === "function") return match(line);
  return typeof match === "string" ? line.msg.includes(match) : match.test(line.msg);
}

/** The lines of one node, in the order in which they came. */
export class LogBook {
  readonly lines: LogLine[] = [];
  readonly #waiters = new Set<(line: LogLine) => void>();
  #next = 0;

  /** The index that the next line will have: a mark to wait from. */
  get next(): number {
    return this.#next;
  }

  /** Takes one line of a daemon's output. */
  add(process: DaemonName | "node", text: string): void {
    let fields: Record<string, unknown> = { msg: text };
    if (text.startsWith("{")) {
      try {
        fields = JSON.parse(text);
      } catch {
        // Not one of ours; kept as text.
      }
    }
    const line: LogLine = {
      daemon: daemonOf(fields["daemon"]) ?? process,
      index: this.#next++,
      level: typeof fields["level"] === "string" ? fields["level"] : "text",
      msg: typeof fields["msg"] === "string" ? fields["msg"] : "",
      fields,
    };
    this.lines.push(line);
    if (this.lines.length > MAX_LINES) this.lines.shift();
    for (const waiter of [...this.#waiters]) waiter(line);
  }

  /** The lines so far that match. */
  find(match: LogMatch, where: LogWait = {}): LogLine[] {
    return this.lines.filter((line) =>
      line.index >= (where.since ?? 0) && (where.daemon === undefined || line.daemon === where.daemon) &&
      matches(match, line)
    );
  }

  /** Resolves with the first line that matches, past or future; rejects after the deadline. */
  wait(match: LogMatch, where: LogWait = {}): Promise<LogLine> {
    const found = this.find(match, where)[0];
    if (found !== undefined) return Promise.resolve(found);
    const ms = where.deadlineMs ?? LOG_DEADLINE_MS;
    return new Promise((resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
      };
      const waiter = (line: LogLine) => {
        if (where.daemon !== undefined && line.daemon !== where.daemon) return;
        if (!matches(match, line)) return;
        done();
        resolve(line);
      };
      const timer = setTimeout(() => {
        done();
        reject(new Error(`no such line in ${ms} ms: ${match}\n${this.tail()}`));
      }, ms);
      this.#waiters.add(waiter);
    });
  }

  /** The last lines, for a failure's message. */
  tail(count = SHOWN_LINES): string {
    return this.lines.slice(-count).map(({ daemon, level, msg, fields }) => {
      const { level: _level, msg: _msg, time: _time, daemon: _daemon, instance: _instance, ...rest } = fields;
      const more = Object.keys(rest).length === 0 ? "" : ` ${JSON.stringify(rest)}`;
      return `  ${daemon} ${level} ${msg}${more}`;
    }).join("\n");
  }
}

function daemonOf(value: unknown): DaemonName | undefined {
  switch (value) {
    case "hsmd":
    case "lightningd":
    case "connectd":
    case "dualopend":
    case "channeld":
    case "closingd":
      return value;
    default:
      return undefined;
  }
}
