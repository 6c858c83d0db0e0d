/** Addresses of people, and of ours. */
import { invalidArgument } from "common/grpc/errors.ts";
import { sanitize } from "common/log.ts";
import { address as addresses, networks } from "bitcoinjs-lib";

/** CLN's code for a parameter that cannot be. */
export const INVALID_PARAMS = -32602;
/** Version and program length of the only witness version 1 program that is standard. */
const TAPROOT_PROGRAM = 32;
const MAX_WITNESS_VERSION = 16;
/** OP_1 is 0x51, and so on; OP_0 is 0. */
const OP_1_LESS_ONE = 0x50;

interface Prefixes {
  readonly bech32: string;
  readonly p2pkh: number;
  readonly p2sh: number;
}

const TESTNET: Prefixes = {
  bech32: networks.testnet.bech32,
  p2pkh: networks.testnet.pubKeyHash,
  p2sh: networks.testnet.scriptHash,
};
const PREFIXES: Readonly<Record<string, Prefixes>> = {
  regtest: { ...TESTNET, bech32: networks.regtest.bech32 },
  signet: TESTNET,
  testnet: TESTNET,
  testnet4: TESTNET,
};

function prefixesOf(network: string): Prefixes {
  const prefixes = PREFIXES[network];
  if (prefixes === undefined) throw new Error(`addresses of ${network} are not known`);
  return prefixes;
}

/** The bech32m address of a P2TR script of ours. */
export function p2trAddress(script: Uint8Array, network: string): string {
  return addresses.toBech32(script.slice(2), 1, prefixesOf(network).bech32);
}

/** The scriptPubKey of an address of this network. Throws INVALID_ARGUMENT, CLN code -32602. */
export function scriptOf(text: string, network: string): Uint8Array {
  const script = segwitScript(text, network) ?? legacyScript(text, network);
  if (script === undefined) {
    throw invalidArgument("BAD_ADDRESS", `not an address of ${network}: ${sanitize(text, 100)}`, {
      clnCode: INVALID_PARAMS,
    });
  }
  return script;
}

function segwitScript(text: string, network: string): Uint8Array | undefined {
  try {
    const { prefix, version, data } = addresses.fromBech32(text);
    if (prefix !== prefixesOf(network).bech32 || version > MAX_WITNESS_VERSION) return undefined;
    const fits = version === 0
      ? data.length === 20 || data.length === 32
      : version === 1
      ? data.length === TAPROOT_PROGRAM
      : data.length >= 2 && data.length <= 40;
    if (!fits) return undefined;
    return Uint8Array.of(version === 0 ? 0 : OP_1_LESS_ONE + version, data.length, ...data);
  } catch {
    return undefined;
  }
}

function legacyScript(text: string, network: string): Uint8Array | undefined {
  try {
    const { version, hash } = addresses.fromBase58Check(text);
    const { p2pkh, p2sh } = prefixesOf(network);
    if (version === p2pkh) return Uint8Array.of(0x76, 0xa9, 0x14, ...hash, 0x88, 0xac);
    if (version === p2sh) return Uint8Array.of(0xa9, 0x14, ...hash, 0x87);
    return undefined;
  } catch {
    return undefined;
  }
}
