/**
 * A dual-funding peer under a test's hand. By default it does what BOLT 2 asks, with keys and coins of its own; every
 * message takes changes, any message can be sent at any time, and nothing is sent unless the test says so.
 */
import assert from "node:assert/strict";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import type { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import type { PartyKeys } from "bolt/dualopen/types.ts";
import { channelIdV2, temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import { deriveCommitmentKeys } from "bolt/keys/derive.ts";
import { generateFromSeed, shachainIndex } from "bolt/keys/shachain.ts";
import type { Result } from "bolt/result.ts";
import { fundingScriptPubkey } from "bolt/tx/funding.ts";
import { initialCommitments } from "bolt/tx/initial.ts";
import { parseTransaction } from "bolt/tx/parse.ts";
import { commitmentSighash } from "bolt/tx/sighash.ts";
import { compareBytes, makeTransaction, sameBytes, txidOf } from "bolt/tx/transaction.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import { feerate, sat, signedSat } from "bolt/units.ts";
import { chainHash } from "bolt/wire/chain_hash.ts";
import { ANCHORS_STATIC_REMOTEKEY, encodeChannelType } from "bolt/wire/channel_type.ts";
import { printableText, textData } from "bolt/wire/error_text.ts";
import {
  type AcceptChannel2,
  decodeMessage,
  type Message,
  type MessageOf,
  type MessageType,
  type OpenChannel2,
  type TxAddInput,
  type TxAddOutput,
} from "bolt/wire/messages.ts";
import type { RunningNode } from "tools/node/launch.ts";
import { fakeCoin, type HostileCoin, type SigningOptions, witnessFor } from "./hostile_coins.ts";
import { randomSecret, RawPeer, type RawPeerOptions } from "./raw_peer.ts";

/** What this peer puts into a channel if nothing else is said. */
export const HOSTILE_SAT = 200_000n;
/** Fee that it pays out of its coin; far above what its part of a small transaction costs. */
const FEE_SAT = 3_000n;
const FUNDING_PERKW = 1_000;
const COMMITMENT_PERKW = 1_000;
const SEQUENCE = 0xffff_fffd;
/** What a node says in its turns. */
const ITEMS: readonly MessageType[] = ["tx_add_input", "tx_add_output", "tx_complete"];

/** An input of the transaction under construction. */
interface Input {
  readonly serialId: bigint;
  readonly txid: Uint8Array;
  readonly vout: number;
  readonly sequence: number;
  readonly amount: bigint;
  readonly script: Uint8Array;
  /** null: the node's. */
  readonly coin: HostileCoin | null;
}

interface Output {
  readonly serialId: bigint;
  readonly amount: bigint;
  readonly script: Uint8Array;
  readonly mine: boolean;
}

/** One negotiation of a transaction: the first, or a replacement. */
interface Session {
  readonly initiator: boolean;
  readonly locktime: number;
  readonly mine: bigint;
  readonly theirs: bigint;
  readonly inputs: Input[];
  readonly outputs: Output[];
  serial: bigint;
}

/** Settings of one side as both openers and accepters say them. */
type Terms = Omit<AcceptChannel2, "type" | "temporary_channel_id" | "minimum_depth" | "channel_type">;

/** What this peer puts in and out; without `coins` one that does not exist, without `outputs` the right ones. */
export interface Construction {
  readonly coins?: readonly HostileCoin[];
  readonly outputs?: readonly { readonly sats: bigint; readonly script: Uint8Array }[];
}

/** A transaction that both sides agreed on. */
export interface Agreed {
  readonly tx: Transaction;
  /** In the byte order of the wire. */
  readonly txid: Uint8Array;
  readonly fundingIndex: number;
  readonly session: Session;
}

/** The value of a result that cannot fail here. */
export function must<T>(result: Result<T, { readonly type: string }>): T {
  if (!result.ok) throw new Error(result.error.type);
  return result.value;
}

/** What a node said about a mistake. */
export interface Verdict {
  readonly type: MessageType;
  readonly channelId: string;
  readonly text: string;
}

/** What is behind the keys of {@link HostilePeer}. */
export interface PeerSecrets {
  readonly funding: Uint8Array;
  readonly revocationBasepoint: Uint8Array;
  readonly paymentBasepoint: Uint8Array;
  readonly delayedPaymentBasepoint: Uint8Array;
  readonly htlcBasepoint: Uint8Array;
  /** Of the per-commitment secrets (BOLT 3, Per-commitment Secret Requirements). */
  readonly seed: Uint8Array;
}

/** A peer on one connection. */
export class HostilePeer {
  readonly keys: PartyKeys;
  readonly secrets: PeerSecrets = {
    funding: randomSecret(),
    revocationBasepoint: randomSecret(),
    paymentBasepoint: randomSecret(),
    delayedPaymentBasepoint: randomSecret(),
    htlcBasepoint: randomSecret(),
    seed: randomSecret(),
  };
  /** Id of the channel: the temporary one until accept_channel2 passed. */
  channelId: Uint8Array = new Uint8Array(32);
  open: OpenChannel2 | undefined;
  accept: AcceptChannel2 | undefined;
  #opener = true;
  #session: Session | undefined;
  #lastHeard: MessageType | undefined;
  #unheard: Message | undefined;
  /** The last tx_add_input of the node. */
  lastInput: TxAddInput | undefined;

  private constructor(public raw: RawPeer, readonly node: RunningNode) {
    const { secrets } = this;
    const point = (secret: Uint8Array) => ecc().pointFromSecret(secret);
    this.keys = {
      fundingPubkey: point(secrets.funding),
      revocationBasepoint: point(secrets.revocationBasepoint),
      paymentBasepoint: point(secrets.paymentBasepoint),
      delayedPaymentBasepoint: point(secrets.delayedPaymentBasepoint),
      htlcBasepoint: point(secrets.htlcBasepoint),
      firstPerCommitmentPoint: point(this.commitmentSecret(0n)),
      secondPerCommitmentPoint: point(this.commitmentSecret(1n)),
    };
  }

  /** The per-commitment secret of one of this peer's commitments. */
  commitmentSecret(number: bigint): Uint8Array {
    return generateFromSeed(this.secrets.seed, shachainIndex(number));
  }

  /** A stranger connects. */
  static async connect(node: RunningNode, options: RawPeerOptions = {}): Promise<HostilePeer> {
    return new HostilePeer(await RawPeer.connect(node.address, hexToBytes(node.id), options), node);
  }

  /** Another channel of the same peer on the same connection. */
  sibling(): HostilePeer {
    return new HostilePeer(this.raw, this.node);
  }

  /** A new connection of the same peer; what was agreed stays known. */
  async reconnect(options: RawPeerOptions = {}): Promise<void> {
    const { secret } = this.raw;
    await this.raw.close();
    this.raw = await RawPeer.connect(this.node.address, hexToBytes(this.node.id), { ...options, secret });
  }

  /** Closes at once. */
  close(): Promise<void> {
    return this.raw.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // Sending and hearing

  /** Sends any message. */
  send(message: Message): Promise<void> {
    return this.raw.send(message);
  }

  /** The next message, whatever it is; inputs and outputs of the node are noted. */
  async hear(): Promise<Message> {
    const unheard = this.#unheard;
    this.#unheard = undefined;
    if (unheard !== undefined) return unheard;
    const decoded = decodeMessage(await this.raw.next());
    assert.ok(decoded.ok, "the node's message decodes");
    assert.ok(decoded.value.type !== "unknown");
    this.#lastHeard = decoded.value.type;
    this.#note(decoded.value);
    return decoded.value;
  }

  /** The next message, which must be of this type. */
  async expect<T extends MessageType>(type: T): Promise<MessageOf<T>> {
    const message = await this.hear();
    assert.equal(message.type, type, `instead of ${type}: ${shown(message)}`);
    return message as MessageOf<T>;
  }

  /** The next message, which must be an error, a warning or a tx_abort. */
  async verdict(): Promise<Verdict> {
    const message = await this.hear();
    if (message.type !== "error" && message.type !== "warning" && message.type !== "tx_abort") {
      assert.fail(`neither error nor warning nor tx_abort: ${shown(message)}`);
    }
    return {
      type: message.type,
      channelId: bytesToHex(message.channel_id),
      text: printableText(message.data),
    };
  }

  /** tx_abort, ours or the echo. */
  abort(text = "no more"): Promise<void> {
    return this.send({ type: "tx_abort", channel_id: this.channelId, data: textData(text) });
  }

  // The open

  #terms(funding: bigint): Terms {
    const { keys } = this;
    return {
      funding_satoshis: funding,
      dust_limit_satoshis: 354n,
      max_htlc_value_in_flight_msat: 100_000_000n,
      htlc_minimum_msat: 1n,
      to_self_delay: 144,
      max_accepted_htlcs: 30,
      funding_pubkey: keys.fundingPubkey,
      revocation_basepoint: keys.revocationBasepoint,
      payment_basepoint: keys.paymentBasepoint,
      delayed_payment_basepoint: keys.delayedPaymentBasepoint,
      htlc_basepoint: keys.htlcBasepoint,
      first_per_commitment_point: keys.firstPerCommitmentPoint,
      second_per_commitment_point: keys.secondPerCommitmentPoint,
      upfront_shutdown_script: new Uint8Array(),
    };
  }

  /** open_channel2 as BOLT 2 has it. */
  openMessage(changes: Partial<OpenChannel2> = {}): OpenChannel2 {
    return {
      type: "open_channel2",
      chain_hash: chainHash("regtest"),
      temporary_channel_id: temporaryChannelIdV2(this.keys.revocationBasepoint),
      funding_feerate_perkw: FUNDING_PERKW,
      commitment_feerate_perkw: COMMITMENT_PERKW,
      locktime: 0,
      channel_flags: 0,
      channel_type: encodeChannelType(ANCHORS_STATIC_REMOTEKEY),
      ...this.#terms(HOSTILE_SAT),
      ...changes,
    };
  }

  /** Sends open_channel2. */
  async sayOpen(changes: Partial<OpenChannel2> = {}): Promise<OpenChannel2> {
    this.open = this.openMessage(changes);
    this.#opener = true;
    this.channelId = this.open.temporary_channel_id;
    await this.send(this.open);
    return this.open;
  }

  /** open_channel2 and its answer. */
  async openTo(changes: Partial<OpenChannel2> = {}): Promise<AcceptChannel2> {
    const open = await this.sayOpen(changes);
    const accept = await this.expect("accept_channel2");
    this.accept = accept;
    this.channelId = channelIdV2(open.revocation_basepoint, accept.revocation_basepoint);
    this.#begin(true, open.locktime, open.funding_satoshis, accept.funding_satoshis);
    return accept;
  }

  /** Hears the node's open_channel2. */
  async hearOpen(): Promise<OpenChannel2> {
    this.open = await this.expect("open_channel2");
    this.#opener = false;
    this.channelId = this.open.temporary_channel_id;
    return this.open;
  }

  /** Answers the node's open with accept_channel2. */
  async sayAccept(changes: Partial<AcceptChannel2> = {}, funding = 0n): Promise<AcceptChannel2> {
    const { open } = this;
    assert.ok(open, "open_channel2 was heard");
    this.accept = {
      type: "accept_channel2",
      temporary_channel_id: open.temporary_channel_id,
      minimum_depth: 1,
      ...(open.channel_type === undefined ? {} : { channel_type: open.channel_type }),
      ...this.#terms(funding),
      ...changes,
    };
    this.channelId = channelIdV2(open.revocation_basepoint, this.accept.revocation_basepoint);
    this.#begin(false, open.locktime, this.accept.funding_satoshis, open.funding_satoshis);
    await this.send(this.accept);
    return this.accept;
  }

  // The transaction

  #begin(initiator: boolean, locktime: number, mine: bigint, theirs: bigint): void {
    this.#session = {
      initiator,
      locktime,
      mine,
      theirs,
      inputs: [],
      outputs: [],
      serial: initiator ? 100n : 101n,
    };
  }

  /** The negotiation that is open. */
  get session(): Session {
    assert.ok(this.#session, "a transaction is under construction");
    return this.#session;
  }

  /** A fresh serial id of this peer's parity. */
  serial(): bigint {
    const { session } = this;
    session.serial += 2n;
    return session.serial;
  }

  /** scriptPubKey of the funding output. */
  get fundingScript(): Uint8Array {
    return fundingScriptPubkey(this.keys.fundingPubkey, this.theirTerms.funding_pubkey);
  }

  /** Amount of the funding output. */
  get fundingSat(): bigint {
    return this.session.mine + this.session.theirs;
  }

  /** Whether this peer opened the channel: it pays the commitments' fees then. */
  get isOpener(): boolean {
    return this.#opener;
  }

  /** What the node said of the channel. */
  get theirTerms(): OpenChannel2 | AcceptChannel2 {
    const terms = this.#opener ? this.accept : this.open;
    assert.ok(terms, "the node's terms are known");
    return terms;
  }

  /** What this peer said of it. */
  get ownTerms(): OpenChannel2 | AcceptChannel2 {
    const terms = this.#opener ? this.open : this.accept;
    assert.ok(terms, "this peer's terms are known");
    return terms;
  }

  /** tx_add_input of a coin. */
  inputMessage(coin: HostileCoin, changes: Partial<TxAddInput> = {}): TxAddInput {
    return {
      type: "tx_add_input",
      channel_id: this.channelId,
      serial_id: this.serial(),
      prevtx: coin.prevtx,
      prevtx_vout: coin.outpoint.vout,
      sequence: SEQUENCE,
      ...changes,
    };
  }

  /** Sends tx_add_input. */
  async sayInput(coin: HostileCoin, changes: Partial<TxAddInput> = {}): Promise<void> {
    const message = this.inputMessage(coin, changes);
    this.session.inputs.push({
      serialId: message.serial_id,
      ...coin.outpoint,
      vout: message.prevtx_vout,
      sequence: message.sequence,
      amount: coin.amount,
      script: coin.script,
      coin,
    });
    await this.send(message);
  }

  /** tx_add_output. */
  outputMessage(sats: bigint, script: Uint8Array, changes: Partial<TxAddOutput> = {}): TxAddOutput {
    return {
      type: "tx_add_output",
      channel_id: this.channelId,
      serial_id: this.serial(),
      sats,
      script,
      ...changes,
    };
  }

  /** Sends tx_add_output. */
  async sayOutput(sats: bigint, script: Uint8Array, changes: Partial<TxAddOutput> = {}): Promise<void> {
    const message = this.outputMessage(sats, script, changes);
    this.session.outputs.push({
      serialId: message.serial_id,
      amount: message.sats,
      script: message.script,
      mine: true,
    });
    await this.send(message);
  }

  /** Sends tx_complete. */
  sayComplete(): Promise<void> {
    return this.send({ type: "tx_complete", channel_id: this.channelId });
  }

  #note(message: Message): void {
    const session = this.#session;
    if (session === undefined) return;
    if (message.type === "tx_add_input") {
      this.lastInput = message;
      const prevtx = must(parseTransaction(message.prevtx));
      const output = prevtx.outputs[message.prevtx_vout];
      assert.ok(output, "the node's prevtx has the output");
      session.inputs.push({
        serialId: message.serial_id,
        txid: prevtx.txid,
        vout: message.prevtx_vout,
        sequence: message.sequence,
        amount: output.amount,
        script: output.script,
        coin: null,
      });
    }
    if (message.type === "tx_add_output") {
      const { serial_id: serialId, sats: amount, script } = message;
      session.outputs.push({ serialId, amount, script, mine: false });
    }
  }

  /** What the node does in its turn: one of its items, or tx_complete. */
  async theirTurn(): Promise<Message> {
    const message = await this.hear();
    assert.ok(ITEMS.includes(message.type), shown(message));
    return message;
  }

  /**
   * The whole construction, up to both tx_complete. As initiator: `coins`, the funding output and change, unless
   * `outputs` says otherwise.
   */
  async construct(options: Construction = {}): Promise<Agreed> {
    await this.constructUntilComplete(options);
    return this.agreed();
  }

  /**
   * {@link construct} without the transaction at its end: resolves when the last tx_complete of this peer is out, and
   * every turn of the node before it is in, or when the node refused: its reason is heard next.
   */
  async constructUntilComplete(options: Construction = {}): Promise<void> {
    if (!this.session.initiator) await this.theirTurn();
    await this.constructFrom(options);
  }

  /** {@link constructUntilComplete} where it is this peer's turn. */
  async constructFrom(options: Construction = {}): Promise<void> {
    const { session } = this;
    const coins = options.coins ?? (session.mine > 0n || session.initiator ? [fakeCoin()] : []);
    const outputs = options.outputs ?? this.#defaultOutputs(coins);
    const moves = [
      ...coins.map((coin) => () => this.sayInput(coin)),
      ...outputs.map(({ sats, script }) => () => this.sayOutput(sats, script)),
    ];
    for (const move of moves) {
      await move();
      await this.theirTurn();
    }
    for (;;) {
      await this.sayComplete();
      // A node whose last word was tx_complete has now heard two in succession: nothing of its own follows.
      if (this.#lastHeard === "tx_complete") return;
      const heard = await this.hear();
      if (heard.type === "tx_complete") return;
      if (!ITEMS.includes(heard.type)) {
        // It refused: the test hears that next.
        this.#unheard = heard;
        return;
      }
    }
  }

  #defaultOutputs(coins: readonly HostileCoin[]): { sats: bigint; script: Uint8Array }[] {
    const { session } = this;
    const total = coins.reduce((sum, coin) => sum + coin.amount, 0n);
    const change = total - session.mine - FEE_SAT;
    return [
      ...(session.initiator ? [{ sats: this.fundingSat, script: this.fundingScript }] : []),
      ...(change >= 1_000n && coins[0] !== undefined ? [{ sats: change, script: coins[0].script }] : []),
    ];
  }

  /** The transaction as it stands. */
  agreed(): Agreed {
    const { session } = this;
    const bySerial = (a: { serialId: bigint }, b: { serialId: bigint }) => a.serialId < b.serialId ? -1 : 1;
    session.inputs.sort(bySerial);
    session.outputs.sort(bySerial);
    const tx = makeTransaction({
      locktime: session.locktime,
      inputs: session.inputs.map(({ txid, vout, sequence }) => ({ outpoint: { txid, vout }, sequence })),
      outputs: session.outputs.map(({ amount, script }) => ({ amount: sat(amount), script })),
    });
    const script = this.fundingScript;
    const fundingIndex = session.outputs.findIndex((output) => sameBytes(output.script, script));
    return { tx, txid: txidOf(tx), fundingIndex, session };
  }

  // Signatures

  /** Whether this peer's tx_signatures come first (BOLT 2, tx_signatures). */
  get signsFirst(): boolean {
    const sum = (mine: boolean) =>
      this.session.inputs.filter((input) => (input.coin !== null) === mine)
        .reduce((total, { amount }) => total + amount, 0n);
    const [mine, theirs] = [sum(true), sum(false)];
    if (mine !== theirs) return mine < theirs;
    return compareBytes(this.raw.nodeId, hexToBytes(this.node.id)) < 0;
  }

  /** Our signature on the node's commitment 0. `wrong` gives a good signature on something else; `high` the same with s negated. */
  commitmentSignature(
    agreed: Agreed,
    how: { readonly high?: boolean; readonly wrong?: boolean } = {},
  ): Uint8Array {
    const { session } = agreed;
    const theirs = this.theirTerms;
    const own = this.ownTerms;
    const side = (
      terms: OpenChannel2 | AcceptChannel2,
      other: OpenChannel2 | AcceptChannel2,
      funding: bigint,
    ) => ({
      funding: sat(funding),
      fundingPubkey: terms.funding_pubkey,
      keys: must(
        deriveCommitmentKeys(basepoints(terms), basepoints(other), terms.first_per_commitment_point),
      ),
      toSelfDelay: terms.to_self_delay,
      dustLimit: sat(terms.dust_limit_satoshis),
    });
    const [opener, accepter] = this.#opener ? [own, theirs] : [theirs, own];
    const commitments = must(initialCommitments({
      format: "anchors",
      outpoint: { txid: agreed.txid, vout: Math.max(0, agreed.fundingIndex) },
      opener: this.#opener ? "local" : "remote",
      feerate: feerate(this.open!.commitment_feerate_perkw),
      obscuringFactor: obscuringFactor(opener.payment_basepoint, accepter.payment_basepoint),
      local: side(own, theirs, session.mine),
      remote: side(theirs, own, session.theirs),
    }));
    const hash = commitmentSighash(how.wrong === true ? commitments.local : commitments.remote);
    const signature = ecc().signEcdsa(hash, this.secrets.funding);
    return how.high === true ? highS(signature) : signature;
  }

  /** Sends commitment_signed for the agreed transaction. */
  async sayCommitment(
    agreed: Agreed,
    changes: Partial<MessageOf<"commitment_signed">> = {},
  ): Promise<void> {
    await this.send({
      type: "commitment_signed",
      channel_id: this.channelId,
      signature: this.commitmentSignature(agreed),
      htlc_signature: [],
      funding_txid: agreed.txid,
      ...changes,
    });
  }

  /** Witnesses of this peer's inputs, in the order of serial ids, each as a transaction has it. */
  witnesses(agreed: Agreed, options: SigningOptions = {}): Uint8Array[] {
    const { inputs } = agreed.session;
    return inputs.flatMap(({ coin }, index) =>
      coin === null ? [] : [encodeWitness(witnessFor(coin, agreed.tx, index, inputs, options))]
    );
  }

  /** Sends tx_signatures for the agreed transaction. */
  async saySignatures(
    agreed: Agreed,
    changes: Partial<MessageOf<"tx_signatures">> = {},
    options: SigningOptions = {},
  ): Promise<void> {
    await this.send({
      type: "tx_signatures",
      channel_id: this.channelId,
      txid: agreed.txid,
      witnesses: this.witnesses(agreed, options),
      ...changes,
    });
  }

  /** Both commitment_signed. */
  async commit(agreed: Agreed): Promise<void> {
    await this.sayCommitment(agreed);
    await this.expect("commitment_signed");
  }

  /** Both tx_signatures, in the order that is due. */
  async sign(agreed: Agreed, options: SigningOptions = {}): Promise<MessageOf<"tx_signatures">> {
    if (!this.signsFirst) {
      const theirs = await this.expect("tx_signatures");
      await this.saySignatures(agreed, {}, options);
      return theirs;
    }
    await this.saySignatures(agreed, {}, options);
    return await this.expect("tx_signatures");
  }

  /** A whole open by the book: to both tx_signatures. */
  async fullOpen(
    coins: readonly HostileCoin[],
    changes: Partial<OpenChannel2> = {},
    options: SigningOptions = {},
  ): Promise<Agreed> {
    await this.openTo(changes);
    const agreed = await this.construct({ coins });
    await this.commit(agreed);
    await this.sign(agreed, options);
    return agreed;
  }

  // Replacing

  /** tx_init_rbf. */
  rbfMessage(changes: Partial<MessageOf<"tx_init_rbf">> = {}): MessageOf<"tx_init_rbf"> {
    return {
      type: "tx_init_rbf",
      channel_id: this.channelId,
      locktime: 0,
      feerate: FUNDING_PERKW * 2,
      funding_output_contribution: signedSat(HOSTILE_SAT),
      ...changes,
    };
  }

  /** tx_init_rbf and its answer; a new construction begins. */
  async replace(changes: Partial<MessageOf<"tx_init_rbf">> = {}): Promise<void> {
    const init = this.rbfMessage(changes);
    await this.send(init);
    const ack = await this.expect("tx_ack_rbf");
    this.#begin(
      true,
      init.locktime,
      init.funding_output_contribution ?? 0n,
      ack.funding_output_contribution ?? 0n,
    );
  }

  /** channel_reestablish of a channel before lock-in. */
  reestablishMessage(
    changes: Partial<MessageOf<"channel_reestablish">> = {},
  ): MessageOf<"channel_reestablish"> {
    return {
      type: "channel_reestablish",
      channel_id: this.channelId,
      next_commitment_number: 1n,
      next_revocation_number: 0n,
      your_last_per_commitment_secret: new Uint8Array(32),
      my_current_per_commitment_point: this.keys.firstPerCommitmentPoint,
      ...changes,
    };
  }

  /** Sends channel_reestablish. */
  sayReestablish(changes: Partial<MessageOf<"channel_reestablish">> = {}): Promise<void> {
    return this.send(this.reestablishMessage(changes));
  }

  /** channel_ready. */
  sayReady(changes: Partial<MessageOf<"channel_ready">> = {}): Promise<void> {
    return this.send({
      type: "channel_ready",
      channel_id: this.channelId,
      second_per_commitment_point: this.keys.secondPerCommitmentPoint,
      ...changes,
    });
  }
}

/** The basepoints of one side. */
export function basepoints(terms: OpenChannel2 | AcceptChannel2) {
  return {
    revocationBasepoint: terms.revocation_basepoint,
    paymentBasepoint: terms.payment_basepoint,
    delayedPaymentBasepoint: terms.delayed_payment_basepoint,
    htlcBasepoint: terms.htlc_basepoint,
  };
}

/** The same signature with s in the upper half: good for the curve, refused by BOLT 2. */
export function highS(signature: Uint8Array): Uint8Array {
  const s = ecc().privateNegate(signature.slice(32));
  assert.ok(s);
  return Uint8Array.of(...signature.slice(0, 32), ...s);
}

/** A message for people: its name, and what it says. */
export function shown(message: Message): string {
  if (message.type === "error" || message.type === "warning" || message.type === "tx_abort") {
    return `${message.type}: ${printableText(message.data)}`;
  }
  return message.type;
}
