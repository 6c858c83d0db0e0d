import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Config, ConfigError, loadConfig, loadTable } from "common/config/config.ts";
import { DAEMONS } from "common/config/option.ts";
import { OPTIONS } from "common/config/options.ts";
import { startProgram } from "common/testing/process.ts";
import { tempFolder } from "common/testing/temp.ts";

type Input = Partial<Parameters<typeof loadConfig>[0]>;

function load(input: Input = {}): Config {
  const loaded = loadConfig({ daemon: "lightningd", args: [], env: {}, ...input });
  assert(loaded.type === "config", "text instead of a configuration");
  return loaded.config;
}

function problems(input: Input): readonly string[] {
  try {
    load(input);
  } catch (error) {
    assert(error instanceof ConfigError, String(error));
    return error.problems;
  }
  return assert.fail("it loaded");
}

Deno.test("config: defaults", () => {
  const config = load();
  assert.equal(config.get("network"), "regtest");
  assert.equal(config.get("funding-confirms"), 3);
  assert.equal(config.get("min-capacity-sat"), 10_000n);
  assert.equal(config.get("alias"), undefined);
  assert.equal(config.source("alias"), "default");
  assert.throws(() => config.require("database-url"), /database-url: needed by lightningd/);
});

Deno.test("config: flag over environment over file over default; a program's own above all", async () => {
  await using folder = await tempFolder();
  const conf = join(folder.path, "config");
  await writeFile(
    conf,
    "# a comment\n\nalias=from file\nrgb = 0a0b0c\nfunder-policy=match\nbitcoin-rpcport=1\n",
  );
  const config = load({
    args: [`--conf=${conf}`, "--alias", "from flag"],
    env: { ARCUS_ALIAS: "from environment", ARCUS_RGB: "ffffff", HOME: "/nowhere" },
    program: { "bitcoin-rpcport": "2" },
  });
  assert.deepEqual(
    (["alias", "rgb", "funder-policy", "bitcoin-rpcport", "network"] as const).map((
      name,
    ) => [config.get(name), config.source(name)]),
    [["from flag", "flag"], ["ffffff", "environment"], ["match", "file"], [2, "program"], [
      "regtest",
      "default",
    ]],
  );
  assert.equal(load({ env: { ARCUS_CONF: conf } }).get("alias"), "from file");
});

Deno.test("config: many values, and names that stand alone", async () => {
  await using folder = await tempFolder();
  const conf = join(folder.path, "config");
  await writeFile(conf, "addr=127.0.0.1:1\naddr=[::1]:2\ndeveloper\n");
  const addresses = (input: Input) => load({ daemon: "connectd", ...input }).get("addr");
  assert.deepEqual(addresses({ args: ["--addr=127.0.0.1:1", "--addr=127.0.0.1:2"] }), [
    "127.0.0.1:1",
    "127.0.0.1:2",
  ]);
  assert.deepEqual(addresses({ env: { ARCUS_ADDR: "127.0.0.1:1, 127.0.0.1:2" } }), [
    "127.0.0.1:1",
    "127.0.0.1:2",
  ]);
  assert.deepEqual(addresses({ args: ["--conf", conf] }), ["127.0.0.1:1", "[::1]:2"]);
  assert.equal(load({ args: ["--conf", conf] }).get("developer"), true);
  assert.equal(load({ args: ["--developer"] }).get("developer"), true);
  assert.equal(
    load({ args: ["--developer=false"], env: { ARCUS_DEVELOPER: "true" } }).get("developer"),
    false,
  );
  assert.equal(problems({ args: ["--alias=a", "--alias=b"] }).length, 1);
});

Deno.test("config: what is unknown or wrong is an error, and all errors are told", async () => {
  await using folder = await tempFolder();
  const conf = join(folder.path, "config");
  await writeFile(conf, "fundingconfirms=3\n");
  const told = problems({
    args: ["--conf", conf, "--rgb=red", "--funding-confirms=0"],
    env: { ARCUS_ALAIS: "typo", ARCUS_MIN_CAPACITY_SAT: "1.5", ARCUS_TEST_DATABASE_URL: "not ours" },
  });
  assert.deepEqual(told.map((problem) => problem.split(":")[0]).sort(), [
    "alais",
    "funding-confirms",
    "fundingconfirms",
    "min-capacity-sat",
    "rgb",
  ]);
  assert.match(problems({ args: ["--fundin-confirms=3"] })[0] ?? "", /unknown option '--fundin-confirms=3'/);
  assert.match(problems({ args: ["stray"] })[0] ?? "", /too many arguments/);
  assert.match(problems({ args: ["--conf", "/does/not/exist"] })[0] ?? "", /conf:/);
  assert.match(problems({ args: ["--network=bitcoin"] })[0] ?? "", /mainnet is refused: .*not resolved/);
  assert.match(problems({ args: ["--max-capacity-sat=2100000000000001"] })[0] ?? "", /more than there is/);
});

Deno.test("config: a daemon's flags are its own, a shared file and environment may hold everybody's", async () => {
  await using folder = await tempFolder();
  const conf = join(folder.path, "config");
  await writeFile(conf, "alias=node\naddr=127.0.0.1:1\n");
  assert.match(problems({ daemon: "hsmd", args: ["--alias=node"] })[0] ?? "", /unknown option/);
  const config = load({ daemon: "hsmd", args: ["--conf", conf], env: { ARCUS_BITCOIN_RPCPORT: "1" } });
  assert.equal(config.get("alias"), undefined);
  assert.deepEqual(config.list().filter(({ name }) => name === "alias" || name === "addr"), []);
});

Deno.test("config: secrets come by file, and are never shown", async () => {
  await using folder = await tempFolder();
  const file = join(folder.path, "secret");
  await writeFile(file, "p4ss word\n");
  const config = load({ args: [`--bitcoin-rpcpassword-file=${file}`] });
  assert.equal(config.get("bitcoin-rpcpassword"), "p4ss word");
  const dump = JSON.stringify(config.list());
  assert(!dump.includes("p4ss"), dump);
  assert.deepEqual(config.list().find(({ name }) => name === "bitcoin-rpcpassword")?.value, "set");
  assert.equal(
    load({ daemon: "hsmd", env: { ARCUS_HSMD_PASSPHRASE_FILE: file } }).get("hsmd-passphrase"),
    "p4ss word",
  );
  for (
    const told of [
      problems({ args: ["--bitcoin-rpcpassword=p4ss"] }),
      problems({ env: { ARCUS_BITCOIN_RPCPASSWORD: "p4ss" } }),
      problems({ args: ["--database-url-file", file] }),
      problems({ args: ["--database-url=postgres://u:p4ss@h/d"] }),
      problems({ args: ["--bitcoin-rpcpassword-file=/does/not/exist"] }),
    ]
  ) {
    assert.equal(told.length, 1);
    assert(!/p4ss(?!w)/.test(told[0] ?? ""), told[0]);
  }
  assert.match(problems({ args: ["--bitcoin-rpcpassword=p4ss"] })[0] ?? "", /use --bitcoin-rpcpassword-file/);
  assert.equal(
    load({ env: { ARCUS_DATABASE_URL: "postgres://u:p@h/d" } }).get("database-url"),
    "postgres://u:p@h/d",
  );
});

Deno.test("config: what is for developers needs developer", () => {
  assert.deepEqual(problems({ daemon: "connectd", args: ["--dev-disconnect=x"] }), [
    "dev-disconnect: only with developer",
  ]);
  assert.equal(
    load({ daemon: "connectd", args: ["--dev-disconnect=x", "--developer"] }).get("dev-disconnect"),
    "x",
  );
});

Deno.test("config: help and version", () => {
  const help = loadConfig({ daemon: "connectd", args: ["--help"], env: {} });
  assert(help.type === "text");
  assert.match(help.text, /--addr <address>/);
  assert.match(help.text, /ARCUS_MAX_PEERS/);
  assert.match(help.text, /default: 1000/);
  assert.doesNotMatch(help.text, /--alias/);
  const all = loadConfig({ daemon: "node", args: ["--help"], env: {} });
  assert(all.type === "text");
  assert.match(all.text, /--bitcoin-rpcpassword-file/);
  assert.doesNotMatch(all.text, /--bitcoin-rpcpassword </);
  assert.equal(loadConfig({ daemon: "hsmd", args: ["--version"], env: {} }).type, "text");
});

Deno.test("config: the table is sound", () => {
  for (const [name, option] of Object.entries(OPTIONS)) {
    assert.match(name, /^[a-z][a-z0-9-]*$/);
    assert(
      !name.startsWith("no-") && !name.endsWith("-file") || name === "log-file" || name === "rpc-file" ||
        name === "bitcoin-cookie-file",
      name,
    );
    assert(option.daemons.length > 0 && option.daemons.every((daemon) => DAEMONS.includes(daemon)), name);
    assert(option.help.endsWith("."), name);
  }
  // What the listing says can be given again.
  for (const daemon of DAEMONS) {
    const config = load({ daemon });
    const args = config.list().filter(({ name }) => OPTIONS[name as keyof typeof OPTIONS].secret === "no")
      .flatMap(({ name, value }) =>
        value === undefined
          ? []
          : (typeof value === "string" ? [value] : value).map((each) => `--${name}=${each}`)
      );
    assert.deepEqual(load({ daemon, args }).values, config.values);
  }
});

Deno.test("config: a table of one's own", () => {
  const loaded = loadTable({ table: { alias: OPTIONS.alias }, daemon: "node", args: ["--alias=x"], env: {} });
  assert(loaded.type === "config");
  assert.equal(loaded.config.get("alias"), "x");
});

Deno.test("config: an entry point prints help, or every problem and ends with 2", async () => {
  await using folder = await tempFolder();
  const main = join(folder.path, "main.ts");
  await writeFile(
    main,
    `import { configOrExit } from "${import.meta.resolve("./config.ts")}";
     console.log("alias=" + configOrExit("lightningd").get("alias"));`,
  );
  const run = async (...args: string[]) => {
    const { code, output } = await startProgram(main, { args, env: { ARCUS_RGB: "red" } }).ended();
    return { code, output };
  };
  const wrong = await run("--alias=x", "--funding-confirms=many");
  assert.equal(wrong.code, 2);
  assert.match(wrong.output, /rgb: 'red'.*\(environment\)/);
  assert.match(wrong.output, /funding-confirms: 'many'.*\(flag\)/);
  const fine = await run("--alias=x", "--rgb=00ff00");
  assert.deepEqual(fine, { code: 0, output: "alias=x\n" });
  const help = await run("--help");
  assert.equal(help.code, 0);
  assert.match(help.output, /Usage: lightningd/);
});
