/** Help, from the descriptors alone: no node needs to run. */
import { type Command, usageOf } from "common/rpc/command.ts";
import { OPTION_HELP } from "./arguments.ts";

const WIDTH = 100;
/** What every command may answer. */
const COMMON_ERRORS = [
  { code: -32602, help: "a parameter is wrong or missing" },
  { code: -1, help: "anything else; the message says what" },
];

function wrap(text: string, indent: number): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && indent + line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line].join(`\n${" ".repeat(indent)}`);
}

function rows(entries: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...entries.map(([left]) => left.length)) + 4;
  return entries.map(([left, right]) => `  ${left.padEnd(width - 2)}${wrap(right, width)}`);
}

/** Help of one command. */
export function commandHelp(command: Command): string {
  const parameters = command.parameters.map(({ name, required, help }) =>
    [required ? name : `[${name}]`, help] as const
  );
  const errors = [...command.errors, ...COMMON_ERRORS].map(({ code, help }) => [String(code), help] as const);
  return [
    usageOf(command),
    "",
    wrap(command.help, 0),
    ...(parameters.length === 0
      ? []
      : ["", "Parameters, by position or as NAME=VALUE:", ...rows(parameters)]),
    "",
    "Errors:",
    ...rows(errors),
  ].join("\n");
}

/** Help of the program: how it is called, and every command. */
export function programHelp(commands: ReadonlyMap<string, Command>): string {
  const categories = Map.groupBy(commands.values(), (command) => command.category);
  const lists = [...categories].sort(([a], [b]) => a < b ? -1 : 1).flatMap(([category, members]) => [
    "",
    `${category}:`,
    ...members.map((command) => `  ${wrap(usageOf(command), 4)}`),
  ]);
  return [
    "usage: arcus-cli [OPTIONS] COMMAND [VALUE | NAME=VALUE]...",
    "",
    "Calls a command of an Arcus node. Amounts: 100000sat, 0.001btc, 100000000msat.",
    "Exit status: 0 done, 1 refused (the error as JSON), 2 no node answers, 3 wrong usage.",
    "",
    "Options:",
    ...rows(OPTION_HELP),
    ...lists,
    "",
    "arcus-cli help COMMAND says more of one.",
  ].join("\n");
}
