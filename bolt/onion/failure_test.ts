import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import {
  decodeFailure,
  encodeFailure,
  failureCode,
  type FailureMessage,
  failureOfMalformed,
} from "bolt/onion/failure.ts";
import { BADONION, FAILURE_CODES } from "bolt/onion/failure_codes.ts";

const onionHash = new Uint8Array(32).fill(0xab);
const hash = "ab".repeat(32);
const update = Uint8Array.of(1, 2, 3);

/** Every failure, by the bytes that BOLT 4's table asks for. */
const LAYOUTS: readonly (readonly [FailureMessage, string])[] = [
  [{ type: "temporary_node_failure" }, "2002"],
  [{ type: "permanent_node_failure" }, "6002"],
  [{ type: "required_node_feature_missing" }, "6003"],
  [{ type: "invalid_onion_version", sha256_of_onion: onionHash }, "c004" + hash],
  [{ type: "invalid_onion_hmac", sha256_of_onion: onionHash }, "c005" + hash],
  [{ type: "invalid_onion_key", sha256_of_onion: onionHash }, "c006" + hash],
  [{ type: "temporary_channel_failure", channel_update: update }, "10070003010203"],
  [{ type: "temporary_channel_failure", channel_update: new Uint8Array(0) }, "10070000"],
  [{ type: "permanent_channel_failure" }, "4008"],
  [{ type: "required_channel_feature_missing" }, "4009"],
  [{ type: "unknown_next_peer" }, "400a"],
  [
    { type: "amount_below_minimum", htlc_msat: 5000n, channel_update: update },
    "100b00000000000013880003010203",
  ],
  [{ type: "fee_insufficient", htlc_msat: 5000n, channel_update: update }, "100c00000000000013880003010203"],
  [{ type: "incorrect_cltv_expiry", cltv_expiry: 800_000, channel_update: update }, "100d000c35000003010203"],
  [{ type: "expiry_too_soon", channel_update: update }, "100e0003010203"],
  [
    { type: "incorrect_or_unknown_payment_details", htlc_msat: 100n, height: 800_000 },
    "400f0000000000000064000c3500",
  ],
  [{ type: "final_incorrect_cltv_expiry", cltv_expiry: 800_000 }, "0012000c3500"],
  [{ type: "final_incorrect_htlc_amount", incoming_htlc_amt: 100n }, "00130000000000000064"],
  [{ type: "channel_disabled", disabled_flags: 0, channel_update: update }, "101400000003010203"],
  [{ type: "expiry_too_far" }, "0015"],
  [{ type: "invalid_onion_payload", tlv_type: 5482373484n, offset: 258 }, "4016ff0000000146c6616c0102"],
  [{ type: "mpp_timeout" }, "0017"],
  [{ type: "invalid_onion_blinding", sha256_of_onion: onionHash }, "c018" + hash],
  [{ type: "unknown_failure", failure_code: 0x4fff, data: update }, "4fff010203"],
];

Deno.test("BOLT 4, Failure Messages: every failure as it is written and read", () => {
  const seen = new Set<string>();
  for (const [failure, hex] of LAYOUTS) {
    assert.equal(bytesToHex(encodeFailure(failure)), hex, failure.type);
    assert.deepEqual(decodeFailure(hexToBytes(hex)), { ok: true, value: failure });
    assert.equal(failureCode(failure), parseInt(hex.slice(0, 4), 16));
    seen.add(failure.type);
  }
  for (const name of Object.keys(FAILURE_CODES)) assert.ok(seen.has(name), `${name} is not tested`);
});

Deno.test("extra bytes behind a failure are ignored", () => {
  for (const [failure, hex] of LAYOUTS) {
    if (failure.type === "unknown_failure") continue;
    const longer = concatBytes(hexToBytes(hex), Uint8Array.of(0xfd, 1, 2));
    assert.deepEqual(decodeFailure(longer), { ok: true, value: failure });
  }
});

Deno.test("a failure that is cut has a name, and invalid_onion_payload may say nothing more", () => {
  for (const [failure, hex] of LAYOUTS) {
    const bytes = hexToBytes(hex);
    for (let length = 0; length < bytes.length; length++) {
      const cut = decodeFailure(bytes.subarray(0, length));
      if (!cut.ok) continue;
      assert.ok(failure.type === "unknown_failure" || failure.type === "invalid_onion_payload");
      assert.ok(length >= 2);
    }
  }
  assert.deepEqual(decodeFailure(hexToBytes("4016")), {
    ok: true,
    value: { type: "invalid_onion_payload", tlv_type: 0n, offset: 0 },
  });
});

Deno.test("whatever a hop says is read or named, never thrown at", () => {
  const code = fc.oneof(fc.constantFrom(...Object.values<number>(FAILURE_CODES)), fc.nat(0xffff));
  fc.assert(fc.property(code, fc.uint8Array({ maxLength: 300 }), (failure_code, data) => {
    const bytes = concatBytes(Uint8Array.of(failure_code >> 8, failure_code & 0xff), data);
    const failure = decodeFailure(bytes);
    if (failure.ok) assert.equal(failureCode(failure.value), failure_code);
    else assert.equal(failure.error.type === "truncated" || failure.error.type === "not_canonical", true);
  }));
});

Deno.test("a malformed HTLC's code and hash become our own error, and only with BADONION", () => {
  fc.assert(fc.property(fc.nat(0xffff), (failure_code) => {
    const failure = failureOfMalformed({ failure_code, sha256_of_onion: onionHash });
    if ((failure_code & BADONION) === 0) return assert.equal(failure, null);
    assert.ok(failure !== null);
    assert.equal(bytesToHex(encodeFailure(failure)), failure_code.toString(16).padStart(4, "0") + hash);
  }));
  for (
    const name of [
      "invalid_onion_version",
      "invalid_onion_hmac",
      "invalid_onion_key",
      "invalid_onion_blinding",
    ] as const
  ) {
    const message = { failure_code: FAILURE_CODES[name], sha256_of_onion: onionHash };
    assert.deepEqual(failureOfMalformed(message), { type: name, sha256_of_onion: onionHash });
  }
});
