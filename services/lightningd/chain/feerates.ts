/** Fee rates from bitcoind's estimates, bounded as Core Lightning does. */
import { failedPrecondition } from "common/grpc/errors.ts";
import { feerate, FEERATE_FLOOR, type FeeratePerKw } from "bolt/units.ts";
import type { Feerates } from "../ports.ts";
import { type BitcoindRpc, field, RpcError } from "./bitcoind.ts";

/** Confirmation targets that are asked for, blocks. */
export const TARGETS = [2, 6, 12, 100] as const;
/** An open is not urgent. */
export const OPENING_TARGET = 12;
/** A commitment with anchors can be bumped, so it pays a low rate; above this floor it still gets into mempools. */
const COMMITMENT_TARGET = 100;
const COMMITMENT_URGENT_TARGET = 6;
const COMMITMENT_LEAST: FeeratePerKw = feerate(1_250);
/** A peer may ask half of the lowest estimate, and ten times the highest. */
const LEAST_ACCEPTED_DIVISOR = 2;
const MOST_ACCEPTED_FACTOR = 10;
/** How long an answer is used again. */
const FRESH_MS = 30_000;
const SAT_PER_BTC = 1e8;
/** sat/kvB are 4 sat/kw. */
const VBYTE_WEIGHT = 4;
/** No estimate above it is believed (sat/kw): a rate that takes all coins as fees is a mistake of bitcoind's. */
const MAX_BELIEVED = 1_000_000;

/** The options of the same names. */
export interface FeerateConfig {
  readonly network: string;
  readonly fallback: FeeratePerKw;
  /** opening, mutual close, unilateral close, penalty; the last one stands for the missing. */
  readonly forced?: readonly number[];
  /** Percentage of the estimate that a commitment pays. */
  readonly commitFeePercent: number;
  readonly minFeerate: FeeratePerKw;
  readonly maxFeerate?: FeeratePerKw;
  readonly ignoreLimits: boolean;
}

/** One estimate. */
export type Estimate = Feerates["estimates"][number];

/** sat/kw from bitcoind's BTC/kvB, rounded up. */
export function fromBtcPerKvb(value: number): FeeratePerKw {
  const perKvb = Math.round(value * SAT_PER_BTC);
  return feerate(Math.min(MAX_BELIEVED, Math.ceil(perKvb / VBYTE_WEIGHT)));
}

/** The estimate for a target: of the nearest lower one, else of the lowest there is. */
export function estimateFor(estimates: readonly Estimate[], blocks: number): FeeratePerKw | undefined {
  const fitting = estimates.filter((estimate) => estimate.blockcount <= blocks);
  return (fitting.at(-1) ?? estimates[0])?.feerate;
}

/** All rates from the estimates; undefined while there is no estimate and no fallback may be used. */
export function deriveFeerates(
  estimates: readonly Estimate[],
  floor: FeeratePerKw,
  config: FeerateConfig,
): Feerates | undefined {
  const atLeast = (rate: number) => feerate(Math.min(MAX_BELIEVED, Math.max(Math.ceil(rate), floor)));
  const fallback = config.network === "regtest" ? config.fallback : undefined;
  const of = (blocks: number) => estimateFor(estimates, blocks) ?? fallback;
  const opening = config.forced?.[0] ?? of(OPENING_TARGET);
  const low = of(COMMITMENT_TARGET);
  const urgent = of(COMMITMENT_URGENT_TARGET);
  if (opening === undefined || low === undefined || urgent === undefined) return undefined;
  const lowball = Math.max(low, Math.min(urgent, COMMITMENT_LEAST));
  const commitment = config.forced?.[2] ?? config.forced?.at(-1) ??
    (lowball * config.commitFeePercent) / 100;
  const highest = Math.max(opening, commitment, ...estimates.map((estimate) => estimate.feerate));
  const min = config.ignoreLimits ? 1 : Math.max(low / LEAST_ACCEPTED_DIVISOR, config.minFeerate, floor);
  const max = config.ignoreLimits ? MAX_BELIEVED : config.maxFeerate ?? highest * MOST_ACCEPTED_FACTOR;
  return {
    opening: atLeast(opening),
    commitment: atLeast(commitment),
    minAcceptable: feerate(Math.ceil(min)),
    maxAcceptable: feerate(Math.min(MAX_BELIEVED, Math.ceil(max))),
    floor,
    estimates: estimates.map((estimate) => ({ ...estimate, feerate: atLeast(estimate.feerate) })),
  };
}

/** Asks bitcoind, and remembers for a while. */
export class FeerateSource {
  #last: { readonly at: number; readonly value: Feerates } | undefined;
  #asking: Promise<Feerates> | undefined;

  constructor(
    private readonly rpc: BitcoindRpc,
    private readonly config: FeerateConfig,
  ) {}

  /** Throws FEERATE_UNKNOWN, or what the RPC throws. */
  async get(): Promise<Feerates> {
    if (this.#last !== undefined && performance.now() - this.#last.at < FRESH_MS) return this.#last.value;
    this.#asking ??= this.#ask().finally(() => this.#asking = undefined);
    return await this.#asking;
  }

  async #ask(): Promise<Feerates> {
    const answers = await this.rpc.batch([
      ...TARGETS.map((target) => ({ method: "estimatesmartfee", params: [target] })),
      { method: "getmempoolinfo", params: [] },
    ]);
    const estimates = TARGETS.flatMap((target, i) => {
      const rate = field(answers[i], "feerate");
      return typeof rate === "number" && rate > 0
        ? [{ blockcount: target, feerate: fromBtcPerKvb(rate) }]
        : [];
    });
    const info = answers[TARGETS.length];
    if (info instanceof RpcError) throw info;
    const relay = ["mempoolminfee", "minrelaytxfee"].map((name) => field(info, name))
      .flatMap((rate) => typeof rate === "number" ? [fromBtcPerKvb(rate)] : []);
    const floor = feerate(Math.max(FEERATE_FLOOR, ...relay));
    const value = deriveFeerates(estimates, floor, this.config);
    if (value === undefined) {
      throw failedPrecondition("FEERATE_UNKNOWN", "bitcoind has no fee estimate yet", { retryable: true });
    }
    this.#last = { at: performance.now(), value };
    return value;
  }
}
