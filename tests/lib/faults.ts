/** Faults between two nodes, set in a node's connectd and waited for. */
import { FaultAction } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Direction } from "gen/arcus/types/v1/types_pb.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { until } from "tools/node/commands.ts";

/** What happens to a message; see connectd.proto. */
export type FaultName =
  | "close_before"
  | "close_after"
  | "nothing"
  | "drop"
  | "freeze_after"
  | "blackhole"
  | "close_on_receive"
  | "delay";

/** One rule. Rules are consumed in order. */
export interface Fault {
  readonly action: FaultName;
  /** BOLT's name of the message. */
  readonly message: string;
  /** Default "out": what this node sends. */
  readonly direction?: "in" | "out";
  /** Fires on the nth match. Default 1. */
  readonly nth?: number;
  readonly delayMs?: number;
}

const ACTIONS: Readonly<Record<FaultName, FaultAction>> = {
  close_before: FaultAction.CLOSE_BEFORE,
  close_after: FaultAction.CLOSE_AFTER,
  nothing: FaultAction.NOTHING,
  drop: FaultAction.DROP,
  freeze_after: FaultAction.FREEZE_AFTER,
  blackhole: FaultAction.BLACKHOLE,
  close_on_receive: FaultAction.CLOSE_ON_RECEIVE,
  delay: FaultAction.DELAY,
};

/** Replaces the rules of a node; none takes them all away. */
export async function setFaults(node: RunningNode, ...faults: readonly Fault[]): Promise<void> {
  await node.connectd.setFaults({
    rules: faults.map(({ action, message, direction = "out", nth = 1, delayMs = 0 }) => ({
      action: ACTIONS[action],
      message,
      nth,
      direction: direction === "in" ? Direction.INCOMING : Direction.OUTGOING,
      delayMs,
    })),
  });
}

/** How many rules of a node have not fired. */
export async function faultsPending(node: RunningNode): Promise<number> {
  return (await node.connectd.listFaults({})).pending.length;
}

/** Waits until every rule of a node has fired. */
export async function untilFaultsFired(node: RunningNode): Promise<void> {
  let left: readonly string[] = [];
  await until(() => `faults of ${node.name} that did not fire: ${left.join(", ")}`, async () => {
    const { pending } = await node.connectd.listFaults({});
    left = pending.map(({ message }) => message);
    return left.length === 0;
  });
}
