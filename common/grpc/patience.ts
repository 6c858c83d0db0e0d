/** Daemons restart: what one did not answer is asked again for a while. */
import { ArcusError, Code } from "common/grpc/errors.ts";

/** How long another daemon may be away before whoever asks gives up. */
export const PATIENCE_MS = 20_000;
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 1_000;

/** Asks again while the answer is UNAVAILABLE. Only for questions that may be repeated. Throws the last error. */
export async function patiently<T>(ask: () => Promise<T>, signal: AbortSignal): Promise<T> {
  const end = performance.now() + PATIENCE_MS;
  for (let wait = FIRST_RETRY_MS;; wait = Math.min(wait * 2, MAX_RETRY_MS)) {
    try {
      return await ask();
    } catch (error) {
      const again = error instanceof ArcusError && error.code === Code.UNAVAILABLE;
      if (!again || performance.now() + wait >= end || signal.aborted) throw error;
      await pause(wait, signal);
    }
  }
}

/** Waits, or less when aborted. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
