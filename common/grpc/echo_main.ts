/**
 * Echo as a process, for tests that end it: prints its address, drains on SIGTERM. With `graceful` it shuts its server down the way that
 * sends GOAWAY, which no daemon may do; the canary wants to see what that does to clients.
 */
import { Server, ServerCredentials } from "@grpc/grpc-js";
import { echoService } from "common/grpc/echo_service.ts";
import { createServer } from "common/grpc/server.ts";
import { createLifecycle } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";

const [address = "127.0.0.1:0", mode = "drain"] = Deno.args;
const log = createLogger({ level: "broken" });
const lifecycle = createLifecycle({ log });
lifecycle.install();

if (mode === "graceful") {
  const server = new Server();
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync(
      address,
      ServerCredentials.createInsecure(),
      (error, port) => error === null ? resolve(port) : reject(error),
    )
  );
  lifecycle.onStop("grpc", () => new Promise((resolve) => server.tryShutdown(() => resolve())));
  console.log(`127.0.0.1:${port}`);
} else {
  const server = createServer({ services: [echoService().service], log });
  lifecycle.onStop("grpc", async () => void await server.drain());
  console.log(await server.listen(address));
}
