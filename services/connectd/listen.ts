/** Sockets that peers dial. Bound before lightningd's first welcome, accepting only after it. */
import type { Logger } from "common/log.ts";
import { formatAddress, parseAddress } from "./address.ts";
import { monotonic } from "./clock.ts";

/** After accepting failed (no file descriptors left), until it is tried again. */
const ACCEPT_RETRY_MS = 100;

/** The listening sockets of this connectd. */
export class Listeners {
  #accepting = false;
  #stopped = false;
  #loops: Promise<void>[] = [];

  private constructor(
    private readonly listeners: readonly Deno.TcpListener[],
    private readonly log: Logger,
  ) {}

  /** Binds all of these addresses; port 0 takes any. Throws when one cannot be bound, and then holds none. */
  static bind(addresses: readonly string[], log: Logger): Listeners {
    const listeners: Deno.TcpListener[] = [];
    try {
      for (const text of addresses) {
        const address = parseAddress(text);
        if (!address.ok) throw new Error(address.error);
        listeners.push(Deno.listen({ hostname: address.value.host, port: address.value.port }));
      }
    } catch (error) {
      for (const listener of listeners) listener.close();
      throw error;
    }
    return new Listeners(listeners, log);
  }

  /** Where peers reach us. */
  get bindings(): string[] {
    return this.listeners.map(({ addr }) => formatAddress({ host: addr.hostname, port: addr.port }));
  }

  /** Begins to accept; once. */
  accept(take: (conn: Deno.TcpConn) => void): void {
    if (this.#accepting || this.#stopped) return;
    this.#accepting = true;
    this.#loops = this.listeners.map((listener) => this.#loop(listener, take));
  }

  /** Closes the sockets; connections that were taken live on. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    for (const listener of this.listeners) listener.close();
    await Promise.all(this.#loops);
  }

  async #loop(listener: Deno.TcpListener, take: (conn: Deno.TcpConn) => void): Promise<void> {
    let loggedAt = -Infinity;
    while (!this.#stopped) {
      try {
        take(await listener.accept());
      } catch (error) {
        if (this.#stopped) return;
        // A peer that left before we took it, or no descriptor left: neither ends the listening.
        if (monotonic() - loggedAt > 10_000) this.log.warn({ err: error }, "accepting failed");
        loggedAt = monotonic();
        await new Promise<void>((resolve) => setTimeout(resolve, ACCEPT_RETRY_MS));
      }
    }
  }
}
