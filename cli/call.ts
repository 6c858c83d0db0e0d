/** Calls one command, over the socket or over gRPC. */
import { isAbsolute, join } from "node:path";
import type { Message } from "@bufbuild/protobuf";
import { client, dial } from "common/grpc/client.ts";
import { ArcusError, Code } from "common/grpc/errors.ts";
import { callUnix, RpcConnectionError, RpcError } from "common/rpc/client.ts";
import type { Command } from "common/rpc/command.ts";
import { messageToJson, ParameterError, requestOf } from "common/rpc/json_form.ts";
import type { Json } from "common/rpc/json_text.ts";
import type { Place } from "./arguments.ts";

const DEADLINE_MS = 60_000;
const SLOW_DEADLINE_MS = 900_000;
const INVALID_PARAMS = -32602;
const GENERAL = -1;

type AnyCall = (request: Message, options: { readonly deadlineMs: number }) => Promise<Message>;

function toRpcError(error: unknown): Error {
  if (error instanceof ParameterError) return new RpcError(INVALID_PARAMS, error.message, undefined);
  if (!(error instanceof ArcusError)) return error instanceof Error ? error : new Error(String(error));
  // lightningd gives every refusal a code; without one it was not lightningd that answered.
  if (error.code === Code.UNAVAILABLE && error.clnCode === undefined && error.reason === "UNAVAILABLE") {
    return new RpcConnectionError(error.message);
  }
  const data = { reason: error.reason, retryable: error.retryable, ...error.details };
  return new RpcError(error.clnCode ?? GENERAL, error.message, data);
}

async function callGrpc(address: string, command: Command, params: Json, timeoutMs: number): Promise<Json> {
  const channel = dial(address);
  try {
    const request = requestOf(command, params);
    // Each method takes and answers the messages that its descriptor names.
    const calls = client(command.method.parent, channel) as unknown as Readonly<Record<string, AnyCall>>;
    const call = calls[command.method.localName];
    if (call === undefined) throw new RpcError(-32601, `unknown command: ${command.name}`, undefined);
    return messageToJson(command.method.output, await call(request, { deadlineMs: timeoutMs }));
  } catch (error) {
    throw toRpcError(error);
  } finally {
    channel.close();
  }
}

/** What is called, and how. */
export interface Call {
  readonly place: Place;
  readonly name: string;
  /** Absent for a command that this program does not know. */
  readonly command: Command | undefined;
  readonly params: Json;
  readonly timeoutMs: number | undefined;
}

/** The answer. Throws {@link RpcError} for a refusal, {@link RpcConnectionError} when nobody answers. */
export async function callNode({ place, name, command, params, timeoutMs }: Call): Promise<Json> {
  if (place.type === "grpc") {
    if (command === undefined) throw new RpcError(-32601, `unknown command: ${name}`, undefined);
    const fallback = command.slow ? SLOW_DEADLINE_MS : DEADLINE_MS;
    return await callGrpc(place.address, command, params, timeoutMs ?? fallback);
  }
  const path = isAbsolute(place.rpcFile) ? place.rpcFile : join(place.lightningDir, place.rpcFile);
  const answer = callUnix(path, name, params);
  if (timeoutMs === undefined) return await answer;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new RpcConnectionError(`no answer within ${timeoutMs / 1_000} s`)),
      timeoutMs,
    );
  });
  answer.catch(() => {});
  return await Promise.race([answer, late]).finally(() => clearTimeout(timer));
}
