/** Every SQL statement of wallet/. Functions that write take the client of a transaction that was fenced. */
import { aborted } from "common/grpc/errors.ts";
import type { Sql } from "common/pg/client.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { type Sat, sat } from "bolt/units.ts";

/** Blocks after which a conflict is final, and what it took is free again. */
export const DEEP = 100;

/** Refuses to go on unless this epoch still leads; until COMMIT nobody else can take over. */
export async function fence(sql: Sql, epoch: bigint): Promise<void> {
  const rows = await sql`select 1 from leader where epoch = ${epoch} for share`;
  if (rows.length === 0) throw aborted("LEADER_LOST", "another lightningd leads now");
}

/** Height of the newest block; 0 before the first. */
export async function tipHeight(sql: Sql): Promise<number> {
  const [row] = await sql<{ height: number }[]>`select coalesce(max(height), 0) as height from blocks`;
  return row?.height ?? 0;
}

// ------------------------------------------------------------------------------------------------------------- keys

/** A key that was handed out. */
export interface KeyRow {
  readonly change: boolean;
  readonly keyIndex: number;
  readonly script: Uint8Array;
}

/** The index after the last one handed out. */
export async function nextKeyIndex(sql: Sql, change: boolean): Promise<number> {
  const [row] = await sql<{ next: bigint }[]>`
    select coalesce(max(key_index) + 1, 0) as next from wallet_keys where change = ${change}`;
  return Number(row?.next ?? 0n);
}

/** Stores a key as handed out; throws a unique violation when somebody else did. One statement, fenced. */
export async function insertKey(sql: Sql, epoch: bigint, key: KeyRow): Promise<void> {
  const rows = await sql`
    with led as (select 1 from leader where epoch = ${epoch} for share)
    insert into wallet_keys (change, key_index, script)
    select ${key.change}, ${BigInt(key.keyIndex)}, ${key.script} from led
    returning key_index`;
  if (rows.length === 0) throw aborted("LEADER_LOST", "another lightningd leads now");
}

/** Which of these scripts are ours. */
export async function keysOf(sql: Sql, scripts: readonly Uint8Array[]): Promise<KeyRow[]> {
  if (scripts.length === 0) return [];
  const rows = await sql<{ change: boolean; key_index: bigint; script: Uint8Array }[]>`
    select change, key_index, script from wallet_keys where script in ${sql([...scripts])}`;
  return rows.map((row) => ({ change: row.change, keyIndex: Number(row.key_index), script: row.script }));
}

// ------------------------------------------------------------------------------------------------------------ coins

/** Whom an output is reserved for. */
export interface Reservation {
  readonly purpose: "opening" | "attempt" | "withdraw" | "user";
  readonly opening?: bigint;
  readonly channel?: bigint;
  readonly untilHeight?: number;
}

/** An output of ours with all that decides what may be done with it. Outputs of dead transactions are not listed. */
export interface CoinRow {
  readonly outpoint: OutPoint;
  readonly amount: Sat;
  readonly script: Uint8Array;
  readonly change: boolean;
  readonly keyIndex: number;
  /** Made by a transaction of ours that spends only what we chose: it may be spent before it confirms. */
  readonly trusted: boolean;
  readonly confirmed?: { readonly height: number; readonly coinbase: boolean };
  /** By a confirmed transaction, or by one of ours that is stored to be sent. */
  readonly spent: boolean;
  readonly reserved?: Reservation;
}

interface RawCoin {
  txid: Uint8Array;
  vout: bigint;
  amount_sat: bigint;
  change: boolean;
  key_index: bigint;
  script: Uint8Array;
  trusted: boolean;
  height: number | null;
  tx_index: number | null;
  spent: boolean;
  purpose: Reservation["purpose"] | null;
  opening: bigint | null;
  channel: bigint | null;
  until_height: number | null;
}

/**
 * Every output of ours, or those of `outpoints`. A transaction is dead when another one that spends an input of it is
 * confirmed, or when it spends an output of a dead one: derived at each question, so that a reorg needs no repair.
 */
export async function readCoins(sql: Sql): Promise<CoinRow[]> {
  const rows = await sql<RawCoin[]>`
    with recursive dead (txid) as (
      select i.txid from wallet_tx_inputs i
        join spends s on s.txid = i.prev_txid and s.vout = i.prev_vout
        where s.spending_txid <> i.txid
      union
      select i.txid from wallet_tx_inputs i join dead d on d.txid = i.prev_txid
    )
    select o.txid, o.vout, o.amount_sat, o.change, o.key_index, k.script,
      t.kind in ('withdraw', 'psbt') and t.broadcast as trusted,
      c.height, c.tx_index,
      exists (select 1 from spends s where s.txid = o.txid and s.vout = o.vout)
        or exists (
          select 1 from wallet_tx_inputs i join wallet_txs w using (txid)
          where i.prev_txid = o.txid and i.prev_vout = o.vout and (w.broadcast or w.kind = 'deposit')
            and i.txid not in (select d.txid from dead d)
        ) as spent,
      r.purpose, r.opening, r.channel, r.until_height
    from wallet_outputs o
    join wallet_txs t using (txid)
    join wallet_keys k on k.change = o.change and k.key_index = o.key_index
    left join tx_confirmations c on c.txid = o.txid
    left join reservations r on r.txid = o.txid and r.vout = o.vout
    where o.txid not in (select d.txid from dead d)
    order by o.txid, o.vout`;
  return rows.map(toCoin);
}

function toCoin(row: RawCoin): CoinRow {
  return {
    outpoint: { txid: row.txid, vout: Number(row.vout) },
    amount: sat(row.amount_sat),
    script: row.script,
    change: row.change,
    keyIndex: Number(row.key_index),
    trusted: row.trusted,
    ...(row.height === null ? {} : { confirmed: { height: row.height, coinbase: row.tx_index === 0 } }),
    spent: row.spent,
    ...(row.purpose === null ? {} : {
      reserved: {
        purpose: row.purpose,
        ...(row.opening === null ? {} : { opening: row.opening }),
        ...(row.channel === null ? {} : { channel: row.channel }),
        ...(row.until_height === null ? {} : { untilHeight: row.until_height }),
      },
    }),
  };
}

/** The full transactions that made some outputs, by txid. */
export async function readTransactions(
  sql: Sql,
  txids: readonly Uint8Array[],
): Promise<{ txid: Uint8Array; raw: Uint8Array }[]> {
  if (txids.length === 0) return [];
  return await sql<{ txid: Uint8Array; raw: Uint8Array }[]>`
    select txid, raw from wallet_txs where txid in ${sql([...txids])}`;
}

/** Every transaction that was or may be on the chain, with its block. */
export async function listTransactions(
  sql: Sql,
): Promise<{ txid: Uint8Array; raw: Uint8Array; height: number | null; tx_index: number | null }[]> {
  return await sql<{ txid: Uint8Array; raw: Uint8Array; height: number | null; tx_index: number | null }[]>`
    select x.txid, x.raw, c.height, c.tx_index from (
      select txid, raw from wallet_txs where broadcast or kind <> 'withdraw'
      union all
      select a.txid, a.complete_tx from funding_attempts a
        where a.complete_tx is not null and not exists (select 1 from wallet_txs t where t.txid = a.txid)
    ) x left join tx_confirmations c on c.txid = x.txid
    order by c.height nulls last, c.tx_index, x.txid`;
}

// ------------------------------------------------------------------------------------------------------ transactions

/** A transaction of ours that is about to be signed or sent. */
export interface StoredTx {
  readonly txid: Uint8Array;
  readonly raw: Uint8Array;
  readonly kind: "withdraw" | "psbt";
  readonly broadcast: boolean;
  readonly inputs: readonly OutPoint[];
}

/** Stores a transaction with its inputs; throws a unique violation when it is stored already. */
export async function insertTransaction(sql: Sql, tx: StoredTx): Promise<void> {
  await sql`
    insert into wallet_txs (txid, raw, kind, broadcast) values (${tx.txid}, ${tx.raw}, ${tx.kind}, ${tx.broadcast})`;
  for (const { txid, vout } of tx.inputs) {
    await sql`
      insert into wallet_tx_inputs (txid, prev_txid, prev_vout) values (${tx.txid}, ${txid}, ${
      BigInt(vout)
    })`;
  }
}

/** Stores the signed form; from here on it is sent again until it is deep. */
export async function markSigned(sql: Sql, txid: Uint8Array, raw: Uint8Array): Promise<void> {
  const rows = await sql`
    update wallet_txs set raw = ${raw}, broadcast = true where txid = ${txid} returning txid`;
  if (rows.length === 0) throw aborted("WITHDRAW_GONE", "the transaction was given up meanwhile");
}

/** Our outputs of a transaction. */
export async function insertOutputs(
  sql: Sql,
  txid: Uint8Array,
  outputs: readonly { vout: number; amount: Sat; change: boolean; keyIndex: number }[],
): Promise<void> {
  for (const output of outputs) {
    await sql`
      insert into wallet_outputs (txid, vout, amount_sat, change, key_index)
      values (${txid}, ${BigInt(output.vout)}, ${output.amount}, ${output.change}, ${BigInt(output.keyIndex)})
      on conflict do nothing`;
  }
}

/** Forgets a transaction that nobody has: never signed, or refused by bitcoind. */
export async function forgetTransaction(sql: Sql, txid: Uint8Array): Promise<void> {
  await sql`delete from reservations where withdraw_txid = ${txid}`;
  await sql`delete from wallet_outputs where txid = ${txid}`;
  await sql`delete from wallet_txs where txid = ${txid}`;
}

// ------------------------------------------------------------------------------------------------------ reservations

/** Reserves outputs that nobody holds; throws a unique violation otherwise. */
export async function insertReservation(
  sql: Sql,
  { txid, vout }: OutPoint,
  owner:
    | { readonly type: "opening"; readonly opening: bigint }
    | { readonly type: "withdraw"; readonly txid: Uint8Array }
    | { readonly type: "user"; readonly untilHeight: number },
): Promise<void> {
  await sql`
    insert into reservations (txid, vout, purpose, opening, withdraw_txid, until_height)
    values (${txid}, ${BigInt(vout)}, ${owner.type}, ${owner.type === "opening" ? owner.opening : null},
      ${owner.type === "withdraw" ? owner.txid : null}, ${owner.type === "user" ? owner.untilHeight : null})`;
}

/** Releases what a user holds; other purposes are released by their own rows only. */
export async function deleteUserReservation(sql: Sql, { txid, vout }: OutPoint): Promise<void> {
  await sql`delete from reservations where txid = ${txid} and vout = ${BigInt(vout)} and purpose = 'user'`;
}

/** Deletes any reservation of an output: only where the caller replaces it in this transaction. */
export async function deleteReservation(sql: Sql, { txid, vout }: OutPoint): Promise<void> {
  await sql`delete from reservations where txid = ${txid} and vout = ${BigInt(vout)}`;
}

/** Releases what an opening holds. */
export async function releaseOpening(sql: Sql, opening: bigint): Promise<void> {
  await sql`delete from reservations where opening = ${opening}`;
}

/** Sets until when a user holds an output. */
export async function setUserReservation(sql: Sql, outpoint: OutPoint, untilHeight: number): Promise<void> {
  await sql`
    update reservations set until_height = ${untilHeight}
    where txid = ${outpoint.txid} and vout = ${BigInt(outpoint.vout)} and purpose = 'user'`;
}

/** Reservations of a user that are over. */
export async function releaseExpired(sql: Sql): Promise<number> {
  const rows = await sql`
    delete from reservations where purpose = 'user'
      and until_height <= (select coalesce(max(height), 0) from blocks) returning vout`;
  return rows.length;
}

/**
 * Reservations of stored transactions that can no longer confirm (a conflict is deep), or that are deep themselves:
 * then the output is spent for good.
 */
export async function releaseSettled(sql: Sql): Promise<number> {
  const rows = await sql`
    with tip as (select coalesce(max(height), 0) as height from blocks)
    delete from reservations r using tip where r.purpose = 'withdraw' and (
      exists (
        select 1 from wallet_tx_inputs i join spends s on s.txid = i.prev_txid and s.vout = i.prev_vout
        where i.txid = r.withdraw_txid and s.spending_txid <> i.txid and s.height <= tip.height - ${DEEP} + 1)
      or exists (
        select 1 from spends s
        where s.txid = r.txid and s.vout = r.vout and s.height <= tip.height - ${DEEP} + 1)
    ) returning r.vout`;
  return rows.length;
}

/**
 * Reservations of channels' attempts that hold nothing any more. An attempt holds its input while we may still sign or
 * have signed it: not aborted (after our tx_signatures it never is), and no conflict deep. While an RBF is under
 * negotiation nothing of its channel is released.
 */
export async function releaseAttempts(sql: Sql): Promise<number> {
  const rows = await sql`
    with tip as (select coalesce(max(height), 0) as height from blocks)
    delete from reservations r using tip
    where r.purpose = 'attempt'
      and not exists (select 1 from openings o where o.channel = r.channel)
      and not exists (
        select 1 from funding_attempts a join attempt_inputs i using (attempt)
        where a.channel = r.channel and i.side = 'local' and i.txid = r.txid and i.vout = r.vout
          and not a.aborted
          and not exists (
            select 1 from attempt_inputs b join spends s on s.txid = b.txid and s.vout = b.vout
            where b.attempt = a.attempt and s.spending_txid <> a.txid
              and s.height <= tip.height - ${DEEP} + 1))
    returning r.vout`;
  return rows.length;
}

/** Withdrawals that were never signed: their lightningd died before it had them. */
export async function unsignedWithdrawals(sql: Sql): Promise<Uint8Array[]> {
  const rows = await sql<{ txid: Uint8Array }[]>`
    select txid from wallet_txs where kind = 'withdraw' and not broadcast`;
  return rows.map((row) => row.txid);
}

// ------------------------------------------------------------------------------------------------ openings, attempts

/** An opening as a plan needs it. */
export interface OpeningRow {
  readonly opening: bigint;
  readonly peerId: Uint8Array;
  readonly channel?: bigint;
  readonly plan?: Uint8Array;
}

/** The opening, if it still is. */
export async function readOpening(sql: Sql, opening: bigint): Promise<OpeningRow | undefined> {
  const [row] = await sql<{ peer_id: Uint8Array; channel: bigint | null; plan: Uint8Array | null }[]>`
    select o.peer_id, o.channel, p.plan from openings o left join opening_plans p using (opening)
    where o.opening = ${opening}`;
  if (row === undefined) return undefined;
  return {
    opening,
    peerId: row.peer_id,
    ...(row.channel === null ? {} : { channel: row.channel }),
    ...(row.plan === null ? {} : { plan: row.plan }),
  };
}

/** Holds the opening's row until COMMIT, so that it cannot end meanwhile; false when it has ended. */
export async function holdOpening(sql: Sql, opening: bigint): Promise<boolean> {
  const rows = await sql`select 1 from openings where opening = ${opening} for key share`;
  return rows.length > 0;
}

/** Stores the plan of an opening, in place of an earlier one. */
export async function putPlan(sql: Sql, opening: bigint, plan: Uint8Array): Promise<void> {
  await sql`
    insert into opening_plans (opening, plan) values (${opening}, ${plan})
    on conflict (opening) do update set plan = excluded.plan`;
}

/** An earlier attempt of a channel, as an RBF sees it. */
export interface EarlierAttempt {
  readonly attempt: bigint;
  readonly seq: number;
  readonly txid: Uint8Array;
  readonly fee: Sat;
  readonly feerate: number;
  readonly createdHeight: number;
  readonly ourInputs: readonly OutPoint[];
}

/** Attempts that may still confirm, oldest first, with our inputs. */
export async function liveAttempts(sql: Sql, channel: bigint): Promise<EarlierAttempt[]> {
  const rows = await sql<
    {
      attempt: bigint;
      seq: number;
      attempt_txid: Uint8Array;
      fee_sat: bigint;
      feerate_perkw: bigint;
      created_height: number;
      txid: Uint8Array | null;
      vout: bigint | null;
    }[]
  >`
    select a.attempt, a.seq, a.txid as attempt_txid, a.fee_sat, a.feerate_perkw, a.created_height, i.txid, i.vout
    from funding_attempts a left join attempt_inputs i on i.attempt = a.attempt and i.side = 'local'
    where a.channel = ${channel} and not a.aborted
      and not exists (
        select 1 from attempt_inputs b join spends s on s.txid = b.txid and s.vout = b.vout
        where b.attempt = a.attempt and s.spending_txid <> a.txid)
    order by a.seq, i.txid, i.vout`;
  const attempts = new Map<bigint, EarlierAttempt & { ourInputs: OutPoint[] }>();
  for (const row of rows) {
    const known = attempts.get(row.attempt) ?? {
      attempt: row.attempt,
      seq: row.seq,
      txid: row.attempt_txid,
      fee: sat(row.fee_sat),
      feerate: Number(row.feerate_perkw),
      createdHeight: row.created_height,
      ourInputs: [],
    };
    if (row.txid !== null && row.vout !== null) {
      known.ourInputs.push({ txid: row.txid, vout: Number(row.vout) });
    }
    attempts.set(row.attempt, known);
  }
  return [...attempts.values()];
}

/** Whether a channel is locked, or an attempt of it is confirmed; undefined when there is no such channel. */
export async function channelSettled(sql: Sql, channel: bigint): Promise<boolean | undefined> {
  const [row] = await sql<{ settled: boolean }[]>`
    select c.locked_attempt is not null or exists (
      select 1 from funding_attempts a join attempt_confirmations f using (attempt) where a.channel = c.channel
    ) as settled
    from channels c where c.channel = ${channel}`;
  return row?.settled;
}

/** Whether a transaction is a funding attempt. */
export async function isAttempt(sql: Sql, txid: Uint8Array): Promise<boolean> {
  const rows = await sql`select 1 from funding_attempts where txid = ${txid}`;
  return rows.length > 0;
}

/** Our coins in peers' opens that are not confirmed: by this peer, by all. Those of `channel` are not counted. */
export async function heldForPeers(
  sql: Sql,
  peerId: Uint8Array,
  channel: bigint | undefined,
): Promise<{ peer: number; all: number }> {
  const [row] = await sql<{ peer: bigint; total: bigint }[]>`
    select count(*) filter (where x.peer_id = ${peerId}) as peer, count(*) as total from (
      select o.peer_id from reservations r join openings o using (opening) where o.initiator = 'remote'
      union all
      select c.peer_id from reservations r join channels c on c.channel = r.channel
      where r.purpose = 'attempt' and c.opener = 'remote' and c.locked_attempt is null
        and c.channel is distinct from ${channel ?? null}
        and not exists (
          select 1 from funding_attempts a join attempt_confirmations f using (attempt)
          where a.channel = c.channel)
    ) x`;
  return { peer: Number(row?.peer ?? 0n), all: Number(row?.total ?? 0n) };
}
