/**
 * The public contract against the published one: names, numbers, types, labels and enum values. Existing clients depend on each.
 *
 * `tests/data/cln/descriptors.json` holds the published table as data: per message, field name to [number, type, label], label one
 * of plain, optional (tracked presence), repeated, oneof. To refresh it, compile the published node.proto and primitives.proto to
 * a descriptor set with any protobuf compiler, walk from the input and output types of the methods that it lists, and write the
 * same shape; the fields of ListconfigsConfigs that name options which this node lacks stay out.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DescEnum, type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { FieldDescriptorProto_Label } from "@bufbuild/protobuf/wkt";
import { file_cln_node, Node } from "gen/cln/node_pb.ts";
import { file_cln_primitives } from "gen/cln/primitives_pb.ts";

type Field = readonly [number: number, type: string, label: string];
interface Table {
  readonly methods: Record<string, [input: string, output: string]>;
  readonly messages: Record<string, Record<string, Field>>;
  readonly enums: Record<string, Record<string, number>>;
}

const published: Table = JSON.parse(
  await Deno.readTextFile(new URL("./data/cln/descriptors.json", import.meta.url)),
);

function typeOf(field: DescField): string {
  if (field.message !== undefined) return field.message.typeName;
  if (field.enum !== undefined) return field.enum.typeName;
  return field.scalar === undefined ? "map" : ScalarType[field.scalar].toLowerCase();
}

function labelOf(field: DescField): string {
  if (field.proto.label === FieldDescriptorProto_Label.REPEATED) return "repeated";
  if (field.proto.proto3Optional) return "optional";
  return field.oneof === undefined ? "plain" : "oneof";
}

function ours(): Table {
  const table: Table = { methods: {}, messages: {}, enums: {} };
  const addEnum = (desc: DescEnum) => {
    table.enums[desc.typeName] = Object.fromEntries(desc.values.map((value) => [value.name, value.number]));
  };
  const addMessage = (desc: DescMessage) => {
    table.messages[desc.typeName] = Object.fromEntries(
      desc.fields.map((field) => [field.name, [field.number, typeOf(field), labelOf(field)]]),
    );
    desc.nestedEnums.forEach(addEnum);
    desc.nestedMessages.forEach(addMessage);
  };
  for (const file of [file_cln_primitives, file_cln_node]) {
    file.messages.forEach(addMessage);
    file.enums.forEach(addEnum);
  }
  for (const method of Node.methods) {
    table.methods[method.name] = [method.input.typeName, method.output.typeName];
  }
  return table;
}

Deno.test("the service is called cln.Node, and its methods have the published inputs and outputs", () => {
  assert.equal(Node.typeName, "cln.Node");
  assert.deepEqual(ours().methods, published.methods);
  assert.equal(Object.keys(published.methods).length, 46);
});

Deno.test("every message and enum has the published fields, numbers, types, labels and values, and no other", () => {
  const table = ours();
  assert.deepEqual(table.messages, published.messages);
  assert.deepEqual(table.enums, published.enums);
});

/** What the package on PyPI, older than the table, has otherwise; each with what became of it. */
const SINCE: Readonly<Record<string, string>> = {
  "cln.GetinfoOur_features": "renamed: GetinfoOurFeatures, same fields",
  "cln.FeeratesOnchain_fee_estimates": "renamed: FeeratesOnchainFeeEstimates, same fields",
  "cln.FundchannelChannel_type": "renamed: FundchannelChannelType, same fields",
  "cln.ListpeersPeers.channels": "gone: listpeerchannels has them",
  "cln.ListpeerchannelsChannels.max_total_htlc_in_msat": "gone: their_max_htlc_value_in_flight_msat",
  "cln.FeeratesPerkb.delayed_to_us": "gone",
  "cln.FeeratesPerkb.htlc_resolution": "gone",
  "cln.FeeratesPerkw.delayed_to_us": "gone",
  "cln.FeeratesPerkw.htlc_resolution": "gone",
  "cln.ListpeersRequest.level": "type: text became an enum",
  "cln.SendpsbtRequest.reserve": "type: bool became a number of blocks; the same on the wire for 0 and 1",
  "cln.UtxopsbtRequest.satoshi": "type: Amount became AmountOrAll, whose amount is a message of its own",
  "cln.ListpeerchannelsChannels.state": "type: its own enum became ChannelState, same numbers",
  "cln.GetinfoResponse.our_features": "type: renamed",
  "cln.FeeratesResponse.onchain_fee_estimates": "type: renamed",
  "cln.FundchannelResponse.channel_type": "type: renamed",
  "cln.SendpayRequest.partid": "type: uint32 became uint64; the same on the wire",
  "cln.ListinvoicesInvoices.paid_outpoint": "type: renamed",
  "cln.ListinvoicesInvoicesPaid_outpoint": "renamed: ListinvoicesInvoicesPaidOutpoint, same fields",
  "cln.WaitanyinvoiceResponse.paid_outpoint": "type: renamed",
  "cln.WaitanyinvoicePaid_outpoint": "renamed: WaitanyinvoicePaidOutpoint, same fields",
  "cln.WaitinvoiceResponse.paid_outpoint": "type: renamed",
  "cln.WaitinvoicePaid_outpoint": "renamed: WaitinvoicePaidOutpoint, same fields",
  "cln.RouteHop.short_channel_id": "renamed: scid, same number",
  "cln.DecodeResponse.offer_paths": "type: renamed",
  "cln.DecodeResponse.offer_node_id": "gone: offer_issuer_id has another number",
  "cln.DecodeResponse.warning_missing_offer_node_id": "gone: warning_missing_offer_issuer_id",
  "cln.DecodeResponse.invoice_fallbacks": "type: renamed",
  "cln.DecodeOffer_paths": "renamed: DecodeOfferPaths",
  "cln.DecodeInvoice_fallbacks": "renamed: DecodeInvoiceFallbacks, same fields",
  "cln.DecodeFallbacks.warning_invoice_fallbacks_version_invalid": "gone",
  "cln.CloseResponse.tx": "gone: txs",
  "cln.CloseResponse.txid": "gone: txids",
  "cln.ListclosedchannelsClosedchannels.close_cause": "type: renamed",
};

/** Prints the table of the installed package as JSON: messages and enums that the methods named on the command line reach. */
const DUMP = `
import json, sys, types
sys.modules["grpc"] = types.ModuleType("grpc")  # only the descriptors are wanted
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from pyln.grpc import node_pb2
names = {v.number: v.name[5:].lower() for v in FieldDescriptorProto.DESCRIPTOR.enum_types_by_name["Type"].values}
table = {"methods": {}, "messages": {}, "enums": {}}
def enum(e):
    table["enums"][e.full_name] = {v.name: v.number for v in e.values}
def message(m):
    if m.full_name in table["messages"]: return
    proto = DescriptorProto()
    m.CopyToProto(proto)
    fields = table["messages"].setdefault(m.full_name, {})
    for f, p in zip(m.fields, proto.field):
        kind = f.message_type.full_name if f.message_type else f.enum_type.full_name if f.enum_type else names[f.type]
        label = "repeated" if p.label == 3 else "optional" if p.proto3_optional else "oneof" if p.HasField("oneof_index") else "plain"
        fields[f.name] = [f.number, kind, label]
        if f.message_type: message(f.message_type)
        if f.enum_type: enum(f.enum_type)
for m in node_pb2.DESCRIPTOR.services_by_name["Node"].methods:
    if m.name in sys.argv[1:]:
        table["methods"][m.name] = [m.input_type.full_name, m.output_type.full_name]
        message(m.input_type)
        message(m.output_type)
print(json.dumps(table))
`;

async function run(command: string, args: string[], env: Record<string, string> = {}) {
  try {
    const { success, stdout, stderr } = await new Deno.Command(command, {
      args,
      env,
      stdout: "piped",
      stderr: "piped",
    })
      .output();
    return { success, out: new TextDecoder().decode(stdout), error: new TextDecoder().decode(stderr) };
  } catch (error) {
    return { success: false, out: "", error: String(error) };
  }
}

/** The package's table, or why it cannot be had here. */
async function installed(): Promise<Table | string> {
  const folder = await mkdtemp(join(tmpdir(), "arcus-pyln-"));
  try {
    const target = join(folder, "packages");
    const packages = ["pyln-grpc-proto==24.2.1", "protobuf"];
    const pip = await run("python3", [
      ...["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"],
      ...["--target", target, ...packages],
    ]);
    if (!pip.success) {
      return `pip cannot install ${packages.join(" ")}: ${pip.error.trim().split("\n").at(-1)}`;
    }
    const dump = await run("python3", ["-c", DUMP, ...Object.keys(published.methods)], {
      PYTHONPATH: target,
    });
    assert.ok(dump.success, dump.error);
    return JSON.parse(dump.out);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

Deno.test("pyln-grpc-proto of PyPI agrees as far as it goes", async () => {
  const table = await installed();
  if (typeof table === "string") {
    console.log(`skipped: ${table}`);
    return;
  }
  const mine = ours();
  assert.equal(Object.keys(table.methods).length, 34);
  for (const [name, types] of Object.entries(table.methods)) assert.deepEqual(mine.methods[name], types);

  const used = new Set<string>();
  const excused = (name: string) => SINCE[name] !== undefined && used.add(name).size > 0;
  /** Only reached through something that is gone or renamed. */
  const goneWith = (name: string) =>
    /^cln\.ListpeersPeersChannels/.test(name) ||
    name === "cln.ListpeerchannelsChannels.ListpeerchannelsChannelsState" ||
    /ListclosedchannelsClosedchannelsClose_cause$/.test(name);
  let compared = 0;
  for (const [message, fields] of Object.entries(table.messages)) {
    if (goneWith(message) || (mine.messages[message] === undefined && excused(message))) continue;
    for (const [name, [number, type, label]] of Object.entries(fields)) {
      const full = `${message}.${name}`;
      const here = mine.messages[message]?.[name];
      if (here === undefined) {
        assert.ok(excused(full), `${full} is missing`);
        continue;
      }
      assert.equal(here[0], number, full);
      if (here[1] !== type) assert.ok(excused(full), `${full}: ${here[1]} instead of ${type}`);
      // Whether presence is tracked does not show on the wire; whether it is a list does.
      assert.equal(here[2] === "repeated", label === "repeated", full);
      compared++;
    }
  }
  for (const [name, values] of Object.entries(table.enums)) {
    if (goneWith(name)) continue;
    for (const [value, number] of Object.entries(values)) {
      assert.equal(mine.enums[name]?.[value], number, `${name}.${value}`);
    }
  }
  assert.ok(compared > 250, `${compared} fields compared`);
  assert.deepEqual(Object.keys(SINCE).filter((name) => !used.has(name)), [], "exceptions that are none");
});
