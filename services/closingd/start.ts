/** Starts closingd in this process, alone in it or beside other daemons. */
import { client } from "common/grpc/client.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { type RunningSubd, startSubd, type SubdConfig } from "subd/start.ts";
import { faces } from "./face.ts";
import { loadOwner, type Owner, type OwnerHost } from "./owner.ts";

/** Opens the database, serves, and registers with lightningd. Throws when the database does not answer. */
export function start(config: SubdConfig): Promise<RunningSubd> {
  const { log, instance } = config;
  return startSubd<Owner>("closingd", config, ({ database, hsmd, lightningd, registry, ended, metrics }) => {
    const host: OwnerHost = {
      sql: database.sql,
      hsmd: client(Hsmd, hsmd),
      hsmdChannel: hsmd,
      lightningd: client(Lightningd, lightningd),
      log,
      closed: metrics.counter("arcus_closingd_closes_total", "Closes that both signed and that are stored."),
      changed: (owner) => registry.changed(owner, 0n),
      ended,
    };
    return {
      load: (assigned, node) => loadOwner(host, assigned, node),
      faces: (owners) => faces({ owners, instance, log }),
    };
  });
}
