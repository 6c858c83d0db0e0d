/** Closing channels of a world, and what the chain must have then. */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { type CloseResponse, CloseResponse_CloseType as CloseType } from "gen/cln/node_pb.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { channelOf, spendable, until, untilSynced } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { untilInMempool } from "./channels.ts";
import type { World } from "./world.ts";

/** A close may wait for a connection that is made anew, more than once. */
export const CLOSE_DEADLINE_MS = 60_000;
/** Seconds of `unilateraltimeout` that no test waits for. */
const LONG_S = 3_600;

/** Closes a channel, by one of its nodes. */
export async function close(
  node: RunningNode,
  channelId: string,
  more: { readonly timeout?: number; readonly destination?: string } = {},
): Promise<CloseResponse> {
  return await node.rpc.close({
    id: channelId,
    unilateraltimeout: more.timeout ?? LONG_S,
    ...(more.destination === undefined ? {} : { destination: more.destination }),
  }, { deadlineMs: CLOSE_DEADLINE_MS });
}

/** The one transaction of a close, as it is shown. */
export function txidOf(closed: CloseResponse): string {
  const [txid] = closed.txids;
  assert(txid !== undefined, "the close has a transaction");
  return bytesToHex(txid);
}

/** Waits until a node has the channel in a state; "gone" once only listclosedchannels has it. */
export async function untilClosing(
  node: RunningNode,
  channelId: string,
  ...states: readonly ChannelState[]
): Promise<ChannelState> {
  return await until(
    `${node.name} has ${channelId} in ${states.map((s) => ChannelState[s]).join(" or ")}`,
    async () => {
      const channel = await channelOf(node, channelId);
      return channel !== undefined && states.includes(channel.state) && channel;
    },
    CLOSE_DEADLINE_MS,
  ).then(({ state }) => state);
}

/** A transaction of the mempool or of a block. */
interface ChainTx {
  readonly txid: string;
  readonly version: number;
  readonly locktime: number;
  readonly vin: readonly { readonly txid: string; readonly sequence: number }[];
  readonly vout: readonly { readonly value: number }[];
}

/** The transaction, as bitcoind decodes it. */
export async function decoded({ chain }: World, tx: Uint8Array): Promise<ChainTx> {
  return await chain.rpc<ChainTx>("decoderawtransaction", [bytesToHex(tx)]);
}

/**
 * Both have the same close, bitcoind has it, a block takes it, and both wallets get their money. Gives what the fee was. `before`:
 * what both wallets could spend before the close.
 */
export async function assertClosedByBoth(
  world: World,
  channelId: string,
  capacitySat: bigint,
  before: readonly bigint[],
): Promise<bigint> {
  const { alice, bob, chain } = world;
  const txids = await Promise.all([alice, bob].map((node) => storedClose(node, channelId)));
  assert.equal(txids[0], txids[1], "both store the same close");
  const txid = txids[0]!;
  await untilInMempool(world, txid);
  await chain.mine(1);
  await untilSynced(chain, alice, bob);
  for (const node of [alice, bob]) await untilClosing(node, channelId, ChannelState.Onchain);
  const after = await Promise.all([alice, bob].map(spendable));
  const gained = after.map((sat, i) => sat - before[i]!);
  return capacitySat - gained.reduce((sum, sat) => sum + sat, 0n);
}

/** The newest close that a node has stored; waits for it. */
export async function storedClose(node: RunningNode, channelId: string): Promise<string> {
  await untilClosing(node, channelId, ChannelState.ClosingdComplete, ChannelState.Onchain);
  const [row] = await node.sql<{ txid: Uint8Array }[]>`
    SELECT t.txid FROM closing_txs t JOIN channels c USING (channel)
    WHERE c.channel_id = ${Uint8Array.fromHex(channelId)} ORDER BY t.created_at DESC LIMIT 1`;
  assert(row !== undefined, `${node.name} has a close`);
  return Uint8Array.from(row.txid).reverse().toHex();
}

export { CloseType };
