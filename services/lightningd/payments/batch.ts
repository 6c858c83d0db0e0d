/** Group commit: while one statement is under way what comes waits, and the next statement takes all of it. */

interface Waiting<In, Out> {
  readonly item: In;
  resolve(out: Out): void;
  reject(error: unknown): void;
}

/** Items of one batch at most: more wait for the next one. */
export const MAX_BATCH = 1_000;

/**
 * Collects items for `run`, which gets a list and answers one result an item, in order. One `run` at a time: batches
 * of one batcher are strictly one after the other, those of different ones overlap. What `run` throws rejects all of
 * its items.
 */
export class Batcher<In, Out> {
  #queue: Waiting<In, Out>[] = [];
  #busy = false;
  #scheduled = false;
  #idle: (() => void)[] = [];
  /** Runs so far, and items in them. */
  runs = 0;
  items = 0;

  constructor(
    private readonly run: (items: readonly In[]) => Promise<readonly Out[]>,
    private readonly max: number = MAX_BATCH,
  ) {}

  /** Resolves with the item's result. */
  submit(item: In): Promise<Out> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ item, resolve, reject });
      if (this.#busy || this.#scheduled) return;
      this.#scheduled = true;
      // What is submitted in the same turn goes along.
      queueMicrotask(() => {
        this.#scheduled = false;
        this.#next();
      });
    });
  }

  /** Runs something alone: no batch is under way meanwhile. */
  async exclusive<T>(work: () => Promise<T>): Promise<T> {
    while (this.#busy) await new Promise<void>((resolve) => this.#idle.push(resolve));
    this.#busy = true;
    try {
      return await work();
    } finally {
      this.#done();
    }
  }

  #next(): void {
    if (this.#busy || this.#queue.length === 0) return;
    this.#busy = true;
    const batch = this.#queue.splice(0, this.max);
    this.runs++;
    this.items += batch.length;
    this.run(batch.map(({ item }) => item)).then((results) => {
      if (results.length !== batch.length) throw new Error("a batch lost an item");
      batch.forEach((waiting, index) => waiting.resolve(results[index] as Out));
    }).catch((error) => {
      for (const waiting of batch) waiting.reject(error);
    }).finally(() => this.#done());
  }

  #done(): void {
    this.#busy = false;
    const next = this.#idle.shift();
    if (next === undefined) this.#next();
    else next();
  }
}
