/**
 * hsmd's rules (docs/safety.md): pure decisions on what it remembers. Each answers a refusal, or the records that
 * must be durable before anything is signed or answered. No rule trusts its caller's state: a database that was restored,
 * forked or edited must not make hsmd sign twice.
 */
import { bytesToHex } from "@noble/hashes/utils.js";
import { err, ok, type Result } from "bolt/result.ts";
import { type OutPoint, sameBytes } from "bolt/tx/transaction.ts";
import {
  type ChannelMemory,
  type DistrustReason,
  type Memory,
  type MemoryRecord,
  type NamedOutput,
  outpointKey,
} from "./memory_state.ts";
import { type Refusal, refusal } from "./refusal.ts";

/** Outputs to others that may be named for one channel. */
export const MAX_NAMED_OUTPUTS = 100;
/** Records that no memory ever has: a mark above it would leave no numbers for those to come. */
export const MAX_HIGH_WATER = 1n << 62n;
/** What AcceptMemory must be told. */
export const ACCEPT_CONFIRMATION = "I know that a stale memory can lose money";

/** Names a channel and the epoch of whoever asks. */
export interface ChannelRef {
  readonly channelKeyId: Uint8Array;
  readonly epoch: bigint;
}

/** Records to append; empty when the fact is known already. */
export type Decision = Result<readonly MemoryRecord[], Refusal>;

const NOTHING: readonly MemoryRecord[] = [];

function refuse(reason: Refusal["reason"], message: string): { readonly ok: false; readonly error: Refusal } {
  return err(refusal(reason, message));
}

function distrusted(reason: DistrustReason): { readonly ok: false; readonly error: Refusal } {
  return reason === "MEMORY_LOST"
    ? refuse(reason, "hsmd's memory was lost: existing channels are not signed for until AcceptMemory")
    : refuse(
      reason,
      "hsmd's memory was rolled back: existing channels are not signed for until AcceptMemory",
    );
}

/** Whether any byte of a txid is set: an all-zero funding txid once took other nodes' signers down. */
export function isZeroOutpoint(outpoint: OutPoint): boolean {
  return outpoint.txid.every((byte) => byte === 0);
}

/** The channel, if it is known and trusted. */
export function findChannel(memory: Memory, channelKeyId: Uint8Array): Result<ChannelMemory, Refusal> {
  const channel = memory.channels.get(bytesToHex(channelKeyId));
  const { distrust } = memory;
  if (distrust !== null && (channel === undefined || channel.since <= distrust.since)) {
    return distrusted(distrust.reason);
  }
  if (channel === undefined) {
    return refuse("UNKNOWN_CHANNEL", "no channel with this channel_key_id was drawn or registered here");
  }
  return ok(channel);
}

/** The channel, if this caller may have anything signed for it: registered epoch, not frozen. */
export function serveChannel(memory: Memory, ref: ChannelRef): Result<ChannelMemory, Refusal> {
  const found = findChannel(memory, ref.channelKeyId);
  if (!found.ok) return found;
  const { epoch, frozen } = found.value;
  if (ref.epoch !== epoch || epoch === 0n) {
    return refuse("EPOCH_STALE", `epoch ${ref.epoch} is not the registered one (${epoch})`);
  }
  if (frozen) return refuse("FROZEN", "our own commitment was signed for broadcast: nothing follows");
  return found;
}

/** BindDatabase: what the database knows of its hsmd, against what this memory is. */
export function bindDatabase(
  memory: Memory,
  memoryId: Uint8Array,
  request: {
    readonly databaseId: Uint8Array;
    /** Empty at the first start. */
    readonly expectedMemoryId: Uint8Array;
    readonly expectedHighWater: bigint;
  },
): Decision {
  const { databaseId, expectedMemoryId, expectedHighWater } = request;
  if (expectedHighWater > MAX_HIGH_WATER) return refuse("BAD_REQUEST", "no memory has that many records");
  if (memory.databaseId !== null && !sameBytes(memory.databaseId, databaseId)) {
    return refuse(
      "FOREIGN_DATABASE",
      "this memory belongs to another database: it was copied, or the database is new",
    );
  }
  const records: MemoryRecord[] = [];
  if (memory.databaseId === null) records.push({ type: "database_bound", databaseId });
  const expectsAnother = expectedMemoryId.length > 0 && !sameBytes(expectedMemoryId, memoryId);
  const unforgiven = expectsAnother && !memory.predecessors.has(bytesToHex(expectedMemoryId));
  // At the first start nothing is expected, whatever the number says.
  const behind = expectedMemoryId.length > 0 && memory.highWater < expectedHighWater;
  if (unforgiven || behind) {
    records.push({
      type: "memory_distrusted",
      reason: unforgiven ? "MEMORY_LOST" : memory.distrust?.reason ?? "MEMORY_ROLLED_BACK",
      expectedMemoryId: expectsAnother ? expectedMemoryId : new Uint8Array(0),
      highWater: expectedHighWater,
    });
  }
  return ok(records);
}

/** AcceptMemory. */
export function acceptMemory(memory: Memory, confirmation: string): Decision {
  if (confirmation !== ACCEPT_CONFIRMATION) {
    return refuse("BAD_REQUEST", `confirmation must be "${ACCEPT_CONFIRMATION}"`);
  }
  return ok(memory.distrust === null ? NOTHING : [{ type: "memory_accepted" }]);
}

/** NewChannel: `channelKeyId` is freshly drawn. Served also without trust: nothing was ever signed for it. */
export function drawChannel(memory: Memory, channelKeyId: Uint8Array, peerId: Uint8Array): Decision {
  // 32 random bytes twice: the source of randomness is broken, and its keys would be shared.
  if (memory.channels.has(bytesToHex(channelKeyId))) {
    return refuse("CONTENT_CONFLICT", "this channel_key_id was drawn before");
  }
  return ok([{ type: "channel_drawn", channelKeyId, peerId }]);
}

/** RegisterEpochs, for one channel. The epoch only rises. */
export function registerEpoch(memory: Memory, ref: ChannelRef): Decision {
  const { channelKeyId, epoch } = ref;
  if (epoch === 0n) return refuse("BAD_REQUEST", "epoch 0 is none");
  const found = findChannel(memory, channelKeyId);
  if (!found.ok) {
    if (found.error.reason !== "UNKNOWN_CHANNEL" || !memory.accepted) return found;
    return ok([{ type: "channel_adopted", channelKeyId }, { type: "epoch_registered", channelKeyId, epoch }]);
  }
  if (epoch < found.value.epoch) {
    return refuse("EPOCH_STALE", `epoch ${epoch} is lower than the registered one (${found.value.epoch})`);
  }
  return ok(epoch === found.value.epoch ? NOTHING : [{ type: "epoch_registered", channelKeyId, epoch }]);
}

/** NameDestinations. */
export function nameDestinations(
  memory: Memory,
  channelKeyId: Uint8Array,
  outputs: readonly NamedOutput[],
): Decision {
  const found = findChannel(memory, channelKeyId);
  if (!found.ok) return found;
  const { named } = found.value;
  const fresh = outputs.filter((output) => !isNamed(named, output));
  if (named.length + fresh.length > MAX_NAMED_OUTPUTS) {
    return refuse("BAD_REQUEST", `more than ${MAX_NAMED_OUTPUTS} named outputs`);
  }
  return ok(fresh.length === 0 ? NOTHING : [{ type: "destinations_named", channelKeyId, outputs: fresh }]);
}

/** Whether lightningd named an output. */
export function isNamed(named: readonly NamedOutput[], output: NamedOutput): boolean {
  return named.some(({ amount, script }) => amount === output.amount && sameBytes(script, output.script));
}

/** One commitment of one side: what is signed, or whose signature was verified. */
export interface CommitmentContent {
  readonly outpoint: OutPoint;
  readonly number: bigint;
  /** Names it: number 0 by its sighash, later ones by `nameContent`. */
  readonly content: Uint8Array;
}

/** Terms are fixed at their first use: a database edited later cannot give a channel other keys or delays. */
function fixTerms(channel: ChannelMemory, digest: Uint8Array): Decision {
  if (channel.terms === null) {
    return ok([{ type: "terms_fixed", channelKeyId: channel.channelKeyId, digest }]);
  }
  if (!sameBytes(channel.terms, digest)) {
    return refuse("CONTENT_CONFLICT", "other terms than those that this channel was first signed with");
  }
  return ok(NOTHING);
}

/** Whether an outpoint can be this channel's at all, at this number. */
function checkOutpoint(
  memory: Memory,
  channel: ChannelMemory,
  outpoint: OutPoint,
  number: bigint,
): Result<null, Refusal> {
  if (isZeroOutpoint(outpoint)) return refuse("ZERO_OUTPOINT", "the funding txid is all zeros");
  const key = outpointKey(outpoint);
  const owner = memory.fundings.get(key);
  if (owner !== undefined && owner !== bytesToHex(channel.channelKeyId)) {
    return refuse("CONTENT_CONFLICT", "this funding outpoint belongs to another channel");
  }
  if (channel.locked === null) {
    return number > 0n ? refuse("NOT_LOCKED", "no funding outpoint is locked yet") : ok(null);
  }
  // All attempts share point 0: once secret 0 may be out, a sibling's commitment 0 is revoked before it is signed.
  if (channel.locked !== key) return refuse("REVOKED", "another funding outpoint is locked");
  return ok(null);
}

/** One content for one (channel, funding outpoint, side, commitment number), and never an older number. */
function fixContent(
  known: { readonly number: bigint; readonly content: Uint8Array } | null,
  asked: Pick<CommitmentContent, "number" | "content">,
  onWord = false,
): Result<"new" | "known", Refusal> {
  if (onWord && (known === null || asked.number > known.number)) return ok("new");
  if (known === null) {
    return asked.number === 0n ? ok("new") : refuse("NOT_LOCKED", "the first commitment has number 0");
  }
  if (asked.number < known.number) {
    return refuse("REVOKED", `number ${asked.number} is older than ${known.number}`);
  }
  if (asked.number === known.number) {
    return sameBytes(known.content, asked.content)
      ? ok("known")
      : refuse("CONTENT_CONFLICT", `another content was signed for number ${asked.number}`);
  }
  return asked.number === known.number + 1n
    ? ok("new")
    : refuse("NOT_LOCKED", `number ${asked.number} skips some`);
}

/** SignRemoteCommitment0: what must be remembered before the signature leaves. */
export function signRemoteCommitment(
  memory: Memory,
  ref: ChannelRef,
  terms: Uint8Array,
  commitment: CommitmentContent,
): Decision {
  const served = serveChannel(memory, ref);
  if (!served.ok) return served;
  const channel = served.value;
  const fixed = fixTerms(channel, terms);
  if (!fixed.ok) return fixed;
  const { outpoint, number, content } = commitment;
  const possible = checkOutpoint(memory, channel, outpoint, number);
  if (!possible.ok) return possible;
  const known = fixContent(channel.outpoints.get(outpointKey(outpoint))?.remote ?? null, commitment);
  if (!known.ok) return known;
  if (known.value === "known") return ok(NOTHING);
  const { channelKeyId } = channel;
  return ok([...fixed.value, { type: "remote_commitment_signed", channelKeyId, outpoint, number, content }]);
}

/** A funding attempt, its commitments computed from terms and attempt, and the money counted by the caller. */
export interface AttemptFacts {
  readonly outpoint: OutPoint;
  /** Sighash of our commitment 0. */
  readonly localContent: Uint8Array;
  /** Sighash of the peer's commitment 0, from the same terms, amounts and outpoint. */
  readonly remoteContent: Uint8Array;
  /** Whether the peer's signature on `localContent` is good. */
  readonly signatureGood: boolean;
  /** Outputs that the caller says go to others. */
  readonly destinations: readonly NamedOutput[];
  /** All that the funding transaction spends. */
  readonly fundingInputs: readonly OutPoint[];
  /** Our inputs; signed when `signInputs`. */
  readonly inputs: readonly OutPoint[];
  readonly signInputs: boolean;
}

/** SignFundingAttempt: everything that concerns memory; amounts and scripts are checked by `checkFunds` before. */
export function signFundingAttempt(
  memory: Memory,
  ref: ChannelRef,
  terms: Uint8Array,
  attempt: AttemptFacts,
): Decision {
  const served = serveChannel(memory, ref);
  if (!served.ok) return served;
  const channel = served.value;
  const fixed = fixTerms(channel, terms);
  if (!fixed.ok) return fixed;
  const { outpoint } = attempt;
  const possible = checkOutpoint(memory, channel, outpoint, 0n);
  if (!possible.ok) return possible;
  const known = channel.outpoints.get(outpointKey(outpoint));
  const remote = known?.remote ?? null;
  if (remote === null) {
    return refuse("NOT_MIRRORED", "the peer's commitment 0 was not signed for this outpoint");
  }
  if (remote.number > 0n) return refuse("REVOKED", "this channel is beyond commitment 0");
  if (!sameBytes(remote.content, attempt.remoteContent)) {
    return refuse("NOT_MIRRORED", "the peer's commitment 0 was signed with another state");
  }
  if (!attempt.signatureGood) {
    return refuse(
      "BAD_SIGNATURE",
      "the peer's signature is not good for our commitment 0 of this funding output",
    );
  }
  if (!attempt.destinations.every((output) => isNamed(channel.named, output))) {
    return refuse("UNNAMED_OUTPUT", "an output to others was not named by NameDestinations");
  }
  const local = fixContent(known?.local ?? null, { number: 0n, content: attempt.localContent });
  if (!local.ok) return local;
  const spends = checkSpends(memory, channel, attempt);
  if (!spends.ok) return spends;
  const { channelKeyId } = channel;
  const records: MemoryRecord[] = [];
  if (local.value === "new") {
    records.push({
      type: "local_commitment_verified",
      channelKeyId,
      outpoint,
      number: 0n,
      content: attempt.localContent,
      fundingInputs: attempt.fundingInputs,
    });
  }
  if (attempt.signInputs && attempt.inputs.length > 0 && (known?.signedInputs ?? null) === null) {
    records.push({ type: "inputs_signed", channelKeyId, outpoint, inputs: attempt.inputs });
  }
  return ok(records);
}

/** What the funding transaction spends, against the channel's other attempts and other channels. */
function checkSpends(memory: Memory, channel: ChannelMemory, attempt: AttemptFacts): Result<null, Refusal> {
  const asked = attempt.inputs.map(outpointKey);
  const key = outpointKey(attempt.outpoint);
  const signed = channel.outpoints.get(key)?.signedInputs ?? null;
  // Signing the inputs in two calls, each weighed against the whole contribution, would pay it twice.
  if (
    signed !== null && attempt.signInputs &&
    (signed.length !== asked.length || asked.some((input) => !signed.includes(input)))
  ) return refuse("CONTENT_CONFLICT", "other inputs of ours were signed for this attempt");
  // Two attempts that can both confirm: the second one's commitment 0 is revoked with the first one's (BOLT 2, RBF).
  const spent = new Set(attempt.fundingInputs.map(outpointKey));
  for (const [other, { fundingInputs, local }] of channel.outpoints) {
    if (other === key || local === null) continue;
    if (![...fundingInputs].some((input) => spent.has(input))) {
      return refuse("CONTENT_CONFLICT", "the funding transaction does not double-spend an earlier attempt");
    }
  }
  for (const input of asked) {
    if (isBoundToLocked(memory, input, key)) {
      return refuse("INPUT_BOUND", "an input is bound to the locked funding attempt of another channel");
    }
  }
  return ok(null);
}

/** Whether a locked attempt other than `except` has our signature on an input. */
function isBoundToLocked(memory: Memory, input: string, except: string | null): boolean {
  return (memory.boundInputs.get(input) ?? []).some((funding) =>
    funding !== except && memory.channels.get(memory.fundings.get(funding) ?? "")?.locked === funding
  );
}

/** LockFunding: one-way, and only for an outpoint that passed SignFundingAttempt. */
export function lockFunding(memory: Memory, ref: ChannelRef, outpoint: OutPoint): Decision {
  const served = serveChannel(memory, ref);
  if (!served.ok) return served;
  const channel = served.value;
  if (isZeroOutpoint(outpoint)) return refuse("ZERO_OUTPOINT", "the funding txid is all zeros");
  const key = outpointKey(outpoint);
  if (channel.locked !== null) {
    return channel.locked === key
      ? ok(NOTHING)
      : refuse("CONTENT_CONFLICT", "another funding outpoint is locked, for good");
  }
  const known = channel.outpoints.get(key);
  const verified = known !== undefined && known.local !== null && known.remote !== null;
  if (!verified && !isOnWord(channel)) {
    return refuse(
      "BAD_SIGNATURE",
      "the peer's signature on our commitment of this outpoint was never verified",
    );
  }
  return ok([{ type: "funding_locked", channelKeyId: channel.channelKeyId, outpoint }]);
}

/** Whether a person's word stands for what this memory may not know of a channel. */
function isOnWord({ onWord }: ChannelMemory): boolean {
  return onWord.local && onWord.remote;
}

/** One commitment of a step, recomputed. */
export type StepCommitment = Pick<CommitmentContent, "number" | "content">;

/** What a step asks for one outpoint. */
export interface OutpointFacts {
  readonly outpoint: OutPoint;
  /** Our commitment, and whether all of the peer's signatures on it are good. */
  readonly verify: (StepCommitment & { readonly signaturesGood: boolean }) | null;
  /** The peer's commitment. */
  readonly sign: StepCommitment | null;
  /** Whether every HTLC that is in both is the same in both. */
  readonly mirrored: boolean;
}

/** A commitment step. */
export interface StepFacts {
  /** Digest of the terms. */
  readonly terms: Uint8Array;
  readonly outpoints: readonly OutpointFacts[];
  readonly revoke: boolean;
}

/** What a step may do, once `records` are durable. */
export interface StepDecision {
  readonly records: readonly MemoryRecord[];
  /** Number of the commitment whose secret is released; null: none. */
  readonly revoked: bigint | null;
}

/**
 * CommitmentSteps, one step: all of it or nothing. The secret of a number is released only where the next one is verified,
 * here or before, on every live outpoint; until splices that is the locked one.
 */
export function commitmentStep(
  memory: Memory,
  ref: ChannelRef,
  facts: StepFacts,
): Result<StepDecision, Refusal> {
  const served = serveChannel(memory, ref);
  if (!served.ok) return served;
  const channel = served.value;
  const { channelKeyId, onWord } = channel;
  const fixed = fixTerms(channel, facts.terms);
  if (!fixed.ok) return fixed;
  const [first, ...others] = facts.outpoints;
  if (first === undefined || others.length > 0) {
    return refuse("BAD_REQUEST", "a step names every live outpoint once: the locked one");
  }
  const { outpoint, verify, sign, mirrored } = first;
  const records: MemoryRecord[] = [...fixed.value];
  // Before the lock there is no step at all, unless the word of a person stands for the lock.
  const possible = checkOutpoint(memory, channel, outpoint, isOnWord(channel) ? 0n : 1n);
  if (!possible.ok) return possible;
  if (channel.locked === null) records.push({ type: "funding_locked", channelKeyId, outpoint });
  const known = channel.outpoints.get(outpointKey(outpoint));
  if (!mirrored) return refuse("NOT_MIRRORED", "an HTLC differs between the two commitments of this step");
  if (verify !== null) {
    const local = fixContent(known?.local ?? null, verify, onWord.local);
    if (!local.ok) return local;
    if (!verify.signaturesGood) {
      return refuse(
        "BAD_SIGNATURE",
        `the peer's signatures are not good for our commitment ${verify.number}`,
      );
    }
    if (local.value === "new") {
      if (channel.closing) return refuse("FROZEN", "a close was signed: no newer commitment follows");
      const { number, content } = verify;
      const type = "local_commitment_verified";
      records.push({ type, channelKeyId, outpoint, number, content, fundingInputs: [] });
    }
  }
  if (sign !== null) {
    const remote = fixContent(known?.remote ?? null, sign, onWord.remote);
    if (!remote.ok) return remote;
    if (remote.value === "new") {
      if (channel.closing) return refuse("FROZEN", "a close was signed: no newer commitment follows");
      const { number, content } = sign;
      records.push({ type: "remote_commitment_signed", channelKeyId, outpoint, number, content });
    }
  }
  if (!facts.revoke) {
    if (verify === null && sign === null) return refuse("BAD_REQUEST", "a step that asks for nothing");
    return ok({ records, revoked: null });
  }
  const newest = verify?.number ?? known?.local?.number ?? 0n;
  if (newest === 0n) return refuse("BAD_REQUEST", "no commitment follows number 0: it is not revoked");
  return ok({ records, revoked: newest - 1n });
}

/** Our newest commitment, whose content the caller names: it is what the memory holds, or a person's word stands for it. */
function newestLocal(
  memory: Memory,
  channel: ChannelMemory,
  local: CommitmentContent,
): Result<readonly MemoryRecord[], Refusal> {
  const { outpoint, number, content } = local;
  const { channelKeyId, onWord } = channel;
  const possible = checkOutpoint(memory, channel, outpoint, 0n);
  if (!possible.ok) return possible;
  const known = channel.outpoints.get(outpointKey(outpoint))?.local ?? null;
  if (known === null && !onWord.local) {
    return refuse("BAD_SIGNATURE", "the peer's signature on our commitment was never verified");
  }
  const fixed = fixContent(known, local, onWord.local);
  if (!fixed.ok) return fixed;
  if (fixed.value === "known") return ok(NOTHING);
  // A number that was never verified here, and nobody's word for it.
  if (!onWord.local) return refuse("BAD_SIGNATURE", `our commitment ${number} was never verified`);
  const type = "local_commitment_verified";
  return ok([{ type, channelKeyId, outpoint, number, content, fundingInputs: [] }]);
}

/** SignClosing: what concerns memory. One-way: our balance must not change any more. */
export function signClosing(
  memory: Memory,
  ref: ChannelRef,
  terms: Uint8Array,
  local: CommitmentContent,
): Decision {
  const served = serveChannel(memory, ref);
  if (!served.ok) return served;
  const channel = served.value;
  const fixed = fixTerms(channel, terms);
  if (!fixed.ok) return fixed;
  if (channel.locked === null && !isOnWord(channel)) {
    return refuse("NOT_LOCKED", "no funding outpoint is locked yet");
  }
  const newest = newestLocal(memory, channel, local);
  if (!newest.ok) return newest;
  const { channelKeyId, closing } = channel;
  const { outpoint } = local;
  return ok([
    ...fixed.value,
    ...(channel.locked === null ? [{ type: "funding_locked", channelKeyId, outpoint } as const] : NOTHING),
    ...newest.value,
    ...(closing ? NOTHING : [{ type: "closing_signed", channelKeyId } as const]),
  ]);
}

/** SignOwnCommitment: one-way, nothing follows it. Asked again it is served whoever owns the channel by then. */
export function signOwnCommitment(
  memory: Memory,
  ref: ChannelRef,
  terms: Uint8Array,
  local: CommitmentContent & { readonly signatureGood: boolean },
): Decision {
  const found = findChannel(memory, ref.channelKeyId);
  if (!found.ok) return found;
  const channel = found.value;
  const served = channel.frozen ? found : serveChannel(memory, ref);
  if (!served.ok) return served;
  const fixed = fixTerms(channel, terms);
  if (!fixed.ok) return fixed;
  const newest = newestLocal(memory, channel, local);
  if (!newest.ok) return newest;
  if (!local.signatureGood) {
    return refuse("BAD_SIGNATURE", "the peer's signature is not good for our commitment");
  }
  const { channelKeyId, frozen } = channel;
  return ok([
    ...fixed.value,
    ...newest.value,
    ...(frozen ? NOTHING : [{ type: "channel_frozen", channelKeyId } as const]),
  ]);
}

/**
 * SignWalletInputs: funding transactions are signed by SignFundingAttempt and nothing else, and an input that one has
 * our signature on is spent elsewhere only on purpose, and never once that attempt is locked.
 */
export function signWalletInputs(
  memory: Memory,
  tx: { readonly txid: Uint8Array; readonly outputs: number; readonly inputs: readonly OutPoint[] },
  doubleSpend: boolean,
): Decision {
  for (let vout = 0; vout < tx.outputs; vout++) {
    if (memory.fundings.has(outpointKey({ txid: tx.txid, vout }))) {
      return refuse("INPUT_BOUND", "this transaction is a funding attempt: SignFundingAttempt signs it");
    }
  }
  for (const input of tx.inputs.map(outpointKey)) {
    if (isBoundToLocked(memory, input, null)) {
      return refuse("INPUT_BOUND", "an input is bound to a locked funding attempt");
    }
    if (!doubleSpend && memory.boundInputs.has(input)) {
      return refuse(
        "INPUT_BOUND",
        "an input is bound to a funding attempt; spending it elsewhere needs double_spend",
      );
    }
  }
  return ok(NOTHING);
}
