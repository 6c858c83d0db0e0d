import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { createServer } from "common/grpc/server.ts";

const SCRIPT = fileURLToPath(new URL("./healthcheck.ts", import.meta.url));

/** The exit status, with the permission that the compose file gives. */
async function check(address: string): Promise<number> {
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", "--no-config", "--allow-net=127.0.0.1", SCRIPT, address],
    stdout: "null",
    stderr: "null",
  }).output();
  return code;
}

Deno.test({
  name: "healthcheck: 0 from a server that serves, 1 from one that drains, 1 where nobody listens",
  // grpc-js leaves timers of its own.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const server = createServer({ services: [], log: { warn: () => {}, error: () => {} } });
    const address = await server.listen("127.0.0.1:0");
    assert.equal(await check(address), 0);
    server.setServing(false);
    assert.equal(await check(address), 1);
    server.closeAfterClients();
    assert.equal(await check(address), 1);
  },
});
