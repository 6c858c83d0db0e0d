/** The statements of closing/. Each is one statement, fenced by the leader epoch. */
import { fromBinary } from "@bufbuild/protobuf";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { type Sat, sat } from "bolt/units.ts";
import type { Sql } from "common/pg/client.ts";
import { type Commitments, CommitmentsSchema } from "gen/arcus/store/v1/store_pb.ts";
import { fence, requireLeadership } from "../leader.ts";
import type { Leader } from "../ports.ts";

/** States in which a channel is neither closed by both nor on its way to the chain. */
export const OPEN_STATES = [
  "DUALOPEND_OPEN_COMMITTED",
  "DUALOPEND_AWAITING_LOCKIN",
  "CHANNELD_AWAITING_LOCKIN",
  "CHANNELD_NORMAL",
  "CHANNELD_SHUTTING_DOWN",
  "CLOSINGD_SIGEXCHANGE",
] as const;

/** A decision to close. */
export interface Decision {
  readonly channel: bigint;
  /** Null: where our money would go anyway. */
  readonly script: Uint8Array | null;
  /** sat/kw. */
  readonly rates: { readonly min: number; readonly max: number } | null;
  readonly feeStep: string;
  /** Seconds from now on; null: never without the peer. */
  readonly timeout: number | null;
}

/** What the room looks at. */
export interface ClosingRow {
  readonly channel: bigint;
  readonly peer_id: Uint8Array;
  readonly channel_id: Uint8Array;
  readonly state: string;
  readonly error_text: string | null;
  readonly data_loss: boolean;
  readonly owner_epoch: bigint;
  readonly channel_key_id: Uint8Array;
  readonly payment_key_index: number;
  readonly shutdown_sent: Uint8Array | null;
  readonly shutdown_received: Uint8Array | null;
  readonly params: Uint8Array;
  readonly opener: "local" | "remote";
  readonly script: Uint8Array | null;
  readonly min_feerate_perkw: number | null;
  readonly max_feerate_perkw: number | null;
  readonly fee_step: string | null;
  readonly deadline: Date | null;
  readonly requested: boolean;
}

/** A close that both signed. */
export interface SignedRow {
  readonly txid: Uint8Array;
  readonly raw: Uint8Array;
  readonly fee_sat: bigint;
}

/** A live commitment of ours, as it can be broadcast. */
export interface OwnCommitment {
  readonly outpoint: OutPoint;
  readonly capacity: Sat;
  readonly number: bigint;
  readonly toLocalMsat: bigint;
  readonly toRemoteMsat: bigint;
  readonly feeratePerkw: number;
  readonly remoteSignature: Uint8Array;
  readonly htlcs: readonly {
    readonly id: bigint;
    readonly offered: boolean;
    readonly amountMsat: bigint;
    readonly paymentHash: Uint8Array;
    readonly cltvExpiry: number;
  }[];
}

/** A funding output that was spent, and what is not known of it yet. */
export interface Spend {
  readonly channel: bigint;
  readonly funding_txid: Uint8Array;
  readonly funding_vout: number;
  readonly txid: Uint8Array;
  readonly height: number;
  readonly shutdown_sent: Uint8Array | null;
  readonly shutdown_received: Uint8Array | null;
  readonly upfront: Uint8Array;
  /** A close of ours, if it is one. */
  readonly raw: Uint8Array | null;
}

/** A channel whose state changed here. */
export interface Moved {
  readonly channel: bigint;
  readonly peer_id: Uint8Array;
  readonly channel_id: Uint8Array;
  readonly state: string;
}

/** HTLCs that a commitment names, by id * 2 + (1 if we offered it). */
function htlcKey(id: bigint, offered: boolean): bigint {
  return id * 2n + (offered ? 1n : 0n);
}

/** The statements. */
export class ClosingStore {
  constructor(private readonly sql: Sql, private readonly leader: Leader) {}

  /** One channel, or those that wait for something of ours. */
  async rows(which: { readonly channel: bigint } | "requested" | "unilateral"): Promise<ClosingRow[]> {
    const { sql } = this;
    const where = typeof which === "object"
      ? sql`c.channel = ${which.channel}`
      : which === "requested"
      ? sql`k.channel IS NOT NULL AND c.state = ANY(${OPEN_STATES as unknown as string[]})`
      : sql`c.state = 'AWAITING_UNILATERAL' AND NOT c.data_loss`;
    return [
      ...await sql<ClosingRow[]>`
        SELECT c.channel, c.peer_id, c.channel_id, c.state, c.error_text, c.data_loss, c.owner_epoch, c.channel_key_id,
          c.payment_key_index, c.shutdown_sent, c.shutdown_received, c.params, c.opener, k.script, k.min_feerate_perkw,
          k.max_feerate_perkw, k.fee_step, k.deadline, k.channel IS NOT NULL AS requested
        FROM channels c LEFT JOIN closings k USING (channel) WHERE ${where} ORDER BY c.channel`,
    ];
  }

  /** Decides to close, or changes what was decided. False: the channel is past that. */
  async decide(decision: Decision): Promise<boolean> {
    const { sql, leader } = this;
    const { channel, script, rates, feeStep, timeout } = decision;
    const rows = await sql`
      WITH ${fence(sql, leader)}
      INSERT INTO closings (channel, script, min_feerate_perkw, max_feerate_perkw, fee_step, deadline)
      SELECT c.channel, ${script}::bytea, ${rates?.min ?? null}::integer, ${
      rates?.max ?? null
    }::integer, ${feeStep},
        now() + make_interval(secs => ${timeout}::double precision)
      FROM fence, channels c
      WHERE c.channel = ${channel} AND c.state = ANY(${OPEN_STATES as unknown as string[]})
      ON CONFLICT (channel) DO UPDATE SET
        script = COALESCE(EXCLUDED.script, closings.script),
        min_feerate_perkw = COALESCE(EXCLUDED.min_feerate_perkw, closings.min_feerate_perkw),
        max_feerate_perkw = COALESCE(EXCLUDED.max_feerate_perkw, closings.max_feerate_perkw),
        fee_step = EXCLUDED.fee_step, deadline = EXCLUDED.deadline
      RETURNING channel`;
    if (rows.length === 0) await requireLeadership(sql, leader);
    return rows.length > 0;
  }

  /** Milliseconds until the next deadline of a channel that is not closed yet; undefined: there is none. */
  async untilDeadline(): Promise<number | undefined> {
    const { sql } = this;
    const [row] = await sql<{ ms: number | null }[]>`
      SELECT (extract(epoch FROM min(k.deadline) - now()) * 1000)::double precision AS ms
      FROM closings k JOIN channels c USING (channel)
      WHERE k.deadline IS NOT NULL AND c.state = ANY(${OPEN_STATES as unknown as string[]}) AND NOT c.data_loss`;
    return row?.ms ?? undefined;
  }

  /**
   * Channels whose time is over, or that failed while they were to be closed. `deadline` compares with the database's
   * clock, which set it.
   */
  async due(): Promise<ClosingRow[]> {
    const { sql } = this;
    const channels = await sql<{ channel: bigint }[]>`
      SELECT k.channel FROM closings k JOIN channels c USING (channel)
      WHERE c.state = ANY(${OPEN_STATES as unknown as string[]}) AND NOT c.data_loss
        AND (k.deadline <= now() OR c.error_text IS NOT NULL)`;
    const due = await Promise.all(channels.map(({ channel }) => this.rows({ channel })));
    return due.flat();
  }

  /**
   * Goes to the chain alone. The epoch rises in the statement that changes the state: from then on no subd changes
   * anything, so that what is read next is the last there is. Undefined: the channel is stale, closed, or not there.
   */
  async takeUnilateral(channel: bigint, hsmdEpoch: bigint, text: string): Promise<ClosingRow | undefined> {
    const { sql, leader } = this;
    const taken = await sql`
      WITH ${fence(sql, leader)},
      taken AS (
        UPDATE channels SET owner_epoch = greatest(owner_epoch, ${hsmdEpoch}) + 1, version = version + 1,
          state = 'AWAITING_UNILATERAL', state_changed_at = now(), error_text = COALESCE(error_text, ${text})
        WHERE channel = ${channel} AND NOT data_loss AND EXISTS (SELECT FROM fence)
          AND state = ANY(${[...OPEN_STATES, "AWAITING_UNILATERAL"] as string[]})
        RETURNING channel
      ),
      ended AS (DELETE FROM openings o USING taken t WHERE o.channel = t.channel)
      SELECT channel FROM taken`;
    if (taken.length === 0) {
      await requireLeadership(sql, leader);
      return undefined;
    }
    const [row] = await this.rows({ channel });
    return row;
  }

  /**
   * Our newest commitments, the one to try first of each funding output first: of the locked attempt; before the lock of every
   * attempt that may confirm. Those of attempts without the peer's signature are none.
   */
  async ownCommitments(channel: bigint): Promise<OwnCommitment[]> {
    const { sql } = this;
    const [row] = await sql<{ commitments: Uint8Array | null }[]>`
      SELECT commitments FROM channels WHERE channel = ${channel}`;
    if (row === undefined) return [];
    if (row.commitments === null) return await this.#attemptCommitments(channel);
    const stored = fromBinary(CommitmentsSchema, Uint8Array.from(row.commitments));
    const htlcs = await sql<
      { offered: boolean; id: bigint; amount_msat: bigint; payment_hash: Uint8Array; cltv_expiry: number }[]
    >`SELECT offered, id, amount_msat, payment_hash, cltv_expiry FROM htlcs WHERE channel = ${channel}`;
    const byKey = new Map(htlcs.map((htlc) => [htlcKey(htlc.id, htlc.offered), htlc]));
    return readOwn(stored, (key) => {
      const htlc = byKey.get(key);
      if (htlc === undefined) {
        throw new Error(`channel ${channel}: a commitment names HTLC ${key}, and no row has it`);
      }
      return {
        id: htlc.id,
        offered: htlc.offered,
        amountMsat: htlc.amount_msat,
        paymentHash: Uint8Array.from(htlc.payment_hash),
        cltvExpiry: htlc.cltv_expiry,
      };
    });
  }

  async #attemptCommitments(channel: bigint): Promise<OwnCommitment[]> {
    const rows = await this.sql<
      {
        txid: Uint8Array;
        output_index: number;
        capacity_sat: bigint;
        local_contribution_sat: bigint;
        remote_contribution_sat: bigint;
        remote_commitment_signature: Uint8Array;
      }[]
    >`
      SELECT txid, output_index, capacity_sat, local_contribution_sat, remote_contribution_sat,
        remote_commitment_signature
      FROM funding_attempts LEFT JOIN attempt_confirmations a USING (attempt)
      WHERE channel = ${channel} AND remote_commitment_signature IS NOT NULL AND NOT aborted
      ORDER BY a.height IS NULL, seq DESC`;
    return rows.map((row) => ({
      outpoint: { txid: Uint8Array.from(row.txid), vout: row.output_index },
      capacity: sat(row.capacity_sat),
      number: 0n,
      toLocalMsat: row.local_contribution_sat * 1000n,
      toRemoteMsat: row.remote_contribution_sat * 1000n,
      feeratePerkw: 0,
      remoteSignature: Uint8Array.from(row.remote_commitment_signature),
      htlcs: [],
    }));
  }

  /** Closes that both signed, the newest first. */
  async signed(channel: bigint): Promise<SignedRow[]> {
    return [
      ...await this.sql<SignedRow[]>`
        SELECT t.txid, w.raw, t.fee_sat FROM closing_txs t JOIN wallet_txs w USING (txid)
        WHERE t.channel = ${channel} ORDER BY t.created_at DESC`,
    ];
  }

  // ------------------------------------------------------------------------------------------------------ the chain

  /** Funding outputs that a block spent, and whose channel does not know it yet. */
  async spends(): Promise<Spend[]> {
    return [
      ...await this.sql<Spend[]>`
        SELECT c.channel, f.txid AS funding_txid, f.output_index AS funding_vout, s.spending_txid AS txid, s.height,
          c.shutdown_sent, c.shutdown_received, c.params AS upfront, w.raw
        FROM spends s
          JOIN funding_attempts f ON f.txid = s.txid AND f.output_index = s.vout
          JOIN channels c ON c.channel = f.channel
          LEFT JOIN closing_txs t ON t.txid = s.spending_txid
          LEFT JOIN wallet_txs w ON w.txid = t.txid
        WHERE c.state <> 'CLOSED' AND NOT EXISTS (SELECT FROM channel_ends e WHERE e.channel = c.channel)`,
    ];
  }

  /** What spent a funding output is a fact now: nobody owns the channel any more. */
  async saveEnd(
    spend: Spend,
    kind: "mutual" | "unilateral" | "unknown",
    raw: Uint8Array,
  ): Promise<Moved | undefined> {
    const { sql, leader } = this;
    const [row] = await sql<Moved[]>`
      WITH ${fence(sql, leader)},
      moved AS (
        UPDATE channels SET owner_epoch = owner_epoch + 1, version = version + 1, state_changed_at = now(),
          state = ${kind === "mutual" ? "ONCHAIN" : "FUNDING_SPEND_SEEN"}
        WHERE channel = ${spend.channel} AND EXISTS (SELECT FROM fence)
          AND EXISTS (SELECT FROM spends s WHERE s.txid = ${spend.funding_txid} AND s.vout = ${
      BigInt(spend.funding_vout)
    } AND s.spending_txid = ${spend.txid})
        RETURNING channel, peer_id, channel_id, state
      ),
      ended AS (
        INSERT INTO channel_ends (channel, txid, height, kind, raw)
        SELECT channel, ${spend.txid}, ${spend.height}, ${kind}, ${raw} FROM moved
        ON CONFLICT (channel) DO NOTHING
      ),
      negotiations AS (DELETE FROM openings o USING moved m WHERE o.channel = m.channel)
      SELECT channel, peer_id, channel_id, state FROM moved`;
    if (row === undefined) await requireLeadership(sql, leader);
    return row;
  }

  /**
   * Channels whose end a reorg took back. With a close that both signed they wait for it again; otherwise our own commitment
   * is what is left to send, unless it is known to be old.
   */
  async undone(): Promise<Moved[]> {
    const { sql, leader } = this;
    return [
      ...await sql<Moved[]>`
        WITH ${fence(sql, leader)}
        UPDATE channels c SET owner_epoch = owner_epoch + 1, version = version + 1, state_changed_at = now(),
          state = CASE WHEN EXISTS (SELECT FROM closing_txs t WHERE t.channel = c.channel)
            THEN 'CLOSINGD_COMPLETE' ELSE 'AWAITING_UNILATERAL' END
        WHERE c.state IN ('ONCHAIN', 'FUNDING_SPEND_SEEN') AND EXISTS (SELECT FROM fence)
          AND NOT EXISTS (SELECT FROM channel_ends e WHERE e.channel = c.channel)
        RETURNING c.channel, c.peer_id, c.channel_id, c.state`,
    ];
  }

  /** Channels whose cooperative close is so deep that it is not undone: they are history. */
  async forgetDeep(tip: number, depth: number): Promise<Moved[]> {
    const { sql, leader } = this;
    return [
      ...await sql<Moved[]>`
        WITH ${fence(sql, leader)}
        UPDATE channels c SET state = 'CLOSED', version = version + 1, owner_epoch = owner_epoch + 1,
          state_changed_at = now()
        FROM channel_ends e
        WHERE e.channel = c.channel AND c.state = 'ONCHAIN' AND e.kind = 'mutual'
          AND e.height <= ${tip - depth + 1} AND EXISTS (SELECT FROM fence)
        RETURNING c.channel, c.peer_id, c.channel_id, c.state`,
    ];
  }

  /** Channels that are history, for listclosedchannels. */
  async closed(peerId?: Uint8Array): Promise<ClosedRow[]> {
    const { sql } = this;
    const rows = await sql<
      (Omit<ClosedRow, "local_alias" | "remote_alias"> & {
        local_alias: string;
        remote_alias: string | null;
      })[]
    >`
      SELECT c.channel, c.peer_id, c.channel_id, c.opener, c.params, c.commitments, c.local_alias, c.remote_alias,
        c.error_text, c.shutdown_received IS NOT NULL AS by_peer, f.txid AS funding_txid, f.output_index, f.capacity_sat,
        f.local_contribution_sat, a.height, a.tx_index, e.txid AS end_txid, e.kind, t.fee_sat, t.local_sat,
        k.channel IS NOT NULL AS requested,
        (SELECT count(*) FROM htlc_history h WHERE h.channel = c.channel AND h.offered) AS htlcs_sent
      FROM channels c
        JOIN channel_ends e USING (channel)
        LEFT JOIN closing_txs t ON t.txid = e.txid
        LEFT JOIN closings k ON k.channel = c.channel
        JOIN LATERAL (
          SELECT f.attempt, f.txid, f.output_index, f.capacity_sat, f.local_contribution_sat FROM funding_attempts f
          WHERE f.channel = c.channel AND (c.locked_attempt IS NULL OR f.attempt = c.locked_attempt)
          ORDER BY f.seq DESC LIMIT 1) f ON true
        LEFT JOIN attempt_confirmations a ON a.attempt = f.attempt
      WHERE c.state = 'CLOSED' ${peerId === undefined ? sql`` : sql`AND c.peer_id = ${peerId}`}
      ORDER BY c.channel`;
    return rows.map((row) => ({
      ...row,
      local_alias: BigInt(row.local_alias),
      remote_alias: row.remote_alias === null ? null : BigInt(row.remote_alias),
    }));
  }

  /** Which of these scripts is a key of our wallet. */
  async walletKey(script: Uint8Array): Promise<{ change: boolean; key_index: bigint } | undefined> {
    const [row] = await this.sql<{ change: boolean; key_index: bigint }[]>`
      SELECT change, key_index FROM wallet_keys WHERE script = ${script}`;
    return row;
  }
}

/** A channel that is history. */
export interface ClosedRow {
  readonly channel: bigint;
  readonly peer_id: Uint8Array;
  readonly channel_id: Uint8Array;
  readonly opener: "local" | "remote";
  readonly params: Uint8Array;
  readonly commitments: Uint8Array | null;
  readonly local_alias: bigint;
  readonly remote_alias: bigint | null;
  readonly error_text: string | null;
  readonly by_peer: boolean;
  readonly funding_txid: Uint8Array;
  readonly output_index: number;
  readonly capacity_sat: bigint;
  readonly local_contribution_sat: bigint;
  readonly height: number | null;
  readonly tx_index: number | null;
  readonly end_txid: Uint8Array;
  readonly kind: string;
  readonly fee_sat: bigint | null;
  readonly local_sat: bigint | null;
  readonly requested: boolean;
  readonly htlcs_sent: bigint;
}

/**
 * Our newest commitments of `channels.commitments`, in either version. A pending one comes first: where hsmd verified it,
 * it released the secret of the one before, which must never be broadcast; where it did not, it refuses the pending one.
 */
export function readOwn(
  stored: Commitments,
  htlc: (key: bigint) => OwnCommitment["htlcs"][number],
): OwnCommitment[] {
  return stored.active.flatMap((c) => {
    if (c.funding === undefined) throw new Error("channels.commitments: without an outpoint");
    const common = {
      outpoint: { txid: c.funding.txid, vout: c.funding.vout },
      capacity: sat(c.capacitySat),
    };
    if (c.local === undefined) {
      return [{
        ...common,
        number: c.localNumber,
        toLocalMsat: c.toLocalMsat,
        toRemoteMsat: c.toRemoteMsat,
        feeratePerkw: c.feeratePerkw,
        remoteSignature: c.remoteSignature,
        htlcs: [],
      }];
    }
    return [c.pendingLocal, c.local].flatMap((local) =>
      local === undefined ? [] : [{
        ...common,
        number: local.number,
        toLocalMsat: local.toLocalMsat,
        toRemoteMsat: local.toRemoteMsat,
        feeratePerkw: local.feeratePerkw,
        remoteSignature: local.remoteSignature,
        htlcs: local.htlcs.map(htlc),
      }]
    );
  });
}
