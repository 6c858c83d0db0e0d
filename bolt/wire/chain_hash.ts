import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";

/** The networks that have a chain hash here. */
export type Network = "bitcoin" | "testnet" | "testnet4" | "signet" | "regtest";

/** Hash of each network's genesis block, in the order of its bytes on the wire (BOLT 0), as hex. */
const CHAIN_HASHES: Readonly<Record<Network, string>> = {
  bitcoin: "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000",
  testnet: "43497fd7f826957108f4a30fd9cec3aeba79972084e90ead01ea330900000000",
  testnet4: "43f08bdab050e35b567c864b91f47f50ae725ae2de53bcfbbaf284da00000000",
  signet: "f61eee3b63a380a477a063af32b2bbc97c9ff9f01f2c4225e973988108000000",
  regtest: "06226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f",
};

/** The networks of {@link chainHash}. */
export const NETWORKS: readonly Network[] = ["bitcoin", "testnet", "testnet4", "signet", "regtest"];

/** The 32-byte chain hash of a network. */
export function chainHash(network: Network): Uint8Array {
  return hexToBytes(CHAIN_HASHES[network]);
}

/** The network of a chain hash, or undefined. */
export function networkOfChainHash(hash: Uint8Array): Network | undefined {
  const hex = bytesToHex(hash);
  return NETWORKS.find((network) => CHAIN_HASHES[network] === hex);
}
