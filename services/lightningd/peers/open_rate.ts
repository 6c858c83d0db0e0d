/** How many opens a peer started lately, however often it connected meanwhile. */

/** Peers that are remembered; with one more, the one that was silent longest is forgotten. */
export const MAX_REMEMBERED_PEERS = 10_000;

/** Counts the opens of each peer within a window of time. The caller brings the clock (monotonic milliseconds). */
export class OpenRate {
  /** Peers by the time of their last open, the longest ago first. */
  readonly #opens = new Map<string, number[]>();

  constructor(private readonly windowMs: number, private readonly maxPeers = MAX_REMEMBERED_PEERS) {}

  /** Opens of this peer within the window. */
  lately(peer: string, now: number): number {
    return this.#fresh(peer, now).length;
  }

  /** The peer starts one more. */
  note(peer: string, now: number): void {
    const opens = [...this.#fresh(peer, now), now];
    this.#opens.delete(peer);
    this.#opens.set(peer, opens);
    for (const [oldest, times] of this.#opens) {
      const over = (times.at(-1) ?? 0) <= now - this.windowMs;
      if (!over && this.#opens.size <= this.maxPeers) break;
      this.#opens.delete(oldest);
    }
  }

  /** Peers that are remembered now. */
  get size(): number {
    return this.#opens.size;
  }

  #fresh(peer: string, now: number): number[] {
    return (this.#opens.get(peer) ?? []).filter((at) => at > now - this.windowMs);
  }
}
