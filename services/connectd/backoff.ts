/** When to try an important peer again. */

/** First wait after an attempt that failed, milliseconds; doubles ... */
export const FIRST_BACKOFF_MS = 1_000;
/** ... up to this. */
export const MAX_BACKOFF_MS = 300_000;
/** Up to so much is added at random, so that two nodes that lost each other do not dial at the same moment for ever. */
export const BACKOFF_FUZZ_MS = 1_000;
/** A connection that lived so long makes the next wait start from nothing again. */
export const STABLE_MS = 30_000;
/** With `dev-fast-reconnect`: first wait, highest wait and fuzz. */
export const FAST_FIRST_MS = 200;
export const FAST_MAX_MS = 800;
export const FAST_FUZZ_MS = 200;
/** After a connection that was stable, or that we hung up ourselves to start afresh: at once, but for a little fuzz. */
export const AT_ONCE_FUZZ_MS = 200;

/** Waits that grow. A value: the number of failures in a row. */
export interface Backoff {
  readonly failures: number;
}

/** No failure yet. */
export const NO_BACKOFF: Backoff = { failures: 0 };

/** After an attempt that failed, or a connection that did not last. */
export function failedOnce(backoff: Backoff): Backoff {
  return { failures: backoff.failures + 1 };
}

/** Milliseconds until the next attempt. `random` is from 0 up to 1. */
export function backoffDelay(backoff: Backoff, fast: boolean, random: number): number {
  if (backoff.failures === 0) return Math.floor(random * AT_ONCE_FUZZ_MS);
  const [first, max, fuzz] = fast
    ? [FAST_FIRST_MS, FAST_MAX_MS, FAST_FUZZ_MS]
    : [FIRST_BACKOFF_MS, MAX_BACKOFF_MS, BACKOFF_FUZZ_MS];
  // 2^30 is far beyond every maximum; a larger exponent only risks Infinity.
  const grown = first * 2 ** Math.min(backoff.failures - 1, 30);
  return Math.min(grown, max) + Math.floor(random * fuzz);
}
