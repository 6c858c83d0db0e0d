/** What people do with nodes, in the words of the public API: connect, fund, open, bump, and wait for what follows. */
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import type {
  ListfundsOutputs,
  ListpeerchannelsChannels,
  ListpeerchannelsChannelsInflight,
} from "gen/cln/node_pb.ts";
import { ListfundsOutputs_ListfundsOutputsStatus as OutputStatus } from "gen/cln/node_pb.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import type { RegtestNode } from "tools/parts/mod.ts";
import type { RunningNode } from "./launch.ts";

/** How long one thing that two nodes agree on may take. */
export const AGREEMENT_DEADLINE_MS = 30_000;
const POLL_MS = 25;
/**
 * Weight that the opener's coins pay for besides themselves: the transaction's common fields and the funding output
 * (BOLT 2), with some room.
 */
const OPENING_WEIGHT = 250;
/** What an open counts for the witness of an input at least: some accepters demand it, and a fee must never be short. */
const WITNESS_WEIGHT = 110;
const MSAT = 1000n;

/** Asks again and again until the answer is neither undefined nor false. Throws after the deadline, saying what did not happen. */
export async function until<T>(
  what: string | (() => string),
  ask: () => Promise<T | undefined | false>,
  deadlineMs: number = AGREEMENT_DEADLINE_MS,
): Promise<T> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() > end) {
      throw new Error(`not within ${deadlineMs / 1000} s: ${typeof what === "string" ? what : what()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Waits until each node has seen the chain's tip. */
export async function untilSynced(chain: RegtestNode, ...nodes: readonly RunningNode[]): Promise<void> {
  const height = await chain.height();
  for (const node of nodes) {
    await until(
      `${node.name} at block ${height}`,
      async () => (await node.rpc.getinfo({})).blockheight >= height,
    );
  }
}

/** A new address of the wallet. */
export async function newAddress(node: RunningNode): Promise<string> {
  const { p2tr } = await node.rpc.newAddr({});
  if (p2tr === undefined) throw new Error(`${node.name} gave no address`);
  return p2tr;
}

/** Coins of the wallet that are confirmed and not reserved, sat. */
export async function spendable(node: RunningNode): Promise<bigint> {
  const { outputs } = await node.rpc.listFunds({});
  return outputs.filter((output) => output.status === OutputStatus.CONFIRMED && !output.reserved)
    .reduce((sum, output) => sum + satOf(output), 0n);
}

const satOf = (output: ListfundsOutputs): bigint => (output.amountMsat?.msat ?? 0n) / MSAT;

/** Pays coins to wallets, mines a block, and waits until the wallets have them. */
export async function fundWallets(
  chain: RegtestNode,
  payments: readonly { readonly node: RunningNode; readonly sat: bigint }[],
): Promise<void> {
  const before = new Map<RunningNode, bigint>();
  const outputs = [];
  for (const { node, sat } of payments) {
    if (!before.has(node)) before.set(node, await spendable(node));
    outputs.push({ address: await newAddress(node), sat });
  }
  await chain.fund(outputs);
  for (const [node, had] of before) {
    const more = payments.filter((payment) => payment.node === node).reduce((sum, { sat }) => sum + sat, 0n);
    await until(`${more} sat in ${node.name}'s wallet`, async () => await spendable(node) >= had + more);
  }
}

/** `from` connects to `to`; both know it afterwards. */
export async function connect(from: RunningNode, to: RunningNode): Promise<void> {
  await from.rpc.connectPeer({ id: `${to.id}@${to.address}` });
  await untilConnected(to, from);
}

/** Waits until `node` says that `peer` is connected. */
export async function untilConnected(node: RunningNode, peer: RunningNode): Promise<void> {
  await until(`${node.name} connected with ${peer.name}`, async () => await isConnected(node, peer));
}

/** Whether `node` says that `peer` is connected. */
export async function isConnected(node: RunningNode, peer: RunningNode): Promise<boolean> {
  const { peers } = await node.rpc.listPeers({ id: hexToBytes(peer.id) });
  return peers.some((each) => each.connected);
}

/** A funding transaction that both sides signed. Ids are hex, a txid as it is shown. */
export interface Candidate {
  readonly channelId: string;
  readonly txid: string;
  readonly tx: string;
}

/** How a channel is opened. */
export interface OpenOptions {
  readonly sat: bigint;
  /** Of the funding transaction, sat per 1000 weight. */
  readonly perkw?: number;
}

/** fundchannel: opens a channel to its signed funding transaction. */
export async function openChannel(
  from: RunningNode,
  to: RunningNode,
  { sat, perkw }: OpenOptions,
): Promise<Candidate> {
  const answer = await from.rpc.fundChannel({
    id: hexToBytes(to.id),
    amount: { value: { case: "amount", value: { msat: sat * MSAT } } },
    ...(perkw === undefined ? {} : { feerate: { style: { case: "perkw", value: perkw } } }),
  }, { deadlineMs: AGREEMENT_DEADLINE_MS });
  return {
    channelId: bytesToHex(answer.channelId),
    txid: bytesToHex(answer.txid),
    tx: bytesToHex(answer.tx),
  };
}

/** A PSBT with coins of the wallet for an open or a bump that contributes `sat`. */
export async function psbtFor(
  node: RunningNode,
  { sat, perkw }: Required<OpenOptions>,
  coins?: readonly { readonly txid: string; readonly vout: number }[],
): Promise<string> {
  const wanted = {
    satoshi: { value: { case: "amount", value: { msat: sat * MSAT } } },
    feerate: { style: { case: "perkw", value: perkw } },
    startweight: OPENING_WEIGHT,
    minWitnessWeight: WITNESS_WEIGHT,
    excessAsChange: true,
  } as const;
  if (coins === undefined) return (await node.rpc.fundPsbt({ ...wanted, reserve: 0 })).psbt;
  const { psbt } = await node.rpc.utxoPsbt({
    ...wanted,
    utxos: coins.map(({ txid, vout }) => ({ txid: hexToBytes(txid), outnum: vout })),
    reserve: 0,
    reservedok: true,
  });
  return psbt;
}

/** openchannel_init, _update, _signed: the same, step by step. */
export async function openStepByStep(
  from: RunningNode,
  to: RunningNode,
  options: Required<OpenOptions>,
): Promise<Candidate> {
  const initialpsbt = await psbtFor(from, options);
  const begun = await from.rpc.openChannelInit({
    id: hexToBytes(to.id),
    amount: { msat: options.sat * MSAT },
    initialpsbt,
    fundingFeerate: { style: { case: "perkw", value: options.perkw } },
  });
  return await finishNegotiation(from, begun);
}

/** openchannel_bump, _update, _signed: replaces the funding transaction by one with another fee and contribution. */
export async function bumpChannel(
  node: RunningNode,
  channelId: string,
  options: Required<OpenOptions>,
): Promise<Candidate> {
  return await finishNegotiation(node, await beginBump(node, channelId, options));
}

/** What openchannel_init, _bump and _update answer. */
export interface Negotiated {
  readonly channelId: Uint8Array;
  readonly psbt: string;
  readonly commitmentsSecured: boolean;
}

/** openchannel_bump alone. */
export async function beginBump(
  node: RunningNode,
  channelId: string,
  options: Required<OpenOptions>,
): Promise<Negotiated> {
  const coins = await coinsOf(node, channelId);
  const initialpsbt = await psbtFor(node, options, coins);
  return await node.rpc.openChannelBump({
    channelId: hexToBytes(channelId),
    amount: { msat: options.sat * MSAT },
    initialpsbt,
    fundingFeerate: { style: { case: "perkw", value: options.perkw } },
  });
}

/** openchannel_update until the commitments are secured, then openchannel_signed. */
export async function finishNegotiation(node: RunningNode, begun: Negotiated): Promise<Candidate> {
  let step = begun;
  while (!step.commitmentsSecured) {
    step = await node.rpc.openChannelUpdate({ channelId: begun.channelId, psbt: step.psbt });
  }
  const signed = await node.rpc.openChannelSigned({ channelId: begun.channelId, signedPsbt: step.psbt });
  return {
    channelId: bytesToHex(signed.channelId),
    txid: bytesToHex(signed.txid),
    tx: bytesToHex(signed.tx),
  };
}

/** Coins of ours that the channel's attempts spend: a replacement must spend one of each attempt's. */
export async function coinsOf(
  node: RunningNode,
  channelId: string,
): Promise<{ readonly txid: string; readonly vout: number }[]> {
  const rows = await node.sql<{ txid: Uint8Array; vout: bigint }[]>`
    SELECT DISTINCT i.txid, i.vout FROM channels c
    JOIN funding_attempts a USING (channel) JOIN attempt_inputs i USING (attempt)
    WHERE c.channel_id = ${hexToBytes(channelId)} AND i.side = 'local'`;
  return rows.map(({ txid, vout }) => ({
    txid: bytesToHex(Uint8Array.from(txid).reverse()),
    vout: Number(vout),
  }));
}

/** A channel as listpeerchannels shows it; undefined if the node does not know it. */
export async function channelOf(
  node: RunningNode,
  channelId: string,
): Promise<ListpeerchannelsChannels | undefined> {
  const { channels } = await node.rpc.listPeerChannels({ channelId: hexToBytes(channelId) });
  return channels[0];
}

/** Waits until the channel has the state on this node. */
export async function untilState(
  node: RunningNode,
  channelId: string,
  state: ChannelState,
  deadlineMs: number = AGREEMENT_DEADLINE_MS,
): Promise<ListpeerchannelsChannels> {
  let last: ListpeerchannelsChannels | undefined;
  return await until(
    () =>
      `${node.name}: ${ChannelState[state]}; it is ${
        last === undefined ? "unknown" : ChannelState[last.state]
      } (${last?.status.join("; ") ?? ""})`,
    async () => {
      last = await channelOf(node, channelId);
      return last?.state === state && last;
    },
    deadlineMs,
  );
}

/** An attempt as listpeerchannels shows it, with names of our own. */
export interface Attempt {
  readonly txid: string;
  readonly perkw: number;
  readonly totalSat: bigint;
  readonly ourSat: bigint;
}

/** The attempts of a channel that may still confirm, the oldest first. */
export function attemptsOf(channel: ListpeerchannelsChannels): Attempt[] {
  return channel.inflight.map((each: ListpeerchannelsChannelsInflight) => ({
    txid: bytesToHex(each.fundingTxid),
    perkw: Number(each.feerate.replace(/perkw$/, "")),
    totalSat: (each.totalFundingMsat?.msat ?? 0n) / MSAT,
    ourSat: (each.ourFundingMsat?.msat ?? 0n) / MSAT,
  }));
}

/** What is ours of a channel, and the whole, sat. */
export function balanceOf(channel: ListpeerchannelsChannels): { ourSat: bigint; totalSat: bigint } {
  return { ourSat: (channel.toUsMsat?.msat ?? 0n) / MSAT, totalSat: (channel.totalMsat?.msat ?? 0n) / MSAT };
}
