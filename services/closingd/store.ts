/** All SQL of closingd. Every step of an owner is one statement, fenced by owner epoch and version. */
import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import type { ClosingStore } from "bolt/closing/actions.ts";
import type { ClosingChannel } from "bolt/closing/types.ts";
import { lookupSecret, SHACHAIN_SLOTS, shachainIndex, type ShachainStore } from "bolt/keys/shachain.ts";
import { unreachable } from "bolt/result.ts";
import { msat, sat } from "bolt/units.ts";
import type { Sql } from "common/pg/client.ts";
import type { ChannelTermsSchema, CommitmentContentSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type Commitments, CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";
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
import { checkVersion, decodeParams, plain, reading, readSideColumn, RowError } from "subd/rows.ts";
import { channelTerms } from "subd/terms.ts";

/** Newest version of channels.commitments that this build reads. */
export const COMMITMENTS_VERSION = 2;
/** States that closingd owns. */
const OWN_STATES: readonly string[] = ["CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE"];

/** A channel that was assigned. */
export interface LoadedChannel {
  readonly fence: Fence;
  readonly place: Place;
  readonly channel: ClosingChannel;
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly terms: MessageInitShape<typeof ChannelTermsSchema>;
  readonly local: MessageInitShape<typeof CommitmentContentSchema>;
  /** Feature bits of both inits at the open. */
  readonly features: { readonly local: Uint8Array; readonly remote: Uint8Array };
}

/** What of channels.commitments a close needs. */
interface Figures {
  readonly funding: { readonly txid: Uint8Array; readonly vout: number };
  readonly capacitySat: bigint;
  readonly localNumber: bigint;
  readonly remoteNumber: bigint;
  readonly toLocalMsat: bigint;
  readonly toRemoteMsat: bigint;
  readonly feeratePerkw: number;
  readonly localCurrentPoint: Uint8Array;
  readonly localNextPoint: Uint8Array;
  readonly lastRemoteSecret: Uint8Array | null;
}

/** A channel in one of closingd's states, from its rows. SupersededError when this epoch does not own it; RowError. */
export async function loadChannel(sql: Sql, channel: bigint, epoch: bigint): Promise<LoadedChannel> {
  const [row] = await sql<{
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
    local_alias: string;
    shutdown_sent: Uint8Array | null;
    shutdown_received: Uint8Array | null;
    error_text: string | null;
    locked_attempt: bigint | null;
    channel_key_id: Uint8Array;
    payment_key_index: number;
  }[]>`
    SELECT version, channel_id, opener, state, params, commitments, generation, in_seq, out_seq, reestablish_sent,
      reestablish_received, local_alias, shutdown_sent, shutdown_received, error_text, locked_attempt, channel_key_id,
      payment_key_index
    FROM channels WHERE channel = ${channel} AND owner_epoch = ${epoch}`;
  if (row === undefined) throw new SupersededError(`channel ${channel} is not owned by epoch ${epoch}`);
  if (!OWN_STATES.includes(row.state)) throw new RowError(`channels: state ${row.state} is another daemon's`);
  const { commitments, shutdown_sent: sent, shutdown_received: received } = row;
  if (commitments === null || row.locked_attempt === null) {
    throw new RowError("channels: closing and not locked");
  }
  if (sent === null || received === null) throw new RowError("channels: closing without both shutdowns");
  const { params, features } = decodeParams(row.params);
  const opener = readSideColumn(row.opener);
  const firsts = {
    localCurrentPoint: params.local.firstPerCommitmentPoint,
    localNextPoint: params.local.secondPerCommitmentPoint,
  };
  const figures = readFigures(commitments, row.locked_attempt, firsts);
  const signed = await sql<{ txid: Uint8Array; fee_sat: bigint }[]>`
    SELECT txid, fee_sat FROM closing_txs WHERE channel = ${channel} ORDER BY created_at`;
  return {
    fence: { channel, epoch, version: row.version },
    place: {
      generation: row.generation,
      inSeq: row.in_seq,
      outSeq: row.out_seq,
      reestablishSent: row.reestablish_sent,
      reestablishReceived: row.reestablish_received,
    },
    channel: {
      channelId: plain(row.channel_id),
      opener,
      funding: figures.funding,
      capacity: sat(figures.capacitySat),
      fundingPubkeys: { local: params.local.fundingPubkey, remote: params.remote.fundingPubkey },
      localNumber: figures.localNumber,
      remoteNumber: figures.remoteNumber,
      toLocal: msat(figures.toLocalMsat),
      toRemote: msat(figures.toRemoteMsat),
      dustLimits: { local: params.local.dustLimit, remote: params.remote.dustLimit },
      localCurrentPoint: figures.localCurrentPoint,
      localNextPoint: figures.localNextPoint,
      localAlias: BigInt(row.local_alias),
      lastRemoteSecret: figures.lastRemoteSecret,
      shutdownSent: plain(sent),
      shutdownReceived: plain(received),
      remoteUpfrontShutdownScript: params.remote.upfrontShutdownScript,
      signed: signed.map(({ txid, fee_sat: fee }) => ({ txid: plain(txid), fee: sat(fee) })),
      errorText: row.error_text,
    },
    channelKeyId: plain(row.channel_key_id),
    paymentKeyIndex: row.payment_key_index,
    terms: channelTerms({ opener, params }),
    local: {
      number: figures.localNumber,
      toLocalMsat: figures.toLocalMsat,
      toRemoteMsat: figures.toRemoteMsat,
      feeratePerkw: figures.feeratePerkw,
    },
    features,
  };
}

/** Reads the column in either version. Throws RowError for a commitment that is not settled. */
function readFigures(
  bytes: Uint8Array,
  locked: bigint,
  firsts: Pick<Figures, "localCurrentPoint" | "localNextPoint">,
): Figures {
  return reading("channels.commitments", () => {
    const stored = fromBinary(CommitmentsSchema, new Uint8Array(bytes));
    checkVersion("channels.commitments", stored.version, COMMITMENTS_VERSION);
    const [c, another] = stored.active;
    if (c === undefined || another !== undefined || c.attempt !== locked) {
      throw new RowError("not on the locked attempt");
    }
    if (c.funding === undefined) throw new RowError("without an outpoint");
    const common = { funding: { txid: c.funding.txid, vout: c.funding.vout }, capacitySat: c.capacitySat };
    if (c.local === undefined || c.remote === undefined) {
      return { ...common, ...firsts, ...c, funding: common.funding, lastRemoteSecret: null };
    }
    // Its step is committed only when hsmd took the signatures, or the step after it; here there is none after it.
    const local = c.pendingLocal ?? c.local;
    if (c.nextRemote !== undefined) throw new RowError("a commitment of the peer's is not revoked");
    if (local.htlcs.length > 0 || c.remote.htlcs.length > 0) throw new RowError("closing with an HTLC");
    return {
      ...common,
      localNumber: local.number,
      remoteNumber: c.remote.number,
      toLocalMsat: local.toLocalMsat,
      toRemoteMsat: local.toRemoteMsat,
      feeratePerkw: local.feeratePerkw,
      localCurrentPoint: stored.localCurrentPoint,
      localNextPoint: stored.localNextPoint,
      lastRemoteSecret: lastSecret(stored, c.remote.number),
    };
  });
}

/** The peer's secret of the commitment before its newest one. */
function lastSecret(stored: Commitments, remoteNumber: bigint): Uint8Array | null {
  if (remoteNumber === 0n) return null;
  const slots = new Array<ShachainStore["slots"][number]>(SHACHAIN_SLOTS).fill(null);
  for (const { index, secret } of stored.shachain) slots[slotOf(index)] = { index, secret };
  const found = lookupSecret({ slots }, shachainIndex(remoteNumber - 1n));
  if (!found.ok) throw new RowError("the peer's last secret is missing");
  return found.value;
}

/** Where the store of secrets keeps an index: by its trailing zero bits. */
function slotOf(index: bigint): number {
  if (index < 0n || index > shachainIndex(0n)) throw new RowError(`shachain index ${index}`);
  let slot = 0;
  while (slot < SHACHAIN_SLOTS - 1 && ((index >> BigInt(slot)) & 1n) === 0n) slot++;
  return slot;
}

/** One durable step. SupersededError when another owner has the channel. */
export async function saveStep(
  sql: Sql,
  fence: Fence,
  step: ClosingStore,
  place: Place,
  funding: ClosingChannel["funding"],
): Promise<Fence> {
  switch (step.type) {
    case "save_close":
      return after(fence, await saveClose(sql, fence, step, place, funding));
    case "save_remote_script":
      return after(
        fence,
        await sql<Versioned[]>`
          UPDATE channels SET version = version + 1, ${
          placeColumns(sql, place)
        }, shutdown_received = ${step.script}
          WHERE ${fenced(sql, fence)} RETURNING version`,
      );
    case "fail_channel":
      return after(
        fence,
        await sql<Versioned[]>`
          UPDATE channels SET version = version + 1, ${placeColumns(sql, place)},
            error_text = COALESCE(error_text, ${step.errorText}), data_loss = data_loss OR ${step.dataLoss}
          WHERE ${fenced(sql, fence)} RETURNING version`,
      );
    default:
      return unreachable(step);
  }
}

/** The complete transaction, what it spends, whose close it is, and the state: one statement, before a word of it is said. */
async function saveClose(
  sql: Sql,
  fence: Fence,
  step: ClosingStore & { readonly type: "save_close" },
  place: Place,
  funding: ClosingChannel["funding"],
): Promise<Versioned[]> {
  const { txid, tx, fee, local } = step.close;
  return await sql<Versioned[]>`
    WITH moved AS (
      UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${
    stateColumns(sql, "CLOSINGD_COMPLETE")
  }, shutdown_received = COALESCE(${step.remoteScript}::bytea, shutdown_received)
      WHERE ${fenced(sql, fence)} RETURNING channel, version
    ),
    tx AS (
      INSERT INTO wallet_txs (txid, raw, kind, broadcast) SELECT ${txid}, ${tx}, 'close', true FROM moved
      ON CONFLICT (txid) DO NOTHING
    ),
    input AS (
      INSERT INTO wallet_tx_inputs (txid, prev_txid, prev_vout)
      SELECT ${txid}, ${funding.txid}, ${BigInt(funding.vout)} FROM moved ON CONFLICT DO NOTHING
    ),
    close AS (
      INSERT INTO closing_txs (txid, channel, fee_sat, local_sat)
      SELECT ${txid}, channel, ${fee}, ${local} FROM moved ON CONFLICT (txid) DO NOTHING
    )
    SELECT version FROM moved`;
}
