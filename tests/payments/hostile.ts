/** Channels in use between the node under attack and hostile peers, and what must hold after an attack. */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { decodeFailure, type FailureMessage } from "bolt/onion/failure.ts";
import { ArcusError } from "common/grpc/errors.ts";
import { attribute } from "bolt/onion/error_packet.ts";
import type { OpenChannel2 } from "bolt/wire/messages.ts";
import { decodeMessage } from "bolt/wire/messages.ts";
import { printableText } from "bolt/wire/error_text.ts";
import { channelOf, until } from "tools/node/commands.ts";
import { untilInMempool } from "../lib/channels.ts";
import { HostileChannel, type OfferChanges } from "../lib/hostile_channel.ts";
import type { HostilePeer } from "../lib/hostile_peer.ts";
import { directRoute, makeInvoice } from "../lib/payments.ts";
import { channelRows } from "../lib/rows.ts";
import { randomSecret } from "../lib/raw_peer.ts";
import type { Victim } from "../attacks/victim.ts";

/** What a node puts into a channel that it opens to a hostile peer. */
const NODE_OPENS_SAT = 300_000n;
const MSAT = 1000n;

/** A channel in use that the peer opened, and pays the fees of. Both sides put something in. */
export async function usable(
  victim: Victim,
  changes: Partial<OpenChannel2> = {},
): Promise<HostileChannel> {
  const peer = await victim.connect();
  const agreed = await peer.fullOpen([victim.coin()], changes);
  return await locked(victim, new HostileChannel(peer, agreed));
}

/** A channel in use that the node opened, and pays the fees of. The peer has nothing in it. */
export async function openedByNode(victim: Victim): Promise<HostileChannel> {
  const peer = await victim.connect();
  await until("the node knows the peer", async () => {
    const { peers } = await victim.node.rpc.listPeers({ id: peer.raw.nodeId });
    return peers.some(({ connected }) => connected);
  });
  const opened = victim.node.rpc.fundChannel({
    id: peer.raw.nodeId,
    amount: { value: { case: "amount", value: { msat: NODE_OPENS_SAT * MSAT } } },
  });
  opened.catch(() => {});
  await peer.hearOpen();
  await peer.sayAccept();
  const agreed = await peer.construct();
  await peer.commit(agreed);
  await peer.sign(agreed);
  await opened;
  return await locked(victim, new HostileChannel(peer, agreed));
}

async function locked(victim: Victim, channel: HostileChannel): Promise<HostileChannel> {
  const { peer, agreed } = channel;
  await untilInMempool(victim.world, bytesToHex(Uint8Array.from(agreed.txid).reverse()));
  await victim.chain.mine(1);
  await channel.ready();
  const shown = await until("the node uses the channel", async () => {
    const found = await channelOf(victim.node, bytesToHex(peer.channelId));
    return found?.shortChannelId !== undefined && (found.spendableMsat?.msat ?? 0n) > 0n && found;
  });
  channel.scid = shown.shortChannelId ?? "";
  return channel;
}

/** An HTLC that the node offers to the peer, committed for good on both sides. */
export interface NodeOffer {
  readonly id: bigint;
  readonly preimage: Uint8Array;
  readonly paymentHash: Uint8Array;
}

/** Tells the node to pay the peer; the peer hears nothing of it yet. */
export async function nodePays(
  victim: Victim,
  { peer }: HostileChannel,
  msat = 1_000_000n,
): Promise<Omit<NodeOffer, "id">> {
  const preimage = randomSecret();
  const paymentHash = sha256(preimage);
  const route = await directRoute(victim.node, peer.raw.nodeId, bytesToHex(peer.channelId), msat);
  await until("the channel carries payments", async () => {
    try {
      return await victim.node.rpc.sendPay({
        route,
        paymentHash,
        paymentSecret: randomSecret(),
        amountMsat: { msat },
      });
    } catch (error) {
      // Right after the lock-in lightningd has not heard yet that the channel can be used.
      if (error instanceof ArcusError && /not usable now/.test(error.message)) return undefined;
      throw error;
    }
  });
  return { preimage, paymentHash };
}

/** The node pays the peer, and the HTLC is committed for good. */
export async function nodeOffers(
  victim: Victim,
  channel: HostileChannel,
  msat?: bigint,
): Promise<NodeOffer> {
  const offer = await nodePays(victim, channel, msat);
  const { id } = await channel.bookUntil("update_add_htlc");
  await channel.bookUntilClean();
  return { ...offer, id };
}

/** What the node's command ends with: the preimage, or CLN's code. */
export async function endOf(
  victim: Victim,
  { paymentHash }: Omit<NodeOffer, "id">,
): Promise<string | number> {
  try {
    const { paymentPreimage } = await victim.node.rpc.waitSendPay({ paymentHash, timeout: 10 });
    return bytesToHex(paymentPreimage ?? new Uint8Array());
  } catch (error) {
    const code = error instanceof Error && "clnCode" in error ? error.clnCode : undefined;
    assert.ok(typeof code === "number", String(error));
    return code;
  }
}

/** What the node says about a mistake; what it was saying anyway is passed over. */
export async function verdictOf(peer: HostilePeer): Promise<{ type: "error" | "warning"; text: string }> {
  for (;;) {
    const decoded = decodeMessage(await peer.raw.next());
    assert.ok(decoded.ok);
    const message = decoded.value;
    if (message.type !== "error" && message.type !== "warning") continue;
    assert.equal(bytesToHex(message.channel_id), bytesToHex(peer.channelId), "the channel that it names");
    return { type: message.type, text: printableText(message.data) };
  }
}

/** Rows of a channel's HTLCs, live and over. */
export async function htlcRows(victim: Victim, { channelId }: HostileChannel) {
  const [row] = await victim.node.sql<{ live: number; over: number; bare: number }[]>`
    SELECT count(h.*)::int AS live,
      (SELECT count(*)::int FROM htlc_history o WHERE o.channel = c.channel) AS over,
      count(h.*) FILTER (WHERE NOT EXISTS (SELECT 1 FROM htlc_onions n WHERE n.htlc = h.htlc))::int AS bare
    FROM channels c LEFT JOIN htlcs h USING (channel) WHERE c.channel_id = ${channelId} GROUP BY c.channel`;
  assert.ok(row, "the channel is there");
  assert.equal(row.bare, 0, "every HTLC has its onion");
  return { live: row.live, over: row.over };
}

/** Waits until a channel has these rows: the node stores a last revoke_and_ack a little after it was sent. */
export async function untilRows(
  victim: Victim,
  channel: HostileChannel,
  expected: { readonly live: number; readonly over: number },
): Promise<void> {
  let rows: unknown;
  await until(() => `rows ${JSON.stringify(expected)}; there are ${JSON.stringify(rows)}`, async () => {
    const now = await htlcRows(victim, channel);
    rows = now;
    return now.live === expected.live && now.over === expected.over;
  });
}

/**
 * The node has failed the channel: `error`, stored, and said again on the next connection instead of anything else. The
 * HTLCs that it knows are those that it knew.
 */
export async function failed(
  victim: Victim,
  channel: HostileChannel,
  text: RegExp,
  rows: { readonly live: number; readonly over: number } = { live: 0, over: 0 },
): Promise<void> {
  const { peer } = channel;
  const verdict = await verdictOf(peer);
  assert.equal(verdict.type, "error", verdict.text);
  assert.match(verdict.text, text);
  const stored = await until("the failure is stored", async () => {
    return (await channelRows(victim.node, bytesToHex(channel.channelId)))?.errorText;
  });
  assert.match(stored ?? "", text);
  await untilRows(victim, channel, rows);
  await saysItAgain(channel);
  await victim.unharmed();
}

/** A failed channel's error is what answers its channel_reestablish on the next connection. */
export async function saysItAgain(channel: HostileChannel): Promise<void> {
  await channel.peer.reconnect();
  await channel.sayReestablish();
  const again = await verdictOf(channel.peer);
  assert.equal(again.type, "error", again.text);
}

/** The channel works: the peer pays an invoice of the node over it. */
export async function works(victim: Victim, channel: HostileChannel): Promise<void> {
  assert.equal((await channelRows(victim.node, bytesToHex(channel.channelId)))?.errorText, null);
  const msat = 50_000n;
  const invoice = await makeInvoice(victim.node, msat);
  await channel.add({
    amountMsat: msat,
    paymentHash: hexToBytes(invoice.paymentHash),
    paymentSecret: invoice.paymentSecret,
  });
  const { payment_preimage: preimage } = await channel.bookUntil("update_fulfill_htlc");
  assert.equal(bytesToHex(sha256(preimage)), invoice.paymentHash);
  await channel.bookUntilClean();
  await victim.unharmed();
}

/** Offers an HTLC to the node, and hears why it is refused. The channel is clean again. */
export async function refusalOf(
  channel: HostileChannel,
  changes: OfferChanges,
  sharedSecrets: readonly Uint8Array[],
): Promise<FailureMessage> {
  await channel.add(changes);
  const { reason } = await channel.bookUntil("update_fail_htlc");
  await channel.bookUntilClean();
  return failureIn(reason, sharedSecrets);
}

/** What an error that the node made says. */
export function failureIn(reason: Uint8Array, sharedSecrets: readonly Uint8Array[]): FailureMessage {
  const read = attribute(reason, sharedSecrets);
  assert.equal(read.type, "attributed");
  assert.ok(read.type === "attributed" && read.hop === 0);
  const failure = decodeFailure(read.raw);
  assert.ok(failure.ok);
  return failure.value;
}
