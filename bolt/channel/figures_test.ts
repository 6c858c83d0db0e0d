/** Fees, trimming and limits: the figures are those that the transactions have. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { commitmentFee } from "bolt/tx/weights.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import { Figures } from "./figures.ts";
import { checkSend, largestSend, type LimitsOf } from "./limits.ts";
import { modelCommitment } from "./testing/model_hsm.ts";
import { idle, machineOf } from "./testing/hostile.ts";
import { NODE, onionOf, preimageOf, WORLD } from "./testing/simulator.ts";
import { type ActiveCommitment, type Htlc, htlcKey } from "./types.ts";

const arbHtlc = fc.record({ offered: fc.boolean(), amount: fc.bigInt(1n, 2_000_000n), hash: fc.nat(3) });
const CAPACITY = 10_000_000n;

function htlcsOf(
  from: readonly { readonly offered: boolean; readonly amount: bigint; readonly hash: number }[],
): Htlc[] {
  return from.map(({ offered, amount, hash }, i) => ({
    key: htlcKey(offered, BigInt(i)),
    offered,
    id: BigInt(i),
    state: offered ? "SENT_ADD_ACK_REVOCATION" : "RCVD_ADD_ACK_REVOCATION",
    amount: msat(amount),
    paymentHash: preimageOf(hash).hash,
    cltvExpiry: 1000 + i,
    origin: null,
    onion: onionOf(i),
    removal: null,
    sharedSecret: null,
    blinded: false,
  }));
}

const sim = idle({
  limits: { alice: WORLD.limits.alice, bob: { ...WORLD.limits.bob, dustLimit: sat(1000) } },
});

/** Both sides of one channel with these HTLCs on both commitments. */
function mirrored(htlcs: readonly Htlc[], toLocal: bigint, rate: number) {
  const toRemote = CAPACITY * 1000n - toLocal - htlcs.reduce((sum, { amount }) => sum + amount, 0n);
  const [alice, bob] = [machineOf(sim, "alice"), machineOf(sim, "bob")];
  const active = (from: ActiveCommitment, mine: bigint, theirs: bigint): ActiveCommitment => {
    const figures = { toLocal: msat(mine), toRemote: msat(theirs), feerate: feerate(rate) };
    return { ...from, local: { ...from.local, ...figures }, remote: { ...from.remote, ...figures } };
  };
  const theirHtlcs = htlcs.map((htlc): Htlc => ({
    ...htlc,
    key: htlc.key ^ 1n,
    offered: !htlc.offered,
    state: htlc.offered ? "RCVD_ADD_ACK_REVOCATION" : "SENT_ADD_ACK_REVOCATION",
  }));
  return {
    alice: {
      channel: alice.channel,
      htlcs,
      active: active(alice.channel.commitments.active[0]!, toLocal, toRemote),
    },
    bob: {
      channel: bob.channel,
      htlcs: theirHtlcs,
      active: active(bob.channel.commitments.active[0]!, toRemote, toLocal),
    },
  };
}

Deno.test("weights, fees and trimmed HTLCs are the same on both sides, and those of the transactions", () => {
  fc.assert(
    fc.property(
      fc.array(arbHtlc, { maxLength: 40 }),
      fc.bigInt(1_000_000_000n, 9_000_000_000n),
      fc.integer({ min: 253, max: 50_000 }),
      (list, toLocal, rate) => {
        const htlcs = htlcsOf(list);
        const { alice, bob } = mirrored(htlcs, toLocal, rate);
        const [a, b] = [
          new Figures(alice.channel, alice.active, [], alice.htlcs),
          new Figures(bob.channel, bob.active, [], bob.htlcs),
        ];
        for (const [mine, theirs] of [["local", "remote"], ["remote", "local"]] as const) {
          assert.equal(a[mine].untrimmed, b[theirs].untrimmed);
          assert.equal(a.worst.dust[mine], b.worst.dust[theirs]);
          assert.equal(a[mine].sum.local, b[theirs].sum.remote);
          const content = {
            number: 0n,
            toLocal: alice.active.local.toLocal,
            toRemote: alice.active.local.toRemote,
            feerate: feerate(rate),
            htlcs,
          };
          const built = modelCommitment(
            sim.nodes.alice.hsm.terms,
            mine,
            alice.active,
            content,
            sim.nodes.alice.hsm.point(0n),
          );
          assert.equal(built.htlcOutputs.length, a[mine].untrimmed);
          assert.equal(built.trimmed.reduce((sum, { amount }) => sum + amount, 0n), a.worst.dust[mine]);
          assert.equal(built.baseFee, commitmentFee("anchors", feerate(rate), a[mine].untrimmed));
        }
      },
    ),
    { numRuns: 60 },
  );
});

Deno.test("spendable and receivable are exact: that much can be added, one msat more cannot", () => {
  const arb = fc.record({
    list: fc.array(arbHtlc, { maxLength: 12 }),
    toLocal: fc.oneof(
      fc.bigInt(0n, 120_000_000n),
      fc.bigInt(0n, 9_900_000_000n),
    ),
    rate: fc.integer({ min: 253, max: 20_000 }),
    accepted: fc.constantFrom(3, 12, 30),
    inFlight: fc.constantFrom(2_000_000n, 50_000_000_000n),
    exposure: fc.bigInt(0n, 3_000_000n),
    minimum: fc.constantFrom(1n, 1000n, 400_000n),
    ceiling: fc.constantFrom(1000, 50_000),
  });
  const seen = new Set<string>();
  fc.assert(
    fc.property(arb, ({ list, toLocal, rate, accepted, inFlight, exposure, minimum, ceiling }) => {
      const { alice, bob } = mirrored(htlcsOf(list), toLocal, rate);
      for (const { channel: from, htlcs, active } of [alice, bob]) {
        const limits = {
          local: {
            ...from.limits.local,
            maxAcceptedHtlcs: accepted,
            maxHtlcValueInFlight: msat(inFlight),
            htlcMinimum: msat(minimum),
          },
          remote: {
            ...from.limits.remote,
            maxAcceptedHtlcs: accepted,
            maxHtlcValueInFlight: msat(inFlight),
            htlcMinimum: msat(minimum),
          },
        };
        const channel = { ...from, limits };
        const of: LimitsOf = {
          channel,
          active,
          policy: { maxDustExposure: msat(exposure) },
          node: { ...NODE, maxFeerate: feerate(ceiling) },
        };
        const figures = new Figures(channel, active, [], htlcs);
        for (const sender of ["local", "remote"] as const) {
          const most = largestSend(of, figures, sender);
          if (most > 0n) assert.equal(checkSend(of, figures, sender, most), null);
          const why = checkSend(of, figures, sender, msat(most + 1n));
          assert.notEqual(why, null);
          seen.add(`${why}`);
          // And nothing larger either: an HTLC with an output may be possible where dust is not.
          for (const more of [354_000n, 546_000n, 1_000_000n, 5_000_000n]) {
            if (more > most) assert.notEqual(checkSend(of, figures, sender, msat(more)), null);
          }
        }
      }
    }),
    { numRuns: 300 },
  );
  for (
    const why of [
      "amount exceeds the balance above the reserve and the fee",
      "dust exposure is too high",
      "max_accepted_htlcs is reached",
    ]
  ) {
    assert(seen.has(why), why);
  }
});
