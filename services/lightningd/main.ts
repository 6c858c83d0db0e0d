/** lightningd as a process of its own. */
import { ecc, useEcc } from "bolt/crypto/ecc.ts";
import { configOrExit } from "common/config/config.ts";
import { chooseEcc } from "common/ecc/choose.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { createLifecycle, ExitCode, newInstanceId } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";
import { createMetrics, serveMetrics } from "common/metrics.ts";
import { WrongNodeError } from "./node.ts";
import { start } from "./start.ts";

/** Calls under way and the peers' work each have their time. */
const STOP_MS = 20_000;

const config = configOrExit("lightningd");
const instance = newInstanceId();
const logFile = config.get("log-file");
const log = createLogger({
  level: config.get("log-level"),
  ...(logFile === undefined ? {} : { file: logFile }),
  fields: { daemon: "lightningd", instance },
});
const lifecycle = createLifecycle({ log });
lifecycle.install();
useEcc(chooseEcc({ fallback: ecc(), log: (message) => log.info({}, message) }).provider);
const metrics = createMetrics({ process: true });

try {
  const lightningd = await start({
    config,
    log,
    instance,
    tls: tlsFiles(config.get("tls-dir")),
    onFatal: (reason, error) => lifecycle.fatal(reason, error),
    onStop: () => void lifecycle.stop("stop was called"),
  });
  const metricsAddress = config.get("metrics-listen");
  if (metricsAddress !== undefined) {
    const { address, close } = serveMetrics({ address: metricsAddress, metrics, ready: () => true });
    log.info({ address }, "metrics are served");
    lifecycle.onStop("metrics", close);
  }
  lifecycle.onStop("rooms", lightningd.stop, STOP_MS);
} catch (error) {
  if (error instanceof WrongNodeError) {
    log.error({ err: error }, "lightningd could not start");
    log.flush();
    console.error(error.message);
    Deno.exit(ExitCode.config);
  }
  lifecycle.fatal("lightningd could not start", error);
}

function tlsFiles(directory: string | undefined): TlsFiles | undefined {
  if (directory === undefined) return undefined;
  const read = (name: string) => Deno.readTextFileSync(`${directory}/${name}.pem`);
  return { ca: read("ca"), cert: read("cert"), key: read("key") };
}
