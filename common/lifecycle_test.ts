import assert from "node:assert/strict";
import { join } from "node:path";
import { buildInfo, createLifecycle, ExitCode, newInstanceId } from "common/lifecycle.ts";
import { createLogger } from "common/log.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";

class Exited extends Error {
  constructor(readonly exitCode: number) {
    super(`exit ${exitCode}`);
  }
}

function lifecycle() {
  const lines: string[] = [];
  const exits: number[] = [];
  const made = createLifecycle({
    log: createLogger({ sink: (line) => void lines.push(line) }),
    exit: (code) => {
      exits.push(code);
      throw new Exited(code);
    },
  });
  return { ...made, lines, exits };
}

Deno.test("lifecycle: steps run one after the other, the last registered first", async () => {
  const { onStop, stop, stopping, exits } = lifecycle();
  const ran: string[] = [];
  for (const name of ["database", "grpc", "peers"]) {
    onStop(name, async () => {
      await Promise.resolve();
      ran.push(name);
    });
  }
  const first = stop("test");
  assert.equal(stopping.aborted, true);
  assert.equal(stop("again"), first);
  await assert.rejects(first, Exited);
  assert.deepEqual(ran, ["peers", "grpc", "database"]);
  assert.deepEqual(exits, [ExitCode.ok]);
});

Deno.test("lifecycle: a step that fails or hangs is named, and the others still run", async () => {
  const { onStop, stop, lines, exits } = lifecycle();
  let ran = 0;
  onStop("last", async () => void ran++);
  onStop("hangs", () => new Promise(() => {}), 20);
  onStop("fails", () => Promise.reject(new Error("no")));
  await assert.rejects(stop("test"), Exited);
  assert.equal(ran, 1);
  assert.deepEqual(exits, [ExitCode.drainTimeout]);
  assert.deepEqual(lines.map((line) => JSON.parse(line).step).filter(Boolean), ["fails", "hangs"]);
});

Deno.test("lifecycle: fatal says why and leaves", () => {
  const { fatal, lines, exits } = lifecycle();
  assert.throws(() => fatal("the database is lost", new Error("why")), Exited);
  assert.deepEqual(exits, [ExitCode.fatal]);
  assert.match(lines.join(), /the database is lost.*why|why.*the database is lost/s);
});

Deno.test("lifecycle: instances differ, the build is known", () => {
  assert.match(newInstanceId(), /^[0-9a-f]{32}$/);
  assert.notEqual(newInstanceId(), newInstanceId());
  assert.equal(buildInfo().deno, Deno.version.deno);
});

/** A process of its own, that does `body` after it has installed a lifecycle and said "up". */
async function spawn(body: string) {
  const folder = await tempFolder();
  const file = join(folder.path, "main.ts");
  const here = (name: string) => import.meta.resolve(`./${name}`);
  await Deno.writeTextFile(
    file,
    `import { createLifecycle } from "${here("lifecycle.ts")}";
     import { createLogger } from "${here("log.ts")}";
     const log = createLogger();
     const lifecycle = createLifecycle({ log });
     lifecycle.install();
     lifecycle.onStop("slow", () => new Promise((resolve) => setTimeout(resolve, SLOW)), 60_000);
     setInterval(() => {}, 1000);
     ${body}
     log.info({}, "up");`.replace("SLOW", body.includes("slow") ? "60000" : "10"),
  );
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "--config", new URL("../deno.json", import.meta.url).pathname, file],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let output = "";
  const reading = (async () => {
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) output += chunk;
  })();
  const errors = child.stderr.text();
  const said = (text: string) => waitFor(() => output.includes(text), { what: `"${text}" from the child` });
  const ended = async () => {
    const { code } = await waitFor(child.status, { what: "the child's end" });
    await reading;
    await errors;
    await folder[Symbol.asyncDispose]();
    return { code, output };
  };
  return { child, said, ended };
}

Deno.test("lifecycle: SIGTERM drains and ends with 0", async () => {
  const { child, said, ended } = await spawn("");
  await said('"up"');
  child.kill("SIGTERM");
  const { code, output } = await ended();
  assert.equal(code, ExitCode.ok);
  assert.match(output, /"stopped"/);
});

Deno.test("lifecycle: a second signal leaves at once", async () => {
  const { child, said, ended } = await spawn("// slow");
  await said('"up"');
  child.kill("SIGINT");
  await said('"stopping"');
  child.kill("SIGINT");
  assert.equal((await ended()).code, ExitCode.interrupted);
});

Deno.test("lifecycle: what nobody handled ends the process and is logged", async () => {
  for (
    const [body, why] of [
      ['queueMicrotask(() => Promise.reject(new Error("nobody")));', "unhandled rejection"],
      ['setTimeout(() => { throw new Error("nobody"); }, 1);', "uncaught error"],
    ]
  ) {
    const { ended } = await spawn(body ?? "");
    const { code, output } = await ended();
    assert.equal(code, ExitCode.fatal);
    assert(output.includes(why ?? "") && output.includes("nobody"), output);
  }
});
