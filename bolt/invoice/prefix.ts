/** The human-readable part of an invoice: network and amount (BOLT 11, human-readable part). */

import { err, ok, type Result } from "bolt/result.ts";
import { MAX_SAT, type Msat, msat } from "bolt/units.ts";
import type { Network } from "bolt/wire/chain_hash.ts";
import type { InvoiceFault, InvoiceNetwork } from "bolt/invoice/types.ts";

/** Network and amount of an invoice. */
export interface InvoicePrefix {
  readonly network: InvoiceNetwork;
  readonly amountMsat: Msat | null;
}

/** What stands between "ln" and the amount: the prefixes of addresses (BIP 173). */
const CURRENCIES: Readonly<Record<InvoiceNetwork, string>> = {
  bitcoin: "bc",
  testnet: "tb",
  signet: "tbs",
  regtest: "bcrt",
  simnet: "sb",
};
const NETWORK_OF = new Map<string, InvoiceNetwork>(
  (Object.keys(CURRENCIES) as InvoiceNetwork[]).map((network) => [CURRENCIES[network], network]),
);

/** Tenths of a millisatoshi, so that a pico-bitcoin is whole. */
const TENTHS_PER_MSAT = 10n;
/** Value of one unit in tenths of a msat, the largest first. */
const MULTIPLIERS: readonly (readonly [letter: string, tenths: bigint])[] = [
  ["", 1_000_000_000_000n],
  ["m", 1_000_000_000n],
  ["u", 1_000_000n],
  ["n", 1_000n],
  ["p", 1n],
];
const TENTHS_OF = new Map(MULTIPLIERS);
/** Digits of {@link MAX_SAT} in pico-bitcoin: a longer number is not even read. */
const MAX_DIGITS = 20;
const PREFIX = /^ln([a-z]+)(.*)$/;
const AMOUNT = /^([1-9]\d*)([munp]?)$/;

/** How a network of the chain is called in invoices; testnet3 and testnet4 share their prefix. */
export function invoiceNetwork(network: Network): InvoiceNetwork {
  return network === "testnet4" ? "testnet" : network;
}

function parseAmount(text: string): Result<Msat, InvoiceFault> {
  const bad = (reason: string) => err({ type: "bad_amount", reason } as const);
  const [, digits, letter] = AMOUNT.exec(text) ?? [];
  const unit = TENTHS_OF.get(letter ?? "");
  if (digits === undefined || unit === undefined) {
    return bad("the amount is not a number without leading zeros and one of m, u, n, p");
  }
  if (digits.length > MAX_DIGITS) return bad("the amount is more than all bitcoin");
  const tenths = BigInt(digits) * unit;
  if (tenths % TENTHS_PER_MSAT !== 0n) return bad("the amount is not a whole number of millisatoshis");
  const amount = tenths / TENTHS_PER_MSAT;
  return amount > MAX_SAT * 1000n ? bad("the amount is more than all bitcoin") : ok(msat(amount));
}

/** Reads a lower-case human-readable part. */
export function parsePrefix(text: string): Result<InvoicePrefix, InvoiceFault> {
  const [, currency = "", rest = ""] = PREFIX.exec(text) ?? [];
  const network = NETWORK_OF.get(currency);
  if (network === undefined) {
    const reason = "it begins with none of lnbc, lntb, lntbs, lnbcrt, lnsb";
    return err({ type: "unknown_prefix", reason });
  }
  if (rest === "") return ok({ network, amountMsat: null });
  const amount = parseAmount(rest);
  return amount.ok ? ok({ network, amountMsat: amount.value }) : amount;
}

/** Writes the human-readable part, the amount in its shortest form. Fails for an amount of zero. */
export function formatPrefix({ network, amountMsat }: InvoicePrefix): Result<string, InvoiceFault> {
  const head = `ln${CURRENCIES[network]}`;
  if (amountMsat === null) return ok(head);
  const tenths = amountMsat * TENTHS_PER_MSAT;
  const multiplier = MULTIPLIERS.find(([, unit]) => tenths % unit === 0n);
  if (tenths === 0n || multiplier === undefined) {
    return err({ type: "bad_amount", reason: "an invoice cannot ask for nothing" });
  }
  const [letter, unit] = multiplier;
  return ok(`${head}${tenths / unit}${letter}`);
}
