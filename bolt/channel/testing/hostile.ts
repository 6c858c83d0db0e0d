/** A node of the simulator that is fed by hand, as a peer that keeps to no rule would. */
import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";
import type { Message } from "bolt/wire/messages.ts";
import { step } from "../machine.ts";
import type { ChannelAction, ChannelInput, ChannelMachine } from "../types.ts";
import { type Name, onionOf, preimageOf, Simulator, WORLD, type World } from "./simulator.ts";

/** Channel id of the simulator's channel. */
export const CHANNEL_ID: Uint8Array = new Uint8Array(32).fill(7);

/** Two nodes that are connected and idle. */
export function idle(world: Partial<World> = {}): Simulator {
  const sim = new Simulator({ ...WORLD, ...world }, 1);
  sim.connect();
  sim.quiesce();
  return sim;
}

/** An HTLC of `from` that is irrevocably committed on both sides, and its id. */
export function committed(sim: Simulator, from: Name, amount = 1_000_000n, hash = 1): bigint {
  const origin = sim.offer(from, amount, hash);
  sim.quiesce();
  const key = sim.nodes[from].machine?.origins.get(origin);
  assert(key !== undefined && key >= 0n, "the offer was not taken");
  return key >> 1n;
}

/** The machine of a node. */
export function machineOf(sim: Simulator, name: Name): ChannelMachine {
  const { machine } = sim.nodes[name];
  assert(machine !== null);
  return machine;
}

/** A message as an input. */
export const says = (message: Message): ChannelInput => ({ type: "message", message });

/** What a batch leads to. */
export function after(
  state: ChannelMachine,
  ...inputs: readonly (ChannelInput | Message)[]
): { readonly state: ChannelMachine; readonly actions: readonly ChannelAction[] } {
  return step(state, inputs.map((each) => ("channel_id" in each ? says(each) : each) as ChannelInput));
}

/** Types of the messages that are sent, in order. */
export function sent(actions: readonly ChannelAction[]): readonly string[] {
  return actions.flatMap((action) => action.type === "send" ? action.messages.map(({ type }) => type) : []);
}

/** The one action of a type. */
export function the<T extends ChannelAction["type"]>(
  actions: readonly ChannelAction[],
  type: T,
): Extract<ChannelAction, { type: T }> {
  const found = actions.filter((action): action is Extract<ChannelAction, { type: T }> =>
    action.type === type
  );
  assert.equal(found.length, 1, `${found.length} actions of type ${type}`);
  return found[0]!;
}

/** Asserts that a batch fails the channel: stored, then said, then let go; nothing is asked of hsmd. */
export function failsWith(
  state: ChannelMachine,
  text: RegExp,
  ...inputs: readonly (ChannelInput | Message)[]
): readonly ChannelAction[] {
  const { actions, state: next } = after(state, ...inputs);
  const store = the(actions, "store");
  assert.match(store.errorText ?? "", text);
  const types = actions.map(({ type }) => type);
  assert.deepEqual(sent(actions).at(-1), "error");
  assert(types.indexOf("store") < types.lastIndexOf("send"), "stored before it is said");
  assert.equal(types.at(-1), "end");
  assert(!types.includes("ask_hsmd"));
  assert.notEqual(next.ended, null);
  return actions;
}

/** update_add_htlc. */
export function addMessage(
  id: bigint,
  more: Partial<Extract<Message, { type: "update_add_htlc" }>> = {},
): Extract<Message, { type: "update_add_htlc" }> {
  return {
    type: "update_add_htlc",
    channel_id: CHANNEL_ID,
    id,
    amount_msat: 1_000_000n,
    payment_hash: preimageOf(1).hash,
    cltv_expiry: 1040,
    onion_routing_packet: onionOf(1),
    ...more,
  };
}

/** Bytes that mean nothing. */
export function noise(text: string): Uint8Array {
  return sha256(utf8ToBytes(text));
}
