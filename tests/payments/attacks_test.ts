/**
 * What a node refuses of a peer on a channel in use: HTLCs, fee rates, commitments, revocations and removals that break a
 * rule of BOLT 2. The channel fails with a stored error where BOLT 2 asks for it, and goes on where it does not; no daemon
 * dies, other channels do not notice, and no row is stored in part.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { hexToBytes } from "@noble/hashes/utils.js";
import { FAILURE_CODES } from "bolt/onion/failure_codes.ts";
import { encodeMessage } from "bolt/wire/messages.ts";
import { highS, shown } from "../lib/hostile_peer.ts";
import type { HostileChannel, OfferChanges } from "../lib/hostile_channel.ts";
import { makeInvoice } from "../lib/payments.ts";
import { randomSecret } from "../lib/raw_peer.ts";
import { attack, staysSilent, useVictim } from "../attacks/victim.ts";
import {
  endOf,
  failed,
  htlcRows,
  nodeOffers,
  nodePays,
  openedByNode,
  saysItAgain,
  untilRows,
  usable,
  verdictOf,
  works,
} from "./hostile.ts";

const SLOTS = 5;
const LEAST_MSAT = 1_000n;
const DUST_EXPOSURE_MSAT = 12_000_000n;
const MOST_PERKW = 10_000;
const CHANNELS = 60;

const victim = await useVictim({
  coins: 6,
  stock: Array.from({ length: CHANNELS }, () => "p2tr" as const),
}, {
  alice: {
    "max-concurrent-htlcs": String(SLOTS),
    "htlc-minimum-msat": String(LEAST_MSAT),
    "max-dust-htlc-exposure-msat": String(DUST_EXPOSURE_MSAT),
    "max-opens-per-peer": "10",
    "max-feerate": String(MOST_PERKW),
    // Else bitcoind's estimate of the blocks of these tests decides what a fee rate is worth.
    "force-feerates": "1000/1000/1000/1000",
  },
});

attack("a scripted peer that keeps the rules: payments both ways, balances exact", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  await works(victim, channel);
  const offer = await nodeOffers(victim, channel);
  await channel.sayUpdate({
    type: "update_fulfill_htlc",
    channel_id: channel.channelId,
    id: offer.id,
    payment_preimage: offer.preimage,
  });
  await channel.bookUntilClean();
  assert.equal(await endOf(victim, offer), offer.preimage.toHex());
  await untilRows(victim, channel, { live: 0, over: 2 });
  await works(victim, channel);
});

// HTLCs --------------------------------------------------------------------------------------------------------------

/** The node fails the channel at the latest when it is signed. */
async function refusesAdd(name: string, changes: OfferChanges, text: RegExp): Promise<void> {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  const message = await channel.addMessage(changes);
  await channel.peer.send(message);
  await failed(victim, channel, text);
  assert.ok(name.length > 0);
}

const BAD_ADDS: readonly (readonly [string, OfferChanges, RegExp])[] = [
  ["amount_msat 0", { amountMsat: 0n }, /amount|minimum/],
  ["amount_msat below htlc_minimum_msat", { amountMsat: LEAST_MSAT - 1n }, /minimum/],
  ["more than the peer has", { amountMsat: 250_000_000n }, /afford|reserve|balance|fund|flight/],
  ["what the peer must keep in reserve", { amountMsat: 199_000_000n }, /afford|reserve|balance|fund|flight/],
  ["amount_msat 2^63", { amountMsat: 1n << 63n }, /./],
  ["amount_msat 2^64 - 1", { amountMsat: (1n << 64n) - 1n }, /./],
  ["cltv_expiry 500000000", { cltv: 500_000_000 }, /cltv|expiry/],
  ["cltv_expiry 2^32 - 1", { cltv: 0xffff_ffff }, /cltv|expiry/],
  ["the first id is 1", { id: 1n }, /id/],
  ["id 2^64 - 1", { id: (1n << 64n) - 1n }, /id/],
];

for (const [name, changes, text] of BAD_ADDS) {
  attack(`update_add_htlc, ${name}: the channel fails`, () => refusesAdd(name, changes, text));
}

attack("update_add_htlc, an id that was used on this connection: the channel fails", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  await works(victim, channel);
  await channel.peer.send(await channel.addMessage({ id: 0n }));
  await failed(victim, channel, /id/, { live: 0, over: 1 });
});

attack("update_add_htlc, an id that leaves one out: the channel fails", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  await works(victim, channel);
  await channel.peer.send(await channel.addMessage({ id: 2n }));
  await failed(victim, channel, /id/, { live: 0, over: 1 });
});

attack("more HTLCs than max_accepted_htlcs: the channel fails", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  assert.equal(channel.peer.theirTerms.max_accepted_htlcs, SLOTS);
  for (let count = 0; count <= SLOTS; count++) await channel.add();
  await failed(victim, channel, /many|max_accepted_htlcs/);
});

attack("more than max_htlc_value_in_flight_msat: the channel fails", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  const most = channel.peer.theirTerms.max_htlc_value_in_flight_msat;
  const has = 190_000_000n;
  // A node that sets no limit has the reserve as its limit.
  const amountMsat = most < has ? most / 2n + 1n : has / 2n + 10_000_000n;
  await channel.add({ amountMsat });
  await channel.peer.send(await channel.addMessage({ amountMsat }));
  await failed(victim, channel, /flight|afford|reserve|balance/);
});

attack("several HTLCs with one payment_hash are legal", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  const paymentHash = sha256(randomSecret());
  await channel.add({ paymentHash });
  await channel.add({ paymentHash });
  for (let count = 0; count < 2; count++) await channel.bookUntil("update_fail_htlc");
  await channel.bookUntilClean();
  await untilRows(victim, channel, { live: 0, over: 2 });
  await works(victim, channel);
});

attack(
  "dust beyond max-dust-htlc-exposure-msat is failed back, and its preimage is not revealed",
  async () => {
    // Dust on the peer's commitment.
    const channel = await usable(victim, { dust_limit_satoshis: 3_500n });
    await using _peer = channel.peer;
    const amountMsat = 3_400_000n;
    const invoices = [];
    for (let count = 0; count < SLOTS; count++) {
      const invoice = await makeInvoice(victim.node, amountMsat);
      invoices.push(invoice);
      await channel.add({
        amountMsat,
        paymentHash: hexToBytes(invoice.paymentHash),
        paymentSecret: invoice.paymentSecret,
      });
    }
    await channel.sign();
    const ends: string[] = [];
    while (ends.length < SLOTS) {
      const message = await channel.hear();
      if (message.type === "update_fulfill_htlc" || message.type === "update_fail_htlc") {
        ends.push(message.type);
        assert.equal(
          message.type === "update_fulfill_htlc",
          message.id < DUST_EXPOSURE_MSAT / amountMsat,
          `HTLC ${message.id}`,
        );
      } else assert.ok(message.type !== "error" && message.type !== "warning", message.type);
      if (channel.owesRevoke) await channel.revoke();
      if (channel.unsigned && !channel.awaitingRevoke) await channel.sign();
    }
    await channel.bookUntilClean();
    await works(victim, channel);
  },
);

attack("the node offers no dust beyond max-dust-htlc-exposure-msat", async () => {
  const channel = await usable(victim, { dust_limit_satoshis: 3_500n });
  await using _peer = channel.peer;
  const offers = [];
  const amountMsat = 3_400_000n;
  const most = Number(DUST_EXPOSURE_MSAT / amountMsat);
  for (let count = 0; count < most; count++) offers.push(await nodeOffers(victim, channel, amountMsat));
  const refused = await nodePays(victim, channel, amountMsat).catch((error) => error);
  if (!(refused instanceof Error)) assert.equal(typeof await endOf(victim, refused), "number");
  await staysSilent(channel.peer);
  for (const { id, preimage } of offers) {
    await channel.sayUpdate({
      type: "update_fulfill_htlc",
      channel_id: channel.channelId,
      id,
      payment_preimage: preimage,
    });
  }
  await channel.bookUntilClean();
  await works(victim, channel);
});

// update_fee ---------------------------------------------------------------------------------------------------------

const sayFee = (channel: HostileChannel, feerate_per_kw: number) =>
  channel.sayUpdate({ type: "update_fee", channel_id: channel.channelId, feerate_per_kw });

attack("update_fee by the payer within bounds is taken", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  await sayFee(channel, 1_500);
  await channel.bookUntilClean();
  await works(victim, channel);
  // Two in one commitment: the last one counts.
  await sayFee(channel, 2_500);
  await sayFee(channel, 3_000);
  await channel.bookUntilClean();
  await works(victim, channel);
});

for (const rate of [0, 252, MOST_PERKW + 1, 0xffff_ffff]) {
  attack(`update_fee ${rate}, out of bounds: the channel fails`, async () => {
    const channel = await usable(victim);
    await using _peer = channel.peer;
    await channel.peer.send({ type: "update_fee", channel_id: channel.channelId, feerate_per_kw: rate });
    await failed(victim, channel, /fee/);
  });
}

attack("update_fee by the side that does not pay: the channel fails", async () => {
  const channel = await openedByNode(victim);
  await using _peer = channel.peer;
  await channel.peer.send({ type: "update_fee", channel_id: channel.channelId, feerate_per_kw: 1_200 });
  await failed(victim, channel, /fee/);
});

attack(
  "update_fee that the payer cannot afford: the channel fails at the latest when it is signed",
  async () => {
    const channel = await usable(victim);
    await using _peer = channel.peer;
    // Leaves 6,500 sat: enough for reserve, anchors and the fee of now; a fee of 11,238 is more than all of it.
    for (const amountMsat of [95_000_000n, 98_500_000n]) {
      const invoice = await makeInvoice(victim.node, amountMsat);
      await channel.add({
        amountMsat,
        paymentHash: hexToBytes(invoice.paymentHash),
        paymentSecret: invoice.paymentSecret,
      });
      await channel.bookUntil("update_fulfill_htlc");
      await channel.bookUntilClean();
    }
    await sayFee(channel, 9_999);
    await channel.sign();
    await failed(victim, channel, /fee|afford/, { live: 0, over: 2 });
  },
);

attack(
  "update_fee whose excess is more than max-dust-htlc-exposure-msat (attack 18): never committed",
  async () => {
    // Enough HTLC outputs make the excess: (1124 + 172 * 5) * 9 sat/weight is more than 12,000 sat.
    const channel = await usable(victim);
    await using _peer = channel.peer;
    await sayFee(channel, 9_900);
    for (let count = 0; count < SLOTS; count++) await channel.add();
    await channel.sign();
    // It fails the channel, or takes the HTLCs and fails them back without revealing anything.
    const seen: string[] = [];
    while (seen.length < SLOTS) {
      const message = await channel.hear();
      if (message.type === "error") break;
      assert.notEqual(message.type, "update_fulfill_htlc");
      if (message.type === "update_fail_htlc") seen.push(message.type);
      if (channel.owesRevoke) await channel.revoke();
      if (channel.unsigned && !channel.awaitingRevoke) await channel.sign();
    }
    await victim.unharmed();
  },
);

attack("update_fee after both said shutdown: the channel fails or the peer is warned", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await peer.send({ type: "shutdown", channel_id: channel.channelId, scriptpubkey: victimScript() });
  await channel.bookUntil("shutdown");
  await peer.send({ type: "update_fee", channel_id: channel.channelId, feerate_per_kw: 1_200 });
  await verdictOf(peer);
  await victim.unharmed();
});

attack(
  "update_add_htlc after shutdown: the channel fails or the peer is warned, and nothing is stored",
  async () => {
    const channel = await usable(victim);
    await using peer = channel.peer;
    await peer.send({ type: "shutdown", channel_id: channel.channelId, scriptpubkey: victimScript() });
    await peer.send(await channel.addMessage());
    await verdictOf(peer);
    assert.deepEqual(await htlcRows(victim, channel), { live: 0, over: 0 });
    await victim.unharmed();
  },
);

/** P2WPKH of nobody. */
function victimScript(): Uint8Array {
  return Uint8Array.of(0, 20, ...new Uint8Array(20).fill(7));
}

// commitment_signed --------------------------------------------------------------------------------------------------

type Tamper = (channel: HostileChannel) => Promise<void>;

const other = (bytes: Uint8Array): Uint8Array => {
  const changed = Uint8Array.from(bytes);
  changed[40] = (changed[40] ?? 0) ^ 1;
  return changed;
};

async function signedWith(
  channel: HostileChannel,
  tamper: (honest: ReturnType<HostileChannel["signMessage"]>) => Partial<
    ReturnType<HostileChannel["signMessage"]>
  >,
): Promise<void> {
  const honest = channel.signMessage();
  await channel.peer.send({ ...honest, ...tamper(honest) });
}

const ZERO_SIGNATURE = new Uint8Array(64);

const BAD_SIGNATURES: readonly (readonly [string, Tamper])[] = [
  ["a bad signature", (channel) => signedWith(channel, ({ signature }) => ({ signature: other(signature) }))],
  [
    "a signature with a high s",
    (channel) => signedWith(channel, ({ signature }) => ({ signature: highS(signature) })),
  ],
  ["a signature of zeros", (channel) => signedWith(channel, () => ({ signature: ZERO_SIGNATURE }))],
  [
    "a bad HTLC signature",
    (channel) =>
      signedWith(channel, ({ htlc_signature }) => ({ htlc_signature: [other(htlc_signature[0]!)] })),
  ],
  [
    "an HTLC signature with a high s",
    (channel) =>
      signedWith(channel, ({ htlc_signature }) => ({ htlc_signature: [highS(htlc_signature[0]!)] })),
  ],
  ["no HTLC signature", (channel) => signedWith(channel, () => ({ htlc_signature: [] }))],
  [
    "one HTLC signature too many",
    (channel) =>
      signedWith(channel, ({ htlc_signature }) => ({
        htlc_signature: [...htlc_signature, htlc_signature[0]!],
      })),
  ],
  [
    "483 HTLC signatures",
    (channel) =>
      signedWith(channel, ({ htlc_signature }) => ({
        htlc_signature: Array.from({ length: 483 }, () => htlc_signature[0]!),
      })),
  ],
  [
    "the commitment's signature as the HTLC's",
    (channel) => signedWith(channel, ({ signature }) => ({ htlc_signature: [signature] })),
  ],
];

for (const [name, tamper] of BAD_SIGNATURES) {
  attack(`commitment_signed with ${name}: the channel fails, and no secret is released`, async () => {
    const channel = await usable(victim);
    await using _peer = channel.peer;
    await channel.add();
    await tamper(channel);
    const answer = await channel.peer.hear();
    assert.equal(answer.type, "error", "the first answer, before any secret");
    assert.match(shown(answer), /signature/);
    await saysItAgain(channel);
    const [row] = await victim.node.sql<{ errorText: string | null }[]>`
      SELECT error_text AS "errorText" FROM channels WHERE channel_id = ${channel.channelId}`;
    assert.match(row?.errorText ?? "", /signature/);
    await victim.unharmed();
  });
}

attack("commitment_signed without a change: no secret, or one revoke_and_ack, and nothing else", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await channel.sign();
  const message = await peer.hear();
  assert.ok(["revoke_and_ack", "error", "warning"].includes(message.type), message.type);
  await victim.unharmed();
});

attack("a second commitment_signed before the first is answered by revoke_and_ack and a third", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await channel.add();
  await channel.sign();
  // The same again, whose number the node is past.
  await peer.send(channel.lastSigned!);
  await verdictOf(peer);
  await victim.unharmed();
});

// revoke_and_ack -----------------------------------------------------------------------------------------------------

/** Both have signed an HTLC of the peer's: the peer owes revoke_and_ack. */
async function owing(): Promise<HostileChannel> {
  const channel = await usable(victim);
  await channel.add();
  await channel.sign();
  await channel.expect("revoke_and_ack");
  await channel.expect("commitment_signed");
  return channel;
}

const BAD_SECRETS: readonly (readonly [string, (channel: HostileChannel) => Uint8Array])[] = [
  ["a random secret", () => randomSecret()],
  ["a secret of zeros", () => new Uint8Array(32)],
  ["the secret of the next commitment", ({ peer }) => peer.commitmentSecret(1n)],
];

for (const [name, secretOf] of BAD_SECRETS) {
  attack(`revoke_and_ack with ${name}: the channel fails`, async () => {
    const channel = await owing();
    await using _peer = channel.peer;
    await channel.revoke({ per_commitment_secret: secretOf(channel) });
    await failed(victim, channel, /secret|revo/, { live: 1, over: 0 });
  });
}

attack("revoke_and_ack with the secret of the commitment before: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await works(victim, channel);
  await untilRows(victim, channel, { live: 0, over: 1 });
  await channel.add();
  await channel.sign();
  await channel.expect("revoke_and_ack");
  await channel.expect("commitment_signed");
  await channel.revoke({ per_commitment_secret: peer.commitmentSecret(0n) });
  await failed(victim, channel, /secret|revo/, { live: 1, over: 1 });
});

attack("revoke_and_ack that nobody asked for: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await peer.send({
    type: "revoke_and_ack",
    channel_id: channel.channelId,
    per_commitment_secret: peer.commitmentSecret(0n),
    next_per_commitment_point: channel.ownPoint(2n),
  });
  await failed(victim, channel, /revo/);
});

attack("two revoke_and_ack for one commitment_signed: the channel fails", async () => {
  const channel = await owing();
  await using peer = channel.peer;
  await channel.revoke();
  await peer.send(channel.lastRevoked!);
  const verdict = await verdictOf(peer);
  assert.equal(verdict.type, "error", verdict.text);
  await victim.unharmed();
});

attack("revoke_and_ack with a next point that is none: the channel fails", async () => {
  const channel = await owing();
  await using peer = channel.peer;
  const bytes = encodeMessage(channel.revokeMessage());
  await peer.raw.sendBytes(bytes.fill(5, bytes.length - 33));
  await verdictOf(peer);
  await victim.unharmed();
});

// Removals -----------------------------------------------------------------------------------------------------------

const fulfill = ({ channelId }: HostileChannel, id: bigint, payment_preimage: Uint8Array) => ({
  type: "update_fulfill_htlc",
  channel_id: channelId,
  id,
  payment_preimage,
} as const);
const fail = ({ channelId }: HostileChannel, id: bigint, reason = new Uint8Array(292)) => ({
  type: "update_fail_htlc",
  channel_id: channelId,
  id,
  reason,
} as const);
const malformed = ({ channelId }: HostileChannel, id: bigint, failure_code: number) => ({
  type: "update_fail_malformed_htlc",
  channel_id: channelId,
  id,
  sha256_of_onion: new Uint8Array(32),
  failure_code,
} as const);

attack("update_fulfill_htlc of an HTLC that does not exist: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await peer.send(fulfill(channel, 0n, randomSecret()));
  await failed(victim, channel, /id|HTLC|unknown/i);
});

attack("update_fail_htlc of an HTLC that does not exist: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await peer.send(fail(channel, 7n));
  await failed(victim, channel, /id|HTLC|unknown/i);
});

attack("update_fulfill_htlc of the peer's own HTLC: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  await channel.add();
  await peer.send(fulfill(channel, 0n, randomSecret()));
  await failed(victim, channel, /id|HTLC|unknown/i);
});

attack(
  "update_fulfill_htlc with a wrong preimage: the channel fails, and the payment is not complete",
  async () => {
    const channel = await usable(victim);
    await using peer = channel.peer;
    const offer = await nodeOffers(victim, channel);
    await peer.send(fulfill(channel, offer.id, randomSecret()));
    await failed(victim, channel, /preimage/, { live: 1, over: 0 });
    const { payments } = await victim.node.rpc.listSendPays({ paymentHash: offer.paymentHash });
    assert.deepEqual(payments.map(({ paymentPreimage }) => paymentPreimage), [undefined]);
  },
);

attack("update_fail_malformed_htlc without BADONION: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  const { id } = await nodeOffers(victim, channel);
  await peer.send(malformed(channel, id, FAILURE_CODES.temporary_node_failure));
  await failed(victim, channel, /BADONION|malformed|code/i, { live: 1, over: 0 });
});

attack("update_fail_malformed_htlc with BADONION: the payment fails, and the channel goes on", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  const offer = await nodeOffers(victim, channel);
  await channel.sayUpdate(malformed(channel, offer.id, FAILURE_CODES.invalid_onion_hmac));
  await channel.bookUntilClean();
  assert.equal(typeof await endOf(victim, offer), "number");
  await works(victim, channel);
});

attack("update_fulfill_htlc before the HTLC is committed on both sides: the channel fails", async () => {
  const channel = await usable(victim);
  await using peer = channel.peer;
  const offer = await nodePays(victim, channel);
  const { id } = await channel.expect("update_add_htlc");
  await peer.send(fulfill(channel, id, offer.preimage));
  const verdict = await verdictOf(peer);
  assert.equal(verdict.type, "error", verdict.text);
  await victim.unharmed();
});

const TWICE = {
  "update_fulfill_htlc twice": [true, true],
  "update_fail_htlc twice": [false, false],
  "update_fulfill_htlc, then update_fail_htlc": [true, false],
  "update_fail_htlc, then update_fulfill_htlc": [false, true],
} as const;

for (const [name, [first, second]] of Object.entries(TWICE)) {
  attack(`${name}, of one HTLC: the channel fails, and a preimage that was told is kept`, async () => {
    const channel = await usable(victim);
    await using peer = channel.peer;
    const offer = await nodeOffers(victim, channel);
    const removal = (paid: boolean) =>
      paid ? fulfill(channel, offer.id, offer.preimage) : fail(channel, offer.id);
    await peer.send(removal(first));
    await peer.send(removal(second));
    await failed(victim, channel, /./, { live: 1, over: 0 });
    if (first) assert.equal(await endOf(victim, offer), offer.preimage.toHex());
  });
}

attack(
  "update_fail_htlc with a reason of 65,000 bytes: the payment fails, and the channel goes on",
  async () => {
    const channel = await usable(victim);
    await using _peer = channel.peer;
    const offer = await nodeOffers(victim, channel);
    await channel.sayUpdate(fail(channel, offer.id, new Uint8Array(65_000).fill(3)));
    await channel.bookUntilClean();
    assert.equal(await endOf(victim, offer), 202);
    await works(victim, channel);
  },
);

attack("update_fail_htlc without a reason: the payment fails, and the channel goes on", async () => {
  const channel = await usable(victim);
  await using _peer = channel.peer;
  const offer = await nodeOffers(victim, channel);
  await channel.sayUpdate(fail(channel, offer.id, new Uint8Array()));
  await channel.bookUntilClean();
  assert.equal(await endOf(victim, offer), 202);
  await works(victim, channel);
});
