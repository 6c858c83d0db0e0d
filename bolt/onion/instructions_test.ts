import assert from "node:assert/strict";
import { type HopInstructions, type PayloadPlace, readInstructions } from "bolt/onion/instructions.ts";
import type { HopPayload } from "bolt/onion/payload.ts";
import { height, msat } from "bolt/units.ts";
import { shortChannelId } from "bolt/wire/short_channel_id.ts";

const MIDDLE: PayloadPlace = { last: false, withPathKey: false };
const LAST: PayloadPlace = { last: true, withPathKey: false };
const amount = { amt_to_forward: 1000n, outgoing_cltv_value: 800_000 };
const units = { amt_to_forward: msat(1000n), outgoing_cltv_value: height(800_000) };
const scid = { short_channel_id: shortChannelId(9n) };
const bytes = (value: number) => new Uint8Array(32).fill(value);
const path = new Uint8Array(33).fill(2);

function read(payload: HopPayload, place: PayloadPlace): HopInstructions {
  const instructions = readInstructions(payload, place);
  assert.ok(instructions.ok);
  return instructions.value;
}

function fault(payload: HopPayload, place: PayloadPlace): bigint {
  const instructions = readInstructions(payload, place);
  assert.ok(!instructions.ok, "instructions were read");
  assert.equal(instructions.error.type, "invalid_onion_payload");
  return instructions.error.tlv_type;
}

Deno.test("a payload in the middle forwards, the same one at the end receives", () => {
  const payload = { ...amount, ...scid };
  assert.deepEqual(read(payload, MIDDLE), { type: "forward", ...units, ...scid });
  assert.deepEqual(read(payload, LAST), { type: "receive", ...units, total_msat: msat(1000n) });
});

Deno.test("the last hop learns of the whole payment", () => {
  const payload: HopPayload = {
    ...amount,
    payment_data: { payment_secret: bytes(1), total_msat: 5000n },
    payment_metadata: bytes(2),
    keysend_preimage: bytes(3),
  };
  assert.deepEqual(read(payload, LAST), {
    type: "receive",
    ...units,
    total_msat: msat(5000n),
    payment_secret: bytes(1),
    payment_metadata: bytes(2),
    keysend_preimage: bytes(3),
  });
});

Deno.test("a missing record is named", () => {
  assert.equal(fault({ outgoing_cltv_value: 1, ...scid }, MIDDLE), 2n);
  assert.equal(fault({ amt_to_forward: 1n, ...scid }, MIDDLE), 4n);
  assert.equal(fault(amount, MIDDLE), 6n);
  assert.equal(fault({}, LAST), 2n);
});

Deno.test("amounts beyond all bitcoin and heights that are times are refused", () => {
  const tooMuch = 2_100_000_000_000_000_001n;
  assert.equal(read({ ...amount, amt_to_forward: tooMuch - 1n }, LAST).type, "receive");
  assert.equal(fault({ ...amount, amt_to_forward: tooMuch }, LAST), 2n);
  assert.equal(
    fault({ ...amount, payment_data: { payment_secret: bytes(1), total_msat: tooMuch } }, LAST),
    8n,
  );
  assert.equal(read({ ...amount, outgoing_cltv_value: 499_999_999 }, LAST).type, "receive");
  assert.equal(fault({ ...amount, outgoing_cltv_value: 500_000_000 }, LAST), 4n);
});

Deno.test("within a blinded route there is exactly one path key", () => {
  const blinded: HopPayload = { encrypted_recipient_data: bytes(5) };
  for (const last of [false, true]) {
    assert.deepEqual(read(blinded, { last, withPathKey: true }), { type: "blinded", ...blinded });
    const first: HopPayload = { ...blinded, current_path_key: path };
    assert.deepEqual(read(first, { last, withPathKey: false }), { type: "blinded", ...first });
    assert.equal(fault(first, { last, withPathKey: true }), 12n);
    assert.equal(fault(blinded, { last, withPathKey: false }), 12n);
  }
});

Deno.test("outside of one there is none", () => {
  assert.equal(fault({ ...amount, ...scid, current_path_key: path }, MIDDLE), 12n);
  assert.equal(fault({ ...amount, ...scid }, { last: false, withPathKey: true }), 10n);
});
