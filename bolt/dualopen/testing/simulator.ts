/**
 * Two nodes in one process: pure dual-open machines, rows that survive crashes, a pipe that loses what is on its way,
 * and a chain. Every step can be cut short between any two actions, as kill -9 does.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { coin, coinScript, NODE_IDS } from "bolt/interactive/testing.ts";
import { planContribution } from "bolt/interactive/plan.ts";
import { p2wsh } from "bolt/tx/scripts.ts";
import { parseTransaction } from "bolt/tx/parse.ts";
import { type BlockHeight, feerate, type FeeratePerKw, height, msat, type Sat, sat } from "bolt/units.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import { errorMessage } from "bolt/wire/error_text.ts";
import { Features, nodeFeatures } from "bolt/wire/features.ts";
import { decodeMessage, encodeMessage, type Message } from "bolt/wire/messages.ts";
import type { Action, Outcome, StoreStep } from "../actions.ts";
import type { Input } from "../inputs.ts";
import { fromRows, newOpening, step } from "../machine.ts";
import { withAttempt } from "../step.ts";
import type { ChainFacts, Drive, DualOpenState, Plan, Policy, SavedChannel, Setup } from "../types.ts";
import { PureHsm } from "./pure_hsm.ts";

/** Which node. */
export type Name = "alice" | "bob";

const SEEDS = { alice: 1000, bob: 2000 } as const;
const CHAIN_HASH = new Uint8Array(32).fill(6);
/** Confirmations that both want. */
export const DEPTH = 3;

/** The policy of both nodes. */
export const POLICY: Policy = {
  fundingConfirms: DEPTH,
  dustLimit: sat(354),
  maxDustLimit: sat(5000),
  maxHtlcValueInFlight: msat(100_000_000),
  htlcMinimum: msat(1),
  toSelfDelay: 144,
  maxToSelfDelay: 2016,
  maxAcceptedHtlcs: 30,
  minCapacity: sat(10_000),
  largeChannels: true,
  maxRemoteRbfAttempts: 10,
  remoteRbfMinBlocks: 0,
  requireConfirmedInputs: false,
};

/** One node: what is in memory may vanish, `rows` stay. */
export interface Node {
  readonly name: Name;
  readonly hsm: PureHsm;
  readonly setup: Setup;
  /** The machine; null when no owner runs. */
  state: DualOpenState | null;
  rows: SavedChannel | null;
  /** Every outcome that a command could have waited for. */
  readonly outcomes: Outcome[];
  /** What was sent, by name; for tests that look at the order. */
  readonly sent: string[];
  contribution: Sat;
  /** Coins by the number that makes them. */
  coins: readonly number[];
}

/** Two nodes and what is between them. */
export class World {
  readonly nodes: Readonly<Record<Name, Node>>;
  /** Bytes on their way to each node. */
  readonly pipe: Record<Name, Uint8Array[]> = { alice: [], bob: [] };
  connected = true;
  /** What the chain says of every input that is asked about. */
  confirmed = true;
  height: BlockHeight = height(100);
  mined: { readonly txid: string; readonly height: BlockHeight } | null = null;
  readonly mempool = new Map<string, Uint8Array>();
  /** Actions until the next crash; undefined: none. */
  crashIn: { readonly name: Name; actions: number } | undefined;
  /** Why alice's hsmd refuses to lock; undefined: it locks. */
  lockRefusal: string | undefined;
  /** Called with each message before it enters the pipe; false drops the connection instead. */
  onSend: (from: Name, message: Message) => "pass" | "cut_before" | "cut_after" = () => "pass";
  #entropy = 0;

  /** Contributions in sat; coins of 100,000 sat each. */
  constructor(contributions: { readonly alice: number; readonly bob: number }) {
    const features = Features.of(...nodeFeatures().bits()).toBytes();
    const make = (name: Name, remote: Name): Node => {
      const hsm = new PureHsm(SEEDS[name]);
      return {
        name,
        hsm,
        setup: {
          nodeIds: name === "alice" ? NODE_IDS : { local: NODE_IDS.remote, remote: NODE_IDS.local },
          features: { local: features, remote: features },
          chainHash: CHAIN_HASH,
          policy: POLICY,
          localKeys: hsm.keys,
          shutdownScript: coinScript("p2wpkh", SEEDS[name] + 50),
          localAlias: BigInt(SEEDS[name]),
        },
        state: null,
        rows: null,
        outcomes: [],
        sent: [],
        contribution: sat(contributions[name]),
        coins: contributions[name] === 0 ? [] : [SEEDS[name] + 100, SEEDS[remote] * 3 + 100],
      };
    };
    this.nodes = { alice: make("alice", "bob"), bob: make("bob", "alice") };
  }

  /** A plan of a node's coins. */
  plan(node: Node, role: "initiator" | "accepter", rate: FeeratePerKw): Plan {
    const utxos = node.coins.map((seed) => coin(seed, 100_000n, "p2tr"));
    if (node.contribution === 0n && role === "accepter") {
      return { contribution: sat(0), inputs: [], outputs: [], maxFee: sat(0) };
    }
    const planned = planContribution({
      role,
      feerate: rate,
      contribution: node.contribution,
      fundingScript: p2wsh(Uint8Array.of(0x51)),
      utxos,
      changeScript: coinScript("p2tr", SEEDS[node.name] + 60),
      dustLimit: sat(354),
    });
    assert(planned.ok);
    return {
      contribution: node.contribution,
      inputs: planned.value.inputs.map((input, i) => {
        const parsed = parseTransaction(input.prevtx);
        assert(parsed.ok);
        return {
          ...input,
          outpoint: { txid: parsed.value.txid, vout: input.vout },
          key: { change: false, index: node.coins[i]! },
        };
      }),
      outputs: planned.value.outputs.map((o) => ({ ...o, key: { change: true, index: 0 } })),
      maxFee: planned.value.fee,
    };
  }

  /** Fresh entropy, the same in every run. */
  entropy(): Uint8Array {
    return sha256(Uint8Array.of(42, ++this.#entropy >> 8, this.#entropy & 0xff));
  }

  /** alice opens to bob. */
  open(rate = 1000, drive: Drive = "automatic"): void {
    const alice = this.nodes.alice;
    alice.state = newOpening(alice.setup, new Uint8Array(32), this.facts(alice));
    this.feed("alice", {
      type: "start_open",
      plan: this.plan(alice, "initiator", feerate(rate)),
      fundingFeerate: feerate(rate),
      commitmentFeerate: feerate(253),
      locktime: 100,
      channelType: encodeChannelType(ANCHORS_STATIC_REMOTEKEY),
      requireConfirmedInputs: false,
      drive,
      entropy: this.entropy(),
    });
  }

  /** A node replaces the funding transaction. */
  bump(name: Name, rate: number): void {
    this.feed(name, {
      type: "start_rbf",
      plan: this.plan(this.nodes[name], "initiator", feerate(rate)),
      feerate: feerate(rate),
      locktime: 100,
      requireConfirmedInputs: false,
      drive: "automatic",
      entropy: this.entropy(),
    });
  }

  /** What the chain says to a node. */
  facts(node: Node): ChainFacts {
    const { mined } = this;
    const confirmed = mined === null ? [] : (node.rows?.attempts ?? [])
      .filter((attempt) => bytesToHex(attempt.tx.txid) === mined.txid)
      .map(({ seq }) => ({ seq, height: mined.height, coinbase: false, matches: true }));
    return { height: this.height, confirmed };
  }

  /** Hands an input to a node's machine and carries out what follows; the answer to a question is stepped at once. */
  feed(name: Name, input: Input): void {
    const node = this.nodes[name];
    const memory = node.state;
    if (memory === null) return;
    const { state, actions } = step(structuredClone(memory), input);
    node.state = state;
    for (const action of actions) {
      if (this.#crashes(name)) return this.crash(name);
      const answer = this.#carryOut(node, action);
      if (node.state === null) return;
      if (answer !== undefined) this.feed(name, answer);
      // Whoever let go, or lost its memory, does nothing more.
      if (node.state === null) return;
    }
    if (node.state?.ended) node.state = null;
  }

  #crashes(name: Name): boolean {
    if (this.crashIn?.name !== name) return false;
    return this.crashIn.actions-- <= 0;
  }

  #carryOut(node: Node, action: Action): Input | undefined {
    switch (action.type) {
      case "store":
        node.rows = store(node.rows, action.step);
        return undefined;
      case "send":
        this.#send(node, action.message);
        return undefined;
      case "hang_up":
        for (const message of action.messages) this.#send(node, message);
        this.disconnect();
        return undefined;
      case "plan_open":
      case "plan_rbf":
        return { type: "plan_result", plan: this.plan(node, "accepter", action.feerate) };
      case "check_confirmed":
        return {
          type: "confirmed_result",
          results: action.outpoints.map((outpoint) => ({ outpoint, confirmed: this.confirmed })),
        };
      case "sign_remote_commitment":
        return {
          type: "remote_commitment_signed",
          seq: action.attempt.seq,
          signature: node.hsm.signRemoteCommitment(saved(node), action.attempt),
        };
      case "check_local_commitment": {
        const { attempt, signature } = action;
        return node.hsm.checkLocalCommitment(saved(node), attempt, signature)
          ? { type: "local_commitment_checked", seq: attempt.seq, signature }
          : {
            type: "hsm_refused",
            request: "check_local_commitment",
            seq: attempt.seq,
            refusal: { type: "bad_signature" },
          };
      }
      case "sign_funding":
        return {
          type: "funding_signed",
          seq: action.attempt.seq,
          witnesses: node.hsm.signFunding(action.attempt, "p2tr"),
        };
      case "lock_funding":
        return this.lockRefusal === undefined || node.name === "bob"
          ? { type: "funding_locked", seq: action.attempt.seq }
          : {
            type: "hsm_refused",
            request: "lock_funding",
            seq: action.attempt.seq,
            refusal: { type: "refused", reason: this.lockRefusal },
          };
      case "test_funding":
        return {
          type: "funding_tested",
          seq: action.seq,
          verdict: "accepted",
          detail: "",
          tested: action.tested,
        };
      case "broadcast": {
        const complete = saved(node).attempts.findLast((a) =>
          bytesToHex(a.tx.txid) === bytesToHex(action.txid)
        );
        assert(complete?.completeTx, "broadcast of what is not stored");
        this.mempool.set(bytesToHex(action.txid), complete.completeTx);
        return undefined;
      }
      case "outcome":
        node.outcomes.push(action.outcome);
        return undefined;
      case "rekey":
      case "progress":
      case "log":
      case "end":
        return undefined;
    }
  }

  #send(node: Node, message: Message): void {
    if (!this.connected) return;
    const verdict = this.onSend(node.name, message);
    if (verdict === "cut_before") return this.disconnect();
    checkTold(node, message);
    node.sent.push(message.type);
    this.pipe[other(node.name)].push(encodeMessage(message));
    if (verdict === "cut_after") this.disconnect(true);
  }

  /** Delivers one message to a node; false if none waits. */
  deliver(name: Name): boolean {
    const bytes = this.pipe[name].shift();
    if (bytes === undefined) return false;
    const decoded = decodeMessage(bytes);
    assert(decoded.ok && decoded.value.type !== "unknown");
    const node = this.nodes[name];
    if (node.state === null) this.#spoke(node, decoded.value);
    if (node.state !== null) {
      this.feed(name, { type: "message", message: decoded.value, entropy: this.entropy() });
    }
    return true;
  }

  /** What lightningd decides about a message for a channel without an owner. */
  #spoke(node: Node, message: Message): void {
    if (message.type === "open_channel2" && node.rows === null) {
      node.state = newOpening(node.setup, message.temporary_channel_id, this.facts(node));
    } else if (message.type === "channel_reestablish" && node.rows === null) {
      this.#send(node, errorMessage(message.channel_id, "unknown channel"));
    }
  }

  /** Everything on its way is lost, unless `flush`: what is in the pipe still arrives first. */
  disconnect(flush = false): void {
    if (!this.connected) return;
    this.connected = false;
    if (flush) { while (this.deliver("alice") || this.deliver("bob")); }
    this.pipe.alice = [];
    this.pipe.bob = [];
    for (const name of ["alice", "bob"] as const) this.feed(name, { type: "disconnected" });
  }

  /** kill -9: the memory of a node is gone, and with it the connection. */
  crash(name: Name): void {
    this.crashIn = undefined;
    this.nodes[name].state = null;
    this.disconnect();
    this.nodes[name].state = null;
  }

  /** A new connection: every saved channel gets an owner from its rows. */
  connect(): void {
    if (this.connected) return;
    this.connected = true;
    for (const name of ["alice", "bob"] as const) {
      const node = this.nodes[name];
      node.state = null;
      if (node.rows === null || node.rows.errorText !== null || node.rows.state === "CHANNELD_NORMAL") {
        continue;
      }
      node.state = fromRows(node.setup, structuredClone(node.rows), this.facts(node));
    }
    for (const name of ["alice", "bob"] as const) this.feed(name, { type: "connected" });
  }

  /** Delivers until nothing moves. */
  settle(): void {
    for (let i = 0; this.deliver("alice") || this.deliver("bob"); i++) {
      assert(i < 1000, "the nodes talk for ever");
    }
  }

  /** Mines a transaction of the mempool, and blocks on top of it. */
  mine(txid: string, blocks = DEPTH): void {
    assert(this.mempool.has(txid), "only what somebody broadcast can be mined");
    this.height = height(this.height + 1);
    this.mined = { txid, height: this.height };
    this.height = height(this.height + blocks - 1);
    for (const name of ["alice", "bob"] as const) {
      this.feed(name, { type: "chain", facts: this.facts(this.nodes[name]) });
    }
  }
}

function other(name: Name): Name {
  return name === "alice" ? "bob" : "alice";
}

function saved(node: Node): SavedChannel {
  assert(node.rows !== null, "asked of hsmd or the chain before it was stored");
  return node.rows;
}

/** Persist, then send: what a message tells the peer must be in the rows when it leaves. */
function checkTold(node: Node, message: Message): void {
  const attempts = node.rows?.attempts ?? [];
  switch (message.type) {
    case "commitment_signed":
      assert(
        attempts.some((a) => bytesToHex(a.tx.txid) === bytesToHex(message.funding_txid!)),
        "told before it was stored",
      );
      break;
    case "tx_signatures": {
      const attempt = attempts.find((a) => bytesToHex(a.tx.txid) === bytesToHex(message.txid));
      assert(attempt?.localTxSignatures, "tx_signatures told before they were stored");
      assert(attempt.remoteCommitmentSignature, "our inputs signed without a way out");
      break;
    }
    case "channel_ready":
      assert(node.rows?.lockedAttempt !== null, "channel_ready told before the lock was stored");
      break;
    default:
      break;
  }
}

/** What each durable step makes of the rows: the driver's SQL, in short. */
export function store(rows: SavedChannel | null, s: StoreStep): SavedChannel | null {
  if (s.type === "drop_opening") return rows;
  if (s.type === "save_open") {
    assert(rows === null, "a channel is never overwritten");
    return structuredClone(s.channel);
  }
  assert(rows !== null);
  switch (s.type) {
    case "save_attempt":
      assert(!rows.attempts.some((a) => a.seq === s.attempt.seq));
      return structuredClone({ ...rows, state: s.state, attempts: [...rows.attempts, s.attempt] });
    case "save_remote_commitment_signature":
      return withAttempt(rows, s.seq, { remoteCommitmentSignature: s.signature }, s.state);
    case "save_tx_signatures":
      return withAttempt(rows, s.seq, {
        ...(s.local === null ? {} : { localTxSignatures: s.local }),
        ...(s.remote === null ? {} : { remoteTxSignatures: s.remote }),
        ...(s.completeTx === null ? {} : { completeTx: s.completeTx }),
      }, s.state);
    case "abort_attempt":
      return withAttempt(rows, s.seq, { aborted: true }, s.state);
    case "forget_channel":
      assert(
        !rows.attempts.some((a) => a.localTxSignatures !== null),
        "what can be mined is never forgotten",
      );
      return null;
    case "lock":
      return { ...rows, lockedAttempt: s.seq, state: s.state };
    case "save_remote_ready":
      return {
        ...rows,
        remoteReady: { secondPerCommitmentPoint: s.secondPerCommitmentPoint, alias: s.alias },
        state: s.state,
      };
    case "save_shutdown":
      return {
        ...rows,
        shutdownSent: s.sent ?? rows.shutdownSent,
        shutdownReceived: s.received ?? rows.shutdownReceived,
      };
    case "save_state":
      return { ...rows, state: s.state };
    case "fail_channel":
      return { ...rows, errorText: s.errorText };
  }
}
