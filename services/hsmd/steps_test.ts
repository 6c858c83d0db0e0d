/** Commitment steps: what is verified, signed, released, remembered; and every refusal. */
import assert from "node:assert/strict";
import { ecc } from "bolt/crypto/ecc.ts";
import { isSecretOfPoint } from "bolt/keys/derive.ts";
import { create } from "@bufbuild/protobuf";
import { type CommitmentStepResult, SignRemoteCommitment0RequestSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { MAX_COMMITMENT_FEERATE } from "./attempt.ts";
import { MAX_HTLCS } from "./commitment.ts";
import {
  askStep,
  bind,
  commitmentRequest,
  contentOf,
  fakeOutpoint,
  fund,
  LockedChannel,
  mirrored,
  openHsm,
  reasonOf,
  refOf,
  register,
  type Side,
  signRemote,
  type TestContent,
  type TestHsm,
  type TestHtlc,
  type TestStep,
  withPair,
} from "./testing.ts";

const FUNDS = { opener: 600_000n, accepter: 400_000n };
const CAPACITY = 1_000_000n;

function htlc(id: number, change: Partial<TestHtlc> = {}): TestHtlc {
  return {
    id: BigInt(id),
    offered: id % 2 === 0,
    amountMsat: 1_000_000n + 1000n * BigInt(id),
    hash: new Uint8Array(32).fill(id + 1),
    expiry: 700_000 + id,
    ...change,
  };
}

/** The opener's view. */
function content(number: bigint, change: Partial<TestContent> = {}): TestContent {
  return { number, toRemoteMsat: 400_000_000n, feerate: 2500, htlcs: [], ...change };
}

type Sides = { readonly a: TestHsm; readonly b: TestHsm };

function test(
  name: string,
  body: (channel: LockedChannel, opener: Side, sides: Sides) => Promise<void>,
): void {
  Deno.test(name, () =>
    withPair(async (pair, sides) => {
      const channel = await LockedChannel.open(pair, FUNDS);
      await body(channel, pair.opener, sides);
    }));
}

/** The refusal of a step that must leave no trace: nothing answered, nothing remembered, served afterwards as before. */
async function refusalOf(side: Side, file: TestHsm["file"], step: TestStep): Promise<string> {
  const before = file.memory.highWater;
  const result = await askStep(side.hsm, step);
  assert.equal(file.memory.highWater, before, `${result.refusal} left a record`);
  assertBare(result);
  return result.refusal;
}

function assertBare(result: CommitmentStepResult): void {
  assert.notEqual(result.refusal, "", "it was not refused");
  assert.deepEqual([result.outpoints, result.sharedSecrets], [[], []]);
  assert.deepEqual([result.perCommitmentSecret.length, result.nextPerCommitmentPoint.length], [0, 0]);
}

test(
  "rounds in both directions: signatures verify, secrets belong to their points, numbers are told",
  async (channel, opener, { a, b }) => {
    const accepter = channel.peer(opener);
    for (let n = 1n; n <= 5n; n++) {
      const state = content(n, { htlcs: Array.from({ length: Number(n) * 3 }, (_, i) => htlc(i)) });
      const ours = await channel.commit(opener, state);
      assert.equal(ours.result.refusal, "", ours.result.detail);
      assert(isSecretOfPoint(ours.result.perCommitmentSecret, channel.point(opener, n - 1n)));
      assert.deepEqual(ours.result.nextPerCommitmentPoint, channel.point(opener, n + 1n));
      assert.equal(ours.signatures.htlcSignatures.length, Number(n) * 3 * 64);
      const theirs = await channel.commit(accepter, mirrored(state, CAPACITY));
      assert.equal(theirs.result.refusal, "", theirs.result.detail);
      assert(isSecretOfPoint(theirs.result.perCommitmentSecret, channel.point(accepter, n - 1n)));
    }
    for (const [side, { hsm }] of [[opener, a], [accepter, b]] as const) {
      const told = await register(hsm, side.channelKeyId, side.paymentKeyIndex, 1n);
      assert.deepEqual(told.outpoints?.map(({ localNumber, remoteNumber }) => [localNumber, remoteNumber]), [
        [5n, 5n],
      ]);
    }
  },
);

test(
  "one step verifies, revokes and signs; asked again, in another order of HTLCs, it says the same",
  async (channel, opener, { a }) => {
    const state = content(1n, { htlcs: [htlc(0), htlc(1), htlc(2), htlc(3)] });
    const signatures = await channel.sign(channel.peer(opener), mirrored(state, CAPACITY));
    const parts = (given: TestContent) => ({
      ...channel.verifying(given, signatures),
      ...channel.signing(opener, given),
    });
    const step = channel.step(opener, parts(state), true);
    const first = await askStep(opener.hsm, step);
    assert.equal(first.refusal, "", first.detail);
    const records = a.file.memory.highWater;
    assert.deepEqual(await askStep(opener.hsm, step), first);
    const turned = { ...state, htlcs: state.htlcs.toReversed() };
    assert.deepEqual(await askStep(opener.hsm, channel.step(opener, parts(turned), true)), first);
    assert.equal(a.file.memory.highWater, records);
  },
);

test(
  "a repeated step is answered alike after a restart, without its terms only once they were told",
  async (channel, opener, { a }) => {
    const { result, request } = await channel.commit(opener, content(1n, { htlcs: [htlc(0)] }));
    const { terms: _, ...bare } = request;
    assert.deepEqual(await askStep(opener.hsm, bare), result);
    await a.file.close();
    await using again = await openHsm(a.directory);
    await bind(again.hsm, { id: a.file.memoryId, highWater: a.file.durableHighWater });
    assert.equal((await askStep(again.hsm, bare)).refusal, "TERMS_UNKNOWN");
    assert.deepEqual(await askStep(again.hsm, request), result);
    assert.deepEqual(await askStep(again.hsm, bare), result);
  },
);

test("unbound, nothing is served", async (channel, opener, { a }) => {
  const { request } = await channel.commit(opener, content(1n));
  await a.file.close();
  await using again = await openHsm(a.directory);
  assert.equal((await askStep(again.hsm, request)).refusal, "NOT_BOUND");
});

test(
  "ECDH points get their secrets, a bad one an empty one, with and without outpoints",
  async (channel, opener) => {
    const secret = new Uint8Array(32).fill(5);
    const ecdhPoints = [ecc().pointFromSecret(secret), new Uint8Array(33), new Uint8Array(0)];
    const shared = ecc().ecdh(secret, opener.keys.nodeId)!;
    const expected = [shared, new Uint8Array(0), new Uint8Array(0)];
    const alone = await askStep(opener.hsm, { stepId: 7n, channel: refOf(opener), ecdhPoints });
    assert.deepEqual([alone.refusal, alone.stepId, alone.sharedSecrets], ["", 7n, expected]);
    const signing = channel.step(opener, channel.signing(opener, content(1n)), false, { ecdhPoints });
    assert.deepEqual((await askStep(opener.hsm, signing)).sharedSecrets, expected);
    const stale = { stepId: 1n, channel: refOf(opener, 2n), ecdhPoints };
    assert.equal((await askStep(opener.hsm, stale)).refusal, "EPOCH_STALE");
  },
);

test(
  "a secret is released again without its signatures, but none before its successor was verified",
  async (channel, opener, { a }) => {
    const alone = channel.step(opener, {}, true);
    assert.equal(await refusalOf(opener, a.file, alone), "BAD_REQUEST");
    const { result } = await channel.commit(opener, content(1n));
    const again = await askStep(opener.hsm, alone);
    assert.deepEqual(again.perCommitmentSecret, result.perCommitmentSecret);
    // Our own signature for the peer says nothing about our commitment.
    await channel.sign(opener, content(1n));
    await channel.sign(opener, content(2n));
    assert.deepEqual((await askStep(opener.hsm, alone)).perCommitmentSecret, result.perCommitmentSecret);
    assert.equal(await refusalOf(opener, a.file, { ...channel.head(opener), revoke: true }), "BAD_REQUEST");
    assert.equal(await refusalOf(opener, a.file, channel.step(opener, {})), "BAD_REQUEST");
  },
);

test("what is verified without revoking releases nothing", async (channel, opener) => {
  const state = content(1n);
  const signatures = await channel.sign(channel.peer(opener), mirrored(state, CAPACITY));
  const result = await askStep(opener.hsm, channel.step(opener, channel.verifying(state, signatures)));
  assert.deepEqual([result.refusal, result.perCommitmentSecret.length], ["", 0]);
});

test("EPOCH_STALE, UNKNOWN_CHANNEL, CONTENT_CONFLICT of terms", async (channel, opener, { a }) => {
  const step = channel.step(opener, channel.signing(opener, content(1n)));
  const refused = (change: Partial<TestStep>) => refusalOf(opener, a.file, { ...step, ...change });
  assert.equal(await refused({ channel: refOf(opener, 0n) }), "EPOCH_STALE");
  assert.equal(await refused({ channel: refOf(opener, 2n) }), "EPOCH_STALE");
  const channelKeyId = new Uint8Array(32).fill(9);
  const { paymentKeyIndex } = opener.keys.channel(channelKeyId);
  assert.equal(await refused({ channel: { channelKeyId, paymentKeyIndex, epoch: 1n } }), "UNKNOWN_CHANNEL");
  const terms = step.terms!;
  for (
    const change of [
      { localToSelfDelay: 1 },
      { remoteDustLimitSat: 355n },
      { localIsOpener: false },
      { remoteHtlcBasepoint: terms.remotePaymentBasepoint },
    ]
  ) assert.equal(await refused({ terms: { ...terms, ...change } }), "CONTENT_CONFLICT");
  assert.equal(await refused({ terms: { ...terms, remoteDustLimitSat: 20_001n } }), "FEE_TOO_HIGH");
  // Terms that were refused are not kept for the steps that name none.
  const { terms: _, ...bare } = step;
  assert.equal(await refusalOf(opener, a.file, bare), "TERMS_UNKNOWN");
  assert.equal((await askStep(opener.hsm, step)).refusal, "");
  assert.equal((await askStep(opener.hsm, bare)).refusal, "");
});

test("another epoch is served after it was registered, the one before no more", async (channel, opener) => {
  await register(opener.hsm, opener.channelKeyId, opener.paymentKeyIndex, 2n);
  const step = channel.step(opener, channel.signing(opener, content(1n)));
  assert.equal((await askStep(opener.hsm, step)).refusal, "EPOCH_STALE");
  assert.equal((await askStep(opener.hsm, { ...step, channel: refOf(opener, 2n) })).refusal, "");
});

Deno.test("NOT_LOCKED: no step before the lock, not even for number 0", () =>
  withPair(async (pair, { a }) => {
    const { funding } = await fund(pair, FUNDS);
    const { opener } = pair;
    const outpoint = { txid: new Uint8Array(funding.outpoint.txid), vout: 0 };
    const head = {
      stepId: 1n,
      channel: refOf(opener),
      terms: commitmentRequest(pair, opener, FUNDS, funding).terms,
    };
    for (const number of [0n, 1n]) {
      const sign = contentOf(content(number), CAPACITY);
      const remotePerCommitmentPoint = pair.accepter.keys.channel(pair.accepter.channelKeyId)
        .perCommitmentPoint(number);
      const outpoints = [{ outpoint, capacitySat: CAPACITY, sign, remotePerCommitmentPoint }];
      assert.equal(await refusalOf(opener, a.file, { ...head, outpoints }), "NOT_LOCKED");
    }
  }));

test(
  "number 0 is the one that was funded: the same signature, and no other content",
  async (channel, opener, { a }) => {
    const again = await channel.sign(opener, content(0n));
    assert.deepEqual(again.signature, channel.first.byOpener);
    const other = channel.step(opener, channel.signing(opener, content(0n, { toRemoteMsat: 399_000_000n })));
    assert.equal(await refusalOf(opener, a.file, other), "CONTENT_CONFLICT");
    const verify = channel.verifying(content(0n), {
      signature: channel.first.byAccepter,
      htlcSignatures: new Uint8Array(0),
    });
    assert.equal((await askStep(opener.hsm, channel.step(opener, verify))).refusal, "");
    assert.equal(await refusalOf(opener, a.file, channel.step(opener, verify, true)), "BAD_REQUEST");
    // SignRemoteCommitment0 and the step speak of the same thing.
    const request = commitmentRequest(channel.pair, opener, FUNDS, channel.first.funding);
    assert.deepEqual(
      await signRemote(opener, create(SignRemoteCommitment0RequestSchema, request)),
      again.signature,
    );
  },
);

test(
  "REVOKED, NOT_LOCKED, CONTENT_CONFLICT: numbers come one after the other, each with one content",
  async (channel, opener, { a }) => {
    const sign = (state: TestContent) =>
      refusalOf(opener, a.file, channel.step(opener, channel.signing(opener, state)));
    const state = content(1n, { htlcs: [htlc(0), htlc(1, { amountMsat: 1000n })] });
    assert.equal(await sign(content(2n)), "NOT_LOCKED");
    await channel.sign(opener, state);
    // What the sighash sees, and what it does not: a trimmed HTLC, an expiry, a millisatoshi, the fee rate by a little.
    const others: TestContent[] = [
      content(1n),
      { ...state, htlcs: [htlc(0)] },
      { ...state, htlcs: [htlc(0), htlc(1, { amountMsat: 1001n })] },
      { ...state, htlcs: [htlc(0), htlc(1, { amountMsat: 1000n, hash: new Uint8Array(32) })] },
      { ...state, htlcs: [htlc(0, { expiry: 1 }), state.htlcs[1]!] },
      { ...state, htlcs: [htlc(0, { id: 4n }), state.htlcs[1]!] },
      { ...state, toRemoteMsat: state.toRemoteMsat + 1n },
      { ...state, feerate: 2501 },
    ];
    for (const other of others) assert.equal(await sign(other), "CONTENT_CONFLICT");
    assert.equal(await sign(content(3n)), "NOT_LOCKED");
    await channel.sign(opener, content(2n));
    assert.equal(await sign(state), "REVOKED");
    assert.equal(await sign(content(0n)), "REVOKED");
  },
);

test(
  "our side's numbers, too: verified contents are fixed, older and later ones refused",
  async (channel, opener, { a }) => {
    const accepter = channel.peer(opener);
    const [one, two] = [content(1n, { htlcs: [htlc(0)] }), content(2n)];
    const signed = await channel.sign(accepter, mirrored(one, CAPACITY));
    const next = await channel.sign(accepter, mirrored(two, CAPACITY));
    const verify = (state: TestContent, signatures = signed) =>
      refusalOf(opener, a.file, channel.step(opener, channel.verifying(state, signatures), true));
    assert.equal(await verify(two, next), "NOT_LOCKED");
    assert.equal(
      (await askStep(opener.hsm, channel.step(opener, channel.verifying(one, signed), true))).refusal,
      "",
    );
    assert.equal(await verify(content(1n)), "CONTENT_CONFLICT");
    assert.equal(
      (await askStep(opener.hsm, channel.step(opener, channel.verifying(two, next), true))).refusal,
      "",
    );
    assert.equal(await verify(one), "REVOKED");
  },
);

test(
  "BAD_SIGNATURE: each signature counts, their number too, high s is refused, and nothing else of the step happens",
  async (channel, opener, { a }) => {
    const state = content(1n, { htlcs: [htlc(0), htlc(1), htlc(2)] });
    const good = await channel.sign(channel.peer(opener), mirrored(state, CAPACITY));
    const flip = (bytes: Uint8Array, at: number) => bytes.map((byte, i) => i === at ? byte ^ 1 : byte);
    const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
    const s = BigInt(`0x${good.signature.slice(32).toHex()}`);
    const highS = Uint8Array.of(
      ...good.signature.slice(0, 32),
      ...Uint8Array.fromHex((order - s).toString(16).padStart(64, "0")),
    );
    const bad = [
      { ...good, signature: flip(good.signature, 40) },
      { ...good, signature: highS },
      { ...good, signature: new Uint8Array(0) },
      { ...good, htlcSignatures: flip(good.htlcSignatures, 5) },
      { ...good, htlcSignatures: flip(good.htlcSignatures, 64 + 5) },
      { ...good, htlcSignatures: flip(good.htlcSignatures, 128 + 63) },
      { ...good, htlcSignatures: good.htlcSignatures.subarray(64) },
      { ...good, htlcSignatures: good.htlcSignatures.subarray(1) },
      { ...good, htlcSignatures: new Uint8Array(4 * 64) },
    ];
    const ecdhPoints = [opener.keys.nodeId];
    for (const signatures of bad) {
      const parts = { ...channel.verifying(state, signatures), ...channel.signing(opener, state) };
      const step = channel.step(opener, parts, true, { ecdhPoints });
      assert.equal(await refusalOf(opener, a.file, step), "BAD_SIGNATURE");
    }
    // Good signatures for another state than the one that is named.
    const other = { ...state, toRemoteMsat: state.toRemoteMsat + 1_000_000n };
    const step = channel.step(opener, channel.verifying(other, good), true);
    assert.equal(await refusalOf(opener, a.file, step), "BAD_SIGNATURE");
    assert.equal(
      (await askStep(opener.hsm, channel.step(opener, channel.verifying(state, good), true))).refusal,
      "",
    );
  },
);

test(
  "a good first half of a step is not remembered when its second half is refused",
  async (channel, opener, { a }) => {
    const state = content(1n);
    const good = await channel.sign(channel.peer(opener), mirrored(state, CAPACITY));
    const parts = { ...channel.verifying(state, good), ...channel.signing(opener, content(2n)) };
    assert.equal(await refusalOf(opener, a.file, channel.step(opener, parts, true)), "NOT_LOCKED");
  },
);

test(
  "BALANCE_MISMATCH, FEE_TOO_HIGH, NOT_MIRRORED, ZERO_OUTPOINT, REVOKED outpoint, BAD_REQUEST",
  async (channel, opener, { a }) => {
    const refused = (parts: object, more: Partial<TestStep> = {}) =>
      refusalOf(opener, a.file, channel.step(opener, parts, false, more));
    const state = content(1n, { htlcs: [htlc(0)] });
    const good = channel.signing(opener, state);
    const changed = (change: Partial<typeof good.sign>) =>
      refused({ ...good, sign: { ...good.sign, ...change } });
    assert.equal(await changed({ toLocalMsat: good.sign.toLocalMsat + 1n }), "BALANCE_MISMATCH");
    assert.equal(await changed({ toRemoteMsat: (1n << 64n) - 1n }), "BALANCE_MISMATCH");
    assert.equal(await refused({ ...good, capacitySat: CAPACITY + 1n }), "BALANCE_MISMATCH");
    assert.equal(await refused({ ...good, capacitySat: 1n << 60n }), "BAD_REQUEST");
    assert.equal(await changed({ feeratePerkw: MAX_COMMITMENT_FEERATE + 1 }), "FEE_TOO_HIGH");
    assert.equal(await changed({ number: 1n << 48n }), "BAD_REQUEST");
    assert.equal(await changed({ htlcIds: [0n, 1n] }), "BAD_REQUEST");
    assert.equal(await changed({ htlcPaymentHashes: new Uint8Array(33) }), "BAD_REQUEST");
    assert.equal(await changed({ htlcCltvExpiry: [500_000_000] }), "BAD_REQUEST");
    const twice = contentOf(content(1n, { htlcs: [htlc(0), htlc(0)] }), CAPACITY);
    assert.equal(await refused({ ...good, sign: twice }), "BAD_REQUEST");
    const many = Array.from({ length: MAX_HTLCS + 1 }, (_, i) => htlc(i, { amountMsat: 1n }));
    assert.equal(await refused(channel.signing(opener, content(1n, { htlcs: many }))), "BAD_REQUEST");
    const first = contentOf(content(0n, { htlcs: [htlc(0)] }), CAPACITY);
    assert.equal(await refused({ ...good, sign: first }), "BAD_REQUEST");
    assert.equal(await refused({ ...good, remotePerCommitmentPoint: new Uint8Array(33) }), "BAD_REQUEST");
    assert.equal(await refused({ ...good, remotePerCommitmentPoint: new Uint8Array(32) }), "BAD_REQUEST");
    const second = {
      ...channel.signing(opener, content(0n)),
      remotePerCommitmentPoint: channel.point(opener, 1n),
    };
    assert.equal(await refused(second), "BAD_REQUEST");

    const zero = { txid: new Uint8Array(32), vout: 0 };
    assert.equal(await refused({ ...good, outpoint: zero }), "ZERO_OUTPOINT");
    assert.equal(await refused({ ...good, outpoint: fakeOutpoint("sibling") }), "REVOKED");
    assert.equal(await refused({ ...good, outpoint: { txid: new Uint8Array(31), vout: 0 } }), "BAD_REQUEST");
    const [only] = channel.step(opener, good).outpoints!;
    assert.equal(await refused(good, { outpoints: [only!, only!] }), "BAD_REQUEST");

    const signatures = await channel.sign(channel.peer(opener), mirrored(state, CAPACITY));
    for (
      const change of [{ amountMsat: 999_999n }, { expiry: 1 }, { hash: new Uint8Array(32) }] as Partial<
        TestHtlc
      >[]
    ) {
      const other = content(1n, { htlcs: [htlc(0, change)] });
      const parts = { ...channel.verifying(state, signatures), ...channel.signing(opener, other) };
      assert.equal(await refused(parts), "NOT_MIRRORED");
    }
    // One commitment may be ahead of the other.
    const ahead = content(1n, { htlcs: [htlc(0), htlc(2), htlc(1)] });
    const parts = { ...channel.verifying(state, signatures), ...channel.signing(opener, ahead) };
    assert.equal((await askStep(opener.hsm, channel.step(opener, parts, true))).refusal, "");
  },
);

test("another channel's outpoint is refused", async (channel, opener, { a }) => {
  const other = fakeOutpoint("other");
  a.file.memory.fundings.set(`${other.txid.toHex()}:0`, "another channel");
  const step = channel.step(opener, { ...channel.signing(opener, content(1n)), outpoint: other });
  assert.equal(await refusalOf(opener, a.file, step), "CONTENT_CONFLICT");
});

test(
  "per-commitment points of numbers to come may be asked for: only they prove that both stores are old",
  async (channel, opener) => {
    await channel.commit(opener, content(1n));
    const { channelKeyId } = opener;
    const point = (number: bigint) => () =>
      opener.hsm.getPerCommitmentPoint({
        $typeName: "arcus.hsmd.v1.GetPerCommitmentPointRequest",
        channelKeyId,
        number,
      });
    assert.deepEqual(point(2n)().point, channel.point(opener, 2n));
    assert.deepEqual(point(40n)().point, channel.point(opener, 40n));
    assert.equal(await reasonOf(point(1n << 48n)), "BAD_REQUEST");
  },
);
