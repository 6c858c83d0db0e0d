/**
 * BOLT 8, Authenticated Key Agreement Handshake: Noise_XK as a pure machine for both roles.
 *
 * The node's static secret is never here: where it is needed the machine asks `ecdh` and goes on with `ecdh_result`.
 * The ephemeral secret comes from the caller and must be fresh for every handshake.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { concatBytes } from "@noble/hashes/utils.js";
import { counterNonce, hkdf2, NO_AD, open, seal, TAG_LENGTH } from "bolt/crypto/aead.ts";
import { ecc, POINT_LENGTH } from "bolt/crypto/ecc.ts";
import { err, ok, type Result } from "bolt/result.ts";

/** Bytes of acts one and two: version, ephemeral key, tag. */
export const ACT_ONE_LENGTH = 1 + POINT_LENGTH + TAG_LENGTH;
/** As {@link ACT_ONE_LENGTH}. */
export const ACT_TWO_LENGTH = ACT_ONE_LENGTH;
/** Bytes of act three: version, sealed static key, tag. */
export const ACT_THREE_LENGTH = 1 + POINT_LENGTH + 2 * TAG_LENGTH;
const VERSION = 0;
const SHARED_SECRET_LENGTH = 32;
const EMPTY = new Uint8Array(0);
const NONCE_0 = counterNonce(0);
const NONCE_1 = counterNonce(1);
const PROTOCOL_NAME = new TextEncoder().encode("Noise_XK_secp256k1_ChaChaPoly_SHA256");
const PROLOGUE = new TextEncoder().encode("lightning");

/** Why a handshake ended; names as in the vectors of BOLT 8. All are final: the caller hangs up. */
export type HandshakeError =
  | { readonly type: "ACT1_READ_FAILED" | "ACT2_READ_FAILED" | "ACT3_READ_FAILED" }
  | { readonly type: "ACT1_BAD_VERSION" | "ACT2_BAD_VERSION" | "ACT3_BAD_VERSION"; readonly version: number }
  | { readonly type: "ACT1_BAD_PUBKEY" | "ACT2_BAD_PUBKEY" | "ACT3_BAD_PUBKEY" }
  | { readonly type: "ACT1_BAD_TAG" | "ACT2_BAD_TAG" | "ACT3_BAD_TAG" }
  | { readonly type: "ACT3_BAD_CIPHERTEXT" }
  /** The peer spoke out of turn: whatever it sent cannot belong to an act that depends on our answer. */
  | { readonly type: "UNEXPECTED_BYTES" }
  /** The connection ended while our static key was being asked. */
  | { readonly type: "CLOSED" };

/** What the transport needs. */
export interface HandshakeResult {
  readonly sendKey: Uint8Array;
  readonly recvKey: Uint8Array;
  /** Where key rotation starts, in both directions. */
  readonly chainingKey: Uint8Array;
  /** The peer's node id, proven. */
  readonly remoteStatic: Uint8Array;
  /** What the peer sent behind the last act: the beginning of the transport stream. */
  readonly leftover: Uint8Array;
}

/** What happens to a handshake. */
export type HandshakeInput =
  | { readonly type: "bytes"; readonly bytes: Uint8Array }
  /** Answer to the `ecdh` action: SHA-256 of the compressed product of our static secret and that point. */
  | { readonly type: "ecdh_result"; readonly secret: Uint8Array }
  /** The peer closed, or the deadline passed. */
  | { readonly type: "end" };

/** What the caller does, in order. */
export type HandshakeAction =
  | { readonly type: "send"; readonly bytes: Uint8Array }
  | { readonly type: "ecdh"; readonly point: Uint8Array }
  | { readonly type: "done"; readonly result: HandshakeResult }
  | { readonly type: "failed"; readonly error: HandshakeError };

interface Mixed {
  /** Handshake hash. */
  readonly h: Uint8Array;
  /** Chaining key. */
  readonly ck: Uint8Array;
}

/** A handshake under way. Opaque to the caller, which keeps it between steps and steps each state once. */
export type HandshakeState =
  | {
    readonly type: "initiator_reads_act2";
    readonly mixed: Mixed;
    readonly ephemeralSecret: Uint8Array;
    readonly localStatic: Uint8Array;
    readonly remoteStatic: Uint8Array;
    readonly received: Uint8Array;
  }
  | {
    readonly type: "initiator_awaits_ecdh";
    readonly mixed: Mixed;
    readonly key: Uint8Array;
    readonly localStatic: Uint8Array;
    readonly remoteStatic: Uint8Array;
  }
  | {
    readonly type: "responder_reads_act1";
    readonly mixed: Mixed;
    readonly ephemeralSecret: Uint8Array;
    readonly received: Uint8Array;
  }
  | {
    readonly type: "responder_awaits_ecdh";
    readonly mixed: Mixed;
    readonly ephemeralSecret: Uint8Array;
    readonly remoteEphemeral: Uint8Array;
    readonly tag: Uint8Array;
  }
  | {
    readonly type: "responder_reads_act3";
    readonly mixed: Mixed;
    readonly key: Uint8Array;
    readonly ephemeralSecret: Uint8Array;
    readonly received: Uint8Array;
  }
  | { readonly type: "done" }
  | { readonly type: "failed" };

type StateOf<T extends HandshakeState["type"]> = Extract<HandshakeState, { readonly type: T }>;

/** A state and what is to be done on entering it. */
export interface HandshakeStep {
  readonly state: HandshakeState;
  readonly actions: readonly HandshakeAction[];
}

/** Why no connection can be tried: the node id to call is no point. */
export type BadRemoteStatic = { readonly type: "bad_remote_static" };

/**
 * Calls a node whose id is known; act one is the first action. `localStatic` is our node id. Throws RangeError if our
 * own keys are malformed.
 */
export function startInitiator(keys: {
  readonly localStatic: Uint8Array;
  readonly remoteStatic: Uint8Array;
  readonly ephemeralSecret: Uint8Array;
}): Result<HandshakeStep, BadRemoteStatic> {
  const ephemeralPoint = requireOwnKeys(keys.localStatic, keys.ephemeralSecret);
  const shared = ecc().ecdh(keys.ephemeralSecret, keys.remoteStatic);
  if (shared === null) return err({ type: "bad_remote_static" });
  const start = initialize(keys.remoteStatic);
  const h = mixHash(start.h, ephemeralPoint);
  const [ck, key] = hkdf2(start.ck, shared);
  const tag = seal(key, NONCE_0, h, EMPTY);
  return ok({
    state: {
      type: "initiator_reads_act2",
      mixed: { h: mixHash(h, tag), ck },
      ephemeralSecret: keys.ephemeralSecret.slice(),
      localStatic: keys.localStatic,
      remoteStatic: keys.remoteStatic,
      received: EMPTY,
    },
    actions: [{ type: "send", bytes: concatBytes(Uint8Array.of(VERSION), ephemeralPoint, tag) }],
  });
}

/** Answers a node that calls us. Throws RangeError if our own keys are malformed. */
export function startResponder(keys: {
  readonly localStatic: Uint8Array;
  readonly ephemeralSecret: Uint8Array;
}): HandshakeStep {
  requireOwnKeys(keys.localStatic, keys.ephemeralSecret);
  return {
    state: {
      type: "responder_reads_act1",
      mixed: initialize(keys.localStatic),
      ephemeralSecret: keys.ephemeralSecret.slice(),
      received: EMPTY,
    },
    actions: [],
  };
}

/**
 * One step. Nothing that the peer sends makes it throw; an `ecdh_result` that was not asked for, or any input after
 * `done`, is a defect of the caller and throws. After `failed` every input is ignored.
 */
export function stepHandshake(state: HandshakeState, input: HandshakeInput): HandshakeStep {
  switch (state.type) {
    case "initiator_reads_act2":
      return readAct(
        state.received,
        input,
        ACT_TWO_LENGTH,
        "ACT2_READ_FAILED",
        (received) => ({ ...state, received }),
        (act, rest) => readActTwo(state, act, rest),
      );
    case "responder_reads_act1":
      return readAct(
        state.received,
        input,
        ACT_ONE_LENGTH,
        "ACT1_READ_FAILED",
        (received) => ({ ...state, received }),
        (act, rest) => readActOne(state, act, rest),
      );
    case "responder_reads_act3":
      return readAct(
        state.received,
        input,
        ACT_THREE_LENGTH,
        "ACT3_READ_FAILED",
        (received) => ({ ...state, received }),
        (act, rest) => readActThree(state, act, rest),
      );
    case "initiator_awaits_ecdh":
      return awaitEcdh(state, input, sendActThree);
    case "responder_awaits_ecdh":
      return awaitEcdh(state, input, sendActTwo);
    case "failed":
      return { state, actions: [] };
    case "done":
      throw new Error("handshake: input after the end");
  }
}

/** Collects the exact bytes of an act, waiting in between, then reads it; `rest` is what came behind it. */
function readAct(
  before: Uint8Array,
  input: HandshakeInput,
  length: number,
  shortRead: "ACT1_READ_FAILED" | "ACT2_READ_FAILED" | "ACT3_READ_FAILED",
  wait: (received: Uint8Array) => HandshakeState,
  read: (act: Uint8Array, rest: Uint8Array) => HandshakeStep,
): HandshakeStep {
  switch (input.type) {
    case "bytes": {
      const received = concatBytes(before, input.bytes);
      if (received.length < length) return { state: wait(received), actions: [] };
      return read(received.subarray(0, length), received.slice(length));
    }
    case "end":
      return failed({ type: shortRead });
    case "ecdh_result":
      throw new Error("handshake: ecdh_result without a question");
  }
}

/** The peer cannot know yet what to say while we ask for the ECDH: bytes now are refused, not buffered. */
function awaitEcdh<S>(
  state: S & HandshakeState,
  input: HandshakeInput,
  proceed: (state: S, secret: Uint8Array) => HandshakeStep,
): HandshakeStep {
  switch (input.type) {
    case "bytes":
      return input.bytes.length === 0 ? { state, actions: [] } : failed({ type: "UNEXPECTED_BYTES" });
    case "end":
      return failed({ type: "CLOSED" });
    case "ecdh_result":
      if (input.secret.length !== SHARED_SECRET_LENGTH) {
        throw new RangeError("a shared secret has 32 bytes");
      }
      return proceed(state, input.secret);
  }
}

function readActOne(
  state: StateOf<"responder_reads_act1">,
  act: Uint8Array,
  rest: Uint8Array,
): HandshakeStep {
  const version = act[0] ?? 0;
  if (version !== VERSION) return failed({ type: "ACT1_BAD_VERSION", version });
  const remoteEphemeral = act.slice(1, 1 + POINT_LENGTH);
  if (!ecc().isPoint(remoteEphemeral)) return failed({ type: "ACT1_BAD_PUBKEY" });
  if (rest.length > 0) return failed({ type: "UNEXPECTED_BYTES" });
  return {
    state: {
      type: "responder_awaits_ecdh",
      mixed: { h: mixHash(state.mixed.h, remoteEphemeral), ck: state.mixed.ck },
      ephemeralSecret: state.ephemeralSecret,
      remoteEphemeral,
      tag: act.slice(1 + POINT_LENGTH),
    },
    actions: [{ type: "ecdh", point: remoteEphemeral }],
  };
}

function sendActTwo(state: StateOf<"responder_awaits_ecdh">, secret: Uint8Array): HandshakeStep {
  const [ckOne, keyOne] = hkdf2(state.mixed.ck, secret);
  if (open(keyOne, NONCE_0, state.mixed.h, state.tag) === null) return failed({ type: "ACT1_BAD_TAG" });
  const ephemeralPoint = ecc().pointFromSecret(state.ephemeralSecret);
  const h = mixHash(mixHash(state.mixed.h, state.tag), ephemeralPoint);
  const shared = ecc().ecdh(state.ephemeralSecret, state.remoteEphemeral);
  if (shared === null) return failed({ type: "ACT1_BAD_PUBKEY" });
  const [ck, key] = hkdf2(ckOne, shared);
  const tag = seal(key, NONCE_0, h, EMPTY);
  return {
    state: {
      type: "responder_reads_act3",
      mixed: { h: mixHash(h, tag), ck },
      key,
      ephemeralSecret: state.ephemeralSecret,
      received: EMPTY,
    },
    actions: [{ type: "send", bytes: concatBytes(Uint8Array.of(VERSION), ephemeralPoint, tag) }],
  };
}

function readActTwo(
  state: StateOf<"initiator_reads_act2">,
  act: Uint8Array,
  rest: Uint8Array,
): HandshakeStep {
  const version = act[0] ?? 0;
  if (version !== VERSION) return failed({ type: "ACT2_BAD_VERSION", version });
  const remoteEphemeral = act.slice(1, 1 + POINT_LENGTH);
  const tag = act.subarray(1 + POINT_LENGTH);
  const shared = ecc().ecdh(state.ephemeralSecret, remoteEphemeral);
  if (shared === null) return failed({ type: "ACT2_BAD_PUBKEY" });
  const h = mixHash(state.mixed.h, remoteEphemeral);
  const [ck, key] = hkdf2(state.mixed.ck, shared);
  if (open(key, NONCE_0, h, tag) === null) return failed({ type: "ACT2_BAD_TAG" });
  if (rest.length > 0) return failed({ type: "UNEXPECTED_BYTES" });
  return {
    state: {
      type: "initiator_awaits_ecdh",
      mixed: { h: mixHash(h, tag), ck },
      key,
      localStatic: state.localStatic,
      remoteStatic: state.remoteStatic,
    },
    actions: [{ type: "ecdh", point: remoteEphemeral }],
  };
}

function sendActThree(state: StateOf<"initiator_awaits_ecdh">, secret: Uint8Array): HandshakeStep {
  const sealedStatic = seal(state.key, NONCE_1, state.mixed.h, state.localStatic);
  const h = mixHash(state.mixed.h, sealedStatic);
  const [chainingKey, key] = hkdf2(state.mixed.ck, secret);
  const tag = seal(key, NONCE_0, h, EMPTY);
  const [sendKey, recvKey] = hkdf2(chainingKey, NO_AD);
  const { remoteStatic } = state;
  return {
    state: { type: "done" },
    actions: [
      { type: "send", bytes: concatBytes(Uint8Array.of(VERSION), sealedStatic, tag) },
      { type: "done", result: { sendKey, recvKey, chainingKey, remoteStatic, leftover: EMPTY } },
    ],
  };
}

function readActThree(
  state: StateOf<"responder_reads_act3">,
  act: Uint8Array,
  rest: Uint8Array,
): HandshakeStep {
  const version = act[0] ?? 0;
  if (version !== VERSION) return failed({ type: "ACT3_BAD_VERSION", version });
  const sealedStatic = act.subarray(1, 1 + POINT_LENGTH + TAG_LENGTH);
  const remoteStatic = open(state.key, NONCE_1, state.mixed.h, sealedStatic);
  if (remoteStatic === null) return failed({ type: "ACT3_BAD_CIPHERTEXT" });
  const shared = ecc().ecdh(state.ephemeralSecret, remoteStatic);
  if (shared === null) return failed({ type: "ACT3_BAD_PUBKEY" });
  const h = mixHash(state.mixed.h, sealedStatic);
  const [chainingKey, key] = hkdf2(state.mixed.ck, shared);
  const tag = act.subarray(1 + POINT_LENGTH + TAG_LENGTH);
  if (open(key, NONCE_0, h, tag) === null) return failed({ type: "ACT3_BAD_TAG" });
  const [recvKey, sendKey] = hkdf2(chainingKey, NO_AD);
  return {
    state: { type: "done" },
    actions: [{ type: "done", result: { sendKey, recvKey, chainingKey, remoteStatic, leftover: rest } }],
  };
}

/** Both sides begin with the responder's static key, so only who knows the node id can call (XK). */
function initialize(responderStatic: Uint8Array): Mixed {
  const ck = sha256(PROTOCOL_NAME);
  return { h: mixHash(mixHash(ck, PROLOGUE), responderStatic), ck };
}

function mixHash(h: Uint8Array, data: Uint8Array): Uint8Array {
  return sha256(concatBytes(h, data));
}

function failed(error: HandshakeError): HandshakeStep {
  return { state: { type: "failed" }, actions: [{ type: "failed", error }] };
}

/** The ephemeral point, if both keys are well formed. */
function requireOwnKeys(localStatic: Uint8Array, ephemeralSecret: Uint8Array): Uint8Array {
  if (!ecc().isPoint(localStatic)) throw new RangeError("our static key is not a point");
  return ecc().pointFromSecret(ephemeralSecret);
}
