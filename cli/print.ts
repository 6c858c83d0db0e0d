/** Answers as text. */
import { formatMsat } from "common/rpc/amount.ts";
import { formatJson, isJsonObject, type Json, type JsonObject } from "common/rpc/json_text.ts";
import type { Style } from "./arguments.ts";
import { qrCode } from "./qr.ts";

/** As lightning-cli. */
const INDENT = 3;
const MSAT = /_msat$/;

/** Text of others on a terminal: nothing in it may steer the terminal. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}]/gu, "?");
}

/** A table with a heading; columns as wide as their longest cell. */
export function table(heading: readonly string[], cells: readonly (readonly string[])[]): string {
  const safe = [heading, ...cells.map((row) => row.map(printable))];
  const widths = heading.map((_, column) => Math.max(...safe.map((row) => row[column]?.length ?? 0)));
  return safe.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd())
    .join("\n");
}

function text(value: Json | undefined): string {
  if (value === undefined || value === null) return "-";
  return typeof value === "object" ? formatJson(value) : String(value);
}

function amount(value: Json | undefined): string {
  return typeof value === "number" || typeof value === "bigint" ? formatMsat(BigInt(value)) : "-";
}

function objects(value: Json | undefined): JsonObject[] {
  return Array.isArray(value) ? value.filter((item: Json) => isJsonObject(item)) : [];
}

function sum(rows: readonly JsonObject[], name: string): bigint {
  return rows.reduce((total, row) => {
    const value = row[name];
    return typeof value === "number" || typeof value === "bigint" ? total + BigInt(value) : total;
  }, 0n);
}

function count(number: number, thing: string): string {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}

function peersTable(answer: JsonObject): string {
  const peers = objects(answer.peers);
  const rows = peers.map((peer) => [
    text(peer.id),
    peer.connected === true ? "yes" : "no",
    text(peer.num_channels),
    Array.isArray(peer.netaddr) ? peer.netaddr.join(" ") : "-",
  ]);
  return `${table(["PEER", "CONNECTED", "CHANNELS", "ADDRESS"], rows)}\n${count(peers.length, "peer")}`;
}

function fundsTable(answer: JsonObject): string {
  const outputs = objects(answer.outputs);
  const channels = objects(answer.channels);
  const coins = outputs.map((output) => [
    `${text(output.txid)}:${text(output.output)}`,
    amount(output.amount_msat),
    text(output.status),
    output.reserved === true
      ? `yes${output.reserved_to_block === undefined ? "" : ` (to ${text(output.reserved_to_block)})`}`
      : "no",
    text(output.address),
  ]);
  const inChannels = channels.map((channel) => [
    text(channel.peer_id),
    text(channel.state),
    text(channel.short_channel_id),
    amount(channel.our_amount_msat),
    amount(channel.amount_msat),
  ]);
  return [
    table(["OUTPUT", "AMOUNT", "STATUS", "RESERVED", "ADDRESS"], coins),
    `${count(outputs.length, "output")}, ${formatMsat(sum(outputs, "amount_msat"))}`,
    ...(channels.length === 0 ? [] : [
      "",
      table(["PEER", "STATE", "SHORT ID", "OURS", "OF"], inChannels),
      `${count(channels.length, "channel")}, ours ${formatMsat(sum(channels, "our_amount_msat"))}`,
    ]),
  ].join("\n");
}

function channelsTable(answer: JsonObject): string {
  const channels = objects(answer.channels);
  const rows = channels.flatMap((channel) => {
    const head = [
      text(channel.channel_id),
      text(channel.state),
      channel.peer_connected === true ? "yes" : "no",
      text(channel.short_channel_id),
      amount(channel.to_us_msat),
      amount(channel.total_msat),
      channel.funding_txid === undefined
        ? "-"
        : `${text(channel.funding_txid)}:${text(channel.funding_outnum)}`,
    ];
    const attempts = objects(channel.inflight).map((attempt, index) => [
      `  attempt ${index + 1}`,
      "",
      "",
      text(attempt.feerate),
      amount(attempt.our_funding_msat),
      amount(attempt.total_funding_msat),
      `${text(attempt.funding_txid)}:${text(attempt.funding_outnum)}`,
    ]);
    return [head, ...attempts];
  });
  const heading = ["CHANNEL", "STATE", "CONNECTED", "SHORT ID", "OURS", "OF", "FUNDING"];
  return `${table(heading, rows)}\n${count(channels.length, "channel")}`;
}

/** The invoice as a text to copy, and for a terminal as a QR code to scan; upper case needs fewer dots (BOLT 11). */
function invoiceForm(answer: JsonObject, columns: number | null): string {
  const { bolt11, payment_secret: _, expires_at, ...rest } = answer;
  const expires = typeof expires_at === "number" ? { expires_at: utc(expires_at) } : {};
  if (typeof bolt11 !== "string") return lines(answer);
  const parts = [lines({ ...rest, ...expires }), printable(bolt11)];
  if (columns !== null) parts.push(qrCode(bolt11.toUpperCase(), columns));
  return parts.join("\n\n");
}

/** Answers that have a form for people. `columns`: the width of the terminal that it is for, or null. */
const FORMS: Readonly<Record<string, (answer: JsonObject, columns: number | null) => string>> = {
  listpeers: peersTable,
  listfunds: fundsTable,
  listpeerchannels: channelsTable,
  invoice: invoiceForm,
};

/** Every value with its path: "outputs[0].txid=...". */
export function flat(value: Json, path = ""): string[] {
  if (Array.isArray(value)) return value.flatMap((item: Json, index) => flat(item, `${path}[${index}]`));
  if (isJsonObject(value)) {
    return Object.entries(value).flatMap(([name, item]) =>
      flat(item, path === "" ? name : `${path}.${name}`)
    );
  }
  return [`${path}=${typeof value === "string" ? printable(value) : text(value)}`];
}

function lines(answer: JsonObject): string {
  const entries = Object.entries(answer);
  const width = Math.max(0, ...entries.map(([name]) => name.length));
  return entries.map(([name, value]) => {
    const shown = MSAT.test(name)
      ? amount(value)
      : typeof value === "string"
      ? printable(value)
      : text(value);
    return `${name.padEnd(width)}  ${shown}`;
  }).join("\n");
}

/** Seconds since 1970 as a date; the number itself if no date is so far away. */
function utc(seconds: number): string {
  const date = new Date(seconds * 1_000);
  return Number.isNaN(date.getTime()) ? String(seconds) : date.toISOString().replace(".000", "");
}

/**
 * The answer of a command. `auto`: its form for people if it has one and somebody looks at a terminal, else JSON.
 * `columns`: the width of that terminal, or null if nobody looks.
 */
export function formatAnswer(command: string, answer: Json, style: Style, columns: number | null): string {
  const form = FORMS[command];
  switch (style) {
    case "auto":
      return columns !== null && form !== undefined && isJsonObject(answer)
        ? form(answer, columns)
        : formatJson(answer, INDENT);
    case "human":
      if (!isJsonObject(answer)) return text(answer);
      return form === undefined ? lines(answer) : form(answer, columns);
    case "flat":
      return flat(answer).join("\n");
    case "json":
      return formatJson(answer, INDENT);
    case "raw":
      return formatJson(answer);
  }
}
