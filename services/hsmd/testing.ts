/** Two hsmds that fund a channel together: for tests only. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fundingScriptPubkey } from "bolt/tx/funding.ts";
import { makeTransaction, type OutPoint } from "bolt/tx/transaction.ts";
import { sat } from "bolt/units.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import { ArcusError } from "common/grpc/errors.ts";
import {
  BindDatabaseRequestSchema,
  type ChannelKeys,
  type CommitmentContentSchema,
  CommitmentStepResultSchema,
  CommitmentStepSchema,
  LockFundingRequestSchema,
  NewChannelRequestSchema,
  type OutpointSignatures,
  type OutpointStepSchema,
  RegisterEpochsRequestSchema,
  SignFundingAttemptRequestSchema,
  SignRemoteCommitment0RequestSchema,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import { Hsm } from "./hsm.ts";
import type { KeyTree, WalletPath } from "./keys.ts";
import { type MemoryFile } from "./memory.ts";
import { openStore, type StoreOptions } from "./open.ts";

/** Sixteen bytes that stand for a node's database. */
export const DATABASE_ID = new Uint8Array(16).fill(0xdb);
/** The epoch that {@link openChannel} registers. */
export const EPOCH = 1n;
const FUNDING_FEERATE = 1000n;
const SEQUENCE = 0xfffffffd;

/** A directory that is removed at the end of the block. */
export async function temporaryDirectory() {
  const path = await mkdtemp(join(tmpdir(), "arcus-hsmd-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** An hsmd without gRPC. */
export interface TestHsm {
  readonly hsm: Hsm;
  readonly keys: KeyTree;
  readonly file: MemoryFile;
  readonly directory: string;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Opens (or makes) an hsmd in a directory; not bound yet. */
export async function openHsm(
  directory: string,
  options: Partial<StoreOptions> & { readonly maxFundingFeeSat?: bigint } = {},
): Promise<TestHsm> {
  const { keys, memory } = await openStore({
    directory,
    network: "regtest",
    onFatal: (error) => {
      throw error;
    },
    ...options,
  });
  const hsm = new Hsm(keys, memory, {
    chainHash: chainHash("regtest"),
    instance: "test",
    ecc: "noble",
    maxFundingFeeSat: options.maxFundingFeeSat ?? 100_000n,
  });
  return { hsm, keys, file: memory, directory, [Symbol.asyncDispose]: () => memory.close() };
}

/** Binds with an expectation of the database. */
export function bind(
  hsm: Hsm,
  expected: { readonly id?: Uint8Array; readonly highWater?: bigint; readonly database?: Uint8Array } = {},
) {
  return hsm.bindDatabase(create(BindDatabaseRequestSchema, {
    databaseId: expected.database ?? DATABASE_ID,
    expectedMemoryId: expected.id ?? new Uint8Array(0),
    expectedHighWater: expected.highWater ?? 0n,
  }));
}

/** One side of a channel under construction. */
export interface Side {
  readonly hsm: Hsm;
  readonly keys: KeyTree;
  readonly channelKeyId: Uint8Array;
  readonly paymentKeyIndex: number;
  readonly points: ChannelKeys;
}

/** A channel between two hsmds. */
export interface Pair {
  readonly opener: Side;
  readonly accepter: Side;
}

async function newSide({ hsm, keys }: TestHsm, peer: TestHsm): Promise<Side> {
  const drawn = await hsm.newChannel(create(NewChannelRequestSchema, { peerId: peer.keys.nodeId }));
  const { channelKeyId, paymentKeyIndex } = drawn;
  await register(hsm, channelKeyId, paymentKeyIndex, EPOCH);
  // What newChannel gives is an initializer; the test wants every field.
  const points = drawn.keys as ChannelKeys;
  return { hsm, keys, channelKeyId, paymentKeyIndex, points };
}

/** Registers one epoch and answers what the memory holds. */
export async function register(hsm: Hsm, channelKeyId: Uint8Array, paymentKeyIndex: number, epoch: bigint) {
  const { channels } = await hsm.registerEpochs(create(RegisterEpochsRequestSchema, {
    channels: [{ channelKeyId, paymentKeyIndex, epoch }],
  }));
  const [channel] = channels;
  if (channel === undefined) throw new Error("no answer for the channel");
  return channel;
}

/** Draws keys on both sides and registers the first epoch. */
export async function openChannel(opener: TestHsm, accepter: TestHsm): Promise<Pair> {
  return { opener: await newSide(opener, accepter), accepter: await newSide(accepter, opener) };
}

/** The terms from one side's point of view. */
export function termsOf(pair: Pair, side: Side) {
  // After a restart a side is another object with the same keys.
  const isOpener = side.channelKeyId === pair.opener.channelKeyId;
  const peer = isOpener ? pair.accepter : pair.opener;
  return {
    localIsOpener: isOpener,
    channelType: encodeChannelType(ANCHORS_STATIC_REMOTEKEY),
    remoteFundingPubkey: peer.points.fundingPubkey,
    remoteRevocationBasepoint: peer.points.revocationBasepoint,
    remotePaymentBasepoint: peer.points.paymentBasepoint,
    remoteDelayedPaymentBasepoint: peer.points.delayedPaymentBasepoint,
    remoteHtlcBasepoint: peer.points.htlcBasepoint,
    remoteFirstPerCommitmentPoint: peer.points.firstPerCommitmentPoint,
    localToSelfDelay: isOpener ? 144 : 720,
    remoteToSelfDelay: isOpener ? 720 : 144,
    localDustLimitSat: isOpener ? 354n : 546n,
    remoteDustLimitSat: isOpener ? 546n : 354n,
    commitmentFeeratePerkw: 2500,
  };
}

/** An outpoint that exists nowhere, named by a word. */
export function fakeOutpoint(word: string, vout = 0): OutPoint {
  return { txid: sha256(utf8ToBytes(word)), vout };
}

/** What both sides put in; the change is what is left after a fee of {@link FUNDING_FEERATE} sat each. */
export interface Funds {
  readonly opener: bigint;
  readonly accepter: bigint;
  /** Worth of each side's only input; none: the side has no input. */
  readonly openerInput?: bigint;
  readonly accepterInput?: bigint;
  /** Names the inputs; attempts with the same names double-spend each other. */
  readonly openerCoin?: string;
  readonly accepterCoin?: string;
  /** Real outpoints of both inputs, instead of named ones. */
  readonly outpoints?: readonly OutPoint[];
  readonly locktime?: number;
}

/** A funding transaction: input 0 and change 1 are the opener's, input 1 and change 2 the accepter's, output 0 funds. */
export function fundingOf(pair: Pair, funds: Funds) {
  const { opener, accepter } = pair;
  const openerInput = funds.openerInput ?? funds.opener + 100_000n;
  const accepterInput = funds.accepterInput ?? funds.accepter + 100_000n;
  const path = (change: boolean, index: number) => ({ change, index });
  const outpoints = funds.outpoints ?? [
    fakeOutpoint(funds.openerCoin ?? "opener"),
    fakeOutpoint(funds.accepterCoin ?? "accepter"),
  ];
  const prevouts = [
    { amountSat: openerInput, script: opener.keys.wallet(path(false, 3)).script },
    { amountSat: accepterInput, script: accepter.keys.wallet(path(false, 5)).script },
  ];
  const outputs = [
    {
      amount: sat(funds.opener + funds.accepter),
      script: fundingScriptPubkey(opener.points.fundingPubkey, accepter.points.fundingPubkey),
    },
    {
      amount: sat(openerInput - funds.opener - FUNDING_FEERATE),
      script: opener.keys.wallet(path(true, 1)).script,
    },
    {
      amount: sat(accepterInput - funds.accepter - FUNDING_FEERATE),
      script: accepter.keys.wallet(path(true, 2)).script,
    },
  ];
  const tx = makeTransaction({
    locktime: funds.locktime ?? 0,
    inputs: outpoints.map((outpoint) => ({ outpoint, sequence: SEQUENCE })),
    outputs,
  });
  return { tx, prevouts, outpoints, fundingTx: tx.toBuffer(), outpoint: { txid: tx.getHash(), vout: 0 } };
}

/** A funding transaction of {@link fundingOf}. */
export type Funding = ReturnType<typeof fundingOf>;

/** The attempt from one side's point of view. */
export function attemptOf(pair: Pair, side: Side, funds: Funds, funding: Funding) {
  const [local, remote] = side === pair.opener
    ? [funds.opener, funds.accepter]
    : [funds.accepter, funds.opener];
  return {
    fundingTx: new Uint8Array(funding.fundingTx),
    outputIndex: 0,
    localContributionSat: local,
    remoteContributionSat: remote,
  };
}

/** Names the channel in a request. */
export function refOf(side: Side, epoch: bigint = EPOCH) {
  return { channelKeyId: side.channelKeyId, paymentKeyIndex: side.paymentKeyIndex, epoch };
}

type CommitmentInit = MessageInitShape<typeof SignRemoteCommitment0RequestSchema>;
type AttemptInit = MessageInitShape<typeof SignFundingAttemptRequestSchema>;

/** A request to sign the peer's commitment 0. */
export function commitmentRequest(pair: Pair, side: Side, funds: Funds, funding: Funding) {
  return {
    channel: refOf(side),
    terms: termsOf(pair, side),
    attempt: attemptOf(pair, side, funds, funding),
  };
}

/** Asks for the signature of the peer's commitment 0. */
export async function signRemote(side: Side, request: CommitmentInit): Promise<Uint8Array> {
  const message = create(SignRemoteCommitment0RequestSchema, request);
  return (await side.hsm.signRemoteCommitment0(message)).signature;
}

/** A request to sign our inputs, given the peer's signature. */
export function attemptRequest(
  pair: Pair,
  side: Side,
  funds: Funds,
  funding: Funding,
  remoteSignature: Uint8Array,
) {
  const opener = side === pair.opener;
  const inputs: Record<number, WalletPath> = opener
    ? { 0: { change: false, index: 3 } }
    : { 1: { change: false, index: 5 } };
  const change: Record<number, WalletPath> = opener
    ? { 1: { change: true, index: 1 } }
    : { 2: { change: true, index: 2 } };
  const destinations: number[] = [];
  return {
    channel: refOf(side),
    terms: termsOf(pair, side),
    attempt: attemptOf(pair, side, funds, funding),
    remoteSignature,
    signInputs: true,
    prevouts: funding.prevouts,
    inputs,
    change,
    destinations,
    maxFeeSat: 5000n,
  };
}

/** Asks for the witnesses of our inputs. */
export async function signAttempt(side: Side, request: AttemptInit): Promise<Record<number, Uint8Array>> {
  return (await side.hsm.signFundingAttempt(create(SignFundingAttemptRequestSchema, request))).witnesses;
}

/** Locks an outpoint. */
export function lock(side: Side, outpoint: OutPoint | undefined, epoch: bigint = EPOCH) {
  return side.hsm.lockFunding(create(LockFundingRequestSchema, {
    channel: refOf(side, epoch),
    ...(outpoint === undefined ? {} : { outpoint }),
  }));
}

/** Both sign the other's commitment 0, then their inputs. */
export async function fund(pair: Pair, funds: Funds) {
  const funding = fundingOf(pair, funds);
  const { opener, accepter } = pair;
  const byOpener = await signRemote(opener, commitmentRequest(pair, opener, funds, funding));
  const byAccepter = await signRemote(accepter, commitmentRequest(pair, accepter, funds, funding));
  const openerWitnesses = await signAttempt(opener, attemptRequest(pair, opener, funds, funding, byAccepter));
  const accepterWitnesses = await signAttempt(
    accepter,
    attemptRequest(pair, accepter, funds, funding, byOpener),
  );
  return { funding, byOpener, byAccepter, witnesses: { ...openerWitnesses, ...accepterWitnesses } };
}

/** The reason of a refusal; fails if the call succeeds or throws anything else. */
export async function reasonOf(call: Promise<unknown> | (() => unknown)): Promise<string> {
  try {
    await (typeof call === "function" ? call() : call);
  } catch (error) {
    if (error instanceof ArcusError) return error.reason;
    throw error;
  }
  throw new Error("it was not refused");
}

/** Runs a body with two bound hsmds in directories of their own. */
export async function withPair(
  body: (
    pair: Pair,
    sides: { readonly a: TestHsm; readonly b: TestHsm; readonly directory: string },
  ) => Promise<void>,
): Promise<void> {
  await using directory = await temporaryDirectory();
  await using a = await openHsm(join(directory.path, "a"));
  await using b = await openHsm(join(directory.path, "b"));
  await bind(a.hsm);
  await bind(b.hsm);
  await body(await openChannel(a, b), { a, b, directory: directory.path });
}

type ContentInit = MessageInitShape<typeof CommitmentContentSchema>;
type OutpointInit = MessageInitShape<typeof OutpointStepSchema>;

/** A step, before it is a message. */
export interface TestStep {
  readonly stepId: bigint;
  readonly channel: ReturnType<typeof refOf>;
  readonly terms?: ReturnType<typeof termsOf>;
  readonly outpoints?: OutpointInit[];
  readonly revoke?: boolean;
  readonly ecdhPoints?: Uint8Array[];
}

/** An HTLC as one side sees it. */
export interface TestHtlc {
  readonly id: bigint;
  /** This side offered it. */
  readonly offered: boolean;
  readonly amountMsat: bigint;
  readonly hash: Uint8Array;
  readonly expiry: number;
}

/** What both commitments of a number hold, as one side sees it; its balance is what is left. */
export interface TestContent {
  readonly number: bigint;
  readonly toRemoteMsat: bigint;
  readonly feerate: number;
  readonly htlcs: readonly TestHtlc[];
}

/** The same state as the other side sees it. */
export function mirrored(content: TestContent, capacitySat: bigint): TestContent {
  const { number, feerate, htlcs } = content;
  return {
    number,
    feerate,
    toRemoteMsat: localMsat(content, capacitySat),
    htlcs: htlcs.map((htlc) => ({ ...htlc, offered: !htlc.offered })),
  };
}

function localMsat({ toRemoteMsat, htlcs }: TestContent, capacitySat: bigint): bigint {
  return htlcs.reduce((rest, { amountMsat }) => rest - amountMsat, capacitySat * 1000n - toRemoteMsat);
}

/** A content as a request carries it. */
export function contentOf(content: TestContent, capacitySat: bigint) {
  const { number, toRemoteMsat, feerate, htlcs } = content;
  return {
    number,
    toLocalMsat: localMsat(content, capacitySat),
    toRemoteMsat,
    feeratePerkw: feerate,
    htlcIds: htlcs.map(({ id }) => id),
    htlcOffered: htlcs.map(({ offered }) => offered),
    htlcAmountMsat: htlcs.map(({ amountMsat }) => amountMsat),
    htlcPaymentHashes: concatBytes(...htlcs.map(({ hash }) => hash)),
    htlcCltvExpiry: htlcs.map(({ expiry }) => expiry),
  } satisfies ContentInit;
}

/** Asks for one step; answers when it is durable. */
export async function askStep(hsm: Hsm, step: TestStep) {
  const begun = hsm.beginStep(create(CommitmentStepSchema, step));
  await hsm.settled();
  return create(CommitmentStepResultSchema, begun.finish());
}

/** A funded and locked channel between two hsmds, and the steps that both sides take. */
export class LockedChannel {
  readonly capacitySat: bigint;

  private constructor(
    readonly pair: Pair,
    readonly outpoint: OutPoint,
    readonly funds: Funds,
    readonly first: Awaited<ReturnType<typeof fund>>,
  ) {
    this.capacitySat = funds.opener + funds.accepter;
  }

  /** Funds and locks. */
  static async open(pair: Pair, funds: Funds): Promise<LockedChannel> {
    const first = await fund(pair, funds);
    const { outpoint } = first.funding;
    const plain = { txid: new Uint8Array(outpoint.txid), vout: outpoint.vout };
    await lock(pair.opener, plain);
    await lock(pair.accepter, plain);
    return new LockedChannel(pair, plain, funds, first);
  }

  /** The other side. */
  peer(side: Side): Side {
    const { opener, accepter } = this.pair;
    return side.channelKeyId === opener.channelKeyId ? accepter : opener;
  }

  /** A side's per-commitment point, from its keys. */
  point(side: Side, number: bigint): Uint8Array {
    return side.keys.channel(side.channelKeyId).perCommitmentPoint(number);
  }

  /** What a step of a side says of itself. */
  head(side: Side, stepId = 1n) {
    return { stepId, channel: refOf(side), terms: termsOf(this.pair, side) };
  }

  /** The part that signs the peer's commitment. */
  signing(side: Side, content: TestContent) {
    return {
      sign: contentOf(content, this.capacitySat),
      remotePerCommitmentPoint: this.point(this.peer(side), content.number),
    };
  }

  /** The part that verifies our commitment. */
  verifying(content: TestContent, signatures: Pick<OutpointSignatures, "signature" | "htlcSignatures">) {
    return {
      verify: contentOf(content, this.capacitySat),
      remoteSignature: signatures.signature,
      remoteHtlcSignatures: signatures.htlcSignatures,
    };
  }

  /** A whole step on the locked outpoint. */
  step(side: Side, parts: object, revoke = false, more: Partial<TestStep> = {}): TestStep {
    const outpoint = { outpoint: this.outpoint, capacitySat: this.capacitySat, ...parts };
    return { ...this.head(side), outpoints: [outpoint], revoke, ...more };
  }

  /** Signs the peer's commitment of a content; fails if that is refused. */
  async sign(side: Side, content: TestContent): Promise<OutpointSignatures> {
    const result = await askStep(side.hsm, this.step(side, this.signing(side, content)));
    const [signatures] = result.outpoints;
    if (result.refusal !== "" || signatures === undefined) {
      throw new Error(`${result.refusal} ${result.detail}`);
    }
    return signatures;
  }

  /** The peer signs a content as `side` sees it; `side` verifies it, and revokes the one before. */
  async commit(side: Side, content: TestContent) {
    const signatures = await this.sign(this.peer(side), mirrored(content, this.capacitySat));
    const request = this.step(side, this.verifying(content, signatures), true);
    const result = await askStep(side.hsm, request);
    return { result, request, signatures };
  }
}
