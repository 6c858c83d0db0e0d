/** lightningd's statements about peers on a real Postgres, as its own role has them. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { openDatabase, type Sql } from "common/pg/client.ts";
import { migrate } from "common/pg/migrate.ts";
import { usePostgres } from "common/testing/database.ts";
import { LeadershipLostError, takeLeadership } from "../leader.ts";
import { MAX_ADDRESSES, PeerStore } from "./store.ts";
import { confirmAttempt, peerKey, saveAttempt, saveChannel } from "./testing.ts";

const SCHEMA = new URL("../../../schema", import.meta.url).pathname;
const postgres = await usePostgres();

function storeTest(name: string, work: (store: PeerStore, sql: Sql) => Promise<void>): void {
  Deno.test(name, async () => {
    await using fresh = await postgres.freshDatabase();
    await migrate({ url: fresh.url, applicationName: "migrate", directory: SCHEMA });
    const { roleUrlFor } = postgres.server;
    const url = await roleUrlFor.call(postgres.server, fresh.name, "arcus_lightningd");
    const [owner, own] = await Promise.all([
      openDatabase({ url: fresh.url, applicationName: "test", max: 2 }),
      openDatabase({ url, applicationName: "lightningd", max: 3 }),
    ]);
    try {
      await work(new PeerStore(own.sql, await takeLeadership(own.sql, "test")), owner.sql);
    } finally {
      await Promise.all([owner.close(), own.close()]);
    }
  });
}

let connection = 0n;
function accept(store: PeerStore, peerId: Uint8Array, number: bigint = ++connection) {
  return store.acceptConnection({
    peerId,
    instance: "connectd",
    connection: number,
    incoming: true,
    remoteAddr: "127.0.0.1:1",
    features: new Uint8Array([1]),
  });
}

function open(
  store: PeerStore,
  peerId: Uint8Array,
  generation: bigint,
  more: { id?: Uint8Array; max?: number } = {},
) {
  return store.insertOpening({
    peerId,
    generation,
    initiator: "remote",
    temporaryChannelId: more.id ?? new Uint8Array(randomBytes(32)),
    channelKeyId: new Uint8Array(randomBytes(32)),
    paymentKeyIndex: 1,
    maxOfPeer: more.max ?? 3,
    maxInAll: 100,
  });
}

storeTest(
  "the same connection told twice has one generation; a new one ends the old one's opens",
  async (store) => {
    const peer = peerKey();
    const number = ++connection;
    const first = await accept(store, peer, number);
    assert.equal((await accept(store, peer, number)).generation, first.generation);
    const opening = await open(store, peer, first.generation);
    const second = await accept(store, peer);
    assert.ok(second.generation > first.generation);
    assert.deepEqual(second.dropped.map((row) => row.opening), [opening?.opening]);
    assert.equal((await store.liveConnections()).length, 1);
  },
);

storeTest("an open needs a live connection, a free id and a place", async (store, sql) => {
  const peer = peerKey();
  const { generation } = await accept(store, peer);
  const id = new Uint8Array(randomBytes(32));
  assert.ok(await open(store, peer, generation, { id }));
  assert.equal(await open(store, peer, generation, { id }), undefined, "an open's id");
  const channel = await saveChannel(sql, peerKey());
  assert.equal(await open(store, peer, generation, { id: channel.channelId }), undefined, "a channel's id");
  assert.equal(await open(store, peer, generation, { max: 1 }), undefined, "the peer's limit");
  await saveChannel(sql, peer);
  assert.equal(
    await open(store, peer, generation, { max: 2 }),
    undefined,
    "a channel that is not locked counts",
  );
  assert.ok(await open(store, peer, generation, { max: 3 }));
  await store.closeConnection(generation);
  assert.equal((await store.openings(peer)).length, 0);
  assert.equal(await open(store, peer, generation), undefined, "the connection is gone");
});

storeTest("an owner's epoch rises above the row's, hsmd's and what was seen, once", async (store, sql) => {
  const channel = await saveChannel(sql, peerKey(), { epoch: 4n });
  assert.equal(await store.takeChannel(channel.channel, 3n, 0n, "late", "dualopend"), undefined);
  assert.equal((await store.takeChannel(channel.channel, 4n, 0n, "a", "dualopend"))?.epoch, 5n);
  assert.equal((await store.takeChannel(channel.channel, 5n, 20n, "b", "dualopend"))?.epoch, 21n);
  const both = await Promise.all(
    ["c", "d"].map((to) => store.takeChannel(channel.channel, 21n, 0n, to, "dualopend")),
  );
  assert.equal(both.filter((taken) => taken !== undefined).length, 1);
});

storeTest("opens of one peer never share their first epoch", async (store) => {
  const peer = peerKey();
  const { generation } = await accept(store, peer);
  const epochs = new Set<bigint | undefined>();
  for (let i = 0; i < 3; i++) {
    const row = await open(store, peer, generation);
    epochs.add(await store.takeOpening(row!.opening, row!.owner_epoch, 0n, "dualopend"));
  }
  assert.equal(epochs.size, 3);
});

storeTest("one replacement a channel, by its owner, while it can be replaced", async (store, sql) => {
  const peer = peerKey();
  const { generation } = await accept(store, peer);
  const channel = await saveChannel(sql, peer, { epoch: 2n });
  const rbf = { channel: channel.channel, epoch: 2n, generation, initiator: "remote" } as const;
  assert.equal(await store.insertRbf({ ...rbf, epoch: 1n }), undefined, "an older owner");
  assert.equal(
    await store.insertRbf({ ...rbf, generation: generation + 1n }),
    undefined,
    "another connection",
  );
  const row = await store.insertRbf(rbf);
  assert.equal(row?.channel, channel.channel);
  assert.equal(await store.insertRbf(rbf), undefined, "one is open");
  assert.equal(await store.rbfOpen(channel.channel), true);
  await store.dropOpening(row!.opening);
  await sql`UPDATE channels SET channel_ready_received = true, remote_next_point = ${peerKey()}`;
  assert.equal(await store.insertRbf(rbf), undefined, "channel_ready came");
});

storeTest("a new owner ends the replacement of the former one, with what it reserved", async (store, sql) => {
  const peer = peerKey();
  const { generation } = await accept(store, peer);
  const channel = await saveChannel(sql, peer, { epoch: 2n });
  const row = await store.insertRbf({ channel: channel.channel, epoch: 2n, generation, initiator: "local" });
  await sql`INSERT INTO reservations (txid, vout, purpose, opening)
    VALUES (${randomBytes(32)}, 0, 'opening', ${row!.opening})`;
  await store.takeChannel(channel.channel, 2n, 0n, "another", "dualopend");
  assert.equal(await store.rbfOpen(channel.channel), false);
  assert.equal((await sql`SELECT FROM reservations`).length, 0);
});

storeTest("failing a channel fences its owner off, once", async (store, sql) => {
  const channel = await saveChannel(sql, peerKey(), { epoch: 2n });
  assert.equal(await store.failChannel(channel.channel, "first"), true);
  assert.equal(await store.failChannel(channel.channel, "second"), false);
  const [row] = await sql<
    { error_text: string; owner_epoch: bigint }[]
  >`SELECT error_text, owner_epoch FROM channels`;
  assert.deepEqual({ ...row }, { error_text: "first", owner_epoch: 3n });
});

storeTest("progress keeps a negotiation alive, under its epoch only", async (store, sql) => {
  const peer = peerKey();
  const { generation } = await accept(store, peer);
  const row = await open(store, peer, generation);
  await sql`UPDATE openings SET progress_at = now() - interval '1 minute'`;
  assert.equal((await store.stalled(30_000)).length, 1);
  assert.equal(await store.progress(row!.opening, 99n), false);
  assert.equal((await store.stalled(30_000)).length, 1);
  assert.equal(await store.progress(row!.opening, row!.owner_epoch), true);
  assert.equal((await store.stalled(30_000)).length, 0);
});

storeTest("attempts come with what the chain says; a sibling of the lock is found", async (store, sql) => {
  const channel = await saveChannel(sql, peerKey(), { state: "CHANNELD_NORMAL" });
  const sibling = await saveAttempt(sql, channel.channel, 1);
  await confirmAttempt(sql, channel.attempt);
  assert.equal((await store.lockedElsewhere()).length, 0);
  const attempts = await store.attempts([channel.channel]);
  assert.deepEqual(attempts.map((a) => [a.seq, a.confirmed_height]), [[0, 200], [1, null]]);
  await sql`DELETE FROM attempt_confirmations`;
  await confirmAttempt(sql, sibling);
  assert.deepEqual((await store.lockedElsewhere()).map((row) => row.channel), [channel.channel]);
});

storeTest("a forgotten channel takes everything with it", async (store, sql) => {
  const channel = await saveChannel(sql, peerKey(), { state: "CHANNELD_NORMAL" });
  await sql`INSERT INTO reservations (txid, vout, purpose, channel)
    VALUES (${randomBytes(32)}, 0, 'attempt', ${channel.channel})`;
  assert.equal(await store.forgetChannel(channel.channel), true);
  for (const table of ["channels", "funding_attempts", "reservations"]) {
    assert.equal((await sql`SELECT FROM ${sql(table)}`).length, 0, table);
  }
});

storeTest("the latest addresses of a peer are kept", async (store) => {
  const peer = peerKey();
  for (let i = 0; i < MAX_ADDRESSES + 3; i++) await store.rememberAddress(peer, `127.0.0.1:${i + 1}`);
  const addresses = await store.addresses(peer);
  assert.equal(addresses[0], `127.0.0.1:${MAX_ADDRESSES + 3}`);
  assert.ok(addresses.length <= MAX_ADDRESSES);
});

storeTest("nothing is written under a lost leadership", async (store, sql) => {
  const peer = peerKey();
  const { generation } = await accept(store, peer);
  const opening = await open(store, peer, generation);
  const channel = await saveChannel(sql, peer, { epoch: 2n });
  await sql`UPDATE leader SET epoch = epoch + 1`;
  const writes: [string, () => Promise<unknown>][] = [
    ["acceptConnection", () => accept(store, peerKey())],
    ["insertOpening", () => open(store, peer, generation)],
    [
      "insertRbf",
      () => store.insertRbf({ channel: channel.channel, epoch: 2n, generation, initiator: "local" }),
    ],
    ["dropOpening", () => store.dropOpening(opening!.opening)],
    ["progress", () => store.progress(opening!.opening, opening!.owner_epoch)],
    ["takeChannel", () => store.takeChannel(channel.channel, 2n, 0n, "x", "dualopend")],
    ["takeOpening", () => store.takeOpening(opening!.opening, opening!.owner_epoch, 0n, "x")],
    ["failChannel", () => store.failChannel(channel.channel, "x")],
    ["forgetChannel", () => store.forgetChannel(channel.channel)],
  ];
  for (const [name, write] of writes) await assert.rejects(write(), LeadershipLostError, name);
  await store.closeConnection(generation);
  await store.rememberAddress(peer, "127.0.0.1:1");
  assert.deepEqual(await store.forgetDoubleSpent(1_000, 100), []);
  assert.equal((await store.liveConnections()).length, 1);
  assert.equal((await store.openings()).length, 1);
  assert.deepEqual(await store.addresses(peer), []);
  assert.equal((await store.channels({ peerId: peer }))[0]?.owner_epoch, 2n);
});
