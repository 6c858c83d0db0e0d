/** closingd's one statement on real Postgres: a signed close is there whole, or not at all. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { sat } from "bolt/units.ts";
import { openDatabase } from "common/pg/client.ts";
import { migrate } from "common/pg/migrate.ts";
import { usePostgres } from "common/testing/database.ts";
import { SupersededError } from "subd/fence.ts";
import { SCHEMA_DIR } from "tools/node/database.ts";
import { saveStep } from "../../services/closingd/store.ts";
import { peerKey, saveChannel } from "../../services/lightningd/peers/testing.ts";

const postgres = await usePostgres();

/** A channel whose close is negotiated, and a close. */
async function prepared() {
  const database = await postgres.freshDatabase();
  await migrate({ url: database.url, applicationName: "migrate", directory: SCHEMA_DIR });
  const { sql, close } = await openDatabase({ url: database.url, applicationName: "closing" });
  const { channel } = await saveChannel(sql, peerKey(), { state: "CHANNELD_NORMAL" });
  const [row] = await sql<{ version: bigint; epoch: bigint }[]>`
    UPDATE channels SET state = 'CLOSINGD_SIGEXCHANGE', owner_daemon = 'closingd'
    WHERE channel = ${channel} RETURNING version, owner_epoch AS epoch`;
  const signed = { txid: randomBytes(32), tx: randomBytes(200), fee: sat(700), local: sat(39_300) };
  const place = { generation: 1n, inSeq: 2n, outSeq: 3n, reestablishSent: false, reestablishReceived: false };
  return {
    sql,
    place,
    fence: { channel, epoch: row!.epoch, version: row!.version },
    step: { type: "save_close" as const, close: signed, remoteScript: null },
    funding: { txid: randomBytes(32), vout: 0 },
    counts: async () => {
      const [count] = await sql<{ txs: number; inputs: number; closes: number; state: string }[]>`
        SELECT (SELECT count(*)::int FROM wallet_txs WHERE kind = 'close' AND broadcast) AS txs,
          (SELECT count(*)::int FROM wallet_tx_inputs) AS inputs, (SELECT count(*)::int FROM closing_txs) AS closes,
          (SELECT state FROM channels) AS state`;
      return { ...count! };
    },
    async [Symbol.asyncDispose]() {
      await close();
      await database.drop();
    },
  };
}

Deno.test("a close is stored whole, and once", async () => {
  await using world = await prepared();
  const { sql, fence, step, place, funding } = world;
  const next = await saveStep(sql, fence, step, place, funding);
  assert.equal(next.version, fence.version + 1n);
  const whole = { txs: 1, inputs: 1, closes: 1, state: "CLOSINGD_COMPLETE" };
  assert.deepEqual(await world.counts(), whole);
  await saveStep(sql, next, step, place, funding);
  assert.deepEqual(await world.counts(), whole);
});

Deno.test("a superseded closingd stores nothing of a close", async () => {
  await using world = await prepared();
  const { sql, fence, step, place, funding } = world;
  for (const stale of [{ ...fence, epoch: fence.epoch - 1n }, { ...fence, version: fence.version + 1n }]) {
    await assert.rejects(saveStep(sql, stale, step, place, funding), SupersededError);
    await assert.rejects(
      saveStep(sql, stale, { type: "fail_channel", errorText: "x", dataLoss: true }, place, funding),
      SupersededError,
    );
  }
  assert.deepEqual(await world.counts(), { txs: 0, inputs: 0, closes: 0, state: "CLOSINGD_SIGEXCHANGE" });
});

Deno.test("what the peer proved is never taken back", async () => {
  await using world = await prepared();
  const { sql, fence, place, funding } = world;
  const failed = await saveStep(
    sql,
    fence,
    { type: "fail_channel", errorText: "old", dataLoss: true },
    place,
    funding,
  );
  await saveStep(sql, failed, { type: "fail_channel", errorText: "later", dataLoss: false }, place, funding);
  const [row] = await sql<
    { data_loss: boolean; error_text: string }[]
  >`SELECT data_loss, error_text FROM channels`;
  assert.deepEqual({ ...row }, { data_loss: true, error_text: "old" });
});
