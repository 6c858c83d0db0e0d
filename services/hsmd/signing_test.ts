import assert from "node:assert/strict";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { decodeWitness } from "bolt/tx/witness.ts";
import { fund, withPair } from "./testing.ts";

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
