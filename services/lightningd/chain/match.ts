/** Which facts a block holds about what we watch. Pure. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { sameBytes } from "bolt/tx/transaction.ts";
import type { BlockTx } from "./block.ts";

/** A funding attempt that is watched. */
export interface WatchedAttempt {
  readonly attempt: bigint;
  readonly channel: bigint;
  readonly txid: Uint8Array;
  readonly outputIndex: number;
  readonly fundingScript: Uint8Array;
  readonly capacity: bigint;
}

/** What to look for. Keys of the maps are {@link key} of an outpoint, or hex. */
export interface WatchSet {
  /** By script, hex. */
  readonly scripts: ReadonlyMap<string, { readonly change: boolean; readonly keyIndex: bigint }>;
  /** Outpoints whose spending is a fact: our outputs, inputs of attempts and of stored transactions, funding outputs. */
  readonly outpoints: ReadonlySet<string>;
  /** Transactions whose confirmation is a fact, by txid, hex. */
  readonly txids: ReadonlySet<string>;
  /** By txid, hex. */
  readonly attempts: ReadonlyMap<string, WatchedAttempt>;
}

/** An output of ours. */
export interface FoundOutput {
  readonly txid: Uint8Array;
  readonly vout: number;
  readonly amount: bigint;
  readonly change: boolean;
  readonly keyIndex: bigint;
}

/** What a block says. */
export interface BlockFacts {
  /** Transactions to keep whole, since an output is ours. */
  readonly deposits: readonly { readonly tx: BlockTx; readonly isAttempt: boolean }[];
  readonly outputs: readonly FoundOutput[];
  readonly confirmations: readonly { readonly txid: Uint8Array; readonly index: number }[];
  readonly spends: readonly {
    readonly txid: Uint8Array;
    readonly vout: number;
    readonly spendingTxid: Uint8Array;
  }[];
  readonly attempts: readonly {
    readonly attempt: bigint;
    readonly index: number;
    readonly coinbase: boolean;
    readonly matches: boolean;
  }[];
}

/** Names an outpoint in a map. */
export function key(txid: Uint8Array, vout: number | bigint): string {
  return `${bytesToHex(txid)}:${vout}`;
}

/** Looks through the transactions of a block. */
export function matchBlock(txs: readonly BlockTx[], watch: WatchSet): BlockFacts {
  const deposits: { tx: BlockTx; isAttempt: boolean }[] = [];
  const outputs: FoundOutput[] = [];
  const confirmations: { txid: Uint8Array; index: number }[] = [];
  const spends: { txid: Uint8Array; vout: number; spendingTxid: Uint8Array }[] = [];
  const attempts: { attempt: bigint; index: number; coinbase: boolean; matches: boolean }[] = [];
  // An output of this block may be spent in this block.
  const fresh = new Set<string>();
  for (const tx of txs) {
    const id = bytesToHex(tx.txid);
    const attempt = watch.attempts.get(id);
    let kept = watch.txids.has(id) || attempt !== undefined;
    for (const input of tx.inputs) {
      const outpoint = key(input.txid, input.vout);
      if (!watch.outpoints.has(outpoint) && !fresh.has(outpoint)) continue;
      spends.push({ txid: input.txid, vout: input.vout, spendingTxid: tx.txid });
    }
    const ours = tx.outputs.flatMap((output, vout) => {
      const owner = watch.scripts.get(bytesToHex(output.script));
      return owner === undefined ? [] : [{ txid: tx.txid, vout, amount: output.amount, ...owner }];
    });
    if (ours.length > 0) {
      deposits.push({ tx, isAttempt: attempt !== undefined });
      outputs.push(...ours);
      for (const { vout } of ours) fresh.add(key(tx.txid, vout));
      kept = true;
    }
    if (attempt !== undefined) {
      attempts.push({
        attempt: attempt.attempt,
        index: tx.index,
        coinbase: tx.index === 0,
        matches: outputMatches(tx, attempt),
      });
      fresh.add(key(tx.txid, attempt.outputIndex));
    }
    if (kept) confirmations.push({ txid: tx.txid, index: tx.index });
  }
  return { deposits, outputs, confirmations, spends, attempts };
}

/** Outpoint, exact script, exact amount (BOLT 2, channel_ready: what is locked is what was negotiated). */
function outputMatches(tx: BlockTx, attempt: WatchedAttempt): boolean {
  const output = tx.outputs[attempt.outputIndex];
  return output !== undefined && output.amount === attempt.capacity &&
    sameBytes(output.script, attempt.fundingScript);
}
