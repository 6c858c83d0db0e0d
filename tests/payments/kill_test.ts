/**
 * Each daemon of either side, and Postgres, is killed with -9 in the midst of 50 concurrent payments, and started again.
 * Every payment then has one final state, the same on both sides; what failed can be paid again; no millisatoshi is lost.
 */
import assert from "node:assert/strict";
import { ArcusError } from "common/grpc/errors.ts";
import { ListpaysPays_ListpaysPaysStatus as PayStatus } from "gen/cln/node_pb.ts";
import { until, untilConnected, untilSynced } from "tools/node/commands.ts";
import type { DaemonName } from "tools/node/daemons.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { fundedAndConnected, normalChannel } from "../lib/channels.ts";
import {
  type Balances,
  balancesOf,
  makeInvoice,
  MANY_SLOTS,
  nothingLost,
  pay,
  payNew,
  type TestInvoice,
} from "../lib/payments.ts";
import { FULL, logsOf, useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** Under way at once: half of them each way, so that whoever is killed both pays and is paid. */
const PAYMENTS = 50;
/** Dust and not. */
const AMOUNTS_MSAT = [1_000n, 1_000_001n];
/** Payments that are complete when the kill comes: enough to be in the midst. */
const BEFORE_KILL = 5;
const FINAL_DEADLINE_MS = 60_000;

const KILLED: readonly DaemonName[] = ["hsmd", "lightningd", "connectd", "channeld"];

/** A payment that a test wants to see done. */
interface Wanted {
  readonly payer: RunningNode;
  readonly payee: RunningNode;
  readonly invoice: TestInvoice;
}

async function wanted({ alice, bob }: World): Promise<Wanted[]> {
  return await Promise.all(
    Array.from({ length: PAYMENTS }, async (_, index): Promise<Wanted> => {
      const [payer, payee] = index % 2 === 0 ? [alice, bob] : [bob, alice];
      const msat = AMOUNTS_MSAT[(index >> 1) % AMOUNTS_MSAT.length] ?? 1n;
      return { payer, payee, invoice: await makeInvoice(payee, msat) };
    }),
  );
}

/** Whether a payment is complete by the payer's own word; undefined while it is under way. */
async function verdictOf({ payer, invoice }: Wanted): Promise<"complete" | "failed" | "none" | undefined> {
  const { pays } = await payer.rpc.listPays({ bolt11: invoice.bolt11 });
  if (pays.some(({ status }) => status === PayStatus.PENDING)) return undefined;
  if (pays.some(({ status }) => status === PayStatus.COMPLETE)) return "complete";
  return pays.length === 0 ? "none" : "failed";
}

/** Starts all, kills in their midst, brings back what was killed, and holds every end against the other side's. */
async function killedAmidst(
  world: World,
  channelId: string,
  before: Balances,
  kill: () => Promise<void>,
  revive: () => Promise<void>,
): Promise<void> {
  const { alice, bob, chain } = world;
  const all = await wanted(world);
  const enough = Promise.withResolvers<void>();
  let complete = 0;
  const answers = all.map(async ({ payer, invoice }) => {
    try {
      await pay(payer, invoice.bolt11);
      if (++complete === BEFORE_KILL) enough.resolve();
      return "complete";
    } catch (error) {
      // The daemon that was asked is dead, or says no: what became of it is asked for below.
      if (!(error instanceof ArcusError)) throw error;
      return "unknown";
    }
  });
  const over = Promise.all(answers);
  await Promise.race([enough.promise, over]);
  assert.ok(complete >= BEFORE_KILL, `${complete} payments completed`);
  await kill();
  const atKill = complete;
  await revive();
  const said = await over;
  await untilSynced(chain, alice, bob);
  await untilConnected(alice, bob);
  await untilConnected(bob, alice);
  for (const [index, each] of all.entries()) {
    const verdict = await until(
      `${each.payer.name}'s payment ${index} is final`,
      () => verdictOf(each),
      FINAL_DEADLINE_MS,
    );
    if (said[index] === "complete") assert.equal(verdict, "complete", "what was said to be complete is");
  }
  await nothingLost(world, [channelId], before);
  assert.ok(atKill < PAYMENTS, "the kill came before the last payment was done");
  // What failed, or was never taken, can be paid now; what is complete is not paid again.
  for (const { payer, invoice } of all) {
    const { paymentPreimage } = await pay(payer, invoice.bolt11);
    assert.equal(paymentPreimage.length, 32);
  }
  await payNew(alice, bob, 1_000n);
  await nothingLost(world, [channelId], before);
}

/** A row: who is killed. */
interface Row {
  readonly name: string;
  readonly work: (world: World, channelId: string, before: Balances) => Promise<void>;
}

const DAEMONS: readonly Row[] = (["alice", "bob"] as const).flatMap((side) =>
  KILLED.map((daemon): Row => ({
    name: `${side}'s ${daemon}`,
    work: (world, channelId, before) => {
      const node = world[side];
      return killedAmidst(world, channelId, before, async () => {
        await node.daemon(daemon).kill();
      }, () => node.start());
    },
  }))
);

const WHOLE_NODE: Row = {
  name: "the whole node of alice",
  work: (world, channelId, before) =>
    killedAmidst(world, channelId, before, async () => {
      await Promise.all(world.alice.processes.map((process) => process.kill()));
    }, () => world.alice.start()),
};

/** Ours alone can be killed. */
const OWN_POSTGRES = worlds.postgres.source !== "environment";
const POSTGRES: Row = {
  name: "Postgres of both",
  work: (world, channelId, before) =>
    killedAmidst(world, channelId, before, () => worlds.postgres.kill(), async () => {
      await worlds.postgres.restart();
      for (const node of [world.alice, world.bob]) await node.start();
    }),
};

/** Runs rows in one world; a row that fails costs the world, and the next row gets a new one. */
async function runRows(t: Deno.TestContext, rows: readonly Row[]): Promise<void> {
  let left = rows;
  while (left.length > 0) {
    await worlds.withWorld(async (world) => {
      await fundedAndConnected(world);
      const { channelId } = await normalChannel(world);
      const before = await balancesOf(world, [channelId]);
      for (let row = left[0]; row !== undefined; row = left[0]) {
        left = left.slice(1);
        const { name, work } = row;
        const good = await t.step(`${name} is killed`, async () => {
          try {
            await work(world, channelId, before);
          } catch (error) {
            const text = error instanceof Error ? error.message : String(error);
            throw new Error(`${text}\n${logsOf([world.alice, world.bob])}`, { cause: error });
          }
        });
        if (!good) return;
      }
    }, { layout: "processes", options: MANY_SLOTS });
  }
}

Deno.test("each daemon is killed with -9 in the midst of 50 concurrent payments", (t) =>
  runRows(t, FULL ? [...DAEMONS, WHOLE_NODE] : DAEMONS));

Deno.test({
  name: "Postgres is killed with -9 in the midst of 50 concurrent payments",
  ignore: !OWN_POSTGRES,
  fn: (t) => runRows(t, [POSTGRES]),
});
