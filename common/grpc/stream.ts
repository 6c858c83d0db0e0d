/**
 * One stream of a call, seen from either end. `BidiStream` is the callback form for hot paths: no promise per message, flow
 * control in the caller's hands. The async-iterable form (`messagesOf`, `pump`) is built on it.
 */
import type { Readable, Writable } from "node:stream";
import type { StatusObject } from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";
import { ArcusError, fromStatus, toArcusError } from "common/grpc/errors.ts";

/**
 * A stream of `Received` messages coming in and `Sent` messages going out.
 *
 * Each `on...` may be called once. Nothing is read before `onMessage` is called. A listener that throws ends this stream, not the
 * process: at a server with the status of what it threw, at a client with that error at `onEnd`. A listener must not be async.
 */
export interface BidiStream<Received, Sent> {
  /**
   * Queues a message. False means: the buffer is full (the message is queued all the same), stop until `onDrain`; or the
   * stream is over (the message is dropped), which `onEnd` tells.
   */
  write(message: Sent): boolean;
  /** Called when there is room again after `write` said false. */
  onDrain(listener: () => void): void;
  /** Starts reading. */
  onMessage(listener: (message: Received) => void): void;
  /** Stops reading; a few messages that are decoded already wait. The sender is held back by flow control. */
  pause(): void;
  /** Goes on reading. */
  resume(): void;
  /**
   * Called once, after the last message: the other end will say no more. At a client `error` is undefined for status OK. At
   * a server it is undefined when the client closed its half (answer, then `end`), and set when the call was cancelled, its
   * deadline passed or the connection was lost.
   */
  onEnd(listener: (error: ArcusError | undefined) => void): void;
  /**
   * Says no more. At a client: closes our half. At a server: ends the call, with status OK or with `error`. What was
   * written goes out first.
   */
  end(error?: unknown): void;
  /** Gives the call up. At a client at once, with status CANCELLED; at a server like `end` with ABORTED. */
  cancel(): void;
  /** True once nothing can be written any more. */
  readonly closed: boolean;
  /** Aborted as soon as the call is over in both directions, whatever is still unread. */
  readonly signal: AbortSignal;
  /** The other end's address; "unknown" on a unix socket. */
  readonly peer: string;
}

/** What this module needs from a grpc-js call object. */
interface Call {
  getPeer(): string;
}

/** What the two ends have in common. */
abstract class CallStream<Received, Sent> implements BidiStream<Received, Sent> {
  protected readonly abort = new AbortController();
  protected writingOver = false;
  protected reading = false;
  #broken = false;
  #ended: { readonly error: ArcusError | undefined } | undefined;
  #onEnd: ((error: ArcusError | undefined) => void) | undefined;

  constructor(
    private readonly call: Call,
    protected readonly input: Readable | undefined,
    protected readonly output: Writable | undefined,
  ) {}

  get closed(): boolean {
    return this.writingOver || this.abort.signal.aborted;
  }

  get signal(): AbortSignal {
    return this.abort.signal;
  }

  get peer(): string {
    return this.call.getPeer();
  }

  write(message: Sent): boolean {
    if (this.closed || this.output === undefined) return false;
    return this.output.write(message);
  }

  onDrain(listener: () => void): void {
    this.output?.on("drain", () => this.#guarded(listener));
  }

  onMessage(listener: (message: Received) => void): void {
    this.reading = true;
    this.input?.on("data", (message: Received) => this.#guarded(listener, message));
  }

  #guarded<A extends unknown[]>(listener: (...args: A) => void, ...args: A): void {
    if (this.#broken) return;
    try {
      listener(...args);
    } catch (error) {
      this.#broken = true;
      this.fail(error);
    }
  }

  /** A listener threw. */
  protected abstract fail(error: unknown): void;

  pause(): void {
    this.input?.pause();
  }

  resume(): void {
    this.input?.resume();
  }

  onEnd(listener: (error: ArcusError | undefined) => void): void {
    this.#onEnd = listener;
    const ended = this.#ended;
    if (ended !== undefined) queueMicrotask(() => listener(ended.error));
  }

  protected finish(error: ArcusError | undefined): void {
    if (this.#ended !== undefined) return;
    this.#ended = { error };
    this.#onEnd?.(error);
  }

  abstract end(error?: unknown): void;
  abstract cancel(): void;
}

/** A grpc-js client call with a stream in at least one direction. */
interface ClientCall extends Call {
  cancel(): void;
  on(event: "status", listener: (status: StatusObject) => void): unknown;
}

/** The calling end of a stream. */
export class ClientCallStream<Received, Sent> extends CallStream<Received, Sent> {
  #status: StatusObject | undefined;
  #drained = false;

  constructor(
    private readonly client: ClientCall,
    input: Readable | undefined,
    output: Writable | undefined,
  ) {
    super(client, input, output);
    // The status says the same; without a listener the error would be uncaught.
    input?.on("error", () => {});
    output?.on("error", () => {});
    if (input === undefined) this.#drained = true;
    input?.on("end", () => {
      this.#drained = true;
      this.#settle();
    });
    client.on("status", (status) => {
      this.#status = status;
      this.abort.abort();
      this.#settle();
    });
  }

  /** Data that came before the status is delivered before the end is told. */
  #settle(): void {
    const state = this.#status;
    if (state === undefined) return;
    if (state.code === status.OK) {
      if (this.#drained) this.finish(undefined);
    } else if (this.#drained || !this.reading) {
      this.finish(fromStatus(state));
    }
  }

  override end(): void {
    if (this.closed) return;
    this.writingOver = true;
    this.output?.end();
  }

  override cancel(): void {
    this.writingOver = true;
    this.client.cancel();
  }

  protected override fail(error: unknown): void {
    this.cancel();
    this.finish(toArcusError(error));
  }
}

/** A grpc-js server call with a stream in at least one direction. */
interface ServerCall extends Call {
  on(event: "cancelled", listener: () => void): unknown;
  getDeadline(): Date | number;
}

/** The serving end of a stream. */
export class ServerCallStream<Received, Sent> extends CallStream<Received, Sent> {
  constructor(
    private readonly server: ServerCall,
    input: Readable | undefined,
    output: Writable | undefined,
    private readonly statusOf: (error: unknown) => StatusObject,
  ) {
    super(server, input, output);
    input?.on("end", () => this.finish(undefined));
    // grpc-js says "cancelled" when the call is over for any reason, also after a normal end.
    server.on("cancelled", () => {
      const ours = this.writingOver;
      this.writingOver = true;
      this.abort.abort();
      this.finish(ours ? undefined : this.#lost());
    });
  }

  #lost(): ArcusError {
    const late = Number(this.server.getDeadline()) <= Date.now();
    return late
      ? new ArcusError({
        code: status.DEADLINE_EXCEEDED,
        reason: "DEADLINE_EXCEEDED",
        message: "deadline passed",
      })
      : new ArcusError({ code: status.CANCELLED, reason: "CANCELLED", message: "the caller is gone" });
  }

  override end(error?: unknown): void {
    if (this.closed) return;
    this.writingOver = true;
    if (error === undefined) this.output?.end();
    else this.output?.emit("error", this.statusOf(error));
  }

  protected override fail(error: unknown): void {
    this.end(error);
  }

  override cancel(): void {
    this.end(
      new ArcusError({
        code: status.ABORTED,
        reason: "STREAM_CANCELLED",
        message: "the server gave the stream up",
      }),
    );
  }
}

/** How many decoded messages an iterator holds before it stops reading. */
const ITERATOR_QUEUE = 16;

/**
 * The messages of a stream as an async iterable, to be iterated once. It ends when the other end says no more, and throws the
 * `ArcusError` of a call that failed. Leaving the loop early calls `onLeave`.
 */
export function messagesOf<Received, Sent>(
  stream: BidiStream<Received, Sent>,
  onLeave: () => void = () => {},
): AsyncIterableIterator<Received> {
  const queue: Received[] = [];
  let end: { readonly error: ArcusError | undefined } | undefined;
  let waiting: { resolve(result: IteratorResult<Received>): void; reject(error: unknown): void } | undefined;
  let paused = false;

  const done: IteratorResult<Received> = { done: true, value: undefined };
  stream.onEnd((error) => {
    end = { error };
    const waiter = waiting;
    waiting = undefined;
    if (error === undefined) waiter?.resolve(done);
    else waiter?.reject(error);
  });
  stream.onMessage((value) => {
    const waiter = waiting;
    if (waiter !== undefined) {
      waiting = undefined;
      waiter.resolve({ done: false, value });
      return;
    }
    queue.push(value);
    if (queue.length >= ITERATOR_QUEUE && !paused) {
      paused = true;
      stream.pause();
    }
  });

  const iterator: AsyncIterableIterator<Received> = {
    [Symbol.asyncIterator]: () => iterator,
    next() {
      const value = queue.shift();
      if (queue.length === 0 && paused) {
        paused = false;
        stream.resume();
      }
      if (value !== undefined) return Promise.resolve({ done: false, value });
      if (end === undefined) {
        return new Promise((resolve, reject) => {
          waiting = { resolve, reject };
        });
      }
      return end.error === undefined ? Promise.resolve(done) : Promise.reject(end.error);
    },
    return() {
      end ??= { error: undefined };
      queue.length = 0;
      onLeave();
      return Promise.resolve(done);
    },
  };
  return iterator;
}

const STOPPED = Symbol("stopped");

/** The next value, or STOPPED when the call ends first. */
function nextUnlessOver<T>(
  iterator: AsyncIterator<T>,
  signal: AbortSignal,
): Promise<IteratorResult<T> | typeof STOPPED> {
  if (signal.aborted) return Promise.resolve(STOPPED);
  return new Promise((resolve, reject) => {
    const stop = () => resolve(STOPPED);
    signal.addEventListener("abort", stop, { once: true });
    iterator.next().then((result) => {
      signal.removeEventListener("abort", stop);
      resolve(result);
    }, (error) => {
      signal.removeEventListener("abort", stop);
      reject(error);
    });
  });
}

/**
 * Writes everything of `source` to the stream, waiting for room. Resolves true when the source is exhausted, false when the
 * call ended first (the source is told by `return`). Rejects with what the source throws. Does not end the stream.
 */
export async function pump<T, Received, Sent>(
  source: AsyncIterable<T>,
  stream: BidiStream<Received, Sent>,
  encode: (value: T) => Sent,
): Promise<boolean> {
  let room: (() => void) | undefined;
  const release = () => {
    room?.();
    room = undefined;
  };
  stream.onDrain(release);
  stream.signal.addEventListener("abort", release, { once: true });
  const iterator = source[Symbol.asyncIterator]();
  try {
    for (;;) {
      const result = await nextUnlessOver(iterator, stream.signal);
      if (result === STOPPED) {
        // The source may be waiting for something that never comes: it is told, not awaited.
        iterator.return?.().catch(() => {});
        return false;
      }
      if (result.done) return true;
      if (!stream.write(encode(result.value)) && !stream.closed) {
        await new Promise<void>((resolve) => {
          room = resolve;
        });
      }
    }
  } finally {
    stream.signal.removeEventListener("abort", release);
  }
}
