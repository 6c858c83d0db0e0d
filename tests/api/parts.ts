/** What the API's tests share. */
import { fileURLToPath } from "node:url";
import { Documents } from "common/rpc/documents.ts";
import { formatJson, type Json, type JsonObject, parseJson } from "common/rpc/json_text.ts";

const CLI = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

/** How a run of the command line ended. */
export interface CliEnd {
  readonly code: number;
  readonly out: string;
  readonly error: string;
}

/** Runs the command line as a process. */
export async function cli(...args: string[]): Promise<CliEnd> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", CLI, ...args],
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, out: text(stdout), error: text(stderr) };
}

/** A raw connection to the socket: says bytes, reads answers until the node hangs up or there are `wanted`. */
export async function say(
  path: string,
  bytes: Uint8Array | string,
  wanted = Infinity,
): Promise<JsonObject[]> {
  const socket = await Deno.connect({ transport: "unix", path });
  const data = typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes;
  const answers: JsonObject[] = [];
  const documents = new Documents({ maxBytes: 64 * 1024 * 1024, maxDepth: 64 });
  const writing = (async () => {
    for (let at = 0; at < data.length;) at += await socket.write(data.subarray(at));
    // All is said: answers still come.
    await socket.closeWrite();
  })().catch(() => {/* the node hung up in between */});
  try {
    const buffer = new Uint8Array(65_536);
    while (answers.length < wanted) {
      const length = await socket.read(buffer);
      if (length === null) break;
      answers.push(...documents.push(buffer.slice(0, length)).map((text) => parseJson(text) as JsonObject));
    }
    await writing;
  } finally {
    socket.close();
  }
  return answers;
}

/** One request, as text. */
export function request(id: Json, method: string, params: Json = []): string {
  return formatJson({ jsonrpc: "2.0", id, method, params });
}
