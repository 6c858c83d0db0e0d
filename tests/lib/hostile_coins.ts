/** Coins whose keys a scripted peer has: real ones from the miner's purse, or ones that never existed. */
import { sha256 } from "@noble/hashes/sha2.js";
import { bech32, bech32m } from "@scure/base";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { hash160, p2tr, p2wpkh, p2wpkhScriptCode, p2wsh } from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem, SIGHASH_ALL } from "bolt/tx/signature.ts";
import { makeTransaction, type OutPoint, sameBytes, txidFromDisplay } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import type { RegtestNode } from "tools/parts/mod.ts";
import { randomSecret } from "./raw_peer.ts";

/** What an output asks for: a key, a key (BIP 341), or nothing. */
export type CoinKind = "p2wpkh" | "p2tr" | "p2wsh";

/** An output that this peer can spend, with the whole transaction that made it. */
export interface HostileCoin {
  readonly kind: CoinKind;
  readonly secret: Uint8Array;
  readonly prevtx: Uint8Array;
  readonly outpoint: OutPoint;
  readonly amount: bigint;
  readonly script: Uint8Array;
}

/** Script that anybody satisfies. */
const OP_TRUE = Uint8Array.of(0x51);
/** What a coin has if nothing else is said. */
export const COIN_SAT = 1_000_000n;
/** BIP 341: the flag that is not written behind the signature. */
const SIGHASH_DEFAULT = 0;

/** A secret whose public key has an even y, as BIP 340 wants it. */
function evenSecret(): Uint8Array {
  const secret = randomSecret();
  return ecc().pointFromSecret(secret)[0] === 2 ? secret : ecc().privateNegate(secret)!;
}

function scriptOf(kind: CoinKind, secret: Uint8Array): Uint8Array {
  const point = ecc().pointFromSecret(secret);
  switch (kind) {
    case "p2wpkh":
      return p2wpkh(point);
    case "p2tr":
      return p2tr(point.slice(1));
    case "p2wsh":
      return p2wsh(OP_TRUE);
  }
}

/** The regtest address of a witness program. */
export function addressOf(script: Uint8Array): string {
  const version = script[0] === 0 ? 0 : script[0]! - 0x50;
  const code = version === 0 ? bech32 : bech32m;
  return code.encode("bcrt", [version, ...code.toWords(script.slice(2))]);
}

/** Confirmed coins: one transaction pays them all. */
export async function realCoins(
  chain: RegtestNode,
  kinds: readonly CoinKind[],
  amount: bigint = COIN_SAT,
): Promise<HostileCoin[]> {
  const keys = kinds.map((kind) => {
    const secret = evenSecret();
    return { kind, secret, script: scriptOf(kind, secret) };
  });
  const txid = await chain.fund(keys.map(({ script }) => ({ address: addressOf(script), sat: amount })));
  const tx = Transaction.fromHex(await chain.rpc<string>("getrawtransaction", [txid]));
  const prevtx = withoutWitnesses(tx);
  return keys.map((key) => {
    const vout = tx.outs.findIndex((out) => sameBytes(out.script, key.script));
    return { ...key, prevtx, outpoint: { txid: txidFromDisplay(txid), vout }, amount };
  });
}

function withoutWitnesses(tx: Transaction): Uint8Array {
  const copy = tx.clone();
  copy.stripWitnesses();
  return copy.toBuffer();
}

/** A coin of a transaction that nobody ever saw. Before its witness is asked for, nobody can tell. */
export function fakeCoin(
  kind: CoinKind = "p2wpkh",
  amount: bigint = COIN_SAT,
  changes: { readonly script?: Uint8Array } = {},
): HostileCoin {
  const secret = evenSecret();
  const script = changes.script ?? scriptOf(kind, secret);
  const tx = makeTransaction({
    locktime: 0,
    inputs: [{ outpoint: { txid: sha256(secret), vout: 0 }, sequence: 0 }],
    outputs: [{ amount: sat(amount), script }],
  });
  return { kind, secret, prevtx: tx.toBuffer(), outpoint: { txid: tx.getHash(), vout: 0 }, amount, script };
}

/** How a coin is signed for. */
export interface SigningOptions {
  /** Default SIGHASH_ALL; 0 with P2TR is BIP 341's default, 64 bytes. */
  readonly flag?: number;
}

/** The witness that spends a coin as input `index`; `spent`: every input's output, in order. */
export function witnessFor(
  coin: HostileCoin,
  tx: Transaction,
  index: number,
  spent: readonly { readonly script: Uint8Array; readonly amount: bigint }[],
  { flag = SIGHASH_ALL }: SigningOptions = {},
): Uint8Array[] {
  switch (coin.kind) {
    case "p2wsh":
      return [OP_TRUE];
    case "p2wpkh": {
      const pubkey = ecc().pointFromSecret(coin.secret);
      const hash = tx.hashForWitnessV0(index, p2wpkhScriptCode(hash160(pubkey)), coin.amount, flag);
      return [ecdsaWitnessItem(ecc().signEcdsa(hash, coin.secret), flag), pubkey];
    }
    case "p2tr": {
      const hash = tx.hashForWitnessV1(
        index,
        spent.map(({ script }) => script),
        spent.map(({ amount }) => amount),
        flag,
      );
      const signature = ecc().signSchnorr(hash, coin.secret);
      return [flag === SIGHASH_DEFAULT ? signature : Uint8Array.of(...signature, flag)];
    }
  }
}
