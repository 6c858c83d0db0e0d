/**
 * A stream that a subd keeps to another daemon: opened again whenever it ends, and written in batches. What is pushed
 * while a write waits for room goes out together; what is pushed while there is no stream is dropped, since `opened`
 * tells everything again.
 */
import type { ArcusError } from "common/grpc/errors.ts";
import type { BidiStream } from "common/grpc/stream.ts";
import type { Logger } from "common/log.ts";

/** Between two attempts, milliseconds: the first, doubled up to the last. */
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 1_000;
/** Most items of one message. */
const MAX_BATCH = 512;
/** Most bytes of one message, by {@link BatchStreamOptions.weigh}; one item goes whatever it weighs. gRPC takes 16 MiB. */
const MAX_BATCH_BYTES = 4 * 1024 * 1024;

/** What the stream carries, and for whom. */
export interface BatchStreamOptions<Item, Received, Sent> {
  /** Who is at the other end, for logs. */
  readonly name: string;
  readonly log: Logger;
  readonly timer: (ms: number, callback: () => void) => () => void;
  /** Makes the call; it waits for the connection. */
  open(): BidiStream<Received, Sent>;
  /** One message of items. */
  batch(items: Item[]): Sent;
  /** About how many bytes of an item a peer decides on: too many in one message would end every stream that carries them. */
  weigh(item: Item): number;
  /** The stream is new: whoever has something to say says it again. */
  opened(write: (message: Sent) => void): void;
  /** What the other end says. What it throws ends the stream. */
  received(message: Received): void;
}

/** The stream. */
export class BatchStream<Item, Received, Sent> {
  #stream: BidiStream<Received, Sent> | null = null;
  #items: Item[] = [];
  #waiting = false;
  #scheduled = false;
  #stopped = false;
  #retryMs = FIRST_RETRY_MS;
  #cancelRetry: (() => void) | null = null;

  constructor(private readonly options: BatchStreamOptions<Item, Received, Sent>) {}

  /** Opens it. */
  start(): void {
    if (this.#stopped || this.#stream !== null) return;
    this.#cancelRetry?.();
    this.#cancelRetry = null;
    const stream = this.options.open();
    this.#stream = stream;
    this.#items = [];
    this.#waiting = false;
    stream.onMessage((message) => {
      if (this.#stream !== stream) return;
      this.#retryMs = FIRST_RETRY_MS;
      this.options.received(message);
    });
    stream.onDrain(() => {
      if (this.#stream !== stream) return;
      this.#waiting = false;
      this.#flush();
    });
    stream.onEnd((error) => this.#lost(stream, error));
    this.options.opened((message) => void stream.write(message));
  }

  /** Ends it and opens a new one. */
  restart(): void {
    const stream = this.#stream;
    this.#stream = null;
    stream?.cancel();
    this.start();
  }

  /** Says one thing, with whatever else is said meanwhile. */
  push(item: Item): void {
    if (this.#stream === null) return;
    this.#items.push(item);
    if (this.#scheduled || this.#waiting) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  /** Ends it for good. */
  stop(): void {
    this.#stopped = true;
    this.#cancelRetry?.();
    this.#stream?.end();
    this.#stream = null;
  }

  #flush(): void {
    while (this.#stream !== null && !this.#waiting && this.#items.length > 0) {
      const items = this.#items.splice(0, this.#count());
      this.#waiting = !this.#stream.write(this.options.batch(items)) && !this.#stream.closed;
    }
  }

  /** How many of what waits go into the next message. */
  #count(): number {
    let bytes = 0;
    for (const [i, item] of this.#items.entries()) {
      bytes += this.options.weigh(item);
      if (i >= MAX_BATCH || (i > 0 && bytes > MAX_BATCH_BYTES)) return i;
    }
    return this.#items.length;
  }

  #lost(stream: BidiStream<Received, Sent>, error: ArcusError | undefined): void {
    if (this.#stream !== stream) return;
    this.#stream = null;
    stream.end();
    if (this.#stopped) return;
    this.options.log.warn({ reason: error?.reason, detail: error?.message }, `${this.options.name} is away`);
    this.#cancelRetry = this.options.timer(this.#retryMs, () => this.start());
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS);
  }
}
