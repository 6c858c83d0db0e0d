import { sameBytes } from "bolt/tx/transaction.ts";
import { checkPeerFeatures, type FeatureError, Features } from "./features.ts";
import type { Init } from "./messages.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** What our `init` says. */
export interface InitContent {
  /** What we offer. */
  readonly features: Features;
  /** Chain hashes that we serve, 32 bytes each. */
  readonly chains: readonly Uint8Array[];
  /** Where we see the peer, as an address descriptor (BOLT 7); left out when absent. */
  readonly remoteAddr?: Uint8Array | undefined;
}

/** What a peer's `init` comes down to. */
export interface PeerInit {
  /** Both of its vectors together. */
  readonly features: Features;
  /** Where the peer sees us: an undecoded address descriptor that it may have made up. */
  readonly remoteAddr: Uint8Array | undefined;
}

/** Why we cannot talk to a peer; `reason` may be printed and sent. */
export type InitError = FeatureError | { readonly type: "no_common_chain"; readonly reason: string };

/** Our `init` (BOLT 1): globalfeatures stays empty, the networks are named. */
export function buildInit(content: InitContent): Init {
  return {
    type: "init",
    globalfeatures: new Uint8Array(),
    features: content.features.toBytes(),
    networks: content.chains,
    ...(content.remoteAddr === undefined ? {} : { remote_addr: content.remoteAddr }),
  };
}

/** Judges a peer's `init` (BOLT 1): a shared chain when it names any, and features that go together with ours. */
export function checkPeerInit(ours: InitContent, init: Init): Result<PeerInit, InitError> {
  const shared = init.networks === undefined ||
    init.networks.some((theirs) => ours.chains.some((chain) => sameBytes(chain, theirs)));
  if (!shared) return err({ type: "no_common_chain", reason: "no common network" });
  const globalFeatures = Features.parse(init.globalfeatures);
  if (!globalFeatures.ok) return globalFeatures;
  const features = Features.parse(init.features);
  if (!features.ok) return features;
  const checked = checkPeerFeatures(ours.features, globalFeatures.value.union(features.value));
  return checked.ok ? ok({ features: checked.value, remoteAddr: init.remote_addr }) : checked;
}
