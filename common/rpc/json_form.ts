/**
 * Messages as JSON in the form that Core Lightning's users know: bytes in hex, enums as words, amounts as millisatoshi, names as
 * the descriptors say (arcus.options.v1). Reading is strict: what is not understood is an error that names the parameter.
 */
import {
  create,
  type DescField,
  type DescMessage,
  getOption,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import type { DescEnum } from "@bufbuild/protobuf";
import { reflect, type ReflectList, type ReflectMessage } from "@bufbuild/protobuf/reflect";
import { bare_sat, Form, form, sparse, word } from "gen/arcus/options/v1/options_pb.ts";
import { MAX_MSAT, parseMsat } from "./amount.ts";
import { type Command, jsonName } from "./command.ts";
import { isJsonObject, type Json, type JsonObject, parseJson } from "./json_text.ts";

/** Most items of one list. */
export const MAX_LIST = 1_000;
const MAX_U32 = 0xffff_ffff;
const MAX_U64 = 0xffff_ffff_ffff_ffffn;
/** Characters of a wrong value that an error repeats. */
const SHOWN = 60;

/** A parameter that is wrong, missing or not known. */
export class ParameterError extends Error {
  override readonly name = "ParameterError";

  constructor(readonly parameter: string, message: string) {
    super(message);
  }
}

function shown(value: Json): string {
  const text = typeof value === "string" ? value : typeof value === "object" ? "that" : String(value);
  return text.length <= SHOWN ? text : `${text.slice(0, SHOWN)}…`;
}

function wrong(name: string, what: string, value: Json): ParameterError {
  return new ParameterError(name, `${name}: should be ${what}: invalid token '${shown(value)}'`);
}

// ---------------------------------------------------------------------------------------------------------- writing

const toHex = (bytes: Uint8Array): string => bytes.toHex();

function whole(value: bigint): Json {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= -BigInt(Number.MAX_SAFE_INTEGER)
    ? Number(value)
    : value;
}

function wordOf(desc: DescEnum, value: number): Json {
  const found = desc.values.find((candidate) => candidate.number === value);
  return found === undefined ? value : getOption(found, word) || found.name.toLowerCase();
}

function itemToJson(field: DescField, value: unknown): Json {
  if (field.enum !== undefined && typeof value === "number") return wordOf(field.enum, value);
  if (field.message !== undefined) return reflectToJson(value as ReflectMessage);
  if (value instanceof Uint8Array) return toHex(value);
  if (typeof value === "bigint") return whole(value);
  if (typeof value === "number" || typeof value === "string" || typeof value === "boolean") return value;
  throw new Error(`${field.parent.typeName}.${field.name} has no JSON form`);
}

function objectToJson(message: ReflectMessage): JsonObject {
  const object: Record<string, Json> = {};
  for (const field of message.fields) {
    if (field.fieldKind === "list") {
      const items = [...message.get(field) as ReflectList];
      if (items.length > 0 || !getOption(field, sparse)) {
        object[jsonName(field)] = items.map((item) => itemToJson(field, item));
      }
      continue;
    }
    const tracked = field.proto.proto3Optional || field.fieldKind === "message" || field.oneof !== undefined;
    if (tracked && !message.isSet(field)) continue;
    object[jsonName(field)] = itemToJson(field, message.get(field));
  }
  return object;
}

function onlyField(message: ReflectMessage): DescField | undefined {
  return message.fields.find((field) => message.isSet(field));
}

function reflectToJson(message: ReflectMessage): Json {
  const set = onlyField(message);
  switch (getOption(message.desc, form)) {
    case Form.UNSPECIFIED:
      return objectToJson(message);
    case Form.MSAT:
      return set === undefined ? 0 : itemToJson(set, message.get(set));
    case Form.MSAT_OR_WORD:
      if (set === undefined) return 0;
      return set.message === undefined ? set.name : itemToJson(set, message.get(set));
    case Form.FEERATE:
      if (set === undefined) return "";
      return set.scalar === ScalarType.BOOL ? set.name : `${message.get(set)}${set.name}`;
    case Form.OUTPOINT: {
      const [txid, index] = message.fields.map((field) => itemToJson(field, message.get(field)));
      return `${txid}:${index}`;
    }
    case Form.TLVS:
      return Object.fromEntries(
        onlyList(message).map((entry) => {
          const [type, value] = message.fields[0]!.message!.fields;
          const record = entry as ReflectMessage;
          return [String(record.get(type!)), itemToJson(value!, record.get(value!))];
        }),
      );
    case Form.LIST:
      return onlyList(message).map((entry) => itemToJson(message.fields[0]!, entry));
  }
}

/** The items of a message that is one list. */
function onlyList(message: ReflectMessage): unknown[] {
  const field = message.fields[0];
  if (field?.fieldKind !== "list") throw new Error(`${message.desc.typeName} is no list`);
  return [...message.get(field)];
}

/** The JSON object of a message. */
export function messageToJson(desc: DescMessage, message: Message): JsonObject {
  return objectToJson(reflect(desc, message));
}

// ---------------------------------------------------------------------------------------------------------- reading

function integer(name: string, value: Json, min: bigint, max: bigint): bigint {
  const text = typeof value === "string" || typeof value === "number" || typeof value === "bigint"
    ? String(value)
    : "";
  if (!/^-?\d{1,20}$/.test(text)) {
    throw wrong(name, min < 0n ? "a whole number" : "an unsigned integer", value);
  }
  const number = BigInt(text);
  if (number < min || number > max) throw wrong(name, `between ${min} and ${max}`, value);
  return number;
}

function decimal(name: string, value: Json): number {
  const text = typeof value === "string" || typeof value === "number" || typeof value === "bigint"
    ? String(value)
    : "";
  if (!/^-?\d{1,15}(\.\d{1,15})?$/.test(text)) throw wrong(name, "a number", value);
  return Number(text);
}

function scalar(name: string, type: ScalarType, value: Json): unknown {
  switch (type) {
    case ScalarType.BOOL:
      if (value === true || value === "true") return true;
      if (value === false || value === "false") return false;
      throw wrong(name, "'true' or 'false'", value);
    case ScalarType.STRING:
      if (typeof value === "string") return value;
      if (typeof value === "number" || typeof value === "bigint") return String(value);
      throw wrong(name, "a string", value);
    case ScalarType.BYTES:
      if (typeof value === "string" && value.length % 2 === 0 && /^[0-9a-fA-F]*$/.test(value)) {
        return Uint8Array.fromHex(value);
      }
      throw wrong(name, "hex", value);
    case ScalarType.UINT32:
      return Number(integer(name, value, 0n, BigInt(MAX_U32)));
    case ScalarType.UINT64:
      return integer(name, value, 0n, MAX_U64);
    case ScalarType.DOUBLE:
      return decimal(name, value);
    default:
      throw new Error(`${name}: no parameter has type ${ScalarType[type]}`);
  }
}

/** The number of an enum's word, or undefined. */
export function enumOfWord(desc: DescEnum, value: Json): number | undefined {
  return desc.values.find((candidate) => wordOf(desc, candidate.number) === value)?.number;
}

function enumNumber(name: string, desc: DescEnum, value: Json): number {
  const found = enumOfWord(desc, value);
  if (found !== undefined) return found;
  throw wrong(name, desc.values.map((candidate) => wordOf(desc, candidate.number)).join(" or "), value);
}

function msat(name: string, value: Json, bareSat: boolean): bigint {
  const text = typeof value === "string" || typeof value === "number" || typeof value === "bigint"
    ? String(value)
    : "";
  const amount = parseMsat(text, bareSat);
  if (amount !== undefined) return amount;
  const bare = bareSat ? "satoshi" : "millisatoshi";
  throw wrong(name, `an amount: a number of ${bare}, or one with the unit sat, msat or btc`, value);
}

/** Sets the amount of a FORM_MSAT message. */
function amountMessage(desc: DescMessage, amount: bigint): ReflectMessage {
  const message = reflect(desc);
  const field = desc.fields[0];
  if (field === undefined || amount > MAX_MSAT) throw new Error(`${desc.typeName} holds no amount`);
  message.set(field, amount);
  return message;
}

function amountOrWord(name: string, desc: DescMessage, value: Json, bareSat: boolean): ReflectMessage {
  const message = reflect(desc);
  for (const field of desc.fields) {
    if (field.message === undefined && field.name === value) {
      message.set(field, true);
      return message;
    }
  }
  const field = desc.fields.find((candidate) => candidate.message !== undefined);
  if (field?.message === undefined) throw new Error(`${desc.typeName} holds no amount`);
  message.set(field, amountMessage(field.message, msat(name, value, bareSat)));
  return message;
}

/** A bare rate counts as the first kind of rate that the contract has. */
function feerate(name: string, desc: DescMessage, value: Json): ReflectMessage {
  const message = reflect(desc);
  const text = typeof value === "string" || typeof value === "number" ? String(value) : "";
  const [, digits, unit] = /^(\d{1,10})([a-z]*)$/.exec(text) ?? [];
  const rates = desc.fields.filter((field) => field.scalar === ScalarType.UINT32);
  const field = digits === undefined
    ? desc.fields.find((candidate) => candidate.scalar === ScalarType.BOOL && candidate.name === text)
    : unit === ""
    ? rates[0]
    : rates.find((candidate) => candidate.name === unit);
  if (field === undefined || Number(digits ?? 0) > MAX_U32) {
    throw wrong(name, `${desc.fields.map((f) => f.name).join(", ")} (a rate before perkb or perkw)`, value);
  }
  message.set(field, digits === undefined ? true : Number(digits));
  return message;
}

function outpoint(name: string, desc: DescMessage, value: Json): ReflectMessage {
  const [, txid, index] = /^([0-9a-fA-F]{64}):(\d{1,10})$/.exec(typeof value === "string" ? value : "") ?? [];
  const [txidField, indexField] = desc.fields;
  if (txid === undefined || index === undefined || Number(index) > MAX_U32) {
    throw wrong(name, "TXID:INDEX", value);
  }
  if (txidField === undefined || indexField === undefined) throw new Error(`${desc.typeName} is no outpoint`);
  const message = reflect(desc);
  message.set(txidField, Uint8Array.fromHex(txid));
  message.set(indexField, Number(index));
  return message;
}

/** {"133773310": "beef"}. */
function tlvs(name: string, desc: DescMessage, value: Json): ReflectMessage {
  const message = reflect(desc);
  const [field] = desc.fields;
  if (!isJsonObject(value)) throw wrong(name, "an object of type to hex", value);
  if (field?.fieldKind !== "list" || field.message === undefined) {
    throw new Error(`${desc.typeName} is no list`);
  }
  for (const [type, hex] of Object.entries(value)) {
    const record = reflect(field.message);
    const [number, bytes] = field.message.fields;
    record.set(number!, item(number!, `${name}.${shown(type)}`, type));
    record.set(bytes!, item(bytes!, `${name}.${shown(type)}`, hex));
    message.get(field).add(record);
  }
  return message;
}

/** An object with the names of a message's fields; others are refused. */
function object(name: string, desc: DescMessage, value: Json): ReflectMessage {
  if (!isJsonObject(value)) throw wrong(name, "an object", value);
  const message = reflect(desc);
  const fields = new Map(desc.fields.map((field) => [jsonName(field), field]));
  for (const [key, member] of Object.entries(value)) {
    const field = fields.get(key);
    if (field === undefined) throw new ParameterError(name, `${name}: unknown member: ${shown(key)}`);
    if (member !== null) setField(message, field, member, `${name}.${key}`);
  }
  return message;
}

function item(field: DescField, name: string, value: Json): unknown {
  if (field.enum !== undefined) return enumNumber(name, field.enum, value);
  if (field.message !== undefined) {
    const bareSat = getOption(field, bare_sat);
    switch (getOption(field.message, form)) {
      case Form.MSAT:
        return amountMessage(field.message, msat(name, value, bareSat));
      case Form.MSAT_OR_WORD:
        return amountOrWord(name, field.message, value, bareSat);
      case Form.FEERATE:
        return feerate(name, field.message, value);
      case Form.OUTPOINT:
        return outpoint(name, field.message, value);
      case Form.TLVS:
        return tlvs(name, field.message, value);
      case Form.LIST: {
        const message = reflect(field.message);
        for (const only of field.message.fields) setField(message, only, value, name);
        return message;
      }
      case Form.UNSPECIFIED:
        return object(name, field.message, value);
    }
  }
  if (field.scalar === undefined) throw new Error(`${name}: no parameter is a map`);
  return scalar(name, field.scalar, value);
}

/** A list, or the text of one, as a command line gives it: JSON, or words with commas. */
function listOf(name: string, value: Json): readonly Json[] {
  let items = value;
  if (typeof items === "string") {
    try {
      items = items.startsWith("[") ? parseJson(items) : items.split(",");
    } catch {
      throw wrong(name, "an array", value);
    }
  }
  if (!Array.isArray(items)) throw wrong(name, "an array", value);
  if (items.length > MAX_LIST) {
    throw new ParameterError(name, `${name}: ${items.length} items, at most ${MAX_LIST}`);
  }
  return items;
}

function setField(message: ReflectMessage, field: DescField, value: Json, name = jsonName(field)): void {
  if (field.fieldKind !== "list") {
    message.set(field, item(field, name, value));
    return;
  }
  const list = message.get(field);
  listOf(name, value).forEach((element, index) => list.add(item(field, `${name}[${index}]`, element)));
}

/**
 * The request of a command from its parameters, by name or by position; null stands for "not given". Throws
 * {@link ParameterError}.
 */
export function requestOf(command: Command, params: Json): Message {
  const message = reflect(command.method.input, create(command.method.input));
  const given = new Map<string, Json>();
  if (Array.isArray(params)) {
    if (params.length > command.parameters.length) {
      throw new ParameterError(
        "params",
        `too many parameters: got ${params.length}, expected ${command.parameters.length}`,
      );
    }
    params.forEach((value: Json, index) => {
      const parameter = command.parameters[index];
      if (parameter !== undefined) given.set(parameter.name, value);
    });
  } else if (isJsonObject(params)) {
    for (const [name, value] of Object.entries(params)) given.set(name, value);
  } else {
    throw new ParameterError("params", "params: should be an object or an array");
  }
  const known = new Map(command.parameters.map((parameter) => [parameter.name, parameter]));
  for (const name of given.keys()) {
    if (!known.has(name)) throw new ParameterError(name, `unknown parameter: ${shown(name)}`);
  }
  for (const { name, required, field } of command.parameters) {
    const value = given.get(name);
    if (value !== undefined && value !== null) setField(message, field, value);
    else if (required) throw new ParameterError(name, `missing required parameter: ${name}`);
  }
  return message.message;
}

/**
 * Checks a request that came as a message: what a command cannot do without is there, and every enum value is known. Throws
 * {@link ParameterError}. A number that must be given cannot be told from zero here.
 */
export function checkRequest(command: Command, request: Message): void {
  const message = reflect(command.method.input, request);
  for (const { name, required, field } of command.parameters) {
    const hasZero = field.fieldKind === "enum" ||
      (field.fieldKind === "scalar" && field.scalar !== ScalarType.BYTES &&
        field.scalar !== ScalarType.STRING);
    if (required && !hasZero && !message.isSet(field)) {
      throw new ParameterError(name, `missing required parameter: ${name}`);
    }
    if (field.fieldKind === "enum" && field.enum.value[message.get(field)] === undefined) {
      throw new ParameterError(
        name,
        `${name}: ${message.get(field)} is not a value of ${field.enum.typeName}`,
      );
    }
    if (field.fieldKind === "list" && message.get(field).size > MAX_LIST) {
      throw new ParameterError(name, `${name}: more than ${MAX_LIST} items`);
    }
  }
}
