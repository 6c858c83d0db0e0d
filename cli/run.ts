/** The program without its process: arguments in, exit status out. */
import { VERSION } from "common/lifecycle.ts";
import { RpcConnectionError, RpcError } from "common/rpc/client.ts";
import { type Command, commandsOf, usageOf } from "common/rpc/command.ts";
import { formatJson } from "common/rpc/json_text.ts";
import { Operator } from "gen/arcus/lightningd/v1/operator_pb.ts";
import { Node } from "gen/cln/node_pb.ts";
import { type Arguments, parseArguments, UsageError } from "./arguments.ts";
import { callNode } from "./call.ts";
import { commandHelp, programHelp } from "./help.ts";
import { parametersOf, unknownParameters } from "./parameters.ts";
import { formatAnswer } from "./print.ts";
import { awaited, type Screen, showWaiting } from "./waiting.ts";

/** How the program ends. */
export const Exit = {
  ok: 0,
  /** The node refused; its error is on standard output as JSON. */
  refused: 1,
  /** Nobody answers there. */
  unreachable: 2,
  /** The command line is wrong. */
  usage: 3,
} as const;

/** What the program reads and writes. */
export interface World {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Width of the terminal that standard output is; null if it is none. */
  readonly columns: number | null;
  out(line: string): void;
  readonly screen: Screen;
}

function help(commands: ReadonlyMap<string, Command>, name: string | undefined): string {
  if (name === undefined) return programHelp(commands);
  const command = commands.get(name);
  if (command === undefined) throw new UsageError(`no command '${name}'; --help lists them`);
  return commandHelp(command);
}

async function call(
  world: World,
  commands: ReadonlyMap<string, Command>,
  wanted: Extract<Arguments, { type: "call" }>,
): Promise<string> {
  const { command: name, words, place, style, timeoutMs } = wanted;
  const command = commands.get(name);
  const params = command === undefined ? unknownParameters(words) : parametersOf(command, words);
  const what = awaited(name, params, command?.slow === true);
  const stop = what === undefined ? () => {} : showWaiting(what, world.screen);
  try {
    const answer = await callNode({ place, name, command, params, timeoutMs });
    return formatAnswer(name, answer, style, world.columns);
  } finally {
    stop();
  }
}

/** Runs the program, and answers its exit status. */
export async function run(world: World): Promise<number> {
  const commands = commandsOf(Node, Operator);
  const complain = (text: string) => world.screen.write(`${text}\n`);
  let wanted: Arguments | undefined;
  try {
    wanted = parseArguments(world.args, world.env);
    if (wanted.type === "version") world.out(`arcus-cli ${VERSION}`);
    else if (wanted.type === "help") world.out(help(commands, wanted.command));
    else world.out(await call(world, commands, wanted));
    return Exit.ok;
  } catch (error) {
    if (error instanceof UsageError) {
      const command = wanted?.type === "call" ? commands.get(wanted.command) : undefined;
      complain(`arcus-cli: ${error.message}${command === undefined ? "" : `\nusage: ${usageOf(command)}`}`);
      return Exit.usage;
    }
    if (error instanceof RpcError) {
      world.out(formatJson(error.toJson(), 3));
      return Exit.refused;
    }
    if (error instanceof RpcConnectionError) {
      complain(`arcus-cli: cannot reach the node: ${error.message}`);
      return Exit.unreachable;
    }
    throw error;
  }
}
