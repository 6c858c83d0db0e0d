/** On-chain fallbacks as scripts (BOLT 11, `f`). */

import { opcodes as OPS, script as bscript } from "bitcoinjs-lib";
import { scriptKind, witnessProgram } from "bolt/tx/scripts.ts";
import type { Fallback } from "bolt/invoice/types.ts";

/** Stands for P2PKH where a witness version would (BOLT 11, `f`). */
export const FALLBACK_P2PKH = 17;
/** Stands for P2SH where a witness version would (BOLT 11, `f`). */
export const FALLBACK_P2SH = 18;
const MAX_WITNESS_VERSION = 16;
const MIN_WITNESS_PROGRAM = 2;
const MAX_WITNESS_PROGRAM = 40;
const HASH160 = 20;
const HASH256 = 32;

/**
 * Whether a payer can pay to it: a hash of 20 bytes, or a witness program that BIP 141 and BIP 341 give a meaning. A
 * version 1 of another length would be anyone's to spend.
 */
export function isFallback({ version, program }: Fallback): boolean {
  const { length } = program;
  if (version === FALLBACK_P2PKH || version === FALLBACK_P2SH) return length === HASH160;
  if (!Number.isInteger(version) || version < 0 || version > MAX_WITNESS_VERSION) return false;
  if (version === 0) return length === HASH160 || length === HASH256;
  if (version === 1) return length === HASH256;
  return length >= MIN_WITNESS_PROGRAM && length <= MAX_WITNESS_PROGRAM;
}

/** The scriptPubKey of a fallback. Throws RangeError for what is none. */
export function fallbackScript(fallback: Fallback): Uint8Array {
  if (!isFallback(fallback)) throw new RangeError("not a fallback address");
  const { version, program } = fallback;
  if (version === FALLBACK_P2PKH) {
    return bscript.compile([OPS.OP_DUP!, OPS.OP_HASH160!, program, OPS.OP_EQUALVERIFY!, OPS.OP_CHECKSIG!]);
  }
  if (version === FALLBACK_P2SH) return bscript.compile([OPS.OP_HASH160!, program, OPS.OP_EQUAL!]);
  return bscript.compile([version === 0 ? OPS.OP_0! : OPS.OP_1! - 1 + version, program]);
}

/** The fallback that pays to a scriptPubKey; null when there is none. */
export function fallbackOfScript(script: Uint8Array): Fallback | null {
  const kind = scriptKind(script);
  if (kind === "p2pkh") return { version: FALLBACK_P2PKH, program: script.slice(3, 3 + HASH160) };
  if (kind === "p2sh") return { version: FALLBACK_P2SH, program: script.slice(2, 2 + HASH160) };
  const witness = witnessProgram(script);
  return witness !== undefined && isFallback(witness) ? witness : null;
}
