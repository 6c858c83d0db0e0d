/**
 * hsmd as the channel machine sees it, for tests: real secrets and points, transactions from buildCommitment, and
 * signatures that are hashes of them. It keeps hsmd's rules, and throws where hsmd would refuse.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { generateFromSeed, shachainIndex } from "bolt/keys/shachain.ts";
import { buildCommitment, type Commitment } from "bolt/tx/commitment.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { CommitmentContent, HsmdAnswer, HsmdRequest, LockedChannel, OutpointRequest } from "../types.ts";

const fakeKey = (...parts: readonly Uint8Array[]) =>
  concatBytes(Uint8Array.of(2), sha256(concatBytes(...parts)));

/** What never changes of a channel, for building its commitments. */
export interface ModelTerms {
  readonly channel: Pick<LockedChannel, "opener" | "limits" | "format">;
  /** Names of the two sides, ours first. */
  readonly names: readonly [string, string];
}

/** A commitment as its owner's keys make it; `point` is the owner's of that number. */
export function modelCommitment(
  terms: ModelTerms,
  owner: "local" | "remote",
  { funding, capacity }: Pick<OutpointRequest, "funding" | "capacity">,
  content: CommitmentContent,
  point: Uint8Array,
): Commitment {
  const { channel, names } = terms;
  const [ownerName, otherName] = owner === "local" ? names : [names[1], names[0]];
  const key = (name: string, what: string) => fakeKey(utf8ToBytes(name + what));
  const built = buildCommitment({
    format: channel.format,
    funding: {
      outpoint: funding,
      amount: capacity,
      ownerPubkey: key(ownerName, "funding"),
      otherPubkey: key(otherName, "funding"),
    },
    commitmentNumber: content.number,
    obscuringFactor: 0x1234n,
    keys: {
      revocationPubkey: fakeKey(utf8ToBytes(`${ownerName}revocation`), point),
      ownerDelayedPubkey: fakeKey(utf8ToBytes(`${ownerName}delayed`), point),
      ownerHtlcPubkey: fakeKey(utf8ToBytes(`${ownerName}htlc`), point),
      otherHtlcPubkey: fakeKey(utf8ToBytes(`${otherName}htlc`), point),
      otherPaymentPubkey: key(otherName, "payment"),
    },
    toSelfDelay: 144,
    dustLimit: channel.limits[owner].dustLimit,
    feerate: content.feerate,
    ownerIsOpener: channel.opener === owner,
    ownerBalance: owner === "local" ? content.toLocal : content.toRemote,
    otherBalance: owner === "local" ? content.toRemote : content.toLocal,
    htlcs: content.htlcs.map((htlc) => ({
      id: htlc.id,
      direction: htlc.offered === (owner === "local") ? "offered" : "received",
      amount: htlc.amount,
      paymentHash: htlc.paymentHash,
      cltvExpiry: htlc.cltvExpiry,
    })),
  });
  assert(built.ok, built.ok ? "" : `no commitment: ${built.error.type}`);
  return built.value;
}

function signatureOf(commitment: Commitment): Uint8Array {
  const hash = sha256(commitment.txid);
  return concatBytes(hash, hash);
}

function htlcSignaturesOf(commitment: Commitment): Uint8Array {
  return concatBytes(
    ...commitment.htlcOutputs.map(({ index }) => {
      const hash = sha256(concatBytes(commitment.txid, Uint8Array.of(index & 0xff, index >> 8)));
      return concatBytes(hash, hash);
    }),
  );
}

/** See the file's head. Its memory survives every crash. */
export class ModelHsm {
  readonly terms: ModelTerms;
  readonly #seed: Uint8Array;
  readonly #points = new Map<bigint, Uint8Array>();
  /** Newest verified and signed commitment of each outpoint is one here: txids by number. */
  readonly #verified = new Map<bigint, Uint8Array>();
  readonly #signed = new Map<bigint, Uint8Array>();
  verifiedNumber = 0n;
  signedNumber = 0n;
  /** Secrets that were released: those below. */
  released = 0n;

  constructor(seed: string, terms: ModelTerms) {
    this.#seed = sha256(utf8ToBytes(seed));
    this.terms = terms;
  }

  secret(number: bigint): Uint8Array {
    return generateFromSeed(this.#seed, shachainIndex(number));
  }

  point(number: bigint): Uint8Array {
    let point = this.#points.get(number);
    if (point === undefined) {
      point = ecc().pointFromSecret(this.secret(number));
      this.#points.set(number, point);
    }
    return point;
  }

  /** Answers as hsmd does: verifies first; a bad signature signs and releases nothing. */
  answer(request: HsmdRequest): HsmdAnswer {
    for (const each of request.outpoints) {
      if (each.verify === null) continue;
      const { content, remoteSignature, htlcSignatures } = each.verify;
      const { number } = content;
      assert(number === this.verifiedNumber || number === this.verifiedNumber + 1n, "verify: out of turn");
      const built = modelCommitment(this.terms, "local", each, content, this.point(number));
      const known = this.#verified.get(number);
      assert(known === undefined || sameBytes(known, built.txid), "verify: another content for a number");
      if (number > 0n) {
        const good = sameBytes(signatureOf(built), remoteSignature) &&
          sameBytes(htlcSignaturesOf(built), htlcSignatures);
        if (!good) return { type: "refused", reason: "BAD_SIGNATURE", detail: "" };
      }
      this.#verified.set(number, built.txid);
      this.verifiedNumber = number;
    }
    const outpoints = request.outpoints.map((each) => {
      if (each.sign === null) return { signature: new Uint8Array(0), htlcSignatures: new Uint8Array(0) };
      const { content, perCommitmentPoint } = each.sign;
      const { number } = content;
      assert(number === this.signedNumber || number === this.signedNumber + 1n, "sign: out of turn");
      const built = modelCommitment(this.terms, "remote", each, content, perCommitmentPoint);
      const known = this.#signed.get(number);
      assert(known === undefined || sameBytes(known, built.txid), "sign: another content for a number");
      this.#signed.set(number, built.txid);
      this.signedNumber = number;
      return { signature: signatureOf(built), htlcSignatures: htlcSignaturesOf(built) };
    });
    let secret: Uint8Array | null = null;
    let next: Uint8Array | null = null;
    if (request.revoke) {
      assert(request.outpoints.length > 0 && request.outpoints.every(({ verify }) => verify !== null));
      const number = this.verifiedNumber;
      assert(number > 0n, "revoke: nothing before number 0");
      secret = this.secret(number - 1n);
      next = this.point(number + 1n);
      if (this.released < number) this.released = number;
    }
    return {
      type: "answered",
      outpoints,
      perCommitmentSecret: secret,
      nextPerCommitmentPoint: next,
      sharedSecrets: request.ecdhPoints.map((point) => sha256(point)),
      points: request.pointNumbers.map((number) => this.point(number)),
    };
  }
}
