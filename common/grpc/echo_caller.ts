/**
 * A client process for tests that end its server: makes calls, collects garbage, says "ready", and lives on when the server goes. Needs
 * `--v8-flags=--expose-gc`.
 */
import { client, dial } from "common/grpc/client.ts";
import { ArcusError } from "common/grpc/errors.ts";
import { Echo } from "gen/arcus/testing/v1/testing_pb.ts";

const CALLS = 30;
const ROUNDS_AFTER = 10;

const gc: unknown = Reflect.get(globalThis, "gc");
if (typeof gc !== "function") throw new Error("run with --v8-flags=--expose-gc");

const channel = dial(Deno.args[0] ?? "");
const echo = client(Echo, channel);
const call = () =>
  echo.unary({}, { deadlineMs: 500 }).catch((error) => error instanceof ArcusError ? error.code : -1);
for (let count = 0; count < CALLS; count++) await call();
gc();
console.log("ready");
// The parent writes a line when the server is gone.
await Deno.stdin.read(new Uint8Array(1));
for (let round = 0; round < ROUNDS_AFTER; round++) {
  gc();
  await call();
}
console.log("alive");
Deno.exit(0);
