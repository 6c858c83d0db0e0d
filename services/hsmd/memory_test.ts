import assert from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import { arbitraryRecord } from "./arbitraries.ts";
import { MemoryError, MemoryFile } from "./memory.ts";
import type { MemoryRecord } from "./memory_state.ts";
import { decodeRecord, encodeRecord } from "./record_codec.ts";
import { temporaryDirectory } from "./testing.ts";

const OWNER = { nodeId: new Uint8Array(33).fill(2), chainHash: new Uint8Array(32).fill(6) };
const HEADER = 109;

function open(path: string, owner = OWNER): MemoryFile {
  return MemoryFile.open({
    path,
    owner,
    onFatal: (error) => {
      throw error;
    },
  });
}

function drawn(fill: number): MemoryRecord {
  return {
    type: "channel_drawn",
    channelKeyId: new Uint8Array(32).fill(fill),
    peerId: new Uint8Array(33).fill(3),
  };
}

/** A memory file with these frames, each one record; answers the sizes after each. */
async function fileWith(path: string, frames: number): Promise<number[]> {
  const memory = open(path);
  const sizes = [HEADER];
  for (let i = 0; i < frames; i++) {
    memory.append([drawn(i)]);
    await memory.settled();
    sizes.push(Deno.statSync(path).size);
  }
  await memory.close();
  return sizes;
}

function errorOf(path: string, owner = OWNER): string {
  try {
    void open(path, owner).close();
  } catch (error) {
    assert(error instanceof MemoryError, String(error));
    return error.type;
  }
  return "none";
}

function testIn(name: string, body: (path: string, directory: string) => Promise<void>): void {
  Deno.test(name, async () => {
    await using directory = await temporaryDirectory();
    await body(join(directory.path, "memory"), directory.path);
  });
}

Deno.test("every record round-trips", () => {
  fc.assert(fc.property(arbitraryRecord, (record) => {
    const decoded = decodeRecord(encodeRecord(record));
    assert(decoded.ok);
    assert.deepEqual(decoded.value, record);
  }));
});

Deno.test("garbage is no record, and a record of a newer version is told apart", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
    decodeRecord(bytes);
  }));
  // Field 99, length-delimited, empty: a fact that this version does not know.
  assert.deepEqual(decodeRecord(Uint8Array.of(0x9a, 0x06, 0x00)), {
    ok: false,
    error: { type: "unknown_record" },
  });
});

testIn("what was settled is there after opening again, with the same id", async (path) => {
  const memory = open(path);
  assert.equal(memory.created, true);
  memory.append([drawn(1), drawn(2)]);
  memory.append([{ type: "epoch_registered", channelKeyId: new Uint8Array(32).fill(1), epoch: 5n }]);
  await memory.settled();
  assert.equal(memory.durableHighWater, 3n);
  await memory.close();
  const again = open(path);
  assert.equal(again.created, false);
  assert.deepEqual(again.memoryId, memory.memoryId);
  assert.deepEqual(again.memory, memory.memory);
  assert.equal(again.durableHighWater, 3n);
  assert.equal(Deno.statSync(path).mode! & 0o777, 0o600);
  await again.close();
});

testIn("many requests share one write", async (path) => {
  const memory = open(path);
  const waits: Promise<void>[] = [];
  for (let i = 0; i < 100; i++) {
    memory.append([drawn(i)]);
    waits.push(memory.settled());
  }
  await Promise.all(waits);
  assert(memory.frames <= 2, `${memory.frames} frames`);
  assert.equal(memory.durableHighWater, 100n);
  await memory.close();
});

testIn("an answer that adds nothing still waits for what it rests on", async (path) => {
  const memory = open(path);
  memory.append([drawn(1)]);
  assert.equal(memory.durableHighWater, 0n);
  await memory.settled();
  assert.equal(memory.durableHighWater, 1n);
  await memory.close();
});

testIn("a torn tail is cut at every byte, and what was before it stays", async (path) => {
  const sizes = await fileWith(path, 3);
  const whole = Deno.readFileSync(path);
  for (let size = sizes[2]!; size <= sizes[3]!; size++) {
    Deno.writeFileSync(path, whole.slice(0, size));
    const memory = open(path);
    const kept = size === sizes[3] ? 3n : 2n;
    assert.equal(memory.memory.highWater, kept);
    assert.equal(memory.tornBytes, kept === 3n ? 0 : size - sizes[2]!);
    // What is appended next follows the cut.
    memory.append([drawn(9)]);
    await memory.settled();
    await memory.close();
    const again = open(path);
    assert.equal(again.memory.highWater, kept + 1n);
    await again.close();
  }
});

testIn("a tail of zeros, as a crash may leave it, is cut", async (path) => {
  const sizes = await fileWith(path, 2);
  const whole = Deno.readFileSync(path);
  const torn = new Uint8Array(sizes[2]! + 4096);
  torn.set(whole.slice(0, sizes[1]! + 20));
  Deno.writeFileSync(path, torn);
  const memory = open(path);
  assert.equal(memory.memory.highWater, 1n);
  await memory.close();
  assert.equal(Deno.statSync(path).size, sizes[1]);
});

testIn("damage before a good frame is refused, whichever bit it is", async (path) => {
  const sizes = await fileWith(path, 3);
  const whole = Deno.readFileSync(path);
  for (let at = 0; at < sizes[2]!; at++) {
    const damaged = whole.slice();
    damaged[at]! ^= 1 << (at % 8);
    Deno.writeFileSync(path, damaged);
    // The version's upper bytes read as a newer version.
    assert(["damaged", "newer_version"].includes(errorOf(path)), `byte ${at}`);
  }
});

testIn("a frame that was removed, repeated, or exchanged is found", async (path) => {
  const sizes = await fileWith(path, 4);
  const whole = Deno.readFileSync(path);
  const part = (i: number) => whole.slice(sizes[i], sizes[i + 1]);
  const header = whole.slice(0, HEADER);
  const write = (...frames: Uint8Array[]) =>
    Deno.writeFileSync(path, Uint8Array.of(...header, ...frames.flatMap((frame) => [...frame])));
  write(part(0), part(2), part(3));
  assert.equal(errorOf(path), "damaged");
  write(part(1), part(2), part(3));
  assert.equal(errorOf(path), "damaged");
  write(part(0), part(1), part(1), part(2), part(3));
  assert.equal(errorOf(path), "damaged");
  write(part(1), part(0), part(2), part(3));
  assert.equal(errorOf(path), "damaged");
  write(part(0), part(1), part(2), part(3));
  assert.equal(errorOf(path), "none");
});

testIn("a frame of another memory does not fit", async (path, directory) => {
  const sizes = await fileWith(path, 2);
  const other = join(directory, "other");
  await fileWith(other, 2);
  const mixed = Uint8Array.of(
    ...Deno.readFileSync(path).slice(0, sizes[1]),
    ...Deno.readFileSync(other).slice(sizes[1]),
  );
  Deno.writeFileSync(path, mixed);
  assert.equal(errorOf(path), "damaged");
});

testIn("a memory of another seed or chain is refused", async (path) => {
  await fileWith(path, 1);
  assert.equal(errorOf(path, { ...OWNER, nodeId: new Uint8Array(33).fill(3) }), "foreign");
  assert.equal(errorOf(path, { ...OWNER, chainHash: new Uint8Array(32) }), "foreign");
});

testIn("a memory that is open cannot be opened a second time", async (path) => {
  const memory = open(path);
  assert.equal(errorOf(path), "locked");
  await memory.close();
  assert.equal(errorOf(path), "none");
});

testIn("after a failed write nothing is answered any more, and the process is told to end", async (path) => {
  const fatal: string[] = [];
  const memory = MemoryFile.open({ path, owner: OWNER, onFatal: (error) => void fatal.push(error.type) });
  memory.append([drawn(1)]);
  await memory.settled();
  // The descriptor goes away under it, as a failing disk would make every write fail.
  await memory.close();
  memory.append([drawn(2)]);
  await assert.rejects(memory.settled(), MemoryError);
  assert.deepEqual(fatal, ["io"]);
  assert.throws(() => memory.append([drawn(3)]), MemoryError);
  await assert.rejects(memory.settled(), MemoryError);
  assert.equal(memory.durableHighWater, 1n);
});
