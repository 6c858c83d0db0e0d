/** Scripts of BOLT 3 and what BOLT 2 and BOLT 3 say about scripts. All keys are 33 byte compressed public keys. */

import { ripemd160 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { opcodes as OPS, script as bscript } from "bitcoinjs-lib";
import { type Sat, sat } from "bolt/units.ts";
import { compareBytes } from "bolt/tx/transaction.ts";

/** How the commitment transaction looks: what the negotiated `channel_type` says about its scripts. */
export type CommitmentFormat = "static_remotekey" | "anchors";

/** The kind of a scriptPubKey. `other_witness` is a witness program without a meaning of its own yet. */
export type ScriptKind =
  | "p2wpkh"
  | "p2wsh"
  | "p2tr"
  | "other_witness"
  | "p2pkh"
  | "p2sh"
  | "op_return"
  | "other";

/** A witness program (BIP 141): its version 0 to 16 and its 2 to 40 bytes. */
export interface WitnessProgram {
  readonly version: number;
  readonly program: Uint8Array;
}

const MIN_WITNESS_PROGRAM = 2;
const MAX_WITNESS_PROGRAM = 40;
const P2WPKH_PROGRAM = 20;
const HASH_PROGRAM = 32;
const OP_1 = 0x51;
const OP_16 = 0x60;
const OP_RETURN = 0x6a;
const OP_PUSHDATA1 = 0x4c;
/** Size of an OP_RETURN shutdown script's data (BOLT 2, shutdown with option_simple_close). */
const OP_RETURN_MIN_DATA = 6;
const OP_RETURN_MAX_PUSH = 75;
const OP_RETURN_MAX_DATA = 80;

/** RIPEMD160(SHA256(data)). */
export function hash160(data: Uint8Array): Uint8Array {
  return ripemd160(sha256(data));
}

/** The 2-of-2 witness script of a funding output, the lexicographically lesser key first (BOLT 3, funding output). */
export function fundingScript(a: Uint8Array, b: Uint8Array): Uint8Array {
  const [first, second] = compareBytes(a, b) <= 0 ? [a, b] : [b, a];
  return bscript.compile([OPS.OP_2!, first, second, OPS.OP_2!, OPS.OP_CHECKMULTISIG!]);
}

/** scriptPubKey that pays to a witness script. */
export function p2wsh(witnessScript: Uint8Array): Uint8Array {
  return bscript.compile([OPS.OP_0!, sha256(witnessScript)]);
}

/** scriptPubKey that pays to a public key by its hash. */
export function p2wpkh(pubkey: Uint8Array): Uint8Array {
  return bscript.compile([OPS.OP_0!, hash160(pubkey)]);
}

/** scriptPubKey that pays to a taproot output key (32 byte x-only, already tweaked). */
export function p2tr(outputKey: Uint8Array): Uint8Array {
  if (outputKey.length !== HASH_PROGRAM) throw new RangeError("a taproot output key has 32 bytes");
  return bscript.compile([OPS.OP_1!, outputKey]);
}

/** Script code of a P2WPKH input, for BIP 143. */
export function p2wpkhScriptCode(pubkeyHash: Uint8Array): Uint8Array {
  return bscript.compile([OPS.OP_DUP!, OPS.OP_HASH160!, pubkeyHash, OPS.OP_EQUALVERIFY!, OPS.OP_CHECKSIG!]);
}

/** to_local, and the output of HTLC transactions: owner after a delay, or the revocation key at once (BOLT 3). */
export function toLocalScript(
  revocationPubkey: Uint8Array,
  delayedPubkey: Uint8Array,
  toSelfDelay: number,
): Uint8Array {
  return bscript.compile([
    OPS.OP_IF!,
    revocationPubkey,
    OPS.OP_ELSE!,
    bscript.number.encode(toSelfDelay),
    OPS.OP_CHECKSEQUENCEVERIFY!,
    OPS.OP_DROP!,
    delayedPubkey,
    OPS.OP_ENDIF!,
    OPS.OP_CHECKSIG!,
  ]);
}

/** Witness script of to_remote in a channel with anchors: spendable after one block (BOLT 3). */
export function toRemoteAnchorsScript(paymentPubkey: Uint8Array): Uint8Array {
  return bscript.compile([paymentPubkey, OPS.OP_CHECKSIGVERIFY!, OPS.OP_1!, OPS.OP_CHECKSEQUENCEVERIFY!]);
}

/** Witness script of an anchor: its owner's funding key, or anyone after 16 blocks (BOLT 3). */
export function anchorScript(fundingPubkey: Uint8Array): Uint8Array {
  return bscript.compile([
    fundingPubkey,
    OPS.OP_CHECKSIG!,
    OPS.OP_IFDUP!,
    OPS.OP_NOTIF!,
    OPS.OP_16!,
    OPS.OP_CHECKSEQUENCEVERIFY!,
    OPS.OP_ENDIF!,
  ]);
}

/** The keys that stand in an HTLC output of the owner's commitment. */
export interface HtlcScriptKeys {
  readonly revocationPubkey: Uint8Array;
  /** The owner's HTLC key. */
  readonly ownerHtlcPubkey: Uint8Array;
  /** The other side's HTLC key. */
  readonly otherHtlcPubkey: Uint8Array;
}

/** Witness script of an HTLC that the commitment's owner offered (BOLT 3, offered HTLC outputs). */
export function offeredHtlcScript(
  format: CommitmentFormat,
  keys: HtlcScriptKeys,
  paymentHash: Uint8Array,
): Uint8Array {
  return bscript.compile([
    ...revocationBranch(keys.revocationPubkey),
    keys.otherHtlcPubkey,
    OPS.OP_SWAP!,
    OPS.OP_SIZE!,
    bscript.number.encode(32),
    OPS.OP_EQUAL!,
    OPS.OP_NOTIF!,
    OPS.OP_DROP!,
    OPS.OP_2!,
    OPS.OP_SWAP!,
    keys.ownerHtlcPubkey,
    OPS.OP_2!,
    OPS.OP_CHECKMULTISIG!,
    OPS.OP_ELSE!,
    OPS.OP_HASH160!,
    ripemd160(paymentHash),
    OPS.OP_EQUALVERIFY!,
    OPS.OP_CHECKSIG!,
    OPS.OP_ENDIF!,
    ...confirmationDelay(format),
    OPS.OP_ENDIF!,
  ]);
}

/** Witness script of an HTLC that the commitment's owner received (BOLT 3, received HTLC outputs). */
export function receivedHtlcScript(
  format: CommitmentFormat,
  keys: HtlcScriptKeys,
  paymentHash: Uint8Array,
  cltvExpiry: number,
): Uint8Array {
  return bscript.compile([
    ...revocationBranch(keys.revocationPubkey),
    keys.otherHtlcPubkey,
    OPS.OP_SWAP!,
    OPS.OP_SIZE!,
    bscript.number.encode(32),
    OPS.OP_EQUAL!,
    OPS.OP_IF!,
    OPS.OP_HASH160!,
    ripemd160(paymentHash),
    OPS.OP_EQUALVERIFY!,
    OPS.OP_2!,
    OPS.OP_SWAP!,
    keys.ownerHtlcPubkey,
    OPS.OP_2!,
    OPS.OP_CHECKMULTISIG!,
    OPS.OP_ELSE!,
    OPS.OP_DROP!,
    bscript.number.encode(cltvExpiry),
    OPS.OP_CHECKLOCKTIMEVERIFY!,
    OPS.OP_DROP!,
    OPS.OP_CHECKSIG!,
    OPS.OP_ENDIF!,
    ...confirmationDelay(format),
    OPS.OP_ENDIF!,
  ]);
}

/** Start of both HTLC scripts: the revocation key takes the output at once. */
function revocationBranch(revocationPubkey: Uint8Array): (number | Uint8Array)[] {
  return [
    OPS.OP_DUP!,
    OPS.OP_HASH160!,
    hash160(revocationPubkey),
    OPS.OP_EQUAL!,
    OPS.OP_IF!,
    OPS.OP_CHECKSIG!,
    OPS.OP_ELSE!,
  ];
}

/** With anchors no HTLC output can be spent unconfirmed, so that only the anchors can pin or bump a commitment. */
function confirmationDelay(format: CommitmentFormat): number[] {
  return format === "anchors" ? [OPS.OP_1!, OPS.OP_CHECKSEQUENCEVERIFY!, OPS.OP_DROP!] : [];
}

/** The witness program that a scriptPubKey is, or undefined: OP_0 to OP_16 and one direct push of 2 to 40 bytes. */
export function witnessProgram(script: Uint8Array): WitnessProgram | undefined {
  const [opcode, length] = script;
  if (opcode === undefined || length === undefined) return undefined;
  if (opcode !== 0 && (opcode < OP_1 || opcode > OP_16)) return undefined;
  if (length < MIN_WITNESS_PROGRAM || length > MAX_WITNESS_PROGRAM) return undefined;
  if (script.length !== 2 + length) return undefined;
  return { version: opcode === 0 ? 0 : opcode - OP_1 + 1, program: script.slice(2) };
}

/** Whether a scriptPubKey is a witness program, as an input of interactive-tx must be (BOLT 2, tx_add_input). */
export function isWitnessProgram(script: Uint8Array): boolean {
  return witnessProgram(script) !== undefined;
}

/** Classifies a scriptPubKey. */
export function scriptKind(script: Uint8Array): ScriptKind {
  const witness = witnessProgram(script);
  if (witness !== undefined) {
    const { version, program } = witness;
    if (version === 0 && program.length === P2WPKH_PROGRAM) return "p2wpkh";
    if (version === 0 && program.length === HASH_PROGRAM) return "p2wsh";
    // BIP 141: version 0 of any other length can never be spent.
    if (version === 0) return "other";
    return version === 1 && program.length === HASH_PROGRAM ? "p2tr" : "other_witness";
  }
  if (
    script.length === 25 && script[0] === OPS.OP_DUP && script[1] === OPS.OP_HASH160 && script[2] === 20 &&
    script[23] === OPS.OP_EQUALVERIFY && script[24] === OPS.OP_CHECKSIG
  ) return "p2pkh";
  if (
    script.length === 23 && script[0] === OPS.OP_HASH160 && script[1] === 20 && script[22] === OPS.OP_EQUAL
  ) {
    return "p2sh";
  }
  return script[0] === OP_RETURN ? "op_return" : "other";
}

/**
 * Whether a script may stand in `shutdown` and `upfront_shutdown_script` (BOLT 2, shutdown): P2WPKH and P2WSH always,
 * later witness versions with option_shutdown_anysegwit, OP_RETURN with one push of 6 to 80 bytes with
 * option_simple_close.
 */
export function isStandardShutdownScript(
  script: Uint8Array,
  negotiated: { readonly anysegwit: boolean; readonly simpleClose: boolean },
): boolean {
  const kind = scriptKind(script);
  if (kind === "p2wpkh" || kind === "p2wsh") return true;
  if (kind === "p2tr" || kind === "other_witness") return negotiated.anysegwit;
  return kind === "op_return" && negotiated.simpleClose && isShutdownData(script);
}

function isShutdownData(script: Uint8Array): boolean {
  const push = script[1];
  if (push === undefined) return false;
  if (push >= OP_RETURN_MIN_DATA && push <= OP_RETURN_MAX_PUSH) return script.length === 2 + push;
  const length = script[2];
  return push === OP_PUSHDATA1 && length !== undefined && length > OP_RETURN_MAX_PUSH &&
    length <= OP_RETURN_MAX_DATA && script.length === 3 + length;
}

/** Least amount that a node relays by default in an output of this script (BOLT 3, dust limits); 0 for OP_RETURN. */
export function dustLimit(script: Uint8Array): Sat {
  return DUST[scriptKind(script)];
}

/** Dust limits of BOLT 3 by kind of script; P2TR by the formula behind them, `other` as the highest that is standard. */
const DUST: Readonly<Record<ScriptKind, Sat>> = {
  p2wpkh: sat(294),
  p2wsh: sat(330),
  p2tr: sat(330),
  other_witness: sat(354),
  p2pkh: sat(546),
  p2sh: sat(540),
  op_return: sat(0),
  other: sat(546),
};

/** Lowest `dust_limit_satoshis` that any shutdown script needs (BOLT 2, open_channel: lower is refused). */
export const MIN_DUST_LIMIT = sat(354);
