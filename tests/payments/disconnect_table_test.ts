/**
 * The disconnect table of payments: the connection breaks before and after every message of a payment that is paid and of
 * one that is refused, at who says it and at who hears it, whoever pays. Then it comes back, and the payment ends as if
 * nothing had been; not a millisatoshi is lost. The rows come from recorded runs, so that no message is missing.
 *
 * With each node as one process every row at the saying side runs, and a sample of those at the hearing side, drawn by
 * ARCUS_TEST_SEED; on separate processes a sample. With ARCUS_TEST_FULL=1 the whole table runs on both. ARCUS_TEST_ROWS, a
 * pattern, runs only rows whose name it matches.
 */
import assert from "node:assert/strict";
import type { Layout } from "tools/node/launch.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { fundedAndConnected, normalChannel } from "../lib/channels.ts";
import { type Cut, cutsAt, generationsOf, nameOfCut, reconnected, recordMessages } from "../lib/cuts.ts";
import { type Fault, faultsPending, setFaults, untilFaultsFired } from "../lib/faults.ts";
import {
  type Balances,
  balancesOf,
  failureOf,
  forgottenInvoice,
  makeInvoice,
  nothingLost,
  pay,
  untilSettled,
} from "../lib/payments.ts";
import { sample, seededByEnvironment } from "../lib/sampling.ts";
import { FULL, logsOf, useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** An HTLC with an output on both commitments, so that HTLC signatures are among what is sent again. */
const MSAT = 1_000_001n;
/** CLN: the destination refuses the payment for good. */
const REFUSED = 203;
/** Rows of a sample. */
const SAMPLE = 6;

const ROWS = patternOf(Deno.env.get("ARCUS_TEST_ROWS"));

function patternOf(text: string | undefined): RegExp | undefined {
  return text === undefined ? undefined : new RegExp(text);
}

/** A row: the connection breaks there, during that. */
interface Row {
  readonly payer: "alice" | "bob";
  readonly outcome: "paid" | "refused";
  readonly cut: Cut;
  /** Who breaks it: the one that says the message or the one that hears it. */
  readonly at: "saying" | "hearing";
}

const nameOf = ({ payer, outcome, cut, at }: Row): string =>
  `${payer}'s payment is ${outcome}: ${nameOfCut(cut)}, at the ${at} side`;

const OTHER = { alice: "bob", bob: "alice" } as const;

/** Pays, and sees that the end is the one that was asked for. */
async function payTo(payer: RunningNode, payee: RunningNode, outcome: Row["outcome"]): Promise<void> {
  if (outcome === "paid") {
    await pay(payer, (await makeInvoice(payee, MSAT)).bolt11);
  } else {
    const { clnCode, message } = await failureOf(pay(payer, (await forgottenInvoice(payee, MSAT)).bolt11));
    assert.equal(clnCode, REFUSED, message);
  }
}

/** Messages that every payment has, as often as given. */
const EXPECTED: Readonly<Record<string, number>> = {
  update_add_htlc: 1,
  commitment_signed: 4,
  revoke_and_ack: 4,
};

/** Records a payment of each kind: the table. */
async function recordRows(world: World): Promise<Row[]> {
  const { alice, bob } = world;
  const rows: Row[] = [];
  for (const payer of ["alice", "bob"] as const) {
    for (const outcome of ["paid", "refused"] as const) {
      const said = await recordMessages(world, async () => {
        await payTo(world[payer], world[OTHER[payer]], outcome);
        await untilSettled(alice, bob);
      });
      const counts: Record<string, number> = {};
      for (const { message } of said) counts[message] = (counts[message] ?? 0) + 1;
      const removal = outcome === "paid" ? "update_fulfill_htlc" : "update_fail_htlc";
      assert.deepEqual(counts, { ...EXPECTED, [removal]: 1 }, `messages of a payment that is ${outcome}`);
      for (const cut of cutsAt(said)) {
        for (const at of ["saying", "hearing"] as const) rows.push({ payer, outcome, cut, at });
      }
    }
  }
  return rows;
}

function faultOf({ cut, at }: Row): Fault {
  const { action, message, nth } = cut;
  return { action, message, nth, direction: at === "saying" ? "out" : "in" };
}

async function runRow(world: World, row: Row, before: Balances, channelId: string): Promise<void> {
  const { payer, outcome, cut, at } = row;
  const generations = await generationsOf(world);
  const node = world[at === "saying" ? cut.from : OTHER[cut.from]];
  await setFaults(node, faultOf(row));
  const paying = payTo(world[payer], world[OTHER[payer]], outcome);
  // A failure before the cut is the failure of the row.
  const failed = paying.then(() => new Promise<never>(() => {}), async (error) => {
    if (await faultsPending(node) > 0) throw error;
    return await new Promise<never>(() => {});
  });
  await Promise.race([untilFaultsFired(node), failed]);
  await reconnected(world, generations);
  await paying;
  await setFaults(node);
  await nothingLost(world, [channelId], before);
}

/** Runs rows in one world; a row that fails costs the world, and the next row gets a new one. */
async function runRows(
  t: Deno.TestContext,
  layout: Layout,
  choose: (rows: readonly Row[]) => readonly Row[],
): Promise<void> {
  let left: readonly Row[] | undefined;
  do {
    await worlds.withWorld(async (world) => {
      await fundedAndConnected(world);
      const { channelId } = await normalChannel(world);
      const before = await balancesOf(world, [channelId]);
      const rows = await recordRows(world);
      left ??= ROWS === undefined ? choose(rows) : rows.filter((row) => ROWS.test(nameOf(row)));
      assert.ok(left.length > 0, "no such row");
      for (let row = left[0]; row !== undefined; row = left[0]) {
        left = left.slice(1);
        const chosen = row;
        const good = await t.step(nameOf(chosen), async () => {
          try {
            await runRow(world, chosen, before, channelId);
          } catch (error) {
            const text = error instanceof Error ? error.message : String(error);
            throw new Error(`${text}\n${logsOf([world.alice, world.bob])}`, { cause: error });
          }
        });
        if (!good) return;
      }
    }, { layout, options: { "log-level": "trace" } });
  } while (left !== undefined && left.length > 0);
}

const sampled = (rows: readonly Row[]): Row[] =>
  sample(seededByEnvironment(), rows.toSorted((a, b) => nameOf(a) < nameOf(b) ? -1 : 1), SAMPLE);

Deno.test("disconnect before and after every message of a payment, each node as one process", (t) =>
  runRows(t, "one", (rows) => {
    if (FULL) return rows;
    const saying = rows.filter(({ at }) => at === "saying");
    return [...saying, ...sampled(rows.filter(({ at }) => at === "hearing"))];
  }));

Deno.test(
  `disconnect before and after ${FULL ? "every message" : "some messages"} of a payment, separate processes`,
  (t) => runRows(t, "processes", FULL ? (rows) => rows : sampled),
);
