/** Every SQL statement of chain/. Functions take the client of the transaction that they belong to. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { aborted } from "common/grpc/errors.ts";
import type { Sql } from "common/pg/client.ts";
import type { CheckedBlock } from "./block.ts";
import { type BlockFacts, key, type WatchedAttempt, type WatchSet } from "./match.ts";

/** Blocks after which a transaction is taken for final (design: siblings stay watched until one is so deep). */
export const DEEP = 100;
/** Rows of one INSERT: Postgres takes 65,535 parameters. */
const ROWS_AT_ONCE = 1_000;

/** A block row. */
export interface BlockRow {
  readonly height: number;
  readonly hash: Uint8Array;
}

/** Refuses to go on unless this epoch still leads; until COMMIT nobody else can take over. */
export async function fence(sql: Sql, epoch: bigint): Promise<void> {
  const rows = await sql`select 1 from leader where epoch = ${epoch} for share`;
  if (rows.length === 0) throw aborted("LEADER_LOST", "another lightningd leads now");
}

/** The newest block of the rows. */
export async function readTip(sql: Sql): Promise<BlockRow | undefined> {
  const [row] = await sql<BlockRow[]>`select height, hash from blocks order by height desc limit 1`;
  return row;
}

/** Blocks from `to` downwards, at most `count`. */
export async function blocksDown(sql: Sql, to: number, count: number): Promise<BlockRow[]> {
  return await sql<BlockRow[]>`
    select height, hash from blocks where height <= ${to} order by height desc limit ${count}`;
}

/** Adds a block. */
export async function insertBlock(sql: Sql, height: number, block: CheckedBlock): Promise<void> {
  await sql`insert into blocks (height, hash, prev_hash) values (${height}, ${block.hash}, ${block.prevHash})`;
}

/** Everything that blocks are examined for, as the rows have it now. */
export async function readWatchSet(sql: Sql): Promise<WatchSet> {
  const scripts = await sql<{ script: Uint8Array; change: boolean; key_index: bigint }[]>`
    select script, change, key_index from wallet_keys`;
  const outpoints = await sql<{ txid: Uint8Array; vout: bigint }[]>`
    select w.txid, w.vout from (
      select txid, vout from wallet_outputs
      union select txid, vout from attempt_inputs
      union select txid, output_index from funding_attempts
      union select i.prev_txid, i.prev_vout from wallet_tx_inputs i
        where not exists (select 1 from tx_confirmations c where c.txid = i.txid)
    ) w where not exists (select 1 from spends s where s.txid = w.txid and s.vout = w.vout)`;
  const txids = await sql<{ txid: Uint8Array }[]>`
    select t.txid from wallet_txs t where not exists (select 1 from tx_confirmations c where c.txid = t.txid)`;
  const attempts = await sql<
    {
      attempt: bigint;
      channel: bigint;
      txid: Uint8Array;
      output_index: number;
      funding_script: Uint8Array;
      capacity_sat: bigint;
    }[]
  >`
    select a.attempt, a.channel, a.txid, a.output_index, a.funding_script, a.capacity_sat
    from funding_attempts a
    where not exists (select 1 from attempt_confirmations c where c.attempt = a.attempt)`;
  return {
    scripts: new Map(scripts.map((row) => [
      bytesToHex(row.script),
      { change: row.change, keyIndex: row.key_index },
    ])),
    outpoints: new Set(outpoints.map((row) => key(row.txid, row.vout))),
    txids: new Set(txids.map((row) => bytesToHex(row.txid))),
    attempts: new Map(attempts.map((row): [string, WatchedAttempt] => [bytesToHex(row.txid), {
      attempt: row.attempt,
      channel: row.channel,
      txid: row.txid,
      outputIndex: row.output_index,
      fundingScript: row.funding_script,
      capacity: row.capacity_sat,
    }])),
  };
}

/** Writes what a block holds. What is known already stays as it is. */
export async function writeFacts(sql: Sql, height: number, facts: BlockFacts): Promise<void> {
  for (const { tx, isAttempt } of facts.deposits) {
    await sql`
      insert into wallet_txs (txid, raw, kind)
      values (${tx.txid}, ${tx.raw()}, ${isAttempt ? "attempt" : "deposit"}) on conflict do nothing`;
    // A coinbase spends nothing that another transaction could.
    if (tx.index === 0) continue;
    const inputs = tx.inputs.map((input) => ({
      txid: tx.txid,
      prev_txid: input.txid,
      prev_vout: BigInt(input.vout),
    }));
    for (const rows of parts(inputs)) {
      await sql`insert into wallet_tx_inputs ${sql(rows)} on conflict do nothing`;
    }
  }
  const outputs = facts.outputs.map((output) => ({
    txid: output.txid,
    vout: BigInt(output.vout),
    amount_sat: output.amount,
    change: output.change,
    key_index: output.keyIndex,
  }));
  for (const rows of parts(outputs)) {
    await sql`insert into wallet_outputs ${sql(rows)} on conflict do nothing`;
  }
  const confirmations = facts.confirmations.map(({ txid, index }) => ({ txid, height, tx_index: index }));
  for (const rows of parts(confirmations)) {
    await sql`insert into tx_confirmations ${sql(rows)} on conflict do nothing`;
  }
  const spends = facts.spends.map((spend) => ({
    txid: spend.txid,
    vout: BigInt(spend.vout),
    spending_txid: spend.spendingTxid,
    height,
  }));
  for (const rows of parts(spends)) await sql`insert into spends ${sql(rows)} on conflict do nothing`;
  for (const { attempt, index, coinbase, matches } of facts.attempts) {
    // The channel may have been forgotten since the watch set was read: then there is nothing to write.
    await sql`
      insert into attempt_confirmations (attempt, height, tx_index, coinbase, matches)
      select attempt, ${height}, ${index}, ${coinbase}, ${matches}
      from funding_attempts where attempt = ${attempt} for key share
      on conflict do nothing`;
  }
}

function parts<T>(rows: readonly T[]): T[][] {
  const chunks: T[][] = [];
  for (let at = 0; at < rows.length; at += ROWS_AT_ONCE) chunks.push(rows.slice(at, at + ROWS_AT_ONCE));
  return chunks;
}

/** Channels with a confirmed attempt that is not deep: each block changes what they may do. */
export async function shallowChannels(sql: Sql, tip: number): Promise<bigint[]> {
  const rows = await sql<{ channel: bigint }[]>`
    select distinct a.channel from attempt_confirmations c join funding_attempts a using (attempt)
    where c.height > ${tip - DEEP - 1}`;
  return rows.map((row) => row.channel);
}

/** Channels with an attempt whose input or funding output was spent at or above a height. */
export async function channelsSpentFrom(sql: Sql, height: number): Promise<bigint[]> {
  const rows = await sql<{ channel: bigint }[]>`
    select distinct a.channel from spends s
    join attempt_inputs i on i.txid = s.txid and i.vout = s.vout
    join funding_attempts a on a.attempt = i.attempt
    where s.height >= ${height}
    union
    select distinct a.channel from spends s
    join funding_attempts a on a.txid = s.txid and a.output_index = s.vout
    where s.height >= ${height}`;
  return rows.map((row) => row.channel);
}

/** Channels with an attempt confirmed at or above a height. */
export async function channelsConfirmedFrom(sql: Sql, height: number): Promise<bigint[]> {
  const rows = await sql<{ channel: bigint }[]>`
    select distinct a.channel from attempt_confirmations c join funding_attempts a using (attempt)
    where c.height >= ${height}`;
  return rows.map((row) => row.channel);
}

/** Removes every block above a height; the facts that hang on them go with them. */
export async function rewind(sql: Sql, height: number): Promise<void> {
  await sql`delete from blocks where height > ${height}`;
}

/** Attempts whose earlier blocks were not scanned yet, and the height from which they must be. */
export async function unscannedAttempts(sql: Sql): Promise<{ attempt: bigint; created_height: number }[]> {
  return await sql<{ attempt: bigint; created_height: number }[]>`
    select a.attempt, a.created_height from funding_attempts a
    where not exists (select 1 from attempt_scans s where s.attempt = a.attempt)`;
}

/** Remembers that attempts were looked for in every block up to a height. */
export async function markScanned(sql: Sql, attempts: readonly bigint[], height: number): Promise<void> {
  for (const attempt of attempts) {
    await sql`
      insert into attempt_scans (attempt, scanned_to)
      select attempt, ${height} from funding_attempts where attempt = ${attempt} for key share
      on conflict do nothing`;
  }
}

/** A transaction that bitcoind must have until it is deep. */
export interface Rebroadcast {
  readonly txid: Uint8Array;
  readonly raw: Uint8Array;
  /** Null for the wallet's. */
  readonly channel: bigint | null;
}

/**
 * Unconfirmed transactions of ours: the wallet's in the order in which they were made (a child follows its parent),
 * then attempts without a confirmed sibling, the newest of a channel first.
 */
export async function unconfirmedTransactions(sql: Sql): Promise<Rebroadcast[]> {
  const wallet = await sql<Rebroadcast[]>`
    select t.txid, t.raw, null::bigint as channel from wallet_txs t
    where t.broadcast
      and not exists (select 1 from tx_confirmations c where c.txid = t.txid)
      and not exists (
        select 1 from wallet_tx_inputs i join spends s on s.txid = i.prev_txid and s.vout = i.prev_vout
        where i.txid = t.txid and s.spending_txid <> t.txid)
    order by t.created_at`;
  const attempts = await sql<Rebroadcast[]>`
    select a.txid, a.complete_tx as raw, a.channel from funding_attempts a
    where a.complete_tx is not null
      and not exists (
        select 1 from attempt_confirmations c join funding_attempts b using (attempt) where b.channel = a.channel)
    order by a.channel, a.seq desc`;
  return [...wallet, ...attempts];
}
