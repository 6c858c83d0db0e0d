/**
 * BOLT 8, Lightning Message Specification: sealed messages in a byte stream, a key rotation every 500 of them.
 *
 * The two ends of a direction are objects that change in place, unlike the rest of the core: a state that can be kept
 * and stepped twice would use a nonce twice. They do no I/O.
 */
import { counterNonce, hkdf2, NO_AD, open, seal, TAG_LENGTH } from "bolt/crypto/aead.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** Most bytes of a Lightning message. */
export const MAX_MESSAGE_LENGTH = 65_535;
/** Uses of a key, two a message, before it is replaced. */
export const ROTATION_INTERVAL = 1_000;
const LENGTH_BYTES = 2;
/** Bytes of a sealed length. */
export const SEALED_LENGTH_BYTES = LENGTH_BYTES + TAG_LENGTH;
/** Most bytes of one message on the wire. */
export const MAX_FRAME_LENGTH = SEALED_LENGTH_BYTES + MAX_MESSAGE_LENGTH + TAG_LENGTH;
/** Most bytes that a decryptor holds: whoever does not take messages must stop reading the socket. */
export const MAX_BUFFERED = 4 * MAX_FRAME_LENGTH;
/** An emptied buffer up to this size is kept for the next bytes; a bigger one would be a burden of idle peers. */
const KEPT_BUFFER = 4_096;

/** Why a message cannot be sent. */
export type EncryptError = { readonly type: "message_too_long"; readonly length: number };

/** Why a stream is over. `buffer_full` is the caller's doing, the others are the peer's; all are final. */
export type DecryptError =
  | { readonly type: "bad_length_tag" }
  | { readonly type: "bad_message_tag" }
  | { readonly type: "buffer_full"; readonly buffered: number };

/** A key with its counter: every use of a nonce moves it. */
class RotatingKey {
  #key: Uint8Array;
  #chainingKey: Uint8Array;
  #uses = 0;

  constructor(key: Uint8Array, chainingKey: Uint8Array) {
    this.#key = key.slice();
    this.#chainingKey = chainingKey.slice();
  }

  seal(plaintext: Uint8Array): Uint8Array {
    const sealed = seal(this.#key, counterNonce(this.#uses), NO_AD, plaintext);
    this.#used();
    return sealed;
  }

  open(sealed: Uint8Array): Uint8Array | null {
    const plaintext = open(this.#key, counterNonce(this.#uses), NO_AD, sealed);
    this.#used();
    return plaintext;
  }

  /** Uses come in pairs (length, body) and the interval is even, so a rotation falls between messages. */
  #used(): void {
    this.#uses++;
    if (this.#uses < ROTATION_INTERVAL) return;
    const [chainingKey, key] = hkdf2(this.#chainingKey, this.#key);
    this.#chainingKey = chainingKey;
    this.#key = key;
    this.#uses = 0;
  }
}

/** The sending end of a connection. */
export class MessageEncryptor {
  readonly #key: RotatingKey;

  /** From the handshake's `sendKey` and `chainingKey`. */
  constructor(sendKey: Uint8Array, chainingKey: Uint8Array) {
    this.#key = new RotatingKey(sendKey, chainingKey);
  }

  /** The bytes of one message on the wire. A message that is too long changes nothing. Send them in this order. */
  encrypt(message: Uint8Array): Result<Uint8Array, EncryptError> {
    if (message.length > MAX_MESSAGE_LENGTH) {
      return err({ type: "message_too_long", length: message.length });
    }
    const length = new Uint8Array(LENGTH_BYTES);
    new DataView(length.buffer).setUint16(0, message.length);
    const frame = new Uint8Array(SEALED_LENGTH_BYTES + message.length + TAG_LENGTH);
    frame.set(this.#key.seal(length));
    frame.set(this.#key.seal(message), SEALED_LENGTH_BYTES);
    return ok(frame);
  }
}

/**
 * The receiving end: `push` what the socket gave, then take messages with `next` until it gives null. A caller that
 * does not want the next message yet leaves it there and reads no further from the socket.
 */
export class MessageDecryptor {
  readonly #key: RotatingKey;
  #buffer = new Uint8Array(0);
  #start = 0;
  #end = 0;
  /** Length of the message whose body is awaited. */
  #bodyLength: number | null = null;
  #failure: DecryptError | null = null;

  /** From the handshake's `recvKey` and `chainingKey`; push the handshake's `leftover` first. */
  constructor(recvKey: Uint8Array, chainingKey: Uint8Array) {
    this.#key = new RotatingKey(recvKey, chainingKey);
  }

  /** Bytes held that no message has used yet. */
  get buffered(): number {
    return this.#end - this.#start;
  }

  /** Whether the stream may end here: false in the midst of a message. */
  get atBoundary(): boolean {
    return this.buffered === 0 && this.#bodyLength === null;
  }

  /** Takes bytes of the stream, in any pieces; copies them. Fails for good above {@link MAX_BUFFERED}. */
  push(bytes: Uint8Array): Result<void, DecryptError> {
    if (this.#failure !== null) return err(this.#failure);
    const buffered = this.buffered + bytes.length;
    if (buffered > MAX_BUFFERED) return this.#fail({ type: "buffer_full", buffered });
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#end);
    this.#end += bytes.length;
    return ok(undefined);
  }

  /** The next whole message, null if more bytes are needed. A failure is final and given again each time. */
  next(): Result<Uint8Array | null, DecryptError> {
    if (this.#failure !== null) return err(this.#failure);
    if (this.#bodyLength === null) {
      const sealed = this.#take(SEALED_LENGTH_BYTES);
      if (sealed === null) return ok(null);
      const length = this.#key.open(sealed);
      if (length === null) return this.#fail({ type: "bad_length_tag" });
      this.#bodyLength = new DataView(length.buffer, length.byteOffset, LENGTH_BYTES).getUint16(0);
    }
    const sealed = this.#take(this.#bodyLength + TAG_LENGTH);
    if (sealed === null) return ok(null);
    const message = this.#key.open(sealed);
    if (message === null) return this.#fail({ type: "bad_message_tag" });
    this.#bodyLength = null;
    if (this.buffered === 0) this.#release();
    return ok(message);
  }

  #fail(error: DecryptError): { readonly ok: false; readonly error: DecryptError } {
    this.#failure = error;
    this.#release();
    return err(error);
  }

  /** A view of the next bytes, good until the next `push`. */
  #take(length: number): Uint8Array | null {
    if (this.buffered < length) return null;
    const view = this.#buffer.subarray(this.#start, this.#start + length);
    this.#start += length;
    return view;
  }

  #release(): void {
    this.#start = 0;
    this.#end = 0;
    if (this.#buffer.length > KEPT_BUFFER) this.#buffer = new Uint8Array(0);
  }

  /** Makes room behind the held bytes: doubling, so that single bytes from a slow peer cost no square. */
  #reserve(extra: number): void {
    if (this.#end + extra <= this.#buffer.length) return;
    const held = this.#buffer.subarray(this.#start, this.#end);
    const needed = held.length + extra;
    if (needed * 2 <= this.#buffer.length) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
    } else {
      const grown = new Uint8Array(Math.max(needed, held.length * 2));
      grown.set(held);
      this.#buffer = grown;
    }
    this.#start = 0;
    this.#end = held.length;
  }
}
