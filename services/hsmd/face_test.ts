/** hsmd through its real gRPC face. */
import assert from "node:assert/strict";
import {
  create,
  type DescField,
  type DescMessage,
  type Message,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { sha256 } from "@noble/hashes/sha2.js";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { client, dial, openBidi } from "common/grpc/client.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { type CommitmentStepResult, Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { ALLOWED, requireAllowed } from "./permissions.ts";
import { ACCEPT_CONFIRMATION } from "./rules.ts";
import { start } from "./start.ts";
import { DATABASE_ID, reasonOf, temporaryDirectory } from "./testing.ts";

interface Logged {
  readonly level: string;
  readonly fields: object;
  readonly message: string;
}

/** A real server in a directory of its own. */
async function serve(directory: string) {
  const logged: Logged[] = [];
  const note = (level: string) => (fields: object, message: string) =>
    void logged.push({ level, fields, message });
  const running = await start({
    directory,
    network: "regtest",
    addresses: ["127.0.0.1:0"],
    log: { info: note("info"), warn: note("warn"), error: note("error") },
    instance: crypto.randomUUID(),
    onFatal: (error) => {
      throw error;
    },
  });
  const channel = dial(running.addresses[0]!);
  return {
    running,
    logged,
    channel,
    hsmd: client(Hsmd, channel),
    async [Symbol.asyncDispose]() {
      channel.close();
      running.server.closeAfterClients();
      await running.close();
    },
  };
}

/** grpc-js leaves timers of its own that end after the call that set them. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

test("a new hsmd tells who it is, is bound to a database, and draws a channel", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  const { hsmd, running } = server;
  const info = await hsmd.getInfo({});
  assert.deepEqual(info.nodeId, running.nodeId);
  assert.equal(info.memoryId.length, 16);
  assert.deepEqual([info.highWater, info.databaseId.length, info.trusted, info.bound], [0n, 0, true, false]);
  assert.deepEqual(info.chainHash, chainHash("regtest"));
  assert.equal(info.ecc, ecc().name);
  assert.match(info.walletXpub, /^tpub/);

  const peerId = running.nodeId;
  await assert.rejects(hsmd.newChannel({ peerId }), (error) => {
    assert(error instanceof ArcusError);
    assert.deepEqual([error.code, error.reason, error.retryable], [Code.UNAVAILABLE, "NOT_BOUND", true]);
    return true;
  });
  const bound = await hsmd.bindDatabase({ databaseId: DATABASE_ID });
  assert.deepEqual([bound.info?.bound, bound.info?.highWater], [true, 1n]);

  const drawn = await hsmd.newChannel({ peerId });
  const { channelKeyId, paymentKeyIndex } = drawn;
  assert.deepEqual((await hsmd.getChannelKeys({ channelKeyId, paymentKeyIndex })).keys, drawn.keys);
  const point = async (number: bigint) => (await hsmd.getPerCommitmentPoint({ channelKeyId, number })).point;
  assert.deepEqual(await point(0n), drawn.keys?.firstPerCommitmentPoint);
  assert.deepEqual(await point(1n), drawn.keys?.secondPerCommitmentPoint);
  assert.equal(await reasonOf(point(1n << 48n)), "BAD_REQUEST");
  assert.equal(
    await reasonOf(hsmd.getChannelKeys({ channelKeyId, paymentKeyIndex: (paymentKeyIndex + 1) % 1000 })),
    "BAD_REQUEST",
  );

  const { channels } = await hsmd.registerEpochs({
    channels: [{ channelKeyId, paymentKeyIndex, epoch: 4n }],
  });
  assert.deepEqual(channels.map(({ epoch, refused }) => [epoch, refused]), [[4n, false]]);
  assert.deepEqual((await hsmd.listEpochs({})).channels.map((channel) => channel.channelKeyId), [
    channelKeyId,
  ]);
  assert.equal((await hsmd.getInfo({})).highWater, 3n);
});

test("ECDH agrees with the other side's, and a bad point is refused", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  const secret = new Uint8Array(32).fill(5);
  const { secret: shared } = await server.hsmd.ecdh({ point: ecc().pointFromSecret(secret) });
  assert.deepEqual(shared, ecc().ecdh(secret, server.running.nodeId));
  for (const point of [new Uint8Array(33), new Uint8Array(33).fill(2, 0, 1)]) {
    assert.equal(await reasonOf(server.hsmd.ecdh({ point })), "BAD_REQUEST");
  }
  assert.equal(await reasonOf(server.hsmd.ecdh({ point: new Uint8Array(32) })), "BAD_LENGTH");
});

test("wallet keys come in order, at most 1000 at once", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  const all = await server.hsmd.deriveWalletKeys({ change: false, firstIndex: 0, count: 1000 });
  assert.equal(new Set(all.scripts.map((script) => script.toHex())).size, 1000);
  const some = await server.hsmd.deriveWalletKeys({ change: false, firstIndex: 998, count: 2 });
  assert.deepEqual(some.scripts, all.scripts.slice(998));
  assert.deepEqual(some.internalKeys, all.internalKeys.slice(998));
  const other = await server.hsmd.deriveWalletKeys({ change: true, firstIndex: 998, count: 2 });
  assert.notDeepEqual(other.scripts, some.scripts);
  assert.equal(await reasonOf(server.hsmd.deriveWalletKeys({ count: 1001 })), "BAD_REQUEST");
  assert.equal(
    await reasonOf(server.hsmd.deriveWalletKeys({ firstIndex: 0x7fffffff, count: 2 })),
    "BAD_REQUEST",
  );
});

test("keys and bindings are the same after a restart; a run is bound anew", async () => {
  await using directory = await temporaryDirectory();
  const first = await serve(directory.path);
  const bound = await first.hsmd.bindDatabase({ databaseId: DATABASE_ID });
  const drawn = await first.hsmd.newChannel({ peerId: first.running.nodeId });
  await first[Symbol.asyncDispose]();

  await using second = await serve(directory.path);
  const { channelKeyId, paymentKeyIndex } = drawn;
  assert.deepEqual((await second.hsmd.getChannelKeys({ channelKeyId, paymentKeyIndex })).keys, drawn.keys);
  const register = () =>
    second.hsmd.registerEpochs({ channels: [{ channelKeyId, paymentKeyIndex, epoch: 1n }] });
  assert.equal(await reasonOf(register()), "NOT_BOUND");
  const foreign = new Uint8Array(16).fill(1);
  assert.equal(await reasonOf(second.hsmd.bindDatabase({ databaseId: foreign })), "FOREIGN_DATABASE");
  assert.equal(await reasonOf(register()), "NOT_BOUND");
  await second.hsmd.bindDatabase({
    databaseId: DATABASE_ID,
    expectedMemoryId: bound.info!.memoryId,
    expectedHighWater: 2n,
  });
  assert.equal((await register()).channels[0]?.refused, false);
});

test("AcceptMemory asks for the exact words", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  await server.hsmd.bindDatabase({
    databaseId: DATABASE_ID,
    expectedMemoryId: new Uint8Array(16).fill(9),
    expectedHighWater: 7n,
  });
  const info = await server.hsmd.getInfo({});
  assert.deepEqual([info.trusted, info.distrust], [false, "MEMORY_LOST"]);
  assert.equal(await reasonOf(server.hsmd.acceptMemory({ confirmation: "yes" })), "BAD_REQUEST");
  assert.equal((await server.hsmd.getInfo({})).trusted, false);
  await server.hsmd.acceptMemory({ confirmation: ACCEPT_CONFIRMATION });
  assert.equal((await server.hsmd.getInfo({})).trusted, true);
});

test("every method names who may call it, and nobody else may", () => {
  assert.deepEqual(Object.keys(ALLOWED).sort(), Object.keys(Hsmd.method).sort());
  requireAllowed("ecdh", { identity: "connectd" });
  requireAllowed("signFundingAttempt", { identity: undefined });
  for (
    const [method, identity] of [
      ["signFundingAttempt", "connectd"],
      ["signWalletInputs", "dualopend"],
      ["nameDestinations", "dualopend"],
      ["acceptMemory", "channeld"],
      ["ecdh", "stranger"],
      ["commitmentSteps", "lightningd"],
      ["signClosing", "channeld"],
      ["signOwnCommitment", "channeld"],
      ["signInvoices", "connectd"],
    ] as const
  ) {
    assert.throws(() => requireAllowed(method, { identity }), (error) => {
      assert(error instanceof ArcusError);
      return error.code === Code.PERMISSION_DENIED;
    });
  }
  return Promise.resolve();
});

test("ECDH with many points; invoices are signed by the node key, and nothing else is", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  const { hsmd, running } = server;
  const secret = new Uint8Array(32).fill(5);
  const { secrets } = await hsmd.ecdhMany({ points: [ecc().pointFromSecret(secret), new Uint8Array(33)] });
  assert.deepEqual(secrets, [ecc().ecdh(secret, running.nodeId), new Uint8Array(0)]);
  const points = Array.from({ length: 2001 }, () => running.nodeId);
  assert.equal(await reasonOf(hsmd.ecdhMany({ points })), "BAD_REQUEST");

  const data = Uint8Array.from({ length: 60 }, (_, i) => i % 32);
  const { signatures } = await hsmd.signInvoices({
    invoices: [{ hrp: "lnbcrt10u", data }, { hrp: "lnbc", data: data.slice(0, 7) }],
  });
  // Five bits each, most significant first, filled up with zeros: computed apart from the code under test.
  const hashed = (hrp: string, words: Uint8Array) => {
    const bits = [...words].map((word) => word.toString(2).padStart(5, "0")).join("");
    const packed = (bits.match(/.{1,8}/g) ?? []).map((byte) => parseInt(byte.padEnd(8, "0"), 2));
    return sha256(Uint8Array.of(...new TextEncoder().encode(hrp), ...packed));
  };
  for (const [i, hash] of [hashed("lnbcrt10u", data), hashed("lnbc", data.slice(0, 7))].entries()) {
    const signature = signatures[i]!;
    assert.equal(signature.length, 65);
    assert.deepEqual(ecc().recover(hash, signature.slice(0, 64), signature[64]!), running.nodeId);
  }
  for (
    const invoice of [
      { hrp: "Lightning Signed Message:", data },
      { hrp: "bc", data },
      { hrp: "", data },
      { hrp: "lnbc", data: data.slice(0, 6) },
      { hrp: "lnbc", data: new Uint8Array(60).fill(32) },
    ]
  ) assert.equal(await reasonOf(hsmd.signInvoices({ invoices: [invoice] })), "BAD_REQUEST");
});

test("steps of a stream are answered in order; then it ends as asked", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  const { hsmd, running, channel } = server;
  const open = () => {
    const stream = openBidi(channel, Hsmd.method.commitmentSteps);
    const results: CommitmentStepResult[] = [];
    const ended = Promise.withResolvers<ArcusError | undefined>();
    const waiting: { readonly count: number; readonly resolve: () => void }[] = [];
    stream.onMessage((response) => {
      results.push(...response.results);
      while (waiting[0] !== undefined && results.length >= waiting[0].count) waiting.shift()!.resolve();
    });
    stream.onEnd(ended.resolve);
    const answered = (count: number) =>
      new Promise<void>((resolve) => results.length >= count ? resolve() : waiting.push({ count, resolve }));
    return { stream, results, ended: ended.promise, answered };
  };
  const first = open();
  const channelKeyId = new Uint8Array(32);
  first.stream.write({ steps: [{ stepId: 1n }] });
  await first.answered(1);
  assert.equal(first.results[0]?.refusal, "NOT_BOUND");

  await hsmd.bindDatabase({ databaseId: DATABASE_ID });
  const drawn = await hsmd.newChannel({ peerId: running.nodeId });
  const ref = { channelKeyId: drawn.channelKeyId, paymentKeyIndex: drawn.paymentKeyIndex, epoch: 1n };
  await hsmd.registerEpochs({ channels: [ref] });
  const ecdhPoints = [running.nodeId];
  const total = 3000n;
  for (let id = 2n; id <= total; id += 2n) {
    first.stream.write({
      steps: [{ stepId: id, channel: ref, ecdhPoints }, { stepId: id + 1n, channel: { channelKeyId } }],
    });
  }
  first.stream.end();
  assert.equal(await first.ended, undefined);
  assert.deepEqual(
    first.results.map(({ stepId }) => stepId),
    [...Array(Number(total) + 1).keys()].map((i) => BigInt(i + 1)),
  );
  for (const { stepId, refusal, sharedSecrets } of first.results.slice(1)) {
    assert.deepEqual([refusal, sharedSecrets.length], stepId % 2n === 0n ? ["", 1] : ["BAD_REQUEST", 0]);
  }

  // A server that goes away answers what is open, then says that it goes.
  const second = open();
  second.stream.write({ steps: [{ stepId: 1n, channel: ref, ecdhPoints }] });
  await second.answered(1);
  const drained = running.server.drain();
  const error = await second.ended;
  assert.deepEqual([error?.code, error?.reason], [Code.UNAVAILABLE, "DRAINING"]);
  assert.equal(await drained, true);
});

const LENGTHS = [0, 1, 16, 32, 33, 64, 65];

/** Bytes of lengths that get past the door often enough. */
const BYTES = fc.oneof(
  ...LENGTHS.map((length) => fc.uint8Array({ minLength: length, maxLength: length })),
  fc.uint8Array({ maxLength: 300 }),
);

function scalar(type: ScalarType): fc.Arbitrary<unknown> {
  switch (type) {
    case ScalarType.BYTES:
      return BYTES;
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.STRING:
      return fc.string();
    case ScalarType.UINT64:
      return fc.oneof(fc.bigInt(0n, 3n), fc.bigInt(0n, (1n << 64n) - 1n));
    case ScalarType.UINT32:
      return fc.oneof(fc.nat(3), fc.nat(0xffffffff));
    default:
      throw new Error(`no arbitrary for scalar ${type}`);
  }
}

function field(desc: DescField): fc.Arbitrary<unknown> {
  switch (desc.fieldKind) {
    case "scalar":
      return scalar(desc.scalar);
    case "message":
      return message(desc.message);
    case "list": {
      const item = desc.listKind === "message" ? message(desc.message) : scalar(desc.scalar!);
      return fc.array(item, { maxLength: 3 });
    }
    case "map": {
      const value = desc.mapKind === "message" ? message(desc.message) : scalar(desc.scalar!);
      return fc.array(fc.tuple(fc.oneof(fc.nat(2), fc.nat(0xffffffff)), value), { maxLength: 3 })
        .map((entries) => Object.fromEntries(entries));
    }
    case "enum":
      return fc.nat(10);
  }
}

/** Any message of a type; each field is there or not. */
function message(desc: DescMessage): fc.Arbitrary<Message> {
  const shape = Object.fromEntries(desc.fields.map((each) => [each.localName, field(each)]));
  return fc.record(shape, { requiredKeys: [], noNullPrototype: true }).map((init) => create(desc, init));
}

test("garbage to every method gets a refusal, and hsmd lives", async () => {
  await using directory = await temporaryDirectory();
  await using server = await serve(directory.path);
  const { hsmd, running, logged } = server;
  await hsmd.bindDatabase({ databaseId: DATABASE_ID });
  const drawn = await hsmd.newChannel({ peerId: running.nodeId });
  const { channelKeyId, paymentKeyIndex } = drawn;
  await hsmd.registerEpochs({ channels: [{ channelKeyId, paymentKeyIndex, epoch: 1n }] });
  const raw = new Client(running.addresses[0]!, credentials.createInsecure());
  const call = (path: string, bytes: Uint8Array): Promise<number> =>
    new Promise((resolve) => {
      const same = (value: Buffer) => value;
      raw.makeUnaryRequest(path, same, same, Buffer.from(bytes), (error) => resolve(error?.code ?? Code.OK));
    });
  const named = [Code.OK, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION];
  try {
    for (const method of Hsmd.methods) {
      const path = `/${Hsmd.typeName}/${method.name}`;
      // A stream that was asked nothing answers nothing, which a unary caller calls unimplemented.
      const allowed = method.methodKind === "unary" ? named : [...named, Code.UNIMPLEMENTED];
      // Half of the messages name the channel that exists, so that they get further.
      const shaped = fc.tuple(message(method.input), fc.boolean()).map(([init, known]) => {
        if (known && "channel" in init && typeof init.channel === "object" && init.channel !== null) {
          Object.assign(init.channel, { channelKeyId, paymentKeyIndex, epoch: 1n });
        }
        return toBinary(method.input, init);
      });
      await fc.assert(
        fc.asyncProperty(shaped, async (bytes) => {
          const code = await call(path, bytes);
          assert(allowed.includes(code), `${method.name}: ${Code[code]}`);
        }),
        { numRuns: 40 },
      );
      // Bytes that are no message at all: grpc-js answers for us.
      await fc.assert(
        fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
          const code = await call(path, bytes);
          assert([...allowed, Code.INTERNAL].includes(code), `${method.name}: ${Code[code]}`);
        }),
        { numRuns: 20 },
      );
    }
  } finally {
    raw.close();
  }
  assert.deepEqual(logged.filter(({ level }) => level === "error"), []);
  assert.deepEqual((await hsmd.getInfo({})).nodeId, running.nodeId);
  assert.equal((await hsmd.getInfo({})).ecc, ecc().name);
});
