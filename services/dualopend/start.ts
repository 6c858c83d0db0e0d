/** Starts dualopend in this process, alone in it or beside other daemons. */
import { chainHash, type Network } from "bolt/wire/chain_hash.ts";
import { type Channel, client, dial } from "common/grpc/client.ts";
import { type ArcusServer, createServer } from "common/grpc/server.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Logger } from "common/log.ts";
import { type Database, openDatabase } from "common/pg/client.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import { faces } from "./face.ts";
import { loadNode } from "subd/fence.ts";
import { Owners } from "subd/owners.ts";
import { RegistryClient } from "subd/registry.ts";
import { loadOwner, type Owner, type OwnerHost } from "./owner.ts";

/** What dualopend needs. */
export interface DualopendConfig {
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
  readonly tls?: TlsFiles | undefined;
  readonly log: Logger;
  /** New at every start. */
  readonly instance: string;
  /** The process must end: the database is lost, or the others are of another node. */
  readonly onFatal: (reason: string) => void;
  /** Calls back after this time; answers how to prevent that. Default: setTimeout. */
  readonly timer?: (ms: number, callback: () => void) => () => void;
}

/** A running dualopend. */
export interface RunningDualopend {
  /** Where it listens. */
  readonly address: string;
  readonly server: ArcusServer;
  /** Whether lightningd has welcomed it. */
  registered(): boolean;
  /** Gives its channels back, and ends every connection of its own; the process exits afterwards. */
  stop(): Promise<void>;
}

function setTimer(ms: number, callback: () => void): () => void {
  const timer = setTimeout(callback, ms);
  return () => clearTimeout(timer);
}

function randomBytes(length: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(length));
}

/** Opens the database, serves, and registers with lightningd. Throws when the database does not answer. */
export async function start(config: DualopendConfig): Promise<RunningDualopend> {
  const { log, instance, timer = setTimer } = config;
  const database = await openDatabase({
    url: config.databaseUrl,
    applicationName: "dualopend",
    onLost: () => config.onFatal("the database connection was lost"),
    ...(config.databasePool === undefined ? {} : { max: config.databasePool }),
    ...(config.databaseSchema === undefined ? {} : { schema: config.databaseSchema }),
  });
  const dialing = config.tls === undefined ? {} : { tls: config.tls };
  const channels: Channel[] = [];
  try {
    const hsmd = dial(config.hsmdAddress, dialing);
    const lightningd = dial(config.lightningdAddress, dialing);
    channels.push(hsmd, lightningd);
    return await serve(config, database, { hsmd, lightningd });
  } catch (error) {
    for (const channel of channels) channel.close();
    await database.close();
    throw error;
  }

  async function serve(
    config: DualopendConfig,
    database: Database,
    { hsmd, lightningd }: { readonly hsmd: Channel; readonly lightningd: Channel },
  ): Promise<RunningDualopend> {
    const registry = new RegistryClient<Owner>({
      daemon: "dualopend",
      channel: lightningd,
      log,
      instance,
      capacity: config.maxChannels ?? 0,
      chainHash: chainHash(config.network),
      loadNode: () => loadNode(database.sql),
      onStranger: config.onFatal,
      timer,
    });
    const host: OwnerHost = {
      sql: database.sql,
      hsmd: client(Hsmd, hsmd),
      lightningd: client(Lightningd, lightningd),
      log,
      instance,
      randomBytes,
      timer,
      changed: (owner, opening) => registry.changed(owner, opening),
      rbfEnded: (owner, opening, detail) =>
        registry.released(owner, opening, Released_Reason.RBF_FAILED, detail),
      ended: (owner, how) => {
        owners.remove(owner);
        registry.ended(owner, how);
      },
    };
    const owners = new Owners<Owner>((assigned, node) => loadOwner(host, assigned, node), log);
    const server = createServer({
      services: faces({ owners, instance, log, randomBytes }),
      log,
      ...dialing,
    });
    const address = await server.listen(config.listen);
    registry.start(owners, config.advertise ?? address);
    log.info({ address }, "dualopend serves");
    return {
      address,
      server,
      registered: () => registry.registered,
      async stop() {
        owners.drain({ type: "released", reason: Released_Reason.DRAINING, detail: "this replica leaves" });
        registry.stop();
        await server.drain();
        hsmd.close();
        lightningd.close();
        await database.close();
      },
    };
  }
}
