/** Invoices and payments as callers of the API see them: answers when it happens, codes, pages, one payment of one invoice. */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import {
  DelinvoiceRequest_DelinvoiceStatus as DeleteStatus,
  ListhtlcsHtlcs_ListhtlcsHtlcsDirection as HtlcDirection,
  ListhtlcsRequest_ListhtlcsIndex as HtlcIndex,
  ListinvoicesInvoices_ListinvoicesInvoicesStatus as InvoiceStatus,
  ListinvoicesRequest_ListinvoicesIndex as InvoiceIndex,
  ListpaysPays_ListpaysPaysStatus as PayStatus,
  ListpaysRequest_ListpaysIndex as PayIndex,
  ListpaysRequest_ListpaysStatus as PayStatusAsked,
  ListsendpaysRequest_ListsendpaysIndex as SendPayIndex,
  WaitinvoiceResponse_WaitinvoiceStatus as WaitedStatus,
} from "gen/cln/node_pb.ts";
import { isConnected, until } from "tools/node/commands.ts";
import { generationOf } from "../lib/rows.ts";
import { setFaults } from "../lib/faults.ts";
import {
  directRoute,
  failureOf,
  FINAL_BLOCKS,
  forgottenInvoice,
  makeInvoice,
  nothingLost,
  pay,
  payNew,
  type TestInvoice,
  untilSettled,
} from "../lib/payments.ts";
import { randomSecret } from "../lib/raw_peer.ts";
import { shareChannel } from "../lib/shared_world.ts";
import { useWorlds } from "../lib/world.ts";

const worlds = await useWorlds();
const { world, channel, opening, test } = await shareChannel(worlds, {});
const { alice, bob } = world;
const MSAT = 1_000_000n;

async function sendPay(invoice: TestInvoice, msat = MSAT) {
  return await alice.rpc.sendPay({
    route: await directRoute(alice, hexToBytes(bob.id), channel.channelId, msat),
    paymentHash: hexToBytes(invoice.paymentHash),
    paymentSecret: invoice.paymentSecret,
    amountMsat: { msat },
  });
}

const waitSendPay = (invoice: TestInvoice, timeout?: number) =>
  alice.rpc.waitSendPay({
    paymentHash: hexToBytes(invoice.paymentHash),
    ...(timeout === undefined ? {} : { timeout }),
  });

async function invoiceRow(label: string) {
  const { invoices } = await bob.rpc.listInvoices({ label });
  return invoices[0];
}

/** Cuts alice off from bob: what she says from this message on is lost. Undone by {@link healed}. */
const cutOff = (message: string) => setFaults(alice, { action: "blackhole", message });

async function healed(): Promise<void> {
  await setFaults(alice);
  const before = await generationOf(alice, bob);
  await alice.rpc.disconnect({ id: hexToBytes(bob.id), force: true }).catch(() => {});
  await until("another connection", async () => {
    const now = await generationOf(alice, bob);
    return now !== undefined && now !== before;
  });
}

test("waitinvoice and waitanyinvoice answer when the invoice is paid", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  const seen = await bob.rpc.listInvoices({});
  const last = seen.invoices.reduce((most, { payIndex = 0n }) => payIndex > most ? payIndex : most, 0n);
  const waiting = bob.rpc.waitInvoice({ label: invoice.label });
  const any = bob.rpc.waitAnyInvoice({ lastpayIndex: last });
  const { paymentPreimage } = await pay(alice, invoice.bolt11);
  for (const answer of [await waiting, await any]) {
    assert.equal(answer.label, invoice.label);
    assert.equal(answer.status as number, WaitedStatus.PAID as number);
    assert.equal(answer.amountReceivedMsat?.msat, MSAT);
    assert.deepEqual(answer.paymentPreimage, paymentPreimage);
    assert.equal(answer.payIndex, last + 1n);
  }
  // What has happened is answered at once.
  assert.equal((await bob.rpc.waitInvoice({ label: invoice.label })).payIndex, last + 1n);
  assert.equal((await bob.rpc.waitAnyInvoice({ lastpayIndex: last })).label, invoice.label);
});

test("waitanyinvoice gives every paid invoice once, in the order of payment", async () => {
  const { invoices } = await bob.rpc.listInvoices({});
  let last = invoices.reduce((most, { payIndex = 0n }) => payIndex > most ? payIndex : most, 0n);
  const labels = [];
  for (let count = 0; count < 3; count++) labels.push((await payNew(alice, bob, MSAT)).label);
  const given = [];
  for (const _ of labels) {
    const answer = await bob.rpc.waitAnyInvoice({ lastpayIndex: last });
    given.push(answer.label);
    last = answer.payIndex ?? 0n;
  }
  assert.deepEqual(given, labels);
  const { clnCode } = await failureOf(bob.rpc.waitAnyInvoice({ lastpayIndex: last, timeout: 1n }));
  assert.equal(clnCode, 904);
});

test("waitinvoice of an invoice that expires, is deleted or never was", async () => {
  const expiring = await makeInvoice(bob, MSAT, { expiry: 1n });
  const { clnCode } = await failureOf(bob.rpc.waitInvoice({ label: expiring.label }));
  assert.equal(clnCode, 903);
  assert.equal((await invoiceRow(expiring.label))?.status, InvoiceStatus.EXPIRED);
  const deleted = await makeInvoice(bob, MSAT);
  const waiting = failureOf(bob.rpc.waitInvoice({ label: deleted.label }));
  await bob.rpc.delInvoice({ label: deleted.label, status: DeleteStatus.UNPAID });
  assert.equal((await waiting).clnCode, 905);
  assert.equal((await failureOf(bob.rpc.waitInvoice({ label: "never" }))).clnCode, 905);
});

test("sendpay answers pending, waitsendpay when it is complete, and again at once", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  const sent = await sendPay(invoice);
  assert.equal(bytesToHex(sent.paymentHash), invoice.paymentHash);
  const waited = await waitSendPay(invoice);
  assert.equal(bytesToHex(sha256(waited.paymentPreimage ?? new Uint8Array())), invoice.paymentHash);
  assert.deepEqual((await waitSendPay(invoice)).paymentPreimage, waited.paymentPreimage);
  assert.equal((await invoiceRow(invoice.label))?.status, InvoiceStatus.PAID);
});

test("sendpay and waitsendpay: Core Lightning's codes", async () => {
  const unknown = await makeInvoice(bob, MSAT);
  assert.equal((await failureOf(waitSendPay(unknown))).clnCode, 208, "there is no such payment");

  const forgotten = await forgottenInvoice(bob, MSAT);
  await sendPay(forgotten);
  assert.equal((await failureOf(waitSendPay(forgotten))).clnCode, 203, "the destination refuses");
  assert.equal((await failureOf(waitSendPay(forgotten))).clnCode, 203, "and again at once");

  const route = await directRoute(alice, hexToBytes(bob.id), channel.channelId, MSAT);
  const elsewhere = route.map((hop) => ({ ...hop, channel: "1x1x1" }));
  const noChannel = await failureOf(
    alice.rpc.sendPay({ route: elsewhere, paymentHash: randomSecret(), amountMsat: { msat: MSAT } }),
  );
  assert.ok([204, 205].includes(noChannel.clnCode ?? 0), `no such channel: ${noChannel.clnCode}`);

  const tooMuch = route.map((hop) => ({ ...hop, amountMsat: { msat: 3_000_000_000n } }));
  const large = { route: tooMuch, paymentHash: sha256(randomSecret()), paymentSecret: randomSecret() };
  const more = await failureOf((async () => {
    await alice.rpc.sendPay({ ...large, amountMsat: { msat: 3_000_000_000n } });
    await alice.rpc.waitSendPay({ paymentHash: large.paymentHash, timeout: 10 });
  })());
  assert.equal(more.clnCode, 204, "more than the channel carries");

  const paid = await makeInvoice(bob, "any");
  await sendPay(paid, MSAT);
  const { paymentPreimage } = await waitSendPay(paid);
  assert.equal((await failureOf(sendPay(paid, MSAT + 1n))).clnCode, 201, "paid with another amount");
  const again = await sendPay(paid, MSAT);
  assert.deepEqual(again.paymentPreimage, paymentPreimage, "the same again is answered");
});

test("waitsendpay with a timeout says that it is under way, and a second sendpay does not pay twice", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  await cutOff("update_add_htlc");
  await sendPay(invoice);
  assert.equal((await failureOf(waitSendPay(invoice, 1))).clnCode, 200);
  const second = await failureOf(sendPay(invoice, MSAT + 1n));
  assert.equal(second.clnCode, 200, "another attempt is under way");
  await healed();
  await waitSendPay(invoice);
  await nothingLost(world, [channel.channelId], opening);
});

test("pay twice, and many times at once: one payment, one preimage", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  const answers = await Promise.all(Array.from({ length: 5 }, () => pay(alice, invoice.bolt11)));
  answers.push(await pay(alice, invoice.bolt11));
  const preimages = new Set(answers.map(({ paymentPreimage }) => bytesToHex(paymentPreimage)));
  assert.equal(preimages.size, 1);
  const { pays } = await alice.rpc.listPays({ bolt11: invoice.bolt11 });
  assert.deepEqual(pays.map(({ status }) => status), [PayStatus.COMPLETE]);
  await nothingLost(world, [channel.channelId], opening);
});

test("pay: an expired invoice, an unknown one, one of no amount, one of our own", async () => {
  const expired = await makeInvoice(bob, MSAT, { expiry: 1n });
  await until("it expired", async () => (await invoiceRow(expired.label))?.status === InvoiceStatus.EXPIRED);
  assert.equal((await failureOf(pay(alice, expired.bolt11))).clnCode, 207);

  const forgotten = await forgottenInvoice(bob, MSAT);
  const refused = await failureOf(pay(alice, forgotten.bolt11));
  assert.equal(refused.clnCode, 203, refused.message);
  const { pays } = await alice.rpc.listPays({ bolt11: forgotten.bolt11 });
  assert.deepEqual(pays.map(({ status }) => status), [PayStatus.FAILED]);

  const any = await makeInvoice(bob, "any");
  assert.ok(await failureOf(pay(alice, any.bolt11)), "it needs an amount");
  const paid = await alice.rpc.pay({ bolt11: any.bolt11, amountMsat: { msat: 12_345n } });
  assert.equal(paid.amountMsat?.msat, 12_345n);
  assert.equal((await invoiceRow(any.label))?.amountReceivedMsat?.msat, 12_345n);

  const fixed = await makeInvoice(bob, MSAT);
  assert.ok(await failureOf(alice.rpc.pay({ bolt11: fixed.bolt11, amountMsat: { msat: MSAT - 1n } })));

  const own = await makeInvoice(alice, MSAT);
  assert.ok(await failureOf(pay(alice, own.bolt11, 1)));
  assert.ok(await failureOf(alice.rpc.pay({ bolt11: "lnbcrt1nonsense" })));
  await nothingLost(world, [channel.channelId], opening);
});

test("an invoice that failed because it was unknown can be paid once it is there", async () => {
  const preimage = randomSecret();
  const first = await makeInvoice(bob, MSAT, { preimage });
  await bob.rpc.delInvoice({ label: first.label, status: DeleteStatus.UNPAID });
  assert.equal((await failureOf(pay(alice, first.bolt11))).clnCode, 203);
  const second = await makeInvoice(bob, MSAT, { preimage });
  const { paymentPreimage } = await pay(alice, second.bolt11);
  assert.deepEqual(paymentPreimage, preimage);
  await nothingLost(world, [channel.channelId], opening);
});

test("invoice and delinvoice: Core Lightning's codes", async () => {
  const preimage = randomSecret();
  const { label } = await makeInvoice(bob, MSAT, { preimage });
  assert.equal((await failureOf(makeInvoice(bob, MSAT, { label }))).clnCode, 900);
  assert.equal((await failureOf(makeInvoice(bob, MSAT, { preimage }))).clnCode, 901);
  const paid = await failureOf(bob.rpc.delInvoice({ label, status: DeleteStatus.PAID }));
  assert.equal(paid.clnCode, 906);
  assert.equal(
    (await failureOf(bob.rpc.delInvoice({ label: "never", status: DeleteStatus.PAID }))).clnCode,
    905,
  );
  await bob.rpc.delInvoice({ label, status: DeleteStatus.UNPAID });
  assert.equal(await invoiceRow(label), undefined);
});

test("xpay and keysend pay", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  const paid = await alice.rpc.xpay({ invstring: invoice.bolt11 });
  assert.equal(bytesToHex(sha256(paid.paymentPreimage)), invoice.paymentHash);
  assert.deepEqual([paid.successfulParts, paid.failedParts], [1n, 0n]);
  assert.equal(paid.amountSentMsat?.msat, MSAT);

  const sent = await alice.rpc.keySend({ destination: hexToBytes(bob.id), amountMsat: { msat: 54_321n } });
  assert.deepEqual(sha256(sent.paymentPreimage), sent.paymentHash);
  const { invoices } = await bob.rpc.listInvoices({ paymentHash: sent.paymentHash });
  assert.equal(invoices[0]?.status, InvoiceStatus.PAID);
  assert.equal(invoices[0]?.amountReceivedMsat?.msat, 54_321n);
  await nothingLost(world, [channel.channelId], opening);
});

test("decode says what invoice was asked for", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  const decoded = await alice.rpc.decode({ string: invoice.bolt11 });
  assert.equal(decoded.valid, true);
  assert.equal(decoded.amountMsat?.msat, MSAT);
  assert.equal(bytesToHex(decoded.payee ?? new Uint8Array()), bob.id);
  assert.equal(bytesToHex(decoded.paymentHash ?? new Uint8Array()), invoice.paymentHash);
  assert.equal(decoded.description, "a test");
});

/** Pages of two, from the first index on, must be the whole list in its order. */
async function pagesGive<T>(
  whole: readonly T[],
  indexOf: (each: T) => bigint,
  page: (start: bigint, limit: number) => Promise<readonly T[]>,
): Promise<void> {
  assert.ok(whole.length > 4, "there is something to page through");
  const size = 2;
  const found: bigint[] = [];
  for (let start = 1n;;) {
    const entries = await page(start, size);
    if (entries.length === 0) break;
    assert.ok(entries.length <= size);
    found.push(...entries.map(indexOf));
    start = indexOf(entries[entries.length - 1]!) + 1n;
  }
  assert.deepEqual(found, whole.map(indexOf).toSorted((a, b) => a < b ? -1 : 1));
}

test("lists come in pages with index, start and limit", async () => {
  for (let count = 0; count < 5; count++) await payNew(alice, bob, MSAT);
  await untilSettled(alice, bob);
  await pagesGive(
    (await bob.rpc.listInvoices({})).invoices,
    ({ createdIndex }) => createdIndex,
    async (start, limit) =>
      (await bob.rpc.listInvoices({ index: InvoiceIndex.CREATED, start, limit })).invoices,
  );
  await pagesGive(
    (await bob.rpc.listInvoices({})).invoices.filter(({ updatedIndex }) => updatedIndex !== undefined),
    ({ updatedIndex = 0n }) => updatedIndex,
    async (start, limit) =>
      (await bob.rpc.listInvoices({ index: InvoiceIndex.UPDATED, start, limit })).invoices,
  );
  await pagesGive(
    (await alice.rpc.listPays({})).pays,
    ({ createdIndex = 0n }) => createdIndex,
    async (start, limit) => (await alice.rpc.listPays({ index: PayIndex.CREATED, start, limit })).pays,
  );
  await pagesGive(
    (await alice.rpc.listSendPays({})).payments,
    ({ createdIndex }) => createdIndex,
    async (start, limit) =>
      (await alice.rpc.listSendPays({ index: SendPayIndex.CREATED, start, limit })).payments,
  );
  const { htlcs } = await alice.rpc.listHtlcs({});
  await pagesGive(
    htlcs,
    ({ createdIndex = 0n }) => createdIndex,
    async (start, limit) => (await alice.rpc.listHtlcs({ index: HtlcIndex.CREATED, start, limit })).htlcs,
  );
  assert.ok(htlcs.every(({ direction }) => direction === HtlcDirection.OUT));
  const { pays } = await alice.rpc.listPays({ status: PayStatusAsked.FAILED });
  assert.ok(pays.every(({ status }) => status === PayStatus.FAILED));
});

test("a restart of the payer in between: the payment goes on, and waitsendpay answers afterwards", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  await cutOff("update_add_htlc");
  await sendPay(invoice);
  const waiting = failureOf(waitSendPay(invoice));
  for (const process of alice.processes) await process.kill();
  await waiting;
  await alice.start();
  const { paymentPreimage } = await waitSendPay(invoice);
  assert.equal(bytesToHex(sha256(paymentPreimage ?? new Uint8Array())), invoice.paymentHash);
  await nothingLost(world, [channel.channelId], opening);
});

test("a restart of the payee: its invoices are as they were, and waitinvoice works on", async () => {
  const paid = await payNew(alice, bob, MSAT);
  const open = await makeInvoice(bob, MSAT);
  for (const process of bob.processes) await process.kill();
  await bob.start();
  assert.equal((await bob.rpc.waitInvoice({ label: paid.label })).status, WaitedStatus.PAID);
  assert.equal((await invoiceRow(open.label))?.status, InvoiceStatus.UNPAID);
  await until("connected", async () => await isConnected(alice, bob));
  const waiting = bob.rpc.waitInvoice({ label: open.label });
  await pay(alice, open.bolt11);
  assert.equal((await waiting).label, open.label);
  await nothingLost(world, [channel.channelId], opening);
});

test("a payment to a stopped peer ends within its time, and says so", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  for (const process of bob.processes) await process.kill();
  await until("alice sees it", async () => !await isConnected(alice, bob));
  const began = performance.now();
  const failure = await failureOf(pay(alice, invoice.bolt11, 2));
  assert.ok([205, 210].includes(failure.clnCode ?? 0), `${failure.clnCode}: ${failure.message}`);
  assert.ok(performance.now() - began < 15_000, "retry_for is kept");
  const { pays } = await alice.rpc.listPays({ bolt11: invoice.bolt11 });
  assert.ok(pays.every(({ status }) => status === PayStatus.FAILED));
  await bob.start();
  await until("connected", async () => await isConnected(alice, bob));
  await pay(alice, invoice.bolt11);
  await nothingLost(world, [channel.channelId], opening);
});

test("an HTLC that a silent peer holds is under way, never 'failed', and ends when the peer speaks", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  await cutOff("commitment_signed");
  const answer = await pay(alice, invoice.bolt11, 2).then(
    ({ status }) => `status ${status}`,
    (error) => `code ${error.clnCode}`,
  );
  const { pays: [under] } = await alice.rpc.listPays({ bolt11: invoice.bolt11 });
  assert.equal(under?.status, PayStatus.PENDING, `after ${answer}`);
  await healed();
  await until("it is complete", async () => {
    const { pays: [now] } = await alice.rpc.listPays({ bolt11: invoice.bolt11 });
    return now?.status === PayStatus.COMPLETE;
  });
  await nothingLost(world, [channel.channelId], opening);
});

test("waitsendpay has a route with too few blocks refused by the payee", async () => {
  const invoice = await makeInvoice(bob, MSAT);
  const [hop] = await directRoute(alice, hexToBytes(bob.id), channel.channelId, MSAT);
  assert.ok(hop !== undefined && hop.delay === FINAL_BLOCKS);
  await alice.rpc.sendPay({
    route: [{ ...hop, delay: 2 }],
    paymentHash: hexToBytes(invoice.paymentHash),
    paymentSecret: invoice.paymentSecret,
    amountMsat: { msat: MSAT },
  });
  assert.equal((await failureOf(waitSendPay(invoice))).clnCode, 203);
  await nothingLost(world, [channel.channelId], opening);
});
