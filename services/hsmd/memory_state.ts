/** What hsmd remembers, as the sum of its records. `applyRecord` is the only writer. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { unreachable } from "bolt/result.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";

/** Why existing channels are not signed for. */
export type DistrustReason = "MEMORY_LOST" | "MEMORY_ROLLED_BACK";

/** An output that lightningd named: amount and scriptPubKey. */
export interface NamedOutput {
  readonly amount: bigint;
  readonly script: Uint8Array;
}

/** A fact, in the order in which it was learnt. `content` names one content of a commitment, 32 bytes. */
export type MemoryRecord =
  | { readonly type: "database_bound"; readonly databaseId: Uint8Array }
  | {
    readonly type: "memory_distrusted";
    readonly reason: DistrustReason;
    /** Empty, or the id that was expected instead of ours. */
    readonly expectedMemoryId: Uint8Array;
    readonly highWater: bigint;
  }
  | { readonly type: "memory_accepted" }
  | { readonly type: "channel_drawn"; readonly channelKeyId: Uint8Array; readonly peerId: Uint8Array }
  | { readonly type: "channel_adopted"; readonly channelKeyId: Uint8Array }
  | { readonly type: "epoch_registered"; readonly channelKeyId: Uint8Array; readonly epoch: bigint }
  | { readonly type: "terms_fixed"; readonly channelKeyId: Uint8Array; readonly digest: Uint8Array }
  | {
    readonly type: "remote_commitment_signed";
    readonly channelKeyId: Uint8Array;
    readonly outpoint: OutPoint;
    readonly number: bigint;
    readonly content: Uint8Array;
  }
  | {
    readonly type: "local_commitment_verified";
    readonly channelKeyId: Uint8Array;
    readonly outpoint: OutPoint;
    readonly number: bigint;
    readonly content: Uint8Array;
    /** What the funding transaction spends; empty for numbers above 0. */
    readonly fundingInputs: readonly OutPoint[];
  }
  | {
    readonly type: "inputs_signed";
    readonly channelKeyId: Uint8Array;
    readonly outpoint: OutPoint;
    readonly inputs: readonly OutPoint[];
  }
  | {
    readonly type: "destinations_named";
    readonly channelKeyId: Uint8Array;
    readonly outputs: readonly NamedOutput[];
  }
  | { readonly type: "funding_locked"; readonly channelKeyId: Uint8Array; readonly outpoint: OutPoint }
  | { readonly type: "channel_frozen"; readonly channelKeyId: Uint8Array }
  | { readonly type: "closing_signed"; readonly channelKeyId: Uint8Array };

/** The newest commitment of one side: its number and its content. */
export interface CommitmentMemory {
  readonly number: bigint;
  readonly content: Uint8Array;
}

/** One funding outpoint of a channel. */
export interface OutpointMemory {
  readonly outpoint: OutPoint;
  /** Ours, verified with the peer's signature. */
  local: CommitmentMemory | null;
  /** The peer's, signed by us. */
  remote: CommitmentMemory | null;
  /** Keys of the outpoints that the funding transaction spends; empty before it was verified. */
  readonly fundingInputs: Set<string>;
  /** Our inputs that have our signature, as keys; null before any was signed. */
  signedInputs: readonly string[] | null;
}

/** One channel. */
export interface ChannelMemory {
  readonly channelKeyId: Uint8Array;
  /** Number of the record that made it known. */
  readonly since: bigint;
  /** 0: none registered. */
  epoch: bigint;
  terms: Uint8Array | null;
  readonly outpoints: Map<string, OutpointMemory>;
  /** Key of the locked outpoint. */
  locked: string | null;
  frozen: boolean;
  /** A cooperative close was signed: no newer commitment follows. */
  closing: boolean;
  readonly named: NamedOutput[];
  /**
   * Whose next commitment is taken from the database's word, whatever its number: a person accepted a memory that did not
   * know this channel, or may be behind it.
   */
  readonly onWord: { local: boolean; remote: boolean };
}

/** All of it. Read it anywhere, change it only by {@link applyRecord}. */
export interface Memory {
  /** Records so far (jumps ahead when a rollback was found). */
  highWater: bigint;
  databaseId: Uint8Array | null;
  /** Set: channels that were known at record `since` are not signed for. */
  distrust: { readonly reason: DistrustReason; readonly since: bigint } | null;
  /** A person accepted a memory with gaps: unknown channels are taken from the database's word. */
  accepted: boolean;
  /** Memory ids, in hex, that this one replaces (or will, once accepted). */
  readonly predecessors: Set<string>;
  readonly channels: Map<string, ChannelMemory>;
  /** Channel, in hex, of every funding outpoint that was ever signed for. */
  readonly fundings: Map<string, string>;
  /** Funding outpoints, as keys, of the attempts that have our signature on an input. */
  readonly boundInputs: Map<string, string[]>;
}

/** A memory without records. */
export function emptyMemory(): Memory {
  return {
    highWater: 0n,
    databaseId: null,
    distrust: null,
    accepted: false,
    predecessors: new Set(),
    channels: new Map(),
    fundings: new Map(),
    boundInputs: new Map(),
  };
}

/** An outpoint as a key of maps: hex of the txid (hashing order) and index. */
export function outpointKey(outpoint: OutPoint): string {
  return `${bytesToHex(outpoint.txid)}:${outpoint.vout}`;
}

function addChannel(memory: Memory, channelKeyId: Uint8Array, onWord: boolean): void {
  const key = bytesToHex(channelKeyId);
  if (memory.channels.has(key)) throw new Error("a channel became known twice");
  memory.channels.set(key, {
    channelKeyId,
    since: memory.highWater,
    epoch: 0n,
    terms: null,
    outpoints: new Map(),
    locked: null,
    frozen: false,
    closing: false,
    named: [],
    onWord: { local: onWord, remote: onWord },
  });
}

function channelOf(memory: Memory, channelKeyId: Uint8Array): ChannelMemory {
  const channel = memory.channels.get(bytesToHex(channelKeyId));
  if (channel === undefined) throw new Error("a record of a channel that is not known");
  return channel;
}

function outpointOf(memory: Memory, channelKeyId: Uint8Array, outpoint: OutPoint): OutpointMemory {
  const channel = channelOf(memory, channelKeyId);
  const key = outpointKey(outpoint);
  let found = channel.outpoints.get(key);
  if (found === undefined) {
    found = { outpoint, local: null, remote: null, fundingInputs: new Set(), signedInputs: null };
    channel.outpoints.set(key, found);
    memory.fundings.set(key, bytesToHex(channelKeyId));
  }
  return found;
}

/** Notes that an attempt has our signature on these inputs. */
export function bindInputs(memory: Memory, funding: string, inputs: readonly string[]): void {
  for (const input of inputs) {
    const bound = memory.boundInputs.get(input) ?? [];
    if (!bound.includes(funding)) memory.boundInputs.set(input, [...bound, funding]);
  }
}

/** Adds a fact. Throws only for a record that no rule ever makes. */
export function applyRecord(memory: Memory, record: MemoryRecord): void {
  memory.highWater += 1n;
  switch (record.type) {
    case "database_bound":
      memory.databaseId = record.databaseId;
      return;
    case "memory_distrusted":
      if (record.highWater > memory.highWater) memory.highWater = record.highWater;
      memory.distrust = { reason: record.reason, since: memory.highWater };
      if (record.expectedMemoryId.length > 0) memory.predecessors.add(bytesToHex(record.expectedMemoryId));
      return;
    case "memory_accepted":
      for (const { since, onWord } of memory.channels.values()) {
        if (memory.distrust === null || since > memory.distrust.since) continue;
        onWord.local = true;
        onWord.remote = true;
      }
      memory.distrust = null;
      memory.accepted = true;
      return;
    case "channel_drawn":
      return addChannel(memory, record.channelKeyId, false);
    case "channel_adopted":
      return addChannel(memory, record.channelKeyId, true);
    case "epoch_registered":
      channelOf(memory, record.channelKeyId).epoch = record.epoch;
      return;
    case "terms_fixed":
      channelOf(memory, record.channelKeyId).terms = record.digest;
      return;
    case "remote_commitment_signed": {
      const { number, content } = record;
      outpointOf(memory, record.channelKeyId, record.outpoint).remote = { number, content };
      channelOf(memory, record.channelKeyId).onWord.remote = false;
      return;
    }
    case "local_commitment_verified": {
      const { number, content } = record;
      const attempt = outpointOf(memory, record.channelKeyId, record.outpoint);
      attempt.local = { number, content };
      channelOf(memory, record.channelKeyId).onWord.local = false;
      for (const input of record.fundingInputs) attempt.fundingInputs.add(outpointKey(input));
      return;
    }
    case "inputs_signed": {
      const inputs = record.inputs.map(outpointKey);
      outpointOf(memory, record.channelKeyId, record.outpoint).signedInputs = inputs;
      return bindInputs(memory, outpointKey(record.outpoint), inputs);
    }
    case "destinations_named":
      channelOf(memory, record.channelKeyId).named.push(...record.outputs);
      return;
    case "funding_locked":
      outpointOf(memory, record.channelKeyId, record.outpoint);
      channelOf(memory, record.channelKeyId).locked = outpointKey(record.outpoint);
      return;
    case "channel_frozen":
      channelOf(memory, record.channelKeyId).frozen = true;
      return;
    case "closing_signed":
      channelOf(memory, record.channelKeyId).closing = true;
      return;
    default:
      return unreachable(record);
  }
}
