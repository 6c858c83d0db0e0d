/** lightningd's statements about connections, owners and openings. Each is one statement, fenced by the leader epoch. */
import { fromBinary } from "@bufbuild/protobuf";
import type { Sql } from "common/pg/client.ts";
import {
  type ChannelParams,
  ChannelParamsSchema,
  type FundingAttempt,
  FundingAttemptSchema,
} from "gen/arcus/store/v1/store_pb.ts";
import { fence, requireLeadership } from "../leader.ts";
import type { Leader } from "../ports.ts";

/** States that dualopend owns. */
export const DUALOPEND_STATES = [
  "DUALOPEND_OPEN_COMMIT_READY",
  "DUALOPEND_OPEN_COMMITTED",
  "DUALOPEND_AWAITING_LOCKIN",
] as const;
/** States that channeld owns. */
export const CHANNELD_STATES = [
  "CHANNELD_AWAITING_LOCKIN",
  "CHANNELD_NORMAL",
  "CHANNELD_SHUTTING_DOWN",
] as const;

/** States that closingd owns. A complete close needs nobody: closingd is called when the peer asks for it again. */
export const CLOSINGD_STATES = ["CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE"] as const;

/** The daemons that own channels today. */
export type SubdKind = "dualopend" | "channeld" | "closingd";

/** Whose a channel in this state is; undefined: nobody talks to the peer about it. */
export function ownerOf(state: string): SubdKind | undefined {
  if (DUALOPEND_STATES.some((s) => s === state)) return "dualopend";
  if (CHANNELD_STATES.some((s) => s === state)) return "channeld";
  if (CLOSINGD_STATES.some((s) => s === state)) return "closingd";
  return undefined;
}

const LIVE_STATES: readonly string[] = [...DUALOPEND_STATES, ...CHANNELD_STATES, "CLOSINGD_SIGEXCHANGE"];

/** Whether lightningd calls the owner of a channel in this state by itself, and keeps its peer connected. */
export function isLive(state: string): boolean {
  return LIVE_STATES.includes(state);
}

/** What a negotiation that lost its connection leaves to be told. */
export interface DroppedOpening {
  readonly opening: bigint;
  /** The RBF's channel; null for a first open. */
  readonly channel: bigint | null;
  readonly owner_epoch: bigint;
  readonly owner_instance: string;
}

/** A row of `connections` that is live. */
export interface ConnectionRow {
  readonly generation: bigint;
  readonly peer_id: Uint8Array;
  readonly connectd_instance: string;
  readonly connection: bigint;
}

/** What assignment and verdicts need of a channel. */
export interface ChannelRow {
  readonly channel: bigint;
  readonly peer_id: Uint8Array;
  readonly channel_id: Uint8Array;
  readonly temporary_channel_id: Uint8Array;
  readonly state: string;
  readonly error_text: string | null;
  readonly owner_epoch: bigint;
  readonly owner_instance: string;
  /** Not the state's daemon: the handover at lock-in is still to come. */
  readonly owner_daemon: SubdKind;
  readonly version: bigint;
  readonly channel_key_id: Uint8Array;
  readonly payment_key_index: number;
  readonly generation: bigint;
  readonly reestablish_sent: boolean;
  readonly locked_attempt: bigint | null;
}

/** What assignment and verdicts need of an opening. */
export interface OpeningRow {
  readonly opening: bigint;
  readonly peer_id: Uint8Array;
  readonly generation: bigint;
  readonly channel: bigint | null;
  readonly initiator: "local" | "remote";
  readonly owner_epoch: bigint;
  readonly owner_instance: string;
  readonly temporary_channel_id: Uint8Array | null;
  readonly channel_key_id: Uint8Array | null;
  readonly payment_key_index: number | null;
  readonly created_at: Date;
}

/** A funding attempt with what the chain says of it. */
export interface AttemptRow {
  readonly attempt: bigint;
  readonly channel: bigint;
  readonly seq: number;
  readonly initiator: "local" | "remote";
  readonly txid: Uint8Array;
  readonly output_index: number;
  readonly funding_script: Uint8Array;
  readonly local_contribution_sat: bigint;
  readonly remote_contribution_sat: bigint;
  readonly capacity_sat: bigint;
  readonly feerate_perkw: bigint;
  readonly fee_sat: bigint;
  readonly detail: FundingAttempt;
  readonly created_height: number;
  readonly committed: boolean;
  readonly local_signed: boolean;
  readonly remote_signed: boolean;
  readonly complete_tx: Uint8Array | null;
  readonly aborted: boolean;
  readonly confirmed_height: number | null;
  readonly confirmed_index: number | null;
  readonly matches: boolean | null;
}

/** A channel for listings. */
export interface ChannelListRow extends ChannelRow {
  readonly opener: "local" | "remote";
  readonly params: ChannelParams;
  readonly local_alias: bigint;
  readonly remote_alias: bigint | null;
  readonly channel_ready_received: boolean;
  readonly reestablish_received: boolean;
  readonly shutdown_sent: Uint8Array | null;
  readonly shutdown_received: Uint8Array | null;
  readonly created_at: Date;
  readonly state_changed_at: Date;
}

/** The statements. */
export class PeerStore {
  constructor(private readonly sql: Sql, private readonly leader: Leader) {}

  /** Throws when a statement found nothing because another lightningd leads. */
  async #led<T>(value: T | undefined): Promise<T | undefined> {
    if (value === undefined) await requireLeadership(this.sql, this.leader);
    return value;
  }

  // ------------------------------------------------------------------------------------------------ connections

  /**
   * A new connection: closes the live one of that peer, ends every negotiation with it, and answers the generation. The
   * same (instance, connection) again answers the same generation.
   */
  async acceptConnection(connection: {
    readonly peerId: Uint8Array;
    readonly instance: string;
    readonly connection: bigint;
    readonly incoming: boolean;
    readonly remoteAddr: string;
    readonly features: Uint8Array;
  }): Promise<{ readonly generation: bigint; readonly dropped: readonly DroppedOpening[] }> {
    const { sql, leader } = this;
    const [row] = await sql<{ generation: bigint; dropped: unknown }[]>`
      WITH ${fence(sql, leader)},
      old AS (
        UPDATE connections SET disconnected_at = now()
        WHERE peer_id = ${connection.peerId} AND disconnected_at IS NULL AND EXISTS (SELECT FROM fence)
          AND NOT (connectd_instance = ${connection.instance} AND connection = ${connection.connection})
        RETURNING generation
      ),
      fresh AS (
        INSERT INTO connections (peer_id, connectd_instance, connection, incoming, remote_addr, features)
        SELECT ${connection.peerId}, ${connection.instance}, ${connection.connection}, ${connection.incoming},
          ${connection.remoteAddr}, ${connection.features}
        FROM fence, (SELECT count(*) FROM old) closed
        ON CONFLICT (connectd_instance, connection) DO UPDATE SET disconnected_at = NULL
        RETURNING generation
      )
      SELECT generation FROM fresh`;
    if (await this.#led(row) === undefined || row === undefined) throw new Error("no connection row");
    const { generation } = row;
    const dropped = await sql<DroppedOpening[]>`
      WITH ${fence(sql, leader)}
      DELETE FROM openings
      WHERE peer_id = ${connection.peerId} AND generation < ${generation} AND EXISTS (SELECT FROM fence)
      RETURNING opening, channel, owner_epoch, owner_instance`;
    return { generation, dropped: [...dropped] };
  }

  /** A connection ended, and with it every negotiation on it. */
  async closeConnection(generation: bigint): Promise<DroppedOpening[]> {
    const { sql, leader } = this;
    return [
      ...await sql<DroppedOpening[]>`
        WITH ${fence(sql, leader)},
        closed AS (
          UPDATE connections SET disconnected_at = now()
          WHERE generation = ${generation} AND disconnected_at IS NULL AND EXISTS (SELECT FROM fence)
        )
        DELETE FROM openings WHERE generation = ${generation} AND EXISTS (SELECT FROM fence)
        RETURNING opening, channel, owner_epoch, owner_instance`,
    ];
  }

  /** Connections that count as live. */
  async liveConnections(): Promise<ConnectionRow[]> {
    return [
      ...await this.sql<ConnectionRow[]>`
        SELECT generation, peer_id, connectd_instance, connection FROM connections WHERE disconnected_at IS NULL`,
    ];
  }

  /** Where a peer was reached before, the latest first. */
  async addresses(peerId: Uint8Array): Promise<string[]> {
    const rows = await this.sql<{ address: string }[]>`
      SELECT address FROM peer_addresses WHERE peer_id = ${peerId} ORDER BY used_at DESC LIMIT ${MAX_ADDRESSES}`;
    return rows.map((row) => row.address);
  }

  /** An address that worked. */
  async rememberAddress(peerId: Uint8Array, address: string): Promise<void> {
    const { sql, leader } = this;
    await sql`
      WITH ${fence(sql, leader)},
      kept AS (
        INSERT INTO peer_addresses (peer_id, address) SELECT ${peerId}, ${address} FROM fence
        ON CONFLICT (peer_id, address) DO UPDATE SET used_at = now()
      )
      DELETE FROM peer_addresses WHERE peer_id = ${peerId} AND address <> ${address}
        AND EXISTS (SELECT FROM fence) AND address NOT IN (
          SELECT address FROM peer_addresses WHERE peer_id = ${peerId} ORDER BY used_at DESC LIMIT ${MAX_ADDRESSES})`;
  }

  /** Peers that connectd keeps connected: those with a channel that is alive. */
  async importantPeers(): Promise<{ readonly peerId: Uint8Array; readonly addresses: readonly string[] }[]> {
    const rows = await this.sql<{ peer_id: Uint8Array; addresses: string[] }[]>`
      SELECT c.peer_id, coalesce((
        SELECT array_agg(a.address ORDER BY a.used_at DESC) FROM peer_addresses a WHERE a.peer_id = c.peer_id), '{}'
      ) AS addresses
      FROM (SELECT DISTINCT peer_id FROM channels WHERE state = ANY(${LIVE_STATES as string[]}) AND error_text IS NULL) c`;
    return rows.map((row) => ({
      peerId: Uint8Array.from(row.peer_id),
      addresses: row.addresses.slice(0, MAX_ADDRESSES),
    }));
  }

  // --------------------------------------------------------------------------------------------- channels, openings

  /** Every channel of a peer, or these ones. */
  async channels(
    which: { readonly peerId: Uint8Array } | { readonly ids: readonly bigint[] },
  ): Promise<ChannelRow[]> {
    const { sql } = this;
    const where = "peerId" in which
      ? sql`peer_id = ${which.peerId}`
      : sql`channel = ANY(${which.ids.map(String)}::bigint[])`;
    return [
      ...await sql<ChannelRow[]>`
        SELECT channel, peer_id, channel_id, temporary_channel_id, state, error_text, owner_epoch, owner_instance, owner_daemon, version,
          channel_key_id, payment_key_index, generation, reestablish_sent, locked_attempt
        FROM channels WHERE ${where} ORDER BY channel`,
    ];
  }

  /** Negotiations without an attempt row: of a peer, or all. */
  async openings(peerId?: Uint8Array): Promise<OpeningRow[]> {
    const { sql } = this;
    return [
      ...await sql<OpeningRow[]>`
        SELECT opening, peer_id, generation, channel, initiator, owner_epoch, owner_instance, temporary_channel_id,
          channel_key_id, payment_key_index, created_at
        FROM openings ${peerId === undefined ? sql`` : sql`WHERE peer_id = ${peerId}`} ORDER BY opening`,
    ];
  }

  /** One negotiation. */
  async opening(opening: bigint): Promise<OpeningRow | undefined> {
    const [row] = await this.sql<OpeningRow[]>`
      SELECT opening, peer_id, generation, channel, initiator, owner_epoch, owner_instance, temporary_channel_id,
        channel_key_id, payment_key_index, created_at
      FROM openings WHERE opening = ${opening}`;
    return row;
  }

  /** The saved channel with this final id. */
  async channelById(channelId: Uint8Array): Promise<ChannelRow | undefined> {
    const [row] = await this.sql<ChannelRow[]>`
      SELECT channel, peer_id, channel_id, temporary_channel_id, state, error_text, owner_epoch, owner_instance, owner_daemon, version,
        channel_key_id, payment_key_index, generation, reestablish_sent, locked_attempt
      FROM channels WHERE channel_id = ${channelId}`;
    return row;
  }

  /** Channels that are locked to one attempt while the chain confirmed another: nobody may sign for them any more. */
  async lockedElsewhere(): Promise<ChannelRow[]> {
    return [
      ...await this.sql<ChannelRow[]>`
        SELECT c.channel, c.peer_id, c.channel_id, c.temporary_channel_id, c.state, c.error_text, c.owner_epoch,
          c.owner_instance, c.owner_daemon, c.version, c.channel_key_id, c.payment_key_index, c.generation, c.reestablish_sent,
          c.locked_attempt
        FROM channels c JOIN funding_attempts f ON f.channel = c.channel AND f.attempt <> c.locked_attempt
          JOIN attempt_confirmations a ON a.attempt = f.attempt
        WHERE c.error_text IS NULL AND c.locked_attempt IS NOT NULL`,
    ];
  }

  /**
   * Channels none of whose attempts confirmed for so many blocks, without a transaction of ours that spends it otherwise:
   * those that peers opened, or `channel`, whoever opened it. `signed_inputs`: the peer holds our signatures on coins of
   * ours.
   */
  async stuck(
    tip: number,
    blocks: number,
    channel?: bigint,
  ): Promise<(ChannelRow & { readonly signed_inputs: boolean })[]> {
    return [
      ...await this.sql<(ChannelRow & { readonly signed_inputs: boolean })[]>`
        SELECT c.channel, c.peer_id, c.channel_id, c.temporary_channel_id, c.state, c.error_text, c.owner_epoch,
          c.owner_instance, c.owner_daemon, c.version, c.channel_key_id, c.payment_key_index, c.generation, c.reestablish_sent,
          c.locked_attempt,
          EXISTS (SELECT FROM funding_attempts f JOIN attempt_inputs i USING (attempt)
            WHERE f.channel = c.channel AND i.side = 'local' AND f.local_tx_signatures IS NOT NULL) AS signed_inputs
        FROM channels c
        WHERE ${
        channel === undefined ? this.sql`c.opener = 'remote'` : this.sql`c.channel = ${channel}`
      } AND c.locked_attempt IS NULL AND c.state LIKE 'DUALOPEND%'
          AND (SELECT max(f.created_height) FROM funding_attempts f WHERE f.channel = c.channel) <= ${
        tip - blocks
      }
          AND NOT EXISTS (SELECT FROM funding_attempts f JOIN attempt_confirmations a USING (attempt)
            WHERE f.channel = c.channel)
          AND NOT EXISTS (
            SELECT FROM funding_attempts f JOIN attempt_inputs i USING (attempt)
              JOIN wallet_tx_inputs w ON w.prev_txid = i.txid AND w.prev_vout = i.vout
            WHERE f.channel = c.channel
              AND w.txid NOT IN (SELECT o.txid FROM funding_attempts o WHERE o.channel = c.channel))`,
    ];
  }

  /**
   * Channels none of whose attempts has our tx_signatures committed as sent (so the peer has nothing of ours to spend), nor
   * confirmed without them, and that made no attempt for so many blocks.
   */
  async unsigned(tip: number, blocks: number): Promise<ChannelRow[]> {
    return [
      ...await this.sql<ChannelRow[]>`
        SELECT c.channel, c.peer_id, c.channel_id, c.temporary_channel_id, c.state, c.error_text, c.owner_epoch,
          c.owner_instance, c.owner_daemon, c.version, c.channel_key_id, c.payment_key_index, c.generation, c.reestablish_sent,
          c.locked_attempt
        FROM channels c
        WHERE c.locked_attempt IS NULL AND c.state LIKE 'DUALOPEND%'
          AND (SELECT max(f.created_height) FROM funding_attempts f WHERE f.channel = c.channel) <= ${
        tip - blocks
      }
          AND NOT EXISTS (
            SELECT FROM funding_attempts f WHERE f.channel = c.channel AND f.local_tx_signatures IS NOT NULL)
          AND NOT EXISTS (SELECT FROM funding_attempts f JOIN attempt_confirmations a USING (attempt)
            WHERE f.channel = c.channel)`,
    ];
  }

  /** Counts that bound a peer's opens, and whether an id is any live channel's or open's. */
  async openCounts(
    peerId: Uint8Array,
    id: Uint8Array,
  ): Promise<{ ofPeer: number; inAll: number; idTaken: boolean }> {
    const { sql } = this;
    const [row] = await sql<{ of_peer: number; in_all: number; taken: boolean }[]>`
      SELECT
        ((SELECT count(*) FROM openings WHERE peer_id = ${peerId} AND channel IS NULL) +
          (SELECT count(*) FROM channels WHERE peer_id = ${peerId} AND locked_attempt IS NULL
            AND state LIKE 'DUALOPEND%'))::int AS of_peer,
        (SELECT count(*) FROM openings WHERE channel IS NULL)::int AS in_all,
        (EXISTS (SELECT FROM channels WHERE state <> 'CLOSED' AND (channel_id = ${id} OR temporary_channel_id = ${id})) OR
          EXISTS (SELECT FROM openings WHERE temporary_channel_id = ${id})) AS taken`;
    if (row === undefined) throw new Error("no counts");
    return { ofPeer: row.of_peer, inAll: row.in_all, idTaken: row.taken };
  }

  /**
   * A first open. Inserts nothing when its connection is gone, a limit is reached or the temporary id is taken. The
   * first assignment raises the epoch above the opening's own number, so that no two opens of a peer share one.
   */
  async insertOpening(opening: {
    readonly peerId: Uint8Array;
    readonly generation: bigint;
    readonly initiator: "local" | "remote";
    readonly temporaryChannelId: Uint8Array;
    readonly channelKeyId: Uint8Array;
    readonly paymentKeyIndex: number;
    readonly maxOfPeer: number;
    readonly maxInAll: number;
  }): Promise<OpeningRow | undefined> {
    const { sql, leader } = this;
    const { peerId, temporaryChannelId: id } = opening;
    const [row] = await sql<OpeningRow[]>`
      WITH ${fence(sql, leader)}
      INSERT INTO openings (peer_id, generation, initiator, owner_epoch, owner_instance, temporary_channel_id,
        channel_key_id, payment_key_index)
      SELECT ${peerId}, ${opening.generation}, ${opening.initiator}, 1, '', ${id}, ${opening.channelKeyId},
        ${opening.paymentKeyIndex}
      FROM fence
      WHERE EXISTS (SELECT FROM connections WHERE generation = ${opening.generation} AND disconnected_at IS NULL)
        AND NOT EXISTS (SELECT FROM channels
          WHERE state <> 'CLOSED' AND (channel_id = ${id} OR temporary_channel_id = ${id}))
        AND NOT EXISTS (SELECT FROM openings WHERE temporary_channel_id = ${id})
        AND (SELECT count(*) FROM openings WHERE peer_id = ${peerId} AND channel IS NULL) +
          (SELECT count(*) FROM channels WHERE peer_id = ${peerId} AND locked_attempt IS NULL
            AND state LIKE 'DUALOPEND%') < ${opening.maxOfPeer}
        AND (SELECT count(*) FROM openings WHERE channel IS NULL) < ${opening.maxInAll}
      ON CONFLICT DO NOTHING
      RETURNING opening, peer_id, generation, channel, initiator, owner_epoch, owner_instance, temporary_channel_id,
        channel_key_id, payment_key_index, created_at`;
    return await this.#led(row);
  }

  /**
   * An RBF of a channel, by its present owner. Undefined while one is under negotiation, or when the owner or the
   * connection is another by now, or the channel is past replacing.
   */
  async insertRbf(rbf: {
    readonly channel: bigint;
    readonly epoch: bigint;
    readonly generation: bigint;
    readonly initiator: "local" | "remote";
  }): Promise<OpeningRow | undefined> {
    const { sql, leader } = this;
    const [row] = await sql<OpeningRow[]>`
      WITH ${fence(sql, leader)}
      INSERT INTO openings (peer_id, generation, channel, initiator, owner_epoch, owner_instance)
      SELECT c.peer_id, ${rbf.generation}, c.channel, ${rbf.initiator}, c.owner_epoch, c.owner_instance
      FROM fence, channels c
      WHERE c.channel = ${rbf.channel} AND c.owner_epoch = ${rbf.epoch} AND c.error_text IS NULL
        AND c.state = 'DUALOPEND_AWAITING_LOCKIN' AND c.locked_attempt IS NULL AND NOT c.channel_ready_received
        AND EXISTS (SELECT FROM connections WHERE generation = ${rbf.generation} AND disconnected_at IS NULL
          AND peer_id = c.peer_id)
      ON CONFLICT DO NOTHING
      RETURNING opening, peer_id, generation, channel, initiator, owner_epoch, owner_instance, temporary_channel_id,
        channel_key_id, payment_key_index, created_at`;
    return await this.#led(row);
  }

  /** Whether an RBF of that channel is under negotiation. */
  async rbfOpen(channel: bigint): Promise<boolean> {
    const [row] = await this.sql<{ open: boolean }[]>`
      SELECT EXISTS (SELECT FROM openings WHERE channel = ${channel}) AS open`;
    return row?.open === true;
  }

  /** A negotiation is over: its row and what it reserved. With `epoch`, only that owner's. */
  async dropOpening(opening: bigint, epoch?: bigint): Promise<DroppedOpening | undefined> {
    const { sql, leader } = this;
    const [row] = await sql<DroppedOpening[]>`
      WITH ${fence(sql, leader)}
      DELETE FROM openings WHERE opening = ${opening} AND EXISTS (SELECT FROM fence)
        ${epoch === undefined ? sql`` : sql`AND owner_epoch = ${epoch}`}
      RETURNING opening, channel, owner_epoch, owner_instance`;
    return await this.#led(row);
  }

  /** Its timeout starts again. Whether it is still there under that epoch. */
  async progress(opening: bigint, epoch: bigint): Promise<boolean> {
    const { sql, leader } = this;
    const rows = await sql`
      WITH ${fence(sql, leader)}
      UPDATE openings SET progress_at = now()
      WHERE opening = ${opening} AND owner_epoch = ${epoch} AND EXISTS (SELECT FROM fence) RETURNING opening`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    return rows.length > 0;
  }

  /** Negotiations without progress for so long. */
  async stalled(ms: number): Promise<OpeningRow[]> {
    return [
      ...await this.sql<OpeningRow[]>`
        SELECT opening, peer_id, generation, channel, initiator, owner_epoch, owner_instance, temporary_channel_id,
          channel_key_id, payment_key_index, created_at
        FROM openings WHERE progress_at < now() - ${ms} * interval '1 millisecond' ORDER BY opening`,
    ];
  }

  // ------------------------------------------------------------------------------------------------------ owners

  /**
   * Gives a channel to a subd: the epoch rises above the row's and above hsmd's. Undefined when the row changed hands
   * since it was read. Negotiations of the former owner end: what it reserved goes with them.
   */
  async takeChannel(
    channel: bigint,
    seenEpoch: bigint,
    hsmdEpoch: bigint,
    instance: string,
    daemon: SubdKind,
  ): Promise<{ readonly epoch: bigint; readonly state: string } | undefined> {
    const { sql, leader } = this;
    const [row] = await sql<{ epoch: bigint; state: string }[]>`
      WITH ${fence(sql, leader)},
      taken AS (
        UPDATE channels SET owner_epoch = greatest(owner_epoch, ${hsmdEpoch}) + 1, owner_instance = ${instance},
          owner_daemon = ${daemon}
        WHERE channel = ${channel} AND owner_epoch = ${seenEpoch} AND EXISTS (SELECT FROM fence)
        RETURNING channel, owner_epoch, state
      ),
      ended AS (DELETE FROM openings o USING taken t WHERE o.channel = t.channel)
      SELECT owner_epoch AS epoch, state FROM taken`;
    return await this.#led(row);
  }

  /** Gives an opening to a dualopend, with an epoch that no other open of ours ever had first. */
  async takeOpening(
    opening: bigint,
    seenEpoch: bigint,
    hsmdEpoch: bigint,
    instance: string,
  ): Promise<bigint | undefined> {
    const { sql, leader } = this;
    const [row] = await sql<{ epoch: bigint }[]>`
      WITH ${fence(sql, leader)}
      UPDATE openings SET owner_epoch = greatest(owner_epoch, ${hsmdEpoch}, opening) + 1, owner_instance = ${instance}
      WHERE opening = ${opening} AND owner_epoch = ${seenEpoch} AND EXISTS (SELECT FROM fence)
      RETURNING owner_epoch AS epoch`;
    return (await this.#led(row))?.epoch;
  }

  /** A channel fails by lightningd's word: its owner is fenced off in the same statement. */
  async failChannel(channel: bigint, text: string): Promise<boolean> {
    const { sql, leader } = this;
    const rows = await sql`
      WITH ${fence(sql, leader)},
      failed AS (
        UPDATE channels SET error_text = ${text}, owner_epoch = owner_epoch + 1, version = version + 1
        WHERE channel = ${channel} AND error_text IS NULL AND EXISTS (SELECT FROM fence) RETURNING channel
      ),
      ended AS (DELETE FROM openings o USING failed f WHERE o.channel = f.channel)
      SELECT channel FROM failed`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    return rows.length > 0;
  }

  /**
   * Deletes a channel with everything that hangs on it: its owner, who finds no row, is fenced off as by a higher epoch.
   * With `seen` only if no owner has written since: what was read of its attempts still holds then.
   */
  async forgetChannel(
    channel: bigint,
    seen?: Pick<ChannelRow, "owner_epoch" | "version">,
  ): Promise<boolean> {
    const { sql, leader } = this;
    const rows = await sql`
      WITH ${fence(sql, leader)}
      DELETE FROM channels WHERE channel = ${channel} AND EXISTS (SELECT FROM fence)
        ${
      seen === undefined ? sql`` : sql`AND owner_epoch = ${seen.owner_epoch} AND version = ${seen.version}`
    }
      RETURNING channel`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    return rows.length > 0;
  }

  /** Deletes a channel whose unlocked attempts were all double-spent so deep that none can confirm any more. */
  async forgetDoubleSpent(
    tip: number,
    depth: number,
  ): Promise<{ channel: bigint; peer_id: Uint8Array; channel_id: Uint8Array }[]> {
    const { sql, leader } = this;
    return [
      ...await sql<{ channel: bigint; peer_id: Uint8Array; channel_id: Uint8Array }[]>`
        WITH ${fence(sql, leader)}
        DELETE FROM channels c WHERE c.locked_attempt IS NULL AND EXISTS (SELECT FROM fence)
          AND c.state LIKE 'DUALOPEND%'
          AND NOT EXISTS (
            SELECT FROM funding_attempts f WHERE f.channel = c.channel AND NOT EXISTS (
              SELECT FROM attempt_inputs i JOIN spends s ON s.txid = i.txid AND s.vout = i.vout
              WHERE i.attempt = f.attempt AND s.spending_txid <> f.txid AND s.height <= ${tip - depth + 1}))
          AND NOT EXISTS (SELECT FROM funding_attempts f JOIN attempt_confirmations a USING (attempt)
            WHERE f.channel = c.channel)
        RETURNING channel, peer_id, channel_id`,
    ];
  }

  // ---------------------------------------------------------------------------------------------------- attempts

  /** Attempts of channels, by rising seq, with what the chain says. */
  async attempts(channels: readonly bigint[]): Promise<AttemptRow[]> {
    if (channels.length === 0) return [];
    const rows = await this.sql<(Omit<AttemptRow, "detail"> & { detail: Uint8Array })[]>`
      SELECT f.attempt, f.channel, f.seq, f.initiator, f.txid, f.output_index, f.funding_script,
        f.local_contribution_sat, f.remote_contribution_sat, f.capacity_sat, f.feerate_perkw, f.fee_sat, f.detail,
        f.created_height, f.remote_commitment_signature IS NOT NULL AS committed,
        f.local_tx_signatures IS NOT NULL AS local_signed, f.remote_tx_signatures IS NOT NULL AS remote_signed,
        f.complete_tx, f.aborted, a.height AS confirmed_height, a.tx_index AS confirmed_index, a.matches
      FROM funding_attempts f LEFT JOIN attempt_confirmations a USING (attempt)
      WHERE f.channel = ANY(${channels.map(String)}::bigint[]) ORDER BY f.channel, f.seq`;
    return rows.map((row) => ({ ...row, detail: fromBinary(FundingAttemptSchema, row.detail) }));
  }

  /** channels.commitments; null before the lock. */
  async commitments(channel: bigint): Promise<Uint8Array | null> {
    const [row] = await this.sql<{ commitments: Uint8Array | null }[]>`
      SELECT commitments FROM channels WHERE channel = ${channel}`;
    return row?.commitments ?? null;
  }

  /** The signed transaction of an attempt, when it is complete. */
  async completeTx(channel: bigint, txid: Uint8Array): Promise<Uint8Array | undefined> {
    const [row] = await this.sql<{ complete_tx: Uint8Array | null }[]>`
      SELECT complete_tx FROM funding_attempts WHERE channel = ${channel} AND txid = ${txid}`;
    return row?.complete_tx ?? undefined;
  }

  /** Channels for listings. */
  async listChannels(peerId?: Uint8Array): Promise<ChannelListRow[]> {
    const { sql } = this;
    const rows = await sql<
      (Omit<ChannelListRow, "params" | "local_alias" | "remote_alias"> & {
        params: Uint8Array;
        local_alias: string;
        remote_alias: string | null;
      })[]
    >`
      SELECT channel, peer_id, channel_id, temporary_channel_id, state, error_text, owner_epoch, owner_instance, owner_daemon, version,
        channel_key_id, payment_key_index, generation, reestablish_sent, locked_attempt, opener, params, local_alias,
        remote_alias, channel_ready_received, reestablish_received, shutdown_sent, shutdown_received, created_at,
        state_changed_at
      FROM channels WHERE state <> 'CLOSED' ${
      peerId === undefined ? sql`` : sql`AND peer_id = ${peerId}`
    } ORDER BY channel`;
    return rows.map((row) => ({
      ...row,
      params: fromBinary(ChannelParamsSchema, row.params),
      local_alias: BigInt(row.local_alias),
      remote_alias: row.remote_alias === null ? null : BigInt(row.remote_alias),
    }));
  }
}

/** Addresses that are kept of a peer. */
export const MAX_ADDRESSES = 16;
