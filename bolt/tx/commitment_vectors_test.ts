import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { deriveCommitmentKeys } from "bolt/keys/derive.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import {
  buildCommitment,
  type Commitment,
  type CommitmentHtlc,
  commitmentWitness,
} from "bolt/tx/commitment.ts";
import { htlcTransactions, htlcWitness } from "bolt/tx/htlc.ts";
import { leanCommitment } from "bolt/tx/lean_commitment.ts";
import type { CommitmentFormat } from "bolt/tx/scripts.ts";
import { commitmentSighash, htlcSighash } from "bolt/tx/sighash.ts";
import { ecdsaWitnessItem, SIGHASH_ALL } from "bolt/tx/signature.ts";
import { txidFromDisplay } from "bolt/tx/transaction.ts";
import channel from "tests/data/bolt03/appendix_cf_channel.json" with { type: "json" };
import appendixC from "tests/data/bolt03/appendix_c_static_remotekey.json" with { type: "json" };
import appendixF from "tests/data/bolt03/appendix_f_anchors.json" with { type: "json" };

const KEYS = {
  revocationPubkey: hexToBytes(channel.localRevocationPubkey),
  ownerDelayedPubkey: hexToBytes(channel.localDelayedPubkey),
  ownerHtlcPubkey: hexToBytes(channel.localHtlcPubkey),
  otherHtlcPubkey: hexToBytes(channel.remoteHtlcPubkey),
  otherPaymentPubkey: hexToBytes(channel.remotePaymentBasepoint),
};

const FUNDING_SECRETS = {
  owner: hexToBytes(channel.funding.localPrivkey),
  other: hexToBytes(channel.funding.remotePrivkey),
};
const HTLC_SECRETS = {
  owner: hexToBytes(channel.localHtlcPrivkey),
  other: hexToBytes(channel.remoteHtlcPrivkey),
};

function htlcs(ids: readonly number[]): CommitmentHtlc[] {
  return ids.map((id) => {
    const htlc = channel.htlcs[id]!;
    return {
      id: BigInt(id),
      direction: htlc.direction === "offered" ? "offered" as const : "received" as const,
      amount: msat(htlc.msat),
      paymentHash: sha256(hexToBytes(htlc.preimage)),
      cltvExpiry: htlc.cltvExpiry,
    };
  });
}

interface Case {
  readonly htlcIds: readonly number[];
  readonly localMsat: number;
  readonly remoteMsat: number;
  readonly feeratePerKw: number;
}

function build(format: CommitmentFormat, vector: Case, dustLimitSat: number): Commitment {
  const built = buildCommitment({
    format,
    funding: {
      outpoint: { txid: txidFromDisplay(channel.funding.txid), vout: channel.funding.vout },
      amount: sat(channel.funding.sat),
      ownerPubkey: hexToBytes(channel.funding.localPubkey),
      otherPubkey: hexToBytes(channel.funding.remotePubkey),
    },
    commitmentNumber: BigInt(channel.commitmentNumber),
    obscuringFactor: BigInt(channel.obscuringFactor),
    keys: KEYS,
    toSelfDelay: channel.toSelfDelay,
    dustLimit: sat(dustLimitSat),
    feerate: feerate(vector.feeratePerKw),
    ownerIsOpener: true,
    ownerBalance: msat(vector.localMsat),
    otherBalance: msat(vector.remoteMsat),
    htlcs: htlcs(vector.htlcIds),
  });
  assert(built.ok);
  return built.value;
}

function sign(commitment: Commitment): { owner: Uint8Array; other: Uint8Array } {
  const hash = commitmentSighash(commitment);
  return {
    owner: ecc().signEcdsa(hash, FUNDING_SECRETS.owner),
    other: ecc().signEcdsa(hash, FUNDING_SECRETS.other),
  };
}

function der(signature: Uint8Array): string {
  return bytesToHex(ecdsaWitnessItem(signature, SIGHASH_ALL).slice(0, -1));
}

function signedHex(tx: Transaction, witness: readonly Uint8Array[]): string {
  const signed = tx.clone();
  signed.setWitness(0, [...witness]);
  return signed.toHex();
}

interface SignedHtlc {
  readonly kind: string;
  readonly output: number;
  readonly htlcId: number;
  readonly remoteSignature: string;
  readonly localSignature: string;
  readonly tx: string;
}

function signedHtlcs(commitment: Commitment): SignedHtlc[] {
  const { format } = commitment.spec;
  const built = htlcTransactions(commitment);
  assert(built.ok);
  return built.value.map((htlc) => {
    const signatures = {
      owner: ecc().signEcdsa(htlcSighash(htlc.tx, htlc.spends, format, "owner"), HTLC_SECRETS.owner),
      other: ecc().signEcdsa(htlcSighash(htlc.tx, htlc.spends, format, "other"), HTLC_SECRETS.other),
    };
    const id = Number(htlc.spends.htlc.id);
    const preimage = htlc.kind === "success" ? hexToBytes(channel.htlcs[id]!.preimage) : null;
    return {
      output: htlc.spends.index,
      kind: htlc.kind,
      htlcId: id,
      remoteSignature: der(signatures.other),
      localSignature: der(signatures.owner),
      tx: signedHex(htlc.tx, htlcWitness(htlc, format, signatures, preimage)),
    };
  });
}

Deno.test("BOLT 3 appendix C: keys and obscuring factor follow from the basepoints", () => {
  const keys = deriveCommitmentKeys(
    {
      revocationBasepoint: hexToBytes(channel.localPaymentBasepoint),
      paymentBasepoint: hexToBytes(channel.localPaymentBasepoint),
      delayedPaymentBasepoint: hexToBytes(channel.localDelayedPaymentBasepoint),
      htlcBasepoint: hexToBytes(channel.localHtlcBasepoint),
    },
    {
      revocationBasepoint: hexToBytes(channel.remoteRevocationBasepoint),
      paymentBasepoint: hexToBytes(channel.remotePaymentBasepoint),
      delayedPaymentBasepoint: hexToBytes(channel.remotePaymentBasepoint),
      htlcBasepoint: hexToBytes(channel.remoteHtlcBasepoint),
    },
    hexToBytes(channel.perCommitmentPoint),
  );
  assert(keys.ok);
  assert.deepEqual(keys.value, { ...KEYS, perCommitmentPoint: hexToBytes(channel.perCommitmentPoint) });
  assert.equal(
    obscuringFactor(hexToBytes(channel.localPaymentBasepoint), hexToBytes(channel.remotePaymentBasepoint)),
    BigInt(channel.obscuringFactor),
  );
});

/** Signatures of the other side on the hashes of the lean builder: the commitment's, then those of HTLCs in order. */
function leanSignatures({ spec }: Commitment): string[] {
  const { htlcs } = spec;
  const lean = leanCommitment({
    ...spec,
    htlcs: {
      ids: htlcs.map(({ id }) => id),
      offered: htlcs.map(({ direction }) => direction === "offered"),
      amounts: htlcs.map(({ amount }) => amount),
      paymentHashes: concatBytes(...htlcs.map(({ paymentHash }) => paymentHash)),
      cltvExpiries: htlcs.map(({ cltvExpiry }) => cltvExpiry),
    },
  });
  assert(lean.ok);
  return [
    der(ecc().signEcdsa(lean.value.sighash, FUNDING_SECRETS.other)),
    ...lean.value.htlcs.map(({ sighash }) => der(ecc().signEcdsa(sighash, HTLC_SECRETS.other))),
  ];
}

assert.equal(appendixC.cases.length, 16);
for (const vector of appendixC.cases) {
  Deno.test(`BOLT 3 appendix C: ${vector.name}, feerate ${vector.feeratePerKw}`, () => {
    const commitment = build("static_remotekey", vector, channel.dustLimitSat);
    const signatures = sign(commitment);
    assert.equal(bytesToHex(commitment.fundingScript), channel.funding.script);
    assert.equal(der(signatures.owner), vector.localSignature);
    assert.equal(der(signatures.other), vector.remoteSignature);
    assert.equal(signedHex(commitment.tx, commitmentWitness(commitment, signatures)), vector.tx);
    assert.deepEqual(signedHtlcs(commitment), vector.htlcTxs);
    assert.deepEqual(leanSignatures(commitment), [
      vector.remoteSignature,
      ...vector.htlcTxs.map(({ remoteSignature }) => remoteSignature),
    ]);
    if (vector.baseFeeSat !== undefined) assert.equal(commitment.baseFee, BigInt(vector.baseFeeSat));
    if (vector.feeSat !== undefined) assert.equal(commitment.fee, BigInt(vector.feeSat));
    assert.equal(commitment.htlcOutputs.length + commitment.trimmed.length, vector.htlcIds.length);
  });
}

assert.equal(appendixF.cases.length, 9);
for (const vector of appendixF.cases) {
  Deno.test(`BOLT 3 appendix F: ${vector.name}, feerate ${vector.feeratePerKw}`, () => {
    const commitment = build("anchors", vector, vector.dustLimitSat);
    const signatures = sign(commitment);
    assert.equal(der(signatures.other), vector.remoteSignature);
    assert.equal(signedHex(commitment.tx, commitmentWitness(commitment, signatures)), vector.tx);
    assert.deepEqual(
      signedHtlcs(commitment).map(({ remoteSignature, tx }) => ({ remoteSignature, tx })),
      vector.htlcTxs,
    );
    assert.deepEqual(leanSignatures(commitment), [
      vector.remoteSignature,
      ...vector.htlcTxs.map(({ remoteSignature }) => remoteSignature),
    ]);
  });
}

Deno.test("BOLT 3 appendices C and F: all 33 and 15 HTLC transactions are there", () => {
  const count = (cases: readonly { readonly htlcTxs: readonly unknown[] }[]) =>
    cases.reduce((sum, vector) => sum + vector.htlcTxs.length, 0);
  assert.equal(count(appendixC.cases), 33);
  assert.equal(count(appendixF.cases), 15);
});
