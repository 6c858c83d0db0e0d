/** Files that version 1 wrote: every later hsmd must read them. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { MemoryFile } from "./memory.ts";
import { openSeed } from "./seed.ts";
import { temporaryDirectory } from "./testing.ts";

const FILES = JSON.parse(
  readFileSync(new URL("../../tests/data/arcus/keys_files_v1.json", import.meta.url), "utf8"),
);

function filled(length: number, fill: number): Uint8Array {
  return new Uint8Array(length).fill(fill);
}

Deno.test("a seed file of version 1 opens", async () => {
  await using directory = await temporaryDirectory();
  const path = join(directory.path, "seed.json");
  Deno.writeTextFileSync(path, JSON.stringify(FILES.seed_file));
  const seed = await openSeed(path, FILES.passphrase);
  assert.equal(seed.mnemonic, `${"abandon ".repeat(11)}about`);
  assert.equal(seed.restored, true);
  assert.equal(bytesToHex(seed.memoryId!), FILES.memory_id);
});

Deno.test("a memory file of version 1, with every record that there is, opens", async () => {
  await using directory = await temporaryDirectory();
  const path = join(directory.path, "memory");
  Deno.writeFileSync(path, hexToBytes(FILES.memory_file));
  const file = MemoryFile.open({
    path,
    owner: { nodeId: filled(33, 2), chainHash: filled(32, 6) },
    onFatal: (error) => {
      throw error;
    },
  });
  await file.close();
  assert.equal(bytesToHex(file.memoryId), FILES.memory_id);
  const { memory } = file;
  // Ten records before the rollback's jump to 50, three after it.
  assert.equal(memory.highWater, 53n);
  assert.deepEqual(memory.databaseId, filled(16, 0xdb));
  assert.deepEqual([memory.distrust, memory.accepted], [null, true]);
  assert.deepEqual([...memory.predecessors], ["04".repeat(16)]);
  const outpoint = { txid: filled(32, 1), vout: 2 };
  const key = `${"01".repeat(32)}:2`;
  const input = `${"09".repeat(32)}:0`;
  assert.deepEqual(memory.channels.get("a1".repeat(32)), {
    channelKeyId: filled(32, 0xa1),
    since: 2n,
    epoch: 7n,
    terms: filled(32, 0x7e),
    outpoints: new Map([[key, {
      outpoint,
      local: { number: 0n, content: filled(32, 0x10) },
      remote: { number: 0n, content: filled(32, 0x20) },
      fundingInputs: new Set([input, `${"08".repeat(32)}:1`]),
      signedInputs: [input],
    }]]),
    locked: key,
    frozen: true,
    closing: false,
    onWord: { local: true, remote: true },
    named: [{ amount: 1000n, script: filled(22, 5) }],
  });
  assert.equal(memory.channels.get("a2".repeat(32))?.since, 52n);
  assert.deepEqual([...memory.fundings], [[key, "a1".repeat(32)]]);
  assert.deepEqual([...memory.boundInputs], [[input, [key]]]);
});
