/** What bitcoind says of a transaction: sending it, asking whether it would take it. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { sanitize } from "common/log.ts";
import { txidToDisplay } from "bolt/tx/transaction.ts";
import {
  asString,
  type BitcoindRpc,
  field,
  RpcCode,
  RpcError,
  RpcMixedUp,
  RpcUnreachable,
} from "./bitcoind.ts";

/** No bound of bitcoind's own on the fee rate: what we sign is bounded by hsmd. */
const ANY_FEERATE = 0;
/** How long a caller waits for bitcoind; the rows' transactions are sent again anyway. */
const SEND_RETRY_MS = 5_000;

/** Whether a refusal is lasting, and so the fault of whoever made the transaction. */
export type Verdict = "accepted" | "invalid" | "not_now";

/**
 * Reasons for which the transaction itself is wrong: a script fails, or nobody relays its form. Everything else
 * (missing inputs, low fees, conflicts, locktimes) can change without it, and is nobody's fault.
 */
const LASTING: readonly RegExp[] = [
  // "mandatory-", "non-mandatory-", "mempool-" and "block-script-verify-flag-failed (...)" by version.
  /script-verify-flag/,
  /^version$/,
  /^tx-size(-small)?$/,
  /^scriptsig-(size|not-pushonly)$/,
  /^scriptpubkey$/,
  /^datacarrier$/,
  /^bare-multisig$/,
  /^multi-op-return$/,
  /^dust$/,
  /^bad-txns-nonstandard-inputs$/,
  /^bad-txns-too-many-sigops$/,
  /^bad-witness-nonstandard$/,
];

/** Sorts a reject-reason of testmempoolaccept. */
export function classifyReject(reason: string): Exclude<Verdict, "accepted"> {
  // Newer versions put details behind a comma or a bracket.
  const name = reason.split(/[,(]/)[0]?.trim() ?? "";
  return LASTING.some((pattern) => pattern.test(name)) ? "invalid" : "not_now";
}

/** testmempoolaccept of one transaction. Throws RpcUnreachable and RpcMixedUp; an undecodable one is invalid. */
export async function testAccept(
  rpc: BitcoindRpc,
  tx: Uint8Array,
): Promise<{ verdict: Verdict; detail: string }> {
  let txid: string;
  try {
    txid = Transaction.fromBuffer(tx).getId();
  } catch {
    return { verdict: "invalid", detail: "not a transaction" };
  }
  let answer: unknown;
  try {
    answer = await rpc.call("testmempoolaccept", [[bytesToHex(tx)], ANY_FEERATE], {
      retryMs: SEND_RETRY_MS,
    });
  } catch (error) {
    if (!(error instanceof RpcError)) throw error;
    return { verdict: "not_now", detail: sanitize(error.text) };
  }
  const first = Array.isArray(answer) ? answer[0] : undefined;
  if (field(first, "txid") !== txid) throw new RpcMixedUp("bitcoind judged another transaction");
  if (field(first, "allowed") === true) return { verdict: "accepted", detail: "" };
  const reason = String(field(first, "reject-reason") ?? field(first, "package-error") ?? "no reason given");
  return { verdict: classifyReject(reason), detail: sanitize(reason) };
}

/** How sending went. */
export type SendResult =
  /** In the mempool now, or already, or in a block. */
  | { readonly type: "sent" }
  | { readonly type: "refused"; readonly detail: string }
  | { readonly type: "unreachable"; readonly detail: string };

/** sendrawtransaction, with all that means "it is there" as success. */
export async function send(rpc: BitcoindRpc, tx: Uint8Array): Promise<SendResult> {
  const txid = txidToDisplay(Transaction.fromBuffer(tx).getHash(false));
  try {
    const answer = await rpc.call("sendrawtransaction", [bytesToHex(tx), ANY_FEERATE], {
      retryMs: SEND_RETRY_MS,
    });
    if (asString(answer, "txid") !== txid) throw new RpcMixedUp("bitcoind sent another transaction");
    return { type: "sent" };
  } catch (error) {
    if (error instanceof RpcError) {
      const known = error.code === RpcCode.alreadyInUtxoSet ||
        /already in (block chain|utxo set)|txn-already-(known|in-mempool)/i.test(error.text);
      return known ? { type: "sent" } : { type: "refused", detail: sanitize(error.text) };
    }
    if (error instanceof RpcUnreachable || error instanceof RpcMixedUp) {
      return { type: "unreachable", detail: error.message };
    }
    throw error;
  }
}
