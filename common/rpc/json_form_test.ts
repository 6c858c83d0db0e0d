import assert from "node:assert/strict";
import fc from "fast-check";
import { create, equals, fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { type Command, commandsOf, usageOf } from "common/rpc/command.ts";
import { checkRequest, messageToJson, ParameterError, requestOf } from "common/rpc/json_form.ts";
import {
  DecodeResponseSchema,
  FeeratesRequestSchema,
  FundchannelRequestSchema,
  GetinfoResponseSchema,
  KeysendRequestSchema,
  ListpeerchannelsResponseSchema,
  NewaddrRequestSchema,
  Node,
  PayRequestSchema,
  SendpayRequestSchema,
  WithdrawRequestSchema,
} from "gen/cln/node_pb.ts";
import { ChannelState, ChannelTypeName } from "gen/cln/primitives_pb.ts";

const commands = commandsOf(Node);
const TXID = "0102030405060708091011121314151617181920212223242526272829303132";

function command(name: string): Command {
  const found = commands.get(name);
  assert.ok(found !== undefined, name);
  return found;
}

function refused(name: string, params: Parameters<typeof requestOf>[1], parameter: string, text: RegExp) {
  assert.throws(() => requestOf(command(name), params), (error) => {
    assert.ok(error instanceof ParameterError, String(error));
    assert.equal(error.parameter, parameter);
    assert.match(error.message, text);
    return true;
  });
}

Deno.test("every method is a command: name, parameters that are its fields, required ones first", () => {
  assert.equal(commands.size, Node.methods.length);
  for (const { name, method, parameters, help, category } of commands.values()) {
    assert.equal(parameters.length, method.input.fields.length, name);
    assert.ok(help !== "" && category !== "", name);
    for (const parameter of parameters) assert.notEqual(parameter.help, "", `${name} ${parameter.name}`);
    const firstOptional = parameters.findIndex(({ required }) => !required);
    assert.ok(
      firstOptional === -1 || parameters.slice(firstOptional).every(({ required }) => !required),
      name,
    );
  }
  assert.equal(usageOf(command("withdraw")), "withdraw destination satoshi [feerate] [minconf] [utxos]");
});

Deno.test("parameters by position and by name make the same request", () => {
  const expected = create(WithdrawRequestSchema, {
    destination: "bcrt1q",
    satoshi: { value: { case: "amount", value: { msat: 100_000_000n } } },
    feerate: { style: { case: "perkw", value: 253 } },
    utxos: [{ txid: Uint8Array.fromHex(TXID), outnum: 1 }],
  });
  const byPosition = requestOf(command("withdraw"), ["bcrt1q", "100000sat", "253perkw", null, [`${TXID}:1`]]);
  const byName = requestOf(command("withdraw"), {
    utxos: `["${TXID}:1"]`,
    satoshi: 100_000,
    feerate: "253perkw",
    destination: "bcrt1q",
  });
  assert.ok(equals(WithdrawRequestSchema, create(WithdrawRequestSchema, byPosition as object), expected));
  assert.deepEqual(byName, byPosition);
});

Deno.test("a bare amount has the unit of its parameter", () => {
  const id = `02${"11".repeat(32)}`;
  const request = requestOf(command("fundchannel"), { id, amount: 5, push_msat: 5 });
  const expected: MessageInitShape<typeof FundchannelRequestSchema> = {
    id: Uint8Array.fromHex(id),
    amount: { value: { case: "amount", value: { msat: 5_000n } } },
    pushMsat: { msat: 5n },
  };
  assert.deepEqual(request, create(FundchannelRequestSchema, expected));
  const all = requestOf(command("fundchannel"), [id, "all", "slow", "false"]);
  assert.deepEqual(
    all,
    create(FundchannelRequestSchema, {
      id: Uint8Array.fromHex(id),
      amount: { value: { case: "all", value: true } },
      feerate: { style: { case: "slow", value: true } },
      announce: false,
    }),
  );
});

Deno.test("a wrong parameter is refused by its name", () => {
  refused("withdraw", ["x"], "satoshi", /missing required parameter: satoshi/);
  refused("withdraw", ["x", 1, "slow", 1, [], 9], "params", /too many parameters/);
  refused("withdraw", { destination: "x", satoshi: 1, amount: 2 }, "amount", /unknown parameter/);
  refused("withdraw", ["x", "1.5sat"], "satoshi", /an amount/);
  refused("withdraw", ["x", -1], "satoshi", /an amount/);
  refused("withdraw", ["x", 1, "fast"], "feerate", /perkw/);
  refused("withdraw", ["x", 1, "5000000000perkw"], "feerate", /perkw/);
  refused("withdraw", ["x", 1, "slow", 4_294_967_296], "minconf", /between 0 and 4294967295/);
  refused("withdraw", ["x", 1, "slow", 1.5], "minconf", /unsigned integer/);
  refused("withdraw", ["x", 1, "slow", 1, "nonsense"], "utxos[0]", /TXID:INDEX/);
  refused("withdraw", ["x", 1, "slow", 1, [`${TXID}:4294967296`]], "utxos[0]", /TXID:INDEX/);
  refused("withdraw", ["x", 1, "slow", 1, "[1,"], "utxos", /array/);
  refused("withdraw", [{}, 1], "destination", /string/);
  refused("disconnect", ["0g"], "id", /hex/);
  refused("disconnect", ["abc"], "id", /hex/);
  refused("disconnect", ["02", "maybe"], "force", /'true' or 'false'/);
  refused("newaddr", ["p2sh"], "addresstype", /bech32 or all or p2tr/);
  refused("getinfo", "text", "params", /object or an array/);
  refused("signpsbt", ["x", Array.from({ length: 1_001 }, () => 0)], "signonly", /at most 1000/);
});

Deno.test("answers read as CLN's: hex, words, millisatoshi, its names; what is not known is absent", () => {
  const info = create(GetinfoResponseSchema, {
    id: Uint8Array.of(2, 255),
    alias: "a",
    lightningDir: "/d",
    feesCollectedMsat: { msat: 21n },
    network: "regtest",
    binding: [{ itemType: 1, address: "127.0.0.1", port: 9735 }],
  });
  assert.deepEqual(messageToJson(GetinfoResponseSchema, info), {
    id: "02ff",
    alias: "a",
    color: "",
    num_peers: 0,
    num_pending_channels: 0,
    num_active_channels: 0,
    num_inactive_channels: 0,
    version: "",
    "lightning-dir": "/d",
    blockheight: 0,
    network: "regtest",
    fees_collected_msat: 21,
    address: [],
    binding: [{ type: "ipv4", address: "127.0.0.1", port: 9735 }],
  });
  const channels = create(ListpeerchannelsResponseSchema, {
    channels: [{
      state: ChannelState.DualopendOpenCommittReady,
      channelType: {
        bits: [12, 22],
        names: [ChannelTypeName.static_remotekey_even, ChannelTypeName.anchors_even],
      },
      toUsMsat: { msat: 2n ** 60n },
    }],
  });
  const json = messageToJson(ListpeerchannelsResponseSchema, channels);
  assert.ok(Array.isArray(json.channels));
  const channel = json.channels[0];
  assert.equal(channel.state, "DUALOPEND_OPEN_COMMIT_READY");
  assert.deepEqual(channel.channel_type, {
    bits: [12, 22],
    names: ["static_remotekey/even", "anchors/even"],
  });
  assert.equal(channel.to_us_msat, 2n ** 60n);
  assert.equal(channel.opener, "local");
  assert.ok(!("inflight" in channel) && !("short_channel_id" in channel));
  assert.deepEqual(channel.htlcs, []);
});

Deno.test("a message that lacks what it needs, or has an enum value of the future, is refused", () => {
  const check = (name: string, request: Parameters<typeof checkRequest>[1], parameter: string) =>
    assert.throws(
      () => checkRequest(command(name), request),
      (error) => error instanceof ParameterError && error.parameter === parameter,
    );
  check("withdraw", create(WithdrawRequestSchema, { destination: "x" }), "satoshi");
  check("withdraw", create(WithdrawRequestSchema, { satoshi: {} }), "destination");
  // NewaddrRequest with addresstype 99, as a newer client may send it.
  check("newaddr", fromBinary(NewaddrRequestSchema, Uint8Array.of(8, 99)), "addresstype");
  checkRequest(command("newaddr"), create(NewaddrRequestSchema));
  // Zero is a value.
  checkRequest(command("feerates"), create(FeeratesRequestSchema));
});

Deno.test("whatever JSON is given, a command's request is made or a parameter is named", () => {
  const names = [...commands.keys()];
  const params = fc.oneof(
    fc.array(fc.jsonValue({ maxDepth: 2 }), { maxLength: 6 }),
    fc.dictionary(
      fc.oneof(
        fc.string(),
        fc.constantFrom("id", "satoshi", "amount", "psbt", "utxos", "feerate", "channel_id"),
      ),
      fc.jsonValue({ maxDepth: 2 }),
    ),
    fc.jsonValue({ maxDepth: 1 }),
  );
  fc.assert(
    fc.property(fc.constantFrom(...names), params, (name, value) => {
      const found = commands.get(name);
      assert.ok(found !== undefined);
      try {
        requestOf(found, JSON.parse(JSON.stringify(value)));
      } catch (error) {
        assert.ok(error instanceof ParameterError, String(error));
      }
    }),
    { numRuns: 2_000 },
  );
});

Deno.test("objects, TLVs, numbers with a fraction and nested lists", () => {
  const hop = { id: `02${"11".repeat(32)}`, channel: "1x2x3", delay: 9, amount_msat: "5sat" };
  const sendpay = requestOf(command("sendpay"), { route: [hop], payment_hash: "00".repeat(32) });
  const expected = create(SendpayRequestSchema, {
    route: [{
      id: Uint8Array.fromHex(hop.id),
      channel: "1x2x3",
      delay: 9,
      amountMsat: { msat: 5_000n },
    }],
    paymentHash: new Uint8Array(32),
  });
  assert.deepEqual(sendpay, expected);
  refused(
    "sendpay",
    { route: [{ ...hop, more: 1 }], payment_hash: "00" },
    "route[0]",
    /unknown member: more/,
  );
  refused("sendpay", { route: [{ ...hop, delay: "x" }], payment_hash: "00" }, "route[0].delay", /unsigned/);
  refused("sendpay", { route: [7], payment_hash: "00" }, "route[0]", /an object/);

  const keysend = requestOf(command("keysend"), {
    destination: "02",
    amount_msat: 1,
    extratlvs: { "133773310": "beef" },
  });
  assert.deepEqual((keysend as unknown as MessageInitShape<typeof KeysendRequestSchema>).extratlvs?.entries, [
    create(KeysendRequestSchema, {
      extratlvs: { entries: [{ type: 133_773_310n, value: Uint8Array.of(0xbe, 0xef) }] },
    }).extratlvs!.entries[0],
  ]);
  refused(
    "keysend",
    { destination: "02", amount_msat: 1, extratlvs: { x: "00" } },
    "extratlvs.x",
    /unsigned/,
  );

  const pay = requestOf(command("pay"), { bolt11: "x", maxfeepercent: "0.5", riskfactor: 10 });
  assert.deepEqual(pay, create(PayRequestSchema, { bolt11: "x", maxfeepercent: 0.5, riskfactor: 10 }));
  refused("pay", { bolt11: "x", maxfeepercent: "half" }, "maxfeepercent", /a number/);

  const decoded = create(DecodeResponseSchema, {
    routes: { hints: [{ hops: [{ shortChannelId: "1x2x3", feeBaseMsat: { msat: 7n } }] }] },
  });
  const routes = messageToJson(DecodeResponseSchema, decoded)["routes"];
  assert.deepEqual(routes, [[{
    pubkey: "",
    short_channel_id: "1x2x3",
    fee_base_msat: 7,
    fee_proportional_millionths: 0,
    cltv_expiry_delta: 0,
  }]]);
});
