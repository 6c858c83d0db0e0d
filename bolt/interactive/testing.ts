/** What the tests of this folder share: coins of known keys, parameters of a session, and a pipe between two. */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { Transaction } from "bitcoinjs-lib";
import { ecc } from "bolt/crypto/ecc.ts";
import { hash160, p2tr, p2wpkh, p2wpkhScriptCode, p2wsh } from "bolt/tx/scripts.ts";
import { ecdsaWitnessItem, SIGHASH_ALL } from "bolt/tx/signature.ts";
import { makeTransaction } from "bolt/tx/transaction.ts";
import { type ParsedTransaction, parseTransaction } from "bolt/tx/parse.ts";
import { feerate, sat, weight } from "bolt/units.ts";
import { decodeMessage, encodeMessage, type TxAddInput, type TxAddOutput } from "bolt/wire/messages.ts";
import { createSession, stepSession } from "bolt/interactive/session.ts";
import type {
  CompletedTx,
  InteractiveMessage,
  PlannedInput,
  SessionAction,
  SessionInputEvent,
  SessionParams,
  SessionState,
} from "bolt/interactive/types.ts";

/** The kinds of output that a test can spend. */
export type CoinKind = "p2wpkh" | "p2tr" | "p2wsh";

/** Spends the output without a signature: a script that pushes 1. */
export const OPEN_SCRIPT = Uint8Array.of(0x51);
/** The channel of every test. */
export const CHANNEL_ID = sha256(Uint8Array.of(1));
/** A funding script of nobody. */
export const FUNDING_SCRIPT = p2wsh(Uint8Array.of(0x52));
/** Node ids, the local one less than the remote one. */
export const NODE_IDS = { local: new Uint8Array(33).fill(2), remote: new Uint8Array(33).fill(3) };

/** A secret key from a number. */
export function secret(seed: number): Uint8Array {
  return sha256(Uint8Array.of(7, seed >> 8, seed & 0xff));
}

/** The secret of a P2TR output key whose internal key is that of the seed, made even and untweaked. */
function evenSecret(seed: number): Uint8Array {
  const key = secret(seed);
  return ecc().pointFromSecret(key)[0] === 2 ? key : ecc().privateNegate(key)!;
}

/** The script of a coin of the seed's key. */
export function coinScript(kind: CoinKind, seed: number): Uint8Array {
  switch (kind) {
    case "p2wpkh":
      return p2wpkh(ecc().pointFromSecret(secret(seed)));
    case "p2tr":
      return p2tr(ecc().pointFromSecret(evenSecret(seed)).slice(1));
    case "p2wsh":
      return p2wsh(OPEN_SCRIPT);
  }
}

/** A serialized transaction that pays these outputs; different seeds give different ids. */
export function prevtxOf(
  seed: number,
  outputs: readonly { readonly amount: bigint; readonly script: Uint8Array }[],
): Uint8Array {
  return makeTransaction({
    locktime: 0,
    inputs: [{ outpoint: { txid: sha256(Uint8Array.of(9, seed >> 8, seed & 0xff)), vout: 0 }, sequence: 0 }],
    outputs: outputs.map(({ amount, script }) => ({ amount: sat(amount), script })),
  }).toBuffer();
}

/** A confirmed coin of one output. */
export function coin(seed: number, amount: bigint, kind: CoinKind = "p2wpkh"): PlannedInput {
  const script = coinScript(kind, seed);
  return {
    prevtx: prevtxOf(seed, [{ amount, script }]),
    vout: 0,
    sequence: 0xffff_fffd,
    amount: sat(amount),
    script,
    witnessWeight: weight(kind === "p2wpkh" ? 107 : kind === "p2tr" ? 67 : 3),
    confirmed: true,
  };
}

/** A prevtx as parsed. */
export function parsed(prevtx: Uint8Array): ParsedTransaction {
  const result = parseTransaction(prevtx);
  assert(result.ok);
  return result.value;
}

/** Parameters of an accepter that contributes nothing to a channel of 200,000 sat, at 1,000 sat/kw. */
export function sessionParams(changes: Partial<SessionParams> = {}): SessionParams {
  return {
    role: "accepter",
    channelId: CHANNEL_ID,
    nodeIds: NODE_IDS,
    locktime: 120,
    feerate: feerate(1000),
    dustLimits: { local: sat(354), remote: sat(354) },
    contributions: { local: sat(0), remote: sat(200_000) },
    fundingScript: FUNDING_SCRIPT,
    requireConfirmedInputs: { byUs: false, byThem: false },
    previousAttempts: [],
    inputs: [],
    outputs: [],
    serialIds: { type: "seed", seed: Uint8Array.of(1, 2, 3) },
    ...changes,
  };
}

/** The session of {@link sessionParams}; fails the test if it is refused. */
export function session(changes: Partial<SessionParams> = {}): SessionState {
  const created = createSession(sessionParams(changes));
  assert(created.ok, created.ok ? "" : created.error.type);
  return created.value;
}

/** A peer's tx_add_input of a coin. */
export function addInput(
  serial_id: bigint,
  input: PlannedInput,
  changes: Partial<TxAddInput> = {},
): TxAddInput {
  return {
    type: "tx_add_input",
    channel_id: CHANNEL_ID,
    serial_id,
    prevtx: input.prevtx,
    prevtx_vout: input.vout,
    sequence: input.sequence,
    ...changes,
  };
}

/** A peer's tx_add_output. */
export function addOutput(serial_id: bigint, sats: bigint, script: Uint8Array): TxAddOutput {
  return { type: "tx_add_output", channel_id: CHANNEL_ID, serial_id, sats, script };
}

/** A peer's tx_complete. */
export const COMPLETE: InteractiveMessage = { type: "tx_complete", channel_id: CHANNEL_ID };

/** A peer's message as an event. */
export function received(message: InteractiveMessage): SessionInputEvent {
  return { type: "message", message };
}

/** Feeds events, the state going through structuredClone each time; yields the last state and every action. */
export function feed(
  state: SessionState,
  events: readonly SessionInputEvent[],
): { readonly state: SessionState; readonly actions: readonly SessionAction[][] } {
  const actions: SessionAction[][] = [];
  let current = state;
  for (const event of events) {
    const step = stepSession(structuredClone(current), event);
    current = step.state;
    actions.push([...step.actions]);
  }
  return { state: current, actions };
}

/** A message as it arrives: through its bytes. */
function overTheWire(message: InteractiveMessage): InteractiveMessage {
  const decoded = decodeMessage(encodeMessage(message));
  assert(decoded.ok, decoded.ok ? "" : decoded.error.type);
  switch (decoded.value.type) {
    case "tx_add_input":
    case "tx_add_output":
    case "tx_remove_input":
    case "tx_remove_output":
    case "tx_complete":
      return decoded.value;
    default:
      throw new Error(`read back as ${decoded.value.type}`);
  }
}

/** How a conversation ended. */
export interface Outcome {
  readonly initiator: SessionState;
  readonly accepter: SessionState;
  readonly actions: readonly { readonly from: "initiator" | "accepter"; readonly action: SessionAction }[];
}

/** Lets two sessions talk until both are silent. `disturb` may hand a side events before it hears a message. */
export function converse(
  initiator: SessionState,
  accepter: SessionState,
  disturb: (
    who: "initiator" | "accepter",
    state: SessionState,
    turn: number,
  ) => readonly SessionInputEvent[] = () => [],
): Outcome {
  const states = { initiator, accepter };
  const all: { from: "initiator" | "accepter"; action: SessionAction }[] = [];
  let to: "initiator" | "accepter" = "initiator";
  let events: SessionInputEvent[] = [{ type: "start" }];
  for (let turn = 0; events.length > 0; turn++) {
    const step = feed(states[to], [...disturb(to, states[to], turn), ...events]);
    states[to] = step.state;
    events = [];
    for (const action of step.actions.flat()) {
      all.push({ from: to, action });
      if (action.type === "send") events.push(received(overTheWire(action.message)));
      if (action.type === "check_confirmed") {
        const results = action.outpoints.map((outpoint) => ({ outpoint, confirmed: true }));
        const answered: { state: SessionState; actions: readonly SessionAction[][] } = feed(states[to], [
          { type: "confirmed", results },
        ]);
        states[to] = answered.state;
        all.push(...answered.actions.flat().map((answer) => ({ from: to, action: answer })));
      }
    }
    to = to === "initiator" ? "accepter" : "initiator";
  }
  return { ...states, actions: all };
}

/** The witness of a coin that {@link coin} made, for an input of the agreed transaction. */
export function signInput(
  completed: CompletedTx,
  index: number,
  kind: CoinKind,
  seed: number,
  flag: number = SIGHASH_ALL,
): Uint8Array[] {
  const tx = Transaction.fromBuffer(completed.unsignedTx);
  const input = completed.inputs[index]!;
  switch (kind) {
    case "p2wsh":
      return [OPEN_SCRIPT];
    case "p2wpkh": {
      const pubkey = ecc().pointFromSecret(secret(seed));
      const hash = tx.hashForWitnessV0(index, p2wpkhScriptCode(hash160(pubkey)), input.amount, flag);
      return [ecdsaWitnessItem(ecc().signEcdsa(hash, secret(seed)), flag), pubkey];
    }
    case "p2tr": {
      const scripts = completed.inputs.map((other) => other.script);
      const amounts = completed.inputs.map((other) => other.amount);
      const signature = ecc().signSchnorr(
        tx.hashForWitnessV1(index, scripts, amounts, flag),
        evenSecret(seed),
      );
      return [flag === 0 ? signature : Uint8Array.of(...signature, flag)];
    }
  }
}
