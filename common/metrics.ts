/** Metrics of a process and its small HTTP port: /metrics for Prometheus, /healthz and /readyz for supervisors. */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

/** Buckets for what takes from a tenth of a millisecond to ten seconds, in seconds. */
export const SECONDS_BUCKETS: readonly number[] = [
  0.0001,
  0.0005,
  0.001,
  0.0025,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  10,
];

/** Names carry the unit: arcus_..._seconds, _bytes, _sat; counters end in _total. */
const NAME = /^arcus_[a-z0-9_]+$/;

/** What a daemon counts with. Asking for a name again gives the same metric, so daemons in one process share it. */
export interface Metrics {
  readonly registry: Registry;
  /** Counts up; the name ends in _total. */
  counter<L extends string = never>(name: string, help: string, labels?: readonly L[]): Counter<L>;
  /** Goes up and down. */
  gauge<L extends string = never>(name: string, help: string, labels?: readonly L[]): Gauge<L>;
  /** A distribution; by default of seconds. */
  histogram<L extends string = never>(
    name: string,
    help: string,
    labels?: readonly L[],
    buckets?: readonly number[],
  ): Histogram<L>;
}

function checkName(name: string, counter: boolean): void {
  if (!NAME.test(name) || name.endsWith("_total") !== counter) {
    throw new Error(`not a good name of a metric: ${name}`);
  }
}

/** Makes a registry. With `process`, it also holds memory, CPU and event loop of this process: once a process. */
export function createMetrics(options: { readonly process?: boolean } = {}): Metrics {
  const registry = new Registry();
  if (options.process) collectDefaultMetrics({ register: registry });
  const registered = <M>(name: string, kind: new (...args: never[]) => M, make: () => M): M => {
    const known = registry.getSingleMetric(name);
    if (known === undefined) return make();
    if (!(known instanceof kind)) throw new Error(`${name} is another kind of metric`);
    return known;
  };
  return {
    registry,
    counter(name, help, labels = []) {
      checkName(name, true);
      return registered(
        name,
        Counter,
        () => new Counter({ name, help, labelNames: labels, registers: [registry] }),
      );
    },
    gauge(name, help, labels = []) {
      checkName(name, false);
      return registered(
        name,
        Gauge,
        () => new Gauge({ name, help, labelNames: labels, registers: [registry] }),
      );
    },
    histogram(name, help, labels = [], buckets = SECONDS_BUCKETS) {
      checkName(name, false);
      return registered(
        name,
        Histogram,
        () => new Histogram({ name, help, labelNames: labels, buckets: [...buckets], registers: [registry] }),
      );
    },
  };
}

/** What the HTTP port asks. */
export interface MetricsServerOptions {
  /** "host:port"; port 0: any. */
  readonly address: string;
  readonly metrics: Metrics;
  /** Whether work can be given to this process now. */
  readonly ready: () => boolean | Promise<boolean>;
}

/** The running port. */
export interface MetricsServer {
  /** "host:port" as it is. */
  readonly address: string;
  close(): Promise<void>;
}

const text = (body: string, status: number): Response =>
  new Response(`${body}\n`, { status, headers: { "content-type": "text/plain; charset=utf-8" } });

async function answer(path: string, { metrics, ready }: MetricsServerOptions): Promise<Response> {
  switch (path) {
    case "/metrics":
      return new Response(await metrics.registry.metrics(), {
        headers: { "content-type": metrics.registry.contentType },
      });
    case "/healthz":
      return text("ok", 200);
    case "/readyz":
      return await ready() ? text("ready", 200) : text("not ready", 503);
  }
  return text("not found", 404);
}

/** Serves the port. Nothing there changes anything, and it answers only GET and HEAD. */
export function serveMetrics(options: MetricsServerOptions): MetricsServer {
  const at = options.address.lastIndexOf(":");
  const hostname = options.address.slice(0, at).replace(/^\[|\]$/g, "");
  const server = Deno.serve({
    hostname,
    port: Number(options.address.slice(at + 1)),
    onListen: () => {},
    onError: () => text("internal error", 500),
  }, (request) => {
    if (request.method !== "GET" && request.method !== "HEAD") return text("method not allowed", 405);
    return answer(new URL(request.url).pathname, options);
  });
  return {
    address: `${options.address.slice(0, at)}:${server.addr.port}`,
    close: () => server.shutdown(),
  };
}
