/** The onion of a node within a blinded route (BOLT 4, Route Blinding). */
import { ecc } from "bolt/crypto/ecc.ts";
import { onionKey } from "bolt/onion/keys.ts";

/**
 * The key to make the shared secret with instead of the packet's `public_key`, for an onion that came with a path key:
 * its origin packed for the node's blinded id. The same as tweaking the node's own key, which stays where it is.
 * `blindingSecret` is the node's ECDH with the path key. Null for a key that is no point.
 */
export function blindedOnionKey(publicKey: Uint8Array, blindingSecret: Uint8Array): Uint8Array | null {
  return ecc().pointMul(publicKey, onionKey("blinded_node_id", blindingSecret));
}
