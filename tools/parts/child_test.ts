import assert from "node:assert/strict";
import { join } from "node:path";
import { processExists, runGuarded, spawnGuarded, stopAllChildren, whichProgram } from "./child.ts";
import { killParentOf, untilNothingIsLeft } from "./fixtures/killed_parent.ts";

Deno.test("a program's output and exit code arrive", async () => {
  const lines: string[] = [];
  const result = await runGuarded({
    cmd: "sh",
    args: ["-c", 'echo "$GREETING"; echo two >&2; printf three; exit 3'],
    env: { GREETING: "one" },
    onLine: (line, stream) => lines.push(`${stream} ${line}`),
  });
  assert.equal(result.code, 3);
  assert.equal(result.signal, null);
  assert.deepEqual(result.output.split("\n").sort(), ["one", "three", "two"]);
  assert.deepEqual(lines.sort(), ["stderr two", "stdout one", "stdout three"]);
});

Deno.test("arguments arrive as they are", async () => {
  const args = ["", "a b", "$HOME", "'", '"', "--", "-x", "ä\n!"];
  const script = 'for it in "$@"; do printf "<%s>" "$it"; done';
  const { output } = await runGuarded({ cmd: "sh", args: ["-c", script, "sh", ...args] });
  assert.equal(output, args.map((it) => `<${it}>`).join(""));
});

Deno.test("the pid is the program's own, and SIGKILL reaches it", async () => {
  const ready = Promise.withResolvers<string>();
  const child = spawnGuarded({ cmd: "sh", args: ["-c", "echo $$; exec sleep 600"], onLine: ready.resolve });
  assert.equal(Number(await ready.promise), child.pid);
  child.kill("SIGKILL");
  assert.deepEqual(await child.exited, { code: 137, signal: "SIGKILL" });
  assert.equal(processExists(child.pid), false);
});

Deno.test("stop asks with the chosen signal", async () => {
  const ready = Promise.withResolvers<string>();
  const child = spawnGuarded({
    cmd: "sh",
    args: ["-c", "trap 'exit 7' INT; echo ready; while :; do sleep 0.02; done"],
    stopSignal: "SIGINT",
    onLine: ready.resolve,
  });
  await ready.promise;
  assert.deepEqual(await child.stop(), { code: 7, signal: null });
});

Deno.test("stop kills what does not listen, and what it started", async () => {
  const ready = Promise.withResolvers<string>();
  const child = spawnGuarded({
    cmd: "sh",
    args: ["-c", "trap '' TERM; sleep 600 & echo $!; while :; do wait; done"],
    onLine: ready.resolve,
  });
  const grandchild = Number(await ready.promise);
  assert.equal(processExists(grandchild), true);
  assert.equal((await child.stop(100)).signal, "SIGKILL");
  await untilNothingIsLeft({ pids: [grandchild] });
});

Deno.test("the log file gets both streams", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const logFile = join(dir, "log");
    for (const onLine of [undefined, () => {}]) {
      const options = { cmd: "sh", args: ["-c", "echo out; echo err >&2"], logFile };
      await spawnGuarded(onLine === undefined ? options : { ...options, onLine }).exited;
    }
    const lines = (await Deno.readTextFile(logFile)).trimEnd().split("\n");
    assert.deepEqual(lines.sort(), ["err", "err", "out", "out"]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("stopAllChildren ends them all", async () => {
  const children = [1, 2, 3].map(() => spawnGuarded({ cmd: "sleep", args: ["600"] }));
  await stopAllChildren();
  for (const child of children) assert.equal((await child.exited).signal, "SIGTERM");
});

Deno.test("an unknown program is an error at once", () => {
  assert.throws(() => spawnGuarded({ cmd: "no-such-program-here" }), /no-such-program-here/);
  assert.equal(whichProgram("no-such-program-here"), undefined);
  assert.notEqual(whichProgram("sh"), undefined);
});

Deno.test("a parent killed with SIGKILL leaves neither its child nor its grandchild", async () => {
  const { pids, status } = await killParentOf("stubborn", "SIGKILL");
  assert.equal(status.signal, "SIGKILL");
  assert.equal(pids.length, 2);
  await untilNothingIsLeft({ pids });
});

Deno.test("a parent ended by SIGINT or SIGTERM leaves nothing either", async () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const { pids } = await killParentOf("stubborn", signal);
    await untilNothingIsLeft({ pids });
  }
});

Deno.test("endOnSignals: the children are gone before the parent, which says by which signal", async () => {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    const { pids, status } = await killParentOf("orderly", signal);
    assert.deepEqual({ code: status.code, signal: status.signal }, { code, signal: null });
    assert.deepEqual(pids.filter(processExists), []);
  }
});
