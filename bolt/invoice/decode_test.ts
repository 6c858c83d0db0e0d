import assert from "node:assert/strict";
import fc from "fast-check";
import { bech32 } from "@scure/base";
import { concatBytes } from "@noble/hashes/utils.js";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";
import { msat } from "bolt/units.ts";
import { Features } from "bolt/wire/features.ts";
import { arbInvoiceFields, arbSecret } from "bolt/invoice/arbitraries.ts";
import { decodeInvoice } from "bolt/invoice/decode.ts";
import { signedInvoice, unsignedInvoice } from "bolt/invoice/encode.ts";
import { invoiceSighash, TAG } from "bolt/invoice/fields.ts";
import {
  type FieldLetter,
  type Invoice,
  invoiceExpiresAt,
  type InvoiceFault,
  type InvoiceFields,
  MAX_INVOICE_LENGTH,
} from "bolt/invoice/types.ts";
import { bytesToWords, uintToWords } from "bolt/invoice/words.ts";

const KEY = new Uint8Array(32).fill(0x42);
const NODE = nobleEcc.pointFromSecret(KEY);
const HASH = new Uint8Array(32).fill(1);
const SECRET = new Uint8Array(32).fill(2);
const OTHER = new Uint8Array(32).fill(3);
const FIELDS: InvoiceFields = {
  network: "regtest",
  amountMsat: msat(12_345n),
  timestamp: 1_700_000_000n,
  paymentHash: HASH,
  paymentSecret: SECRET,
  description: "tea",
  descriptionHash: null,
};

function sign(hrp: string, words: Uint8Array, key = KEY): string {
  return signedInvoice({ hrp, words }, nobleEcc.signRecoverable(invoiceSighash(hrp, words), key));
}

/** An invoice of exactly these fields. */
function forge(...fields: readonly (readonly [FieldLetter | number, Uint8Array])[]): string {
  const parts = fields.flatMap(([letter, words]) => [
    Uint8Array.of(typeof letter === "number" ? letter : TAG[letter]),
    uintToWords(BigInt(words.length), 2),
    words,
  ]);
  return sign("lnbcrt", concatBytes(uintToWords(1_700_000_000n, 7), ...parts));
}

const P = ["p", bytesToWords(HASH)] as const;
const S = ["s", bytesToWords(SECRET)] as const;
const D = ["d", bytesToWords(new TextEncoder().encode("tea"))] as const;
const H = ["h", bytesToWords(OTHER)] as const;
const GOOD = [P, S, D] as const;

function read(text: string, understood?: Features): Invoice {
  const decoded = decodeInvoice(text, understood);
  assert.ok(decoded.ok, decoded.ok ? "" : decoded.error.reason);
  return decoded.value;
}

function refused(text: string, type: InvoiceFault["type"], field?: FieldLetter): void {
  const decoded = decodeInvoice(text);
  assert.ok(!decoded.ok, `${type} ${field ?? ""}`);
  assert.equal(decoded.error.type, type);
  assert.equal("field" in decoded.error ? decoded.error.field : undefined, field);
}

Deno.test("whatever an invoice says is read again, and whose it is", () => {
  fc.assert(
    fc.property(arbInvoiceFields, arbSecret, fc.boolean(), (fields, key, named) => {
      const payee = nobleEcc.pointFromSecret(key);
      const unsigned = unsignedInvoice(named ? { ...fields, payee } : fields);
      assert.ok(unsigned.ok);
      const seal = nobleEcc.signRecoverable(unsigned.value.sighash, key);
      const text = signedInvoice(unsigned.value, seal);
      assert.equal(text, text.toLowerCase());
      const { features, ...invoice } = read(text);
      const { features: given = Features.NONE, ...rest } = fields;
      assert.equal(features.toHex(), given.toHex());
      assert.deepEqual(invoice, {
        expirySeconds: 3600n,
        minFinalCltvExpiryDelta: 18,
        fallbacks: [],
        routeHints: [],
        metadata: null,
        ...rest,
        payee,
        ...seal,
        unknownFields: [],
      });
      assert.deepEqual(read(text.toUpperCase()).paymentHash, fields.paymentHash);
    }),
    { numRuns: 60 },
  );
});

Deno.test("garbage is refused and never throws", () => {
  const tails = fc.array(fc.nat(31), { maxLength: 400 });
  fc.assert(fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
    assert.equal(decodeInvoice(text).ok, false);
    assert.equal(decodeInvoice(`lnbc1${text}`).ok, false);
  }));
  // Past the checksum: any words at all.
  fc.assert(fc.property(fc.constantFrom("lnbc", "lnbc1m", "lntb10p"), tails, (hrp, words) => {
    const decoded = decodeInvoice(bech32.encode(hrp, words, false));
    if (!decoded.ok) assert.notEqual(decoded.error.type, "bad_bech32");
  }));
});

Deno.test("garbage in the fields of a signed invoice never throws", () => {
  const letters = fc.constantFrom<FieldLetter>("p", "s", "d", "m", "n", "h", "x", "c", "f", "r", "9");
  const words = fc.array(fc.nat(31), { maxLength: 110 }).map((list) => Uint8Array.from(list));
  const field = fc.tuple(fc.oneof(letters, fc.nat(31)), words);
  fc.assert(
    fc.property(fc.array(field, { maxLength: 4 }), (fields) => {
      const decoded = decodeInvoice(forge(...GOOD, ...fields));
      if (decoded.ok) assert.deepEqual(decoded.value.paymentHash, HASH);
      else assert.notEqual(decoded.error.type, "bad_bech32");
    }),
    { numRuns: 100 },
  );
});

Deno.test("one changed character is noticed", () => {
  const text = forge(...GOOD);
  fc.assert(fc.property(fc.nat(text.length - 1), fc.constantFrom(..."qpzry9x8"), (at, letter) => {
    fc.pre(text[at] !== letter);
    assert.equal(decodeInvoice(text.slice(0, at) + letter + text.slice(at + 1)).ok, false);
  }));
});

Deno.test("what must be there", () => {
  assert.equal(read(forge(...GOOD)).description, "tea");
  assert.equal(read(forge(P, S, H)).description, null);
  refused(forge(S, D), "missing_field", "p");
  refused(forge(P, D), "missing_field", "s");
  refused(forge(P, S), "missing_field", "d");
  refused(forge(P, S, D, H), "two_descriptions");
  assert.equal(read(forge(P, S, ["d", new Uint8Array()])).description, "");
});

Deno.test("the first of a kind counts, and a field of a wrong length does not", () => {
  const shorter = ["p", P[1].slice(1)] as const;
  const invoice = read(
    forge(shorter, P, ["p", bytesToWords(OTHER)], S, ["s", bytesToWords(OTHER)], D, [
      "d",
      bytesToWords(OTHER),
    ]),
  );
  assert.deepEqual([invoice.paymentHash, invoice.paymentSecret, invoice.description], [HASH, SECRET, "tea"]);
  assert.deepEqual(invoice.unknownFields.map(({ tag }) => tag), [TAG.p, TAG.p, TAG.s, TAG.d]);
  refused(forge(shorter, S, D), "missing_field", "p");
  refused(forge(P, ["s", S[1].slice(1)], D), "missing_field", "s");
  assert.deepEqual(read(forge(...GOOD, [31, Uint8Array.of(7)])).unknownFields, [
    { tag: 31, words: Uint8Array.of(7) },
  ]);
});

Deno.test("fields whose content cannot be", () => {
  const bytes = (...list: number[]) => bytesToWords(Uint8Array.from(list));
  const padded = P[1].slice();
  padded[51] = (padded[51] ?? 0) | 1;
  refused(forge(["p", padded], S, D), "bad_padding", "p");
  refused(forge(P, S, ["d", Uint8Array.of(0)]), "bad_padding", "d");
  refused(forge(P, S, ["d", bytes(0xc3, 0x28)]), "bad_field", "d");
  refused(forge(...GOOD, ["m", Uint8Array.of(0, 1)]), "bad_padding", "m");
  refused(forge(...GOOD, ["n", bytes(2, ...new Uint8Array(32).fill(0xff))]), "bad_field", "n");
  refused(forge(...GOOD, ["x", Uint8Array.of(0, 1)]), "not_minimal", "x");
  refused(forge(...GOOD, ["c", Uint8Array.of(0, 1)]), "not_minimal", "c");
  refused(forge(...GOOD, ["9", Uint8Array.of(0, 8)]), "not_minimal", "9");
  refused(forge(...GOOD, ["x", uintToWords(1n << 64n)]), "bad_field", "x");
  refused(forge(...GOOD, ["c", uintToWords(1n << 32n)]), "bad_field", "c");
  assert.equal(read(forge(...GOOD, ["x", uintToWords((1n << 64n) - 1n)])).expirySeconds, (1n << 64n) - 1n);
  assert.equal(read(forge(...GOOD, ["x", Uint8Array.of(0)])).expirySeconds, 0n);
  assert.equal(read(forge(...GOOD, ["c", new Uint8Array()])).minFinalCltvExpiryDelta, 0);
});

Deno.test("route hints: whole hops with real nodes", () => {
  const hop = concatBytes(NODE, new Uint8Array(18).fill(9));
  assert.equal(read(forge(...GOOD, ["r", bytesToWords(concatBytes(hop, hop))])).routeHints[0]?.length, 2);
  refused(forge(...GOOD, ["r", new Uint8Array()]), "bad_field", "r");
  refused(forge(...GOOD, ["r", bytesToWords(hop.slice(1))]), "bad_field", "r");
  for (const bad of [[5], [2, ...new Uint8Array(32).fill(0xff)]]) {
    const stranger = hop.slice();
    stranger.set(bad);
    refused(forge(...GOOD, ["r", bytesToWords(stranger)]), "bad_field", "r");
  }
});

Deno.test("fallbacks that nobody can pay to are skipped", () => {
  const fallback = (version: number, length: number) =>
    ["f", concatBytes(Uint8Array.of(version), bytesToWords(new Uint8Array(length).fill(1)))] as const;
  const invoice = read(forge(
    ...GOOD,
    fallback(31, 20),
    fallback(19, 32),
    fallback(17, 21),
    fallback(0, 21),
    fallback(1, 2),
    fallback(16, 41),
    ["f", new Uint8Array()],
    fallback(17, 20),
    fallback(16, 40),
  ));
  assert.deepEqual(invoice.fallbacks.map(({ version }) => version), [17, 16]);
  assert.equal(invoice.unknownFields.length, 7);
});

Deno.test("features: what must be understood, and what belongs together", () => {
  const features = (...bits: number[]): InvoiceFields => ({ ...FIELDS, features: Features.of(...bits) });
  const text = (fields: InvoiceFields) => {
    const unsigned = unsignedInvoice(fields);
    assert.ok(unsigned.ok);
    return sign(unsigned.value.hrp, unsigned.value.words);
  };
  assert.deepEqual(read(text(features(8, 14, 16, 48, 101))).features.bits(), [8, 14, 16, 48, 101]);
  assert.equal(read(text(features())).features.toHex(), "");
  for (const bit of [24, 36, 100, 1000]) {
    const decoded = decodeInvoice(text(features(8, 14, bit)));
    assert.ok(!decoded.ok && decoded.error.type === "unknown_features");
    assert.deepEqual(decoded.error.bits, [bit]);
  }
  assert.ok(decodeInvoice(text(features(24)), Features.of(25)).ok);
  refused(text(features(51)), "missing_dependency");
});

Deno.test("signatures: of the named node with a low s, or of whom it recovers", () => {
  const { words } = (() => {
    const unsigned = unsignedInvoice({ ...FIELDS, payee: NODE });
    assert.ok(unsigned.ok);
    return unsigned.value;
  })();
  const hrp = "lnbcrt123450p";
  assert.deepEqual(read(sign(hrp, words)).payee, NODE);
  refused(sign(hrp, words, OTHER), "bad_signature");
  const seal = nobleEcc.signRecoverable(invoiceSighash(hrp, words), KEY);
  // With a name the recovery id has no part in it.
  assert.ok(decodeInvoice(signedInvoice({ hrp, words }, { ...seal, recoveryId: seal.recoveryId ^ 1 })).ok);
  const parts = bech32.decode(sign(hrp, words) as `${string}1${string}`, false);
  const badId = bech32.encode(hrp, [...parts.words.slice(0, -1), 4], false);
  refused(badId, "bad_signature");
  refused(signedInvoice({ hrp, words }, { signature: new Uint8Array(64), recoveryId: 0 }), "bad_signature");
});

Deno.test("data that ends in the middle of something, or goes on for ever", () => {
  const time = uintToWords(0n, 7);
  refused(sign("lnbc", time.slice(1)), "truncated");
  refused(sign("lnbc", concatBytes(time, Uint8Array.of(1))), "truncated");
  refused(sign("lnbc", concatBytes(time, Uint8Array.of(1, 1))), "truncated");
  refused(sign("lnbc", concatBytes(time, Uint8Array.of(1, 0, 1))), "truncated");
  refused(sign("lnbc", time), "missing_field", "p");
  refused("lnbc1".padEnd(MAX_INVOICE_LENGTH + 1, "q"), "too_long");
  refused("lnbc1".padEnd(MAX_INVOICE_LENGTH, "q"), "bad_bech32");
});

Deno.test("an invoice is over at its time plus its expiry", () => {
  assert.equal(invoiceExpiresAt(read(forge(...GOOD))), 1_700_003_600n);
});
