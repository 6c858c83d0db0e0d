/** listconfigs: the option table as the contract and as JSON have it. */
import { create, type DescField, type MessageShape, ScalarType } from "@bufbuild/protobuf";
import { reflect, type ReflectMessage } from "@bufbuild/protobuf/reflect";
import type { ConfigEntry, Source } from "common/config/config.ts";
import { jsonName } from "common/rpc/command.ts";
import type { Json, JsonObject } from "common/rpc/json_text.ts";
import { ListconfigsConfigsSchema } from "gen/cln/node_pb.ts";
import { invalidParams } from "./refusals.ts";

/** Values by option name. */
type Values = Readonly<Record<string, unknown>>;

/** CLN's word for where a value came from. */
const SOURCE: Readonly<Record<Source, string>> = {
  default: "default",
  file: "config file",
  environment: "environment",
  flag: "cmdline",
  program: "program",
};

function asked(entries: readonly ConfigEntry[], name: string | undefined): ConfigEntry[] {
  if (name !== undefined && !entries.some((entry) => entry.name === name)) {
    throw invalidParams("config", "no such option");
  }
  return entries.filter((entry) => entry.value !== undefined && (name === undefined || entry.name === name));
}

function setValue(message: ReflectMessage, field: DescField, entry: ConfigEntry): void {
  const source = SOURCE[entry.source];
  const texts = typeof entry.value === "string" ? [entry.value] : entry.value ?? [];
  if (field.fieldKind === "list") {
    const list = message.get(field);
    for (const text of texts) list.add(field.name.startsWith("sources") ? source : text);
    return;
  }
  const [text = ""] = texts;
  if (field.name === "source") message.set(field, source);
  else if (field.message !== undefined) {
    const amount = reflect(field.message);
    const msat = field.message.fields[0];
    if (msat !== undefined) amount.set(msat, BigInt(text));
    message.set(field, amount);
  } else if (field.scalar === ScalarType.BOOL) {
    // A flag without a value ("set") has none to be false: it is in the list only when given.
    message.set(field, field.name === "set" ? true : text === "true");
  } else if (field.scalar === ScalarType.UINT32) message.set(field, Number(text));
  else if (field.scalar === ScalarType.UINT64) message.set(field, BigInt(text));
  else if (field.scalar === ScalarType.BYTES) message.set(field, Uint8Array.fromHex(text));
  else if (field.scalar === ScalarType.STRING) message.set(field, text);
}

/** The options that the contract has a field for. Throws INVALID_ARGUMENT for a name that is no option. */
export function listconfigs(
  entries: readonly ConfigEntry[],
  values: Values,
  name?: string,
): MessageShape<typeof ListconfigsConfigsSchema> {
  const given = new Map(asked(entries, name).map((entry) => [entry.name, entry]));
  const configs = create(ListconfigsConfigsSchema);
  const message = reflect(ListconfigsConfigsSchema, configs);
  for (const field of message.fields) {
    const entry = given.get(jsonName(field));
    if (entry === undefined || field.message === undefined) continue;
    const isFlag = field.message.fields.some((inner) => inner.name === "set");
    if (isFlag && values[entry.name] === false) continue;
    const value = reflect(field.message);
    for (const inner of value.fields) setValue(value, inner, entry);
    message.set(field, value);
  }
  return configs;
}

/** Every option of the node, as JSON-RPC shows them. Secrets show that they are set, not what they are. */
export function listconfigsJson(entries: readonly ConfigEntry[], values: Values, name?: string): JsonObject {
  const configs: Record<string, Json> = {};
  for (const entry of asked(entries, name)) {
    configs[entry.name] = jsonOf(entry, values[entry.name]);
  }
  return { configs };
}

function jsonOf(entry: ConfigEntry, value: unknown): Json {
  const source = SOURCE[entry.source];
  if (typeof entry.value !== "string") {
    const texts = entry.value ?? [];
    return { values_str: texts, sources: texts.map(() => source) };
  }
  // The listing shows a secret as "set", whatever it is.
  if (typeof value === "string" && value !== entry.value) return { set: true, source };
  if (typeof value === "boolean") return { value_bool: value, source };
  if (typeof value === "number" || typeof value === "bigint") return { value_int: value, source };
  return { value_str: entry.value, source };
}
