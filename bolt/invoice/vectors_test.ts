/** BOLT 11's own examples, valid and invalid. */
import assert from "node:assert/strict";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { bech32 } from "@scure/base";
import { nobleEcc } from "bolt/crypto/noble_ecc.ts";
import { Features } from "bolt/wire/features.ts";
import { formatShortChannelId } from "bolt/wire/short_channel_id.ts";
import { decodeInvoice } from "bolt/invoice/decode.ts";
import { signedInvoice, unsignedInvoice } from "bolt/invoice/encode.ts";
import { fallbackScript } from "bolt/invoice/fallback.ts";
import { invoiceSighash, SIGNATURE_WORDS } from "bolt/invoice/fields.ts";
import type { Invoice, InvoiceFault } from "bolt/invoice/types.ts";
import { padWords } from "bolt/invoice/words.ts";
import invalid from "tests/data/bolt11/invalid.json" with { type: "json" };
import valid from "tests/data/bolt11/valid.json" with { type: "json" };

const COFFEE_HASH = "0001020304050607080900010203040506070809000102030405060708090102";
const CAKE_HASH = "3925b6f67e2c340036ed12093dd44e0368df1b6ea26c53dbe4811f58fd5db8c1";
const BASIC = Features.of(8, 14).toHex();

/** What a person would check. */
function essence(invoice: Invoice) {
  return {
    network: invoice.network,
    amount: invoice.amountMsat,
    timestamp: invoice.timestamp,
    hash: bytesToHex(invoice.paymentHash),
    description: invoice.description,
    descriptionHash: invoice.descriptionHash === null ? null : bytesToHex(invoice.descriptionHash),
    payee: bytesToHex(invoice.payee),
    expiry: invoice.expirySeconds,
    delta: invoice.minFinalCltvExpiryDelta,
    fallbacks: invoice.fallbacks.map((fallback) => bytesToHex(fallbackScript(fallback))),
    hints: invoice.routeHints.map((hops) =>
      hops.map((hop) => [
        bytesToHex(hop.pubkey),
        formatShortChannelId(hop.shortChannelId),
        hop.feeBaseMsat,
        hop.feeProportionalMillionths,
        hop.cltvExpiryDelta,
      ])
    ),
    features: invoice.features.toHex(),
    metadata: invoice.metadata === null ? null : bytesToHex(invoice.metadata),
    skipped: invoice.unknownFields.map(({ tag, words }) => [tag, words.length]),
  };
}

const BASE: ReturnType<typeof essence> = {
  network: "bitcoin",
  amount: null,
  timestamp: 1496314658n,
  hash: COFFEE_HASH,
  description: null,
  descriptionHash: null,
  payee: valid.node_id,
  expiry: 3600n,
  delta: 18,
  fallbacks: [],
  hints: [],
  features: BASIC,
  metadata: null,
  skipped: [],
};
const msat = (amount: bigint) => amount as Invoice["amountMsat"];
const CAKE = { ...BASE, amount: msat(2_000_000_000n), descriptionHash: CAKE_HASH };
const BEANS = {
  ...BASE,
  amount: msat(2_500_000_000n),
  description: "coffee beans",
  features: Features.of(8, 14, 99).toHex(),
};

/** What each example says, by the first words of its name. */
const EXPECTED: readonly (readonly [name: string, expected: ReturnType<typeof essence>])[] = [
  ["Please make a donation", { ...BASE, description: "Please consider supporting this project" }],
  ["Please send $3", { ...BASE, amount: msat(250_000_000n), description: "1 cup coffee", expiry: 60n }],
  ["Please send 0.0025 BTC", {
    ...BASE,
    amount: msat(250_000_000n),
    description: "ナンセンス 1杯",
    expiry: 60n,
  }],
  ["Now send $24", CAKE],
  ["The same, on testnet", {
    ...CAKE,
    network: "testnet",
    fallbacks: ["76a9143172b5654f6683c8fb146959d347ce303cae4ca788ac"],
  }],
  ["On mainnet, with fallback address 1Rusty", {
    ...CAKE,
    fallbacks: ["76a91404b61f7dc1ea0dc99424464cc4064dc564d91e8988ac"],
    hints: [[
      ["029e03a901b85534ff1e92c43c74431f7ce72046060fcf7a95c37e148f78c77255", "66051x263430x1800", 1, 20, 3],
      ["039e03a901b85534ff1e92c43c74431f7ce72046060fcf7a95c37e148f78c77255", "197637x395016x2314", 2, 30, 4],
    ]],
  }],
  ["On mainnet, with fallback (P2SH)", {
    ...CAKE,
    fallbacks: ["a9148f55563b9a19f321c211e9b9f38cdf686ea0784587"],
  }],
  ["On mainnet, with fallback (P2WPKH)", {
    ...CAKE,
    fallbacks: ["0014751e76e8199196d454941c45d1b3a323f1433bd6"],
  }],
  ["On mainnet, with fallback (P2WSH)", {
    ...CAKE,
    fallbacks: ["00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262"],
  }],
  ["On mainnet, with fallback (P2TR)", {
    ...CAKE,
    fallbacks: ["51200adac43daa9c8a5a68e09ea10692b82226ee190e572db9b90e17a410484ab405"],
  }],
  ["Please send 0.00967878534 BTC", {
    ...BASE,
    amount: msat(967_878_534n),
    timestamp: 1572468703n,
    hash: "462264ede7e14047e9b249da94fefc47f41f7d02ee9b091815a5506bc8abf75f",
    description:
      'Blockstream Store: 88.85 USD for Blockstream Ledger Nano S x 1, "Back In My Day" Sticker x 2, "I Got Lightning Working" Sticker x 2 and 1 more items',
    expiry: 604_800n,
    delta: 10,
    hints: [[
      [
        "03d06758583bb5154774a6eb221b1276c9e82d65bbaceca806d90e20c108f4b1c7",
        "589390x3312x1",
        1000,
        2500,
        40,
      ],
    ]],
  }],
  ["Please send $30", BEANS],
  ["Same, but all upper case", BEANS],
  ["Same, but including fields which must be ignored", {
    ...BEANS,
    skipped: [
      [10, 3],
      [9, 33],
      [1, 51],
      [1, 53],
      [23, 51],
      [23, 53],
      [16, 51],
      [16, 53],
      [19, 52],
      [19, 54],
    ],
  }],
  ["Please send 0.01 BTC with payment metadata", {
    ...BASE,
    amount: msat(1_000_000_000n),
    description: "payment metadata inside",
    metadata: "01fafaf0",
    features: Features.of(8, 14, 48).toHex(),
  }],
  ["Public-key recovery with high-S signature", {
    ...BASE,
    description: "Please consider supporting this project",
    payee: "02d0139ce7427d6dfffd26a326c18be754ef1e64672b42694ba5b23ef6e6e7803d",
  }],
];

/** The fault of each invalid example, in order. */
const FAULTS: readonly InvoiceFault["type"][] = [
  "unknown_features",
  "bad_bech32",
  "bad_bech32",
  "bad_bech32",
  "bad_signature",
  "truncated",
  "bad_amount",
  "bad_amount",
  "missing_field",
  "bad_signature",
];

/** The examples whose fields stand in the order in which they are written here. */
const SAME_ORDER = [0, 1, 2, 3, 5, 9];

Deno.test("BOLT 11: the valid examples say what they say", () => {
  assert.equal(valid.cases.length, EXPECTED.length);
  for (const [index, { name, invoice }] of valid.cases.entries()) {
    const [title, expected] = EXPECTED[index] ?? assert.fail();
    assert.ok(name.startsWith(title), name);
    const decoded = decodeInvoice(invoice);
    assert.ok(decoded.ok, name);
    assert.deepEqual(essence(decoded.value), expected, name);
    assert.equal(bytesToHex(decoded.value.paymentSecret), valid.payment_secret, name);
  }
});

Deno.test("BOLT 11: signed data, hash and signature of the valid examples", () => {
  const described = valid.cases.filter(({ sighash }) => sighash !== undefined);
  assert.equal(described.length, 11);
  for (const { name, invoice, signature, recovery_id, signed_data, sighash } of described) {
    const { prefix, words } = bech32.decode(invoice as `${string}1${string}`, false);
    const signed = Uint8Array.from(words.slice(0, -SIGNATURE_WORDS));
    assert.equal(
      bytesToHex(concatBytes(new TextEncoder().encode(prefix), padWords(signed))),
      signed_data,
      name,
    );
    assert.equal(bytesToHex(invoiceSighash(prefix, signed)), sighash, name);
    const decoded = decodeInvoice(invoice);
    assert.ok(decoded.ok, name);
    assert.equal(bytesToHex(decoded.value.signature), signature, name);
    assert.equal(decoded.value.recoveryId, recovery_id, name);
  }
});

Deno.test("BOLT 11: the valid examples are written again, byte for byte", () => {
  for (const index of SAME_ORDER) {
    const { name, invoice } = valid.cases[index] ?? assert.fail();
    const decoded = decodeInvoice(invoice);
    assert.ok(decoded.ok, name);
    const { payee: _, metadata: __, expirySeconds, minFinalCltvExpiryDelta, ...fields } = decoded.value;
    const unsigned = unsignedInvoice({
      ...fields,
      ...(expirySeconds === 3600n ? {} : { expirySeconds }),
      ...(minFinalCltvExpiryDelta === 18 ? {} : { minFinalCltvExpiryDelta }),
    });
    assert.ok(unsigned.ok, name);
    const seal = nobleEcc.signRecoverable(unsigned.value.sighash, hexToBytes(valid.private_key));
    assert.equal(signedInvoice(unsigned.value, seal), invoice, name);
  }
});

Deno.test("BOLT 11: the invalid examples are refused, each for its reason", () => {
  assert.equal(invalid.cases.length, FAULTS.length);
  for (const [index, { name, invoice }] of invalid.cases.entries()) {
    const decoded = decodeInvoice(invoice);
    assert.ok(!decoded.ok, name);
    assert.equal(decoded.error.type, FAULTS[index], name);
    assert.ok(!decoded.error.reason.includes(invoice.slice(0, 12)), name);
  }
});
