/** The rules on memory alone: what no caller can reach yet, and properties over any history. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { OutPoint } from "bolt/tx/transaction.ts";
import { applyRecord, emptyMemory, type Memory, outpointKey } from "./memory_state.ts";
import {
  ACCEPT_CONFIRMATION,
  acceptMemory,
  type AttemptFacts,
  bindDatabase,
  type Decision,
  drawChannel,
  lockFunding,
  MAX_NAMED_OUTPUTS,
  nameDestinations,
  registerEpoch,
  signFundingAttempt,
  signOwnCommitment,
  signRemoteCommitment,
  signWalletInputs,
} from "./rules.ts";

const PEER = new Uint8Array(33).fill(2);
const TERMS = bytes(0x7e);
const MEMORY_ID = new Uint8Array(16).fill(1);
const DATABASE = new Uint8Array(16).fill(2);

function bytes(fill: number): Uint8Array {
  return new Uint8Array(32).fill(fill);
}

function outpoint(fill: number): OutPoint {
  return { txid: bytes(fill), vout: 0 };
}

/** Remembers a decision and answers "ok", "known" (nothing new), or the reason of its refusal. */
function take(memory: Memory, decision: Decision): string {
  if (!decision.ok) return decision.error.reason;
  for (const record of decision.value) applyRecord(memory, record);
  return decision.value.length === 0 ? "known" : "ok";
}

function channelAt(memory: Memory, fill: number, epoch = 1n) {
  const channelKeyId = bytes(fill);
  assert.equal(take(memory, drawChannel(memory, channelKeyId, PEER)), "ok");
  assert.equal(take(memory, registerEpoch(memory, { channelKeyId, epoch })), "ok");
  return { channelKeyId, epoch };
}

function remote(
  memory: Memory,
  ref: ReturnType<typeof channelAt>,
  out: OutPoint,
  content: number,
  number = 0n,
) {
  const commitment = { outpoint: out, number, content: bytes(content) };
  return take(memory, signRemoteCommitment(memory, ref, TERMS, commitment));
}

function facts(out: OutPoint, change: Partial<AttemptFacts> = {}): AttemptFacts {
  return {
    outpoint: out,
    localContent: bytes(0x10),
    remoteContent: bytes(0x20),
    signatureGood: true,
    destinations: [],
    fundingInputs: [outpoint(0xc0)],
    inputs: [outpoint(0xc0)],
    signInputs: true,
    ...change,
  };
}

function attempt(memory: Memory, ref: ReturnType<typeof channelAt>, asked: AttemptFacts) {
  return take(memory, signFundingAttempt(memory, ref, TERMS, asked));
}

/** Signs our commitment 0 of outpoint 1 for broadcast. */
function freeze(memory: Memory, ref: ReturnType<typeof channelAt>) {
  const own = { outpoint: outpoint(1), number: 0n, content: bytes(0x10), signatureGood: true };
  return take(memory, signOwnCommitment(memory, ref, TERMS, own));
}

/** A channel with one verified attempt at outpoint 1. */
function funded() {
  const memory = emptyMemory();
  const ref = channelAt(memory, 0xaa);
  assert.equal(remote(memory, ref, outpoint(1), 0x20), "ok");
  assert.equal(attempt(memory, ref, facts(outpoint(1))), "ok");
  return { memory, ref };
}

Deno.test("a funding outpoint that another channel signed for is refused", () => {
  const { memory } = funded();
  const other = channelAt(memory, 0xbb);
  assert.equal(remote(memory, other, outpoint(1), 0x20), "CONTENT_CONFLICT");
  assert.equal(attempt(memory, other, facts(outpoint(1))), "CONTENT_CONFLICT");
  assert.equal(remote(memory, other, outpoint(2), 0x20), "ok");
});

Deno.test("number 1 exists only for the locked outpoint, after the lock, and after 0", () => {
  const { memory, ref } = funded();
  assert.equal(remote(memory, ref, outpoint(1), 0x21, 1n), "NOT_LOCKED");
  assert.equal(take(memory, lockFunding(memory, ref, outpoint(1))), "ok");
  assert.equal(remote(memory, ref, outpoint(1), 0x22, 2n), "NOT_LOCKED");
  assert.equal(remote(memory, ref, outpoint(2), 0x21, 1n), "REVOKED");
  assert.equal(remote(memory, ref, outpoint(1), 0x21, 1n), "ok");
  assert.equal(remote(memory, ref, outpoint(1), 0x21, 1n), "known");
});

Deno.test("an older number is never signed again, not even with the same content", () => {
  const { memory, ref } = funded();
  assert.equal(take(memory, lockFunding(memory, ref, outpoint(1))), "ok");
  assert.equal(remote(memory, ref, outpoint(1), 0x21, 1n), "ok");
  assert.equal(remote(memory, ref, outpoint(1), 0x20, 0n), "REVOKED");
  assert.equal(attempt(memory, ref, facts(outpoint(1))), "REVOKED");
});

Deno.test("after our own commitment was signed for broadcast nothing follows, and that is remembered", () => {
  const { memory, ref } = funded();
  assert.equal(take(memory, lockFunding(memory, ref, outpoint(1))), "ok");
  assert.equal(freeze(memory, ref), "ok");
  assert.equal(freeze(memory, ref), "known");
  assert.equal(remote(memory, ref, outpoint(1), 0x20, 0n), "FROZEN");
  assert.equal(remote(memory, ref, outpoint(1), 0x21, 1n), "FROZEN");
  assert.equal(attempt(memory, ref, facts(outpoint(1))), "FROZEN");
  assert.equal(take(memory, lockFunding(memory, ref, outpoint(1))), "FROZEN");
});

Deno.test("the freeze needs the registered epoch", () => {
  const { memory, ref } = funded();
  assert.equal(freeze(memory, { ...ref, epoch: 2n }), "EPOCH_STALE");
});

Deno.test("our own commitment 0 has one content, too", () => {
  const { memory, ref } = funded();
  assert.equal(attempt(memory, ref, facts(outpoint(1), { localContent: bytes(0x11) })), "CONTENT_CONFLICT");
  assert.equal(attempt(memory, ref, facts(outpoint(1))), "known");
});

Deno.test("an input that a locked funding of another channel holds is not signed into a new one", () => {
  const { memory, ref } = funded();
  const other = channelAt(memory, 0xbb);
  assert.equal(remote(memory, other, outpoint(2), 0x20), "ok");
  assert.equal(take(memory, lockFunding(memory, ref, outpoint(1))), "ok");
  assert.equal(attempt(memory, other, facts(outpoint(2))), "INPUT_BOUND");
  const free = facts(outpoint(2), { fundingInputs: [outpoint(0xc1)], inputs: [outpoint(0xc1)] });
  assert.equal(attempt(memory, other, free), "ok");
});

Deno.test("each later attempt spends an input of every earlier one", () => {
  const { memory, ref } = funded();
  const inputs = (fills: number[]) => ({ fundingInputs: fills.map(outpoint), inputs: fills.map(outpoint) });
  assert.equal(remote(memory, ref, outpoint(2), 0x20), "ok");
  assert.equal(attempt(memory, ref, facts(outpoint(2), inputs([0xc0, 0xc1]))), "ok");
  assert.equal(remote(memory, ref, outpoint(3), 0x20), "ok");
  // Conflicts with the second attempt, not with the first.
  assert.equal(attempt(memory, ref, facts(outpoint(3), inputs([0xc1]))), "CONTENT_CONFLICT");
  assert.equal(attempt(memory, ref, facts(outpoint(3), inputs([0xc0]))), "ok");
});

Deno.test("epoch 0 is none, and a channel without a registered epoch is not served", () => {
  const memory = emptyMemory();
  const channelKeyId = bytes(0xaa);
  assert.equal(take(memory, drawChannel(memory, channelKeyId, PEER)), "ok");
  assert.equal(take(memory, registerEpoch(memory, { channelKeyId, epoch: 0n })), "BAD_REQUEST");
  assert.equal(remote(memory, { channelKeyId, epoch: 0n }, outpoint(1), 0x20), "EPOCH_STALE");
});

Deno.test("a channel_key_id is drawn once", () => {
  const memory = emptyMemory();
  channelAt(memory, 0xaa);
  assert.equal(take(memory, drawChannel(memory, bytes(0xaa), PEER)), "CONTENT_CONFLICT");
});

Deno.test("named outputs of a channel are bounded", () => {
  const memory = emptyMemory();
  const { channelKeyId } = channelAt(memory, 0xaa);
  const outputs = Array.from(
    { length: MAX_NAMED_OUTPUTS + 1 },
    (_, i) => ({ amount: BigInt(i), script: bytes(1) }),
  );
  assert.equal(take(memory, nameDestinations(memory, channelKeyId, outputs)), "BAD_REQUEST");
  assert.equal(take(memory, nameDestinations(memory, channelKeyId, outputs.slice(1))), "ok");
  assert.equal(take(memory, nameDestinations(memory, channelKeyId, outputs.slice(1))), "known");
  assert.equal(take(memory, nameDestinations(memory, channelKeyId, outputs)), "BAD_REQUEST");
});

/** A request of BindDatabase. */
function expecting(id: Uint8Array | null, highWater: bigint, databaseId = DATABASE) {
  return { databaseId, expectedMemoryId: id ?? new Uint8Array(0), expectedHighWater: highWater };
}

Deno.test("a memory serves the one database that it was bound to", () => {
  const memory = emptyMemory();
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(null, 0n))), "ok");
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(MEMORY_ID, 1n))), "known");
  const other = new Uint8Array(16).fill(3);
  assert.equal(
    take(memory, bindDatabase(memory, MEMORY_ID, expecting(MEMORY_ID, 1n, other))),
    "FOREIGN_DATABASE",
  );
  assert.equal(memory.distrust, null);
});

Deno.test("a memory ahead of a restored database goes on, and still refuses the old content", () => {
  const { memory, ref } = funded();
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(MEMORY_ID, 0n))), "ok");
  assert.equal(memory.distrust, null);
  assert.equal(remote(memory, ref, outpoint(1), 0x99), "CONTENT_CONFLICT");
});

Deno.test("a memory behind the database's mark signs nothing for the channels that it knows, until accepted", () => {
  const { memory, ref } = funded();
  take(memory, bindDatabase(memory, MEMORY_ID, expecting(null, 0n)));
  const mark = memory.highWater + 10n;
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(MEMORY_ID, mark))), "ok");
  // The count never passes the mark a second time unnoticed.
  assert(memory.highWater >= mark);
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(MEMORY_ID, mark))), "known");
  const reason = "MEMORY_ROLLED_BACK";
  assert.equal(remote(memory, ref, outpoint(1), 0x20), reason);
  assert.equal(attempt(memory, ref, facts(outpoint(1))), reason);
  assert.equal(take(memory, lockFunding(memory, ref, outpoint(1))), reason);
  assert.equal(take(memory, registerEpoch(memory, { ...ref, epoch: 9n })), reason);
  assert.equal(take(memory, registerEpoch(memory, { channelKeyId: bytes(0xdd), epoch: 1n })), reason);
  // A channel drawn since then has no past.
  const fresh = channelAt(memory, 0xbb);
  assert.equal(remote(memory, fresh, outpoint(2), 0x20), "ok");
  assert.equal(take(memory, acceptMemory(memory, "yes")), "BAD_REQUEST");
  assert.equal(take(memory, acceptMemory(memory, ACCEPT_CONFIRMATION)), "ok");
  assert.equal(take(memory, acceptMemory(memory, ACCEPT_CONFIRMATION)), "known");
  assert.equal(remote(memory, ref, outpoint(1), 0x20), "known");
});

Deno.test("a new memory in place of the one that the database knew is a lost memory, until accepted", () => {
  const memory = emptyMemory();
  const old = new Uint8Array(16).fill(9);
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(old, 500n))), "ok");
  const existing = { channelKeyId: bytes(0xaa), epoch: 4n };
  assert.equal(take(memory, registerEpoch(memory, existing)), "MEMORY_LOST");
  assert.equal(remote(memory, existing, outpoint(1), 0x20), "MEMORY_LOST");
  assert.equal(take(memory, acceptMemory(memory, ACCEPT_CONFIRMATION)), "ok");
  // The database goes on expecting the old id: that was forgiven.
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(old, 500n))), "known");
  assert.equal(take(memory, registerEpoch(memory, existing)), "ok");
  assert.equal(remote(memory, existing, outpoint(1), 0x20), "ok");
  // Another one was not.
  const older = new Uint8Array(16).fill(8);
  assert.equal(take(memory, bindDatabase(memory, MEMORY_ID, expecting(older, 1n))), "ok");
  assert.equal(remote(memory, existing, outpoint(1), 0x20), "MEMORY_LOST");
});

Deno.test("wallet inputs: a transaction of a funding attempt is refused whichever output funds", () => {
  const { memory } = funded();
  const spend = (fill: number, outputs: number) =>
    take(memory, signWalletInputs(memory, { txid: bytes(fill), outputs, inputs: [outpoint(0xc9)] }, false));
  assert.equal(spend(1, 3), "INPUT_BOUND");
  assert.equal(spend(2, 3), "known");
});

/** Any sequence of calls, by any caller, with any epoch. */
type Step =
  | { readonly type: "register"; readonly channel: number; readonly epoch: number }
  | {
    readonly type: "remote" | "attempt";
    readonly channel: number;
    readonly epoch: number;
    readonly out: number;
    readonly content: number;
    readonly number: number;
  }
  | { readonly type: "lock"; readonly channel: number; readonly epoch: number; readonly out: number };

const STEP: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ type: fc.constant("register"), channel: fc.nat(1), epoch: fc.nat(3) } as const),
  fc.record({
    type: fc.constantFrom("remote", "attempt"),
    channel: fc.nat(1),
    epoch: fc.nat(3),
    out: fc.nat(3),
    content: fc.nat(2),
    number: fc.nat(2),
  }),
  fc.record({ type: fc.constant("lock"), channel: fc.nat(1), epoch: fc.nat(3), out: fc.nat(3) } as const),
);

Deno.test("over any history: one content per number, numbers and epochs only rise, one lock, one channel per outpoint", () => {
  fc.assert(
    fc.property(fc.array(STEP, { maxLength: 60 }), (steps) => {
      const memory = emptyMemory();
      const refs = [channelAt(memory, 0xa0), channelAt(memory, 0xa1)];
      const signed = new Map<string, string>();
      const newest = new Map<string, number>();
      const owners = new Map<string, number>();
      const locks = new Map<number, string>();
      const epochs = [1, 1];
      for (const step of steps) {
        const ref = { ...refs[step.channel]!, epoch: BigInt(step.epoch) };
        switch (step.type) {
          case "register":
            if (take(memory, registerEpoch(memory, ref)) === "ok") {
              assert(step.epoch > epochs[step.channel]!);
              epochs[step.channel] = step.epoch;
            }
            break;
          case "remote": {
            const out = outpoint(step.out);
            const outcome = remote(memory, ref, out, step.content, BigInt(step.number));
            if (outcome !== "ok" && outcome !== "known") break;
            assert.equal(step.epoch, epochs[step.channel]);
            assert.notEqual(step.out, 0);
            const place = `${step.channel}/${step.out}`;
            const slot = `${place}/${step.number}`;
            assert.equal(signed.get(slot) ?? `${step.content}`, `${step.content}`);
            signed.set(slot, `${step.content}`);
            assert(step.number >= (newest.get(place) ?? 0));
            newest.set(place, step.number);
            assert.equal(owners.get(outpointKey(out)) ?? step.channel, step.channel);
            owners.set(outpointKey(out), step.channel);
            const locked = locks.get(step.channel);
            if (step.number > 0 || locked !== undefined) assert.equal(locked, outpointKey(out));
            break;
          }
          case "attempt": {
            const asked = facts(outpoint(step.out), { remoteContent: bytes(step.content) });
            const outcome = attempt(memory, ref, asked);
            if (outcome !== "ok" && outcome !== "known") break;
            assert.equal(signed.get(`${step.channel}/${step.out}/0`), `${step.content}`);
            assert.equal(newest.get(`${step.channel}/${step.out}`), 0);
            break;
          }
          case "lock":
            if (take(memory, lockFunding(memory, ref, outpoint(step.out))) === "ok") {
              assert.equal(locks.has(step.channel), false);
              locks.set(step.channel, outpointKey(outpoint(step.out)));
            }
            break;
        }
      }
    }),
    { numRuns: 500 },
  );
});
