import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createLogger, type LogLevel, sanitize } from "common/log.ts";
import { tempFolder } from "common/testing/temp.ts";
import { newTrace, runWithTrace } from "common/trace.ts";

function collecting(level: LogLevel = "debug") {
  const lines: string[] = [];
  const log = createLogger({ level, sink: (line) => void lines.push(line), fields: { daemon: "connectd" } });
  const last = (): Record<string, unknown> => JSON.parse(lines.at(-1) ?? "{}");
  return { log, lines, last };
}

Deno.test("log: one JSON object a line, with CLN's level and the fields of every parent", () => {
  const { log, lines, last } = collecting();
  log.child({ peer: "02ab" }).child({ channel: "cd" }).warn({ count: 3, big: 2n ** 64n }, "held");
  assert.equal(lines.length, 1);
  assert(lines[0]?.endsWith("\n"));
  const { time, ...rest } = last();
  assert.match(String(time), /^20\d\d-.*Z$/);
  assert.deepEqual(rest, {
    level: "unusual",
    daemon: "connectd",
    peer: "02ab",
    channel: "cd",
    count: 3,
    big: "18446744073709551616",
    msg: "held",
  });
});

Deno.test("log: levels", () => {
  const { log, lines } = collecting("unusual");
  log.info({}, "no");
  assert.equal(log.enabled("info"), false);
  assert.equal(log.enabled("broken"), true);
  log.error({}, "yes");
  assert.equal(lines.length, 1);
});

Deno.test("log: the trace of the running code", () => {
  const { log, last } = collecting();
  const trace = newTrace();
  runWithTrace(trace, () => log.info({}, "in"));
  assert.equal(last()["trace"], trace.traceId);
});

Deno.test("log: secrets are cut out by name, at any depth, in fields and in children", () => {
  const { log, lines } = collecting();
  const secret = "5ecre7";
  log.child({ rune: secret }).info({
    password: secret,
    passphrase: secret,
    seed: new Uint8Array([1, 2, 3]),
    a: { b: [{ payment_preimage: secret, privateKey: secret, mnemonic: secret }] },
    bitcoinRpcPassword: secret,
    database_url: secret,
    authorization: secret,
    attachToken: secret,
  }, "hello");
  assert(!lines.join().includes(secret), lines.join());
  assert(!lines.join().includes("010203"), lines.join());
});

Deno.test("log: bytes are hex and bounded, errors have a cause and no foreign fields, cycles end", () => {
  const { log, last } = collecting();
  const error = Object.assign(new Error("outer", { cause: new Error("inner") }), {
    code: "23505",
    parameters: ["x"],
  });
  const cycle: Record<string, unknown> = {};
  cycle["self"] = cycle;
  log.error({ err: error, id: new Uint8Array([0, 255]), long: new Uint8Array(500), cycle }, "failed");
  const line = last();
  assert.equal(line["id"], "00ff");
  assert.match(String(line["long"]), /^0{256}…\(500 bytes\)$/);
  const err = line["err"] as Record<string, unknown>;
  assert.equal(err["message"], "outer");
  assert.equal(err["code"], "23505");
  assert.equal((err["cause"] as Record<string, unknown>)["message"], "inner");
  assert.equal("parameters" in err, false);
});

Deno.test("log: what a peer says cannot forge a line, move the cursor or flood", () => {
  const { log, lines, last } = collecting();
  const evil = `x\n{"level":"broken"}\u001b[2J\u0007\u202eabc\ud800`;
  log.info({ alias: evil }, evil);
  assert.equal(lines.length, 1);
  for (const text of [String(last()["alias"]), String(last()["msg"])]) {
    // deno-lint-ignore no-control-regex
    assert.doesNotMatch(text, /[\u0000-\u001f\u202e]/);
    assert(text.isWellFormed());
  }
  assert.equal(sanitize("ä漢字 €"), "ä漢字 €");
  assert.equal(sanitize("a".repeat(100), 10), "a".repeat(10) + "…");
});

Deno.test("log: a file is appended to, and complete after each line", async () => {
  await using folder = await tempFolder();
  const file = join(folder.path, "logs", "arcus.log");
  for (const message of ["one", "two"]) createLogger({ file }).info({}, message);
  const lines = (await readFile(file, "utf8")).trim().split("\n").map((line) => JSON.parse(line).msg);
  assert.deepEqual(lines, ["one", "two"]);
});
