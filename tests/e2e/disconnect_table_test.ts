/**
 * The disconnect table: the connection breaks before and after every message of an open, of its lock-in and of a
 * replacement by either side, whoever says it, and comes back. Then both sides have forgotten what BOLT 2 forgets, and
 * completed what it completes. The rows come from recorded runs, so that no message is missing. More rows break the new
 * connection once more, while channel_reestablish and what it asks for are exchanged.
 *
 * Every break runs with each node as one process, and of those with a second break in the reestablish exchange a sample, drawn
 * by ARCUS_TEST_SEED; on separate processes a sample of all. With ARCUS_TEST_FULL=1 the whole table. ARCUS_TEST_ROWS, a pattern, runs only rows whose name it matches.
 */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import type { Layout, RunningNode } from "tools/node/launch.ts";
import {
  beginBump,
  bumpChannel,
  type Candidate,
  connect,
  finishNegotiation,
  fundWallets,
  openChannel,
  until,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import {
  type Cut,
  cutsAt,
  generationsOf,
  nameOfCut,
  reconnected,
  recordMessages,
  reestablished,
} from "../lib/cuts.ts";
import { untilInMempool } from "../lib/channels.ts";
import { faultsPending, setFaults, untilFaultsFired } from "../lib/faults.ts";
import { awaitsSignature, hasChannel, marksOf, untilOutcome } from "../lib/outcome.ts";
import { channelRows } from "../lib/rows.ts";
import { sample, seededByEnvironment } from "../lib/sampling.ts";
import { FULL, logsOf, useWorlds, type World } from "../lib/world.ts";

const worlds = await useWorlds();

/** What alice and bob each put into a channel, from coins of the second size. */
const SAT = 200_000n;
const COIN_SAT = 250_000n;
/** Coins of each wallet: every row takes one, and the recorded runs. */
const COINS = 160;
/** Coins of one payment: it must stay small enough for the purse's fee. */
const COINS_AT_ONCE = 10;
const PERKW = 1_000;
const BUMP = { sat: SAT, perkw: 2_000 };
/** Channels that wait for a block at a time; with one more, bob would put nothing into the next. */
const MOST_WAITING = 3;
/** Rows of a sample. */
const SAMPLE = 4;

/** Rows that somebody asked for. */
const ROWS = patternOf(Deno.env.get("ARCUS_TEST_ROWS"));

function patternOf(text: string | undefined): RegExp | undefined {
  return text === undefined ? undefined : new RegExp(text);
}

/** A row: the connection breaks there, during that; with `again`, the next connection breaks there. */
interface Row {
  readonly during: "open" | "lock-in" | "replacement" | "accepter's replacement" | "use";
  readonly cut: Cut;
  readonly again?: Cut;
}

const nameOf = ({ during, cut, again }: Row): string =>
  `${during}: ${nameOfCut(cut)}${again === undefined ? "" : `, then ${nameOfCut(again)}`}`;

const bumperOf = ({ alice, bob }: World, { during }: Row) => during === "replacement" ? alice : bob;

function nodeOf({ alice, bob }: World, { from }: Cut) {
  return from === "alice" ? alice : bob;
}

async function fund(world: World): Promise<void> {
  const { alice, bob, chain } = world;
  for (let coins = 0; coins < COINS; coins += COINS_AT_ONCE) {
    const payments = [alice, bob].flatMap((node) =>
      Array.from({ length: COINS_AT_ONCE }, () => ({ node, sat: COIN_SAT }))
    );
    await fundWallets(chain, payments);
  }
  await untilSynced(chain, alice, bob);
  await connect(alice, bob);
}

const open = ({ alice, bob }: World): Promise<Candidate> =>
  openChannel(alice, bob, { sat: SAT, perkw: PERKW });
const bump = (node: RunningNode, { channelId }: Candidate): Promise<Candidate> =>
  bumpChannel(node, channelId, BUMP);

/** A block for each few channels: the accepter bounds how many of one peer's wait for one. */
async function mineIfMany(world: World): Promise<void> {
  const { alice, bob, chain } = world;
  const { channels } = await alice.rpc.listPeerChannels({});
  const waiting = channels.filter(({ state }) => state !== ChannelState.ChanneldNormal);
  if (waiting.length < MOST_WAITING) return;
  for (const { channelId } of waiting) {
    const { attempts = [] } = await channelRows(alice, bytesToHex(channelId ?? new Uint8Array())) ?? {};
    const newest = attempts.findLast(({ complete, aborted }) => complete && !aborted);
    if (newest !== undefined) await untilInMempool(world, newest.txid);
  }
  await chain.mine(1);
  for (const node of [alice, bob]) {
    for (const { channelId } of waiting) {
      await untilState(node, bytesToHex(channelId ?? new Uint8Array()), ChannelState.ChanneldNormal);
    }
  }
}

async function bothIn(
  { alice, bob }: World,
  channelId: string,
  state: ChannelState,
): Promise<void> {
  for (const node of [alice, bob]) await untilState(node, channelId, state);
}

async function opened(world: World): Promise<Candidate> {
  const candidate = await open(world);
  await bothIn(world, candidate.channelId, ChannelState.DualopendAwaitingLockin);
  await bothComplete(world, candidate);
  await untilInMempool(world, candidate.txid);
  return candidate;
}

/** Waits until both have the attempt with all signatures. */
async function bothComplete({ alice, bob }: World, { channelId, txid }: Candidate): Promise<void> {
  for (const node of [alice, bob]) {
    await until(`${node.name} has all of ${txid}`, async () => {
      const attempts = (await channelRows(node, channelId))?.attempts ?? [];
      return attempts.some((attempt) => attempt.txid === txid && attempt.complete && !attempt.aborted);
    });
  }
}

/** What surely follows on the next connection, by what broke the one before: nobody has had that message yet. */
const EXCHANGES: readonly (readonly [Row["during"], Cut, readonly string[]])[] = [
  ["open", cutAt("close_before", "alice", "commitment_signed"), [
    "alice channel_reestablish",
    "bob channel_reestablish",
    "alice commitment_signed",
    "alice tx_signatures",
    "bob tx_signatures",
  ]],
  ["open", cutAt("close_before", "bob", "commitment_signed"), ["bob commitment_signed"]],
  // Our user signs only after the exchange.
  ["replacement", cutAt("close_before", "alice", "commitment_signed"), [
    "alice channel_reestablish",
    "bob channel_reestablish",
    "alice commitment_signed",
  ]],
  ["replacement", cutAt("close_before", "bob", "commitment_signed"), ["bob commitment_signed"]],
  ["accepter's replacement", cutAt("close_before", "alice", "commitment_signed"), [
    "alice channel_reestablish",
    "bob channel_reestablish",
    "alice commitment_signed",
  ]],
  ["lock-in", cutAt("close_before", "alice", "channel_ready"), [
    "alice channel_reestablish",
    "bob channel_reestablish",
    "alice channel_ready",
    "bob channel_ready",
  ]],
  ["use", cutAt("close_after", "alice", "channel_ready"), [
    "alice channel_reestablish",
    "bob channel_reestablish",
  ]],
];

function cutAt(action: Cut["action"], from: Cut["from"], message: string): Cut {
  return { action, from, message, nth: 1 };
}

/** The rows that break two connections. */
function exchangeRows(): Row[] {
  return EXCHANGES.flatMap(([during, cut, said]) =>
    said.flatMap((each) => {
      const [from, message] = each.split(" ") as [Cut["from"], string];
      return cutsAt([{ from, message, nth: 1 }]).map((again): Row => ({ during, cut, again }));
    })
  );
}

/** Records an open, its replacement by either side, and its lock-in: the table. */
async function recordRows(world: World): Promise<Row[]> {
  let candidate: Candidate | undefined;
  const opening = await recordMessages(world, async () => candidate = await opened(world));
  const first = candidate;
  assert.ok(first !== undefined);
  const replacing = await recordMessages(world, async () => {
    await bothComplete(world, await bump(world.alice, first));
  });
  const again = await opened(world);
  const replacingBack = await recordMessages(world, async () => {
    await bothComplete(world, await bump(world.bob, again));
  });
  const locking = await recordMessages(world, async () => {
    await world.chain.mine(1);
    for (const each of [first, again]) await bothIn(world, each.channelId, ChannelState.ChanneldNormal);
  });
  for (const message of ["open_channel2", "accept_channel2", "tx_add_input", "tx_signatures"]) {
    assert.ok(opening.some((said) => said.message === message), `the open has ${message}`);
  }
  for (const message of ["tx_init_rbf", "tx_ack_rbf", "tx_complete", "tx_signatures"]) {
    for (const recorded of [replacing, replacingBack]) {
      assert.ok(recorded.some((said) => said.message === message), `the replacement has ${message}`);
    }
  }
  assert.ok(replacingBack.some(({ from, message }) => from === "bob" && message === "tx_init_rbf"));
  assert.deepEqual(
    locking.map(({ from, message }) => `${from} ${message}`).sort(),
    ["alice channel_ready", "alice channel_ready", "bob channel_ready", "bob channel_ready"],
  );
  const rows = (during: Row["during"], cuts: readonly Cut[]) => cuts.map((cut): Row => ({ during, cut }));
  return [
    ...rows("open", cutsAt(opening)),
    ...rows("replacement", cutsAt(replacing)),
    ...rows("accepter's replacement", cutsAt(replacingBack)),
    ...rows("lock-in", cutsAt(locking.filter(({ nth }) => nth === 1))),
    ...exchangeRows(),
  ];
}

/** Breaks the connection at the row's place while `work` runs, and waits until it is there again. */
async function cutDuring(world: World, { cut }: Row, work: () => Promise<unknown>): Promise<void> {
  const before = await generationsOf(world);
  const node = nodeOf(world, cut);
  await setFaults(node, { action: cut.action, message: cut.message, nth: cut.nth });
  // What is cut may fail, but not before it was cut.
  const working = work().catch(async (error: unknown) => {
    if (await faultsPending(node) > 0) throw error;
  });
  await Promise.race([untilFaultsFired(node), working.then(() => untilFaultsFired(node))]);
  await reconnected(world, before);
  await working;
  await setFaults(node);
}

/** Breaks the connection at the row's place while `work` runs, and the next one at its second place. */
async function cutTwice(world: World, { cut }: Row, again: Cut, work: () => Promise<unknown>): Promise<void> {
  const { alice, bob } = world;
  // Both in one daemon: its rules follow each other, so the second counts from the first break on.
  const rule = ({ action, from, message, nth }: Cut) =>
    ({ action, message, nth, direction: from === "alice" ? "out" : "in" }) as const;
  await setFaults(alice, rule(cut), rule(again));
  const working = work().catch(async (error: unknown) => {
    if (await faultsPending(alice) > 1) throw error;
  });
  // Somebody dials until the second break; a connection that is there already is no matter.
  const broken = until(`broken twice: ${nameOfCut(cut)}, then ${nameOfCut(again)}`, async () => {
    const pending = await faultsPending(alice);
    if (pending === 1) await dialled(world);
    return pending === 0;
  });
  await Promise.all([broken, working]);
  await setFaults(alice);
  // Rows may still name the connection that broke: only a live one carries a pong.
  await until("connected again", async () => {
    await dialled(world);
    return await answers(alice, bob) && await answers(bob, alice);
  });
}

function answers(node: RunningNode, peer: RunningNode): Promise<boolean> {
  return node.rpc.ping({ id: hexToBytes(peer.id) }).then(() => true, () => false);
}

/** alice calls bob. It may break at once. */
async function dialled({ alice, bob }: World): Promise<void> {
  await alice.rpc.connectPeer({ id: `${bob.id}@${bob.address}` }).catch(() => {});
}

/** Does the row's work under its cuts. */
async function broken(world: World, row: Row, work: () => Promise<unknown>): Promise<void> {
  if (row.again === undefined) await cutDuring(world, row, work);
  else await cutTwice(world, row, row.again, work);
}

/** Whether BOLT 2 leaves no choice: no commitment_signed can have been sent, or both were received. */
function demanded({ during, cut, again }: Row, rows: readonly Row[]): "forgotten" | "complete" | undefined {
  // Each side stores the attempt before it says commitment_signed, and the exchange begins with both.
  if (again !== undefined) return undefined;
  if (cut.message === "tx_signatures") return "complete";
  const before = rows.filter((row) =>
    row.during === during && row.cut.action === cut.action && row.again === undefined
  );
  const last = before.findLast((row) => row.cut.message === "tx_complete");
  const index = before.findIndex(({ cut: { from, message, nth } }) =>
    from === cut.from && message === cut.message && nth === cut.nth
  );
  const lastIndex = last === undefined ? -1 : before.indexOf(last);
  if (index < lastIndex || (index === lastIndex && cut.action === "close_before")) return "forgotten";
  return undefined;
}

async function runRow(world: World, row: Row, rows: readonly Row[]): Promise<void> {
  const { alice, bob, chain } = world;
  await mineIfMany(world);
  switch (row.during) {
    case "open": {
      const marks = await marksOf(alice, bob);
      await broken(world, row, () => open(world));
      const outcome = await untilOutcome(world, marks);
      assert.equal(outcome.type, demanded(row, rows) ?? outcome.type);
      if (outcome.type === "complete") {
        await bothIn(world, outcome.channelId, ChannelState.DualopendAwaitingLockin);
      }
      return;
    }
    case "replacement":
    case "accepter's replacement": {
      const bumper = bumperOf(world, row);
      const first = await opened(world);
      const marks = await marksOf(alice, bob);
      let negotiated = "";
      await broken(world, row, async () => {
        const begun = await beginBump(bumper, first.channelId, BUMP);
        negotiated = begun.psbt;
        await finishNegotiation(bumper, begun);
      });
      if (await awaitsSignature(bumper, marks)) {
        await reestablished(world, first.channelId);
        await bumper.rpc.openChannelSigned({
          channelId: hexToBytes(first.channelId),
          signedPsbt: negotiated,
        });
      }
      const outcome = await untilOutcome(world, marks);
      assert.equal(outcome.type, demanded(row, rows) ?? outcome.type);
      await bothIn(world, first.channelId, ChannelState.DualopendAwaitingLockin);
      // The earlier attempt is as it was, and can be replaced again if the replacement is gone.
      await bothComplete(world, first);
      if (outcome.type === "forgotten") {
        await reestablished(world, first.channelId);
        await bothComplete(world, await bump(bumper, first));
      }
      return;
    }
    case "lock-in":
    case "use": {
      const first = await opened(world);
      await broken(world, row, () => chain.mine(1));
      await bothIn(world, first.channelId, ChannelState.ChanneldNormal);
      return;
    }
  }
}

/** Every channel that is left is used in the end, and nothing else is left. */
async function assertAllUsable({ alice, bob, chain }: World): Promise<void> {
  await chain.mine(1);
  const idsOf = async (node: World["alice"]) => {
    const channels = await until(`all channels of ${node.name} are usable`, async () => {
      const { channels } = await node.rpc.listPeerChannels({});
      return channels.every(({ state }) => state === ChannelState.ChanneldNormal) && channels;
    });
    return channels.map(({ channelId, fundingTxid, totalMsat }) => ({
      id: channelId?.toHex(),
      txid: fundingTxid?.toHex(),
      msat: totalMsat?.msat,
    })).sort((a, b) => (a.id ?? "") < (b.id ?? "") ? -1 : 1);
  };
  const ids = await idsOf(alice);
  assert.deepEqual(await idsOf(bob), ids);
  const [first] = ids;
  if (first?.id !== undefined) assert.ok(await hasChannel(bob, first.id));
}

async function withLogs({ alice, bob }: World, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    throw new Error(`${text}\n${logsOf([alice, bob])}`, { cause: error });
  }
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
      await fund(world);
      const rows = await recordRows(world);
      left ??= ROWS === undefined ? choose(rows) : rows.filter((row) => ROWS.test(nameOf(row)));
      assert.ok(left.length > 0, "no such row");
      while (left.length > 0) {
        const [row, ...rest] = left;
        if (row === undefined) return;
        left = rest;
        if (!await t.step(nameOf(row), () => withLogs(world, () => runRow(world, row, rows)))) return;
      }
      await t.step("every channel that is left is usable", () => assertAllUsable(world));
    }, { layout, options: { "log-level": "trace" } });
  } while (left !== undefined && left.length > 0);
}

// Who says what first may differ from run to run; which rows there are does not.
const sampled = (rows: readonly Row[]): readonly Row[] =>
  sample(seededByEnvironment(), rows.toSorted((a, b) => nameOf(a) < nameOf(b) ? -1 : 1), SAMPLE);

/** Every break, and some of the second ones on top of a first. */
function everyBreak(rows: readonly Row[]): readonly Row[] {
  return [
    ...rows.filter(({ again }) => again === undefined),
    ...sampled(rows.filter(({ again }) => again !== undefined)),
  ];
}

Deno.test("disconnect before and after every message, each node as one process", (t) =>
  runRows(t, "one", FULL ? (rows) => rows : everyBreak));

Deno.test(`disconnect before and after ${FULL ? "every message" : "some messages"}, separate processes`, (t) =>
  runRows(t, "processes", FULL ? (rows) => rows : sampled));
