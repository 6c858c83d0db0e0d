/**
 * The hashes that a commitment round signs, straight from its content: no transaction objects, no script compiler. It
 * agrees with `buildCommitment` and `htlcTransactions` byte for byte, which stay the oracle and what is broadcast.
 */
import { ripemd160 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { MAX_COMMITMENT_NUMBER, obscureCommitmentNumber } from "bolt/keys/commitment_number.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { type CommitmentFailure, type CommitmentSpec } from "bolt/tx/commitment.ts";
import { hash160, p2wpkh } from "bolt/tx/scripts.ts";
import { SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY } from "bolt/tx/signature.ts";
import { compareBytes, TX_VERSION } from "bolt/tx/transaction.ts";
import {
  ANCHOR_AMOUNT,
  anchorsCost,
  commitmentFee,
  compactSizeLength,
  htlcTransactionFee,
} from "bolt/tx/weights.ts";

/** HTLCs by column, an entry of each column an HTLC; as the owner of the commitment sees them. */
export interface HtlcColumns {
  readonly ids: readonly bigint[];
  /** Offered by the owner of this commitment, or received by it. */
  readonly offered: readonly boolean[];
  /** Millisatoshis. */
  readonly amounts: readonly bigint[];
  /** 32 bytes each. */
  readonly paymentHashes: Uint8Array;
  /** Block heights. */
  readonly cltvExpiries: readonly number[];
}

/** A {@link CommitmentSpec} whose HTLCs are columns. */
export interface LeanSpec extends Omit<CommitmentSpec, "htlcs"> {
  readonly htlcs: HtlcColumns;
}

/** An untrimmed HTLC: its place in the columns and in the transaction, and what the other side signs for it. */
export interface LeanHtlc {
  readonly column: number;
  /** Index of its output. */
  readonly index: number;
  /** 32 bytes, of its HTLC transaction: SIGHASH_ALL, with anchors SIGHASH_SINGLE | SIGHASH_ANYONECANPAY (BOLT 3). */
  readonly sighash: Uint8Array;
}

/** What is signed for a commitment. */
export interface LeanCommitment {
  /** In hashing order. */
  readonly txid: Uint8Array;
  /** 32 bytes that both funding keys sign (SIGHASH_ALL). */
  readonly sighash: Uint8Array;
  /** In the order of the outputs: the order of signatures in `commitment_signed` (BOLT 2). */
  readonly htlcs: readonly LeanHtlc[];
}

const HASH = 32;
const KEY = 33;
const MAX_DELAY = 0xffff;
const MAX_CLTV_EXPIRY = 499_999_999;
const MAX_VOUT = 0xffff_ffff;
const OUTPOINT = HASH + 4;
const P2WSH = 2 + HASH;
/** Largest number that OP_1 to OP_16 push, and what OP_1 is above it. */
const MAX_SMALL_NUMBER = 16;
const OP_1_OFFSET = 0x50;
const PUSH_KEY = 0x21;
const PUSH_HASH160 = 0x14;

const OP = {
  IF: 0x63,
  NOTIF: 0x64,
  ELSE: 0x67,
  ENDIF: 0x68,
  IFDUP: 0x73,
  DROP: 0x75,
  DUP: 0x76,
  SWAP: 0x7c,
  SIZE: 0x82,
  EQUAL: 0x87,
  EQUALVERIFY: 0x88,
  HASH160: 0xa9,
  CHECKSIG: 0xac,
  CHECKSIGVERIFY: 0xad,
  CHECKMULTISIG: 0xae,
  CLTV: 0xb1,
  CSV: 0xb2,
  ONE: 0x51,
  TWO: 0x52,
  SIXTEEN: 0x60,
} as const;

/** Longer than everything but the outputs that is hashed here: a BIP 143 preimage with an HTLC script. */
const SCRATCH_LENGTH = 512;
const ZERO_HASH = new Uint8Array(HASH);
/** Hash of the only sequence of an HTLC transaction without anchors: 0. */
const ZERO_SEQUENCE_HASH = doubleSha256(new Uint8Array(4));

function doubleSha256(bytes: Uint8Array): Uint8Array {
  return sha256(sha256(bytes));
}

/** Writes little-endian fields one after another into a buffer that is large enough by construction. */
class Bytes {
  readonly buffer: Uint8Array;
  readonly #view: DataView;
  length = 0;

  constructor(size: number) {
    this.buffer = new Uint8Array(size);
    this.#view = new DataView(this.buffer.buffer);
  }

  /** What was written; valid until the next write. */
  get written(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  u8(value: number): void {
    this.buffer[this.length++] = value;
  }

  u32(value: number): void {
    this.#view.setUint32(this.length, value, true);
    this.length += 4;
  }

  /** An amount, exact below 2^53. */
  amount(value: number): void {
    this.u32(value % 0x1_0000_0000);
    this.u32(Math.floor(value / 0x1_0000_0000));
  }

  compactSize(value: number): void {
    if (compactSizeLength(value) === 1) return this.u8(value);
    this.u8(0xfd);
    this.u8(value & 0xff);
    this.u8(value >> 8);
  }

  bytes(value: Uint8Array): void {
    this.buffer.set(value, this.length);
    this.length += value.length;
  }
}

const scratch = new Bytes(SCRATCH_LENGTH);

/** The shortest push of a number from 0 to 2^31 - 1 (BIP 62). */
function pushNumber(value: number): number[] {
  if (value === 0) return [0];
  if (value <= MAX_SMALL_NUMBER) return [OP_1_OFFSET + value];
  const bytes: number[] = [];
  for (let rest = value; rest > 0; rest = Math.floor(rest / 256)) bytes.push(rest & 0xff);
  if ((bytes[bytes.length - 1]! & 0x80) !== 0) bytes.push(0);
  return [bytes.length, ...bytes];
}

function script(...parts: readonly (number | Uint8Array | readonly number[])[]): Uint8Array {
  scratch.length = 0;
  for (const part of parts) {
    if (typeof part === "number") scratch.u8(part);
    else if (part instanceof Uint8Array) scratch.bytes(part);
    else for (const byte of part) scratch.u8(byte);
  }
  return scratch.written.slice();
}

function p2wshOf(witnessScript: Uint8Array): Uint8Array {
  const out = new Uint8Array(P2WSH);
  out[1] = HASH;
  out.set(sha256(witnessScript), 2);
  return out;
}

/** The parts of both HTLC scripts that are the same for all HTLCs of a commitment. */
interface HtlcScripts {
  offered(paymentHash: Uint8Array): Uint8Array;
  received(paymentHash: Uint8Array, cltvExpiry: number): Uint8Array;
}

function htlcScripts(spec: LeanSpec): HtlcScripts {
  const { revocationPubkey, ownerHtlcPubkey, otherHtlcPubkey } = spec.keys;
  const start = script(
    [OP.DUP, OP.HASH160, PUSH_HASH160],
    hash160(revocationPubkey),
    [OP.EQUAL, OP.IF, OP.CHECKSIG, OP.ELSE, PUSH_KEY],
    otherHtlcPubkey,
    [OP.SWAP, OP.SIZE, 1, HASH, OP.EQUAL],
  );
  const both = script(OP.TWO, OP.SWAP, PUSH_KEY, ownerHtlcPubkey, OP.TWO, OP.CHECKMULTISIG);
  const delay = spec.format === "anchors" ? [OP.ONE, OP.CSV, OP.DROP, OP.ENDIF] : [OP.ENDIF];
  // Everything around the hash is there already; only the hash is set.
  const offeredHead = script(start, [OP.NOTIF, OP.DROP], both, [OP.ELSE, OP.HASH160, PUSH_HASH160]);
  const template = script(
    offeredHead,
    new Uint8Array(PUSH_HASH160),
    [OP.EQUALVERIFY, OP.CHECKSIG, OP.ENDIF],
    delay,
  );
  const receivedHead = script(start, [OP.IF, OP.HASH160, PUSH_HASH160]);
  const receivedMiddle = script(OP.EQUALVERIFY, both, [OP.ELSE, OP.DROP]);
  const receivedEnd = [OP.CLTV, OP.DROP, OP.CHECKSIG, OP.ENDIF, ...delay];
  return {
    offered(paymentHash) {
      const made = template.slice();
      made.set(ripemd160(paymentHash), offeredHead.length);
      return made;
    },
    received: (paymentHash, cltvExpiry) =>
      script(receivedHead, ripemd160(paymentHash), receivedMiddle, pushNumber(cltvExpiry), receivedEnd),
  };
}

function checkSpec(spec: LeanSpec): CommitmentFailure | null {
  const { commitmentNumber: number, obscuringFactor: factor, toSelfDelay: delay, funding, keys, htlcs } =
    spec;
  if (number < 0n || number > MAX_COMMITMENT_NUMBER || factor < 0n || factor > MAX_COMMITMENT_NUMBER) {
    return { type: "bad_commitment_number" };
  }
  if (!Number.isInteger(delay) || delay < 0 || delay > MAX_DELAY) return { type: "bad_to_self_delay" };
  if (
    funding.ownerPubkey.length !== KEY || funding.otherPubkey.length !== KEY ||
    keys.revocationPubkey.length !== KEY || keys.ownerDelayedPubkey.length !== KEY ||
    keys.ownerHtlcPubkey.length !== KEY || keys.otherHtlcPubkey.length !== KEY ||
    keys.otherPaymentPubkey.length !== KEY
  ) return { type: "bad_key" };
  const { txid, vout } = funding.outpoint;
  if (txid.length !== HASH || !Number.isInteger(vout) || vout < 0 || vout > MAX_VOUT) {
    return { type: "bad_funding_outpoint" };
  }
  let sumMsat: bigint = spec.ownerBalance + spec.otherBalance;
  for (let i = 0; i < htlcs.ids.length; i++) {
    const expiry = htlcs.cltvExpiries[i];
    const amount = htlcs.amounts[i];
    if (
      expiry === undefined || !Number.isInteger(expiry) || expiry < 0 || expiry > MAX_CLTV_EXPIRY ||
      amount === undefined || amount < 0n || htlcs.offered[i] === undefined ||
      htlcs.paymentHashes.length < (i + 1) * HASH
    ) return { type: "bad_htlc", id: htlcs.ids[i]! };
    sumMsat += amount;
  }
  return sumMsat === funding.amount * 1000n ? null : { type: "amounts_differ_from_funding", sumMsat };
}

/** An output before it has a place. */
interface Output {
  /** Satoshis. */
  readonly amount: number;
  /** scriptPubKey. */
  readonly script: Uint8Array;
  /** Place in the columns; -1 for what is no HTLC. */
  readonly column: number;
  /** Of an HTLC. */
  readonly witnessScript: Uint8Array | null;
}

function floor(msat: bigint): number {
  return Number(msat / 1000n);
}

/**
 * The sighash of a commitment and of all its HTLC transactions (BOLT 3). The same failures as `buildCommitment`, for the
 * same specs.
 */
export function leanCommitment(spec: LeanSpec): Result<LeanCommitment, CommitmentFailure> {
  const bad = checkSpec(spec);
  if (bad !== null) return err(bad);
  const { format, feerate, funding, keys, htlcs } = spec;
  const anchors = format === "anchors";
  const dust = Number(spec.dustLimit);
  const timeoutFee = Number(htlcTransactionFee(format, feerate, "timeout"));
  const successFee = Number(htlcTransactionFee(format, feerate, "success"));

  const toLocalScript = script(
    OP.IF,
    PUSH_KEY,
    keys.revocationPubkey,
    OP.ELSE,
    pushNumber(spec.toSelfDelay),
    [OP.CSV, OP.DROP, PUSH_KEY],
    keys.ownerDelayedPubkey,
    [OP.ENDIF, OP.CHECKSIG],
  );
  const toLocal = p2wshOf(toLocalScript);

  const htlcOutputs: Output[] = [];
  const scripts = htlcs.ids.length === 0 ? null : htlcScripts(spec);
  for (let column = 0; scripts !== null && column < htlcs.ids.length; column++) {
    const offered = htlcs.offered[column]!;
    const amount = floor(htlcs.amounts[column]!);
    if (amount < dust + (offered ? timeoutFee : successFee)) continue;
    const hash = htlcs.paymentHashes.subarray(column * HASH, (column + 1) * HASH);
    const witnessScript = offered
      ? scripts.offered(hash)
      : scripts.received(hash, htlcs.cltvExpiries[column]!);
    htlcOutputs.push({ amount, script: p2wshOf(witnessScript), column, witnessScript });
  }

  const cost = Number(commitmentFee(format, feerate, htlcOutputs.length)) + Number(anchorsCost(format));
  let owner = floor(spec.ownerBalance);
  let other = floor(spec.otherBalance);
  if (spec.ownerIsOpener) owner = Math.max(0, owner - cost);
  else other = Math.max(0, other - cost);
  const plain = (amount: number, out: Uint8Array): Output => ({
    amount,
    script: out,
    column: -1,
    witnessScript: null,
  });
  const outputs: Output[] = [];
  if (owner >= dust) outputs.push(plain(owner, toLocal));
  if (other >= dust) {
    const out = anchors
      ? p2wshOf(script(PUSH_KEY, keys.otherPaymentPubkey, OP.CHECKSIGVERIFY, OP.ONE, OP.CSV))
      : p2wpkh(keys.otherPaymentPubkey);
    outputs.push(plain(other, out));
  }
  if (anchors) {
    const anchor = (key: Uint8Array) =>
      plain(
        Number(ANCHOR_AMOUNT),
        p2wshOf(
          script(PUSH_KEY, key, [OP.CHECKSIG, OP.IFDUP, OP.NOTIF, OP.SIXTEEN, OP.CSV, OP.ENDIF]),
        ),
      );
    if (owner >= dust || htlcOutputs.length > 0) outputs.push(anchor(funding.ownerPubkey));
    if (other >= dust || htlcOutputs.length > 0) outputs.push(anchor(funding.otherPubkey));
  }
  outputs.push(...htlcOutputs);
  if (outputs.length === 0) return err({ type: "no_outputs" });
  const total = outputs.reduce((sum, { amount }) => sum + amount, 0);
  if (total > Number(funding.amount)) return err({ type: "outputs_exceed_funding" });

  // BIP 69, then CLTV (BOLT 3), then HTLC id.
  outputs.sort((a, b) => {
    if (a.amount !== b.amount) return a.amount - b.amount;
    const byScript = compareBytes(a.script, b.script);
    if (byScript !== 0 || a.column < 0 || b.column < 0) return byScript;
    const byExpiry = htlcs.cltvExpiries[a.column]! - htlcs.cltvExpiries[b.column]!;
    if (byExpiry !== 0) return byExpiry;
    return htlcs.ids[a.column]! < htlcs.ids[b.column]! ? -1 : 1;
  });

  const { locktime, sequence } = obscureCommitmentNumber(spec.commitmentNumber, spec.obscuringFactor);
  const outpoint = new Bytes(OUTPOINT);
  outpoint.bytes(funding.outpoint.txid);
  outpoint.u32(funding.outpoint.vout);

  const serialized = new Bytes(outputs.length * (8 + 1 + P2WSH));
  for (const { amount, script: out } of outputs) {
    serialized.amount(amount);
    serialized.u8(out.length);
    serialized.bytes(out);
  }
  const tx = new Bytes(serialized.length + OUTPOINT + 32);
  tx.u32(TX_VERSION);
  tx.u8(1);
  tx.bytes(outpoint.written);
  tx.u8(0);
  tx.u32(sequence);
  tx.compactSize(outputs.length);
  tx.bytes(serialized.written);
  tx.u32(locktime);
  const txid = doubleSha256(tx.written);

  const fundingScript = fundingWitnessScript(funding.ownerPubkey, funding.otherPubkey);
  scratch.length = 0;
  scratch.u32(sequence);
  const sequenceHash = doubleSha256(scratch.written);
  const outpointHash = doubleSha256(outpoint.written);
  const sighash = bip143(
    outpointHash,
    sequenceHash,
    outpoint.written,
    fundingScript,
    Number(funding.amount),
    sequence,
    doubleSha256(serialized.written),
    locktime,
    SIGHASH_ALL,
  );

  const spent = new Bytes(OUTPOINT);
  spent.bytes(txid);
  const output = new Bytes(8 + 1 + P2WSH);
  const signed: LeanHtlc[] = [];
  for (let index = 0; index < outputs.length; index++) {
    const { amount, column, witnessScript } = outputs[index]!;
    if (witnessScript === null) continue;
    const offered = htlcs.offered[column]!;
    spent.length = HASH;
    spent.u32(index);
    output.length = 0;
    output.amount(amount - (offered ? timeoutFee : successFee));
    output.u8(P2WSH);
    output.bytes(toLocal);
    signed.push({
      column,
      index,
      sighash: bip143(
        anchors ? ZERO_HASH : doubleSha256(spent.written),
        anchors ? ZERO_HASH : ZERO_SEQUENCE_HASH,
        spent.written,
        witnessScript,
        amount,
        anchors ? 1 : 0,
        doubleSha256(output.written),
        offered ? htlcs.cltvExpiries[column]! : 0,
        anchors ? SIGHASH_SINGLE_ANYONECANPAY : SIGHASH_ALL,
      ),
    });
  }
  return ok({ txid, sighash, htlcs: signed });
}

function fundingWitnessScript(a: Uint8Array, b: Uint8Array): Uint8Array {
  const [first, second] = compareBytes(a, b) <= 0 ? [a, b] : [b, a];
  return script(OP.TWO, PUSH_KEY, first, PUSH_KEY, second, OP.TWO, OP.CHECKMULTISIG);
}

/** BIP 143 of an input, its witness script below 253 bytes. */
function bip143(
  prevouts: Uint8Array,
  sequences: Uint8Array,
  outpoint: Uint8Array,
  witnessScript: Uint8Array,
  amount: number,
  sequence: number,
  outputs: Uint8Array,
  locktime: number,
  sighashType: number,
): Uint8Array {
  scratch.length = 0;
  scratch.u32(TX_VERSION);
  scratch.bytes(prevouts);
  scratch.bytes(sequences);
  scratch.bytes(outpoint);
  scratch.u8(witnessScript.length);
  scratch.bytes(witnessScript);
  scratch.amount(amount);
  scratch.u32(sequence);
  scratch.bytes(outputs);
  scratch.u32(locktime);
  scratch.u32(sighashType);
  return doubleSha256(scratch.written);
}
