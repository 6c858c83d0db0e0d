/** Outgoing connections: `connect` commands, and important peers that are kept connected. */
import { bytesToHex } from "@noble/hashes/utils.js";
import type { Logger } from "common/log.ts";
import { type Address, formatAddress, parseAddress } from "./address.ts";
import { type Backoff, backoffDelay, failedOnce, NO_BACKOFF, STABLE_MS } from "./backoff.ts";
import type { Connection } from "./connection.ts";
import type { Limits } from "./limits.ts";

/** CLN's codes of `connect`. */
export const ALL_ADDRESSES_FAILED = 401;
export const DISCONNECTED_DURING_HANDSHAKE = 402;

/** What came of an attempt. */
export type DialOutcome =
  | { readonly type: "connected"; readonly connection: Connection }
  | { readonly type: "failed"; readonly code: number; readonly error: string };

/** Settings of {@link Dialler}. */
export interface DiallerOptions {
  readonly limits: Limits;
  readonly log: Logger;
  readonly fast: boolean;
  readonly now: () => number;
  /** The live connection of a peer, if there is one. */
  readonly live: (peer: string) => Connection | undefined;
  /** Makes a connection of a socket; resolves with it once init is done, with an error text if that fails. */
  readonly handshake: (conn: Deno.TcpConn, peerId: Uint8Array) => Promise<Connection | string>;
}

interface Attempt {
  readonly queue: Address[];
  readonly seen: Set<string>;
  readonly outcome: Promise<DialOutcome>;
}

interface Important {
  readonly peerId: Uint8Array;
  addresses: readonly string[];
  backoff: Backoff;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** Everything that dials. */
export class Dialler {
  readonly #attempts = new Map<string, Attempt>();
  readonly #important = new Map<string, Important>();
  readonly #abort = new AbortController();
  #inFlight = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(private readonly options: DiallerOptions) {}

  /** Connects, or answers with the connection that is there. Two calls for one peer share one attempt. */
  connect(peerId: Uint8Array, addresses: readonly string[]): Promise<DialOutcome> {
    const peer = bytesToHex(peerId);
    const live = this.options.live(peer);
    if (live !== undefined) return Promise.resolve({ type: "connected", connection: live });
    const parsed: Address[] = [];
    const bad: string[] = [];
    for (const text of addresses.slice(0, this.options.limits.maxAddresses)) {
      const address = parseAddress(text);
      if (address.ok) parsed.push(address.value);
      else bad.push(address.error);
    }
    const running = this.#attempts.get(peer);
    if (running !== undefined) {
      for (const address of parsed) enqueue(running, address);
      return running.outcome;
    }
    if (parsed.length === 0) {
      const error = bad.length === 0 ? "no address is known" : bad.join("; ");
      return Promise.resolve({ type: "failed", code: ALL_ADDRESSES_FAILED, error });
    }
    const queue: Address[] = [];
    const attempt: Attempt = { queue, seen: new Set(), outcome: this.#attempt(peer, peerId, queue) };
    for (const address of parsed) enqueue(attempt, address);
    this.#attempts.set(peer, attempt);
    return attempt.outcome;
  }

  /** Keeps a peer connected, or stops doing so. */
  setImportant(peerId: Uint8Array, addresses: readonly string[], important: boolean): void {
    const peer = bytesToHex(peerId);
    const known = this.#important.get(peer);
    if (!important) {
      clearTimeout(known?.timer);
      this.#important.delete(peer);
      return;
    }
    if (known !== undefined) {
      if (addresses.length > 0) known.addresses = [...addresses];
      return this.#schedule(peer, known);
    }
    const entry: Important = { peerId, addresses: [...addresses], backoff: NO_BACKOFF, timer: undefined };
    this.#important.set(peer, entry);
    this.#schedule(peer, entry);
  }

  /** Replaces the whole list of important peers. */
  setAllImportant(
    list: readonly { readonly peerId: Uint8Array; readonly addresses: readonly string[] }[],
  ): void {
    const wanted = new Set(list.map(({ peerId }) => bytesToHex(peerId)));
    for (const [peer, entry] of [...this.#important]) {
      if (!wanted.has(peer)) this.setImportant(entry.peerId, [], false);
    }
    for (const { peerId, addresses } of list) this.setImportant(peerId, addresses, true);
  }

  /** Whether a peer is kept connected. */
  isImportant(peer: string): boolean {
    return this.#important.has(peer);
  }

  /** A peer is there: nothing needs to be dialled. */
  peerUp(peer: string): void {
    const entry = this.#important.get(peer);
    if (entry === undefined) return;
    clearTimeout(entry.timer);
    entry.timer = undefined;
  }

  /** A peer is gone after so many milliseconds. A connection that lasted, or that we ended ourselves, is replaced at once. */
  peerDown(peer: string, lived: number): void {
    const entry = this.#important.get(peer);
    if (entry === undefined) return;
    // The first short life is forgiven too: a drained hang-up asks for an immediate reconnect.
    const stable = lived >= STABLE_MS;
    this.#schedule(peer, entry);
    entry.backoff = stable ? NO_BACKOFF : failedOnce(entry.backoff);
  }

  /** Ends every attempt and every plan. */
  stop(): void {
    this.#abort.abort();
    for (const entry of this.#important.values()) clearTimeout(entry.timer);
    this.#important.clear();
    for (const wake of this.#waiting.splice(0)) wake();
  }

  #schedule(peer: string, entry: Important): void {
    if (entry.timer !== undefined || entry.addresses.length === 0 || this.#abort.signal.aborted) return;
    if (this.options.live(peer) !== undefined) return;
    const wait = backoffDelay(entry.backoff, this.options.fast, Math.random());
    entry.timer = setTimeout(() => {
      entry.timer = undefined;
      this.#retry(peer, entry);
    }, wait);
  }

  #retry(peer: string, entry: Important): void {
    this.connect(entry.peerId, entry.addresses).then((outcome) => {
      if (this.#important.get(peer) !== entry || outcome.type === "connected") return;
      this.options.log.debug({ peer, error: outcome.error }, "an important peer is not reached");
      entry.backoff = failedOnce(entry.backoff);
      this.#schedule(peer, entry);
    });
  }

  async #attempt(peer: string, peerId: Uint8Array, queue: Address[]): Promise<DialOutcome> {
    const errors: string[] = [];
    let code = ALL_ADDRESSES_FAILED;
    await this.#slot();
    try {
      for (let address = queue.shift(); address !== undefined; address = queue.shift()) {
        if (this.#abort.signal.aborted) return { type: "failed", code, error: "stopping" };
        const live = this.options.live(peer);
        if (live !== undefined) return { type: "connected", connection: live };
        const result = await this.#one(address, peerId);
        if (typeof result !== "string") return { type: "connected", connection: result };
        // Somebody else's connection may have won meanwhile.
        const other = this.options.live(peer);
        if (other !== undefined) return { type: "connected", connection: other };
        if (result.startsWith(HANDSHAKE)) code = DISCONNECTED_DURING_HANDSHAKE;
        errors.push(`${formatAddress(address)}: ${result}`);
      }
      return {
        type: "failed",
        code: errors.length > 1 ? ALL_ADDRESSES_FAILED : code,
        error: errors.join("; "),
      };
    } finally {
      this.#attempts.delete(peer);
      this.#inFlight--;
      this.#waiting.shift()?.();
    }
  }

  async #one(address: Address, peerId: Uint8Array): Promise<Connection | string> {
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), this.options.limits.connectTimeout);
    const signal = AbortSignal.any([timeout.signal, this.#abort.signal]);
    let conn: Deno.TcpConn;
    try {
      conn = await Deno.connect({ hostname: address.host, port: address.port, signal });
    } catch (error) {
      return timeout.signal.aborted ? "timed out" : connectErrorText(error);
    } finally {
      clearTimeout(timer);
    }
    const result = await this.options.handshake(conn, peerId);
    return typeof result === "string" ? `${HANDSHAKE}${result}` : result;
  }

  /** Waits until fewer than the allowed number of attempts run. */
  async #slot(): Promise<void> {
    // A step later in any case: the caller still puts addresses into the queue.
    await Promise.resolve();
    while (this.#inFlight >= this.options.limits.maxConnectsInFlight && !this.#abort.signal.aborted) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#inFlight++;
  }
}

const HANDSHAKE = "disconnected during the handshake: ";

function enqueue(attempt: Attempt, address: Address): void {
  const text = formatAddress(address);
  if (attempt.seen.has(text)) return;
  attempt.seen.add(text);
  attempt.queue.push(address);
}

function connectErrorText(error: unknown): string {
  if (error instanceof Deno.errors.ConnectionRefused) return "connection refused";
  if (error instanceof Deno.errors.AddrNotAvailable) return "address not available";
  return error instanceof Error ? `cannot connect (${error.name})` : "cannot connect";
}
