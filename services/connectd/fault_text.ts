/** Fault rules as Core Lightning's `dev-disconnect` files write them: a code, a message, and `*N` for the nth match. */
import { err, ok, type Result } from "bolt/result.ts";
import { messageId, messageName, type MessageType } from "bolt/wire/messages.ts";
import type { FaultKind, FaultRule } from "./faults.ts";

const CODES: ReadonlyMap<string, FaultKind> = new Map<string, FaultKind>([
  ["-", "close_before"],
  ["+", "close_after"],
  ["=", "nothing"],
  ["$", "drop"],
  ["x", "freeze_after"],
  ["0", "blackhole"],
  ["<", "close_on_receive"],
]);
const LINE = /^([-+=$x0<])([A-Za-z0-9_]+?)(?:\*([1-9][0-9]{0,5}))?$/;
const PREFIX = /^WIRE_/i;
/** Names that Core Lightning kept from before BOLT renamed them. */
const OLD_NAMES: ReadonlyMap<string, MessageType> = new Map<string, MessageType>([
  ["funding_locked", "channel_ready"],
  ["init_rbf", "tx_init_rbf"],
  ["ack_rbf", "tx_ack_rbf"],
]);

/** BOLT's name of a message, from `tx_signatures`, `WIRE_TX_SIGNATURES` or `TX_SIGNATURES`. */
export function faultMessageName(text: string): MessageType | undefined {
  const name = text.replace(PREFIX, "").toLowerCase();
  const renamed = OLD_NAMES.get(name);
  if (renamed !== undefined) return renamed;
  try {
    // Every known name has a number whose name it is.
    return messageName(messageId(name as MessageType));
  } catch {
    return undefined;
  }
}

/** One line, such as `-WIRE_TX_SIGNATURES*2` or `<init`. */
export function parseFaultLine(line: string): Result<FaultRule, string> {
  const match = LINE.exec(line.trim());
  const [, code, name, nth] = match ?? [];
  const kind = code === undefined ? undefined : CODES.get(code);
  if (kind === undefined || name === undefined) return err(`not a fault rule: ${line}`);
  const message = faultMessageName(name);
  if (message === undefined) return err(`no such message: ${name}`);
  return ok({
    kind,
    message,
    nth: nth === undefined ? 1 : Number(nth),
    direction: kind === "close_on_receive" ? "in" : "out",
    channelId: undefined,
    delayMs: 0,
  });
}

/** A whole file; empty lines and lines that start with `#` are skipped. */
export function parseFaultText(text: string): Result<FaultRule[], string> {
  const rules: FaultRule[] = [];
  for (const line of text.split("\n")) {
    if (line.trim() === "" || line.trim().startsWith("#")) continue;
    const rule = parseFaultLine(line);
    if (!rule.ok) return rule;
    rules.push(rule.value);
  }
  return ok(rules);
}
