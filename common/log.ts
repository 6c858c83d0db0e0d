/** Structured logs: one JSON object a line, with daemon, peer, channel and trace. */
import pino from "pino";
import { currentTrace } from "common/trace.ts";

/** CLN's levels, from most to least. */
export const LOG_LEVELS = ["io", "trace", "debug", "info", "unusual", "broken"] as const;
/** One of CLN's levels. */
export type LogLevel = typeof LOG_LEVELS[number];

/** Longest text value in a line. */
export const MAX_LOGGED_TEXT = 2_048;
/** Longest byte string that is written out. */
const MAX_LOGGED_BYTES = 128;
const MAX_DEPTH = 6;
const SECRET_KEY =
  /pass(word|phrase)?$|secret|seed|mnemonic|priv(ate)?_?key|preimage|cookie|rune$|token|authorization|database_?url/i;
// Control characters, line and paragraph separators, and the marks that reorder text on a terminal.
// deno-lint-ignore no-control-regex
const UNSAFE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Fields that many lines share. */
export interface LogFields {
  readonly daemon?: string;
  /** Node id of the peer, hex. */
  readonly peer?: string;
  /** Channel id, hex. */
  readonly channel?: string;
  readonly [key: string]: unknown;
}

/** A logger. `info(fields, message)`; secrets are cut out by the names of their fields. */
export interface Logger {
  trace(fields: object, message: string): void;
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  /** CLN's "unusual": something is off, the daemon goes on. */
  warn(fields: object, message: string): void;
  /** CLN's "broken": our own fault. */
  error(fields: object, message: string): void;
  /** The same logger with more fields in every line. */
  child(fields: LogFields): Logger;
  /** Whether a line of this level is written; to spare its preparation. */
  enabled(level: LogLevel): boolean;
  /** Everything that was logged has been handed to the operating system. */
  flush(): void;
}

/** Text that came from outside, made harmless for a log, a terminal or an error message. */
export function sanitize(text: string, maxLength: number = MAX_LOGGED_TEXT): string {
  const cut = text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
  return cut.toWellFormed().replace(UNSAFE, "�");
}

function clean(value: unknown, depth: number): unknown {
  if (typeof value === "string") return sanitize(value);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Uint8Array) {
    const shown = value.subarray(0, MAX_LOGGED_BYTES).toHex();
    return value.length > MAX_LOGGED_BYTES ? `${shown}…(${value.length} bytes)` : shown;
  }
  if (depth >= MAX_DEPTH) return "[deep]";
  if (value instanceof Error) return cleanError(value, depth);
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map((item) => clean(item, depth + 1));
  return cleanFields(value, depth + 1);
}

function cleanError(error: Error, depth: number): object {
  const { name, message, stack, cause } = error;
  return {
    type: name,
    message: sanitize(message),
    ...("code" in error ? { code: error.code } : {}),
    ...("reason" in error ? { reason: error.reason } : {}),
    stack: stack?.split("\n").map((line) => sanitize(line)).join("\n"),
    ...(cause === undefined ? {} : { cause: clean(cause, depth + 1) }),
  };
}

function cleanFields(fields: object, depth: number): Record<string, unknown> {
  const cleaned: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(fields)) {
    cleaned[key] = SECRET_KEY.test(key) && value !== undefined ? "[redacted]" : clean(value, depth);
  }
  return cleaned;
}

const PINO_LEVEL: Record<LogLevel, pino.Level> = {
  io: "trace",
  trace: "trace",
  debug: "debug",
  info: "info",
  unusual: "warn",
  broken: "error",
};
const LABEL: Record<string, LogLevel> = {
  trace: "trace",
  debug: "debug",
  info: "info",
  warn: "unusual",
  error: "broken",
  fatal: "broken",
};

/** Settings of a logger. */
export interface LogOptions {
  readonly level?: LogLevel;
  /** Appended to; default standard output. */
  readonly file?: string;
  /** Where lines go instead, for tests. */
  readonly sink?: (line: string) => void;
  readonly fields?: LogFields;
}

/** Makes a logger. Lines are written synchronously: what was logged before a crash is there after it. */
export function createLogger(options: LogOptions = {}): Logger {
  const { sink } = options;
  const destination = sink === undefined
    ? pino.destination({ dest: options.file ?? 1, sync: true, append: true, mkdir: true })
    : { write: sink };
  const root = pino({
    level: PINO_LEVEL[options.level ?? "info"],
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: (value: unknown) => value },
    formatters: {
      level: (label) => ({ level: LABEL[label] ?? label }),
      log: (fields) => cleanFields(fields, 0),
    },
    mixin: () => {
      const trace = currentTrace();
      return trace === undefined ? {} : { trace: trace.traceId };
    },
  }, destination);
  const flush = () => "flushSync" in destination ? destination.flushSync() : undefined;
  return wrap(root.child(cleanFields(options.fields ?? {}, 0)), flush);
}

function wrap(logger: pino.Logger, flush: () => void): Logger {
  return {
    trace: (fields, message) => logger.trace(fields, sanitize(message)),
    debug: (fields, message) => logger.debug(fields, sanitize(message)),
    info: (fields, message) => logger.info(fields, sanitize(message)),
    warn: (fields, message) => logger.warn(fields, sanitize(message)),
    error: (fields, message) => logger.error(fields, sanitize(message)),
    // pino formats what a child adds by itself, not by the formatter above.
    child: (fields) => wrap(logger.child(cleanFields(fields, 0)), flush),
    enabled: (level) => logger.isLevelEnabled(PINO_LEVEL[level]),
    flush,
  };
}
