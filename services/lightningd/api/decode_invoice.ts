/** decode: what is in an invoice (BOLT 11) as the contract shows it. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import { address as addresses, networks } from "bitcoinjs-lib";
import { toDer } from "bolt/crypto/der.ts";
import { FALLBACK_P2PKH, FALLBACK_P2SH, fallbackScript } from "bolt/invoice/fallback.ts";
import type { Fallback, Invoice, InvoiceNetwork } from "bolt/invoice/types.ts";
import { formatShortChannelId } from "bolt/wire/short_channel_id.ts";
import { sanitize } from "common/log.ts";
import {
  DecodeFallbacks_DecodeFallbacksType as FallbackType,
  type DecodeFallbacksSchema,
  DecodeResponse_DecodeType as DecodeType,
  type DecodeResponseSchema,
} from "gen/cln/node_pb.ts";
import { given } from "./values.ts";

const CURRENCIES: Readonly<Record<InvoiceNetwork, string>> = {
  bitcoin: "bc",
  testnet: "tb",
  signet: "tbs",
  regtest: "bcrt",
  simnet: "sb",
};
const BECH32_PREFIXES: Readonly<Record<InvoiceNetwork, string>> = {
  bitcoin: "bc",
  testnet: "tb",
  signet: "tb",
  regtest: "bcrt",
  simnet: "sb",
};
const LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/** Longest text of a stranger that is shown. */
const MAX_TEXT = 2_048;
const HASH160_LENGTH = 20;

function addressOf({ version, program }: Fallback, network: InvoiceNetwork): string {
  const { pubKeyHash, scriptHash } = network === "bitcoin" ? networks.bitcoin : networks.testnet;
  if (version === FALLBACK_P2PKH) return addresses.toBase58Check(program, pubKeyHash);
  if (version === FALLBACK_P2SH) return addresses.toBase58Check(program, scriptHash);
  return addresses.toBech32(program, version, BECH32_PREFIXES[network]);
}

function typeOf({ version, program }: Fallback): FallbackType | undefined {
  if (version === FALLBACK_P2PKH) return FallbackType.P2PKH;
  if (version === FALLBACK_P2SH) return FallbackType.P2SH;
  if (version === 0) return program.length === HASH160_LENGTH ? FallbackType.P2WPKH : FallbackType.P2WSH;
  return version === 1 ? FallbackType.P2TR : undefined;
}

function toFallbacks(invoice: Invoice): MessageInitShape<typeof DecodeFallbacksSchema>[] {
  return invoice.fallbacks.flatMap((fallback) => {
    const itemType = typeOf(fallback);
    if (itemType === undefined) return [];
    return [{ itemType, addr: addressOf(fallback, invoice.network), hex: fallbackScript(fallback) }];
  });
}

function toRoutes({ routeHints }: Invoice) {
  if (routeHints.length === 0) return undefined;
  return {
    hints: routeHints.map((hops) => ({
      hops: hops.map((hop) => ({
        pubkey: hop.pubkey,
        shortChannelId: formatShortChannelId(hop.shortChannelId),
        feeBaseMsat: { msat: BigInt(hop.feeBaseMsat) },
        feeProportionalMillionths: hop.feeProportionalMillionths,
        cltvExpiryDelta: hop.cltvExpiryDelta,
      })),
    })),
  };
}

/** The answer of decode. Text of a stranger is made harmless. */
export function toDecoded(invoice: Invoice): MessageInitShape<typeof DecodeResponseSchema> {
  const features = invoice.features.toBytes();
  return {
    itemType: DecodeType.BOLT11_INVOICE,
    valid: true,
    currency: CURRENCIES[invoice.network],
    createdAt: invoice.timestamp,
    expiry: invoice.expirySeconds,
    payee: invoice.payee,
    paymentHash: invoice.paymentHash,
    paymentSecret: invoice.paymentSecret,
    minFinalCltvExpiry: invoice.minFinalCltvExpiryDelta,
    signature: bytesToHex(toDer(invoice.signature)),
    fallbacks: toFallbacks(invoice),
    extra: invoice.unknownFields.map(({ tag, words }) => ({
      tag: LETTERS[tag] ?? "",
      data: [...words].map((word) => LETTERS[word]).join(""),
    })),
    ...given({
      amountMsat: invoice.amountMsat === null ? undefined : { msat: invoice.amountMsat },
      description: invoice.description === null ? undefined : sanitize(invoice.description, MAX_TEXT),
      descriptionHash: invoice.descriptionHash ?? undefined,
      paymentMetadata: invoice.metadata ?? undefined,
      features: features.length === 0 ? undefined : features,
      routes: toRoutes(invoice),
    }),
  };
}
