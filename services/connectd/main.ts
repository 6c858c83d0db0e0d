/** connectd as a process of its own. */
import { ecc, useEcc } from "bolt/crypto/ecc.ts";
import { configOrExit } from "common/config/config.ts";
import { chooseEcc } from "common/ecc/choose.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { createLifecycle, newInstanceId } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";
import { createMetrics, serveMetrics } from "common/metrics.ts";
import { DEFAULT_LIMITS } from "./limits.ts";
import { start } from "./start.ts";

/** Draining peers: subds, writes and FIN each have their time, and some slack. */
const STOP_MS = DEFAULT_LIMITS.drainSubds + DEFAULT_LIMITS.drainWrites + DEFAULT_LIMITS.drainFin + 2_000;

const config = configOrExit("connectd");
const instance = newInstanceId();
const logFile = config.get("log-file");
const log = createLogger({
  level: config.get("log-level"),
  ...(logFile === undefined ? {} : { file: logFile }),
  fields: { daemon: "connectd", instance: config.get("instance-name") ?? instance },
});
const lifecycle = createLifecycle({ log });
lifecycle.install();
useEcc(chooseEcc({ fallback: ecc(), log: (message) => log.info({}, message) }).provider);

const metrics = createMetrics({ process: true });

try {
  const faultFile = config.get("dev-disconnect");
  const connectd = await start({
    lightningdAddress: config.require("lightningd-address"),
    hsmdAddress: config.require("hsmd-address"),
    listen: config.get("listen"),
    advertise: config.get("advertise-address"),
    bind: [...config.get("addr"), ...config.get("bind-addr")],
    log,
    developer: config.get("developer"),
    fastReconnect: config.get("dev-fast-reconnect"),
    faults: faultFile === undefined ? undefined : Deno.readTextFileSync(faultFile),
    limits: {
      maxConnections: config.get("max-peers"),
      maxConnectionsPerIp: config.get("max-peers-per-address"),
    },
    tls: tlsFiles(config.get("tls-dir")),
    metrics,
    instance,
  });
  const metricsAddress = config.get("metrics-listen");
  if (metricsAddress !== undefined) {
    const ready = () => connectd.ready();
    const { address, close } = serveMetrics({ address: metricsAddress, metrics, ready });
    log.info({ address }, "metrics are served");
    lifecycle.onStop("metrics", close);
  }
  lifecycle.onStop("grpc", async () => void await connectd.server.drain());
  lifecycle.onStop("peers", connectd.stop, STOP_MS);
} catch (error) {
  lifecycle.fatal("connectd could not start", error);
}

function tlsFiles(directory: string | undefined): TlsFiles | undefined {
  if (directory === undefined) return undefined;
  const read = (name: string) => Deno.readTextFileSync(`${directory}/${name}.pem`);
  return { ca: read("ca"), cert: read("cert"), key: read("key") };
}
