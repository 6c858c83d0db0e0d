/**
 * `deno task demo`: two nodes on a real regtest chain open a channel that both fund, replace its funding transaction by fee,
 * see one of the candidates mined, and reach CHANNELD_NORMAL. Exit status 0 only if both did, on the mined candidate.
 *
 *     deno task demo                  mines the replacement
 *     deno task demo --mine first     mines the first candidate instead, as a miner may
 *     deno task demo --layout one     each node as one process, instead of five
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import {
  attemptsOf,
  balanceOf,
  bumpChannel,
  type Candidate,
  channelOf,
  connect,
  fundWallets,
  openChannel,
  spendable,
  until,
  untilState,
  untilSynced,
} from "./node/commands.ts";
import { createNodeDatabase } from "./node/database.ts";
import { untilSignal } from "./node/ending.ts";
import { type Layout, RunningNode } from "./node/launch.ts";
import { createStory, sats, type Story } from "./node/story.ts";
import {
  findBitcoind,
  findSecp256k1,
  type PostgresServer,
  type RegtestNode,
  startBitcoind,
  startPostgres,
} from "./parts/mod.ts";

const WALLET_SAT = 1_000_000n;
const FIRST_SAT = 400_000n;
const SECOND_SAT = 500_000n;
const FIRST_PERKW = 1_000;
const SECOND_PERKW = 2_500;
const MATCH_PERCENT = 50;
/** Blocks until the channel may be used. */
const CONFIRMS = 3;
/** From the moment that the parts are there. */
const STORY_DEADLINE_MS = 5 * 60_000;
const SAT_PER_BTC = 1e8;

interface Options {
  readonly mine: "first" | "last";
  readonly layout: Layout;
}

const HELP = `deno task demo [--mine first|last] [--layout processes|one]

Two nodes on a real regtest chain open a channel that both fund, replace its funding transaction by one with a higher
fee, see one of the two mined, and use the channel. Everything that it needs is set up in temporary folders and gone
afterwards.

  --mine first|last          which candidate the miner takes (default: last)
  --layout processes|one     each node as six processes (default), or as one`;

function optionsOf(args: string[]): Options | string {
  try {
    const { values } = parseArgs({
      args,
      options: {
        mine: { type: "string", default: "last" },
        layout: { type: "string", default: "processes" },
        help: { type: "boolean", default: false },
      },
    });
    const { mine, layout, help } = values;
    if (help) return HELP;
    if (mine !== "first" && mine !== "last") return `--mine ${mine}: first or last\n\n${HELP}`;
    if (layout !== "processes" && layout !== "one") return `--layout ${layout}: processes or one\n\n${HELP}`;
    return { mine, layout };
  } catch (error) {
    return `${error instanceof Error ? error.message : error}\n\n${HELP}`;
  }
}

interface Stage {
  readonly chain: RegtestNode;
  readonly postgres: PostgresServer;
  readonly dir: string;
  readonly secp256k1: string | undefined;
}

async function startParts(story: Story, dir: string): Promise<Stage> {
  story.chapter("The parts: a chain, a database, a curve");
  const bitcoind = await findBitcoind(story.progress);
  const library = await findSecp256k1(story.progress);
  const chain = await story.step(
    "starting bitcoind on a regtest chain of its own",
    () => startBitcoind({ bitcoind }),
  );
  const postgres = await story.step("starting Postgres", () => startPostgres({ progress: story.progress }));
  story.fact("bitcoind", `${bitcoind.bitcoind}, RPC port ${chain.rpcPort}`);
  story.fact("Postgres", `${postgres.version} (${postgres.source})`);
  story.fact("secp256k1", library === undefined ? "@noble/curves (JavaScript)" : library.library);
  await chain.mine(1);
  return { chain, postgres, dir, secp256k1: library?.library };
}

async function startNodes(story: Story, stage: Stage, layout: Layout): Promise<[RunningNode, RunningNode]> {
  story.chapter(
    layout === "processes"
      ? "Two nodes, five daemons each"
      : "Two nodes, each with its five daemons in one process",
  );
  const make = async (name: string, options: Record<string, string>) =>
    new RunningNode({
      name,
      dir: join(stage.dir, name),
      database: await createNodeDatabase(stage.postgres),
      bitcoind: stage.chain,
      layout,
      options: { "funding-confirms": String(CONFIRMS), "rbf-blocks-apart": "0", ...options },
      secp256k1: stage.secp256k1,
      temporary: true,
    });
  const alice = await make("alice", {});
  const bob = await make("bob", { "funder-policy": "match", "funder-policy-mod": String(MATCH_PERCENT) });
  running.push(alice, bob);
  for (const node of [alice, bob]) await story.step(`starting ${node.name}`, () => node.start());
  for (const node of [alice, bob]) {
    story.fact(node.name, node.id);
    story.fact(
      "",
      story.dim(`listens for peers on ${node.address}, grpcurl at ${node.target("lightningd")}`),
    );
  }
  return [alice, bob];
}

/** Nodes to be ended, whatever happens. */
const running: RunningNode[] = [];

async function fund(story: Story, { chain }: Stage, alice: RunningNode, bob: RunningNode): Promise<void> {
  story.chapter("Coins for both wallets");
  await story.step(
    "mining the coins and paying them out",
    () => fundWallets(chain, [{ node: alice, sat: WALLET_SAT }, { node: bob, sat: WALLET_SAT }]),
  );
  await untilSynced(chain, alice, bob);
  for (const node of [alice, bob]) story.fact(`${node.name}'s wallet`, sats(await spendable(node)));
}

/** What the miner sees of a candidate. */
async function showCandidate(
  story: Story,
  { chain }: Stage,
  alice: RunningNode,
  candidate: Candidate,
  number: number,
): Promise<void> {
  const entry = await until(
    `candidate ${number} in the mempool`,
    () =>
      chain.rpc<{ weight: number; fees: { base: number } }>("getmempoolentry", [candidate.txid]).catch(() =>
        undefined
      ),
  );
  const channel = await channelOf(alice, candidate.channelId);
  const attempt = channel === undefined
    ? undefined
    : attemptsOf(channel).find(({ txid }) => txid === candidate.txid);
  if (attempt === undefined) throw new Error(`alice does not list candidate ${candidate.txid}`);
  const fee = BigInt(Math.round(entry.fees.base * SAT_PER_BTC));
  story.fact(`candidate ${number}`, story.bold(candidate.txid));
  story.fact("  alice puts in", sats(attempt.ourSat));
  story.fact("  bob puts in", sats(attempt.totalSat - attempt.ourSat));
  story.fact("  capacity", sats(attempt.totalSat));
  story.fact(
    "  fee rate",
    `${attempt.perkw} sat/kw agreed; ${sats(fee)} for ${entry.weight} weight units in the mempool`,
  );
}

async function tell(story: Story, stage: Stage, options: Options): Promise<void> {
  const { chain } = stage;
  const [alice, bob] = await startNodes(story, stage, options.layout);
  await fund(story, stage, alice, bob);

  story.chapter("alice connects to bob and opens a channel; bob's policy matches half of what she puts in");
  await story.step("connecting: Noise handshake, init", () => connect(alice, bob));
  const first = await story.step(
    "negotiating, signing, broadcasting",
    () => openChannel(alice, bob, { sat: FIRST_SAT, perkw: FIRST_PERKW }),
  );
  await showCandidate(story, stage, alice, first, 1);
  for (const node of [alice, bob]) {
    await untilState(node, first.channelId, ChannelState.DualopendAwaitingLockin);
  }
  story.fact("both are", "DUALOPEND_AWAITING_LOCKIN");

  story.chapter("Nobody mines it. alice replaces it: a higher fee, and more from both sides");
  const second = await story.step(
    "openchannel_bump, _update, _signed",
    () => bumpChannel(alice, first.channelId, { sat: SECOND_SAT, perkw: SECOND_PERKW }),
  );
  await showCandidate(story, stage, alice, second, 2);
  await until(
    "candidate 1 gone from the mempool",
    async () => !(await chain.rpc<string[]>("getrawmempool")).includes(first.txid),
  );
  story.fact("candidate 1", "replaced in the mempool");

  const mined = options.mine === "first" ? first : second;
  story.chapter(
    options.mine === "first"
      ? "The miner takes the first candidate all the same"
      : "The miner takes the replacement",
  );
  const hash = await chain.mineWith([mined.tx]);
  const height = await chain.height();
  story.fact("block", `${height} ${hash}`);
  story.fact("funds it", story.bold(mined.txid));
  await chain.mineEmpty(CONFIRMS - 1);
  story.fact("depth", `${CONFIRMS} blocks`);

  story.chapter("Both lock it in");
  const alicePut = options.mine === "first" ? FIRST_SAT : SECOND_SAT;
  const bobPut = alicePut * BigInt(MATCH_PERCENT) / 100n;
  for (const [node, put] of [[alice, alicePut], [bob, bobPut]] as const) {
    const channel = await story.step(
      `${node.name}: channel_ready both ways, over to channeld`,
      () => untilState(node, mined.channelId, ChannelState.ChanneldNormal),
    );
    const txid = bytesToHex(channel.fundingTxid ?? new Uint8Array());
    if (txid !== mined.txid) {
      throw new Error(`${node.name} funds its channel with ${txid}, not with what was mined`);
    }
    const { ourSat, totalSat } = balanceOf(channel);
    if (ourSat !== put || totalSat !== alicePut + bobPut) {
      throw new Error(`${node.name} has ${ourSat} of ${totalSat} sat, not ${put} of ${alicePut + bobPut}`);
    }
    story.fact(node.name, story.good("CHANNELD_NORMAL"));
    story.fact("  channel", `${channel.shortChannelId ?? "?"} (${mined.channelId})`);
    story.fact("  balance", `${sats(ourSat)} of ${sats(totalSat)}`);
  }
}

async function withDeadline(work: Promise<void>, ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the story did not end within ${ms / 60_000} minutes`)), ms);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function run(options: Options): Promise<number> {
  const story = createStory();
  const dir = await mkdtemp(join(tmpdir(), "arcus-demo-"));
  let stage: Stage | undefined;
  const end = async (graceful: boolean) => {
    await Promise.all(running.map((node) => graceful ? node.stop() : node.kill()));
    await stage?.chain.stop();
    await stage?.postgres.stop();
    await rm(dir, { recursive: true, force: true });
  };
  const work = async (): Promise<number> => {
    let failure: unknown;
    story.progress.info(story.bold("Arcus: a channel that both sides fund, bumped, mined and used."));
    try {
      stage = await startParts(story, dir);
      await withDeadline(tell(story, stage, options), STORY_DEADLINE_MS);
    } catch (error) {
      failure = error;
    }
    if (interrupted) return 1;
    if (failure !== undefined) {
      for (const node of running) {
        story.progress.info(`\n--- the last lines of ${node.name}\n${node.logs.tail()}`);
      }
    }
    await story.step("ending every process", () => end(failure === undefined));
    if (failure === undefined) {
      story.progress.info(`\n${story.good("✓")} Both nodes are in CHANNELD_NORMAL on the mined candidate.`);
      return 0;
    }
    story.progress.info(`\n${story.bad("✗")} ${failure instanceof Error ? failure.message : failure}`);
    return 1;
  };
  let interrupted = false;
  return await untilSignal(work, async () => {
    interrupted = true;
    story.progress.info("\ninterrupted: ending every process");
    await end(false);
  });
}

if (import.meta.main) {
  const options = optionsOf(Deno.args);
  if (typeof options === "string") {
    console.log(options);
    Deno.exit(options === HELP ? 0 : 2);
  }
  Deno.exit(await run(options));
}
