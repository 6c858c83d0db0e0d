/** A token bucket: so many bytes a second, so many at once. The caller brings the clock. */
export class TokenBucket {
  #tokens: number;
  #since: number;

  constructor(private readonly perSecond: number, private readonly burst: number, now: number) {
    this.#tokens = burst;
    this.#since = now;
  }

  /** Takes tokens that were used already; the bucket may owe. */
  take(count: number, now: number): void {
    this.#refill(now);
    this.#tokens -= count;
  }

  /** Milliseconds until nothing is owed. */
  wait(now: number): number {
    this.#refill(now);
    return this.#tokens >= 0 ? 0 : Math.ceil(-this.#tokens * 1000 / this.perSecond);
  }

  #refill(now: number): void {
    this.#tokens = Math.min(this.burst, this.#tokens + (now - this.#since) * this.perSecond / 1000);
    this.#since = now;
  }
}
