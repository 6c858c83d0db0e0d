/** Starts channeld in this process, alone in it or beside other daemons. */
import type { ChannelInput } from "bolt/channel/types.ts";
import { unreachable } from "bolt/result.ts";
import { client } from "common/grpc/client.ts";
import { openDatabase } from "common/pg/client.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { Owners } from "subd/owners.ts";
import { type RunningSubd, startSubd, type SubdConfig } from "subd/start.ts";
import { faces } from "./face.ts";
import { nodeFacts, offerInput, settleInput } from "./htlc_messages.ts";
import { type Command, HtlcStream } from "./htlc_stream.ts";
import { channeldMetrics } from "./metrics.ts";
import { loadOwner, type Owner, type OwnerHost } from "./owner.ts";
import { StepSigner } from "./signer.ts";
import { forgetOnionKeys, STEP_SETTINGS } from "./store.ts";

/** A running channeld. */
export type RunningChanneld = RunningSubd;

/** Connections that carry steps. */
const STEP_POOL = 4;

/** Opens the database, serves, and registers with lightningd. Throws when the database does not answer. */
export function start(config: SubdConfig): Promise<RunningSubd> {
  const { log, instance } = config;
  return startSubd<Owner>("channeld", config, async (parts) => {
    const { database, hsmd, lightningd, registry, timer } = parts;
    const steps = await openDatabase({
      url: config.databaseUrl,
      applicationName: "channeld steps",
      settings: STEP_SETTINGS,
      max: config.databasePool ?? STEP_POOL,
      onLost: () => config.onFatal("the database connection was lost"),
      ...(config.databaseSchema === undefined ? {} : { schema: config.databaseSchema }),
    });
    const signer = new StepSigner({ hsmd, log, timer });
    let owned: Owners<Owner> | null = null;
    let node: Extract<ChannelInput, { type: "node" }> | null = null;

    const onNode = (level: Extract<Command, { case: "node" }>["value"]) => {
      const facts = nodeFacts(level);
      // Rows that no replay can use any more go with the blocks.
      if (facts.height !== node?.height) {
        forgetOnionKeys(database.sql, facts.height).catch((err) => log.warn({ err }, "old onion keys stay"));
      }
      node = { type: "node", ...facts };
      for (const owner of owned?.all() ?? []) owner.command(node);
    };
    const onCommand = (channel: bigint, command: Command) => {
      if (command.case === "node") return onNode(command.value);
      const owner = owned?.find({ channel, opening: 0n });
      // Whoever has it now is told the same.
      if (owner === undefined) return;
      // Said to the owner before this one: lightningd takes it for lost once this one is synced, and makes it again.
      if (command.case === "offer" && ![0n, owner.epoch].includes(command.value.epoch)) return;
      try {
        toOwner(owner, command);
      } catch (err) {
        // One command that makes no sense costs no other one; an offer is answered.
        log.error({ err, channel }, "a command that is not carried out");
        if (command.case !== "offer") return;
        const { origin } = command.value;
        host.report(owner, { case: "offered", value: { origin, refusal: "temporary_node_failure" } });
      }
    };
    const toOwner = (owner: Owner, command: Exclude<Command, { case: "node" }>) => {
      switch (command.case) {
        case "offer":
          return owner.command(offerInput(command.value));
        case "settle":
          return owner.command(settleInput(command.value, (id) => owner.onionOf(id)));
        default:
          return unreachable(command);
      }
    };
    const htlcs = new HtlcStream({
      lightningd,
      log,
      timer,
      hello: () => registry.hello(),
      obeys: (hello) => registry.obeys(hello),
      tellAll: () => {
        for (const owner of owned?.all() ?? []) owner.tell();
      },
      command: onCommand,
    });
    const host: OwnerHost = {
      sql: database.sql,
      steps: steps.sql,
      hsmd: client(Hsmd, hsmd),
      signer,
      metrics: channeldMetrics(parts.metrics),
      log,
      get node() {
        return node;
      },
      get round() {
        return htlcs.round;
      },
      report: ({ channel, epoch }, report) => htlcs.report({ channel, epoch, report }),
      changed: (owner) => registry.changed(owner, 0n),
      ended: parts.ended,
    };
    return {
      load: (assigned, facts) => loadOwner(host, assigned, facts),
      faces: (owners) => faces({ owners, instance, log }),
      started: (owners) => {
        owned = owners;
        signer.start();
      },
      welcomed: () => htlcs.welcomed(),
      stopped: async () => {
        htlcs.stop();
        signer.stop();
        await steps.close();
      },
    };
  });
}
