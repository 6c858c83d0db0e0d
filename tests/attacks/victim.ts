/**
 * One real node that a whole file of hostile peers attacks, beside an honest one with two channels: one in use and one
 * that waits for its block. Whatever the hostile peers do, those must not notice, and nothing may be left half.
 */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ArcusError } from "common/grpc/errors.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { type Candidate, channelOf, until } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import type { RegtestNode } from "tools/parts/mod.ts";
import { bothNormal, fundedAndConnected, normalChannel, openedChannel } from "../lib/channels.ts";
import { type CoinKind, type HostileCoin, realCoins } from "../lib/hostile_coins.ts";
import { HostilePeer, type Verdict } from "../lib/hostile_peer.ts";
import type { RawPeerOptions } from "../lib/raw_peer.ts";
import { generationOf, type OpenRows, openRows } from "../lib/rows.ts";
import { useWorlds, type World, type WorldOptions } from "../lib/world.ts";

const OPEN_DEADLINE_MS = 30_000;
/** What the node puts into a channel that it opens to a hostile peer. */
const NODE_OPENS_SAT = 400_000n;
const ROWS_DEADLINE_MS = 10_000;

/** What a file of tests needs. */
export interface Preparation {
  /** Coins of the node. Default 4. */
  readonly coins?: number;
  /** Coins of the hostile peers, by kind. */
  readonly stock?: readonly CoinKind[];
}

/** What a test gets. */
export class Victim {
  private constructor(
    readonly world: World,
    readonly usable: Candidate,
    readonly waiting: Candidate,
    private baseline: OpenRows,
    readonly generation: bigint | undefined,
    readonly pids: string,
    private readonly coins: HostileCoin[],
  ) {}

  /** Makes the honest channels, and notes what is there. */
  static async prepare(world: World, { coins = 4, stock = [] }: Preparation = {}): Promise<Victim> {
    await fundedAndConnected(world, coins);
    const stocked = stock.length === 0 ? [] : await realCoins(world.chain, stock);
    const usable = await normalChannel(world);
    const waiting = await openedChannel(world);
    const { alice, bob } = world;
    return new Victim(
      world,
      usable,
      waiting,
      await openRows(alice),
      await generationOf(alice, bob),
      pidsOf(alice),
      stocked,
    );
  }

  /** The node under attack. */
  get node(): RunningNode {
    return this.world.alice;
  }

  get chain(): RegtestNode {
    return this.world.chain;
  }

  /** A stranger connects. */
  connect(options?: RawPeerOptions): Promise<HostilePeer> {
    return HostilePeer.connect(this.node, options);
  }

  /** The node opens to this peer, which has heard open_channel2 then. `opened`: the error that the command ends with. */
  async opensTo(peer: HostilePeer): Promise<{ readonly opened: Promise<ArcusError> }> {
    await until("the node knows the peer", async () => {
      const { peers } = await this.node.rpc.listPeers({ id: peer.raw.nodeId });
      return peers.some(({ connected }) => connected);
    });
    const opened = this.node.rpc.fundChannel({
      id: peer.raw.nodeId,
      amount: { value: { case: "amount", value: { msat: NODE_OPENS_SAT * 1000n } } },
    }, { deadlineMs: OPEN_DEADLINE_MS }).then(
      () => assert.fail("fundchannel came to an end"),
      (error: unknown) => error instanceof ArcusError ? error : assert.fail(String(error)),
    );
    const heard = peer.hearOpen();
    heard.catch(() => {});
    await Promise.race([heard, opened.then((error) => Promise.reject(error))]);
    return { opened };
  }

  /** A confirmed coin with its key, made before the honest channel began to wait for its block. */
  coin(kind: CoinKind = "p2tr"): HostileCoin {
    const index = this.coins.findIndex((coin) => coin.kind === kind);
    const [coin] = index < 0 ? [] : this.coins.splice(index, 1);
    assert.ok(coin, `no more ${kind} coins were prepared`);
    return coin;
  }

  /** Notes what is there: what {@link nothingLeft} compares with. Channels that earlier tests left on purpose stay. */
  async begin(): Promise<void> {
    await this.nothingLeftOpen();
    this.baseline = await openRows(this.node);
  }

  /** Waits until the node has exactly the rows that it had before the test. */
  async nothingLeft(expected: OpenRows = this.baseline): Promise<void> {
    let rows: OpenRows | undefined;
    await until(
      () => `rows ${JSON.stringify(expected)}; there are ${JSON.stringify(rows)}`,
      async () => {
        rows = await openRows(this.node);
        return JSON.stringify(rows) === JSON.stringify(expected);
      },
      ROWS_DEADLINE_MS,
    );
  }

  /** Waits until no negotiation is open and no input is reserved for one. */
  async nothingLeftOpen(): Promise<void> {
    await until(
      "no opening is left",
      async () => (await openRows(this.node)).openings === 0,
      ROWS_DEADLINE_MS,
    );
  }

  /** The honest peer never lost its connection, no process died, and both channels are as they were. */
  async unharmed(): Promise<void> {
    const { alice, bob } = this.world;
    assert.equal(pidsOf(alice), this.pids, "no process died");
    assert.ok(alice.processes.every((process) => process.running), "every process runs");
    assert.equal(await generationOf(alice, bob), this.generation, "the honest peer's connection is the same");
    for (const node of [alice, bob]) {
      const usable = await channelOf(node, this.usable.channelId);
      assert.equal(usable?.state, ChannelState.ChanneldNormal, `${node.name}: channel in use`);
    }
    const rows = await alice.sql<{ errorText: string | null }[]>`
      SELECT error_text AS "errorText" FROM channels
      WHERE channel_id IN (${hexToBytes(this.usable.channelId)}, ${hexToBytes(this.waiting.channelId)})`;
    assert.deepEqual(rows.map(({ errorText }) => errorText), [null, null]);
  }

  /** {@link unharmed}, and the channel that waited locks in as if nothing had been. */
  async locksIn(): Promise<void> {
    await this.unharmed();
    await this.chain.mine(1);
    await bothNormal(this.world, this.waiting);
  }
}

function pidsOf(node: RunningNode): string {
  return node.processes.map((process) => process.pid).join();
}

let shared: Victim | undefined;

/** A victim that a whole file shares: made at the first use, gone after the last test. */
export async function useVictim(preparation: Preparation = {}, options: WorldOptions = {}): Promise<Victim> {
  const worlds = await useWorlds();
  const over = Promise.withResolvers<void>();
  const ready = Promise.withResolvers<Victim>();
  const running = worlds.withWorld(async (world) => {
    ready.resolve(await Victim.prepare(world, preparation));
    await over.promise;
  }, options);
  running.catch(ready.reject);
  Deno.test.afterAll(async () => {
    over.resolve();
    await running;
  });
  shared = await ready.promise;
  return shared;
}

/** A test on the shared node: its streams and timers outlive each test. */
export function attack(name: string, fn: () => Promise<void>): void {
  const explained = async () => {
    try {
      await shared?.begin();
      await fn();
    } catch (error) {
      const logs = shared?.node.logs.tail() ?? "";
      throw new Error(`${error instanceof Error ? error.message : error}\n${logs}`, { cause: error });
    }
  };
  Deno.test({ name, fn: explained, sanitizeOps: false, sanitizeResources: false });
}

/** What the node must have said. */
export interface ExpectedVerdict {
  readonly type: Verdict["type"];
  readonly text: RegExp;
}

/** The node answers so, about this channel, and echoes of aborts are given; the connection is kept unless said otherwise. */
export async function refuses(
  peer: HostilePeer,
  expected: ExpectedVerdict,
  channelId: Uint8Array = peer.channelId,
): Promise<void> {
  const verdict = await peer.verdict();
  assert.equal(verdict.type, expected.type, `${verdict.type}: ${verdict.text}`);
  assert.match(verdict.text, expected.text);
  assert.equal(verdict.channelId, bytesToHex(channelId), "the channel that it names");
  if (verdict.type === "tx_abort") await peer.abort("acknowledged");
}

/** The connection lives, and nothing more was said. */
export async function staysSilent(peer: HostilePeer): Promise<void> {
  const before = await peer.raw.beforePong();
  assert.deepEqual(before.map((bytes) => bytes.length), [], "messages that nobody expected");
}
