/** Random routes, for tests only. */
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import type { OnionHop } from "bolt/onion/create.ts";
import { HOP_PAYLOADS_LENGTH } from "bolt/onion/packet.ts";

/** Most that a hop's length and HMAC take. */
const HOP_OVERHEAD = 35;

/** A node of a route and its secret. */
export interface TestHop extends OnionHop {
  /** The node's private key. */
  readonly secret: Uint8Array;
}

/** 32 random bytes: a private key, but for odds of 2^-127. */
export const arbSecret: fc.Arbitrary<Uint8Array> = fc.uint8Array({ minLength: 32, maxLength: 32 })
  .filter((bytes) => ecc().isPrivate(bytes));

/** Routes whose payloads fit an onion, some to the last byte. */
export function arbRoute(maxHops: number, minHops = 1): fc.Arbitrary<readonly TestHop[]> {
  return fc.integer({ min: minHops, max: maxHops }).chain((count) => {
    const room = Math.floor(HOP_PAYLOADS_LENGTH / count) - HOP_OVERHEAD;
    const payload = fc.integer({ min: 2, max: room }).chain((length) =>
      fc.uint8Array({ minLength: length, maxLength: length })
    );
    return fc.array(fc.record({ secret: arbSecret, payload }), { minLength: count, maxLength: count })
      .map((hops) => hops.map((hop) => ({ ...hop, pubkey: ecc().pointFromSecret(hop.secret) })));
  });
}
