/** wallet/ as the rest of lightningd has it. All that lasts is in rows; this object only takes its turns in order. */
import type { Psbt } from "bitcoinjs-lib";
import { Transaction } from "bitcoinjs-lib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { ServiceClient } from "common/grpc/client.ts";
import { ArcusError, failedPrecondition, internal, invalidArgument, notFound } from "common/grpc/errors.ts";
import type { Logger } from "common/log.ts";
import { codeOf, type ConnectionOptions, type Sql, transaction } from "common/pg/client.ts";
import type { Hsmd } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { type Plan, PlanSchema } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import { ownFee } from "bolt/interactive/fees.ts";
import { dustLimit, isWitnessProgram, scriptKind } from "bolt/tx/scripts.ts";
import {
  makeTransaction,
  type OutPoint,
  sameBytes,
  sameOutPoint,
  txidOf,
  txidToDisplay,
} from "bolt/tx/transaction.ts";
import { inputWeight, MIN_WITNESS_WEIGHT, outputWeight } from "bolt/tx/weights.ts";
import { unreachable } from "bolt/result.ts";
import {
  feeCeil,
  feerate as toFeerate,
  type FeeratePerKw,
  height as toHeight,
  isSat,
  type Sat,
  sat,
  weight,
} from "bolt/units.ts";
import type {
  Chain,
  FeerateChoice,
  FundedPsbt,
  Leader,
  ReservationChange,
  WalletApi,
  WalletOutput,
  WalletTransaction,
} from "../ports.ts";
import { INVALID_PARAMS, p2trAddress, scriptOf } from "./address.ts";
import { chooseFeerate } from "./feerate.ts";
import { mostAvailable, mustSpend, planAmount, planExactly } from "./planner.ts";
import { type FunderPolicy, ourFunding } from "./policy.ts";
import {
  badPsbt,
  finalize,
  makePsbt,
  outpointsOf,
  type PrevOut,
  type PsbtCoin,
  psbtPrevOut,
  putSignature,
  readPsbt,
  REPLACEABLE_SEQUENCE,
  unsignedTx,
} from "./psbt.ts";
import {
  FUNDING_WITNESS_WEIGHT,
  OWN_WITNESS_WEIGHT,
  P2TR_DUST,
  paymentDemand,
  select,
  type Selection,
  type SelectionFailure,
  settle,
  transactionWeight,
} from "./select.ts";
import * as store from "./store.ts";
import type { CoinRow, KeyRow } from "./store.ts";

/** Blocks for which reserveinputs, fundpsbt and utxopsbt reserve. */
export const DEFAULT_RESERVE_BLOCKS = 72;
/** Blocks without a confirmation after which an attempt may be double-spent. */
export const FUNDING_GIVEUP_BLOCKS = 2016;
/** Blocks after which a block's own coins may be spent. */
export const COINBASE_MATURITY = 100;
/** How often a plan is made anew because somebody else was faster. */
const MAX_TRIES = 3;
/** An RBF must pay the old fee and this much per weight more (sat/kw), or nodes refuse it. */
const INCREMENTAL_RELAY = toFeerate(253);
/** Most inputs and outputs that hsmd is asked about at once; far above what is standard. */
const MAX_SIGN_ITEMS = 4_000;
const UNIQUE_VIOLATION = "23505";

/** CLN's codes. */
const CANNOT_AFFORD = 301;
const OUTPUT_IS_DUST = 302;
const BROADCAST_FAIL = 303;
const PSBT_INVALID = 309;
const UNKNOWN_CHANNEL = 311;
const STATE_INVALID = 312;

/** What the wallet asks of hsmd. */
export type WalletSigner = Pick<ServiceClient<typeof Hsmd>, "deriveWalletKeys" | "signWalletInputs">;

/** Settings of the wallet. */
export interface WalletConfig {
  readonly network: string;
  readonly funder: FunderPolicy;
  /** Our coins that unconfirmed opens of one peer, and of all, may hold. */
  readonly maxInputsPerPeer: number;
  readonly maxInputsInAll: number;
  /** Largest capacity of a channel that we add to. */
  readonly maxCapacity?: Sat;
  /** Most that one funding transaction costs us. */
  readonly maxFundingFee: Sat;
  /** Default {@link FUNDING_GIVEUP_BLOCKS}. */
  readonly fundingGiveupBlocks?: number;
}

/** What the wallet needs. */
export interface WalletOptions {
  /** For transactions, each on a connection of its own. */
  readonly database: ConnectionOptions;
  /** A pool, for single statements. */
  readonly sql: Sql;
  readonly chain: Chain;
  readonly signer: WalletSigner;
  readonly leader: Leader;
  readonly log: Logger;
  readonly config: WalletConfig;
  /** In [0, 1): the funder's dice. */
  readonly random?: () => number;
}

/** Makes the wallet. Call `reconcile` once before use; it calls itself at each block. */
export function createWallet(options: WalletOptions): WalletApi {
  const wallet = new RowWallet(options);
  options.chain.onTip(() => {
    wallet.reconcile().catch((error) =>
      options.log.warn({ err: error }, "reservations are looked at again later")
    );
  });
  return wallet;
}

/** A PSBT's outputs that are ours, by index. */
type OwnOutputs = ReadonlyMap<number, KeyRow>;

class RowWallet implements WalletApi {
  #queue: Promise<unknown> = Promise.resolve();
  /** Withdrawals between their first row and their last; reconcile leaves them alone. */
  readonly #underWay = new Set<string>();

  constructor(private readonly options: WalletOptions) {}

  // ------------------------------------------------------------------------------------------------------ addresses

  newAddress(): Promise<{ address: string; script: Uint8Array }> {
    return this.#inOrder(async () => {
      const { script } = await this.#newKey(false);
      return { address: p2trAddress(script, this.options.config.network), script };
    });
  }

  async #newKey(change: boolean): Promise<KeyRow> {
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const keyIndex = await store.nextKeyIndex(this.options.sql, change);
      const { scripts } = await this.options.signer.deriveWalletKeys({
        change,
        firstIndex: keyIndex,
        count: 1,
      });
      const script = scripts[0];
      if (script === undefined || scriptKind(script) !== "p2tr") {
        throw internal("BAD_WALLET_KEY", "hsmd gave no P2TR script");
      }
      const key = { change, keyIndex, script };
      try {
        await store.insertKey(this.options.sql, this.options.leader.epoch, key);
        return key;
      } catch (error) {
        if (codeOf(error) !== UNIQUE_VIOLATION) throw error;
      }
    }
    throw internal("WALLET_KEY_RACE", "another process hands out addresses");
  }

  // ---------------------------------------------------------------------------------------------------------- funds

  async listFunds(options: { readonly spent?: boolean } = {}): Promise<WalletOutput[]> {
    const coins = await store.readCoins(this.options.sql);
    return coins.filter((coin) => options.spent || !coin.spent).map((coin) => ({
      outpoint: coin.outpoint,
      amount: coin.amount,
      script: coin.script,
      address: p2trAddress(coin.script, this.options.config.network),
      change: coin.change,
      keyIndex: coin.keyIndex,
      status: this.#status(coin),
      ...(coin.confirmed === undefined ? {} : { blockheight: toHeight(coin.confirmed.height) }),
      ...(coin.reserved === undefined ? {} : {
        reserved: {
          purpose: coin.reserved.purpose,
          ...(coin.reserved.untilHeight === undefined
            ? {}
            : { untilHeight: toHeight(coin.reserved.untilHeight) }),
        },
      }),
    }));
  }

  async listTransactions(): Promise<WalletTransaction[]> {
    const rows = await store.listTransactions(this.options.sql);
    return rows.map((row) => ({
      txid: row.txid,
      raw: row.raw,
      ...(row.height === null ? {} : { blockheight: toHeight(row.height) }),
      ...(row.tx_index === null ? {} : { txIndex: row.tx_index }),
    }));
  }

  #depth(coin: CoinRow): number {
    return coin.confirmed === undefined
      ? 0
      : Math.max(0, this.options.chain.height() - coin.confirmed.height + 1);
  }

  #status(coin: CoinRow): WalletOutput["status"] {
    if (coin.spent) return "spent";
    if (coin.confirmed === undefined) return "unconfirmed";
    return coin.confirmed.coinbase && this.#depth(coin) < COINBASE_MATURITY ? "immature" : "confirmed";
  }

  /** Whether a coin may be spent at all; unconfirmed ones only of transactions of ours. */
  #spendable(coin: CoinRow, minconf: number): boolean {
    const status = this.#status(coin);
    if (status === "unconfirmed") return minconf === 0 && coin.trusted;
    return status === "confirmed" && this.#depth(coin) >= minconf;
  }

  async #freeCoins(minconf: number): Promise<CoinRow[]> {
    const coins = await store.readCoins(this.options.sql);
    return coins.filter((coin) => coin.reserved === undefined && this.#spendable(coin, minconf));
  }

  async #withPrevtx(coins: readonly CoinRow[]): Promise<(CoinRow & PsbtCoin)[]> {
    const rows = await store.readTransactions(this.options.sql, coins.map((coin) => coin.outpoint.txid));
    const byTxid = new Map(rows.map((row) => [bytesToHex(row.txid), row.raw]));
    return coins.map((coin) => {
      const prevtx = byTxid.get(bytesToHex(coin.outpoint.txid));
      if (prevtx === undefined) throw internal("NO_PREVTX", "a coin without its transaction");
      return { ...coin, prevtx };
    });
  }

  // ------------------------------------------------------------------------------------------------------- withdraw

  withdraw(
    request: Parameters<WalletApi["withdraw"]>[0],
  ): Promise<{ tx: Uint8Array; txid: Uint8Array; psbt: string }> {
    return this.#inOrder(async () => {
      const script = scriptOf(request.destination, this.options.config.network);
      const feerate = await this.#feerate(request.feerate);
      const demand = paymentDemand({
        feerate,
        amount: request.amount,
        scriptLength: script.length,
        dust: dustLimit(script),
      });
      if (request.amount !== "all" && request.amount < dustLimit(script)) {
        throw failedPrecondition("OUTPUT_IS_DUST", "the amount is dust", { clnCode: OUTPUT_IS_DUST });
      }
      const minconf = request.minconf ?? 1;
      const selection = request.utxos === undefined
        ? unwrap(select([], await this.#freeCoins(minconf), demand))
        : unwrap(settle(await this.#namedCoins(request.utxos), demand));
      return await this.#spend({
        coins: selection.coins,
        outputs: [{ script, amount: selection.amount }],
        change: selection.change,
        fee: selection.fee,
        take: [],
        doubleSpend: false,
      });
    });
  }

  /** Coins that the caller named: all free and spendable, or the call fails. */
  async #namedCoins(outpoints: readonly OutPoint[], reservedOk = false): Promise<CoinRow[]> {
    const coins = await store.readCoins(this.options.sql);
    return outpoints.map((outpoint, i) => {
      const coin = coins.find((coin) => sameOutPoint(coin.outpoint, outpoint));
      const name = `${txidToDisplay(outpoint.txid)}:${outpoint.vout}`;
      if (coin === undefined) throw badParameter(`${name} is no output of this wallet`);
      if (outpoints.slice(0, i).some((other) => sameOutPoint(other, outpoint))) {
        throw badParameter(`${name} is named twice`);
      }
      if (!this.#spendable(coin, 0)) throw badParameter(`${name} is ${this.#status(coin)}`);
      const purpose = coin.reserved?.purpose;
      // An attempt's coin is what openchannel_bump needs; signpsbt never signs it.
      const reserved = purpose !== undefined &&
        !(reservedOk && (purpose === "user" || purpose === "attempt"));
      if (reserved) throw badParameter(`${name} is reserved (${purpose})`);
      return coin;
    });
  }

  /**
   * Stores what will be signed, with its reservations; signs; stores the signed transaction; sends it. Whoever starts
   * anew after a crash in between reads in the row what to do: unsigned, it is forgotten (nobody has it, and its caller
   * has no answer); signed, it is sent until it is deep.
   */
  async #spend(request: {
    readonly coins: readonly CoinRow[];
    readonly outputs: readonly { readonly script: Uint8Array; readonly amount: Sat }[];
    readonly change: Sat;
    readonly fee: Sat;
    /** Reservations of channels' attempts that this transaction replaces. */
    readonly take: readonly OutPoint[];
    readonly doubleSpend: boolean;
  }): Promise<{ tx: Uint8Array; txid: Uint8Array; psbt: string }> {
    const { signer } = this.options;
    const changeKey = request.change > 0n ? await this.#newKey(true) : undefined;
    const outputs = [
      ...request.outputs,
      ...(changeKey === undefined ? [] : [{ script: changeKey.script, amount: request.change }]),
    ];
    const coins = await this.#withPrevtx(request.coins);
    const tx = makeTransaction({
      locktime: this.options.chain.height(),
      inputs: coins.map((coin) => ({ outpoint: coin.outpoint, sequence: REPLACEABLE_SEQUENCE })),
      outputs,
    });
    const txid = txidOf(tx);
    const name = bytesToHex(txid);
    this.#underWay.add(name);
    try {
      await this.#transaction(async (sql) => {
        await store.insertTransaction(sql, {
          txid,
          raw: tx.toBuffer(),
          kind: "withdraw",
          broadcast: false,
          inputs: coins.map((coin) => coin.outpoint),
        });
        for (const outpoint of request.take) await store.deleteReservation(sql, outpoint);
        for (const coin of coins) {
          await store.insertReservation(sql, coin.outpoint, { type: "withdraw", txid });
        }
      });
      const scripts = outputs.map((output) => output.script);
      const own = ownOutputs(outputs, await store.keysOf(this.options.sql, scripts));
      let signatures: Readonly<Record<number, Uint8Array>>;
      try {
        ({ signatures } = await signer.signWalletInputs({
          tx: tx.toBuffer(),
          prevouts: coins.map((coin) => ({ amountSat: coin.amount, script: coin.script })),
          inputs: Object.fromEntries(coins.map((coin, i) => [i, walletKey(coin)])),
          change: Object.fromEntries([...own].map(([i, key]) => [i, walletKey(key)])),
          destinations: outputs.flatMap((_, i) => own.has(i) ? [] : [i]),
          maxFeeSat: request.fee,
          doubleSpend: request.doubleSpend,
        }));
      } catch (error) {
        await this.#transaction((sql) => store.forgetTransaction(sql, txid));
        throw error;
      }
      const psbt = makePsbt(coins, outputs, tx.locktime);
      for (const i of coins.keys()) {
        const signature = signatures[i];
        if (signature === undefined) throw internal("NO_SIGNATURE", "hsmd left an input unsigned");
        tx.setWitness(i, [signature]);
        putSignature(psbt, i, signature);
      }
      const raw = tx.toBuffer();
      await this.#transaction(async (sql) => {
        await store.markSigned(sql, txid, raw);
        await store.insertOutputs(sql, txid, ownedOutputs(outputs, own));
      });
      await this.#send(txid, raw, () => this.#transaction((sql) => store.forgetTransaction(sql, txid)));
      return { tx: raw, txid, psbt: psbt.toBase64() };
    } finally {
      this.#underWay.delete(name);
    }
  }

  /** Sends what is stored. A refusal of bitcoind's undoes it; silence does not: then it is sent at the next block. */
  async #send(txid: Uint8Array, raw: Uint8Array, undo: () => Promise<unknown>): Promise<void> {
    const verdict = await this.options.chain.testmempoolaccept(raw).catch((error) => {
      this.options.log.warn(
        { err: error, txid: txidToDisplay(txid) },
        "stored, and sent as soon as bitcoind answers",
      );
      return undefined;
    });
    if (verdict === undefined) return;
    const known = verdict.verdict === "accepted" ||
      /txn-already-(known|in-mempool)|already in/i.test(verdict.detail);
    if (!known) {
      await undo();
      throw failedPrecondition("BROADCAST_FAIL", `bitcoind refuses it: ${verdict.detail}`, {
        clnCode: BROADCAST_FAIL,
      });
    }
    const detail = await this.options.chain.broadcast(raw);
    if (detail !== "") {
      this.options.log.warn(
        { detail, txid: txidToDisplay(txid) },
        "stored, and sent again at the next block",
      );
    }
  }

  // ---------------------------------------------------------------------------------------------------------- plans

  async planOwnFunding(request: Parameters<WalletApi["planOwnFunding"]>[0]): Promise<Plan> {
    return await this.#planning(request.opening, async (opening) => {
      const coins = await store.readCoins(this.options.sql);
      const minconf = request.minconf ?? 1;
      const channel = request.channel ?? opening.channel;
      const must = channel === undefined ? [] : await this.#mustSpend(channel, coins);
      const funding = { role: "initiator", feerate: request.feerate, amount: request.amount } as const;
      if (request.utxos !== undefined) {
        const named = request.utxos.map((outpoint) => this.#ownable(coins, outpoint, opening));
        for (const coin of must) {
          if (!named.some((other) => sameOutPoint(other.outpoint, coin.outpoint))) {
            const name = `${txidToDisplay(coin.outpoint.txid)}:${coin.outpoint.vout}`;
            throw badParameter(`a replacement must spend ${name} again`);
          }
        }
        return unwrap(planExactly(named, funding));
      }
      const pool = coins.filter((coin) => coin.reserved === undefined && this.#spendable(coin, minconf));
      return unwrap(planAmount(must, pool, funding));
    });
  }

  async planAccept(request: Parameters<WalletApi["planAccept"]>[0]): Promise<Plan> {
    return await this.#planning(request.opening, async (opening) => {
      const { config } = this.options;
      const coins = await store.readCoins(this.options.sql);
      const channel = request.channel ?? opening.channel;
      const must = channel === undefined ? [] : await this.#mustSpend(channel, coins);
      // An open of a peer's gets confirmed coins only: an unconfirmed one ties its fate to ours.
      const pool = coins.filter((coin) => coin.reserved === undefined && this.#spendable(coin, 1));
      const held = await store.heldForPeers(this.options.sql, opening.peerId, channel);
      const maxInputs = Math.min(config.maxInputsPerPeer - held.peer, config.maxInputsInAll - held.all);
      const nothing = { coins: [], amount: sat(0), change: sat(0), fee: sat(0) };
      if (maxInputs <= 0) {
        this.options.log.info({ held }, "nothing is put in: opens of peers hold enough of our coins");
        return nothing;
      }
      const role = "accepter";
      const available = mostAvailable(must, pool, { role, feerate: request.feerate, maxInputs });
      const random = this.options.random ?? Math.random;
      const { amount, refusal } = ourFunding(config.funder, {
        theirFunding: request.theirFunding,
        available,
        channelMax: config.maxCapacity ?? sat(2_100_000_000_000_000n),
        // Who put in before goes on doing so.
        dice: { probability: must.length > 0 ? 0 : random(), fuzz: random() },
      });
      if (amount === 0n) {
        this.options.log.debug({ refusal }, "nothing is put in");
        return nothing;
      }
      const plan = planAmount(must, pool, { role, feerate: request.feerate, amount, maxInputs });
      if (!plan.ok || plan.value.fee > config.maxFundingFee) return nothing;
      return plan.value;
    });
  }

  /** Coins that a replacement spends again. */
  async #mustSpend(channel: bigint, coins: readonly CoinRow[]): Promise<readonly CoinRow[]> {
    const attempts = await store.liveAttempts(this.options.sql, channel);
    const usable = coins.filter((coin) =>
      !coin.spent && (coin.reserved === undefined || coin.reserved.channel === channel)
    );
    const must = mustSpend(attempts, usable);
    if (!must.ok) {
      throw failedPrecondition("INPUT_LOST", "an input of an earlier attempt is no longer there", {
        clnCode: CANNOT_AFFORD,
      });
    }
    return must.value;
  }

  /** A coin that this opening may spend: free, a user's, or of an earlier attempt of its channel. */
  #ownable(coins: readonly CoinRow[], outpoint: OutPoint, opening: store.OpeningRow): CoinRow {
    const coin = coins.find((coin) => sameOutPoint(coin.outpoint, outpoint));
    const name = `${txidToDisplay(outpoint.txid)}:${outpoint.vout}`;
    if (coin === undefined) throw badParameter(`${name} is no output of this wallet`);
    if (!this.#spendable(coin, 0)) throw badParameter(`${name} is ${this.#status(coin)}`);
    if (!mayTake(coin, opening)) throw badParameter(`${name} is reserved (${coin.reserved?.purpose})`);
    return coin;
  }

  /** Answers the stored plan, or makes one, reserves for it and stores it, in one transaction. */
  #planning(
    id: bigint,
    make: (opening: store.OpeningRow) => Promise<Selection<CoinRow>>,
  ): Promise<Plan> {
    return this.#inOrder(async () => {
      for (let tries = 1;; tries++) {
        const opening = await this.#opening(id);
        if (opening.plan !== undefined) return fromBinary(PlanSchema, opening.plan);
        const selection = await make(opening);
        if (selection.fee > this.options.config.maxFundingFee) throw tooExpensive(selection.fee);
        const changeKey = selection.change > 0n ? await this.#newKey(true) : undefined;
        const coins = await this.#withPrevtx(selection.coins);
        const plan = create(PlanSchema, {
          contributionSat: selection.amount,
          inputs: coins.map(plannedInput),
          outputs: changeKey === undefined ? [] : [{
            amountSat: selection.change,
            script: changeKey.script,
            change: changeKey.change,
            keyIndex: changeKey.keyIndex,
          }],
          maxFeeSat: selection.fee,
        });
        try {
          await this.#storePlan(opening, plan, selection.coins);
          return plan;
        } catch (error) {
          if (codeOf(error) !== UNIQUE_VIOLATION || tries === MAX_TRIES) throw error;
        }
      }
    });
  }

  async #opening(id: bigint): Promise<store.OpeningRow> {
    const opening = await store.readOpening(this.options.sql, id);
    if (opening === undefined) throw openingGone();
    return opening;
  }

  async #storePlan(opening: store.OpeningRow, plan: Plan, coins: readonly CoinRow[]): Promise<void> {
    await this.#transaction(async (sql) => {
      if (!await store.holdOpening(sql, opening.opening)) throw openingGone();
      await store.releaseOpening(sql, opening.opening);
      for (const coin of coins) {
        // An earlier attempt of this channel holds it already, and goes on holding it.
        if (coin.reserved?.purpose === "attempt") continue;
        await store.deleteUserReservation(sql, coin.outpoint);
        await store.insertReservation(sql, coin.outpoint, { type: "opening", opening: opening.opening });
      }
      await store.putPlan(sql, opening.opening, toBinary(PlanSchema, plan));
    });
  }

  planFromPsbt(request: Parameters<WalletApi["planFromPsbt"]>[0]): Promise<Plan> {
    return this.#inOrder(async () => {
      const opening = await this.#opening(request.opening);
      const psbt = readPsbt(request.psbt);
      const tx = unsignedTx(psbt);
      const coins = await store.readCoins(this.options.sql);
      const inputs: {
        prevout: PrevOut;
        prevtx: Uint8Array;
        outpoint: OutPoint;
        sequence: number;
        coin?: CoinRow;
      }[] = [];
      for (const [i, outpoint] of outpointsOf(tx).entries()) {
        const sequence = tx.ins[i]?.sequence ?? REPLACEABLE_SEQUENCE;
        const known = coins.find((coin) => sameOutPoint(coin.outpoint, outpoint));
        if (known !== undefined) {
          const coin = this.#ownable(coins, outpoint, opening);
          const [full] = await this.#withPrevtx([coin]);
          if (full === undefined) throw internal("NO_PREVTX", "a coin without its transaction");
          inputs.push({ prevout: full, prevtx: full.prevtx, outpoint, sequence, coin });
          continue;
        }
        const prevtx = psbt.data.inputs[i]?.nonWitnessUtxo;
        const prevout = psbtPrevOut(psbt, i, outpoint);
        if (prevtx === undefined || prevout === undefined) {
          throw psbtInvalid(`input ${i} has no previous transaction (non_witness_utxo)`);
        }
        if (!isWitnessProgram(prevout.script)) throw psbtInvalid(`input ${i} spends no segwit output`);
        inputs.push({ prevout, prevtx, outpoint, sequence });
      }
      const channel = opening.channel;
      const must = channel === undefined ? [] : await this.#mustSpend(channel, coins);
      if (must.some((coin) => !inputs.some((input) => sameOutPoint(input.outpoint, coin.outpoint)))) {
        throw psbtInvalid("a replacement must spend the inputs of the earlier attempts again");
      }
      const outputs = tx.outs.map((out) => ({ script: out.script, amount: requireSat(out.value) }));
      const fee = psbtFee(inputs.map((input) => input.prevout.amount), outputs, request.amount);
      const least = fundingFee(request.feerate, inputs, outputs);
      if (fee < least) {
        throw psbtInvalid(
          `the PSBT pays ${fee} sat in fees, and needs ${least} sat at ${request.feerate} sat/kw`,
        );
      }
      if (fee > this.options.config.maxFundingFee) throw tooExpensive(sat(fee));
      const own = ownOutputs(
        outputs,
        await store.keysOf(this.options.sql, outputs.map((output) => output.script)),
      );
      const plan = create(PlanSchema, {
        contributionSat: request.amount,
        inputs: inputs.map((input) => ({
          outpoint: input.outpoint,
          amountSat: input.prevout.amount,
          script: input.prevout.script,
          prevtx: input.prevtx,
          sequence: Math.min(input.sequence, REPLACEABLE_SEQUENCE),
          witnessWeight: input.coin === undefined ? MIN_WITNESS_WEIGHT : FUNDING_WITNESS_WEIGHT,
          ...(input.coin === undefined ? {} : { change: input.coin.change, keyIndex: input.coin.keyIndex }),
        })),
        outputs: outputs.map((output, i) => {
          const key = own.get(i);
          return {
            amountSat: output.amount,
            script: output.script,
            ...(key === undefined ? {} : { change: key.change, keyIndex: key.keyIndex }),
          };
        }),
        maxFeeSat: sat(fee),
      });
      await this.#storePlan(
        opening,
        plan,
        inputs.flatMap((input) => input.coin === undefined ? [] : [input.coin]),
      );
      return plan;
    });
  }

  // ---------------------------------------------------------------------------------------------------------- PSBTs

  fundPsbt(request: Parameters<WalletApi["fundPsbt"]>[0]): Promise<FundedPsbt> {
    return this.#inOrder(async () => {
      const feerate = await this.#feerate(request.feerate);
      const coins = await this.#freeCoins(request.minconf ?? 1);
      const demand = psbtDemand({ ...request, feerate });
      return await this.#funded(request, feerate, unwrap(select([], coins, demand)).coins);
    });
  }

  utxoPsbt(request: Parameters<WalletApi["utxoPsbt"]>[0]): Promise<FundedPsbt> {
    return this.#inOrder(async () => {
      const feerate = await this.#feerate(request.feerate);
      const coins = await this.#namedCoins(request.utxos, request.reservedok ?? false);
      unwrap(settle(coins, psbtDemand({ ...request, feerate })));
      return await this.#funded(request, feerate, coins);
    });
  }

  /** The PSBT of chosen coins, with change if asked for, and reserved for the caller. */
  async #funded(
    request: {
      readonly amount: Sat | "all";
      readonly startweight: number;
      readonly reserve?: number;
      readonly locktime?: number;
      readonly minWitnessWeight?: number;
      readonly excessAsChange?: boolean;
    },
    feerate: FeeratePerKw,
    coins: readonly CoinRow[],
  ): Promise<FundedPsbt> {
    const total = coins.reduce<bigint>((sum, coin) => sum + coin.amount, 0n);
    const perInput = psbtInputWeight(request.minWitnessWeight);
    let finalWeight = request.startweight + coins.length * perInput;
    const paid = request.amount === "all" ? 0n : request.amount;
    let excess = total - paid - feeCeil(feerate, weight(finalWeight));
    const outputs: { script: Uint8Array; amount: Sat }[] = [];
    if (request.excessAsChange === true) {
      const withChange = finalWeight + outputWeight(CHANGE_LENGTH);
      const change = total - paid - feeCeil(feerate, weight(withChange));
      if (change >= P2TR_DUST) {
        outputs.push({ script: (await this.#newKey(true)).script, amount: sat(change) });
        [finalWeight, excess] = [withChange, 0n];
      }
    }
    const tip = this.options.chain.height();
    const psbt = makePsbt(await this.#withPrevtx(coins), outputs, request.locktime ?? tip);
    const blocks = request.reserve ?? DEFAULT_RESERVE_BLOCKS;
    const reservations = blocks === 0 ? [] : await this.#reserve(coins, blocks, tip);
    return {
      psbt: psbt.toBase64(),
      feerate,
      estimatedFinalWeight: finalWeight,
      excess: sat(excess),
      ...(outputs.length === 0 ? {} : { changeOutnum: 0 }),
      reservations,
    };
  }

  async #reserve(coins: readonly CoinRow[], blocks: number, tip: number): Promise<ReservationChange[]> {
    requireBlocks(blocks);
    return await this.#transaction(async (sql) => {
      const changes: ReservationChange[] = [];
      for (const { outpoint, reserved } of coins) {
        if (reserved?.purpose === "attempt") {
          changes.push({ outpoint, wasReserved: true, reserved: true });
          continue;
        }
        const from = reserved?.untilHeight === undefined ? tip : Math.max(tip, reserved.untilHeight);
        const until = from + blocks;
        if (reserved === undefined) {
          await store.insertReservation(sql, outpoint, { type: "user", untilHeight: until });
        } else await store.setUserReservation(sql, outpoint, until);
        changes.push({
          outpoint,
          wasReserved: reserved !== undefined,
          reserved: true,
          reservedToBlock: toHeight(until),
        });
      }
      return changes;
    });
  }

  reserveInputs(request: Parameters<WalletApi["reserveInputs"]>[0]): Promise<ReservationChange[]> {
    return this.#inOrder(async () => {
      await this.#reconcile();
      const coins = await this.#coinsOf(readPsbt(request.psbt));
      for (const coin of coins) {
        const name = `${txidToDisplay(coin.outpoint.txid)}:${coin.outpoint.vout}`;
        if (coin.spent) throw badParameter(`${name} is already spent`);
        const foreign = coin.reserved !== undefined && coin.reserved.purpose !== "user";
        if (coin.reserved !== undefined && (foreign || request.exclusive !== false)) {
          throw badParameter(`${name} is already reserved (${coin.reserved.purpose})`);
        }
      }
      return await this.#reserve(
        coins,
        request.reserve ?? DEFAULT_RESERVE_BLOCKS,
        this.options.chain.height(),
      );
    });
  }

  unreserveInputs(request: Parameters<WalletApi["unreserveInputs"]>[0]): Promise<ReservationChange[]> {
    return this.#inOrder(async () => {
      const blocks = requireBlocks(request.reserve ?? DEFAULT_RESERVE_BLOCKS);
      const coins = await this.#coinsOf(readPsbt(request.psbt));
      for (const { outpoint, reserved } of coins) {
        if (reserved === undefined || reserved.purpose === "user") continue;
        const name = `${txidToDisplay(outpoint.txid)}:${outpoint.vout}`;
        throw badParameter(
          `${name} belongs to ${reserved.purpose === "withdraw" ? "a withdrawal" : "a channel's open"}`,
        );
      }
      const tip = this.options.chain.height();
      return await this.#transaction(async (sql) => {
        const changes: ReservationChange[] = [];
        for (const { outpoint, reserved } of coins) {
          const until = (reserved?.untilHeight ?? tip) - blocks;
          const still = reserved !== undefined && until > tip;
          if (still) await store.setUserReservation(sql, outpoint, until);
          else await store.deleteUserReservation(sql, outpoint);
          changes.push({
            outpoint,
            wasReserved: reserved !== undefined,
            reserved: still,
            ...(still ? { reservedToBlock: toHeight(until) } : {}),
          });
        }
        return changes;
      });
    });
  }

  async #coinsOf(psbt: Psbt): Promise<CoinRow[]> {
    const coins = await store.readCoins(this.options.sql);
    return outpointsOf(unsignedTx(psbt)).flatMap((outpoint) => {
      const coin = coins.find((coin) => sameOutPoint(coin.outpoint, outpoint));
      return coin === undefined ? [] : [coin];
    });
  }

  addPsbtOutput(
    request: Parameters<WalletApi["addPsbtOutput"]>[0],
  ): Promise<{ psbt: string; estimatedAddedWeight: number; outnum: number }> {
    return this.#inOrder(async () => {
      const psbt = request.psbt === undefined
        ? makePsbt([], [], request.locktime ?? this.options.chain.height())
        : readPsbt(request.psbt);
      if (request.psbt !== undefined && request.locktime !== undefined) {
        throw badParameter("locktime is for a new PSBT only");
      }
      if (psbt.data.inputs.some((input) => input.finalScriptWitness !== undefined)) {
        throw badPsbt("the PSBT is signed already");
      }
      const script = request.destination === undefined
        ? (await this.#newKey(false)).script
        : scriptOf(request.destination, this.options.config.network);
      if (request.amount < dustLimit(script)) {
        throw failedPrecondition("OUTPUT_IS_DUST", "the amount is dust", { clnCode: OUTPUT_IS_DUST });
      }
      const outnum = psbt.txOutputs.length;
      psbt.addOutput({ script, value: request.amount });
      return { psbt: psbt.toBase64(), estimatedAddedWeight: outputWeight(script.length), outnum };
    });
  }

  signPsbt(request: Parameters<WalletApi["signPsbt"]>[0]): Promise<string> {
    return this.#inOrder(async () => {
      const psbt = readPsbt(request.psbt);
      const tx = unsignedTx(psbt);
      if (tx.ins.length + tx.outs.length > MAX_SIGN_ITEMS) throw badPsbt("too many inputs and outputs");
      // A funding attempt: openchannel_signed makes hsmd sign our inputs, through the call that checks the attempt. The
      // user's flow (fundpsbt, openchannel_init, signpsbt, openchannel_signed) goes on with the PSBT as it is.
      if (await store.isAttempt(this.options.sql, txidOf(tx))) return request.psbt;
      const coins = await store.readCoins(this.options.sql);
      const outpoints = outpointsOf(tx);
      const ours = new Map<number, CoinRow>();
      for (const [i, outpoint] of outpoints.entries()) {
        const coin = coins.find((coin) => sameOutPoint(coin.outpoint, outpoint));
        const wanted = request.signonly === undefined || request.signonly.includes(i);
        if (coin !== undefined && wanted) ours.set(i, coin);
        if (coin === undefined && request.signonly?.includes(i)) {
          throw badParameter(`input ${i} is not ours`);
        }
      }
      if (request.signonly?.some((i) => i < 0 || i >= outpoints.length)) {
        throw badParameter("signonly: no such input");
      }
      if (ours.size === 0) throw badParameter("no input of the PSBT is ours");
      for (const [i, coin] of ours) this.#requireSignable(i, coin);
      return (await this.#signOurs(psbt, tx, ours)).toBase64();
    });
  }

  #requireSignable(index: number, coin: CoinRow): void {
    const purpose = coin.reserved?.purpose;
    switch (purpose) {
      case "user":
        return;
      case undefined:
        throw badParameter(`input ${index} is not reserved: use reserveinputs first`);
      case "opening":
      case "attempt":
        throw failedPrecondition(
          "INPUT_BOUND",
          `input ${index} belongs to a channel's open: openchannel_signed signs it`,
          { clnCode: STATE_INVALID },
        );
      case "withdraw":
        throw failedPrecondition("INPUT_BOUND", `input ${index} belongs to a withdrawal`, {
          clnCode: STATE_INVALID,
        });
      default:
        return unreachable(purpose);
    }
  }

  async #signOurs(psbt: Psbt, tx: Transaction, ours: ReadonlyMap<number, CoinRow>): Promise<Psbt> {
    const prevouts = outpointsOf(tx).map((outpoint, i): PrevOut => {
      const prevout = ours.get(i) ?? psbtPrevOut(psbt, i, outpoint);
      if (prevout === undefined) throw badPsbt(`input ${i}: what it spends is not said`);
      return prevout;
    });
    const outputs = tx.outs.map((out) => ({ script: out.script, amount: requireSat(out.value) }));
    const own = ownOutputs(
      outputs,
      await store.keysOf(this.options.sql, outputs.map((output) => output.script)),
    );
    const sum = (amounts: Iterable<Sat>) =>
      [...amounts].reduce<bigint>((total, amount) => total + amount, 0n);
    const spent = sum([...ours.values()].map((coin) => coin.amount)) -
      sum(outputs.map((output) => output.amount));
    const { signatures } = await this.options.signer.signWalletInputs({
      tx: tx.toBuffer(),
      prevouts: prevouts.map(({ amount, script }) => ({ amountSat: amount, script })),
      inputs: Object.fromEntries([...ours].map(([i, coin]) => [i, walletKey(coin)])),
      change: Object.fromEntries([...own].map(([i, key]) => [i, walletKey(key)])),
      // The user named every output by asking for this signature.
      destinations: outputs.flatMap((_, i) => own.has(i) ? [] : [i]),
      maxFeeSat: spent > 0n ? spent : 0n,
      foreignInputs: ours.size < tx.ins.length,
    });
    for (const i of ours.keys()) {
      const signature = signatures[i];
      if (signature === undefined) throw internal("NO_SIGNATURE", "hsmd left an input unsigned");
      putSignature(psbt, i, signature);
    }
    return psbt;
  }

  sendPsbt(base64: string): Promise<{ tx: Uint8Array; txid: Uint8Array }> {
    return this.#inOrder(async () => {
      const psbt = readPsbt(base64);
      const unsigned = unsignedTx(psbt);
      if (await store.isAttempt(this.options.sql, txidOf(unsigned))) {
        throw failedPrecondition(
          "INPUT_BOUND",
          "this is a channel's funding transaction: use openchannel_signed",
          {
            clnCode: STATE_INVALID,
          },
        );
      }
      const txid = txidOf(unsigned);
      const [known] = await store.readTransactions(this.options.sql, [txid]);
      if (known !== undefined) {
        // Sent before: others may have it, so a refusal undoes nothing.
        await this.#send(txid, known.raw, () => Promise.resolve());
        return { tx: known.raw, txid };
      }
      const coins = await this.#coinsOf(psbt);
      for (const coin of coins) {
        if (coin.reserved === undefined || coin.reserved.purpose === "user") continue;
        throw failedPrecondition("INPUT_BOUND", "an input belongs to a channel's open or a withdrawal", {
          clnCode: STATE_INVALID,
        });
      }
      const tx = finalize(psbt);
      if (!sameBytes(txidOf(tx), txid)) {
        throw badPsbt("an input that is not segwit changes the transaction's id");
      }
      const raw = tx.toBuffer();
      const outputs = tx.outs.map((out) => ({ script: out.script, amount: requireSat(out.value) }));
      const own = ownOutputs(
        outputs,
        await store.keysOf(this.options.sql, outputs.map((output) => output.script)),
      );
      const tip = this.options.chain.height();
      await this.#transaction(async (sql) => {
        await store.insertTransaction(sql, {
          txid,
          raw,
          kind: "psbt",
          broadcast: true,
          inputs: outpointsOf(tx),
        });
        await store.insertOutputs(sql, txid, ownedOutputs(outputs, own));
        for (const { outpoint } of coins) {
          await store.deleteUserReservation(sql, outpoint);
          await store.insertReservation(sql, outpoint, { type: "withdraw", txid });
        }
      });
      await this.#send(txid, raw, () =>
        this.#transaction(async (sql) => {
          await store.forgetTransaction(sql, txid);
          // As before the call: the user's again.
          for (const { outpoint, reserved } of coins) {
            if (reserved?.untilHeight === undefined) continue;
            const untilHeight = Math.max(reserved.untilHeight, tip + 1);
            await store.insertReservation(sql, outpoint, { type: "user", untilHeight });
          }
        }));
      return { tx: raw, txid };
    });
  }

  // -------------------------------------------------------------------------------------------------- reconciliation

  reconcile(): Promise<void> {
    return this.#inOrder(() => this.#reconcile());
  }

  async #reconcile(): Promise<void> {
    const unsigned = (await store.unsignedWithdrawals(this.options.sql))
      .filter((txid) => !this.#underWay.has(bytesToHex(txid)));
    const released = await this.#transaction(async (sql) => {
      for (const txid of unsigned) await store.forgetTransaction(sql, txid);
      return await store.releaseExpired(sql) + await store.releaseSettled(sql) +
        await store.releaseAttempts(sql);
    });
    if (released + unsigned.length > 0) {
      this.options.log.info({ released, unsigned: unsigned.length }, "reservations released");
    }
  }

  // ---------------------------------------------------------------------------------------------------- double-spend

  doubleSpendAttempts(channel: bigint): Promise<Uint8Array> {
    return this.#inOrder(async () => {
      const { sql, config } = this.options;
      const settled = await store.channelSettled(sql, channel);
      if (settled === undefined) {
        throw notFound("UNKNOWN_CHANNEL", "no such channel", { clnCode: UNKNOWN_CHANNEL });
      }
      const attempts = await store.liveAttempts(sql, channel);
      const newest = attempts.at(-1);
      const giveUp = config.fundingGiveupBlocks ?? FUNDING_GIVEUP_BLOCKS;
      const waited = newest === undefined ? 0 : this.options.chain.height() - newest.createdHeight;
      if (settled || newest === undefined || waited < giveUp) {
        throw failedPrecondition(
          "NOT_STUCK",
          settled ? "an attempt confirmed" : `unconfirmed for ${waited} of ${giveUp} blocks`,
          { clnCode: STATE_INVALID },
        );
      }
      const coins = await this.#mustSpend(channel, await store.readCoins(sql));
      if (coins.length === 0) {
        throw failedPrecondition("NOTHING_OF_OURS", "no attempt has a coin of ours", {
          clnCode: STATE_INVALID,
        });
      }
      // It replaces them in mempools: more than the greatest fee of theirs, and a rate above all of theirs.
      const rate = Math.max(
        (await this.options.chain.feerates()).opening,
        ...attempts.map((attempt) => attempt.feerate + INCREMENTAL_RELAY),
      );
      const size = transactionWeight(coins.length, [CHANGE_LENGTH]);
      const replaced = attempts.reduce<bigint>(
        (most, attempt) => attempt.fee > most ? attempt.fee : most,
        0n,
      );
      const own = feeCeil(toFeerate(rate), size);
      const least = replaced + feeCeil(INCREMENTAL_RELAY, size);
      const fee = own > least ? own : least;
      const rest = coins.reduce<bigint>((sum, coin) => sum + coin.amount, 0n) - fee;
      if (rest < P2TR_DUST) {
        throw failedPrecondition("CANNOT_AFFORD", "our coins in it do not pay for the replacement", {
          clnCode: CANNOT_AFFORD,
        });
      }
      const { txid } = await this.#spend({
        coins,
        outputs: [],
        change: sat(rest),
        fee: sat(fee),
        take: coins.filter((coin) => coin.reserved?.channel === channel).map((coin) => coin.outpoint),
        doubleSpend: true,
      });
      return txid;
    });
  }

  // --------------------------------------------------------------------------------------------------------- helpers

  async #feerate(choice: FeerateChoice | undefined): Promise<FeeratePerKw> {
    return chooseFeerate(choice ?? { type: "named", name: "opening" }, await this.options.chain.feerates());
  }

  async #transaction<T>(work: (sql: Sql) => Promise<T>): Promise<T> {
    return await transaction(this.options.database, async (sql) => {
      await store.fence(sql, this.options.leader.epoch);
      return await work(sql);
    });
  }

  /** One call at a time: selections never race each other in this process, and the fence keeps others out. */
  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work, work);
    this.#queue = result.catch(() => {});
    return result;
  }
}

/** Length of a P2TR scriptPubKey, ours. */
const CHANGE_LENGTH = 34;
/** Ten years: no reservation is meant for longer. */
const MAX_RESERVE_BLOCKS = 525_600;

function requireBlocks(blocks: number): number {
  if (!Number.isInteger(blocks) || blocks < 0 || blocks > MAX_RESERVE_BLOCKS) {
    throw badParameter("reserve: not a number of blocks");
  }
  return blocks;
}

function badParameter(message: string): ArcusError {
  return invalidArgument("BAD_PARAMETER", message, { clnCode: INVALID_PARAMS });
}

function psbtInvalid(message: string): ArcusError {
  return invalidArgument("PSBT_INVALID", message, { clnCode: PSBT_INVALID });
}

function openingGone(): ArcusError {
  return notFound("OPENING_GONE", "the opening has ended", { clnCode: STATE_INVALID });
}

function tooExpensive(fee: Sat): ArcusError {
  return failedPrecondition("FEE_TOO_HIGH", `${fee} sat in fees are more than max-funding-fee-sat allows`, {
    clnCode: CANNOT_AFFORD,
  });
}

function unwrap<C extends { readonly outpoint: OutPoint; readonly amount: Sat }>(
  result: { ok: true; value: Selection<C> } | { ok: false; error: SelectionFailure },
): Selection<C> {
  if (result.ok) return result.value;
  const { error } = result;
  switch (error.type) {
    case "insufficient":
      throw failedPrecondition("CANNOT_AFFORD", `could not afford it: ${error.missing} sat are missing`, {
        clnCode: CANNOT_AFFORD,
      });
    case "dust":
      throw failedPrecondition("OUTPUT_IS_DUST", "nothing but dust would be left", {
        clnCode: OUTPUT_IS_DUST,
      });
    case "too_many_inputs":
      throw failedPrecondition("TOO_MANY_INPUTS", "it would take more inputs than a transaction may have", {
        clnCode: CANNOT_AFFORD,
      });
    default:
      return unreachable(error);
  }
}

function mayTake(coin: CoinRow, opening: store.OpeningRow): boolean {
  const { reserved } = coin;
  if (reserved === undefined || reserved.purpose === "user") return true;
  if (reserved.purpose === "opening") return reserved.opening === opening.opening;
  return reserved.purpose === "attempt" && reserved.channel === opening.channel;
}

function plannedInput(coin: CoinRow & PsbtCoin) {
  return {
    outpoint: { txid: coin.outpoint.txid, vout: coin.outpoint.vout },
    amountSat: coin.amount,
    script: coin.script,
    prevtx: coin.prevtx,
    sequence: REPLACEABLE_SEQUENCE,
    witnessWeight: FUNDING_WITNESS_WEIGHT,
    change: coin.change,
    keyIndex: coin.keyIndex,
  };
}

function walletKey(
  key: { readonly change: boolean; readonly keyIndex: number },
): { change: boolean; index: number } {
  return { change: key.change, index: key.keyIndex };
}

function ownOutputs(
  outputs: readonly { readonly script: Uint8Array }[],
  keys: readonly KeyRow[],
): OwnOutputs {
  return new Map(outputs.flatMap((output, i) => {
    const key = keys.find((key) => sameBytes(key.script, output.script));
    return key === undefined ? [] : [[i, key] as const];
  }));
}

function ownedOutputs(
  outputs: readonly { readonly amount: Sat }[],
  own: OwnOutputs,
): { vout: number; amount: Sat; change: boolean; keyIndex: number }[] {
  return outputs.flatMap(({ amount }, vout) => {
    const key = own.get(vout);
    return key === undefined ? [] : [{ vout, amount, change: key.change, keyIndex: key.keyIndex }];
  });
}

function requireSat(value: bigint | number): Sat {
  const amount = BigInt(value);
  if (!isSat(amount)) throw badPsbt("an absurd amount");
  return amount;
}

/** What a PSBT leaves for fees once the contribution goes into the channel; may be negative. */
function psbtFee(inputs: readonly Sat[], outputs: readonly { readonly amount: Sat }[], amount: Sat): bigint {
  return inputs.reduce<bigint>((sum, input) => sum + input, 0n) -
    outputs.reduce<bigint>((sum, output) => sum + output.amount, 0n) - amount;
}

/** What our share of a funding transaction with these inputs and outputs must pay. */
function fundingFee(
  feerate: FeeratePerKw,
  inputs: readonly unknown[],
  outputs: readonly { readonly script: Uint8Array }[],
): Sat {
  return ownFee(feerate, {
    initiator: true,
    inputs: inputs.map(() => ({ witnessWeight: MIN_WITNESS_WEIGHT })),
    outputs: [{ script: new Uint8Array(CHANGE_LENGTH) }, ...outputs],
  });
}

function psbtInputWeight(minWitnessWeight = 0): number {
  return inputWeight() - MIN_WITNESS_WEIGHT + Math.max(OWN_WITNESS_WEIGHT, minWitnessWeight);
}

/** What fundpsbt must cover: the amount, and the fee of the caller's weight and our inputs. */
function psbtDemand(request: {
  readonly amount: Sat | "all";
  readonly feerate: FeeratePerKw;
  readonly startweight: number;
  readonly minWitnessWeight?: number;
}) {
  const { amount, feerate, startweight } = request;
  if (!Number.isSafeInteger(startweight) || startweight < 0) throw badParameter("startweight: not a weight");
  const perInput = psbtInputWeight(request.minWitnessWeight);
  return {
    feerate,
    amount,
    fee: (inputs: number) => feeCeil(feerate, weight(startweight + inputs * perInput)),
    dust: sat(0),
    inputFee: feeCeil(feerate, weight(perInput)),
    maxInputs: MAX_SIGN_ITEMS,
  };
}
