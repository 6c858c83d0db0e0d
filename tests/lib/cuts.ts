/** Places to break a connection at: before and after every message of a recorded run. */
import { channelOf, until } from "tools/node/commands.ts";
import { generationOf } from "./rows.ts";
import type { World } from "./world.ts";

/** Who says what, in the order in which it was said. */
export interface Said {
  readonly from: "alice" | "bob";
  readonly message: string;
  /** Counts this sender's messages of this name, from 1. */
  readonly nth: number;
}

/** A place to break the connection at. */
export interface Cut extends Said {
  readonly action: "close_before" | "close_after";
}

/** Messages that connectd exchanges by itself, at any time. */
const OWN_MESSAGES: ReadonlySet<string> = new Set(["init", "ping", "pong"]);

/** Runs `work` and gives what the two nodes said meanwhile. They must log traces. */
export async function recordMessages({ alice, bob }: World, work: () => Promise<unknown>): Promise<Said[]> {
  const marks = { alice: alice.logs.next, bob: bob.logs.next };
  await work();
  const said: Said[] = [];
  const counts = new Map<string, number>();
  // alice's log has both directions in one order.
  for (const line of alice.logs.find("message", { since: marks.alice, daemon: "connectd" })) {
    const { message, direction } = line.fields;
    if (line.msg !== "message" || typeof message !== "string" || OWN_MESSAGES.has(message)) continue;
    const from = direction === "out" ? "alice" : "bob";
    const nth = (counts.get(`${from} ${message}`) ?? 0) + 1;
    counts.set(`${from} ${message}`, nth);
    said.push({ from, message, nth });
  }
  return said;
}

/** Before and after each. */
export function cutsAt(said: readonly Said[]): Cut[] {
  return said.flatMap((each) =>
    (["close_before", "close_after"] as const).map((action) => ({ ...each, action }))
  );
}

/** "before alice's tx_complete #2". */
export function nameOfCut({ from, message, nth, action }: Cut): string {
  return `${action === "close_before" ? "before" : "after"} ${from}'s ${message} #${nth}`;
}

/** The connections that two nodes have with each other. */
export async function generationsOf({ alice, bob }: World): Promise<readonly (bigint | undefined)[]> {
  return [await generationOf(alice, bob), await generationOf(bob, alice)];
}

/** Waits until the nodes have another connection than `before`; alice dials when the old one is gone. */
export async function reconnected(world: World, before: readonly (bigint | undefined)[]): Promise<void> {
  const { alice, bob } = world;
  await until("the old connection is gone", async () => {
    const now = await generationsOf(world);
    return now.every((generation, index) => generation === undefined || generation !== before[index]);
  });
  await alice.rpc.connectPeer({ id: `${bob.id}@${bob.address}` });
  await until("the new connection", async () => {
    const now = await generationsOf(world);
    return now.every((generation, index) => generation !== undefined && generation !== before[index]);
  });
}

/** Waits until both sides have had channel_reestablish on the connection that they have now. */
export async function reestablished({ alice, bob }: World, channelId: string): Promise<void> {
  for (const node of [alice, bob]) {
    await until(`${node.name} has reestablished ${channelId}`, async () => {
      const channel = await channelOf(node, channelId);
      return channel?.peerConnected === true && channel.reestablished === true;
    });
  }
}
