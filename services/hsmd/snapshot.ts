/** The whole memory to bytes and back: protobuf `arcus.hsmd.v1.Snapshot`. */
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { create, fromBinary, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { err, ok, type Result } from "bolt/result.ts";
import { type OutPoint, TXID_LENGTH } from "bolt/tx/transaction.ts";
import {
  type ChannelSnapshot,
  type CommitmentSnapshot,
  type OutpointSnapshot,
  type OutpointSnapshotSchema,
  SnapshotSchema,
} from "gen/arcus/hsmd/v1/memory_pb.ts";
import type { OutPoint as WireOutPoint } from "gen/arcus/types/v1/types_pb.ts";
import {
  bindInputs,
  type ChannelMemory,
  type CommitmentMemory,
  emptyMemory,
  type Memory,
  outpointKey,
  type OutpointMemory,
} from "./memory_state.ts";
import { Malformed, reasonFrom, type RecordFailure, WIRE_REASON } from "./record_codec.ts";

class Unknown extends Error {}

function outpointOfKey(key: string): OutPoint {
  const [txid = "", vout = ""] = key.split(":");
  return { txid: hexToBytes(txid), vout: Number(vout) };
}

function fromOutpoint(memory: OutpointMemory): MessageInitShape<typeof OutpointSnapshotSchema> {
  const { outpoint, local, remote, fundingInputs, signedInputs } = memory;
  return {
    outpoint,
    ...(local === null ? {} : { local }),
    ...(remote === null ? {} : { remote }),
    fundingInputs: [...fundingInputs].map(outpointOfKey),
    inputsSigned: signedInputs !== null,
    signedInputs: (signedInputs ?? []).map(outpointOfKey),
  };
}

/** The memory as bytes. */
export function encodeSnapshot(memory: Memory): Uint8Array {
  const { distrust } = memory;
  const message = create(SnapshotSchema, {
    highWater: memory.highWater,
    databaseId: memory.databaseId ?? new Uint8Array(0),
    ...(distrust === null ? {} : { distrust: WIRE_REASON[distrust.reason], distrustedSince: distrust.since }),
    accepted: memory.accepted,
    predecessors: [...memory.predecessors].map(hexToBytes),
    channels: [...memory.channels.values()].map((channel) => {
      const locked = channel.locked === null ? -1 : [...channel.outpoints.keys()].indexOf(channel.locked);
      return {
        channelKeyId: channel.channelKeyId,
        since: channel.since,
        epoch: channel.epoch,
        terms: channel.terms ?? new Uint8Array(0),
        ...(locked < 0 ? {} : { locked }),
        frozen: channel.frozen,
        closing: channel.closing,
        localOnWord: channel.onWord.local,
        remoteOnWord: channel.onWord.remote,
        named: channel.named.map(({ amount, script }) => ({ amountSat: amount, script })),
        outpoints: [...channel.outpoints.values()].map(fromOutpoint),
      };
    }),
  });
  return toBinary(SnapshotSchema, message);
}

/** A field that this version does not know is a fact that it would forget. */
function requireKnown(message: Message): void {
  if (message.$unknown !== undefined && message.$unknown.length > 0) throw new Unknown();
}

function toOutPoint(wire: WireOutPoint | undefined): OutPoint {
  if (wire === undefined || wire.txid.length !== TXID_LENGTH) throw new Malformed();
  return { txid: wire.txid, vout: wire.vout };
}

function toCommitment(wire: CommitmentSnapshot | undefined): CommitmentMemory | null {
  if (wire === undefined) return null;
  requireKnown(wire);
  return { number: wire.number, content: wire.content };
}

function toOutpoint(wire: OutpointSnapshot): OutpointMemory {
  requireKnown(wire);
  const signed = wire.signedInputs.map(toOutPoint).map(outpointKey);
  return {
    outpoint: toOutPoint(wire.outpoint),
    local: toCommitment(wire.local),
    remote: toCommitment(wire.remote),
    fundingInputs: new Set(wire.fundingInputs.map(toOutPoint).map(outpointKey)),
    signedInputs: wire.inputsSigned ? signed : null,
  };
}

function toChannel(wire: ChannelSnapshot): ChannelMemory {
  requireKnown(wire);
  const outpoints = wire.outpoints.map(toOutpoint);
  const locked = wire.locked === undefined ? null : outpoints[wire.locked];
  if (locked === undefined) throw new Malformed();
  return {
    channelKeyId: wire.channelKeyId,
    since: wire.since,
    epoch: wire.epoch,
    terms: wire.terms.length === 0 ? null : wire.terms,
    outpoints: new Map(outpoints.map((outpoint) => [outpointKey(outpoint.outpoint), outpoint])),
    locked: locked === null ? null : outpointKey(locked.outpoint),
    frozen: wire.frozen,
    closing: wire.closing,
    onWord: { local: wire.localOnWord, remote: wire.remoteOnWord },
    named: wire.named.map((output) => {
      requireKnown(output);
      return { amount: output.amountSat, script: output.script };
    }),
  };
}

function parse(bytes: Uint8Array): Memory {
  const wire = fromBinary(SnapshotSchema, bytes);
  requireKnown(wire);
  const memory = emptyMemory();
  memory.highWater = wire.highWater;
  memory.databaseId = wire.databaseId.length === 0 ? null : wire.databaseId;
  memory.distrust = wire.distrust === 0
    ? null
    : { reason: reasonFrom(wire.distrust), since: wire.distrustedSince };
  memory.accepted = wire.accepted;
  for (const id of wire.predecessors) memory.predecessors.add(bytesToHex(id));
  for (const each of wire.channels) {
    const channel = toChannel(each);
    const key = bytesToHex(channel.channelKeyId);
    if (memory.channels.has(key)) throw new Malformed();
    memory.channels.set(key, channel);
    for (const [funding, { signedInputs }] of channel.outpoints) {
      memory.fundings.set(funding, key);
      bindInputs(memory, funding, signedInputs ?? []);
    }
  }
  return memory;
}

/** The memory from bytes. */
export function decodeSnapshot(bytes: Uint8Array): Result<Memory, RecordFailure> {
  try {
    return ok(parse(bytes));
  } catch (error) {
    return err({ type: error instanceof Unknown ? "unknown_record" : "malformed_record" });
  }
}
