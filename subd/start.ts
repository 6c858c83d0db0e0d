/** Starts a subd in this process, alone in it or beside other daemons: what all of them do in the same order. */
import { chainHash, type Network } from "bolt/wire/chain_hash.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { type Channel, dial } from "common/grpc/client.ts";
import { type ArcusServer, createServer, type ImplementedService } from "common/grpc/server.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Logger } from "common/log.ts";
import { createMetrics, type Metrics } from "common/metrics.ts";
import { type Database, openDatabase } from "common/pg/client.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import { loadNode } from "./fence.ts";
import type { Assigned, Ended, SubdOwner } from "./owner.ts";
import { type NodeFacts, Owners } from "./owners.ts";
import { RegistryClient } from "./registry.ts";

/** What a subd needs. */
export interface SubdConfig {
  readonly network: Network;
  /** "host:port" (port 0: any) or "unix:/path". */
  readonly listen: string;
  /** Where others reach it, if not at what it listens on. */
  readonly advertise?: string | undefined;
  readonly lightningdAddress: string;
  readonly hsmdAddress: string;
  /** postgres:// URL; a secret. */
  readonly databaseUrl: string;
  readonly databaseSchema?: string | undefined;
  readonly databasePool?: number;
  /** Channels that it takes; 0: no limit of its own. */
  readonly maxChannels?: number;
  /** option_simple_close is offered; as lightningd has it. */
  readonly simpleClose?: boolean;
  readonly tls?: TlsFiles | undefined;
  readonly log: Logger;
  /** What it counts with; default: a registry that nobody reads. */
  readonly metrics?: Metrics;
  /** New at every start. */
  readonly instance: string;
  /** The process must end: the database is lost, or the others are of another node. */
  readonly onFatal: (reason: string) => void;
  /** Calls back after this time; answers how to prevent that. Default: setTimeout. */
  readonly timer?: (ms: number, callback: () => void) => () => void;
}

/** A running subd. */
export interface RunningSubd {
  /** Where it listens. */
  readonly address: string;
  readonly server: ArcusServer;
  /** Whether lightningd has welcomed it. */
  registered(): boolean;
  /** Gives its channels back, and ends every connection of its own; the process exits afterwards. */
  stop(): Promise<void>;
}

/** What a subd builds its own part on. */
export interface SubdParts<O extends SubdOwner> {
  readonly database: Database;
  readonly lightningd: Channel;
  readonly hsmd: Channel;
  readonly registry: RegistryClient<O>;
  /** An owner let go: it is held no more, and lightningd hears of it. */
  ended(owner: O, how: Ended): void;
  readonly metrics: Metrics;
  readonly timer: (ms: number, callback: () => void) => () => void;
}

/** A subd's own part. */
export interface SubdRooms<O extends SubdOwner> {
  /** Takes a channel. Throws SupersededError when the epoch does not own the rows. */
  load(assigned: Assigned, node: NodeFacts): Promise<O>;
  /** Its gRPC faces. */
  faces(owners: Owners<O>): ImplementedService[];
  /** It serves, and is about to register. */
  started?(owners: Owners<O>): void;
  /** lightningd welcomed this replica: at first, and after each time that it was away. */
  welcomed?(node: NodeFacts): void;
  /** Nothing is owned any more: ends what it opened itself. */
  stopped?(): Promise<void>;
}

function setTimer(ms: number, callback: () => void): () => void {
  const timer = setTimeout(callback, ms);
  return () => clearTimeout(timer);
}

/** Opens the database, serves, and registers with lightningd. Throws when the database does not answer. */
export async function startSubd<O extends SubdOwner>(
  daemon: string,
  config: SubdConfig,
  make: (parts: SubdParts<O>) => SubdRooms<O> | Promise<SubdRooms<O>>,
): Promise<RunningSubd> {
  const { log, instance, timer = setTimer, metrics = createMetrics() } = config;
  await using ending = new AsyncDisposableStack();
  const database = await openDatabase({
    url: config.databaseUrl,
    applicationName: daemon,
    onLost: () => config.onFatal("the database connection was lost"),
    ...(config.databasePool === undefined ? {} : { max: config.databasePool }),
    ...(config.databaseSchema === undefined ? {} : { schema: config.databaseSchema }),
  });
  ending.defer(() => database.close());
  const dialing = config.tls === undefined ? {} : { tls: config.tls };
  const lightningd = dial(config.lightningdAddress, dialing);
  ending.defer(() => lightningd.close());
  const hsmd = dial(config.hsmdAddress, dialing);
  ending.defer(() => hsmd.close());
  const registry = new RegistryClient<O>({
    daemon,
    channel: lightningd,
    log,
    instance,
    capacity: config.maxChannels ?? 0,
    features: nodeFeatures({ simpleClose: config.simpleClose ?? false }).toBytes(),
    chainHash: chainHash(config.network),
    loadNode: () => loadNode(database.sql),
    onStranger: config.onFatal,
    onWelcome: (node) => rooms.welcomed?.(node),
    timer,
  });
  const ended = (owner: O, how: Ended) => {
    owners.remove(owner);
    registry.ended(owner, how);
  };
  const rooms = await make({ database, lightningd, hsmd, registry, ended, metrics, timer });
  ending.defer(() => rooms.stopped?.());
  const held = metrics.gauge("arcus_subd_owners", "Channels and openings that a subd owns.", ["daemon"]);
  const owners = new Owners<O>(
    (assigned, node) => rooms.load(assigned, node),
    log,
    (count) => held.set({ daemon }, count),
  );
  const server = createServer({ services: rooms.faces(owners), log, ...dialing });
  const address = await server.listen(config.listen);
  rooms.started?.(owners);
  registry.start(owners, config.advertise ?? address);
  log.info({ address }, `${daemon} serves`);
  const resources = ending.move();
  return {
    address,
    server,
    registered: () => registry.registered,
    async stop() {
      owners.drain({ type: "released", reason: Released_Reason.DRAINING, detail: "this replica leaves" });
      registry.stop();
      await server.drain();
      await resources.disposeAsync();
    },
  };
}
