/**
 * A Lightning peer that does exactly what a test says: BOLT 8 with a key of its own, then messages or any bytes, and
 * nothing by itself but answering pings. For peers that break the rules.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import {
  type HandshakeAction,
  type HandshakeResult,
  type HandshakeState,
  startInitiator,
  startResponder,
  stepHandshake,
} from "bolt/noise/handshake.ts";
import { MessageDecryptor, MessageEncryptor } from "bolt/noise/transport.ts";
import { Features, nodeFeatures } from "bolt/wire/features.ts";
import { buildInit } from "bolt/wire/init.ts";
import {
  decodeMessage,
  encodeMessage,
  type Init,
  type Message,
  messageName,
  type MessageOf,
  type MessageType,
  messageTypeOf,
} from "bolt/wire/messages.ts";

/** How long a message is waited for. */
export const RAW_PEER_DEADLINE_MS = 10_000;
const READ_BYTES = 65_536;

/** How a peer presents itself. */
export interface RawPeerOptions {
  /** Its node key; random if not given. */
  readonly secret?: Uint8Array;
  /** Its init message, or false to send none by itself. Default: our own node's features, for any chain. */
  readonly init?: Init | false;
  /** Whether to wait for the other's init. Default true. */
  readonly awaitInit?: boolean;
  /** Whether to answer pings. Default true. */
  readonly pong?: boolean;
  readonly deadlineMs?: number;
}

/** One connection as seen by the scripted peer. */
export class RawPeer {
  /** This peer's node id. */
  readonly nodeId: Uint8Array;
  /** The other's init, once it came. */
  init: Init | undefined;
  readonly #encryptor: MessageEncryptor;
  readonly #decryptor: MessageDecryptor;
  readonly #queue: Uint8Array[] = [];
  #ended: string | undefined;
  #marks = 0;
  #wake: () => void = () => {};
  #paused: Promise<void> | undefined;
  #resume: () => void = () => {};
  #reading: Promise<void>;
  #writing: Promise<void> = Promise.resolve();

  private constructor(
    readonly conn: Deno.TcpConn,
    readonly secret: Uint8Array,
    shaken: HandshakeResult,
    private readonly options: RawPeerOptions,
  ) {
    this.nodeId = ecc().pointFromSecret(secret);
    this.#encryptor = new MessageEncryptor(shaken.sendKey, shaken.chainingKey);
    this.#decryptor = new MessageDecryptor(shaken.recvKey, shaken.chainingKey);
    this.#decryptor.push(shaken.leftover);
    this.#reading = this.#readLoop();
  }

  /** Calls a node at "host:port" or "[v6]:port". */
  static async connect(
    address: string,
    remoteId: Uint8Array,
    options: RawPeerOptions = {},
  ): Promise<RawPeer> {
    const secret = options.secret ?? randomSecret();
    const conn = await dialAddress(address);
    const started = startInitiator({
      localStatic: ecc().pointFromSecret(secret),
      remoteStatic: remoteId,
      ephemeralSecret: randomSecret(),
    });
    if (!started.ok) throw new Error(started.error.type);
    return await RawPeer.#shake(conn, secret, started.value, options);
  }

  /** Answers a node that called. */
  static async answer(
    conn: Deno.TcpConn,
    options: RawPeerOptions & { readonly secret: Uint8Array },
  ): Promise<RawPeer> {
    const localStatic = ecc().pointFromSecret(options.secret);
    const step = startResponder({ localStatic, ephemeralSecret: randomSecret() });
    return await RawPeer.#shake(conn, options.secret, step, options);
  }

  static async #shake(
    conn: Deno.TcpConn,
    secret: Uint8Array,
    first: { readonly state: HandshakeState; readonly actions: readonly HandshakeAction[] },
    options: RawPeerOptions,
  ): Promise<RawPeer> {
    try {
      conn.setNoDelay(true);
      const shaken = await within(handshake(conn, secret, first), options.deadlineMs, "the handshake");
      const peer = new RawPeer(conn, secret, shaken, options);
      if (options.init !== false) await peer.send(options.init ?? defaultInit());
      if (options.awaitInit !== false) peer.init = await peer.expect("init");
      return peer;
    } catch (error) {
      closeQuietly(conn);
      throw error;
    }
  }

  /** Whether the other side has closed. */
  get ended(): boolean {
    return this.#ended !== undefined;
  }

  /** Messages that came and that nobody asked for yet. */
  get unread(): readonly Uint8Array[] {
    return this.#queue;
  }

  /** Sends a message. */
  send(message: Message): Promise<void> {
    return this.sendBytes(encodeMessage(message));
  }

  /** Sends any bytes as one message. */
  sendBytes(message: Uint8Array): Promise<void> {
    const sealed = this.#encryptor.encrypt(message);
    if (!sealed.ok) throw new RangeError(sealed.error.type);
    return this.sendRaw(sealed.value);
  }

  /** Sends bytes as they are, past the transport: from here on the other side cannot decrypt. */
  sendRaw(bytes: Uint8Array): Promise<void> {
    this.#writing = this.#writing.then(async () => {
      for (let rest = bytes; rest.length > 0;) rest = rest.subarray(await this.conn.write(rest));
    });
    return this.#writing;
  }

  /** The next message of any kind, as bytes. Rejects when the connection ends first. */
  next(deadlineMs = this.#deadline): Promise<Uint8Array> {
    return within(this.#next(), deadlineMs, "a message");
  }

  /** The next message of this type; others that come before it are skipped, unless they are an error or warning. */
  expect<T extends MessageType>(type: T, deadlineMs = this.#deadline): Promise<MessageOf<T>> {
    return within(this.#expect(type, false), deadlineMs, type);
  }

  /** The next message of this type, whatever comes before it. */
  skipTo<T extends MessageType>(type: T, deadlineMs = this.#deadline): Promise<MessageOf<T>> {
    return within(this.#expect(type, true), deadlineMs, type);
  }

  /** What came before the answer to a ping of ours: proves that nothing else did, without waiting for time to pass. */
  async beforePong(deadlineMs = this.#deadline): Promise<Uint8Array[]> {
    // A length that no other ping of a test asks for.
    const mark = 1_000 + this.#marks++;
    await this.send({ type: "ping", num_pong_bytes: mark, ignored: new Uint8Array() });
    const before: Uint8Array[] = [];
    const collect = async () => {
      for (;;) {
        const bytes = await this.#next();
        const decoded = decodeMessage(bytes);
        const pong = decoded.ok && decoded.value.type === "pong" ? decoded.value : undefined;
        if (pong?.ignored.length === mark) return before;
        before.push(bytes);
      }
    };
    return await within(collect(), deadlineMs, "a pong");
  }

  /** Resolves with the reason when the connection has ended; what came before stays readable. */
  async closed(deadlineMs = this.#deadline): Promise<string> {
    await within(this.#reading, deadlineMs, "the end of the connection");
    return this.#ended ?? "";
  }

  /** Stops reading the socket: the other side's writes will stall. */
  pauseReading(): void {
    this.#paused ??= new Promise((resolve) => this.#resume = resolve);
  }

  /** Reads on. */
  resumeReading(): void {
    this.#paused = undefined;
    this.#resume();
  }

  /** Closes at once. */
  async close(): Promise<void> {
    closeQuietly(this.conn);
    this.resumeReading();
    await this.#reading;
    await this.#writing.catch(() => {});
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  get #deadline(): number {
    return this.options.deadlineMs ?? RAW_PEER_DEADLINE_MS;
  }

  async #next(): Promise<Uint8Array> {
    for (;;) {
      const message = this.#queue.shift();
      if (message !== undefined) return message;
      if (this.#ended !== undefined) throw new Error(`the connection ended: ${this.#ended}`);
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  async #expect<T extends MessageType>(type: T, skipAll: boolean): Promise<MessageOf<T>> {
    for (;;) {
      const bytes = await this.#next();
      const decoded = decodeMessage(bytes);
      const name = messageName(messageTypeOf(bytes) ?? -1) ?? String(messageTypeOf(bytes));
      if (!decoded.ok) throw new Error(`${name} does not decode: ${decoded.error.reason}`);
      // The name was compared, so this is the type of T.
      if (decoded.value.type === type) return decoded.value as MessageOf<T>;
      if (!skipAll && (decoded.value.type === "error" || decoded.value.type === "warning")) {
        const text = new TextDecoder().decode(decoded.value.data);
        throw new Error(`${decoded.value.type} instead of ${type}: ${text}`);
      }
    }
  }

  async #readLoop(): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    try {
      this.#takeMessages();
      for (;;) {
        await this.#paused;
        const count = await this.conn.read(buffer);
        if (count === null) {
          this.#ended ??= this.#decryptor.atBoundary ? "closed" : "closed in the midst of a message";
          break;
        }
        const pushed = this.#decryptor.push(buffer.subarray(0, count));
        if (!pushed.ok) throw new Error(pushed.error.type);
        this.#takeMessages();
      }
    } catch (error) {
      this.#ended ??= error instanceof Error ? error.message : String(error);
    }
    this.#wake();
  }

  #takeMessages(): void {
    for (;;) {
      const next = this.#decryptor.next();
      if (!next.ok) throw new Error(next.error.type);
      if (next.value === null) return;
      if (!this.#answerPing(next.value)) this.#queue.push(next.value);
      this.#wake();
    }
  }

  #answerPing(bytes: Uint8Array): boolean {
    if (this.options.pong === false) return false;
    const decoded = decodeMessage(bytes);
    if (!decoded.ok || decoded.value.type !== "ping") return false;
    const { num_pong_bytes } = decoded.value;
    if (num_pong_bytes < 65_532) {
      this.send({ type: "pong", ignored: new Uint8Array(num_pong_bytes) }).catch(() => {});
    }
    return true;
  }
}

/** Listens for one node that calls a scripted peer. */
export class RawListener {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  /** The key behind {@link nodeId}. */
  readonly secret: Uint8Array;

  constructor(secret: Uint8Array = randomSecret()) {
    this.secret = secret;
  }

  /** Node id to call. */
  get nodeId(): Uint8Array {
    return ecc().pointFromSecret(this.secret);
  }

  /** "127.0.0.1:port". */
  get address(): string {
    return `127.0.0.1:${this.#listener.addr.port}`;
  }

  /** The next caller, after handshake and init. */
  async accept(options: RawPeerOptions = {}): Promise<RawPeer> {
    return await RawPeer.answer(await this.acceptRaw(options.deadlineMs), {
      ...options,
      secret: this.secret,
    });
  }

  /** The next caller's bare socket. */
  acceptRaw(deadlineMs?: number): Promise<Deno.TcpConn> {
    return within(this.#listener.accept(), deadlineMs, "a caller");
  }

  /** Stops listening. */
  close(): void {
    this.#listener.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** 32 bytes that are a private key. */
export function randomSecret(): Uint8Array {
  for (;;) {
    const secret = crypto.getRandomValues(new Uint8Array(32));
    if (ecc().isPrivate(secret)) return secret;
  }
}

/** The init of a node like ours; `networks` left out: any chain. */
export function defaultInit(features: Features = nodeFeatures()): Init {
  const { networks: _, ...init } = buildInit({ features, chains: [] });
  return init;
}

/** Opens a bare socket to "host:port" or "[v6]:port". */
export function dialAddress(address: string): Promise<Deno.TcpConn> {
  const colon = address.lastIndexOf(":");
  const hostname = address.slice(0, colon).replace(/^\[|\]$/g, "");
  return Deno.connect({ hostname, port: Number(address.slice(colon + 1)) });
}

async function handshake(
  conn: Deno.TcpConn,
  secret: Uint8Array,
  first: { readonly state: HandshakeState; readonly actions: readonly HandshakeAction[] },
): Promise<HandshakeResult> {
  let { state } = first;
  const todo = [...first.actions];
  const buffer = new Uint8Array(READ_BYTES);
  for (;;) {
    for (let action = todo.shift(); action !== undefined; action = todo.shift()) {
      switch (action.type) {
        case "send":
          for (let rest = action.bytes; rest.length > 0;) rest = rest.subarray(await conn.write(rest));
          break;
        case "ecdh": {
          const shared = ecc().ecdh(secret, action.point);
          if (shared === null) throw new Error(`no point: ${bytesToHex(action.point)}`);
          const step = stepHandshake(state, { type: "ecdh_result", secret: shared });
          state = step.state;
          todo.push(...step.actions);
          break;
        }
        case "done":
          return action.result;
        case "failed":
          throw new Error(`handshake: ${action.error.type}`);
      }
    }
    const count = await conn.read(buffer);
    const step = stepHandshake(
      state,
      count === null ? { type: "end" } : { type: "bytes", bytes: buffer.slice(0, count) },
    );
    state = step.state;
    todo.push(...step.actions);
  }
}

async function within<T>(work: Promise<T>, ms = RAW_PEER_DEADLINE_MS, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function closeQuietly(conn: Deno.TcpConn): void {
  try {
    conn.close();
  } catch {
    // Closed already.
  }
}
