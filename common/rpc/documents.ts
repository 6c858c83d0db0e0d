/** Cuts a stream of JSON values, one after the other with or without white space between, into texts of one value each. */

/** A stream that cannot be cut any further. */
export class DocumentError extends Error {
  override readonly name = "DocumentError";
}

/** Limits of one value. */
export interface DocumentLimits {
  readonly maxBytes: number;
  readonly maxDepth: number;
}

const [QUOTE, BACKSLASH] = [0x22, 0x5c];
const OPEN = [0x5b, 0x7b];
const CLOSE = [0x5d, 0x7d];
const SPACE = [0x20, 0x09, 0x0a, 0x0d];

/** Collects bytes; values are objects or arrays. Whether a text is JSON at all is the parser's to say. */
export class Documents {
  #chunks: Uint8Array[] = [];
  #size = 0;
  #depth = 0;
  #inText = false;
  #escaped = false;

  constructor(readonly limits: DocumentLimits) {}

  /** Whether a value has begun and is not complete. */
  get unfinished(): boolean {
    return this.#depth > 0;
  }

  /** Takes bytes and answers the values that they complete. Throws {@link DocumentError} beyond a limit. */
  push(bytes: Uint8Array): string[] {
    const complete: string[] = [];
    let start = 0;
    for (let i = 0; i < bytes.length; i++) {
      const byte = bytes[i] ?? 0;
      if (this.#depth === 0 && SPACE.includes(byte)) {
        start = i + 1;
        continue;
      }
      this.#step(byte);
      if (this.#size + i + 1 - start > this.limits.maxBytes) {
        throw new DocumentError(`a request has more than ${this.limits.maxBytes} bytes`);
      }
      if (this.#depth > 0) continue;
      this.#chunks.push(bytes.subarray(start, i + 1));
      complete.push(this.#take());
      start = i + 1;
    }
    if (start < bytes.length) {
      this.#chunks.push(bytes.slice(start));
      this.#size += bytes.length - start;
    }
    return complete;
  }

  #step(byte: number): void {
    if (this.#inText) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) this.#inText = false;
      return;
    }
    if (OPEN.includes(byte)) {
      if (++this.#depth > this.limits.maxDepth) {
        throw new DocumentError(`a request is nested deeper than ${this.limits.maxDepth}`);
      }
    } else if (this.#depth === 0) {
      throw new DocumentError("a request should be an object");
    } else if (CLOSE.includes(byte)) this.#depth--;
    else if (byte === QUOTE) this.#inText = true;
  }

  #take(): string {
    const size = this.#chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    const bytes = new Uint8Array(size);
    let at = 0;
    for (const chunk of this.#chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    this.#chunks = [];
    this.#size = 0;
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      throw new DocumentError("a request is not UTF-8");
    }
  }
}
