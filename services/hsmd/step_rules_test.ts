/** The rules of commitment steps on memory alone: properties over any history, and what a person's word allows. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { applyRecord, emptyMemory, type Memory, type MemoryRecord } from "./memory_state.ts";
import {
  ACCEPT_CONFIRMATION,
  acceptMemory,
  bindDatabase,
  type ChannelRef,
  commitmentStep,
  drawChannel,
  lockFunding,
  MAX_HIGH_WATER,
  type OutpointFacts,
  registerEpoch,
  signClosing,
  signFundingAttempt,
  signOwnCommitment,
  signRemoteCommitment,
  type StepFacts,
} from "./rules.ts";

const TERMS = bytes(0x7e);
const MEMORY_ID = new Uint8Array(16).fill(1);
const DATABASE = new Uint8Array(16).fill(2);
const OUT: OutPoint = { txid: bytes(1), vout: 0 };

function bytes(fill: number): Uint8Array {
  return new Uint8Array(32).fill(fill);
}

function remember(memory: Memory, records: readonly MemoryRecord[]): void {
  for (const record of records) applyRecord(memory, record);
}

/** Takes a decision that must be a good one. */
function done(memory: Memory, decision: ReturnType<typeof drawChannel>): void {
  assert(decision.ok, decision.ok ? "" : decision.error.reason);
  remember(memory, decision.value);
}

/** A channel whose commitments 0 are named 0x10 (ours) and 0x20, locked at an outpoint. */
function locked(memory: Memory = emptyMemory(), fill = 0xaa, outpoint = OUT) {
  const channelKeyId = bytes(fill);
  const ref = { channelKeyId, epoch: 1n };
  done(memory, drawChannel(memory, channelKeyId, new Uint8Array(33).fill(2)));
  done(memory, registerEpoch(memory, ref));
  const commitment = { outpoint, number: 0n, content: bytes(0x20) };
  done(memory, signRemoteCommitment(memory, ref, TERMS, commitment));
  done(
    memory,
    signFundingAttempt(memory, ref, TERMS, {
      outpoint,
      localContent: bytes(0x10),
      remoteContent: bytes(0x20),
      signatureGood: true,
      destinations: [],
      fundingInputs: [],
      inputs: [],
      signInputs: false,
    }),
  );
  done(memory, lockFunding(memory, ref, outpoint));
  return { memory, ref };
}

function facts(change: Partial<OutpointFacts>, revoke = false): StepFacts {
  return {
    terms: TERMS,
    outpoints: [{ outpoint: OUT, verify: null, sign: null, mirrored: true, ...change }],
    revoke,
  };
}

function verify(number: bigint, fill: number) {
  return { number, content: bytes(fill), signaturesGood: true };
}

/** Decides a step and remembers it; answers what it released, or why it was refused. */
function take(memory: Memory, ref: ChannelRef, step: StepFacts): string | bigint | null {
  const decision = commitmentStep(memory, ref, step);
  if (!decision.ok) return decision.error.reason;
  remember(memory, decision.value.records);
  return decision.value.revoked;
}

type Asked =
  | {
    readonly type: "step";
    readonly epoch: number;
    readonly verify: { readonly number: number; readonly content: number; readonly good: boolean } | null;
    readonly sign: { readonly number: number; readonly content: number } | null;
    readonly revoke: boolean;
    readonly other: boolean;
    readonly mirrored: boolean;
  }
  | {
    readonly type: "own" | "close";
    readonly epoch: number;
    readonly number: number;
    readonly content: number;
  }
  | { readonly type: "register"; readonly epoch: number };

const MOSTLY = fc.nat(9).map((n) => n > 0);
/** What is added to the newest number. */
const NUMBER = fc.constantFrom(1, 1, 1, 1, 1, 0, 0, -1, 2);
const OWN_NUMBER = fc.constantFrom(0, 0, 0, -1, 1);
const CONTENT = fc.constantFrom(0x30, 0x30, 0x30, 0x31);
const VERIFY = fc.option(fc.record({ number: NUMBER, content: CONTENT, good: MOSTLY }));
const SIGN = fc.option(fc.record({ number: NUMBER, content: CONTENT }));
const STEP: fc.Arbitrary<Asked> = fc.record({
  type: fc.constant("step" as const),
  epoch: fc.constantFrom(1, 1, 1, 2),
  verify: VERIFY,
  sign: SIGN,
  revoke: fc.boolean(),
  other: MOSTLY.map((usual) => !usual),
  mirrored: MOSTLY,
});
const RARE: fc.Arbitrary<Asked> = fc.oneof(
  fc.record(
    {
      type: fc.constantFrom("own", "close"),
      epoch: fc.constantFrom(1, 2),
      number: OWN_NUMBER,
      content: CONTENT,
    } as const,
  ),
  fc.record({ type: fc.constant("register"), epoch: fc.constantFrom(1, 2) } as const),
);

/** The same with whole numbers. */
function absolute(asked: Asked, newest: { readonly local: number; readonly remote: number }): Asked {
  const above = <T extends { readonly number: number }>(part: T, side: "local" | "remote"): T => ({
    ...part,
    number: Math.max(0, newest[side] + part.number),
  });
  switch (asked.type) {
    case "register":
      return asked;
    case "own":
    case "close":
      return above(asked, "local");
    case "step":
      return {
        ...asked,
        verify: asked.verify === null ? null : above(asked.verify, "local"),
        sign: asked.sign === null ? null : above(asked.sign, "remote"),
      };
  }
}

Deno.test("over any history: one content a number, one number after the other, no secret before its successor, nothing revoked is signed", () => {
  let released = 0;
  let broadcast = 0;
  fc.assert(
    fc.property(
      fc.array(fc.oneof({ weight: 12, arbitrary: STEP }, { weight: 1, arbitrary: RARE }), {
        minLength: 40,
        maxLength: 80,
      }),
      (history) => {
        const { memory, ref } = locked();
        const contents = new Map([["local/0", 0x10], ["remote/0", 0x20]]);
        const newest = { local: 0, remote: 0 };
        let epoch = 1;
        let frozen = false;
        let closing = false;
        let highestReleased = -1n;
        const fix = (side: "local" | "remote", number: number, content: number) => {
          const slot = `${side}/${number}`;
          assert.equal(contents.get(slot) ?? content, content);
          contents.set(slot, content);
          assert(
            number === newest[side] || number === newest[side] + 1,
            `${side} ${number} after ${newest[side]}`,
          );
          if (number > newest[side]) assert.equal(closing, false);
          newest[side] = number;
        };
        for (const relative of history) {
          const asked = absolute(relative, newest);
          const caller = { ...ref, epoch: BigInt(asked.epoch) };
          // Commitments 0 have names of their own.
          const named = (number: number, content: number, first: number) => number === 0 ? first : content;
          if (asked.type === "register") {
            const decision = registerEpoch(memory, caller);
            if (decision.ok) {
              remember(memory, decision.value);
              epoch = asked.epoch;
            }
            continue;
          }
          if (asked.type === "step") {
            const local = asked.verify === null ? null : {
              number: BigInt(asked.verify.number),
              content: bytes(named(asked.verify.number, asked.verify.content, 0x10)),
              signaturesGood: asked.verify.good,
            };
            const remote = asked.sign === null ? null : {
              number: BigInt(asked.sign.number),
              content: bytes(named(asked.sign.number, asked.sign.content, 0x20)),
            };
            const outpoint = asked.other ? { txid: bytes(2), vout: 0 } : OUT;
            const { mirrored, revoke } = asked;
            const before = memory.highWater;
            const outcome = take(
              memory,
              caller,
              facts({ outpoint, verify: local, sign: remote, mirrored }, revoke),
            );
            if (typeof outcome === "string") {
              assert.equal(memory.highWater, before);
              continue;
            }
            assert.equal(asked.epoch, epoch);
            assert.deepEqual([frozen, asked.other, mirrored], [false, false, true]);
            if (asked.verify !== null) {
              assert(asked.verify.good);
              fix("local", asked.verify.number, named(asked.verify.number, asked.verify.content, 0x10));
            }
            if (asked.sign !== null) {
              fix("remote", asked.sign.number, named(asked.sign.number, asked.sign.content, 0x20));
            }
            assert.equal(outcome !== null, revoke);
            if (outcome !== null) {
              released++;
              // Its successor was verified, and is the newest: nothing that is still needed is revoked.
              assert.equal(outcome, BigInt(newest.local) - 1n);
              highestReleased = outcome;
            }
            continue;
          }
          const content = named(asked.number, asked.content, 0x10);
          const own = {
            outpoint: OUT,
            number: BigInt(asked.number),
            content: bytes(content),
            signatureGood: true,
          };
          const decision = asked.type === "own"
            ? signOwnCommitment(memory, caller, TERMS, own)
            : signClosing(memory, caller, TERMS, own);
          if (!decision.ok) continue;
          remember(memory, decision.value);
          assert.equal(asked.number, newest.local);
          assert.equal(contents.get(`local/${asked.number}`), content);
          assert(own.number > highestReleased);
          if (asked.type === "close") {
            assert.deepEqual([frozen, asked.epoch], [false, epoch]);
            closing = true;
          } else {
            broadcast++;
            if (!frozen) assert.equal(asked.epoch, epoch);
            frozen = true;
          }
        }
      },
    ),
    { numRuns: 500 },
  );
  assert(released > 100 && broadcast > 20, `${released} secrets, ${broadcast} broadcasts`);
});

/** The memory after its database named what it expects of it, and a person said yes. */
function accepted(memory: Memory, expectedMemoryId: Uint8Array, expectedHighWater: bigint): Memory {
  const request = { databaseId: DATABASE, expectedMemoryId, expectedHighWater };
  done(memory, bindDatabase(memory, MEMORY_ID, request));
  assert.notEqual(memory.distrust, null);
  return memory;
}

function accept(memory: Memory): void {
  done(memory, acceptMemory(memory, ACCEPT_CONFIRMATION));
}

Deno.test("a mark that would leave no numbers for records to come is refused", () => {
  const memory = emptyMemory();
  const request = { databaseId: DATABASE, expectedMemoryId: bytes(9).slice(0, 16) };
  const bound = (expectedHighWater: bigint) =>
    bindDatabase(memory, MEMORY_ID, { ...request, expectedHighWater });
  const refused = bound((1n << 64n) - 1n);
  assert.equal(refused.ok ? null : refused.error.reason, "BAD_REQUEST");
  done(memory, bound(MAX_HIGH_WATER));
});

Deno.test("a lost memory that was accepted takes one step of each side from the database's word, then its own", () => {
  const memory = accepted(emptyMemory(), new Uint8Array(16).fill(9), 50n);
  const ref = { channelKeyId: bytes(0xaa), epoch: 3n };
  const step = facts({ verify: verify(57n, 0x31), sign: { number: 60n, content: bytes(0x32) } }, true);
  assert.equal(take(memory, ref, step), "MEMORY_LOST");
  accept(memory);
  assert.equal(take(memory, ref, step), "UNKNOWN_CHANNEL");
  done(memory, registerEpoch(memory, ref));
  assert.equal(
    take(memory, ref, facts({ verify: { ...verify(57n, 0x31), signaturesGood: false } }, true)),
    "BAD_SIGNATURE",
  );
  assert.equal(take(memory, ref, step), 56n);
  assert.equal(take(memory, ref, step), 56n);
  for (
    const [number, reason] of [[56n, "REVOKED"], [57n, "CONTENT_CONFLICT"], [59n, "NOT_LOCKED"]] as const
  ) {
    assert.equal(take(memory, ref, facts({ verify: verify(number, 0x33) }, true)), reason);
  }
  assert.equal(take(memory, ref, facts({ sign: { number: 62n, content: bytes(0x33) } })), "NOT_LOCKED");
  assert.equal(take(memory, ref, { ...step, terms: bytes(1) }), "CONTENT_CONFLICT");
  const other = { txid: bytes(2), vout: 0 };
  assert.equal(
    take(memory, ref, facts({ outpoint: other, sign: { number: 61n, content: bytes(3) } })),
    "REVOKED",
  );
  assert.equal(take(memory, ref, facts({ verify: verify(58n, 0x33) }, true)), 57n);
});

Deno.test("a memory that was rolled back and accepted may be jumped once, forward only", () => {
  const { memory, ref } = locked();
  assert.equal(take(memory, ref, facts({ verify: verify(1n, 0x31) }, true)), 0n);
  accepted(memory, MEMORY_ID, 500n);
  const ahead = facts({ verify: verify(9n, 0x39) }, true);
  assert.equal(take(memory, ref, ahead), "MEMORY_ROLLED_BACK");
  accept(memory);
  // What it does know stays known.
  assert.equal(take(memory, ref, facts({ verify: verify(1n, 0x32) }, true)), "CONTENT_CONFLICT");
  assert.equal(take(memory, ref, facts({ verify: verify(0n, 0x10) })), "REVOKED");
  assert.equal(take(memory, ref, ahead), 8n);
  assert.equal(take(memory, ref, facts({ verify: verify(11n, 0x31) }, true)), "NOT_LOCKED");
  assert.equal(take(memory, ref, facts({ sign: { number: 9n, content: bytes(0x40) } })), null);
  assert.equal(take(memory, ref, facts({ sign: { number: 11n, content: bytes(0x40) } })), "NOT_LOCKED");
  // A channel that is drawn later owes nothing to that word.
  const outpoint = { txid: bytes(3), vout: 0 };
  const later = locked(memory, 0xbb, outpoint);
  assert.equal(take(memory, later.ref, facts({ outpoint, verify: verify(2n, 0x31) }, true)), "NOT_LOCKED");
});

Deno.test("after such a word our own commitment can be broadcast, and a close signed", () => {
  for (const sign of [signClosing, signOwnCommitment]) {
    const memory = accepted(emptyMemory(), new Uint8Array(16).fill(9), 50n);
    accept(memory);
    const ref = { channelKeyId: bytes(0xaa), epoch: 3n };
    done(memory, registerEpoch(memory, ref));
    const own = { outpoint: OUT, number: 7n, content: bytes(0x31), signatureGood: true };
    done(memory, sign(memory, ref, TERMS, own));
    const next = sign(memory, ref, TERMS, { ...own, number: 8n });
    assert.deepEqual(next.ok ? null : next.error.reason, "BAD_SIGNATURE");
  }
});
