/** Which node this is: one row, written once, and held against hsmd at every start. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { sameBytes } from "bolt/tx/transaction.ts";
import { chainHash, type Network } from "bolt/wire/chain_hash.ts";
import { ArcusError } from "common/grpc/errors.ts";
import type { ServiceClient } from "common/grpc/client.ts";
import type { Logger } from "common/log.ts";
import type { Sql } from "common/pg/client.ts";
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { fence, requireLeadership } from "./leader.ts";
import type { Leader } from "./ports.ts";

/** Bytes of the random id that ties hsmd's memory to one database. */
const DATABASE_ID_LENGTH = 16;
/** How often hsmd's mark is taken, and whether it is a new run that must be bound again. */
export const HSMD_POLL_MS = 1_000;

/** This database, seed or chain is another node's. Restarting does not help. */
export class WrongNodeError extends Error {
  override readonly name = "WrongNodeError";
}

/** hsmd's calls. */
export type HsmdClient = ServiceClient<typeof Hsmd>;

/** Who we are. */
export interface NodeIdentity {
  readonly nodeId: Uint8Array;
  readonly chainHash: Uint8Array;
  readonly databaseId: Uint8Array;
}

/** Mainnet is refused until channels can be resolved on chain. Throws WrongNodeError. */
export function requireTestNetwork(network: Network): void {
  if (network === "bitcoin") {
    throw new WrongNodeError(
      "mainnet is refused: a channel that closes on chain is not resolved by this node yet, so coins could be lost",
    );
  }
}

/**
 * Reads or writes the node row, compares it with hsmd and with the network, and binds hsmd's memory to this database.
 * Throws WrongNodeError for another node's database, seed or chain.
 */
export async function openNode(
  sql: Sql,
  leader: Leader,
  hsmd: HsmdClient,
  network: Network,
  log: Logger,
): Promise<NodeIdentity> {
  requireTestNetwork(network);
  const info = await hsmd.getInfo({}, { waitForReady: true });
  const expectedChain = chainHash(network);
  if (!sameBytes(info.chainHash, expectedChain)) {
    throw new WrongNodeError(`hsmd serves another chain than ${network}`);
  }
  const databaseId = crypto.getRandomValues(new Uint8Array(DATABASE_ID_LENGTH));
  await sql`
    WITH ${fence(sql, leader)}
    INSERT INTO node (node_id, chain_hash, database_id, hsmd_memory_id)
    SELECT ${info.nodeId}, ${info.chainHash}, ${databaseId}, ${info.memoryId} FROM fence
    ON CONFLICT DO NOTHING`;
  const [row] = await sql<
    { node_id: Uint8Array; chain_hash: Uint8Array; database_id: Uint8Array; hsmd_memory_id: Uint8Array }[]
  >`SELECT node_id, chain_hash, database_id, hsmd_memory_id FROM node`;
  if (row === undefined) {
    await requireLeadership(sql, leader);
    throw new Error("no node row");
  }
  if (!sameBytes(row.node_id, info.nodeId)) {
    throw new WrongNodeError(
      `the database belongs to node ${bytesToHex(row.node_id)}, hsmd's seed is that of ${
        bytesToHex(info.nodeId)
      }`,
    );
  }
  if (!sameBytes(row.chain_hash, expectedChain)) {
    throw new WrongNodeError(`the database belongs to another chain than ${network}`);
  }
  const node = {
    nodeId: Uint8Array.from(row.node_id),
    chainHash: expectedChain,
    databaseId: Uint8Array.from(row.database_id),
  };
  await bindHsmd(sql, leader, hsmd, node, log);
  return node;
}

/** Binds this run of hsmd, with what the database remembers of its memory, and stores how far it has come. */
export async function bindHsmd(
  sql: Sql,
  leader: Leader,
  hsmd: HsmdClient,
  node: NodeIdentity,
  log: Logger,
): Promise<string> {
  const [row] = await sql<{ hsmd_memory_id: Uint8Array; high_water: bigint }[]>`
    SELECT hsmd_memory_id, coalesce((SELECT high_water FROM hsmd_mark), 0)::bigint AS high_water FROM node`;
  if (row === undefined) throw new Error("no node row");
  const { info } = await hsmd.bindDatabase({
    databaseId: node.databaseId,
    expectedMemoryId: Uint8Array.from(row.hsmd_memory_id),
    expectedHighWater: row.high_water,
  }, { waitForReady: true }).catch((error) => {
    if (error instanceof ArcusError && error.reason === "FOREIGN_DATABASE") {
      throw new WrongNodeError(
        "hsmd's memory belongs to another database: this one was copied, or made anew",
      );
    }
    throw error;
  });
  if (info === undefined) throw new Error("hsmd bound without saying who it is");
  if (!info.trusted) {
    log.error(
      { reason: info.distrust },
      "hsmd's memory is not the one that this node's channels were signed with: it signs for new channels only",
    );
  } else if (!sameBytes(info.memoryId, row.hsmd_memory_id)) {
    // Only a person's word (AcceptMemory) makes another memory trusted.
    await sql`
      WITH ${fence(sql, leader)}
      UPDATE node SET hsmd_memory_id = ${info.memoryId} WHERE EXISTS (SELECT FROM fence)`;
  }
  await storeMark(sql, leader, info.highWater);
  return info.instance;
}

/** Raises the mark: a memory that has less than it one day was rolled back. */
export async function storeMark(sql: Sql, leader: Leader, highWater: bigint): Promise<void> {
  await sql`
    WITH ${fence(sql, leader)}
    INSERT INTO hsmd_mark (high_water) SELECT ${highWater} FROM fence
    ON CONFLICT (one) DO UPDATE SET high_water = EXCLUDED.high_water
    WHERE hsmd_mark.high_water < EXCLUDED.high_water`;
}

/** Follows hsmd: stores its mark, and binds it again when it was restarted. Returns its end. */
export function followHsmd(
  options: {
    readonly sql: Sql;
    readonly leader: Leader;
    readonly hsmd: HsmdClient;
    readonly node: NodeIdentity;
    readonly log: Logger;
    /** Called after each binding of a new run. */
    readonly onBound: () => void;
    /** Another node's hsmd, or one that refuses to be bound. */
    readonly onFatal: (error: unknown) => void;
  },
): () => void {
  const { sql, leader, hsmd, node, log } = options;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stopped = false;
  let seen: bigint | undefined;
  let away = false;
  const look = async () => {
    try {
      const info = await hsmd.getInfo({}, { deadlineMs: HSMD_POLL_MS * 5 });
      if (stopped) return;
      if (!sameBytes(info.nodeId, node.nodeId)) {
        return options.onFatal(new WrongNodeError("hsmd came back as another node"));
      }
      if (!info.bound) {
        await bindHsmd(sql, leader, hsmd, node, log);
        log.info({ instance: info.instance }, "hsmd was restarted, and is bound again");
        options.onBound();
      } else if (info.highWater !== seen) {
        await storeMark(sql, leader, info.highWater);
        seen = info.highWater;
      }
      away = false;
    } catch (error) {
      if (stopped) return;
      if (error instanceof WrongNodeError) return options.onFatal(error);
      if (!away) log.warn({ err: error }, "hsmd does not answer");
      away = true;
    }
    if (!stopped) timer = setTimeout(look, HSMD_POLL_MS);
  };
  timer = setTimeout(look, HSMD_POLL_MS);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
