/** The driver of one socket: reads, lets the machines step, and carries out what they say. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { unreachable } from "bolt/result.ts";
import type { InitContent } from "bolt/wire/init.ts";
import { messageName, messageTypeOf } from "bolt/wire/messages.ts";
import type { Logger } from "common/log.ts";
import type { ControlClock } from "./clock.ts";
import type { Attachments } from "./attach.ts";
import {
  Demux,
  type DemuxAction,
  type EndReason,
  type Numbers,
  type OutGroup,
  type Spoke,
} from "./demux/demux.ts";
import type { Dialled } from "./duplicate.ts";
import type { Faults } from "./faults.ts";
import { ALWAYS_ALLOWED_HELD_BYTES, type Limits, MESSAGE_RATE_COST } from "./limits.ts";
import { type PeerAction, PeerMachine } from "./peer/machine.ts";
import { TokenBucket } from "./rate.ts";
import type { Traffic } from "./traffic.ts";

const READ_BYTES = 65_536;

/** What a connection tells its surroundings. */
export interface ConnectionEvents {
  /** Handshake and init are done. */
  connected(connection: Connection): void;
  /** lightningd's generation came: messages flow. */
  spoke(connection: Connection, spoke: Spoke): void;
  started(connection: Connection, channelId: Uint8Array, epoch: bigint): void;
  ended(connection: Connection, end: AttachmentEnd): void;
  ponged(connection: Connection, requestId: bigint, totalLength: number): void;
  pingFailed(connection: Connection, requestId: bigint, error: string): void;
  /** The socket is closed, or is left to close by itself; nothing follows. */
  closed(connection: Connection, reason: string, drained: boolean): void;
}

/** How an attachment ended. */
export interface AttachmentEnd {
  readonly channelId: Uint8Array;
  readonly epoch: bigint;
  readonly reason: EndReason;
  readonly detail: string;
  readonly framesHeld: number;
  readonly wantHangUp: boolean;
}

/** What all connections share. */
export interface Surroundings {
  readonly limits: Limits;
  readonly log: Logger;
  readonly numbers: Numbers;
  readonly clock: ControlClock;
  readonly attachments: Attachments;
  /** Undefined outside of developer mode. */
  readonly faults: Faults | undefined;
  readonly events: ConnectionEvents;
  /** What went through, for metrics. */
  readonly traffic: Traffic;
  /** Bytes of held frames of all peers. */
  readonly totalHeld: () => number;
  /** SHA-256 of the shared point of our node key and this one; rejects when hsmd cannot answer. */
  readonly ecdh: (point: Uint8Array) => Promise<Uint8Array>;
  readonly now: () => number;
}

/** Who we are to a peer. */
export interface Identity {
  readonly nodeId: Uint8Array;
  readonly init: InitContent;
}

/** What to do once a piece of output is in the socket. */
interface Chunk {
  readonly parts: Uint8Array[];
  readonly groups: OutGroup[];
  bytes: number;
  delayMs: number;
  then: "go_on" | "close" | "freeze";
}

/** One peer connection, from the accepted or dialled socket to its end. */
export class Connection {
  readonly direction: Dialled;
  readonly remoteAddr: string;
  readonly demux: Demux;
  /** Unique in this connectd, rising. */
  readonly number: bigint;
  /** Resolves when the connection is over. */
  readonly over: Promise<void>;
  #resolveOver: () => void = () => {};
  readonly #machine: PeerMachine;
  readonly #log: Logger;
  readonly #bucket: TokenBucket;
  readonly #startedAt: number;
  #connectedAt: number | undefined;
  #generation = 0n;
  #features: Uint8Array = new Uint8Array();
  #control: Uint8Array[] = [];
  #controlBytes = 0;
  #raw: Uint8Array[] = [];
  /** Messages behind an injected delay: they count as handed to the socket, so a newer epoch does not discard them. */
  #delayed: Uint8Array[] = [];
  #writing = false;
  #frozen = false;
  #blackhole = false;
  #draining = false;
  #dead = false;
  #pausedSince: number | undefined;
  #wakeReader: (() => void) | undefined;
  #wakeDrain: (() => void) | undefined;

  private constructor(
    private readonly conn: Deno.TcpConn,
    private readonly around: Surroundings,
    start: { readonly direction: Dialled; readonly number: bigint; readonly machine: PeerMachine },
  ) {
    this.direction = start.direction;
    this.number = start.number;
    this.remoteAddr = addressText(conn.remoteAddr);
    this.#machine = start.machine;
    this.#startedAt = around.now();
    this.#log = around.log.child({ connection: start.number, remote: this.remoteAddr });
    this.#bucket = new TokenBucket(
      around.limits.incomingBytesPerSecond,
      around.limits.incomingBurst,
      around.now(),
    );
    this.demux = new Demux(around.limits, around.numbers);
    this.over = new Promise((resolve) => this.#resolveOver = resolve);
    try {
      conn.setNoDelay(true);
      conn.setKeepAlive(true);
    } catch {
      // The peer is gone already; reading will say so.
    }
  }

  /** Takes a socket that we dialled. Undefined when the node id is not a public key. */
  static dialled(
    conn: Deno.TcpConn,
    around: Surroundings,
    identity: Identity,
    number: bigint,
    peerId: Uint8Array,
  ): Connection | undefined {
    const called = PeerMachine.call(machineStart(around, identity), peerId);
    if (!called.ok) return undefined;
    const { machine, actions } = called.value;
    const connection = new Connection(conn, around, { direction: "us", number, machine });
    connection.#run(actions);
    return connection;
  }

  /** Takes a socket that a peer dialled. */
  static accepted(conn: Deno.TcpConn, around: Surroundings, identity: Identity, number: bigint): Connection {
    const machine = PeerMachine.answer(machineStart(around, identity));
    const connection = new Connection(conn, around, { direction: "them", number, machine });
    connection.#run([]);
    return connection;
  }

  /** The peer's node id; empty before the handshake proved it. */
  get peerId(): Uint8Array {
    return this.#machine.remoteStatic ?? new Uint8Array();
  }

  /** The peer's init features. */
  get features(): Uint8Array {
    return this.#features;
  }

  /** lightningd's number of this connection; 0 before it accepted. */
  get generation(): bigint {
    return this.#generation;
  }

  /** When init was done; undefined before. */
  get connectedAt(): number | undefined {
    return this.#connectedAt;
  }

  /** Whether it is over, or about to be. */
  get ending(): boolean {
    return this.#dead || this.#draining;
  }

  /** lightningd committed a generation: read on. False when it has another one already. */
  accept(generation: bigint): boolean {
    if (this.#generation !== 0n) return this.#generation === generation;
    this.#generation = generation;
    this.#machine.accept(this.around.now());
    this.#wake();
    return true;
  }

  /** Carries out what the fence said to do, as the answer to lightningd or a subd. */
  perform(actions: readonly DemuxAction[]): void {
    for (const action of actions) this.#performOne(action);
    this.#wake();
  }

  /** Pings the peer; the answer comes as an event. */
  ping(requestId: bigint, padding: number, numPongBytes: number): void {
    const result = this.#machine.ping(requestId, padding, numPongBytes);
    if (!result.ok) this.around.events.pingFailed(this, requestId, result.error);
    else this.#act(result.value);
  }

  /** Looks at the deadlines. */
  tick(): void {
    if (this.#dead) return;
    const { limits, now, clock } = this.around;
    if (this.#connectedAt === undefined) {
      if (now() - this.#startedAt > limits.handshakeTimeout) this.abort("handshake and init took too long");
      return;
    }
    // A connection that a test froze or blackholed is to look alive.
    if (this.#frozen || this.#blackhole || this.#draining) return;
    const reading = this.#pausedSince === undefined;
    for (const action of this.#machine.tick(now(), reading)) {
      // Nobody is there to read a farewell.
      if (action.type === "close") return this.abort(action.reason);
      this.#act([action]);
    }
    if (this.#pausedSince !== undefined && clock.read() - this.#pausedSince > limits.maxReadPause) {
      return this.hangUp("unread messages were not taken in time");
    }
    this.perform(this.demux.tick(clock.read()));
  }

  /** Closes, drained: nothing more is read, subds flush, then the socket does, each within its time. */
  hangUp(reason: string): void {
    if (this.ending) return;
    this.#log.info({ peer: bytesToHex(this.peerId), reason }, "hanging up");
    this.#draining = true;
    this.#machine.close();
    this.#wake();
    this.#drain(reason).catch((error) => {
      this.#log.error({ err: error }, "draining failed");
      this.#end(reason, false);
    });
  }

  /** Closes at once; what was queued is lost. */
  abort(reason: string): void {
    this.#end(reason, false);
  }

  #run(actions: readonly PeerAction[]): void {
    this.#act(actions);
    this.#readLoop().catch((error) => {
      if (!this.#dead) this.#log.error({ err: error }, "reading failed");
      this.#end("internal error", false);
    });
  }

  async #readLoop(): Promise<void> {
    const buffer = new Uint8Array(READ_BYTES);
    while (!this.#dead) {
      const count = await this.conn.read(buffer).catch(() => null);
      if (this.#dead) return;
      if (count === null) return this.#end("the peer closed the connection", false);
      if (this.#blackhole || this.#draining) continue;
      const now = this.around.now();
      this.#bucket.take(count, now);
      this.#act(this.#machine.receive(buffer.subarray(0, count), now));
      await this.#readMessages();
    }
  }

  async #readMessages(): Promise<void> {
    for (;;) {
      if (this.#closedForReading()) await this.#gate();
      if (this.ending || this.#blackhole) return;
      const next = this.#machine.next();
      if (!next.ok) return this.abort(next.error);
      if (next.value === null) {
        if (this.#machine.phase === "waiting") continue;
        return;
      }
      this.#bucket.take(MESSAGE_RATE_COST, this.around.now());
      this.around.traffic.messagesIn++;
      this.around.traffic.bytesIn += next.value.length;
      if (this.around.faults === undefined) this.#act(this.#machine.handle(next.value));
      else await this.#handleWithFaults(this.around.faults, next.value);
    }
  }

  async #handleWithFaults(faults: Faults, message: Uint8Array): Promise<void> {
    this.#trace("in", message);
    const verdict = faults.judge("in", message);
    switch (verdict.kind) {
      case "pass":
      case "nothing":
        return this.#act(this.#machine.handle(message));
      case "drop":
        return;
      case "close_before":
        return this.abort("fault: close before a received message");
      case "close_after":
      case "close_on_receive":
        this.#act(this.#machine.handle(message));
        return this.abort("fault: close after a received message");
      case "freeze_after":
        this.#act(this.#machine.handle(message));
        this.#frozen = true;
        return;
      case "blackhole":
        this.#blackhole = true;
        return;
      case "delay":
        await delay(verdict.delayMs);
        return this.#act(this.#machine.handle(message));
      default:
        return unreachable(verdict);
    }
  }

  /** Why nothing is read now. */
  #closedForReading(): "frozen" | "waiting" | "full" | "spokes" | "rate" | undefined {
    if (this.ending || this.#blackhole) return undefined;
    if (this.#frozen) return "frozen";
    if (this.#machine.phase === "waiting") return "waiting";
    const { limits } = this.around;
    const held = this.demux.heldBytes;
    if (held > limits.maxHeldBytesPerPeer || this.#controlBytes > limits.maxControlBytes) return "full";
    if (held > ALWAYS_ALLOWED_HELD_BYTES && this.around.totalHeld() > limits.maxHeldBytes) return "full";
    if (this.demux.openSpokes >= limits.maxUnansweredSpokes) return "spokes";
    if (this.#bucket.wait(this.around.now()) > 0) return "rate";
    return undefined;
  }

  /** Waits until reading may go on. Ticks look again, so a wake-up that nobody sends only costs time. */
  async #gate(): Promise<void> {
    for (let why = this.#closedForReading(); why !== undefined; why = this.#closedForReading()) {
      if (why === "full") this.#pausedSince ??= this.around.clock.read();
      await new Promise<void>((resolve) => this.#wakeReader = resolve);
    }
    this.#pausedSince = undefined;
  }

  #wake(): void {
    const wake = this.#wakeReader;
    this.#wakeReader = undefined;
    wake?.();
    this.#wakeDrain?.();
  }

  #act(actions: readonly PeerAction[]): void {
    for (const action of actions) this.#actOne(action);
  }

  #actOne(action: PeerAction): void {
    switch (action.type) {
      case "write":
        this.#raw.push(action.bytes);
        return this.#startWriting();
      case "ecdh":
        this.around.ecdh(action.point).then(
          (secret) => {
            if (!this.#dead) this.#act(this.#machine.ecdhResult(secret));
          },
          (error) => {
            this.#log.warn({ err: error }, "hsmd did not answer the handshake's ECDH");
            this.abort("handshake failed (no ECDH)");
          },
        );
        return;
      case "send":
        this.#control.push(action.message);
        this.#controlBytes += action.message.length;
        return this.#startWriting();
      case "connected":
        this.#features = action.features;
        this.#connectedAt = this.around.now();
        return this.around.events.connected(this);
      case "frame":
        return this.perform(this.demux.frame(action, this.around.clock.read()));
      case "ponged":
        return this.around.events.ponged(this, action.requestId, action.totalLength);
      case "close":
        return this.#machine.remoteStatic === undefined
          ? this.abort(action.reason)
          : this.hangUp(action.reason);
      case "log":
        return this.#log.info({ peer: bytesToHex(this.peerId) }, action.text);
      default:
        return unreachable(action);
    }
  }

  #performOne(action: DemuxAction): void {
    const { attachments, events } = this.around;
    switch (action.type) {
      case "dial":
        return attachments.open(this, action.start);
      case "cut":
        return attachments.cut(action.attachment);
      case "deliver":
        return attachments.deliver(action.attachment, action);
      case "finish":
        return attachments.finish(action.attachment);
      case "peer_gone":
        return attachments.peerGone(action.attachment, action.reason);
      case "written":
        return attachments.written(action.attachment, action.outSeq, this.demux);
      case "started":
        return events.started(this, action.channelId, action.epoch);
      case "ended":
        return events.ended(this, action);
      case "spoke":
        return events.spoke(this, action.spoke);
      case "writable":
        return this.#startWriting();
      case "hang_up":
        return this.hangUp(action.reason);
      default:
        return unreachable(action);
    }
  }

  #startWriting(): void {
    if (this.#writing || this.#dead || this.#frozen) return;
    this.#writing = true;
    // A microtask later, so that what is said together leaves in one write.
    queueMicrotask(() => {
      this.#writeLoop().catch((error) => {
        this.#writing = false;
        if (!this.#dead) this.#log.debug({ err: error }, "writing failed");
        this.#end("the connection broke", false);
      });
    });
  }

  async #writeLoop(): Promise<void> {
    for (let chunk = this.#collect(); chunk !== undefined; chunk = this.#collect()) {
      await this.#writeAll(chunk.parts);
      if (this.#dead) break;
      for (const group of chunk.groups) this.perform(this.demux.groupWritten(group));
      this.#wake();
      if (chunk.delayMs > 0) await delay(chunk.delayMs);
      if (chunk.then === "close") this.abort("fault: close at a sent message");
      if (chunk.then === "freeze") this.#frozen = true;
      if (this.#dead || this.#frozen) break;
    }
    this.#writing = false;
    this.#wake();
  }

  async #writeAll(parts: readonly Uint8Array[]): Promise<void> {
    const [only] = parts;
    if (only === undefined) return;
    let rest = parts.length === 1 ? only : join(parts);
    while (rest.length > 0) rest = rest.subarray(await this.conn.write(rest));
  }

  /** The next bytes for the socket: our own messages first, then channels in turn. Undefined when there are none. */
  #collect(): Chunk | undefined {
    const chunk: Chunk = { parts: this.#raw, groups: [], bytes: 0, delayMs: 0, then: "go_on" };
    this.#raw = [];
    const max = this.around.limits.maxWriteBytes;
    const more = () => chunk.bytes < max && chunk.then === "go_on" && chunk.delayMs === 0;
    for (const message of this.#delayed.splice(0)) this.#seal(chunk, message);
    while (more() && this.#control.length > 0) {
      const message = this.#control.shift();
      if (message === undefined) break;
      this.#controlBytes -= message.length;
      this.#put(chunk, [message]);
    }
    while (more() && this.demux.writable) {
      const group = this.demux.nextGroup();
      if (group === undefined) break;
      chunk.groups.push(group);
      this.#put(chunk, group.frames);
    }
    const empty = chunk.parts.length === 0 && chunk.groups.length === 0;
    return empty && chunk.then === "go_on" && chunk.delayMs === 0 ? undefined : chunk;
  }

  /** Seals messages that leave together, as far as no fault comes between. */
  #put(chunk: Chunk, messages: readonly Uint8Array[]): void {
    const { faults } = this.around;
    for (const [index, message] of messages.entries()) {
      if (this.#blackhole || chunk.then !== "go_on") return;
      if (faults !== undefined) this.#trace("out", message);
      const verdict = faults?.judge("out", message) ?? { kind: "pass" };
      switch (verdict.kind) {
        case "pass":
        case "nothing":
        case "close_on_receive":
          this.#seal(chunk, message);
          break;
        case "drop":
          break;
        case "close_before":
          chunk.then = "close";
          break;
        case "close_after":
          this.#seal(chunk, message);
          chunk.then = "close";
          break;
        case "freeze_after":
          this.#seal(chunk, message);
          chunk.then = "freeze";
          break;
        case "blackhole":
          this.#blackhole = true;
          this.#wake();
          break;
        case "delay":
          this.#delayed.push(...messages.slice(index));
          chunk.delayMs = verdict.delayMs;
          return;
        default:
          unreachable(verdict);
      }
    }
  }

  /** In developer mode: what is said, by name only, before any fault is done to it. */
  #trace(direction: "in" | "out", message: Uint8Array): void {
    if (!this.#log.enabled("trace")) return;
    const type = messageTypeOf(message);
    const name = type === undefined ? undefined : messageName(type) ?? String(type);
    this.#log.trace({ direction, message: name }, "message");
  }

  #seal(chunk: Chunk, message: Uint8Array): void {
    this.around.traffic.messagesOut++;
    this.around.traffic.bytesOut += message.length;
    const sealed = this.#machine.seal(message);
    chunk.parts.push(sealed);
    chunk.bytes += sealed.length;
  }

  async #drain(reason: string): Promise<void> {
    const { limits } = this.around;
    this.perform(this.demux.drain(reason));
    const ended = await this.#until(() => this.demux.attachmentCount === 0, limits.drainSubds);
    const flushed = await this.#until(
      () => !this.#writing && this.#control.length === 0 && !this.demux.writable,
      limits.drainWrites,
    );
    this.#end(reason, ended && flushed);
  }

  /** Waits for a condition, looked at whenever something moved. */
  async #until(condition: () => boolean, ms: number): Promise<boolean> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let late = false;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        late = true;
        resolve();
      }, ms);
    });
    try {
      while (!condition()) {
        if (this.#dead || late) return false;
        await Promise.race([timeout, new Promise<void>((resolve) => this.#wakeDrain = resolve)]);
      }
      return !this.#dead;
    } finally {
      clearTimeout(timer);
      this.#wakeDrain = undefined;
    }
  }

  #end(reason: string, drained: boolean): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#machine.close();
    for (const id of this.#machine.abandonPings()) {
      this.around.events.pingFailed(this, id, "the connection ended");
    }
    for (const action of this.demux.gone(reason)) this.#performOne(action);
    this.#wake();
    this.around.events.closed(this, reason, drained);
    this.#closeSocket().finally(this.#resolveOver);
  }

  /**
   * FIN, then wait a little for the peer's: closing a socket that still has unread bytes resets the connection, and the
   * peer may lose our last message.
   */
  async #closeSocket(): Promise<void> {
    const timer = setTimeout(() => closeQuietly(this.conn), this.around.limits.drainFin);
    try {
      await this.conn.closeWrite();
      const buffer = new Uint8Array(READ_BYTES);
      while (await this.conn.read(buffer) !== null);
    } catch {
      // Reset, or closed by the timer: it is over either way.
    } finally {
      clearTimeout(timer);
      closeQuietly(this.conn);
    }
  }
}

function machineStart(around: Surroundings, identity: Identity) {
  return {
    localStatic: identity.nodeId,
    ephemeralSecret: freshSecret(),
    init: identity.init,
    limits: around.limits,
    now: around.now(),
  };
}

/** 32 random bytes; that they are no private key has a chance of 2^-128. */
function freshSecret(): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(32));
}

function addressText(address: Deno.NetAddr): string {
  return address.hostname.includes(":")
    ? `[${address.hostname}]:${address.port}`
    : `${address.hostname}:${address.port}`;
}

function closeQuietly(conn: Deno.TcpConn): void {
  try {
    conn.close();
  } catch {
    // Closed already.
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
