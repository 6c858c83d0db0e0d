/** What a payer does when channels, peers and its own process fail: a scripted channeld, and engines that die. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { sha256 } from "@noble/hashes/sha2.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { signedInvoice, unsignedInvoice } from "bolt/invoice/encode.ts";
import { invoiceSighash } from "bolt/invoice/fields.ts";
import { createErrorPacket } from "bolt/onion/error_packet.ts";
import type { FailureMessage } from "bolt/onion/failure.ts";
import { msat } from "bolt/units.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { ArcusError } from "common/grpc/errors.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import type { OfferHtlc } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import { invoiceFeatures } from "./payments.ts";
import { levelOf, peelFor, StandInChanneld, TestNode } from "./testing.ts";

const postgres = await usePostgres();
const QUIET = { sanitizeOps: false, sanitizeResources: false };
const MUCH = 1_000_000_000n;
const LATE = new Uint8Array(32).fill(9);

/** A payer with channels to a payee that only makes invoices; the test is everything in between. */
class Payers implements AsyncDisposable {
  channeld!: StandInChanneld;
  channels: bigint[] = [];

  private constructor(readonly payer: TestNode, readonly payee: TestNode) {}

  static async start(amounts: readonly bigint[]): Promise<Payers> {
    const test = new Payers(await TestNode.start(postgres), await TestNode.start(postgres));
    for (const _ of amounts) test.channels.push(await test.payer.channel(test.payee.nodeId));
    await test.connect(amounts);
    return test;
  }

  /** A channeld that has these amounts to send. */
  async connect(amounts: readonly bigint[]): Promise<void> {
    this.channeld = new StandInChanneld(this.payer);
    await this.channeld.hello();
    this.channels.forEach((channel, i) => this.channeld.sync(channel, amounts[i]!));
    await waitFor(
      () => this.channels.every((channel) => this.payer.room.views.get(channel)?.usable === true),
      {
        what: "channels that can be used",
      },
    );
  }

  async invoice(amountMsat: bigint) {
    const preimage = Uint8Array.from(randomBytes(32));
    const invoice = await this.payee.room.invoices.create({
      amountMsat,
      label: preimage.toHex(),
      description: "",
      preimage,
    });
    return { ...invoice, preimage };
  }

  taken(channel: bigint, { origin }: OfferHtlc): void {
    this.channeld.say({ channel, report: { case: "offered", value: { origin, id: origin } } });
  }

  refused(channel: bigint, { origin }: OfferHtlc, detail = "no room"): void {
    this.channeld.say({
      channel,
      report: { case: "offered", value: { origin, refusal: "temporary_channel_failure", detail } },
    });
  }

  preimage(channel: bigint, { origin }: { readonly origin: bigint }, preimage: Uint8Array): void {
    this.channeld.say({
      channel,
      report: {
        case: "resolved",
        value: { origin, id: origin, outcome: { case: "preimage", value: preimage } },
      },
    });
  }

  failed(channel: bigint, { origin, onion, paymentHash }: OfferHtlc, failure: FailureMessage): void {
    const { sharedSecret } = peelFor(this.payee, onion, paymentHash);
    const reason = createErrorPacket(sharedSecret, failure);
    this.channeld.say({
      channel,
      report: {
        case: "resolved",
        value: { origin, id: origin, outcome: { case: "failed", value: { reason } } },
      },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.payer[Symbol.asyncDispose]();
    await this.payee[Symbol.asyncDispose]();
    assert.deepEqual(this.payer.fatal, []);
  }
}

async function refusal(promise: Promise<unknown>): Promise<ArcusError> {
  const error = await promise.then(() => undefined, (reason) => reason);
  assert.ok(error instanceof ArcusError, String(error));
  return error;
}

/** The engine of a restarted node must not fail a promise that nobody waits for. */
const quiet = <T>(promise: Promise<T>): Promise<T> => {
  promise.catch(() => {});
  return promise;
};

async function statusOf(node: TestNode, paymentHash: Uint8Array) {
  const rows = await node.room.listPayments({ paymentHash });
  return rows.map(({ ending }) => ending?.type ?? "pending");
}

Deno.test({
  name: "a part that fails for now is tried over another channel, with another onion",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH, MUCH / 2n]);
    const { bolt11, preimage, paymentHash } = await test.invoice(5_000n);
    const paying = test.payer.room.pay({ bolt11 });
    const first = await test.channeld.nextOffer();
    test.taken(first.channel, first.offer);
    test.failed(first.channel, first.offer, { type: "temporary_node_failure" });
    const second = await test.channeld.nextOffer();
    assert.notEqual(second.channel, first.channel);
    assert.notEqual(second.offer.origin, first.offer.origin);
    assert.notDeepEqual(second.offer.onion, first.offer.onion);
    assert.deepEqual(await statusOf(test.payer, paymentHash), ["pending"]);
    test.preimage(second.channel, second.offer, preimage);
    const paid = await paying;
    assert.deepEqual(paid.preimage, preimage);
    assert.deepEqual([paid.parts, paid.failedParts], [1, 1]);
    const parts = await test.payer.room.listParts({ paymentHash });
    assert.deepEqual(parts.map(({ resolved }) => resolved?.preimage !== undefined), [false, true]);
    assert.equal(parts[0]?.resolved?.failure?.erringIndex, 1);
  },
});

Deno.test({
  name: "a channel without room makes payments wait, and they go on as soon as there is some",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([6_000n]);
    const [channel] = test.channels as [bigint];
    const invoices = await Promise.all([1, 2, 3].map(() => test.invoice(4_000n)));
    const paying = invoices.map(({ bolt11 }) => test.payer.room.pay({ bolt11 }));
    const first = await test.channeld.nextOffer();
    test.channeld.say({ channel, report: levelOf(2_000n, { htlcsOut: 1 }) });
    test.taken(channel, first.offer);
    // Only one has room at a time.
    const by = (hash: Uint8Array) =>
      invoices.find(({ paymentHash }) => paymentHash.toHex() === hash.toHex())!;
    test.preimage(channel, first.offer, by(first.offer.paymentHash).preimage);
    assert.equal(test.channeld.offers.length, 1);
    for (let left = 2; left > 0; left--) {
      test.channeld.say({ channel, report: levelOf(6_000n) });
      const { offer } = await test.channeld.nextOffer();
      test.channeld.say(
        { channel, report: { case: "offered", value: { origin: offer.origin, id: 1n } } },
        { channel, report: levelOf(2_000n, { htlcsOut: 1 }) },
      );
      test.preimage(channel, offer, by(offer.paymentHash).preimage);
    }
    await Promise.all(paying);
  },
});

Deno.test({
  name: "a refused offer is tried again; time over without anything under way is 210, and final",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const { bolt11, paymentHash } = await test.invoice(5_000n);
    test.channeld.onOffer = (channel, offer) => test.refused(channel, offer);
    const error = await refusal(test.payer.room.pay({ bolt11, retrySeconds: 1 }));
    assert.equal(error.clnCode, 210);
    assert.equal(error.details["failcodename"], "WIRE_TEMPORARY_CHANNEL_FAILURE");
    assert.equal(error.details["erring_index"], "0");
    assert.ok(test.channeld.offers.length > 2 && test.channeld.offers.length < 40);
    assert.deepEqual(await statusOf(test.payer, paymentHash), ["failed"]);
    const [row] = await test.payer.sql<{ live: bigint; idle: bigint }[]>`
      SELECT (SELECT count(*) FROM live_parts) AS live, (SELECT count(*) FROM idle_payments) AS idle`;
    assert.deepEqual(row, { live: 0n, idle: 0n });
  },
});

Deno.test({
  name: "a payment is not failed while a part may still succeed, not even when its time is over",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([3_000n, 3_000n]);
    const { bolt11, preimage, paymentHash } = await test.invoice(5_000n);
    const paying = test.payer.room.pay({ bolt11, retrySeconds: 1 });
    const [one, two] = [await test.channeld.nextOffer(), await test.channeld.nextOffer()];
    test.taken(one.channel, one.offer);
    test.taken(two.channel, two.offer);
    test.failed(one.channel, one.offer, {
      type: "incorrect_or_unknown_payment_details",
      htlc_msat: 1n,
      height: 1,
    });
    await waitFor(
      async () =>
        (await test.payer.room.listParts({ paymentHash })).some(({ resolved }) => resolved !== undefined),
      { what: "the failed part in its row" },
    );
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    assert.deepEqual(await statusOf(test.payer, paymentHash), ["pending"]);
    test.preimage(two.channel, two.offer, preimage);
    assert.deepEqual((await paying).preimage, preimage);
    assert.deepEqual(await statusOf(test.payer, paymentHash), ["complete"]);
  },
});

Deno.test({
  name: "a preimage of another hash is no preimage, and one that comes twice changes nothing",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const { bolt11, preimage, paymentHash } = await test.invoice(5_000n);
    const paying = test.payer.room.pay({ bolt11 });
    const { channel, offer } = await test.channeld.nextOffer();
    test.preimage(channel, offer, LATE);
    test.preimage(channel, offer, preimage);
    test.preimage(channel, offer, preimage);
    test.failed(channel, offer, { type: "temporary_node_failure" });
    assert.deepEqual((await paying).preimage, preimage);
    assert.equal((await test.payer.room.listParts({ paymentHash })).length, 1);
  },
});

Deno.test({
  name: "channeld dies: a part that was never made is tried again, one that was made is not",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const [channel] = test.channels as [bigint];
    const invoices = await Promise.all([1, 2, 3].map(() => test.invoice(5_000n)));
    const paying = invoices.map(({ bolt11 }) => test.payer.room.pay({ bolt11 }));
    const offers = [];
    for (const _ of invoices) offers.push((await test.channeld.nextOffer()).offer);
    const [made, over, never] = offers as [OfferHtlc, OfferHtlc, OfferHtlc];
    test.channeld.close();
    await waitFor(() => test.payer.room.views.get(channel)?.usable === false, {
      what: "the channel is lost",
    });
    const preimageOf = ({ paymentHash }: OfferHtlc) =>
      invoices.find((invoice) => invoice.paymentHash.toHex() === paymentHash.toHex())!.preimage;
    // One of them ended meanwhile, and only channeld's history knows.
    await test.payer.sql`
      INSERT INTO htlc_history (htlc, channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, preimage, created_at)
      VALUES (1, ${channel}, true, 1, 5000, ${over.paymentHash}, 300, ${over.origin}, ${
      preimageOf(over)
    }, now())`;
    const next = new StandInChanneld(test.payer);
    await next.hello();
    test.channeld = next;
    next.sync(channel, MUCH, {
      reports: [{ case: "offered", value: { origin: made.origin, id: 1n } }],
    });
    const { offer: again } = await next.nextOffer();
    assert.deepEqual(again.paymentHash, never.paymentHash);
    assert.ok(again.origin > never.origin);
    test.preimage(channel, again, preimageOf(again));
    test.preimage(channel, made, preimageOf(made));
    await Promise.all(paying);
    assert.equal(next.offers.length, 1);
  },
});

Deno.test({
  name: "an owner of an older epoch is not heard, and a report of a new one counts only once its row says so",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const [channel] = test.channels as [bigint];
    const { bolt11, preimage } = await test.invoice(5_000n);
    const paying = test.payer.room.pay({ bolt11 });
    const { offer } = await test.channeld.nextOffer();
    const next = new StandInChanneld(test.payer);
    await next.hello();
    // Not the owner: the row still names epoch 1.
    next.sync(channel, 1n, { epoch: 2n });
    await test.payer.sql`UPDATE channels SET owner_epoch = 3 WHERE channel = ${channel}`;
    next.sync(channel, 7_000n, {
      epoch: 3n,
      reports: [{ case: "offered", value: { origin: offer.origin, id: 1n } }],
    });
    await waitFor(() => test.payer.room.views.get(channel)?.level?.spendableMsat === 7_000n, {
      what: "the new owner's level",
    });
    test.channeld.say({ channel, epoch: 1n, report: levelOf(1n) });
    test.channeld.say({
      channel,
      epoch: 1n,
      report: {
        case: "resolved",
        value: { origin: offer.origin, outcome: { case: "malformed", value: { failureCode: 0xc005 } } },
      },
    });
    next.say({
      channel,
      epoch: 3n,
      report: {
        case: "resolved",
        value: { origin: offer.origin, id: 1n, outcome: { case: "preimage", value: preimage } },
      },
    });
    assert.deepEqual((await paying).preimage, preimage);
    assert.equal(test.payer.room.views.get(channel)?.level?.spendableMsat, 7_000n);
  },
});

Deno.test({
  name: "strangers, and a replica that says hello twice",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const stranger = new StandInChanneld(test.payer);
    await stranger.hello({ databaseId: new Uint8Array(16) });
    assert.equal(stranger.welcomed, false);
    const other = new StandInChanneld(test.payer);
    await other.hello({ daemon: "connectd" });
    assert.equal(other.welcomed, false);
    assert.equal(test.channeld.node?.height, test.payer.height);
    // The same instance again: its first stream is ended.
    const again = new StandInChanneld(test.payer);
    await again.hello({ instance: test.channeld.instance } as never);
    await waitFor(() => test.channeld.ended, { what: "the first stream's end" });
  },
});

/** At each of these moments the payer's process dies; `then` says how the network stands when it is back. */
const CRASHES: readonly {
  readonly name: string;
  /** Until then; answers the offer if there was one. */
  readonly until: (test: Payers, paying: Promise<unknown>, preimage: Uint8Array) => Promise<OfferHtlc>;
  /** What the next channeld tells, and channeld's rows have. */
  readonly then: (test: Payers, offer: OfferHtlc, preimage: Uint8Array) => Promise<void>;
  readonly end: "complete" | "failed";
  readonly retry: number;
}[] = [
  {
    name: "after the offer was said, never made: it is made again",
    until: async (test) => (await test.channeld.nextOffer()).offer,
    then: async (test, offer, preimage) => {
      await test.connect([MUCH]);
      const next = await test.channeld.nextOffer();
      assert.notEqual(next.offer.origin, offer.origin);
      test.preimage(next.channel, next.offer, preimage);
    },
    end: "complete",
    retry: 60,
  },
  {
    name: "after the offer was said, never made, its time over: it has failed",
    until: async (test) => (await test.channeld.nextOffer()).offer,
    then: async (test) => {
      await new Promise((resolve) => setTimeout(resolve, 1_100));
      await test.connect([MUCH]);
    },
    end: "failed",
    retry: 1,
  },
  {
    name: "while the HTLC is under way: its end is taken",
    until: async (test) => {
      const { channel, offer } = await test.channeld.nextOffer();
      test.taken(channel, offer);
      return offer;
    },
    then: async (test, offer, preimage) => {
      const [channel] = test.channels as [bigint];
      test.channeld = new StandInChanneld(test.payer);
      await test.channeld.hello();
      test.channeld.sync(channel, MUCH, {
        reports: [{ case: "offered", value: { origin: offer.origin, id: 1n } }],
      });
      test.preimage(channel, offer, preimage);
      assert.equal(test.channeld.offers.length, 0);
    },
    end: "complete",
    retry: 1,
  },
  {
    name: "the preimage came while nobody listened: channeld's rows have it",
    until: async (test) => (await test.channeld.nextOffer()).offer,
    then: async (test, offer, preimage) => {
      const [channel] = test.channels as [bigint];
      await test.payer.sql`
        INSERT INTO htlc_history (htlc, channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, preimage, created_at)
        VALUES (1, ${channel}, true, 1, 5000, ${offer.paymentHash}, 300, ${offer.origin}, ${preimage}, now())`;
      await test.connect([MUCH]);
    },
    end: "complete",
    retry: 1,
  },
  {
    name: "the failure came while nobody listened: the error is read with what the rows have",
    until: async (test) => (await test.channeld.nextOffer()).offer,
    then: async (test, offer) => {
      const [channel] = test.channels as [bigint];
      const { sharedSecret } = peelFor(test.payee, offer.onion, offer.paymentHash);
      const reason = createErrorPacket(sharedSecret, {
        type: "incorrect_or_unknown_payment_details",
        htlc_msat: 5_000n,
        height: 200,
      });
      await test.payer.sql`
        INSERT INTO htlc_history (htlc, channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, failure, created_at)
        VALUES (1, ${channel}, true, 1, 5000, ${offer.paymentHash}, 300, ${offer.origin}, ${reason}, now())`;
      await test.connect([MUCH]);
    },
    end: "failed",
    retry: 60,
  },
  {
    name: "and its channel fails, the offer never made: it has failed",
    until: async (test) => (await test.channeld.nextOffer()).offer,
    then: async (test) => {
      await test.payer.sql`UPDATE channels SET error_text = 'failed'`;
      await test.payer.restart();
    },
    end: "failed",
    retry: 1,
  },
  {
    name: "and its channel fails, the preimage in channeld's rows: it is complete",
    until: async (test) => (await test.channeld.nextOffer()).offer,
    then: async (test, offer, preimage) => {
      const [channel] = test.channels as [bigint];
      await test.payer.sql`
        INSERT INTO htlcs (channel, offered, id, state, amount_msat, payment_hash, cltv_expiry, origin, preimage)
        VALUES (${channel}, true, 1, 'RCVD_REMOVE_COMMIT', 5000, ${offer.paymentHash}, 300, ${offer.origin}, ${preimage})`;
      await test.payer.sql`UPDATE channels SET error_text = 'failed'`;
      await test.payer.restart();
    },
    end: "complete",
    retry: 1,
  },
  {
    name: "between two tries: it goes on",
    until: async (test) => {
      const { channel, offer } = await test.channeld.nextOffer();
      test.channeld.say({ channel, report: levelOf(MUCH, { paused: "reestablishing" }) });
      test.refused(channel, offer);
      await waitFor(async () => (await test.payer.sql`SELECT FROM idle_payments`).length === 1, {
        what: "an idle payment",
      });
      return offer;
    },
    then: async (test, _offer, preimage) => {
      await test.connect([MUCH]);
      const next = await test.channeld.nextOffer();
      test.preimage(next.channel, next.offer, preimage);
    },
    end: "complete",
    retry: 60,
  },
  {
    name: "after the preimage was stored: it is what it was",
    until: async (test, paying, preimage) => {
      const { channel, offer } = await test.channeld.nextOffer();
      test.preimage(channel, offer, preimage);
      await paying;
      return offer;
    },
    then: (test) => test.connect([MUCH]),
    end: "complete",
    retry: 60,
  },
];

for (const { name, until, then, end, retry } of CRASHES) {
  Deno.test({
    name: `lightningd dies ${name}`,
    ...QUIET,
    async fn() {
      await using test = await Payers.start([MUCH]);
      const { bolt11, preimage, paymentHash } = await test.invoice(5_000n);
      const paying = quiet(test.payer.room.pay({ bolt11, retrySeconds: retry }));
      const offer = await until(test, paying, preimage);
      await test.payer.restart();
      await then(test, offer, preimage);
      await waitFor(async () => (await statusOf(test.payer, paymentHash))[0] === end, {
        what: `the end: ${end}`,
      });
      const rows = await test.payer.room.listPayments({ paymentHash });
      assert.equal(rows.length, 1);
      const [live] = await test.payer.sql<{ count: bigint }[]>`
        SELECT (SELECT count(*) FROM live_parts) + (SELECT count(*) FROM idle_payments) AS count`;
      assert.equal(live?.count, 0n);
      if (end === "failed") return;
      // And once more: nothing is paid twice.
      const again = await test.payer.room.pay({ bolt11 });
      assert.deepEqual(again.preimage, preimage);
      assert.deepEqual(sha256(again.preimage), paymentHash);
    },
  });
}

Deno.test({
  name: "sendpay: parts of a group, waitsendpay, CLN's codes",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH, MUCH]);
    const { room } = test.payer;
    const invoice = await test.invoice(5_000n);
    const scids = test.channels.map((channel) => room.views.get(channel)!.facts.shortChannelId!);
    const route = (scid: bigint, amountMsat: bigint) => [{
      pubkey: test.payee.nodeId,
      shortChannelId: scid,
      amountMsat,
      delay: 20,
    }];
    const { paymentHash, paymentSecret } = invoice;
    assert.equal((await refusal(room.waitSendpay(paymentHash, 0n))).clnCode, 208);
    const unknown = refusal(room.sendpay({ route: route(1n, 5_000n), paymentHash, paymentSecret }));
    assert.equal((await unknown).clnCode, 204);
    test.channeld.onOffer = (channel, offer) => test.taken(channel, offer);
    // Both at once: one row, two parts.
    const sent = await Promise.all([1n, 2n].map((partid) =>
      room.sendpay({
        route: route(scids[Number(partid) - 1]!, 2_500n),
        paymentHash,
        paymentSecret,
        partid,
        amountMsat: 5_000n,
      })
    ));
    assert.deepEqual(sent.map(({ part }) => part?.partid), [1n, 2n]);
    assert.equal(new Set(sent.map(({ payment }) => payment.payment)).size, 1);
    assert.equal((await refusal(room.waitSendpay(paymentHash, 1n, undefined, 0))).clnCode, 200);
    const other = refusal(room.sendpay({
      route: route(scids[0]!, 1_000n),
      paymentHash,
      paymentSecret,
      partid: 3n,
      groupid: 9n,
      amountMsat: 5_000n,
    }));
    assert.equal((await other).clnCode, 200);
    const offers = [await test.channeld.nextOffer(), await test.channeld.nextOffer()];
    const waiting = [1n, 2n].map((partid) => quiet(room.waitSendpay(paymentHash, partid)));
    test.failed(offers[0]!.channel, offers[0]!.offer, { type: "mpp_timeout" });
    const failed = (await waiting[0])!.resolved;
    assert.equal(failed?.failure?.code, 204);
    assert.equal(failed?.failure?.failcode, 23);
    assert.deepEqual(await statusOf(test.payer, paymentHash), ["pending"]);
    test.preimage(offers[1]!.channel, offers[1]!.offer, invoice.preimage);
    assert.deepEqual((await waiting[1])!.resolved?.preimage, invoice.preimage);
    assert.deepEqual(await statusOf(test.payer, paymentHash), ["complete"]);
    const done = await room.sendpay({
      route: route(scids[0]!, 5_000n),
      paymentHash,
      paymentSecret,
      amountMsat: 5_000n,
    });
    assert.equal(done.part, undefined);
    assert.equal(done.payment.ending?.type, "complete");
    const more = refusal(room.sendpay({ route: route(scids[0]!, 6_000n), paymentHash, paymentSecret }));
    assert.equal((await more).clnCode, 201);
  },
});

Deno.test({
  name: "sendpay: parts of one payment that start together are stored once each, the same one twice too",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const { room } = test.payer;
    const { paymentHash, paymentSecret, preimage } = await test.invoice(10_000n);
    const shortChannelId = room.views.get(test.channels[0]!)!.facts.shortChannelId!;
    test.channeld.onOffer = (channel, offer) => test.taken(channel, offer);
    const send = (partid: bigint) =>
      room.sendpay({
        route: [{ pubkey: test.payee.nodeId, shortChannelId, amountMsat: 2_500n, delay: 20 }],
        paymentHash,
        paymentSecret,
        partid,
        amountMsat: 10_000n,
      });
    const twice = await Promise.all([send(1n), send(1n)]);
    assert.equal(twice[0].part?.part, twice[1].part?.part);
    await Promise.all([send(2n), send(3n), send(4n), send(4n)]);
    const rows = await test.payer.sql<{ partid: bigint }[]>`SELECT partid FROM live_parts ORDER BY partid`;
    assert.deepEqual(rows.map(({ partid }) => partid), [1n, 2n, 3n, 4n]);
    assert.equal(test.channeld.offers.length, 4);
    for (const { channel, offer } of test.channeld.offers) test.preimage(channel, offer, preimage);
    await waitFor(async () => (await test.payer.sql`SELECT FROM live_parts`).length === 0, {
      what: "the end of every part",
    });
  },
});

Deno.test({
  name: "what no row can hold is refused, and ends neither the engine nor what comes with it",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const { room } = test.payer;
    const wire = (channel: bigint, offer: OfferHtlc) => test.preimage(channel, offer, good.preimage);
    const good = await test.invoice(5_000n);
    test.channeld.onOffer = wire;
    const shortChannelId = room.views.get(test.channels[0]!)!.facts.shortChannelId!;
    const hop = { pubkey: test.payee.nodeId, shortChannelId, amountMsat: 1_000n, delay: 20 };
    const route = [hop];
    const paymentHash = new Uint8Array(32).fill(5);
    const { bolt11 } = await test.invoice(1_000n);
    const any = await test.payee.room.invoices.create({ label: "any", description: "" });
    const bad = [
      room.pay({ bolt11, label: "\0" }),
      room.pay({ bolt11: any.bolt11, amountMsat: 1n << 63n }),
      room.keysend({ destination: test.payee.nodeId, amountMsat: 1_000n, label: "\0" }),
      room.keysend({ destination: test.payee.nodeId, amountMsat: 1n << 63n }),
      room.sendpay({ route, paymentHash, label: "\0" }),
      room.sendpay({ route, paymentHash, bolt11: "\0" }),
      room.sendpay({ route, paymentHash, description: "\0" }),
      room.sendpay({ route, paymentHash, groupid: 1n << 63n }),
      room.sendpay({ route, paymentHash, partid: 1n << 63n, amountMsat: 1_000n }),
      room.sendpay({ route: [hop, { ...hop, amountMsat: 1_001n }], paymentHash }),
      test.payee.room.invoices.create({ label: "\0", description: "" }),
      test.payee.room.invoices.create({ label: "nul", description: "\0" }),
      test.payee.room.invoices.create({ label: "\u{1f525}".repeat(1_000), description: "" }),
      test.payee.room.invoices.create({ label: "late", description: "", expirySeconds: 1n << 62n }),
    ].map(refusal);
    const paid = room.pay({ bolt11: good.bolt11 });
    for (const error of await Promise.all(bad)) assert.equal(error.clnCode, -32602);
    assert.deepEqual((await paid).preimage, good.preimage);
  },
});

Deno.test({
  name: "an invoice's description with a NUL in it is paid: the payee chose it",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const preimage = Uint8Array.from(randomBytes(32));
    const unsigned = unsignedInvoice({
      network: "regtest",
      amountMsat: msat(1_000n),
      timestamp: BigInt(Math.floor(Date.now() / 1_000)),
      paymentHash: sha256(preimage),
      paymentSecret: new Uint8Array(32),
      description: "a\0b",
      descriptionHash: null,
      features: invoiceFeatures(nodeFeatures()),
    });
    assert.ok(unsigned.ok);
    const { hrp, words } = unsigned.value;
    const bolt11 = signedInvoice(
      unsigned.value,
      ecc().signRecoverable(invoiceSighash(hrp, words), test.payee.key),
    );
    test.channeld.onOffer = (channel, offer) => test.preimage(channel, offer, preimage);
    assert.deepEqual((await test.payer.room.pay({ bolt11 })).preimage, preimage);
    const [row] = await test.payer.room.listPayments({ paymentHash: sha256(preimage) });
    assert.equal(row?.description, "a\ufffdb");
  },
});

Deno.test({
  name: "a payment for which no onion can be made ends alone, also when it had to wait",
  ...QUIET,
  async fn() {
    await using test = await Payers.start([MUCH]);
    const [channel] = test.channels as [bigint];
    test.channeld.say({ channel, report: levelOf(MUCH, { paused: "the peer is not connected" }) });
    await waitFor(() => test.payer.room.views.get(channel)?.usable === false, { what: "a pause" });
    const paying = refusal(test.payer.room.keysend({
      destination: test.payee.nodeId,
      amountMsat: 1_000n,
      extraTlvs: [{ type: 133_773_310n, value: new Uint8Array(1_400) }],
    }));
    test.channeld.say({ channel, report: levelOf(MUCH) });
    assert.equal((await paying).clnCode, 205);
    assert.equal(test.channeld.ended, false);
  },
});
