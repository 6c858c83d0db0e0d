/** Records to bytes and back: protobuf `arcus.hsmd.v1.Record`. */
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { err, ok, type Result, unreachable } from "bolt/result.ts";
import { type OutPoint, TXID_LENGTH } from "bolt/tx/transaction.ts";
import { DistrustReason as WireReason, type Record, RecordSchema } from "gen/arcus/hsmd/v1/memory_pb.ts";
import type { OutPoint as WireOutPoint } from "gen/arcus/types/v1/types_pb.ts";
import type { DistrustReason, MemoryRecord } from "./memory_state.ts";

/** Why bytes are no record. */
export type RecordFailure =
  | { readonly type: "malformed_record" }
  /** A newer hsmd wrote it: going on without it would forget a fact. */
  | { readonly type: "unknown_record" };

/** Reasons for distrust on the wire. */
export const WIRE_REASON: Readonly<{ [R in DistrustReason]: WireReason }> = {
  MEMORY_LOST: WireReason.LOST,
  MEMORY_ROLLED_BACK: WireReason.ROLLED_BACK,
};

function toFact(record: MemoryRecord): NonNullable<MessageInitShape<typeof RecordSchema>["fact"]> {
  switch (record.type) {
    case "database_bound":
      return { case: "databaseBound", value: record };
    case "memory_distrusted":
      return { case: "memoryDistrusted", value: { ...record, reason: WIRE_REASON[record.reason] } };
    case "memory_accepted":
      return { case: "memoryAccepted", value: {} };
    case "channel_drawn":
      return { case: "channelDrawn", value: record };
    case "channel_adopted":
      return { case: "channelAdopted", value: record };
    case "epoch_registered":
      return { case: "epochRegistered", value: record };
    case "terms_fixed":
      return { case: "termsFixed", value: record };
    case "remote_commitment_signed":
      return { case: "remoteCommitmentSigned", value: record };
    case "local_commitment_verified":
      return {
        case: "localCommitmentVerified",
        value: { ...record, fundingInputs: [...record.fundingInputs] },
      };
    case "inputs_signed":
      return { case: "inputsSigned", value: { ...record, inputs: [...record.inputs] } };
    case "destinations_named":
      return {
        case: "destinationsNamed",
        value: {
          channelKeyId: record.channelKeyId,
          outputs: record.outputs.map(({ amount, script }) => ({ amountSat: amount, script })),
        },
      };
    case "funding_locked":
      return { case: "fundingLocked", value: record };
    case "channel_frozen":
      return { case: "channelFrozen", value: record };
    case "closing_signed":
      return { case: "closingSigned", value: record };
    default:
      return unreachable(record);
  }
}

/** A record as bytes. */
export function encodeRecord(record: MemoryRecord): Uint8Array {
  return toBinary(RecordSchema, create(RecordSchema, { fact: toFact(record) }));
}

/** Thrown within a decoder, and caught there. */
export class Malformed extends Error {}

function outpointFrom(wire: WireOutPoint | undefined): OutPoint {
  if (wire === undefined || wire.txid.length !== TXID_LENGTH) throw new Malformed();
  return { txid: wire.txid, vout: wire.vout };
}

/** A reason from the wire. Throws {@link Malformed}. */
export function reasonFrom(wire: WireReason): DistrustReason {
  if (wire === WireReason.LOST) return "MEMORY_LOST";
  if (wire === WireReason.ROLLED_BACK) return "MEMORY_ROLLED_BACK";
  throw new Malformed();
}

function fromFact(fact: Record["fact"]): MemoryRecord | null {
  switch (fact.case) {
    case "databaseBound":
      return { type: "database_bound", databaseId: fact.value.databaseId };
    case "memoryDistrusted":
      return {
        type: "memory_distrusted",
        reason: reasonFrom(fact.value.reason),
        expectedMemoryId: fact.value.expectedMemoryId,
        highWater: fact.value.highWater,
      };
    case "memoryAccepted":
      return { type: "memory_accepted" };
    case "channelDrawn":
      return { type: "channel_drawn", channelKeyId: fact.value.channelKeyId, peerId: fact.value.peerId };
    case "channelAdopted":
      return { type: "channel_adopted", channelKeyId: fact.value.channelKeyId };
    case "epochRegistered":
      return { type: "epoch_registered", channelKeyId: fact.value.channelKeyId, epoch: fact.value.epoch };
    case "termsFixed":
      return { type: "terms_fixed", channelKeyId: fact.value.channelKeyId, digest: fact.value.digest };
    case "remoteCommitmentSigned":
    case "localCommitmentVerified": {
      const { channelKeyId, number, content } = fact.value;
      const common = { channelKeyId, outpoint: outpointFrom(fact.value.outpoint), number, content };
      if (fact.case === "remoteCommitmentSigned") return { type: "remote_commitment_signed", ...common };
      const fundingInputs = fact.value.fundingInputs.map(outpointFrom);
      return { type: "local_commitment_verified", ...common, fundingInputs };
    }
    case "inputsSigned":
      return {
        type: "inputs_signed",
        channelKeyId: fact.value.channelKeyId,
        outpoint: outpointFrom(fact.value.outpoint),
        inputs: fact.value.inputs.map(outpointFrom),
      };
    case "destinationsNamed":
      return {
        type: "destinations_named",
        channelKeyId: fact.value.channelKeyId,
        outputs: fact.value.outputs.map(({ amountSat, script }) => ({ amount: amountSat, script })),
      };
    case "fundingLocked":
      return {
        type: "funding_locked",
        channelKeyId: fact.value.channelKeyId,
        outpoint: outpointFrom(fact.value.outpoint),
      };
    case "channelFrozen":
      return { type: "channel_frozen", channelKeyId: fact.value.channelKeyId };
    case "closingSigned":
      return { type: "closing_signed", channelKeyId: fact.value.channelKeyId };
    case undefined:
      return null;
  }
}

/** A record from bytes. */
export function decodeRecord(bytes: Uint8Array): Result<MemoryRecord, RecordFailure> {
  try {
    const record = fromFact(fromBinary(RecordSchema, bytes).fact);
    return record === null ? err({ type: "unknown_record" }) : ok(record);
  } catch {
    return err({ type: "malformed_record" });
  }
}
