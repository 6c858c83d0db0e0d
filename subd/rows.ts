/**
 * What several subds read of a channel's rows. What a row holds as one message carries a version: one newer than this
 * build knows is refused, so that an older daemon never owns what it would half understand.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { ChannelParams, PartyParams } from "bolt/dualopen/types.ts";
import type { PerSide, Side } from "bolt/interactive/types.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import { decodeAll } from "bolt/wire/reader.ts";
import { encodeAll } from "bolt/wire/writer.ts";
import { ChannelParamsSchema, type PartyParams as StoredParty } from "gen/arcus/store/v1/store_pb.ts";

/** Version of channels.params that this build writes, and the newest that it reads. */
export const PARAMS_VERSION = 1;

/** A row that this build must not own: newer than it knows, or not what the schema promises. */
export class RowError extends Error {
  override readonly name = "RowError";
}

/** Throws RowError for a version that this build does not know. */
export function checkVersion(what: string, version: number, newest: number): void {
  if (version < 1 || version > newest) {
    throw new RowError(`${what}: version ${version}, this build knows 1 to ${newest}`);
  }
}

/** Runs a reader of a row; whatever it stumbles over is a {@link RowError}. */
export function reading<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof RowError) throw error;
    throw new RowError(`${what}: ${error instanceof Error ? error.message : "unreadable"}`, { cause: error });
  }
}

function storeParty(party: PartyParams, features: Uint8Array) {
  return {
    fundingPubkey: party.fundingPubkey,
    revocationBasepoint: party.revocationBasepoint,
    paymentBasepoint: party.paymentBasepoint,
    delayedPaymentBasepoint: party.delayedPaymentBasepoint,
    htlcBasepoint: party.htlcBasepoint,
    firstPerCommitmentPoint: party.firstPerCommitmentPoint,
    secondPerCommitmentPoint: party.secondPerCommitmentPoint,
    dustLimitSat: party.dustLimit,
    maxHtlcValueInFlightMsat: party.maxHtlcValueInFlight,
    htlcMinimumMsat: party.htlcMinimum,
    toSelfDelay: party.toSelfDelay,
    maxAcceptedHtlcs: party.maxAcceptedHtlcs,
    ...(party.upfrontShutdownScript === null ? {} : { upfrontShutdownScript: party.upfrontShutdownScript }),
    features,
  };
}

function readParty(stored: StoredParty | undefined): PartyParams {
  if (stored === undefined) throw new RowError("channels.params: a side is missing");
  return {
    fundingPubkey: stored.fundingPubkey,
    revocationBasepoint: stored.revocationBasepoint,
    paymentBasepoint: stored.paymentBasepoint,
    delayedPaymentBasepoint: stored.delayedPaymentBasepoint,
    htlcBasepoint: stored.htlcBasepoint,
    firstPerCommitmentPoint: stored.firstPerCommitmentPoint,
    secondPerCommitmentPoint: stored.secondPerCommitmentPoint,
    dustLimit: sat(stored.dustLimitSat),
    maxHtlcValueInFlight: msat(stored.maxHtlcValueInFlightMsat),
    htlcMinimum: msat(stored.htlcMinimumMsat),
    toSelfDelay: stored.toSelfDelay,
    maxAcceptedHtlcs: stored.maxAcceptedHtlcs,
    upfrontShutdownScript: stored.upfrontShutdownScript ?? null,
  };
}

/** channels.params of a channel and the features of both inits at its open. */
export function encodeParams(params: ChannelParams, features: PerSide<Uint8Array>): Uint8Array {
  return toBinary(
    ChannelParamsSchema,
    create(ChannelParamsSchema, {
      version: PARAMS_VERSION,
      local: storeParty(params.local, features.local),
      remote: storeParty(params.remote, features.remote),
      channelType: params.channelType,
      commitmentFeeratePerkw: params.commitmentFeerate,
      minimumDepth: params.minimumDepth,
      channelFlags: 0,
    }),
  );
}

/** What {@link encodeParams} wrote. Throws RowError. */
export function decodeParams(
  bytes: Uint8Array,
): { readonly params: ChannelParams; readonly features: PerSide<Uint8Array> } {
  return reading("channels.params", () => {
    const stored = fromBinary(ChannelParamsSchema, new Uint8Array(bytes));
    checkVersion("channels.params", stored.version, PARAMS_VERSION);
    return {
      params: {
        local: readParty(stored.local),
        remote: readParty(stored.remote),
        channelType: stored.channelType,
        commitmentFeerate: feerate(stored.commitmentFeeratePerkw),
        minimumDepth: stored.minimumDepth,
      },
      features: {
        local: stored.local?.features ?? new Uint8Array(),
        remote: stored.remote?.features ?? new Uint8Array(),
      },
    };
  });
}

/** A side as the columns name it. Throws RowError. */
export function readSideColumn(text: string): Side {
  if (text !== "local" && text !== "remote") throw new RowError(`side ${text}`);
  return text;
}

/** Witnesses as `tx_signatures` carries them: a u16 count, then each with a u16 length (BOLT 2). */
export function encodeWitnesses(witnesses: readonly Uint8Array[]): Uint8Array {
  return encodeAll((writer) => {
    writer.u16(witnesses.length);
    for (const witness of witnesses) writer.bytes16(witness);
  });
}

/** What {@link encodeWitnesses} wrote. Throws RowError. */
export function decodeWitnesses(bytes: Uint8Array): readonly Uint8Array[] {
  const read = decodeAll(new Uint8Array(bytes), (reader) => {
    const count = reader.u16();
    return Array.from({ length: count }, () => reader.bytes16());
  });
  if (!read.ok) throw new RowError(`tx_signatures: ${read.error.reason}`);
  return read.value;
}

/** A bytea column as plain bytes; null stays null. */
export function plain(bytes: Uint8Array): Uint8Array;
export function plain(bytes: Uint8Array | null): Uint8Array | null;
export function plain(bytes: Uint8Array | null): Uint8Array | null {
  return bytes === null ? null : new Uint8Array(bytes);
}
