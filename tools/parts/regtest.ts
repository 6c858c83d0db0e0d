import { createHmac, randomBytes } from "node:crypto";
import { join } from "node:path";
import { type Progress, quietProgress } from "tools/progress.ts";
import { bitcoinRpc, BitcoinRpcError, RPC_IN_WARMUP } from "./bitcoin_rpc.ts";
import { type Bitcoind, findBitcoind } from "./bitcoind.ts";
import { removeDir } from "./cache.ts";
import { type GuardedChild, spawnGuarded } from "./child.ts";
import { freePort } from "./ports.ts";
import { type Coin, Purse } from "./purse.ts";

/** How a regtest node is started. */
export interface RegtestOptions {
  /** Kept when the node stops, and used again when it exists. Default: a temporary directory, removed at the end. */
  dir?: string;
  /** Default true. */
  txindex?: boolean;
  /** Further lines of the configuration file, like `mempoolfullrbf=0`. */
  extra?: readonly string[];
  /** Default: what {@link findBitcoind} gives. */
  bitcoind?: Bitcoind;
  /** Shows the search for bitcoind. Default: nothing is shown. */
  progress?: Progress;
}

/** A transaction output to be made. */
export interface Payment {
  address: string;
  sat: bigint;
}

/** A node of our own on a chain of our own. Its coins are anyone's: see {@link Purse}. */
export interface RegtestNode {
  readonly rpcUrl: string;
  readonly rpcPort: number;
  readonly rpcUser: string;
  readonly rpcPassword: string;
  /** It listens for Bitcoin peers on 127.0.0.1. */
  readonly p2pPort: number;
  readonly dir: string;
  /** Of the process that runs now. */
  readonly pid: number;
  readonly logFile: string;
  readonly bitcoind: Bitcoind;
  /** Calls a method of bitcoind. Throws {@link BitcoinRpcError}. */
  rpc<T>(method: string, params?: readonly unknown[] | Record<string, unknown>): Promise<T>;
  /** The height of the tip. */
  height(): Promise<number>;
  /** Mines `blocks` with what is in the mempool; the coins go to `address`, or to the purse. Gives the block hashes. */
  mine(blocks: number, address?: string): Promise<string[]>;
  /** Mines one block with exactly these transactions (hex, or txids from the mempool), conflicts in the mempool or not. */
  mineWith(transactions: readonly string[], address?: string): Promise<string>;
  /** Mines blocks that hold no transaction but their own. */
  mineEmpty(blocks: number): Promise<string[]>;
  /** Pays from the purse into the mempool; an empty purse is filled by 120 empty blocks first. Gives the txid. */
  pay(payments: readonly Payment[], feeSat?: bigint): Promise<string>;
  /** Pays and mines one block. */
  fund(payments: readonly Payment[]): Promise<string>;
  /** A coin of the purse that no other caller gets, to build transactions by hand with `purse.spend`. */
  takeCoin(minimumSat?: bigint): Promise<Coin>;
  readonly purse: Purse;
  /** Replaces the last `depth` blocks by `blocks` (default: one more) other, empty ones. */
  reorg(depth: number, blocks?: number): Promise<string[]>;
  /** Gives a mempool transaction another fee in the eyes of the miner (prioritisetransaction). */
  prioritise(txid: string, feeDeltaSat: bigint): Promise<void>;
  /** Stops in good order; the directory goes unless it was named. */
  stop(): Promise<void>;
  /** SIGKILL, and waits for the end. The directory stays until `stop`; the last blocks may be lost, as in life. */
  kill(): Promise<void>;
  /** Starts again after `kill`, or stops and starts: same directory, ports and password. */
  restart(): Promise<void>;
}

/** A node answers within this time after its start, or has failed. */
export const START_DEADLINE_MS = 60_000;
const START_ATTEMPTS = 5;
const STOP_GRACE_MS = 20_000;
const POLL_MS = 20;

/** Starts a regtest bitcoind on free ports of 127.0.0.1 and waits until it answers. */
export async function startBitcoind(options: RegtestOptions = {}): Promise<RegtestNode> {
  const bitcoind = options.bitcoind ?? await findBitcoind(options.progress ?? quietProgress);
  const dir = options.dir ?? await Deno.makeTempDir({ prefix: "arcus-bitcoind-" });
  await Deno.mkdir(dir, { recursive: true });
  const rpcUser = "arcus";
  const rpcPassword = randomBytes(16).toString("hex");
  let failure: unknown;
  for (let attempt = 0; attempt < START_ATTEMPTS; attempt++) {
    const [rpcPort, p2pPort] = [freePort(), freePort()];
    await writeConfiguration(dir, { rpcPort, p2pPort, rpcUser, rpcPassword }, options);
    const node = new Node(bitcoind, dir, options.dir === undefined, rpcPort, p2pPort, rpcUser, rpcPassword);
    try {
      await node.start();
      return node;
    } catch (error) {
      failure = error;
      if (!(error instanceof PortTaken)) break;
    }
  }
  if (options.dir === undefined) await removeDir(dir);
  throw failure;
}

class PortTaken extends Error {}

async function writeConfiguration(
  dir: string,
  node: { rpcPort: number; p2pPort: number; rpcUser: string; rpcPassword: string },
  options: RegtestOptions,
): Promise<void> {
  const salt = randomBytes(16).toString("hex");
  const hmac = createHmac("sha256", salt).update(node.rpcPassword).digest("hex");
  const lines = [
    "regtest=1",
    "[regtest]",
    "server=1",
    `rpcauth=${node.rpcUser}:${salt}$${hmac}`,
    "rpcbind=127.0.0.1",
    "rpcallowip=127.0.0.1",
    `rpcport=${node.rpcPort}`,
    `port=${node.p2pPort}`,
    `bind=127.0.0.1:${node.p2pPort}`,
    "listen=1",
    "listenonion=0",
    "discover=0",
    "dnsseed=0",
    "fixedseeds=0",
    `txindex=${options.txindex === false ? 0 : 1}`,
    "dbcache=16",
    "maxconnections=32",
    "rpcthreads=16",
    "rpcworkqueue=512",
    // Idle connections of a client's pool stay usable.
    "rpcservertimeout=3600",
    "printtoconsole=0",
    ...(options.extra ?? []),
  ];
  await Deno.writeTextFile(join(dir, "bitcoin.conf"), lines.join("\n") + "\n", { mode: 0o600 });
}

class Node implements RegtestNode {
  readonly rpcUrl: string;
  readonly logFile: string;
  readonly purse = new Purse();
  #child: GuardedChild | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  readonly #taken = new Set<string>();

  constructor(
    readonly bitcoind: Bitcoind,
    readonly dir: string,
    private readonly ownDir: boolean,
    readonly rpcPort: number,
    readonly p2pPort: number,
    readonly rpcUser: string,
    readonly rpcPassword: string,
  ) {
    this.rpcUrl = `http://127.0.0.1:${rpcPort}`;
    this.logFile = join(dir, "output.log");
  }

  get pid(): number {
    if (this.#child === undefined) throw new Error("bitcoind does not run");
    return this.#child.pid;
  }

  async start(): Promise<void> {
    await Deno.remove(this.logFile).catch(() => {});
    const child = spawnGuarded({
      cmd: this.bitcoind.bitcoind,
      args: [`-datadir=${this.dir}`],
      logFile: this.logFile,
      graceMs: STOP_GRACE_MS,
      ...(this.ownDir ? { removeDirOnOrphan: this.dir } : {}),
    });
    this.#child = child;
    let ended = false;
    child.exited.then(() => ended = true);
    const deadline = performance.now() + START_DEADLINE_MS;
    for (;;) {
      if (ended) {
        this.#child = undefined;
        const output = await Deno.readTextFile(this.logFile).catch(() => "");
        if (/unable to (bind|start http)|address already in use/i.test(output)) throw new PortTaken(output);
        throw new Error(`bitcoind ended at its start:\n${output}`);
      }
      if (performance.now() > deadline) {
        await child.stop(0);
        this.#child = undefined;
        throw new Error(`bitcoind gave no answer in ${START_DEADLINE_MS / 1000} s`);
      }
      try {
        await this.rpc("getblockcount");
        return;
      } catch (error) {
        if (error instanceof BitcoinRpcError && error.code !== RPC_IN_WARMUP) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  rpc<T>(method: string, params: readonly unknown[] | Record<string, unknown> = []): Promise<T> {
    return bitcoinRpc<T>(this, method, params);
  }

  height(): Promise<number> {
    return this.rpc<number>("getblockcount");
  }

  mine(blocks: number, address: string = this.purse.address): Promise<string[]> {
    return this.rpc<string[]>("generatetoaddress", [blocks, address]);
  }

  async mineWith(transactions: readonly string[], address: string = this.purse.address): Promise<string> {
    return (await this.rpc<{ hash: string }>("generateblock", [address, transactions])).hash;
  }

  async mineEmpty(blocks: number): Promise<string[]> {
    const hashes: string[] = [];
    for (let block = 0; block < blocks; block++) hashes.push(await this.mineWith([]));
    return hashes;
  }

  takeCoin(minimumSat = 100_000_000n): Promise<Coin> {
    const take = async () => {
      for (const coin of await this.#coins()) {
        const name = `${coin.txid}:${coin.vout}`;
        if (coin.sat < minimumSat || this.#taken.has(name)) continue;
        const unspent = await this.rpc<unknown>("gettxout", [coin.txid, coin.vout, true]);
        if (unspent === null) continue;
        this.#taken.add(name);
        return coin;
      }
      return undefined;
    };
    return this.#inOrder(async () => {
      const coin = await take();
      if (coin !== undefined) return coin;
      // Empty blocks: filling the purse must not confirm what a test keeps in the mempool.
      await this.mineEmpty(COINBASE_MATURITY + PURSE_COINS);
      const mined = await take();
      if (mined === undefined) throw new Error(`the purse has no coin of ${minimumSat} sat`);
      return mined;
    });
  }

  async pay(payments: readonly Payment[], feeSat = 1_000n): Promise<string> {
    const total = payments.reduce((sum, payment) => sum + payment.sat, feeSat);
    const coin = await this.takeCoin(total);
    return await this.rpc<string>("sendrawtransaction", [this.purse.spend(coin, payments, feeSat)]);
  }

  async fund(payments: readonly Payment[]): Promise<string> {
    const txid = await this.pay(payments);
    await this.mine(1);
    return txid;
  }

  async reorg(depth: number, blocks = depth + 1): Promise<string[]> {
    const height = await this.height();
    if (depth < 1 || depth > height) throw new RangeError(`cannot replace ${depth} of ${height} blocks`);
    await this.rpc("invalidateblock", [await this.rpc<string>("getblockhash", [height - depth + 1])]);
    const hashes: string[] = [];
    for (let block = 0; block < blocks; block++) {
      // Its own content: an empty block to the same address in the same second is the block just refused.
      const marker = `raw(6a10${randomBytes(16).toString("hex")})`;
      hashes.push((await this.rpc<{ hash: string }>("generateblock", [marker, []])).hash);
    }
    return hashes;
  }

  async prioritise(txid: string, feeDeltaSat: bigint): Promise<void> {
    await this.rpc("prioritisetransaction", [txid, 0, Number(feeDeltaSat)]);
  }

  async stop(): Promise<void> {
    await this.#child?.stop();
    this.#child = undefined;
    if (this.ownDir) await removeDir(this.dir);
  }

  async kill(): Promise<void> {
    this.#child?.kill("SIGKILL");
    await this.#child?.exited;
    this.#child = undefined;
  }

  async restart(): Promise<void> {
    await this.#child?.stop();
    await this.start();
  }

  /** Confirmed, mature coins of the purse, the largest first. */
  async #coins(): Promise<Coin[]> {
    interface Unspent {
      txid: string;
      vout: number;
      amount: number;
      coinbase: boolean;
      height: number;
    }
    const scan = await this.rpc<{ height: number; unspents: Unspent[] }>("scantxoutset", [
      "start",
      [`addr(${this.purse.address})`],
    ]);
    return scan.unspents
      .filter((coin) => !coin.coinbase || scan.height - coin.height >= COINBASE_MATURITY)
      .map(({ txid, vout, amount }) => ({ txid, vout, sat: BigInt(Math.round(amount * 1e8)) }))
      .sort((one, other) => Number(other.sat - one.sat));
  }

  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work, work);
    this.#queue = result.catch(() => {});
    return result;
  }
}

/** A block's own coins may be spent after so many further blocks. */
const COINBASE_MATURITY = 100;
/** How many coins the purse gets at a time, besides the change of those that were spent and confirmed. */
const PURSE_COINS = 20;
