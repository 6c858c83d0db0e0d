/** Small messages that tests of connectd send, and how such a test is registered. */
import { encodeMessage } from "bolt/wire/messages.ts";

/** A test; grpc-js keeps timers and sockets of its own for a while after the last client closed. */
export function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `connectd: ${name}`, fn, sanitizeOps: false, sanitizeResources: false });
}

/** A channel id. */
export function id(byte: number): Uint8Array {
  return new Uint8Array(32).fill(byte);
}

/** tx_complete of a channel. */
export function complete(channelId: Uint8Array): Uint8Array {
  return encodeMessage({ type: "tx_complete", channel_id: channelId });
}

/** tx_abort with a text: a message that a test can tell from others. */
export function abort(channelId: Uint8Array, text: string): Uint8Array {
  return encodeMessage({ type: "tx_abort", channel_id: channelId, data: new TextEncoder().encode(text) });
}

/** A tx_abort of about this many bytes. */
export function big(channelId: Uint8Array, bytes: number, mark = 0): Uint8Array {
  return encodeMessage({ type: "tx_abort", channel_id: channelId, data: new Uint8Array(bytes).fill(mark) });
}

/** The text of a tx_abort. */
export function textOf(message: Uint8Array): string {
  return new TextDecoder().decode(message.subarray(36));
}
