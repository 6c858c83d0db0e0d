import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SCRIPT = fileURLToPath(new URL("./secrets.ts", import.meta.url));
const FILES = [
  "postgres/password",
  "postgres/database-url",
  "bitcoind/bitcoin.conf",
  "lightningd/bitcoin-rpcpassword",
  "lightningd/database-url",
  "dualopend/database-url",
  "channeld/database-url",
  "closingd/database-url",
];

async function draw(root: string): Promise<Record<string, string>> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-check", `--allow-read=${root}`, `--allow-write=${root}`, SCRIPT, root],
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return Object.fromEntries(
    await Promise.all(FILES.map(async (file) => [file, await Deno.readTextFile(join(root, file))])),
  );
}

Deno.test("secrets: drawn once, private, and bitcoind gets only a hash that fits the password", async () => {
  const root = await Deno.makeTempDir();
  try {
    for (const name of ["postgres", "bitcoind", "lightningd", "dualopend", "channeld", "closingd"]) {
      await Deno.mkdir(join(root, name));
    }
    const first = await draw(root);
    assert.deepEqual(await draw(root), first);
    for (const file of FILES) {
      const mode = (await Deno.stat(join(root, file))).mode ?? 0;
      assert.equal((mode & 0o077) === 0, file !== "bitcoind/bitcoin.conf", file);
    }
    const passwords = ["postgres", "lightningd", "dualopend", "channeld", "closingd"].map((name) =>
      new URL(first[`${name}/database-url`] ?? "").password
    );
    assert.equal(passwords[0], first["postgres/password"]);
    const secret = first["lightningd/bitcoin-rpcpassword"] ?? "";
    assert.equal(new Set([...passwords, secret]).size, 6);

    const [, user, salt = "", hash] =
      /^rpcauth=(\w+):(\w+)\$(\w+)$/m.exec(first["bitcoind/bitcoin.conf"] ?? "") ??
        [];
    assert.equal(user, "arcus");
    assert.equal(hash, createHmac("sha256", salt).update(secret).digest("hex"));
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});

Deno.test("secrets: an interrupted run is finished by the next one, with passwords that agree", async () => {
  const root = await Deno.makeTempDir();
  try {
    for (const name of ["postgres", "bitcoind", "lightningd", "dualopend", "channeld", "closingd"]) {
      await Deno.mkdir(join(root, name));
    }
    await Deno.writeTextFile(join(root, "postgres", "password"), "half");
    await Deno.writeTextFile(join(root, "lightningd", "bitcoin-rpcpassword"), "half");
    const drawn = await draw(root);
    assert.equal(new URL(drawn["postgres/database-url"] ?? "").password, drawn["postgres/password"]);
    assert.notEqual(drawn["lightningd/bitcoin-rpcpassword"], "half");
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});
