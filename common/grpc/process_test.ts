import assert from "node:assert/strict";
import { Echo } from "gen/arcus/testing/v1/testing_pb.ts";
import { client, dial, openBidi } from "common/grpc/client.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { type Program, startProgram } from "common/testing/process.ts";
import { waitFor } from "common/testing/wait.ts";

const MAIN = import.meta.resolve("./echo_main.ts");
const CALLER = import.meta.resolve("./echo_caller.ts");
const CANARY_ROUNDS = 12;

/** grpc-js leaves timers of its own that end after the call that set them. */
function test(name: string, fn: () => Promise<void>, ignore = false): void {
  Deno.test({ name, fn, ignore, sanitizeOps: false, sanitizeResources: false });
}

async function startEcho(
  address = "127.0.0.1:0",
  mode = "drain",
): Promise<{ program: Program; address: string }> {
  const program = startProgram(MAIN, { args: [address, mode] });
  const [actual] = await program.said(/127\.0\.0\.1:\d+/);
  return { program, address: actual };
}

test("grpc process: SIGTERM lets the call under way finish, refuses the next, and ends with 0", async () => {
  const { program, address } = await startEcho();
  const channel = dial(address);
  const echo = client(Echo, channel);
  await echo.unary({ number: 1n });
  const stream = openBidi(channel, Echo.method.raw);
  const numbers: bigint[] = [];
  const ended = Promise.withResolvers<ArcusError | undefined>();
  stream.onMessage((message) => void numbers.push(message.number));
  stream.onEnd(ended.resolve);
  stream.write({ number: 1n });
  await waitFor(() => numbers.length === 1, { what: "an echo" });
  program.kill("SIGTERM");
  await waitFor(
    () =>
      echo.unary({}).then(() => false, (error) => error instanceof ArcusError && error.reason === "DRAINING"),
    { what: "a refusal" },
  );
  stream.write({ number: 2n });
  stream.end();
  assert.equal(await waitFor(ended.promise, { what: "the end of the stream" }), undefined);
  assert.deepEqual(numbers, [1n, 2n]);
  assert.equal((await program.ended()).code, 0);
  channel.close();
});

test("grpc process: kill -9 is told to streams at once, and the channel finds the successor", async () => {
  const { program, address } = await startEcho();
  const channel = dial(address);
  const stream = openBidi(channel, Echo.method.raw);
  const echoed = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<ArcusError | undefined>();
  stream.onMessage(() => echoed.resolve());
  stream.onEnd(ended.resolve);
  stream.write({});
  await waitFor(echoed.promise, { what: "an echo" });
  program.kill("SIGKILL");
  assert.equal((await waitFor(ended.promise, { what: "the loss" }))?.code, Code.UNAVAILABLE);
  await program.ended();
  const waiting = client(Echo, channel).unary({ number: 7n }, { waitForReady: true });
  const successor = await startEcho(address);
  assert.equal((await waiting).number, 7n);
  channel.close();
  successor.program.kill("SIGKILL");
  await successor.program.ended();
});

test("grpc process: a server that is stopped but not dead is noticed by keepalive", async () => {
  const { program, address } = await startEcho();
  const channel = dial(address, { keepaliveTimeMs: 500, keepaliveTimeoutMs: 500 });
  const stream = openBidi(channel, Echo.method.raw);
  const echoed = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<ArcusError | undefined>();
  stream.onMessage(() => echoed.resolve());
  stream.onEnd(ended.resolve);
  stream.write({});
  await waitFor(echoed.promise, { what: "an echo" });
  program.kill("SIGSTOP");
  assert.equal((await waitFor(ended.promise, { what: "keepalive" }))?.code, Code.UNAVAILABLE);
  program.kill("SIGCONT");
  assert.equal((await client(Echo, channel).unary({ number: 3n }, { waitForReady: true })).number, 3n);
  channel.close();
  program.kill("SIGKILL");
  await program.ended();
});

/** What becomes of a client process when its server is ended with SIGTERM. */
async function clientAfter(mode: "drain" | "graceful") {
  const { program, address } = await startEcho(undefined, mode);
  const caller = startProgram(CALLER, { args: [address], v8Flags: "--expose-gc" });
  await caller.said(/ready/);
  program.kill("SIGTERM");
  await program.ended();
  await caller.tell("\n").catch(() => {});
  return await caller.ended();
}

test("grpc process: a client survives the drain of its server, also after garbage collections", async () => {
  const { code, output } = await clientAfter("drain");
  assert.equal(code, 0, output);
  assert.match(output, /alive/);
});

// Dies about every second time, so it is no part of a run that must be green: ARCUS_TEST_CANARY=1 deno test -A common/grpc/process_test.ts
test(
  "grpc canary: a client does not survive GOAWAY; when this fails, graceful shutdown may be allowed",
  async () => {
    let died = 0;
    for (let round = 0; round < CANARY_ROUNDS; round++) {
      const { code, signal } = await clientAfter("graceful");
      console.log(`round ${round + 1}: code ${code} ${signal ?? ""}`);
      if (signal !== null || code !== 0) died++;
    }
    assert(died > 0, `${CANARY_ROUNDS} clients lived through GOAWAY`);
  },
  Deno.env.get("ARCUS_TEST_CANARY") === undefined,
);
