/** What a service's descriptors say of its commands: names, parameters, help, error codes (arcus.options.v1). */
import { type DescField, type DescMethod, type DescService, getOption } from "@bufbuild/protobuf";
import {
  type Command as CommandOption,
  command as commandOption,
  help,
  json,
} from "gen/arcus/options/v1/options_pb.ts";

/** A parameter of a command. */
export interface Parameter {
  readonly name: string;
  readonly required: boolean;
  readonly help: string;
  readonly field: DescField;
}

/** A command: a method with its name in JSON-RPC and on a command line. */
export interface Command {
  readonly name: string;
  readonly method: DescMethod;
  /** In positional order. */
  readonly parameters: readonly Parameter[];
  readonly help: string;
  readonly category: string;
  readonly developer: boolean;
  /** It may wait for a peer. */
  readonly slow: boolean;
  readonly errors: readonly { readonly code: number; readonly help: string }[];
}

/** The name of a field in JSON. */
export function jsonName(field: DescField): string {
  return getOption(field, json) || field.name;
}

function parameterOf(method: DescMethod, name: string, required: boolean): Parameter {
  const field = method.input.fields.find((candidate) => jsonName(candidate) === name);
  if (field === undefined) throw new Error(`${method.name}: no field for its parameter ${name}`);
  return { name, required, help: getOption(field, help), field };
}

function commandOf(method: DescMethod, option: CommandOption): Command {
  return {
    name: option.name,
    method,
    parameters: option.params.map((name, index) => parameterOf(method, name, index < option.required)),
    help: option.help,
    category: option.category,
    developer: option.developer,
    slow: option.slow,
    errors: option.errors.map(({ code, help }) => ({ code, help })),
  };
}

/** The commands of some services, by name. Throws when their descriptors contradict themselves or each other. */
export function commandsOf(...services: readonly DescService[]): ReadonlyMap<string, Command> {
  const commands = new Map<string, Command>();
  for (const method of services.flatMap(({ methods }) => methods)) {
    const option = getOption(method, commandOption);
    if (option.name === "") throw new Error(`${method.name}: no command name`);
    if (commands.has(option.name)) throw new Error(`two commands are called ${option.name}`);
    commands.set(option.name, commandOf(method, option));
  }
  return commands;
}

/** "withdraw destination satoshi [feerate] [minconf] [utxos]". */
export function usageOf(command: Command): string {
  const words = command.parameters.map(({ name, required }) => required ? name : `[${name}]`);
  return [command.name, ...words].join(" ");
}
