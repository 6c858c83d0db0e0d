/** The memory written anew: what it holds, and that no moment of it can lose a fact. */
import assert from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import { arbitraryRecord } from "./arbitraries.ts";
import { type CompactStep, MemoryError, MemoryFile, type MemoryFileOptions } from "./memory.ts";
import { applyRecord, emptyMemory, type Memory, type MemoryRecord, outpointKey } from "./memory_state.ts";
import { MAX_HIGH_WATER } from "./rules.ts";
import { decodeSnapshot, encodeSnapshot } from "./snapshot.ts";
import { temporaryDirectory } from "./testing.ts";

const OWNER = { nodeId: new Uint8Array(33).fill(2), chainHash: new Uint8Array(32).fill(6) };
/** Header, and the version in it. */
const HEADER = 109;
const VERSION_AT = 11;
const STEPS: readonly CompactStep[] = ["create", "write", "sync", "rename", "sync_directory"];

function open(path: string, options: Partial<MemoryFileOptions> = {}): MemoryFile {
  return MemoryFile.open({
    path,
    owner: OWNER,
    onFatal: (error) => {
      throw error;
    },
    ...options,
  });
}

function id(fill: number): Uint8Array {
  return new Uint8Array(32).fill(fill);
}

function drawn(fill: number): MemoryRecord {
  return { type: "channel_drawn", channelKeyId: id(fill), peerId: new Uint8Array(33).fill(3) };
}

function epoch(fill: number, value: bigint): MemoryRecord {
  return { type: "epoch_registered", channelKeyId: id(fill), epoch: value };
}

/** Histories that rules can make: channels are drawn once, and before anything else is said of them. */
const HISTORY = fc.array(fc.tuple(arbitraryRecord, fc.nat(3)), { maxLength: 60 }).map((asked) => {
  const memory = emptyMemory();
  for (const [record, channel] of asked) {
    const known = memory.channels.get(id(channel).toHex());
    const isFirst = record.type === "channel_drawn" || record.type === "channel_adopted";
    if ("channelKeyId" in record && isFirst === (known !== undefined)) continue;
    if (record.type === "memory_distrusted" && record.highWater > MAX_HIGH_WATER) continue;
    // Inputs of an attempt are signed once.
    if (
      record.type === "inputs_signed" &&
      (known?.outpoints.get(outpointKey(record.outpoint))?.signedInputs ?? null) !== null
    ) continue;
    applyRecord(memory, "channelKeyId" in record ? { ...record, channelKeyId: id(channel) } : record);
  }
  return memory;
});

/** Of an input's attempts the order says nothing. */
function sorted(memory: Memory): Memory {
  const boundInputs = new Map([...memory.boundInputs].map(([key, bound]) => [key, bound.toSorted()]));
  return { ...memory, boundInputs };
}

Deno.test("property: a snapshot holds all of the memory", () => {
  fc.assert(
    fc.property(HISTORY, (memory) => {
      const decoded = decodeSnapshot(encodeSnapshot(memory));
      assert(decoded.ok);
      assert.deepEqual(sorted(decoded.value), sorted(memory));
    }),
    { numRuns: 300 },
  );
});

Deno.test("garbage is no snapshot, and one with a fact of a newer version is refused", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
    decodeSnapshot(bytes);
  }));
  const memory = emptyMemory();
  applyRecord(memory, drawn(1));
  const bytes = encodeSnapshot(memory);
  // Field 99, length-delimited, empty: of the snapshot, and of its only channel (field 7), which stands last.
  const unknown = [0x9a, 0x06, 0x00];
  assert.deepEqual(decodeSnapshot(Uint8Array.of(...bytes, ...unknown)), {
    ok: false,
    error: { type: "unknown_record" },
  });
  const at = bytes.lastIndexOf(0x3a);
  const inner = Uint8Array.of(
    ...bytes.subarray(0, at + 1),
    bytes[at + 1]! + 3,
    ...bytes.subarray(at + 2),
    ...unknown,
  );
  assert.deepEqual(decodeSnapshot(inner), { ok: false, error: { type: "unknown_record" } });
});

function testIn(name: string, body: (path: string, directory: string) => Promise<void>): void {
  Deno.test(name, async () => {
    await using directory = await temporaryDirectory();
    await body(join(directory.path, "memory"), directory.path);
  });
}

/** Appends one record and waits. */
async function remember(memory: MemoryFile, record: MemoryRecord): Promise<void> {
  memory.append([record]);
  await memory.settled();
}

testIn(
  "a file that has grown is written anew: smaller, with the same id and all facts, and goes on",
  async (path) => {
    const memory = open(path, { compactSize: 2000 });
    await remember(memory, drawn(1));
    let largest = 0;
    for (let i = 1n; i <= 300n; i++) {
      const before = memory.durableHighWater;
      await remember(memory, epoch(1, i));
      assert.equal(memory.durableHighWater, before + 1n);
      largest = Math.max(largest, Deno.statSync(path).size);
    }
    assert(memory.compactions > 5, `${memory.compactions} times`);
    assert(largest < 2400, `${largest} bytes`);
    assert.equal(Deno.statSync(path).mode! & 0o777, 0o600);
    await memory.close();
    const again = open(path);
    assert.deepEqual(again.memoryId, memory.memoryId);
    assert.deepEqual(again.memory, memory.memory);
    assert.equal(again.memory.highWater, 301n);
    await again.close();
  },
);

testIn("what waits while the file is written anew is in it, or follows it", async (path) => {
  const memory = open(path, { compactSize: 500 });
  const waits: Promise<void>[] = [];
  for (let i = 0; i < 100; i++) {
    memory.append([drawn(i)]);
    waits.push(memory.settled());
    if (i % 10 === 0) await waits[i];
  }
  await Promise.all(waits);
  assert(memory.compactions > 0);
  assert.equal(memory.durableHighWater, 100n);
  await memory.close();
  const again = open(path);
  assert.deepEqual(again.memory, memory.memory);
  await again.close();
});

testIn("a large file is written anew when it is opened", async (path) => {
  const first = open(path);
  for (let i = 0n; i < 30n; i++) await remember(first, i === 0n ? drawn(1) : epoch(1, i));
  await first.close();
  const size = Deno.statSync(path).size;
  const second = open(path, { compactSize: 1000 });
  await second.close();
  assert.equal(second.compactions, 1);
  assert(Deno.statSync(path).size < size / 4);
  const third = open(path, { compactSize: 1000 });
  assert.deepEqual(third.memory, first.memory);
  await third.close();
  assert.equal(third.compactions, 0);
});

testIn("an hsmd that knows no snapshots refuses the file by its version", async (path) => {
  const memory = open(path, { compactSize: 0 });
  await remember(memory, drawn(1));
  await memory.close();
  assert.equal(Deno.readFileSync(path)[VERSION_AT], 2);
});

function copy(from: string, to: string): void {
  Deno.mkdirSync(to);
  for (const { name } of Deno.readDirSync(from)) {
    if (name.startsWith("memory")) Deno.copyFileSync(join(from, name), join(to, name));
  }
}

testIn(
  "killed between any two steps, or with what was not synced lost, nothing that was answered is forgotten",
  async (path, directory) => {
    const states: { readonly step: CompactStep; readonly path: string; readonly answered: bigint }[] = [];
    let taken = 0;
    let armed = false;
    const memory = open(path, {
      compactSize: 1500,
      onCompact(step) {
        if (!armed) return;
        const to = join(directory, `state-${taken++}`);
        copy(directory, to);
        states.push({ step, path: join(to, "memory"), answered: memory.durableHighWater });
      },
    });
    await remember(memory, drawn(1));
    for (let i = 1n; i <= 60n; i++) {
      // The second round starts from a file that has a snapshot already.
      armed = memory.compactions < 2;
      await remember(memory, epoch(1, i));
    }
    await memory.close();
    assert.deepEqual(states.map(({ step }) => step), [...STEPS, ...STEPS]);

    const recovered = async (at: string, answered: bigint) => {
      const again = open(at);
      assert.deepEqual(again.memoryId, memory.memoryId);
      assert(again.memory.highWater >= answered, `${again.memory.highWater} < ${answered}`);
      assert.equal(again.memory.channels.get(id(1).toHex())?.epoch, again.memory.highWater - 1n);
      assert.equal(MemoryFile.exists(`${at}.next`), false);
      const before = again.memory.highWater;
      await remember(again, epoch(1, 1000n));
      await again.close();
      const last = open(at);
      assert.equal(last.memory.highWater, before + 1n);
      await last.close();
    };
    for (const { step, path: at, answered } of states) {
      const whole = Deno.readFileSync(at);
      // As the process left it.
      await recovered(at, answered);
      if (step !== "sync" && step !== "rename") continue;
      // As the disk may have it: any part of the new file, under its first name.
      const next = Deno.readFileSync(path);
      for (const size of [0, 1, HEADER - 1, HEADER, HEADER + 40, next.length - 1]) {
        Deno.writeFileSync(at, whole);
        Deno.writeFileSync(`${at}.next`, next.slice(0, size));
        await recovered(at, answered);
      }
    }
  },
);

testIn(
  "a step that fails before the name changes leaves the old file in use; it is tried again later",
  async (path) => {
    let failing: CompactStep | null = null;
    const memory = open(path, {
      compactSize: 400,
      onCompact: (step) => {
        if (step === failing) throw new Error("no space left");
      },
    });
    await remember(memory, drawn(1));
    let value = 0n;
    for (const step of STEPS.slice(0, -1)) {
      failing = step;
      const before = memory.compactions;
      for (let i = 0; i < 12; i++) await remember(memory, epoch(1, ++value));
      assert.equal(memory.compactions, before, step);
      assert.equal(MemoryFile.exists(`${path}.next`), false);
      failing = null;
      while (memory.compactions === before) await remember(memory, epoch(1, ++value));
    }
    await memory.close();
    const again = open(path);
    assert.deepEqual(again.memory, memory.memory);
    await again.close();
  },
);

testIn("a new name that may not be durable ends the process, and nothing is answered", async (path) => {
  const fatal: string[] = [];
  const memory = open(path, {
    compactSize: 0,
    onFatal: (error) => void fatal.push(error.type),
    onCompact: (step) => {
      if (step === "sync_directory") throw new Error("input/output error");
    },
  });
  memory.append([drawn(1)]);
  await assert.rejects(memory.settled(), MemoryError);
  assert.deepEqual(fatal, ["io"]);
  assert.equal(memory.durableHighWater, 0n);
  assert.throws(() => memory.append([drawn(2)]), MemoryError);
  await memory.close();
});

testIn("the new file is locked as the old one was", async (path) => {
  const memory = open(path, { compactSize: 0 });
  await remember(memory, drawn(1));
  assert.equal(memory.compactions > 0, true);
  assert.throws(() => open(path), (error) => error instanceof MemoryError && error.type === "locked");
  await memory.close();
});

testIn(
  "a snapshot with any bit changed, or cut anywhere, is refused; a torn frame behind it is cut",
  async (path) => {
    const memory = open(path, { compactSize: 300 });
    while (memory.compactions === 0) {
      await remember(
        memory,
        memory.memory.highWater === 0n ? drawn(1) : epoch(1, 7n),
      );
    }
    await memory.close();
    const last = open(path);
    await remember(last, epoch(1, 9n));
    await last.close();
    const whole = Deno.readFileSync(path);
    // Magic, length of the body, count, check of the header; body; check.
    const size = HEADER + 32 + new DataView(whole.buffer).getUint32(HEADER + 4) + 16;
    assert(size < whole.length);
    const errorOf = () => {
      try {
        void open(path).close();
      } catch (error) {
        assert(error instanceof MemoryError, String(error));
        return error.type;
      }
      return "none";
    };
    for (let at = 0; at < size; at++) {
      const damaged = whole.slice();
      damaged[at]! ^= 1 << (at % 8);
      Deno.writeFileSync(path, damaged);
      assert(["damaged", "newer_version"].includes(errorOf()), `byte ${at}`);
      Deno.writeFileSync(path, whole.slice(0, at));
      assert.equal(errorOf(), "damaged", `cut at ${at}`);
    }
    for (let cut = size; cut < whole.length; cut++) {
      Deno.writeFileSync(path, whole.slice(0, cut));
      const again = open(path);
      assert(again.memory.highWater < last.memory.highWater);
      assert(again.memory.channels.has(id(1).toHex()));
      await again.close();
    }
  },
);
