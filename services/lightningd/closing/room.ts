/**
 * closing/: decisions to close, deadlines after which a channel goes to the chain alone, and what the chain says of funding
 * outputs. Everything is rows: a lightningd that dies in between goes on where it was.
 */
import { fromBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { bytesToHex, concatBytes } from "@noble/hashes/utils.js";
import { Transaction } from "bitcoinjs-lib";
import { classifySpend } from "bolt/closing/tx.ts";
import { sameBytes, sameOutPoint, txidOf } from "bolt/tx/transaction.ts";
import { aborted, ArcusError, failedPrecondition, notFound } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import type { PlanClosingResponseSchema } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { ChannelParamsSchema } from "gen/arcus/store/v1/store_pb.ts";
import { decodeParams } from "subd/rows.ts";
import { channelTerms } from "subd/terms.ts";
import type { HsmdClient } from "../node.ts";
import type { Chain } from "../ports.ts";
import type { ClosingRow, ClosingStore, Decision, OwnCommitment, Spend } from "./store.ts";

/** Confirmations after which a cooperative close is history. */
export const CLOSE_DEPTH = 100;
/** What went wrong for a passing reason is tried again after this long. */
const RETRY_MS = 1_000;
/** A timer of the runtime holds no more; the rows say when it is really due. */
const MAX_TIMER_MS = 60 * 60_000;
/** hsmd knew a higher epoch so often: then something is wrong that a higher one does not cure. */
const MAX_EPOCH_ROUNDS = 3;
/** What the opener pays at most, as a multiple of what it would like: a hostile accepter asks for the most. */
const MAX_OVER_IDEAL = 2;
/** What the peer hears when a channel goes to the chain. */
const FORCED = "Forcibly closed by `close` command timeout";

/** What the room needs of its neighbours. */
export interface ClosingRoomOptions {
  readonly store: ClosingStore;
  readonly hsmd: HsmdClient;
  readonly chain: Chain;
  readonly log: Logger;
  /** The rows were taken from whoever had the channel: it lets go. The peer hears `text`, if there is any. */
  readonly taken: (channel: bigint, text: string | null) => Promise<void>;
  /** Its owner reads its rows again. */
  readonly lookAgain: (channel: bigint) => void;
  /** What must end this process. */
  readonly onFatal: (error: unknown) => void;
}

/** How a channel was closed. */
export interface Closed {
  readonly type: "mutual" | "unilateral";
  /** What was sent to the chain. */
  readonly txs: readonly Uint8Array[];
}

type Waiter = (closed: Closed | Error) => void;

/** The room. */
export class ClosingRoom {
  readonly #waiters = new Map<bigint, Set<Waiter>>();
  /** Commitments of ours that were sent; signed again after a restart, never stored. */
  readonly #sent = new Map<bigint, readonly Uint8Array[]>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #queue: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(private readonly options: ClosingRoomOptions) {}

  /** Looks for what became due while nobody was there. */
  start(): void {
    this.#soon(() => this.#look());
  }

  /** Ends timers and waits for what is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#queue;
    for (const channel of [...this.#waiters.keys()]) {
      this.#settle(channel, aborted("STOPPING", "lightningd stops; the close goes on when it is back"));
    }
  }

  /** A block came or went. Called once its facts are in the rows. */
  moved(): Promise<void> {
    return this.#inOrder(() => this.#look());
  }

  /** An owner's rows changed. */
  changed(channel: bigint): void {
    this.#soon(() => this.#changed(channel));
  }

  /**
   * Decides to close, and waits for the end. `wait` false: only decides. Rejects when the channel cannot be closed: it is
   * stale, or past it.
   */
  async close(decision: Decision): Promise<Closed> {
    const [row] = await this.options.store.rows({ channel: decision.channel });
    if (row === undefined) throw notFound("UNKNOWN_CHANNEL", "no such channel");
    if (row.data_loss && row.state !== "CLOSINGD_COMPLETE") {
      throw failedPrecondition(
        "STALE",
        "our state of this channel is old: only the peer can close it, and we wait for that",
      );
    }
    const closed = new Promise<Closed>((resolve, reject) => {
      const waiting = this.#waiters.get(decision.channel) ?? new Set();
      this.#waiters.set(decision.channel, waiting);
      waiting.add((end) => end instanceof Error ? reject(end) : resolve(end));
    });
    closed.catch(() => {});
    if (await this.options.store.decide(decision)) this.options.lookAgain(decision.channel);
    this.#soon(async () => {
      await this.#look();
      await this.#changed(decision.channel);
    });
    return await closed;
  }

  /** What a close may cost, and whose key our script has (PlanClosing). */
  async plan(channel: bigint, epoch: bigint): Promise<MessageInitShape<typeof PlanClosingResponseSchema>> {
    const { store, chain, hsmd } = this.options;
    const [row] = await store.rows({ channel });
    if (row === undefined || row.owner_epoch !== epoch) {
      throw aborted("EPOCH_STALE", "another owner has it by now");
    }
    if (row.shutdown_sent === null) throw failedPrecondition("NO_SHUTDOWN", "no shutdown of ours is stored");
    const rates = await chain.feerates();
    const ideal = Math.max(rates.opening, rates.floor);
    const script = Uint8Array.from(row.shutdown_sent);
    const key = await store.walletKey(script);
    if (key === undefined) {
      const params = fromBinary(ChannelParamsSchema, Uint8Array.from(row.params));
      const named = [row.script, params.local?.upfrontShutdownScript ?? null];
      if (!named.some((each) => each !== null && sameBytes(Uint8Array.from(each), script))) {
        throw failedPrecondition("UNNAMED_SCRIPT", "nobody named the script that our money would go to");
      }
      await hsmd.nameDestinations({
        channelKeyId: Uint8Array.from(row.channel_key_id),
        outputs: [{ amountSat: 0n, script }],
      });
    }
    return {
      minFeeratePerkw: row.min_feerate_perkw ?? rates.floor,
      maxFeeratePerkw: row.max_feerate_perkw ?? Math.min(ideal * MAX_OVER_IDEAL, rates.maxAcceptable),
      feeratePerkw: clamp(ideal, row.min_feerate_perkw ?? 0, row.max_feerate_perkw ?? ideal),
      feeStep: row.fee_step ?? "50%",
      height: chain.height(),
      ...(key === undefined ? {} : { change: key.change, keyIndex: Number(key.key_index) }),
    };
  }

  // ---------------------------------------------------------------------------------------------------------- levels

  /** Everything that rows ask for: what the chain said, what is due, what was sent and is not mined. */
  async #look(): Promise<void> {
    const { store, chain, log } = this.options;
    for (const spend of await store.spends()) await this.#spent(spend);
    for (const moved of await store.undone()) {
      log.warn(
        { channel: bytesToHex(moved.channel_id), state: moved.state },
        "a reorg took back the end of a channel",
      );
      await this.options.taken(moved.channel, null);
    }
    for (const closed of await store.forgetDeep(chain.height(), CLOSE_DEPTH)) {
      log.info({ channel: bytesToHex(closed.channel_id) }, "the close is deep: the channel is history");
      await this.options.taken(closed.channel, null);
    }
    for (const row of await store.due()) await this.#unilateral(row);
    for (const row of await store.rows("unilateral")) await this.#send(row);
    for (const channel of [...this.#waiters.keys()]) await this.#answer(channel);
    await this.#schedule();
  }

  async #changed(channel: bigint): Promise<void> {
    const [row] = await this.options.store.rows({ channel });
    if (row === undefined) return;
    if (row.state === "CLOSINGD_COMPLETE") await this.#broadcastClose(row);
    if (row.requested && row.error_text !== null) await this.#look();
    await this.#answer(channel);
  }

  /** The rows' transactions are sent again at each block; this is the first time. */
  async #broadcastClose(row: ClosingRow): Promise<void> {
    const { store, chain, log } = this.options;
    const [newest] = await store.signed(row.channel);
    if (newest === undefined) return;
    const detail = await chain.broadcast(Uint8Array.from(newest.raw));
    const channel = bytesToHex(row.channel_id);
    if (detail === "") log.info({ channel, fee: newest.fee_sat }, "closed by both: the transaction is sent");
    else log.warn({ channel, detail }, "bitcoind does not take a close yet; again at the next block");
  }

  async #answer(channel: bigint): Promise<void> {
    if (!this.#waiters.has(channel)) return;
    const { store } = this.options;
    const [row] = await store.rows({ channel });
    if (row === undefined) return this.#settle(channel, notFound("UNKNOWN_CHANNEL", "the channel is gone"));
    switch (row.state) {
      case "CLOSINGD_COMPLETE":
      case "ONCHAIN":
      case "CLOSED": {
        const signed = await store.signed(channel);
        const [newest] = signed;
        if (newest === undefined) return this.#settle(channel, { type: "unilateral", txs: [] });
        return this.#settle(channel, { type: "mutual", txs: [Uint8Array.from(newest.raw)] });
      }
      case "AWAITING_UNILATERAL": {
        const sent = this.#sent.get(channel);
        if (sent !== undefined) this.#settle(channel, { type: "unilateral", txs: sent });
        return;
      }
      case "FUNDING_SPEND_SEEN":
        return this.#settle(channel, { type: "unilateral", txs: this.#sent.get(channel) ?? [] });
    }
    if (row.data_loss) {
      this.#settle(
        channel,
        failedPrecondition("STALE", "our state of this channel is old: we wait for the peer"),
      );
    }
  }

  #settle(channel: bigint, end: Closed | Error): void {
    for (const waiter of this.#waiters.get(channel) ?? []) waiter(end);
    this.#waiters.delete(channel);
  }

  // ------------------------------------------------------------------------------------------------------ unilateral

  /** Raises the epoch and takes the state, then registers the epoch with hsmd: from then on only we are served. */
  async #unilateral(row: ClosingRow): Promise<void> {
    const { store, hsmd, log } = this.options;
    let hsmdEpoch = 0n;
    const text = row.error_text ?? FORCED;
    for (let round = 0; round < MAX_EPOCH_ROUNDS; round++) {
      const taken = await store.takeUnilateral(row.channel, hsmdEpoch, text);
      if (taken === undefined) return;
      if (round === 0) {
        log.warn({ channel: bytesToHex(row.channel_id), text }, "going to the chain without the peer");
        await this.options.taken(row.channel, text);
      }
      const { channels } = await hsmd.registerEpochs({ channels: [refOf(taken)] });
      const [memory] = channels;
      if (memory === undefined || !memory.refused) return;
      if (memory.refusal !== "EPOCH_STALE") {
        log.error(
          { channel: bytesToHex(row.channel_id), refusal: memory.refusal },
          "hsmd refuses this channel",
        );
        return;
      }
      hsmdEpoch = memory.epoch;
    }
  }

  /** hsmd signs and freezes; the transaction is sent until a block spends the funding output. */
  async #send(row: ClosingRow): Promise<void> {
    const { chain, log } = this.options;
    const channel = bytesToHex(row.channel_id);
    let txs = this.#sent.get(row.channel);
    if (txs === undefined) {
      txs = await this.#sign(row);
      if (txs.length === 0) return;
      this.#sent.set(row.channel, txs);
    }
    for (const tx of txs) {
      const detail = await chain.broadcast(tx);
      const txid = bytesToHex(txidOf(Transaction.fromBuffer(tx)).reverse());
      if (detail === "") log.info({ channel, txid }, "our own commitment is sent");
      else {log.warn(
          { channel, txid, detail },
          "bitcoind does not take our commitment yet; again at the next block",
        );}
    }
  }

  async #sign(row: ClosingRow): Promise<Uint8Array[]> {
    const { store, hsmd, log } = this.options;
    const { params } = decodeParams(row.params);
    const terms = channelTerms({ opener: row.opener, params });
    // After a restart hsmd may be a new one, too: registering the same epoch again is idempotent.
    await hsmd.registerEpochs({ channels: [refOf(row)] });
    const signed: { readonly own: OwnCommitment; readonly tx: Uint8Array }[] = [];
    for (const own of await store.ownCommitments(row.channel)) {
      if (signed.some((other) => sameOutPoint(other.own.outpoint, own.outpoint))) continue;
      try {
        const { tx } = await hsmd.signOwnCommitment({
          channel: refOf(row),
          terms,
          outpoint: own.outpoint,
          capacitySat: own.capacity,
          local: {
            number: own.number,
            toLocalMsat: own.toLocalMsat,
            toRemoteMsat: own.toRemoteMsat,
            feeratePerkw: own.feeratePerkw === 0 ? params.commitmentFeerate : own.feeratePerkw,
            htlcIds: own.htlcs.map(({ id }) => id),
            htlcOffered: own.htlcs.map(({ offered }) => offered),
            htlcAmountMsat: own.htlcs.map(({ amountMsat }) => amountMsat),
            htlcPaymentHashes: concatBytes(...own.htlcs.map(({ paymentHash }) => paymentHash)),
            htlcCltvExpiry: own.htlcs.map(({ cltvExpiry }) => cltvExpiry),
          },
          remoteSignature: own.remoteSignature,
        });
        signed.push({ own, tx });
      } catch (error) {
        if (!(error instanceof ArcusError) || error.reason === "NOT_BOUND") throw error;
        log.warn(
          { channel: bytesToHex(row.channel_id), number: own.number, reason: error.reason },
          "hsmd does not sign this commitment of ours",
        );
      }
    }
    return signed.map(({ tx }) => tx);
  }

  // ------------------------------------------------------------------------------------------------------- the chain

  /** What spent a funding output, whoever sent it: the channel is over. */
  async #spent(spend: Spend): Promise<void> {
    const { store, chain, log } = this.options;
    const raw = spend.raw ?? await chain.confirmedTransaction(spend.txid, spend.height);
    if (raw === undefined) return;
    const { local, remote } = fromBinary(ChannelParamsSchema, Uint8Array.from(spend.upfront));
    const kind = classifySpend(
      raw,
      { txid: spend.funding_txid, vout: spend.funding_vout },
      [
        spend.shutdown_sent,
        spend.shutdown_received,
        local?.upfrontShutdownScript ?? null,
        remote?.upfrontShutdownScript ?? null,
      ],
    );
    const moved = await store.saveEnd(spend, kind, raw);
    if (moved === undefined) return;
    const channel = bytesToHex(moved.channel_id);
    if (kind === "unknown") {
      log.error({ channel, txid: bytesToHex(spend.txid) }, "something unknown spent the funding output");
    } else log.info({ channel, kind, height: spend.height }, "the funding output is spent");
    await this.options.taken(spend.channel, null);
  }

  // ---------------------------------------------------------------------------------------------------------- timing

  async #schedule(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    const ms = await this.options.store.untilDeadline();
    if (ms === undefined || this.#stopped) return;
    this.#timer = setTimeout(
      () => this.#soon(() => this.#look()),
      Math.min(Math.max(Math.ceil(ms), 0), MAX_TIMER_MS),
    );
  }

  #soon(work: () => Promise<void>): void {
    void this.#inOrder(work);
  }

  #inOrder(work: () => Promise<void>): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    this.#queue = this.#queue.then(work).catch((error) => {
      if (this.#stopped) return;
      if (!(error instanceof ArcusError) || error.reason === "LEADER_LOST") {
        return this.options.onFatal(error);
      }
      this.options.log.warn({ err: error }, "closing: tried again");
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#soon(() => this.#look()), RETRY_MS);
    });
    return this.#queue;
  }
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(Math.max(value, min), Math.max(min, max));
}

function refOf(row: ClosingRow) {
  return {
    channelKeyId: Uint8Array.from(row.channel_key_id),
    paymentKeyIndex: row.payment_key_index,
    epoch: row.owner_epoch,
  };
}
