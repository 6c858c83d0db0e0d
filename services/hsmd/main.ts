/**
 * hsmd: holds the seed and signs.
 *
 *     hsmd [options]                       serves
 *     hsmd --show-mnemonic [options]       shows the seed's 12 words and ends
 *     hsmd --restore-mnemonic [options]    reads 12 words from standard input, makes the seed file and ends
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { hexToBytes } from "@noble/hashes/utils.js";
import { join } from "node:path";
import { ecc, useEcc } from "bolt/crypto/ecc.ts";
import { type Config, ConfigError, loadConfig } from "common/config/config.ts";
import { chooseEcc } from "common/ecc/choose.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { createLifecycle, ExitCode, newInstanceId } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";
import { createMetrics, serveMetrics } from "common/metrics.ts";
import { MemoryError } from "./memory.ts";
import { SEED_FILE, SeedLostError } from "./open.ts";
import { createSeed, ENTROPY_LENGTH, openSeed, SeedError } from "./seed.ts";
import { start } from "./start.ts";

const SHOW = "--show-mnemonic";
const RESTORE = "--restore-mnemonic";
/** More than 12 words can have. */
const MAX_WORDS_BYTES = 1024;

function readTls(directory: string | undefined): { tls: TlsFiles } | Record<never, never> {
  if (directory === undefined) return {};
  const read = (name: string) => Deno.readTextFileSync(join(directory, name));
  return { tls: { ca: read("ca.pem"), cert: read("cert.pem"), key: read("key.pem") } };
}

/** A failure that the operator must see: its text without a stack. */
function isOperators(error: unknown): error is Error {
  return error instanceof SeedError || error instanceof MemoryError || error instanceof SeedLostError ||
    error instanceof ConfigError || error instanceof Deno.errors.NotFound;
}

/** Loads the configuration, or shows what was asked for and ends. */
function configOf(args: readonly string[]): Config {
  const loaded = loadConfig({ daemon: "hsmd", args, env: Deno.env.toObject() });
  if (loaded.type === "config") return loaded.config;
  console.log(loaded.text.trimEnd());
  console.log(`  ${SHOW}                       Show the seed's 12 words, and end.`);
  console.log(`  ${RESTORE}                    Read 12 words from standard input, make the seed, and end.`);
  Deno.exit(ExitCode.ok);
}

async function showMnemonic(config: Config): Promise<void> {
  const { mnemonic } = await openSeed(join(config.get("hsmd-dir"), SEED_FILE), config.get("hsmd-passphrase"));
  console.log(mnemonic);
}

async function restoreMnemonic(config: Config): Promise<void> {
  const directory = config.get("hsmd-dir");
  Deno.mkdirSync(directory, { recursive: true, mode: 0o700 });
  let words = "";
  for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    words += chunk;
    if (words.length > MAX_WORDS_BYTES) break;
  }
  const path = join(directory, SEED_FILE);
  await createSeed(path, { mnemonic: words, passphrase: config.get("hsmd-passphrase") });
  console.log(`made ${path}`);
}

async function serve(config: Config): Promise<void> {
  const file = config.get("log-file");
  const log = createLogger({
    level: config.get("log-level"),
    fields: { daemon: "hsmd" },
    ...(file === undefined ? {} : { file }),
  });
  const lifecycle = createLifecycle({ log });
  lifecycle.install();
  const chosen = chooseEcc({ fallback: ecc(), log: (message) => log.info({}, message) });
  useEcc(chosen.provider);
  const devSeed = config.get("dev-seed");
  const metrics = createMetrics({ process: true });
  const running = await start({
    directory: config.get("hsmd-dir"),
    network: config.get("network"),
    addresses: [config.get("listen")],
    log,
    instance: newInstanceId(),
    eccDescription: chosen.description,
    passphrase: config.get("hsmd-passphrase"),
    entropy: devSeed === undefined ? undefined : sha256(hexToBytes(devSeed)).slice(0, ENTROPY_LENGTH),
    maxFundingFeeSat: config.get("max-funding-fee-sat"),
    metrics,
    ...readTls(config.get("tls-dir")),
    onFatal: (error) => lifecycle.fatal("the memory could not be written", error),
  });
  lifecycle.onStop("memory", () => running.close());
  lifecycle.onStop("grpc", async () => void await running.server.drain());
  const metricsAddress = config.get("metrics-listen");
  if (metricsAddress !== undefined) {
    const ready = () => !lifecycle.stopping.aborted;
    const served = serveMetrics({ address: metricsAddress, metrics, ready });
    lifecycle.onStop("metrics", () => served.close());
    log.info({ address: served.address }, "metrics");
  }
}

if (import.meta.main) {
  const command = Deno.args.find((arg) => arg === SHOW || arg === RESTORE);
  const args = Deno.args.filter((arg) => arg !== command);
  try {
    const config = configOf(args);
    if (command === SHOW) await showMnemonic(config);
    else if (command === RESTORE) await restoreMnemonic(config);
    else await serve(config);
  } catch (error) {
    if (!isOperators(error)) throw error;
    console.error(`hsmd: ${error.message}`);
    // A predecessor that still holds the memory goes away by itself; everything else needs a person.
    const isPassing = error instanceof MemoryError && (error.type === "locked" || error.type === "io");
    Deno.exit(isPassing ? ExitCode.fatal : ExitCode.config);
  }
}
