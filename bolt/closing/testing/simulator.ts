/**
 * Two nodes that close a channel, in one process: pure machines, rows that survive crashes, a pipe that loses what is on
 * its way. Every step can be cut short between any two actions, as kill -9 does.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { parseDerWithSighash } from "bolt/crypto/der.ts";
import type { PerSide } from "bolt/interactive/types.ts";
import { fundingScript, p2wpkh } from "bolt/tx/scripts.ts";
import { witnessV0Sighash } from "bolt/tx/sighash.ts";
import { txidToDisplay } from "bolt/tx/transaction.ts";
import { feerate, msat, type Sat, sat } from "bolt/units.ts";
import { decodeMessage, encodeMessage, type Message } from "bolt/wire/messages.ts";
import type { ClosingAction, ClosingInput, ClosingStep } from "../actions.ts";
import type { ClosingRates } from "../fees.ts";
import { fromRows, planFor, step } from "../machine.ts";
import type { ClosingChannel, ClosingForms, ClosingMachine, SignedClose } from "../types.ts";

/** Which node. alice opened. */
export type Name = "alice" | "bob";
/** Both. */
export const NAMES: readonly Name[] = ["alice", "bob"];

/** A secret of a test, by name. */
export function secretOf(name: string): Uint8Array {
  return sha256(utf8ToBytes(name));
}

/** A public key of a test, by name. */
export function pointOf(name: string): Uint8Array {
  return ecc().pointFromSecret(secretOf(name));
}

/** What a world differs in. */
export interface WorldOptions {
  readonly toAlice?: bigint;
  readonly toBob?: bigint;
  readonly dust?: Readonly<Record<Name, bigint>>;
  readonly rates?: Readonly<Record<Name, ClosingRates>>;
  readonly scripts?: Readonly<Record<Name, Uint8Array>>;
  readonly forms?: ClosingForms;
}

/** Rates of a test. */
export function rates(min: number, ideal: number, max: number): ClosingRates {
  return { min: feerate(min), ideal: feerate(ideal), max: feerate(max) };
}

/** One node: what is in memory may vanish, `rows` stay. */
export interface Node {
  readonly name: Name;
  rows: ClosingChannel;
  /** CLOSINGD_COMPLETE. */
  readonly signed: SignedClose[];
  machine: ClosingMachine | null;
  readonly sent: string[];
  /** Everything that was said, in words. */
  readonly log: string[];
  rates: ClosingRates;
}

const OTHER: Readonly<Record<Name, Name>> = { alice: "bob", bob: "alice" };
const FUNDING = { txid: sha256(utf8ToBytes("funding")), vout: 1 };

/** Two nodes and what is between them. */
export class World {
  readonly nodes: Readonly<Record<Name, Node>>;
  readonly pipe: Record<Name, Uint8Array[]> = { alice: [], bob: [] };
  connected = false;
  readonly forms: ClosingForms;
  /** Actions until the next crash; undefined: none. */
  crashIn: { readonly name: Name; actions: number } | undefined;
  /** Each message before it enters the pipe. */
  onSend: (from: Name, message: Message) => Message = (_from, message) => message;

  constructor(options: WorldOptions = {}) {
    const { toAlice = 600_000_500n, toBob = 400_000_499n } = options;
    const capacity = sat((toAlice + toBob + 999n) / 1000n);
    this.forms = options.forms ?? { anysegwit: true, simpleClose: false };
    const make = (name: Name): Node => {
      const other = OTHER[name];
      const sides = <T>(of: (who: Name) => T): PerSide<T> => ({ local: of(name), remote: of(other) });
      const scripts = options.scripts ??
        { alice: p2wpkh(pointOf("to alice")), bob: p2wpkh(pointOf("to bob")) };
      return {
        name,
        rows: {
          channelId: sha256(utf8ToBytes("channel")),
          opener: name === "alice" ? "local" : "remote",
          funding: FUNDING,
          capacity,
          fundingPubkeys: sides((who) => pointOf(`funding ${who}`)),
          localNumber: 7n,
          remoteNumber: 7n,
          toLocal: msat(name === "alice" ? toAlice : toBob),
          toRemote: msat(name === "alice" ? toBob : toAlice),
          dustLimits: sides((who) => sat(options.dust?.[who] ?? 546n)),
          localCurrentPoint: pointOf(`${name} 7`),
          localNextPoint: pointOf(`${name} 8`),
          localAlias: 1n,
          lastRemoteSecret: secretOf(`${other} 6`),
          shutdownSent: scripts[name],
          shutdownReceived: scripts[other],
          remoteUpfrontShutdownScript: null,
          signed: [],
          errorText: null,
        },
        signed: [],
        machine: null,
        sent: [],
        log: [],
        rates: options.rates?.[name] ?? rates(253, 1000, 4000),
      };
    };
    this.nodes = { alice: make("alice"), bob: make("bob") };
  }

  #plan(node: Node) {
    return planFor(node.rows, this.forms, node.rates);
  }

  /** An owner from its rows. */
  load(node: Node): void {
    node.machine = fromRows(node.rows, this.forms, this.#plan(node));
  }

  /** The shutdown was agreed on this very connection: both closingds take over. */
  takeOver(): void {
    this.connected = true;
    for (const name of NAMES) {
      this.load(this.nodes[name]);
      this.feed(name, { type: "taken_over", plan: this.#plan(this.nodes[name]), lost: false });
    }
  }

  /** A new connection: who is not complete calls its owner. */
  connect(): void {
    if (this.connected) return;
    this.connected = true;
    for (const name of NAMES) if (this.nodes[name].signed.length === 0) this.#own(name);
  }

  #own(name: Name): void {
    const node = this.nodes[name];
    if (node.rows.errorText !== null) return;
    this.load(node);
    this.feed(name, { type: "connected", plan: this.#plan(node) });
  }

  /** Whatever was on its way is lost. */
  disconnect(): void {
    if (!this.connected) return;
    this.connected = false;
    for (const name of NAMES) {
      this.pipe[name].length = 0;
      if (this.nodes[name].machine !== null) this.feed(name, { type: "disconnected" });
      this.nodes[name].machine = null;
    }
  }

  /** kill -9. */
  crash(name: Name): void {
    this.nodes[name].machine = null;
    this.disconnect();
  }

  /** Gives one message to a node; false: none is there. */
  deliver(name: Name): boolean {
    const bytes = this.pipe[name].shift();
    if (bytes === undefined) return false;
    const decoded = decodeMessage(bytes);
    assert(decoded.ok && decoded.value.type !== "unknown");
    const message = decoded.value;
    const node = this.nodes[name];
    if (node.machine === null) {
      // Only a peer that does not know of the close begins again: its channel gets an owner.
      if (message.type !== "channel_reestablish" || node.rows.errorText !== null) return true;
      this.#own(name);
    }
    this.feed(name, { type: "message", message });
    return true;
  }

  /** Until nobody says anything more. */
  settle(): void {
    while (this.deliver("alice") || this.deliver("bob"));
  }

  /** Feeds an input, and carries out what follows. */
  feed(name: Name, input: ClosingInput): void {
    const node = this.nodes[name];
    if (node.machine === null) return;
    this.#perform(node, step(node.machine, input));
  }

  #perform(node: Node, { state, actions }: ClosingStep): void {
    node.machine = state;
    for (const action of actions) {
      if (this.crashIn?.name === node.name && this.crashIn.actions-- === 0) {
        this.crashIn = undefined;
        return this.crash(node.name);
      }
      this.#carryOut(node, action);
      if (node.machine === null) return;
    }
  }

  #carryOut(node: Node, action: ClosingAction): void {
    switch (action.type) {
      case "store":
        if (action.step.type === "fail_channel") {
          node.rows = { ...node.rows, errorText: action.step.errorText };
          return;
        }
        if (action.step.type === "save_remote_script") {
          node.rows = { ...node.rows, shutdownReceived: action.step.script };
          return;
        }
        node.rows = {
          ...node.rows,
          signed: [...node.rows.signed, action.step.close],
          shutdownReceived: action.step.remoteScript ?? node.rows.shutdownReceived,
        };
        node.signed.push(action.step.close);
        return;
      case "send": {
        const message = this.onSend(node.name, action.message);
        node.sent.push(message.type);
        if (this.connected) this.pipe[OTHER[node.name]].push(encodeMessage(message));
        return;
      }
      case "sign":
        return this.#sign(node, action);
      case "repeat_revocation":
        return this.feed(node.name, {
          type: "revocation",
          secret: secretOf(`${node.name} ${node.rows.localNumber - 1n}`),
          nextPoint: pointOf(`${node.name} ${node.rows.localNumber + 1n}`),
        });
      case "check_secret": {
        const ours = ecc().isPrivate(action.secret) &&
          sha256(action.secret).join() === sha256(secretOf(`${node.name} ${action.number}`)).join();
        return this.feed(node.name, { type: "secret_checked", ours });
      }
      case "hang_up":
        node.log.push(action.reason);
        return this.disconnect();
      case "log":
        node.log.push(action.text);
        return;
      case "end":
        node.log.push(action.reason);
        node.machine = null;
        return;
    }
  }

  #sign(node: Node, { tx, theirs }: ClosingAction & { readonly type: "sign" }): void {
    const { rows } = node;
    const script = fundingScript(rows.fundingPubkeys.local, rows.fundingPubkeys.remote);
    const hash = witnessV0Sighash(Transaction.fromBuffer(tx), 0, script, rows.capacity);
    if (theirs !== null && !ecc().verifyEcdsa(hash, theirs, rows.fundingPubkeys.remote)) {
      return this.feed(node.name, { type: "refused", reason: "BAD_SIGNATURE" });
    }
    this.feed(node.name, {
      type: "signed",
      signature: ecc().signEcdsa(hash, secretOf(`funding ${node.name}`)),
    });
  }
}

/** Asserts that a close is exact and spendable: version 2, both signatures good and low, amounts that add up. */
export function assertValidClose(rows: ClosingChannel, close: SignedClose): Transaction {
  const tx = Transaction.fromBuffer(close.tx);
  assert.equal(tx.version, 2);
  assert.equal(tx.ins.length, 1);
  assert.deepEqual(new Uint8Array(tx.ins[0]!.hash), rows.funding.txid);
  assert.equal(tx.ins[0]!.index, rows.funding.vout);
  const [empty, first, second, script] = tx.ins[0]!.witness;
  assert.equal(empty?.length, 0);
  const expected = fundingScript(rows.fundingPubkeys.local, rows.fundingPubkeys.remote);
  assert.deepEqual(new Uint8Array(script!), expected);
  const keys = [expected.slice(2, 35), expected.slice(36, 69)];
  const hash = witnessV0Sighash(tx, 0, expected, rows.capacity);
  [first, second].forEach((item, i) => {
    const parsed = parseDerWithSighash(item!);
    assert(parsed.ok && parsed.value.sighash === Transaction.SIGHASH_ALL);
    assert(ecc().verifyEcdsa(hash, parsed.value.signature, keys[i]!), "a signature of the close");
  });
  const out = tx.outs.reduce((sum, { value }) => sum + value, 0n);
  assert(out <= rows.capacity);
  return tx;
}

/** Ids of a node's closes, as they are shown. */
export function txidsOf(node: Node): string[] {
  return node.signed.map(({ txid }) => txidToDisplay(txid));
}

/** What an output of a transaction pays to a script; undefined: there is none. */
export function paidTo(tx: Transaction, script: Uint8Array): Sat | undefined {
  const output = tx.outs.find((out) => out.script.join() === script.join());
  return output === undefined ? undefined : sat(output.value);
}
