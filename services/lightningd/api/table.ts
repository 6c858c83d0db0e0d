/** The method table: every command once, whoever calls it, over gRPC or JSON-RPC. */
import { create, type DescMessage, isMessage, type Message, type MessageInitShape } from "@bufbuild/protobuf";
import { type Command, commandsOf } from "common/rpc/command.ts";
import { checkRequest, messageToJson, requestOf } from "common/rpc/json_form.ts";
import type { Json, JsonObject } from "common/rpc/json_text.ts";
import { type ListconfigsRequest, ListconfigsRequestSchema, Node } from "gen/cln/node_pb.ts";
import { Operator } from "gen/arcus/lightningd/v1/operator_pb.ts";
import { channelCommands } from "./channel_commands.ts";
import { closingCommands } from "./closing_commands.ts";
import { listconfigsJson } from "./configs.ts";
import type { Handlers } from "./handlers.ts";
import { nodeCommands } from "./node_commands.ts";
import type { ApiParts } from "./parts.ts";
import { paymentCommands } from "./payment_commands.ts";
import { peerCommands } from "./peer_commands.ts";
import { unknownCommand, withClnCode } from "./refusals.ts";
import { walletCommands } from "./wallet_commands.ts";

/** One row: a command with its code. Its name, types, parameters and error codes are the descriptor's. */
export interface Row {
  readonly command: Command;
  /** Takes a message of the command's input, checked here, and answers one of its output. Rejects with a CLN code. */
  call(request: Message): Promise<Message>;
  /** The same with parameters and answer as JSON. */
  callJson(params: Json): Promise<JsonObject>;
}

/** Every command by its name in JSON-RPC. */
export type Table = ReadonlyMap<string, Row>;

type AnyHandler = (request: Message) => Promise<MessageInitShape<DescMessage>>;

/** JSON of an answer, where JSON-RPC says more than the contract has fields for. */
function jsonOf(parts: ApiParts, output: DescMessage, request: Message, answer: Message): JsonObject {
  if (isMessage(request, ListconfigsRequestSchema)) return configsOf(parts, request);
  return messageToJson(output, answer);
}

function configsOf({ config }: ApiParts, request: ListconfigsRequest): JsonObject {
  return listconfigsJson(config.list(), config.values, request.config);
}

function rowOf(parts: ApiParts, command: Command, handler: AnyHandler): Row {
  const call = async (request: Message): Promise<Message> => {
    try {
      if (command.developer && !parts.config.get("developer")) {
        throw unknownCommand(command.name, "only in developer mode");
      }
      checkRequest(command, request);
      return create(command.method.output, await handler(request));
    } catch (error) {
      throw withClnCode(error);
    }
  };
  return {
    command,
    call,
    async callJson(params) {
      try {
        const request = requestOf(command, params);
        return jsonOf(parts, command.method.output, request, await call(request));
      } catch (error) {
        throw withClnCode(error);
      }
    },
  };
}

/** Makes the table of a node. */
export function methodTable(parts: ApiParts): Table {
  const commands = commandsOf(Node, Operator);
  const handlers: Handlers = {
    ...nodeCommands(parts, commands),
    ...peerCommands(parts),
    ...walletCommands(parts),
    ...channelCommands(parts),
    ...closingCommands(parts),
    ...paymentCommands(parts),
  };
  // The type of `handlers` ties every method to its code; by name only the code is left.
  const code = handlers as unknown as Readonly<Record<string, AnyHandler>>;
  const rows = new Map<string, Row>();
  for (const [name, command] of commands) {
    const handler = code[command.method.localName];
    if (handler === undefined) throw new Error(`${name} has no code`);
    rows.set(name, rowOf(parts, command, handler));
  }
  return rows;
}
