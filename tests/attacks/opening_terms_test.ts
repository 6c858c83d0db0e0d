/**
 * What a node refuses in open_channel2 and accept_channel2 (BOLT 2, channel establishment v2), seen from the peer: which
 * answer, about which channel id, and that neither the connection nor a row is lost or left. The numbers are those of
 * the project's list of rules of dual funding.
 */
import assert from "node:assert/strict";
import { hexToBytes } from "@noble/hashes/utils.js";
import { encodeChannelType } from "bolt/wire/channel_type.ts";
import { featureBit, Features, nodeFeatures } from "bolt/wire/features.ts";
import { type AcceptChannel2, encodeMessage, type OpenChannel2 } from "bolt/wire/messages.ts";
import type { HostilePeer } from "../lib/hostile_peer.ts";
import { defaultInit, type RawPeerOptions } from "../lib/raw_peer.ts";
import { attack, refuses, staysSilent, useVictim } from "./victim.ts";

const victim = await useVictim();
const U64_MAX = 0xffff_ffff_ffff_ffffn;
const NOT_A_POINT = Uint8Array.of(2, ...new Uint8Array(32).fill(0xff));
const COMMON_BITS = encodeChannelType({ scidAlias: false, zeroconf: false });

/** An init without these features. */
function initWithout(...names: Parameters<typeof featureBit>[0][]) {
  const bits = names.map((name) => featureBit(name) >> 1);
  return defaultInit(Features.of(...nodeFeatures().bits().filter((bit) => !bits.includes(bit >> 1))));
}

const POINTS = [
  "funding_pubkey",
  "revocation_basepoint",
  "payment_basepoint",
  "delayed_payment_basepoint",
  "htlc_basepoint",
  "first_per_commitment_point",
  "second_per_commitment_point",
] as const;

type Both = Partial<Omit<OpenChannel2, "type">> & Partial<Omit<AcceptChannel2, "type">>;

/** What both messages can have wrong: rule, change, text of the answer. */
const EITHER: readonly (readonly [string, Both, RegExp])[] = [
  ["5: channel_type empty", { channel_type: new Uint8Array() }, /channel_type/],
  [
    "5: channel_type with a leading zero byte",
    { channel_type: Uint8Array.of(0, ...COMMON_BITS) },
    /channel_type/,
  ],
  ["5: channel_type without anchors", { channel_type: Uint8Array.of(0x10, 0) }, /channel_type/],
  [
    "5: channel_type with an unknown bit",
    { channel_type: Features.of(12, 22, 140).toBytes() },
    /channel_type/,
  ],
  [
    "5: zero-conf from a peer that nobody trusts",
    { channel_type: encodeChannelType({ scidAlias: false, zeroconf: true }) },
    /zeroconf|channel_type/,
  ],
  ["7: to_self_delay absurd", { to_self_delay: 65_535 }, /to_self_delay/],
  ["7: max_accepted_htlcs 484", { max_accepted_htlcs: 484 }, /max_accepted_htlcs/],
  ["7: max_accepted_htlcs 0", { max_accepted_htlcs: 0 }, /max_accepted_htlcs/],
  ["9: dust_limit_satoshis 353", { dust_limit_satoshis: 353n }, /dust_limit/],
  ["9: dust_limit_satoshis beyond reason", { dust_limit_satoshis: 1_000_000n }, /dust_limit/],
  ["9: dust_limit_satoshis of all ones", { dust_limit_satoshis: U64_MAX }, /dust_limit/],
  ["12: funding_satoshis beyond all bitcoin", { funding_satoshis: 2_100_000_000_000_001n }, /all bitcoin/],
  ["12: funding_satoshis of all ones", { funding_satoshis: U64_MAX }, /all bitcoin/],
  ["12: funding_satoshis of 2^63", { funding_satoshis: 1n << 63n }, /all bitcoin/],
  [
    "16: upfront_shutdown_script of no known form",
    { upfront_shutdown_script: Uint8Array.of(0x51) },
    /upfront/,
  ],
  [
    "16: upfront_shutdown_script that is an OP_RETURN too long",
    { upfront_shutdown_script: new Uint8Array(200).fill(0x6a) },
    /upfront/,
  ],
  ...POINTS.map((field) =>
    [`8: ${field} is no point`, { [field]: NOT_A_POINT }, /not a valid point|temporary_channel_id/] as const
  ),
];

const OPEN_ONLY: readonly (readonly [string, Partial<OpenChannel2>, RegExp, RawPeerOptions?])[] = [
  [
    "2: temporary_channel_id of nobody",
    { temporary_channel_id: new Uint8Array(32).fill(9) },
    /temporary_channel_id/,
  ],
  ["2: temporary_channel_id of zeros", { temporary_channel_id: new Uint8Array(32) }, /temporary_channel_id/],
  [
    "2: temporary_channel_id that is another peer's final id",
    { temporary_channel_id: hexToBytes(victim.usable.channelId) },
    /in use/,
  ],
  ["4: another chain", { chain_hash: new Uint8Array(32).fill(7) }, /chain/],
  ["7: commitment feerate 0", { commitment_feerate_perkw: 0 }, /commitment feerate/],
  ["7: commitment feerate below the floor", { commitment_feerate_perkw: 252 }, /commitment feerate/],
  ["7: commitment feerate absurd", { commitment_feerate_perkw: 0xffff_ffff }, /commitment feerate/],
  ["11: the opener cannot pay its commitment", { commitment_feerate_perkw: 240_000 }, /the opener needs/],
  ["12: a channel smaller than we take", { funding_satoshis: 5_000n }, /smaller than/],
  ["12: nothing at all", { funding_satoshis: 0n }, /smaller than|the opener needs/],
  ["announced channels are not served yet", { channel_flags: 1 }, /announced/],
  [
    "12: 2^24 sat without option_support_large_channel",
    { funding_satoshis: 1n << 24n },
    /option_support_large_channel/,
    { init: initWithout("option_support_large_channel") },
  ],
  [
    "5: scid_alias that was not negotiated",
    { channel_type: encodeChannelType({ scidAlias: true, zeroconf: false }) },
    /scid_alias|channel_type/,
    { init: initWithout("option_scid_alias") },
  ],
];

async function refusedOpen(
  peer: HostilePeer,
  changes: Partial<OpenChannel2>,
  text: RegExp,
): Promise<void> {
  const open = await peer.sayOpen(changes);
  await refuses(peer, { type: "error", text }, open.temporary_channel_id);
  await staysSilent(peer);
  await victim.nothingLeft();
}

for (const [name, changes, text] of EITHER) {
  attack(`open_channel2, rule ${name}`, async () => {
    await using peer = await victim.connect();
    // Its minimum_depth, if any, is no field of this message; no row has one.
    await refusedOpen(peer, changes as Partial<OpenChannel2>, text);
  });
}

for (const [name, changes, text, options] of OPEN_ONLY) {
  attack(`open_channel2, rule ${name}`, async () => {
    await using peer = await victim.connect(options);
    await refusedOpen(peer, changes, text);
  });
}

attack("open_channel2, rule 5: channel_type missing", async () => {
  await using peer = await victim.connect();
  const { channel_type: _, ...open } = peer.openMessage();
  await peer.send(open);
  await refuses(peer, { type: "error", text: /channel_type is missing/ }, open.temporary_channel_id);
  await victim.nothingLeft();
});

attack(
  "open_channel2, rule 1: open_channel of version 1 gets an error where dual funding is negotiated",
  async () => {
    await using peer = await victim.connect();
    const open = peer.openMessage();
    await peer.send({
      type: "open_channel",
      chain_hash: open.chain_hash,
      temporary_channel_id: open.temporary_channel_id,
      funding_satoshis: 200_000n,
      push_msat: 0n,
      dust_limit_satoshis: 354n,
      max_htlc_value_in_flight_msat: 1_000_000n,
      channel_reserve_satoshis: 2_000n,
      htlc_minimum_msat: 1n,
      feerate_per_kw: 1_000,
      to_self_delay: 144,
      max_accepted_htlcs: 30,
      funding_pubkey: open.funding_pubkey,
      revocation_basepoint: open.revocation_basepoint,
      payment_basepoint: open.payment_basepoint,
      delayed_payment_basepoint: open.delayed_payment_basepoint,
      htlc_basepoint: open.htlc_basepoint,
      first_per_commitment_point: open.first_per_commitment_point,
      channel_flags: 0,
    });
    await refuses(peer, { type: "error", text: /open_channel2/ }, open.temporary_channel_id);
    await staysSilent(peer);
    await victim.nothingLeft();
  },
);

attack("open_channel2 of a peer that never offered option_dual_fund gets an error", async () => {
  await using peer = await victim.connect({ init: initWithout("option_dual_fund") });
  await refusedOpen(peer, {}, /option_dual_fund/);
});

attack(
  "open_channel2, rule 2: an open under a temporary id that is being used gets an error, once for each",
  async () => {
    await using peer = await victim.connect();
    const accept = await peer.openTo();
    assert.ok(accept.funding_satoshis > 0n, "the node puts coins in");
    // The first open is known by its final id now. The temporary one is free to the node, not to this basepoint.
    await peer.send(peer.openMessage({ temporary_channel_id: peer.channelId }));
    const verdict = await peer.verdict();
    assert.match(verdict.text, /in use|exists/);
    await staysSilent(peer);
    await peer.close();
    await victim.nothingLeft();
  },
);

attack("open_channel2, rule 18: undefined channel_flags are ignored", async () => {
  await using peer = await victim.connect();
  await peer.openTo({ channel_flags: 0xfe });
  await peer.close();
  await victim.nothingLeft();
});

attack(
  "open_channel2, rule 18: an open before commitment_signed is forgotten at the reconnect, and a new one is taken",
  async () => {
    await using peer = await victim.connect();
    await peer.openTo();
    await peer.reconnect();
    await victim.nothingLeft();
    await peer.openTo();
    await peer.close();
    await victim.nothingLeft();
  },
);

attack("open_channel2, rule 14: a peer that demands confirmed inputs gets only such", async () => {
  await using peer = await victim.connect();
  await peer.openTo({ require_confirmed_inputs: true });
  await peer.construct();
  for (const input of peer.session.inputs.filter(({ coin }) => coin === null)) {
    const txid = input.txid.toReversed().toHex();
    const out = await victim.chain.rpc<{ confirmations: number } | null>("gettxout", [
      txid,
      input.vout,
      false,
    ]);
    assert.ok(out !== null && out.confirmations > 0);
  }
  await peer.expect("commitment_signed");
  await peer.abort();
  await peer.expect("tx_abort");
  await victim.nothingLeft();
});

attack(
  "open_channel2 with an unknown even TLV record gets an error, with an unknown odd one it is taken",
  async () => {
    for (const { type, taken } of [{ type: 100, taken: false }, { type: 101, taken: true }]) {
      await using peer = await victim.connect();
      const open = await peer.openMessage();
      await peer.raw.sendBytes(Uint8Array.of(...encodeMessage(open), type, 0));
      if (taken) await peer.expect("accept_channel2");
      else await refuses(peer, { type: "error", text: /malformed/ }, open.temporary_channel_id);
      await peer.close();
      await victim.nothingLeft();
    }
  },
);

async function refusedAccept(changes: Partial<AcceptChannel2>, text: RegExp): Promise<void> {
  await using peer = await victim.connect();
  const { opened } = await victim.opensTo(peer);
  await peer.sayAccept(changes);
  await refuses(peer, { type: "error", text }, peer.open!.temporary_channel_id);
  assert.match((await opened).message, text);
  await staysSilent(peer);
  await victim.nothingLeft();
}

const ACCEPT_ONLY: readonly (readonly [string, Partial<AcceptChannel2>, RegExp])[] = [
  ["5: channel_type that was not proposed", {
    channel_type: encodeChannelType({ scidAlias: true, zeroconf: false }),
  }, /channel_type/],
  ["15: minimum_depth absurd", { minimum_depth: 0xffff_ffff }, /minimum_depth/],
];

for (const [name, changes, text] of [...EITHER, ...ACCEPT_ONLY]) {
  attack(`accept_channel2, rule ${name}`, () => refusedAccept(changes as Partial<AcceptChannel2>, text));
}

attack("accept_channel2, rule 2: our own revocation_basepoint sent back is refused", async () => {
  await using peer = await victim.connect();
  const { opened } = await victim.opensTo(peer);
  await peer.sayAccept({ revocation_basepoint: peer.open!.revocation_basepoint });
  await refuses(peer, { type: "error", text: /revocation_basepoint/ }, peer.open!.temporary_channel_id);
  await opened;
  await victim.nothingLeft();
});

attack("accept_channel2, rule 12: both amounts together beyond all bitcoin", async () => {
  await refusedAccept({ funding_satoshis: 2_100_000_000_000_000n }, /all bitcoin/);
});

attack("accept_channel2, rule 5: channel_type missing", async () => {
  await using peer = await victim.connect();
  const { opened } = await victim.opensTo(peer);
  const { channel_type: _, ...open } = peer.open!;
  peer.open = open;
  await peer.sayAccept();
  await refuses(peer, { type: "error", text: /channel_type/ }, open.temporary_channel_id);
  await opened;
  await victim.nothingLeft();
});

attack("accept_channel2 of an open that the node never made gets an answer and leaves nothing", async () => {
  await using peer = await victim.connect();
  peer.open = peer.openMessage();
  await peer.sayAccept();
  const verdict = await peer.verdict();
  assert.notEqual(verdict.type, "tx_abort");
  await victim.nothingLeft();
});

attack("a second accept_channel2 changes nothing", async () => {
  await using peer = await victim.connect();
  const { opened } = await victim.opensTo(peer);
  const accept = await peer.sayAccept();
  await peer.expect("tx_add_input");
  await peer.send({ ...accept, funding_satoshis: 1_000_000n });
  const verdict = await peer.verdict();
  assert.match(verdict.text, /not expected|unknown|no such/);
  await peer.close();
  await opened;
  await victim.nothingLeft();
});

attack("terms: the honest peer's channels noticed nothing of all that", () => victim.locksIn());
