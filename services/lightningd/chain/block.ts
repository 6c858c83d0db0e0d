/** A block as bitcoind gave it, checked to be the one that was asked for. */
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { Block } from "bitcoinjs-lib";
import { RpcMixedUp } from "./bitcoind.ts";
import { sameBytes, txidOf } from "bolt/tx/transaction.ts";

/** Length of a block's header. */
const HEADER_LENGTH = 80;

/** An input or output of a transaction in a block. */
export interface BlockTx {
  /** In the order of the wire. */
  readonly txid: Uint8Array;
  readonly index: number;
  readonly inputs: readonly { readonly txid: Uint8Array; readonly vout: number }[];
  readonly outputs: readonly { readonly amount: bigint; readonly script: Uint8Array }[];
  /** With its witnesses. */
  readonly raw: () => Uint8Array;
}

/** A block that was checked. Hashes are in the order of the wire. */
export interface CheckedBlock {
  readonly hash: Uint8Array;
  readonly prevHash: Uint8Array;
  readonly txs: readonly BlockTx[];
}

/**
 * Reads a block (hex) and checks that its header hashes to `hash`, and that its transactions are those that the header
 * commits to: an answer that belongs to another question is never taken for this one. Throws RpcMixedUp.
 */
export function readBlock(hex: string, hash: Uint8Array): CheckedBlock {
  let raw: Uint8Array;
  let block: Block;
  try {
    raw = hexToBytes(hex);
    block = Block.fromBuffer(raw);
  } catch (error) {
    throw new RpcMixedUp("bitcoind's block cannot be read", { cause: error });
  }
  if (!sameBytes(sha256(sha256(raw.subarray(0, HEADER_LENGTH))), hash)) {
    throw new RpcMixedUp(`bitcoind gave another block than ${bytesToHex(Uint8Array.from(hash).reverse())}`);
  }
  if (block.prevHash === undefined || block.transactions === undefined || !block.checkTxRoots()) {
    throw new RpcMixedUp("the transactions of bitcoind's block are not those of its header");
  }
  const txs = block.transactions.map((tx, index) => ({
    txid: txidOf(tx),
    index,
    inputs: tx.ins.map((input) => ({ txid: input.hash, vout: input.index })),
    outputs: tx.outs.map((output) => ({ amount: BigInt(output.value), script: output.script })),
    raw: () => tx.toBuffer(),
  }));
  return { hash, prevHash: block.prevHash, txs };
}
