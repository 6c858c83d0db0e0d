/**
 * The one error type of the edge. `bolt/` returns named failures as values; a service turns them into an `ArcusError`, the
 * adapter carries it as a gRPC status with `google.rpc.ErrorInfo`, and the client gets the same `ArcusError` back.
 */
import { Buffer } from "node:buffer";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Metadata, type ServiceError, status, type StatusObject } from "@grpc/grpc-js";
import { ErrorInfoSchema } from "gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "gen/google/rpc/status_pb.ts";

/** The gRPC status codes. */
export { status as Code };

/** The domain of every reason that Arcus names. */
export const ERROR_DOMAIN = "arcus";
/** Trailers share 8 KiB with everything else: longer texts are cut. */
const MAX_MESSAGE_LENGTH = 1024;
const MAX_DETAIL_LENGTH = 512;
const MAX_DETAILS = 16;
const ERROR_INFO_TYPE = "google.rpc.ErrorInfo";
const DETAILS_KEY = "grpc-status-details-bin";
const RESERVED_KEYS = ["cln_code", "channel", "retryable"];

/** What an `ArcusError` is made from. */
export interface ArcusErrorInit {
  /** gRPC status code; never OK. */
  readonly code: status;
  /** UPPER_SNAKE_CASE name of the cause, for programs. */
  readonly reason: string;
  /** Text for people. Never a secret. */
  readonly message: string;
  /** The code that Core Lightning's API gives this failure. */
  readonly clnCode?: number | undefined;
  /** The channel it concerns, in hex. */
  readonly channel?: string | undefined;
  /** Whether the same call may succeed later. Default: only for UNAVAILABLE. */
  readonly retryable?: boolean | undefined;
  /** Further facts. */
  readonly details?: Readonly<Record<string, string>> | undefined;
  /** What caused it; stays in this process. */
  readonly cause?: unknown;
}

/** A failure with a name, as it crosses between daemons and to API callers. */
export class ArcusError extends Error {
  override readonly name = "ArcusError";
  readonly code: status;
  readonly reason: string;
  readonly clnCode: number | undefined;
  readonly channel: string | undefined;
  readonly retryable: boolean;
  readonly details: Readonly<Record<string, string>>;

  constructor(init: ArcusErrorInit) {
    super(init.message, init.cause === undefined ? undefined : { cause: init.cause });
    this.code = init.code;
    this.reason = init.reason;
    this.clnCode = init.clnCode;
    this.channel = init.channel;
    this.retryable = init.retryable ?? init.code === status.UNAVAILABLE;
    this.details = init.details ?? {};
  }
}

type Extra = Partial<Omit<ArcusErrorInit, "code" | "reason" | "message">>;

function maker(code: status): (reason: string, message: string, extra?: Extra) => ArcusError {
  return (reason, message, extra = {}) => new ArcusError({ ...extra, code, reason, message });
}

/** The request itself is wrong, whatever the state. */
export const invalidArgument = maker(status.INVALID_ARGUMENT);
/** What the request names does not exist. */
export const notFound = maker(status.NOT_FOUND);
/** What the request would create exists. */
export const alreadyExists = maker(status.ALREADY_EXISTS);
/** The state does not allow it; repeating does not help before something else changes. */
export const failedPrecondition = maker(status.FAILED_PRECONDITION);
/** Lost against another (a lower epoch, an older version): reload first. */
export const aborted = maker(status.ABORTED);
/** This caller may not do that. */
export const permissionDenied = maker(status.PERMISSION_DENIED);
/** A limit is reached. */
export const resourceExhausted = maker(status.RESOURCE_EXHAUSTED);
/** Not now: try again. */
export const unavailable = maker(status.UNAVAILABLE);
/** Not built. */
export const unimplemented = maker(status.UNIMPLEMENTED);
/** A broken invariant of ours. The message crosses to the caller: name nothing internal. */
export const internal = maker(status.INTERNAL);

function cut(text: string, length: number): string {
  // A lone surrogate would make grpc-js throw while it percent-encodes the status message.
  const formed = text.toWellFormed();
  return formed.length <= length ? formed : `${formed.slice(0, length - 1).toWellFormed()}…`;
}

/** The gRPC status of an error. An error that is not an `ArcusError` becomes INTERNAL with nothing of it inside. */
export function toStatus(error: unknown): StatusObject {
  const failure = error instanceof ArcusError ? error : internal("INTERNAL", "internal error");
  const message = cut(failure.message, MAX_MESSAGE_LENGTH);
  const facts: Record<string, string> = {};
  for (const [key, value] of Object.entries(failure.details).slice(0, MAX_DETAILS)) {
    if (!RESERVED_KEYS.includes(key)) facts[key] = cut(value, MAX_DETAIL_LENGTH);
  }
  if (failure.clnCode !== undefined) facts.cln_code = String(failure.clnCode);
  if (failure.channel !== undefined) facts.channel = cut(failure.channel, MAX_DETAIL_LENGTH);
  facts.retryable = String(failure.retryable);
  const info = create(ErrorInfoSchema, { reason: failure.reason, domain: ERROR_DOMAIN, metadata: facts });
  const rich = create(StatusSchema, {
    code: failure.code,
    message,
    details: [{ typeUrl: `type.googleapis.com/${ERROR_INFO_TYPE}`, value: toBinary(ErrorInfoSchema, info) }],
  });
  const metadata = new Metadata();
  metadata.set(DETAILS_KEY, Buffer.from(toBinary(StatusSchema, rich)));
  return { code: failure.code, details: message, metadata };
}

/** The ErrorInfo inside a status, if there is one that can be read. */
function errorInfo(metadata: Metadata): { reason: string; facts: Record<string, string> } | undefined {
  const raw = metadata.get(DETAILS_KEY)[0];
  if (raw === undefined || typeof raw === "string") return undefined;
  try {
    const rich = fromBinary(StatusSchema, new Uint8Array(raw));
    const any = rich.details.find((detail) => detail.typeUrl.endsWith(`/${ERROR_INFO_TYPE}`));
    if (any === undefined) return undefined;
    const info = fromBinary(ErrorInfoSchema, any.value);
    return { reason: info.reason, facts: info.metadata };
  } catch {
    return undefined;
  }
}

/** The `ArcusError` that a status stands for. A status without ErrorInfo has the code's name as its reason. */
export function fromStatus(state: Partial<StatusObject>, cause?: unknown): ArcusError {
  const code = state.code ?? status.UNKNOWN;
  const message = state.details ?? "";
  const info = state.metadata === undefined ? undefined : errorInfo(state.metadata);
  if (info === undefined) return new ArcusError({ code, reason: status[code] ?? "UNKNOWN", message, cause });
  const { cln_code, channel, retryable, ...details } = info.facts;
  const clnCode = cln_code === undefined ? NaN : Number(cln_code);
  return new ArcusError({
    code,
    reason: info.reason,
    message,
    clnCode: Number.isSafeInteger(clnCode) ? clnCode : undefined,
    channel,
    retryable: retryable === undefined ? undefined : retryable === "true",
    details,
    cause,
  });
}

/** Any thrown value as an `ArcusError`: its own kind unchanged, a grpc-js error parsed, the rest INTERNAL. */
export function toArcusError(error: unknown): ArcusError {
  if (error instanceof ArcusError) return error;
  if (isServiceError(error)) return fromStatus(error, error);
  return internal("INTERNAL", "internal error", { cause: error });
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && typeof error.code === "number" &&
    "details" in error && typeof error.details === "string";
}
