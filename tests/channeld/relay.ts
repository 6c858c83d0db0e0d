/** A TCP relay that a test can cut or hold. */

/** Listens on a free port and passes everything on to one address. */
export class Relay {
  readonly #connections = new Set<readonly [Deno.Conn, Deno.Conn]>();
  #held: PromiseWithResolvers<void> | null = null;
  #refusing = false;

  private constructor(
    private readonly listener: Deno.TcpListener,
    private readonly target: { readonly hostname: string; readonly port: number },
  ) {
    void this.#accept();
  }

  /** A relay to "host:port". */
  static to(address: string): Promise<Relay> {
    const at = address.lastIndexOf(":");
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return Promise.resolve(
      new Relay(listener, { hostname: address.slice(0, at), port: Number(address.slice(at + 1)) }),
    );
  }

  get address(): string {
    return `127.0.0.1:${this.listener.addr.port}`;
  }

  async #accept(): Promise<void> {
    for await (const near of this.listener) {
      if (this.#refusing) {
        near.close();
        continue;
      }
      void this.#serve(near);
    }
  }

  async #serve(near: Deno.Conn): Promise<void> {
    const far = await Deno.connect(this.target);
    const pair = [near, far] as const;
    this.#connections.add(pair);
    await Promise.allSettled([this.#pass(near, far), this.#pass(far, near)]);
    this.#close(pair);
  }

  async #pass(from: Deno.Conn, to: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    for (;;) {
      const length = await from.read(buffer);
      if (length === null) return;
      await this.#held?.promise;
      for (let at = 0; at < length;) at += await to.write(buffer.subarray(at, length));
    }
  }

  #close(pair: readonly [Deno.Conn, Deno.Conn]): void {
    if (!this.#connections.delete(pair)) return;
    for (const end of pair) {
      try {
        end.close();
      } catch {
        // Its other half closed it.
      }
    }
  }

  /** From now on what comes waits, until `release`. */
  hold(): void {
    this.#held ??= Promise.withResolvers();
  }

  /** Passes on what waited. */
  release(): void {
    this.#held?.resolve();
    this.#held = null;
  }

  /** Breaks every connection; `refuse`: and takes no new one until `restore`. */
  cut(refuse = false): void {
    this.#refusing = refuse;
    for (const pair of [...this.#connections]) this.#close(pair);
    this.release();
  }

  /** Takes connections again. */
  restore(): void {
    this.#refusing = false;
  }

  /** Ends it. */
  close(): Promise<void> {
    this.cut(true);
    this.listener.close();
    return Promise.resolve();
  }
}
