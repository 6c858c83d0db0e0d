/** All SQL of channeld. Every step of an owner is one statement, fenced by owner epoch and version. */
import { fromBinary } from "@bufbuild/protobuf";
import type {
  ActiveCommitment,
  ChannelStore,
  FundingOnChain,
  LockedChannel,
  OpenState,
} from "bolt/channel/before/types.ts";
import { unreachable } from "bolt/result.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import type { Sql } from "common/pg/client.ts";
import { CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";
import {
  after,
  type Fence,
  fenced,
  type Place,
  placeColumns,
  stateColumns,
  SupersededError,
  type Versioned,
} from "subd/fence.ts";
import {
  checkVersion,
  decodeParams,
  decodeWitnesses,
  plain,
  reading,
  readSideColumn,
  RowError,
} from "subd/rows.ts";

/** Newest version of channels.commitments that this build reads. */
export const COMMITMENTS_VERSION = 1;

const OWN_STATES: readonly OpenState[] = [
  "CHANNELD_AWAITING_LOCKIN",
  "CHANNELD_NORMAL",
  "CHANNELD_SHUTTING_DOWN",
];

/** A channel that was assigned. */
export interface LoadedChannel {
  readonly fence: Fence;
  readonly peerId: Uint8Array;
  readonly place: Place;
  /** Without our own shutdown script, which lightningd gives with the assignment where none was fixed. */
  readonly channel: Omit<LockedChannel, "localShutdownScript">;
  readonly localUpfrontShutdownScript: Uint8Array | null;
  /** Feature bits of both inits at the open. */
  readonly features: { readonly local: Uint8Array; readonly remote: Uint8Array };
  readonly onChain: FundingOnChain;
}

/** A locked channel from its rows. SupersededError when this epoch does not own it; RowError. */
export async function loadChannel(sql: Sql, channel: bigint, epoch: bigint): Promise<LoadedChannel> {
  const [row] = await sql<{
    peer_id: Uint8Array;
    version: bigint;
    channel_id: Uint8Array;
    opener: string;
    state: string;
    params: Uint8Array;
    commitments: Uint8Array | null;
    generation: bigint;
    in_seq: bigint;
    out_seq: bigint;
    reestablish_sent: boolean;
    reestablish_received: boolean;
    remote_next_point: Uint8Array | null;
    local_alias: string;
    remote_alias: string | null;
    shutdown_sent: Uint8Array | null;
    shutdown_received: Uint8Array | null;
    error_text: string | null;
    attempt: bigint;
    seq: number;
    local_tx_signatures: Uint8Array | null;
  }[]>`
    SELECT c.peer_id, c.version, c.channel_id, c.opener, c.state, c.params, c.commitments, c.generation, c.in_seq,
      c.out_seq, c.reestablish_sent, c.reestablish_received, c.remote_next_point, c.local_alias, c.remote_alias,
      c.shutdown_sent, c.shutdown_received, c.error_text, f.attempt, f.seq, f.local_tx_signatures
    FROM channels c JOIN funding_attempts f ON f.attempt = c.locked_attempt
    WHERE c.channel = ${channel} AND c.owner_epoch = ${epoch}`;
  if (row === undefined) throw new SupersededError(`channel ${channel} is not owned by epoch ${epoch}`);
  const state = OWN_STATES.find((own) => own === row.state);
  if (state === undefined) throw new RowError(`channels: state ${row.state} is another daemon's`);
  const { commitments, remote_next_point: remoteNextPoint } = row;
  if (commitments === null || remoteNextPoint === null) {
    throw new RowError("channels: locked without commitments");
  }
  const { params, features } = decodeParams(row.params);
  return {
    fence: { channel, epoch, version: row.version },
    peerId: plain(row.peer_id),
    place: {
      generation: row.generation,
      inSeq: row.in_seq,
      outSeq: row.out_seq,
      reestablishSent: row.reestablish_sent,
      reestablishReceived: row.reestablish_received,
    },
    channel: {
      channelId: plain(row.channel_id),
      opener: readSideColumn(row.opener),
      state,
      active: decodeCommitments(commitments, row),
      // A peer whose signatures alone completed it never needed ours.
      localTxSignatures: row.local_tx_signatures === null ? [] : decodeWitnesses(row.local_tx_signatures),
      localNextPoint: params.local.secondPerCommitmentPoint,
      remoteNextPoint: plain(remoteNextPoint),
      localCurrentPoint: params.local.firstPerCommitmentPoint,
      localAlias: BigInt(row.local_alias),
      remoteAlias: row.remote_alias === null ? null : BigInt(row.remote_alias),
      shutdownSent: plain(row.shutdown_sent),
      shutdownReceived: plain(row.shutdown_received),
      remoteUpfrontShutdownScript: params.remote.upfrontShutdownScript,
      errorText: row.error_text,
    },
    localUpfrontShutdownScript: params.local.upfrontShutdownScript,
    features,
    onChain: await loadOnChain(sql, channel),
  };
}

/** channels.commitments, whose first entry is on the locked attempt. */
function decodeCommitments(
  bytes: Uint8Array,
  locked: { readonly attempt: bigint; readonly seq: number },
): ActiveCommitment[] {
  return reading("channels.commitments", () => {
    const stored = fromBinary(CommitmentsSchema, new Uint8Array(bytes));
    checkVersion("channels.commitments", stored.version, COMMITMENTS_VERSION);
    if (stored.active.length !== 1 || stored.active[0]?.attempt !== locked.attempt) {
      throw new RowError("channels.commitments: not on the locked attempt");
    }
    return stored.active.map((c) => {
      if (c.funding === undefined) throw new RowError("channels.commitments: without an outpoint");
      return {
        seq: locked.seq,
        funding: { txid: c.funding.txid, vout: c.funding.vout },
        capacity: sat(c.capacitySat),
        localNumber: c.localNumber,
        remoteNumber: c.remoteNumber,
        toLocal: msat(c.toLocalMsat),
        toRemote: msat(c.toRemoteMsat),
        feerate: feerate(c.feeratePerkw),
      };
    });
  });
}

/** What lightningd's rows say of the locked output and its siblings. */
export async function loadOnChain(sql: Sql, channel: bigint): Promise<FundingOnChain> {
  const rows = await sql<{ seq: number; locked: boolean }[]>`
    SELECT f.seq, f.attempt = c.locked_attempt AS locked
    FROM channels c JOIN funding_attempts f USING (channel) JOIN attempt_confirmations USING (attempt)
    WHERE c.channel = ${channel}`;
  const sibling = rows.find((row) => !row.locked);
  if (sibling !== undefined) return { type: "sibling_confirmed", seq: sibling.seq };
  return rows.length > 0 ? { type: "confirmed" } : { type: "undone" };
}

/** One durable step. SupersededError when another owner has the channel. */
export async function saveStep(sql: Sql, fence: Fence, step: ChannelStore, place: Place): Promise<Fence> {
  switch (step.type) {
    case "save_remote_alias":
      return after(
        fence,
        await sql<Versioned[]>`
          UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, remote_alias = ${
          String(step.alias)
        }
          WHERE ${fenced(sql, fence)} RETURNING version`,
      );
    case "save_shutdown":
      return after(
        fence,
        await sql<Versioned[]>`
          UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${
          stateColumns(sql, step.state)
        },
            shutdown_sent = COALESCE(shutdown_sent, ${step.sent}::bytea),
            shutdown_received = COALESCE(${step.received}::bytea, shutdown_received)
          WHERE ${fenced(sql, fence)} RETURNING version`,
      );
    case "fail_channel":
      return after(
        fence,
        await sql<Versioned[]>`
          UPDATE channels SET version = version + 1, ${placeColumns(sql, place)},
            error_text = COALESCE(error_text, ${step.errorText})
          WHERE ${fenced(sql, fence)} RETURNING version`,
      );
    default:
      return unreachable(step);
  }
}
