import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { p2wsh } from "bolt/tx/scripts.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import { feerate, sat, weight } from "bolt/units.ts";
import type { TxSignatures } from "bolt/wire/messages.ts";
import {
  checkTxSignatures,
  finalizeTx,
  type SignaturesFailure,
  signaturesFailureText,
} from "bolt/interactive/signatures.ts";
import {
  CHANNEL_ID,
  coin,
  coinScript,
  converse,
  OPEN_SCRIPT,
  prevtxOf,
  secret,
  session,
  signInput,
} from "bolt/interactive/testing.ts";
import type { CompletedTx, PlannedInput, SessionParams, Side } from "bolt/interactive/types.ts";

const CHANGE = coinScript("p2wpkh", 50);
/** Serial ids: ours 2 (P2WPKH), 6 (P2TR), 8 (P2WSH); the peer's 1 (P2TR), 3 (P2WPKH). */
const OURS: readonly PlannedInput[] = [
  coin(1, 300_000n),
  coin(2, 70_000n, "p2tr"),
  coin(3, 50_000n, "p2wsh"),
];
const THEIRS: readonly PlannedInput[] = [coin(11, 80_000n, "p2tr"), coin(12, 60_000n)];
const KINDS = { 2: "p2wpkh", 6: "p2tr", 8: "p2wsh", 1: "p2tr", 3: "p2wpkh" } as const;
const SEEDS = { 2: 1, 6: 2, 8: 3, 1: 11, 3: 12 } as const;

/** What both sides agreed on, as the initiator sees it. */
function agreed(changes: Partial<SessionParams> = {}, peer: Partial<SessionParams> = {}): CompletedTx {
  const outcome = converse(
    session({
      role: "initiator",
      contributions: { local: sat(200_000), remote: sat(100_000) },
      inputs: OURS,
      outputs: [{ amount: sat(200_000), script: CHANGE }],
      serialIds: { type: "given", ids: [2n, 6n, 8n, 10n, 12n] },
      ...changes,
    }),
    session({
      role: "accepter",
      contributions: { local: sat(100_000), remote: sat(200_000) },
      inputs: THEIRS,
      serialIds: { type: "given", ids: [1n, 3n] },
      ...peer,
    }),
  );
  assert(outcome.initiator.completed !== null && outcome.initiator.phase === "completed");
  assert.equal(outcome.accepter.phase, "completed");
  return outcome.initiator.completed;
}

function isKnown(id: number): id is keyof typeof KINDS {
  return id in KINDS;
}

/** A side's good witnesses. */
function stacks(tx: CompletedTx, side: Side, flag?: number): Uint8Array[][] {
  return tx.inputs.flatMap((input, index) => {
    const id = Number(input.serialId);
    assert(isKnown(id));
    return input.side === side ? [signInput(tx, index, KINDS[id], SEEDS[id], flag)] : [];
  });
}

function message(tx: CompletedTx, witnesses: readonly (readonly Uint8Array[])[]): TxSignatures {
  return {
    type: "tx_signatures",
    channel_id: CHANNEL_ID,
    txid: tx.txid,
    witnesses: witnesses.map(encodeWitness),
  };
}

const TX = agreed();

Deno.test("good signatures of both sides, and the transaction that they complete", () => {
  const ours = checkTxSignatures(TX, "local", message(TX, stacks(TX, "local")));
  const theirs = checkTxSignatures(TX, "remote", message(TX, stacks(TX, "remote")));
  assert(ours.ok && theirs.ok);
  assert.equal(ours.value.needsConsensusCheck, true, "one of ours is a script");
  assert.equal(theirs.value.needsConsensusCheck, false);
  const final = finalizeTx(TX, ours.value.witnesses, theirs.value.witnesses);
  assert(final.ok);
  const tx = Transaction.fromBuffer(final.value.tx);
  assert.deepEqual(tx.getHash(false), TX.txid);
  assert.equal(tx.weight(), final.value.weight);
  assert.deepEqual(tx.ins.map((input) => input.witness.length), [1, 2, 2, 1, 1]);
  assert(final.value.feerate >= TX.feerate);
});

Deno.test("a 64 byte key path signature is SIGHASH_ALL too", () => {
  const short = stacks(TX, "remote");
  short[0] = signInput(TX, 0, "p2tr", 11, Transaction.SIGHASH_DEFAULT);
  assert.equal(short[0][0]?.length, 64);
  assert(checkTxSignatures(TX, "remote", message(TX, short)).ok);
  // But not the signature for one form in the other.
  const longer = [[Uint8Array.of(...short[0][0]!, 1)], short[1]!];
  const refused = checkTxSignatures(TX, "remote", message(TX, longer));
  assert(!refused.ok && refused.error.type === "witness_bad_signature");
});

/** An agreed transaction in which the peer's second input is a P2WSH of this script, paid for as 107 weight. */
function scripted(script: Uint8Array, rate = 1000): CompletedTx {
  const seed = 30;
  const input = {
    ...coin(seed, 60_000n),
    prevtx: prevtxOf(seed, [{ amount: 60_000n, script: p2wsh(script) }]),
    script: p2wsh(script),
  };
  const change = 80_000n + 60_000n - 100_000n - 666n;
  return agreed({ feerate: feerate(rate) }, {
    feerate: feerate(rate),
    inputs: [THEIRS[0]!, input],
    outputs: [{ amount: sat(change), script: CHANGE }],
    serialIds: { type: "given", ids: [1n, 3n, 5n] },
  });
}

const LONG_SCRIPT = new Uint8Array(200).fill(0x61);
const good = () => stacks(TX, "remote");
const SCENARIOS: Readonly<Record<SignaturesFailure["type"], readonly (() => [CompletedTx, TxSignatures])[]>> =
  {
    signatures_wrong_channel: [() => [TX, { ...message(TX, good()), channel_id: sha256(CHANNEL_ID) }]],
    signatures_wrong_txid: [() => [TX, { ...message(TX, good()), txid: TX.txid.toReversed() }]],
    witness_count: [
      () => [TX, message(TX, good().slice(1))],
      () => [TX, message(TX, [...good(), good()[0]!])],
      () => [TX, message(TX, [])],
    ],
    witness_malformed: [
      () => [TX, {
        ...message(TX, good()),
        witnesses: [Uint8Array.of(...encodeWitness(good()[0]!), 0), encodeWitness(good()[1]!)],
      }],
      () => [TX, { ...message(TX, good()), witnesses: [new Uint8Array(), encodeWitness(good()[1]!)] }],
    ],
    witness_refused: [
      () => [TX, message(TX, [[], good()[1]!])],
      // Looks like DER, but r is zero.
      () => [
        TX,
        message(TX, [good()[0]!, [Uint8Array.of(0x30, 6, 2, 1, 0, 2, 1, 1, 1), good()[1]![1]!]]),
      ],
      // In the wrong order.
      () => [TX, message(TX, good().toReversed())],
      // The flags that let others change the transaction.
      ...[2, 3, 0x81, 0x82, 0x83].map((flag) => (): [CompletedTx, TxSignatures] => [
        TX,
        message(TX, [good()[0]!, signInput(TX, 2, "p2wpkh", 12, flag)]),
      ]),
      () => [TX, message(TX, [signInput(TX, 0, "p2tr", 11, 0x81), good()[1]!])],
    ],
    witness_bad_signature: [
      // Another key's, for both kinds.
      () => [TX, message(TX, [signInput(TX, 0, "p2tr", 12), good()[1]!])],
      () => [TX, message(TX, [good()[0]!, signInput(TX, 2, "p2wpkh", 13)])],
      // Right signature, key of another hash.
      () => [TX, message(TX, [good()[0]!, [good()[1]![0]!, ecc().pointFromSecret(secret(1))]])],
      // Another input's.
      () => [TX, message(TX, [good()[0]!, signInput(TX, 1, "p2wpkh", 12)])],
    ],
    witness_weight_too_large: [() => {
      // A fee that pays for it does not make it relayed; the other side's witnesses are as planned.
      const tx: CompletedTx = {
        ...TX,
        inputs: TX.inputs.map((i) => i.side === "local" ? { ...i, witnessWeight: weight(200_000) } : i),
      };
      return [tx, message(tx, good())];
    }],
    witness_feerate_too_low: [() => {
      const tx = scripted(LONG_SCRIPT);
      return [tx, message(tx, [stacks(tx, "remote")[0]!, [LONG_SCRIPT]])];
    }],
  };

for (const [type, scenarios] of Object.entries(SCENARIOS)) {
  Deno.test(`tx_signatures refused: ${type}`, () => {
    for (const [i, scenario] of scenarios.entries()) {
      const [tx, signatures] = scenario();
      const checked = checkTxSignatures(tx, "remote", signatures);
      assert(!checked.ok, `scenario ${i} passed`);
      assert.equal(checked.error.type, type, `scenario ${i}`);
      assert.match(signaturesFailureText(checked.error), /^[\x20-\x7e]+$/);
    }
  });
}

Deno.test("a script witness within the fee passes here and is left to the consensus engine", () => {
  const tx = scripted(OPEN_SCRIPT);
  const checked = checkTxSignatures(tx, "remote", message(tx, [stacks(tx, "remote")[0]!, [OPEN_SCRIPT]]));
  assert(checked.ok);
  assert.equal(checked.value.needsConsensusCheck, true);
});

Deno.test("an ECDSA signature one byte longer than counted does not cost its sender the channel", () => {
  // The peer pays exactly for 107; signatures are 70 to 72 bytes with the flag, by luck.
  for (let seed = 12; seed < 30; seed++) {
    const fee = 271n + 124n;
    const tx = agreed({}, {
      inputs: [coin(seed, 200_000n)],
      outputs: [{ amount: sat(100_000n - fee), script: CHANGE }],
    });
    const index = tx.inputs.findIndex((input) => input.side === "remote");
    assert.equal(tx.fees.remote, fee);
    assert(checkTxSignatures(tx, "remote", message(tx, [signInput(tx, index, "p2wpkh", seed)])).ok);
  }
});

Deno.test("finalizing wants a witness for each input, and a transaction that a session made", () => {
  const witnesses = { local: stacks(TX, "local"), remote: stacks(TX, "remote") };
  for (const side of ["local", "remote"] as const) {
    const missing = { ...witnesses, [side]: witnesses[side].slice(1) };
    const short = finalizeTx(TX, missing.local, missing.remote);
    assert(!short.ok);
    assert.deepEqual(short.error, { type: "finalize_witness_count", side });
  }
  const corrupt: readonly CompletedTx[] = [
    { ...TX, txid: sha256(TX.txid) },
    { ...TX, locktime: 121 },
    { ...TX, fundingOutputIndex: 7 },
    { ...TX, outputs: TX.outputs.slice(1) },
  ];
  for (const tx of corrupt) {
    const refused = finalizeTx(tx, witnesses.local, witnesses.remote);
    assert(!refused.ok);
    assert.equal(refused.error.type, "finalize_corrupt_transaction");
  }
});
