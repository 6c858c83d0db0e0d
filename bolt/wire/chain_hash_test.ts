import { bytesToHex } from "@noble/hashes/utils.js";
import assert from "node:assert/strict";
import { chainHash, networkOfChainHash, NETWORKS } from "./chain_hash.ts";

Deno.test("a chain hash is the network's genesis hash, its bytes reversed", () => {
  const genesis = {
    bitcoin: "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
    testnet: "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943",
    testnet4: "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043",
    signet: "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6",
    regtest: "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
  };
  for (const network of NETWORKS) {
    assert.equal(bytesToHex(chainHash(network).toReversed()), genesis[network]);
    assert.equal(networkOfChainHash(chainHash(network)), network);
  }
  assert.equal(networkOfChainHash(new Uint8Array(32)), undefined);
});
