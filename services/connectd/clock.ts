/** Monotonic milliseconds. */
export function monotonic(): number {
  return performance.now();
}

/** A clock that runs only while lightningd is there: what it has to answer is not late because it is away. */
export class ControlClock {
  #elapsed = 0;
  #since: number | undefined;

  constructor(private readonly now: () => number = monotonic) {}

  /** lightningd is there. */
  run(): void {
    this.#since ??= this.now();
  }

  /** lightningd is away. */
  stand(): void {
    if (this.#since === undefined) return;
    this.#elapsed += this.now() - this.#since;
    this.#since = undefined;
  }

  /** Milliseconds in which it ran. */
  read(): number {
    return this.#elapsed + (this.#since === undefined ? 0 : this.now() - this.#since);
  }
}
