import assert from "node:assert/strict";
import { quietProgress } from "tools/progress.ts";
import { buildFraction, findBitcoind, majorVersion } from "./bitcoind.ts";
import { findSecp256k1 } from "./secp256k1.ts";
import { compilerJobs } from "./toolchain.ts";
import { parsePasswd } from "./unprivileged.ts";

async function withEnv(name: string, value: string, work: () => Promise<void>): Promise<void> {
  const before = Deno.env.get(name);
  Deno.env.set(name, value);
  try {
    await work();
  } finally {
    if (before === undefined) Deno.env.delete(name);
    else Deno.env.set(name, before);
  }
}

Deno.test("the bitcoind of the environment is taken, with the bitcoin-cli beside it", async () => {
  const found = await findBitcoind(quietProgress);
  assert.ok(majorVersion(found.version) >= 28, found.version);
  await withEnv("ARCUS_BITCOIND", found.bitcoind, async () => {
    assert.deepEqual(await findBitcoind(quietProgress), { ...found, source: "environment" });
  });
});

Deno.test("what the environment names and does not work is an error, not passed over", async () => {
  for (const path of ["/nonexistent/bitcoind", "/bin/ls", "/etc/passwd"]) {
    await withEnv(
      "ARCUS_BITCOIND",
      path,
      () => assert.rejects(findBitcoind(quietProgress), /ARCUS_BITCOIND/),
    );
    await withEnv(
      "ARCUS_SECP256K1_LIB",
      path,
      () => assert.rejects(findSecp256k1(quietProgress), /ARCUS_SECP256K1_LIB/),
    );
  }
});

Deno.test("versions and build progress are read", () => {
  assert.equal(majorVersion("Bitcoin Core daemon version v31.99.0-unk bitcoind"), 31);
  assert.equal(majorVersion("Bitcoin Core version v0.21.0"), 0);
  assert.equal(majorVersion("something else"), 0);
  assert.equal(buildFraction("[12/48] Building CXX object"), 0.25);
  assert.equal(buildFraction("[ 25%] Building CXX object"), 0.25);
  assert.equal(buildFraction("ninja: no work to do."), undefined);
});

Deno.test("compilers are as many as processors and memory allow, but one", () => {
  const gib = 1024 ** 3;
  assert.equal(compilerJobs(8, 64 * gib), 8);
  assert.equal(compilerJobs(8, 4 * gib), 2);
  assert.equal(compilerJobs(2, 0), 1);
});

Deno.test("users are read from passwd", () => {
  assert.deepEqual(
    parsePasswd("root:x:0:0:root:/root:/bin/sh\nbroken\nnobody:x:65534:65533:n:/:/bin/false\n"),
    [
      { name: "root", uid: 0, gid: 0 },
      { name: "nobody", uid: 65534, gid: 65533 },
    ],
  );
});
