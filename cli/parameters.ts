/** The words behind a command as parameters of JSON-RPC. */
import type { Command } from "common/rpc/command.ts";
import { type Json, parseJson } from "common/rpc/json_text.ts";
import { UsageError } from "./arguments.ts";

/** "name=value" where the command has a parameter of that name: base64 may hold '=' too. */
function keyword(command: Command, word: string): readonly [name: string, value: string] | undefined {
  const [, name, value] = /^([a-z_]+)=([\s\S]*)$/.exec(word) ?? [];
  if (name === undefined || value === undefined) return undefined;
  return command.parameters.some((parameter) => parameter.name === name) ? [name, value] : undefined;
}

/**
 * Parameters by name: positional words first, then NAME=VALUE in any order; "null" skips a position. What a value is, the command
 * says, so texts stay texts. Throws {@link UsageError}.
 */
export function parametersOf(command: Command, words: readonly string[]): Readonly<Record<string, string>> {
  const given: Record<string, string> = {};
  let named = false;
  words.forEach((word, index) => {
    const pair = keyword(command, word);
    if (pair === undefined && named) {
      throw new UsageError(`'${word}': a value without a name cannot follow one with a name`);
    }
    named = pair !== undefined;
    const name = pair?.[0] ?? command.parameters[index]?.name;
    const value = pair?.[1] ?? word;
    if (name === undefined) {
      throw new UsageError(
        `${command.name} takes ${command.parameters.length} parameters, not ${words.length}`,
      );
    }
    if (given[name] !== undefined) throw new UsageError(`${name} is given twice`);
    if (value !== "null") given[name] = value;
  });
  const missing = command.parameters.find(({ name, required }) => required && given[name] === undefined);
  if (missing !== undefined) throw new UsageError(`missing: ${missing.name}`);
  return given;
}

/** Parameters of a command that this program does not know: words that are JSON stand for themselves. */
export function unknownParameters(words: readonly string[]): Json[] {
  return words.map((word) => {
    try {
      return parseJson(word);
    } catch {
      return word;
    }
  });
}
