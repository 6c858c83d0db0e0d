/** A client of JSON-RPC on a unix socket. */
import { Documents } from "./documents.ts";
import { formatJson, isJsonObject, type Json, type JsonObject, parseJson } from "./json_text.ts";

/** Largest answer that is taken. */
export const MAX_ANSWER_BYTES = 256 * 1024 * 1024;
const MAX_ANSWER_DEPTH = 64;
const READ_BYTES = 64 * 1024;

/** Nobody serves at the socket, or it was lost before the answer. */
export class RpcConnectionError extends Error {
  override readonly name = "RpcConnectionError";
}

/** The error that a command answered. */
export class RpcError extends Error {
  override readonly name = "RpcError";

  constructor(readonly code: number, message: string, readonly data: Json | undefined) {
    super(message);
  }

  /** As the server said it. */
  toJson(): JsonObject {
    return {
      code: this.code,
      message: this.message,
      ...(this.data === undefined ? {} : { data: this.data }),
    };
  }
}

async function connectUnix(path: string): Promise<Deno.Conn> {
  try {
    return await Deno.connect({ transport: "unix", path });
  } catch (error) {
    throw new RpcConnectionError(`${path}: ${error instanceof Error ? error.message : error}`);
  }
}

async function writeAll(connection: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await connection.write(bytes.subarray(at));
}

async function readAnswer(connection: Deno.Conn): Promise<Json> {
  const documents = new Documents({ maxBytes: MAX_ANSWER_BYTES, maxDepth: MAX_ANSWER_DEPTH });
  const buffer = new Uint8Array(READ_BYTES);
  for (;;) {
    const length = await connection.read(buffer);
    if (length === null) throw new RpcConnectionError("the connection was lost before the answer");
    const [text] = documents.push(buffer.subarray(0, length));
    if (text !== undefined) return parseJson(text);
  }
}

/** Calls one command on a connection of its own. Throws {@link RpcError} and {@link RpcConnectionError}. */
export async function callUnix(path: string, method: string, params: Json): Promise<Json> {
  const connection = await connectUnix(path);
  try {
    const id = `${method}#1`;
    await writeAll(connection, new TextEncoder().encode(formatJson({ jsonrpc: "2.0", id, method, params })));
    const answer = await readAnswer(connection);
    if (!isJsonObject(answer)) throw new RpcConnectionError("the answer is no JSON-RPC");
    const { error, result } = answer;
    if (isJsonObject(error)) throw new RpcError(Number(error.code), String(error.message), error.data);
    if (result === undefined) throw new RpcConnectionError("the answer is no JSON-RPC");
    return result;
  } catch (error) {
    if (error instanceof RpcError || error instanceof RpcConnectionError) throw error;
    throw new RpcConnectionError(error instanceof Error ? error.message : String(error));
  } finally {
    connection.close();
  }
}
