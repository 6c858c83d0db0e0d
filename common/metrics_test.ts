import assert from "node:assert/strict";
import { createMetrics, serveMetrics } from "common/metrics.ts";

Deno.test("metrics: counted, shared by name, and served", async () => {
  const metrics = createMetrics();
  const opens = metrics.counter("arcus_opens_total", "Opens.", ["result"]);
  opens.inc({ result: "ok" }, 2);
  assert.equal(metrics.counter("arcus_opens_total", "Opens.", ["result"]), opens);
  metrics.gauge("arcus_peers", "Peers.").set(3);
  metrics.histogram("arcus_commit_seconds", "Commits.").observe(0.003);
  assert.throws(() => metrics.gauge("arcus_opens_total", "Opens."), /name/);
  assert.throws(() => metrics.histogram("arcus_peers", "Peers."), /another kind/);
  assert.throws(() => metrics.counter("peers_total", "Peers."), /name/);

  let ready = false;
  const server = serveMetrics({ address: "127.0.0.1:0", metrics, ready: () => ready });
  const get = async (path: string, method = "GET") => {
    const response = await fetch(`http://${server.address}${path}`, { method });
    return { status: response.status, body: await response.text() };
  };
  const { body } = await get("/metrics");
  assert.match(body, /^arcus_opens_total\{result="ok"\} 2$/m);
  assert.match(body, /^arcus_peers 3$/m);
  assert.match(body, /^arcus_commit_seconds_bucket\{le="0.005"\} 1$/m);
  assert.equal((await get("/healthz")).status, 200);
  assert.equal((await get("/readyz")).status, 503);
  ready = true;
  assert.equal((await get("/readyz")).status, 200);
  assert.equal((await get("/")).status, 404);
  assert.equal((await get("/metrics", "POST")).status, 405);
  await server.close();
});
