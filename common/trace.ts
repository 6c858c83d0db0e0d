/** W3C trace context: one id that follows a piece of work from daemon to daemon, in `traceparent` metadata and in every log line. */
import { AsyncLocalStorage } from "node:async_hooks";

/** A position in a trace. */
export interface Trace {
  /** 32 lower-case hex digits, the same across daemons. */
  readonly traceId: string;
  /** 16 lower-case hex digits: the caller's span, parent of what happens here. */
  readonly spanId: string;
  /** Whether the starter asked for recording. */
  readonly sampled: boolean;
}

const FORMAT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})/;
const ZERO_TRACE = "0".repeat(32);
const ZERO_SPAN = "0".repeat(16);

const storage = new AsyncLocalStorage<Trace>();

function randomHex(bytes: number): string {
  return crypto.getRandomValues(new Uint8Array(bytes)).toHex();
}

/** A trace that starts here. */
export function newTrace(): Trace {
  return { traceId: randomHex(16), spanId: randomHex(8), sampled: true };
}

/** Reads a `traceparent`; undefined for anything malformed, which is then ignored as the standard asks. */
export function parseTraceparent(text: string): Trace | undefined {
  const match = FORMAT.exec(text);
  if (match === null) return undefined;
  const [, version, traceId, spanId, flags] = match;
  if (version === undefined || traceId === undefined || spanId === undefined || flags === undefined) {
    return undefined;
  }
  if (version === "ff" || traceId === ZERO_TRACE || spanId === ZERO_SPAN) return undefined;
  if (version === "00" && text.length !== match[0].length) return undefined;
  return { traceId, spanId, sampled: (parseInt(flags, 16) & 1) === 1 };
}

/** The `traceparent` text of a trace. */
export function formatTraceparent(trace: Trace): string {
  return `00-${trace.traceId}-${trace.spanId}-${trace.sampled ? "01" : "00"}`;
}

/** The same trace, one span further: what a call to another daemon carries. */
export function childTrace(trace: Trace): Trace {
  return { ...trace, spanId: randomHex(8) };
}

/** The trace that the running code belongs to. */
export function currentTrace(): Trace | undefined {
  return storage.getStore();
}

/** Runs `work`, and everything that it awaits or starts, in `trace`. */
export function runWithTrace<T>(trace: Trace, work: () => T): T {
  return storage.run(trace, work);
}
