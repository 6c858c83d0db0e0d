import assert from "node:assert/strict";
import { join } from "node:path";
import { createProgress, quietProgress } from "tools/progress.ts";
import { cacheDir, installOnce, waitForFormerBuilder, withFileLock } from "./cache.ts";
import { spawnGuarded } from "./child.ts";

async function inTempDir(work: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "arcus-cache-test-" });
  try {
    await work(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("two that ask at once build once", () =>
  inTempDir(async (root) => {
    let builds = 0;
    const build = async (into: string) => {
      builds++;
      await Deno.writeTextFile(join(into, "part"), "whole");
    };
    const dirs = await Promise.all([1, 2, 3].map(() => installOnce("thing", quietProgress, build, { root })));
    assert.deepEqual(dirs, [1, 2, 3].map(() => join(root, "thing")));
    assert.equal(builds, 1);
    assert.equal(await Deno.readTextFile(join(root, "thing", "part")), "whole");
  }));

Deno.test("a failed build leaves nothing, and the next one may succeed", () =>
  inTempDir(async (root) => {
    const fail = async (into: string) => {
      await Deno.writeTextFile(join(into, "part"), "half");
      throw new Error("no luck");
    };
    await Deno.mkdir(join(root, ".thing-of-a-killed-builder"));
    await assert.rejects(installOnce("thing", quietProgress, fail, { root }), /no luck/);
    assert.deepEqual([...Deno.readDirSync(root)].map(({ name }) => name), ["thing.lock"]);
    await installOnce("thing", quietProgress, () => Promise.resolve(), { root });
    assert.ok((await Deno.stat(join(root, "thing"))).isDirectory);
  }));

Deno.test("what is there but not valid is built anew", () =>
  inTempDir(async (root) => {
    await Deno.mkdir(join(root, "thing"));
    await Deno.writeTextFile(join(root, "thing", "old"), "");
    const valid = (dir: string) => Deno.stat(join(dir, "new")).then(() => true, () => false);
    const build = (into: string) => Deno.writeTextFile(join(into, "new"), "");
    await installOnce("thing", quietProgress, build, { root, valid });
    assert.deepEqual([...Deno.readDirSync(join(root, "thing"))].map(({ name }) => name), ["new"]);
  }));

Deno.test("the lock of another process is waited for, and its death gives it back", () =>
  inTempDir(async (root) => {
    const lock = join(root, "lock");
    const ready = Promise.withResolvers<string>();
    const script =
      `const f = await Deno.open(Deno.args[0], {create: true, write: true}); await f.lock(true); console.log("held"); setInterval(() => {}, 1000);`;
    const file = join(root, "holder.ts");
    await Deno.writeTextFile(file, script);
    const holder = spawnGuarded({
      cmd: Deno.execPath(),
      args: ["run", "-A", file, lock],
      onLine: ready.resolve,
    });
    assert.equal(await ready.promise, "held");
    const waiting = Promise.withResolvers<void>();
    const progress = createProgress({ tty: false, write: () => waiting.resolve() });
    let entered = false;
    const work = withFileLock(lock, progress, () => Promise.resolve(entered = true));
    await waiting.promise;
    assert.equal(entered, false);
    holder.kill("SIGKILL");
    assert.equal(await work, true);
    await holder.exited;
  }));

Deno.test("an error gives the lock back", () =>
  inTempDir(async (root) => {
    const lock = join(root, "lock");
    await assert.rejects(
      withFileLock(lock, quietProgress, () => Promise.reject(new Error("inside"))),
      /inside/,
    );
    assert.equal(await withFileLock(lock, quietProgress, () => Promise.resolve(1)), 1);
  }));

Deno.test("the former builder's process is waited for", () =>
  inTempDir(async (root) => {
    const pidFile = join(root, "pid");
    await waitForFormerBuilder(pidFile);
    const builder = spawnGuarded({ cmd: "sleep", args: ["600"] });
    await Deno.writeTextFile(pidFile, String(builder.pid));
    let waited = false;
    const wait = waitForFormerBuilder(pidFile).then(() => waited = true);
    await Promise.resolve();
    assert.equal(waited, false);
    await builder.stop();
    await wait;
  }));

Deno.test("the cache is where XDG_CACHE_HOME says", () =>
  inTempDir(async (root) => {
    const before = Deno.env.get("XDG_CACHE_HOME");
    Deno.env.set("XDG_CACHE_HOME", root);
    try {
      assert.equal(cacheDir(), join(root, "arcus"));
      assert.ok((await Deno.stat(join(root, "arcus"))).isDirectory);
    } finally {
      if (before === undefined) Deno.env.delete("XDG_CACHE_HOME");
      else Deno.env.set("XDG_CACHE_HOME", before);
    }
  }));
