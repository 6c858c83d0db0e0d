import assert from "node:assert/strict";
import fc from "fast-check";
import { commandsOf } from "common/rpc/command.ts";
import { Node } from "gen/cln/node_pb.ts";
import { parseArguments, UsageError } from "./arguments.ts";
import { parametersOf, unknownParameters } from "./parameters.ts";
import { flat, formatAnswer, printable } from "./print.ts";
import { qrCode } from "./qr.ts";
import { Exit, run } from "./run.ts";

const withdraw = commandsOf(Node).get("withdraw");
assert.ok(withdraw !== undefined);

/** Runs the program in this process: status, standard output, standard error. */
async function program(...args: string[]) {
  const said = { out: "", error: "" };
  const code = await run({
    args,
    env: {},
    columns: null,
    out: (line) => said.out += `${line}\n`,
    screen: { isTerminal: false, write: (text) => said.error += text },
  });
  return { code, ...said };
}

Deno.test("options stand before the command, its words after it", () => {
  const env = { ARCUS_LIGHTNING_DIR: "/env" };
  assert.deepEqual(parseArguments(["--rpc-file=/x", "-H", "withdraw", "a", "-1"], env), {
    type: "call",
    place: { type: "unix", lightningDir: "/env", rpcFile: "/x" },
    style: "human",
    timeoutMs: undefined,
    command: "withdraw",
    words: ["a", "-1"],
  });
  const overGrpc = parseArguments(["--grpc", "h:1", "--timeout", "5", "getinfo"], {});
  assert.ok(overGrpc.type === "call" && overGrpc.timeoutMs === 5_000);
  assert.deepEqual(overGrpc.place, { type: "grpc", address: "h:1" });
  assert.deepEqual(parseArguments(["withdraw", "--help"], {}), { type: "help", command: "withdraw" });
  for (const bad of [["--nonsense"], ["-J", "-H", "getinfo"], ["--timeout", "x", "getinfo"], ["-J"]]) {
    assert.throws(() => parseArguments(bad, {}), UsageError, bad.join(" "));
  }
  assert.throws(() => parseArguments(["--grpc", "h:1", "--rpc-file", "x", "getinfo"], {}), UsageError);
});

Deno.test("words are parameters by position, then by name; null skips one", () => {
  assert.deepEqual(parametersOf(withdraw, ["addr", "0.001btc", "null", "minconf=0"]), {
    destination: "addr",
    satoshi: "0.001btc",
    minconf: "0",
  });
  // What looks like a name and is none is a value: base64 ends in '='.
  assert.deepEqual(parametersOf(withdraw, ["cHNi=", "1"]), { destination: "cHNi=", satoshi: "1" });
  for (
    const bad of [["a"], ["a", "1", "2", "3", "4", "5"], ["destination=a", "1"], ["a", "1", "satoshi=2"]]
  ) {
    assert.throws(() => parametersOf(withdraw, bad), UsageError, bad.join(" "));
  }
  assert.deepEqual(unknownParameters(["1", "x", "[2]", "{"]), [1, "x", [2], "{"]);
});

Deno.test("whatever the words are, they are parameters or wrong usage", () => {
  fc.assert(fc.property(fc.array(fc.string({ unit: "binary" }), { maxLength: 8 }), (words) => {
    try {
      parametersOf(withdraw, words);
      parseArguments(words, {});
    } catch (error) {
      assert.ok(error instanceof UsageError, String(error));
    }
  }));
});

Deno.test("help needs no node, and names every command", async () => {
  const all = await program("--help");
  assert.equal(all.code, Exit.ok);
  for (const name of commandsOf(Node).keys()) {
    assert.match(all.out, new RegExp(`^  ${name}\\b`, "m"));
    const one = await program("help", name);
    assert.ok(one.code === Exit.ok && one.out.startsWith(name), name);
  }
  assert.equal((await program("help", "nonsense")).code, Exit.usage);
  assert.equal((await program("--version")).code, Exit.ok);
});

Deno.test("nobody at the socket, and wrong usage, have their own status", async () => {
  const nobody = await program("--rpc-file", "/nonexistent/rpc", "getinfo");
  assert.deepEqual([nobody.code, nobody.out], [Exit.unreachable, ""]);
  assert.equal((await program("--rpc-file", "/nonexistent/rpc", "withdraw")).code, Exit.usage);
});

Deno.test("an answer is a table for a terminal, JSON for a program", () => {
  const answer = { peers: [{ id: "02aa", connected: true, num_channels: 2, netaddr: ["127.0.0.1:9735"] }] };
  assert.equal(
    JSON.stringify(JSON.parse(formatAnswer("listpeers", answer, "auto", null))),
    JSON.stringify(answer),
  );
  assert.match(
    formatAnswer("listpeers", answer, "auto", 80),
    /^PEER +CONNECTED .*\n02aa +yes +2 +127\.0\.0\.1:9735\n1 peer$/,
  );
  assert.equal(formatAnswer("listpeers", answer, "raw", 80), JSON.stringify(answer));
  assert.deepEqual(flat({ a: [{ b: 1 }, "x"], c: {} }), ["a[0].b=1", "a[1]=x"]);
  assert.match(formatAnswer("getinfo", { fees_collected_msat: 1_000_000 }, "human", 80), /1,000 sat/);
});

Deno.test("what others say cannot steer the terminal", () => {
  assert.equal(printable("a\u001b[31m\u202eb\n"), "a?[31m?b?");
});

Deno.test("an invoice is a text and a QR code on a terminal, JSON elsewhere", () => {
  const bolt11 = "lnbcrt1pvjluezsp5zyg3zyg3zyg3zyg3";
  const answer = { bolt11, payment_hash: "00ff", payment_secret: "11", expires_at: 1_700_000_000 };
  const shown = formatAnswer("invoice", answer, "auto", 80);
  assert.match(shown, /^payment_hash {2}00ff\nexpires_at {4}2023-11-14T22:13:20Z\n\nlnbcrt1[a-z0-9]+\n\n/);
  assert.ok(shown.endsWith(qrCode(bolt11.toUpperCase(), 80)));
  assert.match(shown, /█/);
  // For people, but not on a terminal: there is nothing to scan.
  assert.doesNotMatch(formatAnswer("invoice", answer, "human", null), /█/);
  for (const style of ["json", "raw", "flat"] as const) {
    assert.doesNotMatch(formatAnswer("invoice", answer, style, 80), /█/);
  }
  assert.deepEqual(JSON.parse(formatAnswer("invoice", answer, "auto", null)), answer);
  assert.match(formatAnswer("invoice", { ...answer, expires_at: 2 ** 53 }, "auto", 80), /9007199254740992/);
  assert.match(formatAnswer("invoice", { warning: "x" }, "auto", 80), /^warning {2}x$/);
});
