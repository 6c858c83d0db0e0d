import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { ecc } from "bolt/crypto/ecc.ts";
import {
  ACT_ONE_LENGTH,
  ACT_THREE_LENGTH,
  ACT_TWO_LENGTH,
  type HandshakeAction,
  type HandshakeInput,
  type HandshakeResult,
  type HandshakeState,
  type HandshakeStep,
  startInitiator,
  startResponder,
  stepHandshake,
} from "bolt/noise/handshake.ts";
import vectors from "tests/data/bolt08/transport.json" with { type: "json" };

/** A machine with its static secret beside it: answers each `ecdh`, keeps everything else. */
class Party {
  readonly actions: HandshakeAction[] = [];
  #state: HandshakeState;

  constructor(readonly staticSecret: Uint8Array, step: HandshakeStep) {
    this.#state = step.state;
    this.#carryOut(step);
  }

  input(input: HandshakeInput): void {
    const step = stepHandshake(this.#state, input);
    this.#state = step.state;
    this.#carryOut(step);
  }

  /** Bytes to send since the last call. */
  takeSent(): Uint8Array {
    const sent: Uint8Array[] = [];
    for (const action of this.actions.splice(0)) {
      if (action.type === "send") sent.push(action.bytes);
      else this.actions.push(action);
    }
    return concatBytes(...sent);
  }

  failure(): string | null {
    for (const action of this.actions) {
      if (action.type !== "failed") continue;
      const { error } = action;
      return "version" in error ? `${error.type} ${error.version}` : error.type;
    }
    return null;
  }

  result(): HandshakeResult | null {
    for (const action of this.actions) if (action.type === "done") return action.result;
    return null;
  }

  #carryOut(step: HandshakeStep): void {
    for (const action of step.actions) {
      if (action.type !== "ecdh") {
        this.actions.push(action);
        continue;
      }
      const secret = ecc().ecdh(this.staticSecret, action.point);
      assert.ok(secret !== null, "asked for an ECDH with no point");
      this.input({ type: "ecdh_result", secret });
    }
  }
}

function initiator(staticSecret: Uint8Array, ephemeralSecret: Uint8Array, remoteStatic: Uint8Array): Party {
  const localStatic = ecc().pointFromSecret(staticSecret);
  const step = startInitiator({ localStatic, remoteStatic, ephemeralSecret });
  assert.ok(step.ok);
  return new Party(staticSecret, step.value);
}

function responder(staticSecret: Uint8Array, ephemeralSecret: Uint8Array): Party {
  const localStatic = ecc().pointFromSecret(staticSecret);
  return new Party(staticSecret, startResponder({ localStatic, ephemeralSecret }));
}

for (const vector of vectors.handshakes) {
  Deno.test(`BOLT 8: ${vector.name}`, () => {
    const staticSecret = hexToBytes(vector.local_static_secret);
    const ephemeral = hexToBytes(vector.local_ephemeral_secret);
    const party = vector.remote_static === undefined
      ? responder(staticSecret, ephemeral)
      : initiator(staticSecret, ephemeral, hexToBytes(vector.remote_static));
    let expectedError: string | null = null;
    for (const step of vector.steps) {
      if (step.what === "input") party.input({ type: "bytes", bytes: hexToBytes(step.value) });
      else if (step.what === "output") assert.equal(bytesToHex(party.takeSent()), step.value);
      else expectedError = step.value;
    }
    if (expectedError === null) {
      assert.ok(vector.keys);
      const result = party.result();
      assert.ok(result);
      assert.equal(bytesToHex(result.sendKey), vector.keys.send_key);
      assert.equal(bytesToHex(result.recvKey), vector.keys.receive_key);
      assert.equal(bytesToHex(result.chainingKey), vectors.messages.chaining_key);
      assert.equal(result.leftover.length, 0);
      return;
    }
    assert.equal(vector.keys, undefined);
    if (expectedError.endsWith("READ_FAILED")) {
      assert.equal(party.failure(), null, "a short act waits for the rest");
      party.input({ type: "end" });
    }
    const seen = party.failure() ?? "";
    assert.equal(expectedError.includes(" ") ? seen : seen.split(" ")[0], expectedError);
    assert.equal(party.result(), null);
  });
}

const secrets = fc.uint8Array({ minLength: 32, maxLength: 32 }).filter((bytes) => ecc().isPrivate(bytes));
const STATIC_I = new Uint8Array(32).fill(0x11);
const STATIC_R = new Uint8Array(32).fill(0x21);
const EPHEMERAL_I = new Uint8Array(32).fill(0x12);
const EPHEMERAL_R = new Uint8Array(32).fill(0x22);
const NODE_R = ecc().pointFromSecret(STATIC_R);

/** Feeds bytes in pieces of the given sizes, then what remains. */
function feed(party: Party, bytes: Uint8Array, sizes: readonly number[]): void {
  let at = 0;
  for (const size of sizes) {
    party.input({ type: "bytes", bytes: bytes.subarray(at, Math.min(bytes.length, at + size)) });
    at = Math.min(bytes.length, at + size);
    if (at === bytes.length) return;
  }
  party.input({ type: "bytes", bytes: bytes.subarray(at) });
}

Deno.test("two parties agree whatever the pieces, and the leftover is the stream behind act three", () => {
  const sizes = fc.array(fc.integer({ min: 0, max: 20 }), { maxLength: 8 });
  fc.assert(
    fc.property(
      secrets,
      secrets,
      secrets,
      secrets,
      sizes,
      fc.uint8Array(),
      (si, ei, sr, er, pieces, extra) => {
        const caller = initiator(si, ei, ecc().pointFromSecret(sr));
        const called = responder(sr, er);
        feed(called, caller.takeSent(), pieces);
        feed(caller, called.takeSent(), pieces);
        const actThree = caller.takeSent();
        assert.equal(actThree.length, ACT_THREE_LENGTH);
        const last = concatBytes(actThree.subarray(-1), extra);
        feed(called, actThree.subarray(0, -1), pieces);
        assert.equal(called.result(), null);
        called.input({ type: "bytes", bytes: last });
        const [one, other] = [caller.result(), called.result()];
        assert.ok(one !== null && other !== null);
        assert.deepEqual(one.sendKey, other.recvKey);
        assert.deepEqual(one.recvKey, other.sendKey);
        assert.deepEqual(one.chainingKey, other.chainingKey);
        assert.deepEqual(other.remoteStatic, ecc().pointFromSecret(si));
        assert.deepEqual(one.remoteStatic, ecc().pointFromSecret(sr));
        assert.deepEqual(other.leftover, extra);
      },
    ),
    { numRuns: 12 },
  );
});

Deno.test("any flipped bit in any act ends the handshake with that act's failure", () => {
  const acts = fc.constantFrom(1, 2, 3);
  fc.assert(
    fc.property(acts, fc.nat(10_000), (act, position) => {
      const caller = initiator(STATIC_I, EPHEMERAL_I, NODE_R);
      const called = responder(STATIC_R, EPHEMERAL_R);
      const flip = (number: number, bytes: Uint8Array): Uint8Array => {
        const copy = bytes.slice();
        if (number !== act) return copy;
        const bit = position % (copy.length * 8);
        copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        return copy;
      };
      called.input({ type: "bytes", bytes: flip(1, caller.takeSent()) });
      if (act > 1) caller.input({ type: "bytes", bytes: flip(2, called.takeSent()) });
      if (act > 2) called.input({ type: "bytes", bytes: flip(3, caller.takeSent()) });
      const victim = act === 2 ? caller : called;
      assert.match(victim.failure() ?? "none", new RegExp(`^ACT${act}_BAD_`));
      assert.equal(victim.result(), null);
      assert.equal(victim.takeSent().length, 0, "nothing is said after a failure");
    }),
    { numRuns: 60 },
  );
});

Deno.test("a caller who does not know the node id is refused at act one", () => {
  const stranger = initiator(STATIC_I, EPHEMERAL_I, ecc().pointFromSecret(STATIC_I));
  const called = responder(STATIC_R, EPHEMERAL_R);
  called.input({ type: "bytes", bytes: stranger.takeSent() });
  assert.equal(called.failure(), "ACT1_BAD_TAG");
});

Deno.test("bytes out of turn fail instead of being hoarded, from both sides", () => {
  const caller = initiator(STATIC_I, EPHEMERAL_I, NODE_R);
  const actOne = caller.takeSent();
  assert.equal(actOne.length, ACT_ONE_LENGTH);
  const early = responder(STATIC_R, EPHEMERAL_R);
  early.input({ type: "bytes", bytes: concatBytes(actOne, Uint8Array.of(0)) });
  assert.equal(early.failure(), "UNEXPECTED_BYTES");
  const called = responder(STATIC_R, EPHEMERAL_R);
  called.input({ type: "bytes", bytes: actOne });
  const actTwo = called.takeSent();
  assert.equal(actTwo.length, ACT_TWO_LENGTH);
  caller.input({ type: "bytes", bytes: concatBytes(actTwo, Uint8Array.of(0)) });
  assert.equal(caller.failure(), "UNEXPECTED_BYTES");
});

Deno.test("while the ECDH is under way: bytes and the end fail, nothing waits", () => {
  const localStatic = NODE_R;
  const actOne = initiator(STATIC_I, EPHEMERAL_I, NODE_R).takeSent();
  const start = startResponder({ localStatic, ephemeralSecret: EPHEMERAL_R });
  const asked = stepHandshake(start.state, { type: "bytes", bytes: actOne });
  assert.deepEqual(asked.actions, [{ type: "ecdh", point: actOne.slice(1, 34) }]);
  const failures: readonly (readonly [HandshakeInput, string])[] = [
    [{ type: "bytes", bytes: Uint8Array.of(1) }, "UNEXPECTED_BYTES"],
    [{ type: "end" }, "CLOSED"],
  ];
  for (const [input, type] of failures) {
    const { state, actions } = stepHandshake(asked.state, input);
    assert.deepEqual(actions, [{ type: "failed", error: { type } }]);
    assert.deepEqual(stepHandshake(state, { type: "end" }).actions, []);
  }
});

Deno.test("defects of the caller throw, a bad node id is a failure", () => {
  const start = startResponder({ localStatic: NODE_R, ephemeralSecret: EPHEMERAL_R });
  const answer: HandshakeInput = { type: "ecdh_result", secret: new Uint8Array(32) };
  assert.throws(() => stepHandshake(start.state, answer), /without a question/);
  assert.throws(() => stepHandshake({ type: "done" }, { type: "end" }), /after the end/);
  assert.throws(
    () => startResponder({ localStatic: NODE_R, ephemeralSecret: new Uint8Array(32) }),
    RangeError,
  );
  assert.deepEqual(
    startInitiator({
      localStatic: NODE_R,
      remoteStatic: new Uint8Array(33),
      ephemeralSecret: EPHEMERAL_I,
    }),
    { ok: false, error: { type: "bad_remote_static" } },
  );
});
