/** One active lightningd: its epoch fences everything that it writes, says and orders. */
import type { Sql } from "common/pg/client.ts";
import type { Leader } from "./ports.ts";

/** How often the active one looks whether it still leads. */
export const LEADER_POLL_MS = 1_000;

/** Another lightningd leads: this one must end. */
export class LeadershipLostError extends Error {
  override readonly name = "LeadershipLostError";
}

/**
 * Takes leadership, whoever had it: the epoch rises in one statement. Every later write of the former leader finds its
 * epoch gone (a fence that locks the row waits for this statement, and then reads its result).
 */
export async function takeLeadership(sql: Sql, instance: string): Promise<Leader> {
  const [row] = await sql<{ epoch: bigint }[]>`
    INSERT INTO leader (epoch, instance) VALUES (1, ${instance})
    ON CONFLICT (one) DO UPDATE SET epoch = leader.epoch + 1, instance = EXCLUDED.instance, taken_at = now()
    RETURNING epoch`;
  if (row === undefined) throw new Error("no leader row");
  return { epoch: row.epoch, instance };
}

/**
 * The CTE that every fenced statement begins with; it must refer to `fence`. FOR SHARE holds a new leader off until the
 * statement is committed, so none can slip in behind it.
 */
export function fence(sql: Sql, leader: Leader) {
  return sql`fence AS (SELECT epoch FROM leader WHERE epoch = ${leader.epoch} FOR SHARE)`;
}

/** Throws {@link LeadershipLostError} unless this leader still leads. For statements that changed nothing. */
export async function requireLeadership(sql: Sql, leader: Leader): Promise<void> {
  const [row] = await sql<{ epoch: bigint }[]>`SELECT epoch FROM leader`;
  if (row?.epoch !== leader.epoch) {
    throw new LeadershipLostError(`epoch ${leader.epoch} was replaced by ${row?.epoch ?? "nothing"}`);
  }
}

/** Looks every second, and calls `onLost` once. Returns its end. */
export function watchLeadership(sql: Sql, leader: Leader, onLost: (error: unknown) => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stopped = false;
  const look = async () => {
    try {
      await requireLeadership(sql, leader);
    } catch (error) {
      if (!stopped) onLost(error);
      return;
    }
    if (!stopped) timer = setTimeout(look, LEADER_POLL_MS);
  };
  timer = setTimeout(look, LEADER_POLL_MS);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
