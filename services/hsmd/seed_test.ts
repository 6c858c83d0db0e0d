import assert from "node:assert/strict";
import { join } from "node:path";
import { createSeed, openSeed, recordMemoryId, SeedError } from "./seed.ts";
import { temporaryDirectory } from "./testing.ts";

const WORDS = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
/** As little work as scrypt allows, for tests that are not about it. */
const FAST = { N: 16, r: 1, p: 1 };
const MEMORY_ID = new Uint8Array(16).fill(7);

async function errorOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert(error instanceof SeedError, String(error));
    return error.type;
  }
  return "none";
}

function testIn(name: string, body: (path: string) => Promise<void>): void {
  Deno.test(name, async () => {
    await using directory = await temporaryDirectory();
    await body(join(directory.path, "seed.json"));
  });
}

testIn("a new seed has 12 words, mode 0600, and no other file stays behind", async (path) => {
  await createSeed(path);
  assert.equal(Deno.statSync(path).mode! & 0o777, 0o600);
  const seed = await openSeed(path);
  assert.equal(seed.mnemonic.split(" ").length, 12);
  assert.equal(seed.seed.length, 64);
  assert.equal(seed.memoryId, null);
  assert.equal(seed.restored, false);
  assert.deepEqual([...Deno.readDirSync(join(path, ".."))].map(({ name }) => name), ["seed.json"]);
});

testIn("two seeds differ, and one is never overwritten", async (path) => {
  await createSeed(path);
  const before = Deno.readTextFileSync(path);
  assert.equal(await errorOf(createSeed(path)), "exists");
  assert.equal(Deno.readTextFileSync(path), before);
  await createSeed(`${path}.2`);
  assert.notEqual((await openSeed(path)).mnemonic, (await openSeed(`${path}.2`)).mnemonic);
});

testIn("words restore a seed, which knows that it was restored", async (path) => {
  await createSeed(path, { mnemonic: `  ${WORDS.toUpperCase().replaceAll(" ", "\n")}\n` });
  const seed = await openSeed(path);
  assert.equal(seed.mnemonic, WORDS);
  assert.equal(seed.restored, true);
  assert.equal(seed.seed.slice(0, 8).toHex(), "5eb00bbddcf06908");
});

testIn(
  "words with a wrong checksum, too few or too many, are refused without being repeated",
  async (path) => {
    for (
      const mnemonic of [WORDS.replace("about", "abandon"), "abandon", `${WORDS} ${WORDS}`, "", "geheim"]
    ) {
      await assert.rejects(createSeed(path, { mnemonic }), (error) => {
        assert(error instanceof SeedError);
        assert.equal(error.type, "bad_mnemonic");
        assert(!/abandon|geheim/.test(error.message));
        return true;
      });
    }
  },
);

testIn("with a passphrase the entropy is not in the file, and only the passphrase opens it", async (path) => {
  await createSeed(path, { mnemonic: WORDS, passphrase: "correct horse", scrypt: FAST });
  const text = Deno.readTextFileSync(path);
  assert(!text.includes('"entropy"'));
  assert(!text.includes("00".repeat(16)));
  assert.equal((await openSeed(path, "correct horse")).mnemonic, WORDS);
  assert.equal(await errorOf(openSeed(path)), "passphrase_missing");
  assert.equal(await errorOf(openSeed(path, "wrong horse")), "passphrase_wrong");
  assert.equal(await errorOf(openSeed(path, "")), "passphrase_wrong");
});

testIn("the default work factors are the strong ones, and are in the file", async (path) => {
  await createSeed(path, { passphrase: "x" });
  const { encrypted } = JSON.parse(Deno.readTextFileSync(path));
  assert.deepEqual([encrypted.kdf, encrypted.n, encrypted.r, encrypted.p], ["scrypt", 131072, 8, 1]);
  assert.equal((await openSeed(path, "x")).mnemonic.split(" ").length, 12);
});

testIn(
  "a passphrase for a file that is not encrypted is an error: its owner believes otherwise",
  async (path) => {
    await createSeed(path);
    assert.equal(await errorOf(openSeed(path, "x")), "passphrase_wrong");
  },
);

testIn("every changed part of an encrypted file is found", async (path) => {
  await createSeed(path, { passphrase: "x", scrypt: FAST });
  const file = JSON.parse(Deno.readTextFileSync(path));
  const flip = (hex: string) => (hex.startsWith("0") ? "1" : "0") + hex.slice(1);
  const { encrypted } = file;
  for (
    const changed of [
      { ...encrypted, salt: flip(encrypted.salt) },
      { ...encrypted, nonce: flip(encrypted.nonce) },
      { ...encrypted, ciphertext: flip(encrypted.ciphertext) },
      { ...encrypted, n: 32 },
      { ...encrypted, p: 2 },
    ]
  ) {
    Deno.writeTextFileSync(path, JSON.stringify({ ...file, encrypted: changed }));
    assert.equal(await errorOf(openSeed(path, "x")), "passphrase_wrong");
  }
});

testIn("a file that would take all memory, or is no seed file, is refused", async (path) => {
  await createSeed(path, { passphrase: "x", scrypt: FAST });
  const file = JSON.parse(Deno.readTextFileSync(path));
  const { encrypted } = file;
  const bad: unknown[] = [
    { ...file, encrypted: { ...encrypted, n: 1 << 21 } },
    { ...file, encrypted: { ...encrypted, n: 17 } },
    { ...file, encrypted: { ...encrypted, n: 1 } },
    { ...file, encrypted: { ...encrypted, r: 1000 } },
    { ...file, encrypted: { ...encrypted, kdf: "none" } },
    { ...file, encrypted: { ...encrypted, ciphertext: "00" } },
    { ...file, encrypted: null },
    { ...file, encrypted: undefined },
    { ...file, kind: "other" },
    { ...file, memory_id: "zz" },
    { ...file, restored: 1 },
    null,
    [],
    "text",
  ];
  for (const value of bad) {
    Deno.writeTextFileSync(path, JSON.stringify(value) ?? "");
    assert.equal(await errorOf(openSeed(path, "x")), "malformed", JSON.stringify(value));
  }
  Deno.writeTextFileSync(path, "{");
  assert.equal(await errorOf(openSeed(path, "x")), "malformed");
  Deno.writeTextFileSync(path, " ".repeat(5000));
  assert.equal(await errorOf(openSeed(path, "x")), "malformed");
  Deno.writeTextFileSync(path, JSON.stringify({ ...file, version: 2 }));
  assert.equal(await errorOf(openSeed(path, "x")), "newer_version");
});

testIn("the memory's id is recorded without the passphrase, and changes nothing else", async (path) => {
  await createSeed(path, { passphrase: "x", scrypt: FAST });
  const before = await openSeed(path, "x");
  recordMemoryId(path, MEMORY_ID);
  const after = await openSeed(path, "x");
  assert.deepEqual(after, { ...before, memoryId: MEMORY_ID });
  assert.equal(Deno.statSync(path).mode! & 0o777, 0o600);
});
