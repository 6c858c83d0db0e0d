/** What a node's database has, for tests that say what may be left. */
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import type { RunningNode } from "tools/node/launch.ts";

/** How many rows of what an open writes. */
export interface OpenRows {
  readonly channels: number;
  readonly attempts: number;
  readonly openings: number;
  /** Reserved outputs of ours. */
  readonly reservations: number;
}

/** Nothing at all. */
export const NO_ROWS: OpenRows = { channels: 0, attempts: 0, openings: 0, reservations: 0 };

/** Counts the rows of all opens and channels. */
export async function openRows(node: RunningNode): Promise<OpenRows> {
  const [row] = await node.sql<OpenRows[]>`
    SELECT (SELECT count(*)::int FROM channels) AS channels,
           (SELECT count(*)::int FROM funding_attempts) AS attempts,
           (SELECT count(*)::int FROM openings) AS openings,
           (SELECT count(*)::int FROM reservations) AS reservations`;
  if (row === undefined) throw new Error("no answer");
  return { ...row };
}

/** A channel's row and its attempts. */
export interface ChannelRows {
  readonly state: string;
  readonly epoch: bigint;
  readonly locked: string | null;
  readonly errorText: string | null;
  readonly attempts: readonly {
    readonly txid: string;
    readonly complete: boolean;
    readonly localSigned: boolean;
    readonly aborted: boolean;
  }[];
}

/** Reads a channel by its id; undefined when there is none. */
export async function channelRows(node: RunningNode, channelId: string): Promise<ChannelRows | undefined> {
  const [channel] = await node.sql<
    { channel: bigint; state: string; epoch: bigint; locked: Uint8Array | null; errorText: string | null }[]
  >`SELECT channel, state, owner_epoch AS epoch, error_text AS "errorText",
      (SELECT txid FROM funding_attempts WHERE attempt = locked_attempt) AS locked
    FROM channels WHERE channel_id = ${hexToBytes(channelId)}`;
  if (channel === undefined) return undefined;
  const attempts = await node.sql<
    { txid: Uint8Array; complete: boolean; localSigned: boolean; aborted: boolean }[]
  >`SELECT txid, complete_tx IS NOT NULL AS complete, local_tx_signatures IS NOT NULL AS "localSigned", aborted
    FROM funding_attempts WHERE channel = ${channel.channel} ORDER BY seq`;
  return {
    state: channel.state,
    epoch: channel.epoch,
    locked: channel.locked === null ? null : shown(channel.locked),
    errorText: channel.errorText,
    attempts: attempts.map((each) => ({ ...each, txid: shown(each.txid) })),
  };
}

/** A txid as it is shown. */
function shown(txid: Uint8Array): string {
  return bytesToHex(Uint8Array.from(txid).reverse());
}

/** The generation of the live connection with a peer; undefined while there is none. */
export async function generationOf(node: RunningNode, peer: RunningNode): Promise<bigint | undefined> {
  const [row] = await node.sql<{ generation: bigint }[]>`
    SELECT generation FROM connections WHERE peer_id = ${hexToBytes(peer.id)} AND disconnected_at IS NULL`;
  return row?.generation;
}
