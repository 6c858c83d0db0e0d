/**
 * Each daemon of either side, and Postgres, is killed with -9 in the midst of 50 concurrent payments, and started again.
 * Every payment then has one final state, the same on both sides; what failed can be paid again; no millisatoshi is lost.
 * ARCUS_TEST_ROWS, a pattern, runs only rows whose name it matches.
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
const WORKERS = 50;
/** Dust and not. */
const AMOUNTS_MSAT = [1_000n, 1_000_001n];
/** The kill comes when so many payments are complete, and at least so many under way: other workers make an invoice. */
const BEFORE_KILL = 25;
const UNDER_WAY = 20;
const FINAL_DEADLINE_MS = 60_000;

const KILLED: readonly DaemonName[] = ["hsmd", "lightningd", "connectd", "channeld"];

/** A payment that a test wants to see done. */
interface Wanted {
  readonly payer: RunningNode;
  readonly payee: RunningNode;
  readonly invoice: TestInvoice;
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
  const all: Wanted[] = [];
  const complete = new Set<Wanted>();
  const enough = Promise.withResolvers<void>();
  let killed = false;
  let underWay = 0;
  const work = async (index: number) => {
    const [payer, payee] = index % 2 === 0 ? [alice, bob] : [bob, alice];
    const msat = AMOUNTS_MSAT[(index >> 1) % AMOUNTS_MSAT.length] ?? 1n;
    while (!killed) {
      try {
        const each = { payer, payee, invoice: await makeInvoice(payee, msat) };
        all.push(each);
        if (++underWay >= UNDER_WAY && complete.size >= BEFORE_KILL) enough.resolve();
        await pay(payer, each.invoice.bolt11).finally(() => underWay--);
        complete.add(each);
      } catch (error) {
        // The daemon that was asked is dead, or says no: what became of the payment is asked for below.
        if (!(error instanceof ArcusError)) throw error;
        if (!killed) throw error;
      }
    }
  };
  const working = Promise.all(Array.from({ length: WORKERS }, (_, index) => work(index)));
  await Promise.race([enough.promise, working]);
  killed = true;
  await kill();
  await revive();
  await working;
  await untilSynced(chain, alice, bob);
  await untilConnected(alice, bob);
  await untilConnected(bob, alice);
  for (const [index, each] of all.entries()) {
    const verdict = await until(
      `${each.payer.name}'s payment ${index} is final`,
      () => verdictOf(each),
      FINAL_DEADLINE_MS,
    );
    if (complete.has(each)) assert.equal(verdict, "complete", "what was said to be complete is");
  }
  await nothingLost(world, [channelId], before);
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
  const pattern = new RegExp(Deno.env.get("ARCUS_TEST_ROWS") ?? "");
  let left = rows.filter(({ name }) => pattern.test(name));
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
