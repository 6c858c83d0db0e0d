/**
 * Whether this process is about to end. From then on connections of clients are left to the operating system: closing one
 * sends GOAWAY, and a GOAWAY can abort the process at its other end, be it client or server (Deno 2.9: an assertion of
 * nghttp2 after a major garbage collection). The end of a process sends none.
 */
let leaving = false;

/** Called when stopping begins, in a process that will exit. */
export function beginLeaving(): void {
  leaving = true;
}

/** Whether stopping has begun. */
export function isLeaving(): boolean {
  return leaving;
}
