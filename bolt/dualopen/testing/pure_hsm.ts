/** hsmd's part of the dual-open machine with keys of its own, for tests of the pure machine: no memory, no rules. */
import { ecc } from "bolt/crypto/ecc.ts";
import { type CoinKind, secret, signInput } from "bolt/interactive/testing.ts";
import { deriveCommitmentKeys } from "bolt/keys/derive.ts";
import { obscuringFactor } from "bolt/keys/commitment_number.ts";
import type { Result } from "bolt/result.ts";
import { type InitialCommitments, initialCommitments } from "bolt/tx/initial.ts";
import { commitmentSighash } from "bolt/tx/sighash.ts";
import { encodeWitness } from "bolt/tx/witness.ts";
import type { Attempt, ChannelParams, PartyKeys, PartyParams, SavedChannel } from "../types.ts";

function must<T>(result: Result<T, { readonly type: string }>): T {
  if (!result.ok) throw new Error(result.error.type);
  return result.value;
}

/** Keys of one side's channel. */
export class PureHsm {
  readonly keys: PartyKeys;
  readonly #fundingSecret: Uint8Array;

  /** `seed`: any number; different ones give different keys. */
  constructor(seed: number) {
    this.#fundingSecret = secret(seed);
    const point = (i: number) => ecc().pointFromSecret(secret(seed + i));
    this.keys = {
      fundingPubkey: point(0),
      revocationBasepoint: point(1),
      paymentBasepoint: point(2),
      delayedPaymentBasepoint: point(3),
      htlcBasepoint: point(4),
      firstPerCommitmentPoint: point(5),
      secondPerCommitmentPoint: point(6),
    };
  }

  /** Our signature on the peer's commitment 0. */
  signRemoteCommitment(channel: SavedChannel, attempt: Attempt): Uint8Array {
    return ecc().signEcdsa(commitmentSighash(commitmentsOf(channel, attempt).remote), this.#fundingSecret);
  }

  /** Whether the peer's signature on our commitment 0 is good. */
  checkLocalCommitment(channel: SavedChannel, attempt: Attempt, signature: Uint8Array): boolean {
    const hash = commitmentSighash(commitmentsOf(channel, attempt).local);
    return ecc().verifyEcdsa(hash, signature, channel.params.remote.fundingPubkey);
  }

  /** Witnesses of our inputs, by index; a key path's index is the seed of its coin. */
  signFunding(attempt: Attempt, kind: CoinKind): Map<number, Uint8Array> {
    return new Map(attempt.wallet.inputs.map(({ index, key }) => {
      return [index, encodeWitness(signInput(attempt.tx, index, kind, key.index))] as const;
    }));
  }
}

/** Both first commitments of an attempt, as BOLT 3 has them. */
export function commitmentsOf(channel: SavedChannel, attempt: Attempt): InitialCommitments {
  const { params, opener } = channel;
  const side = (own: PartyParams, other: PartyParams, funding: "local" | "remote") => ({
    funding: attempt.tx.contributions[funding],
    fundingPubkey: own.fundingPubkey,
    keys: must(deriveCommitmentKeys(own, other, own.firstPerCommitmentPoint)),
    toSelfDelay: own.toSelfDelay,
    dustLimit: own.dustLimit,
  });
  return must(initialCommitments({
    format: "anchors",
    outpoint: { txid: attempt.tx.txid, vout: attempt.tx.fundingOutputIndex },
    opener,
    feerate: params.commitmentFeerate,
    obscuringFactor: obscuring(params, opener),
    local: side(params.local, params.remote, "local"),
    remote: side(params.remote, params.local, "remote"),
  }));
}

function obscuring(params: ChannelParams, opener: "local" | "remote"): bigint {
  const [first, second] = opener === "local" ? [params.local, params.remote] : [params.remote, params.local];
  return obscuringFactor(first.paymentBasepoint, second.paymentBasepoint);
}
