/** Percentiles and what one run of a load is told as. */

/** The value below which a share of all values lies; NaN for none. */
export function percentile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) return NaN;
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

/** One load on one layout. Per payment: both nodes, their Postgres and the load together, unless a daemon is named. */
export interface Figures {
  readonly sat: number;
  readonly workers: number;
  readonly payments: number;
  readonly failed: number;
  readonly payments_per_second: number;
  readonly p50_ms: number;
  readonly p99_ms: number;
  readonly db_round_trips_per_payment: number;
  readonly statements_per_payment: number;
  readonly messages_per_payment: number;
  /** By process, "alice lightningd" and so on, "postgres", "load". */
  readonly cpu_ms_per_payment: Readonly<Record<string, number>>;
  readonly rss_mb: Readonly<Record<string, number>>;
}

const round = (value: number, digits = 2): number => Number(value.toFixed(digits));

/** Rounds every number of a value, for people and for JSON. */
export function rounded<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_, each) => typeof each === "number" ? round(each) : each));
}
