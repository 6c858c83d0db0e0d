import assert from "node:assert/strict";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex, concatBytes, hexToBytes } from "@noble/hashes/utils.js";
import { channelIdV1, channelIdV2, temporaryChannelIdV2 } from "bolt/keys/channel_id.ts";

const LOW = hexToBytes("02" + "ff".repeat(32));
const HIGH = hexToBytes("03" + "00".repeat(32));

Deno.test("BOLT 2 channel_id of version 2: the same from both sides, lesser basepoint first", () => {
  const expected = bytesToHex(sha256(concatBytes(LOW, HIGH)));
  assert.equal(bytesToHex(channelIdV2(LOW, HIGH)), expected);
  assert.equal(bytesToHex(channelIdV2(HIGH, LOW)), expected);
});

Deno.test("BOLT 2 channel_id of version 2: the order is that of bytes, to the last one", () => {
  const next = LOW.slice();
  next[32] = 0xfe;
  assert.deepEqual(channelIdV2(LOW, next), sha256(concatBytes(next, LOW)));
});

Deno.test("BOLT 2 temporary_channel_id: zeros stand for the unknown basepoint", () => {
  assert.deepEqual(temporaryChannelIdV2(HIGH), sha256(concatBytes(new Uint8Array(33), HIGH)));
});

Deno.test("BOLT 2 channel_id of version 1: the index is XORed into the last two bytes, big-endian", () => {
  const txid = hexToBytes("11".repeat(32));
  assert.equal(bytesToHex(channelIdV1(txid, 0)), "11".repeat(32));
  assert.equal(bytesToHex(channelIdV1(txid, 0x0102)), "11".repeat(30) + "1013");
  assert.equal(bytesToHex(txid), "11".repeat(32));
});

Deno.test("malformed arguments throw", () => {
  assert.throws(() => channelIdV2(LOW, HIGH.subarray(1)), RangeError);
  assert.throws(() => temporaryChannelIdV2(new Uint8Array(32)), RangeError);
  assert.throws(() => channelIdV1(new Uint8Array(31), 0), RangeError);
  for (const index of [-1, 65536, 0.5]) {
    assert.throws(() => channelIdV1(new Uint8Array(32), index), RangeError);
  }
});
