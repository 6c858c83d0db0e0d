/** chain/ as the rest of lightningd has it. */
import { hexToBytes } from "@noble/hashes/utils.js";
import { type ConnectionOptions, transaction } from "common/pg/client.ts";
import { ArcusError } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import { type OutPoint, txidToDisplay } from "bolt/tx/transaction.ts";
import type { BlockHeight } from "bolt/units.ts";
import type { Chain, Feerates, Leader } from "../ports.ts";
import { asString, type BitcoindRpc, RpcError, RpcMixedUp, RpcUnreachable } from "./bitcoind.ts";
import { send, testAccept } from "./broadcast.ts";
import { type FeerateConfig, FeerateSource } from "./feerates.ts";
import { Follower } from "./follow.ts";
import { unconfirmedTransactions } from "./store.ts";

/** After a failure the follower tries again after this long. */
const RETRY_MS = 500;
/** bitcoind's names of the chains (getblockchaininfo), and ours. */
const CHAIN_NAMES: Readonly<Record<string, string>> = {
  main: "bitcoin",
  test: "testnet",
  testnet4: "testnet4",
  signet: "signet",
  regtest: "regtest",
};

/** What chain/ needs. */
export interface ChainOptions {
  readonly database: ConnectionOptions;
  readonly rpc: BitcoindRpc;
  readonly leader: Leader;
  readonly log: Logger;
  readonly config: {
    readonly feerates: FeerateConfig;
    /** Where bitcoind cannot say when there is a block. */
    readonly pollIntervalMs: number;
    /** For a recovered wallet: the height at which an empty database begins. Default: the tip. */
    readonly rescan?: number;
  };
  /** The epoch is lost, or the database is: the process must end. */
  readonly onFatal: (reason: string, error: unknown) => void;
}

/** A chain that is followed, until it is closed. */
export interface RunningChain extends Chain {
  /** Brings the rows to bitcoind's tip now. */
  sync(): Promise<void>;
  /** Ends following; resolves when nothing is under way. */
  close(): Promise<void>;
}

/** Starts to follow; resolves when the rows have bitcoind's tip and unconfirmed transactions were sent again. */
export async function startChain(options: ChainOptions): Promise<RunningChain> {
  const chain = new FollowedChain(options);
  await chain.start();
  return chain;
}

class FollowedChain implements RunningChain {
  readonly #stop = new AbortController();
  readonly #follower: Follower;
  readonly #feerates: FeerateSource;
  readonly #listeners: ((height: BlockHeight, channels: readonly bigint[]) => void)[] = [];
  #loop: Promise<void> = Promise.resolve();
  #sentAt: number | undefined;

  constructor(private readonly options: ChainOptions) {
    const { database, rpc, leader, log, config } = options;
    this.#feerates = new FeerateSource(rpc, config.feerates);
    this.#follower = new Follower({
      database,
      rpc,
      leader,
      log,
      pollIntervalMs: config.pollIntervalMs,
      ...(config.rescan === undefined ? {} : { startHeight: config.rescan }),
      signal: this.#stop.signal,
      onMoved: (height, channels) => this.#tell(height, channels),
    });
  }

  async start(): Promise<void> {
    await this.#checkNetwork();
    await this.sync();
    this.#loop = this.#run();
  }

  height(): BlockHeight {
    return this.#follower.height();
  }

  warning(): string | undefined {
    return this.#follower.warning();
  }

  feerates(): Promise<Feerates> {
    return this.#feerates.get();
  }

  onTip(listener: (height: BlockHeight, channels: readonly bigint[]) => void): void {
    this.#listeners.push(listener);
  }

  async confirmedUnspent(outpoints: readonly OutPoint[]): Promise<boolean[]> {
    const answers = await this.options.rpc.batch(
      outpoints.map(({ txid, vout }) => ({ method: "gettxout", params: [txidToDisplay(txid), vout, false] })),
    );
    return answers.map((answer) => {
      if (answer instanceof RpcError) throw answer;
      return answer !== null && answer !== undefined;
    });
  }

  async confirmedTransaction(txid: Uint8Array, height: number): Promise<Uint8Array | undefined> {
    const { rpc } = this.options;
    try {
      const hash = await rpc.call("getblockhash", [height]);
      return hexToBytes(
        asString(await rpc.call("getrawtransaction", [txidToDisplay(txid), false, hash]), "transaction"),
      );
    } catch (error) {
      if (error instanceof RpcError) return undefined;
      throw error;
    }
  }

  testmempoolaccept(
    tx: Uint8Array,
  ): Promise<{ verdict: "accepted" | "invalid" | "not_now"; detail: string }> {
    return testAccept(this.options.rpc, tx);
  }

  async broadcast(tx: Uint8Array): Promise<string> {
    const result = await send(this.options.rpc, tx);
    return result.type === "sent" ? "" : result.detail;
  }

  async scanNewAttempts(): Promise<void> {
    await this.#follower.scan();
  }

  async sync(): Promise<void> {
    await this.#follower.sync();
    if (this.#sentAt === this.#follower.height()) return;
    this.#sentAt = this.#follower.height();
    await this.#rebroadcast();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#loop;
  }

  async #checkNetwork(): Promise<void> {
    const info = await this.options.rpc.call("getblockchaininfo");
    const name = typeof info === "object" && info !== null && "chain" in info ? String(info.chain) : "";
    const { network } = this.options.config.feerates;
    if (CHAIN_NAMES[name] !== network) {
      throw new Error(`bitcoind is on ${CHAIN_NAMES[name] ?? name}, this node on ${network}`);
    }
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        await this.#follower.wait();
        if (!this.#stop.signal.aborted) await this.sync();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        if (!(error instanceof RpcUnreachable || error instanceof RpcMixedUp || error instanceof RpcError)) {
          const lost = error instanceof ArcusError && error.reason === "LEADER_LOST";
          this.options.onFatal(lost ? "another lightningd leads" : "following the chain failed", error);
          return;
        }
        this.options.log.warn({ err: error }, "bitcoind: trying again");
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, RETRY_MS);
          this.#stop.signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
        });
      }
    }
  }

  #tell(height: BlockHeight, channels: readonly bigint[]): void {
    for (const listener of this.#listeners) {
      try {
        listener(height, channels);
      } catch (error) {
        this.options.log.error({ err: error }, "a listener of the chain failed");
      }
    }
  }

  /** Sends what is ours and unconfirmed. Of a channel's attempts the newest that bitcoind takes. */
  async #rebroadcast(): Promise<void> {
    const { database, log, rpc } = this.options;
    const transactions = await transaction(database, unconfirmedTransactions);
    const settled = new Set<bigint>();
    for (const tx of transactions) {
      if (tx.channel !== null && settled.has(tx.channel)) continue;
      const result = await send(rpc, tx.raw);
      const txid = txidToDisplay(tx.txid);
      if (result.type === "unreachable") return;
      if (result.type === "refused") {
        log.info(
          { txid, detail: result.detail },
          "bitcoind refuses an unconfirmed transaction of ours; again at the next block",
        );
      } else if (tx.channel !== null) settled.add(tx.channel);
    }
  }
}
