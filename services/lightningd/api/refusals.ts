/** Refusals with Core Lightning's codes. */
import { ArcusError, Code, invalidArgument, unimplemented } from "common/grpc/errors.ts";
import { ParameterError } from "common/rpc/json_form.ts";

/** JSON-RPC: the text is no JSON. */
export const PARSE_ERROR = -32700;
/** JSON-RPC: JSON, but no request. */
export const INVALID_REQUEST = -32600;
/** JSON-RPC: no such command. */
export const METHOD_NOT_FOUND = -32601;
/** JSON-RPC: a parameter is wrong. */
export const INVALID_PARAMS = -32602;
/** Anything that has no code of its own. */
export const GENERAL = -1;
/** lightningd is stopping. */
export const SHUTTING_DOWN = -5;

/** A parameter that cannot be; the message names it. */
export function invalidParams(parameter: string, message: string): ArcusError {
  return invalidArgument("INVALID_PARAMS", `${parameter}: ${message}`, {
    clnCode: INVALID_PARAMS,
    details: { parameter },
  });
}

/** No such command, or none on this node. */
export function unknownCommand(name: string, why = "unknown command"): ArcusError {
  return unimplemented("UNKNOWN_COMMAND", `${why}: ${name}`, { clnCode: METHOD_NOT_FOUND });
}

function codeOf(error: ArcusError): number {
  if (error.clnCode !== undefined) return error.clnCode;
  if (error.code === Code.INVALID_ARGUMENT) return INVALID_PARAMS;
  if (error.code === Code.UNIMPLEMENTED) return METHOD_NOT_FOUND;
  return GENERAL;
}

/** Any error of a command with the code that CLN's users look at. What nobody named stays as it is: a defect, logged at the edge. */
export function withClnCode(error: unknown): unknown {
  if (error instanceof ParameterError) return invalidParamsOf(error);
  if (!(error instanceof ArcusError) || error.clnCode !== undefined) return error;
  const { code, reason, message, channel, retryable, details, cause } = error;
  return new ArcusError({
    code,
    reason,
    message,
    channel,
    retryable,
    details,
    cause,
    clnCode: codeOf(error),
  });
}

function invalidParamsOf(error: ParameterError): ArcusError {
  return invalidArgument("INVALID_PARAMS", error.message, {
    clnCode: INVALID_PARAMS,
    details: { parameter: error.parameter },
  });
}
