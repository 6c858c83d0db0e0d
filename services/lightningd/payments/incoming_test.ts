/** What a payee does with HTLCs: a scripted channeld hands them in, and engines die. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { sha256 } from "@noble/hashes/sha2.js";
import { attribute } from "bolt/onion/error_packet.ts";
import { createOnion } from "bolt/onion/create.ts";
import { encodeOnionPacket } from "bolt/onion/packet.ts";
import { encodeHopPayload, type HopPayload } from "bolt/onion/payload.ts";
import { usePostgres } from "common/testing/database.ts";
import { waitFor } from "common/testing/wait.ts";
import type { SettleHtlc } from "gen/arcus/channeld/v1/htlcs_pb.ts";
import { CLTV_FINAL, peelFor, type Report, StandInChanneld, TEST_HEIGHT, TestNode } from "./testing.ts";

const postgres = await usePostgres();
const QUIET = { sanitizeOps: false, sanitizeResources: false };
const GOOD_CLTV = TEST_HEIGHT + CLTV_FINAL;

interface Part {
  readonly amountMsat: bigint;
  readonly paymentHash: Uint8Array;
  readonly cltvExpiry?: number;
  readonly payload?: Partial<HopPayload>;
  /** Instead of a payload that makes sense. */
  readonly raw?: Uint8Array;
  readonly forward?: boolean;
}

/** A payee with two channels; the test is everybody else. */
class Payees implements AsyncDisposable {
  channeld!: StandInChanneld;
  channels: bigint[] = [];
  readonly secrets = new Map<bigint, Uint8Array>();
  readonly told = new Map<bigint, { readonly channel: bigint; readonly report: Report }>();
  #next = 1n;

  private constructor(readonly payee: TestNode) {}

  static async start(changes: Parameters<typeof TestNode.start>[1] = {}): Promise<Payees> {
    const test = new Payees(await TestNode.start(postgres, changes));
    for (let i = 0; i < 2; i++) test.channels.push(await test.payee.channel(sha256Key()));
    await test.connect();
    return test;
  }

  /** A channeld that tells these HTLCs and no others. */
  async connect(htlcs: readonly bigint[] = []): Promise<void> {
    this.channeld = new StandInChanneld(this.payee);
    await this.channeld.hello();
    for (const channel of this.channels) {
      const reports = htlcs.map((htlc) => this.told.get(htlc)!)
        .filter((told) => told.channel === channel).map(({ report }) => report);
      this.channeld.sync(channel, 0n, { reports });
    }
    await waitFor(
      () => this.channels.every((channel) => this.payee.room.views.get(channel)?.usable === true),
      {
        what: "channels that can be used",
      },
    );
  }

  /** An HTLC is irrevocably committed; answers htlcs.htlc, which is its id too. */
  htlc(part: Part, channel = this.channels[0]!): bigint {
    const { amountMsat, paymentHash, cltvExpiry = GOOD_CLTV, forward = false } = part;
    const sessionKey = Uint8Array.from(randomBytes(32));
    const payload = part.raw ?? encodeHopPayload({
      amt_to_forward: amountMsat,
      outgoing_cltv_value: cltvExpiry,
      ...part.payload,
    });
    const next = { pubkey: this.payee.nodeId, payload: new Uint8Array(10) };
    const onion = createOnion({
      sessionKey,
      hops: [{ pubkey: this.payee.nodeId, payload }, ...(forward ? [next] : [])],
      associatedData: paymentHash,
    });
    assert.ok(onion.ok);
    const id = this.#next++;
    this.secrets.set(id, onion.value.sharedSecrets[0]!);
    const peeled = peelFor(this.payee, encodeOnionPacket(onion.value.packet), paymentHash);
    const report = {
      case: "incoming",
      value: { id, htlc: id, amountMsat, cltvExpiry, paymentHash, ...peeled },
    } as const;
    this.told.set(id, { channel, report });
    this.channeld.say({ channel, report });
    return id;
  }

  /** What became of an HTLC: its preimage, or the failure as its sender reads it. */
  async outcome(htlc: bigint): Promise<string> {
    const settle = await waitFor(
      () => this.channeld.settles.find(({ settle }) => settle.id === htlc)?.settle,
      { what: `a decision on HTLC ${htlc}` },
    );
    return this.read(settle);
  }

  read({ id, settlement }: SettleHtlc): string {
    if (settlement.case === "preimage") return settlement.value.toHex();
    assert.ok(settlement.case === "fail");
    const found = attribute(settlement.value.reason, [this.secrets.get(id)!]);
    assert.ok(found.type === "attributed" && found.failure !== null);
    const { type } = found.failure;
    return "htlc_msat" in found.failure && "height" in found.failure
      ? `${type} ${found.failure.htlc_msat} ${found.failure.height}`
      : type;
  }

  invoice(amountMsat?: bigint, more: { readonly expirySeconds?: bigint } = {}) {
    const preimage = Uint8Array.from(randomBytes(32));
    const label = preimage.toHex();
    return this.payee.room.invoices.create({
      label,
      description: "",
      preimage,
      ...(amountMsat === undefined ? {} : { amountMsat }),
      ...more,
    }).then((made) => ({ ...made, label, preimage: label }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.payee[Symbol.asyncDispose]();
    assert.deepEqual(this.payee.fatal, []);
  }
}

function sha256Key(): Uint8Array {
  return Uint8Array.of(2, ...sha256(randomBytes(8)));
}

/** A part of an invoice's payment. */
function partOf(
  { paymentHash, paymentSecret }: { readonly paymentHash: Uint8Array; readonly paymentSecret: Uint8Array },
  amountMsat: bigint,
  totalMsat: bigint,
  more: Partial<Part> = {},
): Part {
  return {
    amountMsat,
    paymentHash,
    ...more,
    payload: {
      payment_data: { payment_secret: paymentSecret, total_msat: totalMsat },
      ...more.payload,
    },
  };
}

const unknown = (amountMsat: bigint) => `incorrect_or_unknown_payment_details ${amountMsat} ${TEST_HEIGHT}`;

Deno.test({
  name: "what an invoice takes, and the one answer to all else",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const wrong = new Uint8Array(32);
    const cases: [string, (invoice: Awaited<ReturnType<Payees["invoice"]>>) => Part, "paid" | string][] = [
      ["exact", (i) => partOf(i, 5_000n, 5_000n), "paid"],
      ["twice as much", (i) => partOf(i, 10_000n, 10_000n), "paid"],
      ["more than twice", (i) => partOf(i, 10_001n, 10_001n), unknown(10_001n)],
      ["less", (i) => partOf(i, 4_999n, 4_999n), unknown(4_999n)],
      ["another secret", (i) => partOf({ ...i, paymentSecret: wrong }, 5_000n, 5_000n), unknown(5_000n)],
      ["no secret", (i) => ({ amountMsat: 5_000n, paymentHash: i.paymentHash }), unknown(5_000n)],
      ["another hash", (i) => partOf({ ...i, paymentHash: sha256(wrong) }, 5_000n, 5_000n), unknown(5_000n)],
      ["too few blocks", (i) => partOf(i, 5_000n, 5_000n, { cltvExpiry: GOOD_CLTV - 1 }), unknown(5_000n)],
      [
        "fewer blocks than its sender meant",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { outgoing_cltv_value: GOOD_CLTV + 1 } }),
        "final_incorrect_cltv_expiry",
      ],
      [
        "less than its sender meant",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { amt_to_forward: 5_001n } }),
        "final_incorrect_htlc_amount",
      ],
      [
        "locked for too long",
        (i) => partOf(i, 5_000n, 5_000n, { cltvExpiry: TEST_HEIGHT + 2017 }),
        "expiry_too_far",
      ],
      ["as long as can be", (i) => partOf(i, 5_000n, 5_000n, { cltvExpiry: TEST_HEIGHT + 2016 }), "paid"],
      [
        "for somebody else",
        (i) => partOf(i, 5_000n, 5_000n, { forward: true, payload: scid() }),
        "unknown_next_peer",
      ],
      [
        "a channel, but no next hop",
        (i) => partOf(i, 5_000n, 5_000n, { payload: scid() }),
        "unknown_next_peer",
      ],
      [
        "an even record that nobody knows",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { unknown_tlvs: [{ type: 100n, value: wrong }] } }),
        "invalid_onion_payload",
      ],
      [
        "an odd record that nobody knows",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { unknown_tlvs: [{ type: 101n, value: wrong }] } }),
        "paid",
      ],
      [
        "garbage",
        (i) => partOf(i, 5_000n, 5_000n, { raw: Uint8Array.of(2, 255, 0) }),
        "invalid_onion_payload",
      ],
      [
        "a blinded one",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { encrypted_recipient_data: wrong } }),
        "invalid_onion_payload",
      ],
      [
        "a secret and a preimage of its own, of an invoice",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { keysend_preimage: Uint8Array.fromHex(i.preimage) } }),
        "paid",
      ],
      [
        "a preimage that does not fit",
        (i) => partOf(i, 5_000n, 5_000n, { payload: { keysend_preimage: wrong } }),
        unknown(5_000n),
      ],
    ];
    for (const [name, partFor, expected] of cases) {
      const invoice = await test.invoice(5_000n);
      const htlc = test.htlc(partFor(invoice));
      assert.equal(await test.outcome(htlc), expected === "paid" ? invoice.preimage : expected, name);
      const [row] = await test.payee.room.invoices.list({ label: invoice.label });
      assert.equal(row?.paid !== undefined, expected === "paid", name);
    }
  },
});

function scid(): Partial<HopPayload> {
  return { short_channel_id: 1n as never };
}

Deno.test({
  name: "an invoice is paid once: parts after it, and before it is there, are refused",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const invoice = await test.invoice(5_000n);
    // Both in one message: the second one comes while the first is being stored.
    const [one, two] = [
      test.htlc(partOf(invoice, 5_000n, 5_000n)),
      test.htlc(partOf(invoice, 5_000n, 5_000n)),
    ];
    assert.equal(await test.outcome(one), invoice.preimage);
    assert.equal(await test.outcome(two), unknown(5_000n));
    assert.equal(await test.outcome(test.htlc(partOf(invoice, 5_000n, 5_000n))), unknown(5_000n));
    const any = await test.invoice();
    assert.equal(await test.outcome(test.htlc(partOf(any, 1n, 1n))), any.preimage);
    const expired = await test.invoice(5_000n, { expirySeconds: 1n });
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    assert.equal(await test.outcome(test.htlc(partOf(expired, 5_000n, 5_000n))), unknown(5_000n));
    // Not in this engine's memory: read from the rows.
    const old = await test.invoice(6_000n);
    await test.payee.restart();
    await test.connect();
    assert.equal(await test.outcome(test.htlc(partOf(old, 6_000n, 6_000n))), old.preimage);
  },
});

Deno.test({
  name: "parts are collected over channels, and none is taken before all are there",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const [first, second] = test.channels as [bigint, bigint];
    const invoice = await test.invoice(9_000n);
    const parts = [
      test.htlc(partOf(invoice, 3_000n, 9_000n)),
      test.htlc(partOf(invoice, 3_000n, 9_000n), second),
    ];
    const other = await test.invoice(1_000n);
    assert.equal(await test.outcome(test.htlc(partOf(other, 1_000n, 1_000n))), other.preimage);
    assert.equal(test.channeld.settles.length, 1);
    parts.push(test.htlc(partOf(invoice, 3_000n, 9_000n), first));
    for (const part of parts) assert.equal(await test.outcome(part), invoice.preimage);
    const [row] = await test.payee.room.invoices.list({ label: invoice.label });
    assert.equal(row?.paid?.receivedMsat, 9_000n);
  },
});

Deno.test({
  name: "parts that disagree about the total are all refused; so is a set that is far too much",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const invoice = await test.invoice(9_000n);
    const parts = [
      test.htlc(partOf(invoice, 3_000n, 9_000n)),
      test.htlc(partOf(invoice, 3_000n, 9_001n)),
    ];
    for (const part of parts) assert.equal(await test.outcome(part), unknown(3_000n));
    const large = [
      test.htlc(partOf(invoice, 8_999n, 9_000n)),
      test.htlc(partOf(invoice, 9_002n, 9_000n)),
    ];
    assert.equal(await test.outcome(large[0]!), unknown(8_999n));
    assert.equal(await test.outcome(large[1]!), unknown(9_002n));
    const [row] = await test.payee.room.invoices.list({ label: invoice.label });
    assert.equal(row?.paid, undefined);
  },
});

Deno.test({
  name: "parts whose rest does not come fail with mpp_timeout, and the invoice can be paid afterwards",
  ...QUIET,
  async fn() {
    await using test = await Payees.start({ mppTimeoutMs: 300 });
    const invoice = await test.invoice(9_000n);
    const parts = [test.htlc(partOf(invoice, 3_000n, 9_000n)), test.htlc(partOf(invoice, 3_000n, 9_000n))];
    for (const part of parts) assert.equal(await test.outcome(part), "mpp_timeout");
    assert.equal(await test.outcome(test.htlc(partOf(invoice, 9_000n, 9_000n))), invoice.preimage);
  },
});

Deno.test({
  name: "a payment without an invoice: one HTLC, its own preimage, no secret",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const keysend = (payload: Partial<HopPayload> = {}) => {
      const preimage = Uint8Array.from(randomBytes(32));
      return {
        preimage: preimage.toHex(),
        part: {
          amountMsat: 4_000n,
          paymentHash: sha256(preimage),
          payload: { keysend_preimage: preimage, ...payload },
        },
      };
    };
    const good = keysend();
    assert.equal(await test.outcome(test.htlc(good.part)), good.preimage);
    assert.equal(await test.outcome(test.htlc(good.part)), unknown(4_000n), "the same hash again");
    const mixed = keysend({ payment_data: { payment_secret: new Uint8Array(32), total_msat: 4_000n } });
    assert.equal(await test.outcome(test.htlc(mixed.part)), unknown(4_000n));
    const partial = keysend({ payment_data: { payment_secret: new Uint8Array(32), total_msat: 8_000n } });
    assert.equal(await test.outcome(test.htlc(partial.part)), unknown(4_000n));
  },
});

Deno.test({
  name: "a decision is told again on every stream until its HTLC is gone, and never changes",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const invoice = await test.invoice(5_000n);
    const paid = test.htlc(partOf(invoice, 5_000n, 5_000n));
    const refused = test.htlc(partOf(invoice, 5_000n, 5_000n));
    assert.equal(await test.outcome(paid), invoice.preimage);
    const failure = await test.outcome(refused);
    const bytes = test.channeld.settles.map(({ settle }) => settle);
    for (const restart of [false, true]) {
      if (restart) await test.payee.restart();
      else test.channeld.close();
      await test.connect([paid, refused]);
      assert.equal(await test.outcome(paid), invoice.preimage);
      assert.equal(await test.outcome(refused), failure);
      assert.deepEqual(
        test.channeld.settles.map(({ settle }) => settle).sort((a, b) => Number(a.id - b.id)),
        bytes.toSorted((a, b) => Number(a.id - b.id)),
      );
    }
    const count = async () => (await test.payee.sql`SELECT FROM htlc_decisions`).length;
    assert.equal(await count(), 2);
    test.channeld.say({
      channel: test.channels[0]!,
      report: { case: "incomingResolved", value: { id: paid, htlc: paid } },
    });
    await waitFor(async () => await count() === 1, { what: "a decision forgotten" });
    // The other one went while nobody listened: what is not told is gone.
    await test.payee.restart();
    await test.connect();
    await waitFor(async () => await count() === 0, { what: "the other decision forgotten" });
  },
});

Deno.test({
  name: "lightningd dies while parts are held: they are told again, and the rest completes them",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const invoice = await test.invoice(9_000n);
    const held = test.htlc(partOf(invoice, 4_000n, 9_000n));
    const gone = test.htlc(partOf(invoice, 5_000n, 9_000n, { cltvExpiry: 1 }));
    assert.equal(await test.outcome(gone), unknown(5_000n));
    await test.payee.restart();
    await test.connect([held]);
    const rest = test.htlc(partOf(invoice, 5_000n, 9_000n), test.channels[1]!);
    assert.equal(await test.outcome(held), invoice.preimage);
    assert.equal(await test.outcome(rest), invoice.preimage);
  },
});

Deno.test({
  name: "a held part that is gone when its channel comes back does not count any more",
  ...QUIET,
  async fn() {
    await using test = await Payees.start({ mppTimeoutMs: 400 });
    const invoice = await test.invoice(9_000n);
    test.htlc(partOf(invoice, 4_000n, 9_000n));
    test.channeld.close();
    await test.connect();
    const rest = test.htlc(partOf(invoice, 5_000n, 9_000n));
    assert.equal(await test.outcome(rest), "mpp_timeout");
    assert.equal(test.channeld.settles.length, 1);
  },
});

Deno.test({
  name: "an invoice that is deleted while parts of it are held is not paid",
  ...QUIET,
  async fn() {
    await using test = await Payees.start();
    const invoice = await test.invoice(9_000n);
    const held = test.htlc(partOf(invoice, 4_000n, 9_000n));
    const other = await test.invoice(1_000n);
    assert.equal(await test.outcome(test.htlc(partOf(other, 1_000n, 1_000n))), other.preimage);
    await test.payee.room.invoices.remove(invoice.label, "unpaid");
    assert.equal(await test.outcome(held), unknown(4_000n));
    assert.equal(await test.outcome(test.htlc(partOf(invoice, 9_000n, 9_000n))), unknown(9_000n));
  },
});
