import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import {
  MAX_BUFFERED,
  MAX_FRAME_LENGTH,
  MAX_MESSAGE_LENGTH,
  MessageDecryptor,
  MessageEncryptor,
  SEALED_LENGTH_BYTES,
} from "bolt/noise/transport.ts";
import vectors from "tests/data/bolt08/transport.json" with { type: "json" };

const CHAINING_KEY = hexToBytes(vectors.messages.chaining_key);
const KEY = hexToBytes(vectors.messages.send_key);
const PLAINTEXT = hexToBytes(vectors.messages.plaintext);

function encrypted(sender: MessageEncryptor, message: Uint8Array): Uint8Array {
  const frame = sender.encrypt(message);
  assert.ok(frame.ok);
  return frame.value;
}

/** Every message that is complete; fails the test if the stream failed. */
function drain(receiver: MessageDecryptor): Uint8Array[] {
  const messages: Uint8Array[] = [];
  for (;;) {
    const next = receiver.next();
    assert.ok(next.ok, "the stream failed");
    if (next.value === null) return messages;
    messages.push(next.value);
  }
}

Deno.test("BOLT 8: messages 0, 1, 500, 501, 1000, 1001, and the other end reads them all", () => {
  const expected = new Map(Object.entries(vectors.messages.ciphertext_by_index));
  const sender = new MessageEncryptor(KEY, CHAINING_KEY);
  const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
  let compared = 0;
  for (let i = 0; i < vectors.messages.count; i++) {
    const frame = encrypted(sender, PLAINTEXT);
    const wanted = expected.get(String(i));
    if (wanted !== undefined) {
      assert.equal(bytesToHex(frame), wanted, `message ${i}`);
      compared++;
    }
    assert.ok(receiver.push(frame).ok);
    assert.deepEqual(drain(receiver), [PLAINTEXT]);
  }
  assert.equal(compared, 6);
});

const messageLists = fc.array(fc.uint8Array({ maxLength: 400 }), { minLength: 1, maxLength: 40 });
const pieces = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 50 });

Deno.test("messages come out whole and in order, however the stream is cut", () => {
  fc.assert(fc.property(messageLists, pieces, fc.boolean(), (messages, sizes, lazy) => {
    const sender = new MessageEncryptor(KEY, CHAINING_KEY);
    const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
    const stream = concatBytes(...messages.map((message) => encrypted(sender, message)));
    const out: Uint8Array[] = [];
    for (let at = 0, turn = 0; at < stream.length; turn++) {
      const size = sizes[turn % sizes.length] ?? 1;
      const piece = stream.slice(at, at + size);
      assert.ok(receiver.push(piece).ok);
      piece.fill(0xee);
      if (!lazy) out.push(...drain(receiver));
      at += size;
    }
    out.push(...drain(receiver));
    assert.deepEqual(out, messages);
    assert.equal(receiver.atBoundary, true);
    assert.equal(receiver.buffered, 0);
  }));
});

Deno.test("a flipped bit gives no message from there on, for good", () => {
  fc.assert(fc.property(messageLists, fc.nat(), (messages, position) => {
    const sender = new MessageEncryptor(KEY, CHAINING_KEY);
    const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
    const frames = messages.map((message) => encrypted(sender, message));
    const stream = concatBytes(...frames);
    const bit = position % (stream.length * 8);
    stream[bit >> 3] = (stream[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    let at = 0;
    let intact = 0;
    for (const frame of frames) {
      if (at + frame.length > bit >> 3) break;
      at += frame.length;
      intact++;
    }
    const type = (bit >> 3) - at < SEALED_LENGTH_BYTES ? "bad_length_tag" : "bad_message_tag";
    assert.ok(receiver.push(stream).ok);
    for (const message of messages.slice(0, intact)) {
      assert.deepEqual(receiver.next(), { ok: true, value: message });
    }
    const failure = { ok: false, error: { type } };
    assert.deepEqual(receiver.next(), failure);
    assert.deepEqual(receiver.next(), failure);
    assert.deepEqual(receiver.push(encrypted(sender, PLAINTEXT)), failure);
  }));
});

Deno.test("a frame that is repeated, skipped or from the other direction is refused", () => {
  const sender = new MessageEncryptor(KEY, CHAINING_KEY);
  const [first, second] = [encrypted(sender, PLAINTEXT), encrypted(sender, PLAINTEXT)];
  const streams = [concatBytes(first, first), second];
  for (const stream of streams) {
    const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
    assert.ok(receiver.push(stream).ok);
    if (stream !== second) assert.deepEqual(receiver.next(), { ok: true, value: PLAINTEXT });
    assert.deepEqual(receiver.next(), { ok: false, error: { type: "bad_length_tag" } });
  }
  const other = new MessageDecryptor(hexToBytes(vectors.messages.receive_key), CHAINING_KEY);
  assert.ok(other.push(first).ok);
  assert.deepEqual(other.next(), { ok: false, error: { type: "bad_length_tag" } });
});

Deno.test("the longest message passes, a longer one is refused and uses no nonce", () => {
  const sender = new MessageEncryptor(KEY, CHAINING_KEY);
  const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
  assert.deepEqual(sender.encrypt(new Uint8Array(MAX_MESSAGE_LENGTH + 1)), {
    ok: false,
    error: { type: "message_too_long", length: MAX_MESSAGE_LENGTH + 1 },
  });
  const longest = new Uint8Array(MAX_MESSAGE_LENGTH).fill(7);
  const frame = encrypted(sender, longest);
  assert.equal(frame.length, MAX_FRAME_LENGTH);
  assert.ok(receiver.push(frame).ok);
  assert.deepEqual(drain(receiver), [longest]);
  assert.ok(receiver.push(encrypted(sender, new Uint8Array(0))).ok);
  assert.deepEqual(drain(receiver), [new Uint8Array(0)]);
});

Deno.test("who never takes a message is stopped at the buffer's limit", () => {
  const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
  assert.ok(receiver.push(new Uint8Array(MAX_BUFFERED)).ok);
  const failure = { ok: false, error: { type: "buffer_full", buffered: MAX_BUFFERED + 1 } };
  assert.deepEqual(receiver.push(new Uint8Array(1)), failure);
  assert.deepEqual(receiver.next(), failure);
});

Deno.test("the end of the stream in the midst of a message can be told", () => {
  const sender = new MessageEncryptor(KEY, CHAINING_KEY);
  const frame = encrypted(sender, PLAINTEXT);
  const receiver = new MessageDecryptor(KEY, CHAINING_KEY);
  assert.equal(receiver.atBoundary, true);
  receiver.push(frame.subarray(0, SEALED_LENGTH_BYTES));
  assert.deepEqual(receiver.next(), { ok: true, value: null });
  assert.equal(receiver.atBoundary, false, "the length is read, the body is missing");
  receiver.push(frame.subarray(SEALED_LENGTH_BYTES));
  assert.deepEqual(drain(receiver), [PLAINTEXT]);
  assert.equal(receiver.atBoundary, true);
});

Deno.test("frames are those of an independent ChaCha20-Poly1305", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 2000 }), (message) => {
    const frame = encrypted(new MessageEncryptor(KEY, CHAINING_KEY), message);
    const nonce = new Uint8Array(12);
    const length = chacha20poly1305(KEY, nonce).decrypt(frame.subarray(0, SEALED_LENGTH_BYTES));
    assert.equal((length[0] ?? 0) * 256 + (length[1] ?? 0), message.length);
    nonce[4] = 1;
    assert.deepEqual(chacha20poly1305(KEY, nonce).decrypt(frame.subarray(SEALED_LENGTH_BYTES)), message);
  }));
});
