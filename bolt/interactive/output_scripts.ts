import { scriptKind } from "bolt/tx/scripts.ts";
import { ACCEPT_FUTURE_WITNESS_VERSIONS } from "bolt/interactive/limits.ts";

/**
 * Whether an output with this script may be part of the transaction (BOLT 2, tx_add_output): P2WPKH, P2WSH and P2TR
 * always. A legacy or OP_RETURN output serves no funding and invites pinning, so it is refused.
 */
export function acceptableOutputScript(script: Uint8Array): boolean {
  switch (scriptKind(script)) {
    case "p2wpkh":
    case "p2wsh":
    case "p2tr":
      return true;
    case "other_witness":
      return ACCEPT_FUTURE_WITNESS_VERSIONS;
    case "p2pkh":
    case "p2sh":
    case "op_return":
    case "other":
      return false;
  }
}
