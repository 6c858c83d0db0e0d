import { HASH_LENGTH } from "./reader.ts";
import type { ErrorMessage, TxAbort, Warning } from "./messages.ts";

/** Longest text that is printed of a peer's data, or sent in ours. */
export const MAX_TEXT_LENGTH = 512;
const FIRST_PRINTABLE = 32;
const LAST_PRINTABLE = 126;

/** The channel id of an error or warning that is for every channel of the connection. A fresh array at every call. */
export function allChannels(): Uint8Array {
  return new Uint8Array(HASH_LENGTH);
}

/** Whether a channel id stands for every channel of the connection. */
export function isAllChannels(channelId: Uint8Array): boolean {
  return channelId.length === HASH_LENGTH && channelId.every((byte) => byte === 0);
}

/**
 * What may be printed of the data of an error, warning or tx_abort: itself if all its bytes are printable ASCII
 * (BOLT 1; otherwise a peer could write escape sequences into logs and terminals), else only how long it is.
 */
export function printableText(data: Uint8Array): string {
  if (!data.every((byte) => byte >= FIRST_PRINTABLE && byte <= LAST_PRINTABLE)) {
    return `<${data.length} bytes that are not printable>`;
  }
  const text = String.fromCharCode(...data.subarray(0, MAX_TEXT_LENGTH));
  return data.length > MAX_TEXT_LENGTH ? `${text}... (${data.length} bytes)` : text;
}

/** A text as data of ours: what is not printable ASCII becomes `?`, what is too long is cut. */
export function textData(text: string): Uint8Array {
  return Uint8Array.from(text.slice(0, MAX_TEXT_LENGTH), (char) => {
    const code = char.charCodeAt(0);
    return code >= FIRST_PRINTABLE && code <= LAST_PRINTABLE ? code : "?".charCodeAt(0);
  });
}

/** An `error` for a channel, or for {@link allChannels}: the receiver fails what it names (BOLT 1). */
export function errorMessage(channelId: Uint8Array, text: string): ErrorMessage {
  return { type: "error", channel_id: channelId, data: textData(text) };
}

/** A `warning` for a channel, or for {@link allChannels}: nothing fails by it (BOLT 1). */
export function warningMessage(channelId: Uint8Array, text: string): Warning {
  return { type: "warning", channel_id: channelId, data: textData(text) };
}

/** A `tx_abort` that says why (BOLT 2). */
export function txAbortMessage(channelId: Uint8Array, text: string): TxAbort {
  return { type: "tx_abort", channel_id: channelId, data: textData(text) };
}
