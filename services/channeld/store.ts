/** All SQL of channeld. Every step of an owner is one statement, fenced by owner epoch and version. */
import { fromBinary } from "@bufbuild/protobuf";
import {
  type ChannelState,
  type ChannelStore,
  type FundingOnChain,
  type Htlc,
  htlcKey,
  type HtlcRemoval,
  type LockedChannel,
} from "bolt/channel/types.ts";
import type { ChannelParams } from "bolt/dualopen/types.ts";
import { msat, sat } from "bolt/units.ts";
import type { Sql } from "common/pg/client.ts";
import { FundingAttemptSchema } from "gen/arcus/store/v1/store_pb.ts";
import {
  after,
  type Fence,
  fenced,
  type Place,
  placeColumns,
  stateColumns,
  SupersededError,
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
import { decodeCommitments, encodeCommitments, readHtlcState } from "./commitments.ts";

/** Newest version of funding_attempts.detail that this build reads. */
const ATTEMPT_VERSION = 1;
/** Types of array parameters: without them a statement's text would be planned anew for each first element. */
const Type = { bytea: 17, bools: 1000, byteas: 1001, ints: 1007, texts: 1009, bigints: 1016 } as const;

/**
 * Settings of the connections that carry steps. Every row is found by one bigint key; a planner that knows nothing of a
 * fresh table would scan it instead, and plan each time anew.
 */
export const STEP_SETTINGS: Readonly<Record<string, string>> = {
  plan_cache_mode: "force_generic_plan",
  enable_seqscan: "off",
  enable_hashjoin: "off",
  enable_mergejoin: "off",
  // A plan with what is "off" looks so dear that Postgres would compile it, for a second each time.
  jit: "off",
};

const OWN_STATES: readonly ChannelState[] = [
  "CHANNELD_AWAITING_LOCKIN",
  "CHANNELD_NORMAL",
  "CHANNELD_SHUTTING_DOWN",
];

/** A channel that was assigned. */
export interface LoadedChannel {
  readonly fence: Fence;
  readonly peerId: Uint8Array;
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly place: Place;
  readonly params: ChannelParams;
  /** Without our own shutdown script, which lightningd gives with the assignment where none was fixed. */
  readonly channel: Omit<LockedChannel, "localShutdownScript">;
  readonly localUpfrontShutdownScript: Uint8Array | null;
  /** Feature bits of both inits at the open. */
  readonly features: { readonly local: Uint8Array; readonly remote: Uint8Array };
  readonly htlcs: readonly Htlc[];
  /** htlcs.htlc by {@link Htlc.key}. */
  readonly rowKeys: ReadonlyMap<bigint, bigint>;
  /** No offer with a greater origin was ever taken. */
  readonly highestOrigin: bigint;
  readonly onChain: FundingOnChain;
  readonly decisions: Decisions;
}

/** What lightningd decided about a channel. A level. */
export interface Decisions {
  /** A person closes it; `script`: where our money goes, null: where it would go anyway. */
  readonly closing: { readonly script: Uint8Array | null } | null;
}

/** A locked channel from its rows. SupersededError when this epoch does not own it; RowError. */
export async function loadChannel(sql: Sql, channel: bigint, epoch: bigint): Promise<LoadedChannel> {
  const [row] = await sql<{
    peer_id: Uint8Array;
    version: bigint;
    channel_id: Uint8Array;
    channel_key_id: Uint8Array;
    payment_key_index: number;
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
    data_loss: boolean;
    attempt: bigint;
    detail: Uint8Array;
    local_tx_signatures: Uint8Array | null;
    highest_origin: bigint;
  }[]>`
    SELECT c.peer_id, c.version, c.channel_id, c.channel_key_id, c.payment_key_index, c.opener, c.state, c.params,
      c.commitments, c.generation, c.in_seq, c.out_seq, c.reestablish_sent, c.reestablish_received,
      c.remote_next_point, c.local_alias, c.remote_alias, c.shutdown_sent, c.shutdown_received, c.error_text,
      c.data_loss, f.attempt, f.detail, f.local_tx_signatures,
      GREATEST((SELECT max(origin) FROM htlcs), (SELECT max(origin) FROM htlc_history), 0) AS highest_origin
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
  const reserves = readReserves(row.detail);
  return {
    fence: { channel, epoch, version: row.version },
    peerId: plain(row.peer_id),
    channelKeyId: plain(row.channel_key_id),
    paymentKeyIndex: row.payment_key_index,
    params,
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
      format: "anchors",
      limits: params,
      commitments: decodeCommitments(commitments, {
        params,
        remoteNextPoint: plain(remoteNextPoint),
        attempt: row.attempt,
        reserves,
      }),
      // A peer whose signatures alone completed it never needed ours.
      localTxSignatures: row.local_tx_signatures === null ? [] : decodeWitnesses(row.local_tx_signatures),
      localAlias: BigInt(row.local_alias),
      remoteAlias: row.remote_alias === null ? null : BigInt(row.remote_alias),
      shutdownSent: plain(row.shutdown_sent),
      shutdownReceived: plain(row.shutdown_received),
      remoteUpfrontShutdownScript: params.remote.upfrontShutdownScript,
      errorText: row.error_text,
      dataLoss: row.data_loss,
    },
    localUpfrontShutdownScript: params.local.upfrontShutdownScript,
    features,
    ...await loadHtlcs(sql, channel),
    highestOrigin: row.highest_origin,
    onChain: await loadOnChain(sql, channel),
    decisions: await loadDecisions(sql, channel),
  };
}

function readReserves(detail: Uint8Array) {
  return reading("funding_attempts.detail", () => {
    const stored = fromBinary(FundingAttemptSchema, new Uint8Array(detail));
    checkVersion("funding_attempts.detail", stored.version, ATTEMPT_VERSION);
    return { local: sat(stored.localReserveSat), remote: sat(stored.remoteReserveSat) };
  });
}

// HTLCs ------------------------------------------------------------------------------------------------------------

interface RemovalColumns {
  readonly preimage: Uint8Array | null;
  readonly failure: Uint8Array | null;
  readonly malformed_code: number | null;
  readonly malformed_sha256: Uint8Array | null;
  readonly attribution_data: Uint8Array | null;
}

function readRemoval(row: RemovalColumns): HtlcRemoval | null {
  const attribution = plain(row.attribution_data);
  if (row.preimage !== null) return { type: "fulfill", preimage: plain(row.preimage), attribution };
  if (row.failure !== null) return { type: "fail", reason: plain(row.failure), attribution };
  if (row.malformed_code !== null && row.malformed_sha256 !== null) {
    return { type: "malformed", code: row.malformed_code, sha256OfOnion: plain(row.malformed_sha256) };
  }
  return null;
}

/** Every live HTLC, and the key of its row. */
async function loadHtlcs(sql: Sql, channel: bigint): Promise<Pick<LoadedChannel, "htlcs" | "rowKeys">> {
  const rows = await sql<
    (RemovalColumns & {
      htlc: bigint;
      offered: boolean;
      id: bigint;
      state: string;
      amount_msat: bigint;
      payment_hash: Uint8Array;
      cltv_expiry: number;
      origin: bigint | null;
      onion: Uint8Array | null;
    })[]
  >`
    SELECT h.htlc, h.offered, h.id, h.state, h.amount_msat, h.payment_hash, h.cltv_expiry, h.origin, h.preimage,
      h.failure, h.malformed_code, h.malformed_sha256, h.attribution_data, o.onion
    FROM htlcs h LEFT JOIN htlc_onions o ON o.htlc = h.htlc
      AND (h.state = 'SENT_ADD_COMMIT' OR NOT h.offered AND h.state NOT LIKE '%REMOVE%')
    WHERE h.channel = ${channel} ORDER BY h.htlc`;
  return {
    htlcs: rows.map((row) => ({
      key: htlcKey(row.offered, row.id),
      offered: row.offered,
      id: row.id,
      state: readHtlcState(row.state),
      amount: msat(row.amount_msat),
      paymentHash: plain(row.payment_hash),
      cltvExpiry: row.cltv_expiry,
      origin: row.origin,
      onion: plain(row.onion),
      removal: readRemoval(row),
      sharedSecret: null,
      blinded: false,
    })),
    rowKeys: new Map(rows.map((row) => [htlcKey(row.offered, row.id), row.htlc])),
  };
}

/** An offer that is over. */
export interface PastOffer {
  readonly origin: bigint;
  readonly id: bigint;
  readonly removal: HtlcRemoval;
}

/** Which of these offers are over, and how they ended. */
export async function loadPastOffers(sql: Sql, origins: readonly bigint[]): Promise<readonly PastOffer[]> {
  const rows = await sql<(RemovalColumns & { origin: bigint; id: bigint })[]>`
    SELECT origin, id, preimage, failure, malformed_code, malformed_sha256, attribution_data
    FROM htlc_history WHERE origin = ANY(${sql.array([...origins], Type.bigints)})`;
  return rows.map((row) => {
    const removal = readRemoval(row);
    if (removal === null) throw new RowError(`htlc_history: origin ${row.origin} has no end`);
    return { origin: row.origin, id: row.id, removal };
  });
}

/** What ended while lightningd did not hear of it: its rows still wait for it. */
export interface Missed {
  readonly outgoing: readonly PastOffer[];
  readonly incoming: readonly { readonly htlc: bigint; readonly id: bigint }[];
}

/** Parts and decisions of lightningd's whose HTLCs are over. */
export async function loadMissed(sql: Sql, channel: bigint): Promise<Missed> {
  const parts = await sql<{ part: bigint }[]>`SELECT part FROM live_parts WHERE channel = ${channel}`;
  const incoming = await sql<{ htlc: bigint; id: bigint }[]>`
    SELECT h.htlc, h.id FROM htlc_decisions d JOIN htlc_history h ON h.htlc = d.htlc WHERE d.channel = ${channel}`;
  const outgoing = parts.length === 0 ? [] : await loadPastOffers(sql, parts.map(({ part }) => part));
  return { outgoing, incoming: incoming.map(({ htlc, id }) => ({ htlc, id })) };
}

/** Whose onions these are: htlcs.htlc by key of the onion, in hex. */
export async function loadOnionKeys(
  sql: Sql,
  keys: readonly Uint8Array[],
): Promise<ReadonlyMap<string, bigint>> {
  const rows = await sql<{ key: string; htlc: bigint }[]>`
    SELECT encode(key, 'hex') AS key, htlc FROM htlc_onion_keys
    WHERE key = ANY(${sql.array([...keys], Type.byteas)})`;
  return new Map(rows.map(({ key, htlc }) => [key, htlc]));
}

/** Onions of HTLCs whose expiry is below this height are of no use to whoever replays them. */
export async function forgetOnionKeys(sql: Sql, height: number): Promise<void> {
  await sql`DELETE FROM htlc_onion_keys WHERE cltv_expiry < ${height}`;
}

// What others write ------------------------------------------------------------------------------------------------

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

/** What lightningd decided about the channel: read at every load and whenever it says LookAgain. */
export async function loadDecisions(sql: Sql, channel: bigint): Promise<Decisions> {
  const [row] = await sql<{ script: Uint8Array | null }[]>`
    SELECT script FROM closings WHERE channel = ${channel}`;
  return { closing: row === undefined ? null : { script: plain(row.script) } };
}

// Steps ------------------------------------------------------------------------------------------------------------

/** An onion that is peeled when the step is committed, if it was never seen before. */
export interface OnionKey {
  /** onionReplayKey. */
  readonly key: Uint8Array;
  /** htlcs.htlc. */
  readonly htlc: bigint;
  readonly cltvExpiry: number;
}

/** What a step writes. */
export interface StepWrite {
  readonly fence: Fence;
  readonly place: Place;
  readonly store: ChannelStore;
  readonly onionKeys: readonly OnionKey[];
  /** htlcs.htlc by {@link Htlc.key}, of every row that is changed or removed. */
  readonly rowKeys: ReadonlyMap<bigint, bigint>;
}

/** What a step wrote. */
export interface StepWritten {
  readonly fence: Fence;
  /** htlcs.htlc of the new rows, in the order of `store.added`. */
  readonly added: readonly bigint[];
  /** htlcs.htlc of those of `onionKeys` that are new, or were this HTLC's before a restart; the others are replays. */
  readonly fresh: readonly bigint[];
}

function rowKey(rowKeys: ReadonlyMap<bigint, bigint>, htlc: Htlc): bigint {
  const key = rowKeys.get(htlc.key);
  if (key === undefined) {
    throw new RowError(`htlcs: no row of ${htlc.offered ? "our" : "the peer's"} ${htlc.id}`);
  }
  return key;
}

/** Columns of removals, as arrays. */
function removalArrays(sql: Sql, htlcs: readonly Htlc[]) {
  const removals = htlcs.map((htlc) => htlc.removal);
  const pick = (read: (removal: HtlcRemoval) => Uint8Array | null) =>
    sql.array(removals.map((removal) => removal === null ? null : read(removal)), Type.byteas);
  const codes = removals.map((removal) => removal?.type === "malformed" ? removal.code : null);
  return sql`${pick((r) => r.type === "fulfill" ? r.preimage : null)}::bytea[],
    ${pick((r) => r.type === "fail" ? r.reason : null)}::bytea[],
    ${sql.array(codes, Type.ints)}::integer[],
    ${pick((r) => r.type === "malformed" ? r.sha256OfOnion : null)}::bytea[],
    ${pick((r) => r.type === "malformed" ? null : r.attribution)}::bytea[]`;
}

function stepStatement(sql: Sql, { fence, place, store, onionKeys, rowKeys }: StepWrite) {
  const { added, changed, removed } = store;
  const bytes = (value: Uint8Array | null) => sql.typed(value, Type.bytea);
  const array = <T extends bigint | number | boolean | string | Uint8Array | null>(
    values: readonly T[],
    type: number,
  ) => sql.array([...values], type);
  const keys = (htlcs: readonly Htlc[]) => array(htlcs.map((htlc) => rowKey(rowKeys, htlc)), Type.bigints);
  const commitments = store.commitments === null ? null : encodeCommitments(store.commitments);
  const alias = store.remoteAlias === null ? "" : String(store.remoteAlias);
  return sql`
    WITH fenced AS (
      UPDATE channels SET version = version + 1, ${placeColumns(sql, place)}, ${
    stateColumns(sql, store.state)
  },
        commitments = COALESCE(${bytes(commitments)}, commitments),
        remote_alias = COALESCE(NULLIF(${alias}, '')::numeric, remote_alias),
        shutdown_sent = COALESCE(${bytes(store.shutdownSent)}, shutdown_sent),
        shutdown_received = COALESCE(${bytes(store.shutdownReceived)}, shutdown_received),
        error_text = COALESCE(error_text, NULLIF(${store.errorText ?? ""}, '')),
        data_loss = data_loss OR ${store.dataLoss}
      WHERE ${fenced(sql, fence)} RETURNING channel, version
    ), keyed AS (
      SELECT nextval('htlcs_htlc_seq') AS htlc, f.channel, x.* FROM fenced f, unnest(
        ${array(added.map((htlc) => htlc.offered), Type.bools)}::boolean[],
        ${array(added.map((htlc) => htlc.id), Type.bigints)}::bigint[],
        ${array(added.map((htlc) => htlc.state), Type.texts)}::text[],
        ${array(added.map((htlc) => htlc.amount), Type.bigints)}::bigint[],
        ${array(added.map((htlc) => htlc.paymentHash), Type.byteas)}::bytea[],
        ${array(added.map((htlc) => htlc.cltvExpiry), Type.ints)}::integer[],
        ${array(added.map((htlc) => htlc.origin), Type.bigints)}::bigint[],
        ${array(added.map((htlc) => htlc.onion), Type.byteas)}::bytea[]
      ) WITH ORDINALITY AS x (offered, id, state, amount_msat, payment_hash, cltv_expiry, origin, onion, n)
    ), added AS (
      INSERT INTO htlcs (htlc, channel, offered, id, state, amount_msat, payment_hash, cltv_expiry, origin)
      SELECT htlc, channel, offered, id, state, amount_msat, payment_hash, cltv_expiry, origin FROM keyed
    ), onions AS (
      INSERT INTO htlc_onions (htlc, onion) SELECT htlc, onion FROM keyed
    ), changed AS (
      UPDATE htlcs h SET state = x.state, preimage = x.preimage, failure = x.failure,
        malformed_code = x.malformed_code, malformed_sha256 = x.malformed_sha256,
        attribution_data = x.attribution_data
      FROM fenced f, unnest(${keys(changed)}::bigint[],
        ${array(changed.map((htlc) => htlc.state), Type.texts)}::text[], ${removalArrays(sql, changed)}
      ) AS x (htlc, state, preimage, failure, malformed_code, malformed_sha256, attribution_data)
      WHERE h.htlc = x.htlc RETURNING h.htlc
    ), removed AS (
      DELETE FROM htlcs h
      USING fenced f, unnest(${keys(removed)}::bigint[], ${removalArrays(sql, removed)}
      ) AS x (htlc, preimage, failure, malformed_code, malformed_sha256, attribution_data)
      WHERE h.htlc = x.htlc
      RETURNING h.htlc, h.channel, h.offered, h.id, h.amount_msat, h.payment_hash, h.cltv_expiry, h.origin,
        x.preimage, x.failure, x.malformed_code, x.malformed_sha256, x.attribution_data, h.created_at
    ), past AS (
      INSERT INTO htlc_history (htlc, channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, preimage,
        failure, malformed_code, malformed_sha256, attribution_data, created_at)
      SELECT * FROM removed
    ), past_onions AS (
      DELETE FROM htlc_onions o USING removed r WHERE o.htlc = r.htlc
    ), peeled AS (
      SELECT x.* FROM fenced f, unnest(
        ${array(onionKeys.map((onion) => onion.key), Type.byteas)}::bytea[],
        ${array(onionKeys.map((onion) => onion.htlc), Type.bigints)}::bigint[],
        ${array(onionKeys.map((onion) => onion.cltvExpiry), Type.ints)}::integer[]
      ) AS x (key, htlc, cltv_expiry)
    ), seen AS (
      INSERT INTO htlc_onion_keys (key, htlc, cltv_expiry)
      SELECT key, htlc, cltv_expiry FROM peeled ON CONFLICT (key) DO NOTHING RETURNING htlc
    )
    SELECT f.version,
      ARRAY(SELECT htlc FROM keyed ORDER BY n) AS added,
      ARRAY(
        SELECT htlc FROM seen UNION ALL
        SELECT k.htlc FROM peeled p JOIN htlc_onion_keys k ON k.key = p.key AND k.htlc = p.htlc
      ) AS fresh,
      (SELECT count(*) FROM changed) + (SELECT count(*) FROM removed) AS touched
    FROM fenced f`;
}

/**
 * One durable step, everything of it in one statement. SupersededError when another owner has the channel: nothing is
 * written then. RowError when a row is not there that the machine knows.
 */
export async function saveStep(sql: Sql, write: StepWrite): Promise<StepWritten> {
  const rows = await stepStatement(sql, write) as unknown as {
    version: bigint;
    added: bigint[];
    fresh: bigint[];
    touched: bigint;
  }[];
  const fence = after(write.fence, rows);
  const [row] = rows;
  const { changed, removed } = write.store;
  if (row === undefined || row.touched !== BigInt(changed.length + removed.length)) {
    throw new RowError("htlcs: rows are missing that this owner has");
  }
  return { fence, added: row.added, fresh: row.fresh };
}

/** The plan of a step, for tests. */
export async function explainStep(sql: Sql, write: StepWrite): Promise<string> {
  const rows = await sql<{ "QUERY PLAN": string }[]>`EXPLAIN ${stepStatement(sql, write)}`;
  return rows.map((row) => row["QUERY PLAN"]).join("\n");
}
