/**
 * Asks a daemon's grpc.health.v1 and exits 0 only if it serves. It runs every few seconds in each container, so it speaks the one
 * call itself over HTTP/2 instead of loading a gRPC library.
 *
 *     deno run --allow-net=127.0.0.1:9800 deploy/healthcheck.ts 127.0.0.1:9800
 */
import { Buffer } from "node:buffer";
import { connect } from "node:http2";

const TIMEOUT_MS = 8_000;
/** An uncompressed, empty HealthCheckRequest: the health of the whole server. */
const REQUEST = new Uint8Array(5);
/** HealthCheckResponse { status: SERVING }, in its frame. */
const SERVING = Uint8Array.of(0, 0, 0, 0, 2, 0x08, 1);

/** Whether the server at host:port says that it serves. */
function serves(address: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const session = connect(`http://${address}`);
    session.on("error", reject);
    const call = session.request({
      ":method": "POST",
      ":path": "/grpc.health.v1.Health/Check",
      "content-type": "application/grpc",
      "te": "trailers",
    });
    const chunks: Uint8Array[] = [];
    call.on("data", (chunk: Uint8Array) => chunks.push(chunk));
    call.on("error", reject);
    call.on("end", () => resolve(Buffer.concat(chunks).equals(SERVING)));
    call.end(REQUEST);
  });
}

const [address] = Deno.args;
if (address === undefined) throw new Error("needs host:port");
const timer = setTimeout(() => Deno.exit(1), TIMEOUT_MS);
const healthy = await serves(address).catch(() => false);
clearTimeout(timer);
Deno.exit(healthy ? 0 : 1);
