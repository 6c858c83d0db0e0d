/** JSON-RPC 2.0 on a unix socket, as lightning-cli and its kin speak it: requests one after the other, each with an id. */
import { chmod, mkdir, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { ArcusError } from "common/grpc/errors.ts";
import { DocumentError, Documents } from "common/rpc/documents.ts";
import { formatJson, isJsonObject, type Json, type JsonObject, parseJson } from "common/rpc/json_text.ts";
import type { Logger } from "common/log.ts";
import { GENERAL, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, SHUTTING_DOWN } from "./refusals.ts";
import type { Table } from "./table.ts";

/** Largest request. */
export const MAX_REQUEST_BYTES = 8 * 1024 * 1024;
/** Deepest nesting of a request. */
export const MAX_REQUEST_DEPTH = 16;
/** Requests of one connection that are under way; more are not read. */
export const MAX_UNDER_WAY = 32;
/** Connections at once; more are closed. */
export const MAX_CONNECTIONS = 256;
/** How long, and how much, a caller that broke the rules may still say before it is hung up on. */
const LINGER_MS = 2_000;
const LINGER_BYTES = 64 * 1024 * 1024;
const READ_BYTES = 64 * 1024;
const SOCKET_MODE = 0o600;
/** What divides two answers. */
const END = "\n\n";

/** A served socket. */
export interface JsonRpcServer {
  readonly path: string;
  /** Takes no more requests, waits at most `graceMs` for those under way, and closes. */
  close(graceMs?: number): Promise<void>;
}

/** A request, or why it is none. */
type Request =
  | { readonly type: "call"; readonly id: Json; readonly method: string; readonly params: Json }
  | { readonly type: "bad"; readonly id: Json; readonly message: string };

function readRequest(value: Json): Request {
  if (!isJsonObject(value)) return { type: "bad", id: null, message: "a request should be an object" };
  const { id = null, method, params = [], jsonrpc } = value;
  const bad = (message: string): Request => ({
    type: "bad",
    id: typeof id === "object" ? null : id,
    message,
  });
  if (id === null || typeof id === "object" || typeof id === "boolean") {
    return bad("id should be a string or a number");
  }
  if (jsonrpc !== undefined && jsonrpc !== "2.0") return bad("jsonrpc should be '2.0'");
  if (typeof method !== "string") return bad("method should be a string");
  if (typeof params !== "object") return bad("params should be an object or an array");
  return { type: "call", id, method, params: params ?? [] };
}

function failure(id: Json, code: number, message: string, data?: JsonObject): JsonObject {
  return { jsonrpc: "2.0", id, error: { code, message, ...(data === undefined ? {} : { data }) } };
}

function dataOf({ reason, channel, retryable, details }: ArcusError): JsonObject {
  return { reason, retryable, ...details, ...(channel === undefined ? {} : { channel }) };
}

/** Answers requests of any connection. */
class Calls {
  readonly #under = new Set<Promise<void>>();
  draining = false;

  constructor(readonly table: Table, readonly log: Logger) {}

  async answer(text: string): Promise<JsonObject> {
    let request: Request;
    try {
      request = readRequest(parseJson(text));
    } catch {
      return failure(null, PARSE_ERROR, "invalid JSON");
    }
    if (request.type === "bad") return failure(request.id, INVALID_REQUEST, request.message);
    const { id, method, params } = request;
    if (this.draining) return failure(id, SHUTTING_DOWN, "lightningd is shutting down");
    const row = this.table.get(method);
    if (row === undefined) return failure(id, METHOD_NOT_FOUND, "Unknown command");
    try {
      return { jsonrpc: "2.0", id, result: await row.callJson(params) };
    } catch (error) {
      if (error instanceof ArcusError) {
        return failure(id, error.clnCode ?? GENERAL, error.message, dataOf(error));
      }
      this.log.error({ err: error, method }, "command failed");
      return failure(id, GENERAL, "internal error");
    }
  }

  track(work: Promise<void>): void {
    this.#under.add(work);
    work.finally(() => this.#under.delete(work));
  }

  async idle(ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise((resolve) => timer = setTimeout(resolve, ms));
    await Promise.race([Promise.all(this.#under), late]);
    clearTimeout(timer);
  }
}

/** One caller. Answers leave in the order in which they are ready. */
class Connection {
  readonly #under = new Set<Promise<void>>();
  #writing: Promise<void> = Promise.resolve();

  constructor(readonly socket: Deno.Conn, readonly calls: Calls) {}

  /** Reads until the caller has said all, and answers all. */
  async serve(): Promise<void> {
    const documents = new Documents({ maxBytes: MAX_REQUEST_BYTES, maxDepth: MAX_REQUEST_DEPTH });
    const buffer = new Uint8Array(READ_BYTES);
    for (
      let length = await this.socket.read(buffer);
      length !== null;
      length = await this.socket.read(buffer)
    ) {
      let texts: string[];
      try {
        texts = documents.push(buffer.subarray(0, length));
      } catch (error) {
        if (!(error instanceof DocumentError)) throw error;
        // Where the next request begins cannot be known any more.
        await this.#say(failure(null, PARSE_ERROR, error.message));
        await this.#linger(buffer);
        return;
      }
      for (const text of texts) await this.#take(text);
    }
    if (documents.unfinished) await this.#say(failure(null, PARSE_ERROR, "a request ends too early"));
    await Promise.all(this.#under);
  }

  /** Closing on unread bytes would take the last answer away from the caller: they are read and dropped, for a while. */
  async #linger(buffer: Uint8Array): Promise<void> {
    if ("closeWrite" in this.socket) await this.socket.closeWrite();
    const timer = setTimeout(() => close(this.socket), LINGER_MS);
    try {
      for (let left = LINGER_BYTES; left > 0;) {
        const length = await this.socket.read(buffer);
        if (length === null) return;
        left -= length;
      }
    } finally {
      clearTimeout(timer);
    }
  }

  async #take(text: string): Promise<void> {
    while (this.#under.size >= MAX_UNDER_WAY) await Promise.race(this.#under);
    const work: Promise<void> = this.calls.answer(text)
      .then((answer) => this.#say(answer))
      .catch(() => {/* the caller is gone: nobody to tell */})
      .finally(() => this.#under.delete(work));
    this.#under.add(work);
    this.calls.track(work);
  }

  #say(answer: JsonObject): Promise<void> {
    const bytes = new TextEncoder().encode(formatJson(answer) + END);
    this.#writing = this.#writing.then(async () => {
      for (let at = 0; at < bytes.length;) at += await this.socket.write(bytes.subarray(at));
    });
    return this.#writing;
  }
}

async function isServed(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch {
    return false;
  }
}

/**
 * Serves a table at `path`, for this user only. The socket file of a dead process is replaced; one that somebody answers on is
 * refused.
 */
export async function serveJsonRpc(path: string, table: Table, log: Logger): Promise<JsonRpcServer> {
  if (await isServed(path)) throw new Error(`${path}: somebody is serving there`);
  await mkdir(dirname(path), { recursive: true });
  await rm(path, { force: true });
  // Nobody else may connect, not even between bind and chmod.
  const umask = Deno.umask(0o177);
  const listener = Deno.listen({ transport: "unix", path });
  Deno.umask(umask);
  await chmod(path, SOCKET_MODE);

  const calls = new Calls(table, log);
  const sockets = new Set<Deno.Conn>();
  const serve = async (socket: Deno.Conn): Promise<void> => {
    sockets.add(socket);
    try {
      await new Connection(socket, calls).serve();
    } catch (error) {
      log.debug({ err: error }, "a caller of JSON-RPC was lost");
    } finally {
      sockets.delete(socket);
      close(socket);
    }
  };
  const accepting = (async () => {
    for await (const socket of listener) {
      if (sockets.size >= MAX_CONNECTIONS) close(socket);
      else void serve(socket);
    }
  })();
  return {
    path,
    async close(graceMs = 5_000) {
      calls.draining = true;
      await calls.idle(graceMs);
      listener.close();
      await accepting.catch(() => {});
      for (const socket of [...sockets]) close(socket);
      await rm(path, { force: true });
    },
  };
}

function close(socket: Deno.Conn): void {
  try {
    socket.close();
  } catch {
    // Closed already.
  }
}
