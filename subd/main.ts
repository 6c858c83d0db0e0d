/** A subd as a process of its own. */
import { join } from "node:path";
import { ecc, useEcc } from "bolt/crypto/ecc.ts";
import { type Config, configOrExit } from "common/config/config.ts";
import type { Daemon } from "common/config/option.ts";
import { chooseEcc } from "common/ecc/choose.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { createLifecycle, newInstanceId } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";
import { createMetrics, serveMetrics } from "common/metrics.ts";
import type { RunningSubd, SubdConfig } from "./start.ts";

function readTls(directory: string | undefined): TlsFiles | undefined {
  if (directory === undefined) return undefined;
  const read = (name: string) => Deno.readTextFileSync(join(directory, name));
  return { ca: read("ca.pem"), cert: read("cert.pem"), key: read("key.pem") };
}

/** What the option table says to a subd. */
export function subdOptions(config: Config): Omit<SubdConfig, "log" | "instance" | "onFatal"> {
  return {
    network: config.get("network"),
    listen: config.get("listen"),
    advertise: config.get("advertise-address"),
    lightningdAddress: config.require("lightningd-address"),
    hsmdAddress: config.require("hsmd-address"),
    databaseUrl: config.require("database-url"),
    databaseSchema: config.get("database-schema"),
    databasePool: config.get("database-pool"),
    maxChannels: config.get("max-channels"),
    simpleClose: config.get("simple-close"),
    tls: readTls(config.get("tls-dir")),
  };
}

/** Reads the options, starts the daemon, and serves its metrics. */
export async function runSubd(
  daemon: Daemon,
  start: (config: SubdConfig) => Promise<RunningSubd>,
): Promise<void> {
  const config = configOrExit(daemon);
  const file = config.get("log-file");
  const instance = newInstanceId();
  const name = config.get("instance-name");
  const log = createLogger({
    level: config.get("log-level"),
    fields: { daemon, instance: name ?? instance },
    ...(file === undefined ? {} : { file }),
  });
  const lifecycle = createLifecycle({ log });
  lifecycle.install();
  useEcc(chooseEcc({ fallback: ecc(), log: (message) => log.info({}, message) }).provider);
  const metrics = createMetrics({ process: true });
  const running = await start({
    ...subdOptions(config),
    log,
    instance,
    metrics,
    onFatal: (reason) => lifecycle.fatal(reason),
  });
  lifecycle.onStop(daemon, () => running.stop());
  const address = config.get("metrics-listen");
  if (address === undefined) return;
  const served = serveMetrics({
    address,
    metrics,
    ready: () => running.registered() && !lifecycle.stopping.aborted,
  });
  lifecycle.onStop("metrics", () => served.close());
}
