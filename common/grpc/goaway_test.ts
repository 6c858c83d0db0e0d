import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { connect } from "node:net";
import { echoService } from "common/grpc/echo_service.ts";
import { createServer } from "common/grpc/server.ts";
import { waitFor } from "common/testing/wait.ts";

const PREFACE = new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const [SETTINGS, GOAWAY] = [4, 7];
const HEADER_BYTES = 9;

/** A frame of HTTP/2 on stream 0. */
function frame(type: number, payload: Uint8Array): Uint8Array {
  return Uint8Array.of(0, 0, payload.length, type, 0, 0, 0, 0, 0, ...payload);
}

/** Types of the frames in a stream of bytes. */
function frameTypes(bytes: Uint8Array): number[] {
  const types: number[] = [];
  for (let at = 0; at + HEADER_BYTES <= bytes.length;) {
    const [a = 0, b = 0, c = 0, type = 0] = bytes.subarray(at, at + 4);
    types.push(type);
    at += HEADER_BYTES + (a << 16 | b << 8 | c);
  }
  return types;
}

/** What the server says to a client that says goodbye with this error code, until it hangs up. */
function goodbye(port: number, code: number): Promise<number[]> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    const chunks: Uint8Array[] = [];
    socket.on("data", (chunk) => chunks.push(new Uint8Array(Buffer.from(chunk))));
    socket.on("error", reject);
    socket.on("close", () => resolve(frameTypes(Uint8Array.from(chunks.flatMap((chunk) => [...chunk])))));
    socket.write(PREFACE);
    socket.write(frame(SETTINGS, new Uint8Array()));
    socket.write(frame(GOAWAY, Uint8Array.of(0, 0, 0, 0, 0, 0, 0, code)));
  });
}

Deno.test({
  name: "a server answers no goodbye with one, and hangs up",
  // grpc-js leaves timers of its own.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const log = { warn() {}, error() {} };
    const server = createServer({ services: [echoService().service], log });
    const address = await server.listen("127.0.0.1:0");
    const port = Number(address.split(":")[1]);
    for (const code of [0, 2]) {
      const types = await waitFor(goodbye(port, code), { what: "the server to hang up" });
      assert.ok(code !== 0 || types.includes(SETTINGS));
      assert.ok(!types.includes(GOAWAY), `code ${code}: frames ${types}`);
    }
    server.closeAfterClients();
  },
});
