/** Starts hsmd in this process, alone in it or beside other daemons. */
import { chainHash, type Network } from "bolt/wire/chain_hash.ts";
import { ecc } from "bolt/crypto/ecc.ts";
import { type ArcusServer, createServer, type ServerLog } from "common/grpc/server.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Metrics } from "common/metrics.ts";
import { hsmdService, type Observe } from "./face.ts";
import { Hsm } from "./hsm.ts";
import type { MemoryError } from "./memory.ts";
import { openStore } from "./open.ts";
import type { ScryptParameters } from "./seed.ts";

/** The option's default. */
export const DEFAULT_MAX_FUNDING_FEE_SAT = 100_000n;

/** What hsmd needs. */
export interface HsmdConfig {
  /** Seed and memory; made if it is not there. */
  readonly directory: string;
  readonly network: Network;
  /** "host:port" (port 0: any) or "unix:/path". */
  readonly addresses: readonly string[];
  readonly log: ServerLog & { info(fields: object, message: string): void };
  /** New at every start. */
  readonly instance: string;
  /** Which secp256k1 signs; default: the active provider's name. */
  readonly eccDescription?: string;
  readonly passphrase?: string | undefined;
  readonly scrypt?: ScryptParameters;
  /** Entropy of a new seed; only for throw-away nodes. */
  readonly entropy?: Uint8Array | undefined;
  /** Most that we pay in fees for one funding transaction (option max-funding-fee-sat). */
  readonly maxFundingFeeSat?: bigint;
  readonly tls?: TlsFiles;
  readonly metrics?: Metrics;
  /** The memory could not be written: the process must end, and read it anew. */
  readonly onFatal: (error: MemoryError) => void;
}

/** A running hsmd. */
export interface RunningHsmd {
  readonly server: ArcusServer;
  /** Where it listens, in the order of the config. */
  readonly addresses: readonly string[];
  readonly nodeId: Uint8Array;
  /** Gives the memory back; after the server was drained. */
  close(): Promise<void>;
}

/** Counts calls by method and outcome. */
function counting(metrics: Metrics): Observe {
  const calls = metrics.counter("arcus_hsmd_calls_total", "Calls of hsmd; outcome is OK or why it refused.", [
    "method",
    "outcome",
  ]);
  return (method, outcome) => calls.inc({ method, outcome });
}

/** Opens seed and memory, and serves. Throws SeedError, MemoryError, SeedLostError. */
export async function start(config: HsmdConfig): Promise<RunningHsmd> {
  const { log, network, instance } = config;
  const eccDescription = config.eccDescription ?? ecc().name;
  const { keys, memory, seedCreated } = await openStore(config);
  try {
    const node = keys.nodeId;
    if (seedCreated) log.info({ node }, "made a new seed: note its 12 words (hsmd --show-mnemonic)");
    if (memory.tornBytes > 0) log.warn({ bytes: memory.tornBytes }, "cut a torn tail off the memory");
    const { distrust } = memory.memory;
    if (distrust !== null) {
      log.warn(
        { reason: distrust.reason },
        "the memory is not trusted: existing channels are not signed for",
      );
    }
    const hsm = new Hsm(keys, memory, {
      chainHash: chainHash(network),
      instance,
      ecc: eccDescription,
      maxFundingFeeSat: config.maxFundingFeeSat ?? DEFAULT_MAX_FUNDING_FEE_SAT,
    });
    const server = createServer({
      services: [hsmdService(hsm, config.metrics === undefined ? undefined : counting(config.metrics))],
      log,
      ...(config.tls === undefined ? {} : { tls: config.tls }),
    });
    const addresses: string[] = [];
    for (const address of config.addresses) addresses.push(await server.listen(address));
    log.info({ node, addresses, ecc: eccDescription, records: memory.memory.highWater }, "hsmd serves");
    return { server, addresses, nodeId: node, close: () => memory.close() };
  } catch (error) {
    await memory.close();
    throw error;
  }
}
