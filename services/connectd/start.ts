/** Starts connectd in this process, alone in it or beside other daemons. */
import { client, dial } from "common/grpc/client.ts";
import { type ArcusServer, createServer } from "common/grpc/server.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import { newInstanceId } from "common/lifecycle.ts";
import type { Logger } from "common/log.ts";
import type { Metrics } from "common/metrics.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { ControlClock, monotonic } from "./clock.ts";
import { ControlLink } from "./control.ts";
import { connectdService } from "./face.ts";
import { Faults } from "./faults.ts";
import { parseFaultText } from "./fault_text.ts";
import { Hub } from "./hub.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { Listeners } from "./listen.ts";

const SHARED_SECRET_LENGTH = 32;

/** What connectd needs. */
export interface ConnectdConfig {
  /** gRPC target of lightningd's internal face. */
  readonly lightningdAddress: string;
  /** gRPC target of hsmd. */
  readonly hsmdAddress: string;
  /** Where our own gRPC face listens: "host:port" (port 0: any) or "unix:/path". */
  readonly listen: string;
  /** Where the others reach it; default: where it listens. */
  readonly advertise?: string | undefined;
  /** Where peers reach us; port 0 takes any. */
  readonly bind: readonly string[];
  readonly log: Logger;
  /** Allows fault injection. */
  readonly developer: boolean;
  /** Reconnect within a second. */
  readonly fastReconnect?: boolean;
  /** Fault rules to begin with, as lines; developer mode only. */
  readonly faults?: string | undefined;
  readonly limits?: Partial<Limits>;
  readonly tls?: TlsFiles | undefined;
  readonly metrics?: Metrics | undefined;
  /** New at every start. */
  readonly instance?: string;
}

/** A running connectd. */
export interface RunningConnectd {
  readonly server: ArcusServer;
  readonly instance: string;
  /** Our gRPC face. */
  readonly grpcAddress: string;
  /** Where peers reach us. */
  readonly bindings: readonly string[];
  /** Whether lightningd is there, so that peers are accepted. */
  ready(): boolean;
  /** Drains every peer and closes every socket but those of the gRPC face, which live until the process exits. */
  stop(): Promise<void>;
}

/** Binds, serves, and begins to look for lightningd. Peers are accepted and dialled from its first welcome on. */
export async function start(config: ConnectdConfig): Promise<RunningConnectd> {
  const { log, tls } = config;
  const instance = config.instance ?? newInstanceId();
  const limits: Limits = { ...DEFAULT_LIMITS, ...config.limits };
  const faults = config.developer ? new Faults() : undefined;
  if (config.faults !== undefined) {
    const rules = parseFaultText(config.faults);
    if (!rules.ok) throw new Error(rules.error);
    if (faults === undefined) throw new Error("faults need developer mode");
    const set = faults.set(rules.value);
    if (!set.ok) throw new Error(set.error);
  }
  const listeners = Listeners.bind(config.bind, log);
  const clock = new ControlClock();
  const hsmdChannel = dial(config.hsmdAddress, tls === undefined ? {} : { tls });
  const hsmd = client(Hsmd, hsmdChannel);
  let grpcAddress = "";
  const hub = new Hub({
    limits,
    log,
    clock,
    instance,
    faults,
    fastReconnect: config.fastReconnect === true,
    tls,
    now: monotonic,
    metrics: config.metrics,
    send: (message) => control.send(message),
    ecdh: async (point) => {
      const { secret } = await hsmd.ecdh({ point }, { deadlineMs: limits.ecdhTimeout });
      if (secret.length !== SHARED_SECRET_LENGTH) throw new Error("hsmd's shared secret has not 32 bytes");
      return secret;
    },
  });
  const control: ControlLink = new ControlLink({
    address: config.lightningdAddress,
    log,
    clock,
    tls,
    hello: (identity) => hub.hello(identity, listeners.bindings, grpcAddress),
    command: (message) => hub.command(message),
    welcomed: (welcome, identity) => {
      hub.welcomed(welcome, identity);
      listeners.accept((conn) => hub.take(conn));
    },
  });
  const server = createServer({
    services: [connectdService({ hub, control, faults, instance, bindings: () => listeners.bindings })],
    log,
    ...(tls === undefined ? {} : { tls }),
  });
  try {
    const listening = await server.listen(config.listen);
    grpcAddress = config.advertise ?? listening;
  } catch (error) {
    await listeners.stop();
    hsmdChannel.close();
    throw error;
  }
  const timer = setInterval(() => hub.tick(), limits.tick);
  control.start();
  const bindings = listeners.bindings;
  log.info({ bindings, grpcAddress, developer: config.developer }, "connectd serves");
  let stopped: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    await listeners.stop();
    await hub.stop();
    clearInterval(timer);
    await control.stop();
    hsmdChannel.close();
  };
  return { server, instance, grpcAddress, bindings, ready: () => control.up, stop: () => stopped ??= stop() };
}
