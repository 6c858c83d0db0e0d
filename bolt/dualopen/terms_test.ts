import assert from "node:assert/strict";
import fc from "fast-check";
import { temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";
import { p2wsh } from "bolt/tx/scripts.ts";
import { feerate, MAX_SAT, sat } from "bolt/units.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import { featureBit, type FeatureName, Features, nodeFeatures } from "bolt/wire/features.ts";
import type { AcceptChannel2, OpenChannel2 } from "bolt/wire/messages.ts";
import { PureHsm } from "./testing/pure_hsm.ts";
import { World } from "./testing/simulator.ts";
import {
  acceptableShutdownScript,
  checkAcceptChannel2,
  checkFunds,
  checkOpenChannel2,
  LARGE_CHANNEL,
  localParams,
  MAX_ACCEPTED_HTLCS,
  MAX_COMMITMENT_FEERATE,
  MAX_MINIMUM_DEPTH,
  MIN_COMMITMENT_FEERATE,
  negotiated,
  partyFields,
} from "./terms.ts";
import type { Policy, Setup } from "./types.ts";

const SETUP: Setup = new World({ alice: 0, bob: 0 }).nodes.alice.setup;
const PEER = new PureHsm(7000).keys;
const U64_MAX = 0xffff_ffff_ffff_ffffn;
const NOT_A_POINT = Uint8Array.of(2, ...new Uint8Array(32).fill(0xff));
const TYPE = encodeChannelType(ANCHORS_STATIC_REMOTEKEY);
const ALIAS_TYPE = encodeChannelType({ scidAlias: true, zeroconf: false });

const TERMS = {
  ...partyFields({ ...localParams(SETUP), ...PEER, upfrontShutdownScript: new Uint8Array() }),
  funding_satoshis: 200_000n,
  channel_type: TYPE,
};
const OPEN: OpenChannel2 = {
  type: "open_channel2",
  chain_hash: SETUP.chainHash,
  temporary_channel_id: temporaryChannelIdV2(PEER.revocationBasepoint),
  funding_feerate_perkw: 1_000,
  commitment_feerate_perkw: 1_000,
  locktime: 100,
  channel_flags: 0,
  ...TERMS,
};
/** Our own open, which {@link ACCEPT} answers. */
const OURS: OpenChannel2 = {
  ...OPEN,
  ...partyFields(localParams(SETUP)),
  temporary_channel_id: temporaryChannelIdV2(SETUP.localKeys.revocationBasepoint),
};
const ACCEPT: AcceptChannel2 = {
  type: "accept_channel2",
  temporary_channel_id: OURS.temporary_channel_id,
  minimum_depth: 1,
  ...TERMS,
};

/** The setup with a peer that lacks these features, and another policy. */
function setup(lacking: readonly FeatureName[] = [], policy: Partial<Policy> = {}): Setup {
  const bits = lacking.map((name) => featureBit(name) >> 1);
  const remote = Features.of(...nodeFeatures().bits().filter((bit) => !bits.includes(bit >> 1)));
  return {
    ...SETUP,
    features: { ...SETUP.features, remote: remote.toBytes() },
    policy: { ...SETUP.policy, ...policy },
  };
}

function without<T extends object, K extends keyof T>(message: T, key: K): Omit<T, K> {
  const { [key]: _, ...rest } = message;
  return rest;
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

type Change = Partial<Omit<OpenChannel2, "type">> & Partial<Omit<AcceptChannel2, "type">>;

/** What is refused in both messages: what is said, the rule that refuses it, under which setup. */
const EITHER: readonly (readonly [string, Change, string, Setup?])[] = [
  ["to_self_delay above the policy", { to_self_delay: SETUP.policy.maxToSelfDelay + 1 }, "to_self_delay"],
  ["no HTLC at all", { max_accepted_htlcs: 0 }, "max_accepted_htlcs"],
  ["484 HTLCs", { max_accepted_htlcs: MAX_ACCEPTED_HTLCS + 1 }, "max_accepted_htlcs"],
  ["dust limit 353", { dust_limit_satoshis: 353n }, "dust_limit_satoshis"],
  ["dust limit 0", { dust_limit_satoshis: 0n }, "dust_limit_satoshis"],
  [
    "dust limit above the policy",
    { dust_limit_satoshis: SETUP.policy.maxDustLimit + 1n },
    "dust_limit_satoshis",
  ],
  ["dust limit 2^64 - 1", { dust_limit_satoshis: U64_MAX }, "dust_limit_satoshis"],
  ["more than all bitcoin", { funding_satoshis: MAX_SAT + 1n }, "funding_satoshis"],
  ["funding 2^64 - 1", { funding_satoshis: U64_MAX }, "funding_satoshis"],
  [
    "2^24 sat without the peer's large channels",
    { funding_satoshis: LARGE_CHANNEL },
    "funding_satoshis",
    setup(["option_support_large_channel"]),
  ],
  [
    "2^24 sat without large channels by policy",
    { funding_satoshis: LARGE_CHANNEL },
    "funding_satoshis",
    setup([], { largeChannels: false }),
  ],
  [
    "an upfront script of no known form",
    { upfront_shutdown_script: Uint8Array.of(0x51) },
    "upfront_shutdown_script",
  ],
  [
    "an upfront script of a later witness version without option_shutdown_anysegwit",
    { upfront_shutdown_script: Uint8Array.of(0x51, 32, ...new Uint8Array(32)) },
    "upfront_shutdown_script",
    setup(["option_shutdown_anysegwit", "option_simple_close"]),
  ],
  ...POINTS.filter((field) => field !== "revocation_basepoint").map((field) =>
    [`${field} is no point`, { [field]: NOT_A_POINT }, "points"] as const
  ),
];

const OPEN_ONLY: readonly (readonly [string, Partial<OpenChannel2>, string, Setup?])[] = [
  ["another chain", { chain_hash: new Uint8Array(32) }, "chain_hash"],
  ["a temporary id of nobody", { temporary_channel_id: new Uint8Array(32) }, "temporary_channel_id"],
  [
    "another basepoint than the id is made of",
    { revocation_basepoint: PEER.htlcBasepoint },
    "temporary_channel_id",
  ],
  ["an announced channel", { channel_flags: 1 }, "channel_flags"],
  ["an announced channel with undefined flags", { channel_flags: 0xff }, "channel_flags"],
  ["an empty channel_type", { channel_type: new Uint8Array() }, "channel_type"],
  ["a channel_type with a leading zero byte", { channel_type: Uint8Array.of(0, ...TYPE) }, "channel_type"],
  ["static_remotekey alone", { channel_type: Features.of(12).toBytes() }, "channel_type"],
  ["an unknown channel_type", { channel_type: Features.of(12, 22, 200).toBytes() }, "channel_type"],
  ["zero-conf", { channel_type: encodeChannelType({ scidAlias: true, zeroconf: true }) }, "channel_type"],
  [
    "scid_alias that was not negotiated",
    { channel_type: ALIAS_TYPE },
    "channel_type",
    setup(["option_scid_alias"]),
  ],
  ["commitment fee rate 0", { commitment_feerate_perkw: 0 }, "commitment_feerate_perkw"],
  [
    "commitment fee rate below the floor",
    { commitment_feerate_perkw: MIN_COMMITMENT_FEERATE - 1 },
    "commitment_feerate_perkw",
  ],
  [
    "commitment fee rate beyond every market",
    { commitment_feerate_perkw: MAX_COMMITMENT_FEERATE + 1 },
    "commitment_feerate_perkw",
  ],
];

const ACCEPT_ONLY: readonly (readonly [string, Partial<AcceptChannel2>, string, Setup?])[] = [
  ["another temporary id", { temporary_channel_id: new Uint8Array(32) }, "temporary_channel_id"],
  ["another channel_type", { channel_type: ALIAS_TYPE }, "channel_type"],
  ["minimum_depth beyond reason", { minimum_depth: MAX_MINIMUM_DEPTH + 1 }, "minimum_depth"],
  ["both amounts beyond all bitcoin", { funding_satoshis: MAX_SAT }, "funding_satoshis"],
  [
    "both amounts a large channel",
    { funding_satoshis: LARGE_CHANNEL - OURS.funding_satoshis },
    "funding_satoshis",
    setup(["option_support_large_channel"]),
  ],
  ["revocation_basepoint is no point", { revocation_basepoint: NOT_A_POINT }, "points"],
  [
    "our own revocation_basepoint (eclair #3337)",
    { revocation_basepoint: OURS.revocation_basepoint },
    "revocation_basepoint",
  ],
];

function assertRefused(
  result: ReturnType<typeof checkOpenChannel2> | ReturnType<typeof checkAcceptChannel2>,
  rule: string,
): void {
  assert.ok(!result.ok, "it was accepted");
  assert.equal(result.error.rule, rule);
  // It goes to the peer and into logs.
  assert.match(result.error.text, /^[ -~]+$/);
}

for (const [name, changes, rule, given] of [...EITHER, ...OPEN_ONLY]) {
  Deno.test(`open_channel2 is refused: ${name}`, () => {
    const { minimum_depth: _, ...said } = changes as Change;
    assertRefused(checkOpenChannel2(given ?? SETUP, { ...OPEN, ...said }), rule);
  });
}

for (const [name, changes, rule, given] of [...EITHER, ...ACCEPT_ONLY]) {
  Deno.test(`accept_channel2 is refused: ${name}`, () => {
    assertRefused(
      checkAcceptChannel2(given ?? SETUP, OURS, { ...ACCEPT, ...changes as Partial<AcceptChannel2> }),
      rule,
    );
  });
}

Deno.test("a revocation_basepoint that is no point is refused though the temporary id is made of it", () => {
  const open = {
    ...OPEN,
    revocation_basepoint: NOT_A_POINT,
    temporary_channel_id: temporaryChannelIdV2(NOT_A_POINT),
  };
  assertRefused(checkOpenChannel2(SETUP, open), "points");
});

Deno.test("channel_type is demanded of both messages", () => {
  assertRefused(checkOpenChannel2(SETUP, without(OPEN, "channel_type")), "channel_type");
  assertRefused(checkAcceptChannel2(SETUP, OURS, without(ACCEPT, "channel_type")), "channel_type");
});

Deno.test("upfront_shutdown_script left out counts as empty where both have the feature, and is ignored where not", () => {
  const open = checkOpenChannel2(SETUP, without(OPEN, "upfront_shutdown_script"));
  assert.ok(open.ok);
  assert.deepEqual(open.value.remote.upfrontShutdownScript, new Uint8Array());
  const accept = checkAcceptChannel2(SETUP, OURS, without(ACCEPT, "upfront_shutdown_script"));
  assert.ok(accept.ok);
  assert.deepEqual(accept.value.remote.upfrontShutdownScript, new Uint8Array());
  const lacking = setup(["option_upfront_shutdown_script"]);
  const taken = checkOpenChannel2(lacking, { ...OPEN, upfront_shutdown_script: Uint8Array.of(0x51) });
  assert.ok(taken.ok);
  assert.equal(taken.value.remote.upfrontShutdownScript, null);
  assert.equal(localParams(lacking).upfrontShutdownScript, null);
});

Deno.test("what is at the edge is taken, and comes out as it was said", () => {
  const { policy } = SETUP;
  const edge = {
    to_self_delay: policy.maxToSelfDelay,
    max_accepted_htlcs: MAX_ACCEPTED_HTLCS,
    dust_limit_satoshis: policy.maxDustLimit as bigint,
    max_htlc_value_in_flight_msat: U64_MAX,
    htlc_minimum_msat: U64_MAX,
  };
  const open = checkOpenChannel2(SETUP, {
    ...OPEN,
    ...edge,
    channel_flags: 0xfe,
    channel_type: ALIAS_TYPE,
    commitment_feerate_perkw: MAX_COMMITMENT_FEERATE,
    funding_satoshis: MAX_SAT,
    require_confirmed_inputs: true,
    upfront_shutdown_script: p2wsh(Uint8Array.of(0x51)),
  });
  assert.ok(open.ok);
  assert.equal(open.value.theirFunding, MAX_SAT);
  assert.equal(open.value.requireConfirmedInputs, true);
  assert.deepEqual(open.value.channelType, ALIAS_TYPE);
  assert.equal(open.value.remote.maxAcceptedHtlcs, MAX_ACCEPTED_HTLCS);
  assert.equal(
    open.value.remote.maxHtlcValueInFlight,
    MAX_SAT * 1000n,
    "capped: nothing of ours depends on more",
  );
  assert.equal(open.value.remote.htlcMinimum, MAX_SAT * 1000n);
  assert.deepEqual(open.value.remote.upfrontShutdownScript, p2wsh(Uint8Array.of(0x51)));

  const accept = checkAcceptChannel2(SETUP, OURS, { ...ACCEPT, ...edge, minimum_depth: MAX_MINIMUM_DEPTH });
  assert.ok(accept.ok);
  assert.equal(accept.value.minimumDepth, MAX_MINIMUM_DEPTH);
  assert.equal(accept.value.requireConfirmedInputs, false);
  assert.equal(accept.value.remote.dustLimit, policy.maxDustLimit);
});

/** Contributions that make no channel: theirs is the opener's. */
const FUNDS: readonly (readonly [string, { local: bigint; remote: bigint }, number, string, Setup?])[] = [
  ["smaller than the policy", { local: 0n, remote: 9_999n }, 253, "min_capacity"],
  ["the opener cannot pay fee and anchors", { local: 100_000n, remote: 1_000n }, 1_000, "funding_satoshis"],
  // 1,124 weight at 100,000 sat/kw and two anchors leave 40 sat of these.
  ["neither side above its reserve", { local: 0n, remote: 113_100n }, 100_000, "funding_satoshis"],
  ["both more than all bitcoin", { local: 1n, remote: MAX_SAT }, 1_000, "funding_satoshis"],
  [
    "both a large channel that was not negotiated",
    { local: LARGE_CHANNEL / 2n, remote: LARGE_CHANNEL / 2n },
    1_000,
    "funding_satoshis",
    setup(["option_support_large_channel"]),
  ],
];

function funds(given: Setup, contributions: { local: bigint; remote: bigint }, rate: number) {
  const params = {
    commitmentFeerate: feerate(rate),
    local: { dustLimit: sat(354) },
    remote: { dustLimit: sat(354) },
  };
  const { local, remote } = contributions;
  return checkFunds(given, "remote", params, { local: sat(local), remote: sat(remote) });
}

for (const [name, contributions, rate, rule, given] of FUNDS) {
  Deno.test(`contributions are refused: ${name}`, () => {
    const result = funds(given ?? SETUP, contributions, rate);
    assert.ok(!result.ok, "they were accepted");
    assert.equal(result.error.rule, rule);
  });
}

Deno.test("contributions at the edge are accepted", () => {
  assert.deepEqual(funds(SETUP, { local: 0n, remote: 10_000n }, 253), { ok: true, value: 10_000n });
  assert.deepEqual(funds(SETUP, { local: 0n, remote: MAX_SAT }, 253), { ok: true, value: MAX_SAT });
  // The accepter's part alone is above its reserve.
  assert.ok(funds(SETUP, { local: 5_000n, remote: 113_100n }, 100_000).ok);
});

Deno.test("a feature counts only when both have it, and garbage for features is none", () => {
  assert.equal(negotiated(SETUP, "option_dual_fund"), true);
  assert.equal(negotiated(setup(["option_dual_fund"]), "option_dual_fund"), false);
  const long = { ...SETUP, features: { ...SETUP.features, remote: new Uint8Array(70_000).fill(0xff) } };
  assert.equal(negotiated(long, "option_dual_fund"), false);
});

Deno.test("which scripts may end a channel depends on what was negotiated", () => {
  const p2pkh = Uint8Array.of(0x76, 0xa9, 20, ...new Uint8Array(20), 0x88, 0xac);
  const taproot = Uint8Array.of(0x51, 32, ...new Uint8Array(32));
  assert.equal(acceptableShutdownScript(SETUP, p2wsh(Uint8Array.of(0x51))), true);
  assert.equal(acceptableShutdownScript(SETUP, p2pkh), false);
  assert.equal(acceptableShutdownScript(SETUP, taproot), true);
  assert.equal(acceptableShutdownScript(setup(["option_shutdown_anysegwit"]), taproot), false);
});

Deno.test("whatever numbers a peer says, the answer is a value, and nothing beyond the bounds is taken", () => {
  const u64 = fc.oneof(fc.bigInt({ min: 0n, max: U64_MAX }), fc.bigInt({ min: 0n, max: 3_000_000n }));
  const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
  const u16 = fc.integer({ min: 0, max: 0xffff });
  fc.assert(fc.property(
    fc.record({
      funding_satoshis: u64,
      dust_limit_satoshis: u64,
      max_htlc_value_in_flight_msat: u64,
      htlc_minimum_msat: u64,
      to_self_delay: u16,
      max_accepted_htlcs: u16,
      funding_feerate_perkw: u32,
      commitment_feerate_perkw: fc.oneof(u32, fc.integer({ min: 253, max: 10_000 })),
      channel_flags: fc.constantFrom(0, 2, 0xfe),
    }),
    (said) => {
      const result = checkOpenChannel2(SETUP, { ...OPEN, ...said });
      if (!result.ok) return;
      assert.ok(result.value.theirFunding <= MAX_SAT);
      assert.ok(
        result.value.remote.dustLimit >= 354n && result.value.remote.dustLimit <= SETUP.policy.maxDustLimit,
      );
      assert.ok(result.value.commitmentFeerate <= MAX_COMMITMENT_FEERATE);
      assert.ok(result.value.remote.maxAcceptedHtlcs <= MAX_ACCEPTED_HTLCS);
    },
  ));
});
