/**
 * All SQL of dualopend. Every step of an owner is one statement, fenced by owner epoch and version; every other write in
 * it selects from the fenced one's RETURNING, since a sibling of a WITH runs even when the fence matched nothing. A fence
 * that matches nothing is {@link SupersededError}: this owner was replaced, and says nothing more.
 */
import type { StoreStep } from "bolt/dualopen/actions.ts";
import { fundingScriptOf } from "bolt/dualopen/step.ts";
import type { Attempt, ChainFacts, ChannelParams, ChannelState, SavedChannel } from "bolt/dualopen/types.ts";
import type { PerSide, Side } from "bolt/interactive/types.ts";
import { unreachable } from "bolt/result.ts";
import { height } from "bolt/units.ts";
import type { Sql } from "common/pg/client.ts";
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
import { encodeParams, encodeWitnesses, plain, readSideColumn } from "subd/rows.ts";
import {
  type AttemptRow,
  type ChannelRow,
  decodeChannel,
  encodeAttempt,
  encodeFirstCommitments,
} from "./codec.ts";

/** An opening that was assigned. */
export interface LoadedOpening {
  readonly opening: bigint;
  readonly peerId: Uint8Array;
  readonly generation: bigint;
  readonly initiator: Side;
  readonly temporaryChannelId: Uint8Array;
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
}

/** A saved channel that was assigned. */
export interface LoadedChannel {
  readonly fence: Fence;
  readonly peerId: Uint8Array;
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly localAlias: bigint;
  readonly place: Place;
  readonly channel: SavedChannel;
  /** Features of both inits at the open. */
  readonly features: PerSide<Uint8Array>;
  /** funding_attempts.attempt by seq. */
  readonly attemptIds: ReadonlyMap<number, bigint>;
}

/** What a written attempt is known as. */
export interface SavedAttempt {
  readonly fence: Fence;
  readonly attemptId: bigint;
}

/** Steps that need nothing but the channel's fence. */
export type ChannelStep = Exclude<
  StoreStep,
  { readonly type: "save_open" | "save_attempt" | "drop_opening" | "lock" }
>;

/** A first open's row. SupersededError when this epoch does not own it. */
export async function loadOpening(sql: Sql, opening: bigint, epoch: bigint): Promise<LoadedOpening> {
  const [row] = await sql<{
    peer_id: Uint8Array;
    generation: bigint;
    initiator: string;
    temporary_channel_id: Uint8Array;
    channel_key_id: Uint8Array;
    payment_key_index: number;
  }[]>`
    SELECT peer_id, generation, initiator, temporary_channel_id, channel_key_id, payment_key_index
    FROM openings WHERE opening = ${opening} AND owner_epoch = ${epoch} AND channel IS NULL`;
  if (row === undefined) throw new SupersededError(`opening ${opening} is not owned by epoch ${epoch}`);
  return {
    opening,
    peerId: new Uint8Array(row.peer_id),
    generation: row.generation,
    initiator: readSideColumn(row.initiator),
    temporaryChannelId: new Uint8Array(row.temporary_channel_id),
    channelKeyId: new Uint8Array(row.channel_key_id),
    paymentKeyIndex: row.payment_key_index,
  };
}

/** A saved channel from its rows, in one look. SupersededError when this epoch does not own it; RowError. */
export async function loadChannel(sql: Sql, channel: bigint, epoch: bigint): Promise<LoadedChannel> {
  type Loaded = ChannelRow & AttemptRow & {
    readonly peer_id: Uint8Array;
    readonly version: bigint;
    readonly channel_key_id: Uint8Array;
    readonly payment_key_index: number;
    readonly local_alias: string;
    readonly generation: bigint;
    readonly in_seq: bigint;
    readonly out_seq: bigint;
    readonly reestablish_sent: boolean;
    readonly reestablish_received: boolean;
    readonly attempt: bigint;
  };
  const rows = await sql<Loaded[]>`
    SELECT c.peer_id, c.version, c.channel_key_id, c.payment_key_index, c.local_alias, c.generation, c.in_seq,
      c.out_seq, c.reestablish_sent, c.reestablish_received, c.channel_id, c.opener, c.state, c.params,
      (SELECT seq FROM funding_attempts l WHERE l.attempt = c.locked_attempt) AS locked_seq,
      c.channel_ready_received, c.remote_next_point, c.remote_alias, c.shutdown_sent, c.shutdown_received,
      c.error_text, f.attempt, f.seq, f.initiator, f.txid, f.output_index, f.local_contribution_sat,
      f.remote_contribution_sat, f.feerate_perkw, f.locktime, f.detail, f.created_height,
      f.remote_commitment_signature, f.local_tx_signatures, f.remote_tx_signatures, f.complete_tx, f.aborted
    FROM channels c JOIN funding_attempts f ON f.channel = c.channel
    WHERE c.channel = ${channel} AND c.owner_epoch = ${epoch}
    ORDER BY f.seq`;
  const [row] = rows;
  if (row === undefined) throw new SupersededError(`channel ${channel} is not owned by epoch ${epoch}`);
  const decoded = decodeChannel(row, rows);
  return {
    fence: { channel, epoch, version: row.version },
    peerId: new Uint8Array(row.peer_id),
    channelKeyId: new Uint8Array(row.channel_key_id),
    paymentKeyIndex: row.payment_key_index,
    localAlias: BigInt(row.local_alias),
    place: {
      generation: row.generation,
      inSeq: row.in_seq,
      outSeq: row.out_seq,
      reestablishSent: row.reestablish_sent,
      reestablishReceived: row.reestablish_received,
    },
    ...decoded,
    attemptIds: new Map(rows.map(({ seq, attempt }) => [seq, attempt])),
  };
}

/** A person's decision to close the channel; `script` where it names one. Undefined: there is none. */
export async function loadClosing(
  sql: Sql,
  channel: bigint,
): Promise<{ readonly script: Uint8Array | null } | undefined> {
  const [row] = await sql<
    { script: Uint8Array | null }[]
  >`SELECT script FROM closings WHERE channel = ${channel}`;
  return row === undefined ? undefined : { script: plain(row.script) };
}

/** What lightningd's rows say of the chain and of this channel's attempts; of an opening only the height. */
export async function loadChainFacts(sql: Sql, channel: bigint | null, atLeast: number): Promise<ChainFacts> {
  const rows = await sql<{
    tip: number | null;
    seq: number | null;
    height: number | null;
    coinbase: boolean | null;
    matches: boolean | null;
  }[]>`
    SELECT tip.height AS tip, k.seq, k.height, k.coinbase, k.matches
    FROM (SELECT max(height) AS height FROM blocks) tip
    LEFT JOIN (
      SELECT f.seq, a.height, a.coinbase, a.matches
      FROM funding_attempts f JOIN attempt_confirmations a USING (attempt)
      WHERE f.channel = ${channel}::bigint
    ) k ON true
    ORDER BY k.height, k.seq`;
  return {
    height: height(Math.max(rows[0]?.tip ?? 0, atLeast)),
    confirmed: rows.flatMap((row) =>
      row.seq === null ? [] : [{
        seq: row.seq,
        height: height(row.height ?? 0),
        coinbase: row.coinbase ?? false,
        matches: row.matches ?? false,
      }]
    ),
  };
}

/** What an attempt spends, for json_to_recordset. */
function inputsJson(attempt: Attempt): string {
  return JSON.stringify(attempt.tx.inputs.map((input) => ({
    serial_id: String(input.serialId),
    side: input.side,
    txid: input.outpoint.txid.toHex(),
    vout: input.outpoint.vout,
    amount_sat: String(input.amount),
  })));
}

/** The attempt's rows, for the channel that the CTE `made` names, and the reservations of the opening that it takes over. */
function attemptCtes(sql: Sql, attempt: Attempt, fundingScript: Uint8Array, opening: bigint) {
  const { tx } = attempt;
  return sql`
    attempt AS (
      INSERT INTO funding_attempts (channel, seq, initiator, txid, output_index, funding_script,
        local_contribution_sat, remote_contribution_sat, capacity_sat, feerate_perkw, fee_sat, locktime, detail,
        created_height)
      SELECT made.channel, ${attempt.seq}::integer, ${attempt.initiator}::text, ${tx.txid}::bytea,
        ${tx.fundingOutputIndex}::integer, ${fundingScript}::bytea, ${tx.contributions.local}::bigint,
        ${tx.contributions.remote}::bigint, ${tx.contributions.local + tx.contributions.remote}::bigint,
        ${tx.feerate}::bigint, ${tx.fees.local + tx.fees.remote}::bigint, ${tx.locktime}::bigint,
        ${encodeAttempt(attempt)}::bytea, ${attempt.createdHeight}::integer
      FROM made RETURNING attempt
    ),
    spent AS (
      INSERT INTO attempt_inputs (attempt, serial_id, side, txid, vout, amount_sat)
      SELECT attempt.attempt, i.serial_id, i.side, decode(i.txid, 'hex'), i.vout, i.amount_sat
      FROM attempt, json_to_recordset(${inputsJson(attempt)}::text::json)
        AS i (serial_id numeric, side text, txid text, vout bigint, amount_sat bigint)
      RETURNING side, txid, vout
    ),
    moved AS (
      UPDATE reservations r SET purpose = 'attempt', opening = NULL, channel = made.channel
      FROM made, spent
      WHERE r.opening = ${opening} AND spent.side = 'local' AND r.txid = spent.txid AND r.vout = spent.vout
      RETURNING 1
    )`;
}

/**
 * The first row of a channel, with its attempt, from the opening's row, whose reservations go along. Fails on any
 * conflict (a known channel id, alias or funding transaction); never an upsert.
 */
export async function saveOpen(
  sql: Sql,
  opening: { readonly opening: bigint; readonly epoch: bigint },
  saved: {
    readonly channel: SavedChannel;
    readonly features: PerSide<Uint8Array>;
    readonly localAlias: bigint;
    readonly place: Place;
  },
): Promise<SavedAttempt> {
  const { channel, features, localAlias, place } = saved;
  const [attempt] = channel.attempts;
  if (attempt === undefined) throw new RangeError("a channel without an attempt");
  const [row] = await sql<{ channel: bigint; version: bigint; attempt: bigint }[]>`
    WITH gone AS (
      DELETE FROM openings
      WHERE opening = ${opening.opening} AND owner_epoch = ${opening.epoch} AND channel IS NULL
        AND initiator = ${channel.opener}
      RETURNING *
    ),
    made AS (
      INSERT INTO channels (peer_id, channel_id, temporary_channel_id, opener, state, owner_epoch, owner_instance,
        channel_key_id, payment_key_index, params, generation, in_seq, out_seq, local_alias, created_height)
      SELECT peer_id, ${channel.channelId}::bytea, temporary_channel_id, initiator, ${channel.state}::text,
        owner_epoch, owner_instance, channel_key_id, payment_key_index,
        ${encodeParams(channel.params, features)}::bytea, ${place.generation}::bigint, ${place.inSeq}::bigint,
        ${place.outSeq}::bigint, ${String(localAlias)}::numeric, ${attempt.createdHeight}::integer
      FROM gone RETURNING channel, version
    ),
    ${attemptCtes(sql, attempt, fundingScriptOf(channel.params), opening.opening)}
    SELECT made.channel, made.version, attempt.attempt FROM made, attempt`;
  if (row === undefined) throw new SupersededError(`opening ${opening.opening} was taken away`);
  return {
    fence: { channel: row.channel, epoch: opening.epoch, version: row.version },
    attemptId: row.attempt,
  };
}

/** An RBF's attempt, from its opening's row. */
export async function saveAttempt(
  sql: Sql,
  fence: Fence,
  opening: bigint,
  saved: {
    readonly attempt: Attempt;
    readonly state: ChannelState;
    readonly params: ChannelParams;
    readonly place: Place;
  },
): Promise<SavedAttempt> {
  const { attempt, state, params, place } = saved;
  const [row] = await sql<{ version: bigint; attempt: bigint }[]>`
    WITH gone AS (
      DELETE FROM openings
      WHERE opening = ${opening} AND owner_epoch = ${fence.epoch} AND openings.channel = ${fence.channel}
        AND EXISTS (SELECT FROM channels WHERE ${fenced(sql, fence)} AND locked_attempt IS NULL)
      RETURNING openings.channel
    ),
    made AS (
      UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${stateColumns(sql, state)}
      FROM gone WHERE channels.channel = gone.channel AND ${fenced(sql, fence)}
      RETURNING channels.channel, channels.version
    ),
    ${attemptCtes(sql, attempt, fundingScriptOf(params), opening)}
    SELECT made.version, attempt.attempt, 1 / (SELECT count(*) FROM attempt) AS one FROM made, attempt`;
  if (row === undefined) throw new SupersededError(`opening ${opening} was taken away`);
  return { fence: { ...fence, version: row.version }, attemptId: row.attempt };
}

/**
 * Drops a first open with what it reserved; lightningd may have dropped it already, with a dead connection. SupersededError
 * when another epoch owns it.
 */
export async function dropOpening(sql: Sql, opening: bigint, epoch: bigint): Promise<void> {
  const [row] = await sql<{ taken: boolean }[]>`
    WITH gone AS (
      DELETE FROM openings WHERE opening = ${opening} AND owner_epoch = ${epoch} AND channel IS NULL
      RETURNING 1
    )
    SELECT EXISTS (SELECT FROM openings WHERE opening = ${opening} AND owner_epoch <> ${epoch}) AS taken`;
  if (row === undefined || row.taken) throw new SupersededError(`opening ${opening} was taken away`);
}

/**
 * Drops a channel's negotiation with what it reserved; there may be none any more, since lightningd drops those of a dead
 * connection too. SupersededError when the channel is somebody else's.
 */
export async function dropRbf(sql: Sql, fence: Fence): Promise<void> {
  const [row] = await sql`
    WITH mine AS (SELECT channel FROM channels WHERE ${fenced(sql, fence)}),
    gone AS (
      DELETE FROM openings USING mine
      WHERE openings.channel = mine.channel AND openings.owner_epoch = ${fence.epoch}
      RETURNING 1
    )
    SELECT channel FROM mine`;
  if (row === undefined) throw new SupersededError(`channel ${fence.channel} was taken away`);
}

/** Our channel_ready as sent: locks the attempt, and writes the commitments that channeld goes on from. */
export async function saveLock(
  sql: Sql,
  fence: Fence,
  lock: {
    readonly attempt: Attempt;
    readonly attemptId: bigint;
    readonly params: ChannelParams;
    readonly state: ChannelState;
    readonly place: Place;
  },
): Promise<Fence> {
  const { attempt, attemptId, params, state, place } = lock;
  // The attempt must be this channel's, complete as far as we need it, and not aborted behind our back.
  const rows = await sql<Versioned[]>`
    UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${stateColumns(sql, state)},
      locked_attempt = f.attempt, commitments = ${encodeFirstCommitments(attempt, attemptId, params)}
    FROM funding_attempts f
    WHERE ${fenced(sql, fence)} AND channels.locked_attempt IS NULL AND f.channel = channels.channel
      AND f.attempt = ${attemptId} AND f.seq = ${attempt.seq} AND f.remote_commitment_signature IS NOT NULL
    RETURNING channels.version`;
  return after(fence, rows);
}

/**
 * Any other step of a saved channel. Facts are written once: a step that would overwrite one, or that names an attempt
 * which is not there, changes nothing at all and fails.
 */
export async function saveStep(sql: Sql, fence: Fence, step: ChannelStep, place: Place): Promise<Fence> {
  switch (step.type) {
    case "save_remote_commitment_signature":
      return after(
        fence,
        await withAttempt(sql, fence, step.state, place, step.seq, {
          set: sql`remote_commitment_signature = ${step.signature}`,
          unless: sql`f.remote_commitment_signature IS NULL AND NOT f.aborted`,
        }),
      );
    case "save_tx_signatures": {
      // The peer's may be stored already, while our user had not signed yet: then these must be the same.
      const local = step.local === null ? null : encodeWitnesses(step.local);
      const remote = step.remote === null ? null : encodeWitnesses(step.remote);
      return after(
        fence,
        await withAttempt(sql, fence, step.state, place, step.seq, {
          set: sql`local_tx_signatures = COALESCE(${local}::bytea, f.local_tx_signatures),
            remote_tx_signatures = COALESCE(${remote}::bytea, f.remote_tx_signatures),
            complete_tx = COALESCE(${step.completeTx}::bytea, f.complete_tx)`,
          unless: sql`NOT f.aborted AND (${local}::bytea IS NULL OR f.local_tx_signatures IS NULL)
            AND (${remote}::bytea IS NULL OR COALESCE(f.remote_tx_signatures, ${remote}::bytea) = ${remote}::bytea)`,
        }),
      );
    }
    case "abort_attempt":
      return after(fence, await abortAttempt(sql, fence, step.state, place, step.seq));
    case "forget_channel": {
      const rows = await sql<Versioned[]>`
        DELETE FROM channels WHERE ${fenced(sql, fence)}
          AND NOT EXISTS (
            SELECT FROM funding_attempts f WHERE f.channel = channels.channel AND f.local_tx_signatures IS NOT NULL)
        RETURNING version`;
      return after(fence, rows);
    }
    case "save_remote_ready": {
      const alias = step.alias === null ? null : String(step.alias);
      const rows = await sql<Versioned[]>`
        UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${
        stateColumns(sql, step.state)
      },
          channel_ready_received = true, remote_next_point = ${step.secondPerCommitmentPoint},
          remote_alias = ${alias}
        WHERE ${fenced(sql, fence)} AND NOT channel_ready_received RETURNING version`;
      return after(fence, rows);
    }
    case "save_shutdown": {
      const rows = await sql<Versioned[]>`
        UPDATE channels SET version = version + 1, ${placeColumns(sql, place)},
          shutdown_sent = COALESCE(shutdown_sent, ${step.sent}::bytea),
          shutdown_received = COALESCE(${step.received}::bytea, shutdown_received)
        WHERE ${fenced(sql, fence)} RETURNING version`;
      return after(fence, rows);
    }
    case "save_state": {
      const rows = await sql<Versioned[]>`
        UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${
        stateColumns(sql, step.state)
      }
        WHERE ${fenced(sql, fence)} RETURNING version`;
      return after(fence, rows);
    }
    case "fail_channel": {
      const rows = await sql<Versioned[]>`
        UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, error_text = ${step.errorText}
        WHERE ${fenced(sql, fence)} RETURNING version`;
      return after(fence, rows);
    }
    default:
      return unreachable(step);
  }
}

type Fragment = ReturnType<Sql>;

/** The channel and one of its attempts together. The division undoes everything when the attempt was not as it must be. */
function withAttempt(
  sql: Sql,
  fence: Fence,
  state: ChannelState,
  place: Place,
  seq: number,
  change: { readonly set: Fragment; readonly unless: Fragment },
): Promise<Versioned[]> {
  return sql<Versioned[]>`
    WITH made AS (
      UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${stateColumns(sql, state)}
      WHERE ${fenced(sql, fence)} RETURNING channel, version
    ),
    changed AS (
      UPDATE funding_attempts f SET ${change.set}
      FROM made WHERE f.channel = made.channel AND f.seq = ${seq} AND ${change.unless}
      RETURNING 1
    )
    SELECT version, 1 / (SELECT count(*) FROM changed) AS one FROM made`;
}

/** Marks an attempt aborted; inputs of ours that no other attempt spends are free again. */
function abortAttempt(
  sql: Sql,
  fence: Fence,
  state: ChannelState,
  place: Place,
  seq: number,
): Promise<Versioned[]> {
  return sql<Versioned[]>`
    WITH made AS (
      UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${stateColumns(sql, state)}
      WHERE ${fenced(sql, fence)} RETURNING channel, version
    ),
    changed AS (
      UPDATE funding_attempts f SET aborted = true
      FROM made WHERE f.channel = made.channel AND f.seq = ${seq} AND NOT f.aborted
        AND f.local_tx_signatures IS NULL
      RETURNING f.attempt, f.channel
    ),
    freed AS (
      DELETE FROM reservations r USING changed, attempt_inputs i
      WHERE i.attempt = changed.attempt AND r.purpose = 'attempt' AND r.channel = changed.channel
        AND r.txid = i.txid AND r.vout = i.vout
        AND NOT EXISTS (
          SELECT FROM attempt_inputs o JOIN funding_attempts g USING (attempt)
          WHERE g.channel = changed.channel AND g.attempt <> changed.attempt AND NOT g.aborted
            AND o.txid = i.txid AND o.vout = i.vout)
      RETURNING 1
    )
    SELECT version, 1 / (SELECT count(*) FROM changed) AS one FROM made`;
}
