/**
 * A channel in use under a test's hand: it signs, verifies, revokes and keeps both commitments as BOLT 2 has it, and sends
 * whatever a test says instead. Everything that the node signs or reveals is checked.
 */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import { deriveCommitmentKeys, derivePrivkey, derivePubkey, isSecretOfPoint } from "bolt/keys/derive.ts";
import { createOnion } from "bolt/onion/create.ts";
import { encodeOnionPacket } from "bolt/onion/packet.ts";
import { encodeHopPayload, type HopPayload } from "bolt/onion/payload.ts";
import { buildCommitment, type Commitment, type CommitmentHtlc } from "bolt/tx/commitment.ts";
import { htlcTransactions } from "bolt/tx/htlc.ts";
import { commitmentSighash, htlcSighash } from "bolt/tx/sighash.ts";
import { feerate, msat, sat } from "bolt/units.ts";
import type { Message, MessageOf, MessageType } from "bolt/wire/messages.ts";
import { type Agreed, basepoints, type HostilePeer, must, shown } from "./hostile_peer.ts";
import { randomSecret } from "./raw_peer.ts";

/** Who did it. */
export type By = "peer" | "node";

/** Something that a commitment is made of. */
type Change =
  | {
    readonly type: "add";
    readonly id: bigint;
    readonly amountMsat: bigint;
    readonly hash: Uint8Array;
    readonly cltv: number;
  }
  /** Of the HTLC that the *other* side offered. */
  | { readonly type: "remove"; readonly id: bigint; readonly paid: boolean }
  | { readonly type: "fee"; readonly feerate: number };

/** A change on its way through both commitments. */
interface Update {
  readonly by: By;
  readonly change: Change;
  /** In the newest signed commitment of the one that heard it. */
  onReceiver: boolean;
  /** The receiver has revoked its commitment without it. */
  acked: boolean;
  /** In the newest signed commitment of the one that said it. */
  onSender: boolean;
}

/** One side's commitment, before it is built. */
interface Contents {
  readonly peerMsat: bigint;
  readonly nodeMsat: bigint;
  readonly feerate: number;
  readonly htlcs: readonly (Extract<Change, { type: "add" }> & { readonly by: By })[];
}

/** An HTLC that this peer offers. */
export interface OfferChanges {
  readonly amountMsat?: bigint;
  readonly paymentHash?: Uint8Array;
  readonly cltv?: number;
  readonly id?: bigint;
  /** The whole packet; without it one for the node as the last hop, with this payload or a good one. */
  readonly onion?: Uint8Array;
  readonly payload?: HopPayload;
  readonly paymentSecret?: Uint8Array;
}

/** Blocks above the tip that this peer's HTLCs expire at if nothing else is said. */
export const OFFER_BLOCKS = 50;

/** A channel that both sides said channel_ready for. */
export class HostileChannel {
  /** Numbers of the newest commitments that are signed; the one before is revoked, or will be with the next word. */
  nodeNumber = 0n;
  peerNumber = 0n;
  /** The node's points by commitment number. */
  readonly #nodePoints = new Map<bigint, Uint8Array>();
  readonly #updates: Update[] = [];
  /** The number of our next HTLC. */
  nextId = 0n;
  /** We signed and have not heard revoke_and_ack. */
  awaitingRevoke = false;
  /** The node signed and we have not revoked. */
  owesRevoke = false;
  /** Short channel id, as the API shows it. */
  scid = "";
  /** The node's last secret. */
  lastNodeSecret: Uint8Array = new Uint8Array(32);
  /** What we last signed. */
  lastSigned: MessageOf<"commitment_signed"> | undefined;
  /** What we last revoked with. */
  lastRevoked: MessageOf<"revoke_and_ack"> | undefined;

  constructor(readonly peer: HostilePeer, readonly agreed: Agreed) {
    this.#nodePoints.set(0n, peer.theirTerms.first_per_commitment_point);
  }

  get channelId(): Uint8Array {
    return this.peer.channelId;
  }

  /** Says channel_ready and hears the node's. The funding transaction must be in a block. */
  async ready(): Promise<void> {
    await this.peer.sayReady();
    const theirs = await this.peer.raw.expect("channel_ready");
    this.#nodePoints.set(1n, theirs.second_per_commitment_point);
  }

  // What the commitments hold

  #contents(owner: By): Contents {
    const { session } = this.agreed;
    const balance = { peer: session.mine * 1000n, node: session.theirs * 1000n };
    let rate = this.peer.open?.commitment_feerate_perkw ?? 0;
    const htlcs = new Map<string, Extract<Change, { type: "add" }> & { readonly by: By }>();
    for (const { by, change, onReceiver, onSender } of this.#updates) {
      if (!(by === owner ? onSender : onReceiver)) continue;
      const other = by === "peer" ? "node" : "peer";
      switch (change.type) {
        case "add":
          balance[by] -= change.amountMsat;
          htlcs.set(`${by} ${change.id}`, { ...change, by });
          break;
        case "remove": {
          const key = `${other} ${change.id}`;
          const htlc = htlcs.get(key);
          assert.ok(htlc, `HTLC ${key} is there to be removed`);
          htlcs.delete(key);
          balance[change.paid ? by : other] += htlc.amountMsat;
          break;
        }
        case "fee":
          rate = change.feerate;
          break;
      }
    }
    return { peerMsat: balance.peer, nodeMsat: balance.node, feerate: rate, htlcs: [...htlcs.values()] };
  }

  /** Balances on the node's newest signed commitment, and its HTLCs. */
  get nodeContents(): Contents {
    return this.#contents("node");
  }

  #commitment(owner: By, number: bigint): Commitment {
    const { peer, agreed } = this;
    const [own, theirs] = [peer.ownTerms, peer.theirTerms];
    const [ownerTerms, otherTerms] = owner === "peer" ? [own, theirs] : [theirs, own];
    const point = owner === "peer" ? this.ownPoint(number) : this.nodePoint(number);
    const contents = this.#contents(owner);
    const [opener, accepter] = peer.isOpener ? [own, theirs] : [theirs, own];
    return must(buildCommitment({
      format: "anchors",
      funding: {
        outpoint: { txid: agreed.txid, vout: agreed.fundingIndex },
        amount: sat(agreed.session.mine + agreed.session.theirs),
        ownerPubkey: ownerTerms.funding_pubkey,
        otherPubkey: otherTerms.funding_pubkey,
      },
      commitmentNumber: number,
      obscuringFactor: obscuringFactor(opener.payment_basepoint, accepter.payment_basepoint),
      keys: must(deriveCommitmentKeys(basepoints(ownerTerms), basepoints(otherTerms), point)),
      toSelfDelay: otherTerms.to_self_delay,
      dustLimit: sat(ownerTerms.dust_limit_satoshis),
      feerate: feerate(contents.feerate),
      ownerIsOpener: peer.isOpener === (owner === "peer"),
      ownerBalance: msat(owner === "peer" ? contents.peerMsat : contents.nodeMsat),
      otherBalance: msat(owner === "peer" ? contents.nodeMsat : contents.peerMsat),
      htlcs: contents.htlcs.map((htlc): CommitmentHtlc => ({
        id: htlc.id,
        direction: htlc.by === owner ? "offered" : "received",
        amount: msat(htlc.amountMsat),
        paymentHash: htlc.hash,
        cltvExpiry: htlc.cltv,
      })),
    }));
  }

  /** The node's point of a commitment. */
  nodePoint(number: bigint): Uint8Array {
    const point = this.#nodePoints.get(number);
    assert.ok(point, `the node's point ${number} is known`);
    return point;
  }

  /** Our own. */
  ownPoint(number: bigint): Uint8Array {
    return ecc().pointFromSecret(this.peer.commitmentSecret(number));
  }

  // Updates

  #note(by: By, change: Change): void {
    this.#updates.push({ by, change, onReceiver: false, acked: false, onSender: false });
  }

  /** update_add_htlc, unsaid. */
  async addMessage(changes: OfferChanges = {}): Promise<MessageOf<"update_add_htlc">> {
    const amount = changes.amountMsat ?? 1_000_000n;
    const hash = changes.paymentHash ?? sha256(randomSecret());
    const cltv = changes.cltv ?? await this.#tip() + OFFER_BLOCKS;
    const payload = changes.payload ?? {
      amt_to_forward: amount,
      outgoing_cltv_value: cltv,
      payment_data: { payment_secret: changes.paymentSecret ?? randomSecret(), total_msat: amount },
    };
    return {
      type: "update_add_htlc",
      channel_id: this.channelId,
      id: changes.id ?? this.nextId,
      amount_msat: amount,
      payment_hash: hash,
      cltv_expiry: cltv,
      onion_routing_packet: changes.onion ?? this.onion(encodeHopPayload(payload), hash).packet,
    };
  }

  async #tip(): Promise<number> {
    return (await this.peer.node.rpc.getinfo({})).blockheight;
  }

  /** An onion for the node as the last hop, or with more hops behind it. */
  onion(
    payload: Uint8Array,
    hash: Uint8Array,
    further: readonly { readonly pubkey: Uint8Array; readonly payload: Uint8Array }[] = [],
  ): { readonly packet: Uint8Array; readonly sharedSecrets: readonly Uint8Array[] } {
    const { packet, sharedSecrets } = must(createOnion({
      sessionKey: randomSecret(),
      hops: [{ pubkey: hexToBytes(this.peer.node.id), payload }, ...further],
      associatedData: hash,
    }));
    return { packet: encodeOnionPacket(packet), sharedSecrets };
  }

  /** Says update_add_htlc. */
  async add(changes: OfferChanges = {}): Promise<MessageOf<"update_add_htlc">> {
    const message = await this.addMessage(changes);
    await this.sayUpdate(message);
    return message;
  }

  /** Says any update; it counts. */
  async sayUpdate(message: Message): Promise<void> {
    this.#noteMessage("peer", message);
    await this.peer.send(message);
  }

  #noteMessage(by: By, message: Message): void {
    switch (message.type) {
      case "update_add_htlc":
        this.#note(by, {
          type: "add",
          id: message.id,
          amountMsat: message.amount_msat,
          hash: message.payment_hash,
          cltv: message.cltv_expiry,
        });
        if (by === "peer") this.nextId = message.id + 1n;
        return;
      case "update_fulfill_htlc":
        return this.#note(by, { type: "remove", id: message.id, paid: true });
      case "update_fail_htlc":
      case "update_fail_malformed_htlc":
        return this.#note(by, { type: "remove", id: message.id, paid: false });
      case "update_fee":
        return this.#note(by, { type: "fee", feerate: message.feerate_per_kw });
    }
  }

  // Signing and revoking

  /** commitment_signed for the node's next commitment, with all that may be in it by now. Unsaid; it counts as signed. */
  signMessage(): MessageOf<"commitment_signed"> {
    for (const update of this.#updates) {
      if (update.by === "peer") update.onReceiver = true;
      else if (update.acked) update.onSender = true;
    }
    this.nodeNumber++;
    this.awaitingRevoke = true;
    const commitment = this.#commitment("node", this.nodeNumber);
    const { secrets } = this.peer;
    const htlcSecret = must(derivePrivkey(secrets.htlcBasepoint, this.nodePoint(this.nodeNumber)));
    return {
      type: "commitment_signed",
      channel_id: this.channelId,
      signature: ecc().signEcdsa(commitmentSighash(commitment), secrets.funding),
      htlc_signature: must(htlcTransactions(commitment)).map(({ tx, spends }) =>
        ecc().signEcdsa(htlcSighash(tx, spends, "anchors", "other"), htlcSecret)
      ),
    };
  }

  /** Says commitment_signed. */
  async sign(changes: Partial<MessageOf<"commitment_signed">> = {}): Promise<void> {
    this.lastSigned = { ...this.signMessage(), ...changes };
    await this.peer.send(this.lastSigned);
  }

  /** revoke_and_ack for what the node signed last. Unsaid; it counts as said. */
  revokeMessage(): MessageOf<"revoke_and_ack"> {
    this.owesRevoke = false;
    for (const update of this.#updates) {
      if (update.by === "node" && update.onReceiver) update.acked = true;
    }
    return {
      type: "revoke_and_ack",
      channel_id: this.channelId,
      per_commitment_secret: this.peer.commitmentSecret(this.peerNumber - 1n),
      next_per_commitment_point: this.ownPoint(this.peerNumber + 1n),
    };
  }

  /** Says revoke_and_ack. */
  async revoke(changes: Partial<MessageOf<"revoke_and_ack">> = {}): Promise<void> {
    this.lastRevoked = { ...this.revokeMessage(), ...changes };
    await this.peer.send(this.lastRevoked);
  }

  #takeRevoke(message: MessageOf<"revoke_and_ack">): void {
    assert.ok(this.awaitingRevoke, "the node revokes once for each commitment_signed");
    this.awaitingRevoke = false;
    const secret = message.per_commitment_secret;
    assert.ok(isSecretOfPoint(secret, this.nodePoint(this.nodeNumber - 1n)), "the node reveals the secret");
    this.lastNodeSecret = secret;
    this.#nodePoints.set(this.nodeNumber + 1n, message.next_per_commitment_point);
    for (const update of this.#updates) {
      if (update.by === "peer" && update.onReceiver) update.acked = true;
    }
  }

  #takeSignature(message: MessageOf<"commitment_signed">): void {
    assert.ok(!this.owesRevoke, "the node signs once for each revoke_and_ack");
    for (const update of this.#updates) {
      if (update.by === "node") update.onReceiver = true;
      else if (update.acked) update.onSender = true;
    }
    this.peerNumber++;
    this.owesRevoke = true;
    const commitment = this.#commitment("peer", this.peerNumber);
    const terms = this.peer.theirTerms;
    assert.ok(
      ecc().verifyEcdsa(commitmentSighash(commitment), message.signature, terms.funding_pubkey),
      "the node's signature is on the commitment that this peer makes of what was said",
    );
    const key = must(derivePubkey(terms.htlc_basepoint, this.ownPoint(this.peerNumber)));
    const transactions = must(htlcTransactions(commitment));
    assert.equal(message.htlc_signature.length, transactions.length, "a signature for each HTLC output");
    for (const [index, { tx, spends }] of transactions.entries()) {
      const signature = message.htlc_signature[index];
      assert.ok(signature && ecc().verifyEcdsa(htlcSighash(tx, spends, "anchors", "other"), signature, key));
    }
  }

  // Going by the book

  /** The next message, noted, not answered. */
  async hear(): Promise<Message> {
    const message = await this.peer.hear();
    this.#noteMessage("node", message);
    if (message.type === "revoke_and_ack") this.#takeRevoke(message);
    if (message.type === "commitment_signed") this.#takeSignature(message);
    return message;
  }

  /** The next message, which must be of this type; noted, not answered. */
  async expect<T extends MessageType>(type: T): Promise<MessageOf<T>> {
    const message = await this.hear();
    assert.equal(message.type, type, `instead of ${type}: ${shown(message)}`);
    return message as MessageOf<T>;
  }

  /** Whether there is something that the node's next commitment would have and its newest has not. */
  get unsigned(): boolean {
    return this.#updates.some(({ by, onReceiver, onSender, acked }) =>
      by === "peer" ? !onReceiver : acked && !onSender
    );
  }

  /** Whether both newest commitments hold the same, and nothing is owed. */
  get clean(): boolean {
    return !this.awaitingRevoke && !this.owesRevoke &&
      this.#updates.every(({ onReceiver, onSender, acked }) => onReceiver && acked && onSender);
  }

  /** Signs and revokes as BOLT 2 has it, until a message of this type was heard and answered. */
  async bookUntil<T extends MessageType>(type: T): Promise<MessageOf<T>> {
    for (;;) {
      const message = await this.#bookStep();
      if (message.type === type) return message as MessageOf<T>;
    }
  }

  /** The same until nothing is left to say on either side. */
  async bookUntilClean(): Promise<void> {
    while (!this.clean) await this.#bookStep();
  }

  async #bookStep(): Promise<Message> {
    if (this.unsigned && !this.awaitingRevoke) await this.sign();
    const message = await this.hear();
    if (message.type === "error" || message.type === "warning") assert.fail(shown(message));
    if (this.owesRevoke) await this.revoke();
    if (this.unsigned && !this.awaitingRevoke) await this.sign();
    return message;
  }

  /** Our HTLCs and theirs that are on the node's commitment. */
  get htlcs(): readonly { readonly by: By; readonly id: bigint; readonly hash: string }[] {
    return this.nodeContents.htlcs.map(({ by, id, hash }) => ({ by, id, hash: bytesToHex(hash) }));
  }

  // Coming back

  /** channel_reestablish as this peer stands. */
  async sayReestablish(changes: Partial<MessageOf<"channel_reestablish">> = {}): Promise<void> {
    await this.peer.send({
      type: "channel_reestablish",
      channel_id: this.channelId,
      next_commitment_number: this.peerNumber + 1n,
      next_revocation_number: this.nodeNumber - (this.awaitingRevoke ? 1n : 0n),
      your_last_per_commitment_secret: this.lastNodeSecret,
      my_current_per_commitment_point: this.ownPoint(this.peerNumber),
      ...changes,
    });
  }

  /** A new connection and both channel_reestablish; gives the node's. */
  async reconnect(): Promise<MessageOf<"channel_reestablish">> {
    await this.peer.reconnect();
    const theirs = await this.peer.raw.expect("channel_reestablish");
    await this.sayReestablish();
    return theirs;
  }
}
