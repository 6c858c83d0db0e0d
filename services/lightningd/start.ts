/** Starts lightningd in this process, alone in it or beside other daemons. Migrations have run before. */
import { join } from "node:path";
import { feerate, sat } from "bolt/units.ts";
import type { Network } from "bolt/wire/chain_hash.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { type Config, ConfigError } from "common/config/config.ts";
import { client, dial } from "common/grpc/client.ts";
import { ArcusError } from "common/grpc/errors.ts";
import { type ArcusServer, createServer } from "common/grpc/server.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { newInstanceId } from "common/lifecycle.ts";
import type { Logger } from "common/log.ts";
import { type ConnectionOptions, type Database, openDatabase } from "common/pg/client.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type Api, startApi } from "./api/start.ts";
import { createRpc, type RpcAuth } from "./chain/bitcoind.ts";
import { type RunningChain, startChain } from "./chain/chain.ts";
import { takeLeadership, watchLeadership } from "./leader.ts";
import { followHsmd, openNode, requireTestNetwork } from "./node.ts";
import { BATCH_SETTINGS } from "./payments/invoice_store.ts";
import { PaymentRoom } from "./payments/payments.ts";
import { PeerRoom } from "./peers/peers.ts";
import type { Policy } from "./peers/registry.ts";
import { createWallet } from "./wallet/wallet.ts";

const MS = 1_000;
/** BOLT 2's floor is 354; this one is what every output type relays with. */
const DUST_LIMIT_SAT = 546n;
/** More than that at risk in outputs nobody broadcasts is refused. */
const MAX_DUST_LIMIT_SAT = 5_000n;
/** All bitcoin there will ever be, so no limit. */
const MAX_IN_FLIGHT_MSAT = 2_100_000_000_000_000_000n;
/** Blocks between two replacements that a peer starts, where the chain is not our own. */
const LEAST_RBF_BLOCKS_APART = 3;
/** Connections for batches of payments: as many as there are kinds of batches on the way of a payment. */
const BATCH_POOL = 4;
const RPC_PORTS: Readonly<Record<Network, number>> = {
  bitcoin: 8332,
  testnet: 18332,
  testnet4: 48332,
  signet: 38332,
  regtest: 18443,
};
/** Where bitcoind keeps the cookie of each chain, below its data folder. */
const COOKIE_FOLDERS: Readonly<Record<Network, string>> = {
  bitcoin: "",
  testnet: "testnet3",
  testnet4: "testnet4",
  signet: "signet",
  regtest: "regtest",
};

/** What lightningd needs. */
export interface LightningdOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly tls?: TlsFiles | undefined;
  /** New at every start. */
  readonly instance?: string;
  /** Must end the process: leadership, database or an invariant is gone. */
  readonly onFatal: (reason: string, error?: unknown) => void;
  /** The API's `stop`. */
  readonly onStop: () => void;
}

/** A running lightningd. */
export interface RunningLightningd {
  readonly server: ArcusServer;
  readonly instance: string;
  /** Where the other daemons reach it. */
  readonly grpcAddress: string;
  readonly api: Api;
  readonly nodeId: Uint8Array;
  readonly chain: RunningChain;
  /** Ends the API, then everything that it stands on. Sockets of the gRPC faces live until the process exits. */
  stop(): Promise<void>;
}

/** Node-wide policy, as the options say. Throws ConfigError for what must not be. */
export function policyOf(config: Config): Policy {
  const network = config.get("network");
  const blocksApart = config.get("rbf-blocks-apart");
  if (network !== "regtest" && blocksApart < LEAST_RBF_BLOCKS_APART) {
    throw new ConfigError([`rbf-blocks-apart: less than ${LEAST_RBF_BLOCKS_APART} only on regtest`]);
  }
  return {
    fundingConfirms: config.get("funding-confirms"),
    dustLimitSat: DUST_LIMIT_SAT,
    maxDustLimitSat: MAX_DUST_LIMIT_SAT,
    maxHtlcValueInFlightMsat: MAX_IN_FLIGHT_MSAT,
    htlcMinimumMsat: BigInt(config.get("htlc-minimum-msat")),
    toSelfDelay: config.get("watchtime-blocks"),
    maxToSelfDelay: config.get("max-locktime-blocks"),
    maxAcceptedHtlcs: config.get("max-concurrent-htlcs"),
    minCapacitySat: config.get("min-capacity-sat"),
    largeChannels: true,
    maxRemoteRbfAttempts: config.get("max-rbf-attempts"),
    remoteRbfMinBlocks: blocksApart,
    requireConfirmedInputs: config.get("require-confirmed-inputs"),
    maxDustHtlcExposureMsat: BigInt(config.get("max-dust-htlc-exposure-msat")),
    openTimeoutMs: config.get("open-timeout") * MS,
    developer: config.get("developer"),
  };
}

/** How bitcoind is told who we are. Throws ConfigError when nothing says it. */
function authOf(config: Config): RpcAuth {
  const cookie = config.get("bitcoin-cookie-file");
  if (cookie !== undefined) return { type: "cookie", file: cookie };
  const [user, password] = [config.get("bitcoin-rpcuser"), config.get("bitcoin-rpcpassword")];
  if (user !== undefined && password !== undefined) return { type: "password", user, password };
  const folder = config.get("bitcoin-datadir");
  if (folder === undefined) {
    throw new ConfigError([
      "bitcoind: give bitcoin-cookie-file, bitcoin-datadir, or bitcoin-rpcuser with bitcoin-rpcpassword",
    ]);
  }
  return { type: "cookie", file: join(folder, COOKIE_FOLDERS[config.get("network")], ".cookie") };
}

function chainConfig(config: Config) {
  const forced = config.get("force-feerates");
  const maxFeerate = config.get("max-feerate");
  return {
    feerates: {
      network: config.get("network"),
      fallback: feerate(config.get("feerate-fallback")),
      ...(forced === undefined ? {} : { forced: forced.split("/").map(Number) }),
      commitFeePercent: config.get("commit-fee"),
      minFeerate: feerate(config.get("min-feerate")),
      ...(maxFeerate === undefined ? {} : { maxFeerate: feerate(maxFeerate) }),
      ignoreLimits: config.get("ignore-fee-limits"),
    },
    pollIntervalMs: config.get("bitcoin-poll-interval"),
  };
}

function walletConfig(config: Config) {
  const maxCapacity = config.get("max-capacity-sat");
  const maxTheirs = config.get("funder-max-their-funding");
  const perChannelMax = config.get("funder-per-channel-max");
  return {
    network: config.get("network"),
    funder: {
      policy: config.get("funder-policy"),
      mod: config.get("funder-policy-mod"),
      minTheirFunding: sat(config.get("funder-min-their-funding")),
      ...(maxTheirs === undefined ? {} : { maxTheirFunding: sat(maxTheirs) }),
      perChannelMin: sat(config.get("funder-per-channel-min")),
      ...(perChannelMax === undefined ? {} : { perChannelMax: sat(perChannelMax) }),
      reserveTank: sat(config.get("funder-reserve-tank")),
      fuzzPercent: config.get("funder-fuzz-percent"),
      fundProbability: config.get("funder-fund-probability"),
    },
    maxInputsPerPeer: config.get("funder-max-inputs-per-peer"),
    maxInputsInAll: config.get("funder-max-inputs"),
    ...(maxCapacity === undefined ? {} : { maxCapacity: sat(maxCapacity) }),
    maxFundingFee: sat(config.get("max-funding-fee-sat")),
    fundingGiveupBlocks: config.get("funding-giveup-blocks"),
  };
}

/** Takes leadership, compares who it is with hsmd and the database, brings the chain to the tip, and serves. */
export async function start(options: LightningdOptions): Promise<RunningLightningd> {
  const { config, log, tls, onFatal } = options;
  const instance = options.instance ?? newInstanceId();
  const network = config.get("network");
  requireTestNetwork(network);
  const policy = policyOf(config);
  const rpcAbort = new AbortController();
  const rpc = createRpc({
    url: `http://${config.get("bitcoin-rpcconnect")}:${config.get("bitcoin-rpcport") ?? RPC_PORTS[network]}`,
    auth: authOf(config),
    retryMs: config.get("bitcoin-retry-timeout") * MS,
    signal: rpcAbort.signal,
  });
  const schema = config.get("database-schema");
  const connection: ConnectionOptions = {
    url: config.require("database-url"),
    applicationName: "lightningd",
    ...(schema === undefined ? {} : { schema }),
  };
  const ends: (() => void | Promise<void>)[] = [];
  const end = async () => {
    for (let step = ends.pop(); step !== undefined; step = ends.pop()) await step();
  };
  try {
    const database: Database = await openDatabase({
      ...connection,
      max: config.get("database-pool"),
      onLost: () => onFatal("the database connection was lost"),
    });
    ends.push(() => database.close());
    const { sql } = database;
    const leader = await takeLeadership(sql, instance);
    log.info({ leaderEpoch: leader.epoch }, "leads");
    ends.push(watchLeadership(sql, leader, (error) => onFatal("leadership is lost", error)));
    const hsmdChannel = dial(config.require("hsmd-address"), tls === undefined ? {} : { tls });
    ends.push(() => hsmdChannel.close());
    const hsmd = client(Hsmd, hsmdChannel);
    const node = await openNode(sql, leader, hsmd, network, log);
    ends.push(() => rpcAbort.abort());
    const chain = await startChain({
      database: connection,
      rpc,
      leader,
      log,
      config: chainConfig(config),
      onFatal,
    });
    ends.push(() => chain.close());
    const wallet = createWallet({
      database: connection,
      sql,
      chain,
      signer: hsmd,
      leader,
      log,
      config: walletConfig(config),
    });
    const maxCapacity = config.get("max-capacity-sat");
    const peers = new PeerRoom({
      sql,
      leader,
      node,
      hsmd,
      chain,
      wallet,
      log,
      features: nodeFeatures({ simpleClose: config.get("simple-close") }),
      policy,
      maxOpensPerPeer: config.get("max-opens-per-peer"),
      maxOpensPerMinute: config.get("max-opens-per-minute"),
      maxCapacity: maxCapacity === undefined ? undefined : sat(maxCapacity),
      openTimeoutMs: config.get("open-timeout") * MS,
      fundingGiveupBlocks: config.get("funding-giveup-blocks"),
      unsignedGiveupBlocks: config.get("unsigned-giveup-blocks"),
      tls,
      onFatal: (error) => {
        // A call that failed is tried again; what is gone for good ends the process.
        const passing = error instanceof ArcusError && error.reason !== "LEADER_LOST";
        if (!passing) onFatal("work for the peers failed", error);
      },
    });
    await peers.start();
    ends.push(() => peers.stop());
    const steps = await openDatabase({
      ...connection,
      applicationName: "lightningd batches",
      settings: BATCH_SETTINGS,
      max: BATCH_POOL,
      onLost: () => onFatal("the database connection was lost"),
    });
    ends.push(() => steps.close());
    const payments = new PaymentRoom({
      sql,
      steps: steps.sql,
      leader,
      node,
      network,
      hsmd,
      chain,
      features: nodeFeatures(),
      log,
      cltvFinal: config.get("cltv-final"),
      minFeerate: config.get("min-feerate"),
      onFatal: (error) => onFatal("work for payments failed", error),
    });
    await payments.start();
    ends.push(() => payments.stop());
    ends.push(followHsmd({
      sql,
      leader,
      hsmd,
      node,
      log,
      onBound: () => {
        peers.hsmdBound().catch((error) => log.warn({ err: error }, "hsmd went away again"));
      },
      onFatal: (error) => onFatal("hsmd is another node's", error),
    }));
    const server = createServer({
      services: [...peers.services, ...payments.services],
      log,
      ...(tls === undefined ? {} : { tls }),
    });
    const grpcAddress = await server.listen(config.get("listen"));
    const api = await startApi({
      nodeId: node.nodeId,
      network,
      config,
      chain,
      wallet,
      peers,
      payments,
      log,
      stop: options.onStop,
    });
    log.info({ node: node.nodeId, grpc: grpcAddress, network }, "lightningd serves");
    return {
      server,
      instance,
      grpcAddress: config.get("advertise-address") ?? grpcAddress,
      api,
      nodeId: node.nodeId,
      chain,
      stop: async () => {
        peers.drain();
        await api.drain();
        await end();
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}
