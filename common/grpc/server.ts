/**
 * Typed services over grpc-js, with health, reflection, error mapping and a drain that never sends GOAWAY.
 *
 * A server that shuts down gracefully sends GOAWAY, and that kills clients on this runtime (a native abort inside HTTP/2, after a
 * garbage collection). So nothing here calls tryShutdown, forceShutdown or unbind in a process whose clients live on: `drain`, then
 * the caller exits the process.
 */
import type { Buffer } from "node:buffer";
import { chmod, unlink } from "node:fs/promises";
import { connect } from "node:net";
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
  Metadata,
  type MethodDefinition,
  type sendUnaryData,
  Server,
  type ServerDuplexStream,
  type ServerReadableStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  status,
  type StatusObject,
  type UntypedHandleCall,
} from "@grpc/grpc-js";
import { HealthImplementation } from "grpc-health-check";
import { ArcusError, invalidArgument, toStatus, unavailable } from "common/grpc/errors.ts";
import { guardServer } from "common/grpc/goaway.ts";
import { decoder, encoder, maker, pathOf } from "common/grpc/method.ts";
import { addReflection } from "common/grpc/reflection.ts";
import { type BidiStream, messagesOf, pump, ServerCallStream } from "common/grpc/stream.ts";
import { serverCredentials, type TlsFiles } from "common/grpc/tls.ts";
import {
  childTrace,
  formatTraceparent,
  newTrace,
  parseTraceparent,
  runWithTrace,
  type Trace,
} from "common/trace.ts";

/** Largest message in either direction, bytes. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;
/** How long calls under way may take once draining has begun. */
export const DEFAULT_DRAIN_MS = 10_000;
/** After the last answer was written, until it may be taken to have left the process. */
const FLUSH_MS = 50;
/** How long another process may take to answer on a unix socket before it counts as dead. */
const PROBE_MS = 1_000;

/** What a handler knows of its call. */
export interface CallContext {
  /** Aborted when the call is over: answered, cancelled, past its deadline, or its connection lost. */
  readonly signal: AbortSignal;
  /** Aborted when this server drains: long-lived streams should end soon. */
  readonly draining: AbortSignal;
  /** When the caller stops waiting. */
  readonly deadline: Date | undefined;
  readonly metadata: Metadata;
  /** The caller's address; "unknown" on a unix socket. */
  readonly peer: string;
  /** The common name in the caller's certificate; undefined without TLS. */
  readonly identity: string | undefined;
  /** The trace that this call belongs to. */
  readonly traceparent: string;
  /** "/package.Service/Method". */
  readonly method: string;
}

/** A bidirectional handler in its callback form, for hot paths. It must register its listeners before it returns. */
export interface RawBidi<Received, Sent> {
  readonly open: (stream: BidiStream<Received, Sent>, context: CallContext) => void;
}

/** What a method looks like to its implementer. */
export type ServerMethod<M extends DescMethod> = M extends DescMethodUnary<infer I, infer O>
  ? (request: MessageShape<I>, context: CallContext) => Promise<MessageInitShape<O>> | MessageInitShape<O>
  : M extends DescMethodServerStreaming<infer I, infer O>
    ? (request: MessageShape<I>, context: CallContext) => AsyncIterable<MessageInitShape<O>>
  : M extends DescMethodClientStreaming<infer I, infer O>
    ? (requests: AsyncIterable<MessageShape<I>>, context: CallContext) => Promise<MessageInitShape<O>>
  : M extends DescMethodBiDiStreaming<infer I, infer O> ?
      | ((
        requests: AsyncIterable<MessageShape<I>>,
        context: CallContext,
      ) => AsyncIterable<MessageInitShape<O>>)
      | RawBidi<MessageShape<I>, MessageInitShape<O>>
  : never;

/** The methods of a service, by their local names. One that is left out answers UNIMPLEMENTED. */
export type Implementation<S extends DescService> = {
  readonly [K in keyof S["method"]]?: ServerMethod<S["method"][K]>;
};

/** A service with its code; made by `implement`. */
export interface ImplementedService {
  readonly service: DescService;
  readonly methods: Readonly<Record<string, unknown>>;
}

/** Binds code to a generated service. Handlers throw `ArcusError`s; anything else is logged and answered INTERNAL. */
export function implement<S extends DescService>(service: S, methods: Implementation<S>): ImplementedService {
  return { service, methods };
}

/** The two lines of a logger that the adapter uses. */
export interface ServerLog {
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

/** Settings of a server. */
export interface ServerOptions {
  readonly services: readonly ImplementedService[];
  readonly log: ServerLog;
  readonly tls?: TlsFiles;
  readonly maxMessageBytes?: number;
}

/** A running server. */
export interface ArcusServer {
  /**
   * Binds "host:port" (port 0: any) or "unix:/path" and answers the actual address. A socket file that a dead process left is
   * replaced, one that somebody answers on is refused. May be called for several addresses.
   */
  listen(address: string): Promise<string>;
  /** Sets health of every service; SERVING from the first `listen`. */
  setServing(serving: boolean): void;
  /** Aborted when draining begins. */
  readonly draining: AbortSignal;
  /** Calls under way, health and reflection not counted. */
  readonly inFlight: number;
  /**
   * Health NOT_SERVING, new calls UNAVAILABLE "draining", waits for calls under way at most `graceMs`, then for the last bytes to
   * leave. Answers whether every call ended. The caller then exits the process.
   */
  drain(graceMs?: number): Promise<boolean>;
  /**
   * Closes sockets and sessions. Only in a test, after every client of this server is closed: it sends GOAWAY.
   */
  closeAfterClients(): void;
}

/** The calls of a server, and whether it takes more. */
class Calls {
  readonly draining = new AbortController();
  #count = 0;
  #idle: (() => void) | undefined;

  constructor(readonly log: ServerLog) {}

  get count(): number {
    return this.#count;
  }

  begin(): void {
    this.#count++;
  }

  end(): void {
    this.#count--;
    if (this.#count === 0) this.#idle?.();
  }

  /** Resolves true when no call is under way, false after `ms`. */
  idle(ms: number): Promise<boolean> {
    if (this.#count === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), ms);
      this.#idle = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }

  /** The status of an error; one that nobody named is logged, since the caller learns nothing of it. */
  statusOf(error: unknown, method: string): StatusObject {
    if (!(error instanceof ArcusError)) this.log.error({ err: error, method }, "handler failed");
    else if (error.code === status.INTERNAL) {
      this.log.error({ err: error, method }, "handler failed: internal");
    }
    return toStatus(error);
  }
}

type AnyCall =
  & {
    readonly metadata: Metadata;
    getDeadline(): Date | number;
    getPeer(): string;
    getAuthContext(): { sslPeerCertificate?: { subject?: { CN?: string | string[] } } };
    on(event: "cancelled", listener: () => void): unknown;
  }
  & object;

function identityOf(call: AnyCall): string | undefined {
  const name = call.getAuthContext().sslPeerCertificate?.subject?.CN;
  return typeof name === "string" ? name : undefined;
}

function traceOf(metadata: Metadata): Trace {
  const text = metadata.get("traceparent")[0];
  const trace = typeof text === "string" ? parseTraceparent(text) : undefined;
  return trace === undefined ? newTrace() : childTrace(trace);
}

function contextOf(
  call: AnyCall,
  calls: Calls,
  signal: AbortSignal,
  trace: Trace,
  method: string,
): CallContext {
  const deadline = call.getDeadline();
  return {
    signal,
    draining: calls.draining.signal,
    deadline: Number(deadline) === Infinity ? undefined : new Date(deadline),
    metadata: call.metadata,
    peer: call.getPeer(),
    identity: identityOf(call),
    traceparent: formatTraceparent(trace),
    method,
  };
}

const DRAINING = () => unavailable("DRAINING", "draining");

/** Counts the call, or refuses it while draining: false means refused. */
function admit(calls: Calls, refuse: (state: StatusObject) => void): boolean {
  if (calls.draining.signal.aborted) {
    refuse(toStatus(DRAINING()));
    return false;
  }
  calls.begin();
  return true;
}

function signalOf(call: AnyCall): AbortSignal {
  const controller = new AbortController();
  call.on("cancelled", () => controller.abort());
  return controller.signal;
}

/** Runs once the call is over in both directions. */
function whenOver(signal: AbortSignal, work: () => void): void {
  if (signal.aborted) work();
  else signal.addEventListener("abort", work, { once: true });
}

type In = MessageShape<DescMessage>;
type Out = MessageShape<DescMessage>;
type OutInit = MessageInitShape<DescMessage>;
type Code<I, R> = (request: I, context: CallContext) => R;

/** JSON-RPC's and CLN's "invalid params". */
const INVALID_PARAMS = -32602;

/** Stands for a unary request whose bytes are no message, until the call can be refused: grpc-js itself would say INTERNAL. */
class Undecodable {}

/** A decoder that never throws. */
function tolerant(decode: (bytes: Buffer) => In): (bytes: Buffer) => In {
  return (bytes) => {
    try {
      return decode(bytes);
    } catch {
      // `decoded` takes it out again before anything looks at it.
      return new Undecodable() as unknown as In;
    }
  };
}

function decoded(request: In): In {
  if (!(request instanceof Undecodable)) return request;
  throw invalidArgument("UNDECODABLE_REQUEST", "the bytes are no message of this method", {
    clnCode: INVALID_PARAMS,
  });
}

function handleUnary(method: DescMethod, code: Code<In, OutInit | Promise<OutInit>>, calls: Calls) {
  const [path, make] = [pathOf(method), maker(method.output)];
  return (call: ServerUnaryCall<In, Out>, answer: sendUnaryData<Out>): void => {
    if (!admit(calls, answer)) return;
    const trace = traceOf(call.metadata);
    const context = contextOf(call, calls, signalOf(call), trace, path);
    runWithTrace(trace, async () => code(decoded(call.request), context))
      .then((value) => answer(null, make(value)))
      .catch((error) => answer(calls.statusOf(error, path)))
      .finally(() => calls.end());
  };
}

function handleClientStream(
  method: DescMethod,
  code: Code<AsyncIterable<In>, Promise<OutInit>>,
  calls: Calls,
) {
  const [path, make] = [pathOf(method), maker(method.output)];
  return (call: ServerReadableStream<In, Out>, answer: sendUnaryData<Out>): void => {
    if (!admit(calls, answer)) return;
    const trace = traceOf(call.metadata);
    const stream = new ServerCallStream<In, never>(call, call, undefined, toStatus);
    const context = contextOf(call, calls, stream.signal, trace, path);
    runWithTrace(trace, async () => code(messagesOf(stream), context))
      .then((value) => answer(null, make(value)))
      .catch((error) => answer(calls.statusOf(error, path)))
      .finally(() => calls.end());
  };
}

function handleServerStream(method: DescMethod, code: Code<In, AsyncIterable<OutInit>>, calls: Calls) {
  const [path, make] = [pathOf(method), maker(method.output)];
  return (call: ServerWritableStream<In, Out>): void => {
    if (!admit(calls, (state) => call.emit("error", state))) return;
    const trace = traceOf(call.metadata);
    const stream = new ServerCallStream<never, Out>(
      call,
      undefined,
      call,
      (error) => calls.statusOf(error, path),
    );
    const context = contextOf(call, calls, stream.signal, trace, path);
    runWithTrace(trace, async () => pump(code(call.request, context), stream, make))
      .then(() => stream.end(), (error) => stream.end(error))
      .finally(() => whenOver(stream.signal, () => calls.end()));
  };
}

function handleBidi(
  method: DescMethod,
  code: Code<AsyncIterable<In>, AsyncIterable<OutInit>> | RawBidi<In, OutInit>,
  calls: Calls,
) {
  const path = pathOf(method);
  return (call: ServerDuplexStream<In, OutInit>): void => {
    if (!admit(calls, (state) => call.emit("error", state))) return;
    const trace = traceOf(call.metadata);
    const stream = new ServerCallStream<In, OutInit>(
      call,
      call,
      call,
      (error) => calls.statusOf(error, path),
    );
    const context = contextOf(call, calls, stream.signal, trace, path);
    runWithTrace(trace, async () => {
      // The caller learns that the call was taken before there is a message.
      call.sendMetadata(new Metadata());
      if (typeof code !== "function") return code.open(stream, context);
      await pump(code(messagesOf(stream), context), stream, (init) => init);
      stream.end();
    })
      .catch((error) => stream.end(error))
      .finally(() => whenOver(stream.signal, () => calls.end()));
  };
}

function handlerOf(method: DescMethod, code: unknown, calls: Calls): UntypedHandleCall {
  // `Implementation` ties the code's type to the method's kind; here only the kind is left.
  switch (method.methodKind) {
    case "unary":
      return handleUnary(method, code as Parameters<typeof handleUnary>[1], calls);
    case "client_streaming":
      return handleClientStream(method, code as Parameters<typeof handleClientStream>[1], calls);
    case "server_streaming":
      return handleServerStream(method, code as Parameters<typeof handleServerStream>[1], calls);
    case "bidi_streaming":
      return handleBidi(method, code as Parameters<typeof handleBidi>[1], calls);
  }
}

function addService(server: Server, { service, methods }: ImplementedService, calls: Calls): void {
  const definition: Record<string, MethodDefinition<Out, In>> = {};
  const handlers: Record<string, UntypedHandleCall> = {};
  for (const method of service.methods) {
    const make = maker(method.output);
    const encodeOut = encoder(method.output);
    const encodeResponse = (init: Out) => {
      try {
        return encodeOut(make(init));
      } catch (error) {
        // grpc-js answers INTERNAL by itself, and tells nobody why.
        calls.log.error({ err: error, method: pathOf(method) }, "a response cannot be encoded");
        throw error;
      }
    };
    definition[method.localName] = {
      path: pathOf(method),
      requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
      responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
      requestSerialize: encoder(method.input),
      requestDeserialize: method.methodKind === "unary"
        ? tolerant(decoder(method.input))
        : decoder(method.input),
      responseSerialize: encodeResponse,
      responseDeserialize: decoder(method.output),
    };
    const code = methods[method.localName];
    if (code !== undefined) handlers[method.localName] = handlerOf(method, code, calls);
  }
  server.addService(definition, handlers);
}

/** Whether somebody answers on a unix socket. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const settle = (alive: boolean) => {
      socket.destroy();
      resolve(alive);
    };
    socket.setTimeout(PROBE_MS, () => settle(true));
    socket.once("connect", () => settle(true));
    socket.once("error", () => settle(false));
  });
}

function bind(server: Server, address: string, tls: TlsFiles | undefined): Promise<number> {
  return new Promise((resolve, reject) =>
    server.bindAsync(
      address,
      serverCredentials(tls),
      (error, port) => error === null ? resolve(port) : reject(error),
    )
  );
}

/** Makes a server; it answers from `listen` on. */
export function createServer(options: ServerOptions): ArcusServer {
  const limit = options.maxMessageBytes ?? MAX_MESSAGE_BYTES;
  const server = new Server({
    "grpc.max_receive_message_length": limit,
    "grpc.max_send_message_length": limit,
  });
  guardServer(server);
  const calls = new Calls(options.log);
  const services = options.services.map((implemented) => implemented.service);
  for (const implemented of options.services) addService(server, implemented, calls);
  const health = new HealthImplementation();
  health.addToServer(server);
  addReflection(server, services);

  const setServing = (serving: boolean): void => {
    for (const name of ["", ...services.map((service) => service.typeName)]) {
      health.setStatus(name, serving ? "SERVING" : "NOT_SERVING");
    }
  };
  setServing(false);

  return {
    draining: calls.draining.signal,
    get inFlight() {
      return calls.count;
    },
    setServing,
    async listen(address) {
      const path = address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
      if (path !== undefined) {
        if (await answers(path)) throw new Error(`${address}: somebody is serving there`);
        await unlink(path).catch(() => {});
      }
      const port = await bind(server, address, options.tls);
      if (path !== undefined) await chmod(path, 0o600);
      setServing(true);
      return path === undefined ? address.replace(/:\d+$/, `:${port}`) : address;
    },
    async drain(graceMs = DEFAULT_DRAIN_MS) {
      setServing(false);
      calls.draining.abort();
      const idle = await calls.idle(graceMs);
      await new Promise((resolve) => setTimeout(resolve, FLUSH_MS));
      return idle;
    },
    closeAfterClients: () => server.forceShutdown(),
  };
}
