/** Starts dualopend in this process, alone in it or beside other daemons. */
import { client } from "common/grpc/client.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { Released_Reason } from "gen/arcus/subd/v1/subd_pb.ts";
import { type RunningSubd, startSubd, type SubdConfig } from "subd/start.ts";
import { faces } from "./face.ts";
import { loadOwner, type Owner, type OwnerHost } from "./owner.ts";

/** A running dualopend. */
export type RunningDualopend = RunningSubd;

function randomBytes(length: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(length));
}

/** Opens the database, serves, and registers with lightningd. Throws when the database does not answer. */
export function start(config: SubdConfig): Promise<RunningSubd> {
  const { log, instance } = config;
  return startSubd<Owner>("dualopend", config, ({ database, hsmd, lightningd, registry, ended, timer }) => {
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
      ended,
    };
    return {
      load: (assigned, node) => loadOwner(host, assigned, node),
      faces: (owners) => faces({ owners, instance, log, randomBytes }),
    };
  });
}
