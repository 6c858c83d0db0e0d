import assert from "node:assert/strict";
import { msat } from "bolt/units.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";
import { signedInvoice, unsignedInvoice } from "bolt/invoice/encode.ts";
import { isUnsignedInvoice } from "bolt/invoice/fields.ts";
import type { FieldLetter, InvoiceFault, InvoiceFields, RouteHop } from "bolt/invoice/types.ts";

const FIELDS: InvoiceFields = {
  network: "bitcoin",
  amountMsat: null,
  timestamp: 0n,
  paymentHash: new Uint8Array(32),
  paymentSecret: new Uint8Array(32),
  description: "",
  descriptionHash: null,
};
const HOP: RouteHop = {
  pubkey: Uint8Array.of(2, ...new Uint8Array(32).fill(1)),
  shortChannelId: shortChannelId(1n),
  feeBaseMsat: 0,
  feeProportionalMillionths: 0,
  cltvExpiryDelta: 0,
};

function refused(change: Partial<InvoiceFields>, type: InvoiceFault["type"], field?: FieldLetter): void {
  const unsigned = unsignedInvoice({ ...FIELDS, ...change });
  assert.ok(!unsigned.ok, type);
  assert.equal(unsigned.error.type, type);
  assert.equal("field" in unsigned.error ? unsigned.error.field : undefined, field);
}

Deno.test("what does not fit is refused before it is signed", () => {
  assert.ok(unsignedInvoice(FIELDS).ok);
  refused({ amountMsat: msat(0n) }, "bad_amount");
  refused({ timestamp: -1n }, "bad_timestamp");
  refused({ timestamp: 1n << 35n }, "bad_timestamp");
  refused({ description: null }, "missing_field", "d");
  refused({ descriptionHash: new Uint8Array(32) }, "two_descriptions");
  refused({ description: null, descriptionHash: new Uint8Array(31) }, "bad_field", "h");
  refused({ paymentHash: new Uint8Array(33) }, "bad_field", "p");
  refused({ paymentSecret: new Uint8Array(0) }, "bad_field", "s");
  refused({ payee: new Uint8Array(32) }, "bad_field", "n");
  refused({ description: "\ud800" }, "bad_field", "d");
  refused({ expirySeconds: 1n << 64n }, "bad_field", "x");
  refused({ expirySeconds: -1n }, "bad_field", "x");
  refused({ minFinalCltvExpiryDelta: 2 ** 32 }, "bad_field", "c");
  refused({ minFinalCltvExpiryDelta: 1.5 }, "bad_field", "c");
  refused({ fallbacks: [{ version: 0, program: new Uint8Array(21) }] }, "bad_field", "f");
  refused({ routeHints: [[]] }, "bad_field", "r");
  assert.throws(
    () => unsignedInvoice({ ...FIELDS, routeHints: [[{ ...HOP, feeBaseMsat: -1 }]] }),
    RangeError,
  );
});

Deno.test("the longest description and list of hops", () => {
  assert.ok(unsignedInvoice({ ...FIELDS, description: "x".repeat(639) }).ok);
  refused({ description: "x".repeat(640) }, "bad_field", "d");
  refused({ description: "ß".repeat(320) }, "bad_field", "d");
  assert.ok(unsignedInvoice({ ...FIELDS, metadata: new Uint8Array(639) }).ok);
  refused({ metadata: new Uint8Array(640) }, "bad_field", "m");
  const hint = Array.from({ length: 12 }, () => HOP);
  assert.ok(unsignedInvoice({ ...FIELDS, routeHints: [hint] }).ok);
  refused({ routeHints: [[...hint, HOP]] }, "bad_field", "r");
  refused({ routeHints: Array.from({ length: 7 }, () => hint) }, "too_long");
});

Deno.test("a signature has 64 bytes and names its key", () => {
  const unsigned = unsignedInvoice(FIELDS);
  assert.ok(unsigned.ok);
  const signature = new Uint8Array(64);
  assert.match(signedInvoice(unsigned.value, { signature, recoveryId: 3 }), /^lnbc1q/);
  for (const recoveryId of [-1, 4, 0.5]) {
    assert.throws(() => signedInvoice(unsigned.value, { signature, recoveryId }), RangeError);
  }
  assert.throws(
    () => signedInvoice(unsigned.value, { signature: signature.slice(1), recoveryId: 0 }),
    RangeError,
  );
});

Deno.test("a signer knows an invoice from other bytes", () => {
  const unsigned = unsignedInvoice(FIELDS);
  assert.ok(unsigned.ok);
  const { hrp, words } = unsigned.value;
  assert.equal(isUnsignedInvoice(hrp, words), true);
  assert.equal(isUnsignedInvoice("bc", words), false);
  assert.equal(isUnsignedInvoice("lnbc0m", words), false);
  assert.equal(isUnsignedInvoice(hrp, words.slice(0, 6)), false);
  assert.equal(isUnsignedInvoice(hrp, Uint8Array.of(...words, 32)), false);
});
