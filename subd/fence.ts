/** The fence of Postgres: which owner, which version; and a channel's place on its connection. */
import type { Sql } from "common/pg/client.ts";

/** The fence matched no row: another owner has this channel or opening, or it is gone. */
export class SupersededError extends Error {
  override readonly name = "SupersededError";
}

/** What every write of a saved channel names. */
export interface Fence {
  readonly channel: bigint;
  readonly epoch: bigint;
  readonly version: bigint;
}

/** Where a channel stands on its connection. */
export interface Place {
  readonly generation: bigint;
  readonly inSeq: bigint;
  readonly outSeq: bigint;
  readonly reestablishSent: boolean;
  readonly reestablishReceived: boolean;
}

/** What a fenced write answers. */
export interface Versioned {
  readonly version: bigint;
}

/** The columns of a place. */
export function placeColumns(sql: Sql, place: Place) {
  return sql`generation = ${place.generation}, in_seq = ${place.inSeq}, out_seq = ${place.outSeq},
    reestablish_sent = ${place.reestablishSent}, reestablish_received = ${place.reestablishReceived}`;
}

/** The columns of a state; when it changed is stored too. */
export function stateColumns(sql: Sql, state: string) {
  return sql`state = ${state},
    state_changed_at = CASE WHEN channels.state = ${state} THEN channels.state_changed_at ELSE now() END`;
}

/** Which channel, which owner, which version. */
export function fenced(sql: Sql, fence: Fence) {
  return sql`channels.channel = ${fence.channel} AND channels.owner_epoch = ${fence.epoch}
    AND channels.version = ${fence.version}`;
}

/** The fence after a write that answered these rows. Throws SupersededError when it changed none. */
export function after(fence: Fence, rows: readonly Versioned[]): Fence {
  const [row] = rows;
  if (row === undefined) {
    throw new SupersededError(
      `channel ${fence.channel} is not at epoch ${fence.epoch}, version ${fence.version}`,
    );
  }
  return { ...fence, version: row.version };
}

/** Only the place on the connection: before channel_reestablish is sent, and once the peer's came. */
export async function savePlace(sql: Sql, fence: Fence, place: Place): Promise<Fence> {
  const rows = await sql<Versioned[]>`
    UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}
    WHERE ${fenced(sql, fence)} RETURNING version`;
  return after(fence, rows);
}

/** Which node this database is. */
export interface NodeRow {
  readonly nodeId: Uint8Array;
  readonly chainHash: Uint8Array;
  readonly databaseId: Uint8Array;
}

/** The node's identity; undefined before lightningd's first start. */
export async function loadNode(sql: Sql): Promise<NodeRow | undefined> {
  const [row] = await sql<{ node_id: Uint8Array; chain_hash: Uint8Array; database_id: Uint8Array }[]>`
    SELECT node_id, chain_hash, database_id FROM node`;
  return row === undefined ? undefined : {
    nodeId: new Uint8Array(row.node_id),
    chainHash: new Uint8Array(row.chain_hash),
    databaseId: new Uint8Array(row.database_id),
  };
}
