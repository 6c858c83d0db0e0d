import { address as addresses, networks, payments, Transaction } from "bitcoinjs-lib";
import { concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { bech32m } from "@scure/base";

/** An unspent output of the purse. */
export interface Coin {
  txid: string;
  vout: number;
  sat: bigint;
}

/**
 * The miner's money on regtest: a P2WSH address whose script is OP_TRUE, so that bitcoind needs no wallet and nobody
 * a key. Its spends are standard transactions.
 */
export class Purse {
  readonly #script = Uint8Array.of(0x51);
  readonly #output = payments.p2wsh({ redeem: { output: this.#script }, network: networks.regtest });
  /** The purse's address. */
  readonly address: string;

  constructor() {
    if (this.#output.address === undefined) throw new Error("no address for the purse");
    this.address = this.#output.address;
  }

  /**
   * The hex of a transaction that spends `coin` to these addresses and the rest, less the fee, to the purse again.
   * It signals replaceability. Throws if the coin does not suffice.
   */
  spend(coin: Coin, outputs: readonly { address: string; sat: bigint }[], feeSat: bigint): string {
    const tx = new Transaction();
    tx.version = 2;
    tx.addInput(hexToBytes(coin.txid).reverse(), coin.vout, REPLACEABLE_SEQUENCE);
    tx.setWitness(0, [this.#script]);
    let rest = coin.sat - feeSat;
    for (const { address, sat } of outputs) {
      tx.addOutput(outputScript(address), sat);
      rest -= sat;
    }
    if (rest < 0n) throw new RangeError(`a coin of ${coin.sat} sat does not suffice`);
    if (rest >= SMALLEST_CHANGE_SAT) {
      tx.addOutput(addresses.toOutputScript(this.address, networks.regtest), rest);
    }
    return tx.toHex();
  }
}

/** The script of an address. bitcoinjs-lib reads a P2TR one only with a curve; who pays need not check the point. */
function outputScript(address: string): Uint8Array {
  const taproot = bech32m.decodeUnsafe(address);
  if (taproot === undefined) return addresses.toOutputScript(address, networks.regtest);
  const program = bech32m.fromWords(taproot.words.slice(1));
  if (taproot.words[0] !== 1 || program.length !== TAPROOT_KEY_LENGTH) {
    throw new Error(`${address}: not P2TR`);
  }
  return concatBytes(Uint8Array.of(OP_1, TAPROOT_KEY_LENGTH), program);
}

const OP_1 = 0x51;
const TAPROOT_KEY_LENGTH = 32;
/** BIP 125: the spender may replace it. */
const REPLACEABLE_SEQUENCE = 0xfffffffd;
const SMALLEST_CHANGE_SAT = 1_000n;
