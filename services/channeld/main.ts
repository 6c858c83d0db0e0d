/** channeld: owns a channel from lock-in until shutdown. */
import { join } from "node:path";
import { type Config, configOrExit } from "common/config/config.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { createLifecycle, newInstanceId } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";
import { createMetrics, serveMetrics } from "common/metrics.ts";
import { start } from "./start.ts";

function readTls(directory: string | undefined): TlsFiles | undefined {
  if (directory === undefined) return undefined;
  const read = (name: string) => Deno.readTextFileSync(join(directory, name));
  return { ca: read("ca.pem"), cert: read("cert.pem"), key: read("key.pem") };
}

async function serve(config: Config): Promise<void> {
  const file = config.get("log-file");
  const instance = newInstanceId();
  const name = config.get("instance-name");
  const log = createLogger({
    level: config.get("log-level"),
    fields: { daemon: "channeld", instance: name ?? instance },
    ...(file === undefined ? {} : { file }),
  });
  const lifecycle = createLifecycle({ log });
  lifecycle.install();
  const running = await start({
    network: config.get("network"),
    listen: config.get("listen"),
    advertise: config.get("advertise-address"),
    lightningdAddress: config.require("lightningd-address"),
    databaseUrl: config.require("database-url"),
    databaseSchema: config.get("database-schema"),
    databasePool: config.get("database-pool"),
    maxChannels: config.get("max-channels"),
    tls: readTls(config.get("tls-dir")),
    log,
    instance,
    onFatal: (reason) => lifecycle.fatal(reason),
  });
  lifecycle.onStop("channeld", () => running.stop());
  const metricsAddress = config.get("metrics-listen");
  if (metricsAddress !== undefined) {
    const metrics = serveMetrics({
      address: metricsAddress,
      metrics: createMetrics({ process: true }),
      ready: () => running.registered() && !lifecycle.stopping.aborted,
    });
    lifecycle.onStop("metrics", () => metrics.close());
  }
}

if (import.meta.main) await serve(configOrExit("channeld"));
