/**
 * hsmd without its gRPC: checks a request, decides by the rules, remembers, waits until that is on the disk, then signs.
 * Nothing leaves before what it rests on is durable; a refusal remembers nothing.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Transaction } from "bitcoinjs-lib";
import { ecc, POINT_LENGTH, SIGNATURE_LENGTH } from "bolt/crypto/ecc.ts";
import { MAX_COMMITMENT_NUMBER } from "bolt/keys/commitment_number.ts";
import { invoiceSighash, isUnsignedInvoice } from "bolt/invoice/fields.ts";
import { err, ok, type Result } from "bolt/result.ts";
import { buildCommitment, commitmentWitness } from "bolt/tx/commitment.ts";
import { commitmentSighash } from "bolt/tx/sighash.ts";
import { type OutPoint, sameBytes, TXID_LENGTH } from "bolt/tx/transaction.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import { requireBytes, requireField } from "common/grpc/check.ts";
import { ArcusError, failedPrecondition, invalidArgument, unavailable } from "common/grpc/errors.ts";
import type {
  AcceptMemoryRequest,
  BindDatabaseRequest,
  ChannelKeysSchema,
  ChannelMemorySchema,
  ChannelRef as WireChannelRef,
  ChannelTerms,
  CommitmentStep,
  CommitmentStepResultSchema,
  DeriveWalletKeysRequest,
  EcdhManyRequest,
  EcdhRequest,
  GetChannelKeysRequest,
  GetInfoResponseSchema,
  GetPerCommitmentPointRequest,
  LockFundingRequest,
  NameDestinationsRequest,
  NewChannelRequest,
  OutpointStep,
  PrevOut,
  RegisterEpochsRequest,
  SignClosingRequest,
  SignFundingAttemptRequest,
  SignInvoicesRequest,
  SignOwnCommitmentRequest,
  SignRemoteCommitment0Request,
  SignWalletInputsRequest,
  WalletKey,
} from "gen/arcus/hsmd/v1/hsmd_pb.ts";
import type { OutPoint as WireOutPoint } from "gen/arcus/types/v1/types_pb.ts";
import { buildAttempt, parseUnsigned, termsDigest } from "./attempt.ts";
import {
  buildLocal,
  buildRemote,
  type BuiltCommitment,
  type ChannelBasis,
  channelBasis,
  isMirrored,
  signRemote,
  toCommitmentSpec,
  verifySignatures,
} from "./commitment.ts";
import { checkClose, isNamedScript } from "./close.ts";
import {
  CHANNEL_KEY_ID_LENGTH,
  type ChannelKeyTree,
  type KeyTree,
  MAX_WALLET_INDEX,
  paymentKeyIndex,
  type WalletPath,
} from "./keys.ts";
import { MEMORY_ID_LENGTH, type MemoryFile } from "./memory.ts";
import type { ChannelMemory } from "./memory_state.ts";
import { type Refusal, refusal } from "./refusal.ts";
import {
  acceptMemory,
  bindDatabase,
  type ChannelRef,
  commitmentStep,
  type Decision,
  drawChannel,
  findChannel,
  lockFunding,
  nameDestinations,
  type OutpointFacts,
  registerEpoch,
  serveChannel,
  signClosing,
  signFundingAttempt,
  signOwnCommitment,
  signRemoteCommitment,
  signWalletInputs,
} from "./rules.ts";
import { checkFee, checkMalleability, checkSpend, signInput, type SpendClaim } from "./wallet.ts";

/** Bytes of a database id. */
export const DATABASE_ID_LENGTH = 16;
/** Wallet keys in one answer. */
export const MAX_WALLET_KEYS = 1000;
/** Channels in one RegisterEpochs. */
export const MAX_REGISTRATIONS = 100_000;
/** Outpoints of one step: the locked one, and as many as a splice may have beside it. */
const MAX_OUTPOINTS = 100;
const NO_BYTES = new Uint8Array(0);
const NOT_BOUND =
  "BindDatabase has not succeeded since this hsmd started: whether its memory is current is unknown";
/** Longest script of a named output. */
const MAX_SCRIPT_LENGTH = 10_000;
/** Channels whose keys, and whose checked terms, are kept. */
const KEY_CACHE = 4096;
/** Points of one EcdhMany, or of one step. */
export const MAX_ECDH_POINTS = 2000;
/** Invoices of one SignInvoices. */
export const MAX_INVOICES = 1000;

/** What this process is, and its own limit. */
export interface HsmIdentity {
  readonly chainHash: Uint8Array;
  /** New at every start. */
  readonly instance: string;
  /** Which secp256k1 signs. */
  readonly ecc: string;
  /** Most that we pay in fees for one funding transaction, whatever a caller allows. */
  readonly maxFundingFeeSat: bigint;
}

function toError(refused: Refusal, channelKeyId?: Uint8Array): ArcusError {
  const { reason, message } = refused;
  const extra = channelKeyId === undefined ? {} : { details: { channel_key_id: bytesToHex(channelKeyId) } };
  if (reason === "BAD_REQUEST") return invalidArgument(reason, message, extra);
  if (reason === "NOT_BOUND") return unavailable(reason, message, extra);
  return failedPrecondition(reason, message, extra);
}

function unwrap<T>(result: Result<T, Refusal>, channelKeyId?: Uint8Array): T {
  if (result.ok) return result.value;
  throw toError(result.error, channelKeyId);
}

function toOutPoint(wire: WireOutPoint | undefined, field: string): OutPoint {
  const { txid, vout } = requireField(wire, field);
  return { txid: requireBytes(txid, TXID_LENGTH, `${field}.txid`), vout };
}

function toPath(key: WalletKey): WalletPath {
  return { change: key.change, index: key.index };
}

function toPaths(map: Record<string, WalletKey>): [number, WalletPath][] {
  return Object.entries(map).map(([index, key]) => [Number(index), toPath(key)]);
}

function toPrevouts(prevouts: readonly PrevOut[]): SpendClaim["prevouts"] {
  return prevouts.map(({ amountSat, script }) => ({ amount: amountSat, script }));
}

/** Adds to a cache, for which the entry that was added first makes room. */
function keep<T>(cache: Map<string, T>, key: string, value: T): void {
  const [oldest] = cache.keys();
  if (oldest !== undefined && cache.size >= KEY_CACHE && !cache.has(key)) cache.delete(oldest);
  cache.set(key, value);
}

/** What hsmd does. Every method throws ArcusErrors only. */
export class Hsm {
  #bound = false;
  readonly #channels = new Map<string, ChannelKeyTree>();
  readonly #bases = new Map<string, ChannelBasis>();

  constructor(
    private readonly keys: KeyTree,
    private readonly file: MemoryFile,
    private readonly identity: HsmIdentity,
  ) {}

  /** Remembers what a rule decided, and waits until it and all before it is on the disk. */
  async #remember(decision: Decision, channelKeyId?: Uint8Array): Promise<void> {
    this.file.append(unwrap(decision, channelKeyId));
    await this.file.settled();
  }

  #requireBound(): void {
    if (!this.#bound) throw toError(refusal("NOT_BOUND", NOT_BOUND));
  }

  #channelKeys(channelKeyId: Uint8Array): ChannelKeyTree {
    const key = bytesToHex(channelKeyId);
    const known = this.#channels.get(key);
    if (known !== undefined) return known;
    const made = this.keys.channel(channelKeyId);
    keep(this.#channels, key, made);
    return made;
  }

  /** The terms that came with a request, checked, or those that a rule passed before. */
  #basis(channelKeyId: Uint8Array, terms: ChannelTerms | undefined): Result<ChannelBasis, Refusal> {
    if (terms !== undefined) return channelBasis(this.#channelKeys(channelKeyId), terms);
    const known = this.#bases.get(bytesToHex(channelKeyId));
    if (known !== undefined) return ok(known);
    return err(refusal("TERMS_UNKNOWN", "the terms of this channel were not told yet"));
  }

  /** A reference with the only payment key that its channel can have. */
  #toRef(wire: WireChannelRef | undefined): ChannelRef {
    const { channelKeyId, paymentKeyIndex: index, epoch } = requireField(wire, "channel");
    requireBytes(channelKeyId, CHANNEL_KEY_ID_LENGTH, "channel.channel_key_id");
    requirePaymentKey(channelKeyId, index);
    return { channelKeyId, epoch };
  }

  /** Who this is. */
  getInfo(): MessageInitShape<typeof GetInfoResponseSchema> {
    const { memory, memoryId, durableHighWater } = this.file;
    return {
      nodeId: this.keys.nodeId,
      memoryId,
      highWater: durableHighWater,
      databaseId: memory.databaseId ?? new Uint8Array(0),
      ecc: this.identity.ecc,
      chainHash: this.identity.chainHash,
      instance: this.identity.instance,
      trusted: memory.distrust === null,
      walletXpub: this.keys.walletXpub,
      bound: this.#bound,
      distrust: memory.distrust?.reason ?? "",
    };
  }

  /** Binds this run, and the first time the memory, to a database; finds out whether the memory is current. */
  async bindDatabase(request: BindDatabaseRequest) {
    const { databaseId, expectedMemoryId, expectedHighWater } = request;
    requireBytes(databaseId, DATABASE_ID_LENGTH, "database_id");
    if (expectedMemoryId.length > 0) requireBytes(expectedMemoryId, MEMORY_ID_LENGTH, "expected_memory_id");
    const { memory, memoryId } = this.file;
    await this.#remember(bindDatabase(memory, memoryId, { databaseId, expectedMemoryId, expectedHighWater }));
    this.#bound = true;
    return { info: this.getInfo() };
  }

  /** A person's word that a memory with gaps may be used. */
  async acceptMemory(request: AcceptMemoryRequest) {
    await this.#remember(acceptMemory(this.file.memory, request.confirmation));
    return {};
  }

  /** The static key's part of a BOLT 8 handshake. */
  ecdh(request: EcdhRequest) {
    const secret = this.keys.ecdh(requireBytes(request.point, POINT_LENGTH, "point"));
    if (secret === null) throw invalidArgument("BAD_REQUEST", "point: not on the curve");
    return { secret };
  }

  /** Scripts and internal keys of the wallet. */
  deriveWalletKeys(request: DeriveWalletKeysRequest) {
    const { change, firstIndex, count } = request;
    if (count > MAX_WALLET_KEYS || firstIndex + count > MAX_WALLET_INDEX + 1) {
      throw invalidArgument(
        "BAD_REQUEST",
        `at most ${MAX_WALLET_KEYS} keys, up to index ${MAX_WALLET_INDEX}`,
      );
    }
    const scripts: Uint8Array[] = [];
    const internalKeys: Uint8Array[] = [];
    for (let index = firstIndex; index < firstIndex + count; index++) {
      const key = this.keys.wallet({ change, index });
      scripts.push(key.script);
      internalKeys.push(key.internalKey);
    }
    return { scripts, internalKeys };
  }

  /** Signs a withdrawal, a send, or our inputs of a user's PSBT. */
  async signWalletInputs(request: SignWalletInputsRequest) {
    const tx = unwrap(parseUnsigned(request.tx));
    const prevouts = toPrevouts(request.prevouts);
    const spend = unwrap(checkSpend(this.keys, {
      tx,
      prevouts,
      inputs: toPaths(request.inputs),
      change: toPaths(request.change),
      destinations: request.destinations,
    }));
    if (!request.foreignInputs && spend.inputs.length !== tx.inputs.length) {
      throw toError({
        reason: "BAD_REQUEST",
        message: "an input is not ours, and foreign_inputs is not set",
      });
    }
    const named = Object.keys(request.change).length + request.destinations.length;
    if (named !== tx.outputs.length) {
      throw toError({ reason: "UNNAMED_OUTPUT", message: "an output is neither ours nor named" });
    }
    unwrap(checkFee(tx, spend.spent, request.maxFeeSat));
    const spends = { txid: tx.txid, outputs: tx.outputs.length, inputs: spend.inputs.map((i) => i.outpoint) };
    await this.#remember(signWalletInputs(this.file.memory, spends, request.doubleSpend));
    const unsigned = Transaction.fromBuffer(request.tx);
    const signatures: Record<number, Uint8Array> = {};
    for (const input of spend.inputs) {
      const sighash = request.sighashAll.includes(input.index) ? "all" : "default";
      signatures[input.index] = signInput(unsigned, prevouts, input, sighash);
    }
    return { signatures };
  }

  /** Draws the keys of a new channel. */
  async newChannel(request: NewChannelRequest) {
    this.#requireBound();
    const peerId = requireBytes(request.peerId, POINT_LENGTH, "peer_id");
    const channelKeyId = crypto.getRandomValues(new Uint8Array(CHANNEL_KEY_ID_LENGTH));
    await this.#remember(drawChannel(this.file.memory, channelKeyId, peerId));
    return {
      channelKeyId,
      paymentKeyIndex: paymentKeyIndex(channelKeyId),
      keys: publicKeys(this.#channelKeys(channelKeyId)),
    };
  }

  /** Public keys of a channel; needs no memory. */
  getChannelKeys(request: GetChannelKeysRequest) {
    const channelKeyId = requireBytes(request.channelKeyId, CHANNEL_KEY_ID_LENGTH, "channel_key_id");
    requirePaymentKey(channelKeyId, request.paymentKeyIndex);
    return { keys: publicKeys(this.#channelKeys(channelKeyId)) };
  }

  /** lightningd's word on outputs to others. */
  async nameDestinations(request: NameDestinationsRequest) {
    this.#requireBound();
    const channelKeyId = requireBytes(request.channelKeyId, CHANNEL_KEY_ID_LENGTH, "channel_key_id");
    if (request.outputs.some(({ script }) => script.length > MAX_SCRIPT_LENGTH)) {
      throw invalidArgument("BAD_REQUEST", "outputs: a script is too long");
    }
    await this.#remember(
      nameDestinations(this.file.memory, channelKeyId, toPrevouts(request.outputs)),
      channelKeyId,
    );
    return {};
  }

  /** Registers epochs; one channel's refusal is no other's. */
  async registerEpochs(request: RegisterEpochsRequest) {
    this.#requireBound();
    if (request.channels.length > MAX_REGISTRATIONS) {
      throw invalidArgument("BAD_REQUEST", `at most ${MAX_REGISTRATIONS} channels`);
    }
    const channels = request.channels.map(({ channelKeyId, paymentKeyIndex: index, epoch }) => {
      // One row that is damaged must not keep all other channels from their owners.
      if (channelKeyId.length !== CHANNEL_KEY_ID_LENGTH || index !== paymentKeyIndex(channelKeyId)) {
        return this.#describe(channelKeyId, { reason: "BAD_REQUEST", message: "" });
      }
      const decision = registerEpoch(this.file.memory, { channelKeyId, epoch });
      if (decision.ok) this.file.append(decision.value);
      return this.#describe(channelKeyId, decision.ok ? null : decision.error);
    });
    await this.file.settled();
    return { channels };
  }

  /** Everything that is registered. */
  async listEpochs() {
    const channels = [...this.file.memory.channels.values()]
      .filter(({ epoch }) => epoch > 0n)
      .map(({ channelKeyId }) => this.#describe(channelKeyId, null));
    await this.file.settled();
    return { channels };
  }

  #describe(channelKeyId: Uint8Array, refused: Refusal | null): MessageInitShape<typeof ChannelMemorySchema> {
    const channel = this.file.memory.channels.get(bytesToHex(channelKeyId));
    const outcome = { channelKeyId, refused: refused !== null, refusal: refused?.reason ?? "" };
    return channel === undefined ? outcome : { ...outcome, ...describeChannel(channel) };
  }

  /**
   * One of our per-commitment points. Any number: a point gives nothing away, and where database and memory are both old
   * copies, the point of a number that neither knows is what shows a peer's claim in channel_reestablish to be true.
   */
  getPerCommitmentPoint(request: GetPerCommitmentPointRequest) {
    const channelKeyId = requireBytes(request.channelKeyId, CHANNEL_KEY_ID_LENGTH, "channel_key_id");
    if (request.number > MAX_COMMITMENT_NUMBER) {
      throw invalidArgument("BAD_REQUEST", `number: at most ${MAX_COMMITMENT_NUMBER}`);
    }
    return { point: this.#channelKeys(channelKeyId).perCommitmentPoint(request.number) };
  }

  /** Signs the peer's commitment 0 of an attempt. */
  async signRemoteCommitment0(request: SignRemoteCommitment0Request) {
    this.#requireBound();
    const ref = this.#toRef(request.channel);
    unwrap(serveChannel(this.file.memory, ref), ref.channelKeyId);
    const terms = requireTerms(request.terms);
    const keys = this.#channelKeys(ref.channelKeyId);
    const attempt = requireField(request.attempt, "attempt");
    const built = unwrap(buildAttempt(keys, terms, attempt), ref.channelKeyId);
    const commitment = { outpoint: built.outpoint, number: 0n, content: built.remoteSighash };
    await this.#remember(
      signRemoteCommitment(this.file.memory, ref, termsDigest(terms), commitment),
      ref.channelKeyId,
    );
    return { signature: ecc().signEcdsa(built.remoteSighash, keys.fundingSecret) };
  }

  /** Verifies an attempt, and signs our inputs of it. */
  async signFundingAttempt(request: SignFundingAttemptRequest) {
    this.#requireBound();
    const ref = this.#toRef(request.channel);
    const { channelKeyId } = ref;
    unwrap(serveChannel(this.file.memory, ref), channelKeyId);
    const terms = requireTerms(request.terms);
    const remoteSignature = requireBytes(request.remoteSignature, SIGNATURE_LENGTH, "remote_signature");
    const attempt = requireField(request.attempt, "attempt");
    const built = unwrap(buildAttempt(this.#channelKeys(channelKeyId), terms, attempt), channelKeyId);
    const { tx } = built;
    const prevouts = toPrevouts(request.prevouts);
    const spend = unwrap(
      checkSpend(this.keys, {
        tx,
        prevouts,
        inputs: toPaths(request.inputs),
        change: toPaths(request.change),
        destinations: request.destinations,
      }),
      channelKeyId,
    );
    unwrap(checkMalleability(prevouts), channelKeyId);
    const { maxFundingFeeSat } = this.identity;
    const maxFee = request.maxFeeSat < maxFundingFeeSat ? request.maxFeeSat : maxFundingFeeSat;
    unwrap(checkFee(tx, spend.spent - built.localContribution, maxFee), channelKeyId);
    const decision = signFundingAttempt(this.file.memory, ref, termsDigest(terms), {
      outpoint: built.outpoint,
      localContent: built.localSighash,
      remoteContent: built.remoteSighash,
      signatureGood: ecc().verifyEcdsa(built.localSighash, remoteSignature, terms.remoteFundingPubkey),
      destinations: spend.destinations,
      fundingInputs: tx.inputs.map(({ outpoint }) => outpoint),
      inputs: spend.inputs.map(({ outpoint }) => outpoint),
      signInputs: request.signInputs,
    });
    await this.#remember(decision, channelKeyId);
    const witnesses: Record<number, Uint8Array> = {};
    if (request.signInputs) {
      const unsigned = Transaction.fromBuffer(attempt.fundingTx);
      for (const input of spend.inputs) {
        witnesses[input.index] = encodeWitness([signInput(unsigned, prevouts, input, "all")]);
      }
    }
    return { witnesses };
  }

  /** Locks a funding outpoint, for good. */
  async lockFunding(request: LockFundingRequest) {
    this.#requireBound();
    const ref = this.#toRef(request.channel);
    const outpoint = toOutPoint(request.outpoint, "outpoint");
    await this.#remember(lockFunding(this.file.memory, ref, outpoint), ref.channelKeyId);
    return {};
  }

  /**
   * Decides one commitment step and remembers it; answers what signs it. That may run at once, but what it gives leaves
   * only when {@link settled} has resolved.
   */
  beginStep(step: CommitmentStep): BegunStep {
    const { stepId } = step;
    try {
      const begun = this.#begin(step);
      if (begun.ok) return { refusal: null, finish: () => ({ stepId, ...begun.value() }) };
      const { reason, message } = begun.error;
      return { refusal: reason, finish: () => ({ stepId, refusal: reason, detail: message }) };
    } catch (error) {
      if (!(error instanceof ArcusError)) throw error;
      const { message } = error;
      return { refusal: "BAD_REQUEST", finish: () => ({ stepId, refusal: "BAD_REQUEST", detail: message }) };
    }
  }

  /** Resolves when all that was decided until now is on the disk. */
  settled(): Promise<void> {
    return this.file.settled();
  }

  #begin(step: CommitmentStep): Result<() => StepAnswer, Refusal> {
    if (!this.#bound) return err(refusal("NOT_BOUND", NOT_BOUND));
    const ref = this.#toRef(step.channel);
    const served = serveChannel(this.file.memory, ref);
    if (!served.ok) return served;
    if (step.ecdhPoints.length > MAX_ECDH_POINTS) {
      return err(refusal("BAD_REQUEST", `at most ${MAX_ECDH_POINTS} points`));
    }
    const shared = () => this.#ecdhAll(step.ecdhPoints);
    if (step.outpoints.length === 0 && !step.revoke) return ok(() => ({ sharedSecrets: shared() }));
    const basis = this.#basis(ref.channelKeyId, step.terms);
    if (!basis.ok) return basis;
    if (step.outpoints.length > MAX_OUTPOINTS) {
      return err(refusal("BAD_REQUEST", `at most ${MAX_OUTPOINTS} outpoints`));
    }
    const built: BuiltOutpoint[] = [];
    for (const wire of step.outpoints) {
      const one = buildOutpoint(basis.value, wire);
      if (!one.ok) return one;
      built.push(one.value);
    }
    const decision = commitmentStep(this.file.memory, ref, {
      terms: basis.value.digest,
      outpoints: built.map(({ facts }) => facts),
      revoke: step.revoke,
    });
    if (!decision.ok) return decision;
    const { records, revoked } = decision.value;
    this.file.append(records);
    if (step.terms !== undefined) keep(this.#bases, bytesToHex(ref.channelKeyId), basis.value);
    const { keys } = basis.value;
    return ok(() => ({
      outpoints: built.map(({ remote, point }) =>
        remote === null ? {} : signRemote(basis.value, remote, point)
      ),
      ...(revoked === null ? {} : {
        perCommitmentSecret: keys.perCommitmentSecret(revoked),
        nextPerCommitmentPoint: keys.perCommitmentPoint(revoked + 2n),
      }),
      sharedSecrets: shared(),
    }));
  }

  #ecdhAll(points: readonly Uint8Array[]): Uint8Array[] {
    return points.map((point) => this.keys.ecdh(point) ?? NO_BYTES);
  }

  /** Signs a cooperative close. */
  async signClosing(request: SignClosingRequest) {
    this.#requireBound();
    const ref = this.#toRef(request.channel);
    const { channelKeyId } = ref;
    const { named } = unwrap(serveChannel(this.file.memory, ref), channelKeyId);
    const basis = unwrap(this.#basis(channelKeyId, requireTerms(request.terms)), channelKeyId);
    const local = requireField(request.local, "local");
    const outpoint = toOutPoint(request.outpoint, "outpoint");
    const built = unwrap(buildLocal(basis, outpoint, request.capacitySat, local), channelKeyId);
    const { key } = request;
    if (key !== undefined && key.index > MAX_WALLET_INDEX) throw invalidArgument("BAD_REQUEST", "key: index");
    const wallet = key === undefined ? null : this.keys.wallet(toPath(key)).script;
    const sighash = unwrap(
      checkClose(basis, {
        tx: request.tx,
        outpoint,
        capacity: built.spec.funding.amount,
        local,
        localOutput: request.localOutput ?? null,
        maxFee: request.maxFeeSat,
        isOurs: (script) => (wallet !== null && sameBytes(wallet, script)) || isNamedScript(named, script),
      }),
      channelKeyId,
    );
    const { remoteSignature } = request;
    if (
      remoteSignature.length > 0 &&
      !ecc().verifyEcdsa(sighash, remoteSignature, basis.terms.remoteFundingPubkey)
    ) {
      throw toError(
        refusal("BAD_SIGNATURE", "the peer's signature is not good for this close"),
        channelKeyId,
      );
    }
    await this.#remember(signClosing(this.file.memory, ref, basis.digest, built), channelKeyId);
    return { signature: ecc().signEcdsa(sighash, basis.keys.fundingSecret) };
  }

  /** Signs our own newest commitment for broadcast, and freezes the channel. */
  async signOwnCommitment(request: SignOwnCommitmentRequest) {
    this.#requireBound();
    const ref = this.#toRef(request.channel);
    const { channelKeyId } = ref;
    unwrap(findChannel(this.file.memory, channelKeyId), channelKeyId);
    const basis = unwrap(this.#basis(channelKeyId, requireTerms(request.terms)), channelKeyId);
    const local = requireField(request.local, "local");
    const outpoint = toOutPoint(request.outpoint, "outpoint");
    const built = unwrap(buildLocal(basis, outpoint, request.capacitySat, local), channelKeyId);
    const { remoteSignature } = request;
    const { sighash } = built.lean;
    const signatureGood = ecc().verifyEcdsa(sighash, remoteSignature, basis.terms.remoteFundingPubkey);
    await this.#remember(
      signOwnCommitment(this.file.memory, ref, basis.digest, { ...built, signatureGood }),
      channelKeyId,
    );
    const commitment = buildCommitment(toCommitmentSpec(built.spec));
    if (!commitment.ok) throw new Error(`no commitment: ${commitment.error.type}`);
    const owner = ecc().signEcdsa(commitmentSighash(commitment.value), basis.keys.fundingSecret);
    const tx = commitment.value.tx.clone();
    tx.setWitness(0, [...commitmentWitness(commitment.value, { owner, other: remoteSignature })]);
    return { tx: new Uint8Array(tx.toBuffer()) };
  }

  /** Signs BOLT 11 invoices with the node key. */
  signInvoices(request: SignInvoicesRequest) {
    if (request.invoices.length > MAX_INVOICES) {
      throw invalidArgument("BAD_REQUEST", `at most ${MAX_INVOICES} invoices`);
    }
    if (!request.invoices.every(({ hrp, data }) => isUnsignedInvoice(hrp, data))) {
      throw invalidArgument("BAD_REQUEST", "invoices: one is no invoice");
    }
    const signatures = request.invoices.map(({ hrp, data }) => {
      const { signature, recoveryId } = this.keys.signWithNodeKey(invoiceSighash(hrp, data));
      return Uint8Array.of(...signature, recoveryId);
    });
    return { signatures };
  }

  /** ECDH with the node key for many points. */
  ecdhMany(request: EcdhManyRequest) {
    if (request.points.length > MAX_ECDH_POINTS) {
      throw invalidArgument("BAD_REQUEST", `at most ${MAX_ECDH_POINTS} points`);
    }
    return { secrets: this.#ecdhAll(request.points) };
  }
}

function requireTerms(terms: ChannelTerms | undefined): ChannelTerms {
  return requireField(terms, "terms");
}

function requirePaymentKey(channelKeyId: Uint8Array, index: number): void {
  if (index !== paymentKeyIndex(channelKeyId)) {
    throw invalidArgument("BAD_REQUEST", "payment_key_index is not the one of this channel_key_id");
  }
}

function publicKeys(keys: ChannelKeyTree): MessageInitShape<typeof ChannelKeysSchema> {
  return {
    ...keys.publicKeys,
    firstPerCommitmentPoint: keys.perCommitmentPoint(0n),
    secondPerCommitmentPoint: keys.perCommitmentPoint(1n),
  };
}

function describeChannel(channel: ChannelMemory): MessageInitShape<typeof ChannelMemorySchema> {
  const locked = channel.locked === null ? undefined : channel.outpoints.get(channel.locked)?.outpoint;
  return {
    channelKeyId: channel.channelKeyId,
    epoch: channel.epoch,
    frozen: channel.frozen,
    ...(locked === undefined ? {} : { locked }),
    outpoints: [...channel.outpoints.values()].map(({ outpoint, local, remote, signedInputs }) => ({
      outpoint,
      ...(local === null ? {} : { localNumber: local.number }),
      ...(remote === null ? {} : { remoteNumber: remote.number }),
      inputsSigned: signedInputs !== null,
    })),
  };
}

/** A step that was decided. */
export interface BegunStep {
  /** Why it was refused; null: it was not. */
  readonly refusal: string | null;
  /** Signs, releases, and gives the answer. */
  readonly finish: () => MessageInitShape<typeof CommitmentStepResultSchema>;
}

type StepAnswer = Omit<MessageInitShape<typeof CommitmentStepResultSchema>, "$typeName" | "stepId">;

interface BuiltOutpoint {
  readonly facts: OutpointFacts;
  /** The peer's commitment, to be signed. */
  readonly remote: BuiltCommitment | null;
  readonly point: Uint8Array;
}

function buildOutpoint(basis: ChannelBasis, wire: OutpointStep): Result<BuiltOutpoint, Refusal> {
  const outpoint = toOutPoint(wire.outpoint, "outpoint");
  const { capacitySat: capacity, verify, sign, remotePerCommitmentPoint: point } = wire;
  let local: OutpointFacts["verify"] = null;
  if (verify !== undefined) {
    const built = buildLocal(basis, outpoint, capacity, verify);
    if (!built.ok) return built;
    const { number, content } = built.value;
    const { remoteSignature, remoteHtlcSignatures } = wire;
    const signaturesGood = verifySignatures(basis, built.value, remoteSignature, remoteHtlcSignatures);
    local = { number, content, signaturesGood };
  }
  let remote: BuiltCommitment | null = null;
  if (sign !== undefined) {
    requireBytes(point, POINT_LENGTH, "remote_per_commitment_point");
    const built = buildRemote(basis, outpoint, capacity, sign, point);
    if (!built.ok) return built;
    remote = built.value;
  }
  const mirrored = verify === undefined || sign === undefined || isMirrored(verify, sign);
  return ok({ facts: { outpoint, verify: local, sign: remote, mirrored }, remote, point });
}
