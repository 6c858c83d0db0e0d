/** Leadership and the node row, on a real Postgres and a stand-in hsmd. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { randomBytes } from "node:crypto";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { client, dial } from "common/grpc/client.ts";
import { failedPrecondition } from "common/grpc/errors.ts";
import { createServer, implement } from "common/grpc/server.ts";
import { createLogger } from "common/log.ts";
import { openDatabase, type Sql } from "common/pg/client.ts";
import { migrate } from "common/pg/migrate.ts";
import { usePostgres } from "common/testing/database.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { fence, LeadershipLostError, requireLeadership, takeLeadership, watchLeadership } from "./leader.ts";
import {
  followHsmd,
  type HsmdClient,
  openNode,
  requireTestNetwork,
  storeMark,
  WrongNodeError,
} from "./node.ts";

const SCHEMA = new URL("../../schema", import.meta.url).pathname;
const postgres = await usePostgres();
const log = createLogger({ sink: () => {} });

/** An hsmd whose answers a test changes. */
interface StandIn {
  nodeId: Uint8Array;
  memoryId: Uint8Array;
  highWater: bigint;
  bound: boolean;
  trusted: boolean;
  foreign: boolean;
  /** What it was bound with last. */
  expected: { memoryId: Uint8Array; highWater: bigint; databaseId: Uint8Array } | undefined;
}

function nodeTest(name: string, work: (sql: Sql, hsmd: HsmdClient, standIn: StandIn) => Promise<void>): void {
  Deno.test(name, async () => {
    await using folder = await tempFolder();
    await using fresh = await postgres.freshDatabase();
    const connection = { url: fresh.url, applicationName: "lightningd-test" };
    await migrate({ ...connection, directory: SCHEMA });
    const database = await openDatabase({ ...connection, max: 3 });
    const standIn: StandIn = {
      nodeId: new Uint8Array([2, ...randomBytes(32)]),
      memoryId: new Uint8Array(randomBytes(16)),
      highWater: 5n,
      bound: false,
      trusted: true,
      foreign: false,
      expected: undefined,
    };
    const info = () => ({ ...standIn, chainHash: chainHash("regtest"), instance: "hsmd" });
    const server = createServer({
      log,
      services: [implement(Hsmd, {
        getInfo: info,
        bindDatabase: ({ databaseId, expectedMemoryId, expectedHighWater }) => {
          if (standIn.foreign) throw failedPrecondition("FOREIGN_DATABASE", "another database");
          standIn.expected = { memoryId: expectedMemoryId, highWater: expectedHighWater, databaseId };
          standIn.bound = true;
          return { info: info() };
        },
      })],
    });
    const address = await server.listen(`unix:${join(folder.path, "hsmd")}`);
    const channel = dial(address);
    try {
      await work(database.sql, client(Hsmd, channel), standIn);
    } finally {
      channel.close();
      server.closeAfterClients();
      await database.close();
    }
  });
}

nodeTest("leadership: each taker has a higher epoch, and the one before is told", async (sql) => {
  const first = await takeLeadership(sql, "first");
  await requireLeadership(sql, first);
  const lost = Promise.withResolvers<unknown>();
  const stop = watchLeadership(sql, first, lost.resolve);
  const second = await takeLeadership(sql, "second");
  assert.equal(second.epoch, first.epoch + 1n);
  await requireLeadership(sql, second);
  await assert.rejects(requireLeadership(sql, first), LeadershipLostError);
  const error = await waitFor(lost.promise, { what: "the news" });
  assert.ok(error instanceof LeadershipLostError);
  stop();
});

nodeTest(
  "a fenced statement under way holds the next leader off; one after it changes nothing",
  async (sql) => {
    const first = await takeLeadership(sql, "first");
    await sql`CREATE TABLE written (n integer)`;
    const slow = sql`
    WITH ${fence(sql, first)}, nap AS (SELECT pg_sleep(0.5) FROM fence)
    INSERT INTO written SELECT 1 FROM nap`.execute();
    await waitFor(
      async () =>
        (await sql`SELECT FROM pg_stat_activity WHERE query LIKE '%nap AS%' AND pid <> pg_backend_pid()
        AND state = 'active'`)
          .length > 0,
      { what: "the slow statement" },
    );
    const taking = takeLeadership(sql, "second").then(async (leader) => {
      assert.equal((await sql`SELECT FROM written`).length, 1, "the slow statement was committed before");
      return leader;
    });
    await slow;
    await taking;
    await sql`WITH ${fence(sql, first)} INSERT INTO written SELECT 2 FROM fence`;
    assert.equal((await sql`SELECT FROM written`).length, 1);
  },
);

nodeTest(
  "the node row is written once; hsmd is bound with what the database remembers",
  async (sql, hsmd, standIn) => {
    const leader = await takeLeadership(sql, "first");
    const node = await openNode(sql, leader, hsmd, "regtest", log);
    assert.deepEqual(node.nodeId, standIn.nodeId);
    assert.deepEqual(standIn.expected?.memoryId, standIn.memoryId);
    assert.equal(standIn.expected?.highWater, 0n);
    standIn.highWater = 9n;
    const again = await openNode(sql, await takeLeadership(sql, "second"), hsmd, "regtest", log);
    assert.deepEqual(again.databaseId, node.databaseId);
    assert.deepEqual(standIn.expected?.databaseId, node.databaseId);
    assert.equal(standIn.expected?.highWater, 5n, "the mark of the first start");
    const [mark] = await sql<{ high_water: bigint }[]>`SELECT high_water FROM hsmd_mark`;
    assert.equal(mark?.high_water, 9n);
  },
);

nodeTest("the mark only rises", async (sql) => {
  const leader = await takeLeadership(sql, "first");
  for (const highWater of [5n, 9n, 7n]) await storeMark(sql, leader, highWater);
  const [mark] = await sql<{ high_water: bigint }[]>`SELECT high_water FROM hsmd_mark`;
  assert.equal(mark?.high_water, 9n);
});

nodeTest("another seed, another chain, another database: each is refused", async (sql, hsmd, standIn) => {
  const leader = await takeLeadership(sql, "first");
  await openNode(sql, leader, hsmd, "regtest", log);
  await assert.rejects(openNode(sql, leader, hsmd, "signet", log), WrongNodeError);
  const { nodeId } = standIn;
  standIn.nodeId = new Uint8Array([3, ...randomBytes(32)]);
  await assert.rejects(openNode(sql, leader, hsmd, "regtest", log), WrongNodeError);
  standIn.nodeId = nodeId;
  standIn.foreign = true;
  await assert.rejects(openNode(sql, leader, hsmd, "regtest", log), WrongNodeError);
  standIn.foreign = false;
  await openNode(sql, leader, hsmd, "regtest", log);
});

nodeTest(
  "a lost memory is named to hsmd, and taken only once a person accepted it",
  async (sql, hsmd, standIn) => {
    const leader = await takeLeadership(sql, "first");
    await openNode(sql, leader, hsmd, "regtest", log);
    const stored = async () =>
      new Uint8Array(
        (await sql<{ hsmd_memory_id: Uint8Array }[]>`SELECT hsmd_memory_id FROM node`)[0]!.hsmd_memory_id,
      );
    const old = standIn.memoryId;
    standIn.memoryId = new Uint8Array(randomBytes(16));
    standIn.trusted = false;
    await openNode(sql, leader, hsmd, "regtest", log);
    assert.deepEqual(standIn.expected?.memoryId, old);
    assert.deepEqual(await stored(), old);
    standIn.trusted = true;
    await openNode(sql, leader, hsmd, "regtest", log);
    assert.deepEqual(await stored(), standIn.memoryId);
  },
);

nodeTest("a restarted hsmd is bound again", async (sql, hsmd, standIn) => {
  const leader = await takeLeadership(sql, "first");
  const node = await openNode(sql, leader, hsmd, "regtest", log);
  const bound = Promise.withResolvers<void>();
  const stop = followHsmd({ sql, leader, hsmd, node, log, onBound: bound.resolve, onFatal: bound.reject });
  standIn.bound = false;
  standIn.highWater = 20n;
  await waitFor(bound.promise, { what: "the binding" });
  stop();
  assert.equal(standIn.expected?.highWater, 5n);
});

Deno.test("mainnet is refused, and the reason said", () => {
  assert.throws(() => requireTestNetwork("bitcoin"), /mainnet is refused.*on chain/);
  requireTestNetwork("regtest");
});
