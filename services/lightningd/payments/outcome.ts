/** What an answer to a part of ours means. Pure. */
import { createOnion, MIN_PAYLOAD_LENGTH } from "bolt/onion/create.ts";
import type { AttributionData } from "bolt/onion/attribution.ts";
import { attribute } from "bolt/onion/error_packet.ts";
import { FAILURE_CODES, PERM } from "bolt/onion/failure_codes.ts";
import { failureOfMalformed } from "bolt/onion/failure.ts";
import { POINT_LENGTH } from "bolt/crypto/ecc.ts";
import { PayCode } from "./codes.ts";
import type { PartFailure } from "./payment_store.ts";

const ATTRIBUTION_TIMES_LENGTH = 80;
const ATTRIBUTION_LENGTH = 920;
/** Bytes of an unreadable error that are kept. */
const MAX_KEPT_ONION = 2_048;

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(FAILURE_CODES).map(([name, code]) => [code as number, name]),
);

/** CLN's word for a code: WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS. */
export function failcodeName(code: number): string {
  const name = NAMES.get(code);
  return name === undefined ? `WIRE_UNKNOWN_${code}` : `WIRE_${name.toUpperCase()}`;
}

/** The secrets of a route, made again from what its onion was made of. */
export function sharedSecretsOf(sessionKey: Uint8Array, hops: Uint8Array): readonly Uint8Array[] {
  const pubkeys: Uint8Array[] = [];
  for (let at = 0; at < hops.length; at += POINT_LENGTH) pubkeys.push(hops.subarray(at, at + POINT_LENGTH));
  const onion = createOnion({
    sessionKey,
    hops: pubkeys.map((pubkey) => ({ pubkey, payload: new Uint8Array(MIN_PAYLOAD_LENGTH) })),
    associatedData: new Uint8Array(),
  });
  // The same key and points made an onion before.
  return onion.ok ? onion.value.sharedSecrets : [];
}

function attributionOf(bytes: Uint8Array): AttributionData | undefined {
  if (bytes.length !== ATTRIBUTION_LENGTH) return undefined;
  return {
    htlc_hold_times: bytes.subarray(0, ATTRIBUTION_TIMES_LENGTH),
    truncated_hmacs: bytes.subarray(ATTRIBUTION_TIMES_LENGTH),
  };
}

/** The failure of an error that came back along a route of `hops` nodes. */
export function readFailure(
  reason: Uint8Array,
  attributionData: Uint8Array,
  sessionKey: Uint8Array,
  hops: Uint8Array,
): PartFailure {
  const secrets = sharedSecretsOf(sessionKey, hops);
  const found = attribute(reason, secrets, attributionOf(attributionData));
  if (found.type === "unreadable") {
    return {
      code: PayCode.unparseableOnion,
      name: "unreadable",
      text: "the error that came back cannot be read: a node on the way changed it",
      errorOnion: reason.subarray(0, MAX_KEPT_ONION),
      ...(found.blamedHop === null ? {} : { erringIndex: found.blamedHop + 1 }),
    };
  }
  const { failureCode: failcode, hop } = found;
  const last = hop === secrets.length - 1;
  const final = failcode !== null && last && (failcode & PERM) !== 0;
  const name = failcode === null ? "unreadable" : failcodeName(failcode);
  return {
    code: final ? PayCode.destinationPermFail : PayCode.tryOtherRoute,
    name,
    text: `${last ? "the destination" : `node ${hop + 1} of the route`} failed it: ${name}`,
    erringIndex: hop + 1,
    rawMessage: found.raw,
    ...(failcode === null ? {} : { failcode }),
  };
}

/** The failure of update_fail_malformed_htlc: our peer could not read the onion. */
export function readMalformed(code: number, sha256OfOnion: Uint8Array): PartFailure {
  const failure = failureOfMalformed({ failure_code: code, sha256_of_onion: sha256OfOnion });
  const name = failcodeName(code);
  return {
    code: PayCode.tryOtherRoute,
    name: failure === null ? "unreadable" : name,
    text: `the first node of the route cannot read the onion: ${name}`,
    erringIndex: 1,
    failcode: code,
  };
}

/** A part that never left us: `refusal` is a name of BOLT 4 or of ours. */
export function localFailure(refusal: string, detail: string): PartFailure {
  const failcode = Object.entries(FAILURE_CODES).find(([name]) => name === refusal)?.[1] ??
    FAILURE_CODES.temporary_channel_failure;
  return {
    code: PayCode.tryOtherRoute,
    name: failcodeName(failcode),
    text: detail === "" ? refusal : `${refusal}: ${detail}`,
    erringIndex: 0,
    failcode,
  };
}

/** Whether trying again cannot help: the destination said so. */
export function isFinal(failure: PartFailure): boolean {
  return failure.code === PayCode.destinationPermFail;
}
