/**
 * Two nodes in one process: channel machines, rows that survive crashes, hsmds that survive them too, a pipe that loses
 * what is on its way, and two lightningds that remember what they asked and decided. A node can be cut short between any
 * two actions, as kill -9 does.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import type { Side } from "bolt/interactive/types.ts";
import { emptyShachain } from "bolt/keys/shachain.ts";
import { p2wsh } from "bolt/tx/scripts.ts";
import { feerate, height, msat, sat } from "bolt/units.ts";
import { decodeMessage, encodeMessage, type Message } from "bolt/wire/messages.ts";
import { awaitsClosing } from "../last_fee.ts";
import { fromRows, standing, step } from "../machine.ts";
import type {
  ChannelAction,
  ChannelInput,
  ChannelMachine,
  ChannelStep,
  ChannelStore,
  Htlc,
  HtlcRemoval,
  HtlcState,
  LockedChannel,
  NodeFacts,
  Offer,
  SideLimits,
} from "../types.ts";
import { ModelHsm } from "./model_hsm.ts";

/** Which node. */
export type Name = "alice" | "bob";

const OTHER: Readonly<Record<Name, Name>> = { alice: "bob", bob: "alice" };

/** What the two agreed at the open. */
export interface World {
  readonly opener: Name;
  readonly balances: Readonly<Record<Name, bigint>>;
  readonly limits: Readonly<Record<Name, SideLimits>>;
  readonly reserves: Readonly<Record<Name, bigint>>;
  readonly feerate: number;
  readonly maxDustExposure: bigint;
}

const LIMITS: SideLimits = {
  dustLimit: sat(354),
  maxHtlcValueInFlight: msat(600_000_000),
  htlcMinimum: msat(1),
  maxAcceptedHtlcs: 30,
};

/** A channel of 10,000,000 sat, half on each side. */
export const WORLD: World = {
  opener: "alice",
  balances: { alice: 5_000_000_000n, bob: 5_000_000_000n },
  limits: { alice: LIMITS, bob: { ...LIMITS, dustLimit: sat(546) } },
  reserves: { alice: 100_000n, bob: 100_000n },
  feerate: 1000,
  maxDustExposure: 50_000_000n,
};

/** The node's level at the start. */
export const NODE: NodeFacts = {
  height: height(1000),
  feerate: feerate(1000),
  minFeerate: feerate(253),
  maxFeerate: feerate(50_000),
};

/** A preimage of the simulator's, and its hash. */
export function preimageOf(n: number): { readonly preimage: Uint8Array; readonly hash: Uint8Array } {
  const preimage = sha256(utf8ToBytes(`preimage ${n}`));
  return { preimage, hash: sha256(preimage) };
}

/** An onion that nobody can peel. */
export function onionOf(n: number): Uint8Array {
  return new Uint8Array(1366).fill(n & 0xff, 1);
}

/** States that a row can have: none that dies with a connection. */
const STORED: ReadonlySet<HtlcState> = new Set<HtlcState>([
  "SENT_ADD_COMMIT",
  "RCVD_ADD_REVOCATION",
  "SENT_ADD_ACK_REVOCATION",
  "SENT_ADD_REVOCATION",
  "SENT_REMOVE_REVOCATION",
  "SENT_REMOVE_ACK_COMMIT",
  "RCVD_REMOVE_ACK_REVOCATION",
  "SENT_ADD_ACK_COMMIT",
  "RCVD_ADD_ACK_REVOCATION",
  "SENT_REMOVE_HTLC",
  "SENT_REMOVE_COMMIT",
  "RCVD_REMOVE_REVOCATION",
  "SENT_REMOVE_ACK_REVOCATION",
]);

/** Why a node is cut short. */
class Crash extends Error {}

/** What lightningd remembers of a part that it offered. */
export type PartState = "asked" | "offered" | "fulfilled" | "failed" | "refused";

/** One node. */
export class Node {
  readonly name: Name;
  readonly hsm: ModelHsm;
  rows: LockedChannel;
  readonly htlcRows = new Map<bigint, Htlc>();
  readonly history = new Map<bigint, Htlc>();
  /** Parts by origin. */
  readonly parts = new Map<bigint, { readonly offer: Offer; state: PartState }>();
  /** lightningd's decisions by HTLC id: durable, and told again. */
  readonly decisions = new Map<bigint, HtlcRemoval>();
  readonly incoming = new Map<bigint, Htlc>();
  machine: ChannelMachine | null = null;
  question: Extract<ChannelAction, { type: "ask_hsmd" }> | null = null;
  /** Commands of lightningd and the like. */
  readonly inbox: ChannelInput[] = [];
  /** Whether the pipe is there. */
  connected = false;
  /** The connection that the machine was told of last. */
  generation = 0;
  /** Actions until it is cut short. */
  fuse: number | null = null;
  /** Before the running step. */
  reestablishing = false;
  completed = false;
  /** A person's wish, said again at every load. */
  wantsShutdown = false;
  failed: string | null = null;
  crashes = 0;
  steps = 0;
  node: NodeFacts = NODE;
  readonly #sim: Simulator;

  constructor(sim: Simulator, name: Name, world: World) {
    this.#sim = sim;
    this.name = name;
    const peer = OTHER[name];
    const opener: Side = world.opener === name ? "local" : "remote";
    const side = (mine: Name): Side => (mine === name ? "local" : "remote");
    assert.equal(side(world.opener), opener);
    const limits = { local: world.limits[name], remote: world.limits[peer] };
    this.hsm = new ModelHsm(name, {
      channel: { opener, limits, format: "anchors" },
      names: [name, peer],
    });
    const figures = {
      number: 0n,
      toLocal: msat(world.balances[name]),
      toRemote: msat(world.balances[peer]),
      feerate: feerate(world.feerate),
      htlcs: [],
    };
    const points = new ModelHsm(peer, this.hsm.terms);
    this.rows = {
      channelId: new Uint8Array(32).fill(7),
      opener,
      state: "CHANNELD_NORMAL",
      format: "anchors",
      limits,
      commitments: {
        active: [{
          attempt: 1n,
          funding: { txid: new Uint8Array(32).fill(8), vout: 1 },
          capacity: sat((world.balances.alice + world.balances.bob) / 1000n),
          reserves: { local: sat(world.reserves[name]), remote: sat(world.reserves[peer]) },
          local: { ...figures, remoteSignature: new Uint8Array(64), htlcSignatures: new Uint8Array(0) },
          pendingLocal: null,
          remote: { ...figures, perCommitmentPoint: points.point(0n) },
          nextRemote: null,
        }],
        localNextHtlcId: 0n,
        remoteNextHtlcId: 0n,
        localCurrentPoint: this.hsm.point(0n),
        localNextPoint: this.hsm.point(1n),
        remoteNextPoint: points.point(1n),
        revokedLast: false,
        fees: [],
        shachain: emptyShachain(),
      },
      localTxSignatures: [],
      localAlias: 1n,
      remoteAlias: null,
      shutdownSent: null,
      shutdownReceived: null,
      remoteUpfrontShutdownScript: null,
      localShutdownScript: p2wsh(utf8ToBytes(name)),
      errorText: null,
      dataLoss: false,
    };
    this.policyDust = world.maxDustExposure;
    this.load();
  }

  policyDust: bigint;

  /** Starts from the rows. */
  load(): void {
    const htlcs = [...this.htlcRows.values()].map((row): Htlc => {
      const needsOnion = row.state === "SENT_ADD_COMMIT" ||
        (!row.offered && row.removal === null && !row.state.startsWith("SENT_REMOVE"));
      return { ...row, onion: needsOnion ? row.onion : null, sharedSecret: null, blinded: false };
    });
    this.incoming.clear();
    this.perform(fromRows({
      channel: this.rows,
      htlcs: this.#sim.shuffle(htlcs),
      forms: { anysegwit: true, simpleClose: false },
      policy: { maxDustExposure: msat(this.policyDust) },
      onChain: { type: "confirmed" },
    }));
    this.inbox.push({ type: "node", ...this.node });
    if (this.machine !== null) this.tell(standing(this.machine));
    // lightningd says its decisions again, and asks again for what was not told of.
    for (const [id, removal] of this.decisions) this.inbox.push({ type: "settle", id, removal });
    for (const [origin, part] of this.parts) {
      if (part.state !== "asked" && part.state !== "offered") continue;
      if (!this.answeredFromHistory(origin)) this.inbox.push({ type: "offer", ...part.offer });
    }
    if (this.wantsShutdown) this.inbox.push({ type: "start_shutdown" });
  }

  /** What the driver does before it feeds an offer that may be older than the process. */
  answeredFromHistory(origin: bigint): boolean {
    for (const htlc of this.history.values()) {
      if (htlc.origin !== origin || htlc.removal === null) continue;
      this.resolve(origin, htlc.removal);
      return true;
    }
    return false;
  }

  resolve(origin: bigint, removal: HtlcRemoval): void {
    const part = this.parts.get(origin);
    assert(part !== undefined, "resolved: never asked for");
    const state = removal.type === "fulfill" ? "fulfilled" : "failed";
    assert(part.state !== "refused", "resolved after refused");
    // A preimage is proof: a failure that comes after it changes nothing.
    if (part.state === "fulfilled") return;
    assert(part.state !== "failed" || state === "failed", "fulfilled after failed");
    part.state = state;
  }

  crash(): void {
    if (this.machine === null) return;
    this.crashes++;
    this.machine = null;
    this.fuse = null;
    this.inbox.length = 0;
    // hsmd may have done what it was asked, and nobody heard of it.
    if (this.question !== null && this.#sim.coin()) this.hsm.answer(this.question.request);
    this.question = null;
    // connectd has the peer still, and cannot go on without the owner: it hangs up.
    this.#sim.cut();
    this.load();
  }

  /** Feeds what waits; true if anything did. */
  run(inputs: readonly ChannelInput[]): boolean {
    if (this.machine === null || this.failed !== null) return false;
    if (this.question !== null) {
      assert(inputs.length === 0);
      const { request } = this.question;
      const answer = this.hsm.answer(request);
      this.question = null;
      this.feed([{ type: "hsmd", answer }]);
      return true;
    }
    const batch = [...this.inbox.splice(0), ...inputs];
    if (batch.length === 0) return false;
    // A connection begins a batch: what is said before it belongs to the one before.
    const start = batch.findIndex(({ type }) => type === "connected");
    if (start > 0) {
      this.inbox.push(...batch.splice(start));
    } else if (start === 0) {
      this.generation = this.#sim.generation;
    }
    this.feed(batch);
    return true;
  }

  feed(inputs: readonly ChannelInput[]): void {
    assert(this.machine !== null);
    this.steps++;
    const frozen = this.#sim.checkPurity ? structuredClone(this.machine) : null;
    const before = this.machine;
    this.reestablishing = before.link === "reestablishing";
    const next = step(this.machine, inputs);
    if (frozen !== null) assert.deepEqual(before, frozen, "step changed its argument");
    this.perform(next);
  }

  perform({ state, actions }: ChannelStep): void {
    this.machine = state;
    const asks = actions.findIndex(({ type }) => type === "ask_hsmd");
    assert(asks === -1 || asks === actions.length - 1, "ask_hsmd comes last");
    assert(actions.filter(({ type }) => type === "store").length <= 1, "one store a step");
    try {
      for (const action of actions) {
        if (this.fuse !== null && this.fuse-- <= 0) throw new Crash();
        this.carryOut(action);
        this.#sim.check();
      }
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      this.crash();
    }
  }

  carryOut(action: ChannelAction): void {
    switch (action.type) {
      case "store":
        return this.store(action);
      case "ask_hsmd":
        this.question = action;
        return;
      case "send":
        for (const message of action.messages) this.#sim.send(this.name, message);
        this.note(action.messages);
        return;
      case "hang_up":
        this.#sim.log.push(`${this.name} hangs up: ${action.reason}`);
        return this.#sim.cut();
      case "end":
        this.failed = action.reason;
        return;
      case "shutdown_complete":
        this.completed = true;
        return;
      case "log":
        this.#sim.log.push(`${this.name}: ${action.text}`);
        return;
      default:
        return this.tell([action]);
    }
  }

  /** Notes what a reestablished connection brings again. */
  note(messages: readonly Message[]): void {
    const types = new Set(messages.map(({ type }) => type));
    if (types.has("update_fee")) this.#sim.said.push("update_fee");
    if (this.machine?.link !== "up" || this.reestablishing === false) return;
    const [revoke, commit] = [types.has("revoke_and_ack"), types.has("commitment_signed")];
    if (revoke && commit) this.#sim.said.push("again: both");
    else if (revoke) this.#sim.said.push("again: revoke_and_ack");
    else if (commit) this.#sim.said.push("again: commitment_signed");
  }

  tell(actions: readonly ChannelAction[]): void {
    for (const action of actions) {
      switch (action.type) {
        case "offered": {
          const part = this.parts.get(action.origin);
          assert(part !== undefined && part.state !== "refused" && part.state !== "failed", "offered again");
          if (part.state === "asked") part.state = "offered";
          break;
        }
        case "refused": {
          const part = this.parts.get(action.origin);
          assert(part !== undefined && part.state === "asked", `refused what was ${part?.state}`);
          part.state = "refused";
          this.#sim.refusals.push(action.detail);
          break;
        }
        case "outgoing_resolved":
          this.resolve(action.origin, action.removal);
          break;
        case "incoming":
          assert(action.htlc.sharedSecret !== null, "incoming without its secret");
          if (action.refusal !== null && !this.decisions.has(action.htlc.id)) {
            this.decide(action.htlc.id, failure(action.refusal));
          } else {
            this.incoming.set(action.htlc.id, action.htlc);
          }
          break;
        case "incoming_resolved":
          this.incoming.delete(action.htlc.id);
          break;
        default:
          break;
      }
    }
  }

  decide(id: bigint, removal: HtlcRemoval): void {
    if (this.decisions.has(id)) return;
    this.decisions.set(id, removal);
    this.inbox.push({ type: "settle", id, removal });
  }

  /** What the one SQL statement does. */
  store(store: ChannelStore): void {
    const { rows } = this;
    for (const htlc of store.added) {
      assert(!this.htlcRows.has(htlc.key) && !this.history.has(htlc.key), "a row that is there");
      assert(htlc.onion?.length === 1366, "a new row without its onion");
      assert(htlc.offered || htlc.origin === null);
      this.htlcRows.set(htlc.key, structuredClone(htlc));
    }
    for (const htlc of store.changed) {
      const row = this.htlcRows.get(htlc.key);
      assert(row !== undefined, "a row that is not there");
      this.htlcRows.set(htlc.key, { ...structuredClone(htlc), onion: row.onion });
    }
    for (const htlc of store.removed) {
      const row = this.htlcRows.get(htlc.key);
      assert(row !== undefined, "a row that is not there is removed");
      assert(htlc.removal !== null, "an HTLC ends by a removal");
      this.htlcRows.delete(htlc.key);
      this.history.set(htlc.key, structuredClone(htlc));
    }
    for (const [, row] of this.htlcRows) assert(STORED.has(row.state), `a row in state ${row.state}`);
    this.rows = structuredClone({
      ...rows,
      state: store.state,
      commitments: store.commitments ?? rows.commitments,
      remoteAlias: store.remoteAlias ?? rows.remoteAlias,
      shutdownSent: store.shutdownSent ?? rows.shutdownSent,
      shutdownReceived: store.shutdownReceived ?? rows.shutdownReceived,
      errorText: rows.errorText ?? store.errorText,
      dataLoss: rows.dataLoss || store.dataLoss,
    });
    for (const { local, pendingLocal, remote, nextRemote } of this.rows.commitments.active) {
      for (const key of [local, pendingLocal, remote, nextRemote].flatMap((c) => c?.htlcs ?? [])) {
        assert(this.htlcRows.has(key), "a commitment names an HTLC without a row");
      }
    }
  }
}

/** A failure of an incoming HTLC. */
export function failure(text: string): HtlcRemoval {
  return text === "invalid_onion_blinding"
    ? { type: "malformed", code: 0xc018, sha256OfOnion: sha256(utf8ToBytes(text)) }
    : { type: "fail", reason: utf8ToBytes(text), attribution: null };
}

/** The two, and what is between them. */
export class Simulator {
  readonly nodes: Readonly<Record<Name, Node>>;
  readonly world: World;
  /** On their way to a node. */
  readonly pipe: Readonly<Record<Name, Uint8Array[]>> = { alice: [], bob: [] };
  connected = false;
  generation = 0;
  checkPurity = false;
  messages = 0;
  readonly log: string[] = [];
  readonly refusals: string[] = [];
  readonly said: string[] = [];
  #random: number;
  #origin = 0n;
  #ready = false;

  constructor(world: World, seed: number) {
    this.world = world;
    this.#random = seed >>> 0;
    this.nodes = { alice: new Node(this, "alice", world), bob: new Node(this, "bob", world) };
    this.#ready = true;
  }

  /** A number below a bound, from the seed. */
  random(below: number): number {
    this.#random = (Math.imul(this.#random, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#random / 0x1_0000_0000) * below);
  }

  coin(): boolean {
    return this.random(2) === 0;
  }

  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.random(i + 1);
      [items[i], items[j]] = [items[j]!, items[i]!];
    }
    return items;
  }

  send(from: Name, message: Message): void {
    // What an owner says goes to the connection that its machine was told of last.
    if (!this.connected || this.nodes[from].generation !== this.generation) return;
    this.messages++;
    this.pipe[OTHER[from]].push(encodeMessage(message));
  }

  /** The connection is lost, and all that is on its way. */
  cut(): void {
    this.connected = false;
    this.pipe.alice.length = 0;
    this.pipe.bob.length = 0;
    for (const node of Object.values(this.nodes)) {
      if (!node.connected) continue;
      node.connected = false;
      const unheard = node.inbox.findIndex(({ type }) => type === "connected");
      if (unheard === -1) node.inbox.push({ type: "disconnected" });
      else node.inbox.splice(unheard, 1);
    }
  }

  connect(): void {
    if (this.connected) return;
    this.connected = true;
    this.generation++;
    for (const node of Object.values(this.nodes)) {
      node.connected = true;
      node.inbox.push({ type: "connected" });
    }
  }

  /** A node takes up to `count` messages with whatever else waits for it, or hsmd's answer. */
  turn(name: Name, count: number): boolean {
    const node = this.nodes[name];
    if (node.question !== null) return node.run([]);
    const frames = this.pipe[name].splice(0, count);
    const inputs = frames.map((frame): ChannelInput => {
      const decoded = decodeMessage(frame);
      assert(decoded.ok && decoded.value.type !== "unknown");
      return { type: "message", message: decoded.value as Message };
    });
    return node.run(inputs);
  }

  /** lightningd of a node asks for a part. */
  offer(name: Name, amount: bigint, hash: number, more: Partial<Offer> = {}): bigint {
    const node = this.nodes[name];
    const origin = ++this.#origin;
    const offer: Offer = {
      origin,
      amount: msat(amount),
      paymentHash: preimageOf(hash).hash,
      cltvExpiry: node.node.height + 40,
      onion: onionOf(Number(origin)),
      ...more,
    };
    node.parts.set(origin, { offer, state: "asked" });
    node.inbox.push({ type: "offer", ...offer });
    return origin;
  }

  /** lightningd of a node decides on an incoming HTLC. */
  settle(name: Name, id: bigint, preimage: Uint8Array | null): void {
    this.nodes[name].decide(
      id,
      preimage === null ? failure("nothing") : { type: "fulfill", preimage, attribution: null },
    );
  }

  get failed(): boolean {
    return this.nodes.alice.failed !== null || this.nodes.bob.failed !== null;
  }

  /** Runs until nothing is left to do. */
  quiesce(): void {
    for (let i = 0; i < 10_000; i++) {
      const did = [this.turn("alice", 100), this.turn("bob", 100)];
      if (!did.includes(true) && !this.#patienceEnds()) return;
    }
    assert.fail("it never ends");
  }

  /** Nobody says anything: whoever waits for the closing waits no longer. */
  #patienceEnds(): boolean {
    const waiting = Object.values(this.nodes).filter(({ machine }) =>
      machine !== null && machine.link === "up" && machine.ended === null && awaitsClosing(machine)
    );
    for (const { inbox } of waiting) inbox.push({ type: "closing_awaited" });
    return waiting.length > 0;
  }

  /** What holds after every action. */
  check(): void {
    if (!this.#ready) return;
    for (const name of ["alice", "bob"] as const) {
      const [node, peer] = [this.nodes[name], this.nodes[OTHER[name]]];
      for (const { local, pendingLocal } of node.rows.commitments.active) {
        // What the rows may broadcast (after the pending question is asked again) was never revoked.
        const newest = pendingLocal ?? local;
        assert(newest.number >= node.hsm.released, `${name} has only revoked commitments`);
        assert(node.hsm.verifiedNumber <= newest.number, `${name} has forgotten a commitment`);
      }
      for (const { remote, nextRemote } of peer.rows.commitments.active) {
        // The other one knows whatever this one can broadcast.
        const known = [remote.number, nextRemote?.number];
        assert(known.includes(node.hsm.verifiedNumber), `${name} can broadcast what its peer does not know`);
      }
    }
  }

  /** What holds when everything has come to rest and nobody failed. */
  checkRest(): void {
    assert.deepEqual([this.nodes.alice.failed, this.nodes.bob.failed], [null, null]);
    const { alice, bob } = this.nodes;
    const settled: Record<Name, bigint> = { alice: 0n, bob: 0n };
    for (const name of ["alice", "bob"] as const) {
      const [node, peer] = [this.nodes[name], this.nodes[OTHER[name]]];
      assert(node.machine !== null);
      const [mine, theirs] = [first(node.machine), first(peer.machine!)];
      assert.equal(mine.pendingLocal, null);
      assert.equal(mine.nextRemote, null);
      // Our newest commitment is what the peer thinks that it is, and the other way round.
      assert.equal(mine.local.number, theirs.remote.number);
      assert.equal(mine.local.toLocal, theirs.remote.toRemote);
      assert.equal(mine.local.toRemote, theirs.remote.toLocal);
      assert.equal(mine.local.feerate, theirs.remote.feerate);
      assert.equal(mine.local.toLocal, mine.remote.toLocal, "both commitments hold the same");
      assert.deepEqual(
        mine.local.htlcs.toSorted(compare),
        theirs.remote.htlcs.map((key) => key ^ 1n).toSorted(compare),
      );
      assert.equal(node.machine.channel.commitments.fees.length, 0);
      // Each part has one outcome, the same on both sides.
      for (const htlc of node.history.values()) {
        const other = peer.history.get(htlc.key ^ 1n) ??
          peer.machine!.gone.find(({ key }) => key === (htlc.key ^ 1n));
        if (!htlc.offered) continue;
        assert(other !== undefined, `HTLC ${htlc.id} of ${name} is gone on one side only`);
        assert.equal(other.removal?.type, htlc.removal?.type);
        if (htlc.removal?.type === "fulfill") {
          settled[name] -= htlc.amount;
          settled[OTHER[name]] += htlc.amount;
        }
        const state = node.parts.get(htlc.origin!)?.state;
        assert.equal(state, htlc.removal?.type === "fulfill" ? "fulfilled" : "failed");
      }
      for (const [origin, { state }] of node.parts) {
        const live = [...node.machine.htlcs.values()].some((htlc) => htlc.origin === origin);
        const done = [...node.history.values()].some((htlc) => htlc.origin === origin);
        if (state === "refused") assert(!live && !done, "refused, and there");
        if (state === "asked") assert.fail("asked, and never answered");
        if (state === "offered") assert(live, "offered, and lost");
      }
    }
    for (const node of [alice, bob]) {
      const live = [...node.machine!.htlcs.values()];
      const [out, back] = [
        live.filter(({ offered }) => offered).reduce((sum, { amount }) => sum + amount, 0n),
        live.filter(({ offered }) => !offered).reduce((sum, { amount }) => sum + amount, 0n),
      ];
      const { local, capacity } = first(node.machine!);
      assert.equal(local.toLocal + out, this.world.balances[node.name] + settled[node.name]);
      assert.equal(local.toLocal + local.toRemote + out + back, capacity * 1000n);
    }
  }
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function first(machine: ChannelMachine) {
  const [active] = machine.channel.commitments.active;
  assert(active !== undefined);
  return active;
}

/** A garbled copy, for tests of bad signatures. */
export function flipped(bytes: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of((bytes[0] ?? 0) ^ 1), bytes.subarray(1));
}
