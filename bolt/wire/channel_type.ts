import { err, ok, type Result } from "bolt/result.ts";
import { featureBit, Features } from "./features.ts";

/** A channel type that we can speak: zero-fee anchors with static remote keys, and what was agreed beside (BOLT 2). */
export interface ChannelType {
  /** option_scid_alias: payments come in by alias only, the real short channel id is never told. */
  readonly scidAlias: boolean;
  /** option_zeroconf: the channel may be used before its funding transaction confirms. */
  readonly zeroconf: boolean;
}

/** Why a `channel_type` is refused. */
export type ChannelTypeError =
  /** No bit at all, or with leading zero bytes: BOLT 2 wants the shortest form, and it is compared byte by byte. */
  | { readonly type: "channel_type_not_minimal"; readonly reason: string }
  /** Bits that are not one of our types. */
  | { readonly type: "channel_type_unsupported"; readonly reason: string };

/** Longest channel type that is looked at. */
const MAX_CHANNEL_TYPE_BYTES = 32;
const STATIC_REMOTEKEY = featureBit("option_static_remotekey");
const ANCHORS = featureBit("option_anchors");
const SCID_ALIAS = featureBit("option_scid_alias");
const ZEROCONF = featureBit("option_zeroconf");

/** The type that every node speaks: option_anchors with option_static_remotekey, neither alias nor zero-conf. */
export const ANCHORS_STATIC_REMOTEKEY: ChannelType = { scidAlias: false, zeroconf: false };

/** The bytes of a `channel_type`, in their shortest form. */
export function encodeChannelType(type: ChannelType): Uint8Array {
  return Features.of(
    STATIC_REMOTEKEY,
    ANCHORS,
    ...(type.scidAlias ? [SCID_ALIAS] : []),
    ...(type.zeroconf ? [ZEROCONF] : []),
  ).toBytes();
}

/** Reads a `channel_type`. Whether alias or zero-conf suit this peer is for the caller to say. */
export function parseChannelType(bytes: Uint8Array): Result<ChannelType, ChannelTypeError> {
  if (bytes.length === 0 || bytes[0] === 0) {
    return err({ type: "channel_type_not_minimal", reason: "channel_type is not in its shortest form" });
  }
  if (bytes.length > MAX_CHANNEL_TYPE_BYTES) {
    return err({ type: "channel_type_unsupported", reason: `channel_type of ${bytes.length} bytes` });
  }
  const features = Features.parse(bytes);
  if (!features.ok) return err({ type: "channel_type_unsupported", reason: features.error.reason });
  const bits = features.value.bits();
  const known: readonly number[] = [STATIC_REMOTEKEY, ANCHORS, SCID_ALIAS, ZEROCONF];
  if (
    !bits.includes(STATIC_REMOTEKEY) || !bits.includes(ANCHORS) || bits.some((bit) => !known.includes(bit))
  ) {
    return err({ type: "channel_type_unsupported", reason: `channel_type with bits ${bits.join(", ")}` });
  }
  return ok({ scidAlias: bits.includes(SCID_ALIAS), zeroconf: bits.includes(ZEROCONF) });
}
