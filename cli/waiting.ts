/** Shows on the terminal what a long call waits for, and since when. */
import type { Json } from "common/rpc/json_text.ts";
import { isJsonObject } from "common/rpc/json_text.ts";
import { printable } from "./print.ts";

const TICK_MS = 250;
const FRAMES = ["|", "/", "-", "\\"];
/** Keeps the line below 80 columns: one that a terminal breaks could not be written over. */
const MAX_SUBJECT = 24;

/** Where the progress goes. */
export interface Screen {
  readonly isTerminal: boolean;
  write(text: string): void;
}

/** Commands that wait for others, whatever else their descriptors say: what for, and the parameter that says which. */
const AWAITED: Readonly<Record<string, readonly [what: string, parameter?: string]>> = {
  pay: ["the payment to arrive"],
  sendpay: ["the payment to leave"],
  waitsendpay: ["the payment to arrive", "payment_hash"],
  waitinvoice: ["the invoice to be paid", "label"],
  waitanyinvoice: ["the next invoice to be paid"],
  close: ["the peer to close the channel", "id"],
};

/** What a call waits for, for people; undefined for one that answers at once. */
export function awaited(name: string, params: Json, slow: boolean): string | undefined {
  const entry = Object.hasOwn(AWAITED, name) ? AWAITED[name] : undefined;
  if (entry === undefined) return slow ? name : undefined;
  const [what, parameter] = entry;
  const subject = parameter !== undefined && isJsonObject(params) ? params[parameter] : undefined;
  if (typeof subject !== "string") return what;
  const shown = printable(subject);
  return `${what}: ${shown.length > MAX_SUBJECT ? `${shown.slice(0, MAX_SUBJECT)}...` : shown}`;
}

/** Begins to show, on a terminal only; answers the end of it, which leaves a clean line. */
export function showWaiting(what: string, screen: Screen): () => void {
  if (!screen.isTerminal) return () => {};
  const begin = performance.now();
  let frame = 0;
  const timer = setInterval(() => {
    const seconds = Math.floor((performance.now() - begin) / 1_000);
    screen.write(`\r${FRAMES[frame++ % FRAMES.length]} waiting for ${what}, ${seconds} s\x1b[K`);
  }, TICK_MS);
  return () => {
    clearInterval(timer);
    screen.write("\r\x1b[K");
  };
}
