/** Channels between two nodes of a world, to a given point of their life. */
import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import {
  balanceOf,
  type Candidate,
  connect,
  fundWallets,
  openChannel,
  until,
  untilState,
  untilSynced,
} from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import type { World } from "./world.ts";

/** What each wallet gets. */
export const WALLET_SAT = 5_000_000n;
/** What alice puts into a channel; bob matches all of it unless a test says otherwise. */
export const OPEN_SAT = 400_000n;
/** Fee rate of a first attempt. */
export const OPEN_PERKW = 1_000;

/** Fills both wallets with `coins` coins each and connects the nodes. */
export async function fundedAndConnected({ alice, bob, chain }: World, coins = 2): Promise<void> {
  const payments = [alice, bob].flatMap((node) =>
    Array.from({ length: coins }, () => ({ node, sat: WALLET_SAT }))
  );
  await fundWallets(chain, payments);
  await untilSynced(chain, alice, bob);
  await connect(alice, bob);
}

/** Waits until the miner can take it: a complete transaction is stored before it is sent. */
export async function untilInMempool({ chain }: World, txid: string): Promise<void> {
  await until(
    "the funding transaction is in the mempool",
    async () => (await chain.rpc<string[]>("getrawmempool")).includes(txid),
  );
}

/** Opens a channel from alice; both wait for its confirmation. */
export async function openedChannel(world: World, sat = OPEN_SAT): Promise<Candidate> {
  const { alice, bob } = world;
  const candidate = await openChannel(alice, bob, { sat, perkw: OPEN_PERKW });
  for (const node of [alice, bob]) {
    await untilState(node, candidate.channelId, ChannelState.DualopendAwaitingLockin);
  }
  await untilInMempool(world, candidate.txid);
  return candidate;
}

/** Opens a channel and locks it in. */
export async function normalChannel(world: World, sat = OPEN_SAT): Promise<Candidate> {
  const candidate = await openedChannel(world, sat);
  await world.chain.mine(1);
  await bothNormal(world, candidate);
  return candidate;
}

/** Waits until both nodes use the channel, funded by this candidate. */
export async function bothNormal({ alice, bob }: World, candidate: Candidate): Promise<void> {
  for (const node of [alice, bob]) {
    const channel = await untilState(node, candidate.channelId, ChannelState.ChanneldNormal);
    assert.equal(
      bytesToHex(channel.fundingTxid ?? new Uint8Array()),
      candidate.txid,
      `${node.name}'s funding`,
    );
  }
}

/** Asserts what is whose, on both nodes. */
export async function assertBalances(
  { alice, bob }: World,
  channelId: string,
  expected: { readonly alice: bigint; readonly bob: bigint },
): Promise<void> {
  const of = async (node: RunningNode) =>
    balanceOf(await untilState(node, channelId, ChannelState.ChanneldNormal));
  const totalSat = expected.alice + expected.bob;
  assert.deepEqual(await of(alice), { ourSat: expected.alice, totalSat });
  assert.deepEqual(await of(bob), { ourSat: expected.bob, totalSat });
}
