/**
 * Rows to the machine's types and back. What a row holds as one message carries a version: one newer than this build
 * knows is refused, so that an older daemon never owns what it would half understand.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type {
  Attempt,
  ChannelParams,
  ChannelState,
  SavedChannel,
  WalletKeyPath,
  WalletPart,
} from "bolt/dualopen/types.ts";
import type { CompletedInput, CompletedOutput, PerSide, Side } from "bolt/interactive/types.ts";
import { feerate, height, sat, toMsat, weight } from "bolt/units.ts";
import { CommitmentsSchema, FundingAttemptSchema } from "gen/arcus/store/v1/store_pb.ts";
import { Side as StoredSide } from "gen/arcus/types/v1/types_pb.ts";
import {
  checkVersion,
  decodeParams,
  decodeWitnesses,
  plain,
  reading,
  readSideColumn,
  RowError,
} from "subd/rows.ts";

/** Version of funding_attempts.detail that this build writes, and the newest that it reads. */
export const ATTEMPT_VERSION = 1;
/** The same for channels.commitments. */
export const COMMITMENTS_VERSION = 1;

// Attempts -------------------------------------------------------------------------------------------------------

function storeSide(side: Side | "shared"): StoredSide {
  switch (side) {
    case "local":
      return StoredSide.LOCAL;
    case "remote":
      return StoredSide.REMOTE;
    case "shared":
      return StoredSide.UNSPECIFIED;
  }
}

function readSide(side: StoredSide): Side {
  switch (side) {
    case StoredSide.LOCAL:
      return "local";
    case StoredSide.REMOTE:
      return "remote";
    default:
      throw new RowError(`funding_attempts.detail: side ${side}`);
  }
}

function storeKey(key: WalletKeyPath | undefined) {
  return key === undefined ? {} : { change: key.change, keyIndex: key.index };
}

function readKey(
  stored: { readonly change?: boolean | undefined; readonly keyIndex?: number | undefined },
): WalletKeyPath | undefined {
  const { change, keyIndex } = stored;
  if (change === undefined && keyIndex === undefined) return undefined;
  if (change === undefined || keyIndex === undefined) {
    throw new RowError("funding_attempts.detail: half a key");
  }
  return { change, index: keyIndex };
}

/** funding_attempts.detail: what of an attempt has no column of its own. */
export function encodeAttempt(attempt: Attempt): Uint8Array {
  const { tx, wallet } = attempt;
  const keyAt = (entries: WalletPart["inputs"], index: number) =>
    storeKey(entries.find((entry) => entry.index === index)?.key);
  return toBinary(
    FundingAttemptSchema,
    create(FundingAttemptSchema, {
      version: ATTEMPT_VERSION,
      tx: tx.unsignedTx,
      outputIndex: tx.fundingOutputIndex,
      inputs: tx.inputs.map((input, index) => ({
        serialId: input.serialId,
        side: storeSide(input.side),
        outpoint: { txid: input.outpoint.txid, vout: input.outpoint.vout },
        amountSat: input.amount,
        script: input.script,
        sequence: input.sequence,
        witnessWeight: input.witnessWeight,
        ...keyAt(wallet.inputs, index),
      })),
      outputs: tx.outputs.map((output, index) => ({
        serialId: output.serialId,
        side: storeSide(output.side),
        amountSat: output.amount,
        script: output.script,
        ...keyAt(wallet.change, index),
      })),
      localReserveSat: attempt.reserves.local,
      remoteReserveSat: attempt.reserves.remote,
      maxFeeSat: attempt.maxFee,
      localSignsFirst: tx.signsFirst === "local",
      awaitUserSignature: attempt.awaitUserSignature,
      localFeeSat: tx.fees.local,
      remoteFeeSat: tx.fees.remote,
    }),
  );
}

/** The columns of funding_attempts that an attempt is read from. */
export interface AttemptRow {
  readonly seq: number;
  readonly initiator: string;
  readonly txid: Uint8Array;
  readonly output_index: number;
  readonly local_contribution_sat: bigint;
  readonly remote_contribution_sat: bigint;
  readonly feerate_perkw: bigint;
  readonly locktime: bigint;
  readonly detail: Uint8Array;
  readonly created_height: number;
  readonly remote_commitment_signature: Uint8Array | null;
  readonly local_tx_signatures: Uint8Array | null;
  readonly remote_tx_signatures: Uint8Array | null;
  readonly complete_tx: Uint8Array | null;
  readonly aborted: boolean;
}

/** An attempt from its row. Throws RowError. */
export function decodeAttempt(row: AttemptRow, channelId: Uint8Array): Attempt {
  return reading("funding_attempts.detail", () => {
    const stored = fromBinary(FundingAttemptSchema, new Uint8Array(row.detail));
    checkVersion("funding_attempts.detail", stored.version, ATTEMPT_VERSION);
    if (stored.outputIndex !== row.output_index) throw new RowError("funding_attempts: two output indexes");
    const inputs: CompletedInput[] = [];
    const outputs: CompletedOutput[] = [];
    const walletInputs: WalletPart["inputs"][number][] = [];
    const change: WalletPart["change"][number][] = [];
    const destinations: number[] = [];
    const userInputs: number[] = [];
    for (const [index, input] of stored.inputs.entries()) {
      const side = readSide(input.side);
      const { outpoint } = input;
      if (outpoint === undefined) throw new RowError("funding_attempts.detail: an input without outpoint");
      inputs.push({
        serialId: input.serialId,
        side,
        outpoint: { txid: outpoint.txid, vout: outpoint.vout },
        amount: sat(input.amountSat),
        script: input.script,
        sequence: input.sequence,
        witnessWeight: weight(input.witnessWeight),
      });
      const key = readKey(input);
      if (key !== undefined) walletInputs.push({ index, key });
      else if (side === "local") userInputs.push(index);
    }
    for (const [index, output] of stored.outputs.entries()) {
      const side = output.side === StoredSide.UNSPECIFIED ? "shared" : readSide(output.side);
      outputs.push({
        serialId: output.serialId,
        side,
        amount: sat(output.amountSat),
        script: output.script,
      });
      const key = readKey(output);
      if (key !== undefined) change.push({ index, key });
      else if (side === "local") destinations.push(index);
    }
    const witnesses = (bytes: Uint8Array | null) => bytes === null ? null : decodeWitnesses(bytes);
    return {
      seq: row.seq,
      initiator: readSideColumn(row.initiator),
      tx: {
        channelId,
        initiator: readSideColumn(row.initiator),
        feerate: feerate(Number(row.feerate_perkw)),
        locktime: Number(row.locktime),
        unsignedTx: stored.tx,
        txid: plain(row.txid),
        inputs,
        outputs,
        fundingOutputIndex: stored.outputIndex,
        contributions: { local: sat(row.local_contribution_sat), remote: sat(row.remote_contribution_sat) },
        fees: { local: sat(stored.localFeeSat), remote: sat(stored.remoteFeeSat) },
        signsFirst: stored.localSignsFirst ? "local" : "remote",
      },
      reserves: { local: sat(stored.localReserveSat), remote: sat(stored.remoteReserveSat) },
      wallet: { inputs: walletInputs, change, destinations, userInputs },
      maxFee: sat(stored.maxFeeSat),
      awaitUserSignature: stored.awaitUserSignature,
      createdHeight: height(row.created_height),
      remoteCommitmentSignature: plain(row.remote_commitment_signature),
      localTxSignatures: witnesses(row.local_tx_signatures),
      remoteTxSignatures: witnesses(row.remote_tx_signatures),
      completeTx: plain(row.complete_tx),
      aborted: row.aborted,
    };
  });
}

// Channels -------------------------------------------------------------------------------------------------------

/** The columns of channels that a saved channel is read from. */
export interface ChannelRow {
  readonly channel_id: Uint8Array;
  readonly opener: string;
  readonly state: string;
  readonly params: Uint8Array;
  readonly locked_seq: number | null;
  readonly channel_ready_received: boolean;
  readonly remote_next_point: Uint8Array | null;
  readonly remote_alias: string | null;
  readonly shutdown_sent: Uint8Array | null;
  readonly shutdown_received: Uint8Array | null;
  readonly error_text: string | null;
}

const OWN_STATES: readonly ChannelState[] = [
  "DUALOPEND_OPEN_COMMIT_READY",
  "DUALOPEND_OPEN_COMMITTED",
  "DUALOPEND_AWAITING_LOCKIN",
  "CHANNELD_NORMAL",
];

/** A saved channel from its rows, attempts by rising seq. Throws RowError, also for a state that is not dualopend's. */
export function decodeChannel(
  row: ChannelRow,
  attempts: readonly AttemptRow[],
): { readonly channel: SavedChannel; readonly features: PerSide<Uint8Array> } {
  return reading("channels", () => {
    const state = OWN_STATES.find((own) => own === row.state);
    if (state === undefined) throw new RowError(`channels: state ${row.state} is another daemon's`);
    if (attempts.length === 0) throw new RowError("channels: no attempt");
    const channelId = plain(row.channel_id);
    const { params, features } = decodeParams(row.params);
    if (row.channel_ready_received !== (row.remote_next_point !== null)) {
      throw new RowError("channels: channel_ready without its point");
    }
    const channel: SavedChannel = {
      channelId,
      opener: readSideColumn(row.opener),
      state,
      params,
      attempts: attempts.map((attempt) => decodeAttempt(attempt, channelId)),
      lockedAttempt: row.locked_seq,
      remoteReady: row.remote_next_point === null ? null : {
        secondPerCommitmentPoint: plain(row.remote_next_point),
        alias: row.remote_alias === null ? null : BigInt(row.remote_alias),
      },
      shutdownSent: plain(row.shutdown_sent),
      shutdownReceived: plain(row.shutdown_received),
      errorText: row.error_text,
    };
    return { channel, features };
  });
}

/** channels.commitments at the lock: number 0 of both sides on the locked attempt, whose row has this id. */
export function encodeFirstCommitments(
  attempt: Attempt,
  attemptId: bigint,
  params: Pick<ChannelParams, "commitmentFeerate">,
): Uint8Array {
  const { tx, remoteCommitmentSignature } = attempt;
  if (remoteCommitmentSignature === null) throw new RowError("a lock without the peer's signature");
  return toBinary(
    CommitmentsSchema,
    create(CommitmentsSchema, {
      version: COMMITMENTS_VERSION,
      active: [{
        attempt: attemptId,
        funding: { txid: tx.txid, vout: tx.fundingOutputIndex },
        capacitySat: tx.contributions.local + tx.contributions.remote,
        localNumber: 0n,
        remoteNumber: 0n,
        toLocalMsat: toMsat(tx.contributions.local),
        toRemoteMsat: toMsat(tx.contributions.remote),
        feeratePerkw: params.commitmentFeerate,
        remoteSignature: remoteCommitmentSignature,
      }],
    }),
  );
}
