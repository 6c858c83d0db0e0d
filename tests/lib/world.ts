/** Two nodes on a real chain and a real database, for tests that cross services. */
import { join } from "node:path";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { createNodeDatabase, migrateNode } from "tools/node/database.ts";
import { type Layout, RunningNode } from "tools/node/launch.ts";
import {
  findSecp256k1,
  type PostgresServer,
  type RegtestNode,
  startBitcoind,
  startPostgres,
} from "tools/parts/mod.ts";
import { quietProgress } from "tools/progress.ts";

/** Whether everything runs on separate processes, as `task test:full` does. */
export const FULL = Deno.env.get("ARCUS_TEST_FULL") === "1";

/** Options that make a node quick and willing; a test's own go above them. */
const TEST_OPTIONS: Readonly<Record<string, string>> = {
  "funding-confirms": "1",
  "rbf-blocks-apart": "0",
  // A table opens one channel after another.
  "max-opens-per-minute": "10000",
  "funder-policy": "match",
  "funder-policy-mod": "100",
  // bitcoind comes to have an estimate in the course of a table, and the opener would follow it in the midst of a row.
  "force-feerates": "1000",
  // Most closes of tests are closing_signed's; option_simple_close has a file of its own.
  "simple-close": "false",
};

/** How a world is made. */
export interface WorldOptions {
  /** Default: one process each; separate ones with ARCUS_TEST_FULL. */
  readonly layout?: Layout;
  /** Further options of both nodes, and of each. */
  readonly options?: Readonly<Record<string, string>>;
  readonly alice?: Readonly<Record<string, string>>;
  readonly bob?: Readonly<Record<string, string>>;
}

/** Two nodes, not connected yet, without coins. */
export interface World {
  readonly alice: RunningNode;
  readonly bob: RunningNode;
  readonly chain: RegtestNode;
  /** A folder of the world, removed with it. */
  readonly dir: string;
  /** A third node. */
  another(name: string, options?: Readonly<Record<string, string>>): Promise<RunningNode>;
}

/** The parts of a test file. */
export interface Worlds {
  readonly chain: RegtestNode;
  readonly postgres: PostgresServer;
  /** Runs a test in a world of its own. When it fails, the error has the last lines of both nodes' logs. */
  withWorld(work: (world: World) => Promise<void>, options?: WorldOptions): Promise<void>;
}

/** Call at the top of a test file: `const worlds = await useWorlds()`. Its parts end after the file's last test. */
export async function useWorlds(): Promise<Worlds> {
  const named = Deno.env.get("ARCUS_TEST_DATABASE_URL") ?? Deno.env.get("ARCUS_DATABASE_URL") ?? null;
  const [postgres, chain, library] = await Promise.all([
    startPostgres({ url: named }),
    startBitcoind(),
    findSecp256k1(quietProgress),
  ]);
  const template = new URL(await postgres.createDatabase()).pathname.slice(1);
  await migrateNode(postgres.urlFor(template));
  // A node that sees nothing but the genesis block thinks that bitcoind is still syncing.
  await chain.mine(1);
  Deno.test.afterAll(async () => {
    await chain.stop();
    await postgres.dropDatabase(template);
    await postgres.stop();
  });
  return {
    chain,
    postgres,
    withWorld: (work, options = {}) =>
      runInWorld({ chain, postgres, template, secp256k1: library?.library }, work, options),
  };
}

interface Parts {
  readonly chain: RegtestNode;
  readonly postgres: PostgresServer;
  readonly template: string;
  readonly secp256k1: string | undefined;
}

async function runInWorld(
  parts: Parts,
  work: (world: World) => Promise<void>,
  options: WorldOptions,
): Promise<void> {
  const layout = options.layout ?? (FULL ? "processes" : "one");
  const dir = await mkdtemp(join(tmpdir(), "arcus-"));
  const nodes: RunningNode[] = [];
  const begin = async (name: string, own?: Readonly<Record<string, string>>) => {
    const database = await createNodeDatabase(parts.postgres, parts.template);
    const node = new RunningNode({
      name,
      dir: join(dir, name),
      database,
      bitcoind: parts.chain,
      layout,
      options: { ...TEST_OPTIONS, ...options.options, ...own },
      secp256k1: parts.secp256k1,
      temporary: true,
    });
    nodes.push(node);
    await node.start();
    return node;
  };
  try {
    const [alice, bob] = await Promise.all([begin("alice", options.alice), begin("bob", options.bob)]);
    await work({
      alice,
      bob,
      chain: parts.chain,
      dir,
      another: begin,
    });
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n${logsOf(nodes)}`, { cause: error });
  } finally {
    for (const node of nodes) {
      await node.kill();
      await parts.postgres.dropDatabase(node.options.database.name);
    }
    await rm(dir, { recursive: true, force: true });
  }
}

/** The last lines of nodes' logs, for a failure's message. */
export function logsOf(nodes: readonly RunningNode[]): string {
  return nodes.map((node) => `--- ${node.name}\n${node.logs.tail()}`).join("\n");
}
