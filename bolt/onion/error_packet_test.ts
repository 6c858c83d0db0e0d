import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, hexToBytes } from "@noble/hashes/utils.js";
import type { AttributionData } from "bolt/onion/attribution.ts";
import {
  attribute,
  createAttributableError,
  createErrorPacket,
  MAX_REASON_LENGTH,
  MAX_REASON_WITH_ATTRIBUTION,
  obfuscate,
  relayAttributableError,
  type ReturnedError,
} from "bolt/onion/error_packet.ts";
import { decodeFailure, type FailureMessage } from "bolt/onion/failure.ts";
import { onionKey, onionStream } from "bolt/onion/keys.ts";
import { decodeMessage, encodeMessage, MAX_MESSAGE_LENGTH, type Message } from "bolt/wire/messages.ts";
import attributionVector from "tests/data/bolt04/attribution_data.json" with { type: "json" };
import vector from "tests/data/bolt04/onion_error.json" with { type: "json" };

const NODE_FAILURE: FailureMessage = { type: "temporary_node_failure" };
const failHtlc = { type: "update_fail_htlc", channel_id: new Uint8Array(32), id: 0n } as const;
const arbSecret = fc.uint8Array({ minLength: 32, maxLength: 32 });
const arbSecrets = (maxLength: number) =>
  fc.uniqueArray(arbSecret, { minLength: 1, maxLength, selector: bytesToHex });
const arbFailure: fc.Arbitrary<FailureMessage> = fc.oneof(
  fc.constant(NODE_FAILURE),
  fc.record({
    type: fc.constant<"fee_insufficient">("fee_insufficient"),
    htlc_msat: fc.bigInt(0n, (1n << 64n) - 1n),
    channel_update: fc.uint8Array({ maxLength: 400 }),
  }, { noNullPrototype: true }),
);

/** A route on which hop `at` fails. */
const arbCase = (maxHops: number) =>
  arbSecrets(maxHops).chain((secrets) =>
    fc.record({ secrets: fc.constant(secrets), at: fc.nat(secrets.length - 1), failure: arbFailure })
  );

function data({ attribution_data }: ReturnedError): string {
  assert.ok(attribution_data !== undefined);
  return bytesToHex(attribution_data.htlc_hold_times) + bytesToHex(attribution_data.truncated_hmacs);
}

/** The error of hop `at` as it comes to the origin; each hop reports its index as hold time. */
function fail(secrets: readonly Uint8Array[], at: number, failure: FailureMessage): ReturnedError {
  let error = createAttributableError(secrets[at]!, failure, at);
  for (let hop = at - 1; hop >= 0; hop--) error = relayAttributableError(secrets[hop]!, error, hop);
  return error;
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

Deno.test("BOLT 4, onion error test vector", () => {
  const secrets = vector.hops.map((hop) => hexToBytes(hop.shared_secret));
  for (const [i, hop] of vector.hops.entries()) {
    assert.equal(bytesToHex(onionKey("ammag", secrets[i]!)), hop.ammag_key);
  }
  assert.equal(bytesToHex(onionKey("um", secrets[4]!)), vector.um_key);
  let packet = createErrorPacket(secrets[4]!, NODE_FAILURE);
  const stream = onionStream(onionKey("ammag", secrets[4]!), packet.length);
  const plain = packet.map((byte, i) => byte ^ stream[i]!);
  assert.equal(bytesToHex(plain.subarray(32)), vector.payload);
  for (const secret of secrets.slice(0, 4).reverse()) packet = obfuscate(secret, packet);
  assert.equal(bytesToHex(packet), vector.error_packet);
  assert.deepEqual(attribute(packet, secrets), {
    type: "attributed",
    hop: 4,
    failureCode: 0x2002,
    failure: NODE_FAILURE,
    raw: hexToBytes(vector.failure_message),
    holdTimes: [],
  });
});

Deno.test("BOLT 4, Returning Errors: error and attribution data at every hop", () => {
  const { steps, message } = attributionVector.failure;
  const failure = decodeFailure(hexToBytes(message));
  assert.ok(failure.ok);
  // The vector's message ends in a TLV record that we would not write.
  const written: FailureMessage = {
    type: "unknown_failure",
    failure_code: 0x400f,
    data: hexToBytes(message).subarray(2),
  };
  let error: ReturnedError | undefined;
  for (const step of steps) {
    const secret = hexToBytes(step.shared_secret);
    error = error === undefined
      ? createAttributableError(secret, written, step.hold_time, 1024)
      : relayAttributableError(secret, error, step.hold_time);
    assert.equal(bytesToHex(error.reason), step.error_packet, `error of hop ${step.hop}`);
    assert.equal(data(error), step.attribution_data, `attribution data of hop ${step.hop}`);
  }
  const secrets = steps.map((step) => hexToBytes(step.shared_secret)).reverse();
  assert.ok(error !== undefined);
  const origin = attribute(error.reason, secrets, error.attribution_data);
  assert.ok(origin.type === "attributed");
  assert.equal(origin.hop, 4);
  assert.deepEqual(origin.failure, failure.value);
  assert.equal(bytesToHex(origin.raw), message);
  assert.deepEqual(origin.holdTimes, [5, 4, 3, 2, 1]);
});

Deno.test("an error of any hop is attributed to that hop, with the hold times up to it", () => {
  fc.assert(
    fc.property(arbCase(20), ({ secrets, at, failure }) => {
      const error = fail(secrets, at, failure);
      const origin = attribute(error.reason, secrets, error.attribution_data);
      assert.ok(origin.type === "attributed");
      assert.equal(origin.hop, at);
      assert.deepEqual(origin.failure, failure);
      assert.deepEqual(origin.holdTimes, upTo(at + 1));
    }),
    { numRuns: 60 },
  );
});

Deno.test("a route of more hops than attribution data has room for: the first 20 report", () => {
  fc.assert(
    fc.property(arbCase(27), ({ secrets, at, failure }) => {
      const error = fail(secrets, at, failure);
      const origin = attribute(error.reason, secrets, error.attribution_data);
      assert.ok(origin.type === "attributed");
      assert.equal(origin.hop, at);
      assert.deepEqual(origin.holdTimes, upTo(Math.min(at + 1, 20)));
    }),
    { numRuns: 40 },
  );
});

Deno.test("an error without attribution data is attributed too", () => {
  fc.assert(
    fc.property(arbCase(27), ({ secrets, at, failure }) => {
      let packet = createErrorPacket(secrets[at]!, failure);
      for (let hop = at - 1; hop >= 0; hop--) packet = obfuscate(secrets[hop]!, packet);
      const origin = attribute(packet, secrets);
      assert.ok(origin.type === "attributed");
      assert.equal(origin.hop, at);
      assert.deepEqual(origin.failure, failure);
      assert.deepEqual(origin.holdTimes, []);
    }),
    { numRuns: 40 },
  );
});

Deno.test("an error that a hop changes is unreadable, and the blame falls on that hop or the one before it", () => {
  const arbTamper = arbSecrets(20).filter((secrets) => secrets.length >= 2).chain((secrets) =>
    fc.record({
      secrets: fc.constant(secrets),
      tamperer: fc.nat(secrets.length - 2),
      byte: fc.nat(291),
      mask: fc.integer({ min: 1, max: 255 }),
    })
  );
  fc.assert(
    fc.property(arbTamper, ({ secrets, tamperer, byte, mask }) => {
      const last = secrets.length - 1;
      let error = createAttributableError(secrets[last]!, NODE_FAILURE, last);
      for (let hop = last - 1; hop >= 0; hop--) {
        if (hop === tamperer) error.reason[byte]! ^= mask;
        error = relayAttributableError(secrets[hop]!, error, hop);
      }
      // It reports its own part of the changed error honestly, so the next hop is the first that does not fit.
      assert.deepEqual(attribute(error.reason, secrets, error.attribution_data), {
        type: "unreadable",
        blamedHop: tamperer + 1,
        holdTimes: upTo(tamperer + 1),
      });
    }),
    { numRuns: 60 },
  );
});

Deno.test("a hop that takes no part ends the attribution, not the error", () => {
  const secrets = upTo(5).map((i) => new Uint8Array(32).fill(i + 1));
  let error = createAttributableError(secrets[4]!, NODE_FAILURE, 4);
  error = relayAttributableError(secrets[3]!, error, 3);
  error = { reason: obfuscate(secrets[2]!, error.reason) };
  error = relayAttributableError(secrets[1]!, error, 1);
  error = relayAttributableError(secrets[0]!, error, 0);
  const origin = attribute(error.reason, secrets, error.attribution_data);
  assert.ok(origin.type === "attributed");
  assert.equal(origin.hop, 4);
  assert.deepEqual(origin.holdTimes, [0, 1]);
});

Deno.test("the last hop that sends noise is blamed itself", () => {
  const secrets = upTo(3).map((i) => new Uint8Array(32).fill(i + 1));
  let error = relayAttributableError(secrets[2]!, { reason: new Uint8Array(292).fill(9) }, 2);
  error = relayAttributableError(secrets[1]!, error, 1);
  error = relayAttributableError(secrets[0]!, error, 0);
  assert.deepEqual(attribute(error.reason, secrets, error.attribution_data), {
    type: "unreadable",
    blamedHop: 2,
    holdTimes: [0, 1, 2],
  });
});

Deno.test("garbage of any length is unreadable and never thrown at", () => {
  const arbAttribution: fc.Arbitrary<AttributionData | undefined> = fc.option(
    fc.record({
      htlc_hold_times: fc.uint8Array({ minLength: 80, maxLength: 80 }),
      truncated_hmacs: fc.uint8Array({ minLength: 840, maxLength: 840 }),
    }),
    { nil: undefined },
  );
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 400 }),
      arbSecrets(27),
      arbAttribution,
      (packet, secrets, garbage) => {
        const passedOn = relayAttributableError(
          secrets[0]!,
          { reason: packet, attribution_data: garbage },
          7,
        );
        assert.equal(passedOn.reason.length, packet.length);
        assert.deepEqual(attribute(passedOn.reason, secrets.slice(1)).type, "unreadable");
        const origin = attribute(passedOn.reason, secrets, passedOn.attribution_data);
        assert.ok(origin.type === "unreadable");
        assert.deepEqual(origin.holdTimes, [7]);
        assert.equal(origin.blamedHop, Math.min(1, secrets.length - 1));
      },
    ),
    { numRuns: 60 },
  );
  assert.deepEqual(attribute(new Uint8Array(0), [], undefined), {
    type: "unreadable",
    blamedHop: null,
    holdTimes: [],
  });
});

Deno.test("an error that no hop of the route made has no author, even under the constant keys behind it", () => {
  const forged = createErrorPacket(new Uint8Array(32), NODE_FAILURE);
  const secret = new Uint8Array(32).fill(1);
  assert.equal(attribute(obfuscate(secret, forged), [secret]).type, "unreadable");
});

Deno.test("an authentic message that is no failure still names its hop", () => {
  const secret = new Uint8Array(32).fill(1);
  const short: FailureMessage = { type: "unknown_failure", failure_code: 0x100c, data: new Uint8Array(3) };
  const origin = attribute(createErrorPacket(secret, short), [secret]);
  assert.deepEqual(origin, {
    type: "attributed",
    hop: 0,
    failureCode: 0x100c,
    failure: null,
    raw: hexToBytes("100c000000"),
    holdTimes: [],
  });
});

Deno.test("lengths: padded to 256, longer failures as they are, and nothing that fits no message", () => {
  const secret = new Uint8Array(32).fill(1);
  const overhead = 32 + 2 + 2;
  const failure = (length: number): FailureMessage => ({
    type: "unknown_failure",
    failure_code: 1,
    data: new Uint8Array(length - 2),
  });
  assert.equal(createErrorPacket(secret, failure(2)).length, 256 + overhead);
  assert.equal(createErrorPacket(secret, failure(256)).length, 256 + overhead);
  assert.equal(createErrorPacket(secret, failure(257)).length, 257 + overhead);
  const longest = createErrorPacket(secret, failure(MAX_REASON_LENGTH - overhead));
  assert.equal(longest.length, MAX_REASON_LENGTH);
  assert.equal(encodeMessage({ ...failHtlc, reason: longest }).length, MAX_MESSAGE_LENGTH);
  assert.throws(() => createErrorPacket(secret, failure(MAX_REASON_LENGTH + 1 - overhead)), RangeError);
});

Deno.test("an error goes into its message as it is, and attribution data are left out where they do not fit", () => {
  const secret = new Uint8Array(32).fill(1);
  const longest = relayAttributableError(secret, { reason: new Uint8Array(MAX_REASON_WITH_ATTRIBUTION) }, 1);
  const message: Message = { ...failHtlc, ...longest };
  const bytes = encodeMessage(message);
  assert.equal(bytes.length, MAX_MESSAGE_LENGTH);
  assert.deepEqual(decodeMessage(bytes), { ok: true, value: message });
  const longer = relayAttributableError(
    secret,
    { reason: new Uint8Array(MAX_REASON_WITH_ATTRIBUTION + 1) },
    1,
  );
  assert.equal(longer.attribution_data, undefined);
});
