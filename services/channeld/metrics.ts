/** What channeld counts. */
import type { Metrics } from "common/metrics.ts";

/** The metrics of a replica. */
export type ChanneldMetrics = ReturnType<typeof channeldMetrics>;

/** Makes them. */
export function channeldMetrics(metrics: Metrics) {
  return {
    /** One observation a step that changes rows: the statement. */
    store: metrics.histogram("arcus_channeld_store_seconds", "Time of a step's statement."),
    hsmd: metrics.histogram("arcus_channeld_hsmd_seconds", "Time of a question to hsmd."),
    settled: metrics.counter("arcus_channeld_htlcs_settled_total", "HTLCs that are gone for good."),
  };
}
