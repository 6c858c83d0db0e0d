/**
 * `deno task dev`: one node on a regtest chain of its own, left running until Ctrl-C, with every address to call.
 *
 *     deno task dev                          six processes, everything in a temporary folder
 *     deno task dev --layout one             one process
 *     deno task dev --dir FOLDER             keeps chain, database and node there, and finds them again
 *     deno task dev --set funder-policy=match --set funder-policy-mod=100
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { fundWallets, newAddress } from "./node/commands.ts";
import { DAEMON_NAMES } from "./node/daemons.ts";
import { openNodeDatabase } from "./node/database.ts";
import { untilSignal } from "./node/ending.ts";
import { type Layout, RunningNode } from "./node/launch.ts";
import { createStory, sats, type Story } from "./node/story.ts";
import { findBitcoind, findSecp256k1, type RegtestNode, startBitcoind, startPostgres } from "./parts/mod.ts";

const START_SAT = 100_000_000n;
const DATABASE = "arcus_dev";

const HELP = `deno task dev [--layout processes|one] [--dir FOLDER] [--set OPTION=VALUE ...]

Starts bitcoind on a regtest chain, Postgres and one node with a filled wallet, prints every address to call, and runs
until Ctrl-C. Without --dir everything is in a temporary folder that is gone afterwards.`;

interface Options {
  readonly layout: Layout;
  readonly dir: string | undefined;
  readonly set: Readonly<Record<string, string>>;
}

function optionsOf(args: string[]): Options | string {
  try {
    const { values } = parseArgs({
      args,
      options: {
        layout: { type: "string", default: "processes" },
        dir: { type: "string" },
        set: { type: "string", multiple: true, default: [] },
        help: { type: "boolean", default: false },
      },
    });
    const { layout, dir, set, help } = values;
    if (help) return HELP;
    if (layout !== "processes" && layout !== "one") return `--layout ${layout}: processes or one\n\n${HELP}`;
    const pairs = set.map((text) => {
      const at = text.indexOf("=");
      if (at <= 0) throw new Error(`--set ${text}: OPTION=VALUE`);
      return [text.slice(0, at), text.slice(at + 1)];
    });
    return { layout, dir: dir === undefined ? undefined : resolve(dir), set: Object.fromEntries(pairs) };
  } catch (error) {
    return `${error instanceof Error ? error.message : error}\n\n${HELP}`;
  }
}

function show(story: Story, node: RunningNode, chain: RegtestNode): void {
  story.chapter("The node runs. Ctrl-C ends it");
  story.fact("node id", node.id);
  story.fact("peers", `${node.id}@${node.address}`);
  story.fact("folder", node.dir);
  story.fact("API, gRPC", node.apiAddress ?? "");
  story.fact("API, JSON-RPC", node.rpcFile);
  for (const daemon of DAEMON_NAMES) {
    story.fact(daemon, `${node.target(daemon)}  ${story.dim(`log: ${node.logFile(daemon)}`)}`);
  }
  const bitcoinCli = chain.bitcoind.bitcoinCli ?? "bitcoin-cli";
  story.fact("bitcoind", `${bitcoinCli} -datadir=${chain.dir} -regtest COMMAND`);
  story.chapter("What to call");
  const api = node.apiAddress ?? "";
  story.say(`grpcurl -plaintext ${api} list`);
  story.say(`grpcurl -plaintext ${api} describe cln.Node`);
  story.say(`grpcurl -plaintext ${api} cln.Node/Getinfo`);
  story.say(`grpcurl -plaintext -unix ${node.socketPath("connectd")} arcus.connectd.v1.Connectd/ListPeers`);
  story.say(`deno task cli --lightning-dir ${node.dir} getinfo`);
}

/** Parts in the order in which they were started; ended the other way round. */
type Ends = (() => Promise<unknown>)[];

async function run(options: Options, story: Story, dir: string, ends: Ends): Promise<void> {
  const temporary = options.dir === undefined;
  story.chapter("The parts: a chain, a database, a curve");
  const bitcoind = await findBitcoind(story.progress);
  const library = await findSecp256k1(story.progress);
  const kept = (name: string) => temporary ? {} : { dir: join(dir, name) };
  const chain = await story.step("starting bitcoind", () => startBitcoind({ bitcoind, ...kept("bitcoind") }));
  ends.push(() => chain.stop());
  const postgres = await story.step(
    "starting Postgres",
    () => startPostgres({ progress: story.progress, ...kept("postgres") }),
  );
  ends.push(() => postgres.stop());
  if (await chain.height() === 0) await chain.mine(1);
  const database = await story.step("migrating", () => openNodeDatabase(postgres, DATABASE));
  const node = new RunningNode({
    name: "dev",
    dir: join(dir, "node"),
    database,
    bitcoind: chain,
    layout: options.layout,
    options: options.set,
    secp256k1: library?.library,
    temporary,
  });
  ends.push(() => node.stop());
  await story.step("starting the node", () => node.start());
  if (temporary) {
    await story.step(
      `paying ${sats(START_SAT)} to the wallet`,
      () => fundWallets(chain, [{ node, sat: START_SAT }]),
    );
  } else {
    story.fact("an address", await newAddress(node));
  }
  show(story, node, chain);
  await new Promise<never>(() => setInterval(() => {}, IDLE_MS));
}

/** Only something that is due keeps the process from ending. */
const IDLE_MS = 60_000;

if (import.meta.main) {
  const options = optionsOf(Deno.args);
  if (typeof options === "string") {
    console.log(options);
    Deno.exit(options === HELP ? 0 : 2);
  }
  const story = createStory();
  const dir = options.dir ?? await mkdtemp(join(tmpdir(), "arcus-dev-"));
  const ends: Ends = [];
  const end = async () => {
    story.progress.info("\nending every process");
    for (let step = ends.pop(); step !== undefined; step = ends.pop()) await step();
    if (options.dir === undefined) await rm(dir, { recursive: true, force: true });
  };
  try {
    await untilSignal(() => run(options, story, dir, ends), end);
  } catch (error) {
    story.progress.info(`${story.bad("✗")} ${error instanceof Error ? error.message : error}`);
    await end();
    Deno.exit(1);
  }
}
