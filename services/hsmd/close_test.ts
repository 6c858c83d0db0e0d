/** What ends a channel: a close that both sign, and our own commitment for broadcast. */
import assert from "node:assert/strict";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { parseDerWithSighash } from "bolt/crypto/der.ts";
import { fundingScript } from "bolt/tx/scripts.ts";
import { makeTransaction } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import {
  NameDestinationsRequestSchema,
  SignClosingRequestSchema,
  SignOwnCommitmentRequestSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import {
  askStep,
  bind,
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
  termsOf,
  type TestContent,
  type TestHsm,
  withPair,
} from "./testing.ts";

const FUNDS = { opener: 600_000n, accepter: 400_000n };
const CAPACITY = 1_000_000n;
const KEY = { change: false, index: 40 };
const PEER_SCRIPT = Uint8Array.of(0, 20, ...new Uint8Array(20).fill(4));

function content(number: bigint, change: Partial<TestContent> = {}): TestContent {
  return { number, toRemoteMsat: 400_000_000n, feerate: 2500, htlcs: [], ...change };
}

const HTLC = {
  id: 0n,
  offered: true,
  amountMsat: 50_000_000n,
  hash: new Uint8Array(32).fill(1),
  expiry: 700_000,
};

function test(
  name: string,
  body: (channel: LockedChannel, opener: Side, a: TestHsm) => Promise<void>,
): void {
  Deno.test(name, () =>
    withPair(async (pair, { a }) => {
      await body(await LockedChannel.open(pair, FUNDS), pair.opener, a);
    }));
}

type ClosingInit = MessageInitShape<typeof SignClosingRequestSchema>;

/** A close that pays the opener `ours` and the accepter `theirs`; 0: no output. */
function closeOf(channel: LockedChannel, opener: Side, ours: bigint, theirs: bigint) {
  const script = opener.keys.wallet(KEY).script;
  const outputs = [{ amount: sat(ours), script }, { amount: sat(theirs), script: PEER_SCRIPT }];
  return makeTransaction({
    locktime: 0,
    inputs: [{ outpoint: channel.outpoint, sequence: 0xffffffff }],
    outputs: outputs.filter(({ amount }) => amount > 0n),
  });
}

function closeRequest(
  channel: LockedChannel,
  opener: Side,
  tx: Transaction,
  state: TestContent,
) {
  return {
    channel: refOf(opener),
    terms: termsOf(channel.pair, opener),
    outpoint: channel.outpoint,
    capacitySat: CAPACITY,
    local: contentOf(state, CAPACITY),
    tx: new Uint8Array(tx.toBuffer()),
    localOutput: 0,
    key: KEY,
    maxFeeSat: 1000n,
  };
}

function signClose(side: Side, request: ClosingInit) {
  return side.hsm.signClosing(create(SignClosingRequestSchema, request));
}

function closeSighash(channel: LockedChannel, tx: Transaction): Uint8Array {
  const { opener, accepter } = channel.pair;
  const script = fundingScript(opener.points.fundingPubkey, accepter.points.fundingPubkey);
  return tx.hashForWitnessV0(0, script, CAPACITY, Transaction.SIGHASH_ALL);
}

test("a close is signed, with the peer's signature checked or without one", async (channel, opener) => {
  const { accepter } = channel.pair;
  await channel.commit(opener, content(1n));
  const tx = closeOf(channel, opener, 599_500n, 400_000n);
  const request = closeRequest(channel, opener, tx, content(1n));
  const { signature } = await signClose(opener, request);
  assert(ecc().verifyEcdsa(closeSighash(channel, tx), signature, opener.points.fundingPubkey));
  assert.deepEqual((await signClose(opener, request)).signature, signature);
  const remoteSignature = ecc().signEcdsa(
    closeSighash(channel, tx),
    accepter.keys.channel(accepter.channelKeyId).fundingSecret,
  );
  assert.deepEqual((await signClose(opener, { ...request, remoteSignature })).signature, signature);
  for (const bad of [signature, new Uint8Array(64), new Uint8Array(63)]) {
    assert.equal(await reasonOf(signClose(opener, { ...request, remoteSignature: bad })), "BAD_SIGNATURE");
  }
});

test("what a close must be: every refusal", async (channel, opener, { file }) => {
  const state = content(1n);
  await channel.commit(opener, state);
  const good = closeRequest(channel, opener, closeOf(channel, opener, 599_500n, 400_000n), state);
  const before = file.memory.highWater;
  const refused = async (change: object) => {
    const reason = await reasonOf(signClose(opener, { ...good, ...change } as ClosingInit));
    assert.equal(file.memory.highWater, before);
    return reason;
  };
  const tx = (ours: bigint, theirs: bigint) =>
    new Uint8Array(closeOf(channel, opener, ours, theirs).toBuffer());
  assert.equal(await refused({ tx: tx(598_999n, 400_000n) }), "FEE_TOO_HIGH");
  assert.equal(await refused({ tx: tx(300_000n, 400_000n), maxFeeSat: 1n << 63n }), "FEE_TOO_HIGH");
  assert.equal(await refused({ tx: tx(600_000n, 400_001n) }), "BALANCE_MISMATCH");
  assert.equal(await refused({ tx: tx(0n, 400_000n), localOutput: undefined }), "BALANCE_MISMATCH");
  assert.equal(await refused({ localOutput: 1 }), "UNNAMED_OUTPUT");
  assert.equal(await refused({ localOutput: 2 }), "BAD_REQUEST");
  assert.equal(await refused({ key: { change: false, index: 41 } }), "UNNAMED_OUTPUT");
  assert.equal(await refused({ key: undefined }), "UNNAMED_OUTPUT");
  assert.equal(await refused({ key: { change: false, index: 0x80000000 } }), "BAD_REQUEST");
  assert.equal(await refused({ channel: refOf(opener, 2n) }), "EPOCH_STALE");
  assert.equal(await refused({ terms: { ...good.terms, localDustLimitSat: 400n } }), "CONTENT_CONFLICT");
  assert.equal(
    await refused({ local: contentOf(content(1n, { feerate: 2501 }), CAPACITY) }),
    "CONTENT_CONFLICT",
  );
  assert.equal(await refused({ local: contentOf(content(0n), CAPACITY) }), "REVOKED");
  assert.equal(await refused({ local: contentOf(content(2n), CAPACITY) }), "BAD_SIGNATURE");
  assert.equal(await refused({ capacitySat: CAPACITY + 1n }), "BALANCE_MISMATCH");
  const other = fakeOutpoint("other");
  assert.equal(await refused({ outpoint: other }), "BAD_REQUEST");
  const script = opener.keys.wallet(KEY).script;
  const spends = (...outpoints: typeof other[]) =>
    new Uint8Array(
      makeTransaction({
        locktime: 0,
        inputs: outpoints.map((outpoint) => ({ outpoint, sequence: 0 })),
        outputs: [{ amount: sat(599_500), script }],
      }).toBuffer(),
    );
  assert.equal(await refused({ outpoint: other, tx: spends(other) }), "REVOKED");
  assert.equal(await refused({ tx: spends(channel.outpoint, other) }), "BAD_REQUEST");
  const three = makeTransaction({
    locktime: 0,
    inputs: [{ outpoint: channel.outpoint, sequence: 0 }],
    outputs: [599_500, 1000, 1000].map((amount) => ({ amount: sat(amount), script })),
  });
  assert.equal(await refused({ tx: new Uint8Array(three.toBuffer()) }), "UNNAMED_OUTPUT");
  await signClose(opener, good);
});

test("no close while an HTLC is there", async (channel, opener) => {
  const state = content(1n, { htlcs: [HTLC] });
  await channel.commit(opener, state);
  const tx = closeOf(channel, opener, 550_000n, 400_000n);
  assert.equal(
    await reasonOf(signClose(opener, closeRequest(channel, opener, tx, state))),
    "BALANCE_MISMATCH",
  );
});

test(
  "a close pays a script that lightningd named; a side that has dust only may go without output",
  async (channel, opener) => {
    const state = content(1n, { toRemoteMsat: 999_500_000n });
    await channel.commit(opener, state);
    const bare = makeTransaction({
      locktime: 0,
      inputs: [{ outpoint: channel.outpoint, sequence: 0 }],
      outputs: [{ amount: sat(999_000), script: PEER_SCRIPT }],
    });
    const request = closeRequest(channel, opener, bare, state);
    const { localOutput: _, key: __, ...dust } = request;
    await signClose(opener, dust);
    const named = { ...request, key: undefined, localOutput: 0, maxFeeSat: 0n } as unknown as ClosingInit;
    assert.equal(await reasonOf(signClose(opener, named)), "UNNAMED_OUTPUT");
    await opener.hsm.nameDestinations(create(NameDestinationsRequestSchema, {
      channelKeyId: opener.channelKeyId,
      outputs: [{ amountSat: 0n, script: PEER_SCRIPT }],
    }));
    await signClose(opener, named);
  },
);

Deno.test("NOT_LOCKED: no close before the lock", () =>
  withPair(async (pair) => {
    const { funding } = await fund(pair, FUNDS);
    const { opener } = pair;
    const outpoint = { txid: new Uint8Array(funding.outpoint.txid), vout: 0 };
    const tx = makeTransaction({
      locktime: 0,
      inputs: [{ outpoint, sequence: 0 }],
      outputs: [{ amount: sat(599_500), script: opener.keys.wallet(KEY).script }],
    });
    const request = {
      channel: refOf(opener),
      terms: termsOf(pair, opener),
      outpoint,
      capacitySat: CAPACITY,
      local: contentOf(content(0n), CAPACITY),
      tx: new Uint8Array(tx.toBuffer()),
      localOutput: 0,
      key: KEY,
      maxFeeSat: 1000n,
    };
    assert.equal(await reasonOf(signClose(opener, request)), "NOT_LOCKED");
  }));

test(
  "after a close was signed no newer commitment follows, the newest is answered, and broadcast is possible",
  async (channel, opener) => {
    const state = content(1n);
    const { request, result } = await channel.commit(opener, state);
    const next = await channel.sign(channel.peer(opener), mirrored(content(2n), CAPACITY));
    await signClose(
      opener,
      closeRequest(channel, opener, closeOf(channel, opener, 599_500n, 400_000n), state),
    );
    assert.deepEqual(await askStep(opener.hsm, request), result);
    const verify = channel.step(opener, channel.verifying(content(2n), next), true);
    assert.equal((await askStep(opener.hsm, verify)).refusal, "FROZEN");
    const sign = channel.step(opener, channel.signing(opener, content(1n)));
    assert.equal((await askStep(opener.hsm, sign)).refusal, "FROZEN");
    await signOwn(channel, opener, state, request.outpoints![0]!.remoteSignature!);
  },
);

function ownRequest(channel: LockedChannel, side: Side, state: TestContent, remoteSignature: Uint8Array) {
  return {
    channel: refOf(side),
    terms: termsOf(channel.pair, side),
    outpoint: channel.outpoint,
    capacitySat: CAPACITY,
    local: contentOf(state, CAPACITY),
    remoteSignature,
  };
}

async function signOwn(
  channel: LockedChannel,
  side: Side,
  state: TestContent,
  remoteSignature: Uint8Array,
  change: object = {},
): Promise<Transaction> {
  const request = { ...ownRequest(channel, side, state, remoteSignature), ...change };
  const { tx } = await side.hsm.signOwnCommitment(create(SignOwnCommitmentRequestSchema, request));
  return Transaction.fromBuffer(tx);
}

test("our own commitment comes complete: both signatures are good for it", async (channel, opener) => {
  const { accepter } = channel.pair;
  const state = content(1n, { htlcs: [HTLC] });
  const { signatures } = await channel.commit(opener, state);
  const tx = await signOwn(channel, opener, state, signatures.signature);
  const [input] = tx.ins;
  assert.deepEqual([tx.ins.length, tx.outs.length, input!.index], [1, 5, 0]);
  const [empty, first, second, script] = input!.witness;
  assert.equal(empty!.length, 0);
  const hash = tx.hashForWitnessV0(0, script!, CAPACITY, Transaction.SIGHASH_ALL);
  const keys = [script!.slice(2, 35), script!.slice(36, 69)];
  assert.deepEqual(
    new Set(keys.map((key) => key.toHex())),
    new Set([opener, accepter].map(({ points }) => points.fundingPubkey.toHex())),
  );
  for (const [i, item] of [first, second].entries()) {
    const parsed = parseDerWithSighash(item!);
    assert(parsed.ok);
    assert(ecc().verifyEcdsa(hash, parsed.value.signature, keys[i]!));
  }
});

test(
  "it freezes: no secret, no signature, no close, no other commitment; asked again it is the same",
  async (channel, opener, a) => {
    const state = content(1n);
    const { request, signatures } = await channel.commit(opener, state);
    const next = await channel.sign(channel.peer(opener), mirrored(content(2n), CAPACITY));
    const tx = await signOwn(channel, opener, state, signatures.signature);
    const frozen = async (side: Side) => {
      const steps = [
        request,
        channel.step(side, {}, true),
        channel.step(side, channel.signing(side, content(1n))),
        channel.step(side, channel.verifying(content(2n), next), true),
        { ...channel.head(side), ecdhPoints: [side.keys.nodeId] },
      ];
      for (const step of steps) assert.equal((await askStep(side.hsm, step)).refusal, "FROZEN");
      const close = closeRequest(channel, side, closeOf(channel, side, 599_500n, 400_000n), state);
      assert.equal(await reasonOf(signClose(side, close)), "FROZEN");
      assert.deepEqual((await signOwn(channel, side, state, signatures.signature)).toHex(), tx.toHex());
      assert.equal(await reasonOf(signOwn(channel, side, content(2n), next.signature)), "BAD_SIGNATURE");
    };
    await frozen(opener);
    await a.file.close();
    await using again = await openHsm(a.directory);
    await bind(again.hsm, { id: a.file.memoryId, highWater: a.file.durableHighWater });
    await frozen({ ...opener, hsm: again.hsm });
    const told = await register(again.hsm, opener.channelKeyId, opener.paymentKeyIndex, 2n);
    assert.deepEqual([told.frozen, told.refused], [true, false]);
  },
);

test(
  "only the newest commitment that was verified is signed, with its signature, in the registered epoch",
  async (channel, opener, { file }) => {
    const [one, two] = [content(1n), content(2n, { toRemoteMsat: 300_000_000n })];
    const first = await channel.commit(opener, one);
    const second = await channel.commit(opener, two);
    const before = file.memory.highWater;
    const refused = async (state: TestContent, signature: Uint8Array, change: object = {}) => {
      const reason = await reasonOf(signOwn(channel, opener, state, signature, change));
      assert.equal(file.memory.highWater, before);
      return reason;
    };
    const good = second.signatures.signature;
    assert.equal(await refused(one, first.signatures.signature), "REVOKED");
    assert.equal(await refused(two, first.signatures.signature), "BAD_SIGNATURE");
    assert.equal(await refused(two, new Uint8Array(0)), "BAD_SIGNATURE");
    assert.equal(await refused(content(2n), good), "CONTENT_CONFLICT");
    const third = await channel.sign(channel.peer(opener), mirrored(content(3n), CAPACITY));
    assert.equal(await refused(content(3n), third.signature), "BAD_SIGNATURE");
    assert.equal(await refused(two, good, { channel: refOf(opener, 2n) }), "EPOCH_STALE");
    assert.equal(await refused(two, good, { outpoint: fakeOutpoint("other") }), "REVOKED");
    await signOwn(channel, opener, two, good);
  },
);

Deno.test("before the lock every funding attempt's commitment 0 may be broadcast: nothing of it is revoked", () =>
  withPair(async (pair) => {
    const first = await fund(pair, { ...FUNDS, locktime: 1 });
    const second = await fund(pair, { ...FUNDS, locktime: 2 });
    for (const { funding, byAccepter } of [first, second]) {
      const request = {
        channel: refOf(pair.opener),
        terms: termsOf(pair, pair.opener),
        outpoint: { txid: new Uint8Array(funding.outpoint.txid), vout: 0 },
        capacitySat: CAPACITY,
        local: contentOf(content(0n), CAPACITY),
        remoteSignature: byAccepter,
      };
      const { tx } = await pair.opener.hsm.signOwnCommitment(
        create(SignOwnCommitmentRequestSchema, request),
      );
      assert.deepEqual(Transaction.fromBuffer(tx).ins[0]!.hash.toHex(), request.outpoint.txid.toHex());
    }
  }));
