/** Rows for tests: what lightningd would have written before dualopend begins. */
import type { Attempt, SavedChannel } from "bolt/dualopen/types.ts";
import { type Name, World } from "bolt/dualopen/testing/simulator.ts";
import type { Sql } from "common/pg/client.ts";

/** Rows of two nodes that went through an open (and `replacements` of it) until it could be mined. */
export function opened(replacements = 0): World {
  const world = new World({ alice: 120_000, bob: 60_000 });
  world.open();
  world.settle();
  for (let i = 1; i <= replacements; i++) {
    world.bump("alice", 1000 + 500 * i);
    world.settle();
  }
  return world;
}

/** A node's saved channel. */
export function savedOf(world: World, name: Name = "alice"): SavedChannel {
  const { rows } = world.nodes[name];
  if (rows === null) throw new Error("nothing was saved");
  return rows;
}

/** An attempt before any signature. */
export function unsigned(attempt: Attempt): Attempt {
  return {
    ...attempt,
    remoteCommitmentSignature: null,
    localTxSignatures: null,
    remoteTxSignatures: null,
    completeTx: null,
    aborted: false,
  };
}

/** A channel as its first step stores it. */
export function firstStep(channel: SavedChannel): SavedChannel {
  const [attempt] = channel.attempts;
  if (attempt === undefined) throw new Error("no attempt");
  return {
    ...channel,
    state: "DUALOPEND_OPEN_COMMIT_READY",
    attempts: [unsigned(attempt)],
    lockedAttempt: null,
    remoteReady: null,
  };
}

/** 33 bytes that stand for a peer. */
export const PEER = new Uint8Array(33).fill(2);
/** The connection of {@link insertOpening}. */
export const GENERATION = 7n;

/** An opening's row with these reservations, as lightningd writes it. Answers its number. */
export async function insertOpening(
  sql: Sql,
  opening: {
    readonly epoch: bigint;
    readonly initiator: "local" | "remote";
    /** An RBF's channel. */
    readonly channel?: bigint;
    readonly keyId?: Uint8Array;
    readonly reserve?: readonly { readonly txid: Uint8Array; readonly vout: number }[];
  },
): Promise<bigint> {
  const { epoch, initiator, channel } = opening;
  const keyId = opening.keyId ?? crypto.getRandomValues(new Uint8Array(32));
  const own = channel === undefined
    ? { temporary: crypto.getRandomValues(new Uint8Array(32)), keyId, index: 5 }
    : { temporary: null, keyId: null, index: null };
  const [row] = await sql<{ opening: bigint }[]>`
    INSERT INTO openings (peer_id, generation, channel, initiator, owner_epoch, owner_instance, temporary_channel_id,
      channel_key_id, payment_key_index)
    VALUES (${PEER}, ${GENERATION}, ${
    channel ?? null
  }, ${initiator}, ${epoch}, 'test', ${own.temporary}, ${own.keyId},
      ${own.index})
    RETURNING opening`;
  if (row === undefined) throw new Error("no row");
  for (const { txid, vout } of opening.reserve ?? []) {
    await sql`
      INSERT INTO reservations (txid, vout, purpose, opening) VALUES (${txid}, ${vout}, 'opening', ${row.opening})
      ON CONFLICT DO NOTHING`;
  }
  return row.opening;
}

/** Inputs of ours. */
export function ownInputs(attempt: Attempt) {
  return attempt.tx.inputs.filter((input) => input.side === "local").map((input) => input.outpoint);
}
