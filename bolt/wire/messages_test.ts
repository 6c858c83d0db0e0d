import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import layouts from "tests/data/bolt01/message_layouts.json" with { type: "json" };
import extensions from "tests/data/bolt01/message_extension.json" with { type: "json" };
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import fc from "fast-check";
import { arbMessage, arbMessages } from "./arbitraries.ts";
import {
  channelIdOf,
  decodeMessage,
  encodeMessage,
  isChannelMessage,
  MAX_MESSAGE_LENGTH,
  type Message,
  messageId,
  messageName,
  type MessageType,
  messageTypeOf,
} from "./messages.ts";
import { encodeAll, type Writer } from "./writer.ts";

const NAMES: MessageType[] = [];
for (let id = 0; id < 0x1_0000; id++) {
  const name = messageName(id);
  if (name !== undefined) NAMES.push(name);
}

/** The message that bytes are; fails the test when they are none. */
function decoded(bytes: Uint8Array): Message {
  const result = decodeMessage(bytes);
  assert.ok(result.ok && result.value.type !== "unknown");
  return result.value;
}

/** The name of the failure, "ok" or "unknown". */
function outcome(bytes: Uint8Array): string {
  const result = decodeMessage(bytes);
  if (!result.ok) return result.error.type;
  return result.value.type === "unknown" ? "unknown" : "ok";
}

/** Whatever bytes come in: a named failure with a printable reason, or a message with these bytes as its only form. */
function assertSurvives(bytes: Uint8Array): void {
  const result = decodeMessage(bytes);
  if (!result.ok) assert.match(result.error.reason, /^[\x20-\x7e]{1,200}$/);
  else if (result.value.type !== "unknown") assert.deepEqual(encodeMessage(result.value), bytes);
  const channel = channelIdOf(bytes);
  assert.ok(channel === undefined || channel.channel_id.length === 32);
}

Deno.test("BOLT 1 appendix C: the extension of a message", () => {
  for (const { name, hex, fault } of extensions.cases) {
    assert.equal(outcome(hexToBytes(hex)), fault ?? "ok", name);
  }
});

/** Field name and form, as in message_layouts.json. */
type Layout = string | unknown[];

/** A value that only this field has, and its bytes, made from the layout alone. */
function sample(form: Layout, seed: number): { value: unknown; bytes: Uint8Array } {
  const fill = (length: number) => Uint8Array.from({ length }, (_, i) => (seed * 7 + i * 3 + 1) & 0x7f);
  const uint = (length: number) => {
    const bytes = fill(length);
    const value = BigInt(`0x${bytesToHex(bytes)}`);
    return { value: length === 8 ? value : Number(value), bytes };
  };
  const list = (forms: { value: unknown; bytes: Uint8Array }[], head: Uint8Array) => ({
    value: forms.map((f) => f.value),
    bytes: concatBytes(head, ...forms.map((f) => f.bytes)),
  });
  if (typeof form !== "string") {
    const fields = form.slice(1) as [string, string][];
    const item = (i: number) => {
      const samples = fields.map(([, f], j) => sample(f, seed + i * 11 + j));
      return {
        value: Object.fromEntries(fields.map(([name], j) => [name, samples[j]?.value])),
        bytes: concatBytes(...samples.map((s) => s.bytes)),
      };
    };
    return list([item(1), item(2)], new Uint8Array());
  }
  if (form.startsWith("list16 ")) {
    return list([sample(form.slice(7), seed + 1), sample(form.slice(7), seed + 2)], Uint8Array.of(0, 2));
  }
  if (form.startsWith("rest ")) {
    return list([sample(form.slice(5), seed + 1), sample(form.slice(5), seed + 2)], new Uint8Array());
  }
  switch (form) {
    case "u8":
      return uint(1);
    case "u16":
      return uint(2);
    case "u32":
      return uint(4);
    case "u64":
      return uint(8);
    case "s64": {
      const bytes = fill(8);
      bytes[0] = 0xff;
      return { value: BigInt.asIntN(64, BigInt(`0x${bytesToHex(bytes)}`)), bytes };
    }
    case "bigsize":
      return { value: 0x1234n, bytes: hexToBytes("fd1234") };
    case "point": {
      const value = Uint8Array.of(2 + (seed % 2), ...fill(32));
      return { value, bytes: value };
    }
    case "len16": {
      const value = fill(5 + (seed % 7));
      return { value, bytes: concatBytes(Uint8Array.of(0, value.length), value) };
    }
    case "rest": {
      const value = fill(9);
      return { value, bytes: value };
    }
    default: {
      assert.match(form, /^\d+$/);
      const value = fill(Number(form));
      return { value, bytes: value };
    }
  }
}

function bigSize(w: Writer, value: number): void {
  if (value < 0xfd) return w.u8(value);
  w.u8(0xfd);
  w.u16(value);
}

Deno.test("BOLT 1, 2 and 7: every message has its number, its fields in their order, and its TLV records", () => {
  assert.deepEqual(new Set(NAMES), new Set(Object.keys(layouts.messages)));
  for (const [type, layout] of Object.entries(layouts.messages)) {
    let seed = layout.number;
    const expected: Record<string, unknown> = { type };
    const bytes = encodeAll((w) => {
      w.u16(layout.number);
      for (const [name, form] of layout.fields) {
        assert.ok(name !== undefined && form !== undefined);
        const field = sample(form, seed++);
        expected[name] = field.value;
        w.bytes(field.bytes);
      }
      for (const record of layout.tlvs as { name: string; type: number; fields: [string, Layout][] }[]) {
        const samples = record.fields.map(([, form]) => sample(form, seed++));
        expected[record.name] = samples.length === 0
          ? true
          : samples.length === 1
          ? samples[0]?.value
          : Object.fromEntries(record.fields.map(([name], i) => [name, samples[i]?.value]));
        const value = concatBytes(...samples.map((s) => s.bytes));
        bigSize(w, record.type);
        bigSize(w, value.length);
        w.bytes(value);
      }
    });
    const message = decoded(bytes);
    assert.deepEqual(message, expected, type);
    assert.deepEqual(encodeMessage(message), bytes, type);
    assert.equal(messageName(layout.number), type);
    assert.equal(messageId(message.type), layout.number);
  }
});

Deno.test("every message round-trips", () => {
  for (const type of NAMES) {
    const messages: fc.Arbitrary<Message> = arbMessages[type];
    fc.assert(
      fc.property(messages, (message) => {
        const bytes = encodeMessage(message);
        assert.equal(messageTypeOf(bytes), messageId(type));
        assert.deepEqual(decodeMessage(bytes), { ok: true, value: message });
      }),
      { numRuns: 40 },
    );
  }
});

Deno.test("garbage behind every message number is survived", () => {
  for (const type of NAMES) {
    const id = messageId(type);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 500 }), (tail) => {
        assertSurvives(Uint8Array.of(id >> 8, id & 0xff, ...tail));
      }),
      { numRuns: 40 },
    );
  }
});

Deno.test("pure garbage is survived", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), assertSurvives), { numRuns: 500 });
});

Deno.test("every valid message, cut off anywhere, is survived", () => {
  for (const type of NAMES) {
    const messages: fc.Arbitrary<Message> = arbMessages[type];
    const [message] = fc.sample(messages, { numRuns: 1, seed: messageId(type) });
    assert.ok(message !== undefined);
    const bytes = encodeMessage(message);
    for (let length = 0; length < bytes.length; length++) assertSurvives(bytes.subarray(0, length));
  }
});

Deno.test("every valid message with bits flipped is survived", () => {
  fc.assert(
    fc.property(arbMessage, fc.array(fc.nat(), { minLength: 1, maxLength: 3 }), (message, flips) => {
      const bytes = encodeMessage(message);
      for (const flip of flips) {
        const at = 2 + Math.floor(flip / 8) % Math.max(1, bytes.length - 2);
        if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << (flip % 8));
      }
      assertSurvives(bytes);
    }),
    { numRuns: 1500 },
  );
});

Deno.test("an id found without decoding is the one that decoding finds", () => {
  fc.assert(fc.property(arbMessage, (message) => {
    const found = channelIdOf(encodeMessage(message));
    if ("temporary_channel_id" in message) {
      assert.deepEqual(found, { channel_id: message.temporary_channel_id, temporary: true });
    } else if ("channel_id" in message) {
      assert.deepEqual(found, { channel_id: message.channel_id, temporary: false });
    } else {
      assert.equal(found, undefined);
    }
  }));
  const buffer = Buffer.from(encodeMessage({ type: "tx_complete", channel_id: new Uint8Array(32).fill(5) }));
  const found = channelIdOf(buffer);
  buffer.fill(0);
  assert.deepEqual(found?.channel_id, new Uint8Array(32).fill(5));
  assert.equal(channelIdOf(buffer.subarray(0, 33)), undefined);
  assert.equal(channelIdOf(new Uint8Array()), undefined);
});

Deno.test("which messages belong to a channel", () => {
  const none = NAMES.filter((name) => !isChannelMessage(messageId(name)));
  assert.deepEqual(none, [
    "warning",
    "peer_storage",
    "peer_storage_retrieval",
    "init",
    "error",
    "ping",
    "pong",
    "channel_announcement",
    "node_announcement",
    "channel_update",
    "query_short_channel_ids",
    "reply_short_channel_ids_end",
    "query_channel_range",
    "reply_channel_range",
    "gossip_timestamp_filter",
  ]);
  assert.equal(isChannelMessage(32768), false);
});

Deno.test("numbers that nobody knows are handed on with their parity", () => {
  assert.deepEqual(decodeMessage(hexToBytes("8001abcd")), {
    ok: true,
    value: { type: "unknown", id: 0x8001, even: false, payload: hexToBytes("abcd") },
  });
  assert.deepEqual(decodeMessage(hexToBytes("8000")), {
    ok: true,
    value: { type: "unknown", id: 0x8000, even: true, payload: new Uint8Array() },
  });
});

Deno.test("failures name the message and the field", () => {
  assert.deepEqual(decodeMessage(hexToBytes("00")), {
    ok: false,
    error: { type: "truncated", reason: "no message type", message_id: undefined, message_type: undefined },
  });
  assert.deepEqual(decodeMessage(hexToBytes("0046aa")), {
    ok: false,
    error: {
      type: "truncated",
      reason: "tx_complete.channel_id: needs 32 bytes, 1 left",
      message_id: 70,
      message_type: "tx_complete",
    },
  });
});

Deno.test("no message is longer than a frame can be, coming or going", () => {
  const room = MAX_MESSAGE_LENGTH - 4;
  const pong = encodeMessage({ type: "pong", ignored: new Uint8Array(room) });
  assert.equal(pong.length, MAX_MESSAGE_LENGTH);
  assert.equal(outcome(pong), "ok");
  assert.throws(() => encodeMessage({ type: "pong", ignored: new Uint8Array(room + 1) }), RangeError);
  assert.equal(outcome(concatBytes(pong, hexToBytes("00"))), "too_long");
  assert.equal(outcome(concatBytes(hexToBytes("8001"), new Uint8Array(70_000))), "too_long");
});

Deno.test("BOLT 2, tx_add_input: a previous transaction of the greatest length still fits, one more byte does not", () => {
  const input = (length: number) =>
    encodeMessage({
      type: "tx_add_input",
      channel_id: new Uint8Array(32),
      serial_id: 0n,
      prevtx: new Uint8Array(length),
      prevtx_vout: 0,
      sequence: 0,
    });
  const overhead = 2 + 32 + 8 + 2 + 4 + 4;
  assert.equal(input(MAX_MESSAGE_LENGTH - overhead).length, MAX_MESSAGE_LENGTH);
  assert.throws(() => input(MAX_MESSAGE_LENGTH - overhead + 1), RangeError);
});

Deno.test("a count that the message cannot hold is refused at once", () => {
  const head = encodeMessage({
    type: "commitment_signed",
    channel_id: new Uint8Array(32),
    signature: new Uint8Array(64),
    htlc_signature: [],
  });
  head.set([0xff, 0xff], head.length - 2);
  const result = decodeMessage(head);
  assert.deepEqual(
    result.ok ? "ok" : result.error.reason,
    "commitment_signed.htlc_signature: 65535 items in 0 bytes",
  );
  const witnesses = encodeMessage({
    type: "tx_signatures",
    channel_id: new Uint8Array(32),
    txid: new Uint8Array(32),
    witnesses: [],
  });
  witnesses.set([0xff, 0xff], witnesses.length - 2);
  assert.equal(outcome(witnesses), "truncated");
});

Deno.test("BOLT 2, channel_reestablish: the old 32-byte next_funding and the old record 0 are refused", () => {
  const plain = encodeMessage({
    type: "channel_reestablish",
    channel_id: new Uint8Array(32),
    next_commitment_number: 1n,
    next_revocation_number: 0n,
    your_last_per_commitment_secret: new Uint8Array(32),
    my_current_per_commitment_point: Uint8Array.of(2, ...new Uint8Array(32)),
  });
  assert.equal(outcome(plain), "ok");
  assert.equal(outcome(concatBytes(plain, hexToBytes("0120"), new Uint8Array(32))), "truncated");
  assert.equal(outcome(concatBytes(plain, hexToBytes("0121"), new Uint8Array(33))), "ok");
  assert.equal(outcome(concatBytes(plain, hexToBytes("0122"), new Uint8Array(34))), "trailing_bytes");
  assert.equal(outcome(concatBytes(plain, hexToBytes("0020"), new Uint8Array(32))), "tlv_unknown_even");
});

Deno.test("an empty record must be empty, and absent is not false", () => {
  const ack = encodeMessage({ type: "tx_ack_rbf", channel_id: new Uint8Array(32) });
  assert.equal("require_confirmed_inputs" in decoded(ack), false);
  assert.equal(outcome(concatBytes(ack, hexToBytes("0200"))), "ok");
  assert.equal(outcome(concatBytes(ack, hexToBytes("020100"))), "trailing_bytes");
});

Deno.test("a key that is not 02 or 03 is refused, coming and going", () => {
  const ready = encodeMessage({
    type: "channel_ready",
    channel_id: new Uint8Array(32),
    second_per_commitment_point: Uint8Array.of(3, ...new Uint8Array(32)),
  });
  assert.equal(outcome(ready), "ok");
  for (const first of [0, 1, 4, 5, 0xff]) {
    ready[34] = first;
    assert.equal(outcome(ready), "bad_value");
    const point = Uint8Array.of(first, ...new Uint8Array(32));
    assert.throws(
      () =>
        encodeMessage({
          type: "channel_ready",
          channel_id: new Uint8Array(32),
          second_per_commitment_point: point,
        }),
      {
        name: "RangeError",
        message: "second_per_commitment_point: not a compressed public key",
      },
    );
  }
});

Deno.test("what we send must fit: lengths, ranges, records by name", () => {
  const channel_id = new Uint8Array(32);
  const refused: Message[] = [
    { type: "tx_complete", channel_id: new Uint8Array(31) },
    { type: "tx_remove_input", channel_id, serial_id: -1n },
    { type: "tx_remove_input", channel_id, serial_id: 1n << 64n },
    { type: "update_fee", channel_id, feerate_per_kw: 2 ** 32 },
    { type: "tx_ack_rbf", channel_id, funding_output_contribution: 1n << 63n },
    { type: "tx_complete", channel_id, unknown_tlvs: [{ type: 2n, value: new Uint8Array() }] },
  ];
  for (const message of refused) assert.throws(() => encodeMessage(message), RangeError);
});
