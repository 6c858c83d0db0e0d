/** What became of an open or of a replacement that something interrupted: forgotten by both sides, or complete on both. */
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { until } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import type { World } from "./world.ts";

/** What a node's rows say about an attempt. */
export interface AttemptRow {
  readonly attempt: bigint;
  readonly channelId: string;
  readonly txid: string;
  readonly state: string;
  /** The peer's commitment_signed is stored, and our tx_signatures are not. */
  readonly toSign: boolean;
  readonly complete: boolean;
  readonly aborted: boolean;
}

/** How many attempts a node ever stored: tells that one was there even when it is gone. */
export async function attemptsEver(node: RunningNode): Promise<bigint> {
  const [row] = await node.sql<{ last: bigint | null }[]>`
    SELECT pg_sequence_last_value(pg_get_serial_sequence('funding_attempts', 'attempt')::regclass) AS last`;
  return row?.last ?? 0n;
}

/** A node's attempts with a number above `after`, the oldest first. */
export async function attemptsAfter(node: RunningNode, after: bigint): Promise<AttemptRow[]> {
  const rows = await node.sql<
    {
      attempt: bigint;
      channelId: Uint8Array;
      txid: Uint8Array;
      state: string;
      toSign: boolean;
      complete: boolean;
      aborted: boolean;
    }[]
  >`SELECT a.attempt, c.channel_id AS "channelId", a.txid, c.state, a.complete_tx IS NOT NULL AS complete, a.aborted,
      a.remote_commitment_signature IS NOT NULL AND a.local_tx_signatures IS NULL AS "toSign"
    FROM funding_attempts a JOIN channels c USING (channel) WHERE a.attempt > ${after} ORDER BY a.attempt`;
  return rows.map((row) => ({
    ...row,
    channelId: bytesToHex(row.channelId),
    txid: bytesToHex(Uint8Array.from(row.txid).reverse()),
  }));
}

/** Our outputs that are reserved though no opening, no live attempt and no transaction of ours spends them. */
export async function leakedReservations(node: RunningNode): Promise<string[]> {
  const rows = await node.sql<{ txid: Uint8Array; vout: bigint; purpose: string }[]>`
    SELECT r.txid, r.vout, r.purpose FROM reservations r
    WHERE r.purpose = 'user' OR r.purpose = 'attempt' AND NOT EXISTS (
      SELECT 1 FROM funding_attempts a JOIN attempt_inputs i USING (attempt)
      WHERE a.channel = r.channel AND NOT a.aborted AND i.side = 'local' AND i.txid = r.txid AND i.vout = r.vout)`;
  return rows.map(({ txid, vout, purpose }) =>
    `${bytesToHex(Uint8Array.from(txid).reverse())}:${vout} (${purpose})`
  );
}

/** Openings that are under way. */
export async function openingsOf(node: RunningNode): Promise<number> {
  const [row] = await node.sql<{ openings: number }[]>`SELECT count(*)::int AS openings FROM openings`;
  return row?.openings ?? 0;
}

/** Numbers to compare with afterwards. */
export type Marks = ReadonlyMap<RunningNode, bigint>;

/** Takes marks of some nodes. */
export async function marksOf(...nodes: readonly RunningNode[]): Promise<Marks> {
  const marks = new Map<RunningNode, bigint>();
  for (const node of nodes) marks.set(node, await attemptsEver(node));
  return marks;
}

/** What became of it. */
export type Outcome =
  | { readonly type: "forgotten" }
  | { readonly type: "complete"; readonly channelId: string; readonly txid: string };

/**
 * Waits until both nodes agree on what became of the one attempt since `marks`, with nothing under way and nothing
 * reserved in vain, and compares it with what BOLT 2 demands: an attempt that both had stored when the connection broke
 * (so that each may have sent commitment_signed) is completed by channel_reestablish; any other is forgotten by both.
 */
export async function untilOutcome({ alice, bob }: World, marks: Marks): Promise<Outcome> {
  let seen = "";
  const looked = async (node: RunningNode) => ({
    openings: await openingsOf(node),
    attempts: await attemptsAfter(node, marks.get(node) ?? 0n),
    leaked: await leakedReservations(node),
  });
  const outcome = await until<Outcome>(
    () => `both sides agree; ${seen}`,
    async () => {
      const [a, b] = [await looked(alice), await looked(bob)];
      seen = `alice ${shown(a)}; bob ${shown(b)}`;
      if (a.openings + b.openings + a.leaked.length + b.leaked.length > 0) return undefined;
      const live = [a, b].map(({ attempts }) => attempts.filter(({ aborted }) => !aborted));
      const [ours, theirs] = [live[0]?.[0], live[1]?.[0]];
      if (ours === undefined && theirs === undefined) return { type: "forgotten" };
      if (ours === undefined || theirs === undefined || !ours.complete || !theirs.complete) return undefined;
      if (ours.state === DURING_OPEN || theirs.state === DURING_OPEN) return undefined;
      if (ours.txid !== theirs.txid || ours.channelId !== theirs.channelId) return undefined;
      return { type: "complete", channelId: ours.channelId, txid: ours.txid };
    },
  );
  const stored = [];
  for (const node of [alice, bob]) stored.push(await attemptsEver(node) - (marks.get(node) ?? 0n));
  const demanded = stored.every((count) => count > 0n) ? "complete" : "forgotten";
  if (stored.some((count) => count > 1n)) throw new Error(`attempts stored: ${stored.join(", ")}`);
  if (outcome.type !== demanded) {
    throw new Error(`${outcome.type}, but attempts stored by alice and bob: ${stored.join(", ")}; ${seen}`);
  }
  return outcome;
}

const DURING_OPEN = "DUALOPEND_OPEN_COMMITTED";

function shown(value: unknown): string {
  return JSON.stringify(value, (_, each) => typeof each === "bigint" ? String(each) : each);
}

/** Waits until a node's attempt since `marks` is secured and not signed yet, or needs no signature any more. */
export async function awaitsSignature(node: RunningNode, marks: Marks): Promise<boolean> {
  const answer = await until(`${node.name} knows what became of its attempt`, async () => {
    const [attempt] = await attemptsAfter(node, marks.get(node) ?? 0n);
    if (attempt === undefined) return await openingsOf(node) === 0 ? "no" : undefined;
    if (attempt.toSign && !attempt.aborted) return "yes";
    return attempt.complete || attempt.aborted ? "no" : undefined;
  });
  return answer === "yes";
}

/** Whether the node's channel with this id exists. */
export async function hasChannel(node: RunningNode, channelId: string): Promise<boolean> {
  const rows = await node.sql`SELECT 1 FROM channels WHERE channel_id = ${hexToBytes(channelId)}`;
  return rows.length > 0;
}
