/** Typed clients over grpc-js: promises for unary calls, async iterables for streams, `openBidi` for hot paths. */
import type {
  DescMessage,
  DescMethod,
  DescMethodBiDiStreaming,
  DescMethodClientStreaming,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from "@bufbuild/protobuf";
import {
  type CallOptions as GrpcCallOptions,
  Client,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { ArcusError, fromStatus, unavailable } from "common/grpc/errors.ts";
import { isLeaving } from "common/grpc/leaving.ts";
import {
  decoder,
  encoder,
  isBidi,
  isClientStreaming,
  isServerStreaming,
  isUnary,
  maker,
  pathOf,
} from "common/grpc/method.ts";
import { type BidiStream, ClientCallStream, messagesOf, pump } from "common/grpc/stream.ts";
import { channelCredentials, type TlsFiles } from "common/grpc/tls.ts";
import { childTrace, currentTrace, formatTraceparent } from "common/trace.ts";

/** A unary call that nobody gave a deadline. */
export const DEFAULT_DEADLINE_MS = 30_000;
/** Reconnect backoff starts here and doubles ... */
export const INITIAL_BACKOFF_MS = 100;
/** ... up to here: grpc-js alone would grow to two minutes. */
export const MAX_BACKOFF_MS = 2_000;
/** A stopped or cut off server is noticed after this plus the timeout. */
export const KEEPALIVE_TIME_MS = 10_000;
export const KEEPALIVE_TIMEOUT_MS = 5_000;
/** Largest message in either direction, bytes. */
export const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/** Settings of a connection. */
export interface DialOptions {
  /** Deadline of calls that name none, milliseconds; streams have none unless they name one. */
  readonly deadlineMs?: number;
  /** Whether calls wait for the connection instead of failing UNAVAILABLE while it is down. Default false. */
  readonly waitForReady?: boolean;
  readonly tls?: TlsFiles;
  /**
   * With TLS: the daemon that must answer, a name in its certificate. Default: the host of the address, which on this runtime must not be
   * an IP address then.
   */
  readonly serverName?: string;
  readonly maxMessageBytes?: number;
  readonly keepaliveTimeMs?: number;
  readonly keepaliveTimeoutMs?: number;
}

/** Settings of one call. */
export interface CallOptions {
  /** Milliseconds from now; Infinity for none. */
  readonly deadlineMs?: number;
  /** Aborting cancels the call. */
  readonly signal?: AbortSignal;
  readonly waitForReady?: boolean;
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A connection to one address, shared by any number of typed clients. */
export interface Channel {
  /** "host:port", "dns:///name:port" or "unix:/path". */
  readonly address: string;
  readonly options: DialOptions;
  readonly grpc: Client;
  /** Resolves when connected; rejects UNAVAILABLE after `deadlineMs`. */
  ready(deadlineMs: number): Promise<void>;
  /**
   * Gives up the connection; calls under way fail. In a process that is stopping it does nothing: the exit closes it, without
   * the GOAWAY that could kill the other end. Not for a server that lives on and is needed: see `leaving.ts`.
   */
  close(): void;
}

/** Makes a channel. It connects at the first call, and again whenever the connection is lost. */
export function dial(address: string, options: DialOptions = {}): Channel {
  const limit = options.maxMessageBytes ?? MAX_MESSAGE_BYTES;
  const grpc = new Client(address, channelCredentials(options.tls), {
    "grpc.initial_reconnect_backoff_ms": INITIAL_BACKOFF_MS,
    "grpc.max_reconnect_backoff_ms": MAX_BACKOFF_MS,
    "grpc.keepalive_time_ms": options.keepaliveTimeMs ?? KEEPALIVE_TIME_MS,
    "grpc.keepalive_timeout_ms": options.keepaliveTimeoutMs ?? KEEPALIVE_TIMEOUT_MS,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.max_receive_message_length": limit,
    "grpc.max_send_message_length": limit,
    // Daemons talk to each other directly, whatever http_proxy says, and need no DNS text records.
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
    // One connection per channel: closing one never touches another's.
    "grpc.use_local_subchannel_pool": 1,
    ...(options.serverName === undefined ? {} : {
      "grpc.ssl_target_name_override": options.serverName,
      "grpc.default_authority": options.serverName,
    }),
  });
  return {
    address,
    options,
    grpc,
    ready: (deadlineMs) =>
      new Promise((resolve, reject) =>
        grpc.waitForReady(
          Date.now() + deadlineMs,
          (error) =>
            error === undefined
              ? resolve()
              : reject(unavailable("NOT_CONNECTED", `no connection to ${address}`)),
        )
      ),
    close: () => {
      if (!isLeaving()) grpc.close();
    },
  };
}

/** What a method looks like to its caller. */
export type ClientMethod<M extends DescMethod> = M extends DescMethodUnary<infer I, infer O>
  ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
  : M extends DescMethodServerStreaming<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: CallOptions) => AsyncIterableIterator<MessageShape<O>>
  : M extends DescMethodClientStreaming<infer I, infer O>
    ? (requests: AsyncIterable<MessageInitShape<I>>, options?: CallOptions) => Promise<MessageShape<O>>
  : M extends DescMethodBiDiStreaming<infer I, infer O> ? (
      requests: AsyncIterable<MessageInitShape<I>>,
      options?: CallOptions,
    ) => AsyncIterableIterator<MessageShape<O>>
  : never;

/** The methods of a service, by their local names. */
export type ServiceClient<S extends DescService> = {
  readonly [K in keyof S["method"]]: ClientMethod<S["method"][K]>;
};

function callSettings(
  channel: Channel,
  options: CallOptions,
  defaultMs: number,
): { metadata: Metadata; settings: GrpcCallOptions } {
  const metadata = new Metadata({
    waitForReady: options.waitForReady ?? channel.options.waitForReady ?? false,
  });
  for (const [key, value] of Object.entries(options.metadata ?? {})) metadata.set(key, value);
  const trace = currentTrace();
  if (trace !== undefined) metadata.set("traceparent", formatTraceparent(childTrace(trace)));
  const ms = options.deadlineMs ?? defaultMs;
  return { metadata, settings: ms === Infinity ? {} : { deadline: Date.now() + ms } };
}

/** Makes a call; grpc-js throws at once on a channel that was closed. */
function start<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw new ArcusError({
      code: status.UNAVAILABLE,
      reason: "CHANNEL_CLOSED",
      message: "the channel was closed",
      retryable: false,
      cause: error,
    });
  }
}

function cancelled(): ArcusError {
  return new ArcusError({ code: status.CANCELLED, reason: "CANCELLED", message: "cancelled by the caller" });
}

/** Cancels `call` when `signal` aborts, until `done` does. */
function cancelOn(signal: AbortSignal | undefined, call: { cancel(): void }): () => void {
  if (signal === undefined) return () => {};
  const cancel = () => call.cancel();
  if (signal.aborted) cancel();
  else signal.addEventListener("abort", cancel, { once: true });
  return () => signal.removeEventListener("abort", cancel);
}

/** Settles a promise from grpc-js's callback. */
function settle<O>(
  resolve: (value: O) => void,
  reject: (error: unknown) => void,
): (error: ServiceError | null, value?: O) => void {
  return (error, value) => {
    if (error !== null) reject(fromStatus(error, error));
    else if (value === undefined) {
      reject(new ArcusError({ code: status.INTERNAL, reason: "NO_MESSAGE", message: "" }));
    } else resolve(value);
  };
}

function unary<I extends DescMessage, O extends DescMessage>(
  channel: Channel,
  method: DescMethodUnary<I, O>,
) {
  const [path, encode, decode, make] = [
    pathOf(method),
    encoder(method.input),
    decoder(method.output),
    maker(method.input),
  ];
  return (request: MessageInitShape<I>, options: CallOptions = {}): Promise<MessageShape<O>> => {
    if (options.signal?.aborted) return Promise.reject(cancelled());
    const { metadata, settings } = callSettings(
      channel,
      options,
      channel.options.deadlineMs ?? DEFAULT_DEADLINE_MS,
    );
    return new Promise((resolve, reject) => {
      const finish = settle<MessageShape<O>>(resolve, reject);
      const answer = (error: ServiceError | null, value?: MessageShape<O>): void => {
        release();
        finish(error, value);
      };
      const call = start(() =>
        channel.grpc.makeUnaryRequest(path, encode, decode, make(request), metadata, settings, answer)
      );
      const release = cancelOn(options.signal, call);
    });
  };
}

function clientStreaming<I extends DescMessage, O extends DescMessage>(
  channel: Channel,
  method: DescMethodClientStreaming<I, O>,
) {
  const [path, encode, decode, make] = [
    pathOf(method),
    encoder(method.input),
    decoder(method.output),
    maker(method.input),
  ];
  return (
    requests: AsyncIterable<MessageInitShape<I>>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> => {
    if (options.signal?.aborted) return Promise.reject(cancelled());
    const { metadata, settings } = callSettings(
      channel,
      options,
      channel.options.deadlineMs ?? DEFAULT_DEADLINE_MS,
    );
    return new Promise((resolve, reject) => {
      const finish = settle<MessageShape<O>>(resolve, reject);
      const call = channel.grpc.makeClientStreamRequest(
        path,
        encode,
        decode,
        metadata,
        settings,
        (error, value) => {
          release();
          finish(error, value);
        },
      );
      const release = cancelOn(options.signal, call);
      const stream = new ClientCallStream<never, MessageShape<I>>(call, undefined, call);
      pump(requests, stream, make).then((whole) => {
        if (whole) stream.end();
      }, (error) => {
        // The caller's own error is what it gets to see, not the cancellation that follows from it.
        reject(error);
        stream.cancel();
      });
    });
  };
}

function serverStreaming<I extends DescMessage, O extends DescMessage>(
  channel: Channel,
  method: DescMethodServerStreaming<I, O>,
) {
  const [path, encode, decode, make] = [
    pathOf(method),
    encoder(method.input),
    decoder(method.output),
    maker(method.input),
  ];
  return (
    request: MessageInitShape<I>,
    options: CallOptions = {},
  ): AsyncIterableIterator<MessageShape<O>> => {
    const { metadata, settings } = callSettings(channel, options, Infinity);
    const call = channel.grpc.makeServerStreamRequest(
      path,
      encode,
      decode,
      make(request),
      metadata,
      settings,
    );
    const stream = new ClientCallStream<MessageShape<O>, never>(call, call, undefined);
    const release = cancelOn(options.signal, stream);
    stream.signal.addEventListener("abort", release, { once: true });
    return messagesOf(stream, () => stream.cancel());
  };
}

function bidi<I extends DescMessage, O extends DescMessage>(
  channel: Channel,
  method: DescMethodBiDiStreaming<I, O>,
) {
  return (
    requests: AsyncIterable<MessageInitShape<I>>,
    options: CallOptions = {},
  ): AsyncIterableIterator<MessageShape<O>> => {
    const stream = openBidi(channel, method, options);
    const messages = messagesOf(stream, () => stream.cancel());
    let failure: { readonly error: unknown } | undefined;
    pump(requests, stream, (request) => request).then((whole) => {
      if (whole) stream.end();
    }, (error) => {
      failure = { error };
      stream.cancel();
    });
    const iterator: AsyncIterableIterator<MessageShape<O>> = {
      [Symbol.asyncIterator]: () => iterator,
      next: () =>
        messages.next().catch((error) => {
          throw failure === undefined ? error : failure.error;
        }),
      return: () => messages.return?.() ?? Promise.resolve({ done: true, value: undefined }),
    };
    return iterator;
  };
}

/**
 * Opens a bidirectional stream in its callback form. A failure to connect arrives at `onEnd`. Throws UNAVAILABLE `CHANNEL_CLOSED` after
 * `channel.close()`.
 */
export function openBidi<I extends DescMessage, O extends DescMessage>(
  channel: Channel,
  method: DescMethodBiDiStreaming<I, O>,
  options: CallOptions = {},
): BidiStream<MessageShape<O>, MessageInitShape<I>> {
  const { metadata, settings } = callSettings(channel, options, Infinity);
  const make = maker(method.input);
  const encode = encoder(method.input);
  const [path, decode] = [pathOf(method), decoder(method.output)];
  const encodeInit = (init: MessageInitShape<I>) => encode(make(init));
  const call = start(() => channel.grpc.makeBidiStreamRequest(path, encodeInit, decode, metadata, settings));
  const stream = new ClientCallStream<MessageShape<O>, MessageInitShape<I>>(call, call, call);
  const release = cancelOn(options.signal, stream);
  stream.signal.addEventListener("abort", release, { once: true });
  return stream;
}

function bind(channel: Channel, method: DescMethod): unknown {
  if (isUnary(method)) return unary(channel, method);
  if (isClientStreaming(method)) return clientStreaming(channel, method);
  if (isServerStreaming(method)) return serverStreaming(channel, method);
  if (isBidi(method)) return bidi(channel, method);
  throw new Error(`unknown kind of method: ${method.methodKind}`);
}

/** A typed client of `service` on `channel`. Every failure is an `ArcusError`. */
export function client<S extends DescService>(service: S, channel: Channel): ServiceClient<S> {
  const methods = service.methods.map((method) => [method.localName, bind(channel, method)]);
  // The object is built by name from the descriptor that the type is derived from.
  return Object.fromEntries(methods) as ServiceClient<S>;
}
