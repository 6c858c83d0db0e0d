/** hsmd as a process of its own: killed, started twice, with a wrong passphrase. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { client, dial } from "common/grpc/client.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { sha256 } from "@noble/hashes/sha2.js";
import { hexToBytes } from "@noble/hashes/utils.js";
import { entropyToMnemonic, mnemonicToSeedSync } from "@scure/bip39";
import { wordlist } from "@scure/bip39/wordlists/english.js";
import { waitFor } from "common/testing/wait.ts";
import { KeyTree } from "./keys.ts";
import { openSeed } from "./seed.ts";
import { SEED_FILE } from "./open.ts";
import { DATABASE_ID, temporaryDirectory } from "./testing.ts";

const MAIN = fileURLToPath(new URL("./main.ts", import.meta.url));
const DEADLINE_MS = 30_000;
const WORDS = `${"abandon ".repeat(11)}about`;
const PEER = new Uint8Array(33).fill(2);

function command(args: readonly string[], stdin: "null" | "piped" = "null"): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", MAIN, ...args],
    stdin,
    stdout: "piped",
    stderr: "piped",
  });
}

/** Runs hsmd to its end. */
async function run(args: readonly string[], input?: string) {
  const child = command(args, input === undefined ? "null" : "piped").spawn();
  if (input !== undefined) {
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(input));
    await writer.close();
  }
  const { code, stdout, stderr } = await child.output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** A serving hsmd, and everything that it logs. */
async function spawn(directory: string, ...args: string[]) {
  const child = command(["--hsmd-dir", directory, ...args]).spawn();
  const lines: string[] = [];
  const serving = Promise.withResolvers<string>();
  const timer = setTimeout(() => serving.reject(new Error(`not serving: ${lines.join("\n")}`)), DEADLINE_MS);
  const stderr = new Response(child.stderr).text();
  const reading = (async () => {
    let rest = "";
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop() ?? "";
      for (const line of parts) {
        lines.push(line);
        const { msg, addresses } = JSON.parse(line);
        if (msg === "hsmd serves") serving.resolve(addresses[0]);
      }
    }
    serving.reject(new Error(`ended: ${lines.join("\n")}${await stderr}`));
  })();
  serving.promise.catch(() => {});
  const address = await serving.promise.finally(() => clearTimeout(timer));
  const channel = dial(address);
  return {
    address,
    lines,
    hsmd: client(Hsmd, channel),
    /** Ends it by a signal and answers its status, with all output read. */
    async end(signal: "SIGKILL" | "SIGTERM"): Promise<Deno.CommandStatus> {
      child.kill(signal);
      const status = await child.status;
      await reading;
      await stderr;
      channel.close();
      return status;
    },
  };
}

/** grpc-js leaves timers of its own that end after the call that set them. */
function test(name: string, fn: (directory: string) => Promise<void>): void {
  Deno.test({
    name,
    fn: async () => {
      await using directory = await temporaryDirectory();
      await fn(directory.path);
    },
    sanitizeOps: false,
    sanitizeResources: false,
  });
}

test("kill -9 in the middle of appends loses nothing that was answered", async (directory) => {
  const answered = new Map<string, { channelKeyId: Uint8Array; paymentKeyIndex: number }>();
  let expected: { id: Uint8Array; highWater: bigint } | undefined;
  for (let round = 0; round < 3; round++) {
    const server = await spawn(directory);
    const { hsmd } = server;
    const { info } = await hsmd.bindDatabase({
      databaseId: DATABASE_ID,
      ...(expected === undefined
        ? {}
        : { expectedMemoryId: expected.id, expectedHighWater: expected.highWater }),
    });
    assert.equal(info?.trusted, true, `round ${round}`);
    // All that was answered before is known: the epoch of this round is registered for each.
    const channels = [...answered.values()].map((channel) => ({ ...channel, epoch: BigInt(round + 1) }));
    const registered = await hsmd.registerEpochs({ channels });
    assert.deepEqual(registered.channels.filter(({ refused }) => refused), []);
    // Draws without pause until the kill, which comes after the 50th answer of this round.
    const enough = answered.size + 50;
    const killed = Promise.withResolvers<void>();
    const draw = async (): Promise<void> => {
      for (;;) {
        try {
          const { channelKeyId, paymentKeyIndex } = await hsmd.newChannel({ peerId: PEER });
          answered.set(channelKeyId.toHex(), { channelKeyId, paymentKeyIndex });
        } catch {
          return;
        }
        if (answered.size >= enough) killed.resolve();
      }
    };
    const drawing = Promise.all(Array.from({ length: 8 }, draw));
    await killed.promise;
    expected = { id: info!.memoryId, highWater: BigInt(answered.size) };
    const status = await server.end("SIGKILL");
    assert.equal(status.signal, "SIGKILL");
    await drawing;
  }
  const last = await spawn(directory);
  const { info } = await last.hsmd.bindDatabase({
    databaseId: DATABASE_ID,
    expectedMemoryId: expected!.id,
    expectedHighWater: expected!.highWater,
  });
  assert.equal(info?.trusted, true);
  await last.hsmd.registerEpochs({
    channels: [...answered.values()].map((each) => ({ ...each, epoch: 99n })),
  });
  assert.equal((await last.hsmd.listEpochs({})).channels.length, answered.size);
  assert.equal((await last.end("SIGTERM")).code, 0);
});

test("a second process on the same memory is refused, and the first goes on", async (directory) => {
  const first = await spawn(directory);
  const second = await run(["--hsmd-dir", directory]);
  assert.equal(second.code, 1);
  assert.match(second.stderr, /another process uses the memory file/);
  assert.equal((await first.hsmd.getInfo({})).trusted, true);
  assert.equal((await first.end("SIGTERM")).code, 0);
});

test("a lost or wrong passphrase is a clear error; the words are shown only on command", async (directory) => {
  const file = join(directory, "passphrase");
  const wrong = join(directory, "wrong");
  Deno.writeTextFileSync(file, "correct horse battery staple\n");
  Deno.writeTextFileSync(wrong, "incorrect\n");
  const home = join(directory, "hsmd");
  const server = await spawn(home, "--hsmd-passphrase-file", file, "--log-level", "trace");
  assert.equal((await server.hsmd.getInfo({})).trusted, true);
  assert.equal((await server.end("SIGTERM")).code, 0);
  const { mnemonic } = await openSeed(join(home, SEED_FILE), "correct horse battery staple");
  const logged = server.lines.join("\n");
  for (const word of [mnemonic, mnemonic.split(" ").slice(0, 2).join(" "), "battery"]) {
    assert(!logged.includes(word));
  }

  const lost = await run(["--hsmd-dir", home]);
  assert.equal(lost.code, 2);
  assert.match(lost.stderr, /^hsmd: the seed file is encrypted.*hsmd-passphrase-file/);
  const other = await run(["--hsmd-dir", home, "--hsmd-passphrase-file", wrong]);
  assert.equal(other.code, 2);
  assert.match(other.stderr, /^hsmd: wrong passphrase/);
  assert(!other.stderr.includes("incorrect"));

  const shown = await run(["--hsmd-dir", home, "--hsmd-passphrase-file", file, "--show-mnemonic"]);
  assert.deepEqual([shown.code, shown.stdout.trim()], [0, mnemonic]);
  const unknown = await run(["--hsmd-dir", home, "--show-mnemonic"]);
  assert.deepEqual([unknown.code, unknown.stdout], [2, ""]);
});

test("words restore a seed from standard input, and never in place of another", async (directory) => {
  const args = ["--hsmd-dir", directory, "--restore-mnemonic"];
  const restored = await run(args, `${WORDS}\n`);
  assert.equal(restored.code, 0, restored.stderr);
  assert.equal((await run(["--hsmd-dir", directory, "--show-mnemonic"])).stdout.trim(), WORDS);
  const again = await run(args, `${WORDS}\n`);
  assert.equal(again.code, 2);
  assert.match(again.stderr, /never overwritten/);
  const bad = await run(["--hsmd-dir", join(directory, "x"), "--restore-mnemonic"], "abandon zebra\n");
  assert.equal(bad.code, 2);
  assert(!bad.stderr.includes("zebra"));
});

test("a throw-away node's seed is named by a developer; calls are counted", async (directory) => {
  const file = join(directory, "dev-seed");
  Deno.writeTextFileSync(file, "ab".repeat(32));
  const home = join(directory, "hsmd");
  const refused = await run(["--hsmd-dir", home, "--dev-seed-file", file]);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /only with developer/);
  const args = ["--developer", "--dev-seed-file", file, "--metrics-listen", "127.0.0.1:0"];
  const server = await spawn(home, ...args);
  const entropy = sha256(hexToBytes("ab".repeat(32))).slice(0, 16);
  const keys = new KeyTree(mnemonicToSeedSync(entropyToMnemonic(entropy, wordlist)), "regtest");
  assert.deepEqual((await server.hsmd.getInfo({})).nodeId, keys.nodeId);
  await assert.rejects(server.hsmd.newChannel({ peerId: PEER }));
  const line = await waitFor(() => server.lines.find((each) => each.includes('"metrics"')), {
    what: "the line with the port of metrics",
  });
  const text = await (await fetch(`http://${JSON.parse(line).address}/metrics`)).text();
  assert.match(text, /arcus_hsmd_calls_total\{method="getInfo",outcome="OK"\} 1/);
  assert.match(text, /arcus_hsmd_calls_total\{method="newChannel",outcome="NOT_BOUND"\} 1/);
  assert.equal((await server.end("SIGTERM")).code, 0);
});
