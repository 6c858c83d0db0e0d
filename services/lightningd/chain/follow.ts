/**
 * Follows bitcoind's best chain into rows. One transaction per advance or rewind: the block and every fact that hangs
 * on it are there together or not at all, so a lightningd that dies anywhere goes on from its rows.
 */
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { type ConnectionOptions, type Sql, transaction } from "common/pg/client.ts";
import type { Logger } from "common/log.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { type BlockHeight, height as toHeight } from "bolt/units.ts";
import type { Leader } from "../ports.ts";
import {
  asNumber,
  asString,
  type BitcoindRpc,
  CALL_TIMEOUT_MS,
  field,
  RpcCode,
  RpcError,
} from "./bitcoind.ts";
import { type CheckedBlock, readBlock } from "./block.ts";
import { matchBlock } from "./match.ts";
import * as store from "./store.ts";

/** Blocks of one transaction while we are far behind. */
const BLOCKS_AT_ONCE = 16;
/** Hashes compared at once while looking for a fork. */
const HASHES_AT_ONCE = 64;
/** How long bitcoind is asked to hold its answer until there is a new block. */
const LONG_POLL_MS = 5_000;
/** The same for a bitcoind that cannot be told which tip we know: it may hold its answer while a block is there. */
const BLIND_POLL_MS = 1_000;

/** Settings of the follower. */
export interface FollowOptions {
  readonly database: ConnectionOptions;
  readonly rpc: BitcoindRpc;
  readonly leader: Leader;
  readonly log: Logger;
  /** Between two questions where waiting is not possible. */
  readonly pollIntervalMs: number;
  /** The height at which an empty database begins; default: the tip. */
  readonly startHeight?: number;
  readonly signal: AbortSignal;
  /** After each COMMIT that moved the tip or found facts. */
  readonly onMoved: (height: BlockHeight, channels: readonly bigint[]) => void;
}

interface Tip {
  readonly height: number;
  readonly hash: Uint8Array;
}

/** A best chain that is not (yet) ahead of the rows, or moved while it was read. */
type Found =
  | { readonly type: "same" }
  | { readonly type: "behind"; readonly height: number }
  | { readonly type: "fork"; readonly height: number; readonly best: number };

/** How to wait for the next block. */
type Waiting = "with_tip" | "blind" | "interval";

/** Follows until its signal is aborted. */
export class Follower {
  #tip: Tip | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #warning: string | undefined;
  #waiting: Waiting = "with_tip";

  constructor(private readonly options: FollowOptions) {}

  /** The newest block of our rows. Throws before the first `sync`. */
  height(): BlockHeight {
    if (this.#tip === undefined) throw new Error("the chain is not followed yet");
    return toHeight(this.#tip.height);
  }

  /** What a person should know about bitcoind. */
  warning(): string | undefined {
    return this.#warning;
  }

  /** Brings the rows to bitcoind's best chain, and scans for attempts that blocks overtook. */
  sync(): Promise<void> {
    return this.#inOrder(async () => {
      await this.#follow();
      await this.#scan();
    });
  }

  /** Scans for attempts that blocks overtook. */
  scan(): Promise<void> {
    return this.#inOrder(() => this.#scan());
  }

  /** Resolves when bitcoind has a block that the rows lack, or after a while. */
  async wait(): Promise<void> {
    const { rpc, signal } = this.options;
    const tip = this.#tip;
    try {
      switch (this.#waiting) {
        case "with_tip":
          if (tip === undefined) return;
          await rpc.call("waitfornewblock", {
            timeout: LONG_POLL_MS,
            current_tip: toDisplay(tip.hash),
          }, { timeoutMs: LONG_POLL_MS + CALL_TIMEOUT_MS, retryMs: 0, signal });
          return;
        case "blind":
          await rpc.call("waitfornewblock", [BLIND_POLL_MS], { retryMs: 0, signal });
          return;
        case "interval":
          await sleep(this.options.pollIntervalMs, signal);
          return;
      }
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
      this.#waiting = error.code === RpcCode.methodNotFound || this.#waiting === "blind"
        ? "interval"
        : "blind";
      this.options.log.debug({ err: error, waiting: this.#waiting }, "another way to wait for blocks");
    }
  }

  async #follow(): Promise<void> {
    const { rpc, signal } = this.options;
    while (!signal.aborted) {
      this.#tip ??= await this.#load();
      const best = asString(await rpc.call("getbestblockhash"), "best block");
      if (this.#tip === undefined) {
        await this.#begin(best);
        continue;
      }
      const found = await this.#compare(this.#tip, best);
      switch (found.type) {
        case "same":
          await this.#checkSyncing();
          return;
        case "behind":
          this.#warning = `bitcoind is at block ${found.height}, behind our ${this.#tip.height}`;
          this.options.log.warn({ bitcoind: found.height, ours: this.#tip.height }, "bitcoind is behind");
          return;
        case "fork":
          if (found.height < this.#tip.height) await this.#rewind(found.height);
          await this.#advance(found.best);
          break;
      }
    }
  }

  async #load(): Promise<Tip | undefined> {
    return await this.#transaction((sql) => store.readTip(sql));
  }

  /** The first row of an empty database. */
  async #begin(best: string): Promise<void> {
    const { startHeight } = this.options;
    const tip = await this.#heightOf(best);
    const first = startHeight === undefined ? tip : Math.min(startHeight, tip);
    const [block] = await this.#fetch(first, first);
    if (block === undefined) return;
    await this.#write(first, [block]);
    this.options.log.info({ height: first }, "following the chain from here");
  }

  async #heightOf(hash: string): Promise<number> {
    return asNumber(field(await this.options.rpc.call("getblockheader", [hash]), "height"), "height");
  }

  /** Where the rows and bitcoind's best chain part. */
  async #compare(tip: Tip, best: string): Promise<Found> {
    if (sameBytes(fromDisplay(best), tip.hash)) return { type: "same" };
    const bestHeight = await this.#heightOf(best);
    if (bestHeight < tip.height && !await this.#disowned(tip)) return { type: "behind", height: bestHeight };
    let top = Math.min(tip.height, bestHeight);
    for (;;) {
      const rows = await this.#transaction((sql) => store.blocksDown(sql, top, HASHES_AT_ONCE));
      // Deeper than our first block: nothing of ours is left, and the rows begin anew at the same height.
      const lowest = rows.at(-1);
      if (lowest === undefined) return { type: "fork", height: top, best: bestHeight };
      const hashes = await this.options.rpc.batch(
        rows.map((row) => ({ method: "getblockhash", params: [row.height] })),
      );
      const at = rows.findIndex((row, i) =>
        typeof hashes[i] === "string" && sameBytes(fromDisplay(hashes[i]), row.hash)
      );
      const common = rows[at];
      if (common !== undefined) return { type: "fork", height: common.height, best: bestHeight };
      top = lowest.height - 1;
    }
  }

  /**
   * Whether bitcoind knows our tip and holds another chain for better. A bitcoind that has not seen it yet (it is
   * syncing, or was restored) undoes nothing.
   */
  async #disowned(tip: Tip): Promise<boolean> {
    try {
      const header = await this.options.rpc.call("getblockheader", [toDisplay(tip.hash)]);
      return asNumber(field(header, "confirmations"), "confirmations") < 0;
    } catch (error) {
      if (error instanceof RpcError && error.code === RpcCode.notFound) return false;
      throw error;
    }
  }

  async #checkSyncing(): Promise<void> {
    const info = await this.options.rpc.call("getblockchaininfo");
    const [blocks, headers] = [field(info, "blocks"), field(info, "headers")];
    // On regtest the flag stays up until the newest block is recent: no reason to warn.
    const syncing = field(info, "initialblockdownload") === true && field(info, "chain") !== "regtest";
    this.#warning = syncing || (typeof blocks === "number" && typeof headers === "number" && blocks < headers)
      ? `bitcoind is syncing: block ${blocks} of ${headers}`
      : undefined;
  }

  async #rewind(fork: number): Promise<void> {
    const channels = await this.#transaction(async (sql) => {
      await store.fence(sql, this.options.leader.epoch);
      const changed = [
        ...await store.channelsConfirmedFrom(sql, fork + 1),
        ...await store.channelsSpentFrom(sql, fork + 1),
      ];
      await store.rewind(sql, fork);
      return changed;
    });
    this.options.log.warn({ from: this.#tip?.height, to: fork }, "reorg");
    this.#tip = await this.#load();
    if (this.#tip === undefined) {
      // The reorg is deeper than our rows: they begin again where they began, one above `fork`.
      const [block] = await this.#fetch(fork + 1, fork + 1);
      if (block !== undefined) await this.#write(fork + 1, [block], channels);
      return;
    }
    this.options.onMoved(this.height(), unique(channels));
  }

  async #advance(best: number): Promise<void> {
    while (this.#tip !== undefined && this.#tip.height < best && !this.options.signal.aborted) {
      const from = this.#tip.height + 1;
      const blocks = await this.#fetch(from, Math.min(best, from + BLOCKS_AT_ONCE - 1));
      // The best chain moved while it was read: what fits is taken, the rest is looked at again.
      let previous = this.#tip.hash;
      const fitting: CheckedBlock[] = [];
      for (const block of blocks) {
        if (!sameBytes(block.prevHash, previous)) break;
        fitting.push(block);
        previous = block.hash;
      }
      if (fitting.length === 0) return;
      await this.#write(from, fitting);
    }
  }

  /** Blocks of bitcoind's best chain, as many as there are. */
  async #fetch(from: number, to: number): Promise<CheckedBlock[]> {
    const blocks: CheckedBlock[] = [];
    for (let height = from; height <= to; height++) {
      let hash: string;
      try {
        hash = asString(await this.options.rpc.call("getblockhash", [height]), "block hash");
      } catch (error) {
        if (error instanceof RpcError && error.code === RpcCode.invalidParameter) break;
        throw error;
      }
      const hex = asString(await this.options.rpc.call("getblock", [hash, 0]), "block");
      blocks.push(readBlock(hex, fromDisplay(hash)));
    }
    return blocks;
  }

  /**
   * Adds blocks with their facts. The watch set is read in this transaction, after the blocks were fetched: who was
   * told an address or got our signature was told after COMMIT, so its transaction is in a block that we fetch later.
   */
  async #write(
    from: number,
    blocks: readonly CheckedBlock[],
    alsoChanged: readonly bigint[] = [],
  ): Promise<void> {
    const channels = await this.#transaction(async (sql) => {
      await store.fence(sql, this.options.leader.epoch);
      for (const [i, block] of blocks.entries()) {
        await store.insertBlock(sql, from + i, block);
        await store.writeFacts(sql, from + i, matchBlock(block.txs, await store.readWatchSet(sql)));
      }
      const tip = from + blocks.length - 1;
      return [...await store.shallowChannels(sql, tip), ...await store.channelsSpentFrom(sql, from)];
    });
    const last = blocks.at(-1);
    if (last === undefined) return;
    this.#tip = { height: from + blocks.length - 1, hash: last.hash };
    this.options.log.debug({ height: this.#tip.height, blocks: blocks.length }, "blocks added");
    this.options.onMoved(this.height(), unique([...channels, ...alsoChanged]));
  }

  /**
   * A peer whose own coins fund everything can broadcast before our attempt's row exists, so its block may have been
   * examined without it. Such blocks are examined again, once for each attempt.
   */
  async #scan(): Promise<void> {
    const { log, leader } = this.options;
    const pending = await this.#transaction((sql) => store.unscannedAttempts(sql));
    if (pending.length === 0 || this.#tip === undefined) return;
    const tip = this.#tip;
    const lowest = Math.min(...pending.map((row) => row.created_height));
    const rows = await this.#transaction((sql) => store.blocksDown(sql, tip.height, tip.height - lowest + 1));
    const blocks: { height: number; block: CheckedBlock }[] = [];
    for (const row of rows.filter((row) => row.height >= lowest)) {
      const hex = asString(await this.options.rpc.call("getblock", [toDisplay(row.hash), 0]), "block");
      blocks.push({ height: row.height, block: readBlock(hex, row.hash) });
    }
    const changed = await this.#transaction(async (sql) => {
      await store.fence(sql, leader.epoch);
      for (const { height, block } of blocks.reverse()) {
        await store.writeFacts(sql, height, matchBlock(block.txs, await store.readWatchSet(sql)));
      }
      await store.markScanned(sql, pending.map((row) => row.attempt), tip.height);
      return [
        ...await store.channelsConfirmedFrom(sql, lowest),
        ...await store.channelsSpentFrom(sql, lowest),
      ];
    });
    log.debug({ attempts: pending.length, from: lowest, to: tip.height }, "scanned for attempts");
    if (changed.length > 0) this.options.onMoved(this.height(), unique(changed));
  }

  async #transaction<T>(work: (sql: Sql) => Promise<T>): Promise<T> {
    return await transaction(this.options.database, work);
  }

  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work, work);
    this.#queue = result.catch(() => {});
    return result;
  }
}

function unique(channels: readonly bigint[]): bigint[] {
  return [...new Set(channels)];
}

function fromDisplay(hash: string): Uint8Array {
  return hexToBytes(hash).reverse();
}

function toDisplay(hash: Uint8Array): string {
  return bytesToHex(Uint8Array.from(hash).reverse());
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
