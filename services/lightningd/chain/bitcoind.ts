/** bitcoind's JSON-RPC: keep-alive HTTP, deadlines, retries when the transport fails, every answer matched by its id. */
import { readFile } from "node:fs/promises";

/** bitcoind answered with an error of its own; `code` is its RPC_* number. */
export class RpcError extends Error {
  override readonly name = "RpcError";
  constructor(readonly method: string, readonly code: number, readonly text: string) {
    super(`bitcoind: ${method}: ${text} (${code})`);
  }
}

/** No answer: bitcoind cannot be reached, is starting, or took too long. */
export class RpcUnreachable extends Error {
  override readonly name = "RpcUnreachable";
  constructor(readonly method: string, readonly detail: string, cause?: unknown) {
    super(`bitcoind does not answer ${method}: ${detail}`, cause === undefined ? undefined : { cause });
  }
}

/** bitcoind does not take our user and password. */
export class RpcUnauthorized extends Error {
  override readonly name = "RpcUnauthorized";
}

/** An answer that is not one to what was asked: another id, another block, another transaction. Never used. */
export class RpcMixedUp extends Error {
  override readonly name = "RpcMixedUp";
}

/** bitcoind's error numbers that we act upon. */
export const RpcCode = {
  methodNotFound: -32601,
  invalidParameter: -8,
  typeError: -3,
  misc: -1,
  notFound: -5,
  verifyError: -25,
  verifyRejected: -26,
  alreadyInUtxoSet: -27,
  inWarmup: -28,
} as const;

/** How long one call may take. */
export const CALL_TIMEOUT_MS = 30_000;
/** How long a call is tried while the transport fails. */
export const DEFAULT_RETRY_MS = 60_000;
/** Between two tries: doubled each time up to the second. */
const FIRST_PAUSE_MS = 50;
const MAX_PAUSE_MS = 2_000;
/** The largest answer that is read: a full block in hex, with room. */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Calls in one batch; more are split. */
const MAX_BATCH = 100;

/** How bitcoind knows us. */
export type RpcAuth =
  | { readonly type: "password"; readonly user: string; readonly password: string }
  /** Read at each connection failure again: bitcoind writes a new cookie at each start. */
  | { readonly type: "cookie"; readonly file: string };

/** Where bitcoind is. */
export interface RpcOptions {
  /** http://host:port */
  readonly url: string;
  readonly auth: RpcAuth;
  /** Default {@link DEFAULT_RETRY_MS}. */
  readonly retryMs?: number;
  /** Aborts every call. */
  readonly signal?: AbortSignal;
}

/** Settings of one call. */
export interface CallOptions {
  readonly timeoutMs?: number;
  /** 0: one try only. */
  readonly retryMs?: number;
  readonly signal?: AbortSignal;
}

type Params = readonly unknown[] | Readonly<Record<string, unknown>>;

/** One call of a batch. */
export interface BatchCall {
  readonly method: string;
  readonly params: Params;
}

/** The client. Answers are `unknown` until the caller has looked at them. */
export interface BitcoindRpc {
  /** Throws RpcError, RpcUnreachable, RpcUnauthorized or RpcMixedUp. */
  call(method: string, params?: Params, options?: CallOptions): Promise<unknown>;
  /** Answers in the order of the calls, errors of bitcoind's as values. */
  batch(calls: readonly BatchCall[], options?: CallOptions): Promise<(unknown | RpcError)[]>;
}

/** Makes the client; nothing is sent yet. */
export function createRpc(options: RpcOptions): BitcoindRpc {
  return new Client(options);
}

interface Request {
  readonly id: number;
  readonly method: string;
  readonly params: Params;
}

class Client implements BitcoindRpc {
  #nextId = 1;
  #cookie: string | undefined;

  constructor(private readonly options: RpcOptions) {}

  async call(method: string, params: Params = [], options: CallOptions = {}): Promise<unknown> {
    const request = { id: this.#nextId++, method, params };
    const answer = await this.#retrying(request, method, options);
    const result = readAnswer(answer, request);
    if (result instanceof RpcError) throw result;
    return result;
  }

  async batch(calls: readonly BatchCall[], options: CallOptions = {}): Promise<(unknown | RpcError)[]> {
    const results: (unknown | RpcError)[] = [];
    for (let at = 0; at < calls.length; at += MAX_BATCH) {
      const requests = calls.slice(at, at + MAX_BATCH).map((call) => ({ id: this.#nextId++, ...call }));
      const name = `a batch of ${requests[0]?.method ?? ""}`;
      const answers = await this.#retrying(requests, name, options);
      if (!Array.isArray(answers)) throw new RpcMixedUp("bitcoind answered a batch with something else");
      const byId = new Map(answers.map((answer) => [idOf(answer), answer]));
      for (const request of requests) results.push(readAnswer(byId.get(request.id), request));
    }
    return results;
  }

  /** Tries until there is an answer, or the time is over. Every method that we call may be repeated. */
  async #retrying(
    body: Request | readonly Request[],
    name: string,
    options: CallOptions,
  ): Promise<unknown> {
    const end = performance.now() + (options.retryMs ?? this.options.retryMs ?? DEFAULT_RETRY_MS);
    const signals = [this.options.signal, options.signal].filter((signal) => signal !== undefined);
    let pause = FIRST_PAUSE_MS;
    for (;;) {
      try {
        return await this.#post(body, name, options.timeoutMs ?? CALL_TIMEOUT_MS, signals);
      } catch (error) {
        if (!(error instanceof RpcUnreachable)) throw error;
        if (signals.some((signal) => signal.aborted) || performance.now() + pause >= end) throw error;
        this.#cookie = undefined;
      }
      await pauseFor(pause, signals);
      pause = Math.min(pause * 2, MAX_PAUSE_MS);
    }
  }

  async #post(
    body: Request | readonly Request[],
    name: string,
    timeoutMs: number,
    signals: readonly AbortSignal[],
  ): Promise<unknown> {
    const deadline = new AbortController();
    const timer = setTimeout(() => deadline.abort(new Error(`no answer in ${timeoutMs} ms`)), timeoutMs);
    let status: number;
    let text: string;
    try {
      const response = await fetch(this.options.url, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: await this.#authorization(name) },
        body: JSON.stringify(body),
        signal: AbortSignal.any([deadline.signal, ...signals]),
      });
      status = response.status;
      text = await boundedText(response, name);
    } catch (error) {
      if (error instanceof RpcMixedUp || error instanceof RpcUnreachable) throw error;
      throw new RpcUnreachable(name, error instanceof Error ? error.message : String(error), error);
    } finally {
      clearTimeout(timer);
    }
    if (status === 401 || status === 403) {
      // A cookie that bitcoind replaced is read again; a wrong password stays wrong.
      if (this.options.auth.type === "cookie") throw new RpcUnreachable(name, `HTTP ${status}`);
      throw new RpcUnauthorized(`bitcoind refuses this user and password (HTTP ${status})`);
    }
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch (error) {
      // "Work queue depth exceeded" comes as plain text with status 503.
      throw new RpcUnreachable(name, `HTTP ${status} without JSON`, error);
    }
    if (isWarmup(answer)) throw new RpcUnreachable(name, "bitcoind is starting");
    return answer;
  }

  async #authorization(name: string): Promise<string> {
    const { auth } = this.options;
    if (auth.type === "password") return basic(`${auth.user}:${auth.password}`);
    try {
      this.#cookie ??= (await readFile(auth.file, "utf8")).trim();
    } catch (error) {
      throw new RpcUnreachable(name, `the cookie file ${auth.file} cannot be read`, error);
    }
    return basic(this.#cookie);
  }
}

function basic(credentials: string): string {
  return `Basic ${new TextEncoder().encode(credentials).toBase64()}`;
}

async function boundedText(response: Response, name: string): Promise<string> {
  if (response.body === null) return "";
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body) {
    length += chunk.length;
    if (length > MAX_ANSWER_BYTES) throw new RpcMixedUp(`the answer to ${name} is too long`);
    chunks.push(chunk);
  }
  return await new Blob(chunks as BlobPart[]).text();
}

function pauseFor(ms: number, signals: readonly AbortSignal[]): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    for (const signal of signals) signal.addEventListener("abort", done);
  });
}

/** An object's field, or undefined. */
export function field(value: unknown, name: string): unknown {
  if (typeof value !== "object" || value === null) return undefined;
  return Object.getOwnPropertyDescriptor(value, name)?.value;
}

function idOf(answer: unknown): unknown {
  return field(answer, "id");
}

function isWarmup(answer: unknown): boolean {
  const one = Array.isArray(answer) ? answer[0] : answer;
  return field(field(one, "error"), "code") === RpcCode.inWarmup;
}

function readAnswer(answer: unknown, request: Request): unknown | RpcError {
  if (idOf(answer) !== request.id) {
    const error = field(answer, "error");
    // An HTTP error before the request was read has no id.
    if (idOf(answer) !== null || error === undefined) {
      throw new RpcMixedUp(`bitcoind answered ${request.method} with another call's id`);
    }
  }
  const error = field(answer, "error");
  if (error !== null && error !== undefined) {
    const code = field(error, "code");
    const text = field(error, "message");
    return new RpcError(request.method, typeof code === "number" ? code : RpcCode.misc, String(text));
  }
  return field(answer, "result");
}

/** A string from an answer. Throws RpcMixedUp for anything else. */
export function asString(value: unknown, what: string): string {
  if (typeof value !== "string") throw new RpcMixedUp(`bitcoind's ${what} is no text`);
  return value;
}

/** A number from an answer. */
export function asNumber(value: unknown, what: string): number {
  if (typeof value !== "number") throw new RpcMixedUp(`bitcoind's ${what} is no number`);
  return value;
}
