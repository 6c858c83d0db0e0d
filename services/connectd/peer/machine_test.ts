import assert from "node:assert/strict";
import { concatBytes } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { ecc } from "bolt/crypto/ecc.ts";
import { nodeFeatures } from "bolt/wire/features.ts";
import { decodeMessage, encodeMessage, type Message } from "bolt/wire/messages.ts";
import { DEFAULT_LIMITS } from "../limits.ts";
import { type PeerAction, PeerMachine } from "./machine.ts";

const SECRETS = [new Uint8Array(32).fill(1), new Uint8Array(32).fill(2)] as const;
const CHAIN = new Uint8Array(32).fill(6);

function startOf(secret: Uint8Array, ephemeral: number) {
  return {
    localStatic: ecc().pointFromSecret(secret),
    ephemeralSecret: new Uint8Array(32).fill(ephemeral),
    init: { features: nodeFeatures(), chains: [CHAIN] },
    limits: DEFAULT_LIMITS,
    now: 0,
  };
}

/** A machine with its driver's duties done in memory: output collected, ECDH answered, messages handled. */
class End {
  machine!: PeerMachine;
  readonly out: Uint8Array[] = [];
  readonly events: PeerAction[] = [];

  constructor(private readonly secret: Uint8Array) {}

  act(actions: readonly PeerAction[]): void {
    for (const action of actions) {
      if (action.type === "write") this.out.push(action.bytes);
      else if (action.type === "send") this.out.push(this.machine.seal(action.message));
      else if (action.type === "ecdh") {
        const shared = ecc().ecdh(this.secret, action.point);
        assert.ok(shared);
        this.act(this.machine.ecdhResult(shared));
      } else this.events.push(action);
    }
  }

  receive(bytes: Uint8Array, now = 0): void {
    this.act(this.machine.receive(bytes, now));
    this.read();
  }

  read(): void {
    for (let next = this.machine.next();; next = this.machine.next()) {
      if (!next.ok) {
        this.events.push({ type: "close", reason: next.error });
        return;
      }
      if (next.value === null) return;
      this.act(this.machine.handle(next.value));
    }
  }

  say(message: Message | Uint8Array): void {
    this.out.push(this.machine.seal(message instanceof Uint8Array ? message : encodeMessage(message)));
  }
}

function pair(): [End, End] {
  const [caller, callee] = [new End(SECRETS[0]), new End(SECRETS[1])];
  const called = PeerMachine.call(startOf(SECRETS[0], 3), ecc().pointFromSecret(SECRETS[1]));
  assert.ok(called.ok);
  caller.machine = called.value.machine;
  callee.machine = PeerMachine.answer(startOf(SECRETS[1], 4));
  caller.act(called.value.actions);
  return [caller, callee];
}

/** Moves all output both ways, in pieces of the given sizes, until nothing is left. */
function shuttle(ends: [End, End], sizes: readonly number[] = []): void {
  let turn = 0;
  for (let moved = true; moved;) {
    moved = false;
    for (const [from, to] of [ends, [ends[1], ends[0]]] as const) {
      let bytes = concatBytes(...from.out.splice(0));
      while (bytes.length > 0) {
        moved = true;
        const size = sizes.length === 0 ? bytes.length : sizes[turn++ % sizes.length] ?? 1;
        to.receive(bytes.slice(0, size));
        bytes = bytes.slice(size);
      }
    }
  }
}

function running(): [End, End] {
  const ends = pair();
  shuttle(ends);
  for (const end of ends) {
    assert.equal(end.machine.phase, "waiting");
    end.machine.accept(0);
    end.events.length = 0;
  }
  return ends;
}

Deno.test("peer: handshake and init in pieces of any size end with both sides waiting for lightningd", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 70 }), { minLength: 1, maxLength: 8 }), (sizes) => {
      const ends = pair();
      shuttle(ends, sizes);
      for (const [end, other] of [ends, [ends[1], ends[0]]] as const) {
        assert.equal(end.machine.phase, "waiting");
        const [connected] = end.events;
        assert.ok(connected?.type === "connected");
        assert.deepEqual(
          connected.peerId,
          ecc().pointFromSecret(other === ends[1] ? SECRETS[1] : SECRETS[0]),
        );
        assert.deepEqual(connected.features, nodeFeatures().toBytes());
      }
    }),
    { numRuns: 30 },
  );
});

Deno.test("peer: messages before acceptance wait and then come in order", () => {
  const ends = pair();
  shuttle(ends);
  const [caller, callee] = ends;
  caller.machine.accept(0);
  for (let i = 1; i <= 3; i++) caller.say({ type: "tx_complete", channel_id: new Uint8Array(32).fill(i) });
  shuttle(ends);
  assert.equal(callee.events.filter(({ type }) => type === "frame").length, 0);
  callee.machine.accept(0);
  callee.read();
  const frames = callee.events.flatMap((event) => event.type === "frame" ? [event.channelId[0]] : []);
  assert.deepEqual(frames, [1, 2, 3]);
});

Deno.test("peer: garbage in place of any act, or behind the handshake, closes and never throws", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 300 }),
      fc.integer({ min: 0, max: 3 }),
      (garbage, moment) => {
        const [caller, callee] = pair();
        const steps = [
          () => callee.receive(garbage),
          () => {
            callee.receive(concatBytes(...caller.out.splice(0)));
            callee.receive(garbage);
          },
          () => caller.receive(garbage),
          () => {
            shuttle([caller, callee]);
            callee.machine.accept(0);
            callee.receive(concatBytes(garbage, new Uint8Array(70_000)));
          },
        ];
        steps[moment]?.();
        for (const end of [caller, callee]) {
          assert.equal(end.events.some(({ type }) => type === "frame"), false);
          // Once closed, nothing makes it speak again.
          if (end.machine.phase !== "closed") continue;
          assert.deepEqual(end.machine.receive(garbage, 0), []);
          assert.deepEqual(end.machine.handle(garbage), []);
        }
        if (moment === 3) assert.equal(callee.machine.phase, "closed");
      },
    ),
    { numRuns: 200 },
  );
});

Deno.test("peer: any decrypted bytes give a frame, an answer, nothing, or a farewell", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 65_535 }), fc.uint8Array({ maxLength: 200 }), (type, payload) => {
      const [caller, callee] = running();
      caller.say(concatBytes(Uint8Array.of(type >> 8, type & 0xff), payload));
      shuttle([caller, callee]);
      const closed = callee.machine.phase === "closed";
      const unknown = !decodeMessage(concatBytes(Uint8Array.of(type >> 8, type & 0xff), payload)).ok;
      // BOLT 1: an even type that nobody knows is never ignored, an odd one always.
      const known = decodeMessage(Uint8Array.of(type >> 8, type & 0xff));
      const isUnknownType = known.ok && known.value.type === "unknown";
      if (isUnknownType) assert.equal(closed, type % 2 === 0);
      if (closed) assert.equal(callee.events.at(-1)?.type, "close");
      if (!closed && unknown) assert.ok(callee.events.every(({ type }) => type !== "close"));
    }),
    { numRuns: 300 },
  );
});

Deno.test("peer: a ping of every size is answered with exactly that many bytes, from 65532 on with none", () => {
  const [caller, callee] = running();
  for (const num_pong_bytes of [0, 1, 1_000, 65_531, 65_532, 65_535]) {
    caller.say({ type: "ping", num_pong_bytes, ignored: new Uint8Array() });
    shuttle([callee, caller]);
  }
  // Unasked pongs are only logged.
  assert.deepEqual(caller.events.map(({ type }) => type), ["log", "log", "log", "log"]);
});

Deno.test("peer: silence is probed, then ends; our own pause is not the peer's silence", () => {
  const [caller, callee] = running();
  const { pingAfterSilence, pongTimeout } = DEFAULT_LIMITS;
  assert.deepEqual(caller.machine.tick(pingAfterSilence - 1, true), []);
  const probe = caller.machine.tick(pingAfterSilence, true);
  assert.equal(probe[0]?.type, "send");
  assert.deepEqual(caller.machine.tick(pingAfterSilence + pongTimeout - 1, true), []);
  // Anything heard counts.
  callee.say({ type: "pong", ignored: new Uint8Array() });
  caller.receive(concatBytes(...callee.out.splice(0)), pingAfterSilence + pongTimeout - 1);
  assert.deepEqual(caller.machine.tick(pingAfterSilence + pongTimeout, true), []);
  const later = 10 * pingAfterSilence;
  assert.deepEqual(caller.machine.tick(later, false), []);
  assert.equal(caller.machine.tick(later + pingAfterSilence, true)[0]?.type, "send");
  const end = caller.machine.tick(later + pingAfterSilence + pongTimeout, true);
  assert.equal(end[0]?.type, "close");
  assert.equal(caller.machine.phase, "closed");
});

Deno.test("peer: pings of lightningd's are bounded, matched by length and given back at the end", () => {
  const [caller, callee] = running();
  for (let i = 0; i < DEFAULT_LIMITS.maxPendingPings; i++) {
    const asked = caller.machine.ping(BigInt(i), 0, i);
    assert.ok(asked.ok);
    caller.act(asked.value);
  }
  assert.equal(caller.machine.ping(99n, 0, 1).ok, false);
  assert.equal(caller.machine.ping(99n, 65_530, 1).ok, false);
  assert.equal(caller.machine.ping(99n, 0, 65_536).ok, false);
  callee.say({ type: "pong", ignored: new Uint8Array(3) });
  caller.receive(concatBytes(...callee.out.splice(0)));
  assert.deepEqual(caller.events, [{ type: "ponged", requestId: 3n, totalLength: 7 }]);
  assert.equal(caller.machine.abandonPings().length, DEFAULT_LIMITS.maxPendingPings - 1);
  assert.deepEqual(caller.machine.abandonPings(), []);
});

Deno.test("peer: a node id that is no point is not called", () => {
  assert.equal(PeerMachine.call(startOf(SECRETS[0], 3), new Uint8Array(33)).ok, false);
});
