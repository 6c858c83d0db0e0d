/** The load: workers that each make an invoice on one node and pay it from the other, one after the other. */
import { percentile } from "./figures.ts";

/** How an invoice is made and paid. */
export interface Payer {
  readonly name: string;
  invoice(msat: bigint, label: string): Promise<string>;
  /** Resolves once the payment is complete, rejects when it failed. */
  pay(bolt11: string): Promise<void>;
  close(): void;
}

/** What a load is asked for. It ends by itself: at the time or at the count, whichever comes first. */
export interface LoadOptions {
  readonly payer: Payer;
  readonly workers: number;
  readonly msat: bigint;
  readonly seconds: number;
  readonly payments: number;
}

/** What it did. Times are of `pay` alone, ms. */
export interface LoadResult {
  readonly payments: number;
  readonly failed: number;
  readonly seconds: number;
  readonly p50: number;
  readonly p99: number;
  /** The first failure's text; empty when none. */
  readonly failure: string;
}

let loads = 0;

/** Runs a load to its end. */
export async function runLoad(options: LoadOptions, onProgress: (done: number) => void): Promise<LoadResult> {
  const { payer, workers, msat, seconds, payments } = options;
  const load = `bench-${Date.now()}-${loads++}`;
  const times: number[] = [];
  let started = 0;
  let failed = 0;
  let failure = "";
  const begin = performance.now();
  const end = begin + seconds * 1000;
  const work = async () => {
    while (performance.now() < end && started < payments) {
      const label = `${load}-${started++}`;
      try {
        const bolt11 = await payer.invoice(msat, label);
        const from = performance.now();
        await payer.pay(bolt11);
        times.push(performance.now() - from);
        onProgress(times.length);
      } catch (error) {
        failed++;
        failure ||= error instanceof Error ? error.message : String(error);
        // A load that only fails says so instead of hammering.
        if (failed > workers && failed > times.length) return;
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  const took = (performance.now() - begin) / 1000;
  times.sort((a, b) => a - b);
  return {
    payments: times.length,
    failed,
    seconds: took,
    p50: percentile(times, 0.5),
    p99: percentile(times, 0.99),
    failure,
  };
}
