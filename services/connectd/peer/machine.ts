/**
 * One connection with a peer as a pure machine: BOLT 8 handshake, `init`, then messages (BOLT 1). Bytes and decrypted
 * messages in, actions out; no socket, no clock of its own, no key of the node.
 *
 * It changes in place, since a transport whose state could be stepped twice would use a nonce twice. Nothing that a peer
 * sends makes it throw.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { type HandshakeState, startInitiator, startResponder, stepHandshake } from "bolt/noise/handshake.ts";
import type { HandshakeAction, HandshakeError, HandshakeResult } from "bolt/noise/handshake.ts";
import { MessageDecryptor, MessageEncryptor } from "bolt/noise/transport.ts";
import { err, ok, type Result, unreachable } from "bolt/result.ts";
import { allChannels, isAllChannels, printableText, warningMessage } from "bolt/wire/error_text.ts";
import { buildInit, checkPeerInit, type InitContent } from "bolt/wire/init.ts";
import {
  channelIdOf,
  decodeMessage,
  encodeMessage,
  isChannelMessage,
  messageId,
  messageName,
  messageTypeOf,
} from "bolt/wire/messages.ts";
import { type Limits, MAX_FEATURES_LENGTH, MAX_PING_PADDING, NO_PONG_FROM } from "../limits.ts";

/** Bytes of a pong besides its padding: type and length. */
const PONG_OVERHEAD = 4;
const INIT = messageId("init");
const ERROR = messageId("error");
const WARNING = messageId("warning");
const PING = messageId("ping");
const PONG = messageId("pong");

/** How far a connection is. */
export type PeerPhase = "handshake" | "init" | "waiting" | "running" | "closed";

/** What the driver does, in order. */
export type PeerAction =
  /** Bytes for the socket as they are (handshake only). */
  | { readonly type: "write"; readonly bytes: Uint8Array }
  /** Ask hsmd, then call `ecdhResult`. */
  | { readonly type: "ecdh"; readonly point: Uint8Array }
  /** A message of connectd's own; goes out before any channel's. */
  | { readonly type: "send"; readonly message: Uint8Array }
  /** Handshake and init are done; call `accept` once lightningd did. */
  | { readonly type: "connected"; readonly peerId: Uint8Array; readonly features: Uint8Array }
  /** A message of one channel. A `soft` one may be dropped when nobody is attached. */
  | {
    readonly type: "frame";
    readonly channelId: Uint8Array;
    readonly messageType: number;
    readonly data: Uint8Array;
    /** Printable text of an error. */
    readonly error: string;
    readonly soft: boolean;
  }
  /** A ping of lightningd's is answered. */
  | { readonly type: "ponged"; readonly requestId: bigint; readonly totalLength: number }
  /** Over: write out what was to be sent before, then close. */
  | { readonly type: "close"; readonly reason: string }
  /** Worth a line in the log. */
  | { readonly type: "log"; readonly text: string };

/** What a machine starts from. */
export interface PeerStart {
  /** Our node id. */
  readonly localStatic: Uint8Array;
  /** 32 fresh random bytes that are a private key. */
  readonly ephemeralSecret: Uint8Array;
  /** What our init says. */
  readonly init: InitContent;
  readonly limits: Pick<Limits, "pingAfterSilence" | "pongTimeout" | "maxPendingPings">;
  /** Monotonic milliseconds. */
  readonly now: number;
}

interface PendingPing {
  /** Undefined for our own probe. */
  readonly requestId: bigint | undefined;
  readonly numPongBytes: number;
}

/** One connection. */
export class PeerMachine {
  #phase: PeerPhase = "handshake";
  #handshake: HandshakeState;
  #encryptor: MessageEncryptor | undefined;
  #decryptor: MessageDecryptor | undefined;
  #remoteStatic: Uint8Array | undefined;
  #lastHeard: number;
  #probeSince: number | undefined;
  #pings: PendingPing[] = [];

  private constructor(private readonly start: PeerStart, handshake: HandshakeState) {
    this.#handshake = handshake;
    this.#lastHeard = start.now;
  }

  /** We call a peer. Fails when the peer's node id is not a point. */
  static call(
    start: PeerStart,
    remoteStatic: Uint8Array,
  ): Result<{ readonly machine: PeerMachine; readonly actions: PeerAction[] }, string> {
    const step = startInitiator({ ...start, remoteStatic });
    if (!step.ok) return err("the node id is not a public key");
    const machine = new PeerMachine(start, step.value.state);
    return ok({ machine, actions: machine.#handshakeActions(step.value.actions) });
  }

  /** A peer calls us. */
  static answer(start: PeerStart): PeerMachine {
    return new PeerMachine(start, startResponder(start).state);
  }

  /** How far it is. */
  get phase(): PeerPhase {
    return this.#phase;
  }

  /** The peer's node id once the handshake proved it. */
  get remoteStatic(): Uint8Array | undefined {
    return this.#remoteStatic;
  }

  /** Bytes from the socket. After the handshake they only wait for `next`. */
  receive(bytes: Uint8Array, now: number): PeerAction[] {
    if (this.#phase === "closed") return [];
    this.#heard(now);
    if (this.#phase === "handshake") return this.#stepHandshake({ type: "bytes", bytes });
    return this.#push(bytes);
  }

  /** hsmd's answer to `ecdh`. */
  ecdhResult(secret: Uint8Array): PeerAction[] {
    if (this.#phase !== "handshake") return [];
    return this.#stepHandshake({ type: "ecdh_result", secret });
  }

  /** The next decrypted message, null when more bytes are needed or nothing may be read now. */
  next(): Result<Uint8Array | null, string> {
    if (this.#decryptor === undefined || this.#phase === "waiting" || this.#phase === "closed") {
      return ok(null);
    }
    const next = this.#decryptor.next();
    if (next.ok) return next;
    this.#phase = "closed";
    return err(`the peer's bytes do not decrypt (${next.error.type})`);
  }

  /** Handles a message that `next` gave (fault injection sits in between). */
  handle(message: Uint8Array): PeerAction[] {
    switch (this.#phase) {
      case "init":
        return this.#handleInit(message);
      case "running":
        return this.#handleMessage(message);
      case "handshake":
      case "waiting":
      case "closed":
        return [];
    }
  }

  /** lightningd accepted the connection: messages may be read. */
  accept(now: number): void {
    if (this.#phase !== "waiting") return;
    this.#phase = "running";
    this.#heard(now);
  }

  /** Nothing more is read or answered. */
  close(): void {
    this.#phase = "closed";
  }

  /** One message as bytes for the socket; write them in this order. Throws before the handshake is done. */
  seal(message: Uint8Array): Uint8Array {
    if (this.#encryptor === undefined) throw new Error("no transport yet");
    const sealed = this.#encryptor.encrypt(message);
    if (!sealed.ok) throw new RangeError(`a message of ${sealed.error.length} bytes`);
    return sealed.value;
  }

  /** A ping of lightningd's. Fails when the connection is not up, the lengths do not fit or too many wait. */
  ping(requestId: bigint, padding: number, numPongBytes: number): Result<PeerAction[], string> {
    if (this.#phase !== "running") return err("not connected");
    if (!Number.isInteger(padding) || padding < 0 || padding > MAX_PING_PADDING) {
      return err(`at most ${MAX_PING_PADDING} bytes of padding`);
    }
    if (!Number.isInteger(numPongBytes) || numPongBytes < 0 || numPongBytes > 0xffff) {
      return err("pong bytes are a u16");
    }
    const send: PeerAction = { type: "send", message: pingMessage(numPongBytes, padding) };
    if (numPongBytes >= NO_PONG_FROM) return ok([send, { type: "ponged", requestId, totalLength: 0 }]);
    if (this.#pings.length >= this.start.limits.maxPendingPings) return err("too many pings under way");
    this.#pings.push({ requestId, numPongBytes });
    return ok([send]);
  }

  /** Pings of lightningd's without an answer; they are forgotten. */
  abandonPings(): bigint[] {
    const ids = this.#pings.flatMap((ping) => ping.requestId === undefined ? [] : [ping.requestId]);
    this.#pings = [];
    return ids;
  }

  /**
   * Looks at the clock: pings a silent peer, and gives one up. While we do not read (`reading` false) its silence is our
   * doing and not judged.
   */
  tick(now: number, reading: boolean): PeerAction[] {
    if (this.#phase !== "running") return [];
    if (!reading) {
      this.#heard(now);
      return [];
    }
    const { pingAfterSilence, pongTimeout } = this.start.limits;
    if (this.#probeSince !== undefined) {
      return now - this.#probeSince < pongTimeout ? [] : this.#close("no answer to our ping");
    }
    if (now - this.#lastHeard < pingAfterSilence) return [];
    this.#probeSince = now;
    this.#pings.push({ requestId: undefined, numPongBytes: 0 });
    return [{ type: "send", message: pingMessage(0, 0) }];
  }

  #heard(now: number): void {
    this.#lastHeard = now;
    this.#probeSince = undefined;
  }

  #close(reason: string): PeerAction[] {
    this.#phase = "closed";
    return [{ type: "close", reason }];
  }

  /** Says why before closing. The text is ours: nothing of the peer's goes back. */
  #warnAndClose(text: string): PeerAction[] {
    const message = encodeMessage(warningMessage(allChannels(), text));
    return [{ type: "send", message }, ...this.#close(text)];
  }

  #stepHandshake(input: Parameters<typeof stepHandshake>[1]): PeerAction[] {
    const step = stepHandshake(this.#handshake, input);
    this.#handshake = step.state;
    return this.#handshakeActions(step.actions);
  }

  #handshakeActions(actions: readonly HandshakeAction[]): PeerAction[] {
    return actions.flatMap((action): PeerAction[] => {
      switch (action.type) {
        case "send":
          return [{ type: "write", bytes: action.bytes }];
        case "ecdh":
          return [action];
        case "done":
          return this.#handshakeDone(action.result);
        case "failed":
          return this.#close(`handshake failed (${handshakeText(action.error)})`);
      }
    });
  }

  #handshakeDone(result: HandshakeResult): PeerAction[] {
    this.#encryptor = new MessageEncryptor(result.sendKey, result.chainingKey);
    this.#decryptor = new MessageDecryptor(result.recvKey, result.chainingKey);
    this.#remoteStatic = result.remoteStatic.slice();
    this.#phase = "init";
    // BOLT 1: init is the first message, and nobody waits for the other's.
    const init = encodeMessage(buildInit(this.start.init));
    return [{ type: "send", message: init }, ...this.#push(result.leftover)];
  }

  #push(bytes: Uint8Array): PeerAction[] {
    const pushed = this.#decryptor?.push(bytes);
    return pushed === undefined || pushed.ok ? [] : this.#close("the peer sent more than is read");
  }

  #handleInit(message: Uint8Array): PeerAction[] {
    if (messageTypeOf(message) !== INIT) {
      const theirs = refusalText(message);
      if (theirs !== undefined) return this.#close(`the peer refused us: ${theirs}`);
      return this.#warnAndClose("the first message must be init");
    }
    const decoded = decodeMessage(message);
    if (!decoded.ok) return this.#warnAndClose(`bad init: ${decoded.error.reason}`);
    if (decoded.value.type !== "init") return this.#warnAndClose("the first message must be init");
    const checked = checkPeerInit(this.start.init, decoded.value);
    if (!checked.ok) return this.#warnAndClose(checked.error.reason);
    const features = checked.value.features.toBytes();
    if (features.length > MAX_FEATURES_LENGTH) return this.#warnAndClose("too many features");
    const peerId = this.#remoteStatic;
    if (peerId === undefined) return this.#close("init before the handshake");
    this.#phase = "waiting";
    return [{ type: "connected", peerId, features }];
  }

  #handleMessage(message: Uint8Array): PeerAction[] {
    const id = messageTypeOf(message);
    if (id === undefined) return this.#warnAndClose("a message without a type");
    if (id === PING) return this.#handlePing(message);
    if (id === PONG) return this.#handlePong(message);
    if (id === ERROR || id === WARNING) return this.#handleText(id, message);
    if (isChannelMessage(id)) return this.#handleChannel(id, message);
    const name = messageName(id);
    if (name !== undefined) {
      // init again says nothing new; gossip, queries and peer storage have no home yet and need no answer.
      return [];
    }
    // BOLT 1: it is ok to be odd; an unknown even type must not be ignored.
    return id % 2 === 1 ? [] : this.#warnAndClose(`unknown message type ${id}`);
  }

  #handleChannel(id: number, message: Uint8Array): PeerAction[] {
    const found = channelIdOf(message);
    if (found === undefined) return this.#warnAndClose(`${messageName(id) ?? id} without a channel id`);
    return [{
      type: "frame",
      channelId: found.channel_id,
      messageType: id,
      data: message,
      error: "",
      soft: false,
    }];
  }

  /** BOLT 1, error and warning: for all channels when the id is zero, else the channel's own matter. */
  #handleText(id: number, message: Uint8Array): PeerAction[] {
    const decoded = decodeMessage(message);
    if (!decoded.ok) return this.#warnAndClose(`bad ${messageName(id)}: ${decoded.error.reason}`);
    const value = decoded.value;
    if (value.type !== "error" && value.type !== "warning") return [];
    const text = printableText(value.data);
    if (isAllChannels(value.channel_id)) {
      if (value.type === "error") return this.#close(`the peer sent an error for all channels: ${text}`);
      return [{ type: "log", text: `the peer warns: ${text}` }];
    }
    const log: PeerAction = {
      type: "log",
      text: `the peer sent ${value.type} for channel ${bytesToHex(value.channel_id)}: ${text}`,
    };
    const soft = value.type === "warning";
    const frame = { channelId: value.channel_id, messageType: id, data: message, error: soft ? "" : text };
    return [log, { type: "frame", ...frame, soft }];
  }

  #handlePing(message: Uint8Array): PeerAction[] {
    const decoded = decodeMessage(message);
    if (!decoded.ok) return this.#warnAndClose(`bad ping: ${decoded.error.reason}`);
    if (decoded.value.type !== "ping") return [];
    const { num_pong_bytes } = decoded.value;
    if (num_pong_bytes >= NO_PONG_FROM) return [];
    return [{
      type: "send",
      message: encodeMessage({ type: "pong", ignored: new Uint8Array(num_pong_bytes) }),
    }];
  }

  #handlePong(message: Uint8Array): PeerAction[] {
    const decoded = decodeMessage(message);
    if (!decoded.ok) return this.#warnAndClose(`bad pong: ${decoded.error.reason}`);
    if (decoded.value.type !== "pong") return [];
    const length = decoded.value.ignored.length;
    const index = this.#pings.findIndex((ping) => ping.numPongBytes === length);
    const ping = index < 0 ? undefined : this.#pings[index];
    if (ping === undefined) return [{ type: "log", text: "a pong that nobody asked for" }];
    this.#pings.splice(index, 1);
    if (ping.requestId === undefined) return [];
    return [{ type: "ponged", requestId: ping.requestId, totalLength: length + PONG_OVERHEAD }];
  }
}

function pingMessage(numPongBytes: number, padding: number): Uint8Array {
  return encodeMessage({ type: "ping", num_pong_bytes: numPongBytes, ignored: new Uint8Array(padding) });
}

/** The text of an error or warning that came instead of init. */
function refusalText(message: Uint8Array): string | undefined {
  const decoded = decodeMessage(message);
  if (!decoded.ok) return undefined;
  const value = decoded.value;
  return value.type === "error" || value.type === "warning" ? printableText(value.data) : undefined;
}

function handshakeText(error: HandshakeError): string {
  switch (error.type) {
    case "ACT1_BAD_VERSION":
    case "ACT2_BAD_VERSION":
    case "ACT3_BAD_VERSION":
      return `${error.type} ${error.version}`;
    case "ACT1_READ_FAILED":
    case "ACT2_READ_FAILED":
    case "ACT3_READ_FAILED":
    case "ACT1_BAD_PUBKEY":
    case "ACT2_BAD_PUBKEY":
    case "ACT3_BAD_PUBKEY":
    case "ACT1_BAD_TAG":
    case "ACT2_BAD_TAG":
    case "ACT3_BAD_TAG":
    case "ACT3_BAD_CIPHERTEXT":
    case "UNEXPECTED_BYTES":
    case "CLOSED":
      return error.type;
    default:
      return unreachable(error);
  }
}
