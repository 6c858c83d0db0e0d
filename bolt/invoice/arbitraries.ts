/** Random invoices, for tests only. */

import fc from "fast-check";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";
import { MAX_SAT, msat } from "bolt/units.ts";
import { arbHash, arbScid, arbU16, arbU32, arbU64 } from "bolt/wire/arbitraries.ts";
import { Features } from "bolt/wire/features.ts";
import { FALLBACK_P2PKH, FALLBACK_P2SH } from "bolt/invoice/fallback.ts";
import { type Fallback, type InvoiceFields, MAX_TIMESTAMP, type RouteHop } from "bolt/invoice/types.ts";

/** Greatest odd feature bit that is generated, past what any table knows. */
const MAX_PAIR = 200;

/** A private key. */
export const arbSecret: fc.Arbitrary<Uint8Array> = arbHash.filter((bytes) => nobleEcc.isPrivate(bytes));

const points = Array.from({ length: 4 }, (_, i) => nobleEcc.pointFromSecret(new Uint8Array(32).fill(i + 1)));

const PLAIN = { noNullPrototype: true } as const;

const arbHop: fc.Arbitrary<RouteHop> = fc.record({
  pubkey: fc.constantFrom(...points),
  shortChannelId: arbScid,
  feeBaseMsat: arbU32,
  feeProportionalMillionths: arbU32,
  cltvExpiryDelta: arbU16,
}, PLAIN);

function program(version: number, minLength: number, maxLength: number): fc.Arbitrary<Fallback> {
  return fc.record(
    { version: fc.constant(version), program: fc.uint8Array({ minLength, maxLength }) },
    PLAIN,
  );
}

const arbFallback: fc.Arbitrary<Fallback> = fc.oneof(
  program(FALLBACK_P2PKH, 20, 20),
  program(FALLBACK_P2SH, 20, 20),
  program(0, 20, 20),
  program(0, 32, 32),
  program(1, 32, 32),
  fc.integer({ min: 2, max: 16 }).chain((version) => program(version, 2, 40)),
);

/** Features that every payer understands: any odd bit, and what BOLT 9 assumes. */
const arbFeatures: fc.Arbitrary<Features> = fc.array(
  fc.oneof(fc.nat(MAX_PAIR).map((pair) => 2 * pair + 1), fc.constantFrom(8, 14)),
  { maxLength: 6 },
).map((bits) => Features.of(...bits))
  // The odd bits of features that need another one beside them.
  .filter((features) => !features.hasBit(51) && !features.hasBit(61));

const arbDescription = fc.oneof(
  fc.record({
    description: fc.string({ unit: "grapheme", maxLength: 60 }),
    descriptionHash: fc.constant(null),
  }),
  fc.record({ description: fc.constant(null), descriptionHash: arbHash }),
);

/** What an invoice can say, of every kind of field. */
export const arbInvoiceFields: fc.Arbitrary<InvoiceFields> = fc.tuple(
  arbDescription,
  fc.record({
    network: fc.constantFrom("bitcoin", "testnet", "signet", "regtest", "simnet"),
    amountMsat: fc.option(fc.bigInt(1n, MAX_SAT * 1000n).map(msat)),
    timestamp: fc.bigInt(0n, MAX_TIMESTAMP),
    paymentHash: arbHash,
    paymentSecret: arbHash,
  }),
  fc.record({
    expirySeconds: arbU64,
    minFinalCltvExpiryDelta: arbU32,
    fallbacks: fc.array(arbFallback, { maxLength: 3 }),
    routeHints: fc.array(fc.array(arbHop, { minLength: 1, maxLength: 3 }), { maxLength: 3 }),
    features: arbFeatures,
    metadata: fc.uint8Array({ maxLength: 40 }),
  }, { requiredKeys: [] }),
).map(([description, must, may]) => ({ ...description, ...must, ...may }));
