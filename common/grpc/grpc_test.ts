import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { credentials, loadPackageDefinition, Metadata } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { Echo, type EchoMessage } from "gen/arcus/testing/v1/testing_pb.ts";
import { client, dial, type DialOptions, openBidi } from "common/grpc/client.ts";
import { echoService } from "common/grpc/echo_service.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { createServer } from "common/grpc/server.ts";
import { waitFor } from "common/testing/wait.ts";
import { currentTrace, newTrace, runWithTrace } from "common/trace.ts";

const U64_MAX = 18446744073709551615n;
const BIG = new Uint8Array(64 * 1024).fill(7);
const DEADLINE_MS = 10_000;

/** grpc-js leaves timers of its own (deadlines, backoff, keepalive) that end after the call that set them. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

interface Logged {
  readonly message: string;
  readonly fields: object;
}

/** A server with Echo, a channel to it, and an end to both. */
async function start(options: DialOptions & { address?: string } = {}) {
  const { service, probe } = echoService();
  const logged: Logged[] = [];
  const note = (fields: object, message: string) => void logged.push({ message, fields });
  const server = createServer({ services: [service], log: { warn: note, error: note } });
  const address = await server.listen(options.address ?? "127.0.0.1:0");
  const channel = dial(address, options);
  return {
    address,
    channel,
    server,
    probe,
    logged,
    echo: client(Echo, channel),
    [Symbol.dispose]() {
      channel.close();
      server.closeAfterClients();
    },
  };
}

/** Runs a body with a server and closes it. */
async function withEcho(
  body: (echo: Awaited<ReturnType<typeof start>>) => Promise<void>,
  options?: Parameters<typeof start>[0],
): Promise<void> {
  using echo = await start(options);
  await body(echo);
}

/** A promise with its ends outside, that fails after a while. */
function event<T>(what: string): { readonly promise: Promise<T>; resolve(value: T): void } {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const timer = setTimeout(() => reject(new Error(`no ${what}`)), DEADLINE_MS);
  return {
    promise,
    resolve(value) {
      clearTimeout(timer);
      resolve(value);
    },
  };
}

async function failureOf(promise: Promise<unknown>): Promise<ArcusError> {
  try {
    await promise;
  } catch (error) {
    assert(error instanceof ArcusError, String(error));
    return error;
  }
  assert.fail("it did not fail");
}

async function* numbers(count: number): AsyncGenerator<{ number: bigint }> {
  for (let number = 0; number < count; number++) yield { number: BigInt(number) };
}

test("grpc: a unary call carries u64 and plain bytes", () =>
  withEcho(async ({ echo }) => {
    const answer = await echo.unary({ number: U64_MAX, data: new Uint8Array([1, 2, 3]) });
    assert.equal(answer.number, U64_MAX);
    assert.deepEqual(answer.data, new Uint8Array([1, 2, 3]));
    assert.equal(Object.getPrototypeOf(answer.data), Uint8Array.prototype);
  }));

test("grpc: streams of every kind", () =>
  withEcho(async ({ echo }) => {
    assert.equal((await echo.collect(numbers(100))).number, 4950n);
    const counted: bigint[] = [];
    for await (const message of echo.count({ order: { case: "count", value: 100 } })) {
      counted.push(message.number);
    }
    assert.deepEqual(counted, Array.from({ length: 100 }, (_, index) => BigInt(index)));
    const chatted: bigint[] = [];
    for await (const message of echo.chat(numbers(100))) chatted.push(message.number);
    assert.deepEqual(chatted, counted);
  }));

test("grpc: the callback form echoes a thousand messages in order", () =>
  withEcho(async ({ channel }) => {
    const stream = openBidi(channel, Echo.method.raw);
    const seen: bigint[] = [];
    const ended = event<ArcusError | undefined>("end");
    stream.onMessage((message) => {
      seen.push(message.number);
      if (seen.length === 1000) stream.end();
    });
    stream.onEnd(ended.resolve);
    let next = 0;
    const push = () => {
      while (next < 1000 && stream.write({ number: BigInt(next++) }));
    };
    stream.onDrain(push);
    push();
    assert.equal(await ended.promise, undefined);
    assert.deepEqual(seen, Array.from({ length: 1000 }, (_, index) => BigInt(index)));
    assert.equal(stream.write({ number: 1n }), false);
  }));

test("grpc: a reader that pauses holds the writer back, and resuming delivers everything", () =>
  withEcho(async ({ channel, probe }) => {
    const stream = openBidi(channel, Echo.method.raw);
    const first = event<void>("first message");
    const ended = event<ArcusError | undefined>("end");
    let received = 0;
    stream.onMessage(() => {
      if (received++ === 0) {
        stream.pause();
        first.resolve();
      }
    });
    stream.onEnd(ended.resolve);
    stream.write({ data: BIG, order: { case: "count", value: 1000 } });
    await first.promise;
    assert(
      probe.acceptedBeforeFull < 100,
      `the server's write took ${probe.acceptedBeforeFull} messages of 64 KiB`,
    );
    stream.end();
    stream.resume();
    assert.equal(await ended.promise, undefined);
    assert.equal(received, probe.acceptedBeforeFull);
  }));

test("grpc: an iterable source is not read ahead of a stalled server", () =>
  withEcho(async ({ echo }) => {
    let produced = 0;
    let release: () => void = () => {};
    async function* flood() {
      for (; produced < 500; produced++) yield { data: BIG };
    }
    const answers = echo.chat(flood());
    await answers.next();
    // Nobody reads the answers now: the server stops reading, so the source must stop far short of its end.
    let before = -1;
    while (before !== produced) {
      before = produced;
      await new Promise<void>((resolve) => {
        release = resolve;
        setTimeout(release, 200);
      });
    }
    assert(produced < 250, `produced ${produced}`);
    let rest = 1;
    for await (const _ of answers) rest++;
    assert.equal(rest, 500);
  }));

test("grpc: a named failure arrives as it was thrown", () =>
  withEcho(async ({ echo, logged }) => {
    for (
      const call of [
        () => echo.unary({ order: { case: "fail", value: "TOO_SMALL" } }),
        () => echo.count({ order: { case: "fail", value: "TOO_SMALL" } }).next(),
      ]
    ) {
      const error = await failureOf(call());
      assert.equal(error.code, Code.FAILED_PRECONDITION);
      assert.equal(error.reason, "TOO_SMALL");
      assert.equal(error.message, "as ordered — nach Wunsch");
      assert.equal(error.clnCode, -32602);
      assert.equal(error.channel, "ab".repeat(32));
      assert.equal(error.retryable, true);
      assert.deepEqual(error.details, { limit: "7" });
    }
    assert.deepEqual(logged, []);
  }));

test("grpc: a crash is INTERNAL, tells nothing, and is logged", () =>
  withEcho(async ({ echo, logged }) => {
    const error = await failureOf(echo.unary({ order: { case: "crash", value: "the seed is abandon" } }));
    assert.equal(error.code, Code.INTERNAL);
    assert.equal(error.reason, "INTERNAL");
    assert(!JSON.stringify([error.message, error.details]).includes("seed"));
    assert.equal(logged.length, 1);
    assert.equal((await echo.unary({ number: 1n })).number, 1n);
  }));

test("grpc: a failure in the middle of a stream arrives after what came before it", () =>
  withEcho(async ({ channel, echo }) => {
    async function* orders() {
      yield { number: 1n };
      yield { order: { case: "fail" as const, value: "HALFWAY" } };
    }
    const seen: bigint[] = [];
    const error = await failureOf((async () => {
      for await (const message of echo.chat(orders())) seen.push(message.number);
    })());
    assert.deepEqual(seen, [1n]);
    assert.equal(error.reason, "HALFWAY");

    const stream = openBidi(channel, Echo.method.chat);
    const ended = event<ArcusError | undefined>("end");
    stream.onMessage(() => {});
    stream.onEnd(ended.resolve);
    stream.write({ order: { case: "fail", value: "AT_ONCE" } });
    assert.equal((await ended.promise)?.reason, "AT_ONCE");
    assert.equal(stream.signal.aborted, true);
  }));

test("grpc: a listener that throws ends its stream, and nothing else", () =>
  withEcho(async ({ channel, echo, logged }) => {
    // At the server.
    const stream = openBidi(channel, Echo.method.raw);
    const ended = event<ArcusError | undefined>("end");
    stream.onMessage(() => {});
    stream.onEnd(ended.resolve);
    stream.write({ order: { case: "fail", value: "IN_A_LISTENER" } });
    assert.equal((await ended.promise)?.reason, "IN_A_LISTENER");
    const crashing = openBidi(channel, Echo.method.raw);
    const crashed = event<ArcusError | undefined>("end");
    crashing.onMessage(() => {});
    crashing.onEnd(crashed.resolve);
    crashing.write({ order: { case: "crash", value: "a secret" } });
    assert.equal((await crashed.promise)?.message, "internal error");
    assert.equal(logged.length, 1);
    // At the client.
    const mine = openBidi(channel, Echo.method.raw);
    const over = event<ArcusError | undefined>("end");
    mine.onMessage(() => {
      throw new Error("mine");
    });
    mine.onEnd(over.resolve);
    mine.write({});
    const error = await over.promise;
    assert.match(String(error?.cause), /mine/);
    assert.equal((await echo.unary({ number: 1n })).number, 1n);
  }));

test("grpc: a response that cannot be encoded is INTERNAL and logged", () =>
  withEcho(async ({ channel, logged }) => {
    const stream = openBidi(channel, Echo.method.raw);
    const ended = event<ArcusError | undefined>("end");
    stream.onMessage(() => {});
    stream.onEnd(ended.resolve);
    stream.write({ order: { case: "hang", value: true } });
    assert.equal((await ended.promise)?.code, Code.INTERNAL);
    assert.deepEqual(logged.map(({ message }) => message), ["a response cannot be encoded"]);
  }));

test("grpc: calls on a closed channel", () =>
  withEcho(async ({ address }) => {
    const channel = dial(address);
    channel.close();
    assert.equal((await failureOf(client(Echo, channel).unary({}))).reason, "CHANNEL_CLOSED");
    assert.throws(() => openBidi(channel, Echo.method.raw), (error) => error instanceof ArcusError);
  }));

test("grpc: hundreds of streams share one connection", () =>
  withEcho(async ({ channel, server }) => {
    const count = 300;
    const streams = Array.from({ length: count }, () => openBidi(channel, Echo.method.raw));
    let echoed = 0;
    for (const stream of streams) {
      stream.onMessage(() => void echoed++);
      stream.onEnd(() => {});
      stream.write({});
    }
    await waitFor(() => echoed === count, { what: "an echo on each" });
    assert.equal(server.inFlight, count);
    for (const stream of streams) stream.end();
    await waitFor(() => server.inFlight === 0, { what: "their end" });
  }));

test("grpc: what the caller's own source throws is what the caller sees", () =>
  withEcho(async ({ echo }) => {
    async function* broken() {
      yield { number: 1n };
      throw new Error("my own");
    }
    await assert.rejects(echo.collect(broken()), /my own/);
    await assert.rejects(async () => {
      for await (const _ of echo.chat(broken()));
    }, /my own/);
  }));

test("grpc: a deadline passes at both ends", () =>
  withEcho(async ({ echo, probe }) => {
    const error = await failureOf(echo.unary({ order: { case: "hang", value: true } }, { deadlineMs: 200 }));
    assert.equal(error.code, Code.DEADLINE_EXCEEDED);
    const context = probe.contexts[0];
    assert(context?.deadline instanceof Date);
    const over = event<void>("abort at the server");
    if (context.signal.aborted) over.resolve();
    context.signal.addEventListener("abort", () => over.resolve());
    await over.promise;
  }));

test("grpc: cancelling reaches the handler", () =>
  withEcho(async ({ channel, echo, probe, server }) => {
    const early = new AbortController();
    early.abort();
    assert.equal((await failureOf(echo.unary({}, { signal: early.signal }))).code, Code.CANCELLED);

    const controller = new AbortController();
    const stream = openBidi(channel, Echo.method.raw, { signal: controller.signal });
    const echoed = event<void>("echo");
    const ended = event<ArcusError | undefined>("end");
    stream.onMessage(() => echoed.resolve());
    stream.onEnd(ended.resolve);
    stream.write({});
    await echoed.promise;
    const over = event<void>("abort at the server");
    probe.contexts[0]?.signal.addEventListener("abort", () => over.resolve());
    assert.equal(server.inFlight, 1);
    controller.abort();
    assert.equal((await ended.promise)?.code, Code.CANCELLED);
    await over.promise;
    // Leaving a loop early cancels too.
    for await (const _ of echo.count({ order: { case: "count", value: 1_000_000 }, data: BIG })) break;
    const last = probe.contexts.at(-1);
    const left = event<void>("abort after break");
    if (last?.signal.aborted) left.resolve();
    last?.signal.addEventListener("abort", () => left.resolve());
    await left.promise;
  }));

test("grpc: a method without code is UNIMPLEMENTED, one without a service too", () =>
  withEcho(async ({ echo }) => {
    assert.equal((await failureOf(echo.nothing({}))).code, Code.UNIMPLEMENTED);
  }));

test("grpc: traceparent goes along and handlers run inside it", () =>
  withEcho(async ({ echo, probe }) => {
    const trace = newTrace();
    await runWithTrace(trace, () => echo.unary({}));
    assert.equal(probe.contexts[0]?.traceparent.slice(3, 35), trace.traceId);
    assert.notEqual(probe.contexts[0]?.traceparent.slice(36, 52), trace.spanId);
    await echo.unary({}, { metadata: { traceparent: "garbage" } });
    assert.match(probe.contexts[1]?.traceparent ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/);
    assert.equal(currentTrace(), undefined);
  }));

test("grpc: unix sockets, stale and live", async () => {
  const folder = await mkdtemp(join(tmpdir(), "arcus-grpc-"));
  try {
    const address = `unix:${join(folder, "echo.sock")}`;
    await writeFile(join(folder, "echo.sock"), "");
    await withEcho(async ({ echo, address: actual }) => {
      assert.equal(actual, address);
      assert.equal((await stat(join(folder, "echo.sock"))).mode & 0o777, 0o600);
      assert.equal((await echo.unary({ number: 5n })).number, 5n);
      await assert.rejects(start({ address }), /somebody is serving there/);
    }, { address });
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("grpc: a call without a server fails at once, and waits when told to", async () => {
  const folder = await mkdtemp(join(tmpdir(), "arcus-grpc-"));
  const address = `unix:${join(folder, "late.sock")}`;
  const channel = dial(address);
  try {
    const echo = client(Echo, channel);
    const error = await failureOf(echo.unary({}));
    assert.equal(error.code, Code.UNAVAILABLE);
    assert.equal(error.retryable, true);
    assert.equal((await failureOf(channel.ready(50))).reason, "NOT_CONNECTED");
    const waiting = echo.unary({ number: 9n }, { waitForReady: true });
    await withEcho(async () => {
      assert.equal((await waiting).number, 9n);
      await channel.ready(DEADLINE_MS);
      channel.close();
    }, { address });
  } finally {
    channel.close();
    await rm(folder, { recursive: true });
  }
});

test("grpc: a message above the limit is refused, and the server lives", () =>
  withEcho(async ({ echo, address }) => {
    const generous = dial(address, { maxMessageBytes: 64 * 1024 * 1024 });
    const error = await failureOf(client(Echo, generous).unary({ data: new Uint8Array(17 * 1024 * 1024) }));
    generous.close();
    assert.equal(error.code, Code.RESOURCE_EXHAUSTED);
    assert.equal((await echo.unary({ number: 1n })).number, 1n);
  }));

test("grpc: draining finishes what runs and refuses what comes", () =>
  withEcho(async ({ channel, echo, server, probe }) => {
    const stream = openBidi(channel, Echo.method.raw);
    const echoed = event<EchoMessage>("echo");
    const ended = event<ArcusError | undefined>("end");
    stream.onMessage(echoed.resolve);
    stream.onEnd(ended.resolve);
    stream.write({ number: 1n });
    await echoed.promise;
    const drained = server.drain(DEADLINE_MS);
    assert.equal(probe.contexts[0]?.draining.aborted, true);
    const error = await failureOf(echo.unary({}));
    assert.equal(error.code, Code.UNAVAILABLE);
    assert.equal(error.reason, "DRAINING");
    assert.equal((await failureOf(echo.chat(numbers(1)).next())).reason, "DRAINING");
    assert.equal((await failureOf(echo.collect(numbers(1)))).reason, "DRAINING");
    stream.end();
    assert.equal(await ended.promise, undefined);
    assert.equal(await drained, true);
  }));

test("grpc: draining is bounded, and a call counts until its handler is done", () =>
  withEcho(async ({ echo, server, probe }) => {
    const controller = new AbortController();
    const hanging = failureOf(
      echo.unary({ order: { case: "hang", value: true } }, { signal: controller.signal }),
    );
    await waitFor(() => probe.contexts.length === 1, { what: "the call at the server" });
    assert.equal(await server.drain(100), false);
    assert.equal(server.inFlight, 1);
    controller.abort();
    assert.equal((await hanging).code, Code.CANCELLED);
    await waitFor(() => server.inFlight === 0, { what: "the handler's end" });
    assert.equal(await server.drain(100), true);
  }));

test("grpc: mutual TLS tells the server who calls, and keeps strangers out", async () => {
  const pem = (name: string) => readFile(new URL(`./testdata/${name}.pem`, import.meta.url), "utf8");
  const files = async (name: string) => ({
    ca: await pem("authority"),
    cert: await pem(name),
    key: await pem(`${name}.key`),
  });
  const { service, probe } = echoService();
  const note = () => {};
  const server = createServer({
    services: [service],
    log: { warn: note, error: note },
    tls: await files("hsmd"),
  });
  const address = await server.listen("127.0.0.1:0");
  const known = dial(address, { tls: await files("connectd"), serverName: "hsmd" });
  assert.equal((await client(Echo, known).unary({ number: 4n })).number, 4n);
  assert.equal(probe.contexts[0]?.identity, "connectd");
  const refused: DialOptions[] = [
    { tls: await files("rogue"), serverName: "hsmd" },
    // The right server, but not the daemon that was wanted.
    { tls: await files("connectd"), serverName: "lightningd" },
    {},
  ];
  for (const options of refused) {
    const stranger = dial(address, options);
    assert.equal(
      (await failureOf(client(Echo, stranger).unary({}, { deadlineMs: 2_000 }))).code,
      Code.UNAVAILABLE,
    );
    stranger.close();
  }
  assert.equal(probe.contexts.length, 1);
  known.close();
  server.closeAfterClients();
});

/** A caller that knows nothing but the published protos of health and reflection. */
function generic(address: string, protoPath: string, name: string) {
  const definition = loadSync(protoPath, { enums: String, oneofs: true, defaults: true });
  let found: unknown = loadPackageDefinition(definition);
  for (const part of name.split(".")) found = (found as Record<string, unknown>)[part];
  const Service = found as new (
    address: string,
    credentials: unknown,
  ) => Record<string, (...args: unknown[]) => unknown> & {
    close(): void;
  };
  return new Service(address, credentials.createInsecure());
}

test("grpc: health says what serves, also through drain", async () => {
  const { protoPath } = await import("grpc-health-check");
  await withEcho(async ({ address, server }) => {
    const health = generic(address, protoPath, "grpc.health.v1.Health");
    const check = (service: string) =>
      new Promise((resolve) =>
        health.check?.(
          { service },
          new Metadata(),
          (error: { code: number } | null, answer?: { status: string }) =>
            resolve(error?.code ?? answer?.status),
        )
      );
    assert.equal(await check(""), "SERVING");
    assert.equal(await check("arcus.testing.v1.Echo"), "SERVING");
    assert.equal(await check("nobody"), Code.NOT_FOUND);
    await server.drain();
    assert.equal(await check("arcus.testing.v1.Echo"), "NOT_SERVING");
    health.close();
  });
});
