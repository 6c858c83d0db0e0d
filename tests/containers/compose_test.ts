/**
 * The compose file with a real engine: `docker compose up` gives a node whose API answers and whose daemons can be
 * listed. Where no engine can run it says so and passes; with ARCUS_TEST_CONTAINERS=required that is a failure.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bytesToHex } from "@noble/hashes/utils.js";
import { client, dial } from "common/grpc/client.ts";
import { Channeld } from "gen/arcus/channeld/v1/channeld_pb.ts";
import { Closingd } from "gen/arcus/closingd/v1/closingd_pb.ts";
import { Connectd } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Dualopend } from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { Lightningd } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { NewaddrRequest_NewaddrAddresstype, Node } from "gen/cln/node_pb.ts";
import { type DockerEngine, whyNoEngine, withDocker } from "tools/parts/docker.ts";
import { prepareImages } from "tools/parts/docker_images.ts";
import { createProgress, withStep } from "tools/progress.ts";
import { ComposeProject } from "./project.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/** What each daemon must list, besides health and both versions of reflection. */
const SERVICES = {
  hsmd: [Hsmd.typeName],
  lightningd: [Lightningd.typeName],
  connectd: [Connectd.typeName],
  dualopend: [Dualopend.typeName],
  channeld: [Channeld.typeName],
  closingd: [Closingd.typeName],
} as const;
const EVERYWHERE = [
  "grpc.health.v1.Health",
  "grpc.reflection.v1.ServerReflection",
  "grpc.reflection.v1alpha.ServerReflection",
];
const CALL_MS = 20_000;
const POLL_MS = 200;

const required = Deno.env.get("ARCUS_TEST_CONTAINERS") === "required";
const progress = createProgress();

/** Why this machine cannot run the test, as far as that shows without starting anything. */
const impossible = required ? undefined : await noEngineAtAll();
if (impossible !== undefined) console.error(`skipped: ${impossible}`);

async function noEngineAtAll(): Promise<string | undefined> {
  const reason = whyNoEngine();
  if (reason === undefined) return undefined;
  const asked = new Deno.Command("docker", { args: ["version"], stdout: "null", stderr: "null" });
  return await asked.output().then(({ success }) => success ? undefined : reason, () => reason);
}

/** The image of each `FROM` and `image:` that the project does not build. */
async function imageTags() {
  const [dockerfile, compose] = await Promise.all(
    ["deploy/Dockerfile", "docker-compose.yml"].map((path) => Deno.readTextFile(join(ROOT, path))),
  );
  const find = (text: string | undefined, pattern: RegExp): string => {
    const tag = pattern.exec(text ?? "")?.[1];
    if (tag === undefined) throw new Error(`nothing matches ${pattern}`);
    return tag;
  };
  return {
    debian: find(dockerfile, /^FROM (debian:\S+)$/m),
    deno: find(dockerfile, /^FROM (denoland\/deno:\S+) AS deno$/m),
    postgres: find(compose, /image: (postgres:\S+)$/m),
    grpcurl: find(compose, /image: (\S*grpcurl:\S+)$/m),
    bitcoind: find(compose, /image: (arcus-bitcoind:\S+)$/m),
  };
}

/** The API on its published port: the node knows itself, and follows the chain of its bitcoind. */
async function answers(project: ComposeProject): Promise<void> {
  const api = dial(await project.published("lightningd", 9736), { deadlineMs: CALL_MS, waitForReady: true });
  try {
    const node = client(Node, api);
    const info = await node.getinfo({});
    assert.equal(info.network, "regtest");
    assert.equal(info.id.length, 33, `the node's id is ${bytesToHex(info.id)}`);
    assert.equal(info.blockheight, 0);

    const { p2tr } = await node.newAddr({ addresstype: NewaddrRequest_NewaddrAddresstype.P2TR });
    assert(p2tr !== undefined);
    await project.exec("bitcoind", ["bitcoin-cli", "-regtest", "generatetoaddress", "1", p2tr]);
    const deadline = performance.now() + CALL_MS;
    while ((await node.getinfo({})).blockheight !== 1) {
      assert(performance.now() < deadline, "the node did not see the block in time");
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  } finally {
    api.close();
  }
}

/** grpcurl, without any .proto file, lists every daemon and calls the API. */
async function listed(project: ComposeProject): Promise<void> {
  const lists = Object.entries(SERVICES).map(async ([daemon, services]) => {
    const lines = (await project.grpcurl([`${daemon}:9800`, "list"])).split("\n").map((line) => line.trim());
    for (const service of [...services, ...EVERYWHERE]) {
      assert(lines.includes(service), `${daemon} lists ${lines.join(", ")}`);
    }
  });
  await Promise.all(lists);
  const info = JSON.parse(await project.grpcurl(["lightningd:9736", "cln.Node/Getinfo"]));
  assert.equal(info.network, "regtest");
}

async function check(engine: DockerEngine): Promise<void> {
  const source = await prepareImages(engine, await imageTags(), progress);
  const project = new ComposeProject(engine, ROOT);
  try {
    const built = source === "registry" ? ["secrets", "bitcoind"] : ["secrets"];
    await withStep(
      progress,
      "docker compose build",
      (step) => project.build(built, (line) => step.update(line)),
    );
    await withStep(progress, "docker compose up", (step) => project.up((line) => step.update(line)));
    await withStep(
      progress,
      "waiting for every container",
      (step) => project.untilHealthy((s) => step.update(s)),
    );

    await withStep(progress, "calling the API", () => answers(project));
    await withStep(progress, "grpcurl", () => listed(project));
    assert.deepEqual(await project.publicServices(), ["connectd", "lightningd"]);
    for (const other of ["postgres", "bitcoind"]) {
      assert.equal(await project.resolves("lightningd", other), true, `lightningd finds ${other}`);
      assert.equal(await project.resolves("hsmd", other), false, `hsmd does not find ${other}`);
    }
    await withStep(progress, "two replicas of dualopend", async (step) => {
      await project.scale("dualopend", 2);
      await project.untilHealthy((state) => step.update(state));
      assert.equal((await project.containers()).filter(({ Service }) => Service === "dualopend").length, 2);
    });
  } catch (error) {
    console.error(await project.logs());
    throw error;
  } finally {
    await withStep(progress, "docker compose down", () => project.down());
  }
}

Deno.test({
  name: "docker compose up gives a node whose API answers and whose daemons can be listed",
  ignore: impossible !== undefined,
  fn: async () => {
    const outcome = await withDocker(progress, check);
    if (outcome.type === "ran") return;
    if (required) assert.fail(outcome.reason);
    console.error(`skipped: ${outcome.reason}`);
  },
});
