/**
 * What a node answers to bad onions, to payments that do not fit their invoice, on a channel in use (BOLT 4). An HTLC that is refused costs nothing but itself.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { FAILURE_CODES } from "bolt/onion/failure_codes.ts";
import { onionKey, onionStream } from "bolt/onion/keys.ts";
import { packetHmac } from "bolt/onion/packet.ts";
import { encodeHopPayload, type HopPayload } from "bolt/onion/payload.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import { until } from "tools/node/commands.ts";
import { type HostileChannel, OFFER_BLOCKS, type OfferChanges } from "../lib/hostile_channel.ts";
import { makeInvoice, type TestInvoice } from "../lib/payments.ts";
import { randomSecret } from "../lib/raw_peer.ts";
import { attack, useVictim } from "../attacks/victim.ts";
import { failureIn, refusalOf, usable, works } from "./hostile.ts";

const CHANNELS = 4;
const MSAT = 1_000_000n;

const victim = await useVictim({
  coins: 6,
  stock: Array.from({ length: CHANNELS }, () => "p2tr" as const),
}, { alice: { "max-opens-per-peer": "10" } });

const tip = async () => (await victim.node.rpc.getinfo({})).blockheight;

/** One channel for all that leaves a channel as it was. */
let kept: HostileChannel | undefined;
async function keptChannel(): Promise<HostileChannel> {
  return kept ??= await usable(victim);
}
Deno.test.afterAll(async () => await kept?.peer.close());

// Onions that cannot be peeled -----------------------------------------------------------------------------------------

function tampered(packet: Uint8Array, change: (bytes: Uint8Array) => void): Uint8Array {
  const bytes = Uint8Array.from(packet);
  change(bytes);
  return bytes;
}

const BAD_ONIONS: readonly (readonly [string, number, (bytes: Uint8Array) => void])[] = [
  ["version 1", FAILURE_CODES.invalid_onion_version, (bytes) => bytes[0] = 1],
  ["version 255", FAILURE_CODES.invalid_onion_version, (bytes) => bytes[0] = 255],
  ["a key that is no point", FAILURE_CODES.invalid_onion_key, (bytes) => bytes.fill(5, 1, 34)],
  ["a key of zeros", FAILURE_CODES.invalid_onion_key, (bytes) => bytes.fill(0, 1, 34)],
  ["another HMAC", FAILURE_CODES.invalid_onion_hmac, (bytes) => bytes[1365] = (bytes[1365] ?? 0) ^ 1],
  ["another payload", FAILURE_CODES.invalid_onion_hmac, (bytes) => bytes[100] = (bytes[100] ?? 0) ^ 1],
  ["zeros all over", FAILURE_CODES.invalid_onion_key, (bytes) => bytes.fill(0)],
];

for (const [name, code, change] of BAD_ONIONS) {
  attack(
    `an onion with ${name}: update_fail_malformed_htlc with its SHA256, and the channel goes on`,
    async () => {
      const channel = await keptChannel();
      const good = await channel.addMessage();
      const onion = tampered(good.onion_routing_packet, change);
      await channel.sayUpdate({ ...good, onion_routing_packet: onion });
      const heard = await channel.bookUntil("update_fail_malformed_htlc");
      assert.equal(heard.failure_code, code);
      assert.equal(bytesToHex(heard.sha256_of_onion), bytesToHex(sha256(onion)));
      await channel.bookUntilClean();
      await works(victim, channel);
    },
  );
}

attack("an onion made for another payment hash: invalid_onion_hmac", async () => {
  const channel = await keptChannel();
  const other = channel.onion(encodeHopPayload(await goodPayload()), sha256(randomSecret()));
  await channel.add({ onion: other.packet });
  const { failure_code } = await channel.bookUntil("update_fail_malformed_htlc");
  assert.equal(failure_code, FAILURE_CODES.invalid_onion_hmac);
  await channel.bookUntilClean();
  await works(victim, channel);
});

attack("an onion that came before, with the same hash: refused, and the invoice is paid once", async () => {
  const channel = await keptChannel();
  const invoice = await makeInvoice(victim.node, MSAT);
  const first = await channel.add({
    amountMsat: MSAT,
    paymentHash: hexToBytes(invoice.paymentHash),
    paymentSecret: invoice.paymentSecret,
  });
  await channel.bookUntil("update_fulfill_htlc");
  await channel.bookUntilClean();
  await channel.sayUpdate({ ...first, id: channel.nextId });
  await channel.sign();
  for (;;) {
    const message = await channel.hear();
    assert.ok(!["update_fulfill_htlc", "error", "warning"].includes(message.type), message.type);
    if (channel.owesRevoke) await channel.revoke();
    if (channel.unsigned && !channel.awaitingRevoke) await channel.sign();
    if (message.type === "update_fail_htlc" || message.type === "update_fail_malformed_htlc") break;
  }
  await channel.bookUntilClean();
  const { invoices } = await victim.node.rpc.listInvoices({ label: invoice.label });
  assert.equal(invoices[0]?.amountReceivedMsat?.msat, MSAT);
  await works(victim, channel);
});

// Payloads -------------------------------------------------------------------------------------------------------------

async function goodPayload(): Promise<HopPayload> {
  return {
    amt_to_forward: MSAT,
    outgoing_cltv_value: await tip() + OFFER_BLOCKS,
    payment_data: { payment_secret: randomSecret(), total_msat: MSAT },
  };
}

/** Bytes where the payload and its length would be. The onion is made by hand: no encoder writes such lengths. */
function rawLengthOnion(channel: HostileChannel, length: Uint8Array, hash: Uint8Array) {
  // The first hop's bytes are the stream's under the shared secret: a payload of the right size is changed in place.
  const filler = new Uint8Array(200);
  const made = channel.onion(filler, hash);
  return withFirstBytes(made, length, hash);
}

function withFirstBytes(
  { packet, sharedSecrets }: { readonly packet: Uint8Array; readonly sharedSecrets: readonly Uint8Array[] },
  wanted: Uint8Array,
  hash: Uint8Array,
) {
  const [secret] = sharedSecrets;
  assert.ok(secret);
  const bytes = Uint8Array.from(packet);
  const stream = onionStream(onionKey("rho", secret), 1300);
  for (const [index, byte] of wanted.entries()) bytes[34 + index] = byte ^ (stream[index] ?? 0);
  bytes.set(packetHmac(secret, bytes.slice(34, 1334), hash), 1334);
  return { packet: bytes, sharedSecrets };
}

/** Lengths that no payload has: attack 19, the onion bomb. */
const BAD_LENGTHS: readonly (readonly [string, readonly number[]])[] = [
  ["0", [0]],
  ["1", [1]],
  ["1,300, all that there is", [0xfd, 0x05, 0x14]],
  ["65,535", [0xfd, 0xff, 0xff]],
  ["2^32 - 1", [0xfe, 0xff, 0xff, 0xff, 0xff]],
  ["2^64 - 1", [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
  ["10 in three bytes", [0xfd, 0x00, 0x0a]],
];

for (const [name, length] of BAD_LENGTHS) {
  attack(`a payload with the length ${name}: invalid_onion_payload, and the channel goes on`, async () => {
    const channel = await keptChannel();
    const paymentHash = sha256(randomSecret());
    const { packet, sharedSecrets } = rawLengthOnion(channel, Uint8Array.from(length), paymentHash);
    const failure = await refusalOf(channel, { paymentHash, onion: packet }, sharedSecrets);
    assert.equal(failure.type, "invalid_onion_payload");
    await works(victim, channel);
  });
}

/** TLV streams that the node must not take. */
const BAD_PAYLOADS: readonly (readonly [string, (good: HopPayload) => Uint8Array])[] = [
  [
    "an even record that nobody knows",
    (good) => encodeHopPayload({ ...good, unknown_tlvs: [{ type: 100n, value: new Uint8Array(3) }] }),
  ],
  ["no amount", ({ amt_to_forward: _, ...rest }) => encodeHopPayload(rest)],
  ["no cltv", ({ outgoing_cltv_value: _, ...rest }) => encodeHopPayload(rest)],
  ["a record twice", (good) => {
    const bytes = encodeHopPayload({ amt_to_forward: good.amt_to_forward ?? 0n });
    return Uint8Array.of(...bytes, ...bytes);
  }],
  ["a record that goes past the end", () => Uint8Array.of(2, 200, 1, 1)],
];

for (const [name, payloadOf] of BAD_PAYLOADS) {
  attack(`a payload with ${name}: invalid_onion_payload, and the channel goes on`, async () => {
    const channel = await keptChannel();
    const paymentHash = sha256(randomSecret());
    const made = channel.onion(payloadOf(await goodPayload()), paymentHash);
    const failure = await refusalOf(channel, { paymentHash, onion: made.packet }, made.sharedSecrets);
    assert.equal(failure.type, "invalid_onion_payload");
    await works(victim, channel);
  });
}

attack("an HTLC that would need forwarding: unknown_next_peer, and the channel goes on", async () => {
  const channel = await keptChannel();
  const paymentHash = sha256(randomSecret());
  const made = channel.onion(
    encodeHopPayload({
      amt_to_forward: MSAT - 1_000n,
      outgoing_cltv_value: await tip() + OFFER_BLOCKS - 6,
      short_channel_id: shortChannelId(12_345n),
    }),
    paymentHash,
    [{ pubkey: channel.peer.raw.nodeId, payload: encodeHopPayload(await goodPayload()) }],
  );
  const failure = await refusalOf(channel, { paymentHash, onion: made.packet }, made.sharedSecrets);
  assert.equal(failure.type, "unknown_next_peer");
  await works(victim, channel);
});

attack("an HTLC with blinded_path: invalid_onion_blinding by update_fail_malformed_htlc", async () => {
  const channel = await keptChannel();
  const add = await channel.addMessage();
  await channel.sayUpdate({ ...add, blinded_path: channel.peer.keys.htlcBasepoint });
  const { failure_code } = await channel.bookUntil("update_fail_malformed_htlc");
  assert.equal(failure_code, FAILURE_CODES.invalid_onion_blinding);
  await channel.bookUntilClean();
  await works(victim, channel);
});

// What does not fit the invoice ------------------------------------------------------------------------------------------

/** A payment of an invoice with one thing changed; how the node refuses it. */
async function refusedPayment(
  invoice: TestInvoice,
  payload: HopPayload,
  changes: OfferChanges = {},
): Promise<string> {
  const channel = await keptChannel();
  const paymentHash = hexToBytes(invoice.paymentHash);
  const made = channel.onion(encodeHopPayload(payload), paymentHash);
  const failure = await refusalOf(channel, {
    amountMsat: MSAT,
    paymentHash,
    onion: made.packet,
    ...changes,
  }, made.sharedSecrets);
  const { invoices } = await victim.node.rpc.listInvoices({ label: invoice.label });
  assert.equal(invoices[0]?.amountReceivedMsat, undefined, "the invoice is not paid");
  await works(victim, channel);
  return failure.type;
}

async function payloadFor(invoice: TestInvoice, total = MSAT, amount = MSAT): Promise<HopPayload> {
  return {
    amt_to_forward: amount,
    outgoing_cltv_value: await tip() + OFFER_BLOCKS,
    payment_data: { payment_secret: invoice.paymentSecret, total_msat: total },
  };
}

const UNKNOWN_DETAILS = "incorrect_or_unknown_payment_details";

attack("an unknown payment_hash: incorrect_or_unknown_payment_details", async () => {
  const channel = await keptChannel();
  const paymentHash = sha256(randomSecret());
  const made = channel.onion(encodeHopPayload(await goodPayload()), paymentHash);
  const failure = await refusalOf(channel, { paymentHash, onion: made.packet }, made.sharedSecrets);
  assert.equal(failure.type, UNKNOWN_DETAILS);
  await works(victim, channel);
});

attack("a wrong payment_secret, or none: the same answer as for an unknown hash", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const good = await payloadFor(invoice);
  assert.equal(
    await refusedPayment(invoice, {
      ...good,
      payment_data: { payment_secret: randomSecret(), total_msat: MSAT },
    }),
    UNKNOWN_DETAILS,
  );
  const { payment_data: _, ...none } = good;
  const type = await refusedPayment(invoice, none);
  assert.ok([UNKNOWN_DETAILS, "invalid_onion_payload"].includes(type), type);
});

attack("too little, and more than twice the amount: incorrect_or_unknown_payment_details", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const less = MSAT - 1n;
  assert.equal(
    await refusedPayment(invoice, await payloadFor(invoice, less, less), { amountMsat: less }),
    UNKNOWN_DETAILS,
  );
  const more = 2n * MSAT + 1n;
  assert.equal(
    await refusedPayment(invoice, await payloadFor(invoice, more, more), { amountMsat: more }),
    UNKNOWN_DETAILS,
  );
});

attack("an HTLC of less than its onion says: final_incorrect_htlc_amount", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  assert.equal(
    await refusedPayment(invoice, await payloadFor(invoice), { amountMsat: MSAT - 1n }),
    "final_incorrect_htlc_amount",
  );
});

attack("an HTLC that expires before its onion says: final_incorrect_cltv_expiry", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  assert.equal(
    await refusedPayment(invoice, await payloadFor(invoice), { cltv: await tip() + OFFER_BLOCKS - 1 }),
    "final_incorrect_cltv_expiry",
  );
});

attack("an HTLC that expires too soon for its invoice: incorrect_or_unknown_payment_details", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const cltv = await tip() + 3;
  const payload = { ...await payloadFor(invoice), outgoing_cltv_value: cltv };
  assert.equal(await refusedPayment(invoice, payload, { cltv }), UNKNOWN_DETAILS);
});

attack("an HTLC that expires more than 2,016 blocks ahead: committed, then expiry_too_far", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const cltv = await tip() + 2_100;
  const payload = { ...await payloadFor(invoice), outgoing_cltv_value: cltv };
  assert.equal(await refusedPayment(invoice, payload, { cltv }), "expiry_too_far");
});

attack("an expired invoice: incorrect_or_unknown_payment_details", async () => {
  const invoice = await makeInvoice(victim.node, MSAT, { expiry: 1n });
  await until("it expired", async () => {
    const { invoices } = await victim.node.rpc.listInvoices({ label: invoice.label });
    return Number(invoices[0]?.expiresAt ?? 0n) * 1000 < Date.now();
  });
  assert.equal(await refusedPayment(invoice, await payloadFor(invoice)), UNKNOWN_DETAILS);
});

// Parts ----------------------------------------------------------------------------------------------------------------

/** Parts of one payment, said together; how each of them ends. */
async function partsEnd(
  invoice: TestInvoice,
  parts: readonly { readonly msat: bigint; readonly total: bigint; readonly secret?: Uint8Array }[],
): Promise<string[]> {
  const channel = await keptChannel();
  const paymentHash = hexToBytes(invoice.paymentHash);
  const secrets = new Map<bigint, readonly Uint8Array[]>();
  for (const { msat, total, secret = invoice.paymentSecret } of parts) {
    const payload = await payloadFor(invoice, total, msat);
    const made = channel.onion(
      encodeHopPayload({ ...payload, payment_data: { payment_secret: secret, total_msat: total } }),
      paymentHash,
    );
    secrets.set(channel.nextId, made.sharedSecrets);
    await channel.add({ amountMsat: msat, paymentHash, onion: made.packet });
  }
  const ends = new Map<bigint, string>();
  while (ends.size < parts.length) {
    if (channel.unsigned && !channel.awaitingRevoke) await channel.sign();
    const message = await channel.hear();
    assert.ok(message.type !== "error" && message.type !== "warning", message.type);
    if (message.type === "update_fulfill_htlc") ends.set(message.id, "paid");
    if (message.type === "update_fail_htlc") {
      ends.set(message.id, failureIn(message.reason, secrets.get(message.id) ?? []).type);
    }
    if (channel.owesRevoke) await channel.revoke();
  }
  await channel.bookUntilClean();
  return [...ends].toSorted(([a], [b]) => a < b ? -1 : 1).map(([, end]) => end);
}

attack("two parts that make the amount: both are paid, and the invoice once", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const ends = await partsEnd(invoice, [
    { msat: 400_000n, total: MSAT },
    { msat: 600_000n, total: MSAT },
  ]);
  assert.deepEqual(ends, ["paid", "paid"]);
  const { invoices } = await victim.node.rpc.listInvoices({ label: invoice.label });
  assert.equal(invoices[0]?.amountReceivedMsat?.msat, MSAT);
  await works(victim, await keptChannel());
});

attack("two parts with different totals: both fail, and nothing is paid", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const ends = await partsEnd(invoice, [
    { msat: 400_000n, total: MSAT },
    { msat: 600_000n, total: MSAT + 1n },
  ]);
  assert.ok(ends.every((end) => end !== "paid"), ends.join());
  const { invoices } = await victim.node.rpc.listInvoices({ label: invoice.label });
  assert.equal(invoices[0]?.amountReceivedMsat, undefined);
  await works(victim, await keptChannel());
});

attack("a part with another payment_secret fails by itself, and the good ones are paid", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  const ends = await partsEnd(invoice, [
    { msat: 400_000n, total: MSAT },
    { msat: 600_000n, total: MSAT, secret: randomSecret() },
    { msat: 600_000n, total: MSAT },
  ]);
  assert.deepEqual(ends, ["paid", UNKNOWN_DETAILS, "paid"]);
  await works(victim, await keptChannel());
});

attack("one more part after the payment was settled fails, and keeps nothing", async () => {
  const invoice = await makeInvoice(victim.node, MSAT);
  assert.deepEqual(await partsEnd(invoice, [{ msat: MSAT, total: MSAT }]), ["paid"]);
  assert.deepEqual(await partsEnd(invoice, [{ msat: 400_000n, total: MSAT }]), [UNKNOWN_DETAILS]);
  assert.deepEqual(await partsEnd(invoice, [{ msat: MSAT, total: MSAT }]), [UNKNOWN_DETAILS]);
  await works(victim, await keptChannel());
});
