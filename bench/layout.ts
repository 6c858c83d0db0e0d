/** Two nodes with one channel for a load, and what their processes use. */
import { join } from "node:path";
import { hexToBytes } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { connect, fundWallets, openChannel, until, untilState, untilSynced } from "tools/node/commands.ts";
import { createNodeDatabase } from "tools/node/database.ts";
import { type Layout, RunningNode } from "tools/node/launch.ts";
import type { PostgresServer, RegtestNode } from "tools/parts/mod.ts";
import { type Usage, usageOf, usageOfTree } from "./usage.ts";

/** What alice and bob put into the channel, sat: no load drains it. */
const FUNDING_SAT = 500_000_000n;
const FEERATE_PERKW = 1_000;
/** BOLT 2's most. */
const HTLC_SLOTS = "483";

/** What a layout stands on. */
export interface BenchParts {
  readonly chain: RegtestNode;
  readonly postgres: PostgresServer;
  readonly secp256k1: string | undefined;
  readonly dir: string;
}

/** Two nodes with a channel that both funded. */
export interface Pair {
  readonly alice: RunningNode;
  readonly bob: RunningNode;
  readonly channelId: string;
  /** By process name. */
  usage(): Map<string, Usage>;
  /** Statements that both databases committed, and Lightning messages that alice sent or received. */
  counts(): Promise<{ readonly statements: number; readonly messages: number }>;
  stop(): Promise<void>;
}

/** Starts both, opens the channel and waits until it is usable. */
export async function startPair(parts: BenchParts, layout: Layout): Promise<Pair> {
  const nodes: RunningNode[] = [];
  const begin = async (name: string) => {
    const node = new RunningNode({
      name,
      dir: join(parts.dir, `${name}-${layout}`),
      database: await createNodeDatabase(parts.postgres),
      bitcoind: parts.chain,
      layout,
      options: {
        "funding-confirms": "1",
        "funder-policy": "match",
        "funder-policy-mod": "100",
        "max-concurrent-htlcs": HTLC_SLOTS,
      },
      secp256k1: parts.secp256k1,
      temporary: true,
    });
    nodes.push(node);
    await node.start();
    return node;
  };
  const stop = async () => {
    for (const node of nodes) {
      await node.kill();
      await parts.postgres.dropDatabase(node.options.database.name);
    }
  };
  try {
    const [alice, bob] = await Promise.all([begin("alice"), begin("bob")]);
    await fundWallets(
      parts.chain,
      [alice, bob].map((node) => ({ node, sat: FUNDING_SAT + FUNDING_SAT / 10n })),
    );
    await untilSynced(parts.chain, alice, bob);
    await connect(alice, bob);
    const { channelId, txid } = await openChannel(alice, bob, { sat: FUNDING_SAT, perkw: FEERATE_PERKW });
    await until(
      "the funding transaction is in the mempool",
      async () => (await parts.chain.rpc<string[]>("getrawmempool")).includes(txid),
    );
    await parts.chain.mine(1);
    for (const node of nodes) await untilState(node, channelId, ChannelState.ChanneldNormal);
    return {
      alice,
      bob,
      channelId,
      usage: () => usageOfAll(parts, nodes),
      counts: () => countsOf(alice, bob, channelId),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function usageOfAll({ postgres, chain }: BenchParts, nodes: readonly RunningNode[]): Map<string, Usage> {
  const all = new Map<string, Usage>();
  const add = (name: string, usage: Usage | undefined) => usage !== undefined && all.set(name, usage);
  for (const node of nodes) {
    for (const process of node.processes) {
      if (process.pid !== undefined) add(`${node.name} ${process.plan.name}`, usageOf(process.pid));
    }
  }
  if (postgres.pid !== undefined) add("postgres", usageOfTree(postgres.pid));
  if (chain.pid !== undefined) add("bitcoind", usageOf(chain.pid));
  add("load", usageOf(Deno.pid));
  return all;
}

async function countsOf(alice: RunningNode, bob: RunningNode, channelId: string) {
  let statements = 0;
  for (const { sql } of [alice, bob]) {
    // Every statement of the daemons is a transaction of its own.
    await sql`SELECT pg_stat_clear_snapshot()`;
    const [row] = await sql<{ xact_commit: bigint }[]>`
      SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()`;
    statements += Number(row?.xact_commit ?? 0n);
  }
  const [place] = await alice.sql<{ in_seq: bigint; out_seq: bigint }[]>`
    SELECT in_seq, out_seq FROM channels WHERE channel_id = ${hexToBytes(channelId)}`;
  return { statements, messages: Number((place?.in_seq ?? 0n) + (place?.out_seq ?? 0n)) };
}
