import { concatBytes } from "@noble/hashes/utils.js";
import { parseDerWithSighash } from "bolt/crypto/der.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { type ScriptKind, scriptKind } from "bolt/tx/scripts.ts";
import { SIGHASH_ALL } from "bolt/tx/signature.ts";
import { compactSizeLength } from "bolt/tx/weights.ts";

/** Longest witness that `tx_signatures` can carry: its length is a u16. */
export const MAX_WITNESS_LENGTH = 0xffff;

const COMPRESSED_KEY_LENGTH = 33;
const SCHNORR_LENGTH = 64;
const SCHNORR_WITH_FLAG_LENGTH = 65;
const ANNEX_TAG = 0x50;
const CONTROL_BLOCK_BASE = 33;
const CONTROL_BLOCK_STEP = 32;
const CONTROL_BLOCK_MAX = CONTROL_BLOCK_BASE + 128 * CONTROL_BLOCK_STEP;
const LEAF_VERSION_MASK = 0xfe;
const TAPSCRIPT_LEAF = 0xc0;
/** What nodes relay by default in the witness of a P2WSH or tapscript input. */
const MAX_STANDARD_ITEM = 80;
const MAX_STANDARD_P2WSH_ITEMS = 100;
const MAX_STANDARD_P2WSH_SCRIPT = 3600;
/** Flags that a Schnorr signature of 65 bytes can carry. */
const SCHNORR_FLAGS: readonly number[] = [0x01, 0x02, 0x03, 0x81, 0x82, 0x83];

/** Why the bytes of a witness in `tx_signatures` are no witness stack. */
export type DecodeWitnessFailure =
  | { readonly type: "too_long"; readonly length: number }
  | { readonly type: "truncated" }
  | { readonly type: "not_minimal" }
  | { readonly type: "trailing_bytes"; readonly count: number };

/** Why a witness is refused before any script is run (BOLT 2, tx_signatures). */
export type WitnessFailure =
  | { readonly type: "empty_witness" }
  /** Nodes do not relay it, so the funding transaction would not be mined. */
  | { readonly type: "non_standard_witness"; readonly reason: string }
  | { readonly type: "malformed_signature"; readonly item: number }
  /** Any flag but SIGHASH_ALL lets somebody change the funding transaction, and with it the channel's outpoint. */
  | { readonly type: "not_sighash_all"; readonly item: number; readonly flag: number };

/** A witness stack as `tx_signatures` carries it: CompactSize count, then each item with a CompactSize length. */
export function encodeWitness(stack: readonly Uint8Array[]): Uint8Array {
  return concatBytes(
    compactSize(stack.length),
    ...stack.flatMap((item) => [compactSize(item.length), item]),
  );
}

/** Bytes, and so weight units, of a witness stack in a transaction. */
export function witnessLength(stack: readonly Uint8Array[]): number {
  return stack.reduce(
    (sum, item) => sum + compactSizeLength(item.length) + item.length,
    compactSizeLength(stack.length),
  );
}

/** The stack in the bytes of one witness of `tx_signatures` (BOLT 2): nothing may follow it. */
export function decodeWitness(bytes: Uint8Array): Result<readonly Uint8Array[], DecodeWitnessFailure> {
  if (bytes.length > MAX_WITNESS_LENGTH) return err({ type: "too_long", length: bytes.length });
  const count = readCompactSize(bytes, 0);
  if (!count.ok) return count;
  let { end } = count.value;
  // Each item has at least the byte of its length: refused before anything is allocated for a claimed count.
  if (count.value.value > bytes.length - end) return err({ type: "truncated" });
  const stack: Uint8Array[] = [];
  for (let i = 0; i < count.value.value; i++) {
    const length = readCompactSize(bytes, end);
    if (!length.ok) return length;
    const start = length.value.end;
    if (length.value.value > bytes.length - start) return err({ type: "truncated" });
    end = start + length.value.value;
    stack.push(bytes.slice(start, end));
  }
  if (end !== bytes.length) return err({ type: "trailing_bytes", count: bytes.length - end });
  return ok(stack);
}

/**
 * Checks a peer's witness for an output with this scriptPubKey: there, of a standard form, and every signature in it
 * SIGHASH_ALL (BOLT 2, tx_signatures). Whether the signatures are good is for the consensus engine to say.
 */
export function checkWitness(
  script: Uint8Array,
  stack: readonly Uint8Array[],
): Result<null, WitnessFailure> {
  if (stack.length === 0) return err({ type: "empty_witness" });
  const failure = failureOf(scriptKind(script), stack);
  return failure === null ? ok(null) : err(failure);
}

function failureOf(kind: ScriptKind, stack: readonly Uint8Array[]): WitnessFailure | null {
  switch (kind) {
    case "p2wpkh":
      return p2wpkhFailure(stack);
    case "p2wsh":
      return p2wshFailure(stack);
    case "p2tr":
      return p2trFailure(stack);
    case "other_witness":
    case "p2pkh":
    case "p2sh":
    case "op_return":
    case "other":
      return nonStandard(`no standard witness spends ${kind}`);
  }
}

function p2wpkhFailure(stack: readonly Uint8Array[]): WitnessFailure | null {
  const [signature, pubkey] = stack;
  if (stack.length !== 2 || signature === undefined || pubkey?.length !== COMPRESSED_KEY_LENGTH) {
    return nonStandard("a P2WPKH witness is a signature and a compressed key");
  }
  return parseDerWithSighash(signature).ok ? ecdsaFlagFailure(signature, 0) : malformed(0);
}

function p2wshFailure(stack: readonly Uint8Array[]): WitnessFailure | null {
  const items = stack.slice(0, -1);
  const script = stack[stack.length - 1]!;
  if (script.length > MAX_STANDARD_P2WSH_SCRIPT) return nonStandard("witness script too long");
  if (items.length > MAX_STANDARD_P2WSH_ITEMS) return nonStandard("too many witness items");
  if (items.some((item) => item.length > MAX_STANDARD_ITEM)) return nonStandard("witness item too long");
  return firstFailure(items, ecdsaFlagFailure);
}

function p2trFailure(stack: readonly Uint8Array[]): WitnessFailure | null {
  const last = stack[stack.length - 1]!;
  if (stack.length === 1) return keyPathFailure(last);
  if (last[0] === ANNEX_TAG) return nonStandard("annex");
  if (
    last.length < CONTROL_BLOCK_BASE || last.length > CONTROL_BLOCK_MAX ||
    (last.length - CONTROL_BLOCK_BASE) % CONTROL_BLOCK_STEP !== 0
  ) return nonStandard("control block length");
  if ((last[0]! & LEAF_VERSION_MASK) !== TAPSCRIPT_LEAF) return nonStandard("unknown leaf version");
  const items = stack.slice(0, -2);
  if (items.some((item) => item.length > MAX_STANDARD_ITEM)) return nonStandard("witness item too long");
  return firstFailure(items, (item, i) => {
    const flag = item[SCHNORR_LENGTH];
    if (item.length !== SCHNORR_WITH_FLAG_LENGTH || flag === undefined) return null;
    return SCHNORR_FLAGS.includes(flag) && flag !== SIGHASH_ALL ? notSighashAll(i, flag) : null;
  });
}

/** 64 bytes are SIGHASH_DEFAULT, which covers all that SIGHASH_ALL covers; eclair sends it. */
function keyPathFailure(signature: Uint8Array): WitnessFailure | null {
  if (signature.length === SCHNORR_LENGTH) return null;
  const flag = signature[SCHNORR_LENGTH];
  if (signature.length !== SCHNORR_WITH_FLAG_LENGTH || flag === undefined) return malformed(0);
  return flag === SIGHASH_ALL ? null : notSighashAll(0, flag);
}

/** Null for what is no signature by BIP 66: consensus lets nothing else pass as one. */
function ecdsaFlagFailure(item: Uint8Array, index: number): WitnessFailure | null {
  const parsed = parseDerWithSighash(item);
  if (!parsed.ok || parsed.value.sighash === SIGHASH_ALL) return null;
  return notSighashAll(index, parsed.value.sighash);
}

function firstFailure(
  items: readonly Uint8Array[],
  check: (item: Uint8Array, index: number) => WitnessFailure | null,
): WitnessFailure | null {
  for (const [index, item] of items.entries()) {
    const failure = check(item, index);
    if (failure !== null) return failure;
  }
  return null;
}

function nonStandard(reason: string): WitnessFailure {
  return { type: "non_standard_witness", reason };
}

function malformed(item: number): WitnessFailure {
  return { type: "malformed_signature", item };
}

function notSighashAll(item: number, flag: number): WitnessFailure {
  return { type: "not_sighash_all", item, flag };
}

function compactSize(value: number): Uint8Array {
  const bytes = new Uint8Array(compactSizeLength(value));
  const view = new DataView(bytes.buffer);
  if (bytes.length === 1) view.setUint8(0, value);
  else if (bytes.length === 3) {
    view.setUint8(0, 0xfd);
    view.setUint16(1, value, true);
  } else if (bytes.length === 5) {
    view.setUint8(0, 0xfe);
    view.setUint32(1, value, true);
  } else throw new RangeError("a witness is never that long");
  return bytes;
}

function readCompactSize(
  bytes: Uint8Array,
  start: number,
): Result<{ readonly value: number; readonly end: number }, DecodeWitnessFailure> {
  const first = bytes[start];
  if (first === undefined) return err({ type: "truncated" });
  if (first < 0xfd) return ok({ value: first, end: start + 1 });
  const size = first === 0xfd ? 2 : first === 0xfe ? 4 : 8;
  const end = start + 1 + size;
  if (end > bytes.length) return err({ type: "truncated" });
  let value = 0;
  for (let i = end - 1; i > start; i--) value = value * 256 + bytes[i]!;
  // Beyond 2^53 the sum is inexact, but still far above any length that fits.
  if (compactSizeLength(value) !== 1 + size) return err({ type: "not_minimal" });
  return ok({ value, end });
}
