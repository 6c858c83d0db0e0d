/** Starts channeld in this process, alone in it or beside other daemons. */
import { type RunningSubd, startSubd, type SubdConfig } from "subd/start.ts";
import { faces } from "./face.ts";
import { loadOwner, type Owner, type OwnerHost } from "./owner.ts";

/** A running channeld. */
export type RunningChanneld = RunningSubd;

/** Opens the database, serves, and registers with lightningd. Throws when the database does not answer. */
export function start(config: SubdConfig): Promise<RunningSubd> {
  const { log, instance } = config;
  return startSubd<Owner>("channeld", config, ({ database, registry, ended }) => {
    const host: OwnerHost = {
      sql: database.sql,
      log,
      changed: (owner) => registry.changed(owner, 0n),
      ended,
    };
    return {
      load: (assigned, node) => loadOwner(host, assigned, node),
      faces: (owners) => faces({ owners, instance, log }),
    };
  });
}
