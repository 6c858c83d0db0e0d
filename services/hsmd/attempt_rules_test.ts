/** Design section 4 and the opening attacks, each against two real hsmds: what a wrong dualopend or peer may try. */
import assert from "node:assert/strict";
import { sat } from "bolt/units.ts";
import { makeTransaction } from "bolt/tx/transaction.ts";
import { schnorr } from "@noble/curves/secp256k1.js";
import { create } from "@bufbuild/protobuf";
import {
  AcceptMemoryRequestSchema,
  NameDestinationsRequestSchema,
  SignWalletInputsRequestSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { SEED_FILE } from "./open.ts";
import { ACCEPT_CONFIRMATION } from "./rules.ts";
import {
  attemptRequest,
  bind,
  commitmentRequest,
  EPOCH,
  fakeOutpoint,
  fund,
  type Funding,
  fundingOf,
  type Funds,
  lock,
  openChannel,
  openHsm,
  type Pair,
  reasonOf,
  refOf,
  register,
  type Side,
  signAttempt,
  signRemote,
  temporaryDirectory,
  termsOf,
  withPair,
} from "./testing.ts";

const FUNDS: Funds = { opener: 600_000n, accepter: 400_000n };

/** Signs both commitments; the attempt is then ready for the opener's one call. */
async function prepared(pair: Pair, funds: Funds = FUNDS) {
  const funding = fundingOf(pair, funds);
  await signRemote(pair.opener, commitmentRequest(pair, pair.opener, funds, funding));
  const signature = await signRemote(pair.accepter, commitmentRequest(pair, pair.accepter, funds, funding));
  return { funding, request: attemptRequest(pair, pair.opener, funds, funding, signature) };
}

/** A funding transaction with other outputs. */
function withOutputs(
  funding: Funding,
  change: (outputs: { amount: ReturnType<typeof sat>; script: Uint8Array }[]) => void,
): Funding {
  const outputs = funding.tx.outs.map(({ value, script }) => ({ amount: sat(value), script }));
  change(outputs);
  const inputs = funding.outpoints.map((outpoint) => ({ outpoint, sequence: 0xfffffffd }));
  const tx = makeTransaction({ locktime: 0, inputs, outputs });
  return { ...funding, tx, fundingTx: tx.toBuffer(), outpoint: { txid: tx.getHash(), vout: 0 } };
}

Deno.test("one content: the same commitment 0 again gives the same signature, another is refused, whatever the epoch", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const funding = fundingOf(pair, FUNDS);
    const request = commitmentRequest(pair, opener, FUNDS, funding);
    const first = await signRemote(opener, request);
    assert.deepEqual(await signRemote(opener, request), first);
    // Same outpoint, one satoshi moved to the peer: the sum is the same, so only memory can tell.
    const moved = {
      ...request,
      attempt: { ...request.attempt, localContributionSat: 599_999n, remoteContributionSat: 400_001n },
    };
    assert.equal(await reasonOf(signRemote(opener, moved)), "CONTENT_CONFLICT");
    await register(opener.hsm, opener.channelKeyId, opener.paymentKeyIndex, EPOCH + 1n);
    const later = { ...moved, channel: refOf(opener, EPOCH + 1n) };
    assert.equal(await reasonOf(signRemote(opener, later)), "CONTENT_CONFLICT");
    assert.deepEqual(await signRemote(opener, { ...request, channel: refOf(opener, EPOCH + 1n) }), first);
  }));

Deno.test("terms are fixed at their first use", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const funding = fundingOf(pair, FUNDS);
    await signRemote(opener, commitmentRequest(pair, opener, FUNDS, funding));
    const sibling = fundingOf(pair, { ...FUNDS, locktime: 1 });
    const request = commitmentRequest(pair, opener, FUNDS, sibling);
    const terms = termsOf(pair, opener);
    for (
      const change of [
        { localToSelfDelay: 2016 },
        { remoteToSelfDelay: 1 },
        { commitmentFeeratePerkw: 253 },
        { localDustLimitSat: 1000n },
        { localIsOpener: false },
        { remotePaymentBasepoint: terms.remoteHtlcBasepoint },
      ]
    ) {
      const changed = { ...request, terms: { ...terms, ...change } };
      assert.equal(
        await reasonOf(signRemote(opener, changed)),
        "CONTENT_CONFLICT",
        JSON.stringify(Object.keys(change)),
      );
    }
    await signRemote(opener, request);
  }));

Deno.test("epochs only rise, and only the registered one is served", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const { hsm, channelKeyId, paymentKeyIndex } = opener;
    const { funding, request } = await prepared(pair);
    assert.equal((await register(hsm, channelKeyId, paymentKeyIndex, 7n)).refused, false);
    const lower = await register(hsm, channelKeyId, paymentKeyIndex, 6n);
    assert.deepEqual([lower.refused, lower.refusal, lower.epoch], [true, "EPOCH_STALE", 7n]);
    assert.equal((await register(hsm, channelKeyId, paymentKeyIndex, 7n)).refused, false);
    for (const epoch of [0n, EPOCH, 6n, 8n]) {
      const channel = refOf(opener, epoch);
      assert.equal(await reasonOf(signAttempt(opener, { ...request, channel })), "EPOCH_STALE");
      const commitment = { ...commitmentRequest(pair, opener, FUNDS, funding), channel };
      assert.equal(await reasonOf(signRemote(opener, commitment)), "EPOCH_STALE");
      assert.equal(await reasonOf(lock(opener, funding.outpoint, epoch)), "EPOCH_STALE");
    }
    await signAttempt(opener, { ...request, channel: refOf(opener, 7n) });
  }));

Deno.test("a channel that was never drawn here is refused", () =>
  withPair(async (pair, { a }) => {
    const stranger: Side = { ...pair.opener, channelKeyId: new Uint8Array(32).fill(9) };
    const { paymentKeyIndex } = a.keys.channel(stranger.channelKeyId);
    const side = { ...stranger, paymentKeyIndex };
    const answer = await register(side.hsm, side.channelKeyId, paymentKeyIndex, 1n);
    assert.deepEqual([answer.refused, answer.refusal], [true, "UNKNOWN_CHANNEL"]);
    const funding = fundingOf(pair, FUNDS);
    const request = { ...commitmentRequest(pair, pair.opener, FUNDS, funding), channel: refOf(side) };
    assert.equal(await reasonOf(signRemote(pair.opener, request)), "UNKNOWN_CHANNEL");
  }));

Deno.test("the attempt's one call refuses a signature of the peer that is not good for our commitment 0", () =>
  withPair(async (pair) => {
    const { request } = await prepared(pair);
    const good = request.remoteSignature!;
    const flipped = good.slice();
    flipped[40]! ^= 1;
    // The same signature with a high s is as good to a curve, and no good to a relaying node.
    const order = schnorr.Point.Fn.ORDER;
    const s = order - BigInt("0x" + good.slice(32).toHex());
    const highS = Uint8Array.of(
      ...good.slice(0, 32),
      ...Uint8Array.fromHex(s.toString(16).padStart(64, "0")),
    );
    const own = await signRemote(pair.opener, {
      channel: request.channel!,
      terms: request.terms!,
      attempt: request.attempt!,
    });
    for (const remoteSignature of [flipped, highS, own, new Uint8Array(64), new Uint8Array(64).fill(255)]) {
      assert.equal(
        await reasonOf(signAttempt(pair.opener, { ...request, remoteSignature })),
        "BAD_SIGNATURE",
      );
    }
    assert.equal(
      await reasonOf(signAttempt(pair.opener, { ...request, remoteSignature: good.slice(1) })),
      "BAD_LENGTH",
    );
    await signAttempt(pair.opener, request);
  }));

Deno.test("a peer's signature for another attempt, other balances, another fee rate or swapped roles is not good", () =>
  withPair(async (pair, { b }) => {
    const { accepter } = pair;
    const { request, funding } = await prepared(pair);
    const refused = async (what: string, signature: Uint8Array) =>
      assert.equal(
        await reasonOf(signAttempt(pair.opener, { ...request, remoteSignature: signature })),
        "BAD_SIGNATURE",
        what,
      );
    const other = fundingOf(pair, { ...FUNDS, locktime: 1 });
    await refused("attempt", await signRemote(accepter, commitmentRequest(pair, accepter, FUNDS, other)));
    // A peer may sign whatever it likes: here its hsmd forgot, so that it signs the same outpoint again.
    const forgetful = async (change: (request: ReturnType<typeof commitmentRequest>) => void) => {
      await using directory = await temporaryDirectory();
      await Deno.copyFile(`${b.directory}/${SEED_FILE}`, `${directory.path}/${SEED_FILE}`);
      await using fresh = await openHsm(directory.path);
      await fresh.hsm.acceptMemory(create(AcceptMemoryRequestSchema, { confirmation: ACCEPT_CONFIRMATION }));
      await bind(fresh.hsm);
      await register(fresh.hsm, accepter.channelKeyId, accepter.paymentKeyIndex, EPOCH);
      const asked = commitmentRequest(pair, accepter, FUNDS, funding);
      change(asked);
      return await signRemote({ ...accepter, hsm: fresh.hsm }, asked);
    };
    await refused(
      "balances",
      await forgetful(({ attempt }) => {
        attempt.localContributionSat += 1n;
        attempt.remoteContributionSat -= 1n;
      }),
    );
    await refused("fee rate", await forgetful(({ terms }) => terms.commitmentFeeratePerkw = 2501));
    await refused("roles", await forgetful(({ terms }) => terms.localIsOpener = true));
    await refused("delay", await forgetful(({ terms }) => terms.remoteToSelfDelay += 1));
    await signAttempt(pair.opener, { ...request, remoteSignature: await forgetful(() => {}) });
  }));

Deno.test("number 0: the state must be the one that was signed for the peer, mirrored", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const funding = fundingOf(pair, FUNDS);
    const signature = await signRemote(pair.accepter, commitmentRequest(pair, pair.accepter, FUNDS, funding));
    const request = attemptRequest(pair, opener, FUNDS, funding, signature);
    // Before the peer's commitment 0 was signed at all.
    assert.equal(await reasonOf(signAttempt(opener, request)), "NOT_MIRRORED");
    await signRemote(opener, commitmentRequest(pair, opener, FUNDS, funding));
    // So little moved that the fee bound does not see it.
    const attempt = { ...request.attempt, localContributionSat: 599_500n, remoteContributionSat: 400_500n };
    assert.equal(await reasonOf(signAttempt(opener, { ...request, attempt })), "NOT_MIRRORED");
    const swapped = { ...request, terms: { ...request.terms, localIsOpener: false } };
    assert.equal(await reasonOf(signAttempt(opener, swapped)), "CONTENT_CONFLICT");
    await signAttempt(opener, request);
  }));

Deno.test("number 0: a contribution that is less than our inputs give is a fee that is too high", () =>
  withPair(async (pair) => {
    const { opener, accepter } = pair;
    // A wrong dualopend and the peer agree from the start that 100,000 sat of ours are the peer's.
    const funding = fundingOf(pair, FUNDS);
    const given: Funds = { opener: 500_000n, accepter: 500_000n };
    await signRemote(opener, commitmentRequest(pair, opener, given, funding));
    const signature = await signRemote(accepter, commitmentRequest(pair, accepter, given, funding));
    const request = attemptRequest(pair, opener, given, funding, signature);
    assert.equal(await reasonOf(signAttempt(opener, request)), "FEE_TOO_HIGH");
    // hsmd has bounds of its own, whatever the caller allows.
    assert.equal(await reasonOf(signAttempt(opener, { ...request, maxFeeSat: 1n << 60n })), "FEE_TOO_HIGH");
  }));

Deno.test("number 0: the fee bound is exact", () =>
  withPair(async (pair) => {
    const { request } = await prepared(pair);
    assert.equal(await reasonOf(signAttempt(pair.opener, { ...request, maxFeeSat: 999n })), "FEE_TOO_HIGH");
    await signAttempt(pair.opener, { ...request, maxFeeSat: 1000n });
  }));

Deno.test("number 0: the commitment fee rate is bounded", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const funding = fundingOf(pair, FUNDS);
    const request = commitmentRequest(pair, opener, FUNDS, funding);
    const terms = { ...request.terms, commitmentFeeratePerkw: 100_001 };
    assert.equal(await reasonOf(signRemote(opener, { ...request, terms })), "FEE_TOO_HIGH");
    await signRemote(opener, { ...request, terms: { ...terms, commitmentFeeratePerkw: 100_000 } });
  }));

Deno.test("number 0: a dust limit that leaves our balance to miners is refused", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const request = commitmentRequest(pair, opener, FUNDS, fundingOf(pair, FUNDS));
    for (const change of [{ localDustLimitSat: 20_001n }, { remoteDustLimitSat: 700_000n }]) {
      const terms = { ...request.terms, ...change };
      assert.equal(await reasonOf(signRemote(opener, { ...request, terms })), "FEE_TOO_HIGH");
    }
    await signRemote(opener, { ...request, terms: { ...request.terms, localDustLimitSat: 20_000n } });
  }));

Deno.test("number 0: funding output at another index, of another amount or script, twice, or missing", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const funding = fundingOf(pair, FUNDS);
    const refused = async (what: string, funding: Funding, outputIndex = 0) => {
      const request = commitmentRequest(pair, opener, FUNDS, funding);
      const attempt = { ...request.attempt, outputIndex };
      assert.equal(await reasonOf(signRemote(opener, { ...request, attempt })), "BALANCE_MISMATCH", what);
    };
    await refused("other index", funding, 1);
    await refused("index out of range", funding, 3);
    await refused("smaller", withOutputs(funding, (outputs) => outputs[0]!.amount = sat(999_999n)));
    await refused("larger", withOutputs(funding, (outputs) => outputs[0]!.amount = sat(1_000_001n)));
    await refused("other script", withOutputs(funding, (outputs) => outputs[0]!.script = outputs[1]!.script));
    await refused("twice", withOutputs(funding, (outputs) => outputs.push({ ...outputs[0]! })));
    await refused("missing", withOutputs(funding, (outputs) => outputs.shift()));
    await signRemote(opener, commitmentRequest(pair, opener, FUNDS, funding));
  }));

Deno.test("number 0: our inputs are ours, and what counts as change is ours", () =>
  withPair(async (pair) => {
    const { request } = await prepared(pair);
    const refused = async (change: object, reason: string) =>
      assert.equal(await reasonOf(signAttempt(pair.opener, { ...request, ...change })), reason);
    await refused({ inputs: { 1: { change: false, index: 5 } } }, "BAD_REQUEST");
    await refused({ inputs: { 0: { change: false, index: 4 } } }, "BAD_REQUEST");
    await refused({ inputs: { 2: { change: false, index: 3 } } }, "BAD_REQUEST");
    await refused({ inputs: { 0: { change: false, index: 0xffffffff } } }, "BAD_REQUEST");
    // The peer's change, called ours.
    await refused(
      { change: { 1: { change: true, index: 1 }, 2: { change: true, index: 2 } } },
      "UNNAMED_OUTPUT",
    );
    await refused({ change: { 9: { change: true, index: 1 } } }, "BAD_REQUEST");
    await refused({ change: {} }, "FEE_TOO_HIGH");
    await refused({ prevouts: request.prevouts!.slice(1) }, "BAD_REQUEST");
    await signAttempt(pair.opener, request);
  }));

Deno.test("number 0: an output to others counts only if lightningd named it, not because dualopend says so", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    // 50,000 sat of ours go to the peer's own change output.
    const funding = withOutputs(fundingOf(pair, FUNDS), (outputs) => {
      outputs[1]!.amount = sat(outputs[1]!.amount - 50_000n);
      outputs[2]!.amount = sat(50_000n);
    });
    await signRemote(opener, commitmentRequest(pair, opener, FUNDS, funding));
    const signature = await signRemote(pair.accepter, commitmentRequest(pair, pair.accepter, FUNDS, funding));
    const request = attemptRequest(pair, opener, FUNDS, funding, signature);
    assert.equal(await reasonOf(signAttempt(opener, request)), "FEE_TOO_HIGH");
    const claimed = { ...request, destinations: [2] };
    assert.equal(await reasonOf(signAttempt(opener, claimed)), "UNNAMED_OUTPUT");
    const { script } = funding.tx.outs[2]!;
    const name = (amountSat: bigint) =>
      opener.hsm.nameDestinations(create(NameDestinationsRequestSchema, {
        channelKeyId: opener.channelKeyId,
        outputs: [{ amountSat, script }],
      }));
    await name(49_999n);
    assert.equal(await reasonOf(signAttempt(opener, claimed)), "UNNAMED_OUTPUT");
    await name(50_000n);
    assert.equal(await reasonOf(signAttempt(opener, { ...claimed, destinations: [2, 2] })), "BAD_REQUEST");
    assert.equal(await reasonOf(signAttempt(opener, { ...claimed, destinations: [1] })), "BAD_REQUEST");
    await signAttempt(opener, claimed);
  }));

Deno.test("number 0: an input that others can malleate is refused, since it changes the txid", () =>
  withPair(async (pair) => {
    const { request } = await prepared(pair);
    const p2pkh = Uint8Array.fromHex(`76a914${"11".repeat(20)}88ac`);
    const prevouts = [request.prevouts![0]!, { amountSat: 500_000n, script: p2pkh }];
    assert.equal(await reasonOf(signAttempt(pair.opener, { ...request, prevouts })), "MALLEABLE_INPUT");
  }));

Deno.test("number 0: an attempt without an input of ours passes the same call, which then only verifies", () =>
  withPair(async (pair) => {
    const { opener, accepter } = pair;
    const funds: Funds = { opener: 600_000n, accepter: 0n };
    const funding = fundingOf(pair, funds);
    const signature = await signRemote(opener, commitmentRequest(pair, opener, funds, funding));
    await signRemote(accepter, commitmentRequest(pair, accepter, funds, funding));
    const request = {
      ...attemptRequest(pair, accepter, funds, funding, signature),
      inputs: {},
      change: {},
    };
    assert.equal(await reasonOf(lock(accepter, funding.outpoint)), "BAD_SIGNATURE");
    const bad = { ...request, remoteSignature: new Uint8Array(64).fill(1) };
    assert.equal(await reasonOf(signAttempt(accepter, bad)), "BAD_SIGNATURE");
    assert.equal(await reasonOf(lock(accepter, funding.outpoint)), "BAD_SIGNATURE");
    assert.deepEqual(await signAttempt(accepter, request), {});
    await lock(accepter, funding.outpoint);
  }));

Deno.test("verifying first and signing later gives the witnesses only then", () =>
  withPair(async (pair) => {
    const { request } = await prepared(pair);
    assert.deepEqual(await signAttempt(pair.opener, { ...request, signInputs: false }), {});
    const first = await signAttempt(pair.opener, request);
    assert.deepEqual(Object.keys(first), ["0"]);
    assert.deepEqual(await signAttempt(pair.opener, request), first);
  }));

Deno.test("an attempt that does not double-spend an earlier one is refused: both could confirm", () =>
  withPair(async (pair) => {
    await fund(pair, FUNDS);
    const apart = { ...FUNDS, openerCoin: "second", accepterCoin: "other" };
    const funding = fundingOf(pair, apart);
    await signRemote(pair.opener, commitmentRequest(pair, pair.opener, apart, funding));
    const signature = await signRemote(pair.accepter, commitmentRequest(pair, pair.accepter, apart, funding));
    const request = attemptRequest(pair, pair.opener, apart, funding, signature);
    assert.equal(await reasonOf(signAttempt(pair.opener, request)), "CONTENT_CONFLICT");
    await fund(pair, { ...FUNDS, openerCoin: "second" });
  }));

Deno.test("our inputs of an attempt are signed together: not one after the other, each for the whole contribution", () =>
  withPair(async (pair, { a }) => {
    const { opener, accepter } = pair;
    const base = fundingOf(pair, FUNDS);
    // The opener owns both inputs; the accepter's share is paid by its second one.
    const script = a.keys.wallet({ change: false, index: 8 }).script;
    const funding = { ...base, prevouts: [base.prevouts[0]!, { amountSat: 500_000n, script }] };
    await signRemote(opener, commitmentRequest(pair, opener, FUNDS, funding));
    const signature = await signRemote(accepter, commitmentRequest(pair, accepter, FUNDS, funding));
    const request = attemptRequest(pair, opener, FUNDS, funding, signature);
    await signAttempt(opener, request);
    const second = { ...request, inputs: { 1: { change: false, index: 8 } }, change: {} };
    assert.equal(await reasonOf(signAttempt(opener, second)), "CONTENT_CONFLICT");
    const both = { ...request, inputs: { ...request.inputs, ...second.inputs } };
    assert.equal(await reasonOf(signAttempt(opener, both)), "FEE_TOO_HIGH");
  }));

Deno.test("one funding outpoint serves one channel", () =>
  withPair(async (pair, { a, b }) => {
    const funding = fundingOf(pair, FUNDS);
    await signRemote(pair.opener, commitmentRequest(pair, pair.opener, FUNDS, funding));
    // Another channel whose terms give the same script is impossible; the rule is tested on memory in rules_test.ts.
    const again = await openChannel(a, b);
    const other = fundingOf(again, FUNDS);
    await signRemote(again.opener, commitmentRequest(again, again.opener, FUNDS, other));
    const crossed = {
      ...commitmentRequest(again, again.opener, FUNDS, other),
      attempt: {
        fundingTx: new Uint8Array(funding.fundingTx),
        outputIndex: 0,
        localContributionSat: FUNDS.opener,
        remoteContributionSat: FUNDS.accepter,
      },
    };
    assert.equal(await reasonOf(signRemote(again.opener, crossed)), "BALANCE_MISMATCH");
  }));

Deno.test("an all-zero outpoint is refused, as funding and as input", () =>
  withPair(async (pair) => {
    assert.equal(await reasonOf(lock(pair.opener, { txid: new Uint8Array(32), vout: 0 })), "ZERO_OUTPOINT");
    const funding = fundingOf(pair, FUNDS);
    const tx = funding.tx.clone();
    tx.ins[0]!.hash = new Uint8Array(32);
    const request = commitmentRequest(pair, pair.opener, FUNDS, { ...funding, fundingTx: tx.toBuffer() });
    assert.equal(await reasonOf(signRemote(pair.opener, request)), "ZERO_OUTPOINT");
  }));

Deno.test("the lock is one-way, and ends all siblings", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const first = await fund(pair, FUNDS);
    const second = await fund(pair, { ...FUNDS, locktime: 1 });
    assert.equal(await reasonOf(lock(opener, fakeOutpoint("unknown"))), "BAD_SIGNATURE");
    await lock(opener, second.funding.outpoint);
    await lock(opener, second.funding.outpoint);
    assert.equal(await reasonOf(lock(opener, first.funding.outpoint)), "CONTENT_CONFLICT");
    // The sibling's commitment 0, known or new, and its inputs: never again.
    const known = commitmentRequest(pair, opener, FUNDS, first.funding);
    assert.equal(await reasonOf(signRemote(opener, known)), "REVOKED");
    const request = attemptRequest(pair, opener, FUNDS, first.funding, first.byAccepter);
    assert.equal(await reasonOf(signAttempt(opener, request)), "REVOKED");
    const third = fundingOf(pair, { ...FUNDS, locktime: 2 });
    assert.equal(
      await reasonOf(signRemote(opener, commitmentRequest(pair, opener, FUNDS, third))),
      "REVOKED",
    );
    // The locked one is repeated byte for byte, as reestablish needs.
    const again = await signRemote(opener, commitmentRequest(pair, opener, FUNDS, second.funding));
    assert.deepEqual(again, second.byOpener);
  }));

/** A transaction that spends the opener's funding input to its own wallet. */
function walletSpend(pair: Pair, funding: Funding) {
  const { keys } = pair.opener;
  const tx = makeTransaction({
    locktime: 0,
    inputs: [{ outpoint: funding.outpoints[0]!, sequence: 0xfffffffd }],
    outputs: [{ amount: sat(699_000n), script: keys.wallet({ change: true, index: 9 }).script }],
  });
  return {
    tx: new Uint8Array(tx.toBuffer()),
    prevouts: [funding.prevouts[0]!],
    inputs: { 0: { change: false, index: 3 } },
    change: { 0: { change: true, index: 9 } },
    maxFeeSat: 1000n,
  };
}

Deno.test("signpsbt for a funding attempt: nothing but its one call signs its inputs", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const { funding } = await prepared(pair);
    const sign = (request: object) =>
      opener.hsm.signWalletInputs(create(SignWalletInputsRequestSchema, request));
    const attempt = {
      tx: new Uint8Array(funding.fundingTx),
      prevouts: funding.prevouts,
      inputs: { 0: { change: false, index: 3 } },
      change: { 1: { change: true, index: 1 } },
      destinations: [0, 2],
      maxFeeSat: 1000n,
      foreignInputs: true,
    };
    assert.equal(await reasonOf(sign(attempt)), "INPUT_BOUND");
    assert.equal(await reasonOf(sign({ ...attempt, doubleSpend: true })), "INPUT_BOUND");
    // Until our signature is out the coin is free: an aborted open does not hold it.
    await sign(walletSpend(pair, funding));
  }));

Deno.test("an input that an attempt has our signature on is spent elsewhere only on purpose, and not once it is locked", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const { funding } = await fund(pair, FUNDS);
    const spend = walletSpend(pair, funding);
    const sign = (doubleSpend: boolean) =>
      opener.hsm.signWalletInputs(create(SignWalletInputsRequestSchema, { ...spend, doubleSpend }));
    assert.equal(await reasonOf(sign(false)), "INPUT_BOUND");
    await sign(true);
    await lock(opener, funding.outpoint);
    assert.equal(await reasonOf(sign(true)), "INPUT_BOUND");
  }));
