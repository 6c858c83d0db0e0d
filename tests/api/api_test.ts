/** The public API on a real node: gRPC, JSON-RPC on the socket, the command line; right answers and right refusals. */
import assert from "node:assert/strict";
import { connect as connectHttp2, constants, type IncomingHttpHeaders } from "node:http2";
import fc from "fast-check";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { callUnix, RpcError } from "common/rpc/client.ts";
import { commandsOf } from "common/rpc/command.ts";
import { isJsonObject, type Json, type JsonObject } from "common/rpc/json_text.ts";
import { waitFor } from "common/testing/wait.ts";
import { Operator } from "gen/arcus/lightningd/v1/operator_pb.ts";
import { Node } from "gen/cln/node_pb.ts";
import { ChannelState } from "gen/cln/primitives_pb.ts";
import { untilInMempool } from "tests/lib/channels.ts";
import { useWorlds, type World } from "tests/lib/world.ts";
import { connect, fundWallets, spendable, untilConnected, untilState } from "tools/node/commands.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { cli, request, say } from "./parts.ts";

const worlds = await useWorlds();
const UNKNOWN_ID = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
const MSAT = 1_000n;

async function rpc(node: RunningNode, method: string, params: Json = {}): Promise<JsonObject> {
  const answer = await callUnix(node.rpcFile, method, params);
  assert.ok(isJsonObject(answer));
  return answer;
}

/** A refusal over gRPC: status, CLN's code, reason. */
async function refusal(call: Promise<unknown>): Promise<ArcusError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof ArcusError, String(error));
    return error;
  }
  throw new Error("was not refused");
}

/** A refusal over JSON-RPC. */
async function rpcRefusal(call: Promise<unknown>): Promise<RpcError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof RpcError, String(error));
    return error;
  }
  throw new Error("was not refused");
}

async function alive(node: RunningNode): Promise<void> {
  assert.equal((await node.rpc.getinfo({})).id.toHex(), node.id);
  assert.equal((await rpc(node, "getinfo")).id, node.id);
}

Deno.test("getinfo, feerates, listconfigs and help say the same over gRPC, socket and command line", async () => {
  await worlds.withWorld(async ({ alice }) => {
    const info = await alice.rpc.getinfo({});
    assert.equal(info.alias, "alice");
    assert.equal(info.network, "regtest");
    assert.equal(info.blockheight, await worlds.chain.height());
    assert.deepEqual([info.numPeers, info.numPendingChannels, info.numActiveChannels], [0, 0, 0]);
    assert.ok(info.binding.some(({ address, port }) => `${address}:${port}` === alice.address));
    const json = await rpc(alice, "getinfo");
    assert.equal(json.id, alice.id);
    assert.equal(json.blockheight, info.blockheight);
    const overCli = await cli("--rpc-file", alice.rpcFile, "getinfo");
    assert.equal(overCli.code, 0, overCli.error);
    assert.deepEqual(JSON.parse(overCli.out), json);
    const overGrpc = await cli("--grpc", alice.apiAddress ?? "", "getinfo");
    assert.equal(overGrpc.code, 0, overGrpc.error);
    assert.deepEqual(JSON.parse(overGrpc.out), json);

    const { perkw } = await alice.rpc.feerates({ style: 1 });
    const { perkb } = await alice.rpc.feerates({ style: 0 });
    assert.ok(perkw?.opening !== undefined && perkb?.opening === perkw.opening * 4);
    assert.deepEqual(Object.keys(await rpc(alice, "feerates", ["perkw"])), ["perkw"]);

    const { configs } = await alice.rpc.listConfigs({});
    assert.equal(configs?.network?.valueStr, "regtest");
    assert.equal(configs?.alias?.valueStr, "alice");
    const all = (await rpc(alice, "listconfigs")).configs;
    assert.ok(isJsonObject(all) && isJsonObject(all["funder-policy"]));
    assert.equal(all["funder-policy"].value_str, "match");
    assert.deepEqual(all["database-url"], { set: true, source: "config file" });
    assert.ok(!JSON.stringify(all).includes("postgres:"), "no secret is shown");

    const { help } = await alice.rpc.help({});
    assert.equal(help.length, commandsOf(Node, Operator).size);
    const one = await rpc(alice, "help", ["withdraw"]);
    assert.deepEqual(one.help, [{ command: "withdraw destination satoshi [feerate] [minconf] [utxos]" }]);
  });
});

Deno.test("coins come, are listed and are withdrawn, over all three ways", async () => {
  await worlds.withWorld(async ({ alice, chain }) => {
    const { p2tr, bech32 } = await alice.rpc.newAddr({});
    assert.match(p2tr ?? "", /^bcrt1p/);
    assert.equal(bech32, undefined);
    await chain.fund([{ address: p2tr ?? "", sat: 1_000_000n }]);
    await waitFor(async () => await spendable(alice) === 1_000_000n, { what: "the deposit" });
    const funds = await rpc(alice, "listfunds");
    assert.ok(Array.isArray(funds.outputs));
    const [coin] = funds.outputs as JsonObject[];
    assert.equal(coin?.amount_msat, 1_000_000_000);
    assert.deepEqual([coin?.status, coin?.reserved, coin?.address], ["confirmed", false, p2tr]);

    const there = (await alice.rpc.newAddr({})).p2tr ?? "";
    const sent = await cli("--rpc-file", alice.rpcFile, "withdraw", there, "0.001btc", "feerate=500perkw");
    assert.equal(sent.code, 0, sent.out + sent.error);
    const { txid, tx } = JSON.parse(sent.out);
    const inMempool = await chain.rpc<string[]>("getrawmempool");
    assert.ok(inMempool.includes(txid), "bitcoind has it under the txid that was answered");
    assert.equal(await chain.rpc<{ txid: string }>("decoderawtransaction", [tx]).then((it) => it.txid), txid);
    await chain.mine(1);
    await waitFor(async () => {
      const { outputs } = await alice.rpc.listFunds({});
      return outputs.some(({ amountMsat, status }) => amountMsat?.msat === 100_000n * MSAT && status === 1);
    }, { what: "the withdrawal to confirm" });
    const { transactions } = await alice.rpc.listTransactions({});
    const listed = transactions.find(({ hash }) => hash.toHex() === txid);
    assert.equal(listed?.blockheight, await chain.height());
    assert.equal(listed?.rawtx.toHex(), tx);

    // A PSBT's whole way.
    const funded = await rpc(alice, "fundpsbt", {
      satoshi: "50000sat",
      feerate: "500perkw",
      startweight: 250,
    });
    const psbt = String(funded.psbt);
    assert.ok(Array.isArray(funded.reservations) && funded.reservations.length > 0);
    assert.ok((await alice.rpc.listFunds({})).outputs.some(({ reserved }) => reserved));
    await rpc(alice, "unreserveinputs", [psbt]);
    assert.ok(!(await alice.rpc.listFunds({})).outputs.some(({ reserved }) => reserved));
    const again = (await rpc(alice, "reserveinputs", [psbt])).reservations;
    assert.ok(Array.isArray(again) && again.length > 0);
    assert.ok((again as JsonObject[]).every(({ reserved }) => reserved === true));
    const withOutput = await rpc(alice, "addpsbtoutput", ["40000sat", psbt]);
    const signed = await rpc(alice, "signpsbt", [String(withOutput.psbt)]);
    const done = await rpc(alice, "sendpsbt", [String(signed.signed_psbt)]);
    assert.ok((await chain.rpc<string[]>("getrawmempool")).includes(String(done.txid)));
  });
});

Deno.test("a channel is opened from the command line, and listed as CLN lists one", async () => {
  await worlds.withWorld(async (world) => {
    const { alice, bob, chain } = world;
    await fundWallets(chain, [{ node: alice, sat: 1_000_000n }, { node: bob, sat: 1_000_000n }]);
    const connected = await rpc(alice, "connect", { id: `${bob.id}@${bob.address}` });
    assert.deepEqual([connected.id, connected.direction], [bob.id, "out"]);
    await untilConnected(bob, alice);
    const ping = await rpc(alice, "ping", [bob.id, 10, 20]);
    assert.equal(ping.totlen, 24);

    const opened = await cli(
      "--rpc-file",
      alice.rpcFile,
      "fundchannel",
      bob.id,
      "300000sat",
      "announce=false",
    );
    assert.equal(opened.code, 0, opened.out + opened.error);
    const answer = JSON.parse(opened.out);
    await untilInMempool(world, answer.txid);
    assert.deepEqual(answer.channel_type.names.slice(0, 2), ["static_remotekey/even", "anchors/even"]);

    const found = (await rpc(alice, "listpeerchannels", [bob.id])).channels;
    assert.ok(Array.isArray(found));
    const [channel] = found as JsonObject[];
    assert.ok(channel !== undefined);
    assert.deepEqual(
      [
        channel.peer_id,
        channel.channel_id,
        channel.state,
        channel.opener,
        channel.private,
        channel.funding_txid,
      ],
      [bob.id, answer.channel_id, "DUALOPEND_AWAITING_LOCKIN", "local", true, answer.txid],
    );
    assert.equal(channel.funding_outnum, answer.outnum);
    assert.deepEqual(channel.funding, { local_funds_msat: 300_000_000, remote_funds_msat: 300_000_000 });
    assert.deepEqual([channel.to_us_msat, channel.total_msat], [300_000_000, 600_000_000]);
    assert.deepEqual([channel.our_reserve_msat, channel.their_reserve_msat], [6_000_000, 6_000_000]);
    const { inflight } = channel;
    assert.ok(Array.isArray(inflight) && inflight.length === 1);
    assert.equal((inflight as JsonObject[])[0]?.funding_txid, answer.txid);
    assert.ok(!("short_channel_id" in channel) && !("scratch_txid" in channel));
    assert.equal((await alice.rpc.getinfo({})).numPendingChannels, 1);
    const table = await cli("--rpc-file", alice.rpcFile, "-H", "listpeerchannels");
    assert.match(table.out, /DUALOPEND_AWAITING_LOCKIN +yes .*300,000 sat +600,000 sat/);
    assert.match(table.out, /1 channel\n$/);

    const busy = await rpcRefusal(rpc(alice, "disconnect", [bob.id]));
    assert.equal(busy.code, -1);

    await chain.mine(1);
    const normal = await untilState(alice, answer.channel_id, ChannelState.ChanneldNormal);
    const scid = normal.shortChannelId ?? "";
    assert.match(scid, /^\d+x\d+x\d+$/);
    assert.deepEqual(normal.inflight, []);
    const byScid = (await rpc(alice, "listpeerchannels", { short_channel_id: scid })).channels;
    assert.ok(Array.isArray(byScid) && byScid.length === 1);
    const byOther = (await rpc(alice, "listpeerchannels", { short_channel_id: "1x1x1" })).channels;
    assert.deepEqual(byOther, []);
    const funds = (await rpc(alice, "listfunds")).channels;
    assert.ok(Array.isArray(funds));
    assert.deepEqual((funds as JsonObject[])[0], {
      peer_id: bob.id,
      our_amount_msat: 300_000_000,
      amount_msat: 600_000_000,
      funding_txid: answer.txid,
      funding_output: answer.outnum,
      connected: true,
      state: "CHANNELD_NORMAL",
      short_channel_id: scid,
      channel_id: answer.channel_id,
    });
    assert.equal((await alice.rpc.getinfo({})).numActiveChannels, 1);
  });
});

/** Every refusal: command, parameters, CLN's code, what the message says. Same over the socket and gRPC. */
const REFUSALS: readonly (readonly [string, JsonObject, number, RegExp])[] = [
  ["connect", { id: "nonsense" }, -32602, /node id/],
  ["connect", { id: `${UNKNOWN_ID}@a@b` }, -32602, /ID@HOST/],
  ["connect", { id: `${UNKNOWN_ID}@127.0.0.1`, host: "127.0.0.1" }, -32602, /beside id@host/],
  ["connect", { id: UNKNOWN_ID, port: 1 }, -32602, /needs a host/],
  ["connect", { id: UNKNOWN_ID, host: "127.0.0.1", port: 70_000 }, -32602, /between 1 and 65535/],
  ["connect", { id: UNKNOWN_ID }, 400, /address/],
  ["connect", { id: UNKNOWN_ID, host: "127.0.0.1", port: 1 }, 401, /./],
  ["disconnect", { id: UNKNOWN_ID }, -1, /not connected/],
  ["disconnect", { id: "02" }, -32602, /node id/],
  ["ping", { id: UNKNOWN_ID }, -1, /not connected/],
  ["ping", { id: UNKNOWN_ID, len: 65_532 }, -32602, /65531/],
  ["ping", { id: UNKNOWN_ID, pongbytes: 65_536 }, -32602, /65535/],
  ["listpeers", { id: "00".repeat(33) }, -32602, /node id/],
  ["listpeerchannels", { id: UNKNOWN_ID, short_channel_id: "1x1x1" }, -32602, /together/],
  ["listpeerchannels", { short_channel_id: "1x1" }, -32602, /BLOCKxTXxOUTPUT/],
  ["listpeerchannels", { channel_id: "00" }, -32602, /32 bytes/],
  ["newaddr", { addresstype: "bech32" }, -32602, /p2tr/],
  ["withdraw", { destination: "nonsense", satoshi: 1_000 }, -32602, /not an address of regtest/],
  [
    "withdraw",
    { destination: "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", satoshi: 1_000 },
    -32602,
    /not an address of regtest/,
  ],
  [
    "withdraw",
    { destination: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", satoshi: "1msat" },
    -32602,
    /whole/,
  ],
  ["withdraw", { destination: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", satoshi: 100 }, 302, /./],
  ["withdraw", { destination: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", satoshi: "1btc" }, 301, /./],
  ["withdraw", { destination: "x", satoshi: 1_000, feerate: "0perkw" }, -32602, /./],
  ["fundpsbt", { satoshi: "1btc", feerate: "slow", startweight: 0 }, 301, /./],
  ["fundpsbt", { satoshi: 1_000, feerate: "slow", startweight: 0, reserve: 100_000 }, -32602, /reserve/],
  ["utxopsbt", { satoshi: 1_000, feerate: "slow", startweight: 0, utxos: [] }, -32602, /utxos/],
  ["addpsbtoutput", { satoshi: 1_000, initialpsbt: "nonsense" }, -32602, /PSBT/],
  ["reserveinputs", { psbt: "nonsense" }, -32602, /PSBT/],
  ["unreserveinputs", { psbt: "nonsense" }, -32602, /PSBT/],
  ["signpsbt", { psbt: "nonsense" }, -32602, /PSBT/],
  ["sendpsbt", { psbt: "nonsense" }, -32602, /PSBT/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, announce: true }, -32602, /announce/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, push_msat: 1 }, -32602, /push_msat/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, mindepth: 1 }, -32602, /mindepth/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, reserve: 1_000 }, -32602, /reserve/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, request_amt: 1_000 }, -32602, /request_amt/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, compact_lease: "00" }, -32602, /compact_lease/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, channel_type: [12] }, -32602, /channel_type/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, channel_type: [4_000_000_000] }, -32602, /channel_type/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000, close_to: "nonsense" }, -32602, /address/],
  ["fundchannel", { id: "03", amount: 100_000 }, -32602, /node id/],
  ["fundchannel", { id: UNKNOWN_ID, amount: "100000001msat" }, -32602, /whole number of satoshi/],
  ["fundchannel", { id: UNKNOWN_ID, amount: 100_000 }, 306, /./],
  ["openchannel_init", { id: UNKNOWN_ID, amount: 100_000, initialpsbt: "nonsense" }, -32602, /PSBT/],
  ["openchannel_update", { channel_id: "11".repeat(32), psbt: "nonsense" }, -32602, /PSBT/],
  ["openchannel_update", { channel_id: "11".repeat(31), psbt: "nonsense" }, -32602, /./],
  ["openchannel_signed", { channel_id: "11".repeat(32), signed_psbt: "nonsense" }, -32602, /PSBT/],
  ["openchannel_bump", { channel_id: "11".repeat(32), amount: 1, initialpsbt: "nonsense" }, -32602, /PSBT/],
  ["openchannel_abort", { channel_id: "11".repeat(32) }, 311, /./],
  ["openchannel_abort", { channel_id: "11" }, -32602, /32 bytes/],
  ["openchannel_giveup", { channel_id: "11".repeat(32) }, 311, /./],
  ["openchannel_giveup", { channel_id: "11" }, -32602, /32 bytes/],
  ["listconfigs", { config: "nonsense" }, -32602, /no such option/],
  ["help", { command: "nonsense" }, -32601, /nonsense/],
  ["dev-forget-channel", { id: UNKNOWN_ID }, 311, /no such channel/],
];

Deno.test("each wrong call gets its code of CLN, over socket and gRPC alike", async () => {
  await worlds.withWorld(async ({ alice }) => {
    for (const [name, params, code, text] of REFUSALS) {
      const what = `${name} ${JSON.stringify(params)}`;
      const refused = await rpcRefusal(rpc(alice, name, params));
      assert.equal(refused.code, code, `${what}: ${refused.message}`);
      assert.match(refused.message, text, what);
    }
    // gRPC: status, ErrorInfo and code.
    const bad = await refusal(alice.rpc.disconnect({ id: Uint8Array.of(2) }));
    assert.deepEqual([bad.code, bad.reason, bad.clnCode], [Code.INVALID_ARGUMENT, "INVALID_PARAMS", -32602]);
    assert.equal(bad.details.parameter, "id");
    const missing = await refusal(alice.rpc.withdraw({ destination: "x" }));
    assert.deepEqual([missing.code, missing.clnCode], [Code.INVALID_ARGUMENT, -32602]);
    const neither = await refusal(alice.rpc.withdraw({ destination: "x", satoshi: {} }));
    assert.deepEqual([neither.code, neither.clnCode], [Code.INVALID_ARGUMENT, -32602]);
    const announced = await refusal(
      alice.rpc.fundChannel({
        id: Uint8Array.fromHex(UNKNOWN_ID),
        amount: { value: { case: "all", value: true } },
        announce: true,
      }),
    );
    assert.match(announced.message, /announce/);
    const poor = await refusal(alice.rpc.fundPsbt({
      satoshi: { value: { case: "amount", value: { msat: 10n ** 11n } } },
      feerate: { style: { case: "slow", value: true } },
    }));
    assert.equal(poor.clnCode, 301);
    const txid = await refusal(alice.rpc.withdraw({
      destination: "x",
      satoshi: { value: { case: "all", value: true } },
      utxos: [{ txid: new Uint8Array(31), outnum: 0 }],
    }));
    assert.match(txid.message, /32 bytes/);
    await alive(alice);
  });
});

Deno.test("developers' commands exist only in developer mode", async () => {
  await worlds.withWorld(async ({ alice }) => {
    const names = (await rpc(alice, "help")).help;
    assert.ok(!JSON.stringify(names).includes("dev-"));
    const refused = await rpcRefusal(rpc(alice, "dev-forget-channel", [UNKNOWN_ID]));
    assert.equal(refused.code, -32601);
    const over = await refusal(alice.rpc.devForgetChannel({ id: Uint8Array.fromHex(UNKNOWN_ID) }));
    assert.deepEqual([over.code, over.clnCode], [Code.UNIMPLEMENTED, -32601]);
  }, { options: { developer: "false", "dev-fast-reconnect": "false" } });
});

Deno.test("JSON-RPC: what is no request gets JSON-RPC's error, and requests of one connection are answered together", async () => {
  await worlds.withWorld(async ({ alice }) => {
    const path = alice.rpcFile;
    const code = async (text: string | Uint8Array) => {
      const answers = await say(path, text);
      assert.equal(answers.length, 1, JSON.stringify(answers));
      const { error } = answers[0] ?? {};
      assert.ok(isJsonObject(error));
      return error.code;
    };
    assert.equal(await code("nonsense"), -32700);
    assert.equal(await code('{"a":}'), -32700);
    assert.equal(await code('{"method":"getinfo"'), -32700);
    assert.equal(await code("[".repeat(100)), -32700);
    assert.equal(await code("[]"), -32600);
    assert.equal(await code('{"method":"getinfo","params":[]}'), -32600);
    assert.equal(await code('{"id":1,"params":[]}'), -32600);
    assert.equal(await code('{"id":1,"method":"getinfo","params":7}'), -32600);
    assert.equal(await code('{"id":1,"method":"getinfo","jsonrpc":"1.0"}'), -32600);
    assert.equal(await code(request(1, "nonsense")), -32601);
    assert.equal(await code(request(1, "__proto__")), -32601);
    assert.equal(await code(request(1, "getinfo", { x: 1 })), -32602);
    assert.equal(await code(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), -32700);
    // More than a request may have: refused before it is complete, and hung up.
    assert.equal(await code(`{"id":1,"method":"getinfo","params":["${"x".repeat(9 * 1024 * 1024)}`), -32700);

    const ids: Json[] = Array.from({ length: 100 }, (_, i) => i % 2 === 0 ? i : `text ${i}`);
    const answers = await say(path, ids.map((id) => request(id, "getinfo")).join("\n"));
    assert.deepEqual(new Set(answers.map(({ id }) => id)), new Set(ids));
    assert.ok(answers.every(({ result }) => isJsonObject(result) && result.id === alice.id));
    // Only the owner may connect.
    assert.equal((await Deno.stat(path)).mode! & 0o777, 0o600);
    await alive(alice);
  });
});

Deno.test("garbage on the socket and on gRPC gets an error, and the node lives", async () => {
  await worlds.withWorld(async ({ alice }) => {
    // Without parameters waitanyinvoice waits, as it should.
    const names = [...commandsOf(Node, Operator).keys()].filter((name) =>
      name !== "stop" && name !== "waitanyinvoice"
    );
    const params = fc.oneof(
      fc.array(fc.jsonValue({ maxDepth: 2 }), { maxLength: 5 }),
      fc.dictionary(
        fc.constantFrom(
          "id",
          "satoshi",
          "amount",
          "psbt",
          "utxos",
          "feerate",
          "channel_id",
          "host",
          "__proto__",
        ),
        fc.jsonValue({ maxDepth: 1 }),
        { maxKeys: 4 },
      ),
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...names), params, async (name, value) => {
        const [answer] = await say(alice.rpcFile, request(1, name, JSON.parse(JSON.stringify(value))), 1);
        assert.ok(answer !== undefined && answer.id === 1);
        if (answer.error === undefined) return;
        assert.ok(isJsonObject(answer.error) && typeof answer.error.code === "number");
        assert.notEqual(answer.error.message, "internal error", name);
      }),
      { numRuns: 300 },
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async (bytes) => {
        for (const answer of await say(alice.rpcFile, bytes)) assert.ok("error" in answer);
      }),
      { numRuns: 100 },
    );
    const session = connectHttp2(`http://${alice.apiAddress}`);
    try {
      // A field that says that it is longer than the message.
      const undecodable = await grpcStatus(session, "/cln.Node/Disconnect", Uint8Array.of(0x0a, 0x7f));
      assert.equal(undecodable, Code.INVALID_ARGUMENT);
      const methods = Node.methods.filter(({ name }) => name !== "Stop" && name !== "WaitAnyInvoice");
      await fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...methods),
          fc.uint8Array({ maxLength: 120 }),
          async (method, body) => {
            const status = await grpcStatus(session, `/cln.Node/${method.name}`, body);
            assert.ok(
              status !== undefined && ![Code.UNKNOWN, Code.INTERNAL].includes(status),
              `${method.name}: ${status}`,
            );
          },
        ),
        { numRuns: 300 },
      );
    } finally {
      session.close();
    }
    assert.deepEqual(alice.logs.lines.filter(({ msg }) => /handler failed|command failed/.test(msg)), []);
    await alive(alice);
  });
});

/** Sends raw bytes as the one message of a unary call. */
function grpcStatus(
  session: ReturnType<typeof connectHttp2>,
  path: string,
  body: Uint8Array,
): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: "POST",
      [constants.HTTP2_HEADER_PATH]: path,
      "content-type": "application/grpc",
      "te": "trailers",
    });
    let status: number | undefined;
    const look = (headers: IncomingHttpHeaders) => {
      if (headers["grpc-status"] !== undefined) status = Number(headers["grpc-status"]);
    };
    stream.on("response", look);
    stream.on("trailers", look);
    stream.on("error", reject);
    stream.on("end", () => resolve(status));
    stream.resume();
    const frame = new Uint8Array(5 + body.length);
    new DataView(frame.buffer).setUint32(1, body.length);
    frame.set(body, 5);
    stream.end(frame);
  });
}

Deno.test("command line: exit status tells done, refused, unreachable and wrong usage", async () => {
  await worlds.withWorld(async ({ alice }: World) => {
    const refused = await cli("--rpc-file", alice.rpcFile, "disconnect", UNKNOWN_ID);
    assert.deepEqual([refused.code, JSON.parse(refused.out).code], [1, -1]);
    const overGrpc = await cli("--grpc", alice.apiAddress ?? "", "disconnect", UNKNOWN_ID);
    assert.deepEqual([overGrpc.code, JSON.parse(overGrpc.out).code], [1, -1]);
    const wrong = await cli("--grpc", alice.apiAddress ?? "", "withdraw", "x", "1.5sat");
    assert.deepEqual([wrong.code, JSON.parse(wrong.out).code], [1, -32602]);
    for (const place of [["--rpc-file", `${alice.dir}/nobody`], ["--grpc", "127.0.0.1:1"]]) {
      const nobody = await cli(...place, "getinfo");
      assert.deepEqual([nobody.code, nobody.out], [2, ""], nobody.error);
    }
    const usage = await cli("--rpc-file", alice.rpcFile, "disconnect");
    assert.equal(usage.code, 3);
    assert.match(usage.error, /usage: disconnect id \[force\]/);
    // A command that this program does not know is the node's to refuse.
    const unknown = await cli("--rpc-file", alice.rpcFile, "nonsense", "1");
    assert.deepEqual([unknown.code, JSON.parse(unknown.out).code], [1, -32601]);
  });
});

Deno.test("stop answers, and ends lightningd", async () => {
  await worlds.withWorld(async ({ alice, bob }) => {
    await connect(alice, bob);
    const stopped = await rpc(alice, "stop");
    assert.equal(stopped.result, "Shutdown complete");
    const { code } = await waitFor(alice.daemon("lightningd").exited, { what: "lightningd to end" });
    assert.equal(code, 0);
    await alive(bob);
  });
});
