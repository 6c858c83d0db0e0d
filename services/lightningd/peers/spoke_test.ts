import assert from "node:assert/strict";
import fc from "fast-check";
import { decide, MessageType, type OwnerState, type Situation, type Verdict } from "./spoke.ts";

const NOTHING: Situation = {
  messageType: MessageType.openChannel2,
  channel: null,
  opening: null,
  recentlyAborted: false,
  idTaken: false,
  opens: { ofPeer: 0, inAll: 0, lately: 0 },
  limits: { perPeer: 3, inAll: 10, perWindow: 5 },
  hasOthers: false,
  draining: false,
  dualFund: true,
  feerateKnown: true,
  canOpen: true,
};

function channel(owner: OwnerState, more: Partial<NonNullable<Situation["channel"]>> = {}) {
  return { state: "CHANNELD_NORMAL", live: true, errorText: null, owner, ...more };
}

function final(type: "error" | "warning" | "tx_abort", text: string, hangUp = false): Verdict {
  return { type: "final", messages: [{ type, text }], hangUp };
}

const { channelReestablish, txAbort, txComplete, error, warning, openChannel, openChannel2 } = MessageType;
const UPDATE_ADD_HTLC = 128;

/** What is said, what is known, and the one answer. */
const TABLE: readonly [string, Partial<Situation>, Verdict][] = [
  ["an open of a peer that may", {}, { type: "open" }],
  [
    "a version 1 open where dual funding is negotiated (item 1)",
    { messageType: openChannel },
    final(
      "error",
      "option_dual_fund is negotiated: use open_channel2",
    ),
  ],
  [
    "a version 1 open of a peer without dual funding",
    { messageType: openChannel, dualFund: false },
    final(
      "error",
      "only open_channel2 is served",
    ),
  ],
  [
    "open_channel2 without dual funding",
    { dualFund: false },
    final("error", "open_channel2 without option_dual_fund"),
  ],
  [
    "a temporary id that a live channel has (item 2)",
    { idTaken: true },
    final(
      "error",
      "this temporary channel id is in use",
    ),
  ],
  [
    "a temporary id that an open of this peer has",
    { opening: { owner: "live" } },
    final(
      "error",
      "this temporary channel id is in use",
    ),
  ],
  [
    "the final id of a channel of this peer as temporary id",
    { channel: channel("none") },
    final(
      "warning",
      "this channel id is in use",
    ),
  ],
  ["an open while stopping", { draining: true }, final("error", "this node is stopping")],
  ["an open without a fee rate", { feerateKnown: false }, final("error", "no fee rate is known yet")],
  [
    "one open too many of this peer",
    { opens: { ofPeer: 3, inAll: 3, lately: 0 } },
    final(
      "error",
      "too many channels of yours are not locked in yet",
    ),
  ],
  [
    "one open too many in all",
    { opens: { ofPeer: 0, inAll: 10, lately: 0 } },
    final("error", "too many opens at once"),
  ],
  [
    "opens in quick succession",
    { opens: { ofPeer: 0, inAll: 0, lately: 5 } },
    final(
      "error",
      "too many opens in a short time",
    ),
  ],
  [
    "an open without an opening daemon",
    { canOpen: false },
    final("error", "opens are not served at the moment"),
  ],

  [
    "reestablish of an unknown channel",
    { messageType: channelReestablish },
    final("error", "unknown channel"),
  ],
  ["the echo of a tx_abort", { messageType: txAbort }, { type: "drop" }],
  ["an error for an unknown channel", { messageType: error }, { type: "drop" }],
  ["a warning for an unknown channel", { messageType: warning }, { type: "drop" }],
  ["a stale frame of an open that we aborted", { messageType: txComplete, recentlyAborted: true }, {
    type: "drop",
  }],
  [
    "a frame of a negotiation that nobody knows (item 36)",
    { messageType: txComplete },
    final(
      "warning",
      "no such negotiation",
    ),
  ],
  [
    "anything else for an unknown channel",
    { messageType: UPDATE_ADD_HTLC },
    final("error", "unknown channel", true),
  ],
  [
    "the same of a peer with other channels",
    { messageType: UPDATE_ADD_HTLC, hasOthers: true },
    final(
      "error",
      "unknown channel",
    ),
  ],

  ["a channel without an owner", { messageType: channelReestablish, channel: channel("none") }, {
    type: "assign",
  }],
  ["a channel whose owner is there", { messageType: channelReestablish, channel: channel("live") }, {
    type: "attach",
  }],
  ["a channel whose owner is on its way out", { messageType: UPDATE_ADD_HTLC, channel: channel("leaving") }, {
    type: "wait",
  }],
  [
    "a channel that waits for the next connection",
    { messageType: UPDATE_ADD_HTLC, channel: channel("parked") },
    final(
      "warning",
      "this channel goes on with the next connection",
      true,
    ),
  ],
  [
    "the same of a peer with other channels",
    { messageType: UPDATE_ADD_HTLC, channel: channel("parked"), hasOthers: true },
    final("warning", "this channel goes on with the next connection"),
  ],
  ["the peer's error for a channel without an owner", { messageType: error, channel: channel("none") }, {
    type: "assign",
  }],
  [
    "reestablish of a failed channel",
    { messageType: channelReestablish, channel: channel("none", { errorText: "bad signature" }) },
    final("error", "bad signature"),
  ],
  [
    "an error for a failed channel: two nodes never answer each other's errors",
    { messageType: error, channel: channel("none", { errorText: "bad signature" }) },
    { type: "final", messages: [], hangUp: false },
  ],
  [
    "reestablish of a closed channel",
    { messageType: channelReestablish, channel: channel("none", { state: "ONCHAIN", live: false }) },
    final("error", "channel in state ONCHAIN"),
  ],
  ["a frame of an open whose owner is there", { messageType: txComplete, opening: { owner: "live" } }, {
    type: "attach",
  }],
  ["a frame of an open that is just ending", { messageType: txComplete, opening: { owner: "none" } }, {
    type: "wait",
  }],
];

for (const [name, situation, verdict] of TABLE) {
  Deno.test(`verdict: ${name}`, () => assert.deepEqual(decide({ ...NOTHING, ...situation }), verdict));
}

const situations: fc.Arbitrary<Situation> = fc.record({
  messageType: fc.oneof(fc.constantFrom(...Object.values(MessageType)), fc.integer({ min: 0, max: 65_535 })),
  channel: fc.option(fc.record({
    state: fc.constantFrom("DUALOPEND_AWAITING_LOCKIN", "CHANNELD_NORMAL", "CLOSED"),
    live: fc.boolean(),
    errorText: fc.option(fc.constant("failed")),
    owner: fc.constantFrom<OwnerState>("none", "live", "leaving", "parked"),
  })),
  opening: fc.option(fc.record({ owner: fc.constantFrom<OwnerState>("none", "live", "leaving") })),
  recentlyAborted: fc.boolean(),
  idTaken: fc.boolean(),
  opens: fc.record({ ofPeer: fc.nat(6), inAll: fc.nat(20), lately: fc.nat(10) }),
  limits: fc.constant(NOTHING.limits),
  hasOthers: fc.boolean(),
  draining: fc.boolean(),
  dualFund: fc.boolean(),
  feerateKnown: fc.boolean(),
  canOpen: fc.boolean(),
});

Deno.test("a verdict never costs other channels, and drops nothing of a channel that we have", () => {
  fc.assert(fc.property(situations, (situation) => {
    const verdict = decide(situation);
    if (verdict.type === "final" && verdict.hangUp) assert.equal(situation.hasOthers, false);
    if (verdict.type === "drop") assert.ok(situation.channel === null && situation.opening === null);
    if (verdict.type === "assign") assert.notEqual(situation.channel, null);
    if (verdict.type === "open") assert.ok(situation.messageType === openChannel2 && !situation.idTaken);
    // An error is never answered by an error: two nodes would go on for ever.
    const sends = verdict.type === "final" && verdict.messages.some((message) => message.type === "error");
    if (situation.messageType === error) assert.equal(sends, false);
  }));
});
