import assert from "node:assert/strict";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { decodeWitness } from "bolt/tx/witness.ts";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { ArcusError, Code } from "common/grpc/errors.ts";
import {
  SignFundingAttemptRequestSchema,
  SignRemoteCommitment0RequestSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import {
  attemptRequest,
  bind,
  commitmentRequest,
  EPOCH,
  fund,
  openHsm,
  register,
  signAttempt,
  signRemote,
  withPair,
} from "./testing.ts";

const FUNDS = { opener: 600_000n, accepter: 400_000n };

Deno.test("two hsmds fund a channel: each takes the other's commitment signature, inputs are signed with SIGHASH_ALL", () =>
  withPair(async (pair) => {
    const { funding, witnesses } = await fund(pair, FUNDS);
    assert.deepEqual(Object.keys(witnesses), ["0", "1"]);
    for (const [index, bytes] of Object.entries(witnesses)) {
      const stack = decodeWitness(bytes);
      assert(stack.ok);
      const [signature] = stack.value;
      assert.equal(stack.value.length, 1);
      assert.equal(signature!.length, 65);
      assert.equal(signature![64], Transaction.SIGHASH_ALL);
      const hash = funding.tx.hashForWitnessV1(
        Number(index),
        funding.prevouts.map(({ script }) => script),
        funding.prevouts.map(({ amountSat }) => amountSat),
        Transaction.SIGHASH_ALL,
      );
      const outputKey = funding.prevouts[Number(index)]!.script.slice(2);
      assert(ecc().verifySchnorr(hash, signature!.slice(0, 64), outputKey));
    }
  }));

Deno.test("signatures are the same after a restart, and the memory refuses the same things", () =>
  withPair(async (pair, { a }) => {
    const { opener } = pair;
    const first = await fund(pair, FUNDS);
    await a.file.close();
    await using again = await openHsm(a.directory);
    const side = { ...opener, hsm: again.hsm };
    const restarted = { ...pair, opener: side };
    await bind(again.hsm, { id: a.file.memoryId, highWater: a.file.durableHighWater });
    const commitment = commitmentRequest(restarted, side, FUNDS, first.funding);
    assert.deepEqual(await signRemote(side, commitment), first.byOpener);
    const request = attemptRequest(restarted, side, FUNDS, first.funding, first.byAccepter);
    assert.deepEqual((await signAttempt(side, request))[0], first.witnesses[0]);
    // The registered epoch and what was signed came back with it: RegisterEpochs tells lightningd.
    const told = await register(again.hsm, opener.channelKeyId, opener.paymentKeyIndex, EPOCH);
    assert.equal(told.refused, false);
    assert.deepEqual(told.outpoints, [{
      outpoint: { txid: new Uint8Array(first.funding.outpoint.txid), vout: 0 },
      localNumber: 0n,
      remoteNumber: 0n,
      inputsSigned: true,
    }]);
  }));

/** Bytes with a few changed, cut or doubled. */
const MUTATION = fc.tuple(
  fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
  fc.option(fc.nat(), { freq: 4 }),
);

function mutate(bytes: Uint8Array, [changes, cut]: [[number, number][], number | null]): Uint8Array {
  const copy = bytes.slice(0, cut === null ? bytes.length : cut % bytes.length);
  for (const [at, value] of changes) if (copy.length > 0) copy[at % copy.length] = value;
  return copy;
}

Deno.test("good requests, mutated, are refused by name or give what the good one gives", () =>
  withPair(async (pair) => {
    const { opener } = pair;
    const { funding, byOpener, byAccepter, witnesses } = await fund(pair, FUNDS);
    const commitment = toBinary(
      SignRemoteCommitment0RequestSchema,
      create(SignRemoteCommitment0RequestSchema, commitmentRequest(pair, opener, FUNDS, funding)),
    );
    const attempt = toBinary(
      SignFundingAttemptRequestSchema,
      create(SignFundingAttemptRequestSchema, attemptRequest(pair, opener, FUNDS, funding, byAccepter)),
    );
    const named = [Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION];
    const outcome = async <T>(call: () => Promise<T>): Promise<T | null> => {
      try {
        return await call();
      } catch (error) {
        assert(error instanceof ArcusError && named.includes(error.code), String(error));
        return null;
      }
    };
    const parsed = <T>(parse: () => T): T | null => {
      try {
        return parse();
      } catch {
        return null;
      }
    };
    await fc.assert(
      fc.asyncProperty(MUTATION, async (mutation) => {
        const asked = parsed(() =>
          fromBinary(SignRemoteCommitment0RequestSchema, mutate(commitment, mutation))
        );
        if (asked !== null) {
          const answer = await outcome(() => opener.hsm.signRemoteCommitment0(asked));
          // Another funding transaction is another outpoint, which has a content of its own.
          const same = asked.attempt?.fundingTx.toHex() === new Uint8Array(funding.fundingTx).toHex();
          if (answer !== null && same) assert.deepEqual(answer.signature, byOpener);
        }
        const wanted = parsed(() => fromBinary(SignFundingAttemptRequestSchema, mutate(attempt, mutation)));
        if (wanted !== null) {
          const answer = await outcome(() => opener.hsm.signFundingAttempt(wanted));
          if (answer?.witnesses[0] !== undefined && wanted.prevouts.length === 2) {
            // A prevout that was lied about makes another signature, and one that is void.
            const honest = wanted.prevouts.every(({ amountSat, script }, i) =>
              amountSat === funding.prevouts[i]!.amountSat &&
              script.toHex() === funding.prevouts[i]!.script.toHex()
            );
            assert.equal(answer.witnesses[0].toHex() === witnesses[0]!.toHex(), honest);
          }
        }
      }),
      { numRuns: 600 },
    );
  }));
