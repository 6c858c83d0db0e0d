/** Between the contract's values and ours. Each reader refuses with INVALID_ARGUMENT, CLN code -32602, and names the parameter. */
import { ecc } from "bolt/crypto/ecc.ts";
import { CHANNEL_ID_LENGTH } from "bolt/keys/channel_id.ts";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { isSat, type Sat, sat } from "bolt/units.ts";
import { encodeChannelType, parseChannelType } from "bolt/wire/channel_type.ts";
import { Features, MAX_FEATURE_BYTES } from "bolt/wire/features.ts";
import {
  formatShortChannelId,
  packShortChannelId,
  parseShortChannelId,
  type ShortChannelId,
  shortChannelId,
} from "bolt/wire/short_channel_id.ts";
import { enumOfWord } from "common/rpc/json_form.ts";
import {
  type Amount,
  type AmountOrAll,
  ChannelState,
  ChannelStateSchema,
  ChannelTypeName,
  type Feerate,
  type HtlcState,
  HtlcStateSchema,
  type Outpoint,
} from "gen/cln/primitives_pb.ts";
import type { ChannelInfo, FeerateChoice } from "../ports.ts";
import { invalidParams } from "./refusals.ts";

const MSAT_PER_SAT = 1_000n;
const TXID_LENGTH = 32;

/** A txid in the order of the wire as the contract shows it, and back. */
export function flipTxid(txid: Uint8Array): Uint8Array {
  return txid.toReversed();
}

/** An amount of ours. */
export function toAmount(amount: Sat): { msat: bigint } {
  return { msat: amount * MSAT_PER_SAT };
}

/** Whole satoshi. */
export function readSat(parameter: string, amount: Amount | undefined): Sat {
  if (amount === undefined) throw invalidParams(parameter, "missing");
  if (amount.msat % MSAT_PER_SAT !== 0n) {
    throw invalidParams(parameter, "should be a whole number of satoshi");
  }
  const whole = amount.msat / MSAT_PER_SAT;
  if (!isSat(whole)) throw invalidParams(parameter, "is more than there is");
  return sat(whole);
}

/** Whole satoshi, or everything. */
export function readSatOrAll(parameter: string, amount: AmountOrAll | undefined): Sat | "all" {
  switch (amount?.value.case) {
    case "amount":
      return readSat(parameter, amount.value.value);
    case "all":
      if (amount.value.value) return "all";
      throw invalidParams(parameter, "neither an amount nor all");
    case undefined:
      throw invalidParams(parameter, "neither an amount nor all");
  }
}

/** A fee rate; undefined where none was given. */
export function readFeerate(parameter: string, rate: Feerate | undefined): FeerateChoice | undefined {
  if (rate === undefined) return undefined;
  const { style } = rate;
  switch (style.case) {
    case "slow":
    case "normal":
    case "urgent":
      if (!style.value) throw invalidParams(parameter, "no fee rate is named");
      return { type: "named", name: style.case };
    case "perkb":
    case "perkw":
      if (style.value === 0) throw invalidParams(parameter, "a fee rate is not zero");
      return { type: style.case, rate: style.value };
    case undefined:
      throw invalidParams(parameter, "no fee rate is named");
  }
}

/** Outputs by display txid. */
export function readOutpoints(parameter: string, outpoints: readonly Outpoint[]): OutPoint[] {
  return outpoints.map(({ txid, outnum }, index) => {
    if (txid.length !== TXID_LENGTH) throw invalidParams(`${parameter}[${index}]`, "a txid has 32 bytes");
    return { txid: flipTxid(txid), vout: outnum };
  });
}

/** A node id: a point. */
export function readNodeId(parameter: string, id: Uint8Array): Uint8Array {
  if (!ecc().isPoint(id)) {
    throw invalidParams(parameter, "should be a node id: a compressed point of 33 bytes");
  }
  return id;
}

/** A channel id. */
export function readChannelId(parameter: string, id: Uint8Array): Uint8Array {
  if (id.length !== CHANNEL_ID_LENGTH) {
    throw invalidParams(parameter, `should be a channel id of ${CHANNEL_ID_LENGTH} bytes`);
  }
  return id;
}

/** A short channel id, or an alias. */
export function readShortChannelId(parameter: string, text: string): ShortChannelId {
  const id = parseShortChannelId(text);
  if (id === undefined) throw invalidParams(parameter, "should be a short channel id: BLOCKxTXxOUTPUT");
  return id;
}

/** The bytes of a channel type from its bits; undefined where none were given. */
export function readChannelType(parameter: string, bits: readonly number[]): Uint8Array | undefined {
  if (bits.length === 0) return undefined;
  if (bits.some((bit) => bit >= MAX_FEATURE_BYTES * 8)) throw invalidParams(parameter, "no such feature bit");
  const type = parseChannelType(Features.of(...bits).toBytes());
  if (!type.ok) throw invalidParams(parameter, type.error.reason);
  return encodeChannelType(type.value);
}

const TYPE_NAMES: ReadonlyMap<number, ChannelTypeName> = new Map([
  [12, ChannelTypeName.static_remotekey_even],
  [22, ChannelTypeName.anchors_even],
  [46, ChannelTypeName.scid_alias_even],
  [50, ChannelTypeName.zeroconf_even],
]);

/** Bits and names of a channel type; absent for bytes that are none. */
export function toChannelType(
  bytes: Uint8Array,
): { readonly channelType?: { bits: number[]; names: ChannelTypeName[] } } {
  const features = Features.parse(bytes);
  if (bytes.length === 0 || !features.ok) return {};
  const bits = features.value.bits();
  const names = bits.map((bit) => TYPE_NAMES.get(bit)).filter((name) => name !== undefined);
  return { channelType: { bits, names } };
}

/** The contract's state of a row's. Throws for a state that the contract lacks: a defect of ours. */
export function toState(name: string): ChannelState {
  const state = enumOfWord(ChannelStateSchema, name);
  if (state === undefined) throw new Error(`the contract has no channel state ${name}`);
  return state;
}

/** The contract's state of an HTLC. Throws for one that the contract lacks: a defect of ours. */
export function htlcState({ state }: { readonly state: string }): HtlcState {
  const found = enumOfWord(HtlcStateSchema, state);
  if (found === undefined) throw new Error(`the contract has no HTLC state ${state}`);
  return found;
}

/** The object without the members that are undefined. */
export function given<T extends object>(members: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

/** The short channel id of a channel whose funding is confirmed. */
export function scidOf({ shortChannelId: place }: ChannelInfo): string | undefined {
  if (place === undefined) return undefined;
  return formatShortChannelId(
    packShortChannelId({ block: place.height, tx: place.txIndex, output: place.outputIndex }),
  );
}

/** An alias as short channel ids are shown. */
export function aliasText(alias: bigint | undefined): string | undefined {
  return alias === undefined ? undefined : formatShortChannelId(shortChannelId(alias));
}
