/** The key tree, frozen in docs/keys.md: everything follows from the 64-byte BIP 39 seed. Pure. */
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256, sha512 } from "@noble/hashes/sha2.js";
import { concatBytes, utf8ToBytes } from "@noble/hashes/utils.js";
import { HDKey } from "@scure/bip32";
import { crypto as bcrypto } from "bitcoinjs-lib";
import { ecc, type RecoverableSignature } from "bolt/crypto/ecc.ts";
import type { Basepoints } from "bolt/keys/derive.ts";
import { generateFromSeed, shachainIndex } from "bolt/keys/shachain.ts";
import { p2tr } from "bolt/tx/scripts.ts";
import type { Network } from "bolt/wire/chain_hash.ts";

/** Bytes of a BIP 39 seed. */
export const SEED_LENGTH = 64;
/** Payment basepoints that the seed alone gives: a lost database still finds every `to_remote`. */
export const PAYMENT_KEYS = 1000;
/** Bytes of a channel_key_id. */
export const CHANNEL_KEY_ID_LENGTH = 32;
/** Highest index of a wallet key: not hardened (BIP 32). */
export const MAX_WALLET_INDEX = 0x7fff_ffff;
/** Purposes of keys that do not belong to a channel. */
export const PURPOSES = {
  node: "arcus/v1/node",
  rune: "arcus/v1/rune",
  invoice: "arcus/v1/invoice",
  backup: "arcus/v1/backup",
} as const;

const KEY_LENGTH = 32;
const CHAIN_CODE_LENGTH = 32;
const ODD = 0x03;
const NO_SALT = new Uint8Array(0);
const PAYMENT_PURPOSE = "arcus/v1/payment";
const CHANNEL_PURPOSE = "arcus/v1/channel";
const PAYMENT_INDEX_TAG = "arcus/v1/payment-index";
const TEST_VERSIONS = { private: 0x0435_8394, public: 0x0435_87cf };

/** A secret and its compressed point. */
export interface KeyPair {
  readonly secret: Uint8Array;
  readonly point: Uint8Array;
}

/** A wallet key (BIP 86). `secret` is already tweaked: it signs for `script`'s output key. */
export interface WalletKeyPair {
  readonly secret: Uint8Array;
  /** x-only internal key. */
  readonly internalKey: Uint8Array;
  /** scriptPubKey. */
  readonly script: Uint8Array;
}

/** Names a wallet key: m/86'/coin'/0'/change/index. */
export interface WalletPath {
  readonly change: boolean;
  readonly index: number;
}

/** The public keys of our side of a channel. */
export interface ChannelPublicKeys extends Basepoints {
  readonly fundingPubkey: Uint8Array;
}

/** Keys of a channel. */
export interface ChannelKeyTree {
  readonly publicKeys: ChannelPublicKeys;
  readonly fundingSecret: Uint8Array;
  /** Secret of the HTLC basepoint. */
  readonly htlcSecret: Uint8Array;
  readonly paymentKeyIndex: number;
  /** Our per-commitment secret of a number: the commitment of that number is revoked once it is out. */
  perCommitmentSecret(number: bigint): Uint8Array;
  /** Our per-commitment point of a number. */
  perCommitmentPoint(number: bigint): Uint8Array;
}

/** Secrets of consecutive numbers share all but these lowest bits of their way down the tree. */
const SHARED_BITS = 8n;
/** Points that are kept: of the commitment before the newest, the newest, the next and the one after it. */
const KEPT_POINTS = 4;

/** Our per-commitment secrets and points from their seed; neighbours cost a few hashes and not 48. */
function perCommitment(
  seed: Uint8Array,
): Pick<ChannelKeyTree, "perCommitmentSecret" | "perCommitmentPoint"> {
  let shared = { high: -1n, secret: seed };
  const points = new Map<bigint, Uint8Array>();
  const secretOf = (number: bigint): Uint8Array => {
    const index = shachainIndex(number);
    const high = index >> SHARED_BITS << SHARED_BITS;
    if (shared.high !== high) shared = { high, secret: generateFromSeed(seed, high) };
    return generateFromSeed(shared.secret, index - high);
  };
  return {
    perCommitmentSecret: secretOf,
    perCommitmentPoint(number) {
      const known = points.get(number);
      if (known !== undefined) return known;
      const [oldest] = points.keys();
      if (oldest !== undefined && points.size >= KEPT_POINTS) points.delete(oldest);
      const point = ecc().pointFromSecret(secretOf(number));
      points.set(number, point);
      return point;
    },
  };
}

function derive(ikm: Uint8Array, salt: Uint8Array, purpose: string): Uint8Array {
  return hkdf(sha256, ikm, salt, utf8ToBytes(purpose), KEY_LENGTH);
}

/** Not a private key with a probability of 2^-128; then the purpose gets a suffix. */
function deriveKey(ikm: Uint8Array, salt: Uint8Array, purpose: string): KeyPair {
  let name = purpose;
  for (;;) {
    const secret = derive(ikm, salt, name);
    if (ecc().isPrivate(secret)) return { secret, point: ecc().pointFromSecret(secret) };
    name += "+";
  }
}

/** Which payment key a channel has: drawn evenly enough from 64 bits of a hash of its channel_key_id. */
export function paymentKeyIndex(channelKeyId: Uint8Array): number {
  const digest = sha256(concatBytes(utf8ToBytes(PAYMENT_INDEX_TAG), channelKeyId));
  const number = new DataView(digest.buffer, digest.byteOffset).getBigUint64(0);
  return Number(number % BigInt(PAYMENT_KEYS));
}

/** BIP 32, private parent to private child, not hardened; null with a probability of 2^-127. */
function childOf(
  parent: { readonly secret: Uint8Array; readonly chainCode: Uint8Array },
  index: number,
): { readonly secret: Uint8Array; readonly chainCode: Uint8Array } | null {
  const suffix = new Uint8Array(4);
  new DataView(suffix.buffer).setUint32(0, index);
  const i = hmac(sha512, parent.chainCode, concatBytes(ecc().pointFromSecret(parent.secret), suffix));
  const secret = ecc().privateAdd(parent.secret, i.subarray(0, KEY_LENGTH));
  return secret === null ? null : { secret, chainCode: i.slice(KEY_LENGTH, KEY_LENGTH + CHAIN_CODE_LENGTH) };
}

function requireSome<T>(value: T | null): T {
  if (value === null) throw new Error("no key at this index (probability 2^-127)");
  return value;
}

/** BIP 341 without a script tree: the tweaked pair of an internal secret. */
function taproot(internalSecret: Uint8Array): WalletKeyPair {
  const point = ecc().pointFromSecret(internalSecret);
  const internalKey = point.slice(1);
  const even = point[0] === ODD ? requireSome(ecc().privateNegate(internalSecret)) : internalSecret;
  const tweak = bcrypto.taggedHash("TapTweak", internalKey);
  const secret = requireSome(ecc().privateAdd(even, tweak));
  return { secret, internalKey, script: p2tr(ecc().pointFromSecret(secret).slice(1)) };
}

/** Every key of a node. Holds secrets: never log one. */
export class KeyTree {
  readonly #seed: Uint8Array;
  readonly #branches: readonly { readonly secret: Uint8Array; readonly chainCode: Uint8Array }[];
  readonly #node: KeyPair;
  /** Extended public key of m/86'/coin'/0'. */
  readonly walletXpub: string;

  /** Throws RangeError unless the seed has 64 bytes. */
  constructor(seed: Uint8Array, network: Network) {
    if (seed.length !== SEED_LENGTH) throw new RangeError("a BIP 39 seed has 64 bytes");
    this.#seed = seed.slice();
    const main = network === "bitcoin";
    const master = main ? HDKey.fromMasterSeed(seed) : HDKey.fromMasterSeed(seed, TEST_VERSIONS);
    const account = master.derive(`m/86'/${main ? 0 : 1}'/0'`);
    if (account.privateKey === null || account.chainCode === null) throw new Error("no account key");
    const parent = { secret: account.privateKey, chainCode: account.chainCode };
    this.#branches = [requireSome(childOf(parent, 0)), requireSome(childOf(parent, 1))];
    this.walletXpub = account.publicExtendedKey;
    this.#node = deriveKey(this.#seed, NO_SALT, PURPOSES.node);
  }

  /** 33 bytes. */
  get nodeId(): Uint8Array {
    return this.#node.point;
  }

  /** SHA-256 of the compressed shared point of the node key (BOLT 8); null for a bad point. */
  ecdh(point: Uint8Array): Uint8Array | null {
    return ecc().ecdh(this.#node.secret, point);
  }

  /** Signs a hash with the node key (BOLT 11). */
  signWithNodeKey(hash: Uint8Array): RecoverableSignature {
    return ecc().signRecoverable(hash, this.#node.secret);
  }

  /** A key of the wallet. Throws RangeError for an index that is not 0 to {@link MAX_WALLET_INDEX}. */
  wallet(path: WalletPath): WalletKeyPair {
    const { change, index } = path;
    if (!Number.isInteger(index) || index < 0 || index > MAX_WALLET_INDEX) {
      throw new RangeError(`not a wallet index: ${index}`);
    }
    return taproot(requireSome(childOf(this.#branches[change ? 1 : 0]!, index)).secret);
  }

  /** A key that serves one purpose and no channel: runes, invoices, backups. */
  purpose(name: Exclude<keyof typeof PURPOSES, "node">): KeyPair {
    return deriveKey(this.#seed, NO_SALT, PURPOSES[name]);
  }

  /** One of the payment keys. Throws RangeError unless 0 to 999. */
  payment(index: number): KeyPair {
    if (!Number.isInteger(index) || index < 0 || index >= PAYMENT_KEYS) {
      throw new RangeError(`not a payment key index: ${index}`);
    }
    return deriveKey(this.#seed, NO_SALT, `${PAYMENT_PURPOSE}/${index}`);
  }

  /** Keys of a channel. Throws RangeError unless its id has 32 bytes. */
  channel(channelKeyId: Uint8Array): ChannelKeyTree {
    if (channelKeyId.length !== CHANNEL_KEY_ID_LENGTH) throw new RangeError("a channel_key_id has 32 bytes");
    const secret = derive(this.#seed, channelKeyId, CHANNEL_PURPOSE);
    const key = (name: string) => deriveKey(secret, NO_SALT, `${CHANNEL_PURPOSE}/${name}`);
    const funding = key("funding");
    const htlc = key("htlc");
    const shachainSeed = derive(secret, NO_SALT, `${CHANNEL_PURPOSE}/per-commitment`);
    const index = paymentKeyIndex(channelKeyId);
    return {
      publicKeys: {
        fundingPubkey: funding.point,
        revocationBasepoint: key("revocation").point,
        paymentBasepoint: this.payment(index).point,
        delayedPaymentBasepoint: key("delayed-payment").point,
        htlcBasepoint: htlc.point,
      },
      fundingSecret: funding.secret,
      htlcSecret: htlc.secret,
      paymentKeyIndex: index,
      ...perCommitment(shachainSeed),
    };
  }
}
