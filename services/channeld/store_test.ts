import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { ChannelStore, Htlc } from "bolt/channel/types.ts";
import { codeOf, type Database, openDatabase, type Sql } from "common/pg/client.ts";
import { usePostgres } from "common/testing/database.ts";
import { SupersededError } from "subd/fence.ts";
import { RowError } from "subd/rows.ts";
import { createNodeDatabase } from "tools/node/database.ts";
import { decodeCommitments } from "./commitments.ts";
import {
  explainStep,
  forgetOnionKeys,
  loadChannel,
  type LoadedChannel,
  loadMissed,
  loadOnionKeys,
  loadPastOffers,
  type OnionKey,
  saveStep,
  STEP_SETTINGS,
  type StepWritten,
} from "./store.ts";
import { EPOCH, htlcOf, insertChannel, PARAMS, REMOTE_NEXT_POINT, storeOf } from "./testing/rows.ts";

const postgres = await usePostgres();
const UNIQUE_VIOLATION = "23505";

/** A database with one channel: as its owner for arranging, as channeld's role for what is tested. */
async function world() {
  const node = await createNodeDatabase(postgres.server);
  const owner: Database = await openDatabase({ url: node.url, applicationName: "test" });
  const role: Database = await openDatabase({
    url: node.roles.channeld,
    applicationName: "test",
    settings: STEP_SETTINGS,
  });
  const channel = await insertChannel(owner.sql);
  return {
    owner: owner.sql,
    sql: role.sql,
    channel,
    async [Symbol.asyncDispose]() {
      await role.close();
      await owner.close();
      await postgres.server.dropDatabase(node.name);
    },
  };
}

/** One owner's memory of its rows. */
class Memory {
  readonly rowKeys: Map<bigint, bigint>;
  #fence: LoadedChannel["fence"];

  constructor(private readonly sql: Sql, readonly loaded: LoadedChannel) {
    this.rowKeys = new Map(loaded.rowKeys);
    this.#fence = loaded.fence;
  }

  write(changes: Partial<ChannelStore>, onionKeys: readonly OnionKey[] = []) {
    const { place } = this.loaded;
    return { fence: this.#fence, place, store: storeOf(changes), onionKeys, rowKeys: this.rowKeys };
  }

  async save(changes: Partial<ChannelStore>, onionKeys: readonly OnionKey[] = []): Promise<StepWritten> {
    const written = await saveStep(this.sql, this.write(changes, onionKeys));
    this.#fence = written.fence;
    changes.added?.forEach((htlc, i) => this.rowKeys.set(htlc.key, written.added[i]!));
    return written;
  }
}

async function memory(sql: Sql, channel: bigint): Promise<Memory> {
  return new Memory(sql, await loadChannel(sql, channel, EPOCH));
}

async function rowsOf(sql: Sql) {
  const [row] = await sql<
    { htlcs: bigint; onions: bigint; history: bigint; keys: bigint; version: bigint }[]
  >`
    SELECT (SELECT count(*) FROM htlcs) AS htlcs, (SELECT count(*) FROM htlc_onions) AS onions,
      (SELECT count(*) FROM htlc_history) AS history, (SELECT count(*) FROM htlc_onion_keys) AS keys,
      (SELECT version FROM channels) AS version`;
  return row!;
}

Deno.test("a channel as the lock-in left it: both versions of its commitments read the same", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const { channel, onChain, htlcs, decisions } = owner.loaded;
  assert.deepEqual([onChain, htlcs.length, decisions], [{ type: "confirmed" }, 0, { closing: null }]);
  const [active] = channel.commitments.active;
  assert.equal(active?.local.toLocal, 120_000_000n);
  assert.equal(active?.remote.toRemote, 60_000_000n);
  assert.deepEqual(active?.reserves, { local: 1800n, remote: 1801n });
  assert.deepEqual(active?.remote.perCommitmentPoint, PARAMS.remote.firstPerCommitmentPoint);
  assert.deepEqual(channel.commitments.localNextPoint, PARAMS.local.secondPerCommitmentPoint);
  assert.deepEqual(channel.commitments.remoteNextPoint, REMOTE_NEXT_POINT);
  await owner.save({ commitments: channel.commitments });
  const again = await memory(db.sql, db.channel);
  assert.deepEqual(again.loaded.channel.commitments, channel.commitments);
});

Deno.test("commitments with everything in them come back as they were", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const { commitments } = owner.loaded.channel;
  const [active] = commitments.active;
  const full = {
    ...commitments,
    active: [{
      ...active!,
      pendingLocal: {
        ...active!.local,
        number: 1n,
        htlcs: [0n, 1n],
        htlcSignatures: new Uint8Array(128).fill(3),
      },
      nextRemote: { ...active!.remote, number: 1n, htlcs: [5n] },
    }],
    localNextHtlcId: 7n,
    remoteNextHtlcId: 8n,
    revokedLast: true,
    fees: [{ feerate: PARAMS.commitmentFeerate, state: "SENT_ADD_COMMIT" as const }],
    shachain: {
      slots: commitments.shachain.slots.map((_, i) =>
        i === 0 ? { index: (1n << 48n) - 1n, secret: new Uint8Array(32).fill(9) } : null
      ),
    },
  };
  await owner.save({ commitments: full });
  assert.deepEqual((await memory(db.sql, db.channel)).loaded.channel.commitments, full);
});

Deno.test("a newer version of the commitments is refused", () => {
  const newer = Uint8Array.of(0x08, 0x03);
  const rows = {
    params: PARAMS,
    remoteNextPoint: REMOTE_NEXT_POINT,
    attempt: 1n,
    reserves: {
      local: PARAMS.local.dustLimit,
      remote: PARAMS.remote.dustLimit,
    },
  };
  assert.throws(() => decodeCommitments(newer, rows), RowError);
});

Deno.test("an HTLC's life: added, changed, moved to history with its end, in one statement each", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const ours = htlcOf(true, 0n, "SENT_ADD_COMMIT");
  const theirs = htlcOf(false, 0n, "RCVD_ADD_COMMIT", { onion: new Uint8Array(1366).fill(77) });
  const { added, fence } = await owner.save({ added: [ours, theirs] });
  assert.equal(fence.version, owner.loaded.fence.version + 1n);
  assert.equal(new Set(added).size, 2);

  const loaded = await memory(db.sql, db.channel);
  assert.deepEqual(loaded.loaded.htlcs, [ours, theirs]);
  assert.deepEqual([...loaded.rowKeys], [[ours.key, added[0]], [theirs.key, added[1]]]);
  assert.equal(loaded.loaded.highestOrigin, 1n);

  const preimage = new Uint8Array(32).fill(4);
  const attribution = new Uint8Array(920).fill(6);
  const fulfilled: Htlc = {
    ...ours,
    state: "RCVD_REMOVE_COMMIT",
    removal: { type: "fulfill", preimage, attribution },
  };
  const refused: Htlc = {
    ...theirs,
    state: "SENT_REMOVE_COMMIT",
    removal: { type: "malformed", code: 0xc005, sha256OfOnion: new Uint8Array(32).fill(8) },
  };
  await owner.save({ changed: [fulfilled, refused] });
  const after = await memory(db.sql, db.channel);
  // Onions that nobody needs any more are not loaded.
  assert.deepEqual(after.loaded.htlcs, [{ ...fulfilled, onion: null }, { ...refused, onion: null }]);

  await owner.save({ removed: [{ ...fulfilled, state: "SENT_REMOVE_ACK_COMMIT" }, refused] });
  const { htlcs, onions, history } = await rowsOf(db.owner);
  assert.deepEqual([htlcs, onions, history], [0n, 0n, 2n]);
  const past = await loadPastOffers(db.sql, [1n, 2n]);
  assert.deepEqual(past, [{ origin: 1n, id: 0n, removal: { type: "fulfill", preimage, attribution } }]);
  assert.equal((await memory(db.sql, db.channel)).loaded.highestOrigin, 1n);
});

Deno.test("a fence that is lost writes nothing at all", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const ours = htlcOf(true, 0n, "SENT_ADD_COMMIT");
  const theirs = htlcOf(false, 0n, "RCVD_ADD_ACK_REVOCATION");
  await owner.save({ added: [ours, theirs] });
  const before = await rowsOf(db.owner);
  await db.owner`UPDATE channels SET owner_epoch = owner_epoch + 1`;
  const key = { key: new Uint8Array(32).fill(1), htlc: owner.rowKeys.get(theirs.key)!, cltvExpiry: 500 };
  await assert.rejects(
    owner.save({
      added: [htlcOf(true, 1n, "SENT_ADD_COMMIT")],
      changed: [{ ...theirs, state: "SENT_REMOVE_COMMIT" }],
      removed: [ours],
      errorText: "never",
    }, [key]),
    SupersededError,
  );
  assert.deepEqual(await rowsOf(db.owner), before);
  const [row] = await db.owner<{ state: string; error_text: string | null }[]>`
    SELECT h.state, c.error_text FROM htlcs h JOIN channels c USING (channel) WHERE NOT h.offered`;
  assert.deepEqual({ ...row }, { state: "RCVD_ADD_ACK_REVOCATION", error_text: null });
});

Deno.test("one origin is one HTLC: the same offer again is refused by the rows, whole step and all", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  await owner.save({ added: [htlcOf(true, 0n, "SENT_ADD_COMMIT")] });
  const twice = htlcOf(true, 1n, "SENT_ADD_COMMIT", { origin: 1n });
  await assert.rejects(owner.save({ added: [twice] }), (error) => codeOf(error) === UNIQUE_VIOLATION);
  assert.equal((await rowsOf(db.owner)).htlcs, 1n);
});

Deno.test("an onion is new once: again in the same step, in a later one, and until its blocks are past", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const htlcs = [0n, 1n, 2n].map((id) => htlcOf(false, id, "RCVD_ADD_ACK_REVOCATION"));
  const { added } = await owner.save({ added: htlcs });
  const key = new Uint8Array(32).fill(1);
  const onion = (i: number): OnionKey => ({ key, htlc: added[i]!, cltvExpiry: 500 });
  assert.deepEqual((await owner.save({}, [onion(0), onion(1)])).fresh, [added[0]]);
  assert.deepEqual((await owner.save({}, [onion(2)])).fresh, []);
  // A successor peels again what its predecessor had peeled: the same HTLC's onion is no replay.
  assert.deepEqual((await owner.save({}, [onion(0)])).fresh, [added[0]]);
  const owners = await loadOnionKeys(db.sql, [key, new Uint8Array(32)]);
  assert.deepEqual([...owners], [[bytesToHex(key), added[0]]]);
  await forgetOnionKeys(db.sql, 500);
  assert.equal((await rowsOf(db.owner)).keys, 1n);
  await forgetOnionKeys(db.sql, 501);
  assert.equal((await rowsOf(db.owner)).keys, 0n);
});

Deno.test("what ended while lightningd was away: its parts and decisions whose HTLCs are over", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const end = { type: "fulfill", preimage: new Uint8Array(32).fill(2), attribution: null } as const;
  const ours = htlcOf(true, 0n, "RCVD_REMOVE_COMMIT", { removal: end });
  const theirs = htlcOf(false, 0n, "SENT_REMOVE_COMMIT", { removal: end });
  const live = htlcOf(true, 1n, "SENT_ADD_COMMIT");
  await owner.save({ added: [ours, theirs, live] });
  for (const part of [1n, 2n]) {
    await db.owner`
      INSERT INTO live_parts (part, payment, partid, channel, amount_msat, sent_msat, cltv_expiry, hops, session_key)
      OVERRIDING SYSTEM VALUE VALUES (${part}, 1, 1, ${db.channel}, 1, 1, 1, '', ${new Uint8Array(32)})`;
  }
  const htlc = owner.rowKeys.get(theirs.key)!;
  await db.owner`
    INSERT INTO htlc_decisions (htlc, channel, id, preimage) VALUES (${htlc}, ${db.channel}, 0, ${end.preimage})`;
  assert.deepEqual(await loadMissed(db.sql, db.channel), { outgoing: [], incoming: [] });
  await owner.save({ removed: [ours, theirs] });
  const missed = await loadMissed(db.sql, db.channel);
  assert.deepEqual(missed.outgoing, [{ origin: 1n, id: 0n, removal: end }]);
  assert.deepEqual(missed.incoming, [{ htlc, id: 0n }]);
});

Deno.test("shutdown, failure and data loss are facts that are never taken back", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  const script = Uint8Array.of(0, 20, ...new Uint8Array(20));
  await owner.save({ state: "CHANNELD_SHUTTING_DOWN", shutdownSent: script });
  await owner.save({
    state: "CHANNELD_SHUTTING_DOWN",
    shutdownReceived: script,
    remoteAlias: 0xffff_ffff_ffff_ffffn,
  });
  await owner.save({ state: "CHANNELD_SHUTTING_DOWN", errorText: "first", dataLoss: true });
  await owner.save({ state: "CHANNELD_SHUTTING_DOWN", errorText: "second" });
  const { channel } = (await memory(db.sql, db.channel)).loaded;
  assert.deepEqual([channel.shutdownSent, channel.shutdownReceived], [script, script]);
  assert.deepEqual([channel.errorText, channel.dataLoss], ["first", true]);
  assert.equal(channel.remoteAlias, 0xffff_ffff_ffff_ffffn);
});

Deno.test("a close that a person wants is read with the channel", async () => {
  await using db = await world();
  const script = new Uint8Array(22).fill(3);
  await db.owner`INSERT INTO closings (channel, script) VALUES (${db.channel}, ${script})`;
  assert.deepEqual((await memory(db.sql, db.channel)).loaded.decisions, { closing: { script } });
});

Deno.test("fresh tables with 50,000 old rows that nobody analysed: a step finds its rows by key", async () => {
  await using db = await world();
  const owner = await memory(db.sql, db.channel);
  await db.owner`ALTER TABLE htlcs SET (autovacuum_enabled = off)`;
  await db.owner`
    INSERT INTO htlcs (channel, offered, id, state, amount_msat, payment_hash, cltv_expiry)
    SELECT ${db.channel}, false, n, 'RCVD_ADD_ACK_REVOCATION', 1, decode(repeat('00', 32), 'hex'), 500
    FROM generate_series(1000, 50999) AS n`;
  await db.owner`
    INSERT INTO htlc_onions SELECT htlc, decode(repeat('00', 1366), 'hex') FROM htlcs WHERE id % 10 = 0`;
  const ours = htlcOf(true, 0n, "SENT_ADD_COMMIT");
  const theirs = htlcOf(false, 0n, "RCVD_ADD_COMMIT");
  await owner.save({ added: [ours, theirs] });
  const plan = await explainStep(db.sql, owner.write({ changed: [theirs], removed: [ours] }));
  assert.match(plan, /Update on htlcs h[\s\S]*Index Scan using htlcs_pkey on htlcs h/);
  assert.match(plan, /Delete on htlcs h[\s\S]*Index Scan using htlcs_pkey on htlcs h/);
  assert.match(plan, /Delete on htlc_onions o[\s\S]*Index Scan using htlc_onions_pkey on htlc_onions o/);
  assert.match(plan, /Index Scan using channels_pkey on channels/);
  assert.doesNotMatch(plan, /Seq Scan|Hash Join|Merge Join/);
});
