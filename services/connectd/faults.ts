/**
 * Fault injection on decrypted messages, in developer mode only. A machine without I/O: the driver asks it about every
 * message of every connection, both ways.
 *
 * Rules are consumed in order. Only the head of the list is compared, so a test says exactly what happens when, across
 * reconnects; the others wait.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { err, ok, type Result } from "bolt/result.ts";
import { channelIdOf, messageName, type MessageType, messageTypeOf } from "bolt/wire/messages.ts";
import { MAX_FAULT_DELAY, MAX_FAULT_RULES } from "./limits.ts";

/** What happens to a message. */
export type FaultKind =
  /** `-` */
  | "close_before"
  /** `+` */
  | "close_after"
  /** `=` */
  | "nothing"
  /** `$` */
  | "drop"
  /** `x` */
  | "freeze_after"
  /** `0` */
  | "blackhole"
  /** `<` */
  | "close_on_receive"
  | "delay";

/** Which way the message goes: to the peer or from it. */
export type FaultDirection = "out" | "in";

/** One rule. */
export interface FaultRule {
  readonly kind: FaultKind;
  readonly message: MessageType;
  /** Fires on the nth match, from 1. */
  readonly nth: number;
  readonly direction: FaultDirection;
  /** 32 bytes; any channel when absent. */
  readonly channelId: Uint8Array | undefined;
  /** For `delay`, milliseconds. */
  readonly delayMs: number;
}

/** What the driver does with this message. */
export type FaultVerdict = { readonly kind: "pass" } | {
  readonly kind: FaultKind;
  readonly delayMs: number;
};

const PASS: FaultVerdict = { kind: "pass" };

/** The rules, and those that fired. */
export class Faults {
  #pending: FaultRule[] = [];
  #fired: FaultRule[] = [];
  #matches = 0;

  /** Replaces all rules. Fails for a rule that cannot be meant. */
  set(rules: readonly FaultRule[]): Result<void, string> {
    if (rules.length > MAX_FAULT_RULES) return err(`at most ${MAX_FAULT_RULES} rules`);
    for (const rule of rules) {
      if (rule.delayMs > MAX_FAULT_DELAY) return err(`delay_ms: at most ${MAX_FAULT_DELAY}`);
      if (rule.kind === "close_on_receive" && rule.direction !== "in") {
        return err("close on receive is for incoming messages");
      }
    }
    this.#pending = [...rules];
    this.#fired = [];
    this.#matches = 0;
    return ok(undefined);
  }

  /** Rules that are left. */
  get pending(): readonly FaultRule[] {
    return this.#pending;
  }

  /** Rules that fired, oldest first. */
  get fired(): readonly FaultRule[] {
    return this.#fired;
  }

  /** What happens to this message; consumes the rule at the head if it fires. */
  judge(direction: FaultDirection, message: Uint8Array): FaultVerdict {
    const head = this.#pending[0];
    if (head === undefined || head.direction !== direction) return PASS;
    const type = messageTypeOf(message);
    if (type === undefined || messageName(type) !== head.message) return PASS;
    if (head.channelId !== undefined) {
      const found = channelIdOf(message);
      if (found === undefined || bytesToHex(found.channel_id) !== bytesToHex(head.channelId)) return PASS;
    }
    this.#matches++;
    if (this.#matches < head.nth) return PASS;
    this.#matches = 0;
    this.#pending.shift();
    this.#fired.push(head);
    return { kind: head.kind, delayMs: head.delayMs };
  }
}
