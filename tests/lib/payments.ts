/** Invoices and payments between nodes, and what both sides must agree on when all is over. */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ArcusError } from "common/grpc/errors.ts";
import {
  DelinvoiceRequest_DelinvoiceStatus as DeleteStatus,
  ListinvoicesInvoices_ListinvoicesInvoicesStatus as InvoiceStatus,
  ListpaysPays_ListpaysPaysStatus as PayStatus,
  type PayResponse,
} from "gen/cln/node_pb.ts";
import { channelOf, until } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import type { World } from "./world.ts";

/** How long a payment may take, with whatever a test does to it. */
export const PAY_DEADLINE_MS = 60_000;
/** Blocks that a payment leaves to a direct peer: more than any invoice of ours asks for. */
export const FINAL_BLOCKS = 40;
/** Enough HTLCs for every payment of a test at once. */
export const MANY_SLOTS = { "max-concurrent-htlcs": "483" };

let labels = 0;

/** An invoice that a test made. */
export interface TestInvoice {
  readonly label: string;
  readonly bolt11: string;
  /** Hex. */
  readonly paymentHash: string;
  readonly paymentSecret: Uint8Array;
}

/** What an invoice may have besides its amount. */
export interface InvoiceTerms {
  readonly expiry?: bigint;
  readonly preimage?: Uint8Array;
  readonly label?: string;
}

/** An invoice of `payee`, in msat; "any": the payer chooses. */
export async function makeInvoice(
  payee: RunningNode,
  msat: bigint | "any",
  terms: InvoiceTerms = {},
): Promise<TestInvoice> {
  const label = terms.label ?? `${payee.name}-${Date.now()}-${labels++}`;
  const made = await payee.rpc.invoice({
    ...terms,
    label,
    description: "a test",
    amountMsat: {
      value: msat === "any" ? { case: "any", value: true } : { case: "amount", value: { msat } },
    },
  });
  return {
    label,
    bolt11: made.bolt11,
    paymentHash: bytesToHex(made.paymentHash),
    paymentSecret: made.paymentSecret,
  };
}

/** Pays an invoice to the end. */
export async function pay(payer: RunningNode, bolt11: string, retryFor?: number): Promise<PayResponse> {
  return await payer.rpc.pay({ bolt11, ...(retryFor === undefined ? {} : { retryFor }) }, {
    deadlineMs: PAY_DEADLINE_MS,
  });
}

/** Makes an invoice and pays it. */
export async function payNew(payer: RunningNode, payee: RunningNode, msat: bigint): Promise<TestInvoice> {
  const invoice = await makeInvoice(payee, msat);
  await pay(payer, invoice.bolt11);
  return invoice;
}

/** An invoice that its maker has forgotten: the payment of it is refused. */
export async function forgottenInvoice(payee: RunningNode, msat: bigint): Promise<TestInvoice> {
  const invoice = await makeInvoice(payee, msat);
  await payee.rpc.delInvoice({ label: invoice.label, status: DeleteStatus.UNPAID });
  return invoice;
}

/** The error that a call ends with; fails when it ends well. */
export async function failureOf(work: Promise<unknown>): Promise<ArcusError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof ArcusError, String(error));
    return error;
  }
  assert.fail("it ended well");
}

/** A hop of a route for sendpay. */
export interface RouteHop {
  readonly id: Uint8Array;
  readonly channel: string;
  readonly delay: number;
  readonly amountMsat: { readonly msat: bigint };
}

/** The route of a direct payment, for sendpay. */
export async function directRoute(
  payer: RunningNode,
  payeeId: Uint8Array,
  channelId: string,
  msat: bigint,
): Promise<RouteHop[]> {
  const scid = (await channelOf(payer, channelId))?.shortChannelId;
  assert.ok(scid, "the channel has a short channel id");
  return [{ id: payeeId, channel: scid, delay: FINAL_BLOCKS, amountMsat: { msat } }];
}

/** What is whose in a channel, msat. */
export interface Balances {
  readonly alice: bigint;
  readonly bob: bigint;
}

/** Both sides' own word on what is theirs. Only meaningful while no HTLC is under way. */
export async function balancesOf(
  { alice, bob }: World,
  channelIds: readonly string[],
): Promise<Balances & { readonly total: bigint }> {
  const of = async (node: RunningNode) => {
    let [ours, total] = [0n, 0n];
    for (const channelId of channelIds) {
      const channel = await channelOf(node, channelId);
      assert.ok(channel, `${node.name} knows the channel`);
      ours += channel.toUsMsat?.msat ?? 0n;
      total += channel.totalMsat?.msat ?? 0n;
    }
    return { ours, total };
  };
  const [a, b] = [await of(alice), await of(bob)];
  assert.equal(a.total, b.total, "both know the same capacity");
  return { alice: a.ours, bob: b.ours, total: a.total };
}

/** What a node's rows have under way. */
export async function underWay(node: RunningNode): Promise<string> {
  const [row] = await node.sql<
    { htlcs: number; onions: number; parts: number; idle: number; decisions: number; states: string | null }[]
  >`SELECT (SELECT count(*)::int FROM htlcs) AS htlcs, (SELECT count(*)::int FROM htlc_onions) AS onions,
      (SELECT count(*)::int FROM live_parts) AS parts, (SELECT count(*)::int FROM idle_payments) AS idle,
      (SELECT count(*)::int FROM htlc_decisions) AS decisions,
      (SELECT string_agg(DISTINCT state, ',') FROM htlcs) AS states`;
  if (row === undefined) throw new Error("no answer");
  const { states, ...counts } = row;
  const left = Object.entries(counts).filter(([, count]) => count > 0).map(([name, count]) =>
    `${count} ${name}`
  );
  return left.length === 0 ? "" : `${left.join(", ")}${states === null ? "" : ` (${states})`}`;
}

/** Waits until no node has anything of a payment under way: no HTLC, no onion, no part, no decision. */
export async function untilSettled(...nodes: readonly RunningNode[]): Promise<void> {
  for (const node of nodes) {
    let left = "";
    await until(() => `nothing under way at ${node.name}; there is ${left}`, async () => {
      left = await underWay(node);
      return left === "";
    });
  }
}

/** What a payer's rows say of the parts of a payment. */
async function partsOf(payer: RunningNode, hash: string): Promise<string> {
  const rows = await payer.sql<
    { part: bigint; code: number | null; failcode: number | null; text: string }[]
  >`
    SELECT h.part, h.error_code AS code, h.failcode, coalesce(h.error_text, '') AS text
    FROM payments p JOIN part_history h USING (payment) WHERE p.payment_hash = ${
    hexToBytes(hash)
  } ORDER BY h.part`;
  return rows.map(({ part, code, failcode, text }) => `part ${part}: ${code} ${failcode} ${text}`).join(
    "; ",
  ) ||
    "nothing";
}

/** What one node paid to the other so far. */
export interface Flow {
  readonly complete: number;
  readonly failed: number;
  /** Of the complete ones. */
  readonly msat: bigint;
}

/**
 * Every payment of `payer` is final, and `payee` says the same of its invoice: complete here means paid there, with one
 * preimage of the hash and one amount; failed here means not paid there; and nothing is paid there that is not complete here.
 */
export async function flowBetween(payer: RunningNode, payee: RunningNode): Promise<Flow> {
  const { pays } = await payer.rpc.listPays({});
  const { invoices } = await payee.rpc.listInvoices({});
  const byHash = new Map(invoices.map((invoice) => [bytesToHex(invoice.paymentHash), invoice]));
  const done = new Map<string, bigint>();
  const failed = new Set<string>();
  for (const each of pays) {
    const hash = bytesToHex(each.paymentHash);
    assert.notEqual(each.status, PayStatus.PENDING, `${payer.name}'s payment of ${hash} is final`);
    if (each.status === PayStatus.FAILED) {
      failed.add(hash);
      continue;
    }
    assert.ok(!done.has(hash), `${hash} is paid once`);
    done.set(hash, each.amountSentMsat?.msat ?? 0n);
    const invoice = byHash.get(hash);
    assert.equal(invoice?.status, InvoiceStatus.PAID, `${payee.name} knows that ${hash} is paid`);
    const preimage = bytesToHex(each.preimage ?? new Uint8Array());
    assert.equal(bytesToHex(sha256(hexToBytes(preimage))), hash, "the payer's preimage is of the hash");
    assert.equal(bytesToHex(invoice?.paymentPreimage ?? new Uint8Array()), preimage);
    assert.equal(invoice?.amountReceivedMsat?.msat, each.amountSentMsat?.msat, `amount of ${hash}`);
  }
  for (const invoice of invoices) {
    if (invoice.status !== InvoiceStatus.PAID) continue;
    const hash = bytesToHex(invoice.paymentHash);
    const said = `${payee.name} was paid ${hash}`;
    assert.ok(done.has(hash), `${said}, and ${payer.name} says: ${await partsOf(payer, hash)}`);
  }
  return {
    complete: done.size,
    failed: [...failed].filter((hash) => !done.has(hash)).length,
    msat: [...done.values()].reduce((sum, each) => sum + each, 0n),
  };
}

/** What moved in each direction. */
export interface Flows {
  readonly fromAlice: Flow;
  readonly fromBob: Flow;
}

/**
 * Waits until nothing is under way, and holds every payment and both balances against each other: not a millisatoshi
 * more or less on either side than `before` and the payments say.
 */
export async function nothingLost(
  world: World,
  channelIds: readonly string[],
  before: Balances,
): Promise<Flows> {
  const { alice, bob } = world;
  await untilSettled(alice, bob);
  const flows = { fromAlice: await flowBetween(alice, bob), fromBob: await flowBetween(bob, alice) };
  const moved = flows.fromAlice.msat - flows.fromBob.msat;
  const expected = { alice: before.alice - moved, bob: before.bob + moved };
  const { total, ...now } = await balancesOf(world, channelIds);
  assert.deepEqual(now, expected, "balances, msat");
  assert.equal(now.alice + now.bob, total, "both balances together are the channel");
  return flows;
}
