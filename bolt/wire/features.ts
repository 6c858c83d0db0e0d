/** Feature bits (BOLT 9): the bit set, the table of what each pair of bits means, what we offer, what a peer may require. */

import { bytesToHex } from "@noble/hashes/utils.js";
import { err, ok, type Result } from "bolt/result.ts";

/** Longest feature vector that we take from a peer: a peer's vector is stored and passed on, and could be 64 kB. */
export const MAX_FEATURE_BYTES = 1024;
const MAX_BIT = MAX_FEATURE_BYTES * 8 - 1;

/** Where BOLT 9 lets a feature appear. */
export type FeatureContext = "init" | "node" | "invoice" | "channel_type";

/** One pair of bits: the even one requires, the odd one after it offers. */
export interface FeatureRow {
  /** BOLT's name. */
  readonly name: string;
  /** The even bit. */
  readonly bit: number;
  /** Where it may appear; empty for those that are only implied today. */
  readonly contexts: readonly FeatureContext[];
  /** Names of features that must be set with it. */
  readonly dependencies: readonly string[];
  /** BOLT 9's ASSUMED: everyone has it, so it counts whether set or not. */
  readonly assumed: boolean;
}

/** BOLT 9's table. Dependencies on ASSUMED features are left out, as those always hold. */
export const FEATURES = [
  feature("option_data_loss_protect", 0, [], { assumed: true }),
  feature("option_upfront_shutdown_script", 4, ["init", "node"]),
  feature("gossip_queries", 6, []),
  feature("var_onion_optin", 8, [], { assumed: true }),
  feature("gossip_queries_ex", 10, ["init", "node"]),
  feature("option_static_remotekey", 12, ["channel_type"], { assumed: true }),
  feature("payment_secret", 14, [], { assumed: true }),
  feature("basic_mpp", 16, ["init", "node", "invoice"]),
  feature("option_support_large_channel", 18, ["init", "node"]),
  feature("option_anchors", 22, ["init", "node", "channel_type"]),
  feature("option_route_blinding", 24, ["init", "node", "invoice"]),
  feature("option_shutdown_anysegwit", 26, ["init", "node"]),
  feature("option_dual_fund", 28, ["init", "node"]),
  feature("option_quiesce", 34, ["init", "node"]),
  feature("option_attribution_data", 36, ["init", "node", "invoice"]),
  feature("option_onion_messages", 38, ["init", "node"]),
  feature("option_provide_storage", 42, ["init", "node"]),
  feature("option_channel_type", 44, [], { assumed: true }),
  feature("option_scid_alias", 46, ["init", "node", "channel_type"]),
  feature("option_payment_metadata", 48, ["invoice"]),
  feature("option_zeroconf", 50, ["init", "node", "channel_type"], { dependencies: ["option_scid_alias"] }),
  feature("option_simple_close", 60, ["init", "node"], { dependencies: ["option_shutdown_anysegwit"] }),
  feature("option_splice", 62, ["init", "node"]),
] as const;

/** BOLT's name of a feature. */
export type FeatureName = (typeof FEATURES)[number]["name"];

const BY_NAME = new Map<string, FeatureRow>(FEATURES.map((row) => [row.name, row]));
const BY_BIT = new Map<number, FeatureRow>(FEATURES.map((row) => [row.bit, row]));

/** One row of the table. */
function feature<const N extends string>(
  name: N,
  bit: number,
  contexts: readonly FeatureContext[],
  more: { readonly dependencies?: readonly string[]; readonly assumed?: boolean } = {},
): FeatureRow & { readonly name: N } {
  return { name, bit, contexts, dependencies: more.dependencies ?? [], assumed: more.assumed ?? false };
}

/** What is wrong with a peer's features; `reason` may be printed and sent. */
export type FeatureError =
  /** Longer than {@link MAX_FEATURE_BYTES}. */
  | { readonly type: "features_too_long"; readonly reason: string }
  /** The peer requires what we do not know or do not offer. */
  | { readonly type: "required_by_peer"; readonly reason: string; readonly bits: readonly number[] }
  /** The peer offers a feature without one that belongs to it. */
  | {
    readonly type: "missing_dependency";
    readonly reason: string;
    readonly feature: string;
    readonly dependency: string;
  }
  /** We require what the peer does not offer. */
  | { readonly type: "required_by_us"; readonly reason: string; readonly feature: string };

/** An immutable set of feature bits. Bit 0 is the lowest of the last byte. */
export class Features {
  /** No feature at all. */
  static readonly NONE = new Features(new Uint8Array());
  /** Without leading zero bytes. */
  readonly #bytes: Uint8Array;

  private constructor(bytes: Uint8Array) {
    const first = bytes.findIndex((byte) => byte !== 0);
    this.#bytes = first === -1 ? new Uint8Array() : Uint8Array.from(bytes.subarray(first));
  }

  /** A vector from the wire; leading zero bytes are dropped. Fails beyond {@link MAX_FEATURE_BYTES}. */
  static parse(bytes: Uint8Array): Result<Features, FeatureError> {
    if (bytes.length > MAX_FEATURE_BYTES) {
      const reason = `${bytes.length} bytes of features, at most ${MAX_FEATURE_BYTES}`;
      return err({ type: "features_too_long", reason });
    }
    return ok(new Features(bytes));
  }

  /** The set of these bits. Throws RangeError for one that is not a bit of {@link MAX_FEATURE_BYTES} bytes. */
  static of(...bits: readonly number[]): Features {
    for (const bit of bits) {
      if (!Number.isInteger(bit) || bit < 0 || bit > MAX_BIT) {
        throw new RangeError(`not a feature bit: ${bit}`);
      }
    }
    const length = bits.length === 0 ? 0 : Math.floor(Math.max(...bits) / 8) + 1;
    const bytes = new Uint8Array(length);
    for (const bit of bits) {
      const index = length - 1 - Math.floor(bit / 8);
      bytes[index] = (bytes[index] ?? 0) | (1 << (bit % 8));
    }
    return new Features(bytes);
  }

  /** Whether this very bit is set. */
  hasBit(bit: number): boolean {
    const byte = this.#bytes[this.#bytes.length - 1 - Math.floor(bit / 8)];
    return byte !== undefined && (byte & (1 << (bit % 8))) !== 0;
  }

  /** The bits that are set, rising. */
  bits(): number[] {
    const bits: number[] = [];
    for (let bit = 0; bit < this.#bytes.length * 8; bit++) if (this.hasBit(bit)) bits.push(bit);
    return bits;
  }

  /** The bits of both. */
  union(other: Features): Features {
    return Features.of(...this.bits(), ...other.bits());
  }

  /** Whether both hold the same bits. */
  equals(other: Features): boolean {
    return this.toHex() === other.toHex();
  }

  /** The shortest vector, as a copy. */
  toBytes(): Uint8Array {
    return this.#bytes.slice();
  }

  /** The shortest vector as hex. */
  toHex(): string {
    return bytesToHex(this.#bytes);
  }
}

/** Whether a feature is offered or required: either of its bits. An ASSUMED one that is not set is false here. */
export function hasFeature(features: Features, name: FeatureName): boolean {
  const { bit } = row(name);
  return features.hasBit(bit) || features.hasBit(bit + 1);
}

/** Whether both sides have a feature; an ASSUMED one always holds. */
export function isNegotiated(ours: Features, theirs: Features, name: FeatureName): boolean {
  return row(name).assumed || (hasFeature(ours, name) && hasFeature(theirs, name));
}

/** The even bit of a feature. */
export function featureBit(name: FeatureName): number {
  return row(name).bit;
}

/** The name of the pair that a bit belongs to, or undefined. */
export function featureName(bit: number): string | undefined {
  return BY_BIT.get(bit - (bit % 2))?.name;
}

/**
 * Whether we can talk to a peer (BOLT 1 and 9, receiver of `init`). An even bit that we do not know or do not offer
 * ends it, unless the feature is ASSUMED; so does a feature without what it depends on. ASSUMED features are never
 * asked of the peer, as BOLT 9 lets it leave them out.
 */
export function checkPeerFeatures(ours: Features, theirs: Features): Result<Features, FeatureError> {
  const refused = theirs.bits().filter((bit) => bit % 2 === 0 && !supports(ours, bit));
  if (refused.length > 0) {
    return err({
      type: "required_by_peer",
      bits: refused,
      reason: `required feature not supported: ${refused.join(", ")}`,
    });
  }
  for (const { name, bit, dependencies, assumed } of FEATURES) {
    if (hasFeature(theirs, name)) {
      for (const dependency of dependencies) {
        const needed = BY_NAME.get(dependency);
        if (needed !== undefined && !theirs.hasBit(needed.bit) && !theirs.hasBit(needed.bit + 1)) {
          const reason = `feature ${name} without ${dependency}`;
          return err({ type: "missing_dependency", feature: name, dependency, reason });
        }
      }
    } else if (ours.hasBit(bit) && !assumed) {
      return err({ type: "required_by_us", feature: name, reason: `feature ${name} is required here` });
    }
  }
  return ok(theirs);
}

/** Whether a peer may require this even bit of us. */
function supports(ours: Features, bit: number): boolean {
  return BY_BIT.get(bit)?.assumed === true || ours.hasBit(bit) || ours.hasBit(bit + 1);
}

function row(name: FeatureName): FeatureRow {
  const found = BY_NAME.get(name);
  if (found === undefined) throw new RangeError(`no such feature: ${name}`);
  return found;
}

/** What depends on the build or its configuration. */
export interface NodeFeatureOptions {
  /** Offer option_scid_alias; true unless said otherwise. */
  readonly scidAlias?: boolean;
  /** Offer option_simple_close; false unless said otherwise. */
  readonly simpleClose?: boolean;
}

/**
 * What this node advertises: the ASSUMED bits, since some peers still insist on them, and what works today. The ASSUMED
 * ones are even as other nodes send them, except for option_channel_type, which is odd.
 */
export function nodeFeatures(options: NodeFeatureOptions = {}): Features {
  const required: readonly FeatureName[] = [
    "option_data_loss_protect",
    "var_onion_optin",
    "option_static_remotekey",
    "payment_secret",
  ];
  const offered: readonly FeatureName[] = [
    "option_upfront_shutdown_script",
    "basic_mpp",
    "option_support_large_channel",
    "option_anchors",
    "option_shutdown_anysegwit",
    "option_dual_fund",
    "option_channel_type",
    ...(options.scidAlias === false ? [] : ["option_scid_alias"] as const),
    ...(options.simpleClose === true ? ["option_simple_close"] as const : []),
  ];
  return Features.of(...required.map(featureBit), ...offered.map((name) => featureBit(name) + 1));
}
