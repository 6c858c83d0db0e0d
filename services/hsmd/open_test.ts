/** Seed and memory together: lost, rolled back, copied, exchanged. */
import assert from "node:assert/strict";
import { create } from "@bufbuild/protobuf";
import { join } from "node:path";
import { AcceptMemoryRequestSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { MemoryError } from "./memory.ts";
import { MEMORY_FILE, SEED_FILE, SeedLostError } from "./open.ts";
import { ACCEPT_CONFIRMATION } from "./rules.ts";
import { createSeed, SeedError } from "./seed.ts";
import {
  attemptRequest,
  bind,
  commitmentRequest,
  EPOCH,
  fund,
  type Funds,
  lock,
  openChannel,
  openHsm,
  type Pair,
  reasonOf,
  register,
  type Side,
  signAttempt,
  signRemote,
  temporaryDirectory,
  type TestHsm,
  withPair,
} from "./testing.ts";

const FUNDS: Funds = { opener: 600_000n, accepter: 400_000n };

/** The opener's side, served by another hsmd of the same seed. */
function moved(pair: Pair, hsmd: TestHsm): { readonly pair: Pair; readonly side: Side } {
  const side = { ...pair.opener, hsm: hsmd.hsm };
  return { pair: { ...pair, opener: side }, side };
}

function accept({ hsm }: TestHsm) {
  return hsm.acceptMemory(create(AcceptMemoryRequestSchema, { confirmation: ACCEPT_CONFIRMATION }));
}

/** Every signing call for the funded channel answers this. */
async function assertRefused(
  pair: Pair,
  side: Side,
  funded: Awaited<ReturnType<typeof fund>>,
  reason: string,
): Promise<void> {
  const { funding, byAccepter } = funded;
  assert.equal(await reasonOf(signRemote(side, commitmentRequest(pair, side, FUNDS, funding))), reason);
  assert.equal(
    await reasonOf(signAttempt(side, attemptRequest(pair, side, FUNDS, funding, byAccepter))),
    reason,
  );
  assert.equal(await reasonOf(lock(side, funding.outpoint)), reason);
  const told = await register(side.hsm, side.channelKeyId, side.paymentKeyIndex, 9n);
  assert.deepEqual([told.refused, told.refusal], [true, reason]);
}

Deno.test("memory lost: the seed knows that it had one, and nothing is signed for existing channels until accepted", () =>
  withPair(async (before, { a, b }) => {
    const funded = await fund(before, FUNDS);
    const mark = a.file.durableHighWater;
    const oldId = a.file.memoryId;
    await a.file.close();
    Deno.removeSync(join(a.directory, MEMORY_FILE));
    {
      await using again = await openHsm(a.directory);
      assert.notDeepEqual(again.file.memoryId, oldId);
      // Also with a database that was reset together with the memory, and expects nothing.
      await bind(again.hsm);
      const { pair, side } = moved(before, again);
      await assertRefused(pair, side, funded, "MEMORY_LOST");
      // A new channel has no past that could be forgotten.
      const fresh = await openChannel(again, b);
      await fund(fresh, FUNDS);
    }
    // The loss is remembered by the new memory, although the seed now names that one.
    await using later = await openHsm(a.directory);
    await bind(later.hsm, { id: oldId, highWater: mark });
    const { pair, side } = moved(before, later);
    await assertRefused(pair, side, funded, "MEMORY_LOST");
    await accept(later);
    await bind(later.hsm, { id: oldId, highWater: mark });
    assert.equal((await register(later.hsm, side.channelKeyId, side.paymentKeyIndex, EPOCH)).refused, false);
    assert.deepEqual(
      await signRemote(side, commitmentRequest(pair, side, FUNDS, funded.funding)),
      funded.byOpener,
    );
  }));

Deno.test("memory rolled back: the database's mark tells, and nothing is signed for existing channels until accepted", () =>
  withPair(async (before, { a }) => {
    const path = join(a.directory, MEMORY_FILE);
    const snapshot = Deno.readFileSync(path);
    const funded = await fund(before, FUNDS);
    const mark = a.file.durableHighWater;
    await a.file.close();
    Deno.writeFileSync(path, snapshot);
    await using again = await openHsm(a.directory);
    const { pair, side } = moved(before, again);
    // Before the database was heard, nothing is signed at all: the rollback cannot be seen yet.
    assert.equal(
      await reasonOf(signRemote(side, commitmentRequest(pair, side, FUNDS, funded.funding))),
      "NOT_BOUND",
    );
    await bind(again.hsm, { id: a.file.memoryId, highWater: mark });
    assert.equal(again.hsm.getInfo().distrust, "MEMORY_ROLLED_BACK");
    await assertRefused(pair, side, funded, "MEMORY_ROLLED_BACK");
    await accept(again);
    assert.equal(again.hsm.getInfo().trusted, true);
    assert.deepEqual(
      await signRemote(side, commitmentRequest(pair, side, FUNDS, funded.funding)),
      funded.byOpener,
    );
  }));

Deno.test("memory one frame short of the mark is rolled back, too: a tail that was cut had been answered", () =>
  withPair(async (before, { a }) => {
    const path = join(a.directory, MEMORY_FILE);
    await fund(before, FUNDS);
    const mark = a.file.durableHighWater;
    await a.file.close();
    const whole = Deno.readFileSync(path);
    Deno.writeFileSync(path, whole.slice(0, whole.length - 1));
    await using again = await openHsm(a.directory);
    assert(again.file.tornBytes > 0);
    await bind(again.hsm, { id: a.file.memoryId, highWater: mark });
    assert.equal(again.hsm.getInfo().distrust, "MEMORY_ROLLED_BACK");
  }));

Deno.test("memory copied: another database gets nothing from it", () =>
  withPair(async (before, { a }) => {
    await fund(before, FUNDS);
    await using copy = await temporaryDirectory();
    for (const name of [SEED_FILE, MEMORY_FILE]) {
      Deno.copyFileSync(join(a.directory, name), join(copy.path, name));
    }
    await using second = await openHsm(copy.path);
    const database = new Uint8Array(16).fill(0xcc);
    assert.equal(await reasonOf(bind(second.hsm, { database })), "FOREIGN_DATABASE");
    const { pair, side } = moved(before, second);
    const request = commitmentRequest(pair, side, FUNDS, (await fund(before, FUNDS)).funding);
    assert.equal(await reasonOf(signRemote(side, request)), "NOT_BOUND");
  }));

Deno.test("memory ahead of a restored database: RegisterEpochs tells the numbers, and old content stays refused", () =>
  withPair(async (pair, { a }) => {
    const { opener } = pair;
    const { funding } = await fund(pair, FUNDS);
    await lock(opener, funding.outpoint);
    await bind(a.hsm, { id: a.file.memoryId, highWater: 1n });
    const told = await register(opener.hsm, opener.channelKeyId, opener.paymentKeyIndex, EPOCH);
    assert.equal(told.locked?.vout, 0);
    assert.deepEqual(
      told.outpoints?.map(({ localNumber, remoteNumber, inputsSigned }) => [
        localNumber,
        remoteNumber,
        inputsSigned,
      ]),
      [[0n, 0n, true]],
    );
    const stale: Funds = { ...FUNDS, openerInput: 800_000n };
    const { attempt, ...request } = commitmentRequest(pair, opener, stale, funding);
    const other = { ...attempt, localContributionSat: 1_000_000n, remoteContributionSat: 0n };
    assert.equal(await reasonOf(signRemote(opener, { ...request, attempt: other })), "CONTENT_CONFLICT");
  }));

Deno.test("a seed restored from words, without its memory, trusts nothing but new channels", async () => {
  await using directory = await temporaryDirectory();
  const words = `${"abandon ".repeat(11)}about`;
  await createSeed(join(directory.path, SEED_FILE), { mnemonic: words });
  {
    await using first = await openHsm(directory.path);
    assert.equal(first.hsm.getInfo().distrust, "MEMORY_LOST");
  }
  await using second = await openHsm(directory.path);
  assert.equal(second.hsm.getInfo().distrust, "MEMORY_LOST");
});

Deno.test("a new seed's new memory is trusted, also after a restart", async () => {
  await using directory = await temporaryDirectory();
  {
    await using first = await openHsm(directory.path);
    assert.equal(first.hsm.getInfo().trusted, true);
  }
  await using second = await openHsm(directory.path);
  assert.equal(second.hsm.getInfo().trusted, true);
});

Deno.test("another memory of the same seed in place of the known one is a lost memory", async () => {
  await using directory = await temporaryDirectory();
  await using other = await temporaryDirectory();
  {
    await using first = await openHsm(directory.path);
    Deno.copyFileSync(join(directory.path, SEED_FILE), join(other.path, SEED_FILE));
    await bind(first.hsm);
  }
  {
    await using second = await openHsm(other.path);
    assert.equal(second.hsm.getInfo().trusted, false);
  }
  Deno.copyFileSync(join(other.path, MEMORY_FILE), join(directory.path, MEMORY_FILE));
  await using exchanged = await openHsm(directory.path);
  assert.equal(exchanged.hsm.getInfo().distrust, "MEMORY_LOST");
});

Deno.test("a memory without its seed gets no new seed", async () => {
  await using directory = await temporaryDirectory();
  await (await openHsm(directory.path)).file.close();
  Deno.removeSync(join(directory.path, SEED_FILE));
  await assert.rejects(openHsm(directory.path), SeedLostError);
});

Deno.test("a memory of another seed is refused", async () => {
  await using one = await temporaryDirectory();
  await using two = await temporaryDirectory();
  await (await openHsm(one.path)).file.close();
  await (await openHsm(two.path)).file.close();
  Deno.copyFileSync(join(one.path, MEMORY_FILE), join(two.path, MEMORY_FILE));
  await assert.rejects(
    openHsm(two.path),
    (error) => error instanceof MemoryError && error.type === "foreign",
  );
});

Deno.test("with a passphrase: the same keys again, and none without it", async () => {
  await using directory = await temporaryDirectory();
  const scrypt = { N: 16, r: 1, p: 1 };
  const first = await openHsm(directory.path, { passphrase: "p", scrypt });
  await first.file.close();
  const error = (type: string) => (thrown: unknown) => thrown instanceof SeedError && thrown.type === type;
  await assert.rejects(openHsm(directory.path), error("passphrase_missing"));
  await assert.rejects(openHsm(directory.path, { passphrase: "q" }), error("passphrase_wrong"));
  await using again = await openHsm(directory.path, { passphrase: "p" });
  assert.deepEqual(again.keys.nodeId, first.keys.nodeId);
});
