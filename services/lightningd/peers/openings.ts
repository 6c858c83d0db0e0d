/** Opens and replacements (RBF) of our own: an opening row, a plan of our coins, dualopend, and the call that waits. */
import { bytesToHex } from "@noble/hashes/utils.js";
import { leastOwnRbfFeerate } from "bolt/interactive/rbf.ts";
import { temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";
import { sameBytes } from "bolt/tx/transaction.ts";
import { type FeeratePerKw, type Sat, sat } from "bolt/units.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import { Features, hasFeature, isNegotiated } from "bolt/wire/features.ts";
import { type Channel, client, dial, type ServiceClient } from "common/grpc/client.ts";
import {
  ArcusError,
  Code,
  failedPrecondition,
  invalidArgument,
  notFound,
  toArcusError,
  unavailable,
} from "common/grpc/errors.ts";
import { patiently } from "common/grpc/patience.ts";
import type { TlsFiles } from "common/grpc/tls.ts";
import type { Logger } from "common/log.ts";
import {
  Dualopend,
  type NegotiationResponse,
  type SignResponse,
} from "gen/arcus/dualopend/v1/dualopend_pb.ts";
import type { Plan } from "gen/arcus/lightningd/v1/lightningd_pb.ts";
import type { HsmdClient } from "../node.ts";
import type { Chain, FirstOpenRequest, OpenRequest, Wallet } from "../ports.ts";
import type { Assigner } from "./assign.ts";
import { attemptInfo, fundingOf } from "./channels.ts";
import type { Flow } from "./flow.ts";
import type { Live, LivePeer, Owner } from "./live.ts";
import { ownPart, type Shown } from "./own_part.ts";
import type { ChannelRow, OpeningRow, PeerStore } from "./store.ts";

/** CLN's codes of fundchannel, openchannel_* and what belongs to them. */
export const FundCode = {
  maxExceeded: 300,
  cannotAfford: 301,
  stillSyncing: 304,
  peerNotConnected: 305,
  unknownPeer: 306,
  notSupported: 310,
  unknownChannel: 311,
  stateInvalid: 312,
} as const;
const INVALID_PARAMS = -32602;

/** How long connectd may take to attach dualopend. */
const ATTACH_MS = 20_000;
/** How long a negotiation that a caller waits for may take in all; without progress it ends much earlier. */
const NEGOTIATION_MS = 15 * 60_000;
/** Channels below this need no option_support_large_channel (BOLT 2). */
const LARGE_CHANNEL_SAT = 1n << 24n;
/** Opens of our own are bounded by our coins, not by the limit for peers. */
const NO_LIMIT = 1_000_000;
/** Opens of ours that openchannel_update finds again; the oldest are forgotten. */
const MAX_REMEMBERED = 1_000;
/** How often stalled negotiations are looked for. */
export const STALL_POLL_MS = 2_000;

/** Settings of {@link Opens}. */
export interface OpensOptions {
  readonly live: Live;
  readonly store: PeerStore;
  readonly flow: Flow;
  readonly assigner: Assigner;
  readonly hsmd: HsmdClient;
  readonly chain: Chain;
  readonly wallet: Wallet;
  readonly log: Logger;
  /** Our init features. */
  readonly features: Features;
  /** Largest channel that we open; undefined: no limit of ours. */
  readonly maxCapacity: Sat | undefined;
  /** A negotiation without progress for so long is aborted. */
  readonly openTimeoutMs: number;
  readonly tls: TlsFiles | undefined;
}

/** What an open of ours is remembered by, for openchannel_update; lost with this process. */
interface Remembered {
  readonly opening: bigint;
  readonly peerId: Uint8Array;
  readonly channelId: Uint8Array;
  readonly epoch: bigint;
  readonly instance: string;
  readonly amount: Sat;
  readonly feerate: FeeratePerKw;
  readonly plan: Plan;
  /** The transaction as the user saw it last. */
  readonly shown: Shown;
}

/** Where a negotiation of a channel id is. */
interface Found {
  readonly channel: ChannelRow | undefined;
  readonly opening: bigint;
  readonly epoch: bigint;
  readonly instance: string;
}

/** Opens of our own. */
export class Opens {
  readonly #clients = new Map<
    string,
    { readonly channel: Channel; readonly dualopend: ServiceClient<typeof Dualopend> }
  >();
  readonly #remembered = new Map<string, Remembered>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stopped = false;

  constructor(private readonly options: OpensOptions) {}

  /** Looks for negotiations that stand still. */
  start(onError: (error: unknown) => void): void {
    const look = async () => {
      try {
        await this.#abortStalled();
      } catch (error) {
        if (!this.#stopped) onError(error);
      }
      if (!this.#stopped) this.#timer = setTimeout(look, STALL_POLL_MS);
    };
    this.#timer = setTimeout(look, STALL_POLL_MS);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    for (const { channel } of this.#clients.values()) channel.close();
    this.#clients.clear();
  }

  /** The final id of an open of ours that is not saved. */
  channelIdOf(opening: bigint): Uint8Array | undefined {
    for (const remembered of this.#remembered.values()) {
      if (remembered.opening === opening) return remembered.channelId;
    }
    return undefined;
  }

  /** See `Peers.openChannel`. */
  async open(request: FirstOpenRequest): Promise<NegotiationResponse> {
    const { chain, hsmd, store, flow, assigner, features } = this.options;
    if (request.announce) {
      throw invalidArgument("ANNOUNCE", "announced channels are not there yet: announce must be false", {
        clnCode: INVALID_PARAMS,
      });
    }
    const peer = await this.#connected(request.peerId);
    this.#requireSynced();
    const theirs = Features.parse(peer.features);
    if (!theirs.ok || !isNegotiated(features, theirs.value, "option_dual_fund")) {
      throw failedPrecondition("NO_DUAL_FUND", "the peer does not offer option_dual_fund", {
        clnCode: FundCode.notSupported,
      });
    }
    this.#requireSize(request.funds.amount, hasFeature(theirs.value, "option_support_large_channel"));
    const rates = await chain.feerates();
    const feerate = request.feerate ?? rates.opening;
    // A restarted hsmd serves channels once it is bound to our database again, which takes a moment.
    const keys = await patiently(
      () => hsmd.newChannel({ peerId: peer.peerId }),
      new AbortController().signal,
    );
    if (keys.keys === undefined) throw unavailable("HSMD", "hsmd gave no keys");
    const temporaryChannelId = temporaryChannelIdV2(keys.keys.revocationBasepoint);
    const row = await store.insertOpening({
      peerId: peer.peerId,
      generation: peer.generation,
      initiator: "local",
      temporaryChannelId,
      channelKeyId: keys.channelKeyId,
      paymentKeyIndex: keys.paymentKeyIndex,
      maxOfPeer: NO_LIMIT,
      maxInAll: NO_LIMIT,
    });
    if (row === undefined) throw notConnected();
    return await this.#guarded(row, async () => {
      const plan = await this.#plan(row, request, feerate);
      await this.#nameDestinations(keys.channelKeyId, plan);
      const [result] = await flow.withPeer(
        peer.peerId,
        () => assigner.assign(peer, [{ type: "opening", row }]),
      );
      if (result?.type !== "assigned") {
        throw unavailable("NO_OPENING_DAEMON", result?.detail ?? "not assigned", { clnCode: -1 });
      }
      const { owner } = result;
      await this.#attached(owner);
      const response = await this.#dualopend(owner.instance).openInit({
        opening: row.opening,
        epoch: owner.epoch,
        plan,
        fundingFeeratePerkw: feerate,
        commitmentFeeratePerkw: request.commitmentFeerate ?? rates.commitment,
        locktime: chain.height(),
        channelType: request.channelType ?? encodeChannelType(ANCHORS_STATIC_REMOTEKEY),
        upfrontShutdownScript: request.closeTo ?? new Uint8Array(),
        requireConfirmedInputs: request.requireConfirmedInputs ?? false,
        runToCompletion: request.runToCompletion,
      }, { deadlineMs: NEGOTIATION_MS });
      this.#remember(response, peer, owner, plan, request, feerate);
      return response;
    });
  }

  /** See `Peers.bumpChannel`. */
  async bump(channelId: Uint8Array, request: OpenRequest): Promise<NegotiationResponse> {
    const { chain, store, live } = this.options;
    const channel = await this.#channel(channelId);
    if (channel === undefined) throw unknownChannel();
    if (channel.error_text !== null) throw stateInvalid(`the channel failed: ${channel.error_text}`);
    if (channel.state !== "DUALOPEND_AWAITING_LOCKIN") {
      throw stateInvalid(`channel in state ${channel.state}`);
    }
    const peer = await this.#connected(channel.peer_id);
    this.#requireSynced();
    const owner = live.owner("channel", channel.channel);
    if (owner === undefined || owner.generation !== peer.generation || owner.leaving) {
      throw stateInvalid("the channel has no owner yet: try again");
    }
    const attempts = (await store.attempts([channel.channel])).map(attemptInfo);
    const last = fundingOf(attempts.map((attempt) => ({ ...attempt, confirmed: undefined })));
    if (last === undefined) throw stateInvalid("the channel has no funding attempt");
    const feerate = request.feerate ?? leastOwnRbfFeerate(last.feerate);
    if (feerate < leastOwnRbfFeerate(last.feerate)) {
      throw invalidArgument(
        "FEERATE_TOO_LOW",
        `feerate must be at least ${leastOwnRbfFeerate(last.feerate)} sat/kw`,
        { clnCode: INVALID_PARAMS },
      );
    }
    await this.#attached(owner);
    const row = await store.insertRbf({
      channel: channel.channel,
      epoch: owner.epoch,
      generation: peer.generation,
      initiator: "local",
    });
    if (row === undefined) {
      throw stateInvalid(
        await store.rbfOpen(channel.channel)
          ? "a replacement is under negotiation"
          : "the channel cannot be replaced any more",
      );
    }
    return await this.#guarded(row, async () => {
      const plan = await this.#plan(row, request, feerate);
      await this.#nameDestinations(Uint8Array.from(channel.channel_key_id), plan);
      const response = await this.#dualopend(owner.instance).bump({
        channel: channel.channel,
        opening: row.opening,
        epoch: owner.epoch,
        plan,
        feeratePerkw: feerate,
        locktime: chain.height(),
        requireConfirmedInputs: request.requireConfirmedInputs ?? false,
        runToCompletion: request.runToCompletion,
      }, { deadlineMs: NEGOTIATION_MS });
      this.#remember(response, peer, owner, plan, request, feerate);
      return response;
    });
  }

  /** See `Peers.updateOpen`. */
  async update(channelId: Uint8Array, psbt: string): Promise<NegotiationResponse> {
    const { wallet } = this.options;
    const found = await this.#find(channelId);
    const remembered = this.#remembered.get(bytesToHex(channelId));
    if (remembered === undefined) throw stateInvalid("no open of ours is under negotiation for this channel");
    const own = psbt === "" ? "" : ownPart(psbt, remembered.shown, remembered.plan);
    const plan = own === "" ? remembered.plan : await wallet.planFromPsbt({
      opening: remembered.opening,
      psbt: own,
      amount: remembered.amount,
      feerate: remembered.feerate,
    });
    const response = await this.#dualopend(found.instance).update({
      channelId,
      opening: remembered.opening,
      epoch: found.epoch,
      plan,
    }, { deadlineMs: NEGOTIATION_MS }).catch((error) => this.#rethrow(error));
    this.#remembered.set(bytesToHex(channelId), { ...remembered, plan, shown: response });
    return response;
  }

  /** See `Peers.signOpen`. */
  async sign(channelId: Uint8Array, witnesses: ReadonlyMap<number, Uint8Array>): Promise<SignResponse> {
    const found = await this.#find(channelId);
    if (found.channel === undefined) throw stateInvalid("the peer's commitment is not here yet");
    return await this.#dualopend(found.instance).sign({
      channelId,
      channel: found.channel.channel,
      epoch: found.epoch,
      witnesses: Object.fromEntries(witnesses),
    }, { deadlineMs: NEGOTIATION_MS }).catch((error) => this.#rethrow(error));
  }

  /** See `Peers.abortOpen`. */
  async abort(channelId: Uint8Array): Promise<{ channelCanceled: boolean; reason: string }> {
    const found = await this.#find(channelId);
    const { channelCanceled, reason } = await this.#dualopend(found.instance).abort({
      channelId,
      opening: found.opening,
      channel: found.channel?.channel ?? 0n,
      epoch: found.epoch,
      reason: "aborted by openchannel_abort",
    }).catch((error) => this.#rethrow(error));
    return { channelCanceled, reason };
  }

  /** Runs the rest of an open; whatever goes wrong, its row and what it reserved are gone afterwards. */
  async #guarded<T>(row: OpeningRow, work: () => Promise<T>): Promise<T> {
    const { store, flow, log } = this.options;
    try {
      return await work();
    } catch (error) {
      const present = (await store.openings(row.peer_id)).find(({ opening }) => opening === row.opening);
      if (present !== undefined) {
        log.info({ opening: row.opening, err: error }, "an open of ours ends");
        await flow.withPeer(row.peer_id, () => flow.abortOpening(present, "the open was given up"));
      }
      return this.#rethrow(error);
    }
  }

  #rethrow(error: unknown): never {
    const failure = toArcusError(error);
    if (failure.code === Code.UNAVAILABLE && failure.clnCode === undefined) {
      throw unavailable(
        "OPEN_INTERRUPTED",
        "the peer or the opening daemon went away; an open that both committed to goes on by itself: see listpeerchannels",
        { clnCode: -1, cause: error },
      );
    }
    throw error;
  }

  #plan(row: OpeningRow, request: OpenRequest, feerate: FeeratePerKw): Promise<Plan> {
    const { wallet } = this.options;
    const { funds } = request;
    const { opening, channel } = row;
    if (funds.type === "psbt") {
      return wallet.planFromPsbt({ opening, psbt: funds.psbt, amount: funds.amount, feerate });
    }
    return wallet.planOwnFunding({
      opening,
      ...(channel === null ? {} : { channel }),
      amount: funds.amount,
      feerate,
      ...(funds.utxos === undefined ? {} : { utxos: funds.utxos }),
      ...(funds.minconf === undefined ? {} : { minconf: funds.minconf }),
    });
  }

  /** Outputs of the user's PSBT that are nobody's key of ours: only named ones pass hsmd. */
  async #nameDestinations(channelKeyId: Uint8Array, plan: Plan): Promise<void> {
    const outputs = plan.outputs
      .filter((output) => output.keyIndex === undefined)
      .map(({ amountSat, script }) => ({ amountSat, script }));
    if (outputs.length > 0) await this.options.hsmd.nameDestinations({ channelKeyId, outputs });
  }

  async #attached(owner: Owner): Promise<void> {
    const { flow, live } = this.options;
    const there = live.owner(owner.type, owner.id) === owner && await flow.attached(owner, ATTACH_MS);
    if (!there) {
      throw unavailable("NOT_ATTACHED", "the opening daemon could not be connected to the peer", {
        clnCode: -1,
      });
    }
  }

  #remember(
    response: NegotiationResponse,
    peer: LivePeer,
    owner: Owner,
    plan: Plan,
    request: OpenRequest,
    feerate: FeeratePerKw,
  ): void {
    const ours = sat(plan.contributionSat);
    for (const [key] of this.#remembered) {
      if (this.#remembered.size < MAX_REMEMBERED) break;
      this.#remembered.delete(key);
    }
    this.#remembered.set(bytesToHex(response.channelId), {
      opening: response.opening,
      peerId: peer.peerId,
      channelId: response.channelId,
      epoch: owner.epoch,
      instance: owner.instance,
      amount: request.funds.amount === "all" ? ours : request.funds.amount,
      feerate,
      plan,
      shown: response,
    });
  }

  async #connected(peerId: Uint8Array): Promise<LivePeer> {
    const { live, store } = this.options;
    const peer = live.peer(peerId);
    if (peer !== undefined && peer.closing === false) return peer;
    const channels = await store.channels({ peerId });
    if (peer !== undefined || channels.length > 0) throw notConnected();
    throw notFound("UNKNOWN_PEER", "unknown peer: connect first", { clnCode: FundCode.unknownPeer });
  }

  #requireSynced(): void {
    const warning = this.options.chain.warning();
    if (warning !== undefined) {
      throw unavailable("STILL_SYNCING", warning, { clnCode: FundCode.stillSyncing });
    }
  }

  #requireSize(amount: Sat | "all", peerTakesLarge: boolean): void {
    const { maxCapacity, features } = this.options;
    if (amount === "all") return;
    const large = peerTakesLarge && hasFeature(features, "option_support_large_channel");
    const tooLarge = (!large && amount >= LARGE_CHANNEL_SAT) ||
      (maxCapacity !== undefined && amount > maxCapacity);
    if (tooLarge) {
      throw new ArcusError({
        code: Code.OUT_OF_RANGE,
        reason: "TOO_LARGE",
        message: "the amount exceeds the largest channel",
        clnCode: FundCode.maxExceeded,
      });
    }
  }

  async #channel(channelId: Uint8Array): Promise<ChannelRow | undefined> {
    return await this.options.store.channelById(channelId);
  }

  /** Where a negotiation, or a saved channel, is. Throws 311, 312. */
  async #find(channelId: Uint8Array): Promise<Found> {
    const { live, store } = this.options;
    const channel = await this.#channel(channelId);
    if (channel !== undefined) {
      const owner = live.owner("channel", channel.channel) ??
        [...live.owners.values()].find((candidate) =>
          candidate.type === "opening" && candidate.epoch === channel.owner_epoch &&
          sameBytes(candidate.channelId, channel.temporary_channel_id)
        );
      if (owner === undefined || owner.kind !== "dualopend") {
        throw stateInvalid(`channel in state ${channel.state}, without an opening daemon`);
      }
      const openings = await store.openings(channel.peer_id);
      const opening = openings.find((row) => row.channel === channel.channel)?.opening ?? 0n;
      return { channel, opening, epoch: owner.epoch, instance: owner.instance };
    }
    const remembered = this.#remembered.get(bytesToHex(channelId));
    const owner = remembered === undefined ? undefined : live.owner("opening", remembered.opening);
    if (remembered === undefined || owner === undefined) throw unknownChannel();
    return { channel: undefined, opening: remembered.opening, epoch: owner.epoch, instance: owner.instance };
  }

  #dualopend(instance: string): ServiceClient<typeof Dualopend> {
    const address = this.options.live.subds.get(instance)?.address;
    if (address === undefined) {
      throw unavailable("NO_OPENING_DAEMON", "the opening daemon is away", { clnCode: -1 });
    }
    const known = this.#clients.get(address);
    if (known !== undefined) return known.dualopend;
    const { tls } = this.options;
    const channel = dial(address, tls === undefined ? {} : { tls });
    const dualopend = client(Dualopend, channel);
    this.#clients.set(address, { channel, dualopend });
    return dualopend;
  }

  /** A negotiation without progress holds coins and a place: aborted by its owner, or by us where that is away. */
  async #abortStalled(): Promise<void> {
    const { store, live, flow, openTimeoutMs, log } = this.options;
    for (const row of await store.stalled(openTimeoutMs)) {
      log.warn(
        { opening: row.opening, peer: bytesToHex(row.peer_id) },
        "a negotiation stands still, and is aborted",
      );
      const owner = row.channel === null
        ? live.owner("opening", row.opening)
        : live.owner("channel", row.channel);
      try {
        if (owner === undefined) throw unavailable("NO_OWNER", "no owner");
        await this.#dualopend(owner.instance).abort({
          channelId: owner.channelId,
          opening: row.opening,
          channel: row.channel ?? 0n,
          epoch: owner.epoch,
          reason: "no progress in time",
        });
      } catch (error) {
        log.info({ err: error, opening: row.opening }, "its owner did not abort it");
      }
      const left = (await store.stalled(openTimeoutMs)).find(({ opening }) => opening === row.opening);
      if (left !== undefined) {
        await flow.withPeer(row.peer_id, () => flow.abortOpening(left, "no progress in time"));
      }
    }
  }
}

function notConnected(): ArcusError {
  return unavailable("NOT_CONNECTED", "peer not connected", {
    clnCode: FundCode.peerNotConnected,
    retryable: false,
  });
}

function unknownChannel(): ArcusError {
  return notFound("UNKNOWN_CHANNEL", "unknown channel", { clnCode: FundCode.unknownChannel });
}

function stateInvalid(message: string): ArcusError {
  return failedPrecondition("STATE_INVALID", message, { clnCode: FundCode.stateInvalid });
}
