/** Waiting for events in tests, with a deadline that says what did not happen. */

/** How long a test waits for something that should come soon. */
export const DEFAULT_WAIT_MS = 20_000;
const POLL_MS = 10;

/** How long, and for what. */
export interface WaitOptions {
  /** Named in the error when it does not happen. */
  readonly what: string;
  /** Milliseconds. */
  readonly deadline?: number;
}

/** What counts as "not yet". */
type NotYet = undefined | null | false;

/** Waits for a promise, and answers its value. */
export function waitFor<T>(event: Promise<T>, options: WaitOptions): Promise<T>;
/**
 * Waits until a predicate gives something else than undefined, null or false, and answers that. It is asked again every 10 ms: for
 * what gives no event, such as a row or a file. One that throws fails at once.
 */
export function waitFor<T>(
  predicate: () => T | Promise<T>,
  options: WaitOptions,
): Promise<Exclude<T, NotYet>>;
export function waitFor(awaited: Promise<unknown> | (() => unknown), options: WaitOptions): Promise<unknown> {
  const ms = options.deadline ?? DEFAULT_WAIT_MS;
  const stop = new AbortController();
  const event = typeof awaited === "function" ? poll(awaited, stop.signal) : awaited;
  return withDeadline(event, ms, options.what).finally(() => stop.abort());
}

async function poll(predicate: () => unknown, stop: AbortSignal): Promise<unknown> {
  while (!stop.aborted) {
    const value = await predicate();
    if (value !== undefined && value !== null && value !== false) return value;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(settle, POLL_MS);
      function settle(): void {
        clearTimeout(timer);
        stop.removeEventListener("abort", settle);
        resolve();
      }
      stop.addEventListener("abort", settle, { once: true });
    });
  }
  return undefined;
}

async function withDeadline<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
