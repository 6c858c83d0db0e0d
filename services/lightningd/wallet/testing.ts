/** Parts of tests of chain/ and wallet/: a node's database, a signer in this process, real bitcoind. */
import { randomBytes } from "node:crypto";
import { schnorr, secp256k1 } from "@noble/curves/secp256k1.js";
import { create } from "@bufbuild/protobuf";
import { HDKey } from "@scure/bip32";
import { Transaction } from "bitcoinjs-lib";
import { createLogger } from "common/log.ts";
import { type Database, openDatabase } from "common/pg/client.ts";
import { migrate } from "common/pg/migrate.ts";
import { usePostgres } from "common/testing/database.ts";
import { failedPrecondition } from "common/grpc/errors.ts";
import { DeriveWalletKeysResponseSchema, SignWalletInputsResponseSchema } from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { concatBytes } from "@noble/hashes/utils.js";
import { p2tr } from "bolt/tx/scripts.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { feerate, sat } from "bolt/units.ts";
import { type RegtestNode, startBitcoind } from "tools/parts/mod.ts";
import type { Leader, WalletApi } from "../ports.ts";
import { type BitcoindRpc, createRpc } from "../chain/bitcoind.ts";
import { type RunningChain, startChain } from "../chain/chain.ts";
import type { FunderPolicy } from "./policy.ts";
import { createWallet, type WalletConfig, type WalletSigner } from "./wallet.ts";

const SCHEMA = new URL("../../../schema", import.meta.url).pathname;
const CURVE_ORDER = secp256k1.Point.Fn.ORDER;

function toBigInt(bytes: Uint8Array): bigint {
  return BigInt(`0x${bytes.toHex()}`);
}

function toBytes(value: bigint): Uint8Array {
  return Uint8Array.fromHex(value.toString(16).padStart(64, "0"));
}

/** A signer whose answers a test can hold back or turn into refusals. */
export type TestSigner = WalletSigner & {
  refuse: boolean;
  /** Signatures wait for it. */
  gate: Promise<void>;
};

/** A signer that does with @noble what hsmd does for the wallet: BIP 86 keys, key path signatures, the same refusals. */
export function testSigner(seed: Uint8Array = randomBytes(32)): TestSigner {
  const account = HDKey.fromMasterSeed(seed).derive("m/86'/1'/0'");
  const keyOf = ({ change, index }: { change: boolean; index: number }) => {
    const { privateKey } = account.deriveChild(change ? 1 : 0).deriveChild(index);
    if (privateKey === null) throw new Error("no private key");
    const internal = schnorr.getPublicKey(privateKey);
    const even = secp256k1.getPublicKey(privateKey, true)[0] === 2;
    const secret = even ? toBigInt(privateKey) : CURVE_ORDER - toBigInt(privateKey);
    const tweak = toBigInt(schnorr.utils.taggedHash("TapTweak", internal));
    const tweaked = toBytes((secret + tweak) % CURVE_ORDER);
    return { internal, secret: tweaked, script: p2tr(schnorr.getPublicKey(tweaked)) };
  };
  const signer = {
    refuse: false,
    gate: Promise.resolve(),
    deriveWalletKeys: (request: { change?: boolean; firstIndex?: number; count?: number }) => {
      const keys = Array.from(
        { length: request.count ?? 0 },
        (_, i) => keyOf({ change: request.change ?? false, index: (request.firstIndex ?? 0) + i }),
      );
      return Promise.resolve(create(DeriveWalletKeysResponseSchema, {
        scripts: keys.map((key) => key.script),
        internalKeys: keys.map((key) => key.internal),
      }));
    },
    signWalletInputs: async (request: Parameters<WalletSigner["signWalletInputs"]>[0]) => {
      await signer.gate;
      if (signer.refuse) return Promise.reject(failedPrecondition("INPUT_BOUND", "refused by the test"));
      const tx = Transaction.fromBuffer(request.tx ?? new Uint8Array());
      const prevouts = request.prevouts ?? [];
      const named = new Set([
        ...Object.keys(request.change ?? {}).map(Number),
        ...request.destinations ?? [],
      ]);
      if (named.size !== tx.outs.length) {
        return Promise.reject(failedPrecondition("UNNAMED_OUTPUT", "an output is not named"));
      }
      let spent = 0n;
      const signatures: Record<number, Uint8Array> = {};
      for (const [at, path] of Object.entries(request.inputs ?? {})) {
        const index = Number(at);
        const prevout = prevouts[index];
        const key = keyOf({ change: path.change ?? false, index: path.index ?? 0 });
        if (prevout?.script === undefined || !sameBytes(key.script, prevout.script)) {
          return Promise.reject(failedPrecondition("BAD_REQUEST", `input ${index} is not ours`));
        }
        spent += prevout.amountSat ?? 0n;
        const hash = tx.hashForWitnessV1(
          index,
          prevouts.map((one) => one.script ?? new Uint8Array()),
          prevouts.map((one) => one.amountSat ?? 0n),
          Transaction.SIGHASH_DEFAULT,
        );
        signatures[index] = schnorr.sign(hash, key.secret, new Uint8Array(32));
      }
      for (const out of tx.outs) spent -= BigInt(out.value);
      if (spent > (request.maxFeeSat ?? 0n)) {
        return Promise.reject(failedPrecondition("FEE_TOO_HIGH", `${spent} sat`));
      }
      return Promise.resolve(create(SignWalletInputsResponseSchema, { signatures }));
    },
  };
  return signer;
}

/** Fee rates of tests: 1000 sat/kw on regtest. */
export const TEST_FEERATE = feerate(1_000);
/** Puts in nothing. */
export const NO_FUNDER: FunderPolicy = {
  policy: "fixed",
  mod: 0n,
  minTheirFunding: sat(10_000),
  perChannelMin: sat(10_000),
  reserveTank: sat(0),
  fuzzPercent: 0,
  fundProbability: 100,
};

/** One lightningd's chain and wallet. */
export interface TestNode extends AsyncDisposable {
  readonly chain: RunningChain;
  readonly wallet: WalletApi;
  readonly database: Database;
  readonly url: string;
  readonly signer: TestSigner;
  readonly leader: Leader;
  /** What made the chain give up. */
  readonly fatal: string[];
  /** Ends chain and wallet, and starts them anew on the same rows. */
  restart(): Promise<void>;
  /** Waits until the rows have bitcoind's tip. */
  synced(): Promise<void>;
}

/** Settings of a test's node. */
export interface TestNodeOptions {
  readonly config?: Partial<WalletConfig>;
  readonly random?: () => number;
  readonly rescan?: number;
  /** In place of bitcoind's RPC. */
  readonly wrapRpc?: (rpc: BitcoindRpc) => BitcoindRpc;
}

/** bitcoind and Postgres of a test file. Call at its top. */
export async function useChain() {
  const postgres = await usePostgres();
  const bitcoind = await startBitcoind({ extra: ["persistmempool=0"] });
  Deno.test.afterAll(() => bitcoind.stop());
  return {
    bitcoind,
    node: (options: TestNodeOptions = {}) => testNode(bitcoind, () => postgres.freshDatabase(), options),
  };
}

async function testNode(
  bitcoind: RegtestNode,
  freshDatabase: () => Promise<AsyncDisposable & { readonly url: string }>,
  options: TestNodeOptions,
): Promise<TestNode> {
  const fresh = await freshDatabase();
  const connection = { url: fresh.url, applicationName: "lightningd-test" };
  await migrate({ ...connection, directory: SCHEMA });
  const database = await openDatabase({ ...connection, max: 4 });
  await database.sql`insert into leader (epoch, instance) values (1, 'test')`;
  const signer = testSigner();
  const leader = { epoch: 1n, instance: "test" };
  const fatal: string[] = [];
  const start = async () => {
    const rpc = createRpc({
      url: bitcoind.rpcUrl,
      auth: { type: "password", user: bitcoind.rpcUser, password: bitcoind.rpcPassword },
      retryMs: 10_000,
    });
    const log = createLogger({ sink: () => {} });
    const chain = await startChain({
      database: connection,
      rpc: options.wrapRpc?.(rpc) ?? rpc,
      leader,
      log,
      config: {
        feerates: {
          network: "regtest",
          fallback: TEST_FEERATE,
          commitFeePercent: 100,
          minFeerate: feerate(253),
          ignoreLimits: false,
        },
        pollIntervalMs: 100,
        ...(options.rescan === undefined ? {} : { rescan: options.rescan }),
      },
      onFatal: (reason) => void fatal.push(reason),
    });
    const wallet = createWallet({
      database: connection,
      sql: database.sql,
      chain,
      signer,
      leader,
      log,
      config: {
        network: "regtest",
        funder: NO_FUNDER,
        maxInputsPerPeer: 4,
        maxInputsInAll: 20,
        maxFundingFee: sat(100_000),
        ...options.config,
      },
      random: options.random ?? (() => 0),
    });
    await wallet.reconcile();
    return { chain, wallet };
  };
  let running = await start();
  const close = async () => {
    await running.chain.close();
    await running.wallet.reconcile();
  };
  return {
    get chain() {
      return running.chain;
    },
    get wallet() {
      return running.wallet;
    },
    database,
    url: fresh.url,
    signer,
    leader,
    fatal,
    async restart() {
      await close();
      running = await start();
    },
    async synced() {
      await running.chain.sync();
      await running.wallet.reconcile();
    },
    async [Symbol.asyncDispose]() {
      await running.chain.close();
      await running.wallet.reconcile().catch(() => {});
      await database.close();
      await fresh[Symbol.asyncDispose]();
    },
  };
}

/** A channel with an opening of the given side, in rows, as peers/ writes them. */
export async function insertOpening(
  node: TestNode,
  parts: { readonly initiator: "local" | "remote"; readonly peer?: Uint8Array; readonly channel?: bigint },
): Promise<bigint> {
  const peer = parts.peer ?? randomBytes(33);
  const [row] = await node.database.sql<{ opening: bigint }[]>`
    insert into openings ${
    node.database.sql({
      peer_id: peer,
      generation: 1n,
      channel: parts.channel ?? null,
      initiator: parts.initiator,
      owner_epoch: 1n,
      owner_instance: "test",
      ...(parts.channel === undefined
        ? {
          temporary_channel_id: randomBytes(32),
          channel_key_id: randomBytes(32),
          payment_key_index: 0,
        }
        : {}),
    })
  } returning opening`;
  if (row === undefined) throw new Error("no opening");
  return row.opening;
}

/** An attempt as dualopend writes it. */
export interface TestAttempt {
  readonly txid: Uint8Array;
  readonly outputIndex?: number;
  readonly fundingScript: Uint8Array;
  readonly capacity: bigint;
  readonly createdHeight: number;
  readonly inputs: readonly {
    readonly side: "local" | "remote";
    readonly txid: Uint8Array;
    readonly vout: number;
    readonly amount: bigint;
  }[];
  /** Signed by both sides: the complete transaction. */
  readonly complete?: Uint8Array;
  readonly fee?: bigint;
  readonly feerate?: number;
  readonly aborted?: boolean;
}

/** A channel without attempts. */
export async function insertChannel(
  node: TestNode,
  parts: { readonly opener: "local" | "remote"; readonly peer?: Uint8Array },
): Promise<bigint> {
  const { sql } = node.database;
  const [row] = await sql<{ channel: bigint }[]>`
    insert into channels ${
    sql({
      peer_id: parts.peer ?? randomBytes(33),
      channel_id: randomBytes(32),
      temporary_channel_id: randomBytes(32),
      opener: parts.opener,
      state: "DUALOPEND_AWAITING_LOCKIN",
      owner_epoch: 1n,
      owner_instance: "test",
      channel_key_id: randomBytes(32),
      payment_key_index: 0,
      params: new Uint8Array(1),
      generation: 1n,
      local_alias: String(randomBytes(6).readUIntBE(0, 6)),
      created_height: 0,
    })
  } returning channel`;
  if (row === undefined) throw new Error("no channel");
  return row.channel;
}

/** Adds an attempt to a channel, and moves the reservations of an opening to it. */
export async function insertAttempt(
  node: TestNode,
  channel: bigint,
  attempt: TestAttempt,
  opening?: bigint,
): Promise<bigint> {
  const { sql } = node.database;
  const signature = new Uint8Array(64).fill(1);
  const [row] = await sql<{ attempt: bigint }[]>`
    insert into funding_attempts ${
    sql({
      channel,
      seq: await nextSeq(node, channel),
      initiator: "local",
      txid: attempt.txid,
      output_index: attempt.outputIndex ?? 0,
      funding_script: attempt.fundingScript,
      local_contribution_sat: attempt.capacity,
      remote_contribution_sat: 0n,
      capacity_sat: attempt.capacity,
      feerate_perkw: BigInt(attempt.feerate ?? 1_000),
      fee_sat: attempt.fee ?? 1_000n,
      locktime: 0n,
      detail: new Uint8Array(1),
      created_height: attempt.createdHeight,
      aborted: attempt.aborted ?? false,
      ...(attempt.complete === undefined ? {} : {
        remote_commitment_signature: signature,
        local_tx_signatures: new Uint8Array(1),
        remote_tx_signatures: new Uint8Array(1),
        complete_tx: attempt.complete,
      }),
    })
  } returning attempt`;
  if (row === undefined) throw new Error("no attempt");
  for (const [serial, input] of attempt.inputs.entries()) {
    await sql`insert into attempt_inputs ${
      sql({
        attempt: row.attempt,
        serial_id: String(serial),
        side: input.side,
        txid: input.txid,
        vout: BigInt(input.vout),
        amount_sat: input.amount,
      })
    }`;
  }
  if (opening !== undefined) {
    await sql`
      update reservations set purpose = 'attempt', opening = null, channel = ${channel} where opening = ${opening}`;
    await sql`delete from openings where opening = ${opening}`;
  }
  return row.attempt;
}

async function nextSeq(node: TestNode, channel: bigint): Promise<number> {
  const [row] = await node.database.sql<{ next: number }[]>`
    select coalesce(max(seq) + 1, 0)::int as next from funding_attempts where channel = ${channel}`;
  return row?.next ?? 0;
}

/** A P2WSH script that nobody can spend. */
export function randomScript(): Uint8Array {
  return concatBytes(Uint8Array.of(0, 32), randomBytes(32));
}
