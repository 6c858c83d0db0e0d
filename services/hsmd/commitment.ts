/** A commitment after lock-in as hsmd recomputes it: from terms and content to what is signed. Pure. */
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";
import { ecc, SIGNATURE_LENGTH } from "bolt/crypto/ecc.ts";
import { MAX_COMMITMENT_NUMBER, obscuringFactor } from "bolt/keys/commitment_number.ts";
import { type Basepoints, deriveCommitmentKeys, derivePrivkey } from "bolt/keys/derive.ts";
import { err, ok, type Result } from "bolt/result.ts";
import type { CommitmentSpec } from "bolt/tx/commitment.ts";
import { type LeanCommitment, leanCommitment, type LeanSpec } from "bolt/tx/lean_commitment.ts";
import { type OutPoint, sameBytes } from "bolt/tx/transaction.ts";
import { feerate, isSat, type Msat, sat } from "bolt/units.ts";
import type { ChannelTerms, CommitmentContent } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { checkTerms, MAX_COMMITMENT_FEERATE, remoteBasepoints, termsDigest } from "./attempt.ts";
import type { ChannelKeyTree } from "./keys.ts";
import { type Refusal, refusal } from "./refusal.ts";

/** HTLCs of one commitment: 483 that each side may have offered (BOLT 2). */
export const MAX_HTLCS = 966;
const HASH_LENGTH = 32;
const CONTENT_TAG = utf8ToBytes("arcus/v1/commitment");
/** Id u64, offered u8, amount u64, payment hash, expiry u32. */
const HTLC_ROW = 8 + 1 + 8 + HASH_LENGTH + 4;
const FORMAT = "anchors";

/** What every commitment of a channel depends on, checked once. */
export interface ChannelBasis {
  readonly keys: ChannelKeyTree;
  readonly terms: ChannelTerms;
  /** Digest of the terms. */
  readonly digest: Uint8Array;
  readonly obscuringFactor: bigint;
  readonly remote: Basepoints;
}

/** A commitment, recomputed. */
export interface BuiltCommitment {
  readonly outpoint: OutPoint;
  readonly number: bigint;
  /** Names this content and no other: what the memory holds of it. */
  readonly content: Uint8Array;
  readonly spec: LeanSpec;
  readonly lean: LeanCommitment;
}

function refuse(reason: Refusal["reason"], message: string): { readonly ok: false; readonly error: Refusal } {
  return err(refusal(reason, message));
}

/** Checks a channel's terms, and derives what never changes. */
export function channelBasis(keys: ChannelKeyTree, terms: ChannelTerms): Result<ChannelBasis, Refusal> {
  const good = checkTerms(terms);
  if (!good.ok) return good;
  if (!isSat(terms.localDustLimitSat) || !isSat(terms.remoteDustLimitSat)) {
    return refuse("BAD_REQUEST", "terms: a dust limit is more than all bitcoin");
  }
  const ours = keys.publicKeys.paymentBasepoint;
  const theirs = terms.remotePaymentBasepoint;
  return ok({
    keys,
    terms,
    digest: termsDigest(terms),
    obscuringFactor: terms.localIsOpener ? obscuringFactor(ours, theirs) : obscuringFactor(theirs, ours),
    remote: remoteBasepoints(terms),
  });
}

/** Places in the columns, so that one content has one order: ours by id, then the peer's by id. Null: one is there twice. */
export function canonicalOrder(content: CommitmentContent): number[] | null {
  const { htlcIds, htlcOffered } = content;
  const order = htlcIds.map((_, i) => i);
  order.sort((a, b) => {
    if (htlcOffered[a] !== htlcOffered[b]) return htlcOffered[a] ? -1 : 1;
    return htlcIds[a]! < htlcIds[b]! ? -1 : htlcIds[a]! > htlcIds[b]! ? 1 : 0;
  });
  const twice = order.some((at, i) => {
    const before = order[i - 1];
    return before !== undefined && htlcIds[at] === htlcIds[before] && htlcOffered[at] === htlcOffered[before];
  });
  return twice ? null : order;
}

/**
 * The name of a content. The sighash commits to the outpoint, the keys and every output; what it does not see (trimmed
 * HTLCs, millisatoshis, the expiry of an offered HTLC) is hashed beside it. Number 0 has no HTLC and was named by its
 * sighash when it was funded.
 */
export function nameContent(
  content: CommitmentContent,
  sighash: Uint8Array,
  order: readonly number[],
): Uint8Array {
  if (content.number === 0n) return sighash;
  const head = CONTENT_TAG.length + HASH_LENGTH;
  const bytes = new Uint8Array(head + 8 + 8 + 8 + 4 + order.length * HTLC_ROW);
  bytes.set(CONTENT_TAG);
  bytes.set(sighash, CONTENT_TAG.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(head, content.number);
  view.setBigUint64(head + 8, content.toLocalMsat);
  view.setBigUint64(head + 16, content.toRemoteMsat);
  view.setUint32(head + 24, content.feeratePerkw);
  let at = head + 28;
  for (const i of order) {
    view.setBigUint64(at, content.htlcIds[i]!);
    view.setUint8(at + 8, content.htlcOffered[i] ? 1 : 0);
    view.setBigUint64(at + 9, content.htlcAmountMsat[i]!);
    bytes.set(content.htlcPaymentHashes.subarray(i * HASH_LENGTH, (i + 1) * HASH_LENGTH), at + 17);
    view.setUint32(at + 17 + HASH_LENGTH, content.htlcCltvExpiry[i]!);
    at += HTLC_ROW;
  }
  return sha256(bytes);
}

function checkColumns(content: CommitmentContent): Result<null, Refusal> {
  const count = content.htlcIds.length;
  if (count > MAX_HTLCS) return refuse("BAD_REQUEST", `more than ${MAX_HTLCS} HTLCs`);
  if (
    content.htlcOffered.length !== count || content.htlcAmountMsat.length !== count ||
    content.htlcCltvExpiry.length !== count || content.htlcPaymentHashes.length !== count * HASH_LENGTH
  ) return refuse("BAD_REQUEST", "the columns of HTLCs differ in length");
  if (content.number > MAX_COMMITMENT_NUMBER) return refuse("BAD_REQUEST", "no commitment number: 48 bits");
  if (content.feeratePerkw > MAX_COMMITMENT_FEERATE) {
    return refuse("FEE_TOO_HIGH", `commitment fee rate above ${MAX_COMMITMENT_FEERATE} sat/kw`);
  }
  return ok(null);
}

/** Recomputes a commitment of one side. `point` is the owner's per-commitment point of that number. */
function build(
  basis: ChannelBasis,
  owner: "local" | "remote",
  outpoint: OutPoint,
  capacity: bigint,
  content: CommitmentContent,
  point: Uint8Array,
): Result<BuiltCommitment, Refusal> {
  const good = checkColumns(content);
  if (!good.ok) return good;
  const { terms, keys, remote } = basis;
  if (!isSat(capacity)) return refuse("BAD_REQUEST", "the capacity is more than all bitcoin");
  if (
    content.number === 0n &&
    (content.htlcIds.length > 0 || content.feeratePerkw !== terms.commitmentFeeratePerkw)
  ) return refuse("BAD_REQUEST", "number 0 has no HTLC and the fee rate of the terms");
  const order = canonicalOrder(content);
  if (order === null) return refuse("BAD_REQUEST", "an HTLC is there twice");
  const isLocal = owner === "local";
  const ours = keys.publicKeys;
  const derived = isLocal
    ? deriveCommitmentKeys(ours, remote, point)
    : deriveCommitmentKeys(remote, ours, point);
  if (!derived.ok) return refuse("BAD_REQUEST", `no commitment keys: ${derived.error.type}`);
  // Whether the sum is the capacity is checked below; that makes both amounts ones in range.
  const [ownerBalance, otherBalance] = isLocal
    ? [content.toLocalMsat as Msat, content.toRemoteMsat as Msat]
    : [content.toRemoteMsat as Msat, content.toLocalMsat as Msat];
  const spec: LeanSpec = {
    format: FORMAT,
    funding: {
      outpoint,
      amount: capacity,
      ownerPubkey: isLocal ? ours.fundingPubkey : terms.remoteFundingPubkey,
      otherPubkey: isLocal ? terms.remoteFundingPubkey : ours.fundingPubkey,
    },
    commitmentNumber: content.number,
    obscuringFactor: basis.obscuringFactor,
    keys: derived.value,
    toSelfDelay: isLocal ? terms.localToSelfDelay : terms.remoteToSelfDelay,
    dustLimit: sat(isLocal ? terms.localDustLimitSat : terms.remoteDustLimitSat),
    feerate: feerate(content.feeratePerkw),
    ownerIsOpener: terms.localIsOpener === isLocal,
    ownerBalance,
    otherBalance,
    htlcs: {
      ids: content.htlcIds,
      offered: isLocal ? content.htlcOffered : content.htlcOffered.map((offered) => !offered),
      amounts: content.htlcAmountMsat,
      paymentHashes: content.htlcPaymentHashes,
      cltvExpiries: content.htlcCltvExpiry,
    },
  };
  const lean = leanCommitment(spec);
  if (!lean.ok) {
    const { type } = lean.error;
    return type === "bad_htlc" || type === "bad_key" || type === "bad_funding_outpoint" ||
        type === "bad_to_self_delay" || type === "bad_commitment_number"
      ? refuse("BAD_REQUEST", `no commitment: ${type}`)
      : refuse("BALANCE_MISMATCH", `no commitment: ${type}`);
  }
  const name = nameContent(content, lean.value.sighash, order);
  return ok({ outpoint, number: content.number, content: name, spec, lean: lean.value });
}

/** Recomputes our commitment of a number. */
export function buildLocal(
  basis: ChannelBasis,
  outpoint: OutPoint,
  capacity: bigint,
  content: CommitmentContent,
): Result<BuiltCommitment, Refusal> {
  if (content.number > MAX_COMMITMENT_NUMBER) return refuse("BAD_REQUEST", "no commitment number: 48 bits");
  return build(basis, "local", outpoint, capacity, content, basis.keys.perCommitmentPoint(content.number));
}

/** Recomputes the peer's commitment of the number whose point this is. */
export function buildRemote(
  basis: ChannelBasis,
  outpoint: OutPoint,
  capacity: bigint,
  content: CommitmentContent,
  point: Uint8Array,
): Result<BuiltCommitment, Refusal> {
  if (content.number === 0n && !sameBytes(point, basis.terms.remoteFirstPerCommitmentPoint)) {
    return refuse("BAD_REQUEST", "remote_per_commitment_point is not that of number 0");
  }
  return build(basis, "remote", outpoint, capacity, content, point);
}

/** Whether the peer's signatures on our commitment and on all its HTLC transactions are good. */
export function verifySignatures(
  basis: ChannelBasis,
  built: BuiltCommitment,
  signature: Uint8Array,
  htlcSignatures: Uint8Array,
): boolean {
  const { sighash, htlcs } = built.lean;
  const curve = ecc();
  if (htlcSignatures.length !== htlcs.length * SIGNATURE_LENGTH) return false;
  if (!curve.verifyEcdsa(sighash, signature, basis.terms.remoteFundingPubkey)) return false;
  const key = built.spec.keys.otherHtlcPubkey;
  return htlcs.every((htlc, i) =>
    curve.verifyEcdsa(
      htlc.sighash,
      htlcSignatures.subarray(i * SIGNATURE_LENGTH, (i + 1) * SIGNATURE_LENGTH),
      key,
    )
  );
}

/** Our signatures. */
export interface Signatures {
  /** 64 bytes. */
  readonly signature: Uint8Array;
  /** 64 bytes for each untrimmed HTLC, in the order of the outputs. */
  readonly htlcSignatures: Uint8Array;
}

/** Signs the peer's commitment and all its HTLC transactions. */
export function signRemote(basis: ChannelBasis, built: BuiltCommitment, point: Uint8Array): Signatures {
  const { sighash, htlcs } = built.lean;
  const { fundingSecret, htlcSecret } = basis.keys;
  const curve = ecc();
  const htlcSignatures = new Uint8Array(htlcs.length * SIGNATURE_LENGTH);
  if (htlcs.length > 0) {
    const secret = derivePrivkey(htlcSecret, point);
    // Its public key is in the scripts, so it was derived already.
    if (!secret.ok) throw new Error(`no HTLC key: ${secret.error.type}`);
    htlcs.forEach((htlc, i) =>
      htlcSignatures.set(curve.signEcdsa(htlc.sighash, secret.value), i * SIGNATURE_LENGTH)
    );
    secret.value.fill(0);
  }
  return { signature: curve.signEcdsa(sighash, fundingSecret), htlcSignatures };
}

/** The spec with its HTLCs one by one, for the transaction itself. */
export function toCommitmentSpec(spec: LeanSpec): CommitmentSpec {
  const { htlcs } = spec;
  return {
    ...spec,
    htlcs: htlcs.ids.map((id, i) => ({
      id,
      direction: htlcs.offered[i] ? "offered" : "received",
      // The sum of all amounts was the capacity.
      amount: htlcs.amounts[i] as Msat,
      paymentHash: htlcs.paymentHashes.subarray(i * HASH_LENGTH, (i + 1) * HASH_LENGTH),
      cltvExpiry: htlcs.cltvExpiries[i]!,
    })),
  };
}

/**
 * Whether two contents can be of one channel: an HTLC that is in both is the same in both. They need not hold the same
 * HTLCs, since updates reach the two commitments one after the other.
 */
export function isMirrored(a: CommitmentContent, b: CommitmentContent): boolean {
  const places = new Map<string, number>();
  a.htlcIds.forEach((id, i) => places.set(`${a.htlcOffered[i]}${id}`, i));
  return b.htlcIds.every((id, j) => {
    const i = places.get(`${b.htlcOffered[j]}${id}`);
    if (i === undefined) return true;
    return a.htlcAmountMsat[i] === b.htlcAmountMsat[j] && a.htlcCltvExpiry[i] === b.htlcCltvExpiry[j] &&
      sameBytes(
        a.htlcPaymentHashes.subarray(i * HASH_LENGTH, (i + 1) * HASH_LENGTH),
        b.htlcPaymentHashes.subarray(j * HASH_LENGTH, (j + 1) * HASH_LENGTH),
      );
  });
}
