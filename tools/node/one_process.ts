/**
 * A whole node as one process: every daemon of it, over the same contracts on local sockets. Each daemon has its own
 * configuration file, as if it were alone:
 *
 *     deno run -A tools/node/one_process.ts FOLDER      with hsmd.conf, lightningd.conf, ... in it
 */
import { join } from "node:path";
import { ecc, useEcc } from "bolt/crypto/ecc.ts";
import { type Config, loadConfig } from "common/config/config.ts";
import { chooseEcc } from "common/ecc/choose.ts";
import { createLifecycle, type Lifecycle, newInstanceId } from "common/lifecycle.ts";
import { createLogger, type Logger } from "common/log.ts";
import * as channeld from "../../services/channeld/start.ts";
import * as closingd from "../../services/closingd/start.ts";
import * as connectd from "../../services/connectd/start.ts";
import * as dualopend from "../../services/dualopend/start.ts";
import * as lightningd from "../../services/lightningd/start.ts";
import * as hsmd from "../../services/hsmd/start.ts";
import type { DaemonName } from "./daemons.ts";

/** Calls under way and the peers' work each have their time. */
const LIGHTNINGD_STOP_MS = 20_000;

const folder = Deno.args[0];
if (folder === undefined) {
  console.error("which folder?");
  Deno.exit(2);
}

const nodeLog = createLogger({ level: "debug", fields: { daemon: "node" } });
const lifecycle = createLifecycle({ log: nodeLog });
lifecycle.install();

interface Context {
  readonly config: Config;
  readonly log: Logger;
  readonly lifecycle: Lifecycle;
  readonly instance: string;
}

function contextOf(daemon: DaemonName): Context {
  const loaded = loadConfig({ daemon, args: ["--conf", join(folder ?? "", `${daemon}.conf`)], env: {} });
  if (loaded.type !== "config") throw new Error(loaded.text);
  const { config } = loaded;
  const instance = newInstanceId();
  const log = createLogger({ level: config.get("log-level"), fields: { daemon, instance } });
  return { config, log, lifecycle, instance };
}

async function startHsmd({ config, log, instance }: Context, description: string): Promise<void> {
  const running = await hsmd.start({
    directory: config.get("hsmd-dir"),
    network: config.get("network"),
    addresses: [config.get("listen")],
    log,
    instance,
    eccDescription: description,
    passphrase: config.get("hsmd-passphrase"),
    maxFundingFeeSat: config.get("max-funding-fee-sat"),
    onFatal: (error) => lifecycle.fatal("the memory could not be written", error),
  });
  lifecycle.onStop("hsmd's memory", () => running.close());
  lifecycle.onStop("hsmd", async () => void await running.server.drain());
}

async function startLightningd({ config, log, instance }: Context): Promise<void> {
  const running = await lightningd.start({
    config,
    log,
    instance,
    onFatal: (reason, error) => lifecycle.fatal(`lightningd: ${reason}`, error),
    onStop: () => void lifecycle.stop("stop was called"),
  });
  lifecycle.onStop("lightningd", () => running.stop(), LIGHTNINGD_STOP_MS);
}

async function startConnectd({ config, log, instance }: Context): Promise<void> {
  const running = await connectd.start({
    lightningdAddress: config.require("lightningd-address"),
    hsmdAddress: config.require("hsmd-address"),
    listen: config.get("listen"),
    bind: [...config.get("addr"), ...config.get("bind-addr")],
    log,
    developer: config.get("developer"),
    fastReconnect: config.get("dev-fast-reconnect"),
    instance,
  });
  lifecycle.onStop("connectd", () => running.stop());
}

const SUBDS = { dualopend, channeld, closingd } as const;

async function startSubd(
  name: keyof typeof SUBDS,
  { config, log, instance }: Context,
): Promise<void> {
  const { start } = SUBDS[name];
  const running = await start({
    network: config.get("network"),
    listen: config.get("listen"),
    lightningdAddress: config.require("lightningd-address"),
    hsmdAddress: config.require("hsmd-address"),
    databaseUrl: config.require("database-url"),
    databasePool: config.get("database-pool"),
    simpleClose: config.get("simple-close"),
    log,
    instance,
    onFatal: (reason) => lifecycle.fatal(`${name}: ${reason}`),
  });
  lifecycle.onStop(name, () => running.stop());
}

const chosen = chooseEcc({ fallback: ecc(), log: (message) => nodeLog.info({}, message) });
useEcc(chosen.provider);
try {
  await startHsmd(contextOf("hsmd"), chosen.description);
  await startLightningd(contextOf("lightningd"));
  await startSubd("dualopend", contextOf("dualopend"));
  await startSubd("channeld", contextOf("channeld"));
  await startSubd("closingd", contextOf("closingd"));
  await startConnectd(contextOf("connectd"));
} catch (error) {
  lifecycle.fatal("the node could not start", error);
}
