/** channels.commitments: read in both versions, written in the newest. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { ChannelParams } from "bolt/dualopen/types.ts";
import type {
  ActiveCommitment,
  ChannelCommitments,
  HtlcState,
  LocalCommitment,
  RemoteCommitment,
} from "bolt/channel/types.ts";
import type { PerSide } from "bolt/interactive/types.ts";
import { emptyShachain, SHACHAIN_SLOTS, shachainIndex, type ShachainStore } from "bolt/keys/shachain.ts";
import { feerate, msat, type Sat, sat } from "bolt/units.ts";
import {
  type Commitment as StoredCommitment,
  type Commitments as StoredCommitments,
  CommitmentsSchema,
  type LocalCommitment as StoredLocal,
  type RemoteCommitment as StoredRemote,
} from "gen/arcus/store/v1/store_pb.ts";
import { checkVersion, reading, RowError } from "subd/rows.ts";

/** Version of channels.commitments that this build writes, and the newest that it reads. */
export const COMMITMENTS_VERSION = 2;
/** Version of the lock-in's: number 0 of both sides, no HTLC. */
const LOCK_IN_VERSION = 1;

const HTLC_STATES: Readonly<Record<HtlcState, true>> = {
  SENT_ADD_HTLC: true,
  SENT_ADD_COMMIT: true,
  RCVD_ADD_REVOCATION: true,
  RCVD_ADD_ACK_COMMIT: true,
  SENT_ADD_ACK_REVOCATION: true,
  RCVD_REMOVE_HTLC: true,
  RCVD_REMOVE_COMMIT: true,
  SENT_REMOVE_REVOCATION: true,
  SENT_REMOVE_ACK_COMMIT: true,
  RCVD_REMOVE_ACK_REVOCATION: true,
  RCVD_ADD_HTLC: true,
  RCVD_ADD_COMMIT: true,
  SENT_ADD_REVOCATION: true,
  SENT_ADD_ACK_COMMIT: true,
  RCVD_ADD_ACK_REVOCATION: true,
  SENT_REMOVE_HTLC: true,
  SENT_REMOVE_COMMIT: true,
  RCVD_REMOVE_REVOCATION: true,
  RCVD_REMOVE_ACK_COMMIT: true,
  SENT_REMOVE_ACK_REVOCATION: true,
};

/** What the rows beside the message say. */
export interface CommitmentRows {
  readonly params: ChannelParams;
  /** channels.remote_next_point: what the peer's channel_ready said. */
  readonly remoteNextPoint: Uint8Array;
  /** The locked attempt. */
  readonly attempt: bigint;
  readonly reserves: PerSide<Sat>;
}

/** An HTLC state as a column or message names it. Throws RowError. */
export function readHtlcState(text: string): HtlcState {
  if (!isHtlcState(text)) throw new RowError(`HTLC state ${text}`);
  return text;
}

function isHtlcState(text: string): text is HtlcState {
  return Object.hasOwn(HTLC_STATES, text);
}

/** Reads the column. Throws RowError. */
export function decodeCommitments(bytes: Uint8Array, rows: CommitmentRows): ChannelCommitments {
  return reading("channels.commitments", () => {
    const stored = fromBinary(CommitmentsSchema, new Uint8Array(bytes));
    checkVersion("channels.commitments", stored.version, COMMITMENTS_VERSION);
    if (stored.active.length !== 1 || stored.active[0]?.attempt !== rows.attempt) {
      throw new RowError("channels.commitments: not on the locked attempt");
    }
    return stored.version === LOCK_IN_VERSION ? atLockIn(stored, rows) : read(stored, rows);
  });
}

function atLockIn(stored: StoredCommitments, { params, remoteNextPoint, reserves }: CommitmentRows) {
  return {
    active: stored.active.map((c): ActiveCommitment => {
      const figures = {
        toLocal: msat(c.toLocalMsat),
        toRemote: msat(c.toRemoteMsat),
        feerate: feerate(c.feeratePerkw),
        htlcs: [],
      };
      return {
        ...funding(c, reserves),
        local: {
          ...figures,
          number: c.localNumber,
          remoteSignature: c.remoteSignature,
          htlcSignatures: new Uint8Array(),
        },
        pendingLocal: null,
        remote: {
          ...figures,
          number: c.remoteNumber,
          perCommitmentPoint: params.remote.firstPerCommitmentPoint,
        },
        nextRemote: null,
      };
    }),
    localNextHtlcId: 0n,
    remoteNextHtlcId: 0n,
    localCurrentPoint: params.local.firstPerCommitmentPoint,
    localNextPoint: params.local.secondPerCommitmentPoint,
    remoteNextPoint,
    revokedLast: false,
    fees: [],
    shachain: emptyShachain(),
  };
}

function read(stored: StoredCommitments, { reserves }: CommitmentRows): ChannelCommitments {
  return {
    active: stored.active.map((c): ActiveCommitment => {
      if (c.local === undefined || c.remote === undefined) throw new RowError("a side is missing");
      return {
        ...funding(c, reserves),
        local: readLocal(c.local),
        pendingLocal: c.pendingLocal === undefined ? null : readLocal(c.pendingLocal),
        remote: readRemote(c.remote),
        nextRemote: c.nextRemote === undefined ? null : readRemote(c.nextRemote),
      };
    }),
    localNextHtlcId: stored.localNextHtlcId,
    remoteNextHtlcId: stored.remoteNextHtlcId,
    localCurrentPoint: stored.localCurrentPoint,
    localNextPoint: stored.localNextPoint,
    remoteNextPoint: stored.remoteNextPoint,
    revokedLast: stored.revokedLast,
    fees: stored.fees.map((fee) => ({
      feerate: feerate(fee.feeratePerkw),
      state: readHtlcState(fee.state),
    })),
    shachain: readShachain(stored),
  };
}

function funding(c: StoredCommitment, reserves: PerSide<Sat>) {
  if (c.funding === undefined) throw new RowError("channels.commitments: without an outpoint");
  return {
    attempt: c.attempt,
    funding: { txid: c.funding.txid, vout: c.funding.vout },
    capacity: sat(c.capacitySat),
    reserves,
  };
}

function figures(stored: StoredLocal | StoredRemote) {
  return {
    number: stored.number,
    toLocal: msat(stored.toLocalMsat),
    toRemote: msat(stored.toRemoteMsat),
    feerate: feerate(stored.feeratePerkw),
    htlcs: stored.htlcs,
  };
}

function readLocal(stored: StoredLocal): LocalCommitment {
  const { remoteSignature, htlcSignatures } = stored;
  return { ...figures(stored), remoteSignature, htlcSignatures };
}

function readRemote(stored: StoredRemote): RemoteCommitment {
  return { ...figures(stored), perCommitmentPoint: stored.perCommitmentPoint };
}

function readShachain({ shachain }: StoredCommitments): ShachainStore {
  const slots = new Array<ShachainStore["slots"][number]>(SHACHAIN_SLOTS).fill(null);
  for (const { index, secret } of shachain) slots[slotOf(index)] = { index, secret };
  return { slots };
}

/** Where the store of secrets keeps an index: by its trailing zero bits. */
function slotOf(index: bigint): number {
  if (index < 0n || index > shachainIndex(0n)) throw new RowError(`shachain index ${index}`);
  let slot = 0;
  while (slot < SHACHAIN_SLOTS - 1 && ((index >> BigInt(slot)) & 1n) === 0n) slot++;
  return slot;
}

function storeFigures(commitment: LocalCommitment | RemoteCommitment) {
  return {
    number: commitment.number,
    toLocalMsat: commitment.toLocal,
    toRemoteMsat: commitment.toRemote,
    feeratePerkw: commitment.feerate,
    htlcs: [...commitment.htlcs],
  };
}

function storeLocal(commitment: LocalCommitment) {
  const { remoteSignature, htlcSignatures } = commitment;
  return { ...storeFigures(commitment), remoteSignature, htlcSignatures };
}

function storeRemote(commitment: RemoteCommitment) {
  return { ...storeFigures(commitment), perCommitmentPoint: commitment.perCommitmentPoint };
}

/** The bytes of the column. */
export function encodeCommitments(commitments: ChannelCommitments): Uint8Array {
  return toBinary(
    CommitmentsSchema,
    create(CommitmentsSchema, {
      version: COMMITMENTS_VERSION,
      active: commitments.active.map((c) => ({
        attempt: c.attempt,
        funding: c.funding,
        capacitySat: c.capacity,
        local: storeLocal(c.local),
        ...(c.pendingLocal === null ? {} : { pendingLocal: storeLocal(c.pendingLocal) }),
        remote: storeRemote(c.remote),
        ...(c.nextRemote === null ? {} : { nextRemote: storeRemote(c.nextRemote) }),
      })),
      localNextHtlcId: commitments.localNextHtlcId,
      remoteNextHtlcId: commitments.remoteNextHtlcId,
      localCurrentPoint: commitments.localCurrentPoint,
      localNextPoint: commitments.localNextPoint,
      remoteNextPoint: commitments.remoteNextPoint,
      revokedLast: commitments.revokedLast,
      fees: commitments.fees.map((fee) => ({ feeratePerkw: fee.feerate, state: fee.state })),
      shachain: commitments.shachain.slots.flatMap((slot) => slot === null ? [] : [slot]),
    }),
  );
}
