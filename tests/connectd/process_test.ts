import assert from "node:assert/strict";
import { client, dial } from "common/grpc/client.ts";
import { createServer, implement } from "common/grpc/server.ts";
import { createLogger } from "common/log.ts";
import { tempFolder } from "common/testing/temp.ts";
import { waitFor } from "common/testing/wait.ts";
import { ecc } from "bolt/crypto/ecc.ts";
import { Connectd } from "gen/arcus/connectd/v1/connectd_pb.ts";
import { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { randomSecret, RawPeer } from "../lib/raw_peer.ts";
import { FakeLightningd } from "./harness.ts";
import { abort, id, test, textOf } from "./messages.ts";

const MAIN = new URL("../../services/connectd/main.ts", import.meta.url).pathname;

test("a process of its own: options, faults from a file, metrics, and a drained end on SIGTERM", async () => {
  await using folder = await tempFolder();
  const faultFile = `${folder.path}/faults`;
  await Deno.writeTextFile(faultFile, "$WIRE_TX_COMPLETE\n");
  const secret = randomSecret();
  const lightningd = new FakeLightningd(ecc().pointFromSecret(secret));
  const log = createLogger({ sink: () => {} });
  const hsmd = implement(Hsmd, {
    ecdh: ({ point }) => ({ secret: ecc().ecdh(secret, point) ?? new Uint8Array() }),
  });
  const servers = [
    createServer({ services: [lightningd.service()], log }),
    createServer({ services: [hsmd], log }),
  ];
  const [lightningdAddress, hsmdAddress] = await Promise.all(
    servers.map((server) => server.listen("127.0.0.1:0")),
  );
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      MAIN,
      `--lightningd-address=${lightningdAddress}`,
      `--hsmd-address=${hsmdAddress}`,
      "--addr=127.0.0.1:0",
      "--metrics-listen=127.0.0.1:0",
      "--developer",
      `--dev-disconnect=${faultFile}`,
      `--log-file=${folder.path}/log`,
    ],
    clearEnv: true,
    env: { HOME: Deno.env.get("HOME") ?? folder.path, PATH: Deno.env.get("PATH") ?? "" },
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  let status: Deno.CommandStatus | undefined;
  child.status.then((it) => status = it);
  try {
    const hello = await lightningd.event("hello");
    const binding = hello.bindings[0] ?? "";
    const channel = dial(hello.grpcAddress);
    const face = client(Connectd, channel);
    assert.equal((await face.listFaults({})).pending[0]?.message, "tx_complete");
    channel.close();
    await using peer = await waitFor(RawPeer.connect(binding, lightningd.nodeId), { what: "a peer" });
    await peer.sendBytes(abort(id(1), "hello"));
    const spoke = await lightningd.event("peerSpoke");
    const metrics = /"address":"([^"]+)"[^\n]*metrics are served/.exec(
      await Deno.readTextFile(`${folder.path}/log`),
    );
    await waitFor(async () => {
      const text = await (await fetch(`http://${metrics?.[1]}/metrics`)).text();
      return /^arcus_connectd_peers 1$/m.test(text) &&
        /^arcus_connectd_messages_total\{direction="in"\} [1-9]/m.test(text);
    }, { what: "the metrics of one peer" });
    const { peerId, generation, spokeId, channelId } = spoke;
    const messages = [abort(id(1), "bye")];
    lightningd.say({
      case: "peerFinalMsg",
      value: { peerId, generation, spokeId, channelId, messages, hangUp: false },
    });
    assert.equal(textOf(await peer.next()), "bye");
    child.kill("SIGTERM");
    assert.equal(await peer.closed(), "closed");
    const gone = await lightningd.event("peerDisconnected");
    assert.equal(gone.drained, true);
    const ended = await waitFor(() => status, { what: "the end of the process" });
    assert.equal(ended.code, 0);
  } finally {
    if (status === undefined) child.kill("SIGKILL");
    await child.status;
    for (const server of servers) server.closeAfterClients();
  }
});

test("a process without what it needs says so and ends", async () => {
  const run = async (...args: string[]) => {
    const output = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", MAIN, ...args] }).output();
    return {
      code: output.code,
      text: new TextDecoder().decode(output.stdout) + new TextDecoder().decode(output.stderr),
    };
  };
  const [missing, unknown, undeveloped] = await Promise.all([
    run("--hsmd-address=127.0.0.1:1"),
    run("--no-such-option"),
    run("--lightningd-address=127.0.0.1:1", "--hsmd-address=127.0.0.1:1", "--dev-disconnect=/nowhere"),
  ]);
  assert.notEqual(missing.code, 0);
  assert.match(missing.text, /lightningd-address: needed/);
  assert.equal(unknown.code, 2);
  assert.equal(undeveloped.code, 2);
  assert.match(undeveloped.text, /only with developer/);
});
