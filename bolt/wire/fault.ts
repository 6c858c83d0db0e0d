/** What can be wrong with bytes from a peer: named, with a reason that is safe to print. */

import { err, ok, type Result } from "bolt/result.ts";

/**
 * Why bytes could not be decoded.
 *
 * `reason` is plain printable text that never holds bytes of the peer, so it may be logged and sent back.
 */
export type DecodeFault =
  /** The bytes end inside a field. */
  | { readonly type: "truncated"; readonly reason: string }
  /** Bytes are left over where none may follow. */
  | { readonly type: "trailing_bytes"; readonly reason: string }
  /** Longer than the thing may be. */
  | { readonly type: "too_long"; readonly reason: string }
  /** A number that is not written in its shortest form (BOLT 1: bigsize, truncated integers). */
  | { readonly type: "not_canonical"; readonly reason: string }
  /** A field whose content cannot be what it stands for, such as a public key that is not 02 or 03. */
  | { readonly type: "bad_value"; readonly reason: string }
  /** TLV records that are not in strictly increasing order (BOLT 1). */
  | { readonly type: "tlv_order"; readonly reason: string; readonly tlv_type: bigint }
  /** A TLV record that must be understood and is not (BOLT 1: unknown even type). */
  | { readonly type: "tlv_unknown_even"; readonly reason: string; readonly tlv_type: bigint };

/** Carries a {@link DecodeFault} up to {@link catchFault}; never leaves a public decode function. */
export class FaultException extends Error {
  /** What was wrong. */
  readonly fault: DecodeFault;

  /** Wraps a fault. */
  constructor(fault: DecodeFault) {
    super(fault.reason);
    this.fault = fault;
  }
}

/** Stops the decoding that runs inside {@link catchFault}. */
export function raise(fault: DecodeFault): never {
  throw new FaultException(fault);
}

/** The door of every decoder: runs `decode` and turns a raised fault into a failure. Other errors are defects and pass. */
export function catchFault<T>(decode: () => T): Result<T, DecodeFault> {
  try {
    return ok(decode());
  } catch (e) {
    if (e instanceof FaultException) return err(e.fault);
    throw e;
  }
}
