import assert from "node:assert/strict";
import { bytesToHex } from "@noble/hashes/utils.js";
import fc from "fast-check";
import { DEFAULT_LIMITS, HELD_FRAME_OVERHEAD } from "../limits.ts";
import { type AttachmentId, type AttachStart, Demux, type DemuxAction } from "./demux.ts";

const LIMITS = { ...DEFAULT_LIMITS, creditFrames: 3, maxHeldFramesPerChannel: 1000 };

function id(byte: number): Uint8Array {
  return new Uint8Array(32).fill(byte);
}

function numbers() {
  let [spoke, attachment] = [0n, 0];
  return { nextSpokeId: () => ++spoke, nextAttachment: () => ++attachment };
}

function order(channelId: Uint8Array, epoch: bigint, spokeId = 0n) {
  return { channelId, epoch, address: "subd", token: new Uint8Array(32), subdInstance: "i", spokeId };
}

function frame(channelId: Uint8Array, mark: number) {
  return { channelId, messageType: 70, data: Uint8Array.of(0, 70, mark), error: "", soft: false };
}

function only<T extends DemuxAction["type"]>(actions: readonly DemuxAction[], type: T) {
  return actions.filter((action): action is Extract<DemuxAction, { type: T }> => action.type === type);
}

function dialled(actions: readonly DemuxAction[]): AttachStart {
  const [dial] = only(actions, "dial");
  assert.ok(dial);
  return dial.start;
}

Deno.test("demux: nothing of an older epoch is given to the socket once a newer one is heard of", () => {
  const demux = new Demux(LIMITS, numbers());
  const old = dialled(demux.attach(order(id(1), 1n))).attachment;
  demux.attached(old);
  demux.outbound(old, 1n, [Uint8Array.of(0, 1), Uint8Array.of(0, 2), Uint8Array.of(0, 3)], false, 0);
  assert.equal(demux.nextGroup()?.lastOutSeq, 1n);
  const actions = demux.attach(order(id(1), 2n));
  assert.deepEqual(only(actions, "cut").map((cut) => cut.attachment), [old]);
  assert.equal(only(actions, "ended")[0]?.reason, "superseded");
  assert.equal(dialled(actions).writtenOutSeq, 1n);
  assert.equal(demux.nextGroup(), undefined);
  assert.equal(demux.queuedBytes, 0);
  // What the old stream still says is nobody's.
  assert.deepEqual(demux.outbound(old, 2n, [Uint8Array.of(0, 9)], false, 0), []);
  assert.deepEqual(demux.durable(old, 1n, 0), []);
  assert.deepEqual(demux.lost(old, "", 0), []);
});

Deno.test("demux: lightningd's own messages survive a change of owner, in their order", () => {
  const demux = new Demux(LIMITS, numbers());
  const old = dialled(demux.attach(order(id(1), 1n))).attachment;
  demux.attached(old);
  demux.outbound(old, 1n, [Uint8Array.of(0, 1)], false, 0);
  demux.finalMessages(0n, id(1), [Uint8Array.of(0, 9)]);
  demux.attach(order(id(1), 2n));
  assert.deepEqual(demux.nextGroup()?.frames, [Uint8Array.of(0, 9)]);
  assert.equal(demux.nextGroup(), undefined);
});

Deno.test("demux: what a lost owner asked for before is still written", () => {
  const demux = new Demux(LIMITS, numbers());
  const owner = dialled(demux.attach(order(id(1), 1n))).attachment;
  demux.attached(owner);
  demux.outbound(owner, 1n, [Uint8Array.of(0, 1)], false, 0);
  demux.lost(owner, "died", 0);
  assert.equal(demux.nextGroup()?.lastOutSeq, 1n);
});

Deno.test("demux: a subd that breaks the contract loses its attachment, a gap also the connection", () => {
  const fresh = () => {
    const demux = new Demux(LIMITS, numbers());
    const { attachment } = dialled(demux.attach(order(id(1), 1n)));
    return { demux, attachment };
  };
  const lost = (actions: readonly DemuxAction[]) => {
    assert.equal(only(actions, "cut").length, 1);
    assert.equal(only(actions, "ended")[0]?.reason, "subd_lost");
    return only(actions, "hang_up").length;
  };
  const message = Uint8Array.of(0, 1);
  const early = fresh();
  assert.equal(lost(early.demux.outbound(early.attachment, 1n, [message], false, 0)), 0);
  const attached = () => {
    const one = fresh();
    one.demux.attached(one.attachment);
    return one;
  };
  const gap = attached();
  assert.equal(lost(gap.demux.outbound(gap.attachment, 2n, [message], false, 0)), 1);
  const zero = attached();
  assert.equal(lost(zero.demux.outbound(zero.attachment, 0n, [message], false, 0)), 1);
  const short = attached();
  assert.equal(lost(short.demux.outbound(short.attachment, 1n, [Uint8Array.of(1)], false, 0)), 0);
  const long = attached();
  assert.equal(lost(long.demux.outbound(long.attachment, 1n, [new Uint8Array(65_536)], false, 0)), 0);
  const batch = attached();
  const many = Array.from({ length: LIMITS.maxContiguousFrames + 1 }, () => message);
  assert.equal(lost(batch.demux.outbound(batch.attachment, 1n, many, true, 0)), 0);
  const taken = attached();
  assert.equal(lost(taken.demux.taken(taken.attachment, 1n, 0)), 0);
});

Deno.test("demux: a spoke is asked once, restated in full, and answered once", () => {
  const demux = new Demux(LIMITS, numbers());
  const [spoke] = only(demux.frame(frame(id(1), 1), 0), "spoke");
  assert.equal(spoke?.spoke.spokeId, 1n);
  assert.deepEqual(demux.frame(frame(id(1), 2), 0), []);
  assert.deepEqual(demux.restateSpokes(1_000).map(({ spokeId }) => spokeId), [1n]);
  // Its time began anew.
  assert.deepEqual(demux.tick(LIMITS.spokeDeadline + 999), []);
  assert.equal(only(demux.tick(LIMITS.spokeDeadline + 1_000), "hang_up").length, 1);
  assert.equal(demux.spokeWait(1n, 50_000), true);
  assert.deepEqual(demux.tick(50_000 + LIMITS.spokeWaitDeadline - 1), []);
  const start = dialled(demux.attach(order(id(1), 1n, 1n)));
  assert.equal(start.nextInSeq, 1n);
  assert.equal(demux.openSpokes, 0);
  assert.deepEqual(demux.tick(1e12), []);
  assert.deepEqual(demux.spokeDrop(1n, 0), []);
  assert.deepEqual(demux.finalMessages(1n, id(1), [Uint8Array.of(0, 1)]), []);
});

Deno.test("demux: an attach that names a spoke of another channel is refused", () => {
  const demux = new Demux(LIMITS, numbers());
  demux.frame(frame(id(1), 1), 0);
  const [ended] = only(demux.attach(order(id(2), 1n, 1n)), "ended");
  assert.equal(ended?.reason, "refused");
  assert.equal(demux.openSpokes, 1);
});

Deno.test("demux: ids that a peer invents cost nothing once they are answered, and are bounded before", () => {
  const demux = new Demux({ ...LIMITS, maxChannelsPerConnection: 10 }, numbers());
  for (let round = 1; round <= 100; round++) {
    demux.frame(frame(id(round), 0), 0);
    assert.deepEqual(demux.spokeDrop(BigInt(round), 0), []);
  }
  assert.equal(demux.heldBytes, 0);
  for (let i = 1; i <= 10; i++) assert.equal(only(demux.frame(frame(id(i), 0), 0), "spoke").length, 1);
  assert.equal(only(demux.frame(frame(id(11), 0), 0), "hang_up").length, 1);
});

Deno.test("demux: a drop forgets the message that was asked about, and what came behind it is asked about anew", () => {
  const demux = new Demux(LIMITS, numbers());
  const [first] = only(demux.frame(frame(id(1), 1), 0), "spoke");
  assert.deepEqual(demux.frame(frame(id(1), 2), 0), []);
  const [second] = only(demux.spokeDrop(first!.spoke.spokeId, 0), "spoke");
  assert.notEqual(second?.spoke.spokeId, first?.spoke.spokeId);
  assert.deepEqual(demux.spokeDrop(second!.spoke.spokeId, 0), []);
  assert.equal(demux.heldBytes, 0);
  assert.equal(demux.openSpokes, 0);
});

Deno.test("demux: after draining began nothing is taken of the peer, but subds may still write", () => {
  const demux = new Demux(LIMITS, numbers());
  const owner = dialled(demux.attach(order(id(1), 1n))).attachment;
  demux.attached(owner);
  demux.frame(frame(id(2), 1), 0);
  assert.deepEqual(only(demux.drain("bye"), "peer_gone").map(({ attachment }) => attachment), [owner]);
  assert.deepEqual(demux.frame(frame(id(1), 1), 0), []);
  assert.deepEqual(demux.tick(1e12), []);
  assert.equal(only(demux.attach(order(id(3), 1n)), "ended")[0]?.reason, "refused");
  demux.outbound(owner, 1n, [Uint8Array.of(0, 1)], false, 0);
  assert.equal(demux.nextGroup()?.lastOutSeq, 1n);
  assert.deepEqual(demux.drain("again"), []);
  assert.equal(only(demux.gone("over"), "ended")[0]?.reason, "peer_gone");
  assert.equal(demux.attachmentCount, 0);
});

Deno.test("demux: a stream that ends because its peer is gone is not a lost subd", () => {
  const demux = new Demux(LIMITS, numbers());
  const told = dialled(demux.attach(order(id(1), 1n))).attachment;
  demux.attached(told);
  demux.drain("bye");
  assert.equal(only(demux.lost(told, "the subd ended the stream", 0), "ended")[0]?.reason, "peer_gone");
});

/** What the test itself knows of one channel. */
interface Model {
  epoch: bigint;
  attachment: AttachmentId | undefined;
  attached: boolean;
  /** Owner's own counters. */
  nextOut: bigint;
  lastDelivered: bigint;
  taken: bigint;
  /** By any owner. */
  takenEver: bigint;
  durable: bigint;
  /** in_seqs that arrived. */
  arrived: bigint;
  writtenOut: bigint;
  spoke: bigint | undefined;
}

type Step =
  | {
    readonly type: "frame" | "accept" | "die" | "finish" | "write" | "taken" | "durable";
    readonly channel: number;
  }
  | { readonly type: "attach"; readonly channel: number; readonly raise: number }
  | { readonly type: "send"; readonly channel: number; readonly count: number; readonly contiguous: boolean };

const channelOf = fc.integer({ min: 1, max: 3 });
const stepOf: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    type: fc.constantFrom("frame", "frame", "accept", "write", "taken", "durable", "die", "finish"),
    channel: channelOf,
  }),
  fc.record({ type: fc.constant("attach"), channel: channelOf, raise: fc.integer({ min: -1, max: 2 }) }),
  fc.record({
    type: fc.constant("send"),
    channel: channelOf,
    count: fc.integer({ min: 1, max: 4 }),
    contiguous: fc.boolean(),
  }),
);

Deno.test("demux: whatever owners, peer and lightningd do, the fence holds", () => {
  fc.assert(
    fc.property(fc.array(stepOf, { maxLength: 120, size: "max" }), (steps) => {
      const demux = new Demux(LIMITS, numbers());
      const models = new Map<number, Model>();
      for (const channel of [1, 2, 3]) {
        models.set(channel, {
          epoch: -1n,
          attachment: undefined,
          attached: false,
          nextOut: 1n,
          lastDelivered: 0n,
          taken: 0n,
          takenEver: 0n,
          durable: 0n,
          arrived: 0n,
          writtenOut: 0n,
          spoke: undefined,
        });
      }
      const modelOf = (channelId: Uint8Array) => {
        const model = models.get(channelId[0] ?? 0);
        assert.ok(model);
        return model;
      };
      const take = (actions: readonly DemuxAction[]) => {
        for (const action of actions) {
          assert.notEqual(action.type, "hang_up");
          if (action.type === "deliver") {
            const model = [...models.values()].find(({ attachment }) => attachment === action.attachment);
            // Only to the current owner, in order, without a gap, within its credit.
            assert.ok(model?.attached);
            assert.equal(action.inSeq, model.lastDelivered + 1n);
            model.lastDelivered = action.inSeq;
            assert.ok(action.inSeq <= model.arrived);
            assert.ok(action.inSeq - model.taken <= BigInt(LIMITS.creditFrames));
          }
          if (action.type === "spoke") {
            const model = modelOf(action.spoke.channelId);
            assert.equal(model.attachment, undefined);
            assert.equal(model.spoke, undefined);
            model.spoke = action.spoke.spokeId;
          }
          if (action.type === "ended" && action.reason !== "refused") {
            const model = modelOf(action.channelId);
            model.attachment = undefined;
            model.attached = false;
          }
        }
      };
      for (const step of steps) {
        const channelId = id(step.channel);
        const model = modelOf(channelId);
        const owner = model.attachment;
        switch (step.type) {
          case "frame":
            model.arrived++;
            take(demux.frame(frame(channelId, 0), 0));
            break;
          case "attach": {
            const epoch = model.epoch + BigInt(step.raise);
            if (epoch < 0n) break;
            const actions = demux.attach(order(channelId, epoch));
            take(actions);
            const [dial] = only(actions, "dial");
            if (epoch < model.epoch) {
              assert.equal(dial, undefined);
              assert.equal(only(actions, "ended")[0]?.reason, "refused");
              break;
            }
            model.spoke = undefined;
            if (dial === undefined) {
              assert.equal(epoch, model.epoch);
              assert.notEqual(owner, undefined);
              break;
            }
            assert.equal(dial.start.nextInSeq, model.durable + 1n);
            assert.equal(dial.start.writtenOutSeq, model.writtenOut);
            model.epoch = epoch;
            model.attachment = dial.start.attachment;
            model.attached = false;
            model.nextOut = model.writtenOut + 1n;
            model.lastDelivered = model.durable;
            model.taken = model.durable;
            break;
          }
          case "accept":
            if (owner === undefined) break;
            model.attached = true;
            take(demux.attached(owner));
            break;
          case "send": {
            if (owner === undefined || !model.attached) break;
            const data = Array.from({ length: step.count }, () => Uint8Array.of(0, step.channel));
            const first = model.nextOut;
            model.nextOut += BigInt(step.count);
            take(demux.outbound(owner, first, data, step.contiguous, 0));
            // Saying it twice changes nothing.
            take(demux.outbound(owner, first, data, step.contiguous, 0));
            break;
          }
          case "write": {
            const group = demux.nextGroup();
            if (group === undefined) {
              assert.equal(demux.queuedBytes, 0);
              break;
            }
            const written = models.get(group.frames[0]?.[1] ?? 0);
            assert.ok(written);
            // No byte of an older epoch, no number twice, none left out.
            assert.equal(group.epoch, written.epoch);
            assert.equal(group.lastOutSeq, written.writtenOut + BigInt(group.frames.length));
            written.writtenOut = group.lastOutSeq;
            take(demux.groupWritten(group));
            break;
          }
          case "taken":
            if (owner === undefined) break;
            model.taken = model.lastDelivered;
            if (model.taken > model.takenEver) model.takenEver = model.taken;
            take(demux.taken(owner, model.lastDelivered, 0));
            break;
          case "durable":
            if (owner === undefined) break;
            model.taken = model.lastDelivered;
            if (model.taken > model.takenEver) model.takenEver = model.taken;
            model.durable = model.lastDelivered;
            take(demux.durable(owner, model.lastDelivered, 0));
            break;
          case "die":
            if (owner !== undefined) take(demux.lost(owner, "", 0));
            break;
          case "finish":
            if (owner !== undefined) take(demux.finished(owner, "", 0));
            break;
        }
        // A frame that nobody took is asked about as long as nobody is there.
        let held = 0n;
        for (const each of models.values()) {
          held += each.arrived - each.durable;
          if (each.attachment !== undefined) assert.equal(each.spoke, undefined);
        }
        assert.equal(demux.heldBytes, Number(held) * (3 + HELD_FRAME_OVERHEAD));
        assert.equal(
          demux.openSpokes,
          [...models.values()].filter(({ spoke }) => spoke !== undefined).length,
        );
        assert.equal(
          demux.attachmentCount,
          [...models.values()].filter(({ attachment }) => attachment !== undefined).length,
        );
      }
      for (const model of models.values()) {
        if (model.attachment === undefined && model.arrived > model.takenEver) {
          assert.notEqual(model.spoke, undefined);
        }
      }
      demux.gone("end");
      assert.deepEqual([demux.heldBytes, demux.queuedBytes, demux.attachmentCount, demux.openSpokes], [
        0,
        0,
        0,
        0,
      ]);
    }),
    { numRuns: 500 },
  );
});

Deno.test("demux: an unknown id behind an accept_channel2 is asked about only when no open took it as its name", () => {
  const accepted = () => {
    const demux = new Demux(LIMITS, numbers());
    const owner = dialled(demux.attach(order(id(1), 1n))).attachment;
    demux.attached(owner);
    demux.frame({ ...frame(id(1), 1), messageType: 65 }, 0);
    assert.deepEqual(demux.frame(frame(id(2), 2), 0), []);
    demux.taken(owner, 1n, 0);
    return { demux, owner };
  };
  const named = accepted();
  const delivered = only(named.demux.rekey(named.owner, id(2), 0), "deliver");
  assert.deepEqual(delivered.map(({ inSeq, data }) => [inSeq, data[2]]), [[2n, 2]]);
  assert.deepEqual(named.demux.durable(named.owner, 1n, 0), []);
  const asked = (actions: readonly DemuxAction[]) =>
    only(actions, "spoke").map(({ spoke }) => spoke.channelId);
  const other = accepted();
  assert.deepEqual(asked(other.demux.durable(other.owner, 1n, 0)), [id(2)]);
  const refused = accepted();
  assert.ok(asked(refused.demux.finished(refused.owner, "", 0)).some((each) => each[0] === 2));
  const lost = accepted();
  assert.ok(asked(lost.demux.lost(lost.owner, "", 0)).some((each) => each[0] === 2));
});

Deno.test("demux: rekey merges what came early, keeps the numbers, and refuses another channel's id", () => {
  const demux = new Demux(LIMITS, numbers());
  const owner = dialled(demux.attach(order(id(1), 1n))).attachment;
  const other = dialled(demux.attach(order(id(3), 1n))).attachment;
  demux.attached(owner);
  demux.attached(other);
  demux.frame(frame(id(1), 1), 0);
  assert.equal(only(demux.frame(frame(id(2), 2), 0), "spoke").length, 1);
  const delivered = only(demux.rekey(owner, id(2), 0), "deliver");
  assert.deepEqual(delivered.map(({ inSeq, data }) => [inSeq, data[2]]), [[2n, 2]]);
  assert.equal(demux.openSpokes, 0);
  assert.deepEqual(demux.rekey(owner, id(2), 0), []);
  assert.deepEqual(
    demux.attachments().map(({ channelId }) => bytesToHex(channelId)),
    [bytesToHex(id(2)), bytesToHex(id(3))],
  );
  // Both ids name it, for the fence too.
  assert.equal(only(demux.attach(order(id(1), 0n)), "ended")[0]?.reason, "refused");
  assert.equal(only(demux.rekey(owner, id(3), 0), "ended")[0]?.reason, "subd_lost");
  assert.equal(demux.attachmentCount, 1);
});
