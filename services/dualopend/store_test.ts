import assert from "node:assert/strict";
import type { Attempt, SavedChannel } from "bolt/dualopen/types.ts";
import { height } from "bolt/units.ts";
import { codeOf, type Database, openDatabase, type Sql } from "common/pg/client.ts";
import { usePostgres } from "common/testing/database.ts";
import { createNodeDatabase } from "tools/node/database.ts";
import { type Fence, type Place, savePlace, SupersededError } from "subd/fence.ts";
import {
  dropOpening,
  dropRbf,
  loadChainFacts,
  loadChannel,
  loadOpening,
  saveAttempt,
  saveLock,
  saveOpen,
  saveStep,
} from "./store.ts";
import {
  firstStep,
  GENERATION,
  insertOpening,
  opened,
  ownInputs,
  savedOf,
  unsigned,
} from "./testing/rows.ts";

const postgres = await usePostgres();
const FEATURES = { local: Uint8Array.of(1), remote: Uint8Array.of(2) };
const DIVISION_BY_ZERO = "22012";
const UNIQUE_VIOLATION = "23505";
const CHECK_VIOLATION = "23514";

/** One database a test, as the owner for arranging and as dualopend's role for what is tested. */
async function databases() {
  const node = await createNodeDatabase(postgres.server);
  const owner: Database = await openDatabase({ url: node.url, applicationName: "test" });
  const role: Database = await openDatabase({ url: node.roles.dualopend, applicationName: "test" });
  return {
    owner: owner.sql,
    sql: role.sql,
    async [Symbol.asyncDispose]() {
      await role.close();
      await owner.close();
      await postgres.server.dropDatabase(node.name);
    },
  };
}

const PLACE: Place = {
  generation: GENERATION,
  inSeq: 3n,
  outSeq: 4n,
  reestablishSent: false,
  reestablishReceived: false,
};

/** A channel whose first attempt is stored, unsigned. */
async function save(owner: Sql, sql: Sql, channel: SavedChannel, localAlias = 0xffff_ffff_ffff_fff0n) {
  const attempt = channel.attempts[0]!;
  const opening = await insertOpening(owner, { epoch: 9n, initiator: "local", reserve: ownInputs(attempt) });
  const saved = await saveOpen(sql, { opening, epoch: 9n }, {
    channel: firstStep(channel),
    features: FEATURES,
    localAlias,
    place: PLACE,
  });
  return { opening, ...saved };
}

/** The same, signed by both. */
async function signed(owner: Sql, sql: Sql, channel: SavedChannel) {
  const { fence, attemptId } = await save(owner, sql, channel);
  return { fence: await sign(sql, fence, channel.attempts[0]!), attemptId };
}

async function sign(sql: Sql, fence: Fence, attempt: Attempt): Promise<Fence> {
  const committed = await saveStep(sql, fence, {
    type: "save_remote_commitment_signature",
    seq: attempt.seq,
    signature: attempt.remoteCommitmentSignature!,
    state: "DUALOPEND_OPEN_COMMITTED",
  }, PLACE);
  return await saveStep(sql, committed, {
    type: "save_tx_signatures",
    seq: attempt.seq,
    local: attempt.localTxSignatures,
    remote: attempt.remoteTxSignatures,
    completeTx: attempt.completeTx,
    state: "DUALOPEND_AWAITING_LOCKIN",
  }, PLACE);
}

async function reservations(sql: Sql) {
  return await sql<{ purpose: string; opening: bigint | null; channel: bigint | null; txid: Uint8Array }[]>`
    SELECT purpose, opening, channel, txid FROM reservations ORDER BY txid, vout`;
}

async function count(sql: Sql, table: "channels" | "openings" | "funding_attempts"): Promise<number> {
  const [row] = await sql<{ count: bigint }[]>`SELECT count(*) FROM ${sql(table)}`;
  return Number(row!.count);
}

/** What every fenced write does when it does not own the channel any more: nothing. */
async function assertFenced(
  owner: Sql,
  fence: Fence,
  write: (fence: Fence) => Promise<unknown>,
): Promise<void> {
  const before = await owner`SELECT * FROM channels JOIN funding_attempts USING (channel) ORDER BY attempt`;
  for (
    const stale of [
      { ...fence, epoch: fence.epoch - 1n },
      { ...fence, epoch: fence.epoch + 1n },
      { ...fence, version: fence.version - 1n },
      { ...fence, version: fence.version + 1n },
      { ...fence, channel: fence.channel + 1n },
    ]
  ) {
    await assert.rejects(write(stale), SupersededError);
  }
  assert.deepEqual(
    await owner`SELECT * FROM channels JOIN funding_attempts USING (channel) ORDER BY attempt`,
    before,
  );
}

Deno.test("the first rows of a channel come from its opening, and are read back as they were", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const { fence, attemptId, opening } = await save(db.owner, db.sql, channel);
  assert.equal(await count(db.owner, "openings"), 0);
  const loaded = await loadChannel(db.sql, fence.channel, 9n);
  assert.deepEqual(loaded.channel, firstStep(channel));
  assert.deepEqual(loaded.features, FEATURES);
  assert.deepEqual(loaded.place, PLACE);
  assert.equal(loaded.localAlias, 0xffff_ffff_ffff_fff0n);
  assert.equal(loaded.paymentKeyIndex, 5);
  assert.deepEqual(loaded.fence, fence);
  assert.deepEqual([...loaded.attemptIds], [[0, attemptId]]);
  const reserved = await reservations(db.owner);
  assert.equal(reserved.length, ownInputs(channel.attempts[0]!).length);
  for (const row of reserved) {
    assert.deepEqual([row.purpose, row.opening, row.channel], ["attempt", null, fence.channel]);
  }
  await assert.rejects(loadOpening(db.sql, opening, 9n), SupersededError);
});

Deno.test("everything that was stored is read back: signatures, lock, channel_ready, shutdown, error", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const { fence, attemptId } = await signed(db.owner, db.sql, channel);
  assert.deepEqual((await loadChannel(db.sql, fence.channel, 9n)).channel, channel);
  const attempt = channel.attempts[0]!;
  const point = channel.params.remote.secondPerCommitmentPoint;
  let at = await saveLock(db.sql, fence, {
    attempt,
    attemptId,
    params: channel.params,
    state: "DUALOPEND_AWAITING_LOCKIN",
    place: PLACE,
  });
  at = await saveStep(db.sql, at, {
    type: "save_remote_ready",
    secondPerCommitmentPoint: point,
    alias: (1n << 64n) - 1n,
    state: "DUALOPEND_AWAITING_LOCKIN",
  }, PLACE);
  at = await saveStep(db.sql, at, {
    type: "save_shutdown",
    sent: Uint8Array.of(1),
    received: Uint8Array.of(2),
  }, PLACE);
  at = await saveStep(db.sql, at, { type: "save_state", state: "CHANNELD_NORMAL" }, PLACE);
  at = await saveStep(db.sql, at, { type: "fail_channel", errorText: "a reason" }, PLACE);
  const loaded = await loadChannel(db.sql, fence.channel, 9n);
  assert.equal(loaded.fence.version, at.version);
  assert.deepEqual(loaded.channel, {
    ...channel,
    state: "CHANNELD_NORMAL",
    lockedAttempt: 0,
    remoteReady: { secondPerCommitmentPoint: point, alias: (1n << 64n) - 1n },
    shutdownSent: Uint8Array.of(1),
    shutdownReceived: Uint8Array.of(2),
    errorText: "a reason",
  });
});

Deno.test("a replaced opener inserts nothing", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const reserve = ownInputs(channel.attempts[0]!);
  const opening = await insertOpening(db.owner, { epoch: 9n, initiator: "local", reserve });
  const saved = { channel: firstStep(channel), features: FEATURES, localAlias: 1n, place: PLACE };
  await assert.rejects(saveOpen(db.sql, { opening, epoch: 8n }, saved), SupersededError);
  await assert.rejects(saveOpen(db.sql, { opening: opening + 1n, epoch: 9n }, saved), SupersededError);
  const foreign = { ...saved, channel: { ...saved.channel, opener: "remote" as const } };
  await assert.rejects(saveOpen(db.sql, { opening, epoch: 9n }, foreign), SupersededError);
  assert.equal(await count(db.owner, "channels"), 0);
  assert.equal(await count(db.owner, "openings"), 1);
  assert.ok((await reservations(db.owner)).every((row) => row.opening === opening));
});

Deno.test("a known channel id, alias or funding transaction is refused before anything is written", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  await save(db.owner, db.sql, channel);
  const other = savedOf(opened(), "bob");
  const otherId = new Uint8Array(32).fill(9);
  const variants: [SavedChannel, bigint][] = [
    [channel, 2n],
    [{ ...other, channelId: otherId, opener: "local" }, 3n],
  ];
  for (const [again, alias] of variants) {
    await assert.rejects(
      save(db.owner, db.sql, again, alias),
      (error) => codeOf(error) === UNIQUE_VIOLATION,
    );
  }
  assert.equal(await count(db.owner, "channels"), 1);
  assert.equal(await count(db.owner, "funding_attempts"), 1);
  assert.equal(await count(db.owner, "openings"), variants.length);
});

Deno.test("every step of a saved channel is fenced by channel, epoch and version", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const attempt = channel.attempts[0]!;
  const { fence, attemptId } = await save(db.owner, db.sql, channel);
  const { owner, sql } = db;
  const steps = [
    {
      type: "save_remote_commitment_signature",
      seq: 0,
      signature: attempt.remoteCommitmentSignature!,
      state: "DUALOPEND_OPEN_COMMITTED",
    },
    { type: "abort_attempt", seq: 0, state: "DUALOPEND_OPEN_COMMIT_READY" },
    { type: "forget_channel" },
    {
      type: "save_remote_ready",
      secondPerCommitmentPoint: channel.params.remote.secondPerCommitmentPoint,
      alias: null,
      state: "DUALOPEND_OPEN_COMMIT_READY",
    },
    { type: "save_shutdown", sent: null, received: Uint8Array.of(1) },
    { type: "save_state", state: "DUALOPEND_OPEN_COMMITTED" },
    { type: "fail_channel", errorText: "no" },
  ] as const;
  for (const step of steps) await assertFenced(owner, fence, (stale) => saveStep(sql, stale, step, PLACE));
  await assertFenced(owner, fence, (stale) => savePlace(sql, stale, PLACE));
  await assertFenced(owner, fence, (stale) => dropRbf(sql, stale));
  const committed = await saveStep(sql, fence, steps[0], PLACE);
  await assertFenced(owner, committed, (stale) =>
    saveStep(sql, stale, {
      type: "save_tx_signatures",
      seq: 0,
      local: attempt.localTxSignatures,
      remote: null,
      completeTx: null,
      state: "DUALOPEND_OPEN_COMMITTED",
    }, PLACE));
  const lock = { attempt, attemptId, params: channel.params, state: "DUALOPEND_AWAITING_LOCKIN" } as const;
  await assertFenced(owner, committed, (stale) => saveLock(sql, stale, { ...lock, place: PLACE }));
});

Deno.test("a step that finds its attempt otherwise than it must be changes nothing at all", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const attempt = channel.attempts[0]!;
  const { fence } = await signed(db.owner, db.sql, channel);
  const before = await loadChannel(db.sql, fence.channel, 9n);
  const state = "DUALOPEND_AWAITING_LOCKIN";
  const wrong = [
    // A stored fact is never overwritten.
    { type: "save_remote_commitment_signature", seq: 0, signature: new Uint8Array(64), state },
    {
      type: "save_tx_signatures",
      seq: 0,
      local: attempt.localTxSignatures,
      remote: null,
      completeTx: null,
      state,
    },
    // After our tx_signatures we never abort.
    { type: "abort_attempt", seq: 0, state },
    { type: "save_remote_commitment_signature", seq: 1, signature: new Uint8Array(64), state },
  ] as const;
  for (const step of wrong) {
    await assert.rejects(
      saveStep(db.sql, fence, step, PLACE),
      (error) => codeOf(error) === DIVISION_BY_ZERO,
    );
  }
  // A channel for which something of ours was signed is not forgotten.
  await assert.rejects(saveStep(db.sql, fence, { type: "forget_channel" }, PLACE), SupersededError);
  assert.deepEqual(await loadChannel(db.sql, fence.channel, 9n), before);
});

Deno.test("the peer's witnesses, stored before our user signed, stay as they are when ours complete them", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const attempt = channel.attempts[0]!;
  const { fence } = await save(db.owner, db.sql, channel);
  const committed = await saveStep(db.sql, fence, {
    type: "save_remote_commitment_signature",
    seq: 0,
    signature: attempt.remoteCommitmentSignature!,
    state: "DUALOPEND_OPEN_COMMITTED",
  }, PLACE);
  const step = { type: "save_tx_signatures", seq: 0, state: "DUALOPEND_AWAITING_LOCKIN" } as const;
  const { localTxSignatures: local, remoteTxSignatures: remote, completeTx } = attempt;
  const theirs = await saveStep(
    db.sql,
    committed,
    { ...step, local: null, remote, completeTx: null, state: "DUALOPEND_OPEN_COMMITTED" },
    PLACE,
  );
  const others = remote!.map(() => Uint8Array.of(1, 1, 7));
  await assert.rejects(
    saveStep(db.sql, theirs, { ...step, local, remote: others, completeTx }, PLACE),
    (error) => codeOf(error) === DIVISION_BY_ZERO,
  );
  await saveStep(db.sql, theirs, { ...step, local, remote, completeTx }, PLACE);
  const loaded = await loadChannel(db.sql, fence.channel, 9n);
  assert.deepEqual(loaded.channel.attempts[0]?.completeTx, completeTx);
});

Deno.test("constraints refuse states that must not be", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const attempt = channel.attempts[0]!;
  const { fence } = await save(db.owner, db.sql, channel);
  const violates = (work: Promise<unknown>) =>
    assert.rejects(work, (error) => codeOf(error) === CHECK_VIOLATION);
  // Our tx_signatures without the peer's commitment.
  await violates(saveStep(db.sql, fence, {
    type: "save_tx_signatures",
    seq: 0,
    local: attempt.localTxSignatures,
    remote: null,
    completeTx: null,
    state: "DUALOPEND_OPEN_COMMITTED",
  }, PLACE));
  await violates(saveStep(db.sql, fence, { type: "save_state", state: "CHANNELD_NORMAL" }, PLACE));
  await violates(saveStep(db.sql, fence, { type: "fail_channel", errorText: "" }, PLACE));
  const committed = await saveStep(db.sql, fence, {
    type: "save_remote_commitment_signature",
    seq: 0,
    signature: attempt.remoteCommitmentSignature!,
    state: "DUALOPEND_OPEN_COMMITTED",
  }, PLACE);
  // A complete transaction without both sides' witnesses.
  await violates(saveStep(db.sql, committed, {
    type: "save_tx_signatures",
    seq: 0,
    local: attempt.localTxSignatures,
    remote: null,
    completeTx: attempt.completeTx,
    state: "DUALOPEND_AWAITING_LOCKIN",
  }, PLACE));
});

Deno.test("forgetting a channel that was never signed frees what it reserved", async () => {
  await using db = await databases();
  const { fence } = await save(db.owner, db.sql, savedOf(opened()));
  await saveStep(db.sql, fence, { type: "forget_channel" }, PLACE);
  assert.equal(await count(db.owner, "channels"), 0);
  assert.equal(await count(db.owner, "funding_attempts"), 0);
  assert.deepEqual([...await reservations(db.owner)], []);
});

Deno.test("an RBF's attempt comes from its opening; what it reserved anew goes along", async () => {
  await using db = await databases();
  const channel = savedOf(opened(1));
  const second = channel.attempts[1]!;
  const { fence } = await signed(db.owner, db.sql, channel);
  const extra = { txid: new Uint8Array(32).fill(1), vout: 1 };
  const opening = await insertOpening(db.owner, {
    epoch: 9n,
    initiator: "local",
    channel: fence.channel,
    reserve: [...ownInputs(second), extra],
  });
  const step = {
    attempt: unsigned(second),
    state: "DUALOPEND_AWAITING_LOCKIN",
    params: channel.params,
    place: PLACE,
  } as const;
  for (
    const stale of [{ ...fence, epoch: 8n }, { ...fence, version: fence.version - 1n }, {
      ...fence,
      channel: fence.channel + 1n,
    }]
  ) {
    await assert.rejects(saveAttempt(db.sql, stale, opening, step), SupersededError);
  }
  await assert.rejects(saveAttempt(db.sql, fence, opening + 1n, step), SupersededError);
  assert.equal(await count(db.owner, "funding_attempts"), 1);
  assert.equal(await count(db.owner, "openings"), 1);

  const saved = await saveAttempt(db.sql, fence, opening, step);
  assert.equal(saved.fence.version, fence.version + 1n);
  assert.equal(await count(db.owner, "openings"), 0);
  const loaded = await loadChannel(db.sql, fence.channel, 9n);
  assert.deepEqual(loaded.channel, { ...channel, attempts: [channel.attempts[0]!, unsigned(second)] });
  const reserved = await reservations(db.owner);
  assert.ok(reserved.every((row) => row.purpose === "attempt" && row.channel === fence.channel));
  // What the opening held and the attempt does not spend is free.
  assert.equal(reserved.length, ownInputs(second).length);
});

Deno.test("an aborted RBF keeps its row, and frees only what no other attempt spends", async () => {
  await using db = await databases();
  const channel = savedOf(opened(1));
  const second = channel.attempts[1]!;
  const { fence } = await signed(db.owner, db.sql, channel);
  const opening = await insertOpening(db.owner, { epoch: 9n, initiator: "local", channel: fence.channel });
  const { fence: at } = await saveAttempt(db.sql, fence, opening, {
    attempt: unsigned(second),
    state: "DUALOPEND_AWAITING_LOCKIN",
    params: channel.params,
    place: PLACE,
  });
  const fresh = new Uint8Array(32).fill(7);
  await db.owner`
    INSERT INTO attempt_inputs (attempt, serial_id, side, txid, vout, amount_sat)
    SELECT attempt, 999, 'local', ${fresh}, 0, 1 FROM funding_attempts WHERE seq = 1`;
  await db.owner`
    INSERT INTO reservations (txid, vout, purpose, channel) VALUES (${fresh}, 0, 'attempt', ${fence.channel})`;
  await saveStep(
    db.sql,
    at,
    { type: "abort_attempt", seq: 1, state: "DUALOPEND_AWAITING_LOCKIN" },
    PLACE,
  );
  const { channel: loaded } = await loadChannel(db.sql, fence.channel, 9n);
  assert.deepEqual(loaded.attempts.map((a) => a.aborted), [false, true]);
  const reserved = await reservations(db.owner);
  assert.equal(reserved.length, ownInputs(channel.attempts[0]!).length);
  assert.ok(reserved.every((row) => row.txid[0] !== 7 || row.txid[1] !== 7));
});

Deno.test("a dropped opening takes its reservations along; a foreign one is not dropped", async () => {
  await using db = await databases();
  const reserve = [{ txid: new Uint8Array(32).fill(1), vout: 0 }];
  const opening = await insertOpening(db.owner, { epoch: 3n, initiator: "remote", reserve });
  await assert.rejects(dropOpening(db.sql, opening, 2n), SupersededError);
  assert.equal((await reservations(db.owner)).length, 1);
  await dropOpening(db.sql, opening, 3n);
  assert.equal((await reservations(db.owner)).length, 0);
  // lightningd was quicker: nothing is left to drop.
  await dropOpening(db.sql, opening, 3n);
});

Deno.test("a dropped RBF leaves the channel", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const { fence } = await signed(db.owner, db.sql, channel);
  const reserve = [{ txid: new Uint8Array(32).fill(1), vout: 0 }];
  await insertOpening(db.owner, { epoch: 9n, initiator: "remote", channel: fence.channel, reserve });
  await dropRbf(db.sql, fence);
  assert.equal(await count(db.owner, "openings"), 0);
  assert.ok((await reservations(db.owner)).every((row) => row.purpose === "attempt"));
  await dropRbf(db.sql, fence);
  assert.deepEqual((await loadChannel(db.sql, fence.channel, 9n)).channel, channel);
});

Deno.test("chain facts are the height and what confirmed of this channel", async () => {
  await using db = await databases();
  const channel = savedOf(opened());
  const { fence, attemptId } = await signed(db.owner, db.sql, channel);
  assert.deepEqual(await loadChainFacts(db.sql, null, 5), { height: height(5), confirmed: [] });
  const hash = (byte: number) => new Uint8Array(32).fill(byte);
  await db.owner`INSERT INTO blocks VALUES (200, ${hash(1)}, ${hash(0)}), (201, ${hash(2)}, ${hash(1)})`;
  await db.owner`INSERT INTO attempt_confirmations VALUES (${attemptId}, 200, 1, false, true)`;
  assert.deepEqual(await loadChainFacts(db.sql, fence.channel, 5), {
    height: height(201),
    confirmed: [{ seq: 0, height: height(200), coinbase: false, matches: true }],
  });
  assert.deepEqual(await loadChainFacts(db.sql, fence.channel + 1n, 5), {
    height: height(201),
    confirmed: [],
  });
  // A reorg deletes the block, and the fact with it.
  await db.owner`DELETE FROM blocks WHERE height >= 200`;
  assert.deepEqual((await loadChainFacts(db.sql, fence.channel, 5)).confirmed, []);
});
