/** Amounts as people write them. */

/** All bitcoin there will ever be, in millisatoshi. */
export const MAX_MSAT = 2_100_000_000_000_000_000n;
const MSAT_PER_SAT = 1_000n;
const BTC_DECIMALS = 11;
const AMOUNT = /^(\d{1,19})(?:\.(\d{1,11}))?(msat|sat|btc)?$/;

/**
 * Millisatoshi of "1000sat", "5msat", "0.001btc", or a bare whole number, which is satoshi if `bareSat`, else millisatoshi. Sat
 * and msat are whole; undefined for anything else, and beyond {@link MAX_MSAT}.
 */
export function parseMsat(text: string, bareSat: boolean): bigint | undefined {
  const [, whole, decimals, unit] = AMOUNT.exec(text) ?? [];
  if (whole === undefined || (decimals !== undefined && unit !== "btc")) return undefined;
  const value = unit === "btc"
    ? BigInt(whole + (decimals ?? "").padEnd(BTC_DECIMALS, "0"))
    : BigInt(whole) * (unit === "sat" || (unit === undefined && bareSat) ? MSAT_PER_SAT : 1n);
  return value <= MAX_MSAT ? value : undefined;
}

/** "1,234.567 sat" of millisatoshi, for people. */
export function formatMsat(msat: bigint): string {
  const whole = (msat / MSAT_PER_SAT).toString().replace(/\B(?=(\d{3})+$)/g, ",");
  const rest = msat % MSAT_PER_SAT;
  return rest === 0n ? `${whole} sat` : `${whole}.${rest.toString().padStart(3, "0")} sat`;
}
