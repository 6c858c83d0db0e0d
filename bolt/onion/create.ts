/** Making an onion (BOLT 4, Packet Construction). */
import { ecc } from "bolt/crypto/ecc.ts";
import { ONION_KEY_LENGTH, onionKey, onionStream } from "bolt/onion/keys.ts";
import {
  blindingFactor,
  HOP_PAYLOADS_LENGTH,
  MAX_ONION_HOPS,
  ONION_VERSION,
  type OnionPacket,
  packetHmac,
} from "bolt/onion/packet.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** Shortest payload: lengths 0 and 1 are reserved (BOLT 4). */
export const MIN_PAYLOAD_LENGTH = 2;
const TWO_BYTE_LENGTH = 0xfd;
const SHORT_LENGTH_SIZE = 1;
const LONG_LENGTH_SIZE = 3;

/** A node of the route and what it is told. */
export interface OnionHop {
  /** Its node id, or its blinded one: 33 bytes. */
  readonly pubkey: Uint8Array;
  /** The TLV stream for it, without its length. */
  readonly payload: Uint8Array;
}

/** What an onion is made of. */
export interface CreateOnionParams {
  /** 32 bytes, random and used for this onion alone: the same key twice shows that two payments have one origin. */
  readonly sessionKey: Uint8Array;
  /** From the first node that gets the packet to the last one. */
  readonly hops: readonly OnionHop[];
  /** What every hop has besides and the packet commits to: the payment hash. */
  readonly associatedData: Uint8Array;
}

/** An onion and what its origin must keep. */
export interface CreatedOnion {
  /** For the first hop. */
  readonly packet: OnionPacket;
  /** One a hop, in their order: they read the errors that come back. Secret. */
  readonly sharedSecrets: readonly Uint8Array[];
}

/** Why there is no onion. */
export type CreateOnionFault =
  | { readonly type: "no_hops" }
  | { readonly type: "too_many_hops"; readonly hops: number; readonly max: number }
  /** The payloads with their lengths and HMACs are more than the packet has room for. */
  | { readonly type: "payloads_too_long"; readonly bytes: number; readonly max: number }
  | { readonly type: "payload_too_short"; readonly hop: number }
  | { readonly type: "bad_pubkey"; readonly hop: number }
  /** Not a private key. */
  | { readonly type: "bad_session_key" };

/** Bytes that a payload takes in the packet: its length, itself, and the HMAC for the next hop. */
export function hopPayloadSize(payloadLength: number): number {
  const lengthSize = payloadLength < TWO_BYTE_LENGTH ? SHORT_LENGTH_SIZE : LONG_LENGTH_SIZE;
  return lengthSize + payloadLength + ONION_KEY_LENGTH;
}

/** Makes the packet for a route. */
export function createOnion(params: CreateOnionParams): Result<CreatedOnion, CreateOnionFault> {
  const { sessionKey, hops, associatedData } = params;
  const misfit = findMisfit(hops);
  if (misfit !== null) return err(misfit);
  const secrets = deriveSharedSecrets(sessionKey, hops);
  if (!secrets.ok) return secrets;
  const { publicKey, sharedSecrets } = secrets.value;

  const streams = sharedSecrets.map((secret, i) =>
    onionStream(onionKey("rho", secret), HOP_PAYLOADS_LENGTH + sizeOf(hops[i]!))
  );
  const filler = makeFiller(hops, streams);
  const payloads = onionStream(onionKey("pad", sessionKey), HOP_PAYLOADS_LENGTH);
  let hmac: Uint8Array = new Uint8Array(ONION_KEY_LENGTH);
  for (let i = hops.length - 1; i >= 0; i--) {
    wrap(payloads, hops[i]!, hmac, streams[i]!);
    if (i === hops.length - 1) payloads.set(filler, HOP_PAYLOADS_LENGTH - filler.length);
    hmac = packetHmac(sharedSecrets[i]!, payloads, associatedData);
  }
  return ok({
    packet: { version: ONION_VERSION, public_key: publicKey, hop_payloads: payloads, hmac },
    sharedSecrets,
  });
}

function sizeOf(hop: OnionHop): number {
  return hopPayloadSize(hop.payload.length);
}

function findMisfit(hops: readonly OnionHop[]): CreateOnionFault | null {
  if (hops.length === 0) return { type: "no_hops" };
  if (hops.length > MAX_ONION_HOPS) return { type: "too_many_hops", hops: hops.length, max: MAX_ONION_HOPS };
  const short = hops.findIndex((hop) => hop.payload.length < MIN_PAYLOAD_LENGTH);
  if (short >= 0) return { type: "payload_too_short", hop: short };
  const bytes = hops.reduce((sum, hop) => sum + sizeOf(hop), 0);
  return bytes > HOP_PAYLOADS_LENGTH ? { type: "payloads_too_long", bytes, max: HOP_PAYLOADS_LENGTH } : null;
}

/** The first hop's key and every hop's secret (BOLT 4, Shared Secret and Blinding Ephemeral Onion Keys). */
function deriveSharedSecrets(
  sessionKey: Uint8Array,
  hops: readonly OnionHop[],
): Result<{ publicKey: Uint8Array; sharedSecrets: Uint8Array[] }, CreateOnionFault> {
  const curve = ecc();
  if (!curve.isPrivate(sessionKey)) return err({ type: "bad_session_key" });
  const publicKey = curve.pointFromSecret(sessionKey);
  const sharedSecrets: Uint8Array[] = [];
  let ephemeral = sessionKey;
  let point = publicKey;
  for (const [i, hop] of hops.entries()) {
    const secret = curve.ecdh(ephemeral, hop.pubkey);
    if (secret === null) return err({ type: "bad_pubkey", hop: i });
    sharedSecrets.push(secret);
    if (i === hops.length - 1) break;
    const next = curve.privateMul(ephemeral, blindingFactor(point, secret));
    // A factor of zero takes breaking SHA-256; another session key helps.
    if (next === null) return err({ type: "bad_session_key" });
    ephemeral = next;
    point = curve.pointFromSecret(next);
  }
  return ok({ publicKey, sharedSecrets });
}

/** What the hops before the last one will have shifted in, as the last one sees it (BOLT 4, Filler Generation). */
function makeFiller(hops: readonly OnionHop[], streams: readonly Uint8Array[]): Uint8Array {
  const before = hops.slice(0, -1);
  const filler = new Uint8Array(before.reduce((sum, hop) => sum + sizeOf(hop), 0));
  let length = 0;
  for (const [i, hop] of before.entries()) {
    const start = HOP_PAYLOADS_LENGTH - length;
    length += sizeOf(hop);
    const stream = streams[i]!;
    for (let k = 0; k < length; k++) filler[k]! ^= stream[start + k]!;
  }
  return filler;
}

/** Puts a hop's part before what is there, and the hop's stream over all of it. */
function wrap(payloads: Uint8Array, hop: OnionHop, hmac: Uint8Array, stream: Uint8Array): void {
  const { payload } = hop;
  const size = sizeOf(hop);
  payloads.copyWithin(size, 0);
  let at: number;
  if (payload.length < TWO_BYTE_LENGTH) {
    payloads[0] = payload.length;
    at = SHORT_LENGTH_SIZE;
  } else {
    payloads[0] = TWO_BYTE_LENGTH;
    payloads[1] = payload.length >> 8;
    payloads[2] = payload.length & 0xff;
    at = LONG_LENGTH_SIZE;
  }
  payloads.set(payload, at);
  payloads.set(hmac, at + payload.length);
  for (let k = 0; k < HOP_PAYLOADS_LENGTH; k++) payloads[k]! ^= stream[k]!;
}
